//! A topic: partitions of records with offsets, transactions that stay open or are given up, retention, and leaders that lose
//! its end.
//!
//! What will be in it is drawn with the seed; how much of that is there already, and what is no longer, changes with time. Producers
//! are at work while somebody reads, so that the rows last as long as the seed.

use std::sync::Arc;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use frazil::config::ReplayConfig;
use frazil::env::{Env, SystemClock};
use frazil::model::checkpoint::Checkpoint;
use frazil::model::ids::{PartitionId, TableName};
use frazil::source::gather::Record;
use frazil::source::replay::ReplaySource;
use frazil::source::{Source, SourceEvent};

use crate::audit::{Watched, event_id, reached};
use crate::world::World;

/// Pauses of the readers for so long or longer: the producers paused with them.
const CATCH_UP: Duration = Duration::from_secs(1);
/// How many times in 10,000 that somebody looks retention takes something, or a leader is lost.
const TAKES: u64 = 25;
const LOSES: u64 = 25;
/// Commits that daemons send before a log loses its end: a pipeline halts for good then.
const LOSES_FROM: u64 = 40;
/// The most rows that retention takes before they are read.
const TAKEN_MAX: u64 = 6;
/// One of so many records has no value, where some have none.
const TOMBSTONES: u64 = 12;
/// Transactions that are open at a time.
const OPEN_MAX: usize = 2;

/// What a topic's end may go through.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Loss {
    /// Rows at the end of a partition go with a leader, and others take their places.
    Tail,
    /// It is deleted and made anew.
    Anew,
}

/// What topics of a seed go through, and their readers with them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Plan {
    /// Whether rows are written in transactions, too.
    pub transactions: bool,
    /// Whether one of these stays open until all other partitions are in.
    pub holds: bool,
    /// How often retention takes rows.
    pub retention: u64,
    /// Whether pipelines pass over what it took before they have read it.
    pub skips: bool,
    /// What becomes of the end.
    pub loss: Option<Loss>,
    /// Whether a rebalance takes all partitions away, and nobody waits for anybody.
    pub eager: bool,
    /// Whether some records have no value: readers pass over them.
    pub tombstones: bool,
}

/// What stands at an offset.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Row,
    /// A row whose transaction was given up.
    Aborted,
    /// The end of a transaction.
    Marker,
    /// A record without a value.
    Tombstone,
}

#[derive(Debug, Clone)]
struct Entry {
    kind: Kind,
    value: Bytes,
    timestamp_ms: i64,
}

/// One partition.
#[derive(Debug)]
struct Partition {
    /// What is written, and what is written instead once its end was lost.
    entries: [Vec<Entry>; 2],
    /// Per end of the log the offset behind which nothing is read yet.
    stable: Vec<usize>,
    low: usize,
    end: usize,
    /// From where on other rows were written.
    lost: Option<usize>,
    /// A transaction's end that waits until everything else is in.
    held: Option<usize>,
}

impl Partition {
    fn entry(&self, offset: usize) -> &Entry {
        &self.entries[usize::from(self.lost.is_some_and(|lost| offset >= lost))][offset]
    }

    fn len(&self) -> usize {
        self.entries[0].len()
    }

    /// Where readers of what is decided have to stop.
    fn stable(&self) -> usize {
        // What is written after a loss is written without transactions; those that it hit are given up.
        let at = self.stable.get(self.end).copied().unwrap_or(self.end);
        self.lost.map_or(at, |lost| if self.end > lost { self.end } else { at.min(lost) })
    }

    fn writes_one(&mut self) -> bool {
        let until = self.held.filter(|_| self.lost.is_none()).unwrap_or(self.len());
        let more = self.end < until;
        self.end += usize::from(more);
        more
    }
}

/// What a reader finds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ends {
    /// The first offset.
    pub low: i64,
    /// The one after the last that is decided.
    pub high: i64,
}

/// A topic, and what became of it.
#[derive(Debug)]
pub struct Topic {
    /// The pipeline that reads it.
    pub pipeline: &'static str,
    anchor: TableName,
    seed: u64,
    plan: Plan,
    rate: u64,
    partitions: Vec<Partition>,
    looked: Duration,
    owed_ms: u64,
    turn: usize,
    taken: u64,
}

/// One that all members share.
pub type SharedTopic = Arc<Mutex<Topic>>;

