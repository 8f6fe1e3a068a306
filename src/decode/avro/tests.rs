//! What Avro's own library encodes is read back, bad rows leave no trace, and schemas ask for the columns that they need.

use std::fmt::Write;

use apache_avro::types::Value;
use apache_avro::{Days, Decimal, Duration, Millis, Months, Schema as Encoding, to_avro_datum};
use arrow::array::{Array, AsArray};
use arrow::datatypes::{
    DataType, Date32Type, Decimal128Type, Float32Type, Float64Type, Int32Type, Int64Type, Time64MicrosecondType,
    TimeUnit, TimestampMicrosecondType, TimestampNanosecondType,
};
use iceberg::spec::{NestedField, PrimitiveType, Type};
use proptest::prelude::*;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use serde_json::{Value as Json, json};

use super::*;
use crate::decode::type_text::{schema_of, type_text};
use crate::model::batch::tests::raw;

/// A schema of these columns as configurations write them, ` not null` among it.
pub(crate) fn given(columns: &[(&str, &str)]) -> SchemaRef {
    let columns: Vec<_> = columns
        .iter()
        .map(|(name, kind)| {
            let (kind, required) = kind.strip_suffix(" not null").map_or((*kind, false), |kind| (kind, true));
            crate::config::ColumnConfig { name: (*name).to_owned(), kind: kind.to_owned(), required }
        })
        .collect();
    Arc::new(schema_of(&columns).expect("valid"))
}

fn record(fields: &[Json]) -> String {
    json!({ "type": "record", "name": "Row", "fields": fields }).to_string()
}

fn field(name: &str, kind: Json) -> Json {
    json!({ "name": name, "type": kind })
}

fn writer(text: &str) -> Arc<WriterSchema> {
    Arc::new(WriterSchema::parse(text, &[""; 0]).expect(text))
}

fn table(text: &str, nanos: bool) -> SchemaRef {
    Arc::new(table_schema(&writer(text), &BTreeMap::new(), GrowthLimits::default(), nanos).expect(text))
}

fn decoder(schema: &SchemaRef, text: &str, options: &AvroOptions) -> AvroDecoder {
    AvroDecoder::new(schema, Writers::Fixed(writer(text)), options).expect(text)
}

fn encoded(text: &str, fields: Vec<(&str, Value)>) -> Vec<u8> {
    let schema = Encoding::parse_str(text).expect(text);
    let fields = fields.into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
    to_avro_datum(&schema, Value::Record(fields)).expect("encodes")
}

/// Types by name of the words that a schema's text makes.
fn columns(fields: &[Json], nanos: bool) -> Vec<String> {
    let schema = table(&record(fields), nanos);
    let shown = |field: &iceberg::spec::NestedFieldRef| {
        let required = if field.required { " not null" } else { "" };
        format!("{}: {}{required}", field.name, type_text(&field.field_type))
    };
    schema.as_struct().fields().iter().map(shown).collect()
}

#[test]
fn each_avro_type_asks_for_its_column() {
    let logical = |base: &str, name: &str| json!({ "type": base, "logicalType": name });
    let address = json!({ "type": "record", "name": "A", "fields": [field("city", json!("string")), field("zip", json!(["null", "int"]))] });
    let fields = [
        field("b", json!("boolean")),
        field("i", json!(["null", "int"])),
        field("l", json!(["long", "null"])),
        field("f", json!("float")),
        field("d", json!("double")),
        field("bytes", json!("bytes")),
        field("s", json!("string")),
        field("fixed", json!({ "type": "fixed", "name": "F", "size": 5 })),
        field("enum", json!({ "type": "enum", "name": "E", "symbols": ["X"] })),
        field("date", logical("int", "date")),
        field("tms", logical("int", "time-millis")),
        field("tus", logical("long", "time-micros")),
        field("ts_ms", logical("long", "timestamp-millis")),
        field("ts_us", logical("long", "timestamp-micros")),
        field("ts_ns", logical("long", "timestamp-nanos")),
        field("lts_ms", logical("long", "local-timestamp-millis")),
        field("lts_ns", logical("long", "local-timestamp-nanos")),
        field("uuid", logical("string", "uuid")),
        field("uuid16", json!({ "type": "fixed", "name": "U", "size": 16, "logicalType": "uuid" })),
        field("dec", json!({ "type": "bytes", "logicalType": "decimal", "precision": 9, "scale": 2 })),
        field("period", json!({ "type": "fixed", "name": "P", "size": 12, "logicalType": "duration" })),
        field("o", address),
        field("same", json!(["null", "A"])),
        field("list", json!({ "type": "array", "items": ["null", "long"] })),
        field("full", json!({ "type": "array", "items": "string" })),
        field("map", json!({ "type": "map", "values": "double" })),
        field("either", json!(["null", "int", "string", "A"])),
        field("both", json!(["int", "string"])),
        field("only", json!(["int"])),
        field("nothing", json!("null")),
        field("void", json!({ "type": "array", "items": "null" })),
    ];
    let expected = [
        "b: boolean not null",
        "i: int",
        "l: long",
        "f: float not null",
        "d: double not null",
        "bytes: binary not null",
        "s: string not null",
        "fixed: fixed(5) not null",
        "enum: string not null",
        "date: date not null",
        "tms: time not null",
        "tus: time not null",
        "ts_ms: timestamptz not null",
        "ts_us: timestamptz not null",
        "ts_ns: timestamptz_ns not null",
        "lts_ms: timestamp not null",
        "lts_ns: timestamp_ns not null",
        "uuid: uuid not null",
        "uuid16: uuid not null",
        "dec: decimal(9, 2) not null",
        "period: fixed(12) not null",
        "o: struct<city: string not null, zip: int> not null",
        "same: struct<city: string not null, zip: int>",
        "list: list<long> not null",
        "full: list<string not null> not null",
        "map: map<string, double not null> not null",
        "either: struct<int: int, string: string, A: struct<city: string not null, zip: int>>",
        "both: struct<int: int, string: string> not null",
        "only: int not null",
    ];
    assert_eq!(columns(&fields, true), expected);
    let older: Vec<String> = columns(&fields, false).into_iter().filter(|column| column.contains("ts_ns")).collect();
    assert_eq!(older, ["ts_ns: timestamptz not null", "lts_ns: timestamp not null"]);
}

