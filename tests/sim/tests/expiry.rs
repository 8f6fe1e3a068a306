//! Whole expiries beside another engine, on virtual time: no file that a snapshot reaches is ever gone, and what nothing
//! reaches goes.
#![allow(clippy::disallowed_methods)]

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use frazil::catalog::memory::MemoryCatalog;
use frazil::catalog::{Capabilities, Catalog, CreateTable, Outcome, PreparedCommit};
use frazil::commit::proof::DEADLINE;
use frazil::commit::protocol::{Commit, Committer, Ending};
use frazil::env::{Env, SystemClock};
use frazil::error::{ErrorKind, Result};
use frazil::maintain::expire::Wish;
use frazil::maintain::expiry::{Expiry, Pace, Report};
use frazil::model::change::{Append, Change, Data};
use frazil::model::ids::{MAIN, TableName};
use frazil::model::table::TableState;
use frazil::storage::disk::{Disk, MemoryDisk};
use frazil::storage::{Storage, StorageOptions};
use frazil_sim::catalog::NetworkCatalog;
use frazil_sim::expirer::Expirer;
use frazil_sim::foreign::{self, Deed};
use frazil_sim::interpose;
use frazil_sim::process::Process;
use frazil_sim::scenario::Scenario;
use frazil_sim::store::NetworkStore;
use frazil_sim::world::{Rates, World};
use futures::TryStreamExt;
use iceberg::spec::{
    DataContentType, DataFile, DataFileBuilder, DataFileFormat, FormatVersion, NestedField, PartitionStatisticsFile,
    PrimitiveType, Schema, SortOrder, StatisticsFile, Struct, Type, UnboundPartitionSpec,
};
use iceberg::{TableRequirement, TableUpdate};
use object_store::ObjectStore;
use tokio_util::sync::CancellationToken;

/// The memory catalog writes no metadata documents; real ones do.
#[derive(Debug)]
struct Documented {
    inner: MemoryCatalog,
    storage: Storage,
}

#[async_trait]
impl Catalog for Documented {
    async fn load(&self, table: &TableName) -> Result<TableState> {
        self.inner.load(table).await
    }

    async fn commit(&self, commit: &PreparedCommit) -> Outcome {
        let outcome = self.inner.commit(commit).await;
        if let Outcome::Committed(state) = &outcome
            && let Some(location) = &state.metadata_location
        {
            let document = serde_json::to_vec(state.metadata.as_ref()).expect("metadata");
            self.storage.write(location, document.into()).await.expect("written");
        }
        outcome
    }

    async fn create(&self, table: &CreateTable) -> Outcome {
        self.inner.create(table).await
    }
    async fn register(&self, table: &TableName, metadata_location: &str) -> Outcome {
        self.inner.register(table, metadata_location).await
    }
    async fn rename(&self, from: &TableName, to: &TableName) -> Result<()> {
        self.inner.rename(from, to).await
    }
    async fn drop_table(&self, table: &TableName) -> Result<()> {
        self.inner.drop_table(table).await
    }
    async fn namespaces(&self, parent: &[String]) -> Result<Vec<Vec<String>>> {
        self.inner.namespaces(parent).await
    }
    async fn create_namespace(&self, namespace: &[String], properties: &BTreeMap<String, String>) -> Result<()> {
        self.inner.create_namespace(namespace, properties).await
    }
    async fn drop_namespace(&self, namespace: &[String]) -> Result<()> {
        self.inner.drop_namespace(namespace).await
    }
    async fn tables(&self, namespace: &[String]) -> Result<Vec<TableName>> {
        self.inner.tables(namespace).await
    }
    async fn capabilities(&self) -> Result<Capabilities> {
        self.inner.capabilities().await
    }
}

/// Runs `work` on a thread of its own, on virtual time.
fn on_virtual_time(seed: u64, work: impl AsyncFnOnce() + Send + 'static) {
    let running = std::thread::spawn(move || {
        interpose::arm(seed);
        let mut runtime = tokio::runtime::Builder::new_current_thread();
        let runtime = runtime.enable_time().start_paused(true).build().expect("a runtime");
        runtime.block_on(async {
            interpose::start_clock();
            work().await;
        });
        drop(runtime);
        interpose::disarm();
    });
    running.join().expect("as asserted");
}

/// A table, and an expiry of it without faults.
struct Quiet {
    env: Env,
    truth: Arc<Documented>,
    storage: Storage,
    disk: MemoryDisk,
    table: TableName,
    committer: Committer,
}

