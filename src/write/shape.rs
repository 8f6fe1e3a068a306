//! What all files of one layout have in common: columns in Parquet's terms and the settings of the writer.

use std::sync::Arc;

use arrow::datatypes::SchemaRef as ArrowSchemaRef;
use arrow::record_batch::RecordBatch;
use iceberg::spec::PrimitiveType;
use parquet::arrow::ArrowSchemaConverter;
use parquet::basic::LogicalType;
use parquet::errors::ParquetError;
use parquet::file::metadata::KeyValue;
use parquet::file::properties::{EnabledStatistics, WriterProperties, WriterPropertiesBuilder, WriterVersion};
use parquet::schema::types::{ColumnDescPtr, SchemaDescriptor, Type, TypePtr};

use crate::error::{Context, Error, ErrorKind, Result};
use crate::write::dictionary::dictionary_pays;
use crate::write::layout::TableLayout;
use crate::write::metrics::{Leaf, STATISTICS_BYTES_MIN};
use crate::write::properties::MetricsMode;

/// What readers and people see as the writer of a file, in the form that Parquet's readers parse.
pub(crate) const CREATED_BY: &str = concat!("frazil version ", env!("CARGO_PKG_VERSION"), " (build parquet-rs)");

/// What all files of one layout have in common.
#[derive(Debug)]
pub(crate) struct FileShape {
    pub(crate) layout: TableLayout,
    pub(crate) schema: ArrowSchemaRef,
    pub(crate) parquet: SchemaDescriptor,
    pub(crate) leaves: Vec<Leaf>,
    iceberg_schema: String,
}

impl FileShape {
    /// The shape of `layout`'s files.
    pub(crate) fn new(layout: TableLayout) -> Result<Self> {
        let table = layout.name.to_string();
        let schema = layout.arrow_schema()?;
        let parquet = ArrowSchemaConverter::new()
            .schema_root("table")
            .convert(&schema)
            .and_then(|parquet| with_uuids(&parquet, &layout))
            .context(ErrorKind::Unsupported, || format!("Parquet form of table {table}"))?;
        let modes = layout.metrics_modes();
        let leaf = |column: &ColumnDescPtr| {
            let basic = column.self_type();
            let id = basic.get_basic_info().has_id().then(|| basic.get_basic_info().id());
            let field = id.and_then(|id| layout.schema.field_by_id(id)).and_then(|f| f.field_type.as_primitive_type());
            match (id, field) {
                (Some(id), Some(ty)) => Ok(Leaf {
                    id,
                    ty: ty.clone(),
                    repeated: column.max_rep_level() > 0,
                    mode: modes.get(&id).copied().unwrap_or(MetricsMode::None),
                }),
                _ => Err(Error::new(
                    ErrorKind::Internal,
                    format!("table {table}: Parquet column {} has no field id", column.path()),
                )),
            }
        };
        let leaves = parquet.columns().iter().map(leaf).collect::<Result<_>>()?;
        let iceberg_schema = serde_json::to_string(layout.schema.as_ref())
            .context(ErrorKind::Internal, || format!("schema of table {table} as JSON"))?;
        Ok(Self { layout, schema, parquet, leaves, iceberg_schema })
    }

    /// Settings of a file whose first rows are `sample`.
    pub(crate) fn properties(&self, sample: &RecordBatch) -> Result<WriterProperties> {
        let table = &self.layout.properties;
        let statistics_bytes = self.leaves.iter().try_fold(STATISTICS_BYTES_MIN, |most, leaf| match leaf.mode {
            MetricsMode::Full => None,
            MetricsMode::Truncate(length) => Some(most.max(length.saturating_mul(4))),
            MetricsMode::None | MetricsMode::Counts => Some(most),
        });
        let mut builder = WriterProperties::builder()
            .set_writer_version(WriterVersion::PARQUET_1_0)
            .set_created_by(CREATED_BY.to_owned())
            .set_compression(table.compression)
            .set_max_row_group_row_count(None)
            .set_max_row_group_bytes(Some(table.row_group_bytes))
            .set_data_page_size_limit(table.page_bytes)
            .set_data_page_row_count_limit(table.page_rows)
            .set_dictionary_page_size_limit(table.dictionary_bytes)
            .set_statistics_enabled(EnabledStatistics::Page)
            .set_statistics_truncate_length(statistics_bytes)
            .set_column_index_truncate_length(Some(STATISTICS_BYTES_MIN))
            .set_key_value_metadata(Some(self.key_values()));
        for ((column, leaf), pays) in self.parquet.columns().iter().zip(&self.leaves).zip(dictionary_pays(sample)) {
            builder = self.column_properties(builder, column, leaf, pays)?;
        }
        Ok(builder.build())
    }

