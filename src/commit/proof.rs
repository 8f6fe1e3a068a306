//! Proof of never: staged files are deleted only when their commit can never land.
//!
//! A submitted body can land minutes after its client gave up. It never will when its snapshot would have a parent and a
//! sequence number that the table has passed, provided that it is not in already. Source: docs/protocol.md, "Proof of never".

use std::collections::BTreeSet;

use crate::commit::manifests;
use crate::error::Result;
use crate::model::change::{Change, Data};
use crate::model::checkpoint::Record;
use crate::model::ids::TableName;
use crate::model::table::TableState;
use crate::storage::Storage;
use crate::storage::ledger::LedgerOwner;

/// What a given-up commit left behind.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Leftover {
    /// Data files, manifests and lists.
    pub files: Vec<String>,
    /// The snapshot ids that its bodies had.
    pub snapshot_ids: Vec<i64>,
    /// The lowest and the highest sequence number of its bodies; `None` when none was submitted.
    pub submitted_seqs: Option<(i64, i64)>,
    /// Whether a body had no parent: then nothing guards its sequence number.
    pub without_parent: bool,
    /// The sealed epoch that its commit would decide.
    pub sealed: Option<String>,
    /// The sealed epoch's files in other tables: there from the decision on, whoever commits them.
    pub elsewhere: Vec<(TableName, Vec<String>)>,
    /// Whose files they are in the ledger.
    pub owners: Vec<LedgerOwner>,
}

impl Leftover {
    /// Files of which no commit was ever sent.
    pub fn unsent(files: Vec<String>, owner: LedgerOwner) -> Self {
        Self {
            files,
            snapshot_ids: Vec::new(),
            submitted_seqs: None,
            without_parent: false,
            sealed: None,
            elsewhere: Vec::new(),
            owners: vec![owner],
        }
    }
}

/// Whether `state` proves that the leftover's commit is not in and can never land.
///
/// Must hold twice, one commit deadline apart, before anything is deleted.
///
/// # Errors
/// Whatever the store says: then there is no proof.
pub async fn never(storage: &Storage, state: &TableState, leftover: &Leftover) -> Result<bool> {
    let Some((first, last)) = leftover.submitted_seqs else {
        return Ok(true); // no body ever left this process
    };
    let known = leftover.snapshot_ids.iter().any(|id| state.metadata.snapshot_by_id(*id).is_some());
    if known || leftover.without_parent || state.metadata.last_sequence_number() < last {
        return Ok(false);
    }
    if leftover.sealed.as_ref().is_some_and(|location| is_decided(state, location)) {
        return Ok(false);
    }
    let ids: BTreeSet<i64> = leftover.snapshot_ids.iter().copied().collect();
    Ok(!finds(storage, state, first, &ids, &leftover.files).await?)
}

/// Whether any snapshot of `state` that is still there reaches one of `files`.
///
/// # Errors
/// Whatever the store says.
pub(crate) async fn reaches(storage: &Storage, state: &TableState, files: &[String]) -> Result<bool> {
    finds(storage, state, 0, &BTreeSet::new(), files).await
}

/// Whether a checkpoint names the sealed epoch: then it was decided, and will be finished from its files.
fn is_decided(state: &TableState, location: &String) -> bool {
    let records = state.metadata.properties().iter().filter(|(key, _)| key.starts_with("frazil.checkpoint."));
    // What cannot be read may name it.
    records.into_iter().any(|(_, text)| Record::parse(text).map_or(true, |record| record.sealed.contains(location)))
}

async fn finds(
    storage: &Storage,
    state: &TableState,
    first: i64,
    ids: &BTreeSet<i64>,
    files: &[String],
) -> Result<bool> {
    let files: BTreeSet<&str> = files.iter().map(String::as_str).collect();
    let mut read = BTreeSet::new();
    // Nothing of ours can stand in what was written before our first body.
    for snapshot in state.metadata.snapshots().filter(|s| s.sequence_number() >= first) {
        if files.contains(snapshot.manifest_list()) {
            return Ok(true);
        }
        for manifest in manifests::list(storage, snapshot.manifest_list(), state.metadata.format_version()).await? {
            if manifest.sequence_number < first || !read.insert(manifest.manifest_path.clone()) {
                continue;
            }
            if files.contains(manifest.manifest_path.as_str()) || ids.contains(&manifest.added_snapshot_id) {
                return Ok(true);
            }
            for entry in manifests::live_entries(storage, &manifest).await? {
                if ids.contains(&entry.snapshot_id) || files.contains(entry.file.file_path()) {
                    return Ok(true);
                }
            }
        }
    }
    Ok(false)
}

/// Whether a change landed, was rolled back, and expired with its files, for all that can be seen: they can be in no commit
/// again. A sequence number of one of its bodies that the table has passed, and no snapshot has, may have been its own.
///
/// # Errors
/// Whatever the store says.
pub(crate) async fn is_swept(
    storage: &Storage,
    head: &TableState,
    change: &Change,
    submitted_seqs: Option<(i64, i64)>,
) -> Result<bool> {
    let (Some((first, last)), Some(Data::Append(append))) = (submitted_seqs, &change.data) else {
        return Ok(false);
    };
    let held: BTreeSet<i64> = head.metadata.snapshots().map(|s| s.sequence_number()).collect();
    if (first..=last.min(head.metadata.last_sequence_number())).all(|seq| held.contains(&seq)) {
        return Ok(false);
    }
    for file in &append.files {
        if !storage.exists(file.file_path()).await? {
            let (table, file) = (&head.name, file.file_path());
            tracing::warn!(%table, file, "a staged file is gone: its commit was in, was rolled back and expired");
            return Ok(true);
        }
    }
    Ok(false)
}

#[cfg(test)]
mod tests;
