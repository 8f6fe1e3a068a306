use ::parquet::arrow::ArrowWriter;
use ::parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use ::parquet::basic::{Compression, Encoding};
use ::parquet::file::metadata::ParquetMetaDataReader;
use ::parquet::file::properties::{WriterProperties, WriterPropertiesBuilder};
use arrow::array::{ArrayRef, AsArray, Int32Array, Int64Array, StringArray, StructArray};
use arrow::datatypes::{DataType, Fields, Int64Type};
use bytes::Bytes;
use futures::StreamExt;
use iceberg::spec::{
    Literal, PartitionSpec, PrimitiveLiteral, Schema, SortOrder, Struct, StructType, Transform, UnboundPartitionField,
    UnboundPartitionSpec,
};
use roaring::RoaringTreemap;

use super::*;
use crate::commit::vector;
use crate::compact::files::DeleteKind;
use crate::compact::input::ParquetFile;
use crate::compact::input::tests::{checked, flip};
use crate::compact::project::{Constants, Projection};
use crate::compact::rows::Rows;
use crate::env::SystemClock;
use crate::model::change::DeleteFile;
use crate::storage::StorageOptions;
use crate::write::properties::WriteProperties;

/// A table of `n long, s string, x struct<a int, b int>`, and its files.
pub(crate) struct Bench {
    pub(crate) env: Env,
    pub(crate) storage: Storage,
    pub(crate) layout: TableLayout,
    pub(crate) partitions: Vec<Partition>,
}

fn field(id: i32, name: &str, ty: DataType) -> Field {
    Field::new(name, ty, true).with_metadata([("PARQUET:field_id".to_owned(), id.to_string())].into())
}

fn optional(id: i32, name: &str, ty: PrimitiveType) -> NestedField {
    NestedField::optional(id, name, Type::Primitive(ty))
}

impl Bench {
    pub(crate) fn new(format_version: FormatVersion) -> Self {
        let env = Env::simulated(Arc::new(SystemClock), 3);
        let nested = Type::Struct(StructType::new(vec![
            Arc::new(optional(4, "a", PrimitiveType::Int)),
            Arc::new(optional(5, "b", PrimitiveType::Int).with_initial_default(Literal::int(50))),
        ]));
        let fields = [
            optional(1, "n", PrimitiveType::Long),
            optional(2, "s", PrimitiveType::String).with_initial_default(Literal::string("none")),
            NestedField::optional(3, "x", nested),
        ];
        let schema = Schema::builder().with_fields(fields.map(Arc::new)).build().expect("valid");
        let layout = TableLayout {
            name: "db.t".parse().expect("valid"),
            location: "memory:///t".to_owned(),
            schema: Arc::new(schema),
            spec: Arc::new(PartitionSpec::unpartition_spec()),
            sort_order: Arc::new(SortOrder::unsorted_order()),
            properties: WriteProperties::default(),
            format_version,
        };
        let storage = Storage::new(StorageOptions::default(), env.clone());
        let partitions = vec![Partition { spec_id: 0, values: Struct::empty(), global: true }];
        Self { env, storage, layout, partitions }
    }

    /// Writes a file of these columns, all at once.
    async fn put(&self, name: &str, columns: Vec<(Field, ArrayRef)>) -> (String, u64, u64) {
        self.put_as(name, columns, WriterProperties::builder()).await
    }

    async fn put_as(
        &self,
        name: &str,
        columns: Vec<(Field, ArrayRef)>,
        properties: WriterPropertiesBuilder,
    ) -> (String, u64, u64) {
        let (fields, arrays): (Vec<Field>, Vec<ArrayRef>) = columns.into_iter().unzip();
        let batch = RecordBatch::try_new(Arc::new(ArrowSchema::new(fields)), arrays).expect("fits");
        let mut bytes = Vec::new();
        let properties = properties.build();
        let mut writer = ArrowWriter::try_new(&mut bytes, batch.schema(), Some(properties)).expect("opens");
        writer.write(&batch).expect("in memory");
        writer.close().expect("in memory");
        let (location, size) = (format!("memory:///t/data/{name}"), bytes.len() as u64);
        self.storage.write(&location, Bytes::from(bytes)).await.expect("writable");
        (location, size, batch.num_rows() as u64)
    }

