//! What a commit does to a table's metadata: a pure function, shared by every catalog that keeps the metadata itself.
//!
//! Beside the rules of the specification it refuses what would break the commit protocol: a snapshot whose sequence number
//! is not above the last one, with or without a parent, and the removal of a snapshot that a ref still points to.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use bytes::Bytes;
use iceberg::spec::{FormatVersion, MAIN_BRANCH, SnapshotReference, TableMetadata, TableMetadataBuilder};
use iceberg::{TableRequirement, TableUpdate};
use serde_json::Value;
use uuid::Uuid;

use super::CreateTable;
use super::document::{self, Packing};
use crate::error::{Context, Error, ErrorKind, Result};
use crate::model::ids::TableName;
use crate::model::table::TableState;

/// The table property that lets a commit delete the documents that fall out of the metadata log.
const DELETE_AFTER_COMMIT: &str = "write.metadata.delete-after-commit.enabled";

/// When a document is made, and the name that makes its file unique.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stamp {
    /// Milliseconds since the Unix epoch.
    pub now_ms: i64,
    /// Part of the document's file name; never used twice.
    pub id: Uuid,
}

/// A table's next metadata, not yet stored.
#[derive(Debug, Clone)]
pub struct Applied {
    /// The table as it will be; its `metadata_location` is where `document` belongs.
    pub state: TableState,
    /// The document, packed as the table's properties ask.
    pub document: Bytes,
    /// Documents that nothing names any more, to be deleted after the commit.
    pub expired: Vec<String>,
}

impl Applied {
    /// Where `document` belongs.
    pub fn location(&self) -> &str {
        self.state.metadata_location.as_deref().unwrap_or_default()
    }
}

/// Applies one commit to `base` (`None`: the table does not exist), or says why not.
///
/// # Errors
/// `Conflict` when a requirement does not hold, named in the message, or the updates no longer fit the table;
/// `NotFound` when there is no table and the commit does not create one; `Input` when the updates make no sense by themselves.
pub fn apply(
    table: &TableName,
    base: Option<&TableState>,
    requirements: &[TableRequirement],
    updates: Vec<TableUpdate>,
    stamp: Stamp,
) -> Result<Applied> {
    let within = |e: Error| e.within(format!("commit to table {table}"));
    // The new document is made from what was understood of the old one.
    base.map_or(Ok(()), TableState::check_known)?;
    for requirement in requirements {
        check(requirement, base).map_err(within)?;
    }
    let (start, updates) = match base {
        Some(base) => (Start::of(base), updates),
        None => new_from_updates(table, requirements, updates, stamp).map_err(within)?,
    };
    let (builder, snapshot_added) = run(start.builder, updates, start.guard).map_err(within)?;
    finish(table, base, builder, snapshot_added, stamp).map_err(within)
}

/// The metadata of a new table at `location`, with fresh field ids as the specification's reference assigns them.
///
/// # Errors
/// `Input` when spec or sort order name columns that are not there, or the format version is 1.
pub fn create(create: &CreateTable, location: &str, uuid: Uuid, stamp: Stamp) -> Result<Applied> {
    let within = |e: Error| e.within(format!("create table {}", create.name));
    let builder = new_builder(create, location, uuid).map_err(within)?;
    finish(&create.name, None, builder, false, stamp).map_err(within)
}

/// The state of a document that is made a table as it is.
///
/// # Errors
/// As [`TableState::from_json`]; `Corrupt` when the document does not unpack.
pub fn read(table: &TableName, location: &str, document: Bytes) -> Result<TableState> {
    let json = document::unpack(location, document)?;
    TableState::from_json(table.clone(), &json, Some(location.to_owned()), HashMap::new())
        .map_err(|e| e.within(format!("metadata document {location}")))
}

/// The name that the REST specification gives a requirement.
pub fn requirement_name(requirement: &TableRequirement) -> &'static str {
    match requirement {
        TableRequirement::NotExist => "assert-create",
        TableRequirement::UuidMatch { .. } => "assert-table-uuid",
        TableRequirement::RefSnapshotIdMatch { .. } => "assert-ref-snapshot-id",
        TableRequirement::LastAssignedFieldIdMatch { .. } => "assert-last-assigned-field-id",
        TableRequirement::CurrentSchemaIdMatch { .. } => "assert-current-schema-id",
        TableRequirement::LastAssignedPartitionIdMatch { .. } => "assert-last-assigned-partition-id",
        TableRequirement::DefaultSpecIdMatch { .. } => "assert-default-spec-id",
        TableRequirement::DefaultSortOrderIdMatch { .. } => "assert-default-sort-order-id",
    }
}

/// What the protocol needs to know of a table while updates run over it; the builder keeps it to itself.
struct Guard {
    format_version: FormatVersion,
    last_sequence_number: i64,
    refs: BTreeMap<String, i64>,
}

/// Where a commit starts from.
struct Start {
    builder: TableMetadataBuilder,
    guard: Guard,
}

