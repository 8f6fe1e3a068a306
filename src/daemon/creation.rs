//! Tables that a pipeline needs: adopted when they are there, created from its configuration or its first rows when not.

use std::collections::BTreeMap;

use iceberg::spec::{
    FormatVersion, NestedField, NullOrder, PrimitiveType, Schema, SortDirection, SortField, SortOrder, Transform, Type,
    UnboundPartitionSpec,
};

use crate::catalog::{Catalog, CreateTable};
use crate::commit::create::create_or_adopt;
use crate::config::layout_text::{self, DirectionText, NullsText, TransformText};
use crate::config::{CreateConfig, MetadataColumn, PipelineConfig};
use crate::decode::growth::GrowthLimits;
use crate::decode::{Format, Inference, type_text};
use crate::env::Env;
use crate::error::{Context, Error, ErrorKind, Result};
use crate::model::batch::RawBatch;
use crate::model::ids::TableName;
use crate::model::table::TableState;
use crate::quality::quarantine;
use crate::transform::{evolve, metadata_columns};

/// The only column of a table that had to be created before any row for it came.
const PLACEHOLDER: &str = "frazil_anchor";

/// How a pipeline's tables are created.
#[derive(Debug, Clone)]
pub(crate) struct Creation {
    config: CreateConfig,
    format: Format,
    metadata: BTreeMap<String, MetadataColumn>,
    growth: GrowthLimits,
    infer_rows: usize,
}

impl Creation {
    pub(crate) fn new(pipeline: &PipelineConfig, format: Format) -> Self {
        Self {
            format,
            config: pipeline.create.clone(),
            metadata: pipeline.metadata.clone(),
            growth: GrowthLimits { columns_max: pipeline.schema.columns_max, ..GrowthLimits::default() },
            infer_rows: pipeline.schema.infer_rows,
        }
    }

    /// The table, created from `rows` when it is missing and no columns are configured.
    pub(crate) async fn open(
        &self,
        env: &Env,
        catalog: &dyn Catalog,
        table: &TableName,
        rows: &RawBatch,
    ) -> Result<TableState> {
        let how = Inference {
            metadata: &self.metadata,
            limits: self.growth,
            rows: self.infer_rows,
            nanos: self.format_version() >= FormatVersion::V3,
        };
        self.open_with(env, catalog, table, self.format.table_schema(rows, how)).await
    }

    /// The table, created before any row for it came: without partitions and order where its columns are not configured.
    pub(crate) async fn open_empty(&self, env: &Env, catalog: &dyn Catalog, table: &TableName) -> Result<TableState> {
        let empty = async { Schema::builder().build().context(ErrorKind::Internal, || "an empty schema") };
        self.open_with(env, catalog, table, empty).await
    }

    /// The rejects table.
    pub(crate) async fn open_rejects(&self, env: &Env, catalog: &dyn Catalog, table: &TableName) -> Result<TableState> {
        let wanted = CreateTable {
            name: table.clone(),
            location: None,
            schema: quarantine::rejects_schema()?,
            spec: UnboundPartitionSpec::default(),
            sort_order: SortOrder::unsorted_order(),
            format_version: self.format_version(),
            properties: BTreeMap::new().into_iter().collect(),
        };
        create_or_adopt(env, catalog, &wanted).await.map_err(for_a_person)
    }

