//! A message laid onto a table's columns, once for each pair: what each value becomes, and what the table lacks.
//!
//! Fields and columns belong together by name. A value that its column cannot take is refused with its row; where a
//! promotion of the column would help, or a new column, that is what the pair needs.

use std::collections::HashMap;
use std::sync::Arc;

use iceberg::spec::PrimitiveType;

use crate::decode::convert::Rescale;
use crate::decode::observe::{Observed, Shape};
use crate::decode::plan::{Kind, Plan, StructPlan};
use crate::decode::proto_columns;
use crate::decode::proto_cursor::GROUP;
use crate::decode::proto_schema::{Dynamic, Field, Label, Message, ProtoType, Whole};
use crate::decode::temporal::Epoch;

/// Numbers up to which fields are found by looking into a table.
const DENSE: usize = 256;

/// A message laid onto a table.
pub(crate) struct Fitted {
    pub(crate) root: MessageStep,
    /// What the table lacks for every value of the message to find its place. Columns that are to become optional are not
    /// among it: that is seen from the rows.
    pub(crate) needs: Observed,
}

impl std::fmt::Debug for Fitted {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Fitted").field("needs", &self.needs).finish_non_exhaustive()
    }
}

/// A message onto a struct.
pub(crate) struct MessageStep {
    /// By their numbers.
    pub(crate) fields: Vec<FieldStep>,
    /// One more than the index of a field by its number, for small ones; 0 where there is none.
    dense: Vec<u16>,
    /// What becomes of each column that a message had nothing for.
    pub(crate) ends: Vec<End>,
}

/// A field, and where it goes to.
pub(crate) struct FieldStep {
    pub(crate) number: u32,
    /// What stands before a value.
    pub(crate) tag: u64,
    pub(crate) name: String,
    /// How one value is written.
    pub(crate) wire: u8,
    pub(crate) to: To,
}

/// Where a field's values go to.
pub(crate) enum To {
    /// Into a column; others of the same `oneof` are emptied.
    Column { column: usize, step: Step, others: Box<[usize]> },
    /// Into a list, one value or a block of them each time.
    List { column: usize, step: Step, packs: bool },
    /// Into a map, one entry each time.
    Map { column: usize, key: (u8, Step), value: (u8, Step) },
    /// Into none.
    Extra { obstacle: Option<String> },
    /// Into none, for it holds nothing.
    Nothing,
    /// Into a column that does not take it, with the reason.
    Refused(String),
}

/// What becomes of a column that a message had nothing for.
pub(crate) enum End {
    /// The zero of the field with that index.
    Zero(usize),
    /// NULL.
    Null,
    /// A list or map ends.
    Closed,
    /// The message is none.
    Required,
    /// The message's schema has no such field: the column's default, or NULL.
    Absent,
}

/// A value onto a column: how it is read, and what is done to it.
pub(crate) enum Step {
    Bool,
    I32(Whole),
    I64(Whole),
    I64AsI32(Whole),
    AsF32(Whole),
    AsF64(Whole),
    Times(Whole, i64),
    Cut(Whole, i64),
    Decimal(Whole, Rescale),
    F32,
    F32AsF64,
    F64,
    F64AsF32,
    Text,
    Binary,
    /// Bytes, which must be as many as the column has.
    BinaryAsFixed,
    UuidText,
    /// The text of a date, a time or a timestamp.
    Moment(PrimitiveType),
    Enum(Arc<HashMap<i32, String>>),
    /// Seconds and nanoseconds, into a column of nanoseconds or of microseconds.
    Stamp {
        nanos: bool,
    },
    /// A message around a value that is written so.
    Wrapped(u8, Box<Step>),
    Json(Dynamic),
    Message(Box<MessageStep>),
}

impl MessageStep {
    /// The index of the field of that number.
    #[inline]
    pub(crate) fn find(&self, number: u32) -> Option<usize> {
        match self.dense.get(number as usize) {
            Some(0) => None,
            Some(next) => Some(usize::from(*next) - 1),
            None => self.fields.binary_search_by_key(&number, |field| field.number).ok(),
        }
    }
}

/// Lays `message` onto the columns of `plan`; numbers in timestamps count as `epoch` says.
pub(crate) fn fit(message: &Message, plan: &StructPlan, epoch: Epoch) -> Fitted {
    let mut fitter = Fitter { epoch, needs: Observed::default() };
    let root = fitter.message(message, plan);
    let mut needs = fitter.needs;
    needs.added.retain(|_, shape| shape.fields().next().is_some());
    Fitted { root, needs }
}

