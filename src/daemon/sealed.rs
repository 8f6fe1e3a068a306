//! A sealed epoch: the files of all its tables as one object, which the anchor's commit makes a decision.
//!
//! Before that commit the epoch did not happen; after it it will be finished, also by another instance, from this object and
//! its files, never by routing the rows again. Source: docs/protocol.md, "Several tables: seal, decide, finish".

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use std::sync::Arc;

use crate::daemon::lane::Lane;
use crate::error::{Context, Error, ErrorKind, Result};
use crate::model::change::{Append, Change, Data, Evolve, OnRollback, PipelineDelta};
use crate::model::checkpoint::{Checkpoint, Delta, Positions};
use crate::model::ids::{PipelineName, TableName};
use crate::model::table::TableState;
use crate::storage::Storage;
use crate::write::staged::Staged;

/// How the names of sealed epochs begin.
const PREFIX: &str = "sealed-";
/// The version of the object that this program writes; another one is never interpreted.
const VERSION: u32 = 1;
/// Nothing staged for longer is submitted any more: foreign orphan sweeps may have taken it.
pub(crate) const STAGED_MAX_MS: i64 = 24 * 60 * 60 * 1000;

/// Where the sealed epoch that a snapshot decides lies in its table's folder.
pub(crate) fn location(table: &TableState, pipeline: &PipelineName, snapshot_id: i64) -> String {
    // A pipeline's name may hold anything; an object's may not.
    let plain = |c: char| if c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.') { c } else { '_' };
    let name: String = pipeline.as_str().chars().take(100).map(plain).collect();
    let folder = table.metadata.location().trim_end_matches('/');
    format!("{folder}/metadata/{PREFIX}{name}-{snapshot_id:x}.json")
}

/// Whether a sealed epoch lies at `location`.
pub(crate) fn is_location(location: &str) -> bool {
    location.rsplit('/').next().is_some_and(|name| name.starts_with(PREFIX))
}

/// A sealed epoch.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Sealed {
    v: u32,
    pub(crate) pipeline: PipelineName,
    pub(crate) target: String,
    pub(crate) delta: Delta,
    /// Identity and tails of the source.
    pub(crate) witness: Checkpoint,
    pub(crate) sealed_ms: i64,
    /// The tables beside the anchor.
    pub(crate) parts: Vec<SealedPart>,
}

/// One table's part of a sealed epoch.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct SealedPart {
    namespace: Vec<String>,
    name: String,
    /// The table under that name when the files were written.
    pub(crate) uuid: String,
    pub(crate) snapshot_id: i64,
    /// Positions up to which the table had the rows already when its files were written: they hold none of them.
    #[serde(default, skip_serializing_if = "Positions::is_empty")]
    held: Positions,
    /// `write::staged`, as JSON.
    staged: String,
    evolve: Option<SealedEvolve>,
}

/// A schema evolution that the part's files need; the schema is that of its files.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
struct SealedEvolve {
    base_schema_id: i32,
    base_last_column_id: i32,
}

impl SealedPart {
    /// The part that `lane` staged.
    pub(crate) fn new(lane: &Lane, snapshot_id: i64, staged: &Staged) -> Result<Self> {
        let (table, evolve) = (&lane.state, lane.evolve());
        Ok(Self {
            namespace: table.name.namespace().to_vec(),
            name: table.name.name().to_owned(),
            uuid: table.metadata.uuid().to_string(),
            snapshot_id,
            held: lane.held.clone(),
            staged: staged.to_json()?,
            evolve: evolve
                .map(|e| SealedEvolve { base_schema_id: e.base_schema_id, base_last_column_id: e.base_last_column_id }),
        })
    }

    pub(crate) fn table(&self) -> Result<TableName> {
        TableName::new(self.namespace.clone(), self.name.clone())
    }

    /// Refuses a table that is another one by now: field ids and partitions of the files mean nothing in it.
    ///
    /// # Errors
    /// `Corrupt`.
    pub(crate) fn is_of(&self, table: &TableState) -> Result<()> {
        if self.uuid == table.metadata.uuid().to_string() {
            return Ok(());
        }
        Err(Error::new(
            ErrorKind::Corrupt,
            format!("table {} is another one than when its part of an epoch was sealed", table.name),
        )
        .with_hint("it was dropped and created anew: bring the old table back, or set its positions with `frazil checkpoint set`, not below the anchor's"))
    }

