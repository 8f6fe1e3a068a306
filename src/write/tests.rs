use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use ::parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use ::parquet::arrow::async_writer::AsyncFileWriter;
use ::parquet::errors::ParquetError;
use arrow::array::{Array, ArrayRef, Int64Array, LargeBinaryArray, StringArray, make_comparator};
use arrow::compute::SortOptions;
use arrow::datatypes::{DataType, Field, TimeUnit};
use bytes::Bytes;
use futures::FutureExt;
use iceberg::spec::{
    Datum, FormatVersion, ListType, Literal, MapType, NestedField, NullOrder, PartitionSpec, PrimitiveType, Schema,
    SortDirection, SortField, SortOrder, StructType, Transform, Type, UnboundPartitionField, UnboundPartitionSpec,
};
use proptest::prelude::*;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::*;
use crate::env::SystemClock;
use crate::error::{Error, ErrorKind};
use crate::write::parquet::OpenFile;
use crate::write::properties::WriteProperties;

/// Files in memory: complete ones by location, and how often one was created.
#[derive(Clone, Default)]
pub(crate) struct MemoryFiles {
    pub(crate) complete: Arc<Mutex<BTreeMap<String, Bytes>>>,
    pub(crate) created: Arc<Mutex<usize>>,
    pub(crate) aborted: Arc<Mutex<usize>>,
    /// Bytes after which writing fails.
    pub(crate) full_after: Option<usize>,
}

struct MemoryFile {
    files: MemoryFiles,
    location: String,
    bytes: Vec<u8>,
}

impl AsyncFileWriter for MemoryFile {
    fn write(&mut self, bs: Bytes) -> futures::future::BoxFuture<'_, Result<(), ParquetError>> {
        self.bytes.extend_from_slice(&bs);
        let full = self.files.full_after.is_some_and(|limit| self.bytes.len() > limit);
        let error = || Error::new(ErrorKind::Denied, "disk full");
        let answer = if full { Err(ParquetError::External(Box::new(error()))) } else { Ok(()) };
        async move { answer }.boxed()
    }

    fn complete(&mut self) -> futures::future::BoxFuture<'_, Result<(), ParquetError>> {
        let bytes = Bytes::from(std::mem::take(&mut self.bytes));
        self.files.complete.lock().expect("lock").insert(self.location.clone(), bytes);
        async { Ok(()) }.boxed()
    }
}

impl OpenFile for MemoryFile {
    fn abort(&mut self) -> futures::future::BoxFuture<'_, Result<()>> {
        *self.files.aborted.lock().expect("lock") += 1;
        async { Ok(()) }.boxed()
    }
}

impl MemoryFiles {
    pub(crate) fn files(&self) -> Files {
        let (create, remove) = (self.clone(), self.clone());
        Files {
            create: Arc::new(move |location| {
                *create.created.lock().expect("lock") += 1;
                let file = MemoryFile { files: create.clone(), location, bytes: Vec::new() };
                async move { Ok(Box::new(file) as Box<dyn OpenFile>) }.boxed()
            }),
            remove: Arc::new(move |locations| {
                remove.complete.lock().expect("lock").retain(|location, _| !locations.contains(location));
                async { Ok(()) }.boxed()
            }),
        }
    }

    pub(crate) fn bytes(&self, location: &str) -> Bytes {
        self.complete.lock().expect("lock").get(location).cloned().expect("the file is complete")
    }

    pub(crate) fn read(&self, file: &DataFile) -> Vec<RecordBatch> {
        let bytes = self.bytes(file.file_path());
        assert_eq!(bytes.len() as u64, file.file_size_in_bytes());
        let reader = ParquetRecordBatchReaderBuilder::try_new(bytes).expect("footer").build().expect("reader");
        let batches: Vec<RecordBatch> = reader.map(|batch| batch.expect("batch")).collect();
        assert_eq!(batches.iter().map(|b| b.num_rows() as u64).sum::<u64>(), file.record_count());
        batches
    }
}

/// A layout to be adjusted.
pub(crate) fn layout(fields: Vec<NestedField>) -> TableLayout {
    let schema = Schema::builder().with_fields(fields.into_iter().map(Arc::new)).build().expect("schema");
    TableLayout {
        name: "db.t".parse().expect("name"),
        location: "memory://lake/db/t".to_owned(),
        schema: Arc::new(schema),
        spec: Arc::new(PartitionSpec::unpartition_spec()),
        sort_order: Arc::new(SortOrder::unsorted_order()),
        properties: WriteProperties::default(),
        format_version: FormatVersion::V2,
    }
}

pub(crate) fn optional(id: i32, name: &str, ty: PrimitiveType) -> NestedField {
    NestedField::optional(id, name, Type::Primitive(ty))
}

impl TableLayout {
    pub(crate) fn partitioned(mut self, fields: &[(i32, &str, Transform)]) -> Self {
        let fields = fields.iter().enumerate().map(|(at, (source_id, name, transform))| UnboundPartitionField {
            source_id: *source_id,
            field_id: Some(1000 + at as i32),
            name: (*name).to_owned(),
            transform: *transform,
        });
        let spec =
            UnboundPartitionSpec::builder().with_spec_id(3).add_partition_fields(fields).expect("fields").build();
        self.spec = Arc::new(spec.bind(Arc::clone(&self.schema)).expect("spec"));
        self
    }

