//! What a pipeline shows of itself: counters and its state, read by metrics, health and the terminal.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use crate::model::batch::{Reject, Stage};

/// What a pipeline is doing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum State {
    /// Finding its checkpoint.
    Starting,
    /// Reading and committing.
    Running,
    /// Waiting for something outside, which the text names; nothing is lost meanwhile.
    Waiting(String),
    /// Stopped; the text says why, and what to do.
    Halted(String),
    /// Its source has ended and everything is committed.
    Finished,
}

/// Counters of one pipeline, since the process began.
#[derive(Debug, Default)]
pub struct Watch {
    rows_read: AtomicU64,
    bytes_read: AtomicU64,
    rows_committed: AtomicU64,
    files: AtomicU64,
    bytes_committed: AtomicU64,
    commits: AtomicU64,
    attempts: AtomicU64,
    commit_ms: AtomicU64,
    open_rows: AtomicU64,
    open_bytes: AtomicU64,
    /// When the oldest row of the last commit was read, in milliseconds since the epoch.
    fresh_ms: AtomicU64,
    rejects: Mutex<BTreeMap<Stage, u64>>,
    state: Mutex<Option<State>>,
}

/// The counters at one moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reading {
    /// Rows read from the source.
    pub rows_read: u64,
    /// Their bytes.
    pub bytes_read: u64,
    /// Rows in committed files, rejects among them.
    pub rows_committed: u64,
    /// Committed data files.
    pub files: u64,
    /// Their bytes.
    pub bytes_committed: u64,
    /// Epochs committed.
    pub commits: u64,
    /// Bodies sent to catalogs for them.
    pub attempts: u64,
    /// Milliseconds from seal to the end of the commit, over all epochs.
    pub commit_ms: u64,
    /// Rows in the open epoch.
    pub open_rows: u64,
    /// Bytes of files in the open epoch.
    pub open_bytes: u64,
    /// When the oldest row of the last commit was read, in milliseconds since the epoch; 0 before the first.
    pub fresh_ms: u64,
    /// Rejects by stage.
    pub rejects: BTreeMap<Stage, u64>,
    /// What the pipeline is doing.
    pub state: State,
}

impl Watch {
    pub(crate) fn read(&self, rows: u64, bytes: u64) {
        self.rows_read.fetch_add(rows, Ordering::Relaxed);
        self.bytes_read.fetch_add(bytes, Ordering::Relaxed);
    }

    pub(crate) fn rejected(&self, rejects: &[Reject]) {
        let mut counts = self.rejects.lock().unwrap_or_else(PoisonError::into_inner);
        for reject in rejects {
            *counts.entry(reject.stage).or_default() += 1;
        }
    }

    pub(crate) fn open(&self, rows: u64, bytes: u64) {
        self.open_rows.store(rows, Ordering::Relaxed);
        self.open_bytes.store(bytes, Ordering::Relaxed);
    }

    pub(crate) fn attempts(&self, attempts: u32) {
        self.attempts.fetch_add(u64::from(attempts), Ordering::Relaxed);
    }

    pub(crate) fn committed(&self, rows: u64, files: u64, bytes: u64, took_ms: i64, opened_ms: i64) {
        self.rows_committed.fetch_add(rows, Ordering::Relaxed);
        self.files.fetch_add(files, Ordering::Relaxed);
        self.bytes_committed.fetch_add(bytes, Ordering::Relaxed);
        self.commits.fetch_add(1, Ordering::Relaxed);
        self.commit_ms.fetch_add(u64::try_from(took_ms).unwrap_or(0), Ordering::Relaxed);
        self.fresh_ms.store(u64::try_from(opened_ms).unwrap_or(0), Ordering::Relaxed);
        self.open(0, 0);
    }

    pub(crate) fn commits(&self) -> u64 {
        self.commits.load(Ordering::Relaxed)
    }

    pub(crate) fn set(&self, state: State) {
        *self.state.lock().unwrap_or_else(PoisonError::into_inner) = Some(state);
    }

    /// Everything at this moment.
    pub fn reading(&self) -> Reading {
        let get = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Reading {
            rows_read: get(&self.rows_read),
            bytes_read: get(&self.bytes_read),
            rows_committed: get(&self.rows_committed),
            files: get(&self.files),
            bytes_committed: get(&self.bytes_committed),
            commits: get(&self.commits),
            attempts: get(&self.attempts),
            commit_ms: get(&self.commit_ms),
            open_rows: get(&self.open_rows),
            open_bytes: get(&self.open_bytes),
            fresh_ms: get(&self.fresh_ms),
            rejects: self.rejects.lock().unwrap_or_else(PoisonError::into_inner).clone(),
            state: self.state.lock().unwrap_or_else(PoisonError::into_inner).clone().unwrap_or(State::Starting),
        }
    }
}
