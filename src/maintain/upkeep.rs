//! What is due on one table, and doing it: compaction, rewriting of manifests, expiry, and what earlier runs left behind.
//!
//! Looking costs one load of the table, its manifests where its summary does not rule out that a rewrite pays, and no write.

use std::collections::HashMap;
use std::time::Duration;

use iceberg::spec::FormatVersion;
use tokio_util::sync::CancellationToken;

use crate::commit::protocol::Committer;
use crate::compact::merge::Rung;
use crate::config::policy::{CompactPolicy, ExpirePolicy, Policy};
use crate::config::quantity::{show_duration, show_size};
use crate::env::Env;
use crate::error::{Error, Result};
use crate::maintain::compaction::{Compaction, Fate, Rules, Wish};
use crate::maintain::expire;
use crate::maintain::expiry::{Due, Expiry, Pace, shares_files};
use crate::maintain::keepers::Keeper;
use crate::maintain::leftovers::Leftovers;
use crate::maintain::manifests::Manifests;
use crate::maintain::plan;
use crate::model::ids::MAIN;
use crate::model::table::TableState;
use crate::storage::disk::Disk;

/// A removal waits until so many hundredths of the snapshots go with it,
const WORTH_PERCENT: usize = 10;
/// or one has been too old for so many times the age that snapshots are kept.
const LATE_FACTOR: i64 = 2;
/// Entries of manifests that are gathered in a millisecond, about.
const ENTRIES_PER_MS: u64 = 20;

/// What is done for a table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Job {
    /// The whole table: it could not be looked at, or is left alone.
    Look,
    /// Files are rewritten.
    Compact,
    /// Manifests are gathered.
    Manifests,
    /// Old snapshots go.
    Expire,
    /// What earlier runs left behind goes, under proof.
    Clean,
}

impl Job {
    /// Its name, for metrics and JSON.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Look => "look",
            Self::Compact => "compact",
            Self::Manifests => "manifests",
            Self::Expire => "expire",
            Self::Clean => "clean",
        }
    }
}

/// How a job ended.
#[derive(Debug)]
pub enum End {
    /// It would be done.
    Planned,
    /// Done.
    Done,
    /// Its time has not come, or others were faster: the next run goes on.
    Waits,
    /// It is not for us to do.
    Left,
    /// It did not work.
    Failed(Error),
}

impl End {
    /// Its name, for metrics and JSON.
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::Planned => "planned",
            Self::Done => "done",
            Self::Waits => "waits",
            Self::Left => "left",
            Self::Failed(_) => "failed",
        }
    }
}

/// Files, bytes and snapshots that a job moved or would move.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Figures {
    /// Files that are rewritten.
    pub files_in: u64,
    /// Their bytes.
    pub bytes_in: u64,
    /// Files that hold their rows then.
    pub files_out: u64,
    /// Their bytes.
    pub bytes_out: u64,
    /// Manifests that are gathered.
    pub manifests_in: u64,
    /// Manifests that take their place, about.
    pub manifests_out: u64,
    /// Rows that others deleted while they were rewritten, and that are deleted in the new files.
    pub remapped: u64,
    /// Bytes of the files that are rewritten by copying their pages.
    pub bytes_copied: u64,
    /// Snapshots that go.
    pub snapshots: u64,
    /// Files deleted.
    pub files_deleted: u64,
}

/// What became of one job on one table.
#[derive(Debug)]
pub struct Step {
    /// The job.
    pub job: Job,
    /// How it ended.
    pub end: End,
    /// What and why, in words.
    pub words: String,
    /// How much.
    pub figures: Figures,
}

impl Step {
    fn new(job: Job, end: End, words: impl Into<String>) -> Self {
        Self { job, end, words: words.into(), figures: Figures::default() }
    }

    /// A job that did not work.
    pub fn failed(job: Job, error: Error) -> Self {
        let words = error.to_string();
        Self::new(job, End::Failed(error), words)
    }
}

impl Step {
    /// Whether it did not work.
    pub fn has_failed(&self) -> bool {
        self.error().is_some()
    }

    /// Whether something was done.
    pub fn is_done(&self) -> bool {
        matches!(self.end, End::Done)
    }

    /// Why it did not work.
    pub fn error(&self) -> Option<&Error> {
        match &self.end {
            End::Failed(error) => Some(error),
            _ => None,
        }
    }
}

/// Whether tables that no policy names lose snapshots too.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Consent {
    /// Only where a policy or the table itself asks for maintenance.
    Named,
    /// Everywhere.
    All,
}

