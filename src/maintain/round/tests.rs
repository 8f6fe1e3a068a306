use std::collections::HashMap;

use arrow::array::{ArrayRef, AsArray, Int64Array, RecordBatch};
use arrow::datatypes::Int64Type;
use iceberg::spec::{FormatVersion, NestedField, PrimitiveType, Schema, SortOrder, Type, UnboundPartitionSpec};
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;

use super::*;
use crate::catalog::embedded::EmbeddedCatalog;
use crate::catalog::{CreateTable, Outcome};
use crate::commit::protocol::{Commit, Ending, GIVE_WAY};
use crate::commit::traffic::Traffic;
use crate::compact::files::LiveFiles;
use crate::compact::merge::files_in;
use crate::config::load::from_text;
use crate::daemon::counted::Counted;
use crate::env::virtual_time::{on_virtual_time, simulated};
use crate::maintain::debt::Debt;
use crate::model::change::{Append, Change, Data};
use crate::model::ids::MAIN;
use crate::storage::StorageOptions;
use crate::storage::counters::Operation;
use crate::storage::disk::MemoryDisk;
use crate::telemetry::metrics::Metrics;
use crate::write::budget::Budget;
use crate::write::layout::TableLayout;
use crate::write::properties::WriteProperties;
use crate::write::{EpochWriter, WriterOptions};

/// A catalog of tables with one column `n`, whose requests are counted.
struct World {
    metrics: Metrics,
    round: Round,
    _folder: tempfile::TempDir,
}

impl World {
    async fn new(policies: &str) -> Self {
        let env = simulated(3);
        let storage = Storage::new(StorageOptions::default(), env.clone());
        let metrics = Metrics::new();
        let folder = tempfile::tempdir().expect("a folder");
        let (path, stores) = (folder.path().join("catalog.db"), storage.clone());
        let resolver = Arc::new(move |location: &str| stores.resolve(location));
        let truth = Arc::new(EmbeddedCatalog::open(&env, &path, "memory:///wh", resolver).await.expect("opens"));
        let round = Round {
            env,
            name: "lake".to_owned(),
            catalog: Arc::new(Counted::new(truth, metrics.clone())),
            storage,
            traffic: Traffic::default(),
            instance: "one".to_owned(),
            holder: "one".to_owned(),
            policies: Arc::new(from_text("t", policies.to_owned(), &[]).expect("valid").config.policies),
            leftovers: Arc::new(Leftovers::open(Arc::new(MemoryDisk::new())).await.expect("opens")),
            notes: Arc::new(MemoryDisk::new()),
            options: Options {
                loads: 8,
                parallel: 1,
                memory: 64 << 20,
                claim: Duration::from_secs(300),
                consent: Consent::Named,
            },
        };
        Self { metrics, round, _folder: folder }
    }

