//! Compaction of one table: plans on its newest snapshot, rewrites group by group, and commits what is rewritten in batches, so
//! that what is done is done whatever becomes of the rest.
//!
//! A group that cannot be rewritten right is refused with file, column and reason; a batch that others made void meanwhile is
//! lost and planned anew the next time. What they leave behind is cleaned up under proof.

use std::collections::{BTreeMap, BTreeSet};

use futures::FutureExt;
use futures::future::BoxFuture;
use futures::stream::{self, StreamExt};
use iceberg::spec::{FormatVersion, PartitionSpec};
use tokio_util::sync::CancellationToken;

use crate::commit::protocol::{Commit, Committer};
use crate::compact::files::LiveFiles;
use crate::compact::merge::{Rewriter, Rewritten, Rung, Work, files_in};
use crate::compact::splice;
use crate::env::Env;
use crate::error::{Error, ErrorKind, Result};
use crate::maintain::leftovers::{Leftovers, Swept};
use crate::maintain::partitions::PartitionFilter;
use crate::maintain::plan::{Group, Plan, Policy, plan};
use crate::maintain::submit::{Bad, Submit, settle};
use crate::model::change::{Change, Data, Replace};
use crate::model::ids::MAIN;
use crate::model::remap::Remap;
use crate::model::table::TableState;
use crate::storage::ledger::{Ledger, LedgerEntry, LedgerOwner};
use crate::write::layout::TableLayout;
use crate::write::path::{partition_path, partition_values};
use crate::write::properties::WriteProperties;

/// Files staged for longer are not committed any more: somebody may have swept them.
const DAY_MS: i64 = 86_400_000;
/// Groups that are committed together at most, and their bytes: what is lost when others make one of them void.
const BATCH_GROUPS_MAX: usize = 256;
const BATCH_BYTES_MAX: u64 = 2 << 30;
/// Bytes that the places of rows left out may take in all groups of a batch, about.
const REMAP_BYTES_MAX: u64 = 64 << 20;
const MANY: &str = "the batch has too many deleted rows to remember where the others went";

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

/// What a run goes by, beside the wish.
#[derive(Debug, Clone)]
pub struct Rules {
    /// When a rewrite pays. Its target size counts where neither wish nor table have one; spec and `rewrite_all` are not used.
    pub policy: Policy,
    /// The branch whose files are rewritten.
    pub branch: String,
    /// The partitions that are rewritten; all when nothing is said.
    pub only: Option<PartitionFilter>,
    /// Groups that are rewritten at once; each has its part of the memory.
    pub parallel: usize,
}

impl Default for Rules {
    fn default() -> Self {
        let target = WriteProperties::default().target_file_bytes;
        Self { policy: Policy::new(target, 0), branch: MAIN.to_owned(), only: None, parallel: 1 }
    }
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
        /// Rows that were deleted while they were rewritten, and are deleted in the new files.
        remapped: u64,
        /// How its rows came into the new files.
        rung: Rung,
    },
    /// It cannot be rewritten right: says why.
    Refused(Error),
    /// Others made it void meanwhile, or the process was told to stop: says how.
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

/// What came of a rewrite.
type Written = Result<(Work, Rewritten)>;

/// A plan for a table as it was loaded.
pub struct Planning {
    state: TableState,
    files: LiveFiles,
    plan: Plan,
    layout: TableLayout,
    rules: Rules,
}

