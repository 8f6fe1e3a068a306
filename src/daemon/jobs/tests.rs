//! Maintenance in the daemon, on virtual time, over a catalog that keeps its documents in the store.

use futures::FutureExt;

use super::*;
use crate::catalog::embedded::EmbeddedCatalog;
use crate::catalog::faulty::FaultyCatalog;
use crate::catalog::{Outcome, PreparedCommit};
use crate::config::load::from_text;
use crate::config::{Policies, Role};
use crate::daemon::Face;
use crate::daemon::tests::{World, config, each_once, pipeline_of, rate};
use crate::env::virtual_time::{on_virtual_time, simulated_ago};
use crate::storage::{Storage, StorageOptions};

const EVENTS: &str = "shop.events";

const POLICY: &str = r#"
    [policy."*"]
    every = "30s"
    compact = { quiet = "5m", hot_files_max = 6 }
    expire = { keep = "1m" }
"#;

fn policies(text: &str) -> Policies {
    from_text("t", text.to_owned(), &[]).expect("valid").config.policies
}

async fn world(seed: u64) -> (World, tempfile::TempDir) {
    let mut world = World::new(seed);
    world.env = simulated_ago(seed, Duration::from_secs(86_400));
    world.storage = Storage::new(StorageOptions::default(), world.env.clone());
    let folder = tempfile::tempdir().expect("a folder");
    let (path, stores) = (folder.path().join("catalog.db"), world.storage.clone());
    let resolver = Arc::new(move |location: &str| stores.resolve(location));
    world.catalog = Arc::new(EmbeddedCatalog::open(&world.env, &path, "memory:///wh", resolver).await.expect("opens"));
    (world, folder)
}

/// A commit every twenty seconds, for `rows` of each of two partitions.
fn streaming(rows: u64, role: Role) -> Config {
    let mut config = config(EVENTS, None, rows);
    rate(&mut config, rows, 10);
    pipeline_of(&mut config).commit.freshness = Duration::from_secs(20);
    config.policies = policies(POLICY);
    config.maintenance.memory = 64 << 20;
    config.role = role;
    config
}

fn face() -> Face {
    let metrics = Metrics::new();
    Face { health: Health::new(metrics.clone()), metrics }
}

fn name() -> TableName {
    EVENTS.parse().expect("a name")
}

#[test]
fn tables_are_compacted_and_expired_beside_ingest_and_every_row_is_there_once() {
    on_virtual_time(async {
        const ROWS: u64 = 9_000;
        let (world, _folder) = world(1).await;
        let face = face();
        let daemon = world.daemon_seen_by(&streaming(ROWS, Role::All), face.clone()).await;
        let ended = daemon.run(CancellationToken::new()).await;
        assert!(ended.values().all(Result::is_ok), "{ended:?}");
        each_once(&world.positions(&[EVENTS]).await, 9_000);
        let total = |name| face.metrics.total(name, &[EVENTS]);
        assert!(total("frazil_commits_total") > 80, "{} commits", total("frazil_commits_total"));
        assert!(world.files(EVENTS).await.len() < 30, "{} files", world.files(EVENTS).await.len());
        assert!(total("frazil_rewritten_files_total") > 60, "{}", total("frazil_rewritten_files_total"));
        assert!(total("frazil_snapshots_removed_total") > 25, "{}", total("frazil_snapshots_removed_total"));
        assert!(total("frazil_files_deleted_total") > 25, "{}", total("frazil_files_deleted_total"));
        assert_eq!(face.metrics.total("frazil_jobs_total", &[EVENTS, "compact", "failed"]), 0);
        let jobs = face.health.jobs().expect("jobs ran");
        assert_eq!(jobs.keys().collect::<Vec<_>>(), ["lake.shop.events"]);
        // An orderly end makes durable what they have settled: the next process has nothing to look at once more.
        world.disk.crash();
        let disk = Arc::new(PartOfDisk::new(Arc::clone(&world.disk) as Arc<dyn Disk>, "jobs-"));
        let left = Leftovers::open(disk).await.expect("opens").ledger().open_entries();
        let state = world.state(EVENTS).await;
        let is_in = |id: i64| state.metadata.snapshot_by_id(id).is_some();
        assert!(left.iter().all(|entry| !is_in(entry.owner.snapshot_id)), "{left:?}");
    });
}

