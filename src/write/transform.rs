//! Iceberg's partition transforms over columns.
//!
//! Total: a value that has no result becomes null, which [`failures`] tells from a null that was one before. Buckets are
//! the `iceberg` crate's; the others are ours, because the crate's overflow, take dates out of chrono's range for nulls,
//! lack hours of nanoseconds and truncation of binary, and put nanoseconds before 1970 in wrong buckets.

use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, AsArray, Int32Array, LargeBinaryArray, PrimitiveArray, StringArray, new_null_array,
};
use arrow::datatypes::{
    ArrowPrimitiveType, DataType, Date32Type, Decimal128Type, Int32Type, Int64Type, TimeUnit, TimestampMicrosecondType,
    TimestampNanosecondType,
};
use iceberg::spec::Transform;
use iceberg::transform::create_transform_function;

use crate::error::{Context, Error, ErrorKind, Result};

/// `array` after `transform`; the type is the one that the spec gives.
///
/// # Errors
/// `Unsupported` when the transform does not take this type.
pub(crate) fn apply(transform: &Transform, array: &ArrayRef) -> Result<ArrayRef> {
    match transform {
        Transform::Identity => Ok(Arc::clone(array)),
        Transform::Void => Ok(new_null_array(array.data_type(), array.len())),
        Transform::Year => Ok(Arc::new(map_days(array, transform, |days| narrow(civil(days).0 - 1970))?)),
        Transform::Month => Ok(Arc::new(map_days(array, transform, |days| {
            let (year, month) = civil(days);
            narrow((year - 1970) * 12 + month - 1)
        })?)),
        Transform::Day => {
            let days = map_days(array, transform, narrow)?;
            Ok(Arc::new(days.reinterpret_cast::<Date32Type>()))
        }
        Transform::Hour => hours(array),
        Transform::Bucket(buckets) => bucket(*buckets, array),
        Transform::Truncate(width) => truncate(*width, array),
        Transform::Unknown => Err(refused(transform, array)),
    }
}

/// The rows that had a value and have none after the transform.
pub(crate) fn failures(transform: &Transform, before: &ArrayRef, after: &ArrayRef) -> Vec<usize> {
    if *transform == Transform::Void || after.null_count() == before.null_count() {
        return Vec::new();
    }
    (0..before.len()).filter(|row| before.is_valid(*row) && after.is_null(*row)).collect()
}

fn refused(transform: &Transform, array: &ArrayRef) -> Error {
    Error::new(ErrorKind::Unsupported, format!("transform {transform} does not take {}", array.data_type()))
}

fn narrow(value: i64) -> Option<i32> {
    i32::try_from(value).ok()
}

/// Days since 1970, then `map`.
fn map_days(array: &ArrayRef, transform: &Transform, map: impl Fn(i64) -> Option<i32>) -> Result<Int32Array> {
    const MICROS: i64 = 86_400_000_000;
    const NANOS: i64 = 86_400_000_000_000;
    Ok(match array.data_type() {
        DataType::Date32 => array.as_primitive::<Date32Type>().unary_opt(|v| map(i64::from(v))),
        DataType::Timestamp(TimeUnit::Microsecond, _) => {
            array.as_primitive::<TimestampMicrosecondType>().unary_opt(|v| map(v.div_euclid(MICROS)))
        }
        DataType::Timestamp(TimeUnit::Nanosecond, _) => {
            array.as_primitive::<TimestampNanosecondType>().unary_opt(|v| map(v.div_euclid(NANOS)))
        }
        _ => return Err(refused(transform, array)),
    })
}

fn hours(array: &ArrayRef) -> Result<ArrayRef> {
    let hours: Int32Array = match array.data_type() {
        DataType::Timestamp(TimeUnit::Microsecond, _) => {
            array.as_primitive::<TimestampMicrosecondType>().unary_opt(|v| narrow(v.div_euclid(3_600_000_000)))
        }
        DataType::Timestamp(TimeUnit::Nanosecond, _) => {
            array.as_primitive::<TimestampNanosecondType>().unary_opt(|v| narrow(v.div_euclid(3_600_000_000_000)))
        }
        _ => return Err(refused(&Transform::Hour, array)),
    };
    Ok(Arc::new(hours))
}