/// What is due on a table.
#[derive(Debug, Default)]
pub struct Look {
    /// What would be rewritten, and why.
    pub compact: Option<(Figures, String)>,
    /// Manifests that would be gathered.
    pub manifests: Option<(Figures, String)>,
    /// Files fewer for readers, delete files included: what compaction gains.
    pub gain: u64,
    /// Expected work, in core-milliseconds.
    pub core_ms: u64,
    /// The steps of expiry that are due.
    pub expire: Option<(u64, String)>,
    /// Whether snapshots are removed in that, or only files deleted.
    removes: bool,
    /// Files of earlier runs.
    pub leftovers: usize,
    /// What is not done, and why.
    pub notes: Vec<Step>,
    /// When the next step of expiry is due, in milliseconds since the epoch.
    pub next_ms: Option<i64>,
    /// How often the table is looked at.
    pub every: Duration,
}

impl Look {
    /// Whether there is anything to do.
    pub fn is_due(&self) -> bool {
        self.compact.is_some() || self.manifests.is_some() || self.expire.is_some() || self.leftovers > 0
    }

    /// What readers gain for the work: files and manifests fewer per core-second. The largest goes first.
    pub fn worth(&self) -> u64 {
        let manifests = self.manifests.as_ref();
        let fewer = manifests.map_or(0, |(figures, _)| figures.manifests_in.saturating_sub(figures.manifests_out));
        self.gain.saturating_add(fewer).saturating_mul(1_000) / self.core_ms.max(1)
    }

    /// What would be done.
    pub fn steps(self) -> Vec<Step> {
        let mut steps = self.notes;
        if let Some((figures, why)) = self.compact {
            steps.push(Step { figures, ..Step::new(Job::Compact, End::Planned, why) });
        }
        if let Some((figures, words)) = self.manifests {
            steps.push(Step { figures, ..Step::new(Job::Manifests, End::Planned, words) });
        }
        if let Some((snapshots, words)) = self.expire {
            let figures = Figures { snapshots, ..Figures::default() };
            steps.push(Step { figures, ..Step::new(Job::Expire, End::Planned, words) });
        }
        if self.leftovers > 0 {
            let words = format!("{} of earlier runs would be looked at", counted(self.leftovers, "file"));
            steps.push(Step::new(Job::Clean, End::Planned, words));
        }
        steps
    }
}

/// Maintenance of one table.
#[derive(Debug)]
pub struct Upkeep<'a> {
    /// Time and names.
    pub env: &'a Env,
    /// The way to the table, with the ledger of `leftovers`.
    pub committer: &'a mut Committer,
    /// Where files under way are noted.
    pub leftovers: &'a Leftovers,
    /// Where the steps of expiry are noted.
    pub notes: &'a dyn Disk,
    /// Bytes that a rewrite may take.
    pub memory: u64,
    /// Whether tables that nobody named lose snapshots too.
    pub consent: Consent,
}

