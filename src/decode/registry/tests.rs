//! The client against a registry that answers, is away or lies as each test says.

use std::sync::atomic::{AtomicI64, AtomicUsize, Ordering};

use async_trait::async_trait;
use axum::Router;
use axum::body::Body;
use axum::extract::State;
use axum::http::{Request, StatusCode};
use axum::response::IntoResponse;
use serde_json::{Value, json};

use super::*;
use crate::config::{ClientTls, Secret};
use crate::decode::writers::Writers;
use crate::env::Clock;
use crate::model::batch::RawBatch;
use crate::model::batch::tests::raw;

/// Time that passes by sleeping alone.
#[derive(Debug, Default)]
struct TestClock(AtomicI64);

#[async_trait]
impl Clock for TestClock {
    fn now_ms(&self) -> i64 {
        self.0.load(Ordering::Relaxed)
    }

    async fn sleep(&self, duration: Duration) {
        if duration >= HOUR {
            return std::future::pending().await; // the limit of a request
        }
        self.0.fetch_add(i64::try_from(duration.as_millis()).expect("short"), Ordering::Relaxed);
    }
}

const HOUR: Duration = Duration::from_secs(3600);

/// What a test's registry has, by path and query, and how it behaves.
#[derive(Debug, Default)]
pub(crate) struct Shelf {
    pub(crate) answers: Mutex<BTreeMap<String, (u16, Value)>>,
    /// Requests that are answered with 503 before it comes back.
    pub(crate) away: AtomicUsize,
    pub(crate) seen: Mutex<Vec<(String, String)>>,
}

impl Shelf {
    pub(crate) fn put(&self, path: &str, status: u16, answer: Value) {
        self.answers.lock().expect("whole").insert(path.to_owned(), (status, answer));
    }

    /// Registers an Avro schema.
    pub(crate) fn schema(&self, id: u32, schema: &Value) {
        self.put(&format!("/reg/schemas/ids/{id}"), 200, json!({ "schema": schema.to_string() }));
    }

    fn paths(&self) -> Vec<String> {
        self.seen.lock().expect("whole").iter().map(|(path, _)| path.clone()).collect()
    }
}

async fn answer(State(shelf): State<Arc<Shelf>>, request: Request<Body>) -> impl IntoResponse {
    let path = request.uri().path().to_owned();
    let auth = request.headers().get("authorization").and_then(|value| value.to_str().ok()).unwrap_or_default();
    shelf.seen.lock().expect("whole").push((path.clone(), auth.to_owned()));
    let away = shelf.away.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1)).is_ok();
    let (status, body) = match shelf.answers.lock().expect("whole").get(&path) {
        _ if away => (503, json!({})),
        Some((status, body)) => (*status, body.clone()),
        None if path.starts_with("/reg/") => (404, json!({ "error_code": 40403, "message": "Schema not found" })),
        None => (404, json!({})),
    };
    (StatusCode::from_u16(status).expect("a status"), body.to_string())
}

/// A registry on a port of its own, at the path `/reg`.
pub(crate) async fn serve() -> (String, Arc<Shelf>) {
    let shelf = Arc::new(Shelf::default());
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let url = format!("http://{}/reg/", listener.local_addr().expect("an address"));
    let router = Router::new().fallback(answer).with_state(Arc::clone(&shelf));
    tokio::spawn(async move { axum::serve(listener, router).await });
    (url, shelf)
}

pub(crate) fn config(url: &str) -> RegistryConfig {
    RegistryConfig {
        url: url.to_owned(),
        auth: RegistryAuth::None,
        tls: ClientTls::default(),
        connect_timeout: HOUR,
        request_timeout: HOUR,
        schemas_max: 100,
    }
}

fn env() -> Env {
    Env::simulated(Arc::new(TestClock::default()), 1)
}

async fn registry() -> (Registry, Arc<Shelf>) {
    let (url, shelf) = serve().await;
    (Registry::new("sr", &config(&url), &env()).expect("a client"), shelf)
}

fn row() -> Value {
    json!({ "type": "record", "name": "R", "fields": [{ "name": "id", "type": "long" }] })
}

fn framed(id: u32, datum: &[u8]) -> Vec<u8> {
    [&[0][..], &id.to_be_bytes(), datum].concat()
}

