//! What the brokers themselves say of our groups, and what of a log a member may read: members by both protocols and by name,
//! one that joins, one too many, rows of every codec, transactions that are open or were given up.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use rdkafka::producer::{BaseProducer, BaseRecord, Producer};
use serde_json::{Value, json};

use crate::components::{checkout, scratch, value};
use crate::daemon::Daemon;
use crate::kafka::{PATIENCE, WAIT, client, create, has, numbered, single};
use crate::process::Process;
use crate::readers::{Engine, engines_find, input};
use crate::remote::{self, lake};

const NUMBERS: &[(&str, &str)] = &[("n", "long")];
const CODECS: [&str; 5] = ["none", "gzip", "snappy", "lz4", "zstd"];

/// One member of a group, with a folder of its own and a table that all of them share.
fn member(folder: &Path, name: &str, topic: &str, more: &str) -> Daemon {
    let own = folder.join(name);
    fs::create_dir_all(&own).expect("make the member's folder");
    let config = format!(
        r#"
        instance = "{name}"
        state_dir = "{folder}/state"

        {lake}
        [source.rows]
        type = "kafka"
        brokers = ["{brokers}"]
        group = "{topic}"
        topics = ["{topic}"]
        {more}

        [pipeline.rows]
        source = "rows"
        table = "lake.{namespace}.flights"
        commit = {{ freshness = "300ms" }}

        [pipeline.rows.create]
        columns = ["n long"]
        "#,
        folder = own.display(),
        lake = lake(),
        brokers = value("KAFKA_BROKERS"),
        namespace = topic.replace('-', "_"),
    );
    Daemon::configured(&own, &config)
}

fn table(topic: &str) -> String {
    format!("lake.{}.flights", topic.replace('-', "_"))
}

/// What the brokers say of a group.
pub(crate) fn described(group: &str) -> Value {
    let script = checkout("integration/readers/kafka_group.py");
    let mut command = Command::new(value("KAFKA_PYTHON"));
    let output = command.arg("-B").arg(script).args([value("KAFKA_BROKERS"), group]).output().expect("run the client");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).expect("JSON")
}

fn members(group: &Value) -> &[Value] {
    group["members"].as_array().expect("members")
}

/// Whether a group rests with so many members, each of which has at least as many partitions as `least`, and these are all of
/// `partitions`, each assigned once.
pub(crate) fn is_shared_out(told: &Value, number: usize, partitions: usize, least: usize) -> bool {
    let shares: Vec<&Vec<Value>> = members(told).iter().filter_map(|one| one["partitions"].as_array()).collect();
    let assigned: Vec<&str> = shares.iter().copied().flatten().filter_map(Value::as_str).collect();
    let different: BTreeSet<&str> = assigned.iter().copied().collect();
    told["state"] == "STABLE"
        && shares.len() == number
        && shares.iter().all(|own| own.len() >= least)
        && (assigned.len(), different.len()) == (partitions, partitions)
}

/// Waits until a group rests with so many members that share so many partitions, none of them less than others can have too.
fn rests(group: &str, number: usize, partitions: usize, running: &mut [&mut Process]) -> Value {
    let mut left = PATIENCE;
    loop {
        let told = described(group);
        if is_shared_out(&told, number, partitions, partitions / number) {
            return told;
        }
        let slice = Duration::from_millis(300);
        for process in running.iter_mut() {
            assert!(process.runs_for(slice), "a daemon ended by itself; {}", process.tail());
        }
        left = left
            .checked_sub(slice)
            .unwrap_or_else(|| panic!("{partitions} partitions are not shared by {number} members: {told}"));
    }
}

/// Sends numbers to the partitions in turn, with these properties.
fn send(topic: &str, partitions: i32, numbers: std::ops::Range<u32>, properties: &[(&str, &str)]) {
    let mut config = client();
    for (name, property) in properties {
        config.set(*name, *property);
    }
    let producer: BaseProducer = config.create().expect("a producer");
    for (number, row) in numbers.clone().zip(numbered(numbers)) {
        let partition = i32::try_from(number).expect("few rows") % partitions;
        queue(&producer, topic, partition, &row);
    }
    producer.flush(WAIT).expect("the broker has them");
}

pub(crate) fn queue(producer: &BaseProducer, topic: &str, partition: i32, row: &str) {
    let record = BaseRecord::<str, str>::to(topic).partition(partition).payload(row);
    producer.send(record).map_err(|(error, _)| error).expect("queued");
}

