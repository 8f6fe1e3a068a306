//! Files that are written and not committed, as a value.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use iceberg::spec::{
    DataContentType, DataFile, DataFileBuilder, DataFileFormat, Datum, Literal, PartitionSpec, PartitionSpecRef,
    PrimitiveLiteral, Schema, SchemaRef, Struct,
};
use serde::{Deserialize, Serialize};

use crate::error::{Context, Error, ErrorKind, Result};
use crate::model::ids::TableName;
use crate::write::metrics::{bytes_of, datum};

/// The version of the document that this program writes; a newer one is never interpreted.
pub const STAGED_VERSION: u32 = 1;

/// What an epoch has for one table: data files, complete in storage, that no snapshot names yet.
#[derive(Debug, Clone, PartialEq)]
pub struct Staged {
    /// The table.
    pub table: TableName,
    /// The columns that the files were written with.
    pub schema: SchemaRef,
    /// The spec of their partition values.
    pub spec: PartitionSpecRef,
    /// The files, in the order of their locations.
    pub files: Vec<DataFile>,
    /// Their rows.
    pub rows: u64,
    /// Their bytes.
    pub bytes: u64,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
struct Document {
    v: u32,
    namespace: Vec<String>,
    table: String,
    schema: Schema,
    spec: PartitionSpec,
    files: Vec<File>,
}

/// A data file. Maps are sorted and values are in the bytes of the spec's appendix D, so that the same files give the same
/// document.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
struct File {
    location: String,
    partition: Vec<Option<String>>,
    record_count: u64,
    file_size: u64,
    column_sizes: BTreeMap<i32, u64>,
    value_counts: BTreeMap<i32, u64>,
    null_value_counts: BTreeMap<i32, u64>,
    nan_value_counts: BTreeMap<i32, u64>,
    lower_bounds: BTreeMap<i32, String>,
    upper_bounds: BTreeMap<i32, String>,
    split_offsets: Option<Vec<i64>>,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    sort_order_id: Option<i32>,
}

impl Staged {
    /// The value as one JSON document.
    ///
    /// # Errors
    /// `Internal` when a file is not a data file of this table's spec and schema.
    pub fn to_json(&self) -> Result<String> {
        let document = Document {
            v: STAGED_VERSION,
            namespace: self.table.namespace().to_vec(),
            table: self.table.name().to_owned(),
            schema: self.schema.as_ref().clone(),
            spec: self.spec.as_ref().clone(),
            files: self.files.iter().map(|file| self.file(file)).collect::<Result<_>>()?,
        };
        serde_json::to_string(&document).context(ErrorKind::Internal, || format!("staged files of {}", self.table))
    }

    /// Reads what [`Staged::to_json`] wrote.
    ///
    /// # Errors
    /// `Corrupt` when it is none, or of a version that this program does not know.
    pub fn from_json(text: &str) -> Result<Self> {
        #[derive(Deserialize)]
        struct Version {
            v: u32,
        }
        let unreadable = || "staged files cannot be read";
        let Version { v } = serde_json::from_str(text).context(ErrorKind::Corrupt, unreadable)?;
        if v != STAGED_VERSION {
            return Err(Error::new(ErrorKind::Corrupt, format!("staged files have version {v}"))
                .with_hint("run the newer frazil that wrote them"));
        }
        let document: Document = serde_json::from_str(text).context(ErrorKind::Corrupt, unreadable)?;
        let (schema, spec) = (Arc::new(document.schema), Arc::new(document.spec));
        let files = document.files.into_iter().map(|file| file.read(&schema, &spec)).collect::<Result<Vec<_>>>()?;
        Ok(Self {
            table: TableName::new(document.namespace, document.table)
                .map_err(|e| Error::new(ErrorKind::Corrupt, unreadable()).with_source(e))?,
            schema,
            spec,
            rows: files.iter().map(DataFile::record_count).sum(),
            bytes: files.iter().map(DataFile::file_size_in_bytes).sum(),
            files,
        })
    }