impl Upkeep<'_> {
    /// What is due on the table, loaded as `state`. Changes nothing.
    pub async fn look(&mut self, state: &TableState, policy: &Policy) -> Look {
        let mut look = Look { every: policy.every, ..Look::default() };
        if let Some(keeper) = Keeper::of(state) {
            let words = format!("{} manages it ({})", keeper.name, keeper.sign);
            look.notes.push(Step::new(Job::Look, End::Left, words));
            return look;
        }
        if policy.compact.enabled
            && let Err(error) = self.look_at_files(state, policy, &mut look).await
        {
            look.notes.push(Step::failed(Job::Compact, error));
        }
        if policy.manifests.enabled
            && let Err(error) = self.look_at_manifests(state, policy, &mut look).await
        {
            look.notes.push(Step::failed(Job::Manifests, error));
        }
        if policy.expire.enabled
            && let Err(error) = self.look_at_snapshots(state, policy, &mut look).await
        {
            look.notes.push(Step::failed(Job::Expire, error));
        }
        let own = |entry: &&crate::storage::ledger::LedgerEntry| entry.owner.table == state.name;
        look.leftovers = self.leftovers.ledger().open_entries().iter().filter(own).count();
        look
    }

    async fn look_at_files(&mut self, state: &TableState, policy: &Policy, look: &mut Look) -> Result<()> {
        let rules = rules(&policy.compact);
        if state.metadata.format_version() < FormatVersion::V2 {
            look.notes.push(Step::new(Job::Compact, End::Left, "format version 1 is not rewritten"));
            return Ok(());
        }
        if let Some(words) = unknown_type(state) {
            look.notes.push(Step::new(Job::Compact, End::Left, words));
            return Ok(());
        }
        if is_settled(state, &policy.compact) {
            return Ok(());
        }
        if let Some(window) = policy.window.as_ref().filter(|window| !window.is_open(self.env.now_ms())) {
            look.notes.push(Step::new(Job::Compact, End::Waits, format!("files are rewritten within {window}")));
            return Ok(());
        }
        let Some(base) = self.compaction().plan(state.clone(), &rules).await? else { return Ok(()) };
        let groups = base.groups();
        if groups.is_empty() {
            return Ok(());
        }
        let mut figures = Figures::default();
        for group in groups {
            figures.files_in += group.inputs.len() as u64;
            figures.bytes_in += group.bytes_in;
            figures.files_out += group.files_out;
            figures.bytes_out += group.bytes_out;
            look.core_ms += group.core_ms;
            let gone = (group.inputs.len() + group.deletes.len()) as u64;
            look.gain += gone.saturating_sub(group.files_out);
        }
        let why = groups.first().map(|group| group.why.clone()).unwrap_or_default();
        let more = if groups.len() > 1 { format!("; {} groups", groups.len()) } else { String::new() };
        look.compact = Some((figures, format!("{}: {why}{more}", rewrite(&figures, "would become"))));
        Ok(())
    }

    async fn look_at_manifests(&mut self, state: &TableState, policy: &Policy, look: &mut Look) -> Result<()> {
        let few = |files: u64| files < policy.manifests.count_min as u64;
        // Each live manifest has a live entry.
        if state.metadata.format_version() < FormatVersion::V2
            || totals(state).is_some_and(|(files, _, deletes)| few(files.saturating_add(deletes)))
        {
            return Ok(());
        }
        let Some(plan) = self.manifests(policy).plan(state).await? else { return Ok(()) };
        if let Some(words) = unknown_type(state) {
            // A new manifest would have to say it.
            look.notes.push(Step::new(Job::Manifests, End::Left, words));
            return Ok(());
        }
        let figures = gathered(plan.manifests_in, plan.manifests_out);
        look.core_ms = look.core_ms.saturating_add(plan.entries as u64 / ENTRIES_PER_MS);
        let (count, size) = (counted(plan.manifests_in, "manifest"), show_size(plan.bytes));
        look.manifests = Some((figures, format!("{count} of {size} would become {}", plan.manifests_out)));
        Ok(())
    }

    async fn look_at_snapshots(&mut self, state: &TableState, policy: &Policy, look: &mut Look) -> Result<()> {
        if shares_files(state) {
            look.notes.push(Step::new(Job::Expire, End::Left, "gc.enabled=false: its files may be another table's"));
            return Ok(());
        }
        let usual = usual(&policy.expire);
        let due = self.expiry().due(state, &usual).await?;
        let all = state.metadata.snapshots().count();
        let (snapshots, removes, words) = match due {
            Due::Nothing => return Ok(()),
            Due::Held => {
                let words = "files are kept until somebody has looked: see frazil expire --dry-run";
                look.notes.push(Step::new(Job::Expire, End::Left, words));
                return Ok(());
            }
            Due::Later { at_ms, .. } => {
                look.next_ms = Some(at_ms);
                return Ok(());
            }
            Due::Now { snapshots, oldest_ms, files } => {
                let age_ms = expire::Policy::of(state, &usual, expire::Wish::default())?.age_ms;
                let late = oldest_ms
                    .is_some_and(|at| self.env.now_ms().saturating_sub(at) > age_ms.saturating_mul(LATE_FACTOR));
                let worth = snapshots > 0 && (snapshots * 100 >= all * WORTH_PERCENT || late);
                if !worth && !files {
                    return Ok(());
                }
                let old = show_duration(Duration::from_millis(u64::try_from(age_ms).unwrap_or(0)));
                let words = match worth {
                    true => format!("{snapshots} of {all} snapshots are older than {old}"),
                    false => "files of removed snapshots can go".to_owned(),
                };
                (snapshots, worth, words)
            }
        };
        if !policy.named && self.consent == Consent::Named {
            let words = format!("{words}, but no policy names this table: add one, or say --yes");
            look.notes.push(Step::new(Job::Expire, End::Left, words));
            return Ok(());
        }
        look.removes = removes;
        look.expire = Some((snapshots as u64, words));
        Ok(())
    }

    /// Does what `look` found due. A job that fails stops no other.
    pub async fn carry_out(&mut self, look: Look, policy: &Policy, cancel: &CancellationToken) -> Vec<Step> {
        let mut steps = look.notes;
        if look.leftovers > 0 {
            steps.extend(self.clean().await.unwrap_or_else(|error| Some(Step::failed(Job::Clean, error))));
        }
        if look.compact.is_some() && !cancel.is_cancelled() {
            match self.compact(policy, cancel).await {
                Ok(done) => steps.extend(done),
                Err(error) => steps.push(Step::failed(Job::Compact, error)),
            }
        }
        if look.manifests.is_some() && !cancel.is_cancelled() {
            match self.gather(policy, cancel).await {
                Ok(done) => steps.extend(done),
                Err(error) => steps.push(Step::failed(Job::Manifests, error)),
            }
        }
        if look.expire.is_some() && !cancel.is_cancelled() {
            let done = self.expire(policy, look.removes).await;
            steps.push(done.unwrap_or_else(|error| Step::failed(Job::Expire, error)));
        }
        steps
    }

    async fn clean(&mut self) -> Result<Option<Step>> {
        let state = self.committer.load().await?;
        let swept = self.leftovers.sweep(self.env, self.committer, &state).await?;
        let figures = Figures { files_deleted: swept.deleted as u64, ..Figures::default() };
        let step = |end, words: String| Some(Step { figures, ..Step::new(Job::Clean, end, words) });
        Ok(match (swept.deleted, swept.waiting) {
            (0, 0) => None,
            (0, waiting) => {
                step(End::Waits, format!("{} of earlier runs wait for their proof", counted(waiting, "file")))
            }
            (deleted, _) => step(End::Done, format!("deleted {} of earlier runs", counted(deleted, "file"))),
        })
    }

    async fn compact(&mut self, policy: &Policy, cancel: &CancellationToken) -> Result<Vec<Step>> {
        let state = self.committer.load().await?;
        let mut compaction = self.compaction();
        let Some(base) = compaction.plan(state, &rules(&policy.compact)).await? else { return Ok(Vec::new()) };
        let report = compaction.carry_out(&base, cancel).await?;
        let mut figures = Figures::default();
        let (mut why, mut steps) = (None, Vec::new());
        for (planned, fate) in report.groups {
            let place = if planned.partition.is_empty() { String::new() } else { format!("{}: ", planned.partition) };
            match fate {
                Some(Fate::Done { files, bytes, remapped, rung, .. }) => {
                    figures.remapped += remapped;
                    figures.files_in += planned.group.inputs.len() as u64;
                    figures.bytes_in += planned.group.bytes_in;
                    figures.bytes_copied += if rung == Rung::Splice { planned.group.bytes_in } else { 0 };
                    figures.files_out += files as u64;
                    figures.bytes_out += bytes;
                    why.get_or_insert(planned.group.why);
                }
                Some(Fate::Refused(error) | Fate::Open(error)) => {
                    steps.push(Step::failed(Job::Compact, error.within(place.trim_end_matches(": "))));
                }
                Some(Fate::Lost(reason)) => {
                    steps.push(Step::new(Job::Compact, End::Waits, format!("{place}given up: {reason}")));
                }
                None => {}
            }
        }
        if let Some(why) = why {
            let words = format!("{}{}: {why}", rewrite(&figures, "became"), remapped(figures.remapped));
            steps.insert(0, Step { figures, ..Step::new(Job::Compact, End::Done, words) });
        }
        Ok(steps)
    }

    async fn gather(&mut self, policy: &Policy, cancel: &CancellationToken) -> Result<Vec<Step>> {
        let report = self.manifests(policy).carry_out(cancel).await?;
        let figures = gathered(report.manifests_in, report.manifests_out);
        let mut steps = Vec::new();
        if report.manifests_in > 0 {
            let words = format!("{} became {}", counted(report.manifests_in, "manifest"), report.manifests_out);
            steps.push(Step { figures, ..Step::new(Job::Manifests, End::Done, words) });
        }
        steps.extend(report.lost.map(|why| Step::new(Job::Manifests, End::Waits, format!("given up: {why}"))));
        steps.extend(report.bad.map(|error| Step::failed(Job::Manifests, error)));
        Ok(steps)
    }

    fn manifests(&mut self, policy: &Policy) -> Manifests<'_> {
        let count_min = policy.manifests.count_min;
        Manifests { env: self.env, committer: self.committer, leftovers: self.leftovers, branch: MAIN, count_min }
    }

    async fn expire(&mut self, policy: &Policy, removes: bool) -> Result<Step> {
        let usual = usual(&policy.expire);
        let report = self.expiry().run_due_under(&usual, removes).await?;
        let figures = Figures {
            snapshots: report.removed.len() as u64,
            files_deleted: report.files as u64,
            ..Figures::default()
        };
        if let Some((file, error)) = report.failed.into_iter().next() {
            return Ok(Step { figures, ..Step::failed(Job::Expire, error.within(file)) });
        }
        let mut parts = Vec::new();
        if !report.removed.is_empty() {
            parts.push(format!("removed {}", counted(report.removed.len(), "snapshot")));
        }
        if report.files > 0 {
            parts.push(format!("deleted {} of {}", counted(report.files, "file"), show_size(report.bytes)));
        }
        if removes && !report.noted.is_empty() {
            parts.push(format!("noted {} to go", counted(report.noted.len(), "snapshot")));
        }
        parts.extend(report.held.iter().map(|why| format!("files are kept: {why}")));
        let end = if report.held.is_empty() { End::Done } else { End::Left };
        Ok(Step { figures, ..Step::new(Job::Expire, end, parts.join(", ")) })
    }

    fn compaction(&mut self) -> Compaction<'_> {
        let wish = Wish { target_bytes: None, rewrite_all: false, memory: self.memory };
        Compaction { env: self.env, committer: self.committer, leftovers: self.leftovers, wish }
    }

    fn expiry(&mut self) -> Expiry<'_> {
        let wish = expire::Wish::default();
        Expiry { env: self.env, disk: self.notes, committer: self.committer, wish, pace: Pace::default() }
    }
}

