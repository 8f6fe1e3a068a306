//! Rows of JSON behind the ids of their schemas: whose word counts, and what growth and bad rows do.

use arrow::array::AsArray;
use arrow::datatypes::{Date32Type, Decimal128Type, Int32Type, Time64MicrosecondType, TimestampMicrosecondType};
use serde_json::{Value, json};

use super::*;
use crate::decode::registry::Registry;
use crate::decode::registry::tests::{Shelf, config, serve};
use crate::decode::type_text::type_text;
use crate::env::Env;
use crate::model::batch::tests::raw;

async fn writers() -> (Writers<JsonSchema>, Arc<Shelf>) {
    let (url, shelf) = serve().await;
    let env = Env::system();
    let registry = Registry::new("sr", &config(&url), &env).expect("a client");
    (Writers::of_registry(Arc::new(registry), &env), shelf)
}

fn put(shelf: &Shelf, id: u32, schema: &Value) {
    let answer = json!({ "schema": schema.to_string(), "schemaType": "JSON" });
    shelf.put(&format!("/reg/schemas/ids/{id}"), 200, answer);
}

fn row(id: u32, object: &str) -> Vec<u8> {
    [&[0][..], &id.to_be_bytes(), object.as_bytes()].concat()
}

fn columns(schema: &Schema) -> Vec<String> {
    let shown = |field: &iceberg::spec::NestedFieldRef| {
        format!("{}: {}{}", field.name, type_text(&field.field_type), if field.required { " not null" } else { "" })
    };
    schema.as_struct().fields().iter().map(shown).collect()
}

async fn table(writers: &Writers<JsonSchema>, rows: &RawBatch) -> SchemaRef {
    writers.learn(rows).await.expect("the registry answers");
    let sample = rows.rows.iter().map(|row| rows.bytes(*row));
    Arc::new(table_schema(writers, rows, sample, &BTreeMap::new(), GrowthLimits::default()).expect("valid"))
}

fn decoder(schema: &SchemaRef, writers: &Writers<JsonSchema>) -> FramedJsonDecoder {
    FramedJsonDecoder::new(schema, writers.clone(), JsonOptions::default()).expect("valid")
}

