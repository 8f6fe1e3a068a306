//! Which rows of a group's files are deleted: positions, deletion vectors and keys, as the planning snapshot has them.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use arrow::array::{ArrayRef, AsArray, BooleanArray};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Int64Type};
use arrow::record_batch::RecordBatch;
use iceberg::spec::{PartitionSpec, SchemaRef};
use roaring::RoaringTreemap;

use crate::commit::deletes::{PATH_ID, POS_ID};
use crate::commit::vector;
use crate::compact::files::{DataEntry, DeleteEntry, DeleteKind, Partition};
use crate::compact::input::ParquetFile;
use crate::compact::keys::KeySet;
use crate::compact::merge::Target;
use crate::compact::project::{Constants, Projection};
use crate::compact::rows::constants;
use crate::env::Env;
use crate::error::{Context, Error, ErrorKind, Result};
use crate::storage::{Storage, Version};
use crate::write::metrics::field_id;

/// The deletes of one group.
#[derive(Debug, Default)]
pub(crate) struct Masks {
    positions: BTreeMap<String, RoaringTreemap>,
    keys: Vec<KeySet>,
    /// What keys that had to make room delete.
    settled: BTreeMap<String, RoaringTreemap>,
    /// The content of files at which that was found.
    versions: BTreeMap<String, Version>,
    /// Bytes of positions, about.
    bytes: u64,
    passes: u32,
}

/// How often the key columns of the inputs are read before their deletes are too many.
const PASSES_MAX: u32 = 64;

/// What a position takes in memory, about: less where many are close together.
const POSITION_BYTES: u64 = 4;

/// What masks are read with.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Reading<'a> {
    pub(crate) env: &'a Env,
    pub(crate) storage: &'a Storage,
    /// Bytes that masks and a row group may take.
    pub(crate) bytes_max: u64,
}

/// What deletes are about.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Scope<'a> {
    pub(crate) target: &'a Target,
    pub(crate) inputs: &'a [DataEntry],
    pub(crate) partitions: &'a [Partition],
    pub(crate) specs: &'a [&'a PartitionSpec],
}

impl Masks {
    /// Reads the deletes that reach the inputs. Keys that do not fit into memory become positions, so many at a time: for each
    /// time the key columns of the inputs are read once.
    ///
    /// # Errors
    /// With the delete file: those of the store; `Corrupt` when it cannot be read; `Unsupported` for a form that is not known
    /// and when there are too many.
    pub(crate) async fn read(reading: Reading<'_>, scope: Scope<'_>, deletes: &[DeleteEntry]) -> Result<Self> {
        let Scope { inputs, partitions, .. } = scope;
        let mut masks = Self::default();
        for entry in deletes {
            let reached: Vec<&DataEntry> = inputs.iter().filter(|input| entry.reaches(input, partitions)).collect();
            if reached.is_empty() {
                continue;
            }
            let location = &entry.file.location;
            if !entry.readable {
                let what =
                    format!("deletes of {location}: it is neither Parquet nor a deletion vector, or is encrypted");
                return Err(Error::new(ErrorKind::Unsupported, what));
            }
            let done = match &entry.kind {
                DeleteKind::Vector => masks.vector(reading, entry).await,
                DeleteKind::Positions => masks.positions(reading, entry, &reached).await,
                DeleteKind::Equality(ids) => masks.equality(reading, scope, entry, ids).await,
            };
            done.and_then(|()| masks.check(reading)).map_err(|e| e.within(format!("deletes of {location}")))?;
        }
        Ok(masks)
    }

    /// How often the inputs were read for keys that had to make room.
    #[cfg(test)]
    pub(crate) fn passes(&self) -> u32 {
        self.passes
    }

    fn key_bytes(&self) -> u64 {
        self.keys.iter().map(KeySet::bytes).sum()
    }

    /// That what is held fits.
    fn check(&self, reading: Reading<'_>) -> Result<()> {
        if self.bytes.saturating_add(self.key_bytes()) > reading.bytes_max { Err(too_many()) } else { Ok(()) }
    }

    /// The keys that are held become positions, and leave.
    async fn settle(&mut self, reading: Reading<'_>, scope: Scope<'_>) -> Result<()> {
        self.passes += 1;
        if self.passes > PASSES_MAX {
            return Err(too_many());
        }
        let ids: Vec<i32> = self.keys.iter().flat_map(|set| set.ids()).copied().collect();
        for input in scope.inputs.iter().filter(|input| self.keys.iter().any(|set| set.newest() > input.seq)) {
            let marked = self.marked(reading, scope, input, &ids).await.map_err(|e| e.within(&input.location))?;
            let (found, version) = marked;
            self.versions.insert(input.location.clone(), version);
            let held = self.settled.entry(input.location.clone()).or_default();
            let before = held.len();
            *held |= found;
            self.bytes = self.bytes.saturating_add((held.len() - before).saturating_mul(POSITION_BYTES));
        }
        self.keys.iter_mut().for_each(KeySet::clear);
        Ok(())
    }

