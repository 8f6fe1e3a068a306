//! `frazil verify`: whether tables hold each row of a log once. Reads, never changes.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use globset::GlobBuilder;

use crate::catalog::Catalog;
use crate::catalog::listing::tables_below;
use crate::cli::flags::{Flags, ReadFiles, TableChoice, Verify};
use crate::cli::verify_lacks::Lacks;
use crate::cli::verify_report::{Report, said};
use crate::cli::{Exit, answer, compact, table, wiring, with_config};
use crate::config::kafka::Tombstones;
use crate::config::{Config, KafkaConfig, MetadataColumn, PipelineConfig, RejectsTo, SourceConfig};
use crate::env::Env;
use crate::error::{Context, Error, ErrorKind, Result};
use crate::model::ids::{MAIN, PipelineName, TableName};
use crate::model::table::TableState;
use crate::quality::quarantine::SUFFIX;
use crate::source::kafka_probe::{Gaps, Held, Probe};
use crate::storage::Storage;
use crate::verify::columns::Names;
use crate::verify::judge::{Asked, LogProof, Verdict, judge, twice, verdict};
use crate::verify::standing::{Moment, Scope, Standing, is_recorded, pipelines, positions_at};
use crate::verify::window::{Ends, Window};
use crate::verify::{Evidence, Look, Request, Subject, copies};

pub(crate) fn verify(flags: &Flags, own: &Verify) -> Result<Exit> {
    with_config(flags, &own.from, async |config| {
        let report = work(config, own).await?;
        answer(flags, &said(&report))?;
        Ok(match report.verdict {
            Verdict::Proven => Exit::Done,
            Verdict::Broken => Exit::Unequal,
            Verdict::Open => Exit::Unproven,
        })
    })
}

/// Waits between looks at tables that lack a part of an epoch which their anchor has decided.
const WAITS_MS: [u64; 4] = [500, 1_000, 2_000, 4_000];

/// What is looked at, and how its columns are called.
pub(super) struct Case<'a> {
    config: &'a Config,
    env: Env,
    catalog_name: String,
    catalog: Arc<dyn Catalog>,
    pipeline: Option<(PipelineName, &'a PipelineConfig)>,
    pub(super) branch: String,
    names: Names,
}

/// A table, and what reads it.
pub(super) struct Loaded {
    pub(super) state: TableState,
    pub(super) storage: Storage,
}

/// The tables, as they were seen one after the other.
struct Seen {
    anchor: Option<Loaded>,
    tables: Vec<Loaded>,
    lacks: Vec<Lacks>,
}

async fn work(config: &Config, own: &Verify) -> Result<Report> {
    let case = Case::of(config, own).await?;
    let Seen { anchor, tables, lacks } = case.look(own).await?;
    let standing = case.standing(own, &tables, anchor).await?;
    let notes = case.notes(own, &tables)?;
    let mut window = window(own)?;
    if let Some(since) = &own.since {
        window.from.after(&case.since(since, own, &tables).await?);
    }
    let request = Request {
        window: Arc::new(window),
        look: match own.read {
            ReadFiles::Auto => Look::Auto,
            ReadFiles::Never => Look::Never,
            ReadFiles::Always => Look::Always,
        },
        memory: compact::memory(&own.max_memory, 1)?,
    };
    let (mut rows, mut rejects) = (Evidence::default(), Evidence::default());
    for own in &tables {
        let gathered = rows.gather(case.subject(own, &case.names), &request).await;
        gathered.map_err(|error| error.within(format!("table {}", own.state.name)))?;
    }
    lacks.iter().for_each(|own| rows.not_in(&own.table, own.rows));
    let quarantine = case.rejects().await?;
    if let Some(own) = &quarantine {
        case.gather_rejects(own, &request, &mut rejects).await?;
    }
    let mut proofs = judge(&rows, &rejects, &request, &standing)?;
    if own.connect {
        case.ask(&mut proofs).await?;
    } else if case.kafka().is_some_and(|kafka| kafka.tombstones == Tombstones::Skip) {
        proofs.iter_mut().for_each(LogProof::doubt);
    }
    let twice = twice(&proofs);
    let mut copied = Vec::new();
    for own in tables.iter().filter(|_| !twice.is_empty()) {
        copied.extend(copies(case.subject(own, &case.names), &request, &twice).await?);
    }
    let stores = tables.iter().chain(&quarantine).map(|own| own.storage.counters().snapshot());
    let bytes = stores.flat_map(|counts| counts.into_values().map(|counts| counts.bytes)).sum();
    let said = verdict(&proofs, &rows, &rejects, own.allow_null);
    Ok(Report {
        tables: tables.iter().map(|own| own.state.name.to_string()).collect(),
        rejects: quarantine.map(|own| own.state.name.to_string()),
        verdict: if said == Verdict::Proven && !notes.is_empty() { Verdict::Open } else { said },
        notes,
        proofs,
        copies: copied,
        rows,
        unread_rejects: rejects.unsettled.len() as u64,
        bytes,
    })
}

