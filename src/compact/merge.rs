//! Decode and merge, where pages are not copied: the rows of a group's files that no delete reaches, written by the same writer as ingest.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::datatypes::{Field, Schema as ArrowSchema, SchemaRef as ArrowSchemaRef};
use arrow::record_batch::RecordBatch;
use futures::FutureExt;
use iceberg::spec::{DataFile, FormatVersion, NestedField, PartitionSpec, PrimitiveType, SchemaRef, Type};
use tokio::sync::mpsc;

use crate::compact::files::{DataEntry, DeleteEntry, Partition};
use crate::compact::masks::{Masks, Reading, Scope};
use crate::compact::pass::{Batch, Pass};
use crate::compact::sorted::Output;
use crate::compact::trail::Trail;
use crate::env::Env;
use crate::error::{Context, Error, ErrorKind, Result};
use crate::model::ids::mark_in;
use crate::model::remap::Remap;
use crate::storage::Storage;
use crate::storage::ledger::{Ledger, LedgerOwner};
use crate::write::budget::Budget;
use crate::write::layout::TableLayout;
use crate::write::open_files::OpenFiles;
use crate::write::parquet::{Files, OpenFile};
use crate::write::properties::MetricsMode;
use crate::write::{EpochWriter, WriterOptions};

/// Row lineage (spec, "Reserved Field IDs").
pub(crate) const ROW_ID: (i32, &str) = (i32::MAX - 107, "_row_id");
pub(crate) const LAST_UPDATED: (i32, &str) = (i32::MAX - 108, "_last_updated_sequence_number");

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
    /// Columns encoded at a time.
    pub cores: usize,
    /// Whether pages may be copied as they are encoded.
    pub splice: bool,
}

/// How the rows of a group come into new files.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rung {
    /// Their pages are copied.
    Splice,
    /// They are decoded and encoded.
    Merge,
}

impl Rung {
    /// Its name, in reports and metrics.
    pub fn name(self) -> &'static str {
        match self {
            Self::Splice => "splice",
            Self::Merge => "merge",
        }
    }
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
    /// How they went there.
    pub rung: Rung,
}

/// What rows are brought into.
#[derive(Debug)]
pub(crate) struct Target {
    /// The table's columns.
    pub(crate) schema: SchemaRef,
    /// The same in Arrow, none of them required.
    pub(crate) nullable: ArrowSchemaRef,
    /// The columns of new files: the table's, and those of row lineage where it has it.
    pub(crate) wanted: ArrowSchemaRef,
    pub(crate) lineage: bool,
    pub(crate) layout: TableLayout,
}

impl Target {
    pub(crate) fn new(layout: &TableLayout) -> Result<Self> {
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
        let mut trail = Trail::new(&target.layout, memory / 16);
        let pass = Pass { reading, scope, masks: &masks, memory };
        let spec = |input: &DataEntry| partitions.get(input.partition).map(|partition| partition.spec_id);
        let one = work.inputs.windows(2).all(|pair| pair[0].partition == pair[1].partition)
            && work.inputs.iter().all(|input| spec(input) == Some(target.layout.spec.spec_id()));
        let reached = |deletes: &DeleteEntry| work.inputs.iter().any(|input| deletes.reaches(input, partitions));
        let copied = if self.splice && one && !work.deletes.iter().any(reached) {
            self.spliced(pass, &mut trail).boxed().await?
        } else {
            None
        };
        let rung = if copied.is_some() { Rung::Splice } else { Rung::Merge };
        let (files, deleted) = match copied {
            Some(files) => (files, 0),
            None => {
                trail = Trail::new(&target.layout, memory / 16);
                self.pass(pass, &mut trail).boxed().await?
            }
        };
        let rows: u64 = work.inputs.iter().map(|input| input.rows).sum();
        let out: u64 = files.iter().map(DataFile::record_count).sum();
        if out.checked_add(deleted) != Some(rows) {
            let what = format!("{rows} rows came in, {deleted} were deleted, and {out} went out");
            return Err(self.given_up(&files, what).await);
        }
        let strays = work.inputs.first().and_then(|input| partitions.get(input.partition)).is_some_and(|partition| {
            let same = partition.spec_id == target.layout.spec.spec_id();
            same && files.iter().any(|file| *file.partition() != partition.values)
        });
        if strays {
            let what = "rows lie in files of a partition that is not theirs".to_owned();
            return Err(self.given_up(&files, what).await);
        }
        let remap = trail.remap(work, partitions, &files);
        Ok(Rewritten { outputs: files, rows, deleted, remap, rung })
    }