impl Start {
    fn of(base: &TableState) -> Self {
        let metadata = base.metadata.as_ref();
        Self {
            builder: metadata.clone().into_builder(base.metadata_location.clone()),
            guard: Guard {
                format_version: metadata.format_version(),
                last_sequence_number: metadata.last_sequence_number(),
                refs: base.refs.iter().map(|(name, r)| (name.clone(), r.snapshot_id)).collect(),
            },
        }
    }
}

fn check(requirement: &TableRequirement, base: Option<&TableState>) -> Result<()> {
    requirement.check(base.map(|b| b.metadata.as_ref())).map_err(|e| {
        let kind = match (base, requirement) {
            (None, _) => ErrorKind::NotFound,
            (Some(_), _) => ErrorKind::Conflict,
        };
        // The name stands first; the crate's words follow, with what was expected and found.
        Error::new(kind, format!("requirement {} does not hold", requirement_name(requirement))).with_source(e)
    })
}

fn run(
    mut builder: TableMetadataBuilder,
    updates: Vec<TableUpdate>,
    mut guard: Guard,
) -> Result<(TableMetadataBuilder, bool)> {
    let mut snapshot_added = false;
    for update in updates {
        guard.admit(&update)?;
        snapshot_added |= matches!(update, TableUpdate::AddSnapshot { .. });
        let removed = match &update {
            TableUpdate::RemoveSnapshots { snapshot_ids } => snapshot_ids.clone(),
            _ => Vec::new(),
        };
        builder = update.apply(builder).context(ErrorKind::Input, || "apply an update")?;
        // Statistics of a snapshot go with it; the builder leaves them dangling.
        for id in removed {
            builder = builder.remove_statistics(id).remove_partition_statistics(id);
        }
    }
    Ok((builder, snapshot_added))
}

impl Guard {
    /// Refuses what the builder would let through, and follows what it will do.
    fn admit(&mut self, update: &TableUpdate) -> Result<()> {
        match update {
            TableUpdate::UpgradeFormatVersion { format_version } => {
                self.format_version = self.format_version.max(*format_version);
            }
            TableUpdate::AddSnapshot { snapshot } if self.format_version > FormatVersion::V1 => {
                let number = snapshot.sequence_number();
                if number <= self.last_sequence_number {
                    return Err(Error::new(
                        ErrorKind::Conflict,
                        format!(
                            "snapshot {} has sequence number {number}, the table is at {} already",
                            snapshot.snapshot_id(),
                            self.last_sequence_number
                        ),
                    ));
                }
                self.last_sequence_number = number;
            }
            TableUpdate::SetSnapshotRef { ref_name, reference } => {
                if ref_name == MAIN_BRANCH && !reference.is_branch() {
                    return Err(Error::new(ErrorKind::Input, "ref main is a branch and cannot become a tag"));
                }
                self.refs.insert(ref_name.clone(), reference.snapshot_id);
            }
            TableUpdate::RemoveSnapshotRef { ref_name } => {
                self.refs.remove(ref_name);
            }
            TableUpdate::RemoveSnapshots { snapshot_ids } => {
                if let Some((name, id)) = self.refs.iter().find(|(_, id)| snapshot_ids.contains(id)) {
                    return Err(Error::new(
                        ErrorKind::Conflict,
                        format!("snapshot {id} cannot be removed: ref {name} points to it"),
                    ));
                }
            }
            _ => {}
        }
        Ok(())
    }
}

fn new_builder(create: &CreateTable, location: &str, uuid: Uuid) -> Result<TableMetadataBuilder> {
    if create.format_version == FormatVersion::V1 {
        return Err(Error::new(ErrorKind::Input, "format version 1 cannot be written")
            .with_hint("create the table with format version 2 or 3"));
    }
    let builder = TableMetadataBuilder::new(
        create.schema.clone(),
        create.spec.clone(),
        create.sort_order.clone(),
        location.to_owned(),
        create.format_version,
        create.properties.clone(),
    );
    Ok(builder.context(ErrorKind::Input, || "build its metadata")?.assign_uuid(uuid))
}

