//! The names in a manifest or a manifest list, without their values: bounds and counts are most of a manifest and most of the
//! time to read it.
//!
//! Proofs of never and sweeps ask of thousands of manifests which files they name, and nothing else. The values between are
//! passed over as the writer's own schema lays them out. What is not as every writer of manifests does it is left to the
//! library. Source: Avro 1.11 specification, "Binary encoding".

use std::collections::BTreeMap;
use std::io::Read;
use std::sync::{Arc, Mutex, PoisonError};

use flate2::read::DeflateDecoder;
use serde_json::Value;

use crate::commit::avro::{CODEC, Container, Cursor, SCHEMA, broken};
use crate::commit::manifests::{Listing, Named};
use crate::error::{Context, ErrorKind, Result};

/// A schema nested deeper is left to the library.
const DEPTH_MAX: u32 = 32;
/// A block that unpacks to more is no manifest's.
const BLOCK_BYTES_MAX: u64 = 1 << 30;

/// The names of all entries; `None` for a manifest that only the library can read.
///
/// # Errors
/// `Corrupt` when it ends early or says what its schema does not allow.
pub fn named(bytes: &[u8], plans: &Plans) -> Result<Option<Vec<Named>>> {
    rows(bytes, plans, Plan::is_of_entries, Plan::entry)
}

/// The manifests of a list; `None` for one that only the library can read: all those of format version 1.
///
/// # Errors
/// `Corrupt` when it ends early or says what its schema does not allow.
pub fn listed(bytes: &[u8], plans: &Plans) -> Result<Option<Vec<Listing>>> {
    rows(bytes, plans, Plan::is_of_manifests, Plan::manifest)
}

/// What `read` makes of each row of a container whose layout `fits`.
pub(super) fn rows<T>(
    bytes: &[u8],
    plans: &Plans,
    fits: fn(&Plan) -> bool,
    mut read: impl FnMut(&Plan, &mut Cursor<'_>) -> Result<T>,
) -> Result<Option<Vec<T>>> {
    let container = Container::parse(bytes)?;
    let plan = container.header.get(SCHEMA).and_then(|text| plans.of(text));
    let Some(plan) = plan.filter(|plan| fits(plan)) else {
        return Ok(None);
    };
    let deflated = match container.header.get(CODEC).map(Vec::as_slice) {
        None | Some(b"null") => false,
        Some(b"deflate") => true,
        Some(_) => return Ok(None),
    };
    let mut found = Vec::new();
    let mut rest = Cursor(container.blocks);
    let mut unpacked = Vec::new();
    while !rest.0.is_empty() {
        let count = rest.long()?;
        let mut block = rest.bytes()?;
        if rest.take(16)? != container.sync {
            return Err(broken("has a block that does not end in its sync marker"));
        }
        if deflated {
            unpacked.clear();
            let read = DeflateDecoder::new(block).take(BLOCK_BYTES_MAX).read_to_end(&mut unpacked);
            read.context(ErrorKind::Corrupt, || "an Avro block cannot be unpacked")?;
            block = &unpacked;
        }
        let mut cursor = Cursor(block);
        for _ in 0..count {
            found.push(read(&plan, &mut cursor)?);
        }
    }
    Ok(Some(found))
}

/// How manifests and lists read so far were laid out: those of a table are all alike, and understanding a schema takes longer
/// than passing over a small manifest.
#[derive(Debug, Default)]
pub struct Plans(Mutex<Vec<(Vec<u8>, Arc<Plan>)>>);

/// Layouts remembered: one for lists, one for each partition spec, and each writer's.
const PLANS_MAX: usize = 16;

impl Plans {
    fn of(&self, schema: &[u8]) -> Option<Arc<Plan>> {
        let mut held = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, plan)) = held.iter().find(|(text, _)| text == schema) {
            return Some(Arc::clone(plan));
        }
        let plan = Arc::new(Plan::of(schema)?);
        if held.len() == PLANS_MAX {
            held.clear();
        }
        held.push((schema.to_vec(), Arc::clone(&plan)));
        Some(plan)
    }
}

