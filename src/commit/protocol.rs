//! The state machine of one commit: prepare, submit, and look until it is known what became of it.
//!
//! Source: docs/protocol.md, "The state machine". The decisions are in `look`, `conflict` and `checkpoint`; this file moves
//! between them, and `drive` counts the waits.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::catalog::{Catalog, Outcome};
use crate::commit::checkpoint::{Chain, Taken, set_back};
pub use crate::commit::drive::{Drive, Paused, stale_wait};
use crate::commit::drive::{Step, Turn};
use crate::commit::effect::{
    Landed, as_assumed, fit, landed, maintenance_fits, metadata_effect, operator_effect, rebase,
};
use crate::commit::history::History;
use crate::commit::load::{FROM_THE_PAST, STALE_MAX};
use crate::commit::look::{Effect, Rebase, Seen, Verdict, look};
use crate::commit::manifests;
pub use crate::commit::pending::{Answers, Commit, Ending};
use crate::commit::proof::{self, Leftover, Proof, Reached, Wanted};
use crate::commit::properties::CommitProperties;
use crate::commit::replace;
use crate::commit::snapshot::{ListCache, Prepared, Preparer, parent};
use crate::commit::standing::{Ancestry, Question, Standing, Witness, standing};
use crate::commit::traffic::{Passage, TableTraffic};
use crate::env::Env;
use crate::error::{Directive, Error, ErrorKind, Result};
use crate::model::change::{Change, Data, PipelineDelta};
use crate::model::checkpoint;
use crate::model::ids::TableName;
use crate::model::table::TableState;
use crate::storage::Storage;
use crate::storage::ledger::Ledger;

/// A body older than this is prepared anew instead of being submitted again: its timestamp would be refused.
const YOUNG_MS: i64 = 30_000;

/// How long maintenance waits for commits of rows that are under way.
pub const GIVE_WAY: Duration = Duration::from_secs(30);

