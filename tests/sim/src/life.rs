//! The operator of one instance: starts its daemon, kills it, holds it, restarts it.

use std::collections::BTreeMap;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use frazil::api::{Health, PipelineHealth};
use frazil::config::OnRollback;
use frazil::config::kafka::OnGap;
use frazil::daemon::{Daemon, Face, Stores};
use frazil::env::Env;
use frazil::model::ids::PipelineName;
use frazil::source::Source;
use frazil::storage::disk::MemoryDisk;
use frazil::storage::{Storage, StorageOptions};
use frazil::telemetry::metrics::Metrics;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::bounds;
use crate::catalog::NetworkCatalog;
use crate::foreign;
use crate::group::SharedGroup;
use crate::member::{Member, Reads};
use crate::operator;
use crate::process::{Process, ProcessClock};
use crate::scenario::{IDLER, Scenario};
use crate::store::{NetworkStore, ProcessDisk};
use crate::topic::{self, SharedTopic};
use crate::world::World;

/// How often an operator looks at a daemon.
const LOOK: Duration = Duration::from_secs(2);

/// Lives of an instance before the faults stop, however few commits were sent: its sources may be at their ends.
const LIVES_MAX: u64 = 60;

/// What the operators of all instances agree on: what to do after a rollback, and about rows that a log has removed.
#[derive(Debug)]
pub struct Policy(Mutex<(OnRollback, OnGap)>);

impl Policy {
    /// That of a scenario at its beginning.
    pub fn of(scenario: &Scenario) -> Self {
        let on_gap = if scenario.topic.is_some_and(|plan| plan.skips) { OnGap::Skip } else { OnGap::Halt };
        Self(Mutex::new((scenario.on_rollback, on_gap)))
    }

    fn held(&self) -> MutexGuard<'_, (OnRollback, OnGap)> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn get(&self) -> OnRollback {
        self.held().0
    }

    fn set(&self, policy: OnRollback) {
        self.held().0 = policy;
    }
}

/// One instance over all its lives.
#[derive(Debug)]
pub struct Instance {
    world: Arc<World>,
    scenario: Scenario,
    policy: Arc<Policy>,
    name: String,
    disk: Arc<MemoryDisk>,
    lives: u64,
    topics: Topics,
}

/// The topics of a scenario that has any, with the groups that read them, by pipeline.
pub type Topics = BTreeMap<&'static str, (SharedTopic, SharedGroup)>;

/// A daemon that runs.
#[derive(Debug)]
struct Life {
    process: Arc<Process>,
    health: Health,
    metrics: Metrics,
    /// Offsets that its sources passed over.
    lost: Arc<AtomicU64>,
    stop: CancellationToken,
    task: JoinHandle<Result<(), String>>,
}

impl Instance {
    /// An instance that has not begun.
    pub fn new(world: Arc<World>, scenario: Scenario, policy: Arc<Policy>, topics: Topics, name: &str) -> Self {
        Self { world, scenario, policy, name: name.to_owned(), disk: Arc::new(MemoryDisk::new()), lives: 0, topics }
    }

    /// Its disk.
    pub fn disk(&self) -> Arc<MemoryDisk> {
        Arc::clone(&self.disk)
    }

    /// The sources of a process that reads topics.
    fn sources(
        &self,
        process: &Arc<Process>,
        env: &Env,
        lost: &Arc<AtomicU64>,
    ) -> BTreeMap<PipelineName, Box<dyn Source>> {
        let of = |(name, (topic, group)): (&&'static str, &(SharedTopic, SharedGroup))| {
            let on_gap = self.policy.held().1;
            let reads = Reads { topic: Arc::clone(topic), group: Arc::clone(group), on_gap, lost: Arc::clone(lost) };
            let member = Member::new(Arc::clone(&self.world), Arc::clone(process), env.clone(), reads);
            (PipelineName::new(*name), Box::new(member) as Box<dyn Source>)
        };
        self.topics.iter().map(of).collect()
    }

    fn begin(&mut self, dies_at: u64) -> Life {
        self.lives += 1;
        let world = &self.world;
        let process = Process::new(format!("{}{}", self.name, self.lives), dies_at);
        let skew_ms = i64::try_from(world.env.below(4_000)).unwrap_or(0) - 2_000;
        let clock = ProcessClock { process: Arc::clone(&process), clock: world.clock.skewed(skew_ms) };
        let env = Env::simulated(Arc::new(clock), world.env.bits());
        let options = StorageOptions { stores: vec![], requests_max: 16, retries: 3 };
        let storage = Storage::new(options, env.clone());
        storage.mount("memory:///", Arc::new(NetworkStore::new(Arc::clone(world), Arc::clone(&process))));
        let disk = Arc::new(ProcessDisk::new(Arc::clone(world), Arc::clone(&process), Arc::clone(&self.disk)));
        let catalog = NetworkCatalog::new(Arc::clone(world), Arc::clone(&process));
        let lost = Arc::new(AtomicU64::new(0));
        let catalogs = BTreeMap::from([("lake".to_owned(), Arc::new(catalog) as _)]);
        let stores = Stores { storage, disk, catalogs, sources: self.sources(&process, &env, &lost) };
        let metrics = Metrics::new();
        let health = Health::new(metrics.clone());
        let face = Face { metrics: metrics.clone(), health: health.clone() };
        let config = self.scenario.config(&self.name, self.policy.get());
        let stop = CancellationToken::new();
        let stopped = stop.clone();
        world.note(&process.name, &format!("begins, dies at call {dies_at}"));
        let task = tokio::spawn(async move {
            let daemon = Daemon::with_stores(&config, &env, stores, face).await.map_err(|e| e.to_string())?;
            daemon.run(stopped).await;
            Ok(())
        });
        Life { process, health, metrics, lost, stop, task }
    }

