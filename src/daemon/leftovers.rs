//! What an earlier process of this instance began and did not settle: settled when it is in, deleted under proof when not.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use crate::commit::proof::Leftover;
use crate::daemon::tables::Shared;
use crate::daemon::watch::Watch;
use crate::error::{ErrorKind, Result};
use crate::storage::ledger::{LedgerEntry, LedgerOwner};

/// How often the pipelines are asked whether they have finished what was decided.
const ASK: Duration = Duration::from_secs(1);
/// Of tables with more snapshots the leftovers are the orphan sweep's: the proof reads each of them.
const SNAPSHOTS_MAX: usize = 1000;

/// Settles or cleans what the ledger had open when the process began.
///
/// Waits until every pipeline has found its checkpoint: an epoch that was decided is finished there, from these very files.
pub(crate) async fn clean(shared: Shared, watches: Vec<Arc<Watch>>, stop: CancellationToken) {
    let mut left: BTreeMap<LedgerOwner, Vec<LedgerEntry>> = BTreeMap::new();
    for entry in shared.ledger.open_entries() {
        left.entry(entry.owner.clone()).or_default().push(entry);
    }
    while !left.is_empty() && !stop.is_cancelled() && !watches.iter().all(|watch| watch.has_started()) {
        shared.env.sleep(ASK).await;
    }
    for (owner, entries) in left {
        if stop.is_cancelled() {
            return;
        }
        if let Err(error) = clean_owner(&shared, &owner, entries).await {
            tracing::warn!(table = %owner.table, snapshot = owner.snapshot_id, "leftovers stay: {error}");
        }
    }
}

async fn clean_owner(shared: &Shared, owner: &LedgerOwner, entries: Vec<LedgerEntry>) -> Result<()> {
    for (catalog, source) in shared.catalogs.iter() {
        let state = match source.load(&owner.table).await {
            Ok(state) => state,
            Err(error) if error.kind() == ErrorKind::NotFound => continue,
            Err(error) => return Err(error),
        };
        if state.metadata.snapshot_by_id(owner.snapshot_id).is_some() {
            return shared.ledger.settle(owner).await;
        }
        if state.metadata.snapshots().count() > SNAPSHOTS_MAX {
            tracing::info!(table = %owner.table, files = entries.len(), "leftovers are the orphan sweep's");
            return shared.ledger.settle(owner).await;
        }
        let storage = shared.storage.vended(&state.config)?;
        for entry in &entries {
            for upload in &entry.upload_ids {
                storage.abort_upload(&entry.location, upload).await?;
            }
        }
        let handle = shared.table(catalog, &owner.table)?;
        handle
            .leave(Leftover {
                files: entries.into_iter().map(|entry| entry.location).collect(),
                snapshot_ids: vec![owner.snapshot_id],
                // The process that died submitted on a state that is no newer than this one.
                submitted_seqs: Some((0, state.metadata.next_sequence_number())),
                without_parent: false,
                owners: vec![owner.clone()],
            })
            .await;
        return Ok(());
    }
    Ok(())
}
