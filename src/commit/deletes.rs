//! Deletes by position as files: read for the data files that somebody asks about, and written for one data file each.
//!
//! Source: Iceberg spec, "Position Delete Files", "Deletion Vectors".

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use arrow::array::{ArrayRef, AsArray, Int64Array, StringArray};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Field, Int64Type, Schema};
use arrow::record_batch::RecordBatch;
use bytes::Bytes;
use iceberg::spec::{DataContentType, DataFile, DataFileBuilder, DataFileFormat, Datum, FormatVersion};
use parquet::arrow::arrow_reader::{ArrowReaderOptions, ParquetRecordBatchReaderBuilder};
use parquet::arrow::{ArrowWriter, PARQUET_FIELD_ID_META_KEY, ProjectionMask};
use parquet::basic::{Compression, ZstdLevel};
use parquet::file::properties::WriterProperties;
use roaring::RoaringTreemap;

use crate::commit::vector;
use crate::env::Env;
use crate::error::{Context, Error, ErrorKind, Result};
use crate::model::remap::Places;
use crate::storage::Storage;

/// Columns of a file of position deletes (spec, "Reserved Field IDs").
pub(crate) const PATH_ID: i32 = i32::MAX - 101;
pub(crate) const POS_ID: i32 = i32::MAX - 102;
/// Rows of a file of position deletes that are encoded at a time.
const ROWS: usize = 8192;

/// Bytes that reading a delete file's places fetches.
pub(crate) fn cost(file: &DataFile) -> u64 {
    let vector = file.content_size_in_bytes().and_then(|bytes| u64::try_from(bytes).ok());
    vector.unwrap_or(file.file_size_in_bytes())
}

/// The places that a file or vector of deletes by position names in the data files `wanted`.
///
/// # Errors
/// Those of the store; `Unsupported` for a form that is not read, `Corrupt` for one that is not what it should be.
pub(crate) async fn places(env: &Env, storage: &Storage, file: &DataFile, wanted: &BTreeSet<String>) -> Result<Places> {
    let known = matches!(file.file_format(), DataFileFormat::Parquet | DataFileFormat::Puffin);
    if !known || file.key_metadata().is_some() {
        return Err(Error::new(ErrorKind::Unsupported, "they are of a form that is not read"));
    }
    if file.file_format() == DataFileFormat::Puffin {
        return vector_of(storage, file, wanted).await;
    }
    let bytes = storage.read(file.file_path()).await?;
    let wanted = wanted.clone();
    env.offload(move || rows_of(bytes, &wanted)).await?
}

async fn vector_of(storage: &Storage, file: &DataFile, wanted: &BTreeSet<String>) -> Result<Places> {
    let number = |number: Option<i64>| number.and_then(|number| u64::try_from(number).ok());
    let start = number(file.content_offset());
    let end = start.zip(number(file.content_size_in_bytes())).and_then(|(start, size)| start.checked_add(size));
    let (Some(start), Some(end), Some(target)) = (start, end, file.referenced_data_file()) else {
        return Err(Error::new(ErrorKind::Corrupt, "a deletion vector without a place or a data file"));
    };
    if !wanted.contains(&target) {
        return Ok(Places::new());
    }
    let positions = vector::positions(&storage.read_range(file.file_path(), start..end).await?)?;
    if positions.len() != file.record_count() {
        let (found, said) = (positions.len(), file.record_count());
        let what = format!("a deletion vector of {found} positions, its manifest says {said}");
        return Err(Error::new(ErrorKind::Corrupt, what));
    }
    Ok(Places::from([(target, positions)]))
}

/// The rows of a file of position deletes.
fn rows_of(bytes: Bytes, wanted: &BTreeSet<String>) -> Result<Places> {
    let unreadable = || "a file of position deletes";
    let options = ArrowReaderOptions::new().with_skip_arrow_metadata(true);
    let builder = ParquetRecordBatchReaderBuilder::try_new_with_options(bytes, options)
        .context(ErrorKind::Corrupt, unreadable)?;
    let fields = builder.parquet_schema().root_schema().get_fields();
    let place = |id: i32| {
        let is = |field: &parquet::schema::types::TypePtr| {
            let own = field.get_basic_info();
            own.has_id() && own.id() == id
        };
        let at = fields.iter().position(is);
        at.ok_or_else(|| Error::new(ErrorKind::Corrupt, format!("position deletes without field {id}")))
    };
    let (path_at, pos_at) = (place(PATH_ID)?, place(POS_ID)?);
    let columns = ProjectionMask::roots(builder.parquet_schema(), [path_at, pos_at]);
    let (paths_at, places_at) = if path_at < pos_at { (0, 1) } else { (1, 0) };
    let mut found = Places::new();
    for batch in builder.with_projection(columns).build().context(ErrorKind::Corrupt, unreadable)? {
        let batch = batch.context(ErrorKind::Corrupt, unreadable)?;
        let column = |at: usize, kind| cast(batch.column(at), kind).context(ErrorKind::Corrupt, unreadable);
        let (paths, places) = (column(paths_at, &DataType::Utf8)?, column(places_at, &DataType::Int64)?);
        for (path, place) in paths.as_string::<i32>().iter().zip(places.as_primitive::<Int64Type>()) {
            let place = place.and_then(|place| u64::try_from(place).ok());
            let (Some(path), Some(place)) = (path, place) else {
                return Err(Error::new(ErrorKind::Corrupt, "position deletes without a path or position"));
            };
            if !wanted.contains(path) {
                continue;
            }
            match found.get_mut(path) {
                Some(held) => drop(held.insert(place)),
                None => drop(found.insert(path.to_owned(), RoaringTreemap::from_iter([place]))),
            }
        }
    }
    Ok(found)
}

