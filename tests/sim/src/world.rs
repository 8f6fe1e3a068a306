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
use iceberg::spec::Operation;
use iceberg::{TableRequirement, TableUpdate};
use object_store::path::Path;
use object_store::{ObjectStore, PutOptions, PutPayload};

use crate::audit::Auditor;
use crate::expirer;
use crate::foreign::{self, Deed, Habits};
use crate::maintainer;
use crate::operator;
use crate::process::VirtualClock;
use crate::scenario::Scenario;

/// Where tables are created.
pub const WAREHOUSE: &str = "memory:///wh";
/// Whether every event is told as it happens: for seeds that do not end.
pub static LIVE: AtomicBool = AtomicBool::new(false);

/// After so long a table counts as idle.
const IDLE: Duration = Duration::from_secs(2 * 86_400);

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
    /// Whether the catalog takes five seconds for each answer, and asks every second commit to come later.
    pub slow: bool,
    /// Commits of ours before which the foreign engine gets one of its own in.
    pub intrusions: u64,
}

/// What the daemons of a seed asked of catalog and store.
#[derive(Debug, Clone, Copy, Default)]
pub struct Figures {
    /// Commits sent.
    pub attempts: u64,
    /// Commits of theirs that came in.
    pub commits: u64,
    /// Loads of tables.
    pub loads: u64,
    /// Reads from the store, listings included.
    pub reads: u64,
    /// Those of manifest lists.
    pub lists: u64,
    /// Those of manifests.
    pub manifests: u64,
    /// Those of a list or manifest that was read before, whoever read it.
    pub reads_again: u64,
    /// Data files written, and their bytes.
    pub data_files: u64,
    /// Bytes of them.
    pub data_bytes: u64,
    /// Other objects written.
    pub metadata_files: u64,
    /// Bytes of them.
    pub metadata_bytes: u64,
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
    /// The branch that the pipelines write to.
    pub target: String,
    habits: Habits,
    /// Whether an epoch feeds more than its anchor.
    seals: bool,
    inner: Mutex<Inner>,
    /// Whoever reads back what is there.
    pub auditor: Mutex<Auditor>,
    wrong: tokio::sync::Notify,
}

/// A snapshot that a process has sent.
#[derive(Debug)]
struct Sent {
    table: TableName,
    list: String,
    seq: i64,
    /// Whether a load since has shown a state that it fits; loads of other tasks may show newer ones. None yet: nothing.
    fits: Option<bool>,
}

#[derive(Debug, Default)]
struct Inner {
    rates: Rates,
    trace: Vec<String>,
    hash: u64,
    violation: Option<String>,
    past: BTreeMap<TableName, VecDeque<(Duration, TableState)>>,
    coverage: BTreeMap<String, u64>,
    given_up: BTreeSet<String>,
    /// Steps that are left out of the story, by their numbers.
    without: BTreeSet<u64>,
    steps: u64,
    /// Whether the faults have stopped.
    calm: bool,
    /// The last fault that an instance's commit to a table met.
    last_fault: BTreeMap<(String, TableName), String>,
    /// What a snapshot was first submitted on: parent and schema.
    first_base: BTreeMap<i64, (Option<i64>, Option<i32>)>,
    figures: Figures,
    landed: u64,
    /// Objects that were read.
    read: BTreeSet<Path>,
    /// When objects were first written.
    born: BTreeMap<Path, Duration>,
    /// What a process last sent for a snapshot.
    sent: BTreeMap<(String, i64), Sent>,
    expirer_shown: BTreeMap<TableName, TableState>,
    /// When a daemon last committed to a table.
    last_ours: BTreeMap<TableName, Duration>,
    /// How often an instance has written a checkpoint to a table.
    wrote: BTreeMap<(char, uuid::Uuid, String), u64>,
}

