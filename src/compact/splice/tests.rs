use std::collections::BTreeMap;

use ::parquet::arrow::ArrowWriter;
use ::parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use ::parquet::arrow::arrow_reader::statistics::StatisticsConverter;
use ::parquet::basic::{Compression, ZstdLevel};
use ::parquet::file::metadata::{PageIndexPolicy, ParquetMetaDataOptions, ParquetMetaDataReader, RowGroupMetaData};
use ::parquet::file::properties::{EnabledStatistics, WriterProperties, WriterVersion};
use arrow::array::{
    Array, ArrayRef, AsArray, BooleanArray, Date32Array, Decimal128Array, Float32Array, Float64Array, Int32Array,
    Int64Array, LargeBinaryArray, StringArray, TimestampMicrosecondArray, make_comparator,
};
use arrow::compute::{SortOptions, cast, concat_batches};
use arrow::datatypes::{DataType, Float64Type, SchemaRef};
use arrow::error::ArrowError;
use arrow::record_batch::RecordBatch;
use iceberg::spec::{
    DataContentType, Datum, FormatVersion, NestedField, PartitionSpec, PrimitiveType, Schema, SortOrder, Struct, Type,
};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::*;
use crate::compact::files::Partition;
use crate::compact::masks::{Masks, Reading, Scope};
use crate::compact::merge::{MEMORY_MIN, Rewriter, Rewritten, Rung, Target, Work, files_in};
use crate::compact::pages::{Header, Kind, Page, pages};
use crate::env::SystemClock;
use crate::error::ErrorKind;
use crate::model::remap::Remap;
use crate::storage::{Storage, StorageOptions};
use crate::write::properties::WriteProperties;
use ::parquet::basic::PageType;

/// A table of flat columns of every form, and its files.
struct Table {
    env: Env,
    storage: Storage,
    layout: TableLayout,
}

/// How a file is written.
#[derive(Debug, Clone)]
struct Style {
    rows: usize,
    seed: u64,
    dictionary: bool,
    /// How many values a column has, about.
    distinct: u32,
    nulls: f64,
    second: bool,
    page_rows: usize,
    group_rows: usize,
    indexed: bool,
    dictionary_bytes: usize,
}

const COLUMNS: usize = 11;

fn layout() -> TableLayout {
    let optional = |id, name: &str, ty| NestedField::optional(id, name, Type::Primitive(ty));
    let fields = [
        NestedField::required(1, "k", Type::Primitive(PrimitiveType::Int)),
        optional(2, "n", PrimitiveType::Long),
        optional(3, "s", PrimitiveType::String),
        optional(4, "d", PrimitiveType::Decimal { precision: 9, scale: 2 }),
        optional(5, "e", PrimitiveType::Decimal { precision: 30, scale: 3 }),
        optional(6, "f", PrimitiveType::Float),
        optional(7, "g", PrimitiveType::Double),
        optional(8, "b", PrimitiveType::Boolean),
        optional(9, "t", PrimitiveType::Timestamptz),
        optional(10, "x", PrimitiveType::Binary),
        optional(11, "y", PrimitiveType::Date),
    ];
    let schema = Schema::builder().with_fields(fields.map(Arc::new)).build().expect("valid");
    let compression = Compression::ZSTD(ZstdLevel::try_new(3).expect("a level"));
    TableLayout {
        name: "db.t".parse().expect("valid"),
        location: "memory:///t".to_owned(),
        schema: Arc::new(schema),
        spec: Arc::new(PartitionSpec::unpartition_spec()),
        sort_order: Arc::new(SortOrder::unsorted_order()),
        properties: WriteProperties { page_rows: 40, compression, ..WriteProperties::default() },
        format_version: FormatVersion::V2,
    }
}

