//! The state machine of one commit: prepare, submit, and look until it is known what became of it.
//!
//! Source: docs/protocol.md, "The state machine". The decisions are in `look`, `conflict` and `checkpoint`; this file moves
//! between them and waits.

use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::catalog::{Catalog, Outcome};
use crate::commit::checkpoint::{Chain, Taken};
use crate::commit::effect::{as_assumed, fit, metadata_effect, operator_effect, rebase};
use crate::commit::look::{Effect, Rebase, Seen, Verdict, look};
use crate::commit::proof::{self, Leftover};
use crate::commit::properties::CommitProperties;
use crate::commit::snapshot::{ListCache, Prepared, Preparer, Written};
use crate::commit::standing::{Ancestry, Question, Standing, Witness, standing};
use crate::env::Env;
use crate::error::{Directive, Error, ErrorKind, Result};
use crate::model::change::{Change, Data};
use crate::model::checkpoint;
use crate::model::ids::TableName;
use crate::model::table::TableState;
use crate::storage::Storage;
use crate::storage::ledger::{Ledger, LedgerOwner};

/// A body older than this is prepared anew instead of being submitted again: its timestamp would be refused.
const YOUNG_MS: i64 = 30_000;
/// Loads in a row that may be older than one already seen, before the catalog is not believed any more.
const STALE_MAX: u32 = 20;
/// Waits while a catalog or store does not answer.
const WAIT_MIN: Duration = Duration::from_millis(200);
const WAIT_MAX: Duration = Duration::from_secs(20);
/// Waits in a row after which the caller is told, so that it can say so; it goes on with the same commit.
const WAITS_MAX: u32 = 4;

/// The commits of one table by this process: one at a time.
#[derive(Debug)]
pub struct Committer {
    env: Env,
    catalog: Arc<dyn Catalog>,
    /// The process's storage, and the same with what the catalog vends for this table.
    shared: Storage,
    storage: Storage,
    ledger: Option<Ledger>,
    table: TableName,
    instance: String,
    uuid: Option<Uuid>,
    /// The highest sequence number that a load of this table showed.
    seen_seq: i64,
    cache: ListCache,
    ancestry: Ancestry,
}

/// One change on its way, kept until its end is known.
#[derive(Debug)]
pub struct Commit {
    change: Change,
    written: Written,
    /// Snapshot ids that it had before: landed, then rolled back.
    retired: Vec<i64>,
    /// Snapshot ids under which a body was submitted.
    submitted_as: Vec<i64>,
    /// The last body submitted.
    last: Option<Prepared>,
    /// The lowest and the highest sequence number that a submitted body assumed.
    submitted_seqs: Option<(i64, i64)>,
    /// Whether a body was submitted whose snapshot has no parent.
    without_parent: bool,
    /// Whether every answer so far was a definite no.
    definite: bool,
    /// What the catalog said when it last refused.
    refusal: Option<String>,
    /// Bodies sent.
    attempts: u32,
    /// No body is sent after this moment.
    until_ms: Option<i64>,
}

/// How a commit ended.
#[derive(Debug)]
pub enum Ending {
    /// The change is in the table.
    Done {
        /// The table with it.
        state: Box<TableState>,
        /// Whether it is certain that this commit did it; otherwise its files may be another's leftovers.
        ours: bool,
    },
    /// Another instance has moved these positions: drop the epoch.
    Fenced(Box<TableState>),
    /// The staged files do not fit the table's layout any more: encode again, as a new change.
    Rebuild(Box<TableState>),
    /// The work is void.
    Lost(Box<TableState>),
    /// Not known. Go on with the same commit later; never start the next epoch, never clean up.
    Unresolved(Error),
    /// Refused each time. Go on with the same commit later, or give up.
    Failed(Error),
}

/// Where the state machine is.
enum Step {
    Prepare(Box<TableState>),
    Submit(Box<Prepared>),
    Look,
}

