//! The configuration: what a user may write, and what it means.
//!
//! `document` reads TOML into these types, `load` layers defaults < file < `FRAZIL__a__b` < `--set a.b=c` (the only reader
//! of the environment), `validate` reports all problems at once, each with its path. `reference` is the one table of all
//! settings.

mod assemble;
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
mod validate;
pub mod window;

pub use kafka::KafkaConfig;
pub use load::{Layers, Loaded};
pub use policy::Policies;
pub use problem::{Problem, Problems};
pub use resolve::Resolved;

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

/// A schema registry.
#[derive(Debug, Clone)]
pub struct RegistryConfig {
    /// The base URL of its API, path included.
    pub url: String,
    /// How to identify.
    pub auth: RegistryAuth,
    /// Until a connection stands.
    pub connect_timeout: Duration,
    /// Until a request is answered.
    pub request_timeout: Duration,
    /// Schemas that are kept.
    pub schemas_max: usize,
}

/// How to identify at a schema registry.
#[derive(Debug, Clone)]
pub enum RegistryAuth {
    /// Not at all.
    None,
    /// With a user's name and password.
    Basic {
        /// The name.
        user: String,
        /// The password.
        password: Secret,
    },
    /// With a fixed bearer token.
    Bearer(Secret),
}

/// How rows are decoded.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct DecodeConfig {
    /// What rows are.
    pub format: RowFormat,
    /// The registry that has the schemas which rows name by their ids.
    pub registry: Option<String>,
    /// The schema of all rows, where they name none.
    pub schema: Option<SchemaFile>,
    /// The Protobuf message in it that rows are, where it has several.
    pub message: Option<String>,
    /// How lines of values are cut.
    pub csv: CsvConfig,
    /// What numbers in timestamp columns count.
    pub epoch: Epoch,
    /// What rows are wrapped in.
    pub envelope: Envelope,
    /// How change events become rows.
    pub debezium: DebeziumConfig,
}

/// What rows are wrapped in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Envelope {
    /// Nothing.
    #[default]
    None,
    /// `{"schema", "payload"}`, as Kafka Connect's JSON converter writes it.
    Connect,
    /// Debezium's change events, with Connect's envelope around them or without.
    Debezium,
}

/// How change events become rows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DebeziumConfig {
    /// Columns beside those of the changed row, by name.
    pub columns: BTreeMap<String, DebeziumColumn>,
    /// What stands in an event for a value that did not change and was not sent.
    pub unavailable: String,
}

impl Default for DebeziumConfig {
    fn default() -> Self {
        use DebeziumColumn::{Op, Source, TsMs, Unavailable};
        let columns = [("_op", Op), ("_ts_ms", TsMs), ("_source", Source), ("_unavailable", Unavailable)];
        Self {
            columns: columns.map(|(name, what)| (name.to_owned(), what)).into_iter().collect(),
            unavailable: UNAVAILABLE.to_owned(),
        }
    }
}

/// What Debezium writes for a value that did not change and was not sent, unless it is told otherwise.
pub const UNAVAILABLE: &str = "__debezium_unavailable_value";

/// What a column beside those of the changed row holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DebeziumColumn {
    /// The kind of change: `c`, `u`, `d`, `r`, `t`, `m`, or `BEGIN` and `END`.
    Op,
    /// When the connector handled it.
    TsMs,
    /// Where it comes from.
    Source,
    /// The transaction it is part of.
    Transaction,
    /// The row before the change.
    Before,
    /// Names of columns whose value was not sent.
    Unavailable,
    /// What an application wrote into the log.
    Message,
}

/// How lines of values are cut.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CsvConfig {
    /// The names of the values, in order.
    pub columns: Vec<String>,
    /// What is between two of them.
    pub delimiter: char,
    /// What is around those that hold it.
    pub quote: char,
    /// The text that is NULL where it has no quotes around it.
    pub null: String,
}

impl Default for CsvConfig {
    fn default() -> Self {
        Self { columns: Vec::new(), delimiter: ',', quote: '"', null: String::new() }
    }
}

/// What rows are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum RowFormat {
    /// A JSON object each.
    #[default]
    Json,
    /// An Avro record each.
    Avro,
    /// A Protobuf message each.
    Protobuf,
    /// Values with a mark between them, one line each.
    Csv,
    /// Bytes that are kept as they are.
    Raw,
}

impl RowFormat {
    /// Whether rows cannot be read without a schema.
    pub fn has_schema(self) -> bool {
        matches!(self, Self::Avro | Self::Protobuf)
    }

    /// Its name for people.
    pub fn noun(self) -> &'static str {
        match self {
            Self::Json => "JSON",
            Self::Avro => "Avro",
            Self::Protobuf => "Protobuf",
            Self::Csv => "CSV",
            Self::Raw => "raw",
        }
    }
}

/// A file that was read with the configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SchemaFile {
    /// Where it is.
    pub path: PathBuf,
    /// What it holds.
    pub bytes: Vec<u8>,
}

/// What a number in a timestamp column counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Epoch {
    /// Seconds since 1970-01-01T00:00:00Z.
    Seconds,
    /// Milliseconds.
    #[default]
    Millis,
    /// Microseconds.
    Micros,
    /// Nanoseconds.
    Nanos,
}

impl Epoch {
    /// The unit of this short name: `s`, `ms`, `us`, `ns`.
    pub fn parse(text: &str) -> Option<Self> {
        match text {
            "s" => Some(Self::Seconds),
            "ms" => Some(Self::Millis),
            "us" => Some(Self::Micros),
            "ns" => Some(Self::Nanos),
            _ => None,
        }
    }
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
    /// Files that one epoch keeps open for one table before the largest is closed.
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
