//! The whole daemon's commits at the pace of its catalog, its files and its neighbours, and how long rows waited.
#![cfg(test)]

use std::io::{self, Write};
use std::sync::Mutex;

use async_trait::async_trait;
use serde_json::Value;
use tracing::subscriber::{DefaultGuard, set_default};

use super::by_partition::log_of;
use super::outage::{FailingCatalog, Outage};
use super::tests::{World, config, each_once, pipeline_of, rate};
use super::tombstones::row;
use super::*;
use crate::catalog::faulty::{Fault, FaultyCatalog};
use crate::env::virtual_time::on_virtual_time;
use crate::model::checkpoint::Checkpoint;
use crate::source::SourceEvent;

/// How a daemon ended that ran over a whole source.
struct Run {
    world: World,
    /// Snapshots of its table.
    snapshots: usize,
    /// For how long an epoch may be open, in seconds, and why.
    interval: f64,
    why: String,
    /// How long it took.
    ms: i64,
}

/// Runs a daemon to its end over what `script` makes of requests that change something.
async fn paced(seed: u64, config: &Config, script: Vec<Fault>) -> Run {
    let mut world = World::new(seed);
    let catalog = FaultyCatalog::new(Arc::clone(&world.catalog), world.env.clone(), 0);
    catalog.script(script);
    world.catalog = Arc::new(catalog);
    let (metrics, began) = (Metrics::new(), world.env.now_ms());
    let face = Face { health: Health::new(metrics.clone()), metrics: metrics.clone() };
    let ended = world.daemon_seen_by(config, face).await.run(CancellationToken::new()).await;
    assert!(ended.values().all(Result::is_ok), "{ended:?}");
    let interval = metrics.gauges("frazil_cadence_seconds").first().map_or(0.0, |(_, seconds)| *seconds);
    let whys = metrics.gauges("frazil_cadence_why");
    let why: Vec<&str> = whys.iter().filter(|(_, is)| *is > 0.5).map(|(labels, _)| labels[1].as_str()).collect();
    let (why, ms) = (why.join(" "), world.env.now_ms() - began);
    let snapshots = world.length("shop.events").await;
    Run { world, snapshots, interval, why, ms }
}

impl Run {
    fn said(&self) -> String {
        format!("{} snapshots in {} ms; now every {} s: {}", self.snapshots, self.ms, self.interval, self.why)
    }
}

/// A minute of rows at a freshness of two seconds.
fn a_minute() -> Config {
    let mut config = config("shop.events", None, 0);
    rate(&mut config, 3_000, 100);
    config
}

#[test]
fn a_catalog_that_asks_to_wait_gets_ever_fewer_commits_and_the_pace_back_when_it_is_calm() {
    on_virtual_time(async {
        let calm = paced(71, &a_minute(), vec![]).await;
        assert!(calm.snapshots > 20 && calm.interval <= 2.0 && calm.why == "freshness", "{}", calm.said());
        each_once(&calm.world.positions(&["shop.events"]).await, 3_000);
        let asks = [Fault::Throttled, Fault::None];
        let always = paced(71, &a_minute(), asks.repeat(200)).await;
        assert!(always.snapshots * 3 < calm.snapshots, "{}", always.said());
        assert!(always.interval >= 16.0 && always.why == "throttled", "{}", always.said());
        each_once(&always.world.positions(&["shop.events"]).await, 3_000);
        // The table, the record that says where it begins, and two commits are throttled; then come calm ones.
        let twice = paced(71, &a_minute(), asks.repeat(4)).await;
        assert!((always.snapshots + 2..calm.snapshots).contains(&twice.snapshots), "{}", twice.said());
        assert!(twice.interval <= 2.0 && twice.why == "freshness", "{}", twice.said());
    });
}

#[test]
fn commits_that_meet_others_again_and_again_come_less_often() {
    on_virtual_time(async {
        let calm = paced(72, &a_minute(), vec![]).await;
        let meets = [Fault::Refused, Fault::Refused, Fault::Refused, Fault::None];
        let crowded = paced(72, &a_minute(), meets.repeat(200)).await;
        assert!(crowded.snapshots * 2 < calm.snapshots, "{}", crowded.said());
        assert!((crowded.interval - 8.0).abs() < 0.1 && crowded.why == "conflicts", "{}", crowded.said());
        each_once(&crowded.world.positions(&["shop.events"]).await, 3_000);
    });
}

#[test]
fn a_gateway_that_says_when_to_come_again_is_not_asked_before() {
    on_virtual_time(async {
        // The table, the record that says where it begins, and the rows.
        let rows = |fault| vec![Fault::None, Fault::None, fault];
        let lost = paced(74, &config("shop.events", None, 10), rows(Fault::LostNo)).await;
        assert!(lost.ms < 5_000 && lost.why != "throttled", "{}", lost.said());
        let busy = paced(74, &config("shop.events", None, 10), rows(Fault::Busy)).await;
        assert!((30_000..40_000).contains(&busy.ms), "{}", busy.said());
        assert!(busy.interval >= 30.0 && busy.why == "throttled", "{}", busy.said());
        // The fifth time the commit is given back in between.
        let script = [vec![Fault::None; 2], vec![Fault::Busy; 6]].concat();
        let always = paced(74, &config("shop.events", None, 10), script).await;
        assert!(always.ms >= 6 * 30_000, "{}", always.said());
    });
}

