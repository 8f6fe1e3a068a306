//! Every update by itself, in a commit of its own, seen in the answer and in the next load.

use iceberg::spec::{PartitionStatisticsFile, SortOrder, StatisticsFile, Transform, UnboundPartitionSpec};
use serde_json::json;

use super::{
    Check, FormatVersion, NullOrder, SnapshotRetention, SortDirection, SortField, Subject, TableState, TableUpdate,
    add, branch_retention, rich, schema, set, set_ref, snapshot, table,
};

async fn created(s: &Subject, case: &str) -> Result<TableState, String> {
    s.created(&table(s.table(case, "t"))).await
}

/// Commits the updates; what `seen` says must hold for the answer and for the next load.
async fn shows(
    s: &Subject,
    state: &TableState,
    updates: Vec<TableUpdate>,
    seen: impl Fn(&TableState) -> Check,
) -> Result<TableState, String> {
    let answer = s.committed(state, updates).await?;
    seen(&answer).map_err(|e| format!("the answer: {e}"))?;
    let loaded = s.load(&state.name).await?;
    seen(&loaded).map_err(|e| format!("the next load: {e}"))?;
    Ok(loaded)
}

pub(super) async fn the_format_version_rises(s: &Subject) -> Check {
    let state = created(s, "upgrade").await?;
    let upgrade = vec![TableUpdate::UpgradeFormatVersion { format_version: FormatVersion::V3 }];
    shows(s, &state, upgrade, |t| {
        ensure!(t.metadata.format_version() == FormatVersion::V3, "version {}", t.metadata.format_version());
        Ok(())
    })
    .await?;
    Ok(())
}

fn wider() -> iceberg::spec::Schema {
    schema(json!([
        {"id": 1, "name": "id", "required": true, "type": "long"},
        {"id": 2, "name": "name", "required": false, "type": "string", "doc": "what it is called"},
        {"id": 3, "name": "at", "required": false, "type": "date"},
    ]))
}

/// The highest schema id.
fn newest_schema(state: &TableState) -> i32 {
    state.metadata.schemas_iter().map(|schema| schema.schema_id()).max().expect("a schema")
}

pub(super) async fn a_schema_is_added_and_set_by_its_id(s: &Subject) -> Check {
    let state = created(s, "schema").await?;
    let first = state.metadata.current_schema_id();
    let state = shows(s, &state, vec![TableUpdate::AddSchema { schema: wider() }], |t| {
        ensure!(t.metadata.current_schema_id() == first, "it is current already");
        ensure!(t.metadata.schemas_iter().len() == 2 && t.metadata.last_column_id() == 3, "it is not there");
        Ok(())
    })
    .await?;
    let second = newest_schema(&state);
    let state = shows(s, &state, vec![TableUpdate::SetCurrentSchema { schema_id: second }], |t| {
        ensure!(t.metadata.current_schema_id() == second, "schema {}", t.metadata.current_schema_id());
        ensure!(t.metadata.current_schema().field_by_name("at").is_some(), "without its column");
        Ok(())
    })
    .await?;
    shows(s, &state, vec![TableUpdate::SetCurrentSchema { schema_id: first }], |t| {
        ensure!(t.metadata.current_schema_id() == first, "it did not go back");
        ensure!(t.metadata.last_column_id() == 3, "the last column id fell");
        Ok(())
    })
    .await?;
    Ok(())
}

pub(super) async fn a_schema_is_added_and_set_at_once(s: &Subject) -> Check {
    let state = created(s, "schema_at_once").await?;
    let updates = vec![TableUpdate::AddSchema { schema: wider() }, TableUpdate::SetCurrentSchema { schema_id: -1 }];
    shows(s, &state, updates, |t| {
        let columns = t.metadata.current_schema().as_struct().fields().len();
        ensure!(columns == 3 && t.metadata.last_column_id() == 3, "{columns} columns");
        Ok(())
    })
    .await?;
    Ok(())
}

fn by_bucket() -> UnboundPartitionSpec {
    let builder = UnboundPartitionSpec::builder().with_spec_id(1);
    builder.add_partition_field(1, "id_bucket", Transform::Bucket(4)).expect("valid").build()
}

pub(super) async fn a_spec_is_added_and_set_by_its_id(s: &Subject) -> Check {
    let state = created(s, "spec").await?;
    let first = state.metadata.default_partition_spec_id();
    let state = shows(s, &state, vec![TableUpdate::AddSpec { spec: by_bucket() }], |t| {
        ensure!(t.metadata.default_partition_spec_id() == first, "it is the default already");
        ensure!(t.metadata.partition_specs_iter().len() == 2, "it is not there");
        Ok(())
    })
    .await?;
    let second = state.metadata.partition_specs_iter().map(|spec| spec.spec_id()).max().expect("a spec");
    shows(s, &state, vec![TableUpdate::SetDefaultSpec { spec_id: second }], |t| {
        let fields = t.metadata.default_partition_spec().fields();
        ensure!(fields.len() == 1 && fields[0].name == "id_bucket" && fields[0].field_id == 1000, "fields {fields:?}");
        ensure!(t.metadata.last_partition_id() == 1000, "last partition id {}", t.metadata.last_partition_id());
        Ok(())
    })
    .await?;
    Ok(())
}