    /// A table of so many files, each of one row and a snapshot of its own.
    async fn table(&self, name: &str, files: i64, properties: &[(&str, &str)]) -> TableName {
        let table: TableName = name.parse().expect("a name");
        let n = Arc::new(NestedField::optional(1, "n", Type::Primitive(PrimitiveType::Long)));
        let created = self
            .round
            .catalog
            .create(&CreateTable {
                name: table.clone(),
                location: Some(format!("memory:///wh/{name}")),
                schema: Schema::builder().with_fields([n]).build().expect("valid"),
                spec: UnboundPartitionSpec::default(),
                sort_order: SortOrder::unsorted_order(),
                format_version: FormatVersion::V2,
                properties: properties
                    .iter()
                    .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()))
                    .collect::<HashMap<_, _>>(),
            })
            .await;
        assert!(matches!(created, Outcome::Committed(_)), "{created:?}");
        self.commit(&table, Vec::new()).await;
        for n in 0..files {
            self.append(&table, n).await;
        }
        table
    }

    async fn commit(&self, table: &TableName, files: Vec<iceberg::spec::DataFile>) {
        let mut committer = self.round.committer(table);
        let base = committer.load().await.expect("there");
        let mut change = Change::new(self.round.env.snapshot_id());
        let schema = Arc::clone(base.metadata.current_schema());
        change.data = Some(Data::Append(Append { files, schema, spec_id: 0 }));
        let mut commit = Commit::new(change);
        let ending = committer.run(&mut commit, &base, &CancellationToken::new()).await.expect("no halt");
        assert!(matches!(ending, Ending::Done { .. }), "{ending:?}");
        for owner in commit.owners(table) {
            self.round.leftovers.ledger().settle(&owner).await.expect("settled");
        }
    }

    async fn append(&self, table: &TableName, n: i64) {
        let state = self.round.catalog.load(table).await.expect("there");
        let layout = TableLayout::from_state(&state, None, &WriteProperties::default()).expect("valid");
        let column: ArrayRef = Arc::new(Int64Array::from(vec![n]));
        let batch = RecordBatch::try_new(layout.arrow_schema().expect("valid"), vec![column]).expect("fits");
        let budget = Budget::new(1 << 30);
        let files = files_in(&self.round.storage, None);
        let options = WriterOptions::default();
        let mut writer = EpochWriter::new(layout, files, &budget, self.round.env.clone(), options).expect("opens");
        assert!(writer.write(batch).await.expect("written").is_empty());
        self.commit(table, writer.finish().await.expect("written").files).await;
    }

    async fn rows(&self, table: &TableName) -> (usize, Vec<i64>) {
        let state = self.round.catalog.load(table).await.expect("there");
        let files = LiveFiles::of(&self.round.storage, &state, MAIN).await.expect("readable").expect("a head");
        let mut rows = Vec::new();
        for file in &files.data {
            let bytes = self.round.storage.read(&file.location).await.expect("there");
            let reader = ParquetRecordBatchReaderBuilder::try_new(bytes).expect("footer").build().expect("reader");
            for batch in reader {
                rows.extend(batch.expect("rows").column(0).as_primitive::<Int64Type>().values());
            }
        }
        rows.sort_unstable();
        (files.data.len(), rows)
    }

    async fn snapshots(&self, table: &TableName) -> usize {
        self.round.catalog.load(table).await.expect("there").metadata.snapshots().count()
    }

    async fn run(&self, tables: &[TableName]) -> Vec<TableReport> {
        self.round.run(tables, &CancellationToken::new()).await
    }

    /// Requests to the catalog and the store, and those of them that change something.
    fn requests(&self) -> (u64, u64, u64) {
        let catalog = |op: &str| self.metrics.total("frazil_catalog_requests_total", &[op]);
        let counts = self.round.storage.counters().snapshot();
        let count = |op: Operation| counts.get(&op).map_or(0, |count| count.ok + count.missing + count.refused);
        let reads = [Operation::Get, Operation::Head, Operation::List].into_iter().map(count).sum();
        let writes = [Operation::Put, Operation::PutPart, Operation::Multipart, Operation::Delete, Operation::Copy];
        (catalog("load"), reads, catalog("commit") + writes.into_iter().map(count).sum::<u64>())
    }
}

/// `job end: words` of each step.
fn said(report: &TableReport) -> Vec<String> {
    let step = |step: &Step| format!("{} {}: {}", step.job.as_str(), step.end.as_str(), step.words);
    report.steps.iter().map(step).collect()
}

const EVERYWHERE: &str = "[policy.\"*\"]\nexpire = { keep = \"1h\" }\n";

#[test]
fn healthy_tables_cost_one_load_each_and_no_write() {
    on_virtual_time(async {
        let world = World::new(EVERYWHERE).await;
        let mut tables = Vec::new();
        for at in 0..100 {
            tables.push(world.table(&format!("ns.t{at:02}"), 2, &[]).await);
        }
        let (loads, reads, writes) = world.requests();
        let reports = world.run(&tables).await;
        assert!(reports.iter().all(|report| report.steps.is_empty()), "{:?}", reports.iter().map(said).next());
        assert_eq!(reports.len(), 100);
        assert_eq!(world.requests(), (loads + 100, reads + 100, writes), "their summaries say enough");
    });
}

#[test]
fn a_healthy_table_of_many_files_is_read_and_not_written() {
    on_virtual_time(async {
        let world = World::new(EVERYWHERE).await;
        let table = world.table("ns.t", 1, &[]).await;
        let state = world.round.catalog.load(&table).await.expect("there");
        let files = LiveFiles::of(&world.round.storage, &state, MAIN).await.expect("readable").expect("a head");
        // Files of just the size that they should have.
        let size = files.data[0].bytes.to_string();
        let table = world.table("ns.u", 8, &[("write.target-file-size-bytes", &size)]).await;
        let (loads, reads, writes) = world.requests();
        let reports = world.run(std::slice::from_ref(&table)).await;
        assert_eq!(said(&reports[0]), [""; 0]);
        let (loads_now, reads_now, writes_now) = world.requests();
        assert_eq!((loads_now - loads, writes_now - writes), (1, 0));
        assert_eq!(reads_now - reads, 1 + 1 + 8, "the metadata, the list and its manifests");
    });
}