    /// Lives that end badly, until as many commits were sent as the scenario says.
    pub async fn troubled(&mut self) {
        let world = Arc::clone(&self.world);
        while world.attempts() < self.scenario.attempts && self.lives < LIVES_MAX {
            let calls = if world.env.below(3) > 0 { 10 + world.env.below(1_500) } else { u64::MAX };
            let calls = if calls == u64::MAX || world.step() { calls } else { u64::MAX };
            let mut life = self.begin(calls);
            let long = if self.scenario.expires.is_some() { 6 } else { 1 };
            let time = Duration::from_secs((5 + world.env.below(60)) * long);
            let enough = world.attempts() + 5 + world.env.below(40);
            let end = world.env.below(4);
            match if end > 1 || world.step() { end } else { 3 } {
                0 => {
                    self.watched(&mut life, time, enough).await;
                    world.note(&life.process.name, "is held");
                    world.cover("operator × holds");
                    life.process.stop();
                    tokio::time::sleep(world.time(Duration::from_secs(600))).await;
                    world.note(&life.process.name, "is woken");
                    life.process.wake();
                    self.watched(&mut life, time, enough).await;
                    self.end(life).await;
                }
                1 => {
                    self.watched(&mut life, time, enough).await;
                    life.process.kill();
                    self.end(life).await;
                }
                _ => {
                    self.watched(&mut life, time, enough).await;
                    self.end(life).await;
                }
            }
            let rest = match world.env.below(if self.scenario.idles { 6 } else { 5 }) {
                0 => Duration::from_secs(300),
                1 if self.scenario.expires.is_some() => Duration::from_secs(1_200),
                5 if world.env.below(2) == 0 => Duration::from_secs(20 * 3_600),
                5 => Duration::from_secs(4 * 86_400),
                _ => Duration::from_secs(10),
            };
            if rest > Duration::from_secs(3_600) {
                world.note(&self.name, "is away for long");
                world.cover("operator × away for long");
            }
            tokio::time::sleep(world.time(rest)).await;
        }
    }

    /// Watches a life for so long, until so many commits were sent, or until it ends or halts.
    async fn watched(&self, life: &mut Life, time: Duration, attempts: u64) {
        let end = self.world.clock.elapsed() + time;
        while self.world.clock.elapsed() < end && self.world.attempts() < attempts {
            tokio::select! {
                biased;
                () = life.process.death() => return,
                () = tokio::time::sleep(LOOK) => {}
            }
            self.bounded(life);
            if life.task.is_finished() || self.halted(life).await {
                return;
            }
        }
    }

    /// Nothing that a daemon holds exceeds its bound.
    fn bounded(&self, life: &Life) {
        let config = self.scenario.config(&self.name, self.policy.get());
        let work = bounds::Work {
            pipelines: config.pipelines.len(),
            // The idler's table beside those of the scenario.
            tables: self.scenario.tables().len() * self.scenario.pipelines().len() + 1,
            rewrites: if config.policies.is_empty() { 0 } else { config.maintenance.parallel },
        };
        if let Some(what) = bounds::exceeded(&life.metrics, &config.limits, work) {
            self.world.violation(format!("{}: {what}", life.process.name));
        }
    }

