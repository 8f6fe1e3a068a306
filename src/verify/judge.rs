//! What evidence and checkpoints come to, log by log.

use std::collections::{BTreeMap, BTreeSet};

use roaring::RoaringTreemap;

use crate::error::Result;
use crate::verify::gather::{Copy, Evidence, Request};
use crate::verify::offsets::{Seen, lacking, ranges};
use crate::verify::standing::{Scope, Standing};
use crate::verify::window::Window;

/// How a window turned out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Each row is there once.
    Proven,
    /// Rows are missing, or there twice, or above the checkpoint.
    Broken,
    /// Nothing wrong was seen, and not all could be looked at, or there was nothing to look at.
    Open,
}

/// One log.
#[derive(Debug, Default)]
pub struct LogProof {
    /// Its name.
    pub log: String,
    /// Rows that are there.
    pub rows: u64,
    /// The first and the last offset that is there.
    pub ends: Option<(u64, u64)>,
    /// Offsets that nothing accounts for.
    missing: RoaringTreemap,
    /// Of these, the ones at which the log has no record.
    pub holes: u64,
    /// And the ones that the log has removed since.
    pub removed: u64,
    /// And the ones of records without a value that the source passes over.
    pub skipped: u64,
    /// Whether the log was asked.
    pub asked: bool,
    /// Rows more than offsets.
    pub surplus: u64,
    twice: RoaringTreemap,
    /// Offsets whose rows were deleted.
    pub deleted: u64,
    /// Offsets whose rows were rejected, and are not in the table.
    pub rejected: u64,
    /// Up to where the checkpoint says that rows are in.
    pub checkpoint: Option<i64>,
    /// Rows above it.
    pub above: u64,
    /// Why it cannot be told whether each row is there, where it cannot.
    pub open: Option<&'static str>,
    /// Whether what is missing may be what the source passes over.
    doubted: bool,
}

/// What a log says of offsets that are missing in the table.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Asked {
    /// Offsets at which it has a record.
    pub records: RoaringTreemap,
    /// Offsets below its first record: removed, or never there.
    pub removed: RoaringTreemap,
    /// Offsets of records without a value that the source passes over.
    pub skipped: RoaringTreemap,
    /// Offsets that it does not tell of yet: they are above its end, or above the beginning of an open transaction.
    pub untold: RoaringTreemap,
}

impl LogProof {
    /// Offsets that nothing accounts for.
    pub fn missing(&self) -> u64 {
        self.missing.len()
    }

