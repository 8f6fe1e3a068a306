//! A catalog whose answers are counted.

use std::collections::BTreeMap;
use std::sync::Arc;

use async_trait::async_trait;

use crate::catalog::{Capabilities, Catalog, CreateTable, Outcome, PreparedCommit};
use crate::error::Result;
use crate::model::ids::TableName;
use crate::model::table::TableState;
use crate::telemetry::metrics::Metrics;

/// Counts what `inner` answers.
#[derive(Debug)]
pub(crate) struct Counted {
    inner: Arc<dyn Catalog>,
    metrics: Metrics,
}

impl Counted {
    pub(crate) fn new(inner: Arc<dyn Catalog>, metrics: Metrics) -> Self {
        Self { inner, metrics }
    }

    fn outcome(&self, op: &'static str, outcome: Outcome) -> Outcome {
        self.metrics.catalog_request(op, word(&outcome));
        outcome
    }

    fn result<T>(&self, op: &'static str, result: Result<T>) -> Result<T> {
        self.metrics.catalog_request(op, result.as_ref().err().map_or("ok", |error| error.kind().runbook()));
        result
    }
}

fn word(outcome: &Outcome) -> &'static str {
    match outcome {
        Outcome::Committed(_) => "committed",
        Outcome::NotSent(_) => "not_sent",
        Outcome::Throttled(_) => "throttled",
        Outcome::Refused(_) => "refused",
        Outcome::Unknown(_) => "unknown",
    }
}

#[async_trait]
impl Catalog for Counted {
    async fn load(&self, table: &TableName) -> Result<TableState> {
        self.result("load", self.inner.load(table).await)
    }

    async fn commit(&self, commit: &PreparedCommit) -> Outcome {
        let outcome = self.inner.commit(commit).await;
        self.metrics.commit(&commit.table.to_string(), word(&outcome));
        self.outcome("commit", outcome)
    }

    async fn create(&self, table: &CreateTable) -> Outcome {
        self.outcome("create", self.inner.create(table).await)
    }

    async fn register(&self, table: &TableName, metadata_location: &str) -> Outcome {
        self.outcome("register", self.inner.register(table, metadata_location).await)
    }

    async fn rename(&self, from: &TableName, to: &TableName) -> Result<()> {
        self.result("rename", self.inner.rename(from, to).await)
    }

    async fn drop_table(&self, table: &TableName) -> Result<()> {
        self.result("drop", self.inner.drop_table(table).await)
    }

    async fn namespaces(&self, parent: &[String]) -> Result<Vec<Vec<String>>> {
        self.result("namespaces", self.inner.namespaces(parent).await)
    }

    async fn create_namespace(&self, namespace: &[String], properties: &BTreeMap<String, String>) -> Result<()> {
        self.result("create_namespace", self.inner.create_namespace(namespace, properties).await)
    }

    async fn drop_namespace(&self, namespace: &[String]) -> Result<()> {
        self.result("drop_namespace", self.inner.drop_namespace(namespace).await)
    }

    async fn tables(&self, namespace: &[String]) -> Result<Vec<TableName>> {
        self.result("tables", self.inner.tables(namespace).await)
    }

    async fn capabilities(&self) -> Result<Capabilities> {
        self.result("capabilities", self.inner.capabilities().await)
    }
}
