//! Manifests: written once per change, merged when small, compressed always.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use bytes::Bytes;
use iceberg::io::FileIO;
use iceberg::spec::{
    DataFile, DataFileBuilder, FormatVersion, Manifest, ManifestContentType, ManifestFile, ManifestList,
    ManifestMetadata, ManifestWriter, ManifestWriterBuilder, PartitionSpec, SchemaRef,
};

use crate::commit::avro;
use crate::commit::skim::{self, Plans};
use crate::env::Env;
use crate::error::{Context, Error, ErrorKind, Result};
use crate::model::table::TableState;
use crate::storage::Storage;
use crate::storage::ledger::{Ledger, LedgerOwner};

/// A manifest at or below this size is merged at commit; larger ones are a job's.
pub(crate) const SMALL_MAX: i64 = 256 * 1024;
/// Entries in one manifest of added files: about 8 MiB compressed.
pub(crate) const ENTRIES_MAX: usize = 20_000;

/// How the names of manifest lists begin.
const LIST: &str = "snap-";
/// What the name of the list of a snapshot without a parent says.
const START: &str = "-start-";

/// The stem of a snapshot's manifest list's name.
pub(crate) fn list_stem(snapshot_id: i64, parent: Option<i64>) -> String {
    let start = if parent.is_none() { START.trim_end_matches('-') } else { "" };
    format!("{LIST}{snapshot_id}{start}")
}

/// Whether an object that this program wrote is a manifest list.
pub(crate) fn is_list(location: &str) -> bool {
    avro_name(location).is_some_and(|name| name.starts_with(LIST))
}

/// Whether an object that this program wrote is the manifest list of a snapshot without a parent.
pub(crate) fn is_start_list(location: &str) -> bool {
    is_list(location) && location.rsplit('/').next().is_some_and(|name| name.contains(START))
}

/// Whether an object that this program wrote is a manifest.
pub(crate) fn is_manifest(location: &str) -> bool {
    avro_name(location).is_some_and(|name| !name.starts_with(LIST))
}

/// Its name, if it is either: data files are Parquet, and are called so.
fn avro_name(location: &str) -> Option<&str> {
    location.rsplit('/').next().filter(|name| name.ends_with(".avro"))
}

/// Where and as whom manifests are written.
#[derive(Debug)]
pub(crate) struct ManifestScribe<'a> {
    pub(crate) env: &'a Env,
    pub(crate) storage: &'a Storage,
    /// The folder of metadata files.
    pub(crate) folder: String,
    pub(crate) snapshot_id: i64,
    pub(crate) format: FormatVersion,
    /// Where names are noted before their objects are created.
    pub(crate) ledger: Option<(&'a Ledger, LedgerOwner)>,
}

