//! A commit of maintenance on its way: driven to its end, and what it leaves behind seen to.

use tokio_util::sync::CancellationToken;

use crate::commit::protocol::{Commit, Committer, Ending};
use crate::error::Result;
use crate::maintain::leftovers::Leftovers;
use crate::model::table::TableState;
use crate::storage::ledger::LedgerOwner;

/// Times that a commit whose end is not known is gone on with before it is left to a later run.
const ROUNDS_MAX: u32 = 3;

/// Why a commit is not in.
#[derive(Debug)]
pub(super) enum Bad {
    /// Others made it void meanwhile, or the process was told to stop: says how.
    Lost(String),
    /// Not known, or not now.
    Open(String),
}

/// Who commits, and where files under way are noted.
pub(super) struct Submit<'a> {
    pub(super) committer: &'a mut Committer,
    pub(super) leftovers: &'a Leftovers,
}

impl Submit<'_> {
    /// Drives a commit to its end: itself when it is in, else what came in its way. What no request ever named is deleted; what one may
    /// have named stays in the ledger.
    ///
    /// # Errors
    /// Whatever the catalog says.
    pub(super) async fn run(
        mut self,
        mut commit: Commit,
        base: &TableState,
        cancel: &CancellationToken,
    ) -> Result<Result<Commit, Bad>> {
        let bad = self.drive(base, &mut commit, cancel).await?;
        let Some(bad) = bad else {
            for owner in commit.owners(&base.name) {
                settle(self.leftovers, &owner).await;
            }
            return Ok(Ok(commit));
        };
        if !commit.was_submitted() {
            let leftover = commit.into_leftover(&base.name);
            let left = self.committer.remove(&leftover).await;
            for owner in leftover.owners.iter().filter(|_| left.is_empty()) {
                settle(self.leftovers, owner).await;
            }
        }
        Ok(Err(bad))
    }

    async fn drive(
        &mut self,
        base: &TableState,
        commit: &mut Commit,
        cancel: &CancellationToken,
    ) -> Result<Option<Bad>> {
        let mut bad = None;
        for _ in 0..ROUNDS_MAX {
            self.committer.give_way().await;
            match self.committer.run(commit, base, cancel).await? {
                Ending::Done { state, ours } => {
                    self.lose(commit, &state, ours).await;
                    return Ok(None);
                }
                Ending::Lost(_) | Ending::Rebuild(_) | Ending::Fenced(_) | Ending::Swept(_) => {
                    let why = commit.refusal().unwrap_or("the table went another way");
                    return Ok(Some(Bad::Lost(why.to_owned())));
                }
                Ending::Failed(error) | Ending::Unresolved(error) => bad = Some(Bad::Open(error.to_string())),
            }
            if cancel.is_cancelled() {
                // Where it got in after all the next plan finds nothing; where not, it plans the same.
                return Ok(Some(Bad::Lost("stopped before its end was known".to_owned())));
            }
        }
        Ok(bad)
    }

    /// Notes the lists and manifests of attempts that did not land.
    async fn lose(&self, commit: &Commit, state: &TableState, ours: bool) {
        let noted = match self.committer.losers(commit, state, ours).await {
            Ok(None) => Ok(()),
            Ok(Some(left)) => self.leftovers.lose(&state.name, commit.change().snapshot_id, &left.files).await,
            Err(error) => Err(error),
        };
        if let Err(error) = noted {
            tracing::debug!(table = %state.name, "lists of other attempts are left to the orphan sweep: {error}");
        }
    }
}

/// Forgets what the ledger holds of `owner`.
pub(super) async fn settle(leftovers: &Leftovers, owner: &LedgerOwner) {
    if let Err(error) = leftovers.ledger().settle(owner).await {
        tracing::warn!(table = %owner.table, "the ledger keeps a settled entry: {error}");
    }
}
