//! Least and greatest values of pages and chunks, brought together in the order of the column's type.

use std::cmp::Ordering;

use parquet::basic::{BoundaryOrder, LogicalType, Type as Physical};
use parquet::data_type::{ByteArray, FixedLenByteArray};
use parquet::file::metadata::ColumnIndexBuilder;
use parquet::file::page_index::column_index::{ColumnIndexMetaData, PrimitiveColumnIndex};
use parquet::file::statistics::{Statistics, ValueStatistics};
use parquet::schema::types::ColumnDescriptor;

/// How a column's values are compared, in the bytes of the plain encoding, without length.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Order {
    Bool,
    Int,
    Long,
    Float,
    Double,
    /// Byte by byte.
    Bytes,
    /// As numbers in two's complement, the highest byte first.
    Decimal,
}

/// What is known of the values of a page or a chunk.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Extent {
    /// The least and the greatest, each with whether it is a value and no mere bound; none where there is no value, or none that
    /// has a place in an order.
    pub(crate) range: Option<[(Vec<u8>, bool); 2]>,
    /// Whether there are values of which nothing is known.
    pub(crate) unknown: bool,
    pub(crate) rows: usize,
    pub(crate) nulls: usize,
}

impl Order {
    /// That of a column; `None` for one whose statistics mean nothing.
    pub(crate) fn of(column: &ColumnDescriptor) -> Option<Self> {
        match (column.physical_type(), column.logical_type_ref()) {
            (Physical::BOOLEAN, _) => Some(Self::Bool),
            (Physical::INT32, _) => Some(Self::Int),
            (Physical::INT64, _) => Some(Self::Long),
            (Physical::FLOAT, _) => Some(Self::Float),
            (Physical::DOUBLE, _) => Some(Self::Double),
            (Physical::BYTE_ARRAY, Some(LogicalType::String) | None) => Some(Self::Bytes),
            (Physical::FIXED_LEN_BYTE_ARRAY, Some(LogicalType::Decimal { .. })) => Some(Self::Decimal),
            (Physical::FIXED_LEN_BYTE_ARRAY, Some(LogicalType::Uuid) | None) => Some(Self::Bytes),
            _ => None,
        }
    }

    pub(crate) fn is_float(self) -> bool {
        matches!(self, Self::Float | Self::Double)
    }

    fn compare(self, a: &[u8], b: &[u8]) -> Option<Ordering> {
        let int = |bytes: &[u8]| bytes.try_into().ok().map(i32::from_le_bytes);
        let long = |bytes: &[u8]| bytes.try_into().ok().map(i64::from_le_bytes);
        match self {
            Self::Bool if a.len() == 1 && b.len() == 1 => Some(a.cmp(b)),
            Self::Bool => None,
            Self::Int => Some(int(a)?.cmp(&int(b)?)),
            Self::Long => Some(long(a)?.cmp(&long(b)?)),
            Self::Float | Self::Double => self.number(a)?.partial_cmp(&self.number(b)?),
            Self::Bytes => Some(a.cmp(b)),
            Self::Decimal => {
                let sign = |bytes: &[u8]| bytes.first().map(|first| first >> 7);
                // Of one length and sign, numbers in two's complement are ordered as their bytes are.
                (a.len() == b.len()).then(|| sign(b).cmp(&sign(a)).then(a.cmp(b)))
            }
        }
    }

    /// A number of a column of floats.
    pub(crate) fn number(self, bytes: &[u8]) -> Option<f64> {
        match self {
            Self::Float => bytes.try_into().ok().map(|bytes| f64::from(f32::from_le_bytes(bytes))),
            Self::Double => bytes.try_into().ok().map(f64::from_le_bytes),
            _ => None,
        }
    }

    fn bytes_of(self, number: f64) -> Vec<u8> {
        if self == Self::Float { (number as f32).to_le_bytes().to_vec() } else { number.to_le_bytes().to_vec() }
    }
}

impl Extent {
    /// So many rows without a value.
    pub(crate) fn of_nulls(rows: usize) -> Self {
        Self { rows, nulls: rows, ..Self::default() }
    }

