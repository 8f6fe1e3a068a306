//! Every setting there is: the one table behind reading, defaults, `config show` and docs/configuration.md.

use crate::config::kafka;

/// One setting.
#[derive(Debug, Clone, Copy)]
pub struct Field {
    /// Its path; `*` stands for a name that the user chooses.
    pub path: &'static str,
    /// What it takes.
    pub kind: Kind,
    /// What it is when nobody says.
    pub preset: Preset,
    /// The `type` of the catalog or source that has it; empty: all.
    pub only: &'static str,
    /// What it does.
    pub meaning: &'static str,
}

/// What a setting takes. Bounds are inclusive.
#[derive(Debug, Clone, Copy)]
pub enum Kind {
    /// Any non-empty text.
    Text,
    /// One character, which may be blank.
    Character,
    /// A file or folder.
    Path,
    /// A file of text, which is read with the configuration.
    File,
    /// A pattern of file names.
    Glob,
    /// An `http` or `https` URI.
    Uri,
    /// An address and port.
    Address,
    /// `true` or `false`.
    Flag,
    /// A whole number.
    Count(u64, u64),
    /// Bytes.
    Bytes(u64, u64),
    /// A duration; bounds in milliseconds.
    Duration(u64, u64),
    /// A share of 1.
    Share,
    /// A text that is never shown.
    Secret,
    /// One of these words.
    Choice(&'static [&'static str]),
    /// A table of texts.
    Texts,
    /// A table of secrets.
    Secrets,
    /// A table whose values are one of these words.
    Choices(&'static [&'static str]),
    /// A list of texts.
    List,
    /// Hours of the day.
    Window,
}

