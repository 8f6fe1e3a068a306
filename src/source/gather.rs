//! Records of one log, gathered into batches, and what tells where a log is read on.
//!
//! Nothing here asks a broker: whoever reads a log of records with offsets says what it found.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use bytes::Bytes;

use crate::config::kafka::{OnGap, Tombstones};
use crate::error::{Error, ErrorKind, Result};
use crate::model::batch::{RawBatch, RawRow, Reject, Span, Stage};
use crate::model::checkpoint::{Delta, Position, Positions, Range};
use crate::model::ids::PartitionId;

/// Rows at which a batch is closed.
const BATCH_ROWS: usize = 8_192;
/// What to do about another log of the same name.
const ANOTHER: &str = "a topic that was made anew begins at zero: give the pipeline a new name, or set the positions with \
                       `frazil checkpoint set`";

/// A record as its log has it.
#[derive(Debug, Clone, Default)]
pub struct Record<'a> {
    /// Where it stands. Offsets rise; some stand for nothing that is read.
    pub offset: i64,
    /// When it was written, in milliseconds since 1970.
    pub timestamp_ms: Option<i64>,
    /// Its key.
    pub key: Option<&'a [u8]>,
    /// Its value; none deletes its key.
    pub value: Option<&'a [u8]>,
    /// Its headers as JSON.
    pub headers: Option<Vec<u8>>,
}

/// Where a log is read on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Resumed {
    /// The first offset that is asked for.
    pub first: i64,
    /// What the record there must look like; none when that cannot be verified.
    pub witness: Option<String>,
    /// Offsets that the log removed before they were read.
    pub removed: Option<std::ops::Range<i64>>,
}

/// From where the log `id` is read whose last row in the table is at `given` and looked like `witness`: from that row, if it
/// tells the log from another. The log's first offset is `low`, its next one `high`.
///
/// # Errors
/// `Corrupt` when it is another log, or when rows were removed and `on_gap` does not pass over them.
pub fn resume(
    id: &PartitionId,
    given: i64,
    witness: Option<String>,
    (low, high): (i64, i64),
    on_gap: OnGap,
) -> Result<Resumed> {
    let next = given.saturating_add(1);
    if high < next {
        let text =
            format!("Kafka {id}: it ends at {high}, and the table has rows up to offset {given}: this is another log");
        return Err(Error::new(ErrorKind::Corrupt, text).with_hint(ANOTHER));
    }
    if low > next {
        let (missing, text) = (low - next, format!("offsets {next} to {} were removed before they were read", low - 1));
        if on_gap == OnGap::Halt {
            return Err(Error::new(ErrorKind::Corrupt, format!("Kafka {id}: {text}")).with_hint(
                "these rows are lost; to go on without them set on_gap = \"skip\" for this source, and give the topic more retention",
            ));
        }
        tracing::error!(partition = %id, missing, "{text}; goes on without them");
        return Ok(Resumed { first: low, witness: None, removed: Some(next..low) });
    }
    if witness.is_some() && low <= given {
        return Ok(Resumed { first: given, witness, removed: None });
    }
    tracing::debug!(partition = %id, "its last row is no longer there: that it is the same log cannot be verified");
    Ok(Resumed { first: next, witness: None, removed: None })
}

/// Offsets that were passed over because their log had removed them, each counted once however often a log is opened below it.
#[derive(Debug, Default)]
pub struct Gaps {
    /// Per partition the offsets that are counted.
    counted: BTreeMap<PartitionId, Vec<std::ops::Range<i64>>>,
    totals: BTreeMap<PartitionId, u64>,
}

impl Gaps {
    /// These are passed over.
    pub fn add(&mut self, id: &PartitionId, removed: &std::ops::Range<i64>) {
        let counted = self.counted.entry(id.clone()).or_default();
        let (mut merged, mut known) = (removed.clone(), 0);
        counted.retain(|held| {
            let apart = held.end < removed.start || held.start > removed.end;
            if !apart {
                known += held.end - held.start;
                merged = merged.start.min(held.start)..merged.end.max(held.end);
            }
            apart
        });
        *self.totals.entry(id.clone()).or_default() += u64::try_from(merged.end - merged.start - known).unwrap_or(0);
        counted.push(merged);
    }

    /// How many were passed over.
    pub fn total(&self) -> u64 {
        self.totals.values().sum()
    }

    /// The same by partition.
    pub fn totals(&self) -> &BTreeMap<PartitionId, u64> {
        &self.totals
    }
}

