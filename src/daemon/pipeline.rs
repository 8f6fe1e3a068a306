//! One pipeline: rows from its source into epochs, epochs into commits.
//!
//! One task owns everything here. Batches are decoded ahead on other threads and written in order; a batch is part of the
//! open epoch once it is written, and only then moves the epoch's delta.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::api::PipelineHealth;
use crate::commit::protocol::Answers;
use crate::config::{PipelineConfig, RejectsTo};
use crate::daemon::cadence::{Cadence, OpenEpoch, SealReason};
use crate::daemon::creation::Creation;
use crate::daemon::lane::{Lane, LaneOptions};
use crate::daemon::table::Asker;
use crate::daemon::tables::Shared;
use crate::daemon::watch::Watch;
use crate::decode::observe::Observed;
use crate::error::{Directive, Error, ErrorKind, Result};
use crate::model::batch::{Batch, RawBatch, Reject, Stage, Times};
use crate::model::checkpoint::{Checkpoint, Delta, Positions, Range};
use crate::model::ids::{PartitionId, PipelineName, TableName};
use crate::quality::quarantine::RejectWindow;
use crate::source::{Source, SourceEvent};
use crate::storage::ledger::LedgerOwner;
use crate::transform::route::Route;
use crate::write::Fill;
use crate::write::budget::Grant;

/// Waits before a pipeline that failed begins again.
const AGAIN_MIN: Duration = Duration::from_millis(500);
const AGAIN_MAX: Duration = Duration::from_secs(30);
/// Lives in a row that may end in a refusal of credentials that came with a table.
const DENIED_MAX: u32 = 3;
/// How often a pipeline looks again while others hold the memory.
const MEMORY_WAIT: Duration = Duration::from_millis(20);
/// What a row costs beside its bytes while it is decoded and waits, as a factor.
const DECODED_FACTOR: u64 = 2;

/// A pipeline at work.
pub(crate) struct Pipeline {
    pub(crate) shared: Shared,
    pub(crate) name: PipelineName,
    pub(crate) config: PipelineConfig,
    pub(crate) options: LaneOptions,
    pub(crate) source: Box<dyn Source>,
    pub(crate) route: Route,
    pub(crate) creation: Creation,
    pub(crate) anchor: TableName,
    pub(crate) lanes_max: usize,
    /// Batches decoded ahead.
    pub(crate) depth: usize,
    pub(crate) lanes: BTreeMap<TableName, Lane>,
    pub(crate) ahead: VecDeque<Ahead>,
    pub(crate) epoch: Epoch,
    pub(crate) cadence: Cadence,
    /// What catalogs said since the last epoch that is in.
    pub(crate) answers: Answers,
    /// Sealed objects that the next commit of the anchor drops.
    pub(crate) finished: Vec<String>,
    /// Whether it began at the beginning of its source: no checkpoint was found.
    pub(crate) fresh: bool,
    /// Where its source begins for one that was never here, once that was asked.
    pub(crate) begins: Option<Positions>,
    /// The positions that it began at.
    pub(crate) begun: Positions,
    /// The sequence number of the anchor's record that said so; 0 when there was none.
    pub(crate) begun_seq: i64,
    /// Tables beside the anchor that its epochs had rows for, as the anchor's record says.
    pub(crate) followers: BTreeSet<Uuid>,
    /// Of each the sequence number of its newest record that anybody knew of.
    pub(crate) known: BTreeMap<String, i64>,
    /// Rows and rejects of late, where the limit is on a time.
    pub(crate) window: Option<RejectWindow>,
    pub(crate) watch: Arc<Watch>,
    /// Ends waiting for good: the grace of a shutdown has passed.
    pub(crate) hard: CancellationToken,
}

/// A batch under way to the writers.
pub(crate) struct Ahead {
    partition: PartitionId,
    range: Range,
    /// Rows as the source counts them, its rejects included.
    rows: u64,
    /// Records that the source passed over.
    skipped: u64,
    rejects: Vec<Reject>,
    /// When its rows were written, where the source says it.
    times: Option<Times>,
    parts: Vec<Part>,
    _grant: Grant,
}

