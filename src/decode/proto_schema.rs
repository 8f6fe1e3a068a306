//! Protobuf's messages as writers declare them, read into what decoding needs.
//!
//! A registry has them as texts in its language, with those that they import; a file holds such a text, or a set of
//! descriptors as `protoc -o` writes it. A message that contains itself is refused: no table has columns for it.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

use protox::Compiler;
use protox::file::{ChainFileResolver, File, FileResolver, GoogleFileResolver};
use protox::prost_reflect::{Cardinality, DescriptorPool, FieldDescriptor, FileDescriptor, Kind, MessageDescriptor};

use crate::decode::fault::{Fault, excerpt};
use crate::decode::proto_cursor::Cursor;
use crate::decode::registry::{Registered, SchemaKind};
use crate::decode::scan::DEPTH_MAX;
use crate::decode::writers::Written;
use crate::error::{Context, Error, ErrorKind, Result};

/// Fields that a message may have once every type is replaced by what it holds.
const WEIGHT_MAX: u64 = 100_000;

/// What the texts of a schema may weigh together, in bytes.
const TEXT_BYTES_MAX: usize = 4 << 20;

/// Levels of messages within messages, as they are declared, to the one that a row names.
const INDEXES_MAX: u64 = 64;

/// What a schema's own text is called: nobody imports it.
const ROOT: &str = "frazil.root.proto";

/// What Confluent's registry has without anybody registering it, as far as schemas name it.
const CONFLUENT_META: &str = r#"syntax = "proto3";
package confluent;
import "google/protobuf/descriptor.proto";
message Meta { string doc = 1; map<string, string> params = 2; repeated string tags = 3; }
extend google.protobuf.FileOptions { Meta file_meta = 1088; }
extend google.protobuf.MessageOptions { Meta message_meta = 1088; }
extend google.protobuf.FieldOptions { Meta field_meta = 1088; }
extend google.protobuf.EnumOptions { Meta enum_meta = 1088; }
extend google.protobuf.EnumValueOptions { Meta enum_value_meta = 1088; }
"#;
const CONFLUENT_DECIMAL: &str = r#"syntax = "proto3";
package confluent.type;
message Decimal { bytes value = 1; uint32 precision = 2; int32 scale = 3; }
"#;

/// How an integer is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Whole {
    Int32,
    Int64,
    UInt32,
    UInt64,
    SInt32,
    SInt64,
    Fixed32,
    Fixed64,
    SFixed32,
    SFixed64,
}

/// A message that is read as something else than its fields.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Dynamic {
    Struct,
    Value,
    List,
}

/// One type. Cheap to clone.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum ProtoType {
    Bool,
    Whole(Whole),
    Float,
    Double,
    String,
    Bytes,
    /// Names by number.
    Enum(Arc<HashMap<i32, String>>),
    Message(Arc<Message>),
    /// `google.protobuf.Timestamp`.
    Timestamp,
    /// One of `google.protobuf`'s messages around one value.
    Wrapper(Arc<ProtoType>),
    /// `google.protobuf.Struct`, `Value` or `ListValue`: JSON.
    Json(Dynamic),
}

/// How often a field may be there, and what it means that it is not.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Label {
    /// Its type's zero.
    Implicit,
    /// Nothing.
    Optional,
    /// That the message is none.
    Required,
    List,
    /// By keys of that type.
    Map(ProtoType),
}

#[derive(Debug, PartialEq)]
pub(crate) struct Field {
    pub(crate) number: u32,
    pub(crate) name: String,
    pub(crate) kind: ProtoType,
    pub(crate) label: Label,
    /// Whether it ends with a mark instead of having a length.
    pub(crate) group: bool,
    /// Which `oneof` it belongs to.
    pub(crate) oneof: Option<String>,
}

/// A message's fields, as they are declared.
#[derive(Debug, PartialEq)]
pub(crate) struct Message {
    pub(crate) name: String,
    pub(crate) fields: Vec<Field>,
    weight: u64,
    depth: usize,
}

/// The schema that rows were written with.
pub struct ProtoSchema {
    file: FileDescriptor,
    /// The message that all rows are, where they do not say so themselves.
    message: Option<Arc<Message>>,
}

impl fmt::Debug for ProtoSchema {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ProtoSchema").field("file", &self.file.name()).finish_non_exhaustive()
    }
}

impl Written for ProtoSchema {
    const KIND: SchemaKind = SchemaKind::Protobuf;