impl Topic {
    /// An empty topic, of which the auditor learns what will be in it.
    pub async fn learn(
        world: &World,
        plan: Plan,
        config: &ReplayConfig,
        (pipeline, anchor): (&'static str, TableName),
        watched: &Watched,
    ) -> SharedTopic {
        let draw = Env::simulated(Arc::new(SystemClock), world.seed.wrapping_mul(31) ^ config.seed);
        // On its own, so that all else is as it is without.
        let gone = Env::simulated(Arc::new(SystemClock), world.seed.wrapping_mul(37) ^ config.seed);
        let rows = usize::try_from(watched.rows).unwrap_or(0);
        let mut partitions = Vec::new();
        for _ in 0..config.partitions {
            let (mut kinds, stable) = layout(&draw, rows, plan.transactions);
            if plan.tombstones {
                let is_gone = |kind: &&mut Kind| **kind == Kind::Row && gone.below(TOMBSTONES) == 0;
                kinds.iter_mut().filter(is_gone).for_each(|kind| *kind = Kind::Tombstone);
            }
            let entry = |kind| Entry { kind, value: Bytes::new(), timestamp_ms: 0 };
            let other = if plan.loss.is_some() { vec![entry(Kind::Row); rows] } else { Vec::new() };
            let was = kinds.into_iter().map(entry).collect();
            partitions.push(Partition { entries: [was, other], stable, low: 0, end: 0, lost: None, held: None });
        }
        if let Some(held) = partitions.first_mut().filter(|_| plan.holds) {
            let markers = held.entries[0].iter().enumerate().filter(|(at, e)| e.kind == Kind::Marker && *at > rows / 2);
            held.held = markers.map(|(at, _)| at).next();
        }
        let mut topic = Self {
            pipeline,
            anchor,
            seed: config.seed,
            plan,
            rate: config.rate.unwrap_or(1).max(1),
            partitions,
            looked: Duration::ZERO,
            owed_ms: 0,
            turn: 0,
            taken: 0,
        };
        for generation in 0..if plan.loss.is_some() { 2 } else { 1 } {
            topic.write(world, generation, config, watched).await;
        }
        Arc::new(Mutex::new(topic))
    }

    /// Makes up what the records of a generation are.
    async fn write(&mut self, world: &World, generation: u32, config: &ReplayConfig, watched: &Watched) {
        let seed = config.seed + 100 * u64::from(generation);
        let config = ReplayConfig { seed, rate: None, ..config.clone() };
        let mut source = ReplaySource::new(&config, world.env.clone());
        source.open(&Checkpoint::default()).await.expect("a source opens at its beginning");
        while let SourceEvent::Batch(batch) = source.next().await.expect("a made-up row") {
            let partition: u32 = batch.partition.as_str().parse().expect("a number");
            for row in &batch.rows {
                let bytes = batch.bytes(*row);
                let number = u32::try_from(row.number).expect("few rows");
                let own = &mut self.partitions[partition as usize].entries[generation as usize][number as usize];
                (own.value, own.timestamp_ms) = (Bytes::copy_from_slice(bytes), row.timestamp_ms.unwrap_or(0));
                let id = event_id(bytes).expect("every event has an id").to_owned();
                let (row, hole) = (watched.row_of(generation, partition, number), own.kind != Kind::Row);
                world.with_auditor(|a| {
                    a.event_ids.insert(id, row);
                    a.holes.extend(hole.then_some(row));
                });
            }
        }
    }

    /// What tells it from another: that of the cluster, so a topic made anew has the same.
    pub fn identity(&self) -> String {
        format!("topic:{}", self.seed)
    }

    /// The name of its partitions.
    pub fn name(&self) -> Arc<str> {
        format!("topic-{}", self.pipeline).into()
    }

    /// How many there are.
    pub fn partitions(&self) -> usize {
        self.partitions.len()
    }

    /// Time has passed: producers, retention and leaders did their work.
    pub fn passes(&mut self, world: &World) {
        let now = world.clock.elapsed();
        let passed = now.saturating_sub(self.looked).min(CATCH_UP);
        self.looked = now;
        self.lets_go(world);
        if world.is_calm() {
            self.partitions.iter_mut().for_each(|p| while p.writes_one() {});
            return;
        }
        self.owed_ms += u64::try_from(passed.as_millis()).unwrap_or(0) * self.rate;
        let count = self.partitions.len();
        while self.owed_ms >= 1_000 {
            self.owed_ms -= 1_000;
            let start = self.turn;
            self.turn = start + 1;
            (0..count).any(|step| self.partitions[(start + step) % count].writes_one());
        }
        if self.taken < self.plan.retention && world.env.below(10_000) < TAKES && world.step() {
            self.takes(world);
        }
        let lost = self.partitions.iter().any(|p| p.lost.is_some());
        if let Some(loss) = self.plan.loss.filter(|_| !lost && world.attempts() >= LOSES_FROM)
            && world.env.below(10_000) < LOSES
            && world.step()
        {
            self.loses(world, loss);
        }
    }

    /// A transaction ends once all other partitions are in: what waits for it alone would wait for good.
    fn lets_go(&mut self, world: &World) {
        let Some(held) = self.partitions.iter().position(|p| p.held.is_some()) else { return };
        let in_yet = |(at, partition): (usize, &Partition)| {
            let last = || (0..partition.end).rev().find(|at| partition.entry(*at).kind == Kind::Row);
            at == held || partition.end == partition.len() && self.reached(world, at) >= last().map_or(-1, to_i64)
        };
        if self.partitions.iter().enumerate().all(in_yet) {
            world.cover("topic × a transaction outlasts all else");
            world.note("topic", &format!("{}: the transaction in partition {held} ends", self.pipeline));
            self.partitions[held].held = None;
        }
    }

    /// The position of a partition in the table.
    fn reached(&self, world: &World, partition: usize) -> i64 {
        let record = world.with_auditor(|a| a.record_now(&self.anchor, self.pipeline));
        reached(record.as_ref(), &partition.to_string()).unwrap_or(-1)
    }

    /// Retention removes what is oldest, more or less than what is in the table.
    fn takes(&mut self, world: &World) {
        let at = self.draws(world);
        let next = usize::try_from(self.reached(world, at) + 1).unwrap_or(0);
        let more = usize::try_from(world.env.below(TAKEN_MAX)).unwrap_or(0);
        let more = if world.happens(50) { more } else { 0 };
        let partition = &mut self.partitions[at];
        let low = (next + more).min(partition.stable());
        // Of a partition that was never read nobody can tell what it had.
        if next == 0 || low <= partition.low || partition.lost.is_some() {
            return;
        }
        self.taken += 1;
        partition.low = low;
        world.cover(if low > next { "topic × rows go unread" } else { "topic × rows go once they are in" });
        world.note("topic", &format!("{}: partition {at} begins at {low}, the table is at {next}", self.pipeline));
    }

    /// What was at the end is no longer there, and other rows come.
    fn loses(&mut self, world: &World, loss: Loss) {
        let only = self.draws(world);
        for at in 0..self.partitions.len() {
            let reached = usize::try_from(self.reached(world, at) + 1).unwrap_or(0);
            let less = usize::try_from(world.env.below(8)).unwrap_or(0);
            let partition = &mut self.partitions[at];
            let from = match loss {
                Loss::Anew => 0,
                // About where the table is.
                Loss::Tail if at == only => (reached + 3).saturating_sub(less).clamp(partition.low, partition.end),
                Loss::Tail => continue,
            };
            (partition.lost, partition.held) = (Some(from), None);
            (partition.low, partition.end) = (partition.low.min(from), from);
            let in_it = from < reached;
            world.cover(if in_it { "topic × loses rows that are in" } else { "topic × loses rows that are not in" });
            let text = format!("{}: partition {at} ends at {from}, the table is at {reached}", self.pipeline);
            world.note("topic", &text);
            world.with_auditor(|a| a.lose(self.pipeline, at, from));
        }
    }

    fn draws(&self, world: &World) -> usize {
        usize::try_from(world.env.below(self.partitions.len() as u64)).unwrap_or(0)
    }

    /// What a reader finds of a partition.
    pub fn ends(&self, partition: usize) -> Ends {
        let own = &self.partitions[partition];
        Ends { low: to_i64(own.low), high: to_i64(own.stable().max(own.low)) }
    }

    /// Whether all that will ever be there is.
    pub fn is_whole(&self, partition: usize) -> bool {
        let own = &self.partitions[partition];
        own.end == own.len() && own.stable() == own.end
    }

    /// Whether the last thing to be read of a partition is at or below `at`.
    pub fn is_read(&self, partition: usize, at: i64) -> bool {
        let own = &self.partitions[partition];
        let last = (own.low..own.end).rev().find(|at| own.entry(*at).kind == Kind::Row);
        last.is_none_or(|last| to_i64(last) <= at)
    }

    /// From where on the end was lost.
    pub fn lost(&self, partition: usize) -> Option<i64> {
        self.partitions[partition].lost.map(to_i64)
    }

    /// Whether rows went before they were in, so that a reader may have to halt.
    pub fn has_gaps(&self) -> bool {
        self.taken > 0
    }

    /// Whether the table has rows of a partition whose places have others now, or whose transaction lost its end.
    pub fn is_another(&self, world: &World) -> bool {
        (0..self.partitions.len()).any(|at| {
            let reached = self.reached(world, at);
            self.lost(at).is_some_and(|lost| lost <= reached || self.ends(at).high <= reached)
        })
    }

    /// The record at an offset; none where there is none to be read.
    pub fn record(&self, partition: usize, offset: i64) -> Option<Record<'_>> {
        let at = usize::try_from(offset).ok()?;
        let entry = self.partitions[partition].entry(at);
        let value = match entry.kind {
            Kind::Row => Some(&entry.value[..]),
            Kind::Tombstone => None,
            Kind::Aborted | Kind::Marker => return None,
        };
        Some(Record { offset, timestamp_ms: Some(entry.timestamp_ms), value, ..Record::default() })
    }

