//! Topics of a real Kafka broker that are not what they were: made anew, shortened, deleted. And where in them a pipeline begins.

use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use rdkafka::admin::AdminOptions;
use rdkafka::producer::BaseRecord;
use rdkafka::{Offset, TopicPartitionList};

use crate::components::scratch;
use crate::kafka::{PATIENCE, Sender, WAIT, admin, answer, create, has, numbered, single};
use crate::process::Process;

#[test]
fn rows_that_retention_removed_and_a_topic_made_anew_halt_with_a_way_out() {
    let topic = format!("gap-{}", std::process::id());
    let folder = scratch(&topic);
    create(&topic, 1);
    let daemon = single(&folder, &topic, "");
    let send = |range| send(&topic, range);
    let mut process = daemon.spawn(&[]);
    send(0..100);
    has(&daemon, "lake.k.rows", 100, &mut [&mut process]);
    process.kill9();

    send(100..200);
    remove(&topic, 150);
    let log = folder.join("frazil.log");
    assert!(!daemon.spawn(&[]).ends(PATIENCE).success(), "a gap must halt the pipeline");
    let said = fs::read_to_string(&log).expect("read the log");
    assert!(
        said.contains("offsets 100 to 149 were removed before they were read") && said.contains("on_gap"),
        "{said}"
    );

    let mut process = daemon.spawn(&["source.rows.on_gap=skip", LISTEN]);
    let at = listens(&mut process);
    has(&daemon, "lake.k.rows", 150, &mut [&mut process]);
    assert_eq!(lost(at), Some(50.0), "offsets 100 to 149");
    process.kill9();

    for longer in [false, true] {
        answer(admin().delete_topics(&[&topic], &AdminOptions::new())).expect("deleted");
        create(&topic, 1);
        // Once it ends before the table's position, once it has other rows there.
        send(if longer { 1_000..1_300 } else { 0..10 });
        fs::remove_file(&log).expect("remove the log");
        assert!(!daemon.spawn(&[]).ends(PATIENCE).success(), "another log must halt the pipeline");
        let said = fs::read_to_string(&log).expect("read the log");
        assert!(said.contains("this is another log") && said.contains("checkpoint set"), "{said}");
    }
    assert_eq!(daemon.rows("lake.k.rows"), 150);
}

/// Numbers to a topic of one partition.
fn send(topic: &str, range: std::ops::Range<u32>) {
    let mut sender = Sender::new(topic, 1, None);
    sender.send(&numbered(range).iter().map(String::as_str).collect::<Vec<_>>());
    sender.flush();
}

/// Removes the rows of a topic's only partition that are before `first`.
fn remove(topic: &str, first: i64) {
    let mut removed = TopicPartitionList::new();
    removed.add_partition_offset(topic, 0, Offset::Offset(first)).expect("an offset");
    answer(admin().delete_records(&removed, &AdminOptions::new())).expect("removed");
}

/// A member that is not missed while it stands still, in a group of its own: it must not be the next opening that tells.
const PATIENT: &str = "source.rows.properties={\"session.timeout.ms\" = \"240000\"}";

/// Any port that is free.
const LISTEN: &str = "api.listen=127.0.0.1:0";

/// Where the daemon says that it listens.
fn listens(process: &mut Process) -> SocketAddr {
    let told = |line: String| {
        let (_, rest) = line.split_once("\"address\":\"").filter(|_| line.contains("listening for metrics"))?;
        Some(rest.split('"').next()?.parse().expect("an address"))
    };
    std::iter::from_fn(|| process.line(PATIENCE)).find_map(told).unwrap_or_else(|| panic!("{}", process.tail()))
}

/// What the daemon answers.
fn get(at: SocketAddr, path: &str) -> String {
    let mut stream = TcpStream::connect(at).expect("it listens");
    stream.set_read_timeout(Some(WAIT)).expect("a time limit");
    write!(stream, "GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").expect("asked");
    let mut text = String::new();
    stream.read_to_string(&mut text).expect("an answer");
    text
}

