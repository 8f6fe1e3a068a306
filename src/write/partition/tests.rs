use arrow::array::{Int64Array, StructArray, TimestampMicrosecondArray};
use iceberg::spec::{ListType, NestedField, StructType, Type};
use std::sync::Arc as Shared;

use super::*;
use crate::write::tests::{layout, optional};

fn splitter(layout: &TableLayout) -> Splitter {
    let schema = layout.arrow_schema().expect("schema");
    Splitter::new(layout, &schema).expect("valid").expect("partitioned")
}

#[test]
fn a_value_without_partition_takes_its_row_out_and_says_why() {
    let table = layout(vec![optional(1, "at", PrimitiveType::Timestamp)]).partitioned(&[(1, "hour", Transform::Hour)]);
    let stamps = TimestampMicrosecondArray::from(vec![Some(0), Some(i64::MAX), None, Some(1), Some(i64::MIN)]);
    let split = splitter(&table).split(&table.batch(vec![Shared::new(stamps)])).expect("split");
    let failed: Vec<_> = split.failed.iter().map(|row| (row.row, row.field.as_str())).collect();
    assert_eq!(failed, [(1, "hour"), (4, "hour")]);
    assert!(split.failed[0].reason.contains("out of range"), "{}", split.failed[0].reason);
    let sizes: Vec<_> = split.groups.iter().map(|group| (group.partition.clone(), group.rows.num_rows())).collect();
    assert_eq!(sizes, [(Struct::from_iter([Some(Literal::int(0))]), 2), (Struct::from_iter([None]), 1)]);
}

#[test]
fn a_batch_in_which_no_row_has_a_partition_has_no_group() {
    let table = layout(vec![optional(1, "at", PrimitiveType::Timestamp)]).partitioned(&[(1, "hour", Transform::Hour)]);
    let stamps = TimestampMicrosecondArray::from(vec![i64::MAX, i64::MIN]);
    let split = splitter(&table).split(&table.batch(vec![Shared::new(stamps)])).expect("split");
    assert_eq!((split.groups.len(), split.failed.len()), (0, 2));
}

#[test]
fn a_batch_of_one_partition_is_not_copied() {
    let table = layout(vec![optional(1, "n", PrimitiveType::Long)]).partitioned(&[(1, "n", Transform::Identity)]);
    let batch = table.batch(vec![Shared::new(Int64Array::from(vec![7; 10]))]);
    let split = splitter(&table).split(&batch).expect("split");
    let [group] = split.groups.as_slice() else { panic!("one group") };
    assert!(Shared::ptr_eq(group.rows.column(0), batch.column(0)));
}

#[test]
fn equal_partitions_have_equal_keys_over_batches() {
    let table =
        layout(vec![optional(1, "n", PrimitiveType::Long)]).partitioned(&[(1, "tens", Transform::Truncate(10))]);
    let splitter = splitter(&table);
    let keys = |values: Vec<i64>| {
        let split = splitter.split(&table.batch(vec![Shared::new(Int64Array::from(values))])).expect("split");
        split.groups.into_iter().map(|group| group.key).collect::<Vec<_>>()
    };
    let (first, second) = (keys(vec![1, 25, 7]), keys(vec![29, 3]));
    assert_eq!((first.len(), &first[0], &first[1]), (2, &second[1], &second[0]));
}

#[test]
fn a_null_struct_makes_its_fields_null() {
    let inner = StructType::new(vec![Shared::new(optional(2, "n", PrimitiveType::Long))]);
    let table =
        layout(vec![NestedField::optional(1, "s", Type::Struct(inner))]).partitioned(&[(2, "n", Transform::Identity)]);
    let schema = table.arrow_schema().expect("schema");
    let DataType::Struct(fields) = schema.field(0).data_type() else { panic!("a struct") };
    let values: ArrayRef = Shared::new(Int64Array::from(vec![1, 1]));
    let column = StructArray::new(fields.clone(), vec![values], Some(vec![true, false].into()));
    let split = splitter(&table).split(&table.batch(vec![Shared::new(column)])).expect("split");
    let partitions: Vec<_> = split.groups.into_iter().map(|group| group.partition).collect();
    assert_eq!(partitions, [Struct::from_iter([Some(Literal::long(1))]), Struct::from_iter([None])]);
}

#[test]
fn a_source_within_a_list_is_refused_with_its_place() {
    let element = NestedField::list_element(2, Type::Primitive(PrimitiveType::Long), false);
    let mut table = layout(vec![
        NestedField::optional(1, "list", Type::List(ListType::new(Shared::new(element)))),
        optional(3, "n", PrimitiveType::Long),
    ])
    .partitioned(&[(3, "n", Transform::Identity)]);
    let spec = serde_json::to_value(table.spec.as_ref())
        .expect("json")
        .to_string()
        .replace("\"source-id\":3", "\"source-id\":2");
    table.spec = Shared::new(serde_json::from_str(&spec).expect("spec"));
    let schema = table.arrow_schema().expect("schema");
    let error = Splitter::new(&table, &schema).expect_err("refused");
    assert_eq!(error.kind(), ErrorKind::Unsupported);
    assert!(error.to_string().contains("table db.t: partition field n"), "{error}");
}
