//! One file, from its bytes at a store to rows.
//!
//! Bytes come in ranged requests with one read ahead; unpacking and cutting rows runs through `env.offload`. What is under
//! way is kept here, never in a caller's future, so that a dropped call loses nothing.
//!
//! A file may grow. That it is still the same file is told by content, which every store has: a checksum of its beginning
//! (the tag that travels in positions) and the last bytes before the place of reading, which each request reads again.

use std::sync::Arc;

use bytes::Bytes;
use flate2::Crc;
use futures::FutureExt;
use futures::future::BoxFuture;
use object_store::path::Path;
use object_store::{GetOptions, GetRange, ObjectMeta, ObjectStore, ObjectStoreExt};
use tokio_util::task::AbortOnDropHandle;

use crate::env::Env;
use crate::error::{Context, Error, ErrorKind, Result};
use crate::source::framing::{Cut, Framer, Sizes};
use crate::source::inflate::{Inflate, Piece};
use crate::source::listing::store_error;

/// Bytes at a file's beginning that its tag vouches for.
const HEAD_BYTES: usize = 4 * 1024;
/// Bytes before the place of reading that must be what they were.
const WITNESS_BYTES: usize = 64;
/// Bytes that one piece of unpacking fills.
const ROOM_BYTES: usize = 256 * 1024;
/// Plain bytes after which unpacking lets the rows go on.
const STEP_BYTES: u64 = 4 << 20;

/// What all files of a source have in common.
#[derive(Clone)]
pub(super) struct Common {
    pub(super) env: Env,
    pub(super) store: Arc<dyn ObjectStore>,
    pub(super) sizes: Sizes,
    pub(super) chunk_bytes: u64,
    pub(super) expansion_max: u64,
    /// Plain bytes below which no file is a bomb.
    pub(super) bomb_floor: u64,
}

/// What reading on gave.
#[derive(Debug)]
pub(super) enum Progress {
    /// Rows.
    Cuts(Vec<Cut>),
    /// All there is for now has been read.
    AtEnd,
    /// The rest of the file cannot be read, and why.
    Broken(String),
}

/// A file that is being read.
pub(super) struct Reader {
    pub(super) name: String,
    /// What a person would call the file.
    pub(super) origin: Arc<str>,
    /// What tells this file from another under the same name; empty until its first bytes were read.
    pub(super) tag: String,
    common: Common,
    path: Path,
    /// Bytes taken from the store so far, and the last of them.
    offset: u64,
    witness: Bytes,
    /// The file's size when it was last asked for.
    size: Option<u64>,
    seen: Option<Look>,
    /// Looks since the file last changed.
    unchanged: u32,
    must_verify: bool,
    starved: bool,
    broken: Option<String>,
    work: Option<Work>,
    job: Option<BoxFuture<'static, Result<(Work, Step)>>>,
    fetch: Option<AbortOnDropHandle<Result<Fetched, Lost>>>,
}

/// What a listing says about a file.
#[derive(Debug, PartialEq, Eq)]
struct Look {
    size: u64,
    tag: Option<String>,
    modified_ms: i64,
}

#[derive(Debug)]
struct Fetched {
    bytes: Bytes,
    size: u64,
}

/// Why a request gave nothing.
#[derive(Debug)]
enum Lost {
    Gone,
    Shrunk(u64),
    Failed(Error),
}

impl Reader {
    /// A reader of `name` at `path` that passes over `rows` rows, of a file with this tag when they were read.
    pub(super) fn new(common: Common, path: Path, name: String, origin: Arc<str>, rows: u64, tag: String) -> Self {
        let work = Work {
            inflate: Inflate::new(&name),
            framer: Framer::skipping(common.sizes, rows),
            room: vec![],
            plain: 0,
            packed: 0,
            expansion_max: common.expansion_max,
            bomb_floor: common.bomb_floor,
        };
        Self {
            name,
            origin,
            tag,
            common,
            path,
            offset: 0,
            witness: Bytes::new(),
            size: None,
            seen: None,
            unchanged: 0,
            must_verify: false,
            starved: true,
            broken: None,
            work: Some(work),
            job: None,
            fetch: None,
        }
    }

