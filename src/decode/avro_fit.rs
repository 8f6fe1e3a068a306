//! A writer's schema laid onto a table's columns, once for each pair: what each value becomes, and what the table lacks.
//!
//! Fields and columns belong together by name. A value that its column cannot take is refused with its row; where a
//! promotion of the column would help, or a new column, that is what the pair needs.

use std::collections::HashMap;
use std::sync::Arc;

use iceberg::spec::PrimitiveType;

use crate::decode::avro_columns;
use crate::decode::avro_schema::{AvroType, Branch, Record, Union};
use crate::decode::convert::Rescale;
use crate::decode::observe::{Observed, Shape};
use crate::decode::plan::{Kind, Plan, StructPlan};
use crate::decode::temporal::Epoch;

/// A schema laid onto a table.
pub(crate) struct Fitted {
    /// The row.
    pub(crate) root: StructStep,
    /// The same schema, to read rows by alone.
    pub(crate) record: Arc<Record>,
    /// What the table lacks for every value of the schema to find its place. Columns that are to become optional are not
    /// among it: that is seen from the rows.
    pub(crate) needs: Observed,
}

/// A record onto a struct.
pub(crate) struct StructStep {
    /// In the order of the record's fields.
    pub(crate) fields: Vec<FieldStep>,
    /// Columns that the record has no field for.
    pub(crate) absent: Vec<usize>,
    /// Index in `fields` by name, where values are JSON: they come in any order.
    by_name: HashMap<Box<str>, usize>,
}

impl StructStep {
    /// The index of the field of that name. None is known where values are not JSON.
    pub(crate) fn find(&self, name: &str) -> Option<usize> {
        self.by_name.get(name).copied()
    }
}

/// A record's field.
pub(crate) enum FieldStep {
    /// Into the column of that index.
    Column(usize, Step),
    /// Into none.
    Extra(Extra),
}

/// A field without a column.
pub(crate) struct Extra {
    pub(crate) name: String,
    pub(crate) kind: AvroType,
    /// Why there cannot be one.
    pub(crate) obstacle: Option<String>,
}

/// A union's branch onto a struct that has a field for each.
pub(crate) enum BranchStep {
    Null,
    Column(usize, Step),
    Extra(Extra),
}

/// A value onto a column: how it is read, and what is done to it.
pub(crate) enum Step {
    Nothing,
    Boolean,
    I32,
    I32AsI64,
    I32AsF32,
    I32AsF64,
    I32Times(i64),
    I64,
    I64AsI32,
    I64AsF32,
    I64AsF64,
    I64Times(i64),
    I64Cut(i64),
    TimeMillis,
    TimeMicros,
    TimeNanos,
    F32,
    F32AsF64,
    F64,
    F64AsF32,
    /// Bytes of any length that are a text.
    Text,
    /// Bytes of any length.
    Binary,
    /// Bytes of any length, which must be that of the column.
    BinaryAsFixed,
    /// So many bytes, into a column of any length.
    FixedAsBinary(usize),
    /// So many bytes.
    Fixed(usize),
    UuidText,
    /// The text of a date, a time or a timestamp.
    Moment(PrimitiveType),
    /// The same as Debezium writes them.
    DebeziumMoment(PrimitiveType),
    Decimal(Decimal),
    /// A decimal of that scale, or of one that the value says, into a decimal that holds it or as a text.
    ScaledDecimal(Option<i32>),
    Enum(Arc<[String]>),
    Struct(StructStep),
    List(Box<Step>),
    Map(Box<Step>),
    /// A union of two, one of them null at this index.
    Nullable(usize, Box<Step>),
    /// A union of one.
    Only(Box<Step>),
    Union(Vec<BranchStep>),
    /// A value that the column does not take, with the reason.
    Refused(AvroType, String),
}

/// A decimal onto a decimal.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Decimal {
    /// Bytes, where all values have as many.
    pub(crate) width: Option<usize>,
    pub(crate) to: Rescale,
}

