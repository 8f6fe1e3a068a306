//! What a table's checkpoints say of its logs.

use std::collections::BTreeMap;

use iceberg::spec::SnapshotRef;

use crate::commit::checkpoint::{Chain, record_key};
use crate::commit::records;
use crate::error::{Error, ErrorKind, Result};
use crate::model::checkpoint::{Position, Positions, Record};
use crate::model::ids::PipelineName;
use crate::model::table::TableState;
use crate::storage::Storage;

/// Up to which offset the rows of each log are in.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Standing {
    /// When the first of the tables was looked at: these must be there.
    pub now: BTreeMap<String, i64>,
    /// When the last of them was: none may be above these.
    pub latest: BTreeMap<String, i64>,
    /// At the oldest snapshot that is there and says so: what came since must be there.
    pub oldest: BTreeMap<String, i64>,
    /// How many of the tables that rows may be in are looked at.
    pub scope: Scope,
}

/// Which of a pipeline's tables are looked at.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Scope {
    /// Its one table.
    #[default]
    One,
    /// All of several, one after the other: rows may come meanwhile.
    All,
    /// One of several: what it lacks may be in the others.
    Part,
}

/// Whether a pipeline has a record in a table, whatever it says.
///
/// # Errors
/// `Corrupt` when a snapshot is among its own ancestors.
pub fn is_recorded(state: &TableState, branch: &str, pipeline: &PipelineName) -> Result<bool> {
    let key = record_key(pipeline, branch);
    let carries = |at: &SnapshotRef| at.summary().additional_properties.contains_key(&key);
    Ok(state.property(&key).is_some() || Chain::of(state, branch)?.snapshots.iter().any(carries))
}

/// What a pipeline's newest record in a table says, where there is one.
///
/// # Errors
/// Those of the store; `Corrupt` when a record cannot be read.
pub async fn newest(
    storage: &Storage,
    state: &TableState,
    branch: &str,
    pipeline: &PipelineName,
) -> Result<Option<Record>> {
    let key = record_key(pipeline, branch);
    if let Some(held) = records::in_property(state, &key)? {
        return Ok(Some(held));
    }
    let chain = Chain::of(state, branch)?;
    match chain.snapshots.iter().find(|at| at.summary().additional_properties.contains_key(&key)) {
        Some(at) => records::carried(storage, at, &key).await,
        None => Ok(None),
    }
}

/// A moment of a table's past.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Moment {
    /// A snapshot.
    Snapshot(i64),
    /// The last snapshot up to this time, in milliseconds since 1970.
    Time(i64),
}

impl Standing {
    /// What a pipeline's records say.
    ///
    /// # Errors
    /// Those of the store; `Corrupt` when a record cannot be read.
    pub async fn of(storage: &Storage, state: &TableState, branch: &str, pipeline: &PipelineName) -> Result<Self> {
        let key = record_key(pipeline, branch);
        let chain = Chain::of(state, branch)?;
        let carries = |at: &&SnapshotRef| at.summary().additional_properties.contains_key(&key);
        let newest = newest(storage, state, branch, pipeline).await?;
        let oldest = match chain.snapshots.iter().rfind(carries) {
            Some(at) => records::carried(storage, at, &key).await?,
            None => None,
        };
        let offsets = |record: Option<Record>| record.map(|own| offsets(&own.checkpoint.positions)).unwrap_or_default();
        let now = offsets(newest);
        Ok(Self { latest: now.clone(), now, oldest: offsets(oldest), scope: Scope::One })
    }

    /// The same with what another table of the pipeline says.
    pub fn join(&mut self, other: Self) {
        let sides = [(&mut self.now, other.now), (&mut self.latest, other.latest), (&mut self.oldest, other.oldest)];
        for (own, more) in sides {
            most(own, more);
        }
    }

    /// The same with what a table says that was looked at later: no more rows must be there for it.
    pub fn follow(&mut self, other: Self) {
        most(&mut self.latest, other.latest);
    }
}

fn most(own: &mut BTreeMap<String, i64>, more: BTreeMap<String, i64>) {
    for (log, offset) in more {
        let held = own.entry(log).or_insert(offset);
        *held = offset.max(*held);
    }
}

fn offsets(positions: &Positions) -> BTreeMap<String, i64> {
    let offset = |(log, position): (&crate::model::ids::PartitionId, &Position)| match position {
        Position::Offset(offset) => Some((log.to_string(), *offset)),
        Position::Files(_) => None,
    };
    positions.iter().filter_map(offset).collect()
}

/// The pipelines that have a record in a table's properties for a branch.
pub fn pipelines(state: &TableState, branch: &str) -> Vec<PipelineName> {
    let mut keys: Vec<&String> = state.metadata.properties().keys().collect();
    keys.sort();
    let owner = |key: &&String| {
        let (pipeline, at) = key.strip_prefix(PREFIX)?.rsplit_once('@')?;
        (at == branch).then(|| PipelineName::new(pipeline))
    };
    keys.iter().filter_map(owner).collect()
}

const PREFIX: &str = "frazil.checkpoint.";

/// Where a pipeline stood at a moment.
///
/// # Errors
/// `NotFound` when there is no such snapshot, or nothing says where it stood; those of the store; `Corrupt` when the record cannot
/// be read.
pub async fn positions_at(
    storage: &Storage,
    state: &TableState,
    branch: &str,
    pipeline: &PipelineName,
    moment: Moment,
) -> Result<Positions> {
    let chain = Chain::of(state, branch)?;
    let key = record_key(pipeline, branch);
    let meant = |at: &&SnapshotRef| match moment {
        Moment::Snapshot(id) => at.snapshot_id() == id,
        Moment::Time(ms) => at.timestamp_ms() <= ms,
    };
    let missing = |what: String| {
        Error::new(ErrorKind::NotFound, format!("table {}: {what}", state.name))
            .with_hint("`frazil table history` shows the snapshots; --from takes offsets")
    };
    let at = chain.snapshots.iter().position(|at| meant(&at));
    let at = at.ok_or_else(|| missing(format!("branch {branch} has no such snapshot")))?;
    for at in &chain.snapshots[at..] {
        if let Some(record) = records::carried(storage, at, &key).await? {
            return Ok(record.checkpoint.positions);
        }
    }
    match chain.missing {
        // Complete, and nothing of this pipeline: it began later.
        None => Ok(Positions::new()),
        Some(_) => Err(missing(format!("nothing says where pipeline {pipeline} stood then"))),
    }
}
