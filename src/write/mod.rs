//! Rows to data files: [`EpochWriter`] takes an epoch's batches for one table and gives [`Staged`] files for its commit.
//!
//! Rows wait as Arrow batches per partition, which costs what they weigh, and are encoded when a partition has enough of
//! them for a Parquet writer to pay, when too many wait, or at the seal. So hundreds of open partitions need no hundreds of
//! Parquet writers.

mod align;
pub mod budget;
mod columns;
mod dictionary;
mod encoder;
pub mod layout;
pub(crate) mod metrics;
pub mod open_files;
pub mod parquet;
pub(crate) mod partition;
pub(crate) mod path;
mod pending;
pub mod properties;
pub(crate) mod shape;
pub(crate) mod sort;
pub mod staged;
mod transform;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use arrow::datatypes::SchemaRef;
use arrow::record_batch::RecordBatch;
use futures::stream::{self, StreamExt};
use iceberg::spec::{DataFile, Struct};

use crate::env::Env;
use crate::error::{Error, ErrorKind, Result};
use crate::write::align::align;
use crate::write::budget::{Budget, Grant};
use crate::write::dictionary::SAMPLE_ROWS;
use crate::write::layout::TableLayout;
use crate::write::open_files::{FINISHED_AT_ONCE, OpenFiles, Place};
use crate::write::parquet::{DataFileWriter, Files};
use crate::write::partition::{Group, Splitter};
use crate::write::pending::Pending;
use crate::write::shape::FileShape;
use crate::write::sort::Sorter;
use crate::write::staged::Staged;

/// Limits of one [`EpochWriter`].
#[derive(Debug, Clone)]
pub struct WriterOptions {
    /// Places for Parquet writers while rows come in; where there is none the rows of further partitions wait.
    pub open_files: OpenFiles,
    /// First part of file names, such as the number of the writer: `<prefix>-<uuid>-<nnnnn>.parquet`.
    pub file_prefix: String,
    /// Bytes of rows that a partition gathers before they are encoded.
    pub encode_bytes: u64,
    /// Bytes of rows that all partitions together gather; over it the largest is encoded early, if it has `encode_bytes`.
    /// Matters for tables with a sort order, whose partitions gather more than that.
    pub gather_bytes_max: u64,
    /// Bytes in memory, over which the partition with the most is completed: an early file, in case nobody seals.
    pub held_bytes_max: u64,
    /// Bytes of rows that share memory over partitions before each partition gets its own copy: so much memory may be
    /// held beyond what [`EpochWriter::memory`] says.
    pub shared_bytes_max: u64,
    /// For tables with a sort order, instead of `encode_bytes`: rows of one file up to this are sorted as a whole. A
    /// larger file consists of several sorted runs and is not marked as sorted.
    pub sort_bytes_max: u64,
    /// Files encoded and completed at a time when the epoch is sealed.
    pub finish_concurrency: usize,
    /// Whether rows come in the table's sort order: they are not sorted again, and every file is marked as sorted.
    pub presorted: bool,
    /// For tables with a sort order: whether a file is completed after each sorted run, however small it is.
    pub a_file_per_run: bool,
    /// Columns of a file encoded at a time.
    pub column_concurrency: usize,
    /// Bytes that a thousand bytes of rows come to in a file, as far as is known.
    pub density: u64,
}

impl Default for WriterOptions {
    fn default() -> Self {
        const MIB: u64 = 1024 * 1024;
        Self {
            open_files: OpenFiles::of_one(64),
            file_prefix: "00000".to_owned(),
            encode_bytes: 4 * MIB,
            gather_bytes_max: 256 * MIB,
            held_bytes_max: 512 * MIB,
            shared_bytes_max: 16 * MIB,
            sort_bytes_max: 128 * MIB,
            finish_concurrency: FINISHED_AT_ONCE,
            presorted: false,
            a_file_per_run: false,
            column_concurrency: 1,
            density: 1000,
        }
    }
}

/// How far an epoch's files are.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Fill {
    /// Files that have reached their size.
    pub full: u64,
    /// Partitions whose rows do not make a file of three quarters of that: compaction would have to take it up again.
    pub short: u64,
}