impl ManifestScribe<'_> {
    /// A new name in the metadata folder.
    pub(crate) fn location(&self, stem: &str) -> String {
        format!("{}/{stem}-{}.avro", self.folder, self.env.uuid())
    }

    /// Creates an object of this change; its name is in the ledger before.
    pub(crate) async fn put(&self, location: &str, bytes: Vec<u8>) -> Result<()> {
        if let Some((ledger, owner)) = &self.ledger {
            ledger.stage(owner, location).await?;
        }
        self.storage.write(location, Bytes::from(bytes)).await
    }

    /// Writes manifests of added data files, with the snapshot's own data sequence number unless `seq` is one. They depend on
    /// nothing but the change: written once, kept over all attempts.
    pub(crate) async fn added(
        &self,
        files: &[DataFile],
        schema: &SchemaRef,
        spec: &PartitionSpec,
        seq: Option<i64>,
    ) -> Result<Vec<ManifestFile>> {
        let mut manifests = Vec::new();
        let seq = seq.unwrap_or(-1);
        for chunk in files.chunks(ENTRIES_MAX) {
            let manifest = self
                .write(ManifestContentType::Data, schema, spec, |writer| {
                    chunk.iter().try_for_each(|file| writer.add_file(file.clone(), seq))
                })
                .await?;
            manifests.push(manifest);
        }
        Ok(manifests)
    }

    /// Writes one manifest of the live entries of `sources`, all data manifests of one spec, and drops their DELETED ones.
    pub(crate) async fn merged(
        &self,
        sources: &[ManifestFile],
        schema: &SchemaRef,
        spec: &PartitionSpec,
    ) -> Result<ManifestFile> {
        let mut live = Vec::new();
        for source in sources {
            live.extend(live_entries(self.storage, source).await?);
        }
        self.existing(ManifestContentType::Data, live, schema, spec).await
    }

    /// Writes one manifest of entries that are there already, with all that they inherited.
    pub(crate) async fn existing(
        &self,
        content: ManifestContentType,
        live: Vec<LiveEntry>,
        schema: &SchemaRef,
        spec: &PartitionSpec,
    ) -> Result<ManifestFile> {
        let first_row_id = live.iter().filter_map(|entry| entry.file.first_row_id()).min();
        let mut manifest = self
            .write(content, schema, spec, |writer| {
                live.into_iter().try_for_each(|entry| {
                    writer.add_existing_file(entry.file, entry.snapshot_id, entry.seq, Some(entry.file_seq))
                })
            })
            .await?;
        // Every entry carries its row ids by now: the list writer must not give it new ones.
        manifest.first_row_id = first_row_id.and_then(|id| u64::try_from(id).ok());
        Ok(manifest)
    }

    /// Writes the entries of `sources`, all of one content, spec and schema, into one manifest: those that `goes` names as
    /// DELETED, the others as EXISTING with all that they inherited. Earlier DELETED entries stay behind.
    pub(crate) async fn filtered(
        &self,
        sources: &[ManifestFile],
        goes: impl Fn(&DataFile) -> bool,
    ) -> Result<ManifestFile> {
        let Some(first) = sources.first() else {
            return Err(Error::new(ErrorKind::Internal, "no manifest to filter"));
        };
        let mut entries = Vec::new();
        let mut layout = None;
        for source in sources {
            let (live, metadata) = live_parts(self.storage, source).await?;
            entries.extend(live);
            layout.get_or_insert(metadata);
        }
        let Some(layout) = layout else {
            return Err(Error::new(ErrorKind::Internal, "no manifest to filter"));
        };
        let mut manifest = self
            .write(first.content, layout.schema(), layout.partition_spec(), |writer| {
                entries.into_iter().try_for_each(|entry| {
                    if goes(&entry.file) {
                        writer.add_delete_file(entry.file, entry.seq, Some(entry.file_seq))
                    } else {
                        writer.add_existing_file(entry.file, entry.snapshot_id, entry.seq, Some(entry.file_seq))
                    }
                })
            })
            .await?;
        // Where entries carry their row ids by now, the list writer must not give new ones; where they have none yet, it must.
        manifest.first_row_id = sources.iter().filter_map(|source| source.first_row_id).min();
        Ok(manifest)
    }

    pub(crate) async fn write(
        &self,
        content: ManifestContentType,
        schema: &SchemaRef,
        spec: &PartitionSpec,
        fill: impl FnOnce(&mut ManifestWriter) -> iceberg::Result<()>,
    ) -> Result<ManifestFile> {
        let failed = || "write a manifest";
        let memory = FileIO::new_with_memory();
        let output = memory.new_output("memory:/manifest").context(ErrorKind::Internal, failed)?;
        let builder = ManifestWriterBuilder::new(output, Some(self.snapshot_id), Arc::clone(schema), spec.clone());
        let mut writer = match (self.format, content) {
            (FormatVersion::V3, ManifestContentType::Data) => builder.build_v3_data(),
            (FormatVersion::V3, ManifestContentType::Deletes) => builder.build_v3_deletes(),
            (_, ManifestContentType::Data) => builder.build_v2_data(),
            (_, ManifestContentType::Deletes) => builder.build_v2_deletes(),
        };
        fill(&mut writer).context(ErrorKind::Internal, failed)?;
        let mut manifest = writer.write_manifest_file().await.context(ErrorKind::Internal, failed)?;
        let input = memory.new_input("memory:/manifest").context(ErrorKind::Internal, failed)?;
        let plain = input.read().await.context(ErrorKind::Internal, failed)?;
        let bytes = avro::recontain(&plain, &BTreeMap::new(), *self.env.uuid().as_bytes())?;
        manifest.manifest_path = self.location(&self.snapshot_id.to_string());
        manifest.manifest_length = i64::try_from(bytes.len()).unwrap_or(i64::MAX);
        self.put(&manifest.manifest_path, bytes).await?;
        Ok(manifest)
    }
}

/// A live entry with everything that it inherits written out.
#[derive(Debug)]
pub(crate) struct LiveEntry {
    pub(crate) file: DataFile,
    pub(crate) snapshot_id: i64,
    pub(crate) seq: i64,
    pub(crate) file_seq: i64,
}

/// The live entries of a manifest, inheritance applied: snapshot id, sequence numbers, and on v3 the first row id, which the
/// crate leaves out (spec, "First Row ID Inheritance").
pub(crate) async fn live_entries(storage: &Storage, file: &ManifestFile) -> Result<Vec<LiveEntry>> {
    Ok(live_parts(storage, file).await?.0)
}