/// What a setting is when nobody says.
#[derive(Debug, Clone, Copy)]
pub enum Preset {
    /// It must be said where its section is.
    Required,
    /// Nothing.
    Unset,
    /// This text, read as from a file.
    Is(&'static str),
    /// This text, where neither another policy nor the table says anything.
    Usually(&'static str),
    /// An empty list or table.
    Empty,
    /// The host's name.
    Host,
    /// The number of processors.
    Processors,
}

use Kind::{
    Address, Bytes, Character, Choice, Choices, Count, Duration, File, Flag, Glob, List, Path, Secret, Secrets, Share,
    Text, Texts, Uri, Window,
};
use Preset::{Empty, Host, Is, Processors, Required, Unset, Usually};

const MS: u64 = 1;
const SECOND: u64 = 1_000;
const DAY: u64 = 86_400_000;
pub(crate) const KIB: u64 = 1 << 10;
pub(crate) const MIB: u64 = 1 << 20;
pub(crate) const GIB: u64 = 1 << 30;
const TIB: u64 = 1 << 40;

/// The kinds of catalog.
pub const CATALOG_TYPES: &[&str] = &["rest", "embedded", "memory"];
/// The catalog products that are known, one file for each under `catalogs/`.
pub const CATALOG_PROFILES: &[&str] =
    &["apache-rest-fixture", "glue", "lakekeeper", "nessie", "polaris", "s3tables", "seaweedfs", "unity"];
/// The kinds of source.
pub const SOURCE_TYPES: &[&str] = &["files", "kafka", "stdin", "replay"];

/// What rows may be.
pub const ROW_FORMATS: &[&str] = &["json", "avro", "protobuf", "csv", "raw"];

const fn field(path: &'static str, kind: Kind, preset: Preset, meaning: &'static str) -> Field {
    Field { path, kind, preset, only: "", meaning }
}

pub(crate) const fn typed(
    only: &'static str,
    path: &'static str,
    kind: Kind,
    preset: Preset,
    meaning: &'static str,
) -> Field {
    Field { path, kind, preset, only, meaning }
}

/// All settings, grouped by section.
pub fn fields() -> impl Iterator<Item = &'static Field> {
    let sources = FIELDS.partition_point(|field| !field.path.starts_with("pipeline."));
    let (before, after) = FIELDS.split_at(sources);
    before.iter().chain(kafka::FIELDS).chain(after)
}

/// All settings but those of Kafka sources, which [`kafka`] has.
const FIELDS: &[Field] = &[
    field("instance", Text, Host, "Names this process in commits and file names; keep it stable over restarts"),
    field(
        "state_dir",
        Path,
        Is("frazil-state"),
        "Folder for what must survive a crash: the ledger of staged files, the list of anchors",
    ),
    field(
        "role",
        Choice(&["all", "ingest", "maintain"]),
        Is("all"),
        "What this daemon does: pipelines and maintenance, or one of them, so that one cannot take the memory of the other; give each a `state_dir` of its own",
    ),
    field("catalog.*.type", Choice(CATALOG_TYPES), Required, "Kind of catalog"),
    typed("rest", "catalog.*.uri", Uri, Required, "Base URI of the REST catalog, before `/v1`"),
    typed("rest", "catalog.*.warehouse", Text, Unset, "Warehouse to ask the REST catalog for"),
    typed("embedded", "catalog.*.path", Path, Required, "SQLite file of the embedded catalog; made when missing"),
    typed("embedded", "catalog.*.warehouse", Text, Required, "Folder or URL in which tables are created"),
    typed(
        "memory",
        "catalog.*.warehouse",
        Text,
        Is("memory:///warehouse"),
        "Folder or URL in which tables are created",
    ),
    typed("rest", "catalog.*.token", Secret, Unset, "Bearer token; not together with `oauth2`"),
    typed("rest", "catalog.*.oauth2.client_id", Text, Required, "Client id for OAuth2 client credentials"),
    typed("rest", "catalog.*.oauth2.client_secret", Secret, Required, "Client secret for OAuth2 client credentials"),
    typed(
        "rest",
        "catalog.*.oauth2.server_uri",
        Uri,
        Unset,
        "Token endpoint; by default `v1/oauth/tokens` of the catalog",
    ),
    typed("rest", "catalog.*.oauth2.scope", Text, Unset, "Scope to ask for"),
    typed("rest", "catalog.*.oauth2.parameters", Texts, Empty, "Further form fields, such as `audience` or `resource`"),
    typed("rest", "catalog.*.headers", Secrets, Empty, "Headers sent with every request"),
    typed(
        "rest",
        "catalog.*.profile",
        Choice(CATALOG_PROFILES),
        Unset,
        "The product, so that `check --connect` can say where it leaves the specification",
    ),
    typed("rest", "catalog.*.vended_credentials", Flag, Is("true"), "Ask the catalog for storage credentials"),
    typed("rest", "catalog.*.connect_timeout", Duration(10 * MS, 600 * SECOND), Is("10s"), "Until a connection stands"),
    typed(
        "rest",
        "catalog.*.request_timeout",
        Duration(100 * MS, 3600 * SECOND),
        Is("60s"),
        "Until a request is answered; after it, whether it was done is found out by looking",
    ),
    field(
        "store.*",
        Secrets,
        Empty,
        "Options of the store whose locations begin with this URL, as `object_store` names them (`region`, `endpoint`, `access_key_id`, …); the longest prefix wins",
    ),
    field(
        "registry.*.url",
        Uri,
        Required,
        "Base URL of a schema registry's API as Confluent has it, with its path, such as `https://host/apis/ccompat/v7`",
    ),
    field("registry.*.user", Text, Unset, "User to identify as; with `password`, not together with `token`"),
    field("registry.*.password", Secret, Unset, "The user's password"),
    field("registry.*.token", Secret, Unset, "Bearer token"),
    field("registry.*.ca", File, Unset, "File of certificates to trust (PEM); the system's when unset"),
    field("registry.*.certificate", File, Unset, "File of our certificate (PEM), for a registry that asks for one"),
    field("registry.*.key", File, Unset, "File of its private key (PEM)"),
    field("registry.*.connect_timeout", Duration(10 * MS, 600 * SECOND), Is("5s"), "Until a connection stands"),
    field("registry.*.request_timeout", Duration(100 * MS, 600 * SECOND), Is("15s"), "Until a request is answered"),
    field("registry.*.schemas_max", Count(1, 1_000_000), Is("1000"), "Schemas that are kept in memory"),
    field("source.*.type", Choice(SOURCE_TYPES), Required, "Kind of source"),
    typed("files", "source.*.path", Text, Required, "Folder or URL to follow"),
    typed(
        "files",
        "source.*.glob",
        Glob,
        Is("**/*.{json,jsonl,ndjson,json.gz,jsonl.gz,ndjson.gz,json.zst,jsonl.zst,ndjson.zst}"),
        "Names to read, below `path`",
    ),
    typed("files", "source.*.poll", Duration(10 * MS, DAY), Is("2s"), "How often to look for new files"),
    typed("files", "source.*.until_end", Flag, Is("false"), "End when everything there has been read"),
    typed("files", "source.*.row_bytes_max", Bytes(KIB, GIB), Is("16MiB"), "Longest row; a longer one is rejected"),
    typed(
        "files",
        "source.*.skip_lines",
        Count(0, 1_000),
        Unset,
        "Lines at the beginning of each file that are no rows, such as the names above CSV; none when unset",
    ),
    typed(
        "files",
        "source.*.expansion_max",
        Count(1, 1_000_000),
        Is("1000"),
        "A compressed file that unpacks to more than this many times its size is cut off and rejected",
    ),
    typed(
        "files",
        "source.*.late_files_max",
        Count(0, 1_000_000),
        Is("10000"),
        "Files that may arrive below the watermark before the source halts",
    ),
    typed("replay", "source.*.seed", Count(0, i64::MAX as u64), Is("1"), "The same seed gives the same rows"),
    typed("replay", "source.*.partitions", Count(1, 1024), Is("4"), "Parallel logs, each with its own positions"),
    typed(
        "replay",
        "source.*.rate",
        Count(1, 1_000_000_000),
        Unset,
        "Rows a second over all partitions; as fast as they are taken when unset",
    ),
    typed(
        "replay",
        "source.*.rows",
        Count(1, i64::MAX as u64),
        Unset,
        "Rows per partition after which the stream ends; never when unset",
    ),
    field("pipeline.*.source", Text, Required, "Name of a source"),
    field(
        "pipeline.*.table",
        Text,
        Required,
        "`catalog.namespace.table`; `{field}` stands for the value of a top-level field of the row. Created if missing, adopted if present",
    ),
    field(
        "pipeline.*.anchor",
        Text,
        Unset,
        "`catalog.namespace.table` that decides epochs; required when `table` has a `{field}`",
    ),
    field("pipeline.*.branch", Text, Is("main"), "Branch to write to"),
    field(
        "pipeline.*.on_rollback",
        Choice(&["halt", "rewind", "keep"]),
        Is("halt"),
        "When the branch was rolled back below the checkpoint: stop and ask, read the rows again, or leave them away",
    ),
    field(
        "pipeline.*.create.columns",
        List,
        Empty,
        "Columns of a new table as `name type`, such as `id long not null`; inferred from the first rows when empty",
    ),
    field(
        "pipeline.*.create.partition",
        List,
        Empty,
        "Partition fields of a new table, such as `day(order_ts)`, `bucket(16, customer_id)`, `region`",
    ),
    field(
        "pipeline.*.create.sort",
        List,
        Empty,
        "Sort fields of a new table, such as `customer_id`, `order_ts desc nulls last`",
    ),
    field("pipeline.*.create.properties", Texts, Empty, "Table properties of a new table"),
    field("pipeline.*.create.location", Text, Unset, "Where a new table lies; left to the catalog when unset"),
    field("pipeline.*.create.format_version", Count(2, 3), Is("2"), "Format version of a new table"),
    field(
        "pipeline.*.decode.format",
        Choice(ROW_FORMATS),
        Is("json"),
        "What rows are: a JSON object each, with `decode.registry` after the id of its schema; an Avro record or a Protobuf message each, with `decode.registry` or `decode.schema.file`; a line of values each, with `decode.csv.columns` or `decode.csv.header`; or bytes that are kept as they are, in the column `value`",
    ),
    field(
        "pipeline.*.decode.registry",
        Text,
        Unset,
        "Name of the registry whose schemas rows name: each begins with a byte 0 and the four bytes of an id",
    ),
    field(
        "pipeline.*.decode.schema.file",
        File,
        Unset,
        "File with the schema of all rows, where they are bare values without an id: an Avro schema; a `.proto` file, or a set of descriptors as `protoc --include_imports -o` writes it",
    ),
    field(
        "pipeline.*.decode.schema.message",
        Text,
        Unset,
        "Full name of the message in the file that rows are; its only one when unset",
    ),
    field("pipeline.*.decode.csv.columns", List, Unset, "Names of a line's values, in order"),
    field(
        "pipeline.*.decode.csv.header",
        Flag,
        Unset,
        "Whether the first line of each file, after `skip_lines`, has the names instead; files may have them in different orders",
    ),
    field(
        "pipeline.*.decode.csv.delimiter",
        Character,
        Unset,
        "What is between two values, a tab as `\"\\t\"`; `,` when unset",
    ),
    field(
        "pipeline.*.decode.csv.quote",
        Character,
        Unset,
        "What is around a value that holds the delimiter, `\"` when unset; twice within such a value it stands for itself",
    ),
    field(
        "pipeline.*.decode.csv.null",
        Text,
        Unset,
        "The text that is NULL where it has no quotes around it; no text at all when unset",
    ),
    field(
        "pipeline.*.decode.epoch",
        Choice(&["s", "ms", "us", "ns"]),
        Is("ms"),
        "What a number in a timestamp column counts since 1970: seconds, milliseconds, microseconds or nanoseconds; never guessed",
    ),
    field(
        "pipeline.*.decode.envelope",
        Choice(&["none", "connect", "debezium"]),
        Is("none"),
        "What rows are wrapped in: nothing; `{\"schema\", \"payload\"}` of Kafka Connect's JSON converter, whose schema says the types; or Debezium's change events, in JSON with Connect's envelope around them or without, in Avro, or in JSON behind the id of a schema: one row for each",
    ),
    field(
        "pipeline.*.decode.debezium.columns",
        Choices(&["op", "ts_ms", "source", "transaction", "before", "unavailable", "message"]),
        Empty,
        "Columns beside those of the changed row: `column = \"op\" | \"ts_ms\" | \"source\" | \"transaction\" | \"before\" | \"unavailable\" | \"message\"`; `_op`, `_ts_ms`, `_source` and `_unavailable` when none is named",
    ),
    field(
        "pipeline.*.decode.debezium.unavailable",
        Text,
        Is("__debezium_unavailable_value"),
        "The connector's `unavailable.value.placeholder`: what stands for a value that did not change and was not sent",
    ),
    field(
        "pipeline.*.schema.on_change",
        Choice(&["evolve", "freeze", "quarantine"]),
        Is("evolve"),
        "A new field or a wider value changes the schema, is ignored and counted, or rejects its row",
    ),
    field("pipeline.*.schema.infer_rows", Count(1, 10_000_000), Is("10000"), "Rows that inference looks at"),
    field(
        "pipeline.*.schema.columns_max",
        Count(1, 100_000),
        Is("1000"),
        "Most columns, nested ones included, that evolution may reach",
    ),
    field(
        "pipeline.*.commit.freshness",
        Duration(100 * MS, DAY),
        Is("30s"),
        "About how long the oldest row waits at most for its commit",
    ),
    field(
        "pipeline.*.commit.rows_max",
        Count(1, 1_000_000_000_000),
        Is("10000000"),
        "Rows after which an epoch is sealed",
    ),
    field(
        "pipeline.*.commit.bytes_max",
        Bytes(MIB, 64 * TIB),
        Is("4GiB"),
        "Bytes of files after which an epoch is sealed, whatever the catalog says",
    ),
    field(
        "pipeline.*.commit.target_file_size",
        Bytes(MIB, 64 * GIB),
        Unset,
        "Size at which a data file is closed; an epoch is sealed early once one is full and no other open file is below three quarters \
         of it. The table's `write.target-file-size-bytes` when unset",
    ),
    field(
        "pipeline.*.rejects.to",
        Choice(&["table", "count", "halt"]),
        Is("table"),
        "Where rejects go: to `<table>__rejects`, nowhere (counted), or the first one halts the pipeline",
    ),
    field(
        "pipeline.*.rejects.halt_above",
        Share,
        Is("100%"),
        "Halt when more than this share of the rows was rejected: of those of an epoch (`1%`, `0.01`), or of those that this \
         process read in a time (`1% in 5m`); 100% never halts",
    ),
    field(
        "pipeline.*.metadata",
        Choices(&["origin", "partition", "number", "timestamp", "ingested_at", "key", "key_text", "headers"]),
        Empty,
        "Metadata columns to add: `column = \"origin\" | \"partition\" | \"number\" | \"timestamp\" | \"ingested_at\" | \"key\" | \"key_text\" | \"headers\"`",
    ),
    field(
        "policy.*.every",
        Duration(SECOND, 30 * DAY),
        Usually("5m"),
        "How often a table is looked at, give or take a tenth",
    ),
    field(
        "policy.*.window",
        Window,
        Unset,
        "Hours of the day in which files are rewritten, such as `20:00-06:00 Europe/Vienna`, UTC without a zone; always when unset",
    ),
    field("policy.*.compact.enabled", Flag, Usually("true"), "Rewrite small files, and files with deletes"),
    field(
        "policy.*.compact.target_file_size",
        Bytes(MIB, 64 * GIB),
        Usually("512MiB"),
        "Bytes that a data file should have, unless the table says `write.target-file-size-bytes`",
    ),
    field(
        "policy.*.compact.quiet",
        Duration(0, 30 * DAY),
        Usually("15m"),
        "A partition that got a file in this time is left alone, unless deletes weigh on it or it has `hot_files_max` small files",
    ),
    field(
        "policy.*.compact.hot_files_max",
        Count(2, 1_000_000),
        Usually("50"),
        "So many small files are merged though their partition is still written to",
    ),
    field(
        "policy.*.compact.files_min",
        Count(2, 1_000_000),
        Usually("5"),
        "So many small files of one partition are merged, however few bytes they have together",
    ),
    field(
        "policy.*.compact.deletes_max",
        Count(1, 1_000_000),
        Usually("10"),
        "A file is rewritten when so many delete files reach it",
    ),
    field(
        "policy.*.compact.deleted_percent",
        Count(1, 100),
        Usually("30"),
        "A file is rewritten when so many hundredths of its rows are known to be deleted",
    ),
    field(
        "policy.*.compact.bytes_max",
        Bytes(MIB, 1 << 60),
        Usually("1TiB"),
        "Bytes of data files that are rewritten at a look, at most; what helps readers most for its bytes comes first",
    ),
    field(
        "policy.*.compact.splice",
        Flag,
        Usually("true"),
        "Copy encoded pages into new files where no delete reaches them, instead of decoding their rows",
    ),
    field(
        "policy.*.manifests.enabled",
        Flag,
        Usually("true"),
        "Gather many small manifests into few, ordered by partition",
    ),
    field(
        "policy.*.manifests.count_min",
        Count(2, 1_000_000),
        Usually("100"),
        "So many manifests that could be fewer are gathered, up to the table's `commit.manifest.target-size-bytes` each",
    ),
    field("policy.*.expire.enabled", Flag, Usually("true"), "Remove old snapshots, and the files that only they reach"),
    field(
        "policy.*.expire.keep",
        Duration(60 * SECOND, 36_500 * DAY),
        Usually("5d"),
        "Younger snapshots stay, unless the table says `history.expire.max-snapshot-age-ms`",
    ),
    field(
        "policy.*.expire.min_snapshots",
        Count(1, 1_000_000),
        Usually("1"),
        "So many of each branch stay, however old, unless the table says `history.expire.min-snapshots-to-keep`",
    ),
    field(
        "policy.*.expire.max_ref_age",
        Duration(60 * SECOND, 36_500 * DAY),
        Unset,
        "Older tags and branches go, but `main`, unless the table says `history.expire.max-ref-age-ms`; none when unset",
    ),
    field(
        "maintenance.cpu",
        Share,
        Is("15%"),
        "Share of `limits.workers`, above 0% and without a time, that the daemon's rewrites may use on average; ingest has the rest",
    ),
    field(
        "maintenance.memory",
        Bytes(64 * MIB, 64 * TIB),
        Is("256MiB"),
        "Bytes that rewrites may hold together; part of `limits.memory`, at most half of it",
    ),
    field(
        "maintenance.parallel",
        Count(1, 1_024),
        Is("1"),
        "Tables that are rewritten at once; each has its part of `maintenance.memory`",
    ),
    field("maintenance.loads", Count(1, 1_024), Is("8"), "Tables that are looked at at once"),
    field(
        "maintenance.claim",
        Duration(10 * SECOND, DAY),
        Is("5m"),
        "How long a daemon's claim on a table holds when it is not renewed; others leave the table alone meanwhile",
    ),
    field(
        "limits.memory",
        Bytes(32 * MIB, 64 * TIB),
        Is("1GiB"),
        "Bytes that rows may hold between source and committed file; over it, sources pause",
    ),
    field(
        "limits.open_files",
        Count(1, 100_000),
        Is("1000"),
        "Files that ingest keeps open at once, over all tables of the process, and at least one for each pipeline; rows of more partitions \
         wait in memory. A rewrite has up to 24 beside them",
    ),
    field("limits.tables", Count(1, 100_000), Is("1000"), "Tables that one pipeline may feed"),
    field("limits.store_requests", Count(1, 10_000), Is("64"), "Requests to stores under way at once"),
    field("limits.store_retries", Count(0, 1_000), Is("10"), "Times one store request is tried again"),
    field("limits.workers", Count(1, 1_024), Processors, "Threads for decoding and encoding"),
    field("api.listen", Address, Unset, "`address:port` for metrics and health; no listener when unset"),
    field("api.token", Secret, Unset, "Bearer token that every request but health needs"),
    field(
        "api.behind_tls_proxy",
        Flag,
        Is("false"),
        "Says that something in front ends TLS, which an address other than loopback needs",
    ),
    field(
        "shutdown.grace",
        Duration(0, DAY),
        Is("30s"),
        "How long a shutdown may take to seal and commit what is open; what is left is read again at the next start. Leaving a Kafka group may take 5 s more",
    ),
];
