//! Maintenance beside ingest: tables that a policy names are looked at now and then, and what is due is done, what helps readers
//! most for its work first, within a budget of cores and memory that is ingest's too.
//!
//! One task decides; looks and jobs are tasks of their own, so that one that hangs holds up no other. A table that fails is tried
//! again after longer and longer times.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::task::{Id, JoinError, JoinSet};
use tokio_util::sync::CancellationToken;

use crate::api::{Health, JobHealth};
use crate::catalog::listing::tables_below;
use crate::config::{Config, MaintenanceConfig};
use crate::daemon::tables::Shared;
use crate::env::Env;
use crate::error::{Error, ErrorKind, Result};
use crate::maintain::leftovers::Leftovers;
use crate::maintain::round::{Options, Round, TableReport};
use crate::maintain::upkeep::{Consent, Job, Look, Step};
use crate::model::ids::TableName;
use crate::storage::disk::{Disk, PartOfDisk};
use crate::telemetry::metrics::Metrics;
use crate::write::budget::{Grant, Wanted};

/// How often the tables of the catalogs are listed.
const LIST_EVERY: Duration = Duration::from_secs(60);
/// How often it is asked which tables this process writes to: they are there before a listing names them.
const ASK_EVERY: Duration = Duration::from_secs(5);
/// A new table is looked at within this time, so that a start is no burst.
const FIRST_LOOK: Duration = Duration::from_secs(10);
/// How often it is asked whether memory is free now.
const MEMORY_POLL: Duration = Duration::from_millis(250);
/// The wait after the first failure, and the longest.
const FAILED_MIN: Duration = Duration::from_secs(30);
const FAILED_MAX: Duration = Duration::from_secs(6 * 3_600);
/// Words of a table's last jobs that are shown.
const WORDS_MAX: usize = 8;

/// A table, with the place of its catalog.
type Key = (usize, TableName);

/// What a table waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Idle,
    Looking,
    /// Something is due: what is gained for its work, and whether files are rewritten.
    Queued {
        worth: u64,
        heavy: bool,
    },
    Running,
}

#[derive(Debug)]
struct Entry {
    state: State,
    due_ms: i64,
    every: Duration,
    failures: u32,
    last: Vec<String>,
}

/// What a task ended with.
enum Event {
    Listed(usize, Result<Vec<TableName>>),
    Looked(Key, Box<Result<Look>>),
    Kept(Key, TableReport, Duration),
}

/// The jobs of a daemon.
pub(crate) struct Jobs {
    env: Env,
    shared: Shared,
    rounds: Vec<Round>,
    leftovers: Arc<Leftovers>,
    settings: MaintenanceConfig,
    metrics: Metrics,
    health: Health,
    tables: BTreeMap<Key, Entry>,
    list_ms: i64,
    running: JoinSet<Event>,
    /// What each task is about.
    tasks: BTreeMap<Id, Option<Key>>,
    wanted: Option<Wanted>,
}

impl Jobs {
    /// The jobs that the configuration asks for; `disk` keeps what is under way.
    ///
    /// # Errors
    /// Those of the disk.
    pub(crate) async fn new(
        config: &Config,
        shared: &Shared,
        disk: &Arc<dyn Disk>,
        metrics: Metrics,
        health: Health,
    ) -> Result<Self> {
        let part = |prefix| Arc::new(PartOfDisk::new(Arc::clone(disk), prefix)) as Arc<dyn Disk>;
        let leftovers = Arc::new(Leftovers::open(part("jobs-")).await?);
        let notes = part("jobs-");
        let settings = config.maintenance;
        #[allow(clippy::cast_precision_loss)] // a handful of threads
        let env = shared.env.paced(settings.cpu * config.limits.workers.max(1) as f64);
        let options = Options {
            loads: settings.loads,
            parallel: settings.parallel,
            memory: settings.memory,
            claim: settings.claim,
            consent: Consent::Named,
        };
        let round = |(name, catalog): (&String, &Arc<dyn crate::catalog::Catalog>)| Round {
            env: env.clone(),
            name: name.clone(),
            catalog: Arc::clone(catalog),
            storage: shared.storage.clone(),
            traffic: shared.traffic.clone(),
            instance: shared.instance.to_string(),
            holder: shared.instance.to_string(),
            policies: Arc::new(config.policies.clone()),
            leftovers: Arc::clone(&leftovers),
            notes: Arc::clone(&notes),
            options,
        };
        Ok(Self {
            env: shared.env.clone(),
            shared: shared.clone(),
            rounds: shared.catalogs.iter().map(round).collect(),
            leftovers: Arc::clone(&leftovers),
            settings,
            metrics,
            health,
            tables: BTreeMap::new(),
            list_ms: i64::MIN,
            running: JoinSet::new(),
            tasks: BTreeMap::new(),
            wanted: None,
        })
    }

