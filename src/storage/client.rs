//! Clients of cloud stores: from options of the configuration and credentials that a catalog vends.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::str::FromStr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use object_store::aws::AmazonS3Builder;
use object_store::azure::MicrosoftAzureBuilder;
use object_store::client::{HttpClient, HttpConnector, ReqwestConnector};
use object_store::gcp::{GcpCredential, GoogleCloudStorageBuilder};
use object_store::multipart::MultipartStore;
use object_store::{BackoffConfig, ClientOptions as HttpOptions, ObjectStore, RetryConfig, StaticCredentialProvider};

use super::layers::Stack;
use super::location::{Location, Scheme};
use crate::config::stores::{self, GCS_TOKEN, bare, is_credential};
use crate::error::{Error, ErrorKind, Result};

/// Options of a client by their `object_store` names. Hold secrets: never shown.
pub(super) type ClientOptions = BTreeMap<String, String>;

/// No retries below ours, whose waits go through `Env`.
fn no_retries() -> RetryConfig {
    RetryConfig { backoff: BackoffConfig::default(), max_retries: 0, retry_timeout: Duration::from_secs(180) }
}

/// HTTP clients by their settings. A client costs 50 ms of certificate loading and holds the pool of connections, while
/// vended credentials make a new store every hour: stores come and go over the same connections.
#[derive(Clone, Default)]
pub(super) struct Connections(Arc<Mutex<BTreeMap<String, HttpClient>>>);

impl HttpConnector for Connections {
    fn connect(&self, options: &HttpOptions) -> object_store::Result<HttpClient> {
        let mut clients = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        // All settings that options of the configuration can reach are in this text.
        let key = format!("{options:?}");
        if let Some(client) = clients.get(&key) {
            return Ok(client.clone());
        }
        let client = ReqwestConnector::default().connect(options)?;
        clients.insert(key, client.clone());
        Ok(client)
    }
}

impl fmt::Debug for Connections {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Connections")
    }
}

/// What of a catalog's table settings concerns access to a store of this kind, under `object_store`'s names.
///
/// Source of the names: the Iceberg REST specification, `LoadTableResult.config`, and the FileIO property tables of the
/// Java and Python libraries.
pub(super) fn vended(scheme: Scheme, bucket: &str, config: &HashMap<String, String>) -> ClientOptions {
    let mut options = ClientOptions::new();
    let mut take = |from: &[&str], to: &str| {
        if let Some(value) = from.iter().find_map(|key| config.get(*key)) {
            options.insert(to.to_owned(), value.clone());
        }
    };
    match scheme {
        Scheme::S3 => {
            take(&["s3.access-key-id"], "access_key_id");
            take(&["s3.secret-access-key"], "secret_access_key");
            take(&["s3.session-token"], "session_token");
            take(&["s3.endpoint"], "endpoint");
            take(&["client.region", "s3.region"], "region");
            if config.get("s3.path-style-access").is_some_and(|v| v.eq_ignore_ascii_case("false"))
                && !config.contains_key("s3.endpoint")
            {
                options.insert("virtual_hosted_style_request".to_owned(), "true".to_owned());
            }
        }
        Scheme::Gcs => {
            take(&["gcs.oauth2.token"], GCS_TOKEN);
            take(&["gcs.service.host"], "base_url");
        }
        Scheme::Azure => {
            // The token is vended for an account: `adls.sas-token.<account>` or `adls.sas-token.<account>.<host>`.
            let host = bucket.split_once('@').map_or("", |(_, host)| host);
            let account = host.split('.').next().unwrap_or_default();
            let named =
                [format!("adls.sas-token.{host}"), format!("adls.sas-token.{account}"), "adls.sas-token".to_owned()];
            take(&named.each_ref().map(String::as_str), "sas_token");
            take(&["adls.auth.shared-key.account.name"], "account_name");
            take(&["adls.auth.shared-key.account.key"], "account_key");
        }
        Scheme::Local | Scheme::Memory => {}
    }
    options
}

