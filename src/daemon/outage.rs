//! Trouble outside, on virtual time: a store and a catalog that fail for minutes, then come back. For tests.
#![cfg(test)]

use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use async_trait::async_trait;
use futures::StreamExt;
use futures::stream::{self, BoxStream};
use object_store::multipart::{MultipartStore, PartId};
use object_store::path::Path;
use object_store::{
    CopyOptions, GetOptions, GetResult, ListResult, MultipartId, MultipartUpload, ObjectMeta, ObjectStore,
    PutMultipartOptions, PutOptions, PutPayload, PutResult, Result as StoreResult,
};

use crate::catalog::over::catalog_over_inner;
use crate::catalog::{Catalog, CreateTable, Outcome, PreparedCommit};
use crate::env::Env;
use crate::error::{Error, ErrorKind, Result};
use crate::model::ids::TableName;
use crate::model::table::TableState;
use crate::storage::memory::MemoryStore;

/// When something is down, in milliseconds of virtual time.
#[derive(Debug, Clone)]
pub(crate) struct Outage {
    pub(crate) env: Env,
    pub(crate) down_ms: Range<i64>,
}

impl Outage {
    fn now(&self) -> bool {
        self.down_ms.contains(&self.env.now_ms())
    }
}

/// What a store that is down answers to writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Answer {
    /// The disk is full; reads still work.
    Full,
    /// Nobody is there.
    Gone,
    /// These credentials are good for nothing, reads included.
    Denied,
}

/// A store that is down for a while.
#[derive(Debug)]
pub(crate) struct FailingStore {
    pub(crate) inner: MemoryStore,
    pub(crate) outage: Outage,
    pub(crate) answer: Answer,
}

impl FailingStore {
    fn fail(&self) -> object_store::Error {
        let kind = match self.answer {
            Answer::Full => std::io::ErrorKind::StorageFull,
            Answer::Gone => std::io::ErrorKind::ConnectionReset,
            Answer::Denied => {
                return object_store::Error::PermissionDenied { path: "there".to_owned(), source: "expired".into() };
            }
        };
        object_store::Error::Generic { store: "failing", source: std::io::Error::from(kind).into() }
    }

    fn write(&self) -> StoreResult<()> {
        if self.outage.now() { Err(self.fail()) } else { Ok(()) }
    }

    fn read(&self) -> StoreResult<()> {
        if self.outage.now() && self.answer != Answer::Full { Err(self.fail()) } else { Ok(()) }
    }
}

impl fmt::Display for FailingStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("failing")
    }
}

#[async_trait]
impl ObjectStore for FailingStore {
    async fn put_opts(&self, path: &Path, payload: PutPayload, options: PutOptions) -> StoreResult<PutResult> {
        self.write()?;
        self.inner.put_opts(path, payload, options).await
    }

    async fn put_multipart_opts(
        &self,
        path: &Path,
        options: PutMultipartOptions,
    ) -> StoreResult<Box<dyn MultipartUpload>> {
        self.write()?;
        self.inner.put_multipart_opts(path, options).await
    }

    async fn get_opts(&self, path: &Path, options: GetOptions) -> StoreResult<GetResult> {
        self.read()?;
        self.inner.get_opts(path, options).await
    }

    fn delete_stream(&self, paths: BoxStream<'static, StoreResult<Path>>) -> BoxStream<'static, StoreResult<Path>> {
        match self.read() {
            Ok(()) => self.inner.delete_stream(paths),
            Err(error) => stream::iter([Err(error)]).boxed(),
        }
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, StoreResult<ObjectMeta>> {
        match self.read() {
            Ok(()) => self.inner.list(prefix),
            Err(error) => stream::iter([Err(error)]).boxed(),
        }
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> StoreResult<ListResult> {
        self.read()?;
        self.inner.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> StoreResult<()> {
        self.write()?;
        self.inner.copy_opts(from, to, options).await
    }
}

#[async_trait]
impl MultipartStore for FailingStore {
    async fn create_multipart(&self, path: &Path) -> StoreResult<MultipartId> {
        self.write()?;
        self.inner.create_multipart(path).await
    }

    async fn put_part(&self, path: &Path, id: &MultipartId, index: usize, part: PutPayload) -> StoreResult<PartId> {
        self.write()?;
        self.inner.put_part(path, id, index, part).await
    }

    async fn complete_multipart(&self, path: &Path, id: &MultipartId, parts: Vec<PartId>) -> StoreResult<PutResult> {
        self.write()?;
        self.inner.complete_multipart(path, id, parts).await
    }

    async fn abort_multipart(&self, path: &Path, id: &MultipartId) -> StoreResult<()> {
        self.write()?;
        self.inner.abort_multipart(path, id).await
    }
}

/// A catalog that nobody can connect to for a while.
#[derive(Debug)]
pub(crate) struct FailingCatalog {
    pub(crate) inner: Arc<dyn Catalog>,
    pub(crate) outage: Outage,
    /// Where set, only commits that set this table property fail.
    pub(crate) only: Option<&'static str>,
}

impl FailingCatalog {
    fn spares(&self, commit: &PreparedCommit) -> bool {
        let text = serde_json::to_string(&commit.updates).unwrap_or_default();
        self.only.is_some_and(|key| !text.contains(&format!("\"set-properties\",\"updates\":{{\"{key}\"")))
    }

    fn ask(&self) -> Result<()> {
        if self.outage.now() { Err(Error::new(ErrorKind::Unavailable, "connection refused")) } else { Ok(()) }
    }
}

catalog_over_inner! {
    FailingCatalog {
        async fn load(&self, table: &TableName) -> Result<TableState> {
            if self.only.is_none() {
                self.ask()?;
            }
            self.inner.load(table).await
        }

        async fn commit(&self, commit: &PreparedCommit) -> Outcome {
            match self.ask() {
                _ if self.spares(commit) => self.inner.commit(commit).await,
                Ok(()) => self.inner.commit(commit).await,
                Err(error) => Outcome::NotSent(error),
            }
        }

        async fn create(&self, table: &CreateTable) -> Outcome {
            match self.ask() {
                Ok(()) => self.inner.create(table).await,
                Err(error) => Outcome::NotSent(error),
            }
        }
    }
}
