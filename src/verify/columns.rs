//! The columns that say where a row was in a log.

use std::fmt::Write as _;

use arrow::array::{Array, ArrayRef, AsArray, Int64Array, StringArray};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Int64Type};
use iceberg::spec::{Datum, PrimitiveLiteral, PrimitiveType, Schema, Type};

use crate::error::{Context, Error, ErrorKind, Result};

/// Names of columns, as `name` or, within a struct, `outer.name`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Names {
    /// The topic, or the file.
    pub topic: Option<String>,
    /// The partition: a number, or a text such as `topic/0`.
    pub partition: Option<String>,
    /// The offset, or the number of a line.
    pub offset: String,
}

/// A column.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Column {
    pub(super) id: i32,
    pub(super) name: String,
}

/// The columns of one table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Columns {
    pub(super) topic: Option<Column>,
    pub(super) partition: Option<Column>,
    pub(super) offset: Column,
}

impl Columns {
    /// The columns of these names.
    ///
    /// # Errors
    /// `Config` with the name when the table has no such column, or it is of a type that cannot hold it.
    pub(super) fn of(schema: &Schema, names: &Names) -> Result<Self> {
        use PrimitiveType::{Int, Long, String as Text};
        let find = |name: &str, kinds: &[PrimitiveType]| {
            let wrong = |what: &str| {
                Error::new(ErrorKind::Config, format!("column {name:?}: {what}"))
                    .with_hint("name the columns with --topic-column, --partition-column and --offset-column")
            };
            let field = schema.field_by_name(name).ok_or_else(|| wrong("the table has no such column"))?;
            match field.field_type.as_ref() {
                Type::Primitive(kind) if kinds.contains(kind) => Ok(Column { id: field.id, name: name.to_owned() }),
                _ => Err(wrong("it is of another type than such a column has")),
            }
        };
        let label = |name: &Option<String>| name.as_deref().map(|name| find(name, &[Text, Int, Long])).transpose();
        let (topic, partition) = (label(&names.topic)?, label(&names.partition)?);
        if topic.is_none() && partition.is_none() {
            let what = "nothing says which column has the partition";
            return Err(Error::new(ErrorKind::Config, what)
                .with_hint("name it with --partition-column, and the topic's with --topic-column"));
        }
        Ok(Self { topic, partition, offset: find(&names.offset, &[Int, Long])? })
    }

    /// All of them.
    pub(super) fn each(&self) -> impl Iterator<Item = &Column> {
        [&self.topic, &self.partition].into_iter().flatten().chain([&self.offset])
    }
}

/// The name of a log: that of its partition where it begins with the topic's.
pub(super) fn log_name(topic: Option<&str>, partition: Option<&str>) -> String {
    match (topic, partition) {
        (Some(topic), Some(partition)) => {
            let whole = partition.strip_prefix(topic).is_some_and(|rest| rest.starts_with('/'));
            if whole { partition.to_owned() } else { format!("{topic}/{partition}") }
        }
        (one, other) => one.or(other).unwrap_or_default().to_owned(),
    }
}

/// A bound as text or as a number, where it is one of these.
pub(super) fn text_of(bound: &Datum) -> Option<String> {
    match bound.literal() {
        PrimitiveLiteral::String(text) => Some(text.clone()),
        _ => number_of(bound).map(|number| number.to_string()),
    }
}

pub(super) fn number_of(bound: &Datum) -> Option<i64> {
    match bound.literal() {
        PrimitiveLiteral::Int(number) => Some(i64::from(*number)),
        PrimitiveLiteral::Long(number) => Some(*number),
        _ => None,
    }
}

/// The values of a topic's or a partition's column.
pub(super) enum Labels {
    None,
    Texts(StringArray),
    Numbers(Int64Array),
}

impl Labels {
    /// # Errors
    /// `Corrupt` for a column that is neither texts nor numbers.
    pub(super) fn of(column: Option<ArrayRef>) -> Result<Self> {
        let Some(column) = column else { return Ok(Self::None) };
        let to = |kind| cast(&column, kind).context(ErrorKind::Corrupt, || "a column of names");
        Ok(match column.data_type() {
            DataType::Int32 | DataType::Int64 => {
                Self::Numbers(to(&DataType::Int64)?.as_primitive::<Int64Type>().clone())
            }
            _ => Self::Texts(to(&DataType::Utf8)?.as_string::<i32>().clone()),
        })
    }

    /// Whether a row has a value, or need not have one.
    pub(super) fn has(&self, row: usize) -> bool {
        match self {
            Self::None => true,
            Self::Texts(texts) => texts.is_valid(row),
            Self::Numbers(numbers) => numbers.is_valid(row),
        }
    }

    /// Whether two rows have the same.
    pub(super) fn same(&self, a: usize, b: usize) -> bool {
        match self {
            Self::None => true,
            Self::Texts(texts) => texts.value(a) == texts.value(b),
            Self::Numbers(numbers) => numbers.value(a) == numbers.value(b),
        }
    }

    /// The value of a row that has one.
    pub(super) fn text(&self, row: usize) -> Option<String> {
        match self {
            Self::None => None,
            Self::Texts(texts) => Some(texts.value(row).to_owned()),
            Self::Numbers(numbers) => {
                let mut text = String::new();
                let _ = write!(text, "{}", numbers.value(row));
                Some(text)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_log_is_named_as_checkpoints_name_it() {
        assert_eq!(log_name(Some("orders"), Some("3")), "orders/3");
        assert_eq!(log_name(Some("orders"), Some("orders/3")), "orders/3");
        assert_eq!(log_name(Some("orders"), Some("orders-eu/3")), "orders/orders-eu/3");
        assert_eq!(log_name(None, Some("orders/3")), "orders/3");
        assert_eq!(log_name(Some("s3://b/a.json"), None), "s3://b/a.json");
    }
}
