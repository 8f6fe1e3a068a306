//! A topic changes hands: Kafka Connect's Iceberg sink writes, is deleted, and we go on where it stopped.

use std::fs;
use std::process::Output;
use std::time::Duration;

use serde_json::{Value, json};

use crate::components::{is_there, scratch, value};
use crate::daemon::Daemon;
use crate::kafka::{Sender, create, has};
use crate::readers::{Engine, engines_find, input};
use crate::table::{Table, idle, spark_does};

const ROWS: &[(&str, &str)] = &[("n", "long"), ("word", "string")];
/// Rows that the connector commits, rows that it may have begun with, and rows that come when it is gone.
const COMMITTED: usize = 3_000;
const BEGUN: usize = 500;
const LATER: usize = 1_500;
/// How often is looked, twice a second, whether the connector has committed, or is gone.
const LOOKS: usize = 480;
/// The secrets of the connector, as the new configuration asks for them.
const SECRETS: [(&str, &str); 2] =
    [("FRAZIL_S3_ACCESS_KEY_ID", "S3_ACCESS_KEY_ID"), ("FRAZIL_S3_SECRET_ACCESS_KEY", "S3_SECRET_ACCESS_KEY")];

fn wait(milliseconds: u64) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(frazil::env::Env::system().sleep(Duration::from_millis(milliseconds)));
}

/// Asks the worker; what it answers is JSON or nothing.
fn worker(method: reqwest::Method, path: &str, body: Option<&Value>) -> Value {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async {
        let request = reqwest::Client::new().request(method, format!("{}{path}", value("CONNECT_URI")));
        let request = body.iter().fold(request, |request, body| request.json(body));
        let response = request.send().await.expect("the worker answers");
        let (status, text) = (response.status(), response.text().await.expect("an answer"));
        assert!(status.is_success(), "{path}: {status} {text}");
        serde_json::from_str(&text).unwrap_or_default()
    })
}

fn connector(name: &str, topic: &str, table: &Table) -> Value {
    json!({
        "name": name,
        "connector.class": "org.apache.iceberg.connect.IcebergSinkConnector",
        "tasks.max": "1",
        "topics": topic,
        "iceberg.tables": table.name.strip_prefix("lake.").expect("our catalog"),
        "iceberg.control.topic": format!("control-{name}"),
        "iceberg.control.commit.interval-ms": "3000",
        // A worker that is slow to join does not hold the others back for half a minute.
        "iceberg.control.commit.timeout-ms": "5000",
        "key.converter": "org.apache.kafka.connect.converters.ByteArrayConverter",
        "value.converter": "org.apache.kafka.connect.json.JsonConverter",
        "value.converter.schemas.enable": "false",
        "consumer.override.auto.offset.reset": "earliest",
        "iceberg.kafka.auto.offset.reset": "earliest",
        "iceberg.catalog.type": "rest",
        "iceberg.catalog.uri": value("APACHE_REST_URI"),
        "iceberg.catalog.io-impl": "org.apache.iceberg.aws.s3.S3FileIO",
        "iceberg.catalog.s3.endpoint": value("S3_ENDPOINT"),
        "iceberg.catalog.s3.path-style-access": "true",
        "iceberg.catalog.s3.access-key-id": value("S3_ACCESS_KEY_ID"),
        "iceberg.catalog.s3.secret-access-key": value("S3_SECRET_ACCESS_KEY"),
        "iceberg.catalog.client.region": value("S3_REGION"),
    })
}

fn import(daemon: &Daemon, out: &str) -> Output {
    let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_frazil"));
    command.args(["import", "kafka-connect", "--connector", "connector.json", "--brokers", value("KAFKA_BROKERS")]);
    command.args(["-c", out]).current_dir(daemon.command(&[]).get_current_dir().expect("a folder"));
    command.envs(SECRETS.map(|(variable, key)| (variable, value(key))));
    command.output().expect("run frazil")
}

/// Offsets that a group has of a topic, though no reader of it ever was.
fn has_read(group: &str, topic: &str, offset: i64) {
    let mut config = rdkafka::ClientConfig::new();
    config.set("bootstrap.servers", value("KAFKA_BROKERS")).set("group.id", group);
    let consumer: rdkafka::consumer::BaseConsumer = config.create().expect("a consumer");
    let mut list = rdkafka::TopicPartitionList::new();
    list.add_partition_offset(topic, 0, rdkafka::Offset::Offset(offset)).expect("valid");
    rdkafka::consumer::Consumer::commit(&consumer, &list, rdkafka::consumer::CommitMode::Sync).expect("committed");
}