impl Commit {
    /// A commit of `change`.
    pub fn new(change: Change) -> Self {
        Self {
            change,
            written: Written::default(),
            retired: Vec::new(),
            submitted_as: Vec::new(),
            last: None,
            submitted_seqs: None,
            without_parent: false,
            definite: true,
            refusal: None,
            attempts: 0,
            until_ms: None,
        }
    }

    /// The same, of which no body is sent after `ms`: its files may not be there any more.
    #[must_use]
    pub fn until(mut self, ms: i64) -> Self {
        self.until_ms = Some(ms);
        self
    }

    /// The change.
    pub fn change(&self) -> &Change {
        &self.change
    }

    /// Bodies sent so far.
    pub fn attempts(&self) -> u32 {
        self.attempts
    }

    /// Under whom the ledger has this commit's objects.
    pub fn owners(&self, table: &TableName) -> Vec<LedgerOwner> {
        let ids = self.retired.iter().chain([&self.change.snapshot_id]);
        ids.map(|id| LedgerOwner { table: table.clone(), snapshot_id: *id }).collect()
    }

    /// What this commit leaves behind when it is given up, to be deleted under proof.
    pub fn into_leftover(self, table: &TableName) -> Leftover {
        let owners = self.owners(table);
        let mut files = self.written.objects;
        if let Some(Data::Append(append)) = &self.change.data {
            files.extend(append.files.iter().map(|f| f.file_path().to_owned()));
        }
        Leftover {
            files,
            snapshot_ids: self.submitted_as,
            submitted_seqs: self.submitted_seqs,
            without_parent: self.without_parent,
            sealed: None,
            elsewhere: Vec::new(),
            owners,
        }
    }
}

impl Committer {
    /// A committer for one table.
    ///
    /// `instance` names this process in records; the `ledger` is told of every object before it is created.
    pub fn new(
        env: Env,
        catalog: Arc<dyn Catalog>,
        storage: Storage,
        ledger: Option<Ledger>,
        table: TableName,
        instance: String,
    ) -> Self {
        Self {
            env,
            catalog,
            shared: storage.clone(),
            storage,
            ledger,
            table,
            instance,
            uuid: None,
            seen_seq: -1,
            cache: ListCache::default(),
            ancestry: Ancestry::default(),
        }
    }

    /// The table's name.
    pub fn table(&self) -> &TableName {
        &self.table
    }

    /// The store that the table's files are in.
    pub fn storage(&self) -> &Storage {
        &self.storage
    }

    /// Loads the table, never older than what was seen before.
    ///
    /// # Errors
    /// `NotFound` when it is gone, `Corrupt` when it is another table now or the catalog answers from the past for good.
    pub async fn load(&mut self) -> Result<TableState> {
        for attempt in 0..STALE_MAX {
            let state = self.catalog.load(&self.table).await?;
            self.recognise(&state)?;
            self.storage = self.shared.vended(&state.config)?;
            if state.metadata.last_sequence_number() >= self.seen_seq {
                self.seen_seq = state.metadata.last_sequence_number();
                return Ok(state);
            }
            self.env.sleep(self.env.backoff(WAIT_MIN, WAIT_MAX, attempt)).await;
        }
        Err(Error::new(
            ErrorKind::Corrupt,
            format!("table {}: the catalog answers with states older than ones it gave before", self.table),
        )
        .with_hint(
            "the table's metadata was set back, or a replica lags: see that it is current, then restart the pipeline",
        ))
    }

