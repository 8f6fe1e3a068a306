//! A generated stream: a web shop's events, the same for the same seed each time.
//!
//! The row at an offset is a function of seed, partition and offset, so any checkpoint can be opened at once.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use tokio_util::task::AbortOnDropHandle;

use crate::config::ReplayConfig;
use crate::env::Env;
use crate::error::{Context, Error, ErrorKind, Result};
use crate::model::batch::{RawBatch, RawRow};
use crate::model::checkpoint::{Checkpoint, Position, Range};
use crate::model::ids::PartitionId;
use crate::source::shop::Shop;
use crate::source::{Source, SourceEvent};

/// Bytes at which a batch is closed.
const BATCH_BYTES: usize = 1024 * 1024;
/// Rows at which a batch is closed.
const BATCH_ROWS: u64 = 8_192;
/// With a rate, about so many batches a second are given, so that rows trickle instead of arriving in lumps.
const BATCHES_PER_SECOND: u64 = 20;
/// How much of the rate may be caught up after the reader paused.
const CATCH_UP_MS: u64 = 1_000;

/// The replayed web shop.
pub struct ReplaySource {
    env: Env,
    shop: Arc<Shop>,
    seed: u64,
    rows: Option<u64>,
    rate: Option<u64>,
    logs: Vec<Log>,
    turn: usize,
    pace: Pace,
    making: Option<Making>,
}

/// Rows that are generated on another thread.
struct Making {
    log: usize,
    rows: AbortOnDropHandle<Result<(Bytes, Vec<RawRow>)>>,
}

/// One partition.
struct Log {
    id: PartitionId,
    number: u32,
    origin: Arc<str>,
    next: u64,
}

/// Rows given since a moment: what the rate is held against.
struct Pace {
    since_ms: i64,
    given: u64,
}

impl ReplaySource {
    /// A stream as configured; partition ids are `0`, `1`, ….
    pub fn new(config: &ReplayConfig, env: Env) -> Self {
        let logs = (0..config.partitions)
            .map(|number| Log {
                id: PartitionId::new(number.to_string()),
                number,
                origin: format!("replay/{number}").into(),
                next: 0,
            })
            .collect();
        Self {
            shop: Arc::new(Shop::new(config.seed)),
            seed: config.seed,
            rows: config.rows,
            rate: config.rate,
            logs,
            turn: 0,
            pace: Pace { since_ms: env.now_ms(), given: 0 },
            making: None,
            env,
        }
    }

    /// The next partition that still has rows, in turn.
    fn next_log(&mut self) -> Option<usize> {
        let end = self.rows.unwrap_or(i64::MAX as u64);
        let count = self.logs.len();
        let found = (0..count).map(|step| (self.turn + step) % count).find(|&log| self.logs[log].next < end)?;
        Some(found)
    }

    /// Begins the next batch, as soon as rows may be given; false when there are none.
    async fn make(&mut self) -> bool {
        let Some(index) = self.next_log() else { return false };
        let allowed = self.allowance().await;
        let log = &self.logs[index];
        let left = self.rows.map_or(u64::MAX, |rows| rows.saturating_sub(log.next));
        let (shop, number, first, rows) = (self.shop.clone(), log.number, log.next, allowed.min(left));
        let env = self.env.clone();
        let rows = tokio::spawn(async move { env.offload(move || generate(&shop, number, first, rows)).await });
        self.making = Some(Making { log: index, rows: AbortOnDropHandle::new(rows) });
        true
    }

    /// How many rows may be given now; waits until it is at least one.
    async fn allowance(&mut self) -> u64 {
        let Some(rate) = self.rate.map(|rate| rate.max(1)) else { return BATCH_ROWS };
        let lump = (rate / BATCHES_PER_SECOND).clamp(1, BATCH_ROWS);
        loop {
            let now = self.env.now_ms();
            let elapsed = u64::try_from(now.saturating_sub(self.pace.since_ms)).unwrap_or(0);
            let due = rate.saturating_mul(elapsed) / 1_000;
            let behind = due.saturating_sub(self.pace.given);
            if behind > (rate.saturating_mul(CATCH_UP_MS) / 1_000).max(lump) || self.pace.given > due + rate {
                // The reader paused, or the clock went back: start counting anew instead of bursting or stalling.
                self.pace = Pace { since_ms: now, given: 0 };
                continue;
            }
            if behind >= lump {
                return behind.min(BATCH_ROWS);
            }
            let missing = lump - behind;
            self.env.sleep(Duration::from_millis((missing.saturating_mul(1_000)).div_ceil(rate).max(1))).await;
        }
    }
}

