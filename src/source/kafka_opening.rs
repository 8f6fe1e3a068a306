//! How a Kafka source's partitions are opened: from where each is read, and what becomes of one that no broker leads.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::PoisonError;
use std::time::Duration;

use rdkafka::consumer::Consumer;
use rdkafka::error::RDKafkaErrorCode;
use rdkafka::{Offset, TopicPartitionList};

use crate::error::{Context, Error, ErrorKind, Result};
use crate::model::checkpoint::{Checkpoint, Position};
use crate::model::ids::PartitionId;
use crate::source::gather::{self, Log};
use crate::source::kafka_client::{Place, name};
use crate::source::kafka_reader::{IDLE_MS, REQUEST, Reader, What};

/// Looks at a log that ends before the table's position: a broker that just took it over may not know its end yet.
const LOOKS: u32 = 5;

impl Reader {
    /// Reads every partition that is ours after `checkpoint`. One that no broker leads is left for later, so that it keeps no other
    /// from being read.
    pub(super) fn open(&mut self, checkpoint: &Checkpoint) -> Result<()> {
        self.state.pending.retain(|said| matches!(said.what, What::Gained(_) | What::Lost(_)));
        (self.state.idle_ms, self.state.trouble) = (None, None);
        self.state.led_by_none.clear();
        self.subscribe()?;
        self.all_there(checkpoint)?;
        self.state.hear(self.client.context());
        let places = |(topic, logs): (&String, &BTreeMap<i32, Log>)| {
            logs.keys().map(|partition| (topic.clone(), *partition)).collect::<Vec<Place>>()
        };
        let mine: Vec<Place> = self.state.logs.iter().flat_map(places).collect();
        self.client.pause(&self.list(|_| Some(Offset::Invalid))).context(ErrorKind::Unavailable, || "Kafka: pause")?;
        let mut seeks = TopicPartitionList::new();
        for place in &mine {
            if self.state.led_by_none.contains(place) {
                continue;
            }
            let (given, offset, witness) = match self.reads_from(place, checkpoint) {
                Err(error) if error.kind() == ErrorKind::Unavailable => {
                    self.leave(place, &mine, error)?;
                    continue;
                }
                found => found?,
            };
            seeks.add_partition_offset(&place.0, place.1, offset).context(ErrorKind::Internal, || "an offset")?;
            if let Some(log) = self.log(place) {
                log.open(given, witness);
            }
        }
        self.state.anew.retain(|topic| self.state.logs.get(topic).is_none_or(BTreeMap::is_empty));
        if seeks.count() == 0 {
            return Ok(());
        }
        self.seek(seeks)?;
        let open = self.list(|log| log.is_open().then_some(Offset::Invalid));
        self.client.resume(&open).context(ErrorKind::Unavailable, || "Kafka: resume")?;
        self.state.paused = false;
        Ok(())
    }

    fn log(&mut self, place: &Place) -> Option<&mut Log> {
        self.state.logs.get_mut(&place.0)?.get_mut(&place.1)
    }

    /// The last row of a partition that the table has, from where it is read, and what the row there must look like.
    fn reads_from(&mut self, place: &Place, checkpoint: &Checkpoint) -> Result<(Option<i64>, Offset, Option<String>)> {
        let id = PartitionId::new(name(place));
        let given = match checkpoint.positions.get(&id) {
            // By number: of what has to be looked up the client may hear too late.
            None => return Ok((None, Offset::Offset(self.watermarks(place)?.0), None)),
            Some(Position::Offset(offset)) => *offset,
            Some(Position::Files(_)) => {
                let text = format!("the checkpoint of Kafka {id} is that of followed files");
                return Err(Error::new(ErrorKind::Corrupt, text));
            }
        };
        if self.state.anew.contains(&place.0) {
            return Err(gather::made_anew(&place.0));
        }
        let (offset, witness) = self.resume(place, given, checkpoint.tails.get(&id).cloned())?;
        Ok((Some(given), offset, witness))
    }

