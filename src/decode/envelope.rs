//! JSON rows in envelopes: Kafka Connect's, whose schema says the types, and Debezium's change events.
//!
//! A row's schema is laid onto the table's columns once (`avro_fit`), and told again by its text; values are read by it
//! (`connect_fill`). Rows without one are read as plain JSON is. What becomes of each is in docs/decoders.md.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Arc, PoisonError, RwLock};

use iceberg::spec::{NestedFieldRef, Schema, SchemaRef, StructType, Type};

use crate::config::{DebeziumColumn, DecodeConfig, Envelope, Epoch, MetadataColumn, OnChange};
use crate::decode::append::Appender;
use crate::decode::avro_columns;
use crate::decode::avro_fit::{Fitted, Step, Terms, fit, fit_column};
use crate::decode::avro_schema::{AvroType, Record};
use crate::decode::connect_fill::JsonFiller;
use crate::decode::connect_schema;
use crate::decode::debezium::{Beside, Change, new_columns};
use crate::decode::debezium_marks::{Blanked, Marks};
use crate::decode::envelope_parts::{Part, Parts};
use crate::decode::envelope_table::{EnvelopeColumns, EnvelopeTable};
use crate::decode::fault::Fault;
use crate::decode::growth::{Growth, GrowthOrder, typed_schema};
use crate::decode::observe::{Observed, Shape, StructShape};
use crate::decode::rows::{Sink, append_all};
use crate::decode::scan::{Kind, Scanner};
use crate::decode::writers::split_id;
use crate::decode::{DecoderOptions, Inference, infer};
use crate::error::{Context, ErrorKind, Result};
use crate::model::batch::{Batch, RawBatch, RawRow};

/// Schemas that a decoder keeps, and what their texts may weigh together: beyond it, it begins anew.
const SCHEMAS_MAX: usize = 1000;
const BYTES_MAX: usize = 32 << 20;

/// What rows are wrapped in, and what is taken out.
#[derive(Debug)]
pub struct EnvelopeFormat {
    envelope: Envelope,
    /// Columns beside those of the rows' own fields.
    pub(crate) columns: BTreeMap<String, DebeziumColumn>,
    /// What stands for a value that was not sent.
    pub(crate) unavailable: String,
    marks: Marks,
    /// Whether JSON rows begin with a byte 0 and the id of a schema.
    framed: bool,
}

/// Decodes rows in envelopes to the columns of one table schema.
#[derive(Debug)]
pub struct EnvelopeDecoder {
    format: Arc<EnvelopeFormat>,
    table: EnvelopeTable,
    on_change: OnChange,
    epoch: Epoch,
    terms: Terms,
    known: RwLock<Known>,
}

/// Schemas by their texts.
#[derive(Debug, Default)]
struct Known {
    laid: HashMap<Arc<str>, Lookup>,
    bytes: usize,
    /// Counts schemas.
    next: u64,
}

/// A schema laid onto the table's, or why its rows cannot be read.
type Lookup = Result<Arc<Laid>, Fault>;

struct Laid {
    number: u64,
    /// The row, or the image of one; none where the schema is one of something else.
    image: Option<Fitted>,
    /// The row before, where the table has a column for it.
    before: Option<Step>,
    /// The same where it lacks one.
    before_kind: Option<Arc<Type>>,
    /// What the table lacks.
    needs: Observed,
}

impl std::fmt::Debug for Laid {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Laid").field("number", &self.number).field("needs", &self.needs).finish_non_exhaustive()
    }
}

/// One batch on its way.
struct Run<'a> {
    decoder: &'a EnvelopeDecoder,
    raw: &'a RawBatch,
    /// Rows that the columns hold.
    length: usize,
    columns: EnvelopeColumns,
    /// For rows with a schema.
    filler: JsonFiller,
    /// For rows without.
    appender: Appender,
    /// The last row's schema: mostly that of the next one.
    last: Option<(Arc<str>, Lookup)>,
    /// Schemas whose needs are noted.
    noted: BTreeSet<u64>,
    observed: Observed,
}

