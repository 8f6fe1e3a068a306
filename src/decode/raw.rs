//! Rows that are kept as they are: all bytes of one in the column [`VALUE`].
//!
//! The column may be `binary`, or `string` for rows that are UTF-8. Any other column is NULL, or its write default.

use std::sync::Arc;

use iceberg::spec::{NestedField, PrimitiveType, Schema, SchemaRef, Type};

use crate::config::OnChange;
use crate::decode::columns::{Columns, Values};
use crate::decode::fault::Fault;
use crate::decode::json::JsonOptions;
use crate::decode::observe::{Observed, Shape};
use crate::decode::rows::{Sink, Target, append_all};
use crate::error::{Context, ErrorKind, Result};
use crate::model::batch::{Batch, RawBatch, RawRow};

/// The column that holds a row's bytes.
pub const VALUE: &str = "value";

/// Puts rows into one column.
#[derive(Debug)]
pub struct RawDecoder {
    target: Target,
    on_change: OnChange,
}

/// One batch on its way.
struct Run<'a> {
    decoder: &'a RawDecoder,
    raw: &'a RawBatch,
    columns: Columns,
    /// Whether the schema may follow the rows.
    evolving: bool,
    observed: Observed,
}

impl RawDecoder {
    /// A decoder to `schema`, except for the columns that `options` names as metadata.
    ///
    /// # Errors
    /// `Unsupported` when the schema has a column that cannot be filled.
    pub fn new(schema: &SchemaRef, options: &JsonOptions) -> Result<Self> {
        Ok(Self { target: Target::new(schema, &options.metadata)?, on_change: options.on_change })
    }

    /// As [`JsonDecoder::decode_observed`](crate::decode::json::JsonDecoder::decode_observed) does.
    pub fn decode_observed(&self, raw: &RawBatch) -> (Batch, Observed) {
        self.decode_as(raw, self.on_change)
    }

    /// The same under another policy.
    pub fn decode_as(&self, raw: &RawBatch, on_change: OnChange) -> (Batch, Observed) {
        let (columns, evolving) = (self.target.columns(raw), on_change == OnChange::Evolve);
        let mut run = Run { decoder: self, raw, columns, evolving, observed: Observed::default() };
        let appended = append_all(raw, &mut run);
        (self.target.batch(run.columns, raw, appended), run.observed)
    }
}

impl Sink for Run<'_> {
    fn row(&mut self, row: RawRow, _: usize) -> Result<(), Fault> {
        let (plan, bytes) = (&self.decoder.target.plan, self.raw.bytes(row));
        let Some(value) = plan.find(VALUE) else {
            return Err(self.lacks_value());
        };
        let mut relaxed = Vec::new();
        for (index, (plan, column)) in plan.fields.iter().zip(&mut self.columns.columns).enumerate() {
            if index == value {
                match &mut column.values {
                    Values::Binary(offsets, values) => {
                        values.extend(bytes);
                        offsets.push(i64::try_from(values.len()).unwrap_or(i64::MAX));
                    }
                    Values::Text(texts) => {
                        texts.push_bytes(bytes).map_err(|fault| fault.in_field(VALUE))?;
                        texts.close()?;
                    }
                    _ => return Err(Fault::value("a row as it is fits binary and string only").in_field(VALUE)),
                }
                column.nulls.append_non_null();
                continue;
            }
            match &plan.default {
                Some(default) => column.constant(default)?,
                None if plan.required => relaxed.push((plan.id, &plan.name)),
                None => column.placeholder(plan),
            }
        }
        let Some((_, name)) = relaxed.first() else { return Ok(()) };
        if self.evolving {
            self.observed.relaxed.extend(relaxed.iter().map(|(id, _)| *id));
        }
        Err(Fault::value("missing, and the column is required").in_field(name))
    }

    fn truncate(&mut self, length: usize) {
        self.columns.truncate(length);
    }
}

