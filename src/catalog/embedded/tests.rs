use std::collections::HashMap;

use iceberg::TableUpdate;
use iceberg::spec::{FormatVersion, SortOrder, UnboundPartitionSpec};
use serde_json::json;
use tempfile::TempDir;

use super::*;

fn nowhere() -> Resolver {
    Arc::new(|location| Err(Error::new(ErrorKind::Config, format!("no store for {location}"))))
}

async fn open(folder: &TempDir) -> Result<EmbeddedCatalog> {
    let warehouse = folder.path().join("w").display().to_string();
    EmbeddedCatalog::open(&Env::system(), &folder.path().join("c.sqlite"), &warehouse, nowhere()).await
}

fn name() -> TableName {
    "db.t".parse().expect("valid")
}

fn creation(properties: &[(&str, &str)]) -> CreateTable {
    let fields = json!([{"id": 1, "name": "id", "required": true, "type": "long"}]);
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

fn set(key: &str, value: &str) -> PreparedCommit {
    let updates = HashMap::from([(key.to_owned(), value.to_owned())]);
    PreparedCommit {
        table: name(),
        requirements: vec![],
        updates: vec![TableUpdate::SetProperties { updates }],
        idempotency_key: uuid::Uuid::nil(),
    }
}

fn committed(outcome: Outcome) -> TableState {
    match outcome {
        Outcome::Committed(state) => *state,
        other => panic!("not committed: {other:?}"),
    }
}

fn documents(folder: &TempDir) -> usize {
    std::fs::read_dir(folder.path().join("w/db/t/metadata")).expect("a folder").count()
}

#[tokio::test]
async fn what_was_committed_is_there_after_a_restart() {
    let folder = tempfile::tempdir().expect("folder");
    let catalog = open(&folder).await.expect("opens");
    committed(catalog.create(&creation(&[])).await);
    let state = committed(catalog.commit(&set("a", "1")).await);
    drop(catalog);
    let catalog = open(&folder).await.expect("opens again");
    let loaded = catalog.load(&name()).await.expect("loads");
    assert_eq!((&loaded.metadata, &loaded.metadata_location), (&state.metadata, &state.metadata_location));
}

#[tokio::test]
async fn a_commit_that_loses_the_swap_leaves_no_document() {
    let folder = tempfile::tempdir().expect("folder");
    let catalog = open(&folder).await.expect("opens");
    let base = committed(catalog.create(&creation(&[])).await);
    let old = base.metadata_location.clone().expect("a location");
    let loser = apply::apply(&name(), Some(&base), &[], set("loser", "x").updates, catalog.stamp()).expect("applies");
    committed(catalog.commit(&set("winner", "x")).await);
    assert_eq!(documents(&folder), 2);
    let location = loser.location().to_owned();
    assert!(catalog.swap(old, loser).await.expect("definite").is_none());
    assert!(!Path::new(&location).exists());
    assert_eq!(documents(&folder), 2);
    let loaded = catalog.load(&name()).await.expect("loads");
    assert_eq!((loaded.property("winner"), loaded.property("loser")), (Some("x"), None));
}

#[tokio::test]
async fn a_refused_commit_and_a_second_create_leave_no_document() {
    let folder = tempfile::tempdir().expect("folder");
    let catalog = open(&folder).await.expect("opens");
    committed(catalog.create(&creation(&[])).await);
    let uuid = uuid::Uuid::nil();
    let refused = PreparedCommit { requirements: vec![iceberg::TableRequirement::UuidMatch { uuid }], ..set("a", "b") };
    assert!(matches!(catalog.commit(&refused).await, Outcome::Refused(_)));
    assert!(matches!(catalog.create(&creation(&[])).await, Outcome::Refused(_)));
    assert_eq!(documents(&folder), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_processes_on_one_file_lose_no_commit() {
    let folder = tempfile::tempdir().expect("folder");
    let (one, two) = (open(&folder).await.expect("opens"), open(&folder).await.expect("opens"));
    committed(one.create(&creation(&[])).await);
    let commits = (0..16).map(|n| {
        let catalog = if n % 2 == 0 { &one } else { &two };
        async move { committed(catalog.commit(&set(&format!("p{n}"), "x")).await) }
    });
    futures::future::join_all(commits).await;
    let loaded = one.load(&name()).await.expect("loads");
    assert_eq!(loaded.metadata.properties().len(), 16);
    assert_eq!(documents(&folder), 17);
}

#[tokio::test]
async fn documents_that_leave_the_log_are_deleted_when_the_table_says_so() {
    let folder = tempfile::tempdir().expect("folder");
    let catalog = open(&folder).await.expect("opens");
    let limits =
        [("write.metadata.previous-versions-max", "2"), ("write.metadata.delete-after-commit.enabled", "true")];
    committed(catalog.create(&creation(&limits)).await);
    for n in 0..5 {
        committed(catalog.commit(&set("n", &n.to_string())).await);
    }
    assert_eq!(documents(&folder), 3);
}

#[tokio::test]
async fn a_document_that_is_gone_is_one_sentence_with_the_way_out() {
    let folder = tempfile::tempdir().expect("folder");
    let catalog = open(&folder).await.expect("opens");
    let state = committed(catalog.create(&creation(&[])).await);
    let location = state.metadata_location.expect("a location");
    std::fs::remove_file(&location).expect("there");
    let error = catalog.load(&name()).await.expect_err("gone");
    assert_eq!(error.kind(), ErrorKind::Corrupt);
    assert!(error.to_string().starts_with(&format!("table db.t: its metadata document {location} is gone")), "{error}");
    assert!(error.hint().is_some());
    assert!(matches!(catalog.commit(&set("a", "b")).await, Outcome::Refused(_)));
}

#[tokio::test]
async fn a_table_whose_folder_is_another_tables_gets_one_of_its_own() {
    let folder = tempfile::tempdir().expect("folder");
    let catalog = open(&folder).await.expect("opens");
    let first = committed(catalog.create(&creation(&[])).await);
    catalog.rename(&name(), &"db.u".parse().expect("valid")).await.expect("renames");
    let second = committed(catalog.create(&creation(&[])).await);
    assert_ne!(first.metadata.location(), second.metadata.location());
}

#[tokio::test]
async fn a_second_daemon_is_told_who_uses_the_catalog() {
    let folder = tempfile::tempdir().expect("folder");
    let (one, two) = (open(&folder).await.expect("opens"), open(&folder).await.expect("opens"));
    let claim = one.claim().await.expect("free");
    let error = two.claim().await.expect_err("taken");
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    let path = folder.path().join("c.sqlite");
    let expected =
        format!("another frazil daemon (pid {}) uses the embedded catalog {}", std::process::id(), path.display());
    assert_eq!(error.to_string(), expected);
    assert!(error.hint().is_some());
    drop(claim);
    drop(two.claim().await.expect("free again"));
}

async fn refused(folder: &TempDir, kind: ErrorKind, says: &str) {
    let error = open(folder).await.expect_err(says);
    assert_eq!(error.kind(), kind, "{error:?}");
    assert!(error.to_string().contains(says) && error.hint().is_some(), "{error:?}");
    assert!(error.to_string().contains("c.sqlite"), "{error:?}");
}

#[tokio::test]
async fn a_file_that_is_no_catalog_is_refused_and_stays_as_it_was() {
    let folder = tempfile::tempdir().expect("folder");
    let path = folder.path().join("c.sqlite");
    let noise = b"this is no database at all, only a text that is long enough to be one".repeat(40);
    std::fs::write(&path, &noise).expect("writes");
    refused(&folder, ErrorKind::Corrupt, "is damaged or no SQLite file").await;
    assert_eq!(std::fs::read(&path).expect("reads"), noise);
    std::fs::remove_file(&path).expect("removes");
    let other = rusqlite::Connection::open(&path).expect("opens");
    other.execute_batch("CREATE TABLE recipes (name TEXT)").expect("creates");
    drop(other);
    refused(&folder, ErrorKind::Config, "another program's SQLite file").await;
}

#[tokio::test]
async fn a_file_of_a_newer_version_is_refused() {
    let folder = tempfile::tempdir().expect("folder");
    drop(open(&folder).await.expect("opens"));
    let file = rusqlite::Connection::open(folder.path().join("c.sqlite")).expect("opens");
    file.execute("UPDATE frazil_schema SET version = version + 1", []).expect("updates");
    drop(file);
    refused(&folder, ErrorKind::Unsupported, "has version 2, this frazil knows 1").await;
}

#[tokio::test]
async fn a_folder_that_cannot_be_had_is_one_sentence() {
    let folder = tempfile::tempdir().expect("folder");
    std::fs::write(folder.path().join("file"), "x").expect("writes");
    let path = folder.path().join("file/c.sqlite");
    let error = EmbeddedCatalog::open(&Env::system(), &path, "/w", nowhere()).await.expect_err("no folder");
    assert_eq!(error.kind(), ErrorKind::Denied);
    assert!(error.to_string().contains("c.sqlite") && error.hint().is_some(), "{error:?}");
}

#[tokio::test]
async fn clients_of_the_jdbc_layout_find_the_tables() {
    let folder = tempfile::tempdir().expect("folder");
    let catalog = open(&folder).await.expect("opens");
    let name = TableName::new(vec!["a".to_owned(), "b".to_owned()], "t").expect("valid");
    let state = committed(catalog.create(&CreateTable { name, ..creation(&[]) }).await);
    let file = rusqlite::Connection::open(folder.path().join("c.sqlite")).expect("opens");
    let row = file
        .query_row("SELECT table_namespace, table_name, metadata_location FROM iceberg_tables", [], |row| {
            Ok((row.get::<_, String>(0)?, row.get::<_, String>(1)?, row.get::<_, Option<String>>(2)?))
        })
        .expect("one row");
    assert_eq!(row, ("a.b".to_owned(), "t".to_owned(), state.metadata_location));
}
