//! One Parquet data file, from rows to the entry for a manifest.

use std::sync::Arc;

use arrow::datatypes::SchemaRef as ArrowSchemaRef;
use arrow::record_batch::RecordBatch;
use bytes::Bytes;
use futures::future::BoxFuture;
use iceberg::spec::{DataContentType, DataFile, DataFileBuilder, DataFileFormat, Struct};
use parquet::arrow::ArrowSchemaConverter;
use parquet::arrow::arrow_writer::{ArrowWriter, ArrowWriterOptions};
use parquet::arrow::async_writer::AsyncFileWriter;
use parquet::errors::ParquetError;
use parquet::file::metadata::{KeyValue, ParquetMetaData};
use parquet::file::properties::{EnabledStatistics, WriterProperties, WriterPropertiesBuilder, WriterVersion};
use parquet::schema::types::{ColumnDescPtr, SchemaDescriptor};

use crate::env::Env;
use crate::error::{Context, Error, ErrorKind, Result};
use crate::write::dictionary::dictionary_pays;
use crate::write::layout::TableLayout;
use crate::write::metrics::{Leaf, Metrics, NanCounts, STATISTICS_BYTES_MIN};
use crate::write::properties::MetricsMode;

/// What readers and people see as the writer of a file, in the form that Parquet's readers parse.
const CREATED_BY: &str = concat!("frazil version ", env!("CARGO_PKG_VERSION"), " (build parquet-rs)");

/// Bytes of a file on their way to storage. Errors of ours travel in [`ParquetError::External`].
pub trait OpenFile: AsyncFileWriter {
    /// Gives an incomplete file up and removes what it left. After `complete` it does nothing.
    fn abort(&mut self) -> BoxFuture<'_, Result<()>>;
}

/// Where files are made and, when an epoch is discarded, removed.
#[derive(Clone)]
pub struct Files {
    /// Starts a new file at a location.
    pub create: Arc<dyn Fn(String) -> BoxFuture<'static, Result<Box<dyn OpenFile>>> + Send + Sync>,
    /// Removes complete files; what is not there is no error.
    pub remove: Arc<dyn Fn(Vec<String>) -> BoxFuture<'static, Result<()>> + Send + Sync>,
}

impl std::fmt::Debug for Files {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Files").finish_non_exhaustive()
    }
}

/// What all files of one layout have in common.
#[derive(Debug)]
pub(crate) struct FileShape {
    pub(crate) layout: TableLayout,
    pub(crate) schema: ArrowSchemaRef,
    parquet: SchemaDescriptor,
    leaves: Vec<Leaf>,
    iceberg_schema: String,
}

impl FileShape {
    /// The shape of `layout`'s files.
    pub(crate) fn new(layout: TableLayout) -> Result<Self> {
        let table = layout.name.to_string();
        let schema = layout.arrow_schema()?;
        let parquet = ArrowSchemaConverter::new()
            .schema_root("table")
            .convert(&schema)
            .context(ErrorKind::Unsupported, || format!("Parquet form of table {table}"))?;
        let modes = layout.metrics_modes();
        let leaf = |column: &ColumnDescPtr| {
            let basic = column.self_type();
            let id = basic.get_basic_info().has_id().then(|| basic.get_basic_info().id());
            let field = id.and_then(|id| layout.schema.field_by_id(id)).and_then(|f| f.field_type.as_primitive_type());
            match (id, field) {
                (Some(id), Some(ty)) => Ok(Leaf {
                    id,
                    ty: ty.clone(),
                    repeated: column.max_rep_level() > 0,
                    mode: modes.get(&id).copied().unwrap_or(MetricsMode::None),
                }),
                _ => Err(Error::new(
                    ErrorKind::Internal,
                    format!("table {table}: Parquet column {} has no field id", column.path()),
                )),
            }
        };
        let leaves = parquet.columns().iter().map(leaf).collect::<Result<_>>()?;
        let iceberg_schema = serde_json::to_string(layout.schema.as_ref())
            .context(ErrorKind::Internal, || format!("schema of table {table} as JSON"))?;
        Ok(Self { layout, schema, parquet, leaves, iceberg_schema })
    }

