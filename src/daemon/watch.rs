//! What a pipeline tells of itself: to metrics, and to health.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use crate::api::{Health, PipelineHealth};
use crate::daemon::cadence::Why;
use crate::daemon::pipeline::since;
use crate::model::batch::Reject;
use crate::model::ids::{PartitionId, PipelineName, TableName};
use crate::quality::quarantine;
use crate::source::Notes;
use crate::source::files::FilesCounters;
use crate::telemetry::metrics::Metrics;

/// One pipeline's voice.
#[derive(Debug)]
pub(crate) struct Watch {
    pipeline: PipelineName,
    metrics: Metrics,
    health: Health,
    commits: AtomicU64,
    started: AtomicBool,
    /// What of the source's counts is in the metrics.
    told: Mutex<FilesCounters>,
    lost: Mutex<BTreeMap<PartitionId, u64>>,
    behind: Mutex<Option<Arc<BTreeMap<PartitionId, u64>>>>,
    /// Rows of each partition that were read and whose end is not known yet.
    open: Mutex<BTreeMap<PartitionId, u64>>,
    /// When the oldest row was read that is not committed.
    waits_ms: Mutex<Option<i64>>,
    /// The newest row read and the newest one committed.
    newest_ms: Mutex<(Option<i64>, Option<i64>)>,
}

impl Watch {
    pub(crate) fn new(pipeline: PipelineName, metrics: Metrics, health: Health) -> Self {
        health.set(&pipeline, PipelineHealth::Starting);
        Self {
            pipeline,
            metrics,
            health,
            commits: AtomicU64::new(0),
            started: AtomicBool::new(false),
            told: Mutex::default(),
            lost: Mutex::default(),
            behind: Mutex::default(),
            open: Mutex::default(),
            waits_ms: Mutex::default(),
            newest_ms: Mutex::default(),
        }
    }

    /// Others were faster in so many attempts of a commit.
    pub(crate) fn met(&self, table: &TableName, conflicts: u32) {
        if conflicts > 0 {
            self.metrics.conflicts(&table.to_string(), "append", u64::from(conflicts));
        }
    }

    /// Rows of a partition came from the source, its rejects included; beside them it passed over `skipped` records.
    pub(crate) fn read(&self, partition: &PartitionId, rows: u64, skipped: u64, bytes: u64, newest_ms: Option<i64>) {
        self.metrics.rows_read(self.pipeline.as_str(), partition.as_str(), rows.saturating_add(skipped), bytes);
        if skipped > 0 {
            self.metrics.rows_skipped(self.pipeline.as_str(), partition.as_str(), skipped);
        }
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        let own = open.entry(partition.clone()).or_default();
        *own = own.saturating_add(rows);
        drop(open);
        self.lag(newest_ms, None);
    }

    /// So many of the rows whose end was open have come to one.
    fn close(&self, partition: &PartitionId, rows: u64) {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(own) = open.get_mut(partition) {
            *own = own.saturating_sub(rows);
        }
    }

    /// The newest row read, the newest one committed, by the source's own times: what lies between is the lag.
    fn lag(&self, read_ms: Option<i64>, committed_ms: Option<i64>) {
        let mut newest = self.newest_ms.lock().unwrap_or_else(PoisonError::into_inner);
        *newest = (newest.0.max(read_ms), newest.1.max(committed_ms));
        if let (Some(read), Some(committed)) = *newest {
            let behind = u64::try_from(read.saturating_sub(committed)).unwrap_or(0);
            self.metrics.lag(self.pipeline.as_str(), Duration::from_millis(behind));
        }
    }

    /// Rows of a partition were put aside.
    pub(crate) fn rejected(&self, partition: &PartitionId, rejects: &[Reject]) {
        for (stage, rows) in quarantine::by_stage(rejects) {
            self.metrics.rows_rejected(self.pipeline.as_str(), stage, partition.as_str(), rows);
            self.close(partition, rows);
        }
    }

    /// The epoch that has so many rows of each partition is decided.
    pub(crate) fn decided(&self, partitions: &BTreeMap<PartitionId, u64>) {
        for (partition, rows) in partitions.iter().filter(|(_, rows)| **rows > 0) {
            self.metrics.partition_committed(self.pipeline.as_str(), partition.as_str(), *rows);
            self.close(partition, *rows);
        }
    }

    /// All rows whose end is open are given up.
    pub(crate) fn returned(&self) {
        let open = std::mem::take(&mut *self.open.lock().unwrap_or_else(PoisonError::into_inner));
        for (partition, rows) in open.into_iter().filter(|(_, rows)| *rows > 0) {
            self.metrics.rows_returned(self.pipeline.as_str(), partition.as_str(), rows);
        }
    }

    /// What the source says of itself.
    pub(crate) fn notes(&self, notes: &Notes) {
        if let Some(behind) = notes.behind {
            self.metrics.lag_files(self.pipeline.as_str(), behind.files, behind.bytes);
        }
        if let Some(now) = &notes.rows_behind {
            let told = self.behind.lock().unwrap_or_else(PoisonError::into_inner).replace(Arc::clone(now));
            if !told.is_some_and(|told| Arc::ptr_eq(&told, now)) {
                self.metrics.lag_rows(self.pipeline.as_str(), now);
            }
        }
        let mut lost = self.lost.lock().unwrap_or_else(PoisonError::into_inner);
        for (partition, now) in &notes.rows_lost {
            let before = lost.insert(partition.clone(), *now).unwrap_or(0);
            if *now > before {
                self.metrics.lost_rows(self.pipeline.as_str(), partition.as_str(), *now - before);
            }
        }
        drop(lost);
        let Some(now) = notes.files else { return };
        let told = std::mem::replace(&mut *self.told.lock().unwrap_or_else(PoisonError::into_inner), now);
        let counts = [
            ("read", told.files, now.files),
            ("late", told.late, now.late),
            ("late_unknown", told.late_unknown, now.late_unknown),
            ("changed", told.changed_after_close, now.changed_after_close),
            ("unreadable", told.unreadable_names, now.unreadable_names),
        ];
        for (what, before, now) in counts {
            if now > before {
                self.metrics.source_files(self.pipeline.as_str(), what, now - before);
            }
        }
    }

