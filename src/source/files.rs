//! A folder or object prefix, followed as it grows: each file once, in byte order of the names below it.
//!
//! **Position.** Every name at or below the watermark is dealt with. The newest file is *open*: it is followed while it
//! grows, and closed, which moves the watermark to it, when a later name exists and its end is reached (compressed files
//! also when they end well and stay unchanged over two polls). `until_end` closes it too. So a file must be whole when
//! it appears (renamed into place, or an object), or be the newest until it is.
//!
//! **Late files.** A name that appears below the open file's is read next. One at or below the watermark that was in no
//! listing of this process is read too and joins the bounded list of exceptions. After a restart, what lies at or below
//! the watermark counts as read: a file that appeared there while nothing ran is reported and not read, because reading it
//! could double rows. So names must sort after those before them, as times and counters do.
//!
//! **A last line without newline** is a row once its file has a successor, has not changed over two polls, or `until_end`.
//!
//! **What is refused, with one reject:** the rest of a file that shrank, was replaced or vanished while it was open, whose
//! compression is damaged, or that unpacks to more than `expansion_max` times its size. Then the file is closed. A file that
//! changes after it was closed is reported and not read again.
//!
//! Names that end in `.tmp`, `.part` or `.inprogress`, and names with a part that begins with `.` or `_`, are not there.
//!
//! A path that names one file is followed as a folder in which that file alone is to be read.
//!
//! Memory: two chunks of a file, a few batches, one row of at most `row_bytes_max`, and what `listing` says.

use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use futures::FutureExt;
use futures::future::BoxFuture;
use globset::{GlobBuilder, GlobMatcher};
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt};

use crate::config::FilesConfig;
use crate::env::Env;
use crate::error::{Context, Error, ErrorKind, Result};
use crate::model::batch::RawBatch;
use crate::model::checkpoint::{Checkpoint, FilesPosition, OpenFile, Position, Range};
use crate::model::ids::PartitionId;
use crate::source::framing::{Cut, Sizes};
use crate::source::listing::{Found, Inventory, Standpoint, store_error};
use crate::source::reader::{Common, Progress, Reader};
use crate::source::{Behind, Notes, Source, SourceEvent};

/// The shortest wait between two looks.
const POLL_MIN: Duration = Duration::from_millis(10);

/// Sizes that have good defaults.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FilesOptions {
    /// Bytes of one request to the store.
    pub chunk_bytes: u64,
    /// Bytes at which a batch is closed.
    pub batch_bytes: usize,
    /// Rows at which a batch is closed.
    pub batch_rows: usize,
    /// Whether the first line of a file, after `skip_lines`, names the values of its rows.
    pub header: bool,
    /// Whether lines of white space alone are rows.
    pub blank_rows: bool,
    /// Plain bytes of a compressed file below which `expansion_max` does not matter.
    pub bomb_floor: u64,
    /// New names that one listing keeps; the rest is listed again.
    pub pending_max: usize,
    /// Files that are done up to which every poll lists the whole folder; with n times as many every (n + 1)th does.
    pub names_per_poll: usize,
    /// Files that are done and still there; more halt the source.
    pub names_max: usize,
}

impl Default for FilesOptions {
    fn default() -> Self {
        Self {
            chunk_bytes: 4 << 20,
            batch_bytes: 1 << 20,
            batch_rows: 8_192,
            header: false,
            blank_rows: false,
            bomb_floor: 64 << 20,
            pending_max: 16_384,
            names_per_poll: 10_000,
            names_max: 1_000_000,
        }
    }
}

/// What the source noticed since it was made.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct FilesCounters {
    /// Files that were closed.
    pub files: u64,
    /// Of these, files below the watermark.
    pub late: u64,
    /// Files below the watermark that may or may not have been read before a restart; they are not read.
    pub late_unknown: u64,
    /// Files that had another size after they were closed; what came later is not read.
    pub changed_after_close: u64,
    /// Names that are not text.
    pub unreadable_names: u64,
}

