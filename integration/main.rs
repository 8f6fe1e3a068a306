//! Real input, real servers, real readers: the daemon as users run it, killed on the way, and engines that we did not write
//! read what it left.
//!
//! `scripts/test integration` starts what these tests need and runs them; by hand: `scripts/components start …`, then
//! `scripts/components env > FILE` and `FRAZIL_COMPONENTS_STATE=FILE cargo test --profile ci --test integration`.

// Lints for production code do not apply to a test binary as a whole.
#![allow(
    missing_docs,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    clippy::print_stderr
)]

mod components;
mod contract;
mod daemon;
mod input;
mod process;
mod readers;
mod table;

mod access;
mod compaction;
mod debezium;
mod flink;
mod groups;
mod kafka;
mod kafka_logs;
mod local;
mod maintenance;
mod migration;
mod refused;
mod registry;
mod remote;
mod store;
mod trust;
mod verify;
