//! Debezium's change events in Avro: as `envelope` reads them in JSON, with the types that the writer's schema says.
//!
//! An event is taken apart first (`debezium_avro_parts`); the bytes of its row go straight into columns, as those of an Avro row
//! do, and what is beside the row goes the way that it goes in JSON.

use std::collections::BTreeSet;
use std::sync::Arc;

use iceberg::spec::{Schema, SchemaRef, StructType, Type};

use crate::config::{DebeziumColumn, OnChange};
use crate::decode::avro_columns;
use crate::decode::avro_cursor::Cursor;
use crate::decode::avro_fill::Filler;
use crate::decode::avro_fit::{Fitted, Step, Terms, fit, fit_column};
use crate::decode::avro_schema::AvroType;
use crate::decode::debezium::{Beside, Change};
use crate::decode::debezium_avro_marks::AvroMarks;
use crate::decode::debezium_avro_parts::{Event, EventSchema, Image};
use crate::decode::envelope::EnvelopeFormat;
use crate::decode::envelope_table::{EnvelopeColumns, EnvelopeTable};
use crate::decode::fault::Fault;
use crate::decode::observe::{Observed, Shape};
use crate::decode::rows::{Laid, Sink, append_all};
use crate::decode::writers::{Framed, Writers};
use crate::decode::{DecoderOptions, Inference, infer};
use crate::error::Result;
use crate::model::batch::{Batch, RawBatch, RawRow};

/// Decodes change events to the columns of one table schema.
#[derive(Debug)]
pub struct EventDecoder {
    format: Arc<EnvelopeFormat>,
    table: EnvelopeTable,
    marks: AvroMarks,
    on_change: OnChange,
    terms: Terms,
    writers: Writers,
    /// Writers' schemas laid onto this table's, by id; `None`: the configured one.
    laid: Laid<Option<u32>, EventLaid>,
}

/// A writer's schema laid onto the table's.
struct EventLaid {
    schema: EventSchema,
    after: Option<Arc<Placed>>,
    before: Option<Arc<Placed>>,
    /// The row before, where the table has a column for it: as it is sent, and where each field may be null.
    before_column: Option<(Step, Step)>,
    /// The same where it lacks one.
    before_kind: Option<Arc<Type>>,
    /// What the table lacks.
    needs: Observed,
}

/// An image laid onto the row's columns.
struct Placed {
    /// As it is sent.
    whole: Fitted,
    /// Where each field may be null.
    relaxed: Fitted,
}

impl std::fmt::Debug for EventLaid {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("EventLaid").field("needs", &self.needs).finish_non_exhaustive()
    }
}

/// A schema laid onto the table's, or why its rows cannot be read.
type Lookup = Result<Arc<EventLaid>, Fault>;

/// One batch on its way.
struct Run<'a> {
    decoder: &'a EventDecoder,
    raw: &'a RawBatch,
    columns: EnvelopeColumns,
    filler: Filler,
    /// The last row's schema: mostly that of the next one.
    last: Option<(Option<u32>, Lookup)>,
    /// Schemas whose needs are noted.
    noted: BTreeSet<Option<u32>>,
    observed: Observed,
}

impl EventDecoder {
    /// A decoder to `schema`, except for the columns that `options` names as metadata.
    ///
    /// # Errors
    /// `Unsupported` when the schema has a column that no value can fill, such as a map with struct keys.
    pub fn new(
        schema: &SchemaRef,
        format: Arc<EnvelopeFormat>,
        writers: Writers,
        options: &DecoderOptions,
    ) -> Result<Self> {
        Ok(Self {
            table: EnvelopeTable::new(schema, &format.columns, &options.json.metadata)?,
            marks: AvroMarks::new(&format.unavailable),
            on_change: options.json.on_change,
            terms: Terms { epoch: options.json.epoch, nanos: options.nanos, json: false },
            writers,
            laid: Laid::new(usize::MAX),
            format,
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
            columns: self.table.columns(raw),
            filler: Filler::new(on_change),
            last: None,
            noted: BTreeSet::new(),
            observed: Observed::default(),
        };
        let appended = append_all(raw, &mut run);
        run.observed.ignored = run.filler.tally.ignored;
        run.observed.added.retain(|_, shape| shape.fields().next().is_some());
        (self.table.batch(run.columns, raw, appended), run.observed)
    }

    fn lay(&self, id: Option<u32>) -> Result<EventLaid, Fault> {
        let schema = EventSchema::new(&self.writers.known(id)?.root);
        let place = |image: &Arc<Image>| {
            let fit = |record| fit(record, &self.table.image, self.terms);
            Arc::new(Placed { whole: fit(&image.record), relaxed: fit(&image.relaxed) })
        };
        let after = schema.after.as_ref().map(place);
        let before = match (&schema.after, &schema.before) {
            (Some(image), Some(same)) if Arc::ptr_eq(image, same) => after.clone(),
            (_, before) => before.as_ref().map(place),
        };
        let mut needs = Observed::default();
        for placed in [&after, &before].into_iter().flatten() {
            needs.merge(placed.relaxed.needs.clone());
        }
        let (mut before_column, mut before_kind) = (None, None);
        if let Some(image) = &schema.before {
            let (whole, relaxed) =
                (AvroType::Record(Arc::clone(&image.record)), AvroType::Record(Arc::clone(&image.relaxed)));
            if let Some(column) = self.table.beside.of(DebeziumColumn::Before).next() {
                let (step, lacks) = fit_column(&relaxed, column, self.terms);
                before_column = Some((fit_column(&whole, column, self.terms).0, step));
                needs.merge(lacks);
            }
            let field = avro_columns::field_of("before", &relaxed, self.terms.nanos);
            before_kind = field.map(|field| Arc::new(field.field_type.as_ref().clone()));
        }
        Ok(EventLaid { schema, after, before, before_column, before_kind, needs })
    }
}

impl Sink for Run<'_> {
    fn row(&mut self, row: RawRow, length: usize) -> Result<(), Fault> {
        let decoder = self.decoder;
        let Framed { id, datum } = decoder.writers.framed(self.raw.bytes(row))?;
        let laid = match &self.last {
            Some((held, laid)) if *held == id => laid.clone()?,
            _ => self.last.insert((id, decoder.laid.get(id, || decoder.lay(id)))).1.clone()?,
        };
        let event = laid.schema.read(datum)?;
        let change = decoder.format.change(&decoder.table.beside, &event.parts())?;
        self.filler.tally.begin(datum.len());
        let done = self.fill(&laid, &event, &change, length);
        if self.filler.tally.on_change == OnChange::Evolve {
            if !laid.needs.is_settled() && self.noted.insert(id) {
                self.observed.merge(laid.needs.clone());
            }
            self.observed.relaxed.extend(self.filler.tally.nulls.iter().copied());
            let before = laid.before_kind.clone().map(Shape::Typed);
            decoder.table.note_beside(&mut self.columns, &change, before, &mut self.observed);
        }
        self.filler.tally.end(done)
    }

