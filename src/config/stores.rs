//! Options of stores: which there are, and what the environment says where the configuration says nothing.

use std::collections::BTreeMap;
use std::str::FromStr;

use object_store::aws::AmazonS3ConfigKey;
use object_store::azure::AzureConfigKey;
use object_store::gcp::GoogleConfigKey;

use crate::config::{Secret, StoreConfig};

/// The option that carries an OAuth2 token for Google: `object_store` has none of that name.
pub const GCS_TOKEN: &str = "oauth2_token";

/// One protocol: the schemes that speak it, how its variables begin, and the scheme of the store made from them alone.
struct Family {
    schemes: &'static [&'static str],
    variables: &'static str,
    knows: fn(&str) -> bool,
}

const FAMILIES: [Family; 3] = [
    Family {
        schemes: &["s3", "s3a", "s3n"],
        variables: "AWS_",
        knows: |name| AmazonS3ConfigKey::from_str(name).is_ok(),
    },
    Family {
        schemes: &["gs"],
        variables: "GOOGLE_",
        knows: |name| name == GCS_TOKEN || GoogleConfigKey::from_str(name).is_ok(),
    },
    Family {
        schemes: &["az", "abfss", "abfs", "wasbs", "wasb"],
        variables: "AZURE_",
        knows: |name| AzureConfigKey::from_str(name).is_ok(),
    },
];

/// Options that say who is asking, without the family's name in front: they apply together or not at all.
pub const CREDENTIALS: [&str; 34] = [
    "access_key_id",
    "secret_access_key",
    "session_token",
    "token",
    "role_arn",
    "role_session_name",
    "web_identity_token_file",
    "container_credentials_relative_uri",
    "container_credentials_full_uri",
    "skip_signature",
    "service_account",
    "service_account_path",
    "service_account_key",
    "application_credentials",
    "storage_account_key",
    "storage_access_key",
    "storage_master_key",
    "master_key",
    "account_key",
    "access_key",
    "storage_client_id",
    "client_id",
    "storage_client_secret",
    "client_secret",
    "storage_tenant_id",
    "tenant_id",
    "authority_id",
    "storage_sas_key",
    "storage_sas_token",
    "sas_key",
    "sas_token",
    "storage_token",
    "bearer_token",
    "use_azure_cli",
];

/// An option's name without the family's name in front.
pub fn bare(name: &str) -> &str {
    ["aws_", "google_", "azure_"].iter().find_map(|prefix| name.strip_prefix(prefix)).unwrap_or(name)
}

/// Whether an option says who is asking.
pub fn is_credential(name: &str) -> bool {
    CREDENTIALS.contains(&bare(name)) || name == GCS_TOKEN
}

/// Whether the store of locations that begin with `prefix` has an option of this name. Local folders have none.
pub fn knows(prefix: &str, name: &str) -> bool {
    family(prefix).is_some_and(|family| (family.knows)(&name.to_ascii_lowercase()))
}

fn family(prefix: &str) -> Option<&'static Family> {
    FAMILIES.iter().find(|family| is_of(family, prefix))
}

/// Lays the variables `AWS_…`, `GOOGLE_…` and `AZURE_…` under `stores`, by the names that `object_store` gives them.
///
/// A store that is configured keeps what it says; where it names any credential, none comes from the environment. The
/// stores that are not configured get one entry for their family.
pub(crate) fn under_environment(stores: &mut Vec<StoreConfig>, variables: &BTreeMap<String, String>) {
    for family in &FAMILIES {
        let found = of_environment(family, variables);
        if found.is_empty() {
            continue;
        }
        for store in stores.iter_mut().filter(|store| is_of(family, &store.prefix)) {
            lay_under(&mut store.options, &found);
        }
        for scheme in family.schemes {
            let prefix = format!("{scheme}://");
            if !stores.iter().any(|store| store.prefix == prefix) {
                stores.push(StoreConfig { prefix, options: found.clone() });
            }
        }
    }
    stores.sort_by(|a, b| b.prefix.len().cmp(&a.prefix.len()).then_with(|| a.prefix.cmp(&b.prefix)));
}

fn is_of(family: &Family, prefix: &str) -> bool {
    prefix.split_once(':').is_some_and(|(scheme, _)| family.schemes.contains(&scheme.to_ascii_lowercase().as_str()))
}

