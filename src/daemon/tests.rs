//! The whole daemon on one thread and virtual time: generated rows into a memory catalog.

use std::str::FromStr;

use arrow::array::RecordBatch;
use futures::stream::BoxStream;
use object_store::multipart::{MultipartStore, PartId};
use object_store::path::Path;
use object_store::{
    CopyOptions, GetOptions, GetResult, ListResult, MultipartId, MultipartUpload, ObjectMeta, ObjectStore,
    PutMultipartOptions, PutOptions, PutPayload, PutResult,
};
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;

use super::*;
use crate::api::PipelineHealth;
use crate::catalog::faulty::FaultyCatalog;
use crate::catalog::memory::MemoryCatalog;
use crate::commit::manifests;
use crate::commit::proof::Leftover;
use crate::config::{
    ApiConfig, ColumnConfig, CommitConfig, CreateConfig, DecodeConfig, FilesConfig, Limits, MaintenanceConfig,
    MetadataColumn, OnChange, OnRollback, Policies, RejectLimit, RejectsConfig, RejectsTo, ReplayConfig, Role,
    SchemaConfig,
};
use crate::daemon::outage::{Answer, FailingCatalog, FailingStore, Outage};
use crate::env::virtual_time::{on_virtual_time, simulated};
use crate::model::ids::MAIN;
use crate::storage::MemoryStore;
use crate::storage::counters::Operation;
use crate::storage::disk::MemoryDisk;
use crate::storage::ledger::LedgerOwner;

pub(super) fn config(table: &str, anchor: Option<&str>, rows: u64) -> Config {
    let pipeline = PipelineConfig {
        source: "shop".into(),
        catalog: "lake".into(),
        table: table.into(),
        anchor: anchor.map(Into::into),
        branch: MAIN.into(),
        create: CreateConfig {
            columns: vec![],
            partition: vec!["day(event_time)".into()],
            sort: vec!["customer_id".into()],
            properties: BTreeMap::new(),
            location: None,
            format_version: 2,
        },
        decode: DecodeConfig::default(),
        schema: SchemaConfig { on_change: OnChange::Evolve, infer_rows: 1000, columns_max: 200 },
        commit: CommitConfig {
            freshness: Duration::from_secs(2),
            rows_max: 4_000,
            bytes_max: 1 << 30,
            target_file_size: None,
        },
        rejects: RejectsConfig { to: RejectsTo::Table, halt_above: RejectLimit::NEVER },
        metadata: [
            ("_number".to_owned(), MetadataColumn::Number),
            ("_partition".to_owned(), MetadataColumn::Partition),
        ]
        .into(),
        on_rollback: OnRollback::Halt,
    };
    Config {
        instance: "test".into(),
        state_dir: "/nowhere".into(),
        role: Role::All,
        catalogs: BTreeMap::new(),
        stores: vec![],
        registries: BTreeMap::new(),
        sources: [(
            "shop".to_owned(),
            SourceConfig::Replay(ReplayConfig { seed: 1, partitions: 2, rate: None, rows: Some(rows) }),
        )]
        .into(),
        pipelines: [(PipelineName::new("p"), pipeline)].into(),
        policies: Policies::default(),
        maintenance: MaintenanceConfig::default(),
        limits: Limits {
            memory: 256 << 20,
            open_files: 8,
            tables: 16,
            store_requests: 16,
            store_retries: 3,
            workers: 2,
        },
        api: ApiConfig { listen: None, token: None },
        shutdown_grace: Duration::from_secs(10),
    }
}

pub(super) struct World {
    pub(super) env: Env,
    pub(super) storage: Storage,
    pub(super) catalog: Arc<dyn Catalog>,
    pub(super) disk: Arc<MemoryDisk>,
}

impl World {
    pub(super) fn new(seed: u64) -> Self {
        let env = simulated(seed);
        let storage = Storage::new(StorageOptions::default(), env.clone());
        let catalog = Arc::new(MemoryCatalog::new(env.clone(), "memory:///wh"));
        Self { env, storage, catalog, disk: Arc::new(MemoryDisk::new()) }
    }

    pub(super) async fn daemon(&self, config: &Config) -> Daemon {
        let metrics = Metrics::new();
        self.daemon_seen_by(config, Face { health: Health::new(metrics.clone()), metrics }).await
    }

    pub(super) async fn daemon_seen_by(&self, config: &Config, face: Face) -> Daemon {
        let catalogs = [("lake".to_owned(), Arc::clone(&self.catalog))].into();
        let stores =
            Stores { storage: self.storage.clone(), disk: self.disk.clone(), catalogs, sources: BTreeMap::new() };
        Daemon::with_stores(config, &self.env, stores, face).await.expect("assembles")
    }

