//! Which tables the pipelines of this process hold their checkpoints in, kept on a [`Disk`]: a table that is dropped or renamed
//! takes its records along, and only this says at the next start that a pipeline is not new.
//!
//! A witness and nothing more: a record in a table always counts for more, and what is lost with the disk is only missed when
//! the table is lost too. Cost: one small durable file per pipeline that is new or moved.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::disk::Disk;
use crate::error::{Context, Error, ErrorKind, Result};
use crate::model::ids::{PipelineName, TableName};

/// The file's name on its disk.
pub const FILE: &str = "anchors.json";
/// The version that this program writes, and the newest that it reads.
const VERSION: u32 = 1;
/// Anchors remembered; beyond it a table's own word must do.
const ANCHORS_MAX: usize = 10_000;

/// Where a pipeline's checkpoint stands: its name within a catalog, as configured.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Anchor {
    /// The pipeline.
    pub pipeline: PipelineName,
    /// The catalog's configured name.
    pub catalog: String,
    /// The table.
    pub table: TableName,
    /// The branch.
    pub target: String,
}

/// A cheap handle; clones write to the same file. Only one process may use a file.
#[derive(Clone)]
pub struct Anchors {
    disk: Arc<dyn Disk>,
    known: Arc<tokio::sync::Mutex<BTreeMap<Anchor, Uuid>>>,
}

#[derive(Serialize, Deserialize)]
struct Document {
    version: u32,
    anchors: Vec<Entry>,
}

#[derive(Serialize, Deserialize)]
struct Entry {
    pipeline: PipelineName,
    catalog: String,
    /// Namespace levels and name.
    table: Vec<String>,
    target: String,
    uuid: Uuid,
}

impl Anchors {
    /// What `disk` remembers; nothing where it never did.
    ///
    /// # Errors
    /// `Corrupt` when the file is of a newer version or none of ours; those of the disk.
    pub async fn open(disk: Arc<dyn Disk>) -> Result<Self> {
        let known = match disk.read(FILE).await {
            Ok(bytes) => parse(&bytes)?,
            Err(error) if error.kind() == ErrorKind::NotFound => BTreeMap::new(),
            Err(error) => return Err(error),
        };
        Ok(Self { disk, known: Arc::new(tokio::sync::Mutex::new(known)) })
    }

    /// The uuid of the table that the pipeline held its checkpoint in under this name.
    pub async fn known(&self, anchor: &Anchor) -> Option<Uuid> {
        self.known.lock().await.get(anchor).copied()
    }

    /// Remembers that the pipeline has its checkpoint in the table `uuid`. Durable on return.
    ///
    /// # Errors
    /// Those of the disk; it is not remembered then.
    pub async fn remember(&self, anchor: &Anchor, uuid: Uuid) -> Result<()> {
        let mut known = self.known.lock().await;
        if known.get(anchor) == Some(&uuid) {
            return Ok(());
        }
        if known.len() >= ANCHORS_MAX && !known.contains_key(anchor) {
            tracing::warn!(pipeline = %anchor.pipeline, table = %anchor.table, "{FILE} is full: this table is not remembered");
            return Ok(());
        }
        let mut then = known.clone();
        then.insert(anchor.clone(), uuid);
        self.disk.write(FILE, &render(&then)?).await?;
        *known = then;
        Ok(())
    }
}

fn parse(bytes: &[u8]) -> Result<BTreeMap<Anchor, Uuid>> {
    let hint = "move the file away: pipelines then go by their tables alone";
    let none = || Error::new(ErrorKind::Corrupt, format!("{FILE} cannot be read")).with_hint(hint);
    let document: Document = serde_json::from_slice(bytes).map_err(|e| none().with_source(e))?;
    if document.version != VERSION {
        let version = document.version;
        return Err(Error::new(
            ErrorKind::Corrupt,
            format!("{FILE} has version {version}, this program reads {VERSION}"),
        )
        .with_hint(format!("run the newer program, or {hint}")));
    }
    let read = |entry: Entry| {
        let (name, namespace) = entry.table.split_last().ok_or_else(none)?;
        let table = TableName::new(namespace.to_vec(), name.clone()).map_err(|e| none().with_source(e))?;
        Ok((Anchor { pipeline: entry.pipeline, catalog: entry.catalog, table, target: entry.target }, entry.uuid))
    };
    document.anchors.into_iter().map(read).collect()
}

fn render(known: &BTreeMap<Anchor, Uuid>) -> Result<Vec<u8>> {
    let entry = |(anchor, uuid): (&Anchor, &Uuid)| {
        let mut table = anchor.table.namespace().to_vec();
        table.push(anchor.table.name().to_owned());
        let Anchor { pipeline, catalog, target, .. } = anchor.clone();
        Entry { pipeline, catalog, table, target, uuid: *uuid }
    };
    let document = Document { version: VERSION, anchors: known.iter().map(entry).collect() };
    serde_json::to_vec(&document).context(ErrorKind::Internal, || format!("write {FILE}"))
}

impl fmt::Debug for Anchors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Anchors").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::env::virtual_time::on_virtual_time;
    use crate::storage::disk::MemoryDisk;

    fn anchor(pipeline: &str, target: &str) -> Anchor {
        Anchor {
            pipeline: PipelineName::new(pipeline),
            catalog: "lake".to_owned(),
            table: "a.b.c".parse().expect("valid"),
            target: target.to_owned(),
        }
    }

    #[test]
    fn an_anchor_is_known_after_a_crash_under_its_own_name_and_branch_alone() {
        on_virtual_time(async {
            let disk = Arc::new(MemoryDisk::new());
            let anchors = Anchors::open(disk.clone()).await.expect("opens");
            assert_eq!(anchors.known(&anchor("p", "main")).await, None);
            for uuid in [1, 2] {
                anchors.remember(&anchor("p", "main"), Uuid::from_u128(uuid)).await.expect("remembered");
            }
            disk.crash();
            let anchors = Anchors::open(disk).await.expect("opens");
            assert_eq!(anchors.known(&anchor("p", "main")).await, Some(Uuid::from_u128(2)));
            assert_eq!(anchors.known(&anchor("q", "main")).await, None);
            assert_eq!(anchors.known(&anchor("p", "audit")).await, None);
        });
    }

    #[test]
    fn a_file_that_is_none_or_newer_is_an_error_with_a_way_out() {
        on_virtual_time(async {
            for text in ["", "{}", r#"{"version":2,"anchors":[]}"#, r#"{"version":1,"anchors":[{}]}"#] {
                let disk = Arc::new(MemoryDisk::new());
                disk.write(FILE, text.as_bytes()).await.expect("writable");
                let error = Anchors::open(disk).await.expect_err("unreadable");
                assert!(error.kind() == ErrorKind::Corrupt && error.hint().is_some(), "{text}: {error:?}");
            }
        });
    }
}
