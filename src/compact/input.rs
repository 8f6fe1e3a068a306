//! A Parquet file, one row group at a time: what is fetched is decoded off the async threads, batch by batch. Pages that carry a
//! checksum are held against it.

use std::sync::Arc;

use arrow::datatypes::SchemaRef;
use arrow::record_batch::{RecordBatch, RecordBatchReader};
use bytes::{Buf, Bytes};
use parquet::arrow::ProjectionMask;
use parquet::arrow::arrow_reader::{
    ArrowReaderMetadata, ArrowReaderOptions, ParquetRecordBatchReader, ParquetRecordBatchReaderBuilder,
};
use parquet::basic::{Compression, Type as PhysicalType};
use parquet::errors::ParquetError;
use parquet::file::metadata::{PageIndexPolicy, ParquetMetaData, ParquetMetaDataReader};
use parquet::file::reader::{ChunkReader, Length};

use crate::env::Env;
use crate::error::{Error, ErrorKind, Result};
use crate::storage::{Storage, Version};
use crate::write::partition::column_path;

/// Files up to this size are fetched by one request.
pub(crate) const WHOLE_MAX: u64 = 8 << 20;
/// What is read at first of a larger file's end.
const TAIL: u64 = 64 << 10;
/// The largest footer that is read.
const FOOTER_MAX: u64 = 256 << 20;
/// Bytes of an unpacked page with its dictionary, where the writer keeps to the usual limits.
const PAGE_BYTES: u64 = 2 << 20;
/// Rows decoded at a time: at most so many, and fewer where they are so large that these bytes are reached.
const BATCH_ROWS: usize = 8192;
pub(crate) const BATCH_BYTES: u64 = 16 << 20;

/// Pieces of a file, by where they begin.
#[derive(Debug, Clone)]
struct Fetched {
    size: u64,
    pieces: Vec<(u64, Bytes)>,
}

impl Length for Fetched {
    fn len(&self) -> u64 {
        self.size
    }
}

impl ChunkReader for Fetched {
    type T = bytes::buf::Reader<Bytes>;

    fn get_read(&self, start: u64) -> Result<Self::T, ParquetError> {
        Ok(self.from(start)?.reader())
    }

    fn get_bytes(&self, start: u64, length: usize) -> Result<Bytes, ParquetError> {
        let piece = self.from(start)?;
        if length > piece.len() {
            return Err(ParquetError::EOF(format!("{length} bytes at {start} go beyond what they belong to")));
        }
        Ok(piece.slice(..length))
    }
}

impl Fetched {
    fn from(&self, start: u64) -> Result<Bytes, ParquetError> {
        let within = |(at, bytes): &&(u64, Bytes)| start >= *at && start - *at <= bytes.len() as u64;
        let found = self.pieces.iter().filter(within).max_by_key(|(at, bytes)| *at + bytes.len() as u64);
        let found = found.and_then(|(at, bytes)| Some(bytes.slice(usize::try_from(start - at).ok()?..)));
        found.ok_or_else(|| ParquetError::General(format!("byte {start} was not fetched")))
    }
}

/// A Parquet file whose footer was read.
pub(crate) struct ParquetFile<'a> {
    storage: &'a Storage,
    location: &'a str,
    fetched: Fetched,
    metadata: ArrowReaderMetadata,
    version: Version,
}

impl<'a> ParquetFile<'a> {
    /// Reads the footer of a file of `size` bytes.
    ///
    /// # Errors
    /// `NotFound`, `Unavailable` and others of the store; `Corrupt` when it is no Parquet file or has another size;
    /// `Unsupported` when it is encrypted, and with the column when that is of a form or a codec that is not read.
    pub(crate) async fn open(storage: &'a Storage, location: &'a str, size: u64) -> Result<Self> {
        Self::open_version(storage, location, size, Version::default()).await
    }

