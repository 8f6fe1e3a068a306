//! Rows to partitions.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, UInt32Array, make_array};
use arrow::buffer::NullBuffer;
use arrow::compute::take_record_batch;
use arrow::datatypes::{
    DataType, Date32Type, Decimal128Type, Float32Type, Float64Type, Int32Type, Int64Type, Schema as ArrowSchema,
    Time64MicrosecondType, TimeUnit, TimestampMicrosecondType, TimestampNanosecondType,
};
use arrow::record_batch::RecordBatch;
use arrow::row::{RowConverter, SortField as RowField};
use iceberg::arrow::type_to_arrow_type;
use iceberg::spec::{Literal, PrimitiveType, Struct, Transform};
use uuid::Uuid;

use crate::error::{Context, Error, ErrorKind, Result};
use crate::write::RejectedRow;
use crate::write::layout::TableLayout;
use crate::write::metrics::field_id;
use crate::write::transform::{apply, failures};

/// Splits batches by partition. Equal partitions have equal keys over all batches of one splitter.
#[derive(Debug)]
pub(crate) struct Splitter {
    fields: Vec<Field>,
    converter: RowConverter,
}

#[derive(Debug)]
struct Field {
    name: String,
    path: Vec<usize>,
    transform: Transform,
    ty: PrimitiveType,
}

/// Rows of one partition.
#[derive(Debug)]
pub(crate) struct Group {
    pub(crate) key: Box<[u8]>,
    pub(crate) partition: Struct,
    pub(crate) rows: RecordBatch,
}

/// A batch in parts.
#[derive(Debug, Default)]
pub(crate) struct Split {
    pub(crate) groups: Vec<Group>,
    /// Rows of the batch that have no partition, in order.
    pub(crate) failed: Vec<RejectedRow>,
}

impl Splitter {
    /// A splitter for `layout`'s spec over batches of `schema`, or `None` when the table is not partitioned.
    ///
    /// # Errors
    /// `Unsupported` when a transform is unknown or its source lies in a list or map; `Corrupt` when spec and schema
    /// contradict each other.
    pub(crate) fn new(layout: &TableLayout, schema: &ArrowSchema) -> Result<Option<Self>> {
        if layout.spec.is_unpartitioned() {
            return Ok(None);
        }
        let within = |e: Error| e.within(format!("table {}", layout.name));
        let types = layout.spec.partition_type(&layout.schema);
        let types = types.context(ErrorKind::Corrupt, || format!("partition spec of table {}", layout.name))?;
        let mut fields = Vec::new();
        let mut row_fields = Vec::new();
        for (field, result) in layout.spec.fields().iter().zip(types.fields()) {
            let unsupported = |what: &str| {
                within(Error::new(ErrorKind::Unsupported, format!("partition field {}: {what}", field.name)))
            };
            let path = column_path(schema, field.source_id)
                .ok_or_else(|| unsupported("its source is no column outside of lists and maps"))?;
            let ty = result.field_type.as_primitive_type().ok_or_else(|| unsupported("its value is not primitive"))?;
            if field.transform == Transform::Unknown {
                return Err(unsupported("its transform is not known to this version"));
            }
            let arrow =
                type_to_arrow_type(&result.field_type).map_err(|_| unsupported("its type has no Arrow form"))?;
            row_fields.push(RowField::new(arrow));
            fields.push(Field { name: field.name.clone(), path, transform: field.transform, ty: ty.clone() });
        }
        let converter = RowConverter::new(row_fields)
            .context(ErrorKind::Unsupported, || format!("partition values of table {}", layout.name))?;
        Ok(Some(Self { fields, converter }))
    }