/// `configured` with `vended` laid over it: vended credentials replace configured ones as a whole; where the two name an
/// endpoint or a region, the configuration knows its own network better than the catalog does.
pub(super) fn merge(configured: &ClientOptions, vended: &ClientOptions) -> ClientOptions {
    let has_credentials = vended.keys().any(|key| is_credential(key));
    let mut options = configured.clone();
    if has_credentials {
        options.retain(|key, _| !is_credential(key));
    }
    let taken: Vec<String> = options.keys().map(|key| bare(key).to_owned()).collect();
    for (key, value) in vended {
        let same = |other: &String| other == key || (key == "endpoint" && other.starts_with("endpoint_url"));
        if !taken.iter().any(same) {
            options.insert(key.clone(), value.clone());
        }
    }
    options
}

/// Checks that a store under `prefix` knows each of these options.
///
/// # Errors
/// `Config` naming the first that it does not know, or the prefix when it is none.
pub fn check_options<'a>(prefix: &str, mut names: impl Iterator<Item = &'a String>) -> Result<()> {
    Location::folder(prefix)?;
    match names.find(|name| !stores::knows(prefix, name)) {
        None => Ok(()),
        Some(name) => Err(Error::new(ErrorKind::Config, format!("store {prefix:?} knows no option {name:?}"))
            .with_hint("options are named as in object_store, such as region, endpoint, access_key_id")),
    }
}

/// A client for the bucket of `location`.
///
/// # Errors
/// `Config` when an option is unknown or has a value that it cannot have.
pub(super) fn connect(location: &Location, options: &ClientOptions, http: &Connections) -> Result<Stack> {
    check_options(&location.root, options.keys())?;
    let mut options: ClientOptions = options.iter().map(|(k, v)| (k.to_ascii_lowercase(), v.clone())).collect();
    // A body of some hundred megabytes on a slow line needs more than the library's 30 seconds.
    options.entry("timeout".to_owned()).or_insert_with(|| "120 seconds".to_owned());
    let plain = options.iter().any(|(key, value)| {
        matches!(bare(key), "endpoint" | "endpoint_url" | "endpoint_url_s3" | "base_url" | "storage_endpoint")
            && value.starts_with("http://")
    });
    if plain {
        options.insert("allow_http".to_owned(), "true".to_owned());
    }
    let refuse = |error: object_store::Error| {
        Error::new(ErrorKind::Config, format!("store {}", location.root)).with_source(error.to_string())
    };
    match location.scheme {
        Scheme::S3 => {
            let builder = AmazonS3Builder::new()
                .with_url(location.url())
                .with_retry(no_retries())
                .with_http_connector(http.clone());
            let builder = fold(builder, &options, AmazonS3Builder::with_config);
            Ok(stack(Arc::new(builder.build().map_err(refuse)?)))
        }
        Scheme::Gcs => {
            let mut builder = GoogleCloudStorageBuilder::new()
                .with_url(location.url())
                .with_retry(no_retries())
                .with_http_connector(http.clone());
            if let Some(token) = options.remove(GCS_TOKEN) {
                let credential = GcpCredential { bearer: token };
                builder = builder.with_credentials(Arc::new(StaticCredentialProvider::new(credential)));
            }
            let builder = fold(builder, &options, GoogleCloudStorageBuilder::with_config);
            Ok(stack(Arc::new(builder.build().map_err(refuse)?)))
        }
        Scheme::Azure => {
            let builder = MicrosoftAzureBuilder::new()
                .with_url(location.url())
                .with_retry(no_retries())
                .with_http_connector(http.clone());
            let builder = fold(builder, &options, MicrosoftAzureBuilder::with_config);
            Ok(stack(Arc::new(builder.build().map_err(refuse)?)))
        }
        Scheme::Local | Scheme::Memory => {
            Err(Error::new(ErrorKind::Internal, format!("{} needs no client", location.root)))
        }
    }
}

