//! The thread that reads a Kafka cluster for a pipeline.
//!
//! It polls without pause, so that rebalances are answered at once however long a commit takes. Rows go to the pipeline over a
//! bounded channel; when that is full, nothing is taken from the client, and after a while its partitions are paused.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::mpsc::{Receiver, RecvTimeoutError, TryRecvError};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rdkafka::consumer::{CommitMode, Consumer};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{BorrowedMessage, Headers};
use rdkafka::{Message, Offset, TopicPartitionList};
use regex::Regex;
use tokio::sync::{mpsc, oneshot};

use crate::config::kafka::{KafkaConfig, KafkaStart};
use crate::env::Env;
use crate::error::{Context, Error, ErrorKind, Result};
use crate::model::batch::RawBatch;
use crate::model::checkpoint::{Checkpoint, Position, Positions};
use crate::model::ids::PartitionId;
use crate::source::gather::{Gaps, Log, Record};
use crate::source::kafka_client::{Client, Ownership, Place, REFRESH_MS, Trouble, meaning, name, place};

/// How long one request to the brokers may take.
pub(super) const REQUEST: Duration = Duration::from_secs(10);
/// How long the cluster may take to answer for the first time.
const CONNECT_MS: i64 = 30_000;
/// How long it may not answer before the pipeline is told.
pub(super) const SILENCE_MS: i64 = 30_000;
/// How long a poll waits for a record.
const POLL: Duration = Duration::from_millis(50);
/// How long rows wait for others, so that batches are worth their while.
const LINGER_MS: i64 = 100;
/// How often it says that nothing is there: what it counts is looked at then.
pub(super) const IDLE_MS: i64 = 5_000;
/// How long the pipeline may take nothing before partitions are paused: it lets go of what was fetched.
const PAUSE_MS: i64 = 500;
/// Bytes at which a batch is closed, and bytes of all that are not full.
const BATCH_BYTES: usize = 1 << 20;
const GATHERED_BYTES: usize = 64 << 20;

/// What the pipeline asks for.
pub(super) enum Order {
    /// Find the cluster.
    Connect(oneshot::Sender<Result<String>>),
    /// Where a pipeline begins that was never here.
    Begins(oneshot::Sender<Result<Positions>>),
    /// Which topics there are to read, with how many partitions.
    Topics(oneshot::Sender<Result<BTreeMap<String, usize>>>),
    /// Read after this checkpoint; what is said from now on is said in this generation.
    Open(Box<Checkpoint>, u64, oneshot::Sender<Result<()>>),
    /// These positions are committed.
    Committed(Positions),
}

/// What is said to the pipeline.
pub(super) struct Said {
    pub(super) generation: u64,
    pub(super) what: What,
}

/// What happened.
#[allow(clippy::large_enum_variant)] // nearly all are batches
pub(super) enum What {
    /// Rows, and what the last record looks like.
    Batch(RawBatch, String),
    Gained(Vec<PartitionId>),
    Lost(Vec<PartitionId>),
    Idle,
    Failed(Error),
}

/// What the thread counts.
#[derive(Debug, Default)]
pub(super) struct Figures {
    /// Rows between the last ones read and the ends, by partition.
    pub(super) behind: Mutex<Arc<BTreeMap<PartitionId, u64>>>,
    /// Rows that were removed before they were read.
    pub(super) lost: Mutex<Gaps>,
}

/// The thread's state.
pub(super) struct Reader {
    /// The first to be dropped: once `said` has ended, the group is left.
    pub(super) client: Client,
    pub(super) config: KafkaConfig,
    pub(super) pattern: Option<Regex>,
    pub(super) env: Env,
    pub(super) orders: Receiver<Order>,
    pub(super) said: mpsc::Sender<Said>,
    pub(super) figures: Arc<Figures>,
    pub(super) state: State,
}