/// How many rows the daemon says were removed before it read them.
fn lost(at: SocketAddr) -> Option<f64> {
    let text = get(at, "/metrics");
    let line = text.lines().find_map(|line| line.strip_prefix("frazil_lost_rows_total{pipeline=\"rows\","))?;
    let (partition, count) = line.split_once("} ")?;
    assert!(partition.ends_with("/0\""), "{partition}");
    Some(count.trim().parse().expect("a number"))
}

#[test]
fn one_of_two_topics_that_is_deleted_makes_the_pipeline_wait_and_say_so_until_it_is_taken_out() {
    let kept = format!("kept-{}", std::process::id());
    let gone = format!("gone-{}", std::process::id());
    let folder = scratch(&kept);
    let daemon = single(&folder, &kept, "");
    let both = format!("source.rows.topics=[{kept:?}, {gone:?}]");
    for topic in [&kept, &gone] {
        create(topic, 1);
        send(topic, 0..10);
    }
    let mut process = daemon.spawn(&[&both, LISTEN]);
    let at = listens(&mut process);
    has(&daemon, "lake.k.rows", 20, &mut [&mut process]);
    answer(admin().delete_topics(&[&gone], &AdminOptions::new())).expect("deleted");
    let (mut sent, mut left) = (10, PATIENCE);
    let said = format!("topic {gone} is not there");
    loop {
        let ready = get(at, "/readyz");
        if ready.contains(&said) {
            assert!(ready.starts_with("HTTP/1.1 503"), "{ready}");
            break;
        }
        send(&kept, sent..sent + 1);
        sent += 1;
        assert!(process.runs_for(Duration::from_secs(1)), "it waits; {}", process.tail());
        left = left.checked_sub(Duration::from_secs(1)).unwrap_or_else(|| panic!("nothing tells of it: {ready}"));
    }
    assert!(process.runs_for(Duration::from_secs(5)), "it waits; {}", process.tail());
    assert!(get(at, "/readyz").contains(&said), "it goes on waiting");
    process.kill9();
    let mut process = daemon.spawn(&[]);
    has(&daemon, "lake.k.rows", 10 + u64::from(sent), &mut [&mut process]);
}

#[test]
fn a_topic_that_is_made_anew_under_a_reader_halts_it_however_long_the_new_one_is() {
    let topic = format!("anew-{}", std::process::id());
    let folder = scratch(&topic);
    create(&topic, 1);
    let daemon = single(&folder, &topic, "");
    let send = |range| send(&topic, range);
    // All of it is gone: the reader waits behind rows that no table has.
    send(0..50);
    remove(&topic, 50);
    let group = format!("source.rows.group={topic}");
    let mut process = daemon.spawn(&[PATIENT, &group]);
    // It sees nothing of the time without the topic.
    let anew = |process: &Process, rows| {
        process.signal("STOP");
        answer(admin().delete_topics(&[&topic], &AdminOptions::new())).expect("deleted");
        create(&topic, 1);
        send(rows);
        process.signal("CONT");
    };
    let assigned = std::iter::from_fn(|| process.line(PATIENCE)).any(|line| line.contains("\"assigned\""));
    assert!(assigned, "it has the partition; {}", process.tail());
    // Nothing was read of the one before, and it has asked for what comes behind that.
    assert!(process.runs_for(Duration::from_secs(2)), "it waits for rows; {}", process.tail());
    anew(&process, 0..100);
    has(&daemon, "lake.k.rows", 100, &mut [&mut process]);
    // The next offset is one of the new log too.
    anew(&process, 1_000..1_300);
    assert!(!process.ends(PATIENCE).success(), "another log must halt the pipeline");
    let said = fs::read_to_string(folder.join("frazil.log")).expect("read the log");
    assert!(said.contains("made anew while it was read") && said.contains("checkpoint set"), "{said}");
    assert_eq!(daemon.rows("lake.k.rows"), 100);
}

