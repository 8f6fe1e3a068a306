//! The catalog as one process sees it: through a network that loses, delays, repeats and holds back.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use frazil::catalog::{Capabilities, Catalog, CreateTable, Outcome, PreparedCommit};
use frazil::error::{Error, ErrorKind, Result};
use frazil::model::ids::TableName;
use frazil::model::table::TableState;
use tokio::sync::oneshot;

use crate::process::Process;
use crate::world::{World, lost};

/// How long a client waits for an answer.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(30);
/// How long each way to and from a slow catalog takes.
const SLOW: Duration = Duration::from_millis(2_500);
/// How late a request may arrive.
const LATE_MAX: Duration = Duration::from_secs(400);

/// What becomes of a request that changes something.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fault {
    /// Done and answered.
    None,
    /// Done, the answer lost.
    AnswerLost,
    /// Not done, the answer lost.
    RequestLost,
    /// Refused without a reason.
    Refused,
    /// A server that retries by itself, and answers 409 to its own success.
    OwnConflict,
    /// A proxy that sends it once more, later.
    Repeated,
    /// It arrives minutes after the client gave up.
    Late,
    /// It waits on the way, and is still answered in time.
    Slow,
    /// No connection.
    NotSent,
    /// Asked to come later.
    Throttled,
    /// Done, and answered with something that does not show it.
    OddYes,
}

const FAULTS: [Fault; 10] = [
    Fault::AnswerLost,
    Fault::RequestLost,
    Fault::Refused,
    Fault::OwnConflict,
    Fault::Repeated,
    Fault::Late,
    Fault::Slow,
    Fault::NotSent,
    Fault::Throttled,
    Fault::OddYes,
];

/// One process's way to the catalog.
#[derive(Debug)]
pub struct NetworkCatalog {
    world: Arc<World>,
    process: Arc<Process>,
}

impl NetworkCatalog {
    /// The way of `process`.
    pub fn new(world: Arc<World>, process: Arc<Process>) -> Self {
        Self { world, process }
    }

    fn draw(&self, call: &str) -> Fault {
        if self.world.rates().slow && self.world.happens(50) {
            self.world.cover("catalog × slow, throttled");
            return Fault::Throttled;
        }
        let fault = if self.world.happens(self.world.rates().catalog) {
            let fault = FAULTS[usize::try_from(self.world.env.below(FAULTS.len() as u64)).unwrap_or(0)];
            if self.world.step() { fault } else { Fault::None }
        } else {
            Fault::None
        };
        self.world.cover(format!("catalog {call} × {fault:?}"));
        fault
    }

    async fn network(&self) {
        if self.world.rates().slow {
            tokio::time::sleep(SLOW).await;
        }
        if self.world.happens(50) {
            tokio::time::sleep(self.world.time(Duration::from_millis(120))).await;
        }
    }

    /// `request` runs at the server, whatever becomes of the client.
    fn at_server(
        &self,
        after: Duration,
        request: impl Future<Output = Outcome> + Send + 'static,
    ) -> oneshot::Receiver<Outcome> {
        let (reply, answer) = oneshot::channel();
        tokio::spawn(async move {
            tokio::time::sleep(after).await;
            // Nobody may be there to hear it.
            let _ = reply.send(request.await);
        });
        answer
    }

    async fn send<F>(&self, what: &str, fault: Fault, request: impl Fn() -> F) -> Outcome
    where
        F: Future<Output = Outcome> + Send + 'static,
    {
        let name = &self.process.name;
        if fault != Fault::None {
            self.world.note(name, &format!("{what} meets {fault:?} (step {})", self.world.steps()));
        }
        match fault {
            Fault::NotSent => return Outcome::NotSent(lost()),
            Fault::Throttled => return Outcome::Throttled(self.world.time(Duration::from_secs(5))),
            Fault::Refused => return Outcome::Refused(Error::new(ErrorKind::Conflict, "no")),
            Fault::RequestLost => {
                tokio::time::sleep(self.world.time(REQUEST_TIMEOUT)).await;
                return Outcome::Unknown(lost());
            }
            _ => {}
        }
        let after = match fault {
            Fault::Late => REQUEST_TIMEOUT + self.world.time(LATE_MAX),
            Fault::Slow => self.world.time(REQUEST_TIMEOUT),
            _ => Duration::ZERO,
        };
        let answer = self.at_server(after, request());
        match fault {
            Fault::OwnConflict => {
                let _ = answer.await;
                return match self.at_server(Duration::ZERO, request()).await {
                    Ok(Outcome::Refused(error)) => Outcome::Refused(error),
                    _ => Outcome::Refused(Error::new(ErrorKind::Conflict, "no, after all")),
                };
            }
            Fault::Repeated => drop(self.at_server(Duration::from_secs(1) + self.world.time(LATE_MAX), request())),
            Fault::AnswerLost => {
                tokio::time::sleep(self.world.time(REQUEST_TIMEOUT)).await;
                return Outcome::Unknown(lost());
            }
            _ => {}
        }
        let answered = tokio::select! {
            biased;
            outcome = answer => outcome.unwrap_or_else(|_| Outcome::Unknown(lost())),
            () = tokio::time::sleep(REQUEST_TIMEOUT) => Outcome::Unknown(lost()),
        };
        match answered {
            Outcome::Committed(_) if fault == Fault::OddYes => {
                Outcome::Unknown(Error::new(ErrorKind::Unavailable, "200, and no metadata in it"))
            }
            answered => answered,
        }
    }
}

