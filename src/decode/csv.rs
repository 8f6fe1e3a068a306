//! Rows of values with a mark between them, one a line. Their names are configured, or stand in the first line of each file, which
//! its batches have with them: a line alone does not say them.
//!
//! A value may be in quotes; a quote within them is written twice. What it is follows from its column, as with texts in JSON:
//! `true` and `false`, numbers, dates and timestamps, also numbers since the epoch, base64. An unquoted value that is the
//! text for NULL, which is none at all unless it is configured, is NULL.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use iceberg::spec::{PrimitiveType, Schema, SchemaRef};

use crate::config::{CsvConfig, MetadataColumn, OnChange};
use crate::decode::append::{Appender, Scalar};
use crate::decode::columns::Columns;
use crate::decode::fault::Fault;
use crate::decode::growth::{Growth, GrowthLimits, GrowthOrder};
use crate::decode::json::JsonOptions;
use crate::decode::observe::{Observed, Shape, StructShape};
use crate::decode::plan::{Kind, StructPlan};
use crate::decode::rows::{Sink, Target, append_all};
use crate::decode::scan::number_text;
use crate::error::{Context, ErrorKind, Result};
use crate::model::batch::{Batch, RawBatch, RawRow};

/// Names that a file's line of them may have.
const NAMES_MAX: usize = 10_000;

/// Decodes one line per row to the columns of one table schema.
#[derive(Debug)]
pub struct CsvDecoder {
    config: Arc<CsvConfig>,
    target: Target,
    options: JsonOptions,
    /// Where values go that have the configured names.
    places: Arc<Places>,
    /// The last file's line of names, and what it says: its batches come one after the other.
    last: Mutex<Option<Header>>,
}

/// A line of names, and where its values go.
#[derive(Debug)]
struct Header {
    line: Option<Bytes>,
    places: Result<Arc<Places>, Fault>,
}

/// One batch on its way.
struct Run<'a> {
    decoder: &'a CsvDecoder,
    raw: &'a RawBatch,
    places: Result<Arc<Places>, Fault>,
    columns: Columns,
    appender: Appender,
    observed: Observed,
}

/// Where the values of a row go.
#[derive(Debug)]
struct Places {
    /// Their names.
    names: Vec<String>,
    /// The column of each.
    targets: Vec<Option<usize>>,
    /// Columns that no value is for.
    absent: Vec<usize>,
}

impl Places {
    fn of(plan: &StructPlan, names: Vec<String>) -> Self {
        let targets: Vec<Option<usize>> = names.iter().map(|name| plan.find(name)).collect();
        let mut absent = vec![true; plan.fields.len()];
        for target in targets.iter().flatten() {
            if let Some(absent) = absent.get_mut(*target) {
                *absent = false;
            }
        }
        let absent = (0_usize..).zip(absent).filter_map(|(index, absent)| absent.then_some(index)).collect();
        Self { names, targets, absent }
    }
}

/// The names that a file's line of them has.
fn header_names(config: &CsvConfig, header: Option<&Bytes>) -> Result<Vec<String>, Fault> {
    let fault = |what: String| Fault::row(format!("the line that names the file's values: {what}"));
    let line = header.ok_or_else(|| fault("it is not there, or longer than row_bytes_max".to_owned()))?;
    let mut values = Values::of(config, line).map_err(|_| fault("it is empty, or no UTF-8".to_owned()))?;
    let (mut names, mut seen) = (Vec::new(), BTreeSet::new());
    while let Some(Value { text, .. }) = values.next().map_err(|own| fault(own.reason.clone()))? {
        if names.len() == NAMES_MAX {
            return Err(fault(format!("it has more than {NAMES_MAX} names")));
        }
        // As with configured ones: engines do not tell names apart that differ in case only.
        match (text.trim().is_empty(), seen.insert(text.to_lowercase())) {
            (true, _) => return Err(fault(format!("name {} is empty", names.len() + 1))),
            (false, false) => return Err(fault(format!("it has the name {text:?} twice"))),
            (false, true) => names.push(text.into_owned()),
        }
    }
    Ok(names)
}

