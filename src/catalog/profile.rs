//! What is known of catalog products: how to reach them, what they can do, where they leave the specification.
//!
//! One file for each under catalogs/, built into the binary; the contract suite reads the same files.

use serde::Deserialize;

use crate::error::{Context, Error, ErrorKind, Result};

/// The profiles, by name.
const FILES: &[(&str, &str)] = &[
    ("apache-rest-fixture", include_str!("../../catalogs/apache-rest-fixture.toml")),
    ("glue", include_str!("../../catalogs/glue.toml")),
    ("lakekeeper", include_str!("../../catalogs/lakekeeper.toml")),
    ("nessie", include_str!("../../catalogs/nessie.toml")),
    ("polaris", include_str!("../../catalogs/polaris.toml")),
    ("s3tables", include_str!("../../catalogs/s3tables.toml")),
    ("seaweedfs", include_str!("../../catalogs/seaweedfs.toml")),
    ("unity", include_str!("../../catalogs/unity.toml")),
];

/// One catalog product.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Profile {
    /// What `--catalog-profile` calls it.
    pub name: String,
    /// What people call it.
    pub title: String,
    /// The version that the contract suite was run against; empty: none was, the facts are from documentation.
    pub verified: String,
    /// How to reach it.
    pub connect: Connect,
    /// What it can do.
    pub capabilities: Abilities,
    /// Where it leaves the specification, or surprises.
    #[serde(default)]
    pub quirks: Vec<Quirk>,
}

/// How to reach a product.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Connect {
    /// The usual URI before `/v1`; words in capitals are for the user to fill in.
    pub uri: String,
    /// What `warehouse` means to it, in words.
    pub warehouse: String,
    /// Ways to identify, the usual one first.
    pub auth: Vec<AuthKind>,
    /// The OAuth2 scope it wants.
    #[serde(default)]
    pub scope: Option<String>,
    /// Whether it vends storage credentials.
    pub vended_credentials: bool,
}

/// A way to identify.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum AuthKind {
    /// Not at all.
    None,
    /// A fixed bearer token.
    Bearer,
    /// OAuth2 client credentials.
    OAuth2,
    /// AWS request signing, which this version cannot do.
    SigV4,
}

/// What a product can do.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Abilities {
    /// Namespaces of more than one level.
    pub nested_namespaces: bool,
    /// Staged creation.
    pub staged_create: bool,
    /// Registration of existing metadata.
    pub register: bool,
    /// Commits over several tables.
    pub multi_table_commit: bool,
    /// Format versions it takes.
    pub format_versions: Vec<u8>,
    /// Branches and tags.
    pub refs: bool,
}

/// A surprise.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Quirk {
    /// Its name, unique in the profile.
    pub id: String,
    /// What happens, and what we do about it.
    pub says: String,
    /// Cases of the contract suite that it fails.
    #[serde(default)]
    pub cases: Vec<String>,
}

impl Profile {
    /// Whether this version can identify there.
    pub fn is_reachable(&self) -> bool {
        self.connect.auth.iter().any(|kind| *kind != AuthKind::SigV4)
    }

    /// The cases of the contract suite that it fails, each with the reason.
    pub fn known_failures(&self) -> Vec<(String, String)> {
        let of = |quirk: &Quirk| quirk.cases.iter().map(|case| (case.clone(), quirk.says.clone())).collect::<Vec<_>>();
        self.quirks.iter().flat_map(of).collect()
    }
}

/// The names of all profiles, in order.
pub fn names() -> impl Iterator<Item = &'static str> {
    FILES.iter().map(|(name, _)| *name)
}

/// The profile of this name.
///
/// # Errors
/// `Config` when there is none; the hint lists those there are.
pub fn profile(name: &str) -> Result<Profile> {
    let Some((_, text)) = FILES.iter().find(|(known, _)| *known == name) else {
        let all: Vec<_> = names().collect();
        return Err(Error::new(ErrorKind::Config, format!("no catalog profile is called {name:?}"))
            .with_hint(format!("choose one of {}", all.join(", "))));
    };
    toml_edit::de::from_str(text).context(ErrorKind::Internal, || format!("catalog profile {name}"))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_profile_reads_and_is_called_as_its_file() {
        for name in names() {
            let profile = profile(name).expect(name);
            assert_eq!(profile.name, name);
            assert!(!profile.connect.auth.is_empty() && !profile.capabilities.format_versions.is_empty(), "{name}");
            let ids: BTreeSet<_> = profile.quirks.iter().map(|q| &q.id).collect();
            assert_eq!(ids.len(), profile.quirks.len(), "{name} has a quirk twice");
        }
    }

    #[test]
    fn every_file_under_catalogs_is_built_in() {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/catalogs");
        let mut files: Vec<_> = std::fs::read_dir(folder)
            .expect("a folder")
            .map(|entry| entry.expect("an entry").path().file_stem().expect("a name").display().to_string())
            .collect();
        files.sort();
        assert_eq!(files, names().collect::<Vec<_>>());
        assert_eq!(files, crate::config::reference::CATALOG_PROFILES);
    }

    #[test]
    fn a_name_that_is_not_known_is_answered_with_those_that_are() {
        let error = profile("hive").expect_err("none");
        assert_eq!(error.kind(), ErrorKind::Config);
        assert!(error.hint().is_some_and(|hint| hint.contains("polaris")), "{error:?}");
    }

    #[test]
    fn a_product_that_only_takes_signed_requests_is_not_reachable() {
        assert!(!profile("glue").expect("known").is_reachable());
        assert!(profile("polaris").expect("known").is_reachable());
    }
}
