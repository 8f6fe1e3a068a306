//! Expiry in three steps, each at least one commit deadline after the one before: candidates are noted; removed, with every
//! known ref asserted; their files deleted, as the table is *then*.
//!
//! Why so slow: an answer or a request may be minutes late, and what somebody is about to tag or to pick must not lose its
//! files. Where the steps stand lies in one small local file per table, so that a job that is started now and then gets
//! through. When it is lost, the first step begins again, and files of the third stay for the orphan sweep.
//!
//! Source: docs/protocol.md, "Expiry".

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use futures::FutureExt;
use futures::future::BoxFuture;
use futures::stream::{self, StreamExt};
use serde::{Deserialize, Serialize};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::catalog::document;
use crate::commit::proof::DEADLINE;
use crate::commit::protocol::{Commit, Committer, Ending};
use crate::env::Env;
use crate::error::{Context, Error, ErrorKind, Result};
use crate::maintain::expire::{Choice, Policy, Wish, choose};
use crate::maintain::note;
use crate::maintain::reach::{Dead, Gone, dead};
use crate::model::change::Change;
use crate::model::table::TableState;
use crate::storage::disk::Disk;

/// Deadlines after which a removal that does not show was never done.
const NEVER_AFTER: i64 = 6;
/// Times that a removal is chosen anew because a ref moved meanwhile.
const ROUNDS_MAX: u32 = 10;
/// Files of one bulk request.
const BULK: usize = 1_000;
/// Bulk requests under way at once: one takes a store a second or so.
const BULKS_AT_ONCE: usize = 8;
const NOTE_VERSION: u32 = 1;

/// How an expiry goes about it.
#[derive(Debug, Clone, Copy)]
pub struct Pace {
    /// Lists and manifests that are read at a time.
    pub parallel: usize,
    /// Files deleted in a second at most.
    pub deletes_per_second: u32,
}

impl Default for Pace {
    fn default() -> Self {
        Self { parallel: 16, deletes_per_second: 3_000 }
    }
}

/// Where a table's steps stand.
#[derive(Debug, Serialize, Deserialize)]
struct Note {
    v: u32,
    table: String,
    /// Candidates, and when they were noted, in milliseconds since the epoch.
    noted: BTreeMap<i64, i64>,
    batches: Vec<Batch>,
}

/// Snapshots that were removed together, or are being removed.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Batch {
    snapshots: BTreeSet<i64>,
    /// Refs that went with them.
    refs: BTreeSet<String>,
    gone: Gone,
    sent_ms: i64,
    /// When they were first seen to be gone.
    gone_ms: Option<i64>,
    /// Whether the refs of the table were compared over the removal.
    compared: bool,
    /// Why their files stay.
    held: Option<String>,
}

/// What was done for one table.
#[derive(Debug, Default)]
pub struct Report {
    /// Snapshots that are candidates and not removed yet.
    pub noted: BTreeSet<i64>,
    /// Snapshots that were removed now.
    pub removed: BTreeSet<i64>,
    /// Refs that were removed now.
    pub refs: BTreeSet<String>,
    /// Files that were deleted now, and their bytes as far as known.
    pub files: usize,
    /// See `files`.
    pub bytes: u64,
    /// Files that could not be deleted, each with the reason; they are tried again.
    pub failed: Vec<(String, Error)>,
    /// Why files stay until an operator has looked.
    pub held: Vec<String>,
    /// When the next step is due, in milliseconds since the epoch.
    pub next_ms: Option<i64>,
}

/// What would be done.
#[derive(Debug)]
pub struct Preview {
    /// What goes.
    pub choice: Choice,
    /// The files that only it reaches.
    pub dead: Dead,
}

/// Whether something is to be done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Due {
    /// Nothing goes.
    Nothing,
    /// The next step has its time still to come.
    Later {
        /// When, in milliseconds since the epoch.
        at_ms: i64,
    },
    /// A step.
    Now {
        /// Snapshots that go.
        snapshots: usize,
        /// When the oldest of them was committed, in milliseconds since the epoch.
        oldest_ms: Option<i64>,
        /// Whether a step is due for snapshots that are removed already.
        files: bool,
    },
    /// Files are kept until an operator has looked.
    Held,
}