    /// Whether `state` of this table, and the tables that a leftover has files in beside it, prove that it can never land.
    ///
    /// # Errors
    /// Whatever catalog and store say: then there is no proof.
    pub async fn never(&self, state: &TableState, leftover: &Leftover) -> Result<bool> {
        if !proof::never(&self.storage, state, leftover).await? {
            return Ok(false);
        }
        for (table, files) in &leftover.elsewhere {
            let state = match self.catalog.load(table).await {
                Err(error) if error.kind() == ErrorKind::NotFound => return Ok(false),
                loaded => loaded?,
            };
            if proof::reaches(&self.shared.vended(&state.config)?, &state, files).await? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Deletes a leftover's files; answers those that stay, each with the reason.
    pub async fn remove(&self, leftover: &Leftover) -> Vec<(String, Error)> {
        let mut results = self.storage.delete_all(leftover.files.clone()).await;
        for (table, files) in &leftover.elsewhere {
            let vended = self.catalog.load(table).await.ok().and_then(|state| self.shared.vended(&state.config).ok());
            results.extend(vended.as_ref().unwrap_or(&self.shared).delete_all(files.clone()).await);
        }
        results.into_iter().filter_map(|(file, result)| result.err().map(|error| (file, error))).collect()
    }

    /// Where a pipeline stands.
    ///
    /// # Errors
    /// As `commit::standing`.
    pub async fn standing(&self, state: &TableState, question: Question<'_>) -> Result<Standing> {
        standing(&self.storage, &self.ancestry, state, question).await
    }

    /// Loads the table and decides where a pipeline stands in it, as `ask` puts it. What others expire meanwhile is no error.
    ///
    /// # Errors
    /// As `load` and `standing`; `NotFound` is the table's alone: a file that its newest state names and that is gone is `Corrupt`.
    pub async fn locate<'q>(&mut self, ask: impl Fn(&TableState) -> Question<'q>) -> Result<(TableState, Standing)> {
        let mut state = self.load().await?;
        for _ in 0..STALE_MAX {
            let error = match self.standing(&state, ask(&state)).await {
                Ok(standing) => return Ok((state, standing)),
                Err(error) => error,
            };
            state = match self.outdated(&state, &error).await? {
                Some(head) => head,
                None if error.kind() == ErrorKind::NotFound => {
                    let what = format!("table {}: a file that its newest state names is gone", self.table);
                    return Err(Error::new(ErrorKind::Corrupt, what)
                        .with_hint("bring the file back, or roll the table back to a snapshot whose files are there")
                        .with_source(error));
                }
                None => return Err(error),
            };
        }
        Err(Error::new(ErrorKind::Unavailable, format!("table {} moves faster than it can be read", self.table)))
    }

    /// Drives `commit` to its end, starting on `base` unless something was submitted before.
    ///
    /// # Errors
    /// What halts: another table under this name, a record that cannot be read, a halt of the checkpoint table. The commit
    /// is kept, so that nothing staged is forgotten.
    pub async fn run(&mut self, commit: &mut Commit, base: &TableState, cancel: &CancellationToken) -> Result<Ending> {
        let started = self.env.now_ms();
        let properties = CommitProperties::of(base)?;
        let (mut conflicts, mut waits) = (0_u32, 0_u32);
        let mut step = if commit.last.is_some() { Step::Look } else { Step::Prepare(Box::new(base.clone())) };
        loop {
            let done = match step {
                Step::Prepare(ref base) => self.prepare_or_reload(commit, base).await,
                Step::Submit(_) if commit.until_ms.is_some_and(|until| self.env.now_ms() > until) => {
                    return Ok(commit.give_back(format!("table {}: its files were staged too long ago", self.table)));
                }
                Step::Submit(prepared) => Ok(self.submit(commit, *prepared).await),
                Step::Look => self.look(commit).await,
            };
            let wait = match done {
                Ok(Turn::End(ending)) => return Ok(ending),
                Ok(Turn::Next(next)) => {
                    step = next;
                    continue;
                }
                Ok(Turn::Conflict(next)) => {
                    step = next;
                    conflicts += 1;
                    let spent = self.env.now_ms().saturating_sub(started);
                    let deadline = i64::try_from(properties.deadline.as_millis()).unwrap_or(i64::MAX);
                    if conflicts > properties.retries || spent > deadline {
                        return Ok(
                            commit.give_back(format!("table {}: {conflicts} conflicts in {spent} ms", self.table))
                        );
                    }
                    self.env.backoff(properties.wait_min, properties.wait_max, conflicts - 1)
                }
                Ok(Turn::Wait(next, at_least, why)) => {
                    step = next;
                    waits += 1;
                    tracing::warn!(table = %self.table, attempt = waits, "waiting: {why}");
                    if waits > WAITS_MAX {
                        return Ok(commit.give_back(format!("table {}: {why}", self.table)));
                    }
                    self.env.backoff(WAIT_MIN, WAIT_MAX, waits - 1).max(at_least)
                }
                Err(error) if error.directive() == Directive::Retry => {
                    // A base to prepare on may be old by the time the store answers; submitting finds out.
                    step = if commit.last.is_some() { Step::Look } else { Step::Prepare(Box::new(base.clone())) };
                    waits += 1;
                    tracing::warn!(table = %self.table, attempt = waits, "waiting: {error}");
                    if waits > WAITS_MAX {
                        return Ok(commit.give_back(error.to_string()));
                    }
                    self.env.backoff(WAIT_MIN, WAIT_MAX, waits - 1)
                }
                Err(error) => return Err(error),
            };
            tokio::select! {
                biased;
                () = cancel.cancelled() => return Ok(commit.give_back(format!("table {}: stopped while waiting", self.table))),
                () = self.env.sleep(wait) => {}
            }
        }
    }

    async fn prepare_or_reload(&mut self, commit: &mut Commit, base: &TableState) -> Result<Turn> {
        match self.prepare(commit, base).await {
            Err(error) => match self.outdated(base, &error).await? {
                Some(head) => Ok(Turn::Wait(Step::Prepare(Box::new(head)), Duration::ZERO, error.to_string())),
                None => Err(error),
            },
            done => done,
        }
    }

    /// The head, when `error` may come of a state that is not: files that it names may be gone since, and credentials that
    /// came with it may have run out.
    async fn outdated(&mut self, state: &TableState, error: &Error) -> Result<Option<TableState>> {
        if !matches!(error.kind(), ErrorKind::NotFound | ErrorKind::Denied) {
            return Ok(None);
        }
        let head = self.load().await?;
        let same = head.metadata.last_updated_ms() == state.metadata.last_updated_ms()
            && head.metadata_location == state.metadata_location
            && head.config == state.config;
        Ok((!same).then_some(head))
    }

    async fn prepare(&mut self, commit: &mut Commit, base: &TableState) -> Result<Turn> {
        self.recognise(base)?;
        self.storage = self.shared.vended(&base.config)?;
        let (effect, held) = self.held(&commit.change, base).await?;
        match effect {
            Effect::Done | Effect::Delta(checkpoint::Standing::Behind) => return Ok(Turn::done(base.clone(), false)),
            Effect::Delta(checkpoint::Standing::Fenced) => {
                return Ok(Turn::End(Ending::Fenced(Box::new(base.clone()))));
            }
            Effect::Delta(checkpoint::Standing::Ahead) | Effect::Absent => {}
        }
        if !fit(&mut commit.change, base) {
            return Ok(Turn::End(Ending::Rebuild(Box::new(base.clone()))));
        }
        let mut preparer = Preparer {
            env: &self.env,
            storage: &self.storage,
            ledger: self.ledger.as_ref(),
            instance: &self.instance,
            held: held.as_ref(),
            cache: &mut self.cache,
        };
        let prepared = preparer.prepare(&commit.change, &mut commit.written, base).await?;
        Ok(Turn::Next(Step::Submit(Box::new(prepared))))
    }

    async fn submit(&mut self, commit: &mut Commit, prepared: Prepared) -> Turn {
        commit.attempts = commit.attempts.saturating_add(1);
        let outcome = self.catalog.commit(&prepared.commit).await;
        let seq = prepared.base.metadata.next_sequence_number();
        let (definite, turn) = match outcome {
            Outcome::Committed(state) => {
                let believed = self.recognise(&state).is_ok()
                    && (commit.change.data.is_none()
                        || Chain::of(&state, &commit.change.target)
                            .is_ok_and(|chain| chain.contains(commit.change.snapshot_id)));
                if believed {
                    self.seen_seq = self.seen_seq.max(state.metadata.last_sequence_number());
                    return Turn::done(*state, true);
                }
                (false, Turn::Wait(Step::Look, Duration::ZERO, "a yes that does not show the commit".to_owned()))
            }
            Outcome::NotSent(error) => return self.unsent(commit, prepared, Duration::ZERO, error.to_string()),
            Outcome::Throttled(wait) => {
                return self.unsent(commit, prepared, wait, "the catalog asks to wait".to_owned());
            }
            Outcome::Refused(error) => {
                tracing::debug!(table = %self.table, "refused, to be looked at: {error}");
                commit.refusal = Some(error.to_string());
                (error.kind() == ErrorKind::Conflict, Turn::Conflict(Step::Look))
            }
            Outcome::Unknown(error) => {
                (false, Turn::Wait(Step::Look, Duration::ZERO, format!("outcome unknown: {error}")))
            }
        };
        commit.definite &= definite;
        commit.submitted_seqs =
            Some(commit.submitted_seqs.map_or((seq, seq), |(low, high)| (low.min(seq), high.max(seq))));
        if commit.submitted_as.last() != Some(&commit.change.snapshot_id) {
            commit.submitted_as.push(commit.change.snapshot_id);
        }
        commit.without_parent |= prepared.base.head(&commit.change.target).is_none();
        commit.last = Some(prepared);
        turn
    }

    /// Nothing left this process: the same body again while its timestamp is good, unless an earlier one may have landed.
    fn unsent(&self, commit: &Commit, prepared: Prepared, wait: Duration, why: String) -> Turn {
        let next = if commit.last.is_some() {
            Step::Look
        } else if self.is_young(&prepared) {
            Step::Submit(Box::new(prepared))
        } else {
            Step::Prepare(Box::new(prepared.base))
        };
        Turn::Wait(next, wait, why)
    }

    fn is_young(&self, prepared: &Prepared) -> bool {
        self.env.now_ms().saturating_sub(prepared.at_ms) < YOUNG_MS
    }

    async fn look(&mut self, commit: &mut Commit) -> Result<Turn> {
        let head = match self.load().await {
            Ok(head) => head,
            Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::Corrupt | ErrorKind::Unsupported) => {
                return Err(error);
            }
            Err(error) => return Ok(Turn::Wait(Step::Look, Duration::ZERO, format!("load failed: {error}"))),
        };
        let seen = match self.seen(commit, &head).await {
            Ok(seen) => seen,
            Err(error) => match self.outdated(&head, &error).await? {
                Some(_) => return Ok(Turn::Wait(Step::Look, Duration::ZERO, error.to_string())),
                None => return Err(error),
            },
        };
        let verdict = look(&seen);
        if matches!(verdict, Verdict::Prepare | Verdict::Renew | Verdict::Rebuild)
            && proof::is_swept(&self.storage, &head, &commit.change, commit.submitted_seqs).await?
        {
            return Ok(Turn::End(Ending::Fenced(Box::new(head))));
        }
        let Some(prepared) = &mut commit.last else {
            return Ok(Turn::Next(Step::Prepare(Box::new(head))));
        };
        Ok(match verdict {
            Verdict::Ours => Turn::done(head, true),
            Verdict::Done => Turn::done(head, false),
            Verdict::Fenced => Turn::End(Ending::Fenced(Box::new(head))),
            Verdict::Lost => Turn::End(Ending::Lost(Box::new(head))),
            Verdict::Rebuild => Turn::End(Ending::Rebuild(Box::new(head))),
            Verdict::Resubmit => {
                prepared.commit.idempotency_key = self.env.uuid();
                Turn::Next(Step::Submit(Box::new(prepared.clone())))
            }
            Verdict::Renew => {
                commit.renew(self.env.snapshot_id());
                Turn::Next(Step::Prepare(Box::new(head)))
            }
            Verdict::Prepare => Turn::Next(Step::Prepare(Box::new(head))),
        })
    }

