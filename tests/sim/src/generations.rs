//! What the auditor knows of logs that do not keep what they had: rows that retention took, and ends that were lost, after which
//! other rows have the same offsets.

use std::ops::Range;

use crate::audit::{Auditor, Row, Watched};

impl Watched {
    /// The highest row of the second generation that is there, by its number.
    pub(crate) fn newest(&self, partition: u32, there: impl Fn(Row) -> bool) -> Option<u32> {
        let lost = *self.lost.get(&partition)?;
        (lost..self.rows).rev().find(|number| there(self.row_of(1, partition, *number)))
    }

    /// The rows of a partition with their numbers, and whether each must be there when the table is at `reached`.
    ///
    /// Where the end of the log was lost: what was at it may be in or not. Of what was written instead nothing has to be in, for the
    /// table may have been further, and then the pipeline halts. But if one is in, so are all before it: nobody goes on in silence.
    pub(crate) fn rows_of(
        &self,
        partition: u32,
        reached: i64,
        newest: Option<u32>,
    ) -> impl Iterator<Item = (Row, u32, bool)> {
        let lost = self.lost.get(&partition).copied();
        let kept = move |number: u32| lost.is_none_or(|lost| number < lost);
        let first = (0..self.rows).map(move |number| {
            let required = kept(number) && i64::from(number) <= reached;
            (self.row_of(0, partition, number), number, required)
        });
        let second = (lost.unwrap_or(self.rows)..self.rows).map(move |number| {
            (self.row_of(1, partition, number), number, newest.is_some_and(|newest| number <= newest))
        });
        first.chain(second)
    }
}

impl Auditor {
    /// A partition of a pipeline's log has lost its end.
    pub(crate) fn lose(&mut self, pipeline: &str, partition: usize, from: usize) {
        let small = |number: usize| u32::try_from(number).unwrap_or(u32::MAX);
        if let Some(own) = self.pipelines.iter_mut().find(|p| p.name == pipeline) {
            own.lost.insert(small(partition), small(from));
        }
    }

    /// A reader passed over what its log has removed.
    pub(crate) fn remove(&mut self, pipeline: &str, partition: usize, offsets: Range<i64>) {
        let Some(own) = self.pipelines.iter().find(|p| p.name == pipeline) else { return };
        let partition = u32::try_from(partition).unwrap_or(u32::MAX);
        for number in offsets.filter_map(|offset| u32::try_from(offset).ok()) {
            let generation = u32::from(own.lost.get(&partition).is_some_and(|lost| number >= *lost));
            self.removed.insert(own.row_of(generation, partition, number));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use super::*;

    fn watched(lost: Option<u32>) -> Watched {
        Watched {
            name: "p".to_owned(),
            anchor: "shop.events".parse().expect("a name"),
            first: 100,
            partitions: 2,
            rows: 5,
            generations: 2,
            lost: lost.map(|lost| BTreeMap::from([(1, lost)])).unwrap_or_default(),
            keeps: false,
        }
    }

    /// The rows that must be there of partition 1 when the table is at `reached` and has `there`.
    fn required(lost: Option<u32>, reached: i64, there: &[Row]) -> Vec<Row> {
        let own = watched(lost);
        let newest = own.newest(1, |row| there.contains(&row));
        own.rows_of(1, reached, newest).filter(|(.., required)| *required).map(|(row, ..)| row).collect()
    }

    #[test]
    fn where_the_end_was_lost_rows_that_came_instead_are_all_in_up_to_the_last_that_is() {
        assert_eq!(required(None, 3, &[105, 106]), [105, 106, 107, 108]);
        // The first two are kept; those of after the loss begin at number 2, which is 117.
        assert_eq!(required(Some(2), 3, &[105, 106, 107, 108]), [105, 106]);
        assert_eq!(required(Some(2), 3, &[105, 106, 118]), [105, 106, 117, 118]);
        assert_eq!(required(Some(0), 1, &[105, 106]), Vec::<Row>::new());
    }

    #[test]
    fn what_was_passed_over_is_of_the_generation_that_stood_there() {
        let mut auditor = Auditor::of("main");
        auditor.pipelines.push(watched(Some(2)));
        auditor.remove("p", 1, 1..4);
        assert_eq!(auditor.removed, BTreeSet::from([106, 117, 118]));
        auditor.lose("p", 0, 3);
        assert_eq!(auditor.pipelines[0].lost, BTreeMap::from([(0, 3), (1, 2)]));
    }
}