    /// The same world, seen by another process: its own disk, and a catalog that fails in `rate` percent of the calls.
    pub(super) fn seen_through(&self, rate: u64) -> Self {
        Self {
            env: self.env.clone(),
            storage: self.storage.clone(),
            catalog: Arc::new(FaultyCatalog::new(Arc::clone(&self.catalog), self.env.clone(), rate)),
            disk: Arc::new(MemoryDisk::new()),
        }
    }

    /// Kills the daemon again and again, at any moment, and lets it finish after `lives`.
    pub(super) async fn killed(&self, config: &Config, lives: u32) {
        for _ in 0..lives {
            let daemon = self.daemon(config).await;
            let life = Duration::from_millis(200 + self.env.below(6_000));
            let ended = self.env.timeout(life, daemon.run(CancellationToken::new())).await;
            self.disk.crash();
            if ended.is_some() {
                break;
            }
        }
        self.run(config, None).await;
    }

    /// Runs the daemon to its source's end, or for that long.
    pub(super) async fn run(&self, config: &Config, time: Option<Duration>) {
        let daemon = self.daemon(config).await;
        let stop = CancellationToken::new();
        let run = daemon.run(stop.clone());
        tokio::pin!(run);
        let ended = match time {
            None => run.await,
            Some(time) => tokio::select! {
                biased;
                ended = &mut run => ended,
                () = self.env.sleep(time) => {
                    stop.cancel();
                    run.await
                }
            },
        };
        for (name, result) in ended {
            result.unwrap_or_else(|error| panic!("pipeline {name}: {error:?}"));
        }
    }

    /// The files of a table's head.
    pub(super) async fn files(&self, table: &str) -> Vec<String> {
        let name = TableName::from_str(table).expect("valid");
        let state = self.catalog.load(&name).await.expect("there");
        let head = state.head(MAIN).expect("a head");
        let mut files = Vec::new();
        for manifest in
            manifests::list(&self.storage, head.manifest_list(), state.metadata.format_version()).await.expect("a list")
        {
            let entries = manifests::live_entries(&self.storage, &manifest).await.expect("a manifest");
            files.extend(entries.iter().map(|entry| entry.file.file_path().to_owned()));
        }
        files
    }

    /// The rows of a table, read from the files of its head.
    pub(super) async fn read(&self, table: &str) -> Vec<RecordBatch> {
        let mut batches = Vec::new();
        for file in self.files(table).await {
            let bytes = self.storage.read(&file).await.expect("a file");
            let reader = ParquetRecordBatchReaderBuilder::try_new(bytes).expect("parquet").build().expect("parquet");
            batches.extend(reader.map(|batch| batch.expect("readable")));
        }
        batches
    }

    /// How the only pipeline ends.
    pub(super) async fn ending(&self, config: &Config) -> Result<()> {
        let run = self.daemon(config).await.run(CancellationToken::new());
        let mut ended = self.env.timeout(Duration::from_secs(600), run).await.expect("it ends");
        ended.remove(&PipelineName::new("p")).expect("ended")
    }

    /// Every object below the warehouse.
    pub(super) async fn objects(&self) -> Vec<String> {
        use futures::TryStreamExt;
        let listed: Vec<_> = self.storage.list("memory:///wh", None).try_collect().await.expect("listed");
        listed.into_iter().map(|entry| entry.location).collect()
    }

    /// How often each (partition, number) occurs in the tables.
    pub(super) async fn positions(&self, tables: &[&str]) -> BTreeMap<(String, i64), u32> {
        use arrow::array::AsArray;
        let mut found = BTreeMap::new();
        for table in tables {
            for batch in self.read(table).await {
                let partitions = batch.column_by_name("_partition").expect("there").as_string::<i32>().clone();
                let numbers = batch
                    .column_by_name("_number")
                    .expect("there")
                    .as_primitive::<arrow::datatypes::Int64Type>()
                    .clone();
                for row in 0..batch.num_rows() {
                    *found.entry((partitions.value(row).to_owned(), numbers.value(row))).or_default() += 1;
                }
            }
        }
        found
    }
}

pub(super) fn each_once(found: &BTreeMap<(String, i64), u32>, rows: i64) {
    let expected: BTreeMap<_, _> =
        ["0", "1"].iter().flat_map(|p| (0..rows).map(|n| (((*p).to_owned(), n), 1))).collect();
    assert_eq!(found.len(), expected.len());
    assert!(*found == expected, "a row is missing or doubled");
}