    fn read(registered: &Registered) -> Result<Self> {
        let named: Vec<(&str, &str)> =
            registered.named.iter().map(|named| (named.name.as_str(), named.text.as_str())).collect();
        Ok(Self { file: compiled(&registered.text, &named)?, message: None })
    }
}

impl ProtoSchema {
    /// Reads the text of a schema, or a set of descriptors, of whose messages every row is the one called `message`. Without a
    /// name it is the only one.
    ///
    /// # Errors
    /// `Input` when the bytes are no schema, there is no such message, or no table can hold it.
    pub fn of_file(bytes: &[u8], is_text: bool, message: Option<&str>) -> Result<Self> {
        let (file, pool) = if is_text {
            let text = std::str::from_utf8(bytes).context(ErrorKind::Input, || "the schema is no text")?;
            let file = compiled(text, &[])?;
            (file.clone(), file.parent_pool().clone())
        } else {
            let pool =
                DescriptorPool::decode(bytes).context(ErrorKind::Input, || "the file is no set of descriptors")?;
            let last = pool.files().last().ok_or_else(|| wrong("the set of descriptors is empty"))?;
            (last, pool)
        };
        let found = match message {
            Some(name) => pool.get_message_by_name(name.trim_start_matches('.')).ok_or_else(|| name.to_owned()),
            None => match file.messages().collect::<Vec<_>>().as_slice() {
                [only] => Ok(only.clone()),
                _ => Err(String::new()),
            },
        };
        let found = found.map_err(|name| {
            let mut known: Vec<String> = pool.all_messages().map(|m| m.full_name().to_owned()).collect();
            known.retain(|name| !name.starts_with("google.protobuf."));
            let what = if name.is_empty() {
                "the schema has more than one message, or none".to_owned()
            } else {
                format!("there is no message {}", excerpt(&name))
            };
            wrong(what).with_hint(format!("set decode.schema.message to one of {}", known.join(", ")))
        })?;
        let message = message_of(&found)?;
        Ok(Self { file, message: Some(message) })
    }

    /// The message that rows with these indexes are, and the row without them. `None`: the configured one.
    pub(crate) fn message(&self, indexes: &[u8]) -> Result<Arc<Message>, Fault> {
        if let Some(message) = &self.message {
            return Ok(Arc::clone(message));
        }
        let path = read_indexes(&mut Cursor::new(indexes))?;
        let mut path = path.into_iter();
        let none = || Fault::row("the row names a message that its schema does not have");
        let first = path.next().and_then(|index| self.file.messages().nth(index));
        let mut found = first.ok_or_else(none)?;
        for index in path {
            let inner = found.child_messages().nth(index);
            found = inner.ok_or_else(none)?;
        }
        message_of(&found).map_err(|error| Fault::row(error.to_string()))
    }
}

/// Splits a row into the bytes that name its message and the message: a count and that many indexes, each within the message
/// before it; one 0 for the first message of the schema.
pub(crate) fn split_indexes(datum: &[u8]) -> Result<(&[u8], &[u8]), Fault> {
    if let Some(0) = datum.first() {
        return Ok(datum.split_at(1));
    }
    let mut cursor = Cursor::new(datum);
    read_indexes(&mut cursor)?;
    Ok(datum.split_at(cursor.at()))
}

fn read_indexes(cursor: &mut Cursor<'_>) -> Result<Vec<usize>, Fault> {
    let unzigzag = |value: u64| if value & 1 == 0 { Some(value >> 1) } else { None };
    let none = || Fault::row("the row does not say after the id of its schema which message it is");
    let count = unzigzag(cursor.varint()?).filter(|count| *count <= INDEXES_MAX).ok_or_else(none)?;
    if count == 0 {
        return Ok(vec![0]);
    }
    let mut path = Vec::new();
    for _ in 0..count {
        let index = unzigzag(cursor.varint()?).and_then(|index| usize::try_from(index).ok());
        path.push(index.ok_or_else(none)?);
    }
    Ok(path)
}

fn wrong(text: impl Into<String>) -> Error {
    Error::new(ErrorKind::Input, text)
}

/// Texts by the names under which they are imported.
struct Texts(HashMap<String, String>);

impl FileResolver for Texts {
    fn open_file(&self, name: &str) -> Result<File, protox::Error> {
        match self.0.get(name) {
            Some(text) => File::from_source(name, text),
            None => Err(protox::Error::file_not_found(name)),
        }
    }
}

