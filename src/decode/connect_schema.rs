//! Kafka Connect's schemas, as its JSON converter writes them, read into the types that Avro's are read into: so that one
//! thing lays either onto a table (`avro_fit`). What its Avro converters keep of them in an Avro schema is read by the same names.
//!
//! Logical types are told by their names: Connect's own and Debezium's. A name that is not known says nothing: the value is
//! what its type is.

use std::collections::HashSet;
use std::sync::Arc;

use iceberg::spec::PrimitiveType;
use serde_json::Value;

use crate::decode::avro_schema::{AvroType, Branch, Record, Unit};
use crate::decode::fault::excerpt;
use crate::decode::scan::DEPTH_MAX;
use crate::error::{Error, ErrorKind, Result};

/// Digits of a decimal whose schema does not say how many.
const DIGITS_MAX: u32 = 38;

/// The parameter that says how many.
const PRECISION: &str = "connect.decimal.precision";

/// What Connect calls decimals of one scale, and Debezium those of any.
const DECIMAL: &str = "org.apache.kafka.connect.data.Decimal";
pub(crate) const ANY_SCALE: &str = "io.debezium.data.VariableScaleDecimal";

/// What a schema is read with: how deep it is already.
type Depth = usize;

fn wrong(text: impl Into<String>) -> Error {
    Error::new(ErrorKind::Input, text)
}

/// The fields of a struct's schema.
///
/// # Errors
/// `Input` when it is no schema of a struct, or is nested too deep.
pub(crate) fn record(schema: &Value) -> Result<Record> {
    match schema.get("type").and_then(Value::as_str) {
        Some("struct") => fields(schema, 1),
        Some(other) => Err(wrong(format!("the schema is {other}, not a struct, and has no fields"))),
        None => Err(wrong("the schema says no `type`")),
    }
}

/// The schema of a struct's field.
pub(crate) fn member<'a>(schema: &'a Value, name: &str) -> Option<&'a Value> {
    let fields = schema.get("fields")?.as_array()?;
    fields.iter().find(|field| field.get("field").and_then(Value::as_str) == Some(name))
}

/// The same fields, each of which may be null.
pub(crate) fn relaxed(record: &Record) -> Record {
    Record::new(record.fields.iter().map(|(name, kind)| (name.clone(), nullable(kind.clone()))).collect())
}

fn nullable(kind: AvroType) -> AvroType {
    if matches!(kind, AvroType::Union(_)) {
        return kind;
    }
    let branch = |name: &str, kind| Branch { name: name.to_owned(), kind };
    AvroType::Union(Arc::new([branch("null", AvroType::Null), branch("value", kind)]))
}

fn fields(schema: &Value, depth: Depth) -> Result<Record> {
    let list = schema.get("fields").and_then(Value::as_array).ok_or_else(|| wrong("a struct has no `fields`"))?;
    let (mut fields, mut names) = (Vec::with_capacity(list.len()), HashSet::new());
    for field in list {
        let name = field.get("field").and_then(Value::as_str).unwrap_or_default();
        if name.is_empty() || !names.insert(name) {
            return Err(wrong("a field has no name, or that of another"));
        }
        let kind = kind(field, depth + 1).map_err(|error| error.within(format_args!("field {name}")))?;
        fields.push((name.to_owned(), kind));
    }
    Ok(Record::new(fields))
}

