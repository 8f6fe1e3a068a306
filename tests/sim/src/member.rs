//! A member of a group that reads a topic: to the daemon what its source of Kafka is, with the same rules on where a log is read on
//! and which records are rows.
//!
//! As there, batches wait in a queue behind which the daemon hears of partitions that come and go, and those of before it began
//! again are dropped.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use frazil::config::kafka::{OnGap, Tombstones};
use frazil::env::Env;
use frazil::error::{Error, ErrorKind, Result};
use frazil::model::batch::RawBatch;
use frazil::model::checkpoint::{Checkpoint, Delta, Position};
use frazil::model::ids::PartitionId;
use frazil::source::gather::{Gaps, Log, Tails, resume};
use frazil::source::{Notes, Source, SourceEvent};

use crate::group::{self, Change, SharedGroup};
use crate::process::Process;
use crate::topic::{self, SharedTopic, Topic};
use crate::world::World;

/// Batches that wait.
const READY: usize = 4;
/// The most rows that are there at a time.
const ROWS: u64 = 6;
/// The most rows that come again.
const AGAIN: u64 = 5;
/// How long it waits before it looks again.
const LOOK_MS: u64 = 400;
/// How often it says that nothing is there.
const IDLE: Duration = Duration::from_secs(5);

/// What waits to be told, and since which opening.
struct Said {
    opening: u64,
    what: What,
}

#[allow(clippy::large_enum_variant)] // nearly all are batches
enum What {
    Batch(RawBatch, String),
    Changed(Change),
    Failed(Error),
}

/// A partition that it believes to hold.
struct Held {
    log: Log,
    /// The offset that it asks for next.
    next: i64,
    /// What it knows of an end that was lost.
    lost: Option<i64>,
}

/// What a member reads, and how.
pub struct Reads {
    /// The topic.
    pub topic: SharedTopic,
    /// The group that it joins.
    pub group: SharedGroup,
    /// What to do about rows that are gone.
    pub on_gap: OnGap,
    /// Where the process counts what its sources passed over.
    pub lost: Arc<AtomicU64>,
}

/// A member.
pub struct Member {
    world: Arc<World>,
    process: Arc<Process>,
    env: Env,
    topic: SharedTopic,
    group: SharedGroup,
    on_gap: OnGap,
    lost: Arc<AtomicU64>,
    id: Option<u64>,
    /// Whoever has this knows that it is there.
    there: Arc<()>,
    holds: BTreeMap<PartitionId, Held>,
    ready: VecDeque<Said>,
    opening: u64,
    tails: Tails,
    gaps: Gaps,
    /// The offsets that it passed over, one by one.
    passed_over: BTreeSet<(PartitionId, i64)>,
    idle: Duration,
}

impl Member {
    /// One that has not joined.
    pub fn new(
        world: Arc<World>,
        process: Arc<Process>,
        env: Env,
        Reads { topic, group, on_gap, lost }: Reads,
    ) -> Self {
        Self {
            world,
            process,
            env,
            topic,
            group,
            on_gap,
            lost,
            id: None,
            there: Arc::new(()),
            holds: BTreeMap::new(),
            ready: VecDeque::new(),
            opening: 0,
            tails: Tails::default(),
            gaps: Gaps::default(),
            passed_over: BTreeSet::new(),
            idle: Duration::ZERO,
        }
    }

    fn say(&mut self, what: What) {
        self.ready.push_back(Said { opening: self.opening, what });
    }

    /// Whoever was put out has nothing any more, and joins again; else it hears what has changed.
    fn listens(&mut self) {
        let group = Arc::clone(&self.group);
        let mut group = group::lock(&group);
        group.passes(&self.world);
        let id = match self.id.filter(|id| group.knows(*id)) {
            Some(id) => id,
            None => {
                let lost: Vec<PartitionId> = std::mem::take(&mut self.holds).into_keys().collect();
                if !lost.is_empty() {
                    self.world.cover("group × finds itself put out");
                    self.say(What::Changed(Change::Lost(lost)));
                }
                group.join(&self.world, &self.process, &self.there)
            }
        };
        self.id = Some(id);
        while let Some(change) = group.news(&self.world, id) {
            match &change {
                Change::Lost(partitions) => self.holds.retain(|id, _| !partitions.contains(id)),
                Change::Gained(partitions) => {
                    let name = topic::lock(&self.topic).name();
                    for id in partitions {
                        let log = Log::new(id.clone(), Arc::clone(&name), Tombstones::Skip);
                        self.holds.insert(id.clone(), Held { log, next: 0, lost: None });
                    }
                }
            }
            self.say(What::Changed(change));
        }
    }

