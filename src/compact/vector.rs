//! Deletion vectors: positions of one data file as a Roaring bitmap. Source: Puffin spec, "deletion-vector-v1".

use flate2::Crc;
use roaring::RoaringTreemap;

use crate::error::{Context, Error, ErrorKind, Result};

/// What the bitmap of a vector begins with.
const MAGIC: [u8; 4] = [0xd1, 0xd3, 0x39, 0x64];

/// The positions of a vector's blob.
///
/// # Errors
/// `Corrupt` when it is none, or its checksum is another.
pub(crate) fn positions(blob: &[u8]) -> Result<RoaringTreemap> {
    let corrupt = |what: &str| Error::new(ErrorKind::Corrupt, format!("a deletion vector {what}"));
    let (length, rest) = blob.split_first_chunk::<4>().ok_or_else(|| corrupt("ends early"))?;
    let (body, checksum) = rest.split_last_chunk::<4>().ok_or_else(|| corrupt("ends early"))?;
    if usize::try_from(u32::from_be_bytes(*length)).ok() != Some(body.len()) {
        return Err(corrupt("has another length than it says"));
    }
    let mut crc = Crc::new();
    crc.update(body);
    if crc.sum() != u32::from_be_bytes(*checksum) {
        return Err(corrupt("has another checksum than it says"));
    }
    let bitmap = body.strip_prefix(&MAGIC).ok_or_else(|| corrupt("does not begin as one"))?;
    RoaringTreemap::deserialize_from(bitmap).context(ErrorKind::Corrupt, || "a deletion vector's bitmap")
}

#[cfg(test)]
pub(crate) fn blob(positions: &RoaringTreemap) -> Vec<u8> {
    let mut body = MAGIC.to_vec();
    positions.serialize_into(&mut body).expect("in memory");
    let mut crc = Crc::new();
    crc.update(&body);
    let length = u32::try_from(body.len()).expect("small").to_be_bytes();
    [&length[..], &body, &crc.sum().to_be_bytes()].concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_vector_is_read_as_it_was_written_and_never_when_a_byte_differs() {
        let wanted: RoaringTreemap = [0, 1, 7, 100_000, 1 << 33].into_iter().collect();
        let bytes = blob(&wanted);
        assert_eq!(positions(&bytes).expect("a vector"), wanted);
        for at in 0..bytes.len() {
            let mut other = bytes.clone();
            other[at] ^= 0x10;
            assert_eq!(positions(&other).expect_err("broken").kind(), ErrorKind::Corrupt, "byte {at}");
            assert_eq!(positions(&bytes[..at]).expect_err("cut").kind(), ErrorKind::Corrupt, "cut at {at}");
        }
    }

    #[test]
    fn the_vector_of_another_engine_is_read() {
        // Positions 1 and 3, as Iceberg's Java library writes them.
        let bytes = [
            0, 0, 0, 40, 0xd1, 0xd3, 0x39, 0x64, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x3a, 0x30, 0, 0, 1, 0, 0, 0, 0,
            0, 1, 0, 16, 0, 0, 0, 1, 0, 3, 0,
        ];
        let body = &bytes[4..];
        let mut crc = Crc::new();
        crc.update(body);
        let mut whole = bytes.to_vec();
        whole[3] = u8::try_from(body.len()).expect("small");
        whole.extend(crc.sum().to_be_bytes());
        assert_eq!(positions(&whole).expect("a vector").into_iter().collect::<Vec<_>>(), [1, 3]);
    }
}
