//! What the files of tables say of logs, put together.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use futures::{FutureExt, StreamExt, stream};
use iceberg::spec::PartitionSpecRef;
use roaring::RoaringTreemap;

use crate::compact::files::{DataEntry, DeleteEntry, LiveFiles};
use crate::compact::masks::Reading;
use crate::compact::merge::Target;
use crate::env::Env;
use crate::error::{Error, Result};
use crate::model::table::TableState;
use crate::storage::Storage;
use crate::verify::columns::{Columns, Names};
use crate::verify::offsets::{Logs, Seen, fits};
use crate::verify::rows::{Chunk, Found, Table};
use crate::verify::sight::{self, Bounds, Deletes, Sight};
use crate::verify::window::Window;
use crate::write::layout::TableLayout;
use crate::write::properties::WriteProperties;

/// Chunks of files read at a time, and files of a chunk.
const PARALLEL: usize = 4;
const CHUNK_FILES: usize = 16;
/// Files that are read to find which hold a row that is there twice.
const COPIES_FILES_MAX: usize = 500;

/// Which files are read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Look {
    /// Those that bounds do not settle.
    Auto,
    /// None.
    Never,
    /// All that have rows in the window.
    Always,
}

/// A table at one moment.
#[derive(Debug, Clone, Copy)]
pub struct Subject<'a> {
    /// Where work runs.
    pub env: &'a Env,
    /// What reads its files.
    pub storage: &'a Storage,
    /// The table.
    pub state: &'a TableState,
    /// The branch.
    pub branch: &'a str,
    /// The columns that say where rows were.
    pub names: &'a Names,
}

/// What is asked.
#[derive(Debug, Clone)]
pub struct Request {
    /// The part of the logs.
    pub window: Arc<Window>,
    /// Which files are read.
    pub look: Look,
    /// Bytes that it may take, about.
    pub memory: u64,
}

/// A file of which it is not known which rows it has.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Unsettled {
    /// Where it is.
    pub file: String,
    /// Its rows.
    pub rows: u64,
    /// Why.
    pub why: String,
}

/// What was looked at.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Figures {
    /// Data files of the tables.
    pub files: u64,
    /// Of these, the ones that have no row in the window.
    pub outside: u64,
    /// The ones that bounds settled.
    pub by_bounds: u64,
    /// The ones that were read.
    pub read: u64,
}

/// What tables say of logs.
#[derive(Debug, Default)]
pub struct Evidence {
    pub(super) logs: Logs,
    /// Rows without a log or an offset.
    pub without: u64,
    /// Files that were not read, or could not be.
    pub unsettled: Vec<Unsettled>,
    /// What was looked at.
    pub figures: Figures,
}

/// A row that is there more than once, in one of its files.
#[derive(Debug)]
pub struct Copy {
    /// The log.
    pub log: String,
    /// The file.
    pub file: String,
    /// Those of its offsets that are elsewhere too, or in the file again.
    pub(super) offsets: RoaringTreemap,
}

impl Copy {
    /// Whether the file has a row of these offsets.
    pub fn has(&self, log: &str, first: u64, last: u64) -> bool {
        self.log == log && self.offsets.range_cardinality(first..=last) > 0
    }
}

/// The files of a table, and what their bounds say.
pub(super) struct Plan<'a> {
    pub(super) env: &'a Env,
    pub(super) storage: &'a Storage,
    pub(super) layout: TableLayout,
    pub(super) specs: Vec<PartitionSpecRef>,
    pub(super) live: LiveFiles,
    pub(super) columns: Arc<Columns>,
    pub(super) bounds: HashMap<String, Bounds>,
}

impl<'a> Plan<'a> {
    /// `None` for a branch without a snapshot.
    async fn of(subject: Subject<'a>) -> Result<Option<Self>> {
        let Subject { env, storage, state, branch, names } = subject;
        let columns = Arc::new(Columns::of(state.metadata.current_schema(), names)?);
        let Some(live) = LiveFiles::of(storage, state, branch).await? else { return Ok(None) };
        let bounds = sight::bounds(storage, state, branch, &columns).await?;
        let layout = TableLayout::from_state(state, None, &WriteProperties::default())?;
        let specs = state.metadata.partition_specs_iter().cloned().collect();
        Ok(Some(Self { env, storage, layout, specs, live, columns, bounds }))
    }

