//! Names that rows and catalogs give to tables, and what must not become of it: one table under two names, two tables of one
//! name, the name of the rejects' table; and where a source that begins at its end begins.
#![cfg(test)]

use async_trait::async_trait;

use super::by_partition::log_of;
use super::tests::{World, column, config, pipeline_of, rate};
use super::*;
use crate::catalog::memory::MemoryCatalog;
use crate::catalog::over::catalog_over_inner;
use crate::catalog::{CreateTable, Outcome, PreparedCommit};
use crate::env::virtual_time::on_virtual_time;
use crate::model::checkpoint::{Checkpoint, Position};
use crate::model::ids::PartitionId;
use crate::model::table::TableState;
use crate::source::SourceEvent;
use crate::storage::ledger::LedgerOwner;

fn event(id: u64, event: &str) -> Option<String> {
    let rest = "\"event_time\":\"2026-01-01T00:00:00Z\",\"customer_id\":1";
    Some(format!("{{\"id\":{id},\"event\":\"{event}\",{rest}}}"))
}

/// A catalog that takes names without regard to case.
#[derive(Debug)]
struct Folding {
    inner: Arc<dyn Catalog>,
}

fn lower(name: &TableName) -> TableName {
    name.to_string().to_lowercase().parse().expect("valid")
}

catalog_over_inner! {
    Folding {
        async fn load(&self, table: &TableName) -> Result<TableState> {
            self.inner.load(&lower(table)).await
        }

        async fn commit(&self, commit: &PreparedCommit) -> Outcome {
            self.inner.commit(&PreparedCommit { table: lower(&commit.table), ..commit.clone() }).await
        }

        async fn create(&self, table: &CreateTable) -> Outcome {
            self.inner.create(&CreateTable { name: lower(&table.name), ..table.clone() }).await
        }
    }
}

/// How the only pipeline ends with this source.
async fn ends(world: &World, config: &Config, source: Box<dyn Source>) -> Result<()> {
    let mut daemon = world.daemon(config).await;
    daemon.pipelines[0].source = source;
    daemon.run(CancellationToken::new()).await.remove(&PipelineName::new("p")).expect("ended")
}

#[test]
fn two_names_that_a_catalog_takes_for_one_table_halt_instead_of_losing_the_rows_of_one() {
    on_virtual_time(async {
        let mut world = World::new(61);
        world.catalog = Arc::new(Folding { inner: Arc::clone(&world.catalog) });
        let config = config("shop.{event}", Some("shop.base"), 0);
        let rows = || log_of(vec![vec![event(0, "View"), event(1, "view")]]);
        let error = ends(&world, &config, rows()).await.expect_err("one of them would be lost");
        assert_eq!(error.kind(), ErrorKind::Config, "{error}");
        assert!(error.to_string().contains("shop.View and shop.view are one table"), "{error}");
        assert!(error.hint().is_some());
    });
}

#[test]
fn a_row_that_names_the_table_of_the_rejects_is_one() {
    on_virtual_time(async {
        let world = World::new(62);
        let config = config("shop.{event}", Some("shop.base"), 0);
        let rows = || log_of(vec![vec![event(0, "base__rejects"), event(1, "view")], vec![event(2, "base__rejects")]]);
        for _ in 0..2 {
            ends(&world, &config, rows()).await.expect("it ends well");
            assert_eq!(world.positions(&["shop.view"]).await, [(("orders/0".to_owned(), 1), 1)].into());
            let rejects = world.read("shop.base__rejects").await;
            assert_eq!(rejects.iter().map(|batch| batch.num_rows()).sum::<usize>(), 2);
            assert!(rejects.iter().all(|batch| batch.column_by_name("reason").is_some()), "{rejects:?}");
        }
    });
}

#[test]
fn another_table_under_the_name_of_the_rejects_halts() {
    on_virtual_time(async {
        let world = World::new(63);
        let good = || log_of(vec![vec![event(0, "x")]]);
        ends(&world, &config("shop.base__rejects", None, 0), good()).await.expect("it ends well");
        let bad = log_of(vec![vec![Some("no JSON".to_owned())]]);
        let error = ends(&world, &config("shop.base", None, 0), bad).await.expect_err("not ours");
        assert_eq!(error.kind(), ErrorKind::Config, "{error}");
    });
}

/// A log that begins at its end: further on each time that is asked. It has no end.
struct Latest {
    log: Box<dyn Source>,
    begins: u64,
    /// Fails after the first batch.
    fails: bool,
}