/// What the last records of batches look like, until these are committed.
#[derive(Debug, Default)]
pub struct Tails(BTreeMap<PartitionId, VecDeque<(i64, String)>>);

impl Tails {
    /// A batch is given whose last record looks like `tail`.
    pub fn keep(&mut self, batch: &RawBatch, tail: String) {
        if let Position::Offset(offset) = batch.range.to {
            self.0.entry(batch.partition.clone()).or_default().push_back((offset, tail));
        }
    }

    /// What was given is read again.
    pub fn clear(&mut self) {
        self.0.clear();
    }

    /// These positions are committed.
    pub fn release(&mut self, committed: &Positions) {
        for (partition, position) in committed {
            if let (Some(tails), Position::Offset(offset)) = (self.0.get_mut(partition), position) {
                tails.retain(|(at, _)| at > offset);
            }
        }
    }

    /// Those of the records at which the ranges end.
    pub fn of(&self, delta: &Delta) -> BTreeMap<PartitionId, String> {
        let tail = |(partition, range): (&PartitionId, &Range)| {
            let Position::Offset(to) = range.to else { return None };
            let (_, tail) = self.0.get(partition)?.iter().find(|(at, _)| *at == to)?;
            Some((partition.clone(), tail.clone()))
        };
        delta.ranges.iter().filter_map(tail).collect()
    }
}

/// One partition of a topic that is ours, and its rows that are not given yet.
#[derive(Debug)]
pub struct Log {
    id: PartitionId,
    topic: Arc<str>,
    tombstones: Tombstones,
    /// Whether the pipeline has said from where it is read.
    is_open: bool,
    /// The offset of the last row that was given, and of the last that is here.
    given: Option<i64>,
    at: Option<i64>,
    /// What the record at `given` must look like, until it was seen.
    witness: Option<String>,
    data: Vec<u8>,
    rows: Vec<RawRow>,
    rejects: Vec<Reject>,
    /// Records here that are passed over.
    skipped: u64,
    /// What the last record here looks like.
    tail: u32,
    tail_ms: i64,
    /// When the first row here came.
    since_ms: i64,
}

impl Log {
    /// A partition of which nothing is read yet.
    pub fn new(id: PartitionId, topic: Arc<str>, tombstones: Tombstones) -> Self {
        Self {
            id,
            topic,
            tombstones,
            is_open: false,
            given: None,
            at: None,
            witness: None,
            data: Vec::new(),
            rows: Vec::new(),
            rejects: Vec::new(),
            skipped: 0,
            tail: 0,
            tail_ms: 0,
            since_ms: 0,
        }
    }

    /// Is read from here on: after the row at `given`, which must look like `witness`.
    pub fn open(&mut self, given: Option<i64>, witness: Option<String>) {
        self.close();
        (self.is_open, self.given, self.at, self.witness) = (true, given, given, witness);
    }

    /// Drops what is here: it is not read until it is opened again.
    pub fn close(&mut self) {
        // What was here and is not any more is no part of a batch: it was not read.
        (self.is_open, self.at) = (false, self.given);
        self.data = Vec::new();
        self.rows.clear();
        self.rejects.clear();
        self.skipped = 0;
    }

    /// Whether the pipeline has said from where it is read.
    pub fn is_open(&self) -> bool {
        self.is_open
    }

    /// The offset of the last row that was read.
    pub fn at(&self) -> Option<i64> {
        self.at
    }

    /// When the first row here came.
    pub fn since_ms(&self) -> i64 {
        self.since_ms
    }

    /// Whether nothing is here.
    pub fn is_empty(&self) -> bool {
        self.at == self.given
    }

    /// Whether a batch is full.
    pub fn is_full(&self, bytes: usize) -> bool {
        self.data.len() >= bytes || self.rows.len() + self.rejects.len() >= BATCH_ROWS
    }

