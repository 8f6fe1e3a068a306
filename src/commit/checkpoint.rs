//! Where a pipeline stands in a table: the decision table over the records found.
//!
//! Source: docs/protocol.md, "Start, and each look". Pure: whoever calls has loaded the table and read the records.

use std::collections::{BTreeMap, BTreeSet};

use iceberg::spec::SnapshotRef;

use crate::error::{Error, ErrorKind, Result};
use crate::model::change::{OnRollback, PipelineDelta};
use crate::model::checkpoint::{Checkpoint, Positions, Record, cover};
use crate::model::ids::PipelineName;
use crate::model::table::TableState;

/// What the keys of all records begin with.
pub const RECORD_PREFIX: &str = "frazil.checkpoint.";

/// Where the record of `pipeline` on `target` stands, as table property and as key of a snapshot's summary.
pub fn record_key(pipeline: &PipelineName, target: &str) -> String {
    format!("{RECORD_PREFIX}{pipeline}@{target}")
}

/// The snapshots from a ref's head over parents, newest first.
#[derive(Debug, Clone, Default)]
pub struct Chain {
    /// The snapshots that are there.
    pub snapshots: Vec<SnapshotRef>,
    /// The parent at which the chain breaks; `None` when it ends in a snapshot without a parent (*complete*) or is empty.
    pub missing: Option<i64>,
}

impl Chain {
    /// The chain of `target` in `state`.
    ///
    /// # Errors
    /// `Corrupt` when a snapshot is among its own ancestors: metadata that no writer may have made is not walked for ever.
    pub fn of(state: &TableState, target: &str) -> Result<Self> {
        let mut chain = Self::default();
        let mut at = state.head(target).cloned();
        let mut seen = BTreeSet::new();
        while let Some(snapshot) = at {
            let parent = snapshot.parent_snapshot_id();
            if !seen.insert(snapshot.snapshot_id()) {
                return Err(circular(state, snapshot.snapshot_id()));
            }
            chain.snapshots.push(snapshot);
            at = parent.and_then(|id| state.metadata.snapshot_by_id(id).cloned());
            if at.is_none() {
                chain.missing = parent;
            }
        }
        Ok(chain)
    }

    /// Whether a snapshot is in the chain.
    pub fn contains(&self, id: i64) -> bool {
        self.snapshots.iter().any(|s| s.snapshot_id() == id)
    }

    /// Whether a snapshot is in the chain, or is the parent that the chain breaks at because it has expired.
    pub fn reaches(&self, id: i64) -> bool {
        self.contains(id) || self.missing == Some(id)
    }

    /// Whether the chain shows that a record's commit was rolled back.
    pub fn has_lost(&self, record: &Record) -> bool {
        let origin = &record.origin;
        !self.reaches(origin.snapshot)
            && (self.missing.is_none() || self.snapshots.iter().any(|s| s.sequence_number() < origin.seq))
    }

    /// Whether the chain ends in a snapshot without a parent.
    pub fn is_complete(&self) -> bool {
        self.missing.is_none() && !self.snapshots.is_empty()
    }
}

/// What an operator's `positions` go on from, of the record in the property and of the one that the chain's nearest snapshot
/// carries: the record that counts, and those of its sealed epochs that stay decided.
pub fn edited<'a>(
    chain: &Chain,
    property: Option<&'a Record>,
    ancestor: Option<&'a Record>,
    positions: &Positions,
) -> (Option<&'a Record>, Vec<String>) {
    let newest =
        property.filter(|p| ancestor.is_none_or(|a| p.origin == a.origin || p.origin.seq > a.origin.seq)).or(ancestor);
    let mut sealed = newest.map(|record| record.sealed.clone()).unwrap_or_default();
    if newest.is_some_and(|record| chain.has_lost(record) && !cover(positions, &record.checkpoint.positions)) {
        // What the rollback took is read again and decided anew. What was decided before that stands, unless it was finished.
        sealed.retain(|location| ancestor.is_some_and(|a| a.sealed.contains(location)));
    }
    (newest, sealed)
}

/// A snapshot that is among its own ancestors.
pub(crate) fn circular(state: &TableState, snapshot: i64) -> Error {
    let text = format!("table {}: snapshot {snapshot} is among its own ancestors", state.name);
    Error::new(ErrorKind::Corrupt, text).with_hint(
        "the metadata is damaged: set the branch to a snapshot whose parents are right, or register an older metadata file",
    )
}

