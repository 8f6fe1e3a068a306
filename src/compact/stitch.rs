//! One column chunk out of many. Pages that are large enough are copied as they are, small ones are brought together; of
//! dictionaries one is made, of which only indices are written anew. Where that would be too large, or a page that is not
//! dictionary-coded came before, indices become values.
//!
//! Within a chunk no dictionary-coded page ever follows one that is not: Spark's vectorised reader takes the values of such pages
//! for wrong ones, in silence.

use std::collections::BTreeMap;

use bytes::Bytes;
use parquet::basic::{Compression, Encoding, PageType, Type as Physical};
use parquet::file::metadata::PageEncodingStats;
use parquet::file::page_index::column_index::ColumnIndexMetaData;

use crate::compact::bounds::{Extent, Order};
use crate::compact::dictionary::{Merged, Values, check};
use crate::compact::pages::{
    Codec, Header, Kind, Levels, PLAIN, PLAIN_DICTIONARY, Page, RLE, RLE_DICTIONARY, Unfit, indices, pack, pages,
    unfit, width_of,
};

/// Pages of fewer rows are not worth a page of their own, unless their values are large.
const SMALL_ROWS: usize = 10_000;
/// Pages of so few rows join the one before, though it has enough.
const TINY_ROWS: usize = 1_000;
/// The encodings of data pages that are known, by their numbers.
const ENCODINGS: [(i32, Encoding); 7] = [
    (PLAIN, Encoding::PLAIN),
    (RLE, Encoding::RLE),
    (5, Encoding::DELTA_BINARY_PACKED),
    (6, Encoding::DELTA_LENGTH_BYTE_ARRAY),
    (7, Encoding::DELTA_BYTE_ARRAY),
    (RLE_DICTIONARY, Encoding::RLE_DICTIONARY),
    (9, Encoding::BYTE_STREAM_SPLIT),
];
/// A dictionary above this is read more slowly than the values themselves.
const DICTIONARY_MAX: usize = 1 << 20;

/// A column of new files.
#[derive(Debug, Clone)]
pub(crate) struct Column {
    pub(crate) physical: Physical,
    /// Bytes of a value, where all have as many.
    pub(crate) width: Option<usize>,
    pub(crate) order: Order,
    pub(crate) optional: bool,
    pub(crate) compression: Compression,
    pub(crate) page_rows: usize,
    pub(crate) page_bytes: usize,
    pub(crate) dictionary_bytes: usize,
}

/// A chunk of a column as it is in a file, with what that says of it.
#[derive(Debug)]
pub(crate) struct Piece {
    pub(crate) bytes: Bytes,
    pub(crate) extent: Extent,
    /// How many of its values are null, where that is known.
    pub(crate) nulls: Option<usize>,
    /// What is said of each page.
    pub(crate) index: Option<ColumnIndexMetaData>,
}

/// A page of the new chunk: where it begins in it, its length with its header, and what is known of its values.
#[derive(Debug)]
pub(crate) struct Placed {
    pub(crate) at: usize,
    pub(crate) bytes: usize,
    pub(crate) extent: Extent,
}

/// A new chunk.
#[derive(Debug, Default)]
pub(crate) struct Stitched {
    pub(crate) bytes: Vec<u8>,
    pub(crate) dictionary: bool,
    pub(crate) pages: Vec<Placed>,
    pub(crate) extent: Extent,
    /// Bytes with headers before they were compressed.
    pub(crate) unpacked: usize,
    /// Data pages by their version (whether it is 2) and the number of their encoding.
    encodings: BTreeMap<(bool, i32), i32>,
    /// How many values are no number, in a column of floats.
    pub(crate) nans: Option<u64>,
}

