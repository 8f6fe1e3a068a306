//! Which files are there: new ones in order, and those that appeared where reading has been already.
//!
//! A listing of a large prefix is neither kept nor sorted: of the names after the watermark only the first few thousand
//! stay (the rest is listed again when those are done), of the names before it 64 bits of a hash, their size and an age,
//! about 50 bytes a file up to `names_max` files. A full listing is made at each poll while fewer than `names_per_poll`
//! files are done; with n times as many at each (n + 1)th poll, and the polls between list the names after the watermark
//! only, which object stores do from there on. So a late file is noticed within n + 1 polls, a new one at the next.

use std::collections::{BTreeMap, BTreeSet};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;

use futures::TryStreamExt;
use globset::GlobMatcher;
use object_store::path::Path;
use object_store::{ObjectMeta, ObjectStore, ObjectStoreExt};

use crate::error::{Error, ErrorKind, Result};
use crate::source::Behind;

/// Full listings after which a name that is gone is forgotten; before, its return is a late listing, not a new file.
const FORGET_AFTER: u32 = 16;
/// Names that a report shows.
const NAMES_SHOWN: usize = 5;

/// An error of a store, as ours.
pub(super) fn store_error(error: object_store::Error, context: impl FnOnce() -> String) -> Error {
    use object_store::Error as E;
    let kind = match &error {
        E::NotFound { .. } => ErrorKind::NotFound,
        E::PermissionDenied { .. } | E::Unauthenticated { .. } => ErrorKind::Denied,
        E::NotSupported { .. } | E::NotImplemented { .. } | E::InvalidPath { .. } => ErrorKind::Unsupported,
        _ => ErrorKind::Unavailable,
    };
    Error::new(kind, context()).with_source(error)
}

/// The files below a prefix, as far as they have been seen.
pub(super) struct Inventory {
    pub(super) store: Arc<dyn ObjectStore>,
    pub(super) prefix: Path,
    pub(super) location: Arc<str>,
    pub(super) glob: Option<GlobMatcher>,
    /// How many names after the watermark one listing gives.
    pub(super) pending_max: usize,
    /// Files up to which every poll lists in full.
    pub(super) names_per_poll: usize,
    /// How many names before the watermark may be there.
    pub(super) names_max: usize,
    dealt_with: BTreeMap<u64, Seen>,
    full_listings: u32,
    polls: usize,
}

/// A file that has been dealt with, by the hash of its name.
#[derive(Debug, Clone, Copy)]
struct Seen {
    size: u64,
    /// The last full listing that it was in.
    listing: u32,
}

/// Where reading stands, for a listing.
#[derive(Debug, Clone, Default)]
pub(super) struct Standpoint {
    /// Names up to here have been dealt with.
    pub(super) watermark: String,
    /// The file above it that is being followed.
    pub(super) open: Option<String>,
    /// Names before the watermark that are no longer late: read, being read, or known to be next.
    pub(super) late: BTreeSet<String>,
}

/// What a listing found.
#[derive(Debug, Default)]
pub(super) struct Found {
    /// The first names after the watermark, without the open file.
    pub(super) pending: BTreeSet<String>,
    /// Whether there are more of them.
    pub(super) more: bool,
    /// The open file.
    pub(super) open: Option<ObjectMeta>,
    /// The names after the watermark and their bytes, the open file included, whether they are among `pending` or not.
    pub(super) behind: Behind,
    /// Names before the watermark that were not there before, at most `pending_max`.
    pub(super) late: BTreeSet<String>,
    /// How many files that are done have another size than when they were read.
    pub(super) changed: u64,
    /// How many names before the watermark cannot be told from late ones after a restart.
    pub(super) unknowable: u64,
    /// How many names are no text that can be followed.
    pub(super) unreadable: u64,
}

impl Inventory {
    pub(super) fn new(
        store: Arc<dyn ObjectStore>,
        prefix: Path,
        location: Arc<str>,
        glob: Option<GlobMatcher>,
    ) -> Self {
        Self {
            store,
            prefix,
            location,
            glob,
            pending_max: 16_384,
            names_per_poll: 10_000,
            names_max: 1_000_000,
            dealt_with: BTreeMap::new(),
            full_listings: 0,
            polls: 0,
        }
    }

    /// The path of a name.
    pub(super) fn path(&self, name: &str) -> Path {
        let path = if self.prefix.as_ref().is_empty() { name.to_owned() } else { format!("{}/{name}", self.prefix) };
        Path::parse(&path).unwrap_or_else(|_| Path::from(path))
    }

    /// Takes note that a file is done.
    pub(super) fn done(&mut self, name: &str, size: u64) {
        self.dealt_with.insert(hash(name), Seen { size, listing: self.full_listings });
    }