/// A type with up to `depth` levels, and a counter for names.
fn random_type(rng: &mut StdRng, depth: u32, names: &mut u32) -> Json {
    *names += 1;
    let name = format!("N{names}");
    let logical = |base: &str, name: &str| json!({ "type": base, "logicalType": name });
    let nested = if depth == 0 { 0 } else { 5 };
    match rng.random_range(0..24 + nested) {
        0 => json!("boolean"),
        1 | 2 => json!("int"),
        3 | 4 => json!("long"),
        5 => json!("float"),
        6 => json!("double"),
        7 => json!("bytes"),
        8 | 9 => json!("string"),
        10 => json!({ "type": "fixed", "name": name, "size": rng.random_range(1..20) }),
        11 => json!({ "type": "enum", "name": name, "symbols": ["RED", "GREEN", "BLUE"] }),
        12 => logical("int", "date"),
        13 => logical("int", "time-millis"),
        14 => logical("long", "time-micros"),
        15 => logical("long", "timestamp-millis"),
        16 => logical("long", "timestamp-micros"),
        17 => logical("long", "timestamp-nanos"),
        18 => logical("long", "local-timestamp-millis"),
        19 => logical("long", "local-timestamp-micros"),
        20 => logical("long", "local-timestamp-nanos"),
        21 => logical("string", "uuid"),
        22 => json!({ "type": "bytes", "logicalType": "decimal", "precision": 38, "scale": rng.random_range(0..9) }),
        23 => json!({ "type": "fixed", "name": name, "size": 12, "logicalType": "duration" }),
        24 => json!({ "type": "array", "items": random_type(rng, depth - 1, names) }),
        25 => json!({ "type": "map", "values": random_type(rng, depth - 1, names) }),
        26 => json!(["null", optional(rng, depth - 1, names)]),
        27 => json!(["long", "null", "string", { "type": "array", "items": random_type(rng, depth - 1, names) }]),
        _ => {
            let fields: Vec<Json> = (0..rng.random_range(1..4))
                .map(|i| field(&format!("f{i}"), random_type(rng, depth - 1, names)))
                .collect();
            json!({ "type": "record", "name": name, "fields": fields })
        }
    }
}

/// A type that is no union.
fn optional(rng: &mut StdRng, depth: u32, names: &mut u32) -> Json {
    loop {
        let kind = random_type(rng, depth, names);
        if !kind.is_array() {
            return kind;
        }
    }
}

fn random_text(rng: &mut StdRng) -> String {
    let letters = ['a', 'ß', '\u{0}', '"', '𝄞'];
    (0..rng.random_range(0..6)).map(|_| letters[rng.random_range(0..5)]).collect()
}