impl Fill {
    /// Whether no file becomes better by waiting.
    pub fn is_full(self) -> bool {
        self.full > 0 && self.short == 0
    }

    /// Both.
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        Self { full: self.full + other.full, short: self.short + other.short }
    }
}

/// A row that has no place in the table's layout.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RejectedRow {
    /// Its number in the batch.
    pub row: usize,
    /// The column or partition field concerned.
    pub field: String,
    /// Why, as a sentence without a full stop.
    pub reason: String,
}

/// Writes one epoch's rows of one table.
///
/// Never waits for memory: who feeds it watches [`Budget::over`] and seals. Its methods are not cancel-safe: after a
/// dropped future only [`EpochWriter::discard`] is of use. Dropped without `finish` or `discard` it leaves files behind
/// for the orphan sweep.
#[derive(Debug)]
pub struct EpochWriter {
    shared: Arc<Shared>,
    splitter: Option<Arc<Splitter>>,
    open: BTreeMap<Box<[u8]>, Part>,
    done: Vec<DataFile>,
    grant: Grant,
    rows: u64,
    /// Bytes of the values of these rows in memory.
    weight: u64,
    /// Bytes of batches that were split since all partitions settled.
    unsettled: u64,
}

/// What files need while they are finished side by side.
#[derive(Debug)]
struct Shared {
    shape: Arc<FileShape>,
    sorter: Option<Arc<Sorter>>,
    files: Files,
    env: Env,
    names: Arc<Mutex<Names>>,
    options: WriterOptions,
}

#[derive(Debug)]
struct Names {
    prefix: String,
    /// Locations of all files that were started.
    started: Vec<String>,
}

/// A batch on its way into partitions.
struct Taken {
    groups: Vec<Group>,
    weight: u64,
    rejected: Vec<RejectedRow>,
}

impl Taken {
    /// As the one group of a table that is not partitioned.
    fn whole(batch: RecordBatch, schema: &SchemaRef) -> Result<Self> {
        let aligned = align(batch, schema)?;
        let weight = pending::weight(&aligned.rows);
        let group = Group { key: Box::default(), partition: Struct::empty(), rows: aligned.rows };
        Ok(Self { groups: vec![group], weight, rejected: aligned.rejected })
    }

    fn split(batch: RecordBatch, schema: &SchemaRef, splitter: &Splitter) -> Result<Self> {
        let mut aligned = align(batch, schema)?;
        let split = splitter.split(&aligned.rows)?;
        let mut rejected = std::mem::take(&mut aligned.rejected);
        let original = |failed: RejectedRow| RejectedRow { row: aligned.origin(failed.row), ..failed };
        rejected.extend(split.failed.into_iter().map(original));
        rejected.sort_by_key(|row| row.row);
        Ok(Self { groups: split.groups, weight: pending::weight(&aligned.rows), rejected })
    }
}

/// A partition with rows that are not in a complete file.
#[derive(Debug)]
struct Part {
    partition: Struct,
    pending: Pending,
    file: Option<DataFileWriter>,
    /// That of `file`.
    place: Option<Place>,
    /// How many times rows were added to `file`: each is sorted in itself.
    runs: u32,
}

impl Part {
    fn memory(&self) -> u64 {
        self.pending.bytes() + self.file.as_ref().map_or(0, DataFileWriter::memory)
    }

    /// Whether it has a place for its file, or gets one. A file that was completed to make room would be a short one, and the next
    /// rows of its partition would begin another: where more partitions than files are written to at once, rows wait instead, and
    /// the budget ends the epoch when they are too many.
    fn may_encode(&mut self, begin: impl FnOnce() -> Option<Place>) -> bool {
        if self.place.is_none() {
            self.place = begin();
        }
        self.place.is_some()
    }

    /// Bytes of its file, when a thousand bytes of rows that wait come to `density`.
    fn size(&self, density: u64) -> u64 {
        let waiting = self.pending.bytes().saturating_mul(density) / 1000;
        waiting + self.file.as_ref().map_or(0, DataFileWriter::bytes_written)
    }
}

