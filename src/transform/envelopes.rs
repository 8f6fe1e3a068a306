//! Events that Debezium wrote, decoded while the table follows them: columns and rows as files under tests/golden/decode.
//! `UPDATE_GOLDEN=1` writes them anew.
#![cfg(test)]

use std::collections::BTreeMap;
use std::fmt::Write;
use std::mem::ManuallyDrop;
use std::sync::Arc;
use std::time::Duration;

use arrow::array::AsArray;
use arrow::datatypes::Int64Type;
use arrow::util::display::array_value_to_string;
use iceberg::spec::{NestedField, PrimitiveType, Schema, SchemaRef, Type};
use rdkafka::ClientConfig;
use rdkafka::message::{Header, OwnedHeaders};
use rdkafka::mocking::MockCluster;
use rdkafka::producer::{BaseProducer, BaseRecord, DefaultProducerContext, Producer};
use serde::Deserialize;
use serde_json::value::RawValue;
use serde_json::{Value, json};

use crate::config::load::from_text;
use crate::config::{DebeziumColumn, DecodeConfig, Envelope, OnChange, PipelineConfig, RowFormat, SourceConfig};
use crate::decode::debezium_written::{framed, in_avro};
use crate::decode::envelope::EnvelopeFormat;
use crate::decode::growth::GrowthLimits;
use crate::decode::json::JsonOptions;
use crate::decode::registry::tests::{config, serve};
use crate::decode::registry::{Registries, Registry};
use crate::decode::type_text::type_text;
use crate::decode::{Decoder, DecoderOptions, Format, Inference};
use crate::env::Env;
use crate::model::batch::tests::raw;
use crate::model::batch::{Batch, RawBatch};
use crate::model::checkpoint::Checkpoint;
use crate::model::ids::PipelineName;
use crate::source::kafka::KafkaSource;
use crate::source::{Source, SourceEvent};
use crate::transform::evolve::{add_columns, evolve};
use crate::transform::metadata_columns::{MetadataColumns, fields};

const EVENTS: &str = include_str!("../../tests/golden/decode/debezium.ndjson");
const WITH_SCHEMAS: &str = include_str!("../../tests/golden/decode/debezium-schemas.ndjson");

#[derive(Deserialize)]
struct Captured {
    topic: String,
    value: Box<RawValue>,
}

fn format(envelope: Envelope, more: &[(&str, DebeziumColumn)]) -> Format {
    let mut config = DecodeConfig { envelope, ..DecodeConfig::default() };
    config.debezium.columns.extend(more.iter().map(|(name, what)| ((*name).to_owned(), *what)));
    Format::Enveloped(Arc::new(EnvelopeFormat::of(&config).expect("an envelope")))
}

async fn made(format: &Format, raw: &RawBatch) -> SchemaRef {
    let metadata = BTreeMap::new();
    let how = Inference { metadata: &metadata, limits: GrowthLimits::default(), rows: 100, nanos: false };
    Arc::new(format.table_schema(raw, how).await.expect("a schema"))
}

fn decoded(format: &Format, schema: &SchemaRef, raw: &RawBatch) -> (Batch, Option<Schema>) {
    let json = JsonOptions { on_change: OnChange::Evolve, ..JsonOptions::default() };
    let decoder = Decoder::new(schema, format, DecoderOptions { json, nanos: false }).expect("valid");
    let (batch, observed) = decoder.decode_observed(raw);
    if observed.is_settled() {
        return (batch, None);
    }
    let evolution = evolve(schema, schema.highest_field_id(), &observed, GrowthLimits::default()).expect("evolves");
    assert!(evolution.left_out.is_empty(), "{:?}", evolution.left_out);
    (batch, evolution.schema)
}

/// Decodes rows to a table that is made for the first of them and follows the others, as a pipeline does.
async fn settled<S: AsRef<[u8]>>(format: &Format, rows: &[S], first: usize) -> (SchemaRef, Batch) {
    let mut schema = made(format, &raw(&rows[..first])).await;
    let raw = raw(rows);
    format.learn(&raw).await.expect("whoever is asked answers");
    let (batch, evolved) = decoded(format, &schema, &raw);
    let Some(evolved) = evolved else { return (schema, batch) };
    schema = Arc::new(evolved);
    let (batch, evolved) = decoded(format, &schema, &raw);
    assert!(evolved.is_none(), "one change is enough");
    (schema, batch)
}