    /// What a chunk of `rows` says of itself; as many nulls as it says, or none where it does not.
    pub(crate) fn of_chunk(order: Order, statistics: Option<&Statistics>, rows: usize) -> (Self, Option<usize>) {
        let nulls = statistics.and_then(Statistics::null_count_opt).and_then(|nulls| usize::try_from(nulls).ok());
        let usable = statistics.filter(|statistics| !statistics.is_min_max_deprecated());
        let range = usable.and_then(|statistics| {
            let (min, max) = (statistics.min_bytes_opt()?, statistics.max_bytes_opt()?);
            Some([(min.to_vec(), statistics.min_is_exact()), (max.to_vec(), statistics.max_is_exact())])
        });
        (Self::bounded(order, range, rows, nulls.unwrap_or(0)), nulls)
    }

    /// What a column index says of each page of `rows`.
    pub(crate) fn of_pages(order: Order, index: &ColumnIndexMetaData, rows: &[usize]) -> Option<Vec<Self>> {
        if matches!(index, ColumnIndexMetaData::NONE) || index.num_pages() != rows.len() as u64 {
            return None;
        }
        let page = |(at, rows): (usize, &usize)| {
            let nulls = usize::try_from(index.null_count(at)?).ok().filter(|nulls| nulls <= rows)?;
            if index.is_null_page(at) {
                return (nulls == *rows).then(|| Self::of_nulls(*rows));
            }
            let (min, max) = page_bounds(index, at)?;
            Some(Self::bounded(order, Some([(min, false), (max, false)]), *rows, nulls))
        };
        rows.iter().enumerate().map(page).collect()
    }

    /// Bounds that are in order, or nothing known.
    fn bounded(order: Order, range: Option<[(Vec<u8>, bool); 2]>, rows: usize, nulls: usize) -> Self {
        let range = range.filter(|[min, max]| order.compare(&min.0, &max.0).is_some_and(Ordering::is_le));
        let unknown = range.is_none() && nulls < rows;
        Self { range, unknown, rows, nulls }
    }

    /// What the values of a page of floats are, and how many of them are no number.
    pub(crate) fn of_numbers(
        order: Order,
        values: impl Iterator<Item = f64>,
        rows: usize,
        nulls: usize,
    ) -> (Self, u64) {
        let (mut least, mut most, mut nans) = (f64::INFINITY, f64::NEG_INFINITY, 0);
        for value in values {
            if value.is_nan() {
                nans += 1;
            } else {
                (least, most) = (least.min(value), most.max(value));
            }
        }
        // Zero has two signs, which readers may take for equal or for ordered: the bounds hold both.
        let least = if least == 0.0 { -0.0 } else { least };
        let most = if most == 0.0 { 0.0 } else { most };
        let range = (least <= most).then(|| [(order.bytes_of(least), true), (order.bytes_of(most), true)]);
        (Self { range, unknown: false, rows, nulls }, nans)
    }

    /// Takes in what is known of others.
    pub(crate) fn add(&mut self, order: Order, other: &Self) {
        self.rows += other.rows;
        self.nulls += other.nulls;
        self.unknown |= other.unknown;
        match (&mut self.range, &other.range) {
            (_, None) => {}
            (none @ None, range) => none.clone_from(range),
            (Some([min, max]), Some([least, most])) => {
                if order.compare(&least.0, &min.0) == Some(Ordering::Less) {
                    min.clone_from(least);
                }
                if order.compare(&most.0, &max.0) == Some(Ordering::Greater) {
                    max.clone_from(most);
                }
            }
        }
    }

