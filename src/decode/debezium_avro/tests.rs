//! Events in Avro are what they are in JSON: rows, marks, rejects and what they ask of a table.

use std::collections::BTreeMap;

use arrow::array::Array;
use arrow::util::display::array_value_to_string;
use base64::Engine;
use iceberg::spec::{NestedField, NestedFieldRef, PrimitiveType};
use proptest::prelude::*;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use serde_json::{Value, json};

use super::*;
use crate::config::{DecodeConfig, Envelope, RowFormat};
use crate::decode::append::BASE64;
use crate::decode::avro::WriterSchema;
use crate::decode::debezium_written::{in_avro, schema_of, write};
use crate::decode::envelope::EnvelopeDecoder;
use crate::decode::growth::GrowthLimits;
use crate::decode::json::JsonOptions;
use crate::decode::type_text::type_text;
use crate::model::batch::tests::raw;

fn format(columns: &[(&str, DebeziumColumn)]) -> Arc<EnvelopeFormat> {
    let mut config = DecodeConfig { envelope: Envelope::Debezium, format: RowFormat::Avro, ..DecodeConfig::default() };
    config.debezium.columns.extend(columns.iter().map(|(name, what)| ((*name).to_owned(), *what)));
    Arc::new(EnvelopeFormat::of(&config).expect("an envelope"))
}

fn writers(schema: &Value) -> Writers {
    Writers::Fixed(Arc::new(WriterSchema::parse(&schema.to_string(), &[""; 0]).expect("a schema")))
}

fn how() -> Inference<'static> {
    static NONE: BTreeMap<String, crate::config::MetadataColumn> = BTreeMap::new();
    Inference { metadata: &NONE, limits: GrowthLimits::default(), rows: 100, nanos: true }
}

fn options(on_change: OnChange) -> DecoderOptions {
    DecoderOptions { json: JsonOptions { on_change, ..JsonOptions::default() }, nanos: true }
}

fn columns(schema: &Schema) -> Vec<String> {
    let shown = |field: &NestedFieldRef| {
        format!("{}: {}{}", field.name, type_text(&field.field_type), if field.required { " not null" } else { "" })
    };
    schema.as_struct().fields().iter().map(shown).collect()
}

/// A batch's rows, and its rejects' places.
fn shown(batch: &Batch) -> Vec<String> {
    let schema = batch.rows.schema();
    let row = |row: usize| {
        let values = schema.fields().iter().zip(batch.rows.columns()).map(|(field, column)| {
            let value = if column.is_null(row) {
                "NULL".to_owned()
            } else {
                array_value_to_string(column, row).unwrap_or_else(|error| error.to_string())
            };
            format!("{}={value}", field.name())
        });
        values.collect::<Vec<_>>().join(" ")
    };
    let rows = (0..batch.rows.num_rows()).map(row);
    rows.chain(batch.rejects.iter().map(|reject| format!("reject {} {}", reject.number, reject.field))).collect()
}

/// What Connect says of an event whose rows have these fields.
fn envelope(fields: &[Value]) -> Value {
    let row = |name: &str| json!({ "field": name, "type": "struct", "name": "shop.Value", "optional": true, "fields": fields });
    let text = |name: &str| json!({ "field": name, "type": "string", "optional": true });
    let long = |name: &str| json!({ "field": name, "type": "int64", "optional": true });
    let source = [long("ts_ms"), text("snapshot"), text("db"), long("xmin"), long("lsn")];
    let transaction = [text("id"), long("total_order"), long("data_collection_order")];
    json!({ "type": "struct", "name": "shop.Envelope", "optional": false, "fields": [
        row("before"), row("after"),
        { "field": "source", "type": "struct", "name": "io.debezium.Source", "optional": false, "fields": source },
        { "field": "transaction", "type": "struct", "name": "event.block", "optional": true, "fields": transaction },
        { "field": "op", "type": "string", "optional": false },
        long("ts_ms"), long("ts_us"),
    ] })
}

