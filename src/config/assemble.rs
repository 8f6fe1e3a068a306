//! From settings to a [`Config`]. What is missing here was reported before; a stand-in keeps the types whole until the
//! problems are raised.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use crate::config::reading::Value;
use crate::config::resolve::Resolved;
use crate::config::{
    ApiConfig, CatalogConfig, ClientTls, ColumnConfig, CommitConfig, Config, CreateConfig, CsvConfig, DebeziumColumn,
    DebeziumConfig, DecodeConfig, Envelope, Epoch, FilesConfig, Limits, MaintenanceConfig, MetadataColumn, OnChange,
    OnRollback, PipelineConfig, Policies, ReadFile, RegistryAuth, RegistryConfig, RejectLimit, RejectsConfig,
    RejectsTo, ReplayConfig, RestAuth, RestConfig, Role, RowFormat, SchemaConfig, Secret, SourceConfig, StoreConfig,
    kafka, layout_text,
};
use crate::model::ids::PipelineName;

/// Settings below one section.
#[derive(Clone, Copy)]
struct Section<'a> {
    resolved: &'a Resolved,
    path: &'a [&'a str],
}

impl Section<'_> {
    fn value(&self, name: &str) -> Option<&Value> {
        let path: Vec<&str> = self.path.iter().copied().chain(name.split('.')).collect();
        self.resolved.setting(&path).map(|setting| &setting.value)
    }

    fn text_if(&self, name: &str) -> Option<String> {
        match self.value(name) {
            Some(Value::Text(text)) => Some(text.clone()),
            _ => None,
        }
    }

    fn text(&self, name: &str) -> String {
        self.text_if(name).unwrap_or_default()
    }

    fn path(&self, name: &str) -> PathBuf {
        PathBuf::from(self.text(name))
    }

    fn number_if(&self, name: &str) -> Option<u64> {
        match self.value(name) {
            Some(Value::Count(value) | Value::Bytes(value) | Value::Millis(value)) => Some(*value),
            _ => None,
        }
    }

    fn number(&self, name: &str) -> u64 {
        self.number_if(name).unwrap_or_default()
    }

    fn size(&self, name: &str) -> usize {
        usize::try_from(self.number(name)).unwrap_or(usize::MAX)
    }

    fn duration(&self, name: &str) -> Duration {
        Duration::from_millis(self.number(name))
    }

    fn reject_limit(&self, name: &str) -> RejectLimit {
        match self.value(name) {
            Some(Value::Share(share, window)) => {
                RejectLimit { share: *share, window: window.map(Duration::from_millis) }
            }
            _ => RejectLimit::NEVER,
        }
    }

    fn flag(&self, name: &str) -> bool {
        matches!(self.value(name), Some(Value::Flag(true)))
    }

    fn secret_if(&self, name: &str) -> Option<Secret> {
        match self.value(name) {
            Some(Value::Secret(secret)) => Some(secret.clone()),
            _ => None,
        }
    }

    fn file_if(&self, name: &str) -> Option<ReadFile> {
        match self.value(name) {
            Some(Value::File(file)) => Some(file.clone()),
            _ => None,
        }
    }

    fn list(&self, name: &str) -> Vec<String> {
        match self.value(name) {
            Some(Value::List(texts)) => texts.clone(),
            _ => Vec::new(),
        }
    }

    fn texts(&self, name: &str) -> BTreeMap<String, String> {
        match self.value(name) {
            Some(Value::Texts(texts)) => texts.clone(),
            _ => BTreeMap::new(),
        }
    }

    fn secrets(&self, name: &str) -> BTreeMap<String, Secret> {
        match self.value(name) {
            Some(Value::Secrets(secrets)) => secrets.clone(),
            _ => BTreeMap::new(),
        }
    }

    fn address_if(&self, name: &str) -> Option<SocketAddr> {
        match self.value(name) {
            Some(Value::Address(address)) => Some(*address),
            _ => None,
        }
    }
}

