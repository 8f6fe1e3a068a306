//! The daemon.
pub mod driver;
pub mod table;