/// How schemas are laid onto a table.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Terms {
    /// What plain numbers in timestamp columns count.
    pub(crate) epoch: Epoch,
    /// Whether the table may have columns of nanoseconds.
    pub(crate) nanos: bool,
    /// Whether values are JSON, where bytes are base64.
    pub(crate) json: bool,
}

/// Lays `record` onto the columns of `plan`.
pub(crate) fn fit(record: &Arc<Record>, plan: &StructPlan, terms: Terms) -> Fitted {
    let mut fitter = Fitter { terms, needs: Observed::default() };
    let root = fitter.record(record, plan);
    let mut needs = fitter.needs;
    needs.added.retain(|_, shape| shape.fields().next().is_some());
    Fitted { root, record: Arc::clone(record), needs }
}

/// Lays one type onto one column; answers what the table lacks for it, too.
pub(crate) fn fit_column(kind: &AvroType, column: &Plan, terms: Terms) -> (Step, Observed) {
    let mut fitter = Fitter { terms, needs: Observed::default() };
    let step = fitter.value(kind, column);
    fitter.needs.added.retain(|_, shape| shape.fields().next().is_some());
    (step, fitter.needs)
}

struct Fitter {
    terms: Terms,
    needs: Observed,
}

impl Fitter {
    fn record(&mut self, record: &Record, plan: &StructPlan) -> StructStep {
        let mut absent = vec![true; plan.fields.len()];
        let mut fields = Vec::with_capacity(record.fields.len());
        let mut by_name = HashMap::new();
        for (name, kind) in &record.fields {
            if self.terms.json {
                by_name.entry(Box::from(name.as_str())).or_insert(fields.len());
            }
            let column = plan.find(name).and_then(|index| Some((index, plan.fields.get(index)?)));
            fields.push(match column {
                Some((index, column)) => {
                    if let Some(absent) = absent.get_mut(index) {
                        *absent = false;
                    }
                    FieldStep::Column(index, self.value(kind, column))
                }
                None => FieldStep::Extra(self.extra(name, kind, plan)),
            });
        }
        let absent = (0_usize..).zip(absent).filter_map(|(index, absent)| absent.then_some(index)).collect();
        StructStep { fields, absent, by_name }
    }

    fn extra(&mut self, name: &str, kind: &AvroType, plan: &StructPlan) -> Extra {
        let obstacle = plan.obstacle(name);
        if obstacle.is_none()
            && let Some(field) = avro_columns::field_of(name, kind, self.terms.nanos)
        {
            let shape = Shape::Typed(Arc::new(field.field_type.as_ref().clone()));
            self.needs.added.entry(plan.id).or_default().insert(name, shape);
        }
        Extra { name: name.to_owned(), kind: kind.clone(), obstacle }
    }

    fn value(&mut self, kind: &AvroType, column: &Plan) -> Step {
        if let AvroType::Union(branches) = kind {
            return match AvroType::union(branches) {
                Union::Nothing => Step::Union(branches.iter().map(|_| BranchStep::Null).collect()),
                Union::One { kind, null: Some(null) } => Step::Nullable(null, Box::new(self.value(kind, column))),
                Union::One { kind, null: None } => Step::Only(Box::new(self.value(kind, column))),
                Union::Several => self.branches(kind, branches, column),
            };
        }
        let step = match (&column.kind, kind) {
            (_, AvroType::Null) => Some(Step::Nothing),
            (Kind::Struct(inner), AvroType::Record(record)) => Some(Step::Struct(self.record(record, inner))),
            (Kind::Struct(inner), AvroType::ScaledDecimal(None)) => {
                Some(Step::Struct(self.record(&any_scale(), inner)))
            }
            (Kind::List(element), AvroType::Array(item)) => Some(Step::List(Box::new(self.value(item, element)))),
            (Kind::Map(key, value), AvroType::Map(kind))
                if matches!(key.kind, Kind::Primitive(PrimitiveType::String)) =>
            {
                Some(Step::Map(Box::new(self.value(kind, value))))
            }
            (Kind::Primitive(primitive), kind) => self.primitive(kind, primitive, column.id),
            _ => None,
        };
        step.unwrap_or_else(|| refused(kind, column))
    }

