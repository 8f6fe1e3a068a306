//! Proof of never: staged files are deleted only when their commit can never land.
//!
//! A submitted body can land minutes after its client gave up. It never will when its snapshot would have a parent and a
//! sequence number that the table has passed, provided that it is not in already. Source: docs/protocol.md, "Proof of never".

use std::collections::BTreeSet;
use std::time::Duration;

use futures::{StreamExt, TryStreamExt, stream};

use crate::commit::checkpoint::RECORD_PREFIX;
use crate::commit::history::{History, Name};
use crate::commit::manifests;
use crate::commit::pending::Commit;
use crate::error::{Error, Result};
use crate::model::change::Data;
use crate::model::checkpoint::Record;
use crate::model::ids::TableName;
use crate::model::table::TableState;
use crate::storage::Storage;
use crate::storage::ledger::LedgerOwner;

/// How long after a commit was given up a request of it may still arrive: the time between two proofs, and between the steps
/// of an expiry.
pub const DEADLINE: Duration = Duration::from_secs(600);
/// Files looked for at once.
const PARALLEL: usize = 16;

/// What a given-up commit left behind.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Leftover {
    /// Data files, manifests and lists.
    pub files: Vec<String>,
    /// The snapshot ids that its bodies had.
    pub snapshot_ids: Vec<i64>,
    /// The lowest and the highest sequence number of its bodies; `None` when none was submitted.
    pub submitted_seqs: Option<(i64, i64)>,
    /// Whether a body had no parent: then nothing guards its sequence number, and there is no proof. Such a body is a start
    /// record, which has no rows: its list is left to the orphan sweep.
    pub without_parent: bool,
    /// The sealed epoch that its commit would decide.
    pub sealed: Option<String>,
    /// The sealed epoch's files in other tables: there from the decision on, whoever commits them.
    pub elsewhere: Vec<(TableName, Vec<String>)>,
    /// Whose files they are in the ledger.
    pub owners: Vec<LedgerOwner>,
}

impl Leftover {
    /// Files of which no commit was ever sent.
    pub fn unsent(files: Vec<String>, owner: LedgerOwner) -> Self {
        Self {
            files,
            snapshot_ids: Vec::new(),
            submitted_seqs: None,
            without_parent: false,
            sealed: None,
            elsewhere: Vec::new(),
            owners: vec![owner],
        }
    }
}

/// What a table shows of a leftover.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Proof {
    /// Its commit is not in and can never land. Must hold twice, one commit deadline apart, before anything is deleted.
    Never,
    /// A snapshot has it: its files are that snapshot's, and whoever removes that removes them.
    In,
    /// It may still land, or was decided and is being finished.
    Open,
}

/// What `state` shows of each leftover; history is read once for all of them.
///
/// # Errors
/// Whatever the store says: then there is no proof.
pub(crate) async fn prove(
    history: &History,
    storage: &Storage,
    state: &TableState,
    leftovers: &[&Leftover],
) -> Result<Vec<Proof>> {
    let open = || leftovers.iter().filter(|leftover| by_metadata(state, leftover) == Proof::Never);
    let here = || open().filter(|leftover| !leftover.files.is_empty() || !leftover.snapshot_ids.is_empty());
    let submitted = || here().filter_map(|leftover| leftover.submitted_seqs.map(|(first, _)| (first, leftover)));
    // Nothing of ours can stand in what was written before our first body.
    let first = submitted().map(|(first, _)| first).min();
    let mut wanted = Wanted::default();
    for (_, leftover) in submitted() {
        wanted.ids(&leftover.snapshot_ids);
        wanted.files(&leftover.files);
    }
    let reached = match first {
        Some(first) => Reached::of(history, storage, state, first, &wanted).await?,
        None => Reached::default(), // no body ever left this process
    };
    let proved = |leftover: &&Leftover| match by_metadata(state, leftover) {
        // Nothing but its own commit names its files.
        Proof::Never if leftover.submitted_seqs.is_some() && reached.any(&leftover.snapshot_ids, &leftover.files) => {
            Proof::In
        }
        proof => proof,
    };
    Ok(leftovers.iter().map(proved).collect())
}

/// What the table's own metadata shows; a proof of never then depends on what its snapshots reach.
fn by_metadata(state: &TableState, leftover: &Leftover) -> Proof {
    let Some((_, last)) = leftover.submitted_seqs else {
        return Proof::Never;
    };
    if leftover.snapshot_ids.iter().any(|id| state.metadata.snapshot_by_id(*id).is_some()) {
        return Proof::In;
    }
    let possible = !leftover.without_parent && state.metadata.last_sequence_number() >= last;
    let decided = leftover.sealed.as_ref().is_some_and(|location| is_decided(state, location));
    if possible && !decided { Proof::Never } else { Proof::Open }
}

/// Whether a checkpoint names the sealed epoch: then it was decided, and will be finished from its files.
fn is_decided(state: &TableState, location: &String) -> bool {
    let records = state.metadata.properties().iter().filter(|(key, _)| key.starts_with(RECORD_PREFIX));
    // What cannot be read may name it.
    records.into_iter().any(|(_, text)| Record::parse(text).map_or(true, |record| record.sealed.contains(location)))
}