fn of_environment(family: &Family, variables: &BTreeMap<String, String>) -> BTreeMap<String, Secret> {
    let mut found = BTreeMap::new();
    for (name, value) in
        variables.iter().filter(|(name, value)| name.starts_with(family.variables) && !value.is_empty())
    {
        let option = name.to_ascii_lowercase();
        // Which bucket is meant, the location says.
        if (family.knows)(&option) && !option.contains("bucket") && !option.contains("container_name") {
            found.insert(option, Secret::new(value.clone()));
        }
    }
    // The service's own endpoint goes before the general one, the region before the default one.
    prefer(&mut found, "aws_endpoint_url_s3", "aws_endpoint_url");
    prefer(&mut found, "aws_region", "aws_default_region");
    found
}

fn prefer(options: &mut BTreeMap<String, Secret>, first: &str, second: &str) {
    if options.contains_key(first) {
        options.remove(second);
    }
}

/// The same option under its several names, so that what is configured is found whatever it is called.
fn meaning(name: &str) -> String {
    let lower = name.to_ascii_lowercase();
    match bare(&lower) {
        "endpoint" | "endpoint_url" | "endpoint_url_s3" => "endpoint".to_owned(),
        "region" | "default_region" => "region".to_owned(),
        other => other.to_owned(),
    }
}

fn lay_under(options: &mut BTreeMap<String, Secret>, found: &BTreeMap<String, Secret>) {
    let own_credentials = options.keys().any(|name| is_credential(&name.to_ascii_lowercase()));
    let said: Vec<String> = options.keys().map(|name| meaning(name)).collect();
    for (name, value) in found {
        if (own_credentials && is_credential(name)) || said.contains(&meaning(name)) {
            continue;
        }
        options.insert(name.clone(), value.clone());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(entries: &[(&str, &str)]) -> BTreeMap<String, String> {
        entries.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    }

    fn shown(store: &StoreConfig) -> Vec<String> {
        store.options.iter().map(|(name, value)| format!("{name}={}", value.expose())).collect()
    }

    fn store(prefix: &str, options: &[(&str, &str)]) -> StoreConfig {
        let options = options.iter().map(|(name, value)| ((*name).to_owned(), Secret::new(*value))).collect();
        StoreConfig { prefix: prefix.to_owned(), options }
    }

    #[test]
    fn the_environment_fills_what_the_configuration_leaves_open() {
        let variables = map(&[
            ("AWS_ACCESS_KEY_ID", "id"),
            ("AWS_SECRET_ACCESS_KEY", "key"),
            ("AWS_REGION", "eu-north-1"),
            ("AWS_DEFAULT_REGION", "us-east-1"),
            ("AWS_ENDPOINT_URL", "http://all"),
            ("AWS_ENDPOINT_URL_S3", "http://s3"),
            ("AWS_PAGER", "less"),
            ("AWS_SESSION_TOKEN", ""),
            ("GOOGLE_SERVICE_ACCOUNT", "/run/account.json"),
        ]);
        let mut stores = vec![
            store("s3://own", &[("access_key_id", "mine"), ("secret_access_key", "mine")]),
            store("s3a://near", &[("Endpoint", "http://near")]),
        ];
        under_environment(&mut stores, &variables);
        let of = |prefix: &str| stores.iter().find(|store| store.prefix == prefix).map(shown).unwrap_or_default();
        let from_outside = ["aws_endpoint_url_s3=http://s3", "aws_region=eu-north-1"];
        let own = ["access_key_id=mine", from_outside[0], from_outside[1], "secret_access_key=mine"];
        assert_eq!(of("s3://own"), own);
        let keys = ["aws_access_key_id=id", "aws_region=eu-north-1", "aws_secret_access_key=key"];
        assert_eq!(of("s3a://near"), [&["Endpoint=http://near"], keys.as_slice()].concat());
        assert_eq!(of("s3://"), [keys[0], from_outside[0], keys[1], keys[2]]);
        assert_eq!(of("gs://"), ["google_service_account=/run/account.json"]);
        assert!(of("az://").is_empty());
    }

    #[test]
    fn without_variables_there_is_no_store_that_nobody_configured() {
        let mut stores = Vec::new();
        under_environment(&mut stores, &map(&[("AWS_PROFILE", "dev"), ("HOME", "/root")]));
        assert!(stores.is_empty(), "{stores:?}");
    }

    #[test]
    fn options_are_those_of_their_store() {
        assert!(knows("s3://b", "access_key_id") && knows("S3a://b", "AWS_Region") && knows("gs://b", GCS_TOKEN));
        assert!(!knows("s3://b", "acess_key_id") && !knows("gs://b", "region") && !knows("file:///x", "region"));
    }
}