    /// A data file whose `n` is an int, as long as the table's was.
    async fn old(&self, name: &str, n: &[Option<i32>], seq: i64) -> DataEntry {
        let file = self.put(name, vec![(field(1, "n", DataType::Int32), Arc::new(Int32Array::from(n.to_vec())))]).await;
        data(file, seq, Some(1000 * seq))
    }

    /// A data file of `n` and `s`, in another order.
    pub(crate) async fn new_file(&self, name: &str, rows: &[(Option<i64>, Option<&str>)], seq: i64) -> DataEntry {
        let s: StringArray = rows.iter().map(|(_, s)| *s).collect();
        let n: Int64Array = rows.iter().map(|(n, _)| *n).collect();
        let columns: Vec<(Field, ArrayRef)> =
            vec![(field(2, "old_s", DataType::Utf8), Arc::new(s)), (field(1, "n", DataType::Int64), Arc::new(n))];
        data(self.put(name, columns).await, seq, Some(1000 * seq))
    }

    pub(crate) async fn positions(&self, name: &str, rows: &[(&str, i64)], seq: i64) -> DeleteEntry {
        let paths: StringArray = rows.iter().map(|(path, _)| Some(*path)).collect();
        let at: Int64Array = rows.iter().map(|(_, at)| Some(*at)).collect();
        let columns: Vec<(Field, ArrayRef)> = vec![
            (field(i32::MAX - 101, "file_path", DataType::Utf8), Arc::new(paths)),
            (field(i32::MAX - 102, "pos", DataType::Int64), Arc::new(at)),
        ];
        deletes(self.put(name, columns).await, DeleteKind::Positions, seq)
    }

    /// So many positions of a file in one row group, every third.
    async fn many_positions(&self, name: &str, path: &str, count: i64) -> DeleteEntry {
        let paths: StringArray = (0..count).map(|_| Some(path)).collect();
        let at: Int64Array = (0..count).map(|at| Some(at * 3)).collect();
        let columns: Vec<(Field, ArrayRef)> = vec![
            (field(i32::MAX - 101, "file_path", DataType::Utf8), Arc::new(paths)),
            (field(i32::MAX - 102, "pos", DataType::Int64), Arc::new(at)),
        ];
        let properties = WriterProperties::builder()
            .set_max_row_group_row_count(None)
            .set_column_dictionary_enabled("pos".into(), false)
            .set_column_encoding("pos".into(), Encoding::DELTA_BINARY_PACKED);
        deletes(self.put_as(name, columns, properties).await, DeleteKind::Positions, 1)
    }

    /// Damages the end of the last column of a file of one row group.
    async fn damage(&self, entry: &DeleteEntry, bytes: u64) {
        let mut file = self.storage.read(&entry.file.location).await.expect("there").to_vec();
        let metadata = ParquetMetaDataReader::new().parse_and_finish(&Bytes::from(file.clone())).expect("a footer");
        assert_eq!(metadata.num_row_groups(), 1);
        let (start, length) = metadata.row_group(0).columns().last().expect("one").byte_range();
        let end = usize::try_from(start + length).expect("small");
        file[end - usize::try_from(bytes.min(length)).expect("small")..end].fill(0xff);
        self.storage.write(&entry.file.location, file.into()).await.expect("writable");
    }

    async fn keys(&self, name: &str, id: i32, keys: &[Option<&str>], seq: i64) -> DeleteEntry {
        let keys: StringArray = keys.iter().copied().collect();
        let file = self.put(name, vec![(field(id, "key", DataType::Utf8), Arc::new(keys))]).await;
        deletes(file, DeleteKind::Equality(vec![id]), seq)
    }

