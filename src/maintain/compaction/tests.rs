use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use ::parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use arrow::array::{Array, AsArray, Int64Array, RecordBatch, StringArray};
use arrow::datatypes::{DataType, Int64Type};
use bytes::Bytes;
use iceberg::TableUpdate;
use iceberg::spec::{
    DataContentType, DataFileBuilder, DataFileFormat, Literal, NestedField, PrimitiveType, Schema, SnapshotReference,
    SnapshotRetention, SortOrder, Struct, Transform, Type, UnboundPartitionField, UnboundPartitionSpec,
};
use proptest::prelude::*;

use super::*;
use crate::catalog::faulty::{Fault, FaultyCatalog};
use crate::catalog::memory::MemoryCatalog;
use crate::catalog::{Catalog, CreateTable, Outcome, PreparedCommit};
use crate::commit::deletes;
use crate::commit::manifests::{LiveEntry, live_entries};
use crate::commit::protocol::Ending;
use crate::commit::replace::tests::{Content, World};
use crate::compact::merge::Rung;
use crate::env::virtual_time::{on_virtual_time, simulated};
use crate::model::change::Append;
use crate::model::ids::TableName;
use crate::model::remap::Places;
use crate::storage::disk::MemoryDisk;
use crate::storage::{Storage, StorageOptions};
use crate::write::budget::Budget;
use crate::write::{EpochWriter, WriterOptions};

/// A table of `n` and `s`, partitioned by `s`.
struct Bench {
    env: Env,
    storage: Storage,
    catalog: Arc<FaultyCatalog>,
    table: TableName,
    leftovers: Leftovers,
}

impl Bench {
    async fn new(format_version: FormatVersion) -> Self {
        let env = simulated(5);
        let storage = Storage::new(StorageOptions::default(), env.clone());
        let table: TableName = "ns.t".parse().expect("valid");
        let truth = Arc::new(MemoryCatalog::new(env.clone(), "memory:///wh"));
        let catalog = Arc::new(FaultyCatalog::new(truth, env.clone(), 0));
        let leftovers = Leftovers::open(Arc::new(MemoryDisk::new())).await.expect("opens");
        let bench = Self { env, storage, catalog, table, leftovers };
        bench.create(format_version).await;
        bench.commit(vec![]).await;
        bench
    }

    async fn create(&self, format_version: FormatVersion) {
        let field = |id, name: &str, ty| Arc::new(NestedField::optional(id, name, Type::Primitive(ty)));
        let fields = [field(1, "n", PrimitiveType::Long), field(2, "s", PrimitiveType::String)];
        let by_s = UnboundPartitionField {
            source_id: 2,
            field_id: None,
            name: "s".to_owned(),
            transform: Transform::Identity,
        };
        let created = self
            .catalog
            .create(&CreateTable {
                name: self.table.clone(),
                location: Some("memory:///wh/t".to_owned()),
                schema: Schema::builder().with_fields(fields).build().expect("valid"),
                spec: UnboundPartitionSpec::builder().add_partition_fields([by_s]).expect("valid").build(),
                sort_order: SortOrder::unsorted_order(),
                format_version,
                properties: HashMap::new(),
            })
            .await;
        assert!(matches!(created, Outcome::Committed(_)), "{created:?}");
    }

    fn committer(&self) -> Committer {
        let ledger = Some(self.leftovers.ledger().clone());
        let (catalog, storage) = (self.catalog.clone(), self.storage.clone());
        Committer::new(self.env.clone(), catalog, storage, ledger, self.table.clone(), "i".to_owned())
    }

    async fn commit(&self, files: Vec<iceberg::spec::DataFile>) {
        let mut committer = self.committer();
        let base = committer.load().await.expect("there");
        let mut change = Change::new(self.env.snapshot_id());
        let schema = Arc::clone(base.metadata.current_schema());
        change.data = Some(Data::Append(Append { files, schema, spec_id: 0 }));
        let mut commit = Commit::new(change);
        let ending = committer.run(&mut commit, &base, &CancellationToken::new()).await.expect("no halt");
        assert!(matches!(ending, Ending::Done { .. }), "{ending:?}");
        for owner in commit.owners(&self.table) {
            self.leftovers.ledger().settle(&owner).await.expect("settled");
        }
    }