    async fn seen(&self, commit: &Commit, head: &TableState) -> Result<Seen> {
        let change = &commit.change;
        let in_chain = change.data.is_some() && Chain::of(head, &change.target)?.contains(change.snapshot_id);
        let effect = if in_chain { Effect::Done } else { self.held(change, head).await?.0 };
        let (as_assumed, young, rebase) = match &commit.last {
            None => (false, false, Rebase::Clean),
            Some(prepared) => {
                (as_assumed(prepared, head), self.is_young(prepared), rebase(change, &prepared.base, head)?)
            }
        };
        Ok(Seen {
            in_chain,
            in_table: change.data.is_some() && head.metadata.snapshot_by_id(change.snapshot_id).is_some(),
            effect,
            as_assumed,
            young,
            rebase,
        })
    }

    /// Where the change stands in `state` by its effect, and the checkpoint that its delta moves.
    async fn held(&self, change: &Change, state: &TableState) -> Result<(Effect, Option<Taken>)> {
        let Some(delta) = &change.delta else {
            return Ok((metadata_effect(change, state), None));
        };
        if let Some(edit) = &delta.operator {
            return Ok((operator_effect(change, delta, edit, state), None));
        }
        let question = Question {
            pipeline: &delta.pipeline,
            target: &change.target,
            on_rollback: delta.on_rollback,
            // Rows come after a start record: where there is no record any more, it was lost.
            witness: if delta.delta.is_empty() { Witness::Absent } else { Witness::Known },
        };
        Ok(match self.standing(state, question).await? {
            Standing::At(_) if delta.delta.is_empty() => (Effect::Done, None),
            Standing::At(taken) => (Effect::Delta(delta.standing(&taken.checkpoint.positions)), Some(taken)),
            // For rows the witness halts: only a start record gets here.
            Standing::New => (Effect::Absent, None),
        })
    }

