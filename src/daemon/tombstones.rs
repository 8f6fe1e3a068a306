//! Records without a value, which a source passes over, through the whole daemon: counted, committed past, and nothing else.
#![cfg(test)]

use std::collections::VecDeque;

use async_trait::async_trait;

use super::tests::{World, config};
use super::*;
use crate::config::RejectLimit;
use crate::config::kafka::Tombstones;
use crate::env::virtual_time::on_virtual_time;
use crate::model::batch::RawBatch;
use crate::model::checkpoint::{Checkpoint, Position};
use crate::model::ids::PartitionId;
use crate::source::SourceEvent;
use crate::source::gather::{Log, Record};

const ROW_BYTES_MAX: u64 = 100;

/// A log of one partition, given in batches; `None` is a record without a value.
struct Records {
    batches: Vec<Vec<Option<String>>>,
    left: VecDeque<RawBatch>,
}

#[async_trait]
impl Source for Records {
    async fn open(&mut self, checkpoint: &Checkpoint) -> Result<()> {
        let partition = PartitionId::new("orders/0");
        let given = match checkpoint.positions.get(&partition) {
            Some(Position::Offset(last)) => Some(*last),
            _ => None,
        };
        let mut log = Log::new(partition, "orders".into(), Tombstones::Skip);
        log.open(given, None);
        self.left.clear();
        let mut offset = 0;
        for batch in &self.batches {
            for value in batch {
                let value = value.as_deref().map(str::as_bytes);
                log.take(Record { offset, value, key: Some(b"k"), ..Record::default() }, ROW_BYTES_MAX, 0)?;
                offset += 1;
            }
            self.left.extend(log.batch().map(|(batch, _)| batch));
        }
        Ok(())
    }

    async fn next(&mut self) -> Result<SourceEvent> {
        Ok(self.left.pop_front().map_or(SourceEvent::End, SourceEvent::Batch))
    }

    async fn release(&mut self, _: &Checkpoint) -> Result<()> {
        Ok(())
    }

    fn identity(&self) -> String {
        "records".to_owned()
    }
}

pub(super) fn row(id: u64) -> Option<String> {
    Some(format!("{{\"id\":{id},\"event_time\":\"2026-01-01T00:00:00Z\",\"customer_id\":1}}"))
}

/// Runs to the end of these batches; answers how it ended, and what was counted.
async fn run(world: &World, config: &Config, batches: Vec<Vec<Option<String>>>) -> (Result<()>, Metrics) {
    let metrics = Metrics::new();
    let face = Face { health: Health::new(metrics.clone()), metrics: metrics.clone() };
    let mut daemon = world.daemon_seen_by(config, face).await;
    daemon.pipelines[0].source = Box::new(Records { batches, left: VecDeque::new() });
    let mut ended = daemon.run(CancellationToken::new()).await;
    (ended.remove(&PipelineName::new("p")).expect("ended"), metrics)
}

async fn position(world: &World) -> Option<Position> {
    let records = world.records("shop.rows").await;
    records.last().and_then(|record| record.checkpoint.positions.get(&PartitionId::new("orders/0")).cloned())
}

#[test]
fn what_is_read_is_committed_rejected_or_passed_over() {
    on_virtual_time(async {
        let world = World::new(41);
        let long = Some("x".repeat(101));
        let batches = vec![vec![None, row(1), None], vec![Some("{".to_owned()), row(2), long], vec![None, None]];
        let (ended, metrics) = run(&world, &config("shop.rows", None, 1), batches).await;
        ended.expect("it ends well");
        assert_eq!(position(&world).await, Some(Position::Offset(7)));
        let total = |name| metrics.total(name, &["p"]);
        assert_eq!(total("frazil_rows_rejected_total"), 2);
        assert_eq!(metrics.total("frazil_rows_skipped_total", &["p", "orders/0"]), 4);
        assert_eq!(metrics.total("frazil_rows_committed_total", &["p", "shop.rows"]), 2);
        assert_eq!(total("frazil_rows_read_total"), 8);
    });
}

#[test]
fn what_is_passed_over_after_the_last_row_is_committed_and_not_read_again() {
    on_virtual_time(async {
        let world = World::new(42);
        let config = config("shop.rows", None, 1);
        run(&world, &config, vec![vec![row(1)]]).await.0.expect("it ends well");
        let (ended, metrics) = run(&world, &config, vec![vec![row(1)], vec![None, None]]).await;
        ended.expect("it ends well");
        assert_eq!(position(&world).await, Some(Position::Offset(2)));
        assert_eq!(metrics.total("frazil_rows_skipped_total", &[]), 2);
        let metrics = run(&world, &config, vec![vec![row(1)], vec![None, None]]).await.1;
        assert_eq!(metrics.total("frazil_rows_read_total", &[]), 0);
    });
}

#[test]
fn what_is_passed_over_makes_no_table_and_leaves_its_layout_to_the_rows() {
    on_virtual_time(async {
        let world = World::new(43);
        let config = config("shop.rows", None, 1);
        run(&world, &config, vec![vec![None, None]]).await.0.expect("it ends well");
        let there = world.catalog.load(&"shop.rows".parse().expect("a name")).await;
        assert_eq!(there.expect_err("nothing says what it is like").kind(), ErrorKind::NotFound);
        run(&world, &config, vec![vec![None, None], vec![row(1)]]).await.0.expect("it ends well");
        let state = world.state("shop.rows").await;
        assert_eq!(state.metadata.default_partition_spec().fields().len(), 1);
        assert_eq!(position(&world).await, Some(Position::Offset(2)));
    });
}

#[test]
fn what_is_passed_over_is_none_of_the_rows_of_which_too_many_may_be_rejects() {
    on_virtual_time(async {
        let mut config = config("shop.rows", None, 1);
        let own = config.pipelines.get_mut(&PipelineName::new("p")).expect("there");
        own.rejects.halt_above = RejectLimit { share: 0.3, window: None };
        let tombstones = vec![None; 20];
        let rows = |bad: bool| vec![row(1), if bad { Some("{".to_owned()) } else { row(2) }, row(3)];
        let (ended, _) = run(&World::new(44), &config, vec![tombstones.clone(), rows(false)]).await;
        ended.expect("they are no rejects");
        let (ended, _) = run(&World::new(45), &config, vec![tombstones, rows(true)]).await;
        let error = ended.expect_err("a third of the rows is bad");
        assert!(error.to_string().contains("1 of 3 rows"), "{error}");
    });
}