    /// The same of a file that was read before, as it was then.
    ///
    /// # Errors
    /// As [`ParquetFile::open`], and `Corrupt` when it was replaced since.
    pub(crate) async fn open_version(
        storage: &'a Storage,
        location: &'a str,
        size: u64,
        mut version: Version,
    ) -> Result<Self> {
        let corrupt = |what: String| Error::new(ErrorKind::Corrupt, format!("{location}: {what}"));
        let start = if size <= WHOLE_MAX { 0 } else { size - TAIL };
        let end = (start > 0).then_some(start..size);
        let mut tail = storage.read_version(location, end, &mut version).await?;
        if tail.len() as u64 != size - start {
            return Err(corrupt(format!("{} bytes, its manifest says {size}", tail.len())));
        }
        let mark =
            tail.len().checked_sub(8).map(|at| tail.slice(at..)).ok_or_else(|| corrupt("too short".to_owned()))?;
        if mark.ends_with(b"PARE") {
            return Err(Error::new(ErrorKind::Unsupported, format!("{location} is encrypted")));
        }
        if !mark.ends_with(b"PAR1") {
            return Err(corrupt("it is no Parquet file".to_owned()));
        }
        let footer = u64::from(mark.clone().get_u32_le()) + 8;
        if footer > size || footer > FOOTER_MAX {
            return Err(corrupt(format!("a footer of {footer} bytes")));
        }
        let mut start = start;
        if footer > tail.len() as u64 {
            start = size - footer;
            tail = storage.read_version(location, Some(start..size), &mut version).await?;
        }
        let fetched = Fetched { size, pieces: vec![(start, tail)] };
        let options = ArrowReaderOptions::new().with_skip_arrow_metadata(true);
        let metadata = ArrowReaderMetadata::load(&fetched, options).map_err(|e| broken(location, e))?;
        check(location, &metadata)?;
        Ok(Self { storage, location, fetched, metadata, version })
    }

    /// Which content of the file this is.
    pub(crate) fn version(&self) -> &Version {
        &self.version
    }

    /// Its columns.
    pub(crate) fn schema(&self) -> &SchemaRef {
        self.metadata.schema()
    }

    /// Its rows.
    pub(crate) fn rows(&self) -> u64 {
        u64::try_from(self.metadata.metadata().file_metadata().num_rows()).unwrap_or(0)
    }

    /// How many row groups it has.
    pub(crate) fn row_groups(&self) -> usize {
        self.metadata.metadata().num_row_groups()
    }

    /// Fetches a row group; what comes back decodes it.
    ///
    /// # Errors
    /// As [`ParquetFile::open`]; `Unsupported` when it is larger than `bytes_max`.
    pub(crate) async fn row_group(&self, at: usize, bytes_max: u64) -> Result<RowGroup> {
        self.batches(at, bytes_max, BATCH_BYTES).await
    }

    /// As [`ParquetFile::row_group`], in batches of so many bytes, about.
    pub(crate) async fn batches(&self, at: usize, bytes_max: u64, batch_bytes: u64) -> Result<RowGroup> {
        self.fetch(at, bytes_max, batch_bytes, ProjectionMask::all()).await
    }

    /// What its footer says.
    pub(crate) fn footer(&self) -> &ParquetMetaData {
        self.metadata.metadata()
    }

    /// The same with the indexes of its pages, where it has any.
    ///
    /// # Errors
    /// Those of the store.
    pub(crate) async fn indexed(&self) -> Result<ParquetMetaData> {
        let footer = self.metadata.metadata().as_ref().clone();
        let chunks = footer.row_groups().iter().flat_map(|group| group.columns());
        let ranges = chunks.flat_map(|chunk| {
            let range = |at: Option<i64>, length: Option<i32>| {
                let at = u64::try_from(at?).ok()?;
                Some((at, at.saturating_add(u64::try_from(length?).ok()?)))
            };
            let columns = range(chunk.column_index_offset(), chunk.column_index_length());
            [columns, range(chunk.offset_index_offset(), chunk.offset_index_length())].into_iter().flatten()
        });
        let (start, end) = ranges.fold((u64::MAX, 0), |(start, end), (at, to)| (start.min(at), end.max(to)));
        if start >= end || end > self.fetched.size || end - start > FOOTER_MAX {
            return Ok(footer);
        }
        let mut fetched = self.fetched.clone();
        if !fetched.pieces.iter().any(|(at, piece)| *at <= start && end <= *at + piece.len() as u64) {
            let piece = self.storage.read_version(self.location, Some(start..end), &mut self.version.clone()).await?;
            fetched.pieces.push((start, piece));
        }
        let mut reader =
            ParquetMetaDataReader::new_with_metadata(footer.clone()).with_page_index_policy(PageIndexPolicy::Optional);
        // An index that cannot be read is none.
        Ok(reader.read_page_indexes(&fetched).and_then(|()| reader.finish()).unwrap_or(footer))
    }

    /// The bytes of each column chunk of a row group, of those columns that `wanted` names.
    ///
    /// # Errors
    /// As [`ParquetFile::row_group`].
    pub(crate) async fn chunks(&self, at: usize, bytes_max: u64, wanted: &[usize]) -> Result<Vec<Bytes>> {
        let group = self.metadata.metadata().row_group(at);
        let mask = ProjectionMask::leaves(self.metadata.parquet_schema(), wanted.iter().copied());
        let fetched = self.fetched_group(at, bytes_max, &mask).await?;
        let chunk = |leaf: &usize| {
            let (start, length) = group.column(*leaf).byte_range();
            let length = usize::try_from(length).unwrap_or(usize::MAX);
            fetched.get_bytes(start, length).map_err(|e| broken(self.location, e))
        };
        wanted.iter().map(chunk).collect()
    }