    /// Bytes taken from the store.
    pub(super) fn taken(&self) -> u64 {
        self.offset
    }

    /// The file's size when it was last asked for.
    pub(super) fn size(&self) -> u64 {
        self.size.unwrap_or(self.offset)
    }

    /// Whether the file has not changed over two looks.
    pub(super) fn is_settled(&self) -> bool {
        self.unchanged >= 2
    }

    /// Whether the file is compressed, as far as known.
    pub(super) fn is_packed(&self) -> bool {
        self.work.as_ref().is_some_and(|work| work.inflate.is_packed())
    }

    /// Takes note of what a listing says; `None` when the file is not in it. Call at the end of what there is only: what was
    /// listed before the last request is old.
    pub(super) fn look(&mut self, meta: Option<&ObjectMeta>) {
        let look = meta.map(|meta| Look {
            size: meta.size,
            tag: meta.e_tag.clone(),
            modified_ms: meta.last_modified.timestamp_millis(),
        });
        if look.is_some() && look == self.seen {
            self.unchanged = self.unchanged.saturating_add(1);
            return;
        }
        let grown = look.as_ref().is_some_and(|look| look.size > self.offset);
        // Anything but growth is believed from the store's own answer about the file only.
        self.must_verify = !grown && self.size.is_some();
        if let (true, Some(look)) = (grown, &look) {
            self.size = Some(look.size);
        }
        self.seen = look;
        self.unchanged = 0;
    }

    /// Reads on. Cancel-safe.
    pub(super) async fn advance(&mut self) -> Result<Progress> {
        loop {
            if let Some(job) = &mut self.job {
                let done = job.await;
                self.job = None;
                let (work, step) = done?;
                self.work = Some(work);
                self.starved = step.starved;
                self.broken = step.broken;
                if !step.cuts.is_empty() {
                    return Ok(Progress::Cuts(step.cuts));
                }
            }
            if let Some(reason) = self.broken.take() {
                return Ok(Progress::Broken(reason));
            }
            if !self.starved {
                let Some(mut work) = self.work.take() else { return Err(worker_lost(&self.origin)) };
                let env = self.common.env.clone();
                self.job = Some(
                    async move {
                        env.offload(move || {
                            let step = work.step();
                            (work, step)
                        })
                        .await
                    }
                    .boxed(),
                );
                continue;
            }
            let known_to_end = self.size.is_some_and(|size| self.offset >= size);
            if known_to_end && self.fetch.is_none() && !self.must_verify {
                return Ok(Progress::AtEnd);
            }
            if let Some(reason) = self.fetch_more().await? {
                return Ok(Progress::Broken(reason));
            }
        }
    }

    /// Waits for the next bytes, or why there are none.
    async fn fetch_more(&mut self) -> Result<Option<String>> {
        if self.fetch.is_none() {
            self.start_fetch();
        }
        let Some(fetch) = &mut self.fetch else { return Ok(None) };
        let fetched = fetch.await;
        self.fetch = None;
        let fetched = fetched.context(ErrorKind::Internal, || format!("read {}", self.origin))?;
        let read = self.offset;
        match fetched {
            Ok(fetched) => self.take(fetched),
            Err(Lost::Gone) => Ok(Some(format!("the file is gone; {read} bytes of it had been read"))),
            Err(Lost::Shrunk(size)) => {
                self.size = Some(size);
                Ok(Some(format!("the file shrank to {size} bytes; {read} had been read")))
            }
            Err(Lost::Failed(error)) => Err(error),
        }
    }

