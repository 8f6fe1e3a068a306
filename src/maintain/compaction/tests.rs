use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use ::parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use arrow::array::{Array, AsArray, Int64Array, RecordBatch, StringArray};
use arrow::datatypes::Int64Type;
use bytes::Bytes;
use iceberg::spec::{
    NestedField, PrimitiveType, Schema, SnapshotReference, SnapshotRetention, SortOrder, Transform, Type,
    UnboundPartitionField, UnboundPartitionSpec,
};

use super::*;
use crate::catalog::faulty::{Fault, FaultyCatalog};
use crate::catalog::memory::MemoryCatalog;
use crate::catalog::{Catalog, CreateTable, Outcome};
use crate::commit::protocol::Ending;
use crate::env::virtual_time::{on_virtual_time, simulated};
use crate::model::change::Append;
use crate::model::ids::TableName;
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
            assert!(report.groups.iter().all(|(_, fate)| matches!(fate, Some(Fate::Done { files: 1, .. }))));
            assert_eq!(bench.rows().await, (3, before));
            let again = bench.compact().await;
            assert!(again.groups.is_empty(), "{:?}", again.groups);
            assert!(bench.leftovers.ledger().open_entries().is_empty());
        });
    }
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
