//! The auditor: reads what is really there after every change of a table, and says what must be.
//!
//! It keeps its own memory of every snapshot ever seen, so an expiry does not blind it, and it shares no code with the commit
//! path but the parsers of the format. What is slow to parse is parsed by the library every eighth time.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use arrow::array::{Array, AsArray};
use bytes::Bytes;
use frazil::catalog::document;
use frazil::commit::skim::{self, Plans};
use frazil::model::checkpoint::{Position, Record};
use frazil::model::ids::TableName;
use frazil::model::table::TableState;
use iceberg::spec::{FormatVersion, Manifest, ManifestFile, ManifestList, Operation};
use object_store::ObjectStoreExt;
use parquet::arrow::ProjectionMask;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;

use crate::foreign;
use crate::remapped;
use crate::replaced::{Effect, Held, Listed, LiveFile};
use crate::world::{World, key};

/// A row of a source: its number over all pipelines and partitions of the scenario.
pub type Row = u32;

/// A pipeline whose rows are followed.
#[derive(Debug, Clone)]
pub struct Watched {
    /// Its name.
    pub name: String,
    /// The table whose commits decide its epochs.
    pub anchor: TableName,
    /// The number of its first row.
    pub first: Row,
    /// Source partitions.
    pub partitions: u32,
    /// Rows in each, offsets that are none included.
    pub rows: u32,
    /// How often these are there: twice where the end of a log may be lost.
    pub generations: u32,
    /// From where on the second are there instead of the first, by partition.
    pub lost: BTreeMap<u32, u32>,
    /// Rows that were rolled back may stay away.
    pub keeps: bool,
}

impl Watched {
    pub(crate) fn row(&self, partition: u32, number: u32) -> Row {
        self.row_of(0, partition, number)
    }

    /// A row of one of the generations: what was written first, and what was written instead where the end of a log was lost.
    pub(crate) fn row_of(&self, generation: u32, partition: u32, number: u32) -> Row {
        self.first + (generation * self.partitions + partition) * self.rows + number
    }

    /// The number after its last row.
    pub(crate) fn end(&self) -> Row {
        self.first + self.generations * self.partitions * self.rows
    }

    fn record_key(&self, target: &str) -> String {
        format!("frazil.checkpoint.{}@{target}", self.name)
    }
}

/// What the auditor knows.
#[derive(Debug, Default)]
pub struct Auditor {
    /// The pipelines.
    pub pipelines: Vec<Watched>,
    /// Rows by what names them in their own content.
    pub event_ids: BTreeMap<String, Row>,
    /// Offsets at which no row is to be read: transactions that were given up, and ends of transactions.
    pub holes: BTreeSet<Row>,
    /// Rows that a log has removed and a reader passed over.
    pub(crate) removed: BTreeSet<Row>,
    /// The branch that the pipelines write to.
    pub target: String,
    /// Rows that a rollback took out of a table's branch.
    pub rolled_back: BTreeSet<Row>,
    /// Rows of which an operator has said that they stay away.
    pub away: BTreeSet<Row>,
    /// Tables and pipelines of which an operator is about to say so.
    pub(crate) accepting: BTreeSet<(TableName, String)>,
    /// Files of sealed epochs that an operator has forgotten, or that were undone and whose object is gone.
    pub(crate) forgotten: BTreeSet<String>,
    /// Tables that were set back, or dropped and created anew: what they hold is told by their own checkpoints.
    pub set_back: BTreeSet<TableName>,
    /// Tables that were dropped, as they were.
    pub(crate) dropped: Vec<(TableName, Seen)>,
    /// Where branches stood that were dropped.
    pub(crate) headless: BTreeMap<TableName, i64>,
    /// The table that a row was first seen in.
    pub(crate) home: BTreeMap<Row, TableName>,
    /// Rows that a foreign engine deleted, by its snapshot.
    pub deleted: BTreeMap<i64, Vec<Row>>,
    /// What delete files delete.
    pub(crate) effects: BTreeMap<String, Effect>,
    /// Foreign snapshots that delete rows without touching their files.
    pub(crate) row_deltas: BTreeSet<i64>,
    pub(crate) entries: BTreeMap<String, Arc<Vec<LiveFile>>>,
    manifests: BTreeMap<String, Arc<Vec<String>>>,
    pub(crate) files: BTreeMap<String, Arc<Held>>,
    pub(crate) tables: BTreeMap<TableName, Seen>,
    /// Rollbacks by the foreign engine.
    pub rollbacks: u64,
    /// Snapshots looked at.
    pub snapshots: u64,
    /// Documents and manifests looked at.
    parsed: u64,
    plans: Plans,
}

