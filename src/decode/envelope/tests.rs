//! Envelopes of every kind, good and bad: what becomes of each value, and that nothing is lost.
#![cfg(test)]

use arrow::array::{Array, AsArray};
use arrow::datatypes::TimestampMicrosecondType;
use arrow::util::display::array_value_to_string;
use base64::Engine;
use iceberg::spec::{ListType, MapType, NestedField, PrimitiveType};
use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::config::DebeziumConfig;
use crate::decode::append::BASE64;
use crate::decode::growth::GrowthLimits;
use crate::decode::json::JsonOptions;
use crate::decode::type_text::type_text;
use crate::model::batch::tests::raw;

fn format(envelope: Envelope, columns: &[(&str, DebeziumColumn)]) -> Arc<EnvelopeFormat> {
    let mut config = DecodeConfig { envelope, ..DecodeConfig::default() };
    config.debezium.columns.extend(columns.iter().map(|(name, what)| ((*name).to_owned(), *what)));
    Arc::new(EnvelopeFormat::of(&config).expect("an envelope"))
}

fn rows(texts: &[String]) -> RawBatch {
    raw(&texts.iter().map(|text| text.clone().into_bytes()).collect::<Vec<_>>())
}

fn table(format: &EnvelopeFormat, texts: &[String], nanos: bool) -> SchemaRef {
    let how = Inference { metadata: &BTreeMap::new(), limits: GrowthLimits::default(), rows: 100, nanos };
    Arc::new(format.table_schema(&rows(texts), how).expect("a schema"))
}

fn decoder(format: &Arc<EnvelopeFormat>, schema: &SchemaRef, on_change: OnChange) -> EnvelopeDecoder {
    let json = JsonOptions { on_change, ..JsonOptions::default() };
    EnvelopeDecoder::new(schema, Arc::clone(format), DecoderOptions { json, nanos: true }).expect("valid")
}

fn columns(schema: &Schema) -> Vec<String> {
    let shown = |field: &NestedFieldRef| {
        format!("{}: {}{}", field.name, type_text(&field.field_type), if field.required { " not null" } else { "" })
    };
    schema.as_struct().fields().iter().map(shown).collect()
}

