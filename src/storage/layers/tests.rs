//! Layers and uploads over a store that fails on command.

use std::collections::VecDeque;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;

use super::*;
use crate::env::Clock;
use crate::error::ErrorKind;
use crate::storage::disk::{Disk, MemoryDisk};
use crate::storage::ledger::{ENTRIES_MAX, Ledger, LedgerOwner};
use crate::storage::{MemoryStore, Storage, StorageOptions};

/// What happens to the next request of one kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fault {
    /// Done, and answered.
    None,
    /// Not done, and no usable answer.
    NotDone,
    /// Done, but the answer is lost.
    Lost,
    /// A definite no.
    Refused,
    /// The body breaks off in its middle.
    Cut,
}

/// A memory store with a script of faults.
#[derive(Debug, Clone)]
struct Faulty {
    inner: MemoryStore,
    script: Arc<Mutex<VecDeque<(Operation, Fault)>>>,
    under_way: Arc<AtomicUsize>,
    under_way_max: Arc<AtomicUsize>,
}

/// A clock that never waits, and counts.
#[derive(Debug, Default)]
struct Impatient {
    sleeps: AtomicUsize,
}

#[async_trait]
impl Clock for Impatient {
    fn now_ms(&self) -> i64 {
        1_700_000_000_000
    }
    async fn sleep(&self, _: Duration) {
        self.sleeps.fetch_add(1, Ordering::Relaxed);
    }
}

struct Rig {
    storage: Storage,
    store: Faulty,
    clock: Arc<Impatient>,
}

const AT: &str = "s3://lake/t/f";

fn rig(retries: usize, requests_max: usize, script: &[(Operation, Fault)]) -> Rig {
    let clock = Arc::new(Impatient::default());
    let env = Env::simulated(Arc::clone(&clock) as Arc<dyn Clock>, 7);
    let store = Faulty {
        inner: MemoryStore::new(env.clone()),
        script: Arc::new(Mutex::new(script.iter().copied().collect())),
        under_way: Arc::default(),
        under_way_max: Arc::default(),
    };
    let storage = Storage::new(StorageOptions { stores: Vec::new(), requests_max, retries }, env);
    storage.mount("s3://lake", Arc::new(store.clone()));
    Rig { storage, store, clock }
}

fn fault<T>() -> Result<T> {
    Err(Error::Generic {
        store: "faulty",
        source: "Server returned non-2xx status code: 503 Service Unavailable: ".into(),
    })
}

impl Faulty {
    fn next(&self, op: Operation) -> Fault {
        let mut script = self.script.lock().expect("script");
        match script.iter().position(|(of, _)| *of == op) {
            Some(at) => script.remove(at).map_or(Fault::None, |(_, fault)| fault),
            None => Fault::None,
        }
    }

    async fn act<T>(&self, op: Operation, request: impl Future<Output = Result<T>>) -> Result<T> {
        let now = self.under_way.fetch_add(1, Ordering::Relaxed) + 1;
        self.under_way_max.fetch_max(now, Ordering::Relaxed);
        tokio::task::yield_now().await;
        let answer = match self.next(op) {
            Fault::NotDone => fault(),
            Fault::Lost => request.await.and_then(|_| fault()),
            Fault::Refused => Err(Error::PermissionDenied { path: "f".into(), source: "no".into() }),
            Fault::None | Fault::Cut => request.await,
        };
        self.under_way.fetch_sub(1, Ordering::Relaxed);
        answer
    }
}

impl fmt::Display for Faulty {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("faulty")
    }
}

#[async_trait]
impl ObjectStore for Faulty {
    async fn put_opts(&self, at: &Path, payload: PutPayload, opts: PutOptions) -> Result<PutResult> {
        self.act(Operation::Put, self.inner.put_opts(at, payload, opts)).await
    }
    async fn put_multipart_opts(&self, at: &Path, opts: PutMultipartOptions) -> Result<Box<dyn MultipartUpload>> {
        self.inner.put_multipart_opts(at, opts).await
    }
    async fn get_opts(&self, at: &Path, options: GetOptions) -> Result<GetResult> {
        let op = if options.head { Operation::Head } else { Operation::Get };
        let cut = op == Operation::Get
            && self.script.lock().expect("script").iter().any(|step| *step == (Operation::Get, Fault::Cut));
        let mut got = self.act(op, self.inner.get_opts(at, options)).await?;
        if cut {
            let (meta, range, attributes) = (got.meta.clone(), got.range.clone(), got.attributes.clone());
            let bytes = got.bytes().await?;
            let half = bytes.slice(..bytes.len() / 2);
            let payload = GetResultPayload::Stream(stream::iter([Ok(half), fault()]).boxed());
            got = GetResult { payload, meta, range, attributes };
        }
        Ok(got)
    }
    fn delete_stream(&self, locations: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        match self.next(Operation::Delete) {
            Fault::NotDone => stream::once(async { fault() }).boxed(),
            Fault::Refused => {
                stream::once(async { Err(Error::PermissionDenied { path: "f".into(), source: "no".into() }) }).boxed()
            }
            _ => self.inner.delete_stream(locations),
        }
    }
    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        match self.next(Operation::List) {
            Fault::NotDone => stream::once(async { fault() }).boxed(),
            Fault::Cut => self.inner.list(prefix).take(1).chain(stream::once(async { fault() })).boxed(),
            _ => self.inner.list(prefix),
        }
    }
    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.inner.list_with_delimiter(prefix).await
    }
    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.act(Operation::Copy, self.inner.copy_opts(from, to, options)).await
    }
}

