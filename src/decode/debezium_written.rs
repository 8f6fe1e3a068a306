//! What Connect's Avro converters make of a row that its JSON converter writes with a schema: an Avro schema, and the bytes.
#![cfg(test)]

use std::collections::BTreeSet;

use base64::Engine;
use serde_json::{Map, Value, json};

use crate::decode::append::BASE64;

/// The Avro schema of a Connect schema.
pub(crate) fn schema_of(connect: &Value) -> Value {
    kind(connect, &mut BTreeSet::new())
}

fn is_optional(connect: &Value) -> bool {
    connect["optional"] == json!(true)
}

/// Null is the second choice where there is a default that is not.
fn null_index(connect: &Value) -> i64 {
    i64::from(connect.get("default").is_some_and(|default| !default.is_null()))
}

fn kind(connect: &Value, named: &mut BTreeSet<String>) -> Value {
    let plain = plain(connect, named);
    match (is_optional(connect), null_index(connect)) {
        (false, _) => plain,
        (true, 0) => json!(["null", plain]),
        (true, _) => json!([plain, "null"]),
    }
}

fn plain(connect: &Value, named: &mut BTreeSet<String>) -> Value {
    let mut object = Map::new();
    let name = connect["name"].as_str();
    let word = match connect["type"].as_str().expect("a type") {
        "int8" | "int16" | "int32" => "int",
        "int64" => "long",
        "float32" => "float",
        "float64" => "double",
        "struct" => {
            let full = name.map_or_else(|| format!("ConnectDefault{}", named.len()), str::to_owned);
            if !named.insert(full.clone()) {
                return json!(full);
            }
            object.insert("name".to_owned(), json!(full));
            let fields = connect["fields"].as_array().expect("fields").iter();
            let fields = fields.map(|field| json!({ "name": field["field"], "type": kind(field, named) }));
            object.insert("fields".to_owned(), fields.collect());
            "record"
        }
        "array" => {
            object.insert("items".to_owned(), kind(&connect["items"], named));
            "array"
        }
        "map" => {
            object.insert("values".to_owned(), kind(&connect["values"], named));
            "map"
        }
        other => other,
    };
    object.insert("type".to_owned(), json!(word));
    if let Some(name) = name {
        object.insert("connect.version".to_owned(), json!(1));
        object.insert("connect.name".to_owned(), json!(name));
        for (connect_name, logical) in
            [("Date", "date"), ("Time", "time-millis"), ("Timestamp", "timestamp-millis"), ("Decimal", "decimal")]
        {
            if name == format!("org.apache.kafka.connect.data.{connect_name}") {
                object.insert("logicalType".to_owned(), json!(logical));
            }
        }
    }
    if let Some(parameters) = connect.get("parameters") {
        let number = |name: &str| parameters[name].as_str().and_then(|text| text.parse::<i64>().ok());
        object.insert("connect.parameters".to_owned(), parameters.clone());
        object.insert("scale".to_owned(), json!(number("scale").unwrap_or(0)));
        // Where nothing says how many, the converters say 64.
        object.insert("precision".to_owned(), json!(number("connect.decimal.precision").unwrap_or(64)));
    }
    Value::Object(object)
}

/// Appends the bytes of a value of a Connect schema, which is given as the JSON converter writes it.
pub(crate) fn write(connect: &Value, value: &Value, out: &mut Vec<u8>) {
    if is_optional(connect) {
        let null = null_index(connect);
        long(if value.is_null() { null } else { 1 - null }, out);
        if value.is_null() {
            return;
        }
    }
    match connect["type"].as_str().expect("a type") {
        "int8" | "int16" | "int32" | "int64" => long(value.as_i64().expect("a number"), out),
        "boolean" => out.push(u8::from(value.as_bool().expect("a boolean"))),
        "float" | "float32" => out.extend((value.as_f64().expect("a number") as f32).to_le_bytes()),
        "double" | "float64" => out.extend(value.as_f64().expect("a number").to_le_bytes()),
        "string" => block(value.as_str().expect("a string").as_bytes(), out),
        "bytes" => block(&BASE64.decode(value.as_str().expect("base64")).unwrap_or_else(|_| text(value)), out),
        "struct" => {
            for field in connect["fields"].as_array().expect("fields") {
                write(field, &value[field["field"].as_str().expect("a name")], out);
            }
        }
        "array" => {
            let items = value.as_array().expect("an array");
            if !items.is_empty() {
                long(i64::try_from(items.len()).expect("few"), out);
            }
            for item in items {
                write(&connect["items"], item, out);
            }
            long(0, out);
        }
        "map" => {
            let entries = value.as_object().expect("an object");
            if !entries.is_empty() {
                // The other way to write a block: a negative count, and its bytes.
                let mut block = Vec::new();
                for (key, value) in entries {
                    self::block(key.as_bytes(), &mut block);
                    write(&connect["values"], value, &mut block);
                }
                long(-i64::try_from(entries.len()).expect("few"), out);
                long(i64::try_from(block.len()).expect("short"), out);
                out.extend(block);
            }
            long(0, out);
        }
        other => panic!("no values of {other}"),
    }
}

fn text(value: &Value) -> Vec<u8> {
    value.as_str().unwrap_or_default().as_bytes().to_vec()
}

fn block(bytes: &[u8], out: &mut Vec<u8>) {
    long(i64::try_from(bytes.len()).expect("short"), out);
    out.extend(bytes);
}

fn long(value: i64, out: &mut Vec<u8>) {
    let mut left = ((value << 1) ^ (value >> 63)).cast_unsigned();
    while left >= 0x80 {
        out.push((left & 0x7f) as u8 | 0x80);
        left >>= 7;
    }
    out.push(left as u8);
}

/// A row behind the id of its schema.
pub(crate) fn framed(id: u32, datum: &[u8]) -> Vec<u8> {
    [&[0][..], &id.to_be_bytes(), datum].concat()
}

/// Rows of Connect's JSON converter in Avro: each behind the id of its schema, and the schemas, whose ids count from 1.
pub(crate) fn in_avro<S: AsRef<str>>(rows: &[S]) -> (Vec<Vec<u8>>, Vec<Value>) {
    let (mut schemas, mut written) = (Vec::<Value>::new(), Vec::new());
    for row in rows {
        let row: Value = serde_json::from_str(row.as_ref()).expect("JSON");
        let schema = schema_of(&row["schema"]);
        let at = schemas.iter().position(|held| *held == schema).unwrap_or_else(|| {
            schemas.push(schema);
            schemas.len() - 1
        });
        let mut datum = Vec::new();
        write(&row["schema"], &row["payload"], &mut datum);
        written.push(framed(u32::try_from(at + 1).expect("few"), &datum));
    }
    (written, schemas)
}
