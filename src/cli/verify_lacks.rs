//! What tables lack of epochs that are decided: an epoch of several tables is in its anchor first.

use crate::cli::verify::{Case, Loaded};
use crate::daemon::sealed::{Sealed, SealedPart};
use crate::error::{ErrorKind, Result};
use crate::model::checkpoint;
use crate::model::ids::PipelineName;
use crate::model::table::TableState;
use crate::verify::standing::newest;

/// Rows of a decided epoch that a table does not have yet.
pub(super) struct Lacks {
    pub(super) table: String,
    pub(super) rows: u64,
}

impl Case<'_> {
    /// The parts of the epochs that a pipeline's newest record calls decided which are not in.
    ///
    /// # Errors
    /// Those of the catalog and the store; `Corrupt` for an epoch that cannot be read.
    pub(super) async fn lacks(
        &self,
        pipeline: &PipelineName,
        anchor: Option<&Loaded>,
        tables: &[Loaded],
    ) -> Result<Vec<Lacks>> {
        let Some(deciding) = anchor.or(tables.first()) else { return Ok(Vec::new()) };
        let record = newest(&deciding.storage, &deciding.state, &self.branch, pipeline).await?;
        let mut lacks = Vec::new();
        for location in record.map(|record| record.sealed).unwrap_or_default() {
            // The next commit of the anchor forgets what is finished, and its object goes.
            let Some(sealed) = Sealed::find(&deciding.storage, &location).await? else { continue };
            for part in &sealed.parts {
                if !self.is_in(pipeline, &sealed, part, tables).await? {
                    lacks.push(Lacks { table: part.table()?.to_string(), rows: part.staged()?.rows });
                }
            }
        }
        Ok(lacks)
    }

    async fn is_in(
        &self,
        pipeline: &PipelineName,
        sealed: &Sealed,
        part: &SealedPart,
        tables: &[Loaded],
    ) -> Result<bool> {
        let name = part.table()?;
        let found;
        let table = match tables.iter().find(|own| own.state.name == name) {
            Some(own) => own,
            None => match self.load(&name).await {
                Ok(own) => {
                    found = own;
                    &found
                }
                Err(error) if error.kind() == ErrorKind::NotFound => return Ok(false),
                Err(error) => return Err(error),
            },
        };
        if part.is_of(&table.state).is_ok() && has(&table.state, part) {
            return Ok(true);
        }
        // Another instance may have put the same rows in under an id of its own.
        let record = newest(&table.storage, &table.state, &self.branch, pipeline).await?;
        let positions = record.map(|record| record.checkpoint.positions).unwrap_or_default();
        Ok(sealed.delta.standing(&positions) == checkpoint::Standing::Behind)
    }
}

fn has(table: &TableState, part: &SealedPart) -> bool {
    table.metadata.snapshot_by_id(part.snapshot_id).is_some()
}
