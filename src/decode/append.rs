//! One row's values onto columns: the hot path.

use std::borrow::Cow;
use std::collections::BTreeSet;

use base64::Engine;
use base64::alphabet;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use iceberg::spec::PrimitiveType;

use crate::config::OnChange;
use crate::decode::budget::Budget;
use crate::decode::columns::{Column, Columns, Texts, Values, offset};
use crate::decode::convert::{DAY_MICROS, Rescale, unscaled};
use crate::decode::fault::{Fault, excerpt};
use crate::decode::number;
use crate::decode::observe::{Observed, Shape};
use crate::decode::plan::{Kind, Plan, Reading, StructPlan};
use crate::decode::scan::{self, Scanner};
use crate::decode::temporal::{self, Epoch};

/// Base64 with the standard alphabet, padded or not.
pub(crate) const BASE64: GeneralPurpose = GeneralPurpose::new(
    &alphabet::STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// Appends rows; remembers what became of them beside the columns.
pub(crate) struct Appender {
    /// What unknown fields do.
    pub(crate) on_change: OnChange,
    /// What integers in timestamp columns count.
    pub(crate) epoch: Epoch,
    /// The row's unknown fields, by the struct they are in. Empty objects and arrays are among them: they ask for no
    /// column, and have a say in its type.
    pub(crate) unknown: Vec<(Option<i32>, String, Shape)>,
    /// Unknown fields that were left out of the row.
    pub(crate) ignored: u64,
    /// What the row may fill.
    pub(crate) budget: Budget,
    /// Where to note what the schema lacks. Then values that would fit an evolved schema are no faults.
    pub(crate) observed: Option<Observed>,
}

/// A value without parts.
pub(crate) enum Scalar<'a> {
    /// A number's text.
    Number(scan::Number<'a>),
    /// A string.
    Text(Cow<'a, str>),
    /// A boolean.
    Boolean(bool),
}

impl Scalar<'_> {
    fn shown(&self) -> String {
        match self {
            Self::Number(number) => excerpt(number.text).trim_matches('"').to_owned(),
            Self::Text(text) => excerpt(text),
            Self::Boolean(value) => value.to_string(),
        }
    }

    /// A number, also one that is written as a string, as many systems do to save its digits from JavaScript.
    fn number(&self) -> Option<scan::Number<'_>> {
        match self {
            Self::Number(number) => Some(*number),
            Self::Text(text) => scan::number_text(text),
            Self::Boolean(_) => None,
        }
    }

    fn text(&self) -> Option<&str> {
        match self {
            Self::Text(text) => Some(text),
            Self::Number(_) | Self::Boolean(_) => None,
        }
    }
}

impl Appender {
    pub(crate) fn new(on_change: OnChange, epoch: Epoch) -> Self {
        Self { on_change, epoch, unknown: Vec::new(), ignored: 0, budget: Budget::new(), observed: None }
    }

    /// Appends the object that is all of the text. On a fault the columns hold part of it.
    pub(crate) fn row(&mut self, plan: &StructPlan, columns: &mut Columns, text: &str) -> Result<(), Fault> {
        self.unknown.clear();
        self.budget.begin(text.len());
        let mut scanner = Scanner::new(text);
        match scanner.peek() {
            Ok(scan::Kind::Object) => {}
            Err(_) if text.trim_ascii().is_empty() => return Err(Fault::row("the row is empty")),
            Err(fault) => return Err(fault),
            Ok(other) => return Err(Fault::row(format!("the row is {}, not an object", other.as_str()))),
        }
        let length = columns.columns.first().map_or(0, Column::len);
        self.object(plan, columns, length, &mut scanner)?;
        scanner.end()
    }

