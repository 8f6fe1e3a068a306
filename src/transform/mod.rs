//! Between decoding and writing: which table a row goes to, what the schema becomes, what is known about a row beside
//! its bytes.

mod envelopes;
pub mod evolve;
pub mod metadata_columns;
pub mod route;