/// The column by whose values rows are deleted.
const CUSTOMER: &str = "customer_id";
/// The columns of row lineage.
const LINEAGE: [&str; 2] = ["_row_id", "_last_updated_sequence_number"];

/// Each so manyth is parsed by the library too.
const PARSED_EVERY: u64 = 8;

/// What was ever seen of a table.
#[derive(Debug, Default)]
pub(crate) struct Seen {
    pub(crate) snapshots: BTreeMap<i64, Known>,
    retained: BTreeSet<i64>,
    pub(crate) head: Option<i64>,
    seq: i64,
    /// Refs beside the target: whether each is a tag, and where it is.
    refs: BTreeMap<String, (bool, i64)>,
    pub(crate) uuid: uuid::Uuid,
}

/// What was ever seen of a snapshot.
#[derive(Debug)]
pub(crate) struct Known {
    pub(crate) parent: Option<i64>,
    list: String,
    manifests: Vec<String>,
    pub(crate) listed: Vec<Listed>,
    /// The rows that no delete file reaches; nothing where there are no delete files.
    undeleted: Option<Vec<Row>>,
    pub(crate) records: BTreeMap<String, Record>,
}

impl Seen {
    /// The chain of a snapshot, expired ancestors included.
    pub(crate) fn chain(&self, head: Option<i64>) -> impl Iterator<Item = (i64, &Known)> {
        let mut at = head;
        let walk = std::iter::from_fn(move || {
            let id = at?;
            let known = self.snapshots.get(&id)?;
            at = known.parent;
            Some((id, known))
        });
        // An id that was committed again after its snapshot had expired may be its own ancestor.
        walk.take(self.snapshots.len())
    }

    pub(crate) fn record(&self, head: Option<i64>, key: &str) -> Option<&Record> {
        self.chain(head).find_map(|(_, known)| known.records.get(key))
    }
}

impl Auditor {
    /// An auditor of what pipelines write to the branch `target`.
    pub fn of(target: &str) -> Self {
        Self { target: target.to_owned(), ..Self::default() }
    }

