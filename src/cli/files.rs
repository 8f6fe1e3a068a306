//! `table files`: the files of one snapshot.

use futures::{StreamExt as _, TryStreamExt as _};
use serde_json::{Value, json};

use crate::cli::output::{Align, Answer, bytes, columns, count, counted};
use crate::commit::manifests;
use crate::error::{Context, Error, ErrorKind, Result};
use crate::model::table::TableState;
use crate::storage::iceberg_io::FileIo;

/// Manifests read at once.
const READS_MAX: usize = 8;

/// One file of a snapshot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileRow {
    /// Its location.
    pub path: String,
    /// `data`, `position-deletes` or `equality-deletes`.
    pub content: &'static str,
    /// Its partition, as `name=value/…`; empty without partitioning.
    pub partition: String,
    /// Its rows.
    pub records: u64,
    /// Its size in bytes.
    pub size: u64,
    /// The sequence number of its data.
    pub sequence: Option<i64>,
}

/// The snapshot that is meant: by id, by ref, or the current one; `None` when the table has none yet.
///
/// # Errors
/// `NotFound` when there is no such snapshot or ref.
pub fn snapshot_of(state: &TableState, id: Option<i64>, at: Option<&str>) -> Result<Option<i64>> {
    match (id, at) {
        (Some(id), _) if state.metadata.snapshot_by_id(id).is_some() => Ok(Some(id)),
        (Some(id), _) => Err(Error::new(ErrorKind::NotFound, format!("table {} has no snapshot {id}", state.name))
            .with_hint("frazil table history lists them")),
        (None, Some(at)) => match state.refs.get(at) {
            Some(found) => Ok(Some(found.snapshot_id)),
            None => {
                let known: Vec<&str> = state.refs.keys().map(String::as_str).collect();
                let hint = format!("there are {}", if known.is_empty() { "none".to_owned() } else { known.join(", ") });
                Err(Error::new(ErrorKind::NotFound, format!("table {} has no ref {at:?}", state.name)).with_hint(hint))
            }
        },
        (None, None) => Ok(state.metadata.current_snapshot().map(|snapshot| snapshot.snapshot_id())),
    }
}

/// Reads the live files of a snapshot, ordered by path.
///
/// # Errors
/// `Unavailable` or `Corrupt` when a manifest cannot be read.
pub async fn read(state: &TableState, snapshot: i64, io: &FileIo) -> Result<Vec<FileRow>> {
    let listed = manifests::of_snapshot(state, snapshot, io).await?;
    let reads = futures::stream::iter(listed.into_iter().map(|file| async move {
        let manifest = file
            .load_manifest(io)
            .await
            .context(ErrorKind::Unavailable, || format!("manifest {}", file.manifest_path))?;
        let (spec, schema) = (manifest.metadata().partition_spec(), manifest.metadata().schema());
        // The crate panics on a spec that does not fit its schema; such a manifest is shown without partitions.
        let fields = spec.partition_type(schema).map(|kind| kind.fields().len()).ok();
        let alive = manifest.entries().iter().filter(|entry| entry.is_alive());
        let rows: Vec<FileRow> = alive
            .map(|entry| {
                let own = entry.data_file();
                let whole = fields == Some(own.partition().fields().len());
                FileRow {
                    path: own.file_path().to_owned(),
                    content: content(own.content_type() as u8),
                    partition: if whole {
                        spec.partition_to_path(own.partition(), schema.clone())
                    } else {
                        String::new()
                    },
                    records: own.record_count(),
                    size: own.file_size_in_bytes(),
                    sequence: entry.sequence_number().or(Some(file.sequence_number)),
                }
            })
            .collect();
        Ok::<_, Error>(rows)
    }));
    let mut rows: Vec<FileRow> = reads.buffered(READS_MAX).try_concat().await?;
    rows.sort_by(|a, b| a.path.cmp(&b.path));
    Ok(rows)
}

fn content(code: u8) -> &'static str {
    match code {
        0 => "data",
        1 => "position-deletes",
        _ => "equality-deletes",
    }
}

/// The answer of `table files`.
pub fn files(state: &TableState, snapshot: Option<i64>, rows: &[FileRow]) -> Answer {
    let entries: Vec<Value> = rows
        .iter()
        .map(|row| {
            json!({
                "path": row.path,
                "content": row.content,
                "partition": row.partition,
                "records": row.records,
                "size": row.size,
                "sequence-number": row.sequence,
            })
        })
        .collect();
    let lines: Vec<Vec<String>> = rows
        .iter()
        .map(|row| {
            vec![row.partition.clone(), row.content.to_owned(), count(row.records), bytes(row.size), row.path.clone()]
        })
        .collect();
    let head = [
        ("partition", Align::Left),
        ("content", Align::Left),
        ("records", Align::Right),
        ("size", Align::Right),
        ("path", Align::Left),
    ];
    let mut text = if lines.is_empty() { String::new() } else { columns(&head, &lines) };
    let data = || rows.iter().filter(|row| row.content == "data");
    let deletes = rows.len() - data().count();
    let sum = |sizes: &mut dyn Iterator<Item = u64>| sizes.fold(0, u64::saturating_add);
    let mut total = format!(
        "{}, {}, {}",
        counted(data().count() as u64, "data file"),
        counted(sum(&mut data().map(|row| row.records)), "row"),
        bytes(sum(&mut data().map(|row| row.size)))
    );
    if deletes > 0 {
        total.push_str(&format!("; {}", counted(deletes as u64, "delete file")));
    }
    total.push('\n');
    text.push_str(&total);
    Answer { json: json!({ "table": state.name.to_string(), "snapshot-id": snapshot, "files": entries }), text }
}

#[cfg(test)]
mod tests;
