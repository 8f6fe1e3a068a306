//! One bound on the files that are open while rows come: over all tables of a process, however many they are.
//!
//! A file that is begun as rows come stays open until it is full or its epoch ends, which may take long; who finds no place for
//! one lets its rows wait. At the end of an epoch each file must be written, so a part of the places is kept for that: who
//! holds one of those completes its file and waits for no other place, and so nobody waits for an epoch but its own.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::error::{Context, ErrorKind, Result};

/// Files that one writer completes at a time when its epoch ends.
pub(crate) const FINISHED_AT_ONCE: usize = 8;

/// Places for open files. Clones share them.
#[derive(Debug, Clone)]
pub struct OpenFiles {
    /// For files that are begun as rows come.
    begun: Arc<Semaphore>,
    /// For files that are begun and completed as an epoch ends.
    kept: Arc<Semaphore>,
    kept_of_each: usize,
}

/// The place of an open file, until it is dropped.
#[derive(Debug)]
pub(crate) struct Place {
    _permit: OwnedSemaphorePermit,
}

impl OpenFiles {
    /// For one writer: `max` files that are begun as rows come; beside them those that are written as its epoch ends.
    pub fn of_one(max: usize) -> Self {
        Self::new(max, FINISHED_AT_ONCE)
    }

    /// At most `max` files over so many writers of epochs, each of which takes its [`OpenFiles::share`]; never less than one for
    /// each.
    pub fn shared(max: usize, shares: usize) -> Self {
        let kept = (max / 2 / shares.max(1)).clamp(1, FINISHED_AT_ONCE);
        Self::new(max.saturating_sub(kept.saturating_mul(shares)), kept)
    }

    fn new(begun: usize, kept_of_each: usize) -> Self {
        let places = |count: usize| Arc::new(Semaphore::new(count.min(Semaphore::MAX_PERMITS)));
        Self { begun: places(begun), kept: places(kept_of_each), kept_of_each }
    }

    /// The same places, but for those kept for the end of epochs: these are one's own.
    #[must_use]
    pub fn share(&self) -> Self {
        Self { kept: Arc::new(Semaphore::new(self.kept_of_each)), ..self.clone() }
    }

    /// A place for a file that stays open; `None` when there is none.
    pub(crate) fn begin(&self) -> Option<Place> {
        let permit = Arc::clone(&self.begun).try_acquire_owned().ok()?;
        Some(Place { _permit: permit })
    }

    /// A place for a file that is completed at once. Whoever asks must not hold one of these already.
    pub(crate) async fn finish(&self) -> Result<Place> {
        let permit = tokio::select! {
            biased;
            kept = Arc::clone(&self.kept).acquire_owned() => kept,
            begun = Arc::clone(&self.begun).acquire_owned() => begun,
        };
        let permit = permit.context(ErrorKind::Internal, || "the places for open files are gone")?;
        Ok(Place { _permit: permit })
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;

    use super::*;

    #[test]
    fn all_places_together_are_as_many_as_may_be_and_every_share_has_one() {
        for (max, shares) in [(1, 1), (2, 1), (8, 1), (1000, 1), (9, 2), (100, 7), (3, 5), (5, 5), (1000, 1000)] {
            let all = OpenFiles::shared(max, shares);
            let own: Vec<OpenFiles> = (0..shares).map(|_| all.share()).collect();
            let mut held: Vec<Place> = std::iter::from_fn(|| all.begin()).collect();
            for share in &own {
                let before = held.len();
                held.extend(std::iter::from_fn(|| share.finish().now_or_never()).map(|place| place.expect("open")));
                assert!((1..=FINISHED_AT_ONCE).contains(&(held.len() - before)), "{max} over {shares}");
            }
            assert_eq!(held.len(), max.max(shares), "{max} over {shares}");
        }
    }

    #[test]
    fn a_place_is_free_again_when_it_is_dropped() {
        let files = OpenFiles::shared(2, 1).share();
        let (begun, kept) = (files.begin().expect("free"), files.finish().now_or_never().expect("free"));
        assert!(files.begin().is_none() && files.finish().now_or_never().is_none());
        drop(begun);
        let again = files.finish().now_or_never().expect("what rows do not need ends an epoch sooner");
        assert!(files.begin().is_none());
        drop((kept, again));
        assert!(files.begin().is_some() && files.finish().now_or_never().is_some());
    }
}