    fn file(&self, file: &DataFile) -> Result<File> {
        let partition = file.partition().fields().iter().map(|value| match value {
            None => Ok(None),
            Some(Literal::Primitive(literal)) => Ok(Some(BASE64.encode(literal_bytes(literal)?))),
            Some(_) => Err(Error::new(ErrorKind::Internal, format!("{}: a nested partition value", file.file_path()))),
        });
        let bounds = |bounds: &HashMap<i32, Datum>| {
            bounds.iter().map(|(id, bound)| Ok((*id, BASE64.encode(bytes_of(bound)?)))).collect::<Result<_>>()
        };
        let counts = |counts: &HashMap<i32, u64>| counts.iter().map(|(id, count)| (*id, *count)).collect();
        Ok(File {
            location: file.file_path().to_owned(),
            partition: partition.collect::<Result<_>>()?,
            record_count: file.record_count(),
            file_size: file.file_size_in_bytes(),
            column_sizes: counts(file.column_sizes()),
            value_counts: counts(file.value_counts()),
            null_value_counts: counts(file.null_value_counts()),
            nan_value_counts: counts(file.nan_value_counts()),
            lower_bounds: bounds(file.lower_bounds())?,
            upper_bounds: bounds(file.upper_bounds())?,
            split_offsets: file.split_offsets().map(<[i64]>::to_vec),
            sort_order_id: file.sort_order_id(),
        })
    }
}

impl File {
    fn read(self, schema: &Schema, spec: &PartitionSpec) -> Result<DataFile> {
        let corrupt = |what: &str| Error::new(ErrorKind::Corrupt, format!("staged file {}: {what}", self.location));
        let bytes = |text: &str| BASE64.decode(text).map_err(|e| corrupt("a value is no base64").with_source(e));
        let types = spec.partition_type(schema).map_err(|e| corrupt("its spec does not fit").with_source(e))?;
        if types.fields().len() != self.partition.len() {
            return Err(corrupt("its partition is not one of its spec"));
        }
        let value = |(text, field): (&Option<String>, &iceberg::spec::NestedFieldRef)| match text {
            None => Ok(None),
            Some(text) => {
                let ty = field.field_type.as_primitive_type().ok_or_else(|| corrupt("a partition type is nested"))?;
                Ok(Some(Literal::from(datum(ty, &bytes(text)?)?)))
            }
        };
        let partition = self.partition.iter().zip(types.fields()).map(value).collect::<Result<Vec<_>>>()?;
        let bounds = |bounds: &BTreeMap<i32, String>| {
            let read = |(id, text): (&i32, &String)| {
                let field = schema.field_by_id(*id).and_then(|field| field.field_type.as_primitive_type());
                let ty = field.ok_or_else(|| corrupt("a bound of a column that its schema lacks"))?;
                Ok((*id, datum(ty, &bytes(text)?)?))
            };
            bounds.iter().map(read).collect::<Result<HashMap<_, _>>>()
        };
        let mut builder = DataFileBuilder::default();
        builder
            .content(DataContentType::Data)
            .file_path(self.location.clone())
            .file_format(DataFileFormat::Parquet)
            .partition(Struct::from_iter(partition))
            .partition_spec_id(spec.spec_id())
            .record_count(self.record_count)
            .file_size_in_bytes(self.file_size)
            .lower_bounds(bounds(&self.lower_bounds)?)
            .upper_bounds(bounds(&self.upper_bounds)?)
            .column_sizes(self.column_sizes.clone().into_iter().collect())
            .value_counts(self.value_counts.clone().into_iter().collect())
            .null_value_counts(self.null_value_counts.clone().into_iter().collect())
            .nan_value_counts(self.nan_value_counts.clone().into_iter().collect())
            .split_offsets(self.split_offsets.clone());
        if let Some(order) = self.sort_order_id {
            builder.sort_order_id(order);
        }
        builder.build().map_err(|e| corrupt("it is incomplete").with_source(e))
    }
}

/// A literal in the bytes that the spec's appendix D gives for its type.
pub(crate) fn literal_bytes(literal: &PrimitiveLiteral) -> Result<Vec<u8>> {
    Ok(match literal {
        PrimitiveLiteral::Boolean(v) => vec![u8::from(*v)],
        PrimitiveLiteral::Int(v) => v.to_le_bytes().to_vec(),
        PrimitiveLiteral::Long(v) => v.to_le_bytes().to_vec(),
        PrimitiveLiteral::Float(v) => v.0.to_le_bytes().to_vec(),
        PrimitiveLiteral::Double(v) => v.0.to_le_bytes().to_vec(),
        PrimitiveLiteral::String(v) => v.as_bytes().to_vec(),
        PrimitiveLiteral::Binary(v) => v.clone(),
        PrimitiveLiteral::UInt128(v) => v.to_be_bytes().to_vec(),
        PrimitiveLiteral::Int128(v) => v.to_be_bytes().to_vec(),
        PrimitiveLiteral::AboveMax | PrimitiveLiteral::BelowMin => {
            return Err(Error::new(ErrorKind::Internal, "a partition value without a value"));
        }
    })
}

#[cfg(test)]
mod tests;
