//! The commit protocol: the one way in which anything changes a table.
//!
//! docs/protocol.md is the specification; each of its tables is a pure function here, golden-tested row by row.

pub(crate) mod avro;
pub mod checkpoint;
pub mod conflict;