/// What changes while it reads.
#[derive(Default)]
pub(super) struct State {
    pub(super) generation: u64,
    /// By topic and partition.
    pub(super) logs: BTreeMap<String, BTreeMap<i32, Log>>,
    pub(super) subscribed: Vec<String>,
    pub(super) refreshed_ms: i64,
    /// Topics that are others than those of which rows were read, and in which generation that was told last.
    pub(super) anew: BTreeSet<String>,
    pub(super) told: Option<u64>,
    /// Topics by name that are not there, since when, and when that was looked for.
    pub(super) missing: BTreeMap<String, i64>,
    pub(super) looked_ms: i64,
    /// When the client missed one last.
    pub(super) missed_ms: Option<i64>,
    /// Topics that were there once: they have positions, or had partitions that were ours.
    pub(super) read: BTreeSet<String>,
    /// Partitions of ours that no broker leads, and when that was looked for.
    pub(super) led_by_none: BTreeSet<Place>,
    pub(super) led_ms: i64,
    counted_ms: i64,
    pub(super) pending: VecDeque<Said>,
    /// Since when the pipeline takes nothing.
    full_since_ms: Option<i64>,
    pub(super) paused: bool,
    /// When it last said that nothing is there; none since rows came.
    pub(super) idle_ms: Option<i64>,
    /// What the client could not mend so far.
    pub(super) trouble: Option<Trouble>,
    /// The client does nothing any more: the next opening makes another one.
    is_over: bool,
}

impl Reader {
    /// Reads until the pipeline lets go of it.
    pub(super) fn run(mut self) {
        loop {
            let order = match self.orders.try_recv() {
                Err(TryRecvError::Disconnected) => return,
                order => order.ok(),
            };
            if let Some(order) = order {
                self.obey(order);
                continue;
            }
            if self.deliver().is_err() || self.state.is_over {
                return;
            }
            if self.state.pending.is_empty() {
                self.read();
            } else if self.wait_for_room() {
                return;
            }
            self.notice();
        }
    }

    fn obey(&mut self, order: Order) {
        match order {
            Order::Connect(reply) => drop(reply.send(self.connect())),
            Order::Begins(reply) => drop(reply.send(self.begins())),
            Order::Topics(reply) => {
                let counted = |topics: BTreeMap<String, Vec<i32>>| {
                    topics.into_iter().map(|(topic, partitions)| (topic, partitions.len())).collect()
                };
                drop(reply.send(self.topics().map(counted)));
            }
            Order::Open(checkpoint, generation, reply) => {
                self.state.generation = generation;
                drop(reply.send(self.open(&checkpoint)));
            }
            Order::Committed(positions) => self.commit(&positions),
        }
    }

    pub(super) fn say(&mut self, what: What) {
        self.state.pending.push_back(Said { generation: self.state.generation, what });
    }

    /// Hands over what waits, as far as there is room.
    fn deliver(&mut self) -> Result<(), ()> {
        while let Some(said) = self.state.pending.pop_front() {
            match self.said.try_send(said) {
                Ok(()) => self.state.full_since_ms = None,
                Err(mpsc::error::TrySendError::Full(said)) => {
                    self.state.pending.push_front(said);
                    self.state.full_since_ms.get_or_insert(self.env.now_ms());
                    return Ok(());
                }
                Err(mpsc::error::TrySendError::Closed(_)) => return Err(()),
            }
        }
        Ok(())
    }

    /// Waits a moment for the pipeline; says whether it is gone.
    fn wait_for_room(&mut self) -> bool {
        let since = self.state.full_since_ms.unwrap_or_default();
        if self.env.now_ms().saturating_sub(since) < PAUSE_MS {
            return match self.orders.recv_timeout(Duration::from_millis(1)) {
                Ok(order) => {
                    self.obey(order);
                    false
                }
                Err(RecvTimeoutError::Timeout) => false,
                Err(RecvTimeoutError::Disconnected) => true,
            };
        }
        if !self.state.paused {
            self.pause(true);
        }
        // Serves rebalances; of rows nothing comes while all are paused.
        self.poll(POLL);
        false
    }

