//! Avro containers, re-contained: the same rows with compressed blocks and further header entries.
//!
//! The `iceberg` crate writes manifests and manifest lists uncompressed and takes no header entries of ours. A container is
//! a header (magic, a map of byte values, a sync marker) and blocks of (count, size, bytes, sync marker), so neither needs
//! the rows to be decoded. Source: Avro 1.11 specification, "Object Container Files".

use std::collections::BTreeMap;
use std::io::Write;

use flate2::Compression;
use flate2::write::DeflateEncoder;

use crate::error::{Context, Error, ErrorKind, Result};

const MAGIC: &[u8] = b"Obj\x01";
pub(crate) const CODEC: &str = "avro.codec";
pub(crate) const SCHEMA: &str = "avro.schema";
/// A header larger than this is not one of a manifest or list.
const HEADER_ENTRIES_MAX: usize = 10_000;

/// A container taken apart as far as its blocks.
pub(crate) struct Container<'a> {
    pub(crate) header: BTreeMap<String, Vec<u8>>,
    pub(crate) sync: [u8; 16],
    pub(crate) blocks: &'a [u8],
}

/// The header entries of a container.
///
/// # Errors
/// `Corrupt` when `bytes` is no container.
pub(crate) fn header(bytes: &[u8]) -> Result<BTreeMap<String, Vec<u8>>> {
    Ok(Container::parse(bytes)?.header)
}

/// The same container with deflated blocks (Java's default for manifests, read by every reader we know), `entries` added to
/// its header, and `sync` as its marker.
///
/// # Errors
/// `Corrupt` when `bytes` is no uncompressed container.
pub(crate) fn recontain(bytes: &[u8], entries: &BTreeMap<String, String>, sync: [u8; 16]) -> Result<Vec<u8>> {
    let mut container = Container::parse(bytes)?;
    match container.header.get(CODEC).map(Vec::as_slice) {
        None | Some(b"null") => {}
        Some(other) => return Err(broken(format!("is compressed already, by {}", String::from_utf8_lossy(other)))),
    }
    container.header.insert(CODEC.to_owned(), b"deflate".to_vec());
    container.header.extend(entries.iter().map(|(key, value)| (key.clone(), value.clone().into_bytes())));
    let mut out = begun(&container.header, sync, bytes.len() / 2);
    let mut rest = Cursor(container.blocks);
    while !rest.0.is_empty() {
        let count = rest.long()?;
        let block = rest.bytes()?;
        if rest.take(16)? != container.sync {
            return Err(broken("has a block that does not end in its sync marker"));
        }
        put_long(&mut out, count);
        put_bytes(&mut out, &deflate(block)?);
        out.extend_from_slice(&sync);
    }
    Ok(out)
}

/// A container as far as its blocks, with room for so many bytes of them.
fn begun(header: &BTreeMap<String, Vec<u8>>, sync: [u8; 16], room: usize) -> Vec<u8> {
    let mut out = Vec::with_capacity(room + 1024);
    out.extend_from_slice(MAGIC);
    put_long(&mut out, i64::try_from(header.len()).unwrap_or(i64::MAX));
    for (key, value) in header {
        put_bytes(&mut out, key.as_bytes());
        put_bytes(&mut out, value);
    }
    put_long(&mut out, 0);
    out.extend_from_slice(&sync);
    out
}

fn deflate(block: &[u8]) -> Result<Vec<u8>> {
    let mut encoder = DeflateEncoder::new(Vec::with_capacity(block.len() / 3), Compression::default());
    encoder
        .write_all(block)
        .and_then(|()| encoder.finish())
        .context(ErrorKind::Internal, || "an Avro block could not be compressed")
}

impl<'a> Container<'a> {
    pub(crate) fn parse(bytes: &'a [u8]) -> Result<Self> {
        let mut cursor = Cursor(bytes);
        if cursor.take(MAGIC.len())? != MAGIC {
            return Err(broken("does not begin as one"));
        }
        let mut header = BTreeMap::new();
        loop {
            let mut count = cursor.long()?;
            if count == 0 {
                break;
            }
            if count < 0 {
                count = count.checked_neg().ok_or_else(|| broken("has a header of no sane size"))?;
                cursor.long()?; // the block's size in bytes
            }
            for _ in 0..count {
                let key = String::from_utf8_lossy(cursor.bytes()?).into_owned();
                header.insert(key, cursor.bytes()?.to_vec());
                if header.len() > HEADER_ENTRIES_MAX {
                    return Err(broken("has a header of no sane size"));
                }
            }
        }
        let sync = cursor.take(16)?.try_into().map_err(|_| broken("ends within its header"))?;
        Ok(Self { header, sync, blocks: cursor.0 })
    }