    /// The rows of `input` that the keys which are held delete.
    async fn marked(
        &self,
        reading: Reading<'_>,
        scope: Scope<'_>,
        input: &DataEntry,
        ids: &[i32],
    ) -> Result<(RoaringTreemap, Version)> {
        let version = self.version(input);
        let file = ParquetFile::open_version(reading.storage, &input.location, input.bytes, version).await?;
        let constants = constants(input, scope.partitions, scope.specs);
        let mut found = RoaringTreemap::new();
        let mut first = 0_u64;
        let Target { schema, nullable, .. } = scope.target;
        for group in 0..file.row_groups() {
            let mut group = file.columns(group, reading.bytes_max, ids).await?;
            let projection = Arc::new(Projection::new(group.schema(), nullable, schema, &constants)?);
            while let Some(batch) = group.next(reading.env, projected(&projection, schema)).await? {
                let mut deleted = vec![false; batch.num_rows()];
                for set in &self.keys {
                    set.mark(&batch, input.seq, &mut deleted)?;
                }
                found.extend((first..).zip(&deleted).filter(|(_, deleted)| **deleted).map(|(at, _)| at));
                first = first.saturating_add(deleted.len() as u64);
            }
        }
        Ok((found, file.version().clone()))
    }

    async fn vector(&mut self, reading: Reading<'_>, entry: &DeleteEntry) -> Result<()> {
        let start = entry.file.offset.and_then(|at| u64::try_from(at).ok());
        let (Some(start), Some(target)) = (start, &entry.target) else {
            return Err(Error::new(ErrorKind::Corrupt, "a deletion vector without a place or a data file"));
        };
        let end = start.checked_add(entry.bytes);
        let end = end.ok_or_else(|| Error::new(ErrorKind::Corrupt, "a deletion vector beyond its file"))?;
        if self.bytes.saturating_add(entry.bytes) > reading.bytes_max {
            return Err(too_many());
        }
        let blob = reading.storage.read_range(&entry.file.location, start..end).await?;
        let positions = vector::positions(&blob)?;
        if positions.len() != entry.rows {
            let (found, said) = (positions.len(), entry.rows);
            let what = format!("a deletion vector of {found} positions, its manifest says {said}");
            return Err(Error::new(ErrorKind::Corrupt, what));
        }
        self.bytes = self.bytes.saturating_add(entry.bytes);
        *self.positions.entry(target.clone()).or_default() |= positions;
        Ok(())
    }

    async fn positions(&mut self, reading: Reading<'_>, entry: &DeleteEntry, reached: &[&DataEntry]) -> Result<()> {
        let file = ParquetFile::open(reading.storage, &entry.file.location, entry.bytes).await?;
        let place = |id: i32| {
            let at = file.schema().fields().iter().position(|field| field_id(field) == Some(id));
            at.ok_or_else(|| Error::new(ErrorKind::Corrupt, format!("position deletes without field {id}")))
        };
        let (path_at, pos_at) = (place(PATH_ID)?, place(POS_ID)?);
        let reached: Arc<HashSet<String>> = Arc::new(reached.iter().map(|input| input.location.clone()).collect());
        for group in 0..file.row_groups() {
            let mut group = file.row_group(group, reading.bytes_max).await?;
            let work = || {
                let reached = Arc::clone(&reached);
                move |batch: RecordBatch| places(batch.column(path_at), batch.column(pos_at), &reached)
            };
            while let Some(found) = group.next(reading.env, work()).await? {
                for (path, positions) in found {
                    let held = self.positions.entry(path).or_default();
                    let before = held.len();
                    *held |= positions;
                    self.bytes = self.bytes.saturating_add((held.len() - before).saturating_mul(POSITION_BYTES));
                }
                self.check(reading)?;
            }
        }
        Ok(())
    }

    async fn equality(
        &mut self,
        reading: Reading<'_>,
        scope: Scope<'_>,
        entry: &DeleteEntry,
        ids: &[i32],
    ) -> Result<()> {
        let target = scope.target;
        let mut ids = ids.to_vec();
        ids.sort_unstable();
        let at = match self.keys.iter().position(|set| set.ids() == ids) {
            Some(at) => at,
            None => {
                self.keys.push(KeySet::new(&ids, &target.nullable)?);
                self.keys.len() - 1
            }
        };
        let file = ParquetFile::open(reading.storage, &entry.file.location, entry.bytes).await?;
        let missing = ids.iter().find(|id| target.lacks(file.schema(), **id));
        if let Some(id) = missing {
            return Err(Error::new(ErrorKind::Corrupt, format!("equality deletes without their field {id}")));
        }
        // Other columns are of no interest: what is required there may be missing.
        let projection = Projection::new(file.schema(), &target.nullable, &target.schema, &Constants::new())?;
        let projection = Arc::new(projection);
        for group in 0..file.row_groups() {
            let mut group = file.row_group(group, reading.bytes_max).await?;
            while let Some(batch) = group.next(reading.env, projected(&projection, &target.schema)).await? {
                self.keys[at].add(&batch, entry.seq)?;
                // Half is for positions.
                if self.key_bytes() > reading.bytes_max / 2 {
                    self.settle(reading, scope).await?;
                    self.check(reading)?;
                }
            }
        }
        Ok(())
    }

