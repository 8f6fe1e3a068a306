//! Preparing a change: from a value to one `updateTable` request on a given head.
//!
//! What depends on the change alone is written once; the list, the sequence number, the first row id and the timestamp are
//! made anew for each head.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use iceberg::io::FileWrite;
use iceberg::spec::{
    DataFile, FormatVersion, ManifestFile, ManifestListWriter, Operation, PartitionSpecRef, SchemaRef, Snapshot,
    SnapshotRef, SnapshotReference, SnapshotRetention,
};
use iceberg::{TableRequirement, TableUpdate};

use crate::catalog::PreparedCommit;
use crate::commit::avro;
use crate::commit::checkpoint::{Chain, Taken, record_key};
use crate::commit::gather;
use crate::commit::manifests::{self, ManifestScribe, Merge};
use crate::commit::properties::CommitProperties;
use crate::commit::records::{self, IN_LIST, SUMMARY_MAX};
use crate::commit::replace;
use crate::commit::summary;
use crate::env::Env;
use crate::error::{Context, Error, ErrorKind, Result};
use crate::model::change::{Append, Change, Data, Evolve, PipelineDelta, Replace};
use crate::model::checkpoint::{Origin, RECORD_VERSION, Record};
use crate::model::ids::MAIN;
use crate::model::table::TableState;
use crate::storage::Storage;
use crate::storage::ledger::{Ledger, LedgerOwner};

/// What one change has written so far, kept over its attempts.
#[derive(Debug, Default)]
pub(crate) struct Written {
    /// Manifests of the added files; `None` until they are written.
    added: Option<Vec<ManifestFile>>,
    /// A merge of small manifests, reused while its sources are in the head's list.
    merge: Option<Merge>,
    /// Manifest lists written: one for each head that it was prepared on.
    pub(crate) lists: u32,
    /// Every metadata object written for this change.
    pub(crate) objects: Vec<String>,
    /// What a replace has learned of manifests and filtered of them.
    pub(crate) replace: replace::Memory,
    /// What a rewrite of manifests has gathered.
    pub(crate) gathered: Vec<Merge>,
}

impl Written {
    /// Forgets what carries the old snapshot id, so that it is written again; the objects stay known.
    pub(crate) fn renew(&mut self) {
        (self.added, self.merge) = (None, None);
    }
}

/// The manifest lists that were read or written last, newest last: one of them is the next commit's base, more often than not.
/// A list never changes, so each is read once. Holds at most [`LISTS_MAX`] lists, and more than one only up to
/// [`LISTED_MAX`] manifests in all.
#[derive(Debug, Default)]
pub(crate) struct ListCache {
    lists: VecDeque<(String, Vec<ManifestFile>)>,
}

/// Lists remembered of a table: the head, and those of attempts that others were faster than.
const LISTS_MAX: usize = 8;
/// Manifests in them, of about half a kilobyte each.
const LISTED_MAX: usize = 20_000;

impl ListCache {
    pub(crate) fn get(&self, location: &str) -> Option<&[ManifestFile]> {
        self.lists.iter().find(|(held, _)| held == location).map(|(_, manifests)| manifests.as_slice())
    }

    fn put(&mut self, location: String, manifests: Vec<ManifestFile>) {
        self.lists.push_back((location, manifests));
        let listed = |lists: &VecDeque<(String, Vec<ManifestFile>)>| lists.iter().map(|(_, m)| m.len()).sum::<usize>();
        while self.lists.len() > LISTS_MAX || (self.lists.len() > 1 && listed(&self.lists) > LISTED_MAX) {
            self.lists.pop_front();
        }
    }
}

/// A change, ready to submit on one head.
#[derive(Debug, Clone)]
pub(crate) struct Prepared {
    pub(crate) commit: PreparedCommit,
    /// The table as it was assumed.
    pub(crate) base: TableState,
    /// When it was prepared: its timestamp's age.
    pub(crate) at_ms: i64,
}

