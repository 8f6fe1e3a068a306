//! The decoder seam: bytes to columns.

use crate::model::batch::{Batch, RawBatch};

/// Decodes rows. Total: a bad row becomes a reject, never an error.
pub trait Decoder: Send + Sync {
    /// Every raw row ends in `rows` or in `rejects` of the answer.
    fn decode(&self, raw: &RawBatch) -> Batch;
}
