use std::sync::Arc;

use arrow::array::{BooleanArray, Int64Array, StringArray};
use arrow::datatypes::{Field, Schema};
use proptest::prelude::*;
use rand::SeedableRng;
use rand::rngs::StdRng;

use super::*;
use crate::write::tests::{random_rows, wide};

fn pays_for(column: ArrayRef) -> bool {
    let schema = Schema::new(vec![Field::new("c", column.data_type().clone(), true)]);
    dictionary_pays(&RecordBatch::try_new(Arc::new(schema), vec![column]).expect("batch"))[0]
}

fn numbers(rows: i64, distinct: i64) -> ArrayRef {
    Arc::new((0..rows).map(|row| Some(row % distinct * 1_000_003)).collect::<Int64Array>())
}

fn texts(rows: i64, distinct: i64) -> ArrayRef {
    Arc::new((0..rows).map(|row| Some(format!("a text numbered {}", row % distinct))).collect::<StringArray>())
}

#[test]
fn a_column_of_mostly_different_values_gets_no_dictionary() {
    for rows in [100, 4096, 20_000] {
        assert!(!pays_for(numbers(rows, rows)), "{rows} numbers");
        assert!(!pays_for(texts(rows, rows)), "{rows} texts");
        assert!(pays_for(numbers(rows, rows.min(4096) / 3)), "{rows} numbers, a third of them different");
        assert!(pays_for(texts(rows, rows.min(4096) / 3)), "{rows} texts, a third of them different");
    }
}

#[test]
fn few_rows_booleans_and_nulls_leave_the_dictionary_on() {
    assert!(pays_for(numbers(5, 5)));
    assert!(pays_for(Arc::new(BooleanArray::from(vec![true, false]))));
    assert!(pays_for(Arc::new(Int64Array::from(vec![None; 1000]))));
}

#[test]
fn nulls_do_not_count_as_rows() {
    let sparse: Int64Array = (0..4000).map(|row| (row % 10 == 0).then_some(row)).collect();
    assert!(!pays_for(Arc::new(sparse)));
}

#[test]
fn a_slice_is_judged_by_its_own_rows() {
    let mut rows: Vec<i64> = vec![1; 4000];
    rows.extend(0..4000);
    let column: ArrayRef = Arc::new(Int64Array::from(rows));
    assert!(!pays_for(column.slice(4000, 4000)));
    assert!(pays_for(column.slice(0, 4000)));
}

proptest! {
    #[test]
    fn there_is_one_answer_per_leaf(seed in any::<u64>(), rows in 0_usize..30) {
        let table = wide();
        let batch = random_rows(&table, rows, &mut StdRng::seed_from_u64(seed));
        prop_assert_eq!(dictionary_pays(&batch).len(), table.metrics_modes().len());
    }

    #[test]
    fn the_sketch_counts_nearly_right(distinct in 1_i64..4096) {
        let mut sketch = Sketch::default();
        (0..distinct).for_each(|value| sketch.add(&value.to_le_bytes()));
        let estimate = sketch.estimate();
        let off = (estimate - distinct as f64).abs();
        prop_assert!(off <= 3.0 + distinct as f64 * 0.03, "{estimate} for {distinct}");
    }
}
