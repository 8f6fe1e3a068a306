//! The configuration: what a user may write, and what it means.
//!
//! `document` reads TOML into these types, `load` layers defaults < file < `FRAZIL__a__b` < `--set a.b=c` (the only reader
//! of the environment), `validate` reports all problems at once, each with its path. `reference` is the one table of all
//! settings.

mod assemble;
pub mod decode;
mod document;
pub mod kafka;
pub mod layout_text;
pub mod load;
pub mod page;
pub mod policy;
pub mod problem;
pub mod quantity;
mod reading;
pub mod reference;
pub mod resolve;
mod show;
pub mod stores;
pub mod tls;
mod validate;
pub mod window;

pub use decode::{
    CsvConfig, DebeziumColumn, DebeziumConfig, DecodeConfig, Envelope, Epoch, RegistryAuth, RegistryConfig, RowFormat,
    UNAVAILABLE,
};
pub use kafka::KafkaConfig;
pub use load::{Layers, Loaded};
pub use policy::Policies;
pub use problem::{Problem, Problems};
pub use resolve::Resolved;
pub use tls::{ClientTls, ReadFile};

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

pub use crate::model::change::OnRollback;
use crate::model::ids::PipelineName;

/// A whole, valid configuration. Settings only: no live objects.
#[derive(Debug, Clone)]
pub struct Config {
    /// Names this process in commits and file names; stable over restarts. Default: the host's name.
    pub instance: String,
    /// Where what must survive a crash is kept: the ledger of staged files.
    pub state_dir: PathBuf,
    /// What this daemon does.
    pub role: Role,
    /// Catalogs by name.
    pub catalogs: BTreeMap<String, CatalogConfig>,
    /// Stores by URL prefix; the longest prefix of a location wins.
    pub stores: Vec<StoreConfig>,
    /// Schema registries by name.
    pub registries: BTreeMap<String, RegistryConfig>,
    /// Sources by name.
    pub sources: BTreeMap<String, SourceConfig>,
    /// Pipelines by name.
    pub pipelines: BTreeMap<PipelineName, PipelineConfig>,
    /// How tables are kept small, by globs over their names.
    pub policies: Policies,
    /// What the daemon's jobs may use.
    pub maintenance: MaintenanceConfig,
    /// Limits over the whole process.
    pub limits: Limits,
    /// The HTTP listener for metrics and health.
    pub api: ApiConfig,
    /// How long a shutdown may take to seal and commit what is open.
    pub shutdown_grace: Duration,
}

/// A text that is never shown.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// A secret of this text.
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// The text, for the one who must send it.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("***")
    }
}

/// One catalog.
#[derive(Debug, Clone)]
pub enum CatalogConfig {
    /// A REST catalog.
    Rest(Box<RestConfig>),
    /// One SQLite file; metadata and data in the warehouse.
    Embedded {
        /// The SQLite file.
        path: PathBuf,
        /// Where tables are created: a folder or URL.
        warehouse: String,
    },
    /// Within this process, gone with it: for tries and tests.
    Memory {
        /// Where tables are created.
        warehouse: String,
    },
}

/// How to reach a REST catalog.
#[derive(Debug, Clone)]
pub struct RestConfig {
    /// The base URI, before `/v1`.
    pub uri: String,
    /// The warehouse to ask for.
    pub warehouse: Option<String>,
    /// How to identify.
    pub auth: RestAuth,
    /// Headers sent with every request.
    pub headers: BTreeMap<String, Secret>,
    /// The product, one of `reference::CATALOG_PROFILES`.
    pub profile: Option<String>,
    /// Ask for vended storage credentials.
    pub vended_credentials: bool,
    /// Until a connection stands.
    pub connect_timeout: Duration,
    /// Until a request is answered; after it the outcome is unknown.
    pub request_timeout: Duration,
}

/// How to identify at a REST catalog.
#[derive(Debug, Clone)]
pub enum RestAuth {
    /// Not at all.
    None,
    /// A fixed bearer token.
    Bearer(Secret),
    /// OAuth2 client credentials.
    OAuth2 {
        /// The client's id.
        client_id: String,
        /// The client's secret.
        client_secret: Secret,
        /// The token endpoint; by default `v1/oauth/tokens` of the catalog.
        server_uri: Option<String>,
        /// The scope to ask for.
        scope: Option<String>,
        /// Further form fields, such as `audience` or `resource`.
        parameters: BTreeMap<String, String>,
    },
}

