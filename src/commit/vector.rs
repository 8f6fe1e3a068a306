//! Deletion vectors: positions of one data file as a Roaring bitmap, alone in a Puffin file. Source: Puffin spec,
//! "deletion-vector-v1".

use flate2::Crc;
use roaring::RoaringTreemap;
use serde_json::json;

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

/// What a Puffin file begins and ends with, and where its first blob begins.
const PUFFIN: [u8; 4] = *b"PFA1";
pub(crate) const FIRST_BLOB: i64 = 4;
/// The column of a row's place in its file (spec, "Reserved Field IDs").
const POSITION_ID: i32 = i32::MAX - 2;

/// The blob of a vector.
///
/// # Errors
/// `Internal` for one that no blob can hold.
pub(crate) fn blob(positions: &RoaringTreemap) -> Result<Vec<u8>> {
    let failed = || "a deletion vector";
    let mut body = MAGIC.to_vec();
    positions.serialize_into(&mut body).context(ErrorKind::Internal, failed)?;
    let mut crc = Crc::new();
    crc.update(&body);
    let length = u32::try_from(body.len()).context(ErrorKind::Internal, failed)?.to_be_bytes();
    Ok([&length[..], &body, &crc.sum().to_be_bytes()].concat())
}

/// A Puffin file of one vector, whose blob begins at [`FIRST_BLOB`]: the deletes of the data file `target`.
///
/// # Errors
/// `Internal` for one that no file can hold.
pub(crate) fn puffin(blob: &[u8], target: &str, cardinality: u64) -> Result<Vec<u8>> {
    let footer = json!({
        "blobs": [{
            "type": "deletion-vector-v1",
            "fields": [POSITION_ID],
            "snapshot-id": -1,
            "sequence-number": -1,
            "offset": FIRST_BLOB,
            "length": blob.len(),
            "properties": {"referenced-data-file": target, "cardinality": cardinality.to_string()},
        }],
        "properties": {"created-by": concat!("frazil ", env!("CARGO_PKG_VERSION"))},
    });
    let footer = footer.to_string().into_bytes();
    let length = i32::try_from(footer.len()).context(ErrorKind::Internal, || "the footer of a Puffin file")?;
    Ok([&PUFFIN[..], blob, &PUFFIN, &footer, &length.to_le_bytes(), &[0; 4], &PUFFIN].concat())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_vector_is_read_as_it_was_written_and_never_when_a_byte_differs() {
        let wanted: RoaringTreemap = [0, 1, 7, 100_000, 1 << 33].into_iter().collect();
        let bytes = blob(&wanted).expect("small");
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
