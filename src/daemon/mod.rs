//! The daemon: pipelines assembled from a configuration, run side by side, shut down in phases.

pub mod cadence;
pub(crate) mod counted;
pub(crate) mod creation;
pub(crate) mod epoch;
pub(crate) mod jobs;
pub(crate) mod lane;
pub(crate) mod leftovers;
pub(crate) mod opening;
pub(crate) mod pipeline;
pub(crate) mod rebuild;
pub(crate) mod sealed;
pub mod table;
pub mod tables;
pub(crate) mod watch;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::api::{Health, PipelineHealth};
use crate::catalog::embedded::{Claim, EmbeddedCatalog};
use crate::catalog::{Catalog, connect};
use crate::commit::protocol::Answers;
use crate::config::{CatalogConfig, Config, PipelineConfig, Role, RowFormat, SourceConfig};
use crate::daemon::cadence::Cadence;
use crate::daemon::counted::Counted;
use crate::daemon::creation::Creation;
use crate::daemon::jobs::Jobs;
use crate::daemon::lane::LaneOptions;
pub(crate) use crate::daemon::pipeline::REJECTS_SUFFIX;
use crate::daemon::pipeline::{Epoch, Pipeline};
use crate::daemon::tables::Shared;
use crate::daemon::watch::Watch;
use crate::decode::Format;
use crate::decode::registry::Registry;
use crate::env::Env;
use crate::error::{Context, Directive, Error, ErrorKind, Result};
use crate::model::checkpoint::Positions;
use crate::model::ids::{PipelineName, TableName};
use crate::quality::quarantine::RejectWindow;
use crate::source::Source;
use crate::source::files::{FilesOptions, FilesSource};
use crate::source::kafka::KafkaSource;
use crate::source::replay::ReplaySource;
use crate::source::stdin::StdinSource;
use crate::storage::anchors::Anchors;
use crate::storage::counters::OperationCounts;
use crate::storage::disk::Disk;
use crate::storage::ledger::{ENTRIES_MAX, Ledger};
use crate::storage::{Storage, StorageOptions};
use crate::telemetry::metrics::Metrics;
use crate::transform::route::Route;
use crate::write::budget::Budget;
use crate::write::open_files::OpenFiles;

/// Waits for a catalog that does not answer when the daemon starts.
const WAIT_MIN: Duration = Duration::from_millis(500);
const WAIT_MAX: Duration = Duration::from_secs(30);

/// The longest line of standard input; a longer one is rejected.
const STDIN_ROW_BYTES_MAX: u64 = 16 * 1024 * 1024;

/// How often the process's own figures are taken.
const MEASURE: Duration = Duration::from_secs(1);

/// Where a daemon shows what it does.
#[derive(Debug, Clone)]
pub struct Face {
    /// Counters and gauges.
    pub metrics: Metrics,
    /// The state of each pipeline.
    pub health: Health,
}

/// What a daemon keeps things in, and what it reads from.
pub struct Stores {
    /// Objects.
    pub storage: Storage,
    /// What must survive a crash of the process.
    pub disk: Arc<dyn Disk>,
    /// Catalogs by their configured names.
    pub catalogs: BTreeMap<String, Arc<dyn Catalog>>,
    /// Sources by pipeline, instead of those that the configuration describes.
    pub sources: BTreeMap<PipelineName, Box<dyn Source>>,
}

/// Pipelines, ready to run.
pub struct Daemon {
    shared: Shared,
    pipelines: Vec<Pipeline>,
    jobs: Option<Jobs>,
    watches: Vec<Arc<Watch>>,
    metrics: Metrics,
    grace: Duration,
    hard: CancellationToken,
    /// The exclusive use of embedded catalogs.
    claims: Vec<Claim>,
}

impl Daemon {
    /// Assembles what `config` describes. `disk` holds what must survive a crash.
    ///
    /// # Errors
    /// `Config` for what only shows here; those of catalogs and disks. A catalog that does not answer is waited for.
    pub async fn assemble(
        config: &Config,
        env: &Env,
        disk: Arc<dyn Disk>,
        face: Face,
        stop: &CancellationToken,
    ) -> Result<Self> {
        let storage = Storage::new(StorageOptions::of(config), env.clone());
        let mut catalogs: BTreeMap<String, Arc<dyn Catalog>> = BTreeMap::new();
        let mut claims = Vec::new();
        for (name, catalog) in &config.catalogs {
            let opened = open_catalog(catalog, config.role, env, &storage, stop)
                .await
                .map_err(|e| e.within(format!("catalog {name}")))?;
            catalogs.insert(name.clone(), opened.0);
            claims.extend(opened.1);
        }
        let stores = Stores { storage, disk, catalogs, sources: BTreeMap::new() };
        let mut daemon = Self::with_stores(config, env, stores, face).await?;
        daemon.claims = claims;
        Ok(daemon)
    }