    pub(crate) fn rewriter(&self) -> Rewriter<'_> {
        Rewriter {
            env: &self.env,
            storage: &self.storage,
            files: files_in(&self.storage, None),
            layout: self.layout.clone(),
            memory: 0,
            cores: 2,
            splice: true,
        }
    }

    pub(crate) async fn rewrite(&self, inputs: Vec<DataEntry>, deletes: Vec<DeleteEntry>) -> Result<Rewritten> {
        let spec = Arc::clone(&self.layout.spec);
        self.rewriter().rewrite(&Work { inputs, deletes }, &self.partitions, &[&spec]).await
    }

    /// The rows of the files, as lines.
    pub(crate) async fn lines(&self, files: &[DataFile]) -> Vec<String> {
        let mut lines = Vec::new();
        for file in files {
            let bytes = self.storage.read(file.file_path()).await.expect("there");
            let reader = ParquetRecordBatchReaderBuilder::try_new(bytes).expect("footer").build().expect("reader");
            for batch in reader {
                let batch = batch.expect("rows");
                let text = |column: &ArrayRef, row: usize| {
                    arrow::util::display::array_value_to_string(column, row).expect("shown")
                };
                for row in 0..batch.num_rows() {
                    lines.push(batch.columns().iter().map(|c| text(c, row)).collect::<Vec<_>>().join("|"));
                }
            }
        }
        lines
    }
}

fn data((location, bytes, rows): (String, u64, u64), seq: i64, first_row_id: Option<i64>) -> DataEntry {
    DataEntry {
        location,
        bytes,
        rows,
        seq,
        partition: 0,
        first_row_id,
        sort_order_id: None,
        added_ms: None,
        readable: true,
    }
}

fn deletes((location, bytes, rows): (String, u64, u64), kind: DeleteKind, seq: i64) -> DeleteEntry {
    let file = DeleteFile { location, offset: None };
    DeleteEntry { file, kind, bytes, rows, seq, partition: 0, target: None, readable: true }
}

#[tokio::test]
async fn files_of_older_schemas_are_merged_into_the_tables_columns() {
    let bench = Bench::new(FormatVersion::V2);
    let a = Int32Array::from(vec![Some(7)]);
    let nested = Fields::from(vec![field(4, "a", DataType::Int32)]);
    let x = StructArray::new(nested.clone(), vec![Arc::new(a)], None);
    let older = data(bench.put("c", vec![(field(3, "x", DataType::Struct(nested)), Arc::new(x))]).await, 1, None);
    let inputs = vec![
        bench.old("a", &[Some(1), None], 1).await,
        bench.new_file("b", &[(Some(1 << 40), None), (Some(4), Some("t"))], 2).await,
        older,
    ];
    let done = bench.rewrite(inputs, vec![]).await.expect("rewritten");
    assert_eq!((done.outputs.len(), done.rows, done.deleted), (1, 5, 0));
    let lines = bench.lines(&done.outputs).await;
    assert_eq!(lines, ["1|none|", "|none|", "1099511627776||", "4|t|", "|none|{a: 7, b: 50}"]);
}

#[tokio::test]
async fn deletes_reach_what_the_spec_says_and_nothing_else() {
    let bench = Bench::new(FormatVersion::V2);
    let rows = [(Some(0), Some("k")), (Some(1), None), (Some(2), Some("l")), (Some(3), Some("m"))];
    let (a, b) = (bench.new_file("a", &rows, 1).await, bench.new_file("b", &rows, 3).await);
    let deletes = vec![
        // Of both files; those of the younger one are older than it.
        bench.positions("d1", &[(&a.location, 3), (&b.location, 3)], 1).await,
        bench.positions("d2", &[(&b.location, 0)], 3).await,
        // NULL equals NULL; rows of the same sequence number stay.
        bench.keys("e1", 2, &[None, Some("l")], 3).await,
    ];
    let done = bench.rewrite(vec![a, b], deletes).await.expect("rewritten");
    assert_eq!(bench.lines(&done.outputs).await, ["0|k|", "1||", "2|l|", "3|m|"]);
    assert_eq!((done.rows, done.deleted), (8, 4));
}

