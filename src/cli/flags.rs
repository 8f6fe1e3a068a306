//! Every flag there is.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};
use clap_complete::Shell;

use crate::config::reference::CATALOG_PROFILES;
use crate::model::ids::MAIN;

const EXIT_CODES: &str = "\
Exit codes:
  0    done
  1    it did not work
  2    the configuration or the command line is wrong
  3    a pipeline halted and needs an operator
  4    maintenance failed for some tables and was done for the others
  5    verify: rows are missing, there more than once, or above the checkpoint
  6    verify: it could not be told whether each row is there once
  130  interrupted before it was done";

const EXPIRE_STEPS: &str = "\
Snapshots go in three steps, ten minutes apart, so that what somebody is about to tag or to pick keeps its files: they are
noted, removed, and then their files are deleted. Each run does the steps that are due and says when the next is; run it
now and then, or with --wait. Where it stands lies in state_dir.";

const COMPACT_GROUPS: &str = "\
Files are rewritten in groups, one partition at a time, and committed as they are done, small groups together: rows stay as they
are, deletes are applied. Writers go on meanwhile; what they made void is given up and planned again the next time. A group that
cannot be rewritten right is refused and says why. Small files are merged when a partition has five of them, or enough for one whole file.";

const MANIFESTS_SIZE: &str = "\
Only metadata is read and written: manifests far below commit.manifest.target-size-bytes (8 MiB) are gathered where fewer can take
their place, those of data and of deletes and of each partition spec by themselves. Entries keep their snapshots, sequence numbers
and row ids. What writers commit meanwhile is carried along. `frazil maintain` does the same once there are a hundred of them.";