/// A followed folder or object prefix: one partition, named by the configured path.
pub struct FilesSource {
    config: FilesConfig,
    location: Arc<str>,
    partition: PartitionId,
    /// What origins begin with: `location`, or the folder of the one file that it names.
    folder: Arc<str>,
    store: Arc<dyn ObjectStore>,
    prefix: Path,
    glob: Option<GlobMatcher>,
    options: FilesOptions,
    env: Env,
    counters: FilesCounters,
    state: State,
}

/// What `open` begins anew.
struct State {
    /// Where reading stands.
    position: FilesPosition,
    /// Where the last batch ended.
    given: Option<Position>,
    ready: VecDeque<RawBatch>,
    /// The file above the watermark.
    main: Option<Reader>,
    /// A file that appeared below the open one or the watermark; it goes first.
    late: Option<Reader>,
    pending: BTreeSet<String>,
    late_names: BTreeSet<String>,
    more: bool,
    looked: bool,
    /// What the last listing found, less the files closed since.
    behind: Behind,
    inventory: Option<Inventory>,
    listing: Option<BoxFuture<'static, (Inventory, Result<Found>)>>,
    wait: Option<BoxFuture<'static, ()>>,
}

/// Which of the two readers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Slot {
    Main,
    Late,
}

impl FilesSource {
    /// Follows `prefix` of `store`, which is `config.path` to people.
    ///
    /// # Errors
    /// `Config` when the glob is none.
    pub fn new(config: FilesConfig, store: Arc<dyn ObjectStore>, prefix: Path, env: Env) -> Result<Self> {
        let glob = match config.glob.as_str() {
            "" | "**" | "**/*" => None,
            glob => {
                let glob = GlobBuilder::new(glob).literal_separator(true).build();
                let glob = glob.context(ErrorKind::Config, || format!("glob {:?} of {}", config.glob, config.path))?;
                Some(glob.compile_matcher())
            }
        };
        let location: Arc<str> = config.path.trim_end_matches('/').into();
        Ok(Self {
            partition: PartitionId::new(config.path.as_str()),
            folder: Arc::clone(&location),
            location,
            config,
            store,
            prefix,
            glob,
            options: FilesOptions::default(),
            env,
            counters: FilesCounters::default(),
            state: State::at(FilesPosition::default(), None),
        })
    }

    /// The same source with other sizes. Call before `open`.
    #[must_use]
    pub fn with_options(mut self, options: FilesOptions) -> Self {
        self.options = options;
        self
    }

    /// What was noticed since the source was made.
    pub fn counters(&self) -> FilesCounters {
        self.counters
    }

    /// Sees whether the path names one file; asked until something was found below it. Cancel-safe.
    async fn narrow(&mut self) -> Result<()> {
        let found = self.folder != self.location || self.state.position != FilesPosition::default();
        if found || self.state.main.is_some() || self.state.behind.files > 0 {
            return Ok(());
        }
        let Some(name) = self.prefix.filename().map(str::to_owned) else { return Ok(()) };
        let meta = match self.store.head(&self.prefix).await {
            Ok(meta) => meta,
            Err(object_store::Error::NotFound { .. }) => return Ok(()),
            Err(error) => return Err(store_error(error, || format!("look at {}", self.location))),
        };
        // Some stores have empty objects that stand for folders.
        if meta.size == 0 && self.glob.as_ref().is_some_and(|glob| !glob.is_match(&name)) {
            return Ok(());
        }
        let glob = globset::escape(&name);
        let glob = GlobBuilder::new(&glob).literal_separator(true).build();
        self.glob = Some(glob.context(ErrorKind::Config, || format!("the name {name:?}"))?.compile_matcher());
        self.prefix = Path::from_iter(self.prefix.parts().take(self.prefix.parts_count().saturating_sub(1)));
        self.state.inventory = None;
        self.folder = self.location.strip_suffix(&format!("/{name}")).unwrap_or_default().into();
        Ok(())
    }

