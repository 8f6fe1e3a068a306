//! What stores were asked and how they answered, counted for the metrics.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::fault;
use crate::error::ErrorKind;

/// What a store can be asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Operation {
    /// Read an object or a range of it.
    Get,
    /// Look at an object's size and time.
    Head,
    /// Write an object whole.
    Put,
    /// Write one part of an object.
    PutPart,
    /// Begin, complete or abort an object in parts.
    Multipart,
    /// Delete an object.
    Delete,
    /// List a folder (counted once a listing, not once a page).
    List,
    /// Copy within the store.
    Copy,
}

impl Operation {
    /// All of them, in the order of the metrics.
    pub const ALL: [Self; 8] =
        [Self::Get, Self::Head, Self::Put, Self::PutPart, Self::Multipart, Self::Delete, Self::List, Self::Copy];

    /// The name in metrics.
    pub fn name(self) -> &'static str {
        match self {
            Self::Get => "get",
            Self::Head => "head",
            Self::Put => "put",
            Self::PutPart => "put_part",
            Self::Multipart => "multipart",
            Self::Delete => "delete",
            Self::List => "list",
            Self::Copy => "copy",
        }
    }
}

/// Counters of every request, attempts included. Read them with [`StoreCounters::snapshot`].
#[derive(Debug, Default)]
pub struct StoreCounters {
    slots: [Slot; Operation::ALL.len()],
    files: Level,
    held: Level,
}

/// How much there is of something, and the most that there ever was.
#[derive(Debug, Default)]
struct Level {
    now: AtomicU64,
    most: AtomicU64,
}

impl Level {
    fn add(&self, by: u64) {
        let now = self.now.fetch_add(by, Ordering::Relaxed).saturating_add(by);
        self.most.fetch_max(now, Ordering::Relaxed);
    }

    fn take(&self, by: u64) {
        self.now.fetch_sub(by, Ordering::Relaxed);
    }

    fn both(&self) -> (u64, u64) {
        (self.now.load(Ordering::Relaxed), self.most.load(Ordering::Relaxed))
    }
}

/// A file under way, as long as it lives, and the bytes of it that wait for the store.
#[derive(Debug)]
pub(super) struct UnderWay {
    counters: Arc<StoreCounters>,
    bytes: u64,
}

impl UnderWay {
    pub(super) fn begin(counters: &Arc<StoreCounters>) -> Self {
        counters.files.add(1);
        Self { counters: Arc::clone(counters), bytes: 0 }
    }

    /// It holds so many bytes from now on.
    pub(super) fn holds(&mut self, bytes: u64) {
        self.counters.held.take(self.bytes);
        self.counters.held.add(bytes);
        self.bytes = bytes;
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.counters.files.take(1);
        self.counters.held.take(self.bytes);
    }
}

#[derive(Debug, Default)]
struct Slot {
    ok: AtomicU64,
    missing: AtomicU64,
    refused: AtomicU64,
    unavailable: AtomicU64,
    bytes: AtomicU64,
}

/// How often one operation was asked for, by its answer.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct OperationCounts {
    /// Answered well.
    pub ok: u64,
    /// There was no such object.
    pub missing: u64,
    /// A definite no: existing already, denied, not supported, wrongly asked.
    pub refused: u64,
    /// No usable answer: these are tried again.
    pub unavailable: u64,
    /// Bytes of objects that went one way or the other.
    pub bytes: u64,
}

impl StoreCounters {
    /// Files under way now, and the most at once.
    pub fn files_under_way(&self) -> (u64, u64) {
        self.files.both()
    }

    /// Bytes that files under way hold until a store has taken them: now, and the most at once.
    pub fn upload_bytes(&self) -> (u64, u64) {
        self.held.both()
    }

    /// The counts of every operation.
    pub fn snapshot(&self) -> BTreeMap<Operation, OperationCounts> {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let counts = |slot: &Slot| OperationCounts {
            ok: read(&slot.ok),
            missing: read(&slot.missing),
            refused: read(&slot.refused),
            unavailable: read(&slot.unavailable),
            bytes: read(&slot.bytes),
        };
        Operation::ALL.into_iter().zip(self.slots.iter().map(counts)).collect()
    }

    pub(super) fn note<T>(&self, op: Operation, answer: &object_store::Result<T>, bytes: usize) {
        match answer {
            Ok(_) => {
                self.note_success(op);
                self.note_bytes(op, bytes);
            }
            Err(error) => self.note_failure(op, error),
        }
    }

    pub(super) fn note_success(&self, op: Operation) {
        self.with(op, |slot| &slot.ok, 1);
    }

    pub(super) fn note_bytes(&self, op: Operation, bytes: usize) {
        self.with(op, |slot| &slot.bytes, u64::try_from(bytes).unwrap_or(u64::MAX));
    }

    pub(super) fn note_failure(&self, op: Operation, error: &object_store::Error) {
        match fault::kind(error) {
            ErrorKind::NotFound => self.with(op, |slot| &slot.missing, 1),
            ErrorKind::Unavailable => self.with(op, |slot| &slot.unavailable, 1),
            _ => self.with(op, |slot| &slot.refused, 1),
        }
    }

    fn with(&self, op: Operation, counter: impl Fn(&Slot) -> &AtomicU64, by: u64) {
        let at = Operation::ALL.iter().position(|other| *other == op);
        if let Some(slot) = at.and_then(|at| self.slots.get(at)) {
            counter(slot).fetch_add(by, Ordering::Relaxed);
        }
    }
}
