//! What a commit of one file takes on a table of 50,000 data files, against one of 50 with as many snapshots.
//!
//! `cargo bench --bench commit [-- COMMITS]`. Embedded catalog on the local disk, through the real commit path: manifests,
//! list, metadata document and ledger are written and synced; the data files themselves are only named. Both tables are
//! committed to in turn, so that what else the machine does hits both.
#![allow(clippy::print_stdout, clippy::expect_used, clippy::disallowed_methods, missing_docs)]

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use frazil::catalog::embedded::EmbeddedCatalog;
use frazil::catalog::{Catalog, CreateTable, Outcome};
use frazil::commit::protocol::{Commit, Committer, Ending};
use frazil::env::Env;
use frazil::model::change::{Append, Change, Data, OnRollback, PipelineDelta};
use frazil::model::checkpoint::{Checkpoint, Delta, Position, Range};
use frazil::model::ids::{PartitionId, PipelineName, TableName};
use frazil::model::table::TableState;
use frazil::storage::disk::LocalDisk;
use frazil::storage::ledger::{ENTRIES_MAX, Ledger, LedgerOwner};
use frazil::storage::{Storage, StorageOptions};
use iceberg::spec::{
    DataContentType, DataFile, DataFileBuilder, DataFileFormat, Datum, FormatVersion, NestedField, PrimitiveType,
    Schema, SortOrder, Struct, Type, UnboundPartitionSpec,
};
use tokio_util::sync::CancellationToken;

/// Snapshots that both tables have when the measuring begins.
const SNAPSHOTS: usize = 50;
const COMMITS: usize = 201;
const COLUMNS: i32 = 13;

fn main() {
    let commits = std::env::args().skip(1).find_map(|word| word.parse().ok()).unwrap_or(COMMITS);
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a folder");
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("a runtime");
    runtime.block_on(async {
        let mut small = Table::new(folder.path(), "small", 1).await;
        let mut large = Table::new(folder.path(), "large", 1_000).await;
        let (mut quick, mut slow) = (Vec::new(), Vec::new());
        for _ in 0..commits {
            quick.push(small.commit(1).await);
            slow.push(large.commit(1).await);
        }
        let (small, large) = (Spread::of(&mut quick), Spread::of(&mut slow));
        println!("50 files: {small}");
        println!("50000 files: {large}");
        println!("ratio: {:.2}", large.median.as_secs_f64() / small.median.as_secs_f64());
    });
}

struct Spread {
    median: Duration,
    p99: Duration,
}

impl Spread {
    fn of(times: &mut [Duration]) -> Self {
        times.sort();
        let at = |share: usize| times[(times.len() * share / 100).min(times.len() - 1)];
        Self { median: at(50), p99: at(99) }
    }
}

impl std::fmt::Display for Spread {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let ms = |time: Duration| time.as_secs_f64() * 1e3;
        write!(f, "median {:.2} ms, p99 {:.2} ms", ms(self.median), ms(self.p99))
    }
}

/// A table and what commits to it.
struct Table {
    env: Env,
    committer: Committer,
    ledger: Ledger,
    name: TableName,
    state: TableState,
    at: Option<i64>,
}

impl Table {
    /// A table that has `SNAPSHOTS` commits of `files` files each.
    async fn new(folder: &Path, name: &str, files: usize) -> Self {
        let env = Env::system();
        let storage = Storage::new(StorageOptions { requests_max: 64, ..StorageOptions::default() }, env.clone());
        let resolver = storage.clone();
        let warehouse = folder.join("warehouse").display().to_string();
        let resolver = Arc::new(move |location: &str| resolver.resolve(location));
        let catalog = EmbeddedCatalog::open(&env, &folder.join("catalog.db"), &warehouse, resolver).await;
        let catalog: Arc<dyn Catalog> = Arc::new(catalog.expect("a catalog"));
        let disk = Arc::new(LocalDisk::new(folder.join(name), env.clone()));
        let ledger = Ledger::open(disk, ENTRIES_MAX).await.expect("a ledger");
        let name: TableName = format!("bench.{name}").parse().expect("a name");
        let Outcome::Committed(state) = catalog.create(&layout(&name)).await else { unreachable!("a new table") };
        let committer =
            Committer::new(env.clone(), catalog, storage, Some(ledger.clone()), name.clone(), "bench".to_owned());
        let mut table = Self { env, committer, ledger, name, state: *state, at: None };
        table.commit(0).await;
        for _ in 0..SNAPSHOTS {
            table.commit(files).await;
        }
        table
    }

