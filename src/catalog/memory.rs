//! A catalog within the process: the reference model that the other catalogs are compared with.
//!
//! One lock, no I/O, no await: with a seeded [`Env`] every run of it is the same.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use bytes::Bytes;

use super::apply::{self, Applied, Stamp};
use super::{Capabilities, Catalog, CreateTable, Outcome, PreparedCommit, document};
use crate::env::Env;
use crate::error::{Error, ErrorKind, Result};
use crate::model::ids::TableName;
use crate::model::table::TableState;

/// Tables and their metadata documents in memory; gone with the value.
#[derive(Debug)]
pub struct MemoryCatalog {
    env: Env,
    warehouse: String,
    contents: Mutex<Contents>,
}

#[derive(Debug, Default)]
struct Contents {
    namespaces: BTreeMap<Vec<String>, BTreeMap<String, String>>,
    tables: BTreeMap<TableName, TableState>,
    /// Every document ever written and not expired, by location: what `register` finds.
    documents: BTreeMap<String, Bytes>,
}

impl MemoryCatalog {
    /// An empty catalog that creates tables below `warehouse`; only their metadata is kept here.
    pub fn new(env: Env, warehouse: impl Into<String>) -> Self {
        Self { env, warehouse: warehouse.into(), contents: Mutex::default() }
    }

    /// The metadata document at `location`, packed as it was written.
    pub fn document(&self, location: &str) -> Option<Bytes> {
        self.lock().documents.get(location).cloned()
    }

    /// What a creation would make, without making it: the answer to a staged create.
    ///
    /// # Errors
    /// As [`apply::create`].
    pub fn stage(&self, create: &CreateTable) -> Result<TableState> {
        let uuid = self.env.uuid();
        let location = self.lock().location_for(create, &self.warehouse, uuid);
        apply::create(create, &location, uuid, self.stamp()).map(|applied| applied.state)
    }

    /// The properties of a namespace.
    ///
    /// # Errors
    /// `NotFound` when it is missing.
    pub fn namespace_properties(&self, namespace: &[String]) -> Result<BTreeMap<String, String>> {
        self.lock().namespaces.get(namespace).cloned().ok_or_else(|| no_namespace(namespace))
    }

    fn lock(&self) -> MutexGuard<'_, Contents> {
        self.contents.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn stamp(&self) -> Stamp {
        Stamp { now_ms: self.env.now_ms(), id: self.env.uuid() }
    }

    fn try_commit(&self, commit: &PreparedCommit) -> Result<TableState> {
        let stamp = self.stamp();
        let mut contents = self.lock();
        let base = contents.tables.get(&commit.table);
        let applied = apply::apply(&commit.table, base, &commit.requirements, commit.updates.clone(), stamp)?;
        if base.is_none() {
            contents.add_namespaces(commit.table.namespace());
        }
        Ok(contents.store(applied))
    }

    fn try_create(&self, create: &CreateTable) -> Result<TableState> {
        let uuid = self.env.uuid();
        let stamp = self.stamp();
        let mut contents = self.lock();
        contents.refuse_existing(&create.name)?;
        let location = contents.location_for(create, &self.warehouse, uuid);
        let applied = apply::create(create, &location, uuid, stamp)?;
        contents.add_namespaces(create.name.namespace());
        Ok(contents.store(applied))
    }

    fn try_register(&self, table: &TableName, location: &str) -> Result<TableState> {
        let mut contents = self.lock();
        contents.refuse_existing(table)?;
        contents.demand_namespace(table.namespace())?;
        let document =
            contents.documents.get(location).cloned().ok_or_else(|| {
                Error::new(ErrorKind::NotFound, format!("metadata document {location} does not exist"))
            })?;
        let state = apply::read(table, location, document)?;
        contents.tables.insert(table.clone(), state.clone());
        Ok(state)
    }
}

impl Contents {
    fn store(&mut self, applied: Applied) -> TableState {
        self.documents.insert(applied.location().to_owned(), applied.document);
        for location in &applied.expired {
            self.documents.remove(location);
        }
        self.tables.insert(applied.state.name.clone(), applied.state.clone());
        applied.state
    }

    fn location_for(&self, create: &CreateTable, warehouse: &str, uuid: uuid::Uuid) -> String {
        create.location.clone().unwrap_or_else(|| {
            document::default_location(warehouse, &create.name, uuid, |folder| {
                self.tables.values().any(|table| table.metadata.location() == folder)
            })
        })
    }