fn kind(schema: &Value, depth: Depth) -> Result<AvroType> {
    if depth > DEPTH_MAX {
        return Err(wrong(format!("nested deeper than {DEPTH_MAX} levels")));
    }
    let Value::Object(object) = schema else {
        return Err(wrong(format!("{} is no schema", excerpt(&schema.to_string()))));
    };
    let text = |name: &str| object.get(name).and_then(Value::as_str);
    let inner = |name: &str| object.get(name).ok_or_else(|| wrong(format!("there is no `{name}`")));
    let (word, name) = (text("type").ok_or_else(|| wrong("a schema says no `type`"))?, text("name").unwrap_or(""));
    let kind = match word {
        "boolean" => AvroType::Boolean,
        "int8" | "int16" | "int32" => int(name),
        "int64" => long(name),
        "float" | "float32" => AvroType::Float,
        "double" | "float64" => AvroType::Double,
        "string" => characters(name),
        "bytes" if name == DECIMAL => decimal(object.get("parameters"))?,
        "bytes" => AvroType::Bytes,
        "array" => AvroType::Array(Arc::new(kind(inner("items")?, depth + 1)?)),
        "map" => {
            let keys = inner("keys")?;
            let (key, value) = (kind(keys, depth + 1)?, kind(inner("values")?, depth + 1)?);
            match keys.get("type").and_then(Value::as_str) {
                // Whether they may be null and what they are called matters no more to the converter.
                Some("string") => AvroType::Map(Arc::new(value)),
                // The converter writes it as an array of pairs.
                _ => {
                    let pair = Record::new(vec![("key".to_owned(), key), ("value".to_owned(), value)]);
                    AvroType::Array(Arc::new(AvroType::Record(Arc::new(pair))))
                }
            }
        }
        "struct" if name == ANY_SCALE => AvroType::ScaledDecimal(None),
        "struct" => AvroType::Record(Arc::new(fields(schema, depth)?)),
        other => return Err(wrong(format!("{} is no type", excerpt(other)))),
    };
    Ok(if object.get("optional") == Some(&Value::Bool(true)) { nullable(kind) } else { kind })
}

/// The type that a name of Connect's or Debezium's, with the parameters beside it, makes of a plain one of Avro's; none where it
/// says nothing of it.
pub(crate) fn named(kind: &AvroType, name: &str, parameters: Option<&Value>) -> Option<AvroType> {
    let named = match kind {
        AvroType::Int => int(name),
        AvroType::Long => long(name),
        AvroType::String => characters(name),
        AvroType::Bytes if name == DECIMAL => decimal(parameters).ok()?,
        _ => return None,
    };
    (named != *kind).then_some(named)
}

fn int(name: &str) -> AvroType {
    match name {
        "org.apache.kafka.connect.data.Date" | "io.debezium.time.Date" => AvroType::Date,
        "org.apache.kafka.connect.data.Time" | "io.debezium.time.Time" => AvroType::TimeMillis,
        _ => AvroType::Int,
    }
}

fn long(name: &str) -> AvroType {
    let stamp = |unit, zone| AvroType::Timestamp { unit, zone };
    match name {
        "org.apache.kafka.connect.data.Timestamp" => stamp(Unit::Millis, true),
        "io.debezium.time.Timestamp" => stamp(Unit::Millis, false),
        "io.debezium.time.MicroTimestamp" => stamp(Unit::Micros, false),
        "io.debezium.time.NanoTimestamp" => stamp(Unit::Nanos, false),
        "io.debezium.time.MicroTime" => AvroType::TimeMicros,
        "io.debezium.time.NanoTime" => AvroType::TimeNanos,
        _ => AvroType::Long,
    }
}

fn characters(name: &str) -> AvroType {
    match name {
        "io.debezium.time.ZonedTimestamp" => AvroType::Moment(PrimitiveType::Timestamptz),
        "io.debezium.time.IsoTimestamp" => AvroType::Moment(PrimitiveType::Timestamp),
        "io.debezium.time.IsoDate" => AvroType::Moment(PrimitiveType::Date),
        "io.debezium.time.IsoTime" => AvroType::Moment(PrimitiveType::Time),
        "io.debezium.data.Uuid" => AvroType::Uuid,
        _ => AvroType::String,
    }
}

/// Whether the parameters of a decimal say its digits.
pub(crate) fn says_digits(parameters: Option<&Value>) -> bool {
    parameters.is_some_and(|parameters| parameters.get(PRECISION).is_some())
}

