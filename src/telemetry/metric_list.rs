//! What is measured: one list of metrics.
//!
//! Names are `frazil_<noun>_<unit>[_total]`; docs/metrics.md is generated from the list.

/// How a metric moves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Only up.
    Counter,
    /// Up and down.
    Gauge,
    /// Counts by size, in [`SECONDS_BUCKETS`](crate::telemetry::metrics::SECONDS_BUCKETS).
    Histogram,
}

/// One metric.
#[derive(Debug, Clone, Copy)]
pub struct Metric {
    /// Its whole name.
    pub name: &'static str,
    /// How it moves.
    pub kind: Kind,
    /// Its unit; part of the name where it is `bytes` or `seconds`.
    pub unit: &'static str,
    /// Its labels, in the order of the values.
    pub labels: &'static [&'static str],
    /// What it says.
    pub help: &'static str,
}

const fn metric(
    name: &'static str,
    kind: Kind,
    unit: &'static str,
    labels: &'static [&'static str],
    help: &'static str,
) -> Metric {
    Metric { name, kind, unit, labels, help }
}

/// All metrics, in the order in which they are shown.
pub const METRICS: &[Metric] = &[
    metric(
        "frazil_rows_read_total",
        Kind::Counter,
        "rows",
        &["pipeline", "partition"],
        "Rows read, rejected and skipped included; a row that is read again counts again",
    ),
    metric("frazil_read_bytes_total", Kind::Counter, "bytes", &["pipeline"], "Bytes of rows read from the source"),
    metric("frazil_rows_committed_total", Kind::Counter, "rows", &["pipeline", "table"], "Rows in committed snapshots"),
    metric(
        "frazil_rows_rejected_total",
        Kind::Counter,
        "rows",
        &["pipeline", "stage", "partition"],
        "Rows put aside, by the stage that refused them",
    ),
    metric(
        "frazil_rows_skipped_total",
        Kind::Counter,
        "rows",
        &["pipeline", "partition"],
        "Records without a value that the source passed over, as `tombstones` says",
    ),
    metric(
        "frazil_partition_rows_committed_total",
        Kind::Counter,
        "rows",
        &["pipeline", "partition"],
        "Rows whose epoch was committed, by where they came from, whatever table they went to; without rejected and skipped ones",
    ),
    metric(
        "frazil_rows_returned_total",
        Kind::Counter,
        "rows",
        &["pipeline", "partition"],
        "Rows read that were neither rejected nor skipped, and whose epoch this process did not see committed: after a failure, or when their partition was taken away. They are read again, but where the commit turns out to be in",
    ),
    metric(
        "frazil_fields_ignored_total",
        Kind::Counter,
        "fields",
        &["pipeline"],
        "Values of unknown fields that a frozen schema ignored",
    ),
    metric(
        "frazil_commits_total",
        Kind::Counter,
        "commits",
        &["table", "outcome"],
        "Answers to commits: committed, not_sent, throttled, refused, unknown",
    ),
    metric(
        "frazil_commit_duration_seconds",
        Kind::Histogram,
        "seconds",
        &["table"],
        "From the seal of an epoch to its commit",
    ),
    metric("frazil_cadence_seconds", Kind::Gauge, "seconds", &["pipeline"], "How long epochs stay open at most"),
    metric(
        "frazil_cadence_why",
        Kind::Gauge,
        "state",
        &["pipeline", "why"],
        "1 for what says so: freshness, latency, throttled, conflicts; or ended the last one earlier: size, limit, memory",
    ),
    metric("frazil_conflicts_total", Kind::Counter, "conflicts", &["table", "kind"], "Commits that met another one"),
    metric(
        "frazil_freshness_seconds",
        Kind::Gauge,
        "seconds",
        &["pipeline"],
        "How long the oldest row that is not committed has waited",
    ),
    metric(
        "frazil_lag_seconds",
        Kind::Gauge,
        "seconds",
        &["pipeline"],
        "How far the source's newest row is ahead of the newest committed one",
    ),
    metric("frazil_lag_files", Kind::Gauge, "files", &["pipeline"], "Files known and not read to their end"),
    metric("frazil_lag_bytes", Kind::Gauge, "bytes", &["pipeline"], "Bytes of files known and not read"),
    metric(
        "frazil_lag_rows",
        Kind::Gauge,
        "rows",
        &["pipeline", "partition"],
        "Offsets from the last row read to the log's end, of the partitions that this process reads",
    ),
    metric(
        "frazil_lost_rows_total",
        Kind::Counter,
        "rows",
        &["pipeline", "partition"],
        "Offsets that retention took first; they were never read",
    ),
    metric(
        "frazil_source_files_total",
        Kind::Counter,
        "files",
        &["pipeline", "what"],
        "Followed files: read, late (below the watermark, read), late_unknown (perhaps late, not read), changed (after they were read), unreadable (names that are no text)",
    ),
    metric("frazil_epoch_open_bytes", Kind::Gauge, "bytes", &["pipeline"], "Bytes of files in the open epoch"),
    metric(
        "frazil_budget_used_bytes",
        Kind::Gauge,
        "bytes",
        &[],
        "Bytes that rows hold between source and committed file",
    ),
    metric("frazil_budget_peak_bytes", Kind::Gauge, "bytes", &[], "The most that they held at once"),
    metric("frazil_budget_limit_bytes", Kind::Gauge, "bytes", &[], "What limits.memory allows them"),
    metric("frazil_open_files", Kind::Gauge, "files", &[], "Files under way to stores"),
    metric("frazil_open_files_peak", Kind::Gauge, "files", &[], "The most of them at once"),
    metric("frazil_upload_held_bytes", Kind::Gauge, "bytes", &[], "Bytes that they hold until a store has taken them"),
    metric("frazil_upload_held_peak_bytes", Kind::Gauge, "bytes", &[], "The most that they held at once"),
    metric(
        "frazil_ledger_entries",
        Kind::Gauge,
        "entries",
        &[],
        "Objects that were begun and are not settled: neither in a snapshot nor deleted, as far as is known",
    ),
    metric(
        "frazil_source_paused_seconds_total",
        Kind::Counter,
        "seconds",
        &["pipeline"],
        "Time in which the source was held back by the budget or by commits",
    ),
    metric("frazil_files_written_total", Kind::Counter, "files", &["table"], "Data files written"),
    metric("frazil_written_bytes_total", Kind::Counter, "bytes", &["table"], "Bytes of data files written"),
    metric(
        "frazil_store_requests_total",
        Kind::Counter,
        "requests",
        &["op", "outcome"],
        "Requests to object stores, retries included",
    ),
    metric("frazil_catalog_requests_total", Kind::Counter, "requests", &["op", "outcome"], "Requests to catalogs"),
    metric(
        "frazil_jobs_total",
        Kind::Counter,
        "jobs",
        &["table", "job", "end"],
        "Jobs on tables (look, compact, manifests, expire, clean) by their end: done, waits, left, failed",
    ),
    metric("frazil_jobs_running", Kind::Gauge, "jobs", &[], "Tables that jobs work on now"),
    metric(
        "frazil_jobs_queued",
        Kind::Gauge,
        "jobs",
        &[],
        "Tables with something due that wait for their turn or for memory",
    ),
    metric(
        "frazil_job_duration_seconds",
        Kind::Histogram,
        "seconds",
        &["table"],
        "How long all jobs that were due on a table took",
    ),
    metric(
        "frazil_table_debt_files",
        Kind::Gauge,
        "files",
        &["table"],
        "Files, delete files included, that readers would not have to open after compaction, when the table was looked at last",
    ),
    metric("frazil_rewritten_files_total", Kind::Counter, "files", &["table"], "Data files that compaction replaced"),
    metric(
        "frazil_rewritten_bytes_total",
        Kind::Counter,
        "bytes",
        &["table"],
        "Bytes of data files that compaction replaced",
    ),
    metric(
        "frazil_spliced_bytes_total",
        Kind::Counter,
        "bytes",
        &["table"],
        "Bytes of data files that compaction replaced by copying their pages (rung splice); all others were decoded (rung merge)",
    ),
    metric(
        "frazil_remapped_deletes_total",
        Kind::Counter,
        "rows",
        &["table"],
        "Rows that others deleted while compaction rewrote them, and that are deleted in the new files",
    ),
    metric("frazil_snapshots_removed_total", Kind::Counter, "snapshots", &["table"], "Snapshots that expiry removed"),
    metric("frazil_files_deleted_total", Kind::Counter, "files", &["table"], "Files that expiry and cleaning deleted"),
    metric(
        "frazil_pipeline_state",
        Kind::Gauge,
        "state",
        &["pipeline", "state"],
        "1 for the state a pipeline is in: starting, running, waiting, halted, finished",
    ),
];
