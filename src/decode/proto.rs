//! Protobuf rows to columns: one message a row, of a configured schema or of the one that the row names by its id.
//!
//! A message is laid onto a table's columns once (`proto_fit`), then rows are read straight into them (`proto_fill`).
//! What becomes of each type is in `proto_columns`, and in docs/decoders.md.

use std::collections::BTreeMap;
use std::sync::Arc;

use iceberg::spec::{Schema, SchemaRef};

pub use crate::decode::proto_schema::ProtoSchema;

use crate::config::{MetadataColumn, OnChange};
use crate::decode::columns::Columns;
use crate::decode::fault::Fault;
use crate::decode::growth::{self, GrowthLimits};
use crate::decode::json::JsonOptions;
use crate::decode::observe::Observed;
use crate::decode::proto_columns;
use crate::decode::proto_cursor::Cursor;
use crate::decode::proto_fill::Filler;
use crate::decode::proto_fit::{Fitted, fit};
use crate::decode::proto_schema::split_indexes;
use crate::decode::rows::{Laid, Sink, Target, append_all};
use crate::decode::temporal::Epoch;
use crate::decode::writers::{Framed, Writers};
use crate::error::Result;
use crate::model::batch::{Batch, RawBatch, RawRow};

/// Messages that are kept as they were laid onto the table.
const FITTED_MAX: usize = 10_000;

/// Which message a row is: the id of its schema, and the bytes that say where it is in there.
type Which<'a> = (Option<u32>, &'a [u8]);

/// Decodes one Protobuf message per row to the columns of one table schema.
#[derive(Debug)]
pub struct ProtoDecoder {
    target: Target,
    on_change: OnChange,
    epoch: Epoch,
    writers: Writers<ProtoSchema>,
    /// Messages laid onto this table, by what rows call them.
    laid: Laid<Key, Fitted>,
}

/// The same, kept.
type Key = (Option<u32>, Box<[u8]>);

/// A message laid onto the table, or why its rows cannot be read.
type Lookup = Result<Arc<Fitted>, Fault>;

/// One batch on its way.
struct Run<'a> {
    decoder: &'a ProtoDecoder,
    raw: &'a RawBatch,
    filler: Filler,
    columns: Columns,
    /// The last row's message: mostly that of the next one.
    last: Option<(Which<'a>, Lookup)>,
    /// Messages whose needs are noted.
    noted: Vec<Arc<Fitted>>,
    observed: Observed,
}

impl ProtoDecoder {
    /// A decoder to `schema`, except for the columns that `options` names as metadata.
    ///
    /// # Errors
    /// `Unsupported` when the schema has a column that no value can fill, such as a map with struct keys.
    pub fn new(schema: &SchemaRef, writers: Writers<ProtoSchema>, options: &JsonOptions) -> Result<Self> {
        Ok(Self {
            target: Target::new(schema, &options.metadata)?,
            on_change: options.on_change,
            epoch: options.epoch,
            writers,
            laid: Laid::new(FITTED_MAX),
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
            decoder: self,
            raw,
            filler: Filler::new(on_change),
            columns: self.target.columns(raw),
            last: None,
            noted: Vec::new(),
            observed: Observed::default(),
        };
        let appended = append_all(raw, &mut run);
        run.observed.ignored = run.filler.tally.ignored;
        (self.target.batch(run.columns, raw, appended), run.observed)
    }

    fn fitted(&self, (id, indexes): Which<'_>) -> Lookup {
        let lay = || Ok(fit(&*self.writers.known(id)?.message(indexes)?, &self.target.plan, self.epoch));
        self.laid.get((id, Box::from(indexes)), lay)
    }
}

impl Sink for Run<'_> {
    fn row(&mut self, row: RawRow, length: usize) -> Result<(), Fault> {
        let decoder = self.decoder;
        let (which, message) = which(&decoder.writers, self.raw.bytes(row))?;
        let fitted = match &self.last {
            Some((held, fitted)) if is_same(held, &which) => fitted.clone()?,
            _ => self.last.insert((which, decoder.fitted(which))).1.clone()?,
        };
        self.filler.begin(message.len());
        let cursor = Cursor::new(message);
        let done = self.filler.message(&fitted.root, &decoder.target.plan, &mut self.columns, length, cursor.clone());
        if self.filler.tally.on_change == OnChange::Evolve {
            self.note(&fitted, cursor, done.is_ok());
        }
        self.filler.tally.end(done)
    }

    fn truncate(&mut self, length: usize) {
        self.columns.truncate(length);
    }
}

impl Run<'_> {
    /// Notes what a row's schema asks for, once for each; rows that are no messages ask for nothing.
    fn note(&mut self, fitted: &Arc<Fitted>, message: Cursor<'_>, whole: bool) {
        let nulls = &self.filler.tally.nulls;
        let unsettled = !fitted.needs.is_settled() && !self.noted.iter().any(|noted| Arc::ptr_eq(noted, fitted));
        if (!unsettled && nulls.is_empty()) || !(whole || message.cuts_into_fields()) {
            return;
        }
        self.observed.relaxed.extend(nulls.iter().copied());
        if unsettled {
            self.observed.merge(fitted.needs.clone());
            self.noted.push(Arc::clone(fitted));
        }
    }
}

/// Whether both name one message. Where there are no indexes nothing is compared: comparing no bytes at an address that is none takes
/// longer than all else that a short row needs.
#[inline]
fn is_same(one: &Which<'_>, other: &Which<'_>) -> bool {
    one.0 == other.0 && one.1.len() == other.1.len() && (one.1.is_empty() || one.1 == other.1)
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
    let message = raw.rows.iter().find_map(|row| {
        let ((id, indexes), _) = which(writers, raw.bytes(*row)).ok()?;
        writers.known(id).ok()?.message(indexes).ok()
    });
    let fields = message.map(|message| proto_columns::fields_of(&message)).unwrap_or_default();
    growth::typed_schema(fields, metadata, limits)
}

#[cfg(test)]
mod tests;
