use iceberg::spec::{
    Operation, Schema, Snapshot, SnapshotRetention, SortOrder, StatisticsFile, Summary, UnboundPartitionSpec,
};
use serde_json::json;

use super::*;

fn stamp(now_ms: i64) -> Stamp {
    Stamp { now_ms, id: Uuid::from_u128(u128::try_from(now_ms).expect("positive")) }
}

fn name() -> TableName {
    "db.t".parse().expect("valid")
}

fn creation(properties: &[(&str, &str)]) -> CreateTable {
    let fields = json!([{"id": 5, "name": "id", "required": true, "type": "long"}]);
    CreateTable {
        name: name(),
        location: None,
        schema: serde_json::from_value(json!({"type": "struct", "schema-id": 0, "fields": fields})).expect("valid"),
        spec: UnboundPartitionSpec::default(),
        sort_order: SortOrder::unsorted_order(),
        format_version: FormatVersion::V2,
        properties: properties.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect(),
    }
}

fn new_table(properties: &[(&str, &str)]) -> TableState {
    create(&creation(properties), "s3://b/t", Uuid::from_u128(1), stamp(1000)).expect("created").state
}

fn snapshot(id: i64, parent: Option<i64>, sequence_number: i64, timestamp_ms: i64) -> Snapshot {
    Snapshot::builder()
        .with_snapshot_id(id)
        .with_parent_snapshot_id(parent)
        .with_sequence_number(sequence_number)
        .with_timestamp_ms(timestamp_ms)
        .with_manifest_list(format!("s3://b/t/metadata/snap-{id}.avro"))
        .with_summary(Summary { operation: Operation::Append, additional_properties: HashMap::new() })
        .build()
}

fn point(name: &str, snapshot_id: i64) -> TableUpdate {
    let retention =
        SnapshotRetention::Branch { min_snapshots_to_keep: None, max_snapshot_age_ms: None, max_ref_age_ms: None };
    TableUpdate::SetSnapshotRef { ref_name: name.to_owned(), reference: SnapshotReference { snapshot_id, retention } }
}

fn append(id: i64, parent: Option<i64>, sequence_number: i64, at: i64) -> Vec<TableUpdate> {
    let snapshot = snapshot(id, parent, sequence_number, at);
    vec![TableUpdate::AddSnapshot { snapshot }, point("main", id)]
}

fn commit(base: &TableState, updates: Vec<TableUpdate>, now_ms: i64) -> Result<Applied> {
    apply(&name(), Some(base), &[], updates, stamp(now_ms))
}

fn set(key: &str, value: &str) -> TableUpdate {
    TableUpdate::SetProperties { updates: HashMap::from([(key.to_owned(), value.to_owned())]) }
}

/// Two snapshots on main, ids 1 and 2.
fn two_snapshots() -> TableState {
    let base = commit(&new_table(&[]), append(1, None, 1, 2000), 2000).expect("applied").state;
    commit(&base, append(2, Some(1), 2, 3000), 3000).expect("applied").state
}

#[test]
fn the_same_commit_gives_the_same_bytes_and_the_bytes_give_the_same_state() {
    let properties = [("a", "1"), ("b", "2"), ("c", "3"), ("d", "4"), ("e", "5")];
    let (one, two) = (new_table(&properties), new_table(&properties));
    for updates in [vec![set("z", "9")], append(7, None, 1, 5000)] {
        let (one, two) = (commit(&one, updates.clone(), 4000), commit(&two, updates, 4000));
        let (one, two) = (one.expect("applied"), two.expect("applied"));
        assert_eq!(one.document, two.document);
        let back = read(&name(), one.location(), one.document.clone()).expect("reads back");
        assert_eq!(back.metadata, one.state.metadata);
        assert_eq!(back.refs, one.state.refs);
    }
}

#[test]
fn time_comes_from_the_stamp_and_never_runs_back() {
    let base = new_table(&[]);
    assert_eq!((base.metadata.last_updated_ms(), base.metadata.uuid()), (1000, Uuid::from_u128(1)));
    let later = commit(&base, vec![set("a", "1")], 7000).expect("applied").state;
    assert_eq!(later.metadata.last_updated_ms(), 7000);
    let behind = commit(&later, vec![set("a", "2")], 6000).expect("applied").state;
    assert_eq!(behind.metadata.last_updated_ms(), 7000);
    let log: Vec<_> = behind.metadata.metadata_log().iter().map(|l| l.timestamp_ms).collect();
    assert_eq!(log, [1000, 7000]);
}

