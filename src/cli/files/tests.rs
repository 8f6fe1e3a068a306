//! Reading the files of a snapshot from real manifests in memory.

use std::collections::HashMap;

use iceberg::spec::{
    DataContentType, DataFile, DataFileBuilder, DataFileFormat, Literal, ManifestListWriter, ManifestWriterBuilder,
    Struct,
};

use super::*;

/// The table of the golden files, moved into memory.
fn table() -> TableState {
    let document = include_str!("../../../tests/golden/cli/metadata.json").replace("s3://lake", "memory:///lake");
    let name = "raw.shop".parse().expect("a name");
    TableState::from_json(name, document.as_bytes(), None, HashMap::new()).expect("valid metadata")
}

fn data_file(name: &str, day: Option<i32>, bucket: i32, records: u64) -> DataFile {
    DataFileBuilder::default()
        .content(DataContentType::Data)
        .file_path(format!("memory:///lake/raw/shop/data/{name}"))
        .file_format(DataFileFormat::Parquet)
        .partition(Struct::from_iter([day.map(Literal::date), Some(Literal::int(bucket))]))
        .partition_spec_id(0)
        .record_count(records)
        .file_size_in_bytes(records * 10)
        .build()
        .expect("a whole file")
}

async fn write_manifests(state: &TableState, io: &FileIo) {
    let metadata = &state.metadata;
    let mut manifests = Vec::new();
    for (number, names) in [["c.parquet", "a.parquet"], ["b.parquet", "gone.parquet"]].iter().enumerate() {
        let output = io.new_output(format!("memory:///lake/raw/shop/metadata/m{number}.avro")).expect("a location");
        let (schema, spec) = (metadata.current_schema().clone(), metadata.default_partition_spec().as_ref().clone());
        let mut writer = ManifestWriterBuilder::new(output, Some(33), schema, spec).build_v2_data();
        for name in names {
            let file = data_file(name, (*name != "b.parquet").then_some(19_844), 3, 5);
            if *name == "gone.parquet" {
                writer.add_delete_file(file, 3, Some(3)).expect("fits");
            } else {
                writer.add_file(file, 3).expect("fits");
            }
        }
        manifests.push(writer.write_manifest_file().await.expect("written"));
    }
    let output = io.new_output("memory:///lake/raw/shop/metadata/snap-33.avro").expect("a location");
    let mut list = ManifestListWriter::v2(output.writer().await.expect("opens"), 33, Some(22), 3);
    list.add_manifests(manifests.into_iter()).expect("fits");
    list.close().await.expect("written");
}

#[tokio::test]
async fn live_files_are_listed_in_order_with_their_partitions() {
    let (state, io) = (table(), FileIo::new_with_memory());
    write_manifests(&state, &io).await;
    let rows = read(&state, 33, &io).await.expect("readable");
    let seen: Vec<(&str, &str)> =
        rows.iter().map(|row| (row.path.rsplit('/').next().unwrap_or_default(), row.partition.as_str())).collect();
    let dated = "order_ts_day=2024-05-01/order_id_bucket=3";
    let expected = [("a.parquet", dated), ("b.parquet", "order_ts_day=null/order_id_bucket=3"), ("c.parquet", dated)];
    assert_eq!(seen, expected);
    assert!(rows.iter().all(|row| (row.content, row.records, row.size, row.sequence) == ("data", 5, 50, Some(3))));
}

#[tokio::test]
async fn a_missing_manifest_list_is_named() {
    let (state, io) = (table(), FileIo::new_with_memory());
    let error = read(&state, 22, &io).await.expect_err("nothing was written");
    assert!(error.to_string().contains("snap-22.avro"), "{error}");
}