/// A value as it is written.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Value<'a> {
    text: Cow<'a, str>,
    quoted: bool,
}

/// The values of a row.
struct Values<'a> {
    config: &'a CsvConfig,
    rest: Option<&'a str>,
    at: usize,
}

impl<'a> Values<'a> {
    fn of(config: &'a CsvConfig, row: &'a [u8]) -> Result<Self, Fault> {
        let text = std::str::from_utf8(row)
            .map_err(|e| Fault::row(format!("invalid UTF-8 after byte {}", e.valid_up_to())))?;
        // Messages may end as lines do.
        let text = text.strip_suffix('\n').unwrap_or(text);
        let text = text.strip_suffix('\r').unwrap_or(text);
        // As sources see it: white space may be the mark, or a value.
        if text.is_empty() {
            return Err(Fault::row("the row is empty"));
        }
        Ok(Self { config, rest: Some(text), at: 0 })
    }

    /// The next value; `None` after the last.
    fn next(&mut self) -> Result<Option<Value<'a>>, Fault> {
        let Some(rest) = self.rest else { return Ok(None) };
        let (delimiter, quote) = (self.config.delimiter, self.config.quote);
        let Some(inner) = rest.strip_prefix(quote) else {
            let end = rest.find(delimiter);
            self.go_on(rest, end.unwrap_or(rest.len()), end.is_some());
            return Ok(Some(Value { text: Cow::Borrowed(&rest[..end.unwrap_or(rest.len())]), quoted: false }));
        };
        let mut text = Cow::Borrowed("");
        let mut from = 0;
        loop {
            let Some(length) = inner[from..].find(quote) else {
                return Err(Fault::row(format!("a value in quotes has no end; it begins at byte {}", self.at)));
            };
            let (part, after) = (&inner[from..from + length], &inner[from + length + quote.len_utf8()..]);
            if text.is_empty() {
                text = Cow::Borrowed(part);
            } else {
                text.to_mut().push_str(part);
            }
            if after.starts_with(quote) {
                text.to_mut().push(quote);
                from += length + 2 * quote.len_utf8();
                continue;
            }
            let end = rest.len() - after.len();
            if !after.is_empty() && !after.starts_with(delimiter) {
                let what = format!("a value goes on after its quotes, at byte {}", self.at + end);
                return Err(Fault::row(what));
            }
            self.go_on(rest, end, !after.is_empty());
            return Ok(Some(Value { text, quoted: true }));
        }
    }

    fn go_on(&mut self, rest: &'a str, end: usize, more: bool) {
        let next = end + self.config.delimiter.len_utf8();
        self.rest = if more { rest.get(next..) } else { None };
        self.at += next;
    }

    /// All of them, which must be as many as there are names.
    fn all(mut self, names: usize) -> Result<Vec<Value<'a>>, Fault> {
        match self.kept(names)? {
            (values, count) if count == names => Ok(values),
            (_, count) => {
                let of = if self.config.header { "the line that names them" } else { "decode.csv.columns" };
                Err(Fault::row(format!("the row has {count} values, not the {names} of {of}")))
            }
        }
    }

    /// As many as there are names at most, and how many there are: a row of marks alone has more than memory should hold.
    fn kept(&mut self, names: usize) -> Result<(Vec<Value<'a>>, usize), Fault> {
        let (mut values, mut count) = (Vec::with_capacity(names), 0);
        while let Some(value) = self.next()? {
            if count < names {
                values.push(value);
            }
            count += 1;
        }
        Ok((values, count))
    }
}

