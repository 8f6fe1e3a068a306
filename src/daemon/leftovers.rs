//! What an earlier process of this instance began and did not settle: settled when it is in, deleted under proof when not.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use crate::commit::proof::Leftover;
use crate::daemon::sealed;
use crate::daemon::tables::Shared;
use crate::daemon::watch::Watch;
use crate::error::{ErrorKind, Result};
use crate::model::ids::TableName;
use crate::storage::Storage;
use crate::storage::ledger::{LedgerEntry, LedgerOwner};

/// How often the pipelines are asked whether they have finished what was decided.
const ASK: Duration = Duration::from_secs(1);
/// Of tables with more snapshots the leftovers are the orphan sweep's: the proof reads each of them.
const SNAPSHOTS_MAX: usize = 1000;

/// Settles or cleans `entries`, which the ledger had open when the process began.
///
/// Waits until every pipeline has found its checkpoint: an epoch that was decided is finished there, from these very files.
pub(crate) async fn clean(
    shared: Shared,
    entries: Vec<LedgerEntry>,
    watches: Vec<Arc<Watch>>,
    stop: CancellationToken,
) {
    while !entries.is_empty() && !stop.is_cancelled() && !watches.iter().all(|watch| watch.has_started()) {
        shared.env.sleep(ASK).await;
    }
    for left in by_decision(entries) {
        if stop.is_cancelled() {
            return;
        }
        let owner = left.owner.clone();
        if let Err(error) = clean_one(&shared, left).await {
            tracing::warn!(table = %owner.table, snapshot = owner.snapshot_id, "leftovers stay: {error}");
        }
    }
}

/// What one commit decides, or would have decided.
struct Left {
    owner: LedgerOwner,
    entries: Vec<LedgerEntry>,
    sealed: Option<String>,
    /// A sealed epoch's files in other tables.
    elsewhere: BTreeMap<TableName, Vec<LedgerEntry>>,
}

/// The files of a sealed epoch, in whichever table, hang on its anchor's commit; others on that of their own table.
fn by_decision(entries: Vec<LedgerEntry>) -> Vec<Left> {
    let mut epochs: BTreeMap<i64, BTreeMap<TableName, Vec<LedgerEntry>>> = BTreeMap::new();
    for entry in entries {
        let tables = epochs.entry(entry.owner.snapshot_id).or_default();
        tables.entry(entry.owner.table.clone()).or_default().push(entry);
    }
    let mut all = Vec::new();
    for (snapshot_id, mut tables) in epochs {
        let sealed = tables.iter().find_map(|(table, entries)| {
            let object = entries.iter().find(|entry| sealed::is_location(&entry.location))?;
            Some((table.clone(), object.location.clone()))
        });
        let one = |table: TableName, entries| {
            let owner = LedgerOwner { table, snapshot_id };
            Left { owner, entries, sealed: None, elsewhere: BTreeMap::new() }
        };
        match sealed.and_then(|(table, object)| Some((tables.remove_entry(&table)?, object))) {
            Some(((table, entries), object)) => {
                all.push(Left { sealed: Some(object), elsewhere: tables, ..one(table, entries) });
            }
            None => all.extend(tables.into_iter().map(|(table, entries)| one(table, entries))),
        }
    }
    all
}

async fn clean_one(shared: &Shared, left: Left) -> Result<()> {
    let Left { owner, entries, sealed, elsewhere } = left;
    let beside = elsewhere.keys().map(|table| LedgerOwner { table: table.clone(), snapshot_id: owner.snapshot_id });
    let owners: Vec<LedgerOwner> = beside.chain([owner.clone()]).collect();
    for (catalog, source) in shared.catalogs.iter() {
        let state = match source.load(&owner.table).await {
            Ok(state) => state,
            Err(error) if error.kind() == ErrorKind::NotFound => continue,
            Err(error) => return Err(error),
        };
        let many = state.metadata.snapshots().count() > SNAPSHOTS_MAX;
        if many {
            tracing::info!(table = %owner.table, files = entries.len(), "leftovers are the orphan sweep's");
        }
        if many || state.metadata.snapshot_by_id(owner.snapshot_id).is_some() {
            for owner in &owners {
                shared.ledger.settle(owner).await?;
            }
            return Ok(());
        }
        abort_uploads(&shared.storage.vended(&state.config)?, &entries).await?;
        let names = |entries: Vec<LedgerEntry>| entries.into_iter().map(|entry| entry.location).collect();
        for (table, entries) in &elsewhere {
            let state = source.load(table).await?;
            abort_uploads(&shared.storage.vended(&state.config)?, entries).await?;
        }
        let handle = shared.table(catalog, &owner.table)?;
        handle
            .leave(Leftover {
                files: names(entries),
                snapshot_ids: vec![owner.snapshot_id],
                // The process that died submitted on a state that is no newer than this one.
                submitted_seqs: Some((0, state.metadata.next_sequence_number())),
                without_parent: false,
                sealed,
                elsewhere: elsewhere.into_iter().map(|(table, entries)| (table, names(entries))).collect(),
                owners,
            })
            .await;
        return Ok(());
    }
    Ok(())
}

async fn abort_uploads(storage: &Storage, entries: &[LedgerEntry]) -> Result<()> {
    for entry in entries {
        for upload in &entry.upload_ids {
            storage.abort_upload(&entry.location, upload).await?;
        }
    }
    Ok(())
}