/// A producer in the middle of a transaction, which may stay open for long.
fn in_transaction(topic: &str) -> BaseProducer {
    let mut config = client();
    config.set("transactional.id", format!("tx-{topic}")).set("transaction.timeout.ms", "600000");
    let producer: BaseProducer = config.create().expect("a producer");
    producer.init_transactions(WAIT).expect("the broker knows us");
    producer.begin_transaction().expect("begins");
    producer
}

/// Fails unless exactly these numbers are there, each once.
fn holds(folder: &Path, place: &Value, numbers: &[std::ops::Range<u32>]) {
    let ledger = folder.join("sent.ndjson");
    let lines: Vec<String> = numbers.iter().cloned().flat_map(numbered).collect();
    fs::write(&ledger, lines.join("\n")).expect("write the ledger");
    engines_find(&[Engine::PyIceberg, Engine::DuckDb], &input(&[&ledger], NUMBERS), place, NUMBERS);
}

/// The table of a process of one.
fn own_place(daemon: &Daemon) -> Value {
    json!({ "metadata": daemon.metadata("lake.k.rows").display().to_string() })
}

fn ends_well(process: Process) {
    let tail = process.tail();
    process.signal("TERM");
    let status = process.ends(PATIENCE);
    assert!(status.success(), "a daemon ended with {status}; {tail}");
}

#[test]
fn the_brokers_assign_to_two_members_of_the_consumer_protocol_and_each_row_is_there_once() {
    let topic = format!("consumer-{}", std::process::id());
    let folder = scratch(&topic);
    create(&topic, 6);
    let daemons = ["a", "b"].map(|name| member(&folder, name, &topic, "group_protocol = \"consumer\""));
    let [mut a, mut b] = daemons.each_ref().map(|daemon| daemon.spawn(&[]));
    send(&topic, 6, 0..600, &[]);
    let told = rests(&topic, 2, 6, &mut [&mut a, &mut b]);
    assert_eq!(told["type"], "CONSUMER", "{told}");
    send(&topic, 6, 600..1_200, &[]);
    has(&daemons[0], &table(&topic), 1_200, &mut [&mut a, &mut b]);

    // One leaves; the other is given what it had.
    ends_well(a);
    send(&topic, 6, 1_200..1_800, &[]);
    let told = rests(&topic, 1, 6, &mut [&mut b]);
    assert_eq!(told["type"], "CONSUMER", "{told}");
    has(&daemons[1], &table(&topic), 1_800, &mut [&mut b]);
    holds(&folder, &remote::place(&topic.replace('-', "_")), &[0..1_800]);
}

/// A member of the classic protocol that is gone for less than that is not missed if it has a name.
const SLOW: &str = r#"properties = { "session.timeout.ms" = "240000", "heartbeat.interval.ms" = "500" }"#;

#[test]
fn a_member_with_a_name_is_not_missed_while_it_restarts_and_a_second_one_of_its_name_is_told() {
    let topic = format!("named-{}", std::process::id());
    let folder = scratch(&topic);
    create(&topic, 6);
    let named = |own: &str, name: &str| member(&folder, own, &topic, &format!("member = \"{name}\"\n{SLOW}"));
    let (first, other) = (named("a", "one"), named("b", "two"));
    let (mut a, mut b) = (first.spawn(&[]), other.spawn(&[]));
    send(&topic, 6, 0..600, &[]);
    let before = rests(&topic, 2, 6, &mut [&mut a, &mut b]);
    assert_eq!(before["type"], "CLASSIC", "{before}");
    assert_eq!(members(&before).iter().map(|one| &one["name"]).collect::<Vec<_>>(), ["one", "two"], "{before}");
    has(&first, &table(&topic), 600, &mut [&mut a, &mut b]);

    for (round, killed) in [false, true].into_iter().enumerate() {
        if killed {
            a.kill9();
        } else {
            ends_well(a);
        }
        // The other goes on with what it has, and takes nothing of what is missing.
        let part = u32::try_from(round).expect("two");
        send(&topic, 6, 600 + 600 * part..1_200 + 600 * part, &[]);
        has(&other, &table(&topic), 900 + 600 * u64::from(part), &mut [&mut b]);
        let between = described(&topic);
        assert_eq!(between["members"], before_again(&before, &between), "while it was away");
        a = first.spawn(&[]);
        has(&first, &table(&topic), 1_200 + 600 * u64::from(part), &mut [&mut a, &mut b]);
        let after = described(&topic);
        assert_eq!(after["state"], "STABLE", "{after}");
        assert_eq!(members(&after)[1], members(&before)[1], "the other's membership: {after}");
        assert_eq!(members(&after)[0]["partitions"], members(&before)[0]["partitions"], "its own partitions: {after}");
    }

    let second = named("c", "one").spawn(&[]);
    let (mut left, slice) = (PATIENCE, Duration::from_secs(1));
    while a.runs_for(slice) {
        left = left.checked_sub(slice).unwrap_or_else(|| panic!("it goes on beside one of its name; {}", a.tail()));
    }
    let tail = a.tail();
    assert!(!a.ends(PATIENCE).success(), "{tail}");
    let said = fs::read_to_string(folder.join("a").join("frazil.log")).expect("read the log");
    assert!(said.contains("another process has the same member name") && said.contains("its own `member`"), "{said}");
    drop(second);
    holds(&folder, &remote::place(&topic.replace('-', "_")), &[0..1_800]);
}

