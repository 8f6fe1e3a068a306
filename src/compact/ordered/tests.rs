use std::sync::Arc;

use arrow::array::{ArrayRef, AsArray, Int64Array};
use arrow::datatypes::Int64Type;
use iceberg::spec::{NullOrder, PrimitiveType, SortDirection, Transform};
use proptest::prelude::*;

use super::*;
use crate::write::layout::TableLayout;
use crate::write::tests::{layout, optional};

fn table() -> TableLayout {
    layout(vec![optional(1, "n", PrimitiveType::Long), optional(2, "input", PrimitiveType::Long)]).sorted(&[(
        1,
        Transform::Identity,
        SortDirection::Descending,
        NullOrder::Last,
    )])
}

fn merge(inputs: usize) -> Merge {
    let schema = table().arrow_schema().expect("schema");
    let sorter = Sorter::new(&table(), &schema).expect("valid").expect("sorted");
    Merge { sorter, heads: (0..inputs).map(|_| Head::default()).collect(), queue: BinaryHeap::new() }
}

fn batch(input: usize, n: &[Option<i64>]) -> RecordBatch {
    let inputs: Int64Array = n.iter().map(|_| Some(input as i64)).collect();
    table().batch(vec![Arc::new(Int64Array::from(n.to_vec())) as ArrayRef, Arc::new(inputs)])
}

/// What comes out, as (value, input), and the sizes of the batches, when inputs come in batches of so many rows.
fn merged(inputs: &[Vec<Option<i64>>], rows: usize) -> (Vec<(Option<i64>, usize)>, Vec<usize>) {
    let mut merge = merge(inputs.len());
    let mut left: Vec<_> = inputs.iter().map(|n| n.chunks(rows)).collect();
    let (mut out, mut sizes) = (Vec::new(), Vec::new());
    let mut wants: Vec<usize> = (0..inputs.len()).collect();
    loop {
        for input in wants.drain(..) {
            if let Some(n) = left[input].next() {
                assert!(merge.add(input, batch(input, n)).expect("fits"), "in order");
            }
        }
        let (rows, next) = merge.step().expect("merged");
        wants.extend(next);
        match rows {
            Some(rows) => {
                let n = rows.column(0).as_primitive::<Int64Type>().iter();
                out.extend(
                    n.zip(rows.column(1).as_primitive::<Int64Type>().values().iter().map(|input| *input as usize)),
                );
                sizes.push(rows.num_rows());
            }
            None if wants.is_empty() => return (out, sizes),
            None => {}
        }
    }
}

/// Descending, nulls last.
fn key(n: Option<i64>) -> (bool, i64) {
    (n.is_none(), -n.unwrap_or(0))
}

proptest! {
    #[test]
    fn rows_come_in_order_and_equal_ones_as_the_inputs_do(
        mut inputs in prop::collection::vec(prop::collection::vec(prop::option::weighted(0.9, 0_i64..12), 0..30), 0..7),
        rows in 1_usize..12,
    ) {
        inputs.iter_mut().for_each(|n| n.sort_by_key(|n| key(*n)));
        let all = inputs.iter().enumerate().flat_map(|(input, n)| n.iter().map(move |n| (*n, input)));
        let mut expected: Vec<(Option<i64>, usize)> = all.collect();
        expected.sort_by_key(|(n, input)| (key(*n), *input));
        prop_assert_eq!(merged(&inputs, rows).0, expected);
    }

    #[test]
    fn the_first_that_does_not_hold_is_found(from in 0_usize..50, length in 0_usize..100, holds in 0_usize..200) {
        let end = from + length;
        prop_assert_eq!(first_not(from, end, |at| at < holds), holds.clamp(from, end));
    }
}

#[test]
fn batches_are_bounded_whatever_the_inputs_are() {
    let apart = [(0..20_000).rev().map(Some).collect(), (20_000..20_010).rev().map(Some).collect::<Vec<_>>()];
    let woven = [0, 1].map(|odd| (0..10_000).rev().map(|n| Some(n * 2 + odd)).collect::<Vec<_>>());
    for inputs in [apart, woven] {
        let (rows, sizes) = merged(&inputs, usize::MAX);
        assert!(rows.windows(2).all(|pair| pair[0].0 > pair[1].0) && rows.len() > 20_000 - 1);
        assert!(sizes.iter().all(|size| *size <= BATCH_ROWS) && sizes.len() <= 5, "{sizes:?}");
    }
}

#[test]
fn disorder_within_a_batch_and_between_two_is_seen() {
    assert!(!merge(1).add(0, batch(0, &[Some(3), Some(4)])).expect("fits"));
    let mut one = merge(1);
    assert!(one.add(0, batch(0, &[Some(4), Some(3)])).expect("fits"));
    one.step().expect("merged");
    assert!(!one.add(0, batch(0, &[Some(4)])).expect("fits"));
}