fn event(schema: &Value, op: &str, before: &Value, after: &Value) -> String {
    let source = json!({ "ts_ms": 1, "snapshot": "a \"b\"\n", "db": "d", "xmin": 5, "lsn": 9 });
    json!({ "schema": schema, "payload": { "before": before, "after": after, "source": source, "transaction": null,
        "op": op, "ts_ms": 1_795_439_786_730_i64, "ts_us": 5 } })
    .to_string()
}

/// Decodes events, all of one schema, both ways, each to the table that is made for them; both must be the same.
fn same(format: &Arc<EnvelopeFormat>, rows: &[String]) -> (SchemaRef, Batch) {
    let (written, schemas) = in_avro(rows);
    let data: Vec<Vec<u8>> = written.iter().map(|row| row[5..].to_vec()).collect();
    let (text, avro) = (raw(&rows.iter().map(|row| row.clone().into_bytes()).collect::<Vec<_>>()), raw(&data));
    let writers = writers(&schemas[0]);
    let schema = Arc::new(table_schema(format, &writers, &avro, how()).expect("a table"));
    assert_eq!(columns(&schema), columns(&format.table_schema(&text, how()).expect("a table")));
    let json = EnvelopeDecoder::new(&schema, Arc::clone(format), options(OnChange::Evolve)).expect("valid");
    let events = EventDecoder::new(&schema, Arc::clone(format), writers, &options(OnChange::Evolve)).expect("valid");
    let ((json, noted), (batch, observed)) = (json.decode_observed(&text), events.decode_observed(&avro));
    assert_eq!(shown(&batch), shown(&json), "{:?} {:?}", batch.rejects, json.rejects);
    assert!(noted.is_settled() && observed.is_settled(), "{noted:?} {observed:?}");
    assert!(batch.rows == json.rows && batch.source_rows == json.source_rows);
    (schema, batch)
}

fn named(name: &str, kind: &str, logical: &str) -> Value {
    json!({ "field": name, "type": kind, "name": logical, "optional": true })
}

#[test]
fn events_of_every_kind_are_the_rows_and_rejects_that_they_are_in_json() {
    let schema = envelope(&[
        json!({ "field": "id", "type": "int64", "optional": false }),
        json!({ "field": "name", "type": "string", "optional": true, "default": "none" }),
    ]);
    let (image, null) = (json!({ "id": 1, "name": "a" }), Value::Null);
    let rows = [
        event(&schema, "c", &null, &image),
        event(&schema, "r", &null, &json!({ "id": 2, "name": null })),
        event(&schema, "u", &image, &json!({ "id": 1, "name": "b" })),
        event(&schema, "d", &image, &null),
        event(&schema, "t", &null, &null),
        event(&schema, "m", &null, &null),
        event(&schema, "x", &null, &image),
        event(&schema, "c", &image, &null),
        event(&schema, "d", &null, &image),
    ];
    let more = [("_before", DebeziumColumn::Before), ("_tx", DebeziumColumn::Transaction)];
    let (table, batch) = same(&format(&more), &rows);
    assert_eq!(columns(&table)[..3], ["id: long", "name: string", "_before: struct<id: long, name: string>"]);
    assert_eq!((batch.source_rows.as_slice(), batch.rejects.len()), (&[0, 1, 2, 3, 4][..], 4));
    let source = batch.rows.column_by_name("_source").expect("there");
    let said = array_value_to_string(source, 0).expect("shows");
    assert_eq!(said, "{ts_ms: 1970-01-01T00:00:00.001Z, snapshot: a \"b\"\n, db: d, lsn: 9}");
    same(&format(&[]), &rows[..3]);
}