    /// Bytes that decoding it takes at a time, about: the file or its largest row group, and a page of each column.
    pub(crate) fn held(&self) -> u64 {
        let here: u64 = self.fetched.pieces.iter().map(|(_, piece)| piece.len() as u64).sum();
        let whole = here == self.fetched.size;
        let most = self.metadata.metadata().row_groups().iter().map(|group| {
            let bytes = |bytes: i64| u64::try_from(bytes).unwrap_or(u64::MAX);
            let pages = bytes(group.total_byte_size()).min(group.columns().len() as u64 * PAGE_BYTES);
            pages.saturating_add(if whole { 0 } else { bytes(group.compressed_size()) })
        });
        most.max().unwrap_or(0).saturating_add(here)
    }

    /// As [`ParquetFile::row_group`], of the columns alone that have or hold these field ids; none for those that it lacks.
    pub(crate) async fn columns(&self, at: usize, bytes_max: u64, ids: &[i32]) -> Result<RowGroup> {
        let roots = ids.iter().filter_map(|id| column_path(self.schema(), *id)?.first().copied());
        self.fetch(at, bytes_max, BATCH_BYTES, ProjectionMask::roots(self.metadata.parquet_schema(), roots)).await
    }

    async fn fetch(&self, at: usize, bytes_max: u64, batch_bytes: u64, wanted: ProjectionMask) -> Result<RowGroup> {
        let fetched = self.fetched_group(at, bytes_max, &wanted).await?;
        let group = self.metadata.metadata().row_group(at);
        let row = self.unpacked(at, &wanted) / u64::try_from(group.num_rows()).unwrap_or(1).max(1);
        let batch_rows = usize::try_from(batch_bytes / row.max(1)).unwrap_or(usize::MAX).clamp(1, BATCH_ROWS);
        let location = self.location.to_owned();
        let chunks = Chunks { location, fetched, metadata: self.metadata.clone(), at, wanted, batch_rows };
        let reader = chunks.reader(chunks.wanted.clone()).map_err(|e| chunks.broken(e))?;
        Ok(RowGroup { chunks: Arc::new(chunks), schema: reader.schema(), reader: Some(reader) })
    }

    /// Bytes that the wanted columns of a row group unpack to, about.
    fn unpacked(&self, at: usize, wanted: &ProjectionMask) -> u64 {
        let chunks = self.metadata.metadata().row_group(at).columns().iter().enumerate();
        // A dictionary's texts are as many in memory as there are rows: some writers say what they come to.
        chunks
            .filter(|(leaf, _)| wanted.leaf_included(*leaf))
            .map(|(_, chunk)| chunk.uncompressed_size().max(chunk.unencoded_byte_array_data_bytes().unwrap_or(0)))
            .fold(0_u64, |sum, bytes| sum.saturating_add(u64::try_from(bytes).unwrap_or(u64::MAX)))
    }

    /// The file with the wanted columns of a row group.
    async fn fetched_group(&self, at: usize, bytes_max: u64, wanted: &ProjectionMask) -> Result<Fetched> {
        let group = self.metadata.metadata().row_group(at);
        let wanted_chunks = group.columns().iter().enumerate().filter(|(leaf, _)| wanted.leaf_included(*leaf));
        let ranges = wanted_chunks.map(|(_, chunk)| chunk.byte_range());
        let (start, end) = ranges
            .fold((u64::MAX, 0), |(start, end), (at, length)| (start.min(at), end.max(at.saturating_add(length))));
        let bytes = end.saturating_sub(start);
        if bytes > bytes_max {
            let unpacked = self.unpacked(at, wanted);
            return Err(Error::new(
                ErrorKind::Unsupported,
                format!(
                    "{}: a row group of {bytes} bytes ({unpacked} unpacked) does not fit into memory",
                    self.location
                ),
            )
            .with_hint("allow more with --max-memory"));
        }
        let mut fetched = self.fetched.clone();
        let held = |(at, piece): &(u64, Bytes)| *at <= start && end <= at.saturating_add(piece.len() as u64);
        if start < end && !fetched.pieces.iter().any(held) {
            if end > fetched.size {
                return Err(Error::new(
                    ErrorKind::Corrupt,
                    format!("{}: a column ends beyond the file", self.location),
                ));
            }
            let piece = self.storage.read_version(self.location, Some(start..end), &mut self.version.clone()).await?;
            fetched.pieces = vec![(start, piece)];
        }
        Ok(fetched)
    }
}

