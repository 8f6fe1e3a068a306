//! One actor per table: the commits of this process to it, one at a time, and the clean-up after those given up.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use futures::FutureExt;
use futures::future::BoxFuture;
use futures::stream::{FuturesUnordered, StreamExt};
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::commit::proof::{DEADLINE, Leftover, Proof};
use crate::commit::protocol::{Commit, Committer, Drive, Ending, Paused, stale_wait};
use crate::commit::standing::{Question, Standing, Witness};
use crate::commit::traffic::Passage;
use crate::env::Env;
use crate::error::{Error, ErrorKind, Result};
use crate::model::change::OnRollback;
use crate::model::ids::{PipelineName, TableName};
use crate::model::table::TableState;
use crate::storage::ledger::{Ledger, LedgerOwner};

/// Commits that may wait for their turn.
const QUEUE: usize = 64;
/// Leftovers are looked at in rounds: history is read once for all of a round.
const ROUND_MS: i64 = 120_000;
/// Given-up commits remembered; beyond it they are the orphan sweep's.
const LEFTOVERS_MAX: usize = 256;

/// What the actor is asked.
enum Request {
    Load(oneshot::Sender<Result<Option<TableState>>>),
    Standing {
        asker: Asker,
        reply: oneshot::Sender<Result<Option<(TableState, Standing)>>>,
    },
    Commit {
        commit: Box<Commit>,
        base: Box<TableState>,
        cancel: CancellationToken,
        reply: oneshot::Sender<(Box<Commit>, Result<Ending>)>,
    },
    Leave(Leftover),
}

/// Who asks where it stands.
#[derive(Debug, Clone)]
pub struct Asker {
    /// The pipeline.
    pub pipeline: PipelineName,
    /// Its branch.
    pub target: String,
    /// Its policy.
    pub on_rollback: OnRollback,
    /// Tables that it has surely written to, by their uuids.
    pub witnesses: BTreeSet<Uuid>,
    /// By uuid a sequence number that the table has had.
    pub known: BTreeMap<String, i64>,
}

impl Asker {
    /// The table's last sequence number is no lower: whatever shows a lower one is from the past.
    fn least_seq(&self, uuid: Uuid) -> i64 {
        let known = self.known.get(&uuid.to_string()).copied().unwrap_or(0);
        // What was written to has a snapshot.
        known.max(i64::from(self.witnesses.contains(&uuid)))
    }
}

/// A cheap handle to a table's actor.
#[derive(Debug, Clone)]
pub struct TableHandle {
    name: TableName,
    env: Env,
    requests: mpsc::Sender<Request>,
}

impl TableHandle {
    /// Starts the actor. It ends when every handle is gone.
    pub fn start(env: Env, committer: Committer, ledger: Ledger) -> Self {
        let (requests, receiver) = mpsc::channel(QUEUE);
        let name = committer.table().clone();
        let handle = Self { name, env: env.clone(), requests };
        let waiting = FuturesUnordered::new();
        tokio::spawn(TableActor { env, committer, ledger, waiting, leftovers: Vec::new() }.run(receiver));
        handle
    }

    /// The table's name.
    pub fn name(&self) -> &TableName {
        &self.name
    }

    /// Loads the table.
    ///
    /// # Errors
    /// As `Committer::load`.
    pub async fn load(&self) -> Result<TableState> {
        self.current(|| Request::Load).await
    }

    /// Loads the table and decides where a pipeline stands in it.
    ///
    /// # Errors
    /// As `Committer::standing`.
    pub async fn standing(&self, asker: Asker) -> Result<(TableState, Standing)> {
        self.current(|| {
            let asker = asker.clone();
            |reply| Request::Standing { asker, reply }
        })
        .await
    }

    /// Asks until the catalog no longer answers from the past; others have their turns between.
    async fn current<T, R>(&self, request: impl Fn() -> R) -> Result<T>
    where
        R: FnOnce(oneshot::Sender<Result<Option<T>>>) -> Request,
    {
        let mut times = 0;
        loop {
            if let Some(answer) = self.ask(request()).await?? {
                return Ok(answer);
            }
            times += 1;
            self.env.sleep(stale_wait(&self.env, times)).await;
        }
    }

    /// Drives a commit in turns: while it waits, others have theirs. The commit comes back whatever happens: it is not forgotten before its end is known.
    ///
    /// # Errors
    /// `Internal` when the actor is gone.
    pub async fn commit(
        &self,
        commit: Box<Commit>,
        base: TableState,
        cancel: CancellationToken,
    ) -> Result<(Box<Commit>, Result<Ending>)> {
        self.ask(|reply| Request::Commit { commit, base: Box::new(base), cancel, reply }).await
    }