impl Compaction<'_> {
    /// What would be done on the table as it is. Changes nothing.
    ///
    /// # Errors
    /// Whatever catalog and store say; `Unsupported` for a table that cannot be rewritten.
    pub async fn preview(&mut self, rules: &Rules) -> Result<Report> {
        let state = self.committer.load().await?;
        let base = self.plan(state, rules).await?;
        Ok(base.map(|base| base.preview()).unwrap_or_default())
    }

    /// Rewrites what pays.
    ///
    /// # Errors
    /// As [`Compaction::preview`]. What becomes of single groups is in the report.
    pub async fn run(&mut self, cancel: &CancellationToken) -> Result<Report> {
        self.run_by(&Rules::default(), cancel).await
    }

    /// The same, by rules of the caller's.
    ///
    /// # Errors
    /// As [`Compaction::run`]; `NotFound` when there is no such branch.
    pub async fn run_by(&mut self, rules: &Rules, cancel: &CancellationToken) -> Result<Report> {
        let state = self.committer.load().await?;
        let swept = self.leftovers.sweep(self.env, self.committer, &state).await?;
        let Some(base) = self.plan(state, rules).await? else { return Ok(Report { swept, ..Report::default() }) };
        Ok(Report { swept, ..self.carry_out(&base, cancel).await? })
    }

    /// The plan for a table that was loaded; nothing for one without a snapshot. Changes nothing.
    ///
    /// # Errors
    /// As [`Compaction::preview`]; a table with a column of a type that is not known is refused before any of its files is read.
    pub async fn plan(&self, state: TableState, rules: &Rules) -> Result<Option<Planning>> {
        if state.metadata.format_version() < FormatVersion::V2 {
            return Err(Error::new(ErrorKind::Unsupported, format!("table {} has format version 1", state.name))
                .with_hint("upgrade it: set the table property format-version to 2"));
        }
        state.check_known()?;
        check_branch(&state, &rules.branch)?;
        let storage = self.committer.storage();
        let Some(files) = LiveFiles::of(storage, &state, &rules.branch).await? else { return Ok(None) };
        let usual = WriteProperties { target_file_bytes: rules.policy.target_bytes, ..WriteProperties::default() };
        let mut layout = TableLayout::from_state(&state, None, &usual)?;
        if let Some(bytes) = self.wish.target_bytes {
            layout.properties.target_file_bytes = bytes.max(1);
        }
        let policy = Policy {
            rewrite_all: self.wish.rewrite_all,
            target_bytes: layout.properties.target_file_bytes,
            spec_id: layout.spec.spec_id(),
            splice: rules.policy.splice && splice::copies(&layout),
            sort_order_id: Some(&layout.sort_order)
                .filter(|order| !order.is_unsorted())
                .and_then(|order| i32::try_from(order.order_id).ok()),
            ..rules.policy.clone()
        };
        let plan = plan(&files, &policy, self.env.now_ms());
        let mut base = Planning { state, files, plan, layout, rules: rules.clone() };
        base.narrow()?;
        Ok(Some(base))
    }

    /// Rewrites what was planned.
    ///
    /// # Errors
    /// Whatever the catalog says. What becomes of single groups is in the report.
    pub async fn carry_out(&mut self, base: &Planning, cancel: &CancellationToken) -> Result<Report> {
        let mut report = base.report();
        for groups in batches(&base.plan.groups) {
            if cancel.is_cancelled() {
                break;
            }
            let mut batch = Batch::new(self.env, base);
            let rewrites = self.rewrite_all(base, groups, &batch.owner, cancel).await;
            for (group, rewritten) in rewrites {
                match rewritten {
                    Ok((work, rewritten)) => batch.done.push((group, work, rewritten)),
                    Err(error) => {
                        let later = error.kind() == ErrorKind::Unavailable;
                        let fate = if later { Fate::Open(error) } else { Fate::Refused(error) };
                        report.groups.push((base.planned(group), Some(fate)));
                    }
                }
            }
            self.put_aside(&batch).await;
            self.commit(base, batch, cancel, &mut report).await?;
        }
        Ok(report)
    }

    /// Rewrites the groups of a batch, some at a time; those that were not begun when `cancel` came are missing in the answer.
    async fn rewrite_all<'a>(
        &self,
        base: &'a Planning,
        groups: &'a [Group],
        owner: &LedgerOwner,
        cancel: &CancellationToken,
    ) -> Vec<(&'a Group, Written)> {
        let mut rewrites: Vec<BoxFuture<'_, Option<Written>>> = Vec::new();
        for group in groups {
            rewrites.push(self.rewrite_unless(cancel, base, group, owner).boxed());
        }
        let done: Vec<_> = stream::iter(rewrites).buffered(base.rules.parallel.max(1)).collect().await;
        groups.iter().zip(done).filter_map(|(group, done)| Some((group, done?))).collect()
    }

    async fn rewrite_unless(
        &self,
        cancel: &CancellationToken,
        base: &Planning,
        group: &Group,
        owner: &LedgerOwner,
    ) -> Option<Written> {
        if cancel.is_cancelled() { None } else { Some(self.rewrite(base, group, owner).await) }
    }

    /// Rewrites one group.
    async fn rewrite(&self, base: &Planning, group: &Group, owner: &LedgerOwner) -> Written {
        let storage = self.committer.storage().clone();
        let ledger = self.leftovers.ledger().clone();
        let rewriter = Rewriter {
            env: self.env,
            storage: &storage,
            files: files_in(&storage, Some((ledger, owner.clone()))),
            layout: base.layout.clone(),
            memory: self.wish.memory / base.rules.parallel.max(1) as u64,
            cores: self.env.cores().div_ceil(base.rules.parallel.max(1)),
            splice: base.rules.policy.splice,
        };
        let pick = |at: &usize| base.files.data.get(*at).cloned();
        let work = Work {
            inputs: group.inputs.iter().filter_map(pick).collect(),
            deletes: group.deletes.iter().filter_map(|at| base.files.deletes.get(*at).cloned()).collect(),
        };
        let specs: Vec<&PartitionSpec> = base.state.metadata.partition_specs_iter().map(|spec| spec.as_ref()).collect();
        let rewritten = rewriter.rewrite(&work, &base.files.partitions, &specs).await?;
        Ok((work, rewritten))
    }

    /// Commits the groups of a batch, all or none, and reports them.
    async fn commit(
        &mut self,
        base: &Planning,
        batch: Batch<'_>,
        cancel: &CancellationToken,
        report: &mut Report,
    ) -> Result<()> {
        if batch.done.is_empty() {
            return Ok(());
        }
        let commit = Commit::new(batch.change(base)).until(batch.begun_ms.saturating_add(DAY_MS));
        let submit = Submit { committer: self.committer, leftovers: self.leftovers };
        let sent = submit.run(commit, &base.state, cancel).await?;
        for (group, _, rewritten) in &batch.done {
            let fate = match &sent {
                Ok(commit) => Fate::Done {
                    files: rewritten.outputs.len(),
                    bytes: rewritten.outputs.iter().map(|file| file.file_size_in_bytes()).sum(),
                    deleted: rewritten.deleted,
                    remapped: rewritten.outputs.iter().map(|file| commit.remapped(file.file_path())).sum(),
                    rung: rewritten.rung,
                },
                Err(Bad::Lost(why)) => Fate::Lost(why.clone()),
                Err(Bad::Open(why)) => Fate::Open(Error::new(ErrorKind::Unavailable, why.clone())),
            };
            report.groups.push((base.planned(group), Some(fate)));
        }
        Ok(())
    }

    /// Removes what was begun for groups that failed. What stays is a later sweep's; it is noted apart from the others, whose notes
    /// go when their commit is in.
    async fn put_aside(&self, batch: &Batch<'_>) {
        let outputs = batch.done.iter().flat_map(|(.., rewritten)| &rewritten.outputs);
        let outputs: BTreeSet<&str> = outputs.map(|file| file.file_path()).collect();
        let ledger = self.leftovers.ledger();
        let own = ledger.open_entries().into_iter().filter(|entry| entry.owner == batch.owner);
        let mut noted = Ok(());
        let apart = LedgerOwner::of_no_snapshot(batch.owner.table.clone(), batch.owner.snapshot_id);
        for entry in own.filter(|entry| !outputs.contains(entry.location.as_str())) {
            if let Err(error) = self.remove(&entry).await {
                tracing::warn!(file = entry.location, error = %error, "a file of a rewrite that failed is left to a later sweep");
                noted = noted.and(note(ledger, &apart, &entry).await);
            }
        }
        match noted {
            Ok(()) if batch.done.is_empty() => settle(self.leftovers, &batch.owner).await,
            Ok(()) => {}
            Err(error) => tracing::warn!(error = %error, "a file of a rewrite that failed is left to the orphan sweep"),
        }
    }

    async fn remove(&self, entry: &LedgerEntry) -> Result<()> {
        let storage = self.committer.storage();
        for upload in &entry.upload_ids {
            storage.abort_upload(&entry.location, upload).await?;
        }
        storage.delete(&entry.location).await
    }
}

