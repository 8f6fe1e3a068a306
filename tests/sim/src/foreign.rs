//! A foreign engine: real snapshots with manifests of its own, without our records, straight at the true catalog.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use frazil::catalog::{Catalog, CreateTable, Outcome, PreparedCommit};
use frazil::env::Env;
use frazil::model::ids::{MAIN, TableName};
use frazil::model::table::TableState;
use iceberg::io::{FileIO, FileWrite};
use iceberg::spec::{
    DataContentType, DataFile, DataFileBuilder, DataFileFormat, FormatVersion, Manifest, ManifestContentType,
    ManifestFile, ManifestList, ManifestListWriter, ManifestWriter, ManifestWriterBuilder, NestedField, Operation,
    PrimitiveType, Schema, Snapshot, SnapshotReference, SnapshotRetention, SortOrder, Struct, Summary, Transform, Type,
    UnboundPartitionSpec,
};
use iceberg::{TableRequirement, TableUpdate};
use object_store::path::Path;
use object_store::{ObjectStoreExt, PutPayload};

use crate::upserter;
use crate::world::{World, key};

/// Columns that rows bring again, and that nobody else looks at.
const COMING_AND_GOING: [&str; 4] = ["coupon", "currency", "session", "url"];

/// What its commits are told by.
pub const NAME: &str = "foreign";

/// What it does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Deed {
    /// Adds a file.
    Append,
    /// Writes all files anew.
    Compact,
    /// Deletes the rows of one manifest.
    Delete,
    /// Rows are replaced by others.
    Overwrite,
    /// Removes all snapshots but those that refs name, and their files.
    Expire,
    /// Sets the branch to an ancestor.
    RollBack,
    /// Removes the checkpoints from the table's properties.
    Reset,
    /// Adds a column.
    AddColumn,
    /// Tags the head.
    Tag,
    /// Commits to a branch of its own, which moves the sequence number.
    Branch,
    /// Sets a property.
    Property,
    /// Publishes a snapshot that was staged beside the branch.
    CherryPick,
    /// Lays the table out anew: another default partition spec.
    Spec,
    /// Removes all metadata documents but the current one.
    CleanDocuments,
    /// Drops a column that comes from the rows.
    DropColumn,
    /// Drops the table, and creates it anew with the same columns.
    Recreate,
    /// Drops the branch, as whoever replaces a table does.
    DropBranch,
    /// Drops a tag.
    DropTag,
    /// Deletes rows by their places.
    DeletePositions,
    /// Deletes rows by the value of a column.
    DeleteKeys,
    /// An operator rolls back, and says that the rows are read again.
    RewindByOperator,
    /// An operator rolls back, and says that the rows stay away.
    KeepByOperator,
}

/// One round of the engine on one table. `None`: there was nothing to do.
pub async fn act(world: &World, table: &TableName, deed: Deed) -> Option<()> {
    let state = world.load(table).await.ok()?;
    let engine = Engine { world, state };
    let (requirements, updates) = match deed {
        Deed::Append => engine.append(&world.target).await?,
        Deed::Branch => engine.append(if world.target == MAIN { "audit" } else { MAIN }).await?,
        Deed::CherryPick => {
            let (requirements, mut updates) = engine.append(&world.target).await?;
            for update in &mut updates {
                if let TableUpdate::AddSnapshot { snapshot } = update {
                    *snapshot = picked(snapshot, world.env.snapshot_id());
                }
            }
            (requirements, updates)
        }
        Deed::Spec => engine.spec()?,
        Deed::Compact => engine.compact().await?,
        Deed::Delete => engine.delete(false).await?,
        Deed::Overwrite => engine.delete(true).await?,
        Deed::Expire => return engine.expire().await,
        Deed::RollBack => engine.roll_back()?,
        Deed::Reset if world.keeps_records(table) => return None,
        Deed::Reset => {
            let removals: Vec<String> = engine.checkpoints().collect();
            (vec![], vec![TableUpdate::RemoveProperties { removals: (!removals.is_empty()).then_some(removals)? }])
        }
        Deed::AddColumn => engine.add_column()?,
        Deed::Tag => engine.tag(engine.head()?),
        Deed::DropTag => engine.drop_tag()?,
        Deed::DeletePositions | Deed::DeleteKeys if !upserter::reaches(table) => return None,
        Deed::DeletePositions => engine.delete_positions().await?,
        Deed::DeleteKeys => engine.delete_keys().await?,
        Deed::Property => {
            let updates = HashMap::from([("owner".to_owned(), world.env.below(100).to_string())]);
            (vec![], vec![TableUpdate::SetProperties { updates }])
        }
        Deed::CleanDocuments => return engine.clean_documents().await,
        Deed::DropColumn => engine.drop_column()?,
        Deed::Recreate => return engine.recreate().await,
        Deed::DropBranch => engine.drop_branch()?,
        Deed::RewindByOperator | Deed::KeepByOperator => return None, // not this engine's: see `operator`
    };
    let done = engine.commit(requirements, updates).await;
    world.cover(format!("foreign {deed:?} × {}", if done { "done" } else { "refused" }));
    done.then_some(())
}