    pub(crate) fn with_properties(mut self, properties: &[(&str, &str)]) -> Self {
        let properties: HashMap<String, String> =
            properties.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        self.properties = WriteProperties::from_table(&properties, &WriteProperties::default()).expect("properties");
        self
    }

    pub(crate) fn batch(&self, columns: Vec<ArrayRef>) -> RecordBatch {
        RecordBatch::try_new(self.arrow_schema().expect("schema"), columns).expect("batch")
    }
}

/// Columns are encoded beside the work: that needs a runtime.
fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().build().expect("a runtime")
}

pub(crate) fn env() -> Env {
    Env::simulated(Arc::new(SystemClock), 7)
}

pub(crate) struct Written {
    pub(crate) staged: Staged,
    pub(crate) files: MemoryFiles,
    pub(crate) rejected: Vec<RejectedRow>,
}

/// Writes batches as one epoch.
pub(crate) fn written(layout: TableLayout, options: WriterOptions, batches: Vec<RecordBatch>) -> Written {
    let (files, budget) = (MemoryFiles::default(), Budget::new(1 << 30));
    let mut writer = EpochWriter::new(layout, files.files(), &budget, env(), options).expect("layout");
    let mut rejected = Vec::new();
    let work = async {
        for batch in batches {
            rejected.extend(writer.write(batch).await.expect("written"));
        }
        writer.finish().await.expect("finished")
    };
    let staged = runtime().block_on(work);
    assert_eq!(budget.used(), 0);
    Written { staged, files, rejected }
}

/// A row as text, for comparing multisets of rows.
pub(crate) fn rows_of(batches: &[RecordBatch]) -> Vec<String> {
    let mut rows = Vec::new();
    for batch in batches {
        let options = arrow::util::display::FormatOptions::new().with_null("∅");
        let columns: Vec<_> =
            batch.columns().iter().map(|c| arrow::compute::cast(c, &loose(c)).expect("cast")).collect();
        let columns: Vec<_> = columns
            .iter()
            .map(|c| arrow::util::display::ArrayFormatter::try_new(c.as_ref(), &options).expect("formatter"))
            .collect();
        for row in 0..batch.num_rows() {
            rows.push(columns.iter().map(|c| c.value(row).to_string()).collect::<Vec<_>>().join("|"));
        }
    }
    rows
}

/// Parquet does not tell large binary from binary.
fn loose(column: &ArrayRef) -> DataType {
    match column.data_type() {
        DataType::LargeBinary => DataType::Binary,
        other => other.clone(),
    }
}

fn events() -> TableLayout {
    layout(vec![
        optional(1, "id", PrimitiveType::Long),
        optional(2, "kind", PrimitiveType::String),
        optional(3, "body", PrimitiveType::Binary),
    ])
}

fn event_rows(schema: &TableLayout, ids: &[Option<i64>]) -> RecordBatch {
    let kinds = ids.iter().map(|id| id.map(|id| format!("k{}", id.rem_euclid(3))));
    let bodies = ids.iter().map(|id| id.map(|id| vec![u8::try_from(id.rem_euclid(251)).expect("byte"); 9]));
    schema.batch(vec![
        Arc::new(Int64Array::from(ids.to_vec())),
        Arc::new(kinds.collect::<StringArray>()),
        Arc::new(bodies.collect::<LargeBinaryArray>()),
    ])
}

#[test]
fn rows_of_an_unpartitioned_table_are_read_back_in_order() {
    let layout = events();
    let batches = vec![event_rows(&layout, &[Some(1), None, Some(3)]), event_rows(&layout, &[Some(4)])];
    let written = written(layout, WriterOptions::default(), batches.clone());
    let [file] = written.staged.files.as_slice() else { panic!("one file") };
    assert_eq!(rows_of(&written.files.read(file)), rows_of(&batches));
    assert!(file.file_path().starts_with("memory://lake/db/t/data/00000-"), "{}", file.file_path());
    assert!(file.file_path().ends_with("-00001.parquet"), "{}", file.file_path());
    assert_eq!((written.staged.rows, written.staged.bytes), (4, file.file_size_in_bytes()));
}

#[test]
fn an_epoch_without_rows_has_no_files() {
    let layout = events();
    let empty = event_rows(&layout, &[]);
    let written = written(layout, WriterOptions::default(), vec![empty]);
    assert_eq!((written.staged.files.len(), *written.files.created.lock().expect("lock")), (0, 0));
}

#[test]
fn a_partitioned_table_has_one_file_per_partition() {
    let layout = events().partitioned(&[(2, "kind", Transform::Identity)]);
    let ids: Vec<Option<i64>> = (0..100).map(|id| (id % 10 != 9).then_some(id)).collect();
    let batch = event_rows(&layout, &ids);
    let written = written(layout, WriterOptions::default(), vec![batch.clone()]);
    assert_eq!(written.staged.files.len(), 4, "three kinds and null");
    let mut read: Vec<String> = written.staged.files.iter().flat_map(|f| rows_of(&written.files.read(f))).collect();
    let mut expected = rows_of(&[batch]);
    read.sort_unstable();
    expected.sort_unstable();
    assert_eq!(read, expected);
    let folders: Vec<&str> = written.staged.files.iter().filter_map(|f| f.file_path().split('/').nth(6)).collect();
    assert_eq!(folders, ["kind=k0", "kind=k1", "kind=k2", "kind=null"]);
}