/// One table's rows of a batch.
struct Part {
    table: TableName,
    raw: Arc<RawBatch>,
    version: u64,
    decoding: Option<JoinHandle<Result<(Batch, Observed)>>>,
    decoded: Option<(Batch, Observed)>,
}

/// The rows since the last commit.
#[derive(Debug, Default)]
pub(crate) struct Epoch {
    /// Names the epoch: the snapshot id of the anchor's commit, and the ledger's owner of all its files.
    pub(crate) snapshot_id: i64,
    pub(crate) delta: Delta,
    pub(crate) rows: u64,
    pub(crate) rejects: u64,
    /// Of each partition the rows that are no rejects.
    pub(crate) partitions: BTreeMap<PartitionId, u64>,
    /// Records that the source passed over.
    pub(crate) skipped: u64,
    pub(crate) opened_ms: i64,
    /// When its rows were written, where the source says it.
    pub(crate) times: Option<Times>,
    /// Why it is sealed; nothing at the end of the source, or before a change of columns.
    pub(crate) reason: Option<SealReason>,
}

/// How a life ends that did not fail.
enum End {
    /// The source has ended, or the pipeline is to stop.
    Done,
    /// Partitions came or went: it begins again at the checkpoint.
    Again,
}

/// What the loop does next.
enum Step {
    Stop,
    Seal(SealReason),
    Write,
    Event(Box<SourceEvent>),
    Wait,
}

impl Pipeline {
    /// Runs until the source ends or `stop` is cancelled.
    ///
    /// # Errors
    /// What halts a pipeline. Everything else is waited for or begun again.
    pub(crate) async fn run(mut self, stop: CancellationToken) -> Result<()> {
        let ended = self.live(&stop).await;
        self.source.close().await;
        self.watch.closed();
        ended
    }

    async fn live(&mut self, stop: &CancellationToken) -> Result<()> {
        let mut failures = 0_u32;
        self.watch.set(PipelineHealth::Starting);
        loop {
            let committed = self.watch.commits();
            let error = match self.life(stop, failures > 0).await {
                Ok(End::Done) => {
                    self.watch.set(PipelineHealth::Finished);
                    return Ok(());
                }
                Ok(End::Again) => {
                    self.drop_epoch().await;
                    self.watch.rests();
                    self.cadence.begin(self.shared.env.below(Cadence::ANYWHERE));
                    continue;
                }
                Err(error) => error,
            };
            // Credentials that came with a table may have run out within a long epoch: it gets new ones.
            let vended = self.lanes.values().any(|lane| !lane.state.config.is_empty());
            let expired = error.kind() == ErrorKind::Denied && vended && failures < DENIED_MAX;
            self.drop_epoch().await;
            let again = matches!(error.directive(), Directive::Retry | Directive::Restart) || expired;
            if !again {
                self.watch.set(PipelineHealth::Halted(error.to_string()));
                return Err(error);
            }
            if self.hard.is_cancelled() || stop.is_cancelled() {
                return Ok(());
            }
            failures = if self.watch.commits() > committed { 1 } else { failures.saturating_add(1) };
            self.watch.set(PipelineHealth::Waiting(error.to_string()));
            tracing::warn!(pipeline = %self.name, failures, "begins again at its checkpoint: {error}");
            let wait = self.shared.env.backoff(AGAIN_MIN, AGAIN_MAX, failures - 1);
            let wait = wait.max(error.wait().unwrap_or_default());
            tokio::select! {
                biased;
                () = stop.cancelled() => return Ok(()),
                () = self.shared.env.sleep(wait) => {}
            }
        }
    }

