//! Configurations and what is said about them. A case is a file `config/NAME.toml`; its first lines may lay environment
//! (`#: env NAME=VALUE`), `--set` (`#: set PATH=VALUE`) and files that it names (`#: file PATH=TEXT`, lines end with `\n`)
//! over it.

use std::collections::BTreeMap;
use std::io::{Error, ErrorKind};
use std::path::Path;

use frazil::config::kafka::Tombstones;
use frazil::config::resolve::Scope;
use frazil::config::{Layers, Loaded, Problems, SourceConfig};

use proptest::prelude::*;

use crate::{assert_golden, root};

fn load_case(name: &str) -> Result<Loaded, Problems> {
    load_text(case_text(name))
}

fn case_text(name: &str) -> String {
    std::fs::read_to_string(root().join(format!("tests/golden/config/{name}.toml"))).expect("the case exists")
}

fn load_text(text: String) -> Result<Loaded, Problems> {
    let (mut variables, mut sets, mut files) = (BTreeMap::new(), Vec::new(), BTreeMap::new());
    for line in text.lines().map_while(|line| line.strip_prefix("#: ")) {
        let (kind, rest) = line.split_once(' ').expect("a directive has a kind");
        let (left, right) = rest.split_once('=').unwrap_or((rest, ""));
        match kind {
            "env" => drop(variables.insert(left.to_owned(), right.to_owned())),
            "set" => sets.push(rest.to_owned()),
            "file" => drop(files.insert(left.to_owned(), right.replace("\\n", "\n"))),
            other => panic!("unknown directive {other}"),
        }
    }
    let read_file = |path: &Path| {
        let text = path.to_str().and_then(|path| files.get(path));
        text.map(|text| text.clone().into_bytes()).ok_or_else(|| Error::from(ErrorKind::NotFound))
    };
    let layers = Layers {
        file: "frazil.toml".to_owned(),
        text,
        variables,
        sets,
        host: "host-1".to_owned(),
        processors: 4,
        read_file: &read_file,
    };
    layers.load()
}

fn case_names() -> Vec<String> {
    let folder = std::fs::read_dir(root().join("tests/golden/config")).expect("the folder exists");
    let mut names: Vec<String> = folder
        .filter_map(|entry| {
            entry.expect("readable").file_name().to_str().and_then(|n| n.strip_suffix(".toml")).map(str::to_owned)
        })
        .collect();
    names.sort();
    names
}

#[test]
fn every_configuration_is_answered_as_its_golden_file_says() {
    let names = case_names();
    assert!(names.len() >= 15, "only {} cases", names.len());
    for name in names {
        let answer = match load_case(&name) {
            Ok(loaded) => format!("valid\n\n{}", loaded.resolved.to_toml(Scope::All)),
            Err(problems) => format!("{problems}\n"),
        };
        assert_golden(format!("tests/golden/config/{name}.out"), &answer);
    }
}

#[test]
fn records_without_a_value_are_rejects_unless_deletes_are_rows_already_or_somebody_says_so() {
    let of = |setting: &str, envelope: &str| {
        let text = format!(
            r#"
            [catalog.lake]
            type = "memory"
            [source.shop]
            type = "kafka"
            brokers = ["127.0.0.1:9092"]
            group = "g"
            topics = ["orders"]
            {setting}
            [source.other]
            type = "kafka"
            brokers = ["127.0.0.1:9092"]
            group = "other"
            topics = ["orders"]
            [pipeline.shop]
            source = "shop"
            table = "lake.raw.orders"
            decode = {{ envelope = "{envelope}" }}
            [pipeline.other]
            source = "other"
            table = "lake.raw.other"
            "#
        );
        let config = load_text(text).expect("valid").config;
        ["shop", "other"].map(|name| match &config.sources[name] {
            SourceConfig::Kafka(kafka) => kafka.tombstones,
            other => panic!("{other:?}"),
        })
    };
    use Tombstones::{Reject, Skip};
    assert_eq!(of("", "none"), [Reject, Reject]);
    assert_eq!(of("", "connect"), [Reject, Reject]);
    assert_eq!(of("", "debezium"), [Skip, Reject]);
    assert_eq!(of("tombstones = \"reject\"", "debezium"), [Reject, Reject]);
    assert_eq!(of("tombstones = \"skip\"", "none"), [Skip, Reject]);
}

#[test]
fn no_answer_shows_a_secret() {
    for name in case_names() {
        let answer = match load_case(&name) {
            Ok(loaded) => format!("{}{:?}", loaded.resolved.to_toml(Scope::All), loaded.config),
            Err(problems) => format!("{problems}{:?}", frazil::error::Error::from(problems.clone())),
        };
        assert!(!answer.contains("hunter2"), "{name} shows a secret:\n{answer}");
    }
}

#[test]
fn the_reference_page_is_current() {
    assert_golden("docs/configuration.md", &frazil::config::page::page());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    /// A file that was cut, mixed up or overwritten in places.
    #[test]
    fn a_damaged_file_is_answered_and_what_is_shown_is_toml(
        damage in prop::collection::vec((any::<prop::sample::Index>(), 0_usize..40, "[ -~é\\n]{0,6}"), 1..6)
    ) {
        let mut text: Vec<char> = case_text("whole").chars().collect();
        let fixed = text.iter().position(|c| *c == '[').expect("directives come first");
        for (at, removed, put) in damage {
            let at = fixed + at.index(text.len() - fixed);
            let end = (at + removed).min(text.len());
            text.splice(at..end, put.chars());
        }
        let text: String = text.into_iter().collect();
        match load_text(text) {
            Ok(loaded) => {
                let shown = loaded.resolved.to_toml(Scope::All);
                prop_assert!(shown.parse::<toml_edit::DocumentMut>().is_ok(), "{}", shown);
            }
            Err(problems) => prop_assert!(!problems.list.is_empty() && problems.list.len() < 200),
        }
    }
}
