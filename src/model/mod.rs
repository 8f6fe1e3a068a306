//! The nouns of the program: no I/O, no async.

pub mod batch;
pub mod change;
pub mod checkpoint;
pub mod ids;
pub mod remap;
pub mod table;