    /// Leaves the partitions that no broker leads, if this is one of them and others are not.
    fn leave(&mut self, place: &Place, mine: &[Place], error: Error) -> Result<()> {
        let none: BTreeSet<Place> = self.led_by_none()?.into_iter().filter(|place| mine.contains(place)).collect();
        if !none.contains(place) || none.len() == mine.len() {
            return Err(error);
        }
        let names: Vec<String> = none.iter().map(name).collect();
        tracing::warn!(
            "Kafka: no broker leads {}: they wait for one, and the others are read; {error}",
            names.join(", ")
        );
        for place in &none {
            if let Some(log) = self.log(place) {
                log.close();
            }
        }
        (self.state.led_by_none, self.state.led_ms) = (none, self.env.now_ms());
        Ok(())
    }

    /// The partitions of our topics that no broker leads.
    fn led_by_none(&self) -> Result<BTreeSet<Place>> {
        let mut found = BTreeSet::new();
        for topic in self.state.logs.keys() {
            let told = self.client.fetch_metadata(Some(topic), REQUEST);
            let told = told.context(ErrorKind::Unavailable, || format!("Kafka {topic}: which brokers lead it"))?;
            let partitions = told.topics().iter().filter(|one| one.name() == topic).flat_map(|one| one.partitions());
            found.extend(partitions.filter(|one| one.leader() < 0).map(|one| (topic.clone(), one.id())));
        }
        Ok(found)
    }

    /// Looks again for partitions that were left: once a broker leads one, all is opened again.
    pub(super) fn notice_leaders(&mut self, now_ms: i64) {
        if self.state.led_by_none.is_empty() || now_ms.saturating_sub(self.state.led_ms) < IDLE_MS {
            return;
        }
        self.state.led_ms = now_ms;
        match self.led_by_none() {
            Ok(none) => {
                let led: Vec<Place> = self.state.led_by_none.difference(&none).cloned().collect();
                if !led.is_empty() {
                    self.state.led_by_none.retain(|place| none.contains(place));
                    self.say(What::Gained(led.iter().map(|place| PartitionId::new(name(place))).collect()));
                }
            }
            Err(error) => tracing::debug!("{error}"),
        }
    }

    /// Reads on at these offsets.
    fn seek(&self, offsets: TopicPartitionList) -> Result<()> {
        let sought = self.client.seek_partitions(offsets, REQUEST).context(ErrorKind::Unavailable, || "Kafka: seek")?;
        let mut given_up = TopicPartitionList::new();
        for element in sought.elements() {
            let place = || format!("Kafka {}/{}: seek", element.topic(), element.partition());
            match element.error() {
                // The client has given it up, for there was nothing at an offset: only a new assignment begins it again.
                Err(error) if error.rdkafka_error_code() == Some(RDKafkaErrorCode::State) => {
                    let added = given_up.add_partition_offset(element.topic(), element.partition(), element.offset());
                    added.context(ErrorKind::Internal, place)?;
                }
                done => done.context(ErrorKind::Unavailable, place)?,
            }
        }
        if given_up.count() == 0 {
            return Ok(());
        }
        let begun =
            self.client.incremental_unassign(&given_up).and_then(|()| self.client.incremental_assign(&given_up));
        begun.context(ErrorKind::Unavailable, || "Kafka: begin partitions again")
    }

    /// From where a partition is read whose last row in the table is at `given`: from that row, if it tells the log from another.
    fn resume(&mut self, place: &Place, given: i64, witness: Option<String>) -> Result<(Offset, Option<String>)> {
        let next = given.saturating_add(1);
        let (mut low, mut high) = self.watermarks(place)?;
        for _ in 1..LOOKS {
            if high >= next {
                break;
            }
            // Serves rebalances.
            if let Some(Err(error)) = self.client.poll(Duration::from_millis(500)) {
                self.state.hear_missing(&error, self.env.now_ms());
            }
            (low, high) = self.watermarks(place)?;
        }
        let id = PartitionId::new(name(place));
        let found = gather::resume(&id, given, witness, (low, high), self.config.on_gap)?;
        if let Some(removed) = &found.removed {
            self.figures.lost.lock().unwrap_or_else(PoisonError::into_inner).add(&id, removed);
        }
        Ok((Offset::Offset(found.first), found.witness))
    }
}
