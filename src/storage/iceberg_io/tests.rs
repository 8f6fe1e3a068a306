use iceberg::spec::{
    DataContentType, DataFileBuilder, DataFileFormat, ManifestListWriter, ManifestWriterBuilder, NestedField,
    PartitionSpec, PrimitiveType, Schema, Struct, Type,
};

use super::*;
use crate::env::Env;
use crate::storage::StorageOptions;

fn storage() -> Storage {
    Storage::new(StorageOptions { requests_max: 4, ..StorageOptions::default() }, Env::system())
}

/// Writes a manifest and its list through the crate's own writers, and loads them through its own readers.
async fn manifests_round_trip(folder: &str) {
    let io = storage().file_io();
    let schema = Schema::builder()
        .with_fields(vec![NestedField::required(1, "id", Type::Primitive(PrimitiveType::Long)).into()])
        .build()
        .expect("schema");
    let at = |name: &str| format!("{folder}/metadata/{name}");
    let output = io.new_output(at("m.avro")).expect("output");
    let mut writer =
        ManifestWriterBuilder::new(output, Some(7), schema.into(), PartitionSpec::unpartition_spec()).build_v2_data();
    let file = DataFileBuilder::default()
        .content(DataContentType::Data)
        .file_path(at("../data/a=x%2Fy/f.parquet"))
        .file_format(DataFileFormat::Parquet)
        .partition(Struct::empty())
        .record_count(3)
        .file_size_in_bytes(1234)
        .build()
        .expect("file");
    writer.add_file(file.clone(), 1).expect("add");
    let manifest = writer.write_manifest_file().await.expect("write");
    assert_eq!(
        manifest.manifest_length,
        i64::try_from(io.new_input(at("m.avro")).unwrap().metadata().await.unwrap().size).unwrap()
    );

    let list = io.new_output(at("list.avro")).expect("output").writer().await.expect("writer");
    let mut writer = ManifestListWriter::v2(list, 7, Some(6), 1);
    writer.add_manifests(std::iter::once(manifest)).expect("add");
    writer.close().await.expect("close");

    let bytes = io.new_input(at("list.avro")).expect("input").read().await.expect("read");
    let list =
        iceberg::spec::ManifestList::parse_with_version(&bytes, iceberg::spec::FormatVersion::V2).expect("parse");
    let loaded = list.entries()[0].load_manifest(&io).await.expect("load");
    assert_eq!(loaded.entries()[0].data_file(), &file);
}

#[tokio::test]
async fn manifests_written_by_the_crate_are_read_by_it_on_every_store() {
    let kept = tempfile::tempdir().expect("folder");
    manifests_round_trip(kept.path().join("t").to_str().expect("utf-8")).await;
    manifests_round_trip(&format!("file://{}", kept.path().join("u").display())).await;
    manifests_round_trip("memory:///lake/t").await;
}

#[tokio::test]
async fn our_error_is_the_source_of_the_crates_error() {
    let error = storage().file_io().new_input("memory:///missing").expect("input").read().await.expect_err("missing");
    let source = std::error::Error::source(&error).and_then(|e| e.downcast_ref::<Error>());
    assert_eq!(source.map(Error::kind), Some(ErrorKind::NotFound), "{error}");
}

#[tokio::test]
async fn a_prefix_and_a_stream_are_deleted_as_the_crate_asks() {
    let io = storage().file_io();
    for name in ["a/1", "a/b/2", "ab/3", "c", "d"] {
        io.new_output(format!("memory:///w/{name}")).expect("output").write(Bytes::new()).await.expect("write");
    }
    io.delete_prefix("memory:///w/a").await.expect("delete");
    io.delete_stream(futures::stream::iter(["memory:///w/c".to_owned()])).await.expect("delete");
    let mut left = Vec::new();
    for name in ["a/1", "a/b/2", "ab/3", "c", "d"] {
        if io.exists(format!("memory:///w/{name}")).await.expect("exists") {
            left.push(name);
        }
    }
    assert_eq!(left, ["ab/3", "d"]);
}

#[test]
fn storage_refuses_to_travel_as_text() {
    let written: Arc<dyn IcebergStorage> = Arc::new(Files(storage()));
    assert!(serde_json::to_string(&written).is_err());
    let error = serde_json::from_str::<Box<dyn IcebergStorage>>(r#"{"type":"frazil"}"#).expect_err("refused");
    assert!(error.to_string().contains("cannot be rebuilt"), "{error}");
}
