//! Rows of one partition that wait to be encoded.

use arrow::array::Array;
use arrow::compute::concat_batches;
use arrow::record_batch::RecordBatch;

use crate::error::{Context, ErrorKind, Result};

/// Small batches are joined when so many have come together: each costs memory beside its rows.
const LOOSE_MAX: usize = 64;
/// What a column of a batch costs beside its values, in bytes, roughly.
const COLUMN_OVERHEAD: u64 = 192;
/// Rows of the batches that are encoded at a time.
const ENCODE_ROWS: usize = 8192;

/// Batches in the order they came.
#[derive(Debug, Default)]
pub(crate) struct Pending {
    batches: Vec<RecordBatch>,
    bytes: u64,
    /// How many batches at the end have not been joined.
    loose: usize,
}

impl Pending {
    /// Bytes they keep in memory.
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Adds rows whose values weigh `weight` bytes.
    pub(crate) fn push(&mut self, rows: RecordBatch, weight: u64) -> Result<()> {
        self.bytes += weight + overhead(&rows);
        self.loose = if rows.num_rows() < ENCODE_ROWS / 8 { self.loose + 1 } else { 0 };
        self.batches.push(rows);
        if self.loose >= LOOSE_MAX {
            let tail = self.batches.split_off(self.batches.len() - self.loose);
            let joined = join(&tail)?;
            self.bytes = self.bytes.saturating_sub(overhead(&joined) * (tail.len() as u64 - 1));
            self.batches.push(joined);
            self.loose = 0;
        }
        Ok(())
    }

    /// Takes all of them; `None` when there is none.
    pub(crate) fn take(&mut self) -> Option<Vec<RecordBatch>> {
        let taken = std::mem::take(self);
        (!taken.batches.is_empty()).then_some(taken.batches)
    }
}

fn overhead(rows: &RecordBatch) -> u64 {
    rows.num_columns() as u64 * COLUMN_OVERHEAD
}

/// Bytes of a batch's values: of its own rows only, where it is a part of a larger one.
pub(crate) fn weight(rows: &RecordBatch) -> u64 {
    let column = |column: &arrow::array::ArrayRef| {
        column.to_data().get_slice_memory_size().unwrap_or_else(|_| column.get_array_memory_size()) as u64
    };
    rows.columns().iter().map(column).sum()
}

/// The same rows in batches that are worth encoding.
pub(crate) fn coalesced(batches: Vec<RecordBatch>) -> Result<Vec<RecordBatch>> {
    let mut out = Vec::new();
    let mut run: Vec<RecordBatch> = Vec::new();
    let mut rows = 0;
    for batch in batches {
        rows += batch.num_rows();
        run.push(batch);
        if rows >= ENCODE_ROWS {
            out.push(join(&run)?);
            run.clear();
            rows = 0;
        }
    }
    if !run.is_empty() {
        out.push(join(&run)?);
    }
    Ok(out)
}

fn join(batches: &[RecordBatch]) -> Result<RecordBatch> {
    match batches {
        [one] => Ok(one.clone()),
        _ => concat_batches(&batches[0].schema(), batches).context(ErrorKind::Internal, || "rows of a partition"),
    }
}

#[cfg(test)]
mod tests;
