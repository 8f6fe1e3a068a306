//! The offsets of a file's rows, read from the columns that say them; deletes applied.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::RangeInclusive;
use std::sync::Arc;

use arrow::array::{Array, AsArray, BooleanArray, Int64Array};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Int64Type, Schema as ArrowSchema, SchemaRef as ArrowSchemaRef};
use arrow::record_batch::RecordBatch;
use iceberg::spec::PartitionSpec;

use crate::compact::files::{DataEntry, DeleteEntry, DeleteKind, LiveFiles};
use crate::compact::input::ParquetFile;
use crate::compact::masks::{Masks, Reading, Scope};
use crate::compact::merge::Target;
use crate::compact::project::Projection;
use crate::compact::rows::constants;
use crate::error::{Context, Error, ErrorKind, Result};
use crate::verify::columns::{Column, Columns, Labels, log_name};
use crate::verify::offsets::{Logs, Seen};
use crate::verify::window::Window;
use crate::write::metrics::field_id;
use crate::write::partition::{column_at, column_path};

/// Files of one partition that share what their deletes say.
pub(super) struct Chunk<'a> {
    pub(super) files: Vec<DataEntry>,
    pub(super) deletes: Vec<&'a DeleteEntry>,
}

/// What files are read with.
pub(super) struct Table<'a> {
    pub(super) reading: Reading<'a>,
    pub(super) target: Target,
    pub(super) columns: Arc<Columns>,
    pub(super) window: Arc<Window>,
    pub(super) live: &'a LiveFiles,
    pub(super) specs: Vec<&'a PartitionSpec>,
}

/// What was found in a file.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Found {
    pub(super) logs: Logs,
    /// Rows that lack a log or an offset.
    pub(super) without: u64,
}

impl Found {
    pub(super) fn merge(&mut self, other: Self) {
        for (log, seen) in other.logs {
            self.logs.entry(log).or_default().merge(seen);
        }
        self.without = self.without.saturating_add(other.without);
    }
}

impl Table<'_> {
    /// What is found in each file of a chunk. A file that cannot be read in this version comes with that error.
    ///
    /// # Errors
    /// Those of the store, and `Corrupt` with the file when it is not what its manifest says.
    pub(super) async fn read(&self, chunk: &Chunk<'_>) -> Result<Vec<Result<Found>>> {
        let deletes: Vec<DeleteEntry> = chunk.deletes.iter().map(|entry| (*entry).clone()).collect();
        let (target, partitions) = (&self.target, &self.live.partitions);
        let scope = Scope { target, inputs: &chunk.files, partitions, specs: &self.specs };
        let masks = match Masks::read(self.reading, scope, &deletes).await {
            Ok(masks) => Arc::new(masks),
            Err(error) if error.kind() == ErrorKind::Unsupported => {
                let again = |_: &DataEntry| Err(Error::new(ErrorKind::Unsupported, error.to_string()));
                return Ok(chunk.files.iter().map(again).collect());
            }
            Err(error) => return Err(error),
        };
        let mut all = Vec::new();
        for file in &chunk.files {
            match self.file(file, &masks, &deletes).await {
                Err(error) if error.kind() != ErrorKind::Unsupported => return Err(error.within(&file.location)),
                found => all.push(found),
            }
        }
        Ok(all)
    }

    async fn file(&self, entry: &DataEntry, masks: &Arc<Masks>, deletes: &[DeleteEntry]) -> Result<Found> {
        if !entry.readable {
            return Err(Error::new(ErrorKind::Unsupported, "it is no Parquet file, or is encrypted"));
        }
        let Reading { env, storage, bytes_max } = self.reading;
        let version = masks.version(entry);
        let file = ParquetFile::open_version(storage, &entry.location, entry.bytes, version).await?;
        if file.rows() != entry.rows {
            let what = format!("{} rows, its manifest says {}", file.rows(), entry.rows);
            return Err(Error::new(ErrorKind::Corrupt, what));
        }
        let fields = file.schema().fields();
        if !fields.is_empty() && fields.iter().all(|field| field_id(field).is_none()) {
            return Err(Error::new(ErrorKind::Unsupported, "its columns have no field ids"));
        }
        let ids = self.ids(deletes);
        let keys = deletes.iter().any(|entry| matches!(entry.kind, DeleteKind::Equality(_)));
        // Keys are found by their place among all columns.
        let wanted = if keys { Arc::clone(&self.target.nullable) } else { self.wanted(&ids) };
        let values = constants(entry, &self.live.partitions, &self.specs);
        let (mut found, mut first) = (Found::default(), 0_u64);
        for group in 0..file.row_groups() {
            let mut group = file.columns(group, bytes_max, &ids).await?;
            let projection = Arc::new(Projection::new(group.schema(), &wanted, &self.target.schema, &values)?);
            loop {
                let extract = Extract {
                    columns: Arc::clone(&self.columns),
                    window: Arc::clone(&self.window),
                    masks: Arc::clone(masks),
                    entry: entry.clone(),
                    first,
                };
                let (projection, schema) = (Arc::clone(&projection), Arc::clone(&self.target.schema));
                let work = move |batch: RecordBatch| extract.of(&projection.apply(&batch, &schema)?);
                let Some((rows, more)) = group.next(env, work).await? else { break };
                first = first.saturating_add(rows);
                found.merge(more);
            }
        }
        if first != entry.rows {
            let what = format!("{first} rows came of {}", entry.rows);
            return Err(Error::new(ErrorKind::Corrupt, what));
        }
        Ok(found)
    }

    /// The columns that say where rows are, and those that deletes compare.
    fn ids(&self, deletes: &[DeleteEntry]) -> Vec<i32> {
        let compared = deletes.iter().filter_map(|entry| match &entry.kind {
            DeleteKind::Equality(ids) => Some(ids.iter().copied()),
            _ => None,
        });
        let ids: BTreeSet<i32> = self.columns.each().map(|column| column.id).chain(compared.flatten()).collect();
        ids.into_iter().collect()
    }

    /// The table's columns that are or hold one of these.
    fn wanted(&self, ids: &[i32]) -> ArrowSchemaRef {
        let all = &self.target.nullable;
        let roots: BTreeSet<usize> = ids.iter().filter_map(|id| column_path(all, *id)?.first().copied()).collect();
        let fields = roots.into_iter().filter_map(|at| all.fields().get(at).cloned());
        Arc::new(ArrowSchema::new(fields.collect::<Vec<_>>()))
    }
}