fn random_value(rng: &mut StdRng, schema: &Encoding) -> Value {
    let count = rng.random_range(0..4);
    match schema {
        Encoding::Null => Value::Null,
        Encoding::Boolean => Value::Boolean(rng.random()),
        Encoding::Int => Value::Int(rng.random()),
        Encoding::Long => Value::Long(rng.random()),
        Encoding::Float => Value::Float(rng.random_range(-1e9..1e9)),
        Encoding::Double => Value::Double(rng.random_range(-1e200..1e200)),
        Encoding::Bytes => Value::Bytes((0..count).map(|_| rng.random()).collect()),
        Encoding::String => Value::String(random_text(rng)),
        Encoding::Fixed(fixed) => Value::Fixed(fixed.size, (0..fixed.size).map(|_| rng.random()).collect()),
        Encoding::Enum(of) => {
            let index = rng.random_range(0..of.symbols.len());
            Value::Enum(u32::try_from(index).expect("small"), of.symbols[index].clone())
        }
        Encoding::Date => Value::Date(rng.random()),
        Encoding::TimeMillis => Value::TimeMillis(rng.random_range(0..86_400_000)),
        Encoding::TimeMicros => Value::TimeMicros(rng.random_range(0..86_400_000_000)),
        Encoding::TimestampMillis => Value::TimestampMillis(rng.random_range(i64::MIN / 1000..i64::MAX / 1000)),
        Encoding::TimestampMicros => Value::TimestampMicros(rng.random()),
        Encoding::TimestampNanos => Value::TimestampNanos(rng.random()),
        Encoding::LocalTimestampMillis => {
            Value::LocalTimestampMillis(rng.random_range(i64::MIN / 1000..i64::MAX / 1000))
        }
        Encoding::LocalTimestampMicros => Value::LocalTimestampMicros(rng.random()),
        Encoding::LocalTimestampNanos => Value::LocalTimestampNanos(rng.random()),
        Encoding::Uuid => Value::Uuid(uuid::Uuid::from_u128(rng.random())),
        Encoding::Decimal(_) => {
            let value: i128 = rng.random_range(-(10_i128.pow(38)) + 1..10_i128.pow(38));
            Value::Decimal(Decimal::from(value.to_be_bytes()))
        }
        Encoding::Duration => Value::Duration(Duration::new(Months::new(1), Days::new(rng.random()), Millis::new(3))),
        Encoding::Array(array) => Value::Array((0..count).map(|_| random_value(rng, &array.items)).collect()),
        Encoding::Map(map) => {
            Value::Map((0..count).map(|i| (format!("k{i}"), random_value(rng, &map.types))).collect())
        }
        Encoding::Union(union) => {
            let index = rng.random_range(0..union.variants().len());
            let value = random_value(rng, &union.variants()[index]);
            Value::Union(u32::try_from(index).expect("small"), Box::new(value))
        }
        Encoding::Record(record) => Value::Record(
            record.fields.iter().map(|field| (field.name.clone(), random_value(rng, &field.schema))).collect(),
        ),
        other => panic!("no values of {other:?}"),
    }
}

/// A value as the column for it must hold it.
fn expected(value: &Value, schema: &Encoding, out: &mut String) {
    let _ = match (value, schema) {
        (Value::Null, _) => write!(out, "null"),
        (Value::Boolean(v), _) => write!(out, "{v}"),
        (Value::Int(v) | Value::Date(v), _) => write!(out, "{v}"),
        (Value::TimeMillis(v), _) => write!(out, "{}", i64::from(*v) * 1000),
        (Value::TimestampMillis(v) | Value::LocalTimestampMillis(v), _) => write!(out, "{}", v * 1000),
        (
            Value::Long(v)
            | Value::TimeMicros(v)
            | Value::TimestampMicros(v)
            | Value::TimestampNanos(v)
            | Value::LocalTimestampMicros(v)
            | Value::LocalTimestampNanos(v),
            _,
        ) => write!(out, "{v}"),
        (Value::Float(v), _) => write!(out, "{v:?}"),
        (Value::Double(v), _) => write!(out, "{v:?}"),
        (Value::Bytes(v) | Value::Fixed(_, v), _) => write!(out, "{v:?}"),
        (Value::String(v) | Value::Enum(_, v), _) => write!(out, "{v:?}"),
        (Value::Uuid(v), _) => write!(out, "{:?}", v.as_bytes()),
        (Value::Duration(v), _) => write!(out, "{:?}", <[u8; 12]>::from(*v)),
        (Value::Decimal(v), _) => {
            let bytes: Vec<u8> = v.try_into().expect("bytes");
            write!(out, "{}", i128::from_be_bytes(bytes.try_into().expect("16 of them")))
        }
        (Value::Array(values), Encoding::Array(array)) => {
            out.push('[');
            for value in values {
                expected(value, &array.items, out);
                out.push(',');
            }
            write!(out, "]")
        }
        (Value::Map(values), Encoding::Map(map)) => {
            out.push('{');
            let sorted: BTreeMap<_, _> = values.iter().map(|(key, value)| (format!("{key:?}"), value)).collect();
            for (key, value) in sorted {
                let _ = write!(out, "{key}:");
                expected(value, &map.types, out);
                out.push(',');
            }
            write!(out, "}}")
        }
        (Value::Record(fields), Encoding::Record(record)) => {
            out.push('(');
            for ((_, value), field) in fields.iter().zip(&record.fields) {
                expected(value, &field.schema, out);
                out.push(',');
            }
            write!(out, ")")
        }
        (Value::Union(_, value), Encoding::Union(_)) if **value == Value::Null => write!(out, "null"),
        (Value::Union(at, value), Encoding::Union(union)) if union.variants().len() == 2 => {
            expected(value, &union.variants()[*at as usize], out);
            Ok(())
        }
        (Value::Union(at, value), Encoding::Union(union)) => {
            out.push('(');
            for (index, variant) in union.variants().iter().enumerate().filter(|(_, v)| **v != Encoding::Null) {
                if index == *at as usize {
                    expected(value, variant, out);
                } else {
                    out.push_str("null");
                }
                out.push(',');
            }
            write!(out, ")")
        }
        other => panic!("{other:?}"),
    };
}

