//! The columns of a table that rows in envelopes fill: those of the rows' own fields, and those beside them.

use std::collections::BTreeMap;

use arrow::datatypes::SchemaRef as ArrowSchemaRef;
use iceberg::spec::SchemaRef;

use crate::config::{DebeziumColumn, Epoch, MetadataColumn, OnChange};
use crate::decode::append::Appender;
use crate::decode::columns::{Column, Columns};
use crate::decode::debezium::{Beside, Change, field_of};
use crate::decode::fault::Fault;
use crate::decode::observe::{Observed, Shape};
use crate::decode::plan::{Plan, StructPlan};
use crate::decode::rows::{Room, arrow_of};
use crate::decode::scan::Scanner;
use crate::error::Result;
use crate::model::batch::{Batch, RawBatch, Reject};

/// What each column of a table is filled from.
#[derive(Debug)]
pub(crate) struct EnvelopeTable {
    /// The columns that a row's own fields fill.
    pub(crate) image: StructPlan,
    pub(crate) beside: Beside,
    /// What the texts of both take.
    rooms: (Room, Room),
    /// For each column of the batches: whether it is one of those beside.
    order: Vec<bool>,
    arrow: ArrowSchemaRef,
}

/// The columns of one batch.
pub(crate) struct EnvelopeColumns {
    pub(crate) image: Columns,
    beside: Columns,
    /// Reads what the columns beside hold.
    metadata: Appender,
    /// Whether it is noted which of them the table lacks.
    noted: bool,
}

impl EnvelopeTable {
    /// The columns of `schema`, except for those that `metadata` names; those that `columns` names are beside the rows' own.
    ///
    /// # Errors
    /// `Unsupported` when it has a column that no value can fill, such as a map with struct keys.
    pub(crate) fn new(
        schema: &SchemaRef,
        columns: &BTreeMap<String, DebeziumColumn>,
        metadata: &BTreeMap<String, MetadataColumn>,
    ) -> Result<Self> {
        let arrow = arrow_of(schema, metadata)?;
        let reserved = metadata.keys().chain(columns.keys()).cloned().collect();
        let image = StructPlan::of_row(schema.as_struct().fields(), reserved)?;
        let beside = Beside::new(schema.as_struct().fields(), columns)?;
        Ok(Self {
            rooms: (Room::new(&image), Room::new(&beside.plan)),
            image,
            beside,
            order: arrow.fields().iter().map(|field| columns.contains_key(field.name())).collect(),
            arrow,
        })
    }

    /// Columns for the rows of a batch.
    pub(crate) fn columns(&self, raw: &RawBatch) -> EnvelopeColumns {
        EnvelopeColumns {
            image: self.rooms.0.columns(&self.image, raw),
            beside: self.rooms.1.columns(&self.beside.plan, raw),
            metadata: Appender::new(OnChange::Freeze, Epoch::Millis),
            noted: false,
        }
    }

    /// The batch of what was appended.
    pub(crate) fn batch(
        &self,
        columns: EnvelopeColumns,
        raw: &RawBatch,
        (source_rows, rejects): (Vec<u32>, Vec<Reject>),
    ) -> Batch {
        self.rooms.0.note(&columns.image, raw);
        self.rooms.1.note(&columns.beside, raw);
        let (mut image, mut beside) = (columns.image.columns.into_iter(), columns.beside.columns.into_iter());
        let next = |is_beside: &bool| if *is_beside { beside.next() } else { image.next() };
        let columns: Vec<Column> = self.order.iter().filter_map(next).collect();
        Columns { columns, next: Vec::new() }.into_batch(&self.arrow, raw, source_rows, rejects)
    }

    /// Fills the columns beside the row's own; `before` fills those of the row before.
    pub(crate) fn fill_beside(
        &self,
        columns: &mut EnvelopeColumns,
        change: &Change<'_>,
        unavailable: &[String],
        mut before: impl FnMut(&Plan, &mut Column) -> Result<(), Fault>,
    ) -> Result<(), Fault> {
        let names = (!unavailable.is_empty()).then(|| serde_json::Value::from(unavailable.to_vec()).to_string());
        let EnvelopeColumns { beside, metadata, .. } = columns;
        metadata.budget.begin(0);
        for ((plan, what), column) in self.beside.plan.fields.iter().zip(&self.beside.holds).zip(&mut beside.columns) {
            match (what, change.text(*what, names.as_deref())) {
                (DebeziumColumn::Before, _) => before(plan, column),
                (_, Some(text)) => metadata.value(plan, column, &mut Scanner::new(text)),
                (_, None) => metadata.null(plan, column, "missing"),
            }
            .map_err(|fault| fault.in_field(field_of(*what)))?;
        }
        Ok(())
    }

    /// Notes what the table lacks beside the row, once for all rows: events of a batch are alike.
    pub(crate) fn note_beside(
        &self,
        columns: &mut EnvelopeColumns,
        change: &Change<'_>,
        before: Option<Shape>,
        observed: &mut Observed,
    ) {
        if !columns.noted {
            self.beside.note(change, before, observed);
            columns.noted = change.has_source();
        }
    }
}

impl EnvelopeColumns {
    /// Drops what a row left behind `length` others.
    pub(crate) fn truncate(&mut self, length: usize) {
        self.image.truncate(length);
        self.beside.truncate(length);
    }
}