/// The same, with the schema and the spec that the manifest was written with.
pub(crate) async fn live_parts(storage: &Storage, file: &ManifestFile) -> Result<(Vec<LiveEntry>, ManifestMetadata)> {
    live_of(&storage.read(&file.manifest_path).await?, file)
}

/// The same of a manifest's bytes.
pub(crate) fn live_of(bytes: &[u8], file: &ManifestFile) -> Result<(Vec<LiveEntry>, ManifestMetadata)> {
    let manifest =
        Manifest::parse_avro(bytes).context(ErrorKind::Corrupt, || format!("manifest {}", file.manifest_path))?;
    let (entries, metadata) = manifest.into_parts();
    let spec_id = metadata.partition_spec().spec_id();
    let mut next_row = file.first_row_id;
    let mut live = Vec::new();
    for entry in entries.iter().filter(|entry| entry.is_alive()) {
        let missing = || {
            Error::new(
                ErrorKind::Corrupt,
                format!("manifest {} has an entry without sequence number", file.manifest_path),
            )
        };
        let added = entry.status() == iceberg::spec::ManifestStatus::Added || file.sequence_number == 0;
        let inherited = added.then_some(file.sequence_number);
        let mut data_file = entry.data_file().clone();
        if data_file.first_row_id().is_none()
            && let Some(row) = next_row
        {
            data_file = with_first_row_id(&data_file, spec_id, row)?;
            next_row = row.checked_add(data_file.record_count());
        }
        live.push(LiveEntry {
            snapshot_id: entry.snapshot_id().unwrap_or(file.added_snapshot_id),
            seq: entry.sequence_number().or(inherited).ok_or_else(missing)?,
            file_seq: entry.file_sequence_number.or(inherited).ok_or_else(missing)?,
            file: data_file,
        });
    }
    Ok((live, metadata))
}

/// Whether a live data file's path meets `wanted`.
pub(crate) async fn any_live(storage: &Storage, file: &ManifestFile, wanted: impl Fn(&str) -> bool) -> Result<bool> {
    if file.content != ManifestContentType::Data || !(file.has_added_files() || file.has_existing_files()) {
        return Ok(false);
    }
    let named = named(storage, &file.manifest_path, &Plans::default()).await?;
    Ok(named.iter().any(|file| file.live && wanted(&file.location)))
}

/// A file that a manifest names.
#[derive(Debug)]
pub struct Named {
    /// Where it is.
    pub location: String,
    /// How large it is.
    pub bytes: u64,
    /// Whether the entry is live: ADDED or EXISTING.
    pub live: bool,
    /// The snapshot that added it; `None`: the one that added the manifest.
    pub snapshot_id: Option<i64>,
}

/// Every file that a manifest names, live or not.
pub(crate) async fn named(storage: &Storage, location: &str, plans: &Plans) -> Result<Vec<Named>> {
    let bytes = storage.read(location).await?;
    if let Some(named) = skim::named(&bytes, plans).context(ErrorKind::Corrupt, || format!("manifest {location}"))? {
        return Ok(named);
    }
    let manifest = Manifest::parse_avro(&bytes).context(ErrorKind::Corrupt, || format!("manifest {location}"))?;
    let entries = manifest.entries().iter();
    let named = entries.map(|entry| Named {
        location: entry.file_path().to_owned(),
        bytes: entry.data_file().file_size_in_bytes(),
        live: entry.is_alive(),
        snapshot_id: entry.snapshot_id(),
    });
    Ok(named.collect())
}

fn with_first_row_id(file: &DataFile, spec_id: i32, row: u64) -> Result<DataFile> {
    let mut builder = DataFileBuilder::default();
    if let Some(order) = file.sort_order_id() {
        builder.sort_order_id(order);
    }
    builder
        .content(file.content_type())
        .file_path(file.file_path().to_owned())
        .file_format(file.file_format())
        .partition(file.partition().clone())
        .partition_spec_id(spec_id)
        .record_count(file.record_count())
        .file_size_in_bytes(file.file_size_in_bytes())
        .column_sizes(file.column_sizes().clone())
        .value_counts(file.value_counts().clone())
        .null_value_counts(file.null_value_counts().clone())
        .nan_value_counts(file.nan_value_counts().clone())
        .lower_bounds(file.lower_bounds().clone())
        .upper_bounds(file.upper_bounds().clone())
        .key_metadata(file.key_metadata().map(<[u8]>::to_vec))
        .split_offsets(file.split_offsets().map(<[i64]>::to_vec))
        .equality_ids(file.equality_ids())
        .first_row_id(i64::try_from(row).ok())
        .referenced_data_file(file.referenced_data_file())
        .content_offset(file.content_offset())
        .content_size_in_bytes(file.content_size_in_bytes())
        .build()
        .context(ErrorKind::Internal, || "rebuild a data file's entry")
}

