//! One seed from its first call to rest.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Once};
use std::time::Duration;

use frazil::config::{OnRollback, ReplayConfig};
use frazil::env::Env;
use frazil::model::checkpoint::Checkpoint;
use frazil::source::replay::ReplaySource;
use frazil::source::{Source, SourceEvent};
use frazil::storage::disk::PartOfDisk;
use frazil::storage::ledger::{ENTRIES_MAX, Ledger, LedgerEntry};
use futures::TryStreamExt;
use object_store::path::Path;
use object_store::{ObjectMeta, ObjectStore, ObjectStoreExt};
use tokio_util::sync::CancellationToken;

use crate::audit::{Watched, event_id};
use crate::expirer::Expirer;
use crate::foreign::{self, Deed};
use crate::group::Group;
use crate::interpose;
use crate::life::{Instance, Policy, Topics};
use crate::maintainer::{self, Maintainer};
use crate::met;
use crate::operator;
use crate::scenario::Scenario;
use crate::topic::{Topic, lock};
use crate::world::{Figures, World, key};

/// How long after the last fault every row is in.
const REST_WITHIN: Duration = Duration::from_secs(3_600);
/// How long after that leftovers under proof are gone: two proofs are a deadline of ten minutes apart.
const GRACE: Duration = Duration::from_secs(2_600);

/// How long jobs take to prove twice that nothing has a file and to delete it, once its table has gone on.
const PROVED_WITHIN: Duration = Duration::from_secs(1_000);
/// Where a daemon's jobs note what is under way.
const JOBS: &str = "jobs-";

thread_local! {
    static PANIC: RefCell<Option<String>> = const { RefCell::new(None) };
}

/// What came of a seed.
#[derive(Debug, Clone)]
pub struct Report {
    /// The seed.
    pub seed: u64,
    /// What it stood for.
    pub scenario: String,
    /// Everything that happened, in order.
    pub trace: Vec<String>,
    /// A hash of it.
    pub hash: u64,
    /// What was not as it must be.
    pub violation: Option<String>,
    /// What was met, and how often.
    pub coverage: BTreeMap<String, u64>,
    /// What the daemons asked of catalog and store.
    pub figures: Figures,
    /// Virtual time.
    pub elapsed: Duration,
    /// Steps that the story may do without.
    pub steps: u64,
}

/// Runs a seed in a thread of its own.
///
/// # Panics
/// When the thread cannot be started.
pub fn seed(seed: u64) -> Report {
    seed_without(seed, BTreeSet::new())
}

/// Runs this scenario instead of the seed's own.
///
/// # Panics
/// When the thread cannot be started.
pub fn scenario(seed: u64, given: Scenario) -> Report {
    in_thread(seed, BTreeSet::new(), Some(given))
}

/// Runs a seed without some of its steps.
///
/// # Panics
/// When the thread cannot be started.
pub fn seed_without(seed: u64, without: BTreeSet<u64>) -> Report {
    in_thread(seed, without, None)
}

fn in_thread(seed: u64, without: BTreeSet<u64>, given: Option<Scenario>) -> Report {
    once();
    let thread = std::thread::Builder::new().name(format!("seed-{seed}")).stack_size(16 << 20);
    let running = thread.spawn(move || {
        interpose::arm(seed);
        let mut runtime = tokio::runtime::Builder::new_current_thread();
        let runtime = runtime.enable_time().start_paused(true).build().expect("a runtime");
        let report = runtime.block_on(async {
            interpose::start_clock();
            simulate(seed, &without, given).await
        });
        drop(runtime);
        interpose::disarm();
        report
    });
    running.expect("a thread").join().unwrap_or_else(|_| Report {
        seed,
        scenario: String::new(),
        trace: vec![],
        hash: 0,
        violation: Some("the simulation itself panicked".to_owned()),
        coverage: BTreeMap::new(),
        figures: Figures::default(),
        elapsed: Duration::ZERO,
        steps: 0,
    })
}

/// What holds for the whole process: a panic within a task of the daemon is a violation.
fn once() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        frazil::commit::avro_names::install();
        maintainer::once();
        let before = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            PANIC.with_borrow_mut(|held| {
                held.get_or_insert(info.to_string());
            });
            before(info);
        }));
    });
}

async fn simulate(seed: u64, without: &BTreeSet<u64>, given: Option<Scenario>) -> Report {
    let draw = Env::simulated(Arc::new(frazil::env::SystemClock), seed);
    let scenario = given.unwrap_or_else(|| Scenario::of(seed, &draw));
    let world = World::new(seed, &scenario, without);
    let _met = met::hear(Arc::clone(&world));
    let text = format!("{scenario:?}");
    world.note("world", &text);
    tokio::select! {
        biased;
        () = world.wrong() => {}
        () = play(&world, &scenario) => {}
    }
    if let Some(panic) = PANIC.with_borrow_mut(Option::take) {
        world.violation(format!("a panic: {panic}"));
    }
    let (trace, hash, coverage, figures) = world.story();
    let elapsed = world.clock.elapsed();
    Report {
        seed,
        scenario: text,
        trace,
        hash,
        violation: world.violated(),
        coverage,
        figures,
        elapsed,
        steps: world.steps(),
    }
}