/// What is known when a pipeline asks where it stands.
#[derive(Debug, Clone)]
pub struct Findings {
    /// The record in the table property.
    pub property: Option<Record>,
    /// The record on the nearest snapshot of the chain that has one.
    pub ancestor: Option<Record>,
    /// Whether anything else says that this pipeline wrote here: files with our prefix, group offsets, the anchor's line.
    pub witness: bool,
    /// The target's chain, newest first; from the metadata log too where it was closed.
    pub chain: Vec<ChainLink>,
    /// The parent at which the chain breaks.
    pub missing: Option<i64>,
    /// Whether the chain was closed from the metadata log already.
    pub closed: bool,
    /// Whether a live entry of head carries the property's snapshot id; asked only in row 10.
    pub live_entry: bool,
    /// The policy.
    pub on_rollback: OnRollback,
}

/// What the decision needs of one snapshot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ChainLink {
    /// Its id.
    pub id: i64,
    /// Its sequence number.
    pub seq: i64,
    /// Whether it was cherry-picked (`source-snapshot-id`).
    pub picked: bool,
}

impl From<&SnapshotRef> for ChainLink {
    fn from(snapshot: &SnapshotRef) -> Self {
        Self {
            id: snapshot.snapshot_id(),
            seq: snapshot.sequence_number(),
            picked: snapshot.summary().additional_properties.contains_key("source-snapshot-id"),
        }
    }
}

/// What to do.
#[derive(Debug)]
pub enum Decision {
    /// A new pipeline: commit the start record.
    New,
    /// Go on from here.
    Take(Taken),
    /// Close the chain from the metadata log's files, look there for the record that has expired, and for live entries in the head;
    /// then decide again.
    Investigate,
    /// Stop, with the way out.
    Halt(Error),
}

/// A checkpoint that was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Taken {
    /// The positions and what belongs to them.
    pub checkpoint: Checkpoint,
    /// Sealed epochs that may not be finished.
    pub sealed: Vec<String>,
    /// What an operator should know.
    pub warning: Option<&'static str>,
    /// Whether it is the older one after a rollback: rows above it have been in the table, and are read again.
    pub rewound: bool,
    /// The sequence number that the record came with.
    pub seq: i64,
    /// As in the record.
    pub under: Option<i64>,
}

impl Taken {
    /// Whether the table was set back without its property telling: a record that its anchor knows of, newer than this one, is
    /// gone; or this one promises that lost rows are read again from another record of the anchor than `begun`, and the anchor
    /// has never known of it. `None` when `state` is from before the record that is known.
    pub fn is_set_back(&self, known_seq: i64, begun: Option<i64>, state: &TableState) -> Option<bool> {
        let older = self.seq < known_seq && !self.rewound;
        let strays = self.seq > known_seq && !self.rewound && self.under.is_some_and(|under| begun != Some(under));
        (!older || state.metadata.last_sequence_number() >= known_seq).then_some(older || strays)
    }

    /// Whether no part may be committed on this record, because the table beside its anchor was set back and nobody has said yet
    /// what of it.
    pub(crate) fn bars(&self, part: &PipelineDelta, state: &TableState) -> bool {
        part.follows.is_some()
            && part.on_rollback != OnRollback::Keep
            && self.is_set_back(part.known_seq, None, state) == Some(true)
    }
}

/// What is said of a table that was set back without its property telling.
pub(crate) fn set_back(state: &TableState) -> Error {
    let what =
        "its checkpoint is not what its anchor knows: the branch was rolled back, and the property removed or replaced";
    Error::new(ErrorKind::Corrupt, format!("table {}: {what}", state.name)).with_hint(
        "rows between may be lost: roll the anchor back as far and rewind, set on_rollback to keep to let them stay away, or say \
         with `frazil checkpoint set` for this table where it stands",
    )
}

impl Findings {
    /// The decision table, first match wins. Row 1 (unreadable records, another table) is an error before this is reached.
    pub fn decide(&self) -> Decision {
        let decision = self.first_match();
        let said = match &decision {
            Decision::New => "new".to_owned(),
            Decision::Take(taken) => taken.warning.unwrap_or("take").to_owned(),
            Decision::Investigate => "investigate".to_owned(),
            Decision::Halt(error) => error.to_string(),
        };
        let same = self.property.as_ref().map(|p| &p.origin) == self.ancestor.as_ref().map(|a| &a.origin);
        tracing::trace!(same, "decided: {said}");
        decision
    }

    fn first_match(&self) -> Decision {
        let (property, ancestor) = (self.property.as_ref(), self.ancestor.as_ref());
        let Some(head) = self.chain.first() else {
            return match property {
                Some(_) => halt(
                    "the branch has no snapshot, but a checkpoint: it was dropped, or the table was replaced",
                    "set the positions to go on from with `frazil checkpoint set`",
                ),
                None => self.nothing_found(),
            };
        };
        match (property, ancestor) {
            (None, None) => self.nothing_found(),
            (Some(p), Some(a)) if p.origin == a.origin => {
                if p.checkpoint == a.checkpoint {
                    take(p, None)
                } else {
                    halt(
                        "the table property and the snapshot of one commit hold different positions",
                        "find out who edited the property; then `frazil checkpoint set`",
                    )
                }
            }
            (None, Some(a)) => take(a, Some("the checkpoint property is gone; the snapshots' record is taken")),
            (Some(p), Some(a)) if p.origin.seq <= a.origin.seq => {
                take(a, Some("the checkpoint property is older than the snapshots' record, which is taken"))
            }
            (Some(p), a) => self.property_alone(*head, p, a),
        }
    }

