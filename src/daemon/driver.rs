//! When an epoch is sealed. Pure.

use std::time::Duration;

use crate::config::CommitConfig;

/// How much of the last commits' time counts in the average, as a divisor.
const SMOOTHING: u64 = 4;
/// However fast a catalog is, sealing more often than this only makes small files.
const INTERVAL_MIN: Duration = Duration::from_millis(50);

/// What is in the open epoch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OpenEpoch {
    /// Rows, rejects included.
    pub rows: u64,
    /// Bytes of files, written or estimated.
    pub bytes: u64,
    /// When its first row was read.
    pub opened_ms: i64,
}

/// Why an epoch is sealed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SealReason {
    /// Enough bytes.
    Bytes,
    /// Enough rows.
    Rows,
    /// Its oldest row has waited long enough.
    Time,
    /// The process's byte budget is nearly used up.
    Memory,
}

/// How long commits take, and what that does to the interval between them.
#[derive(Debug, Clone, Copy, Default)]
pub struct Cadence {
    commit: Duration,
}

impl Cadence {
    /// Notes how long a commit took, from seal to answer.
    pub fn committed(&mut self, took: Duration) {
        let micros = |d: Duration| u64::try_from(d.as_micros()).unwrap_or(u64::MAX);
        let smoothed = if self.commit.is_zero() {
            micros(took)
        } else {
            (micros(self.commit) / SMOOTHING).saturating_mul(SMOOTHING - 1).saturating_add(micros(took) / SMOOTHING)
        };
        self.commit = Duration::from_micros(smoothed);
    }

    /// How long an epoch stays open: what the freshness target leaves after the commit itself, and, when the catalog is slow,
    /// at least twice its time, so that commits become fewer and larger instead of queueing up.
    pub fn interval(&self, freshness: Duration) -> Duration {
        freshness.saturating_sub(self.commit).max(self.commit.saturating_mul(2)).max(INTERVAL_MIN)
    }
}

/// Whether the open epoch is to be sealed now.
pub fn seal(
    open: &OpenEpoch,
    limits: &CommitConfig,
    cadence: &Cadence,
    memory_low: bool,
    now_ms: i64,
) -> Option<SealReason> {
    if open.rows == 0 {
        return None;
    }
    let age = Duration::from_millis(u64::try_from(now_ms.saturating_sub(open.opened_ms)).unwrap_or(0));
    if open.bytes >= limits.bytes_max {
        Some(SealReason::Bytes)
    } else if open.rows >= limits.rows_max {
        Some(SealReason::Rows)
    } else if age >= cadence.interval(limits.freshness) {
        Some(SealReason::Time)
    } else if memory_low {
        Some(SealReason::Memory)
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limits() -> CommitConfig {
        CommitConfig { freshness: Duration::from_secs(10), rows_max: 1000, bytes_max: 5000, target_file_size: None }
    }

    #[test]
    fn an_epoch_is_sealed_by_whichever_limit_comes_first() {
        let epoch = |rows, bytes| OpenEpoch { rows, bytes, opened_ms: 0 };
        let cadence = Cadence::default();
        let cases = [
            (epoch(0, 9999), true, 99_999, None),
            (epoch(1, 1), false, 9_999, None),
            (epoch(1, 1), false, 10_000, Some(SealReason::Time)),
            (epoch(1, 5000), false, 0, Some(SealReason::Bytes)),
            (epoch(1000, 1), false, 0, Some(SealReason::Rows)),
            (epoch(1, 1), true, 0, Some(SealReason::Memory)),
        ];
        for (open, memory_low, now, expected) in cases {
            assert_eq!(seal(&open, &limits(), &cadence, memory_low, now), expected, "{open:?} at {now}");
        }
    }

    #[test]
    fn a_slow_catalog_stretches_the_interval_and_a_quick_one_gives_it_back() {
        let freshness = Duration::from_secs(10);
        let mut cadence = Cadence::default();
        assert_eq!(cadence.interval(freshness), freshness);
        cadence.committed(Duration::from_secs(1));
        assert_eq!(cadence.interval(freshness), Duration::from_secs(9));
        cadence.committed(Duration::from_secs(61));
        assert_eq!(cadence.interval(freshness), Duration::from_secs(32));
        for _ in 0..40 {
            cadence.committed(Duration::from_millis(100));
        }
        assert!(cadence.interval(freshness) > Duration::from_millis(9_500));
    }
}