fn rows(schema: &SchemaRef, style: &Style) -> RecordBatch {
    let mut chance = StdRng::seed_from_u64(style.seed);
    let mut column = |at: usize| -> ArrayRef {
        let nulls = if at == 0 { 0.0 } else { style.nulls };
        let places: Vec<Option<u32>> = (0..style.rows)
            .map(|_| (!chance.random_bool(nulls)).then(|| chance.random_range(0..style.distinct.max(1))))
            .collect();
        let of = |value: fn(u32) -> i64| places.iter().map(move |place| place.map(value));
        match at {
            0 => Arc::new(of(|v| i64::from(v) - 5).map(|v| v.map(|v| v as i32)).collect::<Int32Array>()),
            1 => Arc::new(of(|v| (i64::from(v) - 9) << 40).collect::<Int64Array>()),
            2 => Arc::new(places.iter().map(|v| v.map(text)).collect::<StringArray>()),
            3 => {
                let values: Decimal128Array = of(|v| i64::from(v) - 50).map(|v| v.map(i128::from)).collect();
                Arc::new(values.with_precision_and_scale(9, 2).expect("fits"))
            }
            4 => {
                let values: Decimal128Array =
                    of(|v| i64::from(v) - 50).map(|v| v.map(|v| i128::from(v) << 60)).collect();
                Arc::new(values.with_precision_and_scale(30, 3).expect("fits"))
            }
            5 => Arc::new(places.iter().map(|v| v.map(|v| number(v) as f32)).collect::<Float32Array>()),
            6 => Arc::new(places.iter().map(|v| v.map(number)).collect::<Float64Array>()),
            7 => Arc::new(places.iter().map(|v| v.map(|v| v % 2 == 0)).collect::<BooleanArray>()),
            8 => Arc::new(of(|v| i64::from(v) - 3).collect::<TimestampMicrosecondArray>().with_timezone("+00:00")),
            9 => Arc::new(
                places
                    .iter()
                    .map(|v| v.map(|v| v.to_le_bytes()[..(v % 5) as usize].to_vec()))
                    .collect::<LargeBinaryArray>(),
            ),
            _ => Arc::new(of(i64::from).map(|v| v.map(|v| v as i32)).collect::<Date32Array>()),
        }
    };
    RecordBatch::try_new(Arc::clone(schema), (0..COLUMNS).map(&mut column).collect()).expect("fits")
}

fn text(value: u32) -> String {
    match value % 4 {
        0 if value < 4 => String::new(),
        1 => format!("{value}-{}", "long".repeat(40)),
        _ => format!("v{value}"),
    }
}

fn number(value: u32) -> f64 {
    match value {
        0 => f64::NAN,
        1 => -0.0,
        2 => 0.0,
        3 => f64::NEG_INFINITY,
        _ => f64::from(value) / 8.0 - 3.0,
    }
}

impl Table {
    fn new() -> Self {
        let env = Env::simulated(Arc::new(SystemClock), 3);
        Self { storage: Storage::new(StorageOptions::default(), env.clone()), env, layout: layout() }
    }

    fn encoded(&self, style: &Style) -> Vec<u8> {
        let shape = FileShape::new(self.layout.clone()).expect("a shape");
        let batch = rows(&shape.schema, style);
        let statistics = if style.indexed { EnabledStatistics::Page } else { EnabledStatistics::Chunk };
        let properties = WriterProperties::builder()
            .set_compression(Compression::ZSTD(ZstdLevel::default()))
            .set_dictionary_enabled(style.dictionary)
            .set_writer_version(if style.second { WriterVersion::PARQUET_2_0 } else { WriterVersion::PARQUET_1_0 })
            .set_encoding(::parquet::basic::Encoding::PLAIN)
            .set_data_page_row_count_limit(style.page_rows)
            .set_dictionary_page_size_limit(style.dictionary_bytes)
            .set_write_batch_size(style.page_rows)
            .set_max_row_group_row_count(Some(style.group_rows))
            .set_statistics_enabled(statistics)
            .build();
        let mut bytes = Vec::new();
        let mut writer = ArrowWriter::try_new(&mut bytes, batch.schema(), Some(properties)).expect("opens");
        writer.write(&batch).expect("in memory");
        writer.close().expect("in memory");
        bytes
    }

