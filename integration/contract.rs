//! The catalog contract over REST catalogs that we did not write, each with exactly the deviations of its profile.

#[path = "../tests/contract/suite.rs"]
mod suite;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use frazil::catalog::profile::profile;
use frazil::catalog::rest::RestCatalog;
use frazil::config::{RestAuth, RestConfig, Secret};
use frazil::env::Env;
use suite::Subject;

use crate::components::value;

/// The suite over the product of this profile; a server may be kept for several runs, so namespaces are fresh.
async fn keeps_its_profile(product: &'static str, config: RestConfig) {
    let env = Env::system();
    let catalog = RestCatalog::connect(&config, &env).await.expect("the catalog answers");
    let known = profile(product).expect("a profile").known_failures();
    let prefix = format!("contract{}", std::process::id());
    suite::run(&Subject { prefix, known, ..Subject::new(product, Arc::new(catalog)) }).await;
}

fn config(product: &str, uri: &str, warehouse: Option<&str>, auth: RestAuth) -> RestConfig {
    RestConfig {
        uri: uri.to_owned(),
        warehouse: warehouse.map(str::to_owned),
        auth,
        headers: BTreeMap::new(),
        profile: Some(product.to_owned()),
        vended_credentials: true,
        connect_timeout: Duration::from_secs(10),
        // Components share two cores with everything else.
        request_timeout: Duration::from_secs(120),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn apaches_rest_fixture_keeps_the_contract_but_for_its_profile() {
    let product = "apache-rest-fixture";
    keeps_its_profile(product, config(product, value("APACHE_REST_URI"), None, RestAuth::None)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn seaweedfs_keeps_the_contract_but_for_its_profile() {
    let product = "seaweedfs";
    let auth = RestAuth::OAuth2 {
        client_id: value("S3_ACCESS_KEY_ID").to_owned(),
        client_secret: Secret::new(value("S3_SECRET_ACCESS_KEY")),
        server_uri: None,
        scope: None,
        parameters: BTreeMap::new(),
    };
    let warehouse = format!("s3://{}", value("SEAWEEDFS_CATALOG_WAREHOUSE"));
    keeps_its_profile(product, config(product, value("SEAWEEDFS_CATALOG_URI"), Some(&warehouse), auth)).await;
}
