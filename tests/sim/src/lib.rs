//! The simulator: the real daemon on one thread and virtual time, against every fault, by seed.
//!
//! A seed draws a scenario (`scenario`), whose actors run as tasks: instances of the daemon with their operators (`life`), a
//! foreign engine (`foreign`). In some, the instances are members of a `group`
//! that read a `topic` as daemons read Kafka (`member`). Every call of a daemon to the world passes its `process` and the network (`catalog`, `store`),
//! where chance decides what becomes of it. After every commit that reaches the true catalog the auditor (`audit`) reads what is
//! there. `interpose` makes clock and chance of libraries part of the seed.
// The base of virtual time: what the seams of `frazil::env` are made of here.
#![allow(clippy::disallowed_methods)]

/// Half the system's cost here, where a thread lives for a seed and frees all it has.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

pub mod audit;
pub mod bounds;
pub mod catalog;
pub mod coverage;
pub mod expirer;
pub mod foreign;
mod generations;
pub mod group;
pub mod interpose;
pub mod life;
pub mod maintainer;
pub mod member;
pub mod met;
pub mod operator;
pub mod process;
mod remapped;
pub mod replaced;
pub mod run;
pub mod scenario;
pub mod setback;
pub mod shrink;
pub mod store;
pub mod topic;
pub mod upserter;
pub mod world;
