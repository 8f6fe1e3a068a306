//! The columns that a message asks for.
//!
//! | Protobuf | Iceberg |
//! |---|---|
//! | `bool`, `float`, `double`, `string`, `bytes` | `boolean`, `float`, `double`, `string`, `binary` |
//! | `int32`, `sint32`, `sfixed32` | `int` |
//! | `int64`, `sint64`, `sfixed64`, `uint32`, `fixed32` | `long` |
//! | `uint64`, `fixed64` | `decimal(20, 0)` |
//! | an enum | `string` |
//! | a message; `repeated`; `map` | `struct`; `list`; `map` |
//! | `Timestamp`; a wrapper; `Struct`, `Value`, `ListValue` | `timestamptz`; what it wraps; `string` |
//! | a message without fields, and what holds nothing else | no column |

use std::sync::Arc;

use iceberg::spec::{ListType, MapType, NestedField, NestedFieldRef, PrimitiveType, StructType, Type};

use crate::decode::proto_schema::{Field, Label, Message, ProtoType, Whole};

/// The fields of a message, without ids (all 0).
pub(crate) fn fields_of(message: &Message) -> Vec<NestedFieldRef> {
    message.fields.iter().filter_map(field_of).collect()
}

/// The column that holds a field; none for what holds nothing.
pub(crate) fn field_of(field: &Field) -> Option<NestedFieldRef> {
    let held = type_of(&field.kind)?;
    let kind = match &field.label {
        Label::List => Type::List(ListType::new(Arc::new(NestedField::list_element(0, held, true)))),
        Label::Map(key) => Type::Map(MapType::new(
            Arc::new(NestedField::map_key_element(0, type_of(key)?)),
            Arc::new(NestedField::map_value_element(0, held, true)),
        )),
        _ => held,
    };
    Some(Arc::new(NestedField::new(0, &field.name, kind, field.label != Label::Optional)))
}

fn type_of(kind: &ProtoType) -> Option<Type> {
    Some(Type::Primitive(match kind {
        ProtoType::Bool => PrimitiveType::Boolean,
        ProtoType::Whole(Whole::Int32 | Whole::SInt32 | Whole::SFixed32) => PrimitiveType::Int,
        ProtoType::Whole(Whole::UInt64 | Whole::Fixed64) => PrimitiveType::Decimal { precision: 20, scale: 0 },
        ProtoType::Whole(_) => PrimitiveType::Long,
        ProtoType::Float => PrimitiveType::Float,
        ProtoType::Double => PrimitiveType::Double,
        ProtoType::String | ProtoType::Enum(_) | ProtoType::Json(_) => PrimitiveType::String,
        ProtoType::Bytes => PrimitiveType::Binary,
        ProtoType::Timestamp => PrimitiveType::Timestamptz,
        ProtoType::Wrapper(inner) => return type_of(inner),
        ProtoType::Message(message) => {
            let fields = fields_of(message);
            return (!fields.is_empty()).then(|| Type::Struct(StructType::new(fields)));
        }
    }))
}