    /// One commit of these rows, a file for each partition.
    async fn append(&self, rows: &[(i64, &str)]) -> Vec<String> {
        let state = self.catalog.load(&self.table).await.expect("there");
        let layout = TableLayout::from_state(&state, None, &WriteProperties::default()).expect("valid");
        let n: Int64Array = rows.iter().map(|(n, _)| Some(*n)).collect();
        let s: StringArray = rows.iter().map(|(_, s)| Some(*s)).collect();
        let columns: Vec<arrow::array::ArrayRef> = vec![Arc::new(n), Arc::new(s)];
        let batch = RecordBatch::try_new(layout.arrow_schema().expect("valid"), columns).expect("fits");
        let files = files_in(&self.storage, None);
        let options = WriterOptions::default();
        let budget = Budget::new(1 << 30);
        let mut writer = EpochWriter::new(layout, files, &budget, self.env.clone(), options).expect("opens");
        assert!(writer.write(batch).await.expect("written").is_empty());
        let staged = writer.finish().await.expect("written");
        let names = staged.files.iter().map(|file| file.file_path().to_owned()).collect();
        self.commit(staged.files).await;
        names
    }

    fn compaction<'a>(&'a self, committer: &'a mut Committer) -> Compaction<'a> {
        let wish = Wish { target_bytes: None, rewrite_all: false, memory: 256 << 20 };
        Compaction { env: &self.env, committer, leftovers: &self.leftovers, wish }
    }

    async fn compact(&self) -> Report {
        self.compaction(&mut self.committer()).run(&CancellationToken::new()).await.expect("no halt")
    }

    /// The live files, and the rows in them with their ids where they have some.
    async fn rows(&self) -> (usize, Vec<(i64, String, Option<i64>)>) {
        let state = self.catalog.load(&self.table).await.expect("there");
        let files = LiveFiles::of(&self.storage, &state, MAIN).await.expect("readable").expect("a head");
        let mut rows = Vec::new();
        for file in &files.data {
            let bytes = self.storage.read(&file.location).await.expect("there");
            let reader = ParquetRecordBatchReaderBuilder::try_new(bytes).expect("footer").build().expect("reader");
            let mut place = 0;
            for batch in reader {
                let batch = batch.expect("rows");
                let n = batch.column(0).as_primitive::<Int64Type>();
                let s = batch.column(1).as_string::<i32>();
                let ids = batch.column_by_name("_row_id").map(|ids| ids.as_primitive::<Int64Type>().clone());
                for at in 0..batch.num_rows() {
                    let own = ids.as_ref().filter(|ids| ids.is_valid(at)).map(|ids| ids.value(at));
                    let id = own.or(file.first_row_id.map(|first| first + place));
                    rows.push((n.value(at), s.value(at).to_owned(), id));
                    place += 1;
                }
            }
        }
        rows.sort();
        (files.data.len(), rows)
    }
}

#[test]
fn many_small_files_become_one_for_each_partition_with_the_same_rows_and_row_ids() {
    for format in [FormatVersion::V2, FormatVersion::V3] {
        on_virtual_time(async move {
            let bench = Bench::new(format).await;
            for at in 0..6 {
                bench.append(&[(at * 2, "a"), (at * 2 + 1, "b")]).await;
            }
            bench.append(&[(99, "c")]).await;
            let (files, before) = bench.rows().await;
            assert_eq!((files, before.len()), (13, 13));
            let snapshots = bench.catalog.load(&bench.table).await.expect("there").metadata.snapshots().count();
            let report = bench.compact().await;
            let state = bench.catalog.load(&bench.table).await.expect("there");
            assert_eq!(state.metadata.snapshots().count(), snapshots + 1, "small groups are committed together");
            let groups: Vec<_> = report.groups.iter().map(|(planned, _)| planned.partition.as_str()).collect();
            assert_eq!(groups, ["s=a", "s=b"]);
            let way = if format == FormatVersion::V2 { Rung::Splice } else { Rung::Merge };
            let as_planned = |planned: &Planned, fate: &Option<Fate>| {
                planned.group.rung == way && matches!(fate, Some(Fate::Done { files: 1, rung, .. }) if *rung == way)
            };
            assert!(report.groups.iter().all(|(planned, fate)| as_planned(planned, fate)), "{:?}", report.groups);
            assert_eq!(bench.rows().await, (3, before));
            let again = bench.compact().await;
            assert!(again.groups.is_empty(), "{:?}", again.groups);
            assert!(bench.leftovers.ledger().open_entries().is_empty());
        });
    }
}