    /// The same with catalogs and stores that are there: the simulator's way in.
    ///
    /// # Errors
    /// As [`Daemon::assemble`].
    pub async fn with_stores(config: &Config, env: &Env, stores: Stores, face: Face) -> Result<Self> {
        let Stores { storage, disk, catalogs, mut sources } = stores;
        let counted = |catalog| Arc::new(Counted::new(catalog, face.metrics.clone())) as Arc<dyn Catalog>;
        let catalogs = catalogs.into_iter().map(|(name, catalog)| (name, counted(catalog))).collect();
        let anchors = Anchors::open(Arc::clone(&disk)).await?;
        let ledger = Ledger::open(Arc::clone(&disk), ENTRIES_MAX).await?;
        let budget = Budget::new(config.limits.memory);
        let writing = if config.role.ingests() { config.pipelines.len() } else { 0 };
        let bounds = (budget, OpenFiles::shared(config.limits.open_files, writing));
        let shared = Shared::new(env.clone(), &config.instance, storage, (ledger, anchors), bounds, catalogs);
        let hard = CancellationToken::new();
        let registries = Registry::all(&config.registries, env)?;
        let mut pipelines = Vec::new();
        let mut watches = Vec::new();
        for (name, settings) in config.pipelines.iter().filter(|_| config.role.ingests()) {
            let watch = Arc::new(Watch::new(name.clone(), face.metrics.clone(), face.health.clone()));
            watches.push(Arc::clone(&watch));
            let source = match sources.remove(name) {
                Some(source) => source,
                None => open_source(config, name, settings, &shared)?,
            };
            let format =
                Format::of(&settings.decode, &registries, env).map_err(|e| e.within(format!("pipeline {name}")))?;
            pipelines.push(pipeline(config, (name, settings), &shared, format, source, watch, hard.clone())?);
        }
        let maintains = config.role.maintains() && !config.policies.is_empty();
        let jobs = if maintains {
            Some(Jobs::new(config, &shared, &disk, face.metrics.clone(), face.health).await?)
        } else {
            None
        };
        Ok(Self {
            shared,
            pipelines,
            jobs,
            watches,
            metrics: face.metrics,
            grace: config.shutdown_grace,
            hard,
            claims: Vec::new(),
        })
    }

    /// What all pipelines share.
    pub fn shared(&self) -> &Shared {
        &self.shared
    }

