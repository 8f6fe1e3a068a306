//! JSON values that a Connect schema describes onto columns: `avro_fill`'s steps, read from text.

use base64::Engine;

use crate::config::OnChange;
use crate::decode::append::BASE64;
use crate::decode::avro_fill::{Numbers, append_number};
use crate::decode::avro_fit::{Decimal, Extra, FieldStep, Step, StructStep};
use crate::decode::columns::{Column, Columns, Values, offset};
use crate::decode::convert::{
    append, append_debeziums, append_decimal, append_fixed, append_moment, append_uuid, narrow, other_type, unscaled,
};
use crate::decode::decimal_text::decimal_text;
use crate::decode::fault::{Fault, excerpt};
use crate::decode::number;
use crate::decode::plan::{Kind, Plan, StructPlan};
use crate::decode::scan::{self, Scanner};
use crate::decode::tally::Tally;

/// Fills columns.
pub(crate) struct JsonFiller {
    pub(crate) tally: Tally,
}

impl JsonFiller {
    pub(crate) fn new(on_change: OnChange) -> Self {
        Self { tally: Tally::new(on_change) }
    }

    /// Appends the fields of the object that comes next. On a fault the columns hold part of it.
    pub(crate) fn record(
        &mut self,
        step: &StructStep,
        plan: &StructPlan,
        columns: &mut Columns,
        length: usize,
        scanner: &mut Scanner<'_>,
    ) -> Result<(), Fault> {
        match scanner.peek()? {
            scan::Kind::Object => {}
            // How entries of a map are written whose keys are no texts.
            scan::Kind::Array if step.fields.len() == 2 => return self.pair(step, plan, columns, length, scanner),
            other => return Err(unexpected(other, "an object")),
        }
        scanner.open()?;
        let (mut first, mut slot) = (true, 0);
        while scanner.more(b'}', first)? {
            first = false;
            let at = self.next_field(step, plan, slot, scanner)?;
            slot = at + 1;
            self.field(step.fields.get(at), plan, columns, length, scanner)?;
        }
        self.tally.rest(plan, columns, length)
    }

    /// Reads a key; answers which of the record's fields it names. They mostly come in the schema's order.
    fn next_field(
        &self,
        step: &StructStep,
        plan: &StructPlan,
        slot: usize,
        scanner: &mut Scanner<'_>,
    ) -> Result<usize, Fault> {
        if let Some(FieldStep::Column(index, _)) = step.fields.get(slot)
            && plan.fields.get(*index).is_some_and(|field| scanner.try_key(&field.token))
        {
            return Ok(slot);
        }
        let key = scanner.key()?.unescape()?;
        let named = |field: &FieldStep| match field {
            FieldStep::Column(index, _) => plan.fields.get(*index).is_some_and(|field| field.name == key),
            FieldStep::Extra(extra) => extra.name == key,
        };
        if step.fields.get(slot).is_some_and(named) {
            return Ok(slot);
        }
        step.find(&key).ok_or_else(|| Fault::value("the row's schema has no such field").in_field(&key))
    }

    fn field(
        &mut self,
        step: Option<&FieldStep>,
        plan: &StructPlan,
        columns: &mut Columns,
        length: usize,
        scanner: &mut Scanner<'_>,
    ) -> Result<(), Fault> {
        match step {
            Some(FieldStep::Column(index, step)) => {
                let (Some(plan), Some(column)) = (plan.fields.get(*index), columns.columns.get_mut(*index)) else {
                    return Err(other_type());
                };
                if column.len() != length {
                    return Err(Fault::value("duplicate key").in_field(&plan.name));
                }
                self.value(step, plan, column, scanner).map_err(|fault| fault.in_field(&plan.name))
            }
            Some(FieldStep::Extra(extra)) => self.extra(extra, scanner).map_err(|fault| fault.in_field(&extra.name)),
            None => Err(Fault::value("more values than the row's schema has fields for")),
        }
    }