impl Value<'_> {
    fn is_null(&self, config: &CsvConfig) -> bool {
        !self.quoted && self.text == config.null.as_str()
    }

    fn shape(&self, config: &CsvConfig) -> Shape {
        if self.is_null(config) {
            return Shape::Unknown;
        }
        match (self.text.as_ref(), number_text(&self.text)) {
            ("true" | "false", _) => Shape::Boolean,
            (_, Some(number)) => Shape::of_number(number),
            (text, None) => Shape::of_text(text),
        }
    }
}

impl Sink for Run<'_> {
    fn row(&mut self, row: RawRow, length: usize) -> Result<(), Fault> {
        let Self { decoder, raw, places, columns, appender, observed } = self;
        let places = places.as_deref().map_err(Fault::clone)?;
        let values = Values::of(&decoder.config, raw.bytes(row))?.all(places.names.len())?;
        let ignored = appender.ignored;
        appender.unknown.clear();
        let first = decoder.values(appender, columns, places, &values);
        let Err(fault) = first else {
            observed.add_all(&mut appender.unknown);
            return Ok(());
        };
        appender.ignored = ignored;
        if fault.evolvable && appender.on_change == OnChange::Evolve {
            // Once more, to note all that the schema lacks for it.
            columns.truncate(length);
            appender.unknown.clear();
            appender.observed = Some(Observed::default());
            let second = decoder.values(appender, columns, places, &values);
            let seen = appender.observed.take().unwrap_or_default();
            appender.ignored = ignored;
            second?;
            observed.merge(seen);
            observed.add_all(&mut appender.unknown);
        }
        Err(fault)
    }

    fn truncate(&mut self, length: usize) {
        self.columns.truncate(length);
    }
}

impl CsvDecoder {
    /// A decoder to `schema`, except for the columns that `options` names as metadata.
    ///
    /// # Errors
    /// `Unsupported` when the schema has a column that cannot be filled.
    pub fn new(schema: &SchemaRef, config: Arc<CsvConfig>, options: JsonOptions) -> Result<Self> {
        let target = Target::new(schema, &options.metadata)?;
        let places = Arc::new(Places::of(&target.plan, config.columns.clone()));
        Ok(Self { config, target, options, places, last: Mutex::new(None) })
    }

    /// Where the values of a batch go.
    fn places(&self, raw: &RawBatch) -> Result<Arc<Places>, Fault> {
        if !self.config.header {
            return Ok(Arc::clone(&self.places));
        }
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = last.as_ref().filter(|known| known.line == raw.header) {
            return known.places.clone();
        }
        let names = header_names(&self.config, raw.header.as_ref());
        let places = names.map(|names| Arc::new(Places::of(&self.target.plan, names)));
        *last = Some(Header { line: raw.header.as_deref().map(Bytes::copy_from_slice), places: places.clone() });
        places
    }

    /// As [`JsonDecoder::decode_observed`](crate::decode::json::JsonDecoder::decode_observed) does.
    pub fn decode_observed(&self, raw: &RawBatch) -> (Batch, Observed) {
        self.decode_as(raw, self.options.on_change)
    }

    /// The same under another policy.
    pub fn decode_as(&self, raw: &RawBatch, on_change: OnChange) -> (Batch, Observed) {
        let mut run = Run {
            decoder: self,
            raw,
            places: self.places(raw),
            columns: self.target.columns(raw),
            appender: Appender::new(on_change, self.options.epoch),
            observed: Observed::default(),
        };
        let appended = append_all(raw, &mut run);
        let Run { columns, appender, mut observed, .. } = run;
        observed.ignored = appender.ignored;
        observed.added.retain(|_, shape| shape.fields().next().is_some());
        (self.target.batch(columns, raw, appended), observed)
    }