#[test]
fn an_event_that_apicurios_converter_wrote_is_a_row_with_the_types_of_the_database() {
    let captured: Value =
        serde_json::from_str(include_str!("../../../tests/golden/decode/debezium-avro.json")).expect("JSON");
    let row = raw(&[BASE64.decode(captured["row"].as_str().expect("base64")).expect("bytes")]);
    let (format, writers) = (format(&[]), writers(&captured["schema"]));
    let table = Arc::new(table_schema(&format, &writers, &row, how()).expect("a table"));
    let own = [
        "id: int",
        "name: string",
        "price: decimal(10, 2)",
        "any_scale: string",
        "local_at: timestamp",
        "zoned_at: timestamptz",
        "day: date",
        "at_noon: time",
        "tags: list<string>",
        "doc: string",
        "uid: uuid",
        "ratio: double",
        "big: string",
        "flag: boolean",
    ];
    assert_eq!(columns(&table)[..own.len()], own);
    let decoder = EventDecoder::new(&table, format, writers, &options(OnChange::Evolve)).expect("valid");
    let (batch, observed) = decoder.decode_observed(&row);
    assert!(observed.is_settled() && batch.rejects.is_empty(), "{observed:?} {:?}", batch.rejects);
    let values = "id=1 name=Ada \"é\" price=-5.50 any_scale=123456789012345678901234567890.125 \
                  local_at=2026-01-02T03:04:05.678901 zoned_at=2026-01-02T01:04:05.678901Z day=1990-01-01 at_noon=12:00:00.000001 \
                  tags=[a, , b,c] doc={\"k\": [1, null]} uid=67e5504410b1426f9247bb680e5fe0c8 ratio=NaN big=NULL flag=true _op=r";
    assert!(shown(&batch)[0].starts_with(values), "{}", shown(&batch)[0]);
}

#[test]
fn what_is_no_change_is_a_row_where_a_column_takes_it_and_else_a_reject() {
    let record = |fields: &[(&str, Value)]| {
        let fields: Vec<Value> = fields.iter().map(|(name, kind)| json!({ "name": name, "type": kind })).collect();
        json!({ "type": "record", "name": "R", "fields": fields })
    };
    let decoded = |schema: &Value, datum: &[u8], columns: &[(&str, DebeziumColumn)]| {
        let (format, writers, rows) =
            (format(columns), writers(schema), raw(&[datum.to_vec(), Vec::new(), vec![0x80]]));
        let table = Arc::new(table_schema(&format, &writers, &rows, how()).expect("valid"));
        let decoder = EventDecoder::new(&table, format, writers, &options(OnChange::Evolve)).expect("valid");
        let mut rows = shown(&decoder.decode_observed(&rows).0);
        // A tombstone, and what is no record.
        assert_eq!(rows.split_off(rows.len() - 2), ["reject 2 ", "reject 3 "]);
        rows
    };
    let edge = record(&[
        ("status", json!("string")),
        ("id", json!("string")),
        ("event_count", json!(["null", "long"])),
        ("ts_ms", json!("long")),
    ]);
    let end = [&[6][..], b"END", &[6], b"7:9", &[2, 4, 10]].concat();
    assert_eq!(decoded(&edge, &end, &[]), ["reject 1 status"]);
    let row = decoded(&edge, &end, &[("_tx", DebeziumColumn::Transaction)]);
    let tx = "_tx={id: 7:9, total_order: , data_collection_order: , event_count: 2}";
    assert_eq!(row, [format!("_op=END _ts_ms=1970-01-01T00:00:00.005Z {tx} _unavailable=NULL")]);
    let message = json!({ "type": "record", "name": "M", "fields": [
        { "name": "prefix", "type": ["null", "string"] }, { "name": "content", "type": ["null", "bytes"] }] });
    let message = record(&[("op", json!("string")), ("message", message)]);
    let told = [2, b'm', 2, 2, b'p', 2, 4, 1, 2];
    let row = decoded(&message, &told, &[("_message", DebeziumColumn::Message)]);
    assert_eq!(row, ["_message={prefix: p, content: 0102} _op=m _ts_ms=NULL _unavailable=NULL"]);
    assert_eq!(decoded(&record(&[("ts_ms", json!("long"))]), &[2], &[]), ["reject 1 op"]);
    assert_eq!(decoded(&record(&[("ddl", json!("string"))]), &[2, b'x'], &[]), ["reject 1 op"]);
    // As MongoDB has it: a document's text.
    let document = record(&[("op", json!("string")), ("after", json!(["null", "string"]))]);
    assert_eq!(decoded(&document, &[2, b'c', 2, 2, b'x'], &[]), ["reject 1 after"]);
}

