//! What a replace must keep: every row that can be read, each once, and where rows have lineage their ids and the sequence
//! numbers of their last change. Source: Iceberg spec, "Row Lineage", "Scan Planning".

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use frazil::model::ids::TableName;
use iceberg::spec::{DataContentType, Manifest, ManifestContentType, ManifestFile};

use crate::audit::{Auditor, Known, Row, object};
use crate::world::{World, key};

/// What a data file holds.
#[derive(Debug, Default)]
pub struct Held {
    /// Its rows.
    pub rows: Vec<Row>,
    /// For each the id and the sequence number that it says of itself; empty when it says nothing of any.
    pub lineage: Vec<(Option<i64>, Option<i64>)>,
}

/// A manifest as a list names it.
#[derive(Debug)]
pub(crate) struct Listed {
    pub(crate) path: String,
    /// Whether it names delete files.
    pub(crate) deletes: bool,
    seq: i64,
    first_row_id: Option<i64>,
}

/// A live file as a manifest names it.
#[derive(Debug)]
pub(crate) struct LiveFile {
    path: String,
    content: DataContentType,
    seq: Option<i64>,
    first_row_id: Option<i64>,
    rows: u64,
}

/// Of each row that can be read its id, where it has one, and when it was last changed.
type Lineage = BTreeMap<Row, (Option<i64>, i64)>;

impl Listed {
    pub(crate) fn of(manifest: &ManifestFile, path: String) -> Self {
        Self {
            path,
            deletes: manifest.content == ManifestContentType::Deletes,
            seq: manifest.sequence_number,
            first_row_id: manifest.first_row_id.and_then(|id| i64::try_from(id).ok()),
        }
    }
}

impl Auditor {
    /// Whether a replace keeps what could be read at its parent.
    pub(crate) async fn keeps_rows(&mut self, world: &World, table: &TableName, id: i64) -> Result<(), String> {
        let parent = self.tables.get(table).and_then(|seen| seen.snapshots.get(&id)).and_then(|known| known.parent);
        let Some(parent) = parent else { return Err("it has no parent".to_owned()) };
        let (before, after) = (self.rows_at(table, Some(parent)), self.rows_at(table, Some(id)));
        if let Some(what) = differs(before, after) {
            let row = self.place(what.0);
            return Err(format!("row {row:?} was there {} times, and is {} times", what.1, what.2));
        }
        let (before, after) = (self.lineage(world, table, parent).await?, self.lineage(world, table, id).await?);
        let mut ids = BTreeSet::new();
        for (row, (own, changed)) in &after {
            if own.is_some_and(|own| !ids.insert(own)) {
                return Err(format!("row {:?} has id {own:?}, which another row has", self.place(*row)));
            }
            let Some((old, old_changed)) = before.get(row) else { continue };
            if old.is_some() && (own, changed) != (old, old_changed) {
                let place = self.place(*row);
                return Err(format!(
                    "row {place:?} had id {old:?}, last changed at {old_changed}, and has {own:?}, {changed}"
                ));
            }
        }
        world.cover(if ids.is_empty() { "replace × rows kept" } else { "replace × rows and their ids kept" });
        Ok(())
    }

    /// The lineage of the rows that can be read at a snapshot.
    async fn lineage(&mut self, world: &World, table: &TableName, id: i64) -> Result<Lineage, String> {
        let known = |auditor: &Self| -> Option<Vec<(String, i64, Option<i64>)>> {
            let known: &Known = auditor.tables.get(table)?.snapshots.get(&id)?;
            let data = known.listed.iter().filter(|listed| !listed.deletes);
            Some(data.map(|listed| (listed.path.clone(), listed.seq, listed.first_row_id)).collect())
        };
        let mut lineage = Lineage::new();
        for (path, seq, first_row_id) in known(self).unwrap_or_default() {
            let entries = self.entries_of(world, &path).await?;
            let mut next = first_row_id;
            for entry in entries.iter().filter(|entry| entry.content == DataContentType::Data) {
                // Files without an id take theirs from the manifest's, one after the other.
                let first = entry.first_row_id.or_else(|| {
                    let own = next;
                    next = next.map(|id| id + i64::try_from(entry.rows).unwrap_or(0));
                    own
                });
                let Some(held) = self.files.get(&entry.path) else { continue };
                for (at, row) in held.rows.iter().enumerate() {
                    let (own, changed) = held.lineage.get(at).copied().unwrap_or_default();
                    let given = first.map(|first| first + i64::try_from(at).unwrap_or(0));
                    lineage.insert(*row, (own.or(given), changed.or(entry.seq).unwrap_or(seq)));
                }
            }
        }
        Ok(lineage)
    }

    /// The live files of a manifest, in its order, as the library reads it.
    async fn entries_of(&mut self, world: &World, manifest: &str) -> Result<Arc<Vec<LiveFile>>, String> {
        if let Some(entries) = self.entries.get(manifest) {
            return Ok(Arc::clone(entries));
        }
        let bytes = match object(world, manifest).await {
            Ok(bytes) => bytes,
            // That of a snapshot which expired meanwhile.
            Err(_) => return Ok(Arc::default()),
        };
        let parsed = Manifest::parse_avro(&bytes).map_err(|e| format!("{manifest}: {e}"))?;
        let live = parsed.entries().iter().filter(|entry| entry.is_alive()).map(|entry| LiveFile {
            path: key(entry.file_path()).to_string(),
            content: entry.content_type(),
            seq: entry.sequence_number(),
            first_row_id: entry.data_file().first_row_id(),
            rows: entry.data_file().record_count(),
        });
        let live = Arc::new(live.collect::<Vec<_>>());
        self.entries.insert(manifest.to_owned(), Arc::clone(&live));
        Ok(live)
    }
}

/// A row that is there another number of times, and these numbers.
fn differs(before: Vec<Row>, after: Vec<Row>) -> Option<(Row, i64, i64)> {
    let mut counts: BTreeMap<Row, (i64, i64)> = BTreeMap::new();
    before.into_iter().for_each(|row| counts.entry(row).or_default().0 += 1);
    after.into_iter().for_each(|row| counts.entry(row).or_default().1 += 1);
    counts.into_iter().find(|(_, (old, new))| old != new).map(|(row, (old, new))| (row, old, new))
}
