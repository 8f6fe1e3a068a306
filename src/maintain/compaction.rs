//! Compaction of one table: plans on its newest snapshot, rewrites group by group, and commits each on its own, so that what is
//! done is done whatever becomes of the rest.
//!
//! A group that cannot be rewritten right is refused with file, column and reason; one that others made void meanwhile is lost
//! and planned anew the next time. What they leave behind is cleaned up under proof.

use iceberg::spec::{FormatVersion, PartitionSpec};
use tokio_util::sync::CancellationToken;

use crate::commit::proof::Leftover;
use crate::commit::protocol::{Commit, Committer, Ending};
use crate::compact::files::LiveFiles;
use crate::compact::merge::{Rewriter, Rewritten, Work, files_in};
use crate::env::Env;
use crate::error::{Error, ErrorKind, Result};
use crate::maintain::leftovers::{Leftovers, Swept};
use crate::maintain::plan::{Group, Plan, Policy, plan};
use crate::model::change::{Change, Data, Replace};
use crate::model::ids::MAIN;
use crate::model::table::TableState;
use crate::storage::ledger::LedgerOwner;
use crate::write::layout::TableLayout;
use crate::write::path::partition_path;
use crate::write::properties::WriteProperties;

/// Times that a commit whose end is not known is gone on with before it is left to a later run.
const ROUNDS_MAX: u32 = 3;

/// What a caller asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Wish {
    /// Instead of the table's `write.target-file-size-bytes`.
    pub target_bytes: Option<u64>,
    /// Rewrite everything, whether it pays or not.
    pub rewrite_all: bool,
    /// Bytes of memory that a rewrite may take, about.
    pub memory: u64,
}

/// A group, said for people and programs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Planned {
    /// The partition, as its folder is named; empty for a table without partitions.
    pub partition: String,
    /// Delete files that are applied.
    pub deletes: usize,
    /// What the planner says.
    pub group: Group,
}

/// Files that stay as they are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LeftAlone {
    /// The partition, as its folder is named.
    pub partition: String,
    /// How many.
    pub files: usize,
    /// Their bytes.
    pub bytes: u64,
    /// Why.
    pub why: String,
}

/// How a group ended.
#[derive(Debug)]
pub enum Fate {
    /// Committed.
    Done {
        /// New files.
        files: usize,
        /// Their bytes.
        bytes: u64,
        /// Rows that deletes took out.
        deleted: u64,
    },
    /// It cannot be rewritten right: says why.
    Refused(Error),
    /// Others made it void meanwhile: says how.
    Lost(String),
    /// Not known, or not now.
    Open(Error),
}

/// What was done, or would be.
#[derive(Debug, Default)]
pub struct Report {
    /// Groups; each with its end, unless nothing was to be done.
    pub groups: Vec<(Planned, Option<Fate>)>,
    /// What is not rewritten.
    pub left: Vec<LeftAlone>,
    /// What earlier runs left behind.
    pub swept: Swept,
}

/// Compaction of one table.
#[derive(Debug)]
pub struct Compaction<'a> {
    /// Time and names.
    pub env: &'a Env,
    /// The way to the table, with the ledger of `leftovers`.
    pub committer: &'a mut Committer,
    /// Where files under way are noted.
    pub leftovers: &'a Leftovers,
    /// What to do.
    pub wish: Wish,
}

/// What a run works on.
struct Planning {
    state: TableState,
    files: LiveFiles,
    plan: Plan,
    layout: TableLayout,
}