/// The partitions that a member's messages of this beginning name, sorted, each as often as it is named.
fn told_of(log: &Path, beginning: &str) -> Vec<String> {
    let text = fs::read_to_string(log).expect("read the log");
    let mut named = Vec::new();
    for line in text.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok()) {
        let is_meant = line["message"].as_str().is_some_and(|message| message.starts_with(beginning));
        if let Some(list) = line["partitions"].as_str().filter(|_| is_meant) {
            // A list of names as Rust shows it: each stands between quotes.
            named.extend(list.split('"').skip(1).step_by(2).map(str::to_owned));
        }
    }
    named.sort();
    named
}

#[test]
fn of_a_member_that_another_one_joins_only_what_moves_is_taken_away() {
    let topic = format!("joined-{}", std::process::id());
    let folder = scratch(&topic);
    create(&topic, 6);
    let named = |name: &str| member(&folder, name, &topic, &format!("member = \"{name}\"\n{SLOW}"));
    let (first, other) = (named("a"), named("b"));
    let mut a = first.spawn(&[]);
    send(&topic, 6, 0..600, &[]);
    rests(&topic, 1, 6, &mut [&mut a]);
    has(&first, &table(&topic), 600, &mut [&mut a]);

    let mut b = other.spawn(&[]);
    send(&topic, 6, 600..1_200, &[]);
    let shared = rests(&topic, 2, 6, &mut [&mut a, &mut b]);
    assert_eq!(shared["type"], "CLASSIC", "{shared}");
    // Of what it kept rows come after it was told what it lost.
    send(&topic, 6, 1_200..1_800, &[]);
    has(&first, &table(&topic), 1_800, &mut [&mut a, &mut b]);
    // Once it has ended its log is whole.
    ends_well(a);
    ends_well(b);

    let log = folder.join("a").join("frazil.log");
    let (gained, lost) = (told_of(&log, "assigned"), told_of(&log, "taken away"));
    let all: Vec<String> = (0..6).map(|partition| format!("{topic}/{partition}")).collect();
    assert_eq!(gained, all, "each is given once: what is kept is not given again");
    assert_eq!((lost.len(), &members(&shared)[1]["name"]), (3, &json!("b")), "taken away: {lost:?}; {shared}");
    assert_eq!(json!(lost), members(&shared)[1]["partitions"], "what is taken away is what the other has: {shared}");
    holds(&folder, &remote::place(&topic.replace('-', "_")), &[0..1_800]);
}

/// A member with a name, to which the brokers assign.
fn named_of_the_consumer_protocol(folder: &Path, own: &str, topic: &str, name: &str) -> Daemon {
    member(folder, own, topic, &format!("group_protocol = \"consumer\"\nmember = \"{name}\""))
}

