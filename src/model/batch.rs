//! Rows on their way from a source to a writer.

use std::sync::Arc;

use arrow::record_batch::RecordBatch;
use bytes::Bytes;

use crate::model::checkpoint::Range;
use crate::model::ids::PartitionId;

/// Rows of one source partition as the source gave them, in order.
#[derive(Debug, Clone)]
pub struct RawBatch {
    /// The partition.
    pub partition: PartitionId,
    /// The positions this batch covers; those of rejects, of blank rows and of what was passed over are among them.
    pub range: Range,
    /// What a person would call the place: a file's location, a topic, `stdin`.
    pub origin: Arc<str>,
    /// The bytes that `rows` point into.
    pub data: Bytes,
    /// The rows, in order.
    pub rows: Vec<RawRow>,
    /// What the source itself could not make a row of.
    pub rejects: Vec<Reject>,
    /// The line of the file that names the values of its rows, where it has one.
    pub header: Option<Bytes>,
    /// Records that the source passed over, as it is told to: neither rows nor rejects.
    pub skipped: u64,
}

/// One row's bytes within its batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct RawRow {
    /// First byte in `RawBatch::data`.
    pub start: u32,
    /// One past its last byte.
    pub end: u32,
    /// Its number within `origin`: a line number from 1, a log offset. Its offset where positions are offsets.
    pub number: u64,
    /// When it was written, in milliseconds since the epoch, where the source knows.
    pub timestamp_ms: Option<i64>,
    /// Its key, where the source has keys.
    pub key: Span,
    /// Its headers as a JSON array of `{"key", "value"}`, where the source has some.
    pub headers: Span,
}

/// When rows were written, as their source says: the first and the last of them, in milliseconds since the epoch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Times {
    /// When the oldest was.
    pub oldest_ms: i64,
    /// When the newest was.
    pub newest_ms: i64,
}

impl Times {
    /// Those of these rows; nothing where the source knows it of none.
    pub fn of(rows: &[RawRow]) -> Option<Self> {
        let known = rows.iter().filter_map(|row| row.timestamp_ms);
        known.map(|ms| Self { oldest_ms: ms, newest_ms: ms }).reduce(Self::and)
    }

    /// Those of these rows and of others.
    pub fn and(self, other: Self) -> Self {
        Self { oldest_ms: self.oldest_ms.min(other.oldest_ms), newest_ms: self.newest_ms.max(other.newest_ms) }
    }
}

/// A part of `RawBatch::data`, or nothing, which is not the same as a part without bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Span {
    start: u32,
    end: u32,
}

impl Default for Span {
    fn default() -> Self {
        Self::NOTHING
    }
}

impl Span {
    /// Nothing.
    pub const NOTHING: Self = Self { start: 1, end: 0 };

    /// From `start` up to and without `end`.
    pub fn new(start: u32, end: u32) -> Self {
        if start <= end { Self { start, end } } else { Self::NOTHING }
    }
}

impl RawBatch {
    /// A row's bytes.
    pub fn bytes(&self, row: RawRow) -> &[u8] {
        &self.data[row.start as usize..row.end as usize]
    }

    /// The bytes of a part of it.
    pub fn part(&self, span: Span) -> Option<&[u8]> {
        self.data.get(span.start as usize..span.end as usize)
    }

    /// A reject of a row. Its bytes are copied, so that it does not keep the batch's memory.
    pub fn reject(&self, row: RawRow, stage: Stage, field: impl Into<String>, reason: impl Into<String>) -> Reject {
        let bytes = self.bytes(row);
        let raw = Bytes::copy_from_slice(bytes.get(..Reject::RAW_MAX).unwrap_or(bytes));
        let mut reason = reason.into();
        if raw.len() < bytes.len() {
            reason.push_str(&format!(" (the first {} of {} bytes are kept)", raw.len(), bytes.len()));
        }
        Reject { origin: Arc::clone(&self.origin), number: row.number, stage, field: field.into(), reason, raw }
    }

    /// The same, sharing the batch's memory.
    pub fn slice(&self, row: RawRow) -> Bytes {
        self.data.slice(row.start as usize..row.end as usize)
    }
}

/// Decoded rows: every raw row is either in `rows` or in `rejects`.
#[derive(Debug, Clone)]
pub struct Batch {
    /// The columns; field ids are in the Arrow fields' metadata under `PARQUET:field_id`.
    pub rows: RecordBatch,
    /// For each row of `rows` the index of its raw row.
    pub source_rows: Vec<u32>,
    /// What could not be decoded.
    pub rejects: Vec<Reject>,
}

/// A row that is put aside, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reject {
    /// Where the row was read: as `RawBatch::origin`.
    pub origin: Arc<str>,
    /// Its number within `origin`.
    pub number: u64,
    /// Which stage refused it.
    pub stage: Stage,
    /// The column or JSON path concerned, empty where the row as a whole is.
    pub field: String,
    /// Why, as a sentence without a full stop.
    pub reason: String,
    /// The row's bytes, cut at [`Reject::RAW_MAX`].
    pub raw: Bytes,
}

impl Reject {
    /// How many bytes of a rejected row are kept.
    pub const RAW_MAX: usize = 64 * 1024;
}

/// The stages of the stream path that may refuse a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Stage {
    /// The source could not cut or decompress it.
    Source,
    /// No table for it.
    Route,
    /// Its bytes do not decode to the table's columns.
    Decode,
    /// It broke a rule on its values.
    Quality,
    /// It has no place in the table's layout, such as a partition value that cannot be made.
    Write,
}

impl Stage {
    /// The name used in the rejects table and in metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Source => "source",
            Self::Route => "route",
            Self::Decode => "decode",
            Self::Quality => "quality",
            Self::Write => "write",
        }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::model::checkpoint::Position;

    /// A batch of these rows, numbered from 1.
    pub(crate) fn raw<S: AsRef<[u8]>>(rows: &[S]) -> RawBatch {
        let (mut data, mut cut) = (Vec::new(), Vec::new());
        for (number, row) in (1..).zip(rows) {
            let start = u32::try_from(data.len()).expect("small");
            data.extend_from_slice(row.as_ref());
            let end = u32::try_from(data.len()).expect("small");
            cut.push(RawRow { start, end, number, ..RawRow::default() });
        }
        RawBatch {
            partition: PartitionId::new("p"),
            range: Range { from: None, to: Position::Offset(1) },
            origin: "test".into(),
            data: data.into(),
            rows: cut,
            rejects: Vec::new(),
            header: None,
            skipped: 0,
        }
    }

    #[test]
    fn the_oldest_and_the_newest_row_are_found_in_any_order_among_those_whose_time_is_known() {
        let times = |known: &[Option<i64>]| {
            let rows: Vec<_> = known.iter().map(|&timestamp_ms| RawRow { timestamp_ms, ..RawRow::default() }).collect();
            Times::of(&rows)
        };
        let of = |oldest_ms, newest_ms| Some(Times { oldest_ms, newest_ms });
        assert_eq!(times(&[None, Some(3), Some(-1), None, Some(9), Some(4)]), of(-1, 9));
        assert_eq!(times(&[Some(5)]), of(5, 5));
        assert_eq!(times(&[None, None]), None);
        assert_eq!(times(&[]), None);
    }
}