    async fn open_with(
        &self,
        env: &Env,
        catalog: &dyn Catalog,
        table: &TableName,
        infer: impl Future<Output = Result<Schema>>,
    ) -> Result<TableState> {
        if self.config.columns.is_empty() {
            // A table that is there is taken as it is.
            match catalog.load(table).await {
                Ok(state) => return Ok(state),
                Err(error) if error.kind() == ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
        }
        let schema = if self.config.columns.is_empty() { infer.await? } else { self.configured(table)? };
        // Without a column that rows brought there is nothing to lay the table out by.
        let laid_out = !schema.as_struct().fields().is_empty();
        let schema = self.with_metadata(schema)?;
        let wanted = CreateTable {
            name: table.clone(),
            location: self.config.location.clone(),
            spec: if laid_out { self.spec(table, &schema)? } else { UnboundPartitionSpec::default() },
            sort_order: if laid_out { self.sort_order(table, &schema)? } else { SortOrder::unsorted_order() },
            schema,
            format_version: self.format_version(),
            properties: self.config.properties.clone().into_iter().collect(),
        };
        match create_or_adopt(env, catalog, &wanted).await {
            // Another instance created it meanwhile, from other rows: it is taken as it is.
            Err(error) if error.kind() == ErrorKind::Conflict && self.config.columns.is_empty() => {
                catalog.load(table).await
            }
            done => done.map_err(for_a_person),
        }
    }

    fn format_version(&self) -> FormatVersion {
        if self.config.format_version >= 3 { FormatVersion::V3 } else { FormatVersion::V2 }
    }

    fn configured(&self, table: &TableName) -> Result<Schema> {
        type_text::schema_of(&self.config.columns).map_err(|problems| {
            let text = problems.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ");
            Error::new(ErrorKind::Config, format!("create.columns of table {table}: {text}"))
        })
    }

    /// The columns with the metadata columns; never none at all, which some readers do not take.
    fn with_metadata(&self, schema: Schema) -> Result<Schema> {
        let mut columns = metadata_columns::fields(&self.metadata);
        if schema.as_struct().fields().is_empty() && columns.is_empty() {
            columns.push((PLACEHOLDER.to_owned(), PrimitiveType::Boolean));
        }
        let last = schema.highest_field_id();
        Ok(evolve::add_columns(&schema, last, &columns, self.growth)?.schema.unwrap_or(schema))
    }

    fn spec(&self, table: &TableName, schema: &Schema) -> Result<UnboundPartitionSpec> {
        let mut builder = UnboundPartitionSpec::builder();
        for text in &self.config.partition {
            let part = layout_text::partition(text).map_err(|problem| wrong(table, text, &problem.message))?;
            let source = column(schema, table, text, &part.column)?;
            let name = part.name.clone().unwrap_or_else(|| format!("{}{}", part.column, suffix(part.transform)));
            builder = builder
                .add_partition_field(source.id, name, transform(part.transform))
                .map_err(|error| wrong(table, text, &error.to_string()))?;
        }
        Ok(builder.build())
    }

    fn sort_order(&self, table: &TableName, schema: &Schema) -> Result<SortOrder> {
        if self.config.sort.is_empty() {
            return Ok(SortOrder::unsorted_order());
        }
        let mut builder = SortOrder::builder();
        for text in &self.config.sort {
            let sort = layout_text::sort(text).map_err(|problem| wrong(table, text, &problem.message))?;
            let source = column(schema, table, text, &sort.column)?;
            builder.with_sort_field(SortField {
                source_id: source.id,
                transform: transform(sort.transform),
                direction: match sort.direction {
                    DirectionText::Ascending => SortDirection::Ascending,
                    DirectionText::Descending => SortDirection::Descending,
                },
                null_order: match sort.nulls {
                    NullsText::First => NullOrder::First,
                    NullsText::Last => NullOrder::Last,
                },
            });
        }
        builder
            .with_order_id(1)
            .build(schema)
            .map_err(|error| Error::new(ErrorKind::Config, format!("create.sort of table {table}")).with_source(error))
    }
}

/// Only a person can mend a table that is not what is needed: it is not to be tried again and again.
fn for_a_person(error: Error) -> Error {
    if error.kind() != ErrorKind::Conflict {
        return error;
    }
    let hint = error.hint().unwrap_or_default().to_owned();
    Error::new(ErrorKind::Config, error.to_string()).with_hint(hint)
}

/// A source column of a partition or sort field, by its name or, nested, its path.
fn column<'a>(schema: &'a Schema, table: &TableName, text: &str, name: &str) -> Result<&'a NestedField> {
    let field = schema.field_by_name(name);
    let primitive = |field: &&NestedField| matches!(*field.field_type, Type::Primitive(_));
    field.map(AsRef::as_ref).filter(primitive).ok_or_else(|| {
        let known: Vec<_> = schema.as_struct().fields().iter().map(|f| f.name.as_str()).collect();
        wrong(table, text, &format!("there is no column {name:?} with single values; there are {}", known.join(", ")))
            .with_hint("name the columns in create.columns where the first rows do not show them all")
    })
}

fn wrong(table: &TableName, text: &str, what: &str) -> Error {
    Error::new(ErrorKind::Config, format!("layout of table {table}, {text:?}: {what}"))
}

fn transform(text: TransformText) -> Transform {
    match text {
        TransformText::Identity => Transform::Identity,
        TransformText::Bucket(n) => Transform::Bucket(n),
        TransformText::Truncate(n) => Transform::Truncate(n),
        TransformText::Year => Transform::Year,
        TransformText::Month => Transform::Month,
        TransformText::Day => Transform::Day,
        TransformText::Hour => Transform::Hour,
        TransformText::Void => Transform::Void,
    }
}

/// What the reference implementation appends to a source column's name.
fn suffix(text: TransformText) -> &'static str {
    match text {
        TransformText::Identity => "",
        TransformText::Bucket(_) => "_bucket",
        TransformText::Truncate(_) => "_trunc",
        TransformText::Year => "_year",
        TransformText::Month => "_month",
        TransformText::Day => "_day",
        TransformText::Hour => "_hour",
        TransformText::Void => "_null",
    }
}