    fn take(&mut self, fetched: Fetched) -> Result<Option<String>> {
        let Fetched { mut bytes, size } = fetched;
        let replaced = || format!("the file was replaced by another of {size} bytes");
        let verified = std::mem::take(&mut self.must_verify);
        self.size = Some(size);
        if size < self.offset {
            return Ok(Some(format!("the file shrank to {size} bytes; {} had been read", self.offset)));
        }
        let overlap = bytes.split_to(self.witness.len().min(bytes.len()));
        if overlap != self.witness {
            return Ok(Some(format!("{}; {} bytes had been read", replaced(), self.offset)));
        }
        if self.offset == 0 && !bytes.is_empty() {
            let head = &bytes[..bytes.len().min(HEAD_BYTES)];
            match self.tag.split_once('-').map(|(count, sum)| (count.parse::<usize>(), sum)) {
                None => self.tag = head_tag(head),
                Some((Ok(count), _)) if count > head.len() => {
                    return Ok(Some(format!("the file shrank to {size} bytes; rows of it had been read")));
                }
                Some((Ok(count), _)) if head_tag(&head[..count]) != self.tag => {
                    return Ok(Some(format!("{}; rows of it had been read", replaced())));
                }
                Some(_) => {}
            }
        }
        if bytes.is_empty() && size > self.offset && !verified {
            return Err(Error::new(ErrorKind::Unavailable, format!("read {}: an answer without bytes", self.origin)));
        }
        if bytes.is_empty() {
            return Ok(None);
        }
        self.offset += bytes.len() as u64;
        self.witness = match bytes.len().checked_sub(WITNESS_BYTES) {
            Some(start) => Bytes::copy_from_slice(&bytes[start..]),
            None => {
                let joined = [&self.witness[..], &bytes[..]].concat();
                Bytes::copy_from_slice(&joined[joined.len().saturating_sub(WITNESS_BYTES)..])
            }
        };
        if let Some(work) = &mut self.work {
            work.packed = size;
            work.inflate.push(bytes);
        }
        self.starved = false;
        if self.offset < size {
            self.start_fetch();
        }
        Ok(None)
    }

    fn start_fetch(&mut self) {
        let start = self.offset - self.witness.len() as u64;
        let more = match self.size {
            Some(size) if size <= self.offset => 0,
            _ if self.offset == 0 => self.common.chunk_bytes.max(HEAD_BYTES as u64),
            _ => self.common.chunk_bytes.max(1),
        };
        let fetch = fetch(self.common.store.clone(), self.path.clone(), start..self.offset + more, self.origin.clone());
        self.fetch = Some(AbortOnDropHandle::new(tokio::spawn(fetch)));
    }

    /// The rows that are complete at the end of what there is, `settled` also a last line without newline; or why the file
    /// is not the one that was read before.
    pub(super) fn flush(&mut self, settled: bool) -> Result<Option<Cut>, String> {
        let Some(work) = &mut self.work else { return Ok(None) };
        if !work.framer.has_skipped() {
            return Err(missing_rows(work.framer.row()));
        }
        if settled {
            work.framer.finish_line();
        }
        Ok(work.framer.cut())
    }

    /// Ends the file where it is now: its last rows, or one refusal if it does not end well.
    pub(super) fn finish(&mut self) -> Vec<Cut> {
        let Some(work) = &mut self.work else { return vec![] };
        work.inflate.end();
        let mut cuts = vec![];
        loop {
            let step = work.step();
            cuts.extend(step.cuts);
            if let Some(reason) = step.broken {
                cuts.extend(work.framer.abandon(reason));
                return cuts;
            }
            if step.starved {
                break;
            }
        }
        if work.framer.has_skipped() {
            cuts.extend(work.framer.finish());
        } else {
            let reason = missing_rows(work.framer.row());
            cuts.extend(work.framer.abandon(reason));
        }
        cuts
    }

    /// Ends the file here: the rows before, and one refusal for the rest.
    pub(super) fn abandon(&mut self, reason: String) -> Option<Cut> {
        self.work.as_mut().and_then(|work| work.framer.abandon(reason))
    }
}