    /// From the table's checkpoint to the end, or to the first error.
    ///
    /// After a failure (`doubtful`) it runs again once something was committed or nothing waits to be, not because it has begun.
    async fn life(&mut self, stop: &CancellationToken, mut doubtful: bool) -> Result<End> {
        tokio::select! {
            biased;
            () = stop.cancelled() => return Ok(End::Done),
            found = self.source.connect() => found?,
        }
        let checkpoint = self.start().await?;
        self.source.open(&checkpoint).await?;
        let (interval, why) = self.cadence.interval();
        self.watch.paced(interval, why);
        if !doubtful {
            self.watch.set(PipelineHealth::Running);
        }
        tracing::info!(pipeline = %self.name, anchor = %self.anchor, partitions = checkpoint.positions.len(), "reads from its checkpoint");
        loop {
            match self.step(stop).await? {
                Step::Stop => return self.drain().await.map(|()| End::Done),
                Step::Seal(reason) => self.seal_for(reason).await?,
                Step::Write => {
                    self.write_next().await?;
                    self.seal_when_due().await?;
                }
                Step::Wait => {
                    self.watch.paused(MEMORY_WAIT);
                    self.shared.env.sleep(MEMORY_WAIT).await;
                }
                Step::Event(event) => {
                    self.watch.notes(&self.source.notes());
                    if matches!(*event, SourceEvent::Idle) && self.epoch.rows == 0 && self.ahead.is_empty() {
                        self.watch.rests();
                    }
                    match *event {
                        SourceEvent::Batch(raw) => self.admit(raw).await?,
                        SourceEvent::End => return self.drain().await.map(|()| End::Done),
                        SourceEvent::Revoked(partitions) if self.holds(&partitions) => {
                            tracing::info!(pipeline = %self.name, ?partitions, "taken away; their open rows are dropped");
                            return Ok(End::Again);
                        }
                        SourceEvent::Revoked(partitions) => {
                            tracing::info!(pipeline = %self.name, ?partitions, "taken away");
                        }
                        SourceEvent::Assigned(partitions) => {
                            // Where they are read on is known once what is under way is in.
                            tracing::info!(pipeline = %self.name, ?partitions, "assigned");
                            return self.drain().await.map(|()| End::Again);
                        }
                        SourceEvent::Idle if doubtful && self.epoch.rows == 0 && self.ahead.is_empty() => {
                            doubtful = false;
                            self.watch.set(PipelineHealth::Running);
                        }
                        SourceEvent::Idle => {}
                    }
                }
            }
        }
    }

    /// Whether rows of one of these partitions are under way to a commit.
    fn holds(&self, partitions: &[PartitionId]) -> bool {
        let ahead = |partition: &PartitionId| self.ahead.iter().any(|batch| batch.partition == *partition);
        partitions.iter().any(|partition| self.epoch.delta.ranges.contains_key(partition) || ahead(partition))
    }

    async fn step(&mut self, stop: &CancellationToken) -> Result<Step> {
        let memory_low = self.shared.budget.over();
        if memory_low && self.ahead.is_empty() {
            // Our own rows are the quickest memory to free; if others hold it, the source pauses.
            return Ok(if stop.is_cancelled() {
                Step::Stop
            } else if self.epoch.rows > 0 {
                Step::Seal(SealReason::Memory)
            } else {
                Step::Wait
            });
        }
        let due = self.cadence.due(&self.open(), self.shared.env.now_ms());
        let (wait, reason) = due.unwrap_or((Duration::ZERO, SealReason::Time));
        let room = self.ahead.len() < self.depth && !memory_low;
        tokio::select! {
            biased;
            () = stop.cancelled() => Ok(Step::Stop),
            () = self.shared.env.sleep(wait), if due.is_some() => Ok(Step::Seal(reason)),
            ready = decoded(self.ahead.front_mut()), if !self.ahead.is_empty() => ready.map(|()| Step::Write),
            event = self.source.next(), if room => event.map(|event| Step::Event(Box::new(event))),
        }
    }

    /// Splits a batch by table and starts to decode it.
    async fn admit(&mut self, raw: RawBatch) -> Result<()> {
        let bytes = u64::try_from(raw.data.len()).unwrap_or(u64::MAX);
        let grant = self.shared.budget.hold(bytes.saturating_mul(DECODED_FACTOR));
        let times = Times::of(&raw.rows);
        let (partition, range, skipped) = (raw.partition.clone(), raw.range.clone(), raw.skipped);
        let rows = (raw.rows.len() + raw.rejects.len()) as u64;
        self.watch.read(&partition, rows, skipped, bytes, times.map(|times| times.newest_ms));
        // What was passed over says nothing of a table that is still to be made.
        let none = rows == 0 && skipped > 0;
        let (by_table, rejects) = if none { Default::default() } else { self.routed(raw) };
        self.stand(&by_table).await?;
        let mut parts = Vec::with_capacity(by_table.len());
        for (table, raw) in by_table {
            self.open_lane(&table, &raw).await?;
            let Some(lane) = self.lanes.get(&table) else { continue };
            let raw = Arc::new(lane.lacks(raw));
            if raw.rows.is_empty() && table != self.anchor {
                continue;
            }
            let (decoder, version) = lane.decoder();
            let (env, held) = (self.shared.env.clone(), Arc::clone(&raw));
            let decoding = tokio::spawn(async move { env.offload(move || decoder.decode_observed(&held)).await });
            parts.push(Part { table, raw, version, decoding: Some(decoding), decoded: None });
        }
        tracing::debug!(pipeline = %self.name, rows, bytes, "read");
        self.ahead.push_back(Ahead { partition, range, rows, skipped, rejects, times, parts, _grant: grant });
        Ok(())
    }

