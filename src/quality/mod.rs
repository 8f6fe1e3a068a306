//! What becomes of rows that are put aside.

pub mod quarantine;