impl Stitched {
    /// Its pages by kind and encoding.
    pub(crate) fn encodings(&self) -> Vec<PageEncodingStats> {
        let named = |((second, number), count): (&(bool, i32), &i32)| {
            let (_, encoding) = ENCODINGS.iter().find(|(known, _)| known == number)?;
            let page_type = if *second { PageType::DATA_PAGE_V2 } else { PageType::DATA_PAGE };
            Some(PageEncodingStats { page_type, encoding: *encoding, count: *count })
        };
        let own = self.dictionary.then_some(PageEncodingStats {
            page_type: PageType::DICTIONARY_PAGE,
            encoding: Encoding::PLAIN,
            count: 1,
        });
        own.into_iter().chain(self.encodings.iter().filter_map(named)).collect()
    }
}

/// A chunk with its pages told apart.
struct Part {
    dictionary: Option<Values>,
    pages: Vec<Page>,
    piece: Piece,
    said: Option<Vec<Extent>>,
}

impl Part {
    fn read(column: &Column, codec: &mut Codec, piece: Piece) -> Result<Self, Unfit> {
        let (mut dictionary, mut data) = (None, Vec::new());
        for page in pages(&piece.bytes)? {
            match page.header.kind {
                Kind::Dictionary if column.physical == Physical::BOOLEAN => {
                    return unfit("a dictionary of truth values");
                }
                Kind::Dictionary if !matches!(page.header.encoding, PLAIN | PLAIN_DICTIONARY) => {
                    return unfit("a dictionary of another encoding than the plain one");
                }
                Kind::Dictionary if dictionary.is_none() && data.is_empty() => {
                    let (_, values) = codec.opened(&page, false)?;
                    dictionary = Some(Values::read(values, page.header.values, column.width)?);
                }
                Kind::Dictionary => return unfit("a column chunk has two dictionaries"),
                _ if column.optional && !page.header.levels_are_known() => {
                    return unfit("a page's levels are of a form of old");
                }
                _ => data.push(page),
            }
        }
        let rows: Vec<usize> = data.iter().map(|page| page.header.values).collect();
        if rows.iter().try_fold(0_usize, |sum, rows| sum.checked_add(*rows)) != Some(piece.extent.rows) {
            return unfit("the pages of a column chunk have more or fewer values than its row group has rows");
        }
        let index = piece.index.as_ref().filter(|_| !column.order.is_float());
        let said = index.and_then(|index| Extent::of_pages(column.order, index, &rows));
        Ok(Self { dictionary, pages: data, piece, said })
    }

    /// Whether all rows are null: its pages are then of whatever encoding is wanted.
    fn is_null(&self) -> bool {
        self.piece.nulls == Some(self.piece.extent.rows)
    }

    /// What is known of the values of a page with so many nulls: what is said of it, or of the whole chunk.
    fn extent(&self, at: usize, nulls: usize) -> Extent {
        let rows = self.pages.get(at).map_or(0, |page| page.header.values);
        match self.said.as_ref().and_then(|said| said.get(at)) {
            Some(said) if said.nulls == nulls => said.clone(),
            _ if nulls == rows => Extent::of_nulls(rows),
            _ => {
                let range = self.piece.extent.range.clone();
                Extent { unknown: range.is_none(), range, rows, nulls }
            }
        }
    }

    /// How many nulls a page has, where that is known without unpacking it.
    fn nulls(&self, at: usize, column: &Column) -> Option<usize> {
        match (self.pages.get(at)?.header.kind, &self.said) {
            _ if !column.optional => Some(0),
            (Kind::V2 { nulls, .. }, _) => Some(nulls),
            (_, said) => said.as_ref()?.get(at).map(|said| said.nulls),
        }
    }

    /// Whether a page is there that ends the dictionary-coded part of a chunk.
    fn ends_indices(&self) -> bool {
        !self.is_null() && self.pages.iter().any(|page| !page.header.is_index())
    }
}

