//! What the tests of sources share: a clock that is only as late as somebody slept, and a way to drain a source.
#![cfg(test)]

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicUsize, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use futures::StreamExt;
use futures::stream::{self, BoxStream};
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::{
    CopyOptions, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore, PutMultipartOptions,
    PutOptions, PutPayload, PutResult, Result as StoreResult,
};

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

/// A store that fails one of n reading requests and counts its listings.
#[derive(Debug, Default)]
pub(super) struct Trouble {
    pub(super) inner: InMemory,
    /// 0: never fails.
    pub(super) every: AtomicUsize,
    pub(super) full_listings: AtomicUsize,
    pub(super) listings_from: AtomicUsize,
    requests: AtomicUsize,
}

impl Trouble {
    fn draw(&self) -> StoreResult<()> {
        let every = self.every.load(Ordering::Relaxed);
        let request = self.requests.fetch_add(1, Ordering::Relaxed) + 1;
        // Scattered, so that no rhythm of requests is in step with the failures.
        let drawn = (request.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 40) % every.max(1);
        if every > 0 && drawn == 0 {
            return Err(object_store::Error::Generic { store: "trouble", source: "503 slow down".into() });
        }
        Ok(())
    }

    /// A listing that breaks after its first entry when a request fails.
    fn spoiled<'a>(&self, list: BoxStream<'a, StoreResult<ObjectMeta>>) -> BoxStream<'a, StoreResult<ObjectMeta>> {
        match self.draw() {
            Ok(()) => list,
            Err(e) => list.take(1).chain(stream::iter([Err(e)])).boxed(),
        }
    }
}

impl fmt::Display for Trouble {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("trouble")
    }
}

#[async_trait]
impl ObjectStore for Trouble {
    async fn put_opts(&self, path: &Path, payload: PutPayload, options: PutOptions) -> StoreResult<PutResult> {
        self.inner.put_opts(path, payload, options).await
    }

    async fn put_multipart_opts(
        &self,
        path: &Path,
        options: PutMultipartOptions,
    ) -> StoreResult<Box<dyn MultipartUpload>> {
        self.inner.put_multipart_opts(path, options).await
    }

    async fn get_opts(&self, path: &Path, options: GetOptions) -> StoreResult<GetResult> {
        self.draw()?;
        self.inner.get_opts(path, options).await
    }

    fn delete_stream(&self, paths: BoxStream<'static, StoreResult<Path>>) -> BoxStream<'static, StoreResult<Path>> {
        self.inner.delete_stream(paths)
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, StoreResult<ObjectMeta>> {
        self.full_listings.fetch_add(1, Ordering::Relaxed);
        self.spoiled(self.inner.list(prefix))
    }

    fn list_with_offset(&self, prefix: Option<&Path>, offset: &Path) -> BoxStream<'static, StoreResult<ObjectMeta>> {
        self.listings_from.fetch_add(1, Ordering::Relaxed);
        self.spoiled(self.inner.list_with_offset(prefix, offset))
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> StoreResult<ListResult> {
        self.inner.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> StoreResult<()> {
        self.inner.copy_opts(from, to, options).await
    }
}
