//! What becomes of the rows of each partition, through the whole daemon: the counters add up.
#![cfg(test)]

use std::collections::VecDeque;

use async_trait::async_trait;

use super::tests::{World, config};
use super::tombstones::row;
use super::*;
use crate::config::kafka::Tombstones;
use crate::env::virtual_time::on_virtual_time;
use crate::model::checkpoint::{Checkpoint, Position};
use crate::model::ids::PartitionId;
use crate::source::gather::{Log, Record};
use crate::source::{Notes, SourceEvent};

const ROW_BYTES_MAX: u64 = 100;
const LOST: u64 = 7;

/// What a source does next.
#[derive(Clone)]
enum Step {
    /// Gives records of the log of this number; `None` has no value.
    Batch(usize, Vec<Option<String>>),
    /// Fails, the first time.
    Fails,
    /// Loses the log of this number, the first time.
    Revoked(usize),
}

/// Logs that are read side by side. The second one has lost rows.
struct Logs {
    steps: Vec<Step>,
    left: VecDeque<Result<SourceEvent>>,
    interrupted: bool,
}

/// A log whose batches come one after the other.
pub(super) fn log_of(batches: Vec<Vec<Option<String>>>) -> Box<dyn Source> {
    let steps = batches.into_iter().map(|batch| Step::Batch(0, batch)).collect();
    Box::new(Logs { steps, left: VecDeque::new(), interrupted: false })
}

fn partition(number: usize) -> PartitionId {
    PartitionId::new(format!("orders/{number}"))
}

#[async_trait]
impl Source for Logs {
    async fn open(&mut self, checkpoint: &Checkpoint) -> Result<()> {
        let opened = |number| {
            let mut log = Log::new(partition(number), "orders".into(), Tombstones::Skip);
            let given = match checkpoint.positions.get(&partition(number)) {
                Some(Position::Offset(last)) => Some(*last),
                _ => None,
            };
            log.open(given, None);
            (log, 0)
        };
        let mut logs: Vec<(Log, i64)> = (0..3).map(opened).collect();
        self.left.clear();
        for step in &self.steps {
            match step {
                Step::Batch(number, values) => {
                    let (log, offset) = &mut logs[*number];
                    for value in values {
                        let value = value.as_deref().map(str::as_bytes);
                        let record = Record { offset: *offset, value, key: Some(b"k"), ..Record::default() };
                        log.take(record, ROW_BYTES_MAX, 0)?;
                        *offset += 1;
                    }
                    self.left.extend(log.batch().map(|(batch, _)| Ok(SourceEvent::Batch(batch))));
                }
                _ if self.interrupted => {}
                Step::Fails => self.left.push_back(Err(Error::new(ErrorKind::Unavailable, "the log is away"))),
                Step::Revoked(number) => self.left.push_back(Ok(SourceEvent::Revoked(vec![partition(*number)]))),
            }
        }
        Ok(())
    }

    async fn next(&mut self) -> Result<SourceEvent> {
        let next = self.left.pop_front().unwrap_or(Ok(SourceEvent::End));
        self.interrupted |= matches!(next, Err(_) | Ok(SourceEvent::Revoked(_)));
        next
    }

    async fn release(&mut self, _: &Checkpoint) -> Result<()> {
        Ok(())
    }

    fn identity(&self) -> String {
        "logs".to_owned()
    }

    fn notes(&self) -> Notes {
        Notes { rows_lost: [(partition(1), LOST)].into(), ..Notes::default() }
    }
}

/// Of one partition: rows read, committed, rejected, skipped, returned, lost.
fn counted(metrics: &Metrics, number: usize) -> [u64; 6] {
    let (p, of) = ("p".to_owned(), partition(number).to_string());
    [
        "frazil_rows_read_total",
        "frazil_partition_rows_committed_total",
        "frazil_rows_rejected_total",
        "frazil_rows_skipped_total",
        "frazil_rows_returned_total",
        "frazil_lost_rows_total",
    ]
    .map(|name| {
        let series = metrics.counters(name).into_iter();
        series.filter(|(labels, _)| labels.contains(&p) && labels.contains(&of)).map(|(_, count)| count).sum()
    })
}

fn run(seed: u64, interruption: Step) -> Metrics {
    let metrics = Metrics::new();
    let face = Face { health: Health::new(metrics.clone()), metrics: metrics.clone() };
    on_virtual_time(async move {
        let world = World::new(seed);
        let mut daemon = world.daemon_seen_by(&config("shop.rows", None, 1), face).await;
        let (bad, long) = (Some("{".to_owned()), Some("x".repeat(101)));
        let steps = vec![
            Step::Batch(0, vec![row(1), None, bad.clone(), row(2)]),
            Step::Batch(1, vec![None, row(3)]),
            interruption,
            Step::Batch(0, vec![row(4)]),
            Step::Batch(1, vec![long, None]),
            Step::Batch(2, vec![bad.clone(), bad]),
        ];
        daemon.pipelines[0].source = Box::new(Logs { steps, left: VecDeque::new(), interrupted: false });
        let ended = daemon.run(CancellationToken::new()).await;
        assert!(ended.values().all(Result::is_ok), "{ended:?}");
    });
    metrics
}

#[test]
fn of_each_partition_what_was_read_is_committed_rejected_skipped_or_returned() {
    for (seed, interruption) in [(51, Step::Fails), (52, Step::Revoked(0))] {
        let metrics = run(seed, interruption);
        let all = [0, 1, 2].map(|number| counted(&metrics, number));
        for [read, committed, rejected, skipped, returned, _] in all {
            assert_eq!(read, committed + rejected + skipped + returned, "{all:?}");
        }
        // What came before the interruption was read twice, what came after it once.
        assert_eq!(all.map(|[read, ..]| read), [4 + 5, 2 + 4, 2]);
        assert_eq!(all.map(|[_, committed, ..]| committed), [3, 1, 0]);
        assert_eq!(all.map(|[_, _, _, skipped, ..]| skipped), [2, 3, 0]);
        assert!(matches!(all, [[.., 2 | 3, 0], [.., 1, LOST], [_, _, 2, _, 0, 0]]), "{all:?}");
    }
}
