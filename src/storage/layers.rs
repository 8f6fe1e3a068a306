//! What every request to a store passes: retry, then limit, then observe.
//!
//! `object_store`'s own retries are off, because they have a clock of their own; here waiting goes through `Env`.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use futures::stream::{self, BoxStream};
use futures::{StreamExt, TryStreamExt};
use object_store::multipart::{MultipartStore, PartId};
use object_store::path::Path;
use object_store::{
    CopyMode, CopyOptions, Error, GetOptions, GetRange, GetResult, GetResultPayload, ListResult, MultipartId,
    MultipartUpload, ObjectMeta, ObjectStore, PutMode, PutMultipartOptions, PutOptions, PutPayload, PutResult, Result,
};
use tokio::sync::Semaphore;

use super::counters::{Operation, StoreCounters};
use super::fault;
use crate::env::Env;

/// The first wait between two attempts.
const WAIT_FIRST: Duration = Duration::from_millis(100);
/// The longest wait between two attempts.
const WAIT_MAX: Duration = Duration::from_secs(10);
/// Names in one bulk delete: S3's limit.
const DELETES_MAX: usize = 1000;

/// A store and, where it has one, its interface of named multipart uploads.
#[derive(Clone)]
pub(super) struct Stack {
    pub(super) objects: Arc<dyn ObjectStore>,
    pub(super) parts: Option<Arc<dyn MultipartStore>>,
}

impl Stack {
    /// `store` behind all layers.
    pub(super) fn layered(self, env: Env, retries: usize, limit: Arc<Semaphore>, counters: Arc<StoreCounters>) -> Self {
        Retry { inner: Gate { inner: self, limit, counters }.stack(), env, retries }.stack()
    }

    fn parts(&self) -> Result<&Arc<dyn MultipartStore>> {
        self.parts.as_ref().ok_or_else(|| Error::NotImplemented {
            operation: "named multipart uploads".into(),
            implementer: self.objects.to_string(),
        })
    }
}

/// Limits how many requests are under way, and counts them.
///
/// A permit is held while a request, a page of a listing or a piece of a body is waited for, never while the caller
/// thinks about what it got: a reader that is held up cannot starve a writer.
#[derive(Clone)]
struct Gate {
    inner: Stack,
    limit: Arc<Semaphore>,
    counters: Arc<StoreCounters>,
}

impl Gate {
    fn stack(self) -> Stack {
        let gate = Arc::new(self);
        let parts = gate.inner.parts.is_some().then(|| Arc::clone(&gate) as Arc<dyn MultipartStore>);
        Stack { objects: gate, parts }
    }

    async fn pass<T>(&self, op: Operation, bytes: usize, request: impl Future<Output = Result<T>>) -> Result<T> {
        // The semaphore is never closed; were it, requests would go unlimited rather than fail.
        let _permit = self.limit.acquire().await.ok();
        let answer = request.await;
        self.counters.note(op, &answer, bytes);
        answer
    }

    /// `items`, each waited for under a permit.
    fn gated<T: Send + 'static>(
        &self,
        op: Operation,
        items: BoxStream<'static, Result<T>>,
        bytes: fn(&T) -> usize,
    ) -> BoxStream<'static, Result<T>> {
        let gate = self.clone();
        stream::unfold((items, gate), move |(mut items, gate)| async move {
            let permit = gate.limit.acquire().await.ok();
            let item = items.next().await;
            drop(permit);
            let item = item?;
            match &item {
                Ok(got) => gate.counters.note_bytes(op, bytes(got)),
                Err(error) => gate.counters.note_failure(op, error),
            }
            Some((item, (items, gate)))
        })
        .boxed()
    }
}

/// Repeats what may be repeated. Only operations whose second execution changes nothing are.
#[derive(Clone)]
struct Retry {
    inner: Stack,
    env: Env,
    retries: usize,
}

impl Retry {
    fn stack(self) -> Stack {
        let retry = Arc::new(self);
        let parts = retry.inner.parts.is_some().then(|| Arc::clone(&retry) as Arc<dyn MultipartStore>);
        Stack { objects: retry, parts }
    }