/// Year and month (from 1) of a day in the proleptic Gregorian calendar, for any day of 64 bits divided by a day's length.
fn civil(days: i64) -> (i64, i64) {
    // Counted from 0000-03-01, in eras of 400 years, so that leap days fall on the end of years.
    let shifted = days + 719_468;
    let (era, day_of_era) = (shifted.div_euclid(146_097), shifted.rem_euclid(146_097));
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month = (5 * day_of_year + 2) / 153;
    let year = year_of_era + era * 400;
    if month < 10 { (year, month + 3) } else { (year + 1, month - 9) }
}

fn bucket(buckets: u32, array: &ArrayRef) -> Result<ArrayRef> {
    let transform = Transform::Bucket(buckets);
    if buckets == 0 || i32::try_from(buckets).is_err() {
        return Err(Error::new(ErrorKind::Unsupported, format!("{transform} has no valid number of buckets")));
    }
    // Nanoseconds are hashed as the microsecond they lie in.
    let array = match array.data_type() {
        DataType::Timestamp(TimeUnit::Nanosecond, _) => {
            let nanos = array.as_primitive::<TimestampNanosecondType>();
            let micros: PrimitiveArray<TimestampMicrosecondType> = nanos.unary(|v| v.div_euclid(1000));
            Arc::new(micros)
        }
        _ => Arc::clone(array),
    };
    let function =
        create_transform_function(&transform).context(ErrorKind::Unsupported, || format!("transform {transform}"))?;
    function.transform(Arc::clone(&array)).map_err(|e| refused(&transform, &array).with_source(e))
}

fn truncate(width: u32, array: &ArrayRef) -> Result<ArrayRef> {
    let transform = Transform::Truncate(width);
    let chars = width as usize;
    if width == 0 || i32::try_from(width).is_err() {
        return Err(Error::new(ErrorKind::Unsupported, format!("{transform} has no valid width")));
    }
    Ok(match array.data_type() {
        DataType::Int32 => Arc::new(truncated::<Int32Type>(array, |v| {
            let v = i64::from(v);
            narrow(v - v.rem_euclid(i64::from(width)))
        })),
        DataType::Int64 => Arc::new(truncated::<Int64Type>(array, |v| v.checked_sub(v.rem_euclid(i64::from(width))))),
        DataType::Decimal128(precision, scale) => {
            // A result of more digits than the column has is no value of it.
            let limit = 10_i128.checked_pow(u32::from(*precision)).unwrap_or(i128::MAX);
            let values = truncated::<Decimal128Type>(array, |v| {
                v.checked_sub(v.rem_euclid(i128::from(width))).filter(|cut| *cut > -limit)
            });
            let values = values.with_precision_and_scale(*precision, *scale);
            Arc::new(values.context(ErrorKind::Internal, || format!("transform {transform}"))?)
        }
        DataType::Utf8 => {
            let cut = |v: &str| v.char_indices().nth(chars).map_or(v.len(), |(at, _)| at);
            Arc::new(array.as_string::<i32>().iter().map(|v| v.map(|v| &v[..cut(v)])).collect::<StringArray>())
        }
        DataType::LargeBinary => {
            let values = array.as_binary::<i64>().iter();
            Arc::new(values.map(|v| v.map(|v| &v[..v.len().min(chars)])).collect::<LargeBinaryArray>())
        }
        _ => return Err(refused(&transform, array)),
    })
}

fn truncated<T: ArrowPrimitiveType>(
    array: &ArrayRef,
    cut: impl Fn(T::Native) -> Option<T::Native>,
) -> PrimitiveArray<T> {
    array.as_primitive::<T>().unary_opt(cut)
}

#[cfg(test)]
mod tests;
