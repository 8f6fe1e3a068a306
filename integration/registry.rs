//! A real schema registry: rows of every language that it has, schemas that change, and a registry that does not answer.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use protox::prost::Message;
use protox::prost_reflect::{DynamicMessage, MessageDescriptor, Value as Field};
use rdkafka::ClientConfig;
use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::producer::{BaseProducer, BaseRecord, Producer};
use serde_json::{Value, json};

use crate::components::{is_there, scratch, value};
use crate::daemon::Daemon;
use crate::process::Process;
use crate::readers::{Engine, engines_find, input};

const WAIT: Duration = Duration::from_secs(60);
const PATIENCE: Duration = Duration::from_secs(240);
const LANGUAGES: [&str; 3] = ["avro", "json", "protobuf"];
const ROWS: i64 = 600;
const READINGS: &[(&str, &str)] = &[("id", "long"), ("place", "string"), ("value", "double")];

fn asked<T>(question: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(question)
}

fn client() -> ClientConfig {
    let mut config = ClientConfig::new();
    config.set("bootstrap.servers", value("KAFKA_BROKERS"));
    config
}

fn create(topic: &str) {
    let admin: AdminClient<DefaultClientContext> = client().create().expect("an admin client");
    let wanted = NewTopic::new(topic, 2, TopicReplication::Fixed(1));
    let done = asked(admin.create_topics([&wanted], &AdminOptions::new())).expect("asked");
    assert!(done.iter().all(Result::is_ok), "topic {topic} cannot be created: {done:?}");
}

fn send(topic: &str, rows: &[Vec<u8>]) {
    let producer: BaseProducer = client().create().expect("a producer");
    for (number, row) in rows.iter().enumerate() {
        let partition = i32::try_from(number % 2).expect("few");
        let record = BaseRecord::<str, [u8]>::to(topic).partition(partition).payload(row.as_slice());
        producer.send(record).expect("queued");
    }
    producer.flush(WAIT).expect("the broker has them");
}

/// Registers a schema; answers its id.
fn register(subject: &str, schema: &Value) -> u32 {
    let url = format!("{}/subjects/{subject}/versions", value("REGISTRY_URI"));
    let answer: Value = asked(async {
        let answer = reqwest::Client::new().post(url).json(schema).send().await.expect("the registry answers");
        answer.json().await.expect("JSON")
    });
    let id = answer["id"].as_u64().unwrap_or_else(|| panic!("{subject}: {answer}"));
    u32::try_from(id).expect("small")
}

/// One reading; the first schemas know no value.
struct Reading {
    id: i64,
    value: Option<f64>,
}

impl Reading {
    fn place(&self) -> &'static str {
        if self.id % 3 == 0 { "north" } else { "south" }
    }

    fn json(&self) -> Value {
        json!({ "id": self.id, "place": self.place(), "value": self.value })
    }
}

/// Two versions of one schema in each language, and rows of them.
struct Languages {
    ids: [[u32; 2]; 3],
    avro: [apache_avro::Schema; 2],
    proto: [MessageDescriptor; 2],
}