#[test]
fn files_of_an_older_spec_move_into_partitions_of_the_new_one_and_rows_keep_their_ids() {
    for format in [FormatVersion::V2, FormatVersion::V3] {
        on_virtual_time(async move {
            let bench = Bench::new(format).await;
            for at in 0..4 {
                bench.append(&[(at * 7, "a"), (at * 7 + 1, "b")]).await;
            }
            let before = bench.rows().await.1;
            let tens = UnboundPartitionField {
                source_id: 1,
                field_id: None,
                name: "ten".to_owned(),
                transform: Transform::Truncate(10),
            };
            let spec = UnboundPartitionSpec::builder().add_partition_fields([tens]).expect("valid").build();
            let changed = bench
                .catalog
                .commit(&PreparedCommit {
                    table: bench.table.clone(),
                    requirements: vec![],
                    updates: vec![TableUpdate::AddSpec { spec }, TableUpdate::SetDefaultSpec { spec_id: -1 }],
                    idempotency_key: bench.env.uuid(),
                })
                .await;
            assert!(matches!(changed, Outcome::Committed(_)), "{changed:?}");
            let first = bench.compact().await;
            assert!(first.groups[0].0.group.why.ends_with("of an older partition spec"), "{:?}", first.groups);
            // Both partitions of the old spec have left files in those of the new one.
            bench.compact().await;
            assert!(bench.compact().await.groups.is_empty(), "two rounds are enough");
            assert_eq!(bench.rows().await.1, before);
            let state = bench.catalog.load(&bench.table).await.expect("there");
            let files = LiveFiles::of(&bench.storage, &state, MAIN).await.expect("readable").expect("a head");
            assert!(files.partitions.iter().all(|partition| partition.spec_id == 1), "{:?}", files.partitions);
            for file in &files.data {
                let bytes = bench.storage.read(&file.location).await.expect("there");
                let reader = ParquetRecordBatchReaderBuilder::try_new(bytes).expect("footer").build().expect("reader");
                for batch in reader {
                    for n in batch.expect("rows").column(0).as_primitive::<Int64Type>().values() {
                        let ten = Struct::from_iter([Some(Literal::long(n - n % 10))]);
                        assert_eq!(files.partitions[file.partition].values, ten, "{n}");
                    }
                }
            }
        });
    }
}

#[test]
fn a_commit_takes_so_many_groups_and_bytes_that_it_is_no_great_loss() {
    let group = |bytes_in: u64| Group {
        partition: 0,
        inputs: vec![],
        deletes: vec![],
        bytes_in,
        rows_in: 0,
        bytes_out: 0,
        files_out: 0,
        core_ms: 0,
        rung: Rung::Merge,
        requests: 0,
        why: String::new(),
    };
    let cut = |sizes: &[u64]| -> Vec<usize> {
        let groups: Vec<Group> = sizes.iter().map(|bytes| group(*bytes)).collect();
        batches(&groups).map(<[Group]>::len).collect()
    };
    let most = BATCH_BYTES_MAX;
    assert_eq!(cut(&[]), [0; 0]);
    assert_eq!(cut(&[most, 1, most - 1, 1]), [1, 2, 1]);
    assert_eq!(cut(&[most * 3, 1]), [1, 1], "one group is never cut");
    assert_eq!(cut(&vec![1; BATCH_GROUPS_MAX * 2 + 1]), [BATCH_GROUPS_MAX, BATCH_GROUPS_MAX, 1]);
}

#[test]
fn a_group_that_cannot_be_read_is_refused_with_its_file_and_the_others_go_on() {
    on_virtual_time(async {
        let bench = Bench::new(FormatVersion::V2).await;
        let mut names = Vec::new();
        for at in 0..5 {
            names.extend(bench.append(&[(at, "a"), (at, "b")]).await);
        }
        let broken = names.iter().find(|name| name.contains("s=a")).expect("one");
        let size = bench.storage.size(broken).await.expect("there");
        bench
            .storage
            .write(broken, Bytes::from(vec![7; usize::try_from(size).expect("small")]))
            .await
            .expect("written");
        let report = bench.compact().await;
        let mut fates: Vec<_> =
            report.groups.iter().map(|(planned, fate)| (planned.partition.as_str(), fate)).collect();
        fates.sort_by_key(|(partition, _)| *partition);
        assert!(
            matches!(fates[0], ("s=a", Some(Fate::Refused(error))) if error.to_string().contains(broken)),
            "{fates:?}"
        );
        assert!(matches!(fates[1], ("s=b", Some(Fate::Done { .. }))), "{fates:?}");
        assert!(bench.leftovers.ledger().open_entries().is_empty(), "nothing was left behind");
    });
}

