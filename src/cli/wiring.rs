//! Where the command line meets the rest of the program: catalogs, files and the daemon.

use std::collections::HashMap;
use std::sync::Arc;

use tokio_util::sync::CancellationToken;

use crate::api::Health;
use crate::catalog::{Catalog, connect};
use crate::cli::flags::TablesChoice;
use crate::cli::table;
use crate::commit::protocol::Committer;
use crate::config::Config;
use crate::daemon::{Daemon, Face};
use crate::env::Env;
use crate::error::{Error, ErrorKind, Result};
use crate::maintain::leftovers::Leftovers;
use crate::model::ids::TableName;
use crate::model::table::TableState;
use crate::storage::disk::{Disk, Hold, LocalDisk, MemoryDisk};
use crate::storage::iceberg_io::FileIo;
use crate::storage::ledger::Ledger;
use crate::storage::{Storage, StorageOptions};
use crate::telemetry::metrics::Metrics;

/// The catalog of this name in the configuration.
///
/// # Errors
/// `Config` when there is none of that name; what connecting says otherwise.
pub async fn catalog(config: &Config, name: &str, env: &Env) -> Result<Arc<dyn Catalog>> {
    let Some(settings) = config.catalogs.get(name) else {
        let known: Vec<&str> = config.catalogs.keys().map(String::as_str).collect();
        let hint = match known.as_slice() {
            [] => "name a configuration with -c, or a catalog with --uri or --embedded".to_owned(),
            known => format!("the configuration has {}", known.join(", ")),
        };
        return Err(Error::new(ErrorKind::Config, format!("there is no catalog {name:?}")).with_hint(hint));
    };
    let storage = storage(config, env);
    connect::connect(settings, env, Arc::new(move |location| storage.resolve(location))).await
}

/// What reads the files of this table, with the credentials that apply to it.
///
/// # Errors
/// `Config` when no store is configured for its location.
pub async fn file_io(config: &Config, table: &TableState, env: &Env) -> Result<FileIo> {
    Ok(storage(config, env).vended(&table.config)?.file_io())
}

/// Whether a store takes objects below `folder`, with the credentials that a catalog vends for it: writes one, reads it, and removes it.
///
/// # Errors
/// What the store says at the first step that fails.
pub async fn probe(config: &Config, folder: &str, vended: &HashMap<String, String>, env: &Env) -> Result<()> {
    let storage = storage(config, env).vended(vended)?;
    let folder = crate::daemon::absolute(folder)?;
    let location = format!("{}/frazil-probe-{}", folder.trim_end_matches('/'), env.uuid());
    let bytes = bytes::Bytes::from_static(b"written and removed by frazil check --connect");
    storage.write_new(&location, bytes.clone()).await?;
    let read = storage.read(&location).await;
    let deleted = storage.delete(&location).await;
    if read? != bytes {
        return Err(Error::new(ErrorKind::Corrupt, format!("{location} was read back with other bytes")));
    }
    deleted
}

/// What commits to this table for an operator, and the table. With a ledger, its objects are noted there.
///
/// # Errors
/// As [`catalog`]; `NotFound` when there is no such table.
pub async fn committer(
    config: &Config,
    catalog_name: &str,
    table: &TableName,
    env: &Env,
    ledger: Option<&Ledger>,
) -> Result<(Committer, TableState)> {
    let (catalog, storage) = (catalog(config, catalog_name, env).await?, storage(config, env));
    let instance = config.instance.clone();
    let mut committer = Committer::new(env.clone(), catalog, storage, ledger.cloned(), table.clone(), instance);
    let state = committer.load().await?;
    Ok((committer, state))
}

/// Where files of maintenance that are under way are noted, held against other processes; a memory for a dry run.
///
/// # Errors
/// `Unavailable` while another process has it; what the disk says.
pub(crate) async fn workplace(config: &Config, dry_run: bool, env: &Env) -> Result<(Arc<dyn Disk>, Option<Hold>)> {
    if dry_run {
        return Ok((Arc::new(MemoryDisk::new()), None));
    }
    let disk = LocalDisk::new(config.state_dir.join("compact"), env.clone());
    let hold = disk.hold().await?;
    Ok((Arc::new(disk), Some(hold)))
}

/// Where tables are maintained one after the other.
pub(crate) struct Workplace<'a> {
    config: &'a Config,
    catalog: String,
    pub(crate) env: Env,
    pub(crate) leftovers: Leftovers,
}

impl Workplace<'_> {
    /// What commits to a table, with what is under way noted.
    pub(crate) async fn committer(&self, table: &TableName) -> Result<Committer> {
        let ledger = Some(self.leftovers.ledger());
        Ok(committer(self.config, &self.catalog, table, &self.env, ledger).await?.0)
    }
}

/// Works on each of the chosen tables; one that fails stops no other.
///
/// # Errors
/// What the catalog says when it is asked which there are; as [`workplace`].
pub(crate) async fn on_each<T>(
    config: &Config,
    of: &TablesChoice,
    dry_run: bool,
    work: impl AsyncFn(&Workplace<'_>, &TableName) -> Result<T>,
) -> Result<Vec<(TableName, Result<T>)>> {
    let env = Env::system().with_cores(config.limits.workers);
    let name = table::chosen(config, &of.from, Some(&of.tables))?;
    let tables = table::matching(&catalog(config, &name, &env).await?, &name, &of.tables).await?;
    let (disk, _hold) = workplace(config, dry_run, &env).await?;
    let place = Workplace { config, catalog: name, leftovers: Leftovers::open(disk).await?, env };
    let mut outcomes = Vec::new();
    for table in tables {
        let outcome = work(&place, &table).await;
        outcomes.push((table, outcome));
    }
    Ok(outcomes)
}

/// The stores of a configuration.
pub(crate) fn storage(config: &Config, env: &Env) -> Storage {
    Storage::new(StorageOptions::of(config), env.clone())
}

/// Runs every pipeline until all have ended or `token` is cancelled.
///
/// # Errors
/// What keeps the daemon from starting. A pipeline that halts is told by `health`.
pub async fn run(
    config: Arc<Config>,
    env: Env,
    metrics: Metrics,
    health: Health,
    token: CancellationToken,
) -> Result<()> {
    let disk = Arc::new(LocalDisk::new(config.state_dir.clone(), env.clone()));
    let daemon = Daemon::assemble(&config, &env, disk, Face { metrics, health }, &token).await?;
    daemon.run(token).await;
    Ok(())
}