/// The columns of a table of rejects that say what those of `names` do.
fn rejects_names(names: &Names) -> Names {
    let topic = names.topic.as_ref().map(|_| "origin".to_owned());
    let partition = names.partition.as_ref().map(|_| "partition".to_owned());
    Names { topic, partition, offset: "number".to_owned() }
}

impl<'a> Case<'a> {
    async fn of(config: &'a Config, own: &Verify) -> Result<Self> {
        let env = Env::system().with_cores(config.limits.workers);
        let pipeline = match (&own.pipeline, &own.table) {
            (Some(name), _) => config.pipelines.get_key_value(&PipelineName::new(name.as_str())),
            (None, Some(wanted)) => {
                let feeds =
                    |own: &PipelineConfig| *wanted == own.table || *wanted == format!("{}.{}", own.catalog, own.table);
                let mut feeding = config.pipelines.iter().filter(|(_, own)| feeds(own));
                feeding.next().filter(|_| feeding.next().is_none())
            }
            (None, None) => {
                return Err(Error::new(ErrorKind::Config, "nothing is named")
                    .with_hint("name a table, or a pipeline of the configuration with --pipeline"));
            }
        };
        if let (Some(name), None, None) = (&own.pipeline, pipeline, &own.table) {
            let known: Vec<&str> = config.pipelines.keys().map(PipelineName::as_str).collect();
            return Err(Error::new(ErrorKind::Config, format!("there is no pipeline {name:?}"))
                .with_hint(format!("the configuration has {}", known.join(", "))));
        }
        let catalog_name = match pipeline.filter(|_| own.table.is_none()) {
            Some((_, pipeline)) => pipeline.catalog.clone(),
            None => table::chosen(config, &own.from, own.table.as_deref())?,
        };
        let catalog = wiring::catalog(config, &catalog_name, &env).await?;
        let branch = own.branch.clone().or(pipeline.map(|(_, own)| own.branch.clone()));
        let names = names(own, pipeline.map(|(_, pipeline)| (pipeline, config.sources.get(&pipeline.source))))?;
        let pipeline = pipeline.map(|(name, own)| (name.clone(), own));
        Ok(Self { config, env, catalog_name, catalog, pipeline, branch: branch.unwrap_or(MAIN.to_owned()), names })
    }

    /// Loads all tables. Rows must be there as far as the anchor was before the other tables were looked at, and not further than
    /// it is after. An epoch of several that is on its way is waited for a little.
    async fn look(&self, own: &Verify) -> Result<Seen> {
        let mut waits = WAITS_MS.into_iter();
        loop {
            let anchor = if own.table.is_none() { self.anchor().await? } else { None };
            let tables = self.tables(own).await?;
            let lacks = match self.owner(own, &tables) {
                Some(pipeline) => self.lacks(&pipeline, anchor.as_ref(), &tables).await?,
                None => Vec::new(),
            };
            match waits.next() {
                Some(wait) if !lacks.is_empty() => self.env.sleep(Duration::from_millis(wait)).await,
                _ => return Ok(Seen { anchor, tables, lacks }),
            }
        }
    }

