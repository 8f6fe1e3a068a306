//! Maintenance beside ingest, through the same faults: `frazil maintain` as a job that is started now and then, and `frazil
//! compact` by a hand that asks nobody. The daemons' own jobs are the third: see [`Upkeep::jobs`].

use std::collections::BTreeSet;
use std::fmt;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use frazil::commit::protocol::Committer;
use frazil::commit::traffic::Traffic;
use frazil::config::load::from_text;
use frazil::config::{MaintenanceConfig, Policies};
use frazil::env::Env;
use frazil::error::{Error, ErrorKind};
use frazil::maintain::compaction::{Compaction, Fate, Report, Rules, Wish};
use frazil::maintain::leftovers::Leftovers;
use frazil::maintain::plan::Policy;
use frazil::maintain::round::{Options, Round, TableReport};
use frazil::maintain::upkeep::{Consent, Job};
use frazil::model::ids::{MAIN, TableName};
use frazil::storage::disk::{Disk, MemoryDisk};
use frazil::storage::ledger::{ENTRIES_MAX, Ledger, LedgerEntry};
use frazil::storage::{Storage, StorageOptions};
use tokio_util::sync::CancellationToken;

use crate::catalog::NetworkCatalog;
use crate::foreign::{self, Deed};
use crate::process::{Process, ProcessClock};
use crate::scenario::Scenario;
use crate::store::{NetworkStore, ProcessDisk};
use crate::world::World;

/// What the commits of `frazil maintain` are told by.
pub const ROUND: &str = "m";
/// What those of `frazil compact` are told by.
pub const VERB: &str = "n";

/// Bytes that rewrites may take.
const MEMORY: u64 = 32 << 20;
/// Two proofs of never are a deadline of ten minutes apart.
const PROOFS_APART: Duration = Duration::from_secs(700);
/// Runs before the faults stop.
const RUNS_MAX: u64 = 60;
/// Rounds at rest, after which nothing is left to do.
const ROUNDS_AT_REST: u32 = 4;

/// How tables are kept small in a seed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Upkeep {
    /// By the daemons' own jobs.
    pub jobs: bool,
    /// By `frazil maintain`, started now and then.
    pub rounds: bool,
    /// By `frazil compact`, which takes no claim.
    pub verbs: bool,
    /// Which of [`POLICIES`] is written.
    pub policy: usize,
    /// The longest rest between two runs.
    pub rest: Duration,
}

/// What stands in a configuration, but for expiry.
pub const POLICIES: [&str; 3] = [
    r#"every = "30s", compact = { files_min = 3, quiet = "0s" }, manifests = { count_min = 3 }"#,
    r#"every = "60s", compact = { files_min = 4, quiet = "5s", hot_files_max = 8 }, manifests = { count_min = 6 }"#,
    r#"every = "100s", compact = { files_min = 8, quiet = "0s", target_file_size = "1MiB", deletes_max = 2 }, manifests = { count_min = 12 }"#,
];

/// Policies as they are read, each without and with expiry.
static READ: OnceLock<Vec<Policies>> = OnceLock::new();

/// Reads the policies, outside of any seed.
pub fn once() {
    READ.get_or_init(|| {
        let read = |policy: &str, expire: &str| {
            let text = format!("policy.\"shop.*\" = {{ {policy}, {expire} }}");
            from_text("simulation", text, &[]).expect("a policy").config.policies
        };
        let off = "expire = { enabled = false }";
        let on = r#"expire = { keep = "2m", min_snapshots = 1 }"#;
        POLICIES.iter().flat_map(|policy| [read(policy, off), read(policy, on)]).collect()
    });
}

impl Upkeep {
    /// As it stands in a configuration.
    pub fn policies(self, expires: bool) -> Policies {
        let read = READ.get().and_then(|read| read.get(self.policy * 2 + usize::from(expires)));
        read.cloned().unwrap_or_default()
    }

    /// What jobs may use.
    pub fn budget() -> MaintenanceConfig {
        MaintenanceConfig { memory: MEMORY, claim: Duration::from_secs(60), ..MaintenanceConfig::default() }
    }
}