#[test]
fn partitions_with_few_rows_wait_without_a_parquet_writer_however_many_they_are() {
    let layout = events().partitioned(&[(1, "id", Transform::Identity)]);
    let batch = event_rows(&layout, &(0..500).map(Some).collect::<Vec<_>>());
    let begun_by = |encode_bytes| {
        let (files, budget) = (MemoryFiles::default(), Budget::new(1 << 30));
        let options = WriterOptions { gather_bytes_max: 1, encode_bytes, ..WriterOptions::default() };
        let mut writer = EpochWriter::new(layout.clone(), files.files(), &budget, env(), options).expect("layout");
        runtime().block_on(writer.write(batch.clone())).expect("written");
        *files.created.lock().expect("lock")
    };
    assert_eq!((begun_by(1 << 20), begun_by(1)), (0, 64), "no more than may be open");
}

#[test]
fn a_writer_whose_places_others_hold_lets_its_rows_wait_and_is_finished_all_the_same() {
    let layout = events().partitioned(&[(1, "id", Transform::Identity)]);
    let batch = event_rows(&layout, &[Some(1), Some(2), Some(3)]);
    let (all, files, budget) = (OpenFiles::shared(3, 2), MemoryFiles::default(), Budget::new(1 << 30));
    let begun = || *files.created.lock().expect("lock");
    let writer = || {
        let options = WriterOptions { encode_bytes: 1, open_files: all.share(), ..WriterOptions::default() };
        EpochWriter::new(layout.clone(), files.files(), &budget, env(), options).expect("layout")
    };
    runtime().block_on(async {
        let (mut one, mut other) = (writer(), writer());
        for writer in [&mut one, &mut other] {
            writer.write(batch.clone()).await.expect("written");
            assert_eq!(begun(), 1, "the only place that is not kept for the end");
        }
        // While the first one goes on.
        assert_eq!(other.finish().await.expect("written").files.len(), 3);
        one.write(batch.clone()).await.expect("written");
        assert_eq!(begun(), 4);
        assert_eq!(one.finish().await.expect("written").files.len(), 3);
    });
}

#[test]
fn a_writer_that_nobody_seals_holds_no_more_than_it_may() {
    let layout = events().partitioned(&[(1, "id", Transform::Identity)]);
    let ids: Vec<Option<i64>> = (0..100).map(|id| Some(id % 50)).collect();
    let batches = vec![event_rows(&layout, &ids); 40];
    let (files, budget) = (MemoryFiles::default(), Budget::new(1 << 30));
    let options = WriterOptions { held_bytes_max: 100_000, ..WriterOptions::default() };
    let mut writer = EpochWriter::new(layout, files.files(), &budget, env(), options).expect("layout");
    let runtime = runtime();
    for batch in &batches {
        runtime.block_on(writer.write(batch.clone())).expect("written");
        assert!(writer.memory() <= 100_000, "{}", writer.memory());
    }
    let early = *files.created.lock().expect("lock");
    let staged = runtime.block_on(writer.finish()).expect("written");
    assert!(early > 0 && staged.files.len() > 50, "{early} of {}", staged.files.len());
    let mut read: Vec<String> = staged.files.iter().flat_map(|file| rows_of(&files.read(file))).collect();
    let mut expected = rows_of(&batches);
    read.sort_unstable();
    expected.sort_unstable();
    assert_eq!(read, expected);
}

#[test]
fn a_file_that_reaches_the_target_size_is_completed() {
    let layout = events().with_properties(&[("write.target-file-size-bytes", "20000")]);
    let batches = (0..20).map(|n| {
        let ids: Vec<_> = (0..1000).map(|id| Some(id * 7919 + n)).collect();
        event_rows(&layout, &ids)
    });
    let batches: Vec<RecordBatch> = batches.collect();
    let options = WriterOptions { encode_bytes: 1, ..WriterOptions::default() };
    let written = written(layout, options, batches.clone());
    assert!(written.staged.files.len() > 3, "{}", written.staged.files.len());
    let read: Vec<String> = written.staged.files.iter().flat_map(|f| rows_of(&written.files.read(f))).collect();
    assert_eq!(read, rows_of(&batches));
}

