//! Names of folders below a table's data path, as Iceberg's Java library makes them, up to 200 bytes. Readers never interpret them; people
//! and other writers expect them.

use std::fmt::Write;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use chrono::{DateTime, Datelike, NaiveDate, NaiveTime, TimeDelta, Timelike};
use iceberg::spec::{
    Literal, NestedFieldRef, PartitionField, PartitionSpec, PrimitiveLiteral, PrimitiveType, Schema, Struct, Transform,
};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};

use crate::error::{Context, Error, ErrorKind, Result};

/// The longest name of a partition's folder.
const FOLDER_MAX: usize = 200;

/// What `java.net.URLEncoder` escapes, but for the space, which becomes `+`.
const FORM: &AsciiSet = &NON_ALPHANUMERIC.remove(b'.').remove(b'-').remove(b'*').remove(b'_').remove(b' ');

/// `name=value` folders of a partition, escaped, joined by slashes (`PartitionSpec.partitionToPath`).
///
/// # Errors
/// `Internal` when `partition` is not one of `spec`.
pub(crate) fn partition_path(spec: &PartitionSpec, schema: &Schema, partition: &Struct) -> Result<String> {
    let values = partition_values(spec, schema, partition)?;
    let part = |(name, value): &(String, Option<String>)| {
        cut(format!("{}={}", escaped(name), escaped(value.as_deref().unwrap_or("null"))))
    };
    Ok(values.iter().map(part).collect::<Vec<_>>().join("/"))
}

/// The names and values of a partition's fields, as people write them; nothing is NULL.
///
/// # Errors
/// `Internal` when the value is none of the spec.
pub(crate) fn partition_values(
    spec: &PartitionSpec,
    schema: &Schema,
    partition: &Struct,
) -> Result<Vec<(String, Option<String>)>> {
    let types = spec
        .partition_type(schema)
        .context(ErrorKind::Internal, || format!("partition type of spec {}", spec.spec_id()))?;
    if types.fields().len() != partition.fields().len() {
        return Err(Error::new(
            ErrorKind::Internal,
            format!("a partition value is not one of spec {}", spec.spec_id()),
        ));
    }
    let fields = spec.fields().iter().zip(types.fields()).zip(partition.fields());
    let value = |((field, result), value): ((&PartitionField, &NestedFieldRef), &Option<Literal>)| {
        let text = match (value, result.field_type.as_primitive_type()) {
            (Some(Literal::Primitive(literal)), Some(ty)) => Some(human(&field.transform, ty, literal)),
            _ => None,
        };
        (field.name.clone(), text)
    };
    Ok(fields.map(value).collect())
}

/// The folders that spread files over an object store: 20 bits of the name's hash (`ObjectStoreLocationProvider`).
pub(crate) fn object_directories(name: &str) -> String {
    let hash = murmur3(name.as_bytes()) | 1 << 31;
    let bits = format!("{hash:032b}");
    format!("{}/{}/{}/{}", &bits[12..16], &bits[16..20], &bits[20..24], &bits[24..])
}

/// What tells tables apart under a data path that is not the table's own: the last two parts of its location.
pub(crate) fn table_context(location: &str) -> String {
    let mut parts = location.trim_end_matches('/').rsplit('/').filter(|part| !part.is_empty());
    let name = parts.next().unwrap_or_default();
    match parts.next() {
        Some(parent) if !parent.ends_with(':') => format!("{parent}/{name}"),
        _ => name.to_owned(),
    }
}

/// A folder's name that disks take, which allow 255 bytes. What is cut off is told by its hash.
fn cut(folder: String) -> String {
    if folder.len() <= FOLDER_MAX {
        return folder;
    }
    let hash = murmur3(folder.as_bytes());
    let mut end = FOLDER_MAX - 9;
    // Not within an escape; there is nothing but ASCII.
    while folder.as_bytes()[end.saturating_sub(2)..end].contains(&b'%') {
        end -= 1;
    }
    format!("{}-{hash:08x}", &folder[..end])
}

fn escaped(text: &str) -> String {
    utf8_percent_encode(text, FORM).to_string().replace(' ', "+")
}

