//! A catalog in one SQLite file, metadata documents in the warehouse: no server needed.
//!
//! A commit writes its document, durable, then swaps one pointer in one transaction. Several processes may share the file.

use std::collections::BTreeMap;
use std::fs::{File, TryLockError};
use std::io::{Read, Seek, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use async_trait::async_trait;

use super::apply::{self, Applied, Stamp};
use super::documents::{Documents, Resolver};
use super::memory::{check_namespace, no_table};
use super::sqlite::{Failure, Pointer, Store};
use super::{Capabilities, Catalog, CreateTable, Outcome, PreparedCommit, document};
use crate::env::Env;
use crate::error::{Context, Error, ErrorKind, Result};
use crate::model::ids::TableName;
use crate::model::table::TableState;

/// Times a commit that lost the swap is checked against the new metadata before it is refused.
const SWAPS_MAX: usize = 16;

/// Times a load follows a pointer that moves while its document is deleted.
const LOADS_MAX: usize = 8;

/// A catalog of one SQLite file and a warehouse.
#[derive(Debug)]
pub struct EmbeddedCatalog {
    env: Env,
    path: PathBuf,
    warehouse: String,
    documents: Documents,
    store: Arc<Store>,
}

/// The exclusive use of an embedded catalog by one daemon; ends with the value, or with the process.
#[derive(Debug)]
#[must_use = "the claim ends when it is dropped"]
pub struct Claim {
    _lock: File,
}

impl EmbeddedCatalog {
    /// Opens the catalog at `path`, made when missing; tables are created below `warehouse`, a folder or URL.
    ///
    /// # Errors
    /// `Corrupt`: no SQLite file; `Config`: another program's; `Unsupported`: a newer version's; `Denied`: not writable.
    pub async fn open(env: &Env, path: &Path, warehouse: &str, resolver: Resolver) -> Result<Self> {
        let absolute = |path: &Path| {
            std::path::absolute(path).context(ErrorKind::Config, || format!("the path {}", path.display()))
        };
        let path = absolute(path)?;
        let warehouse = if warehouse.contains(':') {
            warehouse.to_owned()
        } else {
            absolute(Path::new(warehouse))?.display().to_string()
        };
        let file = path.clone();
        let store = env.offload(move || Store::open(&file)).await??;
        let documents = Documents::new(env.clone(), resolver);
        Ok(Self { env: env.clone(), path, warehouse, documents, store: Arc::new(store) })
    }

    /// Claims the catalog for one daemon. Commits are right without it; it only keeps two daemons from doing work twice.
    ///
    /// # Errors
    /// `Unavailable` when another process holds the claim; `Denied` when the lock file cannot be written.
    pub async fn claim(&self) -> Result<Claim> {
        let path = self.path.clone();
        self.env.offload(move || claim(&path)).await?
    }

    async fn on_store<T: Send + 'static>(&self, work: impl FnOnce(&Store) -> T + Send + 'static) -> Result<T> {
        let store = self.store.clone();
        self.env.offload(move || work(&store)).await
    }

    async fn pointer(&self, table: &TableName) -> Result<Option<Pointer>> {
        let table = table.clone();
        self.on_store(move |store| store.pointer(&table)).await?
    }

    async fn find(&self, table: &TableName) -> Result<Option<TableState>> {
        let mut missing: Option<(String, Error)> = None;
        for _ in 0..LOADS_MAX {
            let Some(pointer) = self.pointer(table).await? else { return Ok(None) };
            let location = pointer.metadata_location;
            match missing {
                // The pointer did not move: the document is gone for good.
                Some((ref gone, _)) if *gone == location => break,
                _ => {}
            }
            match self.documents.read(&location).await {
                Ok(bytes) => {
                    let table = table.clone();
                    return self.env.offload(move || apply::read(&table, &location, bytes)).await?.map(Some);
                }
                Err(e) if e.kind() == ErrorKind::NotFound => missing = Some((location, e)),
                Err(e) => return Err(e.within(format!("table {table}"))),
            }
        }
        let (location, error) = missing.unwrap_or_else(|| {
            (String::new(), Error::new(ErrorKind::Unavailable, "its metadata changes faster than it can be read"))
        });
        Err(Error::new(ErrorKind::Corrupt, format!("table {table}: its metadata document {location} is gone"))
            .with_source(error)
            .with_hint("restore the file, or drop the table and register an older document of its metadata folder"))
    }

    fn stamp(&self) -> Stamp {
        Stamp { now_ms: self.env.now_ms(), id: self.env.uuid() }
    }

    async fn try_commit(&self, commit: &PreparedCommit) -> Result<TableState, Failure> {
        for _ in 0..SWAPS_MAX {
            let base = self.find(&commit.table).await?;
            let old = base.as_ref().and_then(|b| b.metadata_location.clone());
            let (request, stamp) = (commit.clone(), self.stamp());
            let apply =
                move || apply::apply(&request.table, base.as_ref(), &request.requirements, request.updates, stamp);
            let applied = self.env.offload(apply).await??;
            let Some(old) = old else { return self.add(applied, true).await };
            if let Some(state) = self.swap(old, applied).await? {
                return Ok(state);
            }
        }
        let table = &commit.table;
        Err(Error::new(ErrorKind::Conflict, format!("commit to table {table}: others were faster {SWAPS_MAX} times"))
            .into())
    }

    /// Swaps the pointer to a new document; `None` when another commit was faster.
    async fn swap(&self, old: String, applied: Applied) -> Result<Option<TableState>, Failure> {
        let new = self.write(&applied).await?;
        let table = applied.state.name.clone();
        let swapped = self.on_store(move |store| store.swap(&table, &old, &new)).await?;
        match swapped {
            Ok(true) => {
                for location in &applied.expired {
                    // Nothing names it any more; what stays behind is the orphan sweep's.
                    let _ = self.documents.delete(location).await;
                }
                Ok(Some(applied.state))
            }
            Ok(false) => {
                self.discard(&applied).await;
                Ok(None)
            }
            Err(failure) => Err(self.give_up(&applied, failure).await),
        }
    }

    /// Adds a new table with its first document.
    async fn add(&self, applied: Applied, with_namespace: bool) -> Result<TableState, Failure> {
        let new = self.write(&applied).await?;
        let table = applied.state.name.clone();
        match self.on_store(move |store| store.insert(&table, &new, with_namespace)).await? {
            Ok(()) => Ok(applied.state),
            Err(failure) => Err(self.give_up(&applied, failure).await),
        }
    }

    async fn write(&self, applied: &Applied) -> Result<Pointer> {
        let state = &applied.state;
        self.documents
            .write_new(applied.location(), applied.document.clone())
            .await
            .map_err(|e| e.within(format!("table {}", state.name)))?;
        Ok(Pointer { location: state.metadata.location().to_owned(), metadata_location: applied.location().to_owned() })
    }

    /// Removes a document that the file refused: its pointer was never written, so nothing can ever name it.
    async fn discard(&self, applied: &Applied) {
        let _ = self.documents.delete(applied.location()).await;
    }

    async fn give_up(&self, applied: &Applied, failure: Failure) -> Failure {
        if matches!(failure, Failure::Definite(_)) {
            self.discard(applied).await;
        }
        failure
    }

    async fn try_create(&self, create: &CreateTable) -> Result<TableState, Failure> {
        if self.pointer(&create.name).await?.is_some() {
            return Err(Error::new(ErrorKind::Conflict, format!("table {} exists already", create.name)).into());
        }
        let uuid = self.env.uuid();
        let location = match &create.location {
            Some(location) => location.clone(),
            None => {
                let plain = document::default_location(&self.warehouse, &create.name, uuid, |_| false);
                let taken = self.on_store(move |store| store.is_taken(&plain)).await??;
                document::default_location(&self.warehouse, &create.name, uuid, |_| taken)
            }
        };
        let applied = apply::create(create, &location, uuid, self.stamp())?;
        self.add(applied, true).await
    }

    async fn try_register(&self, table: &TableName, location: &str) -> Result<TableState, Failure> {
        let bytes = self.documents.read(location).await.map_err(|e| e.within(format!("register table {table}")))?;
        let state = apply::read(table, location, bytes)?;
        let new = Pointer { location: state.metadata.location().to_owned(), metadata_location: location.to_owned() };
        let name = table.clone();
        self.on_store(move |store| store.insert(&name, &new, false)).await??;
        Ok(state)
    }
}

