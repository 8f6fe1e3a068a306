//! Store and disk as one process sees them.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use frazil::error::{Error as FrazilError, ErrorKind};
use frazil::storage::MemoryStore;
use frazil::storage::disk::{Disk, MemoryDisk};
use futures::stream::BoxStream;
use futures::{StreamExt, TryStreamExt};
use object_store::multipart::{MultipartStore, PartId};
use object_store::path::Path;
use object_store::{
    CopyOptions, Error, GetOptions, GetResult, ListResult, MultipartId, MultipartUpload, ObjectMeta, ObjectStore,
    PutMultipartOptions, PutOptions, PutPayload, PutResult, Result,
};

use crate::process::Process;
use crate::world::World;

/// How young an object may be and yet be missing in a listing.
const LISTING_LAG_MS: i64 = 20_000;

/// What every process is configured to ask of the store at once.
pub const REQUESTS_MAX: u64 = 16;

/// One process's way to the store.
#[derive(Clone)]
pub struct NetworkStore {
    world: Arc<World>,
    process: Arc<Process>,
    inner: MemoryStore,
}

impl NetworkStore {
    /// The way of `process`.
    pub fn new(world: Arc<World>, process: Arc<Process>) -> Self {
        let inner = world.objects.clone();
        Self { world, process, inner }
    }

    async fn call<T>(&self, op: &str, path: &Path, work: impl Future<Output = Result<T>>) -> Result<T> {
        self.call_with(op, path, 0, work).await
    }

    async fn call_with<T>(
        &self,
        op: &str,
        path: &Path,
        bytes: usize,
        work: impl Future<Output = Result<T>>,
    ) -> Result<T> {
        self.process.pass().await;
        let (_under_way, requests) = self.process.requests();
        if requests > REQUESTS_MAX {
            self.world.violation(format!("{} has {requests} requests to the store at once", self.process.name));
        }
        self.world.requests(op, path, bytes as u64);
        if self.world.happens(10) {
            tokio::time::sleep(self.world.time(Duration::from_millis(300))).await;
        }
        let answer = if self.world.happens(self.world.rates().store) && self.world.step() {
            let done = self.world.happens(50);
            self.world.cover(format!("store {op} × {}", if done { "done, answer lost" } else { "not done" }));
            self.world.note(
                &self.process.name,
                &format!("{op} of {} answers 503, done: {done}", crate::world::short(path.as_ref())),
            );
            if done {
                drop(work.await);
            }
            tokio::time::sleep(self.world.time(Duration::from_secs(3))).await;
            Err(Error::Generic { store: "sim", source: "non-2xx status code: 503 Slow Down".into() })
        } else {
            work.await
        };
        self.process.pass().await;
        answer
    }
}

impl fmt::Debug for NetworkStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "NetworkStore of {}", self.process.name)
    }
}

impl fmt::Display for NetworkStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("simulated")
    }
}

#[async_trait]
impl ObjectStore for NetworkStore {
    async fn put_opts(&self, location: &Path, payload: PutPayload, opts: PutOptions) -> Result<PutResult> {
        let bytes = payload.content_length();
        self.call_with("put", location, bytes, self.inner.put_opts(location, payload, opts)).await
    }

    async fn put_multipart_opts(&self, path: &Path, opts: PutMultipartOptions) -> Result<Box<dyn MultipartUpload>> {
        self.inner.put_multipart_opts(path, opts).await
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        self.call("get", location, self.inner.get_opts(location, options)).await
    }

