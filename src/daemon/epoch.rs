//! Where a pipeline's epochs end: the commits of what it sealed.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use crate::api::PipelineHealth;
use crate::commit::proof::Leftover;
use crate::commit::protocol::{Commit, Ending};
use crate::commit::standing::Standing;
use crate::config::RejectsTo;
use crate::config::quantity::show_duration;
use crate::daemon::cadence::{SealReason, Why};
use crate::daemon::pipeline::{Epoch, Pipeline, since};
use crate::daemon::rebuild;
use crate::daemon::sealed::{self, STAGED_MAX_MS, Sealed, SealedPart};
use crate::daemon::table::TableHandle;
use crate::error::{Directive, Error, ErrorKind, Result};
use crate::model::change::{Change, PipelineDelta};
use crate::model::checkpoint::{self, Checkpoint, Delta};
use crate::model::ids::TableName;
use crate::model::table::TableState;
use crate::quality::quarantine;
use crate::storage::ledger::LedgerOwner;
use crate::write::staged::Staged;

const WAIT_MIN: Duration = Duration::from_millis(500);
const WAIT_MAX: Duration = Duration::from_secs(30);

/// What a table's part of an epoch amounts to.
#[derive(Debug, Clone, Copy)]
struct Weight {
    rows: u64,
    files: u64,
    bytes: u64,
}

/// The decided epoch that a commit is a part of.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Decided<'a> {
    sealed: &'a Sealed,
    location: &'a str,
    /// The last sequence number of the part's table when its files were made.
    made: i64,
}

impl Weight {
    fn of(staged: &Staged) -> Self {
        Self { rows: staged.rows, files: staged.files.len() as u64, bytes: staged.bytes }
    }
}

/// Seconds between two looks at an anchor that still names a decided epoch which cannot be finished: a catalog may answer from
/// before another instance did it.
const PATIENCE: [u64; 5] = [1, 2, 4, 8, 0];

impl Pipeline {
    /// Finishes a decided epoch from its object.
    pub(crate) async fn finish_sealed(&mut self, location: &str, anchor: &TableState) -> Result<()> {
        let storage = self.shared.storage.vended(&anchor.config)?;
        let sealed = Sealed::read(&storage, location).await?;
        self.finish(&sealed, location).await
    }

    /// Commits every part of a decided epoch.
    async fn finish(&mut self, sealed: &Sealed, location: &str) -> Result<()> {
        for part in &sealed.parts {
            let table = part.table()?;
            let handle = self.shared.table(&self.config.catalog, &table)?;
            let state = self.finish_part(sealed, part, location, &handle).await?;
            self.knows(&state).await?;
            self.adopt(&table, state)?;
        }
        Ok(())
    }

    /// What it means that a decided epoch could not be finished: that it is no longer one, where the anchor names it no more.
    pub(crate) async fn unless_forgotten(&mut self, location: &str, error: Error) -> Error {
        let Ok(anchor) = self.shared.table(&self.config.catalog, &self.anchor) else {
            return error;
        };
        for wait in PATIENCE.map(Duration::from_secs) {
            match anchor.standing(self.asker(BTreeSet::new())).await {
                // Another instance finished it, or the anchor was rolled back.
                Ok((_, Standing::At(now))) if !now.sealed.iter().any(|held| held == location) => {
                    return Error::new(ErrorKind::Fenced, "the sealed epoch is no longer open").with_source(error);
                }
                Ok((_, Standing::At(_))) => {}
                // Nothing is known until the anchor is seen again.
                Err(unseen) if unseen.directive() == Directive::Retry => return unseen,
                _ => return error,
            }
            tokio::select! {
                biased;
                () = self.hard.cancelled() => return error,
                () = self.shared.env.sleep(wait) => {}
            }
        }
        error
    }