    fn branches(&mut self, kind: &AvroType, branches: &[Branch], column: &Plan) -> Step {
        let Kind::Struct(plan) = &column.kind else { return refused(kind, column) };
        let mut steps = Vec::with_capacity(branches.len());
        for branch in branches {
            let found = plan.find(&branch.name).and_then(|index| Some((index, plan.fields.get(index)?)));
            steps.push(match found {
                _ if branch.kind == AvroType::Null => BranchStep::Null,
                Some((index, column)) => BranchStep::Column(index, self.value(&branch.kind, column)),
                None => BranchStep::Extra(self.extra(&branch.name, &branch.kind, plan)),
            });
        }
        Step::Union(steps)
    }

    fn primitive(&mut self, kind: &AvroType, column: &PrimitiveType, id: i32) -> Option<Step> {
        use PrimitiveType as P;
        Some(match (kind, column) {
            (AvroType::Boolean, P::Boolean) => Step::Boolean,
            (AvroType::Int, P::Int | P::Date) | (AvroType::Date, P::Date | P::Int) | (AvroType::TimeMillis, P::Int) => {
                Step::I32
            }
            (AvroType::Int | AvroType::Date | AvroType::TimeMillis, P::Long) => Step::I32AsI64,
            (AvroType::Int, P::Float) => Step::I32AsF32,
            (AvroType::Int, P::Double) => Step::I32AsF64,
            (AvroType::Long | AvroType::TimeMicros | AvroType::TimeNanos | AvroType::Timestamp { .. }, P::Long) => {
                Step::I64
            }
            (AvroType::Long, P::Int) => {
                self.needs.widen(id, P::Long);
                Step::I64AsI32
            }
            (AvroType::Long, P::Float) => Step::I64AsF32,
            (AvroType::Long, P::Double) => Step::I64AsF64,
            (AvroType::TimeMillis, P::Time) => Step::TimeMillis,
            (AvroType::TimeMicros | AvroType::Long, P::Time) => Step::TimeMicros,
            (AvroType::TimeNanos, P::Time) => Step::TimeNanos,
            (AvroType::Float, P::Float) => Step::F32,
            (AvroType::Float, P::Double) => Step::F32AsF64,
            (AvroType::Double, P::Double) => Step::F64,
            (AvroType::Double, P::Float) => {
                self.needs.widen(id, P::Double);
                Step::F64AsF32
            }
            (AvroType::Decimal { .. }, P::Decimal { .. }) => self.decimal(kind, column, id)?,
            (AvroType::Decimal { scale, width: None, .. }, P::String) => {
                Step::ScaledDecimal(Some(i32::try_from(*scale).ok()?))
            }
            // As before they were known to be decimals.
            (AvroType::Decimal { width: None, .. } | AvroType::ScaledDecimal(Some(_)), P::Binary | P::Fixed(_))
                if !self.terms.json =>
            {
                characters(&AvroType::Bytes, column)?
            }
            (AvroType::ScaledDecimal(scale), P::String | P::Decimal { .. }) => Step::ScaledDecimal(*scale),
            // They would be taken for base64.
            (AvroType::String | AvroType::Uuid | AvroType::Moment(_), P::Binary) if self.terms.json => return None,
            (AvroType::Int | AvroType::Long | AvroType::Timestamp { .. }, _) => self.timestamp(kind, column)?,
            _ => characters(kind, column)?,
        })
    }

    /// A number that counts since the epoch.
    fn timestamp(&self, kind: &AvroType, column: &PrimitiveType) -> Option<Step> {
        let to = match column {
            PrimitiveType::Timestamp | PrimitiveType::Timestamptz => 6,
            PrimitiveType::TimestampNs | PrimitiveType::TimestamptzNs => 9,
            _ => return None,
        };
        let from = match kind {
            AvroType::Timestamp { unit, .. } => unit.digits(),
            _ => self.terms.epoch.digits().unsigned_abs(),
        };
        let power = 10_i64.checked_pow(from.abs_diff(to))?;
        Some(match kind {
            AvroType::Int if from <= to => Step::I32Times(power),
            AvroType::Int => return None,
            _ if from == to => Step::I64,
            _ if from < to => Step::I64Times(power),
            _ => Step::I64Cut(power),
        })
    }