/// The configuration that the settings make.
pub(crate) fn assemble(resolved: &Resolved) -> Config {
    let root = Section { resolved, path: &[] };
    let catalogs = resolved.names("catalog").into_iter().map(|name| {
        let config = catalog(Section { resolved, path: &["catalog", &name] });
        (name, config)
    });
    let registries = resolved.names("registry").into_iter().map(|name| {
        let config = registry(Section { resolved, path: &["registry", &name] });
        (name, config)
    });
    let sources = resolved.names("source").into_iter().map(|name| {
        let own = Section { resolved, path: &["source", &name] };
        let config = match own.text("type").as_str() {
            "kafka" => SourceConfig::Kafka(Box::new(kafka::assemble(resolved, &name))),
            _ => source(own),
        };
        (name, config)
    });
    let pipelines = resolved.names("pipeline").into_iter().map(|name| {
        let config = pipeline(Section { resolved, path: &["pipeline", &name] });
        (PipelineName::new(name), config)
    });
    let mut stores: Vec<StoreConfig> = resolved
        .names("store")
        .into_iter()
        .map(|name| {
            let options = Section { resolved, path: &["store"] }.named_secrets(&name);
            StoreConfig { prefix: name, options }
        })
        .collect();
    stores.sort_by(|a, b| b.prefix.len().cmp(&a.prefix.len()).then_with(|| a.prefix.cmp(&b.prefix)));
    Config {
        instance: root.text("instance"),
        state_dir: root.path("state_dir"),
        role: match root.text("role").as_str() {
            "ingest" => Role::Ingest,
            "maintain" => Role::Maintain,
            _ => Role::All,
        },
        catalogs: catalogs.collect(),
        stores,
        registries: registries.collect(),
        sources: sources.collect(),
        pipelines: pipelines.collect(),
        policies: Policies::of(resolved),
        maintenance: MaintenanceConfig {
            cpu: root.reject_limit("maintenance.cpu").share,
            memory: root.number("maintenance.memory"),
            parallel: root.size("maintenance.parallel"),
            loads: root.size("maintenance.loads"),
            claim: root.duration("maintenance.claim"),
        },
        limits: Limits {
            memory: root.number("limits.memory"),
            open_files: root.size("limits.open_files"),
            tables: root.size("limits.tables"),
            store_requests: root.size("limits.store_requests"),
            store_retries: root.size("limits.store_retries"),
            workers: root.size("limits.workers"),
        },
        api: ApiConfig { listen: root.address_if("api.listen"), token: root.secret_if("api.token") },
        shutdown_grace: root.duration("shutdown.grace"),
    }
}

impl Section<'_> {
    /// The options of one store: its name may hold dots, so it is one part of the path as it is.
    fn named_secrets(&self, name: &str) -> BTreeMap<String, Secret> {
        match self.resolved.setting(&["store", name]).map(|setting| &setting.value) {
            Some(Value::Secrets(secrets)) => secrets.clone(),
            _ => BTreeMap::new(),
        }
    }
}

fn catalog(own: Section<'_>) -> CatalogConfig {
    match own.text("type").as_str() {
        "rest" => CatalogConfig::Rest(Box::new(RestConfig {
            uri: own.text("uri"),
            warehouse: own.text_if("warehouse"),
            auth: auth(own),
            headers: own.secrets("headers"),
            profile: own.text_if("profile"),
            vended_credentials: own.flag("vended_credentials"),
            connect_timeout: own.duration("connect_timeout"),
            request_timeout: own.duration("request_timeout"),
        })),
        "embedded" => CatalogConfig::Embedded { path: own.path("path"), warehouse: own.text("warehouse") },
        _ => CatalogConfig::Memory { warehouse: own.text("warehouse") },
    }
}

fn auth(own: Section<'_>) -> RestAuth {
    if let (Some(client_id), Some(client_secret)) =
        (own.text_if("oauth2.client_id"), own.secret_if("oauth2.client_secret"))
    {
        return RestAuth::OAuth2 {
            client_id,
            client_secret,
            server_uri: own.text_if("oauth2.server_uri"),
            scope: own.text_if("oauth2.scope"),
            parameters: own.texts("oauth2.parameters"),
        };
    }
    own.secret_if("token").map_or(RestAuth::None, RestAuth::Bearer)
}

fn registry(own: Section<'_>) -> RegistryConfig {
    let auth = match (own.text_if("user"), own.secret_if("password"), own.secret_if("token")) {
        (Some(user), Some(password), _) => RegistryAuth::Basic { user, password },
        (_, _, Some(token)) => RegistryAuth::Bearer(token),
        _ => RegistryAuth::None,
    };
    RegistryConfig {
        url: own.text("url"),
        auth,
        tls: ClientTls {
            ca: own.file_if("ca"),
            certificate: own.file_if("certificate"),
            key: own.file_if("key"),
            system: false,
        },
        connect_timeout: own.duration("connect_timeout"),
        request_timeout: own.duration("request_timeout"),
        schemas_max: own.size("schemas_max"),
    }
}

fn source(own: Section<'_>) -> SourceConfig {
    match own.text("type").as_str() {
        "files" => SourceConfig::Files(FilesConfig {
            path: own.text("path"),
            glob: own.text("glob"),
            poll: own.duration("poll"),
            until_end: own.flag("until_end"),
            row_bytes_max: own.number("row_bytes_max"),
            skip_lines: own.number("skip_lines"),
            expansion_max: own.number("expansion_max"),
            late_files_max: own.size("late_files_max"),
        }),
        "replay" => SourceConfig::Replay(ReplayConfig {
            seed: own.number("seed"),
            partitions: u32::try_from(own.number("partitions")).unwrap_or(1),
            rate: own.number_if("rate"),
            rows: own.number_if("rows"),
        }),
        _ => SourceConfig::Stdin,
    }
}

