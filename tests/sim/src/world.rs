//! The world outside all processes: time, the true catalog and store, chance, and the trace of what happened.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fmt::Write as _;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use frazil::catalog::memory::MemoryCatalog;
use frazil::catalog::{Catalog, CreateTable, Outcome, PreparedCommit};
use frazil::env::Env;
use frazil::error::{Error, ErrorKind};
use frazil::model::ids::TableName;
use frazil::model::table::TableState;
use frazil::storage::MemoryStore;
use iceberg::TableUpdate;
use object_store::path::Path;
use object_store::{ObjectStore, PutOptions, PutPayload};

use crate::audit::Auditor;
use crate::process::VirtualClock;

/// Where tables are created.
pub const WAREHOUSE: &str = "memory:///wh";
/// Whether every event is told as it happens: for seeds that do not end.
pub static LIVE: AtomicBool = AtomicBool::new(false);

/// States kept to be given out once more, stale.
const STALE_MAX: usize = 6;

/// How much goes wrong, in percent of the calls.
#[derive(Debug, Clone, Copy, Default)]
pub struct Rates {
    /// Catalog calls.
    pub catalog: u64,
    /// Store calls.
    pub store: u64,
    /// Disk calls.
    pub disk: u64,
    /// Loads that may be answered from the past.
    pub stale: u64,
}

/// Everything that all processes of one seed share.
#[derive(Debug)]
pub struct World {
    /// The seed.
    pub seed: u64,
    /// True time.
    pub clock: VirtualClock,
    /// True catalog.
    pub truth: MemoryCatalog,
    /// True store.
    pub objects: MemoryStore,
    /// The world's own chance; processes have theirs.
    pub env: Env,
    inner: Mutex<Inner>,
    /// Whoever reads back what is there.
    pub auditor: Mutex<Auditor>,
    wrong: tokio::sync::Notify,
}

#[derive(Debug, Default)]
struct Inner {
    rates: Rates,
    trace: Vec<String>,
    hash: u64,
    violation: Option<String>,
    past: BTreeMap<TableName, VecDeque<(Duration, TableState)>>,
    coverage: BTreeMap<String, u64>,
    attempts: u64,
    given_up: BTreeSet<String>,
}