    pub(super) async fn load(&self, name: &TableName) -> Result<Loaded> {
        let state = self.catalog.load(name).await.map_err(|error| match error.kind() {
            ErrorKind::NotFound => error.with_hint("`frazil table list` shows the tables there are"),
            _ => error,
        })?;
        let storage = wiring::storage(self.config, &self.env).vended(&state.config)?;
        Ok(Loaded { state, storage })
    }

    /// A table whose rows are looked at: one without a snapshot has none, but a branch that is named must be there.
    async fn load_branch(&self, name: &TableName) -> Result<Loaded> {
        let own = self.load(name).await?;
        if self.branch != MAIN && own.state.head(&self.branch).is_none() {
            let what = format!("table {name} has no branch {:?}", self.branch);
            return Err(Error::new(ErrorKind::NotFound, what).with_hint("`frazil table show` lists its branches"));
        }
        Ok(own)
    }

    /// What keeps all from being proven.
    fn notes(&self, own: &Verify, tables: &[Loaded]) -> Result<Vec<String>> {
        let mut notes = Vec::new();
        if let Some(name) = &own.pipeline {
            let pipeline = PipelineName::new(name.as_str());
            let mut found = false;
            for own in tables {
                found |= is_recorded(&own.state, &self.branch, &pipeline)?;
            }
            if !found {
                notes.push(format!(
                    "pipeline {name} has no checkpoint here: nothing says how far its rows should be in"
                ));
            }
        }
        Ok(notes)
    }

