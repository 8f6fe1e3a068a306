//! What brokers answer when they are not well: none of it may lose, double or reorder a row.

#![cfg(test)]

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use rdkafka::mocking::MockCoordinator;
use rdkafka::types::RDKafkaApiKey as Api;
use rdkafka::types::RDKafkaRespErr::{self as Code, *};

use crate::config::{KafkaConfig, Secret};
use crate::env::{Clock, Env, SystemClock};
use crate::error::ErrorKind;
use crate::model::checkpoint::{Checkpoint, Position};
use crate::model::ids::PartitionId;
use crate::source::kafka::tests::{Cluster, Member};
use crate::source::{Source, SourceEvent};

/// Answers to requests of a member that reads. A leader that moved, that is behind, or that does not know yet; a request timed out; a
/// member that the group threw out, and one whose group is moving.
const WHILE_READING: &[(Api, &[Code])] = &[
    (
        Api::Fetch,
        &[
            RD_KAFKA_RESP_ERR_NOT_LEADER_FOR_PARTITION,
            RD_KAFKA_RESP_ERR_FENCED_LEADER_EPOCH,
            RD_KAFKA_RESP_ERR_UNKNOWN_LEADER_EPOCH,
            RD_KAFKA_RESP_ERR_KAFKA_STORAGE_ERROR,
            RD_KAFKA_RESP_ERR_REQUEST_TIMED_OUT,
            RD_KAFKA_RESP_ERR_OFFSET_NOT_AVAILABLE,
        ],
    ),
    (Api::Heartbeat, &[RD_KAFKA_RESP_ERR_UNKNOWN_MEMBER_ID, RD_KAFKA_RESP_ERR_ILLEGAL_GENERATION]),
];

/// Answers without which there is no first row.
const BEFORE_ROWS: &[(Api, Code)] = &[
    (Api::FindCoordinator, RD_KAFKA_RESP_ERR_COORDINATOR_NOT_AVAILABLE),
    (Api::JoinGroup, RD_KAFKA_RESP_ERR_NOT_COORDINATOR),
    (Api::JoinGroup, RD_KAFKA_RESP_ERR_COORDINATOR_LOAD_IN_PROGRESS),
    (Api::SyncGroup, RD_KAFKA_RESP_ERR_REBALANCE_IN_PROGRESS),
    (Api::ListOffsets, RD_KAFKA_RESP_ERR_NOT_LEADER_FOR_PARTITION),
    (Api::ListOffsets, RD_KAFKA_RESP_ERR_LEADER_NOT_AVAILABLE),
    (Api::Fetch, RD_KAFKA_RESP_ERR_FENCED_LEADER_EPOCH),
];

/// More than a client asks while a test looks.
const FOR_LONG: usize = 10_000;

