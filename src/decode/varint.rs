//! Numbers of seven bits a byte, the lowest first, as Avro and Protobuf write them.

/// Bits of a word that say that more bytes follow.
const MORE: u64 = 0x8080_8080_8080_8080;

/// Why there is no number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum NoNumber {
    /// The bytes end within it.
    Short,
    /// It has more than 64 bits.
    Long,
}

/// Reads the number at `at`, and goes behind it; where there is none, up to where that was seen.
#[inline]
pub(crate) fn read(bytes: &[u8], at: &mut usize) -> Result<u64, NoNumber> {
    match bytes.get(*at) {
        Some(byte) if *byte < 0x80 => {
            *at += 1;
            Ok(u64::from(*byte))
        }
        Some(_) => longer(bytes, at),
        None => Err(NoNumber::Short),
    }
}

/// The same for one of several bytes: apart, so that the shortest are read in place.
#[inline(never)]
fn longer(bytes: &[u8], at: &mut usize) -> Result<u64, NoNumber> {
    let Some(word) = bytes.get(*at..).and_then(|rest| rest.first_chunk::<8>()) else { return slowly(bytes, at) };
    let word = u64::from_le_bytes(*word);
    let last = !word & MORE;
    if last == 0 {
        return slowly(bytes, at);
    }
    // Up to the last byte's top bit, which is not set.
    let bits = last.trailing_zeros() + 1;
    let kept = word & !MORE & (u64::MAX >> (64 - bits));
    *at += (bits / 8) as usize;
    // Seven bits of each eight are brought together, in pairs.
    let kept = (kept & 0x007f_007f_007f_007f) | ((kept & 0x7f00_7f00_7f00_7f00) >> 1);
    let kept = (kept & 0x0000_3fff_0000_3fff) | ((kept & 0x3fff_0000_3fff_0000) >> 2);
    Ok((kept & 0x0000_0000_0fff_ffff) | ((kept & 0x0fff_ffff_0000_0000) >> 4))
}

/// The same byte by byte: at the end, and for numbers of more than 56 bits.
#[cold]
fn slowly(bytes: &[u8], at: &mut usize) -> Result<u64, NoNumber> {
    let (mut value, mut shift) = (0_u64, 0_u32);
    loop {
        let Some(byte) = bytes.get(*at).copied() else { return Err(NoNumber::Short) };
        *at += 1;
        if shift == 63 && byte > 1 {
            return Err(NoNumber::Long);
        }
        value |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Ok(value);
        }
        shift += 7;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn written(mut value: u64, more: usize) -> Vec<u8> {
        let mut bytes = Vec::new();
        while value >= 0x80 {
            bytes.push(value.to_le_bytes()[0] | 0x80);
            value >>= 7;
        }
        bytes.push(value.to_le_bytes()[0]);
        // Zeros above the highest bit are allowed, up to ten bytes.
        for _ in 0..more.min(10 - bytes.len()) {
            let last = bytes.len() - 1;
            bytes[last] |= 0x80;
            bytes.push(0);
        }
        bytes
    }

    proptest! {
        #[test]
        fn every_number_is_read_with_anything_behind_it(value in any::<u64>(), bits in 0_u32..64, more in 0_usize..10, rest in prop::collection::vec(any::<u8>(), 0..12)) {
            let value = value >> bits;
            let bytes = written(value, more);
            let whole = [&[9][..], &bytes, &rest].concat();
            let mut at = 1;
            prop_assert_eq!(read(&whole, &mut at), Ok(value));
            prop_assert_eq!(at, 1 + bytes.len());
            let mut at = 0;
            prop_assert_eq!(read(&bytes[..bytes.len() - 1], &mut at), Err(NoNumber::Short));
        }

        #[test]
        fn what_is_read_at_once_is_what_is_read_byte_by_byte(bytes in prop::collection::vec(any::<u8>(), 0..14)) {
            let (mut at, mut slow) = (0, 0);
            prop_assert_eq!(read(&bytes, &mut at), slowly(&bytes, &mut slow));
            prop_assert_eq!(at, slow);
        }
    }

    #[test]
    fn a_number_of_more_than_64_bits_is_none() {
        let most = [[0xff; 9].as_slice(), &[1]].concat();
        assert_eq!(read(&most, &mut 0), Ok(u64::MAX));
        let over = [[0xff; 9].as_slice(), &[2]].concat();
        assert_eq!(read(&over, &mut 0), Err(NoNumber::Long));
        assert_eq!(read(&[0x80; 20], &mut 0), Err(NoNumber::Long));
    }
}