    /// Commits so many files; none is the start record.
    async fn commit(&mut self, files: usize) -> Duration {
        let mut change = Change::new(self.env.snapshot_id());
        let owner = LedgerOwner { table: self.name.clone(), snapshot_id: change.snapshot_id };
        let mut delta = Delta::default();
        if files > 0 {
            let to = self.at.map_or(0, |at| at + 1);
            let range = Range { from: self.at.map(Position::Offset), to: Position::Offset(to) };
            delta.extend(PartitionId::new("0"), range).expect("the next rows");
            self.at = Some(to);
        }
        change.data = Some(Data::Append(Append {
            files: (0..files).map(|n| file(&self.state, &format!("{:x}-{n:05}", owner.snapshot_id))).collect(),
            schema: self.state.metadata.current_schema().clone(),
            spec_id: self.state.metadata.default_partition_spec_id(),
        }));
        change.delta = Some(PipelineDelta {
            pipeline: PipelineName::new("bench"),
            delta,
            witness: Checkpoint::default(),
            on_rollback: OnRollback::Halt,
            follows: None,
            known_seq: 0,
            sealed: Vec::new(),
            finished: Vec::new(),
            operator: None,
        });
        let mut commit = Commit::new(change);
        let begun = Instant::now();
        let ending = self.committer.run(&mut commit, &self.state, &CancellationToken::new()).await.expect("no halt");
        let Ending::Done { state, .. } = ending else { unreachable!("nobody else commits") };
        self.ledger.settle(&owner).await.expect("a ledger");
        let took = begun.elapsed();
        self.state = *state;
        took
    }
}

fn layout(name: &TableName) -> CreateTable {
    let columns = (1..=COLUMNS)
        .map(|id| Arc::new(NestedField::optional(id, format!("c{id}"), Type::Primitive(PrimitiveType::String))));
    CreateTable {
        name: name.clone(),
        location: None,
        schema: Schema::builder().with_fields(columns).build().expect("a schema"),
        spec: UnboundPartitionSpec::default(),
        sort_order: SortOrder::unsorted_order(),
        format_version: FormatVersion::V2,
        properties: HashMap::new(),
    }
}

/// A file with the metrics that real ones have: bounds of 16 characters and counts for each column.
fn file(state: &TableState, name: &str) -> DataFile {
    let each = |count: u64| (1..=COLUMNS).map(|id| (id, count + id.unsigned_abs() as u64)).collect::<HashMap<_, _>>();
    let bounds = |first: char| {
        (1..=COLUMNS).map(|id| (id, Datum::string(format!("{first}{id:02}{:.13}", name)))).collect::<HashMap<_, _>>()
    };
    DataFileBuilder::default()
        .content(DataContentType::Data)
        .file_path(format!("{}/data/00000-{name}.parquet", state.metadata.location()))
        .file_format(DataFileFormat::Parquet)
        .partition(Struct::empty())
        .partition_spec_id(state.metadata.default_partition_spec_id())
        .record_count(10_000)
        .file_size_in_bytes(4_000_000)
        .column_sizes(each(300_000))
        .value_counts(each(10_000))
        .null_value_counts(each(0))
        .lower_bounds(bounds('a'))
        .upper_bounds(bounds('z'))
        .split_offsets(Some(vec![4]))
        .build()
        .expect("an entry")
}
