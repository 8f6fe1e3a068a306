//! Bodies of the Iceberg REST specification, as far as we speak it.

use std::collections::{BTreeMap, HashMap};

use iceberg::spec::{PartitionSpec, Schema, SortOrder, UnboundPartitionSpec};
use iceberg::{TableRequirement, TableUpdate};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use serde_json::{Value, json};

use super::{CreateTable, PreparedCommit};
use crate::error::{Context, ErrorKind, Result};
use crate::model::ids::TableName;
use crate::model::table::TableState;

/// `GET v1/config`.
#[derive(Debug, Default, Deserialize)]
pub(super) struct ConfigAnswer {
    #[serde(default)]
    pub(super) defaults: BTreeMap<String, Option<String>>,
    #[serde(default)]
    pub(super) overrides: BTreeMap<String, Option<String>>,
    #[serde(default)]
    pub(super) endpoints: Option<Vec<String>>,
}

/// `GET …/namespaces`.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) struct NamespacesPage {
    #[serde(default)]
    pub(super) namespaces: Vec<Vec<String>>,
    #[serde(default)]
    pub(super) next_page_token: Option<String>,
}

/// `GET …/tables`.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) struct TablesPage {
    #[serde(default)]
    pub(super) identifiers: Vec<Identifier>,
    #[serde(default)]
    pub(super) next_page_token: Option<String>,
}

/// A table's name on the wire.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Identifier {
    pub(super) namespace: Vec<String>,
    pub(super) name: String,
}

impl From<&TableName> for Identifier {
    fn from(table: &TableName) -> Self {
        Self { namespace: table.namespace().to_vec(), name: table.name().to_owned() }
    }
}

/// `POST …/namespaces`.
#[derive(Debug, Serialize)]
pub(super) struct CreateNamespace<'a> {
    pub(super) namespace: &'a [String],
    pub(super) properties: &'a BTreeMap<String, String>,
}

/// `POST …/tables`.
#[derive(Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(super) struct CreateBody<'a> {
    name: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    location: Option<&'a str>,
    schema: &'a Schema,
    partition_spec: UnboundPartitionSpec,
    write_order: &'a SortOrder,
    stage_create: bool,
    properties: BTreeMap<&'a str, String>,
}

impl<'a> CreateBody<'a> {
    pub(super) fn new(create: &'a CreateTable, stage_create: bool) -> Self {
        let mut properties: BTreeMap<_, _> = create.properties.iter().map(|(k, v)| (k.as_str(), v.clone())).collect();
        // The request has no field for it.
        properties.insert("format-version", (create.format_version as u8).to_string());
        Self {
            name: create.name.name(),
            location: create.location.as_deref(),
            schema: &create.schema,
            // Some servers insist on an id, and then give their own.
            partition_spec: create.spec.clone().with_spec_id(create.spec.spec_id().unwrap_or(0)),
            write_order: &create.sort_order,
            stage_create,
            properties,
        }
    }
}

/// `POST …/register`.
#[derive(Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(super) struct RegisterBody<'a> {
    pub(super) name: &'a str,
    pub(super) metadata_location: &'a str,
}

/// `POST …/tables/rename`.
#[derive(Debug, Serialize)]
pub(super) struct RenameBody {
    pub(super) source: Identifier,
    pub(super) destination: Identifier,
}

/// A loaded, created or changed table.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) struct TableAnswer {
    #[serde(default)]
    pub(super) metadata_location: Option<String>,
    metadata: Box<RawValue>,
    #[serde(default)]
    config: Option<HashMap<String, String>>,
    #[serde(default)]
    storage_credentials: Option<Vec<StorageCredential>>,
}

#[derive(Debug, Deserialize)]
struct StorageCredential {
    prefix: String,
    config: HashMap<String, String>,
}

impl TableAnswer {
    /// The table, with what the catalog vends for its location: of `storage-credentials` the longest prefix wins, and wins
    /// over `config`.
    pub(super) fn into_state(self, table: &TableName) -> Result<TableState> {
        let Self { metadata_location, metadata, config, storage_credentials } = self;
        let mut state =
            TableState::from_json(table.clone(), metadata.get().as_bytes(), metadata_location, HashMap::new())?;
        let mut config = config.unwrap_or_default();
        let location = state.metadata.location();
        let fits = |c: &StorageCredential| location.starts_with(&c.prefix);
        let best = storage_credentials.into_iter().flatten().filter(fits).max_by_key(|c| c.prefix.len());
        config.extend(best.map(|c| c.config).unwrap_or_default());
        state.config = config.into();
        Ok(state)
    }
}

/// The body of a commit; equal commits give equal bytes.
pub(super) fn commit_body(commit: &PreparedCommit) -> Result<Value> {
    let assigned = commit.requirements.iter().find_map(|r| match r {
        TableRequirement::LastAssignedFieldIdMatch { last_assigned_field_id } => Some(*last_assigned_field_id),
        _ => None,
    });
    let updates = commit.updates.iter().map(|u| update_value(u, assigned)).collect::<Result<Vec<_>>>()?;
    let requirements =
        serde_json::to_value(&commit.requirements).context(ErrorKind::Internal, || "write requirements")?;
    Ok(json!({ "identifier": Identifier::from(&commit.table), "requirements": requirements, "updates": updates }))
}

fn update_value(update: &TableUpdate, last_assigned_field_id: Option<i32>) -> Result<Value> {
    let mut value = serde_json::to_value(update).context(ErrorKind::Internal, || "write an update")?;
    match update {
        // Deprecated in the specification, but servers of before that insist on it.
        TableUpdate::AddSchema { schema } => {
            let last = schema.highest_field_id().max(last_assigned_field_id.unwrap_or(0));
            value["last-column-id"] = last.into();
        }
        TableUpdate::AddSpec { spec } if spec.spec_id().is_none() => value["spec"]["spec-id"] = 0.into(),
        TableUpdate::SetProperties { updates } => {
            value["updates"] = json!(updates.iter().collect::<BTreeMap<_, _>>());
        }
        _ => {}
    }
    Ok(value)
}

/// The updates that make a staged table: its whole metadata.
pub(super) fn creation_updates(state: &TableState) -> Vec<TableUpdate> {
    let metadata = &state.metadata;
    let spec = PartitionSpec::clone(metadata.default_partition_spec()).into_unbound();
    vec![
        TableUpdate::AssignUuid { uuid: metadata.uuid() },
        TableUpdate::UpgradeFormatVersion { format_version: metadata.format_version() },
        TableUpdate::AddSchema { schema: Schema::clone(metadata.current_schema()) },
        TableUpdate::SetCurrentSchema { schema_id: -1 },
        TableUpdate::AddSpec { spec },
        TableUpdate::SetDefaultSpec { spec_id: -1 },
        TableUpdate::AddSortOrder { sort_order: SortOrder::clone(metadata.default_sort_order()) },
        TableUpdate::SetDefaultSortOrder { sort_order_id: -1 },
        TableUpdate::SetLocation { location: metadata.location().to_owned() },
        TableUpdate::SetProperties { updates: metadata.properties().clone() },
    ]
}

#[cfg(test)]
mod tests;
