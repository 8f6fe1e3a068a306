//! The handle that counts what is measured.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, MetricEncoder, NoLabelSet};
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::{Registry, Unit};

use crate::model::batch::Stage;
use crate::model::ids::PartitionId;
pub use crate::telemetry::metric_list::{Kind, METRICS, Metric};

/// Upper bounds of histogram buckets, in seconds; the last is everything.
pub const SECONDS_BUCKETS: &[f64] =
    &[0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0, f64::MAX];

/// How many series one metric may have; what is beyond shares one whose labels are [`OTHER`].
pub const SERIES_MAX: usize = 10_000;

/// The label of series beyond [`SERIES_MAX`].
pub const OTHER: &str = "_other";

/// The states of a pipeline, as the label has them.
pub const STATES: &[&str] = &["starting", "running", "waiting", "halted", "finished"];

#[derive(Debug, Clone)]
enum Sample {
    Count(u64),
    Number(f64),
    Buckets { sum: f64, counts: Vec<u64> },
}

type Series = BTreeMap<Vec<String>, Sample>;

/// The counting handle: cheap to clone, clones count together.
#[derive(Debug, Clone, Default)]
pub struct Metrics {
    series: Arc<Mutex<BTreeMap<&'static str, Series>>>,
}

impl Metrics {
    /// Nothing counted yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// A source gave rows of a partition, of so many bytes.
    pub fn rows_read(&self, pipeline: &str, partition: &str, rows: u64, bytes: u64) {
        self.count("frazil_rows_read_total", &[pipeline, partition], rows);
        self.count("frazil_read_bytes_total", &[pipeline], bytes);
    }

    /// Rows are in a committed snapshot.
    pub fn rows_committed(&self, pipeline: &str, table: &str, rows: u64) {
        self.count("frazil_rows_committed_total", &[pipeline, table], rows);
    }

    /// A stage put rows of a partition aside.
    pub fn rows_rejected(&self, pipeline: &str, stage: Stage, partition: &str, rows: u64) {
        self.count("frazil_rows_rejected_total", &[pipeline, stage.as_str(), partition], rows);
    }

    /// The epoch of rows of a partition was committed.
    pub fn partition_committed(&self, pipeline: &str, partition: &str, rows: u64) {
        self.count("frazil_partition_rows_committed_total", &[pipeline, partition], rows);
    }

    /// The epoch of rows of a partition was given up.
    pub fn rows_returned(&self, pipeline: &str, partition: &str, rows: u64) {
        self.count("frazil_rows_returned_total", &[pipeline, partition], rows);
    }

    /// A source passed over records of a partition.
    pub fn rows_skipped(&self, pipeline: &str, partition: &str, rows: u64) {
        self.count("frazil_rows_skipped_total", &[pipeline, partition], rows);
    }

    /// A frozen schema ignored values of unknown fields.
    pub fn fields_ignored(&self, pipeline: &str, values: u64) {
        self.count("frazil_fields_ignored_total", &[pipeline], values);
    }

    /// A catalog answered a commit: `committed`, `not_sent`, `throttled`, `refused` or `unknown`.
    pub fn commit(&self, table: &str, outcome: &'static str) {
        self.count("frazil_commits_total", &[table, outcome], 1);
    }

    /// An epoch was committed this long after its seal.
    pub fn commit_duration(&self, table: &str, duration: Duration) {
        self.observe("frazil_commit_duration_seconds", &[table], duration.as_secs_f64());
    }