async fn play(world: &Arc<World>, scenario: &Scenario) {
    let topics = learn(world, scenario).await;
    let policy = Arc::new(Policy::of(scenario));
    let names = ["a", "b", "c"];
    let mut instances: Vec<Instance> = names
        .iter()
        .take(usize::try_from(scenario.instances).unwrap_or(1))
        .map(|name| Instance::new(Arc::clone(world), scenario.clone(), Arc::clone(&policy), topics.clone(), name))
        .collect();
    let writers: Vec<_> =
        (0..scenario.writers).map(|_| tokio::spawn(foreign_engine(Arc::clone(world), scenario.clone()))).collect();
    let expirer = scenario.expires.map(|age| {
        let expirer = Expirer::new(Arc::clone(world), age);
        tokio::spawn(expirer.work(scenario.tables()))
    });
    let stop = CancellationToken::new();
    let maintainers = Maintainer::all(world, scenario).into_iter();
    let maintainers: Vec<_> = maintainers.map(|maintainer| tokio::spawn(maintainer.work(stop.clone()))).collect();
    futures::future::join_all(instances.iter_mut().map(Instance::troubled)).await;
    // Where nothing goes wrong, other writers are what is to be seen.
    if scenario.attempts > 0 {
        writers.iter().for_each(tokio::task::JoinHandle::abort);
        world.calm();
    }
    futures::future::join_all(instances.iter_mut().map(|i| i.recover(REST_WITHIN, GRACE))).await;
    let proved_by = world.clock.elapsed().saturating_sub(PROVED_WITHIN);
    if let Some(expirer) = expirer {
        expirer.abort();
    }
    stop.cancel();
    for maintainer in maintainers {
        // One that panicked is told of by its panic.
        if let Ok(mut maintainer) = maintainer.await {
            maintainer.rest().await;
        }
    }
    if world.violated().is_some() {
        return;
    }
    let given_up = world.given_up();
    if let Err(what) = world.with_auditor(|a| a.complete(&given_up)) {
        world.violation(what);
    }
    left_behind(world, &instances, scenario, proved_by).await;
}

/// Makes the sources' rows known to the auditor. The topics, where there are any.
async fn learn(world: &World, scenario: &Scenario) -> Topics {
    let (mut first, mut topics) = (0, Topics::new());
    for (name, anchor, seed) in scenario.pipelines() {
        let config = scenario.replay(seed);
        let watched = Watched {
            name: name.to_owned(),
            anchor: anchor.clone(),
            first,
            partitions: scenario.partitions,
            rows: scenario.rows,
            generations: if scenario.topic.is_some_and(|plan| plan.loss.is_some()) { 2 } else { 1 },
            lost: BTreeMap::new(),
            keeps: scenario.on_rollback == OnRollback::Keep,
        };
        first = watched.end();
        if let Some(plan) = scenario.topic {
            let topic = Topic::learn(world, plan, &config, (name, anchor), &watched).await;
            let partitions = lock(&topic).partitions();
            topics.insert(name, (topic, Group::of(partitions, plan.eager)));
        } else {
            learn_replayed(world, config, &watched).await;
        }
        world.with_auditor(|a| a.pipelines.push(watched));
    }
    topics
}

async fn learn_replayed(world: &World, config: ReplayConfig, watched: &Watched) {
    let mut source = ReplaySource::new(&ReplayConfig { rate: None, ..config }, world.env.clone());
    source.open(&Checkpoint::default()).await.expect("a source opens at its beginning");
    while let SourceEvent::Batch(batch) = source.next().await.expect("a made-up row") {
        let partition: u32 = batch.partition.as_str().parse().expect("a number");
        for row in &batch.rows {
            let id = event_id(batch.bytes(*row)).expect("every event has an id").to_owned();
            let number = u32::try_from(row.number).expect("few rows");
            world.with_auditor(|a| a.event_ids.insert(id, watched.row(partition, number)));
        }
    }
}

async fn foreign_engine(world: Arc<World>, scenario: Scenario) {
    let tables = scenario.tables();
    // A process may be away for days: the engine does not spend them all.
    for _ in 0..scenario.deeds {
        tokio::time::sleep(world.time(scenario.foreign_rest)).await;
        let Some(deed) = foreign::pick(&world.env, &scenario.habits) else { return };
        let table = &tables[usize::try_from(world.env.below(tables.len() as u64)).unwrap_or(0)];
        if world.step() {
            match deed {
                Deed::RewindByOperator => operator::roll_back(&world, table, false).await,
                Deed::KeepByOperator => operator::roll_back(&world, table, true).await,
                deed => foreign::act(&world, table, deed).await,
            };
        }
    }
}

