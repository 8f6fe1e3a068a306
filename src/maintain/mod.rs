//! Keeping tables in shape: which snapshots go, which files only they reach, and the steps in between.

pub mod expire;
pub mod expiry;
pub mod plan;
pub mod reach;
