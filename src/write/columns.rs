//! The columns of an open row group, encoded side by side: each takes its rows in their order, and none waits for another.
//!
//! A column is slow whenever it compresses a page, and columns do so at different times: threads that wait for each other
//! after every few rows are idle for a third of the time.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use arrow::datatypes::SchemaRef;
use arrow::record_batch::RecordBatch;
use parquet::arrow::arrow_writer::{ArrowColumnChunk, ArrowColumnWriter, compute_leaves};
use parquet::errors::ParquetError;
use tokio::sync::Notify;

use crate::env::Env;
use crate::error::{Context, Error, ErrorKind, Result};
use crate::write::metrics::NanCounts;
use crate::write::pending;

/// One column of a row group, with all that lies below it.
pub(crate) struct Column {
    /// Its place in the schema.
    pub(crate) at: usize,
    pub(crate) leaves: Vec<ArrowColumnWriter>,
    pub(crate) nans: NanCounts,
}

impl Column {
    fn write(&mut self, schema: &SchemaRef, batches: &[RecordBatch]) -> Result<(), ParquetError> {
        let field = schema.field(self.at);
        for batch in batches {
            let values = batch.column(self.at);
            self.nans.add(field, values);
            for (leaf, values) in self.leaves.iter_mut().zip(compute_leaves(field, values)?) {
                leaf.write(&values)?;
            }
        }
        Ok(())
    }

    fn close(self) -> Result<Closed, ParquetError> {
        let chunks: Result<_, _> = self.leaves.into_iter().map(ArrowColumnWriter::close).collect();
        Ok((self.nans, chunks?))
    }

    /// Bytes that it will have, about.
    fn bytes(&self) -> usize {
        self.leaves.iter().map(ArrowColumnWriter::get_estimated_total_bytes).sum()
    }

    fn memory(&self) -> usize {
        self.leaves.iter().map(ArrowColumnWriter::memory_size).sum()
    }
}

/// A column that got its last row.
pub(crate) type Closed = (NanCounts, Vec<ArrowColumnChunk>);

/// The columns, and what waits for them.
pub(crate) struct Columns {
    shared: Arc<Shared>,
    env: Env,
    concurrency: usize,
}

struct Shared {
    schema: SchemaRef,
    state: Mutex<State>,
    progress: Notify,
}

#[derive(Default)]
struct State {
    lines: Vec<Line>,
    /// What rows that some column has not taken yet hold in memory.
    queued: u64,
    /// Threads at work.
    threads: usize,
    /// Whether rows are lost, and why until it was told.
    broken: bool,
    failed: Option<Error>,
}

/// A column and the rows that it has not taken yet.
struct Line {
    /// Away while rows are added.
    column: Option<Column>,
    queue: VecDeque<Arc<Rows>>,
    bytes: usize,
    memory: usize,
}

/// Rows for every column, and what they weigh.
struct Rows {
    batches: Vec<RecordBatch>,
    weight: u64,
}

impl Columns {
    /// These columns, all empty, of which so many are encoded at a time.
    pub(crate) fn new(env: &Env, schema: &SchemaRef, columns: Vec<Column>, concurrency: usize) -> Self {
        let lines = columns.into_iter().map(|column| Line {
            column: Some(column),
            queue: VecDeque::new(),
            bytes: 0,
            memory: 0,
        });
        let state = State { lines: lines.collect(), ..State::default() };
        let shared = Shared { schema: Arc::clone(schema), state: Mutex::new(state), progress: Notify::new() };
        Self { shared: Arc::new(shared), env: env.clone(), concurrency: concurrency.max(1) }
    }

    /// Adds rows as soon as no column has more than one piece to take before them.
    ///
    /// # Errors
    /// What any rows before these met with.
    pub(crate) async fn push(&self, batches: Vec<RecordBatch>) -> Result<()> {
        self.until(1).await?;
        let weight: u64 = batches.iter().map(pending::weight).sum();
        let rows = Arc::new(Rows { batches, weight });
        let idle = {
            let mut state = self.shared.lock();
            for line in &mut state.lines {
                line.queue.push_back(Arc::clone(&rows));
            }
            state.queued += weight;
            let idle = self.concurrency.min(state.lines.len()).saturating_sub(state.threads);
            state.threads += idle;
            idle
        };
        for _ in 0..idle {
            let thread = Thread { shared: Arc::clone(&self.shared), ended_well: false };
            tokio::spawn(thread.run(self.env.clone()));
        }
        Ok(())
    }

    /// Until all rows are in.
    ///
    /// # Errors
    /// As [`Columns::push`].
    pub(crate) async fn idle(&self) -> Result<()> {
        self.until(0).await
    }