impl Languages {
    fn registered(namespace: &str) -> Self {
        let avro = ["", r#", {"name": "value", "type": ["null", "double"]}"#].map(|more| {
            format!(
                r#"{{"type": "record", "name": "Reading", "fields": [{{"name": "id", "type": "long"}},
                {{"name": "place", "type": {{"type": "enum", "name": "Place", "symbols": ["north", "south"]}}}}{more}]}}"#
            )
        });
        let json =
            [json!({}), json!({ "value": { "oneOf": [{ "type": "null" }, { "type": "number" }] } })].map(|more| {
                let mut properties = json!({ "id": { "type": "integer" }, "place": { "type": "string" } });
                properties.as_object_mut().expect("an object").extend(more.as_object().expect("an object").clone());
                json!({ "type": "object", "required": ["id"], "properties": properties }).to_string()
            });
        let place = "enum Place { north = 0; south = 1; }";
        let place_subject = format!("{namespace}-place");
        let imported = format!("syntax = \"proto3\"; package geo; {place}");
        register(&place_subject, &json!({ "schema": imported, "schemaType": "PROTOBUF" }));
        // On the wire it is the same where the types come from.
        let proto = |head: &str, kind: &str| {
            ["", "optional double value = 3;"].map(|more| {
                format!(
                    "syntax = \"proto3\"; package t; {head} message Other {{ bool b = 1; }} \
                     message Reading {{ int64 id = 1; {kind} place = 2; {more} }}"
                )
            })
        };
        let reference = json!([{ "name": "geo/place.proto", "subject": place_subject, "version": 1 }]);
        let twice = |language: &str, schemas: [Value; 2]| {
            schemas.map(|schema| register(&format!("{namespace}-{language}-value"), &schema))
        };
        let ids = [
            twice("avro", avro.clone().map(|text| json!({ "schema": text }))),
            twice("json", json.map(|text| json!({ "schema": text, "schemaType": "JSON" }))),
            twice(
                "protobuf",
                proto("import \"geo/place.proto\";", "geo.Place")
                    .map(|text| json!({ "schema": text, "schemaType": "PROTOBUF", "references": reference })),
            ),
        ];
        let described = |text: String| {
            let file = protox::file::File::from_source("r.proto", &text).expect("a schema");
            let mut pool = protox::prost_reflect::DescriptorPool::new();
            pool.add_file_descriptor_proto(file.file_descriptor_proto().clone()).expect("a schema");
            pool.get_message_by_name("t.Reading").expect("there")
        };
        let avro = avro.map(|text| apache_avro::Schema::parse_str(&text).expect("a schema"));
        Self { ids, avro, proto: proto(place, "Place").map(described) }
    }

    /// A row as a serializer of that language writes it.
    fn row(&self, language: usize, version: usize, reading: &Reading) -> Vec<u8> {
        let body = match LANGUAGES[language] {
            "avro" => {
                let mut record = apache_avro::types::Record::new(&self.avro[version]).expect("a record");
                record.put("id", reading.id);
                let place = u32::from(reading.place() == "south");
                record.put("place", apache_avro::types::Value::Enum(place, reading.place().to_owned()));
                record.put("value", reading.value);
                apache_avro::to_avro_datum(&self.avro[version], record).expect("encodes")
            }
            "json" => reading.json().to_string().into_bytes(),
            _ => {
                let mut message = DynamicMessage::new(self.proto[version].clone());
                message.set_field_by_name("id", Field::I64(reading.id));
                message.set_field_by_name("place", Field::EnumNumber(i32::from(reading.place() == "south")));
                if let Some(value) = reading.value {
                    message.set_field_by_name("value", Field::F64(value));
                }
                // The second message of its schema: one index, 1.
                [vec![2, 2], message.encode_to_vec()].concat()
            }
        };
        framed(self.ids[language][version], &body)
    }
}

fn framed(id: u32, body: &[u8]) -> Vec<u8> {
    [&[0][..], &id.to_be_bytes(), body].concat()
}

/// The registry's process, stopped where it stands: it takes connections and says nothing. Goes on when dropped.
struct Stopped;

impl Stopped {
    fn now() -> Self {
        signal("-STOP");
        Self
    }
}

impl Drop for Stopped {
    fn drop(&mut self) {
        signal("-CONT");
    }
}

fn signal(name: &str) {
    let status = Command::new("kill").args([name, value("REGISTRY_PID")]).status().expect("run kill");
    assert!(status.success(), "kill {name} ended with {status}");
}

fn configured(folder: &Path, namespace: &str) -> Daemon {
    let mut config = format!(
        r#"
        instance = "one"
        state_dir = "{folder}/state"

        [catalog.lake]
        type = "embedded"
        path = "{folder}/catalog.db"
        warehouse = "{folder}/warehouse"

        [registry.schemas]
        url = "{registry}"
        request_timeout = "500ms"
        "#,
        folder = folder.display(),
        registry = value("REGISTRY_URI"),
    );
    for language in LANGUAGES {
        config += &format!(
            r#"
            [source.{language}]
            type = "kafka"
            brokers = ["{brokers}"]
            group = "{namespace}-{language}"
            topics = ["{namespace}-{language}"]

            [pipeline.{language}]
            source = "{language}"
            table = "lake.readings.{language}"
            commit = {{ freshness = "300ms" }}
            decode = {{ format = "{language}", registry = "schemas" }}
            "#,
            brokers = value("KAFKA_BROKERS"),
        );
    }
    Daemon::configured(folder, &config)
}