#[test]
fn a_table_with_a_column_of_an_unknown_type_is_refused_before_any_of_its_files_is_read() {
    on_virtual_time(async {
        let bench = Bench::new(FormatVersion::V3).await;
        for at in 0..5 {
            bench.append(&[(at, "a")]).await;
        }
        let state = bench.catalog.load(&bench.table).await.expect("there");
        // Were its files looked at, this one would be missed.
        bench.storage.delete(state.head(MAIN).expect("a head").manifest_list()).await.expect("deleted");
        let document = serde_json::to_string(state.metadata.as_ref()).expect("text");
        let document = document.replace("\"long\"", "\"geometry(srid:4326)\"");
        let name = bench.table.clone();
        let state = TableState::from_json(name, document.as_bytes(), None, HashMap::new()).expect("degraded");
        let mut committer = bench.committer();
        let compaction = bench.compaction(&mut committer);
        let refused = compaction.plan(state, &Rules::default()).await.map(|_| ()).expect_err("not known");
        assert_eq!(refused.kind(), ErrorKind::Unsupported, "{refused}");
        assert!(refused.to_string().contains("column n has type geometry"), "{refused}");
    });
}

#[test]
fn what_a_process_that_died_left_is_deleted_when_it_is_proved_twice() {
    on_virtual_time(async {
        let bench = Bench::new(FormatVersion::V2).await;
        bench.append(&[(1, "a")]).await;
        let owner = LedgerOwner { table: bench.table.clone(), snapshot_id: 77 };
        let name = "memory:///wh/t/data/left.parquet";
        bench.leftovers.ledger().stage(&owner, name).await.expect("noted");
        bench.storage.write(name, Bytes::from_static(b"x")).await.expect("written");
        let waits = |files| Swept { deleted: 0, waiting: files };
        assert_eq!(bench.compact().await.swept, waits(1), "its commit may be under way");
        bench.append(&[(2, "a")]).await;
        assert_eq!(bench.compact().await.swept, waits(1), "proved once");
        assert_eq!(bench.compact().await.swept, waits(1), "a deadline has not passed");
        bench.env.sleep(Duration::from_secs(601)).await;
        assert_eq!(bench.compact().await.swept, Swept { deleted: 1, waiting: 0 });
        assert!(!bench.storage.exists(name).await.expect("asked"));
        assert!(bench.leftovers.ledger().open_entries().is_empty());
    });
}

#[test]
fn what_was_left_of_a_table_that_was_dropped_is_not_taken_for_its_successors() {
    on_virtual_time(async {
        let bench = Bench::new(FormatVersion::V2).await;
        let location = "memory:///wh/t/data/of-the-old-one.parquet";
        let owner = LedgerOwner { table: bench.table.clone(), snapshot_id: 7 };
        bench.leftovers.ledger().stage(&owner, location).await.expect("noted");
        bench.storage.write(location, Bytes::from_static(b"rows")).await.expect("written");
        bench.catalog.drop_table(&bench.table).await.expect("dropped");
        bench.create(FormatVersion::V2).await;
        bench.commit(vec![]).await;
        for n in 0..3 {
            bench.append(&[(n, "x")]).await;
            bench.compact().await;
            bench.env.sleep(Duration::from_secs(700)).await;
        }
        assert!(bench.storage.exists(location).await.expect("asked"), "whoever brings the table back has this file");
        assert_eq!(bench.leftovers.ledger().open_of(&owner), Vec::<String>::new());
    });
}

#[test]
fn a_commit_whose_answer_is_lost_is_found_in_the_table() {
    on_virtual_time(async {
        let bench = Bench::new(FormatVersion::V2).await;
        for at in 0..5 {
            bench.append(&[(at, "a")]).await;
        }
        let (_, before) = bench.rows().await;
        bench.catalog.script([Fault::LostYes]);
        let report = bench.compact().await;
        assert!(matches!(report.groups[0].1, Some(Fate::Done { .. })), "{:?}", report.groups);
        assert_eq!(bench.rows().await, (1, before));
    });
}