    /// Rows of these offsets were passed over.
    pub fn passed_over(&self, world: &World, partition: usize, removed: std::ops::Range<i64>) {
        world.with_auditor(|a| a.remove(self.pipeline, partition, removed));
    }
}

/// A partition's name.
pub fn id(partition: usize) -> PartitionId {
    PartitionId::new(partition.to_string())
}

/// A partition by its name.
pub fn number(id: &PartitionId) -> usize {
    id.as_str().parse().expect("a number")
}

/// A topic that others hold, too.
pub fn lock(topic: &SharedTopic) -> std::sync::MutexGuard<'_, Topic> {
    topic.lock().unwrap_or_else(PoisonError::into_inner)
}

fn to_i64(at: usize) -> i64 {
    i64::try_from(at).unwrap_or(i64::MAX)
}

/// What stands at each offset, and per end of the log what is decided before it. All transactions end within.
fn layout(draw: &Env, rows: usize, transactions: bool) -> (Vec<Kind>, Vec<usize>) {
    let mut kinds = vec![Kind::Row; rows];
    let mut stable = Vec::with_capacity(rows + 1);
    let mut open: Vec<Vec<usize>> = Vec::new();
    for at in 0..rows {
        stable.push(open.iter().filter_map(|rows| rows.first().copied()).min().unwrap_or(at));
        let left = rows - at;
        let ends = !open.is_empty() && (left <= open.len() || draw.below(8) == 0);
        let which = usize::try_from(draw.below(open.len() as u64)).unwrap_or(0);
        if ends {
            kinds[at] = Kind::Marker;
            let rows = open.remove(which);
            if draw.below(2) == 0 {
                rows.into_iter().for_each(|row| kinds[row] = Kind::Aborted);
            }
        } else if transactions && open.len() < OPEN_MAX && left > OPEN_MAX + 1 && draw.below(5) == 0 {
            open.push(vec![at]);
        } else if !open.is_empty() && draw.below(2) == 0 {
            open[which].push(at);
        }
    }
    stable.push(rows);
    (kinds, stable)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_log_is_read_up_to_the_first_row_of_a_transaction_that_is_open_and_all_of_it_in_the_end() {
        let draw = Env::simulated(Arc::new(SystemClock), 1);
        let (kinds, stable) = layout(&draw, 400, true);
        for kind in [Kind::Row, Kind::Aborted, Kind::Marker] {
            assert!(kinds.iter().filter(|held| **held == kind).count() > 10, "{kind:?}: {kinds:?}");
        }
        assert!(stable.windows(2).all(|pair| pair[0] <= pair[1]), "what is decided stays so: {stable:?}");
        assert!(stable.iter().enumerate().all(|(end, stable)| *stable <= end));
        assert!(stable.iter().enumerate().any(|(end, stable)| end - stable > 10), "some stay open for long");
        assert_eq!(stable[400], 400);
        let (kinds, stable) = layout(&draw, 40, false);
        assert!(kinds.iter().all(|kind| *kind == Kind::Row) && stable.iter().enumerate().all(|(end, at)| end == *at));
    }
}
