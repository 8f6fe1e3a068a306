//! Credentials that come with a table and run out, on virtual time.
#![cfg(test)]

use std::sync::{Mutex, PoisonError};

use super::outage::{Answer, FailingStore, Outage};
use super::tests::{World, config, each_once, pipeline_of, rate};
use super::*;
use crate::catalog::over::catalog_over_inner;
use crate::catalog::{CreateTable, Outcome, PreparedCommit};
use crate::env::virtual_time::on_virtual_time;
use crate::model::table::TableState;
use crate::storage::MemoryStore;

/// A catalog that gives new credentials with each table that is loaded. A commit's answer has those of the last one.
#[derive(Debug)]
struct Vending {
    inner: Arc<dyn Catalog>,
    env: Env,
    /// When tables were loaded.
    loads: Arc<Mutex<Vec<i64>>>,
}

impl Vending {
    fn with_credentials(&self, mut state: TableState) -> TableState {
        let number = self.loads.lock().unwrap_or_else(PoisonError::into_inner).len();
        state.config = Arc::new([("s3.session-token".to_owned(), number.to_string())].into());
        state
    }
}

/// Lets the world's catalog give credentials; answers when tables are loaded.
fn vend(world: &mut World) -> Arc<Mutex<Vec<i64>>> {
    let loads = Arc::new(Mutex::new(Vec::new()));
    let inner = Arc::clone(&world.catalog);
    world.catalog = Arc::new(Vending { inner, env: world.env.clone(), loads: Arc::clone(&loads) });
    loads
}

catalog_over_inner! {
    Vending {
        async fn load(&self, table: &TableName) -> Result<TableState> {
            let state = self.inner.load(table).await?;
            self.loads.lock().unwrap_or_else(PoisonError::into_inner).push(self.env.now_ms());
            Ok(self.with_credentials(state))
        }

        async fn commit(&self, commit: &PreparedCommit) -> Outcome {
            match self.inner.commit(commit).await {
                Outcome::Committed(state) => Outcome::Committed(Box::new(self.with_credentials(*state))),
                other => other,
            }
        }

        async fn create(&self, table: &CreateTable) -> Outcome {
            match self.inner.create(table).await {
                Outcome::Committed(state) => Outcome::Committed(Box::new(self.with_credentials(*state))),
                other => other,
            }
        }
    }
}

#[test]
fn credentials_that_came_with_a_table_are_asked_for_anew_every_few_minutes() {
    const MINUTE_MS: i64 = 60_000;
    on_virtual_time(async {
        let mut world = World::new(81);
        let loads = vend(&mut world);
        let mut config = config("shop.events", None, 0);
        rate(&mut config, 1_500, 2);
        pipeline_of(&mut config).commit.freshness = Duration::from_secs(60);
        let begun = world.env.now_ms();
        world.run(&config, None).await;
        let mut times = loads.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let ended = world.env.now_ms();
        assert!(ended - begun > 12 * MINUTE_MS, "{} ms", ended - begun);
        times.insert(0, begun);
        times.push(ended);
        let longest = times.windows(2).map(|pair| pair[1] - pair[0]).max();
        // Five minutes, to the beginning of the next epoch.
        assert!(longest.is_some_and(|longest| longest <= 7 * MINUTE_MS), "{times:?}");
        each_once(&world.positions(&["shop.events"]).await, 1_500);
    });
}

#[test]
fn credentials_that_ran_out_within_an_epoch_halt_a_pipeline_only_where_no_others_come_with_its_table() {
    for vended in [true, false] {
        on_virtual_time(async {
            let mut world = World::new(82);
            if vended {
                vend(&mut world);
            }
            let mut config = config("shop.events", None, 0);
            rate(&mut config, 1_000, 100);
            pipeline_of(&mut config).commit.freshness = Duration::from_secs(1);
            // Longer than an epoch, and shorter than the lives that may end so.
            let from = world.env.now_ms() + 3_000;
            let outage = Outage { env: world.env.clone(), down_ms: from..from + 1_500 };
            let inner = MemoryStore::new(world.env.clone());
            world.storage.mount("memory:///", Arc::new(FailingStore { inner, outage, answer: Answer::Denied }));
            let ended = world.ending(&config).await;
            if vended {
                ended.expect("it begins again with others");
                each_once(&world.positions(&["shop.events"]).await, 1_000);
            } else {
                assert_eq!(ended.expect_err("those of the configuration stay").kind(), ErrorKind::Denied);
                assert!(world.env.now_ms() >= from);
            }
        });
    }
}