    /// The rows by table. No row names the table of the rejects.
    fn routed(&self, raw: RawBatch) -> (BTreeMap<TableName, RawBatch>, Vec<Reject>) {
        let (mut by_table, mut rejects) = self.route.split(raw);
        let own = self.anchor.with_suffix(REJECTS_SUFFIX);
        if let Some(raw) = by_table.remove(&own) {
            let reason = format!("table {own} is that of the rejects");
            rejects.extend(raw.rows.iter().map(|row| raw.reject(*row, Stage::Route, "", reason.as_str())));
        }
        (by_table, rejects)
    }

    /// Writes the oldest batch that was decoded ahead into the open epoch.
    async fn write_next(&mut self) -> Result<()> {
        let Some(Ahead { partition, range, rows, skipped, mut rejects, times, parts, _grant }) = self.ahead.pop_front()
        else {
            return Ok(());
        };
        let undecoded = || Error::new(ErrorKind::Internal, "a batch was not decoded");
        let mut seal_first = false;
        for part in &parts {
            let (_, observed) = part.decoded.as_ref().ok_or_else(undecoded)?;
            seal_first |= self.lane(&part.table)?.seals_first(&part.raw, observed, part.version).await?;
        }
        if seal_first {
            self.seal().await?;
        }
        for part in parts {
            let owner = self.owner();
            let decoded = part.decoded.ok_or_else(undecoded)?;
            let lane = self.lane(&part.table)?;
            rejects.extend(lane.take(&part.raw, decoded, part.version, &owner).await?);
        }
        if self.waiting() == 0 {
            self.epoch.opened_ms = self.shared.env.now_ms();
        }
        let good = rows.saturating_sub(rejects.len() as u64);
        self.put_aside(&partition, rejects).await?;
        *self.epoch.partitions.entry(partition.clone()).or_default() += good;
        self.epoch.rows += rows;
        self.epoch.skipped += skipped;
        self.epoch.times = self.epoch.times.into_iter().chain(times).reduce(Times::and);
        self.epoch.delta.extend(partition, range)
    }

    fn lane(&mut self, table: &TableName) -> Result<&mut Lane> {
        let missing = || Error::new(ErrorKind::Internal, format!("no lane for table {table}"));
        self.lanes.get_mut(table).ok_or_else(missing)
    }

    /// Rejects go to their table in the same epoch, or are counted, or halt the pipeline.
    async fn put_aside(&mut self, partition: &PartitionId, rejects: Vec<Reject>) -> Result<()> {
        let Some(first) = rejects.first() else {
            return Ok(());
        };
        self.watch.rejected(partition, &rejects);
        self.epoch.rejects += rejects.len() as u64;
        tracing::debug!(pipeline = %self.name, count = rejects.len(), "rejects, the first: {}", first.reason);
        match self.config.rejects.to {
            RejectsTo::Count => Ok(()),
            RejectsTo::Halt => Err(Error::new(
                ErrorKind::Corrupt,
                format!("{} row {}: {} {}", first.origin, first.number, first.field, first.reason),
            )
            .with_hint("mend the row, or send rejects to their table with rejects.to = \"table\"")),
            RejectsTo::Table => {
                let table = self.anchor.with_suffix(REJECTS_SUFFIX);
                self.open_rejects(&table).await?;
                let owner = self.owner();
                let Some(lane) = self.lanes.get_mut(&table) else { return Ok(()) };
                let rejects = lane.lacks_rejects(rejects, partition);
                if rejects.is_empty() { Ok(()) } else { lane.take_rejects(&rejects, partition, &owner).await }
            }
        }
    }