/// What preparing needs beside the change.
pub(crate) struct Preparer<'a> {
    pub(crate) env: &'a Env,
    pub(crate) storage: &'a Storage,
    pub(crate) ledger: Option<&'a Ledger>,
    pub(crate) instance: &'a str,
    /// The checkpoint that a delta moves, as the decision table took it from this very base.
    pub(crate) held: Option<&'a Taken>,
    pub(crate) cache: &'a mut ListCache,
}

impl Preparer<'_> {
    /// Prepares `change` on `base`.
    ///
    /// # Errors
    /// `Conflict` for a replace that is void on `base`; `Internal` for a combination that no change may have; `Unsupported` for format version 1; whatever the store says.
    pub(crate) async fn prepare(
        &mut self,
        change: &Change,
        written: &mut Written,
        base: &TableState,
    ) -> Result<Prepared> {
        check(change, base)?;
        let metadata = &base.metadata;
        let mut updates = Vec::new();
        let mut requirements = vec![TableRequirement::UuidMatch { uuid: metadata.uuid() }];
        if let Some(evolve) = &change.evolve {
            updates.extend(evolve_updates(evolve, base));
            requirements
                .push(TableRequirement::LastAssignedFieldIdMatch { last_assigned_field_id: metadata.last_column_id() });
        }
        if change.data.is_some() || change.evolve.is_some() {
            requirements
                .push(TableRequirement::CurrentSchemaIdMatch { current_schema_id: metadata.current_schema_id() });
            requirements
                .push(TableRequirement::DefaultSpecIdMatch { default_spec_id: metadata.default_partition_spec_id() });
        }
        if let Some(data) = &change.data {
            let snapshot = self.snapshot(change, data, written, base, &mut updates).await?;
            requirements.push(pin(base, &change.target));
            updates.push(TableUpdate::AddSnapshot { snapshot });
            updates.push(TableUpdate::SetSnapshotRef {
                ref_name: change.target.clone(),
                reference: SnapshotReference::new(change.snapshot_id, retention(base, &change.target)),
            });
        }
        for (name, reference) in &change.refs {
            requirements.push(pin(base, name));
            updates.push(match reference {
                Some(reference) => TableUpdate::SetSnapshotRef { ref_name: name.clone(), reference: reference.clone() },
                None => TableUpdate::RemoveSnapshotRef { ref_name: name.clone() },
            });
        }
        if let Some(removal) = &change.removal {
            // A server drops a ref with its snapshot without a word: every one that is known is pinned.
            let others = base.refs.keys().filter(|name| !change.refs.contains_key(*name));
            requirements.extend(others.map(|name| pin(base, name)));
            let held = |id: &&i64| metadata.snapshot_by_id(**id).is_some();
            let snapshot_ids = removal.snapshots.iter().filter(held).copied().collect();
            updates.push(TableUpdate::RemoveSnapshots { snapshot_ids });
        }
        updates.extend(change.statistics.iter().map(|s| TableUpdate::SetStatistics { statistics: s.clone() }));
        updates.extend(
            change
                .partition_statistics
                .iter()
                .map(|s| TableUpdate::SetPartitionStatistics { partition_statistics: s.clone() }),
        );
        let commit =
            PreparedCommit { table: base.name.clone(), requirements, updates, idempotency_key: self.env.uuid() };
        Ok(Prepared { commit, base: base.clone(), at_ms: self.env.now_ms() })
    }

    /// Writes the snapshot's files and adds the record's property to `updates`.
    async fn snapshot(
        &mut self,
        change: &Change,
        data: &Data,
        written: &mut Written,
        base: &TableState,
        updates: &mut Vec<TableUpdate>,
    ) -> Result<Snapshot> {
        let metadata = &base.metadata;
        let coming = Coming::of(data, base);
        let properties = CommitProperties::of(base)?;
        let scribe = ManifestScribe {
            env: self.env,
            storage: self.storage,
            folder: properties.metadata_folder.clone(),
            snapshot_id: change.snapshot_id,
            format: metadata.format_version(),
            ledger: self
                .ledger
                .map(|ledger| (ledger, LedgerOwner { table: base.name.clone(), snapshot_id: change.snapshot_id })),
        };
        let parent = parent(base, &change.target);
        let mut existing = self.existing(parent.as_ref(), metadata.format_version()).await?;
        let (mut removed, mut deletes, mut counts) = (Vec::new(), Vec::new(), Vec::new());
        match data {
            Data::Append(_) if properties.merge => {
                existing = merge_small(&scribe, coming.spec_id, existing, &properties, written, base).await?;
            }
            Data::Append(_) => {}
            Data::Replace(own) => {
                let (memory, objects) = (&mut written.replace, &mut written.objects);
                let schema = with_schema_id(&own.schema, schema_id(change, base))?;
                let layout = (&schema, spec_of(base, own.spec_id)?.as_ref());
                let exchange = replace::exchange(&scribe, own, existing, layout, memory, objects).await?;
                (existing, deletes, removed) = (exchange.manifests, exchange.deletes, exchange.removed);
            }
            Data::RewriteManifests(own) => {
                let (memory, objects) = (&mut written.gathered, &mut written.objects);
                let gathered = gather::gather(&scribe, own, existing, memory, objects).await?;
                (counts, existing) = (gathered.counts(), gathered.manifests);
            }
        }
        let added = self.added(&scribe, change, &coming, written, base).await?;
        let seq = metadata.next_sequence_number();
        let records = Records::collect(self, change, base, seq).await?;
        let list = ListSpec { parent: parent.as_ref().map(|s| s.snapshot_id()), seq, base, header: records.in_list() };
        let location = scribe.location(&manifests::list_stem(change.snapshot_id, list.parent));
        let (manifests, rows) = self.write_list(&scribe, &location, &list, [added, existing].concat()).await?;
        written.objects.push(location.clone());
        written.lists += 1;
        self.cache.put(location.clone(), manifests);
        let come = coming.files.iter().chain(&deletes).map(|file| (file, coming.spec_id));
        let gone = removed.iter().map(|(file, spec_id)| (file, *spec_id));
        let mut summary =
            summary::summary(coming.operation.clone(), coming.schema, (come, gone), parent.as_ref(), base);
        summary.additional_properties.extend(records.in_summary().chain(counts));
        updates.extend(records.property());
        let builder = Snapshot::builder()
            .with_snapshot_id(change.snapshot_id)
            .with_parent_snapshot_id(list.parent)
            .with_sequence_number(seq)
            .with_timestamp_ms(self.env.now_ms().max(metadata.last_updated_ms()))
            .with_manifest_list(location)
            .with_summary(summary)
            .with_schema_id(schema_id(change, base));
        Ok(match rows {
            Some((first, count)) => builder.with_row_range(first, count).build(),
            None => builder.build(),
        })
    }

    async fn existing(&mut self, parent: Option<&SnapshotRef>, format: FormatVersion) -> Result<Vec<ManifestFile>> {
        let Some(parent) = parent else {
            return Ok(Vec::new());
        };
        if self.cache.get(parent.manifest_list()).is_none() {
            let manifests = manifests::list(self.storage, parent.manifest_list(), format).await?;
            self.cache.put(parent.manifest_list().to_owned(), manifests);
        }
        // A manifest without live entries says nothing that a reader of this snapshot needs.
        let live = |m: &&ManifestFile| m.has_added_files() || m.has_existing_files();
        let manifests = self.cache.get(parent.manifest_list()).unwrap_or_default();
        Ok(manifests.iter().filter(live).cloned().collect())
    }

    async fn added(
        &self,
        scribe: &ManifestScribe<'_>,
        change: &Change,
        coming: &Coming<'_>,
        written: &mut Written,
        base: &TableState,
    ) -> Result<Vec<ManifestFile>> {
        if let Some(added) = &written.added {
            return Ok(added.clone());
        }
        let schema = with_schema_id(coming.schema, schema_id(change, base))?;
        let spec = spec_of(base, coming.spec_id)?;
        let added = scribe.added(coming.files, &schema, spec, coming.seq).await?;
        written.objects.extend(added.iter().map(|m| m.manifest_path.clone()));
        written.added = Some(added.clone());
        Ok(added)
    }

    /// Writes the list; its manifests as they stand in it, and the row ids it gave away on v3.
    async fn write_list(
        &self,
        scribe: &ManifestScribe<'_>,
        location: &str,
        list: &ListSpec<'_>,
        manifests: Vec<ManifestFile>,
    ) -> Result<(Vec<ManifestFile>, Option<(u64, u64)>)> {
        let failed = || format!("write the manifest list {location}");
        let buffer = Buffer::default();
        let format = list.base.metadata.format_version();
        let first_row = list.base.metadata.next_row_id();
        let sink = Box::new(buffer.clone());
        let mut writer = match format {
            FormatVersion::V3 => {
                ManifestListWriter::v3(sink, scribe.snapshot_id, list.parent, list.seq, Some(first_row))
            }
            _ => ManifestListWriter::v2(sink, scribe.snapshot_id, list.parent, list.seq),
        };
        writer.add_manifests(manifests.into_iter()).context(ErrorKind::Internal, failed)?;
        let rows = writer.next_row_id().map(|next| (first_row, next.saturating_sub(first_row)));
        writer.close().await.context(ErrorKind::Internal, failed)?;
        let plain = buffer.take();
        let bytes = avro::recontain(&plain, &list.header, *self.env.uuid().as_bytes())?;
        scribe.put(location, bytes).await?;
        Ok((manifests::parse_list(&plain, location, format)?, rows))
    }
}

