//! Rows in a table's sort order.

use arrow::array::UInt32Array;
use arrow::compute::{SortOptions, concat_batches, take_record_batch};
use arrow::datatypes::{Schema as ArrowSchema, SchemaRef};
use arrow::record_batch::RecordBatch;
use arrow::row::{RowConverter, SortField as RowField};
use iceberg::arrow::type_to_arrow_type;
use iceberg::spec::{NullOrder, SortDirection, Transform};

use crate::error::{Context, Error, ErrorKind, Result};
use crate::write::layout::TableLayout;
use crate::write::partition::{column_at, column_path};
use crate::write::transform::apply;

/// Sorts rows by a table's sort order. Stable.
#[derive(Debug)]
pub(crate) struct Sorter {
    order_id: i32,
    fields: Vec<(Vec<usize>, Transform)>,
    converter: RowConverter,
}

impl Sorter {
    /// A sorter for `layout`'s order over batches of `schema`, or `None` when the table has none.
    ///
    /// # Errors
    /// `Unsupported` when a source lies in a list or map or a transform is unknown.
    pub(crate) fn new(layout: &TableLayout, schema: &ArrowSchema) -> Result<Option<Self>> {
        let order = &layout.sort_order;
        if order.is_unsorted() {
            return Ok(None);
        }
        let mut fields = Vec::new();
        let mut row_fields = Vec::new();
        for field in &order.fields {
            let unsupported = |what: &str| {
                let place = format!("table {}: sort field on column id {}", layout.name, field.source_id);
                Error::new(ErrorKind::Unsupported, format!("{place}: {what}"))
            };
            let path = column_path(schema, field.source_id)
                .ok_or_else(|| unsupported("it is no column outside of lists and maps"))?;
            let source = layout.schema.field_by_id(field.source_id).ok_or_else(|| unsupported("no such column"))?;
            let result = field.transform.result_type(&source.field_type);
            let result = result.map_err(|e| unsupported("its transform does not fit").with_source(e))?;
            let arrow = type_to_arrow_type(&result).map_err(|_| unsupported("its type has no Arrow form"))?;
            let options = SortOptions {
                descending: field.direction == SortDirection::Descending,
                nulls_first: field.null_order == NullOrder::First,
            };
            row_fields.push(RowField::new_with_options(arrow, options));
            fields.push((path, field.transform));
        }
        let converter = RowConverter::new(row_fields)
            .context(ErrorKind::Unsupported, || format!("sort order of table {}", layout.name))?;
        let order_id = i32::try_from(order.order_id)
            .context(ErrorKind::Corrupt, || format!("table {}: sort order {}", layout.name, order.order_id))?;
        Ok(Some(Self { order_id, fields, converter }))
    }

    /// The id of the order.
    pub(crate) fn order_id(&self) -> i32 {
        self.order_id
    }

    /// All rows of `batches` as one, in order. Needs about twice their memory.
    ///
    /// # Errors
    /// `Unsupported` when a transform does not take its source's type; `Internal` when the rows are too many for one
    /// batch or have other columns.
    pub(crate) fn sort(&self, schema: &SchemaRef, batches: &[RecordBatch]) -> Result<RecordBatch> {
        let rows = concat_batches(schema, batches).context(ErrorKind::Internal, || "rows to sort")?;
        let keys = self.keys(&rows)?;
        let count = u32::try_from(rows.num_rows()).context(ErrorKind::Internal, || "rows to sort")?;
        let mut order: Vec<u32> = (0..count).collect();
        // The row number breaks ties, which makes the quick sort a stable one.
        order.sort_unstable_by(|a, b| keys.row(*a as usize).cmp(&keys.row(*b as usize)).then(a.cmp(b)));
        if order.is_sorted() {
            return Ok(rows);
        }
        take_record_batch(&rows, &UInt32Array::from(order)).context(ErrorKind::Internal, || "sorted rows")
    }

    /// What the rows of a batch are compared by. Values without a result of the transform sort as nulls: their order is not defined by the spec.
    pub(crate) fn keys(&self, rows: &RecordBatch) -> Result<arrow::row::Rows> {
        let columns = self.fields.iter().map(|(path, transform)| apply(transform, &column_at(rows, path)?));
        let columns = columns.collect::<Result<Vec<_>>>()?;
        self.converter.convert_columns(&columns).context(ErrorKind::Internal, || "sort keys")
    }
}

#[cfg(test)]
mod tests;
