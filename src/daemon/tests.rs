//! The whole daemon on one thread and virtual time: generated rows into a memory catalog.

use std::str::FromStr;

use arrow::array::RecordBatch;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;

use super::*;
use crate::catalog::faulty::FaultyCatalog;
use crate::catalog::memory::MemoryCatalog;
use crate::commit::manifests;
use crate::config::{
    ApiConfig, CommitConfig, CreateConfig, Limits, MetadataColumn, OnChange, OnRollback, RejectsConfig, RejectsTo,
    ReplayConfig, SchemaConfig,
};
use crate::env::virtual_time::{on_virtual_time, simulated};
use crate::model::ids::MAIN;
use crate::storage::disk::MemoryDisk;

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
        let catalogs = [("lake".to_owned(), Arc::clone(&self.catalog))].into();
        let stores = Stores { storage: self.storage.clone(), disk: self.disk.clone(), catalogs };
        let metrics = Metrics::new();
        let face = Face { health: Health::new(metrics.clone()), metrics };
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
