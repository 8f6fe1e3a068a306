//! Which module may know which. The order is that of ARCHITECTURE.md; a new edge here is a decision, not a repair.

use std::collections::BTreeSet;

use crate::none;
use crate::tree::{Text, code, rust, sample};

/// Each module and those that it may name.
const MAY_NAME: &[(&str, &[&str])] = &[
    ("error", &[]),
    ("env", &["error"]),
    ("model", &["error"]),
    ("config", &["error", "model"]),
    ("telemetry", &["error", "env", "model", "config"]),
    ("storage", &["error", "env", "model", "config", "telemetry"]),
    ("catalog", &["error", "env", "model", "config", "telemetry", "storage"]),
    ("source", &["error", "env", "model", "config", "telemetry", "storage"]),
    ("decode", &["error", "env", "model", "config", "telemetry"]),
    // What a decoder saw in rows that did not fit is what evolution decides on.
    ("transform", &["error", "env", "model", "config", "telemetry", "decode"]),
    ("quality", &["error", "env", "model", "config", "telemetry"]),
    ("write", &["error", "env", "model", "config", "telemetry", "storage"]),
    ("commit", &["error", "env", "model", "config", "telemetry", "storage", "catalog"]),
    ("compact", &["error", "env", "model", "config", "telemetry", "storage", "catalog", "write", "commit"]),
    ("maintain", &["error", "env", "model", "config", "telemetry", "storage", "catalog", "write", "commit", "compact"]),
    ("verify", &["error", "env", "model", "config", "telemetry", "storage", "catalog", "write", "commit", "compact"]),
    ("migrate", &["error", "model", "commit"]),
    ("engine", &["error", "env", "model", "config", "telemetry", "catalog"]),
    ("api", &["error", "env", "model", "config", "telemetry", "storage", "catalog"]),
    ("daemon", &ALL_BELOW_DAEMON),
    ("cli", &ALL_BELOW_CLI),
];

const ALL_BELOW_DAEMON: [&str; 17] = [
    "error",
    "env",
    "model",
    "config",
    "telemetry",
    "storage",
    "catalog",
    "source",
    "decode",
    "transform",
    "quality",
    "write",
    "commit",
    "maintain",
    "compact",
    "engine",
    "api",
];

const ALL_BELOW_CLI: [&str; 20] = [
    "error",
    "env",
    "model",
    "config",
    "telemetry",
    "storage",
    "catalog",
    "source",
    "decode",
    "transform",
    "quality",
    "write",
    "commit",
    "maintain",
    "compact",
    "verify",
    "migrate",
    "engine",
    "api",
    "daemon",
];

/// Where types of the `iceberg` crate may be named: where tables and their schemas are worked on.
const NAMES_ICEBERG: &[&str] = &[
    "src/model/",
    "src/catalog/",
    "src/storage/iceberg_io",
    "src/decode/",
    "src/transform/",
    "src/quality/quarantine",
    "src/write/",
    "src/commit/",
    "src/compact/",
    "src/maintain/",
    "src/verify/",
    "src/migrate/control",
    "src/daemon/creation",
    "src/daemon/lane",
    "src/daemon/rebuild",
    // A test: what another engine does to a table.
    "src/daemon/recovery",
    "src/daemon/setbacks",
];

/// The one file that may read the environment; clippy.toml says so too, this finds an `#[allow]`.
const READS_ENVIRONMENT: &str = "src/config/load.rs";

fn module(path: &str) -> &str {
    path.trim_start_matches("src/").split(['/', '.']).next().unwrap_or_default()
}

/// The modules that a line names after `crate::`, in groups as well.
fn named(line: &str) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for (at, _) in line.match_indices("crate::") {
        let rest = &line[at + "crate::".len()..];
        let Some(group) = rest.strip_prefix('{') else {
            found.insert(word(rest).to_owned());
            continue;
        };
        let mut depth = 0_usize;
        let mut start = true;
        for (at, letter) in group.char_indices() {
            if start && depth == 0 && letter.is_alphabetic() {
                found.insert(word(&group[at..]).to_owned());
                start = false;
            }
            match letter {
                '{' => depth += 1,
                '}' if depth == 0 => break,
                '}' => depth -= 1,
                ',' if depth == 0 => start = true,
                _ => {}
            }
        }
    }
    found
}