/// Makes one chunk of `pieces`, in their order.
///
/// # Errors
/// What cannot be copied, or is broken.
pub(crate) fn stitch(column: &Column, pieces: Vec<Piece>) -> Result<Stitched, Unfit> {
    let Some(mut codec) = Codec::new(column.compression) else { return unfit("a codec that is not copied") };
    let packed: usize = pieces.iter().map(|piece| piece.bytes.len()).sum();
    let parts = pieces.into_iter().map(|piece| Part::read(column, &mut codec, piece)).collect::<Result<Vec<_>, _>>()?;
    let mut out = Stitched { nans: column.order.is_float().then_some(0), ..Stitched::default() };
    out.bytes.reserve(packed + packed / 16);
    let merged = dictionary(column, &parts);
    let mut stitcher = Stitcher { column, codec, out, closed: merged.is_none(), merged, pending: Pending::default() };
    stitcher.begin()?;
    let mut map = 0;
    for part in &parts {
        stitcher.take(part, map)?;
        map += usize::from(part.dictionary.is_some());
    }
    stitcher.flush()?;
    Ok(stitcher.out)
}

/// The one dictionary of the chunk; none when values take little more, or less.
fn dictionary(column: &Column, parts: &[Part]) -> Option<Merged> {
    let last = parts.iter().position(Part::ends_indices).map_or(parts.len(), |at| at + 1);
    let coded = &parts[..last];
    let first = coded.iter().filter(|part| !part.is_null()).find_map(|part| part.pages.first())?;
    if !first.header.is_index() {
        return None;
    }
    let all: Vec<&Values> = coded.iter().filter_map(|part| part.dictionary.as_ref()).collect();
    let merged = Merged::of(&all, DICTIONARY_MAX.min(column.dictionary_bytes))?;
    let (mut indexed, mut values) = (0_u128, 0_u128);
    for part in coded.iter().filter(|part| !part.is_null()) {
        let (Some(held), rows) = (&part.dictionary, part.piece.extent.rows as u128) else { continue };
        indexed += rows * u128::from(width_of(merged.count)) / 8;
        values += rows * held.bytes() as u128 / (held.len().max(1) as u128);
    }
    ((indexed + merged.bytes.len() as u128) * 10 < values * 8 || values == 0).then_some(merged)
}

/// Rows that wait for a page to be full.
#[derive(Debug, Default)]
struct Pending {
    levels: Levels,
    extent: Extent,
    /// Whether they wait as indices.
    indexed: bool,
    indices: Vec<u32>,
    values: Vec<u8>,
    bits: Vec<bool>,
}

struct Stitcher<'a> {
    column: &'a Column,
    codec: Codec,
    out: Stitched,
    merged: Option<Merged>,
    /// Whether no index may be written any more.
    closed: bool,
    pending: Pending,
}

