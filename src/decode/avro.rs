//! Avro rows to columns: one datum a row, of a configured schema or of the one that the row names by its id.
//!
//! A writer's schema is laid onto a table's columns once (`avro_fit`), then rows are read straight into them (`avro_fill`).
//! What becomes of each type is in `avro_columns`, and in docs/decoders.md.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use iceberg::spec::{Schema, SchemaRef};

pub use crate::decode::avro_schema::WriterSchema;

use crate::config::{MetadataColumn, OnChange};
use crate::decode::avro_columns;
use crate::decode::avro_cursor::Cursor;
use crate::decode::avro_fill::Filler;
use crate::decode::avro_fit::{Fitted, Terms, fit};
use crate::decode::columns::Columns;
use crate::decode::fault::Fault;
use crate::decode::growth::{self, GrowthLimits};
use crate::decode::observe::Observed;
use crate::decode::rows::{Laid, Sink, Target, append_all};
use crate::decode::temporal::Epoch;
use crate::decode::writers::{Framed, Writers};
use crate::error::Result;
use crate::model::batch::{Batch, RawBatch, RawRow};

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
    target: Target,
    on_change: OnChange,
    terms: Terms,
    writers: Writers,
    /// Writers' schemas laid onto this table's, by id; `None`: the configured one.
    laid: Laid<Option<u32>, Fitted>,
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
    decoder: &'a AvroDecoder,
    raw: &'a RawBatch,
    filler: Filler,
    columns: Columns,
    /// The last row's schema: mostly that of the next one.
    last: Option<(Option<u32>, Lookup)>,
    /// Schemas whose needs are noted.
    noted: BTreeSet<Option<u32>>,
    observed: Observed,
}

impl AvroDecoder {
    /// A decoder to `schema`, except for the columns that `options` names as metadata.
    ///
    /// # Errors
    /// `Unsupported` when the schema has a column that no value can fill, such as a map with struct keys.
    pub fn new(schema: &SchemaRef, writers: Writers, options: &AvroOptions) -> Result<Self> {
        Ok(Self {
            target: Target::new(schema, &options.metadata)?,
            on_change: options.on_change,
            terms: Terms { epoch: options.epoch, nanos: options.nanos, json: false },
            writers,
            laid: Laid::new(usize::MAX),
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
            decoder: self,
            raw,
            filler: Filler::new(on_change),
            columns: self.target.columns(raw),
            last: None,
            noted: BTreeSet::new(),
            observed: Observed::default(),
        };
        let appended = append_all(raw, &mut run);
        run.observed.ignored = run.filler.tally.ignored;
        (self.target.batch(run.columns, raw, appended), run.observed)
    }

    fn fitted(&self, id: Option<u32>) -> Lookup {
        self.laid.get(id, || Ok(fit(&self.writers.known(id)?.root, &self.target.plan, self.terms)))
    }
}

impl Sink for Run<'_> {
    fn row(&mut self, row: RawRow, _: usize) -> Result<(), Fault> {
        let decoder = self.decoder;
        let Framed { id, datum } = decoder.writers.framed(self.raw.bytes(row))?;
        let fitted = match &self.last {
            Some((held, fitted)) if *held == id => fitted.clone()?,
            _ => self.last.insert((id, decoder.fitted(id))).1.clone()?,
        };
        self.filler.tally.begin(datum.len());
        let mut cursor = Cursor::new(datum);
        let done = self.filler.record(&fitted.root, &decoder.target.plan, &mut self.columns, &mut cursor);
        let done = done.and_then(|()| cursor.end());
        if self.filler.tally.on_change == OnChange::Evolve {
            self.note(id, datum, &fitted, done.is_ok());
        }
        self.filler.tally.end(done)
    }

    fn truncate(&mut self, length: usize) {
        self.columns.truncate(length);
    }
}

impl Run<'_> {
    /// Notes what a row's schema asks for, once for each; rows that are no Avro ask for nothing.
    fn note(&mut self, id: Option<u32>, datum: &[u8], fitted: &Fitted, whole: bool) {
        let unsettled = !fitted.needs.is_settled() && !self.noted.contains(&id);
        if !unsettled && self.filler.tally.nulls.is_empty() {
            return;
        }
        if !whole {
            let mut cursor = Cursor::new(datum);
            let read = fitted.record.fields.iter().try_for_each(|(_, kind)| cursor.skip(kind).map(drop));
            if read.and_then(|()| cursor.end()).is_err() {
                return;
            }
        }
        self.observed.relaxed.extend(self.filler.tally.nulls.iter().copied());
        if unsettled {
            self.observed.merge(fitted.needs.clone());
            self.noted.insert(id);
        }
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
    growth::typed_schema(avro_columns::fields_of(&writer.root, nanos), metadata, limits)
}

#[cfg(test)]
pub(crate) mod tests;