    fn nothing_found(&self) -> Decision {
        if self.witness {
            halt(
                "this pipeline has written here before, but its checkpoint is gone",
                "set the positions to go on from with `frazil checkpoint set`",
            )
        } else {
            Decision::New
        }
    }

    /// Rows 7 to 10: the property is newer than what the chain carries, or the chain carries nothing.
    fn property_alone(&self, head: ChainLink, p: &Record, a: Option<&Record>) -> Decision {
        let is_in =
            self.chain.iter().any(|link| link.id == p.origin.snapshot) || self.missing == Some(p.origin.snapshot);
        if is_in {
            return take(p, None);
        }
        if self.chain.iter().any(|link| link.picked && a.is_none_or(|a| link.seq > a.origin.seq)) {
            return halt(
                "the branch holds a cherry-picked snapshot newer than its checkpoint: its rows may be in already",
                "check which positions are in, then `frazil checkpoint set`",
            );
        }
        let oldest = self.chain.last().map_or(head.seq, |link| link.seq);
        let complete = self.missing.is_none();
        if head.seq < p.origin.seq || oldest < p.origin.seq || complete {
            // What the branch carried may have expired, and stand in older metadata.
            let decided = complete || self.closed || a.is_some() || self.on_rollback == OnRollback::Halt;
            return if decided { self.rolled_back(p, a, complete) } else { Decision::Investigate };
        }
        if !self.closed {
            Decision::Investigate
        } else if self.live_entry {
            take(p, Some("the checkpoint's snapshot has expired; its files are live, so it is taken"))
        } else {
            halt(
                "the checkpoint's snapshot is gone and nothing shows whether its rows are in",
                "check the rows, then `frazil checkpoint accept`",
            )
        }
    }

    fn rolled_back(&self, p: &Record, a: Option<&Record>, complete: bool) -> Decision {
        match (self.on_rollback, a) {
            (OnRollback::Halt, _) => halt(
                "the branch was rolled back below this pipeline's checkpoint",
                "set on_rollback to rewind (read the rows again) or keep (leave them out)",
            ),
            (OnRollback::Rewind, Some(a)) => {
                // A later commit forgot the others because they were finished; their objects are gone.
                let mut a = a.clone();
                a.sealed.retain(|location| p.sealed.contains(location));
                // Tables beside the anchor keep what they have, and are filled from there.
                a.checkpoint.followers.extend(p.checkpoint.followers.iter().cloned());
                // The parts of epochs that were finished are among what they have.
                for (follower, seq) in &p.checkpoint.known {
                    a.checkpoint.knows(follower, *seq);
                }
                let warning = Some("the branch was rolled back: rows are read again");
                Decision::Take(Taken { rewound: true, ..taken(&a, warning) })
            }
            (_, None) if !complete => halt(
                "the branch was rolled back and its history is cut short, so what is left of this pipeline is unknown",
                "set the positions to go on from with `frazil checkpoint set`",
            ),
            (OnRollback::Rewind, None) => halt(
                "the branch was rolled back to before this pipeline's first checkpoint",
                "set the positions to go on from with `frazil checkpoint set`",
            ),
            (OnRollback::Keep, a) => take(&furthest(p, a), Some("the branch was rolled back: its rows stay away")),
        }
    }
}

/// `p` with, per partition, the larger of both positions.
fn furthest(p: &Record, a: Option<&Record>) -> Record {
    let mut record = p.clone();
    let theirs = a.map(|a| &a.checkpoint.positions).into_iter().flatten();
    let ahead: BTreeMap<_, _> = theirs
        .filter(|(partition, held)| record.checkpoint.positions.get(*partition).is_none_or(|own| held.covers(own)))
        .map(|(partition, held)| (partition.clone(), held.clone()))
        .collect();
    record.checkpoint.positions.extend(ahead);
    record
}

fn take(record: &Record, warning: Option<&'static str>) -> Decision {
    Decision::Take(taken(record, warning))
}

fn taken(record: &Record, warning: Option<&'static str>) -> Taken {
    Taken {
        checkpoint: record.checkpoint.clone(),
        sealed: record.sealed.clone(),
        warning,
        rewound: false,
        seq: record.origin.seq,
        under: record.under,
    }
}

fn halt(what: &str, hint: &str) -> Decision {
    Decision::Halt(Error::new(ErrorKind::Corrupt, what).with_hint(hint))
}

#[cfg(test)]
mod tests;
