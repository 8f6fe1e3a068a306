use arrow::array::{ArrayRef, Int64Array, StringArray};
use iceberg::spec::{NestedField, PrimitiveType};
use parquet::basic::{Compression, Encoding, LogicalType};
use parquet::file::metadata::{PageIndexPolicy, ParquetMetaDataReader};
use rand::SeedableRng;
use rand::rngs::StdRng;

use super::*;
use crate::write::WriterOptions;
use crate::write::layout::TableLayout;
use crate::write::tests::{layout, optional, random_rows, wide, written};

fn footer(layout: TableLayout, columns: Vec<ArrayRef>) -> ParquetMetaData {
    let batch = layout.batch(columns);
    let written = written(layout, WriterOptions::default(), vec![batch]);
    let bytes = written.files.bytes(written.staged.files[0].file_path());
    let mut reader = ParquetMetaDataReader::new().with_page_index_policy(PageIndexPolicy::Required);
    reader.try_parse(&bytes).expect("footer");
    reader.finish().expect("footer")
}

fn table() -> TableLayout {
    layout(vec![optional(1, "id", PrimitiveType::Long), optional(2, "kind", PrimitiveType::String)])
}

fn columns() -> Vec<ArrayRef> {
    let ids: Int64Array = (0..5000).map(|id| Some(id * 7919)).collect();
    let kinds: StringArray = (0..5000).map(|id| Some(format!("kind {}", id % 7))).collect();
    vec![Arc::new(ids), Arc::new(kinds)]
}

#[test]
fn files_carry_ids_schema_page_index_and_the_codec_of_the_table() {
    let footer = footer(table(), columns());
    let file = footer.file_metadata();
    let key_values = file.key_value_metadata().expect("key values");
    let keys: Vec<&str> = key_values.iter().map(|entry| entry.key.as_str()).collect();
    assert_eq!(keys, ["iceberg.schema"], "no Arrow schema");
    let schema: iceberg::spec::Schema =
        serde_json::from_str(key_values[0].value.as_deref().expect("value")).expect("an Iceberg schema");
    assert_eq!(&schema, table().schema.as_ref());
    assert_eq!(file.schema_descr().root_schema().name(), "table");
    let ids: Vec<i32> = file.schema_descr().columns().iter().map(|c| c.self_type().get_basic_info().id()).collect();
    assert_eq!(ids, [1, 2]);
    assert!(file.created_by().is_some_and(|by| by.starts_with("frazil version ")));
    assert!(footer.column_index().is_some() && footer.offset_index().is_some());
    let mut codecs = footer.row_group(0).columns().iter().map(|chunk| chunk.compression());
    assert!(codecs.all(|codec| matches!(codec, Compression::ZSTD(_))));
}

#[test]
fn only_columns_that_it_pays_for_have_a_dictionary() {
    let footer = footer(table(), columns());
    let dictionary = |at: usize| footer.row_group(0).column(at).dictionary_page_offset().is_some();
    assert_eq!((dictionary(0), dictionary(1)), (false, true));
    let plain: Vec<Encoding> = footer.row_group(0).column(0).encodings().collect();
    assert!(plain.contains(&Encoding::PLAIN) && !plain.contains(&Encoding::RLE_DICTIONARY), "{plain:?}");
}

#[test]
fn pages_and_row_groups_keep_the_limits_of_the_table() {
    let layout = table()
        .with_properties(&[("write.parquet.page-row-limit", "1000"), ("write.parquet.row-group-size-bytes", "5000")]);
    let batch = layout.batch(columns());
    let options = WriterOptions { encode_bytes: 1, ..WriterOptions::default() };
    let batches = (0..10).map(|n| batch.slice(n * 500, 500)).collect();
    let written = written(layout, options, batches);
    let bytes = written.files.bytes(written.staged.files[0].file_path());
    let footer =
        ParquetMetaDataReader::new().with_page_index_policy(PageIndexPolicy::Required).parse_and_finish(&bytes);
    let footer = footer.expect("footer");
    assert!(footer.num_row_groups() > 1);
    let groups = footer.row_groups().iter().map(|group| group.num_rows());
    assert_eq!(groups.sum::<i64>(), 5000);
    for pages in footer.offset_index().expect("index").iter().flatten() {
        let starts: Vec<i64> = pages.page_locations().iter().map(|page| page.first_row_index).collect();
        assert!(starts.windows(2).all(|pair| pair[1] - pair[0] <= 1024), "{starts:?}");
    }
}

#[test]
fn bloom_filters_and_missing_statistics_follow_the_columns_named() {
    let layout = table().with_properties(&[
        ("write.parquet.bloom-filter-enabled.column.id", "true"),
        ("write.parquet.bloom-filter-max-bytes", "1000"),
        ("write.parquet.stats-enabled.column.kind", "false"),
    ]);
    let footer = footer(layout, columns());
    let group = footer.row_group(0);
    assert!(group.column(0).bloom_filter_offset().is_some() && group.column(1).bloom_filter_offset().is_none());
    assert!(group.column(0).bloom_filter_length().is_some_and(|length| (512..=1000).contains(&length)));
    assert!(group.column(0).statistics().is_some() && group.column(1).statistics().is_none());
}

#[test]
fn uuids_are_annotated_wherever_they_lie() {
    let layout = wide();
    let batch = random_rows(&layout, 20, &mut StdRng::seed_from_u64(1));
    let footer = footer(layout, batch.columns().to_vec());
    let is_uuid = |path: &str| {
        let columns = footer.file_metadata().schema_descr().columns();
        let column = columns.iter().find(|column| column.path().string() == path).expect("column");
        column.logical_type_ref() == Some(&LogicalType::Uuid)
    };
    assert!(is_uuid("uuid") && is_uuid("ids.key_value.value") && !is_uuid("fixed"));
}

#[test]
fn metrics_modes_decide_what_a_manifest_gets() {
    let layout = layout(vec![
        optional(1, "a", PrimitiveType::Long),
        optional(2, "b", PrimitiveType::Long),
        optional(3, "c", PrimitiveType::String),
        NestedField::optional(4, "d", iceberg::spec::Type::Primitive(PrimitiveType::String)),
    ])
    .with_properties(&[
        ("write.metadata.metrics.column.a", "none"),
        ("write.metadata.metrics.column.b", "counts"),
        ("write.metadata.metrics.column.c", "truncate(3)"),
        ("write.metadata.metrics.column.d", "full"),
    ]);
    let long = "x".repeat(300);
    let numbers = || Arc::new(Int64Array::from(vec![Some(1), None])) as ArrayRef;
    let texts = || Arc::new(StringArray::from(vec![Some(long.as_str()), None])) as ArrayRef;
    let batch = layout.batch(vec![numbers(), numbers(), texts(), texts()]);
    let written = written(layout, WriterOptions::default(), vec![batch]);
    let file = &written.staged.files[0];
    let mut sizes: Vec<i32> = file.column_sizes().keys().copied().collect();
    let mut counts: Vec<i32> = file.value_counts().keys().copied().collect();
    sizes.sort_unstable();
    counts.sort_unstable();
    assert_eq!((sizes, counts), (vec![1, 2, 3, 4], vec![2, 3, 4]));
    assert_eq!(file.null_value_counts()[&2], 1);
    assert!(!file.lower_bounds().contains_key(&2));
    assert_eq!(file.lower_bounds()[&3], iceberg::spec::Datum::string("xxx"));
    assert_eq!(file.upper_bounds()[&3], iceberg::spec::Datum::string("xxy"));
    assert_eq!(file.upper_bounds()[&4], iceberg::spec::Datum::string(&long));
}
