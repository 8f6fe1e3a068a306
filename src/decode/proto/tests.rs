//! What Protobuf's own library encodes is read back, bad rows leave no trace, and schemas ask for the columns that they need.

use std::collections::{BTreeSet, HashMap};
use std::fmt::Write;

use proptest::prelude::*;
use protox::prost::Message as _;
use protox::prost_reflect::{
    DescriptorPool, DynamicMessage, Kind as FieldKind, MapKey, MessageDescriptor, ReflectMessage, Value,
};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use serde_json::json;

use super::*;
use crate::config::load::from_text;
use crate::decode::avro::tests::{given, held};
use crate::decode::plan::StructPlan;
use crate::decode::proto_schema::described;
use crate::decode::registry::tests::{Shelf, config, serve};
use crate::decode::registry::{Registries, Registry};
use crate::decode::type_text::type_text;
use crate::decode::{Decoder, DecoderOptions, Format, Inference};
use crate::env::Env;
use crate::error::ErrorKind;
use crate::model::batch::tests::raw;
use crate::model::ids::PipelineName;

const ROW: &str = r#"
syntax = "proto3";
package t;
import "google/protobuf/timestamp.proto";
import "google/protobuf/wrappers.proto";
enum Colour { NONE = 0; RED = 1; BLUE = -2; }
message Inner { string name = 1; repeated sint32 numbers = 2; optional int64 at = 3; map<string, Leaf> leaves = 4; }
message Leaf { bool on = 1; oneof which { string text = 2; Leafs more = 3; } }
message Leafs { repeated string texts = 900; }
message Row {
  bool b = 1; int32 i = 2; int64 l = 3; uint32 u = 4; uint64 ul = 5; sint32 si = 6; sint64 sl = 7;
  fixed32 f32 = 8; fixed64 f64 = 9; sfixed32 sf32 = 10; sfixed64 sf64 = 11; float f = 12; double d = 13;
  string s = 14; bytes y = 15; Colour c = 16; Inner inner = 17; google.protobuf.Timestamp at = 18;
  optional string os = 20; optional bool ob = 21; optional double od = 22; optional Colour oc = 23; optional bytes oy = 24;
  repeated int64 rl = 30; repeated int64 unpacked = 31 [packed = false]; repeated string rs = 32; repeated Inner ri = 33;
  repeated Colour rc = 34; repeated fixed32 rf = 35; repeated double rd = 36; repeated bool rb = 37;
  map<string, int64> ms = 40; map<int32, Inner> mi = 41; map<string, Colour> mc = 42;
  oneof one { string note = 50; int32 count = 51; Inner box = 52; google.protobuf.Timestamp when = 53; }
  google.protobuf.Int64Value wl = 60; google.protobuf.StringValue ws = 61; google.protobuf.BoolValue wb = 62;
}
"#;

const OLD: &str = r#"
syntax = "proto2";
package t;
message Row {
  required int32 id = 1; optional string name = 2 [default = "x"]; repeated int32 plain = 3; repeated int32 packed = 4 [packed = true];
  optional group Part = 5 { required int64 a = 1; optional group Deep = 2 { optional string t = 1; } }
  repeated group Parts = 6 { optional bool b = 1; }
  extensions 100 to 200;
}
"#;

fn schema(text: &str) -> Arc<ProtoSchema> {
    Arc::new(ProtoSchema::of_file(text.as_bytes(), true, Some("t.Row")).expect(text))
}

fn fixed(text: &str) -> Writers<ProtoSchema> {
    Writers::Fixed(schema(text))
}

fn table(writers: &Writers<ProtoSchema>, rows: &[Vec<u8>]) -> SchemaRef {
    Arc::new(table_schema(writers, &raw(rows), &BTreeMap::new(), GrowthLimits::default()).expect("valid"))
}

fn decoder(schema: &SchemaRef, writers: &Writers<ProtoSchema>) -> ProtoDecoder {
    ProtoDecoder::new(schema, writers.clone(), &JsonOptions::default()).expect("valid")
}

fn columns(schema: &Schema) -> Vec<String> {
    let shown = |field: &iceberg::spec::NestedFieldRef| {
        format!("{}: {}{}", field.name, type_text(&field.field_type), if field.required { " not null" } else { "" })
    };
    schema.as_struct().fields().iter().map(shown).collect()
}

fn shown(batch: &Batch, at: usize) -> String {
    let mut out = String::from("(");
    for column in batch.rows.columns() {
        held(column, at, &mut out);
        out.push(',');
    }
    out.push(')');
    out
}

/// The reasons of rejects, with their places.
fn reasons(batch: &Batch) -> Vec<String> {
    batch.rejects.iter().map(|reject| format!("{}: {}", reject.field, reject.reason)).collect()
}

