//! Manifests of one table: planned, and many small ones gathered into few, ordered by partition, so that a reader opens fewer
//! and skips more. No data file is read.

use std::collections::{BTreeMap, BTreeSet};

use iceberg::spec::{FormatVersion, ManifestFile};
use tokio_util::sync::CancellationToken;

use crate::commit::gather::{can_gather, kind, parts};
use crate::commit::manifests::{self, ENTRIES_MAX};
use crate::commit::properties::CommitProperties;
use crate::commit::protocol::{Commit, Committer};
use crate::env::Env;
use crate::error::{Error, ErrorKind, Result};
use crate::maintain::compaction::check_branch;
use crate::maintain::leftovers::{Leftovers, Swept};
use crate::maintain::submit::{Bad, Submit};
use crate::model::change::{Change, Data, RewriteManifests};
use crate::model::table::TableState;

/// Entries that are gathered in one commit at most: they are in memory together, at one to two kilobytes each.
const GATHERED_MAX: usize = 100_000;
/// Commits of one run at most.
const ROUNDS_MAX: usize = 100;
/// A manifest of at least so many hundredths of the target is large enough.
const FULL_PERCENT: u64 = 75;

/// What would be gathered.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Plan {
    sources: BTreeSet<String>,
    /// Manifests that go.
    pub manifests_in: usize,
    /// Manifests that take their place, about.
    pub manifests_out: usize,
    /// Entries in them.
    pub entries: usize,
    /// Bytes of those that go.
    pub bytes: u64,
}

/// What was done.
#[derive(Debug, Default)]
pub struct Report {
    /// Manifests that went.
    pub manifests_in: usize,
    /// Manifests that took their place, about.
    pub manifests_out: usize,
    /// Entries in them.
    pub entries: usize,
    /// Why it is not done whole.
    pub bad: Option<Error>,
    /// Why others made it void.
    pub lost: Option<String>,
    /// What earlier runs left behind.
    pub swept: Swept,
}

/// Chooses, for each content and spec, the manifests that are far from `target` bytes, where there are at least `count_min` of
/// them and fewer can take their place. Applied, it chooses nothing again.
pub fn plan(manifests: &[ManifestFile], format: FormatVersion, target: u64, count_min: usize) -> Option<Plan> {
    let size = |manifest: &ManifestFile| u64::try_from(manifest.manifest_length).unwrap_or(0);
    let full = target.saturating_mul(FULL_PERCENT) / 100;
    let mut kinds: BTreeMap<_, Vec<&ManifestFile>> = BTreeMap::new();
    for manifest in manifests.iter().filter(|manifest| can_gather(manifest, format)) {
        if size(manifest) < full && entries(manifest) < ENTRIES_MAX * 3 / 4 {
            kinds.entry(kind(manifest)).or_default().push(manifest);
        }
    }
    let mut plan = Plan::default();
    for mut small in kinds.into_values() {
        let mut room = GATHERED_MAX.saturating_sub(plan.entries);
        let fits = |manifest: &&&ManifestFile| {
            let left = room.checked_sub(entries(manifest));
            room = left.unwrap_or(0);
            left.is_some()
        };
        small.truncate(small.iter().take_while(fits).count());
        let bytes = small.iter().fold(0_u64, |sum, manifest| sum.saturating_add(size(manifest)));
        let count = small.iter().map(|manifest| entries(manifest)).sum();
        let out = parts(bytes, count, target);
        if small.len() < count_min.max(2) || out >= small.len() {
            continue;
        }
        plan.manifests_in += small.len();
        plan.manifests_out += out;
        plan.entries += count;
        plan.bytes = plan.bytes.saturating_add(bytes);
        plan.sources.extend(small.iter().map(|manifest| manifest.manifest_path.clone()));
    }
    (!plan.sources.is_empty()).then_some(plan)
}

