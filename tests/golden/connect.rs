//! Connectors of Kafka Connect's Iceberg sink, the configurations that take their place, and what is said of each property. A case is a
//! file `connect/NAME.json`.

use std::collections::BTreeMap;
use std::io::{Error, ErrorKind};

use frazil::cli::import_report::said;
use frazil::config::Layers;
use frazil::migrate::connector::Connector;
use frazil::migrate::translate::{Translation, Wish, translate};

use crate::{assert_golden, root};

/// What stands in each case where a secret is.
const SECRET: &str = "very secret";

fn case(name: &str) -> String {
    std::fs::read_to_string(root().join(format!("tests/golden/connect/{name}.json"))).expect("the case exists")
}

fn names() -> Vec<String> {
    let folder = std::fs::read_dir(root().join("tests/golden/connect")).expect("the folder exists");
    let names = folder.map(|entry| entry.expect("readable").file_name().to_string_lossy().into_owned());
    let mut names: Vec<String> = names.filter_map(|name| name.strip_suffix(".json").map(str::to_owned)).collect();
    names.sort();
    names
}

/// What is wrong with a configuration whose secrets are set.
fn problems(translated: &Translation) -> Vec<String> {
    let variables = translated.secrets.iter().map(|(variable, _)| (variable.clone(), "x".to_owned()));
    let read_file = |_: &std::path::Path| Err(Error::from(ErrorKind::NotFound));
    let layers = Layers {
        file: "new.toml".to_owned(),
        text: translated.toml.clone(),
        variables: variables.collect::<BTreeMap<String, String>>(),
        sets: Vec::new(),
        host: "host-1".to_owned(),
        processors: 4,
        read_file: &read_file,
    };
    match layers.load() {
        Ok(_) => Vec::new(),
        Err(problems) => problems.to_string().lines().map(str::to_owned).collect(),
    }
}

#[test]
fn connectors_become_configurations_as_their_golden_files_say() {
    for name in names() {
        let connector = Connector::read(&case(&name), None).expect("a connector");
        let wish = Wish { offsets: vec![("orders/0".to_owned(), 4711)], ..Wish::default() };
        let translated = translate(&connector, &wish);
        assert_golden(format!("tests/golden/connect/{name}.toml"), &translated.toml);
        let answer = said(&translated, None);
        assert_golden(format!("tests/golden/connect/{name}.txt"), &answer.text);
        let text = answer.json_text() + &answer.text + &translated.toml;
        assert!(!text.contains(SECRET), "{name}: a secret was copied");
    }
}

#[test]
fn what_is_written_is_a_configuration() {
    for name in names() {
        let connector = Connector::read(&case(&name), None).expect("a connector");
        let wrong = problems(&translate(&connector, &Wish::default()));
        // A pattern that our expressions do not have is told as a loss, and of the configuration as well.
        let told = |line: &String| name == "losses" && (line.contains("topic_pattern") || line.starts_with("  hint"));
        let wrong: Vec<&String> = wrong.iter().filter(|line| !told(line)).collect();
        assert!(wrong.is_empty(), "{name}: {wrong:#?}");
    }
}

#[test]
fn the_worker_says_what_the_connector_does_not() {
    let text = r#"{"name": "a", "connector.class": "IcebergSinkConnector", "topics": "t", "iceberg.tables": "d.t",
        "iceberg.catalog.type": "rest", "iceberg.catalog.uri": "http://127.0.0.1:1"}"#;
    let worker = "# a worker\nbootstrap.servers=127.0.0.1:7\nvalue.converter=org.apache.kafka.connect.json.JsonConverter\n\
        value.converter.schemas.enable=false\nconsumer.isolation.level = read_committed\n";
    let without = translate(&Connector::read(text, None).expect("a connector"), &Wish::default());
    let lost: Vec<&str> =
        without.notes.iter().filter(|note| note.is_loss()).map(|note| note.property.as_str()).collect();
    assert_eq!(lost, ["bootstrap.servers", "value.converter"]);
    let with = translate(&Connector::read(text, Some(worker)).expect("a connector"), &Wish::default());
    assert!(!with.notes.iter().any(|note| note.is_loss()), "{:?}", with.notes);
    assert!(
        with.toml.contains("brokers = [\"127.0.0.1:7\"]") && with.toml.contains("format = \"json\" }"),
        "{}",
        with.toml
    );
    let error = Connector::read(r#"{"name": "a", "connector.class": "x.FileSink"}"#, None).expect_err("another class");
    assert!(error.to_string().contains("not Iceberg's sink"), "{error}");
}
