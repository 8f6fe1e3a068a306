//! Batches in a layout's exact columns.

use std::sync::Arc;

use arrow::array::{Array, BooleanArray, new_null_array};
use arrow::compute::{CastOptions, cast_with_options, filter_record_batch};
use arrow::datatypes::{Field, Schema as ArrowSchema, SchemaRef};
use arrow::record_batch::{RecordBatch, RecordBatchOptions};

use crate::error::{Context, Error, ErrorKind, Result};
use crate::write::RejectedRow;
use crate::write::metrics::field_id;

/// A batch in a layout's columns.
#[derive(Debug)]
pub(crate) struct Aligned {
    pub(crate) rows: RecordBatch,
    /// For each row its number in the batch given, when rows were taken out.
    kept: Option<Vec<usize>>,
    /// The rows taken out: null in a column that is required.
    pub(crate) rejected: Vec<RejectedRow>,
}

impl Aligned {
    /// The number that row `row` had in the batch given.
    pub(crate) fn origin(&self, row: usize) -> usize {
        self.kept.as_ref().and_then(|kept| kept.get(row).copied()).unwrap_or(row)
    }
}

/// `batch` in the columns of `schema`: found by field id, or by name where the batch has none; cast where the type was
/// widened; null where the batch was made before the column was added. Copies nothing when the columns are right already.
///
/// # Errors
/// `Internal` when a required column is missing or a type does not fit.
pub(crate) fn align(batch: RecordBatch, schema: &SchemaRef) -> Result<Aligned> {
    let (batch, kept, rejected) = without_missing_values(batch, schema)?;
    let held = batch.schema();
    if Arc::ptr_eq(&held, schema) || held == *schema {
        return Ok(Aligned { rows: batch, kept, rejected });
    }
    let strict = CastOptions { safe: false, ..CastOptions::default() };
    let column = |field: &Arc<Field>| {
        let place = || format!("column {}", field.name());
        let Some(at) = position(&held, field) else {
            return if field.is_nullable() {
                Ok(new_null_array(field.data_type(), batch.num_rows()))
            } else {
                Err(Error::new(ErrorKind::Internal, format!("{} is required and missing in a batch", place())))
            };
        };
        let column = batch.column(at);
        if column.data_type() == field.data_type() {
            return Ok(Arc::clone(column));
        }
        cast_with_options(column, field.data_type(), &strict).context(ErrorKind::Internal, place)
    };
    let columns = schema.fields().iter().map(column).collect::<Result<Vec<_>>>()?;
    let options = RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
    let rows = RecordBatch::try_new_with_options(Arc::clone(schema), columns, &options)
        .context(ErrorKind::Internal, || "a batch does not fit the table")?;
    Ok(Aligned { rows, kept, rejected })
}

fn position(held: &ArrowSchema, field: &Field) -> Option<usize> {
    let id = field_id(field);
    let same = |other: &Field| match field_id(other) {
        Some(other) => Some(other) == id,
        None => other.name() == field.name(),
    };
    held.fields().iter().position(|other| same(other))
}

type Checked = (RecordBatch, Option<Vec<usize>>, Vec<RejectedRow>);

/// Takes rows out that are null in a required column.
fn without_missing_values(batch: RecordBatch, schema: &ArrowSchema) -> Result<Checked> {
    let held = batch.schema();
    let mut rejected: Vec<Option<RejectedRow>> = Vec::new();
    for field in schema.fields().iter().filter(|field| !field.is_nullable()) {
        let Some(column) = position(&held, field).map(|at| batch.column(at)).filter(|c| c.null_count() > 0) else {
            continue;
        };
        rejected.resize_with(batch.num_rows(), || None);
        for row in (0..column.len()).filter(|row| column.is_null(*row)) {
            rejected[row].get_or_insert_with(|| RejectedRow {
                row,
                field: field.name().clone(),
                reason: "null in a required column".to_owned(),
            });
        }
    }
    if rejected.is_empty() {
        return Ok((batch, None, Vec::new()));
    }
    let keep: BooleanArray = rejected.iter().map(|row| Some(row.is_none())).collect();
    let kept = (0..batch.num_rows()).filter(|row| keep.value(*row)).collect();
    let batch = filter_record_batch(&batch, &keep).context(ErrorKind::Internal, || "rows without missing values")?;
    Ok((batch, Some(kept), rejected.into_iter().flatten().collect()))
}

#[cfg(test)]
mod tests;