    /// Commits one table's part of a decided epoch, whatever it takes.
    async fn finish_part(
        &mut self,
        sealed: &Sealed,
        part: &SealedPart,
        location: &str,
        handle: &TableHandle,
    ) -> Result<TableState> {
        let mut base = handle.load().await?;
        if let Err(another) = part.is_of(&base) {
            return self.passed_over(sealed, handle).await?.ok_or(another);
        }
        let mut staged = part.staged()?;
        let known = self.known.get(&part.uuid).copied().unwrap_or(0);
        let mut change = sealed.change(part, staged.clone(), self.config.on_rollback, known);
        let (mut owners, mut rebuilt) = (Vec::new(), false);
        // Parts of another process are as old as they may be.
        let mut made = self.lanes.get(handle.name()).map_or(0, |lane| lane.state.metadata.last_sequence_number());
        loop {
            let decided = Decided { sealed, location, made };
            let (commit, ending) = self.drive(handle, change, base, Some(decided)).await?;
            match ending {
                Ending::Done { state, ours } => {
                    let is_in = ours || state.metadata.snapshot_by_id(commit.change().snapshot_id).is_some();
                    if !is_in && rebuilt {
                        // By another instance, which knows nothing of these files.
                        handle.leave(commit.into_leftover(handle.name())).await;
                    } else {
                        owners.extend(commit.owners(handle.name()));
                        if !is_in {
                            // Its rows are in, perhaps by another epoch of the same positions.
                            self.supersede(part, location, &commit.into_leftover(handle.name()).files).await?;
                        }
                    }
                    self.leave_superseded(part, location).await?;
                    self.settle(&owners).await;
                    return Ok(*state);
                }
                Ending::Rebuild(head) => {
                    let owner =
                        LedgerOwner { table: handle.name().clone(), snapshot_id: self.shared.env.snapshot_id() };
                    let options = self.options.of_rebuilt();
                    let again = rebuild::encode_again(&self.shared, options, &head, &staged, &owner).await?;
                    change = commit.change().clone();
                    owners.extend(commit.owners(handle.name()));
                    self.supersede(part, location, &commit.into_leftover(handle.name()).files).await?;
                    change.snapshot_id = owner.snapshot_id;
                    change.evolve = again.evolve;
                    change.data = Some(crate::model::change::Data::Append(crate::daemon::lane::append(
                        &head,
                        Some(again.staged.clone()),
                    )));
                    (staged, rebuilt) = (again.staged, true);
                    // Nobody else knows of these.
                    made = head.metadata.last_sequence_number();
                    base = *head;
                }
                ending => return Err(unfinished(handle.name(), location, &self.anchor, ending)),
            }
        }
    }

    /// Notes what of a part is encoded again, under ids that no snapshot has.
    async fn supersede(&mut self, part: &SealedPart, location: &str, files: &[String]) -> Result<()> {
        let [own, anchor] = self.superseded(part)?;
        let names: Vec<&str> = files.iter().map(String::as_str).collect();
        self.shared.ledger.stage_all(&own, &names).await?;
        self.shared.ledger.stage(&anchor, location).await
    }

    /// A part is in: what was encoded again of it goes as soon as the anchor has forgotten the epoch. Until then another instance,
    /// or the next process, may have to encode it again itself.
    async fn leave_superseded(&mut self, part: &SealedPart, location: &str) -> Result<()> {
        let [own, anchor] = self.superseded(part)?;
        let files = self.shared.ledger.open_of(&own);
        if files.is_empty() {
            return Ok(());
        }
        let left = Leftover {
            // Of the anchor nothing is asked but that it names the epoch no more.
            submitted_seqs: Some((0, 0)),
            sealed: Some(location.to_owned()),
            elsewhere: vec![(own.table.clone(), files)],
            owners: vec![own, anchor.clone()],
            ..Leftover::unsent(Vec::new(), anchor)
        };
        self.shared.table(&self.config.catalog, &self.anchor)?.leave(left).await;
        Ok(())
    }