/// A staged creation: the parts of the new table are taken out of the updates, the rest runs over it.
fn new_from_updates(
    table: &TableName,
    requirements: &[TableRequirement],
    updates: Vec<TableUpdate>,
    stamp: Stamp,
) -> Result<(Start, Vec<TableUpdate>)> {
    if !requirements.contains(&TableRequirement::NotExist) {
        return Err(Error::new(ErrorKind::NotFound, "there is no such table"));
    }
    let (mut schema, mut spec, mut order, mut location, mut uuid) = (None, None, None, None, stamp.id);
    let (mut format_version, mut properties, mut rest) = (FormatVersion::V2, HashMap::new(), Vec::new());
    for update in updates {
        match update {
            TableUpdate::AssignUuid { uuid: assigned } => uuid = assigned,
            TableUpdate::UpgradeFormatVersion { format_version: version } => format_version = version,
            TableUpdate::AddSchema { schema: added } if schema.is_none() => schema = Some(added),
            TableUpdate::AddSpec { spec: added } if spec.is_none() => spec = Some(added),
            TableUpdate::AddSortOrder { sort_order } if order.is_none() => order = Some(sort_order),
            TableUpdate::SetLocation { location: at } => location = Some(at),
            TableUpdate::SetProperties { updates } => properties.extend(updates),
            // They point to what was just taken out, which is current in a new table anyway.
            TableUpdate::SetCurrentSchema { schema_id: -1 | 0 }
            | TableUpdate::SetDefaultSpec { spec_id: -1 | 0 }
            | TableUpdate::SetDefaultSortOrder { sort_order_id: -1..=1 } => {}
            other => rest.push(other),
        }
    }
    let (Some(schema), Some(location)) = (schema, location) else {
        return Err(Error::new(ErrorKind::Input, "a creation needs a schema and a location"));
    };
    let proposed = schema.clone();
    let create = CreateTable {
        name: table.clone(),
        location: None,
        schema,
        spec: spec.unwrap_or_default(),
        sort_order: order.unwrap_or_else(iceberg::spec::SortOrder::unsorted_order),
        format_version,
        properties,
    };
    let builder = new_builder(&create, &location, uuid)?;
    let built = builder.clone().build().context(ErrorKind::Input, || "build its metadata")?;
    // Staged files carry the ids of the stage; other ids here would be other columns.
    if built.metadata.current_schema().as_struct() != proposed.as_struct() {
        return Err(Error::new(ErrorKind::Input, "the schema's field ids are not those of a staged creation"));
    }
    let guard = Guard { format_version, last_sequence_number: 0, refs: BTreeMap::new() };
    Ok((Start { builder, guard }, rest))
}

fn finish(
    table: &TableName,
    base: Option<&TableState>,
    builder: TableMetadataBuilder,
    snapshot_added: bool,
    stamp: Stamp,
) -> Result<Applied> {
    let built = builder.build().context(ErrorKind::Input, || "build the new metadata")?;
    let metadata = built.metadata;
    let packing = Packing::of(metadata.properties())?;
    let version = match base {
        None => 0,
        Some(base) => base.metadata_location.as_deref().map_or(0, document::version_in).saturating_add(1),
    };
    let location = document::location_of(&metadata, version, stamp.id, packing);
    let mut value = document::to_value(&metadata)?;
    let clock_read = retime(&mut value, base, &metadata, snapshot_added, stamp.now_ms);
    let json = serde_json::to_vec(&value).context(ErrorKind::Internal, || "write metadata")?;
    let state = if clock_read {
        TableState::from_json(table.clone(), &json, Some(location), HashMap::new())?
    } else {
        state_of(table, metadata, value, location)?
    };
    let expired = match state.property(DELETE_AFTER_COMMIT) {
        Some(enabled) if enabled.eq_ignore_ascii_case("true") => {
            built.expired_metadata_logs.into_iter().map(|log| log.metadata_file).collect()
        }
        _ => Vec::new(),
    };
    Ok(Applied { state, document: document::pack(json, packing)?, expired })
}

/// Puts our time where the builder read the machine's clock; says whether it had.
fn retime(
    value: &mut Value,
    base: Option<&TableState>,
    metadata: &TableMetadata,
    snapshot_added: bool,
    now_ms: i64,
) -> bool {
    let before = base.map_or(0, |b| b.metadata.last_updated_ms());
    let updated = if snapshot_added { metadata.last_updated_ms() } else { now_ms.max(before) };
    let old_log = base.map_or(&[][..], |b| b.metadata.history());
    let mut changed = !snapshot_added;
    if let Some(Value::Array(log)) = value.get_mut("snapshot-log") {
        for (entry, built) in log.iter_mut().zip(metadata.history()) {
            let of_snapshot = metadata.snapshot_by_id(built.snapshot_id).map(|s| s.timestamp_ms());
            let rolled_back = !old_log.contains(built) && of_snapshot != Some(built.timestamp_ms());
            if rolled_back && built.timestamp_ms() != updated {
                entry["timestamp-ms"] = updated.into();
                changed = true;
            }
        }
    }
    value["last-updated-ms"] = updated.into();
    changed
}

fn state_of(table: &TableName, metadata: TableMetadata, mut value: Value, location: String) -> Result<TableState> {
    let refs: BTreeMap<String, SnapshotReference> = match value.get_mut("refs").map(Value::take) {
        None | Some(Value::Null) => BTreeMap::new(),
        Some(refs) => serde_json::from_value(refs).context(ErrorKind::Internal, || "refs of the new metadata")?,
    };
    Ok(TableState {
        name: table.clone(),
        metadata: Arc::new(metadata),
        refs: Arc::new(refs),
        metadata_location: Some(location),
        opaque: Arc::default(),
        config: Arc::default(),
    })
}

#[cfg(test)]
mod tests;
