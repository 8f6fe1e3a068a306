//! Where a pipeline's rows stand in a table: positions, deltas, and the record that travels with a commit.
//!
//! The rules are those of docs/protocol.md, "Checkpoint".

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::error::{Error, ErrorKind, Result};
use crate::model::ids::PartitionId;

/// The version of [`Record`] that this program writes; a newer one is never interpreted.
pub const RECORD_VERSION: u32 = 1;

/// The last row of one source partition that is in a table.
///
/// As JSON: a number for a log offset, an object for followed files.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Position {
    /// The offset of the last row in a log. A row's number is its offset.
    Offset(i64),
    /// How far a sequence of files has been read.
    Files(FilesPosition),
}

/// An ordered watermark over file names, with a bounded list of exceptions.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FilesPosition {
    /// Every file whose name is at or below this one in byte order has been dealt with.
    pub watermark: String,
    /// The file above the watermark that has been read in part.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub open: Option<OpenFile>,
    /// A file before the open one, or at or below the watermark, that appeared late and has been read in part.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub late_open: Option<OpenFile>,
    /// Names below the watermark that appeared late and have been read as well.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub late: BTreeSet<String>,
}

/// A file that has been read in part.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OpenFile {
    /// The file's name.
    pub name: String,
    /// Rows of it that are dealt with.
    pub rows: u64,
    /// What tells this file from another under the same name: its identity at the store, as far as it has one.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub tag: String,
}

impl Position {
    /// Whether every row up to `other` is also up to `self`. A partial order: of two positions that went different ways
    /// neither covers the other.
    pub fn covers(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Offset(a), Self::Offset(b)) => a >= b,
            (Self::Files(a), Self::Files(b)) => a.covers(b),
            _ => false,
        }
    }
}

/// Whether every row up to `other` is also up to `positions`, in every partition.
pub fn cover(positions: &Positions, other: &Positions) -> bool {
    other.iter().all(|(partition, at)| positions.get(partition).is_some_and(|held| held.covers(at)))
}

impl FilesPosition {
    fn covers(&self, other: &Self) -> bool {
        let late = other.late.iter().all(|name| *name <= self.watermark && self.late.contains(name));
        let late_open = other.late_open.as_ref().is_none_or(|file| {
            if file.name <= other.watermark {
                self.late.contains(&file.name) || file.is_within(self.late_open.as_ref())
            } else {
                self.has_read(file) || file.is_within(self.late_open.as_ref())
            }
        });
        late && late_open
            && self.watermark >= other.watermark
            && other.open.as_ref().is_none_or(|file| self.has_read(file))
    }

    fn has_read(&self, file: &OpenFile) -> bool {
        self.watermark >= file.name || file.is_within(self.open.as_ref())
    }
}

impl OpenFile {
    /// Whether the same file has been read as far or further in `other`.
    fn is_within(&self, other: Option<&Self>) -> bool {
        other.is_some_and(|other| other.name == self.name && other.tag == self.tag && other.rows >= self.rows)
    }
}

/// Per source partition the position up to which its rows are in a table.
pub type Positions = BTreeMap<PartitionId, Position>;

/// Which rows of one partition an epoch holds: after `from`, up to and including `to`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Range {
    /// The position before the first row; `None` at the partition's beginning.
    pub from: Option<Position>,
    /// The position of the last row.
    pub to: Position,
}

/// The rows of an epoch, as ranges of positions. Never empty when it is committed.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Delta {
    /// One range per partition that the epoch read.
    pub ranges: BTreeMap<PartitionId, Range>,
}

/// How a delta relates to a table's checkpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// The checkpoint is at `from` in every partition: the rows are not in.
    Ahead,
    /// The checkpoint is at or past `to` in every partition: the rows are in.
    Behind,
    /// Anything else: somebody else has moved the checkpoint.
    Fenced,
}

impl Delta {
    /// Whether there is nothing in it.
    pub fn is_empty(&self) -> bool {
        self.ranges.is_empty()
    }

    /// Adds the rows of one partition that follow what is here already.
    ///
    /// # Errors
    /// `Internal` when they do not follow.
    pub fn extend(&mut self, partition: PartitionId, range: Range) -> Result<()> {
        match self.ranges.get_mut(&partition) {
            None => {
                self.ranges.insert(partition, range);
            }
            Some(held) if range.from.as_ref() == Some(&held.to) => held.to = range.to,
            Some(held) => {
                return Err(Error::new(
                    ErrorKind::Internal,
                    format!("partition {partition}: rows after {:?} do not follow {:?}", range.from, held.to),
                ));
            }
        }
        Ok(())
    }

    /// Where `positions` stand against this delta.
    pub fn standing(&self, positions: &Positions) -> Standing {
        let at = |ok: fn(&Range, Option<&Position>) -> bool| {
            self.ranges.iter().all(|(partition, range)| ok(range, positions.get(partition)))
        };
        if at(|range, held| held == range.from.as_ref()) {
            Standing::Ahead
        } else if at(|range, held| held.is_some_and(|p| p.covers(&range.to))) {
            Standing::Behind
        } else {
            Standing::Fenced
        }
    }

