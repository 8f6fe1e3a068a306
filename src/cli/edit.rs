//! `frazil checkpoint`: an operator's word on how far a pipeline's rows are in a table.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use futures::{StreamExt, TryStreamExt, stream};
use globset::Glob;
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use crate::catalog::listing::tables_below;
use crate::cli::checkpoint::position_text;
use crate::cli::flags::{CheckpointEdit, CheckpointVerb, Flags};
use crate::cli::output::{self, Align, Answer, columns};
use crate::cli::{Exit, answer, table, wiring, with_config};
use crate::commit::checkpoint::{Chain, edited, record_key};
use crate::commit::protocol::{Commit, Committer, Ending};
use crate::commit::standing::{carried, newest};
use crate::config::Config;
use crate::daemon::{self, REJECTS_SUFFIX};
use crate::env::Env;
use crate::error::{Context, Error, ErrorKind, Result};
use crate::model::change::{Append, Change, Data, OnRollback, OperatorEdit, PipelineDelta};
use crate::model::checkpoint::{Checkpoint, Delta, Position, Positions, Record};
use crate::model::ids::{PipelineName, TableName};
use crate::model::table::TableState;
use crate::transform::route::Route;

/// Tables looked at at once.
const AT_ONCE: usize = 8;
/// What is asked about.
const CONSEQUENCE: &str = "rows between the two are read again, or left out, for good. Go on? [y/N]";

pub(crate) fn edit(flags: &Flags, verb: &CheckpointVerb) -> Result<Exit> {
    let own = match verb {
        CheckpointVerb::Set { edit, .. } | CheckpointVerb::Accept { edit } => edit,
    };
    with_config(flags, &own.choice.from, async |config| change(flags, config, verb, own).await)
}

async fn change(flags: &Flags, config: &Config, verb: &CheckpointVerb, own: &CheckpointEdit) -> Result<Exit> {
    let env = Env::system();
    let (catalog, name) = table::named(config, &own.choice)?;
    let (mut committer, state) = wiring::committer(config, &catalog, &name, &env, None).await?;
    let ancestor = ancestor(&committer, &state, verb, own).await?;
    let mut plan = Plan::make(&state, ancestor.as_ref(), verb, own)?;
    if matches!(verb, CheckpointVerb::Set { .. }) {
        plan.beside = beside(config, &catalog, &name, &plan, &env).await?;
        for (follower, (_, seq)) in plan.beside.iter().flatten() {
            plan.after.followers.insert(follower.clone());
            plan.after.knows(follower, *seq);
        }
    }
    if own.dry_run {
        return answer(flags, &plan.answer(&state, None));
    }
    if !own.yes && !output::confirmed(&plan.text(&state), CONSEQUENCE)? {
        return Ok(Exit::Failed);
    }
    let mut commit = Commit::new(plan.change(&state, env.snapshot_id()));
    match committer.run(&mut commit, &state, &CancellationToken::new()).await? {
        Ending::Done { .. } => answer(flags, &plan.answer(&state, Some(commit.change().snapshot_id))),
        Ending::Fenced(_) => Err(Error::new(
            ErrorKind::Fenced,
            format!(
                "table {name}: the checkpoint of pipeline {} moved meanwhile, or the branch was rolled back",
                plan.pipeline
            ),
        )
        .with_hint("stop the pipeline, look with `frazil table checkpoint`, and give the command again")),
        Ending::Unresolved(error) | Ending::Failed(error) => {
            Err(error.with_hint("look with `frazil table checkpoint` whether it is in; else give the command again"))
        }
        other => Err(Error::new(ErrorKind::Internal, format!("an edit cannot end so: {other:?}"))),
    }
}

/// The record on the branch's snapshots, which says what of a record that a rollback took is decided all the same. One that is
/// damaged or gone is about to be replaced: it is missed in that case alone, and there `--drop-sealed` goes on without it.
async fn ancestor(
    committer: &Committer,
    state: &TableState,
    verb: &CheckpointVerb,
    own: &CheckpointEdit,
) -> Result<Option<Record>> {
    let CheckpointVerb::Set { drop_sealed, .. } = verb else { return Ok(None) };
    let (pipeline, chain) = (PipelineName::new(own.pipeline.as_str()), Chain::of(state, &own.at)?);
    let property = state.property(&record_key(&pipeline, &own.at)).and_then(|text| Record::parse(text).ok());
    let is_lost = property.is_some_and(|record| chain.has_lost(&record));
    match carried(committer.storage(), state, &pipeline, &own.at).await {
        Err(error) if matches!(error.kind(), ErrorKind::Corrupt | ErrorKind::NotFound) => {
            if *drop_sealed || (error.kind() == ErrorKind::Corrupt && !is_lost) {
                return Ok(None);
            }
            Err(error.with_hint(
                "it says which epochs stay decided: give the command again, or forget all of them with --drop-sealed",
            ))
        }
        read => read,
    }
}

