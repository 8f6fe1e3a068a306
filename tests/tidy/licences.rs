//! Licences, bans and sources of every dependency, by the rules of deny.toml.

use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;

use serde_json::Value;

use crate::none;
use crate::tree::text;

/// What deny.toml says.
struct Rules {
    licences: BTreeSet<String>,
    /// With the packages that may need them all the same.
    banned: BTreeMap<String, BTreeSet<String>>,
}

fn rules() -> Rules {
    let document: toml_edit::DocumentMut = text("deny.toml").parse().expect("deny.toml is TOML");
    let list = |section: &str, key: &str| document[section][key].as_array().expect("a list").clone();
    let licences = list("licenses", "allow").iter().filter_map(|name| name.as_str().map(str::to_owned)).collect();
    let banned = list("bans", "deny");
    let ban = |entry: &toml_edit::Value| {
        let ban = entry.as_inline_table()?;
        let wrappers = ban.get("wrappers").and_then(toml_edit::Value::as_array);
        let wrappers = wrappers.into_iter().flatten().filter_map(|name| name.as_str().map(str::to_owned));
        Some((ban.get("crate")?.as_str()?.to_owned(), wrappers.collect()))
    };
    Rules { licences, banned: banned.iter().filter_map(ban).collect() }
}

/// Each package, with the names of those that need it under `needed_by`.
fn packages() -> Vec<Value> {
    let cargo = env!("CARGO");
    let output = Command::new(cargo)
        .args(["metadata", "--format-version", "1", "--offline", "--locked", "--all-features"])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .expect("run cargo metadata");
    let told = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{told}\nrun `cargo fetch --locked`: all platforms' packages are looked at");
    let document: Value = serde_json::from_slice(&output.stdout).expect("cargo metadata prints JSON");
    let list = |value: &Value| value.as_array().expect("a list").clone();
    let named = |package: &Value| (package["id"].to_string(), package["name"].clone());
    let names: BTreeMap<String, Value> = list(&document["packages"]).iter().map(named).collect();
    let needs = |of: &Value, id: &Value| list(&of["deps"]).iter().any(|dependency| dependency["pkg"] == *id);
    let nodes = list(&document["resolve"]["nodes"]);
    let with_users = |mut package: Value| {
        let users =
            nodes.iter().filter(|node| needs(node, &package["id"])).map(|node| names[&node["id"].to_string()].clone());
        package["needed_by"] = users.collect();
        package
    };
    list(&document["packages"]).into_iter().map(with_users).collect()
}

fn refused(packages: &[Value], rules: &Rules) -> Vec<String> {
    let mut problems = Vec::new();
    for package in packages {
        let name = package["name"].as_str().unwrap_or_default();
        let licence = package["license"].as_str().unwrap_or_default();
        if !allowed(licence, &rules.licences) {
            problems.push(format!("{name}: licence {licence:?} is not among those of deny.toml"));
        }
        if let Some(wrappers) = rules.banned.get(name) {
            let users = package["needed_by"].as_array().into_iter().flatten().filter_map(Value::as_str);
            let others: Vec<&str> = users.filter(|user| !wrappers.contains(*user)).collect();
            if wrappers.is_empty() || !others.is_empty() {
                problems.push(format!("{name}: banned by deny.toml, needed by {}", others.join(", ")));
            }
        }
        let source = package["source"].as_str().unwrap_or("registry+");
        if !source.starts_with("registry+") {
            problems.push(format!("{name}: comes from {source}, not from the registry"));
        }
    }
    problems
}

/// Whether an SPDX expression can be met with these licences.
fn allowed(expression: &str, licences: &BTreeSet<String>) -> bool {
    let spaced = expression.replace('(', " ( ").replace(')', " ) ").replace('/', " OR ");
    let words: Vec<&str> = spaced.split_whitespace().collect();
    let mut at = 0;
    let met = any_of(&words, &mut at, licences);
    met && at == words.len()
}

fn any_of(words: &[&str], at: &mut usize, licences: &BTreeSet<String>) -> bool {
    let mut met = all_of(words, at, licences);
    while words.get(*at) == Some(&"OR") {
        *at += 1;
        met |= all_of(words, at, licences);
    }
    met
}

fn all_of(words: &[&str], at: &mut usize, licences: &BTreeSet<String>) -> bool {
    let mut met = one(words, at, licences);
    while words.get(*at) == Some(&"AND") {
        *at += 1;
        met &= one(words, at, licences);
    }
    met
}

fn one(words: &[&str], at: &mut usize, licences: &BTreeSet<String>) -> bool {
    let Some(word) = words.get(*at) else { return false };
    *at += 1;
    if *word == "(" {
        let met = any_of(words, at, licences);
        *at += 1;
        return met;
    }
    if words.get(*at) == Some(&"WITH") {
        let exception = words.get(*at + 1).copied().unwrap_or_default();
        *at += 2;
        return licences.contains(&format!("{word} WITH {exception}"));
    }
    licences.contains(*word)
}

#[test]
fn every_dependency_may_be_used() {
    none(&refused(&packages(), &rules()));
}

#[test]
fn a_dependency_that_may_not_be_used_is_found() {
    let package = |name: &str, licence: &str, source: Option<&str>| serde_json::json!({"name": name, "license": licence, "source": source, "needed_by": ["rdkafka-sys", "other"]});
    let rules = rules();
    let found = |package: Value| refused(&[package], &rules).len();
    assert_eq!(found(package("a", "GPL-3.0-only", Some("registry+x"))), 1);
    assert_eq!(found(package("a", "MIT", Some("git+https://example.org/a"))), 1);
    assert_eq!(found(package("openssl-sys", "MIT", Some("registry+x"))), 1);
    assert_eq!(found(package("native-tls", "MIT", Some("registry+x"))), 1);
    let mut wrapped = package("openssl-sys", "MIT", Some("registry+x"));
    wrapped["needed_by"] = serde_json::json!(["rdkafka-sys"]);
    assert_eq!(found(wrapped), 0);
    assert_eq!(found(package("a", "", None)), 1);
    assert_eq!(found(package("a", "MIT", None)), 0);
}

#[test]
fn licence_expressions_are_read_as_spdx_means_them() {
    let licences = ["MIT", "Apache-2.0", "Apache-2.0 WITH LLVM-exception"].map(str::to_owned).into();
    for good in
        ["MIT", "MIT/Apache-2.0", "GPL-2.0 OR MIT", "(GPL-2.0 OR MIT) AND Apache-2.0", "Apache-2.0 WITH LLVM-exception"]
    {
        assert!(allowed(good, &licences), "{good}");
    }
    for bad in ["GPL-2.0", "MIT AND GPL-2.0", "GPL-2.0 OR (MIT AND ISC)", "MIT WITH Other-exception", "", "(MIT"] {
        assert!(!allowed(bad, &licences), "{bad}");
    }
}
