//! Frazil takes streams and settles them into Apache Iceberg tables exactly once.
//!
//! ARCHITECTURE.md is the map; this is the order in which modules may know each other:
//! `main → cli → daemon → source decode transform quality write commit → catalog → storage → model → error`, and `env`
//! knows nothing of ours.

pub mod api;
pub mod catalog;
pub mod cli;
pub mod commit;
pub mod compact;
pub mod config;
pub mod daemon;
pub mod decode;
pub mod env;
pub mod error;
pub mod maintain;
pub mod migrate;
pub mod model;
pub mod quality;
pub mod source;
pub mod storage;
pub mod telemetry;
pub mod transform;
pub mod verify;
pub mod write;