fn worker_lost(origin: &str) -> Error {
    Error::new(ErrorKind::Internal, format!("read {origin}: its state was lost with a failed worker"))
}

fn missing_rows(rows: u64) -> String {
    format!("the file shrank: it has {rows} lines, and more had been read")
}

/// The tag of a file that begins like this.
fn head_tag(head: &[u8]) -> String {
    let mut crc = Crc::new();
    crc.update(head);
    format!("{}-{:08x}", head.len(), crc.sum())
}

/// Reads `range`, or only asks for the size where it is empty.
async fn fetch(
    store: Arc<dyn ObjectStore>,
    path: Path,
    range: std::ops::Range<u64>,
    origin: Arc<str>,
) -> Result<Fetched, Lost> {
    let failed = |e: object_store::Error| match e {
        object_store::Error::NotFound { .. } => Lost::Gone,
        e => Lost::Failed(store_error(e, || format!("read {origin}"))),
    };
    let error = if range.is_empty() {
        None
    } else {
        let options = GetOptions { range: Some(GetRange::Bounded(range.clone())), ..GetOptions::default() };
        match store.get_opts(&path, options).await {
            Ok(answer) => {
                let size = answer.meta.size;
                return Ok(Fetched { bytes: answer.bytes().await.map_err(failed)?, size });
            }
            Err(e @ object_store::Error::NotFound { .. }) => return Err(failed(e)),
            Err(e) => Some(e),
        }
    };
    // A range that begins at or after the end is an error, which each store words in its own way.
    let size = store.head(&path).await.map_err(failed)?.size;
    match error {
        Some(_) if size == 0 && range.start == 0 => Ok(Fetched { bytes: Bytes::new(), size }),
        Some(_) if size <= range.start => Err(Lost::Shrunk(size)),
        Some(e) => Err(failed(e)),
        None => Ok(Fetched { bytes: Bytes::new(), size }),
    }
}

/// What of a file is CPU work: moves to a worker and back.
struct Work {
    inflate: Inflate,
    framer: Framer,
    room: Vec<u8>,
    /// Plain bytes so far.
    plain: u64,
    /// The file's size.
    packed: u64,
    expansion_max: u64,
    bomb_floor: u64,
}

/// What one step of work gave.
struct Step {
    cuts: Vec<Cut>,
    /// The input is used up.
    starved: bool,
    broken: Option<String>,
}

impl Work {
    /// Unpacks and cuts until the input is used up or a few batches are full.
    fn step(&mut self) -> Step {
        let mut step = Step { cuts: vec![], starved: false, broken: None };
        if self.room.is_empty() && self.inflate.is_packed() {
            self.room.resize(ROOM_BYTES, 0);
        }
        let mut small = [0; 512];
        let mut plain = 0;
        while plain < STEP_BYTES {
            let room = if self.room.is_empty() { &mut small[..] } else { &mut self.room[..] };
            match self.inflate.pull(room) {
                Ok(Piece::Filled(count)) => {
                    self.framer.feed(&room[..count], &mut step.cuts);
                    plain += count as u64;
                    self.plain += count as u64;
                    let most = self.expansion_max.saturating_mul(self.packed).max(self.bomb_floor);
                    if self.plain > most {
                        let (plain, packed, times) = (self.plain, self.packed, self.expansion_max);
                        step.broken =
                            Some(format!("{packed} bytes unpack to more than {plain}, over expansion_max = {times}"));
                        break;
                    }
                }
                Ok(Piece::Whole(bytes)) => {
                    plain += bytes.len() as u64;
                    self.framer.feed_shared(bytes, &mut step.cuts);
                }
                Ok(Piece::Starved | Piece::End) => {
                    step.starved = true;
                    break;
                }
                Err(reason) => {
                    step.broken = Some(reason);
                    break;
                }
            }
        }
        step
    }
}
