//! What every catalog must do, as one suite: `run` it over a [`Subject`]. Reads nothing from the environment: the integration
//! tests point it at real servers.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use frazil::catalog::{Catalog, CreateTable, Outcome, PreparedCommit};
use frazil::env::Env;
use frazil::error::{Error, ErrorKind};
use frazil::model::ids::TableName;
use frazil::model::table::TableState;
use futures::FutureExt;
use futures::future::BoxFuture;
use iceberg::spec::{
    FormatVersion, NullOrder, Operation, Schema, Snapshot, SnapshotReference, SnapshotRetention, SortDirection,
    SortField, SortOrder, Summary, Transform, UnboundPartitionSpec,
};
use iceberg::{TableRequirement, TableUpdate};
use serde_json::json;

/// A catalog under test.
pub(crate) struct Subject {
    /// Stands before every failure.
    pub(crate) name: &'static str,
    pub(crate) catalog: Arc<dyn Catalog>,
    /// Begins every namespace of the run: fresh for each run over a server that remembers.
    pub(crate) prefix: String,
    /// Cases that this product is known to fail, with the reason; they must fail.
    pub(crate) known: Vec<(String, String)>,
    pub(crate) env: Env,
}

pub(crate) type Check = Result<(), String>;
pub(crate) type Case = (&'static str, for<'a> fn(&'a Subject) -> BoxFuture<'a, Check>);

macro_rules! ensure {
    ($holds:expr, $($message:tt)+) => {
        if !$holds {
            return Err(format!($($message)+));
        }
    };
}

macro_rules! cases {
    ($($name:ident),* $(,)?) => {
        &[$((stringify!($name), |s| $name(s).boxed())),*]
    };
}

// Beside this file, whichever binary takes the suite.
#[path = "requirements.rs"]
mod requirements;
#[path = "updates.rs"]
mod updates;

use requirements::*;
use updates::*;

/// Every case, by name.
pub(crate) const CASES: &[Case] = cases![
    a_table_loads_as_it_was_created,
    field_ids_of_a_new_table_are_assigned_level_by_level,
    format_version_3_starts_with_row_id_0,
    a_second_table_of_one_name_is_refused,
    a_missing_table_is_not_found,
    a_missing_namespace_has_no_tables_to_list,
    namespaces_nest_and_list_in_order,
    a_namespace_that_is_not_empty_stays,
    odd_names_come_back_as_they_were,
    names_with_characters_of_urls_come_back_as_they_were,
    a_renamed_table_keeps_its_identity,
    a_dropped_table_can_be_registered_again,
    assert_table_uuid_decides,
    assert_create_refuses_a_table_that_is_there,
    assert_ref_snapshot_id_decides,
    a_pin_on_a_ref_that_is_not_there_refuses,
    assert_last_assigned_field_id_decides,
    assert_current_schema_id_decides,
    assert_last_assigned_partition_id_decides,
    assert_default_spec_id_decides,
    assert_default_sort_order_id_decides,
    a_null_pin_lets_one_first_snapshot_in,
    a_null_pin_is_about_its_own_branch,
    a_null_pin_holds_again_once_the_branch_is_gone,
    the_format_version_rises,
    a_schema_is_added_and_set_by_its_id,
    a_schema_is_added_and_set_at_once,
    a_schema_is_removed,
    a_spec_is_added_and_set_by_its_id,
    a_spec_is_removed,
    a_sort_order_is_added_and_set_by_its_id,
    properties_are_set_and_removed,
    a_snapshot_is_added_without_a_ref,
    a_snapshot_is_removed,
    a_ref_is_set_moved_and_removed,
    statistics_are_set_and_removed,
    partition_statistics_are_set_and_removed,
    the_location_moves,
    retention_of_refs_is_kept,
    updates_of_one_request_are_all_or_nothing,
    a_stale_sequence_number_is_refused,
    a_stale_sequence_number_without_parent_is_refused,
    an_old_request_after_a_rollback_to_its_base_is_refused,
    a_snapshot_id_is_taken_once,
    a_snapshot_with_a_ref_is_not_removed,
    a_load_sees_the_commit_before_it,
    a_commit_to_a_missing_table_creates_nothing,
    concurrent_committers_lose_nothing,
];

/// Runs every case; panics with all that surprise, each naming the catalog and the case: failures that its profile does not
/// know, and ones that it knows and that are gone.
pub(crate) async fn run(subject: &Subject) {
    for (known, _) in &subject.known {
        assert!(CASES.iter().any(|(name, _)| name == known), "{}: no case is called {known}", subject.name);
    }
    let mut surprises = Vec::new();
    for (name, case) in CASES {
        let known = subject.known.iter().find(|(known, _)| known == name);
        match (case(subject).await, known) {
            (Ok(()), None) | (Err(_), Some(_)) => {}
            (Err(why), None) => surprises.push(format!("{}: {name}: {why}", subject.name)),
            (Ok(()), Some((_, says))) => {
                surprises
                    .push(format!("{}: {name} passes: take it out of the profile, which says {says:?}", subject.name));
            }
        }
    }
    assert!(surprises.is_empty(), "\n{}", surprises.join("\n"));
}

impl Subject {
    /// A subject that must pass everything.
    pub(crate) fn new(name: &'static str, catalog: Arc<dyn Catalog>) -> Self {
        Self { name, catalog, prefix: "contract".to_owned(), known: Vec::new(), env: Env::system() }
    }

    fn table(&self, case: &str, name: &str) -> TableName {
        TableName::new(vec![format!("{}_{case}", self.prefix)], name).expect("a valid name")
    }

    async fn created(&self, table: &CreateTable) -> Result<TableState, String> {
        committed(self.catalog.create(table).await)
    }

    async fn commit(
        &self,
        state: &TableState,
        requirements: Vec<TableRequirement>,
        updates: Vec<TableUpdate>,
    ) -> Outcome {
        let idempotency_key = self.env.uuid();
        let commit = PreparedCommit { table: state.name.clone(), requirements, updates, idempotency_key };
        self.catalog.commit(&commit).await
    }

    async fn committed(&self, state: &TableState, updates: Vec<TableUpdate>) -> Result<TableState, String> {
        committed(self.commit(state, Vec::new(), updates).await)
    }

    async fn appended(&self, state: &TableState, branch: &str) -> Result<TableState, String> {
        let snapshot = snapshot(state, branch, self.env.snapshot_id());
        let updates = vec![add(&snapshot), set_ref(branch, snapshot.snapshot_id(), branch_retention())];
        committed(self.commit(state, pins(state, branch), updates).await)
    }

    async fn load(&self, table: &TableName) -> Result<TableState, String> {
        self.catalog.load(table).await.map_err(|e| format!("load: {e:?}"))
    }
}

// Builders.

/// The creation of a table with two columns.
pub(crate) fn table(name: TableName) -> CreateTable {
    CreateTable {
        name,
        location: None,
        schema: schema(json!([
            {"id": 1, "name": "id", "required": true, "type": "long"},
            {"id": 2, "name": "name", "required": false, "type": "string", "doc": "what it is called"},
        ])),
        spec: UnboundPartitionSpec::default(),
        sort_order: SortOrder::unsorted_order(),
        format_version: FormatVersion::V2,
        properties: HashMap::new(),
    }
}

/// A schema of these fields.
pub(crate) fn schema(fields: serde_json::Value) -> Schema {
    serde_json::from_value(json!({"type": "struct", "schema-id": 0, "fields": fields})).expect("a valid schema")
}

/// The next snapshot on `branch`; its manifest list is only a name.
pub(crate) fn snapshot(state: &TableState, branch: &str, id: i64) -> Snapshot {
    let metadata = &state.metadata;
    let parent = state.head(branch).map(|s| s.snapshot_id());
    numbered(state, id, parent, metadata.last_sequence_number() + 1)
}

/// A snapshot with this parent and sequence number.
pub(crate) fn numbered(state: &TableState, id: i64, parent: Option<i64>, sequence_number: i64) -> Snapshot {
    let metadata = &state.metadata;
    let summary = Summary { operation: Operation::Append, additional_properties: HashMap::new() };
    let snapshot = Snapshot::builder()
        .with_snapshot_id(id)
        .with_parent_snapshot_id(parent)
        .with_sequence_number(sequence_number)
        .with_timestamp_ms(metadata.last_updated_ms() + 1)
        .with_manifest_list(format!("{}/metadata/snap-{id}.avro", metadata.location()))
        .with_summary(summary)
        .with_schema_id(metadata.current_schema_id());
    match metadata.format_version() {
        FormatVersion::V3 => snapshot.with_row_range(metadata.next_row_id(), 3).build(),
        _ => snapshot.build(),
    }
}

fn add(snapshot: &Snapshot) -> TableUpdate {
    TableUpdate::AddSnapshot { snapshot: snapshot.clone() }
}

fn set_ref(name: &str, snapshot_id: i64, retention: SnapshotRetention) -> TableUpdate {
    TableUpdate::SetSnapshotRef { ref_name: name.to_owned(), reference: SnapshotReference { snapshot_id, retention } }
}

fn branch_retention() -> SnapshotRetention {
    SnapshotRetention::Branch { min_snapshots_to_keep: None, max_snapshot_age_ms: None, max_ref_age_ms: None }
}

fn set(key: &str, value: &str) -> TableUpdate {
    TableUpdate::SetProperties { updates: HashMap::from([(key.to_owned(), value.to_owned())]) }
}

fn pin(branch: &str, snapshot_id: Option<i64>) -> TableRequirement {
    TableRequirement::RefSnapshotIdMatch { r#ref: branch.to_owned(), snapshot_id }
}

fn pins(state: &TableState, branch: &str) -> Vec<TableRequirement> {
    let head = state.head(branch).map(|s| s.snapshot_id());
    vec![TableRequirement::UuidMatch { uuid: state.metadata.uuid() }, pin(branch, head)]
}

// Checks.

fn committed(outcome: Outcome) -> Result<TableState, String> {
    match outcome {
        Outcome::Committed(state) => Ok(*state),
        other => Err(format!("not committed: {other:?}")),
    }
}

fn refused(outcome: Outcome, what: &str) -> Result<Error, String> {
    match outcome {
        Outcome::Refused(error) => Ok(error),
        other => Err(format!("{what}: not refused: {other:?}")),
    }
}

fn conflict(outcome: Outcome, what: &str) -> Check {
    let error = refused(outcome, what)?;
    ensure!(error.kind() == ErrorKind::Conflict, "{what}: refused, but not as a conflict: {error:?}");
    Ok(())
}

fn kind<T: std::fmt::Debug>(answer: frazil::error::Result<T>, expected: ErrorKind, what: &str) -> Check {
    match answer {
        Err(e) if e.kind() == expected => Ok(()),
        other => Err(format!("{what}: expected {expected:?}, got {other:?}")),
    }
}

fn ok<T>(answer: frazil::error::Result<T>, what: &str) -> Result<T, String> {
    answer.map_err(|e| format!("{what}: {e:?}"))
}

// Cases.

fn rich(name: TableName, format_version: FormatVersion) -> CreateTable {
    let nested = schema(json!([
        {"id": 1, "name": "id", "required": true, "type": "long"},
        {"id": 2, "name": "at", "required": false, "type": "timestamptz"},
        {"id": 3, "name": "place", "required": false, "type": {"type": "struct", "fields": [
            {"id": 4, "name": "lat", "required": false, "type": "double"},
            {"id": 5, "name": "price", "required": false, "type": "decimal(9, 2)"},
        ]}},
        {"id": 6, "name": "tags", "required": false, "type":
            {"type": "list", "element-id": 7, "element-required": false, "element": "string"}},
        {"id": 8, "name": "counts", "required": false, "type":
            {"type": "map", "key-id": 9, "key": "string", "value-id": 10, "value-required": false, "value": "int"}},
    ]));
    let spec = UnboundPartitionSpec::builder()
        .with_spec_id(0)
        .add_partition_field(2, "at_day", Transform::Day)
        .and_then(|b| b.add_partition_field(1, "id_bucket", Transform::Bucket(16)))
        .expect("valid")
        .build();
    let field = SortField {
        source_id: 1,
        transform: Transform::Identity,
        direction: SortDirection::Descending,
        null_order: NullOrder::Last,
    };
    let sort_order = SortOrder::builder().with_order_id(1).with_fields(vec![field]).build(&nested).expect("valid");
    let properties = HashMap::from([("owner".to_owned(), "contract".to_owned())]);
    CreateTable { schema: nested, spec, sort_order, properties, format_version, ..table(name) }
}

async fn a_table_loads_as_it_was_created(s: &Subject) -> Check {
    for (name, version) in [("two", FormatVersion::V2), ("three", FormatVersion::V3)] {
        let create = rich(s.table("create", name), version);
        let answer = s.created(&create).await?;
        let loaded = s.load(&create.name).await?;
        let metadata = &loaded.metadata;
        ensure!(metadata.uuid() == answer.metadata.uuid(), "another uuid was loaded than answered");
        ensure!(metadata.format_version() == version, "format version {}", metadata.format_version());
        let columns: Vec<_> = metadata.current_schema().as_struct().fields().iter().map(|f| f.name.as_str()).collect();
        ensure!(columns == ["id", "at", "place", "tags", "counts"], "columns {columns:?}");
        let column = |name: &str| metadata.current_schema().field_id_by_name(name);
        ensure!(column("place.price").is_some() && column("counts.value").is_some(), "nested columns are missing");
        let fields = metadata.default_partition_spec().fields();
        let spec: Vec<_> =
            fields.iter().map(|f| (f.name.as_str(), Some(f.source_id), f.transform, f.field_id)).collect();
        let expected =
            [("at_day", column("at"), Transform::Day, 1000), ("id_bucket", column("id"), Transform::Bucket(16), 1001)];
        ensure!(spec == expected, "spec {spec:?}");
        let order = metadata.default_sort_order();
        let sorted: Vec<_> = order.fields.iter().map(|f| (Some(f.source_id), f.direction, f.null_order)).collect();
        ensure!(sorted == [(column("id"), SortDirection::Descending, NullOrder::Last)], "order {order:?}");
        ensure!(loaded.property("owner") == Some("contract"), "properties {:?}", metadata.properties());
        ensure!(loaded.metadata_location.is_some(), "no metadata location");
        ensure!(!metadata.location().is_empty() && loaded.refs.is_empty(), "refs {:?}", loaded.refs);
    }
    Ok(())
}

async fn field_ids_of_a_new_table_are_assigned_level_by_level(s: &Subject) -> Check {
    let mut create = rich(s.table("ids", "t"), FormatVersion::V2);
    // Proposals out of order: what counts is the answer.
    let text = serde_json::to_string(&create.schema).expect("json").replace("\"id\":1,", "\"id\":71,");
    create.schema = serde_json::from_str(&text).expect("schema");
    create.spec = UnboundPartitionSpec::builder()
        .with_spec_id(0)
        .add_partition_field(71, "id_bucket", Transform::Bucket(4))
        .expect("valid")
        .build();
    create.sort_order = SortOrder::unsorted_order();
    let state = s.created(&create).await?;
    let schema = state.metadata.current_schema();
    let names = ["id", "at", "place", "tags", "counts", "place.lat", "place.price", "tags.element", "counts.key"];
    let ids: Vec<_> = names.iter().map(|name| schema.field_id_by_name(name)).collect();
    ensure!(ids == (1..=9).map(Some).collect::<Vec<_>>(), "ids {ids:?}");
    ensure!(state.metadata.last_column_id() == 10, "last column id {}", state.metadata.last_column_id());
    ensure!(state.metadata.default_partition_spec().fields()[0].source_id == 1, "the spec was not bound by column");
    Ok(())
}

async fn format_version_3_starts_with_row_id_0(s: &Subject) -> Check {
    let state = s.created(&CreateTable { format_version: FormatVersion::V3, ..table(s.table("v3", "t")) }).await?;
    ensure!(state.metadata.next_row_id() == 0, "next row id {}", state.metadata.next_row_id());
    let state = s.appended(&state, "main").await?;
    let state = s.appended(&state, "main").await?;
    ensure!(state.metadata.next_row_id() == 6, "next row id {}", state.metadata.next_row_id());
    Ok(())
}

async fn a_second_table_of_one_name_is_refused(s: &Subject) -> Check {
    let create = table(s.table("twice", "t"));
    let first = s.created(&create).await?;
    conflict(s.catalog.create(&create).await, "create again")?;
    ensure!(s.load(&create.name).await?.metadata.uuid() == first.metadata.uuid(), "the table was replaced");
    Ok(())
}

async fn a_missing_table_is_not_found(s: &Subject) -> Check {
    s.created(&table(s.table("missing", "t"))).await?;
    kind(s.catalog.load(&s.table("missing", "other")).await, ErrorKind::NotFound, "load")?;
    kind(s.catalog.drop_table(&s.table("missing", "other")).await, ErrorKind::NotFound, "drop")?;
    let (from, to) = (s.table("missing", "other"), s.table("missing", "else"));
    kind(s.catalog.rename(&from, &to).await, ErrorKind::NotFound, "rename")?;
    kind(s.catalog.load(&s.table("nowhere", "t")).await, ErrorKind::NotFound, "load in a missing namespace")
}

async fn a_missing_namespace_has_no_tables_to_list(s: &Subject) -> Check {
    kind(s.catalog.tables(s.table("nowhere", "t").namespace()).await, ErrorKind::NotFound, "list")
}

async fn namespaces_nest_and_list_in_order(s: &Subject) -> Check {
    let top = vec![format!("{}_nest", s.prefix)];
    let below = |name: &str| vec![top[0].clone(), name.to_owned()];
    let properties = BTreeMap::from([("owner".to_owned(), "contract".to_owned())]);
    ok(s.catalog.create_namespace(&top, &properties).await, "create")?;
    for name in ["c", "a", "b"] {
        ok(s.catalog.create_namespace(&below(name), &BTreeMap::new()).await, "create below")?;
    }
    kind(s.catalog.create_namespace(&below("a"), &BTreeMap::new()).await, ErrorKind::Conflict, "create again")?;
    let listed = ok(s.catalog.namespaces(&top).await, "list")?;
    ensure!(listed == [below("a"), below("b"), below("c")], "listed {listed:?}");
    let tops = ok(s.catalog.namespaces(&[]).await, "list the top level")?;
    ensure!(tops.contains(&top) && tops.iter().all(|n| n.len() == 1), "top level {tops:?}");
    let name = TableName::new(below("b"), "t").expect("valid");
    s.created(&table(name.clone())).await?;
    ensure!(ok(s.catalog.tables(&below("b")).await, "tables")? == [name], "the table below is not listed");
    ensure!(ok(s.catalog.tables(&top).await, "tables")?.is_empty(), "a table below is listed above");
    ok(s.catalog.drop_namespace(&below("a")).await, "drop")?;
    kind(s.catalog.drop_namespace(&below("a")).await, ErrorKind::NotFound, "drop again")
}

async fn a_namespace_that_is_not_empty_stays(s: &Subject) -> Check {
    let create = table(s.table("full", "t"));
    s.created(&create).await?;
    kind(s.catalog.drop_namespace(create.name.namespace()).await, ErrorKind::Conflict, "drop")?;
    s.load(&create.name).await?;
    ok(s.catalog.drop_table(&create.name).await, "drop the table")?;
    ok(s.catalog.drop_namespace(create.name.namespace()).await, "drop when empty")
}

async fn odd_names_come_back_as_they_were(s: &Subject) -> Check {
    let odd = ["with space", "dot.ted", "größe", "a+b&c=d", "UPPER", "quo'te\"d", "日本", "a,b:c@d", "~tilde"];
    names_come_back(s, vec![format!("{}_odd", s.prefix), "sub name ü".to_owned()], &odd).await
}

async fn names_with_characters_of_urls_come_back_as_they_were(s: &Subject) -> Check {
    names_come_back(
        s,
        vec![format!("{}_url", s.prefix), "x/y.z%".to_owned()],
        &["a/b", "100%25", "semi;colon", "back\\slash"],
    )
    .await
}

async fn names_come_back(s: &Subject, namespace: Vec<String>, names: &[&str]) -> Check {
    for name in names {
        let name = TableName::new(namespace.clone(), *name).expect("valid");
        let state = s.created(&table(name.clone())).await.map_err(|e| format!("{name}: {e}"))?;
        let state = s.appended(&state, "main").await.map_err(|e| format!("{name}: {e}"))?;
        let loaded = s.load(&name).await?;
        ensure!(loaded.name == name && loaded.metadata.uuid() == state.metadata.uuid(), "{name} is another table");
    }
    let mut expected: Vec<_> = names.iter().map(|n| TableName::new(namespace.clone(), *n).expect("valid")).collect();
    expected.sort();
    let listed = ok(s.catalog.tables(&namespace).await, "list")?;
    ensure!(listed == expected, "listed {listed:?}");
    ensure!(ok(s.catalog.namespaces(&namespace[..1]).await, "list")? == [namespace], "the odd namespace is not listed");
    Ok(())
}

async fn a_renamed_table_keeps_its_identity(s: &Subject) -> Check {
    let (from, to) = (s.table("rename", "from"), s.table("rename", "to"));
    let state = s.created(&table(from.clone())).await?;
    s.created(&table(s.table("rename", "there"))).await?;
    kind(s.catalog.rename(&from, &s.table("rename", "there")).await, ErrorKind::Conflict, "rename onto another")?;
    ok(s.catalog.rename(&from, &to).await, "rename")?;
    kind(s.catalog.load(&from).await, ErrorKind::NotFound, "load the old name")?;
    let renamed = s.load(&to).await?;
    ensure!(renamed.metadata.uuid() == state.metadata.uuid(), "another uuid");
    s.appended(&renamed, "main").await?;
    let again = s.created(&table(from)).await?;
    ensure!(again.metadata.uuid() != state.metadata.uuid(), "the old name has the old uuid");
    Ok(())
}

async fn a_dropped_table_can_be_registered_again(s: &Subject) -> Check {
    let (name, other) = (s.table("register", "t"), s.table("register", "again"));
    let state = s.created(&table(name.clone())).await?;
    let state = s.appended(&state, "main").await?;
    let location = state.metadata_location.clone().ok_or("no metadata location")?;
    conflict(s.catalog.register(&name, &location).await, "register a taken name")?;
    ok(s.catalog.drop_table(&name).await, "drop")?;
    kind(s.catalog.load(&name).await, ErrorKind::NotFound, "load after the drop")?;
    let registered = committed(s.catalog.register(&other, &location).await)?;
    ensure!(registered.metadata.uuid() == state.metadata.uuid(), "another uuid");
    let loaded = s.load(&other).await?;
    let head = |t: &TableState| t.head("main").map(|s| s.snapshot_id());
    ensure!(head(&loaded) == head(&state) && head(&loaded).is_some(), "another head");
    s.appended(&loaded, "main").await?;
    let nothing = format!("{}/metadata/00009-nothing.metadata.json", loaded.metadata.location());
    refused(s.catalog.register(&name, &nothing).await, "register nothing").map(drop)
}

async fn retention_of_refs_is_kept(s: &Subject) -> Check {
    let state = s.created(&table(s.table("retention", "t"))).await?;
    let state = s.appended(&state, "main").await?;
    let id = state.head("main").expect("a head").snapshot_id();
    let branch = SnapshotRetention::Branch {
        min_snapshots_to_keep: Some(7),
        max_snapshot_age_ms: Some(86_400_000),
        max_ref_age_ms: Some(172_800_000),
    };
    let tag = SnapshotRetention::Tag { max_ref_age_ms: Some(1_000_000_000_000) };
    let updates = vec![set_ref("audit", id, branch.clone()), set_ref("v1", id, tag.clone())];
    let state = s.committed(&state, updates).await?;
    // Commits to other refs, to the ref itself, and of other things leave what they do not name.
    let state = s.appended(&state, "main").await?;
    let next = snapshot(&state, "audit", s.env.snapshot_id());
    let moved = vec![add(&next), set_ref("audit", next.snapshot_id(), branch.clone())];
    let state = committed(s.commit(&state, pins(&state, "audit"), moved).await)?;
    s.committed(&state, vec![set("a", "b")]).await?;
    let loaded = s.load(&state.name).await?;
    let retention = |name: &str| loaded.refs.get(name).map(|r| r.retention.clone());
    ensure!(retention("audit") == Some(branch) && retention("v1") == Some(tag), "refs {:?}", loaded.refs);
    ensure!(loaded.refs.len() == 3, "refs {:?}", loaded.refs);
    Ok(())
}

async fn updates_of_one_request_are_all_or_nothing(s: &Subject) -> Check {
    let state = s.created(&table(s.table("atomic", "t"))).await?;
    let state = s.appended(&state, "main").await?;
    let good = snapshot(&state, "main", s.env.snapshot_id());
    let updates = vec![
        set("half", "done"),
        add(&good),
        set_ref("main", good.snapshot_id(), branch_retention()),
        set_ref("dev", s.env.snapshot_id(), branch_retention()),
    ];
    refused(s.commit(&state, pins(&state, "main"), updates).await, "a ref to nowhere")?;
    let loaded = s.load(&state.name).await?;
    ensure!(loaded.property("half").is_none(), "the first update was applied");
    ensure!(loaded.metadata.snapshots().len() == 1 && loaded.refs == state.refs, "the second update was applied");
    ensure!(loaded.metadata_location == state.metadata_location, "a new document was made");
    Ok(())
}

async fn a_stale_sequence_number_is_refused(s: &Subject) -> Check {
    let state = s.created(&table(s.table("stale", "t"))).await?;
    let state = s.appended(&s.appended(&state, "main").await?, "main").await?;
    let head = state.head("main").map(|h| h.snapshot_id());
    for number in [1, 2] {
        let old = numbered(&state, s.env.snapshot_id(), head, number);
        let updates = vec![add(&old), set_ref("main", old.snapshot_id(), branch_retention())];
        refused(s.commit(&state, pins(&state, "main"), updates).await, &format!("sequence number {number}"))?;
    }
    ensure!(s.load(&state.name).await?.metadata.last_sequence_number() == 2, "the last sequence number moved");
    Ok(())
}

async fn a_stale_sequence_number_without_parent_is_refused(s: &Subject) -> Check {
    let state = s.created(&table(s.table("stale_root", "t"))).await?;
    let state = s.appended(&s.appended(&state, "main").await?, "main").await?;
    let old = numbered(&state, s.env.snapshot_id(), None, 1);
    let updates = vec![add(&old), set_ref("dev", old.snapshot_id(), branch_retention())];
    refused(s.commit(&state, vec![pin("dev", None)], updates).await, "sequence number 1")?;
    ensure!(s.load(&state.name).await?.metadata.last_sequence_number() == 2, "the last sequence number fell");
    Ok(())
}

/// The only guard against a request that arrives minutes late: the pin holds again, the sequence number does not.
async fn an_old_request_after_a_rollback_to_its_base_is_refused(s: &Subject) -> Check {
    let state = s.created(&table(s.table("late", "t"))).await?;
    let base = s.appended(&state, "main").await?;
    let head = base.head("main").expect("a head").snapshot_id();
    let old = snapshot(&base, "main", s.env.snapshot_id());
    let state = s.appended(&base, "main").await?;
    let state = s.committed(&state, vec![set_ref("main", head, branch_retention())]).await?;
    let updates = vec![add(&old), set_ref("main", old.snapshot_id(), branch_retention())];
    refused(s.commit(&state, pins(&base, "main"), updates).await, "the old request")?;
    let loaded = s.load(&state.name).await?;
    ensure!(loaded.head("main").map(|h| h.snapshot_id()) == Some(head), "the old snapshot is head");
    ensure!(loaded.metadata.snapshot_by_id(old.snapshot_id()).is_none(), "the old snapshot is in");
    Ok(())
}

async fn a_snapshot_id_is_taken_once(s: &Subject) -> Check {
    let state = s.created(&table(s.table("one_id", "t"))).await?;
    let state = s.appended(&state, "main").await?;
    let again = snapshot(&state, "main", state.head("main").expect("a head").snapshot_id());
    refused(s.commit(&state, pins(&state, "main"), vec![add(&again)]).await, "an id that is there")?;
    ensure!(s.load(&state.name).await?.metadata.last_sequence_number() == 1, "the last sequence number moved");
    Ok(())
}

async fn a_snapshot_with_a_ref_is_not_removed(s: &Subject) -> Check {
    let state = s.created(&table(s.table("held", "t"))).await?;
    let state = s.appended(&s.appended(&state, "main").await?, "main").await?;
    let head = state.head("main").expect("a head");
    let old = head.parent_snapshot_id().ok_or("no parent")?;
    let tag = SnapshotRetention::Tag { max_ref_age_ms: None };
    let state = s.committed(&state, vec![set_ref("v1", old, tag)]).await?;
    let remove = vec![TableUpdate::RemoveSnapshots { snapshot_ids: vec![old] }];
    conflict(s.commit(&state, pins(&state, "main"), remove).await, "remove a tagged snapshot")?;
    let loaded = s.load(&state.name).await?;
    ensure!(loaded.head("v1").is_some_and(|v| v.snapshot_id() == old), "the tag vanished");
    Ok(())
}

async fn a_load_sees_the_commit_before_it(s: &Subject) -> Check {
    let mut state = s.created(&table(s.table("fresh", "t"))).await?;
    for _ in 0..5 {
        state = s.appended(&state, "main").await?;
        let loaded = s.load(&state.name).await?;
        let key = |t: &TableState| (t.metadata.last_sequence_number(), t.metadata_location.clone(), t.refs.clone());
        ensure!(key(&loaded) == key(&state), "loaded {:?}, answered {:?}", key(&loaded), key(&state));
    }
    Ok(())
}

async fn a_commit_to_a_missing_table_creates_nothing(s: &Subject) -> Check {
    let state = s.created(&table(s.table("gone", "t"))).await?;
    ok(s.catalog.drop_table(&state.name).await, "drop")?;
    let error = refused(s.commit(&state, pins(&state, "main"), vec![set("a", "b")]).await, "commit")?;
    ensure!(error.kind() == ErrorKind::NotFound, "{error:?}");
    kind(s.catalog.load(&state.name).await, ErrorKind::NotFound, "load")
}

async fn concurrent_committers_lose_nothing(s: &Subject) -> Check {
    const COMMITTERS: usize = 32;
    let state = s.created(&table(s.table("race", "t"))).await?;
    let name = state.name.clone();
    let committers = (0..COMMITTERS).map(|_| async {
        let id = s.env.snapshot_id();
        for _ in 0..4 * COMMITTERS {
            let state = s.load(&name).await?;
            let next = snapshot(&state, "main", id);
            let updates = vec![add(&next), set_ref("main", id, branch_retention()), set(&format!("by-{id}"), "x")];
            match s.commit(&state, pins(&state, "main"), updates).await {
                Outcome::Committed(_) => return Ok(id),
                Outcome::Refused(e) if e.kind() == ErrorKind::Conflict => {}
                other => return Err(format!("{other:?}")),
            }
        }
        Err("a committer starved".to_owned())
    });
    let mut ids = futures::future::try_join_all(committers).await?;
    let loaded = s.load(&name).await?;
    let mut chain = Vec::new();
    let mut at = loaded.head("main").cloned();
    while let Some(snapshot) = at {
        chain.push(snapshot.snapshot_id());
        at = snapshot.parent_snapshot_id().and_then(|p| loaded.metadata.snapshot_by_id(p).cloned());
    }
    ids.sort_unstable();
    chain.sort_unstable();
    ensure!(ids == chain, "{} of {COMMITTERS} commits are in the chain", chain.len());
    let marks = loaded.metadata.properties().keys().filter(|k| k.starts_with("by-")).count();
    ensure!(marks == COMMITTERS, "{marks} of {COMMITTERS} properties are there");
    Ok(())
}
