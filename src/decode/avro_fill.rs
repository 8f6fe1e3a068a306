//! One row's values onto columns: the hot path.

use crate::config::OnChange;
use crate::decode::avro_cursor::Cursor;
use crate::decode::avro_fit::{BranchStep, Extra, FieldStep, Step, StructStep};
use crate::decode::columns::{Column, Columns, Values, offset};
use crate::decode::convert::{
    append, append_debeziums, append_decimal, append_fixed, append_moment, append_uuid, narrow, other_type, time,
    times, unscaled,
};
use crate::decode::decimal_text::decimal_text;
use crate::decode::fault::Fault;
use crate::decode::plan::{Kind, Plan, StructPlan};
use crate::decode::tally::Tally;

/// Fills columns.
pub(crate) struct Filler {
    pub(crate) tally: Tally,
}

impl Filler {
    pub(crate) fn new(on_change: OnChange) -> Self {
        Self { tally: Tally::new(on_change) }
    }

    /// Appends a record's fields. On a fault the columns hold part of it.
    pub(crate) fn record(
        &mut self,
        step: &StructStep,
        plan: &StructPlan,
        columns: &mut Columns,
        cursor: &mut Cursor<'_>,
    ) -> Result<(), Fault> {
        for field in &step.fields {
            match field {
                FieldStep::Column(index, step) => {
                    let (Some(plan), Some(column)) = (plan.fields.get(*index), columns.columns.get_mut(*index)) else {
                        return Err(other_type());
                    };
                    self.value(step, plan, column, cursor).map_err(|fault| fault.in_field(&plan.name))?;
                }
                FieldStep::Extra(extra) => self.extra(extra, cursor).map_err(|fault| fault.in_field(&extra.name))?,
            }
        }
        for index in &step.absent {
            let (Some(plan), Some(column)) = (plan.fields.get(*index), columns.columns.get_mut(*index)) else {
                return Err(other_type());
            };
            self.tally.absent(plan, column).map_err(|fault| fault.in_field(&plan.name))?;
        }
        Ok(())
    }

    /// Steps over a field that is no column.
    fn extra(&mut self, extra: &Extra, cursor: &mut Cursor<'_>) -> Result<(), Fault> {
        if cursor.skip(&extra.kind)? { self.tally.extra(extra.obstacle.as_ref()) } else { Ok(()) }
    }

    /// Appends the value that comes next.
    #[inline]
    pub(crate) fn value(
        &mut self,
        step: &Step,
        plan: &Plan,
        column: &mut Column,
        cursor: &mut Cursor<'_>,
    ) -> Result<(), Fault> {
        let step = match step {
            Step::Nullable(null, _) if cursor.either()? == *null => return self.tally.null(plan, column, "null"),
            Step::Nullable(_, inner) => inner,
            step => step,
        };
        match (step, &mut column.values) {
            (Step::I32, Values::I32(values)) => values.push(cursor.int()?),
            (Step::I32AsI64, Values::I64(values)) => values.push(cursor.int()?.into()),
            (Step::I64, Values::I64(values)) => values.push(cursor.long()?),
            (Step::F64, Values::F64(values)) => values.push(f64::from_le_bytes(cursor.array()?)),
            (Step::F32, Values::F32(values)) => values.push(f32::from_le_bytes(cursor.array()?)),
            (Step::Boolean, Values::Bits(bits)) => bits.append(cursor.boolean()?),
            (Step::Text, Values::Text(texts)) => {
                texts.push_bytes(cursor.bytes()?)?;
                texts.close()?;
            }
            (Step::Enum(symbols), Values::Text(texts)) => {
                let index = cursor.index(symbols.len())?;
                texts.push(symbols.get(index).map_or("", String::as_str));
                texts.close()?;
            }
            (Step::Decimal(decimal), Values::I128(values)) => {
                let bytes = match decimal.width {
                    Some(width) => cursor.take(width)?,
                    None => cursor.bytes()?,
                };
                values.push(unscaled(bytes, &decimal.to)?);
            }
            (Step::I64Times(power), Values::I64(values)) => values.push(times(cursor.long()?, *power)?),
            (Step::I64Cut(power), Values::I64(values)) => values.push(cursor.long()?.div_euclid(*power)),
            _ => return self.rarer(step, plan, column, cursor),
        }
        column.nulls.append_non_null();
        Ok(())
    }

