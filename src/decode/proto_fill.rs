//! One message's values onto columns: the hot path.

use crate::config::OnChange;
use crate::decode::columns::{Column, Columns, Values, offset};
use crate::decode::convert::{append, append_fixed, append_uuid, moment, narrow, none, other_type, times};
use crate::decode::fault::Fault;
use crate::decode::plan::{Kind, Plan, StructPlan};
use crate::decode::proto_cursor::{BLOCK, Cursor, GROUP, VARINT};
use crate::decode::proto_fit::{End, FieldStep, MessageStep, Step, To};
use crate::decode::proto_json;
use crate::decode::proto_schema::Whole;
use crate::decode::tally::Tally;
use crate::decode::temporal;

/// The zero of every type: a varint, a number of 8 bytes, a length.
const ZERO: [u8; 8] = [0; 8];

/// How often as many bytes as a row has may be read again to merge messages that are there more than once. Such messages
/// within each other would double the work with each level.
const MERGED_MAX: usize = 32;

/// Fills columns.
pub(crate) struct Filler {
    /// Fields that the schema does not have are among those that were left out.
    pub(crate) tally: Tally,
    /// Bytes of the row that may be read again.
    again_left: usize,
}

impl Filler {
    pub(crate) fn new(on_change: OnChange) -> Self {
        Self { tally: Tally::new(on_change), again_left: 0 }
    }

    /// Begins a row of so many bytes.
    pub(crate) fn begin(&mut self, bytes: usize) {
        self.tally.begin(bytes);
        self.again_left = bytes.saturating_mul(MERGED_MAX);
    }

    /// Appends the message that is the rest of `cursor` to columns that hold `length` values each. On a fault they hold part of
    /// it.
    pub(crate) fn message(
        &mut self,
        step: &MessageStep,
        plan: &StructPlan,
        columns: &mut Columns,
        length: usize,
        mut cursor: Cursor<'_>,
    ) -> Result<(), Fault> {
        let whole = cursor.clone();
        // Fields mostly come by their numbers: one above all that came was not there yet. Columns that such fields fill for good
        // are counted: where these are all, none is looked at again.
        let (mut slot, mut above, mut alone) = (0, 0, 0);
        let mut merged = Vec::new();
        while !cursor.is_done() {
            let tag = cursor.varint()?;
            let (index, wire) = match step.fields.get(slot) {
                Some(field) if field.tag == tag => (slot, field.wire),
                _ => {
                    let (number, wire) = cursor.cut(tag)?;
                    let Some(index) = step.find(number) else {
                        cursor.skip(number, wire)?;
                        self.tally.ignored += 1;
                        continue;
                    };
                    (index, wire)
                }
            };
            let Some(field) = step.fields.get(index) else { return Err(other_type()) };
            slot = index + usize::from(!matches!(field.to, To::List { .. } | To::Map { .. }));
            let is_new = index >= above;
            above = above.max(index + 1);
            if let To::Column { column: index, step, others } = &field.to
                && is_new
                && others.is_empty()
                && wire == field.wire
                && wire != GROUP
            {
                let (plan, column) = at(plan, columns, *index)?;
                self.value(step, plan, column, &mut cursor).map_err(|fault| fault.in_field(&field.name))?;
                alone += 1;
                continue;
            }
            let done = self.field(field, plan, columns, length, wire, &mut cursor);
            if let Again::Yes = done.map_err(|fault| fault.in_field(&field.name))? {
                let again = self.again(field, plan, columns, length, (wire, &mut cursor), &whole, &mut merged);
                again.map_err(|fault| fault.in_field(&field.name))?;
            }
        }
        if alone == plan.fields.len() { Ok(()) } else { self.ends(step, plan, columns, length) }
    }

