//! The live entries of a manifest without what is known of their columns: what planning needs of a million files.
//!
//! Bounds and counts are most of a manifest, and as the library holds them a hundred times what is left here. They are passed
//! over as the writer's own schema lays them out; one entry of each partition is given to the library, which knows all types.
//! What is not as every writer of manifests does it is left to the library whole.

use std::collections::{BTreeMap, HashMap};

use iceberg::spec::{DataContentType, DataFile, DataFileFormat, Manifest, ManifestFile, PartitionSpec, Struct};
use serde_json::Value;

use crate::commit::avro::{Container, Cursor, SCHEMA, broken};
use crate::commit::manifests;
use crate::commit::skim::{self, Plan, Plans, Shape};
use crate::error::{Context, ErrorKind, Result};
use crate::storage::Storage;

/// Fields of an entry that the library gets.
const ENTRY: [&str; 4] = ["status", "snapshot_id", "sequence_number", "file_sequence_number"];
/// Fields of its file that the library gets: those that every file must have.
const FILE: [&str; 6] = ["content", "file_path", "file_format", "partition", "record_count", "file_size_in_bytes"];
/// The header entry with the version of the format.
const VERSION: &str = "format-version";

/// A manifest's live entries.
#[derive(Debug)]
pub(crate) struct Outline {
    /// The spec that all have.
    pub(crate) spec: PartitionSpec,
    /// Every partition that has an entry.
    pub(crate) partitions: Vec<Struct>,
    /// In the manifest's order, with all that they inherit.
    pub(crate) entries: Vec<Outlined>,
}

/// A live entry without metrics.
#[derive(Debug, PartialEq)]
pub(crate) struct Outlined {
    pub(crate) content: DataContentType,
    pub(crate) location: String,
    pub(crate) format: DataFileFormat,
    /// A place in [`Outline::partitions`].
    pub(crate) partition: usize,
    pub(crate) rows: u64,
    pub(crate) bytes: u64,
    pub(crate) snapshot_id: i64,
    pub(crate) seq: i64,
    pub(crate) first_row_id: Option<i64>,
    /// The order that its rows are in; 0 or nothing for none.
    pub(crate) sort_order_id: Option<i32>,
    pub(crate) encrypted: bool,
    pub(crate) equality_ids: Vec<i32>,
    /// The one data file that deletes are about, where they say so.
    pub(crate) target: Option<String>,
    /// Where a vector lies in its file, and its bytes.
    pub(crate) offset: Option<i64>,
    pub(crate) length: Option<i64>,
}

/// The live entries of a manifest, inheritance applied as in [`manifests::live_entries`].
///
/// # Errors
/// Whatever the store says; `Corrupt` for what is no manifest, or contradicts itself.
pub(crate) async fn outline(storage: &Storage, file: &ManifestFile, plans: &Plans) -> Result<Outline> {
    let bytes = storage.read(&file.manifest_path).await?;
    let quick = read(&bytes, file, plans).context(ErrorKind::Corrupt, || format!("manifest {}", file.manifest_path))?;
    if let Some(outline) = quick {
        return Ok(outline);
    }
    let (live, metadata) = manifests::live_of(&bytes, file)?;
    let mut places = HashMap::new();
    let mut partitions = Vec::new();
    let entries = live.into_iter().map(|entry| {
        let values = entry.file.partition();
        let partition = *places.entry(values.clone()).or_insert_with(|| {
            partitions.push(values.clone());
            partitions.len() - 1
        });
        Outlined::of(&entry.file, partition, entry.snapshot_id, entry.seq)
    });
    let entries = entries.collect();
    Ok(Outline { spec: metadata.partition_spec().clone(), partitions, entries })
}

impl Outlined {
    fn of(file: &DataFile, partition: usize, snapshot_id: i64, seq: i64) -> Self {
        Self {
            content: file.content_type(),
            location: file.file_path().to_owned(),
            format: file.file_format(),
            partition,
            rows: file.record_count(),
            bytes: file.file_size_in_bytes(),
            snapshot_id,
            seq,
            first_row_id: file.first_row_id(),
            sort_order_id: file.sort_order_id(),
            encrypted: file.key_metadata().is_some(),
            equality_ids: file.equality_ids().unwrap_or_default(),
            target: file.referenced_data_file(),
            offset: file.content_offset(),
            length: file.content_size_in_bytes(),
        }
    }
}

