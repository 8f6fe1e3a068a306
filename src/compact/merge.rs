//! Decode and merge: the rows of a group's files that no delete reaches, written by the same writer as ingest.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, Int64Array};
use arrow::compute::filter_record_batch;
use arrow::datatypes::{Field, Int64Type, Schema as ArrowSchema, SchemaRef as ArrowSchemaRef};
use arrow::record_batch::RecordBatch;
use futures::FutureExt;
use iceberg::spec::{
    DataFile, FormatVersion, Literal, NestedField, PartitionSpec, PrimitiveType, SchemaRef, Transform, Type,
};
use parquet::arrow::arrow_reader::ParquetRecordBatchReader;
use roaring::RoaringTreemap;

use crate::compact::files::{DataEntry, DeleteEntry, Partition};
use crate::compact::input::{ParquetFile, broken};
use crate::compact::masks::{Masks, Reading, Scope};
use crate::compact::project::{Constants, Projection};
use crate::compact::trail::Trail;
use crate::env::Env;
use crate::error::{Context, Error, ErrorKind, Result};
use crate::model::ids::mark_in;
use crate::model::remap::Remap;
use crate::storage::Storage;
use crate::storage::ledger::{Ledger, LedgerOwner};
use crate::write::budget::Budget;
use crate::write::layout::TableLayout;
use crate::write::metrics::field_id;
use crate::write::parquet::{Files, OpenFile};
use crate::write::properties::MetricsMode;
use crate::write::{EpochWriter, WriterOptions};

/// Row lineage (spec, "Reserved Field IDs").
const ROW_ID: (i32, &str) = (i32::MAX - 107, "_row_id");
const LAST_UPDATED: (i32, &str) = (i32::MAX - 108, "_last_updated_sequence_number");

/// The least memory that a rewrite gets by with.
pub const MEMORY_MIN: u64 = 64 << 20;
const MIB: u64 = 1 << 20;

/// Rewrites groups of one table's files.
#[derive(Debug)]
pub struct Rewriter<'a> {
    /// Time, names, and where CPU work runs.
    pub env: &'a Env,
    /// Where the files are.
    pub storage: &'a Storage,
    /// Where new files are made.
    pub files: Files,
    /// What new files look like: the table's current columns, spec and order; its target size counts.
    pub layout: TableLayout,
    /// Bytes that a rewrite may take, about; at least [`MEMORY_MIN`].
    pub memory: u64,
}

/// What is rewritten together: data files of one partition, and the deletes that reach one of them.
#[derive(Debug, Clone, Default)]
pub struct Work {
    /// Data files, in the order in which their rows go out.
    pub inputs: Vec<DataEntry>,
    /// Delete files.
    pub deletes: Vec<DeleteEntry>,
}

/// Where a rewrite's files are made: noted in the ledger under their owner before.
pub fn files_in(storage: &Storage, ledger: Option<(Ledger, LedgerOwner)>) -> Files {
    let (uploads, removal) = (storage.clone(), storage.clone());
    Files {
        create: Arc::new(move |location| {
            let (storage, ledger) = (uploads.clone(), ledger.clone());
            async move { Ok(Box::new(storage.upload(&location, ledger).await?) as Box<dyn OpenFile>) }.boxed()
        }),
        remove: Arc::new(move |locations| {
            let storage = removal.clone();
            async move { storage.delete_all(locations).await.into_iter().try_for_each(|(_, result)| result) }.boxed()
        }),
    }
}

/// The files that hold a group's rows now.
#[derive(Debug)]
pub struct Rewritten {
    /// The files.
    pub outputs: Vec<DataFile>,
    /// Rows read.
    pub rows: u64,
    /// Rows left out, because they were deleted.
    pub deleted: u64,
    /// Where the rows of each input went.
    pub remap: BTreeMap<String, Remap>,
}

/// What rows are brought into.
#[derive(Debug)]
pub(crate) struct Target {
    /// The table's columns.
    pub(crate) schema: SchemaRef,
    /// The same in Arrow, none of them required.
    pub(crate) nullable: ArrowSchemaRef,
    /// The columns of new files: the table's, and those of row lineage where it has it.
    wanted: ArrowSchemaRef,
    lineage: bool,
    layout: TableLayout,
}

impl Target {
    fn new(layout: &TableLayout) -> Result<Self> {
        let schema = Arc::clone(&layout.schema);
        let own = layout.arrow_schema()?;
        let nullable = own.fields().iter().map(|field| field.as_ref().clone().with_nullable(true));
        let nullable = Arc::new(ArrowSchema::new(nullable.collect::<Vec<Field>>()));
        let mut layout = layout.clone();
        let lineage = layout.format_version >= FormatVersion::V3;
        if lineage {
            let field = |(id, name): (i32, &str)| {
                Arc::new(NestedField::optional(id, name, Type::Primitive(PrimitiveType::Long)))
            };
            let extended = schema.as_ref().clone().into_builder().with_fields([field(ROW_ID), field(LAST_UPDATED)]);
            let extended = extended.build();
            let extended = extended.context(ErrorKind::Unsupported, || "columns with the names of row lineage")?;
            layout.schema = Arc::new(extended);
            for (_, name) in [ROW_ID, LAST_UPDATED] {
                layout.properties.metrics.columns.insert(name.to_owned(), MetricsMode::None);
            }
        }
        Ok(Self { schema, nullable, wanted: layout.arrow_schema()?, lineage, layout })
    }

