//! Changes of a real PostgreSQL, told by Debezium on a real Kafka: each is one row, in order, with the values of the database.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use rdkafka::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer};
use serde_json::{Value, json};

use crate::components::{checkout, is_there, scratch, value};
use crate::daemon::Daemon;
use crate::process::{Listen, Process};
use crate::readers::{Engine, engines_find, input};

const WAIT: Duration = Duration::from_secs(20);
/// Slices of half a second.
const PATIENCE: usize = 480;

/// What is read back: the event's place in the topic, what it is, and the row.
const CHANGES: &[(&str, &str)] = &[
    ("_offset", "long"),
    ("_op", "string"),
    ("_unavailable", "list<string>"),
    ("id", "int"),
    ("name", "string"),
    ("price", "decimal(10, 2)"),
    ("any_scale", "string"),
    ("local_at", "timestamp"),
    ("zoned_at", "timestamptz"),
    ("day", "date"),
    ("at_noon", "time"),
    ("tags", "list<string>"),
    ("doc", "string"),
    ("uid", "uuid"),
    ("ratio", "double"),
    ("big", "string"),
    ("flag", "boolean"),
    ("score", "long"),
];

/// The script that runs SQL and starts connectors.
struct Source(Process);

impl Source {
    fn started() -> Self {
        let mut command = Command::new(value("POSTGRES_PYTHON"));
        command.arg("-B").arg(checkout("integration/readers/changes_run.py"));
        for key in ["POSTGRES_PORT", "POSTGRES_USER", "POSTGRES_DATABASE", "DEBEZIUM_URI"] {
            command.env(key, value(key));
        }
        let log = Path::new(value("RUN_FOLDER")).join("changes_run.py.log");
        Self(Process::spawn(&mut command, Listen::Stdout, &log))
    }

    fn asked(&mut self, request: &Value) {
        self.0.tell(&request.to_string());
        let Some(line) = self.0.line(Duration::from_secs(300)) else { panic!("no answer; {}", self.0.tail()) };
        let answer: Value = serde_json::from_str(&line).expect("an answer");
        assert!(answer.get("done").is_some(), "{request}: {answer}");
    }

    /// Each a transaction.
    fn run(&mut self, statements: &[&str]) {
        let transactions: Vec<Vec<&str>> = statements.iter().map(|statement| vec![*statement]).collect();
        self.asked(&json!({ "transactions": transactions }));
    }
}

/// Waits until a topic is there: the connector makes it for its first event.
fn appears(topic: &str) {
    let mut config = ClientConfig::new();
    config.set("bootstrap.servers", value("KAFKA_BROKERS")).set("group.id", "unused");
    let consumer: BaseConsumer = config.create().expect("a client");
    for _ in 0..PATIENCE {
        let metadata = consumer.fetch_metadata(None, WAIT).expect("the broker answers");
        if metadata.topics().iter().any(|found| found.name() == topic) {
            return;
        }
        std::hint::black_box(consumer.poll(Duration::from_millis(500)));
    }
    panic!("there is no topic {topic}");
}

fn has(daemon: &Daemon, table: &str, rows: u64, process: &mut Process) {
    for _ in 0..PATIENCE {
        let found = daemon.rows(table);
        assert!(found <= rows, "{found} rows in {table}, more than the {rows} changes");
        if found == rows {
            return;
        }
        assert!(process.runs_for(Duration::from_millis(500)), "the daemon ended by itself; {}", process.tail());
    }
    panic!("{} of {rows} changes came to {table}; {}", daemon.rows(table), process.tail());
}

/// How the connector writes events.
#[derive(Clone, Copy)]
enum Written {
    /// In JSON, with their schemas.
    Json,
    /// In Avro, with their schemas in the registry.
    Avro,
}

