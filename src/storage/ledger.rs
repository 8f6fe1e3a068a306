//! The ledger of objects under way: names are noted here, durably, before they are created, so that an instance that
//! comes back after a crash can clean up its own leftovers in minutes, under proof (docs/protocol.md, "Proof of never").
//!
//! One file of JSON lines on a [`Disk`], a header with the version first. It only ever *adds* candidates for a clean-up
//! that needs proof: a line that is lost costs an orphan, which the sweep finds, and a settlement that is lost costs a look
//! at the table. Hence lines that a crash tore are dropped, and settlements are not waited for.
//!
//! Cost: a call waits for one append and one fsync, shared with all calls that come while an earlier fsync is under way.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::disk::Disk;
use crate::error::{Context, Error, ErrorKind, Result};
use crate::model::ids::TableName;

/// The file's name on its disk.
const FILE: &str = "staged.ledger";
/// The version that this program writes, and the newest that it reads.
const VERSION: u32 = 1;
/// Open entries that a ledger may hold, unless said otherwise.
pub const ENTRIES_MAX: usize = 200_000;
/// Lines below which the file is not worth compacting.
const LINES_MIN: usize = 4096;

/// Whose objects: one change of one table. The id stays the same over all attempts to commit it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct LedgerOwner {
    /// The table.
    pub table: TableName,
    /// The snapshot that shall have them. Negative: none shall; they are left of other attempts to commit that snapshot.
    pub snapshot_id: i64,
}

impl LedgerOwner {
    /// Of what other attempts to commit a snapshot left, which no snapshot shall have.
    pub fn of_no_snapshot(table: TableName, attempted: i64) -> Self {
        Self { table, snapshot_id: attempted.checked_neg().unwrap_or(i64::MIN) }
    }
}

/// An object that was begun and not yet settled.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LedgerEntry {
    /// Whose it is.
    pub owner: LedgerOwner,
    /// Where it is, or would have been.
    pub location: String,
    /// The table's uuid when it was begun: under its name there may be another one by now.
    pub table_uuid: Option<Uuid>,
    /// Unfinished uploads of it: `Storage::abort_upload` takes these.
    pub upload_ids: Vec<String>,
}

/// A cheap handle; clones write to the same file. Only one process may use a file.
#[derive(Clone)]
pub struct Ledger {
    disk: Arc<dyn Disk>,
    state: Arc<Mutex<State>>,
    /// Held by the one call that writes; the others wait for it and find their line written.
    writing: Arc<tokio::sync::Mutex<()>>,
    entries_max: usize,
}

/// What is noted of one object.
#[derive(Debug, Default)]
struct Noted {
    table_uuid: Option<Uuid>,
    upload_ids: Vec<String>,
}

/// By location by owner.
type Open = BTreeMap<LedgerOwner, BTreeMap<String, Noted>>;

#[derive(Default)]
struct State {
    open: Open,
    /// Which tables are meant by their names.
    tables: BTreeMap<TableName, Uuid>,
    entries: usize,
    /// Lines not yet handed to the disk.
    pending: Vec<u8>,
    /// Number of the last line noted, and of the last that is durable.
    noted: u64,
    durable: u64,
    /// Lines in the file.
    lines: usize,
    /// The file may not be what it should be: write it anew from `open`.
    rewrite: bool,
    torn: usize,
}

#[derive(Serialize, Deserialize)]
struct Header {
    ledger: String,
    version: u32,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Line {
    Stage(Note),
    Multipart(Note),
    Settle(Note),
}

#[derive(Serialize, Deserialize)]
struct Note {
    /// Namespace levels and name.
    table: Vec<String>,
    snapshot: i64,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    location: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    upload: String,
    /// Of the table.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    uuid: Option<Uuid>,
}

impl Ledger {
    /// Opens the ledger on `disk`, or begins one. What it still holds open is what an earlier process left.
    ///
    /// # Errors
    /// `Corrupt` when the file is of a newer version or no ledger; those of the disk.
    pub async fn open(disk: Arc<dyn Disk>, entries_max: usize) -> Result<Self> {
        let state = match disk.read(FILE).await {
            Ok(bytes) => State::parse(&bytes)?,
            Err(error) if error.kind() == ErrorKind::NotFound => State { rewrite: true, ..State::default() },
            Err(error) => return Err(error),
        };
        let state = Arc::new(Mutex::new(state));
        let ledger = Self { disk, state, writing: Arc::default(), entries_max };
        ledger.flush(0, true).await?;
        Ok(ledger)
    }

    /// Objects staged for the table `name` from now on are meant for the table with this uuid. Where it had another one
    /// (two catalogs have the name, or the table was made anew), from then on for none: what is left is the orphan sweep's.
    pub fn means(&self, name: &TableName, uuid: Uuid) {
        let mut state = self.state();
        let meant = state.tables.entry(name.clone()).or_insert(uuid);
        if *meant != uuid {
            *meant = Uuid::nil();
        }
    }