/// Whether the table says that its files may be another table's, so that nothing of it may be deleted.
pub fn shares_files(state: &TableState) -> bool {
    state.property("gc.enabled").is_some_and(|value| value.trim().eq_ignore_ascii_case("false"))
}

/// Expiry of one table.
#[derive(Debug)]
pub struct Expiry<'a> {
    /// Time and names.
    pub env: &'a Env,
    /// Where the note lies.
    pub disk: &'a dyn Disk,
    /// The way to the table.
    pub committer: &'a mut Committer,
    /// What to keep, where it is not as the table says.
    pub wish: Wish,
    /// How fast.
    pub pace: Pace,
}

impl Expiry<'_> {
    /// What would go, if all steps were done on the table as it is. Changes nothing.
    ///
    /// # Errors
    /// Whatever catalog and store say; `Unsupported` for a table that forbids it.
    pub async fn preview(&mut self) -> Result<Preview> {
        let state = self.committer.load().await?;
        self.preview_of(&state, &Policy::default()).await
    }

    /// The same for a table that was loaded; `usual` is what counts where it says nothing.
    ///
    /// # Errors
    /// As [`Expiry::preview`].
    pub async fn preview_of(&self, state: &TableState, usual: &Policy) -> Result<Preview> {
        let choice = self.choose(state, usual)?;
        let gone = Gone::of(state, &choice.snapshots);
        let stays = |id: i64| !choice.snapshots.contains(&id);
        let dead = dead(self.committer.storage(), state, stays, &gone, self.pace.parallel).await?;
        Ok(Preview { choice, dead })
    }

    /// Does the steps that are due.
    ///
    /// # Errors
    /// As [`Expiry::preview`]; `Conflict` when refs move faster than snapshots can be removed. What was done is noted.
    pub async fn run_due(&mut self) -> Result<Report> {
        self.run_due_under(&Policy::default(), true).await
    }

    /// Whether a step is due on a table that was loaded. Changes nothing, and reads nothing but the note.
    ///
    /// # Errors
    /// As [`Expiry::preview`].
    pub async fn due(&self, state: &TableState, usual: &Policy) -> Result<Due> {
        let choice = self.choose(state, usual)?;
        let note = self.read(state).await?;
        let now = self.env.now_ms();
        let fresh = choice.snapshots.iter().any(|id| !note.noted.contains_key(id));
        let stale = note.noted.keys().any(|id| !choice.snapshots.contains(id));
        let files = note.batches.iter().any(|batch| batch.held.is_none() && batch.due_ms() <= now);
        let committed = choice.snapshots.iter().filter_map(|id| state.metadata.snapshot_by_id(*id));
        let oldest_ms = committed.map(|snapshot| snapshot.timestamp_ms()).min();
        Ok(match note.next_ms(now) {
            None if choice.snapshots.is_empty() && !stale => {
                if note.batches.is_empty() {
                    Due::Nothing
                } else {
                    Due::Held
                }
            }
            Some(at_ms) if at_ms > now && !fresh && !stale => Due::Later { at_ms },
            _ => Due::Now { snapshots: choice.snapshots.len(), oldest_ms, files },
        })
    }

    /// The same; `usual` is what counts where the table says nothing. Without `removes` only what was removed is followed up.
    ///
    /// # Errors
    /// As [`Expiry::run_due`].
    pub async fn run_due_under(&mut self, usual: &Policy, removes: bool) -> Result<Report> {
        let state = self.committer.load().await?;
        let mut report = Report::default();
        let mut note = self.read(&state).await?;
        self.settle(&mut note, &state).await?;
        let state = if removes {
            let (state, choice) = self.remove(&mut note, state, usual, &mut report).await?;
            let now = self.env.now_ms();
            note.noted.retain(|id, _| choice.snapshots.contains(id));
            for id in &choice.snapshots {
                note.noted.entry(*id).or_insert(now);
            }
            report.noted = choice.snapshots;
            state
        } else {
            state
        };
        self.delete(&mut note, &state, &mut report).await?;
        let now = self.env.now_ms();
        report.next_ms = note.next_ms(now);
        report.held = note.batches.iter().filter_map(|batch| batch.held.clone()).collect();
        self.write(&note, state.metadata.uuid()).await?;
        Ok(report)
    }

    /// Forgets what is held: its files stay for the orphan sweep.
    ///
    /// # Errors
    /// Whatever catalog and disk say.
    pub async fn release(&mut self) -> Result<usize> {
        let state = self.committer.load().await?;
        let mut note = self.read(&state).await?;
        let before = note.batches.len();
        note.batches.retain(|batch| batch.held.is_none());
        self.write(&note, state.metadata.uuid()).await?;
        Ok(before - note.batches.len())
    }

    fn choose(&self, state: &TableState, usual: &Policy) -> Result<Choice> {
        if shares_files(state) {
            return Err(Error::new(
                ErrorKind::Unsupported,
                format!("table {} says gc.enabled=false: its files may be another table's", state.name),
            )
            .with_hint("set gc.enabled to true if no other table shares its files"));
        }
        let policy = Policy::of(state, usual, self.wish)?;
        choose(state, &policy, self.wish, self.env.now_ms())
    }

    /// Sees what became of removals that were sent, and compares refs where that has not been done.
    async fn settle(&mut self, note: &mut Note, state: &TableState) -> Result<()> {
        let now = self.env.now_ms();
        let deadline = deadline_ms();
        note.batches.retain_mut(|batch| {
            if batch.snapshots.iter().all(|id| state.metadata.snapshot_by_id(*id).is_none()) {
                batch.gone_ms.get_or_insert(now);
            }
            batch.gone_ms.is_some() || now.saturating_sub(batch.sent_ms) < NEVER_AFTER.saturating_mul(deadline)
        });
        for batch in note.batches.iter_mut().filter(|b| b.gone_ms.is_some() && !b.compared && b.held.is_none()) {
            self.compare(batch, state).await?;
        }
        Ok(())
    }

    /// Removes the candidates whose time has come.
    async fn remove(
        &mut self,
        note: &mut Note,
        mut state: TableState,
        usual: &Policy,
        report: &mut Report,
    ) -> Result<(TableState, Choice)> {
        for round in 0..ROUNDS_MAX {
            let choice = self.choose(&state, usual)?;
            let now = self.env.now_ms();
            let ripe = |id: i64| note.noted.get(&id).is_some_and(|at| now.saturating_sub(*at) >= deadline_ms());
            let Some(removal) = choice.removal(&state, ripe) else { return Ok((state, choice)) };
            let mut batch = Batch {
                gone: Gone::of(&state, &removal.snapshots),
                snapshots: removal.snapshots.clone(),
                refs: choice.refs.clone(),
                sent_ms: now,
                gone_ms: None,
                compared: false,
                held: None,
            };
            // Noted before it is sent: once it is in, the metadata does not name the lists any more.
            note.batches.push(batch.clone());
            self.write(note, state.metadata.uuid()).await?;
            let mut change = Change::new(self.env.snapshot_id());
            change.refs = choice.refs.iter().map(|name| (name.clone(), None)).collect();
            change.removal = Some(removal);
            let mut commit = Commit::new(change);
            let ending = self.committer.run(&mut commit, &state, &CancellationToken::new()).await?;
            match ending {
                Ending::Done { state: after, .. } => {
                    note.batches.pop();
                    batch.gone_ms = Some(self.env.now_ms());
                    self.compare(&mut batch, &after).await?;
                    report.removed.clone_from(&batch.snapshots);
                    report.refs.clone_from(&batch.refs);
                    note.noted.retain(|id, _| !batch.snapshots.contains(id));
                    note.batches.push(batch);
                    self.write(note, after.metadata.uuid()).await?;
                    let choice = self.choose(&after, usual)?;
                    return Ok((*after, choice));
                }
                Ending::Rebuild(head) => {
                    if commit.attempts() == 0 {
                        note.batches.pop();
                    }
                    state = *head;
                    self.env.sleep(self.env.backoff(Duration::from_millis(100), Duration::from_secs(5), round)).await;
                }
                Ending::Failed(error) | Ending::Unresolved(error) => return Err(error),
                other => return Err(Error::new(ErrorKind::Internal, format!("a removal cannot end so: {other:?}"))),
            }
        }
        Err(Error::new(ErrorKind::Conflict, format!("table {}: its refs move all the time", state.name))
            .with_hint("run it when fewer commits come"))
    }

    /// Compares the refs before and after a removal: some servers drop one that was set meanwhile without a word.
    async fn compare(&self, batch: &mut Batch, state: &TableState) -> Result<()> {
        #[derive(Deserialize)]
        struct Snapshot {
            #[serde(rename = "snapshot-id")]
            id: i64,
        }
        #[derive(Deserialize)]
        struct Document {
            #[serde(default)]
            snapshots: Vec<Snapshot>,
            #[serde(default)]
            refs: BTreeMap<String, serde::de::IgnoredAny>,
        }
        let mut after: BTreeSet<String> = state.refs.keys().cloned().collect();
        for entry in state.metadata.metadata_log().iter().rev() {
            let location = &entry.metadata_file;
            let bytes = match self.committer.storage().read(location).await {
                Ok(bytes) => document::unpack(location, bytes)?,
                Err(error) if error.kind() == ErrorKind::NotFound => break,
                Err(error) => return Err(error),
            };
            let before: Document =
                serde_json::from_slice(&bytes).context(ErrorKind::Corrupt, || format!("metadata {location}"))?;
            if !before.snapshots.iter().any(|s| batch.snapshots.contains(&s.id)) {
                after = before.refs.into_keys().collect();
                continue;
            }
            let vanished: Vec<String> =
                before.refs.into_keys().filter(|name| !after.contains(name) && !batch.refs.contains(name)).collect();
            batch.compared = vanished.is_empty();
            if !vanished.is_empty() {
                batch.held = Some(format!(
                    "the catalog dropped {} with its snapshots; the metadata before is {location}",
                    vanished.join(", ")
                ));
            }
            return Ok(());
        }
        let ids: Vec<String> = batch.snapshots.iter().map(ToString::to_string).collect();
        batch.held = Some(format!(
            "the metadata before the removal of {} cannot be read, so no one knows whether a ref was lost with them",
            ids.join(", ")
        ));
        Ok(())
    }

    /// Deletes the files of removals whose time has come.
    async fn delete(&mut self, note: &mut Note, state: &TableState, report: &mut Report) -> Result<()> {
        let now = self.env.now_ms();
        let mut rest = Vec::new();
        for batch in std::mem::take(&mut note.batches) {
            if !batch.is_ripe(now) {
                rest.push(batch);
                continue;
            }
            let back = batch.snapshots.iter().any(|id| state.metadata.snapshot_by_id(*id).is_some());
            if back {
                // Somebody set the table back: they are in it again.
                continue;
            }
            let dead = dead(self.committer.storage(), state, |_| true, &batch.gone, self.pace.parallel).await?;
            let failed = self.delete_all(&dead).await;
            report.files += dead.len() - failed.len();
            report.bytes += dead.bytes;
            if !failed.is_empty() {
                rest.push(batch);
            }
            report.failed.extend(failed);
        }
        note.batches = rest;
        Ok(())
    }

    /// Data first and lists last: what was not reached can be found again.
    async fn delete_all(&self, dead: &Dead) -> Vec<(String, Error)> {
        let mut failed = Vec::new();
        let storage = self.committer.storage();
        let turns = Turns::new(self.env, self.pace.deletes_per_second);
        for files in [&dead.data, &dead.statistics, &dead.manifests, &dead.lists] {
            let mut requests: Vec<BoxFuture<'_, _>> = Vec::new();
            for bulk in files.chunks(BULK) {
                requests.push(turns.after(bulk.len(), async { storage.delete_all(bulk.to_vec()).await }).boxed());
            }
            let answers: Vec<_> = stream::iter(requests).buffer_unordered(BULKS_AT_ONCE).collect().await;
            failed.extend(answers.into_iter().flatten().filter_map(|(file, answer)| Some((file, answer.err()?))));
            if !failed.is_empty() {
                break;
            }
        }
        failed
    }

    async fn read(&self, state: &TableState) -> Result<Note> {
        let note = note::read(self.disk, &file(state.metadata.uuid()), NOTE_VERSION).await?;
        let new =
            || Note { v: NOTE_VERSION, table: state.name.to_string(), noted: BTreeMap::new(), batches: Vec::new() };
        Ok(note.unwrap_or_else(new))
    }

    async fn write(&self, note: &Note, uuid: Uuid) -> Result<()> {
        if note.noted.is_empty() && note.batches.is_empty() {
            return self.disk.remove(&file(uuid)).await;
        }
        let bytes = serde_json::to_vec(note).context(ErrorKind::Internal, || "note an expiry")?;
        self.disk.write(&file(uuid), &bytes).await
    }
}