/// Columns of every type, some of them nested; `3`, `4` and `5` are required.
pub(crate) fn wide() -> TableLayout {
    let nested = vec![
        Arc::new(optional(31, "x", PrimitiveType::Double)),
        Arc::new(optional(32, "name", PrimitiveType::String)),
        Arc::new(NestedField::optional(
            33,
            "inner",
            Type::Struct(StructType::new(vec![Arc::new(optional(34, "at", PrimitiveType::Timestamp))])),
        )),
    ];
    let list = ListType::new(Arc::new(NestedField::list_element(36, Type::Primitive(PrimitiveType::Float), false)));
    let map = MapType::new(
        Arc::new(NestedField::map_key_element(38, Type::Primitive(PrimitiveType::String))),
        Arc::new(NestedField::map_value_element(39, Type::Primitive(PrimitiveType::Uuid), false)),
    );
    layout(vec![
        optional(1, "flag", PrimitiveType::Boolean),
        optional(2, "i", PrimitiveType::Int),
        NestedField::required(3, "l", Type::Primitive(PrimitiveType::Long)),
        NestedField::required(4, "f", Type::Primitive(PrimitiveType::Float)),
        NestedField::required(5, "text", Type::Primitive(PrimitiveType::String)),
        optional(6, "d", PrimitiveType::Double),
        optional(7, "small", PrimitiveType::Decimal { precision: 9, scale: 2 }),
        optional(8, "middle", PrimitiveType::Decimal { precision: 18, scale: 4 }),
        optional(9, "large", PrimitiveType::Decimal { precision: 38, scale: 10 }),
        optional(10, "day", PrimitiveType::Date),
        optional(11, "time", PrimitiveType::Time),
        optional(12, "ts", PrimitiveType::Timestamp),
        optional(13, "tz", PrimitiveType::Timestamptz),
        optional(14, "ns", PrimitiveType::TimestampNs),
        optional(15, "tzns", PrimitiveType::TimestamptzNs),
        optional(16, "note", PrimitiveType::String),
        optional(17, "uuid", PrimitiveType::Uuid),
        optional(18, "fixed", PrimitiveType::Fixed(20)),
        optional(19, "blob", PrimitiveType::Binary),
        NestedField::optional(30, "s", Type::Struct(StructType::new(nested))),
        NestedField::optional(35, "floats", Type::List(list)),
        NestedField::optional(37, "ids", Type::Map(map)),
    ])
}

/// Random rows: few different values, the extremes among them.
pub(crate) fn random_rows(layout: &TableLayout, rows: usize, rng: &mut StdRng) -> RecordBatch {
    let schema = layout.arrow_schema().expect("schema");
    let columns = schema.fields().iter().map(|field| random_column(field, rows, rng)).collect();
    layout.batch(columns)
}

fn random_column(field: &Field, rows: usize, rng: &mut StdRng) -> ArrayRef {
    use arrow::array::*;
    let nullable = field.is_nullable();
    let nulls: Vec<bool> = (0..rows).map(|_| !nullable || rng.random_range(0..4) > 0).collect();
    let some = |at: usize| nulls[at];
    macro_rules! primitive {
        ($array:ident, $values:expr) => {{
            let values = $values;
            let picks: Vec<usize> = (0..rows).map(|_| rng.random_range(0..values.len())).collect();
            $array::from_iter(picks.iter().enumerate().map(|(at, pick)| some(at).then(|| values[*pick])))
        }};
    }
    let stamps =
        [0, -1, 1, 1_700_000_000_000_000, 1_700_000_000_000_001, -86_400_000_000, 86_399_999_999, 3_600_000_000];
    let texts = [
        "",
        "a",
        "äöü",
        "iceberg",
        "a rather long text that is longer than sixteen",
        "a rather long text that is shorter",
        "zzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzz",
        "\u{10FFFF}\u{10FFFF}\u{10FFFF}\u{10FFFF}\u{10FFFF}\u{10FFFF}\u{10FFFF}\u{10FFFF}\u{10FFFF}\u{10FFFF}\u{10FFFF}\u{10FFFF}\u{10FFFF}\u{10FFFF}\u{10FFFF}\u{10FFFF}\u{10FFFF}",
    ];
    match field.data_type() {
        DataType::Boolean => Arc::new(primitive!(BooleanArray, [true, false])),
        DataType::Int32 => Arc::new(primitive!(Int32Array, [0, 1, -1, 7, i32::MIN + 1000, i32::MAX])),
        DataType::Int64 => Arc::new(primitive!(Int64Array, [0, 1, -1, 7, i64::MIN + 1000, i64::MAX])),
        DataType::Float32 => {
            Arc::new(primitive!(Float32Array, [0.0, -0.0, 1.5, f32::NAN, f32::NEG_INFINITY, f32::MAX]))
        }
        DataType::Float64 => Arc::new(primitive!(Float64Array, [0.0, -0.0, 1.5, f64::NAN, f64::INFINITY, f64::MIN])),
        DataType::Decimal128(p, s) => {
            let top = 10_i128.pow(u32::from(*p)) - 1;
            let array = primitive!(Decimal128Array, [0, 1, -1, 255, -256, 100, top, -top + 1000]);
            Arc::new(array.with_precision_and_scale(*p, *s).expect("decimal"))
        }
        DataType::Date32 => Arc::new(primitive!(Date32Array, [0, -1, 19_000, 19_001, 50_000])),
        DataType::Time64(_) => Arc::new(primitive!(Time64MicrosecondArray, [0, 1, 86_399_999_999])),
        DataType::Timestamp(TimeUnit::Microsecond, tz) => {
            Arc::new(primitive!(TimestampMicrosecondArray, stamps).with_timezone_opt(tz.clone()))
        }
        DataType::Timestamp(_, tz) => {
            Arc::new(primitive!(TimestampNanosecondArray, stamps).with_timezone_opt(tz.clone()))
        }
        DataType::Utf8 => Arc::new(primitive!(StringArray, texts)),
        DataType::LargeBinary => {
            let all = [255_u8; 70];
            Arc::new(primitive!(LargeBinaryArray, [&all[..], &all[..3], b"", b"\x00", b"0123456789abcdefg"]))
        }
        DataType::FixedSizeBinary(width) => {
            let width = usize::try_from(*width).expect("width");
            let values = [vec![0_u8; width], vec![255; width], vec![127; width]];
            let picks: Vec<usize> = (0..rows).map(|_| rng.random_range(0..3)).collect();
            let values = picks.iter().enumerate().map(|(at, pick)| some(at).then(|| values[*pick].clone()));
            let array =
                FixedSizeBinaryArray::try_from_sparse_iter_with_size(values, i32::try_from(width).expect("width"));
            Arc::new(array.expect("fixed"))
        }
        DataType::Struct(fields) => {
            let columns = fields.iter().map(|field| random_column(field, rows, rng)).collect();
            Arc::new(StructArray::new(fields.clone(), columns, Some(nulls.into())))
        }
        DataType::List(element) => {
            let lengths: Vec<usize> = nulls.iter().map(|some| if *some { rng.random_range(0..3) } else { 0 }).collect();
            let values = random_column(element, lengths.iter().sum(), rng);
            let offsets = arrow::buffer::OffsetBuffer::from_lengths(lengths);
            Arc::new(ListArray::new(Arc::clone(element), offsets, values, Some(nulls.into())))
        }
        DataType::Map(entry, sorted) => {
            let lengths: Vec<usize> = nulls.iter().map(|some| if *some { rng.random_range(0..3) } else { 0 }).collect();
            let DataType::Struct(fields) = entry.data_type() else { panic!("a map of entries") };
            let count = lengths.iter().sum();
            let columns = fields.iter().map(|field| random_column(field, count, rng)).collect();
            let entries = StructArray::new(fields.clone(), columns, None);
            let offsets = arrow::buffer::OffsetBuffer::from_lengths(lengths);
            Arc::new(MapArray::new(Arc::clone(entry), offsets, entries, Some(nulls.into()), *sorted))
        }
        other => panic!("no random {other}"),
    }
}