#[async_trait]
impl MultipartStore for Faulty {
    async fn create_multipart(&self, path: &Path) -> Result<MultipartId> {
        self.inner.create_multipart(path).await
    }
    async fn put_part(&self, path: &Path, id: &MultipartId, index: usize, payload: PutPayload) -> Result<PartId> {
        self.act(Operation::PutPart, self.inner.put_part(path, id, index, payload)).await
    }
    async fn complete_multipart(&self, path: &Path, id: &MultipartId, parts: Vec<PartId>) -> Result<PutResult> {
        self.act(Operation::Multipart, self.inner.complete_multipart(path, id, parts)).await
    }
    async fn abort_multipart(&self, path: &Path, id: &MultipartId) -> Result<()> {
        self.inner.abort_multipart(path, id).await
    }
}

#[tokio::test]
async fn an_answer_that_is_none_is_asked_for_again_after_a_wait() {
    let Rig { storage, clock, .. } = rig(2, 4, &[(Operation::Put, Fault::NotDone), (Operation::Put, Fault::Lost)]);
    storage.write(AT, Bytes::from_static(b"x")).await.expect("third time");
    assert_eq!(clock.sleeps.load(Ordering::Relaxed), 2, "waits go through Env");
    let counts = storage.counters().snapshot()[&Operation::Put];
    assert_eq!((counts.ok, counts.unavailable, counts.bytes), (1, 2, 1));
}

#[tokio::test]
async fn when_the_retries_are_spent_the_store_is_unavailable() {
    let Rig { storage, clock, .. } = rig(2, 4, &[(Operation::Put, Fault::NotDone); 3]);
    let error = storage.write(AT, Bytes::new()).await.expect_err("spent");
    assert_eq!((error.kind(), clock.sleeps.load(Ordering::Relaxed)), (ErrorKind::Unavailable, 2));
    assert!(error.to_string().starts_with("write s3://lake/t/f: Server returned non-2xx status code: 503"), "{error}");
}

#[tokio::test]
async fn a_definite_no_is_not_asked_again() {
    let Rig { storage, clock, .. } = rig(5, 4, &[(Operation::Put, Fault::Refused)]);
    assert_eq!(storage.write(AT, Bytes::new()).await.expect_err("refused").kind(), ErrorKind::Denied);
    assert_eq!(clock.sleeps.load(Ordering::Relaxed), 0);
}

#[tokio::test]
async fn a_creation_whose_answer_was_lost_knows_its_own_object() {
    let Rig { storage, .. } = rig(2, 4, &[(Operation::Put, Fault::Lost)]);
    storage.write_new(AT, Bytes::from_static(b"mine")).await.expect("it was us");
    assert_eq!(storage.read(AT).await.expect("read"), "mine");
}

#[tokio::test]
async fn a_creation_that_was_not_done_does_not_take_anothers_object_for_its_own() {
    for theirs in [&b"else"[..], b"longer than mine"] {
        let Rig { storage, store, .. } = rig(2, 4, &[(Operation::Put, Fault::NotDone)]);
        store.inner.put_opts(&Path::from("t/f"), theirs.to_vec().into(), PutOptions::default()).await.expect("theirs");
        let error = storage.write_new(AT, Bytes::from_static(b"mine")).await.expect_err("theirs is there");
        assert_eq!(error.kind(), ErrorKind::Conflict);
        assert_eq!(storage.read(AT).await.expect("read"), theirs);
    }
}

#[tokio::test]
async fn a_body_goes_on_where_it_broke_off() {
    let content: Bytes = (0..=255).collect::<Vec<u8>>().into();
    let Rig { storage, .. } = rig(3, 4, &[(Operation::Get, Fault::Cut), (Operation::Get, Fault::Cut)]);
    storage.write(AT, content.clone()).await.expect("write");
    assert_eq!(storage.read(AT).await.expect("read"), content);
    let Rig { storage, .. } = rig(3, 4, &[(Operation::Get, Fault::Cut)]);
    storage.write(AT, content.clone()).await.expect("write");
    assert_eq!(storage.read_range(AT, 10..90).await.expect("read"), content.slice(10..90));
}

