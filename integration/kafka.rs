//! A real Kafka broker: members of a group that are killed, transactions, TLS and passwords, Avro, large records, and what a
//! record says beside its value.

use std::fs;
use std::path::Path;
use std::time::Duration;

use rdkafka::ClientConfig;
use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::message::{Header, OwnedHeaders};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer};
use serde_json::{Value, json};

use crate::components::{rows, scratch, value};
use crate::daemon::{Daemon, Moments};
use crate::groups::{described, is_shared_out, queue};
use crate::input::{FLIGHTS, created};
use crate::process::Process;
use crate::readers::{Columns, Engine, all_engines_find, engines_find, input};
use crate::remote::lake;

pub(crate) const WAIT: Duration = Duration::from_secs(60);
pub(crate) const PATIENCE: Duration = Duration::from_secs(240);
const KILLS: usize = 10;
/// Rows of one transaction.
const TRANSACTION: usize = 500;
/// Partitions of the group that grows and shrinks: its members cannot have as many each.
const PARTITIONS: i32 = 12;
/// Rows between two looks at that group.
const SHARE: usize = 200;

/// Waits for an answer of the client library, which comes from its own threads.
pub(crate) fn answer<T>(asked: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(asked)
}

pub(crate) fn client() -> ClientConfig {
    let mut config = ClientConfig::new();
    config.set("bootstrap.servers", value("KAFKA_BROKERS"));
    config
}

pub(crate) fn admin() -> AdminClient<DefaultClientContext> {
    client().create().expect("an admin client")
}

pub(crate) fn create(topic: &str, partitions: i32) {
    create_with(topic, partitions, &[]);
}

/// A topic with these properties.
fn create_with(topic: &str, partitions: i32, properties: &[(&str, &str)]) {
    let wanted = NewTopic::new(topic, partitions, TopicReplication::Fixed(1));
    let wanted = properties.iter().fold(wanted, |wanted, (name, property)| wanted.set(name, property));
    // A topic that is just being deleted is in the way for a moment.
    for _ in 0..100 {
        let done = answer(admin().create_topics([&wanted], &AdminOptions::new())).expect("asked");
        if done.iter().all(Result::is_ok) {
            return;
        }
        answer(frazil::env::Env::system().sleep(Duration::from_millis(200)));
    }
    panic!("topic {topic} cannot be created");
}

/// A producer, and where its rows go.
pub(crate) struct Sender {
    pub(crate) producer: BaseProducer,
    topic: String,
    partitions: i32,
    sent: usize,
}

impl Sender {
    pub(crate) fn new(topic: &str, partitions: i32, transactional: Option<&str>) -> Self {
        let mut config = client();
        config.set("enable.idempotence", "true").set("compression.type", "zstd").set("linger.ms", "5");
        if let Some(id) = transactional {
            config.set("transactional.id", id).set("transaction.timeout.ms", "10000");
        }
        let producer: BaseProducer = config.create().expect("a producer");
        if transactional.is_some() {
            producer.init_transactions(WAIT).expect("the broker knows us");
        }
        Self { producer, topic: topic.to_owned(), partitions, sent: 0 }
    }

    pub(crate) fn send(&mut self, lines: &[&str]) {
        for line in lines {
            let partition = i32::try_from(self.sent).expect("few rows") % self.partitions;
            self.sent += 1;
            let mut record = BaseRecord::<str, str>::to(&self.topic).partition(partition).payload(line);
            while let Err((error, back)) = self.producer.send(record) {
                assert!(error.to_string().contains("Queue full"), "{error}");
                self.producer.poll(Duration::from_millis(50));
                record = back;
            }
        }
    }

    pub(crate) fn flush(&self) {
        self.producer.flush(WAIT).expect("the broker has them");
    }

