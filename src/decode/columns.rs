//! Columns under construction. Unlike Arrow's builders they can be cut back, which is how a bad row leaves no trace.

use std::sync::Arc;

use arrow::array::{
    ArrayData, ArrayRef, BooleanBufferBuilder, ListArray, MapArray, NullBufferBuilder, RecordBatch, RecordBatchOptions,
    StructArray, make_array,
};
use arrow::buffer::{Buffer, NullBuffer, OffsetBuffer, ScalarBuffer};
use arrow::datatypes::{DataType, Field, SchemaRef};
use arrow::error::ArrowError;
use iceberg::spec::{PrimitiveLiteral, PrimitiveType};

use crate::decode::fault::Fault;
use crate::decode::plan::{Kind, Plan, StructPlan};
use crate::decode::scan;
use crate::model::batch::{Batch, RawBatch, Reject, Stage};

/// The values of one column so far.
pub(crate) struct Column {
    /// Which of them are not NULL; its length is the column's.
    pub(crate) nulls: NullBufferBuilder,
    /// The values, with some value where NULL is.
    pub(crate) values: Values,
}

/// The values, by how they are stored.
pub(crate) enum Values {
    /// Booleans.
    Bits(BooleanBufferBuilder),
    /// `int`, `date`.
    I32(Vec<i32>),
    /// `long`, `time`, timestamps.
    I64(Vec<i64>),
    /// `float`.
    F32(Vec<f32>),
    /// `double`.
    F64(Vec<f64>),
    /// Decimals.
    I128(Vec<i128>),
    /// Strings.
    Text(Texts),
    /// Bytes of any length.
    Binary(Vec<i64>, Vec<u8>),
    /// Bytes of one length, UUIDs among them.
    Fixed(usize, Vec<u8>),
    /// The fields of a struct.
    Struct(Columns),
    /// List elements.
    List(Vec<i32>, Box<Column>),
    /// Map entries.
    Map(Vec<i32>, Box<Column>, Box<Column>),
}

/// Strings behind each other.
pub(crate) struct Texts {
    /// Where each begins, and where the last ends.
    pub(crate) offsets: Vec<i32>,
    /// The characters, all of them UTF-8.
    text: Vec<u8>,
}

/// The fields of a struct, or of the row.
pub(crate) struct Columns {
    /// One per field of the plan.
    pub(crate) columns: Vec<Column>,
    /// For each field, and before the first: the field that came next in the last row.
    pub(crate) next: Vec<usize>,
}

impl Columns {
    pub(crate) fn new(plan: &StructPlan, capacity: usize) -> Self {
        let columns = plan.fields.iter().map(|field| Column::new(field, capacity)).collect();
        Self { columns, next: (0..=plan.fields.len()).collect() }
    }

    /// Cuts every column back to `length`.
    pub(crate) fn truncate(&mut self, length: usize) {
        for column in &mut self.columns {
            column.truncate(length);
        }
    }

    /// The batch of what was appended, from the rows of `raw` at `source_rows`. Where Arrow refuses the columns, all rows are
    /// rejects: none is lost for it.
    pub(crate) fn into_batch(
        self,
        schema: &SchemaRef,
        raw: &RawBatch,
        source_rows: Vec<u32>,
        rejects: Vec<Reject>,
    ) -> Batch {
        let options = RecordBatchOptions::new().with_row_count(Some(source_rows.len()));
        let arrays = self.finish(schema.fields());
        match arrays.and_then(|arrays| RecordBatch::try_new_with_options(Arc::clone(schema), arrays, &options)) {
            Ok(rows) => Batch { rows, source_rows, rejects },
            Err(error) => {
                let reason = format!("the batch's columns do not fit together: {error}");
                let refused = raw.rows.iter().map(|row| raw.reject(*row, Stage::Decode, String::new(), reason.clone()));
                let rejects = raw.rejects.iter().cloned().chain(refused).collect();
                Batch { rows: RecordBatch::new_empty(Arc::clone(schema)), source_rows: Vec::new(), rejects }
            }
        }
    }

    /// The Arrow arrays, for `fields` in the plan's order.
    pub(crate) fn finish(self, fields: &arrow::datatypes::Fields) -> Result<Vec<ArrayRef>, ArrowError> {
        self.columns.into_iter().zip(fields).map(|(column, field)| column.finish(field.data_type())).collect()
    }
}

impl Texts {
    /// Appends to the string that is not ended yet.
    #[inline]
    pub(crate) fn push(&mut self, text: &str) {
        self.text.extend_from_slice(text.as_bytes());
    }