    /// Takes a record. One at or below the last is passed over: logs give what they gave before.
    ///
    /// # Errors
    /// `Corrupt` when it is not the one that was committed at its offset: this is another log.
    pub fn take(&mut self, record: Record<'_>, row_bytes_max: u64, now_ms: i64) -> Result<()> {
        let offset = record.offset;
        // Only what stands at its place, or is behind it, says something of the witness.
        if self.is_open && self.given.is_none_or(|given| offset >= given) {
            self.verify(&record)?;
        }
        if !self.is_open || self.at.is_some_and(|at| offset <= at) {
            return Ok(());
        }
        if self.is_empty() {
            self.since_ms = now_ms;
        }
        self.at = Some(offset);
        (self.tail, self.tail_ms) = (checksum(&record), record.timestamp_ms.unwrap_or(-1));
        let number = u64::try_from(offset).unwrap_or(0);
        let key = record.key.unwrap_or_default();
        let Some(value) = record.value else {
            let reason = "a record without a value, which deletes its key, and rows are only added here";
            match self.tombstones {
                Tombstones::Skip => self.skipped += 1,
                Tombstones::Reject => self.put_aside(number, reason.to_owned(), key),
            }
            return Ok(());
        };
        if (value.len() as u64).saturating_add(key.len() as u64) > row_bytes_max {
            let reason = format!("{} bytes, more than row_bytes_max = {row_bytes_max}", value.len());
            self.put_aside(number, reason, value);
            return Ok(());
        }
        let (start, end) = self.append(value);
        let key = self.span(record.key);
        let headers = self.span(record.headers.as_deref());
        self.rows.push(RawRow { start, end, number, timestamp_ms: record.timestamp_ms, key, headers });
        Ok(())
    }

    /// Compares the record at the last row's place with the one that was committed.
    fn verify(&mut self, record: &Record<'_>) -> Result<()> {
        let Some(witness) = self.witness.take() else { return Ok(()) };
        if self.given != Some(record.offset) {
            // Compaction may have removed it, or it is another log with a transaction's end there: nobody can tell.
            let (partition, given) = (&self.id, self.given.unwrap_or(-1));
            tracing::warn!(%partition, "nothing stands at offset {given} any more: that it is the same log cannot be verified");
            return Ok(());
        }
        let found = tail(checksum(record), record.timestamp_ms.unwrap_or(-1));
        if found == witness { Ok(()) } else { Err(another(&self.id, record.offset)) }
    }

    fn span(&mut self, bytes: Option<&[u8]>) -> Span {
        bytes.map_or(Span::NOTHING, |bytes| {
            let (start, end) = self.append(bytes);
            Span::new(start, end)
        })
    }

    fn append(&mut self, bytes: &[u8]) -> (u32, u32) {
        let start = u32::try_from(self.data.len()).unwrap_or(u32::MAX);
        self.data.extend_from_slice(bytes);
        (start, u32::try_from(self.data.len()).unwrap_or(u32::MAX))
    }

    fn put_aside(&mut self, number: u64, reason: String, raw: &[u8]) {
        let raw = Bytes::copy_from_slice(raw.get(..Reject::RAW_MAX).unwrap_or(raw));
        let (origin, field) = (Arc::clone(&self.topic), String::new());
        self.rejects.push(Reject { origin, number, stage: Stage::Source, field, reason, raw });
    }

    /// The rows that are here, and what the last record of them looks like.
    pub fn batch(&mut self) -> Option<(RawBatch, String)> {
        let to = self.at.filter(|_| !self.is_empty())?;
        let from = self.given.map(Position::Offset);
        self.given = self.at;
        let batch = RawBatch {
            partition: self.id.clone(),
            range: Range { from, to: Position::Offset(to) },
            origin: Arc::clone(&self.topic),
            data: std::mem::take(&mut self.data).into(),
            rows: std::mem::take(&mut self.rows),
            rejects: std::mem::take(&mut self.rejects),
            header: None,
            skipped: std::mem::take(&mut self.skipped),
        };
        Some((batch, tail(self.tail, self.tail_ms)))
    }
}

/// What tells a log that was made anew from the one before.
fn tail(checksum: u32, timestamp_ms: i64) -> String {
    format!("{checksum:08x}@{timestamp_ms}")
}

fn checksum(record: &Record<'_>) -> u32 {
    let mut sum = crc32fast::Hasher::new();
    sum.update(record.key.unwrap_or_default());
    sum.update(record.value.unwrap_or_default());
    sum.finalize()
}

fn another(id: &PartitionId, offset: i64) -> Error {
    let text =
        format!("Kafka {id}: the record at offset {offset} is not the one that was committed: this is another log");
    Error::new(ErrorKind::Corrupt, text).with_hint(ANOTHER)
}

/// That a topic is another one than the one of which rows were read.
pub fn made_anew(topic: &str) -> Error {
    let text = format!("Kafka {topic}: it was deleted and made anew while it was read: this is another log");
    Error::new(ErrorKind::Corrupt, text).with_hint(ANOTHER)
}

#[cfg(test)]
mod tests;