    /// Settings of a file whose first rows are `sample`.
    fn properties(&self, sample: &RecordBatch) -> Result<WriterProperties> {
        let table = &self.layout.properties;
        let statistics_bytes = self.leaves.iter().try_fold(STATISTICS_BYTES_MIN, |most, leaf| match leaf.mode {
            MetricsMode::Full => None,
            MetricsMode::Truncate(length) => Some(most.max(length.saturating_mul(4))),
            MetricsMode::None | MetricsMode::Counts => Some(most),
        });
        let mut builder = WriterProperties::builder()
            .set_writer_version(WriterVersion::PARQUET_1_0)
            .set_created_by(CREATED_BY.to_owned())
            .set_compression(table.compression)
            .set_max_row_group_row_count(None)
            .set_max_row_group_bytes(Some(table.row_group_bytes))
            .set_data_page_size_limit(table.page_bytes)
            .set_data_page_row_count_limit(table.page_rows)
            .set_dictionary_page_size_limit(table.dictionary_bytes)
            .set_statistics_enabled(EnabledStatistics::Page)
            .set_statistics_truncate_length(statistics_bytes)
            .set_column_index_truncate_length(Some(STATISTICS_BYTES_MIN))
            .set_key_value_metadata(Some(vec![KeyValue::new(
                "iceberg.schema".to_owned(),
                self.iceberg_schema.clone(),
            )]));
        for ((column, leaf), pays) in self.parquet.columns().iter().zip(&self.leaves).zip(dictionary_pays(sample)) {
            builder = self.column_properties(builder, column, leaf, pays)?;
        }
        Ok(builder.build())
    }

    fn column_properties(
        &self,
        mut builder: WriterPropertiesBuilder,
        column: &ColumnDescPtr,
        leaf: &Leaf,
        dictionary: bool,
    ) -> Result<WriterPropertiesBuilder> {
        let table = &self.layout.properties;
        let path = || column.path().clone();
        if !dictionary {
            builder = builder.set_column_dictionary_enabled(path(), false);
        }
        let Some(name) = self.layout.schema.name_by_field_id(leaf.id) else {
            return Err(Error::new(ErrorKind::Internal, format!("field {} has no name", leaf.id)));
        };
        if table.statistics_off.contains(name) {
            builder = builder.set_column_statistics_enabled(path(), EnabledStatistics::None);
        }
        if let Some(fpp) = table.bloom_filters.get(name) {
            builder = builder
                .set_column_bloom_filter_fpp(path(), *fpp)
                .set_column_bloom_filter_ndv(path(), bloom_ndv(table.bloom_filter_bytes_max, *fpp));
        }
        Ok(builder)
    }
}

/// The number of distinct values whose filter takes at most `bytes_max`; filters are folded to what they need in the end.
fn bloom_ndv(bytes_max: usize, fpp: f64) -> u64 {
    // The size is rounded up to a power of two, so the largest one that fits is taken; a little less survives rounding.
    let bits = (1_u64 << bytes_max.max(32).ilog2()) as f64 * 8.0 * 0.999;
    let values = bits * (1.0 - fpp.powf(1.0 / 8.0)).ln() / -8.0;
    values.max(1.0) as u64
}

/// What storage said: an error of ours travels through Parquet's, its kind decides what happens next.
fn stored(error: ParquetError, place: String) -> Error {
    match error {
        ParquetError::External(source) => match source.downcast::<Error>() {
            Ok(own) => own.within(place),
            Err(source) => Error::new(ErrorKind::Unavailable, place).with_source(source),
        },
        other => Error::new(ErrorKind::Unavailable, place).with_source(other),
    }
}

type Encoder = ArrowWriter<Vec<u8>>;

/// A data file being written: one partition, one row group in memory.
pub(crate) struct DataFileWriter {
    shape: Arc<FileShape>,
    env: Env,
    location: String,
    partition: Struct,
    file: Box<dyn OpenFile>,
    /// Out of its place while a worker has it; a writer whose future was dropped in that moment is lost.
    encoder: Option<(Encoder, NanCounts)>,
    memory: u64,
    bytes: u64,
    rows: u64,
}

impl DataFileWriter {
    /// Starts a file at `location`; `sample` are its first rows, by which encodings are chosen. It is not written yet.
    pub(crate) async fn open(
        shape: &Arc<FileShape>,
        files: &Files,
        env: &Env,
        location: String,
        partition: Struct,
        sample: &RecordBatch,
    ) -> Result<Self> {
        let options = ArrowWriterOptions::new()
            .with_properties(shape.properties(sample)?)
            .with_skip_arrow_metadata(true)
            .with_parquet_schema(shape.parquet.clone());
        let encoder = ArrowWriter::try_new_with_options(Vec::new(), Arc::clone(&shape.schema), options)
            .context(ErrorKind::Internal, || format!("open {location}"))?;
        let file = (files.create)(location.clone()).await.map_err(|e| e.within(format!("create {location}")))?;
        let nans = NanCounts::new(&shape.schema);
        Ok(Self {
            shape: Arc::clone(shape),
            env: env.clone(),
            location,
            partition,
            file,
            encoder: Some((encoder, nans)),
            memory: 0,
            bytes: 0,
            rows: 0,
        })
    }