#[async_trait]
impl Source for ReplaySource {
    async fn open(&mut self, checkpoint: &Checkpoint) -> Result<()> {
        let identity = self.identity();
        if !checkpoint.source.is_empty() && checkpoint.source != identity {
            return Err(Error::new(
                ErrorKind::Corrupt,
                format!("the checkpoint is of {}, the source is {identity}", checkpoint.source),
            )
            .with_hint("replay with the seed that the table was filled with, or into another table"));
        }
        for log in &mut self.logs {
            log.next = match checkpoint.positions.get(&log.id) {
                None => 0,
                Some(Position::Offset(last)) => u64::try_from(last.saturating_add(1)).unwrap_or(0),
                Some(Position::Files(_)) => {
                    return Err(Error::new(
                        ErrorKind::Corrupt,
                        format!("the checkpoint of replay partition {} is that of followed files", log.id),
                    ));
                }
            };
        }
        self.turn = 0;
        self.making = None;
        self.pace = Pace { since_ms: self.env.now_ms(), given: 0 };
        Ok(())
    }

    /// State moves only once a batch is made: after a dropped call the same batch is given.
    async fn next(&mut self) -> Result<SourceEvent> {
        if self.making.is_none() && !self.make().await {
            return Ok(SourceEvent::End);
        }
        let Some(making) = &mut self.making else { return Ok(SourceEvent::End) };
        let made = (&mut making.rows).await;
        let index = making.log;
        self.making = None;
        let (data, rows) = made.context(ErrorKind::Internal, || "generate rows")??;
        let count = rows.len() as u64;
        let log = &mut self.logs[index];
        let from = log.next.checked_sub(1).map(offset).transpose()?;
        log.next = log.next.saturating_add(count);
        let range = Range { from, to: offset(log.next.saturating_sub(1))? };
        let batch = RawBatch {
            partition: log.id.clone(),
            range,
            origin: log.origin.clone(),
            data,
            rows,
            rejects: vec![],
            header: None,
            skipped: 0,
        };
        self.turn = index + 1;
        self.pace.given = self.pace.given.saturating_add(count);
        if self.rate.is_none() {
            // The next ones are made while these are written.
            self.make().await;
        }
        Ok(SourceEvent::Batch(batch))
    }

    async fn release(&mut self, _checkpoint: &Checkpoint) -> Result<()> {
        Ok(())
    }

    fn identity(&self) -> String {
        format!("replay:{}", self.seed)
    }
}

fn offset(row: u64) -> Result<Position> {
    let row = i64::try_from(row).map_err(|e| Error::new(ErrorKind::Internal, "a replay offset").with_source(e))?;
    Ok(Position::Offset(row))
}

/// Up to `rows` rows from `first` on, fewer when the batch is full; at least one.
fn generate(shop: &Shop, partition: u32, first: u64, rows: u64) -> (Bytes, Vec<RawRow>) {
    let mut data = Vec::with_capacity(BATCH_BYTES + 2 * 1024);
    let mut cut = Vec::with_capacity(usize::try_from(rows.min(2_048)).unwrap_or(0));
    for number in first..first.saturating_add(rows.max(1)) {
        let start = u32::try_from(data.len()).unwrap_or(u32::MAX);
        let written = shop.write(partition, number, &mut data);
        let end = u32::try_from(data.len()).unwrap_or(u32::MAX);
        data.push(b'\n');
        cut.push(RawRow { start, end, number, timestamp_ms: i64::try_from(written).ok(), ..RawRow::default() });
        if data.len() >= BATCH_BYTES {
            break;
        }
    }
    (data.into(), cut)
}

#[cfg(test)]
mod tests;