/// The manifests of a snapshot, as its list names them.
///
/// # Errors
/// `Unavailable` when the list cannot be read, `Corrupt` when it is none, `Unsupported` when it is encrypted.
pub async fn of_snapshot(table: &TableState, snapshot: i64, io: &FileIO) -> Result<Vec<ManifestFile>> {
    let Some(snapshot) = table.metadata.snapshot_by_id(snapshot) else {
        return Err(Error::new(ErrorKind::NotFound, format!("table {} has no snapshot {snapshot}", table.name)));
    };
    if snapshot.encryption_key_id().is_some() {
        return Err(Error::new(ErrorKind::Unsupported, format!("the manifest list of {} is encrypted", table.name)));
    }
    let location = snapshot.manifest_list();
    let read = async { io.new_input(location)?.read().await };
    let document = read.await.context(ErrorKind::Unavailable, || format!("manifest list {location}"))?;
    parse_list(&document, location, table.metadata.format_version())
}

/// The manifests of a list.
pub(crate) async fn list(storage: &Storage, location: &str, format: FormatVersion) -> Result<Vec<ManifestFile>> {
    let bytes = storage.read(location).await?;
    parse_list(&bytes, location, format)
}

/// A manifest as its list has it.
#[derive(Debug)]
pub struct Listing {
    /// Where it is.
    pub location: String,
    /// The sequence number of the commit that added it.
    pub seq: i64,
    /// The snapshot that added it.
    pub snapshot_id: i64,
}

/// The names of a list's manifests.
pub(crate) async fn listed(
    storage: &Storage,
    location: &str,
    format: FormatVersion,
    plans: &Plans,
) -> Result<Vec<Listing>> {
    let bytes = storage.read(location).await?;
    if let Some(listed) =
        skim::listed(&bytes, plans).context(ErrorKind::Corrupt, || format!("manifest list {location}"))?
    {
        return Ok(listed);
    }
    let manifests = parse_list(&bytes, location, format)?.into_iter();
    let listed = manifests.map(|manifest| Listing {
        seq: manifest.sequence_number,
        snapshot_id: manifest.added_snapshot_id,
        location: manifest.manifest_path,
    });
    Ok(listed.collect())
}

/// The manifests of a list's bytes.
pub(crate) fn parse_list(bytes: &[u8], location: &str, format: FormatVersion) -> Result<Vec<ManifestFile>> {
    // A list written before an upgrade has the older columns; Avro resolves by the writer's schema, so newest first.
    let list = ManifestList::parse_with_version(bytes, format)
        .or_else(|_| ManifestList::parse_with_version(bytes, FormatVersion::V2))
        .or_else(|_| ManifestList::parse_with_version(bytes, FormatVersion::V1))
        .context(ErrorKind::Corrupt, || format!("manifest list {location}"))?;
    Ok(list.consume_entries().into_iter().collect())
}

/// The manifests to merge now: small data manifests of one spec, when there are at least `count_min` of them.
///
/// Merging is amortised: each round turns `count_min` manifests into one, so a commit reads 1/`count_min` of them on average.
pub(crate) fn small(
    manifests: &[ManifestFile],
    spec_id: i32,
    count_min: usize,
    target_size: i64,
    format: FormatVersion,
) -> Vec<ManifestFile> {
    let mut total = 0;
    let chosen: Vec<_> = manifests
        .iter()
        .filter(|m| {
            m.content == ManifestContentType::Data
                && m.partition_spec_id == spec_id
                && m.manifest_length <= SMALL_MAX
                && m.key_metadata.is_none()
                // Rows from before an upgrade to v3 get their ids from the list writer; a merge would hide that.
                && (format < FormatVersion::V3 || m.first_row_id.is_some())
        })
        .take_while(|m| {
            total += m.manifest_length;
            total <= target_size
        })
        .cloned()
        .collect();
    if chosen.len() >= count_min.max(2) { chosen } else { Vec::new() }
}

/// A merge that was made for an earlier head, kept while its sources are still in the list.
#[derive(Debug, Clone)]
pub(crate) struct Merge {
    pub(crate) sources: BTreeSet<String>,
    pub(crate) results: Vec<ManifestFile>,
}

impl Merge {
    /// `manifests` with the sources replaced, or `None` when one of them is gone.
    pub(crate) fn apply(&self, manifests: &[ManifestFile]) -> Option<Vec<ManifestFile>> {
        let kept: Vec<_> = manifests.iter().filter(|m| !self.sources.contains(&m.manifest_path)).cloned().collect();
        (kept.len() + self.sources.len() == manifests.len()).then(|| [self.results.clone(), kept].concat())
    }
}