/// `None` where only the library can read it.
fn read(bytes: &[u8], file: &ManifestFile, plans: &Plans) -> Result<Option<Outline>> {
    let container = Container::parse(bytes)?;
    if !matches!(container.header.get(VERSION).map(Vec::as_slice), Some(b"2" | b"3")) {
        return Ok(None);
    }
    let mut reading = Reading::new(file);
    let Some(rows) = skim::rows(bytes, plans, Plan::is_of_entries, |plan, cursor| reading.entry(plan, cursor))? else {
        return Ok(None);
    };
    let Some(schema) = container.header.get(SCHEMA).and_then(|text| narrowed(text)) else { return Ok(None) };
    let samples = container.of_rows(&schema, reading.places.len(), &reading.samples);
    // Whatever it does not like, it is asked for the whole.
    let Ok(manifest) = Manifest::parse_avro(&samples) else { return Ok(None) };
    Ok(Some(Outline {
        spec: manifest.metadata().partition_spec().clone(),
        partitions: manifest.entries().iter().map(|entry| entry.data_file().partition().clone()).collect(),
        entries: rows.into_iter().flatten().collect(),
    }))
}

/// The schema of entries with nothing but [`ENTRY`] and [`FILE`].
fn narrowed(schema: &[u8]) -> Option<String> {
    let mut schema: Value = serde_json::from_slice(schema).ok()?;
    let fields = schema.get_mut("fields")?.as_array_mut()?;
    let named = |field: &Value, names: &[&str]| field["name"].as_str().is_some_and(|name| names.contains(&name));
    fields.retain(|field| named(field, &ENTRY) || field["name"] == "data_file");
    let file = fields.iter_mut().find(|field| field["name"] == "data_file")?;
    file.get_mut("type")?.get_mut("fields")?.as_array_mut()?.retain(|field| named(field, &FILE));
    Some(schema.to_string())
}

/// A manifest that is being read.
struct Reading<'a> {
    file: &'a ManifestFile,
    next_row: Option<u64>,
    /// Partitions by how they are written, each with its number.
    places: BTreeMap<Vec<u8>, usize>,
    /// The first row of each partition, narrowed.
    samples: Vec<u8>,
    row: Vec<u8>,
}

/// What an entry says itself.
#[derive(Default)]
struct Own {
    status: i64,
    snapshot_id: Option<i64>,
    seq: Option<i64>,
    file_seq: Option<i64>,
}

impl<'a> Reading<'a> {
    fn new(file: &'a ManifestFile) -> Self {
        Self { file, next_row: file.first_row_id, places: BTreeMap::new(), samples: Vec::new(), row: Vec::new() }
    }

    /// The next entry; `None` when it is not live.
    fn entry(&mut self, plan: &Plan, cursor: &mut Cursor<'_>) -> Result<Option<Outlined>> {
        self.row.clear();
        let mut own = Own::default();
        let mut found = None;
        for (name, shape) in &plan.0 {
            let before = cursor.0;
            match (name.as_str(), shape) {
                ("status", shape) => own.status = shape.number(cursor)?.unwrap_or(0),
                ("snapshot_id", shape) => own.snapshot_id = shape.number(cursor)?,
                ("sequence_number", shape) => own.seq = shape.number(cursor)?,
                ("file_sequence_number", shape) => own.file_seq = shape.number(cursor)?,
                ("data_file", Shape::Record(fields)) => {
                    found = Some(self.data_file(fields, cursor)?);
                    continue;
                }
                (_, shape) => shape.pass(cursor)?,
            }
            if ENTRY.contains(&name.as_str()) {
                self.row.extend_from_slice(passed(before, cursor));
            }
        }
        let Some((mut entry, partition)) = found else { return Err(broken("has an entry without a file")) };
        // 0 EXISTING, 1 ADDED, 2 DELETED
        if !matches!(own.status, 0 | 1) {
            return Ok(None);
        }
        self.inherit(&own, &mut entry)?;
        entry.partition = match self.places.get(partition) {
            Some(at) => *at,
            None => {
                self.samples.extend_from_slice(&self.row);
                self.places.insert(partition.to_vec(), self.places.len());
                self.places.len() - 1
            }
        };
        Ok(Some(entry))
    }

    /// Source: Iceberg spec, "Sequence Number Inheritance", "First Row ID Inheritance".
    fn inherit(&mut self, own: &Own, entry: &mut Outlined) -> Result<()> {
        let inherited = (own.status == 1 || self.file.sequence_number == 0).then_some(self.file.sequence_number);
        let missing = || broken("has an entry without sequence number");
        entry.snapshot_id = own.snapshot_id.unwrap_or(self.file.added_snapshot_id);
        entry.seq = own.seq.or(inherited).ok_or_else(missing)?;
        own.file_seq.or(inherited).ok_or_else(missing)?;
        if entry.first_row_id.is_none()
            && let Some(row) = self.next_row
        {
            entry.first_row_id = i64::try_from(row).ok();
            self.next_row = row.checked_add(entry.rows);
        }
        Ok(())
    }

