//! Live numbers of a running daemon, from its metrics.

use std::collections::VecDeque;

use crate::cli::output::{Align, bytes, columns, count};
use crate::telemetry::metrics::Metrics;

/// Over which time rates are taken.
const WINDOW_MS: i64 = 3_000;

/// Counts at one moment.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Sample {
    at_ms: i64,
    rows: u64,
    bytes: u64,
    committed: u64,
}

/// Turns counts into lines.
#[derive(Debug)]
pub(crate) struct Live {
    metrics: Metrics,
    started_ms: i64,
    samples: VecDeque<Sample>,
}

impl Live {
    pub(crate) fn new(metrics: Metrics, now_ms: i64) -> Self {
        Self { metrics, started_ms: now_ms, samples: VecDeque::new() }
    }

    /// The numbers now, as a few lines.
    pub(crate) fn lines(&mut self, now_ms: i64) -> String {
        let now = Sample {
            at_ms: now_ms,
            rows: self.metrics.total("frazil_rows_read_total", &[]),
            bytes: self.metrics.total("frazil_read_bytes_total", &[]),
            committed: self.metrics.total("frazil_rows_committed_total", &[]),
        };
        while self.samples.len() > 1 && self.samples.front().is_some_and(|first| now_ms - first.at_ms > WINDOW_MS) {
            self.samples.pop_front();
        }
        let first = self.samples.front().copied().unwrap_or(Sample { at_ms: self.started_ms, ..Sample::default() });
        self.samples.push_back(now);
        let per_second = |from: u64, to: u64| {
            let ms = u64::try_from(now_ms - first.at_ms).unwrap_or(0);
            to.saturating_sub(from).saturating_mul(1_000).checked_div(ms).unwrap_or(0)
        };
        let waited = self.metrics.gauges("frazil_freshness_seconds").into_iter().map(|(_, s)| s).fold(0.0, f64::max);
        let mut text = format!(
            "{:>5.1} s   {} rows/s   {}/s   {} rows read   {} committed   oldest waits {waited:.1} s\n",
            seconds(now_ms - self.started_ms),
            count(per_second(first.rows, now.rows)),
            bytes(per_second(first.bytes, now.bytes)),
            count(now.rows),
            count(now.committed),
        );
        text.push_str(&self.tables());
        text
    }

    fn tables(&self) -> String {
        let committed = |table: &str| {
            let pipelines = self.metrics.label_values("frazil_rows_committed_total", 0);
            let rows = pipelines.iter().map(|own| self.metrics.total("frazil_rows_committed_total", &[own, table]));
            rows.fold(0, u64::saturating_add)
        };
        let rows: Vec<Vec<String>> = self
            .metrics
            .label_values("frazil_commits_total", 0)
            .into_iter()
            .map(|table| {
                let total = |name: &'static str| self.metrics.total(name, &[&table]);
                vec![
                    count(committed(&table)),
                    count(self.metrics.total("frazil_commits_total", &[&table, "committed"])),
                    count(total("frazil_files_written_total")),
                    bytes(total("frazil_written_bytes_total")),
                    table.clone(),
                ]
            })
            .collect();
        if rows.is_empty() {
            return "waiting for the first commit\n".to_owned();
        }
        let right = |name: &'static str| (name, Align::Right);
        let head = [right("rows"), right("commits"), right("files"), right("size"), ("table", Align::Left)];
        columns(&head, &rows)
    }
}

#[allow(clippy::cast_precision_loss)] // shown to a tenth of a second
fn seconds(ms: i64) -> f64 {
    ms as f64 / 1_000.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_are_taken_over_the_last_seconds() {
        let metrics = Metrics::new();
        let mut live = Live::new(metrics.clone(), 0);
        assert!(live.lines(0).contains("waiting for the first commit"));
        for second in 1..=10 {
            metrics.rows_read("demo", "0", if second <= 5 { 1_000 } else { 10 }, 2_048);
            live.lines(second * 1_000);
        }
        metrics.commit("demo.shop", "committed");
        metrics.rows_committed("demo", "demo.shop", 5_050);
        metrics.files_written("demo.shop", 2, 4_096);
        let text = live.lines(10_500);
        assert!(text.contains(" 8 rows/s") && text.contains("5,050 committed"), "{text}");
        assert!(text.contains("5,050        1      2  4.0 KiB  demo.shop"), "{text}");
    }
}