#[test]
fn a_commit_that_a_stop_cuts_short_is_given_up_and_is_no_failure() {
    on_virtual_time(async {
        let bench = Bench::new(FormatVersion::V2).await;
        for at in 0..5 {
            bench.append(&[(at, "a")]).await;
        }
        let (_, before) = bench.rows().await;
        bench.catalog.script(vec![Fault::LostNo; 100]);
        let (mut committer, cancel) = (bench.committer(), CancellationToken::new());
        let mut compaction = bench.compaction(&mut committer);
        let stop = async {
            bench.env.sleep(Duration::from_secs(2)).await;
            cancel.cancel();
        };
        let (report, ()) = tokio::join!(compaction.run(&cancel), stop);
        let fate = report.expect("no halt").groups.pop().and_then(|(_, fate)| fate);
        assert!(matches!(&fate, Some(Fate::Lost(why)) if why.contains("stopped")), "{fate:?}");
        assert!(!bench.leftovers.ledger().open_entries().is_empty(), "a late request may have named them");
        assert_eq!(bench.rows().await.1, before);
    });
}

impl Bench {
    async fn compact_by(&self, rules: &Rules) -> Result<Report> {
        self.compaction(&mut self.committer()).run_by(rules, &CancellationToken::new()).await
    }

    async fn branch(&self, name: &str) {
        let mut committer = self.committer();
        let base = committer.load().await.expect("there");
        let head = base.head(MAIN).expect("a head").snapshot_id();
        let retention = SnapshotRetention::branch(None, None, None);
        let mut change = Change::new(self.env.snapshot_id());
        change.refs.insert(name.to_owned(), Some(SnapshotReference::new(head, retention)));
        let mut commit = Commit::new(change);
        let ending = committer.run(&mut commit, &base, &CancellationToken::new()).await.expect("no halt");
        assert!(matches!(ending, Ending::Done { .. }), "{ending:?}");
    }

    async fn files_of(&self, branch: &str) -> usize {
        let state = self.catalog.load(&self.table).await.expect("there");
        let files = LiveFiles::of(&self.storage, &state, branch).await.expect("readable");
        files.expect("a head").data.len()
    }
}

#[test]
fn only_the_partitions_that_are_asked_for_are_rewritten_some_at_a_time() {
    on_virtual_time(async {
        let bench = Bench::new(FormatVersion::V2).await;
        for at in 0..5 {
            bench.append(&[(at, "a"), (at, "b"), (at, "c")]).await;
        }
        let (_, before) = bench.rows().await;
        let only = |text: &str| Rules { only: PartitionFilter::parse(text).ok(), parallel: 2, ..Rules::default() };
        let report = bench.compact_by(&only("s < 'c'")).await.expect("no halt");
        let groups: Vec<_> = report.groups.iter().map(|(planned, _)| planned.partition.as_str()).collect();
        assert_eq!(groups, ["s=a", "s=b"]);
        assert!(report.groups.iter().all(|(_, fate)| matches!(fate, Some(Fate::Done { files: 1, .. }))));
        assert_eq!(bench.rows().await, (7, before));
        let error = bench.compact_by(&only("t = 'c'")).await.expect_err("no such field");
        assert!(error.to_string().contains("there is no partition field \"t\""), "{error}");
        assert_eq!(error.hint(), Some("there are s"));
    });
}

#[test]
fn a_branch_is_compacted_and_main_stays_as_it_is() {
    on_virtual_time(async {
        let bench = Bench::new(FormatVersion::V3).await;
        for at in 0..5 {
            bench.append(&[(at, "a")]).await;
        }
        bench.branch("audit").await;
        let before = bench.rows().await;
        let on = |branch: &str| Rules { branch: branch.to_owned(), ..Rules::default() };
        let report = bench.compact_by(&on("audit")).await.expect("no halt");
        assert!(matches!(report.groups[0].1, Some(Fate::Done { files: 1, .. })), "{:?}", report.groups);
        assert_eq!((bench.files_of("audit").await, bench.rows().await), (1, before));
        let error = bench.compact_by(&on("adit")).await.expect_err("no such branch");
        assert_eq!((error.kind(), error.hint()), (ErrorKind::NotFound, Some("there are audit, main")));
    });
}

/// A table of one column, written to by another engine: numbers, none of them twice, which it deletes by their places.
pub(crate) struct Foreign {
    pub(crate) world: World,
    pub(crate) leftovers: Leftovers,
}

impl Foreign {
    pub(crate) async fn new(seed: u64, rate: u64, format: FormatVersion) -> Self {
        let world = World::new(seed, rate, format).await;
        Self { world, leftovers: Leftovers::open(Arc::new(MemoryDisk::new())).await.expect("opens") }
    }