/// A file of deletes by position that is about to be written, and its entry.
#[derive(Debug)]
pub(crate) struct Written {
    pub(crate) entry: DataFile,
    pub(crate) bytes: Vec<u8>,
}

/// The deletes of rows of `data` at `places`: a deletion vector on format version 3, else a file of position deletes that names
/// the one data file. `spec_id` is the spec of the data file's partition; the new one is called `stem` and an ending.
///
/// # Errors
/// `Internal` when it cannot be encoded.
pub(crate) fn write(
    format: FormatVersion,
    (data, spec_id): (&DataFile, i32),
    places: &RoaringTreemap,
    stem: &str,
) -> Result<Written> {
    let mut builder = DataFileBuilder::default();
    builder
        .content(DataContentType::PositionDeletes)
        .partition(data.partition().clone())
        .partition_spec_id(spec_id)
        .record_count(places.len())
        .referenced_data_file(Some(data.file_path().to_owned()));
    let bytes = if format >= FormatVersion::V3 {
        let blob = vector::blob(places)?;
        builder
            .file_path(format!("{stem}.puffin"))
            .file_format(DataFileFormat::Puffin)
            .content_offset(Some(vector::FIRST_BLOB))
            .content_size_in_bytes(i64::try_from(blob.len()).ok());
        vector::puffin(&blob, data.file_path(), places.len())?
    } else {
        let bound = |place: Option<u64>| i64::try_from(place.unwrap_or(0)).unwrap_or(i64::MAX);
        let path = || (PATH_ID, Datum::string(data.file_path()));
        // A file whose bounds of the path are equal is about one data file, for readers that know no other way to tell.
        builder
            .file_path(format!("{stem}.parquet"))
            .file_format(DataFileFormat::Parquet)
            .value_counts(HashMap::from([(PATH_ID, places.len()), (POS_ID, places.len())]))
            .null_value_counts(HashMap::from([(PATH_ID, 0), (POS_ID, 0)]))
            .lower_bounds(HashMap::from([path(), (POS_ID, Datum::long(bound(places.min())))]))
            .upper_bounds(HashMap::from([path(), (POS_ID, Datum::long(bound(places.max())))]));
        positions_file(data.file_path(), places)?
    };
    builder.file_size_in_bytes(bytes.len() as u64);
    let entry = builder.build().context(ErrorKind::Internal, || format!("entry of {stem}"))?;
    Ok(Written { entry, bytes })
}

fn positions_file(path: &str, places: &RoaringTreemap) -> Result<Vec<u8>> {
    let failed = || format!("position deletes of {path}");
    let field = |name: &str, id: i32, kind| {
        let metadata = [(PARQUET_FIELD_ID_META_KEY.to_owned(), id.to_string())];
        Field::new(name, kind, false).with_metadata(metadata.into())
    };
    let fields = vec![field("file_path", PATH_ID, DataType::Utf8), field("pos", POS_ID, DataType::Int64)];
    let schema = Arc::new(Schema::new(fields));
    let properties = WriterProperties::builder().set_compression(Compression::ZSTD(ZstdLevel::default())).build();
    let mut bytes = Vec::new();
    let mut writer =
        ArrowWriter::try_new(&mut bytes, Arc::clone(&schema), Some(properties)).context(ErrorKind::Internal, failed)?;
    let mut places = places.iter().peekable();
    while places.peek().is_some() {
        let some: Vec<i64> = places.by_ref().take(ROWS).filter_map(|place| i64::try_from(place).ok()).collect();
        let paths: ArrayRef = Arc::new(StringArray::from_iter_values(std::iter::repeat_n(path, some.len())));
        let batch = RecordBatch::try_new(Arc::clone(&schema), vec![paths, Arc::new(Int64Array::from(some))]);
        writer.write(&batch.context(ErrorKind::Internal, failed)?).context(ErrorKind::Internal, failed)?;
    }
    writer.close().context(ErrorKind::Internal, failed)?;
    Ok(bytes)
}
