//! One byte budget over the process: what buffers rows asks here first.
//!
//! Sources wait for a [`Grant`] before they read on; writers, which cannot wait without blocking the seal that frees them,
//! only say how much they hold ([`Grant::resize`]). Over [`Budget::over`] epochs are sealed early.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::oneshot;

use crate::error::{Error, ErrorKind, Result};

/// Epochs are sealed when less than this part of the limit is left,
const SEAL_MARGIN: u64 = 5;
/// or less than so many bytes: what the process holds and nobody counts (its code, buffers of sources, files and codecs, what
/// the allocator keeps). Measured with 500 open partitions.
const UNCOUNTED: u64 = 112 << 20;

/// A number of bytes shared by everything that buffers rows. Clones share it. First come, first served.
#[derive(Debug, Clone)]
pub struct Budget {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    limit: u64,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    used: u64,
    most: u64,
    /// What is waited for beside the queue.
    wanted: u64,
    waiting: VecDeque<Waiter>,
}

#[derive(Debug)]
struct Waiter {
    bytes: u64,
    admit: oneshot::Sender<Grant>,
}

/// Bytes of a [`Budget`] in use; dropping it gives them back.
#[derive(Debug)]
pub struct Grant {
    shared: Arc<Shared>,
    bytes: u64,
}

/// Bytes that somebody waits for beside the queue: until they fit, epochs are sealed early.
#[derive(Debug)]
pub struct Wanted {
    shared: Arc<Shared>,
    bytes: u64,
}

/// Lets the next in line through when a waiter gives up.
struct Leave<'a>(&'a Arc<Shared>);

impl Drop for Leave<'_> {
    fn drop(&mut self) {
        Shared::admit(self.0);
    }
}

impl Budget {
    /// A budget of `limit` bytes.
    pub fn new(limit: u64) -> Self {
        Self { shared: Arc::new(Shared { limit, state: Mutex::default() }) }
    }

    /// The limit in bytes.
    pub fn limit(&self) -> u64 {
        self.shared.limit
    }

    /// Bytes in use. May exceed the limit: [`Grant::resize`] never waits.
    pub fn used(&self) -> u64 {
        self.shared.lock().used
    }

    /// The most bytes that were ever in use.
    pub fn most(&self) -> u64 {
        self.shared.lock().most
    }

    /// Whether so much is in use that open epochs should be sealed: before the process takes more than the limit, as long
    /// as that is well above what an idle one needs.
    pub fn over(&self) -> bool {
        let limit = self.shared.limit;
        let margin = (limit / SEAL_MARGIN).max(UNCOUNTED.min(limit / 2));
        let state = self.shared.lock();
        state.used.saturating_add(state.wanted) > limit - margin
    }

    /// Asks for `bytes`, at most half of the limit, without a place in the queue: sources go on, and their epochs are sealed
    /// early until so much is free.
    pub fn want(&self, bytes: u64) -> Wanted {
        let bytes = bytes.min(self.shared.limit / 2);
        let mut state = self.shared.lock();
        state.wanted = state.wanted.saturating_add(bytes);
        drop(state);
        Wanted { shared: Arc::clone(&self.shared), bytes }
    }

    /// `bytes` of the budget, as soon as they are free and everybody who asked before has got theirs. A request larger
    /// than the whole limit is admitted when nothing else is in use. Dropping the future leaves the queue.
    ///
    /// # Errors
    /// `Internal`, never in practice: the queue outlives every waiter.
    pub async fn grant(&self, bytes: u64) -> Result<Grant> {
        let (admit, admitted) = oneshot::channel();
        let leave = Leave(&self.shared);
        self.shared.lock().waiting.push_back(Waiter { bytes, admit });
        Shared::admit(&self.shared);
        let grant = admitted
            .await
            .map_err(|e| Error::new(ErrorKind::Internal, "the queue for memory is gone").with_source(e))?;
        drop(leave);
        Ok(grant)
    }

    /// `bytes` of the budget at once, over the limit or not: for what is in memory already.
    pub fn hold(&self, bytes: u64) -> Grant {
        let mut state = self.shared.lock();
        state.take(bytes);
        drop(state);
        Grant { shared: Arc::clone(&self.shared), bytes }
    }
}

impl Wanted {
    /// The bytes, if they are free now.
    ///
    /// # Errors
    /// Itself, when they are not.
    pub fn take(self) -> std::result::Result<Grant, Self> {
        let mut state = self.shared.lock();
        let used = state.used.saturating_add(self.bytes);
        if used > self.shared.limit {
            drop(state);
            return Err(self);
        }
        state.used = used;
        drop(state);
        Ok(Grant { shared: Arc::clone(&self.shared), bytes: self.bytes })
    }
}

impl Drop for Wanted {
    fn drop(&mut self) {
        let mut state = self.shared.lock();
        state.wanted = state.wanted.saturating_sub(self.bytes);
    }
}

impl Grant {
    /// How many bytes it holds.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Makes it hold `bytes` from now on. Never waits, so the budget may be exceeded.
    pub fn resize(&mut self, bytes: u64) {
        let mut state = self.shared.lock();
        state.used = state.used.saturating_sub(self.bytes);
        state.take(bytes);
        self.bytes = bytes;
        drop(state);
        Shared::admit(&self.shared);
    }
}

impl Drop for Grant {
    fn drop(&mut self) {
        self.resize(0);
    }
}

impl State {
    fn take(&mut self, bytes: u64) {
        self.used = self.used.saturating_add(bytes);
        self.most = self.most.max(self.used);
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Admits waiters in order while they fit. Grants are handed over outside the lock: one that nobody receives is
    /// dropped, which takes the lock again.
    fn admit(shared: &Arc<Self>) {
        loop {
            let mut state = shared.lock();
            while state.waiting.front().is_some_and(|waiter| waiter.admit.is_closed()) {
                state.waiting.pop_front();
            }
            let used = state.used;
            let fits = |waiter: &mut Waiter| used == 0 || used.saturating_add(waiter.bytes) <= shared.limit;
            let Some(waiter) = state.waiting.pop_front_if(fits) else {
                return;
            };
            state.take(waiter.bytes);
            drop(state);
            drop(waiter.admit.send(Grant { shared: Arc::clone(shared), bytes: waiter.bytes }));
        }
    }
}

#[cfg(test)]
mod tests;