pub(super) async fn a_spec_is_removed(s: &Subject) -> Check {
    let state = created(s, "spec_removed").await?;
    let first = state.metadata.default_partition_spec_id();
    let updates = vec![TableUpdate::AddSpec { spec: by_bucket() }, TableUpdate::SetDefaultSpec { spec_id: -1 }];
    let state = s.committed(&state, updates).await?;
    shows(s, &state, vec![TableUpdate::RemovePartitionSpecs { spec_ids: vec![first] }], |t| {
        ensure!(t.metadata.partition_spec_by_id(first).is_none(), "the spec stayed");
        Ok(())
    })
    .await?;
    Ok(())
}

pub(super) async fn a_schema_is_removed(s: &Subject) -> Check {
    let state = created(s, "schema_removed").await?;
    let first = state.metadata.current_schema_id();
    let updates = vec![TableUpdate::AddSchema { schema: wider() }, TableUpdate::SetCurrentSchema { schema_id: -1 }];
    let state = s.committed(&state, updates).await?;
    shows(s, &state, vec![TableUpdate::RemoveSchemas { schema_ids: vec![first] }], |t| {
        ensure!(t.metadata.schema_by_id(first).is_none(), "the schema stayed");
        Ok(())
    })
    .await?;
    Ok(())
}

pub(super) async fn a_sort_order_is_added_and_set_by_its_id(s: &Subject) -> Check {
    let state = created(s, "order").await?;
    let field = SortField {
        source_id: 2,
        transform: Transform::Truncate(4),
        direction: SortDirection::Ascending,
        null_order: NullOrder::First,
    };
    let builder = SortOrder::builder().with_order_id(1).with_fields(vec![field]).clone();
    let sort_order = builder.build(state.metadata.current_schema()).expect("valid");
    let state = shows(s, &state, vec![TableUpdate::AddSortOrder { sort_order }], |t| {
        ensure!(t.metadata.default_sort_order().fields.is_empty(), "it is the default already");
        ensure!(t.metadata.sort_orders_iter().len() == 2, "it is not there");
        Ok(())
    })
    .await?;
    let id = state.metadata.sort_orders_iter().map(|order| order.order_id).max().expect("an order");
    shows(s, &state, vec![TableUpdate::SetDefaultSortOrder { sort_order_id: id }], |t| {
        ensure!(t.metadata.default_sort_order().fields.len() == 1, "the sort order stayed");
        Ok(())
    })
    .await?;
    Ok(())
}

pub(super) async fn properties_are_set_and_removed(s: &Subject) -> Check {
    let state = s.created(&rich(s.table("properties", "t"), FormatVersion::V2)).await?;
    let state = shows(s, &state, vec![set("a", "1"), set("b", "ü \"2\"")], |t| {
        ensure!((t.property("a"), t.property("b")) == (Some("1"), Some("ü \"2\"")), "{:?}", t.metadata.properties());
        Ok(())
    })
    .await?;
    let state = shows(s, &state, vec![set("a", "3")], |t| {
        ensure!(t.property("a") == Some("3") && t.property("owner").is_some(), "{:?}", t.metadata.properties());
        Ok(())
    })
    .await?;
    let removals = vec!["a".to_owned(), "never-there".to_owned()];
    shows(s, &state, vec![TableUpdate::RemoveProperties { removals }], |t| {
        ensure!(t.property("a").is_none() && t.property("b").is_some(), "{:?}", t.metadata.properties());
        Ok(())
    })
    .await?;
    Ok(())
}

pub(super) async fn a_snapshot_is_added_without_a_ref(s: &Subject) -> Check {
    let state = created(s, "staged").await?;
    let state = s.appended(&state, "main").await?;
    let head = state.head("main").expect("a head").snapshot_id();
    let staged = snapshot(&state, "main", s.env.snapshot_id());
    let state = shows(s, &state, vec![add(&staged)], |t| {
        ensure!(t.metadata.snapshot_by_id(staged.snapshot_id()).is_some(), "the snapshot is not there");
        ensure!(t.head("main").map(|h| h.snapshot_id()) == Some(head), "it is head");
        ensure!(t.metadata.last_sequence_number() == 2, "last {}", t.metadata.last_sequence_number());
        Ok(())
    })
    .await?;
    // As it was sent: what the protocol looks for later stands in its summary.
    let found = state.metadata.snapshot_by_id(staged.snapshot_id()).expect("there");
    ensure!(found.summary().additional_properties == staged.summary().additional_properties, "{:?}", found.summary());
    ensure!(found.manifest_list() == staged.manifest_list(), "manifest list {}", found.manifest_list());
    ensure!(found.parent_snapshot_id() == Some(head), "parent {:?}", found.parent_snapshot_id());
    Ok(())
}