    /// Runs until `stop` is cancelled; then what is begun is brought to a good place, for as long as `grace` lasts. What is cut
    /// off is in the ledger, and cleaned up under proof by the next process.
    pub(crate) async fn run(mut self, stop: CancellationToken, grace: Duration) {
        self.show();
        loop {
            self.begin(&stop);
            let wait = self.until_next();
            tokio::select! {
                biased;
                () = stop.cancelled() => break,
                Some(ended) = self.running.join_next_with_id(), if !self.running.is_empty() => self.take(ended),
                () = self.env.sleep(wait) => {}
            }
        }
        self.wanted = None;
        let env = self.env.clone();
        let ended = async {
            while let Some(ended) = self.running.join_next_with_id().await {
                self.take(ended);
            }
        };
        if env.timeout(grace, ended).await.is_none() {
            tracing::warn!("jobs are cut off: what they staged is cleaned up after the next start");
            self.running.shutdown().await;
        }
        if let Err(error) = self.leftovers.ledger().sync().await {
            tracing::warn!("the next process looks once more at what jobs have settled: {error}");
        }
    }

    /// Starts what is due and fits.
    fn begin(&mut self, stop: &CancellationToken) {
        let now = self.env.now_ms();
        if self.list_ms <= now {
            self.list_ms = self.after(now, LIST_EVERY);
            for at in 0..self.rounds.len() {
                let catalog = Arc::clone(&self.rounds[at].catalog);
                self.spawn(None, async move { Event::Listed(at, tables_below(&catalog, &[]).await) });
            }
        }
        for (catalog, table) in self.shared.written_to() {
            if let Some(at) = self.rounds.iter().position(|round| round.name == catalog) {
                self.add(at, table);
            }
        }
        let looking = self.tables.values().filter(|entry| entry.state == State::Looking).count();
        let due = self.tables.iter().filter(|(_, entry)| entry.state == State::Idle && entry.due_ms <= now);
        let due: Vec<Key> = due.map(|(key, _)| key.clone()).take(self.settings.loads.saturating_sub(looking)).collect();
        for key in due {
            self.set(&key, State::Looking);
            let round = self.rounds[key.0].clone();
            self.spawn(Some(key.clone()), async move {
                let look = round.look(&key.1).await;
                Event::Looked(key, Box::new(look))
            });
        }
        while let Some((key, grant)) = self.next() {
            self.set(&key, State::Running);
            let (round, env, cancel) = (self.rounds[key.0].clone(), self.env.clone(), stop.clone());
            self.spawn(Some(key.clone()), async move {
                let begun = env.now_ms();
                let report = round.keep_up(key.1.clone(), &cancel).await;
                let took = u64::try_from(env.now_ms().saturating_sub(begun)).unwrap_or(0);
                drop(grant);
                Event::Kept(key, report, Duration::from_millis(took))
            });
        }
        self.show();
    }

    /// The table that is worth most of those that may begin now, with the memory that it needs.
    fn next(&mut self) -> Option<(Key, Option<Grant>)> {
        let running = self.tables.values().filter(|entry| entry.state == State::Running).count();
        let queued = |wanted: bool| {
            let of = move |(key, entry): (&Key, &Entry)| match entry.state {
                State::Queued { worth, heavy } if heavy == wanted => Some((worth, key.clone())),
                _ => None,
            };
            self.tables.iter().filter_map(of).max_by(|(a, x), (b, y)| a.cmp(b).then_with(|| y.cmp(x)))
        };
        // One more place for what needs no memory, so that a long rewrite holds up no expiry.
        if running > self.settings.parallel {
            return None;
        }
        let (heavy, light) = (queued(true), queued(false));
        if let Some((_, key)) = heavy.filter(|_| running < self.settings.parallel) {
            let bytes = self.settings.memory / self.settings.parallel.max(1) as u64;
            let wanted = self.wanted.take().unwrap_or_else(|| self.shared.budget.want(bytes));
            match wanted.take() {
                Ok(grant) => return Some((key, Some(grant))),
                Err(wanted) => self.wanted = Some(wanted),
            }
        }
        light.map(|(_, key)| (key, None))
    }