fn word(text: &str) -> &str {
    text.split(|c: char| !c.is_alphanumeric() && c != '_').next().unwrap_or_default()
}

fn wrong_edges(files: &[Text]) -> Vec<String> {
    let mut problems = Vec::new();
    for file in files {
        let own = module(&file.path);
        if own == "lib" || own == "main" {
            continue;
        }
        let Some((_, allowed)) = MAY_NAME.iter().find(|(name, _)| *name == own) else {
            if !file.production().is_empty() {
                problems.push(format!("{}: module {own} has no place in the order of tests/tidy/order.rs", file.path));
            }
            continue;
        };
        let text: String = file.production().iter().map(|line| format!("{}\n", code(line))).collect();
        // A group may go over several lines.
        for name in named(&text) {
            let known = MAY_NAME.iter().any(|(module, _)| *module == name);
            if known && name != own && !allowed.contains(&name.as_str()) {
                problems.push(format!("{}: {own} must not know {name}", file.path));
            }
        }
    }
    problems
}

fn iceberg_elsewhere(files: &[Text]) -> Vec<String> {
    let mut problems = Vec::new();
    for file in files.iter().filter(|file| !NAMES_ICEBERG.iter().any(|home| file.path.starts_with(home))) {
        for line in file.production() {
            let line = code(line);
            let names = line.match_indices("iceberg::").any(|(at, _)| {
                !line[..at].ends_with(|c: char| c.is_alphanumeric() || c == '_' || c == ':')
                    || line[..at].ends_with(" ::")
            });
            if names {
                problems.push(format!("{}: the iceberg crate is not named here: {}", file.path, line.trim()));
            }
        }
    }
    problems
}

fn environment_elsewhere(files: &[Text]) -> Vec<String> {
    let reads = |file: &&Text| {
        file.path != READS_ENVIRONMENT && file.production().iter().any(|line| code(line).contains("env::var"))
    };
    files
        .iter()
        .filter(reads)
        .map(|file| format!("{}: only {READS_ENVIRONMENT} reads the environment", file.path))
        .collect()
}

#[test]
fn modules_know_only_those_below_them() {
    none(&wrong_edges(&rust(&["src"])));
}

#[test]
fn an_edge_upwards_is_found() {
    let wrong = |text: &str| wrong_edges(&[sample("src/storage/disk.rs", text)]).len();
    assert_eq!(wrong("use crate::commit::protocol::Commit;\n"), 1);
    assert_eq!(wrong("use crate::{\n    error::{Error, Result},\n    write::budget,\n};\n"), 1);
    assert_eq!(wrong("fn f() -> crate::daemon::Table {}\n"), 1);
    assert_eq!(wrong("use crate::error::Error;\n// crate::daemon\n#[cfg(test)]\nuse crate::daemon::Table;\n"), 0);
    assert_eq!(wrong_edges(&[sample("src/other/a.rs", "//! A.\n")]).len(), 1);
}

#[test]
fn the_order_has_no_cycle() {
    for (at, (name, allowed)) in MAY_NAME.iter().enumerate() {
        for below in *allowed {
            let place = MAY_NAME.iter().position(|(module, _)| module == below);
            assert!(place.is_some_and(|place| place < at), "{name} may name {below}, which does not stand before it");
        }
    }
}

#[test]
fn the_iceberg_crate_is_named_only_in_its_homes() {
    none(&iceberg_elsewhere(&rust(&["src"])));
}

#[test]
fn the_iceberg_crate_elsewhere_is_found() {
    let found = |path: &str, text: &str| iceberg_elsewhere(&[sample(path, text)]).len();
    assert_eq!(found("src/daemon/table.rs", "use iceberg::spec::Schema;\n"), 1);
    assert_eq!(found("src/commit/snapshot.rs", "use iceberg::spec::Schema;\n"), 0);
    assert_eq!(found("src/daemon/table.rs", "/// `iceberg::spec`\nuse crate::iceberg::X;\n"), 0);
}

#[test]
fn only_config_load_reads_the_environment() {
    none(&environment_elsewhere(&rust(&["src"])));
}

#[test]
fn a_read_of_the_environment_elsewhere_is_found() {
    assert_eq!(environment_elsewhere(&[sample("src/cli/run.rs", "let x = std::env::var(\"X\");\n")]).len(), 1);
}