    fn rarer(&mut self, step: &Step, plan: &Plan, column: &mut Column, cursor: &mut Cursor<'_>) -> Result<(), Fault> {
        match (step, &mut column.values, &plan.kind) {
            (Step::Nothing, ..) => return self.tally.null(plan, column, "null"),
            (Step::Only(inner), ..) => {
                cursor.index(1)?;
                return self.value(inner, plan, column, cursor);
            }
            (Step::Refused(kind, reason), ..) => {
                cursor.skip(kind)?;
                return Err(Fault::value(reason.clone()));
            }
            (Step::Union(branches), ..) => return self.union(branches, plan, column, cursor),
            (Step::Struct(step), Values::Struct(columns), Kind::Struct(plan)) => {
                self.record(step, plan, columns, cursor)?;
            }
            (Step::List(step), Values::List(offsets, element), Kind::List(plan)) => {
                let from = element.len();
                loop {
                    let count = cursor.block()?;
                    if count == 0 {
                        break;
                    }
                    for _ in 0..count {
                        self.tally.budget.fills(plan.fills)?;
                        let at = element.len() - from;
                        self.value(step, plan, element, cursor).map_err(|fault| fault.in_element(at))?;
                    }
                }
                offsets.push(offset(element.len())?);
            }
            (Step::Map(step), Values::Map(offsets, keys, values), Kind::Map(_, plan)) => {
                self.entries(step, plan, (keys, values), cursor)?;
                offsets.push(offset(keys.len())?);
            }
            (Step::ScaledDecimal(scale), values, _) => {
                let scale = scale.map_or_else(|| cursor.int(), Ok)?;
                append_decimal(plan, values, &decimal_text(cursor.bytes()?, scale)?)?;
            }
            (step, values, _) => single(step, values, cursor)?,
        }
        column.nulls.append_non_null();
        Ok(())
    }

    fn entries(
        &mut self,
        step: &Step,
        plan: &Plan,
        (keys, values): (&mut Column, &mut Column),
        cursor: &mut Cursor<'_>,
    ) -> Result<(), Fault> {
        let from = keys.len();
        loop {
            let count = cursor.block()?;
            if count == 0 {
                break;
            }
            for _ in 0..count {
                self.tally.budget.fills(1 + plan.fills)?;
                let key = cursor.text()?;
                let Values::Text(texts) = &mut keys.values else { return Err(other_type()) };
                texts.push(key);
                texts.close()?;
                keys.nulls.append_non_null();
                self.value(step, plan, values, cursor).map_err(|fault| fault.in_field(key))?;
            }
        }
        if keys.len() - from > 1 && keys.repeats(from) {
            return Err(Fault::value("duplicate key"));
        }
        Ok(())
    }

    /// A union of several types: the field of the branch that is there, and NULL in the others.
    fn union(
        &mut self,
        branches: &[BranchStep],
        plan: &Plan,
        column: &mut Column,
        cursor: &mut Cursor<'_>,
    ) -> Result<(), Fault> {
        let index = cursor.index(branches.len())?;
        let (taken, step) = match branches.get(index) {
            None | Some(BranchStep::Null) => return self.tally.null(plan, column, "null"),
            Some(BranchStep::Column(taken, step)) => (Some(*taken), Some(step)),
            Some(BranchStep::Extra(extra)) => {
                self.extra(extra, cursor).map_err(|fault| fault.in_field(&extra.name))?;
                (None, None)
            }
        };
        let (Values::Struct(columns), Kind::Struct(inner)) = (&mut column.values, &plan.kind) else {
            return Err(other_type());
        };
        for (at, (plan, column)) in inner.fields.iter().zip(&mut columns.columns).enumerate() {
            match step {
                Some(step) if taken == Some(at) => self.value(step, plan, column, cursor),
                _ => self.tally.null(plan, column, "missing"),
            }
            .map_err(|fault| fault.in_field(&plan.name))?;
        }
        column.nulls.append_non_null();
        Ok(())
    }
}