/// A value as an array holds it.
pub(crate) fn held(array: &dyn Array, at: usize, out: &mut String) {
    if array.is_null(at) {
        out.push_str("null");
        return;
    }
    let micros = |a: &dyn Array| a.as_primitive::<TimestampMicrosecondType>().value(at);
    let _ = match array.data_type() {
        DataType::Boolean => write!(out, "{}", array.as_boolean().value(at)),
        DataType::Int32 => write!(out, "{}", array.as_primitive::<Int32Type>().value(at)),
        DataType::Date32 => write!(out, "{}", array.as_primitive::<Date32Type>().value(at)),
        DataType::Int64 => write!(out, "{}", array.as_primitive::<Int64Type>().value(at)),
        DataType::Time64(_) => write!(out, "{}", array.as_primitive::<Time64MicrosecondType>().value(at)),
        DataType::Timestamp(TimeUnit::Microsecond, _) => write!(out, "{}", micros(array)),
        DataType::Timestamp(..) => write!(out, "{}", array.as_primitive::<TimestampNanosecondType>().value(at)),
        DataType::Float32 => write!(out, "{:?}", array.as_primitive::<Float32Type>().value(at)),
        DataType::Float64 => write!(out, "{:?}", array.as_primitive::<Float64Type>().value(at)),
        DataType::Decimal128(..) => write!(out, "{}", array.as_primitive::<Decimal128Type>().value(at)),
        DataType::Utf8 => write!(out, "{:?}", array.as_string::<i32>().value(at)),
        DataType::LargeBinary => write!(out, "{:?}", array.as_binary::<i64>().value(at)),
        DataType::FixedSizeBinary(_) => write!(out, "{:?}", array.as_fixed_size_binary().value(at)),
        DataType::Struct(_) => {
            out.push('(');
            for column in array.as_struct().columns() {
                held(column, at, out);
                out.push(',');
            }
            write!(out, ")")
        }
        DataType::List(_) => {
            let values = array.as_list::<i32>().value(at);
            out.push('[');
            for index in 0..values.len() {
                held(&values, index, out);
                out.push(',');
            }
            write!(out, "]")
        }
        DataType::Map(..) => {
            let entries = array.as_map().value(at);
            let mut sorted = BTreeMap::new();
            for index in 0..entries.len() {
                let (mut key, mut value) = (String::new(), String::new());
                held(entries.column(0), index, &mut key);
                held(entries.column(1), index, &mut value);
                sorted.insert(key, value);
            }
            out.push('{');
            for (key, value) in sorted {
                let _ = write!(out, "{key}:{value},");
            }
            write!(out, "}}")
        }
        other => panic!("{other}"),
    };
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]
    #[test]
    fn what_avro_encodes_is_in_the_columns_and_cut_rows_leave_no_trace(seed in any::<u64>()) {
        let mut rng = StdRng::seed_from_u64(seed);
        let mut names = 0;
        let fields: Vec<Json> =
            (0..rng.random_range(1..6)).map(|i| field(&format!("c{i}"), random_type(&mut rng, 3, &mut names))).collect();
        let text = record(&fields);
        let encoding = Encoding::parse_str(&text).expect("valid");
        let (mut rows, mut wanted, mut bad) = (Vec::new(), Vec::new(), 0);
        for _ in 0..20 {
            let value = random_value(&mut rng, &encoding);
            let row = to_avro_datum(&encoding, value.clone()).expect("encodes");
            // Half a row, and one with something behind it: both are no rows, and their neighbours do not notice.
            if rng.random_bool(0.3) {
                rows.push(row[..row.len() - 1].to_vec());
                rows.push([row.clone(), vec![0]].concat());
                bad += 2;
            }
            rows.push(row);
            let mut shown = String::new();
            expected(&value, &encoding, &mut shown);
            wanted.push(shown);
        }
        let schema = table(&text, true);
        let options = AvroOptions { nanos: true, ..AvroOptions::default() };
        let (batch, observed) = decoder(&schema, &text, &options).decode_observed(&raw(&rows));
        prop_assert!(observed.is_settled());
        prop_assert_eq!(batch.rejects.len(), bad);
        prop_assert_eq!(batch.rows.num_rows(), wanted.len());
        for (at, wanted) in wanted.iter().enumerate() {
            let mut shown = String::from("(");
            for column in batch.rows.columns() {
                held(column, at, &mut shown);
                shown.push(',');
            }
            shown.push(')');
            prop_assert_eq!(&shown, wanted);
        }
    }

    #[test]
    fn any_bytes_are_rows_or_rejects(rows in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..40), 0..20), seed in any::<u64>()) {
        let mut rng = StdRng::seed_from_u64(seed);
        let text = record(&[field("c", random_type(&mut rng, 3, &mut 0))]);
        let batch = decoder(&table(&text, true), &text, &AvroOptions::default()).decode_observed(&raw(&rows)).0;
        prop_assert_eq!(batch.source_rows.len() + batch.rejects.len(), rows.len());
    }
}

