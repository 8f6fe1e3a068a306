//! The rows of one input, as the table wants them and without those that deletes reach.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, Int64Array};
use arrow::compute::filter_record_batch;
use arrow::datatypes::Int64Type;
use arrow::record_batch::RecordBatch;
use iceberg::spec::{Literal, PartitionSpec, Transform};
use roaring::RoaringTreemap;

use crate::compact::files::{DataEntry, Partition};
use crate::compact::input::{ParquetFile, RowGroup};
use crate::compact::masks::{Masks, Reading, Scope};
use crate::compact::merge::{LAST_UPDATED, ROW_ID};
use crate::compact::project::{Constants, Projection};
use crate::error::{Context, Error, ErrorKind, Result};
use crate::write::metrics::field_id;

/// The rows of one input, one batch after the other.
pub(crate) struct Rows<'a> {
    reading: Reading<'a>,
    scope: Scope<'a>,
    masks: &'a Masks,
    input: &'a DataEntry,
    file: ParquetFile<'a>,
    projection: Arc<Projection>,
    /// The row group that is decoded, and which comes next.
    group: Option<RowGroup>,
    batch_bytes: u64,
    next_group: usize,
    /// Rows that came so far, and how many of them were deleted.
    passed: u64,
    deleted: u64,
    /// Rows that keys alone deleted.
    by_key: RoaringTreemap,
}

impl<'a> Rows<'a> {
    /// Opens the file of `input`, whose rows are to come in batches of so many bytes, about.
    ///
    /// # Errors
    /// As [`ParquetFile::open`]; `Corrupt` when it has not the rows that its manifest says; `Unsupported` for columns that
    /// cannot become the table's.
    pub(crate) async fn open(
        reading: Reading<'a>,
        scope: Scope<'a>,
        masks: &'a Masks,
        input: &'a DataEntry,
        batch_bytes: u64,
    ) -> Result<Self> {
        let version = masks.version(input);
        let file = ParquetFile::open_version(reading.storage, &input.location, input.bytes, version).await?;
        if file.rows() != input.rows {
            let what = format!("{} rows, its manifest says {}", file.rows(), input.rows);
            return Err(Error::new(ErrorKind::Corrupt, what));
        }
        let constants = constants(input, scope.partitions, scope.specs);
        let target = scope.target;
        let projection = Projection::new(file.schema(), &target.wanted, &target.layout.schema, &constants)?;
        Ok(Self {
            reading,
            scope,
            masks,
            input,
            file,
            projection: Arc::new(projection),
            group: None,
            batch_bytes,
            next_group: 0,
            passed: 0,
            deleted: 0,
            by_key: RoaringTreemap::new(),
        })
    }

    /// The next rows that stay; `None` after the last.
    ///
    /// # Errors
    /// Those of the store; `Corrupt` when the file is not what its footer or its manifest says.
    pub(crate) async fn next(&mut self) -> Result<Option<RecordBatch>> {
        loop {
            let mut group = match self.group.take() {
                Some(group) => group,
                None if self.next_group < self.file.row_groups() => {
                    self.next_group += 1;
                    self.file.batches(self.next_group - 1, self.reading.bytes_max, self.batch_bytes).await?
                }
                None if self.passed == self.input.rows => return Ok(None),
                None => {
                    let what = format!("{} rows came of {}", self.passed, self.input.rows);
                    return Err(Error::new(ErrorKind::Corrupt, what));
                }
            };
            let Some(batch) = group.next(self.reading.env, self.shape()).await? else { continue };
            self.group = Some(group);
            let (first, count) = (self.passed, batch.num_rows() as u64);
            let batch = match self.masks.kept(self.input, first, &batch, &mut self.by_key)? {
                None => batch,
                Some(kept) => filter_record_batch(&batch, &kept).context(ErrorKind::Internal, || "rows that stay")?,
            };
            self.passed += count;
            self.deleted += count - batch.num_rows() as u64;
            if batch.num_rows() > 0 {
                return Ok(Some(batch));
            }
        }
    }

    /// Whose rows they are.
    pub(crate) fn input(&self) -> &'a DataEntry {
        self.input
    }

    /// As [`ParquetFile::held`].
    pub(crate) fn held(&self) -> u64 {
        self.file.held()
    }

    /// How many rows were deleted, and those of them that keys alone deleted.
    pub(crate) fn deleted(self) -> (u64, RoaringTreemap) {
        (self.deleted, self.by_key)
    }

    /// What makes the next rows of the file rows of the table.
    fn shape(&self) -> impl FnOnce(RecordBatch) -> Result<RecordBatch> + Send + use<> {
        let (projection, target) = (Arc::clone(&self.projection), self.scope.target);
        let schema = Arc::clone(&target.layout.schema);
        let lineage = target.lineage.then_some(Lineage { first_row_id: self.input.first_row_id, seq: self.input.seq });
        let first = self.passed;
        move |batch| {
            let batch = projection.apply(&batch, &schema)?;
            lineage.map_or(Ok(batch.clone()), |lineage| lineage.fill(&batch, first))
        }
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

/// What the rows of a file have for ids and sequence numbers where they say none.
#[derive(Debug, Clone, Copy)]
struct Lineage {
    first_row_id: Option<i64>,
    seq: i64,
}

impl Lineage {
    /// The last two columns filled: each row keeps the id that it has, or gets the one that its place gives it; one without an id
    /// stays without, and gets one in its new file.
    fn fill(self, batch: &RecordBatch, first: u64) -> Result<RecordBatch> {
        let schema = batch.schema();
        let place = |(id, name): (i32, &str)| {
            let at = schema.fields().iter().position(|field| field_id(field) == Some(id));
            at.ok_or_else(|| Error::new(ErrorKind::Internal, format!("a batch without {name}")))
        };
        let (id_at, seq_at) = (place(ROW_ID)?, place(LAST_UPDATED)?);
        let (held_ids, held_seqs) =
            (batch.column(id_at).as_primitive::<Int64Type>(), batch.column(seq_at).as_primitive::<Int64Type>());
        let start = self.first_row_id.zip(i64::try_from(first).ok()).and_then(|(id, first)| id.checked_add(first));
        let given = |at: usize| start.zip(i64::try_from(at).ok()).and_then(|(start, at)| start.checked_add(at));
        let ids: Int64Array = (0..batch.num_rows())
            .map(|at| if held_ids.is_valid(at) { Some(held_ids.value(at)) } else { given(at) })
            .collect();
        let seqs: Int64Array = (0..batch.num_rows())
            .map(|at| match (held_seqs.is_valid(at), ids.is_valid(at)) {
                (true, _) => Some(held_seqs.value(at)),
                (false, true) => Some(self.seq),
                (false, false) => None,
            })
            .collect();
        let mut columns: Vec<ArrayRef> = batch.columns().to_vec();
        columns[id_at] = Arc::new(ids);
        columns[seq_at] = Arc::new(seqs);
        RecordBatch::try_new(schema, columns).context(ErrorKind::Internal, || "row lineage")
    }
}