fn pipeline(own: Section<'_>) -> PipelineConfig {
    let table = own.text("table");
    let (catalog, table) = table.split_once('.').unwrap_or(("", &table));
    let anchor =
        own.text_if("anchor").map(|text| text.split_once('.').map_or(text.clone(), |(_, rest)| rest.to_owned()));
    PipelineConfig {
        source: own.text("source"),
        catalog: catalog.to_owned(),
        table: table.to_owned(),
        anchor,
        branch: own.text("branch"),
        create: create(own),
        decode: decode(own),
        schema: SchemaConfig {
            on_change: match own.text("schema.on_change").as_str() {
                "freeze" => OnChange::Freeze,
                "quarantine" => OnChange::Quarantine,
                _ => OnChange::Evolve,
            },
            infer_rows: own.size("schema.infer_rows"),
            columns_max: own.size("schema.columns_max"),
        },
        commit: CommitConfig {
            freshness: own.duration("commit.freshness"),
            rows_max: own.number("commit.rows_max"),
            bytes_max: own.number("commit.bytes_max"),
            target_file_size: own.number_if("commit.target_file_size"),
        },
        rejects: RejectsConfig {
            to: match own.text("rejects.to").as_str() {
                "count" => RejectsTo::Count,
                "halt" => RejectsTo::Halt,
                _ => RejectsTo::Table,
            },
            halt_above: own.reject_limit("rejects.halt_above"),
        },
        metadata: own.texts("metadata").into_iter().map(|(name, word)| (name, metadata_column(&word))).collect(),
        on_rollback: match own.text("on_rollback").as_str() {
            "rewind" => OnRollback::Rewind,
            "keep" => OnRollback::Keep,
            _ => OnRollback::Halt,
        },
    }
}

fn decode(own: Section<'_>) -> DecodeConfig {
    DecodeConfig {
        format: match own.text("decode.format").as_str() {
            "avro" => RowFormat::Avro,
            "protobuf" => RowFormat::Protobuf,
            "csv" => RowFormat::Csv,
            "raw" => RowFormat::Raw,
            _ => RowFormat::Json,
        },
        registry: own.text_if("decode.registry"),
        schema: own.file_if("decode.schema.file"),
        message: own.text_if("decode.schema.message"),
        csv: CsvConfig {
            columns: own.list("decode.csv.columns"),
            header: own.flag("decode.csv.header"),
            delimiter: own.text("decode.csv.delimiter").chars().next().unwrap_or(','),
            quote: own.text("decode.csv.quote").chars().next().unwrap_or('"'),
            null: own.text("decode.csv.null"),
        },
        epoch: Epoch::parse(&own.text("decode.epoch")).unwrap_or_default(),
        envelope: match own.text("decode.envelope").as_str() {
            "connect" => Envelope::Connect,
            "debezium" => Envelope::Debezium,
            _ => Envelope::None,
        },
        debezium: debezium(own),
    }
}

fn debezium(own: Section<'_>) -> DebeziumConfig {
    let column = |(name, word): (String, String)| (name, debezium_column(&word));
    let columns: BTreeMap<_, _> = own.texts("decode.debezium.columns").into_iter().map(column).collect();
    let usual = DebeziumConfig::default();
    DebeziumConfig {
        columns: if columns.is_empty() { usual.columns } else { columns },
        unavailable: own.text("decode.debezium.unavailable"),
    }
}

fn debezium_column(word: &str) -> DebeziumColumn {
    match word {
        "ts_ms" => DebeziumColumn::TsMs,
        "source" => DebeziumColumn::Source,
        "transaction" => DebeziumColumn::Transaction,
        "before" => DebeziumColumn::Before,
        "unavailable" => DebeziumColumn::Unavailable,
        "message" => DebeziumColumn::Message,
        _ => DebeziumColumn::Op,
    }
}

fn create(own: Section<'_>) -> CreateConfig {
    let columns: Vec<ColumnConfig> =
        own.list("create.columns").iter().filter_map(|text| layout_text::column(text).ok()).collect();
    CreateConfig {
        columns,
        partition: own.list("create.partition"),
        sort: own.list("create.sort"),
        properties: own.texts("create.properties"),
        location: own.text_if("create.location"),
        format_version: u8::try_from(own.number("create.format_version")).unwrap_or(2),
    }
}

fn metadata_column(word: &str) -> MetadataColumn {
    match word {
        "partition" => MetadataColumn::Partition,
        "number" => MetadataColumn::Number,
        "timestamp" => MetadataColumn::Timestamp,
        "ingested_at" => MetadataColumn::IngestedAt,
        "key" => MetadataColumn::Key,
        "key_text" => MetadataColumn::KeyText,
        "headers" => MetadataColumn::Headers,
        _ => MetadataColumn::Origin,
    }
}
