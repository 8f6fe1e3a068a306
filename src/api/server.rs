//! The listener itself. Every connection, header and body is bounded in size and time.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::{DefaultBodyLimit, Request, State};
use axum::http::{HeaderValue, StatusCode, header};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use subtle::ConstantTimeEq;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::api::Health;
use crate::config::{ApiConfig, Secret};
use crate::env::Env;
use crate::error::{Context, Error, ErrorKind, Result};
use crate::telemetry::metrics::Metrics;

const CONNECTIONS_MAX: usize = 256;
const HEADERS_MAX: usize = 64;
const HEADER_BYTES_MAX: usize = 16 << 10;
const BODY_BYTES_MAX: usize = 64 << 10;
const HEADER_READ_MAX: Duration = Duration::from_secs(10);
/// How long open connections may take to finish after the token is cancelled.
const DRAIN_MAX: Duration = Duration::from_secs(3);
/// The pause after a failed accept: most often, files are used up.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

const OPENMETRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// A listener that is bound and not yet served.
#[derive(Debug)]
pub struct Server {
    listener: TcpListener,
    address: SocketAddr,
    router: Router,
    env: Env,
}

#[derive(Debug, Clone)]
struct Shared {
    metrics: Metrics,
    health: Health,
    token: Option<Arc<Secret>>,
}

impl Server {
    /// Binds the configured address; `None` when there is none.
    ///
    /// # Errors
    /// `Config` when the address is taken or not of this machine.
    pub async fn bind(config: &ApiConfig, metrics: Metrics, health: Health, env: Env) -> Result<Option<Self>> {
        let Some(listen) = config.listen else { return Ok(None) };
        let listener = TcpListener::bind(listen).await.map_err(|error| {
            let hint = match error.kind() {
                std::io::ErrorKind::AddrInUse => {
                    "another process listens there: stop it, or set api.listen to another port"
                }
                std::io::ErrorKind::AddrNotAvailable => "set api.listen to an address of this machine",
                std::io::ErrorKind::PermissionDenied => {
                    "ports below 1024 need a privilege: set api.listen to a higher one"
                }
                _ => "set api.listen to an address and port that this process may use",
            };
            Error::new(ErrorKind::Config, format!("api.listen: cannot listen on {listen}"))
                .with_source(error)
                .with_hint(hint)
        })?;
        let address = listener.local_addr().context(ErrorKind::Internal, || "the listener has no address")?;
        let shared = Shared { metrics, health, token: config.token.clone().map(Arc::new) };
        Ok(Some(Self { listener, address, router: router(shared), env }))
    }

    /// Where it listens: the configured address, with the port that port 0 became.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Serves until `token` is cancelled, then lets open requests finish for a moment.
    pub async fn run(self, token: CancellationToken) {
        let slots = Arc::new(Semaphore::new(CONNECTIONS_MAX));
        let mut connections = JoinSet::new();
        loop {
            let accepted = tokio::select! {
                biased;
                () = token.cancelled() => break,
                Some(_ended) = connections.join_next() => continue,
                accepted = accept(&self.listener, &slots) => accepted,
            };
            match accepted {
                Ok((stream, slot)) => {
                    let (router, token) = (self.router.clone(), token.clone());
                    connections.spawn(async move {
                        serve(stream, router, token).await;
                        drop(slot);
                    });
                }
                Err(error) => {
                    tracing::debug!(%error, "a connection could not be accepted");
                    self.env.sleep(ACCEPT_PAUSE).await;
                }
            }
        }
        let drained = async { while connections.join_next().await.is_some() {} };
        // What is still open after that is cut off when `connections` is dropped.
        let _ = self.env.timeout(DRAIN_MAX, drained).await;
    }
}

async fn accept(
    listener: &TcpListener,
    slots: &Arc<Semaphore>,
) -> std::io::Result<(TcpStream, tokio::sync::OwnedSemaphorePermit)> {
    let slot = Arc::clone(slots).acquire_owned().await.map_err(std::io::Error::other)?;
    let (stream, _peer) = listener.accept().await?;
    Ok((stream, slot))
}

async fn serve(stream: TcpStream, router: Router, token: CancellationToken) {
    let connection = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_READ_MAX)
        .max_headers(HEADERS_MAX)
        .max_buf_size(HEADER_BYTES_MAX)
        .serve_connection(TokioIo::new(stream), TowerToHyperService::new(router));
    tokio::pin!(connection);
    let ended = tokio::select! {
        biased;
        ended = connection.as_mut() => ended,
        () = token.cancelled() => {
            connection.as_mut().graceful_shutdown();
            connection.as_mut().await
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%error, "a connection ended early");
    }
}

fn router(shared: Shared) -> Router {
    let open = Router::new().route("/livez", get(livez)).route("/readyz", get(readyz));
    let guarded = Router::new()
        .route("/metrics", get(metrics))
        .route("/status", get(status))
        .fallback(|| async { (StatusCode::NOT_FOUND, "not found\n") })
        .layer(from_fn_with_state(shared.clone(), require_token));
    open.merge(guarded).layer(DefaultBodyLimit::max(BODY_BYTES_MAX)).with_state(shared)
}

async fn require_token(State(shared): State<Shared>, request: Request, next: Next) -> Response {
    let Some(token) = &shared.token else { return next.run(request).await };
    let given = request.headers().get(header::AUTHORIZATION).map(HeaderValue::as_bytes).unwrap_or_default();
    let given = match given.split_first_chunk::<7>() {
        Some((scheme, rest)) if scheme.eq_ignore_ascii_case(b"bearer ") => rest,
        _ => &[],
    };
    if bool::from(given.ct_eq(token.expose().as_bytes())) {
        return next.run(request).await;
    }
    (StatusCode::UNAUTHORIZED, [(header::WWW_AUTHENTICATE, "Bearer")], "a bearer token is needed\n").into_response()
}

async fn metrics(State(shared): State<Shared>) -> Response {
    ([(header::CONTENT_TYPE, OPENMETRICS)], Body::from(shared.metrics.to_openmetrics())).into_response()
}

async fn status(State(shared): State<Shared>) -> Response {
    axum::Json(shared.health.status()).into_response()
}

async fn livez() -> &'static str {
    "ok\n"
}

async fn readyz(State(shared): State<Shared>) -> Response {
    let status = if shared.health.is_ready() { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (status, axum::Json(shared.health.to_json())).into_response()
}