    /// Splits `batch`; rows keep their order within a partition. Groups come in the order of their first rows.
    ///
    /// # Errors
    /// `Unsupported` when a transform does not take its source's type, `Internal` when the batch has other columns.
    pub(crate) fn split(&self, batch: &RecordBatch) -> Result<Split> {
        let mut failed: BTreeMap<usize, RejectedRow> = BTreeMap::new();
        let mut values = Vec::with_capacity(self.fields.len());
        for field in &self.fields {
            let source = column_at(batch, &field.path)?;
            let value = apply(&field.transform, &source).map_err(|e| e.within(&field.name))?;
            for row in failures(&field.transform, &source, &value) {
                failed.entry(row).or_insert_with(|| RejectedRow {
                    row,
                    field: field.name.clone(),
                    reason: format!("{} of this value is out of range, so it has no partition", field.transform),
                });
            }
            values.push(value);
        }
        let keys = self.converter.convert_columns(&values).context(ErrorKind::Internal, || "partition keys")?;
        let (group_of, first_rows) = number_groups(&keys, &failed);
        let key_of = |row: usize| Box::from(keys.row(row).as_ref());
        let partition_of = |row: usize| self.partition(&values, row);
        let mut split = Split::default();
        if failed.is_empty() && first_rows.len() == 1 {
            split.groups.push(Group { key: key_of(0), partition: partition_of(0)?, rows: batch.clone() });
            return Ok(split);
        }
        let (order, starts) = order_by_group(&group_of, first_rows.len());
        let sorted = take_record_batch(batch, &order).context(ErrorKind::Internal, || "rows by partition")?;
        for (group, row) in first_rows.into_iter().enumerate() {
            let rows = sorted.slice(starts[group], starts[group + 1] - starts[group]);
            split.groups.push(Group { key: key_of(row), partition: partition_of(row)?, rows });
        }
        split.failed = failed.into_values().collect();
        Ok(split)
    }

    fn partition(&self, values: &[ArrayRef], row: usize) -> Result<Struct> {
        let literals = self.fields.iter().zip(values).map(|(field, value)| literal(&field.ty, value, row));
        literals.collect::<Result<Vec<_>>>().map(Struct::from_iter)
    }
}

/// For each row the number of its group (`u32::MAX` for failed rows), and for each group its first row.
fn number_groups(keys: &arrow::row::Rows, failed: &BTreeMap<usize, RejectedRow>) -> (Vec<u32>, Vec<usize>) {
    let mut groups: HashMap<arrow::row::Row<'_>, u32> = HashMap::new();
    let mut first_rows = Vec::new();
    let mut group_of = Vec::with_capacity(keys.num_rows());
    let mut last = None;
    for (row, key) in keys.iter().enumerate() {
        if !failed.is_empty() && failed.contains_key(&row) {
            group_of.push(u32::MAX);
            continue;
        }
        let group = match last {
            Some((last_key, group)) if last_key == key => group,
            _ => *groups.entry(key).or_insert_with(|| {
                first_rows.push(row);
                (first_rows.len() - 1) as u32
            }),
        };
        last = Some((key, group));
        group_of.push(group);
    }
    (group_of, first_rows)
}

/// Rows in the order of their groups, and where each group starts (one more entry marks the end).
fn order_by_group(group_of: &[u32], groups: usize) -> (UInt32Array, Vec<usize>) {
    let mut starts = vec![0_usize; groups + 1];
    let numbered = || group_of.iter().enumerate().filter(|(_, group)| **group != u32::MAX);
    for (_, group) in numbered() {
        starts[*group as usize + 1] += 1;
    }
    for at in 1..starts.len() {
        starts[at] += starts[at - 1];
    }
    let mut next = starts.clone();
    let mut order = vec![0_u32; starts[groups]];
    for (row, group) in numbered() {
        let at = &mut next[*group as usize];
        order[*at] = row as u32;
        *at += 1;
    }
    (UInt32Array::from(order), starts)
}

