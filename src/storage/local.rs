//! Local files that are there after a power cut once their write was acknowledged.
//!
//! `object_store`'s file system never calls fsync. Here a file is written beside its place, synced, moved there, and the
//! folder synced. Until then its name is `<name>#<digits>`: the form that `object_store` hides from listings, so that
//! nobody ever reads half a file.

use std::fmt;
use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind as Io, Write};
use std::path::{Path as FsPath, PathBuf};
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::{self, BoxStream, StreamExt};
use object_store::local::LocalFileSystem;
use object_store::path::Path;
use object_store::{
    CopyOptions, Error, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore, PutMode,
    PutMultipartOptions, PutOptions, PutPayload, PutResult, Result, UploadPart,
};

use crate::env::Env;

/// Bytes that gather before they are handed to the operating system.
const CHUNK: usize = 1 << 20;
/// Files that one thread removes, and threads that do so at a time.
const REMOVED_TOGETHER: usize = 128;
const REMOVALS: usize = 4;

/// The files of this machine, as an object store whose writes are durable.
#[derive(Debug, Clone)]
pub(super) struct LocalStore {
    files: LocalFileSystem,
    env: Env,
}

impl LocalStore {
    pub(super) fn new(env: Env) -> Self {
        Self { files: LocalFileSystem::new(), env }
    }

    /// Names a write to come: what [`LocalStore::begin`] and [`LocalStore::discard`] take.
    pub(super) fn draw_id(&self) -> String {
        self.env.bits().to_string()
    }

    /// Opens a file that becomes visible as `path` when it is finished.
    pub(super) async fn begin(&self, path: &Path, id: &str) -> Result<Staging> {
        let place = self.files.path_to_filesystem(path)?;
        let staged = staged_name(&place, id);
        let (file, staged) = self.run(move || open_staged(staged)).await?;
        Ok(Staging { file: Some(file), staged, place, buffer: Vec::new(), written: 0, env: self.env.clone() })
    }

    /// Removes what an unfinished write left; nothing to do when it is gone.
    pub(super) async fn discard(&self, path: &Path, id: &str) -> Result<()> {
        if id.is_empty() || !id.bytes().all(|b| b.is_ascii_digit()) {
            return Err(generic(io::Error::new(Io::InvalidInput, format!("{id:?} is no id of an unfinished file"))));
        }
        let staged = staged_name(&self.files.path_to_filesystem(path)?, id);
        self.run(move || gone_is_fine(fs::remove_file(staged))).await
    }

    /// Removes files, each with its own answer: one step aside for all, because each takes longer than a removal.
    async fn remove(&self, paths: Vec<Result<Path>>) -> Vec<Result<Path>> {
        let files = self.files.clone();
        let remove = move |path: Result<Path>| {
            let path = path?;
            fs::remove_file(files.path_to_filesystem(&path)?).map_err(generic)?;
            Ok(path)
        };
        match self.env.offload(move || paths.into_iter().map(remove).collect()).await {
            Ok(answers) => answers,
            Err(error) => vec![Err(Error::Generic { store: "local", source: Box::new(error) })],
        }
    }

    async fn run<T: Send + 'static>(&self, work: impl FnOnce() -> io::Result<T> + Send + 'static) -> Result<T> {
        offload(&self.env, work).await
    }
}

/// A file under way. Dropped unfinished, it stays under its hidden name until it is discarded by id.
#[derive(Debug)]
pub(super) struct Staging {
    file: Option<File>,
    staged: PathBuf,
    place: PathBuf,
    buffer: Vec<u8>,
    written: u64,
    env: Env,
}

impl Staging {
    /// Appends. What is large is not copied.
    pub(super) async fn write(&mut self, bytes: &Bytes) -> Result<()> {
        self.written = self.written.saturating_add(u64::try_from(bytes.len()).unwrap_or(u64::MAX));
        if bytes.len() >= CHUNK {
            return self.flush(bytes.clone()).await;
        }
        self.buffer.extend_from_slice(bytes);
        if self.buffer.len() < CHUNK {
            return Ok(());
        }
        self.flush(Bytes::new()).await
    }

    /// Writes what has gathered, and `more` after it.
    async fn flush(&mut self, more: Bytes) -> Result<()> {
        let buffer = std::mem::take(&mut self.buffer);
        let mut file = self.file.take().ok_or_else(broken)?;
        let (file, mut buffer) = offload(&self.env, move || {
            file.write_all(&buffer)?;
            file.write_all(&more)?;
            Ok((file, buffer))
        })
        .await?;
        buffer.clear();
        (self.file, self.buffer) = (Some(file), buffer);
        Ok(())
    }

    /// Syncs the file, moves it to its place, syncs the folder.
    pub(super) async fn finish(&mut self) -> Result<u64> {
        self.flush(Bytes::new()).await?;
        let file = self.file.take().ok_or_else(broken)?;
        let (staged, place) = (self.staged.clone(), self.place.clone());
        offload(&self.env, move || {
            file.sync_all()?;
            drop(file);
            fs::rename(&staged, &place)?;
            sync_folder_of(&place)
        })
        .await?;
        Ok(self.written)
    }

    /// Removes the unfinished file.
    pub(super) async fn abort(&mut self) -> Result<()> {
        self.file = None;
        let staged = self.staged.clone();
        offload(&self.env, move || gone_is_fine(fs::remove_file(staged))).await
    }
}

async fn offload<T: Send + 'static>(env: &Env, work: impl FnOnce() -> io::Result<T> + Send + 'static) -> Result<T> {
    match env.offload(work).await {
        Ok(done) => done.map_err(generic),
        Err(error) => Err(Error::Generic { store: "local", source: Box::new(error) }),
    }
}

