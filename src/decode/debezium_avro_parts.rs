//! An event in Avro taken apart: the bytes of the row before and after it, and the JSON texts of what else means something, as
//! `envelope_parts` has them of an event in JSON.

use std::sync::Arc;

use base64::Engine;

use crate::decode::append::BASE64;
use crate::decode::avro_cursor::{Cursor, present};
use crate::decode::avro_schema::{AvroType, Record, Union};
use crate::decode::connect_schema::relaxed;
use crate::decode::debezium::is_source_field;
use crate::decode::envelope_parts::{PARTS, Part, Parts, part_of};
use crate::decode::fault::Fault;

/// A writer's schema of events.
pub(crate) struct EventSchema {
    record: Arc<Record>,
    /// What each field is.
    parts: Vec<Option<Part>>,
    /// Which fields of its source are kept.
    source: Vec<bool>,
    /// The row that the event has after the change, and before it.
    pub(crate) after: Option<Arc<Image>>,
    pub(crate) before: Option<Arc<Image>>,
}

/// A row in an event.
pub(crate) struct Image {
    pub(crate) record: Arc<Record>,
    /// The same where each field may be null: that of the row's columns, for events may leave out any.
    pub(crate) relaxed: Arc<Record>,
}

/// An event.
#[derive(Default)]
pub(crate) struct Event<'a> {
    pub(crate) after: Option<&'a [u8]>,
    pub(crate) before: Option<&'a [u8]>,
    /// The texts of the others, behind each other.
    text: String,
    at: [Option<(usize, usize)>; PARTS],
    /// Fields that mean nothing.
    others: usize,
}

impl EventSchema {
    pub(crate) fn new(record: &Arc<Record>) -> Self {
        let part = |part: Part| {
            let (_, kind) = record.fields.iter().find(|(name, _)| part_of(name) == Some(part))?;
            if let AvroType::Record(record) = not_null(kind) { Some(record) } else { None }
        };
        let source = part(Part::Source).map(|source| source.fields.iter().map(|(name, _)| is_source_field(name)));
        let (after, before) = (part(Part::After).map(Image::new), part(Part::Before).map(Image::new));
        // Mostly they are one type.
        let same = |(a, b): (&Arc<Image>, &Arc<Image>)| a.record == b.record;
        let before = if after.as_ref().zip(before.as_ref()).is_some_and(same) { after.clone() } else { before };
        let part = |name: &String| part_of(name).filter(|part| !matches!(part, Part::Schema | Part::Payload));
        let parts = record.fields.iter().map(|(name, _)| part(name)).collect();
        Self { parts, source: source.into_iter().flatten().collect(), after, before, record: Arc::clone(record) }
    }

    /// Takes an event apart, all of whose bytes are looked into.
    ///
    /// # Errors
    /// A fault of the row where the bytes are none of this schema.
    pub(crate) fn read<'a>(&self, datum: &'a [u8]) -> Result<Event<'a>, Fault> {
        let (mut cursor, mut event) = (Cursor::new(datum), Event::default());
        for ((name, kind), part) in self.record.fields.iter().zip(&self.parts) {
            let value = cursor.slice(kind).map_err(|fault| fault.in_field(name))?;
            let Some(part) = part else {
                event.others += 1;
                continue;
            };
            let from = event.text.len();
            match (part, present(kind, value)) {
                (_, None) => event.text.push_str("null"),
                (Part::After, Some((AvroType::Record(_), value))) => event.after = Some(value),
                (Part::Before, Some((AvroType::Record(_), value))) => event.before = Some(value),
                (Part::Source, Some((AvroType::Record(source), value))) => {
                    object(source, &self.source, &mut Cursor::new(value), &mut event.text)?;
                }
                // That they are there says enough.
                (Part::After | Part::Before | Part::Ddl | Part::TableChanges, Some(_)) => {}
                (_, Some((kind, value))) => write(kind, &mut Cursor::new(value), &mut event.text)?,
            }
            if let Some(at) = event.at.get_mut(*part as usize) {
                *at = Some((from, event.text.len()));
            }
        }
        cursor.end()?;
        Ok(event)
    }
}

impl Image {
    fn new(record: &Arc<Record>) -> Arc<Self> {
        Arc::new(Self { record: Arc::clone(record), relaxed: Arc::new(relaxed(record)) })
    }
}

impl Event<'_> {
    /// The texts of its parts; those of its rows say no more than that they are there.
    pub(crate) fn parts(&self) -> Parts<'_> {
        let mut parts = Parts::default();
        for (held, at) in parts.held.iter_mut().zip(&self.at) {
            *held = at.and_then(|(from, to)| self.text.get(from..to));
        }
        parts.others = self.others;
        parts
    }
}

/// The type of a union's values that are not null, where there is one.
fn not_null(kind: &AvroType) -> &AvroType {
    match kind {
        AvroType::Union(branches) => match AvroType::union(branches) {
            Union::One { kind, .. } => kind,
            Union::Nothing | Union::Several => kind,
        },
        kind => kind,
    }
}

/// Appends the JSON object of a record's fields that are `kept`; those beyond it are.
fn object(record: &Record, kept: &[bool], cursor: &mut Cursor<'_>, out: &mut String) -> Result<(), Fault> {
    let mut mark = '{';
    for (index, (name, kind)) in record.fields.iter().enumerate() {
        if kept.get(index) == Some(&false) {
            cursor.skip(kind)?;
            continue;
        }
        out.push(mark);
        mark = ',';
        text(name, out);
        out.push(':');
        write(kind, cursor, out)?;
    }
    if mark == '{' {
        out.push('{');
    }
    out.push('}');
    Ok(())
}

/// Appends the JSON text of a value, of those types that an event has beside its rows; of others null.
fn write(kind: &AvroType, cursor: &mut Cursor<'_>, out: &mut String) -> Result<(), Fault> {
    match kind {
        AvroType::Union(branches) => {
            let index = cursor.index(branches.len())?;
            match branches.get(index) {
                Some(branch) => write(&branch.kind, cursor, out)?,
                None => out.push_str("null"),
            }
        }
        AvroType::Boolean => out.push_str(if cursor.boolean()? { "true" } else { "false" }),
        AvroType::Int | AvroType::Long | AvroType::Timestamp { .. } => {
            out.push_str(itoa::Buffer::new().format(cursor.long()?));
        }
        AvroType::String => text(cursor.text()?, out),
        AvroType::Enum(symbols) => {
            let index = cursor.index(symbols.len())?;
            text(symbols.get(index).map_or("", String::as_str), out);
        }
        AvroType::Bytes => text(&BASE64.encode(cursor.bytes()?), out),
        AvroType::Record(record) => object(record, &[], cursor, out)?,
        other => {
            cursor.skip(other)?;
            out.push_str("null");
        }
    }
    Ok(())
}

fn text(text: &str, out: &mut String) {
    if text.bytes().any(|byte| byte < 0x20 || byte == b'"' || byte == b'\\') {
        out.push_str(&serde_json::Value::from(text).to_string());
    } else {
        out.extend(["\"", text, "\""]);
    }
}