#[test]
fn generated_rows_are_in_the_table_each_once() {
    on_virtual_time(async {
        let world = World::new(1);
        world.run(&config("shop.events", None, 6_000), None).await;
        each_once(&world.positions(&["shop.events"]).await, 6_000);
    });
}

#[test]
fn a_stream_to_many_tables_by_a_field_loses_nothing_over_restarts() {
    on_virtual_time(async {
        let world = World::new(2);
        let mut config = config("shop.{event}", Some("shop.page_view"), 3_000);
        if let Some(SourceConfig::Replay(replay)) = config.sources.get_mut("shop") {
            replay.rate = Some(400);
        }
        for _ in 0..40 {
            world.run(&config, Some(Duration::from_millis(700))).await;
        }
        let tables = ["shop.page_view", "shop.add_to_cart", "shop.purchase", "shop.refund"];
        each_once(&world.positions(&tables).await, 3_000);
    });
}

/// Two instances of one pipeline that are killed at any moment, over a catalog that loses answers.
async fn storm(seed: u64) {
    const ROWS: i64 = 1_200;
    let world = World::new(seed);
    let routed = seed.is_multiple_of(2);
    let mut config =
        if routed { config("shop.{event}", Some("shop.purchase"), 1_200) } else { config("shop.events", None, 1_200) };
    if let Some(SourceConfig::Replay(replay)) = config.sources.get_mut("shop") {
        replay.rate = Some(200);
    }
    let (one, two) = (world.seen_through(seed % 50), world.seen_through(seed % 50));
    let mut other = config.clone();
    other.instance = "other".into();
    tokio::join!(one.killed(&config, 5), two.killed(&other, 5));
    let tables: &[&str] =
        if routed { &["shop.page_view", "shop.add_to_cart", "shop.purchase", "shop.refund"] } else { &["shop.events"] };
    each_once(&world.positions(tables).await, ROWS);
}

#[test]
fn two_instances_that_are_killed_at_any_moment_lose_and_double_nothing() {
    for seed in 100..108 {
        on_virtual_time(storm(seed));
    }
}

/// The daemon over a store or catalog that is down from the 5th second on for `minutes`: what health says 1 second before it
/// comes back, how long after that everything is in, and that nothing is missing or double.
///
/// Answers how many files the ledger has open at the end: what cannot be deleted while the store is away waits for the next
/// start.
async fn outage(mut world: World, minutes: i64, fail: impl FnOnce(&mut World, Outage)) -> usize {
    const ROWS: u64 = 3_000;
    let mut config = config("shop.events", None, ROWS);
    if let Some(SourceConfig::Replay(replay)) = config.sources.get_mut("shop") {
        replay.rate = Some(100);
    }
    let env = world.env.clone();
    let from = env.now_ms() + 5_000;
    let until = from + minutes * 60_000;
    fail(&mut world, Outage { env: env.clone(), down_ms: from..until });
    let metrics = Metrics::new();
    let face = Face { health: Health::new(metrics.clone()), metrics: metrics.clone() };
    let run = world.daemon_seen_by(&config, face.clone()).await.run(CancellationToken::new());
    tokio::pin!(run);
    let wait = u64::try_from(until - 1_000 - env.now_ms()).expect("in the future");
    tokio::select! {
        biased;
        ended = &mut run => panic!("it ended in the outage: {ended:?}"),
        () = env.sleep(Duration::from_millis(wait)) => {}
    }
    let pipeline = PipelineName::new("p");
    let health = face.health.pipelines().remove(&pipeline);
    assert!(matches!(health, Some(PipelineHealth::Waiting(_))), "{health:?}");
    assert!(!face.health.is_ready());
    let waiting = |series: &(Vec<String>, f64)| series.0 == ["p", "waiting"] && series.1 > 0.5;
    assert!(metrics.gauges("frazil_pipeline_state").iter().any(waiting));
    let ended = env.timeout(Duration::from_secs(600), run).await.expect("it goes on by itself, in bounded time");
    assert!(ended.values().all(Result::is_ok), "{ended:?}");
    assert_eq!(face.health.pipelines().remove(&pipeline), Some(PipelineHealth::Finished));
    each_once(&world.positions(&["shop.events"]).await, ROWS.cast_signed());
    let ledger = Ledger::open(world.disk.clone(), ENTRIES_MAX).await.expect("opens");
    // Lists of attempts that did not land, of no snapshot's id, wait for their second proof: ten minutes are longer than this.
    ledger.open_entries().iter().filter(|entry| entry.owner.snapshot_id > 0).count()
}