impl Written {
    /// What a name of this run's is to begin with.
    fn word(self) -> &'static str {
        match self {
            Self::Json => "shop",
            Self::Avro => "inavro",
        }
    }

    fn decode(self) -> String {
        match self {
            Self::Json => "decode.envelope = \"debezium\"".to_owned(),
            Self::Avro => {
                let decode = "decode = { format = \"avro\", registry = \"schemas\", envelope = \"debezium\" }";
                format!("{decode}\n[registry.schemas]\nurl = \"{}\"", value("REGISTRY_URI"))
            }
        }
    }

    /// The connector's settings.
    fn converter(self) -> Value {
        match self {
            Self::Json => json!({
                "value.converter": "org.apache.kafka.connect.json.JsonConverter",
                "value.converter.schemas.enable": "true",
                "value.converter.replace.null.with.default": "false",
            }),
            Self::Avro => json!({
                "value.converter": "io.apicurio.registry.utils.converter.AvroConverter",
                "value.converter.apicurio.registry.url": value("REGISTRY_URI").replace("ccompat/v7", "registry/v2"),
                "value.converter.apicurio.registry.auto-register": "true",
                "value.converter.apicurio.registry.as-confluent": "true",
                "value.converter.apicurio.registry.use-id": "contentId",
                "value.converter.apicurio.registry.headers.enabled": "false",
                "schema.name.adjustment.mode": "avro",
                "field.name.adjustment.mode": "avro",
            }),
        }
    }
}

fn daemon(folder: &Path, prefix: &str, written: Written) -> Daemon {
    let config = format!(
        r#"
        instance = "one"
        state_dir = "{folder}/state"

        [catalog.lake]
        type = "embedded"
        path = "{folder}/catalog.db"
        warehouse = "{folder}/warehouse"

        [source.changes]
        type = "kafka"
        brokers = ["{brokers}"]
        group = "{prefix}"
        topic_pattern = '{prefix}\.public\.(?<t>.+)'

        [pipeline.changes]
        source = "changes"
        table = "lake.shop.{{t}}"
        anchor = "lake.shop.epochs"
        commit = {{ freshness = "300ms" }}
        metadata = {{ _offset = "number" }}
        {decode}
        "#,
        folder = folder.display(),
        brokers = value("KAFKA_BROKERS"),
        decode = written.decode(),
    );
    Daemon::configured(folder, &config)
}

/// The row that most changes have.
fn ada(id: i32) -> Value {
    json!({
        "id": id, "name": "Ada \"é\"", "price": "-5.50", "any_scale": "123456789012345678901234567890.125",
        "local_at": "2026-01-02T03:04:05.678901", "zoned_at": "2026-01-02T01:04:05.678901Z", "day": "1990-01-01",
        "at_noon": "12:00:00.000001", "tags": ["a", null, "b,c"], "doc": "{\"k\": [1, null]}",
        "uid": "67e55044-10b1-426f-9247-bb680e5fe0c8", "ratio": "NaN", "flag": true,
    })
}

const VALUES: &str = r#"'Ada "é"', -5.50, 123456789012345678901234567890.125, '2026-01-02 03:04:05.678901',
    '2026-01-02 03:04:05.678901+02', '1990-01-01', '12:00:00.000001', array['a', null, 'b,c'], '{"k": [1, null]}',
    '67e55044-10b1-426f-9247-bb680e5fe0c8', 'NaN'"#;
const NAMES: &str = "name, price, any_scale, local_at, zoned_at, day, at_noon, tags, doc, uid, ratio";

/// A change: what it is, and its row with some fields set.
fn change(op: &str, mut row: Value, more: Value) -> Value {
    row["_op"] = json!(op);
    for (name, value) in more.as_object().expect("fields") {
        row[name] = value.clone();
    }
    row
}

/// A table with its first row, and a connector that tells of it.
fn watched(prefix: &str, table: &str, written: Written) -> Source {
    let mut source = Source::started();
    source.run(&[
        &format!(
            "CREATE TABLE {table} (id int PRIMARY KEY, name text, price numeric(10,2), any_scale numeric, local_at timestamp,
             zoned_at timestamptz, day date, at_noon time, tags text[], doc jsonb, uid uuid, ratio float8, big text, flag boolean)"
        ),
        // Large values lie beside the row, uncompressed.
        &format!("ALTER TABLE {table} ALTER COLUMN big SET STORAGE EXTERNAL"),
        &format!("INSERT INTO {table} (id, {NAMES}, flag) VALUES (1, {VALUES}, true)"),
    ]);
    let mut config = json!({
        "topic.prefix": prefix, "slot.name": prefix, "publication.name": prefix, "publication.autocreate.mode": "filtered",
        "table.include.list": format!("public.{table}"), "skipped.operations": "none", "tombstones.on.delete": "false",
    });
    let converter = written.converter().as_object().expect("settings").clone();
    config.as_object_mut().expect("settings").extend(converter);
    source.asked(&json!({ "connector": prefix, "config": config }));
    source
}