    /// Whether to try again after `error`, once the wait is over.
    async fn again(&self, attempt: &mut usize, error: &Error) -> bool {
        if *attempt >= self.retries || !fault::is_transient(error) {
            return false;
        }
        let wait = self.env.backoff(WAIT_FIRST, WAIT_MAX, u32::try_from(*attempt).unwrap_or(u32::MAX));
        tracing::debug!(error = %error, attempt = *attempt, "a store request is tried again");
        *attempt += 1;
        self.env.sleep(wait).await;
        true
    }

    async fn repeat<T, F: Future<Output = Result<T>>>(&self, mut request: impl FnMut() -> F) -> Result<T> {
        let mut attempt = 0;
        loop {
            match request().await {
                Err(error) if self.again(&mut attempt, &error).await => {}
                answer => return answer,
            }
        }
    }

    /// After a lost answer, "exists already" may speak of our own write.
    async fn create(&self, location: &Path, payload: PutPayload, opts: PutOptions) -> Result<PutResult> {
        let mut attempt = 0;
        loop {
            match self.inner.objects.put_opts(location, payload.clone(), opts.clone()).await {
                Err(Error::AlreadyExists { path, source }) if attempt > 0 => {
                    let there = self.get_opts(location, GetOptions::default()).await?;
                    let meta = there.meta.clone();
                    let same = usize::try_from(meta.size).is_ok_and(|size| size == payload.content_length())
                        && there.bytes().await? == bytes::Bytes::from(payload);
                    return if same {
                        Ok(PutResult { e_tag: meta.e_tag, version: meta.version })
                    } else {
                        Err(Error::AlreadyExists { path, source })
                    };
                }
                Err(error) if self.again(&mut attempt, &error).await => {}
                answer => return answer,
            }
        }
    }

    /// A body that goes on where it broke off, as long as the object is the same.
    fn resumed(&self, location: &Path, options: GetOptions, first: GetResult) -> GetResult {
        let GetResult { payload, meta, range, attributes } = first;
        let body = match payload {
            GetResultPayload::Stream(body) => body,
            file @ GetResultPayload::File(..) => return GetResult { payload: file, meta, range, attributes },
        };
        let state = Body {
            retry: self.clone(),
            location: location.clone(),
            options: GetOptions { if_match: meta.e_tag.clone(), ..options },
            at: range.start,
            end: range.end,
            body,
            attempt: 0,
        };
        let payload = GetResultPayload::Stream(stream::try_unfold(state, Body::next).boxed());
        GetResult { payload, meta, range, attributes }
    }

    async fn delete_chunk(&self, chunk: Vec<Result<Path>>) -> Vec<Result<Path>> {
        let paths: Vec<Path> = match chunk.into_iter().collect() {
            Ok(paths) => paths,
            Err(error) => return vec![Err(error)],
        };
        let mut attempt = 0;
        loop {
            let names = stream::iter(paths.clone().into_iter().map(Ok)).boxed();
            let answers: Vec<Result<Path>> = self.inner.objects.delete_stream(names).collect().await;
            let transient = answers.iter().find_map(|a| a.as_ref().err().filter(|e| fault::is_transient(e)));
            match transient {
                Some(error) if self.again(&mut attempt, error).await => {}
                _ => return answers,
            }
        }
    }
}

/// A body under way.
struct Body {
    retry: Retry,
    location: Path,
    options: GetOptions,
    at: u64,
    end: u64,
    body: BoxStream<'static, Result<bytes::Bytes>>,
    attempt: usize,
}