/// The file that a text is.
fn compiled(text: &str, named: &[(&str, &str)]) -> Result<FileDescriptor> {
    if text.len() + named.iter().map(|(_, text)| text.len()).sum::<usize>() > TEXT_BYTES_MAX {
        return Err(wrong(format!("the schema is larger than {TEXT_BYTES_MAX} bytes")));
    }
    let mut texts: HashMap<String, String> =
        named.iter().map(|(name, text)| ((*name).to_owned(), (*text).to_owned())).collect();
    texts.insert(ROOT.to_owned(), text.to_owned());
    for (name, text) in [("confluent/meta.proto", CONFLUENT_META), ("confluent/type/decimal.proto", CONFLUENT_DECIMAL)]
    {
        texts.entry(name.to_owned()).or_insert_with(|| text.to_owned());
    }
    let mut resolver = ChainFileResolver::new();
    resolver.add(Texts(texts));
    resolver.add(GoogleFileResolver::new());
    let mut compiler = Compiler::with_file_resolver(resolver);
    let opened = compiler.include_imports(true).open_file(ROOT).map(drop);
    opened.map_err(|error| {
        let hint =
            "register what it imports with it, or name a set of descriptors as `protoc --include_imports -o` writes it";
        wrong(format!("the schema is no Protobuf: {}", error.to_string().replace(ROOT, "it"))).with_hint(hint)
    })?;
    let file = compiler.descriptor_pool().get_file_by_name(ROOT);
    file.ok_or_else(|| Error::new(ErrorKind::Internal, "a compiled schema is not there"))
}

fn message_of(descriptor: &MessageDescriptor) -> Result<Arc<Message>> {
    let mut reader = Reader { held: HashMap::new() };
    reader.message(descriptor, 0)
}

struct Reader {
    /// Messages by name; `None` while one is being read.
    held: HashMap<String, Option<Arc<Message>>>,
}

impl Reader {
    /// Reads a message within `above` others.
    fn message(&mut self, descriptor: &MessageDescriptor, above: usize) -> Result<Arc<Message>> {
        let name = descriptor.full_name().to_owned();
        match self.held.get(&name) {
            Some(Some(message)) => return Ok(Arc::clone(message)),
            Some(None) => {
                return Err(wrong(format!("the message {name} contains itself, for which a table has no columns")));
            }
            // Before it is read: a schema has room for more levels than the stack.
            None if above >= DEPTH_MAX => return Err(too_deep(&name)),
            None => drop(self.held.insert(name.clone(), None)),
        }
        let declared = &descriptor.descriptor_proto().field;
        let (mut fields, mut weight, mut depth) = (Vec::with_capacity(declared.len()), 1_u64, 0);
        for declared in declared {
            let number = u32::try_from(declared.number()).ok();
            let field = number.and_then(|number| descriptor.get_field(number));
            let Some(field) = field else { continue };
            let read = self.field(&field, above).map_err(|e| e.within(format!("field {} of {name}", field.name())))?;
            if let ProtoType::Message(inner) = &read.kind {
                weight = weight.saturating_add(inner.weight);
                depth = depth.max(inner.depth);
            }
            weight = weight.saturating_add(1);
            fields.push(read);
        }
        if weight > WEIGHT_MAX {
            return Err(wrong(format!("{name} has more than {WEIGHT_MAX} fields, counting each use of a message")));
        }
        if depth >= DEPTH_MAX {
            return Err(too_deep(&name));
        }
        let message = Arc::new(Message { name: name.clone(), fields, weight, depth: depth + 1 });
        self.held.insert(name, Some(Arc::clone(&message)));
        Ok(message)
    }

    fn field(&mut self, field: &FieldDescriptor, above: usize) -> Result<Field> {
        let own = |label, kind| Field {
            number: field.number(),
            name: field.name().to_owned(),
            kind,
            label,
            group: field.is_group(),
            oneof: field.containing_oneof().filter(|o| !o.is_synthetic()).map(|o| o.name().to_owned()),
        };
        if let Kind::Message(entry) = field.kind()
            && field.is_map()
        {
            let (key, value) = (entry.map_entry_key_field(), entry.map_entry_value_field());
            let key = self.kind(&key, above)?;
            return Ok(own(Label::Map(key), self.kind(&value, above)?));
        }
        let kind = self.kind(field, above)?;
        let label = match field.cardinality() {
            Cardinality::Repeated => Label::List,
            Cardinality::Required => Label::Required,
            Cardinality::Optional if field.supports_presence() => Label::Optional,
            Cardinality::Optional => Label::Implicit,
        };
        Ok(own(label, kind))
    }

