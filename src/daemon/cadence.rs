//! When an epoch is sealed: all of it is decided here. Pure.
//!
//! A loop that is closed by what commits take and what the catalog says to them. An epoch stays open for what the freshness target
//! leaves beside its commit. Below that it ends once its files are as large as they should be, or at a limit. Above it commits that
//! take long, a catalog that asks to wait and commits that meet others again and again hold it open.

use std::time::Duration;

use crate::commit::protocol::Answers;
use crate::config::CommitConfig;
use crate::write::Fill;

/// How much of a commit's time counts in the average, as a divisor.
const MEAN_SHARE: u64 = 4;
/// How far the slowest commit of late comes back to the average with each commit, as a divisor: about one in twenty is slower.
const SLOWEST_SHARE: u64 = 8;
/// However fast a catalog is, sealing more often than this only makes small files.
const INTERVAL_MIN: Duration = Duration::from_millis(50);
/// Conflicts of one commit from which on there are too many.
const CONFLICTS_MANY: u32 = 3;
/// How far conflicts stretch the interval, as a multiple of the freshness target: each costs an attempt, and nothing more.
const CONFLICTS_STRETCH_MAX: u32 = 4;
/// How far a catalog that asks to wait stretches it, and within which bounds that stays.
const THROTTLED_STRETCH_MAX: u32 = 16;
const STRETCHED_MIN: Duration = Duration::from_secs(10);
const STRETCHED_MAX: Duration = Duration::from_secs(15 * 60);
/// What is left to chance, in thousandths of the interval: daemons that were started together commit apart.
const JITTER: u32 = 60;
/// The same after a commit that met another: whoever commits at the same moment as others looks for another one. Each cycle of
/// daemons that began together spreads them over so much more of it.
const JITTER_MET: u32 = 250;

/// What is in the open epoch.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct OpenEpoch {
    /// Rows, rejects included.
    pub rows: u64,
    /// Bytes of files, written or estimated.
    pub bytes: u64,
    /// How far these are.
    pub fill: Fill,
    /// When its first row was written.
    pub opened_ms: i64,
}

/// Why an epoch is sealed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SealReason {
    /// Enough bytes.
    Bytes,
    /// Enough rows.
    Rows,
    /// Its files are as large as they should be.
    Full,
    /// Its oldest row has waited long enough.
    Time,
    /// The process's byte budget is nearly used up.
    Memory,
}

/// What says how long epochs stay open.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Why {
    /// The freshness target.
    #[default]
    Freshness,
    /// Files that are as large as they should be.
    Size,
    /// `rows_max` or `bytes_max`.
    Limit,
    /// The byte budget.
    Memory,
    /// The time that commits take.
    Latency,
    /// A catalog that asks to wait.
    Throttled,
    /// Others that commit to the same table.
    Conflicts,
}

impl Why {
    /// All of them.
    pub const ALL: [Self; 7] =
        [Self::Freshness, Self::Size, Self::Limit, Self::Memory, Self::Latency, Self::Throttled, Self::Conflicts];

    /// As metrics say it.
    pub fn word(self) -> &'static str {
        match self {
            Self::Freshness => "freshness",
            Self::Size => "size",
            Self::Limit => "limit",
            Self::Memory => "memory",
            Self::Latency => "latency",
            Self::Throttled => "throttled",
            Self::Conflicts => "conflicts",
        }
    }
}

/// What commits take, what the catalog says to them, and what that does to the interval between them.
#[derive(Debug, Clone, Copy)]
pub struct Cadence {
    freshness: Duration,
    /// The average commit, and the slowest of late; none before the first.
    commit: Option<(Duration, Duration)>,
    /// The least interval that throttling or conflicts leave, and which of them.
    stretched: Option<(Duration, Why)>,
    /// Whether others commit to the table as well, as far as the last commit could tell, and whether it met one of them.
    others: bool,
    met: bool,
    /// What chance takes off the interval, or puts on it, in thousandths.
    jitter: u32,
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

/// `from` with one part in `share` of `to`.
fn towards(from: Duration, to: Duration, share: u64) -> Duration {
    let kept = (micros(from) / share).saturating_mul(share - 1);
    Duration::from_micros(kept.saturating_add(micros(to) / share))
}

impl Cadence {
    /// Nothing is known of commits yet.
    pub fn new(freshness: Duration) -> Self {
        Self { freshness, commit: None, stretched: None, others: false, met: false, jitter: 0 }
    }

    /// Below which bound chance draws for [`Cadence::draw`].
    pub fn chance(&self) -> u64 {
        u64::from(if self.met { JITTER_MET } else { JITTER }) + 1
    }

    /// Below which bound chance draws for [`Cadence::begin`].
    pub const ANYWHERE: u64 = 1_001;

    /// A group has shared its partitions anew, and all of it begins at once: within the freshness target the first
    /// epoch ends anywhere within the interval.
    pub fn begin(&mut self, chance: u64) {
        self.jitter = u32::try_from(chance.min(Self::ANYWHERE - 1)).unwrap_or(JITTER);
    }

    /// The next interval gets another share of chance.
    pub fn draw(&mut self, chance: u64) {
        self.jitter = u32::try_from(chance.min(self.chance() - 1)).unwrap_or(JITTER);
    }