    /// The same from bytes that must be UTF-8. Most are ASCII, which is faster to see.
    ///
    /// # Errors
    /// A fault of the value where they are not.
    #[inline]
    pub(crate) fn push_bytes(&mut self, bytes: &[u8]) -> Result<(), Fault> {
        if !bytes.is_ascii() {
            utf8(bytes)?;
        }
        self.text.extend_from_slice(bytes);
        Ok(())
    }

    /// The same of what stands between the quotes of a JSON string.
    ///
    /// # Errors
    /// A fault of the row when an escape is none.
    pub(crate) fn push_unescaped(&mut self, raw: &str) -> Result<(), Fault> {
        scan::unescape(raw, |text| self.text.extend_from_slice(text.as_bytes()))
    }

    /// How many bytes the strings have.
    pub(crate) fn bytes(&self) -> usize {
        self.text.len()
    }

    /// Makes room for so many bytes more.
    pub(crate) fn reserve(&mut self, bytes: usize) {
        self.text.reserve(bytes);
    }

    /// Ends the string that was appended.
    #[inline]
    pub(crate) fn close(&mut self) -> Result<(), Fault> {
        self.offsets.push(offset(self.text.len())?);
        Ok(())
    }
}

/// Bytes as characters.
///
/// # Errors
/// A fault of the value where they are none.
pub(crate) fn utf8(bytes: &[u8]) -> Result<&str, Fault> {
    std::str::from_utf8(bytes).map_err(|e| Fault::value(format!("invalid UTF-8 after byte {}", e.valid_up_to())))
}

/// A length as an Arrow offset.
///
/// # Errors
/// A fault of the row that makes the batch too large.
pub(crate) fn offset(length: usize) -> Result<i32, Fault> {
    i32::try_from(length).map_err(|_| Fault::value("the column holds more than 2 GiB in one batch"))
}

impl Column {
    pub(crate) fn new(plan: &Plan, capacity: usize) -> Self {
        let offsets = |capacity: usize| {
            let mut offsets = Vec::with_capacity(capacity + 1);
            offsets.push(0);
            offsets
        };
        let values = match &plan.kind {
            Kind::Primitive(primitive) => Values::new(primitive, capacity),
            Kind::Struct(plan) => Values::Struct(Columns::new(plan, capacity)),
            Kind::List(element) => Values::List(offsets(capacity), Box::new(Self::new(element, capacity))),
            Kind::Map(key, value) => {
                Values::Map(offsets(capacity), Box::new(Self::new(key, capacity)), Box::new(Self::new(value, capacity)))
            }
        };
        Self { nulls: NullBufferBuilder::new(capacity), values }
    }

    pub(crate) fn len(&self) -> usize {
        self.nulls.len()
    }

    /// Appends NULL, or where the plan has none some value: for places that nobody reads, below a NULL struct or in a
    /// row that will be cut off.
    pub(crate) fn placeholder(&mut self, plan: &Plan) {
        self.nulls.append(plan.required);
        match &mut self.values {
            Values::Bits(bits) => bits.append(false),
            Values::I32(values) => values.push(0),
            Values::I64(values) => values.push(0),
            Values::F32(values) => values.push(0.0),
            Values::F64(values) => values.push(0.0),
            Values::I128(values) => values.push(0),
            Values::Text(texts) => repeat_last(&mut texts.offsets),
            Values::Binary(offsets, _) => repeat_last(offsets),
            Values::Fixed(width, bytes) => bytes.resize(bytes.len() + *width, 0),
            Values::List(offsets, _) | Values::Map(offsets, ..) => repeat_last(offsets),
            Values::Struct(inner) => {
                if let Kind::Struct(plan) = &plan.kind {
                    for (column, plan) in inner.columns.iter_mut().zip(&plan.fields) {
                        column.placeholder(plan);
                    }
                }
            }
        }
    }

