//! One row's values onto columns: the hot path.

use iceberg::spec::PrimitiveType;

use crate::config::OnChange;
use crate::decode::avro_cursor::Cursor;
use crate::decode::avro_fit::{BranchStep, Decimal, Extra, FieldStep, Step, StructStep};
use crate::decode::columns::{Column, Columns, Values, offset};
use crate::decode::fault::{Fault, excerpt};
use crate::decode::number;
use crate::decode::plan::{Kind, Plan, StructPlan};
use crate::decode::temporal;

/// The end of a day, in microseconds.
const DAY_MICROS: i64 = 86_400_000_000;

/// Fills columns; remembers what became of rows beside them.
pub(crate) struct Filler {
    /// What fields without a column do.
    pub(crate) on_change: OnChange,
    /// Required columns that were given NULL in the row. It does not stay.
    pub(crate) nulls: Vec<i32>,
    /// Fields with a value that were left out.
    pub(crate) ignored: u64,
}

impl Filler {
    pub(crate) fn new(on_change: OnChange) -> Self {
        Self { on_change, nulls: Vec::new(), ignored: 0 }
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
            match &plan.default {
                Some(default) => column.constant(default)?,
                None => self.null(plan, column, "missing").map_err(|fault| fault.in_field(&plan.name))?,
            }
        }
        Ok(())
    }

    /// Steps over a field that is no column.
    fn extra(&mut self, extra: &Extra, cursor: &mut Cursor<'_>) -> Result<(), Fault> {
        if !cursor.skip(&extra.kind)? {
            return Ok(());
        }
        match self.on_change {
            OnChange::Freeze => self.ignored += 1,
            OnChange::Quarantine => return Err(Fault::value("the table has no such column")),
            OnChange::Evolve => match &extra.obstacle {
                Some(obstacle) => return Err(Fault::value(obstacle.clone())),
                None => self.ignored += 1,
            },
        }
        Ok(())
    }

    /// Appends NULL; `what` says how it came: `missing` or `null`.
    #[inline]
    fn null(&mut self, plan: &Plan, column: &mut Column, what: &str) -> Result<(), Fault> {
        if plan.required {
            if self.on_change != OnChange::Evolve {
                return Err(Fault::value(format!("{what}, and the column is required")));
            }
            self.nulls.push(plan.id);
        }
        column.placeholder(plan);
        Ok(())
    }

    /// Appends the value that comes next.
    #[inline]
    fn value(&mut self, step: &Step, plan: &Plan, column: &mut Column, cursor: &mut Cursor<'_>) -> Result<(), Fault> {
        match (step, &mut column.values) {
            (Step::Nullable(null, inner), _) => {
                if cursor.index(2)? == *null {
                    return self.null(plan, column, "null");
                }
                return self.value(inner, plan, column, cursor);
            }
            (Step::I32, Values::I32(values)) => values.push(cursor.int()?),
            (Step::I32AsI64, Values::I64(values)) => values.push(cursor.int()?.into()),
            (Step::I64, Values::I64(values)) => values.push(cursor.long()?),
            (Step::F64, Values::F64(values)) => values.push(f64::from_le_bytes(cursor.array()?)),
            (Step::F32, Values::F32(values)) => values.push(f32::from_le_bytes(cursor.array()?)),
            (Step::Boolean, Values::Bits(bits)) => bits.append(cursor.boolean()?),
            (Step::Text, Values::Text(texts)) => {
                texts.text.push_str(cursor.text()?);
                texts.close()?;
            }
            (Step::Enum(symbols), Values::Text(texts)) => {
                let index = cursor.index(symbols.len())?;
                texts.text.push_str(symbols.get(index).map_or("", String::as_str));
                texts.close()?;
            }
            (Step::Decimal(decimal), Values::I128(values)) => {
                let bytes = match decimal.width {
                    Some(width) => cursor.take(width)?,
                    None => cursor.bytes()?,
                };
                values.push(unscaled(bytes, decimal)?);
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
            (Step::Nothing, ..) => return self.null(plan, column, "null"),
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
                let key = cursor.text()?;
                let Values::Text(texts) = &mut keys.values else { return Err(other_type()) };
                texts.text.push_str(key);
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
            None | Some(BranchStep::Null) => return self.null(plan, column, "null"),
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
                _ => self.null(plan, column, "missing"),
            }
            .map_err(|fault| fault.in_field(&plan.name))?;
        }
        column.nulls.append_non_null();
        Ok(())
    }
}