/// One that maintains, over all its runs.
pub struct Maintainer {
    world: Arc<World>,
    scenario: Scenario,
    upkeep: Upkeep,
    name: &'static str,
    disk: Arc<MemoryDisk>,
    runs: u64,
    /// Nobody else is there any more.
    rests: bool,
}

impl fmt::Debug for Maintainer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Maintainer").field("name", &self.name).finish_non_exhaustive()
    }
}

/// A process that maintains.
struct Life {
    process: Arc<Process>,
    env: Env,
    storage: Storage,
    catalog: Arc<NetworkCatalog>,
    disk: Arc<dyn Disk>,
}

impl Maintainer {
    /// Those of a scenario.
    pub fn all(world: &Arc<World>, scenario: &Scenario) -> Vec<Self> {
        let Some(upkeep) = scenario.upkeep else { return Vec::new() };
        let named = [(upkeep.rounds, ROUND), (upkeep.verbs, VERB)];
        let names = named.into_iter().filter(|(wanted, _)| *wanted).map(|(_, name)| name);
        let new = |name| Self {
            world: Arc::clone(world),
            scenario: scenario.clone(),
            upkeep,
            name,
            disk: Arc::new(MemoryDisk::new()),
            runs: 0,
            rests: false,
        };
        names.map(new).collect()
    }

    /// Runs now and then, until `stop` is cancelled. Answers itself, with what it left behind.
    pub async fn work(mut self, stop: CancellationToken) -> Self {
        let mut seen = None;
        while !stop.is_cancelled() {
            let rest = Duration::from_secs(2) + self.world.time(self.upkeep.rest);
            tokio::select! {
                biased;
                () = stop.cancelled() => break,
                () = tokio::time::sleep(rest) => {}
            }
            // Days may pass without a commit: it is enough to look at nothing now and then.
            let now = self.world.landed();
            if (seen != Some(now) || self.world.happens(2)) && self.runs < RUNS_MAX {
                self.run().await;
                seen = Some(now);
            }
        }
        self
    }

    /// The last runs, when nothing goes wrong any more: what earlier ones left behind is gone after them, and a plan that was
    /// carried out leaves nothing to do.
    pub async fn rest(&mut self) {
        self.rests = true;
        let mut still = BTreeSet::new();
        for _ in 0..ROUNDS_AT_REST {
            // A proof needs a table that goes on. One whose branch was dropped does not.
            for table in self.scenario.tables() {
                let before = self.world.landed();
                foreign::act(&self.world, &table, Deed::Append).await;
                if self.world.landed() == before {
                    still.insert(table);
                }
            }
            self.run().await;
            tokio::time::sleep(PROOFS_APART).await;
        }
        let life = self.begin(u64::MAX);
        let Ok(left) = self.open_entries().await else { return };
        // Whose table was dropped stays: nobody can prove anything of it.
        let goes_on = |table: &TableName| !still.contains(table) && !self.world.with_auditor(|a| a.is_dropped(table));
        let known = left.iter().filter(|entry| goes_on(&entry.owner.table));
        for entry in known.take(1) {
            let (table, id) = (&entry.owner.table, entry.owner.snapshot_id);
            self.world.violation(format!("at rest {} still holds {} of {id:x} in {table}", self.name, entry.location));
        }
        self.settled(&life).await;
        self.world.cover("maintenance × rest");
    }

    async fn open_entries(&self) -> Result<Vec<LedgerEntry>, Error> {
        let disk = Arc::clone(&self.disk) as Arc<dyn Disk>;
        Ok(Ledger::open(disk, ENTRIES_MAX).await?.open_entries())
    }

    /// Nothing that was planned is planned again.
    async fn settled(&self, life: &Life) {
        if self.name != ROUND {
            return;
        }
        let Ok(round) = self.round(life).await else { return };
        for report in round.preview(&self.scenario.tables()).await {
            let again = report.steps.iter().find(|step| step.job == Job::Compact && step.end.as_str() == "planned");
            if let Some(step) = again {
                let (table, words) = (report.table, &step.words);
                self.world.violation(format!("at rest {table} would be compacted once more: {words}"));
            }
        }
    }