    fn pause(&mut self, paused: bool) {
        let open = self.list(|log| log.is_open().then_some(Offset::Invalid));
        let done = if paused { self.client.pause(&open) } else { self.client.resume(&open) };
        match done {
            Ok(()) => self.state.paused = paused,
            Err(error) => tracing::debug!("kafka: {error}"),
        }
    }

    /// Takes what the client has.
    fn read(&mut self) {
        if self.state.paused {
            self.pause(false);
        }
        let came = self.poll(POLL);
        let now = self.env.now_ms();
        let limit = BATCH_BYTES.min(GATHERED_BYTES / self.logs().count().max(1));
        let mut ready = Vec::new();
        for log in self.state.logs.values_mut().flat_map(BTreeMap::values_mut).filter(|log| !log.is_empty()) {
            if log.is_full(limit) || now.saturating_sub(log.since_ms()) >= LINGER_MS {
                ready.extend(log.batch());
            }
        }
        for (batch, tail) in ready {
            self.state.idle_ms = None;
            self.say(What::Batch(batch, tail));
        }
        let said = self.state.idle_ms.is_some_and(|then| now.saturating_sub(then) < IDLE_MS);
        if !came && !said && self.logs().all(Log::is_empty) {
            self.state.idle_ms = Some(now);
            self.say(What::Idle);
        }
    }

    /// Takes records while they come and no batch is full; says whether any came.
    fn poll(&mut self, timeout: Duration) -> bool {
        let limit = BATCH_BYTES.min(GATHERED_BYTES / self.logs().count().max(1));
        let (mut came, mut wait) = (false, timeout);
        let begun = self.env.now_ms();
        loop {
            let failed = match self.client.poll(wait) {
                None => return came,
                Some(Ok(record)) => {
                    self.state.hear(self.client.context());
                    if self.state.anew.contains(record.topic()) {
                        return came;
                    }
                    came = true;
                    let log = self.state.logs.get_mut(record.topic());
                    let log = log.and_then(|topic| topic.get_mut(&record.partition()));
                    match log.map(|log| (log.take(read(&record), self.config.row_bytes_max, begun), log.is_full(limit)))
                    {
                        None | Some((Ok(()), false)) => None,
                        Some((Ok(()), true)) => return came,
                        Some((Err(error), _)) => Some(error),
                    }
                }
                Some(Err(error)) => self.failed(&error),
            };
            if let Some(error) = failed {
                self.say(What::Failed(error));
                return came;
            }
            // A steady trickle must not keep what is here from being given.
            if self.env.now_ms().saturating_sub(begun) >= LINGER_MS {
                return came;
            }
            wait = Duration::from_millis(1);
        }
    }

    /// What an error of the client means for the pipeline now; what it mends by itself is kept in mind.
    fn failed(&mut self, error: &KafkaError) -> Option<Error> {
        let own = self.client.context().trouble().or_else(|| meaning(error, &error.to_string()))?;
        let gone = error.rdkafka_error_code() == Some(RDKafkaErrorCode::AutoOffsetReset);
        self.state.is_over |= matches!(error, KafkaError::MessageConsumptionFatal(_));
        if own.kind() != ErrorKind::Unavailable || gone || self.state.is_over {
            return Some(own);
        }
        tracing::warn!("{own}");
        // Rows of other topics are no sign of this one.
        if self.state.hear_missing(error, self.env.now_ms()) && self.misses() {
            return None;
        }
        self.state.trouble = Some(Trouble::after(self.state.trouble.take(), error, own, self.env.now_ms()));
        None
    }

