//! A foreign engine that deletes rows without touching their files, as streaming upserts do: by position, by deletion vector,
//! by the value of a column. The auditor is told what each file deletes; which rows that reaches it works out by itself.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use arrow::array::{ArrayRef, Int64Array, RecordBatch, StringArray};
use arrow::datatypes::{DataType, Field, Schema as ArrowSchema};
use bytes::Bytes;
use frazil::model::ids::TableName;
use iceberg::spec::{
    DataContentType, DataFile, DataFileBuilder, DataFileFormat, FormatVersion, ManifestContentType, ManifestFile,
    Operation, PrimitiveType, Type,
};
use parquet::arrow::ArrowWriter;

use crate::foreign::{Engine, Request};
use crate::replaced::{Effect, LiveFile};
use crate::world::key;

/// Reserved field ids of files of position deletes.
const PATH_ID: i32 = i32::MAX - 101;
const POS_ID: i32 = i32::MAX - 102;
/// Rows that one commit deletes by their places.
const ROWS_MAX: u64 = 3;

impl Engine<'_> {
    /// Rows of a file or two go by their places; with some luck a row comes as well.
    pub(crate) async fn delete_positions(&self) -> Option<Request> {
        let live = self.live_rows().await?;
        let first = self.pick(&live)?;
        let vectors = self.state.metadata.format_version() >= FormatVersion::V3;
        let beside = |file: &&LiveFile| file.shares_partition(first) && file.path != first.path;
        let second = live.iter().find(beside).filter(|_| !vectors && self.world.happens(40));
        let mut places: BTreeMap<String, BTreeSet<u64>> = BTreeMap::new();
        for file in [Some(first), second].into_iter().flatten() {
            for _ in 0..=self.world.env.below(ROWS_MAX) {
                places.entry(file.location.clone()).or_default().insert(self.world.env.below(file.rows));
            }
        }
        let target = (places.len() == 1 && (vectors || self.world.happens(50))).then(|| first.location.clone());
        // A data file has one vector at most: a new one takes the place of the old one.
        let all = if vectors { self.live().await? } else { Vec::new() };
        let old = all.iter().find(|file| file.vector && file.referenced.as_ref() == Some(&first.location));
        if let Some(old) = old {
            let held = self.world.with_auditor(|a| a.effects.get(&old.path).cloned())?;
            let Effect::Positions(held) = held else { return None };
            places.entry(first.location.clone()).or_default().extend(held.into_values().flatten());
            self.world.cover("foreign DeletePositions × a vector instead of another");
        }
        let file = if vectors {
            self.vector(first, places.get(&first.location)?).await?
        } else {
            self.positions(first, &places, target).await?
        };
        let effect = places.into_iter().map(|(path, at)| (key(&path).to_string(), at)).collect();
        self.row_delta(first, file, Effect::Positions(effect), old).await
    }

    /// All rows of one customer go from a partition, whichever files they are in; those that come later stay.
    pub(crate) async fn delete_keys(&self) -> Option<Request> {
        let column = self.state.metadata.current_schema().field_by_name("customer_id")?.clone();
        if *column.field_type != Type::Primitive(PrimitiveType::Long) {
            return None;
        }
        let live = self.live_rows().await?;
        // A visitor's rows come one after the other: more of the newest are still to come.
        let newest = live.iter().max_by_key(|file| file.seq).filter(|_| self.world.happens(70));
        let file = newest.or_else(|| self.pick(&live))?;
        let at = usize::try_from(self.world.env.below(file.rows)).ok()?;
        let value = self.world.with_auditor(|a| a.files.get(&file.path)?.customers.get(at).copied())?;
        let columns = vec![Arc::new(Int64Array::from(vec![value])) as ArrayRef];
        let bytes = parquet(vec![("customer_id", column.id, DataType::Int64)], columns)?;
        let path = self.new_path("eq", "parquet");
        let mut builder = DataFileBuilder::default();
        builder
            .content(DataContentType::EqualityDeletes)
            .file_path(path.clone())
            .file_format(DataFileFormat::Parquet)
            .partition(file.partition.clone())
            .partition_spec_id(file.spec_id)
            .record_count(1)
            .file_size_in_bytes(bytes.len() as u64)
            .equality_ids(Some(vec![column.id]));
        let deletes = builder.build().ok()?;
        self.put(&path, bytes).await;
        self.row_delta(file, deletes, Effect::Keys([value].into()), None).await
    }

    /// Data files with rows of ours that are live at the head.
    async fn live_rows(&self) -> Option<Vec<LiveFile>> {
        let mut live = self.live().await?;
        live.retain(|file| {
            let rows = self.world.with_auditor(|a| a.files.get(&file.path).map_or(0, |held| held.rows.len()));
            file.content == DataContentType::Data && rows > 0 && rows as u64 == file.rows
        });
        Some(live)
    }

    async fn live(&self) -> Option<Vec<LiveFile>> {
        let head = self.state.head(&self.world.target)?.clone();
        let mut live = Vec::new();
        for manifest in self.manifests(head.manifest_list()).await? {
            let parsed = self.entries(&manifest.manifest_path).await?;
            let of = |entry| LiveFile::of(entry, manifest.partition_spec_id);
            live.extend(parsed.entries().iter().filter(|e| e.is_alive()).map(|e| {
                let mut file = of(e);
                file.seq = file.seq.or(Some(manifest.sequence_number));
                file
            }));
        }
        Some(live)
    }

    fn pick<'a>(&self, live: &'a [LiveFile]) -> Option<&'a LiveFile> {
        live.get(usize::try_from(self.world.env.below(live.len() as u64)).ok()?)
    }

    fn new_path(&self, kind: &str, extension: &str) -> String {
        format!("{}/data/foreign-{kind}-{}.{extension}", self.state.metadata.location(), self.world.env.uuid())
    }

    async fn positions(
        &self,
        of: &LiveFile,
        places: &BTreeMap<String, BTreeSet<u64>>,
        target: Option<String>,
    ) -> Option<DataFile> {
        let rows = || places.iter().flat_map(|(path, at)| at.iter().map(move |at| (path.as_str(), *at)));
        let paths: StringArray = rows().map(|(path, _)| Some(path)).collect();
        let at: Int64Array = rows().map(|(_, at)| i64::try_from(at).ok()).collect();
        let count = at.values().len() as u64;
        let fields = vec![("file_path", PATH_ID, DataType::Utf8), ("pos", POS_ID, DataType::Int64)];
        let bytes = parquet(fields, vec![Arc::new(paths), Arc::new(at)])?;
        let path = self.new_path("pos", "parquet");
        let mut builder = self.deletes(of, &path, DataFileFormat::Parquet, count, bytes.len());
        let file = builder.referenced_data_file(target).build().ok()?;
        self.put(&path, bytes).await;
        Some(file)
    }

    async fn vector(&self, of: &LiveFile, places: &BTreeSet<u64>) -> Option<DataFile> {
        let blob = vector(places)?;
        let path = self.new_path("dv", "puffin");
        let bytes = [b"PFA1".as_slice(), &blob].concat();
        let mut builder = self.deletes(of, &path, DataFileFormat::Puffin, places.len() as u64, bytes.len());
        builder.referenced_data_file(Some(of.location.clone())).content_offset(Some(4));
        let file = builder.content_size_in_bytes(i64::try_from(blob.len()).ok()).build().ok()?;
        self.put(&path, bytes.into()).await;
        Some(file)
    }

    fn deletes(&self, of: &LiveFile, path: &str, format: DataFileFormat, rows: u64, size: usize) -> DataFileBuilder {
        let mut builder = DataFileBuilder::default();
        builder
            .content(DataContentType::PositionDeletes)
            .file_path(path.to_owned())
            .file_format(format)
            .partition(of.partition.clone())
            .partition_spec_id(of.spec_id)
            .record_count(rows)
            .file_size_in_bytes(size as u64);
        builder
    }

    /// A manifest of delete files without this one; nothing when it has no other.
    async fn without(&self, manifest: ManifestFile, gone: &str) -> Option<Vec<ManifestFile>> {
        let parsed = self.entries(&manifest.manifest_path).await?;
        let live = || parsed.entries().iter().filter(|entry| entry.is_alive());
        if live().all(|entry| entry.file_path() != gone) {
            return Some(vec![manifest]);
        }
        let rest: Vec<_> = live().filter(|entry| entry.file_path() != gone).collect();
        if rest.is_empty() {
            return Some(Vec::new());
        }
        let (by, seq) = (manifest.added_snapshot_id, manifest.sequence_number);
        let stay = rest.into_iter().map(|entry| {
            let own = (entry.snapshot_id().unwrap_or(by), entry.sequence_number().unwrap_or(seq));
            (entry.data_file().clone(), own.0, own.1, entry.file_sequence_number.unwrap_or(seq))
        });
        Some(vec![self.manifest_of_deletes(manifest.partition_spec_id, stay.collect()).await?])
    }

    /// A snapshot with one delete file more, or with one instead of `old`, and with some luck a row.
    async fn row_delta(
        &self,
        of: &LiveFile,
        deletes: DataFile,
        effect: Effect,
        old: Option<&LiveFile>,
    ) -> Option<Request> {
        let head = self.state.head(&self.world.target)?.clone();
        let path = key(deletes.file_path()).to_string();
        self.world.with_auditor(|a| a.effects.insert(path, effect));
        let mut manifests: Vec<ManifestFile> = vec![self.manifest_of(of.spec_id, vec![deletes], true).await?];
        let upserts = self.world.happens(50);
        if upserts {
            manifests.push(self.own_rows().await?);
        }
        for manifest in self.manifests(head.manifest_list()).await? {
            match old.filter(|_| manifest.content == ManifestContentType::Deletes) {
                Some(old) => manifests.extend(self.without(manifest, &old.location).await?),
                None => manifests.push(manifest),
            }
        }
        let operation = if upserts { Operation::Overwrite } else { Operation::Delete };
        let made = self.snapshot(&self.world.target, Some(head.snapshot_id()), manifests, operation).await;
        made.map(|(id, request)| {
            self.world.with_auditor(|a| a.row_deltas.insert(id));
            request
        })
    }
}

