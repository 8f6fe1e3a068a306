//! JSON rows to columns.
//!
//! What a column takes (anything else rejects the row, with the JSON path of the value):
//!
//! | column | JSON |
//! |---|---|
//! | `boolean` | `true`, `false` |
//! | `int`, `long` | a number without fraction (`1.0` and `1e3` have none), also as a string |
//! | `float`, `double` | a number, also as a string; `"NaN"`, `"Infinity"`, `"-Infinity"` |
//! | `decimal(p, s)` | a number, also as a string, that has at most `s` digits after the point: exact, never rounded |
//! | `date` | `"2026-01-31"`; an integer: days since 1970-01-01 |
//! | `time` | `"23:59:59.123456"`; with a zone in UTC |
//! | timestamps | ISO 8601 text; a number since the epoch, in the unit of [`JsonOptions::epoch`] |
//! | `string` | a string; the JSON text, as written, of anything else |
//! | `uuid` | its text |
//! | `fixed`, `binary` | base64 |
//! | `struct`, `map` | an object; map keys in the key type's text |
//! | `list` | an array |
//!
//! Timestamps: digits beyond the column's unit are cut off. A text without a zone is UTC; one with a zone, in a column
//! without, is stored as its UTC time.
//!
//! A missing field is NULL, or its column's write default. A key that occurs twice rejects the row, wherever it is told
//! apart: in objects that become structs and maps.

use std::collections::BTreeMap;
use std::ops::Deref;

use iceberg::spec::SchemaRef;

use crate::config::{MetadataColumn, OnChange};
use crate::decode::append::Appender;
use crate::decode::columns::Columns;
use crate::decode::fault::Fault;
use crate::decode::observe::Observed;
use crate::decode::plan::StructPlan;
use crate::decode::rows::{Sink, Target, append_all};
use crate::decode::temporal::Epoch;
use crate::error::Result;
use crate::model::batch::{Batch, RawBatch, RawRow};

/// How JSON is read.
#[derive(Debug, Clone)]
pub struct JsonOptions {
    /// What unknown fields and values that do not fit do.
    pub on_change: OnChange,
    /// What numbers in timestamp columns count. Never guessed from their size.
    pub epoch: Epoch,
    /// Columns of the schema that are not read from the rows: `transform::metadata_columns` fills them. A key of the
    /// same name is an unknown field that cannot be added.
    pub metadata: BTreeMap<String, MetadataColumn>,
}

impl Default for JsonOptions {
    fn default() -> Self {
        Self { on_change: OnChange::Evolve, epoch: Epoch::default(), metadata: BTreeMap::new() }
    }
}

/// Decodes one JSON object per row to the columns of one schema.
#[derive(Debug)]
pub struct JsonDecoder {
    pub(crate) target: Target,
    pub(crate) options: JsonOptions,
}

/// One batch on its way.
struct Run<'r, U, S> {
    raw: &'r RawBatch,
    columns: Columns,
    appender: Appender,
    observed: Observed,
    unframe: U,
    seen: S,
}

impl JsonDecoder {
    /// A decoder to `schema`, except for the columns that `options` names as metadata.
    ///
    /// # Errors
    /// `Unsupported` when the schema has a column that JSON cannot fill, such as a map with struct keys.
    pub fn new(schema: &SchemaRef, options: JsonOptions) -> Result<Self> {
        Ok(Self { target: Target::new(schema, &options.metadata)?, options })
    }

    /// Decodes under the decoder's own policy.
    pub fn decode(&self, raw: &RawBatch) -> Batch {
        self.decode_observed(raw).0
    }

    /// Decodes, and says what the rows hold that the schema does not.
    ///
    /// With [`OnChange::Evolve`] nothing is final while the answer is not [`Observed::is_settled`]: rows that an
    /// evolved schema would take are among the rejects, and unknown fields are missing from the rows. The caller
    /// evolves the schema (`transform::evolve`) and decodes the same rows again, or, where the schema may not follow,
    /// decodes them with [`OnChange::Quarantine`]. Rows that no evolution would help add nothing to what was
    /// observed.
    pub fn decode_observed(&self, raw: &RawBatch) -> (Batch, Observed) {
        self.decode_as(raw, self.options.on_change)
    }

    /// The same under another policy.
    pub fn decode_as(&self, raw: &RawBatch, on_change: OnChange) -> (Batch, Observed) {
        self.decode_with(raw, on_change, |row| Ok((row, &self.target.plan)), |_| ())
    }

    /// The same for rows that hold more than an object: `unframe` says where it is, and by which plan of the same columns it
    /// is read. `seen` is told of the rows that are objects which the table takes, or could take.
    pub(crate) fn decode_with<'r, P: Deref<Target = StructPlan>>(
        &self,
        raw: &'r RawBatch,
        on_change: OnChange,
        unframe: impl FnMut(&'r [u8]) -> Result<(&'r [u8], P), Fault>,
        seen: impl FnMut(&[u8]),
    ) -> (Batch, Observed) {
        let appender = Appender::new(on_change, self.options.epoch);
        let (columns, observed) = (self.target.columns(raw), Observed::default());
        let mut run = Run { raw, columns, appender, observed, unframe, seen };
        let appended = append_all(raw, &mut run);
        let Run { columns, appender, mut observed, .. } = run;
        observed.ignored = appender.ignored;
        observed.added.retain(|_, shape| shape.fields().next().is_some());
        (self.target.batch(columns, raw, appended), observed)
    }
}

impl<'r, P, U, S> Sink for Run<'r, U, S>
where
    P: Deref<Target = StructPlan>,
    U: FnMut(&'r [u8]) -> Result<(&'r [u8], P), Fault>,
    S: FnMut(&[u8]),
{
    fn row(&mut self, row: RawRow, length: usize) -> Result<(), Fault> {
        let bytes = self.raw.bytes(row);
        let done = (self.unframe)(bytes).and_then(|(object, plan)| self.object(&plan, length, object));
        if done.as_ref().map_or_else(|fault| fault.evolvable, |()| true) {
            (self.seen)(bytes);
        }
        done
    }

    fn truncate(&mut self, length: usize) {
        self.columns.truncate(length);
    }
}

impl<U, S> Run<'_, U, S> {
    /// Appends one row; the columns hold part of it after a fault.
    fn object(&mut self, plan: &StructPlan, length: usize, bytes: &[u8]) -> Result<(), Fault> {
        let Self { columns, appender, observed, .. } = self;
        let ignored = appender.ignored;
        let text = std::str::from_utf8(bytes)
            .map_err(|e| Fault::row(format!("invalid UTF-8 after byte {}", e.valid_up_to())))?;
        let Err(fault) = appender.row(plan, columns, text) else {
            observed.add_all(&mut appender.unknown);
            return Ok(());
        };
        if fault.evolvable && appender.on_change == OnChange::Evolve {
            // The same once more, noting what the schema lacks instead of giving up at the first lack. It is rare, so that
            // the first look need not care.
            columns.truncate(length);
            appender.observed = Some(Observed::default());
            let second = appender.row(plan, columns, text);
            let seen = appender.observed.take().unwrap_or_default();
            if let Err(hopeless) = second {
                appender.ignored = ignored;
                return Err(hopeless);
            }
            observed.merge(seen);
            observed.add_all(&mut appender.unknown);
        }
        appender.ignored = ignored;
        Err(fault)
    }
}

#[cfg(test)]
mod tests;