/// Waits until every table has so many rows, and its rejects so many.
fn all_have(daemon: &Daemon, process: &mut Process, rows: u64, rejects: u64) {
    for (table, wanted) in LANGUAGES.iter().flat_map(|language| {
        let table = format!("lake.readings.{language}");
        [(format!("{table}__rejects"), rejects), (table, rows)]
    }) {
        let mut left = PATIENCE;
        loop {
            let found = if daemon.table(&table).is_some() { daemon.rows(&table) } else { 0 };
            assert!(found <= wanted, "{found} rows in {table}, more than {wanted}");
            if found == wanted {
                break;
            }
            let slice = Duration::from_millis(500);
            assert!(process.runs_for(slice), "the daemon ended by itself; {}", process.tail());
            left = left.checked_sub(slice).unwrap_or_else(|| panic!("{found} of {wanted} rows came to {table}"));
        }
    }
}

#[test]
fn rows_of_every_language_find_their_schemas_and_wait_for_a_registry_that_does_not_answer() {
    if !is_there("REGISTRY_URI", "rows of a schema registry (no JDK 25)") {
        return;
    }
    let namespace = format!("registry-{}", std::process::id());
    let folder = scratch(&namespace);
    let languages = Languages::registered(&namespace);
    let readings: Vec<Reading> =
        (0..ROWS).map(|id| Reading { id, value: (id >= ROWS / 2 && id % 7 != 0).then_some(id as f64 / 4.0) }).collect();
    let (first, second) = readings.split_at(readings.len() / 2);
    let sent = |language: usize, version: usize, readings: &[Reading]| {
        let rows: Vec<Vec<u8>> = readings.iter().map(|reading| languages.row(language, version, reading)).collect();
        send(&format!("{namespace}-{}", LANGUAGES[language]), &rows);
    };
    for (number, language) in LANGUAGES.iter().enumerate() {
        create(&format!("{namespace}-{language}"));
        sent(number, 0, first);
    }
    let daemon = configured(&folder, &namespace);
    let checked = daemon.command(&["check", "--connect"]).output().expect("run frazil");
    let said = String::from_utf8_lossy(&checked.stdout).into_owned();
    assert!(checked.status.success() && said.contains("registry.schemas: answers, has "), "{said}");
    let mut process = daemon.spawn(&[]);
    all_have(&daemon, &mut process, first.len() as u64, 0);

    // Ids that nobody asked for yet come while nobody answers.
    let stopped = Stopped::now();
    for (number, language) in LANGUAGES.iter().enumerate() {
        send(&format!("{namespace}-{language}"), &[framed(9_999_999, b"x")]);
        sent(number, 1, second);
    }
    // Longer than a question is repeated, and than an id is doubted.
    assert!(process.runs_for(Duration::from_secs(15)), "the daemon ended by itself; {}", process.tail());
    all_have(&daemon, &mut process, first.len() as u64, 0);
    drop(stopped);
    all_have(&daemon, &mut process, readings.len() as u64, 1);

    let ledger = folder.join("sent.ndjson");
    let lines: Vec<String> = readings.iter().map(|reading| reading.json().to_string()).collect();
    fs::write(&ledger, lines.join("\n")).expect("write the ledger");
    let wanted = input(&[&ledger], READINGS);
    for language in LANGUAGES {
        let metadata = daemon.metadata(&format!("lake.readings.{language}"));
        let place = json!({ "metadata": metadata.display().to_string() });
        engines_find(&[Engine::PyIceberg, Engine::DuckDb], &wanted, &place, READINGS);
    }
}