/// The turns of bulk requests: so many files in a second at most.
struct Turns<'a> {
    env: &'a Env,
    per_second: i64,
    /// When the next may begin, in milliseconds since the epoch.
    due_ms: AtomicI64,
}

impl<'a> Turns<'a> {
    fn new(env: &'a Env, per_second: u32) -> Self {
        Self { env, per_second: i64::from(per_second.max(1)), due_ms: AtomicI64::new(0) }
    }

    /// What a request about so many files answers, once it is its turn.
    async fn after<T>(&self, files: usize, request: impl Future<Output = T>) -> T {
        self.wait(files).await;
        request.await
    }

    /// Waits until so many files may be asked for.
    async fn wait(&self, files: usize) {
        let (now, due) = (self.env.now_ms(), self.due_ms.load(Ordering::Relaxed));
        let files = i64::try_from(files).unwrap_or(i64::MAX);
        let takes = files.saturating_mul(1000) / self.per_second;
        self.due_ms.store(due.max(now).saturating_add(takes), Ordering::Relaxed);
        if let Ok(wait) = u64::try_from(due.saturating_sub(now)) {
            self.env.sleep(Duration::from_millis(wait)).await;
        }
    }
}

fn file(uuid: Uuid) -> String {
    format!("expiry-{uuid}.json")
}

