//! Staged files encoded again for a table whose layout changed before they were committed: read back, written by name.

use std::sync::Arc;

use arrow::array::{ArrayRef, new_null_array};
use arrow::compute::{CastOptions, cast_with_options};
use arrow::datatypes::SchemaRef as ArrowSchemaRef;
use arrow::record_batch::RecordBatch;
use iceberg::spec::{NestedField, Schema, SchemaRef};
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;

use crate::daemon::tables::Shared;
use crate::error::{Context, Error, ErrorKind, Result};
use crate::model::change::Evolve;
use crate::model::ids::PipelineName;
use crate::model::table::TableState;
use crate::storage::ledger::LedgerOwner;
use crate::write::layout::TableLayout;
use crate::write::properties::WriteProperties;
use crate::write::staged::Staged;
use crate::write::{EpochWriter, WriterOptions};

/// Files in the new layout, and the columns that they need beyond it.
#[derive(Debug)]
pub(crate) struct Rebuilt {
    pub(crate) staged: Staged,
    pub(crate) evolve: Option<Evolve>,
}

/// Encodes `staged` again for `head`. Columns go by name; a column that `head` lacks is added to it.
///
/// # Errors
/// `Corrupt` when values do not fit the column that has their name now, or a file is gone; those of the store.
pub(crate) async fn encode_again(
    shared: &Shared,
    pipeline: &PipelineName,
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
    let layout = TableLayout::from_state(head, Some(Arc::clone(&schema)), &WriteProperties::default())?;
    let arrow = layout.arrow_schema()?;
    let files = shared.files(head, owner.clone())?;
    let options = WriterOptions { file_prefix: pipeline.file_mark(), ..WriterOptions::default() };
    let mut writer = EpochWriter::new(layout, files, &shared.budget, shared.env.clone(), options)?;
    let storage = shared.storage.vended(&head.config)?;
    for file in &staged.files {
        let location = file.file_path().to_owned();
        let bytes = storage.read(&location).await?;
        let unreadable = || format!("staged file {location}");
        let reader = ParquetRecordBatchReaderBuilder::try_new(bytes).context(ErrorKind::Corrupt, unreadable)?;
        for batch in reader.build().context(ErrorKind::Corrupt, unreadable)? {
            let batch = project(&batch.context(ErrorKind::Corrupt, unreadable)?, &arrow)?;
            if let Some(row) = writer.write(batch).await?.first() {
                return Err(misfit(head, &format!("{}: {}", row.field, row.reason)));
            }
        }
    }
    Ok(Rebuilt { staged: writer.finish().await?, evolve })
}

/// The table's columns, and after them those of `ours` that it lacks, under new ids.
fn by_name(head: &TableState, ours: &SchemaRef) -> Result<SchemaRef> {
    let current = head.metadata.current_schema();
    let mut next = head.metadata.last_column_id();
    let mut fields = current.as_struct().fields().to_vec();
    for field in ours.as_struct().fields() {
        if current.as_struct().field_by_name(&field.name).is_some() {
            continue;
        }
        if !field.field_type.is_primitive() {
            return Err(misfit(head, &format!("the nested column {} is not there any more", field.name)));
        }
        next = next.saturating_add(1);
        fields.push(Arc::new(NestedField::optional(next, &field.name, field.field_type.as_ref().clone())));
    }
    let schema = Schema::builder()
        .with_schema_id(current.schema_id())
        .with_fields(fields)
        .with_identifier_field_ids(current.identifier_field_ids())
        .build();
    schema.map(Arc::new).context(ErrorKind::Internal, || format!("columns of table {}", head.name))
}

fn project(batch: &RecordBatch, schema: &ArrowSchemaRef) -> Result<RecordBatch> {
    let strict = CastOptions { safe: false, ..CastOptions::default() };
    let column = |field: &arrow::datatypes::FieldRef| -> Result<ArrayRef> {
        match batch.column_by_name(field.name()) {
            None => Ok(new_null_array(field.data_type(), batch.num_rows())),
            Some(held) => cast_with_options(held, field.data_type(), &strict)
                .context(ErrorKind::Corrupt, || format!("column {} changed its type", field.name())),
        }
    };
    let columns = schema.fields().iter().map(column).collect::<Result<Vec<_>>>()?;
    RecordBatch::try_new(Arc::clone(schema), columns)
        .context(ErrorKind::Corrupt, || "staged rows do not fit the table any more")
}

fn misfit(head: &TableState, what: &str) -> Error {
    Error::new(ErrorKind::Corrupt, format!("table {}: staged rows do not fit it any more: {what}", head.name))
        .with_hint("undo the change of the table's columns, then restart the pipeline")
}
