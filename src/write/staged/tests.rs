use iceberg::spec::{PrimitiveType, Transform};

use super::*;
use crate::write::tests::{layout, optional};

fn staged(ty: PrimitiveType, value: Option<Literal>) -> Staged {
    let table = layout(vec![optional(1, "c", ty)]).partitioned(&[(1, "c", Transform::Identity)]);
    let file = DataFileBuilder::default()
        .content(DataContentType::Data)
        .file_path("memory://lake/f.parquet".to_owned())
        .file_format(DataFileFormat::Parquet)
        .partition(Struct::from_iter([value]))
        .partition_spec_id(3)
        .record_count(5)
        .file_size_in_bytes(100)
        .build()
        .expect("file");
    Staged { table: table.name, schema: table.schema, spec: table.spec, files: vec![file], rows: 5, bytes: 100 }
}

#[test]
fn partition_values_of_every_type_survive() {
    let uuid = uuid::Uuid::from_u128(u128::MAX - 7);
    for (ty, value) in [
        (PrimitiveType::Boolean, Literal::bool(true)),
        (PrimitiveType::Int, Literal::int(i32::MIN)),
        (PrimitiveType::Long, Literal::long(i64::MIN)),
        (PrimitiveType::Float, Literal::float(f32::NAN)),
        (PrimitiveType::Double, Literal::double(-0.0)),
        (PrimitiveType::Decimal { precision: 38, scale: 2 }, Literal::decimal(-(10_i128.pow(37)))),
        (PrimitiveType::Decimal { precision: 4, scale: 2 }, Literal::decimal(-1)),
        (PrimitiveType::Date, Literal::date(-5)),
        (PrimitiveType::Time, Literal::time(86_399_999_999)),
        (PrimitiveType::Timestamp, Literal::timestamp(i64::MAX)),
        (PrimitiveType::Timestamptz, Literal::timestamptz(-1)),
        (PrimitiveType::TimestampNs, Literal::timestamp(1)),
        (PrimitiveType::TimestamptzNs, Literal::timestamp(1)),
        (PrimitiveType::String, Literal::string("ä\0\u{10FFFF}")),
        (PrimitiveType::Uuid, Literal::uuid(uuid)),
        (PrimitiveType::Fixed(3), Literal::fixed([0, 255, 1])),
        (PrimitiveType::Binary, Literal::binary([])),
    ] {
        for value in [Some(value), None] {
            let before = staged(ty.clone(), value);
            let after = Staged::from_json(&before.to_json().expect("document")).expect("reads back");
            assert_eq!(after, before, "{ty}");
        }
    }
}

#[test]
fn the_same_files_give_the_same_document() {
    let one = staged(PrimitiveType::Long, Some(Literal::long(1)));
    assert_eq!(one.to_json().expect("document"), one.clone().to_json().expect("document"));
}

#[test]
fn a_document_of_another_version_is_never_interpreted() {
    let json = staged(PrimitiveType::Long, None).to_json().expect("document");
    let newer = json.replacen("\"v\":1", "\"v\":2", 1);
    let error = Staged::from_json(&newer).expect_err("newer");
    assert_eq!(error.kind(), ErrorKind::Corrupt);
    assert!(error.to_string().contains("version 2") && error.hint().is_some(), "{error}");
}

#[test]
fn a_damaged_document_is_corrupt_and_names_the_file() {
    let json = staged(PrimitiveType::Long, Some(Literal::long(1))).to_json().expect("document");
    assert_eq!(Staged::from_json(&json[..json.len() / 2]).expect_err("cut").kind(), ErrorKind::Corrupt);
    let damaged = json.replace("\"AQAAAAAAAAA=\"", "\"AQ=\"");
    assert_ne!(damaged, json);
    let error = Staged::from_json(&damaged).expect_err("no base64");
    assert_eq!(error.kind(), ErrorKind::Corrupt);
    assert!(error.to_string().contains("memory://lake/f.parquet"), "{error}");
    let short = json.replace("\"AQAAAAAAAAA=\"", "\"AQA=\"");
    assert_eq!(Staged::from_json(&short).expect_err("two bytes").kind(), ErrorKind::Corrupt);
}