impl Body {
    async fn next(mut self) -> Result<Option<(bytes::Bytes, Self)>> {
        loop {
            let error = match self.body.next().await {
                Some(Ok(bytes)) => {
                    self.at = self.at.saturating_add(u64::try_from(bytes.len()).unwrap_or(u64::MAX));
                    return Ok(Some((bytes, self)));
                }
                None if self.at >= self.end || self.options.head => return Ok(None),
                None => Error::Generic { store: "body", source: "the answer ended before its time".into() },
                Some(Err(error)) => error,
            };
            if !self.retry.again(&mut self.attempt, &error).await {
                return Err(error);
            }
            let rest = GetOptions { range: Some(GetRange::Bounded(self.at..self.end)), ..self.options.clone() };
            match self.retry.inner.objects.get_opts(&self.location, rest).await {
                Ok(got) => self.body = got.into_stream(),
                Err(error) => self.body = stream::once(async move { Err(error) }).boxed(),
            }
        }
    }
}

impl fmt::Debug for Gate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Gate({})", self.inner.objects)
    }
}

impl fmt::Display for Gate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.inner.objects.fmt(f)
    }
}

impl fmt::Debug for Retry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Retry({})", self.inner.objects)
    }
}

impl fmt::Display for Retry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.inner.objects.fmt(f)
    }
}

#[async_trait]
impl ObjectStore for Gate {
    async fn put_opts(&self, location: &Path, payload: PutPayload, opts: PutOptions) -> Result<PutResult> {
        let bytes = payload.content_length();
        self.pass(Operation::Put, bytes, self.inner.objects.put_opts(location, payload, opts)).await
    }

    async fn put_multipart_opts(&self, at: &Path, opts: PutMultipartOptions) -> Result<Box<dyn MultipartUpload>> {
        self.pass(Operation::Multipart, 0, self.inner.objects.put_multipart_opts(at, opts)).await
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        let op = if options.head { Operation::Head } else { Operation::Get };
        let GetResult { payload, meta, range, attributes } =
            self.pass(op, 0, self.inner.objects.get_opts(location, options)).await?;
        let payload = match payload {
            GetResultPayload::Stream(body) => GetResultPayload::Stream(self.gated(op, body, bytes::Bytes::len)),
            file @ GetResultPayload::File(..) => {
                if op == Operation::Get {
                    let length = range.end.saturating_sub(range.start);
                    self.counters.note_bytes(op, usize::try_from(length).unwrap_or(usize::MAX));
                }
                file
            }
        };
        Ok(GetResult { payload, meta, range, attributes })
    }

    fn delete_stream(&self, locations: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        let counters = Arc::clone(&self.counters);
        self.gated(Operation::Delete, self.inner.objects.delete_stream(locations), |_| 0)
            .inspect_ok(move |_| counters.note_success(Operation::Delete))
            .boxed()
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        self.counters.note_success(Operation::List);
        self.gated(Operation::List, self.inner.objects.list(prefix), |_| 0)
    }

    fn list_with_offset(&self, prefix: Option<&Path>, offset: &Path) -> BoxStream<'static, Result<ObjectMeta>> {
        self.counters.note_success(Operation::List);
        self.gated(Operation::List, self.inner.objects.list_with_offset(prefix, offset), |_| 0)
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.pass(Operation::List, 0, self.inner.objects.list_with_delimiter(prefix)).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.pass(Operation::Copy, 0, self.inner.objects.copy_opts(from, to, options)).await
    }
}

#[async_trait]
impl MultipartStore for Gate {
    async fn create_multipart(&self, path: &Path) -> Result<MultipartId> {
        self.pass(Operation::Multipart, 0, self.inner.parts()?.create_multipart(path)).await
    }

    async fn put_part(&self, path: &Path, id: &MultipartId, index: usize, payload: PutPayload) -> Result<PartId> {
        let bytes = payload.content_length();
        self.pass(Operation::PutPart, bytes, self.inner.parts()?.put_part(path, id, index, payload)).await
    }

    async fn complete_multipart(&self, path: &Path, id: &MultipartId, parts: Vec<PartId>) -> Result<PutResult> {
        self.pass(Operation::Multipart, 0, self.inner.parts()?.complete_multipart(path, id, parts)).await
    }

    async fn abort_multipart(&self, path: &Path, id: &MultipartId) -> Result<()> {
        self.pass(Operation::Multipart, 0, self.inner.parts()?.abort_multipart(path, id)).await
    }
}