    /// Appends an object's fields to columns that hold `length` values each.
    pub(crate) fn object<'a>(
        &mut self,
        plan: &StructPlan,
        columns: &mut Columns,
        length: usize,
        scanner: &mut Scanner<'a>,
    ) -> Result<(), Fault> {
        scanner.open()?;
        let mut unknown: BTreeSet<Cow<'a, str>> = BTreeSet::new();
        let (mut first, mut slot, mut found) = (true, 0, 0);
        while scanner.more(b'}', first)? {
            first = false;
            // Keys mostly come in one order: the field that followed this one in the last row is tried first.
            let expected = columns.next.get(slot).copied().unwrap_or(0);
            let index = match plan.fields.get(expected) {
                Some(field) if scanner.try_key(&field.token) => expected,
                _ => {
                    let key = scanner.key()?;
                    let name = key.unescape()?;
                    let Some(index) = plan.find(&name) else {
                        self.unknown_field(plan, &name, scanner).map_err(|fault| fault.in_field(&name))?;
                        if !unknown.insert(name) {
                            return Err(Fault::value("duplicate key").in_field(&key.unescape()?));
                        }
                        continue;
                    };
                    if let Some(next) = columns.next.get_mut(slot) {
                        *next = index;
                    }
                    index
                }
            };
            let (Some(field), Some(column)) = (plan.fields.get(index), columns.columns.get_mut(index)) else { break };
            if column.len() != length {
                return Err(Fault::value("duplicate key").in_field(&field.name));
            }
            self.value(field, column, scanner).map_err(|fault| fault.in_field(&field.name))?;
            slot = index + 1;
            found += 1;
        }
        if found < plan.fields.len() { self.rest(plan, columns, length) } else { Ok(()) }
    }

    /// Fills the columns that have no value yet for the row behind `length` others.
    pub(crate) fn rest(&mut self, plan: &StructPlan, columns: &mut Columns, length: usize) -> Result<(), Fault> {
        for (field, column) in plan.fields.iter().zip(&mut columns.columns) {
            if column.len() != length {
                continue;
            }
            match &field.default {
                Some(default) => column.constant(default)?,
                None => self.null(field, column, "missing").map_err(|fault| fault.in_field(&field.name))?,
            }
        }
        Ok(())
    }

    /// Deals with a field that is no column. One that holds nothing (null, or empty all the way down) is none.
    #[cold]
    fn unknown_field(&mut self, plan: &StructPlan, name: &str, scanner: &mut Scanner<'_>) -> Result<(), Fault> {
        if self.on_change == OnChange::Freeze {
            self.ignored += u64::from(!matches!(scanner.skip()?, "null" | "{}" | "[]"));
            return Ok(());
        }
        let shape = Shape::read(scanner)?;
        if shape.is_known() {
            if self.on_change == OnChange::Quarantine {
                return Err(Fault::value("the table has no such column"));
            }
            if let Some(obstacle) = plan.obstacle(name) {
                return Err(Fault::value(obstacle));
            }
            self.ignored += 1;
        }
        if self.on_change == OnChange::Evolve && shape != Shape::Unknown {
            self.unknown.push((plan.id, name.to_owned(), shape));
        }
        Ok(())
    }

    /// Appends NULL; `what` says how it came: `missing` or `null`.
    pub(crate) fn null(&mut self, plan: &Plan, column: &mut Column, what: &str) -> Result<(), Fault> {
        if plan.required {
            match &mut self.observed {
                Some(observed) => drop(observed.relaxed.insert(plan.id)),
                None => return Err(Fault::value(format!("{what}, and the column is required")).evolvable()),
            }
        }
        column.placeholder(plan);
        Ok(())
    }

    /// Appends the value that comes next.
    pub(crate) fn value(&mut self, plan: &Plan, column: &mut Column, scanner: &mut Scanner<'_>) -> Result<(), Fault> {
        let kind = scanner.peek()?;
        if kind == scan::Kind::Null {
            scanner.null()?;
            return self.null(plan, column, "null");
        }
        match (&plan.kind, &mut column.values) {
            (Kind::Primitive(PrimitiveType::String), Values::Text(texts)) => string(texts, kind, scanner)?,
            (Kind::Primitive(primitive), _) => {
                let scalar = match kind {
                    scan::Kind::Number => Scalar::Number(scanner.number()?),
                    scan::Kind::String => Scalar::Text(scanner.string()?.unescape()?),
                    scan::Kind::Boolean => Scalar::Boolean(scanner.boolean()?),
                    _ => return Err(Fault::value(format!("{} where {primitive} is expected", kind.as_str()))),
                };
                return self.scalar(plan, primitive, column, &scalar);
            }
            (Kind::Struct(inner), Values::Struct(columns)) => {
                expect(kind, scan::Kind::Object)?;
                self.object(inner, columns, column.nulls.len(), scanner)?;
            }
            (Kind::List(inner), Values::List(offsets, element)) => {
                expect(kind, scan::Kind::Array)?;
                scanner.open()?;
                let mut count = 0;
                while scanner.more(b']', count == 0)? {
                    self.budget.fills(inner.fills)?;
                    self.value(inner, element, scanner).map_err(|fault| fault.in_element(count))?;
                    count += 1;
                }
                offsets.push(offset(element.len())?);
            }
            (Kind::Map(key, value), Values::Map(offsets, keys, values)) => {
                expect(kind, scan::Kind::Object)?;
                self.entries((key, value), (keys, values), scanner)?;
                offsets.push(offset(keys.len())?);
            }
            _ => return Err(Fault::value("the column was built for another type")),
        }
        column.nulls.append_non_null();
        Ok(())
    }

    fn entries(
        &mut self,
        (key_plan, value_plan): (&Plan, &Plan),
        (keys, values): (&mut Column, &mut Column),
        scanner: &mut Scanner<'_>,
    ) -> Result<(), Fault> {
        let Kind::Primitive(key_type) = &key_plan.kind else {
            return Err(Fault::value("the map's keys are no primitives"));
        };
        scanner.open()?;
        let from = keys.len();
        while scanner.more(b'}', keys.len() == from)? {
            self.budget.fills(key_plan.fills + value_plan.fills)?;
            let name = scanner.key()?.unescape()?;
            let scalar = match name.as_ref() {
                "true" if *key_type == PrimitiveType::Boolean => Scalar::Boolean(true),
                "false" if *key_type == PrimitiveType::Boolean => Scalar::Boolean(false),
                text => Scalar::Text(Cow::Borrowed(text)),
            };
            self.scalar(key_plan, key_type, keys, &scalar).map_err(|fault| fault.in_field(&name))?;
            self.value(value_plan, values, scanner).map_err(|fault| fault.in_field(&name))?;
        }
        if keys.len() - from > 1 && keys.repeats(from) {
            return Err(Fault::value("duplicate key"));
        }
        Ok(())
    }

    /// Appends a value without parts.
    pub(crate) fn scalar(
        &mut self,
        plan: &Plan,
        primitive: &PrimitiveType,
        column: &mut Column,
        scalar: &Scalar<'_>,
    ) -> Result<(), Fault> {
        let none = || Fault::value(format!("{} is no {primitive}", scalar.shown()));
        if plan.reading != Reading::Plain && !plan.reading.fits(primitive) {
            return Err(Fault::value(format!("{} where {primitive} is expected", plan.reading.noun())));
        }
        match (&mut column.values, primitive) {
            (Values::Bits(bits), _) => match scalar {
                Scalar::Boolean(value) => bits.append(*value),
                _ => return Err(none()),
            },
            (Values::I32(values), PrimitiveType::Int) => match integer(scalar) {
                Some(value) => match i32::try_from(value) {
                    Ok(value) => values.push(value),
                    Err(_) => return self.wider(plan, column, PrimitiveType::Long, none()),
                },
                None => return Err(none()),
            },
            (Values::I32(values), _) => {
                let days =
                    scalar.text().map_or_else(|| integer(scalar).and_then(|n| i32::try_from(n).ok()), temporal::date);
                values.push(days.ok_or_else(none)?);
            }
            (Values::I64(values), PrimitiveType::Long) => values.push(integer(scalar).ok_or_else(none)?),
            (Values::I64(values), PrimitiveType::Time) => {
                values.push(time(scalar, plan.reading).ok_or_else(none)?);
            }
            (Values::I64(values), _) => {
                let nanos = matches!(primitive, PrimitiveType::TimestampNs | PrimitiveType::TimestamptzNs);
                let epoch = if plan.reading == Reading::Millis { Epoch::Millis } else { self.epoch };
                values.push(timestamp(scalar, nanos, epoch).ok_or_else(none)?);
            }
            (Values::F32(values), _) => match float(scalar).ok_or_else(none)? {
                value if narrow(value).is_finite() || !value.is_finite() => values.push(narrow(value)),
                _ => return self.wider(plan, column, PrimitiveType::Double, none()),
            },
            (Values::F64(values), _) => values.push(float(scalar).ok_or_else(none)?),
            (Values::I128(values), PrimitiveType::Decimal { precision, scale }) => {
                let found = match plan.reading {
                    Reading::Unscaled(from) => unscaled_text(scalar, from, *scale),
                    _ => decimal(scalar, *scale),
                };
                match found.ok_or_else(none)? {
                    (value, digits) if digits <= *precision => values.push(value),
                    (_, digits) => {
                        let wider = PrimitiveType::Decimal { precision: digits, scale: *scale };
                        return self.wider(plan, column, wider, none());
                    }
                }
            }
            (Values::Text(texts), _) => {
                texts.push(scalar.text().ok_or_else(none)?);
                texts.close()?;
            }
            (values, _) => bytes(values, primitive, scalar).ok_or_else(none)?,
        }
        column.nulls.append_non_null();
        Ok(())
    }

    /// Deals with a value that only the `wider` type can hold.
    #[cold]
    fn wider(&mut self, plan: &Plan, column: &mut Column, wider: PrimitiveType, fault: Fault) -> Result<(), Fault> {
        let Some(observed) = &mut self.observed else { return Err(fault.evolvable()) };
        observed.widen(plan.id, wider);
        column.placeholder(plan);
        Ok(())
    }
}