/// Access to one store.
#[derive(Debug, Clone)]
pub struct StoreConfig {
    /// Locations that begin with this belong to it: `s3://bucket`.
    pub prefix: String,
    /// Options as `object_store` names them (`region`, `endpoint`, `access_key_id`, …).
    pub options: BTreeMap<String, Secret>,
}

/// One source.
#[derive(Debug, Clone)]
pub enum SourceConfig {
    /// A folder or object prefix, followed as it grows.
    Files(FilesConfig),
    /// Standard input, one row a line. At least once: what the sender repeats is stored again.
    Stdin,
    /// A generated stream.
    Replay(ReplayConfig),
    /// Topics of a Kafka cluster.
    Kafka(Box<KafkaConfig>),
}

/// A folder or object prefix to follow.
#[derive(Debug, Clone)]
pub struct FilesConfig {
    /// The folder or URL.
    pub path: String,
    /// Names to read, as a glob below `path`.
    pub glob: String,
    /// How often to look for new files.
    pub poll: Duration,
    /// End when everything there has been read.
    pub until_end: bool,
    /// The longest row; a longer one is rejected.
    pub row_bytes_max: u64,
    /// Lines at the beginning of each file that are no rows.
    pub skip_lines: u64,
    /// A compressed file that unpacks to more than this many times its size is cut off and rejected.
    pub expansion_max: u64,
    /// How many files below the watermark may have been read as exceptions before the source halts.
    pub late_files_max: usize,
}

/// A deterministic web shop.
#[derive(Debug, Clone)]
pub struct ReplayConfig {
    /// The same seed gives the same rows.
    pub seed: u64,
    /// Parallel logs, each with its own positions.
    pub partitions: u32,
    /// Rows a second over all partitions; `None`: as fast as they are taken.
    pub rate: Option<u64>,
    /// Rows per partition after which the stream ends; `None`: never.
    pub rows: Option<u64>,
}

/// One pipeline: a source into a table, or into many by a field.
#[derive(Debug, Clone)]
pub struct PipelineConfig {
    /// The source's name.
    pub source: String,
    /// The catalog's name.
    pub catalog: String,
    /// Namespace and table; `{field}` stands for the value of a top-level field.
    pub table: String,
    /// The table that decides epochs of a pipeline with `{field}` in `table`.
    pub anchor: Option<String>,
    /// The branch to write to.
    pub branch: String,
    /// How tables are created.
    pub create: CreateConfig,
    /// How rows are decoded.
    pub decode: DecodeConfig,
    /// How the schema changes.
    pub schema: SchemaConfig,
    /// When an epoch is sealed.
    pub commit: CommitConfig,
    /// What becomes of rejects.
    pub rejects: RejectsConfig,
    /// Metadata columns to add, by column name.
    pub metadata: BTreeMap<String, MetadataColumn>,
    /// What to do when the table's branch was rolled back.
    pub on_rollback: OnRollback,
}

/// How missing tables are created.
#[derive(Debug, Clone)]
pub struct CreateConfig {
    /// Columns as `name: type` in Iceberg's words (`"id long not null"`); empty: inferred from the first rows.
    pub columns: Vec<ColumnConfig>,
    /// Partition fields, such as `day(order_ts)`, `bucket(16, customer_id)`, `region`.
    pub partition: Vec<String>,
    /// Sort fields, such as `customer_id`, `order_ts desc nulls last`.
    pub sort: Vec<String>,
    /// Table properties.
    pub properties: BTreeMap<String, String>,
    /// Where the table lies; `None` leaves it to the catalog.
    pub location: Option<String>,
    /// 2 or 3.
    pub format_version: u8,
}

/// One column to create.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ColumnConfig {
    /// Its name.
    pub name: String,
    /// Its type as the specification writes it: `long`, `decimal(9,2)`, `struct<a: int>`, `list<string>`, `map<string, int>`.
    pub kind: String,
    /// Whether NULL is refused.
    pub required: bool,
}