#[test]
fn a_rollback_is_logged_at_the_time_of_the_stamp() {
    let base = two_snapshots();
    let back = commit(&base, vec![point("main", 1)], 9000).expect("applied").state;
    let log: Vec<_> = back.metadata.history().iter().map(|l| (l.snapshot_id, l.timestamp_ms)).collect();
    assert_eq!(log, [(1, 2000), (2, 3000), (1, 9000)]);
    assert_eq!((back.metadata.last_updated_ms(), back.metadata.last_sequence_number()), (9000, 2));
    // A snapshot that is added beside it gives its time to the whole commit.
    let beside = TableUpdate::AddSnapshot { snapshot: snapshot(3, Some(2), 3, 8000) };
    let back = commit(&base, vec![beside, point("main", 1), point("dev", 3)], 9000).expect("applied").state;
    assert_eq!(back.metadata.history().last().map(|l| (l.snapshot_id, l.timestamp_ms)), Some((1, 8000)));
}

#[test]
fn a_failing_requirement_is_named() {
    let base = two_snapshots();
    let pin = |id| TableRequirement::RefSnapshotIdMatch { r#ref: "main".to_owned(), snapshot_id: id };
    for (requirement, named) in [
        (pin(Some(9)), "assert-ref-snapshot-id"),
        (pin(None), "assert-ref-snapshot-id"),
        (TableRequirement::UuidMatch { uuid: Uuid::from_u128(9) }, "assert-table-uuid"),
        (TableRequirement::NotExist, "assert-create"),
    ] {
        let error = apply(&name(), Some(&base), &[requirement], vec![], stamp(4000)).expect_err("does not hold");
        assert_eq!(error.kind(), ErrorKind::Conflict);
        let begin = format!("commit to table db.t: requirement {named} does not hold: ");
        assert!(error.to_string().starts_with(&begin), "{error}");
    }
    let error = apply(&name(), None, &[pin(Some(1))], vec![], stamp(1)).expect_err("no table");
    assert_eq!(error.kind(), ErrorKind::NotFound);
    assert_eq!(
        apply(&name(), None, &[], vec![set("a", "b")], stamp(1)).expect_err("no table").kind(),
        ErrorKind::NotFound
    );
}

#[test]
fn a_sequence_number_that_is_not_above_the_last_is_refused_whatever_its_parent() {
    let base = two_snapshots();
    for (parent, number) in [(Some(2), 2), (Some(2), 1), (None, 2), (None, 0)] {
        let error = commit(&base, append(3, parent, number, 4000), 4000).expect_err("stale");
        assert_eq!(error.kind(), ErrorKind::Conflict, "{error:?}");
        assert!(error.to_string().contains("sequence number"), "{error}");
    }
    let twice = [append(3, Some(2), 3, 4000), append(4, Some(3), 3, 4000)].concat();
    assert!(commit(&base, twice, 4000).is_err());
}

#[test]
fn a_snapshot_goes_with_its_statistics_but_never_from_under_a_ref() {
    let base = two_snapshots();
    let statistics = StatisticsFile {
        snapshot_id: 1,
        statistics_path: "s3://b/t/metadata/1.stats".to_owned(),
        file_size_in_bytes: 1,
        file_footer_size_in_bytes: 1,
        key_metadata: None,
        blob_metadata: vec![],
    };
    let updates = vec![point("dev", 1), TableUpdate::SetStatistics { statistics }];
    let base = commit(&base, updates, 4000).expect("applied").state;
    let remove = || TableUpdate::RemoveSnapshots { snapshot_ids: vec![1] };
    let error = commit(&base, vec![remove()], 5000).expect_err("held");
    assert_eq!(error.kind(), ErrorKind::Conflict);
    assert!(error.to_string().contains("ref dev"), "{error}");
    // A ref set in the same request counts; one removed in it does not.
    assert!(
        commit(
            &base,
            vec![point("new", 1), TableUpdate::RemoveSnapshotRef { ref_name: "dev".to_owned() }, remove()],
            5000
        )
        .is_err()
    );
    let free = commit(&base, vec![TableUpdate::RemoveSnapshotRef { ref_name: "dev".to_owned() }, remove()], 5000);
    let free = free.expect("applied").state;
    assert_eq!((free.metadata.snapshots().len(), free.metadata.statistics_iter().len()), (1, 0));
}

#[test]
fn main_never_becomes_a_tag() {
    let reference = SnapshotReference { snapshot_id: 1, retention: SnapshotRetention::Tag { max_ref_age_ms: None } };
    let update = TableUpdate::SetSnapshotRef { ref_name: "main".to_owned(), reference };
    assert_eq!(commit(&two_snapshots(), vec![update], 5000).expect_err("a tag").kind(), ErrorKind::Input);
}

#[test]
fn the_properties_of_the_new_metadata_decide_how_it_is_packed() {
    let plain = new_table(&[]);
    assert!(
        plain
            .metadata_location
            .as_deref()
            .is_some_and(|l| l.ends_with("/00000-00000000-0000-0000-0000-0000000003e8.metadata.json"))
    );
    let packed = commit(&plain, vec![set(document::COMPRESSION, "gzip")], 2000).expect("applied");
    assert_eq!(packed.location(), "s3://b/t/metadata/00001-00000000-0000-0000-0000-0000000007d0.gz.metadata.json");
    assert!(packed.document.starts_with(&[0x1f, 0x8b]));
    let back = read(&name(), packed.location(), packed.document.clone()).expect("reads back");
    assert_eq!(back.metadata, packed.state.metadata);
    let error = commit(&plain, vec![set(document::COMPRESSION, "zstd")], 2000).expect_err("unknown");
    assert_eq!(error.kind(), ErrorKind::Input);
}

#[test]
fn old_documents_leave_the_log_and_are_deleted_only_when_the_table_says_so() {
    for (delete, expected) in [("false", 0), ("true", 1)] {
        let limits = [("write.metadata.previous-versions-max", "2"), (DELETE_AFTER_COMMIT, delete)];
        let mut base = new_table(&limits);
        let first = base.metadata_location.clone().expect("a location");
        for round in 0..2 {
            let applied = commit(&base, vec![set("round", &round.to_string())], 2000 + round).expect("applied");
            assert!(applied.expired.is_empty());
            base = applied.state;
        }
        let applied = commit(&base, vec![set("round", "last")], 3000).expect("applied");
        assert_eq!(applied.state.metadata.metadata_log().len(), 2);
        assert_eq!(applied.expired, vec![first; expected]);
    }
}

#[test]
fn a_new_table_of_format_version_1_or_with_a_spec_of_no_column_is_refused() {
    let old = CreateTable { format_version: FormatVersion::V1, ..creation(&[]) };
    assert_eq!(create(&old, "s3://b/t", Uuid::nil(), stamp(1)).expect_err("old").kind(), ErrorKind::Input);
    let spec = UnboundPartitionSpec::builder()
        .add_partition_field(99, "x", iceberg::spec::Transform::Identity)
        .expect("valid")
        .build();
    let lost = CreateTable { spec, ..creation(&[]) };
    assert_eq!(create(&lost, "s3://b/t", Uuid::nil(), stamp(1)).expect_err("lost").kind(), ErrorKind::Input);
}

#[test]
fn a_staged_creation_may_bring_its_first_snapshot_but_no_field_ids_of_its_own() {
    let schema = new_table(&[]).metadata.current_schema().as_ref().clone();
    let stage = |schema: Schema| {
        let mut updates = vec![
            TableUpdate::AssignUuid { uuid: Uuid::from_u128(42) },
            TableUpdate::UpgradeFormatVersion { format_version: FormatVersion::V2 },
            TableUpdate::AddSchema { schema },
            TableUpdate::SetCurrentSchema { schema_id: -1 },
            TableUpdate::SetLocation { location: "s3://b/t".to_owned() },
        ];
        updates.extend(append(1, None, 1, 2000));
        apply(&name(), None, &[TableRequirement::NotExist], updates, stamp(1000))
    };
    let state = stage(schema).expect("created").state;
    assert_eq!(state.metadata.uuid(), Uuid::from_u128(42));
    assert_eq!(state.head("main").map(|h| h.snapshot_id()), Some(1));
    assert_eq!(stage(creation(&[]).schema).expect_err("id 5").kind(), ErrorKind::Input);
}
