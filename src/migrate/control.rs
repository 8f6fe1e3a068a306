//! Where the sink stopped, from what it says itself.
//!
//! A worker that is told to commit sends, in one transaction, an event for each table with the files that it wrote, an event with the
//! offsets of its partitions, and these offsets to the connector's consumer group. The coordinator commits the files to the tables, and
//! writes into each snapshot up to which offsets of the control topic its table has them. So the group is ahead of a table by the
//! responses that came later: their rows are in files that no snapshot has. Source: kafka-connect/ of Apache Iceberg (Worker.java,
//! Channel.java, Coordinator.java; events in kafka-connect-events/).

use std::collections::{BTreeMap, BTreeSet};

use iceberg::spec::SnapshotRef;
use serde_json::Value;

use crate::commit::checkpoint::Chain;
use crate::error::{Context, Error, ErrorKind, Result};
use crate::migrate::avro::Reader;
use crate::model::table::TableState;

/// What begins an event: magic of Iceberg's Avro encoder.
const MAGIC: [u8; 2] = [0xC2, 0x01];
/// Kinds of events.
const DATA_WRITTEN: i64 = 1;
const DATA_COMPLETE: i64 = 2;

/// A record of the control topic, as far as it says something of rows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ControlRecord {
    partition: i32,
    offset: i64,
    sender: Vec<u8>,
    event: Event,
}

impl ControlRecord {
    /// Reads a record; `None` for one that is no event of the sink's, of another group, or says nothing of rows. `sender` is its key.
    ///
    /// # Errors
    /// `Corrupt` for an event that cannot be read.
    pub fn read(group: &str, (partition, offset): (i32, i64), sender: Vec<u8>, value: &[u8]) -> Result<Option<Self>> {
        let found = decode(value).map_err(|error| {
            error.within(format!("partition {partition}, offset {offset}")).with_hint(
                "hold the topics still until the tables have all rows; then write the configuration with --offline, and set start_offsets \
                 to the offsets of the connector's group",
            )
        })?;
        let own = found.filter(|(_, owner)| owner == group);
        Ok(own.map(|(event, _)| Self { partition, offset, sender, event }))
    }
}

/// What a control topic still says.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Heard {
    /// The sink's records.
    pub records: Vec<ControlRecord>,
    /// The first offset that each partition has; older records are gone.
    pub begins: BTreeMap<i32, i64>,
}

/// An event that matters here.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Event {
    /// Files were written for a table.
    Written { commit: String, table: String },
    /// All files of a response are written; the offsets behind its last rows.
    Complete { commit: String, offsets: BTreeMap<String, i64> },
}

/// Where the sink stopped.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Stop {
    /// The first offset to read of each `topic/partition`.
    pub offsets: BTreeMap<String, i64>,
    /// Responses whose files are in no table: their rows are read again.
    pub pending: usize,
}

/// What begins the snapshots' key of a control topic and a group.
const KEY: &str = "kafka.connect.offsets.";

/// The offsets of the control topic up to which a table has the sink's files; `None` when no snapshot of the branch says so.
///
/// # Errors
/// `Corrupt` when a snapshot says it in another form.
pub fn committed(state: &TableState, branch: &str, topic: &str, group: &str) -> Result<Option<BTreeMap<i32, i64>>> {
    let key = format!("{KEY}{topic}.{group}");
    let chain = Chain::of(state, branch)?;
    let said = |at: &SnapshotRef| at.summary().additional_properties.get(&key).cloned();
    merged(chain.snapshots.iter().filter_map(said))
        .map_err(|error| error.within(format!("table {}: {key}", state.name)))
}

