//! What rewrites left behind: files of work that was lost, given up, or cut short by the end of its process.
//!
//! Their names stand in a ledger before they are made. They are deleted when it is proved twice, a commit deadline apart, that
//! no commit has them or ever can; when it was proved first is noted, so that a job that is started now and then gets through.
//!
//! Source: docs/protocol.md, "Proof of never".

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use tokio::sync::Mutex;

use crate::commit::proof::{DEADLINE, Leftover, Proof};
use crate::commit::protocol::Committer;
use crate::env::Env;
use crate::error::{Context, ErrorKind, Result};
use crate::maintain::note;
use crate::model::ids::TableName;
use crate::model::table::TableState;
use crate::storage::disk::Disk;
use crate::storage::ledger::{ENTRIES_MAX, Ledger, LedgerEntry, LedgerOwner};

const FILE: &str = "proofs.json";
const NOTE_VERSION: u32 = 1;
/// A table with more snapshots has to wait until it has fewer: the proof reads each of them.
const SNAPSHOTS_MAX: usize = 1000;

/// The ledger of rewrites, and what is noted about those that are open in it. Used by one process at a time.
#[derive(Debug)]
pub struct Leftovers {
    ledger: Ledger,
    disk: Arc<dyn Disk>,
    /// One sweep at a time: the note is read, changed and written.
    turn: Mutex<()>,
}

#[derive(Debug, Default, Serialize, Deserialize)]
struct Note {
    v: u32,
    /// By table and snapshot id.
    open: BTreeMap<String, Open>,
}

#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
struct Open {
    /// The sequence number that every body of it was below or at: that of the first look after its process.
    seq: i64,
    /// When it was proved for the first time, in milliseconds since the epoch.
    proved_ms: Option<i64>,
}

/// What came of the leftovers of one table.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Swept {
    /// Files deleted.
    pub deleted: usize,
    /// Files that wait for their proof.
    pub waiting: usize,
}

impl Leftovers {
    /// Those on `disk`.
    ///
    /// # Errors
    /// As [`Ledger::open`].
    pub async fn open(disk: Arc<dyn Disk>) -> Result<Self> {
        Ok(Self { ledger: Ledger::open(Arc::clone(&disk), ENTRIES_MAX).await?, disk, turn: Mutex::new(()) })
    }

    /// Notes what a commit that is in has written beside what its snapshot names, under an id that no snapshot has.
    ///
    /// # Errors
    /// As [`Ledger::stage`].
    pub async fn lose(&self, table: &TableName, snapshot_id: i64, files: &[String]) -> Result<()> {
        let owner = LedgerOwner::of_no_snapshot(table.clone(), snapshot_id);
        let files: Vec<&str> = files.iter().map(String::as_str).collect();
        self.ledger.stage_all(&owner, &files).await
    }

    /// The ledger, for those who make files.
    pub fn ledger(&self) -> &Ledger {
        &self.ledger
    }

    /// Looks at what is open of `committer`'s table, loaded as `state`, and deletes what is proved twice.
    ///
    /// Only while nothing of this process is under way to the table.
    ///
    /// # Errors
    /// Whatever catalog, store and disk say.
    pub async fn sweep(&self, env: &Env, committer: &Committer, state: &TableState) -> Result<Swept> {
        let _turn = self.turn.lock().await;
        let mut swept = Swept::default();
        let mut by_owner: BTreeMap<LedgerOwner, Vec<LedgerEntry>> = BTreeMap::new();
        for entry in self.ledger.open_entries().into_iter().filter(|entry| entry.owner.table == *committer.table()) {
            by_owner.entry(entry.owner.clone()).or_default().push(entry);
        }
        let mut note = self.read().await?;
        let prefix = key(committer.table(), None);
        let known = |text: &String| by_owner.keys().any(|owner| key(&owner.table, Some(owner.snapshot_id)) == *text);
        note.open.retain(|text, _| !text.starts_with(&prefix) || known(text));
        for (owner, entries) in by_owner {
            // Of another table, which had this name: it may be brought back, or live on under another name, and have them.
            let other = |entry: &LedgerEntry| entry.table_uuid.is_some_and(|uuid| uuid != state.metadata.uuid());
            if entries.iter().any(other) {
                tracing::info!(table = %owner.table, files = entries.len(), "leftovers are the orphan sweep's");
                note.open.remove(&key(&owner.table, Some(owner.snapshot_id)));
                self.ledger.settle(&owner).await?;
                continue;
            }
            let text = key(&owner.table, Some(owner.snapshot_id));
            if state.metadata.snapshots().count() > SNAPSHOTS_MAX {
                swept.waiting += entries.len();
                continue;
            }
            let seq = state.metadata.next_sequence_number();
            let open = note.open.entry(text.clone()).or_insert(Open { seq, proved_ms: None });
            let leftover = leftover(&owner, &entries, open.seq);
            let proof = committer.prove(state, &[&leftover]).await?.first().copied().unwrap_or(Proof::Open);
            if proof == Proof::In {
                note.open.remove(&text);
                self.ledger.settle(&owner).await?;
                continue;
            }
            let proved = proof == Proof::Never;
            let now = env.now_ms();
            let deadline = i64::try_from(DEADLINE.as_millis()).unwrap_or(i64::MAX);
            let twice = open.proved_ms.is_some_and(|at| now.saturating_sub(at) >= deadline);
            open.proved_ms = if proved { open.proved_ms.or(Some(now)) } else { None };
            if !(proved && twice) {
                swept.waiting += entries.len();
                continue;
            }
            for entry in &entries {
                for upload in &entry.upload_ids {
                    committer.storage().abort_upload(&entry.location, upload).await?;
                }
            }
            let left = committer.remove(&leftover).await;
            swept.deleted += entries.len() - left.len();
            swept.waiting += left.len();
            if left.is_empty() {
                note.open.remove(&text);
                self.ledger.settle(&owner).await?;
            }
        }
        self.write(&note).await?;
        Ok(swept)
    }

    async fn read(&self) -> Result<Note> {
        let note = note::read(self.disk.as_ref(), FILE, NOTE_VERSION).await?;
        Ok(note.unwrap_or(Note { v: NOTE_VERSION, ..Note::default() }))
    }

    async fn write(&self, note: &Note) -> Result<()> {
        if note.open.is_empty() {
            return self.disk.remove(FILE).await;
        }
        let bytes = serde_json::to_vec(note).context(ErrorKind::Internal, || "note what was left")?;
        self.disk.write(FILE, &bytes).await
    }
}

fn key(table: &TableName, snapshot: Option<i64>) -> String {
    let id = snapshot.map(|id| id.to_string()).unwrap_or_default();
    format!("{table} {id}")
}

fn leftover(owner: &LedgerOwner, entries: &[LedgerEntry], seq: i64) -> Leftover {
    Leftover {
        files: entries.iter().map(|entry| entry.location.clone()).collect(),
        snapshot_ids: [owner.snapshot_id].into_iter().filter(|id| *id > 0).collect(),
        submitted_seqs: Some((0, seq)),
        without_parent: false,
        sealed: None,
        elsewhere: Vec::new(),
        owners: vec![owner.clone()],
    }
}
