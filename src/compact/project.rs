//! Rows of a file in the table's current columns: found by field id, at any depth, whatever schema the file was written with. Or
//! by name, for files whose ids mean something else in this table.
//!
//! A column that the file lacks is, in this order: the partition's value where the file's spec has the column itself, the
//! column's initial default, null. Source: Iceberg spec, "Column Projection".

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, AsArray, BinaryArray, BooleanArray, Decimal128Array, FixedSizeBinaryArray, Float32Array,
    Float64Array, Int32Array, Int64Array, ListArray, MapArray, StringArray, StructArray, UInt32Array, new_null_array,
};
use arrow::compute::{CastOptions, cast_with_options, take};
use arrow::datatypes::{DataType, Field, FieldRef, Fields, SchemaRef as ArrowSchemaRef};
use arrow::record_batch::{RecordBatch, RecordBatchOptions};
use iceberg::spec::{Literal, PrimitiveLiteral, SchemaRef};

use crate::error::{Context, Error, ErrorKind, Result};
use crate::write::metrics::field_id;

/// Values of columns that stand in a file's partition, by field id.
pub(crate) type Constants = BTreeMap<i32, Option<PrimitiveLiteral>>;

/// The way from one file's columns to those that are wanted.
#[derive(Debug)]
pub(crate) struct Projection {
    by: By,
    schema: ArrowSchemaRef,
    columns: Vec<Column>,
}

#[derive(Debug)]
enum Column {
    /// Of the file, by its place.
    Held(usize, FieldRef),
    /// One value for all rows.
    Same(ArrayRef),
}

/// What makes a column of a file that of the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum By {
    /// Its field id. Its type is the table's, or one that was promoted to it.
    Id,
    /// Its name. Its values are cast, and must have a counterpart.
    Name,
}

/// What nested columns are looked up in, and how.
struct Lookup<'a> {
    schema: &'a SchemaRef,
    by: By,
}

impl Projection {
    /// From `file`'s columns to `wanted`, whose Iceberg form is `schema`.
    ///
    /// # Errors
    /// `Unsupported` with the column for a file without field ids, and for a required column that it lacks.
    pub(crate) fn new(
        file: &ArrowSchemaRef,
        wanted: &ArrowSchemaRef,
        schema: &SchemaRef,
        constants: &Constants,
    ) -> Result<Self> {
        if !file.fields().is_empty() && file.fields().iter().all(|field| field_id(field).is_none()) {
            return Err(Error::new(ErrorKind::Unsupported, "its columns have no field ids")
                .with_hint("a file that was added by name is left as it is"));
        }
        Self::of(file, wanted, Lookup { schema, by: By::Id }, constants)
    }

    /// From `file`'s columns to those of `wanted` that have their names.
    ///
    /// # Errors
    /// `Unsupported` with the column for a required one that the file lacks.
    pub(crate) fn by_name(file: &ArrowSchemaRef, wanted: &ArrowSchemaRef, schema: &SchemaRef) -> Result<Self> {
        Self::of(file, wanted, Lookup { schema, by: By::Name }, &Constants::new())
    }

    fn of(file: &ArrowSchemaRef, wanted: &ArrowSchemaRef, lookup: Lookup<'_>, constants: &Constants) -> Result<Self> {
        let column = |field: &FieldRef| {
            if let Some(at) = lookup.place(file.fields(), field) {
                return Ok(Column::Held(at, Arc::clone(field)));
            }
            match field_id(field).and_then(|id| constants.get(&id)) {
                Some(Some(value)) => Ok(Column::Same(one(value, field.data_type())?)),
                Some(None) => Ok(Column::Same(new_null_array(field.data_type(), 1))),
                None => lookup.value(field).map(Column::Same),
            }
        };
        let columns = wanted.fields().iter().map(column).collect::<Result<_>>()?;
        Ok(Self { by: lookup.by, schema: Arc::clone(wanted), columns })
    }