/// What the engine does on `table` of these two.
pub(crate) fn reaches(table: &TableName) -> bool {
    !table.name().ends_with("__rejects")
}

fn parquet(fields: Vec<(&str, i32, DataType)>, columns: Vec<ArrayRef>) -> Option<Bytes> {
    let field = |(name, id, kind): (&str, i32, DataType)| {
        let nullable = id < PATH_ID - 1000;
        Field::new(name, kind, nullable).with_metadata([("PARQUET:field_id".to_owned(), id.to_string())].into())
    };
    let schema = Arc::new(ArrowSchema::new(fields.into_iter().map(field).collect::<Vec<_>>()));
    let batch = RecordBatch::try_new(Arc::clone(&schema), columns).ok()?;
    let mut bytes = Vec::new();
    let mut writer = ArrowWriter::try_new(&mut bytes, schema, None).ok()?;
    writer.write(&batch).ok()?;
    writer.close().ok()?;
    Some(bytes.into())
}

/// A deletion vector's blob: places below 65,536 as one array container. Source: Puffin spec, "deletion-vector-v1"; Roaring
/// format spec.
fn vector(places: &BTreeSet<u64>) -> Option<Vec<u8>> {
    let mut body = vec![0xd1, 0xd3, 0x39, 0x64];
    body.extend(1_u64.to_le_bytes());
    body.extend(0_u32.to_le_bytes());
    body.extend(12_346_u32.to_le_bytes());
    body.extend(1_u32.to_le_bytes());
    body.extend(0_u16.to_le_bytes());
    body.extend(u16::try_from(places.len().checked_sub(1)?).ok()?.to_le_bytes());
    body.extend(16_u32.to_le_bytes());
    for at in places {
        body.extend(u16::try_from(*at).ok()?.to_le_bytes());
    }
    let length = u32::try_from(body.len()).ok()?.to_be_bytes();
    Some([&length[..], &body, &crc32(&body).to_be_bytes()].concat())
}

pub(crate) fn crc32(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(!0_u32, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| (crc >> 1) ^ (0xedb8_8320 & 0_u32.wrapping_sub(crc & 1)))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_vector_is_written_as_the_java_library_writes_it() {
        let places = [1, 3].into();
        let written = vector(&places).expect("small");
        let expected = [
            0, 0, 0, 40, 0xd1, 0xd3, 0x39, 0x64, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x3a, 0x30, 0, 0, 1, 0, 0, 0, 0,
            0, 1, 0, 16, 0, 0, 0, 1, 0, 3, 0,
        ];
        assert_eq!(written[4..written.len() - 4], expected[4..]);
        assert_eq!(crc32(b"123456789"), 0xcbf4_3926);
    }
}