#[tokio::test]
async fn rows_keep_their_ids_and_the_sequence_numbers_of_their_last_change() {
    let bench = Bench::new(FormatVersion::V3);
    let (a, b) = (bench.old("a", &[Some(0), Some(1), Some(2)], 1).await, bench.old("b", &[Some(3)], 2).await);
    let blob = vector::blob(&RoaringTreemap::from_iter([1])).expect("small");
    let bytes = [b"PFA1".as_slice(), &blob].concat();
    bench.storage.write("memory:///t/data/v.puffin", Bytes::from(bytes)).await.expect("writable");
    let mut deletes = deletes(("memory:///t/data/v.puffin".to_owned(), blob.len() as u64, 1), DeleteKind::Vector, 2);
    (deletes.file.offset, deletes.target) = (Some(4), Some(a.location.clone()));
    let mut old = b;
    old.first_row_id = None;
    let once = bench.rewrite(vec![a, old], vec![deletes]).await.expect("rewritten");
    assert_eq!(bench.lines(&once.outputs).await, ["0|none||1000|1", "2|none||1002|1", "3|none|||"]);
    // What is rewritten once more keeps them still; the row without an id has got one by its place.
    let file = &once.outputs[0];
    let entry = data((file.file_path().to_owned(), file.file_size_in_bytes(), 3), 7, Some(5000));
    let twice = bench.rewrite(vec![entry], vec![]).await.expect("rewritten");
    assert_eq!(bench.lines(&twice.outputs).await, ["0|none||1000|1", "2|none||1002|1", "3|none||5002|7"]);
    let ids: Vec<i32> = twice.outputs[0].lower_bounds().keys().copied().collect();
    assert!(ids.iter().all(|id| *id < 10), "no bounds of columns that the table does not have: {ids:?}");
}

#[tokio::test]
async fn columns_that_stand_in_the_partition_alone_are_filled_from_it() {
    let mut bench = Bench::new(FormatVersion::V2);
    let by_s = UnboundPartitionField {
        source_id: 2,
        field_id: Some(1000),
        name: "s".to_owned(),
        transform: Transform::Identity,
    };
    let spec = UnboundPartitionSpec::builder().with_spec_id(0).add_partition_fields([by_s]).expect("valid").build();
    bench.layout.spec = Arc::new(spec.bind(Arc::clone(&bench.layout.schema)).expect("valid"));
    let values = Struct::from_iter([Some(Literal::Primitive(PrimitiveLiteral::String("p".to_owned())))]);
    bench.partitions = vec![Partition { spec_id: 0, values: values.clone(), global: false }];
    let a = bench.old("a", &[Some(0)], 1).await;
    let done = bench.rewrite(vec![a], vec![]).await.expect("rewritten");
    assert_eq!(bench.lines(&done.outputs).await, ["0|p|"]);
    assert_eq!(done.outputs[0].partition(), &values);
    // Rows of another partition in such a file are not moved in silence.
    let b = bench.new_file("b", &[(Some(1), Some("q"))], 1).await;
    let refused = bench.rewrite(vec![b], vec![]).await.expect_err("strays");
    assert_eq!(refused.kind(), ErrorKind::Corrupt, "{refused}");
}

