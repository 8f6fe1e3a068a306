//! Protobuf rows to columns: one message a row, of a configured schema or of the one that the row names by its id.
//!
//! A message is laid onto a table's columns once (`proto_fit`), then rows are read straight into them (`proto_fill`).
//! What becomes of each type is in `proto_columns`, and in docs/decoders.md.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Arc, PoisonError, RwLock};

use arrow::datatypes::{Schema as ArrowSchema, SchemaRef as ArrowSchemaRef};
use iceberg::arrow::schema_to_arrow_schema;
use iceberg::spec::{Schema, SchemaRef};

pub use crate::decode::proto_schema::ProtoSchema;

use crate::config::{MetadataColumn, OnChange};
use crate::decode::columns::Columns;
use crate::decode::fault::Fault;
use crate::decode::growth::{Growth, GrowthLimits, GrowthOrder};
use crate::decode::json::JsonOptions;
use crate::decode::observe::Observed;
use crate::decode::plan::StructPlan;
use crate::decode::proto_columns;
use crate::decode::proto_cursor::Cursor;
use crate::decode::proto_fill::Filler;
use crate::decode::proto_fit::{Fitted, fit};
use crate::decode::proto_schema::split_indexes;
use crate::decode::temporal::Epoch;
use crate::decode::writers::{Framed, Writers};
use crate::error::{Context, ErrorKind, Result};
use crate::model::batch::{Batch, RawBatch, RawRow, Stage};

/// Values that room is made for in advance; columns beyond it grow as they fill.
const CAPACITY: usize = 8192;

/// Messages that are kept as they were laid onto the table.
const FITTED_MAX: usize = 10_000;

/// Which message a row is: the id of its schema, and the bytes that say where it is in there.
type Which<'a> = (Option<u32>, &'a [u8]);

/// Decodes one Protobuf message per row to the columns of one table schema.
#[derive(Debug)]
pub struct ProtoDecoder {
    plan: StructPlan,
    arrow: ArrowSchemaRef,
    on_change: OnChange,
    epoch: Epoch,
    writers: Writers<ProtoSchema>,
    /// Messages laid onto this table, by what rows call them.
    fitted: RwLock<HashMap<Key, Arc<Fitted>>>,
}

/// The same, kept.
type Key = (Option<u32>, Box<[u8]>);

/// A message laid onto the table, or why its rows cannot be read.
type Lookup = Result<Arc<Fitted>, Fault>;

/// One batch on its way.
struct Run<'a> {
    filler: Filler,
    columns: Columns,
    /// The last row's message: mostly that of the next one.
    last: Option<(Which<'a>, Lookup)>,
    /// Messages whose needs are noted.
    noted: Vec<Arc<Fitted>>,
    observed: Observed,
    raw: &'a RawBatch,
}

impl ProtoDecoder {
    /// A decoder to `schema`, except for the columns that `options` names as metadata.
    ///
    /// # Errors
    /// `Unsupported` when the schema has a column that no value can fill, such as a map with struct keys.
    pub fn new(schema: &SchemaRef, writers: Writers<ProtoSchema>, options: &JsonOptions) -> Result<Self> {
        let reserved: BTreeSet<String> = options.metadata.keys().cloned().collect();
        let arrow = schema_to_arrow_schema(schema)
            .context(ErrorKind::Unsupported, || "the table's schema has no Arrow form")?;
        let fields: Vec<_> = arrow.fields().iter().filter(|f| !reserved.contains(f.name())).cloned().collect();
        Ok(Self {
            plan: StructPlan::of_row(schema.as_struct().fields(), reserved)?,
            arrow: Arc::new(ArrowSchema::new(fields)),
            on_change: options.on_change,
            epoch: options.epoch,
            writers,
            fitted: RwLock::default(),
        })
    }

    /// Decodes, and says what the rows' schemas hold that the table's does not: as
    /// [`JsonDecoder::decode_observed`](crate::decode::json::JsonDecoder::decode_observed) does. Before rows are decoded, their
    /// schemas must be known ([`Writers::learn`]).
    pub fn decode_observed(&self, raw: &RawBatch) -> (Batch, Observed) {
        self.decode_as(raw, self.on_change)
    }