#[test]
fn a_catalog_that_is_down_for_five_minutes_is_waited_for() {
    on_virtual_time(async {
        let open = outage(World::new(31), 5, |world, outage| {
            world.catalog = Arc::new(FailingCatalog { inner: Arc::clone(&world.catalog), outage, only: None });
        });
        assert_eq!(open.await, 0);
    });
}

#[test]
fn a_store_that_is_down_or_full_for_minutes_is_waited_for() {
    // One file a retry stays open in the ledger while nothing can be deleted, none where deleting works.
    for (seed, answer, open_max) in [(32, Answer::Gone, 40), (33, Answer::Full, 0)] {
        on_virtual_time(async {
            let open = outage(World::new(seed), 7, |world, outage| {
                let inner = MemoryStore::new(world.env.clone());
                world.storage.mount("memory:///", Arc::new(FailingStore { inner, outage, answer }));
            })
            .await;
            assert!(open <= open_max, "{answer:?}: {open} files are open in the ledger");
        });
    }
}

#[test]
fn a_shutdown_while_the_catalog_is_down_ends_within_its_grace() {
    on_virtual_time(async {
        for after in [0, 10_000] {
            let mut world = World::new(34);
            let mut config = config("shop.events", None, 1_000_000);
            if let Some(SourceConfig::Replay(replay)) = config.sources.get_mut("shop") {
                replay.rate = Some(100);
            }
            let from = world.env.now_ms() + after;
            let outage = Outage { env: world.env.clone(), down_ms: from..i64::MAX };
            world.catalog = Arc::new(FailingCatalog { inner: Arc::clone(&world.catalog), outage, only: None });
            let stop = CancellationToken::new();
            let run = world.daemon(&config).await.run(stop.clone());
            tokio::pin!(run);
            tokio::select! {
                biased;
                ended = &mut run => panic!("it ended by itself: {ended:?}"),
                () = world.env.sleep(Duration::from_secs(30)) => stop.cancel(),
            }
            let ended = world.env.timeout(config.shutdown_grace + Duration::from_secs(5), run).await;
            assert!(ended.is_some_and(|ended| ended.values().all(Result::is_ok)), "after {after} ms");
        }
    });
}

pub(super) const SHOP: [&str; 4] = ["shop.page_view", "shop.add_to_cart", "shop.purchase", "shop.refund"];

pub(super) fn rate(config: &mut Config, rows: u64, rate: u64) {
    if let Some(SourceConfig::Replay(replay)) = config.sources.get_mut("shop") {
        (replay.rows, replay.rate) = (Some(rows), Some(rate));
    }
}

pub(super) fn pipeline_of(config: &mut Config) -> &mut PipelineConfig {
    config.pipelines.values_mut().next().expect("one")
}

pub(super) fn column(name: &str, kind: &str) -> ColumnConfig {
    ColumnConfig { name: name.into(), kind: kind.into(), required: false }
}

/// Reads `memory:///in` into `shop.{t}`, partitioned by a whole number of 32 bits.
pub(super) fn files_by_number() -> Config {
    let mut config = config("shop.{t}", Some("shop.a"), 0);
    let files = FilesConfig {
        path: "memory:///in".into(),
        glob: "*".into(),
        poll: Duration::from_secs(1),
        until_end: false,
        row_bytes_max: 1 << 20,
        skip_lines: 0,
        expansion_max: 1000,
        late_files_max: 100,
    };
    config.sources.insert("shop".to_owned(), SourceConfig::Files(files));
    let pipeline = pipeline_of(&mut config);
    pipeline.create.partition = vec!["v".into()];
    pipeline.create.sort = vec![];
    pipeline.create.columns = vec![column("t", "string"), column("v", "int")];
    pipeline.commit.freshness = Duration::from_secs(600);
    config
}

