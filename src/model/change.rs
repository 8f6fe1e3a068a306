//! What a commit does to a table: the only way anything changes one.

use std::collections::{BTreeMap, BTreeSet};

use iceberg::spec::{DataFile, PartitionStatisticsFile, SchemaRef, SnapshotReference, StatisticsFile};

use crate::model::checkpoint::{Checkpoint, Delta, Positions, Standing};
use crate::model::ids::{MAIN, PipelineName};
use crate::model::remap::Remap;
use crate::model::table::TableState;

/// One atomic change of one table.
///
/// What may be combined is checked in `commit::prepare`.
#[derive(Debug, Clone)]
pub struct Change {
    /// The branch the data goes to.
    pub target: String,
    /// The snapshot id, kept over all attempts.
    pub snapshot_id: i64,
    /// Files that come or go.
    pub data: Option<Data>,
    /// A schema that the data needs, with the field ids that it assumes.
    pub evolve: Option<Evolve>,
    /// Branches and tags to set (`Some`) or remove (`None`).
    pub refs: BTreeMap<String, Option<SnapshotReference>>,
    /// Statistics files to register.
    pub statistics: Vec<StatisticsFile>,
    /// Partition statistics files to register.
    pub partition_statistics: Vec<PartitionStatisticsFile>,
    /// Snapshots to remove.
    pub removal: Option<Removal>,
    /// The positions whose rows travel in this change.
    pub delta: Option<PipelineDelta>,
}

/// The kinds of data change.
#[derive(Debug, Clone)]
pub enum Data {
    /// New data files.
    Append(Append),
    /// Data files rewritten: their rows stay as they are.
    Replace(Replace),
    /// Manifests rewritten: files stay as they are.
    RewriteManifests(RewriteManifests),
}

impl Data {
    /// Whether it moves no rows: then it may be void.
    pub fn is_maintenance(&self) -> bool {
        matches!(self, Self::Replace(_) | Self::RewriteManifests(_))
    }
}

/// Data files that come, all of one partition spec.
#[derive(Debug, Clone)]
pub struct Append {
    /// The files. None: a snapshot that moves the ref and the checkpoint only.
    pub files: Vec<DataFile>,
    /// The schema they were written with; that of `Change::evolve` where there is one.
    pub schema: SchemaRef,
    /// The spec they were partitioned by.
    pub spec_id: i32,
}

/// Data files that go, and the files that hold their rows instead. Travels without a delta.
#[derive(Debug, Clone)]
pub struct Replace {
    /// Locations of the data files that go. Not empty.
    pub inputs: BTreeSet<String>,
    /// Every delete file that applied to an input in the planning snapshot: the outputs lack the rows that it deletes.
    pub applied: BTreeSet<DeleteFile>,
    /// The files that come; none where every row was deleted. On v3 each row carries its id. Rows of an input that has the
    /// outputs' spec stay in its partition.
    pub outputs: Vec<DataFile>,
    /// The schema that they were written with, without columns of row lineage.
    pub schema: SchemaRef,
    /// The spec that they were partitioned by.
    pub spec_id: i32,
    /// The planning snapshot: inputs and deletes were read as it has them.
    pub planned: i64,
    /// Its sequence number, which the outputs carry, so that no delete up to it reaches them and every later one does.
    pub planned_seq: i64,
    /// Where the rows of each input went. An input that is missing is one of which nothing is known.
    pub remap: BTreeMap<String, Remap>,
}

/// Manifests whose entries are gathered into fewer. Travels without a delta.
#[derive(Debug, Clone)]
pub struct RewriteManifests {
    /// Their locations. Not empty.
    pub sources: BTreeSet<String>,
    /// Bytes that a new manifest should have.
    pub target_bytes: u64,
    /// The planning snapshot.
    pub planned: i64,
}

/// A delete file of a snapshot: a file, or one deletion vector within a Puffin file.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct DeleteFile {
    /// The file.
    pub location: String,
    /// Where the vector begins in it; nothing for other files.
    pub offset: Option<i64>,
}

impl DeleteFile {
    /// The one that an entry of a manifest names.
    pub fn of(entry: &DataFile) -> Self {
        Self { location: entry.file_path().to_owned(), offset: entry.content_offset() }
    }
}

