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
    /// Columns of types that the `iceberg` crate does not know, by path, each with its type. `metadata` has them as `binary`, so what
    /// is written from it would lose them: such a table is looked at, and changed only where its catalog keeps the document.
    pub opaque: Arc<BTreeMap<String, String>>,
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
    /// A state from a metadata document. Columns of types that nobody here knows are opaque in it.
    ///
    /// # Errors
    /// `Unsupported` for a newer format version, `Corrupt` when the document is no metadata.
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
        let mut opaque = BTreeMap::new();
        let metadata: TableMetadata = match serde_json::from_slice(document) {
            Ok(metadata) => metadata,
            Err(error) => {
                let degraded = degraded(&name, document, &mut opaque)?.map(serde_json::from_value).transpose();
                let corrupt = || Error::new(ErrorKind::Corrupt, format!("metadata of table {name}"));
                degraded.ok().flatten().ok_or_else(|| corrupt().with_source(error))?
            }
        };
        let Refs { refs } =
            serde_json::from_slice(document).context(ErrorKind::Corrupt, || format!("refs of table {name}"))?;
        Ok(Self {
            name,
            metadata: Arc::new(metadata),
            refs: Arc::new(refs),
            metadata_location,
            opaque: Arc::new(opaque),
            config: Arc::new(config),
        })
    }

    /// That every column is of a type that is known, as everybody must see who writes rows or whole documents.
    ///
    /// # Errors
    /// `Unsupported`, naming the first column that is not.
    pub fn check_known(&self) -> Result<()> {
        let Some((column, kind)) = self.opaque.first_key_value() else { return Ok(()) };
        let what = format!("table {}: column {column} has type {kind}, which this version does not know", self.name);
        Err(Error::new(ErrorKind::Unsupported, what).with_hint(
            "leave the rows of this table to another writer, or drop the column there and expire the schemas that have it",
        ))
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

/// A document that the crate does not take, with every type that it does not know as `binary`; nothing when that is not what is
/// wrong with it.
///
/// # Errors
/// `Unsupported` for a newer format version.
fn degraded(name: &TableName, document: &[u8], opaque: &mut BTreeMap<String, String>) -> Result<Option<Value>> {
    let Ok(mut document) = serde_json::from_slice::<Value>(document) else { return Ok(None) };
    let Some(version) = document["format-version"].as_u64() else { return Ok(None) };
    if version > FORMAT_MAX {
        let what = format!("table {name}: format version {version}, this version reads up to {FORMAT_MAX}");
        return Err(Error::new(ErrorKind::Unsupported, what)
            .with_hint("leave this table to another writer, or use a newer frazil"));
    }
    if let Some(schemas) = document.get_mut("schemas").and_then(Value::as_array_mut) {
        schemas.iter_mut().for_each(|schema| degrade(schema, "", opaque));
    }
    if let Some(schema) = document.get_mut("schema") {
        degrade(schema, "", opaque);
    }
    Ok((!opaque.is_empty()).then_some(document))
}

/// Replaces unknown types of a struct, list or map by `binary`, and notes their paths.
fn degrade(nested: &mut Value, path: &str, opaque: &mut BTreeMap<String, String>) {
    let below = |name: &str| if path.is_empty() { name.to_owned() } else { format!("{path}.{name}") };
    let mut one = |kind: &mut Value, path: String| match kind {
        Value::String(text) if serde_json::from_value::<PrimitiveType>(Value::String(text.clone())).is_err() => {
            opaque.insert(path, std::mem::replace(text, "binary".to_owned()));
            true
        }
        Value::Object(_) => {
            degrade(kind, &path, opaque);
            false
        }
        _ => false,
    };
    for field in nested.get_mut("fields").and_then(Value::as_array_mut).into_iter().flatten() {
        let Some(name) = field["name"].as_str().map(below) else { continue };
        let replaced = field.get_mut("type").is_some_and(|kind| one(kind, name));
        if let Some(field) = field.as_object_mut().filter(|_| replaced) {
            field.retain(|key, _| !key.ends_with("-default"));
        }
    }
    for part in ["element", "key", "value"] {
        if let Some(kind) = nested.get_mut(part) {
            one(kind, below(part));
        }
    }
}

#[cfg(test)]
pub(crate) mod tests;