/// The files that a change brings.
struct Coming<'a> {
    files: &'a [DataFile],
    schema: &'a SchemaRef,
    spec_id: i32,
    /// Their data sequence number, where it is not the snapshot's.
    seq: Option<i64>,
    operation: Operation,
}

impl<'a> Coming<'a> {
    fn of(data: &'a Data, base: &'a TableState) -> Self {
        match data {
            Data::Append(Append { files, schema, spec_id }) => {
                Self { files, schema, spec_id: *spec_id, seq: None, operation: Operation::Append }
            }
            Data::Replace(Replace { outputs, schema, spec_id, planned_seq, .. }) => Self {
                files: outputs,
                schema,
                spec_id: *spec_id,
                seq: Some(*planned_seq),
                operation: Operation::Replace,
            },
            Data::RewriteManifests(_) => Self {
                files: &[],
                schema: base.metadata.current_schema(),
                spec_id: base.metadata.default_partition_spec_id(),
                seq: None,
                operation: Operation::Replace,
            },
        }
    }
}

struct ListSpec<'a> {
    parent: Option<i64>,
    seq: i64,
    base: &'a TableState,
    header: BTreeMap<String, String>,
}

/// What may be combined, in one place.
fn check(change: &Change, base: &TableState) -> Result<()> {
    let refuse = |what: &str| Err(Error::new(ErrorKind::Internal, format!("table {}: {what}", base.name)));
    if base.metadata.format_version() < FormatVersion::V2 {
        return Err(Error::new(ErrorKind::Unsupported, format!("table {} has format version 1", base.name))
            .with_hint("upgrade it: set the table property format-version to 2"));
    }
    if change.data.is_some() || change.evolve.is_some() {
        base.check_known()?;
    }
    let else_than_removal = change.data.is_some()
        || change.delta.is_some()
        || change.evolve.is_some()
        || change.refs.values().any(Option::is_some)
        || !(change.statistics.is_empty() && change.partition_statistics.is_empty());
    if change.removal.is_some() && else_than_removal {
        return refuse("removing snapshots travels alone");
    }
    if change.delta.is_some() && change.data.is_none() {
        return refuse("a delta travels with a snapshot");
    }
    if let Some(Data::Replace(replace)) = &change.data {
        if change.delta.is_some() || change.evolve.is_some() {
            return refuse("a replace travels without a delta and with the schema as it is");
        }
        if replace.inputs.is_empty() {
            return refuse("a replace takes the place of something");
        }
    }
    if let Some(Data::RewriteManifests(rewrite)) = &change.data
        && (change.delta.is_some() || change.evolve.is_some() || rewrite.sources.is_empty())
    {
        return refuse("a rewrite of manifests travels without a delta and with the schema as it is, and has sources");
    }
    let has_rows = match &change.data {
        Some(Data::Append(append)) => !append.files.is_empty(),
        Some(Data::Replace(_) | Data::RewriteManifests(_)) => true,
        None => false,
    };
    if has_rows && base.head(&change.target).is_none() {
        return refuse("rows never travel in a snapshot without a parent: the start record comes first");
    }
    if change.refs.contains_key(&change.target) && change.data.is_some() {
        return refuse("a data change moves its own ref");
    }
    Ok(())
}

