//! What decoding costs: MB of JSON per CPU-second, for rows of the 1 KB class and for short rows with decimals; and the same
//! rows as Avro records, every field a union with null, and as Protobuf messages, every field optional.
//!
//! `cargo bench --bench decode`. The rows are made up here, always the same; each figure is the best of some runs.
#![allow(clippy::print_stdout, clippy::expect_used, clippy::disallowed_methods, missing_docs)]

use std::hint::black_box;
use std::sync::{Arc, LazyLock};
use std::time::Instant;

use apache_avro::types::Value;
use bytes::Bytes;
use frazil::decode::avro::{AvroDecoder, AvroOptions, WriterSchema};
use frazil::decode::json::{JsonDecoder, JsonOptions};
use frazil::decode::observe::Observed;
use frazil::decode::proto::{ProtoDecoder, ProtoSchema};
use frazil::decode::temporal;
use frazil::decode::writers::Writers;
use frazil::model::batch::{Batch, RawBatch, RawRow};
use frazil::model::checkpoint::{Position, Range};
use frazil::model::ids::PartitionId;
use iceberg::spec::{NestedField, PrimitiveType, Schema, SchemaRef, Type};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

const ROWS: usize = 50_000;

fn main() {
    let mut rng = StdRng::seed_from_u64(42);
    let words: Vec<String> = (0..4000)
        .map(|_| (0..rng.random_range(3..=9)).map(|_| char::from(rng.random_range(b'a'..=b'z'))).collect())
        .collect();
    let events: Vec<String> = (0..ROWS).map(|i| event(&mut rng, &words, i)).collect();
    let lines: Vec<String> = (0..ROWS * 4).map(|i| line_item(&mut rng, &words, i)).collect();
    let json = measure("1 KB events", &event_schema(), &events);
    println!("  {:.1} times as fast", json / measure_avro("the same in Avro", &event_schema(), &events));
    println!("  {:.1} times as fast", json / measure_proto("the same in Protobuf", &event_schema(), &events));
    let json = measure("line items with decimals", &line_item_schema(), &lines);
    println!("  {:.1} times as fast", json / measure_avro("the same in Avro", &line_item_schema(), &lines));
    println!("  {:.1} times as fast", json / measure_proto("the same in Protobuf", &line_item_schema(), &lines));
    let spaced: Vec<String> = lines.iter().map(|line| line.replace(',', ", ").replace("\":", "\": ")).collect();
    measure("line items, spaced", &line_item_schema(), &spaced);
    let noted: Vec<String> = lines.iter().map(|line| line.replacen('{', "{\"extra\":\"unknown\",", 1)).collect();
    measure("line items, one unknown field, evolve", &line_item_schema(), &noted);
}

fn measure(name: &str, schema: &SchemaRef, rows: &[String]) -> f64 {
    let decoder = JsonDecoder::new(schema, JsonOptions::default()).expect("a schema that JSON can fill");
    timed(name, rows, |batch| decoder.decode_observed(batch))
}

fn measure_avro(name: &str, schema: &SchemaRef, rows: &[String]) -> f64 {
    let text = avro_schema(schema);
    let encoding = apache_avro::Schema::parse_str(&text).expect("a schema");
    let encode = |row: &String| {
        let row: serde_json::Value = serde_json::from_str(row).expect("JSON");
        apache_avro::to_avro_datum(&encoding, avro_row(schema, &row)).expect("encodes")
    };
    let rows: Vec<Vec<u8>> = rows.iter().map(encode).collect();
    let writer = WriterSchema::parse(&text, &[""; 0]).expect("a schema");
    let decoder = AvroDecoder::new(schema, Writers::Fixed(Arc::new(writer)), &AvroOptions::default());
    let decoder = decoder.expect("a schema that Avro can fill");
    timed(name, &rows, |batch| decoder.decode_observed(batch))
}

