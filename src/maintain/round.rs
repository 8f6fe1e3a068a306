//! One round over many tables: all are looked at, some at a time, and then those with something due have it done, what helps
//! readers most for its work first. A table that fails stops no other.

use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use futures::future::BoxFuture;
use futures::stream::{self, StreamExt};
use tokio_util::sync::CancellationToken;

use crate::catalog::Catalog;
use crate::commit::protocol::Committer;
use crate::commit::traffic::Traffic;
use crate::config::Policies;
use crate::config::policy::Policy;
use crate::env::Env;
use crate::error::Result;
use crate::maintain::claim::Claim;
use crate::maintain::leftovers::Leftovers;
use crate::maintain::upkeep::{Consent, End, Figures, Job, Look, Step, Upkeep};
use crate::model::ids::TableName;
use crate::model::table::TableState;
use crate::storage::Storage;
use crate::storage::disk::Disk;

/// What a round goes by.
#[derive(Debug, Clone, Copy)]
pub struct Options {
    /// Tables that are looked at at once.
    pub loads: usize,
    /// Tables that are worked on at once.
    pub parallel: usize,
    /// Bytes of memory that rewrites may take together, about.
    pub memory: u64,
    /// How long a claim on a table holds when it is not renewed.
    pub claim: Duration,
    /// Whether tables that nobody named lose snapshots too.
    pub consent: Consent,
}

/// Maintenance of the tables of one catalog.
#[derive(Debug, Clone)]
pub struct Round {
    /// Time and names.
    pub env: Env,
    /// The catalog's name in the configuration, by which policies know it.
    pub name: String,
    /// The catalog.
    pub catalog: Arc<dyn Catalog>,
    /// The process's stores.
    pub storage: Storage,
    /// Commits of rows of this process: they go first.
    pub traffic: Traffic,
    /// Names this process in commits.
    pub instance: String,
    /// Names it in claims: no other process that is alive has this name.
    pub holder: String,
    /// What applies to which table.
    pub policies: Arc<Policies>,
    /// Where files under way are noted.
    pub leftovers: Arc<Leftovers>,
    /// Where the steps of expiry are noted.
    pub notes: Arc<dyn Disk>,
    /// How it goes about it.
    pub options: Options,
}

/// What became of one table.
#[derive(Debug)]
pub struct TableReport {
    /// The table.
    pub table: TableName,
    /// What was done or not, and why; nothing when nothing was due.
    pub steps: Vec<Step>,
    /// When a step of expiry is due next, in milliseconds since the epoch.
    pub next_ms: Option<i64>,
}

impl TableReport {
    /// Whether something did not work.
    pub fn has_failed(&self) -> bool {
        self.steps.iter().any(Step::has_failed)
    }
}

impl Round {
    /// What would be done on these tables. Changes nothing.
    pub async fn preview(&self, tables: &[TableName]) -> Vec<TableReport> {
        let looks = self.look_at_all(tables).await;
        let report = |(table, look): (TableName, Result<Look>)| match look {
            Ok(look) => TableReport { table, next_ms: look.next_ms, steps: look.steps() },
            Err(error) => TableReport { table, steps: vec![Step::failed(Job::Look, error)], next_ms: None },
        };
        looks.into_iter().map(report).collect()
    }

    /// Does what is due on these tables; the answer is in their order.
    pub async fn run(&self, tables: &[TableName], cancel: &CancellationToken) -> Vec<TableReport> {
        let mut reports = Vec::new();
        let mut due = Vec::new();
        for (table, look) in self.look_at_all(tables).await {
            match look {
                Ok(look) if look.is_due() => due.push((look.worth(), table)),
                Ok(look) => reports.push(TableReport { table, next_ms: look.next_ms, steps: look.steps() }),
                Err(error) => {
                    reports.push(TableReport { table, steps: vec![Step::failed(Job::Look, error)], next_ms: None });
                }
            }
        }
        due.sort_by(|(a, first), (b, second)| b.cmp(a).then_with(|| first.cmp(second)));
        let mut works: Vec<BoxFuture<'_, TableReport>> = Vec::new();
        for (_, table) in due {
            works.push(self.keep_up(table, cancel).boxed());
        }
        let done: Vec<TableReport> = stream::iter(works).buffer_unordered(self.options.parallel.max(1)).collect().await;
        reports.extend(done);
        reports.sort_by(|a, b| a.table.cmp(&b.table));
        reports
    }