/// Tags a snapshot that somebody else is about to remove.
pub async fn save(world: &World, table: &TableName, doomed: &[i64]) -> Option<()> {
    let id = *doomed.get(usize::try_from(world.env.below(doomed.len() as u64)).ok()?)?;
    let state = world.load(table).await.ok()?;
    state.metadata.snapshot_by_id(id)?;
    let engine = Engine { world, state };
    let (requirements, updates) = engine.tag(id);
    let done = engine.commit(requirements, updates).await;
    world.cover(format!("foreign tags what is about to go × {}", if done { "done" } else { "refused" }));
    done.then_some(())
}

/// Adds columns at the very moment at which somebody else's commit adds `theirs`: one of its own, and what they add, under
/// other ids.
pub async fn race(world: &World, table: &TableName, theirs: &Schema) -> Option<()> {
    let state = world.load(table).await.ok()?;
    let last = state.metadata.last_column_id();
    let new = theirs.as_struct().fields().iter().filter(|field| field.id > last && field.field_type.is_primitive());
    let new: Vec<_> = new.rev().map(|field| (field.name.clone(), field.field_type.as_ref().clone())).collect();
    let engine = Engine { world, state };
    let same = world.env.below(3) > 0;
    let (requirements, updates) = engine.add_columns(if same { new } else { vec![] })?;
    let done = engine.commit(requirements, updates).await;
    let which = if same { "the same columns" } else { "another column" };
    world.cover(format!("foreign adds {which} at the same time × {}", if done { "done" } else { "refused" }));
    done.then_some(())
}

pub(crate) struct Engine<'a> {
    pub(crate) world: &'a World,
    pub(crate) state: TableState,
}

pub(crate) type Request = (Vec<TableRequirement>, Vec<TableUpdate>);

