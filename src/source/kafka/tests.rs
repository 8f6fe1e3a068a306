//! Against the client library's own mock of a cluster, over loopback: the protocol is real, the brokers are not.

use std::collections::BTreeSet;
use std::mem::ManuallyDrop;
use std::sync::atomic::{AtomicI64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::message::{Header, OwnedHeaders};
use rdkafka::mocking::MockCluster;
use rdkafka::producer::{BaseProducer, BaseRecord, DefaultProducerContext, Producer};
use rdkafka::topic_partition_list::TopicPartitionListElem;
use rdkafka::types::RDKafkaApiKey as Api;
use rdkafka::types::RDKafkaRespErr as Code;
use rdkafka::{ClientConfig, Offset, TopicPartitionList};

use super::*;
use crate::config::Secret;
use crate::config::kafka::{KafkaStart, OnGap, Tombstones};
use crate::env::Clock;
use crate::model::batch::RawBatch;
use crate::model::checkpoint::{Position, Standing};
use crate::source::kafka_probe::{Gaps, Probe};

pub(in crate::source) struct Cluster {
    /// It outlives the test: a client that is being closed while its cluster goes away may wait for it without end.
    pub(in crate::source) mock: ManuallyDrop<MockCluster<'static, DefaultProducerContext>>,
    producer: BaseProducer,
}

impl Cluster {
    pub(in crate::source) fn with(topics: &[(&str, i32)]) -> Self {
        Self::of(1, topics)
    }

    /// So many brokers, with these topics.
    pub(in crate::source) fn of(brokers: i32, topics: &[(&str, i32)]) -> Self {
        let mock = MockCluster::new(brokers).expect("a mock cluster");
        for (topic, partitions) in topics {
            mock.create_topic(topic, *partitions, 1).expect("a topic");
        }
        let producer = ClientConfig::new().set("bootstrap.servers", mock.bootstrap_servers()).create();
        Self { mock: ManuallyDrop::new(mock), producer: producer.expect("a producer") }
    }

    /// Rows `first..first + count` in turn over the partitions of a topic.
    pub(in crate::source) fn send(&self, topic: &str, partitions: i32, numbers: std::ops::Range<i32>) {
        for number in numbers {
            let (value, key) = (format!("{{\"n\":{number}}}"), format!("k{number}"));
            let record = BaseRecord::to(topic).partition(number % partitions).key(&key).payload(&value);
            self.producer.send(record).expect("queued");
        }
        self.producer.flush(Duration::from_secs(30)).expect("sent");
    }

    /// So many rows of so many bytes in each partition of a topic. Of a partition the mock keeps 5 MB.
    pub(in crate::source) fn fill(&self, topic: &str, partitions: i32, rows: i32, bytes: usize) {
        let value = "x".repeat(bytes);
        for number in 0..rows * partitions {
            let record = BaseRecord::<str, str>::to(topic).partition(number % partitions).payload(&value);
            self.producer.send(record).expect("queued");
        }
        self.producer.flush(Duration::from_secs(60)).expect("sent");
    }

    /// The offsets of the group `readers`, where it has any.
    pub(in crate::source) fn committed(&self, topic: &str, partitions: i32) -> Vec<Option<i64>> {
        let mut client = ClientConfig::new();
        client.set("bootstrap.servers", self.mock.bootstrap_servers()).set("group.id", "readers");
        let client: BaseConsumer = client.create().expect("a client");
        let mut asked = TopicPartitionList::new();
        asked.add_partition_range(topic, 0, partitions - 1);
        let found = client.committed_offsets(asked, Duration::from_secs(30)).expect("answered");
        let offset = |element: &TopicPartitionListElem<'_>| match element.offset() {
            Offset::Offset(offset) => Some(offset),
            _ => None,
        };
        found.elements().iter().map(offset).collect()
    }

    pub(in crate::source) fn config(&self, topics: &[&str]) -> KafkaConfig {
        KafkaConfig {
            brokers: vec![self.mock.bootstrap_servers()],
            group: "readers".to_owned(),
            topics: topics.iter().map(|topic| (*topic).to_owned()).collect(),
            topic_pattern: None,
            start: KafkaStart::Earliest,
            start_offsets: BTreeMap::new(),
            on_gap: OnGap::Halt,
            tombstones: Tombstones::Reject,
            read_uncommitted: false,
            broker_assigns: false,
            member: None,
            tls: None,
            sasl: None,
            row_bytes_max: 1_000,
            fetch_bytes: 1 << 20,
            properties: [("session.timeout.ms", "6000"), ("heartbeat.interval.ms", "200")]
                .map(|(name, value)| (name.to_owned(), Secret::new(value)))
                .into(),
        }
    }
}