    async fn put(&self, name: &str, bytes: Vec<u8>, rows: usize) -> DataEntry {
        let (location, size) = (format!("memory:///t/data/{name}"), bytes.len() as u64);
        self.storage.write(&location, Bytes::from(bytes)).await.expect("writable");
        DataEntry {
            location,
            bytes: size,
            rows: rows as u64,
            seq: 1,
            partition: 0,
            first_row_id: None,
            sort_order_id: None,
            added_ms: None,
            readable: true,
        }
    }

    async fn inputs(&self, styles: &[Style]) -> Vec<DataEntry> {
        let mut inputs = Vec::new();
        for (at, style) in styles.iter().enumerate() {
            inputs.push(self.put(&format!("f{at}"), self.encoded(style), style.rows).await);
        }
        inputs
    }

    async fn rewrite(&self, inputs: &[DataEntry], splice: bool) -> Result<Rewritten> {
        let partitions = [Partition { spec_id: 0, values: Struct::empty(), global: true }];
        let work = Work { inputs: inputs.to_vec(), deletes: Vec::new() };
        self.rewriter(splice).rewrite(&work, &partitions, &[&self.layout.spec]).await
    }

    /// The rows of files, in their order.
    async fn read<'a>(&self, locations: impl Iterator<Item = &'a str>) -> RecordBatch {
        let mut files = Vec::new();
        for location in locations {
            files.push(self.storage.read(location).await.expect("there"));
        }
        decode(&self.layout, &files).expect("rows")
    }

    /// The files with the rows of these, if they can be copied.
    async fn copy(&self, inputs: &[DataEntry]) -> Result<Option<Vec<DataFile>>> {
        let target = Target::new(&self.layout)?;
        let partitions = [Partition { spec_id: 0, values: Struct::empty(), global: true }];
        let reading = Reading { env: &self.env, storage: &self.storage, bytes_max: 1 << 24 };
        let scope = Scope { target: &target, inputs, partitions: &partitions, specs: &[] };
        let pass = Pass { reading, scope, masks: &Masks::default(), memory: MEMORY_MIN };
        self.rewriter(true).spliced(pass, &mut Trail::new(&self.layout, 1 << 20)).await
    }

    fn rewriter(&self, splice: bool) -> Rewriter<'_> {
        Rewriter {
            env: &self.env,
            storage: &self.storage,
            files: files_in(&self.storage, None),
            layout: self.layout.clone(),
            memory: 0,
            cores: 2,
            splice,
        }
    }
}

fn decode(layout: &TableLayout, files: &[Bytes]) -> Result<RecordBatch, ArrowError> {
    let schema = FileShape::new(layout.clone()).expect("a shape").schema;
    let mut batches = Vec::new();
    for bytes in files {
        for batch in ParquetRecordBatchReaderBuilder::try_new(bytes.clone())?.build()? {
            let batch = batch?;
            let columns = batch.columns().iter().zip(schema.fields());
            let columns = columns.map(|(column, field)| cast(column, field.data_type())).collect::<Result<_, _>>()?;
            batches.push(RecordBatch::try_new(Arc::clone(&schema), columns)?);
        }
    }
    concat_batches(&schema, &batches)
}

/// Values in the bits that they have: of floats every NaN and both zeros.
fn bits(batch: &RecordBatch) -> Vec<Vec<Option<String>>> {
    let shown = |column: &ArrayRef, row: usize| match column.data_type() {
        _ if column.is_null(row) => None,
        DataType::Float32 => {
            let values = column.as_any().downcast_ref::<Float32Array>().expect("floats");
            Some(format!("{:x}", values.value(row).to_bits()))
        }
        DataType::Float64 => {
            let values = column.as_any().downcast_ref::<Float64Array>().expect("doubles");
            Some(format!("{:x}", values.value(row).to_bits()))
        }
        _ => Some(arrow::util::display::array_value_to_string(column, row).expect("shown")),
    };
    let columns = batch.columns().iter();
    columns.map(|column| (0..batch.num_rows()).map(|row| shown(column, row)).collect()).collect()
}

