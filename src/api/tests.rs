//! The listener over a real loopback socket.

use std::net::SocketAddr;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::*;
use crate::config::{ApiConfig, Secret};
use crate::env::Env;
use crate::error::ErrorKind;
use crate::model::ids::PipelineName;
use crate::telemetry::metrics::Metrics;

struct Running {
    address: SocketAddr,
    health: Health,
    metrics: Metrics,
    token: CancellationToken,
    task: JoinHandle<()>,
}

async fn start(secret: Option<&str>) -> Running {
    let metrics = Metrics::new();
    let health = Health::new(metrics.clone());
    let config = ApiConfig { listen: "127.0.0.1:0".parse().ok(), token: secret.map(Secret::new) };
    let server =
        Server::bind(&config, metrics.clone(), health.clone(), Env::system()).await.expect("binds").expect("is on");
    let (address, token) = (server.address(), CancellationToken::new());
    let task = tokio::spawn(server.run(token.clone()));
    Running { address, health, metrics, token, task }
}

async fn ask(address: SocketAddr, request: &str) -> String {
    let mut stream = TcpStream::connect(address).await.expect("connects");
    stream.write_all(request.as_bytes()).await.expect("sends");
    let mut answer = Vec::new();
    // A server that refuses early may reset the connection after its answer.
    let _ = stream.read_to_end(&mut answer).await;
    String::from_utf8(answer).expect("text")
}

async fn get(address: SocketAddr, path: &str, headers: &str) -> String {
    ask(address, &format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n{headers}\r\n")).await
}

#[tokio::test]
async fn readiness_follows_the_pipelines_and_names_the_reasons() {
    let running = start(None).await;
    let shop = PipelineName::new("shop");
    assert!(get(running.address, "/livez", "").await.starts_with("HTTP/1.1 200"));
    assert!(get(running.address, "/readyz", "").await.starts_with("HTTP/1.1 503"));
    running.health.set(&shop, PipelineHealth::Waiting("the catalog does not answer".to_owned()));
    let answer = get(running.address, "/readyz", "").await;
    assert!(answer.starts_with("HTTP/1.1 503") && answer.contains("the catalog does not answer"), "{answer}");
    running.health.set(&shop, PipelineHealth::Running);
    let answer = get(running.address, "/readyz", "").await;
    assert!(answer.starts_with("HTTP/1.1 200") && answer.contains("\"running\""), "{answer}");
}

#[tokio::test]
async fn metrics_are_openmetrics_text() {
    let running = start(None).await;
    running.metrics.rows_read("shop", "0", 3, 30);
    let answer = get(running.address, "/metrics", "").await;
    assert!(answer.contains("application/openmetrics-text"), "{answer}");
    assert!(answer.contains("frazil_rows_read_total{pipeline=\"shop\",partition=\"0\"} 3\n"), "{answer}");
    assert!(answer.ends_with("# EOF\n"), "{answer}");
}

#[tokio::test]
async fn a_token_guards_everything_but_health() {
    let running = start(Some("hunter2")).await;
    for headers in
        ["", "Authorization: Bearer hunter\r\n", "Authorization: Basic hunter2\r\n", "Authorization: hunter2\r\n"]
    {
        for path in ["/metrics", "/nowhere"] {
            let answer = get(running.address, path, headers).await;
            assert!(answer.starts_with("HTTP/1.1 401"), "{path} {headers:?}: {answer}");
        }
    }
    let answer = get(running.address, "/metrics", "authorization: bearer hunter2\r\n").await;
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    assert!(get(running.address, "/livez", "").await.starts_with("HTTP/1.1 200"));
}

#[tokio::test]
async fn headers_without_end_are_refused() {
    let running = start(None).await;
    let many: String = (0..100).map(|i| format!("X-{i}: y\r\n")).collect();
    assert!(get(running.address, "/livez", &many).await.starts_with("HTTP/1.1 431"));
    let long = format!("X: {}\r\n", "y".repeat(64 << 10));
    assert!(!get(running.address, "/livez", &long).await.starts_with("HTTP/1.1 200"));
}

#[tokio::test]
async fn a_taken_port_is_one_clear_sentence() {
    let running = start(None).await;
    let config = ApiConfig { listen: Some(running.address), token: None };
    let metrics = Metrics::new();
    let error = Server::bind(&config, metrics.clone(), Health::new(metrics), Env::system()).await.expect_err("taken");
    assert_eq!(error.kind(), ErrorKind::Config);
    assert!(error.hint().is_some_and(|hint| hint.contains("another process")), "{error:?}");
}

#[tokio::test]
async fn it_ends_when_the_token_is_cancelled_though_a_connection_is_idle() {
    let running = start(None).await;
    let _idle = TcpStream::connect(running.address).await.expect("connects");
    assert!(get(running.address, "/livez", "").await.starts_with("HTTP/1.1 200"));
    running.token.cancel();
    running.task.await.expect("ends by itself");
}