/// Partition specs over `wide`, every transform and type among them.
const SPECS: &[&[(i32, &str, Transform)]] = &[
    &[],
    &[(16, "note", Transform::Identity)],
    &[(12, "ts_day", Transform::Day), (3, "l_bucket", Transform::Bucket(4))],
    &[(14, "ns_hour", Transform::Hour), (5, "text_cut", Transform::Truncate(1))],
    &[(34, "at_month", Transform::Month), (7, "small_cut", Transform::Truncate(50))],
    &[(10, "day_year", Transform::Year), (1, "flag", Transform::Identity)],
    &[(2, "i_cut", Transform::Truncate(10)), (3, "gone", Transform::Void)],
    &[(19, "blob_cut", Transform::Truncate(1)), (17, "uuid", Transform::Identity)],
    &[(18, "fixed", Transform::Identity), (9, "large", Transform::Identity)],
    &[(4, "f", Transform::Identity)],
    &[(6, "d", Transform::Identity), (11, "time", Transform::Identity)],
    &[(13, "tz", Transform::Identity), (15, "tzns_bucket", Transform::Bucket(3))],
    &[(31, "x", Transform::Identity), (32, "name_cut", Transform::Truncate(2))],
];

const ORDERS: &[&[(i32, Transform, SortDirection, NullOrder)]] = &[
    &[],
    &[(3, Transform::Identity, SortDirection::Ascending, NullOrder::First)],
    &[
        (16, Transform::Identity, SortDirection::Descending, NullOrder::Last),
        (12, Transform::Day, SortDirection::Ascending, NullOrder::Last),
    ],
    &[(3, Transform::Bucket(5), SortDirection::Descending, NullOrder::First)],
    &[
        (31, Transform::Identity, SortDirection::Ascending, NullOrder::Last),
        (9, Transform::Identity, SortDirection::Descending, NullOrder::First),
    ],
];

impl TableLayout {
    pub(crate) fn sorted(mut self, fields: &[(i32, Transform, SortDirection, NullOrder)]) -> Self {
        let fields = fields.iter().map(|(source_id, transform, direction, null_order)| SortField {
            source_id: *source_id,
            transform: *transform,
            direction: *direction,
            null_order: *null_order,
        });
        let fields: Vec<SortField> = fields.collect();
        if !fields.is_empty() {
            let order = SortOrder::builder().with_order_id(5).with_fields(fields).build_unbound().expect("order");
            self.sort_order = Arc::new(order);
        }
        self
    }
}

