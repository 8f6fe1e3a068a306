//! Rows to the bytes of a Parquet file: columns are encoded by themselves, and so side by side.

use std::collections::VecDeque;
use std::sync::Arc;

use arrow::datatypes::SchemaRef;
use arrow::record_batch::RecordBatch;
use bytes::Bytes;
use parquet::arrow::arrow_writer::{ArrowRowGroupWriterFactory, ArrowWriter, ArrowWriterOptions};
use parquet::errors::ParquetError;
use parquet::file::metadata::ParquetMetaData;
use parquet::file::properties::WriterProperties;
use parquet::file::writer::SerializedFileWriter;

use crate::env::Env;
use crate::error::{Context, ErrorKind, Result};
use crate::write::columns::{Column, Columns};
use crate::write::metrics::NanCounts;
use crate::write::pending;
use crate::write::shape::FileShape;

/// What a column of an open row group costs beside what its encoder counts, in bytes: measured, mostly its compressor.
const COLUMN_OVERHEAD: u64 = 22 * 1024;

/// Rows may come to so many times what they are in memory: while even then the row group is not full nobody waits to see how
/// long it is.
const ROOM: u64 = 2;

/// Bytes of the pieces in which a row group goes to storage: no longer than most pages, in whose place they come in memory. With
/// pieces of 1 MiB a row group is there twice when it is closed.
const PIECE_BYTES: usize = 64 * 1024;

/// What is encoded and storage has not: a whole row group at a time. In pieces, because one long buffer would
/// be copied as it grows, and be twice as long as what is in it.
#[derive(Debug, Default)]
struct Pieces {
    full: Vec<Bytes>,
    last: Vec<u8>,
}

impl Pieces {
    fn take(&mut self) -> Vec<Bytes> {
        let mut pieces = std::mem::take(&mut self.full);
        if !self.last.is_empty() {
            pieces.push(std::mem::take(&mut self.last).into());
        }
        pieces
    }
}

impl std::io::Write for Pieces {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        if self.last.len() >= PIECE_BYTES {
            // The first piece grows as it must, for small files; after it there will be more.
            let next = Vec::with_capacity(PIECE_BYTES);
            self.full.push(std::mem::replace(&mut self.last, next).into());
        }
        let taken = bytes.len().min(PIECE_BYTES - self.last.len());
        self.last.extend_from_slice(&bytes[..taken]);
        Ok(taken)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// A complete file: what its footer says, its NaN, the bytes that are not in storage yet, and how many it has in all.
pub(crate) struct Encoded {
    pub(crate) footer: ParquetMetaData,
    pub(crate) nans: NanCounts,
    pub(crate) ready: Vec<Bytes>,
    pub(crate) bytes: u64,
}

/// A file being encoded, one row group of it in memory.
pub(crate) struct Encoder {
    file: SerializedFileWriter<Pieces>,
    factory: ArrowRowGroupWriterFactory,
    schema: SchemaRef,
    /// For each column of `schema`: the leaves below it, and the NaN of closed row groups.
    leaves: Vec<usize>,
    nans: Vec<NanCounts>,
    /// The open row group's; none before its first row.
    columns: Option<Columns>,
    rows: usize,
    row_group_bytes: usize,
    concurrency: usize,
}

impl Encoder {
    /// An empty file of this shape and these properties, of which so many columns are encoded at a time.
    ///
    /// # Errors
    /// `Internal` when the properties do not fit the shape.
    pub(crate) fn new(shape: &FileShape, properties: WriterProperties, concurrency: usize) -> Result<Self> {
        let options = ArrowWriterOptions::new()
            .with_properties(properties)
            .with_skip_arrow_metadata(true)
            .with_parquet_schema(shape.parquet.clone());
        let writer = ArrowWriter::try_new_with_options(Pieces::default(), Arc::clone(&shape.schema), options);
        let parts = writer.and_then(ArrowWriter::into_serialized_writer);
        let (file, factory) = parts.context(ErrorKind::Internal, || "open a Parquet file")?;
        let mut leaves = vec![0; shape.schema.fields().len()];
        for leaf in 0..shape.parquet.num_columns() {
            leaves[shape.parquet.get_column_root_idx(leaf)] += 1;
        }
        Ok(Self {
            file,
            factory,
            schema: Arc::clone(&shape.schema),
            leaves,
            nans: shape.schema.fields().iter().map(|field| NanCounts::new(field)).collect(),
            columns: None,
            rows: 0,
            row_group_bytes: shape.layout.properties.row_group_bytes.max(1),
            concurrency,
        })
    }