fn decimal(parameters: Option<&Value>) -> Result<AvroType> {
    let parameter = |name: &str| parameters?.get(name)?.as_str()?.parse::<i32>().ok();
    let scale = parameter("scale").ok_or_else(|| wrong("a Decimal says no `scale`"))?;
    let digits = |number: i32| u32::try_from(number).ok().filter(|digits| *digits <= DIGITS_MAX);
    let Some(fraction) = digits(scale) else { return Ok(AvroType::ScaledDecimal(Some(scale))) };
    let precision = parameter(PRECISION).and_then(digits).unwrap_or(DIGITS_MAX);
    Ok(AvroType::Decimal { precision: precision.max(fraction).max(1), scale: fraction, width: None })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn of(schema: &Value) -> Result<AvroType> {
        kind(schema, 1)
    }

    #[test]
    fn names_of_logical_types_are_heard_and_others_are_not() {
        let named = |word: &str, name: &str| of(&json!({ "type": word, "name": name, "optional": false })).expect(name);
        assert_eq!(named("int32", "io.debezium.time.Date"), AvroType::Date);
        assert_eq!(named("int16", "io.debezium.time.Date"), AvroType::Date);
        assert_eq!(named("int64", "io.debezium.time.MicroTime"), AvroType::TimeMicros);
        assert_eq!(named("int64", "io.debezium.time.NanoTime"), AvroType::TimeNanos);
        let micros = AvroType::Timestamp { unit: Unit::Micros, zone: false };
        assert_eq!(named("int64", "io.debezium.time.MicroTimestamp"), micros);
        let instant = AvroType::Timestamp { unit: Unit::Millis, zone: true };
        assert_eq!(named("int64", "org.apache.kafka.connect.data.Timestamp"), instant);
        assert_eq!(named("string", "io.debezium.data.Uuid"), AvroType::Uuid);
        assert_eq!(named("string", "io.debezium.data.Json"), AvroType::String);
        assert_eq!(named("int64", "com.example.Anything"), AvroType::Long);
        let decimal = |parameters: Value| {
            of(&json!({ "type": "bytes", "name": "org.apache.kafka.connect.data.Decimal", "parameters": parameters }))
        };
        let of_digits = |precision, scale| AvroType::Decimal { precision, scale, width: None };
        let both = json!({ "scale": "2", "connect.decimal.precision": "12" });
        assert_eq!(decimal(both).expect("valid"), of_digits(12, 2));
        assert_eq!(decimal(json!({ "scale": "2" })).expect("valid"), of_digits(38, 2));
        let wide = json!({ "scale": "2", "connect.decimal.precision": "50" });
        assert_eq!(decimal(wide).expect("valid"), of_digits(38, 2));
        assert_eq!(decimal(json!({ "scale": "-1" })).expect("valid"), AvroType::ScaledDecimal(Some(-1)));
        assert_eq!(decimal(json!({ "scale": "39" })).expect("valid"), AvroType::ScaledDecimal(Some(39)));
        assert!(decimal(json!({})).is_err());
    }

    #[test]
    fn what_is_no_schema_is_refused_with_its_place() {
        let error = |schema: Value| record(&schema).expect_err("refused").to_string();
        assert_eq!(error(json!({ "type": "int32" })), "the schema is int32, not a struct, and has no fields");
        assert_eq!(error(json!("struct")), "the schema says no `type`");
        let with = |field: Value| json!({ "type": "struct", "fields": [field] });
        assert_eq!(error(with(json!({ "type": "int32" }))), "a field has no name, or that of another");
        assert!(error(with(json!({ "field": "a", "type": "int7" }))).contains("field a"));
        assert!(error(with(json!({ "field": "a", "type": "array" }))).contains("there is no `items`"));
        let mut deep = json!({ "type": "int32" });
        for _ in 0..DEPTH_MAX {
            deep = json!({ "type": "array", "items": deep });
        }
        deep["field"] = json!("a");
        assert!(error(with(deep)).contains("nested deeper than"));
    }
}