/// What a table would hold: what comes from elsewhere than where it stands is fenced.
#[derive(Default)]
struct Table {
    checkpoint: Checkpoint,
    batches: Vec<RawBatch>,
}

impl Table {
    /// Partition and offset of every row and reject.
    fn numbers(&self) -> Vec<(String, u64)> {
        let of = |batch: &RawBatch| {
            let numbers: Vec<u64> = batch.rows.iter().map(|row| row.number).collect();
            let rejects = batch.rejects.iter().map(|reject| reject.number);
            numbers.into_iter().chain(rejects).map(|n| (batch.partition.to_string(), n)).collect::<Vec<_>>()
        };
        self.batches.iter().flat_map(of).collect()
    }

    fn lock(table: &Mutex<Self>) -> MutexGuard<'_, Self> {
        table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A source as a pipeline uses it.
pub(in crate::source) struct Member {
    pub(in crate::source) source: KafkaSource,
    table: Arc<Mutex<Table>>,
    owned: BTreeSet<PartitionId>,
    fenced: usize,
    taken: Arc<AtomicUsize>,
    idle: usize,
}

/// Looks in a row that find nothing, five seconds apart, after which a test gives up.
const IDLE_MAX: usize = 24;

impl Member {
    pub(in crate::source) async fn begun(config: KafkaConfig) -> Self {
        Self::of(config, Arc::default()).await.expect("opens")
    }

    pub(in crate::source) async fn at(config: KafkaConfig, checkpoint: Checkpoint) -> Result<Self> {
        Self::of(config, Arc::new(Mutex::new(Table { checkpoint, batches: Vec::new() }))).await
    }

    /// One whose time is another.
    pub(in crate::source) async fn timed(config: KafkaConfig, env: Env) -> Self {
        Self::of_source(KafkaSource::new(config, env).expect("valid"), Arc::default()).await.expect("opens")
    }

    async fn of(config: KafkaConfig, table: Arc<Mutex<Table>>) -> Result<Self> {
        Self::of_source(KafkaSource::new(config, Env::system())?, table).await
    }

    async fn of_source(mut source: KafkaSource, table: Arc<Mutex<Table>>) -> Result<Self> {
        source.connect().await?;
        let mut member = Self { source, table, owned: BTreeSet::new(), fenced: 0, taken: Arc::default(), idle: 0 };
        member.open().await?;
        Ok(member)
    }

    pub(in crate::source) async fn open(&mut self) -> Result<()> {
        let checkpoint = Table::lock(&self.table).checkpoint.clone();
        self.source.open(&checkpoint).await
    }

    /// One event, as a pipeline takes it. Not cancel-safe.
    pub(in crate::source) async fn step(&mut self) -> Result<()> {
        match self.source.next().await? {
            SourceEvent::Batch(batch) => {
                let (partition, range) = (batch.partition.clone(), batch.range.clone());
                let delta = Delta { ranges: BTreeMap::from([(partition, range)]) };
                let tails = self.source.tails(&delta);
                let stands = {
                    let mut table = Table::lock(&self.table);
                    let stands = delta.standing(&table.checkpoint.positions);
                    if stands == Standing::Ahead {
                        table.checkpoint.positions = delta.apply(&table.checkpoint.positions);
                        table.checkpoint.tails.extend(tails);
                        table.batches.push(batch);
                        self.idle = 0;
                        self.taken.fetch_add(1, Ordering::Relaxed);
                    }
                    stands
                };
                if stands != Standing::Ahead {
                    self.fenced += 1;
                    self.open().await?;
                }
            }
            SourceEvent::Assigned(partitions) => {
                self.owned.extend(partitions);
                self.open().await?;
            }
            SourceEvent::Revoked(partitions) => self.owned.retain(|own| !partitions.contains(own)),
            SourceEvent::Idle => {
                self.idle += 1;
                assert!(self.idle < IDLE_MAX, "nothing came any more after {} rows", self.numbers().len());
            }
            SourceEvent::End => panic!("a log has no end"),
        }
        Ok(())
    }