    fn pair(
        &mut self,
        step: &StructStep,
        plan: &StructPlan,
        columns: &mut Columns,
        length: usize,
        scanner: &mut Scanner<'_>,
    ) -> Result<(), Fault> {
        scanner.open()?;
        let mut at = 0;
        while scanner.more(b']', at == 0)? {
            self.field(step.fields.get(at), plan, columns, length, scanner)?;
            at += 1;
        }
        self.tally.rest(plan, columns, length)
    }

    /// Steps over a field that is no column.
    fn extra(&mut self, extra: &Extra, scanner: &mut Scanner<'_>) -> Result<(), Fault> {
        if matches!(scanner.skip()?, "null" | "{}" | "[]") { Ok(()) } else { self.tally.extra(extra.obstacle.as_ref()) }
    }

    /// Appends the value that comes next.
    pub(crate) fn value(
        &mut self,
        step: &Step,
        plan: &Plan,
        column: &mut Column,
        scanner: &mut Scanner<'_>,
    ) -> Result<(), Fault> {
        let step = match step {
            Step::Nullable(_, inner) | Step::Only(inner) => inner,
            step => step,
        };
        let kind = scanner.peek()?;
        if kind == scan::Kind::Null {
            scanner.null()?;
            return self.tally.null(plan, column, "null");
        }
        match (step, &mut column.values, &plan.kind) {
            (Step::Struct(step), Values::Struct(columns), Kind::Struct(plan)) => {
                self.record(step, plan, columns, column.nulls.len(), scanner)?;
            }
            (Step::List(step), Values::List(offsets, element), Kind::List(plan)) => {
                if kind != scan::Kind::Array {
                    return Err(unexpected(kind, "an array"));
                }
                scanner.open()?;
                let mut count = 0;
                while scanner.more(b']', count == 0)? {
                    self.tally.budget.fills(plan.fills)?;
                    self.value(step, plan, element, scanner).map_err(|fault| fault.in_element(count))?;
                    count += 1;
                }
                offsets.push(offset(element.len())?);
            }
            (Step::Map(step), Values::Map(offsets, keys, values), Kind::Map(_, plan)) => {
                if kind != scan::Kind::Object {
                    return Err(unexpected(kind, "an object"));
                }
                self.entries(step, plan, (keys, values), scanner)?;
                offsets.push(offset(keys.len())?);
            }
            (Step::Refused(_, reason), ..) => {
                scanner.skip()?;
                return Err(Fault::value(reason.clone()));
            }
            (Step::Boolean, Values::Bits(bits), _) if kind == scan::Kind::Boolean => bits.append(scanner.boolean()?),
            (Step::Boolean, ..) => return Err(unexpected(kind, "a boolean")),
            (Step::Nothing | Step::Union(_), ..) => return Err(other_type()),
            (step, values, _) => match kind {
                scan::Kind::Number => number(step, plan, values, scanner.number()?)?,
                scan::Kind::String => text(step, plan, values, &scanner.string()?.unescape()?)?,
                scan::Kind::Object if matches!(step, Step::ScaledDecimal(None)) => {
                    scaled_decimal(plan, values, scanner)?;
                }
                other => return Err(unexpected(other, "a single value")),
            },
        }
        column.nulls.append_non_null();
        Ok(())
    }

    fn entries(
        &mut self,
        step: &Step,
        plan: &Plan,
        (keys, values): (&mut Column, &mut Column),
        scanner: &mut Scanner<'_>,
    ) -> Result<(), Fault> {
        scanner.open()?;
        let from = keys.len();
        while scanner.more(b'}', keys.len() == from)? {
            self.tally.budget.fills(1 + plan.fills)?;
            let name = scanner.key()?.unescape()?;
            let Values::Text(texts) = &mut keys.values else { return Err(other_type()) };
            texts.push(&name);
            texts.close()?;
            keys.nulls.append_non_null();
            self.value(step, plan, values, scanner).map_err(|fault| fault.in_field(&name))?;
        }
        if keys.len() - from > 1 && keys.repeats(from) {
            return Err(Fault::value("duplicate key"));
        }
        Ok(())
    }
}

#[cold]
fn unexpected(found: scan::Kind, expected: &str) -> Fault {
    Fault::value(format!("{} where the row's schema says {expected}", found.as_str()))
}