    /// The same as ranges, in order.
    pub fn gaps(&self) -> impl Iterator<Item = (u64, u64)> + '_ {
        ranges(&self.missing)
    }

    /// Offsets that are there more than once, as ranges in order.
    pub fn duplicates(&self) -> impl Iterator<Item = (u64, u64)> + '_ {
        ranges(&self.twice)
    }

    /// Takes what the log itself says of what is missing.
    pub fn take(&mut self, asked: &Asked) {
        let before = self.missing.len();
        let removed = &self.missing & &asked.removed;
        let untold = self.missing.intersection_len(&asked.untold);
        self.skipped = self.missing.intersection_len(&asked.skipped);
        self.missing &= &asked.records | &removed;
        self.holes = before - self.missing.len() - untold - self.skipped;
        if untold > 0 {
            self.open = Some("the log ends before the last offset asked for, or a transaction is open there");
        }
        self.removed = removed.len();
        self.asked = true;
    }

    /// Without asking the log nobody can tell what is missing from records that the source passes over.
    pub fn doubt(&mut self) {
        if !self.missing.is_empty() {
            let may_be =
                "what is missing may be records without a value, which the source passes over: --connect asks the log";
            (self.doubted, self.open) = (true, self.open.or(Some(may_be)));
        }
    }

    fn is_broken(&self) -> bool {
        let missing = !self.missing.is_empty() && !self.doubted;
        missing || self.surplus > 0 || self.above > 0
    }

    fn of(
        log: &str,
        seen: &Seen,
        rejected: &RoaringTreemap,
        window: &Window,
        standing: &Standing,
        memory: u64,
    ) -> Result<Self> {
        let (from, to) = (window.from.of(log), window.to.of(log));
        let known = |map: &BTreeMap<String, i64>| map.get(log).copied();
        let (checkpoint, due) = (known(&standing.latest), known(&standing.now).map(after));
        let mut accounted = &seen.live | &seen.deleted;
        let deleted = accounted.len() - seen.live.len();
        let last = accounted.max();
        accounted |= rejected;
        // Rejects are looked at after the rows: those above the checkpoint came meanwhile.
        if let Some(end) = checkpoint.map(after) {
            accounted.remove_range(last.map_or(end, |last| end.max(last.saturating_add(1)))..);
        }
        let rejected = accounted.len() - seen.live.len() - deleted;
        let oldest = known(&standing.oldest).map(after);
        // The first offset that must be there, and the first that need not.
        let begin = from.or(accounted.min().into_iter().chain(oldest).min());
        let rows = last.filter(|_| due.is_none() || standing.scope == Scope::One);
        let most = rows.map(|last| last.saturating_add(1)).into_iter().chain(due).max();
        // Without a checkpoint a reject alone says that the rows before it were read: before it was, or after they were looked at.
        let tail = accounted
            .max()
            .map(|last| last.saturating_add(1))
            .filter(|tail| due.is_none() && to.is_none() && most < Some(*tail));
        let end = to.map_or(most, |to| Some(to.saturating_add(1)));
        let is_late = match (begin, tail) {
            (Some(begin), Some(tail)) => !lacking(&accounted, most.unwrap_or(begin), tail, memory)?.is_empty(),
            _ => false,
        };
        let end = end.or(tail.filter(|_| !is_late));
        let missing = match (begin, end) {
            (Some(begin), Some(end)) if standing.scope != Scope::Part => lacking(&accounted, begin, end, memory)?,
            _ => RoaringTreemap::new(),
        };
        let above = checkpoint.map_or(0, |offset| seen.live.range_cardinality(after(offset)..));
        let open = match (begin, end) {
            _ if standing.scope == Scope::Part => Some("what this table lacks may be in the others of its pipeline"),
            _ if is_late => Some("rows before the last reject may have come while it was looked: do it again"),
            _ if checkpoint.is_none() && !standing.now.is_empty() => Some("the checkpoint names no such log"),
            (_, None) => Some("there is no row of it, and no checkpoint"),
            (None, Some(end)) if end > 0 => Some("there is no row of it, and nothing says where it begins"),
            _ => None,
        };
        Ok(Self {
            log: log.to_owned(),
            rows: seen.rows,
            ends: seen.live.min().zip(seen.live.max()),
            missing,
            surplus: seen.rows.saturating_sub(seen.live.len()),
            twice: seen.twice.clone(),
            deleted,
            rejected,
            checkpoint,
            above,
            open,
            ..Self::default()
        })
    }
}

/// The first offset behind a position.
fn after(offset: i64) -> u64 {
    u64::try_from(offset.saturating_add(1)).unwrap_or(0)
}

/// Each log of the window: those that have rows or rejects, and those that a checkpoint or the window itself names. `rejects` is
/// what the table of rejects says.
///
/// # Errors
/// `Unsupported` when the offsets that are missing do not fit into a quarter of the memory that the request allows.
pub fn judge(rows: &Evidence, rejects: &Evidence, request: &Request, standing: &Standing) -> Result<Vec<LogProof>> {
    let window = &*request.window;
    let (none, empty) = (Seen::default(), RoaringTreemap::new());
    let held = rows.logs.keys().chain(rejects.logs.keys()).chain(standing.now.keys()).chain(standing.latest.keys());
    let mut names: BTreeSet<&String> = held.filter(|log| window.has(log)).collect();
    names.extend(window.unmatched(&names));
    // Columns that name logs otherwise than the checkpoint does: it says nothing of the rows then, and is not held against them.
    let is_other = !rows.logs.is_empty() && !rows.logs.keys().any(|log| standing.now.contains_key(log));
    let oldest = if is_other { BTreeMap::new() } else { standing.oldest.clone() };
    let standing = &Standing { oldest, ..standing.clone() };
    let proof = |log: &String| {
        let seen = rows.logs.get(log).unwrap_or(&none);
        let rejected = rejects.logs.get(log).map_or(&empty, |seen| &seen.live);
        LogProof::of(log, seen, rejected, window, standing, request.memory / 4)
    };
    names.into_iter().map(proof).collect()
}

