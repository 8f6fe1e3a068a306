//! The catalog seam: the single writer of truth about a table.
//!
//! What we assume of a catalog (docs/protocol.md), tested by the contract suite in `tests/contract`:
//! - requirements and updates of one request apply atomically, or not at all;
//! - `assert-ref-snapshot-id` is honoured, and null means "must not exist";
//! - a snapshot with a parent whose sequence number is not above the last one is refused;
//! - a load after a commit's answer sees that commit.
//!
//! No answer is believed without the rules of `commit::protocol`.

pub mod apply;
mod auth;
pub mod connect;
pub mod document;
pub mod documents;
pub mod embedded;
pub(crate) mod faulty;
mod http;
pub mod listing;
pub mod memory;
pub mod outcome;
pub(crate) mod over;
mod paths;
pub mod profile;
pub mod rest;
mod sqlite;
mod wire;

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use async_trait::async_trait;
use iceberg::spec::{FormatVersion, Schema, SortOrder, UnboundPartitionSpec};
use iceberg::{TableRequirement, TableUpdate};

use crate::error::{Error, Result};
use crate::model::ids::TableName;
use crate::model::table::TableState;

/// One `updateTable` request.
#[derive(Debug, Clone)]
pub struct PreparedCommit {
    /// The table.
    pub table: TableName,
    /// What must hold.
    pub requirements: Vec<TableRequirement>,
    /// What changes.
    pub updates: Vec<TableUpdate>,
    /// Names this very submission to catalogs that remember keys; a new one after a definite refusal.
    pub idempotency_key: uuid::Uuid,
}

/// What is known after a request that changes something.
#[derive(Debug)]
pub enum Outcome {
    /// A clean yes.
    Committed(Box<TableState>),
    /// The request never left this process, or no connection was made.
    NotSent(Error),
    /// Definitely not done; ask again after this time.
    Throttled(Duration),
    /// The catalog says no. A claim, not a proof: a server that retries by itself refuses its own success.
    Refused(Error),
    /// Done or not done.
    Unknown(Error),
}

/// A table to be made. Field ids are proposals: those in the answer count.
#[derive(Debug, Clone)]
pub struct CreateTable {
    /// Its name; the namespace is created when missing.
    pub name: TableName,
    /// Where it lies; `None` leaves it to the catalog.
    pub location: Option<String>,
    /// Columns.
    pub schema: Schema,
    /// Partitioning, by source column ids of `schema`.
    pub spec: UnboundPartitionSpec,
    /// Order of rows within a file.
    pub sort_order: SortOrder,
    /// Format version.
    pub format_version: FormatVersion,
    /// Table properties.
    pub properties: HashMap<String, String>,
}

/// What a catalog can do beside the core.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Capabilities {
    /// Endpoints announced by a REST catalog, as `METHOD path`; empty when it announces none.
    pub endpoints: Vec<String>,
    /// Whether one request may change several tables.
    pub multi_table_commit: bool,
    /// Whether storage credentials come with a table.
    pub vends_credentials: bool,
}

/// A catalog of Iceberg tables.
#[async_trait]
pub trait Catalog: Send + Sync + std::fmt::Debug {
    /// The table's full metadata (every snapshot), never a cached copy.
    ///
    /// # Errors
    /// `NotFound` when there is no such table; `Denied`; `Unavailable` when nobody answers.
    async fn load(&self, table: &TableName) -> Result<TableState>;

    /// Applies one commit.
    async fn commit(&self, commit: &PreparedCommit) -> Outcome;

    /// Creates a table and, when missing, its namespace. `Refused` with kind `Conflict` when the table exists.
    async fn create(&self, table: &CreateTable) -> Outcome;

    /// Makes an existing metadata document a table. `Refused` with kind `Conflict` when the name is taken.
    async fn register(&self, table: &TableName, metadata_location: &str) -> Outcome;

    /// Renames a table.
    ///
    /// # Errors
    /// `NotFound` when `from` is missing, `Conflict` when `to` exists.
    async fn rename(&self, from: &TableName, to: &TableName) -> Result<()>;

    /// Forgets a table; its files stay.
    ///
    /// # Errors
    /// `NotFound` when there is no such table.
    async fn drop_table(&self, table: &TableName) -> Result<()>;

    /// All namespaces below `parent` (`&[]`: the top level), one level deep, each as its full path, in order.
    async fn namespaces(&self, parent: &[String]) -> Result<Vec<Vec<String>>>;

    /// Creates a namespace with properties.
    ///
    /// # Errors
    /// `Conflict` when it exists.
    async fn create_namespace(&self, namespace: &[String], properties: &BTreeMap<String, String>) -> Result<()>;

    /// Removes an empty namespace.
    ///
    /// # Errors
    /// `NotFound` when it is missing, `Conflict` when it is not empty.
    async fn drop_namespace(&self, namespace: &[String]) -> Result<()>;

    /// The tables of a namespace, in order.
    ///
    /// # Errors
    /// `NotFound` when there is no such namespace.
    async fn tables(&self, namespace: &[String]) -> Result<Vec<TableName>>;

    /// What this catalog can do.
    async fn capabilities(&self) -> Result<Capabilities>;
}