const MAINTAIN_DUE: &str = "\
The form for cron: every table is looked at once, and what is due is done: small files are rewritten, many small manifests
gathered, the next step of expiry is taken, and what earlier runs left behind is deleted under proof. [policy.\"GLOB\"] of the configuration and frazil.policy.* of a
table say what is due; without either, files are rewritten by the usual rules and no snapshot goes. A table that fails stops no
other, and makes the exit code 4. A table with nothing due costs one load and no write.";

const HEALTH_DEBT: &str = "\
Debt is the number of files, delete files included, that readers would not have to open after compaction, and a tenth of the
snapshots that expiry would remove. Cost is an estimate in seconds of one core. Metadata is the metadata document and the
manifests of the newest snapshot. What cannot be read, such as columns of unknown types, is said; the rest is shown.";

const VERIFY_HOW: &str = "\
Each row says in its metadata columns which log it is of (topic and partition, or file) and its offset there. Files of one log with as
many rows as offsets are settled by their manifests alone, unless a rewrite made them; of the others just these columns are read. --read
always opens each file, and shows as well that it is there. Deleted and rejected rows are counted apart.
Offsets that no row has may be holes of the log, such as Kafka's transaction markers, and records without a value that
the source passes over: --connect asks the brokers. Several tables of one pipeline are looked at together. Exit code 5 for gaps and
duplicates, 6 where it could not be told.";

const IMPORT_HOW: &str = "\
Stop the connector first, and delete it: while its group has members nothing is written. -c names the file to write, which must not be
there; without it the configuration is printed. Each property is reported on standard error, or with --json on standard output. Secrets are
not copied: they become references to environment variables, which must be set for everything but --offline. Where each topic is read on
comes from the connector's group, its control topic and its tables: rows in files that no table has are read again. docs/migration.md.";

/// Where help shows the flags of every command.
const COMMON: &str = "Common options";

/// Takes streams and settles them into Apache Iceberg tables exactly once.
#[derive(Debug, Parser)]
#[command(name = "frazil", version, max_term_width = 100, after_help = EXIT_CODES, arg_required_else_help = true)]
pub struct Flags {
    /// Flags of every command.
    #[command(flatten)]
    pub global: Global,
    /// What to do.
    #[command(subcommand)]
    pub verb: Verb,
}

/// Flags of every command.
#[derive(Debug, Args)]
pub struct Global {
    /// Configuration file; frazil.toml of the working folder when there is one
    #[arg(help_heading = COMMON, short, long, global = true, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Set one setting over file and environment, as in pipeline.shop.commit.freshness=10s
    #[arg(help_heading = COMMON, long, global = true, value_name = "PATH=VALUE")]
    pub set: Vec<String>,
    /// Answer as JSON
    #[arg(help_heading = COMMON, long, global = true)]
    pub json: bool,
    /// How log lines look; pretty on a terminal, else json
    #[arg(help_heading = COMMON, long, global = true, value_name = "FORMAT")]
    pub log_format: Option<LogFormat>,
    /// What is logged: a level, or directives such as frazil=debug,warn
    #[arg(help_heading = COMMON, long, global = true, value_name = "LEVEL")]
    pub log_level: Option<String>,
    /// Log errors only, show no progress
    #[arg(help_heading = COMMON, short, long, global = true)]
    pub quiet: bool,
}

/// How log lines look.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// For people
    Pretty,
    /// One JSON object a line
    Json,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Verb {
    /// Run the pipelines of a configuration, and maintain the tables that its policies name, until they end or a signal comes
    Run(Run),
    /// Say everything that is wrong with a configuration
    Check(Check),
    /// Stream a made-up web shop into local tables, with live numbers
    Demo(Demo),
    /// Look at tables
    #[command(subcommand)]
    Table(TableVerb),
    /// Set how far a pipeline's rows are in a table
    #[command(subcommand)]
    Checkpoint(CheckpointVerb),
    /// Rewrite small files, and files with deletes, into few whole ones
    Compact(Compact),
    /// Gather many small manifests into few, ordered by partition
    Manifests(ManifestsFlags),
    /// Remove old snapshots, and the files that only they reach
    Expire(Expire),
    /// Do for each table what is due: compact, gather manifests, expire, clean up
    Maintain(Maintain),
    /// Show how tables are, whoever wrote them, and what maintenance would cost and gain
    Health(HealthOf),
    /// Prove that a table holds each row of a log once: no gap, no duplicate
    Verify(Verify),
    /// Take over from another product: its settings, and where it stopped
    #[command(subcommand)]
    Import(ImportVerb),
    /// Look at the configuration
    #[command(subcommand)]
    Config(ConfigVerb),
    /// Print a completion script for a shell
    Completions {
        /// The shell
        shell: Shell,
    },
}

/// Flags of `run`.
#[derive(Debug, Args)]
pub struct Run {
    /// Instead of the setting `role`: all, ingest or maintain
    #[arg(long, value_name = "ROLE", value_parser = ["all", "ingest", "maintain"])]
    pub role: Option<String>,
}

/// Flags of `check`.
#[derive(Debug, Args)]
pub struct Check {
    /// Also ask catalogs, registries and brokers, look for tables and topics, and try the stores with an object that is removed again
    #[arg(long)]
    pub connect: bool,
    /// The catalogs' product where the configuration names none, to be told what is known of it
    #[arg(long, value_name = "NAME", requires = "connect", value_parser = CATALOG_PROFILES.to_vec())]
    pub catalog_profile: Option<String>,
}

/// Flags of `demo`.
#[derive(Debug, Args)]
pub struct Demo {
    /// Folder for catalog, tables and configuration; made when missing, continued when present
    #[arg(long, value_name = "DIR", default_value = "./frazil-demo")]
    pub dir: PathBuf,
    /// End after so many rows
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=1_000_000_000_000))]
    pub rows: Option<u64>,
    /// End after so many seconds; 20 unless --rows is given
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=31_536_000))]
    pub seconds: Option<u64>,
    /// Rows a second; as many as this machine takes unless given
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=1_000_000_000))]
    pub rate: Option<u64>,
}

/// Which catalog to ask.
#[derive(Debug, Args)]
pub struct CatalogChoice {
    /// Name of a catalog in the configuration; needed when it has several
    #[arg(long, value_name = "NAME", conflicts_with_all = ["uri", "embedded"])]
    pub catalog: Option<String>,
    /// A REST catalog by its URI, without a configuration
    #[arg(long, value_name = "URI", conflicts_with = "embedded")]
    pub uri: Option<String>,
    /// An embedded catalog by its SQLite file, without a configuration
    #[arg(long, value_name = "FILE", requires = "warehouse")]
    pub embedded: Option<PathBuf>,
    /// Warehouse of --uri or --embedded
    #[arg(long, value_name = "WAREHOUSE")]
    pub warehouse: Option<String>,
}