    /// Notes a commit: how long it took, from seal to answer, and what the catalog said on the way.
    pub fn committed(&mut self, took: Duration, answers: Answers) {
        let before = self.interval().0;
        // How long an outage lasts is not how long commits take.
        let most = self.commit.map_or(self.freshness, |(mean, _)| mean.saturating_mul(4).max(self.freshness));
        let took = took.min(most);
        self.commit = Some(match self.commit {
            None => (took, took),
            Some((mean, slowest)) => {
                let mean = towards(mean, took, MEAN_SHARE);
                (mean, took.max(towards(slowest, mean, SLOWEST_SHARE)))
            }
        });
        self.met = answers.conflicts > 0;
        self.others = answers.others || self.met;
        if answers.throttled > 0 {
            let bounds = self.freshness.saturating_mul(THROTTLED_STRETCH_MAX).clamp(STRETCHED_MIN, STRETCHED_MAX);
            let wanted = before.saturating_mul(2).max(answers.wait);
            self.stretch(wanted.min(bounds), Why::Throttled);
        } else if answers.conflicts >= CONFLICTS_MANY {
            let bound = self.freshness.saturating_mul(CONFLICTS_STRETCH_MAX).min(STRETCHED_MAX.max(self.freshness));
            if self.stretched.is_some_and(|(held, _)| held > bound) {
                self.relax(); // what throttling left is more than conflicts ask for
            } else {
                self.stretch((before + before / 2).min(bound), Why::Conflicts);
            }
        } else if answers.conflicts == 0 {
            self.relax();
        }
    }

    /// Whether the next commit loads the table before its first attempt.
    pub fn looks_first(&self) -> bool {
        self.others
    }

    /// Multiplicatively up,
    fn stretch(&mut self, to: Duration, why: Why) {
        let held = self.stretched.map_or(Duration::ZERO, |(held, _)| held);
        self.stretched = Some((to.max(held), why));
    }

    /// and back in steps.
    fn relax(&mut self) {
        let less = |(held, why): (Duration, Why)| (held.saturating_sub((self.freshness / 4).max(held / 4)), why);
        self.stretched = self.stretched.map(less).filter(|(held, _)| *held > self.floor());
    }

    /// What the catalog can take: twice the average commit, and the slowest of late, so that at most half of the time is spent in
    /// commits, and they become fewer and larger instead of queueing up.
    fn floor(&self) -> Duration {
        let (mean, slowest) = self.commit.unwrap_or_default();
        mean.saturating_mul(2).max(slowest).max(INTERVAL_MIN)
    }

    /// The least time that an epoch is open which could end for the size of its files.
    fn least(&self) -> Duration {
        self.stretched.map_or(Duration::ZERO, |(held, _)| held).max(self.floor())
    }

    /// How long an epoch stays open, chance aside, and what says so.
    pub fn interval(&self) -> (Duration, Why) {
        let (_, slowest) = self.commit.unwrap_or_default();
        let (wish, floor) = (self.freshness.saturating_sub(slowest), self.floor());
        match self.stretched {
            Some((held, why)) if held > wish.max(floor) => (held, why),
            _ if floor > wish => (floor, Why::Latency),
            _ => (wish, Why::Freshness),
        }
    }

    /// The same with chance: earlier within the freshness target, later beyond it.
    fn open_for(&self) -> Duration {
        let (interval, why) = self.interval();
        let share = |thousandths| interval.saturating_mul(thousandths) / 1_000;
        match why {
            Why::Freshness => interval.saturating_sub(share(self.jitter)).max(self.least()),
            _ => interval.saturating_add(share(self.jitter.min(JITTER_MET))),
        }
    }

    /// How long the open epoch may still wait, if nothing is added to it, and for what.
    pub fn due(&self, open: &OpenEpoch, now_ms: i64) -> Option<(Duration, SealReason)> {
        if open.rows == 0 {
            return None;
        }
        let (least, most) = (self.least(), self.open_for());
        let early = open.fill.is_full() && least < most;
        let (wait, why) = if early { (least, SealReason::Full) } else { (most, SealReason::Time) };
        Some((wait.saturating_sub(age(open, now_ms)), why))
    }

    /// Whether the open epoch is to be sealed now.
    pub fn seals(&self, open: &OpenEpoch, limits: &CommitConfig, memory_low: bool, now_ms: i64) -> Option<SealReason> {
        let (wait, why) = self.due(open, now_ms)?;
        if open.bytes >= limits.bytes_max {
            Some(SealReason::Bytes)
        } else if open.rows >= limits.rows_max {
            Some(SealReason::Rows)
        } else if wait.is_zero() {
            Some(why)
        } else if memory_low {
            Some(SealReason::Memory)
        } else {
            None
        }
    }

    /// What says how long epochs stay open, after one that was sealed for `reason`.
    pub fn why(&self, reason: Option<SealReason>) -> Why {
        match reason {
            Some(SealReason::Bytes | SealReason::Rows) => Why::Limit,
            Some(SealReason::Full) => Why::Size,
            Some(SealReason::Memory) => Why::Memory,
            Some(SealReason::Time) | None => self.interval().1,
        }
    }
}

fn age(open: &OpenEpoch, now_ms: i64) -> Duration {
    Duration::from_millis(u64::try_from(now_ms.saturating_sub(open.opened_ms)).unwrap_or(0))
}

#[cfg(test)]
mod tests;