    /// Under whom the ledger has what was encoded again of a part, and the object of its epoch.
    fn superseded(&self, part: &SealedPart) -> Result<[LedgerOwner; 2]> {
        let owner = |table| LedgerOwner::of_no_snapshot(table, part.snapshot_id);
        Ok([owner(part.table()?), owner(self.anchor.clone())])
    }

    /// A table that is another one by now gets nothing of an epoch, once an operator has set its positions past it.
    async fn passed_over(&mut self, sealed: &Sealed, handle: &TableHandle) -> Result<Option<TableState>> {
        let (state, standing) = handle.standing(self.asker(BTreeSet::new())).await?;
        Ok(match standing {
            Standing::At(taken) => {
                let past = sealed.delta.standing(&taken.checkpoint.positions) == checkpoint::Standing::Behind;
                past.then_some(state)
            }
            Standing::New => None,
        })
    }

    /// Drives a change to an end that is known, however long it takes.
    pub(crate) async fn drive(
        &mut self,
        handle: &TableHandle,
        change: Change,
        base: TableState,
        decided: Option<Decided<'_>>,
    ) -> Result<(Commit, Ending)> {
        let staged_ms = decided.map_or_else(|| self.shared.env.now_ms(), |decided| decided.sealed.sealed_ms);
        let until = staged_ms.saturating_add(STAGED_MAX_MS);
        let commit = Commit::new(change).until(until).looking_first(self.cadence.looks_first());
        let mut commit = Box::new(match decided {
            Some(decided) => commit.made_at(decided.made),
            None => commit,
        });
        let mut attempt = 0_u32;
        loop {
            if let Some(Decided { sealed, location, .. }) = decided {
                sealed.is_fresh(location, self.shared.env.now_ms())?;
            }
            let (back, ending) = handle.commit(commit, base.clone(), self.hard.clone()).await?;
            commit = back;
            let (what, error) = match ending? {
                Ending::Unresolved(error) => ("unresolved", error),
                Ending::Failed(error) => ("not done yet", error),
                end => {
                    self.answers.add(commit.answers());
                    self.watch.met(handle.name(), commit.answers().conflicts);
                    self.watch.set(PipelineHealth::Running);
                    return Ok((*commit, end));
                }
            };
            if self.hard.is_cancelled() {
                return Err(error);
            }
            if decided.is_none() && self.shared.env.now_ms() > until {
                return Ok((*commit, Ending::Lost(Box::new(base))));
            }
            // First what the page says, then the line that sends somebody there.
            self.watch.set(PipelineHealth::Waiting(format!("commit {what}: {error}")));
            tracing::warn!(pipeline = %self.name, table = %handle.name(), attempt, "a commit is {what}: {error}");
            let wait = self.shared.env.backoff(WAIT_MIN, WAIT_MAX, attempt).max(error.wait().unwrap_or_default());
            tokio::select! {
                biased;
                () = self.hard.cancelled() => return Err(error),
                () = self.shared.env.sleep(wait) => {}
            }
            attempt = attempt.saturating_add(1);
        }
    }

    pub(crate) fn delta(&self, delta: Delta, sealed: Vec<String>) -> PipelineDelta {
        PipelineDelta {
            pipeline: self.name.clone(),
            witness: self.witness(&delta),
            delta,
            on_rollback: self.config.on_rollback,
            follows: None,
            known_seq: 0,
            sealed,
            finished: self.finished.clone(),
            operator: None,
        }
    }

