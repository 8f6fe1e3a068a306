//! One actor per table: the commits of this process to it, one at a time, and the clean-up after those given up.

use std::collections::BTreeSet;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::commit::proof::Leftover;
use crate::commit::protocol::{Commit, Committer, Ending};
use crate::commit::standing::{Question, Standing, Witness};
use crate::env::Env;
use crate::error::{Error, ErrorKind, Result};
use crate::model::change::OnRollback;
use crate::model::ids::{PipelineName, TableName};
use crate::model::table::TableState;
use crate::storage::ledger::Ledger;

/// Commits that may wait for their turn.
const QUEUE: usize = 64;
/// How long after a proof it must hold again: longer than any request of ours may be under way.
const DEADLINE: Duration = Duration::from_secs(600);
/// Given-up commits remembered; beyond it they are the orphan sweep's.
const LEFTOVERS_MAX: usize = 256;

/// What the actor is asked.
enum Request {
    Load(oneshot::Sender<Result<TableState>>),
    Standing {
        asker: Asker,
        reply: oneshot::Sender<Result<(TableState, Standing)>>,
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
}

/// A cheap handle to a table's actor.
#[derive(Debug, Clone)]
pub struct TableHandle {
    name: TableName,
    requests: mpsc::Sender<Request>,
}

impl TableHandle {
    /// Starts the actor. It ends when every handle is gone.
    pub fn start(env: Env, committer: Committer, ledger: Ledger) -> Self {
        let (requests, receiver) = mpsc::channel(QUEUE);
        let name = committer.table().clone();
        tokio::spawn(TableActor { env, committer, ledger, leftovers: Vec::new(), cleaned_ms: 0 }.run(receiver));
        Self { name, requests }
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
        self.ask(Request::Load).await?
    }

    /// Loads the table and decides where a pipeline stands in it.
    ///
    /// # Errors
    /// As `Committer::standing`.
    pub async fn standing(&self, asker: Asker) -> Result<(TableState, Standing)> {
        self.ask(|reply| Request::Standing { asker, reply }).await?
    }

    /// Drives a commit in its turn. The commit comes back whatever happens: it is not forgotten before its end is known.
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
}

struct TableActor {
    env: Env,
    committer: Committer,
    ledger: Ledger,
    leftovers: Vec<Candidate>,
    /// When leftovers were last looked at.
    cleaned_ms: i64,
}

impl TableActor {
    async fn run(mut self, mut requests: mpsc::Receiver<Request>) {
        loop {
            let due = self.until_clean();
            tokio::select! {
                biased;
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
        let age = u64::try_from(self.env.now_ms().saturating_sub(self.cleaned_ms)).unwrap_or(0);
        (!self.leftovers.is_empty()).then(|| DEADLINE.saturating_sub(Duration::from_millis(age)))
    }

    async fn answer(&mut self, request: Request) {
        // Who asked may be gone by the time of the answer: nothing depends on it.
        match request {
            Request::Load(reply) => {
                let _ = reply.send(self.committer.load().await);
            }
            Request::Standing { asker, reply } => {
                let _ = reply.send(self.standing(&asker).await);
            }
            Request::Commit { mut commit, base, cancel, reply } => {
                let ending = self.committer.run(&mut commit, &base, &cancel).await;
                let _ = reply.send((commit, ending));
            }
            Request::Leave(leftover) => {
                if self.leftovers.len() < LEFTOVERS_MAX {
                    self.leftovers.push(Candidate { leftover, proved_ms: None });
                }
                self.clean().await;
            }
        }
    }

    async fn standing(&mut self, asker: &Asker) -> Result<(TableState, Standing)> {
        let ask = |state: &TableState| Question {
            pipeline: &asker.pipeline,
            target: &asker.target,
            on_rollback: asker.on_rollback,
            witness: if asker.witnesses.contains(&state.metadata.uuid()) { Witness::Known } else { Witness::Files },
        };
        self.committer.locate(ask).await
    }

    /// Deletes what is proved twice, a deadline apart; what was never submitted at once.
    async fn clean(&mut self) {
        self.cleaned_ms = self.env.now_ms();
        let Ok(state) = self.committer.load().await else {
            return;
        };
        let now = self.env.now_ms();
        let deadline = i64::try_from(DEADLINE.as_millis()).unwrap_or(i64::MAX);
        for mut candidate in std::mem::take(&mut self.leftovers) {
            let proved = self.committer.never(&state, &candidate.leftover).await.unwrap_or(false);
            candidate.proved_ms = if proved { candidate.proved_ms.or(Some(now)) } else { None };
            let unsubmitted = candidate.leftover.submitted_seqs.is_none();
            let twice = candidate.proved_ms.is_some_and(|at| now.saturating_sub(at) >= deadline);
            if !(unsubmitted || twice) {
                self.leftovers.push(candidate);
                continue;
            }
            let left = self.committer.remove(&candidate.leftover).await;
            for (file, error) in &left {
                tracing::warn!(table = %state.name, file, "a leftover stays: {error}");
            }
            for owner in candidate.leftover.owners.iter().filter(|_| left.is_empty()) {
                if let Err(error) = self.ledger.settle(owner).await {
                    tracing::warn!(table = %state.name, "the ledger keeps a settled entry: {error}");
                }
            }
        }
    }
}
