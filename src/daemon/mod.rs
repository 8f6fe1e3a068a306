//! The daemon: pipelines assembled from a configuration, run side by side, shut down in phases.

pub(crate) mod creation;
pub mod driver;
pub(crate) mod epoch;
pub(crate) mod lane;
pub(crate) mod leftovers;
pub(crate) mod pipeline;
pub(crate) mod rebuild;
pub(crate) mod sealed;
pub mod table;
pub mod tables;
pub mod watch;

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::catalog::embedded::{Claim, EmbeddedCatalog};
use crate::catalog::{Catalog, connect};
use crate::config::{CatalogConfig, Config, PipelineConfig, SourceConfig};
use crate::daemon::creation::Creation;
use crate::daemon::driver::Cadence;
use crate::daemon::lane::LaneOptions;
use crate::daemon::pipeline::{Epoch, Pipeline};
use crate::daemon::tables::Shared;
use crate::daemon::watch::Watch;
use crate::env::Env;
use crate::error::{Directive, Error, ErrorKind, Result};
use crate::model::ids::{PipelineName, TableName};
use crate::source::Source;
use crate::source::files::FilesSource;
use crate::source::replay::ReplaySource;
use crate::source::retained::Retained;
use crate::source::stdin::StdinSource;
use crate::storage::disk::Disk;
use crate::storage::ledger::{ENTRIES_MAX, Ledger};
use crate::storage::{Storage, StorageOptions};
use crate::transform::route::Route;
use crate::write::budget::Budget;

/// Waits for a catalog that does not answer when the daemon starts.
const WAIT_MIN: Duration = Duration::from_millis(500);
const WAIT_MAX: Duration = Duration::from_secs(30);

/// The longest line of standard input; a longer one is rejected.
const STDIN_ROW_BYTES_MAX: u64 = 16 * 1024 * 1024;

/// Pipelines, ready to run.
pub struct Daemon {
    shared: Shared,
    pipelines: Vec<Pipeline>,
    watches: BTreeMap<PipelineName, Arc<Watch>>,
    grace: Duration,
    hard: CancellationToken,
    /// The exclusive use of embedded catalogs.
    _claims: Vec<Claim>,
}

impl Daemon {
    /// Assembles what `config` describes. `disk` holds what must survive a crash.
    ///
    /// # Errors
    /// `Config` for what only shows here; those of catalogs and disks. A catalog that does not answer is waited for.
    pub async fn assemble(config: &Config, env: &Env, disk: Arc<dyn Disk>, stop: &CancellationToken) -> Result<Self> {
        let storage = Storage::new(
            StorageOptions {
                stores: config.stores.clone(),
                requests_max: config.limits.store_requests,
                retries: config.limits.store_retries,
            },
            env.clone(),
        );
        let mut catalogs: BTreeMap<String, Arc<dyn Catalog>> = BTreeMap::new();
        let mut claims = Vec::new();
        for (name, catalog) in &config.catalogs {
            let opened =
                open_catalog(catalog, env, &storage, stop).await.map_err(|e| e.within(format!("catalog {name}")))?;
            catalogs.insert(name.clone(), opened.0);
            claims.extend(opened.1);
        }
        Self::with_catalogs(config, env, storage, disk, catalogs, claims).await
    }

    /// The same with catalogs and stores that are there: the simulator's way in.
    ///
    /// # Errors
    /// As [`Daemon::assemble`].
    pub async fn with_catalogs(
        config: &Config,
        env: &Env,
        storage: Storage,
        disk: Arc<dyn Disk>,
        catalogs: BTreeMap<String, Arc<dyn Catalog>>,
        claims: Vec<Claim>,
    ) -> Result<Self> {
        let ledger = Ledger::open(disk, ENTRIES_MAX).await?;
        let budget = Budget::new(config.limits.memory);
        let shared = Shared::new(env.clone(), &config.instance, storage, ledger, budget, catalogs);
        let hard = CancellationToken::new();
        let mut pipelines = Vec::new();
        let mut watches = BTreeMap::new();
        for (name, settings) in &config.pipelines {
            let watch = Arc::new(Watch::default());
            watches.insert(name.clone(), Arc::clone(&watch));
            let source = open_source(config, name, settings, &shared)?;
            pipelines.push(pipeline(config, name, settings, &shared, source, watch, hard.clone())?);
        }
        Ok(Self { shared, pipelines, watches, grace: config.shutdown_grace, hard, _claims: claims })
    }

