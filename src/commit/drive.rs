//! How far a commit is on its way through turns, and how long it waits between them.

use std::time::Duration;

use crate::commit::pending::{Commit, Ending};
use crate::commit::properties::CommitProperties;
use crate::commit::snapshot::Prepared;
use crate::env::Env;
use crate::model::ids::TableName;
use crate::model::table::TableState;

/// Waits while a catalog or store does not answer.
const WAIT_MIN: Duration = Duration::from_millis(200);
const WAIT_MAX: Duration = Duration::from_secs(20);
/// Waits in a row after which the caller is told, so that it can say so; it goes on with the same commit.
const WAITS_MAX: u32 = 4;

/// A commit that is being driven: from one call for it to its end, or to where it is given back.
#[derive(Debug)]
pub struct Drive {
    pub(super) base: TableState,
    pub(super) properties: CommitProperties,
    pub(super) started_ms: i64,
    pub(super) conflicts: u32,
    pub(super) waits: u32,
    /// What comes next; nothing is known of a step that was cut short: then the next is to look.
    pub(super) step: Option<Step>,
}

/// Where the state machine is.
#[derive(Debug)]
pub(super) enum Step {
    Prepare(Box<TableState>),
    Submit(Box<Prepared>),
    Look,
}

/// What one step came to.
pub(super) enum Turn {
    End(Ending),
    Next(Step),
    Conflict(Step),
    Wait(Step, Duration, String),
}

/// Where a turn ends.
#[derive(Debug)]
pub enum Paused {
    /// At the end.
    Ended(Ending),
    /// It goes on after so long.
    Waits(Duration),
}

impl Turn {
    pub(super) fn done(state: TableState, ours: bool) -> Self {
        Self::End(Ending::Done { state: Box::new(state), ours })
    }
}

impl Drive {
    /// From the beginning: looks where anything was submitted, prepares where not.
    pub(super) fn again(&mut self, commit: &Commit) {
        let prepare = || Step::Prepare(Box::new(self.base.clone()));
        self.step = Some(if commit.last.is_some() { Step::Look } else { prepare() });
    }

    pub(super) fn conflict(&mut self, env: &Env, commit: &Commit, table: &TableName) -> Paused {
        self.conflicts += 1;
        let (conflicts, spent) = (self.conflicts, env.now_ms().saturating_sub(self.started_ms));
        let deadline = i64::try_from(self.properties.deadline.as_millis()).unwrap_or(i64::MAX);
        if conflicts > self.properties.retries || spent > deadline {
            return Paused::Ended(commit.give_back(format!("table {table}: {conflicts} conflicts in {spent} ms")));
        }
        Paused::Waits(env.backoff(self.properties.wait_min, self.properties.wait_max, conflicts - 1))
    }

    pub(super) fn wait(
        &mut self,
        env: &Env,
        commit: &Commit,
        at_least: Duration,
        why: impl FnOnce() -> String,
    ) -> Paused {
        self.waits += 1;
        if self.waits > WAITS_MAX {
            return Paused::Ended(commit.give_back_for(why(), at_least));
        }
        Paused::Waits(env.backoff(WAIT_MIN, WAIT_MAX, self.waits - 1).max(at_least))
    }
}

/// How long to wait for a catalog that has answered from the past so many times in a row.
pub fn stale_wait(env: &Env, times: u32) -> Duration {
    env.backoff(WAIT_MIN, WAIT_MAX, times.saturating_sub(1))
}