/// A file's rows in the layout's own types.
fn read_as(layout: &TableLayout, files: &MemoryFiles, file: &DataFile) -> RecordBatch {
    let schema = layout.arrow_schema().expect("schema");
    let batches = files.read(file).into_iter().map(|batch| align(batch, &schema).expect("aligned").rows);
    arrow::compute::concat_batches(&schema, &batches.collect::<Vec<_>>()).expect("one batch")
}

fn assert_sorted(layout: &TableLayout, rows: &RecordBatch) {
    let schema = layout.arrow_schema().expect("schema");
    let keys = layout.sort_order.fields.iter().map(|field| {
        let path = partition::column_path(&schema, field.source_id).expect("path");
        let key = transform::apply(&field.transform, &partition::column_at(rows, &path).expect("column")).expect("key");
        let options = SortOptions {
            descending: field.direction == SortDirection::Descending,
            nulls_first: field.null_order == NullOrder::First,
        };
        make_comparator(&key, &key, options).expect("comparator")
    });
    let keys: Vec<_> = keys.collect();
    for row in 1..rows.num_rows() {
        let order = keys.iter().map(|compare| compare(row - 1, row)).find(|order| order.is_ne());
        assert_ne!(order, Some(std::cmp::Ordering::Greater), "row {row}");
    }
}

fn assert_one_partition(layout: &TableLayout, rows: &RecordBatch, file: &DataFile) {
    let schema = layout.arrow_schema().expect("schema");
    let splitter = Splitter::new(layout, &schema).expect("splitter");
    let partitions: Vec<Struct> = match splitter {
        None => vec![Struct::empty()],
        Some(splitter) => splitter.split(rows).expect("split").groups.into_iter().map(|g| g.partition).collect(),
    };
    assert_eq!(partitions, [file.partition().clone()]);
}

fn datum_of(ty: &PrimitiveType, literal: &Literal) -> Datum {
    let Literal::Primitive(literal) = literal else { panic!("a primitive value") };
    metrics::datum(ty, &staged::literal_bytes(literal).expect("bytes")).expect("datum")
}

