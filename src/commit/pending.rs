//! One change on its way into a table, and how that may end.

use std::time::Duration;

use crate::commit::drive::Turn;
use crate::commit::gather;
use crate::commit::proof::Leftover;
use crate::commit::replace;
use crate::commit::snapshot::{Prepared, Written};
use crate::error::{Error, ErrorKind, Result};
use crate::model::change::{Change, Data, PipelineDelta};
use crate::model::ids::TableName;
use crate::model::table::TableState;
use crate::storage::Storage;
use crate::storage::ledger::LedgerOwner;

/// One change on its way, kept until its end is known.
#[derive(Debug)]
pub struct Commit {
    pub(super) change: Change,
    pub(super) written: Written,
    /// Snapshot ids that it had before: landed, then rolled back.
    pub(super) retired: Vec<i64>,
    /// Snapshot ids under which a body was submitted.
    pub(super) submitted_as: Vec<i64>,
    /// The last body submitted.
    pub(super) last: Option<Prepared>,
    /// The lowest and the highest sequence number that a submitted body assumed.
    pub(super) submitted_seqs: Option<(i64, i64)>,
    /// Whether a body was submitted whose snapshot has no parent.
    pub(super) without_parent: bool,
    /// Whether every answer so far was a definite no.
    pub(super) definite: bool,
    /// What the catalog said when it last refused.
    pub(super) refusal: Option<String>,
    /// Bodies sent.
    pub(super) attempts: u32,
    /// What the catalog said to them beside yes.
    pub(super) answers: Answers,
    /// Whether the table is loaded before the first body is made.
    pub(super) looks_first: bool,
    /// No body is sent after this moment.
    pub(super) until_ms: Option<i64>,
    /// The table's last sequence number when its files were made, where another instance may have committed them since.
    pub(super) made_seq: Option<i64>,
    /// Numbers that a commit of it may have had and that no snapshot has, when its files were last looked for.
    pub(super) gone_seqs: i64,
}

/// What a catalog said on the way to an end, and how often: whoever commits goes by it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Answers {
    /// It asked to wait.
    pub throttled: u32,
    /// How long at most.
    pub wait: Duration,
    /// It refused because the table had moved.
    pub conflicts: u32,
    /// The table had moved when it was loaded before the first attempt.
    pub others: bool,
}

impl Answers {
    /// It asked to wait for so long.
    pub(super) fn throttles(&mut self, wait: Duration) {
        self.throttled = self.throttled.saturating_add(1);
        self.wait = self.wait.max(wait);
    }

