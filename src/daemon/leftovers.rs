//! What an earlier process of this instance began and did not settle: settled when it is in, deleted under proof when not.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use crate::commit::manifests;
use crate::commit::proof::Leftover;
use crate::daemon::sealed;
use crate::daemon::tables::Shared;
use crate::daemon::watch::Watch;
use crate::error::{Directive, ErrorKind, Result};
use crate::model::ids::TableName;
use crate::model::table::TableState;
use crate::storage::Storage;
use crate::storage::ledger::{LedgerEntry, LedgerOwner};

/// How often the pipelines are asked whether they have finished what was decided.
const ASK: Duration = Duration::from_secs(1);
/// How long to wait for a catalog or store that does not answer.
const AGAIN_MIN: Duration = Duration::from_secs(5);
const AGAIN_MAX: Duration = Duration::from_secs(300);
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
    let mut all = by_decision(entries);
    let mut attempt = 0;
    while !all.is_empty() && !stop.is_cancelled() {
        let mut later = Vec::new();
        for left in all {
            let Err(error) = clean_one(&shared, &left).await else { continue };
            let (table, snapshot) = (&left.owner.table, left.owner.snapshot_id);
            tracing::warn!(%table, snapshot, "leftovers stay for now: {error}");
            if error.directive() == Directive::Retry {
                later.push(left);
            }
        }
        all = later;
        shared.env.sleep(shared.env.backoff(AGAIN_MIN, AGAIN_MAX, attempt)).await;
        attempt = attempt.saturating_add(1);
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

async fn clean_one(shared: &Shared, left: &Left) -> Result<()> {
    let Left { owner, entries, sealed, elsewhere } = left;
    let beside = elsewhere.keys().map(|table| LedgerOwner { table: table.clone(), snapshot_id: owner.snapshot_id });
    // Its own comes last, and none of them goes before it can: what is left of an epoch tells whose its files elsewhere are.
    let owners: Vec<LedgerOwner> = beside.chain([owner.clone()]).collect();
    // Without it nothing tells in which catalog it is.
    if shared.catalogs.len() > 1 && entries.iter().any(|entry| entry.table_uuid.is_none()) {
        return forget(shared, &owners, entries).await;
    }
    let mut found = false;
    for (catalog, source) in shared.catalogs.iter() {
        let state = match source.load(&owner.table).await {
            Ok(state) => state,
            Err(error) if error.kind() == ErrorKind::NotFound => continue,
            Err(error) => return Err(error),
        };
        found = true;
        // Another catalog's may have the name; its own may live on under another name, and have them.
        if !are_of(&state, entries) {
            continue;
        }
        let many = state.metadata.snapshots().count() > SNAPSHOTS_MAX;
        let other = {
            let mut other = false;
            for (table, entries) in elsewhere {
                other |= !are_of(&source.load(table).await?, entries);
            }
            other
        };
        if many || other {
            return forget(shared, &owners, entries).await;
        }
        if state.metadata.snapshot_by_id(owner.snapshot_id).is_some() {
            let unnamed = unnamed(shared, &state, owner, entries).await?;
            if unnamed.is_empty() {
                return settle(shared, &owners).await;
            }
            let left = Leftover { owners, ..Leftover::unsent(unnamed, owner.clone()) };
            shared.table(catalog, &owner.table)?.leave(left_by(&state, left)).await;
            return Ok(());
        }
        abort_uploads(&shared.storage.vended(&state.config)?, entries).await?;
        let names = |entries: &Vec<LedgerEntry>| entries.iter().map(|entry| entry.location.clone()).collect();
        for (table, entries) in elsewhere {
            let state = source.load(table).await?;
            abort_uploads(&shared.storage.vended(&state.config)?, entries).await?;
        }
        // Who finished an epoch removes its object.
        let mut files: Vec<String> = names(entries);
        files.retain(|file| owner.snapshot_id > 0 || !sealed::is_location(file));
        let left = Leftover {
            snapshot_ids: [owner.snapshot_id].into_iter().filter(|id| *id > 0).collect(),
            without_parent: entries.iter().any(|entry| manifests::is_start_list(&entry.location)),
            sealed: sealed.clone(),
            elsewhere: elsewhere.iter().map(|(table, entries)| (table.clone(), names(entries))).collect(),
            owners,
            ..Leftover::unsent(files, owner.clone())
        };
        shared.table(catalog, &owner.table)?.leave(left_by(&state, left)).await;
        return Ok(());
    }
    if found { forget(shared, &owners, entries).await } else { Ok(()) }
}

/// Whether what is under the table's name is the table that `entries` were made for.
fn are_of(state: &TableState, entries: &[LedgerEntry]) -> bool {
    entries.iter().all(|entry| entry.table_uuid.is_none_or(|uuid| uuid == state.metadata.uuid()))
}

async fn forget(shared: &Shared, owners: &[LedgerOwner], entries: &[LedgerEntry]) -> Result<()> {
    let table = entries.first().map(|entry| entry.owner.table.to_string());
    tracing::info!(table, files = entries.len(), "leftovers are the orphan sweep's");
    settle(shared, owners).await
}

async fn settle(shared: &Shared, owners: &[LedgerOwner]) -> Result<()> {
    for owner in owners {
        shared.ledger.settle(owner).await?;
    }
    Ok(())
}

/// The process that died submitted on a state that is no newer than `state`.
fn left_by(state: &TableState, left: Leftover) -> Leftover {
    Leftover { submitted_seqs: Some((0, state.metadata.next_sequence_number())), ..left }
}

/// The manifests and lists of a commit that is in which its snapshot does not name: those of other attempts under the same id.
async fn unnamed(
    shared: &Shared,
    state: &TableState,
    owner: &LedgerOwner,
    entries: &[LedgerEntry],
) -> Result<Vec<String>> {
    let Some(snapshot) = state.metadata.snapshot_by_id(owner.snapshot_id) else { return Ok(Vec::new()) };
    let written = entries.iter().map(|entry| &entry.location);
    let mut left: BTreeSet<&String> =
        written.filter(|at| manifests::is_list(at) || manifests::is_manifest(at)).collect();
    left.retain(|location| *location != snapshot.manifest_list());
    if left.is_empty() || left.iter().any(|location| manifests::is_start_list(location)) {
        return Ok(Vec::new());
    }
    let storage = shared.storage.vended(&state.config)?;
    let named = manifests::list(&storage, snapshot.manifest_list(), state.metadata.format_version()).await?;
    left.retain(|location| !named.iter().any(|manifest| manifest.manifest_path == **location));
    Ok(left.into_iter().cloned().collect())
}

async fn abort_uploads(storage: &Storage, entries: &[LedgerEntry]) -> Result<()> {
    for entry in entries {
        for upload in &entry.upload_ids {
            storage.abort_upload(&entry.location, upload).await?;
        }
    }
    Ok(())
}