fn shown(title: &str, schema: &Schema, batch: &Batch) -> String {
    let mut text = format!("# {title}\n");
    for field in schema.as_struct().fields() {
        let required = if field.required { " not null" } else { "" };
        let _ = writeln!(text, "{}: {}{required}", field.name, type_text(&field.field_type));
    }
    for row in 0..batch.rows.num_rows() {
        let _ = writeln!(text, "- row {}", batch.source_rows[row] + 1);
        for (field, column) in batch.rows.schema().fields().iter().zip(batch.rows.columns()) {
            if !column.is_null(row) {
                let _ = writeln!(text, "  {} = {}", field.name(), array_value_to_string(column, row).expect("shows"));
            }
        }
    }
    for reject in &batch.rejects {
        let _ = writeln!(text, "- reject {} {:?}: {}", reject.number, reject.field, reject.reason);
    }
    text
}

fn assert_golden(name: &str, actual: &str) {
    let path = std::path::PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(format!("tests/golden/decode/{name}.out"));
    #[allow(clippy::disallowed_methods)] // a switch of the test runner, not a setting of the program
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        std::fs::write(&path, actual).expect("writable");
    }
    let expected = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(expected == actual, "{} differs\n--- expected\n{expected}\n--- actual\n{actual}", path.display());
}

#[tokio::test]
async fn every_event_that_was_captured_is_a_row_with_its_values() {
    let events: Vec<Captured> = EVENTS.lines().map(|line| serde_json::from_str(line).expect("an event")).collect();
    let more = [("_transaction", DebeziumColumn::Transaction), ("_before", DebeziumColumn::Before)];
    let format = format(Envelope::Debezium, &more);
    let mut text = String::new();
    for topic in ["shop.public.customers", "shop.public.orders", "shop.transaction"] {
        let own = events.iter().filter(|event| event.topic == topic);
        let rows: Vec<&str> = own.map(|event| event.value.get()).collect();
        let (schema, batch) = settled(&format, &rows, 2).await;
        assert_eq!((batch.rows.num_rows(), batch.rejects.len()), (rows.len(), 0), "{:?}", batch.rejects);
        text.push_str(&shown(topic, &schema, &batch));
    }
    assert_golden("debezium", &text);
}

#[tokio::test]
async fn events_with_schemas_have_the_types_of_the_database_and_the_table_follows_it() {
    let rows: Vec<&str> = WITH_SCHEMAS.lines().collect();
    let format = format(Envelope::Debezium, &[("_before", DebeziumColumn::Before)]);
    let (schema, batch) = settled(&format, &rows, 1).await;
    assert_eq!((batch.rows.num_rows(), batch.rejects.len()), (rows.len(), 0), "{:?}", batch.rejects);
    assert_golden("debezium-schemas", &shown("shops.public.customers", &schema, &batch));
    // The same rows to a table that has them all is the same again, whether it was made for them or followed them.
    let (again, evolved) = decoded(&format, &schema, &raw(&rows));
    assert!(evolved.is_none() && again.rows == batch.rows);
}

/// Events whose schemas are in a registry, or behind ids that nobody asks for.
async fn registered(format: RowFormat, schemas: &[Value]) -> Format {
    let (url, shelf) = serve().await;
    for (id, schema) in (1..).zip(schemas) {
        shelf.schema(id, schema);
    }
    let env = Env::system();
    let registry = Arc::new(Registry::new("sr", &config(&url), &env).expect("a client"));
    let mut config = DecodeConfig { envelope: Envelope::Debezium, format, ..DecodeConfig::default() };
    config.registry = Some("sr".to_owned());
    config.debezium.columns.insert("_before".to_owned(), DebeziumColumn::Before);
    Format::of(&config, &[("sr".to_owned(), registry)].into_iter().collect(), &env).expect("valid")
}