    fn subject<'b>(&'b self, own: &'b Loaded, names: &'b Names) -> Subject<'b> {
        Subject { env: &self.env, storage: &own.storage, state: &own.state, branch: &self.branch, names }
    }

    /// The table that is named, or all that the pipeline feeds.
    async fn tables(&self, own: &Verify) -> Result<Vec<Loaded>> {
        if let Some(name) = &own.table {
            let from = own.from.with_catalog(&self.catalog_name);
            let (_, name) = table::named(self.config, &TableChoice { table: name.clone(), from })?;
            return Ok(vec![self.load_branch(&name).await?]);
        }
        let Some((pipeline, fed)) = &self.pipeline else { return Ok(Vec::new()) };
        if !fed.table.contains('{') {
            return Ok(vec![self.load_branch(&fed.table.parse()?).await?]);
        }
        let mut found = Vec::new();
        let anchor = fed.anchor.as_deref().unwrap_or_default();
        let glob = GlobBuilder::new(&wildcards(&fed.table)).build();
        let glob = glob.context(ErrorKind::Config, || format!("table {:?}", fed.table))?.compile_matcher();
        for name in tables_below(&self.catalog, &[]).await? {
            let text = name.to_string();
            if glob.is_match(&text) && !text.ends_with(SUFFIX) {
                let own = self.load(&name).await?;
                // An anchor may have rows of its own; one that never had any has no columns for them.
                let schema = own.state.metadata.current_schema();
                let fed = text != anchor || schema.field_by_name(&self.names.offset).is_some();
                if fed && pipelines(&own.state, &self.branch).contains(pipeline) {
                    found.push(own);
                }
            }
        }
        if found.is_empty() {
            return Err(Error::new(ErrorKind::NotFound, format!("pipeline {pipeline} has fed no table yet")));
        }
        Ok(found)
    }

    /// Whose checkpoint is held against the rows; nobody's where that is not clear.
    fn owner(&self, own: &Verify, tables: &[Loaded]) -> Option<PipelineName> {
        if let Some(name) = &own.pipeline {
            return Some(PipelineName::new(name.as_str()));
        }
        if let Some((name, _)) = &self.pipeline {
            return Some(name.clone());
        }
        let mut all = tables.iter().flat_map(|own| pipelines(&own.state, &self.branch));
        all.next().filter(|first| all.all(|other| other == *first))
    }

    /// The tables whose records count: where a stream feeds many, the anchor's too.
    async fn anchor(&self) -> Result<Option<Loaded>> {
        let anchor = self.pipeline.as_ref().and_then(|(_, fed)| fed.anchor.as_ref());
        match anchor {
            Some(anchor) => self.load(&anchor.parse()?).await.map(Some),
            None => Ok(None),
        }
    }

    async fn standing(&self, own: &Verify, tables: &[Loaded], anchor: Option<Loaded>) -> Result<Standing> {
        let mut standing = Standing::default();
        let Some(pipeline) = self.owner(own, tables) else { return Ok(standing) };
        let of = async |own: &Loaded| Standing::of(&own.storage, &own.state, &self.branch, &pipeline).await;
        let several = self.config.pipelines.get(&pipeline).is_some_and(|fed| fed.table.contains('{'));
        standing.scope = match (several, &own.table) {
            (true, Some(_)) => Scope::Part,
            (true, None) => Scope::All,
            (false, _) => Scope::One,
        };
        if let Some(anchor) = &anchor {
            standing.join(of(anchor).await?);
        }
        for own in tables {
            match anchor {
                Some(_) => standing.follow(of(own).await?),
                None => standing.join(of(own).await?),
            }
        }
        if anchor.is_some()
            && let Some(later) = self.anchor().await?
        {
            standing.follow(of(&later).await?);
        }
        Ok(standing)
    }

    async fn since(&self, since: &str, own: &Verify, tables: &[Loaded]) -> Result<crate::model::checkpoint::Positions> {
        let moment = match since.parse() {
            Ok(id) => Moment::Snapshot(id),
            Err(_) => {
                let time = chrono::DateTime::parse_from_rfc3339(since);
                let time = time.context(ErrorKind::Config, || format!("--since {since:?}"));
                let hint = "name a snapshot by its id, or a time such as 2026-01-31T00:00:00Z";
                Moment::Time(time.map_err(|error| error.with_hint(hint))?.timestamp_millis())
            }
        };
        let Some(pipeline) = self.owner(own, tables) else {
            return Err(Error::new(ErrorKind::Config, "--since needs the checkpoints of a pipeline")
                .with_hint("name it with --pipeline, or say with --from where to begin"));
        };
        let anchor = self.anchor().await?;
        match anchor.as_ref().or(tables.first()) {
            Some(own) => positions_at(&own.storage, &own.state, &self.branch, &pipeline, moment).await,
            None => Ok(Default::default()),
        }
    }

    async fn rejects(&self) -> Result<Option<Loaded>> {
        let Some((_, fed)) = &self.pipeline else { return Ok(None) };
        if fed.rejects.to != RejectsTo::Table {
            return Ok(None);
        }
        let beside: TableName = fed.anchor.as_ref().unwrap_or(&fed.table).parse()?;
        match self.load(&beside.with_suffix(SUFFIX)).await {
            Ok(own) => Ok(Some(own)),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// A row may be rejected more than once, when it was read again: bounds say nothing of such files.
    async fn gather_rejects(&self, own: &Loaded, request: &Request, rejects: &mut Evidence) -> Result<()> {
        if request.look == Look::Never {
            rejects.pass_over(&own.state.name.to_string());
            return Ok(());
        }
        let names = rejects_names(&self.names);
        let request = Request { look: Look::Always, ..request.clone() };
        let gathered = rejects.gather(self.subject(own, &names), &request).await;
        gathered.map_err(|error| error.within(format!("table {}", own.state.name)))
    }

    /// The topics that the pipeline reads.
    fn kafka(&self) -> Option<&KafkaConfig> {
        let (_, fed) = self.pipeline.as_ref()?;
        match self.config.sources.get(&fed.source) {
            Some(SourceConfig::Kafka(kafka)) => Some(kafka),
            _ => None,
        }
    }

    /// Asks the brokers what is at the offsets that are missing.
    async fn ask(&self, proofs: &mut [LogProof]) -> Result<()> {
        let Some(kafka) = self.kafka() else {
            return Err(Error::new(ErrorKind::Config, "--connect asks the brokers of a pipeline that reads Kafka")
                .with_hint("name the pipeline with --pipeline"));
        };
        let of = |proof: &LogProof| Gaps { log: proof.log.clone(), ranges: proof.gaps().collect() };
        let gaps: Vec<Gaps> = proofs.iter().filter(|proof| proof.missing() > 0).map(of).collect();
        let answers = Probe::new(kafka, &self.env)?.records_at(gaps).await?;
        let answers: BTreeMap<&str, _> = answers.iter().map(|found| (found.log.as_str(), found)).collect();
        for proof in proofs {
            if let Some(found) = answers.get(proof.log.as_str()) {
                let Held { records, removed, skipped, untold, .. } = (*found).clone();
                proof.take(&Asked { records, removed, skipped, untold });
            }
        }
        Ok(())
    }
}

/// `{field}` as `*`.
fn wildcards(template: &str) -> String {
    let mut parts = template.split('{');
    let mut glob = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        glob.push('*');
        glob.push_str(part.split_once('}').map_or("", |(_, rest)| rest));
    }
    glob
}