    /// Appends a column's default.
    pub(crate) fn constant(&mut self, value: &PrimitiveLiteral) -> Result<(), Fault> {
        match (&mut self.values, value) {
            (Values::Bits(bits), PrimitiveLiteral::Boolean(value)) => bits.append(*value),
            (Values::I32(values), PrimitiveLiteral::Int(value)) => values.push(*value),
            (Values::I64(values), PrimitiveLiteral::Long(value)) => values.push(*value),
            (Values::F32(values), PrimitiveLiteral::Float(value)) => values.push(value.into_inner()),
            (Values::F64(values), PrimitiveLiteral::Double(value)) => values.push(value.into_inner()),
            (Values::I128(values), PrimitiveLiteral::Int128(value)) => values.push(*value),
            (Values::Text(texts), PrimitiveLiteral::String(value)) => {
                texts.push(value);
                texts.close()?;
            }
            (Values::Fixed(16, bytes), PrimitiveLiteral::UInt128(value)) => bytes.extend(value.to_be_bytes()),
            (Values::Fixed(width, bytes), PrimitiveLiteral::Binary(value)) if value.len() == *width => {
                bytes.extend(value)
            }
            (Values::Binary(offsets, bytes), PrimitiveLiteral::Binary(value)) => {
                bytes.extend(value);
                offsets.push(i64::try_from(bytes.len()).unwrap_or(i64::MAX));
            }
            _ => return Err(Fault::value("the column's default is of another type")),
        }
        self.nulls.append_non_null();
        Ok(())
    }

    pub(crate) fn truncate(&mut self, length: usize) {
        if self.nulls.len() > length {
            self.nulls.truncate(length);
        }
        match &mut self.values {
            Values::Bits(bits) => bits.truncate(length),
            Values::I32(values) => values.truncate(length),
            Values::I64(values) => values.truncate(length),
            Values::F32(values) => values.truncate(length),
            Values::F64(values) => values.truncate(length),
            Values::I128(values) => values.truncate(length),
            Values::Text(texts) => {
                texts.offsets.truncate(length + 1);
                texts.text.truncate(texts.offsets.last().map_or(0, |end| end.cast_unsigned() as usize));
            }
            Values::Binary(offsets, bytes) => {
                offsets.truncate(length + 1);
                bytes.truncate(offsets.last().and_then(|end| usize::try_from(*end).ok()).unwrap_or(0));
            }
            Values::Fixed(width, bytes) => bytes.truncate(length * *width),
            Values::Struct(inner) => inner.truncate(length),
            Values::List(offsets, element) => element.truncate(cut(offsets, length)),
            Values::Map(offsets, key, value) => {
                let entries = cut(offsets, length);
                key.truncate(entries);
                value.truncate(entries);
            }
        }
    }

    /// The Arrow array of that type.
    pub(crate) fn finish(mut self, data_type: &DataType) -> Result<ArrayRef, ArrowError> {
        let (length, nulls) = (self.nulls.len(), self.nulls.finish());
        let flat = |buffers: Vec<Buffer>, nulls: Option<NullBuffer>| -> Result<ArrayRef, ArrowError> {
            let data = ArrayData::builder(data_type.clone()).len(length).buffers(buffers).nulls(nulls);
            Ok(make_array(data.build()?))
        };
        match self.values {
            Values::Bits(mut bits) => flat(vec![bits.finish().into_inner()], nulls),
            Values::I32(values) => flat(vec![Buffer::from_vec(values)], nulls),
            Values::I64(values) => flat(vec![Buffer::from_vec(values)], nulls),
            Values::F32(values) => flat(vec![Buffer::from_vec(values)], nulls),
            Values::F64(values) => flat(vec![Buffer::from_vec(values)], nulls),
            Values::I128(values) => flat(vec![Buffer::from_vec(values)], nulls),
            Values::Text(texts) => flat(vec![Buffer::from_vec(texts.offsets), Buffer::from_vec(texts.text)], nulls),
            Values::Binary(offsets, bytes) => flat(vec![Buffer::from_vec(offsets), Buffer::from_vec(bytes)], nulls),
            Values::Fixed(_, bytes) => flat(vec![Buffer::from_vec(bytes)], nulls),
            Values::Struct(inner) => {
                let DataType::Struct(fields) = data_type else { return Err(mismatch(data_type)) };
                let arrays = inner.finish(fields)?;
                Ok(Arc::new(StructArray::try_new_with_length(fields.clone(), arrays, nulls, length)?))
            }
            Values::List(offsets, element) => {
                let DataType::List(field) = data_type else { return Err(mismatch(data_type)) };
                let values = element.finish(field.data_type())?;
                Ok(Arc::new(ListArray::try_new(Arc::clone(field), offset_buffer(offsets), values, nulls)?))
            }
            Values::Map(offsets, key, value) => {
                let DataType::Map(entries, sorted) = data_type else { return Err(mismatch(data_type)) };
                let entries_array = map_entries(entries, *key, *value)?;
                let offsets = offset_buffer(offsets);
                Ok(Arc::new(MapArray::try_new(Arc::clone(entries), offsets, entries_array, nulls, *sorted)?))
            }
        }
    }