#[tokio::test]
async fn events_in_avro_are_the_rows_that_they_are_in_json_and_the_table_follows_their_schemas() {
    let rows: Vec<&str> = WITH_SCHEMAS.lines().collect();
    let (written, schemas) = in_avro(&rows);
    assert!(schemas.len() > 1, "the captured table changes");
    let (schema, batch) = settled(&registered(RowFormat::Avro, &schemas).await, &written, 1).await;
    assert_golden("debezium-schemas", &shown("shops.public.customers", &schema, &batch));
}

#[tokio::test]
async fn events_behind_the_id_of_a_json_schema_are_the_rows_that_they_are_without() {
    let events: Vec<Captured> = EVENTS.lines().map(|line| serde_json::from_str(line).expect("an event")).collect();
    let own = events.iter().filter(|event| event.topic == "shop.public.customers");
    let rows: Vec<&str> = own.map(|event| event.value.get()).collect();
    let behind: Vec<Vec<u8>> = rows.iter().map(|row| framed(7, row.as_bytes())).collect();
    let plain = settled(&format(Envelope::Debezium, &[("_before", DebeziumColumn::Before)]), &rows, 2).await;
    let format = registered(RowFormat::Json, &[]).await;
    let (schema, batch) = settled(&format, &behind, 2).await;
    assert_eq!(shown("customers", &schema, &batch), shown("customers", &plain.0, &plain.1));
    assert!(batch.rejects.is_empty() && batch.rows.num_rows() == rows.len());
    let bad = raw(&[rows[0].as_bytes().to_vec(), vec![0, 0, 0], Vec::new()]);
    let reasons: Vec<String> = decoded(&format, &schema, &bad).0.rejects.iter().map(|r| r.reason.clone()).collect();
    assert!(reasons[0].starts_with("the row begins with byte 0x7b, not with 0x00"), "{reasons:?}");
    assert_eq!(reasons[1..], ["the row ends within the id of its schema", "the row is empty"]);
}

#[tokio::test]
async fn a_table_without_the_columns_beside_gets_them_and_one_that_is_frozen_is_filled_without() {
    let rows: Vec<&str> = WITH_SCHEMAS.lines().collect();
    let debezium = format(Envelope::Debezium, &[]);
    let narrow = NestedField::optional(1, "id", Type::Primitive(PrimitiveType::Long));
    let narrow: SchemaRef = Arc::new(Schema::builder().with_fields([Arc::new(narrow)]).build().expect("valid"));
    let (_, evolved) = decoded(&debezium, &narrow, &raw(&rows));
    let evolved = Arc::new(evolved.expect("evolves"));
    let (batch, again) = decoded(&debezium, &evolved, &raw(&rows));
    assert!(again.is_none() && batch.rejects.is_empty());
    for name in ["_op", "_ts_ms", "_source", "_unavailable", "balance", "vip"] {
        assert!(batch.rows.column_by_name(name).is_some(), "{name}");
    }
    let json = JsonOptions { on_change: OnChange::Freeze, ..JsonOptions::default() };
    let frozen = Decoder::new(&narrow, &debezium, DecoderOptions { json, nanos: false }).expect("valid");
    let (batch, observed) = frozen.decode_observed(&raw(&rows));
    assert!(observed.is_settled() && observed.ignored > 0 && batch.rejects.is_empty());
    assert_eq!((batch.rows.num_rows(), batch.rows.num_columns()), (rows.len(), 1));
}

const CUSTOMERS: &str = "shop.public.customers";
const ORDERS: &str = "shop.public.orders";
const TRANSACTIONS: &str = "shop.transaction";

