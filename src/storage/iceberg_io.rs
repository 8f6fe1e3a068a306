//! The `iceberg` crate's way to files, over ours.

use std::ops::Range;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use futures::StreamExt;
use futures::stream::BoxStream;
use iceberg::io::{
    FileIO, FileIOBuilder, FileMetadata, FileRead, FileWrite, InputFile, OutputFile, Storage as IcebergStorage,
    StorageConfig, StorageFactory,
};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::{Storage, Upload};
use crate::error::{Error, ErrorKind};

/// Reads and writes files for the `iceberg` crate.
pub type FileIo = FileIO;

impl Storage {
    /// The same access for the `iceberg` crate.
    pub fn file_io(&self) -> FileIO {
        FileIOBuilder::new(Arc::new(Files(self.clone()))).build()
    }
}

/// Our storage under the crate's two traits.
#[derive(Debug, Clone)]
struct Files(Storage);

/// The crate wants its storages to travel as text. Ours holds connections, limits and secrets: it does not.
impl Serialize for Files {
    fn serialize<S: Serializer>(&self, _: S) -> Result<S::Ok, S::Error> {
        Err(serde::ser::Error::custom("storage lives in its process and cannot be written down"))
    }
}

impl<'de> Deserialize<'de> for Files {
    fn deserialize<D: Deserializer<'de>>(_: D) -> Result<Self, D::Error> {
        Err(serde::de::Error::custom("storage lives in its process and cannot be rebuilt from text"))
    }
}

#[typetag::serde(name = "frazil")]
impl StorageFactory for Files {
    fn build(&self, _: &StorageConfig) -> iceberg::Result<Arc<dyn IcebergStorage>> {
        Ok(Arc::new(self.clone()))
    }
}

#[async_trait]
#[typetag::serde(name = "frazil")]
impl IcebergStorage for Files {
    async fn exists(&self, path: &str) -> iceberg::Result<bool> {
        self.0.exists(path).await.map_err(foreign)
    }

    async fn metadata(&self, path: &str) -> iceberg::Result<FileMetadata> {
        self.0.size(path).await.map(|size| FileMetadata { size }).map_err(foreign)
    }

    async fn read(&self, path: &str) -> iceberg::Result<Bytes> {
        self.0.read(path).await.map_err(foreign)
    }

    async fn reader(&self, path: &str) -> iceberg::Result<Box<dyn FileRead>> {
        Ok(Box::new(Reader { storage: self.0.clone(), location: path.to_owned() }))
    }

    async fn write(&self, path: &str, bytes: Bytes) -> iceberg::Result<()> {
        self.0.write(path, bytes).await.map_err(foreign)
    }

    async fn writer(&self, path: &str) -> iceberg::Result<Box<dyn FileWrite>> {
        let upload = self.0.upload(path, None).await.map_err(foreign)?;
        Ok(Box::new(Writer(upload)))
    }

    async fn delete(&self, path: &str) -> iceberg::Result<()> {
        self.0.delete(path).await.map_err(foreign)
    }

    async fn delete_prefix(&self, path: &str) -> iceberg::Result<()> {
        let mut found = self.0.list(path, None).map(|entry| entry.map(|e| e.location)).chunks(1000);
        while let Some(chunk) = found.next().await {
            let locations = chunk.into_iter().collect::<crate::error::Result<Vec<_>>>().map_err(foreign)?;
            delete_each(&self.0, locations).await?;
        }
        Ok(())
    }

    async fn delete_stream(&self, paths: BoxStream<'static, String>) -> iceberg::Result<()> {
        let mut chunks = paths.chunks(1000);
        while let Some(chunk) = chunks.next().await {
            delete_each(&self.0, chunk).await?;
        }
        Ok(())
    }

    fn new_input(&self, path: &str) -> iceberg::Result<InputFile> {
        Ok(InputFile::new(Arc::new(self.clone()), path.to_owned()))
    }

    fn new_output(&self, path: &str) -> iceberg::Result<OutputFile> {
        Ok(OutputFile::new(Arc::new(self.clone()), path.to_owned()))
    }
}

async fn delete_each(storage: &Storage, locations: Vec<String>) -> iceberg::Result<()> {
    match storage.delete_all(locations).await.into_iter().find_map(|(_, answer)| answer.err()) {
        Some(error) => Err(foreign(error)),
        None => Ok(()),
    }
}

struct Reader {
    storage: Storage,
    location: String,
}

#[async_trait]
impl FileRead for Reader {
    async fn read(&self, range: Range<u64>) -> iceberg::Result<Bytes> {
        self.storage.read_range(&self.location, range).await.map_err(foreign)
    }
}

struct Writer(Upload);

#[async_trait]
impl FileWrite for Writer {
    async fn write(&mut self, bytes: Bytes) -> iceberg::Result<()> {
        self.0.write(bytes).await.map_err(foreign)
    }

    async fn close(&mut self) -> iceberg::Result<()> {
        self.0.finish().await.map(|_| ()).map_err(foreign)
    }
}

/// Our error in the crate's clothes; the original is its source.
fn foreign(error: Error) -> iceberg::Error {
    let kind = match error.kind() {
        ErrorKind::Corrupt | ErrorKind::Config => iceberg::ErrorKind::DataInvalid,
        ErrorKind::Unsupported => iceberg::ErrorKind::FeatureUnsupported,
        _ => iceberg::ErrorKind::Unexpected,
    };
    let retryable = error.kind() == ErrorKind::Unavailable;
    iceberg::Error::new(kind, error.to_string()).with_retryable(retryable).with_source(error)
}

#[cfg(test)]
mod tests;