/// That every page of a file is what footer and indexes say, and that no index follows a value.
fn check_file(bytes: &Bytes) {
    let options = ParquetMetaDataOptions::new().with_encoding_stats_as_mask(false);
    let reader = ParquetMetaDataReader::new().with_page_index_policy(PageIndexPolicy::Required);
    let reader = reader.with_metadata_options(Some(options));
    let footer = reader.parse_and_finish(bytes).expect("footer and indexes");
    for (at, group) in footer.row_groups().iter().enumerate() {
        for (leaf, chunk) in group.columns().iter().enumerate() {
            let (start, length) = chunk.byte_range();
            let own = bytes.slice(start as usize..(start + length) as usize);
            let found = pages(&own).expect("sound pages");
            let mut counted: BTreeMap<(u8, i32), i32> = BTreeMap::new();
            let mut values = false;
            let mut data = Vec::new();
            for page in &found {
                let kind = match page.header.kind {
                    Kind::Dictionary => 0,
                    Kind::V1 => 1,
                    Kind::V2 { .. } => 2,
                };
                *counted.entry((kind, page.header.encoding)).or_default() += 1;
                if kind > 0 {
                    assert!(!(values && page.header.is_index()), "an index after a value in {}", chunk.column_path());
                    values |= !page.header.is_index();
                    data.push(page.header.values);
                }
            }
            let said = chunk.page_encoding_stats().expect("said").iter().map(|stats| {
                let kind = match stats.page_type {
                    PageType::DICTIONARY_PAGE => 0,
                    PageType::DATA_PAGE => 1,
                    _ => 2,
                };
                assert!(chunk.encodings().any(|encoding| encoding == stats.encoding));
                ((kind, stats.encoding as i32), stats.count)
            });
            assert_eq!(said.collect::<BTreeMap<_, _>>(), counted);
            let locations = footer.offset_index().expect("there")[at][leaf].page_locations();
            let mut first = 0;
            assert_eq!(locations.len(), data.len());
            for (location, rows) in locations.iter().zip(&data) {
                assert_eq!(location.first_row_index, first as i64);
                let (header, _) = Header::read(&bytes[location.offset as usize..]).expect("a page");
                assert_eq!(header.values, *rows);
                first += rows;
            }
            assert_eq!(first as i64, group.num_rows());
        }
    }
}

/// That the values of each page and row group are within the bounds that are said of them, and nulls as many as is said.
fn check_bounds(bytes: &Bytes, schema: &SchemaRef) {
    let reader = ParquetMetaDataReader::new().with_page_index_policy(PageIndexPolicy::Required);
    let footer = reader.parse_and_finish(bytes).expect("footer and indexes");
    let (columns, offsets) = (footer.column_index(), footer.offset_index().expect("there"));
    for (group, metadata) in footer.row_groups().iter().enumerate() {
        let built = ParquetRecordBatchReaderBuilder::try_new(bytes.clone()).expect("a footer");
        let rows = built.with_row_groups(vec![group]).build().expect("a reader").map(|batch| batch.expect("rows"));
        let rows: Vec<RecordBatch> = rows.collect();
        let held = rows[0].schema();
        let rows = concat_batches(&held, &rows).expect("one schema");
        for (leaf, field) in schema.fields().iter().enumerate() {
            let descr = footer.file_metadata().schema_descr();
            let said = StatisticsConverter::try_new(field.name(), &held, descr).expect("a column");
            let column = rows.column(leaf);
            let nulls = said.row_group_null_counts([metadata]).expect("counts").value(0);
            assert_eq!(nulls, column.null_count() as u64);
            let (min, max) =
                (said.row_group_mins([metadata]).expect("read"), said.row_group_maxes([metadata]).expect("read"));
            within(column, &min.slice(0, 1), &max.slice(0, 1));
            let Some(columns) = columns else { continue };
            if matches!(columns[group][leaf], ColumnIndexMetaData::NONE) {
                assert!(is_float(column), "{} has no column index", field.name());
                continue;
            }
            let mins = said.data_page_mins(columns, offsets, [&group]).expect("read");
            let maxes = said.data_page_maxes(columns, offsets, [&group]).expect("read");
            let counts = said.data_page_null_counts(columns, offsets, [&group]).expect("read");
            let starts: Vec<usize> =
                offsets[group][leaf].page_locations().iter().map(|page| page.first_row_index as usize).collect();
            for (page, start) in starts.iter().enumerate() {
                let end = starts.get(page + 1).copied().unwrap_or(rows.num_rows());
                let own = column.slice(*start, end - start);
                assert_eq!(counts.value(page), own.null_count() as u64, "nulls of page {page} of {}", field.name());
                within(&own, &mins.slice(page, 1), &maxes.slice(page, 1));
            }
        }
    }
}

