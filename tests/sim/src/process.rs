//! A process that can be stopped, woken and killed at every call that leaves it.
//!
//! All that a daemon does to the world goes through its seams: catalog, store, disk, clock. Each of them passes here before a
//! call and after it. A killed process never passes again: its tasks stay where they are for good, none of them reaches the
//! world any more, and what is under way at a server goes on without it. That is what SIGKILL looks like from outside, at any
//! await that anybody outside can tell from another. A stopped one passes when it is woken, minutes later: a zombie.

use std::future::pending;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use frazil::env::Clock;
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::interpose::EPOCH_S;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Runs,
    Stopped,
    Dead,
}

/// One life of one daemon.
#[derive(Debug)]
pub struct Process {
    /// Its instance and the number of the life.
    pub name: String,
    state: Mutex<State>,
    woken: Notify,
    died: Notify,
    calls: AtomicU64,
    /// It dies when it passes for this time.
    dies_at: u64,
    requests: AtomicU64,
    commits: AtomicU64,
}

/// A request that is under way.
#[derive(Debug)]
pub struct Request<'a>(&'a AtomicU64);

impl Drop for Request<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Process {
    /// A process that dies at its `dies_at`th pass.
    pub fn new(name: String, dies_at: u64) -> Arc<Self> {
        Arc::new(Self {
            name,
            state: Mutex::new(State::Runs),
            woken: Notify::new(),
            died: Notify::new(),
            calls: AtomicU64::new(0),
            dies_at,
            requests: AtomicU64::new(0),
            commits: AtomicU64::new(0),
        })
    }

    fn state(&self) -> State {
        *self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn set(&self, state: State) {
        *self.state.lock().unwrap_or_else(PoisonError::into_inner) = state;
        self.woken.notify_waiters();
    }

    /// Passes while the process runs; waits while it is stopped; never returns once it is dead.
    pub async fn pass(&self) {
        if self.calls.fetch_add(1, Ordering::Relaxed) + 1 == self.dies_at {
            self.kill();
        }
        loop {
            let woken = self.woken.notified();
            match self.state() {
                State::Runs => return,
                State::Stopped => woken.await,
                State::Dead => pending().await,
            }
        }
    }

    /// A request to the store begins. How many there are then.
    pub fn requests(&self) -> (Request<'_>, u64) {
        let now = self.requests.fetch_add(1, Ordering::Relaxed) + 1;
        (Request(&self.requests), now)
    }

    /// A request to the catalog to commit begins.
    pub fn commits(&self) -> Request<'_> {
        self.commits.fetch_add(1, Ordering::Relaxed);
        Request(&self.commits)
    }

    /// Whether a commit is under way.
    pub fn is_committing(&self) -> bool {
        self.commits.load(Ordering::Relaxed) > 0
    }

    /// Ends it.
    pub fn kill(&self) {
        self.set(State::Dead);
        self.died.notify_one();
    }

    /// Returns once it is dead.
    pub async fn death(&self) {
        while self.state() != State::Dead {
            self.died.notified().await;
        }
    }

    /// Whether it is neither held nor dead.
    pub fn runs(&self) -> bool {
        self.state() == State::Runs
    }

    /// Holds it.
    pub fn stop(&self) {
        if self.state() == State::Runs {
            self.set(State::Stopped);
        }
    }

    /// Lets it go on.
    pub fn wake(&self) {
        if self.state() == State::Stopped {
            self.set(State::Runs);
        }
    }
}

/// Tokio's paused time as wall clock.
#[derive(Debug, Clone, Copy)]
pub struct VirtualClock {
    start: Instant,
    skew_ms: i64,
}

impl VirtualClock {
    /// A clock that begins now, at the same moment as the interposed ones.
    pub fn start() -> Self {
        Self { start: Instant::now(), skew_ms: 0 }
    }

    /// The same clock, wrong by so much.
    #[must_use]
    pub fn skewed(self, skew_ms: i64) -> Self {
        Self { skew_ms, ..self }
    }

    /// Milliseconds since the epoch.
    pub fn now(&self) -> i64 {
        EPOCH_S * 1000 + i64::try_from(self.start.elapsed().as_millis()).unwrap_or(i64::MAX) + self.skew_ms
    }

    /// Virtual time since the start.
    pub fn elapsed(&self) -> Duration {
        self.start.elapsed()
    }
}

#[async_trait]
impl Clock for VirtualClock {
    fn now_ms(&self) -> i64 {
        self.now()
    }

    async fn sleep(&self, duration: Duration) {
        tokio::time::sleep(duration).await;
    }
}

/// The clock of one process.
#[derive(Debug)]
pub struct ProcessClock {
    /// The process.
    pub process: Arc<Process>,
    /// Its view of the time.
    pub clock: VirtualClock,
}

#[async_trait]
impl Clock for ProcessClock {
    fn now_ms(&self) -> i64 {
        self.clock.now()
    }

    async fn sleep(&self, duration: Duration) {
        tokio::time::sleep(duration).await;
        self.process.pass().await;
    }
}