    fn inventory(&self) -> Inventory {
        let mut inventory =
            Inventory::new(self.store.clone(), self.prefix.clone(), self.location.clone(), self.glob.clone());
        inventory.pending_max = self.options.pending_max.max(1);
        inventory.names_per_poll = self.options.names_per_poll;
        inventory.names_max = self.options.names_max;
        inventory
    }

    fn reader(&self, name: &str, rows: u64, tag: String) -> Reader {
        let sizes = Sizes {
            batch_bytes: self.options.batch_bytes,
            batch_rows: self.options.batch_rows,
            skip_lines: self.config.skip_lines,
            header: self.options.header,
            blank_rows: self.options.blank_rows,
            ..Sizes::new(self.config.row_bytes_max)
        };
        let common = Common {
            env: self.env.clone(),
            store: self.store.clone(),
            sizes,
            chunk_bytes: self.options.chunk_bytes,
            expansion_max: self.config.expansion_max,
            bomb_floor: self.options.bomb_floor,
        };
        let origin = format!("{}/{name}", self.folder).into();
        Reader::new(common, self.inventory().path(name), name.to_owned(), origin, rows, tag)
    }

    /// One step; an event when it gave one.
    async fn step(&mut self) -> Result<Option<SourceEvent>> {
        if let Some(wait) = &mut self.state.wait {
            wait.await;
            self.state.wait = None;
            self.look(false).await?;
        }
        if !self.state.looked {
            self.look(false).await?;
        }
        if self.state.listing.is_some() {
            self.look(false).await?;
        }
        let Some(slot) = self.choose()? else { return self.nothing_left().await };
        let Some(reader) = self.state.slot(slot) else { return Ok(None) };
        match reader.advance().await? {
            Progress::Cuts(cuts) => self.give(slot, cuts, false),
            Progress::Broken(reason) => {
                let cut = reader.abandon(reason);
                self.give(slot, cut.into_iter().collect(), true);
            }
            Progress::AtEnd => return self.at_end(slot).await,
        }
        Ok(None)
    }

    /// The file to read on; opens the next one where none is open.
    fn choose(&mut self) -> Result<Option<Slot>> {
        let state = &mut self.state;
        if state.late.is_some() {
            return Ok(Some(Slot::Late));
        }
        let before_main =
            state.main.as_ref().and_then(|main| state.pending.first().filter(|name| **name < main.name)).cloned();
        if let Some(name) = state.late_names.first().cloned().or(before_main) {
            if name <= state.position.watermark && state.position.late.len() >= self.config.late_files_max {
                return Err(self.too_many_late(&name));
            }
            self.state.late_names.remove(&name);
            self.state.pending.remove(&name);
            self.state.late = Some(self.reader(&name, 0, String::new()));
            return Ok(Some(Slot::Late));
        }
        if state.main.is_none() {
            let Some(name) = state.pending.pop_first() else { return Ok(None) };
            self.state.main = Some(self.reader(&name, 0, String::new()));
        }
        Ok(Some(Slot::Main))
    }

    fn too_many_late(&self, name: &str) -> Error {
        let (most, watermark) = (self.config.late_files_max, &self.state.position.watermark);
        Error::new(
            ErrorKind::Corrupt,
            format!("{}/{name} appeared late, as {most} files (late_files_max) did before it", self.location),
        )
        .with_hint(format!(
            "give new files names that sort after {watermark}, or raise late_files_max: each late name stays in the checkpoint"
        ))
    }

    /// The end of what a file holds for now: closes it, or waits for more.
    async fn at_end(&mut self, slot: Slot) -> Result<Option<SourceEvent>> {
        let ended = match slot {
            Slot::Late => true,
            Slot::Main if self.state.pending.is_empty() && self.state.more => {
                self.look(true).await?;
                return Ok(None);
            }
            Slot::Main => !self.state.pending.is_empty() || self.config.until_end,
        };
        let Some(reader) = self.state.slot(slot) else { return Ok(None) };
        let settled = reader.is_settled();
        if ended || (settled && reader.is_packed()) {
            let cuts = reader.finish();
            self.give(slot, cuts, true);
            return Ok(None);
        }
        match reader.flush(settled) {
            Ok(Some(cut)) => {
                self.give(slot, vec![cut], false);
                Ok(None)
            }
            Ok(None) => Ok(Some(self.idle())),
            Err(reason) => {
                let cut = reader.abandon(reason);
                self.give(slot, cut.into_iter().collect(), true);
                Ok(None)
            }
        }
    }