fn one_column(kind: PrimitiveType, required: bool) -> SchemaRef {
    let field = NestedField::new(1, "v", Type::Primitive(kind), required);
    Arc::new(Schema::builder().with_fields([Arc::new(field)]).build().expect("valid"))
}

/// What a value of an Avro type becomes in a column of a type: the value, or the reason.
fn one(kind: Json, value: Value, column: PrimitiveType) -> Result<String, String> {
    let text = record(&[field("v", kind)]);
    let options = AvroOptions { on_change: OnChange::Freeze, ..AvroOptions::default() };
    let row = encoded(&text, vec![("v", value)]);
    let mut batch = decoder(&one_column(column, false), &text, &options).decode_observed(&raw(&[row])).0;
    match batch.rejects.pop() {
        Some(reject) => {
            assert_eq!(reject.field, "v");
            Err(reject.reason)
        }
        None => {
            let mut shown = String::new();
            held(batch.rows.column(0), 0, &mut shown);
            Ok(shown)
        }
    }
}

#[test]
fn a_value_is_taken_where_its_column_can_hold_it_and_refused_where_not() {
    use PrimitiveType as P;
    let decimal = |precision, scale| P::Decimal { precision, scale };
    let cents = || json!({ "type": "bytes", "logicalType": "decimal", "precision": 9, "scale": 2 });
    let money = |value: i32| Value::Decimal(Decimal::from(value.to_be_bytes()));
    let at = |unit: &str| json!({ "type": "long", "logicalType": format!("timestamp-{unit}") });
    let debezium = |name: &str| json!({ "type": "string", "connect.name": format!("io.debezium.time.{name}") });
    let wide = || {
        json!({ "type": "bytes", "connect.name": "org.apache.kafka.connect.data.Decimal",
            "connect.parameters": { "scale": "40" } })
    };
    let (digits, range) = ("the value has more than the 4 digits of the column", "is out of the column's range");
    for (kind, value, column, wanted) in [
        (json!("int"), Value::Int(-7), P::Long, Ok("-7")),
        (json!("int"), Value::Int(7), P::Double, Ok("7.0")),
        (json!("int"), Value::Int(7), P::Float, Ok("7.0")),
        (json!("long"), Value::Long(7), P::Double, Ok("7.0")),
        (json!("long"), Value::Long(7), P::Int, Ok("7")),
        (json!("long"), Value::Long(1 << 40), P::Int, Err("1099511627776 is no int")),
        (json!("float"), Value::Float(0.5), P::Double, Ok("0.5")),
        (json!("double"), Value::Double(0.5), P::Float, Ok("0.5")),
        (json!("double"), Value::Double(1e300), P::Float, Err("is no float")),
        (json!("string"), Value::String("é".into()), P::Binary, Ok("[195, 169]")),
        (json!("bytes"), Value::Bytes(vec![195, 169]), P::String, Ok("\"é\"")),
        (json!("bytes"), Value::Bytes(vec![195]), P::String, Err("invalid UTF-8 after byte 0")),
        (json!("bytes"), Value::Bytes(vec![1, 2]), P::Fixed(2), Ok("[1, 2]")),
        (json!("bytes"), Value::Bytes(vec![1]), P::Fixed(2), Err("1 bytes where 2 are expected")),
        (json!("string"), Value::String("nil".into()), P::Uuid, Err("\"nil\" is no uuid")),
        (json!("string"), Value::String("2026-01-31".into()), P::Date, Ok("20484")),
        (json!("string"), Value::String("1970-01-01T00:00:01Z".into()), P::Timestamptz, Ok("1000000")),
        (json!("string"), Value::String("soon".into()), P::Timestamptz, Err("\"soon\" is no timestamptz")),
        // What Debezium writes is taken where it is Debezium's.
        (json!("string"), Value::String("infinity".into()), P::Timestamptz, Err("\"infinity\" is no timestamptz")),
        (json!("string"), Value::String("2026-01-31Z".into()), P::Date, Err("\"2026-01-31Z\" is no date")),
        (json!("string"), Value::String("10:00:00+02:00Z".into()), P::Time, Err("\"10:00:00+02:00Z\" is no time")),
        (debezium("ZonedTimestamp"), Value::String("infinity".into()), P::Timestamptz, Ok("9223372036825200000")),
        (debezium("IsoDate"), Value::String("2026-01-31Z".into()), P::Date, Ok("20484")),
        (debezium("IsoDate"), Value::String("2026-01-32Z".into()), P::Date, Err("\"2026-01-32Z\" is no date")),
        (debezium("IsoTime"), Value::String("10:00:00Z".into()), P::Time, Ok("36000000000")),
        (debezium("IsoTime"), Value::String("10:00:00+02:00Z".into()), P::Time, Err("\"10:00:00+02:00Z\" is no time")),
        // In columns of other types it is a plain text.
        (debezium("ZonedTimestamp"), Value::String("x".into()), P::Binary, Ok("[120]")),
        (debezium("IsoDate"), Value::String("1970-01-02".into()), P::Timestamp, Ok("86400000000")),
        (
            debezium("IsoDate"),
            Value::String("1970-01-02Z".into()),
            P::Timestamp,
            Err("\"1970-01-02Z\" is no timestamp"),
        ),
        (wide(), Value::Bytes(vec![1, 2]), P::Fixed(2), Ok("[1, 2]")),
        (cents(), money(2), P::Fixed(4), Ok("[0, 0, 0, 2]")),
        (json!("long"), Value::Long(1_500), P::Timestamptz, Ok("1500000")),
        (json!("long"), Value::Long(i64::MAX), P::Timestamptz, Err(range)),
        (at("millis"), Value::TimestampMillis(i64::MAX), P::Timestamptz, Err(range)),
        (at("micros"), Value::TimestampMicros(7), P::TimestamptzNs, Ok("7000")),
        (at("nanos"), Value::TimestampNanos(-1), P::Timestamptz, Ok("-1")),
        (at("micros"), Value::TimestampMicros(7), P::Long, Ok("7")),
        (cents(), money(123), decimal(11, 4), Ok("12300")),
        (cents(), money(120), decimal(9, 1), Ok("12")),
        (cents(), money(123), decimal(9, 1), Err("more digits after the point")),
        (cents(), money(99_999), decimal(4, 2), Err(digits)),
        (json!("string"), Value::String("7".into()), P::Long, Err("string in the writer's schema, long in the table")),
        (json!(["null", "string"]), Value::Union(0, Box::new(Value::Null)), P::Long, Ok("null")),
    ] {
        match (one(kind.clone(), value, column.clone()), wanted) {
            (Ok(shown), Ok(wanted)) => assert_eq!(shown, wanted, "{kind} into {column}"),
            (Err(shown), Err(wanted)) => assert!(shown.contains(wanted), "{kind} into {column}: {shown}"),
            (shown, wanted) => panic!("{kind} into {column}: {shown:?}, not {wanted:?}"),
        }
    }
}