/// How the values of a schema are laid out.
#[derive(Debug)]
pub(super) enum Shape {
    Null,
    Boolean,
    Varint,
    Fixed(usize),
    Bytes,
    Array(Box<Shape>),
    Map(Box<Shape>),
    Union(Vec<Shape>),
    Record(Vec<(String, Shape)>),
}

impl Shape {
    fn of(schema: &Value, known: &mut BTreeMap<String, Value>, depth: u32) -> Option<Self> {
        let below = depth.checked_sub(1)?;
        let kind = match schema {
            Value::String(kind) => kind.as_str(),
            Value::Array(branches) => {
                return branches
                    .iter()
                    .map(|branch| Self::of(branch, known, below))
                    .collect::<Option<_>>()
                    .map(Self::Union);
            }
            Value::Object(members) => match members.get("type")? {
                Value::String(kind) => kind.as_str(),
                nested => return Self::of(nested, known, below),
            },
            _ => return None,
        };
        if let (Some(name), "record" | "fixed" | "enum") = (schema.get("name").and_then(Value::as_str), kind) {
            known.insert(name.to_owned(), schema.clone());
        }
        Some(match kind {
            "null" => Self::Null,
            "boolean" => Self::Boolean,
            "int" | "long" | "enum" => Self::Varint,
            "float" => Self::Fixed(4),
            "double" => Self::Fixed(8),
            "bytes" | "string" => Self::Bytes,
            "fixed" => Self::Fixed(usize::try_from(schema.get("size")?.as_u64()?).ok()?),
            "array" => Self::Array(Box::new(Self::of(schema.get("items")?, known, below)?)),
            "map" => Self::Map(Box::new(Self::of(schema.get("values")?, known, below)?)),
            "record" => {
                let field = |field: &Value, known: &mut _| {
                    Some((field.get("name")?.as_str()?.to_owned(), Self::of(field.get("type")?, known, below)?))
                };
                let fields = schema.get("fields")?.as_array()?;
                Self::Record(fields.iter().map(|f| field(f, known)).collect::<Option<_>>()?)
            }
            name => {
                let named = known.get(name)?.clone();
                Self::of(&named, known, below)?
            }
        })
    }

    pub(super) fn pass(&self, cursor: &mut Cursor<'_>) -> Result<()> {
        match self {
            Self::Null => {}
            Self::Boolean => drop(cursor.take(1)?),
            Self::Varint => drop(cursor.long()?),
            Self::Fixed(size) => drop(cursor.take(*size)?),
            Self::Bytes => drop(cursor.bytes()?),
            Self::Array(item) => items(cursor, |cursor| item.pass(cursor))?,
            Self::Map(value) => items(cursor, |cursor| {
                cursor.bytes()?;
                value.pass(cursor)
            })?,
            Self::Union(branches) => branch(branches, cursor)?.pass(cursor)?,
            Self::Record(fields) => fields.iter().try_for_each(|(_, shape)| shape.pass(cursor))?,
        }
        Ok(())
    }

    /// How the value at the cursor is laid out, past its unions; `None` for a null.
    pub(super) fn held(&self, cursor: &mut Cursor<'_>) -> Result<Option<&Self>> {
        match self {
            Self::Null => Ok(None),
            Self::Union(branches) => branch(branches, cursor)?.held(cursor),
            shape => Ok(Some(shape)),
        }
    }

    /// The number at the cursor; `None` for a null.
    pub(super) fn number(&self, cursor: &mut Cursor<'_>) -> Result<Option<i64>> {
        match self {
            Self::Varint => Ok(Some(cursor.long()?)),
            Self::Union(branches) => branch(branches, cursor)?.number(cursor),
            Self::Null => Ok(None),
            _ => Err(broken("has a number of another type")),
        }
    }
}

/// The blocks of an array or a map.
fn items(cursor: &mut Cursor<'_>, mut item: impl FnMut(&mut Cursor<'_>) -> Result<()>) -> Result<()> {
    loop {
        let count = cursor.long()?;
        if count == 0 {
            return Ok(());
        }
        if count < 0 {
            cursor.bytes()?; // the block's size is given, so that it can be passed over whole
            continue;
        }
        for _ in 0..count {
            // Items take a byte or more: those of no size would make a short file a long loop.
            if cursor.0.is_empty() {
                return Err(broken("ends within a list"));
            }
            item(cursor)?;
        }
    }
}