/// A Connect row with one field `v`.
fn connect(schema: &Value, value: &str) -> String {
    let mut schema = schema.clone();
    if let Value::Object(object) = &mut schema {
        object.insert("field".to_owned(), json!("v"));
    }
    format!(r#"{{"schema":{{"type":"struct","fields":[{schema}]}},"payload":{{"v":{value}}}}}"#)
}

/// The column that a Connect schema asks for, and what it holds of a value: as Arrow shows it, or path and reason.
fn one(schema: &Value, value: &str) -> (String, Result<String, (String, String)>) {
    let format = format(Envelope::Connect, &[]);
    let texts = [connect(schema, value)];
    let table = table(&format, &texts, true);
    (columns(&table).join(", "), into(&table, &texts[0]))
}

fn into(table: &SchemaRef, row: &str) -> Result<String, (String, String)> {
    let format = format(Envelope::Connect, &[]);
    let mut batch = decoder(&format, table, OnChange::Quarantine).decode_observed(&rows(&[row.to_owned()])).0;
    match batch.rejects.pop() {
        Some(reject) => Err((reject.field, reject.reason)),
        None => Ok(array_value_to_string(batch.rows.column(0), 0).expect("shows")),
    }
}

fn named(kind: &str, name: &str) -> Value {
    json!({ "type": kind, "name": name })
}

fn decimal(precision: u32, scale: i32) -> Value {
    let parameters = json!({ "scale": scale.to_string(), "connect.decimal.precision": precision.to_string() });
    json!({ "type": "bytes", "name": "org.apache.kafka.connect.data.Decimal", "parameters": parameters })
}

#[test]
fn each_connect_type_has_its_column_and_its_values() {
    let good = |schema: &Value, value: &str, column: &str, expected: &str| {
        let found = one(schema, value);
        assert_eq!(found, (format!("v: {column} not null"), Ok(expected.to_owned())), "{schema} {value}");
    };
    for kind in ["int8", "int16", "int32"] {
        good(&json!({ "type": kind }), "-7", "int", "-7");
    }
    good(&json!({ "type": "int64" }), "9223372036854775807", "long", "9223372036854775807");
    good(&json!({ "type": "boolean" }), "true", "boolean", "true");
    good(&json!({ "type": "float" }), "0.1", "float", "0.1");
    good(&json!({ "type": "double" }), "1.0E300", "double", "1e300");
    good(&json!({ "type": "double" }), "\"NaN\"", "double", "NaN");
    good(&json!({ "type": "float" }), "\"-Infinity\"", "float", "-inf");
    good(&json!({ "type": "string" }), "\"a\\n\"", "string", "a\n");
    good(&json!({ "type": "bytes" }), "\"AP8=\"", "binary", "00ff");
    good(&decimal(12, 2), "\"Jyk=\"", "decimal(12, 2)", "100.25");
    good(&decimal(12, 2), "\"/do=\"", "decimal(12, 2)", "-5.50");
    good(&decimal(12, 2), "-5.5", "decimal(12, 2)", "-5.50");
    good(&decimal(50, 39), "\"Jyk=\"", "string", "0.000000000000000000000000000000000010025");
    good(&named("struct", "io.debezium.data.VariableScaleDecimal"), r#"{"scale":1,"value":"/do="}"#, "string", "-55.0");
    good(&named("int32", "io.debezium.time.Date"), "7305", "date", "1990-01-01");
    good(&named("int32", "org.apache.kafka.connect.data.Time"), "1500", "time", "00:00:01.500");
    good(&named("int64", "io.debezium.time.MicroTime"), "1", "time", "00:00:00.000001");
    good(&named("int64", "io.debezium.time.NanoTime"), "1999", "time", "00:00:00.000001");
    good(&named("int64", "org.apache.kafka.connect.data.Timestamp"), "1", "timestamptz", "1970-01-01T00:00:00.001Z");
    good(&named("int64", "io.debezium.time.Timestamp"), "-1", "timestamp", "1969-12-31T23:59:59.999");
    let micros = named("int64", "io.debezium.time.MicroTimestamp");
    good(&micros, "1767323045123456", "timestamp", "2026-01-02T03:04:05.123456");
    good(&named("int64", "io.debezium.time.NanoTimestamp"), "1", "timestamp_ns", "1970-01-01T00:00:00.000000001");
    let zoned = named("string", "io.debezium.time.ZonedTimestamp");
    good(&zoned, "\"2026-01-02T03:04:05.678901Z\"", "timestamptz", "2026-01-02T03:04:05.678901Z");
    good(&named("string", "io.debezium.time.IsoDate"), "\"2026-01-02Z\"", "date", "2026-01-02");
    good(&named("string", "io.debezium.time.IsoTime"), "\"03:04:05.5Z\"", "time", "03:04:05.500");
    good(&named("string", "io.debezium.data.Json"), "\"{\\\"k\\\": 1}\"", "string", "{\"k\": 1}");
    good(
        &named("string", "io.debezium.data.Uuid"),
        "\"67e55044-10b1-426f-9247-bb680e5fe0c8\"",
        "uuid",
        "67e5504410b1426f9247bb680e5fe0c8",
    );
}

#[test]
fn infinite_timestamps_are_the_far_ends_of_time() {
    let zoned = named("string", "io.debezium.time.ZonedTimestamp");
    let texts = ["\"infinity\"", "\"-infinity\""].map(|value| connect(&zoned, value));
    let format = format(Envelope::Connect, &[]);
    let schema = table(&format, &texts, false);
    let (batch, _) = decoder(&format, &schema, OnChange::Evolve).decode_observed(&rows(&texts));
    let values = batch.rows.column(0).as_primitive::<TimestampMicrosecondType>().values().to_vec();
    assert_eq!(values, [9_223_372_036_825_200_000, -9_223_372_036_832_400_000]);
}

#[test]
fn parts_of_values_and_what_is_null_follow_the_schema() {
    let optional = |kind: &str| json!({ "type": kind, "optional": true });
    let point = json!({ "type": "struct", "optional": true, "fields": [
        { "field": "x", "type": "double" }, { "field": "y", "type": "int32", "optional": true }] });
    let row = |schema: &Value, value: &str| one(schema, value);
    assert_eq!(row(&optional("int32"), "null"), ("v: int".to_owned(), Ok(String::new())));
    let list = json!({ "type": "array", "items": optional("string") });
    assert_eq!(row(&list, r#"["a",null]"#), ("v: list<string> not null".to_owned(), Ok("[a, ]".to_owned())));
    let map = json!({ "type": "map", "keys": { "type": "string" }, "values": decimal(4, 1) });
    let expected = ("v: map<string, decimal(4, 1) not null> not null".to_owned(), Ok("{a: 0.5}".to_owned()));
    assert_eq!(row(&map, r#"{"a":"BQ=="}"#), expected);
    let pairs = json!({ "type": "map", "keys": { "type": "int32" }, "values": optional("string") });
    let found = row(&pairs, r#"[[1,"a"],[2,null]]"#);
    assert_eq!(found.1, Ok("[{key: 1, value: a}, {key: 2, value: }]".to_owned()), "{}", found.0);
    // The converter writes an object whatever else is said of the texts that are keys.
    for keys in [optional("string"), named("string", "io.debezium.data.Uuid"), named("string", "com.example.Code")] {
        let map = json!({ "type": "map", "keys": keys, "values": { "type": "int32" } });
        let expected = ("v: map<string, int not null> not null".to_owned(), Ok("{a: 1}".to_owned()));
        assert_eq!(row(&map, r#"{"a":1}"#), expected);
    }
    // In whatever order, and without what is missing.
    assert_eq!(row(&point, r#"{"y":2,"x":1.5}"#).1, Ok("{x: 1.5, y: 2}".to_owned()));
    assert_eq!(row(&point, r#"{"x":1.5}"#).1, Ok("{x: 1.5, y: }".to_owned()));
}

#[test]
fn values_that_do_not_fit_are_refused_with_path_and_reason() {
    let bad = |schema: &Value, value: &str, path: &str, part: &str| {
        let (field, reason) = one(schema, value).1.expect_err(value);
        assert!(field == path && reason.contains(part), "{schema} {value}: {field:?} {reason}");
    };
    let int = json!({ "type": "int32" });
    bad(&int, "2147483648", "payload.v", "2147483648 is no int");
    bad(&int, "1.5", "payload.v", "1.5 is no int");
    bad(&int, "\"1\"", "payload.v", "a string where the row's schema says another value");
    bad(&int, "{}", "payload.v", "an object where the row's schema says a single value");
    bad(&int, "null", "payload.v", "null, and the column is required");
    bad(&json!({ "type": "boolean" }), "1", "payload.v", "a number where the row's schema says a boolean");
    bad(&json!({ "type": "bytes" }), "\"%%\"", "payload.v", "\"%%\" is no base64");
    bad(&decimal(12, 2), "\"Jyk\\u0025\"", "payload.v", "is no base64");
    bad(&decimal(4, 2), "\"f////w==\"", "payload.v", "more than the 4 digits of the column; a column of type string");
    bad(&decimal(38, 0), &format!("\"{}\"", BASE64.encode([0x7f; 17])), "payload.v", "more than the 38 digits");
    bad(&named("int32", "io.debezium.time.Time"), "86400000", "payload.v", "is no time of day");
    bad(&named("int64", "io.debezium.time.Timestamp"), "9223372036854775807", "payload.v", "out of the column's range");
    bad(&named("string", "io.debezium.time.ZonedTimestamp"), "\"soon\"", "payload.v", "\"soon\" is no timestamptz");
    let list = json!({ "type": "array", "items": { "type": "int32" } });
    bad(&list, "[1,[]]", "payload.v[1]", "an array where the row's schema says a single value");
    bad(&list, "{}", "payload.v", "an object where the row's schema says an array");
    let text = connect(&int, "1").replace("\"v\":1", "\"v\":1,\"w\":2");
    let table = table(&format(Envelope::Connect, &[]), &[connect(&int, "1")], false);
    assert_eq!(into(&table, &text), Err(("payload.w".to_owned(), "the row's schema has no such field".to_owned())));
    let twice = connect(&int, "1").replace("\"v\":1", "\"v\":1,\"v\":2");
    assert_eq!(into(&table, &twice), Err(("payload.v".to_owned(), "duplicate key".to_owned())));
}

#[test]
fn what_is_no_connect_row_is_refused_and_its_neighbours_are_decoded() {
    let format = format(Envelope::Connect, &[]);
    let good = connect(&json!({ "type": "int32" }), "1");
    let schema = table(&format, std::slice::from_ref(&good), false);
    let of = |text: &str| (text.to_owned(), good.clone());
    let bad = [
        of(""),
        of("[]"),
        of("{\"v\":1}"),
        of("{\"schema\":null,\"payload\":null}"),
        of(r#"{"schema":{"type":"int32"},"payload":{"v":1}}"#),
        of(r#"{"schema":"x","payload":{"v":1}}"#),
        of(r#"{"schema":{"type":"struct","fields":[]},"payload":5}"#),
    ];
    let texts: Vec<String> = bad.iter().flat_map(|(bad, good)| [bad.clone(), good.clone()]).collect();
    let (batch, observed) = decoder(&format, &schema, OnChange::Evolve).decode_observed(&rows(&texts));
    assert_eq!((batch.rows.num_rows(), observed.is_settled()), (bad.len(), true), "{:?}", batch.rejects);
    let shown: Vec<_> = batch.rejects.iter().map(|r| format!("{}: {}", r.field, r.reason)).collect();
    let expected = [
        ": the row is empty",
        ": the row is an array, not an object",
        "payload: missing: the row is in no envelope of Connect's",
        "payload: null: a tombstone",
        "schema: the schema is int32, not a struct",
        "schema: the schema says no `type`",
        "payload: a number where an object is expected",
    ];
    for (shown, expected) in shown.iter().zip(expected) {
        assert!(shown.starts_with(expected), "{shown}");
    }
    assert_eq!(shown.len(), expected.len());
}

#[test]
fn a_connect_row_without_a_schema_is_read_as_plain_json_is() {
    let format = format(Envelope::Connect, &[]);
    let texts = [r#"{"schema":null,"payload":{"a":1,"b":"2026-01-01"}}"#.to_owned()];
    let schema = table(&format, &texts, false);
    assert_eq!(columns(&schema), ["a: long", "b: date"]);
    let batch = decoder(&format, &schema, OnChange::Evolve).decode_observed(&rows(&texts)).0;
    assert_eq!((batch.rows.num_rows(), batch.rejects.len()), (1, 0));
}

#[test]
fn a_schema_asks_for_what_the_table_lacks_and_one_that_cannot_follow_refuses_its_values() {
    let format = format(Envelope::Connect, &[]);
    let of = |kind: &str, value: &str| connect(&json!({ "type": kind, "optional": true }), value);
    let schema = table(&format, &[of("int32", "1")], false);
    let decoder = decoder(&format, &schema, OnChange::Evolve);
    let wider = decoder.decode_observed(&rows(&[of("int64", "5000000000"), of("int32", "1")]));
    assert_eq!(wider.1.widened, BTreeMap::from([(1, PrimitiveType::Long)]));
    let text = decoder.decode_observed(&rows(&[of("string", "\"x\""), of("string", "null"), of("int32", "1")]));
    assert!(text.1.is_settled() && text.0.rows.num_rows() == 2);
    assert_eq!(text.0.rejects[0].reason, "string in the writer's schema, int in the table");
    let more = of("int32", "1").replace("\"fields\":[", "\"fields\":[{\"field\":\"w\",\"type\":\"double\"},");
    let more = more.replace("\"v\":1", "\"w\":2.5,\"v\":1");
    let (batch, observed) = decoder.decode_observed(&rows(std::slice::from_ref(&more)));
    assert_eq!((batch.rows.num_rows(), observed.ignored, observed.added[&None].fields().count()), (1, 1, 1));
    let kept = decoder.decode_as(&rows(std::slice::from_ref(&more)), OnChange::Quarantine).0;
    assert_eq!(
        (kept.rejects[0].field.as_str(), kept.rejects[0].reason.as_str()),
        ("payload.w", "the table has no such column")
    );
    assert_eq!(decoder.decode_as(&rows(&[more]), OnChange::Freeze).1.ignored, 1);
}

#[test]
fn a_new_column_has_the_type_that_one_rows_schema_says_whatever_rows_without_one_suggest() {
    let format = format(Envelope::Connect, &[]);
    let plain = |value: &str| format!(r#"{{"schema":null,"payload":{{"id":1,"v":{value}}}}}"#);
    let typed = connect(&json!({ "type": "int64", "optional": true }), "1");
    let empty = table(&format, &[plain("null")], false);
    for texts in [[typed.clone(), plain("1")], [plain("1"), typed.clone()], [plain("\"x\""), typed]] {
        let (_, observed) = decoder(&format, &empty, OnChange::Evolve).decode_observed(&rows(&texts));
        let shape = observed.added[&None].fields().find(|(name, _)| *name == "v").expect("asked for").1;
        assert_eq!(shape.primitive(), Some(PrimitiveType::Long), "{texts:?}");
    }
}

#[test]
fn a_decimal_goes_into_a_column_that_holds_it_exactly_or_into_a_text() {
    let to = |kind: PrimitiveType, schema: &Value, value: &str| {
        let field = NestedField::optional(1, "v", Type::Primitive(kind));
        let table = Arc::new(Schema::builder().with_fields([Arc::new(field)]).build().expect("valid"));
        into(&table, &connect(schema, value))
    };
    let column = |precision, scale| PrimitiveType::Decimal { precision, scale };
    assert_eq!(to(PrimitiveType::String, &decimal(12, 2), "\"Jyk=\""), Ok("100.25".to_owned()));
    assert_eq!(to(column(12, 4), &decimal(12, 2), "\"Jyk=\""), Ok("100.2500".to_owned()));
    let any = named("struct", "io.debezium.data.VariableScaleDecimal");
    assert_eq!(to(column(12, 4), &any, r#"{"scale":2,"value":"Jyk="}"#), Ok("100.2500".to_owned()));
    assert!(to(column(12, 1), &any, r#"{"scale":2,"value":"Jyk="}"#).is_err());
    for bad in
        [r#"{"scale":2}"#, r#"{"scale":"2","value":"Jyk="}"#, r#"{"scale":2,"value":"%"}"#, r#"{"scale":2,"value":""}"#]
    {
        assert!(to(PrimitiveType::String, &any, bad).is_err(), "{bad}");
    }
    // Bytes stay as they are written.
    assert_eq!(to(PrimitiveType::String, &json!({ "type": "bytes" }), "\"aGVsbG8=\""), Ok("aGVsbG8=".to_owned()));
    // Text in a column of bytes would be taken for base64.
    assert!(to(PrimitiveType::Binary, &json!({ "type": "string" }), "\"abcd\"").is_err());
}

fn event(op: &str, before: &str, after: &str) -> String {
    format!(
        r#"{{"before":{before},"after":{after},"source":{{"version":"3","ts_ms":1,"snapshot":"false","db":"d","schema":"s","table":"t","txId":7,"lsn":9,"xmin":null}},"transaction":null,"op":"{op}","ts_ms":1795439786730}}"#
    )
}

#[test]
fn events_of_every_kind_are_rows_and_what_is_none_is_refused_with_a_way_out() {
    let all = [("_message", DebeziumColumn::Message), ("_tx", DebeziumColumn::Transaction)];
    let wide = format(Envelope::Debezium, &all);
    let image = r#"{"id":1,"name":"a"}"#;
    let good = [
        event("c", "null", image),
        event("r", "null", image),
        event("u", image, image),
        event("d", image, "null"),
        event("t", "null", "null"),
        event("m", "null", "null").replace("\"op\"", r#""message":{"prefix":"p","content":"AQI="},"op""#),
        r#"{"status":"BEGIN","id":"7:9","ts_ms":5}"#.to_owned(),
        r#"{"status":"END","id":"7:9","event_count":2,"data_collections":[],"ts_ms":5}"#.to_owned(),
    ];
    let schema = table(&wide, &good, false);
    let (batch, observed) = decoder(&wide, &schema, OnChange::Evolve).decode_observed(&rows(&good));
    assert!(observed.is_settled() && batch.rejects.is_empty(), "{observed:?} {:?}", batch.rejects);
    let column = |name: &str| {
        let column = batch.rows.column_by_name(name).expect(name);
        (0..column.len()).map(|row| array_value_to_string(column, row).expect("shows")).collect::<Vec<_>>()
    };
    assert_eq!(column("_op"), ["c", "r", "u", "d", "t", "m", "BEGIN", "END"]);
    assert_eq!(column("id"), ["1", "1", "1", "1", "", "", "", ""]);
    assert_eq!(column("_message")[5], "{prefix: p, content: 0102}");
    assert_eq!(column("_tx")[7], "{id: 7:9, total_order: , data_collection_order: , event_count: 2}");
    assert_eq!(column("_ts_ms")[0], "2026-11-23T13:16:26.730Z");
    let source = "{ts_ms: 1970-01-01T00:00:00.001Z, snapshot: false, db: d, schema: s, table: t, txId: 7, lsn: 9}";
    assert_eq!(column("_source")[0], source);

    let usual = format(Envelope::Debezium, &[]);
    let bad = [
        (image.to_owned(), "op: missing: this is none of Debezium's change events"),
        (good[6].clone(), "status: the edge of a transaction, and no column takes its id"),
        (good[5].clone(), "message: a message, and no column takes it"),
        (r#"{"ts_ms":1}"#.to_owned(), "op: a heartbeat"),
        (r#"{"databaseName":"d","ddl":"create"}"#.to_owned(), "op: a change of the database's schema"),
        (event("x", "null", image), "op: \"x\" is no kind of change"),
        (event("c", "null", "null"), "after: no row in an event"),
        (event("d", "null", "null"), "before: a delete does not say which row"),
        (event("c", "null", "\"text\""), "after: a string where an object is expected"),
        (event("c", "null", r#"{"id":"x","name":"b"}"#), "after.id: \"x\" is no long"),
        (event("c", "null", image).replace("1795439786730", "1e30"), "ts_ms: 1e30 is no timestamptz"),
        (event("c", "null", image).replace("\"lsn\":9", "\"lsn\":[]"), "source.lsn: an array where long is expected"),
    ];
    let texts: Vec<String> = bad.iter().flat_map(|(text, _)| [text.clone(), good[0].clone()]).collect();
    let schema = table(&usual, &good[..1], false);
    let (batch, observed) = decoder(&usual, &schema, OnChange::Evolve).decode_observed(&rows(&texts));
    assert!(observed.is_settled() && batch.rows.num_rows() == bad.len(), "{observed:?} {:?}", batch.rejects);
    for (reject, (_, expected)) in batch.rejects.iter().zip(&bad) {
        let shown = format!("{}: {}", reject.field, reject.reason);
        assert!(shown.starts_with(expected), "{shown}");
    }
    assert_eq!(batch.rejects.len(), bad.len());
}

#[test]
fn what_a_source_comes_to_say_of_the_log_gets_a_field_and_what_says_nothing_new_does_not() {
    let format = format(Envelope::Debezium, &[]);
    let old = event("c", "null", r#"{"id":1}"#).replace(",\"lsn\":9", "");
    let schema = table(&format, std::slice::from_ref(&old), false);
    let decoder = decoder(&format, &schema, OnChange::Evolve);
    assert!(decoder.decode_observed(&rows(std::slice::from_ref(&old))).1.is_settled());
    let new = old.replace("\"xmin\":null", "\"lsn\":9,\"xmin\":5");
    let odd = new.replace("\"txId\":7", "\"txId\":\"0a.1\"");
    let (batch, observed) = decoder.decode_observed(&rows(&[new, odd.clone()]));
    let source = schema.field_by_name("_source").expect("there").id;
    let added = &observed.added[&Some(source)];
    assert_eq!(added.fields().map(|(name, _)| name).collect::<Vec<_>>(), ["lsn"]);
    // Another database's kind of id does not fit, and is refused with its place.
    assert_eq!((batch.rejects[0].field.as_str(), batch.rows.num_rows()), ("source.txId", 1));
    // Where a table begins with it, it is a text.
    let shown = columns(&table(&format, &[odd], false)).join(" ");
    assert!(shown.contains("txId: string, lsn: long"), "{shown}");
}

#[test]
fn a_value_that_was_not_sent_is_null_and_named_and_never_the_mark() {
    let format = format(Envelope::Debezium, &[("_before", DebeziumColumn::Before)]);
    let text = r#"{"id":1,"note":"n","list":["x"]}"#;
    let mark = r#"{"id":1,"note":"__debezium_unavailable_value","list":["__debezium_unavailable_value"]}"#;
    let texts = [event("c", "null", text), event("u", mark, mark)];
    let schema = table(&format, &[event("u", text, text)], false);
    let (batch, observed) = decoder(&format, &schema, OnChange::Evolve).decode_observed(&rows(&texts));
    assert!(observed.is_settled() && batch.rejects.is_empty(), "{observed:?} {:?}", batch.rejects);
    let shown = |name: &str, row: usize| {
        let column = batch.rows.column_by_name(name).expect(name);
        (column.is_null(row), array_value_to_string(column, row).expect("shows"))
    };
    assert_eq!((shown("note", 0).1, shown("_unavailable", 0).0), ("n".to_owned(), true));
    assert_eq!((shown("note", 1).0, shown("list", 1).0), (true, true));
    assert_eq!(shown("_unavailable", 1).1, "[note, list, before.note, before.list]");
    assert_eq!(shown("_before", 1).1, "{id: 1, note: , list: }");
    // Nor is a table made for it.
    assert_eq!(columns(&table(&format, &texts[1..], false))[0], "id: long");
    assert!(!columns(&table(&format, &texts[1..], false)).iter().any(|column| column.starts_with("note")));
}

#[test]
fn events_with_schemas_ask_for_columns_of_their_types_and_all_are_optional() {
    let field = |name: &str, kind: &str| json!({ "field": name, "type": kind, "optional": false });
    let row =
        |name: &str, fields: &[Value]| json!({ "field": name, "type": "struct", "optional": true, "fields": fields });
    let fields = [field("id", "int32"), named("int64", "io.debezium.time.MicroTimestamp")];
    let mut fields = fields.to_vec();
    fields[1]["field"] = json!("at");
    let odd = json!({ "field": "source", "type": "nothing of ours" });
    let schema = json!({ "type": "struct", "fields": [row("before", &fields), row("after", &fields), odd] });
    let wrap = |event: String| format!(r#"{{"schema":{schema},"payload":{event}}}"#);
    let texts = [
        wrap(event("c", "null", r#"{"id":1,"at":1}"#)),
        wrap(event("d", r#"{"id":1,"at":null}"#, "null")),
        wrap(event("t", "null", "null")),
        wrap(event("c", "null", r#"{"id":2147483648,"at":1}"#)),
        wrap(event("c", "null", r#"{"id":2,"at":"__debezium_unavailable_value"}"#)),
    ];
    let format = format(Envelope::Debezium, &[("_before", DebeziumColumn::Before)]);
    let table = table(&format, &texts, false);
    let before = "_before: struct<id: int, at: timestamp>";
    assert_eq!(columns(&table)[..3], ["id: int", "at: timestamp", before]);
    let (batch, observed) = decoder(&format, &table, OnChange::Evolve).decode_observed(&rows(&texts));
    assert!(observed.is_settled() && batch.source_rows == [0, 1, 2, 4], "{observed:?} {:?}", batch.rejects);
    assert_eq!(
        (batch.rejects[0].field.as_str(), batch.rejects[0].reason.as_str()),
        ("after.id", "2147483648 is no int")
    );
    let required = NestedField::required(1, "id", Type::Primitive(PrimitiveType::Int));
    let required = Arc::new(Schema::builder().with_fields([Arc::new(required)]).build().expect("valid"));
    let (batch, observed) = decoder(&format, &required, OnChange::Evolve).decode_observed(&rows(&texts));
    assert_eq!((observed.relaxed, batch.rows.num_rows()), (BTreeSet::from([1]), 3));
}

#[test]
fn many_schemas_are_kept_within_limits_and_told_apart() {
    let format = format(Envelope::Connect, &[]);
    let texts: Vec<String> = (0..SCHEMAS_MAX + 50)
        .map(|at| connect(&json!({ "type": "int64", "version": at, "optional": at % 2 == 0 }), &at.to_string()))
        .collect();
    let schema = table(&format, &texts[..1], false);
    let decoder = decoder(&format, &schema, OnChange::Evolve);
    let (batch, observed) = decoder.decode_observed(&rows(&texts));
    assert!(batch.rejects.is_empty() && batch.rows.num_rows() == texts.len() && observed.is_settled());
    let known = decoder.known.read().expect("not poisoned");
    assert!(known.laid.len() <= SCHEMAS_MAX && known.bytes <= BYTES_MAX, "{}", known.laid.len());
}

#[test]
fn usual_columns_are_those_that_the_reference_says() {
    let names: Vec<String> = DebeziumConfig::default().columns.into_keys().collect();
    assert_eq!(names, ["_op", "_source", "_ts_ms", "_unavailable"]);
}

/// JSON that looks like an event, with anything in any place.
fn anything() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        "[a-zA-Z0-9+/=_ ]{0,12}".prop_map(Value::from),
        prop::sample::select(vec!["c", "d", "BEGIN", "Jyk=", "NaN", "__debezium_unavailable_value", "struct", "int32"])
            .prop_map(Value::from),
    ];
    let key = prop::sample::select(vec![
        "schema",
        "payload",
        "before",
        "after",
        "source",
        "op",
        "ts_ms",
        "status",
        "id",
        "fields",
        "field",
        "type",
        "name",
        "items",
        "keys",
        "values",
        "parameters",
        "scale",
        "optional",
        "v",
    ]);
    leaf.prop_recursive(6, 48, 6, move |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::vec((key.clone(), inner), 0..6)
                .prop_map(|fields| fields.into_iter().map(|(key, value)| (key.to_owned(), value)).collect()),
        ]
    })
}

proptest! {
    #[test]
    fn every_row_is_a_row_or_a_reject_whatever_it_is(values in prop::collection::vec(anything(), 1..6), cut in 0_usize..40) {
        let int = json!({ "type": "int32" });
        let list = |id| {
            let element = NestedField::list_element(id, Type::Primitive(PrimitiveType::Int), false);
            Type::List(ListType::new(Arc::new(element)))
        };
        let map = Type::Map(MapType::new(
            Arc::new(NestedField::map_key_element(5, Type::Primitive(PrimitiveType::String))),
            Arc::new(NestedField::map_value_element(6, list(7), false)),
        ));
        for envelope in [Envelope::Connect, Envelope::Debezium] {
            let format = format(envelope, &[("_before", DebeziumColumn::Before)]);
            let mut texts: Vec<String> = values.iter().map(ToString::to_string).collect();
            texts.extend(values.iter().map(|value| connect(&json!({ "type": value }), &value.to_string())));
            texts.extend(values.iter().map(|value| connect(&int, &value.to_string())));
            texts.extend(values.iter().map(|value| connect(value, "1")));
            texts.extend(values.iter().map(|value| event("u", &value.to_string(), &value.to_string())));
            let broken: Vec<String> = texts.iter().map(|text| text.chars().take(cut).collect()).collect();
            texts.extend(broken);
            let inferred = table(&format, &texts, true);
            let v = NestedField::optional(1, "v", Type::Primitive(PrimitiveType::Decimal { precision: 9, scale: 2 }));
            let (id, after) = (NestedField::optional(2, "id", list(3)), NestedField::optional(4, "name", map.clone()));
            let odd = Schema::builder().with_fields([v, id, after].map(Arc::new)).build().expect("valid");
            for schema in [inferred, Arc::new(odd)] {
                for on_change in [OnChange::Evolve, OnChange::Quarantine, OnChange::Freeze] {
                    let (batch, _) = decoder(&format, &schema, on_change).decode_observed(&rows(&texts));
                    prop_assert_eq!(batch.rows.num_rows() + batch.rejects.len(), texts.len());
                    prop_assert_eq!(batch.rows.num_rows(), batch.source_rows.len());
                }
            }
        }
    }
}