#[test]
fn decimals_of_every_width_are_exact_or_refused() {
    let narrow = Decimal128::of(4);
    assert_eq!(narrow.read(&[0]), Ok(0));
    assert!(narrow.read(&[]).is_err_and(|reason| reason.contains("a decimal without bytes")));
    assert_eq!(narrow.read(&[0xff]), Ok(-1));
    assert_eq!(narrow.read(&[[0xff; 30].as_slice(), &[0xd8, 0xf1]].concat()), Ok(-9999));
    assert_eq!(narrow.read(&[[0; 30].as_slice(), &[0x27, 0x0f]].concat()), Ok(9999));
    // Small but for what lies above the 16 bytes that are read.
    let (low, minus_one) = ([&[0xff][..], &[0; 15], &[5]].concat(), [&[0][..], &[0xff; 16]].concat());
    for long in [
        low,
        minus_one,
        vec![0x27, 0x10],
        vec![1; 17],
        [&[0xff][..], &[0x7f; 16]].concat(),
        [&[0][..], &[0x80; 16]].concat(),
    ] {
        assert!(narrow.read(&long).is_err(), "{long:?}");
    }
}

/// A decimal column of so many digits.
struct Decimal128(PrimitiveType);

impl Decimal128 {
    fn of(precision: u32) -> Self {
        Self(PrimitiveType::Decimal { precision, scale: 0 })
    }

    fn read(&self, bytes: &[u8]) -> Result<i128, String> {
        let kind = json!({ "type": "bytes", "logicalType": "decimal", "precision": 38, "scale": 0 });
        let text = record(&[field("v", kind)]);
        let length = u8::try_from(bytes.len() * 2).expect("short");
        let options = AvroOptions { on_change: OnChange::Quarantine, ..AvroOptions::default() };
        let rows = raw(&[[&[length][..], bytes].concat()]);
        let batch = decoder(&one_column(self.0.clone(), false), &text, &options).decode_observed(&rows).0;
        match batch.rejects.first() {
            Some(reject) => Err(reject.reason.clone()),
            None => Ok(batch.rows.column(0).as_primitive::<Decimal128Type>().value(0)),
        }
    }
}

#[test]
fn a_schema_asks_for_what_the_table_lacks_once_and_only_where_a_row_is_of_it() {
    let table = one_column(PrimitiveType::Int, true);
    let text = record(&[
        field("w", json!({ "type": "record", "name": "W", "fields": [field("x", json!("string"))] })),
        field("V", json!(["null", "int"])),
    ]);
    let decoder = decoder(&table, &text, &AvroOptions::default());
    // Too many bytes: nobody's row.
    assert!(decoder.decode_observed(&raw(&[vec![2, b'a', 0, 9]])).1.is_settled());
    let (batch, observed) = decoder.decode_observed(&raw(&[vec![2, b'a', 0], vec![2, b'b', 0]]));
    assert_eq!(batch.rows.num_rows(), 0, "nothing is final before the schema has changed");
    assert_eq!(observed.relaxed, BTreeSet::from([1]));
    let added: Vec<_> = observed.added.values().flat_map(|shape| shape.fields()).map(|(name, _)| name).collect();
    assert_eq!(added, ["w"], "V differs from v in case only");
    let quarantined = decoder.decode_as(&raw(&[vec![2, b'a', 0]]), OnChange::Quarantine);
    assert!(quarantined.1.is_settled());
    assert_eq!(
        (quarantined.0.rejects[0].field.as_str(), quarantined.0.rejects[0].reason.as_str()),
        ("w", "the table has no such column")
    );
    let wide = record(&[field("v", json!("long"))]);
    let (_, observed) = self::decoder(&table, &wide, &AvroOptions::default()).decode_observed(&raw(&[vec![2]]));
    assert_eq!(observed.widened, BTreeMap::from([(1, PrimitiveType::Long)]));
}