struct Fitter {
    epoch: Epoch,
    needs: Observed,
}

impl Fitter {
    fn message(&mut self, message: &Message, plan: &StructPlan) -> MessageStep {
        let mut order: Vec<&Field> = message.fields.iter().collect();
        order.sort_by_key(|field| field.number);
        let column_of = |field: &Field| plan.find(&field.name).and_then(|index| Some((index, plan.fields.get(index)?)));
        let mut ends: Vec<End> = plan.fields.iter().map(|_| End::Absent).collect();
        let mut fields = Vec::with_capacity(order.len());
        for (at, field) in order.iter().enumerate() {
            let to = match column_of(field) {
                None => self.extra(field, plan),
                Some((index, column)) => {
                    let others = order.iter().filter(|other| {
                        field.oneof.is_some() && other.oneof == field.oneof && other.number != field.number
                    });
                    let others = others.filter_map(|other| Some(column_of(other)?.0)).collect();
                    let to = self.column(field, index, column, others);
                    if let Some(end) = ends.get_mut(index) {
                        *end = end_of(&to, &field.label, at);
                    }
                    to
                }
            };
            let wire = if field.group { GROUP } else { wire_of(field) };
            let tag = u64::from(field.number) << 3 | u64::from(wire);
            fields.push(FieldStep { number: field.number, tag, name: field.name.clone(), wire, to });
        }
        let highest = fields.iter().map(|field| field.number as usize).filter(|number| *number < DENSE).max();
        let mut dense = vec![0_u16; highest.map_or(1, |highest| highest + 1)];
        for (index, field) in fields.iter().enumerate() {
            if let Some(slot) = dense.get_mut(field.number as usize) {
                *slot = u16::try_from(index + 1).unwrap_or(0);
            }
        }
        MessageStep { fields, dense, ends }
    }

    fn extra(&mut self, field: &Field, plan: &StructPlan) -> To {
        let Some(wanted) = proto_columns::field_of(field) else { return To::Nothing };
        let obstacle = plan.obstacle(&field.name);
        if obstacle.is_none() {
            let shape = Shape::Typed(Arc::new(wanted.field_type.as_ref().clone()));
            self.needs.added.entry(plan.id).or_default().insert(&field.name, shape);
        }
        To::Extra { obstacle }
    }

    fn column(&mut self, field: &Field, column: usize, plan: &Plan, others: Box<[usize]>) -> To {
        let fitted = match (&field.label, &plan.kind) {
            (Label::List, Kind::List(element)) => {
                let packs = field.kind.wire() != 2;
                self.value(&field.kind, element).map(|step| To::List { column, step, packs })
            }
            (Label::List, _) => None,
            (Label::Map(key), Kind::Map(key_plan, value_plan)) => {
                let steps = self.value(key, key_plan).zip(self.value(&field.kind, value_plan));
                let (key, value) = (key.wire(), field.kind.wire());
                steps.map(|steps| To::Map { column, key: (key, steps.0), value: (value, steps.1) })
            }
            (Label::Map(_), _) => None,
            _ => self.value(&field.kind, plan).map(|step| To::Column { column, step, others }),
        };
        fitted.unwrap_or_else(|| refused(field, plan))
    }

    fn value(&mut self, kind: &ProtoType, column: &Plan) -> Option<Step> {
        match (kind, &column.kind) {
            (ProtoType::Message(message), Kind::Struct(plan)) => {
                Some(Step::Message(Box::new(self.message(message, plan))))
            }
            (kind, Kind::Primitive(primitive)) => self.primitive(kind, primitive, column.id),
            _ => None,
        }
    }

