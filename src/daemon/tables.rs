//! What all pipelines share: catalogs, storage, the ledger, and one actor per table.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use futures::FutureExt;
use futures::future::BoxFuture;

use crate::catalog::Catalog;
use crate::commit::protocol::Committer;
use crate::commit::traffic::Traffic;
use crate::daemon::table::TableHandle;
use crate::env::Env;
use crate::error::{Error, ErrorKind, Result};
use crate::model::ids::TableName;
use crate::model::table::TableState;
use crate::storage::Storage;
use crate::storage::anchors::Anchors;
use crate::storage::ledger::{Ledger, LedgerOwner};
use crate::storage::upload::Upload;
use crate::write::budget::Budget;
use crate::write::open_files::OpenFiles;
use crate::write::parquet::{Files, OpenFile};

/// Everything that does not belong to one pipeline. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Shared {
    /// Time, chance, names.
    pub env: Env,
    /// Names this process.
    pub instance: Arc<str>,
    /// The process's stores.
    pub storage: Storage,
    /// What was begun and not settled.
    pub ledger: Ledger,
    /// Where pipelines had their checkpoints.
    pub anchors: Anchors,
    /// The byte budget of all rows in memory.
    pub budget: Budget,
    /// Places for files of rows under way, over all pipelines.
    pub open_files: OpenFiles,
    /// Catalogs by their configured names.
    pub catalogs: Arc<BTreeMap<String, Arc<dyn Catalog>>>,
    /// Commits of rows on their way.
    pub traffic: Traffic,
    actors: Arc<Mutex<BTreeMap<(String, TableName), TableHandle>>>,
}

impl Shared {
    /// The shared part of a process; `kept` is what its disk keeps, `bounds` what all of it may hold.
    pub fn new(
        env: Env,
        instance: &str,
        storage: Storage,
        kept: (Ledger, Anchors),
        bounds: (Budget, OpenFiles),
        catalogs: BTreeMap<String, Arc<dyn Catalog>>,
    ) -> Self {
        Self {
            env,
            instance: instance.into(),
            storage,
            ledger: kept.0,
            anchors: kept.1,
            budget: bounds.0,
            open_files: bounds.1,
            catalogs: Arc::new(catalogs),
            traffic: Traffic::default(),
            actors: Arc::default(),
        }
    }

    /// A catalog.
    ///
    /// # Errors
    /// `Config` when there is none of that name.
    pub fn catalog(&self, name: &str) -> Result<&Arc<dyn Catalog>> {
        let missing = || Error::new(ErrorKind::Config, format!("there is no catalog {name:?}"));
        self.catalogs.get(name).ok_or_else(missing)
    }

    /// The tables that this process writes to, each with its catalog.
    pub fn written_to(&self) -> Vec<(String, TableName)> {
        self.actors.lock().unwrap_or_else(PoisonError::into_inner).keys().cloned().collect()
    }

    /// The actor of a table, started when it is first asked for.
    ///
    /// # Errors
    /// `Config` when there is no such catalog.
    pub fn table(&self, catalog: &str, name: &TableName) -> Result<TableHandle> {
        let source = Arc::clone(self.catalog(catalog)?);
        let mut actors = self.actors.lock().unwrap_or_else(PoisonError::into_inner);
        let start = || {
            let committer = Committer::new(
                self.env.clone(),
                source,
                self.storage.clone(),
                Some(self.ledger.clone()),
                name.clone(),
                self.instance.to_string(),
            );
            let committer = committer.among(self.traffic.of(catalog, name));
            TableHandle::start(self.env.clone(), committer, self.ledger.clone())
        };
        Ok(actors.entry((catalog.to_owned(), name.clone())).or_insert_with(start).clone())
    }

    /// Where an epoch's files for a table are made: noted in the ledger under `owner`, with the credentials that came with
    /// the table.
    ///
    /// # Errors
    /// `Config` for credentials that make no store.
    pub fn files(&self, state: &TableState, owner: LedgerOwner) -> Result<Files> {
        let storage = self.storage.vended(&state.config)?;
        let (uploads, ledger) = (storage.clone(), self.ledger.clone());
        Ok(Files {
            create: Arc::new(move |location| {
                let (storage, ledger, owner) = (uploads.clone(), ledger.clone(), owner.clone());
                async move {
                    let upload = storage.upload(&location, Some((ledger, owner))).await?;
                    Ok(Box::new(upload) as Box<dyn OpenFile>)
                }
                .boxed()
            }),
            remove: Arc::new(move |locations| {
                let storage = storage.clone();
                async move {
                    let results = storage.delete_all(locations).await;
                    results.into_iter().try_for_each(|(_, result)| result)
                }
                .boxed()
            }),
        })
    }
}

impl OpenFile for Upload {
    fn abort(&mut self) -> BoxFuture<'_, Result<()>> {
        Self::abort(self).boxed()
    }
}