    /// Bytes in memory.
    pub(crate) fn memory(&self) -> u64 {
        self.memory
    }

    /// Bytes the file has so far, those of the open row group estimated.
    pub(crate) fn bytes_written(&self) -> u64 {
        self.bytes
    }

    /// Appends rows. Not cancel-safe: dropping the future loses the file.
    ///
    /// # Errors
    /// `Unavailable` when storage fails, `Internal` when rows do not fit the schema or the file was lost before.
    pub(crate) async fn write(&mut self, batches: Vec<RecordBatch>) -> Result<()> {
        let (mut encoder, mut nans) = self.take()?;
        let rows: usize = batches.iter().map(RecordBatch::num_rows).sum();
        let work = move || -> Result<_, ParquetError> {
            for batch in &batches {
                nans.add(batch);
                encoder.write(batch)?;
            }
            Ok((encoder, nans))
        };
        let location = &self.location;
        let (mut encoder, nans) =
            self.env.offload(work).await?.context(ErrorKind::Internal, || format!("encode {location}"))?;
        let ready = std::mem::take(encoder.inner_mut());
        self.memory = (encoder.memory_size() + ready.len()) as u64;
        self.bytes = (encoder.bytes_written() + encoder.in_progress_size()) as u64;
        self.rows += rows as u64;
        self.encoder = Some((encoder, nans));
        self.send(ready).await
    }

    /// Writes the footer and makes the file complete. `sort_order` is the order that all rows follow.
    ///
    /// # Errors
    /// As [`DataFileWriter::write`].
    pub(crate) async fn finish(&mut self, sort_order: Option<i32>) -> Result<DataFile> {
        let (mut encoder, nans) = self.take()?;
        let work = move || -> Result<_, ParquetError> {
            let footer = encoder.finish()?;
            let ready = std::mem::take(encoder.inner_mut());
            Ok((footer, ready, encoder.bytes_written()))
        };
        let location = self.location.clone();
        let (footer, ready, size) =
            self.env.offload(work).await?.context(ErrorKind::Internal, || format!("encode {location}"))?;
        self.send(ready).await?;
        self.file.complete().await.map_err(|e| stored(e, format!("complete {location}")))?;
        self.entry(&footer, &nans, size as u64, sort_order)
    }

    /// Gives the file up.
    ///
    /// # Errors
    /// Those of storage.
    pub(crate) async fn abort(&mut self) -> Result<()> {
        self.encoder = None;
        self.file.abort().await.map_err(|e| e.within(format!("abort {}", self.location)))
    }

    fn take(&mut self) -> Result<(Encoder, NanCounts)> {
        self.encoder.take().ok_or_else(|| {
            Error::new(ErrorKind::Internal, format!("{} was lost in an interrupted write", self.location))
        })
    }

    async fn send(&mut self, ready: Vec<u8>) -> Result<()> {
        if ready.is_empty() {
            return Ok(());
        }
        let sent = self.file.write(Bytes::from(ready)).await;
        sent.map_err(|e| stored(e, format!("write {}", self.location)))
    }

    fn entry(
        &self,
        footer: &ParquetMetaData,
        nans: &NanCounts,
        size: u64,
        sort_order: Option<i32>,
    ) -> Result<DataFile> {
        let metrics = Metrics::of(footer, &self.shape.leaves, nans)?;
        let starts = footer.row_groups().iter().map(|group| {
            let first = group.columns().iter().map(|chunk| chunk.byte_range().0).min().unwrap_or(0);
            i64::try_from(first).unwrap_or(i64::MAX)
        });
        let mut builder = DataFileBuilder::default();
        builder
            .content(DataContentType::Data)
            .file_path(self.location.clone())
            .file_format(DataFileFormat::Parquet)
            .partition(self.partition.clone())
            .partition_spec_id(self.shape.layout.spec.spec_id())
            .record_count(self.rows)
            .file_size_in_bytes(size)
            .column_sizes(metrics.column_sizes)
            .value_counts(metrics.value_counts)
            .null_value_counts(metrics.null_value_counts)
            .nan_value_counts(metrics.nan_value_counts)
            .lower_bounds(metrics.lower_bounds)
            .upper_bounds(metrics.upper_bounds)
            .split_offsets(Some(starts.collect()));
        if let Some(order) = sort_order {
            builder.sort_order_id(order);
        }
        builder.build().context(ErrorKind::Internal, || format!("entry of {}", self.location))
    }
}

impl std::fmt::Debug for DataFileWriter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("DataFileWriter")
            .field("location", &self.location)
            .field("rows", &self.rows)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