    fn values(
        &self,
        appender: &mut Appender,
        columns: &mut Columns,
        places: &Places,
        values: &[Value<'_>],
    ) -> Result<(), Fault> {
        for ((value, target), name) in values.iter().zip(&places.targets).zip(&places.names) {
            let found =
                target.and_then(|index| Some((self.target.plan.fields.get(index)?, columns.columns.get_mut(index)?)));
            let done = match found {
                None => self.unknown(appender, name, value),
                Some((plan, column)) if value.is_null(&self.config) => appender.null(plan, column, "null"),
                Some((plan, column)) => match &plan.kind {
                    Kind::Primitive(kind) => appender.scalar(plan, kind, column, &scalar(value, kind)),
                    _ => Err(Fault::value("the column holds more than one value, and CSV has none for that")),
                },
            };
            done.map_err(|fault| fault.in_field(name))?;
        }
        for index in &places.absent {
            let found = self.target.plan.fields.get(*index).zip(columns.columns.get_mut(*index));
            let Some((plan, column)) = found else { continue };
            match &plan.default {
                Some(default) => column.constant(default)?,
                None => appender.null(plan, column, "missing").map_err(|fault| fault.in_field(&plan.name))?,
            }
        }
        Ok(())
    }

    /// Deals with a value whose name is no column.
    #[cold]
    fn unknown(&self, appender: &mut Appender, name: &str, value: &Value<'_>) -> Result<(), Fault> {
        let shape = value.shape(&self.config);
        if shape == Shape::Unknown {
            return Ok(());
        }
        match (appender.on_change, self.target.plan.obstacle(name)) {
            (OnChange::Quarantine, _) => return Err(Fault::value("the table has no such column")),
            (OnChange::Evolve, Some(obstacle)) => return Err(Fault::value(obstacle)),
            (OnChange::Evolve, None) => appender.unknown.push((None, name.to_owned(), shape)),
            (OnChange::Freeze, _) => {}
        }
        appender.ignored += 1;
        Ok(())
    }
}

/// A value as its column understands it.
fn scalar<'a>(value: &'a Value<'_>, kind: &PrimitiveType) -> Scalar<'a> {
    let number = match kind {
        PrimitiveType::Boolean if value.text == "true" => return Scalar::Boolean(true),
        PrimitiveType::Boolean if value.text == "false" => return Scalar::Boolean(false),
        PrimitiveType::String | PrimitiveType::Uuid | PrimitiveType::Fixed(_) | PrimitiveType::Binary => None,
        _ => number_text(&value.text),
    };
    number.map_or_else(|| Scalar::Text(Cow::Borrowed(&value.text)), Scalar::Number)
}

/// The schema that the first rows suggest for a table, with field ids from 1; all columns are optional. Their names are those of
/// `header` where it has them. Those with the name of a
/// `metadata` column, in whatever case, are left out.
///
/// # Errors
/// `Internal` when the columns make no valid schema.
pub fn table_schema<'a>(
    config: &CsvConfig,
    header: Option<&Bytes>,
    rows: impl Iterator<Item = &'a [u8]>,
    metadata: &BTreeMap<String, MetadataColumn>,
    limits: GrowthLimits,
) -> Result<Schema> {
    let mut shape = StructShape::default();
    // Without names all rows will be rejects.
    let named = if config.header { header_names(config, header).unwrap_or_default() } else { Vec::new() };
    let names = if config.header { &named } else { &config.columns };
    for row in rows {
        // Bad rows will be rejects.
        let Ok(values) = Values::of(config, row).and_then(|values| values.all(names.len())) else { continue };
        for (name, value) in names.iter().zip(&values) {
            shape.insert(name, value.shape(config));
        }
    }
    let invalid = || "the inferred columns make no schema";
    let empty = Schema::builder().build().context(ErrorKind::Internal, invalid)?;
    let mut growth = Growth::new(&empty, 0, limits, GrowthOrder::Appearance);
    let reserved: BTreeSet<String> = metadata.keys().map(|name| name.to_lowercase()).collect();
    let fields = growth.fields("", 0, &shape.without(|name| reserved.contains(&name.to_lowercase())));
    Schema::builder().with_fields(fields).build().context(ErrorKind::Internal, invalid)
}

#[cfg(test)]
mod tests;
