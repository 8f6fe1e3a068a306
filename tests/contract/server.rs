//! A REST catalog over the memory catalog, on loopback: the paths, bodies and words of the specification.

use std::collections::{BTreeMap, HashMap};
use std::net::SocketAddr;
use std::sync::Arc;

use axum::body::Bytes;
use axum::extract::{Path, Query, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use frazil::catalog::memory::MemoryCatalog;
use frazil::catalog::{Catalog, CreateTable, Outcome, PreparedCommit};
use frazil::env::Env;
use frazil::error::{Error, ErrorKind};
use frazil::model::ids::TableName;
use frazil::model::table::TableState;
use iceberg::spec::{FormatVersion, Schema, SortOrder, UnboundPartitionSpec};
use iceberg::{TableRequirement, TableUpdate};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::net::TcpListener;

/// So small that every listing has several pages.
const PAGE: usize = 2;

type Catalogs = State<Arc<MemoryCatalog>>;
type Answer = Result<Response, Refusal>;
type Parameters = Query<HashMap<String, String>>;

/// Serves `catalog` until the test's runtime ends; the prefix of its tables is `lake/one`.
pub(crate) async fn serve(catalog: Arc<MemoryCatalog>) -> SocketAddr {
    let tables = Router::new()
        .route("/namespaces", get(list_namespaces).post(create_namespace))
        .route("/namespaces/{namespace}", get(load_namespace).delete(drop_namespace))
        .route("/namespaces/{namespace}/tables", get(list_tables).post(create_table))
        .route("/namespaces/{namespace}/register", post(register_table))
        .route("/namespaces/{namespace}/tables/{table}", get(load_table).post(commit_table).delete(drop_table))
        .route("/tables/rename", post(rename_table));
    let app = Router::new()
        .route("/api/v1/config", get(config))
        .nest("/api/v1/lake/one", tables)
        .fallback(|| async { Refusal(StatusCode::NOT_FOUND, "NotFoundException", "no such endpoint".to_owned()) })
        .with_state(catalog);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move { axum::serve(listener, app).await });
    address
}

/// An error body of the specification.
struct Refusal(StatusCode, &'static str, String);

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let Self(status, kind, message) = self;
        let body = json!({"error": {"message": message, "type": kind, "code": status.as_u16()}});
        (status, Json(body)).into_response()
    }
}

fn refusal(error: Error, missing: &'static str, conflict: &'static str) -> Refusal {
    let (status, kind) = match error.kind() {
        ErrorKind::NotFound => (404, missing),
        ErrorKind::Conflict => (409, conflict),
        ErrorKind::Input | ErrorKind::Config => (400, "BadRequestException"),
        _ => (500, "InternalServerError"),
    };
    Refusal(StatusCode::from_u16(status).unwrap(), kind, error.to_string())
}

fn of_namespace(error: Error) -> Refusal {
    refusal(error, "NoSuchNamespaceException", "AlreadyExistsException")
}

fn of_table(error: Error) -> Refusal {
    refusal(error, "NoSuchTableException", "AlreadyExistsException")
}

fn of_commit(error: Error) -> Refusal {
    refusal(error, "NoSuchTableException", "CommitFailedException")
}

fn read<T: for<'de> Deserialize<'de>>(body: &Bytes) -> Result<T, Refusal> {
    serde_json::from_slice(body).map_err(|e| Refusal(StatusCode::BAD_REQUEST, "BadRequestException", e.to_string()))
}

fn namespace(path: &str) -> Vec<String> {
    path.split('\u{1f}').map(str::to_owned).collect()
}

fn name(namespace: Vec<String>, name: String) -> Result<TableName, Refusal> {
    TableName::new(namespace, name).map_err(of_table)
}

fn table_body(catalog: &MemoryCatalog, state: &TableState, staged: bool) -> Json<Value> {
    let location = state.metadata_location.clone().unwrap();
    let metadata = match catalog.document(&location) {
        Some(document) => {
            serde_json::from_slice(&frazil::catalog::document::unpack(&location, document).unwrap()).unwrap()
        }
        None => frazil::catalog::document::to_value(&state.metadata).unwrap(),
    };
    let mut body = json!({ "metadata": Value::clone(&metadata), "config": {"vended": "yes"} });
    if !staged {
        body["metadata-location"] = location.into();
    }
    Json(body)
}