    /// Epochs stay open for so long, for one of these reasons.
    pub fn cadence(&self, pipeline: &str, interval: Duration, whys: impl Iterator<Item = (&'static str, bool)>) {
        self.gauge("frazil_cadence_seconds", &[pipeline], interval.as_secs_f64());
        whys.for_each(|(why, is)| self.gauge("frazil_cadence_why", &[pipeline, why], f64::from(u8::from(is))));
    }

    /// Commits met so many others.
    pub fn conflicts(&self, table: &str, kind: &'static str, conflicts: u64) {
        self.count("frazil_conflicts_total", &[table, kind], conflicts);
    }

    /// How long the oldest uncommitted row has waited.
    pub fn freshness(&self, pipeline: &str, waited: Duration) {
        self.gauge("frazil_freshness_seconds", &[pipeline], waited.as_secs_f64());
    }

    /// How far the source's newest row is ahead of the newest committed one.
    pub fn lag(&self, pipeline: &str, behind: Duration) {
        self.gauge("frazil_lag_seconds", &[pipeline], behind.as_secs_f64());
    }

    /// Rows that wait to be read in the partitions that are ours; other partitions are others' to tell.
    pub fn lag_rows(&self, pipeline: &str, partitions: &BTreeMap<PartitionId, u64>) {
        const NAME: &str = "frazil_lag_rows";
        let is_ours = |labels: &Vec<String>| match &labels[..] {
            [own, partition] if own == pipeline => partitions.contains_key(&PartitionId::new(partition.as_str())),
            _ => true,
        };
        if let Some(series) = self.series.lock().unwrap_or_else(PoisonError::into_inner).get_mut(NAME) {
            series.retain(|labels, _| is_ours(labels));
        }
        for (partition, rows) in partitions {
            self.gauge(NAME, &[pipeline, partition.as_str()], number(*rows));
        }
    }

    /// Rows of a partition that were removed before they were read.
    pub fn lost_rows(&self, pipeline: &str, partition: &str, rows: u64) {
        self.count("frazil_lost_rows_total", &[pipeline, partition], rows);
    }

    /// Files and bytes that the source knows of and has not read.
    pub fn lag_files(&self, pipeline: &str, files: u64, bytes: u64) {
        self.gauge("frazil_lag_files", &[pipeline], number(files));
        self.gauge("frazil_lag_bytes", &[pipeline], number(bytes));
    }

    /// A source noticed files: `read`, `late`, `late_unknown`, `changed`, `unreadable`.
    pub fn source_files(&self, pipeline: &str, what: &'static str, files: u64) {
        self.count("frazil_source_files_total", &[pipeline, what], files);
    }

    /// Bytes of files in the open epoch.
    pub fn epoch_open_bytes(&self, pipeline: &str, bytes: u64) {
        self.gauge("frazil_epoch_open_bytes", &[pipeline], number(bytes));
    }

    /// What the byte budget holds, the most that it held, and its limit.
    pub fn budget(&self, used: u64, most: u64, limit: u64) {
        self.gauge("frazil_budget_used_bytes", &[], number(used));
        self.gauge("frazil_budget_peak_bytes", &[], number(most));
        self.gauge("frazil_budget_limit_bytes", &[], number(limit));
    }

    /// Files under way, and the bytes that they hold: now, and the most at once.
    pub fn uploads(&self, files: (u64, u64), bytes: (u64, u64)) {
        self.gauge("frazil_open_files", &[], number(files.0));
        self.gauge("frazil_open_files_peak", &[], number(files.1));
        self.gauge("frazil_upload_held_bytes", &[], number(bytes.0));
        self.gauge("frazil_upload_held_peak_bytes", &[], number(bytes.1));
    }

    /// What the ledger has open.
    pub fn ledger_entries(&self, entries: usize) {
        self.gauge("frazil_ledger_entries", &[], number(entries as u64));
    }

    /// The source was held back for this long.
    pub fn source_paused(&self, pipeline: &str, paused: Duration) {
        self.add("frazil_source_paused_seconds_total", &[pipeline], paused.as_secs_f64());
    }

    /// Data files were written.
    pub fn files_written(&self, table: &str, files: u64, bytes: u64) {
        self.count("frazil_files_written_total", &[table], files);
        self.count("frazil_written_bytes_total", &[table], bytes);
    }

    /// A store answered so many requests.
    pub fn store_requests(&self, op: &'static str, outcome: &'static str, requests: u64) {
        self.count("frazil_store_requests_total", &[op, outcome], requests);
    }

    /// A catalog answered a request.
    pub fn catalog_request(&self, op: &'static str, outcome: &'static str) {
        self.count("frazil_catalog_requests_total", &[op, outcome], 1);
    }

    /// A job on a table ended: `done`, `waits`, `left`, `failed`.
    pub fn job(&self, table: &str, job: &'static str, end: &'static str) {
        self.count("frazil_jobs_total", &[table, job, end], 1);
    }

    /// Tables that jobs work on, and that wait for their turn.
    pub fn jobs(&self, running: usize, queued: usize) {
        self.gauge("frazil_jobs_running", &[], number(running as u64));
        self.gauge("frazil_jobs_queued", &[], number(queued as u64));
    }

    /// All jobs that were due on a table took so long.
    pub fn job_duration(&self, table: &str, duration: Duration) {
        self.observe("frazil_job_duration_seconds", &[table], duration.as_secs_f64());
    }

    /// Files that readers open in vain.
    pub fn table_debt(&self, table: &str, files: u64) {
        self.gauge("frazil_table_debt_files", &[table], number(files));
    }

    /// Compaction replaced files.
    pub fn rewritten(&self, table: &str, files: u64, bytes: u64, copied: u64) {
        self.count("frazil_rewritten_files_total", &[table], files);
        self.count("frazil_rewritten_bytes_total", &[table], bytes);
        self.count("frazil_spliced_bytes_total", &[table], copied);
    }

    /// Rows that others deleted while compaction rewrote them are deleted in the new files.
    pub fn remapped(&self, table: &str, rows: u64) {
        self.count("frazil_remapped_deletes_total", &[table], rows);
    }

    /// Expiry removed snapshots; it or cleaning deleted files.
    pub fn removed(&self, table: &str, snapshots: u64, files: u64) {
        self.count("frazil_snapshots_removed_total", &[table], snapshots);
        self.count("frazil_files_deleted_total", &[table], files);
    }

    /// A pipeline is in this one of [`STATES`] now.
    pub fn pipeline_state(&self, pipeline: &str, state: &'static str) {
        for other in STATES {
            self.gauge("frazil_pipeline_state", &[pipeline, other], f64::from(u8::from(*other == state)));
        }
    }

    /// A counter's sum over all series whose labels begin with `labels`.
    pub fn total(&self, name: &'static str, labels: &[&str]) -> u64 {
        let held = self.series.lock().unwrap_or_else(PoisonError::into_inner);
        let matching =
            held.get(name).into_iter().flatten().filter(|(own, _)| own.iter().zip(labels).all(|(a, b)| a == b));
        let count = |sample: &Sample| match sample {
            Sample::Count(count) => *count,
            _ => 0,
        };
        matching.map(|(_, sample)| count(sample)).fold(0, u64::saturating_add)
    }

    /// A counter's series with their labels.
    pub fn counters(&self, name: &'static str) -> Vec<(Vec<String>, u64)> {
        let held = self.series.lock().unwrap_or_else(PoisonError::into_inner);
        let count = |(labels, sample): (&Vec<String>, &Sample)| match sample {
            Sample::Count(count) => Some((labels.clone(), *count)),
            _ => None,
        };
        held.get(name).into_iter().flatten().filter_map(count).collect()
    }

    /// A gauge's series with their labels.
    pub fn gauges(&self, name: &'static str) -> Vec<(Vec<String>, f64)> {
        let held = self.series.lock().unwrap_or_else(PoisonError::into_inner);
        let number = |(labels, sample): (&Vec<String>, &Sample)| match sample {
            Sample::Number(number) => Some((labels.clone(), *number)),
            _ => None,
        };
        held.get(name).into_iter().flatten().filter_map(number).collect()
    }

    /// The values that one label of a metric takes, in order.
    pub fn label_values(&self, name: &'static str, at: usize) -> Vec<String> {
        let held = self.series.lock().unwrap_or_else(PoisonError::into_inner);
        let values: std::collections::BTreeSet<String> =
            held.get(name).into_iter().flatten().filter_map(|(labels, _)| labels.get(at).cloned()).collect();
        values.into_iter().collect()
    }

    /// Everything as OpenMetrics text.
    pub fn to_openmetrics(&self) -> String {
        let mut registry = Registry::default();
        registry.register_collector(Box::new(self.clone()));
        let mut text = String::new();
        // Writing to a string cannot fail.
        let _ = prometheus_client::encoding::text::encode(&mut text, &registry);
        text
    }

    fn count(&self, name: &'static str, labels: &[&str], by: u64) {
        self.change(name, labels, Sample::Count(0), |sample| {
            if let Sample::Count(count) = sample {
                *count = count.saturating_add(by);
            }
        });
    }

    fn add(&self, name: &'static str, labels: &[&str], by: f64) {
        self.change(name, labels, Sample::Number(0.0), |sample| {
            if let Sample::Number(number) = sample {
                *number += by;
            }
        });
    }

    fn gauge(&self, name: &'static str, labels: &[&str], to: f64) {
        self.change(name, labels, Sample::Number(0.0), |sample| *sample = Sample::Number(to));
    }

    fn observe(&self, name: &'static str, labels: &[&str], value: f64) {
        let empty = Sample::Buckets { sum: 0.0, counts: vec![0; SECONDS_BUCKETS.len()] };
        self.change(name, labels, empty, |sample| {
            if let Sample::Buckets { sum, counts } = sample {
                *sum += value;
                let at = SECONDS_BUCKETS.iter().position(|bound| value <= *bound);
                if let Some(count) = at.and_then(|at| counts.get_mut(at)) {
                    *count += 1;
                }
            }
        });
    }

    fn change(&self, name: &'static str, labels: &[&str], empty: Sample, change: impl FnOnce(&mut Sample)) {
        let mut held = self.series.lock().unwrap_or_else(PoisonError::into_inner);
        let series = held.entry(name).or_default();
        let mut key: Vec<String> = labels.iter().map(|label| (*label).to_owned()).collect();
        if series.len() >= SERIES_MAX && !series.contains_key(&key) {
            key.fill(OTHER.to_owned());
        }
        change(series.entry(key).or_insert(empty));
    }
}

#[allow(clippy::cast_precision_loss)] // a gauge is a float in every consumer
fn number(value: u64) -> f64 {
    value as f64
}

impl Collector for Metrics {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> std::fmt::Result {
        let held = self.series.lock().unwrap_or_else(PoisonError::into_inner).clone();
        for metric in METRICS {
            let Some(series) = held.get(metric.name) else { continue };
            let (stem, unit) = metric.stem();
            let kind = match metric.kind {
                Kind::Counter => MetricType::Counter,
                Kind::Gauge => MetricType::Gauge,
                Kind::Histogram => MetricType::Histogram,
            };
            let mut encoder = encoder.encode_descriptor(stem, metric.help, unit.as_ref(), kind)?;
            for (values, sample) in series {
                if values.is_empty() {
                    sample.encode(metric.kind, &mut encoder)?;
                    continue;
                }
                let labels: Vec<(&str, &str)> =
                    metric.labels.iter().copied().zip(values.iter().map(String::as_str)).collect();
                sample.encode(metric.kind, &mut encoder.encode_family(&labels)?)?;
            }
        }
        Ok(())
    }
}

impl Metric {
    /// The name without the parts that the text format appends, and the unit that it appends.
    fn stem(&self) -> (&'static str, Option<Unit>) {
        let name = self.name.strip_suffix("_total").unwrap_or(self.name);
        match (self.unit, name.strip_suffix(self.unit).and_then(|stem| stem.strip_suffix('_'))) {
            ("bytes", Some(stem)) => (stem, Some(Unit::Bytes)),
            ("seconds", Some(stem)) => (stem, Some(Unit::Seconds)),
            _ => (name, None),
        }
    }
}

impl Sample {
    fn encode(&self, kind: Kind, encoder: &mut MetricEncoder<'_>) -> std::fmt::Result {
        match (self, kind) {
            (Self::Count(count), _) => encoder.encode_counter::<NoLabelSet, _, u64>(count, None),
            (Self::Number(number), Kind::Counter) => encoder.encode_counter::<NoLabelSet, _, u64>(number, None),
            (Self::Number(number), _) => encoder.encode_gauge(number),
            (Self::Buckets { sum, counts }, _) => {
                let buckets: Vec<(f64, u64)> = SECONDS_BUCKETS.iter().copied().zip(counts.iter().copied()).collect();
                encoder.encode_histogram::<NoLabelSet>(*sum, counts.iter().sum(), &buckets, None)
            }
        }
    }
}

/// docs/metrics.md.
pub fn page() -> String {
    let mut page = "\
# Metrics

This page is generated from the table in `src/telemetry/metric_list.rs`. `GET /metrics` of the address in `api.listen` answers in
the OpenMetrics text format. A metric appears once it has a value. More than 10000 series of one metric share one whose labels
are `_other`.

Rows add up for each `partition` of a source (a Kafka topic's is `<topic>/<number>`). Once nothing is under way,
`frazil_rows_read_total` = `frazil_partition_rows_committed_total` + `frazil_rows_rejected_total` + `frazil_rows_skipped_total` +
`frazil_rows_returned_total`; until then the rest is what waits for its commit. Returned rows are read again, by this process
or by another one, and count again wherever they come by, unless their commit turns out to be in after all; where none were returned each row is counted once. Lost rows are
apart: nobody has read them. `frazil_rows_committed_total` counts what snapshots got, by table, rows of rejects tables
included; an epoch of several tables that was decided, and finished only after a failure, is not in it.

| metric | kind | unit | labels | meaning |
|---|---|---|---|---|
"
    .to_owned();
    for metric in METRICS {
        let kind = match metric.kind {
            Kind::Counter => "counter",
            Kind::Gauge => "gauge",
            Kind::Histogram => "histogram",
        };
        let labels: Vec<String> = metric.labels.iter().map(|label| format!("`{label}`")).collect();
        let _ = writeln!(
            page,
            "| `{}` | {kind} | {} | {} | {} |",
            metric.name,
            metric.unit,
            labels.join(", "),
            metric.help
        );
    }
    page
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_follows_the_convention() {
        for metric in METRICS {
            assert!(metric.name.starts_with("frazil_"), "{}", metric.name);
            assert_eq!(metric.name.ends_with("_total"), metric.kind == Kind::Counter, "{}", metric.name);
            let stem = metric.name.strip_suffix("_total").unwrap_or(metric.name);
            if matches!(metric.unit, "bytes" | "seconds") {
                assert!(stem.ends_with(metric.unit), "{}", metric.name);
            }
        }
    }

    #[test]
    fn rows_that_wait_are_told_of_the_partitions_that_are_ours_now() {
        let metrics = Metrics::new();
        metrics.lag_rows("shop", &[(PartitionId::new("orders/0"), 12), (PartitionId::new("orders/1"), 0)].into());
        metrics.lag_rows("bank", &[(PartitionId::new("orders/0"), 5)].into());
        metrics.lag_rows("shop", &[(PartitionId::new("orders/1"), 7), (PartitionId::new("orders/2"), 1)].into());
        let told = metrics.gauges("frazil_lag_rows").into_iter().map(|(labels, rows)| (labels.join(" "), rows));
        let now = [("bank orders/0", 5.0), ("shop orders/1", 7.0), ("shop orders/2", 1.0)];
        assert_eq!(told.collect::<Vec<_>>(), now.map(|(labels, rows)| (labels.to_owned(), rows)));
    }

    #[test]
    fn series_beyond_the_limit_share_one() {
        let metrics = Metrics::new();
        for i in 0..SERIES_MAX + 5 {
            metrics.commit(&format!("t{i}"), "committed");
        }
        assert_eq!(metrics.total("frazil_commits_total", &[OTHER]), 5);
        assert_eq!(metrics.total("frazil_commits_total", &[]), SERIES_MAX as u64 + 5);
    }
}
