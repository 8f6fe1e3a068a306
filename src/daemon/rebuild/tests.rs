use serde_json::json;

use super::*;
use crate::decode::json::{JsonDecoder, JsonOptions};
use crate::model::batch::{RawBatch, RawRow};
use crate::model::checkpoint::{Position, Range};
use crate::model::ids::PartitionId;
use crate::model::table::tests::with_column;
use crate::write::layout::TableLayout;
use crate::write::properties::WriteProperties;
use arrow::record_batch::RecordBatch;
use iceberg::spec::SchemaRef;

/// The only column of a table of this type, as `with_column` makes it.
fn schema(kind: &serde_json::Value) -> SchemaRef {
    Arc::clone(with_column(kind).metadata.current_schema())
}

/// These rows in the columns of `schema`.
fn rows(schema: &SchemaRef, texts: &[&str]) -> RecordBatch {
    let data = texts.concat();
    let mut end = 0;
    let cut = texts.iter().zip(1..).map(|(text, number)| {
        let start = end;
        end += u32::try_from(text.len()).expect("small");
        RawRow { start, end, number, ..RawRow::default() }
    });
    let raw = RawBatch {
        partition: PartitionId::new("p"),
        range: Range { from: None, to: Position::Offset(1) },
        origin: "test".into(),
        rows: cut.collect(),
        data: data.into(),
        rejects: Vec::new(),
        header: None,
        skipped: 0,
    };
    let decoded = JsonDecoder::new(schema, JsonOptions::default()).expect("valid").decode_observed(&raw).0;
    assert!(decoded.rejects.is_empty(), "{:?}", decoded.rejects);
    decoded.rows
}

fn field(id: i32, name: &str, kind: serde_json::Value) -> serde_json::Value {
    json!({ "id": id, "name": name, "required": false, "type": kind })
}

fn structure(fields: serde_json::Value) -> serde_json::Value {
    json!({ "type": "struct", "fields": fields })
}

/// What another layout meets within a struct, within the elements of a list and the values of a map: a column of the same id
/// and another name, one that the files lack, one that the table lacks, one whose place and type differ.
fn apart() -> (serde_json::Value, serde_json::Value) {
    let list = |element: serde_json::Value| json!({ "type": "list", "element-id": 5, "element-required": false, "element": element });
    let map = |value: serde_json::Value| json!({ "type": "map", "key-id": 7, "key": "string", "value-id": 8, "value-required": false, "value": value });
    let staged = structure(json!([
        field(2, "renamed", json!("string")),
        field(3, "wide", json!("int")),
        field(4, "many", list(structure(json!([field(6, "x", json!("int"))])))),
        field(9, "keyed", map(structure(json!([field(10, "y", json!("int"))])))),
    ]));
    let held = structure(json!([
        field(3, "wide", json!("long")),
        field(4, "many", list(structure(json!([field(6, "z", json!("int"))])))),
        field(9, "keyed", map(structure(json!([field(10, "y", json!("int")), field(11, "u", json!("int"))])))),
        field(2, "other", json!("string")),
    ]));
    (staged, held)
}

#[test]
fn nested_columns_that_a_table_lacks_are_added_where_they_belong_under_ids_that_nobody_had() {
    let (staged, held) = apart();
    let head = with_column(&held);
    let joined = by_name(&head, &schema(&staged)).expect("joined");
    let id = |path: &str| joined.field_id_by_name(path);
    // What was there keeps its id.
    for path in ["a", "a.wide", "a.many", "a.many.element.z", "a.keyed.value.y", "a.keyed.value.u", "a.other"] {
        assert!(id(path).is_some() && id(path) == head.metadata.current_schema().field_id_by_name(path), "{path}");
    }
    let last = head.metadata.last_column_id();
    let added = ["a.many.element.x", "a.renamed"].map(|path| id(path).expect("added"));
    assert_eq!(added, [last + 1, last + 2]);
    assert!(added.iter().all(|id| joined.field_by_id(*id).is_some_and(|field| !field.required)));
    // A whole column with all that is in it.
    let empty = with_column(&structure(json!([field(2, "other", json!("string"))])));
    let joined = by_name(&empty, &schema(&staged)).expect("joined");
    let mut ids: Vec<i32> = joined.field_id_to_name_map().keys().copied().filter(|id| *id > last).collect();
    ids.sort_unstable();
    assert_eq!(ids, (last + 1..=last + 9).collect::<Vec<_>>(), "{joined}");
    assert!(
        by_name(&empty, &Arc::clone(empty.metadata.current_schema())).expect("same").as_struct()
            == empty.metadata.current_schema().as_struct()
    );
}

#[test]
fn nested_values_go_to_the_columns_of_their_name_whatever_their_ids_were() {
    let (staged, held) = apart();
    let (head, ours) = (with_column(&held), schema(&staged));
    let joined = by_name(&head, &ours).expect("joined");
    let wanted = TableLayout::from_state(&head, Some(Arc::clone(&joined)), &WriteProperties::default())
        .and_then(|layout| layout.arrow_schema())
        .expect("a layout");
    let texts = [
        r#"{"a":{"renamed":"r","wide":7,"many":[{"x":1},null,{"x":2}],"keyed":{"k":{"y":3},"l":null}}}"#,
        r#"{"a":null}"#,
        r#"{"a":{"renamed":null,"wide":null,"many":[],"keyed":{}}}"#,
    ];
    let batch = rows(&ours, &texts);
    let projection = Projection::by_name(&batch.schema(), &wanted, &joined).expect("a way");
    let moved = projection.apply(&batch, &joined).expect("fits");
    assert_eq!(moved.columns(), rows(&joined, &texts).columns());
    // A value without a counterpart is told.
    let narrow = schema(&structure(json!([field(2, "renamed", json!("int"))])));
    let narrow_arrow = rows(&narrow, &[]).schema();
    let way = Projection::by_name(&batch.schema(), &narrow_arrow, &narrow).expect("a way");
    let error = way.apply(&batch, &narrow).expect_err("r is no number");
    assert!(error.kind() == ErrorKind::Corrupt && error.to_string().contains("column renamed"), "{error:?}");
}