    /// Sends rows in transactions; before every second one, one that is given up.
    pub(crate) fn transact(&mut self, lines: &[&str]) {
        for (number, part) in lines.chunks(TRANSACTION).enumerate() {
            if number % 2 == 1 {
                self.producer.begin_transaction().expect("begins");
                self.send(&vec![r#"{"carrier":"ABORTED"}"#; 50]);
                self.flush();
                self.producer.abort_transaction(WAIT).expect("gives up");
            }
            self.producer.begin_transaction().expect("begins");
            self.send(part);
            self.producer.commit_transaction(WAIT).expect("commits");
        }
    }
}

/// The parts of a configuration that all tests here share. Tests run side by side: each has a group of its own.
fn source(group: &str, topics: &str) -> String {
    format!(
        r#"
        [source.rows]
        type = "kafka"
        group = "{group}"
        {topics}
        properties = {{ "session.timeout.ms" = "6000", "heartbeat.interval.ms" = "500" }}
        "#
    )
}

/// A process of one, whose catalog and tables lie in a folder.
pub(crate) fn here(folder: &Path) -> String {
    format!(
        r#"
        instance = "one"
        state_dir = "{folder}/state"

        [catalog.lake]
        type = "embedded"
        path = "{folder}/catalog.db"
        warehouse = "{folder}/warehouse"
        "#,
        folder = folder.display(),
    )
}

fn place(table: &str) -> Value {
    let mut place = crate::remote::place("unused");
    place["table"] = json!(table);
    place
}

/// Waits until a table has so many rows.
pub(crate) fn has(daemon: &Daemon, table: &str, rows: u64, members: &mut [&mut Process]) {
    let mut left = PATIENCE;
    loop {
        let found = daemon.rows(table);
        assert!(found <= rows, "{found} rows in {table}, more than the {rows} that were sent");
        if found == rows {
            return;
        }
        let slice = Duration::from_millis(500);
        for member in members.iter_mut() {
            assert!(member.runs_for(slice), "a daemon ended by itself; {}", member.tail());
        }
        left = left.checked_sub(slice).unwrap_or_else(|| panic!("{found} of {rows} rows came to {table}"));
    }
}

fn member(folder: &Path, name: &str, topic: &str, namespace: &str) -> Daemon {
    let own = folder.join(name);
    fs::create_dir_all(&own).expect("make the member's folder");
    // One of them keeps its partitions over a restart, the others give them up.
    let fixed = if name == "a" { "member = \"a\"" } else { "" };
    let config = format!(
        r#"
        instance = "{name}"
        state_dir = "{folder}/state"

        {lake}
        {source}
        brokers = ["{brokers}"]
        {fixed}

        [pipeline.flights]
        source = "rows"
        table = "lake.{namespace}.flights"
        commit = {{ freshness = "500ms" }}

        [pipeline.flights.create]
        columns = [{columns}]
        partition = ["origin"]
        properties = {{ "commit.retry.num-retries" = "30", "commit.retry.max-wait-ms" = "2000" }}
        "#,
        folder = own.display(),
        lake = lake(),
        source = source(namespace, &format!("topics = [{topic:?}]")),
        brokers = value("KAFKA_BROKERS"),
        columns = created(FLIGHTS),
    );
    Daemon::configured(&own, &config)
}

#[test]
fn members_of_a_group_that_are_killed_lose_and_double_no_row_of_any_producer() {
    let namespace = format!("kafka_{}", std::process::id());
    let (folder, topic) = (scratch(&namespace), format!("flights-{namespace}"));
    create(&topic, 6);
    let text = fs::read_to_string(rows("nyc_flights.ndjson")).expect("read the rows");
    let lines: Vec<&str> = text.lines().take(40_000).collect();
    let daemons = ["a", "b", "c"].map(|name| member(&folder, name, &topic, &namespace));
    let mut members: Vec<Option<Process>> = daemons.iter().map(|daemon| Some(daemon.spawn(&[]))).collect();
    let (mut plain, mut transactional) =
        (Sender::new(&topic, 6, None), Sender::new(&topic, 6, Some(&format!("tx-{topic}"))));
    let mut moments = Moments::seeded(0x0004_5001);
    for (round, share) in lines.chunks(lines.len().div_ceil(KILLS)).enumerate() {
        let (one, two) = share.split_at(share.len() / 2);
        plain.send(one);
        transactional.transact(two);
        plain.flush();
        let victim = round % daemons.len();
        let mut process = members[victim].take().expect("runs");
        let moment = moments.next(2_000);
        assert!(process.runs_for(moment), "a daemon ended by itself; {}", process.tail());
        process.kill9();
        members[victim] = Some(daemons[victim].spawn(&[]));
    }
    // A transaction that is never ended holds back what lies behind it until the broker gives it up.
    transactional.producer.begin_transaction().expect("begins");
    transactional.send(&[r#"{"carrier":"OPEN"}"#; 6]);
    transactional.flush();
    drop(transactional);
    let table = format!("lake.{namespace}.flights");
    let mut running: Vec<Process> = members.into_iter().flatten().collect();
    has(&daemons[0], &table, lines.len() as u64, &mut running.iter_mut().collect::<Vec<_>>());
    for process in running {
        let tail = process.tail();
        process.signal("TERM");
        let status = process.ends(PATIENCE);
        assert!(status.success(), "a daemon ended with {status}; {tail}");
    }
    let sent = folder.join("sent.ndjson");
    fs::write(&sent, lines.join("\n")).expect("write the ledger");
    all_engines_find(&input(&[&sent], FLIGHTS), &place(&format!("{namespace}.flights")), FLIGHTS);
    assert!(daemons[0].table(&format!("lake.{namespace}.flights__rejects")).is_none(), "aborted rows were read");
}

/// A group under load: rows go on coming while one waits for it.
struct Load<'a> {
    sender: Sender,
    shares: std::slice::Chunks<'a, &'a str>,
    group: &'a str,
    folder: &'a Path,
}

impl Load<'_> {
    /// Sends on until the group rests with these members alone: all partitions are assigned, and each member has some and has
    /// committed.
    fn goes_on_until(&mut self, names: &[&str], mut running: Vec<&mut Process>) {
        let committed = |name: &&str| {
            let log = fs::read_to_string(self.folder.join(name).join("frazil.log")).expect("read the log");
            log.contains("\"committed\"")
        };
        let mut told = Value::Null;
        for share in self.shares.by_ref() {
            self.sender.send(share);
            self.sender.flush();
            for process in &mut running {
                let runs = process.runs_for(Duration::from_millis(200));
                assert!(runs, "a daemon ended by itself; {}", process.tail());
            }
            told = described(self.group);
            if is_shared_out(&told, names.len(), PARTITIONS as usize, 1) && names.iter().all(committed) {
                println!("{names:?} share: {told}");
                return;
            }
        }
        let idle: Vec<_> = names.iter().filter(|name| !committed(name)).collect();
        panic!("{names:?} do not share all partitions, or {idle:?} committed nothing: {told}");
    }
}

#[test]
fn a_group_that_grows_from_three_to_five_and_shrinks_to_two_reads_each_row_once() {
    let namespace = format!("grown_{}", std::process::id());
    let (folder, topic) = (scratch(&namespace), format!("flights-{namespace}"));
    create(&topic, PARTITIONS);
    let text = fs::read_to_string(rows("nyc_flights.ndjson")).expect("read the rows");
    let lines: Vec<&str> = text.lines().take(40_000).collect();
    let sender = Sender::new(&topic, PARTITIONS, None);
    let mut load = Load { sender, shares: lines.chunks(SHARE), group: &namespace, folder: &folder };
    let daemons = ["a", "b", "c", "d", "e"].map(|name| member(&folder, name, &topic, &namespace));
    let (early, late) = daemons.split_at(3);
    let mut leaving: Vec<Process> = early.iter().map(|daemon| daemon.spawn(&[])).collect();
    load.goes_on_until(&["a", "b", "c"], leaving.iter_mut().collect());
    let mut staying: Vec<Process> = late.iter().map(|daemon| daemon.spawn(&[])).collect();
    load.goes_on_until(&["a", "b", "c", "d", "e"], leaving.iter_mut().chain(&mut staying).collect());
    leaving.iter().for_each(|process| process.signal("TERM"));
    load.goes_on_until(&["d", "e"], staying.iter_mut().collect());
    for process in leaving {
        let tail = process.tail();
        let status = process.ends(PATIENCE);
        assert!(status.success(), "a daemon that was to leave ended with {status}; {tail}");
    }
    load.shares.by_ref().for_each(|share| load.sender.send(share));
    load.sender.flush();
    let table = format!("lake.{namespace}.flights");
    has(&daemons[3], &table, lines.len() as u64, &mut staying.iter_mut().collect::<Vec<_>>());
    let sent = folder.join("sent.ndjson");
    fs::write(&sent, lines.join("\n")).expect("write the ledger");
    all_engines_find(&input(&[&sent], FLIGHTS), &place(&format!("{namespace}.flights")), FLIGHTS);
}

/// One pipeline of topics by a pattern into a table each, over TLS with a password, assigned by the broker.
fn secured(folder: &Path, namespace: &str, password: &str) -> Daemon {
    let config = format!(
        r#"
        {here}
        {source}
        brokers = ["{brokers}"]
        group_protocol = "consumer"
        tls = {{ ca = "{ca}", enabled = "on" }}
        sasl = {{ mechanism = "SCRAM-SHA-512", username = "{user}", password = "{password}" }}

        [pipeline.shop]
        source = "rows"
        table = "lake.{namespace}.{{t}}"
        anchor = "lake.{namespace}.epochs"
        commit = {{ freshness = "300ms" }}
        metadata = {{ _topic = "origin", _offset = "number", _key = "key_text" }}
        "#,
        here = here(folder),
        // The consumer protocol leaves these two to the broker.
        source = source(namespace, &format!("topic_pattern = '{namespace}\\.(?<t>.+)'"))
            .replace(r#"properties = { "session.timeout.ms" = "6000", "heartbeat.interval.ms" = "500" }"#, ""),
        brokers = value("KAFKA_TLS_BROKERS"),
        ca = value("KAFKA_CA"),
        user = value("KAFKA_USER"),
    );
    Daemon::configured(folder, &config)
}

#[test]
fn topics_by_a_pattern_go_to_a_table_each_over_tls_and_a_wrong_password_is_told() {
    let namespace = format!("topics{}", std::process::id());
    let folder = scratch(&namespace);
    for topic in ["orders", "lines"] {
        create(&format!("{namespace}.{topic}"), 2);
    }
    let refused = secured(&folder, &namespace, "not-it").spawn(&[]);
    let log = folder.join("frazil.log");
    assert!(!refused.ends(PATIENCE).success(), "a wrong password must halt the pipeline");
    let said = fs::read_to_string(&log).expect("read the log");
    assert!(said.contains("the brokers refuse our credentials") && !said.contains("not-it"), "{said}");

    let daemon = secured(&folder, &namespace, value("KAFKA_PASSWORD"));
    let checked = daemon.command(&["check", "--connect"]).output().expect("run frazil");
    let said = String::from_utf8_lossy(&checked.stdout).into_owned();
    assert!(said.contains("source.rows: answers, has 2 topics to read with 4 partitions"), "{said}");
    let mut process = daemon.spawn(&[]);
    let send = |topic: &str, count: u32| {
        let mut sender = Sender::new(&format!("{namespace}.{topic}"), 2, None);
        let lines: Vec<String> = (0..count).map(|n| format!(r#"{{"n":{n},"of":"{topic}"}}"#)).collect();
        sender.send(&lines.iter().map(String::as_str).collect::<Vec<_>>());
        sender.flush();
    };
    send("orders", 30);
    send("lines", 50);
    has(&daemon, &format!("lake.{namespace}.orders"), 30, &mut [&mut process]);
    has(&daemon, &format!("lake.{namespace}.lines"), 50, &mut [&mut process]);

    // One that comes later is found by itself, within half a minute.
    create(&format!("{namespace}.late"), 2);
    send("late", 20);
    has(&daemon, &format!("lake.{namespace}.late"), 20, &mut [&mut process]);
    assert_eq!(daemon.rows(&format!("lake.{namespace}.orders")), 30);
}

pub(crate) fn single(folder: &Path, topic: &str, decode: &str) -> Daemon {
    let config = format!(
        r#"
        {here}
        {source}
        brokers = ["{brokers}"]

        [pipeline.rows]
        source = "rows"
        table = "lake.k.rows"
        commit = {{ freshness = "300ms" }}
        {decode}
        "#,
        here = here(folder),
        source = source(topic, &format!("topics = [{topic:?}]")),
        brokers = value("KAFKA_BROKERS"),
    );
    Daemon::configured(folder, &config)
}

pub(crate) fn numbered(range: std::ops::Range<u32>) -> Vec<String> {
    range.map(|n| format!(r#"{{"n":{n}}}"#)).collect()
}

const READINGS: &[(&str, &str)] = &[("id", "long"), ("place", "string"), ("value", "double")];

#[test]
fn avro_records_become_columns_and_what_is_none_is_put_aside() {
    let topic = format!("avro-{}", std::process::id());
    let folder = scratch(&topic);
    create(&topic, 3);
    let text = r#"{"type": "record", "name": "Reading", "fields": [{"name": "id", "type": "long"},
        {"name": "place", "type": {"type": "enum", "name": "Place", "symbols": ["north", "south"]}},
        {"name": "value", "type": ["null", "double"]}]}"#;
    fs::write(folder.join("reading.avsc"), text).expect("write the schema");
    let schema = apache_avro::Schema::parse_str(text).expect("a schema");
    let (mut ledger, mut records) = (Vec::new(), Vec::new());
    for id in 0..2_000_i64 {
        let place = if id % 3 == 0 { "north" } else { "south" };
        let value = (id % 7 != 0).then_some(id as f64 / 4.0);
        ledger.push(json!({ "id": id, "place": place, "value": value }).to_string());
        let mut record = apache_avro::types::Record::new(&schema).expect("a record");
        record.put("id", id);
        record.put("place", apache_avro::types::Value::Enum(u32::from(place == "south"), place.to_owned()));
        record.put("value", value);
        records.push(apache_avro::to_avro_datum(&schema, record).expect("encodes"));
    }
    records.insert(700, b"\xff\xff\xff".to_vec());
    let daemon = single(&folder, &topic, r#"decode = { format = "avro", schema = { file = "reading.avsc" } }"#);
    let mut process = daemon.spawn(&[]);
    let sender = Sender::new(&topic, 3, None);
    for (number, record) in records.iter().enumerate() {
        let partition = i32::try_from(number % 3).expect("few");
        let sent = BaseRecord::<str, [u8]>::to(&topic).partition(partition).payload(record.as_slice());
        sender.producer.send(sent).expect("queued");
    }
    sender.flush();
    has(&daemon, "lake.k.rows", 2_000, &mut [&mut process]);
    has(&daemon, "lake.k.rows__rejects", 1, &mut [&mut process]);
    let sent = folder.join("sent.ndjson");
    fs::write(&sent, ledger.join("\n")).expect("write the ledger");
    let place = json!({ "metadata": daemon.metadata("lake.k.rows").display().to_string() });
    all_engines_find(&input(&[&sent], READINGS), &place, READINGS);
}

/// Fails unless engines find exactly these rows in the table of a process of one.
fn holds(folder: &Path, daemon: &Daemon, lines: &[String], columns: Columns<'_>) {
    let sent = folder.join("sent.ndjson");
    fs::write(&sent, lines.join("\n")).expect("write the ledger");
    let place = json!({ "metadata": daemon.metadata("lake.k.rows").display().to_string() });
    engines_find(&[Engine::PyIceberg, Engine::DuckDb], &input(&[&sent], columns), &place, columns);
}

/// A row with a text of about so many bytes, no two parts of which are alike.
fn texted(n: u32, bytes: usize) -> String {
    let text: String = (0..bytes / 10).map(|part| format!("{n:03}{part:07}")).collect();
    json!({ "n": n, "text": text }).to_string()
}

#[test]
fn a_record_that_is_larger_than_an_answer_of_the_brokers_or_than_all_that_is_fetched_ahead_is_there_whole() {
    let topic = format!("large-{}", std::process::id());
    let folder = scratch(&topic);
    create_with(&topic, 2, &[("max.message.bytes", "16777216")]);
    let sizes = [10, 3 << 20, 6 << 20, 10, 10, 2 << 20, 10, 10];
    let lines: Vec<String> = (0..).zip(sizes).map(|(n, bytes)| texted(n, bytes)).collect();
    let mut config = client();
    // Limits are about bytes as they travel.
    config.set("message.max.bytes", "16777216").set("compression.type", "none");
    let producer: BaseProducer = config.create().expect("a producer");
    for (number, line) in (0..).zip(&lines) {
        queue(&producer, &topic, number % 2, line);
    }
    producer.flush(WAIT).expect("the broker has them");
    let daemon = single(&folder, &topic, "");
    // An answer is a fourth of that.
    let mut process = daemon.spawn(&["source.rows.fetch_bytes=4MiB"]);
    has(&daemon, "lake.k.rows", lines.len() as u64, &mut [&mut process]);
    holds(&folder, &daemon, &lines, &[("n", "long"), ("text", "string")]);
}

/// A record's key and headers, and what its columns say of them.
struct Beside {
    key: Option<&'static [u8]>,
    headers: &'static [(&'static str, Option<&'static [u8]>)],
    /// The key in hexadecimal digits and as text, and the headers.
    columns: [Option<&'static str>; 3],
}

/// Sent to two partitions in turn.
const BESIDE: [Beside; 4] = [
    Beside {
        key: Some(b"plain"),
        headers: &[("trace", Some("é".as_bytes())), ("none", None), ("trace", Some(b"\xff\x00")), ("empty", Some(b""))],
        columns: [
            Some("706c61696e"),
            Some("plain"),
            Some(concat!(
                r#"[{"key":"trace","value":"é"},{"key":"none","value":null},"#,
                r#"{"key":"trace","base64":"/wA="},{"key":"empty","value":""}]"#
            )),
        ],
    },
    Beside { key: None, headers: &[], columns: [None, None, None] },
    // No key is another thing than one without bytes.
    Beside {
        key: Some(b""),
        headers: &[("none", None)],
        columns: [Some(""), Some(""), Some(r#"[{"key":"none","value":null}]"#)],
    },
    Beside { key: Some(b"k\xff"), headers: &[], columns: [Some("6bff"), Some(r"k\xff"), None] },
];

const TOLD: &[(&str, &str)] = &[
    ("n", "long"),
    ("topic", "string"),
    ("log", "string"),
    ("number", "long"),
    ("written", "timestamptz"),
    ("key", "binary"),
    ("key_text", "string"),
    ("headers", "string"),
];

#[test]
fn other_engines_read_where_each_record_was_its_time_its_key_and_its_headers() {
    let topic = format!("beside-{}", std::process::id());
    let folder = scratch(&topic);
    create(&topic, 2);
    // Recent enough that retention leaves them.
    let began_ms = frazil::env::Env::system().now_ms() - 5 * 3_600_000;
    let (sender, mut lines) = (Sender::new(&topic, 2, None), Vec::new());
    for (n, beside) in (0..).zip(BESIDE) {
        let (row, partition, time_ms) = (format!(r#"{{"n":{n}}}"#), n % 2, began_ms + 1_001 * i64::from(n));
        let mut record = BaseRecord::<[u8], str>::to(&topic).partition(partition).payload(&row).timestamp(time_ms);
        if let Some(key) = beside.key {
            record = record.key(key);
        }
        if !beside.headers.is_empty() {
            let with =
                |all: OwnedHeaders, (key, value): &(&str, Option<&[u8]>)| all.insert(Header { key, value: *value });
            record = record.headers(beside.headers.iter().fold(OwnedHeaders::new(), with));
        }
        sender.producer.send(record).map_err(|(error, _)| error).expect("queued");
        let [key, key_text, headers] = beside.columns;
        let told = json!({
            "n": n, "topic": topic, "log": format!("{topic}/{partition}"), "number": n / 2, "written": time_ms * 1_000,
            "key": key, "key_text": key_text, "headers": headers,
        });
        lines.push(told.to_string());
    }
    sender.flush();
    let columns = r#"
        [pipeline.rows.metadata]
        topic = "origin"
        log = "partition"
        number = "number"
        written = "timestamp"
        key = "key"
        key_text = "key_text"
        headers = "headers"
        "#;
    let daemon = single(&folder, &topic, columns);
    let mut process = daemon.spawn(&[]);
    has(&daemon, "lake.k.rows", lines.len() as u64, &mut [&mut process]);
    holds(&folder, &daemon, &lines, TOLD);
}