    /// Whether a file with these columns lacks the one, at any depth.
    pub(crate) fn lacks(&self, file: &ArrowSchema, id: i32) -> bool {
        crate::write::partition::column_path(file, id).is_none()
    }
}

impl Rewriter<'_> {
    /// Writes the rows of `work` anew. On an error nothing stays behind, as far as the store lets.
    ///
    /// # Errors
    /// `Unsupported` for what cannot be done right, `Corrupt` and `NotFound` for files that are not what their manifest says;
    /// each names the file. Others of the store.
    pub async fn rewrite(&self, work: &Work, partitions: &[Partition], specs: &[&PartitionSpec]) -> Result<Rewritten> {
        let target = Target::new(&self.layout)?;
        let memory = self.memory.max(MEMORY_MIN);
        let reading = Reading { env: self.env, storage: self.storage, bytes_max: memory / 4 };
        if let Some(other) = work.inputs.iter().find(|input| !input.readable) {
            let what = format!("{} is no Parquet file, or is encrypted", other.location);
            return Err(Error::new(ErrorKind::Unsupported, what));
        }
        let scope = Scope { target: &target, inputs: &work.inputs, partitions, specs };
        let masks = Masks::read(reading, scope, &work.deletes).await?;
        let mut layout = target.layout.clone();
        let row_group = usize::try_from(memory / 8).unwrap_or(usize::MAX);
        layout.properties.row_group_bytes = layout.properties.row_group_bytes.min(row_group);
        let options = WriterOptions {
            open_files_max: 16,
            file_prefix: prefix(&work.inputs),
            gather_bytes_max: memory / 4,
            held_bytes_max: memory / 2,
            sort_bytes_max: (memory / 8).min(128 * MIB),
            ..WriterOptions::default()
        };
        let budget = Budget::new(memory);
        let mut trail = Trail::new(&layout, memory / 16);
        let mut writer = EpochWriter::new(layout, trail.noting(&self.files), &budget, self.env.clone(), options)?;
        let (mut rows, mut deleted) = (0, 0);
        for input in &work.inputs {
            let mut by_key = RoaringTreemap::new();
            let one = self.one(reading, scope, &masks, input, &mut writer, &mut by_key).await;
            match one {
                Ok(gone) => {
                    rows += input.rows;
                    deleted += gone;
                    trail.pass(input, masks.of(input), by_key);
                }
                Err(error) => {
                    if let Err(left) = writer.discard().await {
                        tracing::warn!(error = %left, "files of a rewrite that failed stay behind");
                    }
                    return Err(error.within(&input.location));
                }
            }
        }
        let staged = writer.finish().await?;
        if staged.rows.checked_add(deleted) != Some(rows) {
            let what = format!("{rows} rows came in, {deleted} were deleted, and {} went out", staged.rows);
            return Err(self.given_up(&staged.files, what).await);
        }
        let strays = work.inputs.first().and_then(|input| partitions.get(input.partition)).is_some_and(|partition| {
            let same = partition.spec_id == staged.spec.spec_id();
            same && staged.files.iter().any(|file| *file.partition() != partition.values)
        });
        if strays {
            let what = "rows lie in files of a partition that is not theirs".to_owned();
            return Err(self.given_up(&staged.files, what).await);
        }
        let remap = trail.remap(work, partitions, &staged.files);
        Ok(Rewritten { outputs: staged.files, rows, deleted, remap })
    }

    async fn given_up(&self, files: &[DataFile], what: String) -> Error {
        let names = files.iter().map(|file| file.file_path().to_owned()).collect();
        if let Err(left) = (self.files.remove)(names).await {
            tracing::warn!(error = %left, "files of a rewrite that failed stay behind");
        }
        Error::new(ErrorKind::Corrupt, what)
    }

    /// Writes the rows of one file; answers how many were deleted. Those that keys alone delete are noted in `by_key`.
    async fn one(
        &self,
        reading: Reading<'_>,
        scope: Scope<'_>,
        masks: &Masks,
        input: &DataEntry,
        writer: &mut EpochWriter,
        by_key: &mut RoaringTreemap,
    ) -> Result<u64> {
        let target = scope.target;
        let file = ParquetFile::open(self.storage, &input.location, input.bytes).await?;
        if file.rows() != input.rows {
            let what = format!("{} rows, its manifest says {}", file.rows(), input.rows);
            return Err(Error::new(ErrorKind::Corrupt, what));
        }
        let constants = constants(input, scope.partitions, scope.specs);
        let projection = Projection::new(file.schema(), &target.wanted, &target.layout.schema, &constants)?;
        let (mut first, mut deleted) = (0_u64, 0_u64);
        for group in 0..file.row_groups() {
            let mut reader = file.row_group(group, reading.bytes_max).await?;
            while let (Some(batch), rest) = self.next(reader, &input.location).await? {
                reader = rest;
                let batch = projection.apply(&batch, &target.layout.schema)?;
                let count = batch.num_rows() as u64;
                let batch = if target.lineage { with_lineage(&batch, input, first)? } else { batch };
                let batch = match masks.kept(input, first, &batch, by_key)? {
                    None => batch,
                    Some(kept) => {
                        filter_record_batch(&batch, &kept).context(ErrorKind::Internal, || "rows that stay")?
                    }
                };
                deleted += count - batch.num_rows() as u64;
                first += count;
                if let Some(refused) = writer.write(batch).await?.first() {
                    let what = format!("row {}, column {}: {}", refused.row, refused.field, refused.reason);
                    return Err(Error::new(ErrorKind::Corrupt, what));
                }
            }
        }
        if first != input.rows {
            return Err(Error::new(ErrorKind::Corrupt, format!("{first} rows came of {}", input.rows)));
        }
        Ok(deleted)
    }

    /// Decodes the next rows off the async threads.
    async fn next(
        &self,
        mut reader: ParquetRecordBatchReader,
        location: &str,
    ) -> Result<(Option<RecordBatch>, ParquetRecordBatchReader)> {
        let (batch, reader) = self.env.offload(move || (reader.next().transpose(), reader)).await?;
        Ok((batch.map_err(|e| broken(location, e.into()))?, reader))
    }
}