    /// Runs every pipeline until its source ends, it halts, or `stop` is cancelled: then what is open is sealed and
    /// committed, for as long as the grace lasts. A pipeline that halts stops no other.
    ///
    /// The answer has how each pipeline ended.
    pub async fn run(self, stop: CancellationToken) -> BTreeMap<PipelineName, Result<()>> {
        let Self { shared, pipelines, jobs, watches, metrics, grace, hard, claims } = self;
        let alone = pipelines.is_empty();
        let end_of_jobs = stop.child_token();
        let jobs = jobs.map(|jobs| tokio::spawn(jobs.run(end_of_jobs.clone(), grace)));
        let mut running = JoinSet::new();
        // Before a pipeline begins: what it stages from now on is no leftover.
        let left = shared.ledger.open_entries();
        let mut tasks = BTreeMap::new();
        for pipeline in pipelines {
            let (name, stop) = (pipeline.name.clone(), stop.clone());
            let watch = Arc::clone(&pipeline.watch);
            let task = running.spawn(async move { (pipeline.name.clone(), pipeline.run(stop).boxed().await) });
            tasks.insert(task.id(), (name, watch));
        }
        let measuring = tokio::spawn(measure(shared.clone(), metrics, watches.clone()));
        let cleaning = tokio::spawn(leftovers::clean(shared.clone(), left, watches, stop.clone()));
        let (env, after) = (shared.env.clone(), stop.clone());
        let ending = hard.clone();
        let timer = tokio::spawn(async move {
            after.cancelled().await;
            env.sleep(grace).await;
            ending.cancel();
        });
        let mut ended = BTreeMap::new();
        while let Some(joined) = running.join_next().await {
            match joined {
                Ok((name, result)) => {
                    if let Err(error) = &result {
                        tracing::error!(pipeline = %name, runbook = error.kind().runbook(), hint = error.hint(), "halted: {error}");
                    }
                    ended.insert(name, result);
                }
                Err(error) => {
                    tracing::error!("a pipeline's task failed: {error}");
                    if let Some((name, watch)) = tasks.remove(&error.id()) {
                        let failed = Error::new(ErrorKind::Internal, "its task failed").with_source(error);
                        watch.set(PipelineHealth::Halted(failed.to_string()));
                        ended.insert(name, Err(failed));
                    }
                }
            }
        }
        if let Some(jobs) = jobs {
            if alone {
                stop.cancelled().await;
            }
            // Cut off after its own grace, so that it always ends.
            end_of_jobs.cancel();
            if let Err(error) = jobs.await {
                tracing::error!("the task of the jobs failed: {error}");
            }
        }
        timer.abort();
        measuring.abort();
        drop(claims);
        cleaning.abort();
        if let Err(error) = shared.ledger.sync().await {
            tracing::warn!("the next process looks once more at what is settled: {error}");
        }
        ended
    }
}

/// Shows what the process as a whole does, every second.
async fn measure(shared: Shared, metrics: Metrics, watches: Vec<Arc<Watch>>) {
    let mut told = BTreeMap::new();
    loop {
        watches.iter().for_each(|watch| watch.age(shared.env.now_ms()));
        let (budget, store) = (&shared.budget, shared.storage.counters());
        metrics.budget(budget.used(), budget.most(), budget.limit());
        metrics.uploads(store.files_under_way(), store.upload_bytes());
        metrics.ledger_entries(shared.ledger.entries());
        let counted = store.snapshot();
        for (operation, now) in counted.iter().filter(|(operation, now)| told.get(*operation) != Some(*now)) {
            let before: OperationCounts = told.get(operation).copied().unwrap_or_default();
            for (outcome, more) in [
                ("ok", now.ok - before.ok),
                ("missing", now.missing - before.missing),
                ("refused", now.refused - before.refused),
                ("unavailable", now.unavailable - before.unavailable),
            ] {
                if more > 0 {
                    metrics.store_requests(operation.name(), outcome, more);
                }
            }
        }
        told = counted;
        shared.env.sleep(MEASURE).await;
    }
}

async fn open_catalog(
    config: &CatalogConfig,
    role: Role,
    env: &Env,
    storage: &Storage,
    stop: &CancellationToken,
) -> Result<(Arc<dyn Catalog>, Option<Claim>)> {
    let stores = storage.clone();
    let resolver: crate::catalog::documents::Resolver = Arc::new(move |location| stores.resolve(location));
    if let CatalogConfig::Embedded { path, warehouse } = config {
        let catalog = EmbeddedCatalog::open(env, path, warehouse, resolver).await?;
        // A process that only maintains works beside the one that ingests.
        let claim = if role.ingests() { Some(catalog.claim().await?) } else { None };
        return Ok((Arc::new(catalog), claim));
    }
    let mut attempt = 0_u32;
    loop {
        match connect::connect(config, env, Arc::clone(&resolver)).await {
            Err(error) if error.directive() == Directive::Retry && !stop.is_cancelled() => {
                tracing::warn!("waiting for the catalog: {error}");
                let wait = env.backoff(WAIT_MIN, WAIT_MAX, attempt).max(error.wait().unwrap_or_default());
                tokio::select! {
                    biased;
                    () = stop.cancelled() => return Err(error),
                    () = env.sleep(wait) => attempt = attempt.saturating_add(1),
                }
            }
            connected => return Ok((connected?, None)),
        }
    }
}

/// A folder as it is found from anywhere: a source's identity must not depend on where the process was started.
///
/// # Errors
/// `Config` when there is no such path, or its name is no text.
pub fn absolute(path: &str) -> Result<String> {
    if path.contains("://") || path.starts_with("file:") {
        return Ok(path.to_owned());
    }
    let found = std::path::absolute(path).context(ErrorKind::Config, || format!("the path {path:?}"))?;
    let text = found.to_str().map(str::to_owned);
    text.ok_or_else(|| {
        Error::new(ErrorKind::Config, format!("the path {path:?} lies in a folder whose name is no text"))
    })
}

