//! Where metadata documents lie: the disk, written so that they survive a crash, or an object store.

use std::fs;
use std::io::{ErrorKind as Io, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use object_store::{ObjectStore, ObjectStoreExt, PutMode, PutPayload};

use super::document::DOCUMENT_BYTES_MAX;
use crate::env::Env;
use crate::error::{Error, ErrorKind, Result};

/// Finds the store of a location, and the path within it.
pub type Resolver = Arc<dyn Fn(&str) -> Result<(Arc<dyn ObjectStore>, object_store::path::Path)> + Send + Sync>;

/// Reads and writes metadata documents by location. Cheap to clone.
#[derive(Clone)]
pub struct Documents {
    env: Env,
    resolver: Resolver,
}

impl std::fmt::Debug for Documents {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Documents")
    }
}

impl Documents {
    /// Documents on the local disk (`/…`, `file:…`) and, for other locations, where `resolver` says.
    pub fn new(env: Env, resolver: Resolver) -> Self {
        Self { env, resolver }
    }

    /// A document's bytes.
    ///
    /// # Errors
    /// `NotFound`, `Denied`, `Unavailable`; `Corrupt` when it is larger than a document may be.
    pub async fn read(&self, location: &str) -> Result<Bytes> {
        if let Some(path) = local_path(location) {
            return self.env.offload(move || read_file(&path)).await?;
        }
        let place = || format!("read metadata document {location}");
        let (store, path) = (self.resolver)(location)?;
        let found = store.get(&path).await.map_err(|e| of_store(e, place()))?;
        if found.meta.size > DOCUMENT_BYTES_MAX {
            return Err(too_large(location));
        }
        found.bytes().await.map_err(|e| of_store(e, place()))
    }

    /// Writes a document that must not be there yet. On return it survives a crash of the machine.
    ///
    /// # Errors
    /// `Conflict` when it is there; `Denied`; `Unavailable`, after which it may be there, whole or not.
    pub async fn write_new(&self, location: &str, document: Bytes) -> Result<()> {
        if let Some(path) = local_path(location) {
            return self.env.offload(move || write_file(&path, &document)).await?;
        }
        let place = || format!("write metadata document {location}");
        let (store, path) = (self.resolver)(location)?;
        let payload = PutPayload::from_bytes(document);
        match store.put_opts(&path, payload.clone(), PutMode::Create.into()).await {
            // The name holds a fresh UUID: a plain put cannot meet another document.
            Err(object_store::Error::NotImplemented { .. } | object_store::Error::NotSupported { .. }) => {
                store.put(&path, payload).await.map_err(|e| of_store(e, place()))?;
            }
            answer => drop(answer.map_err(|e| of_store(e, place()))?),
        }
        Ok(())
    }

    /// Deletes a document; one that is gone already is no error.
    ///
    /// # Errors
    /// `Denied`, `Unavailable`.
    pub async fn delete(&self, location: &str) -> Result<()> {
        if let Some(path) = local_path(location) {
            let gone = self.env.offload(move || fs::remove_file(&path).map_err(|e| (e, path))).await?;
            return match gone {
                Err((e, path)) if e.kind() != Io::NotFound => Err(of_disk(e, "delete", &path)),
                _ => Ok(()),
            };
        }
        let (store, path) = (self.resolver)(location)?;
        match store.delete(&path).await {
            Ok(()) | Err(object_store::Error::NotFound { .. }) => Ok(()),
            Err(e) => Err(of_store(e, format!("delete metadata document {location}"))),
        }
    }
}

/// The path of a location on this machine's disk: `/…`, `file:/…` or `file:///…`. Locations are texts, not URLs: a
/// percent sign means itself, as for every other Iceberg reader.
pub fn local_path(location: &str) -> Option<PathBuf> {
    let rest = match location.strip_prefix("file:") {
        Some(rest) => rest.strip_prefix("//").unwrap_or(rest),
        None => location,
    };
    rest.starts_with('/').then(|| PathBuf::from(rest))
}

fn read_file(path: &Path) -> Result<Bytes> {
    let size = fs::metadata(path).map_err(|e| of_disk(e, "read", path))?.len();
    if size > DOCUMENT_BYTES_MAX {
        return Err(too_large(&path.display().to_string()));
    }
    fs::read(path).map(Bytes::from).map_err(|e| of_disk(e, "read", path))
}

fn write_file(path: &Path, document: &[u8]) -> Result<()> {
    let fail = |e| of_disk(e, "write", path);
    let folder = path.parent().unwrap_or(Path::new("/"));
    create_folder(folder).map_err(fail)?;
    let mut file = fs::File::create_new(path).map_err(fail)?;
    let written = file.write_all(document).and_then(|()| file.sync_all()).and_then(|()| sync_folder(folder));
    if let Err(e) = written {
        drop(file);
        // Half a document helps nobody; failing to remove it changes nothing, its name is never used again.
        let _ = fs::remove_file(path);
        return Err(fail(e));
    }
    Ok(())
}