/// Notes a file for `owner` too.
async fn note(ledger: &Ledger, owner: &LedgerOwner, entry: &LedgerEntry) -> Result<()> {
    ledger.stage(owner, &entry.location).await?;
    for upload in &entry.upload_ids {
        ledger.multipart(owner, &entry.location, upload).await?;
    }
    Ok(())
}

/// Groups that are rewritten one after the other and committed together, so that a table of many small partitions does not get
/// a snapshot for each.
struct Batch<'a> {
    owner: LedgerOwner,
    begun_ms: i64,
    done: Vec<(&'a Group, Work, Rewritten)>,
}

/// Groups in the order of the plan, cut where a commit would be too much to lose.
fn batches(groups: &[Group]) -> impl Iterator<Item = &[Group]> {
    let mut rest = groups;
    std::iter::from_fn(move || {
        let mut bytes = 0_u64;
        let fits = |(at, group): (usize, &Group)| {
            bytes = bytes.saturating_add(group.bytes_in);
            at == 0 || (bytes <= BATCH_BYTES_MAX && at < BATCH_GROUPS_MAX)
        };
        let count = rest.iter().enumerate().map(fits).take_while(|fits| *fits).count();
        let (batch, others) = rest.split_at(count);
        rest = others;
        (!batch.is_empty()).then_some(batch)
    })
}