impl Engine<'_> {
    fn head(&self) -> Option<i64> {
        self.state.head(&self.world.target).map(|s| s.snapshot_id())
    }

    fn checkpoints(&self) -> impl Iterator<Item = String> {
        let mut keys: Vec<String> = self.state.metadata.properties().keys().cloned().collect();
        keys.sort_unstable();
        keys.into_iter().filter(|k| k.starts_with("frazil.checkpoint."))
    }

    async fn commit(&self, mut requirements: Vec<TableRequirement>, updates: Vec<TableUpdate>) -> bool {
        requirements.push(TableRequirement::UuidMatch { uuid: self.state.metadata.uuid() });
        let commit = PreparedCommit {
            table: self.state.name.clone(),
            requirements,
            updates,
            idempotency_key: self.world.env.uuid(),
        };
        matches!(self.world.lands(NAME, &commit).await, Outcome::Committed(_))
    }

    /// A manifest of a file of its own.
    pub(crate) async fn own_rows(&self) -> Option<ManifestFile> {
        let path = format!("{}/data/foreign-{}.parquet", self.state.metadata.location(), self.world.env.uuid());
        self.put(&path, Bytes::from_static(b"rows of another engine")).await;
        // Nobody of ours reads it.
        self.manifest(vec![self.file(path, DataFileFormat::Avro, 1, 22, self.no_partition())]).await
    }

    async fn append(&self, target: &str) -> Option<Request> {
        let head = self.state.head(target).or_else(|| self.state.head(&self.world.target))?.clone();
        let mut manifests = vec![self.own_rows().await?];
        manifests.extend(self.manifests(head.manifest_list()).await?);
        self.snapshot(target, Some(head.snapshot_id()), manifests, Operation::Append).await.map(|(_, request)| request)
    }

    /// Every live file under a new name; the rows stay.
    async fn compact(&self) -> Option<Request> {
        let head = self.state.head(&self.world.target)?.clone();
        let mut files = Vec::new();
        let spec = self.state.metadata.default_partition_spec_id();
        for manifest in self.manifests(head.manifest_list()).await? {
            // Files keep the values of their own layout, and this engine applies no deletes.
            if manifest.partition_spec_id != spec || !is_data(&manifest) {
                return None;
            }
            for entry in self.entries(&manifest.manifest_path).await?.entries().iter().filter(|e| e.is_alive()) {
                let old = entry.data_file();
                let path = format!("{}/data/foreign-{}.parquet", self.state.metadata.location(), self.world.env.uuid());
                self.world.objects.copy(&key(old.file_path()), &key(&path)).await.ok()?;
                self.world.with_auditor(|a| a.copied(key(old.file_path()).as_ref(), key(&path).as_ref()));
                let (rows, size) = (old.record_count(), old.file_size_in_bytes());
                files.push(self.file(path, old.file_format(), rows, size, old.partition().clone()));
            }
        }
        if files.is_empty() {
            return None;
        }
        let manifest = self.manifest(files).await?;
        let made =
            self.snapshot(&self.world.target, Some(head.snapshot_id()), vec![manifest], Operation::Replace).await;
        made.map(|(_, request)| request)
    }

    /// One manifest and its rows go; another file takes their place, or none.
    async fn delete(&self, overwrites: bool) -> Option<Request> {
        let head = self.state.head(&self.world.target)?.clone();
        let mut manifests = self.manifests(head.manifest_list()).await?;
        let data: Vec<usize> = (0..manifests.len()).filter(|at| is_data(&manifests[*at])).collect();
        if data.len() < 2 {
            return None;
        }
        let at = usize::try_from(self.world.env.below(data.len() as u64)).ok()?;
        let gone = manifests.remove(*data.get(at)?);
        if overwrites {
            manifests.insert(0, self.own_rows().await?);
        }
        let operation = if overwrites { Operation::Overwrite } else { Operation::Delete };
        let (id, request) = self.snapshot(&self.world.target, Some(head.snapshot_id()), manifests, operation).await?;
        self.world.with_auditor(|a| {
            let rows = a.rows_of(key(&gone.manifest_path).as_ref());
            a.deleted.insert(id, rows);
        });
        Some(request)
    }

    async fn expire(&self) -> Option<()> {
        let named: BTreeSet<i64> = self.state.refs.values().map(|r| r.snapshot_id).collect();
        let all: BTreeSet<i64> = self.state.metadata.snapshots().map(|s| s.snapshot_id()).collect();
        let old: BTreeSet<i64> = all.difference(&named).copied().collect();
        if old.is_empty() {
            return None;
        }
        let mut ids: Vec<i64> = old.iter().copied().collect();
        ids.sort_unstable();
        if !self.commit(vec![], vec![TableUpdate::RemoveSnapshots { snapshot_ids: ids }]).await {
            return None;
        }
        self.world.cover("foreign Expire × done");
        let name = &self.state.name;
        let (gone, stay) = self.world.with_auditor(|a| (a.objects_of(name, &old), a.objects_of(name, &named)));
        for path in gone.difference(&stay) {
            let path = Path::from(path.as_str());
            self.world.deletes(NAME, &path);
            let _ = self.world.objects.delete(&path).await;
        }
        Some(())
    }

    fn roll_back(&self) -> Option<Request> {
        let head = self.head()?;
        let name = &self.state.name;
        let target = self.world.with_auditor(|a| {
            let targets = a.rollback_targets(name);
            let pick = self.world.env.below((targets.len() as u64).min(6));
            let target = *targets.get(usize::try_from(pick).ok()?)?;
            let stay: BTreeSet<_> = a.rows_at(name, Some(target)).into_iter().collect();
            let gone: Vec<_> = a.rows_since(name, head, target).into_iter().filter(|r| !stay.contains(r)).collect();
            a.rolled_back.extend(gone);
            a.accept_again(name);
            a.rollbacks += 1;
            a.set_back.insert(name.clone());
            Some(target)
        })?;
        let ref_name = self.world.target.clone();
        let retention = self.state.refs.get(&ref_name)?.retention.clone();
        let reference = SnapshotReference::new(target, retention);
        Some((vec![self.pin()], vec![TableUpdate::SetSnapshotRef { ref_name, reference }]))
    }

    fn add_column(&self) -> Option<Request> {
        self.add_columns(vec![])
    }

    /// A column of its own, and after it `more`.
    fn add_columns(&self, more: Vec<(String, Type)>) -> Option<Request> {
        let metadata = &self.state.metadata;
        let mut id = metadata.last_column_id() + 1;
        let mut fields = metadata.current_schema().as_struct().fields().to_vec();
        if fields.len() > 60 {
            return None;
        }
        fields.push(Arc::new(NestedField::optional(id, format!("note_{id}"), Type::Primitive(PrimitiveType::String))));
        for (name, kind) in more {
            id += 1;
            fields.push(Arc::new(NestedField::optional(id, name, kind)));
        }
        self.set_schema(fields)
    }

    fn drop_column(&self) -> Option<Request> {
        let metadata = &self.state.metadata;
        let mut fields = metadata.current_schema().as_struct().fields().to_vec();
        let gone = COMING_AND_GOING[usize::try_from(self.world.env.below(COMING_AND_GOING.len() as u64)).ok()?];
        let before = fields.len();
        fields.retain(|field| field.name != gone);
        if fields.len() == before { None } else { self.set_schema(fields) }
    }

    fn set_schema(&self, fields: Vec<Arc<NestedField>>) -> Option<Request> {
        let metadata = &self.state.metadata;
        let schema = Schema::builder().with_fields(fields).build().ok()?;
        let requirements = vec![
            TableRequirement::LastAssignedFieldIdMatch { last_assigned_field_id: metadata.last_column_id() },
            TableRequirement::CurrentSchemaIdMatch { current_schema_id: metadata.current_schema_id() },
        ];
        Some((requirements, vec![TableUpdate::AddSchema { schema }, TableUpdate::SetCurrentSchema { schema_id: -1 }]))
    }

    /// By another number of buckets; files of both layouts stay.
    fn spec(&self) -> Option<Request> {
        let metadata = &self.state.metadata;
        let column = metadata.current_schema().field_by_name("customer_id")?;
        if metadata.partition_specs_iter().count() > 4 {
            return None;
        }
        let buckets = 2 + u32::try_from(self.world.env.below(6)).unwrap_or(0);
        let builder = UnboundPartitionSpec::builder();
        let name = format!("customer_id_bucket_{buckets}");
        let spec = builder.add_partition_field(column.id, name, Transform::Bucket(buckets)).ok()?.build();
        let requirements = vec![TableRequirement::LastAssignedPartitionIdMatch {
            last_assigned_partition_id: metadata.last_partition_id(),
        }];
        Some((requirements, vec![TableUpdate::AddSpec { spec }, TableUpdate::SetDefaultSpec { spec_id: -1 }]))
    }

    fn tag(&self, snapshot: i64) -> Request {
        let reference = SnapshotReference::new(snapshot, SnapshotRetention::Tag { max_ref_age_ms: None });
        let ref_name = format!("t{}", self.world.env.below(3));
        (vec![], vec![TableUpdate::SetSnapshotRef { ref_name, reference }])
    }

    fn drop_tag(&self) -> Option<Request> {
        let tags: Vec<&String> = self.state.refs.iter().filter(|(_, r)| !r.is_branch()).map(|(name, _)| name).collect();
        let ref_name = (*tags.get(usize::try_from(self.world.env.below(tags.len() as u64)).ok()?)?).clone();
        Some((vec![], vec![TableUpdate::RemoveSnapshotRef { ref_name }]))
    }

    fn drop_branch(&self) -> Option<Request> {
        let head = self.head()?;
        // Once is enough to be looked at.
        self.world.with_auditor(|a| a.drop_branch(&self.state.name, head)).then_some(())?;
        Some((vec![self.pin()], vec![TableUpdate::RemoveSnapshotRef { ref_name: self.world.target.clone() }]))
    }

    async fn recreate(&self) -> Option<()> {
        let metadata = &self.state.metadata;
        if self.world.with_auditor(|a| a.is_dropped(&self.state.name)) {
            return None; // once is enough to be looked at
        }
        self.world.truth.drop_table(&self.state.name).await.ok()?;
        self.world.with_auditor(|a| a.drop_table(&self.state.name));
        self.world.note(NAME, &format!("{} is dropped and created anew", self.state.name));
        let fields = metadata.current_schema().as_struct().fields().to_vec();
        let create = CreateTable {
            name: self.state.name.clone(),
            location: None,
            schema: Schema::builder().with_fields(fields).build().ok()?,
            spec: UnboundPartitionSpec::default(),
            sort_order: SortOrder::unsorted_order(),
            format_version: metadata.format_version(),
            properties: Default::default(),
        };
        let outcome = self.world.creates(NAME, &create).await;
        self.world.cover("foreign Recreate × done");
        matches!(outcome, Outcome::Committed(_)).then_some(())
    }

    async fn clean_documents(&self) -> Option<()> {
        for entry in self.state.metadata.metadata_log() {
            let _ = self.world.objects.delete(&key(&entry.metadata_file)).await;
        }
        self.world.note(NAME, &format!("{}: old metadata documents are gone", self.state.name));
        self.world.cover("foreign CleanDocuments × done");
        Some(())
    }

    fn pin(&self) -> TableRequirement {
        TableRequirement::RefSnapshotIdMatch { r#ref: self.world.target.clone(), snapshot_id: self.head() }
    }

    fn no_partition(&self) -> Struct {
        let fields = self.state.metadata.default_partition_spec().fields().len();
        Struct::from_iter(std::iter::repeat_n(None, fields))
    }

    fn file(&self, path: String, format: DataFileFormat, rows: u64, size: u64, partition: Struct) -> DataFile {
        DataFileBuilder::default()
            .content(DataContentType::Data)
            .file_path(path)
            .file_format(format)
            .partition(partition)
            .partition_spec_id(self.state.metadata.default_partition_spec_id())
            .record_count(rows)
            .file_size_in_bytes(size)
            .build()
            .expect("all members are set")
    }

    async fn manifest(&self, files: Vec<DataFile>) -> Option<ManifestFile> {
        self.manifest_of(self.state.metadata.default_partition_spec_id(), files, false).await
    }

    /// A manifest of data files or of delete files.
    pub(crate) async fn manifest_of(&self, spec: i32, files: Vec<DataFile>, deletes: bool) -> Option<ManifestFile> {
        self.manifest_by(spec, deletes, |writer| files.into_iter().try_for_each(|file| writer.add_file(file, -1))).await
    }

    /// A manifest of delete files that are there already: each with its snapshot, its data and its file sequence number.
    pub(crate) async fn manifest_of_deletes(
        &self,
        spec: i32,
        files: Vec<(DataFile, i64, i64, i64)>,
    ) -> Option<ManifestFile> {
        let add = |writer: &mut ManifestWriter| {
            files.into_iter().try_for_each(|(file, by, seq, own)| writer.add_existing_file(file, by, seq, Some(own)))
        };
        self.manifest_by(spec, true, add).await
    }

    async fn manifest_by(
        &self,
        spec: i32,
        deletes: bool,
        fill: impl FnOnce(&mut ManifestWriter) -> iceberg::Result<()>,
    ) -> Option<ManifestFile> {
        let memory = FileIO::new_with_memory();
        let output = memory.new_output("memory:/manifest").ok()?;
        let metadata = &self.state.metadata;
        let spec = metadata.partition_spec_by_id(spec)?.as_ref().clone();
        // The list writer fills in the snapshot where it is not known yet.
        let builder = ManifestWriterBuilder::new(output, None, metadata.current_schema().clone(), spec);
        let mut writer = match (metadata.format_version(), deletes) {
            (FormatVersion::V3, false) => builder.build_v3_data(),
            (FormatVersion::V3, true) => builder.build_v3_deletes(),
            (_, false) => builder.build_v2_data(),
            (_, true) => builder.build_v2_deletes(),
        };
        fill(&mut writer).ok()?;
        let mut manifest = writer.write_manifest_file().await.ok()?;
        let bytes = memory.new_input("memory:/manifest").ok()?.read().await.ok()?;
        manifest.manifest_path = format!("{}/metadata/foreign-{}.avro", metadata.location(), self.world.env.uuid());
        manifest.manifest_length = i64::try_from(bytes.len()).ok()?;
        self.put(&manifest.manifest_path, bytes).await;
        Some(manifest)
    }

    pub(crate) async fn manifests(&self, list: &str) -> Option<Vec<ManifestFile>> {
        let bytes = self.world.objects.get(&key(list)).await.ok()?.bytes().await.ok()?;
        let parsed = ManifestList::parse_with_version(&bytes, self.state.metadata.format_version()).ok()?;
        Some(parsed.consume_entries().into_iter().collect())
    }

    pub(crate) async fn entries(&self, manifest: &str) -> Option<Manifest> {
        let bytes = self.world.objects.get(&key(manifest)).await.ok()?.bytes().await.ok()?;
        Manifest::parse_avro(&bytes).ok()
    }

    pub(crate) async fn snapshot(
        &self,
        target: &str,
        parent: Option<i64>,
        mut manifests: Vec<ManifestFile>,
        operation: Operation,
    ) -> Option<(i64, Request)> {
        let metadata = &self.state.metadata;
        let id = self.world.env.snapshot_id();
        for manifest in &mut manifests {
            if manifest.added_snapshot_id <= 0 {
                manifest.added_snapshot_id = id;
            }
        }
        let seq = metadata.next_sequence_number();
        let first_row = metadata.next_row_id();
        let buffer = Buffer::default();
        let sink = Box::new(buffer.clone());
        let mut writer = match metadata.format_version() {
            FormatVersion::V3 => ManifestListWriter::v3(sink, id, parent, seq, Some(first_row)),
            _ => ManifestListWriter::v2(sink, id, parent, seq),
        };
        writer.add_manifests(manifests.into_iter()).ok()?;
        let rows = writer.next_row_id().map(|next| (first_row, next.saturating_sub(first_row)));
        writer.close().await.ok()?;
        let location = format!("{}/metadata/foreign-snap-{id}.avro", metadata.location());
        self.put(&location, buffer.take()).await;
        let builder = Snapshot::builder()
            .with_snapshot_id(id)
            .with_parent_snapshot_id(parent)
            .with_sequence_number(seq)
            .with_timestamp_ms(self.world.clock.now().max(metadata.last_updated_ms()))
            .with_manifest_list(location)
            .with_summary(Summary {
                operation,
                additional_properties: HashMap::from([("engine-name".into(), "other".into())]),
            })
            .with_schema_id(metadata.current_schema_id());
        let snapshot = match rows {
            Some((first, count)) => builder.with_row_range(first, count).build(),
            None => builder.build(),
        };
        let held = self.state.refs.get(target);
        let retention = held.map_or(
            SnapshotRetention::Branch { min_snapshots_to_keep: None, max_snapshot_age_ms: None, max_ref_age_ms: None },
            |r| r.retention.clone(),
        );
        let pin =
            TableRequirement::RefSnapshotIdMatch { r#ref: target.to_owned(), snapshot_id: held.map(|r| r.snapshot_id) };
        let reference = SnapshotReference::new(id, retention);
        let updates = vec![
            TableUpdate::AddSnapshot { snapshot },
            TableUpdate::SetSnapshotRef { ref_name: target.to_owned(), reference },
        ];
        Some((id, (vec![pin], updates)))
    }

    pub(crate) async fn put(&self, location: &str, bytes: Bytes) {
        let _ = self.world.objects.put(&key(location), PutPayload::from(bytes)).await;
    }
}

fn is_data(manifest: &ManifestFile) -> bool {
    manifest.content == ManifestContentType::Data
}

/// The same snapshot as a cherry-pick of another one.
fn picked(snapshot: &Snapshot, source: i64) -> Snapshot {
    let mut summary = snapshot.summary().clone();
    summary.additional_properties.insert("source-snapshot-id".to_owned(), source.to_string());
    let builder = Snapshot::builder()
        .with_snapshot_id(snapshot.snapshot_id())
        .with_parent_snapshot_id(snapshot.parent_snapshot_id())
        .with_sequence_number(snapshot.sequence_number())
        .with_timestamp_ms(snapshot.timestamp_ms())
        .with_manifest_list(snapshot.manifest_list())
        .with_summary(summary)
        .with_schema_id(snapshot.schema_id().unwrap_or(0));
    match snapshot.row_range() {
        Some((first, count)) => builder.with_row_range(first, count).build(),
        None => builder.build(),
    }
}

/// A file in memory.
#[derive(Debug, Clone, Default)]
struct Buffer(Arc<Mutex<Vec<u8>>>);

impl Buffer {
    fn take(&self) -> Bytes {
        std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner)).into()
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

/// Deeds and how often each is drawn.
pub type Habits = BTreeMap<Deed, u64>;

/// Draws a deed.
pub fn pick(env: &Env, habits: &Habits) -> Option<Deed> {
    let total: u64 = habits.values().sum();
    let mut left = if total > 0 { env.below(total) } else { 0 };
    habits
        .iter()
        .find(|(_, weight)| left.checked_sub(**weight).map(|rest| left = rest).is_none())
        .map(|(deed, _)| *deed)
}