/// What the caller is told. Trouble before the swap is as good as a request that never left.
fn outcome(answer: Result<TableState, Failure>) -> Outcome {
    match answer {
        Ok(state) => Outcome::Committed(Box::new(state)),
        Err(Failure::Definite(e)) if e.kind() == ErrorKind::Unavailable => Outcome::NotSent(e),
        Err(Failure::Definite(e)) => Outcome::Refused(e),
        Err(Failure::InDoubt(e)) => Outcome::Unknown(e),
    }
}

fn claim(catalog: &Path) -> Result<Claim> {
    let mut path = catalog.as_os_str().to_owned();
    path.push(".lock");
    let path = PathBuf::from(path);
    let unwritable = |e: std::io::Error| {
        Error::new(ErrorKind::Denied, format!("lock file {}", path.display()))
            .with_source(e)
            .with_hint("let this user write to the folder of the embedded catalog")
    };
    // Not truncated: while another holds the lock, its number stands here.
    let mut lock =
        File::options().read(true).write(true).create(true).truncate(false).open(&path).map_err(unwritable)?;
    match lock.try_lock() {
        Ok(()) => {
            let number = lock.set_len(0).and_then(|()| lock.rewind());
            number.and_then(|()| writeln!(lock, "{}", std::process::id())).map_err(unwritable)?;
            Ok(Claim { _lock: lock })
        }
        Err(TryLockError::Error(e)) => Err(unwritable(e)),
        Err(TryLockError::WouldBlock) => {
            let mut owner = String::new();
            let _ = lock.take(32).read_to_string(&mut owner);
            let owner = owner.trim();
            let owner = if owner.is_empty() { "unknown" } else { owner };
            Err(Error::new(
                ErrorKind::Unavailable,
                format!("another frazil daemon (pid {owner}) uses the embedded catalog {}", catalog.display()),
            )
            .with_hint("end that process, or give this daemon a catalog of its own"))
        }
    }
}