    fn begin(&mut self, dies_at: u64) -> Life {
        self.runs += 1;
        let world = &self.world;
        let process = Process::new(format!("{}{}", self.name, self.runs), dies_at);
        let skew_ms = i64::try_from(world.env.below(4_000)).unwrap_or(0) - 2_000;
        let clock = ProcessClock { process: Arc::clone(&process), clock: world.clock.skewed(skew_ms) };
        let env = Env::simulated(Arc::new(clock), world.env.bits());
        let storage = Storage::new(StorageOptions { stores: vec![], requests_max: 16, retries: 3 }, env.clone());
        storage.mount("memory:///", Arc::new(NetworkStore::new(Arc::clone(world), Arc::clone(&process))));
        let catalog = Arc::new(NetworkCatalog::new(Arc::clone(world), Arc::clone(&process)));
        let disk = Arc::new(ProcessDisk::new(Arc::clone(world), Arc::clone(&process), Arc::clone(&self.disk)));
        Life { process, env, storage, catalog, disk }
    }

    async fn round(&self, life: &Life) -> Result<Round, Error> {
        let leftovers = Arc::new(Leftovers::open(Arc::clone(&life.disk)).await?);
        let budget = Upkeep::budget();
        let options =
            Options { loads: 4, parallel: 2, memory: budget.memory, claim: budget.claim, consent: Consent::Named };
        Ok(Round {
            env: life.env.clone(),
            name: "lake".to_owned(),
            catalog: Arc::clone(&life.catalog) as _,
            storage: life.storage.clone(),
            traffic: Traffic::default(),
            instance: self.name.to_owned(),
            holder: life.process.name.clone(),
            policies: Arc::new(self.upkeep.policies(self.scenario.expires.is_some())),
            leftovers,
            notes: Arc::clone(&life.disk),
            options,
        })
    }

    /// One run, that may die at any call.
    pub async fn run(&mut self) {
        let world = Arc::clone(&self.world);
        let dies_at = if world.rates().catalog > 0 && world.happens(25) && world.step() {
            1 + world.env.below(250)
        } else {
            u64::MAX
        };
        let life = self.begin(dies_at);
        let died = tokio::select! {
            biased;
            () = life.process.death() => true,
            () = self.one(&life) => false,
        };
        life.process.kill();
        if died {
            world.note(&life.process.name, "is dead");
            world.cover(format!("maintenance × {} dies", if self.name == ROUND { "round" } else { "verb" }));
        }
        // What a process that ends has written is the system's to keep.
        if died {
            let env = &world.env;
            self.disk.crash_keeping(|_, unsynced| usize::try_from(env.below(unsynced as u64 + 1)).unwrap_or(0));
        }
    }

    async fn one(&self, life: &Life) {
        let tables = self.scenario.tables();
        if self.name == ROUND {
            match self.round(life).await {
                Ok(round) => {
                    for report in round.run(&tables, &CancellationToken::new()).await {
                        self.tell_round(&life.process.name, &report);
                    }
                }
                Err(error) => self.failed(&life.process.name, "its disk", &error),
            }
            return;
        }
        let at = usize::try_from(self.world.env.below(tables.len() as u64)).unwrap_or(0);
        let tables = if self.rests { &tables[..] } else { &tables[at..=at] };
        for table in tables {
            match self.verb(life, table).await {
                Ok(report) => self.tell_verb(&life.process.name, table, &report),
                Err(error) => self.failed_at(&life.process.name, table, &error),
            }
        }
    }

    async fn verb(&self, life: &Life, table: &TableName) -> Result<Report, Error> {
        let env = &self.world.env;
        let target = [2 << 10, 8 << 10, 1 << 20, 512 << 20][usize::try_from(env.below(4)).unwrap_or(0)];
        let wish = Wish { target_bytes: Some(target), rewrite_all: !self.rests && env.below(5) == 0, memory: MEMORY };
        let policy = Policy { files_min: 2 + usize::try_from(env.below(4)).unwrap_or(0), ..Policy::new(target, 0) };
        let branch = if env.below(8) == 0 { MAIN.to_owned() } else { self.world.target.clone() };
        let parallel = 1 + usize::try_from(env.below(3)).unwrap_or(0);
        let rules = Rules { policy, branch, only: None, parallel };
        let leftovers = Leftovers::open(Arc::clone(&life.disk)).await?;
        let (catalog, storage) = (Arc::clone(&life.catalog) as _, life.storage.clone());
        let ledger = Some(leftovers.ledger().clone());
        let name = self.name.to_owned();
        let mut committer = Committer::new(life.env.clone(), catalog, storage, ledger, table.clone(), name);
        let mut compaction = Compaction { env: &life.env, committer: &mut committer, leftovers: &leftovers, wish };
        compaction.run_by(&rules, &CancellationToken::new()).await
    }

