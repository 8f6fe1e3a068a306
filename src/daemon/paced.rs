//! The whole daemon's commits at the pace of its catalog, its files and its neighbours.
#![cfg(test)]

use super::outage::{FailingCatalog, Outage};
use super::tests::{World, config, each_once, pipeline_of, rate};
use super::*;
use crate::catalog::faulty::{Fault, FaultyCatalog};
use crate::env::virtual_time::on_virtual_time;

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
