//! Records of one log, gathered into batches.

use std::sync::Arc;

use bytes::Bytes;
use rdkafka::Message;
use rdkafka::message::{BorrowedMessage, Headers};

use crate::error::{Error, ErrorKind, Result};
use crate::model::batch::{RawBatch, RawRow, Reject, Span, Stage};
use crate::model::checkpoint::{Position, Range};
use crate::model::ids::PartitionId;
use crate::source::kafka_client::Place;

/// Rows at which a batch is closed.
const BATCH_ROWS: usize = 8_192;

/// One partition of a topic that is ours, and its rows that are not given yet.
#[derive(Debug)]
pub(super) struct Log {
    pub(super) id: PartitionId,
    topic: Arc<str>,
    /// Whether the pipeline has said from where it is read.
    pub(super) is_open: bool,
    /// The offset of the last row that was given, and of the last that is here.
    given: Option<i64>,
    at: Option<i64>,
    /// What the record at `given` must look like, until it was seen.
    witness: Option<String>,
    data: Vec<u8>,
    rows: Vec<RawRow>,
    rejects: Vec<Reject>,
    /// What the last record here looks like.
    tail: u32,
    tail_ms: i64,
    /// When the first row here came.
    pub(super) since_ms: i64,
}

impl Log {
    /// A partition of which nothing is read yet.
    pub(super) fn new(place: &Place) -> Self {
        Self {
            id: PartitionId::new(name(place)),
            topic: place.0.as_str().into(),
            is_open: false,
            given: None,
            at: None,
            witness: None,
            data: Vec::new(),
            rows: Vec::new(),
            rejects: Vec::new(),
            tail: 0,
            tail_ms: 0,
            since_ms: 0,
        }
    }

    /// Is read from here on: after the row at `given`, which must look like `witness` if it comes.
    pub(super) fn open(&mut self, given: Option<i64>, witness: Option<String>) {
        self.close();
        (self.is_open, self.given, self.at, self.witness) = (true, given, given, witness);
    }

    /// Drops what is here.
    pub(super) fn close(&mut self) {
        self.is_open = false;
        self.data = Vec::new();
        self.rows.clear();
        self.rejects.clear();
    }

    /// The offset of the last row that was read.
    pub(super) fn at(&self) -> Option<i64> {
        self.at
    }

    /// Whether nothing is here.
    pub(super) fn is_empty(&self) -> bool {
        self.at == self.given
    }

    /// Whether a batch is full.
    pub(super) fn is_full(&self, bytes: usize) -> bool {
        self.data.len() >= bytes || self.rows.len() + self.rejects.len() >= BATCH_ROWS
    }

    /// Takes a record.
    ///
    /// # Errors
    /// `Corrupt` when it is not the one that was committed at its offset: this is another log.
    pub(super) fn take(&mut self, record: &BorrowedMessage<'_>, row_bytes_max: u64, now_ms: i64) -> Result<()> {
        let offset = record.offset();
        let last = self.given.filter(|given| *given == offset);
        if let (Some(_), Some(witness)) = (last, self.witness.take()) {
            let found = tail(checksum(record), record.timestamp().to_millis().unwrap_or(-1));
            return if found == witness { Ok(()) } else { Err(another(&self.id, offset)) };
        }
        if !self.is_open || self.at.is_some_and(|at| offset <= at) {
            return Ok(());
        }
        if self.is_empty() {
            self.since_ms = now_ms;
        }
        self.at = Some(offset);
        (self.tail, self.tail_ms) = (checksum(record), record.timestamp().to_millis().unwrap_or(-1));
        let number = u64::try_from(offset).unwrap_or(0);
        let key = record.key().unwrap_or_default();
        let Some(value) = record.payload() else {
            let reason = "a record without a value, which deletes its key, and rows are only added here";
            self.put_aside(number, reason.to_owned(), key);
            return Ok(());
        };
        if (value.len() as u64).saturating_add(key.len() as u64) > row_bytes_max {
            let reason = format!("{} bytes, more than row_bytes_max = {row_bytes_max}", value.len());
            self.put_aside(number, reason, value);
            return Ok(());
        }
        let (start, end) = self.append(value);
        let key = record.key().map_or(Span::NOTHING, |key| {
            let (start, end) = self.append(key);
            Span::new(start, end)
        });
        let headers = match record.headers() {
            None => Span::NOTHING,
            Some(headers) => {
                let (start, end) = self.append(&headers_json(headers));
                Span::new(start, end)
            }
        };
        let timestamp_ms = record.timestamp().to_millis();
        self.rows.push(RawRow { start, end, number, timestamp_ms, key, headers });
        Ok(())
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
    pub(super) fn batch(&mut self) -> Option<(RawBatch, String)> {
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
        };
        Some((batch, tail(self.tail, self.tail_ms)))
    }
}

/// A partition as checkpoints name it.
pub(super) fn name((topic, partition): &Place) -> String {
    format!("{topic}/{partition}")
}

/// The partition that a checkpoint names.
pub(super) fn place(id: &PartitionId) -> Option<Place> {
    let (topic, partition) = id.as_str().rsplit_once('/')?;
    Some((topic.to_owned(), partition.parse().ok()?))
}

/// What tells a log that was made anew from the one before.
fn tail(checksum: u32, timestamp_ms: i64) -> String {
    format!("{checksum:08x}@{timestamp_ms}")
}

fn checksum(record: &BorrowedMessage<'_>) -> u32 {
    let mut sum = crc32fast::Hasher::new();
    sum.update(record.key().unwrap_or_default());
    sum.update(record.payload().unwrap_or_default());
    sum.finalize()
}

fn another(id: &PartitionId, offset: i64) -> Error {
    let text =
        format!("Kafka {id}: the record at offset {offset} is not the one that was committed: this is another log");
    Error::new(ErrorKind::Corrupt, text).with_hint(
        "a topic that was made anew begins at zero: give the pipeline a new name, or set the positions with `frazil checkpoint set`",
    )
}

/// Headers in their order; a name may be there several times.
fn headers_json<H: Headers>(headers: &H) -> Vec<u8> {
    use base64::Engine;
    let one = |header: rdkafka::message::Header<'_, &[u8]>| {
        let mut entry = serde_json::Map::new();
        entry.insert("key".to_owned(), header.key.into());
        match header.value.map(|value| (value, std::str::from_utf8(value))) {
            None => entry.insert("value".to_owned(), serde_json::Value::Null),
            Some((_, Ok(text))) => entry.insert("value".to_owned(), text.into()),
            Some((bytes, Err(_))) => {
                let text = base64::engine::general_purpose::STANDARD.encode(bytes);
                entry.insert("base64".to_owned(), text.into())
            }
        };
        serde_json::Value::Object(entry)
    };
    serde_json::Value::Array(headers.iter().map(one).collect()).to_string().into_bytes()
}