    fn until_next(&self) -> Duration {
        if self.wanted.is_some() {
            return MEMORY_POLL;
        }
        let idle = self.tables.values().filter(|entry| entry.state == State::Idle).map(|entry| entry.due_ms);
        let next = idle.chain([self.list_ms]).min().unwrap_or(i64::MAX);
        let wait = next.saturating_sub(self.env.now_ms()).max(1);
        Duration::from_millis(u64::try_from(wait).unwrap_or(1)).min(ASK_EVERY)
    }

    fn take(&mut self, ended: std::result::Result<(Id, Event), JoinError>) {
        match ended {
            Ok((id, event)) => {
                self.tasks.remove(&id);
                match event {
                    Event::Listed(at, tables) => self.listed(at, tables),
                    Event::Looked(key, look) => self.looked(&key, *look),
                    Event::Kept(key, report, took) => self.kept(&key, report, took),
                }
            }
            Err(error) => {
                if let Some(Some(key)) = self.tasks.remove(&error.id()) {
                    let failed = Error::new(ErrorKind::Internal, "its task failed").with_source(error);
                    self.failed(&key, vec![Step::failed(Job::Look, failed)]);
                }
            }
        }
        self.show();
    }

    fn listed(&mut self, at: usize, tables: Result<Vec<TableName>>) {
        let round = &self.rounds[at];
        let tables = match tables {
            Ok(tables) => tables,
            Err(error) => {
                tracing::warn!(catalog = round.name, hint = error.hint(), "its tables cannot be listed: {error}");
                return;
            }
        };
        let named: Vec<TableName> =
            tables.into_iter().filter(|table| round.policies.names(&round.name, table)).collect();
        self.tables.retain(|(own, table), entry| *own != at || entry.state != State::Idle || named.contains(table));
        for table in named {
            self.add(at, table);
        }
    }

    /// Takes care of a table from now on, if a policy names it.
    fn add(&mut self, at: usize, table: TableName) {
        let round = &self.rounds[at];
        let key = (at, table);
        if self.tables.contains_key(&key) || !round.policies.names(&round.name, &key.1) {
            return;
        }
        let first = u64::try_from(FIRST_LOOK.as_millis()).unwrap_or(u64::MAX);
        let first = i64::try_from(self.env.below(first)).unwrap_or(0);
        let due_ms = self.env.now_ms().saturating_add(first);
        let entry = Entry { state: State::Idle, due_ms, every: LIST_EVERY, failures: 0, last: Vec::new() };
        self.tables.insert(key, entry);
    }

    fn looked(&mut self, key: &Key, look: Result<Look>) {
        let look = match look {
            Ok(look) => look,
            // Its pipeline creates it with the first rows, or it was dropped: then the next listing leaves it out.
            Err(error) if error.kind() == ErrorKind::NotFound => {
                tracing::debug!(table = %key.1, "not looked after: {error}");
                let due_ms = self.after(self.env.now_ms(), LIST_EVERY);
                if let Some(entry) = self.tables.get_mut(key) {
                    (entry.state, entry.due_ms) = (State::Idle, due_ms);
                }
                return;
            }
            Err(error) => return self.failed(key, vec![Step::failed(Job::Look, error)]),
        };
        self.metrics.table_debt(&key.1.to_string(), look.gain);
        let (next_ms, every) = (look.next_ms, look.every);
        if look.is_due() {
            let state = State::Queued { worth: look.worth(), heavy: look.compact.is_some() };
            if let Some(entry) = self.tables.get_mut(key) {
                (entry.every, entry.state) = (every, state);
            }
            return;
        }
        if let Some(entry) = self.tables.get_mut(key) {
            entry.every = every;
        }
        self.finish(key, look.steps(), next_ms);
    }