#[test]
fn a_null_in_a_required_column_asks_for_an_optional_one_and_is_refused_where_it_cannot_be() {
    let table = one_column(PrimitiveType::Int, true);
    let text = record(&[field("v", json!(["null", "int"]))]);
    let decoder = decoder(&table, &text, &AvroOptions::default());
    assert!(decoder.decode_observed(&raw(&[vec![2, 8]])).1.is_settled(), "no null has come");
    let (batch, observed) = decoder.decode_observed(&raw(&[vec![2, 8], vec![0]]));
    assert_eq!(observed.relaxed, BTreeSet::from([1]));
    assert_eq!((batch.rows.num_rows(), batch.rejects.len()), (1, 1));
    let batch = decoder.decode_as(&raw(&[vec![2, 8], vec![0]]), OnChange::Quarantine).0;
    assert_eq!(batch.rejects[0].reason, "null, and the column is required");
}

#[test]
fn fields_without_a_column_are_counted_where_the_schema_is_frozen() {
    let text = record(&[field("v", json!("int")), field("more", json!(["null", "string"]))]);
    let options = AvroOptions { on_change: OnChange::Freeze, ..AvroOptions::default() };
    let decoder = decoder(&one_column(PrimitiveType::Int, false), &text, &options);
    let (batch, observed) = decoder.decode_observed(&raw(&[vec![2, 0], vec![4, 2, 2, b'x']]));
    assert_eq!((batch.rows.num_rows(), observed.ignored, observed.is_settled()), (2, 1, true));
}

#[test]
fn a_count_of_items_that_are_not_there_is_refused_at_once() {
    let text = record(&[
        field("v", json!({ "type": "array", "items": { "type": "record", "name": "E", "fields": [] } })),
        field("w", json!("int")),
    ]);
    let decoder = decoder(&one_column(PrimitiveType::Int, false), &text, &AvroOptions::default());
    let huge = [&[0xfe, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01][..], &[0, 2]].concat();
    let (batch, _) = decoder.decode_observed(&raw(&[huge]));
    assert!(batch.rejects[0].reason.contains("a block of more items than bytes are left"), "{:?}", batch.rejects);
}

#[test]
fn items_that_take_no_bytes_are_stepped_over_at_once_however_many_they_are_said_to_be() {
    let text = record(&[field("w", json!({ "type": "array", "items": "null" })), field("v", json!("int"))]);
    let decoder = decoder(&one_column(PrimitiveType::Int, false), &text, &AvroOptions::default());
    // Each block says that half a million items are in it: one by one they would take minutes.
    let row = [[0x80, 0x80, 0x40].repeat(1 << 15), vec![0; 1 << 20]].concat();
    let (batch, _) = decoder.decode_observed(&raw(&[row]));
    assert!(batch.rejects[0].reason.contains("bytes more than the schema has fields for"), "{:?}", batch.rejects);
}

#[test]
fn fields_beyond_the_limits_or_of_one_name_become_no_columns_and_the_others_do() {
    let mut deep = json!("int");
    for level in 0..5 {
        deep = json!({ "type": "record", "name": format!("D{level}"), "fields": [field("d", deep)] });
    }
    let wide: Vec<Json> = (0..9).map(|i| field(&format!("w{i}"), json!("int"))).collect();
    let text = record(&[
        field("deep", deep),
        field("wide", json!({ "type": "record", "name": "W", "fields": wide })),
        field(
            "o",
            json!({ "type": "record", "name": "O", "fields": [field("x", json!("int")), field("X", json!("int"))] }),
        ),
        field("_at", json!("int")),
        field("v", json!("int")),
        field("V", json!("int")),
    ]);
    let limits = GrowthLimits { columns_max: 9, depth_max: 3 };
    let metadata = BTreeMap::from([("_AT".to_owned(), MetadataColumn::Timestamp)]);
    let schema = table_schema(&writer(&text), &metadata, limits, false).expect("valid");
    let shown: Vec<_> =
        schema.as_struct().fields().iter().map(|f| format!("{}: {}", f.name, type_text(&f.field_type))).collect();
    assert_eq!(shown, ["o: struct<x: int not null>", "v: int"]);
}

