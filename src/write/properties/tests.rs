use super::*;

fn read(pairs: &[(&str, &str)]) -> Result<WriteProperties> {
    let properties = pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
    WriteProperties::from_table(&properties, &WriteProperties::default())
}

#[test]
fn a_table_without_properties_gets_the_defaults_of_the_spec() {
    let properties = read(&[("owner", "x"), ("write.metadata.compression-codec", "gzip")]).expect("valid");
    assert_eq!(properties, WriteProperties::default());
    assert_eq!(properties.row_group_bytes, 134_217_728);
    assert_eq!(properties.target_file_bytes, 536_870_912);
    assert_eq!(properties.dictionary_bytes, 2_097_152);
    assert_eq!(properties.compression, Compression::ZSTD(ZstdLevel::try_new(3).expect("level")));
}

#[test]
fn every_property_is_honoured() {
    let properties = read(&[
        ("write.format.default", "PARQUET"),
        ("write.parquet.row-group-size-bytes", "1000"),
        ("write.parquet.page-size-bytes", "2000"),
        ("write.parquet.page-row-limit", "30"),
        ("write.parquet.dict-size-bytes", "4000"),
        ("write.parquet.compression-codec", "gzip"),
        ("write.parquet.compression-level", "9"),
        ("write.parquet.bloom-filter-enabled.column.id", "true"),
        ("write.parquet.bloom-filter-enabled.column.a.b", "TRUE"),
        ("write.parquet.bloom-filter-fpp.column.a.b", "0.5"),
        ("write.parquet.bloom-filter-max-bytes", "4096"),
        ("write.parquet.stats-enabled.column.blob", "false"),
        ("write.target-file-size-bytes", "123456"),
        ("write.metadata.metrics.default", "counts"),
        ("write.metadata.metrics.max-inferred-column-defaults", "7"),
        ("write.metadata.metrics.column.id", "full"),
        ("write.metadata.metrics.column.text", "Truncate(8)"),
        ("write.data.path", "s3://b/elsewhere/"),
        ("write.folder-storage.path", "s3://b/old"),
        ("write.object-storage.enabled", "true"),
        ("write.object-storage.partitioned-paths", "false"),
    ])
    .expect("valid");
    let expected = WriteProperties {
        row_group_bytes: 1000,
        page_bytes: 2000,
        page_rows: 30,
        dictionary_bytes: 4000,
        compression: Compression::GZIP(GzipLevel::try_new(9).expect("level")),
        bloom_filters: BTreeMap::from([("id".to_owned(), 0.01), ("a.b".to_owned(), 0.5)]),
        bloom_filter_bytes_max: 4096,
        statistics_off: BTreeSet::from(["blob".to_owned()]),
        target_file_bytes: 123_456,
        metrics: MetricsProperties {
            default: Some(MetricsMode::Counts),
            inferred_columns_max: 7,
            columns: BTreeMap::from([
                ("id".to_owned(), MetricsMode::Full),
                ("text".to_owned(), MetricsMode::Truncate(8)),
            ]),
        },
        data_path: Some("s3://b/elsewhere".to_owned()),
        object_storage: true,
        partitioned_paths: false,
    };
    assert_eq!(properties, expected);
}

#[test]
fn a_value_that_cannot_be_read_names_property_value_and_what_is_allowed() {
    for (key, value, allowed) in [
        ("write.parquet.row-group-size-bytes", "128MB", "a whole number from 1"),
        ("write.parquet.row-group-size-bytes", "0", "a whole number from 1"),
        ("write.parquet.page-row-limit", "-1", "a whole number from 1"),
        ("write.parquet.compression-codec", "zip", "one of zstd, gzip, snappy"),
        ("write.parquet.compression-level", "23", "1 to 22 for zstd"),
        ("write.parquet.compression-level", "high", "a whole number"),
        ("write.parquet.bloom-filter-enabled.column.id", "yes", "true or false"),
        ("write.parquet.bloom-filter-fpp.column.id", "1.0", "a number between 0 and 1"),
        ("write.target-file-size-bytes", "", "a whole number from 1"),
        ("write.metadata.metrics.default", "truncate", "none, counts, full or truncate(n)"),
        ("write.metadata.metrics.column.id", "truncate(0)", "none, counts, full or truncate(n)"),
        ("write.object-storage.enabled", "1", "true or false"),
        ("write.format.default", "csv", "parquet"),
    ] {
        let error = read(&[(key, value)]).expect_err(key);
        let text = error.to_string();
        assert_eq!(error.kind(), ErrorKind::Config, "{text}");
        assert!(text.contains(key) && text.contains(&format!("{value:?}")) && text.contains(allowed), "{text}");
    }
}

#[test]
fn other_data_formats_are_unsupported_with_a_way_out() {
    let error = read(&[("write.format.default", "orc")]).expect_err("no ORC");
    assert_eq!(error.kind(), ErrorKind::Unsupported);
    assert!(error.hint().is_some_and(|hint| hint.contains("parquet")));
}

#[test]
fn a_level_without_a_codec_belongs_to_the_default_codec() {
    let properties = read(&[("write.parquet.compression-level", "7")]).expect("valid");
    assert_eq!(properties.compression, Compression::ZSTD(ZstdLevel::try_new(7).expect("level")));
}
