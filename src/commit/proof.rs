//! Proof of never: staged files are deleted only when their commit can never land.
//!
//! A submitted body can land minutes after its client gave up. It never will when its snapshot would have a parent and a
//! sequence number that the table has passed, provided that it is not in already. Source: docs/protocol.md, "Proof of never".

use std::collections::BTreeSet;

use crate::commit::manifests;
use crate::error::Result;
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
    /// Whose files they are in the ledger.
    pub owners: Vec<LedgerOwner>,
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
    let ids: BTreeSet<i64> = leftover.snapshot_ids.iter().copied().collect();
    let files: BTreeSet<&str> = leftover.files.iter().map(String::as_str).collect();
    let mut read = BTreeSet::new();
    // Nothing of ours can stand in what was written before our first body.
    for snapshot in state.metadata.snapshots().filter(|s| s.sequence_number() >= first) {
        for manifest in manifests::list(storage, snapshot.manifest_list(), state.metadata.format_version()).await? {
            if manifest.sequence_number < first || !read.insert(manifest.manifest_path.clone()) {
                continue;
            }
            if files.contains(manifest.manifest_path.as_str()) || ids.contains(&manifest.added_snapshot_id) {
                return Ok(false);
            }
            for entry in manifests::live_entries(storage, &manifest).await? {
                if ids.contains(&entry.snapshot_id) || files.contains(entry.file.file_path()) {
                    return Ok(false);
                }
            }
        }
    }
    Ok(true)
}