    fn decimal(&mut self, kind: &AvroType, column: &PrimitiveType, id: i32) -> Option<Step> {
        let AvroType::Decimal { precision, scale, width } = *kind else { return None };
        let PrimitiveType::Decimal { precision: digits, scale: to } = *column else { return None };
        let rescale = Rescale::new(scale, digits, to)?;
        // With a scale of its own a value fits where its digits do.
        let wanted = precision + to.saturating_sub(scale);
        if scale <= to && wanted > digits && wanted <= 38 {
            self.needs.widen(id, PrimitiveType::Decimal { precision: wanted, scale: to });
        }
        Some(Step::Decimal(Decimal { width, to: rescale }))
    }
}

/// A decimal of any scale by its parts.
fn any_scale() -> Record {
    Record::new(vec![("scale".to_owned(), AvroType::Int), ("value".to_owned(), AvroType::Bytes)])
}

/// What is bytes of some kind in both.
fn characters(kind: &AvroType, column: &PrimitiveType) -> Option<Step> {
    use PrimitiveType as P;
    Some(match (kind, column) {
        (AvroType::String | AvroType::Uuid | AvroType::Bytes, P::String) => Step::Text,
        (AvroType::String | AvroType::Uuid | AvroType::Bytes, P::Binary) => Step::Binary,
        (AvroType::String | AvroType::Uuid, P::Uuid) => Step::UuidText,
        (AvroType::Bytes, P::Fixed(_)) => Step::BinaryAsFixed,
        (AvroType::Fixed { size, .. }, P::Binary) => Step::FixedAsBinary(*size),
        (AvroType::Fixed { size: 16, .. }, P::Uuid) => Step::Fixed(16),
        (AvroType::Fixed { size, .. }, P::Fixed(width)) if u64::try_from(*size).ok() == Some(*width) => {
            Step::Fixed(*size)
        }
        (AvroType::Enum(symbols), P::String) => Step::Enum(Arc::clone(symbols)),
        (AvroType::Moment(P::Date), P::Date) | (AvroType::Moment(P::Time), P::Time) => {
            Step::DebeziumMoment(column.clone())
        }
        (
            AvroType::Moment(P::Timestamp | P::Timestamptz),
            P::Timestamp | P::Timestamptz | P::TimestampNs | P::TimestamptzNs,
        ) => Step::DebeziumMoment(column.clone()),
        (AvroType::String, P::Date | P::Time | P::Timestamp | P::Timestamptz | P::TimestampNs | P::TimestamptzNs) => {
            Step::Moment(column.clone())
        }
        // A name says no more than the column takes.
        (AvroType::Moment(_), _) => return characters(&AvroType::String, column),
        _ => return None,
    })
}

fn refused(kind: &AvroType, column: &Plan) -> Step {
    let held = match &column.kind {
        Kind::Primitive(primitive) => primitive.to_string(),
        Kind::Struct(_) => "struct".to_owned(),
        Kind::List(_) => "list".to_owned(),
        Kind::Map(..) => "map".to_owned(),
    };
    Step::Refused(kind.clone(), format!("{} in the writer's schema, {held} in the table", kind.word()))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use iceberg::spec::{NestedField, Type};

    use super::*;

    fn plan(kind: PrimitiveType) -> StructPlan {
        let field = Arc::new(NestedField::optional(1, "v", Type::Primitive(kind)));
        StructPlan::of_row(&[field], BTreeSet::new()).expect("valid")
    }

    #[test]
    fn a_plain_number_in_a_time_is_held_against_the_day() {
        let terms = Terms { epoch: Epoch::Millis, nanos: false, json: false };
        let (step, needs) = fit_column(&AvroType::Long, &plan(PrimitiveType::Time).fields[0], terms);
        assert!(matches!(step, Step::TimeMicros) && needs.is_settled());
    }
}
