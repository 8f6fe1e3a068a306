//! Licences, bans and sources of every dependency, by the rules of deny.toml.

use std::collections::BTreeSet;
use std::process::Command;

use serde_json::Value;

use crate::none;
use crate::tree::text;

/// What deny.toml says.
struct Rules {
    licences: BTreeSet<String>,
    banned: BTreeSet<String>,
}

fn rules() -> Rules {
    let document: toml_edit::DocumentMut = text("deny.toml").parse().expect("deny.toml is TOML");
    let list = |section: &str, key: &str| document[section][key].as_array().expect("a list").clone();
    let licences = list("licenses", "allow").iter().filter_map(|name| name.as_str().map(str::to_owned)).collect();
    let banned = list("bans", "deny");
    let name = |entry: &toml_edit::Value| {
        entry.as_inline_table().and_then(|ban| ban.get("crate")?.as_str().map(str::to_owned))
    };
    Rules { licences, banned: banned.iter().filter_map(name).collect() }
}

fn packages() -> Vec<Value> {
    let cargo = env!("CARGO");
    let output = Command::new(cargo)
        .args(["metadata", "--format-version", "1", "--offline", "--locked", "--all-features"])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .expect("run cargo metadata");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let document: Value = serde_json::from_slice(&output.stdout).expect("cargo metadata prints JSON");
    document["packages"].as_array().expect("packages").clone()
}

fn refused(packages: &[Value], rules: &Rules) -> Vec<String> {
    let mut problems = Vec::new();
    for package in packages {
        let name = package["name"].as_str().unwrap_or_default();
        let licence = package["license"].as_str().unwrap_or_default();
        if !allowed(licence, &rules.licences) {
            problems.push(format!("{name}: licence {licence:?} is not among those of deny.toml"));
        }
        if rules.banned.contains(name) {
            problems.push(format!("{name}: banned by deny.toml"));
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
    let package = |name: &str, licence: &str, source: Option<&str>| serde_json::json!({"name": name, "license": licence, "source": source});
    let rules = rules();
    let found = |package: Value| refused(&[package], &rules).len();
    assert_eq!(found(package("a", "GPL-3.0-only", Some("registry+x"))), 1);
    assert_eq!(found(package("a", "MIT", Some("git+https://example.org/a"))), 1);
    assert_eq!(found(package("openssl-sys", "MIT", Some("registry+x"))), 1);
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