impl World {
    /// An empty world, to be made on the simulation's thread.
    pub fn new(seed: u64, rates: Rates) -> Arc<Self> {
        let clock = VirtualClock::start();
        let env = Env::simulated(Arc::new(clock), seed ^ 0x5eed);
        Arc::new(Self {
            seed,
            clock,
            truth: MemoryCatalog::new(env.clone(), WAREHOUSE),
            objects: MemoryStore::new(env.clone()),
            env,
            inner: Mutex::new(Inner { rates, hash: 0xcbf2_9ce4_8422_2325, ..Inner::default() }),
            auditor: Mutex::default(),
            wrong: tokio::sync::Notify::new(),
        })
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether something happens that has `percent` percent of chance.
    pub fn happens(&self, percent: u64) -> bool {
        percent > 0 && self.env.below(100) < percent
    }

    /// A time below `max`.
    pub fn time(&self, max: Duration) -> Duration {
        Duration::from_millis(self.env.below(u64::try_from(max.as_millis()).unwrap_or(u64::MAX)))
    }

    /// The rates of faults.
    pub fn rates(&self) -> Rates {
        self.inner().rates
    }

    /// From now on nothing goes wrong any more, but for what is under way.
    pub fn calm(&self) {
        self.note("world", "the faults stop");
        self.inner().rates = Rates::default();
    }

    /// Adds an event to the trace.
    pub fn note(&self, actor: &str, event: &str) {
        let at = self.clock.elapsed().as_millis();
        let mut inner = self.inner();
        let mut line = String::new();
        let _ = write!(line, "{:>5} {:>10}.{:03} {actor:<8} {event}", inner.trace.len(), at / 1000, at % 1000);
        for byte in line.bytes() {
            inner.hash = (inner.hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
        }
        if LIVE.load(Ordering::Relaxed) {
            eprintln!("{line}");
        }
        inner.trace.push(line);
    }

    /// Counts that something was met.
    pub fn cover(&self, what: impl Into<String>) {
        *self.inner().coverage.entry(what.into()).or_default() += 1;
    }

    /// Something is not as it must be. The first violation counts.
    pub fn violation(&self, what: String) {
        self.note("oracle", &format!("VIOLATION {what}"));
        self.inner().violation.get_or_insert(what);
        self.wrong.notify_waiters();
        self.wrong.notify_one();
    }

    /// The violation.
    pub fn violated(&self) -> Option<String> {
        self.inner().violation.clone()
    }

    /// A pipeline has halted as the protocol asks, and stays so.
    pub fn give_up(&self, pipeline: &str, why: &str) {
        if self.inner().given_up.insert(pipeline.to_owned()) {
            self.note("operator", &format!("{pipeline} is given up: {why}"));
            self.cover("operator × pipeline given up");
        }
    }

    /// Pipelines that were given up.
    pub fn given_up(&self) -> BTreeSet<String> {
        self.inner().given_up.clone()
    }

    /// Returns with the first violation.
    pub async fn wrong(&self) {
        while self.inner().violation.is_none() {
            self.wrong.notified().await;
        }
    }

    /// The trace, its hash, what was covered, and how many commits were attempted.
    pub fn story(&self) -> (Vec<String>, u64, BTreeMap<String, u64>, u64) {
        let inner = self.inner();
        (inner.trace.clone(), inner.hash, inner.coverage.clone(), inner.attempts)
    }

    /// The table as it is.
    pub async fn load(&self, table: &TableName) -> frazil::error::Result<TableState> {
        self.truth.load(table).await
    }

    /// A state of the last `age`, older than the newest one, if there is one.
    pub fn stale(&self, table: &TableName, age: Duration) -> Option<TableState> {
        let now = self.clock.elapsed();
        let inner = self.inner();
        let past = inner.past.get(table)?;
        let old: Vec<_> = past.iter().rev().skip(1).take_while(|(at, _)| now.saturating_sub(*at) < age).collect();
        let pick = self.env.below(old.len() as u64);
        old.get(usize::try_from(pick).unwrap_or(0)).map(|(_, state)| state.clone())
    }

    /// A commit arrives at the catalog. All oracles are asked before anything else happens.
    pub async fn arrives(&self, actor: &str, commit: &PreparedCommit) -> Outcome {
        self.inner().attempts += 1;
        let outcome = self.truth.commit(commit).await;
        let what = describe(commit);
        match &outcome {
            Outcome::Committed(state) => {
                self.note(
                    actor,
                    &format!("{} is at seq {}: {what}", state.name, state.metadata.last_sequence_number()),
                );
                self.changed(actor, state).await;
            }
            Outcome::Refused(error) => {
                let source = std::error::Error::source(error).map_or(String::new(), |s| format!(": {s}"));
                self.note(actor, &format!("{} refuses {what}: {error}{source}", commit.table));
            }
            other => self.note(actor, &format!("{}: {other:?}", commit.table)),
        }
        outcome
    }

    /// A creation arrives at the catalog.
    pub async fn creates(&self, actor: &str, table: &CreateTable) -> Outcome {
        let outcome = self.truth.create(table).await;
        match &outcome {
            Outcome::Committed(state) => {
                self.note(actor, &format!("{} is created, format {:?}", state.name, state.metadata.format_version()));
                self.changed(actor, state).await;
            }
            other => self.note(actor, &format!("{} is not created: {other:?}", table.name)),
        }
        outcome
    }

    async fn changed(&self, actor: &str, state: &TableState) {
        {
            let mut inner = self.inner();
            let at = self.clock.elapsed();
            let past = inner.past.entry(state.name.clone()).or_default();
            past.push_back((at, state.clone()));
            if past.len() > STALE_MAX {
                past.pop_front();
            }
        }
        let location = state.metadata_location.clone().unwrap_or_default();
        let Some(document) = self.truth.document(&location) else {
            self.violation(format!("no metadata document at {location}"));
            return;
        };
        let _ = self.objects.put_opts(&key(&location), PutPayload::from(document.clone()), PutOptions::default()).await;
        if let Err(what) = self.audit(actor, state, &document).await {
            self.violation(what);
        }
    }

    async fn audit(&self, actor: &str, state: &TableState, document: &bytes::Bytes) -> Result<(), String> {
        // Nobody else runs in between: neither catalog nor store waits for anything.
        let mut auditor = std::mem::take(&mut *self.auditor.lock().unwrap_or_else(PoisonError::into_inner));
        let told = auditor.changed(self, actor, state, document).await;
        *self.auditor.lock().unwrap_or_else(PoisonError::into_inner) = auditor;
        told
    }

    /// Works with the auditor.
    pub fn with_auditor<T>(&self, work: impl FnOnce(&mut Auditor) -> T) -> T {
        work(&mut self.auditor.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Whether a branch was ever rolled back.
    pub fn rolled_back(&self) -> bool {
        self.with_auditor(|auditor| auditor.rollbacks > 0)
    }

    /// Somebody deletes an object.
    pub fn deletes(&self, actor: &str, path: &Path) {
        self.note(actor, &format!("deletes {}", short(path.as_ref())));
        let named = self.with_auditor(|auditor| auditor.names(path.as_ref()));
        if let Some(who) = named {
            self.violation(format!("{actor} deleted {path}, which {who} names"));
        }
    }
}

/// The store's key of a location.
pub fn key(location: &str) -> Path {
    Path::from(location.trim_start_matches("memory:///"))
}

/// The end of a path, which is enough to tell it.
pub fn short(path: &str) -> &str {
    let from = path.len().saturating_sub(40);
    path.get(from..).unwrap_or(path)
}

/// An answer that did not come.
pub fn lost() -> Error {
    Error::new(ErrorKind::Unavailable, "connection reset")
}

/// One line for a commit.
pub fn describe(commit: &PreparedCommit) -> String {
    let parts: Vec<String> = commit
        .updates
        .iter()
        .map(|update| match update {
            TableUpdate::AddSnapshot { snapshot } => format!(
                "{:?} snapshot {:x} on {:x}",
                snapshot.summary().operation,
                snapshot.snapshot_id(),
                snapshot.parent_snapshot_id().unwrap_or(0)
            ),
            TableUpdate::SetSnapshotRef { ref_name, reference } => format!("{ref_name} to {:x}", reference.snapshot_id),
            TableUpdate::RemoveSnapshots { snapshot_ids } => format!("remove {} snapshots", snapshot_ids.len()),
            TableUpdate::SetProperties { updates } => {
                let mut keys: Vec<&str> = updates.keys().map(String::as_str).collect();
                keys.sort_unstable();
                format!("set {}", keys.join(" "))
            }
            TableUpdate::RemoveProperties { removals } => format!("reset {}", removals.join(" ")),
            TableUpdate::AddSchema { schema } => format!("schema up to {}", schema.highest_field_id()),
            TableUpdate::SetCurrentSchema { .. } => "current schema".to_owned(),
            TableUpdate::RemoveSnapshotRef { ref_name } => format!("drop {ref_name}"),
            _ => "other".to_owned(),
        })
        .collect();
    parts.join(", ")
}
