//! Which files only snapshots that go reach.
//!
//! A file stays while any snapshot that stays names it, also one that no ref reaches: staged, rolled back, being
//! cherry-picked. Names are compared as objects, not as texts: `s3a://b/x` is `s3://b/x`.
//!
//! Memory: the names of the snapshots' manifests, and of the files in manifests that only what goes has. Files are told apart by
//! hashes, eight bytes each: two with one hash make a file stay that could go, never the other way round.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::hash::{DefaultHasher, Hash, Hasher};

use futures::{StreamExt, TryStreamExt, stream};
use serde::{Deserialize, Serialize};

use crate::commit::manifests;
use crate::commit::skim::Plans;
use crate::error::{Error, ErrorKind, Result};
use crate::model::table::TableState;
use crate::storage::Storage;
use crate::storage::location::Location;

/// What snapshots that go leave: noted while they are still in the table.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Gone {
    /// Their manifest lists.
    pub lists: BTreeSet<String>,
    /// Their statistics files.
    pub statistics: BTreeSet<String>,
}

impl Gone {
    /// What these snapshots of `state` leave.
    pub fn of(state: &TableState, snapshots: &BTreeSet<i64>) -> Self {
        let metadata = &state.metadata;
        let lists = metadata.snapshots().filter(|s| snapshots.contains(&s.snapshot_id()));
        let whole = metadata.statistics_iter().map(|s| (s.snapshot_id, &s.statistics_path));
        let parts = metadata.partition_statistics_iter().map(|s| (s.snapshot_id, &s.statistics_path));
        let statistics = whole.chain(parts).filter(|(id, _)| snapshots.contains(id));
        Self {
            lists: lists.map(|s| s.manifest_list().to_owned()).collect(),
            statistics: statistics.map(|(_, path)| path.clone()).collect(),
        }
    }
}

/// Files that nothing that stays reaches.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Dead {
    /// Data and delete files.
    pub data: Vec<String>,
    /// Bytes of these, as their manifests say.
    pub bytes: u64,
    /// Manifests.
    pub manifests: Vec<String>,
    /// Manifest lists.
    pub lists: Vec<String>,
    /// Statistics files.
    pub statistics: Vec<String>,
    /// Lists and manifests of what goes that are not there any more: what else they named stays for the orphan sweep.
    pub unreadable: Vec<String>,
}

