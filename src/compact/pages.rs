//! Pages of a column chunk as bytes: their headers (Thrift's compact protocol), their levels and indices (the hybrid of runs and
//! bit-packed groups), their checksums and codecs. Nothing that a file says makes this allocate more than the file is long, but
//! for what a page unpacks to, which has a limit.
//!
//! Source: parquet-format, `parquet.thrift` and "Encodings".

use bytes::Bytes;
use flate2::Crc;
use parquet::basic::Compression;

/// The most that a page may unpack to.
const UNPACKED_MAX: usize = 64 << 20;
/// How deep fields that are not known may be nested.
const DEPTH_MAX: u32 = 16;

/// Encodings, by their numbers in the format.
pub(crate) const PLAIN: i32 = 0;
pub(crate) const PLAIN_DICTIONARY: i32 = 2;
pub(crate) const RLE: i32 = 3;
pub(crate) const RLE_DICTIONARY: i32 = 8;

/// Why pages are not copied: they are broken, or of a form that only decoding gets along with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Unfit(pub(crate) String);

pub(crate) fn unfit<T>(what: impl Into<String>) -> Result<T, Unfit> {
    Err(Unfit(what.into()))
}

/// What kind of page it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Dictionary,
    /// Levels are compressed with the values.
    V1,
    /// Levels, so many bytes of them, stand before the values, which are compressed or not.
    V2 {
        nulls: usize,
        levels: usize,
        compressed: bool,
    },
}

/// What stands before a page's bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Header {
    pub(crate) kind: Kind,
    /// Its values, nulls included.
    pub(crate) values: usize,
    pub(crate) encoding: i32,
    /// How definition levels of a page of version 1 are encoded.
    levels_encoding: i32,
    pub(crate) unpacked: usize,
    packed: usize,
    crc: Option<u32>,
}

/// A page as it is in a file.
#[derive(Debug, Clone)]
pub(crate) struct Page {
    pub(crate) header: Header,
    pub(crate) body: Bytes,
}

/// Thrift's compact protocol, as far as headers need it.
struct Thrift<'a> {
    left: &'a [u8],
}

impl Thrift<'_> {
    fn byte(&mut self) -> Option<u8> {
        let (first, left) = self.left.split_first()?;
        self.left = left;
        Some(*first)
    }

    fn varint(&mut self) -> Option<u64> {
        let mut value = 0_u64;
        for shift in (0..64).step_by(7) {
            let byte = self.byte()?;
            value |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Some(value);
            }
        }
        None
    }

    fn int(&mut self) -> Option<i32> {
        let raw = self.varint()?;
        i32::try_from((raw >> 1).cast_signed() ^ -(raw & 1).cast_signed()).ok()
    }

    fn count(&mut self) -> Option<usize> {
        usize::try_from(self.int()?).ok()
    }

    /// The next field's id and type; `None` inside at the end of a struct.
    fn field(&mut self, last: &mut i32) -> Option<Option<(i32, u8)>> {
        let head = self.byte()?;
        if head == 0 {
            return Some(None);
        }
        *last = if head >> 4 == 0 { self.int()? } else { last.checked_add(i32::from(head >> 4))? };
        Some(Some((*last, head & 0xf)))
    }

    fn bytes(&mut self, count: u64) -> Option<()> {
        self.left = self.left.get(usize::try_from(count).ok()?..)?;
        Some(())
    }

    fn skip(&mut self, ty: u8, depth: u32) -> Option<()> {
        let depth = depth.checked_sub(1)?;
        match ty {
            1 | 2 => Some(()),
            3 => self.bytes(1),
            4..=6 => self.varint().map(|_| ()),
            7 => self.bytes(8),
            8 => self.varint().and_then(|count| self.bytes(count)),
            9 | 10 => {
                let head = self.byte()?;
                let count = if head >> 4 == 0xf { self.varint()? } else { u64::from(head >> 4) };
                (0..count).try_for_each(|_| self.element(head & 0xf, depth))
            }
            11 => {
                let count = self.varint()?;
                let types = if count == 0 { 0 } else { self.byte()? };
                (0..count).try_for_each(|_| {
                    self.element(types >> 4, depth)?;
                    self.element(types & 0xf, depth)
                })
            }
            12 => {
                let mut last = 0;
                while let Some((_, ty)) = self.field(&mut last)? {
                    self.skip(ty, depth)?;
                }
                Some(())
            }
            _ => None,
        }
    }

    /// An element of a list: booleans take a byte there.
    fn element(&mut self, ty: u8, depth: u32) -> Option<()> {
        if matches!(ty, 1 | 2) { self.bytes(1) } else { self.skip(ty, depth) }
    }
}

/// The struct of a header that is about one kind of page.
#[derive(Default)]
struct Inner {
    numbers: [Option<i32>; 8],
    compressed: Option<bool>,
}

