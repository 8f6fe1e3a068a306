//! Questions to a Kafka cluster beside the group: nothing is joined, nothing is committed.

use std::time::Duration;

use rdkafka::consumer::Consumer;
use rdkafka::error::KafkaError;
use rdkafka::{Message, Offset, TopicPartitionList};
use roaring::RoaringTreemap;

use crate::config::Secret;
use crate::config::kafka::KafkaConfig;
use crate::env::Env;
use crate::error::{Context, Error, ErrorKind, Result};
use crate::model::ids::PartitionId;
use crate::source::gather::place;
use crate::source::kafka_client::{Client, Place, client, meaning};

/// How long one request may take, and how long a log may give nothing.
const REQUEST: Duration = Duration::from_secs(30);
/// How long a poll waits.
const POLL: Duration = Duration::from_millis(100);
/// Gaps that are no further from one another are read at one go.
const NEAR: u64 = 1_000;

/// Ranges of offsets of one log, in order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Gaps {
    /// The log, as `topic/partition`.
    pub log: String,
    /// The first and last offset of each.
    pub ranges: Vec<(u64, u64)>,
}

/// What a log has at the offsets it was asked for.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Held {
    /// The log.
    pub log: String,
    /// Offsets at which it has a record that is committed.
    pub records: RoaringTreemap,
    /// Offsets below its first and above its last one: they cannot be asked for.
    pub removed: RoaringTreemap,
}

/// A client that asks.
pub struct Probe {
    client: Client,
    env: Env,
}

impl Probe {
    /// A client of the cluster; nothing is asked yet.
    ///
    /// # Errors
    /// `Config` for a property that is refused.
    pub fn new(config: &KafkaConfig, env: &Env) -> Result<Self> {
        let mut own = config.clone();
        // The end of a log is told, where no record is.
        own.properties.insert("enable.partition.eof".to_owned(), Secret::new("true"));
        Ok(Self { client: client(&own)?, env: env.clone() })
    }

    /// What each log has at these offsets.
    ///
    /// # Errors
    /// `Config` for a log that is none of Kafka's; `Unavailable`, `Denied` and others as the brokers say.
    pub async fn records_at(self, gaps: Vec<Gaps>) -> Result<Vec<Held>> {
        let env = self.env.clone();
        env.offload(move || gaps.iter().map(|gaps| self.held(gaps)).collect()).await?
    }

    fn held(&self, gaps: &Gaps) -> Result<Held> {
        let place = place(&PartitionId::new(gaps.log.as_str())).ok_or_else(|| {
            let what = format!("log {:?} is no partition of a topic", gaps.log);
            Error::new(ErrorKind::Config, what).with_hint("the columns of topic and partition do not fit the source")
        })?;
        let ends = self.client.fetch_watermarks(&place.0, place.1, REQUEST);
        let (low, high) = ends.map_err(|error| self.said(&gaps.log, &error))?;
        let (low, high) = (u64::try_from(low).unwrap_or(0), u64::try_from(high).unwrap_or(0));
        let mut held = Held { log: gaps.log.clone(), ..Held::default() };
        let mut spans: Vec<(u64, u64)> = Vec::new();
        for (first, last) in &gaps.ranges {
            held.removed.insert_range(*first..(*last + 1).min(low));
            held.removed.insert_range((*first).max(high)..=*last);
            let (first, end) = ((*first).max(low), (*last + 1).min(high));
            if first < end {
                match spans.last_mut().filter(|span| first - span.1 <= NEAR) {
                    Some(span) => span.1 = end,
                    None => spans.push((first, end)),
                }
            }
        }
        for (first, end) in spans {
            self.read(&place, first, end, &mut held.records).map_err(|error| error.within(&gaps.log))?;
        }
        Ok(held)
    }

    /// Notes the offsets of all records from `first` up to `end`.
    fn read(&self, place: &Place, first: u64, end: u64, records: &mut RoaringTreemap) -> Result<()> {
        let mut list = TopicPartitionList::new();
        let at = i64::try_from(first).map_or(Offset::End, Offset::Offset);
        let assigned = list.add_partition_offset(&place.0, place.1, at).and_then(|()| self.client.assign(&list));
        assigned.context(ErrorKind::Unavailable, || "Kafka: a log cannot be read")?;
        let mut since = self.env.now_ms();
        loop {
            match self.client.poll(POLL) {
                Some(Ok(record)) => {
                    since = self.env.now_ms();
                    let offset = u64::try_from(record.offset()).unwrap_or(0);
                    if offset >= end {
                        return Ok(());
                    }
                    // What is left of the last one that was read may come first.
                    if offset >= first {
                        records.insert(offset);
                    }
                    if offset + 1 == end {
                        return Ok(());
                    }
                }
                Some(Err(KafkaError::PartitionEOF(_))) => return Ok(()),
                Some(Err(error)) => {
                    if let Some(error) = meaning(&error, &error.to_string()) {
                        return Err(error);
                    }
                }
                None if self.env.now_ms().saturating_sub(since) > i64::try_from(REQUEST.as_millis()).unwrap_or(0) => {
                    let silent = || Error::new(ErrorKind::Unavailable, "Kafka: the brokers give nothing");
                    return Err(self.client.context().trouble().unwrap_or_else(silent));
                }
                None => {}
            }
        }
    }

    fn said(&self, log: &str, error: &KafkaError) -> Error {
        let own = self.client.context().trouble().or_else(|| meaning(error, &error.to_string()));
        own.unwrap_or_else(|| Error::new(ErrorKind::Unavailable, "Kafka does not answer")).within(log)
    }
}

impl std::fmt::Debug for Probe {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Probe").finish_non_exhaustive()
    }
}