/// A row group that was fetched. It is decoded as it is asked for: no more than one batch is held.
pub(crate) struct RowGroup {
    chunks: Arc<Chunks>,
    schema: SchemaRef,
    reader: Option<ParquetRecordBatchReader>,
}

/// What was fetched of a row group, and how it is read.
struct Chunks {
    location: String,
    fetched: Fetched,
    metadata: ArrowReaderMetadata,
    at: usize,
    wanted: ProjectionMask,
    batch_rows: usize,
}

impl RowGroup {
    /// The columns that are decoded.
    pub(crate) fn schema(&self) -> &SchemaRef {
        &self.schema
    }

    /// What `work` makes of the next rows, both off the async threads; `None` after the last.
    ///
    /// # Errors
    /// `Corrupt` with file and column when they cannot be decoded, `Unsupported` when they are encoded in a way that is not
    /// known; those of `work`.
    pub(crate) async fn next<T: Send + 'static>(
        &mut self,
        env: &Env,
        work: impl FnOnce(RecordBatch) -> Result<T> + Send + 'static,
    ) -> Result<Option<T>> {
        let Some(mut reader) = self.reader.take() else { return Ok(None) };
        let chunks = Arc::clone(&self.chunks);
        let decode = move || match reader.next() {
            None => Ok(None),
            Some(Ok(batch)) => Ok(Some((work(batch)?, reader))),
            Some(Err(error)) => Err(chunks.broken(error.into())),
        };
        let Some((made, reader)) = env.offload(decode).await?? else { return Ok(None) };
        self.reader = Some(reader);
        Ok(Some(made))
    }
}

impl Chunks {
    fn reader(&self, wanted: ProjectionMask) -> Result<ParquetRecordBatchReader, ParquetError> {
        ParquetRecordBatchReaderBuilder::new_with_metadata(self.fetched.clone(), self.metadata.clone())
            .with_batch_size(self.batch_rows)
            .with_row_groups(vec![self.at])
            .with_projection(wanted)
            .build()
    }

    /// The error, with the first column that cannot be decoded by itself: the error does not say which it was.
    fn broken(&self, error: ParquetError) -> Error {
        let schema = self.metadata.parquet_schema();
        let mut leaves = (0..schema.num_columns()).filter(|leaf| self.wanted.leaf_included(*leaf));
        let breaks = |leaf: &usize| match self.reader(ProjectionMask::leaves(schema, [*leaf])) {
            Ok(mut reader) => reader.any(|batch| batch.is_err()),
            Err(_) => true,
        };
        let error = broken(&self.location, error);
        match leaves.find(breaks) {
            Some(leaf) => error.within(format!("column {}", schema.column(leaf).path())),
            None => error,
        }
    }
}

/// That its columns are of forms and codecs that are read.
fn check(location: &str, metadata: &ArrowReaderMetadata) -> Result<()> {
    let unsupported = |what: String| Error::new(ErrorKind::Unsupported, format!("{location}: {what}"));
    let columns = metadata.parquet_schema().columns();
    if let Some(column) = columns.iter().find(|column| column.physical_type() == PhysicalType::INT96) {
        return Err(unsupported(format!("column {} has timestamps of the form INT96", column.path())));
    }
    let mut chunks = metadata.metadata().row_groups().iter().flat_map(|group| group.columns());
    match chunks.find(|chunk| chunk.compression() == Compression::LZO) {
        Some(chunk) => {
            let what = format!("column {} is compressed by LZO, which is not read", chunk.column_path());
            Err(unsupported(what).with_hint("let the engine that wrote it write it anew, by another codec"))
        }
        None => Ok(()),
    }
}

/// What a Parquet error means for the file.
fn broken(location: &str, error: ParquetError) -> Error {
    // Where a page is decoded, an error comes as text.
    let text = match &error {
        ParquetError::External(inner) => inner.to_string(),
        error => error.to_string(),
    };
    let new = ["NYI: ", "Unexpected CompressionCodec"].iter().any(|word| text.contains(word));
    let kind = if new { ErrorKind::Unsupported } else { ErrorKind::Corrupt };
    Error::new(kind, format!("{location} cannot be read")).with_source(text)
}

impl std::fmt::Debug for RowGroup {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RowGroup").field("location", &self.chunks.location).finish_non_exhaustive()
    }
}

impl std::fmt::Debug for ParquetFile<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ParquetFile").field("location", &self.location).finish_non_exhaustive()
    }
}

#[cfg(test)]
pub(crate) mod tests;
