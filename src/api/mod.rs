//! The HTTP listener: metrics and health.

mod health;
mod server;

pub use health::{Health, JobHealth, PipelineHealth};
pub use server::Server;

#[cfg(test)]
mod tests;
