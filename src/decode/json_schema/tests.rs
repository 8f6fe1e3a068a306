//! What JSON Schemas say of columns, and what they leave open.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::json;

use super::*;
use crate::decode::type_text::type_text;

fn schema(text: &Value) -> JsonSchema {
    JsonSchema::parse(&text.to_string(), &[]).expect("a schema")
}

fn columns(schema: &JsonSchema) -> Vec<String> {
    let shown = |field: &NestedFieldRef| {
        format!("{}: {}{}", field.name, type_text(&field.field_type), if field.required { " not null" } else { "" })
    };
    schema.fields().iter().map(shown).collect()
}

/// The column of one property.
fn column(property: Value) -> String {
    let columns = columns(&schema(&json!({ "type": "object", "properties": { "f": property } })));
    columns.first().map_or("open", |column| column.trim_start_matches("f: ")).to_owned()
}

#[test]
fn each_type_says_its_column_and_what_says_nothing_is_left_open() {
    let connect = |kind: &str, connect: &str| json!({ "type": kind, "connect.type": connect });
    let logical = |kind: &str, title: &str| json!({ "type": kind, "title": format!("{CONNECT}{title}") });
    let a = || json!({ "a": { "type": "boolean" } });
    let mut decimal = logical("string", "Decimal");
    decimal["connect.parameters"] = json!({ "scale": "2", "connect.decimal.precision": 9 });
    let scaled = |scale: &str| {
        let mut decimal = logical("string", "Decimal");
        decimal["connect.type"] = json!("bytes");
        decimal["connect.parameters"] = json!({ "scale": scale });
        decimal
    };
    for (property, expected) in [
        (json!({ "type": "boolean" }), "boolean"),
        (json!({ "type": "integer" }), "long"),
        (json!({ "type": "integer", "format": "int32" }), "int"),
        (json!({ "type": "number" }), "double"),
        (json!({ "type": "string", "format": "date" }), "date"),
        (json!({ "type": "string", "format": "date-time" }), "timestamptz"),
        (json!({ "type": "string", "format": "time" }), "time"),
        (json!({ "type": "string", "format": "uuid" }), "uuid"),
        (json!({ "type": "string", "format": "email" }), "string"),
        (json!({ "type": "string", "contentEncoding": "base64" }), "binary"),
        (connect("integer", "int8"), "int"),
        (connect("integer", "int64"), "long"),
        (connect("number", "float32"), "float"),
        (connect("number", "float64"), "double"),
        (connect("string", "bytes"), "binary"),
        (decimal, "decimal(9, 2)"),
        (logical("number", "Decimal"), "decimal(38, 0)"),
        (logical("string", "Decimal"), "string"),
        (scaled("-2"), "binary"),
        (scaled("39"), "binary"),
        (logical("integer", "Date"), "date"),
        (logical("integer", "Time"), "time"),
        (logical("integer", "Timestamp"), "timestamptz"),
        (json!({ "enum": ["A", "B"] }), "string"),
        (json!({ "enum": ["A", 1] }), "open"),
        (json!({ "type": ["null", "integer"] }), "long"),
        (json!({ "type": ["string", "integer"] }), "open"),
        (json!({ "oneOf": [{ "type": "null" }, { "type": "string" }] }), "string"),
        (json!({ "anyOf": [{ "type": "integer" }] }), "long"),
        (json!({ "oneOf": [{ "type": "integer" }, { "type": "string" }] }), "open"),
        (json!({ "type": "array", "items": { "type": "integer" } }), "list<long not null>"),
        (json!({ "type": "array", "items": { "type": ["integer", "null"] } }), "list<long>"),
        (json!({ "type": "array" }), "open"),
        (json!({ "type": "object", "additionalProperties": { "type": "number" } }), "map<string, double not null>"),
        (json!({ "type": "object", "additionalProperties": true }), "open"),
        (json!({ "properties": { "a": { "type": "boolean" }, "b": {} } }), "struct<a: boolean>"),
        (
            json!({ "allOf": [{ "properties": { "a": { "type": "boolean" } } }, { "properties": { "b": { "type": "string" } } }] }),
            "struct<a: boolean, b: string>",
        ),
        // What is beside own fields, or says nothing of the type, does not leave them open.
        (json!({ "properties": a(), "anyOf": [{ "required": ["a"] }, { "required": ["b"] }] }), "struct<a: boolean>"),
        (json!({ "properties": a(), "allOf": [{ "if": { "required": ["a"] }, "then": {} }] }), "struct<a: boolean>"),
        (
            json!({ "properties": a(), "allOf": [{ "properties": { "a": { "type": "string" }, "b": { "type": "string" } } }] }),
            "struct<a: boolean, b: string>",
        ),
        (json!({ "allOf": [{ "properties": a() }, { "minProperties": 1 }] }), "struct<a: boolean>"),
        (json!({ "type": "string", "anyOf": [{ "minLength": 1 }, { "pattern": "x" }] }), "string"),
        (json!({ "type": "string", "allOf": [{ "type": "string", "format": "date" }] }), "date"),
        (json!({ "properties": a(), "oneOf": [{ "type": "null" }, { "type": "object" }] }), "struct<a: boolean>"),
        (json!({ "type": "object", "oneOf": [{ "properties": a() }, { "type": "null" }] }), "struct<a: boolean>"),
        (json!({ "type": "null" }), "open"),
        (json!(true), "open"),
    ] {
        assert_eq!(column(property.clone()), expected, "{property}");
    }
}

