//! The client against a server that answers, breaks off, stalls or lies as each test says.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use iceberg::TableUpdate;
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Mutex as AsyncMutex, mpsc};

use super::*;
use crate::config::{RestAuth, Secret};
use crate::env::Clock;

/// What the server does with one request.
#[derive(Clone)]
enum Act {
    /// Answers with a status, further headers and a body.
    Say(u16, &'static str, String),
    /// Answers with a body that is cut off.
    Cut(String),
    /// Closes without an answer.
    Close,
    /// Never answers.
    Stall,
}

/// Requests as they came: the first line, the headers, the body.
type Seen = mpsc::Receiver<String>;

/// A server that does `acts` in turn, one for each request.
async fn server(acts: Vec<Act>) -> (String, Seen) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let uri = format!("http://{}", listener.local_addr().expect("an address"));
    let (told, seen) = mpsc::channel(64);
    let acts = Arc::new(AsyncMutex::new(acts.into_iter()));
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(talk(stream, acts.clone(), told.clone()));
        }
    });
    (uri, seen)
}

async fn talk(mut stream: TcpStream, acts: Arc<AsyncMutex<std::vec::IntoIter<Act>>>, told: mpsc::Sender<String>) {
    while let Some(request) = read_request(&mut stream).await {
        let _ = told.send(request).await;
        let act = acts.lock().await.next().expect("an act for each request");
        let (head, body, ends) = match act {
            Act::Say(status, headers, body) => {
                (format!("HTTP/1.1 {status} X\r\n{headers}content-length: {}\r\n\r\n", body.len()), body, false)
            }
            Act::Cut(body) => (format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n", body.len() + 10), body, true),
            Act::Close => return,
            Act::Stall => std::future::pending().await,
        };
        stream.write_all(format!("{head}{body}").as_bytes()).await.expect("written");
        if ends {
            return;
        }
    }
}

async fn read_request(stream: &mut TcpStream) -> Option<String> {
    let mut bytes = Vec::new();
    loop {
        let mut byte = [0];
        if stream.read(&mut byte).await.ok()? == 0 {
            return None;
        }
        bytes.push(byte[0]);
        if bytes.ends_with(b"\r\n\r\n") {
            break;
        }
    }
    let head = String::from_utf8(bytes).expect("text");
    let length = head.to_ascii_lowercase().lines().find_map(|l| l.strip_prefix("content-length: ")?.parse().ok());
    let mut body = vec![0; length.unwrap_or(0)];
    stream.read_exact(&mut body).await.ok()?;
    Some(format!("{head}{}", String::from_utf8(body).expect("text")))
}

fn say(status: u16, body: impl ToString) -> Act {
    Act::Say(status, "", body.to_string())
}

fn config(uri: String, auth: RestAuth) -> RestConfig {
    RestConfig {
        uri,
        warehouse: None,
        auth,
        headers: BTreeMap::from([("x-extra".to_owned(), Secret::new("more"))]),
        profile: None,
        vended_credentials: true,
        connect_timeout: Duration::from_secs(5),
        request_timeout: Duration::from_secs(5),
    }
}

/// A connected client and a server that then does `acts`.
async fn connected(acts: Vec<Act>) -> (RestCatalog, Seen) {
    let (uri, mut seen) = server([vec![say(200, "{}")], acts].concat()).await;
    let catalog = RestCatalog::connect(&config(uri, RestAuth::None), &Env::system()).await.expect("connects");
    assert!(seen.recv().await.expect("a request").starts_with("GET /v1/config HTTP"));
    (catalog, seen)
}

fn name() -> TableName {
    "db.t".parse().expect("valid")
}

fn a_commit() -> PreparedCommit {
    let updates = HashMap::from([("b".to_owned(), "2".to_owned()), ("a".to_owned(), "1".to_owned())]);
    PreparedCommit {
        table: name(),
        requirements: vec![],
        updates: vec![TableUpdate::SetProperties { updates }],
        idempotency_key: uuid::Uuid::from_u128(7),
    }
}

fn a_table(extra: serde_json::Value) -> String {
    let mut body = json!({
        "metadata-location": "s3://b/wh/db/t/metadata/00001-x.metadata.json",
        "metadata": {
            "format-version": 2, "table-uuid": "9c12d441-03fe-4693-9a96-a0705ddf69c1", "location": "s3://b/wh/db/t",
            "last-sequence-number": 0, "last-updated-ms": 1, "last-column-id": 1, "current-schema-id": 0,
            "schemas": [{"type": "struct", "schema-id": 0, "fields": [
                {"id": 1, "name": "id", "required": true, "type": "long"}]}],
            "default-spec-id": 0, "partition-specs": [{"spec-id": 0, "fields": []}], "last-partition-id": 999,
            "default-sort-order-id": 0, "sort-orders": [{"order-id": 0, "fields": []}],
            "refs": {},
        },
    });
    body.as_object_mut().expect("object").extend(extra.as_object().expect("object").clone());
    body.to_string()
}

#[tokio::test]
async fn what_becomes_of_a_commit_whose_answer_is_lost_is_unknown() {
    let broken = say(200, r#"{"metadata-location": "x", "metadata": {}}"#);
    for act in [
        Act::Close,
        Act::Cut(a_table(json!({}))),
        say(200, ""),
        say(200, "<html>"),
        broken,
        say(503, "busy"),
        say(302, ""),
    ] {
        let (catalog, _seen) = connected(vec![act.clone()]).await;
        let outcome = catalog.commit(&a_commit()).await;
        let Outcome::Unknown(error) = outcome else { panic!("{outcome:?}") };
        assert!(error.to_string().starts_with("commit to table db.t: "), "{error}");
    }
}

#[tokio::test]
async fn a_server_that_stalls_leaves_a_commit_unknown_after_the_timeout() {
    let (uri, _seen) = server(vec![say(200, "{}"), Act::Stall]).await;
    let config = RestConfig { request_timeout: Duration::from_millis(150), ..config(uri, RestAuth::None) };
    let catalog = RestCatalog::connect(&config, &Env::system()).await.expect("connects");
    let outcome = catalog.commit(&a_commit()).await;
    let Outcome::Unknown(error) = outcome else { panic!("{outcome:?}") };
    assert_eq!(error.to_string(), "commit to table db.t: no answer within 150 ms");
}

#[tokio::test]
async fn a_commit_that_finds_nobody_was_not_sent() {
    let (uri, _seen) = server(vec![say(200, "{}")]).await;
    let mut catalog = RestCatalog::connect(&config(uri, RestAuth::None), &Env::system()).await.expect("connects");
    let free = TcpListener::bind("127.0.0.1:0").await.expect("a port").local_addr().expect("an address");
    // A label of more than 63 letters is no name, without asking anybody.
    let no_name = format!("http://{}.invalid", "n".repeat(64));
    for nobody in [format!("http://{free}"), no_name, format!("https://{free}")] {
        catalog.paths = Paths::new(&nobody).expect("valid");
        let outcome = catalog.commit(&a_commit()).await;
        assert!(matches!(outcome, Outcome::NotSent(_)), "{nobody}: {outcome:?}");
        assert_eq!(catalog.load(&name()).await.expect_err("nobody").kind(), ErrorKind::Unavailable);
    }
}

#[tokio::test]
async fn a_tls_handshake_that_fails_means_not_sent() {
    let (uri, _seen) = server(vec![say(200, "{}")]).await;
    let mut catalog =
        RestCatalog::connect(&config(uri.clone(), RestAuth::None), &Env::system()).await.expect("connects");
    // Speaks no TLS: hangs up on what it cannot read.
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    catalog.paths = Paths::new(&format!("https://{}", listener.local_addr().expect("an address"))).expect("valid");
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let _ = stream.write_all(b"this is no TLS\r\n").await;
        }
    });
    let outcome = catalog.commit(&a_commit()).await;
    assert!(matches!(outcome, Outcome::NotSent(_)), "{outcome:?}");
}