/// What snapshots say, newest first, as one: a coordinator writes the partitions that it has read since it was started, no others.
/// Where offsets go back, the topic was made anew, and what is older is of another one.
fn merged(said: impl Iterator<Item = String>) -> Result<Option<BTreeMap<i32, i64>>> {
    let mut all: Option<BTreeMap<i32, i64>> = None;
    for text in said {
        let own: BTreeMap<i32, i64> = serde_json::from_str(&text).context(ErrorKind::Corrupt, || "no offsets")?;
        let all = all.get_or_insert_default();
        if own.iter().any(|(partition, offset)| all.get(partition).is_some_and(|newer| newer < offset)) {
            break;
        }
        own.into_iter().for_each(|(partition, offset)| {
            all.entry(partition).or_insert(offset);
        });
    }
    Ok(all)
}

/// The control topics and groups, as `TOPIC.GROUP`, of all sinks that the snapshots of a branch name.
///
/// # Errors
/// As [`Chain::of`].
pub fn sinks(state: &TableState, branch: &str) -> Result<BTreeSet<String>> {
    let chain = Chain::of(state, branch)?;
    let keys = chain.snapshots.iter().flat_map(|at| at.summary().additional_properties.keys());
    Ok(keys.filter_map(|key| key.strip_prefix(KEY)).map(str::to_owned).collect())
}

/// The refusal of a group that has no offsets of rows that were read. `what` shows that they were.
pub fn without_offsets(group: &str, of: &str, what: &str) -> Error {
    let hint = "where its tasks have another group, add consumer.override.group.id to the connector's JSON; where the offsets have expired, \
                write the configuration with --offline, and set start_offsets to the first offsets that the tables do not have";
    Error::new(ErrorKind::Conflict, format!("consumer group {group} has no offset{of}, and {what}")).with_hint(hint)
}

/// Where the sink stopped. `group` is the consumer group of its tasks, `offsets` what it has committed, by `topic/partition`; `tables` what
/// [`committed`] says of each table that it feeds, by `namespace.table`.
///
/// # Errors
/// `Conflict` where the group has no offsets of rows that were read, where some tables have a response and others not, or nothing says
/// where a response began.
pub fn stopped(
    heard: &Heard,
    group: &str,
    offsets: BTreeMap<String, i64>,
    tables: &BTreeMap<String, Option<BTreeMap<i32, i64>>>,
) -> Result<Stop> {
    let mut responses: BTreeMap<(&[u8], &String), Response> = BTreeMap::new();
    for ControlRecord { partition, offset, sender, event } in &heard.records {
        let (Event::Written { commit, .. } | Event::Complete { commit, .. }) = event;
        let own = responses.entry((sender, commit)).or_default();
        own.partition = *partition;
        match event {
            Event::Written { table, .. } => {
                let upto = tables.get(table).and_then(|own| own.as_ref()?.get(partition).copied());
                let side = if upto.is_some_and(|upto| *offset < upto) { &mut own.inside } else { &mut own.outside };
                side.insert(table.clone());
            }
            Event::Complete { offsets, .. } => own.offsets = offsets.clone(),
        }
    }
    if offsets.is_empty() {
        if let Some((table, _)) = tables.iter().find(|(_, upto)| upto.is_some()) {
            return Err(without_offsets(group, "", &format!("table {table} has commits of the connector")));
        }
        if !heard.records.is_empty() {
            return Err(without_offsets(group, "", "the control topic has answers of the connector"));
        }
    }
    let mut logs = responses.values().flat_map(|own| own.offsets.keys());
    if let Some(log) = logs.find(|log| !offsets.contains_key(*log)) {
        return Err(without_offsets(group, &format!(" of {log}"), "the control topic has answers with rows of it"));
    }
    Response::stop(responses.into_values().collect(), offsets, &heard.begins)
}

/// What one worker answered to one call for a commit.
#[derive(Debug, Clone, Default)]
struct Response {
    /// The partition of the control topic that it is in: one has all events of a worker, in order.
    partition: i32,
    /// The offsets behind its last rows; nothing of logs of which it had none.
    offsets: BTreeMap<String, i64>,
    /// Tables that have its files, and those that have not.
    inside: BTreeSet<String>,
    outside: BTreeSet<String>,
}

