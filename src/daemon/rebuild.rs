//! Staged files encoded again for a table whose layout changed before they were committed: read back, written by name.

use std::sync::Arc;

use iceberg::spec::{ListType, MapType, NestedField, NestedFieldRef, Schema, SchemaRef, StructType, Type};
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;

use crate::compact::project::Projection;
use crate::daemon::tables::Shared;
use crate::error::{Context, Error, ErrorKind, Result};
use crate::model::change::Evolve;
use crate::model::table::TableState;
use crate::storage::ledger::LedgerOwner;
use crate::write::layout::TableLayout;
use crate::write::staged::Staged;
use crate::write::{EpochWriter, WriterOptions};

/// Files in the new layout, and the columns that they need beyond it.
#[derive(Debug)]
pub(crate) struct Rebuilt {
    pub(crate) staged: Staged,
    pub(crate) evolve: Option<Evolve>,
}

/// Encodes `staged` again for `head`. Columns go by name, at every depth; a column that `head` lacks is added to it.
///
/// # Errors
/// `Corrupt` when values do not fit the column that has their name now, or a file is gone; those of the store.
pub(crate) async fn encode_again(
    shared: &Shared,
    options: WriterOptions,
    head: &TableState,
    staged: &Staged,
    owner: &LedgerOwner,
) -> Result<Rebuilt> {
    let schema = by_name(head, &staged.schema)?;
    let evolve = (schema.as_struct() != head.metadata.current_schema().as_struct()).then(|| Evolve {
        base_last_column_id: head.metadata.last_column_id(),
        base_schema_id: head.metadata.current_schema_id(),
        schema: Arc::clone(&schema),
    });
    let layout = TableLayout::of_new_rows(head, &schema, None)?;
    let arrow = layout.arrow_schema()?;
    let files = shared.files(head, owner.clone())?;
    let mut writer = EpochWriter::new(layout, files, &shared.budget, shared.env.clone(), options)?;
    let storage = shared.storage.vended(&head.config)?;
    for file in &staged.files {
        let location = file.file_path().to_owned();
        let bytes = storage.read(&location).await?;
        let unreadable = || format!("staged file {location}");
        let reader = ParquetRecordBatchReaderBuilder::try_new(bytes).context(ErrorKind::Corrupt, unreadable)?;
        let unfit = |error: Error| misfit(head, &error.to_string());
        let projection = Projection::by_name(reader.schema(), &arrow, &schema).map_err(unfit)?;
        for batch in reader.build().context(ErrorKind::Corrupt, unreadable)? {
            let batch = batch.context(ErrorKind::Corrupt, unreadable)?;
            let batch = projection.apply(&batch, &schema).map_err(unfit)?;
            if let Some(row) = writer.write(batch).await?.first() {
                return Err(misfit(head, &format!("{}: {}", row.field, row.reason)));
            }
        }
    }
    Ok(Rebuilt { staged: writer.finish().await?, evolve })
}

/// The table's columns, and after them, at every depth, those of `ours` that it lacks, under new ids.
fn by_name(head: &TableState, ours: &SchemaRef) -> Result<SchemaRef> {
    let current = head.metadata.current_schema();
    let mut ids = NewIds { last: head.metadata.last_column_id() };
    let fields = ids.joined(current.as_struct().fields(), ours.as_struct().fields());
    let schema = Schema::builder()
        .with_schema_id(current.schema_id())
        .with_fields(fields)
        .with_identifier_field_ids(current.identifier_field_ids())
        .build();
    schema.map(Arc::new).context(ErrorKind::Internal, || format!("columns of table {}", head.name))
}

/// Ids for columns that a table lacks.
struct NewIds {
    last: i32,
}

impl NewIds {
    fn next(&mut self) -> i32 {
        self.last = self.last.saturating_add(1);
        self.last
    }

    /// `held`, and after them those of `ours` that are not among them.
    fn joined(&mut self, held: &[NestedFieldRef], ours: &[NestedFieldRef]) -> Vec<NestedFieldRef> {
        let mut fields = Vec::with_capacity(held.len());
        for field in held {
            let own = ours.iter().find(|own| own.name == field.name);
            fields.push(own.map_or_else(|| Arc::clone(field), |own| self.grown(field, own)));
        }
        for own in ours.iter().filter(|own| held.iter().all(|field| field.name != own.name)) {
            // Rows of other files lack it.
            fields.push(Arc::new(NestedField { required: false, ..self.anew(own) }));
        }
        fields
    }

    /// `held`, with what `ours` has within it beside.
    fn grown(&mut self, held: &NestedFieldRef, ours: &NestedFieldRef) -> NestedFieldRef {
        let kind = match (held.field_type.as_ref(), ours.field_type.as_ref()) {
            (Type::Struct(held), Type::Struct(ours)) => {
                Type::Struct(StructType::new(self.joined(held.fields(), ours.fields())))
            }
            (Type::List(held), Type::List(ours)) => {
                Type::List(ListType::new(self.grown(&held.element_field, &ours.element_field)))
            }
            (Type::Map(held), Type::Map(ours)) => {
                let value = self.grown(&held.value_field, &ours.value_field);
                Type::Map(MapType::new(Arc::clone(&held.key_field), value))
            }
            _ => return Arc::clone(held),
        };
        Arc::new(NestedField { field_type: Box::new(kind), ..held.as_ref().clone() })
    }

    /// A column like `ours`, for rows that all have it.
    fn anew(&mut self, ours: &NestedFieldRef) -> NestedField {
        let id = self.next();
        let kind = match ours.field_type.as_ref() {
            Type::Struct(inner) => {
                Type::Struct(StructType::new(inner.fields().iter().map(|field| Arc::new(self.anew(field))).collect()))
            }
            Type::List(list) => Type::List(ListType::new(Arc::new(self.anew(&list.element_field)))),
            Type::Map(map) => {
                let (key, value) = (self.anew(&map.key_field), self.anew(&map.value_field));
                Type::Map(MapType::new(Arc::new(key), Arc::new(value)))
            }
            primitive => primitive.clone(),
        };
        NestedField::new(id, &ours.name, kind, ours.required)
    }
}

fn misfit(head: &TableState, what: &str) -> Error {
    Error::new(ErrorKind::Corrupt, format!("table {}: staged rows do not fit it any more: {what}", head.name))
        .with_hint("undo the change of the table's columns, then restart the pipeline")
}

#[cfg(test)]
mod tests;