/// Snapshots that go. Travels alone, but for refs that go with them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Removal {
    /// Their ids.
    pub snapshots: BTreeSet<i64>,
    /// Every ref and its snapshot as they were when the choice was made: where one has moved, choose again.
    pub refs: BTreeMap<String, i64>,
}

/// A schema evolution.
#[derive(Debug, Clone)]
pub struct Evolve {
    /// The table's last assigned column id when the schema was made: new columns have ids above it.
    pub base_last_column_id: i32,
    /// The id of the schema it started from: its columns keep their field ids.
    pub base_schema_id: i32,
    /// The whole new schema.
    pub schema: SchemaRef,
}

/// A delta and whose it is.
#[derive(Debug, Clone)]
pub struct PipelineDelta {
    /// The pipeline.
    pub pipeline: PipelineName,
    /// The ranges. None: the start record, which is committed once, before the first row.
    pub delta: Delta,
    /// Identity and tails to record beside the positions, and the positions of a start record.
    pub witness: Checkpoint,
    /// What to do when the branch was rolled back meanwhile.
    pub on_rollback: OnRollback,
    /// Set where this table follows an anchor: its own positions may lie anywhere at or before `from`. Holds the positions
    /// above which alone the files have rows, because the table had the others already; there it must stand exactly.
    pub follows: Option<Positions>,
    /// Where this table follows an anchor: the sequence number of the newest record that the anchor knows it to have had.
    pub known_seq: i64,
    /// Locations of sealed epochs that this commit decides.
    pub sealed: Vec<String>,
    /// Locations of sealed epochs that are finished: the record forgets these, and keeps all others that it names.
    pub finished: Vec<String>,
    /// Set when an operator sets the positions.
    pub operator: Option<OperatorEdit>,
}

/// An operator's edit of a checkpoint: the witness replaces, as a whole, whatever stands there. The delta has no ranges and
/// the snapshot no files.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OperatorEdit {
    /// The text of the table property that the operator has seen; if another one stands there, somebody moved the
    /// checkpoint meanwhile and the edit is fenced.
    pub replaces: Option<String>,
    /// The branch's head that the operator has seen; once it is no ancestor any more, the branch was rolled back meanwhile
    /// and the edit is fenced.
    pub head: Option<i64>,
    /// Where a pipeline says of a table beside its anchor that lost rows are read again: the sequence number of the anchor's
    /// record from which they are; 0 where it had none.
    pub under: Option<i64>,
}

impl OperatorEdit {
    /// An edit of what `state` shows under `key`, for the branch `target`.
    pub fn of(state: &TableState, key: &str, target: &str) -> Self {
        Self {
            replaces: state.property(key).map(str::to_owned),
            head: state.head(target).map(|head| head.snapshot_id()),
            under: None,
        }
    }
}

/// What a pipeline does when the branch that it writes to was rolled back below its checkpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnRollback {
    /// Stop and ask.
    Halt,
    /// Take the older checkpoint: rows are read again.
    Rewind,
    /// Keep the newer one: the rows that were rolled back stay away.
    Keep,
}

impl PipelineDelta {
    /// The last sequence number that its table has at least: rows come after a start record, and a part after the record that
    /// its anchor knows of.
    pub fn least_seq(&self) -> i64 {
        if self.delta.is_empty() { 0 } else { self.known_seq.max(1) }
    }

    /// Whether it decides a sealed epoch.
    pub fn decides(&self) -> bool {
        !self.sealed.is_empty() && self.follows.is_none() && self.operator.is_none()
    }

    /// Where `positions` stand against the delta.
    pub fn standing(&self, positions: &Positions) -> Standing {
        match &self.follows {
            Some(floor) => self.delta.standing_following(positions, floor),
            None => self.delta.standing(positions),
        }
    }
}

impl Change {
    /// A change of `main` that does nothing yet.
    pub fn new(snapshot_id: i64) -> Self {
        Self {
            target: MAIN.to_owned(),
            snapshot_id,
            data: None,
            evolve: None,
            refs: BTreeMap::new(),
            statistics: Vec::new(),
            partition_statistics: Vec::new(),
            removal: None,
            delta: None,
        }
    }
}