    fn sight(&self, file: &DataEntry, deletes: &[&DeleteEntry], request: &Request) -> Sight {
        let bounds = self.bounds.get(&file.location).cloned().unwrap_or_default();
        match bounds.sight(file.rows, !deletes.is_empty(), &request.window) {
            Sight::Dense(..) if request.look == Look::Always => Sight::Open("all are read"),
            sight => sight,
        }
    }

    fn table(&self, request: &Request) -> Result<Table<'_>> {
        Ok(Table {
            reading: Reading { env: self.env, storage: self.storage, bytes_max: request.memory / 2 / PARALLEL as u64 },
            target: Target::new(&self.layout)?,
            columns: Arc::clone(&self.columns),
            window: Arc::clone(&request.window),
            live: &self.live,
            specs: self.specs.iter().map(AsRef::as_ref).collect(),
        })
    }
}

/// Files that are read together: of one partition, because they have deletes in common.
fn chunks<'a>(files: Vec<(&DataEntry, Vec<&'a DeleteEntry>)>) -> Vec<Chunk<'a>> {
    let mut all: Vec<Chunk<'a>> = Vec::new();
    for (file, deletes) in files {
        let fits = |chunk: &&mut Chunk<'a>| {
            chunk.files.len() < CHUNK_FILES && chunk.files.iter().all(|other| other.partition == file.partition)
        };
        let own = match all.last_mut().filter(fits) {
            Some(chunk) => chunk,
            None => {
                all.push(Chunk { files: Vec::new(), deletes: Vec::new() });
                match all.last_mut() {
                    Some(chunk) => chunk,
                    None => continue,
                }
            }
        };
        own.files.push(file.clone());
        for entry in deletes {
            if !own.deletes.iter().any(|held| std::ptr::eq(*held, entry)) {
                own.deletes.push(entry);
            }
        }
    }
    all
}

impl Evidence {
    /// Adds what a table says of the window.
    ///
    /// # Errors
    /// `Config` when the table lacks a column; those of the store; `Corrupt` with the file for one that is not what its manifest
    /// says; `Unsupported` when the offsets do not fit into memory.
    pub async fn gather(&mut self, subject: Subject<'_>, request: &Request) -> Result<()> {
        match Plan::of(subject).await? {
            Some(plan) => self.add(&plan, request).await,
            None => Ok(()),
        }
    }

    pub(super) async fn add(&mut self, plan: &Plan<'_>, request: &Request) -> Result<()> {
        let deletes = Deletes::of(&plan.live);
        let (mut open, mut pending) = (Vec::new(), 0_u64);
        for file in &plan.live.data {
            let reaching = deletes.reaching(file, &plan.live);
            self.figures.files += 1;
            match plan.sight(file, &reaching, request) {
                Sight::Outside => self.figures.outside += 1,
                Sight::Dense(log, first, last) => {
                    self.figures.by_bounds += 1;
                    // A manifest may say any number.
                    fits(last.saturating_sub(first), request.memory / 4).map_err(|e| e.within(&file.location))?;
                    pending = pending.saturating_add(last.saturating_sub(first)).saturating_add(128);
                    if fits(pending, request.memory / 4).is_err() {
                        self.fits(request.memory)?;
                        pending = 0;
                    }
                    self.logs.entry(log).or_default().add(first..=last);
                }
                Sight::Open(why) if request.look == Look::Never => self.unsettled(file, why),
                Sight::Open(_) => open.push((file, reaching)),
            }
        }
        self.fits(request.memory)?;
        let table = &plan.table(request)?;
        let reads = chunks(open).into_iter().map(|chunk| {
            let read = async move {
                let found = table.read(&chunk).await?;
                Ok::<_, Error>((chunk.files, found))
            };
            read.boxed()
        });
        let mut reads = stream::iter(reads).buffer_unordered(PARALLEL);
        while let Some(read) = reads.next().await {
            let (files, found) = read?;
            for (file, found) in files.iter().zip(found) {
                match found {
                    Ok(found) => self.take(found),
                    Err(error) => self.unsettled(file, &error.to_string()),
                }
            }
            self.fits(request.memory)?;
        }
        self.unsettled.sort();
        Ok(())
    }