#[tokio::test]
async fn a_throttled_commit_waits_as_long_as_the_server_says() {
    let (catalog, _seen) = connected(vec![Act::Say(429, "retry-after: 9\r\n", String::new())]).await;
    let outcome = catalog.commit(&a_commit()).await;
    assert!(matches!(outcome, Outcome::Throttled(after) if after == Duration::from_secs(9)), "{outcome:?}");
}

#[tokio::test]
async fn a_commit_looks_as_the_specification_says() {
    let (catalog, mut seen) = connected(vec![say(200, a_table(json!({})))]).await;
    let outcome = catalog.commit(&a_commit()).await;
    assert!(matches!(outcome, Outcome::Committed(_)), "{outcome:?}");
    let request = seen.recv().await.expect("a request");
    let (head, body) = request.split_once("\r\n\r\n").expect("head and body");
    assert!(head.starts_with("POST /v1/namespaces/db/tables/t HTTP/1.1\r\n"), "{head}");
    for header in
        ["idempotency-key: 00000000-0000-0000-0000-000000000007", "content-type: application/json", "x-extra: more"]
    {
        assert!(head.to_ascii_lowercase().lines().any(|line| line == header), "{header} in {head}");
    }
    assert_eq!(
        body,
        r#"{"identifier":{"namespace":["db"],"name":"t"},"requirements":[],"#.to_owned()
            + r#""updates":[{"action":"set-properties","updates":{"a":"1","b":"2"}}]}"#
    );
}