/// What it all comes to.
pub fn verdict(proofs: &[LogProof], rows: &Evidence, rejects: &Evidence, ignore_without: bool) -> Verdict {
    // Where there is no log at all, nothing was proven of any.
    let open = proofs.is_empty()
        || proofs.iter().any(|proof| proof.open.is_some())
        || !rows.unsettled.is_empty()
        || (rows.without > 0 && !ignore_without);
    // What is not settled may be what is missing.
    let unsure = !rows.unsettled.is_empty() || !rejects.unsettled.is_empty();
    let sure = |proof: &LogProof| if unsure { proof.surplus > 0 || proof.above > 0 } else { proof.is_broken() };
    match proofs.iter().any(sure) {
        true => Verdict::Broken,
        false if open || proofs.iter().any(LogProof::is_broken) => Verdict::Open,
        false => Verdict::Proven,
    }
}

/// The offsets that are there more than once, by log: what to look for with [`copies`](super::copies).
pub fn twice(proofs: &[LogProof]) -> BTreeMap<String, RoaringTreemap> {
    let own = proofs.iter().filter(|proof| !proof.twice.is_empty());
    own.map(|proof| (proof.log.clone(), proof.twice.clone())).collect()
}

/// The files of these rows.
pub fn files_of<'a>(copies: &'a [Copy], log: &str, first: u64, last: u64) -> Vec<&'a str> {
    copies.iter().filter(|copy| copy.has(log, first, last)).map(|copy| copy.file.as_str()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lacking_some() -> LogProof {
        LogProof { missing: (3..9).collect(), ..LogProof::default() }
    }

    fn said(proof: LogProof) -> Verdict {
        verdict(&[proof], &Evidence::default(), &Evidence::default(), false)
    }

    #[test]
    fn what_the_source_passes_over_is_not_missing_once_the_log_was_asked() {
        let asked = |records: &[u64], skipped: &[u64]| Asked {
            records: records.iter().copied().collect(),
            skipped: skipped.iter().copied().collect(),
            ..Asked::default()
        };
        let mut proof = lacking_some();
        proof.take(&asked(&[], &[3, 5, 8, 20]));
        assert_eq!((proof.missing(), proof.skipped, proof.holes), (0, 3, 3));
        assert_eq!(said(proof), Verdict::Proven);
        let mut proof = lacking_some();
        proof.take(&asked(&[4], &[3, 5]));
        assert_eq!((proof.gaps().collect::<Vec<_>>(), proof.skipped, proof.holes), (vec![(4, 4)], 2, 3));
        assert_eq!(said(proof), Verdict::Broken);
    }

    #[test]
    fn what_may_have_been_passed_over_is_neither_proven_nor_broken_until_the_log_is_asked() {
        assert_eq!(said(lacking_some()), Verdict::Broken);
        let mut proof = lacking_some();
        proof.doubt();
        assert!(proof.open.is_some_and(|why| why.contains("--connect")), "{:?}", proof.open);
        assert_eq!(said(proof), Verdict::Open);
        let mut twice = LogProof { surplus: 1, ..lacking_some() };
        twice.doubt();
        assert_eq!(said(twice), Verdict::Broken);
        let mut whole = LogProof::default();
        whole.doubt();
        assert_eq!(said(whole), Verdict::Proven);
    }
}
