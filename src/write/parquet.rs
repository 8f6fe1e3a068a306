//! One Parquet data file, from rows to the entry for a manifest.

use std::sync::Arc;

use arrow::record_batch::RecordBatch;
use bytes::Bytes;
use futures::future::BoxFuture;
use iceberg::spec::{DataContentType, DataFile, DataFileBuilder, DataFileFormat, Struct};
use parquet::arrow::async_writer::AsyncFileWriter;
use parquet::errors::ParquetError;
use parquet::file::metadata::ParquetMetaData;

use crate::env::Env;
use crate::error::{Context, Error, ErrorKind, Result};
use crate::write::encoder::Encoder;
use crate::write::metrics::{Metrics, NanCounts};
use crate::write::shape::FileShape;

/// Bytes of a file on their way to storage. Errors of ours travel in [`ParquetError::External`].
pub trait OpenFile: AsyncFileWriter {
    /// Gives an incomplete file up and removes what it left. After `complete` it does nothing.
    fn abort(&mut self) -> BoxFuture<'_, Result<()>>;
}

/// A file about to be there.
pub type Creation = BoxFuture<'static, Result<Box<dyn OpenFile>>>;

/// Where files are made and, when an epoch is discarded, removed.
#[derive(Clone)]
pub struct Files {
    /// Starts a new file at a location.
    pub create: Arc<dyn Fn(String) -> Creation + Send + Sync>,
    /// Removes complete files; what is not there is no error.
    pub remove: Arc<dyn Fn(Vec<String>) -> BoxFuture<'static, Result<()>> + Send + Sync>,
}

impl std::fmt::Debug for Files {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Files").finish_non_exhaustive()
    }
}

/// What storage said: an error of ours travels through Parquet's, its kind decides what happens next.
pub(crate) fn stored(error: ParquetError, place: String) -> Error {
    match error {
        ParquetError::External(source) => match source.downcast::<Error>() {
            Ok(own) => own.within(place),
            Err(source) => Error::new(ErrorKind::Unavailable, place).with_source(source),
        },
        other => Error::new(ErrorKind::Unavailable, place).with_source(other),
    }
}

/// A data file being written: one partition, one row group in memory.
pub(crate) struct DataFileWriter {
    shape: Arc<FileShape>,
    env: Env,
    location: String,
    partition: Struct,
    file: Box<dyn OpenFile>,
    /// Out of its place while rows are encoded; a writer whose future was dropped in that moment is lost.
    encoder: Option<Encoder>,
}

impl DataFileWriter {
    /// Starts a file at `location`; `sample` are its first rows, by which encodings are chosen. It is not written yet.
    pub(crate) async fn open(
        shape: &Arc<FileShape>,
        files: &Files,
        env: &Env,
        concurrency: usize,
        location: String,
        partition: Struct,
        sample: &RecordBatch,
    ) -> Result<Self> {
        let encoder = shape.properties(sample).and_then(|properties| Encoder::new(shape, properties, concurrency));
        let encoder = encoder.map_err(|e| e.within(format!("open {location}")))?;
        let file = (files.create)(location.clone()).await.map_err(|e| e.within(format!("create {location}")))?;
        Ok(Self { shape: Arc::clone(shape), env: env.clone(), location, partition, file, encoder: Some(encoder) })
    }

    /// Bytes in memory.
    pub(crate) fn memory(&self) -> u64 {
        self.encoder.as_ref().map_or(0, Encoder::memory)
    }

    /// Bytes the file has so far, those of the open row group estimated.
    pub(crate) fn bytes_written(&self) -> u64 {
        self.encoder.as_ref().map_or(0, Encoder::bytes)
    }

    /// Appends rows. Not cancel-safe: dropping the future loses the file.
    ///
    /// # Errors
    /// `Unavailable` when storage fails, `Internal` when rows do not fit the schema or the file was lost before.
    pub(crate) async fn write(&mut self, batches: Vec<RecordBatch>) -> Result<()> {
        let encoder = self.take()?.write(&self.env, batches).await;
        let mut encoder = encoder.map_err(|e| e.within(format!("encode {}", self.location)))?;
        let ready = encoder.take();
        self.encoder = Some(encoder);
        self.send(ready).await
    }

    /// Writes the footer and makes the file complete. `sort_order` is the order that all rows follow.
    ///
    /// # Errors
    /// As [`DataFileWriter::write`].
    pub(crate) async fn finish(&mut self, sort_order: Option<i32>) -> Result<DataFile> {
        let encoded = self.take()?.finish(&self.env).await;
        let encoded = encoded.map_err(|e| e.within(format!("encode {}", self.location)))?;
        self.send(encoded.ready).await?;
        self.file.complete().await.map_err(|e| stored(e, format!("complete {}", self.location)))?;
        let written = Written { footer: &encoded.footer, nans: &encoded.nans, bytes: encoded.bytes, sort_order };
        entry(&self.shape, self.location.clone(), self.partition.clone(), written)
    }

    /// Gives the file up.
    ///
    /// # Errors
    /// Those of storage.
    pub(crate) async fn abort(&mut self) -> Result<()> {
        self.encoder = None;
        self.file.abort().await.map_err(|e| e.within(format!("abort {}", self.location)))
    }

    fn take(&mut self) -> Result<Encoder> {
        self.encoder.take().ok_or_else(|| {
            Error::new(ErrorKind::Internal, format!("{} was lost in an interrupted write", self.location))
        })
    }

    async fn send(&mut self, ready: Vec<Bytes>) -> Result<()> {
        for piece in ready {
            let sent = self.file.write(piece).await;
            sent.map_err(|e| stored(e, format!("write {}", self.location)))?;
        }
        Ok(())
    }
}

/// A file that was written.
pub(crate) struct Written<'a> {
    pub(crate) footer: &'a ParquetMetaData,
    pub(crate) nans: &'a NanCounts,
    pub(crate) bytes: u64,
    /// The order that all rows follow.
    pub(crate) sort_order: Option<i32>,
}

/// The entry of a file of this shape for a manifest.
pub(crate) fn entry(shape: &FileShape, location: String, partition: Struct, written: Written<'_>) -> Result<DataFile> {
    let metrics = Metrics::of(written.footer, &shape.leaves, written.nans)?;
    let groups = written.footer.row_groups();
    let starts = groups.iter().map(|group| {
        let first = group.columns().iter().map(|chunk| chunk.byte_range().0).min().unwrap_or(0);
        i64::try_from(first).unwrap_or(i64::MAX)
    });
    let rows: i64 = groups.iter().map(|group| group.num_rows()).sum();
    let place = format!("entry of {location}");
    let mut builder = DataFileBuilder::default();
    builder
        .content(DataContentType::Data)
        .file_path(location)
        .file_format(DataFileFormat::Parquet)
        .partition(partition)
        .partition_spec_id(shape.layout.spec.spec_id())
        .record_count(u64::try_from(rows).unwrap_or(0))
        .file_size_in_bytes(written.bytes)
        .column_sizes(metrics.column_sizes)
        .value_counts(metrics.value_counts)
        .null_value_counts(metrics.null_value_counts)
        .nan_value_counts(metrics.nan_value_counts)
        .lower_bounds(metrics.lower_bounds)
        .upper_bounds(metrics.upper_bounds)
        .split_offsets(Some(starts.collect()));
    if let Some(order) = written.sort_order {
        builder.sort_order_id(order);
    }
    builder.build().context(ErrorKind::Internal, || place)
}

impl std::fmt::Debug for DataFileWriter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("DataFileWriter").field("location", &self.location).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