fn spec_of(base: &TableState, id: i32) -> Result<&PartitionSpecRef> {
    let unknown = || Error::new(ErrorKind::Internal, format!("table {}: no partition spec {id}", base.name));
    base.metadata.partition_spec_by_id(id).ok_or_else(unknown)
}

fn pin(base: &TableState, name: &str) -> TableRequirement {
    TableRequirement::RefSnapshotIdMatch {
        r#ref: name.to_owned(),
        snapshot_id: base.refs.get(name).map(|r| r.snapshot_id),
    }
}

/// The parent of a new snapshot: the ref's head; a branch that does not exist yet starts at main's.
pub(crate) fn parent(base: &TableState, target: &str) -> Option<SnapshotRef> {
    base.head(target).or_else(|| base.head(MAIN)).cloned()
}

fn retention(base: &TableState, target: &str) -> SnapshotRetention {
    base.refs.get(target).map_or(
        SnapshotRetention::Branch { min_snapshots_to_keep: None, max_snapshot_age_ms: None, max_ref_age_ms: None },
        |reference| reference.retention.clone(),
    )
}

/// The id that the current schema has once `change` is in.
fn schema_id(change: &Change, base: &TableState) -> i32 {
    let Some(evolve) = &change.evolve else {
        return base.metadata.current_schema_id();
    };
    let same = |s: &&SchemaRef| s.as_struct() == evolve.schema.as_struct();
    let known = base.metadata.schemas_iter().find(same).map(|s| s.schema_id());
    known.unwrap_or_else(|| base.metadata.schemas_iter().map(|s| s.schema_id()).max().unwrap_or(-1).saturating_add(1))
}