#[test]
fn required_fields_and_connects_order_are_kept() {
    let schema = schema(&json!({
        "type": "object",
        "required": ["id", "note", "inner"],
        "properties": {
            "note": { "oneOf": [{ "type": "null" }, { "type": "string" }], "connect.index": 2 },
            "inner": { "type": "object", "required": ["x"], "properties": { "x": { "type": "integer" } }, "connect.index": 1 },
            "id": { "type": "integer", "connect.index": 0 },
            "late": { "type": "string" },
        },
    }));
    assert_eq!(
        columns(&schema),
        ["id: long not null", "inner: struct<x: long not null> not null", "note: string", "late: string"]
    );
}

#[test]
fn references_are_followed_within_a_document_and_across_and_not_for_ever() {
    let root = json!({
        "$id": "https://example.com/row.json",
        "definitions": {
            "money": { "type": "object", "properties": { "amount": { "type": "number" } } },
            "node": { "type": "object", "properties": { "value": { "type": "integer" }, "next": { "$ref": "#/definitions/node" } } },
        },
        "type": "object",
        "properties": {
            "price": { "$ref": "#/definitions/money" },
            "again": { "$ref": "https://example.com/row.json#/definitions/money" },
            "list": { "$ref": "#/definitions/node" },
            "home": { "$ref": "address.json" },
            "code": { "$ref": "https://example.com/address.json#/$defs/code" },
            "gone": { "$ref": "#/definitions/gone" },
        },
    });
    let address = json!({
        "$defs": { "code": { "type": "string" } },
        "type": "object",
        "properties": { "code": { "$ref": "#/$defs/code" }, "city": { "type": "string" } },
    });
    let schema = JsonSchema::parse(&root.to_string(), &[("address.json", &address.to_string())]).expect("a schema");
    assert_eq!(
        columns(&schema),
        [
            "price: struct<amount: double>",
            "again: struct<amount: double>",
            "list: struct<value: long>",
            "home: struct<code: string, city: string>",
            "code: string",
        ]
    );
}

#[test]
fn what_is_no_schema_of_objects_is_refused_and_endless_ones_are() {
    let refused = |text: &str| JsonSchema::parse(text, &[]).expect_err(text).to_string();
    assert!(refused("{").contains("the schema is no JSON"));
    assert!(refused(r#"{"type":"string"}"#).contains("rows of the schema are no objects"));
    assert!(JsonSchema::parse("{}", &[]).expect("says nothing").fields().is_empty());
    // Each level refers twice to the one below it.
    let mut definitions = Map::new();
    definitions.insert("d0".to_owned(), json!({ "type": "integer" }));
    for level in 1..30 {
        let below = json!({ "$ref": format!("#/definitions/d{}", level - 1) });
        definitions.insert(format!("d{level}"), json!({ "properties": { "a": below, "b": below } }));
    }
    let root = json!({ "definitions": definitions, "properties": { "top": { "$ref": "#/definitions/d29" } } });
    assert!(refused(&root.to_string()).contains("more than 100000 fields"));
}

#[test]
fn a_table_lacks_what_a_schema_has_more_of() {
    let schema = schema(&json!({ "properties": {
        "a": { "type": "integer" },
        "b": { "type": "number" },
        "o": { "properties": { "x": { "type": "integer" }, "y": { "type": "string" } } },
        "l": { "type": "array", "items": { "type": "integer" } },
        "new": { "type": "string", "format": "date" },
        "A": { "type": "string" },
    } }));
    let held = crate::decode::type_text::schema_of(
        &[("a", "int"), ("b", "float"), ("o", "struct<x: int>"), ("l", "list<int>")].map(|(name, kind)| {
            crate::config::ColumnConfig { name: name.to_owned(), kind: kind.to_owned(), required: false }
        }),
    )
    .expect("valid");
    let plan = StructPlan::of_row(held.as_struct().fields(), BTreeSet::new()).expect("valid");
    let needs = schema.needs(&plan);
    let id = |name: &str| held.field_id_by_name(name).expect(name);
    let long = PrimitiveType::Long;
    let widened =
        [(id("a"), long.clone()), (id("b"), PrimitiveType::Double), (id("o.x"), long.clone()), (id("l.element"), long)];
    assert_eq!(needs.widened, BTreeMap::from(widened));
    let added: Vec<(Option<i32>, Vec<&str>)> =
        needs.added.iter().map(|(parent, shape)| (*parent, shape.fields().map(|(name, _)| name).collect())).collect();
    assert_eq!(added, [(None, vec!["new"]), (Some(id("o")), vec!["y"])]);
}