/// Where a number is read from.
pub(crate) trait Numbers {
    fn int(&mut self) -> Result<i32, Fault>;
    fn long(&mut self) -> Result<i64, Fault>;
    fn float(&mut self) -> Result<f32, Fault>;
    fn double(&mut self) -> Result<f64, Fault>;
}

impl Numbers for Cursor<'_> {
    #[inline]
    fn int(&mut self) -> Result<i32, Fault> {
        Cursor::int(self)
    }

    #[inline]
    fn long(&mut self) -> Result<i64, Fault> {
        Cursor::long(self)
    }

    #[inline]
    fn float(&mut self) -> Result<f32, Fault> {
        Ok(f32::from_le_bytes(self.array()?))
    }

    #[inline]
    fn double(&mut self) -> Result<f64, Fault> {
        Ok(f64::from_le_bytes(self.array()?))
    }
}

/// Appends the number that comes next, as the column counts; answers whether the step is one of a number.
#[allow(clippy::cast_precision_loss)] // to the nearest: what a float column means
pub(crate) fn append_number(step: &Step, values: &mut Values, from: &mut impl Numbers) -> Result<bool, Fault> {
    match (step, values) {
        (Step::I32, Values::I32(values)) => values.push(from.int()?),
        (Step::I64AsI32, Values::I32(values)) => {
            let value = from.long()?;
            values.push(i32::try_from(value).map_err(|_| Fault::value(format!("{value} is no int")))?);
        }
        (Step::I32AsI64, Values::I64(values)) => values.push(from.int()?.into()),
        (Step::I64, Values::I64(values)) => values.push(from.long()?),
        (Step::I32Times(power), Values::I64(values)) => values.push(times(from.int()?.into(), *power)?),
        (Step::I64Times(power), Values::I64(values)) => values.push(times(from.long()?, *power)?),
        (Step::I64Cut(power), Values::I64(values)) => values.push(from.long()?.div_euclid(*power)),
        (Step::TimeMillis, Values::I64(values)) => values.push(time(times(from.int()?.into(), 1000)?)?),
        (Step::TimeMicros, Values::I64(values)) => values.push(time(from.long()?)?),
        (Step::TimeNanos, Values::I64(values)) => values.push(time(from.long()?.div_euclid(1000))?),
        (Step::I32AsF32, Values::F32(values)) => values.push(from.int()? as f32),
        (Step::I64AsF32, Values::F32(values)) => values.push(from.long()? as f32),
        (Step::F32, Values::F32(values)) => values.push(from.float()?),
        (Step::F64AsF32, Values::F32(values)) => values.push(narrow(from.double()?)?),
        (Step::I32AsF64, Values::F64(values)) => values.push(from.int()?.into()),
        (Step::I64AsF64, Values::F64(values)) => values.push(from.long()? as f64),
        (Step::F32AsF64, Values::F64(values)) => values.push(from.float()?.into()),
        (Step::F64, Values::F64(values)) => values.push(from.double()?),
        _ => return Ok(false),
    }
    Ok(true)
}

/// Values without parts that are not met in every row.
fn single(step: &Step, values: &mut Values, cursor: &mut Cursor<'_>) -> Result<(), Fault> {
    if append_number(step, values, cursor)? {
        return Ok(());
    }
    match (step, values) {
        (Step::Binary, Values::Binary(offsets, bytes)) => append(offsets, bytes, cursor.bytes()?)?,
        (Step::FixedAsBinary(size), Values::Binary(offsets, bytes)) => append(offsets, bytes, cursor.take(*size)?)?,
        (Step::Fixed(size), Values::Fixed(width, bytes)) if size == width => bytes.extend(cursor.take(*size)?),
        (Step::BinaryAsFixed, Values::Fixed(width, bytes)) => append_fixed(*width, bytes, cursor.bytes()?)?,
        (Step::UuidText, Values::Fixed(16, bytes)) => append_uuid(bytes, cursor.text()?)?,
        (Step::Moment(kind), values) => append_moment(kind, values, cursor.text()?)?,
        (Step::DebeziumMoment(kind), values) => append_debeziums(kind, values, cursor.text()?)?,
        _ => return Err(other_type()),
    }
    Ok(())
}
