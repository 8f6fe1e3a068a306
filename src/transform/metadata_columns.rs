//! Columns that say where and when a row was read.
//!
//! They are part of the table's schema, under the names that the configuration gives them; the decoder leaves them
//! out and they are put in their places here.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::Arc;

use arrow::array::{
    ArrayRef, Int64Array, LargeBinaryArray, RecordBatch, RecordBatchOptions, StringArray, TimestampMicrosecondArray,
};
use arrow::datatypes::SchemaRef as ArrowSchemaRef;
use iceberg::arrow::{UTC_TIME_ZONE, schema_to_arrow_schema};
use iceberg::spec::{PrimitiveType, Schema, Type};

use crate::config::MetadataColumn;
use crate::decode::type_text::type_text;
use crate::error::{Context, Error, ErrorKind, Result};
use crate::model::batch::{Batch, RawBatch, RawRow};

/// The columns to create, in the order of their names. All are optional.
pub fn fields(config: &BTreeMap<String, MetadataColumn>) -> Vec<(String, PrimitiveType)> {
    config.iter().map(|(name, column)| (name.clone(), kind(*column))).collect()
}

fn kind(column: MetadataColumn) -> PrimitiveType {
    match column {
        MetadataColumn::Origin | MetadataColumn::Partition | MetadataColumn::KeyText | MetadataColumn::Headers => {
            PrimitiveType::String
        }
        MetadataColumn::Key => PrimitiveType::Binary,
        MetadataColumn::Number => PrimitiveType::Long,
        MetadataColumn::Timestamp | MetadataColumn::IngestedAt => PrimitiveType::Timestamptz,
    }
}

/// Fills metadata columns of one schema.
#[derive(Debug)]
pub struct MetadataColumns {
    config: BTreeMap<String, MetadataColumn>,
    arrow: ArrowSchemaRef,
}

impl MetadataColumns {
    /// The columns of `config` within `schema`.
    ///
    /// # Errors
    /// `Config` when the schema lacks one, or has it with a type that cannot hold it.
    pub fn new(schema: &Schema, config: &BTreeMap<String, MetadataColumn>) -> Result<Self> {
        for (name, column) in config {
            let wrong = |what: String| Error::new(ErrorKind::Config, format!("metadata column {name:?}: {what}"));
            let field = schema.as_struct().field_by_name(name);
            let field = field.ok_or_else(|| wrong("the table has no such column".to_owned()))?;
            let expected = Type::Primitive(kind(*column));
            if *field.field_type != expected {
                let (held, wanted) = (type_text(&field.field_type), type_text(&expected));
                return Err(wrong(format!("the table has it as {held}, not {wanted}"))
                    .with_hint("give the metadata column another name"));
            }
            use MetadataColumn::{Headers, Key, KeyText, Timestamp};
            if field.required && matches!(column, Timestamp | Key | KeyText | Headers) {
                return Err(
                    wrong("it is required, and not every row has it".to_owned()).with_hint("make the column optional")
                );
            }
        }
        let arrow = schema_to_arrow_schema(schema)
            .context(ErrorKind::Unsupported, || "the table's schema has no Arrow form")?;
        Ok(Self { config: config.clone(), arrow: Arc::new(arrow) })
    }

    /// The batch with its metadata columns, all columns in the schema's order. `raw` is what it was decoded from,
    /// `now_ms` when.
    ///
    /// # Errors
    /// `Internal` when the batch is not one of this schema.
    pub fn add(&self, batch: Batch, raw: &RawBatch, now_ms: i64) -> Result<Batch> {
        if self.config.is_empty() {
            return Ok(batch);
        }
        let Batch { rows, source_rows, rejects } = batch;
        let mut columns = Vec::with_capacity(self.arrow.fields().len());
        for field in self.arrow.fields() {
            columns.push(match self.config.get(field.name()) {
                Some(column) => values(*column, &source_rows, raw, now_ms),
                None => rows.column_by_name(field.name()).cloned().ok_or_else(|| {
                    Error::new(ErrorKind::Internal, format!("column {:?} was not decoded", field.name()))
                })?,
            });
        }
        let options = RecordBatchOptions::new().with_row_count(Some(source_rows.len()));
        let rows = RecordBatch::try_new_with_options(Arc::clone(&self.arrow), columns, &options)
            .context(ErrorKind::Internal, || "metadata columns do not fit the decoded ones")?;
        Ok(Batch { rows, source_rows, rejects })
    }
}

