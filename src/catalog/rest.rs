//! A client of Iceberg REST catalogs. Believes no more of an answer than `outcome` says.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use bytes::Bytes;
use iceberg::TableRequirement;
use reqwest::Method;
use serde::de::DeserializeOwned;

use super::http::{Http, Request};
use super::memory::check_namespace;
use super::outcome::{of_change, of_request};
use super::paths::Paths;
use super::wire::{
    ConfigAnswer, CreateBody, CreateNamespace, NamespacesPage, RegisterBody, RenameBody, TableAnswer, TablesPage,
    commit_body, creation_updates,
};
use super::{Capabilities, Catalog, CreateTable, Outcome, PreparedCommit};
use crate::config::RestConfig;
use crate::env::Env;
use crate::error::{Context, Error, ErrorKind, Result};
use crate::model::ids::TableName;
use crate::model::table::TableState;

/// The most pages that one listing may have.
const PAGES_MAX: usize = 100_000;

/// Tables whose vended settings are remembered.
const VENDED_MAX: usize = 4096;

/// A catalog behind the Iceberg REST protocol.
#[derive(Debug)]
pub struct RestCatalog {
    env: Env,
    http: Http,
    paths: Paths,
    endpoints: Vec<String>,
    vended_credentials: bool,
    vended: Mutex<BTreeMap<TableName, Arc<HashMap<String, String>>>>,
}

impl RestCatalog {
    /// Asks the server for its configuration: prefix, separator, endpoints.
    ///
    /// # Errors
    /// `Config` when uri or warehouse are wrong, `Denied`, `Unavailable` when nobody answers.
    pub async fn connect(config: &RestConfig, env: &Env) -> Result<Self> {
        let paths = Paths::new(&config.uri)?;
        let http = Http::new(config, env)?;
        let place = format!("catalog {}", paths.base());
        let url = paths.config(config.warehouse.as_deref());
        let answer = http.send(&Request::new(Method::GET, url)).await;
        let body = of_request(answer, &place).map_err(|e| match e.kind() {
            ErrorKind::NotFound | ErrorKind::Input => Error::new(ErrorKind::Config, "v1/config is not answered")
                .with_source(e)
                .with_hint("check the catalog's uri (the part before /v1) and its warehouse"),
            _ => e,
        })?;
        let answer: ConfigAnswer = serde_json::from_slice(&body)
            .context(ErrorKind::Config, || format!("{place}: what v1/config answers is no catalog configuration"))?;
        let setting = |key: &str| {
            let found = answer.overrides.get(key).or_else(|| answer.defaults.get(key));
            found.and_then(Option::as_deref)
        };
        let paths = paths.configured(setting("uri"), setting("prefix"), setting("namespace-separator"))?;
        Ok(Self {
            env: env.clone(),
            http,
            paths,
            vended_credentials: config.vended_credentials,
            endpoints: answer.endpoints.clone().unwrap_or_default(),
            vended: Mutex::default(),
        })
    }

    /// Creates a table in two steps: the server stages it, a commit that asserts its absence makes it. For catalogs whose
    /// plain create is not to be trusted, and for a first snapshot that must come with its table.
    pub async fn create_staged(&self, create: &CreateTable) -> Outcome {
        if let Err(outcome) = self.provide_namespace(create.name.namespace()).await {
            return outcome;
        }
        let place = format!("stage table {}", create.name);
        let staged = match self.post_create(create, true, &place).await {
            Ok(body) => self.table_of(&create.name, &body, &place),
            Err(outcome) => return outcome,
        };
        let staged = match staged {
            Ok(staged) => staged,
            // Staging changes nothing, so nothing is in doubt.
            Err(e) => return Outcome::Refused(e),
        };
        let commit = PreparedCommit {
            table: create.name.clone(),
            requirements: vec![TableRequirement::NotExist],
            updates: creation_updates(&staged),
            idempotency_key: self.env.uuid(),
        };
        self.commit(&commit).await
    }

    fn request(&self, method: Method, url: Result<String>) -> Result<Request> {
        Ok(Request::new(method, url?))
    }

    /// A request whose answer holds a table.
    fn table_request(&self, method: Method, url: Result<String>) -> Result<Request> {
        let request = self.request(method, url)?;
        Ok(match self.vended_credentials {
            true => request.header("X-Iceberg-Access-Delegation", "vended-credentials"),
            false => request,
        })
    }

