//! Events that Debezium wrote, decoded while the table follows them: columns and rows as files under tests/golden/decode.
//! `UPDATE_GOLDEN=1` writes them anew.
#![cfg(test)]

use std::collections::BTreeMap;
use std::fmt::Write;
use std::sync::Arc;

use arrow::util::display::array_value_to_string;
use iceberg::spec::{NestedField, PrimitiveType, Schema, SchemaRef, Type};
use serde::Deserialize;
use serde_json::Value;
use serde_json::value::RawValue;

use crate::config::{DebeziumColumn, DecodeConfig, Envelope, OnChange, RowFormat};
use crate::decode::debezium_written::{framed, in_avro};
use crate::decode::envelope::EnvelopeFormat;
use crate::decode::growth::GrowthLimits;
use crate::decode::json::JsonOptions;
use crate::decode::registry::Registry;
use crate::decode::registry::tests::{config, serve};
use crate::decode::type_text::type_text;
use crate::decode::{Decoder, DecoderOptions, Format, Inference};
use crate::env::Env;
use crate::model::batch::tests::raw;
use crate::model::batch::{Batch, RawBatch};
use crate::transform::evolve::evolve;

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