#[test]
fn rows_that_retention_removes_under_a_reader_are_lost_rows_as_on_gap_says() {
    let topic = format!("gap-below-{}", std::process::id());
    let folder = scratch(&topic);
    create(&topic, 1);
    let daemon = single(&folder, &topic, "");
    let send = |range| send(&topic, range);
    // Sends rows and removes the first half of them while the process stands still.
    let pass_by = |process: &mut Process, range: std::ops::Range<u32>, first: i64| {
        process.signal("STOP");
        // What it has asked for is answered with nothing by then.
        process.runs_for(Duration::from_secs(2));
        send(range);
        remove(&topic, first);
        process.signal("CONT");
    };
    let group = format!("source.rows.group={topic}");
    let mut process = daemon.spawn(&[PATIENT, &group, "source.rows.on_gap=skip", LISTEN]);
    let at = listens(&mut process);
    send(0..100);
    has(&daemon, "lake.k.rows", 100, &mut [&mut process]);
    pass_by(&mut process, 100..200, 150);
    has(&daemon, "lake.k.rows", 150, &mut [&mut process]);
    assert_eq!(lost(at), Some(50.0), "offsets 100 to 149");
    process.kill9();

    // Another group, as the first waits for its member; where reading goes on stands in the table.
    let mut process = daemon.spawn(&[PATIENT, &format!("{group}-again")]);
    send(200..210);
    has(&daemon, "lake.k.rows", 160, &mut [&mut process]);
    pass_by(&mut process, 210..230, 220);
    assert!(!process.ends(PATIENCE).success(), "a gap must halt the pipeline");
    let said = fs::read_to_string(folder.join("frazil.log")).expect("read the log");
    assert!(said.contains("offsets 210 to 219 were removed before they were read"), "{said}");
    assert_eq!(daemon.rows("lake.k.rows"), 160);
}

#[test]
fn a_pipeline_that_was_never_here_begins_at_the_first_row_of_a_time_or_behind_the_last_one() {
    let topic = format!("since-{}", std::process::id());
    create(&topic, 2);
    // Recent enough that retention leaves them.
    let now_ms = frazil::env::Env::system().now_ms();
    let hour = |hours: i64| now_ms - hours * 3_600_000;
    let start = |time_ms: i64| {
        let time = jiff::Timestamp::from_millisecond(time_ms).expect("a time");
        format!("source.rows.start={time}")
    };
    let sender = Sender::new(&topic, 2, None);
    let send = |partition: i32, number: u32, time_ms: i64| {
        let text = format!(r#"{{"n":{number}}}"#);
        let record = BaseRecord::<str, str>::to(&topic).partition(partition).payload(&text).timestamp(time_ms);
        sender.producer.send(record).expect("queued");
    };
    for (number, hours) in [(0, 5), (1, 3), (2, 1)] {
        send(0, number, hour(hours));
    }
    // Of this partition no row is as young as that.
    send(1, 3, hour(6));
    sender.flush();
    let began = |name: &str, time_ms: i64| {
        let folder = scratch(&format!("{topic}-{name}"));
        let daemon = single(&folder, &topic, "");
        // A group of its own for each.
        let group = format!("source.rows.group={topic}-{name}");
        let mut process = daemon.spawn(&[&start(time_ms), &group]);
        let said = std::iter::from_fn(|| process.line(PATIENCE)).any(|line| line.contains("reads from its checkpoint"));
        assert!(said, "it reads; {}", process.tail());
        (daemon, process)
    };
    let (between, mut early) = began("between", hour(4));
    has(&between, "lake.k.rows", 2, &mut [&mut early]);
    let (behind, mut late) = began("behind", hour(0));
    for partition in 0..2 {
        send(partition, 4, hour(0));
    }
    sender.flush();
    has(&between, "lake.k.rows", 4, &mut [&mut early]);
    has(&behind, "lake.k.rows", 2, &mut [&mut late]);
}