impl Inner {
    fn read(thrift: &mut Thrift<'_>) -> Option<Self> {
        let (mut inner, mut last) = (Self::default(), 0);
        while let Some((id, ty)) = thrift.field(&mut last)? {
            match (id, ty) {
                (1..=6, 5) => inner.numbers[usize::try_from(id).ok()?] = Some(thrift.int()?),
                (7, 1 | 2) => inner.compressed = Some(ty == 1),
                _ => thrift.skip(ty, DEPTH_MAX)?,
            }
        }
        Some(inner)
    }

    fn count(&self, id: usize) -> Option<usize> {
        usize::try_from(self.numbers[id]?).ok()
    }
}

impl Header {
    /// Reads the header at the beginning of `bytes`, and says how long it is; `None` when it is none of a page.
    pub(crate) fn read(bytes: &[u8]) -> Option<(Self, usize)> {
        let mut thrift = Thrift { left: bytes };
        let (mut ty, mut sizes, mut crc, mut inner) = (None, [None; 2], None, None);
        let mut last = 0;
        while let Some((id, kind)) = thrift.field(&mut last)? {
            match (id, kind) {
                (1, 5) => ty = Some(thrift.int()?),
                (2 | 3, 5) => sizes[usize::from(id == 3)] = Some(thrift.count()?),
                (4, 5) => crc = Some(thrift.int()?.cast_unsigned()),
                (5 | 7 | 8, 12) => inner = Some((id, Inner::read(&mut thrift)?)),
                _ => thrift.skip(kind, DEPTH_MAX)?,
            }
        }
        let (id, inner) = inner?;
        let (kind, encoding, levels_encoding) = match (ty?, id) {
            (0, 5) => (Kind::V1, inner.numbers[2]?, inner.numbers[3]?),
            (2, 7) => (Kind::Dictionary, inner.numbers[2]?, RLE),
            (3, 8) if inner.count(3)? == inner.count(1)? && inner.count(6)? == 0 => {
                let compressed = inner.compressed.unwrap_or(true);
                (Kind::V2 { nulls: inner.count(2)?, levels: inner.count(5)?, compressed }, inner.numbers[4]?, RLE)
            }
            _ => return None,
        };
        let header = Self {
            kind,
            values: inner.count(1)?,
            encoding,
            levels_encoding,
            unpacked: sizes[0]?,
            packed: sizes[1]?,
            crc,
        };
        Some((header, bytes.len() - thrift.left.len()))
    }

    /// A header of our own, for a page of version 1 or a dictionary.
    pub(crate) fn new(kind: Kind, values: usize, encoding: i32, unpacked: usize) -> Self {
        Self { kind, values, encoding, levels_encoding: RLE, unpacked, packed: 0, crc: None }
    }

    /// The same for a page whose encoding has another name.
    pub(crate) fn named(&self, encoding: i32) -> Self {
        Self { encoding, ..*self }
    }

    pub(crate) fn is_index(&self) -> bool {
        matches!(self.encoding, PLAIN_DICTIONARY | RLE_DICTIONARY)
    }

    /// Whether its levels are in the hybrid of runs and packed groups, as all are now.
    pub(crate) fn levels_are_known(&self) -> bool {
        self.levels_encoding == RLE
    }

    /// Writes the header of `body`, with its length and checksum.
    pub(crate) fn write(&self, body: &[u8], out: &mut Vec<u8>) -> Option<()> {
        let int = |value: usize| i32::try_from(value).ok();
        let (ty, place) = match self.kind {
            Kind::V1 => (0, 5),
            Kind::Dictionary => (2, 7),
            Kind::V2 { .. } => (3, 8),
        };
        put(out, 1, ty);
        put(out, 1, int(self.unpacked)?);
        put(out, 1, int(body.len())?);
        put(out, 1, checksum(body).cast_signed());
        out.push((place - 4) << 4 | 12);
        put(out, 1, int(self.values)?);
        match self.kind {
            Kind::Dictionary => put(out, 1, self.encoding),
            Kind::V1 => [self.encoding, self.levels_encoding, RLE].iter().for_each(|value| put(out, 1, *value)),
            Kind::V2 { nulls, levels, compressed } => {
                let numbers = [int(nulls)?, int(self.values)?, self.encoding, int(levels)?, 0];
                numbers.iter().for_each(|value| put(out, 1, *value));
                out.push(1 << 4 | if compressed { 1 } else { 2 });
            }
        }
        out.extend([0, 0]);
        Some(())
    }
}

fn put(out: &mut Vec<u8>, step: u8, value: i32) {
    out.push(step << 4 | 5);
    put_varint(out, u64::from((value << 1 ^ value >> 31).cast_unsigned()));
}