/// `12 files of 3.1 MiB became 1 of 2.9 MiB`.
fn rewrite(figures: &Figures, verb: &str) -> String {
    let files = usize::try_from(figures.files_in).unwrap_or(usize::MAX);
    let (size, new) = (show_size(figures.bytes_in), show_size(figures.bytes_out));
    format!("{} of {size} {verb} {} of {new}", counted(files, "file"), figures.files_out)
}

/// What was done about deletes that arrived meanwhile.
fn remapped(rows: u64) -> String {
    if rows == 0 { String::new() } else { format!(", remapped deletes: {rows}") }
}

fn counted(count: usize, noun: &str) -> String {
    format!("{count} {noun}{}", if count == 1 { "" } else { "s" })
}

/// Why neither files nor manifests of a table can be written, where it has a column of an unknown type.
fn unknown_type(state: &TableState) -> Option<String> {
    let (column, kind) = state.opaque.first_key_value()?;
    Some(format!("column {column} has type {kind}, which this version does not know"))
}

/// What compaction goes by, of a policy.
pub(super) fn rules(policy: &CompactPolicy) -> Rules {
    let policy = plan::Policy {
        files_min: policy.files_min,
        deleted_percent: policy.deleted_percent,
        deletes_max: policy.deletes_max,
        quiet_ms: i64::try_from(policy.quiet.as_millis()).unwrap_or(i64::MAX),
        hot_files_max: policy.hot_files_max,
        bytes_max: policy.bytes_max,
        splice: policy.splice,
        ..plan::Policy::new(policy.target_file_size, 0)
    };
    Rules { policy, ..Rules::default() }
}

