//! Objects within this process, with times from `Env`.
//!
//! `object_store`'s own memory store reads the wall clock and loses multipart parts that arrive out of order.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use bytes::Bytes;
use chrono::{DateTime, Utc};
use futures::stream::BoxStream;
use futures::{StreamExt, stream};
use object_store::multipart::{MultipartStore, PartId};
use object_store::path::Path;
use object_store::{
    Attributes, CopyMode, CopyOptions, Error, GetOptions, GetRange, GetResult, GetResultPayload, ListResult,
    MultipartId, MultipartUpload, ObjectMeta, ObjectStore, PutMode, PutMultipartOptions, PutOptions, PutPayload,
    PutResult, Result, UploadPart,
};

use crate::env::Env;

/// Objects within this process; clones share them.
#[derive(Clone)]
pub struct MemoryStore {
    state: Arc<Mutex<State>>,
    env: Env,
}

#[derive(Default)]
struct State {
    objects: BTreeMap<Path, Object>,
    uploads: BTreeMap<String, BTreeMap<usize, Bytes>>,
    /// Numbers for etags and uploads.
    last: u64,
}

#[derive(Clone)]
struct Object {
    bytes: Bytes,
    modified: DateTime<Utc>,
    etag: u64,
}

impl MemoryStore {
    /// An empty store.
    pub fn new(env: Env) -> Self {
        Self { state: Arc::default(), env }
    }

    /// Multipart uploads that were neither completed nor aborted.
    pub fn open_uploads(&self) -> Vec<String> {
        self.state().uploads.keys().cloned().collect()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn insert(&self, path: &Path, bytes: Bytes, mode: &PutMode) -> Result<PutResult> {
        let modified = DateTime::from_timestamp_millis(self.env.now_ms()).unwrap_or_default();
        let mut state = self.state();
        let there = state.objects.get(path).map(|object| object.etag.to_string());
        match mode {
            PutMode::Overwrite => {}
            PutMode::Create if there.is_none() => {}
            PutMode::Create => {
                return Err(Error::AlreadyExists { path: path.to_string(), source: "exists".into() });
            }
            PutMode::Update(version) if there.is_some() && there == version.e_tag => {}
            PutMode::Update(_) => {
                return Err(Error::Precondition { path: path.to_string(), source: "another version".into() });
            }
        }
        let etag = state.next();
        state.objects.insert(path.clone(), Object { bytes, modified, etag });
        Ok(PutResult { e_tag: Some(etag.to_string()), version: None })
    }

    fn get(&self, path: &Path) -> Result<Object> {
        self.state().objects.get(path).cloned().ok_or_else(|| missing(path))
    }
}

impl State {
    fn next(&mut self) -> u64 {
        self.last = self.last.saturating_add(1);
        self.last
    }
}

impl Object {
    fn meta(&self, path: &Path) -> ObjectMeta {
        ObjectMeta {
            location: path.clone(),
            last_modified: self.modified,
            size: length(&self.bytes),
            e_tag: Some(self.etag.to_string()),
            version: None,
        }
    }
}

fn missing(path: &Path) -> Error {
    Error::NotFound { path: path.to_string(), source: "no such object".into() }
}

fn length(bytes: &Bytes) -> u64 {
    u64::try_from(bytes.len()).unwrap_or(u64::MAX)
}

impl fmt::Debug for MemoryStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MemoryStore").field("objects", &self.state().objects.len()).finish_non_exhaustive()
    }
}

impl fmt::Display for MemoryStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("memory")
    }
}

#[async_trait]
impl ObjectStore for MemoryStore {
    async fn put_opts(&self, location: &Path, payload: PutPayload, opts: PutOptions) -> Result<PutResult> {
        self.insert(location, payload.into(), &opts.mode)
    }

    async fn put_multipart_opts(&self, path: &Path, _: PutMultipartOptions) -> Result<Box<dyn MultipartUpload>> {
        let id = self.create_multipart(path).await?;
        Ok(Box::new(Parts { store: self.clone(), path: path.clone(), id, parts: Vec::new() }))
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        let object = self.get(location)?;
        let meta = object.meta(location);
        options.check_preconditions(&meta)?;
        let range = match options.range {
            None => 0..meta.size,
            Some(GetRange::Bounded(range)) => range.start..range.end.min(meta.size),
            Some(GetRange::Offset(start)) => start..meta.size,
            Some(GetRange::Suffix(count)) => meta.size.saturating_sub(count)..meta.size,
        };
        let bounds = usize::try_from(range.start).ok().zip(usize::try_from(range.end).ok());
        let Some((start, end)) = bounds.filter(|(start, end)| start < end || (*start == 0 && *end == 0)) else {
            let source = format!("Requested range was invalid: {range:?} of {} bytes", meta.size).into();
            return Err(Error::Generic { store: "memory", source });
        };
        let bytes = if options.head { Bytes::new() } else { object.bytes.slice(start..end) };
        let payload = GetResultPayload::Stream(stream::once(async move { Ok(bytes) }).boxed());
        Ok(GetResult { payload, meta, range, attributes: Attributes::new() })
    }

