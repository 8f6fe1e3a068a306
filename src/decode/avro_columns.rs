//! The columns that a writer's schema asks for.
//!
//! | Avro | Iceberg |
//! |---|---|
//! | `boolean`, `int`, `long`, `float`, `double`, `string` | the same |
//! | `bytes`, `fixed` | `binary`, `fixed` |
//! | `enum` | `string` |
//! | `date`; `time-millis`, `time-micros` | `date`; `time` |
//! | `timestamp-millis`, `-micros`; `local-timestamp-…` | `timestamptz`; `timestamp` |
//! | `timestamp-nanos`; `local-timestamp-nanos` | `timestamptz_ns`; `timestamp_ns`; in tables of version 2 as micros |
//! | `decimal(p, s)`, p up to 38 | `decimal(p, s)` |
//! | `uuid`, of a `string` or 16 bytes | `uuid` |
//! | `duration` | `fixed(12)` |
//! | `record`, `array`, `map` | `struct`, `list`, `map<string, …>` |
//! | union of null and one type | that type, optional |
//! | any other union | a struct of one optional field for each branch, called by its type's name |
//! | `null`, and what holds nothing else | no column |

use std::sync::Arc;

use iceberg::spec::{ListType, MapType, NestedField, NestedFieldRef, PrimitiveType, StructType, Type};

use crate::decode::avro_schema::{AvroType, Branch, Record, Union, Unit};

/// The fields of a record, without ids (all 0). With `nanos` there may be columns of nanoseconds.
pub(crate) fn fields_of(record: &Record, nanos: bool) -> Vec<NestedFieldRef> {
    record.fields.iter().filter_map(|(name, kind)| field_of(name, kind, nanos)).collect()
}

/// The field that holds values of that type; none for what holds nothing.
pub(crate) fn field_of(name: &str, kind: &AvroType, nanos: bool) -> Option<NestedFieldRef> {
    let (kind, required) = column_of(kind, nanos)?;
    Some(Arc::new(NestedField::new(0, name, kind, required)))
}

/// The column type of values of that type, and whether NULL is none of them.
fn column_of(kind: &AvroType, nanos: bool) -> Option<(Type, bool)> {
    let AvroType::Union(branches) = kind else { return type_of(kind, nanos).map(|kind| (kind, true)) };
    match AvroType::union(branches) {
        Union::Nothing => None,
        Union::One { kind, null } => type_of(kind, nanos).map(|kind| (kind, null.is_none())),
        Union::Several => {
            let fields: Vec<_> = branches.iter().filter_map(|branch| branch_field(branch, nanos)).collect();
            let required = branches.iter().all(|branch| branch.kind != AvroType::Null);
            (!fields.is_empty()).then(|| (Type::Struct(StructType::new(fields)), required))
        }
    }
}

/// The field of a union's struct that holds one of its branches.
pub(crate) fn branch_field(branch: &Branch, nanos: bool) -> Option<NestedFieldRef> {
    let kind = type_of(&branch.kind, nanos)?;
    Some(Arc::new(NestedField::optional(0, &branch.name, kind)))
}

fn type_of(kind: &AvroType, nanos: bool) -> Option<Type> {
    Some(match kind {
        AvroType::Record(record) => {
            let fields = fields_of(record, nanos);
            if fields.is_empty() {
                return None;
            }
            Type::Struct(StructType::new(fields))
        }
        AvroType::Array(item) => {
            let (item, required) = column_of(item, nanos)?;
            Type::List(ListType::new(Arc::new(NestedField::list_element(0, item, required))))
        }
        AvroType::Map(value) => {
            let (value, required) = column_of(value, nanos)?;
            Type::Map(MapType::new(
                Arc::new(NestedField::map_key_element(0, Type::Primitive(PrimitiveType::String))),
                Arc::new(NestedField::map_value_element(0, value, required)),
            ))
        }
        AvroType::Union(_) => column_of(kind, nanos)?.0,
        other => Type::Primitive(primitive_of(other, nanos)?),
    })
}

fn primitive_of(kind: &AvroType, nanos: bool) -> Option<PrimitiveType> {
    Some(match kind {
        AvroType::Boolean => PrimitiveType::Boolean,
        AvroType::Int => PrimitiveType::Int,
        AvroType::Long => PrimitiveType::Long,
        AvroType::Float => PrimitiveType::Float,
        AvroType::Double => PrimitiveType::Double,
        AvroType::Bytes => PrimitiveType::Binary,
        AvroType::String | AvroType::Enum(_) | AvroType::ScaledDecimal(_) => PrimitiveType::String,
        AvroType::Date => PrimitiveType::Date,
        AvroType::TimeMillis | AvroType::TimeMicros | AvroType::TimeNanos => PrimitiveType::Time,
        AvroType::Moment(kind) => kind.clone(),
        AvroType::Timestamp { unit: Unit::Nanos, zone: true } if nanos => PrimitiveType::TimestamptzNs,
        AvroType::Timestamp { unit: Unit::Nanos, zone: false } if nanos => PrimitiveType::TimestampNs,
        AvroType::Timestamp { zone: true, .. } => PrimitiveType::Timestamptz,
        AvroType::Timestamp { zone: false, .. } => PrimitiveType::Timestamp,
        AvroType::Uuid | AvroType::Fixed { uuid: true, .. } => PrimitiveType::Uuid,
        AvroType::Decimal { precision, scale, .. } => PrimitiveType::Decimal { precision: *precision, scale: *scale },
        AvroType::Fixed { size: 0, .. } => return None,
        AvroType::Fixed { size, .. } => PrimitiveType::Fixed(u64::try_from(*size).ok()?),
        AvroType::Null | AvroType::Record(_) | AvroType::Array(_) | AvroType::Map(_) | AvroType::Union(_) => {
            return None;
        }
    })
}