/// Where the topics had records without a value between the events: topic, offset, key.
const TOMBSTONES: &[(&str, usize, &str)] =
    &[(CUSTOMERS, 5, r#"{"id":2}"#), (CUSTOMERS, 7, r#"{"id":3}"#), (ORDERS, 8, r#"{"id":1}"#)];

/// The headers of all records but those of the transaction topic, which had none,
const CONTEXT: &[(&str, &str)] = &[
    ("__debezium.context.connectorLogicalName", "shop"),
    ("__debezium.context.taskId", "0"),
    ("__debezium.context.connectorName", "postgresql"),
    ("__debezium.context.runId", "01a2088c-e131-71d1-aee8-25c5913aaf2b"),
];

/// and those of a changed key, before them: topic, offset, header.
const KEYS: &[(&str, usize, (&str, &str))] = &[
    (CUSTOMERS, 6, ("__debezium.newkey", r#"{"id":30}"#)),
    (CUSTOMERS, 7, ("__debezium.newkey", r#"{"id":30}"#)),
    (CUSTOMERS, 8, ("__debezium.oldkey", r#"{"id":3}"#)),
];

/// A record as it was captured.
struct Record {
    key: Option<&'static str>,
    value: Option<String>,
    headers: Vec<(&'static str, &'static str)>,
}

/// The records of a topic, from offset 0.
fn records(topic: &str) -> Vec<Record> {
    let events = EVENTS.lines().map(|line| serde_json::from_str::<Captured>(line).expect("an event"));
    let mut events = events.filter(|event| event.topic == topic);
    let mut records = Vec::new();
    loop {
        let here = (topic, records.len());
        let gone = TOMBSTONES.iter().find(|(topic, at, _)| (*topic, *at) == here);
        let value = if gone.is_some() { None } else { events.next().map(|event| event.value.get().to_owned()) };
        if gone.is_none() && value.is_none() {
            return records;
        }
        let own = KEYS.iter().filter(|(topic, at, _)| (*topic, *at) == here).map(|(.., header)| *header);
        let context = CONTEXT.iter().filter(|_| topic != TRANSACTIONS).copied();
        records.push(Record { key: gone.map(|(.., key)| *key), value, headers: own.chain(context).collect() });
    }
}

/// Sends them to a topic of one partition.
fn send(cluster: &MockCluster<'static, DefaultProducerContext>, topic: &str) {
    cluster.create_topic(topic, 1, 1).expect("a topic");
    let producer = ClientConfig::new().set("bootstrap.servers", cluster.bootstrap_servers()).create();
    let producer: BaseProducer = producer.expect("a producer");
    for Record { key, value, headers } in &records(topic) {
        let headers = headers.iter().fold(None, |held: Option<OwnedHeaders>, (key, value)| {
            Some(held.unwrap_or_default().insert(Header { key, value: Some(*value) }))
        });
        let (key, payload) = (*key, value.as_deref());
        let record = BaseRecord::<str, str> { key, payload, headers, partition: Some(0), ..BaseRecord::to(topic) };
        producer.send(record).expect("queued");
    }
    producer.flush(Duration::from_secs(30)).expect("sent");
}

/// What a pipeline with these settings of its source reads of the topics, until it has `count` records, and the pipeline.
async fn read(brokers: &str, group: &str, settings: &str, count: u64) -> (PipelineConfig, Vec<RawBatch>) {
    let text = format!(
        r#"
        [catalog.lake]
        type = "memory"
        [source.events]
        type = "kafka"
        brokers = ["{brokers}"]
        group = "{group}"
        topics = ["{CUSTOMERS}", "{ORDERS}", "{TRANSACTIONS}"]
        {settings}
        [pipeline.shop]
        source = "events"
        table = "lake.raw.{{topic}}"
        anchor = "lake.raw.epochs"
        decode = {{ envelope = "debezium", debezium = {{ columns = {{ _op = "op", _tx = "transaction" }} }} }}
        metadata = {{ _offset = "number", _headers = "headers" }}
        "#
    );
    let mut config = from_text("frazil.toml", text, &[]).expect("valid").config;
    let Some(SourceConfig::Kafka(kafka)) = config.sources.remove("events") else { panic!("no source") };
    let mut source = KafkaSource::new(*kafka, Env::system()).expect("valid");
    source.connect().await.expect("connects");
    source.open(&Checkpoint::default()).await.expect("opens");
    let (mut batches, mut idle) = (Vec::<RawBatch>::new(), 0);
    let seen = |batch: &RawBatch| (batch.rows.len() + batch.rejects.len()) as u64 + batch.skipped;
    while batches.iter().map(seen).sum::<u64>() < count {
        match source.next().await.expect("an event") {
            SourceEvent::Batch(batch) => batches.push(batch),
            SourceEvent::Assigned(_) => {
                batches.clear();
                source.open(&Checkpoint::default()).await.expect("opens");
            }
            SourceEvent::Revoked(_) => {}
            // Five seconds apart.
            SourceEvent::Idle => idle += 1,
            SourceEvent::End => panic!("a log has no end"),
        }
        assert!(idle < 24, "nothing came any more");
    }
    (config.pipelines.remove(&PipelineName::new("shop")).expect("there"), batches)
}

/// The rows of a topic in their table: offset and headers of each. And the rejects: offset, stage and bytes.
type Taken = (Vec<(i64, Option<Value>)>, Vec<(u64, &'static str, String)>);

/// What a pipeline makes of what it read of one topic.
async fn taken(pipeline: &PipelineConfig, batches: &[RawBatch], topic: &str) -> Taken {
    let format = Format::of(&pipeline.decode, &Registries::new(), &Env::system()).expect("valid");
    let batches: Vec<&RawBatch> = batches.iter().filter(|batch| &*batch.origin == topic).collect();
    let rows: Vec<&[u8]> =
        batches.iter().flat_map(|batch| batch.rows.iter().map(move |row| batch.bytes(*row))).collect();
    let (schema, _) = settled(&format, &rows, 2).await;
    let (beside, limits) = (fields(&pipeline.metadata), GrowthLimits::default());
    let table = add_columns(&schema, schema.highest_field_id(), &beside, limits).expect("valid").schema;
    let table: SchemaRef = Arc::new(table.expect("more columns"));
    let json = JsonOptions { metadata: pipeline.metadata.clone(), ..JsonOptions::default() };
    let decoder = Decoder::new(&table, &format, DecoderOptions { json, nanos: false }).expect("valid");
    let columns = MetadataColumns::new(&table, &pipeline.metadata).expect("valid");
    let (mut rows, mut rejects) = (Vec::new(), Vec::new());
    for raw in &batches {
        let batch = columns.add(decoder.decode_observed(raw).0, raw, 0).expect("fits");
        let column = |name: &str| batch.rows.column_by_name(name).expect(name);
        let offsets = column("_offset").as_primitive::<Int64Type>().values().iter().copied();
        let headers = column("_headers").as_string::<i32>().iter();
        rows.extend(offsets.zip(headers.map(|text| text.map(|text| serde_json::from_str(text).expect("JSON")))));
        let told = batch.rejects.iter();
        rejects.extend(told.map(|r| (r.number, r.stage.as_str(), String::from_utf8_lossy(&r.raw).into_owned())));
    }
    (rows, rejects)
}

#[tokio::test(flavor = "multi_thread")]
async fn captured_records_without_a_value_are_no_rows_and_the_headers_of_the_others_are_a_column() {
    let topics = [CUSTOMERS, ORDERS, TRANSACTIONS];
    // It outlives the test, as clients wait for it that are being closed.
    let cluster = ManuallyDrop::new(MockCluster::new(1).expect("a mock cluster"));
    topics.iter().for_each(|topic| send(&cluster, topic));
    let brokers = cluster.bootstrap_servers();
    let count = topics.iter().map(|topic| records(topic).len() as u64).sum::<u64>();
    let both =
        tokio::join!(read(&brokers, "skips", "", count), read(&brokers, "rejects", "tombstones = \"reject\"", count));
    for topic in topics {
        let (mut rows, mut gone) = (Vec::new(), Vec::new());
        for (offset, Record { key, value, headers }) in (0_i64..).zip(records(topic)) {
            let headers = headers.iter().map(|(key, value)| json!({ "key": key, "value": value })).collect::<Vec<_>>();
            let headers = (!headers.is_empty()).then(|| Value::from(headers));
            match (value, key) {
                (Some(_), _) => rows.push((offset, headers)),
                (None, key) => gone.push((offset.cast_unsigned(), "source", key.expect("a key").to_owned())),
            }
        }
        for ((pipeline, batches), rejects) in [(&both.0, Vec::new()), (&both.1, gone.clone())] {
            let skipped: u64 = batches.iter().filter(|batch| &*batch.origin == topic).map(|batch| batch.skipped).sum();
            assert_eq!(skipped, (gone.len() - rejects.len()) as u64, "{topic}");
            assert_eq!(taken(pipeline, batches, topic).await, (rows.clone(), rejects), "{topic}");
        }
    }
}