pub(super) fn check_branch(state: &TableState, branch: &str) -> Result<()> {
    match state.refs.get(branch) {
        Some(found) if found.is_branch() => Ok(()),
        None if branch == MAIN => Ok(()),
        Some(_) => {
            let what = format!("{branch:?} of table {} is a tag: what it names stays as it is", state.name);
            Err(Error::new(ErrorKind::Config, what).with_hint("name a branch"))
        }
        None => {
            let known: Vec<&str> = state.refs.iter().filter(|(_, r)| r.is_branch()).map(|(n, _)| n.as_str()).collect();
            Err(Error::new(ErrorKind::NotFound, format!("table {} has no branch {branch:?}", state.name))
                .with_hint(format!("there are {}", known.join(", "))))
        }
    }
}

impl<'a> Batch<'a> {
    fn new(env: &Env, base: &Planning) -> Self {
        let owner = LedgerOwner { table: base.state.name.clone(), snapshot_id: env.snapshot_id() };
        Self { owner, begun_ms: env.now_ms(), done: Vec::new() }
    }

    /// Where rows went, as far as there is room to remember it: what is forgotten may be lost to deletes that arrive.
    fn remap(&self) -> BTreeMap<String, Remap> {
        let mut bytes = 0_u64;
        let all = self.done.iter().flat_map(|(.., rewritten)| rewritten.remap.clone());
        let kept = all.map(|(input, remap)| {
            if let Remap::Affine(map) = &remap {
                bytes = bytes.saturating_add(map.bytes());
            }
            (input, if bytes > REMAP_BYTES_MAX { Remap::Unknown(MANY) } else { remap })
        });
        kept.collect()
    }

    fn change(&self, base: &Planning) -> Change {
        let works = || self.done.iter().map(|(_, work, _)| work);
        let mut change = Change::new(self.owner.snapshot_id);
        change.target.clone_from(&base.rules.branch);
        change.data = Some(Data::Replace(Replace {
            inputs: works().flat_map(|work| &work.inputs).map(|input| input.location.clone()).collect(),
            applied: works().flat_map(|work| &work.deletes).map(|deletes| deletes.file.clone()).collect(),
            outputs: self.done.iter().flat_map(|(.., rewritten)| &rewritten.outputs).cloned().collect(),
            schema: base.layout.schema.clone(),
            spec_id: base.layout.spec.spec_id(),
            planned: base.files.snapshot,
            planned_seq: base.files.seq,
            remap: self.remap(),
        }));
        change
    }
}

impl Planning {
    /// Groups that are to be rewritten.
    pub fn groups(&self) -> &[Group] {
        &self.plan.groups
    }

    /// The files that were planned on.
    pub fn files(&self) -> &LiveFiles {
        &self.files
    }

    /// What would be done.
    pub fn preview(&self) -> Report {
        let mut report = self.report();
        report.groups = self.plan.groups.iter().map(|group| (self.planned(group), None)).collect();
        report
    }

    /// Leaves out the partitions that nobody asked for.
    fn narrow(&mut self) -> Result<()> {
        let Some(only) = &self.rules.only else { return Ok(()) };
        let specs = self.state.metadata.partition_specs_iter();
        only.check(&specs.flat_map(|spec| spec.fields()).map(|field| field.name.as_str()).collect())?;
        let mut wanted = Vec::new();
        for partition in &self.files.partitions {
            let spec = self.state.metadata.partition_spec_by_id(partition.spec_id);
            let values = spec.map(|spec| partition_values(spec, &self.layout.schema, &partition.values)).transpose()?;
            wanted.push(values.is_some_and(|values| only.matches(&values)));
        }
        let is = |at: usize| wanted.get(at).copied().unwrap_or(false);
        self.plan.groups.retain(|group| is(group.partition));
        self.plan.left.retain(|left| is(left.partition));
        Ok(())
    }

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
pub(super) mod tests;
