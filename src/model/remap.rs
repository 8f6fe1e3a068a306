//! Where a rewrite took the rows of its inputs, so that deletes which arrive meanwhile can follow them.
//!
//! A rewrite that keeps its rows in their order needs little to say so: a row at place `p` of an input is at `base + p − rank(p)`
//! of the outputs, where `base` is the input's own and `rank` counts the rows before it that were left out. Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use roaring::RoaringTreemap;

use crate::error::{Error, ErrorKind, Result};
use crate::model::change::DeleteFile;

/// Places of rows by file.
pub type Places = BTreeMap<String, RoaringTreemap>;

/// Where the rows of one input went.
#[derive(Debug, Clone)]
pub enum Remap {
    /// Rows followed each other as they had before.
    Affine(Affine),
    /// Not known, with the reason: deletes that arrive on the input void the rewrite.
    Unknown(&'static str),
}

/// Where the rows of an input went that were kept in their order.
#[derive(Debug, Clone)]
pub struct Affine {
    /// Rows of earlier inputs that were kept: the place of the first one of this input, over all outputs.
    pub base: u64,
    /// Its rows, those left out as well.
    pub rows: u64,
    /// The places of those that were left out.
    pub applied: RoaringTreemap,
    /// Of these, those that no delete by position reached: keys alone.
    pub by_key: RoaringTreemap,
    /// Deletes by position that may have reached it, files and vectors.
    pub positions: BTreeSet<DeleteFile>,
    /// Deletes by key that may have reached it.
    pub keys: BTreeSet<DeleteFile>,
    /// The files that hold the rows now, one after the other.
    pub outputs: Arc<[Output]>,
}

/// A file of a rewrite, among those that hold one sequence of rows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Output {
    /// Where it is.
    pub location: String,
    /// The place of its first row over all of them.
    pub first: u64,
    /// Its rows.
    pub rows: u64,
}

/// The files in the order in which rows went into them.
pub fn outputs(files: impl IntoIterator<Item = (String, u64)>) -> Arc<[Output]> {
    let mut next = 0_u64;
    let placed = files.into_iter().map(|(location, rows)| {
        let first = next;
        next = next.saturating_add(rows);
        Output { location, first, rows }
    });
    placed.collect()
}

impl Affine {
    /// Adds to `found` where the rows at `places` of the input are now. Those that were left out are nowhere, and
    /// places beyond the last row never were.
    ///
    /// # Errors
    /// `Internal` when the outputs do not hold what the map says.
    pub fn carry(&self, places: &RoaringTreemap, found: &mut Places) -> Result<()> {
        let mut applied = self.applied.iter().peekable();
        let mut rank = 0_u64;
        for old in places.iter().take_while(|old| *old < self.rows) {
            while applied.next_if(|left_out| *left_out < old).is_some() {
                rank += 1;
            }
            if applied.peek() == Some(&old) {
                continue;
            }
            let new = self.base.checked_add(old - rank);
            let lost = || Error::new(ErrorKind::Internal, format!("row {old} of a rewritten file is in no new one"));
            let (output, at) = new.and_then(|new| self.at(new)).ok_or_else(lost)?;
            found.entry(output.location.clone()).or_default().insert(at);
        }
        Ok(())
    }

    /// The output that has this place of all, and the place in it.
    fn at(&self, place: u64) -> Option<(&Output, u64)> {
        let after = self.outputs.partition_point(|output| output.first <= place);
        let output = self.outputs.get(after.checked_sub(1)?)?;
        let at = place - output.first;
        (at < output.rows).then_some((output, at))
    }

    /// The rows that must still be deleted by position where `gone`, some of the deletes that were applied, are there no more;
    /// nothing when none of them may have reached the input.
    pub fn owed(&self, gone: &BTreeSet<DeleteFile>) -> Option<RoaringTreemap> {
        if !gone.is_disjoint(&self.keys) {
            return Some(self.applied.clone());
        }
        (!gone.is_disjoint(&self.positions)).then(|| &self.applied - &self.by_key)
    }