#[async_trait]
impl Catalog for EmbeddedCatalog {
    async fn load(&self, table: &TableName) -> Result<TableState> {
        self.find(table).await?.ok_or_else(|| no_table(table))
    }

    async fn commit(&self, commit: &PreparedCommit) -> Outcome {
        outcome(self.try_commit(commit).await)
    }

    async fn create(&self, table: &CreateTable) -> Outcome {
        outcome(self.try_create(table).await)
    }

    async fn register(&self, table: &TableName, metadata_location: &str) -> Outcome {
        outcome(self.try_register(table, metadata_location).await)
    }

    async fn rename(&self, from: &TableName, to: &TableName) -> Result<()> {
        let (from, to) = (from.clone(), to.clone());
        self.on_store(move |store| store.rename(&from, &to)).await?
    }

    async fn drop_table(&self, table: &TableName) -> Result<()> {
        let table = table.clone();
        self.on_store(move |store| store.drop_table(&table)).await?
    }

    async fn namespaces(&self, parent: &[String]) -> Result<Vec<Vec<String>>> {
        let parent = parent.to_vec();
        self.on_store(move |store| store.namespaces(&parent)).await?
    }

    async fn create_namespace(&self, namespace: &[String], properties: &BTreeMap<String, String>) -> Result<()> {
        check_namespace(namespace)?;
        let (namespace, properties) = (namespace.to_vec(), properties.clone());
        self.on_store(move |store| store.create_namespace(&namespace, &properties)).await?
    }

    async fn drop_namespace(&self, namespace: &[String]) -> Result<()> {
        let namespace = namespace.to_vec();
        self.on_store(move |store| store.drop_namespace(&namespace)).await?
    }

    async fn tables(&self, namespace: &[String]) -> Result<Vec<TableName>> {
        let namespace = namespace.to_vec();
        self.on_store(move |store| store.tables(&namespace)).await?
    }

    async fn capabilities(&self) -> Result<Capabilities> {
        Ok(Capabilities::default())
    }
}

#[cfg(test)]
mod tests;