    /// Which rows of `batch`, the rows of `input` from position `first` on, stay; nothing when all do. Adds the positions of
    /// those that keys alone delete to `by_key`.
    ///
    /// # Errors
    /// `Internal` when the batch lacks a column.
    pub(crate) fn kept(
        &self,
        input: &DataEntry,
        first: u64,
        batch: &RecordBatch,
        by_key: &mut RoaringTreemap,
    ) -> Result<Option<BooleanArray>> {
        let (positions, settled) = (self.positions.get(&input.location), self.settled.get(&input.location));
        if positions.is_none() && settled.is_none() && self.keys.is_empty() {
            return Ok(None);
        }
        let mut deleted = vec![false; batch.num_rows()];
        mark(settled, first, &mut deleted);
        for set in &self.keys {
            set.mark(batch, input.seq, &mut deleted)?;
        }
        for (at, _) in deleted.iter().enumerate().filter(|(_, deleted)| **deleted) {
            let at = first.saturating_add(at as u64);
            if !positions.is_some_and(|positions| positions.contains(at)) {
                by_key.insert(at);
            }
        }
        mark(positions, first, &mut deleted);
        Ok(deleted.contains(&true).then(|| BooleanArray::from_iter(deleted.iter().map(|deleted| Some(!deleted)))))
    }

    /// The content of `input` that was read so far.
    pub(crate) fn version(&self, input: &DataEntry) -> Version {
        self.versions.get(&input.location).cloned().unwrap_or_default()
    }

    /// The positions of `input` that are deleted, but for what keys delete.
    pub(crate) fn of(&self, input: &DataEntry) -> Option<&RoaringTreemap> {
        self.positions.get(&input.location)
    }
}

/// What brings a batch into the table's columns.
fn projected(
    projection: &Arc<Projection>,
    schema: &SchemaRef,
) -> impl FnOnce(RecordBatch) -> Result<RecordBatch> + Send + use<> {
    let (projection, schema) = (Arc::clone(projection), Arc::clone(schema));
    move |batch| projection.apply(&batch, &schema)
}

/// The positions in files that are among `reached`, by file.
fn places(paths: &ArrayRef, positions: &ArrayRef, reached: &HashSet<String>) -> Result<Vec<(String, RoaringTreemap)>> {
    let typed = |column: &ArrayRef, wanted| cast(column, wanted).context(ErrorKind::Corrupt, || "position deletes");
    let (paths, positions) = (typed(paths, &DataType::Utf8)?, typed(positions, &DataType::Int64)?);
    let (paths, positions) = (paths.as_string::<i32>(), positions.as_primitive::<Int64Type>());
    // Rows are sorted by path: it is looked for once for all of a run.
    let mut runs: Vec<(&str, Option<RoaringTreemap>)> = Vec::new();
    for (path, position) in paths.iter().zip(positions.iter()) {
        let position = position.and_then(|position| u64::try_from(position).ok());
        let (Some(path), Some(position)) = (path, position) else {
            return Err(Error::new(ErrorKind::Corrupt, "position deletes without a path or position"));
        };
        if runs.last().is_none_or(|(last, _)| *last != path) {
            runs.push((path, reached.contains(path).then(RoaringTreemap::new)));
        }
        if let Some((_, Some(held))) = runs.last_mut() {
            held.insert(position);
        }
    }
    Ok(runs.into_iter().filter_map(|(path, held)| Some((path.to_owned(), held?))).collect())
}

/// Marks the rows from `first` on that are at `positions`.
fn mark(positions: Option<&RoaringTreemap>, first: u64, deleted: &mut [bool]) {
    let Some(positions) = positions else { return };
    let end = first.saturating_add(deleted.len() as u64);
    let mut within = positions.iter();
    within.advance_to(first);
    for at in within.take_while(|at| *at < end) {
        if let Some(mark) = usize::try_from(at - first).ok().and_then(|at| deleted.get_mut(at)) {
            *mark = true;
        }
    }
}

fn too_many() -> Error {
    Error::new(ErrorKind::Unsupported, "its deletes do not fit into memory").with_hint("allow more with --max-memory")
}