fn table_answer(catalog: &MemoryCatalog, outcome: Outcome, refusal: fn(Error) -> Refusal) -> Answer {
    match outcome {
        Outcome::Committed(state) => Ok(table_body(catalog, &state, false).into_response()),
        Outcome::Refused(error) => Err(refusal(error)),
        other => panic!("the memory catalog is never in doubt: {other:?}"),
    }
}

fn paged<T: Clone>(all: &[T], parameters: &HashMap<String, String>) -> (Vec<T>, Option<String>) {
    let Some(token) = parameters.get("pageToken") else { return (all.to_vec(), None) };
    let from = token.parse().unwrap_or(0_usize).min(all.len());
    let to = (from + PAGE).min(all.len());
    (all[from..to].to_vec(), (to < all.len()).then(|| to.to_string()))
}

async fn config(Query(parameters): Parameters) -> Answer {
    if parameters.get("warehouse").map(String::as_str) != Some("ware house") {
        return Err(Refusal(StatusCode::NOT_FOUND, "NoSuchWarehouseException", "no such warehouse".to_owned()));
    }
    let endpoints = ["GET /v1/{prefix}/namespaces", "POST /v1/{prefix}/namespaces/{namespace}/tables/{table}"];
    let body = json!({"defaults": {"prefix": "wrong"}, "overrides": {"prefix": "lake/one"}, "endpoints": endpoints});
    Ok(Json(body).into_response())
}

async fn list_namespaces(State(catalog): Catalogs, Query(parameters): Parameters) -> Answer {
    let parent = parameters.get("parent").map(|p| namespace(p)).unwrap_or_default();
    let all = catalog.namespaces(&parent).await.map_err(of_namespace)?;
    let (page, next) = paged(&all, &parameters);
    Ok(Json(json!({"namespaces": page, "next-page-token": next})).into_response())
}

#[derive(Deserialize)]
struct NewNamespace {
    namespace: Vec<String>,
    #[serde(default)]
    properties: BTreeMap<String, String>,
}

async fn create_namespace(State(catalog): Catalogs, body: Bytes) -> Answer {
    let new: NewNamespace = read(&body)?;
    catalog.create_namespace(&new.namespace, &new.properties).await.map_err(of_namespace)?;
    Ok(Json(json!({"namespace": new.namespace, "properties": new.properties})).into_response())
}

async fn load_namespace(State(catalog): Catalogs, Path(path): Path<String>) -> Answer {
    let namespace = namespace(&path);
    let properties = catalog.namespace_properties(&namespace).map_err(of_namespace)?;
    Ok(Json(json!({"namespace": namespace, "properties": properties})).into_response())
}

async fn drop_namespace(State(catalog): Catalogs, Path(path): Path<String>) -> Answer {
    let dropped = catalog.drop_namespace(&namespace(&path)).await;
    dropped.map_err(|e| refusal(e, "NoSuchNamespaceException", "NamespaceNotEmptyException"))?;
    Ok(StatusCode::NO_CONTENT.into_response())
}

