//! What a daemon may hold: the memory that it accounts for, files and uploads under way, entries of its ledger.

use std::sync::atomic::{AtomicU64, Ordering};

use frazil::config::Limits;
use frazil::storage::ledger::ENTRIES_MAX;
use frazil::telemetry::metrics::Metrics;

/// Files that one rewrite has open at most: begun, and completed at its end.
const REWRITE_FILES: usize = 16 + 8;
/// What one file under way may hold: three parts.
const UPLOAD_HELD_MAX: f64 = (3 * (8 << 20)) as f64;

fn gauge(metrics: &Metrics, name: &'static str) -> f64 {
    metrics.gauges(name).first().map_or(0.0, |(_, value)| *value)
}

/// What a process does, by which its bounds are.
#[derive(Debug, Clone, Copy)]
pub struct Work {
    /// Pipelines that write.
    pub pipelines: usize,
    /// Tables that are committed to: each may have a manifest or a list under way.
    pub tables: usize,
    /// Tables that are rewritten at once.
    pub rewrites: usize,
}

/// What has exceeded its bound in a process, if anything has.
pub fn exceeded(metrics: &Metrics, limits: &Limits, work: Work) -> Option<String> {
    #[allow(clippy::cast_precision_loss)] // small numbers
    let files_max = (limits.open_files.max(work.pipelines) + work.tables + REWRITE_FILES * work.rewrites) as f64;
    #[allow(clippy::cast_precision_loss)]
    let bounds = [
        ("frazil_budget_peak_bytes", limits.memory as f64),
        ("frazil_open_files_peak", files_max),
        ("frazil_upload_held_peak_bytes", UPLOAD_HELD_MAX * files_max),
        ("frazil_ledger_entries", ENTRIES_MAX as f64),
    ];
    let over = bounds.into_iter().find(|(name, most)| gauge(metrics, name) > *most);
    over.map(|(name, most)| format!("{name} is {} and must not be above {most}", gauge(metrics, name)))
}

/// What a process that has nothing to do any more still holds, if it holds anything.
pub fn kept(metrics: &Metrics) -> Option<String> {
    let names = ["frazil_budget_used_bytes", "frazil_open_files", "frazil_upload_held_bytes"];
    let held = names.into_iter().find(|name| gauge(metrics, name) > 0.0);
    held.map(|name| format!("{name} is {} at rest", gauge(metrics, name)))
}

/// How a process that is at rest counts rows that its sources passed over, if not exactly so many.
pub fn lost(metrics: &Metrics, passed_over: &AtomicU64) -> Option<String> {
    let counted = metrics.total("frazil_lost_rows_total", &[]);
    let passed_over = passed_over.load(Ordering::Relaxed);
    (counted != passed_over).then(|| format!("frazil_lost_rows_total is {counted}, and {passed_over} were passed over"))
}

/// How the rows of a partition do not add up in a process that is at rest, if there is one.
pub fn unaccounted(metrics: &Metrics) -> Option<String> {
    let of = |name: &'static str, own: &[String]| -> u64 {
        let series = metrics.counters(name).into_iter();
        series.filter(|(labels, _)| own.iter().all(|label| labels.contains(label))).map(|(_, rows)| rows).sum()
    };
    let ends = [
        "frazil_partition_rows_committed_total",
        "frazil_rows_rejected_total",
        "frazil_rows_skipped_total",
        "frazil_rows_returned_total",
    ];
    metrics.counters("frazil_rows_read_total").into_iter().find_map(|(own, read)| {
        let ended = ends.map(|name| of(name, &own));
        let adds_up = read == ended.iter().sum::<u64>();
        (!adds_up).then(|| {
            format!("{own:?}: {read} rows were read, and {ended:?} are committed, rejected, skipped, returned")
        })
    })
}

#[cfg(test)]
mod tests {
    use frazil::model::batch::Stage;

    use super::*;

    const LIMITS: Limits =
        Limits { memory: 100, open_files: 9, tables: 1, store_requests: 1, store_retries: 1, workers: 1 };

    #[test]
    fn rows_of_each_partition_that_do_not_add_up_are_told() {
        let metrics = Metrics::new();
        for partition in ["0", "1"] {
            metrics.rows_read("p", partition, 10, 1);
            metrics.partition_committed("p", partition, 4);
            metrics.rows_rejected("p", Stage::Decode, partition, 1);
            metrics.rows_rejected("p", Stage::Source, partition, 2);
            metrics.rows_skipped("p", partition, 2);
        }
        assert!(unaccounted(&metrics).is_some_and(|what| what.contains("\"0\"")));
        metrics.rows_returned("p", "0", 1);
        assert!(unaccounted(&metrics).is_some_and(|what| what.contains("\"1\"")));
        metrics.rows_returned("p", "1", 1);
        assert_eq!(unaccounted(&metrics), None);
    }

    /// A gauge, and what moves it.
    type Case = (&'static str, fn(&Metrics));

    #[test]
    fn each_bound_is_told_when_it_is_exceeded_and_only_then() {
        let within = || {
            let metrics = Metrics::new();
            metrics.budget(0, 100, 100);
            metrics.uploads((0, 35), (0, 35 * (24 << 20)));
            metrics.ledger_entries(ENTRIES_MAX);
            metrics
        };
        let work = Work { pipelines: 1, tables: 2, rewrites: 1 };
        assert_eq!(exceeded(&within(), &LIMITS, work), None);
        let pipelines = Work { pipelines: 10, rewrites: 0, ..work };
        let metrics = within();
        metrics.uploads((0, 12), (0, 0));
        assert_eq!(exceeded(&metrics, &LIMITS, pipelines), None);
        assert_eq!(kept(&within()), None);
        let beyond: [Case; 4] = [
            ("frazil_budget_peak_bytes", |m| m.budget(0, 101, 100)),
            ("frazil_open_files_peak", |m| m.uploads((0, 36), (0, 0))),
            ("frazil_upload_held_peak_bytes", |m| m.uploads((0, 35), (0, 35 * (24 << 20) + 1))),
            ("frazil_ledger_entries", |m| m.ledger_entries(ENTRIES_MAX + 1)),
        ];
        for (name, exceeds) in beyond {
            let metrics = within();
            exceeds(&metrics);
            assert!(exceeded(&metrics, &LIMITS, work).is_some_and(|what| what.contains(name)), "{name}");
        }
        let held: [Case; 3] = [
            ("frazil_budget_used_bytes", |m| m.budget(1, 100, 100)),
            ("frazil_open_files", |m| m.uploads((1, 18), (0, 0))),
            ("frazil_upload_held_bytes", |m| m.uploads((0, 18), (1, 1))),
        ];
        for (name, holds) in held {
            let metrics = within();
            holds(&metrics);
            assert!(kept(&metrics).is_some_and(|what| what.contains(name)), "{name}");
        }
    }
}
