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
use frazil::commit::manifests;
use frazil::commit::proof::DEADLINE;
use frazil::commit::protocol::{Commit, Committer, Ending};
use frazil::env::{Env, SystemClock};
use frazil::error::{Error, ErrorKind, Result};
use frazil::maintain::expire::Wish;
use frazil::maintain::expiry::{Expiry, Pace, Report};
use frazil::model::change::{Append, Change, Data};
use frazil::model::ids::{MAIN, TableName};
use frazil::model::table::TableState;
use frazil::storage::disk::{Disk, MemoryDisk};
use frazil::storage::{Storage, StorageOptions};
use frazil_sim::interpose;
use futures::TryStreamExt;
use iceberg::spec::{
    DataContentType, DataFile, DataFileBuilder, DataFileFormat, FormatVersion, Manifest, NestedField, PrimitiveType,
    Schema, SnapshotReference, SnapshotRetention, SortOrder, Struct, Type, UnboundPartitionSpec,
};
use iceberg::{TableRequirement, TableUpdate};
use tokio_util::sync::CancellationToken;

/// A catalog that loses requests and answers, and gets to some requests minutes later.
#[derive(Debug)]
struct Lossy {
    inner: Arc<MemoryCatalog>,
    storage: Storage,
    env: Env,
    rate: u64,
    late: tokio::sync::Mutex<Vec<(i64, PreparedCommit)>>,
}

impl Lossy {
    /// The memory catalog writes no metadata documents; real ones do.
    async fn really(&self, commit: &PreparedCommit) -> Outcome {
        let outcome = self.inner.commit(commit).await;
        if let Outcome::Committed(state) = &outcome
            && let Some(location) = &state.metadata_location
        {
            let document = serde_json::to_vec(state.metadata.as_ref()).expect("metadata");
            self.storage.write(location, document.into()).await.expect("written");
        }
        outcome
    }
}

#[async_trait]
impl Catalog for Lossy {
    async fn load(&self, table: &TableName) -> Result<TableState> {
        let now = self.env.now_ms();
        let mut late = self.late.lock().await;
        let (due, rest) = std::mem::take(&mut *late).into_iter().partition(|(at, _)| *at <= now);
        *late = rest;
        for (_, commit) in &due as &Vec<(i64, PreparedCommit)> {
            let _ = self.really(commit).await;
        }
        self.inner.load(table).await
    }