impl EnvelopeFormat {
    /// What the settings say; none where rows are in no envelope.
    pub fn of(config: &DecodeConfig) -> Option<Self> {
        if config.envelope == Envelope::None {
            return None;
        }
        let marks = Marks::new(&config.debezium.unavailable);
        let columns = match config.envelope {
            Envelope::Debezium => config.debezium.columns.clone(),
            Envelope::None | Envelope::Connect => BTreeMap::new(),
        };
        let unavailable = config.debezium.unavailable.clone();
        Some(Self { envelope: config.envelope, columns, unavailable, marks, framed: config.registry.is_some() })
    }

    /// The text of a row in JSON.
    fn text<'a>(&self, row: &'a [u8]) -> Result<&'a str, Fault> {
        let row = if self.framed { split_id(row)?.1 } else { row };
        std::str::from_utf8(row).map_err(|e| Fault::row(format!("invalid UTF-8 after byte {}", e.valid_up_to())))
    }

    fn is_event(&self) -> bool {
        self.envelope == Envelope::Debezium
    }

    /// What becomes of a row that was taken apart.
    pub(crate) fn change<'a>(&self, beside: &Beside, parts: &Parts<'a>) -> Result<Change<'a>, Fault> {
        if self.is_event() {
            return beside.change(parts);
        }
        match parts.get(Part::Payload) {
            Some(payload) => Ok(Change::of_row("payload", payload)),
            None if parts.has(Part::Payload) => Err(Fault::value("null: a tombstone").in_field("payload")),
            None => {
                let hint = "set the converter's schemas.enable = true, or decode.envelope = \"none\"";
                Err(Fault::value(format!("missing: the row is in no envelope of Connect's; {hint}"))
                    .in_field("payload"))
            }
        }
    }

    /// The fields of a row by its schema.
    fn record(&self, schema: &serde_json::Value) -> Result<Option<Record>> {
        if !self.is_event() {
            return connect_schema::record(schema).map(Some);
        }
        // Rows of deletes may have no more than their keys.
        let image = ["after", "before"].into_iter().find_map(|image| connect_schema::member(schema, image));
        image.map(|image| connect_schema::record(image).map(|record| connect_schema::relaxed(&record))).transpose()
    }

    /// The schema of a table that is to hold rows like these; without columns when they tell nothing.
    ///
    /// # Errors
    /// `Internal` when the columns make no valid schema.
    pub fn table_schema(&self, raw: &RawBatch, how: Inference<'_>) -> Result<Schema> {
        let invalid = || "the columns of the rows make no schema";
        let empty = || Schema::builder().build().context(ErrorKind::Internal, invalid);
        let beside = Beside::new(&[], &self.columns)?;
        let (mut texts, mut first, mut columns, mut before) = (Vec::new(), None, None, StructShape::default());
        for row in raw.rows.iter().take(how.rows) {
            let Ok(text) = self.text(raw.bytes(*row)) else { continue };
            let Ok(parts) = Parts::read(text, None, self.is_event()) else { continue };
            let Ok(change) = self.change(&beside, &parts) else { continue };
            if let (None, Some(schema)) = (&columns, parts.get(Part::Schema)) {
                let schema = serde_json::from_str(schema).ok();
                columns = schema.and_then(|schema| self.record(&schema).ok().flatten());
            }
            if let (Some((_, image)), None) = (change.image, parts.get(Part::Schema)) {
                let blanked = self.marks.blank(image).ok().flatten();
                texts.push(blanked.map_or_else(|| image.to_owned(), |blanked| blanked.text));
                before.merge(change.before.and_then(|before| shape(before).ok()).unwrap_or_default());
            }
            first = first.or(Some(change));
        }
        let Some(first) = first else { return empty() };
        let typed = columns.map(|record| avro_columns::fields_of(&record, how.nanos));
        let (fields, before) = match typed {
            Some(fields) => (fields.clone(), Some(Type::Struct(StructType::new(fields)))),
            None => {
                let reserved = self.reserved(how);
                let schema = infer::infer(texts.iter().map(String::as_bytes), &reserved, how.limits)?.schema;
                let mut growth = Growth::new(&empty()?, 0, how.limits, GrowthOrder::Appearance);
                let before = growth.fields("", 0, &before);
                let before = (!before.is_empty()).then(|| Type::Struct(StructType::new(before)));
                (schema.as_struct().fields().to_vec(), before)
            }
        };
        self.table_of(&first, fields, before.as_ref(), how)
    }

    /// The schema of a table that is to hold changes like `first`, of rows with these fields; `before` is the type of the row
    /// before.
    ///
    /// # Errors
    /// `Internal` when they make no valid schema.
    pub(crate) fn table_of(
        &self,
        first: &Change<'_>,
        fields: Vec<NestedFieldRef>,
        before: Option<&Type>,
        how: Inference<'_>,
    ) -> Result<Schema> {
        let reserved: BTreeSet<String> = self.reserved(how).keys().map(|name| name.to_lowercase()).collect();
        let own = fields.into_iter().filter(|field| !reserved.contains(&field.name.to_lowercase()));
        let fields = own.chain(new_columns(&self.columns, first, before)).collect();
        typed_schema(fields, &BTreeMap::new(), how.limits)
    }

    /// Names that the rows' own fields cannot have.
    fn reserved(&self, how: Inference<'_>) -> BTreeMap<String, MetadataColumn> {
        let beside = self.columns.keys().map(|name| (name.clone(), MetadataColumn::Origin));
        how.metadata.clone().into_iter().chain(beside).collect()
    }
}