#[test]
fn many_small_manifests_are_gathered_once_and_no_row_changes() {
    on_virtual_time(async {
        let world = World::new(EVERYWHERE).await;
        let own = [("frazil.policy.compact.enabled", "false"), ("frazil.policy.manifests.count_min", "10")];
        let (few, many) = (world.table("ns.few", 9, &own).await, world.table("ns.many", 12, &own).await);
        let before = world.rows(&many).await;
        let tables = [few, many.clone()];
        let said_of = |reports: &[TableReport]| reports.iter().map(said).collect::<Vec<_>>();
        let looks =
            [world.round.look(&tables[0]).await, world.round.look(&tables[1]).await].map(|look| look.expect("looked"));
        assert_eq!(
            (looks[0].worth(), looks[1].worth(), looks[1].gain),
            (0, 11_000, 0),
            "eleven manifests fewer, no file"
        );
        let planned = said_of(&world.round.preview(&tables).await);
        assert!(planned[0].is_empty() && planned[1].len() == 1, "{planned:?}");
        assert!(planned[1][0].starts_with("manifests planned: 12 manifests of "), "{planned:?}");
        assert!(planned[1][0].ends_with(" would become 1"), "{planned:?}");
        let done = said_of(&world.run(&tables).await);
        assert_eq!(done, [vec![], vec!["manifests done: 12 manifests became 1".to_owned()]]);
        assert_eq!(world.rows(&many).await, before);
        let state = world.round.catalog.load(&many).await.expect("there");
        let list = state.head(MAIN).expect("a head").manifest_list();
        let listed = crate::commit::manifests::list(&world.round.storage, list, FormatVersion::V2).await.expect("read");
        assert_eq!(listed.len(), 1);
        assert!(world.round.leftovers.ledger().open_entries().is_empty(), "what is in is settled");
        assert_eq!(said_of(&world.run(&tables).await), [vec![], Vec::<String>::new()], "nothing is due again");
    });
}

#[test]
fn a_rewrite_lets_commits_of_rows_that_are_under_way_go_first() {
    on_virtual_time(async {
        let world = World::new("[policy.\"*\"]\ncompact = { quiet = \"0s\" }\nexpire = { enabled = false }").await;
        let env = world.round.env.clone();
        let limit = i64::try_from(GIVE_WAY.as_millis()).expect("short");
        for (held_ms, waits_ms) in [(0, 0), (limit / 2, limit / 2), (limit * 10, limit)] {
            let table = world.table(&format!("db.t{held_ms}"), 6, &[]).await;
            let traffic = world.round.traffic.of("lake", &table);
            let (passage, begun) = (traffic.enter(), env.now_ms());
            let rows = async {
                env.sleep(Duration::from_millis(u64::try_from(held_ms).expect("positive"))).await;
                drop(passage);
            };
            let work = async {
                world.run(std::slice::from_ref(&table)).await;
                world
                    .round
                    .catalog
                    .load(&table)
                    .await
                    .expect("there")
                    .metadata
                    .current_snapshot()
                    .expect("one")
                    .timestamp_ms()
            };
            let (committed_ms, ()) = tokio::join!(work, rows);
            assert_eq!(world.rows(&table).await, (1, (0..6).collect()), "rewritten");
            let waited = committed_ms - begun;
            assert!((waits_ms..waits_ms + 5_000).contains(&waited), "held for {held_ms} ms, it waited {waited}");
        }
    });
}