fn values(column: MetadataColumn, source_rows: &[u32], raw: &RawBatch, now_ms: i64) -> ArrayRef {
    let count = source_rows.len();
    let of_rows = || source_rows.iter().map(|index| raw.rows.get(*index as usize));
    match column {
        MetadataColumn::Origin => Arc::new(StringArray::new_repeated(&*raw.origin, count)),
        MetadataColumn::Partition => Arc::new(StringArray::new_repeated(raw.partition.as_str(), count)),
        MetadataColumn::Number => {
            let numbers = of_rows().map(|row| row.and_then(|row| i64::try_from(row.number).ok()));
            Arc::new(numbers.collect::<Int64Array>())
        }
        MetadataColumn::Timestamp => timestamps(of_rows().map(|row| row.and_then(|row: &RawRow| row.timestamp_ms))),
        MetadataColumn::IngestedAt => timestamps(std::iter::repeat_n(Some(now_ms), count)),
        MetadataColumn::Key => {
            let keys = of_rows().map(|row| row.and_then(|row| raw.part(row.key)));
            Arc::new(keys.collect::<LargeBinaryArray>())
        }
        MetadataColumn::KeyText => texts(of_rows().map(|row| row.and_then(|row| raw.part(row.key)))),
        MetadataColumn::Headers => texts(of_rows().map(|row| row.and_then(|row| raw.part(row.headers)))),
    }
}

/// Bytes as text, those that are no UTF-8 as `\xff`.
fn texts<'a>(parts: impl Iterator<Item = Option<&'a [u8]>>) -> ArrayRef {
    Arc::new(parts.map(|part| part.map(text)).collect::<StringArray>())
}

fn text(bytes: &[u8]) -> Cow<'_, str> {
    if let Ok(text) = std::str::from_utf8(bytes) {
        return Cow::Borrowed(text);
    }
    let mut text = String::with_capacity(bytes.len() + 8);
    for chunk in bytes.utf8_chunks() {
        text.push_str(chunk.valid());
        for byte in chunk.invalid() {
            let _ = write!(text, "\\x{byte:02x}");
        }
    }
    Cow::Owned(text)
}

fn timestamps(millis: impl Iterator<Item = Option<i64>>) -> ArrayRef {
    let micros = millis.map(|ms| ms.and_then(|ms| ms.checked_mul(1000)));
    Arc::new(micros.collect::<TimestampMicrosecondArray>().with_timezone(UTC_TIME_ZONE))
}

#[cfg(test)]
mod tests {
    use arrow::array::Array;
    use arrow::util::display::array_value_to_string;
    use bytes::Bytes;
    use iceberg::spec::{NestedField, SchemaRef};

    use super::*;
    use crate::decode::json::{JsonDecoder, JsonOptions};
    use crate::model::batch::Span;
    use crate::model::checkpoint::{Position, Range};
    use crate::model::ids::PartitionId;

    const READ: &str = "1970-01-01T00:00:02Z";

    fn config() -> BTreeMap<String, MetadataColumn> {
        use MetadataColumn::{Headers, IngestedAt, Key, KeyText, Number, Origin, Partition, Timestamp};
        let names = [
            ("_file", Origin),
            ("_headers", Headers),
            ("_key", Key),
            ("_key_text", KeyText),
            ("_part", Partition),
            ("_line", Number),
            ("_written", Timestamp),
            ("_read", IngestedAt),
        ];
        names.map(|(name, column)| (name.to_owned(), column)).into()
    }

