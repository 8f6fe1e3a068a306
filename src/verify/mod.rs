//! Whether a table holds each row of a log once.
//!
//! A log is a partition of a topic (or a file, or whatever else a source numbers the rows of); columns of the table say of each row in
//! which log it was, and at which offset. What manifests say of these columns settles most files (`sight`), the columns of the others
//! are read (`rows`), and sets of offsets are held against one another (`offsets`, `judge`). Nothing is changed.
//!
//! **What bounds prove.** A file of one log that has as many rows as there are offsets from its first to its last has each of them
//! once, unless it has one twice for each that it lacks. No writer that appends does so; a rewrite of files that had rows twice, beside
//! as many that are missing, does: files that came otherwise than by an append are read. Nor do bounds say that a file can be read, or
//! is there: [`Look::Always`] does not rest on them.

pub mod columns;
mod gather;
pub mod judge;
mod offsets;
mod rows;
mod sight;
pub mod standing;
pub mod window;

pub use gather::{Copy, Evidence, Figures, Look, Request, Subject, Unsettled, copies};

#[cfg(test)]
mod tests;
