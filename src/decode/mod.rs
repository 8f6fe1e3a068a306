//! The decoder seam: bytes to columns.

use std::sync::Arc;

use iceberg::spec::{Schema, SchemaRef};

use crate::config::{DecodeConfig, OnChange, RowFormat};
use crate::decode::avro::{AvroDecoder, AvroOptions};
use crate::decode::envelope::{EnvelopeDecoder, EnvelopeFormat};
use crate::decode::growth::GrowthLimits;
use crate::decode::json::{JsonDecoder, JsonOptions};
use crate::decode::observe::Observed;
use crate::decode::raw::RawDecoder;
use crate::decode::registry::Registries;
use crate::decode::writers::Writers;
use crate::env::Env;
use crate::error::{Error, ErrorKind, Result};
use crate::model::batch::{Batch, RawBatch};

mod append;
pub mod avro;
mod avro_columns;
mod avro_cursor;
mod avro_fill;
mod avro_fit;
mod avro_schema;
mod columns;
mod connect_fill;
mod connect_schema;
mod debezium;
mod debezium_marks;
mod decimal_text;
pub mod envelope;
mod envelope_parts;
pub mod fault;
pub mod growth;
pub mod infer;
pub mod json;
mod number;
pub mod observe;
mod plan;
pub mod raw;
pub mod registry;
pub mod scan;
pub mod temporal;
pub mod type_text;
pub mod writers;

/// What rows are. Clones share what is known of writers' schemas.
#[derive(Debug, Clone)]
pub enum Format {
    /// A JSON object each.
    Json,
    /// A JSON object each, wrapped.
    Enveloped(Arc<EnvelopeFormat>),
    /// An Avro record each.
    Avro(Writers),
    /// Bytes that are kept as they are.
    Raw,
}

/// What a decoder to one table is to know beside its schema.
#[derive(Debug, Clone)]
pub struct DecoderOptions {
    /// Policy, unit of numbers in timestamps, metadata columns.
    pub json: JsonOptions,
    /// Whether the table may have columns of nanoseconds.
    pub nanos: bool,
}

/// What rows of a new table say of its columns.
#[derive(Debug, Clone, Copy)]
pub struct Inference<'a> {
    /// Columns that no row fills.
    pub metadata: &'a std::collections::BTreeMap<String, crate::config::MetadataColumn>,
    /// How many columns there may be.
    pub limits: GrowthLimits,
    /// Rows that are looked at.
    pub rows: usize,
    /// Whether the table may have columns of nanoseconds.
    pub nanos: bool,
}

impl Format {
    /// The format that a pipeline's settings name.
    ///
    /// # Errors
    /// `Config` when the schema is none, or there is no such registry.
    pub fn of(config: &DecodeConfig, registries: &Registries, env: &Env) -> Result<Self> {
        let wrong = |text: String| Error::new(ErrorKind::Config, text);
        match (config.format, &config.schema, &config.registry) {
            (RowFormat::Json, ..) => {
                Ok(EnvelopeFormat::of(config).map_or(Self::Json, |format| Self::Enveloped(Arc::new(format))))
            }
            (RowFormat::Raw, ..) => Ok(Self::Raw),
            (RowFormat::Avro, Some(file), _) => {
                let place = || format!("decode.schema.file {}", file.path.display());
                let schema = avro::WriterSchema::parse(&file.text, &[""; 0]);
                let schema = schema.map_err(|error| wrong(format!("{}: {error}", place())))?;
                Ok(Self::Avro(Writers::Fixed(Arc::new(schema))))
            }
            (RowFormat::Avro, None, Some(name)) => {
                let registry = registries.get(name);
                let registry = registry.ok_or_else(|| wrong(format!("there is no registry {name:?}")))?;
                Ok(Self::Avro(Writers::of_registry(Arc::clone(registry), env)))
            }
            (RowFormat::Avro, None, None) => {
                Err(wrong("decode.format \"avro\" has neither a registry nor a schema".to_owned())
                    .with_hint("set decode.registry, or decode.schema.file"))
            }
        }
    }

    /// Gets to know what rows must be decoded with.
    ///
    /// # Errors
    /// Those of [`Writers::learn`].
    pub async fn learn(&self, raw: &RawBatch) -> Result<()> {
        match self {
            Self::Json | Self::Enveloped(_) | Self::Raw => Ok(()),
            Self::Avro(writers) => writers.learn(raw).await,
        }
    }