fn names(own: &Verify, pipeline: Option<(&PipelineConfig, Option<&SourceConfig>)>) -> Result<Names> {
    let column = |kind: MetadataColumn| {
        let (fed, _) = pipeline?;
        fed.metadata.iter().find(|(_, held)| **held == kind).map(|(name, _)| name.clone())
    };
    let is_files = matches!(pipeline, Some((_, Some(SourceConfig::Files(_)))));
    let offset = own.offset_column.clone().or(column(MetadataColumn::Number));
    let topic = own.topic_column.clone().or(column(MetadataColumn::Origin));
    let partition = own.partition_column.clone().or(column(MetadataColumn::Partition).filter(|_| !is_files));
    let missing = |what: &str, flag: &str| {
        Error::new(ErrorKind::Config, format!("nothing says which column has the {what} of a row"))
            .with_hint(format!("name it with {flag}, or give the pipeline such a metadata column"))
    };
    let offset = offset.ok_or_else(|| missing("offset", "--offset-column"))?;
    let needed = if is_files { &topic } else { &partition };
    if needed.is_none() && (is_files || topic.is_none() || pipeline.is_some()) {
        let (what, flag) = if is_files { ("file", "--topic-column") } else { ("partition", "--partition-column") };
        return Err(missing(what, flag));
    }
    Ok(Names { topic, partition, offset })
}

fn window(own: &Verify) -> Result<Window> {
    Ok(Window { only: own.partition.clone(), from: ends(&own.first, "--from")?, to: ends(&own.last, "--to")? })
}

/// `OFFSET` for all logs, `LOG=OFFSET` for one.
fn ends(words: &[String], flag: &str) -> Result<Ends> {
    let mut ends = Ends::default();
    for word in words {
        let (log, offset) = word.rsplit_once('=').map_or((None, word.as_str()), |(log, offset)| (Some(log), offset));
        let offset = offset.parse::<u64>().context(ErrorKind::Config, || format!("{flag} {word:?}"));
        let offset = offset.map_err(|e| e.with_hint("write an offset, or LOG=OFFSET, as in orders/0=4711"))?;
        match log {
            Some(log) => drop(ends.own.insert(log.to_owned(), offset)),
            None => ends.all = Some(offset),
        }
    }
    Ok(ends)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn offsets_are_of_all_logs_or_of_one() {
        let words = ["7".to_owned(), "orders/0=4711".to_owned()];
        let own = ends(&words, "--from").expect("valid");
        assert_eq!((own.of("orders/0"), own.of("orders/1")), (Some(4711), Some(7)));
        let error = ends(&["orders/0".to_owned()], "--from").expect_err("no offset");
        assert!(error.to_string().starts_with("--from \"orders/0\""), "{error}");
    }

    #[test]
    fn a_template_matches_the_tables_that_it_makes() {
        assert_eq!(wildcards("raw_{shop}.t_{kind}_x"), "raw_*.t_*_x");
        assert_eq!(wildcards("raw.shop"), "raw.shop");
    }
}