    /// Notes that an object is about to be created. Durable on return: create it only then.
    ///
    /// # Errors
    /// `Unavailable` when too much is open; those of the disk.
    pub async fn stage(&self, owner: &LedgerOwner, location: &str) -> Result<()> {
        self.stage_all(owner, &[location]).await
    }

    /// Notes several objects with one fsync.
    ///
    /// # Errors
    /// As [`Ledger::stage`].
    pub async fn stage_all(&self, owner: &LedgerOwner, locations: &[&str]) -> Result<()> {
        let upto = {
            let mut state = self.state();
            if state.entries.saturating_add(locations.len()) > self.entries_max {
                return Err(Error::new(
                    ErrorKind::Unavailable,
                    format!("the ledger holds {} unsettled files, of at most {}", state.entries, self.entries_max),
                )
                .with_hint("commits are not being settled: look at the tables whose commits are unresolved"));
            }
            let uuid = state.tables.get(&owner.table).copied();
            for location in locations {
                state.apply(owner, location, None, uuid);
                state.note(&Line::Stage(Note { uuid, ..Note::new(owner, location, "") }))?;
            }
            state.noted
        };
        self.flush(upto, true).await
    }

    /// Notes the id of an upload of `location`. Durable on return: send the first part only then.
    ///
    /// # Errors
    /// Those of the disk.
    pub async fn multipart(&self, owner: &LedgerOwner, location: &str, upload_id: &str) -> Result<()> {
        let upto = {
            let mut state = self.state();
            let uuid = state.tables.get(&owner.table).copied();
            state.apply(owner, location, Some(upload_id), uuid);
            state.note(&Line::Multipart(Note { uuid, ..Note::new(owner, location, upload_id) }))?;
            state.noted
        };
        self.flush(upto, true).await
    }

    /// Forgets all objects of `owner`: they are in a snapshot, or deleted. Written, but not waited for: a crash right
    /// after it makes the next process look once more.
    ///
    /// # Errors
    /// Those of the disk.
    pub async fn settle(&self, owner: &LedgerOwner) -> Result<()> {
        let upto = {
            let mut state = self.state();
            let Some(gone) = state.open.remove(owner) else { return Ok(()) };
            state.entries = state.entries.saturating_sub(gone.len());
            state.note(&Line::Settle(Note::new(owner, "", "")))?;
            state.noted
        };
        self.flush(upto, false).await
    }

    /// Makes durable what was settled, so that the next process need not look at it once more: at an orderly end.
    ///
    /// # Errors
    /// Those of the disk.
    pub async fn sync(&self) -> Result<()> {
        let upto = self.state().noted;
        self.flush(upto, true).await
    }

    /// All that is open, in the order of owners and locations.
    pub fn open_entries(&self) -> Vec<LedgerEntry> {
        let state = self.state();
        let of_owner = |(owner, objects): (&LedgerOwner, &BTreeMap<String, Noted>)| {
            let entry = |(location, noted): (&String, &Noted)| LedgerEntry {
                owner: owner.clone(),
                location: location.clone(),
                table_uuid: noted.table_uuid,
                upload_ids: noted.upload_ids.clone(),
            };
            objects.iter().map(entry).collect::<Vec<_>>()
        };
        state.open.iter().flat_map(of_owner).collect()
    }

    /// How many objects are open.
    pub fn entries(&self) -> usize {
        self.state().entries
    }

    /// What is open of one owner.
    pub fn open_of(&self, owner: &LedgerOwner) -> Vec<String> {
        self.state().open.get(owner).into_iter().flat_map(|objects| objects.keys().cloned()).collect()
    }

    /// Lines that a crash tore and that were dropped at opening.
    pub fn torn_lines(&self) -> usize {
        self.state().torn
    }

