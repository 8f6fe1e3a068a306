//! Sorted inputs as one sorted stream: a merge that holds one batch of each.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use arrow::compute::interleave_record_batch;
use arrow::record_batch::RecordBatch;
use arrow::row::{OwnedRow, Rows as Keys};

use crate::compact::files::DataEntry;
use crate::compact::rows::Rows;
use crate::env::Env;
use crate::error::{Context, Error, ErrorKind, Result};
use crate::write::sort::Sorter;

/// Rows that come out at a time, at most.
const BATCH_ROWS: usize = 8192;

/// Merges inputs each of which is in order. Equal rows stay in the order of the inputs.
pub(crate) struct Ordered<'a> {
    inputs: Vec<Rows<'a>>,
    /// Away while a worker has it.
    merge: Option<Merge>,
    /// Inputs whose next batch the merge waits for.
    wants: Vec<usize>,
}

impl<'a> Ordered<'a> {
    /// A merge by the order of `sorter`.
    pub(crate) fn new(sorter: Sorter, inputs: Vec<Rows<'a>>) -> Self {
        let heads = inputs.iter().map(|_| Head::default()).collect();
        let merge = Merge { sorter, heads, queue: BinaryHeap::new() };
        Self { wants: (0..inputs.len()).rev().collect(), inputs, merge: Some(merge) }
    }

    /// The next rows, until the end or until an input is found not to be in order.
    ///
    /// # Errors
    /// As [`Rows::next`].
    pub(crate) async fn next(&mut self, env: &Env) -> Result<Next<'a>> {
        loop {
            while let Some(input) = self.wants.pop() {
                let Some(rows) = self.inputs.get_mut(input) else { continue };
                let entry = rows.input();
                let Some(batch) = rows.next().await.map_err(|e| e.within(&entry.location))? else { continue };
                if !self.work(env, move |merge| merge.add(input, batch)).await? {
                    return Ok(Next::Disorder(entry));
                }
            }
            let (rows, wants) = self.work(env, Merge::step).await?;
            self.wants.extend(wants);
            match (rows, self.wants.is_empty()) {
                (Some(rows), _) => return Ok(Next::Rows(rows)),
                (None, true) => return Ok(Next::End),
                (None, false) => {}
            }
        }
    }

    async fn work<T: Send + 'static>(
        &mut self,
        env: &Env,
        work: impl FnOnce(&mut Merge) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let mut merge =
            self.merge.take().ok_or_else(|| Error::new(ErrorKind::Internal, "a merge that was interrupted"))?;
        let (merge, done) = env
            .offload(move || {
                let done = work(&mut merge);
                (merge, done)
            })
            .await?;
        self.merge = Some(merge);
        done
    }

    /// The inputs, when all have been read.
    pub(crate) fn into_inputs(self) -> Vec<Rows<'a>> {
        self.inputs
    }
}

/// What comes next of a merge.
pub(crate) enum Next<'a> {
    Rows(RecordBatch),
    /// This input is not in order.
    Disorder(&'a DataEntry),
    End,
}

/// The batch of an input that is being merged: rows before `at` are out.
#[derive(Default)]
struct Head {
    batch: Option<(RecordBatch, Keys)>,
    at: usize,
    /// The last row of the batch before.
    last: Option<OwnedRow>,
}

struct Merge {
    sorter: Sorter,
    heads: Vec<Head>,
    /// The next row of each input that has one, the least first.
    queue: BinaryHeap<Reverse<(OwnedRow, usize)>>,
}

/// Rows `from..to` of an input's batch.
struct Piece {
    input: usize,
    from: usize,
    to: usize,
}

impl Merge {
    /// Takes the next batch of an input, which is not empty; answers whether its rows are in order.
    fn add(&mut self, input: usize, batch: RecordBatch) -> Result<bool> {
        let keys = self.sorter.keys(&batch)?;
        let head = &mut self.heads[input];
        let follows = head.last.as_ref().is_none_or(|last| last.row() <= keys.row(0));
        if !follows || (1..keys.num_rows()).any(|at| keys.row(at - 1) > keys.row(at)) {
            return Ok(false);
        }
        self.queue.push(Reverse((keys.row(0).owned(), input)));
        head.last = Some(keys.row(keys.num_rows() - 1).owned());
        (head.batch, head.at) = (Some((batch, keys)), 0);
        Ok(true)
    }

    /// The next rows, and the input that has none left, if that is why there are no more.
    fn step(&mut self) -> Result<(Option<RecordBatch>, Option<usize>)> {
        let (mut pieces, mut rows, mut wants) = (Vec::new(), 0, None);
        while rows < BATCH_ROWS
            && let Some(Reverse((_, input))) = self.queue.pop()
        {
            let head = &mut self.heads[input];
            let Some((_, keys)) = &head.batch else { continue };
            let end = keys.num_rows().min(head.at + BATCH_ROWS - rows);
            let to = match self.queue.peek() {
                None => end,
                Some(Reverse((next, other))) => {
                    let before = |at: usize| (keys.row(at), input) < (next.row(), *other);
                    first_not(head.at + 1, end, before)
                }
            };
            rows += to - head.at;
            pieces.push(Piece { input, from: head.at, to });
            head.at = to;
            if to == keys.num_rows() {
                wants = Some(input);
                break;
            }
            self.queue.push(Reverse((keys.row(to).owned(), input)));
        }
        Ok((self.joined(&pieces)?, wants))
    }

    fn joined(&self, pieces: &[Piece]) -> Result<Option<RecordBatch>> {
        let mut places = vec![0; self.heads.len()];
        let mut batches = Vec::new();
        for piece in pieces {
            if let (0, Some((batch, _))) = (places[piece.input], &self.heads[piece.input].batch) {
                batches.push(batch);
                places[piece.input] = batches.len();
            }
        }
        Ok(match (pieces, batches.as_slice()) {
            ([], _) | (_, []) => None,
            ([piece], [batch]) => Some(batch.slice(piece.from, piece.to - piece.from)),
            _ => {
                let rows =
                    pieces.iter().flat_map(|piece| (piece.from..piece.to).map(|at| (places[piece.input] - 1, at)));
                let rows: Vec<(usize, usize)> = rows.collect();
                Some(interleave_record_batch(&batches, &rows).context(ErrorKind::Internal, || "merged rows")?)
            }
        })
    }
}

/// The first of `from..end` for which `before` does not hold, `end` if it holds for all: it holds for none after one for which
/// it does not. Quick when that is near.
fn first_not(from: usize, end: usize, before: impl Fn(usize) -> bool) -> usize {
    let (mut low, mut width) = (from, 1);
    while low + width <= end && before(low + width - 1) {
        low += width;
        width *= 2;
    }
    let mut high = end.min(low + width - 1);
    while low < high {
        let middle = low.midpoint(high);
        if before(middle) { low = middle + 1 } else { high = middle }
    }
    low
}

#[cfg(test)]
mod tests;
