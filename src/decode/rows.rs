//! A batch's rows into columns, one after the other: what decoders do alike, whatever their rows are.

use std::collections::{BTreeMap, HashMap};
use std::hash::Hash;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

use arrow::datatypes::{Schema as ArrowSchema, SchemaRef as ArrowSchemaRef};
use iceberg::arrow::schema_to_arrow_schema;
use iceberg::spec::SchemaRef;

use crate::config::MetadataColumn;
use crate::decode::columns::{Columns, Values};
use crate::decode::fault::Fault;
use crate::decode::plan::StructPlan;
use crate::error::{Context, ErrorKind, Result};
use crate::model::batch::{Batch, RawBatch, RawRow, Reject, Stage};

/// Values that room is made for in advance; columns beyond it grow as they fill.
const CAPACITY: usize = 8192;
/// Parts of a batch in which shares are counted.
const SHARES: usize = 1024;

/// The columns of a table that rows fill: all but those of metadata.
#[derive(Debug)]
pub(crate) struct Target {
    pub(crate) plan: StructPlan,
    /// The schema of the batches.
    arrow: ArrowSchemaRef,
    room: Room,
}

impl Target {
    /// The columns of `schema`, except for those that `metadata` names.
    ///
    /// # Errors
    /// `Unsupported` when it has a column that no value can fill, such as a map with struct keys.
    pub(crate) fn new(schema: &SchemaRef, metadata: &BTreeMap<String, MetadataColumn>) -> Result<Self> {
        let plan = StructPlan::of_row(schema.as_struct().fields(), metadata.keys().cloned().collect())?;
        Ok(Self { room: Room::new(&plan), plan, arrow: arrow_of(schema, metadata)? })
    }

    /// Columns for the rows of a batch.
    pub(crate) fn columns(&self, raw: &RawBatch) -> Columns {
        self.room.columns(&self.plan, raw)
    }

    /// The batch of what was appended to them.
    pub(crate) fn batch(&self, columns: Columns, raw: &RawBatch, appended: (Vec<u32>, Vec<Reject>)) -> Batch {
        self.room.note(&columns, raw);
        columns.into_batch(&self.arrow, raw, appended.0, appended.1)
    }
}

/// How much memory the texts of a batch will need. Grown bit by bit, a text is copied on the way and holds up to twice the
/// memory that it needs.
#[derive(Debug)]
pub(crate) struct Room {
    /// For each column the bytes of texts that it took of the last batch, per [`SHARES`] bytes of it: the next one makes room
    /// for as many at once.
    shares: Vec<AtomicUsize>,
}

impl Room {
    pub(crate) fn new(plan: &StructPlan) -> Self {
        Self { shares: plan.fields.iter().map(|_| AtomicUsize::new(0)).collect() }
    }

    /// Columns of that plan for the rows of a batch.
    pub(crate) fn columns(&self, plan: &StructPlan, raw: &RawBatch) -> Columns {
        let mut columns = Columns::new(plan, raw.rows.len().min(CAPACITY));
        for (column, share) in columns.columns.iter_mut().zip(&self.shares) {
            if let Values::Text(texts) = &mut column.values {
                let room = raw.data.len() / SHARES * share.load(Ordering::Relaxed);
                texts.reserve(room + room / 32);
            }
        }
        columns
    }

    /// Notes what they took.
    pub(crate) fn note(&self, columns: &Columns, raw: &RawBatch) {
        for (column, share) in columns.columns.iter().zip(&self.shares) {
            if let Values::Text(texts) = &column.values
                && raw.data.len() >= SHARES
            {
                let taken = (texts.bytes() / (raw.data.len() / SHARES) + 1).min(SHARES);
                share.store(taken, Ordering::Relaxed);
            }
        }
    }
}

/// The schema of batches to a table's `schema`, without the columns that `metadata` names.
///
/// # Errors
/// `Unsupported` when it has no such form.
pub(crate) fn arrow_of(schema: &SchemaRef, metadata: &BTreeMap<String, MetadataColumn>) -> Result<ArrowSchemaRef> {
    let arrow =
        schema_to_arrow_schema(schema).context(ErrorKind::Unsupported, || "the table's schema has no Arrow form")?;
    let fields: Vec<_> = arrow.fields().iter().filter(|f| !metadata.contains_key(f.name())).cloned().collect();
    Ok(Arc::new(ArrowSchema::new(fields)))
}

/// What takes the rows of one batch.
pub(crate) trait Sink {
    /// Appends one row to columns of `length` values each. They may hold part of it after a fault.
    fn row(&mut self, row: RawRow, length: usize) -> Result<(), Fault>;

    /// Cuts the columns back to `length` values each.
    fn truncate(&mut self, length: usize);
}

/// Appends every row that has no fault. Answers which ones these are, and the batch's own rejects with those that were made of
/// the others: none is in neither.
#[inline]
pub(crate) fn append_all(raw: &RawBatch, sink: &mut impl Sink) -> (Vec<u32>, Vec<Reject>) {
    let mut source_rows = Vec::with_capacity(raw.rows.len());
    let mut rejects = raw.rejects.clone();
    for (index, row) in (0_u32..).zip(&raw.rows) {
        match sink.row(*row, source_rows.len()) {
            Ok(()) => source_rows.push(index),
            Err(fault) => {
                sink.truncate(source_rows.len());
                rejects.push(raw.reject(*row, Stage::Decode, fault.path.clone(), fault.reason.clone()));
            }
        }
    }
    (source_rows, rejects)
}

/// Writers' schemas laid onto a table, by what rows call them.
#[derive(Debug)]
pub(crate) struct Laid<K, F> {
    held: RwLock<HashMap<K, Arc<F>>>,
    /// How many are kept: rows may choose what they are called, and must not fill the memory with it.
    most: usize,
}

impl<K: Hash + Eq, F> Laid<K, F> {
    pub(crate) fn new(most: usize) -> Self {
        Self { held: RwLock::default(), most }
    }

    /// The one that is called so; `lay` lays it where it was not met yet.
    pub(crate) fn get(&self, key: K, lay: impl FnOnce() -> Result<F, Fault>) -> Result<Arc<F>, Fault> {
        if let Some(held) = self.held.read().unwrap_or_else(PoisonError::into_inner).get(&key) {
            return Ok(Arc::clone(held));
        }
        #[cfg(test)]
        LAYINGS.set(LAYINGS.get() + 1);
        let fitted = Arc::new(lay()?);
        let mut held = self.held.write().unwrap_or_else(PoisonError::into_inner);
        if held.len() < self.most {
            held.insert(key, Arc::clone(&fitted));
        }
        Ok(fitted)
    }
}

#[cfg(test)]
thread_local! {
    /// How often a schema was laid onto a table, by this thread.
    pub(crate) static LAYINGS: std::cell::Cell<usize> = const { std::cell::Cell::new(0) };
}