fn creation(table: &TableName, location: Option<String>) -> CreateTable {
    let field = NestedField::optional(1, "n", Type::Primitive(PrimitiveType::Long));
    CreateTable {
        name: table.clone(),
        location,
        schema: Schema::builder().with_fields([Arc::new(field)]).build().expect("valid"),
        spec: UnboundPartitionSpec::default(),
        sort_order: SortOrder::unsorted_order(),
        format_version: FormatVersion::V2,
        properties: [("commit.manifest.min-count-to-merge".to_owned(), "3".to_owned())].into(),
    }
}

/// An append of nothing.
fn empty(base: &TableState) -> Append {
    Append {
        files: Vec::new(),
        schema: base.metadata.current_schema().clone(),
        spec_id: base.metadata.default_partition_spec_id(),
    }
}

impl Quiet {
    async fn new(seed: u64) -> Self {
        let env = Env::simulated(Arc::new(SystemClock), seed);
        let storage = Storage::new(StorageOptions::default(), env.clone());
        let table: TableName = "ns.t".parse().expect("valid");
        let inner = MemoryCatalog::new(env.clone(), "memory:///wh");
        let location = format!("memory:///expiry/{seed}-{}", env.uuid());
        let outcome = inner.create(&creation(&table, Some(location))).await;
        assert!(matches!(outcome, Outcome::Committed(_)), "{outcome:?}");
        let truth = Arc::new(Documented { inner, storage: storage.clone() });
        let committer =
            Committer::new(env.clone(), truth.clone(), storage.clone(), None, table.clone(), "expirer".to_owned());
        let world = Self { env, truth, storage, disk: MemoryDisk::new(), table, committer };
        world.append(MAIN, 0).await;
        world
    }

    async fn state(&self) -> TableState {
        self.truth.load(&self.table).await.expect("there")
    }

    fn expiry(&mut self, keep: Duration) -> Expiry<'_> {
        let wish = Wish { age: Some(keep), count_min: Some(1) };
        Expiry { env: &self.env, disk: &self.disk, committer: &mut self.committer, wish, pace: Pace::default() }
    }

    async fn step(&mut self) -> Report {
        self.expiry(Duration::from_secs(3_600)).run_due().await.expect("nothing goes wrong")
    }

    /// A snapshot of ours with `files` new files, on a branch.
    async fn append(&self, branch: &str, files: usize) {
        let base = self.state().await;
        let mut change = Change::new(self.env.snapshot_id());
        branch.clone_into(&mut change.target);
        let mut added = Vec::new();
        for _ in 0..files {
            let location = format!("{}/data/{}.parquet", base.metadata.location(), self.env.uuid());
            self.storage.write(&location, Bytes::from_static(b"rows")).await.expect("written");
            added.push(file(&location));
        }
        change.data = Some(Data::Append(Append { files: added, ..empty(&base) }));
        let (env, catalog) = (self.env.clone(), self.truth.clone());
        let mut committer =
            Committer::new(env, catalog, self.storage.clone(), None, self.table.clone(), "w".to_owned());
        let ending = committer.run(&mut Commit::new(change), &base, &CancellationToken::new()).await.expect("no halt");
        assert!(matches!(ending, Ending::Done { .. }), "{ending:?}");
    }

    async fn update(&self, updates: Vec<TableUpdate>) -> Outcome {
        let base = self.state().await;
        let requirements = vec![TableRequirement::UuidMatch { uuid: base.metadata.uuid() }];
        let idempotency_key = self.env.uuid();
        self.truth.commit(&PreparedCommit { table: self.table.clone(), requirements, updates, idempotency_key }).await
    }

    async fn objects(&self) -> BTreeSet<String> {
        let state = self.state().await;
        let listed: Vec<_> = self.storage.list(state.metadata.location(), None).try_collect().await.expect("listed");
        listed.into_iter().map(|entry| entry.location).collect()
    }
}

fn file(location: &str) -> DataFile {
    DataFileBuilder::default()
        .content(DataContentType::Data)
        .file_path(location.to_owned())
        .file_format(DataFileFormat::Parquet)
        .partition(Struct::empty())
        .partition_spec_id(0)
        .record_count(1)
        .file_size_in_bytes(4)
        .build()
        .expect("a file")
}

/// What others do to the table meanwhile.
const DEEDS: [Deed; 9] = [
    Deed::Append,
    Deed::Append,
    Deed::Append,
    Deed::Compact,
    Deed::Delete,
    Deed::Tag,
    Deed::Branch,
    Deed::RollBack,
    Deed::CherryPick,
];

