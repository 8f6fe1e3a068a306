//! The ways in which the rows of a group reach the writer: input after input, or merged where all are sorted.

use futures::stream::FuturesOrdered;
use futures::{FutureExt, StreamExt};
use tokio::sync::mpsc;

use arrow::record_batch::RecordBatch;

use crate::compact::files::DataEntry;
use crate::compact::input::{BATCH_BYTES, WHOLE_MAX};
use crate::compact::masks::{Masks, Reading, Scope};
use crate::compact::ordered::{Next, Ordered};
use crate::compact::rows::Rows;
use crate::compact::trail::Trail;
use crate::error::Result;
use crate::write::sort::Sorter;

/// The most files and batches that wait for the next step.
const AHEAD_MAX: usize = 4;

/// Rows on their way to the writer, and the first input that they may be of.
pub(crate) type Batch<'a> = (&'a DataEntry, RecordBatch);

/// One pass over the rows of a group.
#[derive(Clone, Copy)]
pub(crate) struct Pass<'a> {
    pub(crate) reading: Reading<'a>,
    pub(crate) scope: Scope<'a>,
    pub(crate) masks: &'a Masks,
    pub(crate) memory: u64,
}

impl<'a> Pass<'a> {
    /// How many files are opened, and how many batches decoded, before they are needed.
    pub(crate) fn ahead(&self) -> usize {
        usize::try_from(self.memory / 8 / BATCH_BYTES).unwrap_or(usize::MAX).clamp(1, AHEAD_MAX)
    }

    /// Sends the rows of one input after the other: files are opened ahead. Answers how many rows were deleted.
    ///
    /// # Errors
    /// Those of [`Rows`], with the input.
    pub(crate) async fn in_turn(self, decoded: mpsc::Sender<Batch<'a>>, trail: &mut Trail) -> Result<u64> {
        let (opened, mut open) = mpsc::channel(1);
        let opening = async move {
            let mut rows = Opening::new(self, BATCH_BYTES);
            while let Some(next) = rows.next().await {
                if opened.send(next).await.is_err() {
                    break; // decoding failed
                }
            }
        };
        let decoding = async move {
            let mut deleted = 0;
            while let Some(rows) = open.recv().await {
                let mut rows: Rows<'a> = rows?;
                let input = rows.input();
                while let Some(batch) = rows.next().await.map_err(|e| e.within(&input.location))? {
                    if decoded.send((input, batch)).await.is_err() {
                        return Ok(deleted); // writing failed
                    }
                }
                deleted += self.passed(rows, trail);
            }
            Ok(deleted)
        };
        futures::join!(opening, decoding).1
    }

    /// A merge of the inputs, when all are in the table's sort order and what it holds of them fits into memory.
    ///
    /// # Errors
    /// Those of [`Rows::open`], with the input.
    pub(crate) async fn ordered(self) -> Result<Option<Ordered<'a>>> {
        let (inputs, order) = (self.scope.inputs, self.scope.target.layout.sort_order.order_id);
        let whole: u64 = inputs.iter().map(|input| input.bytes).filter(|bytes| *bytes <= WHOLE_MAX).sum();
        let sorted = inputs.iter().all(|input| input.sort_order_id.map(i64::from) == Some(order));
        if sorted && whole <= self.reading.bytes_max { self.merge_of(self.reading.bytes_max).await } else { Ok(None) }
    }

    /// A merge of the inputs, all in the table's sort order, when it has one and what is held of them is at most `bytes_max`.
    ///
    /// # Errors
    /// Those of [`Rows::open`], with the input.
    pub(crate) async fn merge_of(self, bytes_max: u64) -> Result<Option<Ordered<'a>>> {
        let (inputs, target) = (self.scope.inputs, self.scope.target);
        let Some(sorter) = Sorter::new(&target.layout, &target.wanted)? else { return Ok(None) };
        let batch_bytes = (self.memory / 8 / (inputs.len() as u64).max(1)).min(BATCH_BYTES);
        let (mut opening, mut rows, mut held) = (Opening::new(self, batch_bytes), Vec::new(), 0_u64);
        while let Some(next) = opening.next().await {
            let next = next?;
            held = held.saturating_add(next.held());
            if held > bytes_max {
                return Ok(None);
            }
            rows.push(next);
        }
        Ok(Some(Ordered::new(sorter, rows)))
    }

    /// Sends the rows of a merge. Answers how many rows were deleted; `None` when an input is not in order after all.
    ///
    /// # Errors
    /// As [`Ordered::next`].
    pub(crate) async fn in_order(
        self,
        mut ordered: Ordered<'a>,
        decoded: mpsc::Sender<Batch<'a>>,
        trail: &mut Trail,
    ) -> Result<Option<u64>> {
        let Some(first) = self.scope.inputs.first() else { return Ok(Some(0)) };
        loop {
            match ordered.next(self.reading.env).await? {
                Next::Rows(batch) => {
                    if decoded.send((first, batch)).await.is_err() {
                        return Ok(Some(0)); // writing failed
                    }
                }
                Next::Disorder(input) => {
                    tracing::warn!(file = %input.location, "marked as sorted, and is not; it is sorted again");
                    return Ok(None);
                }
                Next::End => break,
            }
        }
        Ok(Some(ordered.into_inputs().into_iter().map(|rows| self.passed(rows, trail)).sum()))
    }

    /// Notes an input of which all rows were passed on; answers how many were deleted.
    fn passed(self, rows: Rows<'a>, trail: &mut Trail) -> u64 {
        let input = rows.input();
        let (deleted, by_key) = rows.deleted();
        trail.pass(input, self.masks.of(input), by_key);
        deleted
    }
}

/// Opens the inputs in their order, some ahead.
struct Opening<'a> {
    pass: Pass<'a>,
    batch_bytes: u64,
    left: std::slice::Iter<'a, DataEntry>,
    under_way: FuturesOrdered<futures::future::BoxFuture<'a, Result<Rows<'a>>>>,
}

impl<'a> Opening<'a> {
    fn new(pass: Pass<'a>, batch_bytes: u64) -> Self {
        Self { pass, batch_bytes, left: pass.scope.inputs.iter(), under_way: FuturesOrdered::new() }
    }

    async fn next(&mut self) -> Option<Result<Rows<'a>>> {
        let Pass { reading, scope, masks, .. } = self.pass;
        while self.under_way.len() < self.pass.ahead()
            && let Some(input) = self.left.next()
        {
            let rows = Rows::open(reading, scope, masks, input, self.batch_bytes);
            self.under_way.push_back(rows.map(|rows| rows.map_err(|e| e.within(&input.location))).boxed());
        }
        self.under_way.next().await
    }
}