    /// A container with the same header but for the schema, and these rows uncompressed.
    pub(crate) fn of_rows(&self, schema: &str, count: usize, rows: &[u8]) -> Vec<u8> {
        let mut header = self.header.clone();
        header.remove(CODEC);
        header.insert(SCHEMA.to_owned(), schema.as_bytes().to_vec());
        let mut out = begun(&header, self.sync, rows.len());
        if count > 0 {
            put_long(&mut out, i64::try_from(count).unwrap_or(i64::MAX));
            put_bytes(&mut out, rows);
            out.extend_from_slice(&self.sync);
        }
        out
    }
}

/// The rest of the input.
pub(crate) struct Cursor<'a>(pub(crate) &'a [u8]);

impl<'a> Cursor<'a> {
    pub(crate) fn take(&mut self, n: usize) -> Result<&'a [u8]> {
        let (head, tail) = self.0.split_at_checked(n).ok_or_else(|| broken("ends early"))?;
        self.0 = tail;
        Ok(head)
    }

    /// A zig-zag varint.
    pub(crate) fn long(&mut self) -> Result<i64> {
        let mut value = 0_u64;
        for shift in (0..64).step_by(7) {
            let byte = self.take(1)?[0];
            value |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Ok((value >> 1).cast_signed() ^ -(value & 1).cast_signed());
            }
        }
        Err(broken("has a number that does not end"))
    }

    pub(crate) fn bytes(&mut self) -> Result<&'a [u8]> {
        let n = self.long()?;
        self.take(usize::try_from(n).map_err(|_| broken("has a negative length"))?)
    }
}

fn put_long(out: &mut Vec<u8>, value: i64) {
    let mut zigzag = (value << 1 ^ value >> 63).cast_unsigned();
    while zigzag >= 0x80 {
        out.push((zigzag & 0x7f) as u8 | 0x80);
        zigzag >>= 7;
    }
    out.push(zigzag as u8);
}

fn put_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    put_long(out, i64::try_from(bytes.len()).unwrap_or(i64::MAX));
    out.extend_from_slice(bytes);
}

pub(crate) fn broken(how: impl std::fmt::Display) -> Error {
    Error::new(ErrorKind::Corrupt, format!("an Avro container {how}"))
}

#[cfg(test)]
mod tests {
    use apache_avro::types::Value;
    use apache_avro::{Reader, Schema, Writer};
    use proptest::prelude::*;

    use super::*;

    fn plain(rows: &[i64]) -> Vec<u8> {
        let schema = Schema::parse_str(r#""long""#).expect("valid");
        let mut writer = Writer::new(&schema, Vec::new());
        for row in rows {
            writer.append(Value::Long(*row)).expect("fits");
            if row % 3 == 0 {
                writer.flush().expect("in memory");
            }
        }
        writer.into_inner().expect("in memory")
    }

    proptest! {
        #[test]
        fn an_independent_reader_finds_the_same_rows_and_our_entries(rows in prop::collection::vec(any::<i64>(), 0..60)) {
            let entries = BTreeMap::from([("frazil.x".to_owned(), "y".to_owned())]);
            let bytes = recontain(&plain(&rows), &entries, [7; 16]).expect("a container");
            let reader = Reader::new(&bytes[..]).expect("readable");
            prop_assert_eq!(reader.user_metadata().get("frazil.x").map(Vec::as_slice), Some(&b"y"[..]));
            let back: Vec<i64> = reader.map(|row| match row.expect("readable") { Value::Long(n) => n, other => panic!("{other:?}") }).collect();
            prop_assert_eq!(back, rows);
            let header = header(&bytes).expect("a container");
            prop_assert_eq!(header[CODEC].as_slice(), b"deflate");
        }

        #[test]
        fn no_bytes_make_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..200), cut in 0_usize..400) {
            let _ = recontain(&[MAGIC, &bytes].concat(), &BTreeMap::new(), [0; 16]);
            let whole = plain(&[1, 2, 3, 4, 5, 6]);
            let _ = recontain(&whole[..cut.min(whole.len())], &BTreeMap::new(), [0; 16]);
        }
    }

    #[test]
    fn the_same_input_gives_the_same_bytes() {
        let rows: Vec<i64> = (0..100).collect();
        let bytes = plain(&rows);
        let once = recontain(&bytes, &BTreeMap::new(), [1; 16]).expect("a container");
        assert_eq!(once, recontain(&bytes, &BTreeMap::new(), [1; 16]).expect("a container"));
    }

    #[test]
    fn a_container_is_compressed_once() {
        let once = recontain(&plain(&[1]), &BTreeMap::new(), [1; 16]).expect("a container");
        assert_eq!(recontain(&once, &BTreeMap::new(), [1; 16]).expect_err("twice").kind(), ErrorKind::Corrupt);
    }
}
