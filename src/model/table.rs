//! A table as a catalog answered it.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use iceberg::spec::{SnapshotRef, SnapshotReference, TableMetadata, TableMetadataRef};
use serde::Deserialize;

use crate::error::{Context, ErrorKind, Result};
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
        let metadata: TableMetadata =
            serde_json::from_slice(document).context(ErrorKind::Corrupt, || format!("metadata of table {name}"))?;
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