    async fn change(&self, request: Result<Request>, place: &str) -> Result<Bytes, Outcome> {
        let request = request.map_err(|e| Outcome::Refused(e.within(place)))?;
        of_change(self.http.send(&request).await, place)
    }

    async fn ask(&self, request: Result<Request>, place: &str) -> Result<Bytes> {
        let request = request.map_err(|e| e.within(place))?;
        of_request(self.http.send(&request).await, place)
    }

    async fn page<T: DeserializeOwned>(&self, url: Result<String>, place: &str) -> Result<T> {
        let body = self.ask(self.request(Method::GET, url), place).await?;
        serde_json::from_slice(&body).context(ErrorKind::Unavailable, || format!("{place}: the answer is malformed"))
    }

    fn table_of(&self, table: &TableName, body: &[u8], place: &str) -> Result<TableState> {
        let answer: TableAnswer = serde_json::from_slice(body)
            .context(ErrorKind::Unavailable, || format!("{place}: the answer is malformed"))?;
        let mut state = answer.into_state(table).map_err(|e| e.within(place))?;
        let mut vended = self.vended.lock().unwrap_or_else(PoisonError::into_inner);
        if state.config.is_empty() {
            // The answer to a commit has no place for them.
            state.config = vended.get(table).cloned().unwrap_or_default();
        } else {
            if vended.len() >= VENDED_MAX && !vended.contains_key(table) {
                vended.pop_first();
            }
            vended.insert(table.clone(), state.config.clone());
        }
        Ok(state)
    }

    /// A 2xx whose body is no table leaves the change in doubt.
    fn changed(&self, table: &TableName, body: Result<Bytes, Outcome>, place: &str) -> Outcome {
        match body.map(|body| self.table_of(table, &body, place)) {
            Ok(Ok(state)) => Outcome::Committed(Box::new(state)),
            Ok(Err(e)) => Outcome::Unknown(e),
            Err(outcome) => outcome,
        }
    }

    /// Creates what is missing of a namespace. On failure the table was not asked for, so the outcome is never in doubt.
    async fn provide_namespace(&self, namespace: &[String]) -> Result<(), Outcome> {
        let definite = |e: Error| match e.kind() {
            ErrorKind::Unavailable => Outcome::NotSent(e),
            _ => Outcome::Refused(e),
        };
        for depth in (0..=namespace.len()).rev() {
            let place = format!("namespace {}", namespace[..depth].join("."));
            let known = match depth {
                0 => Ok(()),
                _ => self
                    .ask(self.request(Method::GET, self.paths.namespace(&namespace[..depth])), &place)
                    .await
                    .map(drop),
            };
            match known {
                Err(e) if e.kind() == ErrorKind::NotFound => continue,
                // Who may not look may still create a table.
                Err(e) if e.kind() != ErrorKind::Denied => return Err(definite(e)),
                _ => {}
            }
            for depth in depth + 1..=namespace.len() {
                match self.create_namespace(&namespace[..depth], &BTreeMap::new()).await {
                    Err(e) if e.kind() != ErrorKind::Conflict => return Err(definite(e)),
                    _ => {}
                }
            }
            break;
        }
        Ok(())
    }

    async fn post_create(&self, create: &CreateTable, stage: bool, place: &str) -> Result<Bytes, Outcome> {
        let request = self
            .table_request(Method::POST, self.paths.tables(create.name.namespace()))
            .and_then(|r| r.json(&CreateBody::new(create, stage)));
        self.change(request, place).await
    }
}

/// Follows a listing page by page until a page names no next one.
struct Pages {
    token: String,
    seen: BTreeSet<String>,
}

impl Pages {
    fn new() -> Self {
        Self { token: String::new(), seen: BTreeSet::new() }
    }

    /// Whether there is a next page; its token is in `token` then.
    fn follow(&mut self, next: Option<String>, place: &str) -> Result<bool> {
        let Some(next) = next.filter(|t| !t.is_empty()) else { return Ok(false) };
        if self.seen.len() >= PAGES_MAX || !self.seen.insert(next.clone()) {
            return Err(Error::new(ErrorKind::Unavailable, format!("{place}: the pages of the list do not end")));
        }
        self.token = next;
        Ok(true)
    }
}

#[async_trait]
impl Catalog for RestCatalog {
    async fn load(&self, table: &TableName) -> Result<TableState> {
        let place = format!("load table {table}");
        let url = self.paths.table(table).map(|url| format!("{url}?snapshots=all"));
        let body = self.ask(self.table_request(Method::GET, url), &place).await?;
        self.table_of(table, &body, &place)
    }

