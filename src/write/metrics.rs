//! A data file's metrics, as they go into a manifest, from the footer that was just written.
//!
//! The rules are those of Iceberg's Java library: sizes for every column; counts and bounds by metrics mode; no bounds for
//! what lies in lists and maps; bounds are valid, not always tight, and never NaN.

use std::collections::{BTreeMap, HashMap};
use std::iter::Sum;

use arrow::array::{Array, ArrayRef, AsArray};
use arrow::buffer::NullBuffer;
use arrow::datatypes::{DataType, Field, Float32Type, Float64Type};
use iceberg::spec::{Datum, PrimitiveType};
use parquet::arrow::PARQUET_FIELD_ID_META_KEY;
use parquet::file::metadata::ParquetMetaData;
use parquet::file::statistics::Statistics;

use crate::error::{Context, ErrorKind, Result};
use crate::write::properties::MetricsMode;

/// How many bytes of a value Parquet statistics keep: at least enough for 16 code points.
pub(crate) const STATISTICS_BYTES_MIN: usize = 64;

/// One primitive column of a file, in the order of the Parquet schema's leaves.
#[derive(Debug, Clone)]
pub(crate) struct Leaf {
    pub(crate) id: i32,
    pub(crate) ty: PrimitiveType,
    /// Whether it lies in a list or a map.
    pub(crate) repeated: bool,
    pub(crate) mode: MetricsMode,
}

/// Metrics by field id.
#[derive(Debug, Default)]
pub(crate) struct Metrics {
    pub(crate) column_sizes: HashMap<i32, u64>,
    pub(crate) value_counts: HashMap<i32, u64>,
    pub(crate) null_value_counts: HashMap<i32, u64>,
    pub(crate) nan_value_counts: HashMap<i32, u64>,
    pub(crate) lower_bounds: HashMap<i32, Datum>,
    pub(crate) upper_bounds: HashMap<i32, Datum>,
}

impl Metrics {
    /// The metrics of a file whose footer is `footer`; `nans` are counted while writing, Parquet has no place for them.
    pub(crate) fn of(footer: &ParquetMetaData, leaves: &[Leaf], nans: &NanCounts) -> Result<Self> {
        let mut metrics = Self::default();
        for (at, leaf) in leaves.iter().enumerate() {
            let chunks = || footer.row_groups().iter().filter_map(|group| group.columns().get(at));
            let size = chunks().map(|chunk| positive(chunk.compressed_size())).sum();
            metrics.column_sizes.insert(leaf.id, size);
            if leaf.mode == MetricsMode::None {
                continue;
            }
            metrics.value_counts.insert(leaf.id, chunks().map(|chunk| positive(chunk.num_values())).sum());
            let nulls: Option<u64> = chunks().map(|chunk| chunk.statistics()?.null_count_opt()).sum();
            if let Some(nulls) = nulls {
                metrics.null_value_counts.insert(leaf.id, nulls);
            }
            if let Some(count) = nans.counts.get(&leaf.id) {
                metrics.nan_value_counts.insert(leaf.id, *count);
            }
            if !leaf.repeated && leaf.mode != MetricsMode::Counts {
                metrics.bounds(leaf, chunks().map(|chunk| (chunk.num_values(), chunk.statistics())))?;
            }
        }
        Ok(metrics)
    }

    fn bounds<'a>(&mut self, leaf: &Leaf, chunks: impl Iterator<Item = (i64, Option<&'a Statistics>)>) -> Result<()> {
        let (mut lower, mut upper): (Option<Datum>, Option<Datum>) = (None, None);
        for (values, statistics) in chunks {
            let Some(statistics) = statistics else {
                return Ok(()); // a part of the file that nothing is known of
            };
            let (Some(min), Some(max)) = (statistics.min_bytes_opt(), statistics.max_bytes_opt()) else {
                let nulls = statistics.null_count_opt();
                let float = matches!(leaf.ty, PrimitiveType::Float | PrimitiveType::Double);
                if float || nulls == u64::try_from(values).ok() {
                    continue; // nothing but nulls and NaN
                }
                return Ok(());
            };
            let min = datum_of_statistics(&leaf.ty, statistics, min)?;
            let max = datum_of_statistics(&leaf.ty, statistics, max)?;
            lower = Some(lower.filter(|held| *held <= min).unwrap_or(min));
            upper = Some(upper.filter(|held| *held >= max).unwrap_or(max));
        }
        if let Some(lower) = lower {
            self.lower_bounds.insert(leaf.id, cut_lower(&lower, leaf.mode)?);
        }
        if let Some(upper) = upper.and_then(|upper| cut_upper(upper, leaf.mode).transpose()) {
            self.upper_bounds.insert(leaf.id, upper?);
        }
        Ok(())
    }
}

fn positive(count: i64) -> u64 {
    u64::try_from(count).unwrap_or(0)
}

/// A datum from the bytes that the spec's appendix D gives for its type.
///
/// # Errors
/// `Corrupt` when the bytes are none of type `ty`.
pub(crate) fn datum(ty: &PrimitiveType, bytes: &[u8]) -> Result<Datum> {
    Datum::try_from_bytes(bytes, ty.clone())
        .context(ErrorKind::Corrupt, || format!("{} bytes are no value of type {ty}", bytes.len()))
}

/// Parquet's bytes are Iceberg's, but for decimals that Parquet keeps as little-endian integers.
fn datum_of_statistics(ty: &PrimitiveType, statistics: &Statistics, bytes: &[u8]) -> Result<Datum> {
    match (ty, statistics) {
        (PrimitiveType::Decimal { .. }, Statistics::Int32(_) | Statistics::Int64(_)) => {
            let reversed: Vec<u8> = bytes.iter().rev().copied().collect();
            datum(ty, &reversed)
        }
        _ => datum(ty, bytes),
    }
}

