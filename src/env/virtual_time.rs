//! Virtual time for tests: tokio's paused clock, and a runtime of one thread on it.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;

use super::{Clock, Env, SystemClock};

/// A clock on tokio's paused time, which begins at the machine's: the `iceberg` crate stamps real time.
struct PausedClock(tokio::time::Instant, i64);

#[async_trait]
impl Clock for PausedClock {
    fn now_ms(&self) -> i64 {
        self.1 + i64::try_from(self.0.elapsed().as_millis()).expect("small")
    }

    async fn sleep(&self, duration: Duration) {
        SystemClock.sleep(duration).await;
    }
}

/// An environment on virtual time, within [`on_virtual_time`].
#[allow(clippy::disallowed_methods)] // the base of virtual time
pub(crate) fn simulated(seed: u64) -> Env {
    simulated_ago(seed, Duration::ZERO)
}

/// The same on a clock that is behind the machine's: what the crate stamps without asking is never earlier than what we stamp, for
/// as much virtual time.
#[allow(clippy::disallowed_methods)] // the base of virtual time
pub(crate) fn simulated_ago(seed: u64, behind: Duration) -> Env {
    let behind = i64::try_from(behind.as_millis()).expect("small");
    Env::simulated(Arc::new(PausedClock(tokio::time::Instant::now(), SystemClock.now_ms() - behind)), seed)
}

/// Runs `work` on one thread, where hours of sleep cost nothing.
pub(crate) fn on_virtual_time(work: impl Future<Output = ()>) {
    let mut runtime = tokio::runtime::Builder::new_current_thread();
    runtime.enable_time().start_paused(true).build().expect("a runtime").block_on(work);
}
