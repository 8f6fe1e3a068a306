//! The real binary against bad input, bad ends and bad surroundings: no network, no server.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
#![cfg(unix)]

mod cluster;
mod compact;
mod daemon;
mod ending;
mod input;
mod killed;
mod maintain;
mod outage;
mod readme;
mod refused;
#[allow(dead_code)] // the contract suite uses more of it
#[path = "../contract/server.rs"]
mod server;
mod verify;