impl Response {
    fn stop(all: Vec<Self>, mut offsets: BTreeMap<String, i64>, begins: &BTreeMap<i32, i64>) -> Result<Stop> {
        let again = "start the connector once more until it has committed to each of its tables, which needs a new row in each where \
                     nothing is left to commit; then hold its topics still, delete it, and import again";
        let refused = |what: String| Err(Error::new(ErrorKind::Conflict, what).with_hint(again));
        let half = all.iter().find_map(|own| own.inside.first().zip(own.outside.first()));
        if let Some((inside, outside)) = half {
            return refused(format!("table {inside} has rows of a commit that {outside} does not have yet"));
        }
        // Workers change, and the control topic has several partitions: the offsets of a log tell which came first.
        let mut by_log: BTreeMap<&String, Vec<(i64, &Self)>> = BTreeMap::new();
        for own in &all {
            own.offsets.iter().for_each(|(log, offset)| by_log.entry(log).or_default().push((*offset, own)));
        }
        for (log, mut own) in by_log {
            own.sort_by_key(|(offset, _)| *offset);
            let Some(first) = own.iter().position(|(_, own)| !own.outside.is_empty()) else { continue };
            if own[first..].iter().any(|(_, own)| !own.inside.is_empty()) {
                return refused(format!("rows of {log} are in a table, and older ones are not"));
            }
            let before = &own[..first];
            let Some((start, last)) = before.last() else {
                return refused(format!(
                    "rows of {log} are in files that no table has, and nothing says where they begin"
                ));
            };
            // Another partition may have had the true predecessor, unless it reaches back further than this one.
            let reaches = |at: &i32| before.iter().any(|(_, own)| own.partition == *at);
            let lost = begins.iter().find(|(at, begin)| **begin > 0 && **at != last.partition && !reaches(at));
            if let Some((at, begin)) = lost {
                return refused(format!(
                    "rows of {log} are in files that no table has, and records before {begin} of partition {at} of the control topic, \
                     which may say where they begin, are gone"
                ));
            }
            offsets.insert(log.clone(), *start);
        }
        Ok(Stop { offsets, pending: all.iter().filter(|own| !own.outside.is_empty()).count() })
    }
}

/// The event, and the group whose it is; `None` for what is no event, and for a kind that says nothing of rows.
fn decode(bytes: &[u8]) -> Result<Option<(Event, String)>> {
    let corrupt = |what: &str| Error::new(ErrorKind::Corrupt, format!("an event of the control topic {what}"));
    let Some(rest) = bytes.strip_prefix(&MAGIC) else { return Ok(None) };
    let (length, rest) = rest.split_at_checked(2).ok_or_else(|| corrupt("is cut off"))?;
    let length = usize::from(u16::from_be_bytes([length[0], length[1]]));
    let (schema, row) = rest.split_at_checked(length).ok_or_else(|| corrupt("is cut off"))?;
    let schema: Value = serde_json::from_slice(schema).context(ErrorKind::Corrupt, || "an event's schema")?;
    let value = Reader::new(row).value(&schema)?;
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let (owner, payload) = (text(&value["group_id"]), &value["payload"]);
    let commit = text(&payload["commit_id"]);
    let none = Vec::new();
    let list = |value: &Value| value.as_array().unwrap_or(&none).clone();
    let event = match value["type"].as_i64() {
        Some(DATA_WRITTEN) => {
            let table = &payload["table_reference"];
            let mut name: Vec<String> = list(&table["namespace"]).iter().map(text).collect();
            name.push(text(&table["name"]));
            Event::Written { commit, table: name.join(".") }
        }
        Some(DATA_COMPLETE) => {
            let offset = |own: &Value| {
                let log = format!("{}/{}", text(&own["topic"]), own["partition"].as_i64()?);
                Some((log, own["offset"].as_i64()?))
            };
            Event::Complete { commit, offsets: list(&payload["assignments"]).iter().filter_map(offset).collect() }
        }
        _ => return Ok(None),
    };
    Ok(Some((event, owner)))
}

#[cfg(test)]
mod tests;