    fn recognise(&mut self, state: &TableState) -> Result<()> {
        let uuid = state.metadata.uuid();
        match self.uuid {
            Some(held) if held != uuid => Err(Error::new(
                ErrorKind::Corrupt,
                format!("table {} is another table now: uuid {uuid}, not {held}", self.table),
            )
            .with_hint(
                "it was dropped and created anew: bring the old one back, or set the positions in the new one with \
                 `frazil checkpoint set`, then restart the pipeline",
            )),
            _ => {
                self.uuid = Some(uuid);
                Ok(())
            }
        }
    }
}

/// What one step came to.
enum Turn {
    End(Ending),
    Next(Step),
    Conflict(Step),
    Wait(Step, Duration, String),
}

impl Turn {
    fn done(state: TableState, ours: bool) -> Self {
        Self::End(Ending::Done { state: Box::new(state), ours })
    }
}

impl Commit {
    /// A new snapshot id; what carries the old one is written again.
    fn renew(&mut self, snapshot_id: i64) {
        self.retired.push(std::mem::replace(&mut self.change.snapshot_id, snapshot_id));
        self.written.renew();
    }

    fn give_back(&self, mut why: String) -> Ending {
        if let Some(refusal) = &self.refusal {
            why = format!("{why}, the last refusal: {refusal}");
        }
        let error = Error::new(ErrorKind::Unavailable, why);
        if self.definite { Ending::Failed(error) } else { Ending::Unresolved(error) }
    }
}

#[cfg(test)]
mod tests;