/// The commits of one table by this process: one at a time.
#[derive(Debug)]
pub struct Committer {
    pub(super) env: Env,
    pub(super) catalog: Arc<dyn Catalog>,
    /// The process's storage, and the same with what the catalog vends for this table.
    pub(super) shared: Storage,
    pub(super) storage: Storage,
    pub(super) ledger: Option<Ledger>,
    pub(super) table: TableName,
    instance: String,
    pub(super) uuid: Option<Uuid>,
    /// The highest sequence number that a load of this table showed.
    pub(super) seen_seq: i64,
    /// Loads in a row that were older.
    pub(super) stale: u32,
    cache: ListCache,
    /// What proofs have read.
    history: History,
    ancestry: Ancestry,
    traffic: Option<TableTraffic>,
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
            stale: 0,
            cache: ListCache::default(),
            history: History::default(),
            ancestry: Ancestry::default(),
            traffic: None,
        }
    }

    /// The same among the process's other commits to the table.
    #[must_use]
    pub fn among(self, traffic: TableTraffic) -> Self {
        Self { traffic: Some(traffic), ..self }
    }

    /// A commit of rows sets out: until what comes back is dropped, [`Committer::give_way`] waits.
    pub fn set_out(&self) -> Option<Passage> {
        self.traffic.as_ref().map(TableTraffic::enter)
    }

    /// Waits until no commit of rows of this process is under way to the table, but no longer than [`GIVE_WAY`].
    pub async fn give_way(&self) {
        if let Some(traffic) = &self.traffic {
            // Where rows are committed without a pause, maintenance takes its chance among them.
            let _ = self.env.timeout(GIVE_WAY, traffic.clear()).await;
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

    /// What `state` of this table, and the tables that they have files in beside it, show of each leftover; each table's
    /// history is read once for all of them.
    ///
    /// # Errors
    /// Whatever catalog and store say of this table: then there is no proof. What they say of another one leaves unproved what
    /// has files there.
    pub async fn prove(&self, state: &TableState, leftovers: &[&Leftover]) -> Result<Vec<Proof>> {
        let mut proofs = proof::prove(&self.history, &self.storage, state, leftovers).await?;
        let mut elsewhere: BTreeMap<&TableName, Wanted> = BTreeMap::new();
        for (leftover, _) in leftovers.iter().zip(&proofs).filter(|(_, proof)| **proof == Proof::Never) {
            for (table, files) in &leftover.elsewhere {
                elsewhere.entry(table).or_default().files(files);
            }
        }
        for (table, wanted) in elsewhere {
            let reached = self.reached(table, &wanted).await.ok();
            for (leftover, proof) in leftovers.iter().zip(&mut proofs).filter(|(_, proof)| **proof == Proof::Never) {
                for (_, files) in leftover.elsewhere.iter().filter(|(name, _)| name == table) {
                    *proof = match &reached {
                        Some(reached) if !reached.any(&[], files) => *proof,
                        Some(_) => Proof::In,
                        None => Proof::Open,
                    };
                }
            }
        }
        Ok(proofs)
    }

    /// What any snapshot of another table reaches of `wanted`.
    async fn reached(&self, table: &TableName, wanted: &Wanted) -> Result<Reached> {
        let state = self.catalog.load(table).await?;
        Reached::of(&self.history, &self.shared.vended(&state.config)?, &state, 0, wanted).await
    }

    /// What a commit that is in has written beside what its snapshot names: the lists of other attempts under the same id, and
    /// manifests that only they name. To be deleted under proof, as a late body may still name them.
    ///
    /// # Errors
    /// Those of the store.
    pub async fn losers(&self, commit: &Commit, state: &TableState, ours: bool) -> Result<Option<Leftover>> {
        let landed = state.metadata.snapshot_by_id(commit.change.snapshot_id);
        // Another instance that finished the same sealed epoch did it under the same id, with a list and manifests of its own.
        let Some(landed) = landed.filter(|_| commit.written.lists > u32::from(ours)) else {
            return Ok(None);
        };
        let read;
        let named = match self.cache.get(landed.manifest_list()) {
            Some(named) => named,
            None => {
                let format = state.metadata.format_version();
                read = manifests::list(&self.storage, landed.manifest_list(), format).await?;
                &read
            }
        };
        let mut named: BTreeSet<&str> = named.iter().map(|manifest| manifest.manifest_path.as_str()).collect();
        named.extend(commit.written.replace.remap.named(&named));
        named.insert(landed.manifest_list());
        let files: Vec<String> =
            commit.written.objects.iter().filter(|object| !named.contains(object.as_str())).cloned().collect();
        Ok((!files.is_empty()).then(|| Leftover {
            files,
            // Its own id is in: only the names of the files tell.
            snapshot_ids: Vec::new(),
            submitted_seqs: commit.submitted_seqs,
            without_parent: commit.without_parent,
            sealed: None,
            elsewhere: Vec::new(),
            owners: Vec::new(),
        }))
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

    /// Decides where a pipeline stands in the table, loaded as `state`. What others expire meanwhile is no error: it is decided on
    /// the state that comes back.
    ///
    /// # Errors
    /// As `load` and `standing`; `NotFound` is the table's alone: a file that its newest state names and that is gone is `Corrupt`.
    pub async fn locate(&mut self, mut state: TableState, question: Question<'_>) -> Result<(TableState, Standing)> {
        for _ in 0..STALE_MAX {
            let error = match self.standing(&state, question).await {
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

    /// Begins to drive `commit`, on `base` unless something was submitted before.
    ///
    /// # Errors
    /// `Config` for a table property that is none.
    pub fn begin(&self, commit: &Commit, base: &TableState) -> Result<Drive> {
        let mut drive = Drive {
            base: base.clone(),
            properties: CommitProperties::of(base)?,
            started_ms: self.env.now_ms(),
            conflicts: 0,
            waits: 0,
            step: Some(Step::Look),
        };
        drive.again(commit);
        Ok(drive)
    }

    /// Drives `commit` until it is at its end or has to wait: then the table is anybody's until the wait is over.
    ///
    /// # Errors
    /// What halts: another table under this name, a record that cannot be read, a halt of the checkpoint table. The commit
    /// is kept, so that nothing staged is forgotten.
    pub async fn turn(&mut self, drive: &mut Drive, commit: &mut Commit) -> Result<Paused> {
        loop {
            let done = match drive.step.take() {
                Some(Step::Prepare(base)) => self.prepare_or_reload(commit, &base).await,
                Some(Step::Submit(_)) if commit.until_ms.is_some_and(|until| self.env.now_ms() > until) => {
                    let why = format!("table {}: its files were staged too long ago", self.table);
                    return Ok(Paused::Ended(commit.give_back(why)));
                }
                Some(Step::Submit(prepared)) => Ok(self.submit(commit, *prepared).await),
                Some(Step::Look) | None => self.look(commit).await,
            };
            match done {
                Ok(Turn::End(ending)) => return Ok(Paused::Ended(ending)),
                Ok(Turn::Next(next)) => drive.step = Some(next),
                Ok(Turn::Conflict(next)) => {
                    drive.step = Some(next);
                    return Ok(drive.conflict(&self.env, commit, &self.table));
                }
                Ok(Turn::Wait(next, at_least, why)) => {
                    drive.step = Some(next);
                    tracing::warn!(table = %self.table, attempt = drive.waits + 1, "waiting: {why}");
                    return Ok(drive.wait(&self.env, commit, at_least, || format!("table {}: {why}", self.table)));
                }
                Err(error) if error.directive() == Directive::Retry => {
                    // A base to prepare on may be old by the time the store answers; submitting finds out.
                    drive.again(commit);
                    tracing::warn!(table = %self.table, attempt = drive.waits + 1, "waiting: {error}");
                    let wait = commit.asked_to_wait(&error);
                    return Ok(drive.wait(&self.env, commit, wait, || error.to_string()));
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// Drives `commit` to its end, waits included: for whoever has the table to himself.
    ///
    /// # Errors
    /// As [`Committer::begin`] and [`Committer::turn`].
    pub async fn run(&mut self, commit: &mut Commit, base: &TableState, cancel: &CancellationToken) -> Result<Ending> {
        let mut drive = self.begin(commit, base)?;
        loop {
            let wait = match self.turn(&mut drive, commit).await? {
                Paused::Ended(ending) => return Ok(ending),
                Paused::Waits(wait) => wait,
            };
            tokio::select! {
                biased;
                () = cancel.cancelled() => return Ok(commit.stopped(&self.table)),
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

    async fn prepare(&mut self, commit: &mut Commit, base: &TableState) -> Result<Turn> {
        // Another pipeline of this process was here meanwhile: no need to be refused for it.
        let least = commit.change.delta.as_ref().map_or(0, PipelineDelta::least_seq);
        self.has_seen(least);
        // Nor where others commit as well: what was seen last is hardly the head, and to be refused takes as long as to ask.
        let (seen, looks) = (base.metadata.last_sequence_number(), commit.looks_first && commit.attempts == 0);
        let newer = if looks || self.seen_seq > seen { self.load_once().await? } else { None };
        let base = newer.as_ref().unwrap_or(base);
        commit.answers.others |= looks && base.metadata.last_sequence_number() > seen;
        if base.metadata.last_sequence_number() < least {
            let wait = stale_wait(&self.env, self.stale);
            return Ok(Turn::Wait(Step::Prepare(Box::new(base.clone())), wait, FROM_THE_PAST.to_owned()));
        }
        self.recognise(base)?;
        self.storage = self.shared.vended(&base.config)?;
        match landed(&commit.change, base)? {
            Landed::In => return Ok(Turn::done(base.clone(), commit.submitted_seqs.is_some())),
            Landed::Undone => {
                if let Some(end) = commit.undone(base, self.env.snapshot_id()) {
                    return Ok(end);
                }
            }
            Landed::No => {}
        }
        let (effect, held) = match &commit.change.data {
            Some(Data::Replace(_)) => (Effect::Absent, None), // preparing it looks at what it needs
            _ => self.held(&commit.change, base).await?,
        };
        match effect {
            Effect::Done | Effect::Delta(checkpoint::Standing::Behind) => return Ok(Turn::done(base.clone(), false)),
            Effect::Delta(checkpoint::Standing::Fenced) => {
                return Ok(Turn::End(Ending::Fenced(Box::new(base.clone()))));
            }
            Effect::Delta(checkpoint::Standing::Ahead) | Effect::Absent | Effect::Void => {}
        }
        if let Some(file) = proof::swept(&self.storage, base, commit).await? {
            return Ok(Turn::End(Ending::Swept(file)));
        }
        if !maintenance_fits(&commit.change, base)? {
            let why = "the table was rolled back, or its columns changed, since the rewrite was planned".to_owned();
            return Ok(commit.void(base, why));
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
        match preparer.prepare(&commit.change, &mut commit.written, base).await {
            Ok(prepared) => Ok(Turn::Next(Step::Submit(Box::new(prepared)))),
            // A replace whose inputs went, or met deletes: by our own hand, when its outputs are live.
            Err(error) if error.kind() == ErrorKind::Conflict => {
                let done = self.held(&commit.change, base).await?.0 == Effect::Done;
                Ok(if done { Turn::done(base.clone(), false) } else { commit.void(base, error.to_string()) })
            }
            Err(error) => Err(error),
        }
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
                    // Nor is it from the past: a look that was answered so before this commit says nothing any more.
                    self.stale = 0;
                    return Turn::done(*state, true);
                }
                (false, Turn::Wait(Step::Look, Duration::ZERO, "a yes that does not show the commit".to_owned()))
            }
            Outcome::NotSent(error) => return self.unsent(commit, prepared, Duration::ZERO, error.to_string()),
            Outcome::Throttled(wait) => {
                commit.answers.throttles(wait);
                return self.unsent(commit, prepared, wait, "the catalog asks to wait".to_owned());
            }
            Outcome::Refused(error) => {
                tracing::debug!(table = %self.table, "refused, to be looked at: {error}");
                commit.refusal = Some(error.to_string());
                let conflict = error.kind() == ErrorKind::Conflict;
                commit.answers.conflicts = commit.answers.conflicts.saturating_add(u32::from(conflict));
                (conflict, Turn::Conflict(Step::Look))
            }
            Outcome::Unknown(error) => {
                (false, Turn::Wait(Step::Look, commit.asked_to_wait(&error), format!("outcome unknown: {error}")))
            }
        };
        commit.definite &= definite;
        commit.submitted_seqs =
            Some(commit.submitted_seqs.map_or((seq, seq), |(low, high)| (low.min(seq), high.max(seq))));
        if commit.submitted_as.last() != Some(&commit.change.snapshot_id) {
            commit.submitted_as.push(commit.change.snapshot_id);
        }
        commit.without_parent |= parent(&prepared.base, &commit.change.target).is_none();
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
        let head = match self.load_once().await {
            Ok(Some(head)) => head,
            Ok(None) => {
                return Ok(Turn::Wait(Step::Look, Duration::ZERO, FROM_THE_PAST.to_owned()));
            }
            Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::Corrupt | ErrorKind::Unsupported) => {
                return Err(error);
            }
            Err(error) => {
                return Ok(Turn::Wait(Step::Look, commit.asked_to_wait(&error), format!("load failed: {error}")));
            }
        };
        let seen = match self.seen(commit, &head).await {
            Ok(seen) => seen,
            Err(error) => match self.outdated(&head, &error).await? {
                Some(_) => return Ok(Turn::Wait(Step::Look, Duration::ZERO, error.to_string())),
                None => return Err(error),
            },
        };
        let verdict = look(&seen);
        tracing::trace!(table = %self.table, instance = self.instance, ?verdict, "looked");
        if matches!(verdict, Verdict::Prepare | Verdict::Renew | Verdict::Rebuild)
            && let Some(file) = proof::swept(&self.storage, &head, commit).await?
        {
            return Ok(Turn::End(Ending::Swept(file)));
        }
        if let Verdict::Prepare | Verdict::Resubmit = verdict
            && let Some(file) = commit.lost_file(&self.storage).await?
        {
            return Ok(commit.void(&head, format!("{file} is gone: the rewrite was in, was rolled back and expired")));
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
            Verdict::Renew => commit
                .undone(&head, self.env.snapshot_id())
                .unwrap_or_else(|| Turn::Next(Step::Prepare(Box::new(head)))),
            Verdict::Prepare => Turn::Next(Step::Prepare(Box::new(head))),
        })
    }

    async fn seen(&self, commit: &Commit, head: &TableState) -> Result<Seen> {
        let change = &commit.change;
        let landed = landed(change, head)?;
        let in_chain = landed == Landed::In;
        let effect = if in_chain { Effect::Done } else { self.held(change, head).await?.0 };
        let (as_assumed, young, rebase) = match &commit.last {
            None => (false, false, Rebase::Clean),
            Some(prepared) => {
                (as_assumed(prepared, head), self.is_young(prepared), rebase(change, &prepared.base, head)?)
            }
        };
        Ok(Seen {
            in_chain,
            in_table: landed != Landed::No,
            effect,
            as_assumed,
            young,
            rebase,
            replaces: change.data.as_ref().is_some_and(Data::is_maintenance),
        })
    }

    /// Where the change stands in `state` by its effect, and the checkpoint that its delta moves.
    async fn held(&self, change: &Change, state: &TableState) -> Result<(Effect, Option<Taken>)> {
        if let (Some(Data::Replace(replace)), Some(head)) = (&change.data, state.head(&change.target)) {
            let format = state.metadata.format_version();
            let manifests = manifests::list(&self.storage, head.manifest_list(), format).await?;
            return Ok((replace::effect(&self.storage, replace, &manifests).await?, None));
        }
        let Some(delta) = &change.delta else {
            return Ok((metadata_effect(change, state), None));
        };
        if let Some(edit) = &delta.operator {
            return Ok((operator_effect(change, delta, edit, state)?, None));
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
            // A state from before is refused by the catalog.
            Standing::At(taken) if taken.bars(delta, state) => return Err(set_back(state)),
            Standing::At(taken) => (Effect::Delta(delta.standing(&taken.checkpoint.positions)), Some(taken)),
            // For rows the witness halts: only a start record gets here.
            Standing::New => (Effect::Absent, None),
        })
    }
}

#[cfg(test)]
mod tests;