    fn truncate(&mut self, length: usize) {
        self.columns.truncate(length);
    }
}

impl Run<'_> {
    /// Appends one row to columns of `length` values each.
    fn fill(&mut self, laid: &EventLaid, event: &Event<'_>, change: &Change<'_>, length: usize) -> Result<(), Fault> {
        let (table, marks) = (&self.decoder.table, &self.decoder.marks);
        let Run { columns, filler, .. } = self;
        let mut unavailable = Vec::new();
        if let Some((field, _)) = change.image {
            let (image, placed, bytes) = match field {
                "before" => (&laid.schema.before, &laid.before, event.before),
                _ => (&laid.schema.after, &laid.after, event.after),
            };
            let (Some(image), Some(placed), Some(bytes)) = (image, placed, bytes) else {
                return Err(Fault::value("no record in the writer's schema").in_field(field));
            };
            let done = match marks.blank(&image.record, bytes)? {
                None => filler.record(&placed.whole.root, &table.image, &mut columns.image, &mut Cursor::new(bytes)),
                Some(blanked) => {
                    unavailable.extend(blanked.names);
                    let mut cursor = Cursor::new(&blanked.bytes);
                    filler.record(&placed.relaxed.root, &table.image, &mut columns.image, &mut cursor)
                }
            };
            done.map_err(|fault| fault.in_field(field))?;
        } else {
            filler.tally.rest(&table.image, &mut columns.image, length)?;
        }
        let before = event.before.zip(laid.before_column.as_ref());
        let blanked = match (before, &laid.schema.before) {
            (Some((bytes, _)), Some(image)) => marks.blank(&image.record, bytes)?,
            _ => None,
        };
        unavailable.extend(blanked.iter().flat_map(|blanked| &blanked.names).map(|name| format!("before.{name}")));
        table.fill_beside(columns, change, &unavailable, |plan, column| match (before, &blanked) {
            (None, _) => filler.tally.null(plan, column, "missing"),
            (Some((bytes, (whole, _))), None) => filler.value(whole, plan, column, &mut Cursor::new(bytes)),
            (Some((_, (_, relaxed))), Some(blanked)) => {
                filler.value(relaxed, plan, column, &mut Cursor::new(&blanked.bytes))
            }
        })
    }
}

/// The schema of a table that is to hold events like these: by the schema of the first one that has a row; without columns when
/// they tell nothing.
///
/// # Errors
/// `Internal` when the columns make no valid schema.
pub fn table_schema(format: &EnvelopeFormat, writers: &Writers, raw: &RawBatch, how: Inference<'_>) -> Result<Schema> {
    let beside = Beside::new(&[], &format.columns)?;
    let (mut schemas, mut first, mut image) = (Vec::new(), None, None);
    for row in raw.rows.iter().take(how.rows) {
        let Ok(Framed { id, datum }) = writers.framed(raw.bytes(*row)) else { continue };
        if !schemas.iter().any(|(held, _)| *held == id) {
            let Ok(writer) = writers.known(id) else { continue };
            schemas.push((id, EventSchema::new(&writer.root)));
        }
        let Some((_, schema)) = schemas.iter().find(|(held, _)| *held == id) else { continue };
        let Ok(event) = schema.read(datum) else { continue };
        if format.change(&beside, &event.parts()).is_err() {
            continue;
        }
        image = image.or_else(|| schema.after.as_ref().or(schema.before.as_ref()).map(Arc::clone));
        first = first.or(Some(event));
        if image.is_some() {
            break;
        }
    }
    let Some(first) = first else { return Ok(infer::infer([], how.metadata, how.limits)?.schema) };
    let Ok(change) = format.change(&beside, &first.parts()) else {
        return Ok(infer::infer([], how.metadata, how.limits)?.schema);
    };
    let fields = image.map(|image| avro_columns::fields_of(&image.relaxed, how.nanos)).unwrap_or_default();
    let before = (!fields.is_empty()).then(|| Type::Struct(StructType::new(fields.clone())));
    format.table_of(&change, fields, before.as_ref(), how)
}

#[cfg(test)]
mod tests;