impl Stitcher<'_> {
    /// Writes the dictionary.
    fn begin(&mut self) -> Result<(), Unfit> {
        let Some(merged) = &self.merged else { return Ok(()) };
        let header = Header::new(Kind::Dictionary, merged.count, PLAIN, merged.bytes.len());
        let body = self.codec.packed(merged.bytes.clone())?;
        self.out.dictionary = true;
        self.put(header, &body).map(|_| ())
    }

    /// Takes the rows of a chunk, whose dictionary is the one at `map`.
    fn take(&mut self, part: &Part, map: usize) -> Result<(), Unfit> {
        let (mut nulls, order) = (0, self.column.order);
        let numbers = part.dictionary.as_ref().filter(|_| order.is_float());
        let numbers: Option<Vec<f64>> =
            numbers.map(|values| (0..values.len()).filter_map(|at| order.number(values.get(at))).collect());
        for (at, page) in part.pages.iter().enumerate() {
            nulls += if part.is_null() {
                self.null_page(page.header.values)?
            } else if page.header.is_index() {
                self.index_page(part, at, map, numbers.as_deref())?
            } else {
                self.closed = true;
                self.plain_page(part, at)?
            };
        }
        if part.piece.nulls.is_some_and(|said| said != nulls) {
            return unfit(format!("a column chunk has {nulls} nulls, and says it has others"));
        }
        if !order.is_float() {
            let (range, rows) = (part.piece.extent.range.clone(), part.piece.extent.rows);
            let unknown = range.is_none() && nulls < rows;
            self.out.extent.add(order, &Extent { range, unknown, rows, nulls });
        }
        Ok(())
    }

    /// Takes rows of a chunk that has nothing but nulls.
    fn null_page(&mut self, rows: usize) -> Result<usize, Unfit> {
        let mut levels = Levels::default();
        levels.push(false, rows);
        self.wait(!self.closed, &levels, &Extent::of_nulls(rows))?;
        if self.column.order.is_float() {
            self.out.extent.add(self.column.order, &Extent::of_nulls(rows));
        }
        Ok(rows)
    }

    fn index_page(&mut self, part: &Part, at: usize, map: usize, numbers: Option<&[f64]>) -> Result<usize, Unfit> {
        let (page, Some(values)) = (&part.pages[at], &part.dictionary) else {
            return unfit("a page of indices without a dictionary");
        };
        let (levels, body) = self.codec.opened(page, self.column.optional)?;
        let mut places = Vec::new();
        indices(&body, levels.rows - levels.nulls, values.len(), &mut places)?;
        let mut extent = part.extent(at, levels.nulls);
        if let Some(numbers) = numbers {
            extent = self.numbers(places.iter().filter_map(|at| numbers.get(*at as usize)).copied(), &levels);
        }
        if self.closed {
            self.wait(false, &levels, &extent)?;
            places.iter().for_each(|at| self.pending.values.extend_from_slice(values.get(*at as usize)));
            return Ok(levels.nulls);
        }
        let map = self.merged.as_ref().and_then(|merged| merged.maps.get(map));
        match map {
            None => return unfit("a dictionary was left out"),
            Some(None) if self.stays(page) => {
                self.flush()?;
                self.copy(page, RLE_DICTIONARY, extent)?;
                return Ok(levels.nulls);
            }
            Some(None) => {}
            Some(Some(map)) => places.iter_mut().for_each(|at| *at = map.get(*at as usize).copied().unwrap_or(0)),
        }
        self.wait(true, &levels, &extent)?;
        self.pending.indices.append(&mut places);
        Ok(levels.nulls)
    }

    fn plain_page(&mut self, part: &Part, at: usize) -> Result<usize, Unfit> {
        let (page, order) = (&part.pages[at], self.column.order);
        let (encoding, stays) = (page.header.encoding, self.stays(page));
        if encoding != PLAIN && (!stays || order.is_float()) || ENCODINGS.iter().all(|(known, _)| *known != encoding) {
            return unfit(format!("a page of encoding {encoding} that cannot stay as it is"));
        }
        if let Some(nulls) = part.nulls(at, self.column).filter(|_| stays && !order.is_float()) {
            self.flush()?;
            self.copy(page, encoding, part.extent(at, nulls))?;
            return Ok(nulls);
        }
        let (levels, values) = self.codec.opened(page, self.column.optional)?;
        let count = levels.rows - levels.nulls;
        if self.column.physical == Physical::BOOLEAN {
            if encoding == PLAIN && values.len() != count.div_ceil(8) {
                return unfit("a page's truth values are fewer or more than it says");
            }
        } else if encoding == PLAIN {
            check(&values, count, self.column.width)?;
        }
        let mut extent = part.extent(at, levels.nulls);
        if let (true, Some(width)) = (order.is_float(), self.column.width) {
            extent = self.numbers(values.chunks_exact(width).filter_map(|value| order.number(value)), &levels);
        }
        if stays {
            self.flush()?;
            self.copy(page, encoding, extent)?;
        } else {
            self.wait(false, &levels, &extent)?;
            if self.column.physical == Physical::BOOLEAN {
                self.pending.bits.extend((0..count).map(|at| values[at / 8] >> (at % 8) & 1 == 1));
            } else {
                self.pending.values.extend_from_slice(&values);
            }
        }
        Ok(levels.nulls)
    }

    /// What the numbers of a page are, counted for the chunk too.
    fn numbers(&mut self, values: impl Iterator<Item = f64>, levels: &Levels) -> Extent {
        let (extent, nans) = Extent::of_numbers(self.column.order, values, levels.rows, levels.nulls);
        self.out.extent.add(self.column.order, &extent);
        self.out.nans = self.out.nans.map(|held| held + nans);
        extent
    }

    /// Whether so many rows with so many bytes are worth a page.
    fn is_large(&self, rows: usize, bytes: usize) -> bool {
        rows >= SMALL_ROWS.min(self.column.page_rows / 2).max(1) || bytes >= self.column.page_bytes / 2
    }

    /// Whether a page is copied as it is: large enough, and nothing waits that would become a small page before it.
    fn stays(&self, page: &Page) -> bool {
        let Pending { levels, indexed, values, .. } = &self.pending;
        let other = *indexed && self.closed;
        let way = levels.rows == 0 || other || self.is_large(levels.rows, values.len());
        way && self.is_large(page.header.values, page.header.unpacked)
    }

    /// Makes room for rows that come as indices or not: what waits becomes a page when it has enough, or is of another kind.
    fn wait(&mut self, indexed: bool, levels: &Levels, extent: &Extent) -> Result<(), Unfit> {
        let held = self.pending.levels.rows;
        let full = held >= self.column.page_rows || self.pending.values.len() >= self.column.page_bytes;
        let tiny = levels.rows <= TINY_ROWS.min(self.column.page_rows / 20)
            && held + levels.rows <= self.column.page_rows.saturating_mul(3) / 2;
        if (full && !tiny) || self.pending.indexed != indexed {
            self.flush()?;
        }
        self.pending.indexed = indexed;
        self.pending.levels.extend(levels);
        self.pending.extent.add(self.column.order, extent);
        Ok(())
    }

    /// Makes a page of what waits.
    fn flush(&mut self) -> Result<(), Unfit> {
        let Pending { levels, extent, indexed, indices, mut values, bits } = std::mem::take(&mut self.pending);
        if levels.rows == 0 {
            return Ok(());
        }
        let mut body = Vec::with_capacity(values.len() + indices.len() * 2 + 16);
        if self.column.optional {
            body.extend([0; 4]);
            levels.write(&mut body);
            let Ok(length) = u32::try_from(body.len() - 4) else { return unfit("too many levels") };
            body[..4].copy_from_slice(&length.to_le_bytes());
        }
        if indexed {
            let width = width_of(self.merged.as_ref().map_or(0, |merged| merged.count));
            body.push(width as u8);
            pack(&indices, width, &mut body);
        }
        body.extend(bits.chunks(8).map(|bits| bits.iter().rev().fold(0_u8, |byte, bit| byte << 1 | u8::from(*bit))));
        body.append(&mut values);
        let encoding = if indexed { RLE_DICTIONARY } else { PLAIN };
        let header = Header::new(Kind::V1, levels.rows, encoding, body.len());
        let body = self.codec.packed(body)?;
        self.place(header, &body, extent)
    }

    /// Places a page as it came.
    fn copy(&mut self, page: &Page, encoding: i32, extent: Extent) -> Result<(), Unfit> {
        self.place(page.header.named(encoding), &page.body, extent)
    }

    fn place(&mut self, header: Header, body: &[u8], extent: Extent) -> Result<(), Unfit> {
        let (at, bytes) = self.put(header, body)?;
        let second = matches!(header.kind, Kind::V2 { .. });
        *self.out.encodings.entry((second, header.encoding)).or_default() += 1;
        self.out.pages.push(Placed { at, bytes, extent });
        Ok(())
    }

    fn put(&mut self, header: Header, body: &[u8]) -> Result<(usize, usize), Unfit> {
        let at = self.out.bytes.len();
        let written = header.write(body, &mut self.out.bytes);
        written.ok_or_else(|| Unfit("a page of 2 GiB and more".to_owned()))?;
        self.out.unpacked += self.out.bytes.len() - at + header.unpacked;
        self.out.bytes.extend_from_slice(body);
        Ok((at, self.out.bytes.len() - at))
    }
}