fn deadline_ms() -> i64 {
    i64::try_from(DEADLINE.as_millis()).unwrap_or(i64::MAX)
}

impl Batch {
    /// When its next step is due.
    fn due_ms(&self) -> i64 {
        self.gone_ms.unwrap_or(self.sent_ms).saturating_add(deadline_ms())
    }

    fn is_ripe(&self, now: i64) -> bool {
        let gone = self.gone_ms.is_some_and(|at| now.saturating_sub(at) >= deadline_ms());
        gone && self.compared && self.held.is_none()
    }
}

impl Note {
    /// When something is due next.
    fn next_ms(&self, now: i64) -> Option<i64> {
        let noted = self.noted.values().map(|at| at.saturating_add(deadline_ms()));
        let open = self.batches.iter().filter(|batch| batch.held.is_none());
        let batches = open.map(Batch::due_ms);
        noted.chain(batches).min().map(|at| at.max(now))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::env::virtual_time::{on_virtual_time, simulated};

    /// Milliseconds that bulks of a thousand take at so many files a second, each request taking `takes_ms`.
    async fn took(bulks: usize, per_second: u32, takes_ms: u64) -> i64 {
        let env = simulated(3);
        let begun = env.now_ms();
        let turns = Turns::new(&env, per_second);
        let requests = (0..bulks).map(|_| turns.after(1_000, env.sleep(Duration::from_millis(takes_ms))));
        stream::iter(requests).buffer_unordered(BULKS_AT_ONCE).collect::<Vec<()>>().await;
        env.now_ms() - begun
    }

    #[test]
    fn bulk_requests_overlap_as_far_as_the_rate_allows() {
        on_virtual_time(async {
            assert_eq!(took(10, 3_000, 1_000).await, 9 * 333 + 1_000, "the rate is what holds them up");
            assert_eq!(took(10, 3_000, 0).await, 9 * 333, "nobody waits after the last");
            assert_eq!(took(16, 1_000_000, 1_000).await, 2_000 + 7, "eight at a time, a millisecond apart");
        });
    }
}
