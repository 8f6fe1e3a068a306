use std::sync::Arc;

use arrow::array::{AsArray, Int64Array};
use arrow::datatypes::Int64Type;
use proptest::prelude::*;

use super::*;

fn batch(from: i64, rows: i64) -> RecordBatch {
    let column: Int64Array = (from..from + rows).map(Some).collect();
    RecordBatch::try_from_iter([("n", Arc::new(column) as arrow::array::ArrayRef)]).expect("batch")
}

fn values(batches: &[RecordBatch]) -> Vec<i64> {
    batches.iter().flat_map(|b| b.column(0).as_primitive::<Int64Type>().values().to_vec()).collect()
}

#[test]
fn a_slice_weighs_what_its_own_rows_weigh() {
    let whole = batch(0, 1000);
    assert_eq!(weight(&whole), 8000);
    assert_eq!(weight(&whole.slice(10, 10)), 80);
}

#[test]
fn many_small_batches_are_joined_and_weigh_less_then() {
    let mut pending = Pending::default();
    for at in 0..1000 {
        pending.push(batch(at, 1), 8, false).expect("pushed");
    }
    assert!(pending.batches.len() < 2 * LOOSE_MAX, "{}", pending.batches.len());
    assert!(pending.bytes() < 8 * 1000 + 3 * LOOSE_MAX as u64 * COLUMN_OVERHEAD, "{}", pending.bytes());
    let batches = pending.take().expect("some");
    assert_eq!(values(&batches), (0..1000).collect::<Vec<_>>());
    assert_eq!((pending.bytes(), pending.take().is_none()), (0, true));
}

#[test]
fn settled_rows_hold_on_to_no_others() {
    let whole = batch(0, 10_000);
    for slices in [1, 3] {
        let mut pending = Pending::default();
        for at in 0..slices {
            pending.push(whole.slice(at, 1), 8, true).expect("pushed");
        }
        pending.settle().expect("settled");
        let batches = pending.take().expect("some");
        let memory: usize = batches.iter().map(RecordBatch::get_array_memory_size).sum();
        assert_eq!((batches.len(), values(&batches).len()), (1, slices));
        assert!(memory < 1000, "{memory}");
    }
}

#[test]
fn only_small_batches_are_copied_to_be_encoded() {
    let large = batch(0, WHOLE_ROWS as i64);
    let place = |batch: &RecordBatch| batch.column(0).to_data().buffers()[0].as_ptr();
    let given = vec![large.clone(), batch(512, 1), batch(513, 1), large.clone()];
    let batches = coalesced(given).expect("joined");
    assert_eq!(batches.iter().map(RecordBatch::num_rows).collect::<Vec<_>>(), [WHOLE_ROWS, 2, WHOLE_ROWS]);
    assert_eq!([place(&batches[0]), place(&batches[2])], [place(&large); 2]);
}

#[test]
fn a_head_reaches_over_batches_and_ends_with_the_last() {
    let batches = [batch(0, 3), batch(3, 3)];
    for (wanted, given) in [(2, 2), (3, 3), (5, 5), (9, 6)] {
        let head = head(&batches, wanted).expect("joined").expect("rows");
        assert_eq!(values(&[head]), (0..given).collect::<Vec<_>>());
    }
    assert!(head(&[], 5).expect("joined").is_none());
}

proptest! {
    #[test]
    fn rows_keep_their_order_and_their_weight(sizes in prop::collection::vec((0_i64..3000, any::<bool>(), 0..8), 0..80)) {
        let mut pending = Pending::default();
        let mut rows = 0;
        for (size, shared, settle) in &sizes {
            pending.push(batch(rows, *size), 8 * size.cast_unsigned(), *shared).expect("pushed");
            rows += size;
            if *settle == 0 {
                pending.settle().expect("settled");
            }
        }
        prop_assert!(pending.bytes() >= 8 * rows.cast_unsigned());
        let batches = coalesced(pending.take().unwrap_or_default()).expect("joined");
        prop_assert_eq!(values(&batches), (0..rows).collect::<Vec<_>>());
        let worth = |pair: &[RecordBatch]| pair.iter().any(|batch| batch.num_rows() >= WHOLE_ROWS);
        prop_assert!(batches.windows(2).all(worth));
    }
}
