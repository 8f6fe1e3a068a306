//! Questions to a Kafka cluster beside the group: nothing is joined, nothing is committed.

use std::collections::BTreeMap;
use std::time::Duration;

use rdkafka::consumer::Consumer;
use rdkafka::error::KafkaError;
use rdkafka::message::BorrowedMessage;
use rdkafka::{Message, Offset, TopicPartitionList};
use regex::Regex;
use roaring::RoaringTreemap;

use crate::config::Secret;
use crate::config::kafka::{KafkaConfig, Tombstones};
use crate::env::Env;
use crate::error::{Context, Error, ErrorKind, Result};
use crate::model::ids::PartitionId;
use crate::source::kafka_client::{Client, Place, client, meaning, place};

/// How long one request may take, and how long a log may give nothing.
const REQUEST: Duration = Duration::from_secs(30);
/// How long a poll waits.
const POLL: Duration = Duration::from_millis(100);
/// Gaps that are no further from one another are read at one go.
const NEAR: u64 = 1_000;
/// Records that are kept of a topic.
const KEPT_MAX: usize = 10_000_000;

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
    /// Offsets at which it has a record that is committed, and that the source takes for a row.
    pub records: RoaringTreemap,
    /// Offsets below its first one: they cannot be asked for any more.
    pub removed: RoaringTreemap,
    /// Offsets at which it has a record without a value, where the source passes over these.
    pub skipped: RoaringTreemap,
    /// Offsets from its end on, which is where the oldest transaction that is open begins: it does not tell of them yet.
    pub untold: RoaringTreemap,
}

impl Held {
    /// Notes what of a range, whose last offset is in it, lies outside of a log that begins at `low` and ends before `high`.
    fn note_ends(&mut self, (first, last): (u64, u64), low: u64, high: u64) {
        self.removed.insert_range(first..last.saturating_add(1).min(low));
        self.untold.insert_range(first.max(high)..=last);
    }
}

/// A record of a topic.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Told {
    /// Its partition.
    pub partition: i32,
    /// Its offset.
    pub offset: i64,
    /// Its key.
    pub key: Vec<u8>,
    /// Its value.
    pub value: Vec<u8>,
}

/// A consumer group of others.
#[derive(Debug, Clone, Default)]
pub struct Group<T> {
    /// Its members now.
    pub members: usize,
    /// What it has committed, by `topic/partition`.
    pub offsets: BTreeMap<String, i64>,
    /// What was kept of the topic beside it.
    pub records: Vec<T>,
    /// The first offset that each partition of that topic still has.
    pub begins: BTreeMap<i32, i64>,
}