    /// Seals the open epoch and commits it: the anchor first, whose commit decides, then the others.
    pub(crate) async fn seal(&mut self) -> Result<()> {
        if self.epoch.delta.is_empty() || self.waiting() == 0 {
            return Ok(());
        }
        self.within_reject_limit()?;
        let begun = self.shared.env.now_ms();
        let anchor = self.anchor.clone();
        self.open_anchor().await?;
        let owner = self.owner();
        let (anchor_staged, others) = self.stage().await?;
        let parts: Vec<(TableName, Weight)> = anchor_staged
            .iter()
            .map(|staged| (anchor.clone(), Weight::of(staged)))
            .chain(others.iter().map(|(table, staged)| (table.clone(), Weight::of(staged))))
            .collect();
        let sealed = self.write_sealed(&owner, &others).await?;
        let Some(lane) = self.lanes.get(&anchor) else {
            return Err(Error::new(ErrorKind::Internal, format!("no lane for the anchor {anchor}")));
        };
        let mut change = lane.change(owner.snapshot_id, anchor_staged);
        change.target.clone_from(&self.config.branch);
        let location = sealed.as_ref().map(|(_, location)| location.clone());
        let (handle, base) = (lane.handle.clone(), lane.state.clone());
        // From here on its files may be in a commit: what becomes of them is no longer this pipeline's alone to say.
        let epoch = std::mem::take(&mut self.epoch);
        let mut delta = self.delta(epoch.delta.clone(), location.clone().into_iter().collect());
        let parts_of = sealed.iter().flat_map(|(sealed, _)| &sealed.parts);
        delta.witness.followers = parts_of.map(|part| part.uuid.clone()).collect();
        delta.witness.known = self.known.clone();
        change.delta = Some(delta);
        let (commit, ending) = self.drive(&handle, change, base, None).await?;
        let (mut owners, attempts) = (commit.owners(&anchor), commit.attempts());
        let tables = others.iter().map(|(table, _)| table.clone());
        owners.extend(tables.map(|table| LedgerOwner { table, snapshot_id: owner.snapshot_id }));
        owners.push(owner);
        match ending {
            Ending::Done { state, ours: true } => {
                self.watch.decided(&epoch.partitions);
                self.adopt(&anchor, *state)?;
            }
            ending => {
                let mut leftover = commit.into_leftover(&anchor);
                let files = |staged: &Staged| staged.files.iter().map(|f| f.file_path().to_owned()).collect();
                leftover.elsewhere = others.iter().map(|(table, staged)| (table.clone(), files(staged))).collect();
                leftover.files.extend(location.clone());
                (leftover.sealed, leftover.owners) = (location, owners);
                handle.leave(leftover).await;
                return Err(undecided(&anchor, &ending));
            }
        }
        if let Some((sealed, location)) = &sealed
            && let Err(error) = self.finish(sealed, location).await
        {
            return Err(self.unless_forgotten(location, error).await);
        }
        self.settle(&owners).await;
        let location = sealed.map(|(_, location)| location);
        self.forget_sealed(location).await;
        self.report(&parts, &epoch, since(begun, self.shared.env.now_ms()), attempts);
        self.release(&epoch).await;
        Ok(())
    }

    fn report(&mut self, parts: &[(TableName, Weight)], epoch: &Epoch, took: Duration, attempts: u32) {
        self.pace(took, epoch.reason);
        if let Some(window) = &mut self.window {
            window.add(self.shared.env.now_ms(), epoch.rows, epoch.rejects);
        }
        for (table, weight) in parts {
            self.watch.table_committed(table, weight.rows, weight.files, weight.bytes);
        }
        self.watch.committed(&self.anchor, took, epoch.times.map(|times| times.newest_ms));
        let rows: u64 = parts.iter().map(|(_, weight)| weight.rows).sum();
        let bytes: u64 = parts.iter().map(|(_, weight)| weight.bytes).sum();
        let (tables, rejects, skipped) = (parts.len(), epoch.rejects, epoch.skipped);
        let now_ms = self.shared.env.now_ms();
        let age = |then_ms| since(then_ms, now_ms).as_millis() as u64;
        let (ms, oldest_ms) = (took.as_millis() as u64, age(epoch.opened_ms));
        // With what it waited before it was read, as behind the commit before.
        let oldest_record_ms = epoch.times.map(|times| age(times.oldest_ms));
        tracing::info!(
            pipeline = %self.name, rows, bytes, tables, rejects, skipped, attempts, ms, oldest_ms, oldest_record_ms, "committed"
        );
    }