    fn kept(&mut self, key: &Key, report: TableReport, took: Duration) {
        let table = key.1.to_string();
        self.metrics.job_duration(&table, took);
        for step in &report.steps {
            let own = step.figures;
            self.metrics.rewritten(&table, own.files_in, own.bytes_in, own.bytes_copied);
            self.metrics.remapped(&table, own.remapped);
            self.metrics.removed(&table, own.snapshots, own.files_deleted);
        }
        self.finish(key, report.steps, report.next_ms);
    }

    /// Notes what became of a table, and when it is looked at again.
    fn finish(&mut self, key: &Key, steps: Vec<Step>, next_ms: Option<i64>) {
        if steps.iter().any(Step::has_failed) {
            return self.failed(key, steps);
        }
        self.tell(key, &steps);
        let now = self.env.now_ms();
        let Some(every) = self.tables.get(key).map(|entry| entry.every) else { return };
        let due_ms = self.after(now, every);
        if let Some(entry) = self.tables.get_mut(key) {
            entry.due_ms = next_ms.map_or(due_ms, |next| next.max(now).saturating_add(1).min(due_ms));
            entry.failures = 0;
            entry.state = State::Idle;
        }
    }

    fn failed(&mut self, key: &Key, steps: Vec<Step>) {
        self.tell(key, &steps);
        let failures = self.tables.get(key).map_or(0, |entry| entry.failures);
        let wait = self.env.backoff(FAILED_MIN, FAILED_MAX, failures);
        let due_ms = self.env.now_ms().saturating_add(i64::try_from(wait.as_millis()).unwrap_or(i64::MAX));
        if let Some(entry) = self.tables.get_mut(key) {
            entry.failures = failures.saturating_add(1);
            entry.due_ms = due_ms;
            entry.state = State::Idle;
        }
    }

    fn tell(&mut self, key: &Key, steps: &[Step]) {
        let table = key.1.to_string();
        for step in steps {
            let (job, end) = (step.job.as_str(), step.end.as_str());
            self.metrics.job(&table, job, end);
            match step.error() {
                Some(error) => {
                    let runbook = error.kind().runbook();
                    tracing::warn!(table, job, runbook, hint = error.hint(), "maintenance failed: {error}");
                }
                None if step.is_done() => tracing::info!(table, job, "{}", step.words),
                None => tracing::debug!(table, job, end, "{}", step.words),
            }
        }
        if let Some(entry) = self.tables.get_mut(key).filter(|_| !steps.is_empty()) {
            let words = |step: &Step| format!("{} {}: {}", step.job.as_str(), step.end.as_str(), step.words);
            entry.last = steps.iter().take(WORDS_MAX).map(words).collect();
        }
    }

    /// Then, give or take a tenth, so that tables and daemons spread out.
    fn after(&self, now_ms: i64, every: Duration) -> i64 {
        let every = u64::try_from(every.as_millis()).unwrap_or(u64::MAX);
        let wait = (every - every / 10).saturating_add(self.env.below(every / 5 + 1));
        now_ms.saturating_add(i64::try_from(wait).unwrap_or(i64::MAX))
    }

    fn set(&mut self, key: &Key, state: State) {
        if let Some(entry) = self.tables.get_mut(key) {
            entry.state = state;
        }
    }

    fn spawn(&mut self, key: Option<Key>, work: impl Future<Output = Event> + Send + 'static) {
        let task = self.running.spawn(work);
        self.tasks.insert(task.id(), key);
    }

    fn show(&self) {
        let count = |wanted: fn(State) -> bool| self.tables.values().filter(|entry| wanted(entry.state)).count();
        self.metrics.jobs(count(|s| s == State::Running), count(|s| matches!(s, State::Queued { .. })));
        let shown = |((at, table), entry): (&Key, &Entry)| {
            let state = match entry.state {
                State::Running => "running",
                State::Queued { .. } => "queued",
                State::Idle | State::Looking if entry.failures > 0 => "failing",
                State::Idle | State::Looking => "idle",
            };
            let job = JobHealth { state, last: entry.last.clone(), next_ms: entry.due_ms, failures: entry.failures };
            (format!("{}.{table}", self.rounds[*at].name), job)
        };
        self.health.set_jobs(self.tables.iter().map(shown).collect());
    }
}

#[cfg(test)]
mod tests;