#[test]
fn each_protobuf_type_asks_for_its_column() {
    assert_eq!(
        columns(&table(&fixed(ROW), &[vec![]])),
        [
            "b: boolean not null",
            "i: int not null",
            "l: long not null",
            "u: long not null",
            "ul: decimal(20, 0) not null",
            "si: int not null",
            "sl: long not null",
            "f32: long not null",
            "f64: decimal(20, 0) not null",
            "sf32: int not null",
            "sf64: long not null",
            "f: float not null",
            "d: double not null",
            "s: string not null",
            "y: binary not null",
            "c: string not null",
            "inner: struct<name: string not null, numbers: list<int not null> not null, at: long, \
             leaves: map<string, struct<on: boolean not null, text: string, \
             more: struct<texts: list<string not null> not null>> not null> not null>",
            "at: timestamptz",
            "os: string",
            "ob: boolean",
            "od: double",
            "oc: string",
            "oy: binary",
            "rl: list<long not null> not null",
            "unpacked: list<long not null> not null",
            "rs: list<string not null> not null",
            "ri: list<struct<name: string not null, numbers: list<int not null> not null, at: long, \
             leaves: map<string, struct<on: boolean not null, text: string, \
             more: struct<texts: list<string not null> not null>> not null> not null> not null> not null",
            "rc: list<string not null> not null",
            "rf: list<long not null> not null",
            "rd: list<double not null> not null",
            "rb: list<boolean not null> not null",
            "ms: map<string, long not null> not null",
            "mi: map<int, struct<name: string not null, numbers: list<int not null> not null, at: long, \
             leaves: map<string, struct<on: boolean not null, text: string, \
             more: struct<texts: list<string not null> not null>> not null> not null> not null> not null",
            "mc: map<string, string not null> not null",
            "note: string",
            "count: int",
            "box: struct<name: string not null, numbers: list<int not null> not null, at: long, \
             leaves: map<string, struct<on: boolean not null, text: string, \
             more: struct<texts: list<string not null> not null>> not null> not null>",
            "when: timestamptz",
            "wl: long",
            "ws: string",
            "wb: boolean",
        ]
    );
    assert_eq!(
        columns(&table(&fixed(OLD), &[vec![]])),
        [
            "id: int not null",
            "name: string",
            "plain: list<int not null> not null",
            "packed: list<int not null> not null",
            "part: struct<a: long not null, deep: struct<t: string>>",
            "parts: list<struct<b: boolean> not null> not null",
        ]
    );
}

fn random_value(rng: &mut StdRng, kind: &FieldKind) -> Value {
    let text = |rng: &mut StdRng| (0..rng.random_range(0..5)).map(|_| rng.random::<char>()).collect::<String>();
    match kind {
        FieldKind::Bool => Value::Bool(rng.random()),
        FieldKind::Int32 | FieldKind::Sint32 | FieldKind::Sfixed32 => Value::I32(rng.random()),
        FieldKind::Int64 | FieldKind::Sint64 | FieldKind::Sfixed64 => Value::I64(rng.random()),
        FieldKind::Uint32 | FieldKind::Fixed32 => Value::U32(rng.random()),
        FieldKind::Uint64 | FieldKind::Fixed64 => Value::U64(rng.random()),
        FieldKind::Float => Value::F32(rng.random()),
        FieldKind::Double => Value::F64(rng.random()),
        FieldKind::String => Value::String(text(rng)),
        FieldKind::Bytes => Value::Bytes(text(rng).into_bytes().into()),
        FieldKind::Enum(_) => Value::EnumNumber(rng.random_range(-3..4)),
        FieldKind::Message(message) if message.full_name() == "google.protobuf.Timestamp" => {
            let mut stamp = DynamicMessage::new(message.clone());
            stamp.set_field_by_name("seconds", Value::I64(rng.random_range(-62_135_596_800..253_402_300_800)));
            stamp.set_field_by_name("nanos", Value::I32(rng.random_range(0..1_000_000_000)));
            Value::Message(stamp)
        }
        FieldKind::Message(message) => Value::Message(random_message(rng, message)),
    }
}

fn random_message(rng: &mut StdRng, descriptor: &MessageDescriptor) -> DynamicMessage {
    let mut message = DynamicMessage::new(descriptor.clone());
    for field in descriptor.fields() {
        let required = field.is_required();
        if !required && rng.random_bool(0.5) {
            continue;
        }
        let value = match field.kind() {
            FieldKind::Message(entry) if field.is_map() => {
                let mut map = HashMap::new();
                for _ in 0..rng.random_range(0..3) {
                    let key = match entry.map_entry_key_field().kind() {
                        FieldKind::Int32 => MapKey::I32(rng.random()),
                        _ => MapKey::String(format!("k{}", rng.random::<u64>())),
                    };
                    map.insert(key, random_value(rng, &entry.map_entry_value_field().kind()));
                }
                Value::Map(map)
            }
            kind if field.is_list() => {
                Value::List((0..rng.random_range(0..4)).map(|_| random_value(rng, &kind)).collect())
            }
            kind => random_value(rng, &kind),
        };
        message.set_field(&field, value);
    }
    message
}

