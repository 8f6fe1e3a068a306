//! The process around a command: runtime, signals, and the daemon with its listener.

use std::sync::Arc;

use tokio::runtime::Runtime;
use tokio_util::sync::CancellationToken;

use crate::api::{Health, PipelineHealth, Server};
use crate::cli::{Exit, no_file, wiring};
use crate::config::{Config, Loaded, Role, SourceConfig};
use crate::env::Env;
use crate::error::{Context, Error, ErrorKind, Result};
use crate::telemetry::metrics::Metrics;

/// Threads for work off the async threads, beside one for each of those. The system's allocator gives each thread a heap of
/// its own, in which what others freed is of no use: more threads than work for cores take memory and give nothing. Some
/// more, because work that waits for a disk or for standard input holds a thread.
const BLOCKING_MORE: usize = 2;

/// A runtime of this process.
pub(crate) struct Process {
    runtime: Runtime,
}

impl Process {
    /// Starts a runtime with so many threads, and the TLS that every client of this process uses.
    ///
    /// `held` threads are taken for good, by sources that wait in them.
    pub(crate) fn start(workers: usize, held: usize) -> Result<Self> {
        // A second call in one process finds the provider in place.
        let _ = rustls::crypto::ring::default_provider().install_default();
        crate::commit::avro_names::install();
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(workers.max(1))
            .max_blocking_threads(workers.max(1).saturating_add(BLOCKING_MORE).saturating_add(held))
            .thread_name("frazil")
            .enable_all()
            .build()
            .context(ErrorKind::Unavailable, || "threads cannot be started")?;
        Ok(Self { runtime })
    }

    /// `work`'s answer; `None` when a signal came first, and `work` is dropped.
    pub(crate) fn until_signal<T>(&self, work: impl Future<Output = Result<T>>) -> Result<Option<T>> {
        self.runtime.block_on(async {
            let mut signals = Signals::listen()?;
            tokio::select! {
                biased;
                answer = work => answer.map(Some),
                () = signals.next() => Ok(None),
            }
        })
    }

    /// `work`'s answer; the first signal cancels `token` for an orderly end, the second ends at once (`None`).
    pub(crate) fn until_second_signal<T>(
        &self,
        token: &CancellationToken,
        work: impl Future<Output = Result<T>>,
    ) -> Result<Option<T>> {
        self.runtime.block_on(async {
            let mut signals = Signals::listen()?;
            tokio::pin!(work);
            loop {
                tokio::select! {
                    biased;
                    answer = &mut work => return answer.map(Some),
                    () = signals.next() => {
                        if token.is_cancelled() {
                            return Ok(None);
                        }
                        tracing::info!("stopping: open epochs are sealed and committed; a second signal ends at once");
                        token.cancel();
                    }
                }
            }
        })
    }

    /// Ends without waiting for threads that are busy.
    pub(crate) fn end(self) {
        self.runtime.shutdown_background();
    }
}

#[cfg(unix)]
struct Signals {
    terminate: tokio::signal::unix::Signal,
    interrupt: tokio::signal::unix::Signal,
}

#[cfg(unix)]
impl Signals {
    fn listen() -> Result<Self> {
        use tokio::signal::unix::{SignalKind, signal};
        let listen = |kind| signal(kind).context(ErrorKind::Internal, || "signals cannot be received");
        Ok(Self { terminate: listen(SignalKind::terminate())?, interrupt: listen(SignalKind::interrupt())? })
    }

    async fn next(&mut self) {
        tokio::select! {
            biased;
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}

#[cfg(not(unix))]
struct Signals;

#[cfg(not(unix))]
impl Signals {
    fn listen() -> Result<Self> {
        Ok(Self)
    }

    async fn next(&mut self) {
        if tokio::signal::ctrl_c().await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}

/// What a running daemon is seen and stopped by.
#[derive(Clone)]
pub(crate) struct Handles {
    pub(crate) env: Env,
    pub(crate) metrics: Metrics,
    pub(crate) health: Health,
    pub(crate) token: CancellationToken,
}

impl Handles {
    pub(crate) fn new() -> Self {
        let metrics = Metrics::new();
        let health = Health::new(metrics.clone());
        Self { env: Env::system(), metrics, health, token: CancellationToken::new() }
    }
}

/// `frazil run`.
pub(crate) fn run_daemon(loaded: Loaded) -> Result<Exit> {
    let config = Arc::new(loaded.config);
    if loaded.file.is_empty() && config.pipelines.is_empty() {
        return Err(no_file());
    }
    if config.role == Role::Maintain && config.policies.is_empty() {
        return Err(Error::new(ErrorKind::Config, format!("{} has no policy", loaded.file))
            .with_hint("add [policy.\"GLOB\"] for the tables to maintain, or run without --role maintain"));
    }
    let idle = !config.role.maintains() || config.policies.is_empty();
    if config.pipelines.is_empty() && idle {
        return Err(Error::new(ErrorKind::Config, format!("{} has no pipeline", loaded.file))
            .with_hint("add [pipeline.NAME] with a source and a table, or name another file with -c"));
    }
    let handles = Handles::new();
    let waits = |source: &&SourceConfig| matches!(source, SourceConfig::Kafka(_) | SourceConfig::Stdin);
    let held = config.sources.values().filter(waits).count();
    let process = Process::start(config.limits.workers, held)?;
    let ended = process.until_second_signal(&handles.token, serve(config, handles.clone()));
    process.end();
    match ended? {
        None => Ok(Exit::Interrupted),
        Some(()) => Ok(exit_of(&handles.health)),
    }
}

/// Runs the daemon and its listener; the listener ends last, so that probes see the shutdown.
pub(crate) async fn serve(config: Arc<Config>, handles: Handles) -> Result<()> {
    let Handles { env, metrics, health, token } = handles;
    let server = Server::bind(&config.api, metrics.clone(), health.clone(), env.clone()).await?;
    let listener_token = CancellationToken::new();
    let listener = async {
        if let Some(server) = server {
            tracing::info!(address = %server.address(), "listening for metrics and health");
            server.run(listener_token.clone()).await;
        }
    };
    let daemon = async {
        let ended = wiring::run(config, env, metrics, health, token).await;
        listener_token.cancel();
        ended
    };
    let (ended, ()) = tokio::join!(daemon, listener);
    ended
}

/// A pipeline that halted makes the process say so.
pub(crate) fn exit_of(health: &Health) -> Exit {
    let halted = |health: &PipelineHealth| matches!(health, PipelineHealth::Halted(_));
    if health.pipelines().values().any(halted) { Exit::Halted } else { Exit::Done }
}