    /// The open epoch holds so many bytes, and its oldest row waits since then.
    pub(crate) fn open(&self, bytes: u64, since_ms: i64) {
        self.metrics.epoch_open_bytes(self.pipeline.as_str(), bytes);
        self.waits_ms.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(since_ms);
    }

    /// The source is read no more: what waits there is others' to tell.
    pub(crate) fn closed(&self) {
        self.metrics.lag_rows(self.pipeline.as_str(), &BTreeMap::new());
    }

    /// No row waits here: all are committed, or others', or read again.
    pub(crate) fn rests(&self) {
        *self.waits_ms.lock().unwrap_or_else(PoisonError::into_inner) = None;
        self.metrics.freshness(self.pipeline.as_str(), Duration::ZERO);
        self.metrics.epoch_open_bytes(self.pipeline.as_str(), 0);
    }

    /// Shows how long the oldest row has waited by now, however long a commit takes or fails.
    pub(crate) fn age(&self, now_ms: i64) {
        if let Some(then_ms) = *self.waits_ms.lock().unwrap_or_else(PoisonError::into_inner) {
            self.metrics.freshness(self.pipeline.as_str(), since(then_ms, now_ms));
        }
    }

    /// The source was held back because others hold the memory.
    pub(crate) fn paused(&self, paused: Duration) {
        self.metrics.source_paused(self.pipeline.as_str(), paused);
    }

    /// One table's part of an epoch is in.
    pub(crate) fn table_committed(&self, table: &TableName, rows: u64, files: u64, bytes: u64) {
        let name = table.to_string();
        self.metrics.rows_committed(self.pipeline.as_str(), &name, rows);
        self.metrics.files_written(&name, files, bytes);
    }

    /// An epoch is in, so long after its seal.
    pub(crate) fn committed(&self, anchor: &TableName, took: Duration, newest_ms: Option<i64>) {
        self.lag(None, newest_ms);
        self.metrics.commit_duration(&anchor.to_string(), took);
        self.commits.fetch_add(1, Ordering::Relaxed);
        self.rests();
    }

    /// From now on epochs stay open for so long, and this says so.
    pub(crate) fn paced(&self, interval: Duration, why: Why) {
        let whys = Why::ALL.into_iter().map(|other| (other.word(), other == why));
        self.metrics.cadence(self.pipeline.as_str(), interval, whys);
    }

    /// Epochs committed by this process.
    pub(crate) fn commits(&self) -> u64 {
        self.commits.load(Ordering::Relaxed)
    }

    /// The pipeline is so from now on.
    pub(crate) fn set(&self, health: PipelineHealth) {
        if matches!(health, PipelineHealth::Running | PipelineHealth::Halted(_) | PipelineHealth::Finished) {
            self.started.store(true, Ordering::Relaxed);
        }
        self.health.set(&self.pipeline, health);
    }

    /// Whether it has found its checkpoint, or given up.
    pub(crate) fn has_started(&self) -> bool {
        self.started.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lag_is_what_was_read_beyond_what_is_committed() {
        let metrics = Metrics::new();
        let watch = Watch::new(PipelineName::new("p"), metrics.clone(), Health::new(metrics.clone()));
        let table: TableName = "a.b".parse().expect("a name");
        let lag = || metrics.gauges("frazil_lag_seconds").first().map(|(_, seconds)| *seconds);
        let read = |newest_ms| watch.read(&PartitionId::new("0"), 1, 0, 1, newest_ms);
        read(Some(1_000));
        assert_eq!(lag(), None);
        watch.committed(&table, Duration::ZERO, Some(1_000));
        assert_eq!(lag(), Some(0.0));
        read(Some(4_500));
        read(None);
        assert_eq!(lag(), Some(3.5));
        watch.committed(&table, Duration::ZERO, Some(4_500));
        assert_eq!(lag(), Some(0.0));
    }

    #[test]
    fn rows_that_were_lost_are_counted_once_for_their_partition() {
        let metrics = Metrics::new();
        let watch = Watch::new(PipelineName::new("p"), metrics.clone(), Health::new(metrics.clone()));
        for (one, other) in [(2, 0), (2, 3), (6, 3)] {
            let rows_lost = [(PartitionId::new("t/0"), one), (PartitionId::new("t/1"), other)].into();
            watch.notes(&Notes { rows_lost, ..Notes::default() });
        }
        let lost = |partition| metrics.total("frazil_lost_rows_total", &["p", partition]);
        assert_eq!((lost("t/0"), lost("t/1"), lost("t/2")), (6, 3, 0));
    }

    #[test]
    fn what_a_source_noticed_is_counted_once() {
        let metrics = Metrics::new();
        let watch = Watch::new(PipelineName::new("p"), metrics.clone(), Health::new(metrics.clone()));
        for late in [1, 1, 3] {
            let files = FilesCounters { files: 5, late, ..FilesCounters::default() };
            watch.notes(&Notes { files: Some(files), ..Notes::default() });
        }
        assert_eq!(metrics.total("frazil_source_files_total", &["p", "late"]), 3);
        assert_eq!(metrics.total("frazil_source_files_total", &["p", "read"]), 5);
        assert_eq!(metrics.total("frazil_source_files_total", &["p", "changed"]), 0);
    }
}