/// `builder` with every option set; names were checked before.
fn fold<B, K: FromStr>(builder: B, options: &ClientOptions, set: impl Fn(B, K, String) -> B) -> B {
    options.iter().fold(builder, |builder, (key, value)| match key.parse() {
        Ok(key) => set(builder, key, value.clone()),
        Err(_) => builder,
    })
}

fn stack<S: ObjectStore + MultipartStore>(store: Arc<S>) -> Stack {
    Stack { objects: Arc::clone(&store) as Arc<dyn ObjectStore>, parts: Some(store) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(entries: &[(&str, &str)]) -> ClientOptions {
        entries.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()
    }

    fn config(entries: &[(&str, &str)]) -> HashMap<String, String> {
        entries.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()
    }

    #[test]
    fn vended_credentials_replace_configured_ones_and_leave_the_endpoint() {
        let configured = map(&[("aws_access_key_id", "mine"), ("secret_access_key", "s"), ("endpoint", "http://here")]);
        let settings = config(&[
            ("s3.access-key-id", "theirs"),
            ("s3.secret-access-key", "t"),
            ("s3.session-token", "u"),
            ("s3.endpoint", "http://inside-the-cluster"),
            ("client.region", "eu-central-1"),
            ("write.format.default", "parquet"),
        ]);
        let merged = merge(&configured, &vended(Scheme::S3, "b", &settings));
        let expected = map(&[
            ("access_key_id", "theirs"),
            ("endpoint", "http://here"),
            ("region", "eu-central-1"),
            ("secret_access_key", "t"),
            ("session_token", "u"),
        ]);
        assert_eq!(merged, expected);
    }

    #[test]
    fn without_vended_credentials_the_configured_ones_stay() {
        let configured = map(&[("access_key_id", "mine")]);
        let merged = merge(&configured, &vended(Scheme::S3, "b", &config(&[("s3.endpoint", "http://e")])));
        assert_eq!(merged, map(&[("access_key_id", "mine"), ("endpoint", "http://e")]));
    }

    #[test]
    fn a_shared_access_signature_is_found_under_every_name_of_its_account() {
        let bucket = "c@acct.dfs.core.windows.net";
        for key in ["adls.sas-token.acct.dfs.core.windows.net", "adls.sas-token.acct", "adls.sas-token"] {
            assert_eq!(vended(Scheme::Azure, bucket, &config(&[(key, "sv=1")])), map(&[("sas_token", "sv=1")]));
        }
    }

    #[test]
    fn every_cloud_store_can_be_connected() {
        let table: &[(&str, &[(&str, &str)])] = &[
            ("s3://bucket/", &[("region", "eu-west-1"), ("access_key_id", "a"), ("secret_access_key", "b")]),
            ("s3a://my_bucket/", &[("endpoint", "http://127.0.0.1:9000")]),
            ("gs://bucket/", &[("oauth2_token", "t")]),
            ("abfss://c@acct.dfs.core.windows.net/", &[("sas_token", "sv=1&sig=x")]),
            ("wasbs://c@acct.blob.core.windows.net/", &[("sas_token", "sv=1&sig=x")]),
            ("az://container/", &[("account_name", "acct"), ("account_key", "a2V5")]),
        ];
        for (prefix, options) in table {
            let location = Location::folder(prefix).expect(prefix);
            connect(&location, &map(options), &Connections::default()).map(|_| ()).expect(prefix);
        }
    }

    #[test]
    fn an_unknown_option_is_named_and_its_value_is_not() {
        let location = Location::folder("s3://b/").expect("valid");
        let error = connect(&location, &map(&[("acess_key_id", "SECRET")]), &Connections::default())
            .map(|_| ())
            .expect_err("unknown");
        assert_eq!(error.to_string(), r#"store "s3://b/" knows no option "acess_key_id""#);
    }
}