    /// Takes events until the table has so many rows. What waiting may mend is begun again, as a pipeline does.
    pub(in crate::source) async fn until(&mut self, count: usize) {
        while self.numbers().len() < count {
            let error = match self.step().await {
                Ok(()) => continue,
                Err(error) => error,
            };
            assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
            println!("{error}");
            while let Err(error) = self.open().await {
                assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
            }
        }
    }

    /// Takes events until nothing came for so long. What waiting may mend is begun again.
    pub(in crate::source) async fn quiet(&mut self) {
        self.idle = 0;
        // The first look follows at once upon an opening.
        while self.idle < 2 {
            if let Err(error) = self.step().await {
                assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
                let _ = self.open().await;
            }
        }
    }

    async fn rows(&mut self, count: usize) {
        self.until(count).await;
        assert_eq!(self.fenced, 0, "ranges follow each other");
    }

    pub(in crate::source) fn numbers(&self) -> Vec<(String, u64)> {
        Table::lock(&self.table).numbers()
    }

    /// Rows that wait to be read, by partition.
    fn behind(&self) -> Vec<u64> {
        self.source.notes().rows_behind.expect("it knows").values().copied().collect()
    }

    fn batches(&self) -> Vec<RawBatch> {
        Table::lock(&self.table).batches.clone()
    }

