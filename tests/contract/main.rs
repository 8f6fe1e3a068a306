//! The catalog contract over every catalog of ours, without network or server.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod suite;

use std::sync::Arc;

use frazil::catalog::documents::Resolver;
use frazil::catalog::embedded::EmbeddedCatalog;
use frazil::catalog::memory::MemoryCatalog;
use frazil::env::Env;
use frazil::error::{Error, ErrorKind};
use object_store::ObjectStore;
use suite::Subject;

/// Locations below `memory:///`, nothing else.
fn in_memory() -> Resolver {
    let store: Arc<dyn ObjectStore> = Arc::new(object_store::memory::InMemory::new());
    Arc::new(move |location| match location.strip_prefix("memory:///") {
        Some(path) => Ok((store.clone(), object_store::path::Path::from(path))),
        None => Err(Error::new(ErrorKind::Config, format!("no store for {location}"))),
    })
}

#[tokio::test]
async fn the_memory_catalog_keeps_the_contract() {
    let catalog = MemoryCatalog::new(Env::system(), "memory:///warehouse");
    suite::run(&Subject::new("memory", Arc::new(catalog))).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn the_embedded_catalog_keeps_the_contract_on_disk() {
    let folder = tempfile::tempdir().unwrap();
    let warehouse = folder.path().join("warehouse");
    let file = folder.path().join("catalog.sqlite");
    let catalog = EmbeddedCatalog::open(&Env::system(), &file, warehouse.to_str().unwrap(), in_memory()).await.unwrap();
    suite::run(&Subject::new("embedded on disk", Arc::new(catalog))).await;
}

#[tokio::test]
async fn the_embedded_catalog_keeps_the_contract_in_a_store() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("catalog.sqlite");
    let catalog = EmbeddedCatalog::open(&Env::system(), &file, "memory:///warehouse", in_memory()).await.unwrap();
    suite::run(&Subject::new("embedded in a store", Arc::new(catalog))).await;
}
