use std::collections::HashMap;
use std::sync::Arc;

use apache_avro::types::Value as Avro;
use apache_avro::{Codec, Schema as AvroSchema, Writer};
use iceberg::io::FileIO;
use iceberg::spec::{
    DataContentType, DataFile, DataFileBuilder, DataFileFormat, Datum, FormatVersion, Literal, Manifest,
    ManifestContentType, ManifestFile, ManifestList, ManifestListWriter, ManifestWriterBuilder, NestedField,
    PartitionSpec, PrimitiveType, Schema, Struct, Transform, Type,
};
use proptest::prelude::*;

use super::*;
use crate::commit::avro::recontain;
use crate::env::virtual_time::on_virtual_time;

fn file(number: usize, bounds: usize) -> DataFile {
    let counts: HashMap<i32, u64> = (0..bounds).map(|id| (i32::try_from(id).expect("few"), 7)).collect();
    let lower: HashMap<i32, Datum> = counts.keys().map(|id| (*id, Datum::string("x".repeat(number)))).collect();
    DataFileBuilder::default()
        .content(DataContentType::Data)
        .file_path(format!("s3://lake/data/{number}-é.parquet"))
        .file_format(DataFileFormat::Parquet)
        .partition(Struct::from_iter([number.is_multiple_of(2).then(|| Literal::string("p"))]))
        .partition_spec_id(0)
        .record_count(number as u64)
        .file_size_in_bytes(1000 + number as u64)
        .value_counts(counts)
        .lower_bounds(lower)
        .split_offsets(Some(vec![4; bounds]))
        .build()
        .expect("complete")
}

/// A manifest by the crate's writer: of these entries, a third of each status.
async fn manifest(entries: usize, bounds: usize, v3: bool) -> Vec<u8> {
    let name = NestedField::required(1, "name", Type::Primitive(PrimitiveType::String));
    let schema = Arc::new(Schema::builder().with_fields([Arc::new(name)]).build().expect("valid"));
    let spec = PartitionSpec::builder(Arc::clone(&schema)).with_spec_id(0);
    let spec = spec.add_partition_field("name", "name", Transform::Identity).expect("valid").build().expect("valid");
    let memory = FileIO::new_with_memory();
    let output = memory.new_output("memory:/m").expect("in memory");
    let builder = ManifestWriterBuilder::new(output, Some(99), schema, spec);
    let mut writer = if v3 { builder.build_v3_data() } else { builder.build_v2_data() };
    for number in 0..entries {
        let file = file(number, bounds);
        match number % 3 {
            0 => writer.add_file(file, -1),
            1 => writer.add_existing_file(file, 7, 3, Some(3)),
            _ => writer.add_delete_file(file, 3, Some(3)),
        }
        .expect("fits");
    }
    writer.write_manifest_file().await.expect("in memory");
    memory.new_input("memory:/m").expect("in memory").read().await.expect("in memory").to_vec()
}

proptest! {
    #[test]
    fn names_are_what_the_library_reads(entries in 0_usize..30, bounds in 0_usize..6, v3: bool, cut in 0_usize..4000) {
        on_virtual_time(async move {
            let plain = manifest(entries, bounds, v3).await;
            for bytes in [plain.clone(), recontain(&plain, &BTreeMap::new(), [9; 16]).expect("a container")] {
                let read = Manifest::parse_avro(&bytes).expect("the crate's own");
                let told = named(&bytes, &Plans::default()).expect("whole").expect("as all write it");
                assert_eq!(told.len(), entries);
                for (told, entry) in told.iter().zip(read.entries()) {
                    assert_eq!(told.location, entry.file_path());
                    assert_eq!(told.bytes, entry.data_file().file_size_in_bytes());
                    assert_eq!(told.live, entry.is_alive());
                    assert_eq!(told.snapshot_id, entry.snapshot_id());
                }
                // A cut file is refused or has fewer entries, and takes nobody down.
                let short = named(&bytes[..cut.min(bytes.len())], &Plans::default());
                assert!(short.is_err() || short.is_ok_and(|told| told.is_none_or(|told| told.len() <= entries)));
            }
        });
    }
}

