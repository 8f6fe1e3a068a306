//! What the commands answer: help, tables, and the ways a process ends.

use std::collections::HashMap;
use std::process::{Command, Output};

use clap::CommandFactory;
use frazil::cli::checkpoint::checkpoint;
use frazil::cli::describe::{history, list, show};
use frazil::cli::files::{FileRow, files, snapshot_of};
use frazil::cli::flags::Flags;
use frazil::cli::output::Answer;
use frazil::error::ErrorKind;
use frazil::model::table::TableState;

use crate::{assert_golden, root};

fn table() -> TableState {
    let document = std::fs::read(root().join("tests/golden/cli/metadata.json")).expect("the document is there");
    state(&document)
}

fn state(document: &[u8]) -> TableState {
    let name = "raw.shop".parse().expect("a name");
    let location = Some("s3://lake/raw/shop/metadata/00003.metadata.json".to_owned());
    TableState::from_json(name, document, location, HashMap::new()).expect("valid metadata")
}

/// A table that was just made: no snapshots, no refs, no layout.
fn new_table() -> TableState {
    let document = br#"{"format-version":2,"table-uuid":"9c12d441-03fe-4693-9a96-a0705ddf69c1","location":"/w/t",
        "last-sequence-number":0,"last-updated-ms":0,"last-column-id":1,"current-schema-id":0,
        "schemas":[{"type":"struct","schema-id":0,"fields":[{"id":1,"name":"a","required":false,"type":"int"}]}],
        "default-spec-id":0,"partition-specs":[{"spec-id":0,"fields":[]}],"last-partition-id":999,
        "default-sort-order-id":0,"sort-orders":[{"order-id":0,"fields":[]}]}"#;
    state(document)
}

fn assert_answer(name: &str, answer: &Answer) {
    assert_golden(format!("tests/golden/cli/{name}.txt"), &answer.text);
    assert_golden(format!("tests/golden/cli/{name}.json"), &answer.json_text());
}

#[test]
fn the_help_of_every_command_is_as_its_golden_file_says() {
    let mut text = String::new();
    let mut open = vec![(vec![], Flags::command().term_width(100))];
    while let Some((path, mut command)) = open.pop() {
        let full: Vec<String> = path.iter().cloned().chain([command.get_name().to_owned()]).collect();
        text.push_str(&format!("### {}\n\n{}\n", full.join(" "), command.render_long_help()));
        let mut below: Vec<_> = command
            .get_subcommands()
            .filter(|own| own.get_name() != "help")
            .map(|own| (full.clone(), own.clone().term_width(100)))
            .collect();
        below.reverse();
        open.extend(below);
    }
    assert_golden("tests/golden/cli/help.txt", &text);
}

#[test]
fn the_flags_contradict_nowhere() {
    Flags::command().debug_assert();
}

#[test]
fn tables_are_described_as_their_golden_files_say() {
    let state = table();
    assert_answer("show", &show(&state));
    assert_answer("history", &history(&state));
    assert_answer("checkpoint", &checkpoint(&state).expect("readable records"));
    assert_answer("list", &list(&["raw.shop".parse().expect("a name"), "raw.web.clicks".parse().expect("a name")]));
    let row = |path: &str, content, partition: &str, records, size| FileRow {
        path: format!("s3://lake/raw/shop/data/{path}"),
        content,
        partition: partition.to_owned(),
        records,
        size,
        sequence: Some(3),
    };
    let rows = [
        row("a.parquet", "data", "order_ts_day=2024-05-01/order_id_bucket=3", 1_234_567, 123_456_789),
        row("b.parquet", "position-deletes", "order_ts_day=2024-05-01/order_id_bucket=3", 12, 900),
    ];
    assert_answer("files", &files(&state, Some(33), &rows));
}

#[test]
fn a_new_table_is_described_as_its_golden_files_say() {
    let state = new_table();
    assert_answer("new_show", &show(&state));
    assert_answer("new_history", &history(&state));
    assert_answer("new_checkpoint", &checkpoint(&state).expect("no records"));
    assert_eq!(snapshot_of(&state, None, None).expect("none is fine"), None);
    assert_answer("new_files", &files(&state, None, &[]));
}

#[test]
fn a_snapshot_is_found_by_id_ref_or_as_the_current_one() {
    let state = table();
    let found = |id, at| snapshot_of(&state, id, at).map_err(|error| error.kind());
    assert_eq!(found(None, None), Ok(Some(33)));
    assert_eq!(found(Some(11), None), Ok(Some(11)));
    assert_eq!(found(None, Some("audit-2024")), Ok(Some(22)));
    assert_eq!(found(Some(12), None), Err(ErrorKind::NotFound));
    assert_eq!(found(None, Some("nowhere")), Err(ErrorKind::NotFound));
}