fn reasons(writers: &Writers, batch: &RawBatch) -> Vec<String> {
    let reason = |row| match writers.framed(batch.bytes(row)).and_then(|framed| writers.known(framed.id)) {
        Ok(_) => "known".to_owned(),
        Err(fault) => fault.reason.clone(),
    };
    batch.rows.iter().map(|row| reason(*row)).collect()
}

#[tokio::test]
async fn a_schema_is_asked_for_once_below_the_path_of_the_url() {
    let (registry, shelf) = registry().await;
    shelf.schema(7, &row());
    for _ in 0..3 {
        let found = registry.by_id(7).await.expect("answers").expect("there");
        assert_eq!((found.kind, found.text, found.named.len()), (SchemaKind::Avro, row().to_string(), 0));
    }
    assert_eq!(shelf.paths(), ["/reg/schemas/ids/7"]);
}

#[tokio::test]
async fn schemas_that_are_named_come_before_those_that_name_them() {
    let (registry, shelf) = registry().await;
    let refers = |schema: &str, to: Value| json!({ "schema": schema, "schemaType": "AVRO", "references": to });
    let reference = |subject: &str| json!({ "name": format!("{subject}.x"), "subject": subject, "version": 2 });
    shelf.put("/reg/schemas/ids/1", 200, refers("top", json!([reference("a/b"), reference("c")])));
    shelf.put("/reg/subjects/a%2Fb/versions/2", 200, refers("ab", json!([reference("c")])));
    // It names its own user: no endless walk.
    shelf.put("/reg/subjects/c/versions/2", 200, refers("cc", json!([reference("a/b")])));
    let found = registry.by_id(1).await.expect("answers").expect("there");
    let named: Vec<(&str, &str)> = found.named.iter().map(|n| (n.name.as_str(), n.text.as_str())).collect();
    assert_eq!((found.text.as_str(), named), ("top", vec![("c.x", "cc"), ("a/b.x", "ab")]));
    shelf.put("/reg/schemas/ids/2", 200, refers("top", json!([reference("gone")])));
    let error = registry.by_id(2).await.expect_err("leads nowhere");
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    assert!(error.to_string().contains("version 2 of subject \"gone\" is named and not there"), "{error}");
}

#[tokio::test]
async fn a_registry_that_is_away_for_a_moment_is_asked_again_and_one_that_stays_away_is_unavailable() {
    let (registry, shelf) = registry().await;
    shelf.schema(7, &row());
    shelf.away.store(3, Ordering::Relaxed);
    assert!(registry.by_id(7).await.expect("comes back").is_some());
    shelf.away.store(usize::MAX, Ordering::Relaxed);
    let error = registry.by_id(8).await.expect_err("away");
    assert_eq!((error.kind(), shelf.paths().len()), (ErrorKind::Unavailable, 8));
    let nobody = Registry::new("sr", &config("http://127.0.0.1:9/"), &env()).expect("a client");
    assert_eq!(nobody.by_id(1).await.expect_err("nobody there").kind(), ErrorKind::Unavailable);
}

#[tokio::test]
async fn only_the_registrys_own_404_says_that_there_is_no_schema() {
    let (url, shelf) = serve().await;
    let registry = Registry::new("sr", &config(&url), &env()).expect("a client");
    assert_eq!(registry.by_id(404).await.expect("answers"), None);
    let astray = Registry::new("sr", &config(&url.replace("/reg/", "/elsewhere")), &env()).expect("a client");
    let error = astray.by_id(404).await.expect_err("no registry there");
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    assert!(error.hint().is_some_and(|hint| hint.contains("/apis/ccompat/v7")));
    shelf.put("/reg/schemas/ids/5", 200, json!("hello"));
    assert_eq!(registry.by_id(5).await.expect_err("no registry").kind(), ErrorKind::Unavailable);
    shelf.put("/reg/schemas/ids/6", 403, json!({}));
    assert_eq!(registry.by_id(6).await.expect_err("refused").kind(), ErrorKind::Denied);
}