    /// Reads what there is, partition by partition in an order that is another each time.
    fn reads(&mut self) {
        let shared = Arc::clone(&self.topic);
        let mut topic = topic::lock(&shared);
        topic.passes(&self.world);
        let mut order: Vec<PartitionId> = self.holds.keys().cloned().collect();
        for at in (1..order.len()).rev() {
            order.swap(at, usize::try_from(self.env.below(at as u64 + 1)).unwrap_or(0));
        }
        for id in order {
            if self.ready.len() >= READY {
                return;
            }
            let most = if self.world.is_calm() { u64::MAX } else { 1 + self.env.below(ROWS) };
            let Some(held) = self.holds.get_mut(&id).filter(|held| held.log.is_open()) else { continue };
            let what = match held.read(&topic, &id, most, self.env.now_ms()) {
                Ok(None) => continue,
                Ok(Some((batch, tail))) => {
                    if batch.skipped > 0 {
                        self.world.cover("topic × a record without a value is passed over");
                    }
                    What::Batch(batch, tail)
                }
                Err(error) => What::Failed(error),
            };
            self.say(what);
        }
    }

    /// Whether nothing will ever come of what it holds.
    fn is_at_end(&self) -> bool {
        let topic = topic::lock(&self.topic);
        self.ready.is_empty()
            && (!self.holds.is_empty() || self.world.is_calm())
            && self.holds.iter().all(|(id, held)| {
                let number = topic::number(id);
                held.log.is_open() && topic.is_whole(number) && topic.is_read(number, held.next - 1)
            })
    }

    fn may_end(&mut self) -> bool {
        let Some(id) = self.id.filter(|_| self.is_at_end()) else { return false };
        let holds = self.holds.keys().cloned().collect();
        let ends = group::lock(&self.group).may_end(&self.world, id, &holds);
        if ends && !group::lock(&self.group).knows(id) {
            self.id = None;
            self.holds.clear();
        }
        ends
    }

    fn given(&mut self, batch: RawBatch, tail: String) -> SourceEvent {
        self.idle = self.world.clock.elapsed();
        self.tails.keep(&batch, tail);
        SourceEvent::Batch(batch)
    }

    /// A partition is read after what the table has of it.
    fn open_one(&mut self, topic: &Topic, id: &PartitionId, checkpoint: &Checkpoint) -> Result<()> {
        let number = topic::number(id);
        let ends = topic.ends(number);
        let given = match checkpoint.positions.get(id) {
            None => None,
            Some(Position::Offset(offset)) => Some(*offset),
            Some(other) => return Err(Error::new(ErrorKind::Corrupt, format!("position {other:?}"))),
        };
        let (first, witness) = match given {
            // What it had before that nobody knows.
            None => {
                topic.passed_over(&self.world, number, 0..ends.low);
                (ends.low, None)
            }
            Some(given) => {
                let tail = checkpoint.tails.get(id).cloned();
                let found = resume(id, given, tail, (ends.low, ends.high), self.on_gap)?;
                if let Some(removed) = found.removed {
                    self.gaps.add(id, &removed);
                    for at in removed.clone() {
                        let anew = self.passed_over.insert((id.clone(), at));
                        self.lost.fetch_add(u64::from(anew), Ordering::Relaxed);
                    }
                    self.world.cover("topic × what is gone is passed over");
                    topic.passed_over(&self.world, number, removed);
                }
                (found.first, found.witness)
            }
        };
        let mut next = first;
        if self.env.below(4) == 0 {
            next = (first - to_i64(self.env.below(AGAIN))).max(ends.low);
        }
        if next < first {
            self.world.cover("topic × gives rows again");
        }
        if let Some(held) = self.holds.get_mut(id) {
            held.log.open(given, witness);
            (held.next, held.lost) = (next, topic.lost(number));
        }
        Ok(())
    }
}