    /// Bytes that it takes, about.
    pub fn bytes(&self) -> u64 {
        (self.applied.serialized_size() + self.by_key.serialized_size()) as u64
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn affine(base: u64, rows: u64, applied: &[u64], outputs: Arc<[Output]>) -> Affine {
        Affine {
            base,
            rows,
            applied: applied.iter().copied().collect(),
            by_key: RoaringTreemap::new(),
            positions: BTreeSet::new(),
            keys: BTreeSet::new(),
            outputs,
        }
    }

    fn carried(map: &Affine, places: &[u64]) -> Vec<(String, Vec<u64>)> {
        let mut found = Places::new();
        map.carry(&places.iter().copied().collect(), &mut found).expect("a whole map");
        found.into_iter().map(|(file, places)| (file, places.into_iter().collect())).collect()
    }

    #[test]
    fn a_place_moves_by_the_base_and_back_by_the_rows_left_out_before_it() {
        let files = outputs([("x".to_owned(), 4), ("y".to_owned(), 5)]);
        let map = affine(3, 10, &[0, 4, 5, 6], files);
        // Row 1 is the fourth of x, rows 2, 3, 7 and 9 are in y; 4 was left out, 10 never was.
        let wanted = [("x".to_owned(), vec![3]), ("y".to_owned(), vec![0, 1, 2, 4])];
        assert_eq!(carried(&map, &[1, 2, 3, 4, 7, 9, 10, 1 << 40]), wanted);
    }

    #[test]
    fn a_map_that_leads_nowhere_is_an_error_and_no_place() {
        let map = affine(3, 10, &[], outputs([("x".to_owned(), 4)]));
        assert_eq!(carried(&map, &[0]), [("x".to_owned(), vec![3])], "the last row");
        let refused = map.carry(&[1].into_iter().collect(), &mut Places::new()).expect_err("beyond it");
        assert_eq!(refused.kind(), ErrorKind::Internal);
    }

    #[test]
    fn what_a_lost_delete_took_out_is_owed_and_what_keys_took_out_only_where_keys_are_lost() {
        let file = |name: &str| DeleteFile { location: name.to_owned(), offset: None };
        let mut map = affine(0, 10, &[1, 2, 3], outputs([("x".to_owned(), 7)]));
        map.by_key = [3].into_iter().collect();
        (map.positions, map.keys) = ([file("p")].into(), [file("k")].into());
        let owed = |gone: &[&str]| {
            let owed = map.owed(&gone.iter().map(|name| file(name)).collect());
            owed.map(|places| places.into_iter().collect::<Vec<_>>())
        };
        assert_eq!(owed(&["p"]), Some(vec![1, 2]));
        assert_eq!(owed(&["k"]), Some(vec![1, 2, 3]));
        assert_eq!(owed(&["p", "k"]), Some(vec![1, 2, 3]));
        assert_eq!(owed(&["other"]), None);
    }

    proptest! {
        #[test]
        fn each_row_is_where_a_rewrite_that_writes_them_one_by_one_puts_it(
            inputs in prop::collection::vec((1_u64..60, prop::collection::btree_set(0_u64..60, 0..40)), 1..6),
            file_rows in 1_u64..40,
        ) {
            // Rows one by one, cut into files of so many.
            let mut written: Vec<(usize, u64)> = Vec::new();
            let mut maps = Vec::new();
            for (input, (rows, applied)) in inputs.iter().enumerate() {
                let applied: Vec<u64> = applied.iter().copied().filter(|at| at < rows).collect();
                maps.push((written.len() as u64, *rows, applied.clone()));
                written.extend((0..*rows).filter(|at| !applied.contains(at)).map(|at| (input, at)));
            }
            let count = written.chunks(file_rows as usize).map(<[_]>::len);
            let files = outputs(count.enumerate().map(|(at, rows)| (format!("{at:04}"), rows as u64)));
            for (input, (base, rows, applied)) in maps.iter().enumerate() {
                let map = affine(*base, *rows, applied, Arc::clone(&files));
                for old in 0..*rows {
                    let now = written.iter().position(|row| *row == (input, old)).map(|at| at as u64);
                    let wanted: Vec<_> = now
                        .map(|at| (format!("{:04}", at / file_rows), vec![at % file_rows]))
                        .into_iter()
                        .collect();
                    prop_assert_eq!(carried(&map, &[old]), wanted, "row {} of input {}", old, input);
                }
            }
        }
    }
}