fn is_float(column: &ArrayRef) -> bool {
    matches!(column.data_type(), DataType::Float32 | DataType::Float64)
}

fn within(values: &ArrayRef, min: &ArrayRef, max: &ArrayRef) {
    let options = SortOptions::default();
    let is_nan = |row: usize| {
        is_float(values)
            && cast(values, &DataType::Float64).expect("floats").as_primitive::<Float64Type>().value(row).is_nan()
    };
    let own: Vec<usize> = (0..values.len()).filter(|row| values.is_valid(*row) && !is_nan(*row)).collect();
    if own.is_empty() {
        return;
    }
    assert!(min.is_valid(0) && max.is_valid(0), "no bounds for {:?}", values.data_type());
    let (low, high) = (
        make_comparator(values, min, options).expect("one type"),
        make_comparator(values, max, options).expect("one type"),
    );
    for row in own {
        assert!(low(row, 0).is_ge() && high(row, 0).is_le(), "{values:?} {row} {min:?} {max:?}");
    }
}

fn check_entry(copied: &[DataFile], merged: &[DataFile], exact: bool) {
    let sum = |files: &[DataFile], counts: fn(&DataFile) -> &std::collections::HashMap<i32, u64>| {
        let mut all: BTreeMap<i32, u64> = BTreeMap::new();
        files.iter().flat_map(counts).for_each(|(id, count)| *all.entry(*id).or_default() += count);
        all
    };
    for counts in [DataFile::value_counts, DataFile::null_value_counts, DataFile::nan_value_counts] {
        assert_eq!(sum(copied, counts), sum(merged, counts));
    }
    let ([copied], [merged]) = (copied, merged) else { return };
    assert_eq!(copied.content_type(), DataContentType::Data);
    let same = |id: &i32, a: Option<&Datum>, b: &Datum, below: bool| {
        let held = a.unwrap_or_else(|| panic!("no bound of column {id}"));
        assert!(if below { held <= b } else { held >= b }, "column {id}: {held:?} beside {b:?}");
        assert!(!exact || held == b, "column {id}: {held:?} is not {b:?}");
    };
    for (id, bound) in merged.lower_bounds() {
        same(id, copied.lower_bounds().get(id), bound, true);
    }
    for (id, bound) in merged.upper_bounds() {
        same(id, copied.upper_bounds().get(id), bound, false);
    }
    assert_eq!(copied.lower_bounds().len(), merged.lower_bounds().len());
    assert_eq!(copied.upper_bounds().len(), merged.upper_bounds().len());
}

fn style() -> impl proptest::strategy::Strategy<Value = Style> {
    use proptest::prelude::*;
    let sizes = (prop_oneof![Just(0_usize), 1..20_usize, 20..300_usize], any::<u64>(), any::<bool>(), any::<bool>());
    let values = (prop_oneof![Just(1_u32), 2..12_u32, 100..5000_u32], prop_oneof![Just(0.0), Just(0.3), Just(1.0)]);
    let pages = (1..120_usize, 1..400_usize, any::<bool>(), prop_oneof![Just(1_usize << 20), 1..500_usize]);
    (sizes, values, pages).prop_map(|((rows, seed, dictionary, second), (distinct, nulls), pages)| Style {
        rows,
        seed,
        dictionary,
        distinct,
        nulls,
        second,
        page_rows: pages.0,
        group_rows: pages.1,
        indexed: pages.2,
        dictionary_bytes: pages.3,
    })
}