    /// Writes all rows, in the table's sort order where it has one. Answers the files, and how many rows were deleted.
    async fn pass(&self, pass: Pass<'_>, trail: &mut Trail) -> Result<(Vec<DataFile>, u64)> {
        if pass.scope.target.layout.sort_order.is_unsorted() {
            return self.in_turn(pass, trail, Output::Files).await;
        }
        if let Some(ordered) = pass.ordered().await? {
            let (decoded, batches) = mpsc::channel(pass.ahead());
            let writer = self.writer(pass, trail, Output::Sorted)?;
            if let Some(done) = write_all(writer, batches, pass.in_order(ordered, decoded, trail)).await? {
                return Ok(done);
            }
        }
        self.sorted(pass, trail).await
    }

    pub(crate) fn writer(&self, pass: Pass<'_>, trail: &Trail, output: Output) -> Result<EpochWriter> {
        let (memory, mut layout) = (pass.memory, pass.scope.target.layout.clone());
        output.shape(&mut layout, memory);
        let options = WriterOptions {
            open_files: OpenFiles::of_one(16),
            file_prefix: prefix(pass.scope.inputs),
            gather_bytes_max: memory / 4,
            held_bytes_max: memory / 2,
            sort_bytes_max: Self::sort_bytes(memory),
            presorted: matches!(output, Output::Sorted | Output::Merged),
            a_file_per_run: output == Output::Runs,
            column_concurrency: self.cores,
            ..WriterOptions::default()
        };
        EpochWriter::new(layout, trail.noting(&self.files), &Budget::new(memory), self.env.clone(), options)
    }

    /// Bytes of rows that are sorted in memory.
    pub(crate) fn sort_bytes(memory: u64) -> u64 {
        (memory / 8).min(128 * MIB)
    }

    async fn given_up(&self, files: &[DataFile], what: String) -> Error {
        self.remove(files.iter().map(|file| file.file_path().to_owned()).collect()).await;
        Error::new(ErrorKind::Corrupt, what)
    }
}

/// Writes what `passing` sends, and completes the files. Gives them up when it answers nothing.
pub(crate) async fn write_all<'a, T>(
    mut writer: EpochWriter,
    mut batches: mpsc::Receiver<Batch<'a>>,
    passing: impl Future<Output = Result<Option<T>>>,
) -> Result<Option<(Vec<DataFile>, T)>> {
    let rows = &mut writer;
    let writing = async move {
        while let Some((input, batch)) = batches.recv().await {
            write(rows, batch).await.map_err(|e| e.within(&input.location))?;
        }
        Ok(())
    };
    let (passed, written) = futures::join!(passing, writing);
    match written.and(passed) {
        Ok(Some(passed)) => Ok(Some((writer.finish().await?.files, passed))),
        given_up => {
            if let Err(left) = writer.discard().await {
                tracing::warn!(error = %left, "files of a rewrite that was given up stay behind");
            }
            given_up.map(|_| None)
        }
    }
}

/// Writes rows that are known to have a place in the table.
async fn write(writer: &mut EpochWriter, batch: RecordBatch) -> Result<()> {
    match writer.write(batch).await?.first() {
        None => Ok(()),
        Some(refused) => {
            let what = format!("row {}, column {}: {}", refused.row, refused.field, refused.reason);
            Err(Error::new(ErrorKind::Corrupt, what))
        }
    }
}

/// How names of new files begin: with the mark of the pipeline that wrote all of the old ones, if it was one.
pub(crate) fn prefix(inputs: &[DataEntry]) -> String {
    let mut marks = inputs.iter().map(|input| mark_in(&input.location));
    match marks.next().flatten().filter(|first| marks.all(|mark| mark == Some(*first))) {
        Some(mark) => format!("{mark}-compact"),
        None => "compact".to_owned(),
    }
}

#[cfg(test)]
pub(super) mod tests;