    async fn commit(&self, commit: &PreparedCommit) -> Outcome {
        let place = format!("commit to table {}", commit.table);
        let request = self
            .request(Method::POST, self.paths.table(&commit.table))
            .and_then(|r| r.header("Idempotency-Key", commit.idempotency_key.to_string()).json(&commit_body(commit)?));
        let body = self.change(request, &place).await;
        self.changed(&commit.table, body, &place)
    }

    async fn create(&self, table: &CreateTable) -> Outcome {
        let place = format!("create table {}", table.name);
        // Some servers answer a second create with the first one's success.
        match self.load(&table.name).await {
            Ok(_) => {
                let text = format!("{place}: it exists already");
                return Outcome::Refused(Error::new(ErrorKind::Conflict, text));
            }
            // Who may not look may still create.
            Err(e) if matches!(e.kind(), ErrorKind::NotFound | ErrorKind::Denied) => {}
            Err(e) if e.kind() == ErrorKind::Unavailable => return Outcome::NotSent(e.within(place)),
            Err(e) => return Outcome::Refused(e.within(place)),
        }
        if let Err(outcome) = self.provide_namespace(table.name.namespace()).await {
            return outcome;
        }
        let body = self.post_create(table, false, &place).await;
        self.changed(&table.name, body, &place)
    }

    async fn register(&self, table: &TableName, metadata_location: &str) -> Outcome {
        let place = format!("register table {table}");
        let request = self
            .table_request(Method::POST, self.paths.register(table.namespace()))
            .and_then(|r| r.json(&RegisterBody { name: table.name(), metadata_location }));
        let body = self.change(request, &place).await;
        self.changed(table, body, &place)
    }

    async fn rename(&self, from: &TableName, to: &TableName) -> Result<()> {
        let body = RenameBody { source: from.into(), destination: to.into() };
        let request = self.request(Method::POST, Ok(self.paths.rename())).and_then(|r| r.json(&body));
        self.ask(request, &format!("rename table {from} to {to}")).await.map(drop)
    }

    async fn drop_table(&self, table: &TableName) -> Result<()> {
        let url = self.paths.table(table).map(|url| format!("{url}?purgeRequested=false"));
        self.ask(self.request(Method::DELETE, url), &format!("drop table {table}")).await.map(drop)
    }

    async fn namespaces(&self, parent: &[String]) -> Result<Vec<Vec<String>>> {
        let place = format!("list namespaces of {:?}", parent.join("."));
        let (mut found, mut pages) = (BTreeSet::new(), Pages::new());
        loop {
            let page: NamespacesPage = self.page(self.paths.namespaces_page(parent, &pages.token), &place).await?;
            found.extend(page.namespaces.into_iter().filter(|n| n.len() == parent.len() + 1 && n.starts_with(parent)));
            if !pages.follow(page.next_page_token, &place)? {
                return Ok(found.into_iter().collect());
            }
        }
    }

    async fn create_namespace(&self, namespace: &[String], properties: &BTreeMap<String, String>) -> Result<()> {
        check_namespace(namespace)?;
        let request = self
            .request(Method::POST, Ok(self.paths.namespaces()))
            .and_then(|r| r.json(&CreateNamespace { namespace, properties }));
        self.ask(request, &format!("create namespace {}", namespace.join("."))).await.map(drop)
    }

    async fn drop_namespace(&self, namespace: &[String]) -> Result<()> {
        let request = self.request(Method::DELETE, self.paths.namespace(namespace));
        self.ask(request, &format!("drop namespace {}", namespace.join("."))).await.map(drop)
    }

    async fn tables(&self, namespace: &[String]) -> Result<Vec<TableName>> {
        let place = format!("list tables of {}", namespace.join("."));
        let (mut found, mut pages) = (BTreeSet::new(), Pages::new());
        loop {
            let page: TablesPage = self.page(self.paths.tables_page(namespace, &pages.token), &place).await?;
            for identifier in page.identifiers {
                found.insert(TableName::new(identifier.namespace, identifier.name)?);
            }
            if !pages.follow(page.next_page_token, &place)? {
                return Ok(found.into_iter().collect());
            }
        }
    }

    async fn capabilities(&self) -> Result<Capabilities> {
        Ok(Capabilities {
            multi_table_commit: self.endpoints.iter().any(|e| e == "POST /v1/{prefix}/transactions/commit"),
            endpoints: self.endpoints.clone(),
            vends_credentials: self.vended_credentials,
        })
    }
}

#[cfg(test)]
mod tests;