    /// Notes rows of an epoch that is decided, and that a table does not have yet: what is missing may be these.
    pub fn not_in(&mut self, table: &str, rows: u64) {
        let why = "they are of an epoch that is decided and not in yet: let the pipeline finish it, and look again";
        self.unsettled.push(Unsettled { file: table.to_owned(), rows, why: why.to_owned() });
    }

    /// Notes a table of which nothing was read.
    pub fn pass_over(&mut self, table: &str) {
        let why = "nothing is read".to_owned();
        self.unsettled.push(Unsettled { file: table.to_owned(), rows: 0, why });
    }

    fn take(&mut self, found: Found) {
        self.figures.read += 1;
        self.without = self.without.saturating_add(found.without);
        for (log, seen) in found.logs {
            self.logs.entry(log).or_default().merge(seen);
        }
    }

    fn unsettled(&mut self, file: &DataEntry, why: &str) {
        self.unsettled.push(Unsettled { file: file.location.clone(), rows: file.rows, why: why.to_owned() });
    }

    fn fits(&mut self, memory: u64) -> Result<()> {
        let bytes = |logs: &Logs| logs.values().map(Seen::bytes).fold(0, u64::saturating_add);
        if bytes(&self.logs) <= memory / 2 {
            return Ok(());
        }
        self.logs.values_mut().for_each(Seen::shrink);
        if bytes(&self.logs) <= memory / 2 {
            return Ok(());
        }
        fits(u64::MAX, memory.min(1 << 60))
    }
}

/// The files that hold rows which are there more than once, with these rows; at most some hundreds of files are read for it.
///
/// # Errors
/// As [`Evidence::gather`].
pub async fn copies(
    subject: Subject<'_>,
    request: &Request,
    twice: &BTreeMap<String, RoaringTreemap>,
) -> Result<Vec<Copy>> {
    match Plan::of(subject).await? {
        Some(plan) => copies_of(&plan, request, twice).await,
        None => Ok(Vec::new()),
    }
}

pub(super) async fn copies_of(
    plan: &Plan<'_>,
    request: &Request,
    twice: &BTreeMap<String, RoaringTreemap>,
) -> Result<Vec<Copy>> {
    let deletes = Deletes::of(&plan.live);
    let (mut found, mut open) = (Vec::new(), Vec::new());
    let among = |first: u64, last: u64| twice.values().any(|set| set.range_cardinality(first..=last) > 0);
    for file in &plan.live.data {
        let reaching = deletes.reaching(file, &plan.live);
        match plan.sight(file, &reaching, request) {
            Sight::Outside => {}
            Sight::Dense(log, first, last) => {
                let mut offsets = RoaringTreemap::new();
                offsets.insert_range(first..=last);
                push(&mut found, log, file, offsets, twice);
            }
            Sight::Open(_) => {
                let offsets = plan.bounds.get(&file.location).and_then(|bounds| bounds.offsets);
                if offsets.is_none_or(|(first, last)| first <= last && among(first, last)) {
                    open.push((file, reaching));
                }
            }
        }
    }
    if request.look == Look::Never {
        return Ok(found);
    }
    open.truncate(COPIES_FILES_MAX);
    let table = plan.table(request)?;
    for chunk in chunks(open) {
        for (file, read) in chunk.files.iter().zip(table.read(&chunk).await?) {
            for (log, seen) in read.map(|read| read.logs).unwrap_or_default() {
                push(&mut found, log, file, seen.live, twice);
            }
        }
    }
    Ok(found)
}

fn push(
    found: &mut Vec<Copy>,
    log: String,
    file: &DataEntry,
    mut offsets: RoaringTreemap,
    twice: &BTreeMap<String, RoaringTreemap>,
) {
    let Some(wanted) = twice.get(&log) else { return };
    offsets &= wanted;
    if !offsets.is_empty() {
        found.push(Copy { log, file: file.location.clone(), offsets });
    }
}
