//! Sets of offsets of one log: those that are there, that are there again, and that were deleted.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;

use roaring::RoaringTreemap;

use crate::error::{Error, ErrorKind, Result};

/// What was seen of one log.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Seen {
    /// Offsets that are there.
    pub(super) live: RoaringTreemap,
    /// Of these, the ones that are there more than once.
    pub(super) twice: RoaringTreemap,
    /// Offsets of deleted rows; they may be there as well.
    pub(super) deleted: RoaringTreemap,
    /// Rows that are there, each counted.
    pub(super) rows: u64,
}

/// By the name of the log.
pub(super) type Logs = BTreeMap<String, Seen>;

impl Seen {
    /// One row at each of these offsets.
    pub(super) fn add(&mut self, offsets: RangeInclusive<u64>) {
        let count = offsets.end().saturating_sub(*offsets.start()).saturating_add(1);
        self.rows = self.rows.saturating_add(count);
        if self.live.range_cardinality(offsets.clone()) > 0 {
            let mut again = RoaringTreemap::new();
            again.insert_range(offsets.clone());
            again &= &self.live;
            self.twice |= again;
        }
        self.live.insert_range(offsets);
    }

    /// What was seen elsewhere.
    pub(super) fn merge(&mut self, other: Self) {
        self.twice |= other.twice;
        self.twice |= &self.live & &other.live;
        self.live |= other.live;
        self.deleted |= other.deleted;
        self.rows = self.rows.saturating_add(other.rows);
    }

    /// Bytes in memory, about.
    pub(super) fn bytes(&self) -> u64 {
        [&self.live, &self.twice, &self.deleted].iter().map(|set| set.serialized_size() as u64).sum()
    }

    /// As small as it can be.
    pub(super) fn shrink(&mut self) {
        self.live.optimize();
        self.deleted.optimize();
    }
}

/// The offsets from `begin` up to `end` that are not in `held`. Ranges are not put in before it is known that they fit: what a
/// user asks for, or a manifest says, may be any number.
///
/// # Errors
/// `Unsupported` when they take more than `memory`.
pub(super) fn lacking(held: &RoaringTreemap, begin: u64, end: u64, memory: u64) -> Result<RoaringTreemap> {
    let (mut missing, mut pending) = (RoaringTreemap::new(), 0_u64);
    let mut put = |first: u64, end: u64| {
        fits(end - first, memory)?;
        missing.insert_range(first..end);
        // A set of single ones has some bytes for each.
        pending = pending.saturating_add((end - first).max(128));
        if fits(pending, memory / 4).is_err() {
            missing.optimize();
            fits((missing.serialized_size() as u64).saturating_mul(8), memory)?;
            pending = 0;
        }
        Ok::<_, Error>(())
    };
    let mut next = begin;
    for (first, last) in ranges(held) {
        if last < next {
            continue;
        }
        if first >= end {
            break;
        }
        if next < first {
            put(next, first)?;
        }
        next = last.saturating_add(1);
    }
    if next < end {
        put(next, end)?;
    }
    Ok(missing)
}

/// Whether a range of so many offsets may be put into a set: each takes a bit until the set is made small.
///
/// # Errors
/// `Unsupported` when it takes more than `memory`.
pub(super) fn fits(offsets: u64, memory: u64) -> Result<()> {
    if offsets / 8 <= memory {
        return Ok(());
    }
    Err(Error::new(ErrorKind::Unsupported, "the offsets of the window do not fit into memory")
        .with_hint("allow more with --max-memory, or look at some partitions or offsets at a time"))
}

/// The ranges of a set, in order. Walked from range to range: dense sets of any size take no longer than small ones.
pub(super) fn ranges(set: &RoaringTreemap) -> impl Iterator<Item = (u64, u64)> + '_ {
    let parts = set.bitmaps().flat_map(|(high, part)| {
        let mut iter = part.iter();
        let base = u64::from(high) << 32;
        std::iter::from_fn(move || {
            let range = iter.next_range()?;
            Some((base | u64::from(*range.start()), base | u64::from(*range.end())))
        })
    });
    joined(parts)
}

/// Ranges that follow one another without a hole become one.
fn joined(ranges: impl Iterator<Item = (u64, u64)>) -> impl Iterator<Item = (u64, u64)> {
    let mut ranges = ranges.peekable();
    std::iter::from_fn(move || {
        let (first, mut last) = ranges.next()?;
        while let Some((_, end)) = ranges.next_if(|(start, _)| last.checked_add(1) == Some(*start)) {
            last = end;
        }
        Some((first, last))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_those_of_the_set() {
        let set: RoaringTreemap =
            [0, 1, 2, 5, 7, 8, 65_535, 65_536, (1 << 32) - 1, 1 << 32, 1 << 40].into_iter().collect();
        let expected = [(0, 2), (5, 5), (7, 8), (65_535, 65_536), ((1 << 32) - 1, 1 << 32), (1 << 40, 1 << 40)];
        assert_eq!(ranges(&set).collect::<Vec<_>>(), expected);
        assert_eq!(ranges(&RoaringTreemap::new()).count(), 0);
        let mut dense = RoaringTreemap::new();
        dense.insert_range(3..=1_000_000_000);
        assert_eq!(ranges(&dense).collect::<Vec<_>>(), [(3, 1_000_000_000)]);
    }

    #[test]
    fn what_is_lacking_is_what_lies_between_and_must_fit() {
        let held: RoaringTreemap = [0, 1, 5, 6, 9, 20].into_iter().collect();
        let all = |begin, end| lacking(&held, begin, end, 1 << 20).map(|set| ranges(&set).collect::<Vec<_>>());
        assert_eq!(all(0, 12).expect("small"), [(2, 4), (7, 8), (10, 11)]);
        assert_eq!(all(3, 6).expect("small"), [(3, 4)]);
        assert_eq!(all(6, 6).expect("small"), []);
        assert_eq!(lacking(&RoaringTreemap::new(), 4, 6, 1 << 10).expect("small").len(), 2);
        let mut dense = RoaringTreemap::new();
        dense.insert_range(3..100_000_000);
        assert_eq!(lacking(&dense, 0, 100_000_010, 1 << 20).expect("small").len(), 13);
        assert_eq!(all(0, u64::MAX).expect_err("large").kind(), ErrorKind::Unsupported);
        assert_eq!(lacking(&held, 0, 1 << 30, 1 << 20).expect_err("large").kind(), ErrorKind::Unsupported);
    }

    #[test]
    fn what_is_there_twice_is_known_however_it_came() {
        let mut one = Seen::default();
        one.add(0..=9);
        one.add(5..=5);
        assert_eq!((one.rows, one.twice.iter().collect::<Vec<_>>()), (11, vec![5]));
        let mut other = Seen::default();
        other.add(9..=12);
        one.merge(other);
        assert_eq!((one.rows, one.live.len()), (15, 13));
        assert_eq!(one.twice.iter().collect::<Vec<_>>(), [5, 9]);
    }
}