    fn kind(&mut self, field: &FieldDescriptor, above: usize) -> Result<ProtoType> {
        Ok(match field.kind() {
            Kind::Bool => ProtoType::Bool,
            Kind::Int32 => ProtoType::Whole(Whole::Int32),
            Kind::Int64 => ProtoType::Whole(Whole::Int64),
            Kind::Uint32 => ProtoType::Whole(Whole::UInt32),
            Kind::Uint64 => ProtoType::Whole(Whole::UInt64),
            Kind::Sint32 => ProtoType::Whole(Whole::SInt32),
            Kind::Sint64 => ProtoType::Whole(Whole::SInt64),
            Kind::Fixed32 => ProtoType::Whole(Whole::Fixed32),
            Kind::Fixed64 => ProtoType::Whole(Whole::Fixed64),
            Kind::Sfixed32 => ProtoType::Whole(Whole::SFixed32),
            Kind::Sfixed64 => ProtoType::Whole(Whole::SFixed64),
            Kind::Float => ProtoType::Float,
            Kind::Double => ProtoType::Double,
            Kind::String => ProtoType::String,
            Kind::Bytes => ProtoType::Bytes,
            Kind::Enum(kind) => {
                let mut names = HashMap::new();
                for value in kind.values() {
                    // Of two names for one number the first is the name.
                    names.entry(value.number()).or_insert_with(|| value.name().to_owned());
                }
                ProtoType::Enum(Arc::new(names))
            }
            Kind::Message(message) => match well_known(message.full_name()) {
                Some(kind) => kind,
                None => ProtoType::Message(self.message(&message, above + 1)?),
            },
        })
    }
}

fn too_deep(name: &str) -> Error {
    wrong(format!("{name} is nested deeper than {DEPTH_MAX} levels"))
}

fn well_known(name: &str) -> Option<ProtoType> {
    let wrapper = |kind| Some(ProtoType::Wrapper(Arc::new(kind)));
    match name.strip_prefix("google.protobuf.")? {
        "Timestamp" => Some(ProtoType::Timestamp),
        "Struct" => Some(ProtoType::Json(Dynamic::Struct)),
        "Value" => Some(ProtoType::Json(Dynamic::Value)),
        "ListValue" => Some(ProtoType::Json(Dynamic::List)),
        "BoolValue" => wrapper(ProtoType::Bool),
        "Int32Value" => wrapper(ProtoType::Whole(Whole::Int32)),
        "Int64Value" => wrapper(ProtoType::Whole(Whole::Int64)),
        "UInt32Value" => wrapper(ProtoType::Whole(Whole::UInt32)),
        "UInt64Value" => wrapper(ProtoType::Whole(Whole::UInt64)),
        "FloatValue" => wrapper(ProtoType::Float),
        "DoubleValue" => wrapper(ProtoType::Double),
        "StringValue" => wrapper(ProtoType::String),
        "BytesValue" => wrapper(ProtoType::Bytes),
        _ => None,
    }
}

impl ProtoType {
    /// The word for people.
    pub(crate) fn word(&self) -> &'static str {
        match self {
            Self::Bool => "bool",
            Self::Whole(Whole::Int32) => "int32",
            Self::Whole(Whole::Int64) => "int64",
            Self::Whole(Whole::UInt32) => "uint32",
            Self::Whole(Whole::UInt64) => "uint64",
            Self::Whole(Whole::SInt32) => "sint32",
            Self::Whole(Whole::SInt64) => "sint64",
            Self::Whole(Whole::Fixed32) => "fixed32",
            Self::Whole(Whole::Fixed64) => "fixed64",
            Self::Whole(Whole::SFixed32) => "sfixed32",
            Self::Whole(Whole::SFixed64) => "sfixed64",
            Self::Float => "float",
            Self::Double => "double",
            Self::String => "string",
            Self::Bytes => "bytes",
            Self::Enum(_) => "an enum",
            Self::Message(_) => "a message",
            Self::Timestamp => "Timestamp",
            Self::Wrapper(_) => "a wrapper",
            Self::Json(_) => "JSON",
        }
    }

    /// The wire type that a value of it alone has.
    pub(crate) fn wire(&self) -> u8 {
        match self {
            Self::Whole(Whole::Fixed64 | Whole::SFixed64) | Self::Double => 1,
            Self::Whole(Whole::Fixed32 | Whole::SFixed32) | Self::Float => 5,
            Self::Bool | Self::Whole(_) | Self::Enum(_) => 0,
            _ => 2,
        }
    }
}

/// Everything that a text declares.
#[cfg(test)]
pub(crate) fn described(text: &str) -> Result<DescriptorPool> {
    compiled(text, &[]).map(|file| file.parent_pool().clone())
}
