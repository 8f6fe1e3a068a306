use iceberg::spec::{FormatVersion, SnapshotReference, SnapshotRetention, Transform};

use super::*;

fn schema() -> Schema {
    let fields = json!([
        {"id": 1, "name": "id", "required": true, "type": "long"},
        {"id": 2, "name": "at", "required": false, "type": "timestamptz"},
    ]);
    serde_json::from_value(json!({"type": "struct", "schema-id": 0, "fields": fields})).expect("valid")
}

fn spec() -> UnboundPartitionSpec {
    UnboundPartitionSpec::builder().add_partition_field(2, "day", Transform::Day).expect("valid").build()
}

#[test]
fn a_create_body_is_what_the_specification_says() {
    let create = CreateTable {
        name: "db.t".parse().expect("valid"),
        location: None,
        schema: schema(),
        spec: spec(),
        sort_order: SortOrder::unsorted_order(),
        format_version: FormatVersion::V3,
        properties: HashMap::from([("owner".to_owned(), "me".to_owned())]),
    };
    let body = serde_json::to_value(CreateBody::new(&create, false)).expect("json");
    assert_eq!(
        body,
        json!({
            "name": "t",
            "schema": {"type": "struct", "schema-id": 0, "fields": [
                {"id": 1, "name": "id", "required": true, "type": "long"},
                {"id": 2, "name": "at", "required": false, "type": "timestamptz"},
            ]},
            "partition-spec": {"spec-id": 0, "fields": [{"source-id": 2, "name": "day", "transform": "day"}]},
            "write-order": {"order-id": 0, "fields": []},
            "stage-create": false,
            "properties": {"format-version": "3", "owner": "me"},
        })
    );
}

#[test]
fn a_commit_body_is_what_the_specification_says() {
    let retention =
        SnapshotRetention::Branch { min_snapshots_to_keep: Some(3), max_snapshot_age_ms: None, max_ref_age_ms: None };
    let commit = PreparedCommit {
        table: "a.b.t".parse().expect("valid"),
        requirements: vec![
            TableRequirement::RefSnapshotIdMatch { r#ref: "main".to_owned(), snapshot_id: None },
            TableRequirement::LastAssignedFieldIdMatch { last_assigned_field_id: 9 },
        ],
        updates: vec![
            TableUpdate::AddSchema { schema: schema() },
            TableUpdate::AddSpec { spec: spec() },
            TableUpdate::SetSnapshotRef {
                ref_name: "main".to_owned(),
                reference: SnapshotReference { snapshot_id: 5, retention },
            },
        ],
        idempotency_key: uuid::Uuid::nil(),
    };
    let body = commit_body(&commit).expect("json");
    assert_eq!(body["identifier"], json!({"namespace": ["a", "b"], "name": "t"}));
    assert_eq!(
        body["requirements"],
        json!([
            {"type": "assert-ref-snapshot-id", "ref": "main", "snapshot-id": null},
            {"type": "assert-last-assigned-field-id", "last-assigned-field-id": 9},
        ])
    );
    // Older servers compare it with the highest id ever assigned, not with the schema's.
    assert_eq!(body["updates"][0]["last-column-id"], 9);
    assert_eq!(body["updates"][1]["spec"]["spec-id"], 0);
    assert_eq!(
        body["updates"][2],
        json!({"action": "set-snapshot-ref", "ref-name": "main", "snapshot-id": 5, "type": "branch", "min-snapshots-to-keep": 3})
    );
}