    /// A file of the numbers from `first` on, in row groups of three.
    async fn append(&self, first: i64, rows: u64) -> String {
        let numbers: Int64Array = (first..).take(usize::try_from(rows).expect("small")).map(Some).collect();
        let metadata = [("PARQUET:field_id".to_owned(), "1".to_owned())];
        let field = arrow::datatypes::Field::new("n", DataType::Int64, true).with_metadata(metadata.into());
        let schema = Arc::new(arrow::datatypes::Schema::new(vec![field]));
        let batch = RecordBatch::try_new(Arc::clone(&schema), vec![Arc::new(numbers)]).expect("fits");
        let properties = ::parquet::file::properties::WriterProperties::builder()
            .set_compression(::parquet::basic::Compression::ZSTD(Default::default()))
            .set_max_row_group_row_count(Some(3))
            .build();
        let mut bytes = Vec::new();
        let mut writer = ::parquet::arrow::ArrowWriter::try_new(&mut bytes, schema, Some(properties)).expect("opens");
        writer.write(&batch).expect("in memory");
        writer.close().expect("in memory");
        let location = format!("memory:///data/{}.parquet", self.world.env.uuid());
        let mut builder = DataFileBuilder::default();
        builder
            .content(DataContentType::Data)
            .file_path(location.clone())
            .file_format(DataFileFormat::Parquet)
            .partition(Struct::empty())
            .partition_spec_id(0)
            .record_count(rows)
            .file_size_in_bytes(bytes.len() as u64);
        self.world.storage.write(&location, Bytes::from(bytes)).await.expect("writable");
        assert!(self.world.foreign(vec![builder.build().expect("complete")], &BTreeSet::new()).await);
        location
    }

    pub(crate) async fn entries(&self, state: &TableState) -> Vec<LiveEntry> {
        let mut entries = Vec::new();
        for manifest in self.world.manifests(state).await {
            entries.extend(live_entries(&self.world.storage, &manifest).await.expect("a manifest"));
        }
        entries
    }

    /// Deletes rows of files that are still there, as vectors or as one file of deletes: of which places, once it is in.
    async fn delete(&self, places: &Places, apart: bool) -> Places {
        let state = self.world.state().await;
        let entries = self.entries(&state).await;
        let data = |path: &str| entries.iter().find(|entry| entry.file.file_path() == path).map(|entry| &entry.file);
        let format = state.metadata.format_version();
        let (mut done, mut come, mut go) = (Places::new(), Vec::new(), BTreeSet::new());
        for (path, own) in places {
            let Some(data) = data(path) else { continue };
            done.insert(path.clone(), own.clone());
            let mut all = own.clone();
            let vectors = entries.iter().filter(|entry| entry.file.file_format() == DataFileFormat::Puffin);
            for old in vectors.filter(|entry| entry.file.referenced_data_file().as_ref() == Some(path)) {
                let wanted = BTreeSet::from([path.clone()]);
                let held = deletes::places(&self.world.env, &self.world.storage, &old.file, &wanted).await;
                all |= &held.expect("a vector")[path];
                go.insert(old.file.file_path().to_owned());
            }
            if apart || format >= FormatVersion::V3 {
                let stem = format!("memory:///data/{}", self.world.env.uuid());
                let written = deletes::write(format, (data, 0), &all, &stem).expect("encoded");
                self.world.storage.write(written.entry.file_path(), written.bytes.into()).await.expect("writable");
                come.push(written.entry);
            }
        }
        if come.is_empty() && !done.is_empty() {
            let rows = done.iter().flat_map(|(path, own)| own.iter().map(|at| (path.clone(), at)));
            let rows = rows.map(|(path, at)| (path, usize::try_from(at).expect("small")));
            come.push(self.world.file(Content::Positions(rows.collect()), None).await);
        }
        if done.is_empty() {
            return done;
        }
        if self.world.foreign_on(&state, come, &go).await { done } else { Places::new() }
    }