#[test]
fn a_table_that_its_pipeline_has_not_created_yet_is_no_failure() {
    on_virtual_time(async {
        const LATER: &str = "shop.later";
        let (world, _folder) = world(4).await;
        let face = face();
        let daemon = world.daemon_seen_by(&streaming(600, Role::All), face.clone()).await;
        let later: TableName = LATER.parse().expect("a name");
        let _written_to = daemon.shared().table("lake", &later).expect("a catalog");
        let ended = daemon.run(CancellationToken::new()).await;
        assert!(ended.values().all(Result::is_ok), "{ended:?}");
        assert_eq!(face.metrics.total("frazil_jobs_total", &[LATER, "look", "failed"]), 0);
    });
}

#[test]
fn two_daemons_that_maintain_one_table_waste_work_and_break_nothing() {
    on_virtual_time(async {
        let (world, _folder) = world(2).await;
        let ingest = world.daemon_seen_by(&streaming(4_000, Role::All), face()).await;
        let other = World { env: world.env.clone(), storage: world.storage.clone(), ..World::new(2) };
        let other = World { catalog: Arc::clone(&world.catalog), ..other };
        let (mut config, second) = (streaming(4_000, Role::Maintain), face());
        config.instance = "two".to_owned();
        let maintainer = other.daemon_seen_by(&config, second.clone()).await;
        let stop = CancellationToken::new();
        let both = async {
            let ended = ingest.run(CancellationToken::new()).await;
            stop.cancel();
            ended
        };
        let (ended, maintained) = tokio::join!(both, maintainer.run(stop.clone()));
        assert!(ended.values().all(Result::is_ok) && maintained.is_empty(), "{ended:?}");
        each_once(&world.positions(&[EVENTS]).await, 4_000);
        assert!(second.metrics.total("frazil_jobs_total", &[EVENTS]) > 0, "the second one took part");
    });
}

#[test]
fn commits_of_rows_are_known_to_maintenance_while_they_are_under_way() {
    on_virtual_time(async {
        let (mut world, _folder) = world(6).await;
        world.catalog = Arc::new(FaultyCatalog::new(Arc::clone(&world.catalog), world.env.clone(), 50));
        let daemon = world.daemon_seen_by(&streaming(1_000, Role::Ingest), face()).await;
        let (traffic, stop) = (daemon.shared().traffic.of("lake", &name()), CancellationToken::new());
        let is_clear = || traffic.clear().now_or_never().is_some();
        let looking = async {
            let (mut clear, mut busy) = (0, 0);
            while !stop.is_cancelled() {
                *(if is_clear() { &mut clear } else { &mut busy }) += 1;
                world.env.sleep(Duration::from_millis(50)).await;
            }
            (clear, busy)
        };
        let running = async {
            let ended = daemon.run(CancellationToken::new()).await;
            stop.cancel();
            ended
        };
        let (ended, (clear, busy)) = tokio::join!(running, looking);
        assert!(ended.values().all(Result::is_ok), "{ended:?}");
        assert!(busy > 3 && clear > busy, "seen {busy} times under way, {clear} times not");
        assert!(is_clear(), "all have ended");
    });
}

#[test]
fn a_table_that_fails_is_tried_again_later_and_later_and_stops_no_other() {
    on_virtual_time(async {
        let (world, _folder) = world(3).await;
        world.run(&streaming(1_000, Role::Ingest), None).await;
        let files = world.files(EVENTS).await.len();
        let wrong: TableName = "shop.wrong".parse().expect("a name");
        let state = world.catalog.load(&name()).await.expect("there");
        let location = state.metadata_location.expect("a document");
        let registered = world.catalog.register(&wrong, &location).await;
        assert!(matches!(registered, Outcome::Committed(_)), "{registered:?}");
        let property = ("frazil.policy.compact.quite".to_owned(), "1m".to_owned());
        let set = PreparedCommit {
            table: wrong.clone(),
            requirements: vec![],
            updates: vec![iceberg::TableUpdate::SetProperties { updates: [property].into() }],
            idempotency_key: world.env.uuid(),
        };
        let changed = world.catalog.commit(&set).await;
        assert!(matches!(changed, Outcome::Committed(_)), "{changed:?}");
        let face = face();
        let daemon = world.daemon_seen_by(&streaming(1_000, Role::Maintain), face.clone()).await;
        let stop = CancellationToken::new();
        let halt = async {
            world.env.sleep(Duration::from_secs(3_600)).await;
            let ready = face.health.is_ready();
            stop.cancel();
            ready
        };
        let (ended, ready) = tokio::join!(daemon.run(stop.clone()), halt);
        assert!(ended.is_empty() && ready, "a job that fails makes nothing unready");
        assert!(files > 5 && world.files(EVENTS).await.len() < files, "the other one is compacted");
        let jobs = face.health.jobs().expect("jobs ran");
        let job = &jobs["lake.shop.wrong"];
        assert_eq!(job.state, "failing");
        assert!((4..12).contains(&job.failures), "{} failures in an hour", job.failures);
        assert!(job.last[0].contains("frazil.policy.compact.quite: there is no such setting"), "{:?}", job.last);
        let status = face.health.status();
        assert_eq!(status["jobs"]["lake.shop.wrong"]["state"], "failing", "{status}");
        assert_eq!(status["jobs"]["lake.shop.events"]["state"], "idle", "{status}");
    });
}