    /// The same with nothing known yet, where too much is; see [`Writers::renewed`].
    pub fn renewed(&self) -> Option<Self> {
        match self {
            Self::Json | Self::Enveloped(_) | Self::Raw => None,
            Self::Avro(writers) => writers.renewed().map(Self::Avro),
        }
    }

    /// The schema of a table that is to hold rows like these; without columns when they tell nothing.
    ///
    /// # Errors
    /// As [`Self::learn`]; `Internal` when the columns make no valid schema.
    pub async fn table_schema(&self, raw: &RawBatch, how: Inference<'_>) -> Result<Schema> {
        let sample = || raw.rows.iter().take(how.rows).map(|row| raw.bytes(*row));
        match self {
            Self::Json => Ok(infer::infer(sample(), how.metadata, how.limits)?.schema),
            Self::Enveloped(format) => format.table_schema(raw, how),
            Self::Raw => raw::table_schema(),
            Self::Avro(writers) => {
                writers.learn(raw).await?;
                match writers.first(raw) {
                    Some(writer) => avro::table_schema(&writer, how.metadata, how.limits, how.nanos),
                    None => Ok(infer::infer([], how.metadata, how.limits)?.schema),
                }
            }
        }
    }
}

/// Decodes rows to the columns of one table schema. Total: every raw row ends in the rows or in the rejects of the answer; the
/// batch's own rejects are among the latter.
#[derive(Debug)]
pub enum Decoder {
    /// Of JSON objects.
    Json(JsonDecoder),
    /// Of JSON objects in envelopes.
    Enveloped(Box<EnvelopeDecoder>),
    /// Of Avro records.
    Avro(AvroDecoder),
    /// Of rows as they are.
    Raw(RawDecoder),
}

impl Decoder {
    /// A decoder of `format` to `schema`.
    ///
    /// # Errors
    /// `Unsupported` when the schema has a column that no row can fill.
    pub fn new(schema: &SchemaRef, format: &Format, options: DecoderOptions) -> Result<Self> {
        match format {
            Format::Json => JsonDecoder::new(schema, options.json).map(Self::Json),
            Format::Enveloped(format) => {
                EnvelopeDecoder::new(schema, Arc::clone(format), options).map(Box::new).map(Self::Enveloped)
            }
            Format::Raw => RawDecoder::new(schema, &options.json).map(Self::Raw),
            Format::Avro(writers) => {
                let JsonOptions { on_change, epoch, metadata } = options.json;
                let options = AvroOptions { on_change, epoch, metadata, nanos: options.nanos };
                AvroDecoder::new(schema, writers.clone(), &options).map(Self::Avro)
            }
        }
    }

    /// Decodes, and says what the rows need that the schema lacks: see [`JsonDecoder::decode_observed`]. What rows must be
    /// decoded with is known already ([`Format::learn`]).
    pub fn decode_observed(&self, raw: &RawBatch) -> (Batch, Observed) {
        match self {
            Self::Json(decoder) => decoder.decode_observed(raw),
            Self::Enveloped(decoder) => decoder.decode_observed(raw),
            Self::Avro(decoder) => decoder.decode_observed(raw),
            Self::Raw(decoder) => decoder.decode_observed(raw),
        }
    }

    /// The same under another policy.
    pub fn decode_as(&self, raw: &RawBatch, on_change: OnChange) -> (Batch, Observed) {
        match self {
            Self::Json(decoder) => decoder.decode_as(raw, on_change),
            Self::Enveloped(decoder) => decoder.decode_as(raw, on_change),
            Self::Avro(decoder) => decoder.decode_as(raw, on_change),
            Self::Raw(decoder) => decoder.decode_as(raw, on_change),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::TextFile;

    #[test]
    fn a_schema_that_rows_cannot_be_read_with_is_named_before_any_row_comes() {
        let file = |text: &str| DecodeConfig {
            format: RowFormat::Avro,
            schema: Some(TextFile { path: "row.avsc".into(), text: text.to_owned() }),
            ..DecodeConfig::default()
        };
        let of = |config: &DecodeConfig| Format::of(config, &Registries::new(), &Env::system());
        assert!(matches!(of(&file(r#"{"type":"record","name":"R","fields":[]}"#)), Ok(Format::Avro(_))));
        let error = of(&file("\"long\"")).expect_err("no record");
        assert_eq!(error.kind(), ErrorKind::Config);
        assert!(error.to_string().starts_with("decode.schema.file row.avsc: the schema is long"), "{error}");
        let named = DecodeConfig { registry: Some("sr".to_owned()), schema: None, ..file("") };
        assert_eq!(of(&named).expect_err("not configured").to_string(), "there is no registry \"sr\"");
    }
}