#[test]
fn a_named_member_of_the_consumer_protocol_that_restarts_has_its_partitions_again_and_the_other_keeps_its_own() {
    let topic = format!("restarted-{}", std::process::id());
    let folder = scratch(&topic);
    create(&topic, 6);
    let first = named_of_the_consumer_protocol(&folder, "a", &topic, "one");
    let other = named_of_the_consumer_protocol(&folder, "b", &topic, "two");
    let mut a = first.spawn(&[]);
    send(&topic, 6, 0..600, &[]);
    rests(&topic, 1, 6, &mut [&mut a]);
    let mut b = other.spawn(&[]);
    let before = rests(&topic, 2, 6, &mut [&mut a, &mut b]);
    assert_eq!(before["type"], "CONSUMER", "{before}");
    assert_eq!(members(&before).iter().map(|one| &one["name"]).collect::<Vec<_>>(), ["one", "two"], "{before}");
    has(&first, &table(&topic), 600, &mut [&mut a, &mut b]);

    // Who ends says that it comes back, and has 45 s for it: the other takes nothing of what is missing.
    ends_well(a);
    send(&topic, 6, 600..1_200, &[]);
    has(&other, &table(&topic), 900, &mut [&mut b]);
    a = first.spawn(&[]);
    has(&first, &table(&topic), 1_200, &mut [&mut a, &mut b]);
    let after = rests(&topic, 2, 6, &mut [&mut a, &mut b]);
    assert_eq!(members(&after)[1], members(&before)[1], "the other's membership: {after}");
    assert_eq!(members(&after)[0]["partitions"], members(&before)[0]["partitions"], "its own partitions: {after}");
    // Once they have ended their logs are whole.
    ends_well(a);
    ends_well(b);
    let log = folder.join("b").join("frazil.log");
    assert_eq!(json!(told_of(&log, "assigned")), members(&before)[1]["partitions"], "all that the other was given");
    assert_eq!(told_of(&log, "taken away"), Vec::<String>::new(), "what was taken away from the other");
    holds(&folder, &remote::place(&topic.replace('-', "_")), &[0..1_200]);
}

#[test]
fn a_named_member_of_the_consumer_protocol_that_is_killed_waits_for_its_name_and_has_its_partitions_again() {
    let topic = format!("killed-{}", std::process::id());
    let folder = scratch(&topic);
    create(&topic, 6);
    let daemon = named_of_the_consumer_protocol(&folder, "a", &topic, "one");
    let mut process = daemon.spawn(&[]);
    send(&topic, 6, 0..600, &[]);
    let before = rests(&topic, 1, 6, &mut [&mut process]);
    assert_eq!((&before["type"], &members(&before)[0]["name"]), (&json!("CONSUMER"), &json!("one")), "{before}");
    has(&daemon, &table(&topic), 600, &mut [&mut process]);
    process.kill9();

    // The brokers give its name to nobody until they miss who had it, 45 s later.
    process = daemon.spawn(&[]);
    send(&topic, 6, 600..1_200, &[]);
    has(&daemon, &table(&topic), 1_200, &mut [&mut process]);
    let after = rests(&topic, 1, 6, &mut [&mut process]);
    let (was, is) = (&members(&before)[0], &members(&after)[0]);
    assert_ne!(is["id"], was["id"], "another membership: {after}");
    assert_eq!((&is["name"], &is["partitions"]), (&was["name"], &was["partitions"]), "{after}");
    ends_well(process);
    holds(&folder, &remote::place(&topic.replace('-', "_")), &[0..1_200]);
}

#[test]
fn nobody_waits_for_a_member_without_partitions_or_for_a_partition_without_rows() {
    let topic = format!("idle-{}", std::process::id());
    let folder = scratch(&topic);
    create(&topic, 2);
    let daemons = ["a", "b", "c"].map(|name| member(&folder, name, &topic, SLOW));
    let [mut a, mut b, mut c] = daemons.each_ref().map(|daemon| daemon.spawn(&[]));
    let told = rests(&topic, 3, 2, &mut [&mut a, &mut b, &mut c]);
    let with = members(&told).iter().filter(|one| one["partitions"].as_array().is_some_and(|own| own.len() == 1));
    assert_eq!(with.count(), 2, "two have one each, the third has none: {told}");
    for part in 0..2 {
        // All to the first partition.
        send(&topic, 1, 300 * part..300 * (part + 1), &[]);
        let rows = 300 * u64::from(part + 1);
        has(&daemons[0], &table(&topic), rows, &mut [&mut a, &mut b, &mut c]);
    }
    [a, b, c].into_iter().for_each(ends_well);
    holds(&folder, &remote::place(&topic.replace('-', "_")), &[0..600]);
}

#[test]
fn a_member_that_is_asked_to_end_has_left_its_group_before_it_is_gone() {
    for (protocol, more) in [("classic", SLOW), ("consumer", "group_protocol = \"consumer\"")] {
        let topic = format!("left-{protocol}-{}", std::process::id());
        let folder = scratch(&topic);
        create(&topic, 2);
        let daemon = member(&folder, "a", &topic, more);
        for round in 1..=2 {
            // The second waits for nobody: the brokers would have missed the first much later than that takes.
            let mut process = daemon.spawn(&[]);
            send(&topic, 2, 100 * (round - 1)..100 * round, &[]);
            has(&daemon, &table(&topic), 100 * u64::from(round), &mut [&mut process]);
            ends_well(process);
            let told = described(&topic);
            assert_eq!((&told["state"], members(&told).len()), (&json!("EMPTY"), 0), "{protocol}: {told}");
        }
    }
}

