//! Avro rows to columns: one datum a row, of a configured schema or of the one that the row names by its id.
//!
//! A writer's schema is laid onto a table's columns once (`avro_fit`), then rows are read straight into them (`avro_fill`).
//! What becomes of each type is in `avro_columns`, and in docs/decoders.md.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Arc, PoisonError, RwLock};

use arrow::datatypes::{Schema as ArrowSchema, SchemaRef as ArrowSchemaRef};
use iceberg::arrow::schema_to_arrow_schema;
use iceberg::spec::{Schema, SchemaRef};

pub use crate::decode::avro_schema::WriterSchema;

use crate::config::{MetadataColumn, OnChange};
use crate::decode::avro_columns;
use crate::decode::avro_cursor::Cursor;
use crate::decode::avro_fill::Filler;
use crate::decode::avro_fit::{Fitted, Terms, fit};
use crate::decode::columns::Columns;
use crate::decode::fault::Fault;
use crate::decode::growth::{Growth, GrowthLimits, GrowthOrder};
use crate::decode::observe::Observed;
use crate::decode::plan::StructPlan;
use crate::decode::temporal::Epoch;
use crate::decode::writers::{Framed, Writers};
use crate::error::{Context, ErrorKind, Result};
use crate::model::batch::{Batch, RawBatch, RawRow, Stage};

/// Values that room is made for in advance; columns beyond it grow as they fill.
const CAPACITY: usize = 8192;

/// How Avro is read.
#[derive(Debug, Clone)]
pub struct AvroOptions {
    /// What fields without a column and values that do not fit do.
    pub on_change: OnChange,
    /// What plain numbers in timestamp columns count.
    pub epoch: Epoch,
    /// Columns that are not read from the rows. A field of the same name is one that cannot be added.
    pub metadata: BTreeMap<String, MetadataColumn>,
    /// Whether the table may have columns of nanoseconds: from version 3 on.
    pub nanos: bool,
}

impl Default for AvroOptions {
    fn default() -> Self {
        Self { on_change: OnChange::Evolve, epoch: Epoch::default(), metadata: BTreeMap::new(), nanos: false }
    }
}

/// Decodes one Avro record per row to the columns of one table schema.
#[derive(Debug)]
pub struct AvroDecoder {
    plan: StructPlan,
    arrow: ArrowSchemaRef,
    on_change: OnChange,
    terms: Terms,
    writers: Writers,
    /// Writers' schemas laid onto this table's, by id; `None`: the configured one.
    fitted: RwLock<HashMap<Option<u32>, Arc<Fitted>>>,
}

impl std::fmt::Debug for Fitted {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Fitted").field("needs", &self.needs).finish_non_exhaustive()
    }
}

/// A schema laid onto the table's, or why its rows cannot be read.
type Lookup = Result<Arc<Fitted>, Fault>;

/// One batch on its way.
struct Run<'a> {
    filler: Filler,
    columns: Columns,
    /// The last row's schema: mostly that of the next one.
    last: Option<(Option<u32>, Lookup)>,
    /// Schemas whose needs are noted.
    noted: BTreeSet<Option<u32>>,
    observed: Observed,
    raw: &'a RawBatch,
}

impl AvroDecoder {
    /// A decoder to `schema`, except for the columns that `options` names as metadata.
    ///
    /// # Errors
    /// `Unsupported` when the schema has a column that no value can fill, such as a map with struct keys.
    pub fn new(schema: &SchemaRef, writers: Writers, options: &AvroOptions) -> Result<Self> {
        let reserved: BTreeSet<String> = options.metadata.keys().cloned().collect();
        let arrow = schema_to_arrow_schema(schema)
            .context(ErrorKind::Unsupported, || "the table's schema has no Arrow form")?;
        let fields: Vec<_> = arrow.fields().iter().filter(|f| !reserved.contains(f.name())).cloned().collect();
        Ok(Self {
            plan: StructPlan::of_row(schema.as_struct().fields(), reserved)?,
            arrow: Arc::new(ArrowSchema::new(fields)),
            on_change: options.on_change,
            terms: Terms { epoch: options.epoch, nanos: options.nanos, json: false },
            writers,
            fitted: RwLock::default(),
        })
    }

    /// Where the writers' schemas come from. Before rows are decoded, they must be known there ([`Writers::learn`]).
    pub fn writers(&self) -> &Writers {
        &self.writers
    }

    /// Decodes, and says what the rows' schemas hold that the table's does not: as
    /// [`JsonDecoder::decode_observed`](crate::decode::json::JsonDecoder::decode_observed) does.
    pub fn decode_observed(&self, raw: &RawBatch) -> (Batch, Observed) {
        self.decode_as(raw, self.on_change)
    }