fn expect(found: scan::Kind, expected: scan::Kind) -> Result<(), Fault> {
    if found == expected {
        return Ok(());
    }
    Err(Fault::value(format!("{} where {} is expected", found.as_str(), expected.as_str())))
}

/// Appends a string, or the JSON text of any other value.
fn string(texts: &mut Texts, kind: scan::Kind, scanner: &mut Scanner<'_>) -> Result<(), Fault> {
    if kind == scan::Kind::String {
        let text = scanner.string()?;
        if text.escaped {
            texts.push_unescaped(text.raw)?;
        } else {
            texts.push(text.raw);
        }
    } else {
        texts.push(scanner.skip()?);
    }
    texts.close()
}

fn integer(scalar: &Scalar<'_>) -> Option<i64> {
    number::integer(scalar.number()?)
}

/// A double; as strings also `NaN`, `Infinity` and `-Infinity`, which JSON has no numbers for.
fn float(scalar: &Scalar<'_>) -> Option<f64> {
    if let Some(number) = scalar.number() {
        return number.text.parse::<f64>().ok().filter(|value| value.is_finite());
    }
    match scalar.text()? {
        "NaN" => Some(f64::NAN),
        "Infinity" => Some(f64::INFINITY),
        "-Infinity" => Some(f64::NEG_INFINITY),
        _ => None,
    }
}

