//! The source seam: where rows come from.
//!
//! `files` follows a folder (`listing` finds names, `reader` reads one file, `inflate` unpacks, `framing` cuts rows), `stdin`
//! reads lines once, `replay` makes a web shop's events up (`shop` is what one of them looks like). `kafka` reads topics
//! (`kafka_reader` is its thread, `kafka_opening` how that begins, `kafka_client` its client, `kafka_token` what tokens that one shows, `kafka_topics` which topics there are, `gather` makes batches; `kafka_probe` asks beside the group).

pub mod files;
mod framing;
pub mod gather;
mod inflate;
pub mod kafka;
mod kafka_client;
mod kafka_errors;
mod kafka_opening;
pub mod kafka_probe;
mod kafka_reader;
mod kafka_token;
mod kafka_topics;
mod listing;
mod reader;
pub mod replay;
mod shop;
pub mod stdin;

use std::collections::BTreeMap;
use std::sync::Arc;

use async_trait::async_trait;

use crate::error::Result;
use crate::model::batch::RawBatch;
use crate::model::checkpoint::{Checkpoint, Delta, Positions};
use crate::model::ids::PartitionId;

/// What a source has to say.
#[derive(Debug)]
#[allow(clippy::large_enum_variant)] // nearly every event is a batch, and each is moved a few times per MiB
pub enum SourceEvent {
    /// Rows.
    Batch(RawBatch),
    /// These partitions are this instance's from now on.
    Assigned(Vec<PartitionId>),
    /// These are no longer; their uncommitted rows are dropped at once.
    Revoked(Vec<PartitionId>),
    /// Nothing for now; the pipeline may seal early.
    Idle,
    /// Nothing ever again.
    End,
}

/// What a source says of itself beside rows; counts are since it was made.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Notes {
    /// What it noticed of files, for one that follows files.
    pub files: Option<files::FilesCounters>,
    /// What waits to be read, where it knows.
    pub behind: Option<Behind>,
    /// Rows of logs that wait to be read, by partition, where it knows: offsets between the last row read and the log's end. The
    /// same map until one of them changes.
    pub rows_behind: Option<Arc<BTreeMap<PartitionId, u64>>>,
    /// Rows of logs that were removed before they were read, by partition.
    pub rows_lost: BTreeMap<PartitionId, u64>,
}

/// What a source knows of and has not read.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Behind {
    /// Files, the one that is being read included.
    pub files: u64,
    /// Bytes of files, packed where they are packed.
    pub bytes: u64,
}

/// A replayable stream of rows.
///
/// Opening at a checkpoint yields the rows after it, in the same order each time; per partition nothing is skipped or
/// repeated.
#[async_trait]
pub trait Source: Send {
    /// Finds the log, so that `identity` is known. Called before each `open`.
    ///
    /// # Errors
    /// `Unavailable` for what waiting may mend; anything else stops the pipeline.
    async fn connect(&mut self) -> Result<()> {
        Ok(())
    }

    /// Where a pipeline begins that was never here: positions after which it reads. A partition without one is read from its
    /// beginning; `None`: all are, whenever it is asked.
    ///
    /// # Errors
    /// As [`Source::connect`].
    async fn begins(&mut self) -> Result<Option<Positions>> {
        Ok(None)
    }

    /// Starts reading after `checkpoint`. Called again to rewind.
    ///
    /// # Errors
    /// `Corrupt` when the checkpoint is of another log or its positions are no longer there.
    async fn open(&mut self, checkpoint: &Checkpoint) -> Result<()>;

    /// The next event. Cancel-safe: a dropped call loses nothing.
    ///
    /// # Errors
    /// `Unavailable` for what waiting may mend; anything else stops the pipeline.
    async fn next(&mut self) -> Result<SourceEvent>;

    /// Everything up to `checkpoint` is committed: what was kept for replay may go.
    ///
    /// # Errors
    /// Never fatal to the pipeline; logged.
    async fn release(&mut self, checkpoint: &Checkpoint) -> Result<()>;

    /// Nothing is read any more: who shares the log with us is told. Returns within a bounded time, however the log is.
    async fn close(&mut self) {}

    /// What tells this log from another with the same partitions, as `Checkpoint::source` has it.
    fn identity(&self) -> String;

    /// What the last rows of these ranges look like, as `Checkpoint::tails` has it, where the source can tell.
    fn tails(&self, _delta: &Delta) -> BTreeMap<PartitionId, String> {
        BTreeMap::new()
    }

    /// What it has to say of itself.
    fn notes(&self) -> Notes {
        Notes::default()
    }
}

mod testing;
