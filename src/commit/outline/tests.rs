use std::sync::Arc;

use iceberg::io::FileIO;
use iceberg::spec::{
    DataFileBuilder, Datum, Literal, ManifestContentType, ManifestWriterBuilder, NestedField, PrimitiveType, Schema,
    Transform, Type,
};
use proptest::prelude::*;

use super::*;
use crate::commit::avro::recontain;
use crate::env::virtual_time::on_virtual_time;

/// Columns of every kind that a partition may have.
const KINDS: [PrimitiveType; 6] = [
    PrimitiveType::String,
    PrimitiveType::Int,
    PrimitiveType::Date,
    PrimitiveType::Timestamptz,
    PrimitiveType::Double,
    PrimitiveType::Boolean,
];

fn value(kind: &PrimitiveType, number: usize) -> Option<Literal> {
    let small = i32::try_from(number % 3).expect("small");
    (!number.is_multiple_of(5)).then(|| match kind {
        PrimitiveType::String => Literal::string(format!("p{small}")),
        PrimitiveType::Int => Literal::int(small - 1),
        PrimitiveType::Date => Literal::date(20_000 + small),
        PrimitiveType::Timestamptz => Literal::timestamptz(i64::from(small) - 7),
        PrimitiveType::Double => Literal::double(f64::from(small) / 3.0),
        _ => Literal::bool(small == 1),
    })
}

fn file(number: usize, kinds: usize, deletes: bool) -> DataFile {
    let mut file = DataFileBuilder::default();
    let partition = KINDS[..kinds].iter().map(|kind| value(kind, number));
    file.file_path(format!("s3://lake/data/{number}-é.parquet"))
        .content(DataContentType::Data)
        .file_format(if number.is_multiple_of(7) { DataFileFormat::Avro } else { DataFileFormat::Parquet })
        .partition(Struct::from_iter(partition))
        .partition_spec_id(0)
        .record_count(10 + number as u64)
        .file_size_in_bytes(1000 + number as u64)
        .value_counts([(1, 7), (2, 8)].into())
        .lower_bounds([(1, Datum::string("x".repeat(number)))].into())
        .split_offsets(Some(vec![4; number]));
    if number % 4 == 1 {
        file.key_metadata(Some(vec![1, 2]));
    }
    if number % 5 == 2 {
        file.sort_order_id(number as i32);
    }
    match (deletes, number % 3) {
        (false, 0) => drop(file.first_row_id(Some(number as i64 * 100))),
        (true, 0) => drop(file.content(DataContentType::EqualityDeletes).equality_ids(Some(vec![1, 300, 2]))),
        (true, 1) => {
            let vector = file.content(DataContentType::PositionDeletes).file_format(DataFileFormat::Puffin);
            let vector = vector.referenced_data_file(Some("s3://lake/é".to_owned()));
            vector.content_offset(Some(4)).content_size_in_bytes(Some(99));
        }
        (true, _) => drop(file.content(DataContentType::PositionDeletes)),
        _ => {}
    }
    file.build().expect("complete")
}

/// A manifest by the crate's writer, partitioned by the first `kinds` of [`KINDS`], with entries of each status.
async fn manifest(entries: usize, kinds: usize, v3: bool, deletes: bool) -> (Vec<u8>, ManifestFile) {
    let columns = KINDS
        .iter()
        .zip(1..)
        .map(|(kind, id)| Arc::new(NestedField::optional(id, format!("c{id}"), Type::Primitive(kind.clone()))));
    let schema = Arc::new(Schema::builder().with_fields(columns).build().expect("valid"));
    let mut spec = PartitionSpec::builder(Arc::clone(&schema)).with_spec_id(0);
    for id in 1..=kinds {
        spec = spec.add_partition_field(format!("c{id}"), format!("c{id}"), Transform::Identity).expect("valid");
    }
    let memory = FileIO::new_with_memory();
    let output = memory.new_output("memory:/m").expect("in memory");
    let builder = ManifestWriterBuilder::new(output, Some(99), schema, spec.build().expect("valid"));
    let mut writer = match (v3, deletes) {
        (true, false) => builder.build_v3_data(),
        (true, true) => builder.build_v3_deletes(),
        (false, false) => builder.build_v2_data(),
        (false, true) => builder.build_v2_deletes(),
    };
    for number in 0..entries {
        let file = file(number, kinds, deletes);
        match number % 4 {
            0 | 1 => writer.add_file(file, -1),
            2 => writer.add_existing_file(file, 7, 3, Some(3)),
            _ => writer.add_delete_file(file, 3, Some(3)),
        }
        .expect("fits");
    }
    let mut listed = writer.write_manifest_file().await.expect("in memory");
    // As a list has it once it is committed.
    listed.sequence_number = 12;
    listed.added_snapshot_id = 99;
    listed.first_row_id = (v3 && !deletes).then_some(5_000);
    assert_eq!(listed.content == ManifestContentType::Deletes, deletes);
    (memory.new_input("memory:/m").expect("in memory").read().await.expect("in memory").to_vec(), listed)
}

/// The entries with their partitions.
fn whole(outline: Outline) -> Vec<(Struct, Outlined)> {
    let partitions = outline.partitions;
    outline
        .entries
        .into_iter()
        .map(|entry| (partitions[entry.partition].clone(), Outlined { partition: 0, ..entry }))
        .collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn an_outline_is_what_the_library_reads(entries in 0_usize..40, kinds in 0_usize..=6, v3: bool, deletes: bool, cut in 0_usize..6000) {
        on_virtual_time(async move {
            let (plain, listed) = manifest(entries, kinds, v3, deletes).await;
            for bytes in [plain.clone(), recontain(&plain, &BTreeMap::new(), [9; 16]).expect("a container")] {
                let (live, metadata) = manifests::live_of(&bytes, &listed).expect("the crate's own");
                let expected: Vec<_> = live
                    .iter()
                    .map(|e| (e.file.partition().clone(), Outlined::of(&e.file, 0, e.snapshot_id, e.seq)))
                    .collect();
                let outline = read(&bytes, &listed, &Plans::default()).expect("whole").expect("as all write it");
                assert_eq!(&outline.spec, metadata.partition_spec());
                assert_eq!(whole(outline), expected);
                // A cut file is refused or has fewer entries, and takes nobody down.
                let short = read(&bytes[..cut.min(bytes.len())], &listed, &Plans::default());
                assert!(short.is_err() || short.is_ok_and(|short| short.is_none_or(|o| o.entries.len() <= expected.len())));
            }
        });
    }
}

#[test]
fn a_partition_is_named_once_however_many_files_it_has() {
    on_virtual_time(async {
        let (bytes, listed) = manifest(40, 1, false, false).await;
        let outline = read(&bytes, &listed, &Plans::default()).expect("whole").expect("as all write it");
        assert_eq!((outline.partitions.len(), outline.entries.len()), (4, 30), "three values and none");
    });
}
