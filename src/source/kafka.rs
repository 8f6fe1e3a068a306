//! Topics of a Kafka cluster, read by a consumer group.
//!
//! **Position.** The offset of the last row of a partition; partitions are named `topic/partition`. Where reading goes on is the
//! table's to say: the group's offsets are committed after it, for people and their tools.
//!
//! **Rebalance.** A partition that is taken away is given away at once; rows of it that are not committed are dropped, and if they
//! are under way the table decides, for its checkpoint has moved or not. A partition that is gained is read once its position was
//! looked up in the table.
//!
//! **Which log.** The checkpoint names the cluster and, per partition, what the last row looked like: a topic that was deleted and
//! made again halts the pipeline instead of being skipped. Once retention has removed that row it cannot be verified. While it is read, the
//! topic's id is watched (`kafka_topics`).
//!
//! **A topic that is gone.** One of `topics` that was read is waited for before anything else is read; of one that never was there the log warns, and the others are read.
//!
//! **What is no row.** A record over `row_bytes_max` is a reject, and so is one without a value (a tombstone) unless `tombstones` says
//! that these are passed over: then they are counted, and positions move past them.
//!
//! Memory: `fetch_bytes`, a batch for each partition up to 64 MiB together, and a few batches on their way.

use std::collections::BTreeMap;
use std::sync::mpsc::SyncSender;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use regex::Regex;
use tokio::sync::{mpsc, oneshot};

use crate::config::KafkaConfig;
use crate::config::kafka::KafkaStart;
use crate::env::Env;
use crate::error::{Error, ErrorKind, Result};
use crate::model::checkpoint::{Checkpoint, Delta, Positions};
use crate::model::ids::PartitionId;
use crate::source::gather::Tails;
use crate::source::kafka_client::client;
use crate::source::kafka_reader::{Figures, Order, Reader, Said, State, What};
use crate::source::{Notes, Source, SourceEvent};

/// Batches on their way from the reading thread.
const READY: usize = 4;
/// Orders on their way to it.
const ORDERS: usize = 16;
/// How long leaving the group may take: brokers that are away are not waited for.
const LEAVE: Duration = Duration::from_secs(5);

/// A consumer group's member.
pub struct KafkaSource {
    config: KafkaConfig,
    pattern: Option<Regex>,
    env: Env,
    /// The cluster, once it was found.
    identity: String,
    reading: Option<Reading>,
    generation: u64,
    tails: Tails,
    figures: Arc<Figures>,
}

/// The thread that reads.
struct Reading {
    orders: SyncSender<Order>,
    /// Ends once the client is closed.
    said: mpsc::Receiver<Said>,
    /// Whether it may be a member of the group.
    joined: bool,
}

impl KafkaSource {
    /// A member of the configured group; nothing is asked of the cluster yet.
    ///
    /// # Errors
    /// `Config` for a pattern that is none.
    pub fn new(config: KafkaConfig, env: Env) -> Result<Self> {
        let pattern = config.pattern()?;
        let (identity, tails) = (String::new(), Tails::default());
        let (reading, figures) = (None, Arc::default());
        Ok(Self { config, pattern, env, identity, reading, generation: 0, tails, figures })
    }

    /// The topics that there are to read, with how many partitions each has. For who asks without reading.
    ///
    /// # Errors
    /// As [`Source::connect`]; `NotFound` when a topic that is named is not there, or none is.
    pub async fn topics(&mut self) -> Result<BTreeMap<String, usize>> {
        self.connect().await?;
        let found = self.ask(Order::Topics).await?;
        let missing = self.config.topics.iter().find(|topic| !found.contains_key(*topic));
        let what = match (missing, &self.config.topic_pattern) {
            (Some(topic), _) => format!("topic {topic} is not there, or may not be seen"),
            (None, Some(pattern)) if found.is_empty() => format!("no topic matches {pattern:?}, or none may be seen"),
            _ => return Ok(found),
        };
        Err(Error::new(ErrorKind::NotFound, format!("Kafka: {what}"))
            .with_hint("frazil run waits for it; see also this user's ACLs"))
    }

