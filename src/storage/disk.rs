//! The seam to local files that must survive a crash: ledger, spool, spill.
//!
//! Everything that a caller was told is synced survives any crash; everything else may survive in part. The simulator's
//! [`MemoryDisk`] forgets on demand what was not synced.

use std::collections::BTreeMap;
use std::fmt;
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, ErrorKind as Io, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use bytes::Bytes;

use super::{fault, local};
use crate::env::Env;
use crate::error::{Error, ErrorKind, Result};

/// A folder of files with plain names.
#[async_trait]
pub trait Disk: Send + Sync + fmt::Debug {
    /// Adds bytes to the end of a file, creating it. Durable only after [`Disk::sync`].
    ///
    /// # Errors
    /// `Unavailable` when the disk is full or broken, `Denied`; how much was written is unknown then.
    async fn append(&self, name: &str, bytes: &[u8]) -> Result<()>;

    /// Replaces a file as a whole, durably: after a crash it is the old one or the new one.
    ///
    /// # Errors
    /// As [`Disk::append`]; the file is the old one or the new one.
    async fn write(&self, name: &str, bytes: &[u8]) -> Result<()>;

    /// Makes all that was appended durable, the file's name included.
    ///
    /// # Errors
    /// As [`Disk::append`]. What was appended since the last good sync may be lost for ever: write it anew.
    async fn sync(&self, name: &str) -> Result<()>;

    /// A whole file.
    ///
    /// # Errors
    /// `NotFound`, `Denied`, `Unavailable`.
    async fn read(&self, name: &str) -> Result<Bytes>;

    /// The names of all files, in order.
    ///
    /// # Errors
    /// As [`Disk::read`], without `NotFound`.
    async fn list(&self) -> Result<Vec<String>>;

    /// Removes a file durably; one that is not there is removed already.
    ///
    /// # Errors
    /// `Denied`, `Unavailable`.
    async fn remove(&self, name: &str) -> Result<()>;
}

/// The exclusive use of a folder; ends with the value, or with the process.
#[derive(Debug)]
#[must_use = "the folder is anybody's when it is dropped"]
pub struct Hold {
    _lock: File,
}

/// A folder of this machine; created with the first write.
#[derive(Debug, Clone)]
pub struct LocalDisk {
    folder: PathBuf,
    env: Env,
}

impl LocalDisk {
    /// The disk that is this folder.
    pub fn new(folder: impl Into<PathBuf>, env: Env) -> Self {
        let folder = folder.into();
        // `state` has no parent to be made in, `./state` of the working folder has.
        Self { folder: std::path::absolute(&folder).unwrap_or(folder), env }
    }

    /// Takes the folder for this process alone, among those that ask.
    ///
    /// # Errors
    /// `Unavailable` when another process has it; `Denied` when it cannot be written to.
    pub async fn hold(&self) -> Result<Hold> {
        let taken = self.run("lock", "lock", |folder, file| {
            local::create_folders(folder)?;
            let lock = OpenOptions::new().append(true).create(true).open(file)?;
            match lock.try_lock() {
                Ok(()) => Ok(Some(Hold { _lock: lock })),
                Err(TryLockError::WouldBlock) => Ok(None),
                Err(TryLockError::Error(error)) => Err(error),
            }
        });
        taken.await?.ok_or_else(|| {
            let folder = self.folder.display();
            Error::new(ErrorKind::Unavailable, format!("another process works with {folder}"))
                .with_hint("wait until it has ended, or set another state_dir")
        })
    }

    async fn run<T, F>(&self, verb: &str, name: &str, work: F) -> Result<T>
    where
        T: Send + 'static,
        F: FnOnce(&Path, &Path) -> io::Result<T> + Send + 'static,
    {
        if name.is_empty() || name.starts_with('.') || name.contains(['/', '\\', '\0', '#']) {
            return Err(Error::new(ErrorKind::Internal, format!("{name:?} is no plain file name")));
        }
        let (folder, file) = (self.folder.clone(), self.folder.join(name));
        self.env.offload(move || work(&folder, &file)).await?.map_err(|e| self.error(verb, name, e))
    }