#[test]
fn a_value_that_was_not_sent_is_null_and_named_and_never_the_mark_in_avro() {
    let list = |name: &str, items: &str| json!({ "field": name, "type": "array", "optional": true, "items": { "type": items, "optional": true } });
    let mut dates = list("dates", "int32");
    dates["items"]["name"] = json!("io.debezium.time.Date");
    let fields = [
        json!({ "field": "id", "type": "int64", "optional": false }),
        // The table does not take NULL where the database does not.
        json!({ "field": "note", "type": "string", "optional": false }),
        json!({ "field": "blob", "type": "bytes", "optional": true, "default": "eA==" }),
        list("texts", "string"),
        list("numbers", "int32"),
        dates,
        json!({ "field": "map", "type": "map", "optional": true, "keys": { "type": "string" }, "values": { "type": "string", "optional": true } }),
        json!({ "field": "kept", "type": "string", "optional": true }),
    ];
    let (schema, mark) = (envelope(&fields), "__debezium_unavailable_value");
    let whole = json!({ "id": 1, "note": "n", "blob": "AQI=", "texts": ["x"], "numbers": [1],
        "dates": [1], "map": { "a": "b" }, "kept": "k" });
    let numbers: Vec<u8> = mark.bytes().collect();
    let blanked = json!({ "id": 1, "note": mark, "blob": BASE64.encode(mark), "texts": [mark], "numbers": numbers,
        "dates": numbers, "map": { mark: mark }, "kept": format!("x {mark}") });
    let rows = [event(&schema, "c", &Value::Null, &whole), event(&schema, "u", &blanked, &blanked)];
    let (_, batch) = same(&format(&[("_before", DebeziumColumn::Before)]), &rows);
    let names = array_value_to_string(batch.rows.column_by_name("_unavailable").expect("there"), 1).expect("shows");
    let own = ["note", "blob", "texts", "numbers", "dates", "map"];
    let both: Vec<String> =
        own.iter().map(|n| (*n).to_owned()).chain(own.iter().map(|n| format!("before.{n}"))).collect();
    assert_eq!(names, format!("[{}]", both.join(", ")));
    assert!(own.iter().all(|name| batch.rows.column_by_name(name).expect("there").is_null(1)));
}

#[test]
fn a_schema_asks_for_what_the_table_lacks_and_columns_beside_it() {
    let of = |fields: &[Value]| {
        let schema = envelope(fields);
        let row: serde_json::Map<String, Value> =
            fields.iter().map(|field| (field["field"].as_str().expect("a name").to_owned(), json!(1))).collect();
        let row = event(&schema, "c", &Value::Null, &Value::Object(row));
        let (written, schemas) = in_avro(&[row]);
        (raw(&[written[0][5..].to_vec()]), writers(&schemas[0]))
    };
    let int = |name: &str| json!({ "field": name, "type": "int32", "optional": false });
    let long = |name: &str| json!({ "field": name, "type": "int64", "optional": false });
    let (rows, wider) = of(&[long("id"), named("at", "int64", "io.debezium.time.MicroTimestamp")]);
    let id = NestedField::required(1, "id", Type::Primitive(PrimitiveType::Int));
    let other = NestedField::required(2, "other", Type::Primitive(PrimitiveType::Int));
    let table = Arc::new(Schema::builder().with_fields([id, other].map(Arc::new)).build().expect("valid"));
    let decoder = |on_change| {
        EventDecoder::new(&table, format(&[]), wider.clone(), &options(on_change))
            .expect("valid")
            .decode_observed(&rows)
    };
    let (_, observed) = decoder(OnChange::Evolve);
    assert_eq!(observed.widened, BTreeMap::from([(1, PrimitiveType::Long)]));
    assert_eq!(observed.relaxed, BTreeSet::from([2]));
    let added: Vec<&str> = observed.added[&None].fields().map(|(name, _)| name).collect();
    assert_eq!(added, ["at", "_op", "_source", "_ts_ms", "_unavailable"]);
    assert_eq!(shown(&decoder(OnChange::Quarantine).0), ["reject 1 after.at"]);
    assert_eq!(shown(&decoder(OnChange::Freeze).0), ["reject 1 after.other"]);
    let (rows, known) = of(&[int("id"), int("other")]);
    let known = EventDecoder::new(&table, format(&[]), known, &options(OnChange::Freeze)).expect("valid");
    assert_eq!(shown(&known.decode_observed(&rows).0), ["id=1 other=1"]);
}