fn with_schema_id(schema: &SchemaRef, id: i32) -> Result<SchemaRef> {
    if schema.schema_id() == id {
        return Ok(Arc::clone(schema));
    }
    let schema = schema.as_ref().clone().into_builder().with_schema_id(id).build();
    schema.map(Arc::new).context(ErrorKind::Internal, || "number a schema")
}

fn evolve_updates(evolve: &Evolve, base: &TableState) -> Vec<TableUpdate> {
    let schema = evolve.schema.as_ref().clone();
    let known = base.metadata.schemas_iter().find(|s| s.as_struct() == schema.as_struct()).map(|s| s.schema_id());
    match known {
        Some(schema_id) => vec![TableUpdate::SetCurrentSchema { schema_id }],
        None => vec![TableUpdate::AddSchema { schema }, TableUpdate::SetCurrentSchema { schema_id: -1 }],
    }
}

async fn merge_small(
    scribe: &ManifestScribe<'_>,
    spec_id: i32,
    existing: Vec<ManifestFile>,
    properties: &CommitProperties,
    written: &mut Written,
    base: &TableState,
) -> Result<Vec<ManifestFile>> {
    if let Some(merged) = written.merge.as_ref().and_then(|merge| merge.apply(&existing)) {
        return Ok(merged);
    }
    let format = base.metadata.format_version();
    let sources = manifests::small(&existing, spec_id, properties.merge_count_min, properties.manifest_size, format);
    let Some(spec) = base.metadata.partition_spec_by_id(spec_id).filter(|_| !sources.is_empty()) else {
        return Ok(existing);
    };
    let result = scribe.merged(&sources, base.metadata.current_schema(), spec).await?;
    written.objects.push(result.manifest_path.clone());
    let merge = Merge { sources: sources.into_iter().map(|m| m.manifest_path).collect(), results: vec![result] };
    let merged = merge.apply(&existing);
    written.merge = Some(merge);
    Ok(merged.unwrap_or(existing))
}