    /// A table has changed. What is wrong, if anything is.
    ///
    /// # Errors
    /// The violation as a sentence.
    pub async fn changed(
        &mut self,
        world: &World,
        actor: &str,
        state: &TableState,
        packed: &Bytes,
    ) -> Result<(), String> {
        let name = &state.name;
        if self.every_eighth() {
            same_document(state, packed).map_err(|e| format!("{name}: the metadata that {actor} made: {e}"))?;
        }
        let metadata = &state.metadata;
        let mut seen = self.tables.remove(name).unwrap_or_default();
        if seen.uuid == metadata.uuid() && metadata.last_sequence_number() < seen.seq {
            return Err(format!(
                "{name}: the sequence number fell from {} to {}",
                seen.seq,
                metadata.last_sequence_number()
            ));
        }
        let refs = state.refs.iter().filter(|(name, _)| **name != self.target);
        let refs: BTreeMap<_, _> = refs.map(|(name, r)| (name.clone(), (!r.is_branch(), r.snapshot_id))).collect();
        if seen.uuid == metadata.uuid() && actor != foreign::NAME {
            let kept = |name: &String, (tag, at): &(bool, i64)| {
                let now = refs.get(name);
                if *tag { now == Some(&(true, *at)) } else { now.is_some() }
            };
            if let Some((gone, _)) = seen.refs.iter().find(|(name, at)| !kept(name, at)) {
                return Err(format!("{name}: {actor} moved or dropped {gone}"));
            }
        }
        if let Some((named, _)) = refs.iter().find(|(_, (_, at))| metadata.snapshot_by_id(*at).is_none()) {
            return Err(format!("{name}: {named} names a snapshot that {actor} has removed"));
        }
        seen.refs = refs;
        (seen.uuid, seen.seq) = (metadata.uuid(), metadata.last_sequence_number());
        let (mut fresh, mut replaced, mut masked) = (Vec::new(), Vec::new(), Vec::new());
        for snapshot in metadata.snapshots() {
            let (id, list) = (snapshot.snapshot_id(), key(snapshot.manifest_list()).to_string());
            // A part of a decided epoch that was rolled back and expired is committed again under the same id.
            if seen.snapshots.get(&id).is_some_and(|known| known.list == list) {
                continue;
            }
            let parent = snapshot.parent_snapshot_id().and_then(|id| metadata.snapshot_by_id(id));
            if parent.is_some_and(|parent| parent.timestamp_ms() > snapshot.timestamp_ms()) {
                return Err(format!("{name}: snapshot {id:x} of {actor} is older than its parent"));
            }
            let manifests = self.manifests_of(world, snapshot.manifest_list(), metadata.format_version()).await;
            let listed = manifests.map_err(|e| format!("{name}: snapshot {id:x} of {actor}: {e}"))?;
            let manifests: Vec<String> = listed.iter().map(|listed| listed.path.clone()).collect();
            if listed.iter().any(|listed| listed.deletes) {
                masked.push((id, snapshot.parent_snapshot_id()));
            }
            if snapshot.summary().operation == Operation::Replace && actor != foreign::NAME {
                replaced.push(id);
            }
            for manifest in &manifests {
                fresh.extend(self.manifests[manifest].iter().cloned());
            }
            let records = snapshot.summary().additional_properties.iter();
            let records = records.filter(|(k, v)| k.starts_with("frazil.checkpoint.") && *v != "@list");
            let records = records.map(|(k, v)| Ok((k.clone(), Record::parse(v).map_err(|e| format!("{name}: {e}"))?)));
            let records = records.collect::<Result<_, String>>()?;
            let known =
                Known { parent: snapshot.parent_snapshot_id(), list, manifests, listed, undeleted: None, records };
            seen.snapshots.insert(id, known);
            self.snapshots += 1;
        }
        seen.retained = metadata.snapshots().map(|s| s.snapshot_id()).collect();
        seen.head = state.head(&self.target).map(|s| s.snapshot_id());
        self.tables.insert(name.clone(), seen);
        for file in fresh {
            self.read(world, state, &file)
                .await
                .map_err(|e| format!("{name}: a snapshot of {actor} names {file}: {e}"))?;
        }
        for (id, parent) in masked {
            self.mask(world, name, id, parent).await?;
        }
        for id in replaced {
            let kept = self.keeps_rows(world, name, id).await;
            kept.map_err(|e| format!("{name}: replace {id:x} of {actor}: {e}"))?;
        }
        self.check(world).await.map_err(|e| format!("after a commit of {actor} to {name}: {e}"))
    }

    /// Learns which rows the delete files of a snapshot leave, and which it has deleted itself.
    async fn mask(&mut self, world: &World, table: &TableName, id: i64, parent: Option<i64>) -> Result<(), String> {
        let rows = self.undeleted(world, table, id).await.map_err(|e| format!("{table}: {e}"))?;
        if self.row_deltas.contains(&id) {
            let stay: BTreeSet<Row> = rows.iter().copied().collect();
            let gone = self.rows_at(table, parent).into_iter().filter(|row| !stay.contains(row)).collect();
            self.deleted.insert(id, gone);
        }
        if let Some(known) = self.tables.get_mut(table).and_then(|seen| seen.snapshots.get_mut(&id)) {
            known.undeleted = Some(rows);
        }
        Ok(())
    }

    fn every_eighth(&mut self) -> bool {
        self.parsed += 1;
        self.parsed.is_multiple_of(PARSED_EVERY)
    }

    async fn manifests_of(&mut self, world: &World, list: &str, format: FormatVersion) -> Result<Vec<Listed>, String> {
        let bytes = object(world, key(list).as_ref()).await?;
        let parsed = ManifestList::parse_with_version(&bytes, format).map_err(|e| format!("{list}: {e}"))?;
        let manifests: Vec<ManifestFile> = parsed.consume_entries().into_iter().collect();
        let mut all = Vec::new();
        for manifest in manifests {
            let path = key(&manifest.manifest_path).to_string();
            // What was once read never changes, but it must still be there.
            let bytes = object(world, &path).await?;
            if !self.manifests.contains_key(&path) {
                let skimmed = skim::named(&bytes, &self.plans).map_err(|e| format!("{path}: {e}"))?;
                let skimmed = skimmed.map(|named| named.into_iter().filter(|n| n.live).map(|n| n.location));
                let live = match skimmed.map(Iterator::collect) {
                    Some(live) if !self.every_eighth() => live,
                    skimmed => {
                        let parsed = live_of(&bytes).map_err(|e| format!("{path}: {e}"))?;
                        if skimmed.is_some_and(|skimmed: Vec<String>| skimmed != parsed) {
                            return Err(format!("{path}: the library finds other files in it"));
                        }
                        parsed
                    }
                };
                let live = live.iter().map(|location| key(location).to_string());
                self.manifests.insert(path.clone(), Arc::new(live.collect()));
            }
            all.push(Listed::of(&manifest, path));
        }
        Ok(all)
    }