    /// Rebalances, topics that appeared, and trouble that lasts.
    fn notice(&mut self) {
        for change in self.client.context().changes() {
            let ids = |places: &[Place]| places.iter().map(|place| PartitionId::new(name(place))).collect();
            match change {
                Ownership::Gained(places) => {
                    for place in &places {
                        self.state.missing.remove(&place.0);
                        self.state.read.insert(place.0.clone());
                        let topic = self.state.logs.entry(place.0.clone()).or_default();
                        let log =
                            Log::new(PartitionId::new(name(place)), place.0.as_str().into(), self.config.tombstones);
                        topic.insert(place.1, log);
                    }
                    self.state.trouble = None;
                    self.say(What::Gained(ids(&places)));
                }
                Ownership::Lost(places) => {
                    for (topic, partition) in &places {
                        if let Some(logs) = self.state.logs.get_mut(topic) {
                            logs.remove(partition);
                        }
                        self.state.led_by_none.remove(&(topic.clone(), *partition));
                    }
                    self.say(What::Lost(ids(&places)));
                }
            }
        }
        self.notice_anew();
        let now = self.env.now_ms();
        self.notice_missing(now);
        self.notice_leaders(now);
        if now.saturating_sub(self.state.counted_ms) >= LINGER_MS {
            self.state.counted_ms = now;
            let (now, mut told) = (self.behind(), self.figures.behind.lock().unwrap_or_else(PoisonError::into_inner));
            if **told != now {
                *told = Arc::new(now);
            }
        }
        if self.pattern.is_some() && now.saturating_sub(self.state.refreshed_ms) >= REFRESH_MS {
            let subscribed = !self.state.subscribed.is_empty() || self.state.refreshed_ms > 0;
            if subscribed && let Err(error) = self.subscribe() {
                tracing::warn!("{error}");
            }
        }
        // Rows are the best sign; where none come, brokers that answer again are enough.
        let (rows, answers) = (self.logs().any(|log| !log.is_empty()), self.client.context().answers());
        self.state.trouble.take_if(|held| rows || (answers && held.connection));
        if let Some(held) = self.state.trouble.take_if(|held| now.saturating_sub(held.since_ms) >= SILENCE_MS) {
            self.say(What::Failed(held.error));
        }
    }

    /// Rows that wait to be read in the partitions that are ours.
    fn behind(&self) -> BTreeMap<PartitionId, u64> {
        let of = |topic: &String, (partition, log): (&i32, &Log)| {
            let place = (topic.clone(), *partition);
            (PartitionId::new(name(&place)), self.client.context().behind(&place, log.at()))
        };
        self.state.logs.iter().flat_map(|(topic, logs)| logs.iter().map(move |one| of(topic, one))).collect()
    }

    fn logs(&self) -> impl Iterator<Item = &Log> {
        self.state.logs.values().flat_map(BTreeMap::values)
    }

    /// The partitions for which `offset` has one.
    pub(super) fn list(&self, offset: impl Fn(&Log) -> Option<Offset>) -> TopicPartitionList {
        let mut list = TopicPartitionList::new();
        for (topic, logs) in &self.state.logs {
            for (partition, log) in logs {
                if let Some(offset) = offset(log) {
                    // Fails for offsets that cannot be, of which there are none.
                    let _ = list.add_partition_offset(topic, *partition, offset);
                }
            }
        }
        list
    }

    /// Waits for the cluster; answers its id.
    fn connect(&mut self) -> Result<String> {
        let begun = self.env.now_ms();
        let mut last = None;
        loop {
            if let Some(id) =
                self.client.client().fetch_cluster_id(Duration::from_millis(500)).filter(|id| !id.is_empty())
            {
                return Ok(id);
            }
            // Wrong credentials show in callbacks only, which polls serve.
            if let Some(Err(error)) = self.client.poll(Duration::from_millis(50)) {
                self.state.hear_missing(&error, self.env.now_ms());
                last = meaning(&error, &error.to_string()).or(last);
            }
            last = self.client.context().trouble().or(last);
            let over = self.env.now_ms().saturating_sub(begun) >= CONNECT_MS;
            match last.take() {
                Some(error) if over || error.kind() != ErrorKind::Unavailable => return Err(error),
                None if over => {
                    let text = format!("Kafka: no answer from {}", self.config.brokers.join(", "));
                    return Err(Error::new(ErrorKind::Unavailable, text));
                }
                kept => last = kept,
            }
        }
    }