#[tokio::test]
async fn vended_settings_come_with_the_table_and_outlive_a_commit() {
    let vended = json!({
        "config": {"s3.region": "eu", "s3.access-key-id": "general"},
        "storage-credentials": [
            {"prefix": "s3://b", "config": {"s3.access-key-id": "bucket"}},
            {"prefix": "s3://b/wh/db", "config": {"s3.access-key-id": "table"}},
            {"prefix": "s3://other/and/longer", "config": {"s3.access-key-id": "other"}},
        ],
    });
    let (catalog, mut seen) = connected(vec![say(200, a_table(vended)), say(200, a_table(json!({})))]).await;
    let loaded = catalog.load(&name()).await.expect("loads");
    let expected = [("s3.access-key-id", "table"), ("s3.region", "eu")];
    let settings =
        |state: &TableState| state.config.iter().map(|(k, v)| (k.clone(), v.clone())).collect::<BTreeMap<_, _>>();
    let expected = BTreeMap::from(expected.map(|(k, v)| (k.to_owned(), v.to_owned())));
    assert_eq!(settings(&loaded), expected);
    let request = seen.recv().await.expect("a request").to_ascii_lowercase();
    assert!(request.starts_with("get /v1/namespaces/db/tables/t?snapshots=all "), "{request}");
    assert!(request.contains("x-iceberg-access-delegation: vended-credentials"), "{request}");
    let Outcome::Committed(state) = catalog.commit(&a_commit()).await else { panic!("not committed") };
    assert_eq!(settings(&state), expected);
}

#[tokio::test]
async fn a_create_that_finds_the_table_is_refused_though_the_server_would_say_yes() {
    let (catalog, _seen) = connected(vec![say(200, a_table(json!({})))]).await;
    let schema = serde_json::from_value(json!({"type": "struct", "schema-id": 0, "fields": []})).expect("valid");
    let create = CreateTable {
        name: name(),
        location: None,
        schema,
        spec: iceberg::spec::UnboundPartitionSpec::default(),
        sort_order: iceberg::spec::SortOrder::unsorted_order(),
        format_version: iceberg::spec::FormatVersion::V2,
        properties: HashMap::new(),
    };
    let outcome = catalog.create(&create).await;
    assert!(matches!(&outcome, Outcome::Refused(e) if e.kind() == ErrorKind::Conflict), "{outcome:?}");
}

