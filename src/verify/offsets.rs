//! Sets of offsets of one log: those that are there, that are there again, and that were deleted.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;

use roaring::RoaringTreemap;

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
            let again = offsets.clone().filter(|offset| self.live.contains(*offset));
            self.twice.extend(again);
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
