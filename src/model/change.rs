//! What a commit does to a table: the only way anything changes one.

use std::collections::BTreeMap;

use iceberg::spec::{DataFile, PartitionStatisticsFile, Schema, SnapshotReference, StatisticsFile};

use crate::model::checkpoint::{Checkpoint, Delta};
use crate::model::ids::{MAIN, PipelineName};

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
    pub remove_snapshots: Vec<i64>,
    /// The positions whose rows travel in this change.
    pub delta: Option<PipelineDelta>,
}

/// The kinds of data change. `Append` is built; the others are seams of the maintenance loop.
#[derive(Debug, Clone)]
pub enum Data {
    /// New data files. Empty: a snapshot that moves the ref and the checkpoint only.
    Append(Vec<DataFile>),
}

/// A schema evolution.
#[derive(Debug, Clone)]
pub struct Evolve {
    /// The id of the schema it started from: its columns keep their field ids.
    pub base_schema_id: i32,
    /// The whole new schema; new columns have ids above the table's last assigned one.
    pub schema: Schema,
}

/// A delta and whose it is.
#[derive(Debug, Clone)]
pub struct PipelineDelta {
    /// The pipeline.
    pub pipeline: PipelineName,
    /// The ranges.
    pub delta: Delta,
    /// Identity and tails to record beside the positions; `positions` is ignored.
    pub witness: Checkpoint,
    /// Locations of sealed epochs that this commit decides or keeps open.
    pub sealed: Vec<String>,
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
            remove_snapshots: Vec::new(),
            delta: None,
        }
    }
}