    fn delete_stream(&self, locations: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        let store = self.clone();
        locations
            .map(move |path| {
                let path = path?;
                store.state().objects.remove(&path);
                Ok(path)
            })
            .boxed()
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        let prefix = prefix.cloned().unwrap_or_default();
        let found: Vec<_> = self
            .state()
            .objects
            .iter()
            .filter(|(path, _)| path.prefix_match(&prefix).is_some_and(|mut rest| rest.next().is_some()))
            .map(|(path, object)| Ok(object.meta(path)))
            .collect();
        stream::iter(found).boxed()
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        let root = prefix.cloned().unwrap_or_default();
        let mut found = ListResult { common_prefixes: Vec::new(), objects: Vec::new() };
        for (path, object) in &self.state().objects {
            let Some(mut rest) = path.prefix_match(&root) else { continue };
            let Some(first) = rest.next() else { continue };
            if rest.next().is_none() {
                found.objects.push(object.meta(path));
                continue;
            }
            let folder = if root.is_root() { first.as_ref().to_owned() } else { format!("{root}/{}", first.as_ref()) };
            let folder = Path::parse(folder)?;
            if found.common_prefixes.last() != Some(&folder) {
                found.common_prefixes.push(folder);
            }
        }
        Ok(found)
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        let bytes = self.get(from)?.bytes;
        let mode = match options.mode {
            CopyMode::Overwrite => PutMode::Overwrite,
            CopyMode::Create => PutMode::Create,
        };
        self.insert(to, bytes, &mode).map(|_| ())
    }
}

#[async_trait]
impl MultipartStore for MemoryStore {
    async fn create_multipart(&self, _: &Path) -> Result<MultipartId> {
        let mut state = self.state();
        let id = format!("upload-{}", state.next());
        state.uploads.insert(id.clone(), BTreeMap::new());
        Ok(id)
    }

    async fn put_part(&self, path: &Path, id: &MultipartId, index: usize, payload: PutPayload) -> Result<PartId> {
        self.state().uploads.get_mut(id).ok_or_else(|| missing(path))?.insert(index, payload.into());
        Ok(PartId { content_id: index.to_string() })
    }

    async fn complete_multipart(&self, path: &Path, id: &MultipartId, parts: Vec<PartId>) -> Result<PutResult> {
        let stored = self.state().uploads.remove(id).ok_or_else(|| missing(path))?;
        let named: Option<Vec<&Bytes>> = parts
            .iter()
            .map(|part| part.content_id.parse().ok().and_then(|index| stored.get::<usize>(&index)))
            .collect();
        let Some(named) = named.filter(|named| named.len() == stored.len()) else {
            return Err(Error::Generic { store: "memory", source: "a part is missing".into() });
        };
        let whole: Vec<&[u8]> = named.into_iter().map(AsRef::as_ref).collect();
        self.insert(path, whole.concat().into(), &PutMode::Overwrite)
    }

    async fn abort_multipart(&self, path: &Path, id: &MultipartId) -> Result<()> {
        self.state().uploads.remove(id).map(|_| ()).ok_or_else(|| missing(path))
    }
}

/// `object_store`'s own multipart interface, for callers that know no other.
#[derive(Debug)]
struct Parts {
    store: MemoryStore,
    path: Path,
    id: MultipartId,
    parts: Vec<PartId>,
}

#[async_trait]
impl MultipartUpload for Parts {
    fn put_part(&mut self, data: PutPayload) -> UploadPart {
        let index = self.parts.len();
        self.parts.push(PartId { content_id: index.to_string() });
        let (store, path, id) = (self.store.clone(), self.path.clone(), self.id.clone());
        Box::pin(async move { store.put_part(&path, &id, index, data).await.map(|_| ()) })
    }

    async fn complete(&mut self) -> Result<PutResult> {
        self.store.complete_multipart(&self.path, &self.id, std::mem::take(&mut self.parts)).await
    }

    async fn abort(&mut self) -> Result<()> {
        self.store.abort_multipart(&self.path, &self.id).await
    }
}
