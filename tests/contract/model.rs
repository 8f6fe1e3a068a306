//! Random histories: the embedded catalog does what the memory catalog does, and both only what the rules allow.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use frazil::catalog::documents::Resolver;
use frazil::catalog::embedded::EmbeddedCatalog;
use frazil::catalog::memory::MemoryCatalog;
use frazil::catalog::{Catalog, CreateTable, Outcome, PreparedCommit};
use frazil::env::{Clock, Env};
use frazil::model::ids::TableName;
use frazil::model::table::TableState;
use iceberg::spec::{FormatVersion, SnapshotReference, SnapshotRetention};
use iceberg::{TableRequirement, TableUpdate};
use proptest::prelude::*;
use serde_json::{Value, json};

use super::suite;

/// A clock that goes one second further with each look.
#[derive(Default)]
struct Ticks(AtomicI64);

#[async_trait]
impl Clock for Ticks {
    fn now_ms(&self) -> i64 {
        1_700_000_000_000 + 1000 * self.0.fetch_add(1, Ordering::SeqCst)
    }
    async fn sleep(&self, _: Duration) {}
}

/// One step on one of three tables; numbers choose among what is there.
#[derive(Debug, Clone)]
enum Step {
    Create { table: usize, v3: bool },
    Append { table: usize, branch: usize, pinned: bool },
    Stale { table: usize, root: bool },
    Set { table: usize, key: usize, value: u8 },
    Pack { table: usize, codec: usize },
    Widen { table: usize },
    Point { table: usize, name: usize, to: usize, tag: bool },
    Unpoint { table: usize, name: usize },
    Remove { table: usize, snapshot: usize },
    Upgrade { table: usize },
    Rename { table: usize, to: usize },
    Drop { table: usize },
}

fn step() -> impl Strategy<Value = Step> {
    use Step::{Append, Create, Drop, Pack, Point, Remove, Rename, Set, Stale, Unpoint, Upgrade, Widen};
    let table = || 0..3_usize;
    prop_oneof![
        4 => (table(), any::<bool>()).prop_map(|(table, v3)| Create { table, v3 }),
        8 => (table(), 0..2_usize, any::<bool>()).prop_map(|(table, branch, pinned)| Append { table, branch, pinned }),
        1 => (table(), any::<bool>()).prop_map(|(table, root)| Stale { table, root }),
        3 => (table(), 0..4_usize, any::<u8>()).prop_map(|(table, key, value)| Set { table, key, value }),
        1 => (table(), 0..3_usize).prop_map(|(table, codec)| Pack { table, codec }),
        2 => table().prop_map(|table| Widen { table }),
        3 => (table(), 0..3_usize, any::<usize>(), any::<bool>())
            .prop_map(|(table, name, to, tag)| Point { table, name, to, tag }),
        1 => (table(), 0..3_usize).prop_map(|(table, name)| Unpoint { table, name }),
        2 => (table(), any::<usize>()).prop_map(|(table, snapshot)| Remove { table, snapshot }),
        1 => table().prop_map(|table| Upgrade { table }),
        1 => (table(), table()).prop_map(|(table, to)| Rename { table, to }),
        1 => table().prop_map(|table| Drop { table }),
    ]
}

const REFS: [&str; 3] = ["main", "dev", "v1"];

fn name(table: usize) -> TableName {
    TableName::new(vec!["db".to_owned()], format!("t{table}")).unwrap()
}