    /// Hands over a given-up commit, to be cleaned up under proof.
    pub async fn leave(&self, leftover: Leftover) {
        // A closed actor means a shutdown: the ledger still knows the files.
        let _ = self.requests.send(Request::Leave(leftover)).await;
    }

    async fn ask<T>(&self, request: impl FnOnce(oneshot::Sender<T>) -> Request) -> Result<T> {
        let gone = || Error::new(ErrorKind::Internal, format!("the actor of table {} is gone", self.name));
        let (reply, answer) = oneshot::channel();
        self.requests.send(request(reply)).await.map_err(|_| gone())?;
        answer.await.map_err(|_| gone())
    }
}

/// A leftover and when it was first proved.
struct Candidate {
    leftover: Leftover,
    proved_ms: Option<i64>,
    /// When it is looked at next.
    due_ms: i64,
}

/// A commit that is driven, and who waits for its end.
struct Driven {
    drive: Drive,
    commit: Box<Commit>,
    cancel: CancellationToken,
    reply: oneshot::Sender<(Box<Commit>, Result<Ending>)>,
    /// Maintenance waits while it is on its way.
    _passage: Option<Passage>,
}

/// The next round after `ms`.
fn round(ms: i64) -> i64 {
    ms.saturating_sub(ms.rem_euclid(ROUND_MS)).saturating_add(ROUND_MS)
}

struct TableActor {
    env: Env,
    committer: Committer,
    ledger: Ledger,
    /// Commits between two turns. At most one for each pipeline on this table.
    waiting: FuturesUnordered<BoxFuture<'static, Driven>>,
    leftovers: Vec<Candidate>,
}

impl TableActor {
    async fn run(mut self, mut requests: mpsc::Receiver<Request>) {
        loop {
            let due = self.until_clean();
            tokio::select! {
                biased;
                Some(driven) = self.waiting.next() => self.go_on(driven).await,
                request = requests.recv() => match request {
                    Some(request) => self.answer(request).await,
                    None => return,
                },
                () = self.env.sleep(due.unwrap_or_default()), if due.is_some() => {}
            }
            // Also when requests never cease.
            if self.until_clean().is_some_and(|due| due.is_zero()) {
                self.clean().await;
            }
        }
    }

    fn until_clean(&self) -> Option<Duration> {
        let due = self.leftovers.iter().map(|candidate| candidate.due_ms).min()?;
        Some(Duration::from_millis(u64::try_from(due.saturating_sub(self.env.now_ms())).unwrap_or(0)))
    }

    async fn answer(&mut self, request: Request) {
        // Who asked may be gone by the time of the answer: nothing depends on it.
        match request {
            Request::Load(reply) => {
                let _ = reply.send(self.committer.load_once().await);
            }
            Request::Standing { asker, reply } => {
                let _ = reply.send(self.standing(&asker).await);
            }
            Request::Commit { commit, base, cancel, reply } => match self.committer.begin(&commit, &base) {
                Ok(drive) => {
                    let _passage = self.committer.set_out();
                    self.turn(Driven { drive, commit, cancel, reply, _passage }).await;
                }
                Err(error) => {
                    let _ = reply.send((commit, Err(error)));
                }
            },
            Request::Leave(leftover) => {
                if leftover.without_parent {
                    tracing::debug!(table = %self.committer.table(), "the list of a start record is the orphan sweep's");
                    self.settle(&leftover).await;
                } else if self.leftovers.len() < LEFTOVERS_MAX {
                    let now = self.env.now_ms();
                    let due_ms = if leftover.submitted_seqs.is_none() { now } else { round(now) };
                    self.leftovers.push(Candidate { leftover, proved_ms: None, due_ms });
                }
            }
        }
    }

    /// After a wait, which a shutdown may have cut short.
    async fn go_on(&mut self, driven: Driven) {
        if driven.cancel.is_cancelled() {
            let ending = driven.commit.stopped(self.committer.table());
            let _ = driven.reply.send((driven.commit, Ok(ending)));
        } else {
            self.turn(driven).await;
        }
    }

    /// A commit's turn, up to its end or to where it has to wait.
    async fn turn(&mut self, mut driven: Driven) {
        let ending = match self.committer.turn(&mut driven.drive, &mut driven.commit).await {
            Ok(Paused::Waits(wait)) => {
                let env = self.env.clone();
                self.waiting.push(
                    async move {
                        tokio::select! {
                            biased;
                            () = driven.cancel.cancelled() => {}
                            () = env.sleep(wait) => {}
                        }
                        driven
                    }
                    .boxed(),
                );
                return;
            }
            Ok(Paused::Ended(ending)) => Ok(ending),
            Err(error) => Err(error),
        };
        if let Ok(Ending::Done { state, ours }) = &ending {
            self.lose(&driven.commit, state, *ours).await;
        }
        let _ = driven.reply.send((driven.commit, ending));
    }