    /// `a`, then metadata columns, then `z`.
    fn schema(fields: &[(String, PrimitiveType)]) -> SchemaRef {
        let names = [("a".to_owned(), PrimitiveType::Int)].into_iter();
        let names = names.chain(fields.iter().cloned()).chain([("z".to_owned(), PrimitiveType::String)]);
        let fields =
            (1..).zip(names).map(|(id, (name, kind))| Arc::new(NestedField::optional(id, name, Type::Primitive(kind))));
        Arc::new(Schema::builder().with_fields(fields).build().expect("valid"))
    }

    #[test]
    fn each_row_gets_its_own_place_even_behind_a_reject() {
        // After the rows a key and headers that are no UTF-8.
        let data = Bytes::from_static(b"bad{\"a\":1}{\"z\":\"x\"}{\"a\":2}\xffk[h\xfe]");
        let row = |start, end, number, timestamp_ms| RawRow { start, end, number, timestamp_ms, ..RawRow::default() };
        let with = |row, key, headers| RawRow { key, headers, ..row };
        let raw = RawBatch {
            partition: PartitionId::new("folder"),
            range: Range { from: None, to: Position::Offset(3) },
            origin: "s3://b/f.json".into(),
            data,
            rows: vec![
                with(row(0, 3, 7, None), Span::new(0, 3), Span::new(0, 3)),
                with(row(3, 10, 8, Some(1000)), Span::new(26, 28), Span::new(28, 32)),
                row(10, 19, 9, None),
                // No timestamp holds this time.
                with(row(19, 26, 10, Some(i64::MAX)), Span::new(26, 26), Span::NOTHING),
            ],
            rejects: Vec::new(),
            header: None,
            skipped: 0,
        };
        let schema = schema(&fields(&config()));
        let options = JsonOptions { metadata: config(), ..JsonOptions::default() };
        let batch = JsonDecoder::new(&schema, options).expect("valid").decode(&raw);
        let columns = MetadataColumns::new(&schema, &config()).expect("valid");
        let batch = columns.add(batch, &raw, 2000).expect("fits");
        let shown: Vec<Vec<String>> = (0..3)
            .map(|row| batch.rows.columns().iter().map(|c| array_value_to_string(c, row).expect("shows")).collect())
            .collect();
        assert_eq!(
            shown,
            [
                ["1", "s3://b/f.json", "[h\\xfe]", "ff6b", "\\xffk", "8", "folder", READ, "1970-01-01T00:00:01Z", ""],
                ["", "s3://b/f.json", "", "", "", "9", "folder", READ, "", "x"],
                ["2", "s3://b/f.json", "", "", "", "10", "folder", READ, "", ""],
            ]
        );
        // No key is another thing than one without bytes.
        let missing = |name: &str| {
            let column = batch.rows.column_by_name(name).expect("there");
            (0..3).map(|row| column.is_null(row)).collect::<Vec<_>>()
        };
        for name in ["_key", "_key_text"] {
            assert_eq!(missing(name), [false, true, false], "{name}");
        }
        assert_eq!(missing("_headers"), [false, true, true]);
        assert!(batch.rows.schema().fields().iter().all(|field| field.metadata().contains_key("PARQUET:field_id")));
    }

    #[test]
    fn a_table_whose_column_cannot_hold_it_is_refused_by_name() {
        let wrong = schema(&[("_line".to_owned(), PrimitiveType::Int)]);
        let of = |name: &str| BTreeMap::from([(name.to_owned(), MetadataColumn::Number)]);
        let error = MetadataColumns::new(&wrong, &of("_line")).expect_err("int");
        assert_eq!(error.to_string(), "metadata column \"_line\": the table has it as int, not long");
        let error = MetadataColumns::new(&wrong, &of("_number")).expect_err("missing");
        assert_eq!(error.to_string(), "metadata column \"_number\": the table has no such column");
    }
}