/// A value as the column for it must hold it.
fn expected(value: &Value, kind: &FieldKind, out: &mut String) {
    let _ = match (value, kind) {
        (Value::Bool(v), _) => write!(out, "{v}"),
        (Value::I32(v), _) => write!(out, "{v}"),
        (Value::I64(v), _) => write!(out, "{v}"),
        (Value::U32(v), _) => write!(out, "{v}"),
        (Value::U64(v), _) => write!(out, "{v}"),
        (Value::F32(v), _) => write!(out, "{v:?}"),
        (Value::F64(v), _) => write!(out, "{v:?}"),
        (Value::String(v), _) => write!(out, "{v:?}"),
        (Value::Bytes(v), _) => write!(out, "{:?}", v.to_vec()),
        (Value::EnumNumber(v), FieldKind::Enum(names)) => match names.get_value(*v) {
            Some(name) => write!(out, "{:?}", name.name()),
            None => write!(out, "\"{v}\""),
        },
        (Value::Message(message), _) if message.descriptor().full_name() == "google.protobuf.Timestamp" => {
            let part = |name: &str| message.get_field_by_name(name).expect("there").into_owned();
            let seconds = part("seconds").as_i64().expect("a number");
            write!(out, "{}", seconds * 1_000_000 + i64::from(part("nanos").as_i32().expect("a number") / 1000))
        }
        (Value::Message(message), _) if message.descriptor().package_name() == "google.protobuf" => {
            let field = message.descriptor().get_field(1).expect("a wrapper");
            expected(&message.get_field(&field), &field.kind(), out);
            Ok(())
        }
        (Value::Message(message), _) => {
            *out += &expected_message(message);
            Ok(())
        }
        (Value::List(values), kind) => {
            out.push('[');
            for value in values {
                expected(value, kind, out);
                out.push(',');
            }
            write!(out, "]")
        }
        (Value::Map(entries), FieldKind::Message(entry)) => {
            let mut sorted = BTreeMap::new();
            for (key, value) in entries {
                let (mut shown_key, mut shown) = (String::new(), String::new());
                expected(&Value::from(key.clone()), &FieldKind::Bool, &mut shown_key);
                expected(value, &entry.map_entry_value_field().kind(), &mut shown);
                sorted.insert(shown_key, shown);
            }
            out.push('{');
            for (key, value) in sorted {
                let _ = write!(out, "{key}:{value},");
            }
            write!(out, "}}")
        }
        other => panic!("{other:?}"),
    };
}

fn expected_message(message: &DynamicMessage) -> String {
    let mut out = String::from("(");
    for declared in &message.descriptor().descriptor_proto().field {
        let field = message.descriptor().get_field_by_name(declared.name()).expect("declared");
        if field.supports_presence() && !message.has_field(&field) {
            out.push_str("null");
        } else {
            expected(&message.get_field(&field), &field.kind(), &mut out);
        }
        out.push(',');
    }
    out.push(')');
    out
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]
    #[test]
    fn what_protobuf_encodes_is_in_the_columns_and_broken_rows_leave_no_trace(seed in any::<u64>(), old in any::<bool>()) {
        let mut rng = StdRng::seed_from_u64(seed);
        let text = if old { OLD } else { ROW };
        let descriptor = described(text).expect("valid").get_message_by_name("t.Row").expect("there");
        let (mut rows, mut wanted, mut bad) = (Vec::new(), Vec::new(), 0);
        for _ in 0..12 {
            let mut row = random_message(&mut rng, &descriptor).encode_to_vec();
            if rng.random_bool(0.4) {
                // Behind each other they are one message: the last value counts, lists go on, messages are one.
                row.extend(random_message(&mut rng, &descriptor).encode_to_vec());
            }
            if rng.random_bool(0.3) && !row.is_empty() {
                rows.push(row[..row.len() - 1].to_vec());
                rows.push([row.clone(), vec![0]].concat());
                bad += 2;
            }
            wanted.push(expected_message(&DynamicMessage::decode(descriptor.clone(), row.as_slice()).expect("whole")));
            rows.push(row);
        }
        let writers = fixed(text);
        let (batch, observed) = decoder(&table(&writers, &rows), &writers).decode_observed(&raw(&rows));
        prop_assert!(observed.is_settled());
        prop_assert_eq!(batch.rejects.len(), bad, "{:?}", reasons(&batch));
        for (at, wanted) in wanted.iter().enumerate() {
            prop_assert_eq!(&shown(&batch, at), wanted);
        }
    }

    #[test]
    fn any_bytes_are_rows_or_rejects(rows in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..60), 0..20), old in any::<bool>()) {
        let writers = fixed(if old { OLD } else { ROW });
        let batch = decoder(&table(&writers, &[vec![]]), &writers).decode_observed(&raw(&rows)).0;
        prop_assert_eq!(batch.source_rows.len() + batch.rejects.len(), rows.len());
    }
}

#[test]
fn what_is_no_message_is_refused_with_the_place_of_the_byte() {
    let text = "syntax = \"proto3\"; package t; message In { int32 a = 1; } message Row { int32 i = 1; string s = 2; In in = 3; repeated In l = 4; }";
    let writers = fixed(text);
    let rows: Vec<Vec<u8>> = [
        &[8, 1][..],
        &[8],
        &[8, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 2],
        &[10, 1, 7],
        &[18, 9, b'a'],
        &[18, 2, 0xff, b'a'],
        &[0, 1],
        &[15],
        &[12],
        &[26, 3, 8, 1, 9],
        &[34, 0, 34, 2, 10, 0],
        &[8, 2],
    ]
    .map(<[u8]>::to_vec)
    .into();
    let batch = decoder(&table(&writers, &rows), &writers).decode_observed(&raw(&rows)).0;
    assert_eq!(batch.source_rows, [0, 11]);
    assert_eq!(
        reasons(&batch),
        [
            ": malformed Protobuf: the message ends at byte 1 in the middle of a value",
            ": malformed Protobuf: a number of more than 64 bits before byte 11",
            ": malformed Protobuf: bytes with a length where a varint should be before byte 1",
            ": malformed Protobuf: the message ends at byte 3 in the middle of a value",
            "s: invalid UTF-8 after byte 0",
            ": malformed Protobuf: no tag of a field before byte 1",
            ": malformed Protobuf: no tag of a field before byte 1",
            ": malformed Protobuf: the end of a group where a varint should be before byte 1",
            ": malformed Protobuf: 8 bytes where a varint should be before byte 5",
            ": malformed Protobuf: bytes with a length where a varint should be before byte 5",
        ]
    );
}

