//! The decoder seam: bytes to columns.

use std::sync::Arc;

use iceberg::spec::{Schema, SchemaRef};

use crate::config::{CsvConfig, DecodeConfig, OnChange, ReadFile, RowFormat};
use crate::decode::avro::{AvroDecoder, AvroOptions};
use crate::decode::csv::CsvDecoder;
use crate::decode::debezium_avro::EventDecoder;
use crate::decode::envelope::{EnvelopeDecoder, EnvelopeFormat};
use crate::decode::growth::GrowthLimits;
use crate::decode::json::{JsonDecoder, JsonOptions};
use crate::decode::json_framed::FramedJsonDecoder;
use crate::decode::json_schema::JsonSchema;
use crate::decode::observe::Observed;
use crate::decode::proto::{ProtoDecoder, ProtoSchema};
use crate::decode::raw::RawDecoder;
use crate::decode::registry::Registries;
use crate::decode::writers::Writers;
use crate::env::Env;
use crate::error::{Context, Error, ErrorKind, Result};
use crate::model::batch::{Batch, RawBatch};

mod append;
pub mod avro;
mod avro_columns;
mod avro_cursor;
mod avro_fill;
mod avro_fit;
mod avro_schema;
mod budget;
mod columns;
mod connect_fill;
mod connect_schema;
mod convert;
pub mod csv;
mod debezium;
pub mod debezium_avro;
mod debezium_avro_marks;
mod debezium_avro_parts;
mod debezium_marks;
#[cfg(test)]
pub(crate) mod debezium_written;
mod decimal_text;
pub mod envelope;
mod envelope_parts;
mod envelope_table;
pub mod fault;
pub mod growth;
pub mod infer;
pub mod json;
pub mod json_framed;
pub mod json_schema;
mod number;
pub mod observe;
mod plan;
pub mod proto;
mod proto_columns;
mod proto_cursor;
mod proto_fill;
mod proto_fit;
mod proto_json;
mod proto_schema;
pub mod raw;
pub mod registry;
mod rows;
pub mod scan;
mod tally;
pub mod temporal;
pub mod type_text;
mod varint;
pub mod writers;