    async fn look_at_all(&self, tables: &[TableName]) -> Vec<(TableName, Result<Look>)> {
        let mut looks: Vec<BoxFuture<'_, Result<Look>>> = Vec::new();
        for table in tables {
            looks.push(self.look(table).boxed());
        }
        let looks: Vec<_> = stream::iter(looks).buffered(self.options.loads.max(1)).collect().await;
        tables.iter().cloned().zip(looks).collect()
    }

    /// What is due on a table: one load, and no write.
    ///
    /// # Errors
    /// What the catalog says; `Config` for properties of the table that are none.
    pub async fn look(&self, table: &TableName) -> Result<Look> {
        let mut committer = self.committer(table);
        let state = committer.load().await?;
        let policy = self.policies.policy(&self.name, table, state.metadata.properties())?;
        Ok(self.upkeep(&mut committer).look(&state, &policy).await)
    }

    /// Looks at a table and does what is due, unless another process looks after it.
    pub async fn keep_up(&self, table: TableName, cancel: &CancellationToken) -> TableReport {
        match self.try_keep_up(&table, cancel).await {
            Ok(report) => report,
            Err(error) => TableReport { table, steps: vec![Step::failed(Job::Look, error)], next_ms: None },
        }
    }

    async fn try_keep_up(&self, table: &TableName, cancel: &CancellationToken) -> Result<TableReport> {
        let mut committer = self.committer(table);
        let state = committer.load().await?;
        let policy = self.policies.policy(&self.name, table, state.metadata.properties())?;
        let claim = Claim::take(&self.env, committer.storage(), &state, &self.holder, self.options.claim).await;
        let claim = match claim {
            Ok(Ok(claim)) => Some(claim),
            Ok(Err(held)) => {
                let words = format!("{} looks after it", held.holder);
                let step = Step { job: Job::Look, end: End::Waits, words, figures: Figures::default() };
                return Ok(TableReport { table: table.clone(), steps: vec![step], next_ms: Some(held.until_ms) });
            }
            // It only saves work.
            Err(error) => {
                tracing::debug!(%table, "no claim: {error}");
                None
            }
        };
        let work = self.work_on(&mut committer, &state, &policy, cancel).boxed();
        let steps = match &claim {
            Some(claim) => claim.during(work).await,
            None => work.await,
        };
        if let Some(claim) = claim {
            claim.release().await;
        }
        Ok(TableReport { table: table.clone(), steps, next_ms: None })
    }

    async fn work_on(
        &self,
        committer: &mut Committer,
        state: &TableState,
        policy: &Policy,
        cancel: &CancellationToken,
    ) -> Vec<Step> {
        let mut upkeep = self.upkeep(committer);
        let look = upkeep.look(state, policy).await;
        upkeep.carry_out(look, policy, cancel).await
    }

    fn upkeep<'a>(&'a self, committer: &'a mut Committer) -> Upkeep<'a> {
        Upkeep {
            env: &self.env,
            committer,
            leftovers: &self.leftovers,
            notes: self.notes.as_ref(),
            memory: self.options.memory / self.options.parallel.max(1) as u64,
            consent: self.options.consent,
        }
    }

    /// What commits to a table.
    pub(super) fn committer(&self, table: &TableName) -> Committer {
        let (catalog, storage) = (Arc::clone(&self.catalog), self.storage.clone());
        let ledger = Some(self.leftovers.ledger().clone());
        Committer::new(self.env.clone(), catalog, storage, ledger, table.clone(), self.instance.clone())
            .among(self.traffic.of(&self.name, table))
    }
}

#[cfg(test)]
mod tests;