#[async_trait]
impl ObjectStore for Retry {
    async fn put_opts(&self, location: &Path, payload: PutPayload, opts: PutOptions) -> Result<PutResult> {
        match opts.mode {
            PutMode::Overwrite => {
                self.repeat(|| self.inner.objects.put_opts(location, payload.clone(), opts.clone())).await
            }
            PutMode::Create => self.create(location, payload, opts).await,
            PutMode::Update(_) => self.inner.objects.put_opts(location, payload, opts).await,
        }
    }

    async fn put_multipart_opts(&self, at: &Path, opts: PutMultipartOptions) -> Result<Box<dyn MultipartUpload>> {
        self.repeat(|| self.inner.objects.put_multipart_opts(at, opts.clone())).await
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        let first = self.repeat(|| self.inner.objects.get_opts(location, options.clone())).await?;
        Ok(self.resumed(location, options, first))
    }

    fn delete_stream(&self, locations: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        let retry = self.clone();
        locations
            .chunks(DELETES_MAX)
            .then(move |chunk| {
                let retry = retry.clone();
                async move { stream::iter(retry.delete_chunk(chunk).await) }
            })
            .flatten()
            .boxed()
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        relist(Listing { retry: self.clone(), prefix: prefix.cloned(), after: None, attempt: 0, page: None })
    }

    fn list_with_offset(&self, prefix: Option<&Path>, offset: &Path) -> BoxStream<'static, Result<ObjectMeta>> {
        let after = Some(offset.clone());
        relist(Listing { retry: self.clone(), prefix: prefix.cloned(), after, attempt: 0, page: None })
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.repeat(|| self.inner.objects.list_with_delimiter(prefix)).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        match options.mode {
            CopyMode::Overwrite => self.repeat(|| self.inner.objects.copy_opts(from, to, options.clone())).await,
            CopyMode::Create => self.inner.objects.copy_opts(from, to, options).await,
        }
    }
}

/// A listing under way. It is begun again only while nothing was given out: stores promise no order, so there is no
/// place to go on from.
struct Listing {
    retry: Retry,
    prefix: Option<Path>,
    after: Option<Path>,
    attempt: usize,
    page: Option<(BoxStream<'static, Result<ObjectMeta>>, bool)>,
}

fn relist(listing: Listing) -> BoxStream<'static, Result<ObjectMeta>> {
    stream::try_unfold(listing, |mut listing| async move {
        loop {
            let (mut page, given) = listing.page.take().unwrap_or_else(|| {
                let inner = &listing.retry.inner.objects;
                let page = match &listing.after {
                    Some(after) => inner.list_with_offset(listing.prefix.as_ref(), after),
                    None => inner.list(listing.prefix.as_ref()),
                };
                (page, false)
            });
            match page.next().await {
                None => return Ok(None),
                Some(Ok(entry)) => {
                    listing.page = Some((page, true));
                    return Ok(Some((entry, listing)));
                }
                Some(Err(error)) => {
                    if given || !listing.retry.again(&mut listing.attempt, &error).await {
                        return Err(error);
                    }
                }
            }
        }
    })
    .boxed()
}

#[async_trait]
impl MultipartStore for Retry {
    async fn create_multipart(&self, path: &Path) -> Result<MultipartId> {
        let parts = self.inner.parts()?;
        self.repeat(|| parts.create_multipart(path)).await
    }

    async fn put_part(&self, path: &Path, id: &MultipartId, index: usize, payload: PutPayload) -> Result<PartId> {
        let parts = self.inner.parts()?;
        self.repeat(|| parts.put_part(path, id, index, payload.clone())).await
    }

    async fn complete_multipart(&self, path: &Path, id: &MultipartId, named: Vec<PartId>) -> Result<PutResult> {
        let parts = self.inner.parts()?;
        self.repeat(|| parts.complete_multipart(path, id, named.clone())).await
    }

    async fn abort_multipart(&self, path: &Path, id: &MultipartId) -> Result<()> {
        let parts = self.inner.parts()?;
        self.repeat(|| parts.abort_multipart(path, id)).await
    }
}

#[cfg(test)]
mod tests;