/// A client that asks.
pub struct Probe {
    client: Client,
    group: String,
    tombstones: Tombstones,
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
        Ok(Self { client: client(&own)?, group: own.group, tombstones: own.tombstones, env: env.clone() })
    }

    /// What each log has at these offsets.
    ///
    /// # Errors
    /// `Config` for a log that is none of Kafka's; `Unavailable`, `Denied` and others as the brokers say.
    pub async fn records_at(self, gaps: Vec<Gaps>) -> Result<Vec<Held>> {
        let env = self.env.clone();
        env.offload(move || gaps.iter().map(|gaps| self.held(gaps)).collect()).await?
    }

    /// What a group of others has, and what `keep` takes of the records of a topic that goes with it: each is given once, in the
    /// order of its partition, and dropped where nothing comes of it.
    ///
    /// # Errors
    /// As [`Probe::records_at`], and those of `keep`; `Unsupported` when more is kept than fits into memory.
    pub async fn group<T: Send + 'static>(
        self,
        topics: Vec<String>,
        pattern: Option<Regex>,
        beside: String,
        mut keep: impl FnMut(Told) -> Result<Option<T>> + Send + 'static,
    ) -> Result<Group<T>> {
        let env = self.env.clone();
        env.offload(move || self.asked(&topics, pattern.as_ref(), &beside, &mut keep)).await?
    }

    fn asked<T>(
        &self,
        topics: &[String],
        pattern: Option<&Regex>,
        beside: &str,
        keep: &mut impl FnMut(Told) -> Result<Option<T>>,
    ) -> Result<Group<T>> {
        let groups = self.client.fetch_group_list(Some(&self.group), REQUEST);
        let groups = groups.map_err(|error| self.said(&self.group, &error))?;
        let own = groups.groups().iter().filter(|own| own.name() == self.group);
        let members = own.map(|own| own.members().len()).sum();
        let metadata = self.client.fetch_metadata(None, REQUEST).map_err(|error| self.said(&self.group, &error))?;
        let mut list = TopicPartitionList::new();
        for topic in metadata.topics() {
            let matches = pattern.is_some_and(|pattern| {
                pattern.find(topic.name()).is_some_and(|found| found.start() == 0 && found.end() == topic.name().len())
            });
            if matches || topics.iter().any(|name| name == topic.name()) {
                for own in topic.partitions() {
                    list.add_partition(topic.name(), own.id());
                }
            }
        }
        let committed = self.client.committed_offsets(list, REQUEST).map_err(|error| self.said(&self.group, &error))?;
        let offset = |own: rdkafka::topic_partition_list::TopicPartitionListElem<'_>| match own.offset() {
            Offset::Offset(offset) => Some((format!("{}/{}", own.topic(), own.partition()), offset)),
            _ => None,
        };
        let offsets = committed.elements().into_iter().filter_map(offset).collect();
        let (mut records, mut begins) = (Vec::new(), BTreeMap::new());
        for own in metadata.topics().iter().filter(|own| own.name() == beside).flat_map(|own| own.partitions()) {
            begins.insert(own.id(), self.records(beside, own.id(), &mut records, keep)?);
        }
        Ok(Group { members, offsets, records, begins })
    }

    /// Gives each committed record of a partition; answers its first offset.
    fn records<T>(
        &self,
        topic: &str,
        partition: i32,
        records: &mut Vec<T>,
        keep: &mut impl FnMut(Told) -> Result<Option<T>>,
    ) -> Result<i64> {
        let ends = self.client.fetch_watermarks(topic, partition, REQUEST);
        let (begin, high) = ends.map_err(|error| self.said(topic, &error))?;
        let (low, high) = (u64::try_from(begin).unwrap_or(0), u64::try_from(high).unwrap_or(0));
        let take = |record: &BorrowedMessage<'_>| {
            let (key, value) = (record.key().unwrap_or_default(), record.payload().unwrap_or_default());
            let told = Told { partition, offset: record.offset(), key: key.to_vec(), value: value.to_vec() };
            let kept = keep(told).map_err(|error| error.within(topic))?;
            if records.len() >= KEPT_MAX && kept.is_some() {
                let what = format!("topic {topic} holds more than can be looked through");
                return Err(Error::new(ErrorKind::Unsupported, what)
                    .with_hint("let its records expire earlier (retention.ms), and ask again"));
            }
            records.extend(kept);
            Ok(())
        };
        if low < high {
            self.each(&(topic.to_owned(), partition), low, high, take)?;
        }
        Ok(begin)
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
            held.note_ends((*first, *last), low, high);
            let (first, end) = ((*first).max(low), last.saturating_add(1).min(high));
            if first < end {
                match spans.last_mut().filter(|span| first - span.1 <= NEAR) {
                    Some(span) => span.1 = end,
                    None => spans.push((first, end)),
                }
            }
        }
        for (first, end) in spans {
            let note = |record: &BorrowedMessage<'_>| {
                let skipped = self.tombstones == Tombstones::Skip && record.payload().is_none();
                let held = if skipped { &mut held.skipped } else { &mut held.records };
                held.insert(u64::try_from(record.offset()).unwrap_or(0));
                Ok(())
            };
            self.each(&place, first, end, note).map_err(|error| error.within(&gaps.log))?;
        }
        // A log that ends earlier than it did gave less than it was asked for.
        let ends = self.client.fetch_watermarks(&place.0, place.1, REQUEST);
        let now = ends.map_err(|error| self.said(&gaps.log, &error))?.1;
        let now = u64::try_from(now).unwrap_or(0);
        if now < high {
            gaps.ranges.iter().for_each(|range| held.note_ends(*range, 0, now));
            held.untold -= &held.records;
            held.untold -= &held.skipped;
        }
        Ok(held)
    }

    /// Gives each committed record from `first` up to `end`.
    fn each(
        &self,
        place: &Place,
        first: u64,
        end: u64,
        mut take: impl FnMut(&BorrowedMessage<'_>) -> Result<()>,
    ) -> Result<()> {
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
                        take(&record)?;
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_lies_before_a_log_is_removed_and_what_lies_behind_it_not_told() {
        let mut held = Held::default();
        held.note_ends((3, 12), 5, 10);
        held.note_ends((20, u64::MAX), 5, u64::MAX - 1);
        assert_eq!(held.removed.iter().collect::<Vec<_>>(), [3, 4]);
        assert_eq!(held.untold.iter().collect::<Vec<_>>(), [10, 11, 12, u64::MAX - 1, u64::MAX]);
    }
}