#[tokio::test]
async fn pages_that_go_in_circles_end_in_an_error() {
    let page = |next: &str| say(200, json!({"identifiers": [], "next-page-token": next}));
    let (catalog, _seen) = connected(vec![page("a"), page("b"), page("a")]).await;
    let error = catalog.tables(&["db".to_owned()]).await.expect_err("circles");
    assert_eq!(error.to_string(), "list tables of db: the pages of the list do not end");
}

#[tokio::test]
async fn a_wrong_uri_or_warehouse_is_one_sentence_with_the_way_out() {
    for act in [say(404, ""), say(400, ""), say(200, "<html>"), say(301, "")] {
        let (uri, _seen) = server(vec![act]).await;
        let error = RestCatalog::connect(&config(uri, RestAuth::None), &Env::system()).await.expect_err("wrong");
        assert_eq!(error.kind(), ErrorKind::Config, "{error:?}");
        assert!(error.to_string().contains("v1/config") || error.hint().is_some(), "{error:?}");
    }
}

/// A clock that tests move.
#[derive(Default)]
struct Hand(AtomicI64);

#[async_trait]
impl Clock for Hand {
    fn now_ms(&self) -> i64 {
        self.0.load(Ordering::SeqCst)
    }
    async fn sleep(&self, _: Duration) {
        std::future::pending().await
    }
}

fn oauth2(parameters: &[(&str, &str)]) -> RestAuth {
    RestAuth::OAuth2 {
        client_id: "frazil".to_owned(),
        client_secret: Secret::new("s3cr&t"),
        server_uri: None,
        scope: Some("PRINCIPAL_ROLE:ALL".to_owned()),
        parameters: parameters.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect(),
    }
}

fn token(text: &str, life: i64) -> Act {
    say(200, json!({"access_token": text, "token_type": "bearer", "expires_in": life}))
}

/// The request line and the bearer token, if there was one.
async fn next(seen: &mut Seen) -> (String, Option<String>) {
    let request = seen.recv().await.expect("a request");
    let line = request.lines().next().expect("a line").trim_end_matches(" HTTP/1.1").to_owned();
    let bearer = request.lines().find_map(|l| l.strip_prefix("authorization: Bearer ").map(str::to_owned));
    (line, bearer)
}

#[tokio::test]
async fn an_oauth2_token_is_fetched_once_and_renewed_before_it_ends() {
    let tables = || say(200, json!({"identifiers": []}));
    let acts = vec![token("one", 100), say(200, "{}"), tables(), token("two", 100), tables()];
    let (uri, mut seen) = server(acts).await;
    let clock = Arc::new(Hand::default());
    let env = Env::simulated(clock.clone(), 1);
    let catalog = RestCatalog::connect(&config(uri, oauth2(&[("audience", "lake")])), &env).await.expect("connects");
    let first = seen.recv().await.expect("a request");
    assert!(first.starts_with("POST /v1/oauth/tokens "), "{first}");
    let form = first.split("\r\n\r\n").nth(1).expect("a body");
    assert_eq!(
        form,
        "audience=lake&client_id=frazil&client_secret=s3cr%26t&grant_type=client_credentials&scope=PRINCIPAL_ROLE%3AALL"
    );
    assert_eq!(next(&mut seen).await, ("GET /v1/config".to_owned(), Some("one".to_owned())));
    clock.0.store(79_999, Ordering::SeqCst);
    catalog.tables(&["db".to_owned()]).await.expect("lists");
    assert_eq!(next(&mut seen).await.1.as_deref(), Some("one"));
    clock.0.store(80_000, Ordering::SeqCst);
    catalog.tables(&["db".to_owned()]).await.expect("lists");
    assert_eq!(next(&mut seen).await.0, "POST /v1/oauth/tokens");
    assert_eq!(next(&mut seen).await.1.as_deref(), Some("two"));
}