async fn list_tables(State(catalog): Catalogs, Path(path): Path<String>, Query(parameters): Parameters) -> Answer {
    let all = catalog.tables(&namespace(&path)).await.map_err(of_namespace)?;
    let (page, next) = paged(&all, &parameters);
    let identifier = |t: &TableName| json!({"namespace": t.namespace(), "name": t.name()});
    let identifiers: Vec<_> = page.iter().map(identifier).collect();
    Ok(Json(json!({"identifiers": identifiers, "next-page-token": next})).into_response())
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct NewTable {
    name: String,
    location: Option<String>,
    schema: Schema,
    partition_spec: Option<UnboundPartitionSpec>,
    write_order: Option<SortOrder>,
    #[serde(default)]
    stage_create: bool,
    #[serde(default)]
    properties: HashMap<String, String>,
}

async fn create_table(State(catalog): Catalogs, Path(path): Path<String>, body: Bytes) -> Answer {
    let mut new: NewTable = read(&body)?;
    let namespace = namespace(&path);
    // As strict as the reference: the client has to create the namespace.
    catalog.namespace_properties(&namespace).map_err(of_namespace)?;
    let format_version = match new.properties.remove("format-version").as_deref() {
        Some("3") => FormatVersion::V3,
        _ => FormatVersion::V2,
    };
    let create = CreateTable {
        name: name(namespace, new.name)?,
        location: new.location,
        schema: new.schema,
        spec: new.partition_spec.unwrap_or_default(),
        sort_order: new.write_order.unwrap_or_else(SortOrder::unsorted_order),
        format_version,
        properties: new.properties,
    };
    if new.stage_create {
        if catalog.load(&create.name).await.is_ok() {
            return Err(of_table(Error::new(ErrorKind::Conflict, "Table already exists")));
        }
        let staged = catalog.stage(&create).map_err(of_table)?;
        return Ok(table_body(&catalog, &staged, true).into_response());
    }
    table_answer(&catalog, catalog.create(&create).await, of_table)
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct Registration {
    name: String,
    metadata_location: String,
}

async fn register_table(State(catalog): Catalogs, Path(path): Path<String>, body: Bytes) -> Answer {
    let registration: Registration = read(&body)?;
    let table = name(namespace(&path), registration.name)?;
    table_answer(&catalog, catalog.register(&table, &registration.metadata_location).await, of_table)
}

async fn load_table(
    State(catalog): Catalogs,
    Path((path, table)): Path<(String, String)>,
    Query(parameters): Parameters,
) -> Answer {
    assert_eq!(parameters.get("snapshots").map(String::as_str), Some("all"), "a load asks for every snapshot");
    let state = catalog.load(&name(namespace(&path), table)?).await.map_err(of_table)?;
    Ok(table_body(&catalog, &state, false).into_response())
}

#[derive(Deserialize)]
struct Commit {
    requirements: Vec<TableRequirement>,
    updates: Vec<TableUpdate>,
}

async fn commit_table(
    State(catalog): Catalogs,
    Path((path, table)): Path<(String, String)>,
    headers: axum::http::HeaderMap,
    body: Bytes,
) -> Answer {
    let commit: Commit = read(&body)?;
    let key = headers.get("idempotency-key").and_then(|k| k.to_str().ok()).and_then(|k| k.parse().ok());
    let prepared = PreparedCommit {
        table: name(namespace(&path), table)?,
        requirements: commit.requirements,
        updates: commit.updates,
        idempotency_key: key.expect("a commit names its submission"),
    };
    match table_answer(&catalog, catalog.commit(&prepared).await, of_commit) {
        // The answer to a commit has no config.
        Ok(answer) => {
            let body = axum::body::to_bytes(answer.into_body(), usize::MAX).await.unwrap();
            let mut body: Value = serde_json::from_slice(&body).unwrap();
            body.as_object_mut().unwrap().remove("config");
            Ok(Json(body).into_response())
        }
        Err(refusal) => Err(refusal),
    }
}

async fn drop_table(
    State(catalog): Catalogs,
    Path((path, table)): Path<(String, String)>,
    Query(parameters): Parameters,
) -> Answer {
    assert_eq!(parameters.get("purgeRequested").map(String::as_str), Some("false"), "a drop keeps the files");
    catalog.drop_table(&name(namespace(&path), table)?).await.map_err(of_table)?;
    Ok(StatusCode::NO_CONTENT.into_response())
}

#[derive(Deserialize)]
struct Identifier {
    namespace: Vec<String>,
    name: String,
}

#[derive(Deserialize)]
struct Renaming {
    source: Identifier,
    destination: Identifier,
}

async fn rename_table(State(catalog): Catalogs, body: Bytes) -> Answer {
    let Renaming { source, destination } = read(&body)?;
    let (from, to) = (name(source.namespace, source.name)?, name(destination.namespace, destination.name)?);
    catalog.rename(&from, &to).await.map_err(of_table)?;
    Ok(StatusCode::NO_CONTENT.into_response())
}

/// The environment of the server: its clock and names are its own.
pub(crate) fn catalog() -> Arc<MemoryCatalog> {
    Arc::new(MemoryCatalog::new(Env::system(), "memory:///warehouse"))
}