    fn delete_stream(&self, locations: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        let store = self.clone();
        locations
            .and_then(move |path| {
                let store = store.clone();
                async move {
                    let work = async {
                        store.world.loses_sight(&path).await;
                        store.world.deletes(&store.process.name, &path);
                        let one = futures::stream::iter([Ok(path.clone())]).boxed();
                        let gone: Vec<_> = store.inner.delete_stream(one).collect().await;
                        gone.into_iter().next().unwrap_or_else(|| Ok(path.clone()))
                    };
                    store.call("delete", &path, work).await
                }
            })
            .boxed()
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        let store = self.clone();
        let listed = self.inner.list(prefix);
        let prefix = prefix.cloned().unwrap_or_default();
        futures::stream::once(async move {
            store.call("list", &prefix, async { Ok(()) }).await?;
            let now = store.world.clock.now();
            let lags = store.world.happens(store.world.rates().store);
            Ok::<_, Error>(listed.try_filter(move |meta| {
                let young = now - meta.last_modified.timestamp_millis() < LISTING_LAG_MS;
                std::future::ready(!(lags && young))
            }))
        })
        .try_flatten()
        .boxed()
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        let path = prefix.cloned().unwrap_or_default();
        self.call("list", &path, self.inner.list_with_delimiter(prefix)).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.call("copy", from, self.inner.copy_opts(from, to, options)).await
    }
}

#[async_trait]
impl MultipartStore for NetworkStore {
    async fn create_multipart(&self, path: &Path) -> Result<MultipartId> {
        self.call("create upload", path, self.inner.create_multipart(path)).await
    }

    async fn put_part(&self, path: &Path, id: &MultipartId, index: usize, data: PutPayload) -> Result<PartId> {
        let bytes = data.content_length();
        self.call_with("put part", path, bytes, self.inner.put_part(path, id, index, data)).await
    }

    async fn complete_multipart(&self, path: &Path, id: &MultipartId, parts: Vec<PartId>) -> Result<PutResult> {
        self.call("complete", path, self.inner.complete_multipart(path, id, parts)).await
    }

    async fn abort_multipart(&self, path: &Path, id: &MultipartId) -> Result<()> {
        self.call("abort", path, self.inner.abort_multipart(path, id)).await
    }
}

/// One process's way to its disk.
#[derive(Debug)]
pub struct ProcessDisk {
    world: Arc<World>,
    process: Arc<Process>,
    disk: Arc<MemoryDisk>,
}

impl ProcessDisk {
    /// The way of `process`.
    pub fn new(world: Arc<World>, process: Arc<Process>, disk: Arc<MemoryDisk>) -> Self {
        Self { world, process, disk }
    }

    async fn call<T>(
        &self,
        op: &str,
        work: impl Future<Output = frazil::error::Result<T>>,
    ) -> frazil::error::Result<T> {
        self.process.pass().await;
        let answer = if self.world.happens(self.world.rates().disk) && self.world.step() {
            let done = self.world.happens(50);
            self.world.cover(format!("disk {op} × {}", if done { "done, fails" } else { "not done" }));
            self.world.note(&self.process.name, &format!("disk fails to {op}, done: {done}"));
            if done {
                drop(work.await);
            }
            Err(FrazilError::new(ErrorKind::Unavailable, format!("{op}: no space left on device")))
        } else {
            work.await
        };
        self.process.pass().await;
        answer
    }
}

#[async_trait]
impl Disk for ProcessDisk {
    async fn append(&self, name: &str, bytes: &[u8]) -> frazil::error::Result<()> {
        self.call("append", self.disk.append(name, bytes)).await
    }

    async fn write(&self, name: &str, bytes: &[u8]) -> frazil::error::Result<()> {
        self.call("write", self.disk.write(name, bytes)).await
    }

    async fn sync(&self, name: &str) -> frazil::error::Result<()> {
        self.call("sync", self.disk.sync(name)).await
    }

    async fn read(&self, name: &str) -> frazil::error::Result<Bytes> {
        self.call("read", self.disk.read(name)).await
    }

    async fn list(&self) -> frazil::error::Result<Vec<String>> {
        self.call("list", self.disk.list()).await
    }

    async fn remove(&self, name: &str) -> frazil::error::Result<()> {
        self.call("remove", self.disk.remove(name)).await
    }
}