#[cold]
fn not_of(shown: &str, plan: &Plan) -> Fault {
    match &plan.kind {
        Kind::Primitive(kind) => Fault::value(format!("{shown} is no {kind}")),
        _ => other_type(),
    }
}

/// A number in JSON, and the column that it goes to.
struct Written<'a>(scan::Number<'a>, &'a Plan);

impl Written<'_> {
    fn finite<T: std::str::FromStr>(&self, is_finite: impl Fn(&T) -> bool) -> Result<T, Fault> {
        self.0.text.parse().ok().filter(is_finite).ok_or_else(|| self.none())
    }

    #[cold]
    fn none(&self) -> Fault {
        not_of(excerpt(self.0.text).trim_matches('"'), self.1)
    }
}

impl Numbers for Written<'_> {
    fn int(&mut self) -> Result<i32, Fault> {
        i32::try_from(self.long()?).map_err(|_| self.none())
    }

    fn long(&mut self) -> Result<i64, Fault> {
        number::integer(self.0).ok_or_else(|| self.none())
    }

    fn float(&mut self) -> Result<f32, Fault> {
        self.finite(|value: &f32| value.is_finite())
    }

    fn double(&mut self) -> Result<f64, Fault> {
        self.finite(|value: &f64| value.is_finite())
    }
}

/// Appends what is a number in JSON.
fn number(step: &Step, plan: &Plan, values: &mut Values, number: scan::Number<'_>) -> Result<(), Fault> {
    // The text has the digits of a double.
    let step = if matches!(step, Step::F32AsF64) { &Step::F64 } else { step };
    match step {
        // Where the converter's `decimal.format` is NUMERIC.
        Step::Decimal(_) | Step::ScaledDecimal(_) => append_decimal(plan, values, number.text),
        step if append_number(step, values, &mut Written(number, plan))? => Ok(()),
        _ => Err(unexpected(scan::Kind::Number, "another value")),
    }
}

/// Appends what is a string in JSON.
fn text(step: &Step, plan: &Plan, values: &mut Values, text: &str) -> Result<(), Fault> {
    match (step, values) {
        (Step::Text, Values::Text(texts)) => {
            texts.push(text);
            texts.close()?;
        }
        (Step::Decimal(decimal), Values::I128(values)) => values.push(whole(&base64(text)?, decimal, plan)?),
        (Step::ScaledDecimal(Some(scale)), values) => {
            append_decimal(plan, values, &decimal_text(&base64(text)?, *scale)?)?
        }
        (Step::Binary, Values::Binary(offsets, bytes)) => append(offsets, bytes, &base64(text)?)?,
        (Step::BinaryAsFixed, Values::Fixed(width, bytes)) => append_fixed(*width, bytes, &base64(text)?)?,
        (Step::UuidText, Values::Fixed(16, bytes)) => append_uuid(bytes, text)?,
        (Step::Moment(kind), values) => append_moment(kind, values, text)?,
        (Step::DebeziumMoment(kind), values) => append_debeziums(kind, values, text)?,
        (Step::F32 | Step::F64AsF32, Values::F32(values)) => {
            values.push(infinite(text).ok_or_else(|| not_of(&excerpt(text), plan)).and_then(narrow)?);
        }
        (Step::F32AsF64 | Step::F64, Values::F64(values)) => {
            values.push(infinite(text).ok_or_else(|| not_of(&excerpt(text), plan))?);
        }
        _ => return Err(unexpected(scan::Kind::String, "another value")),
    }
    Ok(())
}

/// What JSON has no numbers for.
fn infinite(text: &str) -> Option<f64> {
    match text {
        "NaN" => Some(f64::NAN),
        "Infinity" => Some(f64::INFINITY),
        "-Infinity" => Some(f64::NEG_INFINITY),
        _ => None,
    }
}

fn base64(text: &str) -> Result<Vec<u8>, Fault> {
    BASE64.decode(text).map_err(|_| Fault::value(format!("{} is no base64", excerpt(text))))
}

fn whole(bytes: &[u8], decimal: &Decimal, plan: &Plan) -> Result<i128, Fault> {
    if bytes.is_empty() {
        return Err(not_of("nothing", plan));
    }
    unscaled(bytes, &decimal.to).map_err(|fault| {
        let hint = "a column of type string takes it, or the connector's decimal.handling.mode = string";
        Fault::value(format!("{}; {hint}", fault.reason))
    })
}