/// The shape of an object.
fn shape(text: &str) -> Result<StructShape, Fault> {
    let mut scanner = Scanner::new(text);
    match scanner.peek()? {
        Kind::Object => StructShape::read(&mut scanner),
        other => Err(not_an_object(other)),
    }
}

#[cold]
fn not_an_object(found: Kind) -> Fault {
    Fault::value(format!("{} where an object is expected", found.as_str()))
}

impl EnvelopeDecoder {
    /// A decoder to `schema`, except for the columns that `options` names as metadata.
    ///
    /// # Errors
    /// `Unsupported` when the schema has a column that no value can fill, such as a map with struct keys.
    pub fn new(schema: &SchemaRef, format: Arc<EnvelopeFormat>, options: DecoderOptions) -> Result<Self> {
        Ok(Self {
            table: EnvelopeTable::new(schema, &format.columns, &options.json.metadata)?,
            on_change: options.json.on_change,
            epoch: options.json.epoch,
            terms: Terms { epoch: options.json.epoch, nanos: options.nanos, json: true },
            known: RwLock::default(),
            format,
        })
    }

    /// Decodes, and says what the rows hold that the schema does not: as
    /// [`JsonDecoder::decode_observed`](crate::decode::json::JsonDecoder::decode_observed) does.
    pub fn decode_observed(&self, raw: &RawBatch) -> (Batch, Observed) {
        self.decode_as(raw, self.on_change)
    }

    /// The same under another policy.
    pub fn decode_as(&self, raw: &RawBatch, on_change: OnChange) -> (Batch, Observed) {
        let mut run = Run {
            decoder: self,
            raw,
            length: 0,
            columns: self.table.columns(raw),
            filler: JsonFiller::new(on_change),
            appender: Appender::new(on_change, self.epoch),
            last: None,
            noted: BTreeSet::new(),
            observed: Observed::default(),
        };
        let appended = append_all(raw, &mut run);
        run.observed.ignored = run.filler.tally.ignored + run.appender.ignored;
        run.observed.added.retain(|_, shape| shape.fields().next().is_some());
        (self.table.batch(run.columns, raw, appended), run.observed)
    }

    /// A row's schema laid onto the table; none where it has none.
    fn laid(&self, run: &mut Run<'_>, parts: &Parts<'_>) -> Option<Lookup> {
        if parts.same_schema {
            return run.last.as_ref().map(|(_, laid)| laid.clone());
        }
        let text = parts.get(Part::Schema)?;
        let known = self.known.read().unwrap_or_else(PoisonError::into_inner);
        let held = known.laid.get_key_value(text).map(|(text, laid)| (Arc::clone(text), laid.clone()));
        drop(known);
        let (text, laid) = held.unwrap_or_else(|| self.lay(text));
        // Only what ends by itself can be told by its beginning.
        if text.starts_with('{') {
            run.last = Some((text, laid.clone()));
        }
        Some(laid)
    }