    fn tell_round(&self, process: &str, report: &TableReport) {
        let table = &report.table;
        for step in &report.steps {
            let (job, end) = (step.job.as_str(), step.end.as_str());
            self.world.note(process, &format!("{table}: {job} {end}: {}", step.words));
            self.world.cover(format!("maintenance × {job} {end}"));
            if step.figures.remapped > 0 {
                self.world.cover("maintenance × deletes remapped");
            }
            if let Some(lost) = step.words.split("given up: ").nth(1) {
                self.world.cover(format!("maintenance × lost: {}", reason(lost)));
            }
            if let Some(error) = step.error() {
                self.failed_at(process, table, error);
            }
        }
    }

    fn tell_verb(&self, process: &str, table: &TableName, report: &Report) {
        if report.swept.deleted > 0 {
            self.world.note(process, &format!("{table}: deleted {} of earlier runs", report.swept.deleted));
            self.world.cover("maintenance × clean done");
        }
        for (planned, fate) in &report.groups {
            let files = planned.group.inputs.len();
            match fate {
                Some(Fate::Done { files: out, deleted, remapped, .. }) => {
                    if *remapped > 0 {
                        self.world.note(process, &format!("{table}: {remapped} deletes remapped"));
                        self.world.cover("maintenance × deletes remapped");
                    }
                    self.world.note(process, &format!("{table}: {files} files became {out}, {deleted} rows deleted"));
                    self.world.cover("maintenance × compact done");
                }
                Some(Fate::Refused(error)) => self.failed_at(process, table, error),
                Some(Fate::Lost(why)) => {
                    self.world.note(process, &format!("{table}: given up: {why}"));
                    self.world.cover(format!("maintenance × lost: {}", reason(why)));
                }
                Some(Fate::Open(error)) => {
                    self.world.note(process, &format!("{table}: open: {error}"));
                    self.world.cover("maintenance × open");
                }
                None => {}
            }
        }
    }

    fn failed_at(&self, process: &str, table: &TableName, error: &Error) {
        let dropped = self.world.with_auditor(|a| a.is_dropped(table));
        self.world.cover(format!("maintenance × ends with {:?}", error.kind()));
        if dropped {
            return;
        }
        self.failed(process, &table.to_string(), error);
    }

    fn failed(&self, process: &str, of: &str, error: &Error) {
        self.world.note(process, &format!("{of}: {error}"));
        if !may_fail(&self.scenario, error.kind()) {
            self.world.violation(format!("maintenance of {of} by {process} ends with {error}"));
        }
    }
}

/// Whether a run may end so in this scenario.
pub fn may_fail(scenario: &Scenario, kind: ErrorKind) -> bool {
    match kind {
        ErrorKind::Unavailable | ErrorKind::Conflict => true,
        // Whoever expires may take the files of the snapshot that was planned on; a table may not be there yet.
        ErrorKind::NotFound => true,
        _ => !scenario.habits.is_empty() && scenario.habits.contains_key(&Deed::Recreate) && kind == ErrorKind::Config,
    }
}

/// Why a rewrite was given up, without its names.
pub fn reason(why: &str) -> &'static str {
    let reasons = [
        ("deletes arrived meanwhile", "deletes arrived"),
        ("the deletes of", "deletes removed"),
        ("removed meanwhile", "input removed"),
        ("was rolled back", "rolled back"),
        ("rolled back and expired", "rolled back"),
        // What the catalog said when it refused the last time, or nothing: a look at the table told the rest.
        ("requirement", "by a look"),
        ("sequence number", "by a look"),
        ("went another way", "by a look"),
        (": no", "by a look"),
    ];
    reasons.into_iter().find(|(text, _)| why.contains(text)).map_or("other", |(_, name)| name)
}