    /// The numbers that a reader finds.
    async fn numbers(&self) -> Vec<i64> {
        let entries = self.entries(&self.world.state().await).await;
        let (data, masks): (Vec<_>, Vec<_>) =
            entries.into_iter().partition(|entry| entry.file.content_type() == DataContentType::Data);
        let paths: BTreeSet<String> = data.iter().map(|entry| entry.file.file_path().to_owned()).collect();
        let mut deleted = Places::new();
        for mask in masks {
            let found = deletes::places(&self.world.env, &self.world.storage, &mask.file, &paths).await;
            for (path, own) in found.expect("readable") {
                let reached = data.iter().find(|entry| entry.file.file_path() == path).expect("wanted");
                assert!(mask.seq >= reached.seq, "deletes of {path} are older than it");
                *deleted.entry(path).or_default() |= own;
            }
        }
        let mut numbers = Vec::new();
        for path in paths {
            let bytes = self.world.storage.read(&path).await.expect("there");
            let reader = ParquetRecordBatchReaderBuilder::try_new(bytes).expect("footer").build().expect("reader");
            let batches: Vec<RecordBatch> = reader.map(|batch| batch.expect("rows")).collect();
            let rows = batches.iter().flat_map(|batch| batch.column(0).as_primitive::<Int64Type>().values().to_vec());
            let gone = deleted.get(&path).cloned().unwrap_or_default();
            numbers.extend(rows.enumerate().filter(|(at, _)| !gone.contains(*at as u64)).map(|(_, number)| number));
        }
        numbers.sort_unstable();
        numbers
    }

    pub(crate) fn committer(&self) -> Committer {
        let (catalog, storage) = (self.world.catalog.clone(), self.world.storage.clone());
        let ledger = Some(self.leftovers.ledger().clone());
        Committer::new(self.world.env.clone(), catalog, storage, ledger, "ns.t".parse().expect("valid"), "i".to_owned())
    }

    /// Rewrites everything that is there when it begins, into files of so many bytes, while `meanwhile` goes on.
    pub(crate) async fn compact<T>(&self, target_bytes: u64, meanwhile: impl Future<Output = T>) -> (Report, T) {
        let mut committer = self.committer();
        let wish = Wish { target_bytes: Some(target_bytes), rewrite_all: true, memory: 64 << 20 };
        let env = &self.world.env;
        let mut compaction = Compaction { env, committer: &mut committer, leftovers: &self.leftovers, wish };
        let state = self.world.state().await;
        let base = compaction.plan(state, &Rules::default()).await.expect("a plan").expect("a head");
        let cancel = CancellationToken::new();
        let (report, met) = tokio::join!(compaction.carry_out(&base, &cancel), meanwhile);
        (report.expect("no halt"), met)
    }
}

fn remapped(report: &Report) -> u64 {
    let fates = report.groups.iter().map(|(_, fate)| match fate {
        Some(Fate::Done { remapped, .. }) => *remapped,
        other => panic!("{other:?}"),
    });
    fates.sum()
}

#[test]
fn rows_that_others_delete_while_they_are_rewritten_are_deleted_in_the_new_files() {
    for format in [FormatVersion::V2, FormatVersion::V3] {
        on_virtual_time(async move {
            let foreign = Foreign::new(1, 0, format).await;
            let (a, b) = (foreign.append(0, 10).await, foreign.append(10, 10).await);
            let places = |own: &[(&String, &[u64])]| -> Places {
                own.iter().map(|(path, at)| ((*path).clone(), at.iter().copied().collect())).collect()
            };
            foreign.delete(&places(&[(&a, &[0, 5])]), true).await;
            // Place 5 is deleted twice where there are no vectors; 40 never was.
            let meanwhile = async {
                foreign.delete(&places(&[(&a, &[5, 6]), (&b, &[0, 9, 40])]), false).await;
            };
            let (report, ()) = Box::pin(foreign.compact(512 << 20, meanwhile)).await;
            assert_eq!(remapped(&report), 3);
            let wanted: Vec<i64> = (0..20).filter(|n| ![0, 5, 6, 10, 19].contains(n)).collect();
            assert_eq!(foreign.numbers().await, wanted);
            let state = foreign.world.state().await;
            let entries = foreign.entries(&state).await;
            let kinds: Vec<_> = entries.iter().map(|entry| entry.file.file_format()).collect();
            let deletes = if format == FormatVersion::V3 { DataFileFormat::Puffin } else { DataFileFormat::Parquet };
            assert_eq!(kinds, [DataFileFormat::Parquet, deletes], "one new file and its deletes, and nothing else");
            let summary = &state.head(MAIN).expect("a head").summary().additional_properties;
            assert_eq!(summary["added-position-deletes"], "3");
            // The list of the attempt that met the deletes, and nothing that is in.
            let left = foreign.leftovers.ledger().open_entries();
            let held = |left: &LedgerEntry| entries.iter().any(|entry| entry.file.file_path() == left.location);
            assert!(!left.iter().any(held), "what is in is no leftover: {left:?}");
            // What was put there is applied by the next rewrite, and goes with it.
            let (report, ()) = Box::pin(foreign.compact(512 << 20, async {})).await;
            assert_eq!((remapped(&report), foreign.numbers().await), (0, wanted));
            assert_eq!(foreign.entries(&foreign.world.state().await).await.len(), 1);
        });
    }
}

