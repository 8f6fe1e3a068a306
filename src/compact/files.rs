//! The live files of a snapshot, as small as planning and rewriting allow: a table may have a million of them.

use std::collections::HashMap;

use futures::{StreamExt, TryStreamExt, stream};
use iceberg::spec::{DataContentType, DataFileFormat, Struct};

use crate::commit::manifests;
use crate::commit::outline::{Outline, Outlined, outline};
use crate::commit::skim::Plans;
use crate::error::{Error, ErrorKind, Result};
use crate::model::change::DeleteFile;
use crate::model::table::TableState;
use crate::storage::Storage;

/// Manifests read at a time.
const PARALLEL: usize = 8;

/// A partition under a spec.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Partition {
    /// The spec.
    pub spec_id: i32,
    /// The values of its fields.
    pub values: Struct,
    /// Whether the spec has no fields: equality deletes of such a spec reach every partition of the table.
    pub global: bool,
}

/// A live data file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DataEntry {
    /// Where it is.
    pub location: String,
    /// Its bytes.
    pub bytes: u64,
    /// Its rows, deleted ones included.
    pub rows: u64,
    /// Its data sequence number.
    pub seq: i64,
    /// Its partition, as a place in [`LiveFiles::partitions`].
    pub partition: usize,
    /// The id of its first row, where rows have ids.
    pub first_row_id: Option<i64>,
    /// The order that its rows are in, where they are in one (not 0, which is none).
    pub sort_order_id: Option<i32>,
    /// When the snapshot that added it was committed, where that is still known, in milliseconds since the epoch.
    pub added_ms: Option<i64>,
    /// Whether it is a Parquet file that is not encrypted: no other is read.
    pub readable: bool,
}

/// A live delete file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeleteEntry {
    /// Which it is.
    pub file: DeleteFile,
    /// What it deletes.
    pub kind: DeleteKind,
    /// Its bytes; those of the vector where it is one.
    pub bytes: u64,
    /// Its rows, or the positions of a vector.
    pub rows: u64,
    /// Its data sequence number.
    pub seq: i64,
    /// Its partition, as a place in [`LiveFiles::partitions`].
    pub partition: usize,
    /// The one data file that it is about, where it says so.
    pub target: Option<String>,
    /// Whether it is of a form that is read: Parquet, or a vector in a Puffin file, not encrypted.
    pub readable: bool,
}

/// What a delete file deletes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DeleteKind {
    /// Rows by file and position.
    Positions,
    /// Rows of one file by position, as a deletion vector.
    Vector,
    /// Rows by the values of these columns.
    Equality(Vec<i32>),
}

/// The live files of one snapshot.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LiveFiles {
    /// The snapshot.
    pub snapshot: i64,
    /// Its sequence number.
    pub seq: i64,
    /// Every partition that has a file, of data or of deletes.
    pub partitions: Vec<Partition>,
    /// Data files.
    pub data: Vec<DataEntry>,
    /// Delete files.
    pub deletes: Vec<DeleteEntry>,
}

impl DeleteEntry {
    /// Whether it may delete rows of a data file (spec, "Scan Planning").
    pub fn reaches(&self, data: &DataEntry, partitions: &[Partition]) -> bool {
        let global = partitions.get(self.partition).is_some_and(|partition| partition.global);
        match (&self.kind, &self.target) {
            (DeleteKind::Equality(_), _) => self.seq > data.seq && (global || self.partition == data.partition),
            (_, Some(target)) => *target == data.location && self.seq >= data.seq,
            (_, None) => self.partition == data.partition && self.seq >= data.seq,
        }
    }
}

impl LiveFiles {
    /// The live files of the head of `target`; nothing when it has none.
    ///
    /// # Errors
    /// Whatever the store says; `Corrupt` for manifests that contradict themselves.
    pub async fn of(storage: &Storage, state: &TableState, target: &str) -> Result<Option<Self>> {
        let Some(head) = state.head(target) else { return Ok(None) };
        if head.encryption_key_id().is_some() {
            return Err(Error::new(ErrorKind::Unsupported, format!("the manifests of {} are encrypted", state.name)));
        }
        let mut files = Self { snapshot: head.snapshot_id(), seq: head.sequence_number(), ..Self::default() };
        let mut places: HashMap<Partition, usize> = HashMap::new();
        let list = manifests::list(storage, head.manifest_list(), state.metadata.format_version()).await?;
        let plans = &Plans::default();
        let reads: Vec<_> = list.iter().map(|manifest| outline(storage, manifest, plans)).collect();
        let mut reads = stream::iter(reads).buffered(PARALLEL);
        while let Some(Outline { spec, partitions, entries }) = reads.try_next().await? {
            let places: Vec<usize> = partitions
                .into_iter()
                .map(|values| {
                    let partition = Partition { spec_id: spec.spec_id(), values, global: spec.is_unpartitioned() };
                    *places.entry(partition).or_insert_with_key(|partition| {
                        files.partitions.push(partition.clone());
                        files.partitions.len() - 1
                    })
                })
                .collect();
            for entry in entries {
                let partition = places.get(entry.partition).copied().unwrap_or_default();
                let added = state.metadata.snapshot_by_id(entry.snapshot_id).map(|s| s.timestamp_ms());
                files.take(entry, partition, added);
            }
        }
        files.data.sort_by(|a, b| (a.partition, a.seq, &a.location).cmp(&(b.partition, b.seq, &b.location)));
        Ok(Some(files))
    }

    fn take(&mut self, file: Outlined, partition: usize, added_ms: Option<i64>) {
        let plain = !file.encrypted;
        let is = |format: DataFileFormat| file.format == format;
        let kind = match file.content {
            DataContentType::Data => {
                self.data.push(DataEntry {
                    bytes: file.bytes,
                    rows: file.rows,
                    seq: file.seq,
                    partition,
                    first_row_id: file.first_row_id,
                    sort_order_id: file.sort_order_id.filter(|id| *id != 0),
                    added_ms,
                    readable: plain && is(DataFileFormat::Parquet),
                    location: file.location,
                });
                return;
            }
            DataContentType::PositionDeletes if is(DataFileFormat::Puffin) => DeleteKind::Vector,
            DataContentType::PositionDeletes => DeleteKind::Positions,
            DataContentType::EqualityDeletes => DeleteKind::Equality(file.equality_ids),
        };
        let length = file.length.and_then(|bytes| u64::try_from(bytes).ok());
        let vector = kind == DeleteKind::Vector;
        let whole = file.offset.is_some() && length.is_some() && file.target.is_some();
        self.deletes.push(DeleteEntry {
            kind,
            bytes: length.unwrap_or(file.bytes),
            rows: file.rows,
            seq: file.seq,
            partition,
            readable: plain && if vector { whole } else { file.format == DataFileFormat::Parquet },
            target: file.target,
            file: DeleteFile { location: file.location, offset: file.offset },
        });
    }
}