    #[cold]
    fn lay(&self, text: &str) -> (Arc<str>, Lookup) {
        let text: Arc<str> = text.into();
        let mut known = self.known.write().unwrap_or_else(PoisonError::into_inner);
        if known.laid.len() >= SCHEMAS_MAX || known.bytes + text.len() > BYTES_MAX {
            known.laid.clear();
            known.bytes = 0;
        }
        let parsed = serde_json::from_str(&text).context(ErrorKind::Input, || "no JSON");
        let laid = parsed.and_then(|schema| self.lay_parsed(&schema, known.next));
        let laid = laid.map(Arc::new).map_err(|error| Fault::value(error.to_string()).in_field("schema"));
        known.next += 1;
        known.bytes += text.len();
        known.laid.insert(Arc::clone(&text), laid.clone());
        (text, laid)
    }

    fn lay_parsed(&self, schema: &serde_json::Value, number: u64) -> Result<Laid> {
        let mut laid = Laid { number, image: None, before: None, before_kind: None, needs: Observed::default() };
        let Some(record) = self.format.record(schema)?.map(Arc::new) else { return Ok(laid) };
        let image = fit(&record, &self.table.image, self.terms);
        laid.needs.merge(image.needs.clone());
        laid.image = Some(image);
        let kind = AvroType::Record(record);
        for column in self.table.beside.of(DebeziumColumn::Before) {
            let (step, needs) = fit_column(&kind, column, self.terms);
            laid.before = Some(step);
            laid.needs.merge(needs);
        }
        let field = avro_columns::field_of("before", &kind, self.terms.nanos);
        laid.before_kind = field.map(|field| Arc::new(field.field_type.as_ref().clone()));
        Ok(laid)
    }

    fn typed(&self, run: &mut Run<'_>, laid: &Laid, change: &Change<'_>) -> Result<(), Fault> {
        run.filler.tally.begin(change.bytes());
        let done = self.fill_typed(run, laid, change);
        if run.filler.tally.on_change == OnChange::Evolve {
            if !laid.needs.is_settled() && run.noted.insert(laid.number) {
                run.observed.merge(laid.needs.clone());
            }
            run.observed.relaxed.extend(run.filler.tally.nulls.iter().copied());
            let before = laid.before_kind.clone().map(Shape::Typed);
            self.table.note_beside(&mut run.columns, change, before, &mut run.observed);
        }
        run.filler.tally.end(done)
    }

    fn fill_typed(&self, run: &mut Run<'_>, laid: &Laid, change: &Change<'_>) -> Result<(), Fault> {
        let mut unavailable = Vec::new();
        let Run { columns, filler, length, .. } = run;
        match (change.image, &laid.image) {
            (Some((field, image)), Some(fitted)) => {
                let blanked = self.blank(image, "", &mut unavailable)?;
                let mut scanner = Scanner::new(blanked.as_deref().unwrap_or(image));
                let done = filler.record(&fitted.root, &self.table.image, &mut columns.image, *length, &mut scanner);
                done.map_err(|fault| fault.in_field(field))?;
            }
            (Some((field, _)), None) => return Err(Fault::value("the row's schema has no such field").in_field(field)),
            (None, _) => filler.tally.rest(&self.table.image, &mut columns.image, *length)?,
        }
        let before = change.before.zip(laid.before.as_ref());
        let blanked = match before {
            Some((text, _)) => self.blank(text, "before.", &mut unavailable)?,
            None => None,
        };
        self.table.fill_beside(columns, change, &unavailable, |plan, column| match before {
            Some((text, step)) => {
                filler.value(step, plan, column, &mut Scanner::new(blanked.as_deref().unwrap_or(text)))
            }
            None => filler.tally.null(plan, column, "missing"),
        })
    }