#[tokio::test]
async fn a_token_that_cannot_be_renewed_serves_until_its_end() {
    let acts =
        vec![token("one", 100), say(200, "{}"), say(503, ""), say(200, json!({"identifiers": []})), say(503, "")];
    let (uri, mut seen) = server(acts).await;
    let clock = Arc::new(Hand::default());
    let env = Env::simulated(clock.clone(), 1);
    let catalog = RestCatalog::connect(&config(uri, oauth2(&[])), &env).await.expect("connects");
    clock.0.store(99_000, Ordering::SeqCst);
    catalog.tables(&["db".to_owned()]).await.expect("lists");
    clock.0.store(100_000, Ordering::SeqCst);
    let outcome = catalog.commit(&a_commit()).await;
    assert!(matches!(&outcome, Outcome::NotSent(e) if e.kind() == ErrorKind::Unavailable), "{outcome:?}");
    for expected in
        ["POST /v1/oauth/tokens", "GET /v1/config", "POST /v1/oauth/tokens", "GET /v1/namespaces/db/tables?pageToken="]
    {
        assert_eq!(next(&mut seen).await.0, expected);
    }
}

#[tokio::test]
async fn a_refused_token_is_replaced_once_and_the_request_sent_again() {
    for refusal in [401, 419] {
        let acts = vec![
            token("one", 9000),
            say(200, "{}"),
            say(refusal, ""),
            token("two", 9000),
            say(200, a_table(json!({}))),
        ];
        let (uri, mut seen) = server(acts).await;
        let catalog = RestCatalog::connect(&config(uri, oauth2(&[])), &Env::system()).await.expect("connects");
        let outcome = catalog.commit(&a_commit()).await;
        assert!(matches!(outcome, Outcome::Committed(_)), "{outcome:?}");
        let mut bearers = Vec::new();
        for _ in 0..5 {
            bearers.push(next(&mut seen).await.1);
        }
        let expected = [None, Some("one"), Some("one"), None, Some("two")];
        assert_eq!(bearers, expected.map(|b| b.map(str::to_owned)));
    }
    let acts = vec![token("one", 9000), say(200, "{}"), say(401, ""), token("two", 9000), say(401, "")];
    let (uri, _seen) = server(acts).await;
    let catalog = RestCatalog::connect(&config(uri, oauth2(&[])), &Env::system()).await.expect("connects");
    let outcome = catalog.commit(&a_commit()).await;
    assert!(matches!(&outcome, Outcome::Refused(e) if e.kind() == ErrorKind::Denied), "{outcome:?}");
}

#[tokio::test]
async fn requests_that_come_together_fetch_one_token() {
    let tables = || say(200, json!({"identifiers": []}));
    let mut acts = vec![token("one", 100), say(200, "{}"), token("two", 100)];
    acts.extend((0..8).map(|_| tables()));
    let (uri, mut seen) = server(acts).await;
    let clock = Arc::new(Hand::default());
    let env = Env::simulated(clock.clone(), 1);
    let catalog = RestCatalog::connect(&config(uri, oauth2(&[])), &env).await.expect("connects");
    clock.0.store(1_000_000, Ordering::SeqCst);
    let namespace = ["db".to_owned()];
    futures::future::try_join_all((0..8).map(|_| catalog.tables(&namespace))).await.expect("list");
    let mut fetched = 0;
    for _ in 0..11 {
        fetched += usize::from(next(&mut seen).await.0.starts_with("POST /v1/oauth"));
    }
    assert_eq!(fetched, 2);
}

#[tokio::test]
async fn no_error_shows_a_secret() {
    let (uri, _seen) = server(vec![say(401, r#"{"error":"invalid_client"}"#)]).await;
    let error = RestCatalog::connect(&config(uri, oauth2(&[])), &Env::system()).await.expect_err("denied");
    assert_eq!(error.kind(), ErrorKind::Denied);
    assert!(!format!("{error:?}").contains("s3cr"), "{error:?}");
    let (uri, _seen) = server(vec![say(200, r#"{"access_token": 7, "x": "hidden"}"#)]).await;
    let error = RestCatalog::connect(&config(uri, oauth2(&[])), &Env::system()).await.expect_err("malformed");
    assert!(!format!("{error:?}").contains("hidden"), "{error:?}");
}