fn put_varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push((value & 0x7f) as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

pub(crate) fn checksum(bytes: &[u8]) -> u32 {
    let mut crc = Crc::new();
    crc.update(bytes);
    crc.sum()
}

/// The pages of a chunk, checksums held against them.
pub(crate) fn pages(chunk: &Bytes) -> Result<Vec<Page>, Unfit> {
    let (mut pages, mut at) = (Vec::new(), 0);
    while at < chunk.len() {
        let Some((header, length)) = Header::read(&chunk[at..]) else {
            return unfit(format!("what stands at byte {at} of a column chunk is no header of a known page"));
        };
        let start = at + length;
        let end = start.checked_add(header.packed).filter(|end| *end <= chunk.len());
        let Some(end) = end else { return unfit(format!("the page at byte {at} ends beyond its column chunk")) };
        let body = chunk.slice(start..end);
        if header.crc.is_some_and(|crc| crc != checksum(&body)) {
            return unfit(format!("the page at byte {at} of a column chunk has another checksum than its header says"));
        }
        pages.push(Page { header, body });
        at = end;
    }
    Ok(pages)
}

/// Which values are there: runs of those that are, and of nulls.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Levels {
    runs: Vec<(bool, usize)>,
    pub(crate) rows: usize,
    pub(crate) nulls: usize,
}

impl Levels {
    pub(crate) fn push(&mut self, valid: bool, count: usize) {
        match self.runs.last_mut() {
            _ if count == 0 => return,
            Some((last, held)) if *last == valid => *held += count,
            _ => self.runs.push((valid, count)),
        }
        self.rows += count;
        self.nulls += if valid { 0 } else { count };
    }

    pub(crate) fn extend(&mut self, other: &Self) {
        other.runs.iter().for_each(|(valid, count)| self.push(*valid, *count));
    }

    fn read(bytes: &[u8], rows: usize) -> Option<Self> {
        let mut levels = Self::default();
        hybrid(bytes, 1, rows, |value, count| {
            levels.push(value == 1, count);
            value <= 1
        })?;
        Some(levels)
    }

    pub(crate) fn write(&self, out: &mut Vec<u8>) {
        if let [(valid, rows)] = self.runs[..] {
            put_varint(out, (rows as u64) << 1);
            out.push(u8::from(valid));
        } else {
            let values = self.runs.iter().flat_map(|(valid, rows)| std::iter::repeat_n(u32::from(*valid), *rows));
            pack(&values.collect::<Vec<u32>>(), 1, out);
        }
    }
}

/// Hands on `count` values of the hybrid encoding as runs; `None` when there are fewer, or `take` refuses one.
fn hybrid(bytes: &[u8], width: u32, count: usize, mut take: impl FnMut(u32, usize) -> bool) -> Option<()> {
    if width > 32 {
        return None;
    }
    let (mut thrift, mut left) = (Thrift { left: bytes }, count);
    while left > 0 {
        let head = thrift.varint()?;
        let run = usize::try_from(head >> 1).ok()?;
        if head & 1 == 0 {
            let mut value = 0_u32;
            for shift in 0..width.div_ceil(8) {
                value |= u32::from(thrift.byte()?) << (8 * shift);
            }
            let run = run.min(left);
            if run == 0 || !take(value, run) {
                return None;
            }
            left -= run;
        } else {
            let values = run.checked_mul(8)?.min(left);
            // The last group may be cut short by writers of old.
            let length = run.checked_mul(width as usize)?.min(thrift.left.len());
            if values == 0 || length < (values * width as usize).div_ceil(8) {
                return None;
            }
            let (packed, rest) = thrift.left.split_at(length);
            thrift.left = rest;
            let (mut held, mut bits, mut source) = (0_u64, 0_u32, packed.iter());
            let mask = (1_u64 << width) - 1;
            for _ in 0..values {
                while bits < width {
                    held |= u64::from(*source.next()?) << bits;
                    bits += 8;
                }
                if !take((held & mask) as u32, 1) {
                    return None;
                }
                held >>= width;
                bits -= width;
            }
            left -= values;
        }
    }
    Some(())
}

/// The bits that numbers below `count` take.
pub(crate) fn width_of(count: usize) -> u32 {
    usize::BITS - count.saturating_sub(1).leading_zeros()
}

/// Values in the hybrid encoding: runs of eight and more as runs, the rest packed.
pub(crate) fn pack(values: &[u32], width: u32, out: &mut Vec<u8>) {
    let run_at = |at: usize| values[at..].iter().take_while(|value| **value == values[at]).count();
    let (mut at, mut packed_from) = (0, 0);
    while at < values.len() {
        // A run may begin where a packed group ends only.
        let run = run_at(at);
        if run >= 8 {
            pack_groups(&values[packed_from..at], width, out);
            put_varint(out, (run as u64) << 1);
            out.extend(&values[at].to_le_bytes()[..width.div_ceil(8) as usize]);
            at += run;
            packed_from = at;
        } else {
            at = (at + 8).min(values.len());
        }
    }
    pack_groups(&values[packed_from..], width, out);
}