impl EpochWriter {
    /// A writer for a table of this layout.
    ///
    /// # Errors
    /// `Unsupported` or `Corrupt` when the layout cannot be written: a type without Arrow form, a transform that is not
    /// known or whose source lies in a list or map.
    pub fn new(layout: TableLayout, files: Files, budget: &Budget, env: Env, options: WriterOptions) -> Result<Self> {
        let names = Names { prefix: format!("{}-{}", options.file_prefix, env.uuid()), started: Vec::new() };
        let names = Arc::new(Mutex::new(names));
        let (shared, splitter) = Shared::new(layout, files, env, names, options)?;
        Ok(Self {
            shared: Arc::new(shared),
            splitter,
            open: BTreeMap::new(),
            done: Vec::new(),
            grant: budget.hold(0),
            rows: 0,
            weight: 0,
            unsettled: 0,
        })
    }

    /// Takes rows. Those without a place in the layout come back with their reasons; the others are in the epoch.
    ///
    /// # Errors
    /// `Unavailable` and other kinds of storage; `Internal` when the batch does not fit the layout. The epoch is lost then.
    pub async fn write(&mut self, batch: RecordBatch) -> Result<Vec<RejectedRow>> {
        let schema = Arc::clone(&self.shared.shape.schema);
        let taken = match self.splitter.clone() {
            None => Taken::whole(batch, &schema)?,
            Some(splitter) => self.shared.env.offload(move || Taken::split(batch, &schema, &splitter)).await??,
        };
        self.gather(taken.groups, taken.weight).await?;
        self.stay_within_limits().await?;
        self.grant.resize(self.memory());
        Ok(taken.rejected)
    }

    /// Goes on with other columns: what was taken so far is completed under the old ones. Spec and order may change too.
    ///
    /// # Errors
    /// As [`EpochWriter::new`] and [`EpochWriter::write`].
    pub async fn evolve(&mut self, layout: TableLayout) -> Result<()> {
        let (files, env, names) = (&self.shared.files, &self.shared.env, &self.shared.names);
        let options = self.shared.options.clone();
        let (shared, splitter) = Shared::new(layout, files.clone(), env.clone(), Arc::clone(names), options)?;
        self.complete_all().await?;
        self.shared = Arc::new(shared);
        self.splitter = splitter;
        self.grant.resize(self.memory());
        Ok(())
    }

    /// Rows taken.
    pub fn rows(&self) -> u64 {
        self.rows
    }

    /// Bytes in memory; what the budget counts.
    pub fn memory(&self) -> u64 {
        self.open.values().map(Part::memory).sum()
    }

    /// Bytes of the rows taken, in memory.
    pub fn weight(&self) -> u64 {
        self.weight
    }

    /// Bytes of files so far, complete or not. Rows that wait count with what they will come to, as far as is known.
    pub fn bytes(&self) -> u64 {
        let open: u64 = self.open.values().map(|part| part.size(self.shared.options.density)).sum();
        open + self.done.iter().map(DataFile::file_size_in_bytes).sum::<u64>()
    }

    /// How far the files are on their way to the target size.
    pub fn fill(&self) -> Fill {
        let target = self.shared.shape.layout.properties.target_file_bytes;
        let enough = target - target / 4;
        // A file is closed by its estimated size: what its last pages come to is a little less.
        let full = self.done.iter().filter(|file| file.file_size_in_bytes() >= enough).count() as u64;
        let short = self.open.values().filter(|part| part.size(self.shared.options.density) < enough).count() as u64;
        Fill { full, short }
    }

    /// Completes all files.
    ///
    /// # Errors
    /// As [`EpochWriter::write`]; the files are removed then, as far as storage lets.
    pub async fn finish(mut self) -> Result<Staged> {
        let mut done = self.complete_all().await;
        let rows: u64 = self.done.iter().map(DataFile::record_count).sum();
        if done.is_ok() && rows != self.rows {
            let text = format!("table {}: {rows} rows in files of {}", self.shared.shape.layout.name, self.rows);
            done = Err(Error::new(ErrorKind::Internal, text));
        }
        if let Err(error) = done {
            if let Err(left) = self.discard().await {
                tracing::warn!(error = %left, "files of a failed epoch stay for the orphan sweep");
            }
            return Err(error);
        }
        let layout = &self.shared.shape.layout;
        let mut files = self.done;
        files.sort_by(|a, b| a.file_path().cmp(b.file_path()));
        Ok(Staged {
            table: layout.name.clone(),
            schema: Arc::clone(&layout.schema),
            spec: Arc::clone(&layout.spec),
            rows,
            bytes: files.iter().map(DataFile::file_size_in_bytes).sum(),
            files,
        })
    }

