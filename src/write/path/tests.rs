use std::sync::Arc;

use iceberg::spec::{NestedField, PartitionSpec, Type, UnboundPartitionField, UnboundPartitionSpec};

use super::*;

fn path_of(ty: PrimitiveType, transform: Transform, value: Option<Literal>) -> String {
    let field = NestedField::optional(1, "c", Type::Primitive(ty));
    let schema = Arc::new(Schema::builder().with_fields([Arc::new(field)]).build().expect("schema"));
    let field = UnboundPartitionField { source_id: 1, field_id: Some(1000), name: "a b/ü".to_owned(), transform };
    let spec = UnboundPartitionSpec::builder().add_partition_fields([field]).expect("field").build();
    let spec: PartitionSpec = spec.bind(Arc::clone(&schema)).expect("spec");
    partition_path(&spec, &schema, &Struct::from_iter([value])).expect("path")
}

#[test]
fn partition_folders_are_named_as_java_names_them() {
    let decimal = PrimitiveType::Decimal { precision: 9, scale: 2 };
    let identity = Transform::Identity;
    let noon = 1_512_151_975_038_194;
    for (ty, transform, value, expected) in [
        (PrimitiveType::String, identity, Some(Literal::string("a b/c=d&é~*")), "a+b%2Fc%3Dd%26%C3%A9%7E*"),
        (PrimitiveType::String, identity, Some(Literal::string("")), ""),
        (PrimitiveType::String, identity, None, "null"),
        (PrimitiveType::Boolean, identity, Some(Literal::bool(true)), "true"),
        (PrimitiveType::Long, identity, Some(Literal::long(-7)), "-7"),
        (PrimitiveType::Float, identity, Some(Literal::float(1.5)), "1.5"),
        (PrimitiveType::Double, identity, Some(Literal::double(2.0)), "2.0"),
        (decimal.clone(), identity, Some(Literal::decimal(1420)), "14.20"),
        (decimal.clone(), identity, Some(Literal::decimal(-5)), "-0.05"),
        (PrimitiveType::Decimal { precision: 9, scale: 0 }, identity, Some(Literal::decimal(-5)), "-5"),
        (PrimitiveType::Date, identity, Some(Literal::date(17501)), "2017-12-01"),
        (PrimitiveType::Date, identity, Some(Literal::date(-1)), "1969-12-31"),
        (PrimitiveType::Time, identity, Some(Literal::time(36_775_038_194)), "10%3A12%3A55.038194"),
        (PrimitiveType::Time, identity, Some(Literal::time(0)), "00%3A00%3A00"),
        (PrimitiveType::Timestamp, identity, Some(Literal::timestamp(noon)), "2017-12-01T18%3A12%3A55.038194"),
        (PrimitiveType::Timestamp, identity, Some(Literal::timestamp(-1)), "1969-12-31T23%3A59%3A59.999999"),
        (PrimitiveType::Timestamptz, identity, Some(Literal::timestamp(0)), "1970-01-01T00%3A00%3A00%2B00%3A00"),
        (PrimitiveType::TimestampNs, identity, Some(Literal::timestamp(1)), "1970-01-01T00%3A00%3A00.000000001"),
        (PrimitiveType::Uuid, identity, Some(Literal::uuid(uuid::Uuid::nil())), "00000000-0000-0000-0000-000000000000"),
        (PrimitiveType::Binary, identity, Some(Literal::binary(*b"\x01\xff")), "Af8%3D"),
        (PrimitiveType::Fixed(2), identity, Some(Literal::fixed(*b"\x01\xff")), "Af8%3D"),
        (PrimitiveType::Binary, Transform::Truncate(1), Some(Literal::binary(*b"\x01")), "AQ%3D%3D"),
        (PrimitiveType::Long, Transform::Bucket(16), Some(Literal::int(3)), "3"),
        (PrimitiveType::Date, Transform::Year, Some(Literal::int(47)), "2017"),
        (PrimitiveType::Date, Transform::Year, Some(Literal::int(-1)), "1969"),
        (PrimitiveType::Date, Transform::Month, Some(Literal::int(575)), "2017-12"),
        (PrimitiveType::Date, Transform::Month, Some(Literal::int(-1)), "1969-12"),
        (PrimitiveType::Timestamp, Transform::Day, Some(Literal::date(17501)), "2017-12-01"),
        (PrimitiveType::Timestamp, Transform::Hour, Some(Literal::int(420_034)), "2017-12-01-10"),
        (PrimitiveType::Timestamp, Transform::Hour, Some(Literal::int(-1)), "1969-12-31-23"),
        (PrimitiveType::Long, Transform::Void, None, "null"),
    ] {
        assert_eq!(path_of(ty.clone(), transform, value), format!("a+b%2F%C3%BC={expected}"), "{ty} {transform}");
    }
}

#[test]
fn a_partition_of_another_spec_is_an_error() {
    let schema = Schema::builder().build().expect("schema");
    let spec = PartitionSpec::unpartition_spec();
    assert!(partition_path(&spec, &schema, &Struct::from_iter([None])).is_err());
}

#[test]
fn object_directories_are_those_of_iceberg_java() {
    // From TestLocationProvider.testHashInjection.
    for (name, directories) in [
        ("a", "0101/0110/1001/10110010"),
        ("b", "1110/0111/1110/00000011"),
        ("c", "0010/1101/0110/01011111"),
        ("d", "1001/0001/0100/01110011"),
    ] {
        assert_eq!(object_directories(name), directories);
    }
}

#[test]
fn the_hash_is_that_of_the_spec() {
    // Appendix B of the spec: hashes of `iceberg`, of 34 as a long, of the bytes 00 01 02 03.
    for (bytes, hash) in [
        (&b"iceberg"[..], 1_210_000_089_i32),
        (&34_i64.to_le_bytes()[..], 2_017_239_379),
        (&[0, 1, 2, 3][..], -188_683_207),
    ] {
        assert_eq!(murmur3(bytes).cast_signed(), hash);
    }
}

#[test]
fn a_table_under_a_foreign_data_path_is_told_by_the_end_of_its_location() {
    for (location, context) in [
        ("s3://bucket/lake/db/table", "db/table"),
        ("s3://bucket/table/", "bucket/table"),
        ("s3://bucket", "bucket"),
        ("/table", "table"),
    ] {
        assert_eq!(table_context(location), context, "{location}");
    }
}

/// A disk refuses a folder of more than 255 bytes, and one row must not stop a pipeline.
#[test]
fn a_long_value_is_cut_and_told_from_others_by_its_hash() {
    let folder = |text: &str| path_of(PrimitiveType::String, Transform::Identity, Some(Literal::string(text)));
    let short = "x".repeat(190 - "a+b%2F%C3%BC=".len());
    assert_eq!(folder(&short), format!("a+b%2F%C3%BC={short}"));
    for letter in ["x", "é", " ", "%"] {
        for length in 60..260 {
            let (one, other) = (letter.repeat(length), letter.repeat(length) + "y");
            let (one, other) = (folder(&one), folder(&other));
            assert!(one.len() <= 200 && other.len() <= 200 && one != other, "{one} {other}");
            // What is left is whole: no escape is cut in two.
            let name = one.rsplit_once('-').map_or(one.as_str(), |(name, _)| name);
            let escapes = name.split('%').skip(1);
            assert!(escapes.clone().all(|hex| hex.len() >= 2), "{one}");
        }
    }
}