    /// Adds rows; a row group that is full is closed.
    ///
    /// # Errors
    /// `Internal` for rows that do not fit the schema.
    pub(crate) async fn write(mut self, env: &Env, batches: Vec<RecordBatch>) -> Result<Self> {
        let mut left: VecDeque<RecordBatch> = batches.into_iter().filter(|batch| batch.num_rows() > 0).collect();
        while !left.is_empty() {
            let fits = self.next_fit(&mut left).await?;
            if fits.is_empty() {
                self = self.close_row_group(env).await?;
            } else {
                self.add(env, fits).await?;
            }
        }
        if self.bytes_in_progress() >= self.row_group_bytes { self.close_row_group(env).await } else { Ok(self) }
    }

    /// Takes as many rows of `left` as still fit into the open row group, going by how large those in it have become: at least
    /// one batch into an empty one, and nothing when it is full.
    async fn next_fit(&self, left: &mut VecDeque<RecordBatch>) -> Result<Vec<RecordBatch>> {
        let Some(columns) = &self.columns else { return Ok(left.pop_front().into_iter().collect()) };
        let coming: u64 = left.iter().map(pending::weight).sum();
        let may_become = columns.bytes() as u64 + ROOM * (columns.queued() + coming);
        if may_become < self.row_group_bytes as u64 {
            return Ok(left.drain(..).collect());
        }
        columns.idle().await?;
        let bytes = columns.bytes();
        let Some(row_bytes) = bytes.checked_div(self.rows) else { return Ok(left.pop_front().into_iter().collect()) };
        let spare = self.row_group_bytes.saturating_sub(bytes);
        let mut room = if spare == 0 { 0 } else { spare.checked_div(row_bytes).unwrap_or(usize::MAX) };
        let mut fits = Vec::new();
        while let Some(next) = left.pop_front() {
            let rows = next.num_rows();
            if rows > room {
                if room > 0 {
                    fits.push(next.slice(0, room));
                }
                left.push_front(next.slice(room, rows - room));
                break;
            }
            room -= rows;
            fits.push(next);
        }
        Ok(fits)
    }

    async fn add(&mut self, env: &Env, batches: Vec<RecordBatch>) -> Result<()> {
        self.rows += batches.iter().map(RecordBatch::num_rows).sum::<usize>();
        if self.columns.is_none() {
            let columns = self.open_row_group()?;
            self.columns = Some(Columns::new(env, &self.schema, columns, self.concurrency));
        }
        match &self.columns {
            Some(columns) => columns.push(batches).await,
            None => Ok(()),
        }
    }

    fn open_row_group(&mut self) -> Result<Vec<Column>> {
        let writers = self.factory.create_column_writers(self.file.flushed_row_groups().len());
        let mut writers = writers.context(ErrorKind::Internal, || "open a row group")?.into_iter();
        let columns = self.leaves.iter().zip(&mut self.nans).enumerate().map(|(at, (leaves, nans))| Column {
            at,
            leaves: writers.by_ref().take(*leaves).collect(),
            nans: std::mem::take(nans),
        });
        Ok(columns.collect())
    }

    async fn close_row_group(mut self, env: &Env) -> Result<Self> {
        let Some(columns) = self.columns.take() else { return Ok(self) };
        let (nans, chunks): (_, Vec<_>) = columns.close().await?.into_iter().unzip();
        let mut file = self.file;
        let append = move || -> Result<_, ParquetError> {
            let mut group = file.next_row_group()?;
            for chunk in chunks.into_iter().flatten() {
                chunk.append_to_row_group(&mut group)?;
            }
            group.close()?;
            Ok(file)
        };
        self.file = env.offload(append).await?.context(ErrorKind::Internal, || "close a row group")?;
        (self.nans, self.rows) = (nans, 0);
        Ok(self)
    }

    /// Closes the last row group and writes the footer.
    ///
    /// # Errors
    /// As [`Encoder::write`].
    pub(crate) async fn finish(mut self, env: &Env) -> Result<Encoded> {
        self = self.close_row_group(env).await?;
        let footer = self.file.finish().context(ErrorKind::Internal, || "write a footer")?;
        Ok(Encoded {
            footer,
            nans: self.nans.into_iter().sum(),
            ready: self.file.inner_mut().take(),
            bytes: self.file.bytes_written() as u64,
        })
    }

    /// Takes the bytes that are ready for storage.
    pub(crate) fn take(&mut self) -> Vec<Bytes> {
        self.file.inner_mut().take()
    }

    /// Bytes in memory, but for those that [`Encoder::take`] gives.
    pub(crate) fn memory(&self) -> u64 {
        let held = self.columns.as_ref().map_or(0, Columns::memory);
        held + self.leaves.iter().sum::<usize>() as u64 * COLUMN_OVERHEAD
    }

    /// Bytes of the file so far, those of the open row group estimated.
    pub(crate) fn bytes(&self) -> u64 {
        (self.file.bytes_written() + self.bytes_in_progress()) as u64
    }

    fn bytes_in_progress(&self) -> usize {
        self.columns.as_ref().map_or(0, Columns::bytes)
    }
}

impl std::fmt::Debug for Encoder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Encoder").field("rows", &self.rows).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