    /// Gives the epoch up and removes its files. Only for files that were never part of a commit that was sent.
    ///
    /// # Errors
    /// The first one of storage; files that are left are for the orphan sweep.
    pub async fn discard(mut self) -> Result<()> {
        let mut answer = Ok(());
        for mut file in std::mem::take(&mut self.open).into_values().filter_map(|part| part.file) {
            answer = answer.and(file.abort().await);
        }
        let started = std::mem::take(&mut self.shared.names.lock().unwrap_or_else(PoisonError::into_inner).started);
        if !started.is_empty() {
            answer = answer.and((self.shared.files.remove)(started).await);
        }
        answer
    }

    /// Adds rows to their partitions; encodes those that have enough.
    async fn gather(&mut self, groups: Vec<Group>, weight: u64) -> Result<()> {
        let enough = match self.shared.sorter() {
            Some(_) => self.shared.options.sort_bytes_max,
            None => self.shared.options.encode_bytes,
        };
        let rows: u64 = groups.iter().map(|group| group.rows.num_rows() as u64).sum();
        self.rows += rows;
        self.weight += weight;
        let shared = groups.len() > 1;
        for Group { key, partition, rows: own } in groups {
            if own.num_rows() == 0 {
                continue;
            }
            let share = weight.saturating_mul(own.num_rows() as u64) / rows.max(1);
            let part = self.open.entry(key.clone()).or_insert_with(|| Part {
                partition,
                pending: Pending::default(),
                file: None,
                place: None,
                runs: 0,
            });
            part.pending.push(own, share, shared)?;
            if part.pending.bytes() >= enough && part.may_encode(|| self.shared.options.open_files.begin()) {
                self.encode(&key).await?;
            }
        }
        self.unsettled += if shared { weight } else { 0 };
        if self.unsettled > self.shared.options.shared_bytes_max { self.settle().await } else { Ok(()) }
    }

    /// Gives every partition its own memory, so that one which gets few rows does not hold on to everybody's.
    async fn settle(&mut self) -> Result<()> {
        let mut pending: Vec<Pending> = self.open.values_mut().map(|part| std::mem::take(&mut part.pending)).collect();
        let settled = move || pending.iter_mut().try_for_each(Pending::settle).map(|()| pending);
        let settled = self.shared.env.offload(settled).await??;
        for (part, own) in self.open.values_mut().zip(settled) {
            part.pending = own;
        }
        self.unsettled = 0;
        Ok(())
    }

    /// Encodes the rows of a partition that wait, and completes its file when that is large enough.
    async fn encode(&mut self, key: &[u8]) -> Result<()> {
        let Some(part) = self.open.get_mut(key) else {
            return Ok(());
        };
        self.shared.encode(part).await?;
        let target = self.shared.shape.layout.properties.target_file_bytes;
        let full = |file: &DataFileWriter| self.shared.options.a_file_per_run || file.bytes_written() >= target;
        if part.file.as_ref().is_some_and(full) {
            self.complete(key).await?;
        }
        Ok(())
    }

    async fn complete(&mut self, key: &[u8]) -> Result<()> {
        if let Some(part) = self.open.remove(key) {
            self.done.extend(self.shared.complete(part).await?);
        }
        Ok(())
    }

    async fn stay_within_limits(&mut self) -> Result<()> {
        while self.open.values().map(|part| part.pending.bytes()).sum::<u64>() > self.shared.options.gather_bytes_max {
            let mut place = self.shared.options.open_files.begin();
            let can = self.open.iter_mut().filter(|(_, part)| place.is_some() || part.place.is_some());
            let largest = can.max_by_key(|(_, part)| part.pending.bytes());
            // A Parquet writer keeps rows as they are until they fill a page, and more besides: encoding less frees nothing.
            let worth = largest.filter(|(_, part)| part.pending.bytes() >= self.shared.options.encode_bytes);
            let Some((key, part)) = worth else {
                break;
            };
            part.may_encode(|| place.take());
            drop(place);
            let key = key.clone();
            self.encode(&key).await?;
        }
        while self.memory() > self.shared.options.held_bytes_max {
            let Some(key) = self.open.iter().max_by_key(|(_, part)| part.memory()).map(|(key, _)| key.clone()) else {
                break;
            };
            self.complete(&key).await?;
        }
        Ok(())
    }