#[test]
fn a_value_is_taken_where_its_column_can_hold_it_and_refused_where_not() {
    let one = |kind: &str, value: Value, column: &str| -> String {
        let text =
            format!("syntax = \"proto3\"; package t; enum E {{ A = 0; B = 1; }} message Row {{ {kind} v = 1; }}");
        let descriptor = described(&text).expect("valid").get_message_by_name("t.Row").expect("there");
        let mut message = DynamicMessage::new(descriptor);
        message.set_field_by_name("v", value);
        let decoder = decoder(&given(&[("v", column)]), &fixed(&text));
        let batch = decoder.decode_as(&raw(&[message.encode_to_vec()]), OnChange::Quarantine).0;
        if batch.rows.num_rows() == 1 { shown(&batch, 0) } else { reasons(&batch).join(" ") }
    };
    let text = |text: &str| Value::String(text.to_owned());
    for (kind, value, column, expected) in [
        ("int32", Value::I32(-7), "long", "(-7,)"),
        ("int32", Value::I32(-7), "double", "(-7.0,)"),
        ("int32", Value::I32(3), "date", "(3,)"),
        ("int64", Value::I64(5), "int", "(5,)"),
        ("int64", Value::I64(1 << 40), "int", "v: 1099511627776 is no int"),
        ("int64", Value::I64(1500), "timestamp", "(1500000,)"),
        ("int64", Value::I64(12), "decimal(5, 2)", "(1200,)"),
        ("int64", Value::I64(1234), "decimal(5, 2)", "v: the value has more than the 5 digits of the column"),
        ("uint64", Value::U64(7), "long", "(7,)"),
        ("uint64", Value::U64(u64::MAX), "long", "v: 18446744073709551615 is no long"),
        ("uint64", Value::U64(u64::MAX), "decimal(20, 0)", "(18446744073709551615,)"),
        ("float", Value::F32(1.5), "double", "(1.5,)"),
        ("double", Value::F64(1e300), "float", "v: 1e300 is no float"),
        ("string", text("2026-01-01"), "date", "(20454,)"),
        ("string", text("soon"), "date", "v: \"soon\" is no date"),
        (
            "string",
            text("67e55044-10b1-426f-9247-bb680e5fe0c8"),
            "uuid",
            "([103, 229, 80, 68, 16, 177, 66, 111, 146, 71, 187, 104, 14, 95, 224, 200],)",
        ),
        ("string", text("a"), "binary", "([97],)"),
        ("bytes", Value::Bytes(vec![97].into()), "string", "(\"a\",)"),
        ("bytes", Value::Bytes(vec![97].into()), "fixed(2)", "v: 1 bytes where 2 are expected"),
        ("E", Value::EnumNumber(1), "int", "(1,)"),
        ("E", Value::EnumNumber(9), "string", "(\"9\",)"),
        ("string", text("a"), "long", "v: string in the writer's schema, long in the table"),
        (
            "repeated string",
            Value::List(vec![text("a")]),
            "string",
            "v: a list of string in the writer's schema, string in the table",
        ),
        (
            "map<string, bool>",
            Value::Map([(MapKey::String("a".to_owned()), Value::Bool(true))].into()),
            "string",
            "v: a map of bool in the writer's schema, string in the table",
        ),
    ] {
        assert_eq!(one(kind, value, column), expected, "{kind} into {column}");
    }
}

#[test]
fn dynamic_messages_are_json_and_any_is_its_parts() {
    let text = r#"syntax = "proto3"; package t; import "google/protobuf/struct.proto"; import "google/protobuf/any.proto";
        import "google/protobuf/duration.proto"; import "google/protobuf/empty.proto";
        message Row { google.protobuf.Struct o = 1; google.protobuf.Value v = 2; google.protobuf.ListValue l = 3;
                      google.protobuf.Any any = 4; google.protobuf.Duration d = 5; google.protobuf.Empty nothing = 6; }"#;
    let writers = fixed(text);
    let schema = table(&writers, &[vec![]]);
    assert_eq!(
        columns(&schema),
        [
            "o: string",
            "v: string",
            "l: string",
            "any: struct<type_url: string not null, value: binary not null>",
            "d: struct<seconds: long not null, nanos: int not null>"
        ]
    );
    let value = |bytes: &[u8]| [&[10, bytes.len() as u8][..], bytes].concat();
    let number = [&[0x11][..], &1.5_f64.to_le_bytes()].concat();
    let list = [value(&number), value(&[0x20, 1]), value(&[8, 0]), value(&[])].concat();
    let text = [&[0x1a, 2][..], b"a\""].concat();
    let entry = [&[10, 1, b'k', 0x12, text.len() as u8][..], &text].concat();
    let object = value(&entry);
    let nested = [&[0x2a, object.len() as u8][..], &object].concat();
    let row = [
        &[10, object.len() as u8][..],
        &object,
        &[18, nested.len() as u8],
        &nested,
        &[26, list.len() as u8],
        &list,
        &[34, 3, 10, 1, b'u'],
        &[42, 2, 8, 9],
        &[50, 0],
    ]
    .concat();
    let (batch, observed) = decoder(&schema, &writers).decode_observed(&raw(&[row]));
    assert!(observed.is_settled() && observed.ignored == 0);
    assert_eq!(
        shown(&batch, 0),
        r#"("{\"k\":\"a\\\"\"}","{\"k\":\"a\\\"\"}","[1.5,true,null,null]",("u",[],),(9,0,),)"#
    );
    // Lists within each other deeper than any reader goes.
    let mut deep = vec![];
    for _ in 0..200 {
        let inner = [&[0x32][..], &length(deep.len()), &deep].concat();
        deep = [&[10][..], &length(inner.len()), &inner].concat();
    }
    let row = [&[26][..], &length(deep.len()), &deep].concat();
    let batch = decoder(&schema, &writers).decode_observed(&raw(&[row])).0;
    assert_eq!(reasons(&batch), ["l: nested deeper than 64 levels"]);
}

