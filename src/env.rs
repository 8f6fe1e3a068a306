//! Time, chance and names: nothing else in the program reads a clock, draws a number or makes an id.
//!
//! The simulator runs the real daemon with a clock of its own and seeded chance; clippy.toml bans the ways around this module.

use std::num::NonZero;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use rand::rngs::StdRng;
use rand::{Rng, RngCore, SeedableRng};
use uuid::Uuid;

use crate::error::{Error, ErrorKind, Result};

/// Where time comes from.
#[async_trait]
pub trait Clock: Send + Sync {
    /// Milliseconds since the Unix epoch.
    fn now_ms(&self) -> i64;
    /// Returns after `duration` has passed on this clock.
    async fn sleep(&self, duration: Duration);
}

/// The machine's clock.
#[derive(Debug, Default)]
pub struct SystemClock;

#[async_trait]
impl Clock for SystemClock {
    #[allow(clippy::disallowed_methods)] // the one home of the wall clock
    fn now_ms(&self) -> i64 {
        std::time::SystemTime::now()
            .duration_since(std::time::UNIX_EPOCH)
            .map_or(0, |d| i64::try_from(d.as_millis()).unwrap_or(i64::MAX))
    }

    #[allow(clippy::disallowed_methods)] // the one home of sleeping
    async fn sleep(&self, duration: Duration) {
        tokio::time::sleep(duration).await;
    }
}

/// Where CPU-heavy work runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Offload {
    /// On tokio's blocking threads.
    Threads,
    /// In the calling task: the simulator's way, which keeps a run on one thread.
    Inline,
}

/// Time, chance, names and the place for CPU work. Cheap to clone; clones share one stream of chance.
#[derive(Clone)]
pub struct Env {
    clock: Arc<dyn Clock>,
    chance: Arc<Mutex<StdRng>>,
    offload: Offload,
    pace: Option<Arc<Pace>>,
    cores: usize,
}

/// How much CPU work is done on average: what was done beyond it is waited off.
struct Pace {
    cores: f64,
    /// Milliseconds of work that are ahead of the pace, and when that was so.
    ahead: Mutex<(f64, i64)>,
}

impl Pace {
    /// Notes work, and answers how many milliseconds it is ahead of the pace.
    fn note(&self, now_ms: i64, worked_ms: i64) -> f64 {
        let mut ahead = self.ahead.lock().unwrap_or_else(PoisonError::into_inner);
        let passed = float(now_ms.saturating_sub(ahead.1).max(0));
        *ahead = ((ahead.0 - passed * self.cores).max(0.0) + float(worked_ms.max(0)), now_ms);
        ahead.0
    }
}

#[allow(clippy::cast_precision_loss)] // milliseconds of minutes
fn float(millis: i64) -> f64 {
    millis as f64
}

impl Env {
    /// The real thing: system clock, chance from the operating system, work on other threads.
    #[allow(clippy::disallowed_methods)] // the one home of real chance
    pub fn system() -> Self {
        Self {
            clock: Arc::new(SystemClock),
            chance: Arc::new(Mutex::new(StdRng::from_os_rng())),
            offload: Offload::Threads,
            pace: None,
            cores: std::thread::available_parallelism().map_or(1, NonZero::get),
        }
    }

    /// A clock and a seed of the caller's; CPU work runs inline, so that one thread does everything.
    pub fn simulated(clock: Arc<dyn Clock>, seed: u64) -> Self {
        let chance = Arc::new(Mutex::new(StdRng::seed_from_u64(seed)));
        Self { clock, chance, offload: Offload::Inline, pace: None, cores: 1 }
    }

    /// Milliseconds since the Unix epoch.
    pub fn now_ms(&self) -> i64 {
        self.clock.now_ms()
    }

    /// Returns after `duration`.
    pub async fn sleep(&self, duration: Duration) {
        self.clock.sleep(duration).await;
    }

    /// `work`'s answer, or `None` when `limit` passes first; `work` is dropped then.
    pub async fn timeout<T>(&self, limit: Duration, work: impl Future<Output = T>) -> Option<T> {
        tokio::select! {
            biased;
            answer = work => Some(answer),
            () = self.sleep(limit) => None,
        }
    }

    /// A number below `bound` (0 when `bound` is 0).
    pub fn below(&self, bound: u64) -> u64 {
        if bound == 0 {
            return 0;
        }
        self.with_chance(|rng| rng.random_range(0..bound))
    }

    /// 64 bits of chance.
    pub fn bits(&self) -> u64 {
        self.with_chance(RngCore::next_u64)
    }

    /// A random (version 4) UUID.
    pub fn uuid(&self) -> Uuid {
        let mut bytes = [0; 16];
        self.with_chance(|rng| rng.fill_bytes(&mut bytes));
        uuid::Builder::from_random_bytes(bytes).into_uuid()
    }