    /// Learns which rows are in a file, and that its field ids mean what the table says.
    async fn read(&mut self, world: &World, state: &TableState, path: &str) -> Result<(), String> {
        let bytes = object(world, path).await?;
        if self.files.contains_key(path) {
            return Ok(());
        }
        if path.contains("/foreign-") {
            self.files.insert(path.to_owned(), Arc::default());
            return Ok(());
        }
        if let Some(effect) = remapped::effect(&bytes)? {
            world.cover("replace × deletes carried over");
            self.effects.insert(path.to_owned(), effect);
            self.files.insert(path.to_owned(), Arc::default());
            return Ok(());
        }
        let builder = ParquetRecordBatchReaderBuilder::try_new(bytes).map_err(|e| e.to_string())?;
        for column in builder.schema().fields() {
            let id = column.metadata().get("PARQUET:field_id").and_then(|id| id.parse::<i32>().ok());
            let means = id.and_then(|id| state.metadata.current_schema().field_by_id(id));
            if let (Some(id), Some(field)) = (id, means)
                && field.name != *column.name()
            {
                return Err(format!("its column {} has id {id}, which is {} in the table", column.name(), field.name));
            }
        }
        let rejects = builder.schema().field_with_name("raw").is_ok();
        let wanted = if rejects { ["raw", "partition", "number"] } else { ["event_id", "_partition", "_number"] };
        let lineage = LINEAGE.iter().chain([&CUSTOMER]).filter(|name| builder.schema().field_with_name(name).is_ok());
        let mask = ProjectionMask::columns(builder.parquet_schema(), wanted.into_iter().chain(lineage.copied()));
        let (mut rows, mut lineage, mut customers) = (Vec::new(), Vec::new(), Vec::new());
        for batch in builder.with_projection(mask).build().map_err(|e| e.to_string())? {
            let batch = batch.map_err(|e| e.to_string())?;
            let column = |name: &str| batch.column_by_name(name).ok_or_else(|| format!("no column {name}"));
            let partitions = column(wanted[1])?.as_string::<i32>();
            let numbers = column(wanted[2])?.as_primitive::<arrow::datatypes::Int64Type>();
            for at in 0..batch.num_rows() {
                let id = if rejects {
                    let raw = column("raw")?;
                    let raw = raw
                        .as_binary_opt::<i64>()
                        .map(|a| a.value(at))
                        .or(raw.as_binary_opt::<i32>().map(|a| a.value(at)));
                    event_id(raw.unwrap_or_default()).ok_or("a reject without event_id")?.to_owned()
                } else {
                    column("event_id")?.as_string::<i32>().value(at).to_owned()
                };
                if let (Some(ids), Some(seqs)) = (batch.column_by_name(LINEAGE[0]), batch.column_by_name(LINEAGE[1])) {
                    lineage.push((long(ids, at), long(seqs, at)));
                }
                customers.extend((!rejects).then(|| batch.column_by_name(CUSTOMER).and_then(|own| long(own, at))));
                let row = *self.event_ids.get(&id).ok_or_else(|| format!("a row {id:?} that no source has"))?;
                if self.holes.contains(&row) {
                    return Err(format!(
                        "row {:?} of a transaction that was given up, or of a record without a value",
                        self.place(row)
                    ));
                }
                let place = self.place(row);
                let told = (partitions.value(at).to_owned(), numbers.value(at));
                if place.1 != told.0 || i64::from(place.2) != told.1 || partitions.is_null(at) {
                    return Err(format!("row {place:?} says that it is {told:?}"));
                }
                rows.push(row);
                self.home.entry(row).or_insert_with(|| state.name.clone());
            }
        }
        self.files.insert(path.to_owned(), Arc::new(Held { rows, lineage, customers }));
        Ok(())
    }