    /// Takes one occurrence of a field; says where it stands when the field was there before.
    #[inline]
    fn field(
        &mut self,
        field: &FieldStep,
        plan: &StructPlan,
        columns: &mut Columns,
        length: usize,
        wire: u8,
        cursor: &mut Cursor<'_>,
    ) -> Result<Again, Fault> {
        match &field.to {
            To::Column { column: index, step, others } => {
                let (plan, column) = at(plan, columns, *index)?;
                if column.len() != length {
                    return Ok(Again::Yes);
                }
                self.single(field, step, plan, column, wire, cursor)?;
                for other in others {
                    if let Some(column) = columns.columns.get_mut(*other) {
                        column.truncate(length);
                    }
                }
            }
            To::List { column: index, step, packs } => {
                let (plan, column) = at(plan, columns, *index)?;
                let (Values::List(offsets, element), Kind::List(plan)) = (&mut column.values, &plan.kind) else {
                    return Err(other_type());
                };
                let from = offsets.last().map_or(0, |from| from.cast_unsigned() as usize);
                if wire == BLOCK && *packs {
                    let mut block = cursor.within()?;
                    while !block.is_done() {
                        let at = element.len() - from;
                        self.value(step, plan, element, &mut block).map_err(|fault| fault.in_element(at))?;
                    }
                } else {
                    self.tally.budget.fills(plan.fills)?;
                    let at = element.len() - from;
                    let done = self.single(field, step, plan, element, wire, cursor);
                    done.map_err(|fault| fault.in_element(at))?;
                }
            }
            To::Map { column: index, key, value } => {
                let (plan, column) = at(plan, columns, *index)?;
                if wire != BLOCK {
                    return Err(cursor.other_wire(wire, BLOCK));
                }
                self.entry((key, value), plan, column, cursor.within()?)?;
            }
            To::Nothing => cursor.skip(field.number, wire)?,
            To::Extra { obstacle } => {
                cursor.skip(field.number, wire)?;
                self.tally.extra(obstacle.as_ref())?;
            }
            To::Refused(reason) => {
                cursor.skip(field.number, wire)?;
                return Err(Fault::value(reason.clone()));
            }
        }
        Ok(Again::No)
    }

    /// Appends one value of a field.
    #[inline]
    fn single(
        &mut self,
        field: &FieldStep,
        step: &Step,
        plan: &Plan,
        column: &mut Column,
        wire: u8,
        cursor: &mut Cursor<'_>,
    ) -> Result<(), Fault> {
        if wire != field.wire {
            return Err(cursor.other_wire(wire, field.wire));
        }
        if wire == GROUP {
            let inner = cursor.group(field.number)?;
            return self.nested(step, plan, column, inner);
        }
        self.value(step, plan, column, cursor)
    }

