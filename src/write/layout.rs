//! What a table's new data files look like and where they lie.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::datatypes::SchemaRef as ArrowSchemaRef;
use iceberg::arrow::schema_to_arrow_schema;
use iceberg::spec::{
    FormatVersion, NestedFieldRef, PartitionSpecRef, SchemaRef, SortOrderRef, Struct, Transform, Type,
};

use crate::error::{Context, ErrorKind, Result};
use crate::model::ids::TableName;
use crate::model::table::TableState;
use crate::write::path::{object_directories, partition_path, table_context};
use crate::write::properties::{MetricsMode, WriteProperties};

/// Everything a writer needs to know of a table. Files written under one layout may be committed to the table as long as
/// its spec and the ids of its columns have not changed.
#[derive(Debug, Clone)]
pub struct TableLayout {
    /// The table.
    pub name: TableName,
    /// Its location, no slash at the end.
    pub location: String,
    /// The columns to write.
    pub schema: SchemaRef,
    /// The partitioning, bound to `schema`.
    pub spec: PartitionSpecRef,
    /// The order of rows within a file.
    pub sort_order: SortOrderRef,
    /// What the table's properties say.
    pub properties: WriteProperties,
    /// Its format version.
    pub format_version: FormatVersion,
}

/// Bytes of a row group of rows that arrive, unless the table says otherwise. The open one is most of what a busy table takes in
/// memory. Compaction makes longer ones of those that it rewrites.
const ROW_GROUP_BYTES: usize = 32 << 20;

impl TableLayout {
    /// The same as [`TableLayout::from_state`] for rows that arrive, in files of `target_file_bytes` unless the table says otherwise.
    ///
    /// # Errors
    /// As [`WriteProperties::from_table`].
    pub fn of_new_rows(table: &TableState, schema: &SchemaRef, target_file_bytes: Option<u64>) -> Result<Self> {
        let mut defaults = WriteProperties { row_group_bytes: ROW_GROUP_BYTES, ..WriteProperties::default() };
        if let Some(bytes) = target_file_bytes {
            defaults.target_file_bytes = bytes;
        }
        Self::from_state(table, Some(Arc::clone(schema)), &defaults)
    }

    /// The layout of `table`, with the columns of `evolved` where its schema is about to change.
    ///
    /// # Errors
    /// As [`WriteProperties::from_table`].
    pub fn from_state(table: &TableState, evolved: Option<SchemaRef>, defaults: &WriteProperties) -> Result<Self> {
        let metadata = &table.metadata;
        Ok(Self {
            name: table.name.clone(),
            location: metadata.location().trim_end_matches('/').to_owned(),
            schema: evolved.unwrap_or_else(|| Arc::clone(metadata.current_schema())),
            spec: Arc::clone(metadata.default_partition_spec()),
            sort_order: Arc::clone(metadata.default_sort_order()),
            properties: WriteProperties::from_table(metadata.properties(), defaults)
                .map_err(|e| e.within(format!("table {}", table.name)))?,
            format_version: metadata.format_version(),
        })
    }

    /// The Arrow form of the columns, with field ids.
    ///
    /// # Errors
    /// `Unsupported` when a column has no Arrow form.
    pub fn arrow_schema(&self) -> Result<ArrowSchemaRef> {
        let schema = schema_to_arrow_schema(&self.schema)
            .context(ErrorKind::Unsupported, || format!("columns of table {}", self.name))?;
        Ok(Arc::new(schema))
    }

    /// The metrics mode of every primitive column, by field id, after Iceberg's rules: the column's own property, else
    /// the default property, else `truncate(16)` for the first columns of the schema and none for the rest; a column that
    /// the table is sorted by has bounds unless its own property says otherwise.
    pub fn metrics_modes(&self) -> BTreeMap<i32, MetricsMode> {
        let metrics = &self.properties.metrics;
        let mut leaves = Vec::new();
        collect_leaves(self.schema.as_struct().fields(), &mut leaves);
        let sorted = self.sort_order.fields.iter();
        let sorted: Vec<i32> =
            sorted.filter(|field| field.transform == Transform::Identity).map(|f| f.source_id).collect();
        let mode = |(nth, id): (usize, i32)| {
            let general = match metrics.default {
                Some(mode) => mode,
                None if nth < metrics.inferred_columns_max => MetricsMode::DEFAULT,
                None => MetricsMode::None,
            };
            let general = match general {
                MetricsMode::None | MetricsMode::Counts if sorted.contains(&id) => MetricsMode::DEFAULT,
                mode => mode,
            };
            let own = self.schema.name_by_field_id(id).and_then(|name| metrics.columns.get(name));
            (id, own.copied().unwrap_or(general))
        };
        leaves.into_iter().enumerate().map(mode).collect()
    }

    /// Where a data file of `partition` named `name` lies: Iceberg's default or object store layout.
    ///
    /// # Errors
    /// `Internal` when `partition` is not one of the layout's spec.
    pub fn file_location(&self, partition: &Struct, name: &str) -> Result<String> {
        let properties = &self.properties;
        let root = match &properties.data_path {
            Some(path) => path.clone(),
            None => format!("{}/data", self.location),
        };
        let with_partition = properties.partitioned_paths || !properties.object_storage;
        let name = if with_partition && !self.spec.is_unpartitioned() {
            format!("{}/{name}", partition_path(&self.spec, &self.schema, partition)?)
        } else {
            name.to_owned()
        };
        if !properties.object_storage {
            return Ok(format!("{root}/{name}"));
        }
        let directories = object_directories(&name);
        Ok(if !root.starts_with(&self.location) {
            format!("{root}/{directories}/{}/{name}", table_context(&self.location))
        } else if properties.partitioned_paths {
            format!("{root}/{directories}/{name}")
        } else {
            format!("{root}/{directories}-{name}")
        })
    }
}

/// The ids of primitive fields, in the order of the schema.
fn collect_leaves(fields: &[NestedFieldRef], leaves: &mut Vec<i32>) {
    for field in fields {
        match field.field_type.as_ref() {
            Type::Primitive(_) => leaves.push(field.id),
            Type::Struct(inner) => collect_leaves(inner.fields(), leaves),
            Type::List(list) => collect_leaves(std::slice::from_ref(&list.element_field), leaves),
            Type::Map(map) => collect_leaves(&[Arc::clone(&map.key_field), Arc::clone(&map.value_field)], leaves),
        }
    }
}

#[cfg(test)]
mod tests;