fn open_source(
    config: &Config,
    name: &PipelineName,
    settings: &PipelineConfig,
    shared: &Shared,
) -> Result<Box<dyn Source>> {
    let missing =
        || Error::new(ErrorKind::Config, format!("pipeline {name}: there is no source {:?}", settings.source));
    let env = shared.env.clone();
    // The mark between values may be blank, and values may be nothing.
    let blank_rows = settings.decode.format == RowFormat::Csv;
    Ok(match config.sources.get(&settings.source).ok_or_else(missing)? {
        SourceConfig::Files(files) => {
            let mut files = files.clone();
            files.path = absolute(&files.path)?;
            let (store, prefix) = shared.storage.resolve(&files.path)?;
            let header = blank_rows && settings.decode.csv.header;
            let options = FilesOptions { header, blank_rows, ..FilesOptions::default() };
            Box::new(FilesSource::new(files, store, prefix, env)?.with_options(options))
        }
        SourceConfig::Stdin => {
            Box::new(StdinSource::new(tokio::io::stdin(), STDIN_ROW_BYTES_MAX).with_blank_rows(blank_rows))
        }
        SourceConfig::Replay(replay) => Box::new(ReplaySource::new(replay, env)),
        SourceConfig::Kafka(kafka) => Box::new(KafkaSource::new(kafka.as_ref().clone(), env)?),
    })
}

/// The table whose commits decide a pipeline's epochs.
///
/// # Errors
/// `Config` when none is named and the route leads to several.
pub(crate) fn anchor(name: &PipelineName, settings: &PipelineConfig, route: &Route) -> Result<TableName> {
    match (&settings.anchor, route.constant()) {
        (Some(anchor), _) => anchor.parse(),
        (None, Some(table)) => Ok(table.clone()),
        (None, None) => {
            let text = format!("pipeline {name}: a table name with {{field}} needs an anchor");
            Err(Error::new(ErrorKind::Config, text).with_hint("set anchor to the table whose commits decide epochs"))
        }
    }
}

/// Which table a row of a pipeline goes to.
fn route(config: &Config, name: &PipelineName, settings: &PipelineConfig) -> Result<Route> {
    let route = Route::parse(&settings.table).map_err(|e| e.within(format!("pipeline {name}")))?;
    Ok(match config.sources.get(&settings.source) {
        Some(SourceConfig::Kafka(kafka)) => route.of_topics(kafka.pattern()?),
        _ => route,
    })
}

fn pipeline(
    config: &Config,
    (name, settings): (&PipelineName, &PipelineConfig),
    shared: &Shared,
    format: Format,
    source: Box<dyn Source>,
    watch: Arc<Watch>,
    hard: CancellationToken,
) -> Result<Pipeline> {
    let route = route(config, name, settings)?;
    let anchor = anchor(name, settings, &route)?;
    let mut cadence = Cadence::new(settings.commit.freshness);
    cadence.draw(shared.env.below(cadence.chance()));
    Ok(Pipeline {
        shared: shared.clone(),
        name: name.clone(),
        options: LaneOptions::new(name, settings, format.clone(), &config.limits, shared.open_files.share()),
        creation: Creation::new(settings, format),
        config: settings.clone(),
        source,
        route,
        anchor,
        lanes_max: config.limits.tables,
        depth: config.limits.workers.saturating_add(1),
        lanes: BTreeMap::new(),
        ahead: VecDeque::new(),
        epoch: Epoch::default(),
        cadence,
        answers: Answers::default(),
        finished: Vec::new(),
        fresh: true,
        begins: None,
        begun: Positions::new(),
        begun_seq: 0,
        followers: BTreeSet::new(),
        known: BTreeMap::new(),
        window: settings.rejects.halt_above.window.map(RejectWindow::new),
        watch,
        hard,
    })
}

mod by_partition;
mod decoding;
mod many_tables;
mod names;
mod outage;
mod paced;
mod recovery;
mod setbacks;
mod starting;
#[cfg(test)]
mod tests;
mod tombstones;
mod vended;
