//! What a table's history names, read once: manifests and their lists never change.
//!
//! Names are kept as hashes, eight bytes a file. Two names with one hash make something look named that is not, and a file
//! stay that could go; never the other way round.

use std::collections::{BTreeMap, BTreeSet};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use iceberg::spec::FormatVersion;

use crate::commit::manifests::{self, Listing};
use crate::commit::skim::Plans;
use crate::error::Result;
use crate::storage::Storage;

/// Names that are kept at most, a few megabytes; when more come, all are forgotten, and read again as they are asked for.
const NAMES_MAX: usize = 256 * 1024;

/// A name's hash.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Name(u64);

impl Name {
    pub(crate) fn of(location: &str) -> Self {
        let mut hasher = DefaultHasher::new();
        location.hash(&mut hasher);
        Self(hasher.finish())
    }
}

/// A manifest as a list has it.
#[derive(Debug)]
pub(crate) struct Listed {
    pub(crate) name: Name,
    pub(crate) manifest: Listing,
}

/// The live entries of a manifest.
#[derive(Debug)]
pub(crate) struct Entries {
    /// The snapshots that added them.
    pub(crate) snapshots: BTreeSet<i64>,
    pub(crate) files: Vec<Name>,
}

/// What was read so far. One lock, never held while something is read.
#[derive(Debug, Default)]
pub(crate) struct History {
    read: Mutex<Read>,
    plans: Plans,
}

#[derive(Debug, Default)]
struct Read {
    lists: BTreeMap<Name, Vec<Arc<Listed>>>,
    manifests: BTreeMap<Name, Arc<Listed>>,
    entries: BTreeMap<Name, Arc<Entries>>,
    names: usize,
}

impl History {
    /// The manifests of a list.
    ///
    /// # Errors
    /// Whatever the store says; `Corrupt` for what is no list.
    pub(crate) async fn listed(
        &self,
        storage: &Storage,
        list: &str,
        format: FormatVersion,
    ) -> Result<Vec<Arc<Listed>>> {
        let name = Name::of(list);
        if let Some(known) = self.read().lists.get(&name) {
            return Ok(known.clone());
        }
        let manifests = manifests::listed(storage, list, format, &self.plans).await?;
        let mut read = self.read();
        read.make_room(manifests.len());
        let listed: Vec<_> = manifests
            .into_iter()
            .map(|manifest| {
                let name = Name::of(&manifest.location);
                let listed = read.manifests.entry(name);
                Arc::clone(listed.or_insert_with(|| Arc::new(Listed { name, manifest })))
            })
            .collect();
        read.lists.insert(name, listed.clone());
        Ok(listed)
    }

    /// The live entries of a manifest.
    ///
    /// # Errors
    /// Whatever the store says; `Corrupt` for what is no manifest.
    pub(crate) async fn entries(&self, storage: &Storage, listed: &Listed) -> Result<Arc<Entries>> {
        let Listed { name, manifest } = listed;
        if let Some(known) = self.read().entries.get(name) {
            return Ok(Arc::clone(known));
        }
        let named = manifests::named(storage, &manifest.location, &self.plans).await?;
        let live = || named.iter().filter(|entry| entry.live);
        let entries = Arc::new(Entries {
            snapshots: live().map(|entry| entry.snapshot_id.unwrap_or(manifest.snapshot_id)).collect(),
            files: live().map(|entry| Name::of(&entry.location)).collect(),
        });
        let mut read = self.read();
        if read.make_room(entries.files.len() + entries.snapshots.len()) {
            read.entries.insert(*name, Arc::clone(&entries));
        }
        Ok(entries)
    }

    fn read(&self) -> MutexGuard<'_, Read> {
        self.read.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Read {
    /// Whether there is room for so many names more.
    fn make_room(&mut self, names: usize) -> bool {
        if self.names + names > NAMES_MAX {
            *self = Self::default();
        }
        self.names += names;
        self.names <= NAMES_MAX
    }
}