fn block_on<T>(work: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime").block_on(work)
}

proptest::proptest! {
    #![proptest_config(proptest::prelude::ProptestConfig::with_cases(96))]

    /// Whatever the files are, their rows come out as they were and in their order, as when they are decoded; what is said of them is
    /// true, and no index follows a value.
    #[test]
    fn rows_that_are_copied_are_those_that_are_decoded_and_so_is_what_is_said_of_them(
        styles in proptest::collection::vec(style(), 1..7),
        page_rows in 4..100_usize,
    ) {
        block_on(async {
            let mut table = Table::new();
            table.layout.properties.page_rows = page_rows;
            let inputs = table.inputs(&styles).await;
            let copied = table.rewrite(&inputs, true).await.expect("copied");
            let merged = table.rewrite(&inputs, false).await.expect("decoded");
            assert_eq!((copied.rung, merged.rung), (Rung::Splice, Rung::Merge));
            let paths = |files: &[DataFile]| files.iter().map(|file| file.file_path().to_owned()).collect::<Vec<_>>();
            let wanted = table.read(inputs.iter().map(|input| input.location.as_str())).await;
            let got = table.read(paths(&copied.outputs).iter().map(String::as_str)).await;
            assert_eq!(bits(&got), bits(&wanted));
            assert_eq!(bits(&table.read(paths(&merged.outputs).iter().map(String::as_str)).await), bits(&wanted));
            check_entry(&copied.outputs, &merged.outputs, true);
            for file in &copied.outputs {
                let bytes = table.storage.read(file.file_path()).await.expect("there");
                assert_eq!(bytes.len() as u64, file.file_size_in_bytes());
                check_file(&bytes);
                check_bounds(&bytes, &wanted.schema());
            }
        });
    }
}

fn usual(rows: usize, seed: u64) -> Style {
    Style {
        rows,
        seed,
        dictionary: true,
        distinct: 9,
        nulls: 0.2,
        second: false,
        page_rows: 50,
        group_rows: 1_000,
        indexed: true,
        dictionary_bytes: 1 << 20,
    }
}

/// The pages of each chunk of a column in a file.
async fn pages_of(table: &Table, file: &DataFile, leaf: usize) -> Vec<Vec<Page>> {
    let bytes = table.storage.read(file.file_path()).await.expect("there");
    let footer = ParquetMetaDataReader::new().parse_and_finish(&bytes).expect("a footer");
    let chunk = |group: &RowGroupMetaData| {
        let (start, length) = group.column(leaf).byte_range();
        pages(&bytes.slice(start as usize..(start + length) as usize)).expect("sound")
    };
    footer.row_groups().iter().map(chunk).collect()
}

#[tokio::test]
async fn pages_that_are_large_enough_stay_as_they_are_and_small_ones_are_brought_together() {
    let table = Table::new();
    let plain = |page_rows, seed| Style { dictionary: false, nulls: 0.0, page_rows, ..usual(100, seed) };
    let inputs = table.inputs(&[plain(50, 1), plain(8, 2), plain(50, 3)]).await;
    let copied = table.rewrite(&inputs, true).await.expect("copied");
    assert_eq!(copied.rung, Rung::Splice);
    let own = pages_of(&table, &copied.outputs[0], 1).await.remove(0);
    let rows: Vec<usize> = own.iter().map(|page| page.header.values).collect();
    // 40 rows are a page's: those of eight become pages of so many, but for those that are left.
    assert_eq!(rows, [50, 50, 40, 40, 20, 50, 50]);
    let held = table.storage.read(&inputs[0].location).await.expect("there");
    let found = |page: &Page| held.windows(page.body.len()).any(|bytes| bytes == page.body);
    assert!(own[..2].iter().all(found) && !own[2..].iter().any(found));
}