/// The simulator's own world and expirer, which may be killed at any call; the auditor says whether a file went that a snapshot
/// names. At rest all that is left is named.
#[test]
fn no_file_that_a_snapshot_reaches_is_deleted_and_what_nothing_reaches_goes() {
    for seed in 0..12 {
        on_virtual_time(seed, async move || {
            let mut scenario = Scenario::draw(&Env::simulated(Arc::new(SystemClock), seed));
            scenario.target = MAIN;
            scenario.rates = Rates::default();
            if seed % 2 == 1 {
                scenario.rates = Rates { catalog: 20, store: 2, disk: 1, ..Rates::default() };
            }
            let world = World::new(seed, &scenario, &BTreeSet::new());
            let table: TableName = "ns.t".parse().expect("valid");
            assert!(matches!(world.creates("w", &creation(&table, None)).await, Outcome::Committed(_)));
            begin(&world, &table).await;
            let mut expirer = Expirer::new(Arc::clone(&world), Duration::from_secs(3_600));
            let mut deleted = 0;
            for _ in 0..60 {
                let deed = DEEDS[usize::try_from(world.env.below(DEEDS.len() as u64)).expect("small")];
                foreign::act(&world, &table, deed).await;
                deleted += expirer.run(&table).await.and_then(Result::ok).map_or(0, |report| report.files);
                assert_eq!(world.violated(), None, "seed {seed}");
                world.env.sleep(world.time(Duration::from_secs(1_200))).await;
            }
            assert!(deleted > 0, "seed {seed} deletes nothing");
            world.calm();
            for _ in 0..20 {
                world.env.sleep(DEADLINE).await;
                expirer.run(&table).await;
            }
            assert_eq!(world.violated(), None, "seed {seed}");
            let objects: Vec<_> = world.objects.list(None).try_collect().await.expect("listed");
            let paths = objects.iter().map(|object| object.location.as_ref());
            let unnamed =
                |path: &&str| !path.ends_with(".metadata.json") && world.with_auditor(|a| a.names(path).is_none());
            let left: Vec<&str> = paths.filter(unnamed).collect();
            // Where runs were killed, files of removals that were not noted are the orphan sweep's.
            assert!(left.is_empty() || seed % 2 == 1, "seed {seed}: {left:?}");
        });
    }
}

/// A first snapshot.
async fn begin(world: &Arc<World>, table: &TableName) {
    let process = Process::new("w".to_owned(), u64::MAX);
    let env = world.env.clone();
    let storage = Storage::new(StorageOptions::default(), env.clone());
    storage.mount("memory:///", Arc::new(NetworkStore::new(Arc::clone(world), Arc::clone(&process))));
    let catalog = Arc::new(NetworkCatalog::new(Arc::clone(world), process));
    let mut committer = Committer::new(env, catalog, storage, None, table.clone(), "w".to_owned());
    let base = world.load(table).await.expect("there");
    let mut change = Change::new(world.env.snapshot_id());
    change.data = Some(Data::Append(empty(&base)));
    let mut commit = Commit::new(change);
    loop {
        let ending = committer.run(&mut commit, &base, &CancellationToken::new()).await.expect("no halt");
        if matches!(ending, Ending::Done { .. }) {
            return;
        }
    }
}

#[test]
fn each_step_waits_a_deadline_and_a_dry_run_names_what_the_steps_will_do() {
    on_virtual_time(1, async || {
        let mut world = Quiet::new(1).await;
        for _ in 0..4 {
            world.append(MAIN, 1).await;
        }
        let before = world.objects().await;
        world.env.sleep(Duration::from_secs(7_200)).await;
        let preview = world.expiry(Duration::from_secs(3_600)).preview().await.expect("a preview");
        assert_eq!((preview.choice.snapshots.len(), preview.dead.lists.len(), preview.dead.data.len()), (4, 4, 0));
        assert_eq!(world.objects().await, before, "a preview changes nothing");
        let noted = world.step().await;
        assert_eq!((noted.noted.len(), noted.removed.len(), noted.files), (4, 0, 0));
        assert!(noted.next_ms.is_some());
        assert_eq!(world.step().await.removed.len(), 0);
        world.env.sleep(DEADLINE).await;
        let removed = world.step().await;
        assert_eq!((removed.removed.len(), removed.files), (4, 0));
        assert_eq!(world.state().await.metadata.snapshots().len(), 1);
        world.env.sleep(DEADLINE).await;
        let deleted = world.step().await;
        assert_eq!(deleted.files, preview.dead.len());
        assert!(deleted.next_ms.is_none());
        let after = world.objects().await;
        assert_eq!(before.difference(&after).count(), preview.dead.len(), "all that went was named before");
        assert!(world.disk.list().await.expect("listed").is_empty(), "nothing is left to note");
    });
}

