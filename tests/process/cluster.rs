//! A pipeline whose Kafka cluster is not the one of before: two clusters of the client library's own, whose protocol is real and
//! whose brokers are not.

use std::mem::ManuallyDrop;
use std::time::Duration;

use rdkafka::ClientConfig;
use rdkafka::mocking::MockCluster;
use rdkafka::producer::{BaseProducer, BaseRecord, DefaultProducerContext, Producer};
use serde_json::{Value, json};

use crate::daemon::{Running, World};

const TABLE: &str = "shop.orders";

/// A cluster whose topic has these numbers, in turn in its two partitions. It outlives the test: who is connected to it need not
/// end before.
fn cluster(numbers: std::ops::Range<i32>) -> ManuallyDrop<MockCluster<'static, DefaultProducerContext>> {
    let mock = MockCluster::new(1).expect("a mock cluster");
    mock.create_topic("orders", 2, 1).expect("a topic");
    let mut config = ClientConfig::new();
    config.set("bootstrap.servers", mock.bootstrap_servers());
    let producer: BaseProducer = config.create().expect("a producer");
    for number in numbers {
        let row = format!("{{\"id\":{number}}}");
        let record = BaseRecord::<str, str>::to("orders").partition(number % 2).payload(&row);
        producer.send(record).map_err(|(error, _)| error).expect("queued");
    }
    producer.flush(Duration::from_secs(30)).expect("sent");
    ManuallyDrop::new(mock)
}

/// A pipeline that reads from these brokers.
fn points(world: &World, brokers: &str) {
    world.configure(&format!(
        r#"
instance = "one"
state_dir = "{folder}/state"
[catalog.lake]
type = "embedded"
path = "{folder}/lake.db"
warehouse = "{folder}/warehouse"
[source.in]
type = "kafka"
brokers = ["{brokers}"]
group = "readers"
topics = ["orders"]
[pipeline.orders]
source = "in"
table = "lake.{TABLE}"
commit = {{ freshness = "100ms" }}
"#,
        folder = world.path("").display()
    ));
}

/// Waits until so many rows are committed, and no more.
fn commits(daemon: &mut Running, rows: u64) {
    let mut left = rows;
    while left > 0 {
        let line: Value = serde_json::from_str(&daemon.until(&["\"committed\""])).expect("JSON");
        let rows = line["rows"].as_u64().expect("a number");
        left = left.checked_sub(rows).unwrap_or_else(|| panic!("{rows} rows where {left} were left: {line}"));
    }
}

#[test]
fn a_pipeline_of_another_cluster_halts_and_goes_on_in_it_where_the_command_of_its_hint_says() {
    let world = World::bare("");
    // What the second cluster has of the first one's rows stands elsewhere there.
    let (before, now) = (cluster(0..100), cluster(40..150));
    points(&world, &before.bootstrap_servers());
    let mut daemon = world.start(&[]);
    commits(&mut daemon, 100);
    daemon.terminate().with(0, &[]);

    points(&world, &now.bootstrap_servers());
    let halted = world.start(&[]).ends().with(3, &["its checkpoint is of source"]);
    let lines = halted.said.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    let text = |line: &Value, field: &str| line[field].as_str().unwrap_or_default().to_owned();
    let mut told = lines.map(|line| (text(&line, "message"), text(&line, "hint")));
    let (message, hint) = told.find(|(message, _)| message.starts_with("halted")).expect("it says why");
    assert_eq!(world.longs(TABLE, "id"), (0..100).collect::<Vec<i64>>());

    // The command as the hint has it, with the identity that the message says.
    let command = hint.split('`').nth(1).expect("a command");
    let identity = message.rsplit('"').nth(1).expect("the source's identity");
    let words: Vec<&str> = command.split(' ').skip_while(|word| *word == "frazil").collect();
    assert_eq!(words, ["checkpoint", "set", "--source"], "{hint}");
    let positions = json!({ "orders/0": 29, "orders/1": 29 }).to_string();
    let more = [identity, TABLE, "--pipeline", "orders", "--positions", &positions, "--yes"];
    let done = world.json(&[&words[..], &more].concat());
    assert_eq!(done["after"]["source"], identity, "{done}");
    assert_ne!(done["before"]["source"], identity, "{done}");

    let mut daemon = world.start(&[]);
    commits(&mut daemon, 50);
    daemon.terminate().with(0, &[]);
    assert_eq!(world.longs(TABLE, "id"), (0..150).collect::<Vec<i64>>());
}