    /// The name of a listed object, if it is one to read.
    fn name<'a>(&self, path: &'a Path) -> Option<&'a str> {
        let path = path.as_ref();
        let name = if self.prefix.as_ref().is_empty() {
            path
        } else {
            path.strip_prefix(self.prefix.as_ref())?.strip_prefix('/')?
        };
        let hidden = name.split('/').any(|part| part.starts_with(['.', '_']));
        let unfinished = [".tmp", ".part", ".inprogress"].iter().any(|suffix| name.ends_with(suffix));
        let wanted = self.glob.as_ref().is_none_or(|glob| glob.is_match(name));
        (!hidden && !unfinished && wanted).then_some(name)
    }

    /// Looks what is there. `from_here` asks for names after the watermark only.
    pub(super) async fn look(&mut self, at: &Standpoint, from_here: bool) -> Result<Found> {
        let full_due = self.polls.is_multiple_of(1 + self.dealt_with.len() / self.names_per_poll.max(1));
        let full = self.full_listings == 0 || (full_due && !from_here);
        let first = self.full_listings == 0;
        let context = || format!("list {}", self.location);
        let since = if first { self.modified_ms(&at.watermark).await? } else { None };
        let offset = (!full && !at.watermark.is_empty()).then(|| self.path(&at.watermark));
        let mut listed = match &offset {
            Some(offset) => self.store.list_with_offset(Some(&self.prefix), offset),
            None => self.store.list(Some(&self.prefix)),
        };
        let mut found = Found::default();
        let mut unknowable = vec![];
        let mut seen = vec![];
        loop {
            let meta = match listed.try_next().await {
                Ok(Some(meta)) => meta,
                Ok(None) => break,
                Err(object_store::Error::InvalidPath { .. }) => {
                    found.unreadable += 1;
                    continue;
                }
                // A folder that is not there yet is an empty one.
                Err(object_store::Error::NotFound { .. }) => break,
                Err(e) => return Err(store_error(e, context)),
            };
            let Some(name) = self.name(&meta.location) else { continue };
            if *name > *at.watermark {
                found.behind.files += 1;
                found.behind.bytes = found.behind.bytes.saturating_add(meta.size);
            }
            if at.open.as_deref() == Some(name) {
                found.open = Some(meta);
            } else if *name > *at.watermark {
                found.pend(name, self.pending_max);
            } else if full {
                let late = since.is_some_and(|since| meta.last_modified.timestamp_millis() > since);
                if late && !at.late.contains(name) {
                    found.unknowable += 1;
                    if unknowable.len() < NAMES_SHOWN {
                        unknowable.push(name.to_owned());
                    }
                }
                seen.push((hash(name), meta.size));
                if !first && !self.dealt_with.contains_key(&hash(name)) && !at.late.contains(name) {
                    found.late.insert(name.to_owned());
                    if found.late.len() > self.pending_max {
                        found.late.pop_last();
                    }
                }
            }
            if seen.len() > self.names_max {
                return Err(self.too_many());
            }
        }
        drop(listed);
        self.polls += usize::from(!from_here);
        if full {
            self.remember(&seen, first, &mut found);
        }
        if !unknowable.is_empty() {
            let (folder, watermark) = (&self.location, &at.watermark);
            tracing::warn!(
                %folder, watermark, names = ?unknowable, count = found.unknowable,
                "files before the watermark were modified after it; whether they were read cannot be known, and they are \
                 not read: give new files names that sort after the watermark"
            );
        }
        Ok(found)
    }

    fn too_many(&self) -> Error {
        let most = self.names_max;
        Error::new(
            ErrorKind::Unsupported,
            format!("{} holds more than {most} files that have been read", self.location),
        )
        .with_hint("move files that were read elsewhere, or follow folders of it one by one")
    }

    /// Notes a full listing. Late names are noted when they are done.
    fn remember(&mut self, seen: &[(u64, u64)], first: bool, found: &mut Found) {
        self.full_listings = self.full_listings.saturating_add(1);
        let now = self.full_listings;
        for (key, size) in seen {
            match self.dealt_with.get_mut(key) {
                Some(known) => {
                    found.changed += u64::from(known.size != *size);
                    *known = Seen { size: *size, listing: now };
                }
                None if first => {
                    self.dealt_with.insert(*key, Seen { size: *size, listing: now });
                }
                None => {}
            }
        }
        self.dealt_with.retain(|_, known| now.saturating_sub(known.listing) <= FORGET_AFTER);
    }

    /// When the file was last modified, if it is there.
    async fn modified_ms(&self, name: &str) -> Result<Option<i64>> {
        if name.is_empty() {
            return Ok(None);
        }
        match self.store.head(&self.path(name)).await {
            Ok(meta) => Ok(Some(meta.last_modified.timestamp_millis())),
            Err(object_store::Error::NotFound { .. }) => Ok(None),
            Err(e) => Err(store_error(e, || format!("look at {}/{name}", self.location))),
        }
    }
}

impl Found {
    fn pend(&mut self, name: &str, most: usize) {
        if self.more && self.pending.last().is_some_and(|last| *name > **last) {
            return;
        }
        self.pending.insert(name.to_owned());
        if self.pending.len() > most {
            self.pending.pop_last();
            self.more = true;
        }
    }
}

/// Never stored: only compared within one process.
fn hash(name: &str) -> u64 {
    let mut hasher = DefaultHasher::new();
    name.hash(&mut hasher);
    hasher.finish()
}