    /// Pipeline, partition and number of a row.
    pub(crate) fn place(&self, row: Row) -> (String, String, u32) {
        let of = self.pipelines.iter().rfind(|p| p.first <= row);
        of.map_or_else(Default::default, |p| {
            let at = row - p.first;
            (p.name.clone(), (at / p.rows % p.partitions).to_string(), at % p.rows)
        })
    }

    /// How often each row can be read at the heads of all tables.
    pub(crate) fn readable(&self) -> Result<Vec<u8>, String> {
        let total = self.pipelines.iter().map(Watched::end).max().unwrap_or(0);
        let mut count = vec![0_u8; total as usize];
        for (name, table) in &self.tables {
            for row in self.rows_at(name, table.head) {
                let held = &mut count[row as usize];
                *held += 1;
                if *held > 1 {
                    return Err(format!("row {:?} is there twice: {}", self.place(row), self.where_is(row)));
                }
            }
        }
        Ok(count)
    }

    fn where_is(&self, row: Row) -> String {
        let mut found = Vec::new();
        for (name, table) in &self.tables {
            for (_, known) in table.chain(table.head).take(1) {
                for file in known.manifests.iter().flat_map(|m| self.manifests[m].iter()) {
                    if self.files.get(file).is_some_and(|held| held.rows.contains(&row)) {
                        found.push(format!("{name}: {file}"));
                    }
                }
            }
        }
        found.join(" and ")
    }

    /// The rows that can be read at a snapshot of a table.
    pub fn rows_at(&self, table: &TableName, snapshot: Option<i64>) -> Vec<Row> {
        self.rows_of_snapshot(snapshot.and_then(|id| self.tables.get(table).and_then(|t| t.snapshots.get(&id))))
    }

    fn rows_of_snapshot(&self, known: Option<&Known>) -> Vec<Row> {
        if let Some(rows) = known.and_then(|known| known.undeleted.as_ref()) {
            return rows.clone();
        }
        let files = known.into_iter().flat_map(|k| k.manifests.iter()).flat_map(|m| self.manifests[m].iter());
        files.filter_map(|f| self.files.get(f)).flat_map(|held| held.rows.iter().copied()).collect()
    }

    /// The rows of every snapshot from `head` down to `target`: a rollback also takes back a deletion of what it takes away.
    pub fn rows_since(&self, table: &TableName, head: i64, target: i64) -> BTreeSet<Row> {
        let chain = self.tables.get(table).into_iter().flat_map(|seen| seen.chain(Some(head)));
        let above: Vec<i64> = chain.map(|(id, _)| id).take_while(|id| *id != target).collect();
        above.into_iter().flat_map(|id| self.rows_at(table, Some(id))).collect()
    }

    fn deleted_rows(&self) -> BTreeSet<Row> {
        let mut gone = BTreeSet::new();
        if self.deleted.is_empty() {
            return gone;
        }
        for table in self.tables.values() {
            for (id, _) in table.chain(table.head) {
                gone.extend(self.deleted.get(&id).into_iter().flatten().copied());
            }
        }
        gone
    }

    async fn check(&mut self, world: &World) -> Result<(), String> {
        let count = self.readable()?;
        let gone = self.deleted_rows();
        for pipeline in &self.pipelines {
            let record = self.record(&pipeline.anchor, pipeline);
            let pending = match record {
                Some(record) => pending(world, record, self.set_back.contains(&pipeline.anchor)).await?,
                None => BTreeMap::new(),
            };
            for partition in 0..pipeline.partitions {
                let name = partition.to_string();
                let reached = reached(record, &name)?;
                let there = |row: Row| count[row as usize] > 0;
                let newest = pipeline.newest(partition, there);
                for (row, number, required) in pipeline.rows_of(partition, reached, newest) {
                    let n = i64::from(number);
                    if n > reached && there(row) && !self.claims(pipeline, row, &name, n)? {
                        return Err(format!(
                            "row {:?} is there, the checkpoint is at {reached}: {}",
                            self.place(row),
                            self.where_is(row)
                        ));
                    }
                    let excused = gone.contains(&row)
                        || self.may_stay_away(pipeline, row)
                        || pending
                            .get(&name)
                            .is_some_and(|ranges| ranges.iter().any(|(from, to)| *from < n && n <= *to));
                    if required && !there(row) && !excused && !self.lacks(pipeline, row, &name, n)? {
                        return Err(format!("row {:?} is missing, the checkpoint is at {reached}", self.place(row)));
                    }
                }
            }
        }
        Ok(())
    }