impl Run<'_> {
    /// A table without the column gets it, where it may.
    #[cold]
    fn lacks_value(&mut self) -> Fault {
        if let Some(obstacle) = self.decoder.target.plan.obstacle(VALUE) {
            return Fault::value(obstacle).in_field(VALUE);
        }
        if self.evolving {
            let shape = self.observed.added.entry(None).or_default();
            if shape.fields().next().is_none() {
                shape.insert(VALUE, Shape::Typed(Arc::new(Type::Primitive(PrimitiveType::Binary))));
            }
        }
        Fault::value("the table has no such column").in_field(VALUE)
    }
}

/// The schema of a table for rows as they are.
///
/// # Errors
/// `Internal` when it is none.
pub fn table_schema() -> Result<Schema> {
    let value = NestedField::required(1, VALUE, Type::Primitive(PrimitiveType::Binary));
    let schema = Schema::builder().with_fields([Arc::new(value)]).build();
    schema.context(ErrorKind::Internal, || "a schema of one column")
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use arrow::array::AsArray;

    use super::*;
    use crate::model::batch::tests::raw;

    fn decoder(fields: Vec<NestedField>) -> RawDecoder {
        let schema = Schema::builder().with_fields(fields.into_iter().map(Arc::new)).build().expect("valid");
        RawDecoder::new(&Arc::new(schema), &JsonOptions::default()).expect("valid")
    }

    #[test]
    fn all_bytes_of_a_row_are_in_its_column_and_what_is_no_text_is_refused_by_a_text() {
        let rows = raw(&[b"a".to_vec(), vec![], vec![0xff, 0]]);
        let schema = Arc::new(table_schema().expect("valid"));
        let (batch, observed) =
            RawDecoder::new(&schema, &JsonOptions::default()).expect("valid").decode_observed(&rows);
        assert!(observed.is_settled() && batch.rejects.is_empty());
        let values: Vec<&[u8]> = batch.rows.column(0).as_binary::<i64>().iter().flatten().collect();
        assert_eq!(values, [b"a".as_slice(), b"", &[0xff, 0]]);
        let text = NestedField::optional(1, VALUE, Type::Primitive(PrimitiveType::String));
        let other = NestedField::optional(2, "other", Type::Primitive(PrimitiveType::Long));
        let batch = decoder(vec![text, other]).decode_observed(&rows).0;
        assert_eq!((batch.source_rows, batch.rejects[0].field.as_str()), (vec![0, 1], VALUE));
        assert_eq!(batch.rejects[0].reason, "invalid UTF-8 after byte 0");
        assert_eq!(batch.rows.column(1).null_count(), 2);
    }

    #[test]
    fn a_table_without_the_column_is_asked_for_it_and_its_required_columns_become_optional() {
        let rows = raw(&[b"a".to_vec(), b"b".to_vec()]);
        let lacking = decoder(vec![NestedField::optional(1, "other", Type::Primitive(PrimitiveType::Long))]);
        let (batch, observed) = lacking.decode_observed(&rows);
        assert_eq!((batch.rows.num_rows(), batch.rejects.len()), (0, 2));
        let added: Vec<_> = observed.added.values().flat_map(|shape| shape.fields()).map(|(name, _)| name).collect();
        assert_eq!(added, [VALUE]);
        let kept = lacking.decode_as(&rows, OnChange::Quarantine);
        assert!(kept.1.is_settled());
        assert_eq!(kept.0.rejects[0].reason, "the table has no such column");
        let value = NestedField::optional(1, VALUE, Type::Primitive(PrimitiveType::Binary));
        let must = NestedField::required(2, "must", Type::Primitive(PrimitiveType::Long));
        let (batch, observed) = decoder(vec![value, must]).decode_observed(&rows);
        assert_eq!((batch.rejects[0].field.as_str(), observed.relaxed), ("must", BTreeSet::from([2])));
    }
}