#[test]
fn what_is_due_is_done_and_a_table_that_fails_stops_no_other() {
    on_virtual_time(async {
        let world = World::new(EVERYWHERE).await;
        let small = world.table("ns.small", 7, &[]).await;
        let wrong = world.table("ns.wrong", 1, &[("frazil.policy.compact.quite", "1m")]).await;
        let old = world.table("ns.old", 3, &[]).await;
        let missing: TableName = "ns.missing".parse().expect("a name");
        let tables = [small.clone(), wrong, old.clone(), missing];
        let before = world.rows(&small).await;
        assert_eq!(said(&world.run(&tables).await[2]), [""; 0], "the partition is still written to");
        world.round.env.sleep(Duration::from_secs(3_601)).await;
        let reports = world.run(&tables).await;
        let by_name = |name: &str| reports.iter().find(|report| report.table.name() == name).expect("reported");
        let small_said = said(by_name("small"));
        assert!(small_said[0].starts_with("compact done: 7 files of "), "{small_said:?}");
        assert!(small_said[0].ends_with("7 files well below 512.0 MiB"), "{small_said:?}");
        assert_eq!(world.rows(&small).await, (1, before.1));
        assert_eq!(said(by_name("old")), ["expire done: noted 3 snapshots to go"]);
        assert!(said(by_name("wrong"))[0].contains("property frazil.policy.compact.quite: there is no such setting"));
        assert!(by_name("missing").has_failed() && by_name("wrong").has_failed() && !by_name("old").has_failed());
        assert_eq!(world.snapshots(&old).await, 4);

        world.round.env.sleep(Duration::from_secs(601)).await;
        let reports = world.run(std::slice::from_ref(&old)).await;
        assert_eq!(said(&reports[0]), ["expire done: removed 3 snapshots"]);
        assert_eq!(world.snapshots(&old).await, 1);
        world.round.env.sleep(Duration::from_secs(601)).await;
        let reports = world.run(std::slice::from_ref(&old)).await;
        assert!(said(&reports[0])[0].starts_with("expire done: deleted 3 files of "), "{:?}", said(&reports[0]));
        assert_eq!(world.rows(&old).await, (3, vec![0, 1, 2]));
        let (_, _, writes) = world.requests();
        assert_eq!(said(&world.run(std::slice::from_ref(&old)).await[0]), [""; 0]);
        assert_eq!(world.requests().2, writes, "nothing is left to do");
    });
}

#[test]
fn a_plan_that_is_only_shown_changes_nothing() {
    on_virtual_time(async {
        let world = World::new(EVERYWHERE).await;
        let table = world.table("ns.t", 7, &[]).await;
        world.round.env.sleep(Duration::from_secs(3_601)).await;
        let (_, _, writes) = world.requests();
        let reports = world.round.preview(std::slice::from_ref(&table)).await;
        let said = said(&reports[0]);
        assert!(said[0].starts_with("compact planned: 7 files of "), "{said:?}");
        assert_eq!(said[1], "expire planned: 7 of 8 snapshots are older than 1h00m");
        assert_eq!(world.requests().2, writes);
    });
}

#[test]
fn a_table_that_no_policy_names_keeps_its_snapshots() {
    on_virtual_time(async {
        let mut world = World::new("").await;
        let table = world.table("ns.t", 2, &[("history.expire.max-snapshot-age-ms", "1000")]).await;
        world.round.env.sleep(Duration::from_secs(60)).await;
        let tables = [table];
        let reports = world.run(&tables).await;
        let words =
            "expire left: 2 of 3 snapshots are older than 1.0s, but no policy names this table: add one, or say --yes";
        assert_eq!(said(&reports[0]), [words]);
        world.round.options.consent = Consent::All;
        assert_eq!(said(&world.run(&tables).await[0]), ["expire done: noted 2 snapshots to go"]);
    });
}

#[test]
fn a_table_that_another_process_looks_after_is_left_to_it_until_its_claim_expires() {
    on_virtual_time(async {
        let world = World::new(EVERYWHERE).await;
        let table = world.table("ns.t", 7, &[]).await;
        world.round.env.sleep(Duration::from_secs(3_000)).await;
        let state = world.round.catalog.load(&table).await.expect("there");
        let lasts = Duration::from_secs(60);
        let take = |who| Claim::take(&world.round.env, &world.round.storage, &state, who, lasts);
        let other = take("two").await.expect("the store answers").expect("free");
        let tables = [table.clone()];
        assert_eq!(said(&world.run(&tables).await[0]), ["look waits: two looks after it"]);
        assert_eq!(world.rows(&table).await.0, 7);
        // Its process is at work for longer than a claim lasts.
        other.during(world.round.env.sleep(Duration::from_secs(200))).await;
        assert!(take("one").await.expect("the store answers").is_err(), "it was renewed");
        world.round.env.sleep(Duration::from_secs(61)).await;
        assert!(said(&world.run(&tables).await[0])[0].starts_with("compact done: "));
        // The one who came late does not take away what is another's now.
        let mine = take("one").await.expect("the store answers").expect("free");
        other.release().await;
        assert!(take("three").await.expect("the store answers").is_err());
        drop(take("one").await.expect("the store answers").expect("what it left behind when it died"));
        mine.release().await;
        assert!(take("three").await.expect("the store answers").is_ok());
    });
}