    pub(in crate::source) fn checkpoint(&self) -> Checkpoint {
        Table::lock(&self.table).checkpoint.clone()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn each_record_comes_once_with_its_key_and_headers_and_after_a_restart_those_that_follow() {
    let cluster = Cluster::with(&[("orders", 3)]);
    cluster.send("orders", 3, 0..300);
    let headers = OwnedHeaders::new()
        .insert(Header { key: "trace", value: Some("é") })
        .insert(Header { key: "trace", value: Some(&[0xff_u8][..]) })
        .insert(Header { key: "none", value: None::<&[u8]> });
    let record = BaseRecord::<str, str>::to("orders").partition(0).payload("{}").timestamp(1_500).headers(headers);
    cluster.producer.send(record).expect("queued");
    cluster.producer.flush(Duration::from_secs(30)).expect("sent");

    let mut first = Member::begun(cluster.config(&["orders"])).await;
    first.rows(301).await;
    let mut numbers = first.numbers();
    numbers.sort();
    numbers.dedup();
    assert_eq!(numbers.len(), 301);
    let batches = first.batches();
    let batch = batches.iter().find(|batch| batch.partition.as_str() == "orders/1").expect("rows");
    assert_eq!(batch.bytes(batch.rows[0]), b"{\"n\":1}");
    assert_eq!(batch.part(batch.rows[0].key), Some(&b"k1"[..]));
    assert_eq!((batch.part(batch.rows[0].headers), &*batch.origin), (None, "orders"));
    let last = batches.iter().rev().find(|batch| batch.partition.as_str() == "orders/0").expect("rows");
    let row = *last.rows.last().expect("a row");
    let shown = String::from_utf8_lossy(last.part(row.headers).expect("headers")).into_owned();
    let expected = r#"[{"key":"trace","value":"é"},{"key":"trace","base64":"/w=="},{"key":"none","value":null}]"#;
    assert_eq!((shown.as_str(), row.timestamp_ms, last.part(row.key)), (expected, Some(1_500), None));

    let checkpoint = first.checkpoint();
    drop(first);
    cluster.send("orders", 3, 300..330);
    let mut second = Member::at(cluster.config(&["orders"]), checkpoint).await.expect("opens");
    second.rows(30).await;
    let numbers: BTreeSet<u64> = second.numbers().into_iter().map(|(_, number)| number).collect();
    assert_eq!(numbers.into_iter().collect::<Vec<_>>(), (100..111).collect::<Vec<u64>>());
}

#[tokio::test(flavor = "multi_thread")]
async fn records_that_are_no_rows_are_rejects_at_their_place() {
    let cluster = Cluster::with(&[("orders", 1)]);
    cluster.send("orders", 1, 0..1);
    let producer = &cluster.producer;
    producer.send(BaseRecord::<str, str>::to("orders").partition(0).key("gone")).expect("queued");
    producer.send(BaseRecord::<str, str>::to("orders").partition(0).payload(&"x".repeat(2_000))).expect("queued");
    cluster.send("orders", 1, 3..4);
    let mut member = Member::begun(cluster.config(&["orders"])).await;
    member.rows(4).await;
    let batches = member.batches();
    let rejects: Vec<_> = batches.iter().flat_map(|batch| &batch.rejects).collect();
    let shown: Vec<_> = rejects.iter().map(|reject| (reject.number, reject.raw.len())).collect();
    assert_eq!(shown, [(1, 4), (2, 2_000)]);
    assert!(rejects[0].reason.contains("without a value") && rejects[1].reason.contains("row_bytes_max"));
}

#[tokio::test(flavor = "multi_thread")]
async fn records_without_a_value_are_passed_over_where_that_is_set_and_the_log_says_so_when_it_is_asked() {
    let cluster = Cluster::with(&[("orders", 1)]);
    let tombstone = || BaseRecord::<str, str>::to("orders").partition(0).key("gone");
    cluster.send("orders", 1, 0..2);
    cluster.producer.send(tombstone()).expect("queued");
    cluster.send("orders", 1, 3..4);
    cluster.producer.send(tombstone()).expect("queued");
    cluster.producer.flush(Duration::from_secs(30)).expect("sent");
    let config = KafkaConfig { tombstones: Tombstones::Skip, ..cluster.config(&["orders"]) };
    let partition = PartitionId::new("orders/0");
    let skipped = |member: &Member| member.batches().iter().map(|batch| batch.skipped).sum::<u64>();

    let mut member = Member::begun(config.clone()).await;
    member.rows(3).await;
    while skipped(&member) < 2 {
        member.step().await.expect("an event");
    }
    let numbers: Vec<u64> = member.numbers().into_iter().map(|(_, number)| number).collect();
    assert_eq!((numbers, skipped(&member)), (vec![0, 1, 3], 2));
    let checkpoint = member.checkpoint();
    assert_eq!(checkpoint.positions.get(&partition), Some(&Position::Offset(4)));
    drop(member);

    // The last one that was read is what the log is known by.
    cluster.send("orders", 1, 5..7);
    let mut member = Member::at(config.clone(), checkpoint).await.expect("opens");
    member.rows(2).await;
    assert_eq!(member.numbers().into_iter().map(|(_, number)| number).collect::<Vec<_>>(), [5, 6]);

    let gaps = || vec![Gaps { log: "orders/0".to_owned(), ranges: vec![(1, 2), (4, 5)] }];
    let asked = async |config: &KafkaConfig| {
        let probe = Probe::new(config, &Env::system()).expect("valid");
        let held = probe.records_at(gaps()).await.expect("answers").remove(0);
        (held.records.iter().collect::<Vec<_>>(), held.skipped.iter().collect::<Vec<_>>())
    };
    assert_eq!(asked(&config).await, (vec![1, 3, 5], vec![2, 4]));
    let rejects = KafkaConfig { tombstones: Tombstones::Reject, ..config };
    assert_eq!(asked(&rejects).await, (vec![1, 2, 3, 4, 5], vec![]));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_that_is_not_the_one_of_the_checkpoint_halts() {
    let cluster = Cluster::with(&[("orders", 1)]);
    cluster.send("orders", 1, 0..10);
    let mut member = Member::begun(cluster.config(&["orders"])).await;
    member.rows(10).await;
    let known = member.checkpoint();
    drop(member);
    let partition = PartitionId::new("orders/0");

    let mut other = known.clone();
    other.tails.insert(partition.clone(), "00000000@0".to_owned());
    cluster.send("orders", 1, 10..20);
    let error = first_error(Member::at(cluster.config(&["orders"]), other).await).await;
    assert_eq!((error.kind(), error.hint().is_some()), (ErrorKind::Corrupt, true), "{error}");
    assert!(error.to_string().contains("at offset 9 is not the one"), "{error}");

    let mut beyond = known;
    beyond.positions.insert(partition, Position::Offset(99));
    let error = first_error(Member::at(cluster.config(&["orders"]), beyond).await).await;
    assert_eq!(error.kind(), ErrorKind::Corrupt, "{error}");
    assert!(error.to_string().contains("it ends at 20, and the table has rows up to offset 99"), "{error}");
}

async fn first_error(member: Result<Member>) -> Error {
    let mut member = match member {
        Ok(member) => member,
        Err(error) => return error,
    };
    loop {
        if let Err(error) = member.step().await {
            return error;
        }
        assert!(member.batches().is_empty(), "rows of another log were read");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pipeline_that_was_never_here_begins_where_it_is_told() {
    let cluster = Cluster::with(&[("orders", 2), ("empty", 1)]);
    cluster.send("orders", 2, 0..20);
    let mut config = cluster.config(&["orders", "empty"]);
    let mut source = KafkaSource::new(config.clone(), Env::system()).expect("valid");
    source.connect().await.expect("connects");
    assert_eq!(source.begins().await.expect("known"), None);
    assert!(source.identity().starts_with("kafka:mock"), "{}", source.identity());

    config.start = KafkaStart::Latest;
    config.start_offsets.insert("orders/1".to_owned(), 4);
    let mut source = KafkaSource::new(config.clone(), Env::system()).expect("valid");
    let found = source.begins().await.expect("known");
    let expected = [("orders/0", 9), ("orders/1", 3)].map(|(id, at)| (PartitionId::new(id), Position::Offset(at)));
    assert_eq!(found, Some(Positions::from(expected)));

    let mut source = KafkaSource::new(config.clone(), Env::system()).expect("valid");
    let topics = source.topics().await.expect("answers");
    assert_eq!(topics, BTreeMap::from([("empty".to_owned(), 1), ("orders".to_owned(), 2)]));

    config.topics.push("missing".to_owned());
    let error = KafkaSource::new(config.clone(), Env::system()).expect("valid").topics().await.expect_err("not there");
    assert_eq!((error.kind(), error.to_string().contains("topic missing is not there")), (ErrorKind::NotFound, true));
    let error = KafkaSource::new(config, Env::system()).expect("valid").begins().await.expect_err("not there");
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    assert!(error.to_string().contains("missing"), "{error}");
}

/// Each look at it is later than rows wait for others.
#[derive(Debug, Default)]
struct Rushing(AtomicI64);

#[async_trait]
impl Clock for Rushing {
    fn now_ms(&self) -> i64 {
        self.0.fetch_add(200, Ordering::Relaxed)
    }

    async fn sleep(&self, duration: Duration) {
        Env::system().sleep(duration).await;
    }
}

// The thread that reads takes one of the workers, whose number must not be that of a small machine.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_partition_that_is_far_behind_does_not_keep_rows_of_another_waiting() {
    // An answer has 1 MiB.
    const BEHIND: i32 = 45;
    let cluster = Cluster::with(&[("orders", 2)]);
    cluster.fill("orders", 1, BEHIND, 100_000);
    for _ in 0..10 {
        cluster.producer.send(BaseRecord::<str, str>::to("orders").partition(1).payload("{}")).expect("queued");
    }
    cluster.producer.flush(Duration::from_secs(60)).expect("sent");
    let config = KafkaConfig { row_bytes_max: 200_000, ..cluster.config(&["orders"]) };
    let mut member = Member::timed(config, Env::simulated(Arc::new(Rushing::default()), 1)).await;
    let of = |numbers: &[(String, u64)], partition: &str| numbers.iter().filter(|(of, _)| of == partition).count();
    while of(&member.numbers(), "orders/1") < 10 {
        member.step().await.expect("an event");
    }
    let before = of(&member.numbers(), "orders/0");
    let behind = usize::try_from(BEHIND).expect("few");
    assert!(before < behind / 2, "{before} rows of the other came first");
    member.until(behind + 10).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn members_of_a_group_share_the_partitions_and_take_over_from_each_other() {
    let cluster = Cluster::with(&[("orders", 4)]);
    cluster.send("orders", 4, 0..40);
    let table = Arc::new(Mutex::new(Table::default()));
    let mut one = Member::of(cluster.config(&["orders"]), Arc::clone(&table)).await.expect("opens");
    one.rows(40).await;
    assert_eq!(one.owned.len(), 4);
    // Rows come until the second member has taken some.
    let mut two = Member::of(cluster.config(&["orders"]), Arc::clone(&table)).await.expect("opens");
    let taken = Arc::clone(&two.taken);
    let sending = async {
        let mut sent = 40;
        while taken.load(Ordering::Relaxed) == 0 {
            cluster.send("orders", 4, sent..sent + 40);
            sent += 40;
            while Table::lock(&table).numbers().len() < usize::try_from(sent).expect("few") {
                Env::system().sleep(Duration::from_millis(20)).await;
            }
        }
        sent
    };
    let sent = tokio::select! {
        sent = sending => sent,
        () = one.until(usize::MAX) => 0,
        () = two.until(usize::MAX) => 0,
    };
    // What it was doing may have been cut off: a new life takes over both.
    drop((one, two));
    cluster.send("orders", 4, sent..sent + 40);
    let mut three = Member::of(cluster.config(&["orders"]), Arc::clone(&table)).await.expect("opens");
    let count = usize::try_from(sent + 40).expect("few");
    three.until(count).await;
    let all: BTreeSet<_> = three.numbers().into_iter().collect();
    assert_eq!((all.len(), three.numbers().len()), (count, count), "each record once");
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_that_nobody_takes_wait_and_none_is_lost_when_reading_goes_on() {
    let cluster = Cluster::with(&[("orders", 2)]);
    let mut member = Member::begun(cluster.config(&["orders"])).await;
    while member.owned.len() < 2 {
        member.step().await.expect("an event");
    }
    // Many more batches than may wait, and nobody takes one until partitions are paused.
    cluster.send("orders", 2, 0..90_000);
    Env::system().sleep(Duration::from_secs(2)).await;
    // What the client tells of the ends comes every few seconds. Without a pause all would have been taken.
    let mut looks = 0;
    while member.behind() == [0, 0] {
        looks += 1;
        assert!(looks < 200, "nothing waits to be read: the partitions were not paused");
        Env::system().sleep(Duration::from_millis(50)).await;
    }
    // Nothing more comes than what was taken: the rest is what is told to wait.
    cluster.mock.request_errors(Api::Fetch, &[Code::RD_KAFKA_RESP_ERR_REQUEST_TIMED_OUT; 1_000]);
    while member.numbers().is_empty() || member.idle == 0 {
        member.step().await.expect("an event");
    }
    Env::system().sleep(Duration::from_millis(500)).await;
    let taken = |of: &str| member.numbers().iter().filter(|(partition, _)| partition == of).count() as u64;
    let waits = ["orders/0", "orders/1"].map(|partition| 45_000 - taken(partition));
    assert_ne!(waits, [0, 0], "all was taken");
    assert_eq!(member.behind(), waits);
    cluster.mock.clear_request_errors(Api::Fetch);
    member.rows(90_000).await;
    // A closed batch is not added to while it waits.
    let longest = member.batches().iter().map(|batch| batch.rows.len()).max();
    assert!(longest.is_some_and(|rows| rows < 10_000), "{longest:?} rows in a batch");
    let all: BTreeSet<_> = member.numbers().into_iter().collect();
    assert_eq!((all.len(), member.numbers().len()), (90_000, 90_000));
    assert!(member.batches().len() > 4, "they would all have waited");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cluster_that_is_not_there_is_an_error_that_waiting_may_mend() {
    let nobody = std::net::TcpListener::bind("127.0.0.1:0").expect("a port").local_addr().expect("an address");
    let cluster = Cluster::with(&[]);
    let config = KafkaConfig { brokers: vec![nobody.to_string()], ..cluster.config(&["orders"]) };
    let error = KafkaSource::new(config, Env::system()).expect("valid").connect().await.expect_err("nobody");
    assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
}

/// A clock whose time passes at once; it counts who waited.
#[derive(Debug, Default)]
struct Hasty(AtomicUsize);

#[async_trait]
impl Clock for Hasty {
    fn now_ms(&self) -> i64 {
        0
    }

    async fn sleep(&self, _: Duration) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

#[tokio::test]
async fn a_client_that_does_not_end_is_not_waited_for_and_one_that_was_no_member_not_at_all() {
    for joined in [true, false] {
        let clock = Arc::new(Hasty::default());
        let env = Env::simulated(Arc::clone(&clock) as Arc<dyn Clock>, 1);
        let mut source = KafkaSource::new(Cluster::with(&[]).config(&["orders"]), env).expect("valid");
        let (orders, ordered) = std::sync::mpsc::sync_channel(1);
        let (say, said) = mpsc::channel(1);
        source.reading = Some(Reading { orders, said, joined });
        source.close().await;
        assert!(matches!(ordered.try_recv(), Err(std::sync::mpsc::TryRecvError::Disconnected)), "it is told to end");
        assert!(say.is_closed() && source.reading.is_none());
        assert_eq!(clock.0.load(Ordering::Relaxed), usize::from(joined), "waits");
    }
}