/// Live entries, as the list says; where it does not, as many as there may be.
fn entries(manifest: &ManifestFile) -> usize {
    let counts = manifest.added_files_count.zip(manifest.existing_files_count);
    let live = counts.map(|(added, existing)| usize::try_from(added.saturating_add(existing)));
    live.and_then(std::result::Result::ok).unwrap_or(ENTRIES_MAX)
}

/// The manifests of one branch of a table.
#[derive(Debug)]
pub struct Manifests<'a> {
    /// Time and names.
    pub env: &'a Env,
    /// The way to the table, with the ledger of `leftovers`.
    pub committer: &'a mut Committer,
    /// Where files under way are noted.
    pub leftovers: &'a Leftovers,
    /// The branch.
    pub branch: &'a str,
    /// So many that could be fewer are gathered.
    pub count_min: usize,
}

impl Manifests<'_> {
    /// What would be done on the table as it is. Changes nothing.
    ///
    /// # Errors
    /// Whatever catalog and store say; `Unsupported` for format version 1; `NotFound` when there is no such branch.
    pub async fn preview(&mut self) -> Result<Option<Plan>> {
        let state = self.committer.load().await?;
        self.plan(&state).await
    }

    /// The plan for a table that was loaded.
    ///
    /// # Errors
    /// As [`Manifests::preview`].
    pub async fn plan(&self, state: &TableState) -> Result<Option<Plan>> {
        let format = state.metadata.format_version();
        if format < FormatVersion::V2 {
            return Err(Error::new(ErrorKind::Unsupported, format!("table {} has format version 1", state.name))
                .with_hint("upgrade it: set the table property format-version to 2"));
        }
        check_branch(state, self.branch)?;
        let Some(head) = state.head(self.branch) else { return Ok(None) };
        let target = u64::try_from(CommitProperties::of(state)?.manifest_size).unwrap_or(0).max(1);
        let listed = manifests::list(self.committer.storage(), head.manifest_list(), format).await?;
        Ok(plan(&listed, format, target, self.count_min))
    }

    /// Gathers what pays, in one commit after the other.
    ///
    /// # Errors
    /// As [`Manifests::preview`].
    pub async fn run(&mut self, cancel: &CancellationToken) -> Result<Report> {
        let state = self.committer.load().await?;
        let swept = self.leftovers.sweep(self.env, self.committer, &state).await?;
        Ok(Report { swept, ..self.carry_out(cancel).await? })
    }

    /// The same, without a look at what earlier runs left behind.
    ///
    /// # Errors
    /// As [`Manifests::preview`].
    pub async fn carry_out(&mut self, cancel: &CancellationToken) -> Result<Report> {
        let mut report = Report::default();
        for _ in 0..ROUNDS_MAX {
            let state = self.committer.load().await?;
            let Some(plan) = self.plan(&state).await?.filter(|_| !cancel.is_cancelled()) else { break };
            let (Some(head), target) = (state.head(self.branch), CommitProperties::of(&state)?.manifest_size) else {
                break;
            };
            let mut change = Change::new(self.env.snapshot_id());
            self.branch.clone_into(&mut change.target);
            change.data = Some(Data::RewriteManifests(RewriteManifests {
                sources: plan.sources.clone(),
                target_bytes: u64::try_from(target).unwrap_or(0).max(1),
                planned: head.snapshot_id(),
            }));
            let submit = Submit { committer: self.committer, leftovers: self.leftovers };
            match submit.run(Commit::new(change), &state, cancel).await? {
                Ok(_) => {
                    report.manifests_in += plan.manifests_in;
                    report.manifests_out += plan.manifests_out;
                    report.entries += plan.entries;
                }
                Err(Bad::Lost(why)) => {
                    report.lost = Some(why);
                    break;
                }
                Err(Bad::Open(why)) => {
                    report.bad = Some(Error::new(ErrorKind::Unavailable, why));
                    break;
                }
            }
        }
        Ok(report)
    }
}

#[cfg(test)]
mod tests;