    /// The same with those of another commit.
    pub fn add(&mut self, other: Self) {
        self.throttled = self.throttled.saturating_add(other.throttled);
        self.wait = self.wait.max(other.wait);
        // Tables of one epoch meet their own others: how many one commit met is what counts.
        self.conflicts = self.conflicts.max(other.conflicts);
        self.others |= other.others;
    }
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
    /// It was in, was rolled back and expired: this file of it is gone, and it can never be in again.
    Swept(String),
    /// Not known. Go on with the same commit later; never start the next epoch, never clean up.
    Unresolved(Error),
    /// Refused each time. Go on with the same commit later, or give up.
    Failed(Error),
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
            answers: Answers::default(),
            looks_first: false,
            until_ms: None,
            made_seq: None,
            gone_seqs: 0,
        }
    }

    /// The same, of which no body is sent after `ms`: its files may not be there any more.
    #[must_use]
    pub fn until(mut self, ms: i64) -> Self {
        self.until_ms = Some(ms);
        self
    }

    /// The same; `yes`: others commit to the table as well, so that it is loaded before the first attempt.
    #[must_use]
    pub fn looking_first(mut self, yes: bool) -> Self {
        self.looks_first = yes;
        self
    }

    /// The same, which any instance may have committed since the table's last sequence number was `seq`.
    #[must_use]
    pub fn made_at(mut self, seq: i64) -> Self {
        self.made_seq = Some(seq);
        self
    }

    /// The change.
    pub fn change(&self) -> &Change {
        &self.change
    }

    /// What the catalog said when it last refused, or why the work is void.
    pub fn refusal(&self) -> Option<&str> {
        self.refusal.as_deref()
    }

    /// Whether a body was ever sent: if not, nothing that was staged can be in any snapshot.
    pub fn was_submitted(&self) -> bool {
        self.submitted_seqs.is_some()
    }

    /// Bodies sent so far.
    pub fn attempts(&self) -> u32 {
        self.attempts
    }

    /// What the catalog said to them beside yes.
    pub fn answers(&self) -> Answers {
        self.answers
    }

    /// How many rows of an output of a replace were deleted by position since it was planned, and are deleted there now.
    pub fn remapped(&self, output: &str) -> u64 {
        self.written.replace.remap.count(output)
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
        let staged = match &self.change.data {
            Some(Data::Append(append)) => append.files.as_slice(),
            Some(Data::Replace(replace)) => replace.outputs.as_slice(),
            Some(Data::RewriteManifests(_)) | None => &[],
        };
        files.extend(staged.iter().map(|f| f.file_path().to_owned()));
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

    /// A file of maintenance that is not there any more: it was in, was rolled back and expired.
    pub(super) async fn lost_file(&self, storage: &Storage) -> Result<Option<String>> {
        match &self.change.data {
            Some(Data::Replace(replace)) => replace::lost_output(storage, replace).await,
            Some(Data::RewriteManifests(_)) => gather::lost_manifest(storage, &self.written.gathered).await,
            Some(Data::Append(_)) | None => Ok(None),
        }
    }

    /// A new snapshot id; what carries the old one is written again.
    pub(super) fn renew(&mut self, snapshot_id: i64) {
        self.retired.push(std::mem::replace(&mut self.change.snapshot_id, snapshot_id));
        self.written.renew();
    }

    /// It was in and was rolled back: whether that ends it. Else it goes on under the id `snapshot_id`.
    pub(super) fn undone(&mut self, head: &TableState, snapshot_id: i64) -> Option<Turn> {
        if self.change.delta.as_ref().is_some_and(PipelineDelta::decides) {
            // Whoever saw the decision may have finished the epoch and deleted its object: its rows are read again.
            return Some(Turn::End(Ending::Fenced(Box::new(head.clone()))));
        }
        if self.change.data.as_ref().is_some_and(Data::is_maintenance) {
            return Some(Turn::End(Ending::Lost(Box::new(head.clone()))));
        }
        self.renew(snapshot_id);
        None
    }

    /// How long a server that could not answer asks to wait: it is noted.
    pub(super) fn asked_to_wait(&mut self, error: &Error) -> Duration {
        if let Some(wait) = error.wait() {
            self.answers.throttles(wait);
        }
        error.wait().unwrap_or_default()
    }

    /// Given back because a shutdown does not wait.
    pub(crate) fn stopped(&self, table: &TableName) -> Ending {
        self.give_back(format!("table {table}: stopped while waiting"))
    }

    /// At its end, because the work is void.
    pub(super) fn void(&mut self, head: &TableState, why: String) -> Turn {
        self.refusal = Some(why);
        Turn::End(Ending::Lost(Box::new(head.clone())))
    }

    pub(super) fn give_back(&self, why: String) -> Ending {
        self.give_back_for(why, Duration::ZERO)
    }

    /// The same where nobody should ask again before `wait` is over.
    pub(super) fn give_back_for(&self, mut why: String, wait: Duration) -> Ending {
        if let Some(refusal) = &self.refusal {
            why = format!("{why}, the last refusal: {refusal}");
        }
        let error = Error::new(ErrorKind::Unavailable, why).with_wait((!wait.is_zero()).then_some(wait));
        if self.definite { Ending::Failed(error) } else { Ending::Unresolved(error) }
    }
}
