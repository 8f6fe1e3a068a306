//! The commit protocol: the one way in which anything changes a table.
//!
//! docs/protocol.md is the specification; each of its tables is a pure function here, golden-tested row by row.

pub(crate) mod avro;
pub mod avro_names;
pub mod checkpoint;
pub mod conflict;
pub mod create;
pub(crate) mod deletes;
mod drive;
mod effect;
pub(crate) mod gather;
mod history;
mod load;
pub mod look;
pub mod manifests;
pub(crate) mod outline;
pub(crate) mod pending;
pub mod proof;
pub mod properties;
pub mod protocol;
pub(crate) mod records;
pub(crate) mod remap;
pub mod replace;
pub mod skim;
pub(crate) mod snapshot;
pub mod standing;
mod summary;
pub mod traffic;
pub(crate) mod vector;