    /// The same under another policy.
    pub fn decode_as(&self, raw: &RawBatch, on_change: OnChange) -> (Batch, Observed) {
        let mut run = Run {
            filler: Filler::new(on_change),
            columns: Columns::new(&self.plan, raw.rows.len().min(CAPACITY)),
            last: None,
            noted: Vec::new(),
            observed: Observed::default(),
            raw,
        };
        let mut source_rows = Vec::with_capacity(raw.rows.len());
        let mut rejects = raw.rejects.clone();
        for (index, row) in (0_u32..).zip(&raw.rows) {
            match self.row(&mut run, *row, source_rows.len()) {
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

    /// Appends one row to columns of `length` values; they hold part of it after a fault.
    fn row(&self, run: &mut Run<'_>, row: RawRow, length: usize) -> Result<(), Fault> {
        let (which, message) = which(&self.writers, run.raw.bytes(row))?;
        let fitted = match &run.last {
            Some((held, fitted)) if *held == which => fitted.clone()?,
            _ => {
                let fitted = self.fitted(which);
                run.last = Some((which, fitted.clone()));
                fitted?
            }
        };
        let ignored = run.filler.ignored;
        run.filler.begin(message.len());
        let cursor = Cursor::new(message);
        let done = run.filler.message(&fitted.root, &self.plan, &mut run.columns, length, cursor.clone());
        if run.filler.on_change == OnChange::Evolve {
            note(run, &fitted, cursor, done.is_ok());
        }
        let done = match done {
            Ok(()) if !run.filler.nulls.is_empty() => Err(Fault::row("a value is missing, and its column is required")),
            done => done,
        };
        if done.is_err() {
            run.filler.ignored = ignored;
        }
        done
    }

    fn fitted(&self, (id, indexes): Which<'_>) -> Lookup {
        let key = (id, Box::from(indexes));
        if let Some(held) = self.fitted.read().unwrap_or_else(PoisonError::into_inner).get(&key) {
            return Ok(Arc::clone(held));
        }
        let message = self.writers.known(id)?.message(indexes)?;
        let fitted = Arc::new(fit(&message, &self.plan, self.epoch));
        let mut held = self.fitted.write().unwrap_or_else(PoisonError::into_inner);
        // Rows choose the bytes: they must not fill the memory with them.
        if held.len() < FITTED_MAX {
            held.insert(key, Arc::clone(&fitted));
        }
        Ok(fitted)
    }
}

/// Takes a row apart. A configured message stands alone; in a registry's schema the row says which one it is.
#[inline]
fn which<'a>(writers: &Writers<ProtoSchema>, row: &'a [u8]) -> Result<(Which<'a>, &'a [u8]), Fault> {
    if let Writers::Fixed(_) = writers {
        // A message of nothing but zeros is no bytes at all.
        return Ok(((None, &[]), row));
    }
    let Framed { id, datum } = writers.framed(row)?;
    let (indexes, message) = split_indexes(datum)?;
    Ok(((id, indexes), message))
}

/// Notes what a row's schema asks for, once for each; rows that are no messages ask for nothing.
fn note(run: &mut Run<'_>, fitted: &Arc<Fitted>, message: Cursor<'_>, whole: bool) {
    let unsettled = !fitted.needs.is_settled() && !run.noted.iter().any(|noted| Arc::ptr_eq(noted, fitted));
    if (!unsettled && run.filler.nulls.is_empty()) || !(whole || message.cuts_into_fields()) {
        return;
    }
    run.observed.relaxed.extend(run.filler.nulls.iter().copied());
    if unsettled {
        run.observed.merge(fitted.needs.clone());
        run.noted.push(Arc::clone(fitted));
    }
}

/// The schema of a table that is to hold the rows of a batch, with field ids from 1, by the message of the first row that has
/// one; none where there is no such row. Fields that are never NULL are required. Those with the name of a `metadata` column, in
/// whatever case, are left out.
///
/// # Errors
/// `Internal` when the columns make no valid schema.
pub fn table_schema(
    writers: &Writers<ProtoSchema>,
    raw: &RawBatch,
    metadata: &BTreeMap<String, MetadataColumn>,
    limits: GrowthLimits,
) -> Result<Schema> {
    let invalid = || "the columns of the writer's schema make no schema";
    let empty = Schema::builder().build().context(ErrorKind::Internal, invalid)?;
    let mut growth = Growth::new(&empty, 0, limits, GrowthOrder::Appearance);
    let reserved: BTreeSet<String> = metadata.keys().map(|name| name.to_lowercase()).collect();
    let message = raw.rows.iter().find_map(|row| {
        let ((id, indexes), _) = which(writers, raw.bytes(*row)).ok()?;
        writers.known(id).ok()?.message(indexes).ok()
    });
    let mut fields = message.map(|message| proto_columns::fields_of(&message)).unwrap_or_default();
    fields.retain(|field| !reserved.contains(&field.name.to_lowercase()));
    let fields = growth.typed_fields("", 0, &fields);
    Schema::builder().with_fields(fields).build().context(ErrorKind::Internal, invalid)
}

#[cfg(test)]
mod tests;