#[tokio::test]
async fn what_cannot_be_read_right_is_refused_with_the_file_and_leaves_nothing() {
    let bench = Bench::new(FormatVersion::V2);
    let good = bench.old("good", &[Some(0), Some(1)], 1).await;
    let put = |name: &str, bytes: Vec<u8>| {
        let (location, size) = (format!("memory:///t/data/{name}"), bytes.len() as u64);
        let entry = data((location.clone(), size, 2), 1, None);
        let storage = bench.storage.clone();
        async move {
            storage.write(&location, Bytes::from(bytes)).await.expect("writable");
            entry
        }
    };
    let bytes = bench.storage.read(&good.location).await.expect("there").to_vec();
    let mut torn = bytes.clone();
    torn[6..30].fill(0xee);
    let mut none = bytes.clone();
    none.truncate(bytes.len() - 5);
    let plain = Field::new("n", DataType::Int32, true);
    let nameless = bench.put("nameless", vec![(plain, Arc::new(Int32Array::from(vec![1, 2])))]).await;
    let mut flipped = checked(&[(1, "n"), (2, "m")], &[1, 2], Compression::UNCOMPRESSED);
    flip(&mut flipped, 1);
    let lzo = checked(&[(1, "n")], &[1, 2], Compression::LZO);
    let numbers: ArrayRef = Arc::new(Int32Array::from(vec![1, 2]));
    let numbers = bench.put("numbers", vec![(field(2, "s", DataType::Int32), numbers)]).await;
    let inner = Fields::from(vec![Field::new("a", DataType::Int32, true)]);
    let parts: ArrayRef = Arc::new(StructArray::new(inner.clone(), vec![Arc::new(Int32Array::from(vec![1, 2]))], None));
    let parts = bench.put("parts", vec![(field(3, "x", DataType::Struct(inner)), parts)]).await;
    let dropped = bench.keys("keys of a dropped column", 99, &[Some("1")], 9).await;
    let mut lacking = bench.keys("keys without their column", 2, &[Some("1")], 9).await;
    lacking.kind = DeleteKind::Equality(vec![1, 2]);
    let mut nameless_keys = bench.keys("keys of no column", 2, &[Some("1")], 9).await;
    nameless_keys.kind = DeleteKind::Equality(vec![]);
    let mut orc = bench.positions("positions.orc", &[(&good.location, 0)], 9).await;
    orc.readable = false;
    let mut placeless = bench.keys("positions without their columns", 2, &[Some("1")], 9).await;
    placeless.kind = DeleteKind::Positions;
    let damaged = bench.positions("damaged positions", &[(&good.location, 0)], 9).await;
    let mut bytes = bench.storage.read(&damaged.file.location).await.expect("there").to_vec();
    bytes[4..40].fill(0xee);
    bench.storage.write(&damaged.file.location, bytes.into()).await.expect("writable");
    let mut encrypted = good.clone();
    encrypted.readable = false;
    let gone = DataEntry { location: "memory:///t/data/gone".to_owned(), ..good.clone() };
    let (corrupt, unsupported) = (ErrorKind::Corrupt, ErrorKind::Unsupported);
    let inputs = [
        (gone, ErrorKind::NotFound, "not found"),
        (put("torn", torn).await, corrupt, "column \"n\""),
        (put("flipped", flipped).await, corrupt, "column \"m\""),
        (put("lzo", lzo).await, unsupported, "column \"n\" is compressed by LZO"),
        (put("none", none).await, corrupt, "no Parquet file"),
        (DataEntry { rows: 3, ..good.clone() }, corrupt, "2 rows, its manifest says 3"),
        (DataEntry { bytes: good.bytes - 1, ..good.clone() }, corrupt, "its manifest says"),
        (data(numbers, 1, None), unsupported, "column s"),
        (data(parts, 1, None), unsupported, "column a: it has no field id"),
        (data(nameless, 1, None), unsupported, "no field ids"),
        (encrypted, unsupported, "encrypted"),
    ];
    let deletes = [
        (dropped, unsupported, "field 99"),
        (lacking, corrupt, "field 1"),
        (nameless_keys, unsupported, "no column"),
        (orc, unsupported, "neither Parquet"),
        (placeless, corrupt, "without field"),
        (damaged, corrupt, "column \"file_path\""),
    ];
    let inputs = inputs.map(|(entry, kind, why)| (entry.location.clone(), entry, vec![], kind, why));
    let deletes = deletes.map(|(entry, kind, why)| (entry.file.location.clone(), good.clone(), vec![entry], kind, why));
    for (name, entry, deletes, kind, why) in inputs.into_iter().chain(deletes) {
        let refused = bench.rewrite(vec![good.clone(), entry], deletes).await.expect_err(&name);
        assert_eq!(refused.kind(), kind, "{name}: {refused}");
        let said = refused.to_string();
        assert!(said.contains(&name) && said.contains(why), "{name}, {why}: {said}");
    }
    let mut left = bench.storage.list("memory:///t/data", None);
    while let Some(object) = left.next().await {
        let location = object.expect("listed").location;
        assert!(!location.contains("compact"), "{location} was left");
    }
}