    async fn complete_all(&mut self) -> Result<()> {
        let parts = std::mem::take(&mut self.open);
        let shared = &self.shared;
        let mut answers = stream::iter(parts.into_values().map(|part| shared.complete(part)))
            .buffer_unordered(self.shared.options.finish_concurrency.max(1));
        // After a failure the others are waited for all the same: dropped half-way they would leave parts behind.
        let mut failed = Ok(());
        while let Some(answer) = answers.next().await {
            match answer {
                Ok(file) => self.done.extend(file),
                Err(error) => failed = failed.and(Err(error)),
            }
        }
        failed
    }
}

impl Shared {
    fn new(
        layout: TableLayout,
        files: Files,
        env: Env,
        names: Arc<Mutex<Names>>,
        options: WriterOptions,
    ) -> Result<(Self, Option<Arc<Splitter>>)> {
        let shape = Arc::new(FileShape::new(layout)?);
        let splitter = Splitter::new(&shape.layout, &shape.schema)?.map(Arc::new);
        let sorter = Sorter::new(&shape.layout, &shape.schema)?.map(Arc::new);
        Ok((Self { shape, sorter, files, env, names, options }, splitter))
    }

    /// What sorts rows that do not come in order.
    fn sorter(&self) -> Option<&Arc<Sorter>> {
        self.sorter.as_ref().filter(|_| !self.options.presorted)
    }

    async fn encode(&self, part: &mut Part) -> Result<()> {
        let Some(batches) = part.pending.take() else {
            return Ok(());
        };
        let (sorter, schema, sampled) = (self.sorter().cloned(), Arc::clone(&self.shape.schema), part.file.is_none());
        let prepare = move || -> Result<_> {
            let batches = match sorter {
                Some(sorter) => vec![sorter.sort(&schema, &batches)?],
                None => pending::coalesced(batches)?,
            };
            let sample = if sampled { pending::head(&batches, SAMPLE_ROWS)? } else { None };
            Ok((sample, batches))
        };
        let (sample, batches) = self.env.offload(prepare).await??;
        let file = match (&mut part.file, sample) {
            (Some(file), _) => file,
            (None, None) => return Ok(()),
            (none, Some(sample)) => {
                let location = self.next_location(&part.partition)?;
                let partition = part.partition.clone();
                part.runs = 0;
                let (shape, columns) = (&self.shape, self.options.column_concurrency);
                let open = DataFileWriter::open(shape, &self.files, &self.env, columns, location, partition, &sample);
                none.insert(open.await?)
            }
        };
        part.runs += 1;
        file.write(batches).await
    }

    /// Encodes what waits and completes the file; `None` when there were no rows. A file that fails is given up.
    async fn complete(&self, mut part: Part) -> Result<Option<DataFile>> {
        if part.place.is_none() {
            part.place = Some(self.options.open_files.finish().await?);
        }
        let mut done = self.encode(&mut part).await.map(|()| None);
        let order =
            self.sorter.as_ref().filter(|_| self.options.presorted || part.runs == 1).map(|sorter| sorter.order_id());
        if let (Ok(_), Some(file)) = (&done, &mut part.file) {
            done = file.finish(order).await.map(Some);
        }
        if let (Err(_), Some(file)) = (&done, &mut part.file)
            && let Err(error) = file.abort().await
        {
            tracing::warn!(error = %error, "an unfinished file stays behind for the orphan sweep");
        }
        done
    }

    fn next_location(&self, partition: &Struct) -> Result<String> {
        let mut names = self.names.lock().unwrap_or_else(PoisonError::into_inner);
        let name = format!("{}-{:05}.parquet", names.prefix, names.started.len() + 1);
        let location = self.shape.layout.file_location(partition, &name)?;
        names.started.push(location.clone());
        Ok(location)
    }
}

#[cfg(test)]
pub(crate) mod tests;