    pub(crate) fn record(&self, table: &TableName, pipeline: &Watched) -> Option<&Record> {
        self.tables.get(table).and_then(|t| t.record(t.head, &pipeline.record_key(&self.target)))
    }

    /// Whether a row above the anchor's checkpoint is where it may be: the anchor was set back, and the row's table was not.
    fn claims(&self, pipeline: &Watched, row: Row, partition: &str, number: i64) -> Result<bool, String> {
        let Some(home) = self.home.get(&row).filter(|home| **home != pipeline.anchor) else { return Ok(false) };
        let set_back = self.set_back.contains(&pipeline.anchor);
        Ok(set_back && reached(self.record(home, pipeline), partition)? >= number)
    }

    /// Whether a row's table beside the anchor was set back, and does not say that it has the row.
    fn lacks(&self, pipeline: &Watched, row: Row, partition: &str, number: i64) -> Result<bool, String> {
        let Some(home) = self.home.get(&row).filter(|home| **home != pipeline.anchor) else { return Ok(false) };
        Ok(self.set_back.contains(home) && reached(self.record(home, pipeline), partition)? < number)
    }

    fn may_stay_away(&self, pipeline: &Watched, row: Row) -> bool {
        self.holes.contains(&row)
            || self.removed.contains(&row)
            || self.away.contains(&row)
            || (pipeline.keeps && self.rolled_back.contains(&row))
    }

    /// At rest: every row of every source is there.
    ///
    /// # Errors
    /// The first that is not.
    pub fn complete(&self, except: &BTreeSet<String>) -> Result<(), String> {
        let count = self.readable()?;
        let gone = self.deleted_rows();
        for pipeline in self.pipelines.iter().filter(|p| !except.contains(&p.name)) {
            for partition in 0..pipeline.partitions {
                for (row, _, required) in pipeline.rows_of(partition, i64::MAX, Some(pipeline.rows)) {
                    let excused = gone.contains(&row) || self.may_stay_away(pipeline, row);
                    if required && count[row as usize] == 0 && !excused {
                        return Err(format!("at rest row {:?} is missing", self.place(row)));
                    }
                }
            }
        }
        Ok(())
    }

    /// From now on rows that were rolled back may stay away, or have to come back.
    pub fn keep(&mut self, keeps: bool) {
        for pipeline in &mut self.pipelines {
            pipeline.keeps |= keeps;
        }
    }

    /// Which retained snapshot names an object.
    pub fn names(&self, path: &str) -> Option<String> {
        for (name, table) in &self.tables {
            if let Some(id) = self.named_in(table, path) {
                return Some(format!("snapshot {id:x} of {name}"));
            }
        }
        for pipeline in &self.pipelines {
            let record = self.record(&pipeline.anchor, pipeline);
            // An older record may name what was finished and forgotten since.
            let stands = !self.set_back.contains(&pipeline.anchor);
            if stands && record.is_some_and(|r| r.sealed.iter().any(|s| key(s).as_ref() == path)) {
                return Some(format!("the checkpoint of {}", pipeline.name));
            }
        }
        None
    }

    /// Whether a table that was dropped names an object: somebody may bring the table back.
    pub fn dropped_names(&self, path: &str) -> bool {
        self.dropped.iter().any(|(_, table)| self.named_in(table, path).is_some())
    }

    fn named_in(&self, table: &Seen, path: &str) -> Option<i64> {
        let retained = table.retained.iter().filter_map(|id| table.snapshots.get(id).map(|known| (*id, known)));
        let mut naming = retained.filter(|(_, known)| {
            known.list == path
                || known.manifests.iter().any(|m| m == path || self.manifests[m].iter().any(|f| f == path))
        });
        naming.next().map(|(id, _)| id)
    }

    /// All objects that some snapshot of `ids` names.
    pub fn objects_of(&self, table: &TableName, ids: &BTreeSet<i64>) -> BTreeSet<String> {
        let mut found = BTreeSet::new();
        for known in ids.iter().filter_map(|id| self.tables.get(table).and_then(|t| t.snapshots.get(id))) {
            found.insert(known.list.clone());
            for manifest in &known.manifests {
                found.insert(manifest.clone());
                found.extend(self.manifests[manifest].iter().cloned());
            }
        }
        found
    }