/// What a row with a `Struct` and a `ListValue` becomes, or why it is refused.
fn dynamic(row: Vec<u8>) -> String {
    let text = r#"syntax = "proto3"; package t; import "google/protobuf/struct.proto";
        message Row { google.protobuf.Struct o = 1; google.protobuf.ListValue l = 2; }"#;
    let writers = fixed(text);
    let batch = decoder(&table(&writers, &[vec![]]), &writers).decode_observed(&raw(&[row])).0;
    if batch.rows.num_rows() == 1 { shown(&batch, 0) } else { reasons(&batch).join(" ") }
}

fn within(tag: u8, inner: &[u8]) -> Vec<u8> {
    [&[tag][..], &length(inner.len()), inner].concat()
}

/// One key of a `Struct`, and its `Value`.
fn entry(key: u8, value: &[u8]) -> Vec<u8> {
    within(10, &[&[10, 1, key][..], &within(18, value)].concat())
}

#[test]
fn numbers_of_a_struct_are_written_as_protobuf_writes_them_in_json() {
    let number = |value: f64| within(10, &[&[0x11][..], &value.to_le_bytes()].concat());
    let numbers = [f64::INFINITY, f64::NEG_INFINITY, f64::NAN, 0.5].map(number).concat();
    assert_eq!(dynamic(within(18, &numbers)), r#"(null,"[\"Infinity\",\"-Infinity\",\"NaN\",0.5]",)"#);
}

#[test]
fn a_struct_with_one_key_twice_is_refused() {
    let keys = |keys: &[u8]| within(10, &keys.iter().flat_map(|key| entry(*key, &[32, 1])).collect::<Vec<_>>());
    assert_eq!(dynamic(keys(b"ba")), r#"("{\"b\":true,\"a\":true}",null,)"#);
    assert_eq!(dynamic(keys(b"aba")), "o: duplicate key");
}

#[test]
fn a_struct_has_as_many_levels_as_json_may_have() {
    let deep = |levels: usize| {
        let mut object = vec![];
        for _ in 1..levels {
            object = entry(b'k', &within(0x2a, &object));
        }
        dynamic(within(10, &object))
    };
    assert_eq!(deep(64).matches('k').count(), 63);
    assert_eq!(deep(65), "o: nested deeper than 64 levels");
}

fn length(of: usize) -> Vec<u8> {
    let mut out = Vec::new();
    protox::prost::encoding::encode_varint(of as u64, &mut out);
    out
}

#[test]
fn a_schema_asks_for_what_the_table_lacks_once_a_row_is_a_message() {
    let text = "syntax = \"proto3\"; package t; message In { int32 a = 1; int32 b = 2; } message Row { int64 id = 1; In in = 2; uint64 big = 3; double d = 4; }";
    let writers = fixed(text);
    let schema =
        given(&[("id", "int not null"), ("in", "struct<a: int>"), ("d", "float"), ("gone", "string not null")]);
    let row = vec![8, 5, 18, 2, 16, 1, 24, 7];
    let (_, observed) = decoder(&schema, &writers).decode_observed(&raw(&[vec![8], row.clone(), row.clone()]));
    let id = |name: &str| schema.field_id_by_name(name).expect(name);
    assert_eq!(observed.widened.keys().copied().collect::<Vec<_>>(), [id("id"), id("d")]);
    assert_eq!(observed.relaxed.iter().copied().collect::<Vec<_>>(), [id("gone")]);
    let added: Vec<(Option<i32>, Vec<&str>)> = observed
        .added
        .iter()
        .map(|(parent, shape)| (*parent, shape.fields().map(|(name, _)| name).collect()))
        .collect();
    assert_eq!(added, [(None, vec!["big"]), (Some(id("in")), vec!["b"])]);
    assert!(decoder(&schema, &writers).decode_observed(&raw(&[vec![8]])).1.is_settled());
    let quarantined = decoder(&schema, &writers).decode_as(&raw(std::slice::from_ref(&row)), OnChange::Quarantine).0;
    assert_eq!(reasons(&quarantined), ["in.b: the table has no such column"]);
    // What the schema has no field for is counted, under every policy.
    let wide = given(&[("id", "long"), ("d", "double")]);
    let (batch, observed) = decoder(&wide, &writers).decode_as(&raw(&[vec![8, 5, 0x48, 1]]), OnChange::Quarantine);
    assert_eq!((batch.rows.num_rows(), observed.ignored), (1, 1));
    let (batch, observed) = decoder(&wide, &writers).decode_as(&raw(&[row]), OnChange::Freeze);
    assert_eq!((batch.rows.num_rows(), observed.ignored), (1, 2));
}

#[test]
fn a_schema_that_rows_cannot_be_read_with_is_named() {
    let refused = |text: &str, message: Option<&str>| {
        let error = ProtoSchema::of_file(text.as_bytes(), true, message).expect_err(text);
        assert_eq!(error.kind(), ErrorKind::Input);
        (error.to_string(), error.hint().unwrap_or_default().to_owned())
    };
    let two = "syntax = \"proto3\"; package t; message A { A a = 1; } message B { message C {} }";
    assert!(refused("message {", None).0.starts_with("the schema is no Protobuf: "));
    assert!(refused("import \"gone.proto\"; message A {}", None).0.contains("gone.proto"));
    let (text, hint) = refused(two, None);
    assert_eq!(text, "the schema has more than one message, or none");
    assert_eq!(hint, "set decode.schema.message to one of t.A, t.B, t.B.C");
    assert_eq!(refused(two, Some("t.D")).0, "there is no message \"t.D\"");
    assert!(refused(two, Some("t.A")).0.ends_with("the message t.A contains itself, for which a table has no columns"));
    assert!(ProtoSchema::of_file(two.as_bytes(), true, Some("t.B.C")).is_ok());
    assert!(
        ProtoSchema::of_file(b"\xff", false, None).expect_err("no set").to_string().contains("no set of descriptors")
    );
    let set = described(ROW).expect("valid").encode_to_vec();
    assert!(ProtoSchema::of_file(&set, false, Some("t.Row")).is_ok());
    // Each message has the one before it twice.
    let mut deep = String::from("syntax = \"proto3\"; package t; message M0 { int32 a = 1; }");
    for level in 1..30 {
        let _ = write!(deep, "message M{level} {{ M{0} a = 1; M{0} b = 2; }}", level - 1);
    }
    assert!(refused(&deep, Some("t.M29")).0.contains("more than 100000 fields"));
}

/// Messages of which each has the next one as its field `m`; the last one has a number.
fn chain(levels: usize) -> String {
    let mut text = String::from("syntax = \"proto3\"; package t; message Row { M1 m = 1; }");
    for level in 1..levels {
        let _ = write!(text, "message M{level} {{ M{} m = 1; }}", level + 1);
    }
    let _ = write!(text, "message M{levels} {{ int32 a = 1; int32 b = 2; }}");
    text
}

#[test]
fn messages_within_each_other_are_refused_before_they_fill_the_stack() {
    let refused = ProtoSchema::of_file(chain(5_000).as_bytes(), true, Some("t.Row")).expect_err("too deep");
    assert!(refused.to_string().ends_with("M64 is nested deeper than 64 levels"), "{refused}");
    assert!(ProtoSchema::of_file(chain(63).as_bytes(), true, Some("t.Row")).is_ok());
    assert!(ProtoSchema::of_file(chain(64).as_bytes(), true, Some("t.Row")).is_err());
}

#[test]
fn messages_that_are_there_again_are_merged_for_what_their_row_weighs() {
    let writers = fixed(&chain(15));
    let (mut one, mut other, mut twice) = (vec![8, 5], vec![16, 7], vec![8, 5]);
    for _ in 0..15 {
        (one, other) = (within(10, &one), within(10, &other));
        // Each level is there twice: who reads both, and then both together, does so 2^15 times.
        twice = [within(10, &twice), vec![10, 0]].concat();
    }
    let rows = [[one.clone(), other].concat(), twice, one];
    let batch = decoder(&table(&writers, &rows), &writers).decode_observed(&raw(&rows)).0;
    assert_eq!(batch.source_rows, [0, 2]);
    let nested = |values: &str| format!("({}{values}{},)", "(".repeat(15), String::from(")") + &",)".repeat(14));
    assert_eq!([0, 1].map(|at| shown(&batch, at)), ["5,7,", "5,0,"].map(nested));
    assert!(reasons(&batch)[0].contains("there again"), "{:?}", reasons(&batch));
}

#[test]
fn a_row_fills_as_many_values_as_one_may() {
    let text = "syntax = \"proto3\"; package t; message In { int64 a = 1; repeated int32 l = 2; int64 c = 3; }
        message Box { In in = 1; bool b = 2; } message Row { repeated Box l = 1; map<int32, In> m = 2; repeated int32 p = 3; }";
    let writers = fixed(text);
    let schema = table(&writers, &[vec![]]);
    let plan = StructPlan::of_row(schema.as_struct().fields(), BTreeSet::new()).expect("valid");
    let fitted = fit(&schema_message(&writers), &plan, JsonOptions::default().epoch);
    let row = |values_max: usize, row: &[u8]| {
        let mut filler = Filler::new(OnChange::Evolve);
        filler.tally.budget.most = values_max;
        filler.begin(row.len());
        let filled = filler.message(&fitted.root, &plan, &mut Columns::new(&plan, 1), 0, Cursor::new(row));
        filled.map_err(|fault| format!("{}: {}", fault.path, fault.reason))
    };
    let too_many = |path: &str, max: usize| {
        Err(format!("{path}: the row's lists and maps fill more than {max} values: send fewer elements in one row"))
    };
    // A box is a struct, the one in it with three fields, and a flag, all for two bytes.
    let boxes = [10, 0].repeat(20);
    assert_eq!(row(120, &boxes), Ok(()));
    assert_eq!(row(119, &boxes), too_many("l", 119));
    // An entry is a key and a struct with three fields.
    let entries: Vec<u8> = (0..25).flat_map(|key| [18, 2, 8, key]).collect();
    assert_eq!(row(125, &entries), Ok(()));
    assert_eq!(row(124, &entries), too_many("m", 124));
    // Whoever sends a byte for each value is not bound.
    let packed = [&[26, 100][..], &[1; 100]].concat();
    assert_eq!(row(1, &packed), Ok(()));
}

fn schema_message(writers: &Writers<ProtoSchema>) -> Arc<crate::decode::proto_schema::Message> {
    writers.known(None).and_then(|schema| schema.message(&[])).expect("the configured one")
}

#[test]
fn what_a_missing_field_does_names_the_column() {
    let text = "syntax = \"proto3\"; package t; message In { string at = 1; } message Row { In in = 1; map<int32, int32> m = 2; string at = 3; }";
    let writers = fixed(text);
    let schema = given(&[("in", "struct<at: timestamptz>"), ("m", "map<int, int>"), ("at", "string")]);
    let twice = vec![18, 4, 8, 1, 16, 1, 18, 4, 8, 1, 16, 2];
    let batch = decoder(&schema, &writers).decode_observed(&raw(&[vec![10, 0], twice])).0;
    assert_eq!(reasons(&batch), ["in.at: \"\" is no timestamptz", "m: duplicate key"]);
}

async fn registry() -> (Writers<ProtoSchema>, Arc<Shelf>) {
    let (url, shelf) = serve().await;
    let env = Env::system();
    let registry = Registry::new("sr", &config(&url), &env).expect("a client");
    (Writers::of_registry(Arc::new(registry), &env), shelf)
}

#[tokio::test]
async fn rows_say_which_message_of_their_schema_they_are() {
    let (writers, shelf) = registry().await;
    let text = r#"syntax = "proto3"; package shop; import "geo/place.proto"; import "confluent/meta.proto";
        message Order { int32 id = 1 [(confluent.field_meta) = { doc: "x" }]; geo.Place place = 2; message Line { int32 id = 1; message Part { int32 id = 1; string code = 2; } } }
        message Other { int32 id = 1; Other other = 2; }"#;
    let place = "syntax = \"proto3\"; package geo; message Place { string city = 1; }";
    let reference = json!([{ "name": "geo/place.proto", "subject": "place", "version": 1 }]);
    shelf.put("/reg/schemas/ids/1", 200, json!({ "schema": text, "schemaType": "PROTOBUF", "references": reference }));
    shelf.put("/reg/subjects/place/versions/1", 200, json!({ "schema": place, "schemaType": "PROTOBUF" }));
    shelf.schema(2, &json!({ "type": "record", "name": "R", "fields": [] }));
    let row = |id: u32, indexes: &[u8], message: &[u8]| [&[0][..], &id.to_be_bytes(), indexes, message].concat();
    let rows = [
        row(1, &[0], &[8, 1, 18, 3, 10, 1, b'x']),
        row(1, &[2, 0], &[8, 2]),
        row(1, &[6, 0, 0, 0], &[8, 3, 18, 1, b'c']),
        row(1, &[4, 0, 6], &[8, 4]),
        row(1, &[2, 2], &[8, 5]),
        row(1, &[3], &[8, 6]),
        row(1, &[0xfe, 0xff, 0xff, 0x0f], &[8, 6]),
        row(1, &[], &[]),
        row(2, &[0], &[8, 7]),
        row(3, &[0], &[8, 8]),
        row(1, &[0], &[8, 9]),
    ];
    let batch = raw(&rows);
    writers.learn(&batch).await.expect("answers");
    let schema = table(&writers, &rows);
    assert_eq!(columns(&schema), ["id: int not null", "place: struct<city: string not null>"]);
    let decoder = decoder(&schema, &writers);
    let (_, observed) = decoder.decode_observed(&batch);
    assert_eq!(observed.added[&None].fields().map(|(name, _)| name).collect::<Vec<_>>(), ["code"]);
    let decoded = decoder.decode_as(&batch, OnChange::Freeze).0;
    assert_eq!(decoded.source_rows, [0, 1, 2, 10]);
    assert_eq!([0, 1, 2].map(|at| shown(&decoded, at)), ["(1,(\"x\",),)", "(2,null,)", "(3,null,)"]);
    assert_eq!(
        reasons(&decoded),
        [
            ": the row names a message that its schema does not have",
            ": field other of shop.Other: the message shop.Other contains itself, for which a table has no columns",
            ": the row does not say after the id of its schema which message it is",
            ": the row does not say after the id of its schema which message it is",
            ": malformed Protobuf: the message ends at byte 0 in the middle of a value",
            ": schema 2 of registry sr is Avro, not Protobuf",
            ": registry sr has no schema with the id 3",
        ]
    );
}

const PLACE: &str = r#"syntax = "proto3"; package geo; message Place { string city = 1; double height = 2; }"#;
const ORDER: &str = r#"
syntax = "proto3";
package shop;
import "geo.proto";
import "google/protobuf/timestamp.proto";
enum State { OPEN = 0; PAID = 1; }
message Money { int64 units = 1; sint32 nanos = 2; }
message Order {
  sint64 id = 1; string note = 2; bool gift = 3; double weight = 4; bytes token = 5; fixed32 code = 6; State state = 7;
  geo.Place place = 8; repeated string tags = 9; map<string, int32> counts = 10; google.protobuf.Timestamp at = 11;
  oneof payment { string card = 12; Money cash = 13; }
}
"#;

/// What `protoc --include_imports -o` writes of these two, of which one imports the other.
fn descriptors() -> Vec<u8> {
    let folder = tempfile::tempdir().expect("a folder");
    for (name, text) in [("geo.proto", PLACE), ("shop.proto", ORDER)] {
        std::fs::write(folder.path().join(name), text).expect("writable");
    }
    protox::compile(["shop.proto"], [folder.path()]).expect("valid").encode_to_vec()
}

/// The format of a pipeline whose rows are messages of that name, by a file of descriptors.
fn configured(set: &[u8], message: &str) -> Result<Format> {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("shop.desc");
    std::fs::write(&file, set).expect("writable");
    let text = format!(
        r#"
        [catalog.lake]
        type = "memory"
        [source.orders]
        type = "kafka"
        brokers = ["127.0.0.1:9092"]
        group = "g"
        topics = ["orders"]
        [pipeline.shop]
        source = "orders"
        table = "lake.raw.orders"
        decode = {{ format = "protobuf", schema = {{ file = {file:?}, message = "{message}" }} }}
        "#
    );
    let config = from_text("frazil.toml", text, &[]).expect("valid").config;
    Format::of(&config.pipelines[&PipelineName::new("shop")].decode, &Registries::new(), &Env::system())
}

#[tokio::test]
async fn rows_are_read_by_a_configured_set_of_descriptors_whose_files_import_each_other() {
    let set = descriptors();
    let order =
        DescriptorPool::decode(set.as_slice()).expect("a set").get_message_by_name("shop.Order").expect("there");
    let rows = [
        r#"id: -7 note: "é" gift: true weight: 1.5 token: "\001\377" code: 4294967295 state: PAID
           place { city: "Bern" height: 540.5 } tags: "a" tags: "b" counts { key: "k" value: -2 }
           at { seconds: 1 nanos: 500000 } card: "x""#,
        "id: 8 cash { units: 3 nanos: -4 }",
    ];
    let rows = rows.map(|text| DynamicMessage::parse_text_format(order.clone(), text).expect(text).encode_to_vec());
    let batch = raw(&rows);
    let format = configured(&set, "shop.Order").expect("valid");
    let metadata = BTreeMap::new();
    let how = Inference { metadata: &metadata, limits: GrowthLimits::default(), rows: 100, nanos: false };
    let schema = Arc::new(format.table_schema(&batch, how).await.expect("a table"));
    assert_eq!(
        columns(&schema),
        [
            "id: long not null",
            "note: string not null",
            "gift: boolean not null",
            "weight: double not null",
            "token: binary not null",
            "code: long not null",
            "state: string not null",
            "place: struct<city: string not null, height: double not null>",
            "tags: list<string not null> not null",
            "counts: map<string, int not null> not null",
            "at: timestamptz",
            "card: string",
            "cash: struct<units: long not null, nanos: int not null>",
        ]
    );
    let options = DecoderOptions { json: JsonOptions::default(), nanos: false };
    let (decoded, observed) = Decoder::new(&schema, &format, options).expect("valid").decode_observed(&batch);
    assert!(observed.is_settled() && decoded.rejects.is_empty(), "{:?}", reasons(&decoded));
    assert_eq!(
        [0, 1].map(|at| shown(&decoded, at)),
        [
            r#"(-7,"é",true,1.5,[1, 255],4294967295,"PAID",("Bern",540.5,),["a","b",],{"k":-2,},1000500,"x",null,)"#,
            r#"(8,"",false,0.0,[],0,"OPEN",null,[],{},null,null,(3,-4,),)"#,
        ]
    );
}

#[test]
fn a_message_that_a_configured_set_of_descriptors_does_not_hold_is_named_with_those_that_it_holds() {
    let error = configured(&descriptors(), "shop.Gone").expect_err("not there");
    assert_eq!(error.kind(), ErrorKind::Config);
    let said = error.to_string();
    assert!(
        said.starts_with("decode.schema.file ") && said.contains("shop.desc: there is no message \"shop.Gone\""),
        "{said}"
    );
    let hint = error.hint().unwrap_or_default();
    assert!(hint.starts_with("set decode.schema.message to one of ") && !hint.contains("google"), "{hint}");
    assert!(["geo.Place", "shop.Money", "shop.Order"].iter().all(|name| hint.contains(name)), "{hint}");
}