#[async_trait]
impl Catalog for NetworkCatalog {
    async fn load(&self, table: &TableName) -> Result<TableState> {
        self.process.pass().await;
        self.network().await;
        let rates = self.world.rates();
        let answer = if self.world.happens(rates.catalog / 3) && self.world.step() {
            self.world.note(&self.process.name, &format!("load of {table} fails"));
            self.world.cover("catalog load × fails");
            Err(lost())
        } else if self.world.happens(rates.stale)
            && self.world.step()
            && let Some(stale) = self.world.stale(table, Duration::from_secs(5))
        {
            let seq = stale.metadata.last_sequence_number();
            self.world.note(&self.process.name, &format!("load of {table} is stale, at seq {seq}"));
            self.world.cover("catalog load × stale");
            Ok(stale)
        } else {
            self.world.load(table).await
        };
        self.network().await;
        self.process.pass().await;
        if let Ok(state) = &answer {
            self.world.shows(&self.process.name, state);
        }
        answer
    }

    async fn commit(&self, commit: &PreparedCommit) -> Outcome {
        let _under_way = self.process.commits();
        self.process.pass().await;
        self.network().await;
        let fault = self.draw("commit");
        self.world.sends(commit);
        if !matches!(fault, Fault::NotSent | Fault::Throttled) {
            self.world.sends_again(&self.process.name, commit);
        }
        self.world.met_fault(&self.process.name, &commit.table, format!("{fault:?}"));
        let request = || {
            let (world, name, commit) = (Arc::clone(&self.world), self.process.name.clone(), commit.clone());
            async move { world.arrives(&name, &commit).await }
        };
        let outcome = self.send(&format!("commit to {}", commit.table), fault, request).await;
        self.network().await;
        self.process.pass().await;
        outcome
    }

    async fn create(&self, table: &CreateTable) -> Outcome {
        self.process.pass().await;
        self.network().await;
        let fault = self.draw("create");
        let request = || {
            let (world, name, table) = (Arc::clone(&self.world), self.process.name.clone(), table.clone());
            async move { world.creates(&name, &table).await }
        };
        let outcome = self.send(&format!("create of {}", table.name), fault, request).await;
        self.network().await;
        self.process.pass().await;
        outcome
    }

    async fn register(&self, table: &TableName, metadata_location: &str) -> Outcome {
        self.world.truth.register(table, metadata_location).await
    }

    async fn rename(&self, from: &TableName, to: &TableName) -> Result<()> {
        self.world.truth.rename(from, to).await
    }

    async fn drop_table(&self, table: &TableName) -> Result<()> {
        self.world.truth.drop_table(table).await
    }

    async fn namespaces(&self, parent: &[String]) -> Result<Vec<Vec<String>>> {
        self.world.truth.namespaces(parent).await
    }

    async fn create_namespace(&self, namespace: &[String], properties: &BTreeMap<String, String>) -> Result<()> {
        self.world.truth.create_namespace(namespace, properties).await
    }

    async fn drop_namespace(&self, namespace: &[String]) -> Result<()> {
        self.world.truth.drop_namespace(namespace).await
    }

    async fn tables(&self, namespace: &[String]) -> Result<Vec<TableName>> {
        self.world.truth.tables(namespace).await
    }

    async fn capabilities(&self) -> Result<Capabilities> {
        self.world.truth.capabilities().await
    }
}