#[tokio::test(flavor = "multi_thread")]
async fn answers_of_brokers_that_are_not_well_lose_and_double_no_row() {
    let cluster = Cluster::with(&[("orders", 2)]);
    cluster.send("orders", 2, 0..20);
    let mut member = Member::begun(cluster.config(&["orders"])).await;
    member.until(20).await;
    let mut sent = 20;
    for (api, answers) in WHILE_READING {
        cluster.mock.request_errors(*api, answers);
        cluster.send("orders", 2, sent..sent + 20);
        sent += 20;
        member.until(usize::try_from(sent).expect("few")).await;
        cluster.mock.clear_request_errors(*api);
    }
    in_order(&member, sent);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_group_that_is_not_well_when_a_member_begins_is_waited_for() {
    let outlived = BEFORE_ROWS.iter().map(|(api, answer)| async move {
        let cluster = Cluster::with(&[("orders", 2)]);
        cluster.send("orders", 2, 0..20);
        cluster.mock.request_errors(*api, &[*answer; FOR_LONG]);
        let mut member = Member::begun(cluster.config(&["orders"])).await;
        member.quiet().await;
        assert_eq!(member.numbers(), [], "{api:?} is asked before there are rows");
        cluster.mock.clear_request_errors(*api);
        // As a pipeline does after an opening that failed.
        while let Err(error) = member.open().await {
            assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
        }
        member.until(20).await;
        in_order(&member, 20);
    });
    futures::future::join_all(outlived).await;
}

/// The offsets of a group are for people: whether they can be written decides nothing.
#[tokio::test(flavor = "multi_thread")]
async fn offsets_of_a_group_that_are_not_written_keep_no_row_from_being_read() {
    let refusals = [
        RD_KAFKA_RESP_ERR_GROUP_AUTHORIZATION_FAILED,
        RD_KAFKA_RESP_ERR_UNKNOWN_MEMBER_ID,
        RD_KAFKA_RESP_ERR_REQUEST_TIMED_OUT,
    ];
    let outlived = refusals.map(|answer| async move {
        let cluster = Cluster::with(&[("orders", 2)]);
        cluster.send("orders", 2, 0..20);
        let mut member = Member::begun(cluster.config(&["orders"])).await;
        member.until(20).await;
        cluster.mock.request_errors(Api::OffsetCommit, &[answer; FOR_LONG]);
        let checkpoint = member.checkpoint();
        member.source.release(&checkpoint).await.expect("asked for");
        cluster.send("orders", 2, 20..40);
        member.until(40).await;
        in_order(&member, 40);
        // It waits for what it asked.
        member.source.close().await;
        assert_eq!(cluster.committed("orders", 2), [None, None], "{answer:?}");
        cluster.mock.clear_request_errors(Api::OffsetCommit);
        let checkpoint = member.checkpoint();
        let mut next = Member::at(cluster.config(&["orders"]), checkpoint.clone()).await.expect("begins");
        cluster.send("orders", 2, 40..60);
        next.until(20).await;
        next.source.release(&checkpoint).await.expect("asked for");
        next.source.close().await;
        assert_eq!(cluster.committed("orders", 2), [Some(20), Some(20)], "{answer:?}");
    });
    futures::future::join_all(outlived).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broker_that_goes_away_and_comes_back_lets_reading_go_on() {
    let cluster = Cluster::with(&[("orders", 2)]);
    cluster.send("orders", 2, 0..20);
    let mut member = Member::begun(cluster.config(&["orders"])).await;
    member.until(20).await;
    cluster.mock.broker_down(1).expect("down");
    Env::system().sleep(Duration::from_secs(2)).await;
    cluster.mock.broker_up(1).expect("up");
    cluster.send("orders", 2, 20..40);
    member.until(40).await;
    in_order(&member, 40);
}

/// A clock that can be set forward.
#[derive(Debug)]
struct Ahead(SystemClock, AtomicI64);

#[async_trait]
impl Clock for Ahead {
    fn now_ms(&self) -> i64 {
        self.0.now_ms() + self.1.load(Ordering::Relaxed)
    }

    async fn sleep(&self, duration: Duration) {
        self.0.sleep(duration).await;
    }
}

// The thread that reads takes one of the workers, whose number must not be that of a small machine.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_broker_that_was_away_for_a_moment_while_no_rows_came_is_forgotten() {
    // The group's coordinator stays: nothing but rows, of which there are none, would tell that all is well again.
    let cluster = Cluster::of(2, &[("orders", 2)]);
    cluster.mock.coordinator(MockCoordinator::Group("readers".to_owned()), 1).expect("a coordinator");
    for partition in 0..2 {
        cluster.mock.partition_leader("orders", partition, Some(2)).expect("a leader");
    }
    cluster.send("orders", 2, 0..20);
    let clock = Arc::new(Ahead(SystemClock, AtomicI64::new(0)));
    let env = Env::simulated(Arc::clone(&clock) as Arc<dyn Clock>, 1);
    let mut member = Member::timed(cluster.config(&["orders"]), env).await;
    member.until(20).await;
    cluster.mock.broker_down(2).expect("down");
    SystemClock.sleep(Duration::from_secs(2)).await;
    cluster.mock.broker_up(2).expect("up");
    // Longer than between two looks at the client's statistics, whose clock is its own.
    SystemClock.sleep(Duration::from_secs(12)).await;
    clock.1.store(60_000, Ordering::Relaxed);
    // The reader has looked at its clock by then, and would have told what it holds before rows come.
    SystemClock.sleep(Duration::from_secs(1)).await;
    cluster.send("orders", 2, 20..40);
    while member.numbers().len() < 40 {
        member.step().await.expect("nothing is wrong any more");
    }
    in_order(&member, 40);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_group_that_may_not_be_joined_any_more_is_told_with_the_way_out() {
    let cluster = Cluster::with(&[("orders", 1)]);
    cluster.send("orders", 1, 0..10);
    cluster.mock.request_errors(Api::JoinGroup, &[RD_KAFKA_RESP_ERR_GROUP_AUTHORIZATION_FAILED; 8]);
    let mut member = Member::begun(cluster.config(&["orders"])).await;
    let error = loop {
        if let Err(error) = member.step().await {
            break error;
        }
    };
    assert_eq!(error.kind(), ErrorKind::Denied, "{error}");
    assert!(error.hint().is_some_and(|hint| hint.contains("READ on the consumer group")), "{error}");
}

/// The client looked up where to begin when the leader was another one, and hears of it once it was sent elsewhere.
#[tokio::test(flavor = "multi_thread")]
async fn an_answer_of_a_leader_before_that_comes_late_moves_nothing() {
    // More than is fetched ahead and waits in channels.
    const PARTITIONS: i32 = 6;
    const ROWS: i32 = 45;
    let cluster = Cluster::of(2, &[("orders", PARTITIONS)]);
    cluster.mock.coordinator(MockCoordinator::Group("readers".to_owned()), 2).expect("a coordinator");
    let leads = |broker| {
        for partition in 0..PARTITIONS {
            cluster.mock.partition_leader("orders", partition, Some(broker)).expect("a leader");
        }
    };
    leads(1);
    cluster.fill("orders", PARTITIONS, ROWS, 100_000);
    cluster.mock.broker_round_trip_time(1, Duration::from_secs(3)).expect("slow");
    let ids = || (0..PARTITIONS).map(|partition| PartitionId::new(format!("orders/{partition}")));
    let positions = ids().map(|id| (id, Position::Offset(0))).collect();
    let config = KafkaConfig { row_bytes_max: 200_000, ..cluster.config(&["orders"]) };
    let mut member =
        Member::at(config, Checkpoint { positions, ..Checkpoint::default() }).await.expect("there is nothing to open");
    while !matches!(member.source.next().await.expect("an event"), SourceEvent::Assigned(_)) {}
    leads(2);
    while let Err(error) = member.open().await {
        assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
    }
    // The answer of the one before comes meanwhile, and what is asked for anew.
    SystemClock.sleep(Duration::from_secs(5)).await;
    let all = usize::try_from(PARTITIONS * (ROWS - 1)).expect("few");
    member.until(all).await;
    let mut expected: Vec<(String, u64)> =
        ids().flat_map(|id| (1..u64::try_from(ROWS).expect("few")).map(move |at| (id.to_string(), at))).collect();
    let mut numbers = member.numbers();
    expected.sort();
    numbers.sort();
    assert!(numbers == expected, "{} of {all} rows", numbers.len());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_a_broker_ended_for_good_is_told_and_the_next_opening_has_another() {
    let cluster = Cluster::with(&[("orders", 2)]);
    cluster.send("orders", 2, 0..20);
    cluster.mock.request_errors(Api::JoinGroup, &[RD_KAFKA_RESP_ERR_FENCED_INSTANCE_ID]);
    let mut member = Member::begun(KafkaConfig { member: Some("a".to_owned()), ..cluster.config(&["orders"]) }).await;
    let error = loop {
        if let Err(error) = member.step().await {
            break error;
        }
    };
    assert_eq!(error.kind(), ErrorKind::Config, "{error}");
    assert!(error.hint().is_some_and(|hint| hint.contains("its own `member`")), "{error}");
    // The old one is asked until it is gone.
    while let Err(error) = member.open().await {
        assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
    }
    member.until(20).await;
    in_order(&member, 20);
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_that_a_broker_says_it_has_no_more_are_looked_for_where_the_log_begins_and_ends() {
    // One asks for one partition at a time, and of the other rows come.
    let cluster = Cluster::of(2, &[("orders", 2)]);
    for partition in 0..2 {
        cluster.mock.partition_leader("orders", partition, Some(partition + 1)).expect("a leader");
    }
    cluster.send("orders", 2, 0..20);
    let mut member = Member::begun(cluster.config(&["orders"])).await;
    member.until(20).await;
    cluster.mock.request_errors(Api::Fetch, &[RD_KAFKA_RESP_ERR_OFFSET_OUT_OF_RANGE]);
    let (mut sent, mut told) = (20, None);
    while told.is_none() && sent < 400 {
        cluster.send("orders", 2, sent..sent + 2);
        sent += 2;
        told = member.step().await.err();
    }
    let error = told.expect("rows of the other partition are no sign that all is well");
    assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
    assert!(error.to_string().contains("rows are no longer there"), "{error}");
    member.open().await.expect("they are there");
    member.until(usize::try_from(sent).expect("few")).await;
    in_order(&member, sent);
    assert!(member.source.notes().rows_lost.is_empty());
}

// The thread that reads takes one of the workers, whose number must not be that of a small machine.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_topic_that_is_gone_is_told_however_many_rows_come_of_others() {
    let cluster = Cluster::with(&[("orders", 1), ("lines", 1)]);
    for topic in ["orders", "lines"] {
        cluster.send(topic, 1, 0..10);
    }
    let clock = Arc::new(Ahead(SystemClock, AtomicI64::new(0)));
    let env = Env::simulated(Arc::clone(&clock) as Arc<dyn Clock>, 1);
    let mut config = cluster.config(&["orders", "lines"]);
    config.properties.insert("topic.metadata.propagation.max.ms".to_owned(), Secret::new("10"));
    let mut member = Member::timed(config, env).await;
    member.until(20).await;
    cluster.mock.topic_error("lines", RD_KAFKA_RESP_ERR_UNKNOWN_TOPIC_OR_PART).expect("gone");
    // The client looks for the topics at once, not half a minute later.
    let error = member.source.topics().await.expect_err("one is gone");
    assert_eq!(error.kind(), ErrorKind::NotFound, "{error}");
    let (mut sent, mut told) = (10, None);
    while told.is_none() && sent < 200 {
        cluster.send("orders", 1, sent..sent + 1);
        sent += 1;
        clock.1.fetch_add(2_000, Ordering::Relaxed);
        SystemClock.sleep(Duration::from_millis(100)).await;
        told = tokio::select! {
            done = member.step() => done.err(),
            () = SystemClock.sleep(Duration::from_secs(60)) => panic!("nothing comes any more, and nothing tells why"),
        };
    }
    let error = told.expect("the topic is missed");
    assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
    assert!(error.to_string().contains("topic lines is not there"), "{error}");
    // The pipeline waits, and says why, until it is there again.
    let error = member.open().await.expect_err("it is not there");
    assert!(error.to_string().contains("topic lines is not there"), "{error}");
    cluster.mock.topic_error("lines", RD_KAFKA_RESP_ERR_NO_ERROR).expect("there");
    member.open().await.expect("it is there");
    member.until(usize::try_from(sent + 10).expect("few")).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_topic_that_never_was_there_keeps_no_other_from_being_read() {
    let cluster = Cluster::with(&[("orders", 1)]);
    cluster.send("orders", 1, 0..10);
    let clock = Arc::new(Ahead(SystemClock, AtomicI64::new(0)));
    let env = Env::simulated(Arc::clone(&clock) as Arc<dyn Clock>, 1);
    let mut config = cluster.config(&["orders", "unborn"]);
    config.properties.insert("topic.metadata.propagation.max.ms".to_owned(), Secret::new("10"));
    let mut member = Member::timed(config, env).await;
    member.until(10).await;
    for sent in 10..40 {
        cluster.send("orders", 1, sent..sent + 1);
        clock.1.fetch_add(5_000, Ordering::Relaxed);
        SystemClock.sleep(Duration::from_millis(50)).await;
        member.step().await.expect("the others are read");
    }
    member.until(40).await;
}

/// With rows of it in the table, and without.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_partition_that_no_broker_leads_keeps_no_other_from_being_read() {
    for given in [Some(4), None] {
        let cluster = Cluster::with(&[("orders", 2)]);
        cluster.send("orders", 2, 0..20);
        cluster.mock.partition_leader("orders", 1, None).expect("no leader");
        let positions = given.map(|at| ["orders/0", "orders/1"].map(|id| (PartitionId::new(id), Position::Offset(at))));
        let checkpoint = Checkpoint { positions: positions.into_iter().flatten().collect(), ..Checkpoint::default() };
        let mut member = Member::at(cluster.config(&["orders"]), checkpoint).await.expect("the other is opened");
        let first = given.map_or(0, |at| u64::try_from(at).expect("an offset") + 1);
        let each = |id: &str| (first..10).map(|number| (id.to_owned(), number)).collect::<Vec<_>>();
        member.until(each("").len()).await;
        assert_eq!(member.numbers(), each("orders/0"));
        cluster.mock.partition_leader("orders", 1, Some(1)).expect("a leader");
        member.until(2 * each("").len()).await;
        assert_eq!(member.numbers(), [each("orders/0"), each("orders/1")].concat());
    }
}

/// Each record once, those of a partition in their order.
fn in_order(member: &Member, sent: i32) {
    let numbers = member.numbers();
    for partition in ["orders/0", "orders/1"] {
        let own: Vec<u64> = numbers.iter().filter(|(of, _)| of == partition).map(|(_, number)| *number).collect();
        assert_eq!(own, (0..u64::try_from(sent / 2).expect("few")).collect::<Vec<_>>(), "{partition}");
    }
}