/// Where the field of id `id` lies: column, then child by child of structs. `None` when it lies in a list or map, or
/// nowhere.
pub(crate) fn column_path(schema: &ArrowSchema, id: i32) -> Option<Vec<usize>> {
    fn find(fields: &arrow::datatypes::Fields, id: i32) -> Option<Vec<usize>> {
        fields.iter().enumerate().find_map(|(at, field)| {
            if field_id(field) == Some(id) {
                return Some(vec![at]);
            }
            match field.data_type() {
                DataType::Struct(inner) => {
                    let mut path = find(inner, id)?;
                    path.insert(0, at);
                    Some(path)
                }
                _ => None,
            }
        })
    }
    find(schema.fields(), id)
}

/// The column at `path`; null where a struct around it is.
pub(crate) fn column_at(batch: &RecordBatch, path: &[usize]) -> Result<ArrayRef> {
    let missing = || Error::new(ErrorKind::Internal, format!("a batch has no column at {path:?}"));
    let mut steps = path.iter();
    let mut column = steps.next().and_then(|at| batch.columns().get(*at)).ok_or_else(missing)?;
    let mut outer: Option<NullBuffer> = None;
    for at in steps {
        outer = NullBuffer::union(outer.as_ref(), column.nulls());
        column = column.as_struct_opt().and_then(|parent| parent.columns().get(*at)).ok_or_else(missing)?;
    }
    match outer {
        None => Ok(Arc::clone(column)),
        Some(outer) => {
            let nulls = NullBuffer::union(Some(&outer), column.nulls());
            let data = column.to_data().into_builder().nulls(nulls).build();
            Ok(make_array(data.context(ErrorKind::Internal, || format!("column at {path:?}"))?))
        }
    }
}

/// The value of a row, as Iceberg's type `ty`.
pub(crate) fn literal(ty: &PrimitiveType, values: &ArrayRef, row: usize) -> Result<Option<Literal>> {
    if values.is_null(row) {
        return Ok(None);
    }
    let literal = match (values.data_type(), ty) {
        (DataType::Boolean, _) => Literal::bool(values.as_boolean().value(row)),
        (DataType::Int32, _) => Literal::int(values.as_primitive::<Int32Type>().value(row)),
        (DataType::Int64, _) => Literal::long(values.as_primitive::<Int64Type>().value(row)),
        (DataType::Float32, _) => Literal::float(values.as_primitive::<Float32Type>().value(row)),
        (DataType::Float64, _) => Literal::double(values.as_primitive::<Float64Type>().value(row)),
        (DataType::Decimal128(..), _) => Literal::decimal(values.as_primitive::<Decimal128Type>().value(row)),
        (DataType::Date32, _) => Literal::date(values.as_primitive::<Date32Type>().value(row)),
        (DataType::Time64(TimeUnit::Microsecond), _) => {
            Literal::time(values.as_primitive::<Time64MicrosecondType>().value(row))
        }
        (DataType::Timestamp(TimeUnit::Microsecond, _), _) => {
            Literal::timestamp(values.as_primitive::<TimestampMicrosecondType>().value(row))
        }
        (DataType::Timestamp(TimeUnit::Nanosecond, _), _) => {
            Literal::timestamp(values.as_primitive::<TimestampNanosecondType>().value(row))
        }
        (DataType::Utf8, _) => Literal::string(values.as_string::<i32>().value(row)),
        (DataType::LargeBinary, _) => Literal::binary(values.as_binary::<i64>().value(row).iter().copied()),
        (DataType::FixedSizeBinary(_), PrimitiveType::Uuid) => {
            let bytes = values.as_fixed_size_binary().value(row);
            Literal::uuid(Uuid::from_slice(bytes).context(ErrorKind::Internal, || "a UUID is not 16 bytes long")?)
        }
        (DataType::FixedSizeBinary(_), _) => Literal::fixed(values.as_fixed_size_binary().value(row).iter().copied()),
        (other, ty) => {
            return Err(Error::new(ErrorKind::Internal, format!("a partition value of type {ty} came as {other}")));
        }
    };
    Ok(Some(literal))
}

#[cfg(test)]
mod tests;