    /// What every file says beside its columns.
    pub(crate) fn key_values(&self) -> Vec<KeyValue> {
        vec![KeyValue::new("iceberg.schema".to_owned(), self.iceberg_schema.clone())]
    }

    fn column_properties(
        &self,
        mut builder: WriterPropertiesBuilder,
        column: &ColumnDescPtr,
        leaf: &Leaf,
        dictionary: bool,
    ) -> Result<WriterPropertiesBuilder> {
        let table = &self.layout.properties;
        let path = || column.path().clone();
        if !dictionary {
            builder = builder.set_column_dictionary_enabled(path(), false);
        }
        let Some(name) = self.layout.schema.name_by_field_id(leaf.id) else {
            return Err(Error::new(ErrorKind::Internal, format!("field {} has no name", leaf.id)));
        };
        if table.statistics_off.contains(name) {
            builder = builder.set_column_statistics_enabled(path(), EnabledStatistics::None);
        }
        if let Some(fpp) = table.bloom_filters.get(name) {
            builder = builder
                .set_column_bloom_filter_fpp(path(), *fpp)
                .set_column_bloom_filter_ndv(path(), bloom_ndv(table.bloom_filter_bytes_max, *fpp));
        }
        Ok(builder)
    }
}

/// The number of distinct values whose filter takes at most `bytes_max`; filters are folded to what they need in the end.
fn bloom_ndv(bytes_max: usize, fpp: f64) -> u64 {
    // The size is rounded up to a power of two, so the largest one that fits is taken; a little less survives rounding.
    let bits = (1_u64 << bytes_max.max(32).ilog2()) as f64 * 8.0 * 0.999;
    let values = bits * (1.0 - fpp.powf(1.0 / 8.0)).ln() / -8.0;
    values.max(1.0) as u64
}

/// Arrow has no UUIDs, so the converter leaves out the annotation that the spec asks for and some readers go by.
fn with_uuids(parquet: &SchemaDescriptor, layout: &TableLayout) -> Result<SchemaDescriptor, ParquetError> {
    let is_uuid = |id: i32| {
        let field = layout.schema.field_by_id(id).and_then(|field| field.field_type.as_primitive_type());
        field == Some(&PrimitiveType::Uuid)
    };
    let fields = parquet.root_schema().get_fields().iter().map(|field| annotated(field, &is_uuid));
    let fields = fields.collect::<Result<_, ParquetError>>()?;
    let root = Type::group_type_builder(parquet.root_schema().name()).with_fields(fields).build()?;
    Ok(SchemaDescriptor::new(Arc::new(root)))
}

fn annotated(ty: &TypePtr, is_uuid: &impl Fn(i32) -> bool) -> Result<TypePtr, ParquetError> {
    let basic = ty.get_basic_info();
    let id = basic.has_id().then(|| basic.id());
    Ok(match ty.as_ref() {
        Type::PrimitiveType { physical_type, type_length, .. } if id.is_some_and(is_uuid) => Arc::new(
            Type::primitive_type_builder(ty.name(), *physical_type)
                .with_repetition(basic.repetition())
                .with_length(*type_length)
                .with_logical_type(Some(LogicalType::Uuid))
                .with_id(id)
                .build()?,
        ),
        Type::PrimitiveType { .. } => Arc::clone(ty),
        Type::GroupType { fields, .. } => {
            let fields = fields.iter().map(|field| annotated(field, is_uuid)).collect::<Result<_, ParquetError>>()?;
            Arc::new(
                Type::group_type_builder(ty.name())
                    .with_repetition(basic.repetition())
                    .with_converted_type(basic.converted_type())
                    .with_logical_type(basic.logical_type_ref().cloned())
                    .with_id(id)
                    .with_fields(fields)
                    .build()?,
            )
        }
    })
}