/// A field of some type, and a value for it as the JSON converter writes it.
fn random_field(rng: &mut StdRng, name: &str, depth: u32) -> (Value, Value) {
    let time = |kind: &str, name: &str| json!({ "type": kind, "name": format!("io.debezium.time.{name}") });
    let connect =
        |kind: &str, name: &str| json!({ "type": kind, "name": format!("org.apache.kafka.connect.data.{name}") });
    let (mut schema, value) = match rng.random_range(0..if depth == 0 { 22 } else { 25 }) {
        0 => (json!({ "type": "int16" }), json!(rng.random::<i16>())),
        1 => (json!({ "type": "int64" }), json!(rng.random::<i64>())),
        2 => (json!({ "type": "double" }), json!(f64::from(rng.random::<i32>()) / 8.0)),
        3 => (json!({ "type": "float" }), json!(f64::from(rng.random::<i16>()) / 8.0)),
        4 => (json!({ "type": "boolean" }), json!(rng.random::<bool>())),
        5 => (json!({ "type": "string" }), json!(["", "a", "ß\n", "null"][rng.random_range(0..4)])),
        6 => (json!({ "type": "bytes" }), json!(BASE64.encode(rng.random::<[u8; 3]>()))),
        7 => (time("int32", "Date"), json!(rng.random_range(-100_000..100_000))),
        8 => (time("int32", "Time"), json!(rng.random_range(0..86_400_000))),
        9 => (time("int64", "MicroTime"), json!(rng.random_range(0..86_400_000_000_i64))),
        10 => (time("int64", "NanoTime"), json!(rng.random_range(0..86_400_000_000_000_i64))),
        11 => (time("int64", "Timestamp"), json!(rng.random_range(-1_000_000..1_000_000))),
        12 => (time("int64", "MicroTimestamp"), json!(rng.random::<i64>())),
        13 => (time("int64", "NanoTimestamp"), json!(rng.random::<i64>())),
        14 => (
            time("string", "ZonedTimestamp"),
            json!(["2026-01-02T03:04:05.678901Z", "infinity"][rng.random_range(0..2)]),
        ),
        15 => (time("string", "IsoDate"), json!("2026-01-02Z")),
        16 => (time("string", "IsoTime"), json!("03:04:05.5Z")),
        17 => (
            json!({ "type": "string", "name": "io.debezium.data.Uuid" }),
            json!("67e55044-10b1-426f-9247-bb680e5fe0c8"),
        ),
        18 => (json!({ "type": "string", "name": "io.debezium.data.Enum" }), json!("red")),
        19 => (connect("int64", "Timestamp"), json!(rng.random_range(-1_000_000..1_000_000))),
        20 => {
            let mut schema = connect("bytes", "Decimal");
            schema["parameters"] = match rng.random_range(0..4) {
                0 => json!({ "scale": "2", "connect.decimal.precision": "12" }),
                1 => json!({ "scale": "2" }),
                2 => json!({ "scale": "-2" }),
                _ => json!({ "scale": "40", "connect.decimal.precision": "50" }),
            };
            (schema, json!(BASE64.encode(rng.random::<[u8; 4]>())))
        }
        21 => {
            let int = json!({ "field": "scale", "type": "int32" });
            let fields = [int, json!({ "field": "value", "type": "bytes" })];
            let schema = json!({ "type": "struct", "name": "io.debezium.data.VariableScaleDecimal", "fields": fields });
            (schema, json!({ "scale": rng.random_range(-3..9), "value": BASE64.encode(rng.random::<[u8; 5]>()) }))
        }
        22 => {
            let (items, value) = random_field(rng, "", depth - 1);
            let count = if value.is_null() { 0 } else { rng.random_range(0..3) };
            (json!({ "type": "array", "items": items }), Value::from(vec![value; count]))
        }
        23 => {
            let (values, value) = random_field(rng, "", depth - 1);
            (json!({ "type": "map", "keys": { "type": "string" }, "values": values }), json!({ "k": value }))
        }
        _ => {
            let fields: Vec<_> =
                (0..rng.random_range(1..4)).map(|n| random_field(rng, &format!("f{n}"), depth - 1)).collect();
            let value: Value = fields
                .iter()
                .map(|(field, value)| (field["field"].as_str().expect("a name").to_owned(), value.clone()))
                .collect();
            (
                json!({ "type": "struct", "fields": fields.into_iter().map(|(field, _)| field).collect::<Vec<_>>() }),
                value,
            )
        }
    };
    schema["optional"] = json!(rng.random_bool(0.7));
    if !name.is_empty() {
        schema["field"] = json!(name);
    }
    if rng.random_bool(0.2) {
        schema["default"] = value.clone();
    }
    let null = schema["optional"] == json!(true) && rng.random_bool(0.3);
    (schema, if null { Value::Null } else { value })
}

