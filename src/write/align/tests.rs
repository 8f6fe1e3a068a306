use arrow::array::{AsArray, BinaryArray, Int32Array, Int64Array, StringArray};
use arrow::datatypes::{DataType, Int64Type};
use iceberg::spec::{NestedField, PrimitiveType, Type};

use super::*;
use crate::write::tests::{layout, optional};

fn table() -> SchemaRef {
    let fields = vec![
        NestedField::required(1, "id", Type::Primitive(PrimitiveType::Long)),
        optional(2, "text", PrimitiveType::String),
        optional(3, "blob", PrimitiveType::Binary),
    ];
    layout(fields).arrow_schema().expect("schema")
}

fn batch(columns: Vec<(Field, arrow::array::ArrayRef)>) -> RecordBatch {
    let (fields, columns): (Vec<Field>, Vec<_>) = columns.into_iter().unzip();
    RecordBatch::try_new(Arc::new(ArrowSchema::new(fields)), columns).expect("batch")
}

#[test]
fn a_batch_in_the_right_columns_is_not_copied() {
    let schema = table();
    let ids: arrow::array::ArrayRef = Arc::new(Int64Array::from(vec![1]));
    let columns = vec![Arc::clone(&ids), new_null_array(&DataType::Utf8, 1), new_null_array(&DataType::LargeBinary, 1)];
    let given = RecordBatch::try_new(Arc::clone(&schema), columns).expect("batch");
    let aligned = align(given, &schema).expect("aligned");
    assert!(Arc::ptr_eq(aligned.rows.column(0), &ids));
    assert_eq!((aligned.rejected.len(), aligned.origin(0)), (0, 0));
}

#[test]
fn columns_are_found_by_id_widened_and_filled_with_null() {
    let id = |field: Field, id: &str| field.with_metadata([("PARQUET:field_id".to_owned(), id.to_owned())].into());
    let given = batch(vec![
        (id(Field::new("old name", DataType::Utf8, true), "2"), Arc::new(StringArray::from(vec!["a"]))),
        (id(Field::new("id", DataType::Int32, false), "1"), Arc::new(Int32Array::from(vec![7]))),
    ]);
    let rows = align(given, &table()).expect("aligned").rows;
    assert_eq!(rows.schema(), table());
    assert_eq!(rows.column(0).as_primitive::<Int64Type>().value(0), 7);
    assert_eq!(rows.column(1).as_string::<i32>().value(0), "a");
    assert!(rows.column(2).is_null(0));
}

#[test]
fn columns_without_ids_are_found_by_name() {
    let given = batch(vec![
        (Field::new("blob", DataType::Binary, true), Arc::new(BinaryArray::from(vec![&b"x"[..]]))),
        (Field::new("id", DataType::Int64, true), Arc::new(Int64Array::from(vec![7]))),
    ]);
    let rows = align(given, &table()).expect("aligned").rows;
    assert_eq!(rows.column(2).as_binary::<i64>().value(0), b"x");
}

#[test]
fn rows_with_null_in_a_required_column_are_taken_out_and_named() {
    let ids = Int64Array::from(vec![None, Some(1), None, Some(3)]);
    let given = batch(vec![(Field::new("id", DataType::Int64, true), Arc::new(ids))]);
    let aligned = align(given, &table()).expect("aligned");
    assert_eq!(aligned.rows.column(0).as_primitive::<Int64Type>().values(), &[1, 3]);
    assert_eq!(
        aligned.rejected.iter().map(|row| (row.row, row.field.as_str())).collect::<Vec<_>>(),
        [(0, "id"), (2, "id")]
    );
    assert_eq!((aligned.origin(0), aligned.origin(1)), (1, 3));
}

#[test]
fn a_missing_required_column_and_a_type_that_does_not_fit_are_errors() {
    let without = batch(vec![(Field::new("text", DataType::Utf8, true), Arc::new(StringArray::from(vec!["a"])))]);
    let error = align(without, &table()).expect_err("no id");
    assert!(error.to_string().contains("column id is required"), "{error}");
    let text = batch(vec![(Field::new("id", DataType::Utf8, true), Arc::new(StringArray::from(vec!["a"])))]);
    assert!(align(text, &table()).is_err());
}