#[tokio::test]
async fn the_schema_says_the_columns_and_the_rows_what_it_leaves_open() {
    let (writers, shelf) = writers().await;
    let connect =
        |title: &str, kind: &str| json!({ "type": kind, "title": format!("org.apache.kafka.connect.data.{title}") });
    let mut price = connect("Decimal", "string");
    price["connect.parameters"] = json!({ "scale": "2", "connect.decimal.precision": "9" });
    put(
        &shelf,
        1,
        &json!({
            "type": "object",
            "required": ["id"],
            "properties": {
                "id": { "type": "integer", "connect.type": "int32" },
                "day": connect("Date", "integer"),
                "at": connect("Timestamp", "integer"),
                "time": connect("Time", "integer"),
                "price": price,
                "code": { "type": "string" },
                "open": {},
            },
        }),
    );
    // A base64 of digits is no number, a code of digits no number either, and the epoch is Connect's.
    let good = r#"{"id":7,"day":1,"at":1000,"time":1000,"price":"BNI=","code":12,"open":true,"more":[1]}"#;
    let batch = raw(&[
        row(1, good),
        row(1, r#"{"id":"no"}"#),
        row(9, good),
        b"{}".to_vec(),
        row(1, "{"),
        row(1, good),
        row(1, r#"{"id":1,"price":""}"#),
    ]);
    let schema = table(&writers, &batch).await;
    assert_eq!(
        columns(&schema),
        [
            "id: int not null",
            "day: date",
            "at: timestamptz",
            "time: time",
            "price: decimal(9, 2)",
            "code: string",
            "open: boolean",
            "more: list<long>"
        ]
    );
    let options = JsonOptions { epoch: crate::config::Epoch::Seconds, ..JsonOptions::default() };
    let decoder = FramedJsonDecoder::new(&schema, writers.clone(), options).expect("valid");
    let (decoded, observed) = decoder.decode_observed(&batch);
    assert!(observed.is_settled(), "{observed:?}");
    assert_eq!(decoded.source_rows, [0, 5]);
    let column = |name: &str| decoded.rows.column_by_name(name).expect(name);
    assert_eq!(column("id").as_primitive::<Int32Type>().value(1), 7);
    assert_eq!(column("day").as_primitive::<Date32Type>().value(1), 1);
    assert_eq!(column("at").as_primitive::<TimestampMicrosecondType>().value(1), 1_000_000);
    assert_eq!(column("time").as_primitive::<Time64MicrosecondType>().value(1), 1_000_000);
    assert_eq!(column("price").as_primitive::<Decimal128Type>().value(1), 1234);
    assert_eq!(column("code").as_string::<i32>().value(1), "12");
    let reasons: Vec<&str> = decoded.rejects.iter().map(|reject| reject.reason.as_str()).collect();
    assert_eq!(reasons[0], "\"no\" is no int");
    assert_eq!(reasons[1], "registry sr has no schema with the id 9");
    assert!(reasons[2].starts_with("the row begins with byte 0x7b"), "{}", reasons[2]);
    assert!(reasons[3].starts_with("malformed JSON"), "{}", reasons[3]);
    assert_eq!(reasons[4], "\"\" is no decimal(9, 2)");
    // Rejects are whole: they can be sent again.
    assert_eq!(decoded.rejects[0].raw, row(1, r#"{"id":"no"}"#));
}

#[tokio::test]
async fn a_new_id_asks_for_what_its_schema_says_whatever_its_rows_hold() {
    let (writers, shelf) = writers().await;
    put(&shelf, 1, &json!({ "properties": { "id": { "type": "integer", "connect.type": "int32" } } }));
    put(
        &shelf,
        2,
        &json!({ "properties": {
        "id": { "type": "integer" },
        "code": { "type": "string" },
        "o": { "properties": { "a": { "type": "string", "format": "date" } } },
        "unseen": { "type": "number" },
    } }),
    );
    let schema = table(&writers, &raw(&[row(1, r#"{"id":1}"#)])).await;
    let batch = raw(&[row(1, r#"{"id":1}"#), row(2, r#"{"id":5,"code":5,"o":{"a":"2026-01-01","b":1},"free":2}"#)]);
    writers.learn(&batch).await.expect("the registry answers");
    let (_, observed) = decoder(&schema, &writers).decode_observed(&batch);
    assert_eq!(observed.widened.values().collect::<Vec<_>>(), [&iceberg::spec::PrimitiveType::Long]);
    let mut growth = Growth::new(&schema, 1, GrowthLimits::default(), GrowthOrder::Name);
    let fields = growth.fields("", 0, &observed.added[&None]);
    let grown = Schema::builder().with_fields(fields).build().expect("valid");
    assert_eq!(columns(&grown), ["code: string", "free: long", "o: struct<a: date, b: long>", "unseen: double"]);
    // Nothing is asked for where no row of the schema is whole.
    let broken = raw(&[row(1, r#"{"id":1}"#), row(2, "{")]);
    assert!(decoder(&schema, &writers).decode_observed(&broken).1.is_settled());
    assert_eq!(decoder(&schema, &writers).decode_as(&batch, OnChange::Quarantine).0.rejects.len(), 1);
    let (frozen, seen) = decoder(&schema, &writers).decode_as(&batch, OnChange::Freeze);
    assert_eq!((frozen.rejects.len(), seen.ignored), (0, 3));
}

#[tokio::test]
async fn what_connect_wrote_as_a_number_or_in_base64_is_not_taken_for_something_else() {
    let (writers, shelf) = writers().await;
    let connect =
        |title: &str, kind: &str| json!({ "type": kind, "title": format!("org.apache.kafka.connect.data.{title}") });
    let mut decimal = connect("Decimal", "string");
    decimal["connect.parameters"] = json!({ "scale": "2" });
    let said = json!({
        "day": connect("Date", "integer"),
        "time": connect("Time", "integer"),
        "at": connect("Timestamp", "integer"),
        "price": decimal,
    });
    put(&shelf, 1, &json!({ "properties": said }));
    let with = |name: &str, kind: &str, value: &str| {
        let column = crate::config::ColumnConfig { name: name.to_owned(), kind: kind.to_owned(), required: false };
        let schema = Arc::new(crate::decode::type_text::schema_of(&[column]).expect("valid"));
        (schema, raw(&[row(1, &format!("{{{name:?}:{value}}}"))]))
    };
    for (name, kind, value, reason) in [
        ("day", "timestamptz", "20486", "a date in days where timestamptz is expected"),
        ("day", "time", "20486", "a date in days where time is expected"),
        ("time", "timestamp", "1000", "a time of day in milliseconds where timestamp is expected"),
        ("time", "date", "1000", "a time of day in milliseconds where date is expected"),
        ("at", "date", "1000", "a timestamp in milliseconds where date is expected"),
        ("at", "time", "1000", "a timestamp in milliseconds where time is expected"),
        ("price", "long", "\"1234\"", "a decimal in base64 where long is expected"),
        ("price", "double", "\"1234\"", "a decimal in base64 where double is expected"),
        ("day", "long", "20486", ""),
        ("at", "long", "1000", ""),
        ("at", "timestamp", "1000", ""),
        ("price", "string", "\"1234\"", ""),
        ("day", "timestamptz", "null", ""),
    ] {
        let (schema, batch) = with(name, kind, value);
        writers.learn(&batch).await.expect("the registry answers");
        let decoded = decoder(&schema, &writers).decode_as(&batch, OnChange::Quarantine).0;
        let found = decoded.rejects.first().map_or("", |reject| reject.reason.as_str());
        assert_eq!(found, reason, "{name} into {kind}");
    }
}