/// What rows are. Clones share what is known of writers' schemas.
#[derive(Debug, Clone)]
pub enum Format {
    /// A JSON object each.
    Json,
    /// A JSON object each, after the id of its JSON Schema.
    FramedJson(Writers<JsonSchema>),
    /// A JSON object each, wrapped.
    Enveloped(Arc<EnvelopeFormat>),
    /// An Avro record each.
    Avro(Writers),
    /// An Avro record each that is a change event.
    Events(Arc<EnvelopeFormat>, Writers),
    /// A Protobuf message each.
    Protobuf(Writers<ProtoSchema>),
    /// Values with a mark between them, one line each.
    Csv(Arc<CsvConfig>),
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
        let registry = |name: &String| {
            let registry = registries.get(name);
            registry.map(Arc::clone).ok_or_else(|| wrong(format!("there is no registry {name:?}")))
        };
        let avro = |writers| match EnvelopeFormat::of(config) {
            Some(format) => Self::Events(Arc::new(format), writers),
            None => Self::Avro(writers),
        };
        match (config.format, &config.schema, &config.registry) {
            (RowFormat::Json, _, None) => {
                Ok(EnvelopeFormat::of(config).map_or(Self::Json, |format| Self::Enveloped(Arc::new(format))))
            }
            (RowFormat::Json, _, Some(name)) => Ok(match EnvelopeFormat::of(config) {
                // Events say of themselves what is to be known: nobody is asked for their schemas.
                Some(format) => Self::Enveloped(Arc::new(format)),
                None => Self::FramedJson(Writers::of_registry(registry(name)?, env)),
            }),
            (RowFormat::Raw, ..) => Ok(Self::Raw),
            (RowFormat::Csv, ..) => Ok(Self::Csv(Arc::new(config.csv.clone()))),
            (RowFormat::Avro, Some(file), _) => {
                let text = std::str::from_utf8(&file.bytes).context(ErrorKind::Input, || "the schema is no text");
                let schema = text.and_then(|text| avro::WriterSchema::parse(text, &[""; 0]));
                Ok(avro(Writers::Fixed(Arc::new(schema.map_err(|error| file_error(file, &error))?))))
            }
            (RowFormat::Protobuf, Some(file), _) => {
                let is_text = file.path.extension().is_some_and(|name| name.eq_ignore_ascii_case("proto"));
                let schema = ProtoSchema::of_file(&file.bytes, is_text, config.message.as_deref());
                Ok(Self::Protobuf(Writers::Fixed(Arc::new(schema.map_err(|error| file_error(file, &error))?))))
            }
            (RowFormat::Protobuf, None, Some(name)) => Ok(Self::Protobuf(Writers::of_registry(registry(name)?, env))),
            (RowFormat::Avro, None, Some(name)) => Ok(avro(Writers::of_registry(registry(name)?, env))),
            (RowFormat::Avro | RowFormat::Protobuf, None, None) => {
                Err(wrong("decode.format has neither a registry nor a schema".to_owned())
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
            Self::Json | Self::Enveloped(_) | Self::Csv(_) | Self::Raw => Ok(()),
            Self::FramedJson(writers) => writers.learn(raw).await,
            Self::Avro(writers) | Self::Events(_, writers) => writers.learn(raw).await,
            Self::Protobuf(writers) => writers.learn(raw).await,
        }
    }

    /// The same with nothing known yet, where too much is; see [`Writers::renewed`].
    pub fn renewed(&self) -> Option<Self> {
        match self {
            Self::Json | Self::Enveloped(_) | Self::Csv(_) | Self::Raw => None,
            Self::FramedJson(writers) => writers.renewed().map(Self::FramedJson),
            Self::Avro(writers) => writers.renewed().map(Self::Avro),
            Self::Events(format, writers) => writers.renewed().map(|writers| Self::Events(Arc::clone(format), writers)),
            Self::Protobuf(writers) => writers.renewed().map(Self::Protobuf),
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
            Self::Csv(config) => csv::table_schema(config, raw.header.as_ref(), sample(), how.metadata, how.limits),
            Self::Enveloped(format) => format.table_schema(raw, how),
            Self::Raw => raw::table_schema(),
            Self::FramedJson(writers) => {
                writers.learn(raw).await?;
                json_framed::table_schema(writers, raw, sample(), how.metadata, how.limits)
            }
            Self::Protobuf(writers) => {
                writers.learn(raw).await?;
                proto::table_schema(writers, raw, how.metadata, how.limits)
            }
            Self::Events(format, writers) => {
                writers.learn(raw).await?;
                debezium_avro::table_schema(format, writers, raw, how)
            }
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

fn file_error(file: &ReadFile, error: &Error) -> Error {
    let wrong = Error::new(ErrorKind::Config, format!("decode.schema.file {}: {error}", file.path.display()));
    match error.hint() {
        Some(hint) => wrong.with_hint(hint.to_owned()),
        None => wrong,
    }
}

/// Decodes rows to the columns of one table schema. Total: every raw row ends in the rows or in the rejects of the answer; the
/// batch's own rejects are among the latter.
#[derive(Debug)]
pub enum Decoder {
    /// Of JSON objects.
    Json(JsonDecoder),
    /// Of JSON objects that name their schemas.
    FramedJson(FramedJsonDecoder),
    /// Of JSON objects in envelopes.
    Enveloped(Box<EnvelopeDecoder>),
    /// Of Avro records.
    Avro(AvroDecoder),
    /// Of change events in Avro.
    Events(Box<EventDecoder>),
    /// Of Protobuf messages.
    Protobuf(ProtoDecoder),
    /// Of lines of values.
    Csv(CsvDecoder),
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
            Format::FramedJson(writers) => {
                FramedJsonDecoder::new(schema, writers.clone(), options.json).map(Self::FramedJson)
            }
            Format::Csv(config) => CsvDecoder::new(schema, Arc::clone(config), options.json).map(Self::Csv),
            Format::Protobuf(writers) => ProtoDecoder::new(schema, writers.clone(), &options.json).map(Self::Protobuf),
            Format::Events(format, writers) => {
                let decoder = EventDecoder::new(schema, Arc::clone(format), writers.clone(), &options);
                decoder.map(Box::new).map(Self::Events)
            }
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
            Self::FramedJson(decoder) => decoder.decode_observed(raw),
            Self::Enveloped(decoder) => decoder.decode_observed(raw),
            Self::Avro(decoder) => decoder.decode_observed(raw),
            Self::Events(decoder) => decoder.decode_observed(raw),
            Self::Protobuf(decoder) => decoder.decode_observed(raw),
            Self::Csv(decoder) => decoder.decode_observed(raw),
            Self::Raw(decoder) => decoder.decode_observed(raw),
        }
    }

    /// The same under another policy.
    pub fn decode_as(&self, raw: &RawBatch, on_change: OnChange) -> (Batch, Observed) {
        match self {
            Self::Json(decoder) => decoder.decode_as(raw, on_change),
            Self::FramedJson(decoder) => decoder.decode_as(raw, on_change),
            Self::Enveloped(decoder) => decoder.decode_as(raw, on_change),
            Self::Avro(decoder) => decoder.decode_as(raw, on_change),
            Self::Events(decoder) => decoder.decode_as(raw, on_change),
            Self::Protobuf(decoder) => decoder.decode_as(raw, on_change),
            Self::Csv(decoder) => decoder.decode_as(raw, on_change),
            Self::Raw(decoder) => decoder.decode_as(raw, on_change),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use iceberg::spec::{NestedField, PrimitiveType, Type};
    use serde_json::json;

    use super::*;
    use crate::config::{Envelope, ReadFile};
    use crate::decode::debezium_written::{framed, in_avro};
    use crate::decode::registry::Registry;
    use crate::decode::registry::tests::{config as client_of, serve};
    use crate::decode::rows::LAYINGS;
    use crate::model::batch::tests::raw;

    #[test]
    fn a_schema_that_rows_cannot_be_read_with_is_named_before_any_row_comes() {
        let file = |text: &str| DecodeConfig {
            format: RowFormat::Avro,
            schema: Some(ReadFile { path: "row.avsc".into(), bytes: text.into() }),
            ..DecodeConfig::default()
        };
        let of = |config: &DecodeConfig| Format::of(config, &Registries::new(), &Env::system());
        assert!(matches!(of(&file(r#"{"type":"record","name":"R","fields":[]}"#)), Ok(Format::Avro(_))));
        let error = of(&file("\"long\"")).expect_err("no record");
        assert_eq!(error.kind(), ErrorKind::Config);
        assert!(error.to_string().starts_with("decode.schema.file row.avsc: the schema is long"), "{error}");
        let two = b"syntax = \"proto3\"; message A {} message B {}".to_vec();
        let schema = Some(ReadFile { path: "row.proto".into(), bytes: two });
        let messages = DecodeConfig { format: RowFormat::Protobuf, schema, ..DecodeConfig::default() };
        let error = of(&messages).expect_err("which of them is not said");
        assert!(error.to_string().starts_with("decode.schema.file row.proto: the schema has more than one message"));
        assert_eq!(error.hint(), Some("set decode.schema.message to one of A, B"));
        assert!(of(&DecodeConfig { message: Some("B".to_owned()), ..messages }).is_ok());
        let named = DecodeConfig { registry: Some("sr".to_owned()), schema: None, ..file("") };
        assert_eq!(of(&named).expect_err("not configured").to_string(), "there is no registry \"sr\"");
    }

    /// How many schemas are laid onto a table while batches are decoded in which each row has another schema than the one before, and
    /// how many once the table has another schema. Schemas are the registry's, with ids from 1; `rows` has one of each.
    async fn layings(config: DecodeConfig, kind: &str, schemas: &[String], rows: &[Vec<u8>]) -> [usize; 2] {
        let (url, shelf) = serve().await;
        for (id, schema) in (1..).zip(schemas) {
            shelf.put(&format!("/reg/schemas/ids/{id}"), 200, json!({ "schema": schema, "schemaType": kind }));
        }
        let env = Env::system();
        let registry = Arc::new(Registry::new("sr", &client_of(&url), &env).expect("a client"));
        let config = DecodeConfig { registry: Some("sr".to_owned()), ..config };
        let format = Format::of(&config, &Registries::from([("sr".to_owned(), registry)]), &env).expect("valid");
        let batch = raw(&rows.iter().cycle().take(8).collect::<Vec<_>>());
        let metadata = BTreeMap::new();
        let how = Inference { metadata: &metadata, limits: GrowthLimits::default(), rows: 100, nanos: false };
        let schema = format.table_schema(&batch, how).await.expect("a table");
        format.learn(&batch).await.expect("the registry answers");
        let more =
            NestedField::optional(schema.highest_field_id() + 1, "later", Type::Primitive(PrimitiveType::String));
        let fields = schema.as_struct().fields().iter().cloned().chain([Arc::new(more)]);
        let moved = Schema::builder().with_fields(fields).build().expect("valid");
        LAYINGS.set(0);
        [schema, moved].map(|schema| {
            let options = DecoderOptions { json: JsonOptions::default(), nanos: false };
            let decoder = Decoder::new(&Arc::new(schema), &format, options).expect("valid");
            for _ in 0..3 {
                let decoded = decoder.decode_observed(&batch).0;
                assert_eq!((decoded.rows.num_rows(), decoded.rejects.len()), (8, 0), "{:?}", decoded.rejects);
            }
            LAYINGS.get()
        })
    }

    #[tokio::test]
    async fn a_writers_schema_is_laid_onto_a_table_once_for_all_batches_and_once_more_when_the_table_has_another() {
        let of = |format| DecodeConfig { format, ..DecodeConfig::default() };
        let record =
            |kind: &str| json!({ "type": "record", "name": "Row", "fields": [{ "name": "id", "type": kind }] });
        let message = |kind: &str| format!("syntax = \"proto3\"; message Row {{ {kind} id = 1; }}");
        let object = |kind: &str| json!({ "properties": { "id": { "type": "integer", "connect.type": kind } } });
        let both = |datum: &[u8]| [1, 2].map(|id| framed(id, datum)).to_vec();
        let avro = ["long", "int"].map(|kind| record(kind).to_string());
        assert_eq!(layings(of(RowFormat::Avro), "AVRO", &avro, &both(&[14])).await, [2, 4], "Avro");
        let proto = ["int64", "int32"].map(message);
        assert_eq!(layings(of(RowFormat::Protobuf), "PROTOBUF", &proto, &both(&[0, 8, 7])).await, [2, 4], "Protobuf");
        let json = ["int64", "int32"].map(|kind| object(kind).to_string());
        assert_eq!(layings(of(RowFormat::Json), "JSON", &json, &both(b"{\"id\":7}")).await, [2, 4], "JSON Schema");
        let event = |kind: &str| {
            let id = json!({ "field": "id", "type": kind, "optional": false });
            let after = json!({ "field": "after", "type": "struct", "name": "Row", "optional": true, "fields": [id] });
            let op = json!({ "field": "op", "type": "string", "optional": false });
            let schema = json!({ "type": "struct", "name": "Event", "optional": false, "fields": [after, op] });
            json!({ "schema": schema, "payload": { "after": { "id": 7 }, "op": "c" } }).to_string()
        };
        let (rows, schemas) = in_avro(&["int64", "int32"].map(event));
        let schemas: Vec<String> = schemas.iter().map(ToString::to_string).collect();
        let events = DecodeConfig { envelope: Envelope::Debezium, ..of(RowFormat::Avro) };
        assert_eq!(layings(events, "AVRO", &schemas, &rows).await, [2, 4], "events in Avro");
    }
}
