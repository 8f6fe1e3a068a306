//! Decimals of any size as text.

use std::fmt::Write;

use crate::decode::convert::no_bytes;
use crate::decode::fault::Fault;

/// Bytes of a decimal that are taken, and digits that its scale may stand for: far beyond what databases send.
const BYTES_MAX: usize = 2048;
const SCALE_MAX: u32 = 5000;

/// The number that big-endian two's complement bytes are, divided by ten to the `scale`, without an exponent.
///
/// # Errors
/// A fault of the value when there are no bytes, too many, or too many digits behind the point.
pub(crate) fn decimal_text(bytes: &[u8], scale: i32) -> Result<String, Fault> {
    let Some(first) = bytes.first() else { return Err(no_bytes()) };
    if bytes.len() > BYTES_MAX || scale.unsigned_abs() > SCALE_MAX {
        return Err(Fault::value(format!("a decimal of {} bytes and scale {scale} is too long", bytes.len())));
    }
    let negative = first & 0x80 != 0;
    let mut digits = magnitude(bytes, negative);
    let zero = digits == "0";
    if scale < 0 && !zero {
        digits.extend(std::iter::repeat_n('0', scale.unsigned_abs() as usize));
    }
    if scale > 0 {
        let fraction = scale.unsigned_abs() as usize;
        if digits.len() <= fraction {
            let missing = fraction + 1 - digits.len();
            digits.insert_str(0, &"0".repeat(missing));
        }
        digits.insert(digits.len() - fraction, '.');
    }
    if negative {
        digits.insert(0, '-');
    }
    Ok(digits)
}

/// The digits of the absolute value.
fn magnitude(bytes: &[u8], negative: bool) -> String {
    const BASE: u64 = 1_000_000_000;
    let mut parts: Vec<u64> = vec![0];
    let mut fold = |factor: u64, mut carry: u64| {
        for part in &mut parts {
            let value = *part * factor + carry;
            (*part, carry) = (value % BASE, value / BASE);
        }
        if carry > 0 {
            parts.push(carry);
        }
    };
    let flip = if negative { 0xff } else { 0 };
    for byte in bytes {
        fold(256, u64::from(byte ^ flip));
    }
    // A negative number's two's complement is one less than what its flipped bits are.
    fold(1, u64::from(negative));
    let mut text = parts.pop().unwrap_or_default().to_string();
    for part in parts.iter().rev() {
        let _ = write!(text, "{part:09}");
    }
    text
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_decimal_is_written_with_all_its_digits_and_the_point_where_its_scale_says() {
        let shown = |bytes: &[u8], scale| decimal_text(bytes, scale).expect("a decimal");
        assert_eq!(shown(&[0x27, 0x29], 2), "100.25");
        assert_eq!(shown(&[0xfd, 0xda], 2), "-5.50");
        assert_eq!(shown(&[0xff], 3), "-0.001");
        assert_eq!((shown(&[0], 0), shown(&[0], 2), shown(&[0], -2)), ("0".into(), "0.00".into(), "0".into()));
        assert_eq!(shown(&[0x05], -3), "5000");
        assert_eq!(shown(&[0x80, 0, 0, 0, 0, 0, 0, 0, 0], 0), "-2361183241434822606848");
        for (bytes, scale) in [(&[][..], 0), (&[1; BYTES_MAX + 1], 0), (&[1], 5001), (&[1], i32::MIN)] {
            assert!(decimal_text(bytes, scale).is_err());
        }
    }

    proptest! {
        #[test]
        fn any_integer_is_written_as_others_write_it(value in any::<i128>(), more in 0_usize..9) {
            let filler = if value < 0 { 0xff } else { 0 };
            let bytes = [vec![filler; more], value.to_be_bytes().to_vec()].concat();
            prop_assert_eq!(decimal_text(&bytes, 0).expect("short"), value.to_string());
        }
    }
}