/// One file is of a snapshot that goes and of one that stays, as writers do who carry statistics forward.
#[test]
fn statistics_of_snapshots_that_go_go_with_them_and_shared_ones_stay() {
    on_virtual_time(1, async || {
        let mut world = Quiet::new(4).await;
        world.append(MAIN, 1).await;
        let old = world.state().await.metadata.current_snapshot_id().expect("a head");
        world.append(MAIN, 1).await;
        let state = world.state().await;
        let (head, folder) = (state.metadata.current_snapshot_id().expect("a head"), state.metadata.location());
        let first = state.metadata.snapshots().map(|s| (s.sequence_number(), s.snapshot_id())).min().expect("three").1;
        let path = |name: &str| format!("{folder}/metadata/{name}.stats");
        for name in ["old", "head", "first", "both", "old-parts"] {
            world.storage.write(&path(name), Bytes::from_static(b"statistics")).await.expect("written");
        }
        for (snapshot_id, whole, parts) in [(old, "old", "old-parts"), (head, "head", "both"), (first, "first", "both")]
        {
            let statistics = |name| StatisticsFile {
                snapshot_id,
                statistics_path: path(name),
                file_size_in_bytes: 10,
                file_footer_size_in_bytes: 1,
                key_metadata: None,
                blob_metadata: Vec::new(),
            };
            let partition_statistics =
                PartitionStatisticsFile { snapshot_id, statistics_path: path(parts), file_size_in_bytes: 10 };
            let updates = vec![
                TableUpdate::SetStatistics { statistics: statistics(whole) },
                TableUpdate::SetPartitionStatistics { partition_statistics },
            ];
            let outcome = world.update(updates).await;
            assert!(matches!(outcome, Outcome::Committed(_)), "{outcome:?}");
        }
        world.env.sleep(Duration::from_secs(7_200)).await;
        for _ in 0..4 {
            world.step().await;
            world.env.sleep(DEADLINE).await;
        }
        let left: Vec<String> = world.objects().await.into_iter().filter(|path| path.ends_with(".stats")).collect();
        assert_eq!(left, ["both", "head"].map(path), "and what no snapshot names any more is gone");
        assert_eq!(world.state().await.metadata.snapshots().len(), 1);
    });
}

/// What Apache's fixture and SeaweedFS do: a tag that was set while the removal was under way goes with its snapshot.
#[test]
fn files_stay_when_the_catalog_dropped_a_ref_with_its_snapshot() {
    on_virtual_time(1, async || {
        let mut world = Quiet::new(2).await;
        for _ in 0..3 {
            world.append(MAIN, 1).await;
        }
        let first = world.state().await.metadata.snapshots().map(|s| s.snapshot_id()).min().expect("snapshots");
        world.env.sleep(Duration::from_secs(7_200)).await;
        world.step().await;
        world.env.sleep(DEADLINE).await;
        world.step().await;
        // The note as it would be if the tag had been in the metadata before.
        let state = world.state().await;
        let name = file_of(&state);
        let bytes = world.disk.read(&name).await.expect("noted");
        let mut note: serde_json::Value = serde_json::from_slice(&bytes).expect("a note");
        note["batches"][0]["compared"] = serde_json::json!(false);
        world.disk.write(&name, &serde_json::to_vec(&note).expect("JSON")).await.expect("written");
        let entry = state.metadata.metadata_log().last().expect("a predecessor").metadata_file.clone();
        let bytes = world.storage.read(&entry).await.expect("there");
        let mut document: serde_json::Value = serde_json::from_slice(&bytes).expect("JSON");
        document["refs"]["audit"] = serde_json::json!({"snapshot-id": first, "type": "tag"});
        world.storage.write(&entry, document.to_string().into()).await.expect("written");
        let before = world.objects().await;
        for _ in 0..3 {
            world.env.sleep(DEADLINE).await;
            let report = world.step().await;
            assert!(report.held[0].contains("audit") && report.files == 0, "{report:?}");
        }
        assert_eq!(world.objects().await, before);
        assert_eq!(world.expiry(Duration::ZERO).release().await.expect("released"), 1);
        assert!(world.step().await.held.is_empty());
    });
}

#[test]
fn a_table_that_shares_its_files_is_left_alone() {
    on_virtual_time(1, async || {
        let mut world = Quiet::new(3).await;
        world.append(MAIN, 1).await;
        let updates = HashMap::from([("gc.enabled".to_owned(), "false".to_owned())]);
        world.update(vec![TableUpdate::SetProperties { updates }]).await;
        let error = world.expiry(Duration::ZERO).run_due().await.expect_err("refused");
        assert_eq!(error.kind(), ErrorKind::Unsupported);
        assert!(error.hint().is_some_and(|hint| hint.contains("gc.enabled")));
    });
}

fn file_of(state: &TableState) -> String {
    format!("expiry-{}.json", state.metadata.uuid())
}
