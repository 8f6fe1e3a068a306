//! Which columns pay for a dictionary. One that nearly every row adds an entry to makes files larger and splices of pages
//! several times slower (docs: "Encode once, and write for the splice").

use arrow::array::{Array, ArrayRef, AsArray};
use arrow::datatypes::DataType;
use arrow::record_batch::RecordBatch;

/// Rows that are looked at.
pub(crate) const SAMPLE_ROWS: usize = 4096;
/// Fewer distinct values than this fit a dictionary whatever their share.
const DISTINCT_MIN: f64 = 8.0;
/// Distinct values per row above which there is none.
const DISTINCT_SHARE_MAX: f64 = 0.5;
/// Bits of the sketch: a power of two well above the sample, so that collisions hardly matter.
const SKETCH_BITS: usize = 1 << 16;

/// For each leaf of `batch`, in the order of Parquet's leaves, whether a dictionary pays, judged by its first rows.
pub(crate) fn dictionary_pays(batch: &RecordBatch) -> Vec<bool> {
    let mut sketch = Sketch::default();
    let mut pays = Vec::new();
    for column in batch.columns() {
        judge(&column.slice(0, column.len().min(SAMPLE_ROWS)), &mut sketch, &mut pays);
    }
    pays
}

fn judge(column: &ArrayRef, sketch: &mut Sketch, pays: &mut Vec<bool>) {
    match column.data_type() {
        DataType::Struct(_) => {
            for child in column.as_struct().columns() {
                judge(child, sketch, pays);
            }
        }
        DataType::List(_) => {
            let list = column.as_list::<i32>();
            let (from, to) = (list.value_offsets().first(), list.value_offsets().last());
            judge_inner(list.values(), (from, to), sketch, pays);
        }
        DataType::Map(..) => {
            let map = column.as_map();
            let (from, to) = (map.value_offsets().first(), map.value_offsets().last());
            for child in map.entries().columns() {
                judge_inner(child, (from, to), sketch, pays);
            }
        }
        _ => pays.push(leaf_pays(column, sketch)),
    }
}

/// Judges what lies in a list: only the part that the sampled rows reach.
fn judge_inner(values: &ArrayRef, range: (Option<&i32>, Option<&i32>), sketch: &mut Sketch, pays: &mut Vec<bool>) {
    let at = |offset: Option<&i32>| usize::try_from(offset.copied().unwrap_or(0)).unwrap_or(0).min(values.len());
    let (from, to) = (at(range.0), at(range.1));
    let length = to.saturating_sub(from).min(SAMPLE_ROWS);
    judge(&values.slice(from, length), sketch, pays);
}

fn leaf_pays(column: &ArrayRef, sketch: &mut Sketch) -> bool {
    sketch.clear();
    let rows = column.len() - column.null_count();
    match column.data_type() {
        DataType::Utf8 => {
            column.as_string::<i32>().iter().flatten().for_each(|v| sketch.add(v.as_bytes()));
        }
        DataType::Binary => column.as_binary::<i32>().iter().flatten().for_each(|v| sketch.add(v)),
        DataType::LargeBinary => column.as_binary::<i64>().iter().flatten().for_each(|v| sketch.add(v)),
        DataType::FixedSizeBinary(_) => column.as_fixed_size_binary().iter().flatten().for_each(|v| sketch.add(v)),
        other => {
            let (Some(width), data) = (other.primitive_width(), column.to_data()) else {
                return true; // booleans never get one
            };
            let values = data.buffers().first().map(|buffer| &buffer.as_slice()[data.offset() * width..]);
            for (at, value) in values.unwrap_or_default().chunks_exact(width).take(column.len()).enumerate() {
                if column.is_valid(at) {
                    sketch.add(value);
                }
            }
        }
    }
    let distinct = sketch.estimate();
    // Any sample is at most as distinct as it is long, and estimates are off by a few.
    distinct < DISTINCT_MIN || distinct <= DISTINCT_SHARE_MAX * rows as f64
}

/// Counts distinct values by linear counting.
struct Sketch {
    bits: Vec<u64>,
    set: usize,
}

impl Default for Sketch {
    fn default() -> Self {
        Self { bits: vec![0; SKETCH_BITS / 64], set: 0 }
    }
}

impl Sketch {
    fn clear(&mut self) {
        self.bits.fill(0);
        self.set = 0;
    }

    fn add(&mut self, value: &[u8]) {
        let bit = (hash(value) >> 48) as usize % SKETCH_BITS;
        let (word, mask) = (&mut self.bits[bit / 64], 1_u64 << (bit % 64));
        self.set += usize::from(*word & mask == 0);
        *word |= mask;
    }

    fn estimate(&self) -> f64 {
        let bits = SKETCH_BITS as f64;
        let empty = (SKETCH_BITS - self.set).max(1) as f64;
        -bits * (empty / bits).ln()
    }
}

/// Multiply and rotate over words: spread well enough for counting, not for keys that an enemy chooses.
fn hash(value: &[u8]) -> u64 {
    const FACTOR: u64 = 0x9e37_79b9_7f4a_7c15;
    let word = |chunk: &[u8]| chunk.iter().rev().fold(0_u64, |word, byte| word << 8 | u64::from(*byte));
    let chunks = value.chunks_exact(8);
    let tail = word(chunks.remainder()) ^ (value.len() as u64).rotate_left(56);
    let mut hash = 0_u64;
    for chunk in chunks.map(word).chain([tail]) {
        hash = (hash.rotate_left(29) ^ chunk).wrapping_mul(FACTOR);
    }
    (hash ^ hash >> 32).wrapping_mul(FACTOR)
}

#[cfg(test)]
mod tests;