fn branch<'a>(branches: &'a [Shape], cursor: &mut Cursor<'_>) -> Result<&'a Shape> {
    let at = usize::try_from(cursor.long()?).ok();
    at.and_then(|at| branches.get(at)).ok_or_else(|| broken("has a value of no branch of its union"))
}

/// The fields of a row.
#[derive(Debug)]
pub(super) struct Plan(pub(super) Vec<(String, Shape)>);

fn is_number(shape: &Shape) -> bool {
    matches!(shape, Shape::Varint)
}

fn is_text(shape: &Shape) -> bool {
    matches!(shape, Shape::Bytes)
}

fn has(fields: &[(String, Shape)], name: &str, fits: fn(&Shape) -> bool) -> bool {
    fields.iter().any(|(held, shape)| held == name && fits(shape))
}

impl Plan {
    fn of(schema: &[u8]) -> Option<Self> {
        let schema: Value = serde_json::from_slice(schema).ok()?;
        match Shape::of(&schema, &mut BTreeMap::new(), DEPTH_MAX)? {
            Shape::Record(fields) => Some(Self(fields)),
            _ => None,
        }
    }

    /// Whether the rows are a manifest's entries.
    pub(super) fn is_of_entries(&self) -> bool {
        let file = self.0.iter().find_map(|(name, shape)| match shape {
            Shape::Record(fields) if name == "data_file" => Some(fields),
            _ => None,
        });
        has(&self.0, "status", is_number)
            && file.is_some_and(|file| has(file, "file_path", is_text) && has(file, "file_size_in_bytes", is_number))
    }

    /// Whether the rows are a list's manifests.
    fn is_of_manifests(&self) -> bool {
        has(&self.0, "manifest_path", is_text)
            && has(&self.0, "sequence_number", is_number)
            && has(&self.0, "added_snapshot_id", is_number)
    }

    fn manifest(&self, cursor: &mut Cursor<'_>) -> Result<Listing> {
        let mut listing = Listing { location: String::new(), seq: 0, snapshot_id: 0 };
        for (name, shape) in &self.0 {
            match name.as_str() {
                "manifest_path" => listing.location = text(cursor)?,
                "sequence_number" => listing.seq = cursor.long()?,
                "added_snapshot_id" => listing.snapshot_id = cursor.long()?,
                _ => shape.pass(cursor)?,
            }
        }
        Ok(listing)
    }

    fn entry(&self, cursor: &mut Cursor<'_>) -> Result<Named> {
        let mut entry = Named { location: String::new(), bytes: 0, live: false, snapshot_id: None };
        for (name, shape) in &self.0 {
            match (name.as_str(), shape) {
                // 0 EXISTING, 1 ADDED, 2 DELETED
                ("status", shape) => entry.live = matches!(shape.number(cursor)?, Some(0 | 1)),
                ("snapshot_id", shape) => entry.snapshot_id = shape.number(cursor)?,
                ("data_file", Shape::Record(fields)) => file(fields, cursor, &mut entry)?,
                (_, shape) => shape.pass(cursor)?,
            }
        }
        Ok(entry)
    }
}

/// The text at the cursor.
pub(super) fn text(cursor: &mut Cursor<'_>) -> Result<String> {
    let path = std::str::from_utf8(cursor.bytes()?);
    Ok(path.context(ErrorKind::Corrupt, || "a path is not UTF-8")?.to_owned())
}

fn file(fields: &[(String, Shape)], cursor: &mut Cursor<'_>, entry: &mut Named) -> Result<()> {
    for (name, shape) in fields {
        match name.as_str() {
            "file_path" => entry.location = text(cursor)?,
            "file_size_in_bytes" => {
                let size = shape.number(cursor)?.and_then(|size| u64::try_from(size).ok());
                entry.bytes = size.ok_or_else(|| broken("has a file of negative size"))?;
            }
            _ => shape.pass(cursor)?,
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