#[test]
fn files_that_are_full_are_committed_before_their_time() {
    on_virtual_time(async {
        let mut config = config("shop.events", None, 60_000);
        let pipeline = pipeline_of(&mut config);
        (pipeline.create.partition, pipeline.create.sort) = (vec![], vec![]);
        pipeline.commit.freshness = Duration::from_secs(24 * 60 * 60);
        pipeline.commit.rows_max = u64::MAX;
        let whole = paced(73, &config, vec![]).await;
        pipeline_of(&mut config).commit.target_file_size = Some(100_000);
        rate(&mut config, 60_000, 20_000);
        let full = paced(73, &config, vec![]).await;
        assert!(full.snapshots >= whole.snapshots + 3, "{}, {}", whole.said(), full.said());
        each_once(&full.world.positions(&["shop.events"]).await, 60_000);
        // Each epoch but the last has files of that size alone.
        let mut short = 0;
        for file in full.world.files("shop.events").await {
            let size = full.world.storage.read(&file).await.expect("a file").len();
            short += usize::from(size < 100_000);
        }
        assert!(short <= 1, "{short} short files: {}", full.said());
    });
}

#[test]
fn how_long_rows_wait_is_told_also_while_the_catalog_is_away() {
    on_virtual_time(async {
        let mut world = World::new(77);
        let begun = world.env.now_ms();
        let outage = Outage { env: world.env.clone(), down_ms: begun + 20_000..begun + 80_000 };
        let inner = Arc::clone(&world.catalog);
        world.catalog = Arc::new(FailingCatalog { inner, outage, only: None });
        let metrics = Metrics::new();
        let face = Face { health: Health::new(metrics.clone()), metrics: metrics.clone() };
        let mut config = config("shop.events", None, 0);
        rate(&mut config, 12_000, 100);
        let daemon = world.daemon_seen_by(&config, face).await;
        let stop = CancellationToken::new();
        let look = async {
            let mut waited = Vec::new();
            for _ in 0..4 {
                world.env.sleep(Duration::from_secs(25)).await;
                waited.extend(metrics.gauges("frazil_freshness_seconds").into_iter().map(|(_, seconds)| seconds));
            }
            stop.cancel();
            waited
        };
        let (_, waited) = tokio::join!(daemon.run(stop.clone()), look);
        let [second, fifth, late, after] = waited[..] else { panic!("{waited:?}") };
        assert!(second < 10.0 && fifth > 25.0 && late > fifth + 20.0 && after < 10.0, "{waited:?}");
    });
}

/// A log whose rows say when they were written.
struct Dated {
    log: Box<dyn Source>,
    /// Of each row in turn.
    written_ms: VecDeque<Option<i64>>,
}

#[async_trait]
impl Source for Dated {
    async fn open(&mut self, checkpoint: &Checkpoint) -> Result<()> {
        self.log.open(checkpoint).await
    }

    async fn next(&mut self) -> Result<SourceEvent> {
        let mut event = self.log.next().await?;
        if let SourceEvent::Batch(batch) = &mut event {
            for row in &mut batch.rows {
                row.timestamp_ms = self.written_ms.pop_front().flatten();
            }
        }
        Ok(event)
    }

    async fn release(&mut self, checkpoint: &Checkpoint) -> Result<()> {
        self.log.release(checkpoint).await
    }

    fn identity(&self) -> String {
        self.log.identity()
    }
}

/// What the log of this thread says.
#[derive(Clone, Default)]
struct Heard(Arc<Mutex<Vec<u8>>>);

impl Write for Heard {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().expect("unpoisoned").extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Heard {
    /// Hears it until the guard is dropped.
    fn listen(&self) -> DefaultGuard {
        let heard = self.clone();
        set_default(tracing_subscriber::fmt().json().flatten_event(true).with_writer(move || heard.clone()).finish())
    }

    /// How old the oldest record was at the end of each commit.
    fn oldest_records_ms(&self) -> Vec<Option<i64>> {
        let text = String::from_utf8(self.0.lock().expect("unpoisoned").clone()).expect("text");
        let lines = text.lines().map(|line| serde_json::from_str::<Value>(line).expect("JSON"));
        lines.filter(|line| line["message"] == "committed").map(|line| line["oldest_record_ms"].as_i64()).collect()
    }
}

#[test]
fn each_commit_logs_how_old_its_oldest_record_is_by_its_own_timestamp_where_it_has_one() {
    // While nobody listens at all a line is not even asked for.
    let _before = Heard::default().listen();
    on_virtual_time(async {
        let (world, config) = (World::new(78), config("shop.rows", None, 1));
        let run = async |batches, written_ms: Vec<Option<i64>>| {
            let mut daemon = world.daemon(&config).await;
            daemon.pipelines[0].source = Box::new(Dated { log: log_of(batches), written_ms: written_ms.into() });
            let ended = daemon.run(CancellationToken::new()).await;
            assert!(ended.values().all(Result::is_ok), "{ended:?}");
        };
        let mut batches = vec![vec![row(1)]];
        run(batches.clone(), vec![]).await;
        // If another test's thread came to the line first, it counts as one that nobody hears until a listener comes.
        let heard = Heard::default();
        let _listens = heard.listen();
        let began = world.env.now_ms();
        batches.extend([vec![row(2), row(3)], vec![row(4), row(5)]]);
        run(batches.clone(), vec![Some(began - 40_000), Some(began - 60_000), None, Some(began - 50_000)]).await;
        let took = world.env.now_ms() - began;
        batches.push(vec![row(6)]);
        run(batches, vec![None]).await;
        let told = heard.oldest_records_ms();
        let [Some(dated), None] = told[..] else { panic!("{told:?}") };
        assert!((60_000..=60_000 + took).contains(&dated), "{dated} ms, of which the run took {took} ms");
    });
}