/// Counts and bounds against a look at every value.
fn assert_metrics(layout: &TableLayout, rows: &RecordBatch, file: &DataFile) {
    let schema = layout.arrow_schema().expect("schema");
    for id in layout.metrics_modes().into_keys() {
        let Some(path) = partition::column_path(&schema, id) else {
            assert!(!file.lower_bounds().contains_key(&id) && !file.upper_bounds().contains_key(&id), "{id}");
            assert!(file.value_counts().contains_key(&id), "{id}");
            continue;
        };
        let column = partition::column_at(rows, &path).expect("column");
        let ty = layout.schema.field_by_id(id).and_then(|f| f.field_type.as_primitive_type()).expect("primitive");
        let values = (0..column.len()).filter_map(|row| partition::literal(ty, &column, row).expect("literal"));
        let values: Vec<Datum> = values.map(|literal| datum_of(ty, &literal)).collect();
        let (nans, numbers): (Vec<Datum>, Vec<Datum>) = values.into_iter().partition(Datum::is_nan);
        let what = format!("column {id} of type {ty}");
        assert_eq!(file.value_counts()[&id], rows.num_rows() as u64, "{what}");
        assert_eq!(file.null_value_counts()[&id], column.null_count() as u64, "{what}");
        let float = matches!(ty, PrimitiveType::Float | PrimitiveType::Double);
        assert_eq!(file.nan_value_counts().get(&id).copied(), float.then_some(nans.len() as u64), "{what}");
        assert!(file.column_sizes()[&id] > 0, "{what}");
        let (lower, upper) = (file.lower_bounds().get(&id), file.upper_bounds().get(&id));
        assert_eq!(lower.is_some(), !numbers.is_empty(), "{what}");
        let bytes = matches!(ty, PrimitiveType::String | PrimitiveType::Binary | PrimitiveType::Fixed(_));
        if !bytes {
            assert_eq!(upper.is_some(), !numbers.is_empty(), "{what}");
        }
        for value in &numbers {
            assert!(lower.is_none_or(|bound| bound <= value), "{what}: {lower:?} > {value}");
            assert!(upper.is_none_or(|bound| bound >= value), "{what}: {upper:?} < {value}");
        }
        if !bytes && !numbers.is_empty() {
            assert!(numbers.iter().any(|value| lower == Some(value)), "{what}: {lower:?} is not tight");
            assert!(numbers.iter().any(|value| upper == Some(value)), "{what}: {upper:?} is not tight");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]
    #[test]
    fn every_row_is_in_one_file_of_its_partition_and_metrics_tell_the_truth(
        seed in any::<u64>(),
        spec in 0..SPECS.len(),
        order in 0..ORDERS.len(),
        batches in prop::collection::vec(0_usize..60, 1..5),
        open_files_max in 1_usize..4,
        encode_bytes in prop_oneof![Just(1_u64), 1000_u64..20_000, Just(1 << 22)],
        shared_bytes_max in prop_oneof![Just(0_u64), Just(20_000), Just(1 << 22)],
        gather_bytes_max in prop_oneof![Just(1000_u64), Just(1 << 22)],
        row_group in prop_oneof![Just("3000"), Just("134217728")],
    ) {
        let mut rng = StdRng::seed_from_u64(seed);
        let layout = wide()
            .partitioned(SPECS[spec])
            .sorted(ORDERS[order])
            .with_properties(&[("write.parquet.row-group-size-bytes", row_group)]);
        let batches: Vec<RecordBatch> = batches.into_iter().map(|n| random_rows(&layout, n, &mut rng)).collect();
        let options = WriterOptions {
            open_files: OpenFiles::of_one(open_files_max),
            encode_bytes,
            sort_bytes_max: encode_bytes,
            gather_bytes_max,
            shared_bytes_max,
            ..WriterOptions::default()
        };
        let written = written(layout.clone(), options, batches.clone());
        prop_assert_eq!(&written.rejected, &[]);
        let mut read = Vec::new();
        for file in &written.staged.files {
            let rows = read_as(&layout, &written.files, file);
            assert_one_partition(&layout, &rows, file);
            assert_metrics(&layout, &rows, file);
            if file.sort_order_id().is_some() {
                prop_assert_eq!(file.sort_order_id(), Some(5));
                assert_sorted(&layout, &rows);
            }
            let offsets = file.split_offsets().expect("offsets");
            prop_assert!(offsets.is_sorted() && offsets[0] == 4, "{:?}", offsets);
            read.extend(rows_of(&[rows]));
        }
        let mut expected = rows_of(&batches);
        expected.sort_unstable();
        read.sort_unstable();
        prop_assert_eq!(read, expected);
        let json = written.staged.to_json().expect("document");
        prop_assert_eq!(Staged::from_json(&json).expect("reads back"), written.staged);
    }
}

/// Rows of three partitions that come all the time, and late ones of many others.
fn tail(layout: &TableLayout, rows: usize, rng: &mut StdRng) -> RecordBatch {
    let partition =
        |rng: &mut StdRng| if rng.random_ratio(1, 6) { rng.random_range(3..40) } else { rng.random_range(0..3) };
    let ids: Vec<Option<i64>> =
        (0..rows).map(|_| Some(partition(rng) * 1_000_000_000 + rng.random_range(0..1_000_000_000))).collect();
    event_rows(layout, &ids)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 40, ..ProptestConfig::default() })]

    #[test]
    fn an_epoch_leaves_at_most_one_short_file_for_each_partition_however_its_rows_came(
        seed in any::<u64>(),
        batches in prop::collection::vec(1_usize..900, 1..25),
        open_files_max in 1_usize..6,
        encode_bytes in prop_oneof![Just(1_u64), 1000_u64..100_000],
        gather_bytes_max in prop_oneof![Just(1000_u64), Just(100_000), Just(1 << 22)],
        shared_bytes_max in prop_oneof![Just(0_u64), Just(20_000), Just(1 << 22)],
        sorted in any::<bool>(),
    ) {
        const TARGET: u64 = 20_000;
        let mut rng = StdRng::seed_from_u64(seed);
        let layout = events()
            .partitioned(&[(1, "day", Transform::Truncate(1_000_000_000))])
            .with_properties(&[
                ("write.target-file-size-bytes", "20000"),
                // What is not compressed is as large as it is estimated to be.
                ("write.parquet.compression-codec", "uncompressed"),
            ]);
        let layout = if sorted { layout.sorted(&[(1, Transform::Identity, SortDirection::Ascending, NullOrder::First)]) } else { layout };
        let batches = batches.into_iter().map(|rows| tail(&layout, rows, &mut rng)).collect();
        let options = WriterOptions {
            open_files: OpenFiles::of_one(open_files_max),
            encode_bytes,
            sort_bytes_max: encode_bytes,
            gather_bytes_max,
            shared_bytes_max,
            ..WriterOptions::default()
        };
        let staged = written(layout, options, batches).staged;
        let mut short: BTreeMap<String, u32> = BTreeMap::new();
        for file in staged.files.iter().filter(|file| file.file_size_in_bytes() < TARGET) {
            *short.entry(format!("{:?}", file.partition())).or_default() += 1;
        }
        prop_assert!(short.values().all(|files| *files == 1), "{:?}", short);
    }
}

#[test]
fn rejected_rows_are_named_by_their_number_in_the_batch_given() {
    let fields = vec![
        NestedField::required(1, "id", Type::Primitive(PrimitiveType::Long)),
        optional(2, "at", PrimitiveType::Timestamp),
    ];
    let layout = layout(fields).partitioned(&[(2, "hour", Transform::Hour)]);
    let batch = RecordBatch::try_from_iter_with_nullable([
        ("id", Arc::new(Int64Array::from(vec![None, Some(1), None, Some(3)])) as ArrayRef, true),
        ("at", Arc::new(arrow::array::TimestampMicrosecondArray::from(vec![0, 0, i64::MAX, i64::MAX])), true),
    ]);
    let written = written(layout, WriterOptions::default(), vec![batch.expect("batch")]);
    let rejected: Vec<_> = written.rejected.iter().map(|row| (row.row, row.field.as_str())).collect();
    assert_eq!(rejected, [(0, "id"), (2, "id"), (3, "hour")]);
    assert_eq!(written.staged.rows, 1);
}