    fn add_namespaces(&mut self, namespace: &[String]) {
        for depth in 1..=namespace.len() {
            self.namespaces.entry(namespace[..depth].to_vec()).or_default();
        }
    }

    fn refuse_existing(&self, table: &TableName) -> Result<()> {
        if self.tables.contains_key(table) {
            return Err(Error::new(ErrorKind::Conflict, format!("table {table} exists already")));
        }
        Ok(())
    }

    fn demand_namespace(&self, namespace: &[String]) -> Result<()> {
        if namespace.is_empty() || self.namespaces.contains_key(namespace) {
            return Ok(());
        }
        Err(no_namespace(namespace))
    }
}

/// The outcome of work that is either done or not, never in doubt.
pub(super) fn definite(answer: Result<TableState>) -> Outcome {
    match answer {
        Ok(state) => Outcome::Committed(Box::new(state)),
        Err(e) => Outcome::Refused(e),
    }
}

pub(super) fn no_table(table: &TableName) -> Error {
    Error::new(ErrorKind::NotFound, format!("table {table} does not exist"))
}

pub(super) fn no_namespace(namespace: &[String]) -> Error {
    Error::new(ErrorKind::NotFound, format!("namespace {} does not exist", namespace.join(".")))
}

pub(super) fn check_namespace(namespace: &[String]) -> Result<()> {
    if namespace.is_empty() || namespace.iter().any(String::is_empty) {
        return Err(Error::new(ErrorKind::Input, format!("{namespace:?} is no namespace"))
            .with_hint("give one or more levels, none of them empty"));
    }
    Ok(())
}

#[async_trait]
impl Catalog for MemoryCatalog {
    async fn load(&self, table: &TableName) -> Result<TableState> {
        self.lock().tables.get(table).cloned().ok_or_else(|| no_table(table))
    }

    async fn commit(&self, commit: &PreparedCommit) -> Outcome {
        definite(self.try_commit(commit))
    }

    async fn create(&self, table: &CreateTable) -> Outcome {
        definite(self.try_create(table))
    }

    async fn register(&self, table: &TableName, metadata_location: &str) -> Outcome {
        definite(self.try_register(table, metadata_location))
    }

    async fn rename(&self, from: &TableName, to: &TableName) -> Result<()> {
        let mut contents = self.lock();
        if !contents.tables.contains_key(from) {
            return Err(no_table(from));
        }
        contents.demand_namespace(to.namespace())?;
        contents.refuse_existing(to)?;
        if let Some(mut state) = contents.tables.remove(from) {
            state.name = to.clone();
            contents.tables.insert(to.clone(), state);
        }
        Ok(())
    }

    async fn drop_table(&self, table: &TableName) -> Result<()> {
        self.lock().tables.remove(table).map(drop).ok_or_else(|| no_table(table))
    }

    async fn namespaces(&self, parent: &[String]) -> Result<Vec<Vec<String>>> {
        let contents = self.lock();
        contents.demand_namespace(parent)?;
        let below = |n: &&Vec<String>| n.len() == parent.len() + 1 && n.starts_with(parent);
        Ok(contents.namespaces.keys().filter(below).cloned().collect())
    }

    async fn create_namespace(&self, namespace: &[String], properties: &BTreeMap<String, String>) -> Result<()> {
        check_namespace(namespace)?;
        let mut contents = self.lock();
        if contents.namespaces.contains_key(namespace) {
            let name = namespace.join(".");
            return Err(Error::new(ErrorKind::Conflict, format!("namespace {name} exists already")));
        }
        contents.add_namespaces(namespace);
        contents.namespaces.insert(namespace.to_vec(), properties.clone());
        Ok(())
    }

    async fn drop_namespace(&self, namespace: &[String]) -> Result<()> {
        let mut contents = self.lock();
        contents.demand_namespace(namespace)?;
        let held = contents.tables.keys().any(|t| t.namespace() == namespace)
            || contents.namespaces.keys().any(|n| n.len() > namespace.len() && n.starts_with(namespace));
        if held || namespace.is_empty() {
            let name = namespace.join(".");
            return Err(Error::new(ErrorKind::Conflict, format!("namespace {name} is not empty")));
        }
        contents.namespaces.remove(namespace);
        Ok(())
    }

    async fn tables(&self, namespace: &[String]) -> Result<Vec<TableName>> {
        let contents = self.lock();
        contents.demand_namespace(namespace)?;
        Ok(contents.tables.keys().filter(|t| t.namespace() == namespace).cloned().collect())
    }

    async fn capabilities(&self) -> Result<Capabilities> {
        Ok(Capabilities::default())
    }
}
