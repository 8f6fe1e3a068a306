//! What a replace must keep: every row that can be read, each once, and where rows have lineage their ids and the sequence
//! numbers of their last change. Source: Iceberg spec, "Row Lineage", "Scan Planning".

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use frazil::model::ids::TableName;
use iceberg::spec::{
    DataContentType, DataFileFormat, Manifest, ManifestContentType, ManifestEntry, ManifestFile, Struct,
};

use crate::audit::{Auditor, Row, object};
use crate::world::{World, key};

/// What a data file holds.
#[derive(Debug, Default)]
pub struct Held {
    /// Its rows.
    pub rows: Vec<Row>,
    /// For each the id and the sequence number that it says of itself; empty when it says nothing of any.
    pub lineage: Vec<(Option<i64>, Option<i64>)>,
    /// Whose each is; empty in files without customers.
    pub customers: Vec<Option<i64>>,
}

/// What a delete file deletes, as whoever wrote it says.
#[derive(Debug, Clone)]
pub enum Effect {
    /// The rows at these places of these files.
    Positions(BTreeMap<String, BTreeSet<u64>>),
    /// The rows of these customers.
    Keys(BTreeSet<Option<i64>>),
}

/// A manifest as a list names it.
#[derive(Debug, Clone)]
pub(crate) struct Listed {
    pub(crate) path: String,
    /// Whether it names delete files.
    pub(crate) deletes: bool,
    seq: i64,
    first_row_id: Option<i64>,
}

/// A live file as a manifest names it.
#[derive(Debug, Clone)]
pub(crate) struct LiveFile {
    /// Its key in the store.
    pub(crate) path: String,
    /// The same as the table has it.
    pub(crate) location: String,
    pub(crate) content: DataContentType,
    /// Nothing where it is the manifest's.
    pub(crate) seq: Option<i64>,
    first_row_id: Option<i64>,
    pub(crate) rows: u64,
    pub(crate) spec_id: i32,
    pub(crate) partition: Struct,
    /// The one data file that it deletes from, where it says so.
    pub(crate) referenced: Option<String>,
    /// Whether it is a deletion vector.
    pub(crate) vector: bool,
}

impl LiveFile {
    pub(crate) fn of(entry: &ManifestEntry, spec_id: i32) -> Self {
        let file = entry.data_file();
        Self {
            path: key(file.file_path()).to_string(),
            location: file.file_path().to_owned(),
            content: file.content_type(),
            seq: entry.sequence_number(),
            first_row_id: file.first_row_id(),
            rows: file.record_count(),
            spec_id,
            partition: file.partition().clone(),
            referenced: file.referenced_data_file(),
            vector: file.file_format() == DataFileFormat::Puffin,
        }
    }

    pub(crate) fn shares_partition(&self, other: &Self) -> bool {
        self.spec_id == other.spec_id && self.partition == other.partition
    }

    /// Whether it deletes the row at `place` of `data`. Source: Iceberg spec, "Scan Planning".
    fn deletes(&self, seq: i64, effect: &Effect, data: (&Self, i64), held: &Held, place: usize) -> bool {
        let (file, data_seq) = data;
        match effect {
            Effect::Positions(places) => {
                let reaches = match &self.referenced {
                    Some(target) => *target == file.location,
                    None => self.shares_partition(file),
                };
                let at = u64::try_from(place).unwrap_or(u64::MAX);
                seq >= data_seq && reaches && places.get(&file.path).is_some_and(|places| places.contains(&at))
            }
            Effect::Keys(keys) => {
                let everywhere = self.partition.fields().is_empty();
                let customer = held.customers.get(place).copied();
                seq > data_seq
                    && (everywhere || self.shares_partition(file))
                    && customer.is_some_and(|customer| keys.contains(&customer))
            }
        }
    }
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
        Ok(self
            .live_rows(world, table, id)
            .await?
            .into_iter()
            .map(|(row, own, changed)| (row, (own, changed)))
            .collect())
    }

    /// The rows that can be read at a snapshot which has delete files.
    pub(crate) async fn undeleted(&mut self, world: &World, table: &TableName, id: i64) -> Result<Vec<Row>, String> {
        Ok(self.live_rows(world, table, id).await?.into_iter().map(|(row, ..)| row).collect())
    }

    /// The rows that no delete file reaches, with their lineage.
    async fn live_rows(
        &mut self,
        world: &World,
        table: &TableName,
        id: i64,
    ) -> Result<Vec<(Row, Option<i64>, i64)>, String> {
        let known = self.tables.get(table).and_then(|seen| seen.snapshots.get(&id));
        let listed: Vec<Listed> = known.map(|known| known.listed.clone()).unwrap_or_default();
        let (mut deletes, mut vectors) = (Vec::new(), BTreeSet::new());
        for manifest in listed.iter().filter(|listed| listed.deletes) {
            for file in self.entries_of(world, &manifest.path).await?.iter() {
                let effect = self.effects.get(&file.path).cloned();
                let effect = effect.ok_or_else(|| format!("delete file {} is nobody's", file.path))?;
                let one = file.referenced.as_ref().filter(|_| file.vector || !file.path.contains("/foreign-"));
                if let (Some(target), Effect::Positions(places)) = (one, &effect) {
                    let named = places.get(key(target).as_ref()).map_or(0, BTreeSet::len) as u64;
                    if named != file.rows || places.len() != 1 {
                        return Err(format!(
                            "{} has {named} places of {target}, its entry says {}",
                            file.path, file.rows
                        ));
                    }
                    if file.vector && !vectors.insert(target.clone()) {
                        return Err(format!("{target} has two deletion vectors"));
                    }
                }
                deletes.push((file.clone(), file.seq.unwrap_or(manifest.seq), effect));
            }
        }
        let mut rows = Vec::new();
        for manifest in listed.iter().filter(|listed| !listed.deletes) {
            let entries = self.entries_of(world, &manifest.path).await?;
            let mut next = manifest.first_row_id;
            for entry in entries.iter().filter(|entry| entry.content == DataContentType::Data) {
                // Files without an id take theirs from the manifest's, one after the other.
                let first = entry.first_row_id.or_else(|| {
                    let own = next;
                    next = next.map(|id| id + i64::try_from(entry.rows).unwrap_or(0));
                    own
                });
                let seq = entry.seq.unwrap_or(manifest.seq);
                let Some(held) = self.files.get(&entry.path) else { continue };
                for (at, row) in held.rows.iter().enumerate() {
                    if deletes.iter().any(|(file, own, effect)| file.deletes(*own, effect, (entry, seq), held, at)) {
                        continue;
                    }
                    let (own, changed) = held.lineage.get(at).copied().unwrap_or_default();
                    let given = first.map(|first| first + i64::try_from(at).unwrap_or(0));
                    rows.push((*row, own.or(given), changed.unwrap_or(seq)));
                }
            }
        }
        Ok(rows)
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
        let spec = parsed.metadata().partition_spec().spec_id();
        let live = parsed.entries().iter().filter(|entry| entry.is_alive()).map(|entry| LiveFile::of(entry, spec));
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