/// A list by the crate's writer.
async fn list(manifests: i64, v3: bool) -> Vec<u8> {
    let memory = FileIO::new_with_memory();
    let output = memory.new_output("memory:/l").expect("in memory").writer().await.expect("in memory");
    let mut writer = match v3 {
        true => ManifestListWriter::v3(output, 9, Some(8), 12, Some(0)),
        false => ManifestListWriter::v2(output, 9, Some(8), 12),
    };
    let manifests = (0..manifests).map(|number| ManifestFile {
        manifest_path: format!("s3://lake/metadata/{number}-é.avro"),
        manifest_length: 100 + number,
        partition_spec_id: 0,
        content: ManifestContentType::Data,
        sequence_number: if number % 2 == 0 { -1 } else { number },
        min_sequence_number: if number % 2 == 0 { -1 } else { number },
        added_snapshot_id: if number % 2 == 0 { 9 } else { number },
        added_files_count: Some(1),
        existing_files_count: Some(0),
        deleted_files_count: Some(0),
        added_rows_count: Some(3),
        existing_rows_count: Some(0),
        deleted_rows_count: Some(0),
        partitions: Some(Vec::new()),
        key_metadata: (number % 5 == 0).then(|| vec![1, 2]),
        first_row_id: None,
    });
    writer.add_manifests(manifests).expect("fits");
    writer.close().await.expect("in memory");
    memory.new_input("memory:/l").expect("in memory").read().await.expect("in memory").to_vec()
}

proptest! {
    #[test]
    fn a_lists_manifests_are_what_the_library_reads(manifests in 0_i64..30, v3: bool, cut in 0_usize..4000) {
        on_virtual_time(async move {
            let plain = list(manifests, v3).await;
            for bytes in [plain.clone(), recontain(&plain, &BTreeMap::new(), [9; 16]).expect("a container")] {
                let format = if v3 { FormatVersion::V3 } else { FormatVersion::V2 };
                let read = ManifestList::parse_with_version(&bytes, format).expect("the crate's own");
                let told = listed(&bytes, &Plans::default()).expect("whole").expect("as all write it");
                assert_eq!(told.len(), read.entries().len());
                for (told, manifest) in told.iter().zip(read.entries()) {
                    assert_eq!(told.location, manifest.manifest_path);
                    assert_eq!((told.seq, told.snapshot_id), (manifest.sequence_number, manifest.added_snapshot_id));
                }
                let short = listed(&bytes[..cut.min(bytes.len())], &Plans::default());
                assert!(short.is_err() || short.is_ok_and(|told| told.is_none_or(|told| told.len() <= read.entries().len())));
                assert!(named(&bytes, &Plans::default()).expect("whole").is_none(), "a list is no manifest");
            }
        });
    }
}

/// What no writer of manifests here does, and the format allows: names of types used again, maps, fixed values, enums.
#[test]
fn any_layout_is_passed_over() {
    let schema = r#"{"type": "record", "name": "manifest_entry", "fields": [
        {"name": "more", "type": {"type": "map", "values": {"type": "fixed", "name": "f3", "size": 3}}},
        {"name": "again", "type": ["null", "f3", {"type": "enum", "name": "e", "symbols": ["A", "B"]}]},
        {"name": "data_file", "type": {"type": "record", "name": "r2", "fields": [
            {"name": "ratio", "type": "double"}, {"name": "part", "type": "float"}, {"name": "flag", "type": "boolean"},
            {"name": "file_size_in_bytes", "type": "long"},
            {"name": "file_path", "type": {"type": "string", "logicalType": "x"}}]}},
        {"name": "status", "type": "int"}]}"#;
    let schema = AvroSchema::parse_str(schema).expect("valid");
    let fixed = || Avro::Fixed(3, vec![1, 2, 3]);
    let entry = |again: Avro, status: i32| {
        Avro::Record(vec![
            ("more".into(), Avro::Map([("k".to_owned(), fixed()), ("l".to_owned(), fixed())].into())),
            ("again".into(), again),
            (
                "data_file".into(),
                Avro::Record(vec![
                    ("ratio".into(), Avro::Double(0.5)),
                    ("part".into(), Avro::Float(0.5)),
                    ("flag".into(), Avro::Boolean(true)),
                    ("file_size_in_bytes".into(), Avro::Long(5)),
                    ("file_path".into(), Avro::String("a".into())),
                ]),
            ),
            ("status".into(), Avro::Int(status)),
        ])
    };
    let write = |codec| {
        let mut writer = Writer::with_codec(&schema, Vec::new(), codec);
        writer.append(entry(Avro::Union(1, Box::new(fixed())), 2)).expect("fits");
        writer.append(entry(Avro::Union(2, Box::new(Avro::Enum(1, "B".into()))), 1)).expect("fits");
        writer.append(entry(Avro::Union(0, Box::new(Avro::Null)), 0)).expect("fits");
        writer.into_inner().expect("in memory")
    };
    let plans = Plans::default();
    let told = named(&write(Codec::Null), &plans).expect("whole").expect("as it may be");
    assert_eq!(
        told.iter().map(|n| (n.location.as_str(), n.bytes, n.live)).collect::<Vec<_>>(),
        [("a", 5, false), ("a", 5, true), ("a", 5, true)]
    );
    let zstandard = Codec::Zstandard(apache_avro::ZstandardSettings::default());
    assert!(named(&write(zstandard), &plans).expect("whole").is_none(), "another codec is the library's");
}