#[tokio::test]
async fn positions_count_over_row_groups_and_a_large_file_is_fetched_in_pieces() {
    const ROWS: i64 = 1_200_000;
    const GROUP: usize = 300_000;
    let bench = Bench::new(FormatVersion::V2);
    // No two alike, so that the file is as large as its values.
    let value = |row: i64| row.wrapping_mul(0x9E37_79B9_7F4A_7C15_u64.cast_signed());
    let n: ArrayRef = Arc::new((0..ROWS).map(|row| Some(value(row))).collect::<Int64Array>());
    let schema = Arc::new(ArrowSchema::new(vec![field(1, "n", DataType::Int64)]));
    let batch = RecordBatch::try_new(Arc::clone(&schema), vec![n]).expect("fits");
    let properties = ::parquet::file::properties::WriterProperties::builder()
        .set_dictionary_enabled(false)
        .set_max_row_group_row_count(Some(GROUP))
        .build();
    let mut bytes = Vec::new();
    let mut writer = ArrowWriter::try_new(&mut bytes, schema, Some(properties)).expect("opens");
    writer.write(&batch).expect("in memory");
    writer.close().expect("in memory");
    let (location, size) = ("memory:///t/data/large".to_owned(), bytes.len() as u64);
    assert!(size > 9 << 20, "{size} bytes are read as a whole");
    bench.storage.write(&location, Bytes::from(bytes)).await.expect("writable");
    let gone = [0, 299_999, 300_000, 600_001, ROWS - 1];
    let rows: Vec<(&str, i64)> = gone.iter().map(|at| (location.as_str(), *at)).collect();
    let deletes = bench.positions("d", &rows, 1).await;
    let input = data((location.clone(), size, ROWS.cast_unsigned()), 1, None);
    let done = bench.rewrite(vec![input], vec![deletes]).await.expect("rewritten");
    assert_eq!((done.rows, done.deleted), (ROWS.cast_unsigned(), 5));
    let mut wanted = (0..ROWS).filter(|row| !gone.contains(row)).map(value);
    for file in &done.outputs {
        let bytes = bench.storage.read(file.file_path()).await.expect("there");
        let reader = ParquetRecordBatchReaderBuilder::try_new(bytes).expect("footer").build().expect("reader");
        for batch in reader {
            let batch = batch.expect("rows");
            let held = batch.column(0).as_primitive::<Int64Type>();
            assert!(held.values().iter().all(|value| wanted.next() == Some(*value)), "rows in their order");
        }
    }
    assert_eq!(wanted.next(), None);
}

/// The rows of each input that stay, where masks may take `bytes_max`; and how often the inputs were read for that.
async fn staying(bench: &Bench, work: &Work, bytes_max: u64) -> Result<(Vec<Vec<bool>>, u32)> {
    let target = Target::new(&bench.layout)?;
    let spec = Arc::clone(&bench.layout.spec);
    let reading = Reading { env: &bench.env, storage: &bench.storage, bytes_max };
    let scope = Scope { target: &target, inputs: &work.inputs, partitions: &bench.partitions, specs: &[&spec] };
    let masks = Masks::read(reading, scope, &work.deletes).await?;
    let mut all = Vec::new();
    for input in &work.inputs {
        let file = ParquetFile::open(&bench.storage, &input.location, input.bytes).await?;
        let projection = Projection::new(file.schema(), &target.nullable, &target.schema, &Constants::new())?;
        let (mut stay, mut first, mut by_key) = (Vec::new(), 0, RoaringTreemap::new());
        for group in 0..file.row_groups() {
            let mut group = file.row_group(group, 1 << 30).await?;
            while let Some(batch) = group.next(&bench.env, Ok).await? {
                let batch = projection.apply(&batch, &target.schema)?;
                match masks.kept(input, first, &batch, &mut by_key)? {
                    Some(kept) => stay.extend(kept.iter().map(|kept| kept == Some(true))),
                    None => stay.extend(vec![true; batch.num_rows()]),
                }
                first += batch.num_rows() as u64;
            }
        }
        let gone = (0..).zip(&stay).filter(|(_, stays)| !**stays).map(|(at, _)| at);
        assert_eq!(by_key, gone.collect(), "no delete goes by position");
        all.push(stay);
    }
    Ok((all, masks.passes()))
}