    /// What each pipeline shows of itself.
    pub fn watches(&self) -> &BTreeMap<PipelineName, Arc<Watch>> {
        &self.watches
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
        let Self { shared, pipelines, watches, grace, hard, _claims } = self;
        let mut running = JoinSet::new();
        for pipeline in pipelines {
            let (name, stop) = (pipeline.name.clone(), stop.clone());
            running.spawn(async move { (name, pipeline.run(stop).await) });
        }
        let cleaning =
            tokio::spawn(leftovers::clean(shared.clone(), watches.values().cloned().collect(), stop.clone()));
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
                Err(error) => tracing::error!("a pipeline's task failed: {error}"),
            }
        }
        timer.abort();
        cleaning.abort();
        ended
    }
}

async fn open_catalog(
    config: &CatalogConfig,
    env: &Env,
    storage: &Storage,
    stop: &CancellationToken,
) -> Result<(Arc<dyn Catalog>, Option<Claim>)> {
    let stores = storage.clone();
    let resolver: crate::catalog::documents::Resolver = Arc::new(move |location| stores.resolve(location));
    if let CatalogConfig::Embedded { path, warehouse } = config {
        let catalog = EmbeddedCatalog::open(env, path, warehouse, resolver).await?;
        let claim = catalog.claim().await?;
        return Ok((Arc::new(catalog), Some(claim)));
    }
    let mut attempt = 0_u32;
    loop {
        match connect::connect(config, env, Arc::clone(&resolver)).await {
            Err(error) if error.directive() == Directive::Retry && !stop.is_cancelled() => {
                tracing::warn!("waiting for the catalog: {error}");
                tokio::select! {
                    biased;
                    () = stop.cancelled() => return Err(error),
                    () = env.sleep(env.backoff(WAIT_MIN, WAIT_MAX, attempt)) => attempt = attempt.saturating_add(1),
                }
            }
            connected => return Ok((connected?, None)),
        }
    }
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
    Ok(match config.sources.get(&settings.source).ok_or_else(missing)? {
        SourceConfig::Files(files) => {
            let (store, prefix) = shared.storage.resolve(&files.path)?;
            Box::new(FilesSource::new(files.clone(), store, prefix, env)?)
        }
        SourceConfig::Stdin => {
            Box::new(Retained::new(Box::new(StdinSource::new(tokio::io::stdin(), STDIN_ROW_BYTES_MAX))))
        }
        SourceConfig::Replay(replay) => Box::new(ReplaySource::new(replay, env)),
    })
}

fn pipeline(
    config: &Config,
    name: &PipelineName,
    settings: &PipelineConfig,
    shared: &Shared,
    source: Box<dyn Source>,
    watch: Arc<Watch>,
    hard: CancellationToken,
) -> Result<Pipeline> {
    let route = Route::parse(&settings.table).map_err(|e| e.within(format!("pipeline {name}")))?;
    let anchor: TableName = match (&settings.anchor, route.constant()) {
        (Some(anchor), _) => anchor.parse()?,
        (None, Some(table)) => table.clone(),
        (None, None) => {
            return Err(Error::new(
                ErrorKind::Config,
                format!("pipeline {name}: a table name with {{field}} needs an anchor"),
            )
            .with_hint("set anchor to the table whose commits decide epochs"));
        }
    };
    Ok(Pipeline {
        shared: shared.clone(),
        name: name.clone(),
        options: LaneOptions::new(settings, config.limits.open_files),
        creation: Creation::new(settings),
        config: settings.clone(),
        source,
        route,
        anchor,
        lanes_max: config.limits.tables,
        depth: config.limits.workers.saturating_add(1),
        lanes: BTreeMap::new(),
        ahead: VecDeque::new(),
        epoch: Epoch::default(),
        cadence: Cadence::default(),
        finished: Vec::new(),
        watch,
        hard,
    })
}

#[cfg(test)]
mod tests;