    async fn commit(&self, commit: &PreparedCommit) -> Outcome {
        let lost = || Outcome::Unknown(Error::new(ErrorKind::Unavailable, "no answer"));
        if self.env.below(100) >= self.rate {
            return self.really(commit).await;
        }
        match self.env.below(3) {
            0 => {
                let _ = self.really(commit).await;
                lost()
            }
            1 => lost(),
            _ => {
                let wait = i64::try_from(self.env.below(500_000)).expect("small");
                self.late.lock().await.push((self.env.now_ms() + wait, commit.clone()));
                lost()
            }
        }
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

struct World {
    env: Env,
    truth: Arc<Lossy>,
    storage: Storage,
    disk: MemoryDisk,
    table: TableName,
    committer: Committer,
}

impl World {
    async fn new(seed: u64, fault_rate: u64) -> Self {
        let env = Env::simulated(Arc::new(SystemClock), seed);
        let storage = Storage::new(StorageOptions::default(), env.clone());
        let table: TableName = "ns.t".parse().expect("valid");
        let inner = MemoryCatalog::new(env.clone(), "memory:///wh");
        let field = NestedField::optional(1, "n", Type::Primitive(PrimitiveType::Long));
        let outcome = inner
            .create(&CreateTable {
                name: table.clone(),
                location: Some(format!("memory:///expiry/{seed}-{}", env.uuid())),
                schema: Schema::builder().with_fields([Arc::new(field)]).build().expect("valid"),
                spec: UnboundPartitionSpec::default(),
                sort_order: SortOrder::unsorted_order(),
                format_version: FormatVersion::V2,
                properties: [("commit.manifest.min-count-to-merge".to_owned(), "3".to_owned())].into(),
            })
            .await;
        assert!(matches!(outcome, Outcome::Committed(_)), "{outcome:?}");
        let inner = Arc::new(inner);
        let lossy = |rate| Lossy {
            inner: inner.clone(),
            storage: storage.clone(),
            env: env.clone(),
            rate,
            late: tokio::sync::Mutex::default(),
        };
        let (truth, catalog) = (Arc::new(lossy(0)), Arc::new(lossy(fault_rate)));
        let committer =
            Committer::new(env.clone(), catalog, storage.clone(), None, table.clone(), "expirer".to_owned());
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

    /// One step, whatever the catalog says.
    async fn step(&mut self) -> Option<Report> {
        match self.expiry(Duration::from_secs(3_600)).run_due().await {
            Ok(report) => Some(report),
            Err(error) if matches!(error.kind(), ErrorKind::Unavailable | ErrorKind::Conflict) => None,
            Err(error) => panic!("{error}"),
        }
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
        change.data = Some(Data::Append(Append {
            files: added,
            schema: base.metadata.current_schema().clone(),
            spec_id: base.metadata.default_partition_spec_id(),
        }));
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

    async fn set_ref(&self, name: &str, snapshot_id: i64, retention: SnapshotRetention) {
        let reference = SnapshotReference::new(snapshot_id, retention);
        let set = TableUpdate::SetSnapshotRef { ref_name: name.to_owned(), reference };
        // A snapshot that went meanwhile cannot be named.
        let _ = self.update(vec![set]).await;
    }

    /// What others do to the table.
    async fn foreign(&self) {
        let state = self.state().await;
        let mut ids: Vec<i64> = state.metadata.snapshots().map(|s| s.snapshot_id()).collect();
        ids.sort_unstable();
        let any = ids[usize::try_from(self.env.below(ids.len() as u64)).expect("small")];
        let branch = SnapshotRetention::branch(None, None, None);
        match self.env.below(8) {
            0 => self.set_ref("tag", any, SnapshotRetention::Tag { max_ref_age_ms: None }).await,
            1 => drop(self.update(vec![TableUpdate::RemoveSnapshotRef { ref_name: "tag".to_owned() }]).await),
            2 => self.set_ref("side", any, branch).await,
            3 if state.refs.contains_key("side") => self.append("side", 2).await,
            4 => self.set_ref(MAIN, any, branch).await,
            _ => self.append(MAIN, 1 + usize::try_from(self.env.below(3)).expect("small")).await,
        }
    }

    /// Every object that a snapshot of the table reaches.
    async fn reached(&self) -> BTreeSet<String> {
        let state = self.state().await;
        let mut reached = BTreeSet::new();
        for snapshot in state.metadata.snapshots() {
            let list = snapshot.manifest_list();
            reached.insert(list.to_owned());
            let manifests = manifests::of_snapshot(&state, snapshot.snapshot_id(), &self.storage.file_io()).await;
            for manifest in manifests.expect("its list is there") {
                let bytes = self.storage.read(&manifest.manifest_path).await.expect("its manifests are there");
                let parsed = Manifest::parse_avro(&bytes).expect("a manifest");
                reached.extend(parsed.entries().iter().filter(|e| e.is_alive()).map(|e| e.file_path().to_owned()));
                reached.insert(manifest.manifest_path);
            }
        }
        reached
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

#[test]
fn no_file_that_a_snapshot_reaches_is_deleted_and_what_nothing_reaches_goes() {
    for seed in 0..12 {
        on_virtual_time(seed, async move || {
            let rate = if seed % 2 == 0 { 0 } else { 20 };
            let mut world = World::new(seed, rate).await;
            let mut deleted = 0;
            for _ in 0..50 {
                if world.env.below(3) > 0 {
                    world.foreign().await;
                }
                deleted += world.step().await.map_or(0, |report| report.files);
                let (reached, objects) = (world.reached().await, world.objects().await);
                let missing: Vec<_> = reached.difference(&objects).collect();
                assert!(missing.is_empty(), "seed {seed}: {missing:?}");
                world.env.sleep(Duration::from_secs(world.env.below(1_200))).await;
            }
            assert!(deleted > 0, "seed {seed} deletes nothing");
            // At rest, with a catalog that answers, all that is left is reached.
            for _ in 0..20 {
                world.env.sleep(DEADLINE).await;
                world.step().await;
            }
            let (reached, objects) = (world.reached().await, world.objects().await);
            let left: Vec<_> =
                objects.difference(&reached).filter(|o| rate == 0 && !o.ends_with(".metadata.json")).collect();
            assert!(left.is_empty(), "seed {seed}: {left:?}");
            assert!(world.state().await.metadata.snapshots().len() <= 4, "seed {seed}");
        });
    }
}

#[test]
fn each_step_waits_a_deadline_and_a_dry_run_names_what_the_steps_will_do() {
    on_virtual_time(1, async || {
        let mut world = World::new(1, 0).await;
        for _ in 0..4 {
            world.append(MAIN, 1).await;
        }
        let before = world.objects().await;
        world.env.sleep(Duration::from_secs(7_200)).await;
        let preview = world.expiry(Duration::from_secs(3_600)).preview().await.expect("a preview");
        assert_eq!((preview.choice.snapshots.len(), preview.dead.lists.len(), preview.dead.data.len()), (4, 4, 0));
        assert_eq!(world.objects().await, before, "a preview changes nothing");
        let noted = world.step().await.expect("noted");
        assert_eq!((noted.noted.len(), noted.removed.len(), noted.files), (4, 0, 0));
        assert!(noted.next_ms.is_some());
        assert_eq!(world.step().await.expect("too early").removed.len(), 0);
        world.env.sleep(DEADLINE).await;
        let removed = world.step().await.expect("removed");
        assert_eq!((removed.removed.len(), removed.files), (4, 0));
        assert_eq!(world.state().await.metadata.snapshots().len(), 1);
        world.env.sleep(DEADLINE).await;
        let deleted = world.step().await.expect("deleted");
        assert_eq!(deleted.files, preview.dead.len());
        assert!(deleted.next_ms.is_none());
        let after = world.objects().await;
        assert_eq!(before.difference(&after).count(), preview.dead.len(), "all that went was named before");
        assert!(world.disk.list().await.expect("listed").is_empty(), "nothing is left to note");
    });
}

/// What Apache's fixture and SeaweedFS do: a tag that was set while the removal was under way goes with its snapshot.
#[test]
fn files_stay_when_the_catalog_dropped_a_ref_with_its_snapshot() {
    on_virtual_time(1, async || {
        let mut world = World::new(2, 0).await;
        for _ in 0..3 {
            world.append(MAIN, 1).await;
        }
        let first = world.state().await.metadata.snapshots().map(|s| s.snapshot_id()).min().expect("snapshots");
        world.env.sleep(Duration::from_secs(7_200)).await;
        world.step().await.expect("noted");
        world.env.sleep(DEADLINE).await;
        world.step().await.expect("removed");
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
            let report = world.step().await.expect("held");
            assert!(report.held[0].contains("audit") && report.files == 0, "{report:?}");
        }
        assert_eq!(world.objects().await, before);
        assert_eq!(world.expiry(Duration::ZERO).release().await.expect("released"), 1);
        assert!(world.step().await.expect("nothing").held.is_empty());
    });
}

#[test]
fn a_table_that_shares_its_files_is_left_alone() {
    on_virtual_time(1, async || {
        let mut world = World::new(3, 0).await;
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