/// Creates a folder and those above it, each one's entry made durable in its parent.
fn create_folder(folder: &Path) -> std::io::Result<()> {
    if folder.is_dir() {
        return Ok(());
    }
    let Some(above) = folder.parent() else { return Ok(()) };
    create_folder(above)?;
    match fs::create_dir(folder) {
        Err(e) if e.kind() != Io::AlreadyExists => Err(e),
        _ => sync_folder(above),
    }
}

/// Makes a folder's entries durable.
fn sync_folder(folder: &Path) -> std::io::Result<()> {
    fs::File::open(folder)?.sync_all()
}

fn too_large(location: &str) -> Error {
    Error::new(
        ErrorKind::Corrupt,
        format!("metadata document {location} is larger than the {DOCUMENT_BYTES_MAX} bytes that one may have"),
    )
}

fn of_disk(error: std::io::Error, verb: &str, path: &Path) -> Error {
    let (kind, hint) = match error.kind() {
        Io::NotFound => (ErrorKind::NotFound, None),
        Io::AlreadyExists => (ErrorKind::Conflict, None),
        Io::PermissionDenied | Io::ReadOnlyFilesystem => {
            (ErrorKind::Denied, Some("let this user write to the warehouse folder, or choose another warehouse"))
        }
        Io::NotADirectory => (ErrorKind::Config, Some("a file stands where the warehouse needs a folder")),
        Io::StorageFull | Io::QuotaExceeded => {
            (ErrorKind::Unavailable, Some("make room on the disk; the work goes on by itself"))
        }
        _ => (ErrorKind::Unavailable, None),
    };
    let error = Error::new(kind, format!("{verb} {}", path.display())).with_source(error);
    match hint {
        Some(hint) => error.with_hint(hint),
        None => error,
    }
}

fn of_store(error: object_store::Error, place: String) -> Error {
    use object_store::Error as Store;
    let kind = match &error {
        Store::NotFound { .. } => ErrorKind::NotFound,
        Store::AlreadyExists { .. } | Store::Precondition { .. } => ErrorKind::Conflict,
        Store::PermissionDenied { .. } | Store::Unauthenticated { .. } => ErrorKind::Denied,
        Store::InvalidPath { .. } | Store::UnknownConfigurationKey { .. } => ErrorKind::Config,
        _ => ErrorKind::Unavailable,
    };
    Error::new(kind, place).with_source(error)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn documents() -> Documents {
        let store: Arc<dyn ObjectStore> = Arc::new(object_store::memory::InMemory::new());
        let resolver: Resolver = Arc::new(move |location| {
            let path =
                location.strip_prefix("memory:///").ok_or_else(|| Error::new(ErrorKind::Config, "no such store"))?;
            Ok((store.clone(), object_store::path::Path::from(path)))
        });
        Documents::new(Env::system(), resolver)
    }

    #[test]
    fn a_location_on_the_disk_is_told_from_one_in_a_store() {
        for (location, path) in [
            ("/a/b", Some("/a/b")),
            ("file:/a/b", Some("/a/b")),
            ("file:///a%20b", Some("/a%20b")),
            ("memory:///a", None),
            ("s3://b/a", None),
        ] {
            assert_eq!(local_path(location), path.map(PathBuf::from), "{location}");
        }
    }

    #[tokio::test]
    async fn a_document_is_written_once_read_back_and_deleted_on_disk_and_in_a_store() {
        let folder = tempfile::tempdir().expect("folder");
        let documents = documents();
        for location in
            [format!("file://{}/w/t/metadata/a.json", folder.path().display()), "memory:///w/a.json".to_owned()]
        {
            documents.write_new(&location, Bytes::from_static(b"one")).await.expect("new");
            let again = documents.write_new(&location, Bytes::from_static(b"two")).await.expect_err("there");
            assert_eq!(again.kind(), ErrorKind::Conflict, "{location}");
            assert_eq!(documents.read(&location).await.expect("there"), "one", "{location}");
            documents.delete(&location).await.expect("there");
            documents.delete(&location).await.expect("gone is fine");
            assert_eq!(documents.read(&location).await.expect_err("gone").kind(), ErrorKind::NotFound, "{location}");
        }
    }

    #[tokio::test]
    async fn a_file_where_a_folder_should_be_is_one_clear_sentence() {
        let folder = tempfile::tempdir().expect("folder");
        fs::write(folder.path().join("w"), "x").expect("write");
        let location = format!("{}/w/t/metadata/a.json", folder.path().display());
        let error = documents().write_new(&location, Bytes::new()).await.expect_err("no folder");
        assert_eq!(error.kind(), ErrorKind::Config);
        assert!(error.to_string().starts_with("write /") && error.hint().is_some(), "{error:?}");
    }
}