impl Compaction<'_> {
    /// What would be done on the table as it is. Changes nothing.
    ///
    /// # Errors
    /// Whatever catalog and store say; `Unsupported` for a table that cannot be rewritten.
    pub async fn preview(&mut self) -> Result<Report> {
        let state = self.committer.load().await?;
        let Some(base) = self.base(state).await? else { return Ok(Report::default()) };
        let mut report = base.report();
        report.groups = base.plan.groups.iter().map(|group| (base.planned(group), None)).collect();
        Ok(report)
    }

    /// Rewrites what pays.
    ///
    /// # Errors
    /// As [`Compaction::preview`]. What becomes of single groups is in the report.
    pub async fn run(&mut self, cancel: &CancellationToken) -> Result<Report> {
        let state = self.committer.load().await?;
        let swept = self.leftovers.sweep(self.env, self.committer, &state).await?;
        let Some(base) = self.base(state).await? else { return Ok(Report { swept, ..Report::default() }) };
        let mut report = Report { swept, ..base.report() };
        for group in &base.plan.groups {
            if cancel.is_cancelled() {
                break;
            }
            let fate = self.one(&base, group, cancel).await?;
            report.groups.push((base.planned(group), Some(fate)));
        }
        Ok(report)
    }

    async fn base(&self, state: TableState) -> Result<Option<Planning>> {
        if state.metadata.format_version() < FormatVersion::V2 {
            return Err(Error::new(ErrorKind::Unsupported, format!("table {} has format version 1", state.name))
                .with_hint("upgrade it: set the table property format-version to 2"));
        }
        let Some(files) = LiveFiles::of(self.committer.storage(), &state, MAIN).await? else { return Ok(None) };
        let mut layout = TableLayout::from_state(&state, None, &WriteProperties::default())?;
        if let Some(bytes) = self.wish.target_bytes {
            layout.properties.target_file_bytes = bytes.max(1);
        }
        let policy = Policy {
            rewrite_all: self.wish.rewrite_all,
            ..Policy::new(layout.properties.target_file_bytes, layout.spec.spec_id())
        };
        let plan = plan(&files, &policy, self.env.now_ms());
        Ok(Some(Planning { state, files, plan, layout }))
    }

    /// Rewrites one group and commits it.
    async fn one(&mut self, base: &Planning, group: &Group, cancel: &CancellationToken) -> Result<Fate> {
        let owner = LedgerOwner { table: base.state.name.clone(), snapshot_id: self.env.snapshot_id() };
        let storage = self.committer.storage().clone();
        let ledger = self.leftovers.ledger().clone();
        let rewriter = Rewriter {
            env: self.env,
            storage: &storage,
            files: files_in(&storage, Some((ledger, owner.clone()))),
            layout: base.layout.clone(),
            memory: self.wish.memory,
        };
        let pick = |at: &usize| base.files.data.get(*at).cloned();
        let work = Work {
            inputs: group.inputs.iter().filter_map(pick).collect(),
            deletes: group.deletes.iter().filter_map(|at| base.files.deletes.get(*at).cloned()).collect(),
        };
        let specs: Vec<&PartitionSpec> = base.state.metadata.partition_specs_iter().map(|spec| spec.as_ref()).collect();
        let rewritten = match rewriter.rewrite(&work, &base.files.partitions, &specs).await {
            Ok(rewritten) => rewritten,
            Err(error) => {
                self.unmake(&owner).await;
                return Ok(Fate::Refused(error));
            }
        };
        self.commit(base, &work, rewritten, owner, cancel).await
    }

    async fn commit(
        &mut self,
        base: &Planning,
        work: &Work,
        rewritten: Rewritten,
        owner: LedgerOwner,
        cancel: &CancellationToken,
    ) -> Result<Fate> {
        let bytes = rewritten.outputs.iter().map(|file| file.file_size_in_bytes()).sum();
        let done = Fate::Done { files: rewritten.outputs.len(), bytes, deleted: rewritten.deleted };
        let mut change = Change::new(owner.snapshot_id);
        change.data = Some(Data::Replace(Replace {
            inputs: work.inputs.iter().map(|input| input.location.clone()).collect(),
            applied: work.deletes.iter().map(|deletes| deletes.file.clone()).collect(),
            outputs: rewritten.outputs,
            schema: base.layout.schema.clone(),
            spec_id: base.layout.spec.spec_id(),
            planned: base.files.snapshot,
            planned_seq: base.files.seq,
        }));
        let mut commit = Commit::new(change);
        let mut fate = None;
        for _ in 0..ROUNDS_MAX {
            match self.committer.run(&mut commit, &base.state, cancel).await? {
                Ending::Done { .. } => {
                    for owner in commit.owners(&base.state.name) {
                        self.settle(&owner).await;
                    }
                    return Ok(done);
                }
                Ending::Lost(_) | Ending::Rebuild(_) | Ending::Fenced(_) => {
                    let why = commit.refusal().unwrap_or("the table went another way").to_owned();
                    fate = Some(Fate::Lost(why));
                    break;
                }
                Ending::Failed(error) | Ending::Unresolved(error) => fate = Some(Fate::Open(error)),
            }
            if cancel.is_cancelled() {
                break;
            }
        }
        if !commit.was_submitted() {
            // No request ever named these files.
            let leftover = commit.into_leftover(&base.state.name);
            let left = self.committer.remove(&leftover).await;
            for owner in leftover.owners.iter().filter(|_| left.is_empty()) {
                self.settle(owner).await;
            }
        }
        Ok(fate.unwrap_or_else(|| Fate::Lost("nothing was tried".to_owned())))
    }

    /// Removes what was begun for a group of which no commit was sent; what stays is a later sweep's.
    async fn unmake(&self, owner: &LedgerOwner) {
        let entries = self.leftovers.ledger().open_entries().into_iter().filter(|entry| entry.owner == *owner);
        let files = entries.map(|entry| entry.location).collect();
        if self.committer.remove(&Leftover::unsent(files, owner.clone())).await.is_empty() {
            self.settle(owner).await;
        }
    }

    async fn settle(&self, owner: &LedgerOwner) {
        if let Err(error) = self.leftovers.ledger().settle(owner).await {
            tracing::warn!(table = %owner.table, "the ledger keeps a settled entry: {error}");
        }
    }
}

impl Planning {
    fn report(&self) -> Report {
        let left = self.plan.left.iter().map(|left| LeftAlone {
            partition: self.partition(left.partition),
            files: left.files,
            bytes: left.bytes,
            why: left.why.clone(),
        });
        Report { left: left.collect(), ..Report::default() }
    }

    fn planned(&self, group: &Group) -> Planned {
        let partition = self.partition(group.partition);
        Planned { partition, deletes: group.deletes.len(), group: group.clone() }
    }

    /// The partition in words.
    fn partition(&self, at: usize) -> String {
        let Some(partition) = self.files.partitions.get(at) else { return String::new() };
        let spec = self.state.metadata.partition_spec_by_id(partition.spec_id);
        let path = spec.and_then(|spec| partition_path(spec, &self.layout.schema, &partition.values).ok());
        path.unwrap_or_else(|| format!("spec {}", partition.spec_id))
    }
}

#[cfg(test)]
mod tests;