/// What expiry goes by where the table says nothing.
pub(super) fn usual(policy: &ExpirePolicy) -> expire::Policy {
    let millis = |duration: Duration| i64::try_from(duration.as_millis()).unwrap_or(i64::MAX);
    expire::Policy {
        age_ms: millis(policy.keep),
        count_min: policy.min_snapshots,
        ref_age_ms: policy.max_ref_age.map(millis),
    }
}

fn gathered(manifests_in: usize, manifests_out: usize) -> Figures {
    Figures { manifests_in: manifests_in as u64, manifests_out: manifests_out as u64, ..Figures::default() }
}

/// Live data files, their bytes, and live delete files, as the summary of the head says.
fn totals(state: &TableState) -> Option<(u64, u64, u64)> {
    let summary: &HashMap<String, String> = &state.metadata.current_snapshot()?.summary().additional_properties;
    let total = |name: &str| summary.get(name)?.parse::<u64>().ok();
    Some((total("total-data-files")?, total("total-files-size")?, total("total-delete-files")?))
}

/// Whether the summary of the head alone rules out that a rewrite pays: no deletes, one partition spec, too few files to merge,
/// and none of them far too large. A summary that says less, or nothing, rules out nothing.
fn is_settled(state: &TableState, policy: &CompactPolicy) -> bool {
    if state.metadata.current_snapshot().is_none() {
        return true;
    }
    let Some((files, bytes, 0)) = totals(state) else { return false };
    let own = state.property("write.target-file-size-bytes").and_then(|text| text.trim().parse::<u64>().ok());
    let target = own.unwrap_or(policy.target_file_size).max(1);
    let few = files <= 1 || (files < policy.files_min as u64 && bytes < target);
    files == 0 || (state.metadata.partition_specs_iter().count() <= 1 && few && bytes <= target)
}