    /// `batch` in the wanted columns; those that are required may hold nulls still.
    ///
    /// # Errors
    /// `Corrupt` with the column when its values are none of its type.
    pub(crate) fn apply(&self, batch: &RecordBatch, schema: &SchemaRef) -> Result<RecordBatch> {
        let (rows, lookup) = (batch.num_rows(), Lookup { schema, by: self.by });
        let columns = self.columns.iter().map(|column| match column {
            Column::Same(value) => repeated(value, rows),
            Column::Held(at, field) => lookup.project(batch.column(*at), &batch.schema().fields()[*at], field),
        });
        let columns = columns.collect::<Result<Vec<_>>>()?;
        // A required column of the table that has nulls in the file is told later, by row.
        let loose: Vec<Field> = self.schema.fields().iter().map(|f| f.as_ref().clone().with_nullable(true)).collect();
        let options = RecordBatchOptions::new().with_row_count(Some(rows));
        RecordBatch::try_new_with_options(Arc::new(arrow::datatypes::Schema::new(loose)), columns, &options)
            .context(ErrorKind::Corrupt, || "its columns do not fit the table's")
    }
}

impl Lookup<'_> {
    /// Where among `held` the column is.
    fn place(&self, held: &Fields, wanted: &Field) -> Option<usize> {
        held.iter().position(|held| match self.by {
            By::Id => field_id(held) == field_id(wanted),
            By::Name => held.name() == wanted.name(),
        })
    }

    /// The value of a column that a file lacks, as an array of one.
    fn value(&self, field: &Field) -> Result<ArrayRef> {
        let own = field_id(field).and_then(|id| self.schema.field_by_id(id));
        match own.and_then(|own| own.initial_default.as_ref()) {
            Some(Literal::Primitive(value)) => one(value, field.data_type()),
            Some(_) => Err(unsupported(field, "its initial default is nested")),
            None if field.is_nullable() => Ok(new_null_array(field.data_type(), 1)),
            None => Err(unsupported(field, "it is required, has no default, and the file lacks it")),
        }
    }

    /// A column in the wanted form.
    fn project(&self, column: &ArrayRef, held: &FieldRef, wanted: &FieldRef) -> Result<ArrayRef> {
        let corrupt = || format!("column {}", wanted.name());
        match (held.data_type(), wanted.data_type()) {
            (a, b) if a == b => Ok(Arc::clone(column)),
            (DataType::Struct(from), DataType::Struct(to)) => {
                let parts = column.as_struct();
                let children = self.children(parts, from, to)?;
                let whole = StructArray::try_new(to.clone(), children, parts.nulls().cloned());
                Ok(Arc::new(whole.context(ErrorKind::Corrupt, corrupt)?))
            }
            (DataType::List(from), DataType::List(to)) => {
                let list = column.as_list::<i32>();
                let values = self.project(list.values(), from, to)?;
                let whole = ListArray::try_new(Arc::clone(to), list.offsets().clone(), values, list.nulls().cloned());
                Ok(Arc::new(whole.context(ErrorKind::Corrupt, corrupt)?))
            }
            (DataType::Map(from, _), DataType::Map(to, sorted)) => {
                let map = column.as_map();
                let (DataType::Struct(held), DataType::Struct(parts)) = (from.data_type(), to.data_type()) else {
                    return Err(unsupported(wanted, "its entries are no pairs"));
                };
                // Key and value are found by their place: that is what they are.
                let pair = held.iter().zip(parts).zip(map.entries().columns());
                let pair = pair.map(|((held, wanted), column)| self.project(column, held, wanted));
                let entries = StructArray::try_new(parts.clone(), pair.collect::<Result<_>>()?, None);
                let entries = entries.context(ErrorKind::Corrupt, corrupt)?;
                let (offsets, nulls) = (map.offsets().clone(), map.nulls().cloned());
                let whole = MapArray::try_new(Arc::clone(to), offsets, entries, nulls, *sorted);
                Ok(Arc::new(whole.context(ErrorKind::Corrupt, corrupt)?))
            }
            (from, to) if self.by == By::Id && !promotes(from, to) => {
                Err(unsupported(wanted, &format!("it is {from} in the file, and {to} in the table")))
            }
            (_, to) => {
                let strict = CastOptions { safe: false, ..CastOptions::default() };
                cast_with_options(column, to, &strict).context(ErrorKind::Corrupt, corrupt)
            }
        }
    }

    fn children(&self, parts: &StructArray, from: &Fields, to: &Fields) -> Result<Vec<ArrayRef>> {
        let nameless = from.iter().find(|held| self.by == By::Id && field_id(held).is_none());
        if let Some(nameless) = nameless {
            return Err(unsupported(nameless, "it has no field id"));
        }
        let child = |wanted: &FieldRef| match self.place(from, wanted) {
            Some(at) => self.project(parts.column(at), &from[at], wanted),
            None => repeated(&self.value(wanted)?, parts.len()),
        };
        to.iter().map(child).collect()
    }
}

