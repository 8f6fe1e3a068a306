use arrow::array::{
    Date32Array, Decimal128Array, FixedSizeBinaryArray, Int64Array, TimestampMicrosecondArray, TimestampNanosecondArray,
};
use chrono::{DateTime, Datelike};
use proptest::prelude::*;

use super::*;
use crate::write::path::murmur3;

fn ints(array: &ArrayRef) -> Vec<Option<i32>> {
    match array.data_type() {
        DataType::Date32 => array.as_primitive::<Date32Type>().iter().collect(),
        _ => array.as_primitive::<Int32Type>().iter().collect(),
    }
}

fn one(transform: Transform, array: impl Array + 'static) -> Option<i32> {
    ints(&apply(&transform, &(Arc::new(array) as ArrayRef)).expect("applies"))[0]
}

#[test]
fn hashes_are_those_of_the_spec() {
    // Appendix B of the spec, as buckets: (hash & max) % n.
    let bucket = |hash: i32| Some((hash & i32::MAX) % 1000);
    let n = Transform::Bucket(1000);
    assert_eq!(one(n, Int32Array::from(vec![34])), bucket(2_017_239_379));
    assert_eq!(one(n, Int64Array::from(vec![34])), bucket(2_017_239_379));
    let decimal = Decimal128Array::from(vec![1420]).with_precision_and_scale(9, 2).expect("decimal");
    assert_eq!(one(n, decimal), bucket(-500_754_589));
    assert_eq!(one(n, Date32Array::from(vec![17_486])), bucket(-653_330_422));
    assert_eq!(one(n, TimestampMicrosecondArray::from(vec![1_510_871_468_000_000])), bucket(-2_047_944_441));
    assert_eq!(one(n, TimestampNanosecondArray::from(vec![1_510_871_468_000_001_001])), bucket(-1_207_196_810));
    assert_eq!(one(n, StringArray::from(vec!["iceberg"])), bucket(1_210_000_089));
    let uuid = uuid::Uuid::parse_str("f79c3e09-677c-4bbd-a479-3f349cb785e7").expect("uuid");
    let uuids = FixedSizeBinaryArray::try_from_iter([uuid.as_bytes()].into_iter()).expect("uuids");
    assert_eq!(one(n, uuids), bucket(1_488_055_340));
    assert_eq!(one(n, LargeBinaryArray::from_vec(vec![&[0, 1, 2, 3]])), bucket(-188_683_207));
}

#[test]
fn nanoseconds_before_1970_fall_into_the_bucket_of_their_microsecond() {
    let n = Transform::Bucket(1000);
    assert_eq!(one(n, TimestampNanosecondArray::from(vec![-1])), one(n, TimestampMicrosecondArray::from(vec![-1])));
}

#[test]
fn a_value_without_result_becomes_null_and_is_told_from_a_null() {
    let narrowest = Decimal128Array::from(vec![Some(-99), None, Some(99)]).with_precision_and_scale(2, 0).expect("d");
    let cases: Vec<(Transform, ArrayRef, Vec<usize>)> = vec![
        (Transform::Hour, Arc::new(TimestampMicrosecondArray::from(vec![Some(0), None, Some(i64::MAX)])), vec![2]),
        (Transform::Truncate(10), Arc::new(Int32Array::from(vec![Some(i32::MIN), None, Some(i32::MAX)])), vec![0]),
        (Transform::Truncate(10), Arc::new(Int64Array::from(vec![Some(i64::MIN), None])), vec![0]),
        (Transform::Truncate(10), Arc::new(narrowest), vec![0]),
        (Transform::Void, Arc::new(Int64Array::from(vec![Some(1), None])), vec![]),
        (Transform::Year, Arc::new(TimestampMicrosecondArray::from(vec![Some(i64::MIN), Some(i64::MAX)])), vec![]),
    ];
    for (transform, before, expected) in cases {
        let after = apply(&transform, &before).expect("applies");
        assert_eq!(failures(&transform, &before, &after), expected, "{transform}");
    }
}

#[test]
fn text_is_cut_at_code_points_and_binary_at_bytes() {
    let cut =
        apply(&Transform::Truncate(2), &(Arc::new(StringArray::from(vec!["äöü", "a", ""])) as ArrayRef)).expect("cut");
    assert_eq!(cut.as_string::<i32>().iter().flatten().collect::<Vec<_>>(), ["äö", "a", ""]);
    let cut = apply(&Transform::Truncate(2), &(Arc::new(LargeBinaryArray::from_vec(vec![b"abc", b""])) as ArrayRef));
    assert_eq!(cut.expect("cut").as_binary::<i64>().iter().flatten().collect::<Vec<_>>(), [&b"ab"[..], b""]);
}

#[test]
fn transforms_refuse_types_that_the_spec_does_not_give_them() {
    let text: ArrayRef = Arc::new(StringArray::from(vec!["a"]));
    let number: ArrayRef = Arc::new(Int64Array::from(vec![1]));
    for (transform, array) in [
        (Transform::Year, &text),
        (Transform::Hour, &number),
        (Transform::Day, &number),
        (Transform::Bucket(0), &number),
        (Transform::Truncate(0), &number),
        (Transform::Unknown, &number),
    ] {
        assert_eq!(apply(&transform, array).expect_err("refused").kind(), ErrorKind::Unsupported, "{transform}");
    }
}

proptest! {
    #[test]
    fn parts_of_dates_are_those_of_the_calendar(micros in -8_000_000_000_000_000_i64..8_000_000_000_000_000) {
        let at = DateTime::from_timestamp_micros(micros).expect("in range");
        let year = at.year() - 1970;
        let days = i32::try_from(micros.div_euclid(86_400_000_000)).expect("days");
        let array = || TimestampMicrosecondArray::from(vec![micros]);
        prop_assert_eq!(one(Transform::Year, array()), Some(year));
        prop_assert_eq!(one(Transform::Month, array()), Some(year * 12 + at.month0().cast_signed()));
        prop_assert_eq!(one(Transform::Day, array()), Some(days));
        prop_assert_eq!(one(Transform::Hour, array()), i32::try_from(micros.div_euclid(3_600_000_000)).ok());
        prop_assert_eq!(one(Transform::Month, Date32Array::from(vec![days])), one(Transform::Month, array()));
        let nanos = micros % 9_000_000_000_000_000 * 1000;
        let nanos = TimestampNanosecondArray::from(vec![nanos]);
        prop_assert_eq!(one(Transform::Day, nanos.clone()), one(Transform::Day, array()));
        prop_assert_eq!(one(Transform::Hour, nanos), one(Transform::Hour, array()));
    }

    #[test]
    fn buckets_and_truncation_follow_their_definition(value in any::<i64>(), n in 1_u32..1000) {
        let hash = murmur3(&value.to_le_bytes()).cast_signed() & i32::MAX;
        prop_assert_eq!(one(Transform::Bucket(n), Int64Array::from(vec![value])), Some(hash % n.cast_signed()));
        let array: ArrayRef = Arc::new(Int64Array::from(vec![value]));
        let cut = apply(&Transform::Truncate(n), &array).expect("cut");
        let expected = i64::try_from(i128::from(value) - i128::from(value).rem_euclid(i128::from(n))).ok();
        prop_assert_eq!(cut.as_primitive::<Int64Type>().iter().next().flatten(), expected);
    }
}