#[tokio::test]
async fn credentials_are_sent_and_never_shown() {
    let (url, shelf) = serve().await;
    shelf.put("/reg/schemas/ids/6", 401, json!({}));
    let basic = RegistryAuth::Basic { user: "me".to_owned(), password: Secret::new("s3cret") };
    for (auth, sent) in [(basic, "Basic bWU6czNjcmV0"), (RegistryAuth::Bearer(Secret::new("s3cret")), "Bearer s3cret")]
    {
        let registry = Registry::new("sr", &RegistryConfig { auth, ..config(&url) }, &env()).expect("a client");
        let error = registry.by_id(6).await.expect_err("refused");
        assert!(!format!("{error:?} {registry:?}").contains("s3cret"));
        assert_eq!(shelf.seen.lock().expect("whole").last().expect("asked").1, sent);
    }
}

#[tokio::test]
async fn a_registry_says_that_it_is_there_or_what_is_in_the_way() {
    let (registry, shelf) = registry().await;
    assert_eq!(registry.ping().await.expect_err("no list").kind(), ErrorKind::Unavailable);
    shelf.put("/reg/subjects", 200, json!(["a-value", "b-value"]));
    assert_eq!(registry.ping().await.expect("answers"), 2);
    shelf.put("/reg/subjects", 200, json!({ "hello": "world" }));
    let error = registry.ping().await.expect_err("another server");
    assert!(error.to_string().contains("what answers is no schema registry"), "{error}");
    shelf.put("/reg/subjects", 403, json!({}));
    assert_eq!(registry.ping().await.expect_err("refused").kind(), ErrorKind::Denied);
}

#[tokio::test]
async fn what_is_kept_has_a_limit_and_what_was_used_last_stays() {
    let (url, shelf) = serve().await;
    let registry = Registry::new("sr", &RegistryConfig { schemas_max: 2, ..config(&url) }, &env()).expect("a client");
    for id in [1, 2, 3] {
        shelf.schema(id, &row());
    }
    for id in [1, 2, 1, 3, 1, 2] {
        registry.by_id(id).await.expect("answers");
    }
    let asked: Vec<String> = shelf.paths().iter().map(|path| path.replace("/reg/schemas/ids/", "")).collect();
    assert_eq!(asked, ["1", "2", "3", "2"]);
}

#[tokio::test]
async fn rows_of_unknown_and_unusable_schemas_are_refused_and_their_neighbours_known() {
    let (registry, shelf) = registry().await;
    let writers = Writers::of_registry(Arc::new(registry), &env());
    shelf.schema(1, &row());
    shelf.schema(2, &json!("string"));
    shelf.put("/reg/schemas/ids/3", 200, json!({ "schema": "syntax", "schemaType": "PROTOBUF" }));
    let batch = raw(&[
        framed(1, &[2]),
        framed(9, &[2]),
        framed(2, &[2]),
        framed(3, &[2]),
        vec![],
        vec![0, 0],
        b"{\"id\":1}".to_vec(),
        framed(1, &[4]),
    ]);
    writers.learn(&batch).await.expect("answers");
    assert_eq!(
        reasons(&writers, &batch),
        [
            "known",
            "registry sr has no schema with the id 9",
            "schema 2 of registry sr: the schema is string, not a record, and has no fields",
            "schema 3 of registry sr is Protobuf, not Avro",
            "the row is empty",
            "the row ends within the id of its schema",
            "the row begins with byte 0x7b, not with 0x00 and the id of its schema in the registry",
            "known",
        ]
    );
}

#[tokio::test]
async fn an_id_that_is_unknown_is_asked_for_again_after_a_while_and_not_for_every_batch() {
    let clock = Arc::new(TestClock::default());
    let env = Env::simulated(clock.clone(), 1);
    let (url, shelf) = serve().await;
    let registry = Registry::new("sr", &config(&url), &env).expect("a client");
    let writers = Writers::of_registry(Arc::new(registry), &env);
    let batch = raw(&[framed(5, &[2])]);
    for _ in 0..3 {
        writers.learn(&batch).await.expect("answers");
    }
    assert_eq!(shelf.paths().len(), 2, "twice at first: it may be on its way");
    shelf.schema(5, &row());
    clock.0.fetch_add(60_000, Ordering::Relaxed);
    writers.learn(&batch).await.expect("answers");
    assert_eq!(reasons(&writers, &batch), ["known"]);
}
