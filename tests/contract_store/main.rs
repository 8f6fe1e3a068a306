//! The store contract over local files and memory.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[macro_use]
mod suite;

use frazil::env::Env;
use frazil::storage::{Storage, StorageOptions};
use suite::Place;

fn storage() -> Storage {
    Storage::new(StorageOptions { stores: Vec::new(), requests_max: 8, retries: 2 }, Env::system())
}

fn local() -> Place {
    let kept = tempfile::tempdir().unwrap();
    let folder = kept.path().join("lake").to_str().unwrap().to_owned();
    Place { storage: storage(), folder, kept: Some(kept) }
}

fn local_url() -> Place {
    let place = local();
    Place { folder: format!("file://{}", place.folder), ..place }
}

fn memory() -> Place {
    Place { storage: storage(), folder: "memory:///lake".to_owned(), kept: None }
}

cases_of_a_store! {
    over_local => super::local
    over_local_url => super::local_url
    over_memory => super::memory
}

/// Not every store tells it from a slash.
#[tokio::test]
async fn a_backslash_comes_back_as_it_was() {
    for place in [local(), local_url(), memory()] {
        suite::come_back(&place, &["back\\slash/f"]).await;
    }
}
