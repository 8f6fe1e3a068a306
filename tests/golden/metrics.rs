//! The metrics page, and how every metric looks when it is asked for.

use std::time::Duration;

use frazil::model::batch::Stage;
use frazil::model::ids::PartitionId;
use frazil::telemetry::metrics::{METRICS, Metrics, page};

use crate::assert_golden;

#[test]
fn the_metrics_page_is_current() {
    assert_golden("docs/metrics.md", &page());
}

#[test]
fn every_metric_is_exposed_as_its_golden_file_says() {
    let metrics = Metrics::new();
    metrics.rows_read("shop", "orders/0", 100, 5000);
    metrics.rows_committed("shop", "raw.shop", 90);
    metrics.rows_rejected("shop", Stage::Decode, "orders/0", 10);
    metrics.rows_skipped("shop", "orders/0", 4);
    metrics.partition_committed("shop", "orders/0", 83);
    metrics.rows_returned("shop", "orders/0", 3);
    metrics.fields_ignored("shop", 7);
    metrics.commit("raw.shop", "committed");
    metrics.commit("raw.shop", "unknown");
    metrics.commit_duration("raw.shop", Duration::from_millis(700));
    metrics.conflicts("raw.shop", "append", 1);
    metrics.cadence("shop", Duration::from_secs(60), [("freshness", false), ("throttled", true)].into_iter());
    metrics.freshness("shop", Duration::from_millis(1500));
    metrics.lag("shop", Duration::from_secs(3));
    metrics.lag_rows("shop", &[(PartitionId::new("orders/0"), 12)].into());
    metrics.lost_rows("shop", "orders/0", 3);
    metrics.lag_files("shop", 2, 8_192);
    metrics.source_files("shop", "late", 1);
    metrics.epoch_open_bytes("shop", 1 << 20);
    metrics.budget(1 << 20, 1 << 22, 1 << 30);
    metrics.uploads((2, 9), (4_096, 1 << 16));
    metrics.ledger_entries(12);
    metrics.source_paused("shop", Duration::from_millis(250));
    metrics.files_written("raw.\"odd\"\n", 2, 4096);
    metrics.store_requests("put", "ok", 1);
    metrics.catalog_request("load", "ok");
    metrics.job("raw.shop", "compact", "done");
    metrics.jobs(1, 2);
    metrics.job_duration("raw.shop", Duration::from_secs(2));
    metrics.table_debt("raw.shop", 11);
    metrics.rewritten("raw.shop", 12, 4096, 1024);
    metrics.remapped("raw.shop", 3);
    metrics.removed("raw.shop", 3, 7);
    metrics.pipeline_state("shop", "running");
    let text = metrics.to_openmetrics();
    for metric in METRICS {
        assert!(text.contains(metric.name), "{} is never set", metric.name);
    }
    assert_golden("tests/golden/metrics/exposition.txt", &text);
}