    /// As a chunk says it.
    pub(crate) fn statistics(&self, order: Order) -> Statistics {
        let nulls = Some(self.nulls as u64);
        let range = self.range.as_ref().filter(|_| !self.unknown);
        let exact = range.map_or([false; 2], |[min, max]| [min.1, max.1]);
        let [min, max] = range.map_or([None, None], |[min, max]| [Some(&min.0), Some(&max.0)]);
        macro_rules! with {
            ($read:expr) => {{
                let read = $read;
                ValueStatistics::new(min.and_then(read), max.and_then(read), None, nulls, false)
                    .with_min_is_exact(exact[0])
                    .with_max_is_exact(exact[1])
                    .into()
            }};
        }
        match order {
            Order::Bool => with!(|bytes: &Vec<u8>| bytes.first().map(|byte| *byte != 0)),
            Order::Int => with!(|bytes: &Vec<u8>| bytes.as_slice().try_into().ok().map(i32::from_le_bytes)),
            Order::Long => with!(|bytes: &Vec<u8>| bytes.as_slice().try_into().ok().map(i64::from_le_bytes)),
            Order::Float => with!(|bytes: &Vec<u8>| bytes.as_slice().try_into().ok().map(f32::from_le_bytes)),
            Order::Double => with!(|bytes: &Vec<u8>| bytes.as_slice().try_into().ok().map(f64::from_le_bytes)),
            Order::Bytes | Order::Decimal => with!(|bytes: &Vec<u8>| Some(ByteArray::from(bytes.clone()))),
        }
    }
}

/// As a chunk of values of fixed length says it.
pub(crate) fn fixed(statistics: Statistics) -> Statistics {
    let Statistics::ByteArray(held) = statistics else { return statistics };
    let value = |value: Option<&ByteArray>| value.map(|value| FixedLenByteArray::from(value.data().to_vec()));
    let (min, max) = (value(held.min_opt()), value(held.max_opt()));
    ValueStatistics::new(min, max, None, held.null_count_opt(), false)
        .with_min_is_exact(held.min_is_exact())
        .with_max_is_exact(held.max_is_exact())
        .into()
}

/// A column index of pages; `None` when there are values of which nothing is known.
pub(crate) fn index(order: Order, physical: Physical, pages: &[&Extent]) -> Option<ColumnIndexMetaData> {
    let mut builder = ColumnIndexBuilder::new(physical);
    for page in pages {
        let nulls = i64::try_from(page.nulls).ok()?;
        match &page.range {
            Some([min, max]) if !page.unknown => builder.append(false, min.0.clone(), max.0.clone(), nulls),
            None if page.nulls == page.rows => builder.append(true, Vec::new(), Vec::new(), nulls),
            _ => return None,
        }
    }
    let ranges: Vec<_> = pages.iter().filter_map(|page| page.range.as_ref()).collect();
    let all = |wanted: fn(Ordering) -> bool| {
        ranges
            .windows(2)
            .all(|pair| (0..2).all(|side| order.compare(&pair[0][side].0, &pair[1][side].0).is_some_and(wanted)))
    };
    builder.set_boundary_order(match (all(Ordering::is_le), all(Ordering::is_ge)) {
        (true, _) => BoundaryOrder::ASCENDING,
        (_, true) => BoundaryOrder::DESCENDING,
        _ => BoundaryOrder::UNORDERED,
    });
    builder.build().ok()
}

fn page_bounds(index: &ColumnIndexMetaData, at: usize) -> Option<(Vec<u8>, Vec<u8>)> {
    fn of<T>(index: &PrimitiveColumnIndex<T>, at: usize, bytes: impl Fn(&T) -> Vec<u8>) -> Option<(Vec<u8>, Vec<u8>)> {
        Some((bytes(index.min_value(at)?), bytes(index.max_value(at)?)))
    }
    match index {
        ColumnIndexMetaData::BOOLEAN(index) => of(index, at, |value| vec![u8::from(*value)]),
        ColumnIndexMetaData::INT32(index) => of(index, at, |value| value.to_le_bytes().to_vec()),
        ColumnIndexMetaData::INT64(index) => of(index, at, |value| value.to_le_bytes().to_vec()),
        ColumnIndexMetaData::BYTE_ARRAY(index) | ColumnIndexMetaData::FIXED_LEN_BYTE_ARRAY(index) => {
            Some((index.min_value(at)?.to_vec(), index.max_value(at)?.to_vec()))
        }
        _ => None,
    }
}