    /// A field that may be there once and is there again: the last value counts, of messages all together.
    #[cold]
    #[allow(clippy::too_many_arguments)] // all that a field has around it
    fn again(
        &mut self,
        field: &FieldStep,
        plan: &StructPlan,
        columns: &mut Columns,
        length: usize,
        (wire, cursor): (u8, &mut Cursor<'_>),
        whole: &Cursor<'_>,
        merged: &mut Vec<u32>,
    ) -> Result<(), Fault> {
        let To::Column { column: index, step, .. } = &field.to else { return Err(other_type()) };
        let (plan, column) = at(plan, columns, *index)?;
        if merged.contains(&field.number) {
            return cursor.skip(field.number, wire);
        }
        column.truncate(length);
        if !matches!(step, Step::Message(_) | Step::Wrapped(..) | Step::Stamp { .. } | Step::Json(_)) {
            return self.single(field, step, plan, column, wire, cursor);
        }
        // What they are together is what their bytes behind each other say.
        cursor.skip(field.number, wire)?;
        let (mut parts, mut rest) = (Vec::new(), whole.clone());
        while let Some((number, wire)) = rest.tag()? {
            let (before, wanted) = (rest.at(), number == field.number && wire == field.wire);
            let part = match (wanted, wire) {
                (false, _) => rest.skip(number, wire).map(|()| None)?,
                (true, GROUP) => Some(rest.group(number)?),
                (true, _) => Some(rest.within()?),
            };
            // A length is stepped over at once.
            let read = if wanted || wire == GROUP { rest.at() - before } else { 0 };
            self.again_left = self.again_left.checked_sub(read + 1).ok_or_else(too_often)?;
            parts.extend_from_slice(part.map(|part| part.rest()).unwrap_or_default());
        }
        merged.push(field.number);
        self.nested(step, plan, column, Cursor::new(&parts))
    }

    /// Appends one entry of a map. It may lack its key, its value or both: they are zero then.
    fn entry(
        &mut self,
        (key, value): (&(u8, Step), &(u8, Step)),
        plan: &Plan,
        column: &mut Column,
        mut entry: Cursor<'_>,
    ) -> Result<(), Fault> {
        let (Values::Map(_, keys, values), Kind::Map(key_plan, value_plan)) = (&mut column.values, &plan.kind) else {
            return Err(other_type());
        };
        self.tally.budget.fills(key_plan.fills + value_plan.fills)?;
        let (mut at_key, mut at_value) = (Cursor::new(&ZERO), Cursor::new(&ZERO));
        while let Some((number, wire)) = entry.tag()? {
            let (held, expected) = match number {
                1 => (&mut at_key, key.0),
                2 => (&mut at_value, value.0),
                _ => {
                    entry.skip(number, wire)?;
                    continue;
                }
            };
            if wire != expected {
                return Err(entry.other_wire(wire, expected));
            }
            *held = entry.clone();
            entry.skip(number, wire)?;
        }
        self.value(&key.1, key_plan, keys, &mut at_key)?;
        self.value(&value.1, value_plan, values, &mut at_value)
    }

    /// Gives every column a value that the message had none for.
    fn ends(
        &mut self,
        step: &MessageStep,
        plan: &StructPlan,
        columns: &mut Columns,
        length: usize,
    ) -> Result<(), Fault> {
        for ((end, plan), column) in step.ends.iter().zip(&plan.fields).zip(&mut columns.columns) {
            if column.len() != length {
                continue;
            }
            self.end(end, step, plan, column).map_err(|fault| fault.in_field(&plan.name))?;
        }
        Ok(())
    }

    /// Gives one column a value that the message had none for.
    #[inline]
    fn end(&mut self, end: &End, step: &MessageStep, plan: &Plan, column: &mut Column) -> Result<(), Fault> {
        match end {
            End::Closed => close(column),
            End::Zero(index) => {
                let Some(To::Column { step, .. }) = step.fields.get(*index).map(|field| &field.to) else {
                    return Err(other_type());
                };
                self.value(step, plan, column, &mut Cursor::new(&ZERO))
            }
            End::Null => self.tally.null(plan, column, "missing"),
            End::Required => Err(Fault::value("missing, and its message requires it")),
            End::Absent => self.tally.absent(plan, column),
        }
    }

    /// Appends the value that comes next.
    #[inline]
    fn value(&mut self, step: &Step, plan: &Plan, column: &mut Column, cursor: &mut Cursor<'_>) -> Result<(), Fault> {
        match (step, &mut column.values) {
            (Step::I64(whole), Values::I64(values)) => values.push(integer(*whole, cursor)?),
            (Step::I32(whole), Values::I32(values)) => values.push(short(*whole, cursor)?),
            (Step::F64, Values::F64(values)) => values.push(f64::from_le_bytes(cursor.array()?)),
            (Step::F32, Values::F32(values)) => values.push(f32::from_le_bytes(cursor.array()?)),
            (Step::Bool, Values::Bits(bits)) => bits.append(cursor.varint()? != 0),
            (Step::Text, Values::Text(texts)) => {
                texts.push_bytes(cursor.block()?)?;
                texts.close()?;
            }
            (Step::Enum(names), Values::Text(texts)) => {
                let number = short(Whole::Int32, cursor)?;
                match names.get(&number) {
                    Some(name) => texts.push(name),
                    None => texts.push(itoa::Buffer::new().format(number)),
                }
                texts.close()?;
            }
            (Step::Decimal(whole, to), Values::I128(values)) => values.push(to.of(wide(*whole, cursor)?)?),
            (Step::Message(_) | Step::Wrapped(..) | Step::Stamp { .. } | Step::Json(_), _) => {
                let inner = cursor.within()?;
                return self.nested(step, plan, column, inner);
            }
            (step, values) => rarer(step, values, cursor)?,
        }
        column.nulls.append_non_null();
        Ok(())
    }

    /// Appends what is a message on the wire.
    fn nested(&mut self, step: &Step, plan: &Plan, column: &mut Column, inner: Cursor<'_>) -> Result<(), Fault> {
        match (step, &mut column.values, &plan.kind) {
            (Step::Message(step), Values::Struct(columns), Kind::Struct(plan)) => {
                let length = column.nulls.len();
                self.message(step, plan, columns, length, inner)?;
            }
            (Step::Wrapped(wire, step), ..) => {
                let mut value = wrapped(*wire, inner)?;
                return self.value(step, plan, column, &mut value);
            }
            (Step::Stamp { nanos }, Values::I64(values), _) => values.push(stamp(*nanos, inner)?),
            (Step::Json(dynamic), Values::Text(texts), _) => {
                let mut text = String::new();
                proto_json::write(*dynamic, inner, &mut text)?;
                texts.push(&text);
                texts.close()?;
            }
            _ => return Err(other_type()),
        }
        column.nulls.append_non_null();
        Ok(())
    }
}

#[cold]
fn too_often() -> Fault {
    Fault::row(format!(
        "messages within each other that are there again: more than {MERGED_MAX} times the row's bytes to merge; \
         send each field once"
    ))
}

/// Whether a field that may be there once was there before.
enum Again {
    Yes,
    No,
}

#[inline]
fn at<'a>(plan: &'a StructPlan, columns: &'a mut Columns, index: usize) -> Result<(&'a Plan, &'a mut Column), Fault> {
    plan.fields.get(index).zip(columns.columns.get_mut(index)).ok_or_else(other_type)
}