/// What takes the offsets out of a batch.
struct Extract {
    columns: Arc<Columns>,
    window: Arc<Window>,
    masks: Arc<Masks>,
    entry: DataEntry,
    /// The place of the batch's first row in the file.
    first: u64,
}

impl Extract {
    fn of(&self, batch: &RecordBatch) -> Result<(u64, Found)> {
        let mut by_key = roaring::RoaringTreemap::new();
        let kept = self.masks.kept(&self.entry, self.first, batch, &mut by_key)?;
        let at = |column: &Column| {
            let path = column_path(&batch.schema(), column.id);
            let path = path.ok_or_else(|| Error::new(ErrorKind::Internal, format!("no column {}", column.name)))?;
            column_at(batch, &path)
        };
        let label = |column: &Option<Column>| Labels::of(column.as_ref().map(at).transpose()?);
        let offsets = at(&self.columns.offset)?;
        let offsets = cast(&offsets, &DataType::Int64).context(ErrorKind::Corrupt, || "offsets")?;
        let (topics, partitions) = (label(&self.columns.topic)?, label(&self.columns.partition)?);
        let found = collect(&topics, &partitions, offsets.as_primitive::<Int64Type>(), kept.as_ref(), &self.window);
        Ok((batch.num_rows() as u64, found))
    }
}

/// The offsets of rows by log, run by run.
fn collect(
    topics: &Labels,
    partitions: &Labels,
    offsets: &Int64Array,
    kept: Option<&BooleanArray>,
    window: &Window,
) -> Found {
    let mut runs = Runs::default();
    let mut without = 0;
    // The last row that has all, and its log.
    let mut last: Option<(usize, usize)> = None;
    for row in 0..offsets.len() {
        let offset = if offsets.is_valid(row) { u64::try_from(offsets.value(row)).ok() } else { None };
        let is_kept = kept.is_none_or(|kept| kept.value(row));
        let Some(offset) = offset.filter(|_| topics.has(row) && partitions.has(row)) else {
            without += u64::from(is_kept);
            continue;
        };
        let same = last.filter(|(before, _)| topics.same(*before, row) && partitions.same(*before, row));
        let log = match same {
            Some((_, log)) => log,
            None => {
                let (topic, partition) = (topics.text(row), partitions.text(row));
                runs.log(log_name(topic.as_deref(), partition.as_deref()), window)
            }
        };
        last = Some((row, log));
        runs.add(log, offset, is_kept);
    }
    Found { logs: runs.finish(), without }
}

/// A log of a batch, and the run of offsets that is open in it.
struct Open {
    name: String,
    range: Option<RangeInclusive<u64>>,
    seen: Seen,
    run: Option<(u64, u64)>,
}

#[derive(Default)]
struct Runs {
    places: BTreeMap<String, usize>,
    logs: Vec<Open>,
}

impl Runs {
    fn log(&mut self, name: String, window: &Window) -> usize {
        if let Some(at) = self.places.get(&name) {
            return *at;
        }
        self.places.insert(name.clone(), self.logs.len());
        self.logs.push(Open { range: window.of(&name), name, seen: Seen::default(), run: None });
        self.logs.len() - 1
    }

    fn add(&mut self, log: usize, offset: u64, is_kept: bool) {
        let Some(open) = self.logs.get_mut(log) else { return };
        if !open.range.as_ref().is_some_and(|range| range.contains(&offset)) {
            return;
        }
        if !is_kept {
            open.seen.deleted.insert(offset);
            return;
        }
        match &mut open.run {
            Some((_, last)) if last.checked_add(1) == Some(offset) => *last = offset,
            run => {
                if let Some((first, last)) = run.replace((offset, offset)) {
                    open.seen.add(first..=last);
                }
            }
        }
    }

    fn finish(self) -> Logs {
        let finished = self.logs.into_iter().map(|mut open| {
            if let Some((first, last)) = open.run {
                open.seen.add(first..=last);
            }
            (open.name, open.seen)
        });
        finished.filter(|(_, seen)| *seen != Seen::default()).collect()
    }
}