#[test]
fn every_change_of_a_postgres_is_one_row_in_order_with_the_values_of_the_database() {
    changes_are_rows(Written::Json);
}

#[test]
fn changes_that_are_told_in_avro_are_the_same_rows() {
    if !is_there("REGISTRY_URI", "Debezium's changes in Avro (no JDK 25 for the schema registry)") {
        return;
    }
    changes_are_rows(Written::Avro);
}

fn changes_are_rows(written: Written) {
    let prefix = format!("{}{}", written.word(), std::process::id());
    let folder = scratch(&format!("debezium-{prefix}"));
    let table = format!("orders_{prefix}");
    let mut source = watched(&prefix, &table, written);
    appears(&format!("{prefix}.public.{table}"));
    let (daemon, lake) = (daemon(&folder, &prefix, written), format!("lake.shop.{table}"));
    let mut process = daemon.spawn(&[]);
    has(&daemon, &lake, 1, &mut process);

    let large = "x".repeat(9_000);
    source.run(&[
        &format!("INSERT INTO {table} (id) VALUES (2)"),
        &format!("INSERT INTO {table} (id, {NAMES}, flag, big) VALUES (3, {VALUES}, true, '{large}')"),
        &format!("UPDATE {table} SET price = 7 WHERE id = 3"),
        &format!("UPDATE {table} SET id = 10 WHERE id = 1"),
        &format!("DELETE FROM {table} WHERE id = 2"),
    ]);
    has(&daemon, &lake, 7, &mut process);
    // What is not committed yet is read again.
    source.run(&[
        &format!("ALTER TABLE {table} ADD COLUMN score int"),
        &format!("INSERT INTO {table} (id, {NAMES}, flag, score) VALUES (4, {VALUES}, true, 7)"),
        &format!("ALTER TABLE {table} ALTER COLUMN score TYPE bigint"),
    ]);
    process.kill9();
    source.run(&[
        &format!("INSERT INTO {table} (id, {NAMES}, flag, score) VALUES (5, {VALUES}, true, 5000000000)"),
        &format!("ALTER TABLE {table} DROP COLUMN flag"),
        &format!("INSERT INTO {table} (id, {NAMES}) VALUES (6, {VALUES})"),
        &format!("TRUNCATE {table}"),
    ]);
    let expected = [
        change("r", ada(1), json!({})),
        change("c", json!({ "id": 2 }), json!({})),
        change("c", ada(3), json!({ "big": large })),
        change("u", ada(3), json!({ "price": "7", "_unavailable": ["big"] })),
        change("d", json!({ "id": 1 }), json!({})),
        change("c", ada(10), json!({})),
        change("d", json!({ "id": 2 }), json!({})),
        change("c", ada(4), json!({ "score": 7 })),
        change("c", ada(5), json!({ "score": 5_000_000_000_i64 })),
        change("c", ada(6), json!({ "flag": null })),
        change("t", json!({}), json!({})),
    ];
    let mut process = daemon.spawn(&[]);
    has(&daemon, &lake, expected.len() as u64, &mut process);
    process.signal("TERM");
    assert!(process.ends(WAIT * 3).success(), "the daemon does not end");

    let ledger = folder.join("changes.ndjson");
    let numbered = expected.iter().enumerate().map(|(offset, row)| {
        let mut row = row.clone();
        row["_offset"] = json!(offset);
        row.to_string()
    });
    fs::write(&ledger, numbered.collect::<Vec<_>>().join("\n")).expect("write the ledger");
    let place = json!({ "metadata": daemon.metadata(&lake).display().to_string() });
    engines_find(&[Engine::PyIceberg, Engine::DuckDb], &input(&[&ledger], CHANGES), &place, CHANGES);
    assert!(daemon.table(&format!("{lake}__rejects")).is_none(), "a change was put aside");
}