/// The members as they were, each by the id that it has now.
fn before_again(before: &Value, now: &Value) -> Value {
    let own =
        |(was, is): (&Value, &Value)| json!({ "id": is["id"], "name": was["name"], "partitions": was["partitions"] });
    members(before).iter().zip(members(now)).map(own).collect()
}

/// The codecs of the batches that the broker keeps of a partition, by their numbers: nobody compresses what does not shrink.
fn codecs(topic: &str, partition: u32) -> BTreeSet<u8> {
    let broker = Path::new(value("KAFKA_CA")).ancestors().nth(2).expect("the broker's folder");
    let log = broker.join(format!("data/{topic}-{partition}")).join("00000000000000000000.log");
    let bytes = fs::read(&log).unwrap_or_else(|e| panic!("{}: {e}", log.display()));
    let (mut found, mut rest) = (BTreeSet::new(), bytes.as_slice());
    // Offset, length of what follows, epoch, magic, checksum, attributes: the codec is in the lowest bits of these.
    while let (Some(length), Some(attributes)) = (rest.get(8..12), rest.get(22)) {
        found.insert(attributes & 7);
        let length = u32::from_be_bytes(length.try_into().expect("four bytes"));
        rest = rest.get(12 + length as usize..).unwrap_or_default();
    }
    found
}

#[test]
fn rows_of_every_codec_are_there_once() {
    let topic = format!("codecs-{}", std::process::id());
    let folder = scratch(&topic);
    create(&topic, 2);
    for (number, codec) in (0..).zip(CODECS) {
        // Many rows of one kind in a batch, so that it is worth compressing.
        let properties = [("compression.type", codec), ("linger.ms", "50")];
        send(&topic, 2, number * 2_000..(number + 1) * 2_000, &properties);
    }
    assert_eq!(codecs(&topic, 1), (0..5).collect());
    let daemon = single(&folder, &topic, "");
    let mut process = daemon.spawn(&[]);
    has(&daemon, "lake.k.rows", 10_000, &mut [&mut process]);
    holds(&folder, &own_place(&daemon), &[0..10_000]);
}

#[test]
fn rows_of_a_transaction_that_was_given_up_are_read_only_where_that_is_asked_for() {
    let topic = format!("given-up-{}", std::process::id());
    let folder = scratch(&topic);
    create(&topic, 1);
    send(&topic, 1, 0..50, &[]);
    let producer = in_transaction(&topic);
    numbered(50..80).iter().for_each(|row| queue(&producer, &topic, 0, row));
    producer.flush(WAIT).expect("the broker has them");
    producer.abort_transaction(WAIT).expect("gives up");
    send(&topic, 1, 80..100, &[]);
    for (isolation, rows, wanted) in
        [("read_committed", 70, vec![0..50, 80..100]), ("read_uncommitted", 100, vec![0..100])]
    {
        let own = folder.join(isolation);
        fs::create_dir_all(&own).expect("make a folder");
        let daemon = single(&own, &topic, "");
        let mut process = daemon.spawn(&[&format!("source.rows.isolation={isolation}")]);
        // What was given up lies before the last rows: it has been passed then.
        has(&daemon, "lake.k.rows", rows, &mut [&mut process]);
        holds(&own, &own_place(&daemon), &wanted);
    }
}

#[test]
fn what_lies_behind_an_open_transaction_waits_and_other_partitions_do_not() {
    let topic = format!("open-{}", std::process::id());
    let folder = scratch(&topic);
    create(&topic, 2);
    let daemon = single(&folder, &topic, "");
    let producer = in_transaction(&topic);
    numbered(0..10).iter().for_each(|row| queue(&producer, &topic, 0, row));
    producer.flush(WAIT).expect("the broker has them");
    // Even numbers lie behind them, odd ones in the other partition.
    send(&topic, 2, 10..110, &[]);
    let mut process = daemon.spawn(&[]);
    has(&daemon, "lake.k.rows", 50, &mut [&mut process]);
    send(&topic, 2, 110..210, &[]);
    has(&daemon, "lake.k.rows", 100, &mut [&mut process]);
    let odd: Vec<_> = (11..210).step_by(2).map(|number| number..number + 1).collect();
    holds(&folder, &own_place(&daemon), &odd);

    producer.commit_transaction(WAIT).expect("commits");
    has(&daemon, "lake.k.rows", 210, &mut [&mut process]);
    holds(&folder, &own_place(&daemon), &[0..210]);
}
