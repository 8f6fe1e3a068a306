//! The catalog contract over every catalog of ours, without network or server.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod model;
mod server;
mod suite;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use frazil::catalog::Outcome;
use frazil::catalog::documents::Resolver;
use frazil::catalog::embedded::EmbeddedCatalog;
use frazil::catalog::memory::MemoryCatalog;
use frazil::catalog::rest::RestCatalog;
use frazil::config::{RestAuth, RestConfig};
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

async fn rest() -> RestCatalog {
    rest_over(server::catalog()).await
}

async fn rest_over(catalog: Arc<MemoryCatalog>) -> RestCatalog {
    let address = server::serve(catalog).await;
    let config = RestConfig {
        uri: format!("http://{address}/api/"),
        warehouse: Some("ware house".to_owned()),
        auth: RestAuth::None,
        headers: BTreeMap::new(),
        profile: None,
        vended_credentials: false,
        connect_timeout: Duration::from_secs(10),
        request_timeout: Duration::from_secs(60),
    };
    RestCatalog::connect(&config, &Env::system()).await.unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn the_rest_catalog_keeps_the_contract() {
    suite::run(&Subject::new("rest", Arc::new(rest().await))).await;
}

#[tokio::test]
async fn a_staged_creation_makes_the_table_that_a_plain_one_makes() {
    let rest = rest().await;
    let named = |name: &str| suite::table(format!("stage.{name}").parse().unwrap());
    let Outcome::Committed(staged) = rest.create_staged(&named("staged")).await else { panic!("not committed") };
    let Outcome::Committed(plain) = frazil::catalog::Catalog::create(&rest, &named("plain")).await else {
        panic!("not committed")
    };
    let (a, b) = (&staged.metadata, &plain.metadata);
    assert_eq!(a.current_schema(), b.current_schema());
    assert_eq!(a.default_partition_spec(), b.default_partition_spec());
    assert_eq!(a.default_sort_order(), b.default_sort_order());
    assert_eq!((a.format_version(), a.properties()), (b.format_version(), b.properties()));
    assert!(matches!(rest.create_staged(&named("plain")).await, Outcome::Refused(_)));
}

#[test]
fn what_profiles_say_that_products_fail_are_cases_of_the_suite() {
    for name in frazil::catalog::profile::names() {
        for (case, _) in frazil::catalog::profile::profile(name).unwrap().known_failures() {
            assert!(suite::CASES.iter().any(|(known, _)| *known == case), "{name}: no case is called {case}");
        }
    }
}