#[test]
fn a_batch_that_must_seal_first_is_in_one_epoch_whole() {
    on_virtual_time(async {
        let world = World::new(3);
        let mut config = files_by_number();
        let put = |name: &str, text: &str| {
            let (at, text) = (format!("memory:///in/{name}"), text.to_owned());
            let storage = world.storage.clone();
            async move { storage.write(&at, text.into()).await.expect("writable") }
        };
        put("1", "{\"t\":\"a\",\"v\":1}\n{\"t\":\"b\",\"v\":1}\n").await;
        let life = async {
            let daemon = world.daemon(&config).await;
            world.env.timeout(Duration::from_secs(60), daemon.run(CancellationToken::new())).await
        };
        let more = async {
            world.env.sleep(Duration::from_secs(20)).await;
            put("2", "{\"t\":\"a\",\"v\":2}\n{\"t\":\"b\",\"v\":5000000000}\n").await;
        };
        let (ended, ()) = tokio::join!(life, more);
        assert!(ended.is_none(), "killed with the second batch uncommitted");
        world.disk.crash();
        if let Some(SourceConfig::Files(files)) = config.sources.get_mut("shop") {
            files.until_end = true;
        }
        world.run(&config, None).await;
        for table in ["shop.a", "shop.b"] {
            let rows: usize = world.read(table).await.iter().map(RecordBatch::num_rows).sum();
            assert_eq!(rows, 2, "{table}");
        }
    });
}

#[test]
fn a_decided_epoch_is_finished_by_the_next_process_rejects_included() {
    on_virtual_time(async {
        let world = World::new(10);
        let mut config = files_by_number();
        if let Some(SourceConfig::Files(files)) = config.sources.get_mut("shop") {
            files.until_end = true;
        }
        let rows = "{\"t\":\"a\",\"v\":1}\n{\"t\":\"b\",\"v\":1}\nnonsense\n";
        world.storage.write("memory:///in/1", rows.into()).await.expect("writable");
        let catalog = Arc::new(FaultyCatalog::new(Arc::clone(&world.catalog), world.env.clone(), 0));
        catalog.hang_at_a_decision();
        let dying = World { env: world.env.clone(), storage: world.storage.clone(), disk: world.disk.clone(), catalog };
        let daemon = dying.daemon(&config).await;
        let ended = world.env.timeout(Duration::from_secs(60), daemon.run(CancellationToken::new())).await;
        assert!(ended.is_none(), "killed between the decision and its answer");
        world.disk.crash();
        world.run(&config, None).await;
        for table in ["shop.a", "shop.b", "shop.a__rejects"] {
            let rows: usize = world.read(table).await.iter().map(RecordBatch::num_rows).sum();
            assert_eq!(rows, 1, "{table}");
        }
    });
}

#[test]
fn files_of_a_decided_epoch_outlive_its_anchors_snapshot() {
    on_virtual_time(async {
        let world = World::new(4);
        let mut config = config("shop.{event}", Some("shop.refund"), 3_000);
        world.run(&config, None).await;
        // As if the process had died before it settled an epoch whose snapshot the anchor has expired since.
        let live = world.files("shop.page_view").await;
        let lost = "memory:///wh/orphan.parquet".to_owned();
        world.storage.write(&lost, "x".into()).await.expect("writable");
        let ledger = Ledger::open(world.disk.clone(), ENTRIES_MAX).await.expect("a ledger");
        let owner = |id, table: &str| LedgerOwner { table: table.parse().expect("valid"), snapshot_id: id };
        ledger.stage(&owner(7, "shop.refund"), "memory:///wh/metadata/sealed-p-7.json").await.expect("noted");
        ledger.stage(&owner(7, "shop.page_view"), &live[0]).await.expect("noted");
        ledger.stage(&owner(8, "shop.refund"), "memory:///wh/metadata/sealed-p-8.json").await.expect("noted");
        ledger.stage(&owner(8, "shop.page_view"), &lost).await.expect("noted");
        drop(ledger);
        rate(&mut config, 12_000, 1);
        pipeline_of(&mut config).commit.freshness = Duration::from_secs(300);
        world.run(&config, Some(Duration::from_secs(2_500))).await;
        assert!(world.storage.exists(&live[0]).await.expect("asked"), "a live file was deleted");
        assert!(!world.storage.exists(&lost).await.expect("asked"), "a file that nothing reaches is cleaned up");
    });
}