#[test]
fn what_connect_says_beside_avros_types_is_heard() {
    let named = |base: &str, name: &str| json!({ "type": base, "connect.version": 1, "connect.name": name });
    let time = |base: &str, name: &str| named(base, &format!("io.debezium.time.{name}"));
    let decimal = |parameters: Json| {
        json!({ "type": "bytes", "scale": 2, "precision": 64, "connect.name": "org.apache.kafka.connect.data.Decimal",
            "connect.parameters": parameters, "logicalType": "decimal" })
    };
    let parts = [field("scale", json!("int")), field("value", json!("bytes"))];
    let any =
        json!({ "type": "record", "name": "VariableScaleDecimal", "namespace": "io.debezium.data", "fields": parts });
    let fields = [
        field("date", time("int", "Date")),
        field("time", time("int", "Time")),
        field("micro_time", time("long", "MicroTime")),
        field("nano_time", time("long", "NanoTime")),
        field("millis", time("long", "Timestamp")),
        field("micros", json!(["null", time("long", "MicroTimestamp")])),
        field("nanos", time("long", "NanoTimestamp")),
        field("zoned", time("string", "ZonedTimestamp")),
        field(
            "instant",
            json!({ "type": "long", "connect.name": "org.apache.kafka.connect.data.Timestamp", "logicalType": "timestamp-millis" }),
        ),
        field("uid", named("string", "io.debezium.data.Uuid")),
        field("json", named("string", "io.debezium.data.Json")),
        field("money", decimal(json!({ "scale": "2", "connect.decimal.precision": "12" }))),
        field("wide", decimal(json!({ "scale": "2" }))),
        field("low", decimal(json!({ "scale": "-1" }))),
        field("any", any),
        field("same", json!(["null", "io.debezium.data.VariableScaleDecimal"])),
        // Of another base, or of nobody's name: what the type is.
        field("odd", time("int", "MicroTimestamp")),
        field("own", named("long", "com.example.Own")),
    ];
    let expected = [
        "date: date not null",
        "time: time not null",
        "micro_time: time not null",
        "nano_time: time not null",
        "millis: timestamp not null",
        "micros: timestamp",
        "nanos: timestamp_ns not null",
        "zoned: timestamptz not null",
        "instant: timestamptz not null",
        "uid: uuid not null",
        "json: string not null",
        "money: decimal(12, 2) not null",
        "wide: decimal(38, 2) not null",
        "low: string not null",
        "any: string not null",
        "same: string",
        "odd: int not null",
        "own: long not null",
    ];
    assert_eq!(columns(&fields, true), expected);
}

#[test]
fn a_table_from_before_connects_names_were_heard_takes_what_it_took() {
    let text = record(&[
        field("stamp", json!({ "type": "long", "connect.name": "io.debezium.time.MicroTimestamp" })),
        field("day", json!({ "type": "int", "connect.name": "io.debezium.time.Date" })),
        field("zoned", json!({ "type": "string", "connect.name": "io.debezium.time.ZonedTimestamp" })),
        field("uid", json!({ "type": "string", "connect.name": "io.debezium.data.Uuid" })),
        field(
            "money",
            json!({ "type": "bytes", "connect.name": "org.apache.kafka.connect.data.Decimal", "connect.parameters": { "scale": "2" } }),
        ),
        field(
            "any",
            json!({ "type": "record", "name": "io.debezium.data.VariableScaleDecimal",
            "fields": [field("scale", json!("int")), field("value", json!("bytes"))] }),
        ),
    ]);
    let optional = |id, name: &str, kind| Arc::new(NestedField::optional(id, name, kind));
    let primitive = |id, name: &str, kind| optional(id, name, Type::Primitive(kind));
    use PrimitiveType as P;
    let parts = vec![primitive(7, "scale", P::Int), primitive(8, "value", P::Binary)];
    let of = |money: PrimitiveType| {
        let any = optional(6, "any", Type::Struct(iceberg::spec::StructType::new(parts.clone())));
        let fields = [
            primitive(1, "stamp", P::Long),
            primitive(2, "day", P::Int),
            primitive(3, "zoned", P::String),
            primitive(4, "uid", P::String),
            primitive(5, "money", money),
            any,
        ];
        Arc::new(Schema::builder().with_fields(fields).build().expect("valid"))
    };
    let row = [&[14, 6, 2][..], b"z", &[2, b'u', 4, 0x27, 0x29, 4, 2, 5]].concat();
    let shown = |money| {
        let batch =
            decoder(&of(money), &text, &AvroOptions::default()).decode_observed(&raw(std::slice::from_ref(&row))).0;
        assert!(batch.rejects.is_empty(), "{:?}", batch.rejects);
        let mut shown = String::new();
        for column in batch.rows.columns() {
            held(column, 0, &mut shown);
            shown.push(' ');
        }
        shown
    };
    assert_eq!(shown(P::Binary), "7 3 \"z\" \"u\" [39, 41] (2,[5],) ");
    assert_eq!(shown(P::String), "7 3 \"z\" \"u\" \"100.25\" (2,[5],) ");
}