    /// What is in the open epoch.
    fn open(&self) -> OpenEpoch {
        // One reject must not keep full files waiting.
        let rows = self.lanes.iter().filter(|(table, _)| !table.name().ends_with(REJECTS_SUFFIX));
        OpenEpoch {
            rows: self.waiting(),
            bytes: self.lanes.values().map(Lane::bytes).sum(),
            fill: rows.map(|(_, lane)| lane.fill()).fold(Fill::default(), Fill::and),
            opened_ms: self.epoch.opened_ms,
        }
    }

    async fn seal_when_due(&mut self) -> Result<()> {
        let (open, now) = (self.open(), self.shared.env.now_ms());
        if open.rows > 0 {
            self.watch.open(open.bytes, open.opened_ms);
        }
        match self.cadence.seals(&open, &self.config.commit, self.shared.budget.over(), now) {
            Some(reason) => self.seal_for(reason).await,
            None => Ok(()),
        }
    }

    async fn seal_for(&mut self, reason: SealReason) -> Result<()> {
        tracing::debug!(pipeline = %self.name, ?reason, rows = self.epoch.rows, "seals");
        self.epoch.reason = Some(reason);
        self.seal().await
    }

    /// What of the open epoch waits for a commit. What was passed over makes no table: where there is none it waits for rows.
    pub(crate) fn waiting(&self) -> u64 {
        let is_there = !self.fresh || self.lanes.contains_key(&self.anchor);
        self.epoch.rows.saturating_add(if is_there { self.epoch.skipped } else { 0 })
    }

    /// Writes what was read and commits it.
    async fn drain(&mut self) -> Result<()> {
        while !self.ahead.is_empty() {
            decoded(self.ahead.front_mut()).await?;
            self.write_next().await?;
        }
        self.seal().await
    }

    pub(crate) fn owner(&mut self) -> LedgerOwner {
        if self.epoch.snapshot_id == 0 {
            self.epoch.snapshot_id = self.shared.env.snapshot_id();
        }
        LedgerOwner { table: self.anchor.clone(), snapshot_id: self.epoch.snapshot_id }
    }

    /// Forgets the open epoch: its rows are read again.
    async fn drop_epoch(&mut self) {
        self.ahead.clear();
        for lane in self.lanes.values_mut() {
            lane.discard().await;
        }
        self.lanes.clear();
        let epoch = std::mem::take(&mut self.epoch);
        self.watch.returned();
        self.abandon(epoch.snapshot_id).await;
    }

    /// Asks where it stands in a table; `witnesses` are the uuids of those that it has surely written to.
    pub(crate) fn asker(&self, witnesses: BTreeSet<Uuid>) -> Asker {
        let (pipeline, target) = (self.name.clone(), self.config.branch.clone());
        let known = self.known.clone();
        Asker { pipeline, target, on_rollback: self.config.on_rollback, witnesses, known }
    }

    /// What travels beside the positions of `delta`.
    pub(crate) fn witness(&self, delta: &Delta) -> Checkpoint {
        Checkpoint { source: self.source.identity(), tails: self.source.tails(delta), ..Checkpoint::default() }
    }
}

/// Appended to the anchor's name.
pub(crate) const REJECTS_SUFFIX: &str = "__rejects";

/// The time from `then` to `now`, none when the clock went back.
pub(crate) fn since(then_ms: i64, now_ms: i64) -> Duration {
    Duration::from_millis(u64::try_from(now_ms.saturating_sub(then_ms)).unwrap_or(0))
}

/// Waits until every part of a batch is decoded. Cancel-safe: what is decoded stays in the batch.
async fn decoded(ahead: Option<&mut Ahead>) -> Result<()> {
    let Some(ahead) = ahead else {
        return Ok(());
    };
    for part in &mut ahead.parts {
        if let Some(decoding) = &mut part.decoding {
            let answer = decoding.await;
            part.decoding = None;
            part.decoded =
                Some(answer.map_err(|e| Error::new(ErrorKind::Internal, "a decoder failed").with_source(e))??);
        }
    }
    Ok(())
}
