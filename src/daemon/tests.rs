//! The whole daemon on one thread and virtual time: generated rows into a memory catalog.

use std::str::FromStr;

use arrow::array::RecordBatch;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;

use super::*;
use crate::api::PipelineHealth;
use crate::catalog::faulty::FaultyCatalog;
use crate::catalog::memory::MemoryCatalog;
use crate::commit::manifests;
use crate::config::{
    ApiConfig, CommitConfig, CreateConfig, DecodeConfig, Limits, MetadataColumn, OnChange, OnRollback, RejectsConfig,
    RejectsTo, ReplayConfig, SchemaConfig,
};
use crate::daemon::outage::{Answer, FailingCatalog, FailingStore, Outage};
use crate::env::virtual_time::{on_virtual_time, simulated};
use crate::model::ids::MAIN;
use crate::storage::disk::MemoryDisk;
use crate::storage::memory::MemoryStore;

fn config(table: &str, anchor: Option<&str>, rows: u64) -> Config {
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
        rejects: RejectsConfig { to: RejectsTo::Table, halt_above: 1.0 },
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
        catalogs: BTreeMap::new(),
        stores: vec![],
        sources: [(
            "shop".to_owned(),
            SourceConfig::Replay(ReplayConfig { seed: 1, partitions: 2, rate: None, rows: Some(rows) }),
        )]
        .into(),
        pipelines: [(PipelineName::new("p"), pipeline)].into(),
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

struct World {
    env: Env,
    storage: Storage,
    catalog: Arc<dyn Catalog>,
    disk: Arc<MemoryDisk>,
}

impl World {
    fn new(seed: u64) -> Self {
        let env = simulated(seed);
        let storage = Storage::new(StorageOptions::default(), env.clone());
        let catalog = Arc::new(MemoryCatalog::new(env.clone(), "memory:///wh"));
        Self { env, storage, catalog, disk: Arc::new(MemoryDisk::new()) }
    }

    async fn daemon(&self, config: &Config) -> Daemon {
        let metrics = Metrics::new();
        self.daemon_seen_by(config, Face { health: Health::new(metrics.clone()), metrics }).await
    }

    async fn daemon_seen_by(&self, config: &Config, face: Face) -> Daemon {
        let catalogs = [("lake".to_owned(), Arc::clone(&self.catalog))].into();
        let stores = Stores { storage: self.storage.clone(), disk: self.disk.clone(), catalogs };
        Daemon::with_stores(config, &self.env, stores, face).await.expect("assembles")
    }

    /// The same world, seen by another process: its own disk, and a catalog that fails in `rate` percent of the calls.
    fn seen_through(&self, rate: u64) -> Self {
        Self {
            env: self.env.clone(),
            storage: self.storage.clone(),
            catalog: Arc::new(FaultyCatalog::new(Arc::clone(&self.catalog), self.env.clone(), rate)),
            disk: Arc::new(MemoryDisk::new()),
        }
    }

    /// Kills the daemon again and again, at any moment, and lets it finish after `lives`.
    async fn killed(&self, config: &Config, lives: u32) {
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
    async fn run(&self, config: &Config, time: Option<Duration>) {
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

    /// The rows of a table, read from the files of its head.
    async fn read(&self, table: &str) -> Vec<RecordBatch> {
        let name = TableName::from_str(table).expect("valid");
        let state = self.catalog.load(&name).await.expect("there");
        let head = state.head(MAIN).expect("a head");
        let mut batches = Vec::new();
        for manifest in
            manifests::list(&self.storage, head.manifest_list(), state.metadata.format_version()).await.expect("a list")
        {
            for entry in manifests::live_entries(&self.storage, &manifest).await.expect("a manifest") {
                let bytes = self.storage.read(entry.file.file_path()).await.expect("a file");
                let reader =
                    ParquetRecordBatchReaderBuilder::try_new(bytes).expect("parquet").build().expect("parquet");
                batches.extend(reader.map(|batch| batch.expect("readable")));
            }
        }
        batches
    }

    /// How often each (partition, number) occurs in the tables.
    async fn positions(&self, tables: &[&str]) -> BTreeMap<(String, i64), u32> {
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

fn each_once(found: &BTreeMap<(String, i64), u32>, rows: i64) {
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
    ledger.open_entries().len()
}

#[test]
fn a_catalog_that_is_down_for_five_minutes_is_waited_for() {
    on_virtual_time(async {
        let open = outage(World::new(31), 5, |world, outage| {
            world.catalog = Arc::new(FailingCatalog { inner: Arc::clone(&world.catalog), outage });
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
            world.catalog = Arc::new(FailingCatalog { inner: Arc::clone(&world.catalog), outage });
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