    /// Whether a value occurs twice from index `from` on: keys of one map must not.
    pub(crate) fn repeats(&self, from: usize) -> bool {
        match &self.values {
            Values::Bits(bits) => {
                bits.len() - from > 2 || (bits.len() - from == 2 && bits.get_bit(from) == bits.get_bit(from + 1))
            }
            Values::I32(values) => repeated(values.iter().skip(from)),
            Values::I64(values) => repeated(values.iter().skip(from)),
            Values::F32(values) => repeated(values.iter().skip(from).map(|value| value.to_bits())),
            Values::F64(values) => repeated(values.iter().skip(from).map(|value| value.to_bits())),
            Values::I128(values) => repeated(values.iter().skip(from)),
            Values::Text(texts) => {
                let bytes = texts.text.as_slice();
                repeated(
                    texts
                        .offsets
                        .windows(2)
                        .skip(from)
                        .map(|ends| bytes.get(ends[0].cast_unsigned() as usize..ends[1].cast_unsigned() as usize)),
                )
            }
            Values::Binary(offsets, bytes) => repeated(offsets.windows(2).skip(from).map(|ends| {
                usize::try_from(ends[0]).ok().zip(usize::try_from(ends[1]).ok()).and_then(|(a, b)| bytes.get(a..b))
            })),
            Values::Fixed(width, bytes) => repeated(bytes.chunks((*width).max(1)).skip(from)),
            Values::Struct(_) | Values::List(..) | Values::Map(..) => false,
        }
    }
}

impl Values {
    fn new(primitive: &PrimitiveType, capacity: usize) -> Self {
        match primitive {
            PrimitiveType::Boolean => Self::Bits(BooleanBufferBuilder::new(capacity)),
            PrimitiveType::Int | PrimitiveType::Date => Self::I32(Vec::with_capacity(capacity)),
            PrimitiveType::Long
            | PrimitiveType::Time
            | PrimitiveType::Timestamp
            | PrimitiveType::Timestamptz
            | PrimitiveType::TimestampNs
            | PrimitiveType::TimestamptzNs => Self::I64(Vec::with_capacity(capacity)),
            PrimitiveType::Float => Self::F32(Vec::with_capacity(capacity)),
            PrimitiveType::Double => Self::F64(Vec::with_capacity(capacity)),
            PrimitiveType::Decimal { .. } => Self::I128(Vec::with_capacity(capacity)),
            PrimitiveType::String => {
                let mut offsets = Vec::with_capacity(capacity + 1);
                offsets.push(0);
                Self::Text(Texts { offsets, text: Vec::new() })
            }
            PrimitiveType::Uuid => Self::Fixed(16, Vec::with_capacity(capacity * 16)),
            PrimitiveType::Fixed(width) => Self::Fixed(usize::try_from(*width).unwrap_or(0), Vec::new()),
            PrimitiveType::Binary => Self::Binary(vec![0], Vec::new()),
        }
    }
}

fn repeat_last<T: Copy + Default>(offsets: &mut Vec<T>) {
    let last = offsets.last().copied().unwrap_or_default();
    offsets.push(last);
}

/// Cuts offsets back to `length` entries and answers where the last of them ends.
fn cut(offsets: &mut Vec<i32>, length: usize) -> usize {
    offsets.truncate(length + 1);
    offsets.last().map_or(0, |end| end.cast_unsigned() as usize)
}

fn repeated<T: Ord>(values: impl Iterator<Item = T>) -> bool {
    let mut sorted: Vec<T> = values.collect();
    sorted.sort_unstable();
    sorted.windows(2).any(|pair| pair[0] == pair[1])
}

/// Offsets that only ever grew.
fn offset_buffer(offsets: Vec<i32>) -> OffsetBuffer<i32> {
    OffsetBuffer::new(ScalarBuffer::from(offsets))
}

fn map_entries(field: &Field, key: Column, value: Column) -> Result<StructArray, ArrowError> {
    let DataType::Struct(fields) = field.data_type() else { return Err(mismatch(field.data_type())) };
    let [key_field, value_field] = &fields[..] else { return Err(mismatch(field.data_type())) };
    let length = key.len();
    let arrays = vec![key.finish(key_field.data_type())?, value.finish(value_field.data_type())?];
    StructArray::try_new_with_length(fields.clone(), arrays, None, length)
}

fn mismatch(data_type: &DataType) -> ArrowError {
    ArrowError::SchemaError(format!("a column was built for another type than {data_type}"))
}