    /// The same under another policy.
    pub fn decode_as(&self, raw: &RawBatch, on_change: OnChange) -> (Batch, Observed) {
        let mut run = Run {
            filler: Filler::new(on_change),
            columns: Columns::new(&self.plan, raw.rows.len().min(CAPACITY)),
            last: None,
            noted: BTreeSet::new(),
            observed: Observed::default(),
            raw,
        };
        let mut source_rows = Vec::with_capacity(raw.rows.len());
        let mut rejects = raw.rejects.clone();
        for (index, row) in (0_u32..).zip(&raw.rows) {
            match self.row(&mut run, *row) {
                Ok(()) => source_rows.push(index),
                Err(fault) => {
                    run.columns.truncate(source_rows.len());
                    rejects.push(raw.reject(*row, Stage::Decode, fault.path.clone(), fault.reason.clone()));
                }
            }
        }
        run.observed.ignored = run.filler.ignored;
        let batch = run.columns.into_batch(&self.arrow, raw, source_rows, rejects);
        (batch, run.observed)
    }

    /// Appends one row; the columns hold part of it after a fault.
    fn row(&self, run: &mut Run<'_>, row: RawRow) -> Result<(), Fault> {
        let Framed { id, datum } = self.writers.framed(run.raw.bytes(row))?;
        let fitted = match &run.last {
            Some((held, fitted)) if *held == id => fitted.clone()?,
            _ => {
                let fitted = self.fitted(id);
                run.last = Some((id, fitted.clone()));
                fitted?
            }
        };
        let ignored = run.filler.ignored;
        run.filler.nulls.clear();
        let mut cursor = Cursor::new(datum);
        let done = run.filler.record(&fitted.root, &self.plan, &mut run.columns, &mut cursor);
        let done = done.and_then(|()| cursor.end());
        if run.filler.on_change == OnChange::Evolve {
            self.note(run, id, datum, &fitted, done.is_ok());
        }
        let done = match done {
            Ok(()) if !run.filler.nulls.is_empty() => {
                Err(Fault::row("a value is missing or null, and its column is required"))
            }
            done => done,
        };
        if done.is_err() {
            run.filler.ignored = ignored;
        }
        done
    }

    /// Notes what a row's schema asks for, once for each; rows that are no Avro ask for nothing.
    fn note(&self, run: &mut Run<'_>, id: Option<u32>, datum: &[u8], fitted: &Fitted, whole: bool) {
        let unsettled = !fitted.needs.is_settled() && !run.noted.contains(&id);
        if !unsettled && run.filler.nulls.is_empty() {
            return;
        }
        if !whole {
            let mut cursor = Cursor::new(datum);
            let read = fitted.record.fields.iter().try_for_each(|(_, kind)| cursor.skip(kind).map(drop));
            if read.and_then(|()| cursor.end()).is_err() {
                return;
            }
        }
        run.observed.relaxed.extend(run.filler.nulls.iter().copied());
        if unsettled {
            run.observed.merge(fitted.needs.clone());
            run.noted.insert(id);
        }
    }

    fn fitted(&self, id: Option<u32>) -> Lookup {
        if let Some(held) = self.fitted.read().unwrap_or_else(PoisonError::into_inner).get(&id) {
            return Ok(Arc::clone(held));
        }
        let writer = self.writers.known(id)?;
        let fitted = Arc::new(fit(&writer.root, &self.plan, self.terms));
        self.fitted.write().unwrap_or_else(PoisonError::into_inner).insert(id, Arc::clone(&fitted));
        Ok(fitted)
    }
}

/// The schema of a table that is to hold a writer's rows, with field ids from 1. Fields that the writer's schema says are
/// never null are required. Those with the name of a `metadata` column, in whatever case, are left out.
///
/// # Errors
/// `Internal` when the columns make no valid schema.
pub fn table_schema(
    writer: &WriterSchema,
    metadata: &BTreeMap<String, MetadataColumn>,
    limits: GrowthLimits,
    nanos: bool,
) -> Result<Schema> {
    let invalid = || "the columns of the writer's schema make no schema";
    let empty = Schema::builder().build().context(ErrorKind::Internal, invalid)?;
    let mut growth = Growth::new(&empty, 0, limits, GrowthOrder::Appearance);
    let reserved: BTreeSet<String> = metadata.keys().map(|name| name.to_lowercase()).collect();
    let mut fields = avro_columns::fields_of(&writer.root, nanos);
    fields.retain(|field| !reserved.contains(&field.name.to_lowercase()));
    let fields = growth.typed_fields("", 0, &fields);
    Schema::builder().with_fields(fields).build().context(ErrorKind::Internal, invalid)
}

#[cfg(test)]
pub(crate) mod tests;