impl Dead {
    /// How many files.
    pub fn len(&self) -> usize {
        self.data.len() + self.manifests.len() + self.lists.len() + self.statistics.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// An object, however its location is written.
type Object = String;

fn object(location: &str) -> Object {
    match Location::object(location) {
        Ok(at) => format!("{:?} {} {}", at.scheme, at.bucket, at.path),
        Err(_) => location.to_owned(),
    }
}

/// The hash of an object.
type Key = u64;

fn key(object: &Object) -> Key {
    let mut hasher = DefaultHasher::new();
    object.hash(&mut hasher);
    hasher.finish()
}

/// The files that `gone` reaches and no snapshot of `state` that `stays`; `parallel` objects are read at a time.
///
/// # Errors
/// Whatever the store says of what stays: then nothing is known to be dead. `Unsupported` for encrypted manifest lists.
pub async fn dead(
    storage: &Storage,
    state: &TableState,
    stays: impl Fn(i64) -> bool,
    gone: &Gone,
    parallel: usize,
) -> Result<Dead> {
    let staying: Vec<_> = state.metadata.snapshots().filter(|s| stays(s.snapshot_id())).collect();
    if state.metadata.snapshots().any(|s| s.encryption_key_id().is_some()) {
        return Err(Error::new(ErrorKind::Unsupported, format!("the manifest lists of {} are encrypted", state.name)));
    }
    let lists: Vec<String> = staying.iter().map(|s| s.manifest_list().to_owned()).collect();
    let plans = &Plans::default();
    let kept = manifests_of(storage, state, lists.iter(), parallel, plans, None).await?;
    let mut dead = Dead::default();
    let missing = Some(&mut dead.unreadable);
    let mut theirs = manifests_of(storage, state, gone.lists.iter(), parallel, plans, missing).await?;
    theirs.retain(|object, _| !kept.contains_key(object));

    let mut files = named_by(storage, &theirs, parallel, plans, &mut dead.unreadable).await?;
    let mut live = stream::iter(kept.values().filter(|_| !files.is_empty()).cloned().collect::<Vec<_>>())
        .map(|location| async move { manifests::named(storage, &location, plans).await })
        .buffer_unordered(parallel.max(1));
    while let Some(named) = live.try_next().await? {
        for file in named.iter().filter(|file| file.live) {
            files.remove(&key(&object(&file.location)));
        }
    }
    drop(live);

    let protected = protected(state, &kept, &lists, &stays);
    protected.iter().for_each(|object| drop(files.remove(&key(object))));
    dead.bytes = files.values().map(|(_, bytes)| bytes).sum();
    dead.data = files.into_values().map(|(location, _)| location).collect();
    dead.data.sort_unstable();
    dead.manifests = theirs.into_iter().filter(|(o, _)| !protected.contains(o)).map(|(_, at)| at).collect();
    let unprotected = |location: &&String| !protected.contains(&object(location));
    dead.lists = gone.lists.iter().filter(unprotected).cloned().collect();
    dead.statistics = gone.statistics.iter().filter(unprotected).cloned().collect();
    Ok(dead)
}

/// What is never dead, whoever else names it.
fn protected(
    state: &TableState,
    kept: &BTreeMap<Object, String>,
    lists: &[String],
    stays: &impl Fn(i64) -> bool,
) -> BTreeSet<Object> {
    let metadata = &state.metadata;
    let whole = metadata.statistics_iter().map(|s| (s.snapshot_id, &s.statistics_path));
    let parts = metadata.partition_statistics_iter().map(|s| (s.snapshot_id, &s.statistics_path));
    let statistics = whole.chain(parts).filter(|(id, _)| stays(*id)).map(|(_, path)| path);
    let log = metadata.metadata_log().iter().map(|entry| &entry.metadata_file);
    let locations = lists.iter().chain(statistics).chain(log).chain(&state.metadata_location);
    kept.keys().cloned().chain(locations.map(|location| object(location))).collect()
}

/// The manifests that lists name. With `missing`, a list that is not there is noted in it; else it is an error.
async fn manifests_of(
    storage: &Storage,
    state: &TableState,
    lists: impl Iterator<Item = &String>,
    parallel: usize,
    plans: &Plans,
    mut missing: Option<&mut Vec<String>>,
) -> Result<BTreeMap<Object, String>> {
    let format = state.metadata.format_version();
    let mut found = BTreeMap::new();
    let mut reads = stream::iter(lists.cloned().collect::<Vec<_>>())
        .map(|list| async move { (manifests::listed(storage, &list, format, plans).await, list) })
        .buffer_unordered(parallel.max(1));
    while let Some((read, list)) = reads.next().await {
        match (read, &mut missing) {
            (Ok(manifests), _) => found.extend(manifests.into_iter().map(|m| (object(&m.location), m.location))),
            (Err(error), Some(missing)) if error.kind() == ErrorKind::NotFound => missing.push(list),
            (Err(error), _) => return Err(error),
        }
    }
    Ok(found)
}

/// Every file that these manifests name, with its bytes.
async fn named_by(
    storage: &Storage,
    manifests: &BTreeMap<Object, String>,
    parallel: usize,
    plans: &Plans,
    missing: &mut Vec<String>,
) -> Result<HashMap<Key, (String, u64)>> {
    let mut files = HashMap::new();
    let mut reads = stream::iter(manifests.values().cloned().collect::<Vec<_>>())
        .map(|location| async move { (manifests::named(storage, &location, plans).await, location) })
        .buffer_unordered(parallel.max(1));
    while let Some((read, location)) = reads.next().await {
        match read {
            Ok(named) => files.extend(named.into_iter().map(|f| (key(&object(&f.location)), (f.location, f.bytes)))),
            Err(error) if error.kind() == ErrorKind::NotFound => missing.push(location),
            Err(error) => return Err(error),
        }
    }
    Ok(files)
}
