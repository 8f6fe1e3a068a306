//! From Kafka Connect's Iceberg sink to a configuration of ours.
//!
//! `connector` reads a connector's properties, `translate` and its neighbours write a configuration that does the same, with a note for
//! each property (`note`), and `control` reads from the sink's own records where it stopped. Nothing here asks a server.

mod avro;
mod catalog;
pub mod connector;
pub mod control;
mod decode;
mod kafka;
pub mod note;
pub mod translate;
