use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use ::parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use ::parquet::arrow::async_writer::AsyncFileWriter;
use ::parquet::errors::ParquetError;
use arrow::array::{Array, ArrayRef, Int64Array, LargeBinaryArray, StringArray};
use bytes::Bytes;
use futures::FutureExt;
use iceberg::spec::{
    FormatVersion, NestedField, PartitionSpec, PrimitiveType, Schema, SortOrder, Transform, Type,
    UnboundPartitionField, UnboundPartitionSpec,
};

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
    let staged = work.now_or_never().expect("nothing waits");
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
fn loose(column: &ArrayRef) -> arrow::datatypes::DataType {
    match column.data_type() {
        arrow::datatypes::DataType::LargeBinary => arrow::datatypes::DataType::Binary,
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
