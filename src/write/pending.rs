//! Rows of one partition that wait to be encoded.

use arrow::array::{Array, UInt32Array};
use arrow::compute::{concat_batches, take_record_batch};
use arrow::record_batch::RecordBatch;

use crate::error::{Context, ErrorKind, Result};

/// Small batches are joined when so many have come together: each costs memory beside its rows.
const LOOSE_MAX: usize = 64;
/// What a column of a batch costs beside its values, in bytes, roughly.
const COLUMN_OVERHEAD: u64 = 192;
/// Rows of the batches that are encoded at a time.
const ENCODE_ROWS: usize = 8192;
/// Batches of so many rows are encoded as they are: joining them would only copy them.
const WHOLE_ROWS: usize = 512;

/// Batches in the order they came.
#[derive(Debug, Default)]
pub(crate) struct Pending {
    /// With the bytes each counts for.
    batches: Vec<(RecordBatch, u64)>,
    bytes: u64,
    /// How many batches at the end share memory with rows of other partitions.
    shared: usize,
    /// How many batches before those are small and have not been joined.
    loose: usize,
}

impl Pending {
    /// Bytes of its rows, and what keeping them costs. Memory that batches share with other partitions is not its own:
    /// it stays until all of them have settled.
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Adds rows whose values weigh `weight` bytes; `shared` when they are a part of a larger batch.
    pub(crate) fn push(&mut self, rows: RecordBatch, weight: u64, shared: bool) -> Result<()> {
        let count = rows.num_rows();
        let bytes = weight + overhead(&rows);
        self.add(rows, bytes);
        if shared || self.shared > 0 {
            self.shared += 1;
            Ok(())
        } else {
            self.loosen(count)
        }
    }

    /// Copies what shares memory, so that it holds on to no rows but its own.
    pub(crate) fn settle(&mut self) -> Result<()> {
        let tail = self.cut(self.shared);
        self.shared = 0;
        let own = match tail.as_slice() {
            [] => return Ok(()),
            [one] => copied(one)?,
            many => join(many)?,
        };
        let count = own.num_rows();
        self.add_own(own);
        self.loosen(count)
    }

    fn add(&mut self, rows: RecordBatch, bytes: u64) {
        self.bytes += bytes;
        self.batches.push((rows, bytes));
    }

    /// Adds rows that are in memory of their own, which is counted with what it has spare.
    fn add_own(&mut self, rows: RecordBatch) {
        let bytes = rows.get_array_memory_size() as u64 + overhead(&rows);
        self.add(rows, bytes);
    }

    /// Takes the last `count` batches.
    fn cut(&mut self, count: usize) -> Vec<RecordBatch> {
        let tail = self.batches.split_off(self.batches.len().saturating_sub(count));
        self.bytes = self.bytes.saturating_sub(tail.iter().map(|(_, bytes)| bytes).sum());
        tail.into_iter().map(|(rows, _)| rows).collect()
    }

    /// Notes a new last batch of `rows` rows and joins small ones when there are many.
    fn loosen(&mut self, rows: usize) -> Result<()> {
        self.loose = if rows < ENCODE_ROWS / 8 { self.loose + 1 } else { 0 };
        if self.loose >= LOOSE_MAX {
            let tail = self.cut(self.loose);
            self.add_own(join(&tail)?);
            self.loose = 0;
        }
        Ok(())
    }

    /// Takes all of them; `None` when there is none.
    pub(crate) fn take(&mut self) -> Option<Vec<RecordBatch>> {
        let taken = std::mem::take(self);
        let batches: Vec<RecordBatch> = taken.batches.into_iter().map(|(rows, _)| rows).collect();
        (!batches.is_empty()).then_some(batches)
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
        let whole = batch.num_rows() >= WHOLE_ROWS;
        if !run.is_empty() && (whole || rows >= ENCODE_ROWS) {
            out.push(join(&run)?);
            run.clear();
            rows = 0;
        }
        if whole {
            out.push(batch);
        } else {
            rows += batch.num_rows();
            run.push(batch);
        }
    }
    if !run.is_empty() {
        out.push(join(&run)?);
    }
    Ok(out)
}

/// The first `rows` rows of `batches`; `None` when there is no batch.
pub(crate) fn head(batches: &[RecordBatch], rows: usize) -> Result<Option<RecordBatch>> {
    let mut first = Vec::new();
    let mut left = rows;
    for batch in batches {
        let taken = batch.num_rows().min(left);
        first.push(batch.slice(0, taken));
        left -= taken;
        if left == 0 {
            break;
        }
    }
    if first.is_empty() { Ok(None) } else { join(&first).map(Some) }
}

/// The rows in memory of their own. (Joining one batch gives a slice of it.)
fn copied(rows: &RecordBatch) -> Result<RecordBatch> {
    let count = u32::try_from(rows.num_rows()).context(ErrorKind::Internal, || "rows of a partition")?;
    let all = UInt32Array::from_iter_values(0..count);
    take_record_batch(rows, &all).context(ErrorKind::Internal, || "rows of a partition")
}

fn join(batches: &[RecordBatch]) -> Result<RecordBatch> {
    match batches {
        [one] => Ok(one.clone()),
        _ => concat_batches(&batches[0].schema(), batches).context(ErrorKind::Internal, || "rows of a partition"),
    }
}

#[cfg(test)]
mod tests;