/// Ledgers are empty at rest, and no data file is there that nothing names. A pipeline that was given up keeps what it may be
/// told to finish. Lists and manifests of attempts that did not land, and sealed objects, may be the orphan sweep's: where
/// several instances share a name, where a process died between the deletion of a name and of its object.
///
/// What jobs leave needs a commit after theirs: one until `proved_by` was in time.
async fn left_behind(world: &World, instances: &[Instance], scenario: &Scenario, proved_by: Duration) {
    // What stays of a table that was dropped is nobody's to clean, and an expiry may not be at its last step.
    let all_go_on =
        world.given_up().is_empty() && scenario.expires.is_none() && !world.with_auditor(|a| a.any_dropped());
    let mut kept = BTreeSet::new();
    for instance in instances.iter().filter(|_| scenario.upkeep.is_some_and(|upkeep| upkeep.jobs)) {
        let disk = Arc::new(PartOfDisk::new(instance.disk(), JOBS));
        let open = Ledger::open(disk, ENTRIES_MAX).await.map(|ledger| ledger.open_entries());
        match open {
            Err(error) => return world.violation(format!("at rest a ledger of jobs cannot be read: {error}")),
            Ok(open) => {
                let late = |e: &&LedgerEntry| world.went_on(&e.owner.table, &key(&e.location), proved_by);
                if let Some(entry) = open.iter().find(late).filter(|_| all_go_on) {
                    let (count, at) = (open.len(), &entry.location);
                    return world.violation(format!("at rest a ledger of jobs holds {count} entries: {at}"));
                }
            }
        }
    }
    for instance in instances {
        let ledger = match Ledger::open(instance.disk(), ENTRIES_MAX).await {
            Ok(ledger) => ledger,
            Err(error) => return world.violation(format!("at rest a ledger cannot be read: {error}")),
        };
        let open = ledger.open_entries();
        world.cover(if open.is_empty() { "rest × ledger empty" } else { "rest × ledger holds leftovers" });
        // What was encoded again of an epoch that the checkpoint still names: it may have to be once more.
        let named = open.iter().filter(|e| world.with_auditor(|a| a.is_decided(key(&e.location).as_ref())));
        let named: BTreeSet<i64> = named.map(|e| e.owner.snapshot_id).filter(|id| *id < 0).collect();
        let (waiting, open): (Vec<_>, Vec<_>) = open.into_iter().partition(|e| named.contains(&e.owner.snapshot_id));
        kept.extend(waiting.iter().map(|entry| key(&entry.location).to_string()));
        for entry in &open {
            let (table, id) = (&entry.owner.table, entry.owner.snapshot_id);
            world.note("oracle", &format!("a ledger holds {table} {id:x} {}", entry.location));
        }
        if let Some(entry) = open.first().filter(|_| all_go_on) {
            world.violation(format!("at rest a ledger holds {} entries: {}", open.len(), entry.location));
        }
    }
    let objects: Vec<_> = world.objects.list(None).try_collect().await.unwrap_or_default();
    let undone = undone_parts(world, &objects).await;
    for object in objects {
        let path = object.location.as_ref();
        let is_foreign = path.contains("/foreign-") || path.ends_with(".metadata.json");
        if is_foreign || kept.contains(path) || world.with_auditor(|a| a.names(path)).is_some() {
            continue;
        }
        world.note("oracle", &format!("nothing names {path}"));
        world.cover("rest × metadata left to the orphan sweep");
        if undone.contains(path) {
            world.cover("rest × data of an undone epoch left to the orphan sweep");
        } else if path.ends_with(".parquet") && all_go_on {
            world.violation(format!("at rest nothing names {path}"));
        }
    }
}

/// The files of epochs that were decided, and whose anchor was set back to before that, or that an operator has forgotten. Whoever
/// has begun to finish such an epoch may commit a part of it at any time, and no sequence number guards a table that stands still:
/// they are the orphan sweep's.
async fn undone_parts(world: &World, objects: &[ObjectMeta]) -> BTreeSet<String> {
    let mut files = world.with_auditor(|a| a.forgotten.clone());
    for object in objects {
        let path = object.location.as_ref();
        if path.contains("/metadata/sealed-") && world.with_auditor(|a| a.is_undone(path)) {
            files.extend(files_of(world, &object.location).await);
        }
    }
    files
}

impl World {
    /// The object of an epoch that was undone is deleted: nothing tells any more what its files are.
    pub(crate) async fn loses_sight(&self, sealed: &Path) {
        if sealed.as_ref().contains("/metadata/sealed-") && self.with_auditor(|a| a.is_undone(sealed.as_ref())) {
            let files = files_of(self, sealed).await;
            self.with_auditor(|a| a.forgotten.extend(files));
        }
    }
}

/// The data files that a sealed epoch names.
pub(crate) async fn files_of(world: &World, sealed: &Path) -> Vec<String> {
    let Ok(got) = world.objects.get(sealed).await else { return Vec::new() };
    let text = String::from_utf8_lossy(&got.bytes().await.unwrap_or_default()).into_owned();
    let words = text.split(['"', '\\']).filter(|word| word.ends_with(".parquet"));
    words.map(|word| key(word).to_string()).collect()
}
