//! Logs and metrics.

pub mod logs;
pub mod metric_list;
pub mod metrics;