/// Values without parts that are not met in every row.
#[allow(clippy::cast_precision_loss)] // to the nearest: what a float column means
fn single(step: &Step, values: &mut Values, cursor: &mut Cursor<'_>) -> Result<(), Fault> {
    match (step, values) {
        (Step::I32AsF32, Values::F32(values)) => values.push(cursor.int()? as f32),
        (Step::I32AsF64, Values::F64(values)) => values.push(cursor.int()?.into()),
        (Step::I32Times(power), Values::I64(values)) => values.push(times(cursor.int()?.into(), *power)?),
        (Step::I64AsI32, Values::I32(values)) => {
            let value = cursor.long()?;
            values.push(i32::try_from(value).map_err(|_| Fault::value(format!("{value} is no int")))?);
        }
        (Step::I64AsF32, Values::F32(values)) => values.push(cursor.long()? as f32),
        (Step::I64AsF64, Values::F64(values)) => values.push(cursor.long()? as f64),
        (Step::TimeMillis, Values::I64(values)) => values.push(time(times(cursor.int()?.into(), 1000)?)?),
        (Step::TimeMicros, Values::I64(values)) => values.push(time(cursor.long()?)?),
        (Step::F32AsF64, Values::F64(values)) => values.push(f32::from_le_bytes(cursor.array()?).into()),
        (Step::F64AsF32, Values::F32(values)) => values.push(narrow(f64::from_le_bytes(cursor.array()?))?),
        (Step::Binary, Values::Binary(offsets, bytes)) => append(offsets, bytes, cursor.bytes()?)?,
        (Step::FixedAsBinary(size), Values::Binary(offsets, bytes)) => append(offsets, bytes, cursor.take(*size)?)?,
        (Step::Fixed(size), Values::Fixed(width, bytes)) if size == width => bytes.extend(cursor.take(*size)?),
        (Step::BinaryAsFixed, Values::Fixed(width, bytes)) => {
            let value = cursor.bytes()?;
            if value.len() != *width {
                return Err(Fault::value(format!("{} bytes where {width} are expected", value.len())));
            }
            bytes.extend(value);
        }
        (Step::UuidText, Values::Fixed(16, bytes)) => {
            let text = cursor.text()?;
            let uuid = uuid::Uuid::try_parse(text);
            bytes.extend(uuid.map_err(|_| Fault::value(format!("{} is no uuid", excerpt(text))))?.as_bytes());
        }
        (Step::Moment(PrimitiveType::Date), Values::I32(values)) => {
            let text = cursor.text()?;
            values.push(temporal::date(text).ok_or_else(|| none(text, &PrimitiveType::Date))?);
        }
        (Step::Moment(kind), Values::I64(values)) => {
            let text = cursor.text()?;
            values.push(moment(text, kind).ok_or_else(|| none(text, kind))?);
        }
        _ => return Err(other_type()),
    }
    Ok(())
}

#[cold]
pub(crate) fn other_type() -> Fault {
    Fault::value("the column was built for another type")
}

#[cold]
pub(crate) fn none(text: &str, kind: &PrimitiveType) -> Fault {
    Fault::value(format!("{} is no {kind}", excerpt(text)))
}

pub(crate) fn append(offsets: &mut Vec<i64>, bytes: &mut Vec<u8>, value: &[u8]) -> Result<(), Fault> {
    bytes.extend(value);
    offsets.push(i64::try_from(bytes.len()).map_err(|_| other_type())?);
    Ok(())
}

pub(crate) fn moment(text: &str, kind: &PrimitiveType) -> Option<i64> {
    match kind {
        PrimitiveType::Time => temporal::time(text),
        PrimitiveType::TimestampNs | PrimitiveType::TimestamptzNs => temporal::timestamp(text)?.nanos(),
        _ => temporal::timestamp(text)?.micros(),
    }
}

#[inline]
pub(crate) fn times(value: i64, power: i64) -> Result<i64, Fault> {
    value.checked_mul(power).ok_or_else(|| Fault::value(format!("{value} is out of the column's range")))
}

pub(crate) fn time(micros: i64) -> Result<i64, Fault> {
    if (0..DAY_MICROS).contains(&micros) {
        return Ok(micros);
    }
    Err(Fault::value(format!("{micros} µs after midnight is no time of day")))
}

#[allow(clippy::cast_possible_truncation)] // to the nearest: what a float column means
pub(crate) fn narrow(value: f64) -> Result<f32, Fault> {
    let narrowed = value as f32;
    if narrowed.is_finite() || !value.is_finite() {
        return Ok(narrowed);
    }
    Err(Fault::value(format!("{value} is no float")))
}

/// The unscaled value that big-endian two's complement bytes are, as the column counts.
#[inline]
pub(crate) fn unscaled(bytes: &[u8], decimal: &Decimal) -> Result<i128, Fault> {
    let too_large = || Fault::value(format!("the value has more than the {} digits of the column", decimal.precision));
    let negative = bytes.first().is_some_and(|byte| byte & 0x80 != 0);
    let filler = if negative { 0xff } else { 0 };
    let mut whole = [filler; 16];
    let (extra, kept) = bytes.split_at(bytes.len().saturating_sub(16));
    if extra.iter().any(|byte| *byte != filler) {
        return Err(too_large());
    }
    if let Some(low) = whole.get_mut(16 - kept.len()..) {
        low.copy_from_slice(kept);
    }
    let mut value = i128::from_be_bytes(whole);
    if !extra.is_empty() && (value < 0) != negative {
        return Err(too_large());
    }
    if decimal.times != 1 {
        value = value.checked_mul(decimal.times).ok_or_else(too_large)?;
    }
    if decimal.by != 1 {
        if value % decimal.by != 0 {
            return Err(Fault::value("the value has more digits after the point than the column"));
        }
        value /= decimal.by;
    }
    if number::precision(value) > decimal.precision {
        return Err(too_large());
    }
    Ok(value)
}