    fn primitive(&mut self, kind: &ProtoType, column: &PrimitiveType, id: i32) -> Option<Step> {
        use PrimitiveType as P;
        Some(match (kind, column) {
            (ProtoType::Whole(whole), _) => self.whole(*whole, column, id)?,
            (ProtoType::Bool, P::Boolean) => Step::Bool,
            (ProtoType::Float, P::Float) => Step::F32,
            (ProtoType::Float, P::Double) => Step::F32AsF64,
            (ProtoType::Double, P::Double) => Step::F64,
            (ProtoType::Double, P::Float) => {
                self.needs.widen(id, P::Double);
                Step::F64AsF32
            }
            (ProtoType::String | ProtoType::Bytes, P::String) => Step::Text,
            (ProtoType::String | ProtoType::Bytes, P::Binary) => Step::Binary,
            (ProtoType::Bytes, P::Fixed(_) | P::Uuid) => Step::BinaryAsFixed,
            (ProtoType::String, P::Uuid) => Step::UuidText,
            (
                ProtoType::String,
                P::Date | P::Time | P::Timestamp | P::Timestamptz | P::TimestampNs | P::TimestamptzNs,
            ) => Step::Moment(column.clone()),
            (ProtoType::Enum(names), P::String) => Step::Enum(Arc::clone(names)),
            (ProtoType::Enum(_), P::Int) => Step::I32(Whole::Int32),
            (ProtoType::Enum(_), P::Long) => Step::I64(Whole::Int32),
            (ProtoType::Timestamp, P::Timestamp | P::Timestamptz) => Step::Stamp { nanos: false },
            (ProtoType::Timestamp, P::TimestampNs | P::TimestamptzNs) => Step::Stamp { nanos: true },
            (ProtoType::Wrapper(inner), _) => Step::Wrapped(inner.wire(), Box::new(self.primitive(inner, column, id)?)),
            (ProtoType::Json(dynamic), P::String) => Step::Json(*dynamic),
            _ => return None,
        })
    }

    fn whole(&mut self, whole: Whole, column: &PrimitiveType, id: i32) -> Option<Step> {
        use PrimitiveType as P;
        let short = matches!(whole, Whole::Int32 | Whole::SInt32 | Whole::SFixed32);
        Some(match column {
            P::Int | P::Date if short => Step::I32(whole),
            P::Int => {
                self.needs.widen(id, P::Long);
                Step::I64AsI32(whole)
            }
            P::Long => Step::I64(whole),
            P::Float => Step::AsF32(whole),
            P::Double => Step::AsF64(whole),
            P::Decimal { precision, scale } => {
                let digits = match whole {
                    Whole::UInt64 | Whole::Fixed64 => 20,
                    Whole::Int64 | Whole::SInt64 | Whole::SFixed64 => 19,
                    _ => 10,
                };
                let wanted = digits + scale;
                if wanted > *precision && wanted <= 38 {
                    self.needs.widen(id, P::Decimal { precision: wanted, scale: *scale });
                }
                Step::Decimal(whole, Rescale::new(0, *precision, *scale)?)
            }
            P::Timestamp | P::Timestamptz => self.counted(whole, 6)?,
            P::TimestampNs | P::TimestamptzNs => self.counted(whole, 9)?,
            _ => return None,
        })
    }

    /// A number that counts since the epoch, into a column that counts so many digits after the second.
    fn counted(&self, whole: Whole, to: u32) -> Option<Step> {
        let from = self.epoch.digits().unsigned_abs();
        let power = 10_i64.checked_pow(from.abs_diff(to))?;
        Some(if from <= to { Step::Times(whole, power) } else { Step::Cut(whole, power) })
    }
}

/// How one value of a field is written.
fn wire_of(field: &Field) -> u8 {
    if matches!(field.label, Label::Map(_)) { 2 } else { field.kind.wire() }
}

fn end_of(to: &To, label: &Label, at: usize) -> End {
    match (to, label) {
        (To::List { .. } | To::Map { .. }, _) => End::Closed,
        // A column of another type stays empty where the field is.
        (To::Refused(_), _) => End::Absent,
        (_, Label::Implicit) => End::Zero(at),
        (_, Label::Required) => End::Required,
        _ => End::Null,
    }
}

fn refused(field: &Field, column: &Plan) -> To {
    let held = match &column.kind {
        Kind::Primitive(primitive) => primitive.to_string(),
        Kind::Struct(_) => "struct".to_owned(),
        Kind::List(_) => "list".to_owned(),
        Kind::Map(..) => "map".to_owned(),
    };
    let word = match &field.label {
        Label::List => format!("a list of {}", field.kind.word()),
        Label::Map(_) => format!("a map of {}", field.kind.word()),
        _ => field.kind.word().to_owned(),
    };
    To::Refused(format!("{word} in the writer's schema, {held} in the table"))
}