/// `{"scale": 2, "value": "base64"}`.
fn scaled_decimal(plan: &Plan, values: &mut Values, scanner: &mut Scanner<'_>) -> Result<(), Fault> {
    scanner.open()?;
    let (mut scale, mut bytes, mut first) = (None, None, true);
    while scanner.more(b'}', first)? {
        first = false;
        let key = scanner.key()?.unescape()?;
        match (key.as_ref(), scanner.peek()?) {
            ("scale", scan::Kind::Number) => {
                scale = number::integer(scanner.number()?).and_then(|n| i32::try_from(n).ok())
            }
            ("value", scan::Kind::String) => {
                bytes = Some(base64(&scanner.string()?.unescape()?).map_err(|fault| fault.in_field("value"))?);
            }
            (_, other) => return Err(unexpected(other, "a scale and a value").in_field(&key)),
        }
    }
    let (Some(scale), Some(bytes)) = (scale, bytes) else {
        return Err(Fault::value("a decimal without its scale and value"));
    };
    append_decimal(plan, values, &decimal_text(&bytes, scale)?)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::sync::Arc;

    use iceberg::spec::{NestedField, PrimitiveType, Type};

    use super::*;
    use crate::decode::avro_fit::{Terms, fit};
    use crate::decode::connect_schema;
    use crate::decode::temporal::Epoch;

    /// What `row` fills a column `v` with, by a schema of these fields.
    fn filled(fields: &[(String, &str)], column: PrimitiveType, row: &str) -> Result<i64, String> {
        let field = Arc::new(NestedField::optional(1, "v", Type::Primitive(column)));
        let plan = StructPlan::of_row(&[field], BTreeSet::new()).expect("valid");
        let fields: Vec<_> =
            fields.iter().map(|(name, kind)| serde_json::json!({ "field": name, "type": kind })).collect();
        let record = connect_schema::record(&serde_json::json!({ "type": "struct", "fields": fields }));
        let terms = Terms { epoch: Epoch::Millis, nanos: false, json: true };
        let fitted = fit(&Arc::new(record.expect("valid")), &plan, terms);
        let mut columns = Columns::new(&plan, 1);
        let mut scanner = Scanner::new(row);
        JsonFiller::new(OnChange::Freeze)
            .record(&fitted.root, &plan, &mut columns, 0, &mut scanner)
            .map_err(|fault| format!("{}: {}", fault.path, fault.reason))?;
        match &columns.columns[0].values {
            Values::I64(values) => Ok(values[0]),
            _ => Err("no numbers".to_owned()),
        }
    }

    #[test]
    fn a_plain_number_in_a_time_is_held_against_the_day() {
        let of =
            |number: &str| filled(&[("v".to_owned(), "int64")], PrimitiveType::Time, &format!("{{\"v\":{number}}}"));
        assert_eq!(of("86399999999"), Ok(86_399_999_999));
        for number in ["-5", "86400000000", "1000000000000000"] {
            assert_eq!(of(number), Err(format!("v: {number} µs after midnight is no time of day")));
        }
    }

    #[test]
    fn fields_in_any_order_are_found_by_their_names() {
        let fields: Vec<_> =
            (0..20_000).map(|n| (format!("f{n}"), "int32")).chain([("v".to_owned(), "int64")]).collect();
        let mut row = String::from("{\"v\":7");
        for (name, _) in fields.iter().rev().skip(1) {
            row.push_str(&format!(",\"{name}\":1"));
        }
        let whole = row.clone() + "}";
        assert_eq!(filled(&fields, PrimitiveType::Long, &whole), Ok(7));
        let unknown = row.clone() + ",\"g\":1}";
        assert_eq!(
            filled(&fields, PrimitiveType::Long, &unknown),
            Err("g: the row's schema has no such field".to_owned())
        );
        let twice = row + ",\"v\":8}";
        assert_eq!(filled(&fields, PrimitiveType::Long, &twice), Err("v: duplicate key".to_owned()));
    }
}
