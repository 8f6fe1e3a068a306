//! What the tests of sources share: a clock that is only as late as somebody slept, and a way to drain a source.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use async_trait::async_trait;

use crate::env::{Clock, Env};
use crate::model::batch::{RawBatch, Reject};
use crate::model::checkpoint::{Checkpoint, Position};
use crate::source::{Source, SourceEvent};

/// Time that passes by sleeping alone.
#[derive(Debug, Default)]
pub(super) struct TestClock(AtomicI64);

#[async_trait]
impl Clock for TestClock {
    fn now_ms(&self) -> i64 {
        self.0.load(Ordering::Relaxed)
    }

    async fn sleep(&self, duration: Duration) {
        tokio::task::yield_now().await;
        self.0.fetch_add(i64::try_from(duration.as_millis()).expect("short"), Ordering::Relaxed);
    }
}

pub(super) fn env() -> Env {
    Env::simulated(Arc::new(TestClock::default()), 1)
}

/// All that was read of one partition, with the rules that every batch must keep checked on the way.
#[derive(Debug, Default)]
pub(super) struct Reading {
    pub(super) rows: Vec<(String, u64, String)>,
    pub(super) rejects: Vec<Reject>,
    pub(super) at: Option<Position>,
    pub(super) batches: usize,
}

impl Reading {
    /// The texts of the rows.
    pub(super) fn texts(&self) -> Vec<&str> {
        self.rows.iter().map(|(_, _, text)| text.as_str()).collect()
    }

    pub(super) fn reasons(&self) -> Vec<&str> {
        self.rejects.iter().map(|reject| reject.reason.as_str()).collect()
    }

    pub(super) fn take(&mut self, batch: RawBatch) {
        assert_eq!(batch.range.from, self.at, "ranges chain");
        if let Some(at) = &self.at {
            assert!(batch.range.to.covers(at), "{:?} covers {at:?}", batch.range.to);
            assert!(!at.covers(&batch.range.to), "{:?} moves on from {at:?}", batch.range.to);
        }
        for row in &batch.rows {
            let text = String::from_utf8_lossy(batch.bytes(*row)).into_owned();
            self.rows.push((batch.origin.to_string(), row.number, text));
        }
        self.at = Some(batch.range.to);
        self.rejects.extend(batch.rejects);
        self.batches += 1;
    }

    /// A checkpoint where the reading stands.
    pub(super) fn checkpoint(&self, source: &dyn Source, partition: &str) -> Checkpoint {
        let at = self.at.iter().map(|at| (crate::model::ids::PartitionId::new(partition), at.clone()));
        Checkpoint { positions: at.collect(), source: source.identity(), ..Checkpoint::default() }
    }

    /// Reads until nothing is there for `idle` looks in a row, or the end; says whether it was the end.
    pub(super) async fn drain(&mut self, source: &mut dyn Source, idle: usize) -> bool {
        let mut looks = 0;
        loop {
            match source.next().await.expect("an event") {
                SourceEvent::Batch(batch) => {
                    self.take(batch);
                    looks = 0;
                }
                SourceEvent::Idle => looks += 1,
                SourceEvent::End => return true,
                other => panic!("{other:?}"),
            }
            if looks == idle {
                return false;
            }
        }
    }

    /// Reads at most `batches` batches; says whether the end came first.
    pub(super) async fn some(&mut self, source: &mut dyn Source, batches: usize) -> bool {
        for _ in 0..batches {
            match source.next().await.expect("an event") {
                SourceEvent::Batch(batch) => self.take(batch),
                SourceEvent::Idle => {}
                SourceEvent::End => return true,
                other => panic!("{other:?}"),
            }
        }
        false
    }
}