#[tokio::test]
async fn a_body_never_goes_on_in_another_object() {
    let Rig { storage, store, .. } = rig(3, 4, &[(Operation::Get, Fault::Cut)]);
    storage.write(AT, Bytes::from_static(b"old-")).await.expect("write");
    let (objects, path) = storage.resolve(AT).expect("resolve");
    let mut body = objects.get_opts(&path, GetOptions::default()).await.expect("get").into_stream();
    assert_eq!(body.next().await.expect("piece").expect("good"), "ol");
    store.inner.put_opts(&path, b"new-".to_vec().into(), PutOptions::default()).await.expect("replaced");
    let error = body.next().await.expect("an answer").expect_err("another object");
    assert!(matches!(error, Error::Precondition { .. }), "{error}");
}

#[tokio::test]
async fn no_more_requests_than_allowed_are_under_way() {
    let Rig { storage, store, .. } = rig(0, 3, &[]);
    let writes = (0..20).map(|n| {
        let storage = storage.clone();
        async move { storage.write(&format!("s3://lake/{n}"), Bytes::new()).await }
    });
    for answer in futures::future::join_all(writes).await {
        answer.expect("write");
    }
    assert_eq!(store.under_way_max.load(Ordering::Relaxed), 3);
}

#[tokio::test]
async fn a_reader_that_pauses_does_not_starve_a_writer() {
    let Rig { storage, .. } = rig(0, 1, &[]);
    storage.write(AT, Bytes::from_static(b"x")).await.expect("write");
    let (objects, path) = storage.resolve(AT).expect("resolve");
    let body = objects.get_opts(&path, GetOptions::default()).await.expect("get").into_stream();
    let mut listing = storage.list("s3://lake", None);
    listing.next().await.expect("entry").expect("good");
    storage.write("s3://lake/other", Bytes::new()).await.expect("not starved");
    assert_eq!(body.try_collect::<Vec<_>>().await.expect("body"), ["x"]);
}

#[tokio::test]
async fn a_listing_begins_again_only_before_its_first_entry() {
    let Rig { storage, .. } = rig(2, 4, &[(Operation::List, Fault::NotDone), (Operation::List, Fault::Cut)]);
    for name in ["a", "b"] {
        storage.write(&format!("s3://lake/{name}"), Bytes::new()).await.expect("write");
    }
    let cut: Vec<_> = storage.list("s3://lake", None).collect().await;
    assert_eq!(cut.iter().filter(|e| e.is_ok()).count(), 1, "the second attempt was cut after one entry");
    assert_eq!(cut.last().and_then(|e| e.as_ref().err()).map(crate::error::Error::kind), Some(ErrorKind::Unavailable));
    assert_eq!(storage.list("s3://lake", None).try_collect::<Vec<_>>().await.expect("list").len(), 2);
}

#[tokio::test]
async fn a_bulk_delete_that_fails_is_told_apart_by_name() {
    let Rig { storage, .. } = rig(0, 4, &[(Operation::Delete, Fault::Refused), (Operation::Delete, Fault::Refused)]);
    let names = ["s3://lake/a", "s3://lake/b"].map(str::to_owned);
    for name in &names {
        storage.write(name, Bytes::new()).await.expect("write");
    }
    let answers = storage.delete_all(names.to_vec()).await;
    let failed: Vec<_> = answers.iter().map(|(name, answer)| (name.as_str(), answer.is_err())).collect();
    assert_eq!(failed, [("s3://lake/a", true), ("s3://lake/b", false)]);
}

async fn ledger(disk: &Arc<MemoryDisk>) -> Ledger {
    Ledger::open(Arc::clone(disk) as Arc<dyn Disk>, ENTRIES_MAX).await.expect("ledger")
}

fn owner() -> LedgerOwner {
    LedgerOwner { table: "lake.t".parse().expect("valid"), snapshot_id: 1 }
}

fn big() -> Bytes {
    vec![3; 20 << 20].into()
}

#[tokio::test]
async fn an_upload_survives_parts_and_completions_whose_answers_are_lost() {
    let script =
        [(Operation::PutPart, Fault::Lost), (Operation::PutPart, Fault::NotDone), (Operation::Multipart, Fault::Lost)];
    let Rig { storage, store, .. } = rig(3, 4, &script);
    let mut upload = storage.upload(AT, None).await.expect("begin");
    upload.write(big()).await.expect("write");
    assert_eq!(upload.finish().await.expect("finish"), 20 << 20);
    assert!(storage.read(AT).await.expect("read") == big());
    assert!(store.inner.open_uploads().is_empty());
}