impl CatalogChoice {
    /// The same, of this catalog.
    pub(crate) fn with_catalog(&self, name: &str) -> Self {
        let named = self.catalog.as_ref().map(|_| name.to_owned());
        Self {
            catalog: named,
            uri: self.uri.clone(),
            embedded: self.embedded.clone(),
            warehouse: self.warehouse.clone(),
        }
    }
}

/// Tables of one catalog.
#[derive(Debug, Args)]
pub struct TablesChoice {
    /// The tables, as namespace.table, catalog.namespace.table, or a glob over these; all of the catalog unless given
    #[arg(value_name = "GLOB", default_value = "**")]
    pub tables: String,
    /// Which catalog to ask.
    #[command(flatten)]
    pub from: CatalogChoice,
}

/// One table.
#[derive(Debug, Args)]
pub struct TableChoice {
    /// The table, as namespace.table or catalog.namespace.table
    #[arg(value_name = "TABLE")]
    pub table: String,
    /// Which catalog to ask.
    #[command(flatten)]
    pub from: CatalogChoice,
}

/// Looking at tables.
#[derive(Debug, Subcommand)]
pub enum TableVerb {
    /// The tables of a catalog
    List {
        /// Only below this namespace
        #[arg(long, value_name = "NAMESPACE")]
        namespace: Option<String>,
        /// Which catalog to ask.
        #[command(flatten)]
        from: CatalogChoice,
    },
    /// Schema, layout, properties, refs and size of a table
    Show(TableChoice),
    /// The data files of a snapshot
    Files {
        /// Which table.
        #[command(flatten)]
        choice: TableChoice,
        /// A snapshot by its id; the current one unless given
        #[arg(long, value_name = "ID", conflicts_with = "at")]
        snapshot: Option<i64>,
        /// A branch or tag
        #[arg(long = "ref", value_name = "NAME")]
        at: Option<String>,
    },
    /// The snapshots of a table
    History(TableChoice),
    /// How far each pipeline's rows are in a table
    Checkpoint(TableChoice),
}

/// Flags of `compact`.
#[derive(Debug, Args)]
#[command(after_help = COMPACT_GROUPS)]
pub struct Compact {
    /// The tables.
    #[command(flatten)]
    pub of: TablesChoice,
    /// Show what would be rewritten, and change nothing
    #[arg(long)]
    pub dry_run: bool,
    /// Also say why each group is rewritten and what is left alone
    #[arg(long)]
    pub explain: bool,
    /// Bytes that a data file should have, as in 256MiB, instead of write.target-file-size-bytes
    #[arg(long, value_name = "SIZE")]
    pub target_file_size: Option<String>,
    /// Rewrite every file, whether it pays or not
    #[arg(long)]
    pub rewrite_all: bool,
    /// Only partitions of which this holds, as in "order_ts_day >= 2026-11-01 and region = 'EU'"
    #[arg(long = "where", value_name = "CONDITIONS")]
    pub only: Option<String>,
    /// Decode all rows, also where encoded pages could be copied
    #[arg(long)]
    pub no_splice: bool,
    /// The branch whose files are rewritten
    #[arg(long, value_name = "NAME", default_value = MAIN)]
    pub branch: String,
    /// Groups of files that are rewritten at once; each has its part of --max-memory
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=1_024))]
    pub parallel: u32,
    /// Memory that rewrites may take together, about
    #[arg(long, value_name = "SIZE", default_value = "1GiB")]
    pub max_memory: String,
}

/// Flags of `manifests`.
#[derive(Debug, Args)]
#[command(after_help = MANIFESTS_SIZE)]
pub struct ManifestsFlags {
    /// The tables.
    #[command(flatten)]
    pub of: TablesChoice,
    /// Show what would be rewritten, and change nothing
    #[arg(long)]
    pub dry_run: bool,
    /// The branch whose manifests are rewritten
    #[arg(long, value_name = "NAME", default_value = MAIN)]
    pub branch: String,
}