    /// What a commit took, and what the catalog said to it, decides when the next epoch is sealed.
    fn pace(&mut self, took: Duration, reason: Option<SealReason>) {
        let before = self.cadence.interval().1;
        self.cadence.committed(took, std::mem::take(&mut self.answers));
        self.cadence.draw(self.shared.env.below(self.cadence.chance()));
        let (interval, now) = self.cadence.interval();
        self.watch.paced(interval, self.cadence.why(reason));
        if now == before {
            return;
        }
        let (every, took, target) =
            (show_duration(interval), show_duration(took), show_duration(self.config.commit.freshness));
        let why = match now {
            Why::Latency => "commits take long",
            Why::Throttled => "the catalog asks to wait",
            Why::Conflicts => "others commit to the same tables again and again",
            _ => {
                tracing::info!(pipeline = %self.name, target, "rows wait no longer than the freshness target says again");
                return;
            }
        };
        let asked = "rows wait longer than the freshness target says";
        tracing::warn!(pipeline = %self.name, every, took, target, "{asked}: {why}");
    }

    /// Completes the files of every lane.
    async fn stage(&mut self) -> Result<(Option<Staged>, Vec<(TableName, Staged)>)> {
        let mut anchor = None;
        let mut others = Vec::new();
        for (table, lane) in &mut self.lanes {
            match lane.seal().await? {
                Some(staged) if *table == self.anchor => anchor = Some(staged),
                Some(staged) if staged.rows > 0 => others.push((table.clone(), staged)),
                _ => {}
            }
        }
        Ok((anchor, others))
    }

    /// Writes the object of an epoch that feeds more than its anchor.
    async fn write_sealed(
        &mut self,
        owner: &LedgerOwner,
        others: &[(TableName, Staged)],
    ) -> Result<Option<(Sealed, String)>> {
        if others.is_empty() {
            return Ok(None);
        }
        let now = self.shared.env.now_ms();
        let mut object = Sealed::new(
            self.name.clone(),
            &self.config.branch,
            self.epoch.delta.clone(),
            self.witness(&self.epoch.delta),
            now,
        );
        for (table, staged) in others {
            let id = self.shared.env.snapshot_id();
            if let Some(lane) = self.lanes.get(table) {
                object.parts.push(SealedPart::new(lane, id, staged)?);
            }
        }
        let Some(anchor) = self.lanes.get(&self.anchor).map(|lane| &lane.state) else {
            return Err(Error::new(ErrorKind::Internal, format!("no lane for the anchor {}", self.anchor)));
        };
        let location = sealed::location(anchor, &self.name, owner.snapshot_id);
        let storage = self.shared.storage.vended(&anchor.config)?;
        self.shared.ledger.stage(owner, &location).await?;
        object.write(&storage, &location).await?;
        Ok(Some((object, location)))
    }

    /// Removes what an epoch staged of which no commit was ever sent.
    pub(crate) async fn abandon(&mut self, snapshot_id: i64) {
        let entries = self.shared.ledger.open_entries();
        let mut left: BTreeMap<LedgerOwner, Vec<String>> = BTreeMap::new();
        for entry in entries.into_iter().filter(|entry| entry.owner.snapshot_id == snapshot_id) {
            left.entry(entry.owner).or_default().push(entry.location);
        }
        for (owner, files) in left {
            if let Ok(handle) = self.shared.table(&self.config.catalog, &owner.table) {
                handle.leave(Leftover::unsent(files, owner)).await;
            }
        }
    }

    fn adopt(&mut self, table: &TableName, state: TableState) -> Result<()> {
        self.lanes.get_mut(table).map_or(Ok(()), |lane| lane.committed(state))
    }