/// Whether values of one type are those of the other, in a wider or another form (spec, "Schema Evolution" and "Parquet").
fn promotes(from: &DataType, to: &DataType) -> bool {
    use DataType as D;
    let text = |ty: &DataType| matches!(ty, D::Utf8 | D::LargeUtf8 | D::Binary | D::LargeBinary);
    match (from, to) {
        (D::Int8 | D::Int16 | D::UInt8 | D::UInt16, D::Int32 | D::Int64)
        | (D::Int32, D::Int64)
        | (D::Float32, D::Float64)
        | (D::Date32, D::Timestamp(_, None))
        | (D::Time32(_) | D::Time64(_), D::Time64(_)) => true,
        (D::Decimal128(p, s), D::Decimal128(q, t)) => s == t && p <= q,
        (D::Timestamp(_, held), D::Timestamp(_, wanted)) => held.is_some() == wanted.is_some(),
        (a, b) => text(a) && text(b),
    }
}

fn unsupported(field: &Field, what: &str) -> Error {
    Error::new(ErrorKind::Unsupported, format!("column {}: {what}", field.name()))
}

/// An array of one value, `rows` times.
fn repeated(value: &ArrayRef, rows: usize) -> Result<ArrayRef> {
    if value.is_null(0) {
        return Ok(new_null_array(value.data_type(), rows));
    }
    let places = UInt32Array::from(vec![0; rows]);
    take(value, &places, None).context(ErrorKind::Internal, || "repeat a value")
}

/// A literal as an array of one.
fn one(value: &PrimitiveLiteral, ty: &DataType) -> Result<ArrayRef> {
    let fixed =
        |bytes: &[u8]| FixedSizeBinaryArray::try_from_iter(std::iter::once(bytes)).map(|a| Arc::new(a) as ArrayRef);
    let misfit = || format!("{value:?} is no value of type {ty}");
    let array: ArrayRef = match (value, ty) {
        (PrimitiveLiteral::Boolean(v), _) => Arc::new(BooleanArray::from(vec![*v])),
        (PrimitiveLiteral::Int(v), _) => Arc::new(Int32Array::from(vec![*v])),
        (PrimitiveLiteral::Long(v), _) => Arc::new(Int64Array::from(vec![*v])),
        (PrimitiveLiteral::Float(v), _) => Arc::new(Float32Array::from(vec![v.0])),
        (PrimitiveLiteral::Double(v), _) => Arc::new(Float64Array::from(vec![v.0])),
        (PrimitiveLiteral::String(v), _) => Arc::new(StringArray::from(vec![v.as_str()])),
        (PrimitiveLiteral::Binary(v), DataType::FixedSizeBinary(_)) => fixed(v).context(ErrorKind::Corrupt, misfit)?,
        (PrimitiveLiteral::Binary(v), _) => Arc::new(BinaryArray::from_vec(vec![v])),
        (PrimitiveLiteral::UInt128(v), _) => fixed(&v.to_be_bytes()).context(ErrorKind::Corrupt, misfit)?,
        (PrimitiveLiteral::Int128(v), DataType::Decimal128(precision, scale)) => {
            let array = Decimal128Array::from(vec![*v]).with_precision_and_scale(*precision, *scale);
            Arc::new(array.context(ErrorKind::Corrupt, misfit)?)
        }
        _ => return Err(Error::new(ErrorKind::Corrupt, misfit())),
    };
    let strict = CastOptions { safe: false, ..CastOptions::default() };
    cast_with_options(&array, ty, &strict).context(ErrorKind::Corrupt, misfit)
}