    /// A foreign engine wrote the rows of one file to another.
    pub fn copied(&mut self, from: &str, to: &str) {
        if let Some(rows) = self.files.get(from).cloned() {
            self.files.insert(to.to_owned(), rows);
        }
    }

    /// The rows in a manifest's live files.
    pub fn rows_of(&self, manifest: &str) -> Vec<Row> {
        let files = self.manifests.get(manifest).into_iter().flat_map(|files| files.iter());
        files.filter_map(|f| self.files.get(f)).flat_map(|held| held.rows.iter().copied()).collect()
    }

    /// The ancestors of a table's head that are retained and know every pipeline that the head knows.
    pub fn rollback_targets(&self, table: &TableName) -> Vec<i64> {
        let Some(seen) = self.tables.get(table) else { return Vec::new() };
        let keys: BTreeSet<&String> = seen.chain(seen.head).flat_map(|(_, k)| k.records.keys()).collect();
        let ancestors = seen.chain(seen.head).skip(1).take_while(|(id, _)| seen.retained.contains(id));
        ancestors.map(|(id, _)| id).filter(|id| keys.iter().all(|key| seen.record(Some(*id), key).is_some())).collect()
    }
}

/// The document says what the catalog says.
fn same_document(state: &TableState, packed: &Bytes) -> Result<(), String> {
    let location = state.metadata_location.clone().unwrap_or_default();
    let json = document::unpack(&location, packed.clone()).map_err(|e| e.to_string())?;
    let read = TableState::from_json(state.name.clone(), &json, None, Default::default());
    let read = read.map_err(|e| format!("the document does not parse: {e:?}"))?;
    if read.metadata != state.metadata {
        return Err("the document says something else than the catalog".to_owned());
    }
    Ok(())
}

/// The live files of a manifest, as the library reads it.
fn live_of(manifest: &[u8]) -> Result<Vec<String>, String> {
    let parsed = Manifest::parse_avro(manifest).map_err(|e| e.to_string())?;
    Ok(parsed.entries().iter().filter(|e| e.is_alive()).map(|e| e.file_path().to_owned()).collect())
}

/// The position that a record holds of a partition.
pub(crate) fn reached(record: Option<&Record>, partition: &str) -> Result<i64, String> {
    match record.and_then(|r| r.checkpoint.positions.iter().find(|(p, _)| p.as_str() == partition)) {
        None => Ok(-1),
        Some((_, Position::Offset(at))) => Ok(*at),
        Some((_, other)) => Err(format!("position {other:?}")),
    }
}

/// Ranges of decided epochs that may not be finished: (from, to] by partition.
async fn pending(world: &World, record: &Record, old: bool) -> Result<BTreeMap<String, Vec<(i64, i64)>>, String> {
    let mut ranges: BTreeMap<String, Vec<(i64, i64)>> = BTreeMap::new();
    for location in &record.sealed {
        let bytes = match object(world, key(location).as_ref()).await {
            Ok(bytes) => bytes,
            // An older record names what was finished since.
            Err(_) if old => continue,
            Err(e) => return Err(format!("a decided epoch: {e}")),
        };
        let sealed: serde_json::Value = serde_json::from_slice(&bytes).map_err(|e| format!("{location}: {e}"))?;
        let delta = sealed["delta"]["ranges"].as_object().or(sealed["delta"].as_object());
        for (partition, range) in delta.into_iter().flatten() {
            let from = range["from"].as_i64().unwrap_or(-1);
            let to = range["to"].as_i64().ok_or_else(|| format!("{location}: {range}"))?;
            ranges.entry(partition.clone()).or_default().push((from, to));
        }
    }
    Ok(ranges)
}

/// The value of the member `event_id` of a row as the shop writes it.
pub fn event_id(row: &[u8]) -> Option<&str> {
    let text = std::str::from_utf8(row).ok()?;
    text.split_once(r#""event_id":""#)?.1.split('"').next()
}

fn long(column: &dyn Array, at: usize) -> Option<i64> {
    let column = column.as_primitive_opt::<arrow::datatypes::Int64Type>()?;
    column.is_valid(at).then(|| column.value(at))
}

pub(crate) async fn object(world: &World, path: &str) -> Result<Bytes, String> {
    let path = object_store::path::Path::from(path);
    let got = async { world.objects.get(&path).await?.bytes().await };
    got.await.map_err(|e| format!("{path}: {e}"))
}