/// How a table's schema follows the rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SchemaConfig {
    /// What a new field, a wider number or a missing required value does.
    pub on_change: OnChange,
    /// Rows that inference looks at.
    pub infer_rows: usize,
    /// The most columns, nested ones included, that evolution may reach.
    pub columns_max: usize,
}

/// What a change of shape in the rows does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnChange {
    /// The table's schema evolves: add, widen, relax.
    Evolve,
    /// Unknown fields are ignored (and counted); values that do not fit reject their row.
    Freeze,
    /// Rows with unknown fields or values that do not fit are rejected.
    Quarantine,
}

/// When an epoch is sealed: whichever comes first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CommitConfig {
    /// The oldest row waits at most about this long.
    pub freshness: Duration,
    /// Rows in an epoch.
    pub rows_max: u64,
    /// Bytes of files in an epoch.
    pub bytes_max: u64,
    /// Size at which a data file is closed; `None`: the table's `write.target-file-size-bytes`.
    pub target_file_size: Option<u64>,
}

/// What becomes of rejects.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct RejectsConfig {
    /// Where they go.
    pub to: RejectsTo,
    /// How many may be rejected before the pipeline halts.
    pub halt_above: RejectLimit,
}

/// The share of rows above which rejects halt a pipeline.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct RejectLimit {
    /// The share, from 0 to 1; 1.0 never halts.
    pub share: f64,
    /// Of the rows that were read in so long a time; `None`: of the rows of each epoch.
    pub window: Option<Duration>,
}

impl RejectLimit {
    /// Any number.
    pub const NEVER: Self = Self { share: 1.0, window: None };
}

/// Where rejects go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RejectsTo {
    /// To `<table>__rejects`, in the same epoch as their neighbours.
    Table,
    /// Nowhere: counted and dropped.
    Count,
    /// The first reject halts the pipeline.
    Halt,
}

/// What a metadata column holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MetadataColumn {
    /// Where the row was read (string).
    Origin,
    /// The source partition (string).
    Partition,
    /// The row's number within its origin (long).
    Number,
    /// When the source says the row was written (timestamptz).
    Timestamp,
    /// When this process read it (timestamptz).
    IngestedAt,
    /// The row's key (binary), where the source has keys.
    Key,
    /// The same as text (string); bytes that are no UTF-8 as `\xff`.
    KeyText,
    /// The row's headers as a JSON array of `{"key", "value"}`, `{"key", "base64"}` where a value is no text (string).
    Headers,
}

/// What a daemon does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Role {
    /// Pipelines and maintenance.
    #[default]
    All,
    /// Pipelines.
    Ingest,
    /// Maintenance.
    Maintain,
}

impl Role {
    /// Whether it runs pipelines.
    pub fn ingests(self) -> bool {
        self != Self::Maintain
    }

    /// Whether it maintains tables.
    pub fn maintains(self) -> bool {
        self != Self::Ingest
    }
}

/// What the daemon's jobs may use.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct MaintenanceConfig {
    /// Share of the workers that rewrites may use on average, from 0 to 1.
    pub cpu: f64,
    /// Bytes that rewrites may hold together.
    pub memory: u64,
    /// Tables that are rewritten at once.
    pub parallel: usize,
    /// Tables that are looked at at once.
    pub loads: usize,
    /// How long a claim on a table holds.
    pub claim: Duration,
}

impl Default for MaintenanceConfig {
    fn default() -> Self {
        Self { cpu: 0.15, memory: 256 << 20, parallel: 1, loads: 8, claim: Duration::from_secs(300) }
    }
}

/// Limits over the whole process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Bytes that rows may hold between source and committed file.
    pub memory: u64,
    /// Files of rows that all pipelines keep open at once, over all tables; rows of more partitions wait in memory.
    pub open_files: usize,
    /// Tables that one pipeline may feed.
    pub tables: usize,
    /// Requests to stores under way at once.
    pub store_requests: usize,
    /// Times one store request is tried again.
    pub store_retries: usize,
    /// Threads for decoding and encoding.
    pub workers: usize,
}

/// The HTTP listener.
#[derive(Debug, Clone)]
pub struct ApiConfig {
    /// `address:port`; `None`: no listener. Only loopback goes without a token.
    pub listen: Option<std::net::SocketAddr>,
    /// The bearer token that every request but health needs when the address is not loopback.
    pub token: Option<Secret>,
}