/// The tables that a pipeline has written to beside its anchor: by uuid the name, and the sequence number of the newest record.
type Beside = BTreeMap<String, (TableName, i64)>;

/// How far the tables beside an anchor are, before its positions are set: from there on it knows when one of them was set back.
/// `None` where `anchor` is not that of a pipeline in the configuration.
async fn beside(config: &Config, catalog: &str, anchor: &TableName, plan: &Plan, env: &Env) -> Result<Option<Beside>> {
    let Some(settings) = config.pipelines.get(&plan.pipeline) else { return Ok(None) };
    let route = Route::parse(&settings.table)?;
    let own = daemon::anchor(&plan.pipeline, settings, &route)?;
    if settings.catalog != catalog || settings.branch != plan.target || own != *anchor {
        return Ok(None);
    }
    let (catalog, storage) = (wiring::catalog(config, catalog, env).await?, wiring::storage(config, env));
    let rejects = anchor.with_suffix(REJECTS_SUFFIX);
    let glob = Glob::new(&route.glob()).context(ErrorKind::Config, || format!("table {:?}", settings.table))?;
    let glob = glob.compile_matcher();
    let tables = tables_below(&catalog, &[]).await?.into_iter();
    let tables = tables.filter(|table| table != anchor && (*table == rejects || glob.is_match(table.to_string())));
    let looked = tables.map(|table| {
        let (catalog, storage) = (&catalog, &storage);
        async move {
            let state = match catalog.load(&table).await {
                Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None), // dropped since
                loaded => loaded?,
            };
            let record = newest(storage, &state, &plan.pipeline, &plan.target).await?;
            Ok::<_, Error>(record.map(|record| (state.metadata.uuid().to_string(), (table, record.known_seq()))))
        }
    });
    let found: Vec<_> = stream::iter(looked).buffered(AT_ONCE).try_collect().await.map_err(|error: Error| {
        error.with_hint("the tables beside an anchor are looked at before its positions are set: mend this one first")
    })?;
    Ok(Some(found.into_iter().flatten().collect()))
}

/// What an edit does. Pure: made from the table and the command line alone.
#[derive(Debug)]
struct Plan {
    pipeline: PipelineName,
    target: String,
    /// What is replaced, and what it says where it can be read.
    edit: OperatorEdit,
    unreadable: bool,
    /// What the edit goes on from: the property's record, or the snapshots' where that is newer.
    before: Option<Record>,
    after: Checkpoint,
    /// Epochs that stay decided, and those that are no longer.
    sealed: Vec<String>,
    forgotten: Vec<String>,
    /// Where an anchor is set: the tables beside it.
    beside: Option<Beside>,
}

impl Plan {
    fn make(
        state: &TableState,
        ancestor: Option<&Record>,
        verb: &CheckpointVerb,
        own: &CheckpointEdit,
    ) -> Result<Self> {
        let pipeline = PipelineName::new(own.pipeline.as_str());
        let edit = OperatorEdit::of(state, &record_key(&pipeline, &own.at), &own.at);
        let before = edit.replaces.as_deref().map(Record::parse);
        let (goes_on_from, after, sealed, forgotten) = match verb {
            CheckpointVerb::Accept { .. } => {
                let Some(record) = before.as_ref() else {
                    return Err(Error::new(
                        ErrorKind::NotFound,
                        format!("table {} has no checkpoint of pipeline {pipeline} on {}", state.name, own.at),
                    )
                    .with_hint("`frazil table checkpoint` shows those there are; `frazil checkpoint set` makes one"));
                };
                let Ok(record) = record else {
                    return Err(Error::new(
                        ErrorKind::Corrupt,
                        format!("table {}: the checkpoint cannot be read", state.name),
                    )
                    .with_hint("set the positions with `frazil checkpoint set`"));
                };
                (Some(record.clone()), record.checkpoint.clone(), record.sealed.clone(), Vec::new())
            }
            CheckpointVerb::Set { positions, source, drop_sealed, .. } => {
                let positions: Positions =
                    serde_json::from_str(positions).context(ErrorKind::Config, || "--positions").map_err(|e| {
                        e.with_hint("write them as in `frazil table checkpoint --json`, such as '{\"0\": 41}'")
                    })?;
                let property = before.as_ref().and_then(|record| record.as_ref().ok());
                let (held, mut sealed) = edited(&Chain::of(state, &own.at)?, property, ancestor, &positions);
                if *drop_sealed {
                    sealed.clear();
                }
                let mut forgotten = held.map(|record| record.sealed.clone()).unwrap_or_default();
                forgotten.retain(|location| !sealed.contains(location));
                let identity = source.clone().or_else(|| held.map(|record| record.checkpoint.source.clone()));
                let followers = held.map(|record| record.checkpoint.followers.clone()).unwrap_or_default();
                let source = identity.unwrap_or_default();
                let known = held.map(|record| record.checkpoint.known.clone()).unwrap_or_default();
                let after = Checkpoint { positions, source, tails: BTreeMap::new(), followers, known };
                (held.cloned(), after, sealed, forgotten)
            }
        };
        let unreadable = before.as_ref().is_some_and(Result::is_err);
        Ok(Self {
            pipeline,
            target: own.at.clone(),
            edit,
            unreadable,
            before: goes_on_from,
            after,
            sealed,
            forgotten,
            beside: None,
        })
    }