/// Flags of `expire`.
#[derive(Debug, Args)]
#[command(after_help = EXPIRE_STEPS)]
pub struct Expire {
    /// The tables.
    #[command(flatten)]
    pub of: TablesChoice,
    /// Keep younger snapshots, instead of history.expire.max-snapshot-age-ms and what branches say
    #[arg(long, value_name = "DURATION")]
    pub older_than: Option<String>,
    /// Keep so many of each branch, instead of history.expire.min-snapshots-to-keep and what branches say
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub retain_last: Option<u32>,
    /// Show snapshots, files and bytes that would go, and change nothing
    #[arg(long)]
    pub dry_run: bool,
    /// Do not ask
    #[arg(long)]
    pub yes: bool,
    /// Stay until the files are deleted: two waits of ten minutes
    #[arg(long)]
    pub wait: bool,
    /// Files deleted in a second at most
    #[arg(long, value_name = "N", default_value_t = 3_000, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub delete_rate: u32,
    /// Forget removals whose files stay because the catalog may have dropped a ref with them
    #[arg(long, conflicts_with_all = ["dry_run", "wait"])]
    pub release_held: bool,
}

/// Flags of `maintain`.
#[derive(Debug, Args)]
#[command(after_help = MAINTAIN_DUE)]
pub struct Maintain {
    /// The tables.
    #[command(flatten)]
    pub of: TablesChoice,
    /// Show what is due, and change nothing
    #[arg(long)]
    pub dry_run: bool,
    /// Remove old snapshots of tables too that no policy names
    #[arg(long)]
    pub yes: bool,
    /// Tables that are worked on at once; each has its part of --max-memory
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=1_024))]
    pub parallel: u32,
    /// Memory that rewrites may take together, about
    #[arg(long, value_name = "SIZE", default_value = "1GiB")]
    pub max_memory: String,
}

/// Flags of `health`.
#[derive(Debug, Args)]
#[command(after_help = HEALTH_DEBT)]
pub struct HealthOf {
    /// The tables.
    #[command(flatten)]
    pub of: TablesChoice,
    /// What to sort by, the largest first
    #[arg(long, value_name = "WHAT", default_value = "debt")]
    pub sort: HealthSort,
}

/// What tables are sorted by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum HealthSort {
    /// Files that readers open in vain, and a tenth of the snapshots that could go
    Debt,
    /// Data files
    Files,
    /// Bytes of data files
    Size,
    /// Delete files
    Deletes,
    /// Snapshots
    Snapshots,
    /// Bytes of the metadata document
    Metadata,
    /// The name
    Name,
}

/// Flags of `verify`.
#[derive(Debug, Args)]
#[command(after_help = VERIFY_HOW)]
pub struct Verify {
    /// The table, as namespace.table or catalog.namespace.table; all that --pipeline feeds unless given
    #[arg(value_name = "TABLE")]
    pub table: Option<String>,
    /// Which catalog to ask.
    #[command(flatten)]
    pub from: CatalogChoice,
    /// A pipeline of the configuration: its columns, checkpoint and rejects; found by the table where one alone feeds it
    #[arg(long, value_name = "NAME")]
    pub pipeline: Option<String>,
    /// The branch; the pipeline's unless given
    #[arg(long, value_name = "NAME")]
    pub branch: Option<String>,
    /// Only this log, as orders/0, or all whose partition is this number; may be repeated
    #[arg(long, value_name = "LOG")]
    pub partition: Vec<String>,
    /// The first offset that must be there, of all logs or, as in orders/0=4711, of one; may be repeated
    #[arg(long = "from", value_name = "OFFSET")]
    pub first: Vec<String>,
    /// The last offset that must be there; may be repeated
    #[arg(long = "to", value_name = "OFFSET")]
    pub last: Vec<String>,
    /// Only rows that came after a snapshot or a time, by the checkpoint that the pipeline had then
    #[arg(long, value_name = "SNAPSHOT|TIME")]
    pub since: Option<String>,
    /// Which data files are read
    #[arg(long, value_name = "WHICH", default_value = "auto")]
    pub read: ReadFiles,
    /// Column with the topic or the file, instead of the pipeline's metadata column
    #[arg(long, value_name = "COLUMN")]
    pub topic_column: Option<String>,
    /// Column with the partition
    #[arg(long, value_name = "COLUMN")]
    pub partition_column: Option<String>,
    /// Column with the offset
    #[arg(long, value_name = "COLUMN")]
    pub offset_column: Option<String>,
    /// Leave rows aside that have no partition or offset: others wrote them
    #[arg(long)]
    pub allow_null: bool,
    /// Ask the pipeline's brokers which of the missing offsets have a record
    #[arg(long)]
    pub connect: bool,
    /// Memory that it may take, about
    #[arg(long, value_name = "SIZE", default_value = "256MiB")]
    pub max_memory: String,
}