#[tokio::test]
async fn dictionaries_become_one_until_a_value_comes_and_none_where_it_would_be_too_large() {
    let mut table = Table::new();
    let plain = Style { dictionary: false, ..usual(100, 2) };
    let inputs = table.inputs(&[usual(100, 1), usual(100, 5), plain.clone(), usual(100, 3)]).await;
    let kinds = |pages: &[Page]| {
        pages.iter().map(|page| (page.header.kind == Kind::Dictionary, page.header.encoding)).collect::<Vec<_>>()
    };
    let copied = table.rewrite(&inputs, true).await.expect("copied");
    let own = pages_of(&table, &copied.outputs[0], 1).await.remove(0);
    let (index, value) = ((false, 8), (false, 0));
    assert_eq!(
        kinds(&own),
        [(true, 0), index, index, index, index, value, value, value, value, value, value][..kinds(&own).len()]
    );
    assert_eq!(own[0].header.values, 9);
    assert!(own.iter().filter(|page| page.header.encoding == 8).count() >= 2);
    table.layout.properties.dictionary_bytes = 8 * 8;
    let gathered = table.rewrite(&inputs, true).await.expect("copied");
    let own = pages_of(&table, &gathered.outputs[0], 1).await.remove(0);
    assert!(kinds(&own).iter().all(|kind| *kind == value), "{:?}", kinds(&own));
}

#[tokio::test]
async fn files_are_cut_at_their_size_and_the_trail_says_where_rows_went() {
    let mut table = Table::new();
    let styles: Vec<Style> = (0..40).map(|seed| Style { distinct: 5_000, ..usual(300, seed) }).collect();
    let inputs = table.inputs(&styles).await;
    let all: u64 = inputs.iter().map(|input| input.bytes).sum();
    table.layout.properties.target_file_bytes = all / 10;
    table.layout.properties.page_rows = 2_000;
    let copied = table.rewrite(&inputs, true).await.expect("copied");
    assert_eq!(copied.rung, Rung::Splice);
    let target = table.layout.properties.target_file_bytes;
    let (last, whole) = copied.outputs.split_last().expect("files");
    assert!(whole.len() >= 2);
    for file in whole {
        let share = file.file_size_in_bytes() * 100 / target;
        assert!((78..=106).contains(&share), "{share} % of the target");
    }
    assert!(last.file_size_in_bytes() <= target * 106 / 100);
    let mut first = 0;
    for input in &inputs {
        let Some(Remap::Affine(map)) = copied.remap.get(&input.location) else { panic!("nothing is known") };
        assert_eq!((map.base, map.rows, map.applied.is_empty()), (first, input.rows, true));
        first += input.rows;
    }
    // Where files of one row group are too small for a file, and two too large, rows are decoded.
    let large =
        |seed| Style { distinct: 5_000, dictionary: false, page_rows: 2_000, group_rows: 9_000, ..usual(6_000, seed) };
    let inputs = table.inputs(&[large(1), large(2), large(3)]).await;
    table.layout.properties.target_file_bytes = inputs[0].bytes * 14 / 10;
    assert_eq!(table.rewrite(&inputs, true).await.expect("decoded").rung, Rung::Merge);
}

#[tokio::test]
async fn more_than_is_held_at_a_time_is_copied_in_several_row_groups() {
    let mut table = Table::new();
    table.layout.properties.compression = Compression::UNCOMPRESSED;
    table.layout.properties.page_rows = 20_000;
    let schema = FileShape::new(table.layout.clone()).expect("a shape").schema;
    let batch = rows(&schema, &Style { distinct: u32::MAX, ..usual(30_000, 1) });
    let properties =
        WriterProperties::builder().set_compression(Compression::UNCOMPRESSED).set_dictionary_enabled(false);
    let mut bytes = Vec::new();
    let mut writer = ArrowWriter::try_new(&mut bytes, batch.schema(), Some(properties.build())).expect("opens");
    writer.write(&batch).expect("in memory");
    writer.close().expect("in memory");
    let mut inputs = Vec::new();
    for at in 0..6 {
        inputs.push(table.put(&format!("f{at}"), bytes.clone(), 30_000).await);
    }
    let all: u64 = inputs.iter().map(|input| input.bytes).sum();
    assert!(all > 2 * MEMORY_MIN / 8, "{all} bytes");
    let copied = table.rewrite(&inputs, true).await.expect("copied");
    assert_eq!((copied.rung, copied.outputs[0].record_count()), (Rung::Splice, 180_000));
    assert!(copied.outputs[0].split_offsets().expect("said").len() > 2);
}