    /// The last offsets before where a pipeline begins that was never here.
    fn begins(&self) -> Result<Positions> {
        let mut first: BTreeMap<Place, i64> = BTreeMap::new();
        if self.config.start != KafkaStart::Earliest {
            let topics = self.topics()?;
            let missing: Vec<&str> =
                self.config.topics.iter().map(String::as_str).filter(|name| !topics.contains_key(*name)).collect();
            if !missing.is_empty() {
                let text =
                    format!("Kafka: where to begin is not known while topic {} is not there", missing.join(", "));
                return Err(
                    Error::new(ErrorKind::Unavailable, text).with_hint("create it, or mend its name in `topics`")
                );
            }
            let all = topics.into_iter().flat_map(|(topic, own)| own.into_iter().map(move |p| (topic.clone(), p)));
            for place in all {
                let (_, high) = self.watermarks(&place)?;
                first.insert(place, high);
            }
            if let KafkaStart::Time(time_ms) = self.config.start {
                self.first_of(time_ms, &mut first)?;
            }
        }
        for (id, offset) in &self.config.start_offsets {
            first.extend(place(&PartitionId::new(id.as_str())).map(|place| (place, *offset)));
        }
        let before = |(place, first): (Place, i64)| {
            let last = first.checked_sub(1).filter(|last| *last >= 0)?;
            Some((PartitionId::new(name(&place)), Position::Offset(last)))
        };
        Ok(first.into_iter().filter_map(before).collect())
    }

    /// The first offsets of this time, where there are any.
    fn first_of(&self, time_ms: i64, first: &mut BTreeMap<Place, i64>) -> Result<()> {
        let mut times = TopicPartitionList::new();
        for (topic, partition) in first.keys() {
            let added = times.add_partition_offset(topic, *partition, Offset::Offset(time_ms));
            added.context(ErrorKind::Config, || "Kafka: start lies before 1970")?;
        }
        let found = self.client.offsets_for_times(times, REQUEST);
        let found = found.context(ErrorKind::Unavailable, || "Kafka: look for the offsets of a time")?;
        for element in found.elements() {
            element.error().context(ErrorKind::Unavailable, || "Kafka: look for the offset of a time")?;
            if let Offset::Offset(offset) = element.offset() {
                first.insert((element.topic().to_owned(), element.partition()), offset);
            }
        }
        Ok(())
    }

    pub(super) fn watermarks(&self, (topic, partition): &Place) -> Result<(i64, i64)> {
        let found = self.client.fetch_watermarks(topic, *partition, REQUEST);
        found.context(ErrorKind::Unavailable, || format!("Kafka {topic}/{partition}: where it begins and ends"))
    }

    /// Tells the group, for people and their tools.
    fn commit(&self, positions: &Positions) {
        let mut list = TopicPartitionList::new();
        for (id, position) in positions {
            if let (Some((topic, partition)), Position::Offset(offset)) = (place(id), position)
                && self.state.logs.get(&topic).is_some_and(|logs| logs.contains_key(&partition))
            {
                let _ = list.add_partition_offset(&topic, partition, Offset::Offset(offset.saturating_add(1)));
            }
        }
        if list.count() > 0
            && let Err(error) = self.client.commit(&list, CommitMode::Async)
        {
            tracing::debug!("kafka: the group's offsets were not committed: {error}");
        }
    }
}

/// A record as the client has it.
fn read<'a>(record: &'a BorrowedMessage<'_>) -> Record<'a> {
    Record {
        offset: record.offset(),
        timestamp_ms: record.timestamp().to_millis(),
        key: record.key(),
        value: record.payload(),
        headers: record.headers().map(headers_json),
    }
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