    /// Returns when line `upto` is handed to the disk, with `sync` when it is durable.
    async fn flush(&self, upto: u64, sync: bool) -> Result<()> {
        let _turn = self.writing.lock().await;
        let (lines, count, rewrite, last) = {
            let mut state = self.state();
            let compact = state.lines > LINES_MIN && state.lines / 4 > state.entries;
            if state.durable >= upto && !state.rewrite && !compact {
                return Ok(()); // somebody else's fsync carried this line
            }
            let rewrite = state.rewrite || compact;
            let lines = if rewrite { state.render()? } else { state.pending.clone() };
            // Until the disk has said yes, nothing is known of the file: also when this future is dropped in between.
            state.rewrite = true;
            state.pending.clear();
            let count = lines.iter().filter(|b| **b == b'\n').count();
            (lines, count, rewrite, state.noted)
        };
        if rewrite {
            self.disk.write(FILE, &lines).await?;
        } else {
            self.disk.append(FILE, &lines).await?;
            if sync {
                self.disk.sync(FILE).await?;
            }
        }
        let mut state = self.state();
        state.lines = if rewrite { count } else { state.lines.saturating_add(count) };
        state.rewrite = false;
        if rewrite || sync {
            state.durable = last;
        }
        Ok(())
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn parse(bytes: &[u8]) -> Result<Self> {
        let mut state = Self::default();
        let mut lines = bytes.split_inclusive(|b| *b == b'\n');
        let no_ledger = || Error::new(ErrorKind::Corrupt, format!("{FILE} is no ledger"));
        let header: Header = serde_json::from_slice(lines.next().unwrap_or_default())
            .map_err(|e| no_ledger().with_source(e))
            .map_err(|e| e.with_hint("move the file away: files that it named are left to the orphan sweep"))?;
        if header.ledger != "frazil" || header.version == 0 || header.version > VERSION {
            let version = header.version;
            return Err(Error::new(
                ErrorKind::Corrupt,
                format!("{FILE} has version {version}, this program reads {VERSION}"),
            )
            .with_hint(
                "run the newer program, or move the file away: files that it named are left to the orphan sweep",
            ));
        }
        state.lines = 1;
        for text in lines {
            state.lines = state.lines.saturating_add(1);
            let whole = text.ends_with(b"\n");
            match serde_json::from_slice::<Line>(text).ok().filter(|_| whole).and_then(Line::read) {
                Some((owner, Some(Object { location, upload, uuid }))) => {
                    state.apply(&owner, &location, upload.as_deref(), uuid);
                }
                Some((owner, None)) => {
                    let gone = state.open.remove(&owner).unwrap_or_default();
                    state.entries = state.entries.saturating_sub(gone.len());
                }
                None => state.torn = state.torn.saturating_add(1),
            }
        }
        if state.torn > 0 {
            tracing::warn!(lines = state.torn, "the ledger of staged files ended in the middle of a write; dropped it");
            state.rewrite = true;
        }
        Ok(state)
    }

    fn apply(&mut self, owner: &LedgerOwner, location: &str, upload: Option<&str>, table_uuid: Option<Uuid>) {
        let objects = self.open.entry(owner.clone()).or_default();
        if !objects.contains_key(location) {
            objects.insert(location.to_owned(), Noted { table_uuid, upload_ids: Vec::new() });
            self.entries = self.entries.saturating_add(1);
        }
        if let Some((upload, noted)) = upload.zip(objects.get_mut(location)) {
            noted.upload_ids.push(upload.to_owned());
        }
    }

    fn note(&mut self, line: &Line) -> Result<()> {
        write_line(&mut self.pending, line)?;
        self.noted = self.noted.saturating_add(1);
        Ok(())
    }

    /// The whole file, of what is open alone.
    fn render(&self) -> Result<Vec<u8>> {
        let mut bytes = Vec::new();
        write_line(&mut bytes, &Header { ledger: "frazil".to_owned(), version: VERSION })?;
        for (owner, objects) in &self.open {
            for (location, noted) in objects {
                let note = |upload| Note { uuid: noted.table_uuid, ..Note::new(owner, location, upload) };
                write_line(&mut bytes, &Line::Stage(note("")))?;
                for upload in &noted.upload_ids {
                    write_line(&mut bytes, &Line::Multipart(note(upload)))?;
                }
            }
        }
        Ok(bytes)
    }
}

impl Note {
    fn new(owner: &LedgerOwner, location: &str, upload: &str) -> Self {
        let mut table = owner.table.namespace().to_vec();
        table.push(owner.table.name().to_owned());
        Self {
            table,
            snapshot: owner.snapshot_id,
            location: location.to_owned(),
            upload: upload.to_owned(),
            uuid: None,
        }
    }

    fn owner(&self) -> Option<LedgerOwner> {
        let (name, namespace) = self.table.split_last()?;
        let table = TableName::new(namespace.to_vec(), name.clone()).ok()?;
        Some(LedgerOwner { table, snapshot_id: self.snapshot })
    }
}

impl Line {
    /// The owner, and which object: nothing for a settlement.
    fn read(self) -> Option<(LedgerOwner, Option<Object>)> {
        match self {
            Self::Stage(note) => {
                Some((note.owner()?, Some(Object { location: note.location, upload: None, uuid: note.uuid })))
            }
            Self::Multipart(note) => {
                let upload = Some(note.upload.clone());
                Some((note.owner()?, Some(Object { location: note.location, upload, uuid: note.uuid })))
            }
            Self::Settle(note) => Some((note.owner()?, None)),
        }
    }
}

/// What a line says of an object.
struct Object {
    location: String,
    upload: Option<String>,
    uuid: Option<Uuid>,
}

fn write_line(to: &mut Vec<u8>, line: &impl Serialize) -> Result<()> {
    serde_json::to_writer(&mut *to, line).context(ErrorKind::Internal, || "a line of the ledger")?;
    to.push(b'\n');
    Ok(())
}

impl fmt::Debug for Ledger {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ledger").field("open", &self.state().entries).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