/// Whatever byte is another: the file is not copied, or its rows are those that decoding finds, if it finds any. Nothing panics.
#[tokio::test]
async fn files_that_are_broken_are_not_copied() {
    let mut table = Table::new();
    table.layout.properties.page_rows = 400; // no page is large enough to stay
    let whole = table.encoded(&usual(200, 1));
    let other = table.put("other", table.encoded(&usual(200, 2)), 200).await;
    let footer = ParquetMetaDataReader::new().parse_and_finish(&Bytes::from(whole.clone())).expect("a footer");
    let decoded = async |locations: &[String]| {
        let mut files = Vec::new();
        for location in locations {
            files.push(table.storage.read(location).await.expect("there"));
        }
        let read = || decode(&table.layout, &files).ok().map(|rows| bits(&rows.slice(0, 200)));
        std::panic::catch_unwind(std::panic::AssertUnwindSafe(read)).ok().flatten()
    };
    let (mut tried, mut refused) = (0, 0);
    for leaf in [1, 2] {
        let (start, length) = footer.row_group(0).column(leaf).byte_range();
        for (at, flip) in (start..start + length).flat_map(|at| [(at, 0x01), (at, 0xff)]) {
            let mut bytes = whole.clone();
            bytes[at as usize] ^= flip;
            let input = table.put("broken", bytes, 200).await;
            let found = decoded(std::slice::from_ref(&input.location)).await;
            tried += 1;
            match table.copy(&[input, other.clone()]).await.expect("the store is there") {
                None => refused += 1,
                Some(files) => {
                    let paths: Vec<String> = files.iter().map(|file| file.file_path().to_owned()).collect();
                    let got = decoded(&paths).await;
                    assert!(found.is_none() || got == found, "byte {at} of column {leaf}");
                }
            }
        }
    }
    assert!(refused * 2 > tried, "{refused} of {tried} were refused");
    let mut short = whole.clone();
    short.truncate(whole.len() - 9);
    let input = table.put("short", short, 200).await;
    assert!(table.copy(std::slice::from_ref(&input)).await.expect("the store is there").is_none());
    assert_eq!(table.rewrite(&[input, other], true).await.expect_err("cut off").kind(), ErrorKind::Corrupt);
}

#[tokio::test]
async fn files_of_another_form_are_decoded() {
    let mut table = Table::new();
    let inputs = table.inputs(&[usual(100, 1), usual(100, 2)]).await;
    let rung = async |table: &Table| table.rewrite(&inputs, true).await.expect("rewritten").rung;
    assert_eq!(rung(&table).await, Rung::Splice);
    assert!(copies(&table.layout));
    let own = table.layout.clone();
    table.layout.properties.compression = Compression::SNAPPY;
    assert!(!copies(&table.layout));
    assert_eq!(rung(&table).await, Rung::Merge);
    table.layout = own.clone();
    table.layout.properties.bloom_filters.insert("n".to_owned(), 0.01);
    assert_eq!(rung(&table).await, Rung::Merge);
    table.layout = own.clone();
    table.layout.format_version = FormatVersion::V3;
    assert_eq!(rung(&table).await, Rung::Merge);
    table.layout = own.clone();
    table.layout.properties.compression = Compression::UNCOMPRESSED;
    assert_eq!(rung(&table).await, Rung::Merge, "files of another codec");
    table.layout = own.clone();
    let later = NestedField::optional(20, "later", Type::Primitive(PrimitiveType::Int));
    let wider = own.schema.as_ref().clone().into_builder().with_fields([Arc::new(later)]).build().expect("valid");
    table.layout.schema = Arc::new(wider);
    assert_eq!(rung(&table).await, Rung::Merge, "files that lack a column");
    table.layout = own;
    assert_eq!(table.rewrite(&inputs, false).await.expect("rewritten").rung, Rung::Merge, "switched off");
}