impl Held {
    /// Takes what there is, up to so many records.
    fn read(&mut self, topic: &Topic, id: &PartitionId, most: u64, now_ms: i64) -> Result<Option<(RawBatch, String)>> {
        let number = topic::number(id);
        let ends = topic.ends(number);
        // A leader tells who asks for what it does not have that it lost it.
        let lost = topic.lost(number);
        let went = lost != self.lost && lost.is_some_and(|lost| lost < self.next);
        if went || self.next < ends.low {
            let text = format!("topic partition {id}: rows are no longer there");
            return Err(Error::new(ErrorKind::Unavailable, text));
        }
        self.lost = lost;
        let mut taken = 0;
        while self.next < ends.high && taken < most {
            let record = topic.record(number, self.next);
            self.next += 1;
            if let Some(record) = record {
                taken += 1;
                self.log.take(record, u64::MAX, now_ms)?;
            }
        }
        Ok(self.log.batch())
    }
}

fn to_i64(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

#[async_trait]
impl Source for Member {
    async fn open(&mut self, checkpoint: &Checkpoint) -> Result<()> {
        self.opening += 1;
        self.tails.clear();
        self.idle = self.world.clock.elapsed();
        let shared = Arc::clone(&self.topic);
        let mut topic = topic::lock(&shared);
        topic.passes(&self.world);
        let holds: Vec<PartitionId> = self.holds.keys().cloned().collect();
        for id in holds {
            self.open_one(&topic, &id, checkpoint)?;
        }
        let (counted, passed) = (self.gaps.total(), self.passed_over.len() as u64);
        if counted != passed {
            self.world.violation(format!("{counted} offsets are counted as lost, {passed} were passed over"));
        }
        Ok(())
    }

    /// State changes between two waits only: a dropped call loses nothing.
    async fn next(&mut self) -> Result<SourceEvent> {
        loop {
            if !self.process.runs() {
                self.process.pass().await;
            }
            self.listens();
            self.reads();
            while let Some(Said { opening, what }) = self.ready.pop_front() {
                match what {
                    // Of partitions that were gained or lost the pipeline hears whenever it was.
                    What::Changed(Change::Gained(partitions)) => {
                        self.world.cover("group × assigned");
                        return Ok(SourceEvent::Assigned(partitions));
                    }
                    What::Changed(Change::Lost(partitions)) => {
                        self.world.cover("group × revoked");
                        return Ok(SourceEvent::Revoked(partitions));
                    }
                    _ if opening != self.opening => self.world.cover("group × drops what it read before"),
                    What::Failed(error) => {
                        self.world.cover("topic × what is asked for is no longer there");
                        return Err(error);
                    }
                    What::Batch(batch, tail) => return Ok(self.given(batch, tail)),
                }
            }
            if self.may_end() {
                return Ok(SourceEvent::End);
            }
            let now = self.world.clock.elapsed();
            if now.saturating_sub(self.idle) >= IDLE {
                self.idle = now;
                return Ok(SourceEvent::Idle);
            }
            self.env.sleep(Duration::from_millis(100 + self.env.below(LOOK_MS))).await;
        }
    }

    async fn release(&mut self, checkpoint: &Checkpoint) -> Result<()> {
        self.tails.release(&checkpoint.positions);
        Ok(())
    }

    fn identity(&self) -> String {
        topic::lock(&self.topic).identity()
    }

    fn tails(&self, delta: &Delta) -> BTreeMap<PartitionId, String> {
        self.tails.of(delta)
    }

    fn notes(&self) -> Notes {
        Notes { rows_lost: self.gaps.totals().clone(), ..Notes::default() }
    }
}

impl Drop for Member {
    /// Half of them say that they go; the others are missed.
    fn drop(&mut self) {
        if let Some(id) = self.id.filter(|_| self.world.env.below(2) == 0) {
            group::lock(&self.group).leave(&self.world, id);
        }
    }
}
