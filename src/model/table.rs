//! A table as a catalog answered it.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use iceberg::spec::{PrimitiveType, SnapshotRef, SnapshotReference, TableMetadata, TableMetadataRef};
use serde::Deserialize;
use serde_json::Value;

use crate::error::{Context, Error, ErrorKind, Result};
use crate::model::ids::TableName;

/// A table's metadata at one moment, and what its catalog said beside it.
#[derive(Clone)]
pub struct TableState {
    /// Its name.
    pub name: TableName,
    /// The metadata, as the `iceberg` crate understands it.
    pub metadata: TableMetadataRef,
    /// Every ref by name: the crate keeps them private.
    pub refs: Arc<BTreeMap<String, SnapshotReference>>,
    /// Where the metadata document lies.
    pub metadata_location: Option<String>,
    /// Settings that the catalog vends for this table, storage credentials among them. Never logged.
    pub config: Arc<HashMap<String, String>>,
}

/// Without the values of `config`: they hold secrets.
impl std::fmt::Debug for TableState {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TableState")
            .field("name", &self.name)
            .field("metadata_location", &self.metadata_location)
            .field("last_sequence_number", &self.metadata.last_sequence_number())
            .field("refs", &self.refs)
            .field("config", &self.config.keys().collect::<std::collections::BTreeSet<_>>())
            .finish_non_exhaustive()
    }
}

impl TableState {
    /// A state from a metadata document.
    ///
    /// # Errors
    /// `Unsupported` when the document has parts that the `iceberg` crate does not know, `Corrupt` when it is no metadata.
    pub fn from_json(
        name: TableName,
        document: &[u8],
        metadata_location: Option<String>,
        config: HashMap<String, String>,
    ) -> Result<Self> {
        #[derive(Deserialize)]
        struct Refs {
            #[serde(default)]
            refs: BTreeMap<String, SnapshotReference>,
        }
        let metadata: TableMetadata = serde_json::from_slice(document).map_err(|error| {
            newer(&name, document)
                .unwrap_or_else(|| Error::new(ErrorKind::Corrupt, format!("metadata of table {name}")))
                .with_source(error)
        })?;
        let Refs { refs } =
            serde_json::from_slice(document).context(ErrorKind::Corrupt, || format!("refs of table {name}"))?;
        Ok(Self {
            name,
            metadata: Arc::new(metadata),
            refs: Arc::new(refs),
            metadata_location,
            config: Arc::new(config),
        })
    }

    /// The snapshot that `name` points to.
    pub fn head(&self, name: &str) -> Option<&SnapshotRef> {
        self.metadata.snapshot_for_ref(name)
    }

    /// A table property.
    pub fn property(&self, key: &str) -> Option<&str> {
        self.metadata.properties().get(key).map(String::as_str)
    }
}

/// The newest format version that the `iceberg` crate reads.
const FORMAT_MAX: u64 = 3;

/// What a document that the crate does not take has that is valid and only newer than it: nothing when it is damaged.
fn newer(name: &TableName, document: &[u8]) -> Option<Error> {
    let unsupported = |what: String, hint: &str| {
        Error::new(ErrorKind::Unsupported, format!("table {name}: {what}")).with_hint(hint.to_owned())
    };
    let document: Value = serde_json::from_slice(document).ok()?;
    let version = document["format-version"].as_u64()?;
    if version > FORMAT_MAX {
        let what = format!("format version {version}, this version reads up to {FORMAT_MAX}");
        return Some(unsupported(what, "leave this table to another writer, or use a newer frazil"));
    }
    let schemas = document["schemas"].as_array().into_iter().flatten().chain(document.get("schema"));
    let (column, kind) = schemas.filter_map(|schema| unknown_type(schema, String::new())).next()?;
    let what = format!("column {column} has type {kind}, which this version does not know");
    Some(unsupported(
        what,
        "leave this table to another writer, or drop the column there and expire the schemas that have it",
    ))
}

/// The first type of a struct, list or map that is no type of the crate's, with the path of its column.
fn unknown_type(nested: &Value, path: String) -> Option<(String, String)> {
    let below = |name: &str| if path.is_empty() { name.to_owned() } else { format!("{path}.{name}") };
    let fields = nested["fields"].as_array().into_iter().flatten();
    let fields = fields.filter_map(|field| Some((below(field["name"].as_str()?), field.get("type")?)));
    let parts = ["element", "key", "value"].into_iter().filter_map(|part| Some((below(part), nested.get(part)?)));
    fields.chain(parts).find_map(|(path, kind)| match kind {
        Value::String(text) => {
            let known = serde_json::from_value::<PrimitiveType>(kind.clone()).is_ok();
            (!known).then(|| (path, text.clone()))
        }
        nested => unknown_type(nested, path),
    })
}

#[cfg(test)]
pub(crate) mod tests;