    fn change(&self, state: &TableState, snapshot_id: i64) -> Change {
        let mut change = Change::new(snapshot_id);
        change.target.clone_from(&self.target);
        change.data = Some(Data::Append(Append {
            files: Vec::new(),
            schema: Arc::clone(state.metadata.current_schema()),
            spec_id: state.metadata.default_partition_spec_id(),
        }));
        change.delta = Some(PipelineDelta {
            pipeline: self.pipeline.clone(),
            delta: Delta::default(),
            witness: self.after.clone(),
            on_rollback: OnRollback::Halt,
            follows: None,
            known_seq: 0,
            sealed: self.sealed.clone(),
            finished: Vec::new(),
            operator: Some(self.edit.clone()),
        });
        change
    }

    fn text(&self, state: &TableState) -> String {
        let held = self.before.as_ref().map(|record| &record.checkpoint.positions);
        let partitions: BTreeSet<_> =
            held.iter().flat_map(|held| held.keys()).chain(self.after.positions.keys()).collect();
        let said = |position: Option<&Position>| position.map_or_else(|| "beginning".to_owned(), position_text);
        let rows: Vec<Vec<String>> = partitions
            .into_iter()
            .map(|partition| {
                let before = held.and_then(|held| held.get(partition));
                vec![partition.to_string(), said(before), said(self.after.positions.get(partition))]
            })
            .collect();
        let head = [("partition", Align::Left), ("now", Align::Left), ("then", Align::Left)];
        let mut text = format!("table {}, pipeline {}, ref {}\n", state.name, self.pipeline, self.target);
        if self.unreadable {
            text.push_str("the checkpoint that is there cannot be read\n");
        }
        text.push_str(&columns(&head, &rows));
        for (table, seq) in self.beside.iter().flat_map(BTreeMap::values) {
            text.push_str(&format!("beside it {table}, at sequence number {seq}\n"));
        }
        for location in &self.forgotten {
            text.push_str(&format!("forgets the sealed epoch {location}\n"));
        }
        text
    }

