//! Values of one type as another's: what decoders by schemas have in common.

use iceberg::spec::PrimitiveType;

use crate::decode::columns::Values;
use crate::decode::fault::{Fault, excerpt};
use crate::decode::number;
use crate::decode::plan::{Kind, Plan};
use crate::decode::temporal;

/// The end of a day, in microseconds.
pub(crate) const DAY_MICROS: i64 = 86_400_000_000;

/// An unscaled value onto a decimal column.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Rescale {
    /// What it is multiplied with.
    pub(crate) times: i128,
    /// What it is divided by, without a rest.
    pub(crate) by: i128,
    /// Digits that the column holds.
    pub(crate) precision: u32,
}

impl Rescale {
    /// From `scale` digits after the point to a column of `precision` digits, `to` of them after the point; `None` where no
    /// value would get there.
    pub(crate) fn new(scale: u32, precision: u32, to: u32) -> Option<Self> {
        let power = 10_i128.checked_pow(scale.abs_diff(to))?;
        let (times, by) = if scale <= to { (power, 1) } else { (1, power) };
        Some(Self { times, by, precision })
    }

    /// The value as the column counts.
    #[inline]
    pub(crate) fn of(&self, value: i128) -> Result<i128, Fault> {
        let mut value = value;
        if self.times != 1 {
            value = value.checked_mul(self.times).ok_or_else(|| self.too_large())?;
        }
        if self.by != 1 {
            if value % self.by != 0 {
                return Err(Fault::value("the value has more digits after the point than the column"));
            }
            value /= self.by;
        }
        if number::precision(value) > self.precision {
            return Err(self.too_large());
        }
        Ok(value)
    }

    #[cold]
    fn too_large(&self) -> Fault {
        Fault::value(format!("the value has more than the {} digits of the column", self.precision))
    }
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

/// Appends bytes to those of one length, which must be theirs.
pub(crate) fn append_fixed(width: usize, bytes: &mut Vec<u8>, value: &[u8]) -> Result<(), Fault> {
    if value.len() != width {
        return Err(Fault::value(format!("{} bytes where {width} are expected", value.len())));
    }
    bytes.extend(value);
    Ok(())
}

/// Appends the UUID that a text is.
pub(crate) fn append_uuid(bytes: &mut Vec<u8>, text: &str) -> Result<(), Fault> {
    bytes.extend(uuid::Uuid::try_parse(text).map_err(|_| none(text, &PrimitiveType::Uuid))?.as_bytes());
    Ok(())
}

/// Appends a number with a fraction to a decimal that holds all of it, or as a text.
pub(crate) fn append_decimal(plan: &Plan, values: &mut Values, text: &str) -> Result<(), Fault> {
    match (values, &plan.kind) {
        (Values::I128(values), Kind::Primitive(kind @ PrimitiveType::Decimal { precision, scale })) => {
            let scaled = i32::try_from(*scale).ok().and_then(|scale| number::scaled(text, scale));
            match scaled.filter(|(value, exact)| *exact && number::precision(*value) <= *precision) {
                Some((value, _)) => values.push(value),
                None => return Err(Fault::value(format!("{} is no {kind}", excerpt(text).trim_matches('"')))),
            }
        }
        (Values::Text(texts), _) => {
            texts.push(text);
            texts.close()?;
        }
        _ => return Err(other_type()),
    }
    Ok(())
}

/// Appends the date, time of day or timestamp that a text is.
pub(crate) fn append_moment(kind: &PrimitiveType, values: &mut Values, text: &str) -> Result<(), Fault> {
    let none = || none(text, kind);
    match values {
        Values::I32(values) => values.push(temporal::date(text).ok_or_else(none)?),
        Values::I64(values) => values.push(moment(text, kind).ok_or_else(none)?),
        _ => return Err(other_type()),
    }
    Ok(())
}

/// The same of a text of Debezium's: its dates are in UTC and say so, and timestamps may be infinite.
pub(crate) fn append_debeziums(kind: &PrimitiveType, values: &mut Values, text: &str) -> Result<(), Fault> {
    match (values, endless(text, kind)) {
        (Values::I64(values), Some(end)) => values.push(end),
        (Values::I32(values), _) => {
            let day = temporal::date(text.strip_suffix('Z').unwrap_or(text));
            values.push(day.ok_or_else(|| none(text, kind))?);
        }
        (values, _) => return append_moment(kind, values, text),
    }
    Ok(())
}

/// PostgreSQL's infinite timestamps, as the connector writes those without a zone: the far ends of time.
fn endless(text: &str, kind: &PrimitiveType) -> Option<i64> {
    match text {
        _ if !matches!(kind, PrimitiveType::Timestamp | PrimitiveType::Timestamptz) => None,
        "infinity" => Some(9_223_372_036_825_200_000),
        "-infinity" => Some(-9_223_372_036_832_400_000),
        _ => None,
    }
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
    Err(Fault::value(format!("{value:e} is no float")))
}

/// Zero has a byte too.
#[cold]
pub(crate) fn no_bytes() -> Fault {
    Fault::value("a decimal without bytes")
}

/// The unscaled value that big-endian two's complement bytes are, as the column counts.
#[inline]
pub(crate) fn unscaled(bytes: &[u8], to: &Rescale) -> Result<i128, Fault> {
    let first = bytes.first().ok_or_else(no_bytes)?;
    let negative = first & 0x80 != 0;
    let filler = if negative { 0xff } else { 0 };
    let mut whole = [filler; 16];
    let (extra, kept) = bytes.split_at(bytes.len().saturating_sub(16));
    if extra.iter().any(|byte| *byte != filler) {
        return Err(to.too_large());
    }
    if let Some(low) = whole.get_mut(16 - kept.len()..) {
        low.copy_from_slice(kept);
    }
    let value = i128::from_be_bytes(whole);
    if !extra.is_empty() && (value < 0) != negative {
        return Err(to.too_large());
    }
    to.of(value)
}