    /// A snapshot id: positive, never 0 (-1 and 0 mean "none" to some readers).
    pub fn snapshot_id(&self) -> i64 {
        loop {
            let id = (self.bits() >> 1).cast_signed();
            if id > 0 {
                return id;
            }
        }
    }

    /// `base` · 2^attempt, at most `max`, with the upper half left to chance, so that waiters spread out.
    pub fn backoff(&self, base: Duration, max: Duration, attempt: u32) -> Duration {
        let full = base.saturating_mul(1_u32.checked_shl(attempt.min(20)).unwrap_or(u32::MAX)).min(max);
        let half = full / 2;
        let spread = u64::try_from(half.as_micros()).unwrap_or(u64::MAX);
        half + Duration::from_micros(self.below(spread.saturating_add(1)))
    }

    /// The same, whose CPU work takes so many cores on average, and not more: work waits for that of before. Clones share it.
    #[must_use]
    pub fn paced(&self, cores: f64) -> Self {
        let pace = Pace { cores: cores.max(0.001), ahead: Mutex::new((0.0, self.now_ms())) };
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)] // a handful of cores
        let whole = pace.cores.ceil() as usize;
        Self { pace: Some(Arc::new(pace)), cores: whole, ..self.clone() }
    }

    /// The same, with so many cores to use.
    #[must_use]
    pub fn with_cores(self, cores: usize) -> Self {
        Self { cores: cores.max(1), ..self }
    }

    /// How many pieces of CPU work are worth doing side by side.
    pub fn cores(&self) -> usize {
        self.cores
    }

    /// Runs CPU-heavy `work` off the async threads, at this environment's pace.
    ///
    /// # Errors
    /// `Internal` when the work panics.
    pub async fn offload<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> Result<T> {
        let Some(pace) = &self.pace else { return self.offload_now(work).await };
        let ahead = pace.note(self.now_ms(), 0);
        if ahead > 0.0 {
            self.sleep(Duration::from_secs_f64(ahead / pace.cores / 1_000.0)).await;
        }
        let begun = self.now_ms();
        let done = self.offload_now(work).await;
        let now = self.now_ms();
        pace.note(now, now.saturating_sub(begun));
        done
    }

    async fn offload_now<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> Result<T> {
        match self.offload {
            Offload::Inline => Ok(work()),
            #[allow(clippy::disallowed_methods)] // the one home of blocking work
            Offload::Threads => tokio::task::spawn_blocking(work)
                .await
                .map_err(|e| Error::new(ErrorKind::Internal, "a worker thread failed").with_source(e)),
        }
    }

    fn with_chance<T>(&self, draw: impl FnOnce(&mut StdRng) -> T) -> T {
        draw(&mut self.chance.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl std::fmt::Debug for Env {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Env").field("offload", &self.offload).finish_non_exhaustive()
    }
}

#[cfg(test)]
pub(crate) mod virtual_time;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_seed_gives_the_same_names() {
        let (a, b) = (Env::simulated(Arc::new(SystemClock), 7), Env::simulated(Arc::new(SystemClock), 7));
        assert_eq!((a.uuid(), a.snapshot_id()), (b.uuid(), b.snapshot_id()));
    }

    #[test]
    fn backoff_grows_and_stays_below_its_limit() {
        let env = Env::simulated(Arc::new(SystemClock), 1);
        let (base, max) = (Duration::from_millis(100), Duration::from_secs(5));
        for attempt in 0..64 {
            let wait = env.backoff(base, max, attempt);
            assert!(wait <= max && wait >= base / 2, "attempt {attempt}: {wait:?}");
        }
    }

    #[test]
    fn what_is_done_side_by_side_keeps_to_the_cores_and_to_the_pace() {
        let env = Env::simulated(Arc::new(SystemClock), 1);
        assert_eq!((env.cores(), env.clone().with_cores(4).cores(), env.clone().with_cores(0).cores()), (1, 4, 1));
        assert_eq!([0.15, 1.0, 1.2].map(|cores| env.paced(cores).cores()), [1, 1, 2]);
    }

    #[test]
    fn work_beyond_the_pace_is_waited_off() {
        let pace = Pace { cores: 0.25, ahead: Mutex::new((0.0, 1_000)) };
        assert_eq!(pace.note(1_000, 0), 0.0, "the first piece begins at once");
        // 100 ms of work, of which 25 ms are within the pace.
        assert_eq!(pace.note(1_100, 100), 100.0);
        assert_eq!(pace.note(1_300, 0), 50.0);
        assert_eq!(pace.note(9_000, 0), 0.0, "idle time is not saved up");
    }
}