    fn answer(&self, state: &TableState, snapshot_id: Option<i64>) -> Answer {
        let done = match snapshot_id {
            Some(id) => format!("committed as snapshot {id}\n"),
            None => "nothing was changed\n".to_owned(),
        };
        let json: Value = json!({
            "table": state.name.to_string(),
            "pipeline": self.pipeline.as_str(),
            "ref": self.target,
            "before": self.before.as_ref().map(|record| &record.checkpoint),
            "after": self.after,
            "sealed": self.sealed,
            "beside": self.beside.as_ref().map(|beside| beside.values().map(|(table, seq)| (table.to_string(), seq)).collect::<BTreeMap<_, _>>()),
            "snapshot-id": snapshot_id,
        });
        Answer { json, text: format!("{}{done}", self.text(state)) }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;
    use crate::cli::flags::{CatalogChoice, TableChoice};

    fn table(record: Option<&str>) -> TableState {
        let document = include_str!("../../tests/golden/cli/metadata.json");
        let mut json: Value = serde_json::from_str(document).expect("JSON");
        let properties = json["properties"].as_object_mut().expect("properties");
        properties.retain(|key, _| !key.starts_with("frazil.checkpoint."));
        if let Some(record) = record {
            properties.insert("frazil.checkpoint.p@main".to_owned(), json!(record));
        }
        let text = json.to_string();
        TableState::from_json("a.b".parse().expect("a name"), text.as_bytes(), None, HashMap::new()).expect("valid")
    }

    fn own() -> CheckpointEdit {
        let from = CatalogChoice { catalog: None, uri: None, embedded: None, warehouse: None };
        let choice = TableChoice { table: "a.b".to_owned(), from };
        CheckpointEdit { choice, pipeline: "p".to_owned(), at: "main".to_owned(), dry_run: false, yes: true }
    }

    fn set(positions: &str, drop_sealed: bool) -> CheckpointVerb {
        CheckpointVerb::Set { edit: own(), positions: positions.to_owned(), source: None, drop_sealed }
    }

    const RECORD: &str = r#"{"v":1,"map":{"positions":{"0":41,"1":7},"source":"log"},"origin":{"snapshot":22,"seq":2,"commit":"x"},"sealed":["s3://b/sealed.json"]}"#;

    #[test]
    fn set_replaces_all_positions_and_keeps_the_source_and_what_is_decided() {
        let state = table(Some(RECORD));
        let plan = Plan::make(&state, None, &set(r#"{"0": 12}"#, false), &own()).expect("a plan");
        assert_eq!((plan.after.source.as_str(), plan.sealed.len()), ("log", 1));
        let text = plan.text(&state);
        assert!(text.contains("offset 41") && text.contains("offset 12") && text.contains("beginning"), "{text}");
        let dropped = Plan::make(&state, None, &set(r#"{"0": 12}"#, true), &own()).expect("a plan");
        assert!(
            dropped.sealed.is_empty() && dropped.text(&state).contains("forgets the sealed epoch s3://b/sealed.json")
        );
    }

    #[test]
    fn epochs_that_a_rollback_took_are_forgotten_when_their_rows_are_read_again() {
        let lost = RECORD.replace("\"snapshot\":22", "\"snapshot\":44");
        let before = Record::parse(&RECORD.replace("\"seq\":2", "\"seq\":1")).expect("a record");
        let finished = Record { sealed: vec!["s3://b/another.json".to_owned()], ..before.clone() };
        for (record, ancestor, positions, kept) in [
            (lost.as_str(), None, r#"{"0": 12}"#, 0),
            (&lost, None, r#"{"0": 41}"#, 0),
            (&lost, None, r#"{"0": 41, "1": 9}"#, 1),
            // What a commit decided that is still in the branch stays decided, unless the one that was lost had finished it.
            (&lost, Some(&before), r#"{"0": 12}"#, 1),
            (&lost, Some(&finished), r#"{"0": 12}"#, 0),
            (RECORD, None, r#"{"0": 12}"#, 1),
        ] {
            let plan = Plan::make(&table(Some(record)), ancestor, &set(positions, false), &own()).expect("a plan");
            assert_eq!(plan.sealed.len(), kept, "{record} {positions}");
            assert_eq!(plan.text(&table(Some(record))).contains("forgets the sealed epoch"), kept == 0);
        }
    }

    #[test]
    fn where_the_property_is_gone_or_unreadable_the_snapshots_record_goes_on() {
        let carried = Record::parse(RECORD).expect("a record");
        for property in
            [None, Some("{}"), Some(&*RECORD.replace("\"seq\":2", "\"seq\":1").replace("sealed.json", "old.json"))]
        {
            let plan = Plan::make(&table(property), Some(&carried), &set(r#"{"0": 41}"#, false), &own());
            let plan = plan.expect("a plan");
            assert_eq!((plan.after.source.as_str(), &plan.sealed), ("log", &carried.sealed), "{property:?}");
            let text = plan.text(&table(property));
            assert!(text.contains("offset 41") && text.contains("offset 7"), "{text}");
            assert_eq!(text.contains("cannot be read"), property == Some("{}"));
        }
    }

    #[test]
    fn accept_takes_the_property_as_it_is() {
        let accept = CheckpointVerb::Accept { edit: own() };
        let plan = Plan::make(&table(Some(RECORD)), None, &accept, &own()).expect("a plan");
        assert_eq!(Some(&plan.after), plan.before.as_ref().map(|record| &record.checkpoint));
        assert_eq!(plan.edit.replaces.as_deref(), Some(RECORD));
        let missing = Plan::make(&table(None), None, &accept, &own()).expect_err("nothing to accept");
        assert_eq!(missing.kind(), ErrorKind::NotFound);
    }

    #[test]
    fn a_record_that_cannot_be_read_can_be_replaced_and_not_accepted() {
        let state = table(Some("{}"));
        let plan = Plan::make(&state, None, &set(r#"{"in": {"watermark": "b.json"}}"#, false), &own()).expect("a plan");
        assert!(plan.text(&state).contains("cannot be read") && plan.text(&state).contains("files up to b.json"));
        let accept = CheckpointVerb::Accept { edit: own() };
        assert_eq!(Plan::make(&state, None, &accept, &own()).expect_err("unreadable").kind(), ErrorKind::Corrupt);
    }

    #[test]
    fn positions_that_are_none_are_refused() {
        let error = Plan::make(&table(None), None, &set("41", false), &own()).expect_err("no positions");
        assert_eq!(error.kind(), ErrorKind::Config);
        assert!(error.hint().is_some_and(|hint| hint.contains("table checkpoint")));
    }
}