pub(super) async fn a_ref_is_set_moved_and_removed(s: &Subject) -> Check {
    let state = created(s, "refs").await?;
    let state = s.appended(&s.appended(&state, "main").await?, "main").await?;
    let head = state.head("main").expect("a head").clone();
    let parent = head.parent_snapshot_id().ok_or("no parent")?;
    let at = |t: &TableState, name: &str| t.refs.get(name).map(|r| r.snapshot_id);
    let tag = SnapshotRetention::Tag { max_ref_age_ms: None };
    let state = shows(s, &state, vec![set_ref("v1", parent, tag.clone())], |t| {
        ensure!(at(t, "v1") == Some(parent) && t.refs.get("v1").is_some_and(|r| !r.is_branch()), "{:?}", t.refs);
        Ok(())
    })
    .await?;
    let state = shows(s, &state, vec![set_ref("v1", head.snapshot_id(), tag)], |t| {
        ensure!(at(t, "v1") == Some(head.snapshot_id()), "{:?}", t.refs);
        Ok(())
    })
    .await?;
    let state = shows(s, &state, vec![set_ref("main", parent, branch_retention())], |t| {
        ensure!(at(t, "main") == Some(parent), "main did not go back: {:?}", t.refs);
        ensure!(t.metadata.last_sequence_number() == 2, "the last sequence number fell");
        Ok(())
    })
    .await?;
    shows(s, &state, vec![TableUpdate::RemoveSnapshotRef { ref_name: "v1".to_owned() }], |t| {
        ensure!(at(t, "v1").is_none() && t.refs.len() == 1, "{:?}", t.refs);
        ensure!(t.metadata.snapshots().len() == 2, "a snapshot went with the ref");
        Ok(())
    })
    .await?;
    Ok(())
}

pub(super) async fn a_snapshot_is_removed(s: &Subject) -> Check {
    let state = created(s, "removed").await?;
    let state = s.appended(&s.appended(&state, "main").await?, "main").await?;
    let parent = state.head("main").and_then(|head| head.parent_snapshot_id()).ok_or("no parent")?;
    shows(s, &state, vec![TableUpdate::RemoveSnapshots { snapshot_ids: vec![parent] }], |t| {
        ensure!(t.metadata.snapshot_by_id(parent).is_none(), "the snapshot stayed");
        ensure!(t.head("main").and_then(|head| head.parent_snapshot_id()) == Some(parent), "the head lost its parent");
        ensure!(t.metadata.last_sequence_number() == 2, "the last sequence number fell");
        Ok(())
    })
    .await?;
    Ok(())
}

pub(super) async fn statistics_are_set_and_removed(s: &Subject) -> Check {
    let state = created(s, "statistics").await?;
    let state = s.appended(&state, "main").await?;
    let snapshot_id = state.head("main").expect("a head").snapshot_id();
    let statistics = StatisticsFile {
        snapshot_id,
        statistics_path: format!("{}/metadata/a.stats", state.metadata.location()),
        file_size_in_bytes: 100,
        file_footer_size_in_bytes: 40,
        key_metadata: None,
        blob_metadata: vec![],
    };
    let state = shows(s, &state, vec![TableUpdate::SetStatistics { statistics: statistics.clone() }], |t| {
        ensure!(t.metadata.statistics_for_snapshot(snapshot_id) == Some(&statistics), "they are not there");
        Ok(())
    })
    .await?;
    shows(s, &state, vec![TableUpdate::RemoveStatistics { snapshot_id }], |t| {
        ensure!(t.metadata.statistics_iter().len() == 0, "they stayed");
        Ok(())
    })
    .await?;
    Ok(())
}

pub(super) async fn partition_statistics_are_set_and_removed(s: &Subject) -> Check {
    let state = created(s, "partition_statistics").await?;
    let state = s.appended(&state, "main").await?;
    let snapshot_id = state.head("main").expect("a head").snapshot_id();
    let partition_statistics = PartitionStatisticsFile {
        snapshot_id,
        statistics_path: format!("{}/metadata/p.parquet", state.metadata.location()),
        file_size_in_bytes: 10,
    };
    let set = vec![TableUpdate::SetPartitionStatistics { partition_statistics: partition_statistics.clone() }];
    let state = shows(s, &state, set, |t| {
        let found = t.metadata.partition_statistics_for_snapshot(snapshot_id);
        ensure!(found == Some(&partition_statistics), "they are not there");
        Ok(())
    })
    .await?;
    shows(s, &state, vec![TableUpdate::RemovePartitionStatistics { snapshot_id }], |t| {
        ensure!(t.metadata.partition_statistics_iter().len() == 0, "they stayed");
        Ok(())
    })
    .await?;
    Ok(())
}

pub(super) async fn the_location_moves(s: &Subject) -> Check {
    let state = created(s, "location").await?;
    let location = format!("{}-moved", state.metadata.location());
    shows(s, &state, vec![TableUpdate::SetLocation { location: location.clone() }], |t| {
        ensure!(t.metadata.location() == location, "location {}", t.metadata.location());
        ensure!(t.metadata.uuid() == state.metadata.uuid(), "another table");
        Ok(())
    })
    .await?;
    Ok(())
}