#[async_trait]
impl Source for Latest {
    async fn begins(&mut self) -> Result<Option<Positions>> {
        let begins = self.begins;
        self.begins += 2;
        let before =
            begins.checked_sub(1).map(|last| (PartitionId::new("orders/0"), Position::Offset(last.cast_signed())));
        Ok(Some(before.into_iter().collect()))
    }

    async fn open(&mut self, checkpoint: &Checkpoint) -> Result<()> {
        self.log.open(checkpoint).await
    }

    async fn next(&mut self) -> Result<SourceEvent> {
        match self.log.next().await? {
            SourceEvent::End if std::mem::take(&mut self.fails) => Err(Error::new(ErrorKind::Unavailable, "away")),
            SourceEvent::End => std::future::pending().await,
            event => Ok(event),
        }
    }

    async fn release(&mut self, checkpoint: &Checkpoint) -> Result<()> {
        self.log.release(checkpoint).await
    }

    fn identity(&self) -> String {
        self.log.identity()
    }
}

#[test]
fn where_a_pipeline_began_at_the_end_of_its_source_stays_over_failures_and_kills() {
    on_virtual_time(async {
        // An anchor of its own; one that rows may come for, and whose columns are known; the only table.
        let cases = [("shop.{event}", Some("other.base")), ("shop.{event}", Some("shop.base")), ("shop.view", None)];
        for (template, anchor) in cases {
            // Before anything was there, and after a row.
            for (first, killed) in [(0, false), (0, true), (1, false), (1, true)] {
                let world = World::new(64);
                let mut config = config(template, anchor, 0);
                if anchor == Some("shop.base") {
                    let columns =
                        [("id", "long"), ("event", "string"), ("event_time", "timestamptz"), ("customer_id", "long")];
                    pipeline_of(&mut config).create.columns = columns.map(|(name, kind)| column(name, kind)).into();
                }
                let rows = || log_of(vec![(0..6).map(|id| event(id, "view")).collect()]);
                // The first life reads rows and ends before their commit; the others are asked later.
                let mut lives = vec![Latest { log: rows(), begins: first, fails: !killed }];
                if killed {
                    lives.push(Latest { log: rows(), begins: 5, fails: false });
                }
                for source in lives {
                    let life = if source.begins == first && killed { 1_500 } else { 30_000 };
                    let mut daemon = world.daemon(&config).await;
                    daemon.pipelines[0].source = Box::new(source);
                    let run = daemon.run(CancellationToken::new());
                    assert!(world.env.timeout(Duration::from_millis(life), run).await.is_none());
                    world.disk.crash();
                }
                let each = (first.cast_signed()..6).map(|number| (("orders/0".to_owned(), number), 1));
                let found = world.positions(&["shop.view"]).await;
                assert_eq!(found, each.collect(), "{template}, {anchor:?}, first {first}, killed: {killed}");
            }
        }
    });
}

/// What is left of a table is cleaned up in its own catalog, whichever others have a table of that name.
#[test]
fn leftovers_are_proved_in_the_catalog_that_has_their_table() {
    on_virtual_time(async {
        let world = World::new(66);
        let mut config = config("shop.events", None, 300);
        world.run(&config, None).await;
        let catalog = Arc::new(MemoryCatalog::new(world.env.clone(), "memory:///also"));
        let also = World { catalog, ..world.seen_through(0) };
        also.run(&config, None).await;
        let lost = "memory:///wh/lost.parquet".to_owned();
        world.storage.write(&lost, "x".into()).await.expect("writable");
        let table: TableName = "shop.events".parse().expect("valid");
        let ledger = Ledger::open(world.disk.clone(), ENTRIES_MAX).await.expect("a ledger");
        ledger.means(&table, world.state("shop.events").await.metadata.uuid());
        ledger.stage(&LedgerOwner { table, snapshot_id: 8 }, &lost).await.expect("noted");
        drop(ledger);
        rate(&mut config, 12_000, 1);
        pipeline_of(&mut config).commit.freshness = Duration::from_secs(300);
        let catalogs = [("also".to_owned(), also.catalog), ("lake".to_owned(), Arc::clone(&world.catalog))].into();
        let (storage, disk) = (world.storage.clone(), world.disk.clone());
        let stores = Stores { storage, disk, catalogs, sources: BTreeMap::new() };
        let metrics = Metrics::new();
        let face = Face { health: Health::new(metrics.clone()), metrics };
        let daemon = Daemon::with_stores(&config, &world.env, stores, face).await.expect("assembles");
        world.env.timeout(Duration::from_secs(2_500), daemon.run(CancellationToken::new())).await;
        assert!(!world.storage.exists(&lost).await.expect("asked"), "it was left to the orphan sweep");
    });
}