    /// The files.
    pub(crate) fn staged(&self) -> Result<Staged> {
        Staged::from_json(&self.staged)
    }
}

impl Sealed {
    pub(crate) fn new(pipeline: PipelineName, target: &str, delta: Delta, witness: Checkpoint, now_ms: i64) -> Self {
        Self { v: VERSION, pipeline, target: target.to_owned(), delta, witness, sealed_ms: now_ms, parts: Vec::new() }
    }

    /// Writes the object.
    ///
    /// # Errors
    /// Those of the store.
    pub(crate) async fn write(&self, storage: &Storage, location: &str) -> Result<()> {
        let text = serde_json::to_vec(self).context(ErrorKind::Internal, || "write a sealed epoch")?;
        storage.write(location, Bytes::from(text)).await
    }

    /// Reads the object of a decided epoch.
    ///
    /// # Errors
    /// `Corrupt` when it is gone, unreadable or of another version: a decided epoch is finished or halts.
    pub(crate) async fn read(storage: &Storage, location: &str) -> Result<Self> {
        Self::find(storage, location).await?.ok_or_else(|| {
            Error::new(ErrorKind::Corrupt, format!("the sealed epoch {location} is gone"))
                .with_hint("restore the object, or compare the tables' rows and forget the epoch with `frazil checkpoint set --drop-sealed`")
        })
    }

    /// The same, or nothing where the object is gone: the epoch was finished, and its anchor has moved on.
    ///
    /// # Errors
    /// `Corrupt` when it is unreadable or of another version.
    pub(crate) async fn find(storage: &Storage, location: &str) -> Result<Option<Self>> {
        let bytes = match storage.read(location).await {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        };
        let sealed: Self =
            serde_json::from_slice(&bytes).context(ErrorKind::Corrupt, || format!("the sealed epoch {location}"))?;
        if sealed.v != VERSION {
            return Err(Error::new(
                ErrorKind::Corrupt,
                format!("the sealed epoch {location} has version {}", sealed.v),
            )
            .with_hint("run the newer frazil that wrote it"));
        }
        Ok(Some(sealed))
    }

    /// Refuses to submit what foreign sweeps may have taken.
    ///
    /// # Errors
    /// `Corrupt` when it was sealed more than a day ago.
    pub(crate) fn is_fresh(&self, location: &str, now_ms: i64) -> Result<()> {
        if now_ms.saturating_sub(self.sealed_ms) <= STAGED_MAX_MS {
            return Ok(());
        }
        Err(Error::new(ErrorKind::Corrupt, format!("the sealed epoch {location} was decided more than a day ago"))
            .with_hint("its files may be gone: compare the tables' rows, then forget the epoch with `frazil checkpoint set --drop-sealed`"))
    }

    /// The change that commits a part. A table that was rolled back since has lost rows that nothing reads again: only the
    /// policy to keep it so goes on.
    pub(crate) fn change(&self, part: &SealedPart, staged: Staged, on_rollback: OnRollback, known_seq: i64) -> Change {
        let (delta, floor) = self.delta.above(&part.held);
        let schema = Arc::clone(&staged.schema);
        let mut change = Change::new(part.snapshot_id);
        change.target.clone_from(&self.target);
        change.evolve = part.evolve.map(|evolve| Evolve {
            base_last_column_id: evolve.base_last_column_id,
            base_schema_id: evolve.base_schema_id,
            schema: Arc::clone(&schema),
        });
        change.data = Some(Data::Append(Append { files: staged.files, schema, spec_id: staged.spec.spec_id() }));
        change.delta = Some(PipelineDelta {
            pipeline: self.pipeline.clone(),
            delta,
            witness: self.witness.clone(),
            on_rollback: if on_rollback == OnRollback::Keep { OnRollback::Keep } else { OnRollback::Halt },
            follows: Some(floor),
            known_seq,
            sealed: Vec::new(),
            finished: Vec::new(),
            operator: None,
        });
        change
    }
}