    /// Remembers the lists of attempts that did not land.
    async fn lose(&mut self, commit: &Commit, state: &TableState, ours: bool) {
        match self.committer.losers(commit, state, ours).await {
            Ok(None) => {}
            Ok(Some(mut leftover)) if self.leftovers.len() < LEFTOVERS_MAX => {
                // The commit's own entries are settled: what outlives this process needs one of its own, of no snapshot.
                let owner = LedgerOwner::of_no_snapshot(state.name.clone(), commit.change().snapshot_id);
                let files: Vec<&str> = leftover.files.iter().map(String::as_str).collect();
                if let Err(error) = self.ledger.stage_all(&owner, &files).await {
                    tracing::debug!(table = %state.name, "lists of other attempts are not in the ledger: {error}");
                }
                leftover.owners.push(owner);
                let due_ms = round(self.env.now_ms());
                self.leftovers.push(Candidate { leftover, proved_ms: None, due_ms });
            }
            Ok(Some(leftover)) => {
                let files = leftover.files.len();
                tracing::debug!(table = %state.name, files, "lists of other attempts are left to the orphan sweep");
            }
            Err(error) => {
                tracing::debug!(table = %state.name, "lists of other attempts are left to the orphan sweep: {error}");
            }
        }
    }

    async fn standing(&mut self, asker: &Asker) -> Result<Option<(TableState, Standing)>> {
        let Some(state) = self.committer.load_once().await? else {
            return Ok(None);
        };
        let least = asker.least_seq(state.metadata.uuid());
        if state.metadata.last_sequence_number() < least {
            self.committer.has_seen(least);
            return Ok(None);
        }
        let question = Question {
            pipeline: &asker.pipeline,
            target: &asker.target,
            on_rollback: asker.on_rollback,
            witness: if asker.witnesses.contains(&state.metadata.uuid()) { Witness::Known } else { Witness::Files },
        };
        self.committer.locate(state, question).await.map(Some)
    }

    /// Deletes what is proved twice, a deadline apart; what was never submitted at once. What is in is settled.
    async fn clean(&mut self) {
        let now = self.env.now_ms();
        let (due, later): (Vec<_>, Vec<_>) =
            std::mem::take(&mut self.leftovers).into_iter().partition(|c| c.due_ms <= now);
        self.leftovers = later;
        let proved = match self.committer.load_once().await {
            Ok(Some(state)) => {
                let leftovers: Vec<&Leftover> = due.iter().map(|candidate| &candidate.leftover).collect();
                self.committer.prove(&state, &leftovers).await
            }
            Ok(None) => Ok(vec![Proof::Open; due.len()]),
            Err(error) => Err(error),
        };
        let proved = proved.unwrap_or_else(|_| vec![Proof::Open; due.len()]);
        // From the end of one look to the beginning of the next.
        let (looked, deadline) = (self.env.now_ms(), i64::try_from(DEADLINE.as_millis()).unwrap_or(i64::MAX));
        for (mut candidate, proved) in due.into_iter().zip(proved) {
            if proved == Proof::In {
                self.settle(&candidate.leftover).await;
                continue;
            }
            let proved = proved == Proof::Never;
            candidate.due_ms = round(looked.saturating_add(deadline));
            candidate.proved_ms = if proved { candidate.proved_ms.or(Some(looked)) } else { None };
            let unsubmitted = candidate.leftover.submitted_seqs.is_none();
            let twice = candidate.proved_ms.is_some_and(|at| now.saturating_sub(at) >= deadline);
            if proved && (unsubmitted || twice) {
                self.remove(&candidate.leftover).await;
            } else {
                self.leftovers.push(candidate);
            }
        }
    }

    async fn remove(&mut self, leftover: &Leftover) {
        let table = self.committer.table().clone();
        let left = self.committer.remove(leftover).await;
        for (file, error) in &left {
            tracing::warn!(%table, file, "a leftover stays: {error}");
        }
        if left.is_empty() {
            self.settle(leftover).await;
        }
    }

    async fn settle(&mut self, leftover: &Leftover) {
        for owner in &leftover.owners {
            if let Err(error) = self.ledger.settle(owner).await {
                tracing::warn!(table = %owner.table, "the ledger keeps a settled entry: {error}");
            }
        }
    }
}
