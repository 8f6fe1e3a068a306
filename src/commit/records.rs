//! Reading the checkpoint records that stand on a table and its snapshots.

use std::collections::BTreeMap;

use iceberg::spec::SnapshotRef;

use crate::commit::avro;
use crate::commit::checkpoint::Chain;
use crate::error::{Error, ErrorKind, Result};
use crate::model::checkpoint::Record;
use crate::model::table::TableState;
use crate::storage::Storage;

/// What the summary says when the record stands in the manifest list's header.
pub(crate) const IN_LIST: &str = "@list";
/// The longest record that a summary holds: 300 partitions must not swell every metadata document.
pub(crate) const SUMMARY_MAX: usize = 1024;
/// The summary key that every snapshot of ours has.
pub(crate) const VERSION_KEY: &str = "frazil.version";

/// A record on a snapshot, as it was written.
#[derive(Debug, Clone)]
pub(crate) struct Carried {
    /// Its text, to be copied verbatim. Whose it is reads it: one that nobody can read stops its own pipeline alone.
    pub(crate) text: String,
    /// The snapshot that it was found on.
    snapshot: i64,
}

impl Carried {
    /// Reads it as the record `key`.
    ///
    /// # Errors
    /// `Corrupt` when it cannot be read.
    pub(crate) fn read(&self, key: &str) -> Result<Record> {
        Record::parse(&self.text).map_err(|e| e.within(format!("snapshot {}, {key}", self.snapshot)))
    }
}

/// The record in a table property.
///
/// # Errors
/// `Corrupt` when it is there and cannot be read.
pub(crate) fn in_property(state: &TableState, key: &str) -> Result<Option<Record>> {
    let read = |text| Record::parse(text).map_err(|e| e.within(format!("table {}, property {key}", state.name)));
    state.property(key).map(read).transpose()
}

/// Every record of `target` but `except` on the nearest ancestor that has it, by key.
///
/// Our snapshots carry all records that were known, so the walk ends at the first of ours.
///
/// # Errors
/// A record whose text cannot be had is an error, never "there is none".
pub(crate) async fn nearest(
    storage: &Storage,
    chain: &Chain,
    target: &str,
    except: Option<&str>,
) -> Result<BTreeMap<String, Carried>> {
    let mut records = BTreeMap::new();
    let suffix = format!("@{target}");
    for snapshot in &chain.snapshots {
        let summary = &snapshot.summary().additional_properties;
        let mut header = None;
        for (key, value) in summary {
            if !key.starts_with("frazil.checkpoint.")
                || !key.ends_with(&suffix)
                || records.contains_key(key)
                || except == Some(key)
            {
                continue;
            }
            let text = if value == IN_LIST {
                if header.is_none() {
                    header = Some(list_header(storage, snapshot).await?);
                }
                let found = header.as_ref().and_then(|h| h.get(key));
                found.cloned().ok_or_else(|| {
                    Error::new(ErrorKind::Corrupt, format!("{} lacks the record {key}", snapshot.manifest_list()))
                })?
            } else {
                value.clone()
            };
            records.insert(key.clone(), Carried { text, snapshot: snapshot.snapshot_id() });
        }
        if summary.contains_key(VERSION_KEY) {
            break;
        }
    }
    Ok(records)
}

async fn list_header(storage: &Storage, snapshot: &SnapshotRef) -> Result<BTreeMap<String, String>> {
    let bytes = storage.read(snapshot.manifest_list()).await?;
    let header = avro::header(&bytes).map_err(|e| e.within(snapshot.manifest_list()))?;
    Ok(header.into_iter().map(|(key, value)| (key, String::from_utf8_lossy(&value).into_owned())).collect())
}
