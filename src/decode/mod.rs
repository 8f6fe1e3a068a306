//! The decoder seam: bytes to columns.

use crate::model::batch::{Batch, RawBatch};

mod append;
mod columns;
pub mod fault;
pub mod growth;
pub mod infer;
pub mod json;
mod number;
pub mod observe;
mod plan;
pub mod scan;
pub mod temporal;
pub mod type_text;

/// Decodes rows. Total: a bad row becomes a reject, never an error.
pub trait Decoder: Send + Sync {
    /// Every raw row ends in `rows` or in `rejects` of the answer; the batch's own rejects are among the latter.
    fn decode(&self, raw: &RawBatch) -> Batch;
}