    /// Until no column has more than so many pieces to take.
    async fn until(&self, pieces: usize) -> Result<()> {
        loop {
            let progress = self.shared.progress.notified();
            {
                let mut state = self.shared.lock();
                if state.broken {
                    let lost = || Error::new(ErrorKind::Internal, "a row group that failed before");
                    return Err(state.failed.take().unwrap_or_else(lost));
                }
                if state.lines.iter().all(|line| line.pieces() <= pieces) {
                    return Ok(());
                }
            }
            progress.await;
        }
    }

    /// Closes them all, the largest first; the answers are in the order of the columns.
    ///
    /// # Errors
    /// As [`Columns::push`], and `Internal` when one cannot be closed.
    pub(crate) async fn close(self) -> Result<Vec<Closed>> {
        self.idle().await?;
        let mut columns: Vec<Column> = self.shared.lock().lines.drain(..).filter_map(|line| line.column).collect();
        columns.sort_by_key(Column::bytes);
        let threads = self.concurrency.min(columns.len());
        let columns = Arc::new(Mutex::new(columns));
        let threads = (0..threads).map(|_| {
            let columns = Arc::clone(&columns);
            self.env.offload(move || {
                let mut done = Vec::new();
                loop {
                    let next = columns.lock().unwrap_or_else(PoisonError::into_inner).pop();
                    let Some(column) = next else { return Ok(done) };
                    done.push((column.at, column.close()?));
                }
            })
        });
        let mut done = Vec::new();
        for own in futures::future::join_all(threads).await {
            let own: Result<Vec<(usize, Closed)>, ParquetError> = own?;
            done.extend(own.context(ErrorKind::Internal, || "encode")?);
        }
        done.sort_by_key(|(at, _)| *at);
        Ok(done.into_iter().map(|(_, closed)| closed).collect())
    }

    /// Bytes that the columns will have, about; without rows that wait.
    pub(crate) fn bytes(&self) -> usize {
        self.shared.lock().lines.iter().map(|line| line.bytes).sum()
    }

    /// Bytes of rows that some column has not taken.
    pub(crate) fn queued(&self) -> u64 {
        self.shared.lock().queued
    }

    /// Bytes in memory, rows that wait included.
    pub(crate) fn memory(&self) -> u64 {
        let state = self.shared.lock();
        state.lines.iter().map(|line| line.memory as u64).sum::<u64>() + state.queued
    }
}

impl Drop for Columns {
    /// What nobody waits for any more is not encoded.
    fn drop(&mut self) {
        self.shared.lock().forget();
    }
}

/// One that encodes. Where it did not end by itself its column is lost, and nobody must wait for it.
struct Thread {
    shared: Arc<Shared>,
    ended_well: bool,
}

impl Thread {
    /// A piece at a time, so that others get their turn, and what is to be slow is slow.
    async fn run(mut self, env: Env) {
        loop {
            let shared = Arc::clone(&self.shared);
            match env.offload(move || shared.work()).await {
                Ok(true) => {}
                Ok(false) => self.ended_well = true,
                Err(_) => return,
            }
            if self.ended_well {
                return;
            }
        }
    }
}

impl Drop for Thread {
    fn drop(&mut self) {
        if !self.ended_well {
            self.shared.lock().fail(Error::new(ErrorKind::Internal, "a thread that encodes ended early"));
            self.shared.progress.notify_one();
        }
    }
}

impl Line {
    /// What it has not taken yet, what it is taking included.
    fn pieces(&self) -> usize {
        self.queue.len() + usize::from(self.column.is_none())
    }
}

impl State {
    /// Drops the rows that wait.
    fn forget(&mut self) {
        for line in &mut self.lines {
            line.queue.clear();
        }
        self.queued = 0;
    }

    /// The row group is of no use any more.
    fn fail(&mut self, error: Error) {
        self.broken = true;
        self.failed.get_or_insert(error);
        self.forget();
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds a piece of rows to a column; false when there is none that no other thread sees to, and this one ends.
    fn work(&self) -> bool {
        let mut state = self.lock();
        let free = state.lines.iter_mut().filter(|line| line.column.is_some() && !line.queue.is_empty());
        // Who has most to do, and then is the largest, begins first.
        let next = free.max_by_key(|line| (line.queue.len(), line.bytes));
        let taken = next.and_then(|line| Some((line.column.take()?, line.queue.pop_front()?)));
        let Some((mut column, rows)) = taken else {
            state.threads -= 1;
            return false;
        };
        drop(state);
        let answer = column.write(&self.schema, &rows.batches).context(ErrorKind::Internal, || "encode");
        let (at, bytes, memory) = (column.at, column.bytes(), column.memory());
        let mut state = self.lock();
        if let Some(line) = state.lines.get_mut(at) {
            (line.column, line.bytes, line.memory) = (Some(column), bytes, memory);
        }
        // The last column that takes them frees them.
        if let Some(rows) = Arc::into_inner(rows) {
            state.queued = state.queued.saturating_sub(rows.weight);
        }
        // In the same moment as its rows count as taken.
        if let Err(error) = answer {
            state.fail(error);
        }
        drop(state);
        self.progress.notify_one();
        true
    }
}