fn kept(mode: MetricsMode) -> usize {
    match mode {
        MetricsMode::Truncate(length) => length,
        MetricsMode::None | MetricsMode::Counts | MetricsMode::Full => usize::MAX,
    }
}

/// The bound with at most as many code points or bytes as `mode` keeps: a prefix is not above the whole.
fn cut_lower(bound: &Datum, mode: MetricsMode) -> Result<Datum> {
    let (ty, whole) = (bound.data_type(), bytes_of(bound)?);
    match ty {
        PrimitiveType::String => datum(ty, prefix(&text(&whole)?, kept(mode)).as_bytes()),
        PrimitiveType::Binary | PrimitiveType::Fixed(_) => datum(ty, &whole[..whole.len().min(kept(mode))]),
        _ => Ok(bound.clone()),
    }
}

/// The same from above: the last code point or byte that can be raised is; `None` where none can.
fn cut_upper(bound: Datum, mode: MetricsMode) -> Result<Option<Datum>> {
    let (ty, whole) = (bound.data_type(), bytes_of(&bound)?);
    match ty {
        PrimitiveType::String => {
            let whole = text(&whole)?;
            let cut = prefix(&whole, kept(mode));
            if cut.len() == whole.len() {
                return Ok(Some(bound));
            }
            raised_text(cut).map(|raised| datum(ty, raised.as_bytes())).transpose()
        }
        PrimitiveType::Binary | PrimitiveType::Fixed(_) if whole.len() > kept(mode) => {
            raised_bytes(&whole[..kept(mode)]).map(|raised| datum(ty, &raised)).transpose()
        }
        _ => Ok(Some(bound)),
    }
}

/// A datum in the bytes that the spec's appendix D gives for its type.
pub(crate) fn bytes_of(datum: &Datum) -> Result<Vec<u8>> {
    Ok(datum.to_bytes().context(ErrorKind::Internal, || format!("bytes of bound {datum}"))?.into_vec())
}

fn text(bytes: &[u8]) -> Result<String> {
    String::from_utf8(bytes.to_vec()).context(ErrorKind::Internal, || "a text bound is no UTF-8")
}

fn prefix(text: &str, chars: usize) -> &str {
    text.char_indices().nth(chars).map_or(text, |(at, _)| &text[..at])
}

fn raised_text(text: &str) -> Option<String> {
    let mut chars: Vec<char> = text.chars().collect();
    while let Some(last) = chars.pop() {
        let next = match last {
            '\u{D7FF}' => Some('\u{E000}'), // surrogates are no code points of text
            _ => char::from_u32(u32::from(last) + 1),
        };
        if let Some(next) = next {
            chars.push(next);
            return Some(chars.into_iter().collect());
        }
    }
    None
}

fn raised_bytes(bytes: &[u8]) -> Option<Vec<u8>> {
    let at = bytes.iter().rposition(|byte| *byte != u8::MAX)?;
    let mut raised = bytes[..=at].to_vec();
    raised[at] += 1;
    Some(raised)
}

/// How many NaN each float column outside of lists and maps has.
#[derive(Debug, Clone, Default)]
pub(crate) struct NanCounts {
    counts: BTreeMap<i32, u64>,
}

impl NanCounts {
    /// So many NaN in each column, by field id.
    pub(crate) fn of(counts: impl IntoIterator<Item = (i32, u64)>) -> Self {
        Self { counts: counts.into_iter().collect() }
    }

    /// No NaN yet in the column `field` and what lies below it.
    pub(crate) fn new(field: &Field) -> Self {
        let mut counts = Self::default();
        counts.register(field);
        counts
    }

    fn register(&mut self, field: &Field) {
        match field.data_type() {
            DataType::Float32 | DataType::Float64 => {
                if let Some(id) = field_id(field) {
                    self.counts.insert(id, 0);
                }
            }
            DataType::Struct(fields) => fields.iter().for_each(|inner| self.register(inner)),
            _ => {}
        }
    }

    /// Counts those of `column`.
    pub(crate) fn add(&mut self, field: &Field, column: &ArrayRef) {
        if !self.counts.is_empty() {
            self.add_column(field, column, None);
        }
    }

    fn add_column(&mut self, field: &Field, column: &ArrayRef, outer: Option<&NullBuffer>) {
        let valid = NullBuffer::union(outer, column.nulls());
        let is_valid = |at: usize| valid.as_ref().is_none_or(|nulls| nulls.is_valid(at));
        let count = match field.data_type() {
            DataType::Float32 => {
                let values = column.as_primitive::<Float32Type>().values();
                values.iter().enumerate().filter(|(at, v)| v.is_nan() && is_valid(*at)).count()
            }
            DataType::Float64 => {
                let values = column.as_primitive::<Float64Type>().values();
                values.iter().enumerate().filter(|(at, v)| v.is_nan() && is_valid(*at)).count()
            }
            DataType::Struct(fields) => {
                for (inner, child) in fields.iter().zip(column.as_struct().columns()) {
                    self.add_column(inner, child, valid.as_ref());
                }
                return;
            }
            _ => return,
        };
        if let Some(held) = field_id(field).and_then(|id| self.counts.get_mut(&id)) {
            *held += count as u64;
        }
    }
}

impl Sum for NanCounts {
    /// Those of different columns together.
    fn sum<I: Iterator<Item = Self>>(columns: I) -> Self {
        Self { counts: columns.flat_map(|column| column.counts).collect() }
    }
}

/// The field id in an Arrow field's metadata.
pub(crate) fn field_id(field: &Field) -> Option<i32> {
    field.metadata().get(PARQUET_FIELD_ID_META_KEY)?.parse().ok()
}

#[cfg(test)]
mod tests;