    fn inferred(&self, run: &mut Run<'_>, change: &Change<'_>) -> Result<(), Fault> {
        let ignored = run.appender.ignored;
        run.appender.unknown.clear();
        let Err(fault) = self.fill_inferred(run, change) else {
            self.note_inferred(run, change);
            return Ok(());
        };
        if fault.evolvable && run.appender.on_change == OnChange::Evolve {
            // The same once more, noting what the schema lacks instead of giving up at the first lack.
            run.truncate(run.length);
            run.appender.unknown.clear();
            run.appender.observed = Some(Observed::default());
            let second = self.fill_inferred(run, change);
            let seen = run.appender.observed.take().unwrap_or_default();
            if let Err(hopeless) = second {
                run.appender.ignored = ignored;
                return Err(hopeless);
            }
            run.observed.merge(seen);
            self.note_inferred(run, change);
        }
        run.appender.ignored = ignored;
        Err(fault)
    }

    fn note_inferred(&self, run: &mut Run<'_>, change: &Change<'_>) {
        run.observed.add_all(&mut run.appender.unknown);
        if run.appender.on_change == OnChange::Evolve {
            self.table.note_beside(&mut run.columns, change, None, &mut run.observed);
            self.note_before(run, change);
        }
    }

    fn fill_inferred(&self, run: &mut Run<'_>, change: &Change<'_>) -> Result<(), Fault> {
        let mut unavailable = Vec::new();
        let Run { columns, appender, length, .. } = run;
        appender.budget.begin(change.bytes());
        match change.image {
            Some((field, image)) => {
                let blanked = self.blank(image, "", &mut unavailable)?;
                let mut scanner = Scanner::new(blanked.as_deref().unwrap_or(image));
                scanner.peek()?;
                let done = appender.object(&self.table.image, &mut columns.image, *length, &mut scanner);
                done.map_err(|fault| fault.in_field(field))?;
            }
            None => appender.rest(&self.table.image, &mut columns.image, *length)?,
        }
        let wanted = self.table.beside.of(DebeziumColumn::Before).next().is_some();
        let before = change.before.filter(|_| wanted);
        let blanked = match before {
            Some(text) => self.blank(text, "before.", &mut unavailable)?,
            None => None,
        };
        self.table.fill_beside(columns, change, &unavailable, |plan, column| match before {
            Some(text) => appender.value(plan, column, &mut Scanner::new(blanked.as_deref().unwrap_or(text))),
            None => appender.null(plan, column, "missing"),
        })
    }

    /// An image without marks for values that were not sent, where it has some: their names are told.
    fn blank(&self, image: &str, prefix: &str, unavailable: &mut Vec<String>) -> Result<Option<String>, Fault> {
        if !self.format.is_event() {
            return Ok(None);
        }
        let Some(Blanked { text, names }) = self.format.marks.blank(image)? else { return Ok(None) };
        unavailable.extend(names.into_iter().map(|name| format!("{prefix}{name}")));
        Ok(Some(text))
    }

    /// Notes what the row before holds, where the table lacks a column for it and no schema says it.
    fn note_before(&self, run: &mut Run<'_>, change: &Change<'_>) {
        let Some((name, _)) = self.table.beside.lacking.iter().find(|(_, what)| *what == DebeziumColumn::Before) else {
            return;
        };
        let Some(before) = change.before else { return };
        let blanked = self.format.marks.blank(before).ok().flatten();
        if let Ok(shape) = shape(blanked.as_ref().map_or(before, |blanked| &blanked.text)) {
            run.observed.added.entry(None).or_default().insert(name, Shape::Struct(shape));
        }
    }
}

impl Sink for Run<'_> {
    fn row(&mut self, row: RawRow, length: usize) -> Result<(), Fault> {
        let decoder = self.decoder;
        self.length = length;
        let text = decoder.format.text(self.raw.bytes(row))?;
        let last = self.last.as_ref().map(|(text, _)| Arc::clone(text));
        let parts = Parts::read(text, last.as_deref(), decoder.format.is_event())?;
        let laid = decoder.laid(self, &parts).transpose()?;
        let change = decoder.format.change(&decoder.table.beside, &parts)?;
        if let Some((field, image)) = change.image {
            let kind = Scanner::new(image).peek()?;
            if kind != Kind::Object {
                return Err(not_an_object(kind).in_field(field));
            }
        }
        match laid {
            Some(laid) => decoder.typed(self, &laid, &change),
            None => decoder.inferred(self, &change),
        }
    }

    fn truncate(&mut self, length: usize) {
        self.columns.truncate(length);
    }
}

#[cfg(test)]
mod tests;
