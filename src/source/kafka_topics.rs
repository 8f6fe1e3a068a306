//! The topics of a Kafka source: which there are, which went away, and which are others than before under the same name.

use std::collections::BTreeMap;

use rdkafka::consumer::Consumer;
use rdkafka::error::{KafkaError, RDKafkaErrorCode as Code};

use crate::config::kafka::KafkaConfig;
use crate::error::{Context, Error, ErrorKind, Result};
use crate::model::checkpoint::Checkpoint;
use crate::source::gather::{self, Log};
use crate::source::kafka_client::{Callbacks, place};
use crate::source::kafka_reader::{IDLE_MS, REQUEST, Reader, SILENCE_MS, State, What};

/// How often it is looked for topics at most, however often the client misses one.
const LOOK_MS: i64 = 1_000;
/// What the client has to log of topics so that it tells of one that was made anew.
const LOGGED: &str = "topic";
/// How it says so: topic, id before, id now.
const CHANGED: &str = " changed id from ";

/// Which topics stand behind the names, by the client's own word.
///
/// librdkafka takes over the id of a topic that was made anew and reads on at the old offset: a debug line is all that tells. That is
/// enough, for the line comes before any row: rows are fetched by the id, which is taken over after the line was written, and
/// lines go before rows in the client's queue.
#[derive(Debug, Default)]
pub(super) struct Ids {
    known: BTreeMap<String, String>,
    anew: Vec<String>,
}

impl Ids {
    /// What `debug` must be for this, whatever else is wanted of it.
    pub(super) fn logged(config: &KafkaConfig) -> String {
        let own = config.properties.get("debug").map(|own| own.expose());
        own.filter(|own| !own.is_empty()).map_or_else(|| LOGGED.to_owned(), |own| format!("{own},{LOGGED}"))
    }

    /// Reads a line of the client's log; says whether a topic was made anew.
    pub(super) fn hear(&mut self, line: &str) -> bool {
        let Some((before, ids)) = line.split_once(CHANGED) else { return false };
        let (Some(topic), Some((_, id))) = (before.rsplit(' ').next(), ids.split_once(" to ")) else { return false };
        // Brokers that know of no ids say zero, as some do while a cluster is upgraded.
        if id.bytes().all(|byte| byte == b'A') {
            return false;
        }
        let held = self.known.insert(topic.to_owned(), id.to_owned());
        let is_anew = held.is_some_and(|held| held != id);
        if is_anew {
            self.anew.push(topic.to_owned());
        }
        is_anew
    }

    /// The topics that were made anew since it was last asked.
    pub(super) fn anew(&mut self) -> Vec<String> {
        std::mem::take(&mut self.anew)
    }
}

impl State {
    /// Takes note of topics that were made anew: nothing is taken of them until they are opened again, for the client reads on where
    /// it was in the one before.
    pub(super) fn hear(&mut self, callbacks: &Callbacks) {
        self.anew.extend(callbacks.anew());
    }

    /// Takes note that the client missed a topic. It says so once.
    pub(super) fn hear_missing(&mut self, error: &KafkaError, now_ms: i64) -> bool {
        let missing = matches!(error.rdkafka_error_code(), Some(Code::UnknownTopic | Code::UnknownTopicOrPartition));
        if missing {
            self.missed_ms = Some(now_ms);
        }
        missing
    }
}

impl Reader {
    /// The topics that are to be read, with their partitions.
    pub(super) fn topics(&self) -> Result<BTreeMap<String, Vec<i32>>> {
        let mut found = BTreeMap::new();
        let all = self.client.client().fetch_metadata(None, REQUEST);
        let all = all.context(ErrorKind::Unavailable, || "Kafka: list the topics")?;
        for topic in all.topics() {
            let wanted = match &self.pattern {
                Some(pattern) => pattern.is_match(topic.name()),
                None => self.config.topics.iter().any(|name| name == topic.name()),
            };
            if wanted && topic.error().is_none() {
                let partitions = topic.partitions().iter().map(rdkafka::metadata::MetadataPartition::id);
                found.insert(topic.name().to_owned(), partitions.collect());
            }
        }
        Ok(found)
    }

    /// Subscribes to the topics that are there, when these are others than before.
    pub(super) fn subscribe(&mut self) -> Result<()> {
        self.state.refreshed_ms = self.env.now_ms();
        let names: Vec<String> = match &self.pattern {
            None => self.config.topics.clone(),
            Some(_) => self.topics()?.into_keys().collect(),
        };
        if names == self.state.subscribed || names.is_empty() {
            return Ok(());
        }
        let topics: Vec<&str> = names.iter().map(String::as_str).collect();
        self.client.subscribe(&topics).context(ErrorKind::Unavailable, || "Kafka: subscribe")?;
        tracing::info!(group = %self.config.group, ?topics, "subscribed");
        self.state.subscribed = names;
        Ok(())
    }