    fn error(&self, verb: &str, name: &str, source: io::Error) -> Error {
        let kind = fault::of_io(source.kind());
        let error = Error::new(kind, format!("{verb} {}", self.folder.join(name).display())).with_source(source);
        match kind {
            ErrorKind::Denied => error.with_hint("make the folder writable for this user, or set another state_dir"),
            ErrorKind::Config => error.with_hint("set state_dir to a folder"),
            _ => error,
        }
    }
}

/// Files of another disk whose names begin with a prefix, for those who must not meet others of the same names.
#[derive(Debug, Clone)]
pub struct PartOfDisk {
    disk: Arc<dyn Disk>,
    prefix: &'static str,
}

impl PartOfDisk {
    /// The part of `disk` under this prefix.
    pub fn new(disk: Arc<dyn Disk>, prefix: &'static str) -> Self {
        Self { disk, prefix }
    }

    fn name(&self, name: &str) -> String {
        format!("{}{name}", self.prefix)
    }
}

#[async_trait]
impl Disk for PartOfDisk {
    async fn append(&self, name: &str, bytes: &[u8]) -> Result<()> {
        self.disk.append(&self.name(name), bytes).await
    }

    async fn write(&self, name: &str, bytes: &[u8]) -> Result<()> {
        self.disk.write(&self.name(name), bytes).await
    }

    async fn sync(&self, name: &str) -> Result<()> {
        self.disk.sync(&self.name(name)).await
    }

    async fn read(&self, name: &str) -> Result<Bytes> {
        self.disk.read(&self.name(name)).await
    }

    async fn list(&self) -> Result<Vec<String>> {
        let all = self.disk.list().await?;
        Ok(all.iter().filter_map(|name| name.strip_prefix(self.prefix)).map(str::to_owned).collect())
    }

    async fn remove(&self, name: &str) -> Result<()> {
        self.disk.remove(&self.name(name)).await
    }
}

#[async_trait]
impl Disk for LocalDisk {
    async fn append(&self, name: &str, bytes: &[u8]) -> Result<()> {
        let bytes = bytes.to_vec();
        self.run("append to", name, move |folder, file| {
            local::create_folders(folder)?;
            OpenOptions::new().append(true).create(true).open(file)?.write_all(&bytes)
        })
        .await
    }

    async fn write(&self, name: &str, bytes: &[u8]) -> Result<()> {
        let parts = [Bytes::copy_from_slice(bytes)];
        let id = self.env.bits().to_string();
        self.run("write", name, move |_, file| local::write_durably(file, &id, false, &parts)).await
    }

    async fn sync(&self, name: &str) -> Result<()> {
        self.run("sync", name, |_, file| {
            File::open(file)?.sync_all()?;
            local::sync_folder_of(file)
        })
        .await
    }

    async fn read(&self, name: &str) -> Result<Bytes> {
        self.run("read", name, |_, file| fs::read(file).map(Bytes::from)).await
    }

    async fn list(&self) -> Result<Vec<String>> {
        let folder = self.folder.clone();
        let listed = self.env.offload(move || -> io::Result<Vec<String>> {
            let mut names = Vec::new();
            let entries = match fs::read_dir(&folder) {
                Err(error) if error.kind() == Io::NotFound => return Ok(names),
                entries => entries?,
            };
            for entry in entries {
                let entry = entry?;
                // A # marks a replacement that a crash left half written.
                match entry.file_name().into_string() {
                    Ok(name) if !name.contains('#') && entry.file_type()?.is_file() => names.push(name),
                    _ => {}
                }
            }
            names.sort_unstable();
            Ok(names)
        });
        listed.await?.map_err(|e| self.error("list", "", e))
    }

    async fn remove(&self, name: &str) -> Result<()> {
        self.run("remove", name, |_, file| match fs::remove_file(file) {
            Err(error) if error.kind() == Io::NotFound => Ok(()),
            done => done.and_then(|()| local::sync_folder_of(file)),
        })
        .await
    }
}

/// A disk in memory that tells what was synced from what was not.
#[derive(Debug, Default)]
pub struct MemoryDisk {
    files: Mutex<BTreeMap<String, MemoryFile>>,
}

#[derive(Debug, Default, Clone)]
struct MemoryFile {
    bytes: Vec<u8>,
    /// Bytes that survive; `None`: not even the name does.
    synced: Option<usize>,
}

impl MemoryDisk {
    /// An empty disk.
    pub fn new() -> Self {
        Self::default()
    }