#[allow(clippy::cast_possible_truncation)] // to the nearest: what a float column means
fn narrow(value: f64) -> f32 {
    value as f32
}

/// The unscaled value and its digits, where the column's scale holds it exactly.
fn decimal(scalar: &Scalar<'_>, scale: u32) -> Option<(i128, u32)> {
    let number = scalar.number()?;
    match number::scaled(number.text, i32::try_from(scale).ok()?)? {
        (value, true) => Some((value, number::precision(value))),
        (_, false) => None,
    }
}

/// The same from the bytes of an unscaled value with `from` digits after the point.
fn unscaled_text(scalar: &Scalar<'_>, from: u32, scale: u32) -> Option<(i128, u32)> {
    // Zero has a byte too.
    let bytes = BASE64.decode(scalar.text()?).ok().filter(|bytes| !bytes.is_empty())?;
    let value = unscaled(&bytes, &Rescale::new(from, 38, scale)?).ok()?;
    Some((value, number::precision(value)))
}

/// A time of day from its text, or where it is a number from that.
fn time(scalar: &Scalar<'_>, reading: Reading) -> Option<i64> {
    if reading == Reading::TimeMillis && scalar.text().is_none() {
        return integer(scalar)?.checked_mul(1000).filter(|micros| (0..DAY_MICROS).contains(micros));
    }
    scalar.text().and_then(temporal::time)
}

fn timestamp(scalar: &Scalar<'_>, nanos: bool, epoch: Epoch) -> Option<i64> {
    match scalar {
        Scalar::Text(text) => {
            let stamp = temporal::timestamp(text)?;
            if nanos { stamp.nanos() } else { stamp.micros() }
        }
        Scalar::Number(number) => {
            let digits = if nanos { 9 } else { 6 } - epoch.digits();
            number::scaled(number.text, digits).and_then(|(value, _)| i64::try_from(value).ok())
        }
        Scalar::Boolean(_) => None,
    }
}

/// Appends a UUID or bytes in base64.
fn bytes(values: &mut Values, primitive: &PrimitiveType, scalar: &Scalar<'_>) -> Option<()> {
    let text = scalar.text()?;
    match values {
        Values::Fixed(_, bytes) if *primitive == PrimitiveType::Uuid => {
            bytes.extend_from_slice(uuid::Uuid::try_parse(text).ok()?.as_bytes());
        }
        Values::Fixed(width, bytes) => {
            let decoded = BASE64.decode(text).ok().filter(|decoded| decoded.len() == *width)?;
            bytes.extend_from_slice(&decoded);
        }
        Values::Binary(offsets, bytes) => {
            BASE64.decode_vec(text, bytes).ok()?;
            offsets.push(i64::try_from(bytes.len()).ok()?);
        }
        _ => return None,
    }
    Some(())
}