/// The schema that writers of such rows have.
fn avro_schema(schema: &SchemaRef) -> String {
    let kind = |kind: &PrimitiveType| match kind {
        PrimitiveType::Decimal { precision, scale } => {
            format!(r#"{{"type":"bytes","logicalType":"decimal","precision":{precision},"scale":{scale}}}"#)
        }
        PrimitiveType::Date => r#"{"type":"int","logicalType":"date"}"#.to_owned(),
        PrimitiveType::Timestamptz => r#"{"type":"long","logicalType":"timestamp-micros"}"#.to_owned(),
        other => format!("\"{other}\""),
    };
    let field = |field: &iceberg::spec::NestedFieldRef| {
        let kind = kind(field.field_type.as_primitive_type().expect("flat"));
        format!(r#"{{"name":"{}","type":["null",{kind}]}}"#, field.name)
    };
    let fields: Vec<String> = schema.as_struct().fields().iter().map(field).collect();
    format!(r#"{{"type":"record","name":"Row","fields":[{}]}}"#, fields.join(","))
}

fn avro_row(schema: &SchemaRef, row: &serde_json::Value) -> Value {
    let fields = schema.as_struct().fields().iter().map(|field| {
        let json = &row[field.name.as_str()];
        let text = || json.as_str().expect("a text");
        let value = match field.field_type.as_primitive_type().expect("flat") {
            PrimitiveType::Long => Value::Long(json.as_i64().expect("a number")),
            PrimitiveType::Int => Value::Int(json.as_i64().expect("a number") as i32),
            PrimitiveType::Double => Value::Double(json.as_f64().expect("a number")),
            PrimitiveType::Date => Value::Date(temporal::date(text()).expect("a date")),
            PrimitiveType::Timestamptz => {
                Value::TimestampMicros(temporal::timestamp(text()).and_then(|t| t.micros()).expect("a timestamp"))
            }
            PrimitiveType::Decimal { .. } => {
                let cents = (json.as_f64().expect("a number") * 100.0).round() as i64;
                let bytes = cents.to_be_bytes();
                let from = bytes.iter().position(|byte| *byte != 0).unwrap_or(7).min(7);
                // A sign of its own before a first byte that looks negative.
                let from = if bytes[from] & 0x80 != 0 { from - 1 } else { from };
                Value::Decimal(apache_avro::Decimal::from(&bytes[from..]))
            }
            _ => Value::String(text().to_owned()),
        };
        (field.name.clone(), Value::Union(1, Box::new(value)))
    });
    Value::Record(fields.collect())
}

fn measure_proto(name: &str, schema: &SchemaRef, rows: &[String]) -> f64 {
    let rows: Vec<Vec<u8>> =
        rows.iter().map(|row| proto_row(schema, &serde_json::from_str(row).expect("JSON"))).collect();
    let message = ProtoSchema::of_file(proto_schema(schema).as_bytes(), true, None).expect("a schema");
    let decoder = ProtoDecoder::new(schema, Writers::Fixed(Arc::new(message)), &JsonOptions::default());
    let decoder = decoder.expect("a schema that Protobuf can fill");
    timed(name, &rows, |batch| decoder.decode_observed(batch))
}

/// The message that writers of such rows have: dates as text, amounts of money whole.
fn proto_schema(schema: &SchemaRef) -> String {
    let mut text = String::from("syntax = \"proto3\"; import \"google/protobuf/timestamp.proto\"; message Row {\n");
    for (number, field) in (1..).zip(schema.as_struct().fields()) {
        let kind = match field.field_type.as_primitive_type().expect("flat") {
            PrimitiveType::Long | PrimitiveType::Decimal { .. } => "int64",
            PrimitiveType::Int => "int32",
            PrimitiveType::Double => "double",
            PrimitiveType::Timestamptz => "google.protobuf.Timestamp",
            _ => "string",
        };
        text.push_str(&format!("optional {kind} {} = {number};\n", field.name));
    }
    text + "}"
}

/// The bytes of such a message.
fn proto_row(schema: &SchemaRef, row: &serde_json::Value) -> Vec<u8> {
    fn varint(mut value: u64, out: &mut Vec<u8>) {
        while value >= 0x80 {
            out.push(value as u8 | 0x80);
            value >>= 7;
        }
        out.push(value as u8);
    }
    let mut out = Vec::new();
    for (number, field) in (1_u64..).zip(schema.as_struct().fields()) {
        let json = &row[field.name.as_str()];
        let text = || json.as_str().expect("a text");
        match field.field_type.as_primitive_type().expect("flat") {
            PrimitiveType::Long | PrimitiveType::Int => {
                varint(number << 3, &mut out);
                varint(json.as_i64().expect("a number").cast_unsigned(), &mut out);
            }
            PrimitiveType::Decimal { .. } => {
                varint(number << 3, &mut out);
                varint(json.as_f64().expect("a number").round() as u64, &mut out);
            }
            PrimitiveType::Double => {
                varint(number << 3 | 1, &mut out);
                out.extend(json.as_f64().expect("a number").to_le_bytes());
            }
            PrimitiveType::Timestamptz => {
                let micros = temporal::timestamp(text()).and_then(|t| t.micros()).expect("a timestamp").cast_unsigned();
                let mut inner = vec![8];
                varint(micros / 1_000_000, &mut inner);
                inner.push(16);
                varint(micros % 1_000_000 * 1000, &mut inner);
                varint(number << 3 | 2, &mut out);
                varint(inner.len() as u64, &mut out);
                out.extend(inner);
            }
            _ => {
                varint(number << 3 | 2, &mut out);
                varint(text().len() as u64, &mut out);
                out.extend(text().bytes());
            }
        }
    }
    out
}

/// CPU-seconds for all rows, the best of some runs.
fn timed(name: &str, rows: &[impl AsRef<[u8]>], decode: impl Fn(&RawBatch) -> (Batch, Observed)) -> f64 {
    let batches: Vec<RawBatch> = rows.chunks(8192).map(raw).collect();
    let bytes: usize = batches.iter().map(|batch| batch.data.len()).sum();
    let mut best = f64::INFINITY;
    for _ in 0..10 {
        let start = cpu_seconds();
        for batch in &batches {
            let decoded = black_box(decode(black_box(batch)));
            assert!(decoded.0.rejects.is_empty(), "{:?}", decoded.0.rejects.first());
        }
        best = best.min(cpu_seconds() - start);
    }
    let (mb, per_row) = (bytes as f64 / 1e6, best * 1e9 / rows.len() as f64);
    println!("{name}: {:.0} MB per CPU-second, {per_row:.0} ns a row of {} bytes", mb / best, bytes / rows.len());
    best
}

/// Time that this thread has spent on a core, where the system tells (`/proc`); else time that has passed.
fn cpu_seconds() -> f64 {
    static START: LazyLock<Instant> = LazyLock::new(Instant::now);
    let spent = std::fs::read_to_string("/proc/thread-self/schedstat").ok();
    let spent = spent.and_then(|text| text.split(' ').next()?.parse::<f64>().ok());
    spent.map_or_else(|| START.elapsed().as_secs_f64(), |nanos| nanos / 1e9)
}

fn raw(rows: &[impl AsRef<[u8]>]) -> RawBatch {
    let (mut data, mut cut) = (Vec::new(), Vec::new());
    for (number, row) in (1..).zip(rows) {
        let start = data.len() as u32;
        data.extend_from_slice(row.as_ref());
        cut.push(RawRow { start, end: data.len() as u32, number, ..RawRow::default() });
        data.push(b'\n');
    }
    RawBatch {
        partition: PartitionId::new("p"),
        range: Range { from: None, to: Position::Offset(0) },
        origin: "bench".into(),
        data: Bytes::from(data),
        rows: cut,
        rejects: Vec::new(),
        header: None,
        skipped: 0,
    }
}

fn text(rng: &mut StdRng, words: &[String], bytes: usize, space: &str) -> String {
    let mut text = String::new();
    while text.len() < bytes {
        text.push_str(&words[rng.random_range(0..words.len())]);
        text.push_str(space);
    }
    text.truncate(bytes);
    text
}

fn event(rng: &mut StdRng, words: &[String], i: usize) -> String {
    format!(
        "{{\"event_id\":\"{:08x}-{:04x}-{:04x}-{:016x}\",\"seq\":{i},\"event_time\":\"2026-01-01T{:02}:{:02}:{:02}.{:03}Z\",\
         \"received_ms\":{},\"tenant\":\"tenant-{:04}\",\"user_id\":{},\"event_type\":\"add_to_cart\",\"country\":\"NL\",\
         \"amount\":{:.2},\"quantity\":{},\"user_agent\":\"Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) \
         Chrome/{}.0.0.0 Safari/537.36\",\"url\":\"https://shop.example.com/{}?ref={}\",\"description\":\"{}\"}}",
        rng.random::<u32>(),
        rng.random::<u16>(),
        rng.random::<u16>(),
        rng.random::<u64>(),
        i % 24,
        i % 60,
        i % 59,
        i % 1000,
        1_767_225_600_000_usize + i * 20,
        i % 500,
        rng.random_range(0..2_000_003),
        f64::from(rng.random_range(0..10_000_000)) / 100.0,
        i % 97,
        100 + i % 40,
        text(rng, words, 60, "/"),
        text(rng, words, 20, "-"),
        text(rng, words, 520, " "),
    )
}

fn event_schema() -> SchemaRef {
    schema(&[
        ("event_id", PrimitiveType::String),
        ("seq", PrimitiveType::Long),
        ("event_time", PrimitiveType::Timestamptz),
        ("received_ms", PrimitiveType::Long),
        ("tenant", PrimitiveType::String),
        ("user_id", PrimitiveType::Long),
        ("event_type", PrimitiveType::String),
        ("country", PrimitiveType::String),
        ("amount", PrimitiveType::Double),
        ("quantity", PrimitiveType::Long),
        ("user_agent", PrimitiveType::String),
        ("url", PrimitiveType::String),
        ("description", PrimitiveType::String),
    ])
}

fn line_item(rng: &mut StdRng, words: &[String], i: usize) -> String {
    let mut date =
        || format!("199{}-{:02}-{:02}", rng.random_range(2..9), rng.random_range(1..13), rng.random_range(1..29));
    let dates = [date(), date(), date()];
    format!(
        "{{\"l_orderkey\":{i},\"l_partkey\":{},\"l_suppkey\":{},\"l_linenumber\":{},\"l_quantity\":{}.00,\"l_extendedprice\":{}.{:02},\
         \"l_discount\":0.{:02},\"l_tax\":0.{:02},\"l_returnflag\":\"N\",\"l_linestatus\":\"O\",\"l_shipdate\":\"{}\",\"l_commitdate\":\"{}\",\
         \"l_receiptdate\":\"{}\",\"l_shipinstruct\":\"DELIVER IN PERSON\",\"l_shipmode\":\"TRUCK\",\"l_comment\":\"{}\"}}",
        rng.random_range(0..2_000_000),
        rng.random_range(0..100_000),
        i % 7,
        rng.random_range(1..51),
        rng.random_range(900..105_000),
        i % 100,
        i % 11,
        i % 9,
        dates[0],
        dates[1],
        dates[2],
        text(rng, words, 26, " "),
    )
}

fn line_item_schema() -> SchemaRef {
    let money = PrimitiveType::Decimal { precision: 15, scale: 2 };
    schema(&[
        ("l_orderkey", PrimitiveType::Long),
        ("l_partkey", PrimitiveType::Long),
        ("l_suppkey", PrimitiveType::Long),
        ("l_linenumber", PrimitiveType::Int),
        ("l_quantity", money.clone()),
        ("l_extendedprice", money.clone()),
        ("l_discount", money.clone()),
        ("l_tax", money),
        ("l_returnflag", PrimitiveType::String),
        ("l_linestatus", PrimitiveType::String),
        ("l_shipdate", PrimitiveType::Date),
        ("l_commitdate", PrimitiveType::Date),
        ("l_receiptdate", PrimitiveType::Date),
        ("l_shipinstruct", PrimitiveType::String),
        ("l_shipmode", PrimitiveType::String),
        ("l_comment", PrimitiveType::String),
    ])
}

fn schema(columns: &[(&str, PrimitiveType)]) -> SchemaRef {
    let fields = (1..)
        .zip(columns)
        .map(|(id, (name, kind))| Arc::new(NestedField::optional(id, *name, Type::Primitive(kind.clone()))));
    Arc::new(Schema::builder().with_fields(fields).build().expect("valid"))
}