/// An epoch that is in, of which a manifest of another attempt waits for its proof: without what the ledger holds in the other
/// tables, the next process would delete the sealed object and not know of these.
#[test]
fn what_a_ledger_holds_of_an_epoch_in_other_tables_stays_as_long_as_what_it_holds_in_the_anchor() {
    on_virtual_time(async {
        let world = World::new(6);
        let mut config = config("shop.{event}", Some("shop.refund"), 300);
        world.run(&config, None).await;
        let snapshot_id = world.state("shop.refund").await.head(MAIN).expect("a head").snapshot_id();
        let ledger = Ledger::open(world.disk.clone(), ENTRIES_MAX).await.expect("a ledger");
        let owner = |table: &str| LedgerOwner { table: table.parse().expect("valid"), snapshot_id };
        let lost = "memory:///wh/shop/refund/metadata/lost-m0.avro";
        world.storage.write(lost, "x".into()).await.expect("writable");
        ledger.stage(&owner("shop.refund"), lost).await.expect("noted");
        ledger.stage(&owner("shop.refund"), "memory:///wh/metadata/sealed-p-7.json").await.expect("noted");
        let live = world.files("shop.page_view").await;
        ledger.stage(&owner("shop.page_view"), &live[0]).await.expect("noted");
        drop(ledger);
        let daemon = world.daemon(&config).await;
        let shared = daemon.shared();
        leftovers::clean(shared.clone(), shared.ledger.open_entries(), Vec::new(), CancellationToken::new()).await;
        assert_eq!(shared.ledger.open_entries().len(), 3, "all of it until the manifest is gone");
        drop(daemon);
        rate(&mut config, 12_000, 1);
        pipeline_of(&mut config).commit.freshness = Duration::from_secs(300);
        world.run(&config, Some(Duration::from_secs(2_500))).await;
        assert!(!world.storage.exists(lost).await.expect("asked"));
        assert!(world.storage.exists(&live[0]).await.expect("asked"));
        let ledger = Ledger::open(world.disk.clone(), ENTRIES_MAX).await.expect("a ledger");
        let ours = ledger.open_entries().into_iter().filter(|entry| entry.owner.snapshot_id == snapshot_id);
        assert_eq!(ours.count(), 0, "settled together");
    });
}

#[test]
fn leftovers_of_a_table_that_is_never_idle_are_cleaned_up() {
    on_virtual_time(async {
        let world = World::new(5);
        world.run(&config("shop.events", None, 100), None).await;
        let daemon = world.daemon(&config("shop.events", None, 100)).await;
        let table: TableName = "shop.events".parse().expect("valid");
        let handle = daemon.shared().table("lake", &table).expect("a table");
        let file = "memory:///wh/left.parquet".to_owned();
        world.storage.write(&file, "x".into()).await.expect("writable");
        let owner = LedgerOwner { table, snapshot_id: 7 };
        let sent = Leftover { submitted_seqs: Some((1, 1)), ..Leftover::unsent(vec![file.clone()], owner) };
        handle.leave(sent).await;
        for _ in 0..15 {
            world.env.sleep(Duration::from_secs(120)).await;
            handle.load().await.expect("there");
        }
        assert!(!world.storage.exists(&file).await.expect("asked"));
    });
}

#[test]
fn many_leftovers_are_proved_together_and_leaving_them_reads_nothing() {
    let reads = |leftovers: i64| {
        let read = std::cell::Cell::new(0);
        on_virtual_time(async {
            let world = World::new(5);
            world.run(&config("shop.events", None, 100), None).await;
            let daemon = world.daemon(&config("shop.events", None, 100)).await;
            let table: TableName = "shop.events".parse().expect("valid");
            let handle = daemon.shared().table("lake", &table).expect("a table");
            let count = || world.storage.counters().snapshot()[&Operation::Get].ok;
            let before = count();
            for id in 0..leftovers {
                let owner = LedgerOwner { table: table.clone(), snapshot_id: id };
                let file = format!("memory:///wh/left-{id}.parquet");
                handle.leave(Leftover { submitted_seqs: Some((1, 1)), ..Leftover::unsent(vec![file], owner) }).await;
            }
            handle.load().await.expect("there");
            assert_eq!(count(), before);
            world.env.sleep(Duration::from_secs(700)).await;
            handle.load().await.expect("there");
            read.set(count() - before);
        });
        read.get()
    };
    let one = reads(1);
    assert!(one > 0);
    assert_eq!(reads(20), one);
}

#[test]
fn a_table_that_will_never_fit_halts_the_pipeline() {
    on_virtual_time(async {
        let world = World::new(6);
        world.run(&config("shop.events", None, 100), None).await;
        let mut other = config("shop.events", None, 100);
        other.pipelines = [(PipelineName::new("p"), other.pipelines.into_values().next().expect("one"))].into();
        pipeline_of(&mut other).create.columns = vec![column("nowhere", "string")];
        pipeline_of(&mut other).create.partition = vec![];
        pipeline_of(&mut other).create.sort = vec![];
        rate(&mut other, 200, 100);
        let error = world.ending(&other).await.expect_err("halts");
        assert_eq!(error.kind(), ErrorKind::Config, "{error}");
    });
}