#[test]
fn a_checkpoint_of_a_newer_version_is_not_guessed() {
    let document = std::fs::read_to_string(root().join("tests/golden/cli/metadata.json")).expect("there");
    let newer = state(document.replace(r#"{\"v\":1,"#, r#"{\"v\":2,"#).as_bytes());
    let error = checkpoint(&newer).expect_err("version 2 is unknown");
    assert_eq!(error.kind(), ErrorKind::Corrupt);
    assert!(error.to_string().contains("frazil.checkpoint.files@main"), "{error}");
}

fn frazil(arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_frazil"));
    command.args(arguments).current_dir(root().join("tests/golden/config")).env_clear().output().expect("it starts")
}

fn ends(arguments: &[&str]) -> (Option<i32>, String, String) {
    let output = frazil(arguments);
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("text");
    (output.status.code(), text(output.stdout), text(output.stderr))
}

#[test]
fn the_process_ends_with_the_documented_codes() {
    assert_eq!(ends(&["--version"]).0, Some(0));
    assert_eq!(ends(&["check", "-c", "smallest.toml"]).0, Some(0));
    assert_eq!(ends(&["config", "show", "-c", "smallest.toml"]).0, Some(0));
    assert_eq!(ends(&[]).0, Some(2));
    assert_eq!(ends(&["fly"]).0, Some(2));
    assert_eq!(ends(&["run", "-c", "missing.toml"]).0, Some(2));
    assert_eq!(ends(&["run", "-c", "empty.toml"]).0, Some(2));
    assert_eq!(ends(&["run", "-c", "quantities.toml"]).0, Some(2));
    assert_eq!(ends(&["check", "-c", "quantities.toml", "--json"]).0, Some(2));
    assert_eq!(ends(&["check", "-c", "smallest.toml", "--log-level", "loud=very"]).0, Some(2));
    assert_eq!(ends(&["table", "list"]).0, Some(2));
    assert_eq!(ends(&["check"]).0, Some(2));
    assert_eq!(ends(&["run"]).0, Some(2));
    assert_eq!(ends(&["demo", "--rows", "0"]).0, Some(2));
}

#[test]
fn an_error_goes_to_standard_error_with_the_way_out() {
    let (_, out, err) = ends(&["check", "-c", "names_that_do_not_exist.toml"]);
    assert_eq!(out, "");
    for part in
        ["error: 4 problems", "names_that_do_not_exist.toml:6:10:", "hint: did you mean", "see docs/runbook.md#config"]
    {
        assert!(err.contains(part), "{part} is missing in {err}");
    }
}

#[test]
fn problems_are_json_when_asked_for() {
    let (_, out, err) = ends(&["check", "-c", "listening_outside.toml", "--json"]);
    assert_eq!(err, "");
    assert_golden("tests/golden/cli/check_problems.json", &out);
}

#[test]
fn written_settings_are_shown_without_defaults() {
    let (_, out, _) = ends(&["config", "show", "-c", "smallest.toml", "--set", "limits.memory=2GiB"]);
    assert_golden("tests/golden/cli/config_show.txt", &out);
    let (_, out, _) = ends(&["config", "show", "-c", "smallest.toml", "--json"]);
    assert_golden("tests/golden/cli/config_show.json", &out);
}

#[test]
fn a_reader_that_goes_away_is_no_error() {
    let mut command = Command::new(env!("CARGO_BIN_EXE_frazil"));
    command.args(["config", "reference"]).stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::piped());
    let mut child = command.spawn().expect("it starts");
    drop(child.stdout.take());
    let output = child.wait_with_output().expect("it ends");
    assert_eq!((output.status.code(), output.stderr.len()), (Some(0), 0));
}

#[test]
fn a_completion_script_knows_the_commands() {
    let (code, out, _) = ends(&["completions", "bash"]);
    assert_eq!(code, Some(0));
    assert!(out.contains("checkpoint"), "{out}");
}

#[test]
fn the_demo_writes_over_no_file_of_another() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("frazil.toml");
    std::fs::write(&file, "instance = \"mine\"\n").expect("written");
    let (code, _, err) = ends(&["demo", "--dir", folder.path().to_str().expect("text")]);
    assert_eq!(code, Some(2), "{err}");
    assert_eq!(std::fs::read_to_string(&file).expect("still there"), "instance = \"mine\"\n");
}