    /// Loses all that was not synced.
    pub fn crash(&self) {
        self.crash_keeping(|_, _| 0);
    }

    /// Loses what was not synced, but for the first `keep(name, unsynced bytes)` bytes of it: a torn write.
    pub fn crash_keeping(&self, mut keep: impl FnMut(&str, usize) -> usize) {
        self.files().retain(|name, file| {
            let safe = file.synced.unwrap_or(0);
            let kept = keep(name, file.bytes.len() - safe).min(file.bytes.len() - safe);
            file.bytes.truncate(safe + kept);
            let stays = file.synced.is_some() || kept > 0;
            file.synced = Some(file.bytes.len());
            stays
        });
    }

    fn files(&self) -> MutexGuard<'_, BTreeMap<String, MemoryFile>> {
        self.files.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[async_trait]
impl Disk for MemoryDisk {
    async fn append(&self, name: &str, bytes: &[u8]) -> Result<()> {
        self.files().entry(name.to_owned()).or_default().bytes.extend_from_slice(bytes);
        Ok(())
    }

    async fn write(&self, name: &str, bytes: &[u8]) -> Result<()> {
        self.files().insert(name.to_owned(), MemoryFile { bytes: bytes.to_vec(), synced: Some(bytes.len()) });
        Ok(())
    }

    async fn sync(&self, name: &str) -> Result<()> {
        match self.files().get_mut(name) {
            Some(file) => file.synced = Some(file.bytes.len()),
            None => return Err(Error::new(ErrorKind::NotFound, format!("sync {name}: no such file"))),
        }
        Ok(())
    }

    async fn read(&self, name: &str) -> Result<Bytes> {
        let missing = || Error::new(ErrorKind::NotFound, format!("read {name}: no such file"));
        self.files().get(name).map(|file| Bytes::copy_from_slice(&file.bytes)).ok_or_else(missing)
    }

    async fn list(&self) -> Result<Vec<String>> {
        Ok(self.files().keys().cloned().collect())
    }

    async fn remove(&self, name: &str) -> Result<()> {
        self.files().remove(name);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn behaves(disk: &dyn Disk) {
        assert_eq!(disk.list().await.expect("empty"), Vec::<String>::new());
        assert_eq!(disk.read("a").await.expect_err("missing").kind(), ErrorKind::NotFound);
        disk.append("a", b"one").await.expect("append");
        disk.append("a", b"two").await.expect("append");
        disk.sync("a").await.expect("sync");
        disk.write("b", b"whole").await.expect("write");
        disk.write("b", b"new").await.expect("write");
        assert_eq!(disk.read("a").await.expect("read"), "onetwo");
        assert_eq!(disk.read("b").await.expect("read"), "new");
        assert_eq!(disk.list().await.expect("list"), ["a", "b"]);
        disk.remove("a").await.expect("remove");
        disk.remove("a").await.expect("a second remove changes nothing");
        assert_eq!(disk.list().await.expect("list"), ["b"]);
    }

    #[tokio::test]
    async fn both_disks_behave_alike() {
        let folder = tempfile::tempdir().expect("folder");
        behaves(&LocalDisk::new(folder.path().join("state/of/it"), Env::system())).await;
        behaves(&MemoryDisk::new()).await;
    }

    #[tokio::test]
    async fn a_crash_takes_what_was_not_synced_and_nothing_else() {
        let disk = MemoryDisk::new();
        disk.append("a", b"safe").await.expect("append");
        disk.sync("a").await.expect("sync");
        disk.append("a", b"lost").await.expect("append");
        disk.append("never-synced", b"x").await.expect("append");
        disk.write("b", b"replaced").await.expect("write");
        disk.crash_keeping(|name, _| if name == "a" { 2 } else { 0 });
        assert_eq!(disk.read("a").await.expect("read"), "safelo");
        assert_eq!(disk.list().await.expect("list"), ["a", "b"]);
    }

    #[tokio::test]
    async fn a_name_with_a_folder_in_it_is_refused() {
        let folder = tempfile::tempdir().expect("folder");
        let disk = LocalDisk::new(folder.path(), Env::system());
        for name in ["../x", "a/b", "", ".hidden", "a#1"] {
            assert!(disk.write(name, b"").await.is_err(), "{name}");
        }
    }
}