/// How names of new files begin: with the mark of the pipeline that wrote all of the old ones, if it was one.
fn prefix(inputs: &[DataEntry]) -> String {
    let mut marks = inputs.iter().map(|input| mark_in(&input.location));
    match marks.next().flatten().filter(|first| marks.all(|mark| mark == Some(*first))) {
        Some(mark) => format!("{mark}-compact"),
        None => "compact".to_owned(),
    }
}

/// Columns whose values the partition of `input` has as they are.
pub(crate) fn constants(input: &DataEntry, partitions: &[Partition], specs: &[&PartitionSpec]) -> Constants {
    let Some(partition) = partitions.get(input.partition) else { return Constants::new() };
    let spec = specs.iter().find(|spec| spec.spec_id() == partition.spec_id);
    let fields = spec.into_iter().flat_map(|spec| spec.fields()).zip(partition.values.fields());
    let identity = fields.filter(|(field, _)| field.transform == Transform::Identity);
    let value = |value: &Option<Literal>| match value {
        Some(Literal::Primitive(value)) => Some(value.clone()),
        _ => None,
    };
    identity.map(|(field, held)| (field.source_id, value(held))).collect()
}

/// The last two columns filled: each row keeps the id that it has, or gets the one that its place gives it; one without an id
/// stays without, and gets one in its new file.
fn with_lineage(batch: &RecordBatch, input: &DataEntry, first: u64) -> Result<RecordBatch> {
    let schema = batch.schema();
    let place = |(id, name): (i32, &str)| {
        let at = schema.fields().iter().position(|field| field_id(field) == Some(id));
        at.ok_or_else(|| Error::new(ErrorKind::Internal, format!("a batch without {name}")))
    };
    let (id_at, seq_at) = (place(ROW_ID)?, place(LAST_UPDATED)?);
    let (held_ids, held_seqs) =
        (batch.column(id_at).as_primitive::<Int64Type>(), batch.column(seq_at).as_primitive::<Int64Type>());
    let start = input.first_row_id.zip(i64::try_from(first).ok()).and_then(|(id, first)| id.checked_add(first));
    let given = |at: usize| start.zip(i64::try_from(at).ok()).and_then(|(start, at)| start.checked_add(at));
    let ids: Int64Array = (0..batch.num_rows())
        .map(|at| if held_ids.is_valid(at) { Some(held_ids.value(at)) } else { given(at) })
        .collect();
    let seqs: Int64Array = (0..batch.num_rows())
        .map(|at| match (held_seqs.is_valid(at), ids.is_valid(at)) {
            (true, _) => Some(held_seqs.value(at)),
            (false, true) => Some(input.seq),
            (false, false) => None,
        })
        .collect();
    let mut columns: Vec<ArrayRef> = batch.columns().to_vec();
    columns[id_at] = Arc::new(ids);
    columns[seq_at] = Arc::new(seqs);
    RecordBatch::try_new(schema, columns).context(ErrorKind::Internal, || "row lineage")
}

#[cfg(test)]
mod tests;