/// Ends a list or map.
fn close(column: &mut Column) -> Result<(), Fault> {
    match &mut column.values {
        Values::List(offsets, element) => offsets.push(offset(element.len())?),
        Values::Map(offsets, keys, _) => {
            let from = offsets.last().map_or(0, |from| from.cast_unsigned() as usize);
            if keys.len() - from > 1 && keys.repeats(from) {
                return Err(Fault::value("duplicate key"));
            }
            offsets.push(offset(keys.len())?);
        }
        _ => return Err(other_type()),
    }
    column.nulls.append_non_null();
    Ok(())
}

/// The bytes of a varint of 32 bits are those of one of 64.
#[allow(clippy::cast_possible_truncation)]
fn low(value: u64) -> u32 {
    value as u32
}

#[inline]
fn short(whole: Whole, cursor: &mut Cursor<'_>) -> Result<i32, Fault> {
    Ok(match whole {
        Whole::SInt32 => {
            let value = low(cursor.varint()?);
            (value >> 1).cast_signed() ^ -((value & 1).cast_signed())
        }
        Whole::SFixed32 => i32::from_le_bytes(cursor.array()?),
        _ => low(cursor.varint()?).cast_signed(),
    })
}

#[inline]
fn integer(whole: Whole, cursor: &mut Cursor<'_>) -> Result<i64, Fault> {
    let fits = |value: u64| i64::try_from(value).map_err(|_| Fault::value(format!("{value} is no long")));
    Ok(match whole {
        Whole::Int64 => cursor.varint()?.cast_signed(),
        Whole::Int32 | Whole::SInt32 | Whole::SFixed32 => short(whole, cursor)?.into(),
        Whole::UInt32 => low(cursor.varint()?).into(),
        Whole::UInt64 => fits(cursor.varint()?)?,
        Whole::SInt64 => {
            let value = cursor.varint()?;
            (value >> 1).cast_signed() ^ -((value & 1).cast_signed())
        }
        Whole::Fixed32 => u32::from_le_bytes(cursor.array()?).into(),
        Whole::Fixed64 => fits(u64::from_le_bytes(cursor.array()?))?,
        Whole::SFixed64 => i64::from_le_bytes(cursor.array()?),
    })
}