#[test]
fn a_file_of_one_run_is_marked_as_sorted_and_one_of_several_is_not() {
    let order = [(1, Transform::Identity, SortDirection::Descending, NullOrder::Last)];
    let layout = events().sorted(&order);
    let batches = || vec![event_rows(&layout, &[Some(1), Some(5)]), event_rows(&layout, &[Some(3), None])];
    let whole = written(layout.clone(), WriterOptions::default(), batches());
    let ids = |w: &Written| rows_of(&w.files.read(&w.staged.files[0]));
    let firsts: Vec<String> =
        ids(&whole).iter().map(|row| row.split('|').next().unwrap_or_default().to_owned()).collect();
    assert_eq!(firsts, ["5", "3", "1", "∅"]);
    assert_eq!(whole.staged.files[0].sort_order_id(), Some(5));
    let runs = written(layout.clone(), WriterOptions { sort_bytes_max: 1, ..WriterOptions::default() }, batches());
    assert_eq!((runs.staged.files.len(), runs.staged.files[0].sort_order_id()), (1, None));
}

#[test]
fn an_epoch_goes_on_under_an_evolved_schema() {
    let before = events();
    let mut after = before.clone();
    let mut fields = before.schema.as_struct().fields().to_vec();
    fields.push(Arc::new(optional(4, "added", PrimitiveType::Long)));
    after.schema = Arc::new(Schema::builder().with_schema_id(1).with_fields(fields).build().expect("schema"));
    let (old, new) = (event_rows(&before, &[Some(1)]), event_rows(&before, &[Some(2)]));
    let (files, budget) = (MemoryFiles::default(), Budget::new(1 << 30));
    let mut writer = EpochWriter::new(before, files.files(), &budget, env(), WriterOptions::default()).expect("layout");
    let work = async {
        writer.write(old).await.expect("written");
        writer.evolve(after.clone()).await.expect("evolved");
        writer.write(new).await.expect("a batch made before the column was");
        writer.finish().await.expect("finished")
    };
    let staged = runtime().block_on(work);
    assert_eq!((staged.files.len(), staged.rows, &staged.schema), (2, 2, &after.schema));
    assert_eq!(staged.files[1].null_value_counts().get(&4), Some(&1));
    assert_eq!(Staged::from_json(&staged.to_json().expect("document")).expect("reads back"), staged);
}

#[test]
fn a_discarded_epoch_leaves_nothing_behind() {
    let layout = events().partitioned(&[(2, "kind", Transform::Identity)]);
    let rows = event_rows(&layout, &[Some(1), Some(2), Some(3)]);
    let (files, budget) = (MemoryFiles::default(), Budget::new(1 << 30));
    let options = WriterOptions { encode_bytes: 1, open_files: OpenFiles::of_one(2), ..WriterOptions::default() };
    let mut writer = EpochWriter::new(layout, files.files(), &budget, env(), options).expect("layout");
    let work = async {
        writer.write(rows).await.expect("written");
        assert!(budget.used() > 0);
        assert_eq!(files.complete.lock().expect("lock").len(), 0, "rows of a third partition wait");
        writer.discard().await.expect("discarded");
    };
    runtime().block_on(work);
    assert_eq!((files.complete.lock().expect("lock").len(), *files.aborted.lock().expect("lock")), (0, 2));
    assert_eq!(budget.used(), 0);
}

#[test]
fn a_storage_error_keeps_its_kind_and_the_files_are_removed() {
    let layout = events().partitioned(&[(2, "kind", Transform::Identity)]);
    let rows = event_rows(&layout, &[Some(1), Some(2), Some(3)]);
    let files = MemoryFiles { full_after: Some(10), ..MemoryFiles::default() };
    let budget = Budget::new(1 << 30);
    let mut writer = EpochWriter::new(layout, files.files(), &budget, env(), WriterOptions::default()).expect("layout");
    let work = async {
        writer.write(rows).await.expect("rows wait");
        writer.finish().await.expect_err("full")
    };
    let error = runtime().block_on(work);
    assert_eq!(error.kind(), ErrorKind::Denied);
    assert!(error.to_string().contains("disk full") && error.to_string().contains("kind=k"), "{error}");
    assert_eq!((files.complete.lock().expect("lock").len(), *files.aborted.lock().expect("lock")), (0, 3));
}

#[test]
fn file_names_repeat_for_a_seed_and_count_up_within_an_epoch() {
    let names = || {
        let layout = events().partitioned(&[(2, "kind", Transform::Identity)]);
        let rows = event_rows(&layout, &[Some(1), Some(2), Some(3)]);
        let options = WriterOptions { file_prefix: "00007".to_owned(), ..WriterOptions::default() };
        let staged = written(layout, options, vec![rows]).staged;
        staged.files.iter().map(|file| file.file_path().to_owned()).collect::<Vec<_>>()
    };
    let first = names();
    assert_eq!(first, names());
    assert!(first.iter().all(|name| name.contains("/00007-")), "{first:?}");
    let mut numbers: Vec<&str> = first.iter().filter_map(|name| name.rsplit('-').next()).collect();
    numbers.sort_unstable();
    assert_eq!(numbers, ["00001.parquet", "00002.parquet", "00003.parquet"]);
}