    /// Says, once for each time it is opened, that a topic is another one than before: of one of which no row was read, so that it
    /// is opened again.
    pub(super) fn notice_anew(&mut self) {
        self.state.hear(self.client.context());
        if self.state.told == Some(self.state.generation) {
            return;
        }
        let logs = |topic: &String| self.state.logs.get(topic).into_iter().flat_map(BTreeMap::values);
        let read = self.state.anew.iter().find(|topic| logs(topic).any(|log| log.at().is_some()));
        let open = self.state.anew.iter().find(|topic| logs(topic).any(Log::is_open));
        let error = match (read, open) {
            (Some(topic), _) => gather::made_anew(topic),
            (None, Some(topic)) => {
                let text =
                    format!("Kafka: topic {topic} was made anew before a row of it was read: it is opened again");
                Error::new(ErrorKind::Unavailable, text)
            }
            (None, None) => return,
        };
        self.state.told = Some(self.state.generation);
        self.say(What::Failed(error));
    }

    /// Whether any of the topics that are named is not there, where the client missed one.
    pub(super) fn misses(&mut self) -> bool {
        if self.env.now_ms().saturating_sub(self.state.looked_ms) >= LOOK_MS {
            self.look_for_missing();
        }
        !self.state.missing.is_empty()
    }

    /// Looks which of the topics that are named are not there.
    fn look_for_missing(&mut self) {
        let now = self.env.now_ms();
        self.state.looked_ms = now;
        match self.topics() {
            Ok(found) => {
                let gone = |topic: &&String| !found.contains_key(*topic);
                let missing = self.config.topics.iter().filter(gone);
                let since = |topic: &String| *self.state.missing.get(topic).unwrap_or(&now);
                self.state.missing = missing.map(|topic| (topic.clone(), since(topic))).collect();
            }
            Err(error) => tracing::debug!("{error}"),
        }
    }

    /// Topics that are not there for so long that it is told. One that was read, or without which there is nothing to read, is
    /// trouble of the pipeline; else the others are read on.
    pub(super) fn notice_missing(&mut self, now_ms: i64) {
        // Brokers may not know at once that it is gone, or not answer.
        let missed = self.state.missed_ms.is_some_and(|at| now_ms.saturating_sub(at) < SILENCE_MS);
        if self.state.missing.is_empty() && !missed {
            return;
        }
        if now_ms.saturating_sub(self.state.looked_ms) >= IDLE_MS {
            self.look_for_missing();
        }
        let mut overdue = Vec::new();
        for (topic, since_ms) in &mut self.state.missing {
            if now_ms.saturating_sub(*since_ms) >= SILENCE_MS {
                *since_ms = now_ms;
                overdue.push(topic.clone());
            }
        }
        if overdue.is_empty() {
            return;
        }
        let waits = overdue.iter().any(|topic| self.state.read.contains(topic))
            || self.config.topics.iter().all(|topic| self.state.missing.contains_key(topic));
        let error = absent(&overdue);
        if waits {
            self.say(What::Failed(error));
        } else {
            tracing::warn!("{error}; the others are read");
        }
    }

    /// Whether all topics are there that have rows in the table, as far as one was missed.
    pub(super) fn all_there(&mut self, checkpoint: &Checkpoint) -> Result<()> {
        let topics = checkpoint.positions.keys().filter_map(place).map(|(topic, _)| topic);
        self.state.read.extend(topics);
        if !self.state.missing.is_empty() {
            self.look_for_missing();
        }
        let gone: Vec<String> =
            self.state.missing.keys().filter(|topic| self.state.read.contains(*topic)).cloned().collect();
        if gone.is_empty() { Ok(()) } else { Err(absent(&gone)) }
    }
}

fn absent(topics: &[String]) -> Error {
    let text = format!("Kafka: topic {} is not there, or may not be seen", topics.join(", "));
    Error::new(ErrorKind::Unavailable, text)
        .with_hint("create it, or mend its name in `topics`, or take it out there; it is looked for again and again")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_topic_whose_id_changed_was_made_anew_and_one_that_is_heard_of_for_the_first_time_was_not() {
        let mut ids = Ids::default();
        let none = "AAAAAAAAAAAAAAAAAAAAAA";
        for (from, to, anew) in [
            (none, "Xw", false),
            // The client forgot it for a while.
            (none, "Xw", false),
            ("Xw", none, false),
            (none, "Xw", false),
            ("Xw", "Yw", true),
            (none, "Zw", true),
        ] {
            let line = format!("[thrd:main]: Topic shop.orders changed id from {from} to {to}");
            assert_eq!(ids.hear(&line), anew, "{line}");
        }
        assert!(
            !ids.hear("Topic lines changed id from Zw to Xw")
                && !ids.hear("[thrd:main]: Topic shop.orders partition count changed from 1 to 2")
        );
        assert_eq!((ids.anew(), ids.anew()), (vec!["shop.orders".to_owned(); 2], vec![]));
    }
}