#[test]
fn a_pipeline_whose_anchor_was_renamed_halts_instead_of_beginning_again() {
    on_virtual_time(async {
        let world = World::new(7);
        let mut config = config("shop.{event}", Some("shop.purchase"), 500);
        world.run(&config, None).await;
        let before = world.positions(&["shop.page_view"]).await;
        let (from, to) = ("shop.purchase".parse().expect("valid"), "shop.elsewhere".parse().expect("valid"));
        world.catalog.rename(&from, &to).await.expect("renamed");
        rate(&mut config, 600, 100);
        let error = world.ending(&config).await.expect_err("halts");
        assert!(error.to_string().contains("anchor") && error.hint().is_some(), "{error:?}");
        assert!(before == world.positions(&["shop.page_view"]).await);
    });
}

#[test]
fn a_pipeline_name_of_any_characters_keeps_its_checkpoint_and_its_sealed_epochs() {
    on_virtual_time(async {
        let world = World::new(8);
        let mut config = config("shop.{event}", Some("shop.purchase"), 1_500);
        let pipeline = config.pipelines.into_values().next().expect("one");
        config.pipelines = [(PipelineName::new("a/b@main %?#\u{fc}"), pipeline)].into();
        rate(&mut config, 1_500, 400);
        for _ in 0..12 {
            world.run(&config, Some(Duration::from_millis(700))).await;
        }
        world.run(&config, None).await;
        each_once(&world.positions(&SHOP).await, 1_500);
    });
}

#[test]
fn a_store_that_fails_and_a_disk_that_is_full_cost_time_and_leave_nothing_behind() {
    on_virtual_time(async {
        let world = World::new(9);
        let store = Arc::new(FaultyStore::new(world.env.clone()));
        world.storage.mount("memory:///wh", store.clone());
        let mut config = config("shop.{event}", Some("shop.purchase"), 600);
        rate(&mut config, 600, 100);
        store.rate.store(25, std::sync::atomic::Ordering::Relaxed);
        world.run(&config, None).await;
        store.rate.store(0, std::sync::atomic::Ordering::Relaxed);
        each_once(&world.positions(&SHOP).await, 600);
        let mut live = BTreeSet::new();
        for table in SHOP {
            live.extend(world.files(table).await);
        }
        let data = world.objects().await.into_iter().filter(|at| at.ends_with(".parquet"));
        let orphans: Vec<_> = data.filter(|at| !live.contains(at)).collect();
        assert!(orphans.is_empty(), "{orphans:?}");
    });
}

/// A store that refuses some of the requests, done or not.
#[derive(Debug)]
struct FaultyStore {
    inner: MemoryStore,
    env: Env,
    rate: std::sync::atomic::AtomicU64,
}

impl FaultyStore {
    fn new(env: Env) -> Self {
        Self { inner: MemoryStore::new(env.clone()), env, rate: 0.into() }
    }

    /// Whether a request fails, and after it was done.
    fn draw(&self) -> Option<bool> {
        let fails = self.env.below(100) < self.rate.load(std::sync::atomic::Ordering::Relaxed);
        fails.then(|| self.env.below(2) == 0)
    }
}

fn failed<T>() -> object_store::Result<T> {
    Err(object_store::Error::Generic {
        store: "faulty",
        source: Box::new(std::io::Error::from(std::io::ErrorKind::StorageFull)),
    })
}

impl std::fmt::Display for FaultyStore {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("faulty")
    }
}

#[async_trait::async_trait]
impl ObjectStore for FaultyStore {
    async fn put_opts(&self, at: &Path, payload: PutPayload, opts: PutOptions) -> object_store::Result<PutResult> {
        match self.draw() {
            None => self.inner.put_opts(at, payload, opts).await,
            Some(true) => self.inner.put_opts(at, payload, opts).await.and_then(|_| failed()),
            Some(false) => failed(),
        }
    }

    async fn put_multipart_opts(
        &self,
        at: &Path,
        opts: PutMultipartOptions,
    ) -> object_store::Result<Box<dyn MultipartUpload>> {
        self.inner.put_multipart_opts(at, opts).await
    }

    async fn get_opts(&self, at: &Path, options: GetOptions) -> object_store::Result<GetResult> {
        if self.draw().is_some() {
            return failed();
        }
        self.inner.get_opts(at, options).await
    }