/// What is looked for in a table's history.
#[derive(Debug, Default)]
pub(crate) struct Wanted {
    /// Snapshots, by what they added.
    ids: BTreeSet<i64>,
    /// Data files, manifests and lists.
    files: BTreeSet<Name>,
    /// Where the deepest of them would stand.
    depth: Depth,
}

/// Where the names of what is wanted stand.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
enum Depth {
    #[default]
    Metadata,
    Lists,
    Manifests,
}

impl Wanted {
    /// Also looks for these files.
    pub(crate) fn files(&mut self, files: &[String]) {
        for file in files {
            self.files.insert(Name::of(file));
            self.depth = self.depth.max(match file {
                file if manifests::is_list(file) => Depth::Metadata,
                file if manifests::is_manifest(file) => Depth::Lists,
                _ => Depth::Manifests,
            });
        }
    }

    /// Also looks for what these snapshots added.
    fn ids(&mut self, ids: &[i64]) {
        self.ids.extend(ids);
        if !ids.is_empty() {
            self.depth = Depth::Manifests;
        }
    }
}

/// Of what was wanted, what some snapshot that is still there reaches.
#[derive(Debug, Default)]
pub(crate) struct Reached {
    ids: BTreeSet<i64>,
    files: BTreeSet<Name>,
}

impl Reached {
    /// Looks through all snapshots from sequence number `first` on, no deeper than it must: lists stand in the table's
    /// metadata, manifests in lists, all else in manifests. What `history` has of them is not read again.
    ///
    /// # Errors
    /// Whatever the store says.
    pub(crate) async fn of(
        history: &History,
        storage: &Storage,
        state: &TableState,
        first: i64,
        wanted: &Wanted,
    ) -> Result<Self> {
        let mut reached = Self::default();
        let mut seen = BTreeSet::new();
        let format = state.metadata.format_version();
        for snapshot in state.metadata.snapshots().filter(|s| s.sequence_number() >= first) {
            let list = snapshot.manifest_list();
            reached.files.extend(wanted.files.get(&Name::of(list)));
            if wanted.depth == Depth::Metadata {
                continue;
            }
            for listed in history.listed(storage, list, format).await? {
                if listed.manifest.seq < first || !seen.insert(listed.name) {
                    continue;
                }
                reached.ids.extend(wanted.ids.get(&listed.manifest.snapshot_id));
                reached.files.extend(wanted.files.get(&listed.name));
                if wanted.depth == Depth::Manifests {
                    let entries = history.entries(storage, &listed).await?;
                    reached.ids.extend(entries.snapshots.intersection(&wanted.ids));
                    reached.files.extend(entries.files.iter().filter(|file| wanted.files.contains(file)));
                }
            }
        }
        Ok(reached)
    }

    /// Whether one of these was reached.
    pub(crate) fn any(&self, ids: &[i64], files: &[String]) -> bool {
        ids.iter().any(|id| self.ids.contains(id)) || files.iter().any(|file| self.files.contains(&Name::of(file)))
    }
}

/// A file of a change that is gone: it landed, was rolled back, and expired with its files, which can be in no commit again.
///
/// The stores are asked once for each expiry that may have been it: for every number more that the table has passed, that a
/// commit of the change may have had, and that no snapshot has.
///
/// # Errors
/// Whatever the store says.
pub(crate) async fn swept(storage: &Storage, head: &TableState, commit: &mut Commit) -> Result<Option<String>> {
    let Some(Data::Append(append)) = &commit.change.data else {
        return Ok(None);
    };
    let now = head.metadata.last_sequence_number();
    let (first, last) = match (commit.made_seq, commit.submitted_seqs) {
        (Some(made), _) => (made.saturating_add(1), now),
        (None, Some((first, last))) => (first, last.min(now)),
        (None, None) => return Ok(None),
    };
    let held = head.metadata.snapshots().map(|s| s.sequence_number()).filter(|seq| (first..=last).contains(seq));
    let held = i64::try_from(held.collect::<BTreeSet<i64>>().len()).unwrap_or(i64::MAX);
    let gone = last.saturating_sub(first).saturating_add(1).saturating_sub(held);
    if gone <= commit.gone_seqs {
        return Ok(None);
    }
    let mut files: Vec<String> = append.files.iter().map(|file| file.file_path().to_owned()).collect();
    // Whoever finishes an epoch removes its object.
    files.extend(commit.change.delta.iter().flat_map(|delta| delta.sealed.iter().cloned()));
    let looks = files.into_iter().map(|file| {
        let storage = storage.clone();
        async move { Ok::<_, Error>((!storage.exists(&file).await?).then_some(file)) }
    });
    let mut looks = stream::iter(looks).buffered(PARALLEL);
    let mut missing = None;
    while let (None, Some(looked)) = (&missing, looks.try_next().await?) {
        missing = looked;
    }
    match &missing {
        None => commit.gone_seqs = gone,
        Some(file) => {
            let table = &head.name;
            tracing::warn!(%table, file, "a staged file is gone: its commit was in, was rolled back and expired");
        }
    }
    Ok(missing)
}

#[cfg(test)]
mod tests;
