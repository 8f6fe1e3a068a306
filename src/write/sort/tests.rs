use std::sync::Arc;

use arrow::array::{AsArray, Int64Array, StringArray};
use arrow::datatypes::Int64Type;
use iceberg::spec::PrimitiveType;

use super::*;
use crate::write::tests::{layout, optional};

fn table(order: &[(i32, Transform, SortDirection, NullOrder)]) -> TableLayout {
    layout(vec![optional(1, "n", PrimitiveType::Long), optional(2, "text", PrimitiveType::String)]).sorted(order)
}

fn sorted(table: &TableLayout, rows: &[(Option<i64>, &str)]) -> Vec<(Option<i64>, String)> {
    let schema = table.arrow_schema().expect("schema");
    let sorter = Sorter::new(table, &schema).expect("valid").expect("sorted");
    let numbers: Int64Array = rows.iter().map(|(n, _)| *n).collect();
    let texts: StringArray = rows.iter().map(|(_, text)| Some(*text)).collect();
    let batch = table.batch(vec![Arc::new(numbers), Arc::new(texts)]);
    let parts = [batch.slice(0, rows.len() / 2), batch.slice(rows.len() / 2, rows.len() - rows.len() / 2)];
    let out = sorter.sort(&schema, &parts).expect("sorted");
    let numbers = out.column(0).as_primitive::<Int64Type>().iter();
    numbers.zip(out.column(1).as_string::<i32>().iter().flatten().map(str::to_owned)).collect()
}

const ROWS: &[(Option<i64>, &str)] = &[(Some(2), "b"), (None, "a"), (Some(-1), "c"), (Some(2), "a"), (None, "c")];

fn numbers(rows: Vec<(Option<i64>, String)>) -> Vec<Option<i64>> {
    rows.into_iter().map(|(n, _)| n).collect()
}

#[test]
fn direction_and_place_of_nulls_are_honoured() {
    use NullOrder::{First, Last};
    use SortDirection::{Ascending, Descending};
    for (direction, nulls, expected) in [
        (Ascending, First, [None, None, Some(-1), Some(2), Some(2)]),
        (Ascending, Last, [Some(-1), Some(2), Some(2), None, None]),
        (Descending, First, [None, None, Some(2), Some(2), Some(-1)]),
        (Descending, Last, [Some(2), Some(2), Some(-1), None, None]),
    ] {
        let table = table(&[(1, Transform::Identity, direction, nulls)]);
        assert_eq!(numbers(sorted(&table, ROWS)), expected, "{direction:?} {nulls:?}");
    }
}

#[test]
fn equal_rows_keep_their_order() {
    let table = table(&[(1, Transform::Truncate(10), SortDirection::Ascending, NullOrder::Last)]);
    let texts: Vec<String> = sorted(&table, ROWS).into_iter().map(|(_, text)| text).collect();
    assert_eq!(texts, ["c", "b", "a", "a", "c"], "-10, then 0 twice, then nulls");
}

#[test]
fn later_fields_decide_between_equals() {
    let ascending = |id| (id, Transform::Identity, SortDirection::Ascending, NullOrder::First);
    let table = table(&[ascending(2), ascending(1)]);
    assert_eq!(numbers(sorted(&table, ROWS)), [None, Some(2), Some(2), None, Some(-1)]);
}

#[test]
fn a_table_without_order_has_no_sorter_and_an_unknown_column_is_refused() {
    let plain = table(&[]);
    let schema = plain.arrow_schema().expect("schema");
    assert!(Sorter::new(&plain, &schema).expect("valid").is_none());
    let wrong = table(&[(9, Transform::Identity, SortDirection::Ascending, NullOrder::First)]);
    assert!(Sorter::new(&wrong, &schema).expect_err("no such column").to_string().contains("column id 9"));
}
