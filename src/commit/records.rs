//! Reading the checkpoint records that stand on a table and its snapshots.

use std::collections::BTreeMap;

use iceberg::spec::SnapshotRef;

use crate::commit::avro;
use crate::commit::checkpoint::{Chain, RECORD_PREFIX};
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
        for (key, text) in
            on(storage, snapshot, |key| key.ends_with(&suffix) && !records.contains_key(key) && except != Some(key))
                .await?
        {
            records.insert(key, Carried { text, snapshot: snapshot.snapshot_id() });
        }
        if snapshot.summary().additional_properties.contains_key(VERSION_KEY) {
            break;
        }
    }
    Ok(records)
}

/// The records `key` of the snapshots that a rollback took out of `chain`, newest first: from the one that made `newest` down to
/// the chain. `None` when some of them have expired.
///
/// # Errors
/// As [`nearest`], and `Corrupt` for a record that cannot be read.
pub(crate) async fn rolled_back(
    storage: &Storage,
    state: &TableState,
    chain: &Chain,
    newest: &Record,
    key: &str,
) -> Result<Option<Vec<Record>>> {
    let mut lost = Vec::new();
    let mut at = Some(newest.origin.snapshot);
    // No more steps than there are snapshots, whatever their parents say.
    for _ in 0..=state.metadata.snapshots().len() {
        let Some(id) = at.filter(|id| !chain.contains(*id)) else {
            return Ok(at.is_some().then_some(lost));
        };
        let Some(snapshot) = state.metadata.snapshot_by_id(id) else {
            return Ok(None);
        };
        for (key, text) in on(storage, snapshot, |held| held == key).await? {
            lost.push(Carried { text, snapshot: id }.read(&key)?);
        }
        at = snapshot.parent_snapshot_id();
    }
    Ok(None)
}

/// The keys of the records that a snapshot carries.
pub(crate) fn keys(snapshot: &SnapshotRef) -> Box<[String]> {
    let keys = snapshot.summary().additional_properties.keys();
    keys.filter(|key| key.starts_with(RECORD_PREFIX)).cloned().collect()
}

/// The record `key` on one snapshot; `None` when it carries none.
///
/// # Errors
/// Those of the store, and `Corrupt` for a record that cannot be read.
pub(crate) async fn carried(storage: &Storage, snapshot: &SnapshotRef, key: &str) -> Result<Option<Record>> {
    let found = on(storage, snapshot, |held| held == key).await?.pop();
    found.map(|(_, text)| Carried { text, snapshot: snapshot.snapshot_id() }.read(key)).transpose()
}

/// The records of one snapshot whose keys are `wanted`, as they are written.
async fn on(storage: &Storage, snapshot: &SnapshotRef, wanted: impl Fn(&str) -> bool) -> Result<Vec<(String, String)>> {
    let mut found = Vec::new();
    let mut header = None;
    for (key, value) in &snapshot.summary().additional_properties {
        if !key.starts_with(RECORD_PREFIX) || !wanted(key) {
            continue;
        }
        if value != IN_LIST {
            found.push((key.clone(), value.clone()));
            continue;
        }
        if header.is_none() {
            header = Some(list_header(storage, snapshot).await?);
        }
        let text = header.as_ref().and_then(|header| header.get(key)).cloned().ok_or_else(|| {
            Error::new(ErrorKind::Corrupt, format!("{} lacks the record {key}", snapshot.manifest_list()))
        })?;
        found.push((key.clone(), text));
    }
    Ok(found)
}

async fn list_header(storage: &Storage, snapshot: &SnapshotRef) -> Result<BTreeMap<String, String>> {
    let bytes = storage.read(snapshot.manifest_list()).await?;
    let header = avro::header(&bytes).map_err(|e| e.within(snapshot.manifest_list()))?;
    Ok(header.into_iter().map(|(key, value)| (key, String::from_utf8_lossy(&value).into_owned())).collect())
}