    fn delete_stream(
        &self,
        at: BoxStream<'static, object_store::Result<Path>>,
    ) -> BoxStream<'static, object_store::Result<Path>> {
        self.inner.delete_stream(at)
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, object_store::Result<ObjectMeta>> {
        self.inner.list(prefix)
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> object_store::Result<ListResult> {
        self.inner.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> object_store::Result<()> {
        self.inner.copy_opts(from, to, options).await
    }
}

#[async_trait::async_trait]
impl MultipartStore for FaultyStore {
    async fn create_multipart(&self, at: &Path) -> object_store::Result<MultipartId> {
        if self.draw().is_some() {
            return failed();
        }
        self.inner.create_multipart(at).await
    }

    async fn put_part(
        &self,
        at: &Path,
        id: &MultipartId,
        index: usize,
        payload: PutPayload,
    ) -> object_store::Result<PartId> {
        if self.draw().is_some() {
            return failed();
        }
        self.inner.put_part(at, id, index, payload).await
    }

    async fn complete_multipart(
        &self,
        at: &Path,
        id: &MultipartId,
        parts: Vec<PartId>,
    ) -> object_store::Result<PutResult> {
        match self.draw() {
            None => self.inner.complete_multipart(at, id, parts).await,
            Some(true) => self.inner.complete_multipart(at, id, parts).await.and_then(|_| failed()),
            Some(false) => failed(),
        }
    }

    async fn abort_multipart(&self, at: &Path, id: &MultipartId) -> object_store::Result<()> {
        self.inner.abort_multipart(at, id).await
    }
}

/// A body without a parent may land as long as the branch can go: nothing proves that it will not. Its list, which is all that
/// it has, stays for the orphan sweep, and the ledger lets go of it at once, in the process that wrote it and in the next one.
#[test]
fn the_list_of_a_start_record_that_was_not_needed_is_left_to_the_orphan_sweep() {
    on_virtual_time(async {
        let world = World::new(10);
        let mut config = config("shop.events", None, 100);
        world.run(&config, None).await;
        let owner = |id| LedgerOwner { table: "shop.events".parse().expect("valid"), snapshot_id: id };
        let (start, list) = ("memory:///wh/snap-7-start-x.avro", "memory:///wh/snap-8-x.avro");
        let ledger = Ledger::open(world.disk.clone(), ENTRIES_MAX).await.expect("a ledger");
        for (id, file) in [(7, start), (8, list)] {
            world.storage.write(file, "x".into()).await.expect("writable");
            ledger.stage(&owner(id), file).await.expect("noted");
        }
        drop(ledger);
        rate(&mut config, 12_000, 1);
        pipeline_of(&mut config).commit.freshness = Duration::from_secs(300);
        world.run(&config, Some(Duration::from_secs(2_500))).await;
        let there = [start, list].map(|file| world.storage.exists(file));
        assert_eq!(futures::future::try_join_all(there).await.expect("asked"), [true, false]);
        world.disk.crash();
        let ledger = Ledger::open(world.disk.clone(), ENTRIES_MAX).await.expect("a ledger");
        assert_eq!(ledger.open_entries(), []);
    });
}

/// Under its name there may be another table by now, and the files live on in the one that they were made for.
#[test]
fn leftovers_of_a_table_that_was_renamed_are_not_taken_for_its_successors() {
    on_virtual_time(async {
        let world = World::new(11);
        let mut config = config("shop.events", None, 100);
        world.run(&config, None).await;
        let table: TableName = "shop.events".parse().expect("valid");
        let live = world.files("shop.events").await.remove(0);
        let ledger = Ledger::open(world.disk.clone(), ENTRIES_MAX).await.expect("a ledger");
        ledger.means(&table, world.catalog.load(&table).await.expect("there").metadata.uuid());
        ledger.stage(&LedgerOwner { table: table.clone(), snapshot_id: 7 }, &live).await.expect("noted");
        drop(ledger);
        world.catalog.rename(&table, &"shop.old".parse().expect("valid")).await.expect("renamed");
        let settings = config.pipelines.values().next().expect("one").clone();
        config.pipelines = [(PipelineName::new("p2"), settings)].into();
        rate(&mut config, 12_000, 1);
        // The successor is there when the next process looks at what is left, and goes on past every number that was submitted.
        world.run(&config, Some(Duration::from_secs(10))).await;
        let seq = async || world.catalog.load(&table).await.expect("there").metadata.last_sequence_number();
        let before = seq().await;
        pipeline_of(&mut config).commit.freshness = Duration::from_secs(300);
        world.run(&config, Some(Duration::from_secs(2_500))).await;
        assert!(seq().await > before + 4, "proofs have a table that goes on");
        assert!(world.storage.exists(&live).await.expect("asked"), "a live file was deleted");
        assert_eq!(world.files("shop.old").await[0], live);
    });
}