#[test]
fn a_table_that_a_service_manages_is_left_alone() {
    on_virtual_time(async {
        let world = World::new(EVERYWHERE).await;
        let table = world.table("ns.t", 7, &[("self-optimizing.enabled", "true")]).await;
        world.round.env.sleep(Duration::from_secs(3_601)).await;
        let reports = world.run(&[table]).await;
        assert_eq!(said(&reports[0]), ["look left: Amoro manages it (self-optimizing.enabled=true)"]);
    });
}

#[test]
fn files_are_rewritten_within_the_hours_of_the_window_only() {
    on_virtual_time(async {
        let hour = |at: i64| format!("{:02}:00", at.rem_euclid(24));
        let world = World::new(EVERYWHERE).await;
        let now = world.round.env.now_ms() / 3_600_000;
        let window = format!("{}-{}", hour(now + 4), hour(now + 8));
        let own = [("frazil.policy.window", window.as_str()), ("frazil.policy.expire.enabled", "false")];
        let table = world.table("ns.t", 7, &own).await;
        let tables = [table.clone()];
        world.round.env.sleep(Duration::from_secs(3_600)).await;
        let reports = world.run(&tables).await;
        assert_eq!(said(&reports[0]), [format!("compact waits: files are rewritten within {window}")]);
        world.round.env.sleep(Duration::from_secs(4 * 3_600)).await;
        assert!(said(&world.run(&tables).await[0])[0].starts_with("compact done: "));
    });
}

impl World {
    async fn debt(&self, table: &TableName) -> Debt {
        let (_, debt) = self.round.debts(std::slice::from_ref(table)).await.remove(0);
        debt.expect("looked at")
    }
}

#[test]
fn what_a_table_owes_is_told_without_changing_it() {
    on_virtual_time(async {
        let world = World::new("").await;
        let healthy = world.table("ns.healthy", 1, &[]).await;
        let table = world.table("ns.t", 7, &[("history.expire.max-snapshot-age-ms", "1000")]).await;
        world.round.env.sleep(Duration::from_secs(60)).await;
        let (_, _, writes) = world.requests();
        let debt = world.debt(&table).await;
        assert_eq!((debt.files, debt.delete_files, debt.snapshots, debt.expirable), (7, 0, 8, 7));
        assert_eq!((debt.rewrite, debt.gain(), debt.score()), ((7, 1), 6, 6));
        assert!(debt.p50_bytes.is_some_and(|p50| p50 * 6 < debt.bytes && debt.bytes < p50 * 8), "{debt:?}");
        assert!(debt.metadata_bytes > Some(1_000) && debt.manifests == Some(7), "{debt:?}");
        assert_eq!((debt.writer.as_deref(), debt.keeper, debt.named), (Some("frazil"), None, false));
        assert_eq!(world.debt(&healthy).await.score(), 0);
        assert_eq!(world.requests().2, writes);
    });
}

#[test]
fn a_table_with_a_column_of_an_unknown_type_is_looked_at_and_not_rewritten() {
    on_virtual_time(async {
        let world = World::new(EVERYWHERE).await;
        let table = world.table("ns.t", 7, &[("frazil.policy.manifests.count_min", "5")]).await;
        let state = world.round.catalog.load(&table).await.expect("there");
        let location = state.metadata_location.expect("a document");
        let document = world.round.storage.read(&location).await.expect("there");
        let text = String::from_utf8(document.to_vec()).expect("text").replace("\"long\"", "\"variant\"");
        world.round.storage.write(&location, text.clone().into()).await.expect("written");
        world.round.env.sleep(Duration::from_secs(3_601)).await;
        let debt = world.debt(&table).await;
        assert_eq!((debt.files, debt.snapshots, debt.expirable, debt.p50_bytes), (7, 8, 7, None));
        assert!(debt.notes.iter().any(|note| note.contains("column n has type variant")), "{:?}", debt.notes);
        let tables = [table];
        let said = said(&world.run(&tables).await[0]);
        let left = "compact left: column n has type variant, which this version does not know";
        assert!(said[0].contains(left), "{said:?}");
        assert!(said.contains(&left.replace("compact", "manifests")), "{said:?}");
        // This catalog makes its documents from what we understand: it refuses to lose the column.
        world.round.env.sleep(Duration::from_secs(601)).await;
        let reports = world.run(&tables).await;
        assert!(reports[0].has_failed(), "{:?}", reports[0].steps);
        assert_eq!(world.round.storage.read(&location).await.expect("there"), text);
    });
}