    /// No file is open and none is pending.
    async fn nothing_left(&mut self) -> Result<Option<SourceEvent>> {
        if self.state.more {
            self.look(true).await?;
            return Ok(None);
        }
        if !self.config.until_end {
            return Ok(Some(self.idle()));
        }
        let to = Position::Files(self.state.position.clone());
        if self.state.position == FilesPosition::default() {
            tracing::warn!(folder = %self.location, "no files there");
            return Ok(Some(SourceEvent::End));
        }
        if self.state.given.as_ref() == Some(&to) {
            return Ok(Some(SourceEvent::End));
        }
        // Files that ended without rows: their end is worth remembering.
        let cut = Cut::default();
        let batch = self.batch(self.location.clone(), cut, to);
        Ok(Some(SourceEvent::Batch(batch)))
    }

    fn idle(&mut self) -> SourceEvent {
        let (env, poll) = (self.env.clone(), self.config.poll.max(POLL_MIN));
        self.state.wait = Some(async move { env.sleep(poll).await }.boxed());
        SourceEvent::Idle
    }

    /// Lists, and takes note of what was found. Cancel-safe: the listing goes on where it was.
    async fn look(&mut self, from_here: bool) -> Result<()> {
        if self.state.listing.is_none() {
            self.narrow().await?;
            let mut inventory = self.state.inventory.take().unwrap_or_else(|| self.inventory());
            let position = &self.state.position;
            let mut late = position.late.clone();
            late.extend(self.state.late.iter().map(|reader| reader.name.clone()));
            let open = self.state.main.as_ref().map(|reader| reader.name.clone());
            let at = Standpoint { watermark: position.watermark.clone(), open, late };
            self.state.listing = Some(
                async move {
                    let found = inventory.look(&at, from_here).await;
                    (inventory, found)
                }
                .boxed(),
            );
        }
        let Some(listing) = &mut self.state.listing else { return Ok(()) };
        let (inventory, found) = listing.await;
        self.state.listing = None;
        self.state.inventory = Some(inventory);
        self.note(found?);
        Ok(())
    }

    fn note(&mut self, found: Found) {
        let late = self.state.late.as_ref().map(|reader| reader.name.clone());
        let state = &mut self.state;
        state.looked = true;
        state.behind = found.behind;
        state.pending = found.pending;
        state.more = found.more;
        state.late_names.extend(found.late);
        if let Some(late) = late {
            state.pending.remove(&late);
        }
        if let Some(main) = &mut state.main {
            main.look(found.open.as_ref());
        }
        self.counters.late_unknown += found.unknowable;
        self.counters.unreadable_names += found.unreadable;
        self.counters.changed_after_close += found.changed;
        let (folder, watermark) = (&self.location, &self.state.position.watermark);
        if found.changed > 0 {
            tracing::warn!(%folder, watermark, files = found.changed, "files changed after they were read; what is new in them is not read");
        }
        if found.unreadable > 0 {
            tracing::warn!(%folder, files = found.unreadable, "names that are no text are passed over");
        }
    }

    /// Makes batches of rows that follow those before; `close` ends their file with the last of them.
    fn give(&mut self, slot: Slot, cuts: Vec<Cut>, close: bool) {
        let Some(reader) = self.state.slot(slot) else { return };
        let (origin, name, tag) = (reader.origin.clone(), reader.name.clone(), reader.tag.clone());
        let last = cuts.len();
        if close && last == 0 {
            self.close(slot);
        }
        for (cut, number) in cuts.into_iter().zip(1..) {
            if close && number == last {
                self.close(slot);
            } else {
                let open = Some(OpenFile { name: name.clone(), rows: cut.through, tag: tag.clone() });
                match slot {
                    Slot::Main => self.state.position.open = open,
                    Slot::Late => self.state.position.late_open = open,
                }
            }
            let to = Position::Files(self.state.position.clone());
            let batch = self.batch(origin.clone(), cut, to);
            self.state.ready.push_back(batch);
        }
    }

