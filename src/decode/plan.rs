//! A table's schema, compiled for decoding: names to look up by, and what each column makes of a value.

use std::collections::{BTreeSet, HashMap};

use iceberg::spec::{Literal, NestedField, NestedFieldRef, PrimitiveLiteral, PrimitiveType, Type};

use crate::decode::scan::{DEPTH_MAX, KeyToken};
use crate::error::{Error, ErrorKind, Result};

/// One column, list element, map key or map value.
#[derive(Debug)]
pub(crate) struct Plan {
    /// Its field id.
    pub(crate) id: i32,
    /// Its name.
    pub(crate) name: String,
    /// Its name as a JSON key with quotes and colon, as it is most often written.
    pub(crate) token: KeyToken,
    /// Whether NULL is refused.
    pub(crate) required: bool,
    /// What it holds where a row has no such field; `None`: NULL.
    pub(crate) default: Option<PrimitiveLiteral>,
    /// Values that one of its own fills, with all below it; elements of lists and entries of maps count for themselves.
    pub(crate) fills: usize,
    /// How texts write its values.
    pub(crate) reading: Reading,
    /// What it holds.
    pub(crate) kind: Kind,
}

/// How JSON writes a value, where that is not as its column's type says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Reading {
    /// As it is said.
    Plain,
    /// A date as a number of days.
    Days,
    /// A time of day as a number of milliseconds.
    TimeMillis,
    /// A timestamp as a number of milliseconds.
    Millis,
    /// A decimal as its unscaled value with so many digits after the point, big-endian, in base64.
    Unscaled(u32),
}

impl Reading {
    /// Whether a column of this type can tell what is written so from what it is not.
    pub(crate) fn fits(self, column: &PrimitiveType) -> bool {
        use PrimitiveType::{
            Binary, Date, Decimal, Fixed, String, Time, Timestamp, TimestampNs, Timestamptz, TimestamptzNs,
        };
        let stamp = matches!(column, Timestamp | Timestamptz | TimestampNs | TimestamptzNs);
        match self {
            Self::Plain => true,
            Self::Days => !stamp && *column != Time,
            Self::TimeMillis => !stamp && *column != Date,
            Self::Millis => !matches!(column, Date | Time),
            Self::Unscaled(_) => matches!(column, Decimal { .. } | String | Binary | Fixed(_)),
        }
    }

    /// What is written, for people.
    pub(crate) fn noun(self) -> &'static str {
        match self {
            Self::Plain => "a value",
            Self::Days => "a date in days",
            Self::TimeMillis => "a time of day in milliseconds",
            Self::Millis => "a timestamp in milliseconds",
            Self::Unscaled(_) => "a decimal in base64",
        }
    }
}

/// What a column holds.
#[derive(Debug)]
pub(crate) enum Kind {
    /// One value.
    Primitive(PrimitiveType),
    /// Named values.
    Struct(StructPlan),
    /// Any number of values.
    List(Box<Plan>),
    /// Values by key.
    Map(Box<Plan>, Box<Plan>),
}

/// The fields of a struct, or of the row.
#[derive(Debug)]
pub(crate) struct StructPlan {
    /// The field that holds it; `None` for the row.
    pub(crate) id: Option<i32>,
    /// Its fields in the schema's order.
    pub(crate) fields: Vec<Plan>,
    /// Index in `fields` by name.
    by_name: HashMap<String, usize>,
    /// Names in lower case, to notice keys that differ from a column in case only.
    folded: HashMap<String, String>,
    /// Names that belong to metadata columns.
    reserved: BTreeSet<String>,
}

impl StructPlan {
    /// The plan of a whole row, without the columns whose names are `reserved`.
    ///
    /// # Errors
    /// `Unsupported` for a column that no JSON value can fill.
    pub(crate) fn of_row(fields: &[NestedFieldRef], reserved: BTreeSet<String>) -> Result<Self> {
        let kept: Vec<_> = fields.iter().filter(|field| !reserved.contains(&field.name)).cloned().collect();
        let mut plan = Self::new(None, &kept, 1)?;
        plan.folded.extend(reserved.iter().map(|name| (name.to_lowercase(), name.clone())));
        plan.reserved = reserved;
        Ok(plan)
    }

    fn new(id: Option<i32>, fields: &[NestedFieldRef], depth: usize) -> Result<Self> {
        let fields = fields.iter().map(|field| Plan::new(field, depth)).collect::<Result<Vec<_>>>()?;
        let by_name = fields.iter().enumerate().map(|(index, field)| (field.name.clone(), index)).collect();
        let folded = fields.iter().map(|field| (field.name.to_lowercase(), field.name.clone())).collect();
        Ok(Self { id, fields, by_name, folded, reserved: BTreeSet::new() })
    }

    /// The index of the field of that name.
    pub(crate) fn find(&self, name: &str) -> Option<usize> {
        self.by_name.get(name).copied()
    }

    /// Why an unknown key cannot become a column, where it cannot.
    pub(crate) fn obstacle(&self, name: &str) -> Option<String> {
        if self.reserved.contains(name) {
            return Some("the name belongs to a metadata column".to_owned());
        }
        let known = self.folded.get(&name.to_lowercase())?;
        Some(format!("the name differs from column {known:?} in case only"))
    }
}

impl Plan {
    fn new(field: &NestedField, depth: usize) -> Result<Self> {
        let kind = Kind::new(field, depth).map_err(|e| e.within(format_args!("column {:?}", field.name)))?;
        let quoted = serde_json::Value::String(field.name.clone()).to_string();
        let token = KeyToken::new(&format!("{quoted}:"));
        let default = match &field.write_default {
            Some(Literal::Primitive(literal)) => Some(literal.clone()),
            _ => None,
        };
        Ok(Self {
            id: field.id,
            name: field.name.clone(),
            token,
            required: field.required,
            default,
            fills: match &kind {
                Kind::Struct(inner) => 1 + inner.fields.iter().map(|field| field.fills).sum::<usize>(),
                // Its bytes are there also where it is NULL.
                Kind::Primitive(PrimitiveType::Fixed(width)) => {
                    usize::try_from(width / 16).map_or(usize::MAX, |more| 1 + more)
                }
                _ => 1,
            },
            reading: Reading::Plain,
            kind,
        })
    }
}

impl Kind {
    fn new(field: &NestedField, depth: usize) -> Result<Self> {
        if depth > DEPTH_MAX {
            return Err(Error::new(ErrorKind::Unsupported, format!("nested deeper than {DEPTH_MAX} levels")));
        }
        Ok(match field.field_type.as_ref() {
            Type::Primitive(primitive) => {
                if matches!(primitive, PrimitiveType::Fixed(length) if i32::try_from(*length).is_err()) {
                    return Err(Error::new(ErrorKind::Unsupported, format!("{primitive} is too long")));
                }
                Self::Primitive(primitive.clone())
            }
            Type::Struct(inner) => Self::Struct(StructPlan::new(Some(field.id), inner.fields(), depth + 1)?),
            Type::List(list) => Self::List(Box::new(Plan::new(&list.element_field, depth + 1)?)),
            Type::Map(map) => {
                if !matches!(map.key_field.field_type.as_ref(), Type::Primitive(_)) {
                    return Err(Error::new(ErrorKind::Unsupported, "a map whose keys are no primitives")
                        .with_hint("JSON has texts as keys; write the entries as a list of structs"));
                }
                let key = Plan::new(&map.key_field, depth + 1)?;
                Self::Map(Box::new(key), Box::new(Plan::new(&map.value_field, depth + 1)?))
            }
        })
    }
}
