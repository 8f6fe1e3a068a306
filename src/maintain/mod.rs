//! Keeping tables in shape: what is worth rewriting, which snapshots go, which files only they reach, and the steps in between.

mod bad_groups;
pub mod claim;
pub mod compaction;
pub mod debt;
pub mod expire;
pub mod expiry;
pub mod keepers;
pub mod leftovers;
pub mod manifests;
mod note;
pub mod partitions;
pub mod plan;
pub mod reach;
pub mod round;
mod submit;
pub mod upkeep;