/// A partition value for people (`Transform.toHumanString`).
fn human(transform: &Transform, ty: &PrimitiveType, literal: &PrimitiveLiteral) -> String {
    match (transform, ty, literal) {
        (Transform::Void, ..) => "null".to_owned(),
        (Transform::Year, _, PrimitiveLiteral::Int(years)) => format!("{:04}", 1970 + i64::from(*years)),
        (Transform::Month, _, PrimitiveLiteral::Int(months)) => {
            let months = i64::from(*months);
            format!("{:04}-{:02}", 1970 + months.div_euclid(12), months.rem_euclid(12) + 1)
        }
        (Transform::Hour, _, PrimitiveLiteral::Int(hours)) => {
            let hours = i64::from(*hours);
            format!("{}-{:02}", date(hours.div_euclid(24)), hours.rem_euclid(24))
        }
        (_, PrimitiveType::Date, PrimitiveLiteral::Int(days)) => date(i64::from(*days)),
        (_, PrimitiveType::Time, PrimitiveLiteral::Long(micros)) => {
            time(micros.div_euclid(1_000_000), micros.rem_euclid(1_000_000) * 1000)
        }
        (_, PrimitiveType::Timestamp, PrimitiveLiteral::Long(v)) => timestamp(*v, 1_000_000),
        (_, PrimitiveType::Timestamptz, PrimitiveLiteral::Long(v)) => timestamp(*v, 1_000_000) + "+00:00",
        (_, PrimitiveType::TimestampNs, PrimitiveLiteral::Long(v)) => timestamp(*v, 1_000_000_000),
        (_, PrimitiveType::TimestamptzNs, PrimitiveLiteral::Long(v)) => timestamp(*v, 1_000_000_000) + "+00:00",
        (_, _, PrimitiveLiteral::Binary(bytes)) => BASE64.encode(bytes),
        (_, _, PrimitiveLiteral::String(text)) => text.clone(),
        (_, PrimitiveType::Decimal { scale, .. }, PrimitiveLiteral::Int128(unscaled)) => decimal(*unscaled, *scale),
        (_, PrimitiveType::Uuid, PrimitiveLiteral::UInt128(bits)) => uuid::Uuid::from_u128(*bits).to_string(),
        (_, _, PrimitiveLiteral::Int(v)) => v.to_string(),
        (_, _, PrimitiveLiteral::Long(v)) => v.to_string(),
        (_, _, PrimitiveLiteral::Boolean(v)) => v.to_string(),
        (_, _, PrimitiveLiteral::Float(v)) => format!("{:?}", v.0),
        (_, _, PrimitiveLiteral::Double(v)) => format!("{:?}", v.0),
        (_, _, PrimitiveLiteral::UInt128(v)) => v.to_string(),
        (_, _, PrimitiveLiteral::Int128(v)) => v.to_string(),
        (_, _, PrimitiveLiteral::AboveMax | PrimitiveLiteral::BelowMin) => "null".to_owned(),
    }
}

/// A day as `yyyy-mm-dd`; outside the calendar's range its number.
fn date(days: i64) -> String {
    let epoch = NaiveDate::default();
    match TimeDelta::try_days(days).and_then(|delta| epoch.checked_add_signed(delta)) {
        Some(day) => format!("{:04}-{:02}-{:02}", day.year(), day.month(), day.day()),
        None => days.to_string(),
    }
}

fn timestamp(value: i64, per_second: i64) -> String {
    let (seconds, fraction) = (value.div_euclid(per_second), value.rem_euclid(per_second));
    let nanos = fraction * (1_000_000_000 / per_second);
    match DateTime::from_timestamp(seconds, 0) {
        Some(at) => {
            format!("{}T{}", date(seconds.div_euclid(86_400)), time(i64::from(at.num_seconds_from_midnight()), nanos))
        }
        None => value.to_string(),
    }
}

/// `hh:mm:ss` with as many digits of the fraction as it has.
fn time(seconds: i64, nanos: i64) -> String {
    let of_day = u32::try_from(seconds).ok().and_then(|s| NaiveTime::from_num_seconds_from_midnight_opt(s, 0));
    let mut text = match of_day {
        Some(t) => format!("{:02}:{:02}:{:02}", t.hour(), t.minute(), t.second()),
        None => seconds.to_string(),
    };
    if nanos != 0 {
        let digits = format!("{nanos:09}");
        let _ = write!(text, ".{}", digits.trim_end_matches('0'));
    }
    text
}

fn decimal(unscaled: i128, scale: u32) -> String {
    let scale = scale as usize;
    let digits = format!("{:0>width$}", unscaled.unsigned_abs(), width = scale + 1);
    let sign = if unscaled < 0 { "-" } else { "" };
    match digits.split_at(digits.len() - scale) {
        (whole, "") => format!("{sign}{whole}"),
        (whole, fraction) => format!("{sign}{whole}.{fraction}"),
    }
}

/// MurmurHash3, 32 bits, seed 0: the hash of Iceberg's spec, appendix B.
pub(crate) fn murmur3(bytes: &[u8]) -> u32 {
    let mix = |k: u32| k.wrapping_mul(0xcc9e_2d51).rotate_left(15).wrapping_mul(0x1b87_3593);
    let mut hash = 0_u32;
    let blocks = bytes.chunks_exact(4);
    let tail = blocks.remainder().iter().rev().fold(0_u32, |k, byte| k << 8 | u32::from(*byte));
    for block in blocks {
        let k = block.iter().rev().fold(0_u32, |k, byte| k << 8 | u32::from(*byte));
        hash = (hash ^ mix(k)).rotate_left(13).wrapping_mul(5).wrapping_add(0xe654_6b64);
    }
    // The length wraps by the algorithm's definition.
    hash ^= mix(tail) ^ (bytes.len() as u32);
    hash = (hash ^ hash >> 16).wrapping_mul(0x85eb_ca6b);
    hash = (hash ^ hash >> 13).wrapping_mul(0xc2b2_ae35);
    hash ^ hash >> 16
}

#[cfg(test)]
mod tests;
