use serde_json::json;

use super::*;

/// A table whose snapshots are `(id, sequence number, parent)`, the last of them the head of `main`.
pub(crate) fn with_snapshots(snapshots: &[(i64, i64, Option<i64>)], last_seq: i64) -> TableState {
    let mut document = document(&json!("string"));
    let shown = |(id, seq, parent): &(i64, i64, Option<i64>)| {
        let mut snapshot = json!({
            "snapshot-id": id, "sequence-number": seq, "timestamp-ms": 1, "schema-id": 0,
            "manifest-list": format!("memory:///t/metadata/snap-{id}.avro"), "summary": { "operation": "append" },
        });
        if let Some(parent) = parent {
            snapshot["parent-snapshot-id"] = json!(parent);
        }
        snapshot
    };
    document["snapshots"] = snapshots.iter().map(shown).collect();
    document["last-sequence-number"] = json!(last_seq);
    if let Some((head, ..)) = snapshots.last() {
        document["current-snapshot-id"] = json!(head);
        document["refs"] = json!({ "main": { "type": "branch", "snapshot-id": head } });
    }
    read(&document).expect("valid")
}

/// The state of a table whose one column, `a`, has this type; its highest field id is 19.
pub(crate) fn with_column(kind: &Value) -> TableState {
    read(&document(kind)).expect("valid")
}

fn document(kind: &Value) -> Value {
    json!({
        "format-version": 2, "table-uuid": "00000000-0000-0000-0000-000000000001", "location": "memory:///t",
        "last-sequence-number": 0, "last-updated-ms": 1, "last-column-id": 19, "current-schema-id": 0,
        "schemas": [{ "type": "struct", "schema-id": 0, "fields": [
            { "id": 1, "name": "a", "required": false, "type": kind },
        ]}],
        "default-spec-id": 0, "partition-specs": [{ "spec-id": 0, "fields": [] }], "last-partition-id": 999,
        "default-sort-order-id": 0, "sort-orders": [{ "order-id": 0, "fields": [] }], "properties": {},
    })
}

fn read(document: &Value) -> Result<TableState> {
    let name = "ns.t".parse().expect("valid");
    TableState::from_json(name, document.to_string().as_bytes(), None, HashMap::new())
}

#[test]
fn a_column_of_a_type_that_is_newer_than_we_are_is_opaque_and_the_table_is_loaded() {
    let list = |kind: &str| json!({ "type": "list", "element-id": 2, "element-required": false, "element": kind });
    let cases = [
        (json!("variant"), "column a has type variant"),
        (json!("geometry(srid:4326)"), "column a has type geometry(srid:4326)"),
        (json!("geography"), "column a has type geography"),
        (json!("float128"), "column a has type float128"),
        (list("variant"), "column a.element has type variant"),
        (
            json!({ "type": "struct", "fields": [{ "id": 3, "name": "b", "required": false, "type": list("unknown") }] }),
            "column a.b.element has type unknown",
        ),
    ];
    for (kind, expected) in cases {
        let mut document = document(&kind);
        if kind.is_string() {
            document["schemas"][0]["fields"][0]["initial-default"] = json!({});
        }
        let state = read(&document).expect("loaded");
        let error = state.check_known().expect_err("not known");
        assert_eq!(error.kind(), ErrorKind::Unsupported, "{kind}: {error}");
        assert!(error.to_string().contains(expected) && error.hint().is_some(), "{kind}: {error:?}");
    }
    let mut newer = document(&json!("string"));
    newer["format-version"] = json!(4);
    assert_eq!(read(&newer).expect_err("newer").kind(), ErrorKind::Unsupported);
}

#[test]
fn a_document_that_is_damaged_is_corrupt() {
    for key in ["location", "schemas", "table-uuid"] {
        let mut damaged = document(&json!("string"));
        damaged.as_object_mut().expect("an object").remove(key);
        assert_eq!(read(&damaged).expect_err("damaged").kind(), ErrorKind::Corrupt, "{key}");
    }
    assert!(read(&document(&json!("decimal(9, 2)"))).is_ok() && read(&document(&json!("fixed[3]"))).is_ok());
    let torn = TableState::from_json("ns.t".parse().expect("valid"), b"{\"format-version\":", None, HashMap::new());
    assert_eq!(torn.expect_err("torn").kind(), ErrorKind::Corrupt);
}