proptest::proptest! {
    #![proptest_config(proptest::prelude::ProptestConfig::with_cases(24))]

    /// Keys that had to make room delete what they delete when all fit.
    #[test]
    fn deletes_that_do_not_fit_into_memory_delete_the_same_rows(
        rows in proptest::collection::vec((proptest::option::of(0..300_i64), proptest::option::of(0..60_u8), 0..3_usize), 1..200),
        keys in proptest::collection::vec((proptest::option::of(0..60_u8), 0..6_usize), 100..300),
        also in proptest::collection::vec((proptest::option::of(0..300_i64), 0..6_usize), 0..100),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        runtime.block_on(async {
            let bench = Bench::new(FormatVersion::V2);
            let text = |key: &Option<u8>| key.map(|key| format!("k{key}"));
            let mut work = Work::default();
            for file in 0..3_usize {
                let own: Vec<_> = rows.iter().filter(|row| row.2 == file).map(|(n, s, _)| (*n, text(s))).collect();
                let own: Vec<_> = own.iter().map(|(n, s)| (*n, s.as_deref())).collect();
                if !own.is_empty() {
                    work.inputs.push(bench.new_file(&format!("f{file}"), &own, 1 + 2 * file as i64).await);
                }
            }
            for file in 0..6_usize {
                let own: Vec<_> = keys.iter().filter(|key| key.1 == file).map(|(key, _)| text(key)).collect();
                let own: Vec<_> = own.iter().map(Option::as_deref).collect();
                work.deletes.push(bench.keys(&format!("s{file}"), 2, &own, file as i64).await);
                let own: Int64Array = also.iter().filter(|key| key.1 == file).map(|(key, _)| *key).collect();
                let put = bench.put(&format!("n{file}"), vec![(field(1, "n", DataType::Int64), Arc::new(own))]).await;
                work.deletes.push(deletes(put, DeleteKind::Equality(vec![1]), file as i64));
            }
            let (wanted, none) = staying(&bench, &work, 1 << 30).await.expect("they fit");
            assert_eq!(none, 0);
            assert_eq!(staying(&bench, &work, 6 << 10).await.expect("in passes").0, wanted);
        });
    }
}

/// So often, and no more: then the file is named, and the way out.
#[tokio::test]
async fn deletes_are_applied_in_passes_and_refused_beyond_all_of_them() {
    let bench = Bench::new(FormatVersion::V2);
    let inputs = vec![bench.new_file("a", &[(Some(1), Some("k")), (Some(2), Some("1999")), (Some(3), None)], 1).await];
    let keys: Vec<String> = (0..4_000).map(|key| format!("{key}")).collect();
    let keys: Vec<Option<&str>> = keys.iter().map(|key| Some(key.as_str())).collect();
    let mut work = Work { inputs, deletes: vec![] };
    for (file, keys) in keys.chunks(20).enumerate() {
        work.deletes.push(bench.keys(&format!("d{file}"), 2, keys, 3).await);
    }
    let (rows, passes) = staying(&bench, &work, 16 << 10).await.expect("in passes");
    assert_eq!(rows, [[true, false, true]]);
    assert!((20..=64).contains(&passes), "{passes} passes");
    let error = staying(&bench, &work, 2 << 10).await.expect_err("too many");
    assert!(error.to_string().contains("do not fit into memory") && error.to_string().contains("/d"), "{error}");
    assert!(error.hint().is_some_and(|hint| hint.contains("--max-memory")), "{error:?}");
}