#[test]
fn rows_that_others_delete_while_pages_are_copied_are_deleted_in_the_new_files() {
    on_virtual_time(async move {
        let foreign = Foreign::new(1, 0, FormatVersion::V2).await;
        let (a, b) = (foreign.append(0, 10).await, foreign.append(10, 10).await);
        let places: Places = [(a, [5, 6].into_iter().collect()), (b, [0, 9].into_iter().collect())].into();
        let meanwhile = async {
            foreign.delete(&places, false).await;
        };
        let (report, ()) = Box::pin(foreign.compact(512 << 20, meanwhile)).await;
        assert!(matches!(report.groups[0].1, Some(Fate::Done { rung: Rung::Splice, remapped: 4, .. })), "{report:?}");
        let wanted: Vec<i64> = (0..20).filter(|n| ![5, 6, 10, 19].contains(n)).collect();
        assert_eq!(foreign.numbers().await, wanted);
        // Then there are deletes to apply.
        let (report, ()) = Box::pin(foreign.compact(512 << 20, async {})).await;
        assert!(matches!(report.groups[0].1, Some(Fate::Done { rung: Rung::Merge, remapped: 0, .. })), "{report:?}");
        assert_eq!(foreign.numbers().await, wanted);
    });
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]
    #[test]
    fn no_delete_that_arrives_while_files_are_rewritten_is_lost_or_doubled(
        seed in 0_u64..1000,
        v3 in any::<bool>(),
        files in prop::collection::vec(1_u64..12, 1..5),
        before in prop::collection::vec((0_usize..5, 0_u64..12), 0..6),
        commits in prop::collection::vec((prop::collection::vec((0_usize..5, 0_u64..12), 1..5), any::<bool>()), 0..4),
        small in any::<bool>(),
    ) {
        on_virtual_time(async move {
            let format = if v3 { FormatVersion::V3 } else { FormatVersion::V2 };
            let foreign = Foreign::new(seed, seed % 3 * 15, format).await;
            let (mut paths, mut firsts, mut next) = (Vec::new(), BTreeMap::new(), 0);
            for rows in files {
                let path = foreign.append(next, rows).await;
                firsts.insert(path.clone(), next);
                paths.push((path, rows));
                next += i64::try_from(rows).expect("small");
            }
            let chosen = |own: &[(usize, u64)]| {
                let mut places = Places::new();
                for (file, at) in own {
                    if let Some((path, rows)) = paths.get(*file).filter(|(_, rows)| at < rows) {
                        assert!(at < rows);
                        places.entry(path.clone()).or_default().insert(*at);
                    }
                }
                places
            };
            let mut wanted: BTreeSet<i64> = (0..next).collect();
            let mut take = |places: Places| {
                for (path, own) in places {
                    let number = |at: u64| firsts[&path] + i64::try_from(at).expect("small");
                    wanted.retain(|held| !own.iter().any(|at| number(at) == *held));
                }
            };
            take(foreign.delete(&chosen(&before), seed % 2 == 0).await);
            let env = &foreign.world.env;
            let meanwhile = async {
                let mut all = Vec::new();
                for (own, apart) in &commits {
                    all.push(foreign.delete(&chosen(own), *apart).await);
                    env.sleep(Duration::from_millis(env.below(800))).await;
                }
                all
            };
            let target_bytes = if small { 1 } else { 512 << 20 };
            let (report, all) = Box::pin(foreign.compact(target_bytes, meanwhile)).await;
            all.into_iter().for_each(&mut take);
            let fates = report.groups.iter().map(|(_, fate)| fate);
            let known = |fate: &Option<Fate>| matches!(fate, Some(Fate::Done { .. } | Fate::Open(_)));
            assert!(fates.clone().all(known), "{:?}", report.groups);
            assert_eq!(foreign.numbers().await, wanted.into_iter().collect::<Vec<_>>());
        });
    }
}