/// Small pieces are gathered, large ones go as they are, one that is a slice of something larger is copied: in their order.
#[tokio::test]
async fn an_object_is_its_pieces_in_order_however_they_come() {
    let Rig { storage, store, .. } = rig(0, 4, &[]);
    let mut upload = storage.upload(AT, None).await.expect("begin");
    let shared: Bytes = (0..200_000_u32).map(|n| (n % 249) as u8).collect();
    let mut wanted = Vec::new();
    for (n, length) in
        [1, 40_000, 7, 32_767, 32_768, (8 << 20) - 1, 2, (8 << 20) + 1, 17 << 20, 3, 99_999].into_iter().enumerate()
    {
        let own: Bytes = (0..length).map(|at| ((at + n) % 251) as u8).collect();
        for piece in [own, shared.slice(n * 1_000..n * 1_000 + 70_000)] {
            wanted.extend_from_slice(&piece);
            upload.write(piece).await.expect("written");
        }
    }
    assert_eq!(upload.finish().await.expect("finished"), wanted.len() as u64);
    assert!(storage.read(AT).await.expect("read") == wanted);
    assert!(store.inner.open_uploads().is_empty());
}

#[tokio::test]
async fn a_failed_upload_is_aborted_and_stays_in_the_ledger() {
    let Rig { storage, store, .. } = rig(0, 4, &[(Operation::PutPart, Fault::NotDone)]);
    let disk = Arc::new(MemoryDisk::new());
    let ledger = ledger(&disk).await;
    let mut upload = storage.upload(AT, Some((ledger.clone(), owner()))).await.expect("begin");
    let written = upload.write(big()).await;
    let finished = upload.finish().await;
    assert!(written.is_err() || finished.as_ref().is_err_and(|e| e.kind() == ErrorKind::Unavailable));
    assert!(upload.finish().await.is_err(), "it stays given up");
    assert!(store.inner.open_uploads().is_empty());
    assert!(!storage.exists(AT).await.expect("look"));
    assert_eq!(ledger.open_entries().len(), 1, "the owner settles it");
}

#[tokio::test]
async fn a_crashed_upload_is_found_by_its_id_and_removed() {
    let Rig { storage, store, .. } = rig(0, 4, &[]);
    let disk = Arc::new(MemoryDisk::new());
    {
        let mut upload = storage.upload(AT, Some((ledger(&disk).await, owner()))).await.expect("begin");
        upload.write(big()).await.expect("write");
    }
    disk.crash();
    assert_eq!(store.inner.open_uploads().len(), 1);
    let entries = ledger(&disk).await.open_entries();
    assert_eq!((entries.len(), entries[0].location.as_str(), &entries[0].owner), (1, AT, &owner()));
    for id in &entries[0].upload_ids {
        storage.abort_upload(AT, id).await.expect("abort");
        storage.abort_upload(AT, id).await.expect("a second abort changes nothing");
    }
    assert!(store.inner.open_uploads().is_empty());
}

#[tokio::test]
async fn no_object_is_begun_before_its_name_is_in_the_ledger() {
    let Rig { storage, store, .. } = rig(0, 4, &[]);
    let ledger = Ledger::open(Arc::new(MemoryDisk::new()), 0).await.expect("ledger");
    let error = storage.upload(AT, Some((ledger, owner()))).await.expect_err("the ledger is full");
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    assert!(store.inner.open_uploads().is_empty());
}

#[tokio::test]
async fn an_unfinished_local_file_is_hidden_and_removed_by_its_id() {
    let kept = tempfile::tempdir().expect("folder");
    let at = kept.path().join("t/f.parquet").to_str().expect("utf-8").to_owned();
    let storage = Storage::new(StorageOptions { requests_max: 4, ..StorageOptions::default() }, Env::system());
    let disk = Arc::new(MemoryDisk::new());
    {
        let mut upload = storage.upload(&at, Some((ledger(&disk).await, owner()))).await.expect("begin");
        upload.write(big()).await.expect("write");
    }
    disk.crash();
    let folder = kept.path().join("t");
    let files = || std::fs::read_dir(&folder).expect("folder").count();
    assert_eq!(files(), 1);
    let listed: Vec<_> = storage.list(kept.path().to_str().expect("utf-8"), None).try_collect().await.expect("list");
    assert_eq!(listed, []);
    for id in &ledger(&disk).await.open_entries()[0].upload_ids {
        storage.abort_upload(&at, id).await.expect("abort");
    }
    assert_eq!(files(), 0);
    for id in ["", "../x", "1/2"] {
        assert!(storage.abort_upload(&at, id).await.is_err(), "{id:?} is no id");
    }
}