/// The records that a snapshot carries: its own, and every other one verbatim.
struct Records {
    own: Option<(String, String)>,
    others: BTreeMap<String, String>,
}

impl Records {
    async fn collect(preparer: &Preparer<'_>, change: &Change, base: &TableState, seq: i64) -> Result<Self> {
        let (storage, held, instance) = (preparer.storage, preparer.held, preparer.instance);
        let chain = Chain::of(base, &change.target)?;
        let key = change.delta.as_ref().map(|delta| record_key(&delta.pipeline, &change.target));
        // Its own record is made anew; an operator may do so because the one that is there cannot be read.
        let carried = records::nearest(storage, &chain, &change.target, key.as_deref()).await?;
        let record = |delta| own_record(delta, held, change.snapshot_id, seq, instance).to_text();
        let own = key.zip(change.delta.as_ref().map(record));
        let others: BTreeMap<_, _> = carried.into_iter().map(|(key, carried)| (key, carried.text)).collect();
        Ok(Self { own, others })
    }

    fn all(&self) -> impl Iterator<Item = (&String, &String)> {
        self.others.iter().chain(self.own.iter().map(|(key, text)| (key, text)))
    }

    fn in_list(&self) -> BTreeMap<String, String> {
        self.all().filter(|(_, text)| text.len() > SUMMARY_MAX).map(|(k, v)| (k.clone(), v.clone())).collect()
    }

    fn in_summary(&self) -> impl Iterator<Item = (String, String)> {
        self.all().map(|(key, text)| {
            let value = if text.len() > SUMMARY_MAX { IN_LIST } else { text };
            (key.clone(), value.to_owned())
        })
    }

    /// Only a commit with a delta writes the property.
    fn property(&self) -> Option<TableUpdate> {
        self.own
            .as_ref()
            .map(|(key, text)| TableUpdate::SetProperties { updates: HashMap::from([(key.clone(), text.clone())]) })
    }
}

fn own_record(delta: &PipelineDelta, held: Option<&Taken>, snapshot: i64, seq: i64, instance: &str) -> Record {
    let mut checkpoint = delta.witness.clone();
    // What another instance decided stays until somebody knows it finished.
    let open = held.into_iter().flat_map(|taken| &taken.sealed).filter(|location| !delta.finished.contains(location));
    let sealed = open.chain(&delta.sealed).cloned().collect();
    if let Some(Taken { checkpoint: held, .. }) = held {
        checkpoint.positions = held.positions.clone();
        let fresh = std::mem::replace(&mut checkpoint.tails, held.tails.clone());
        checkpoint.tails.extend(fresh);
        checkpoint.followers.extend(held.followers.iter().cloned());
        for (follower, seq) in &held.known {
            checkpoint.knows(follower, *seq);
        }
    }
    checkpoint.positions = delta.delta.apply(&checkpoint.positions);
    Record {
        v: RECORD_VERSION,
        checkpoint,
        origin: Origin { snapshot, seq, commit: format!("{instance}/{snapshot:x}") },
        sealed,
        above: match delta.follows {
            Some(_) => delta.delta.ranges.iter().map(|(p, range)| (p.clone(), range.from.clone())).collect(),
            None => BTreeMap::new(),
        },
        under: delta.operator.as_ref().and_then(|edit| edit.under),
    }
}

/// A file in memory.
#[derive(Debug, Clone, Default)]
struct Buffer(Arc<Mutex<Vec<u8>>>);

impl Buffer {
    fn take(&self) -> Vec<u8> {
        std::mem::take(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

#[async_trait::async_trait]
impl FileWrite for Buffer {
    async fn write(&mut self, bytes: Bytes) -> iceberg::Result<()> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).extend_from_slice(&bytes);
        Ok(())
    }

    async fn close(&mut self) -> iceberg::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests;