fn generic(source: io::Error) -> Error {
    match source.kind() {
        Io::AlreadyExists => Error::AlreadyExists { path: String::new(), source: source.into() },
        Io::NotFound => Error::NotFound { path: String::new(), source: source.into() },
        Io::PermissionDenied | Io::ReadOnlyFilesystem => {
            Error::PermissionDenied { path: String::new(), source: source.into() }
        }
        _ => Error::Generic { store: "local", source: source.into() },
    }
}

fn broken() -> Error {
    generic(io::Error::other("an earlier write of this file failed"))
}

fn gone_is_fine(done: io::Result<()>) -> io::Result<()> {
    match done {
        Err(error) if error.kind() == Io::NotFound => Ok(()),
        other => other,
    }
}

fn staged_name(place: &FsPath, id: &str) -> PathBuf {
    let mut name = place.as_os_str().to_owned();
    name.push("#");
    name.push(id);
    name.into()
}

fn open_staged(staged: PathBuf) -> io::Result<(File, PathBuf)> {
    let open = || OpenOptions::new().write(true).create_new(true).open(&staged);
    let file = match open() {
        Err(error) if error.kind() == Io::NotFound => {
            create_folders(staged.parent().unwrap_or(FsPath::new("/")))?;
            open()?
        }
        other => other?,
    };
    Ok((file, staged))
}

/// Creates a folder and those above it, each synced into its parent.
pub(super) fn create_folders(folder: &FsPath) -> io::Result<()> {
    let mut missing = Vec::new();
    let mut at = Some(folder);
    while let Some(level) = at.filter(|level| !level.is_dir()) {
        missing.push(level);
        at = level.parent();
    }
    for level in missing.into_iter().rev() {
        match fs::create_dir(level) {
            Err(error) if error.kind() == Io::AlreadyExists && level.is_dir() => {}
            other => other?,
        }
        sync_folder_of(level)?;
    }
    Ok(())
}

/// Syncs the folder that holds `path`, so that the name survives.
pub(super) fn sync_folder_of(path: &FsPath) -> io::Result<()> {
    File::open(path.parent().unwrap_or(FsPath::new("/")))?.sync_all()
}

/// Writes and syncs a file beside `place` and moves it there.
pub(super) fn write_durably(place: &FsPath, id: &str, create: bool, parts: &[Bytes]) -> io::Result<()> {
    let (mut file, staged) = open_staged(staged_name(place, id))?;
    let written = parts
        .iter()
        .try_for_each(|part| file.write_all(part))
        .and_then(|()| file.sync_all())
        .and_then(|()| if create { fs::hard_link(&staged, place) } else { fs::rename(&staged, place) });
    drop(file);
    if create || written.is_err() {
        // Only the temporary name; a failure here leaves a hidden file, never a wrong one.
        let _ = fs::remove_file(&staged);
    }
    written?;
    sync_folder_of(place)
}

impl fmt::Display for LocalStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("local")
    }
}

#[async_trait]
impl ObjectStore for LocalStore {
    async fn put_opts(&self, location: &Path, payload: PutPayload, opts: PutOptions) -> Result<PutResult> {
        let create = match opts.mode {
            PutMode::Overwrite => false,
            PutMode::Create => true,
            PutMode::Update(_) => {
                return Err(Error::NotImplemented {
                    operation: "conditional update".into(),
                    implementer: "local".into(),
                });
            }
        };
        let place = self.files.path_to_filesystem(location)?;
        let id = self.draw_id();
        let parts: Vec<Bytes> = payload.iter().cloned().collect();
        self.run(move || write_durably(&place, &id, create, &parts)).await?;
        Ok(PutResult { e_tag: None, version: None })
    }

    async fn put_multipart_opts(&self, path: &Path, _: PutMultipartOptions) -> Result<Box<dyn MultipartUpload>> {
        let staging = self.begin(path, &self.draw_id()).await?;
        Ok(Box::new(Parts { staging: Arc::new(tokio::sync::Mutex::new(staging)) }))
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        self.files.get_opts(location, options).await
    }

    fn delete_stream(&self, locations: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        let store = self.clone();
        let removed = move |chunk: Vec<Result<Path>>| {
            let store = store.clone();
            async move { store.remove(chunk).await }
        };
        locations.ready_chunks(REMOVED_TOGETHER).map(removed).buffered(REMOVALS).flat_map(stream::iter).boxed()
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        self.files.list(prefix)
    }

    fn list_with_offset(&self, prefix: Option<&Path>, offset: &Path) -> BoxStream<'static, Result<ObjectMeta>> {
        self.files.list_with_offset(prefix, offset)
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.files.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.files.copy_opts(from, to, options).await
    }
}

/// `object_store`'s own multipart interface, for callers that know no other; parts are written in the order of their futures.
#[derive(Debug)]
struct Parts {
    staging: Arc<tokio::sync::Mutex<Staging>>,
}

#[async_trait]
impl MultipartUpload for Parts {
    fn put_part(&mut self, data: PutPayload) -> UploadPart {
        // The lock is asked for now, not when the part is polled: tokio's mutex is first come, first served.
        let turn = Arc::clone(&self.staging).try_lock_owned();
        let staging = Arc::clone(&self.staging);
        Box::pin(async move {
            let mut staging = match turn {
                Ok(turn) => turn,
                Err(_) => staging.lock_owned().await,
            };
            for bytes in data.iter() {
                staging.write(bytes).await?;
            }
            Ok(())
        })
    }

    async fn complete(&mut self) -> Result<PutResult> {
        self.staging.lock().await.finish().await?;
        Ok(PutResult { e_tag: None, version: None })
    }

    async fn abort(&mut self) -> Result<()> {
        self.staging.lock().await.abort().await
    }
}
