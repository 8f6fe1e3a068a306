//! How rows are decoded, and where their schemas are.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::config::{ClientTls, ReadFile, Secret};

/// A schema registry.
#[derive(Debug, Clone)]
pub struct RegistryConfig {
    /// The base URL of its API, path included.
    pub url: String,
    /// How to identify.
    pub auth: RegistryAuth,
    /// Whom it must be, and who we are.
    pub tls: ClientTls,
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
    pub schema: Option<ReadFile>,
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

impl DecodeConfig {
    /// Why rows of the format are in no such envelope, and the way out; none where they may be.
    pub(crate) fn envelope_problem(&self) -> Option<(&'static str, &'static str)> {
        Some(match (self.envelope, self.format) {
            (Envelope::None, _) | (Envelope::Debezium, RowFormat::Json | RowFormat::Avro) => return None,
            (Envelope::Connect, RowFormat::Json) if self.registry.is_none() => return None,
            (Envelope::Connect, RowFormat::Json | RowFormat::Avro) => (
                "rows with a schema of their own are in no envelope of Connect's",
                "remove decode.envelope: the schema says the types, those of Connect and Debezium among them",
            ),
            (Envelope::Debezium, RowFormat::Protobuf) => (
                "change events are read in JSON and Avro only",
                "let the connector's value.converter write one of these, or remove decode.envelope",
            ),
            _ => (
                "only JSON rows, and change events in Avro, have an envelope",
                "set decode.format = \"json\", or remove decode.envelope",
            ),
        })
    }
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
    /// The names of the values, in order; none where the first line of each file has them.
    pub columns: Vec<String>,
    /// Whether the first line of each file has the names.
    pub header: bool,
    /// What is between two of them.
    pub delimiter: char,
    /// What is around those that hold it.
    pub quote: char,
    /// The text that is NULL where it has no quotes around it.
    pub null: String,
}

impl Default for CsvConfig {
    fn default() -> Self {
        Self { columns: Vec::new(), header: false, delimiter: ',', quote: '"', null: String::new() }
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
