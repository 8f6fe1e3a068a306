//! Numbers from their text, exactly.

use crate::decode::scan::Number;

/// A whole number, however it is written; `None` when it is none, or does not fit.
pub(crate) fn integer(number: Number<'_>) -> Option<i64> {
    if number.integer {
        return number.text.parse().ok();
    }
    match scaled(number.text, 0)? {
        (value, true) => i64::try_from(value).ok(),
        (_, false) => None,
    }
}

/// `text` × 10^`scale`, rounded towards negative infinity, and whether nothing was lost. `text` is a number by JSON's
/// grammar. `None` when the result does not fit 38 digits.
pub(crate) fn scaled(text: &str, scale: i32) -> Option<(i128, bool)> {
    short(text, scale).map(|value| (value.into(), true)).or_else(|| scaled_slowly(text, scale))
}

/// The same for what most numbers are: few digits, no exponent, nothing lost.
#[inline]
fn short(text: &str, scale: i32) -> Option<i64> {
    let (negative, digits) = text.strip_prefix('-').map_or((false, text), |rest| (true, rest));
    let mut missing = scale;
    let (mut value, mut fraction) = (0_i64, false);
    if digits.len() > 18 {
        // More might overflow while they are read.
        return None;
    }
    for byte in digits.bytes() {
        match byte {
            b'0'..=b'9' => {
                value = value * 10 + i64::from(byte - b'0');
                missing -= i32::from(fraction);
            }
            b'.' => fraction = true,
            _ => return None,
        }
    }
    let power = 10_i64.checked_pow(u32::try_from(missing).ok()?)?;
    let value = value.checked_mul(power)?;
    Some(if negative { -value } else { value })
}

fn scaled_slowly(text: &str, scale: i32) -> Option<(i128, bool)> {
    let (negative, text) = text.strip_prefix('-').map_or((false, text), |rest| (true, rest));
    let (mantissa, exponent) = text.split_once(['e', 'E']).unwrap_or((text, "0"));
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    let digits = || whole.bytes().chain(fraction.bytes());
    if digits().all(|b| b == b'0') {
        return Some((0, true));
    }
    // Beyond this the outcome is the same: all digits are lost, or none of the result's 38 hold them.
    let exponent =
        exponent.parse::<i64>().unwrap_or(if exponent.starts_with('-') { i64::MIN / 4 } else { i64::MAX / 4 });
    let point = i64::try_from(whole.len()).ok()?.checked_add(exponent.clamp(-(1 << 40), 1 << 40))? + i64::from(scale);
    let kept = usize::try_from(point.max(0)).ok()?;
    let mut value: i128 = 0;
    for byte in digits().take(kept) {
        value = shifted(value, byte)?;
    }
    let count = whole.len() + fraction.len();
    for _ in count..kept {
        value = shifted(value, b'0')?;
    }
    let exact = digits().skip(kept).all(|b| b == b'0');
    let signed = if negative { -value - i128::from(!exact) } else { value };
    Some((signed, exact))
}

fn shifted(value: i128, digit: u8) -> Option<i128> {
    const MAX: i128 = 10_i128.pow(38);
    let next = value.checked_mul(10)?.checked_add(i128::from(digit.wrapping_sub(b'0')))?;
    (next < MAX).then_some(next)
}

/// How many digits an unscaled value has.
pub(crate) fn precision(value: i128) -> u32 {
    let value = value.unsigned_abs();
    // 128-bit division is slow and seldom needed.
    let log = u64::try_from(value).map_or_else(|_| value.checked_ilog10(), u64::checked_ilog10);
    log.map_or(1, |log| log + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn decimals_are_exact_or_say_that_they_are_not() {
        for (text, scale, expected) in [
            ("0.1", 2, Some((10, true))),
            ("12345678901234567.89", 2, Some((1_234_567_890_123_456_789, true))),
            ("-0.05", 2, Some((-5, true))),
            ("-0.055", 2, Some((-6, false))),
            ("0.055", 2, Some((5, false))),
            ("1e3", 0, Some((1000, true))),
            ("1.50E1", 0, Some((15, true))),
            ("1000e-3", 0, Some((1, true))),
            ("1e-9999999999999999999999", 2, Some((0, false))),
            ("1e9999999999999999999999", 2, None),
            ("0e9999999999999999999999", 2, Some((0, true))),
            ("-0.000", 0, Some((0, true))),
            ("1.0000000000000000000000000000000000000000000000", 0, Some((1, true))),
            ("99999999999999999999999999999999999999", 0, Some((10_i128.pow(38) - 1, true))),
            ("100000000000000000000000000000000000000", 0, None),
            ("1700000000123456789", -3, Some((1_700_000_000_123_456, false))),
        ] {
            assert_eq!(scaled(text, scale), expected, "{text} scale {scale}");
            assert_eq!(scaled_slowly(text, scale), expected, "{text} scale {scale}");
        }
    }

    proptest::proptest! {
        #[test]
        fn the_short_way_agrees_with_the_long_one(text in "-?(0|[1-9][0-9]{0,19})([.][0-9]{1,12})?", scale in -3_i32..20) {
            if let Some(value) = short(&text, scale) {
                proptest::prop_assert_eq!(scaled_slowly(&text, scale), Some((value.into(), true)));
            }
        }
    }

    #[test]
    fn precision_counts_digits() {
        assert_eq!([0, 9, -10, 10_i128.pow(38) - 1].map(precision), [1, 1, 2, 38]);
    }
}