    /// Starts the reading thread, if there is none.
    fn start(&mut self) -> Result<&mut Reading> {
        if self.reading.as_ref().is_none_or(|reading| reading.said.is_closed()) {
            let (orders, ordered) = std::sync::mpsc::sync_channel(ORDERS);
            let (say, said) = mpsc::channel(READY);
            let reader = Reader {
                client: client(&self.config)?,
                config: self.config.clone(),
                pattern: self.pattern.clone(),
                env: self.env.clone(),
                orders: ordered,
                said: say,
                figures: Arc::clone(&self.figures),
                state: State::default(),
            };
            let env = self.env.clone();
            tokio::spawn(async move {
                if let Err(error) = env.offload(move || reader.run()).await {
                    tracing::error!("the thread that reads Kafka failed: {error}");
                }
            });
            self.reading = Some(Reading { orders, said, joined: false });
        }
        self.reading.as_mut().ok_or_else(gone)
    }

    /// Asks the reading thread.
    async fn ask<T>(&mut self, order: impl FnOnce(oneshot::Sender<Result<T>>) -> Order) -> Result<T> {
        let (reply, answer) = oneshot::channel();
        self.start()?.orders.try_send(order(reply)).map_err(|_| gone())?;
        answer.await.map_err(|_| gone())?
    }
}

fn gone() -> Error {
    Error::new(ErrorKind::Unavailable, "the thread that reads Kafka has ended")
}

#[async_trait]
impl Source for KafkaSource {
    async fn connect(&mut self) -> Result<()> {
        let cluster = match self.ask(Order::Connect).await {
            Ok(cluster) => cluster,
            Err(error) => {
                // With a new client next time: credentials may have been mended.
                self.reading = None;
                return Err(error);
            }
        };
        self.identity = format!("kafka:{cluster}");
        Ok(())
    }

    async fn begins(&mut self) -> Result<Option<Positions>> {
        if self.config.start == KafkaStart::Earliest && self.config.start_offsets.is_empty() {
            return Ok(None);
        }
        self.ask(Order::Begins).await.map(Some)
    }

    async fn open(&mut self, checkpoint: &Checkpoint) -> Result<()> {
        self.generation += 1;
        self.tails.clear();
        let (checkpoint, generation) = (Box::new(checkpoint.clone()), self.generation);
        self.start()?.joined = true;
        self.ask(|reply| Order::Open(checkpoint, generation, reply)).await
    }

    async fn next(&mut self) -> Result<SourceEvent> {
        loop {
            let reading = self.reading.as_mut().ok_or_else(gone)?;
            let Said { generation, what } = reading.said.recv().await.ok_or_else(gone)?;
            match what {
                // Of partitions that were gained or lost the pipeline hears whenever it was.
                What::Gained(partitions) => return Ok(SourceEvent::Assigned(partitions)),
                What::Lost(partitions) => return Ok(SourceEvent::Revoked(partitions)),
                _ if generation != self.generation => {}
                What::Idle => return Ok(SourceEvent::Idle),
                What::Failed(error) => return Err(error),
                What::Batch(batch, tail) => {
                    self.tails.keep(&batch, tail);
                    return Ok(SourceEvent::Batch(batch));
                }
            }
        }
    }

    async fn release(&mut self, checkpoint: &Checkpoint) -> Result<()> {
        self.tails.release(&checkpoint.positions);
        let committed = Order::Committed(checkpoint.positions.clone());
        let reading = self.reading.as_ref().ok_or_else(gone)?;
        reading.orders.try_send(committed).map_err(|_| gone())
    }

    async fn close(&mut self) {
        let Some(Reading { orders, mut said, joined: true }) = self.reading.take() else { return };
        drop(orders);
        let left = async { while said.recv().await.is_some() {} };
        tokio::select! {
            () = left => {}
            () = self.env.sleep(LEAVE) => {
                tracing::warn!("Kafka: group {} was not left in time: its members wait until we are missed", self.config.group);
            }
        }
    }

    fn identity(&self) -> String {
        self.identity.clone()
    }

    fn notes(&self) -> Notes {
        let behind = Arc::clone(&self.figures.behind.lock().unwrap_or_else(PoisonError::into_inner));
        let rows_lost = self.figures.lost.lock().unwrap_or_else(PoisonError::into_inner).totals().clone();
        Notes { rows_behind: Some(behind), rows_lost, ..Notes::default() }
    }

    fn tails(&self, delta: &Delta) -> BTreeMap<PartitionId, String> {
        self.tails.of(delta)
    }
}

#[cfg(test)]
pub(super) mod tests;