/// Taking over from another product.
#[derive(Debug, Subcommand)]
pub enum ImportVerb {
    /// Write the configuration that does what a connector of Kafka Connect's Iceberg sink did, beginning where it stopped
    KafkaConnect(ImportConnect),
}

/// Flags of `import kafka-connect`.
#[derive(Debug, Args)]
#[command(after_help = IMPORT_HOW)]
pub struct ImportConnect {
    /// The connector's JSON, as GET /connectors/NAME answers it
    #[arg(long, value_name = "FILE")]
    pub connector: PathBuf,
    /// The worker's file of properties: brokers, converters and the consumer's settings, where the connector says nothing
    #[arg(long, value_name = "FILE")]
    pub worker: Option<PathBuf>,
    /// Brokers, as host:port,host:port, where neither file has them
    #[arg(long, value_name = "LIST")]
    pub brokers: Option<String>,
    /// REST endpoint of the catalog, instead of the connector's
    #[arg(long, value_name = "URI")]
    pub uri: Option<String>,
    /// Warehouse, instead of the connector's
    #[arg(long, value_name = "WAREHOUSE")]
    pub warehouse: Option<String>,
    /// Ask neither brokers nor catalog: the new pipeline begins at its topics' beginning
    #[arg(long)]
    pub offline: bool,
    /// Write the configuration though rows will differ by what has no counterpart
    #[arg(long)]
    pub accept_losses: bool,
}

/// Which data files `verify` reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum ReadFiles {
    /// Those that manifests do not settle
    Auto,
    /// None
    Never,
    /// All: also finds a row that is there twice where another of the same file is missing
    Always,
}

/// Which checkpoint, and how careful to be.
#[derive(Debug, Args)]
pub struct CheckpointEdit {
    /// Which table.
    #[command(flatten)]
    pub choice: TableChoice,
    /// The pipeline
    #[arg(long, value_name = "NAME")]
    pub pipeline: String,
    /// The branch
    #[arg(long = "ref", value_name = "NAME", default_value = MAIN)]
    pub at: String,
    /// Show what would change, and change nothing
    #[arg(long)]
    pub dry_run: bool,
    /// Do not ask
    #[arg(long)]
    pub yes: bool,
}

/// Setting checkpoints. Each is a commit of its own: a snapshot without new rows.
#[derive(Debug, Subcommand)]
pub enum CheckpointVerb {
    /// Go on after these positions, whatever the table says now
    Set {
        /// Which checkpoint.
        #[command(flatten)]
        edit: CheckpointEdit,
        /// All positions as `table checkpoint --json` shows them, such as '{"0": 41, "1": 17}'
        #[arg(long, value_name = "JSON")]
        positions: String,
        /// The source's identity; the one of the checkpoint that is there unless given
        #[arg(long, value_name = "TEXT")]
        source: Option<String>,
        /// Forget decided epochs that are not in every table yet: their rows stay out of the others
        #[arg(long)]
        drop_sealed: bool,
    },
    /// Take the checkpoint in the table's properties as right, where its snapshot is gone
    Accept {
        /// Which checkpoint.
        #[command(flatten)]
        edit: CheckpointEdit,
    },
}

/// Looking at the configuration.
#[derive(Debug, Subcommand)]
pub enum ConfigVerb {
    /// What is set and where; secrets are shown as ***
    Show {
        /// Every setting that applies, defaults included
        #[arg(long)]
        resolved: bool,
    },
    /// Every setting there is, as the reference page
    Reference,
}