#[tokio::test]
async fn millions_of_positions_in_one_row_group_are_read_with_the_least_memory() {
    let bench = Bench::new(FormatVersion::V2);
    let input = bench.old("a", &[Some(0), Some(1), Some(2), Some(3), Some(4)], 1).await;
    let many = bench.many_positions("d", &input.location, 3_000_000).await;
    let done = bench.rewrite(vec![input], vec![many]).await.expect("rewritten");
    assert_eq!(bench.lines(&done.outputs).await, ["1|none|", "2|none|", "4|none|"]);
}

/// What is beyond the limit is not reached, or its damage were found first.
#[tokio::test]
async fn a_row_group_of_deletes_is_read_no_further_than_memory_allows() {
    let bench = Bench::new(FormatVersion::V2);
    let input = bench.old("a", &[Some(0), Some(1)], 1).await;
    let positions = bench.many_positions("positions", &input.location, 600_000).await;
    bench.damage(&positions, 1500).await;
    let keys: StringArray = (0..20_000).map(|key| Some(format!("k{key}"))).collect();
    let properties = WriterProperties::builder()
        .set_dictionary_enabled(false)
        .set_write_batch_size(500)
        .set_data_page_row_count_limit(1000);
    let keys: Vec<(Field, ArrayRef)> = vec![(field(2, "key", DataType::Utf8), Arc::new(keys))];
    let keys = deletes(bench.put_as("keys", keys, properties).await, DeleteKind::Equality(vec![2]), 9);
    bench.damage(&keys, 15_000).await;
    // Keys that make room are looked for in a file that is gone.
    let gone = DataEntry { location: "memory:///t/data/gone".to_owned(), ..input.clone() };
    for (deletes, input, bytes_max, kind, word) in [
        (positions.clone(), input.clone(), 1 << 20, ErrorKind::Unsupported, "do not fit into memory"),
        (positions, input.clone(), 1 << 30, ErrorKind::Corrupt, "cannot be read"),
        (keys.clone(), gone, 1 << 19, ErrorKind::NotFound, "gone"),
        (keys, input, 1 << 30, ErrorKind::Corrupt, "cannot be read"),
    ] {
        let name = deletes.file.location.clone();
        let work = Work { inputs: vec![input], deletes: vec![deletes] };
        let refused = staying(&bench, &work, bytes_max).await.expect_err(&name);
        let said = refused.to_string();
        assert_eq!(refused.kind(), kind, "{said}");
        assert!(said.contains(&name) && said.contains(word), "{said}");
    }
}

#[tokio::test]
async fn a_file_that_is_replaced_after_its_keys_were_read_is_refused() {
    let bench = Bench::new(FormatVersion::V2);
    let rows = |text| [(Some(1), Some(text)), (Some(2), Some("k2"))];
    let input = bench.new_file("a", &rows("k1"), 1).await;
    let keys: Vec<String> = (0..200).map(|key| format!("k{key}")).collect();
    let keys: Vec<Option<&str>> = keys.iter().map(|key| Some(key.as_str())).collect();
    let work = Work { inputs: vec![input.clone()], deletes: vec![bench.keys("keys", 2, &keys, 9).await] };
    let target = Target::new(&bench.layout).expect("valid");
    let reading = Reading { env: &bench.env, storage: &bench.storage, bytes_max: 16 << 10 };
    let spec = Arc::clone(&bench.layout.spec);
    let scope = Scope { target: &target, inputs: &work.inputs, partitions: &bench.partitions, specs: &[&spec] };
    let masks = Masks::read(reading, scope, &work.deletes).await.expect("in passes");
    assert!(masks.passes() > 0);
    Rows::open(reading, scope, &masks, &input, 1 << 20).await.expect("it is the same still");
    assert_eq!(bench.new_file("a", &rows("kk"), 1).await, input, "the same size");
    let refused = Rows::open(reading, scope, &masks, &input, 1 << 20).await.map(|_| ()).expect_err("replaced");
    assert_eq!(refused.kind(), ErrorKind::Corrupt);
    assert_eq!(refused.to_string(), "memory:///t/data/a was replaced while it was read");
}