    /// The file of an entry, with its partition as it is written.
    fn data_file<'b>(&mut self, fields: &[(String, Shape)], cursor: &mut Cursor<'b>) -> Result<(Outlined, &'b [u8])> {
        let mut entry = Outlined {
            content: DataContentType::Data,
            location: String::new(),
            format: DataFileFormat::Parquet,
            partition: 0,
            rows: 0,
            bytes: 0,
            snapshot_id: 0,
            seq: 0,
            first_row_id: None,
            sort_order_id: None,
            encrypted: false,
            equality_ids: Vec::new(),
            target: None,
            offset: None,
            length: None,
        };
        let mut partition: &[u8] = &[];
        for (name, shape) in fields {
            let before = cursor.0;
            match name.as_str() {
                "content" => entry.content = content(shape.number(cursor)?)?,
                "file_path" => entry.location = text(shape, cursor)?.unwrap_or_default(),
                "file_format" => entry.format = format(&text(shape, cursor)?.unwrap_or_default())?,
                "partition" => {
                    shape.pass(cursor)?;
                    partition = passed(before, cursor);
                }
                "record_count" => entry.rows = count(shape, cursor)?,
                "file_size_in_bytes" => entry.bytes = count(shape, cursor)?,
                "key_metadata" => {
                    entry.encrypted = shape.held(cursor)?.map(|shape| shape.pass(cursor)).transpose()?.is_some();
                }
                "equality_ids" => entry.equality_ids = ids(shape, cursor)?,
                "first_row_id" => entry.first_row_id = shape.number(cursor)?,
                "sort_order_id" => entry.sort_order_id = shape.number(cursor)?.and_then(|id| i32::try_from(id).ok()),
                "referenced_data_file" => entry.target = text(shape, cursor)?,
                "content_offset" => entry.offset = shape.number(cursor)?,
                "content_size_in_bytes" => entry.length = shape.number(cursor)?,
                _ => shape.pass(cursor)?,
            }
            if FILE.contains(&name.as_str()) {
                self.row.extend_from_slice(passed(before, cursor));
            }
        }
        Ok((entry, partition))
    }
}

/// What was read since the cursor stood at `before`.
fn passed<'b>(before: &'b [u8], cursor: &Cursor<'_>) -> &'b [u8] {
    &before[..before.len() - cursor.0.len()]
}

fn content(number: Option<i64>) -> Result<DataContentType> {
    let kind = i32::try_from(number.unwrap_or(0)).ok().and_then(|number| DataContentType::try_from(number).ok());
    kind.ok_or_else(|| broken("has a file of no known content"))
}

fn format(name: &str) -> Result<DataFileFormat> {
    name.parse().map_err(|_| broken(format_args!("has a file of format {name:?}")))
}

fn count(shape: &Shape, cursor: &mut Cursor<'_>) -> Result<u64> {
    let number = shape.number(cursor)?.and_then(|number| u64::try_from(number).ok());
    number.ok_or_else(|| broken("has a file of negative size"))
}

fn text(shape: &Shape, cursor: &mut Cursor<'_>) -> Result<Option<String>> {
    match shape.held(cursor)? {
        None => Ok(None),
        Some(Shape::Bytes) => skim::text(cursor).map(Some),
        Some(_) => Err(broken("has a text of another type")),
    }
}

fn ids(shape: &Shape, cursor: &mut Cursor<'_>) -> Result<Vec<i32>> {
    let item = match shape.held(cursor)? {
        None => return Ok(Vec::new()),
        Some(Shape::Array(item)) if matches!(**item, Shape::Varint) => item,
        Some(_) => return Err(broken("has a list of another type")),
    };
    let mut ids = Vec::new();
    loop {
        let mut count = cursor.long()?;
        if count == 0 {
            return Ok(ids);
        }
        if count < 0 {
            count = count.checked_neg().ok_or_else(|| broken("has a list of no sane size"))?;
            cursor.long()?; // the block's size in bytes
        }
        for _ in 0..count {
            let id = item.number(cursor)?.and_then(|id| i32::try_from(id).ok());
            ids.push(id.ok_or_else(|| broken("has a column id that is none"))?);
        }
    }
}

#[cfg(test)]
mod tests;