    /// Whether a pipeline has halted; what follows from it is arranged.
    async fn halted(&self, life: &Life) -> bool {
        let world = &self.world;
        for (pipeline, health) in life.health.pipelines() {
            let PipelineHealth::Halted(why) = health else { continue };
            let policy = self.policy.get();
            let due = self.scenario.is_due(&why, world.with_auditor(|a| a.any_dropped()));
            let rolled_back = why.contains("rolled back") && world.rolled_back();
            if rolled_back && policy == OnRollback::Halt {
                let new = if world.env.below(2) == 0 { OnRollback::Rewind } else { OnRollback::Keep };
                world.note(&life.process.name, &format!("{pipeline} halts: {why}; from now on {new:?}"));
                world.cover(format!("operator × rollback, then {new:?}"));
                self.adopt(new);
            } else if world.given_up().contains(pipeline.as_str()) {
                continue;
            } else if let Some(known) = self.known_of_topic(pipeline.as_str(), &why) {
                world.note(&life.process.name, &format!("{pipeline} halts: {why}"));
                if !known {
                    world.give_up(pipeline.as_str(), &why);
                    continue;
                }
            } else if due || rolled_back {
                world.note(&life.process.name, &format!("{pipeline} halts: {why}"));
                if rolled_back && policy == OnRollback::Rewind && world.happens(30) {
                    world.cover("operator × keep after all");
                    self.adopt(OnRollback::Keep);
                } else if !(world.happens(90)
                    && operator::way_out(world, &self.scenario, pipeline.as_str(), &why).await)
                    && due
                {
                    world.give_up(pipeline.as_str(), &why);
                    continue;
                }
            } else {
                world.violation(format!("{}: pipeline {pipeline} halts: {why}", life.process.name));
            }
            return true;
        }
        false
    }

    /// Whether there is a way out of a halt that says what has become of a topic. `None` where it says something else, or what is
    /// not so.
    fn known_of_topic(&self, pipeline: &str, why: &str) -> Option<bool> {
        let (world, topic) = (&self.world, topic::lock(&self.topics.get(pipeline)?.0));
        if why.contains("were removed before they were read") && topic.has_gaps() {
            world.cover("operator × passes over what is gone");
            self.policy.held().1 = OnGap::Skip;
            return Some(true);
        }
        if why.contains("this is another log") && topic.is_another(world) {
            world.cover("topic × is known as another");
            return Some(false);
        }
        None
    }

    fn adopt(&self, policy: OnRollback) {
        self.world.with_auditor(|a| a.keep(policy == OnRollback::Keep));
        self.policy.set(policy);
    }

    /// Ends a life: it is dead already, or is asked to stop and given its time.
    async fn end(&self, life: Life) {
        let Life { process, stop, mut task, .. } = life;
        stop.cancel();
        let ended = tokio::select! {
            biased;
            () = process.death() => None,
            ended = &mut task => Some(ended),
            () = tokio::time::sleep(Duration::from_secs(900)) => {
                self.world.violation(format!("{} does not stop within 15 minutes of being asked", process.name));
                None
            }
        };
        match ended {
            None => {
                process.kill();
                task.abort();
                self.world.note(&process.name, "is dead");
                self.world.cover("operator × crash");
            }
            Some(ended) => {
                self.world.note(&process.name, &format!("has ended: {ended:?}"));
                self.world.cover("operator × orderly end");
            }
        }
        // Whatever an orderly end leaves unfinished in its tasks ends here too.
        process.kill();
        let env = &self.world.env;
        self.disk.crash_keeping(|_, unsynced| usize::try_from(env.below(unsynced as u64 + 1)).unwrap_or(0));
    }

    /// The last life: runs until every pipeline is at its end, and on until what was left behind may be gone.
    pub async fn recover(&mut self, within: Duration, grace: Duration) {
        let world = Arc::clone(&self.world);
        let end = world.clock.elapsed() + within;
        if self.scenario.attempts > 0 {
            // What is left of the sources is to be in before long.
            self.scenario.rate = None;
        }
        loop {
            let mut life = self.begin(u64::MAX);
            loop {
                self.watched(&mut life, LOOK, u64::MAX).await;
                let health = life.health.pipelines();
                let given_up = world.given_up();
                let mut watched = health.iter().filter(|(name, _)| name.as_str() != IDLER);
                let over = |(name, h): (&PipelineName, &PipelineHealth)| {
                    *h == PipelineHealth::Finished || given_up.contains(name.as_str())
                };
                if !health.is_empty() && watched.all(over) {
                    world.note(&life.process.name, "is at rest");
                    // A proof needs a table that goes on, also after the other instance has come to rest.
                    for rest in [grace / 4, grace - grace / 4] {
                        for table in self.scenario.tables() {
                            foreign::act(&world, &table, foreign::Deed::Append).await;
                        }
                        tokio::time::sleep(rest).await;
                    }
                    self.bounded(&life);
                    let amiss = bounds::kept(&life.metrics)
                        .or_else(|| bounds::lost(&life.metrics, &life.lost))
                        .or_else(|| bounds::unaccounted(&life.metrics));
                    if let Some(what) = amiss {
                        world.violation(format!("{}: {what}", life.process.name));
                    }
                    self.end(life).await;
                    return;
                }
                if world.clock.elapsed() > end {
                    world.violation(format!(
                        "{} is not at rest {within:?} after the faults stopped: {health:?}",
                        life.process.name
                    ));
                    return;
                }
                if life.task.is_finished()
                    || health
                        .iter()
                        .any(|(name, h)| matches!(h, PipelineHealth::Halted(_)) && !given_up.contains(name.as_str()))
                {
                    break;
                }
            }
            self.end(life).await;
            tokio::time::sleep(LOOK).await;
        }
    }
}