fn wide(whole: Whole, cursor: &mut Cursor<'_>) -> Result<i128, Fault> {
    Ok(match whole {
        Whole::UInt64 => cursor.varint()?.into(),
        Whole::Fixed64 => u64::from_le_bytes(cursor.array()?).into(),
        _ => integer(whole, cursor)?.into(),
    })
}

/// Values without parts that are not met in every row.
#[allow(clippy::cast_precision_loss)] // to the nearest: what a float column means
fn rarer(step: &Step, values: &mut Values, cursor: &mut Cursor<'_>) -> Result<(), Fault> {
    match (step, values) {
        (Step::I64AsI32(whole), Values::I32(values)) => {
            let value = integer(*whole, cursor)?;
            values.push(i32::try_from(value).map_err(|_| Fault::value(format!("{value} is no int")))?);
        }
        (Step::AsF32(whole), Values::F32(values)) => values.push(wide(*whole, cursor)? as f32),
        (Step::AsF64(whole), Values::F64(values)) => values.push(wide(*whole, cursor)? as f64),
        (Step::Times(whole, power), Values::I64(values)) => values.push(times(integer(*whole, cursor)?, *power)?),
        (Step::Cut(whole, power), Values::I64(values)) => values.push(integer(*whole, cursor)?.div_euclid(*power)),
        (Step::F32AsF64, Values::F64(values)) => values.push(f32::from_le_bytes(cursor.array()?).into()),
        (Step::F64AsF32, Values::F32(values)) => values.push(narrow(f64::from_le_bytes(cursor.array()?))?),
        (Step::Binary, Values::Binary(offsets, bytes)) => append(offsets, bytes, cursor.block()?)?,
        (Step::BinaryAsFixed, Values::Fixed(width, bytes)) => append_fixed(*width, bytes, cursor.block()?)?,
        (Step::UuidText, Values::Fixed(16, bytes)) => append_uuid(bytes, cursor.text()?)?,
        (Step::Moment(kind), Values::I32(values)) => {
            let text = cursor.text()?;
            values.push(temporal::date(text).ok_or_else(|| none(text, kind))?);
        }
        (Step::Moment(kind), Values::I64(values)) => {
            let text = cursor.text()?;
            values.push(moment(text, kind).ok_or_else(|| none(text, kind))?);
        }
        _ => return Err(other_type()),
    }
    Ok(())
}

/// Where the value in a wrapper stands; at a zero where there is none.
fn wrapped(expected: u8, mut inner: Cursor<'_>) -> Result<Cursor<'_>, Fault> {
    let mut found = Cursor::new(&ZERO);
    while let Some((number, wire)) = inner.tag()? {
        if number == 1 {
            if wire != expected {
                return Err(inner.other_wire(wire, expected));
            }
            found = inner.clone();
        }
        inner.skip(number, wire)?;
    }
    Ok(found)
}

/// A `Timestamp` as the column counts; what is below its unit is cut off.
fn stamp(nanos: bool, mut inner: Cursor<'_>) -> Result<i64, Fault> {
    let (mut seconds, mut below) = (0_i64, 0_i32);
    while let Some((number, wire)) = inner.tag()? {
        match (number, wire) {
            (1, VARINT) => seconds = inner.varint()?.cast_signed(),
            (2, VARINT) => below = short(Whole::Int32, &mut inner)?,
            (1 | 2, _) => return Err(inner.other_wire(wire, VARINT)),
            _ => inner.skip(number, wire)?,
        }
    }
    if !(0..1_000_000_000).contains(&below) {
        return Err(Fault::value(format!("{below} is no number of nanoseconds within a second")));
    }
    let (power, below) = if nanos { (1_000_000_000, below) } else { (1_000_000, below / 1000) };
    let counted = seconds.checked_mul(power).and_then(|counted| counted.checked_add(below.into()));
    counted.ok_or_else(|| Fault::value(format!("{seconds} seconds are out of the column's range")))
}