    /// The same in a table that follows an anchor: it may have had no rows for a while, so anything at or before `from` is
    /// ahead. In partitions of `floor` the rows were chosen by what the table held then: there it must hold the same.
    pub fn standing_following(&self, positions: &Positions, floor: &Positions) -> Standing {
        let reached = |range: &Range, held: &Position| range.from.as_ref().is_some_and(|from| from.covers(held));
        let chosen = floor.iter().all(|(p, at)| positions.get(p) == Some(at));
        let before = |(p, range): (&PartitionId, &Range)| {
            floor.contains_key(p) || positions.get(p).is_none_or(|held| reached(range, held))
        };
        match self.standing(positions) {
            Standing::Behind => Standing::Behind,
            _ if chosen && self.ranges.iter().all(before) => Standing::Ahead,
            _ => Standing::Fenced,
        }
    }

    /// What of this delta a table that stands at `held` lacks, and where its rows begin because of that: nothing of a partition
    /// that it has whole, what lies above its position where that is within the range.
    pub fn above(&self, held: &Positions) -> (Self, Positions) {
        let (mut lacks, mut floor) = (Self::default(), Positions::new());
        for (partition, range) in &self.ranges {
            let mut range = range.clone();
            let inside = held.get(partition).filter(|at| !range.from.as_ref().is_some_and(|from| from.covers(at)));
            if let Some(at) = inside {
                floor.insert(partition.clone(), at.clone());
                range.from = Some(at.clone());
            }
            if inside.is_none_or(|at| !at.covers(&range.to)) {
                lacks.ranges.insert(partition.clone(), range);
            }
        }
        (lacks, floor)
    }

    /// `positions` with this delta's rows added.
    pub fn apply(&self, positions: &Positions) -> Positions {
        let mut moved = positions.clone();
        for (partition, range) in &self.ranges {
            moved.insert(partition.clone(), range.to.clone());
        }
        moved
    }
}

/// A pipeline's positions in one table and ref, with what tells its log from another of the same name.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Checkpoint {
    /// Per partition the position of its last row in the table.
    pub positions: Positions,
    /// The source's own identity (a Kafka cluster's id, a followed folder's URL), empty where it has none.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub source: String,
    /// Per partition what its last row looked like, to notice a log that was made anew.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub tails: BTreeMap<PartitionId, String>,
    /// In an anchor: the uuids of the tables beside it that its epochs had rows for. One that has no record any more has lost
    /// it.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub followers: BTreeSet<String>,
    /// In an anchor: per follower, by uuid, the sequence number of the newest record of it that was known. One whose newest
    /// record is older was set back, and has lost its property as well.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub known: BTreeMap<String, i64>,
}

impl Checkpoint {
    /// In an anchor: `follower` is known to have had a record of this sequence number.
    pub fn knows(&mut self, follower: &str, seq: i64) {
        let known = self.known.entry(follower.to_owned()).or_insert(seq);
        *known = (*known).max(seq);
    }
}

/// The snapshot that first carried a record: what "newer" compares.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Origin {
    /// Its id.
    pub snapshot: i64,
    /// Its sequence number.
    pub seq: i64,
    /// A name of the commit that no other commit shares.
    pub commit: String,
}

/// A checkpoint as it stands in a table property and on a snapshot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// The format's version.
    pub v: u32,
    /// The checkpoint.
    #[serde(rename = "map")]
    pub checkpoint: Checkpoint,
    /// The commit that moved it here.
    pub origin: Origin,
    /// Sealed epochs that are decided and may not be finished in every table: locations of their objects.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub sealed: Vec<String>,
    /// In a table beside an anchor: above which positions the rows of this commit lie, in the partitions that it has rows of.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub above: BTreeMap<PartitionId, Option<Position>>,
    /// In a table beside an anchor, where the record says that lost rows are read again: the sequence number of the anchor's
    /// record from which they are; 0 where it had none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub under: Option<i64>,
}

impl Record {
    /// Whether all rows of the commit lie above `positions`. Nothing is known of commits without rows.
    pub fn lies_above(&self, positions: &Positions) -> Option<bool> {
        let above = |(partition, from): (&PartitionId, &Option<Position>)| {
            positions.get(partition).is_none_or(|at| from.as_ref().is_some_and(|from| from.covers(at)))
        };
        (!self.above.is_empty()).then(|| self.above.iter().all(above))
    }

    /// What an anchor may know of a table with this record when its positions are set: not a promise that lost rows are read
    /// again, which was made to another record of the anchor.
    pub fn known_seq(&self) -> i64 {
        self.origin.seq.saturating_sub(i64::from(self.under.is_some()))
    }

    /// Reads a record.
    ///
    /// # Errors
    /// `Corrupt` when it is none or of a version that this program does not know: a record is never guessed.
    pub fn parse(text: &str) -> Result<Self> {
        #[derive(Deserialize)]
        struct Version {
            v: u32,
        }
        let unreadable = |e| Error::new(ErrorKind::Corrupt, "a checkpoint record cannot be read").with_source(e);
        let Version { v } = serde_json::from_str(text).map_err(unreadable)?;
        if v != RECORD_VERSION {
            return Err(Error::new(ErrorKind::Corrupt, format!("a checkpoint record has version {v}"))
                .with_hint("run the newer frazil that wrote it"));
        }
        serde_json::from_str(text).map_err(unreadable)
    }

    /// The record as one line of JSON.
    pub fn to_text(&self) -> String {
        serde_json::to_string(self).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests;