#[test]
fn a_connector_of_tabulars_class_is_known_by_its_group_whatever_its_class_is_called() {
    let name = format!("tabulars{}", std::process::id());
    let (folder, topic) = (scratch(&name), format!("rows-of-{name}"));
    create(&topic, 1);
    let mut settings = connector(&name, &topic, &Table::of(&name, "rows"));
    settings["connector.class"] = json!("IcebergSinkConnector");
    fs::write(folder.join("connector.json"), settings.to_string()).expect("write the connector");
    let looker = idle(&folder);
    // A connector that never ran, and one whose commits no snapshot has any more.
    let fresh = import(&looker, "fresh.toml");
    assert!(fresh.status.success(), "{}", String::from_utf8_lossy(&fresh.stderr));
    has_read(&format!("cg-control-{name}"), &topic, 0);
    let refused = import(&looker, "refused.toml");
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(!refused.status.success() && said.contains(&format!("group cg-control-{name} has offsets")), "{said}");
    assert!(said.contains("--offline") && !folder.join("refused.toml").exists(), "{said}");
}

#[test]
fn a_topic_of_kafka_connects_sink_changes_hands_and_each_row_is_there_once() {
    if !is_there("CONNECT_URI", "takeover from a real Kafka Connect (FRAZIL_CONNECT is not set)") {
        return;
    }
    let name = format!("hands{}", std::process::id());
    let (folder, topic) = (scratch(&name), format!("rows-of-{name}"));
    create(&topic, 3);
    create(&format!("control-{name}"), 1);
    let table = Table::of(&name, "rows");
    spark_does(&table.place, "create", json!("(n bigint, word string) USING iceberg"));
    let lines: Vec<String> =
        (0..COMMITTED + BEGUN + LATER).map(|n| json!({"n": n, "word": format!("w{}", n % 17)}).to_string()).collect();
    let lines: Vec<&str> = lines.iter().map(String::as_str).collect();
    let mut sender = Sender::new(&topic, 3, None);
    sender.send(&lines[..COMMITTED]);
    sender.flush();
    let settings = connector(&name, &topic, &table);
    fs::write(folder.join("connector.json"), settings.to_string()).expect("write the connector");
    worker(reqwest::Method::PUT, &format!("/connectors/{name}/config"), Some(&settings));
    let looker = idle(&folder);
    let all = (0..LOOKS).any(|_| {
        wait(500);
        looker.rows(&table.name) == COMMITTED as u64
    });
    assert!(all, "the connector committed {} of {COMMITTED} rows", looker.rows(&table.name));

    let running = import(&looker, "new.toml");
    let said = String::from_utf8_lossy(&running.stderr).into_owned();
    assert!(!running.status.success() && said.contains("the connector still runs"), "{said}");
    assert!(!folder.join("new.toml").exists(), "nothing is written while it runs");

    // It has begun with these, and is stopped wherever it is.
    sender.send(&lines[COMMITTED..COMMITTED + BEGUN]);
    sender.flush();
    worker(reqwest::Method::DELETE, &format!("/connectors/{name}"), None);
    let mut imported = import(&looker, "new.toml");
    for _ in 0..LOOKS {
        if imported.status.success() {
            break;
        }
        wait(500);
        imported = import(&looker, "new.toml");
    }
    let said = String::from_utf8_lossy(&imported.stderr).into_owned();
    assert!(imported.status.success(), "{said}");
    println!("{said}");
    sender.send(&lines[COMMITTED + BEGUN..]);
    sender.flush();

    let mut config = fs::read_to_string(folder.join("new.toml")).expect("the configuration is there");
    assert!(config.contains("start_offsets"), "{config}");
    for (variable, key) in SECRETS {
        assert!(!config.contains(&format!("= \"{}\"", value(key))), "a secret was copied: {config}");
        config = config.replace(&format!("{{ env = {variable:?} }}"), &format!("{:?}", value(key)));
    }
    let state = format!("instance = \"one\"\nstate_dir = \"{}/state\"\n{config}", folder.display());
    let daemon = Daemon::configured(&folder, &state);
    let mut process = daemon.spawn(&[]);
    has(&daemon, &table.name, lines.len() as u64, &mut [&mut process]);
    let sent = folder.join("sent.ndjson");
    fs::write(&sent, lines.join("\n")).expect("write the ledger");
    engines_find(&[Engine::PyIceberg, Engine::DuckDb, Engine::Spark], &input(&[&sent], ROWS), &table.place, ROWS);
}