proptest! {
    #[test]
    fn rows_of_any_types_are_in_avro_what_they_are_in_json(seed in any::<u64>()) {
        let mut rng = StdRng::seed_from_u64(seed);
        let fields: Vec<_> = (0..rng.random_range(1..6)).map(|n| random_field(&mut rng, &format!("c{n}"), 2)).collect();
        let row: Value = fields.iter().map(|(field, value)| (field["field"].as_str().expect("a name").to_owned(), value.clone())).collect();
        let schema = envelope(&fields.into_iter().map(|(field, _)| field).collect::<Vec<_>>());
        let rows = [event(&schema, "c", &Value::Null, &row), event(&schema, "d", &row, &Value::Null)];
        same(&format(&[("_before", DebeziumColumn::Before)]), &rows);
    }

    #[test]
    fn any_bytes_are_events_or_rejects(rows in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..60), 0..12), seed in any::<u64>()) {
        let mut rng = StdRng::seed_from_u64(seed);
        let (field, value) = random_field(&mut rng, "v", 1);
        let schema = envelope(&[field]);
        let writers = writers(&schema_of(&schema));
        let payload: Value = serde_json::from_str(&event(&schema, "u", &json!({ "v": value }), &json!({ "v": value }))).expect("JSON");
        let mut good = Vec::new();
        write(&schema, &payload["payload"], &mut good);
        let cut = good[..good.len() / 2].to_vec();
        let rows: Vec<Vec<u8>> = [good, cut].into_iter().chain(rows).collect();
        let (format, rows) = (format(&[]), raw(&rows));
        let table = Arc::new(table_schema(&format, &writers, &rows, how()).expect("valid"));
        for on_change in [OnChange::Evolve, OnChange::Quarantine, OnChange::Freeze] {
            let decoder = EventDecoder::new(&table, Arc::clone(&format), writers.clone(), &options(on_change)).expect("valid");
            let batch = decoder.decode_observed(&rows).0;
            prop_assert_eq!(batch.source_rows.len() + batch.rejects.len(), rows.rows.len());
            prop_assert!(batch.source_rows.first() == Some(&0) && !batch.source_rows.contains(&1));
        }
    }
}