/// The commit of a step on the table as it is now.
fn commit(step: &Step, state: &TableState, id: i64) -> (Vec<TableRequirement>, Vec<TableUpdate>) {
    let ids = {
        let mut all: Vec<_> = state.metadata.snapshots().map(|s| (s.sequence_number(), s.snapshot_id())).collect();
        all.sort_unstable();
        all
    };
    let pick = |n: usize| ids.get(n.checked_rem(ids.len()).unwrap_or(0)).map_or(-1, |(_, id)| *id);
    let branch =
        SnapshotRetention::Branch { min_snapshots_to_keep: Some(2), max_snapshot_age_ms: None, max_ref_age_ms: None };
    let point = |name: &str, snapshot_id, retention| TableUpdate::SetSnapshotRef {
        ref_name: name.to_owned(),
        reference: SnapshotReference { snapshot_id, retention },
    };
    let updates = match step {
        Step::Append { branch: to, pinned, .. } => {
            let snapshot = suite::snapshot(state, REFS[*to], id);
            let head = if *pinned { state.head(REFS[*to]).map(|h| h.snapshot_id()) } else { None };
            let pin = TableRequirement::RefSnapshotIdMatch { r#ref: REFS[*to].to_owned(), snapshot_id: head };
            return (vec![pin], vec![TableUpdate::AddSnapshot { snapshot }, point(REFS[*to], id, branch)]);
        }
        Step::Stale { root, .. } => {
            let parent = if *root { None } else { state.head("main").map(|h| h.snapshot_id()) };
            let number = state.metadata.last_sequence_number();
            vec![TableUpdate::AddSnapshot { snapshot: suite::numbered(state, id, parent, number) }]
        }
        Step::Set { key, value, .. } => {
            vec![TableUpdate::SetProperties { updates: [(format!("k{key}"), value.to_string())].into() }]
        }
        Step::Pack { codec, .. } => {
            let codec = ["none", "gzip", "zstd"][*codec].to_owned();
            vec![TableUpdate::SetProperties {
                updates: [("write.metadata.compression-codec".to_owned(), codec)].into(),
            }]
        }
        Step::Widen { .. } => {
            let mut schema = serde_json::to_value(state.metadata.current_schema()).unwrap();
            let next = state.metadata.last_column_id() + 1;
            let field = json!({"id": next, "name": format!("c{next}"), "required": false, "type": "int"});
            schema["fields"].as_array_mut().unwrap().push(field);
            let schema = serde_json::from_value(schema).unwrap();
            vec![TableUpdate::AddSchema { schema }, TableUpdate::SetCurrentSchema { schema_id: -1 }]
        }
        Step::Point { name, to, tag, .. } => {
            let retention = if *tag { SnapshotRetention::Tag { max_ref_age_ms: None } } else { branch };
            vec![point(REFS[*name], pick(*to), retention)]
        }
        Step::Unpoint { name, .. } => vec![TableUpdate::RemoveSnapshotRef { ref_name: REFS[*name].to_owned() }],
        Step::Remove { snapshot, .. } => vec![TableUpdate::RemoveSnapshots { snapshot_ids: vec![pick(*snapshot)] }],
        _ => vec![TableUpdate::UpgradeFormatVersion { format_version: FormatVersion::V3 }],
    };
    (vec![TableRequirement::UuidMatch { uuid: state.metadata.uuid() }], updates)
}

/// What a step came to, in words that do not depend on the catalog.
async fn take(catalog: &dyn Catalog, step: &Step, id: i64) -> String {
    let told = |outcome: Outcome| match outcome {
        Outcome::Committed(_) => "committed".to_owned(),
        Outcome::Refused(e) => format!("refused: {:?}", e.kind()),
        other => format!("{other:?}"),
    };
    let result = |answer: frazil::error::Result<()>| format!("{:?}", answer.map_err(|e| e.kind()));
    match step {
        Step::Create { table, v3 } => {
            let format_version = if *v3 { FormatVersion::V3 } else { FormatVersion::V2 };
            told(catalog.create(&CreateTable { format_version, ..suite::table(name(*table)) }).await)
        }
        Step::Rename { table, to } => result(catalog.rename(&name(*table), &name(*to)).await),
        Step::Drop { table } => result(catalog.drop_table(&name(*table)).await),
        Step::Append { table, .. }
        | Step::Stale { table, .. }
        | Step::Set { table, .. }
        | Step::Pack { table, .. }
        | Step::Widen { table }
        | Step::Point { table, .. }
        | Step::Unpoint { table, .. }
        | Step::Remove { table, .. }
        | Step::Upgrade { table } => match catalog.load(&name(*table)).await {
            Err(e) => format!("no table: {:?}", e.kind()),
            Ok(state) => {
                let (requirements, updates) = commit(step, &state, id);
                let idempotency_key = state.metadata.uuid();
                let commit = PreparedCommit { table: name(*table), requirements, updates, idempotency_key };
                told(catalog.commit(&commit).await)
            }
        },
    }
}

/// Every table's metadata, without times, names of documents and uuids.
async fn contents(catalog: &dyn Catalog) -> Vec<(TableName, Value)> {
    let mut found = Vec::new();
    for table in catalog.tables(&["db".to_owned()]).await.unwrap_or_default() {
        let state = catalog.load(&table).await.unwrap();
        let mut value = frazil::catalog::document::to_value(&state.metadata).unwrap();
        assert_eq!(value["refs"], serde_json::to_value(state.refs.as_ref()).unwrap(), "refs beside the metadata");
        for key in ["table-uuid", "location", "last-updated-ms", "metadata-log"] {
            value.as_object_mut().unwrap().remove(key);
        }
        let mut texts = vec![&mut value];
        while let Some(value) = texts.pop() {
            match value {
                Value::Object(map) => {
                    map.remove("timestamp-ms");
                    map.remove("manifest-list");
                    texts.extend(map.values_mut());
                }
                Value::Array(items) => texts.extend(items),
                _ => {}
            }
        }
        found.push((table, value));
    }
    found
}

fn env(seed: u64) -> Env {
    Env::simulated(Arc::new(Ticks::default()), seed)
}

/// Takes `steps` on the reference model and on `other`, which must not differ in any answer or in the end.
async fn same(other: &dyn Catalog, steps: &[Step]) -> Result<(), TestCaseError> {
    let memory = MemoryCatalog::new(env(1), "memory:///w");
    let mut highest = std::collections::BTreeMap::new();
    for (at, step) in steps.iter().enumerate() {
        let id = i64::try_from(at).unwrap() + 1;
        let (expected, told) = (take(&memory, step, id).await, take(other, step, id).await);
        prop_assert_eq!(&expected, &told, "step {} {:?}", at, step);
        let is_stale = matches!(step, Step::Stale { .. }) && expected == "committed";
        prop_assert!(!is_stale, "step {at}: a stale sequence number was taken");
        for (table, metadata) in contents(&memory).await {
            let uuid = memory.load(&table).await.unwrap().metadata.uuid();
            let number = metadata["last-sequence-number"].as_i64().unwrap();
            let before = highest.insert(uuid, number).unwrap_or(0);
            prop_assert!(before <= number, "step {at}: the last sequence number of {table} fell");
        }
    }
    prop_assert_eq!(contents(&memory).await, contents(other).await);
    Ok(())
}

async fn embedded(steps: &[Step]) -> Result<(), TestCaseError> {
    let store: Arc<dyn object_store::ObjectStore> = Arc::new(object_store::memory::InMemory::new());
    let resolver: Resolver =
        Arc::new(move |location| Ok((store.clone(), location.trim_start_matches("memory:///").into())));
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("c.sqlite");
    same(&EmbeddedCatalog::open(&env(2), &file, "memory:///w", resolver).await.unwrap(), steps).await
}

async fn rest(steps: &[Step]) -> Result<(), TestCaseError> {
    let served = Arc::new(MemoryCatalog::new(env(3), "memory:///w"));
    same(&crate::rest_over(served).await, steps).await
}

fn run(work: impl Future<Output = Result<(), TestCaseError>>) -> Result<(), TestCaseError> {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(work)
}

fn cases(cases: u32) -> ProptestConfig {
    ProptestConfig { cases, failure_persistence: None, ..ProptestConfig::default() }
}

proptest! {
    #![proptest_config(cases(48))]

    #[test]
    fn the_embedded_catalog_does_what_the_reference_model_does(steps in prop::collection::vec(step(), 1..40)) {
        run(embedded(&steps))?;
    }
}

proptest! {
    #![proptest_config(cases(16))]

    #[test]
    fn a_catalog_behind_rest_does_what_the_reference_model_does(steps in prop::collection::vec(step(), 1..40)) {
        run(rest(&steps))?;
    }
}