#[test]
fn a_daemon_that_only_ingests_and_one_without_policies_have_no_jobs() {
    on_virtual_time(async {
        let (world, _folder) = world(4).await;
        for (role, text) in [(Role::Ingest, POLICY), (Role::All, "")] {
            let (mut config, face) = (streaming(200, role), face());
            config.policies = policies(text);
            let daemon = world.daemon_seen_by(&config, face.clone()).await;
            daemon.run(CancellationToken::new()).await;
            assert_eq!(face.health.jobs(), None);
        }
    });
}

#[test]
fn what_helps_most_comes_first_and_a_long_rewrite_holds_up_no_expiry() {
    on_virtual_time(async {
        let (world, _folder) = world(5).await;
        let config = streaming(10, Role::Maintain);
        let daemon = world.daemon_seen_by(&config, face()).await;
        let disk: Arc<dyn Disk> = world.disk.clone();
        let shown = face();
        let mut jobs = Jobs::new(&config, daemon.shared(), &disk, shown.metrics, shown.health).await.expect("made");
        let queued = [
            ("a.low", 3, true),
            ("a.high", 9, true),
            ("a.also", 9, true),
            ("b.light", 50, false),
            ("b.last", 1, false),
        ];
        for (name, worth, heavy) in queued {
            let state = State::Queued { worth, heavy };
            let entry = Entry { state, due_ms: 0, every: Duration::from_secs(30), failures: 0, last: vec![] };
            jobs.tables.insert((0, name.parse().expect("a name")), entry);
        }
        let begin = |jobs: &mut Jobs, state| {
            let (key, _) = jobs.next()?;
            jobs.set(&key, state);
            Some(key.1.to_string())
        };
        // One rewrite at a time, and beside it one thing that needs no memory.
        let beside =
            [begin(&mut jobs, State::Running), begin(&mut jobs, State::Running), begin(&mut jobs, State::Running)];
        assert_eq!(beside, [Some("a.also".to_owned()), Some("b.light".to_owned()), None]);
        for entry in jobs.tables.values_mut().filter(|entry| entry.state == State::Running) {
            entry.state = State::Idle;
        }
        let order: Vec<String> = std::iter::from_fn(|| begin(&mut jobs, State::Idle)).collect();
        assert_eq!(order, ["a.high", "a.low", "b.last"]);
    });
}

#[test]
fn looks_spread_out_by_a_tenth_of_their_time_and_no_more() {
    on_virtual_time(async {
        let (world, _folder) = world(6).await;
        let config = streaming(10, Role::Maintain);
        let daemon = world.daemon_seen_by(&config, face()).await;
        let disk: Arc<dyn Disk> = world.disk.clone();
        let shown = face();
        let jobs = Jobs::new(&config, daemon.shared(), &disk, shown.metrics, shown.health).await.expect("made");
        let waits: std::collections::BTreeSet<i64> =
            (0..200).map(|_| jobs.after(1_000, Duration::from_secs(100)) - 1_000).collect();
        assert!(waits.iter().all(|wait| (90_000..=110_000).contains(wait)), "{waits:?}");
        assert!(waits.len() > 150 && waits.first() < Some(&92_000) && waits.last() > Some(&108_000), "{waits:?}");
    });
}