fn pack_groups(values: &[u32], width: u32, out: &mut Vec<u8>) {
    if values.is_empty() {
        return;
    }
    let groups = values.len().div_ceil(8);
    put_varint(out, (groups as u64) << 1 | 1);
    let (mut held, mut bits) = (0_u64, 0_u32);
    for value in values.iter().copied().chain(std::iter::repeat_n(0, groups * 8 - values.len())) {
        held |= u64::from(value) << bits;
        bits += width;
        while bits >= 8 {
            out.push(held as u8);
            held >>= 8;
            bits -= 8;
        }
    }
}

/// Indices of a dictionary-coded page's values, each below `entries`.
pub(crate) fn indices(bytes: &[u8], count: usize, entries: usize, out: &mut Vec<u32>) -> Result<(), Unfit> {
    out.clear();
    if count == 0 {
        return Ok(());
    }
    let Some((width, packed)) = bytes.split_first() else { return unfit("a page of indices has none") };
    out.reserve(count);
    let taken = hybrid(packed, u32::from(*width), count, |value, run| {
        out.extend(std::iter::repeat_n(value, run));
        (value as usize) < entries
    });
    if taken.is_none() { unfit("a page's indices are cut off, or beyond its dictionary") } else { Ok(()) }
}

/// Packs and unpacks pages' bytes.
pub(crate) struct Codec {
    zstd: Option<(zstd::bulk::Compressor<'static>, zstd::bulk::Decompressor<'static>)>,
}

impl Codec {
    /// The codec of a table; `None` for one that is not known here.
    pub(crate) fn new(compression: Compression) -> Option<Self> {
        let zstd = match compression {
            Compression::UNCOMPRESSED => None,
            Compression::ZSTD(level) => {
                let packing = zstd::bulk::Compressor::new(level.compression_level()).ok()?;
                Some((packing, zstd::bulk::Decompressor::new().ok()?))
            }
            _ => return None,
        };
        Some(Self { zstd })
    }

    fn unpacked(&mut self, body: &[u8], size: usize) -> Result<Vec<u8>, Unfit> {
        if size > UNPACKED_MAX {
            return unfit(format!("a page of {size} bytes"));
        }
        let bytes = match &mut self.zstd {
            Some((_, unpacking)) => {
                unpacking.decompress(body, size).map_err(|e| Unfit(format!("a page cannot be unpacked: {e}")))?
            }
            None => body.to_vec(),
        };
        if bytes.len() == size {
            Ok(bytes)
        } else {
            unfit(format!("a page unpacks to {} bytes, not {size}", bytes.len()))
        }
    }

    pub(crate) fn packed(&mut self, body: Vec<u8>) -> Result<Vec<u8>, Unfit> {
        match &mut self.zstd {
            Some((packing, _)) => packing.compress(&body).map_err(|e| Unfit(format!("a page cannot be packed: {e}"))),
            None => Ok(body),
        }
    }

    /// Which values of a page are there, and those in their encoding.
    pub(crate) fn opened(&mut self, page: &Page, optional: bool) -> Result<(Levels, Vec<u8>), Unfit> {
        let Header { kind, values: rows, unpacked, .. } = page.header;
        let (levels, values) = match kind {
            Kind::Dictionary => return Ok((Levels::default(), self.unpacked(&page.body, unpacked)?)),
            Kind::V1 if optional => {
                let mut bytes = self.unpacked(&page.body, unpacked)?;
                let length = bytes.first_chunk().map(|length| u32::from_le_bytes(*length) as usize);
                let end = length.and_then(|length| length.checked_add(4)).filter(|end| *end <= bytes.len());
                let Some(end) = end else {
                    return unfit("a page's levels are longer than the page");
                };
                let values = bytes.split_off(end);
                (Levels::read(&bytes[4..], rows), values)
            }
            Kind::V1 => (None, self.unpacked(&page.body, unpacked)?),
            Kind::V2 { levels, compressed, .. } => {
                let (Some(held), Some(size)) = (page.body.get(..levels), unpacked.checked_sub(levels)) else {
                    return unfit("a page's levels are longer than the page");
                };
                let body = &page.body[levels..];
                let values = match body {
                    [] => Vec::new(),
                    _ if compressed => self.unpacked(body, size)?,
                    _ => body.to_vec(),
                };
                (if optional { Levels::read(held, rows) } else { None }, values)
            }
        };
        match levels {
            None if optional => unfit("a page's levels cannot be read"),
            None => {
                let mut all = Levels::default();
                all.push(true, rows);
                Ok((all, values))
            }
            Some(levels) => Ok((levels, values)),
        }
    }
}

impl std::fmt::Debug for Codec {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Codec").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