    /// The anchor's commit dropped the objects of the epochs before.
    async fn forget_sealed(&mut self, now: Option<String>) {
        let before = std::mem::replace(&mut self.finished, now.into_iter().collect());
        let anchor = self.lanes.get(&self.anchor).filter(|_| !before.is_empty());
        let Some(Ok(storage)) = anchor.map(|lane| self.shared.storage.vended(&lane.state.config)) else {
            return;
        };
        for (location, result) in storage.delete_all(before).await {
            if let Err(error) = result {
                tracing::warn!(pipeline = %self.name, location, "a finished sealed epoch stays: {error}");
            }
        }
    }

    pub(crate) async fn settle(&mut self, owners: &[LedgerOwner]) {
        for owner in owners {
            if let Err(error) = self.shared.ledger.settle(owner).await {
                tracing::warn!(pipeline = %self.name, "the ledger keeps a settled entry: {error}");
            }
        }
    }

    async fn release(&mut self, epoch: &Epoch) {
        let checkpoint = Checkpoint { positions: epoch.delta.apply(&Default::default()), ..self.witness(&epoch.delta) };
        if let Err(error) = self.source.release(&checkpoint).await {
            tracing::warn!(pipeline = %self.name, "the source keeps what is committed: {error}");
        }
    }

    fn within_reject_limit(&mut self) -> Result<()> {
        let (mut rejects, mut rows) = (self.epoch.rejects, self.epoch.rows);
        if self.config.rejects.to == RejectsTo::Count && rejects > 0 {
            tracing::warn!(pipeline = %self.name, rejects, "rejects were counted and dropped");
        }
        let limit = self.config.rejects.halt_above;
        let mut among = "an epoch".to_owned();
        if let (Some(length), Some(window)) = (limit.window, &mut self.window) {
            let (before, bad) = window.totals(self.shared.env.now_ms());
            (rows, rejects) = (rows.saturating_add(before), rejects.saturating_add(bad));
            among = format!("the last {}", show_duration(length));
        }
        if !quarantine::halts(rejects, rows, limit.share) {
            return Ok(());
        }
        Err(Error::new(
            ErrorKind::Corrupt,
            format!("pipeline {}: {rejects} of {rows} rows of {among} were rejected", self.name),
        )
        .with_hint("look at the reasons with --log-level debug, mend the source, or raise rejects.halt_above"))
    }
}

/// Why a part of a decided epoch cannot be committed.
fn unfinished(table: &TableName, location: &str, anchor: &TableName, ending: Ending) -> Error {
    match ending {
        Ending::Swept(file) => Error::new(
            ErrorKind::Corrupt,
            format!("table {table}: its part of the sealed epoch {location} names {file}, which is gone"),
        )
        .with_hint(format!(
            "the part was in, was rolled back and expired: bring the file back; or roll the anchor {anchor} back to before the \
             epoch and rewind, which reads its rows again; or forget the epoch with `frazil checkpoint set --drop-sealed` for \
             the anchor: then they stay away from this table"
        )),
        Ending::Fenced(_) => Error::new(
            ErrorKind::Corrupt,
            format!("table {table} holds other positions than its part of the sealed epoch {location}"),
        )
        .with_hint("find out who moved them; then `frazil checkpoint set` for that table"),
        other => Error::new(ErrorKind::Internal, format!("an append cannot end so: {other:?}")),
    }
}

/// The anchor's commit did not decide: the epoch did not happen, and its rows are read again.
fn undecided(anchor: &TableName, ending: &Ending) -> Error {
    let what = match ending {
        Ending::Rebuild(_) => "the table's layout changed under the epoch",
        Ending::Lost(_) => "the epoch's files were staged more than a day ago",
        Ending::Swept(_) => "the epoch was in, was rolled back and expired",
        _ => "another instance has moved the checkpoint",
    };
    Error::new(ErrorKind::Fenced, format!("table {anchor}: {what}"))
}