impl World {
    /// An empty world, to be made on the simulation's thread.
    pub fn new(seed: u64, scenario: &Scenario, without: &BTreeSet<u64>) -> Arc<Self> {
        let clock = VirtualClock::start();
        let env = Env::simulated(Arc::new(clock), seed ^ 0x5eed);
        Arc::new(Self {
            seed,
            clock,
            truth: MemoryCatalog::new(env.clone(), WAREHOUSE),
            objects: MemoryStore::new(env.clone()),
            env,
            target: scenario.target.to_owned(),
            habits: scenario.habits.clone(),
            seals: scenario.seals(),
            inner: Mutex::new(Inner {
                rates: scenario.rates,
                hash: 0xcbf2_9ce4_8422_2325,
                without: without.clone(),
                ..Inner::default()
            }),
            auditor: Mutex::new(Auditor::of(scenario.target)),
            wrong: tokio::sync::Notify::new(),
        })
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether nobody removes the checkpoints of this table: an anchor that is rolled back as well knows of no table beside it.
    pub fn keeps_records(&self, table: &TableName) -> bool {
        let rolls = [Deed::RollBack, Deed::RewindByOperator, Deed::KeepByOperator];
        self.seals
            && rolls.iter().any(|deed| self.habits.contains_key(deed))
            && self.with_auditor(|a| a.pipelines.iter().any(|p| p.anchor == *table))
    }

    /// Whether something happens that has `percent` percent of chance.
    pub fn happens(&self, percent: u64) -> bool {
        percent > 0 && self.env.below(100) < percent
    }

    /// A step that the story may do without: a fault, a deed, a crash. Says whether it happens.
    pub fn step(&self) -> bool {
        let mut inner = self.inner();
        inner.steps += 1;
        !inner.without.contains(&inner.steps)
    }

    /// Steps so far, those left out included.
    pub fn steps(&self) -> u64 {
        self.inner().steps
    }

    /// An instance's commit met a fault, or none.
    pub fn met_fault(&self, process: &str, table: &TableName, fault: String) {
        let instance = process.trim_end_matches(|c: char| c.is_ascii_digit()).to_owned();
        self.inner().last_fault.insert((instance, table.clone()), fault);
    }

    /// Commits that daemons have sent.
    pub fn attempts(&self) -> u64 {
        self.inner().figures.attempts
    }

    /// Commits of whomever that came in.
    pub fn landed(&self) -> u64 {
        self.inner().landed
    }

    /// A daemon sends a commit: counted, and remembered by what it stands on.
    pub fn sends(&self, commit: &PreparedCommit) {
        let mut inner = self.inner();
        inner.figures.attempts += 1;
        if let Some((id, parent, schema)) = stands_on(commit) {
            inner.first_base.entry(id).or_insert((parent, schema));
        }
    }

    /// The identical body goes again only while the table's sequence number is what it assumed.
    pub fn sends_again(&self, process: &str, commit: &PreparedCommit) {
        let added = commit.updates.iter().find_map(|update| match update {
            TableUpdate::AddSnapshot { snapshot } => Some(snapshot),
            _ => None,
        });
        let Some(snapshot) = added else { return };
        let (id, seq, list) = (snapshot.snapshot_id(), snapshot.sequence_number(), snapshot.manifest_list().to_owned());
        let sent = Sent { table: commit.table.clone(), list, seq, fits: None };
        let before = self.inner().sent.insert((process.to_owned(), id), sent);
        if before.is_some_and(|before| before.list == snapshot.manifest_list() && before.fits == Some(false)) {
            self.violation(format!(
                "{process} sends snapshot {id:x} once more with sequence number {seq}, which it was shown to be past"
            ));
        }
    }

    /// A load was answered.
    pub fn shows(&self, process: &str, state: &TableState) {
        let (mut inner, last) = (self.inner(), state.metadata.last_sequence_number());
        inner.figures.loads += 1;
        for (_, sent) in inner.sent.iter_mut().filter(|((by, _), sent)| by == process && sent.table == state.name) {
            sent.fits = Some(sent.fits == Some(true) || last < sent.seq);
        }
        if process.starts_with(expirer::NAME) {
            inner.expirer_shown.insert(state.name.clone(), state.clone());
        }
    }

    /// A daemon asks the store for something.
    pub fn requests(&self, op: &str, path: &Path, bytes: u64) {
        let mut inner = self.inner();
        let name = path.filename().unwrap_or_default();
        let again = op == "get" && name.ends_with(".avro") && !inner.read.insert(path.clone());
        if op.starts_with("put") {
            let now = self.clock.elapsed();
            inner.born.entry(path.clone()).or_insert(now);
        }
        let figures = &mut inner.figures;
        match op {
            "get" | "list" => {
                figures.reads += 1;
                let is_list = name.contains("snap-");
                figures.lists += u64::from(is_list);
                figures.manifests += u64::from(!is_list && name.ends_with(".avro"));
                figures.reads_again += u64::from(again);
            }
            "put" | "put part" if path.as_ref().ends_with(".parquet") => {
                figures.data_files += 1;
                figures.data_bytes += bytes;
            }
            "put" => {
                figures.metadata_files += 1;
                figures.metadata_bytes += bytes;
            }
            _ => {}
        }
    }

    /// Whether two commits to `table` landed after this object was written and not later than `by`: the one that it was written
    /// for may be the first, and only the next one proves which attempt of it was in.
    pub fn went_on(&self, table: &TableName, object: &Path, by: Duration) -> bool {
        let inner = self.inner();
        let born = inner.born.get(object).copied().unwrap_or_default();
        inner.past.get(table).is_some_and(|past| past.iter().filter(|(at, _)| *at > born && *at <= by).count() > 1)
    }

    /// Which cells of the conflict table a commit that has landed went through since it was first submitted.
    fn cover_conflicts(&self, commit: &PreparedCommit, state: &TableState) {
        let Some((id, parent, schema)) = stands_on(commit) else { return };
        let Some((first, first_schema)) = self.inner().first_base.get(&id).copied() else { return };
        let mut met = self.between(state, parent, first);
        if schema != first_schema {
            met.insert("layout");
        }
        let added = state.metadata.snapshot_by_id(id);
        let replaces = added.is_some_and(|snapshot| snapshot.summary().operation == Operation::Replace);
        let own = if replaces { "Replace" } else { "Append" };
        for theirs in met {
            self.cover(format!("conflict table × {own} × {theirs}"));
        }
    }

    /// A table beside the anchor that had no rows for days gets some again.
    fn cover_idleness(&self, actor: &str, table: &TableName) {
        if !actor.starts_with(['a', 'b', 'c']) || self.with_auditor(|a| a.pipelines.iter().any(|p| p.anchor == *table))
        {
            return;
        }
        let now = self.clock.elapsed();
        let before = self.inner().last_ours.insert(table.clone(), now);
        if before.is_some_and(|before| now.saturating_sub(before) > IDLE) {
            self.cover("a table beside the anchor × idle for days");
        }
    }

    /// Whoever has written to an anchor that was dropped since begins nothing in the table that has its name now. Of tables
    /// beside it only the process that held them knows (ADR 9).
    fn begins_again(&self, actor: &str, commit: &PreparedCommit, state: &TableState) {
        let Some(instance) = actor.chars().next().filter(|_| actor != operator::NAME) else { return };
        if !self.with_auditor(|a| a.pipelines.iter().any(|p| p.anchor == state.name)) {
            return;
        }
        let properties = commit.updates.iter().filter_map(|update| match update {
            TableUpdate::SetProperties { updates } => Some(updates.keys()),
            _ => None,
        });
        for key in properties.flatten().filter(|key| key.starts_with("frazil.checkpoint.")) {
            let writes = |uuid| (instance, uuid, key.clone());
            let old = self.with_auditor(|a| a.dropped_uuids(&state.name, state.metadata.uuid(), key));
            let mut inner = self.inner();
            let knew = old.iter().any(|uuid| inner.wrote.get(&writes(*uuid)).is_some_and(|times| *times > 1));
            *inner.wrote.entry(writes(state.metadata.uuid())).or_default() += 1;
            drop(inner);
            if knew {
                self.violation(format!("{actor} begins {key} in {}, which was dropped and created anew", state.name));
            }
        }
    }

    /// The same of a removal of snapshots that arrives, against what its process was shown last.
    async fn cover_removal(&self, commit: &PreparedCommit) {
        if !commit.updates.iter().any(|update| matches!(update, TableUpdate::RemoveSnapshots { .. })) {
            return;
        }
        let base = self.inner().expirer_shown.get(&commit.table).cloned();
        let (Some(base), Ok(now)) = (base, self.load(&commit.table).await) else { return };
        let head = |state: &TableState| state.head(&self.target).map(|s| s.snapshot_id());
        let mut met = self.between(&now, head(&now), head(&base));
        if base.metadata.current_schema_id() != now.metadata.current_schema_id()
            || base.metadata.default_partition_spec_id() != now.metadata.default_partition_spec_id()
        {
            met.insert("layout");
        }
        for theirs in met {
            self.cover(format!("conflict table × RemoveSnapshots × {theirs}"));
        }
    }

    /// An instance has looked at a table, and decided what follows from its last commit.
    pub fn looked(&self, instance: &str, table: &str, verdict: &str) {
        let Ok(table) = table.parse::<TableName>() else { return };
        let fault = self.inner().last_fault.get(&(instance.to_owned(), table)).cloned();
        self.cover(format!("look × {} → {verdict}", fault.as_deref().unwrap_or("None")));
    }

    /// A job of a daemon has ended.
    pub fn job(&self, job: &str, end: &str, runbook: &str, table: &str, words: &str) {
        if job.is_empty() {
            return;
        }
        let end = if end.is_empty() { "done" } else { end };
        let failed = !runbook.is_empty();
        self.note("jobs", &format!("{table}: {job} {}: {words}", if failed { "failed" } else { end }));
        self.cover(format!("jobs × {job} {}", if failed { runbook } else { end }));
        if let Some(lost) = words.split("given up: ").nth(1) {
            self.cover(format!("maintenance × lost: {}", maintainer::reason(lost)));
        }
        let dropped = table.parse().is_ok_and(|table| self.with_auditor(|a| a.is_dropped(&table)));
        if failed && !dropped && !["unavailable", "conflict", "not-found"].contains(&runbook) {
            self.violation(format!("a job on {table} ends with {words}"));
        }
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
        let mut inner = self.inner();
        (inner.rates, inner.calm) = (Rates::default(), true); // and nobody comes in between
    }

    /// Whether the faults have stopped.
    pub fn is_calm(&self) -> bool {
        self.inner().calm
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
    pub fn story(&self) -> (Vec<String>, u64, BTreeMap<String, u64>, Figures) {
        let inner = self.inner();
        (inner.trace.clone(), inner.hash, inner.coverage.clone(), inner.figures)
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
        self.intrude(commit).await;
        self.cover_removal(commit).await;
        self.lands(actor, commit).await
    }

    /// The same with nobody in between.
    pub async fn lands(&self, actor: &str, commit: &PreparedCommit) -> Outcome {
        let outcome = self.truth.commit(commit).await;
        let what = describe(commit);
        match &outcome {
            Outcome::Committed(state) => {
                self.note(
                    actor,
                    &format!("{} is at seq {}: {what}", state.name, state.metadata.last_sequence_number()),
                );
                self.inner().landed += 1;
                self.inner().figures.commits += u64::from(actor != foreign::NAME);
                self.cover_conflicts(commit, state);
                self.begins_again(actor, commit, state);
                self.cover_idleness(actor, &state.name);
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

    /// The foreign engine is at the catalog a moment before a commit of ours.
    async fn intrude(&self, commit: &PreparedCommit) {
        let percent = self.inner().rates.intrusions;
        let evolves = commit.updates.iter().find_map(|update| match update {
            TableUpdate::AddSchema { schema } => Some(schema),
            _ => None,
        });
        let removed = commit.updates.iter().find_map(|update| match update {
            TableUpdate::RemoveSnapshots { snapshot_ids } => Some(snapshot_ids),
            _ => None,
        });
        let replaces = commit.updates.iter().any(|update| match update {
            TableUpdate::AddSnapshot { snapshot } => snapshot.summary().operation == Operation::Replace,
            _ => false,
        });
        let often = evolves.is_some() || removed.is_some() || replaces;
        let percent = if often && percent > 0 { 50 } else { percent };
        if !self.happens(percent) || !self.step() {
            return;
        }
        match evolves {
            Some(schema) if self.habits.contains_key(&Deed::AddColumn) => {
                foreign::race(self, &commit.table, schema).await;
            }
            _ if let Some(doomed) = removed.filter(|_| self.habits.contains_key(&Deed::DropTag))
                && self.happens(50) =>
            {
                foreign::save(self, &commit.table, doomed).await;
            }
            _ => {
                if let Some(deed) = foreign::pick(&self.env, &self.habits) {
                    foreign::act(self, &commit.table, deed).await;
                }
            }
        }
    }

    /// What came between `first`, once a head, and `at`.
    fn between(&self, state: &TableState, mut at: Option<i64>, first: Option<i64>) -> BTreeSet<&'static str> {
        let mut met = BTreeSet::new();
        // A snapshot may be its own ancestor: see `audit::Seen::chain`.
        let mut steps = state.metadata.snapshots().len();
        while at != first && steps > 0 {
            steps -= 1;
            let Some(between) = at.and_then(|id| state.metadata.snapshot_by_id(id)) else {
                met.insert("rollback");
                break;
            };
            let delta = self.with_auditor(|a| a.row_deltas.contains(&between.snapshot_id()));
            met.insert(match between.summary().operation {
                Operation::Append => "append",
                _ if delta => "row delta",
                _ => "removal",
            });
            at = between.parent_snapshot_id();
        }
        met
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
            if past.back().is_some_and(|(_, old)| old.metadata.uuid() != state.metadata.uuid()) {
                past.clear();
            }
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

    /// Whether a branch was ever rolled back, or dropped and begun again.
    pub fn rolled_back(&self) -> bool {
        self.with_auditor(|auditor| auditor.rollbacks > 0 || auditor.any_dropped())
    }

    /// Somebody deletes an object.
    pub fn deletes(&self, actor: &str, path: &Path) {
        self.note(actor, &format!("deletes {}", short(path.as_ref())));
        let (named, dropped) = self.with_auditor(|a| (a.names(path.as_ref()), a.dropped_names(path.as_ref())));
        if dropped {
            self.violation(format!("{actor} deleted {path} of a table that was dropped: it may be brought back"));
        }
        if let Some(who) = named {
            self.violation(format!("{actor} deleted {path}, which {who} names"));
        }
    }
}

/// The snapshot that a commit adds, its parent, and the schema that it asks for.
fn stands_on(commit: &PreparedCommit) -> Option<(i64, Option<i64>, Option<i32>)> {
    let schema = commit.requirements.iter().find_map(|requirement| match requirement {
        TableRequirement::CurrentSchemaIdMatch { current_schema_id } => Some(*current_schema_id),
        _ => None,
    });
    commit.updates.iter().find_map(|update| match update {
        TableUpdate::AddSnapshot { snapshot } => Some((snapshot.snapshot_id(), snapshot.parent_snapshot_id(), schema)),
        _ => None,
    })
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