    fn batch(&mut self, origin: Arc<str>, cut: Cut, to: Position) -> RawBatch {
        let from = self.state.given.replace(to.clone());
        cut.into_batch(self.partition.clone(), origin, Range { from, to })
    }

    /// Deals with a file's end: the positions move past it.
    fn close(&mut self, slot: Slot) {
        let state = &mut self.state;
        let reader = match slot {
            Slot::Main => state.main.take(),
            Slot::Late => state.late.take(),
        };
        let Some(reader) = reader else { return };
        self.counters.files += 1;
        if slot == Slot::Main {
            state.behind.files = state.behind.files.saturating_sub(1);
            state.behind.bytes = state.behind.bytes.saturating_sub(reader.size());
        }
        if let Some(inventory) = &mut state.inventory {
            inventory.done(&reader.name, reader.size());
        }
        let position = &mut state.position;
        match slot {
            Slot::Main => position.open = None,
            Slot::Late => position.late_open = None,
        }
        if reader.name > position.watermark {
            position.watermark = reader.name;
        } else {
            position.late.insert(reader.name);
            self.counters.late += 1;
        }
    }
}

impl State {
    fn at(position: FilesPosition, given: Option<Position>) -> Self {
        Self {
            position,
            given,
            ready: VecDeque::new(),
            main: None,
            late: None,
            pending: BTreeSet::new(),
            late_names: BTreeSet::new(),
            more: false,
            looked: false,
            behind: Behind::default(),
            inventory: None,
            listing: None,
            wait: None,
        }
    }

    fn slot(&mut self, slot: Slot) -> Option<&mut Reader> {
        match slot {
            Slot::Main => self.main.as_mut(),
            Slot::Late => self.late.as_mut(),
        }
    }
}

#[async_trait]
impl Source for FilesSource {
    async fn open(&mut self, checkpoint: &Checkpoint) -> Result<()> {
        let identity = self.identity();
        if !checkpoint.source.is_empty() && checkpoint.source != identity {
            let context = format!("the checkpoint is of {}, the source follows {identity}", checkpoint.source);
            return Err(Error::new(ErrorKind::Corrupt, context)
                .with_hint("follow the same folder, or give the pipeline a new name if its rows are others"));
        }
        self.state = State::at(FilesPosition::default(), None);
        self.narrow().await?;
        let given = checkpoint.positions.get(&self.partition).cloned();
        let position = match &given {
            None => FilesPosition::default(),
            Some(Position::Files(position)) => position.clone(),
            Some(Position::Offset(_)) => {
                let context = format!("the checkpoint of {} is that of a log, not of followed files", self.partition);
                return Err(Error::new(ErrorKind::Corrupt, context));
            }
        };
        let read_on = |file: &OpenFile| self.reader(&file.name, file.rows, file.tag.clone());
        let (main, late) = (position.open.as_ref().map(read_on), position.late_open.as_ref().map(read_on));
        self.state = State { main, late, ..State::at(position, given) };
        Ok(())
    }

    async fn next(&mut self) -> Result<SourceEvent> {
        loop {
            if let Some(batch) = self.state.ready.pop_front() {
                return Ok(SourceEvent::Batch(batch));
            }
            if let Some(event) = self.step().await? {
                return Ok(event);
            }
        }
    }

    async fn release(&mut self, _checkpoint: &Checkpoint) -> Result<()> {
        Ok(())
    }

    fn identity(&self) -> String {
        self.location.to_string()
    }

    fn notes(&self) -> Notes {
        let taken = self.state.main.as_ref().map_or(0, Reader::taken);
        let behind = Behind { bytes: self.state.behind.bytes.saturating_sub(taken), ..self.state.behind };
        Notes { files: Some(self.counters), behind: Some(behind), ..Notes::default() }
    }
}

#[cfg(test)]
mod tests;
