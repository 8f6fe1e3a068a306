//! Sizes, names, places, and what tests may not do.

use crate::none;
use crate::tree::{Text, code, rust, sample, texts};

const FILE_LINES_MAX: usize = 600;
const FUNCTION_LINES_MAX: usize = 70;
const VOID_FILE_NAMES: &[&str] = &["util", "utils", "common", "helper", "helpers", "base", "misc", "types"];
const VOID_TYPE_ENDS: &[&str] = &["Manager", "Handler", "Helper", "Base", "Impl", "Util", "Utils", "Info", "Data"];
const EVERYTHING: &[&str] = &["src", "tests", "integration", "benches", "fuzz", "scripts", "docs", ".ci"];

/// Folders that are there; `benches` and `fuzz` may not be yet.
fn present(folders: &[&'static str]) -> Vec<&'static str> {
    let top = std::path::Path::new(env!("CARGO_MANIFEST_DIR"));
    folders.iter().copied().filter(|folder| top.join(folder).exists()).collect()
}

fn long_files(files: &[Text]) -> Vec<String> {
    let lines =
        |file: &Text| if file.path.starts_with("src/") { file.production().len() } else { file.text.lines().count() };
    let long = files.iter().filter(|file| lines(file) > FILE_LINES_MAX && !file.path.ends_with("/tests.rs"));
    long.map(|file| format!("{}: {} lines (at most {FILE_LINES_MAX}): where is the seam?", file.path, lines(file)))
        .collect()
}

/// Relies on rustfmt: a function ends with the first `}` at its own indentation.
fn long_functions(files: &[Text]) -> Vec<String> {
    let mut problems = Vec::new();
    for file in files {
        // Tables of cases in tests are long for a good reason.
        let lines = if file.path.starts_with("src/") { file.production() } else { file.text.lines().collect() };
        for (start, line) in lines.iter().enumerate() {
            let Some(name) = function(line) else { continue };
            let indent = line.len() - line.trim_start().len();
            let body = lines[start..].iter().find(|line| line.trim_end().ends_with(['{', ';', '}']));
            if !body.is_some_and(|line| line.trim_end().ends_with('{')) {
                continue;
            }
            let closing = format!("{}}}", " ".repeat(indent));
            let length = lines[start..].iter().position(|line| *line == closing).map_or(0, |at| at + 1);
            if length > FUNCTION_LINES_MAX {
                problems.push(format!(
                    "{}:{}: {name} has {length} lines (at most {FUNCTION_LINES_MAX})",
                    file.path,
                    start + 1
                ));
            }
        }
    }
    problems
}

/// The name of the function that begins on this line.
pub(crate) fn function(line: &str) -> Option<&str> {
    let line = code(line).trim_start();
    let at = line.find("fn ")?;
    let before = line[..at].trim();
    let words = ["pub", "pub(crate)", "pub(super)", "async", "const", "unsafe", "extern", "\"C\"", "default"];
    if !before.split_whitespace().all(|word| words.contains(&word)) {
        return None;
    }
    let name = &line[at + 3..];
    name.split(['(', '<']).next().filter(|name| !name.is_empty() && !name.contains(' '))
}

fn void_names(files: &[Text]) -> Vec<String> {
    let mut problems = Vec::new();
    for file in files {
        let stem = file.path.rsplit('/').next().and_then(|name| name.split('.').next()).unwrap_or_default();
        if VOID_FILE_NAMES.contains(&stem) {
            problems.push(format!("{}: a name that says nothing", file.path));
        }
        for line in file.text.lines().map(code) {
            let mut words = line.split(|c: char| !c.is_alphanumeric() && c != '_').filter(|word| !word.is_empty());
            if words.any(|word| ["struct", "enum", "trait"].contains(&word))
                && let Some(name) = words.next()
                && name != "Data" // the part of a `Change` that touches files
                && VOID_TYPE_ENDS.iter().any(|end| name.ends_with(end))
            {
                problems.push(format!("{}: {name} says what kind of thing it is, not which", file.path));
            }
        }
    }
    problems
}

fn deep_paths(files: &[Text]) -> Vec<String> {
    let deep = |file: &&Text| file.path.split('/').count() > if file.path.ends_with("/tests.rs") { 4 } else { 3 };
    files.iter().filter(deep).map(|file| format!("{}: deeper than src/a/b.rs", file.path)).collect()
}

fn undocumented(files: &[Text]) -> Vec<String> {
    let bare = |file: &&Text| !file.path.ends_with("/tests.rs") && !file.text.trim_start().starts_with("//! ");
    files
        .iter()
        .filter(bare)
        .map(|file| format!("{}: does not begin with a `//!` line that says what it is", file.path))
        .collect()
}

fn left_for_later(files: &[Text]) -> Vec<String> {
    // Put together here, or this file would be its own finding.
    let marks = [
        concat!("TO", "DO"),
        concat!("FIX", "ME"),
        concat!("XX", "X:"),
        concat!("todo", "!("),
        concat!("unimplemented", "!("),
    ];
    let mut problems = Vec::new();
    for file in files {
        for (at, line) in file.text.lines().enumerate() {
            for mark in marks.iter().filter(|mark| line.contains(**mark)) {
                problems.push(format!("{}:{}: {mark}: do it, or file it as an issue", file.path, at + 1));
            }
        }
    }
    problems
}

fn weak_tests(files: &[Text]) -> Vec<String> {
    let marks = [
        (concat!("#[ign", "ore"), "a test that nobody runs"),
        (concat!("thread::", "sleep("), "waits for time instead of for what it waits for"),
        (concat!("time::", "sleep("), "waits for time instead of for what it waits for"),
        (concat!("Instant::", "now("), "measures the machine"),
    ];
    let mut problems = Vec::new();
    for file in files {
        for (at, line) in file.tests() {
            for (_, why) in marks.iter().filter(|(mark, _)| code(line).contains(mark)) {
                problems.push(format!("{}:{at}: {why}", file.path));
            }
        }
    }
    problems
}

#[test]
fn no_file_is_longer_than_600_lines() {
    none(&long_files(&rust(&["src", "integration"])));
}

#[test]
fn a_long_file_is_found() {
    let long = "x\n".repeat(601);
    assert_eq!(long_files(&[sample("src/a/b.rs", &long)]).len(), 1);
    assert!(long_files(&[sample("src/a/b.rs", &format!("{}#[cfg(test)]\n{long}", "x\n".repeat(600)))]).is_empty());
    assert!(long_files(&[sample("src/a/b/tests.rs", &long)]).is_empty());
}

#[test]
fn no_function_is_longer_than_70_lines() {
    none(&long_functions(&rust(&["src", "integration"])));
}

#[test]
fn a_long_function_is_found() {
    let body = "        x();\n".repeat(69);
    let long = format!(
        "impl A {{\n    fn short(&self) -> u8;\n    pub async fn long(\n        &self,\n    ) {{\n{body}    }}\n}}\n"
    );
    let problems = long_functions(&[sample("src/a/b.rs", &long)]);
    assert_eq!(problems, ["src/a/b.rs:3: long has 73 lines (at most 70)"]);
    assert!(
        long_functions(&[sample("src/a/b.rs", &long.replacen("        x();\n        x();\n        x();\n", "", 1))])
            .is_empty()
    );
}

#[test]
fn no_name_says_nothing() {
    none(&void_names(&rust(&["src"])));
}

#[test]
fn a_name_that_says_nothing_is_found() {
    assert_eq!(void_names(&[sample("src/a/utils.rs", "")]).len(), 1);
    assert_eq!(void_names(&[sample("src/a/b.rs", "pub struct TableManager {\n    x: u8,\n}\n")]).len(), 1);
    assert!(void_names(&[sample("src/a/b.rs", "pub struct DataFile;\n// a struct Manager\n")]).is_empty());
}

#[test]
fn no_file_lies_deeper_than_two_folders() {
    none(&deep_paths(&rust(&["src"])));
}

#[test]
fn a_deep_file_is_found() {
    assert_eq!(
        deep_paths(&[sample("src/a/b/c.rs", ""), sample("src/a/b/tests.rs", ""), sample("src/a/b.rs", "")]).len(),
        1
    );
}

#[test]
fn every_file_says_what_it_is() {
    none(&undocumented(&rust(&present(&["src", "tests", "integration", "benches"]))));
}

#[test]
fn a_file_without_a_word_is_found() {
    assert_eq!(undocumented(&[sample("src/a/b.rs", "use std::fs;\n"), sample("src/a/c.rs", "//! C.\n")]).len(), 1);
}

#[test]
fn nothing_is_left_for_later() {
    none(&left_for_later(&texts(&present(EVERYTHING))));
}

#[test]
fn what_is_left_for_later_is_found() {
    assert_eq!(left_for_later(&[sample("docs/a.md", concat!("TO", "DO: write\n"))]).len(), 1);
}

#[test]
fn no_test_sleeps_measures_time_or_is_left_out() {
    none(&weak_tests(&rust(&present(&["src", "tests", "integration"]))));
}

#[test]
fn a_weak_test_is_found() {
    let text = format!(
        "#[cfg(test)]\nmod tests {{\n    {}]\n    std::{}1);\n}}\n",
        concat!("#[ign", "ore"),
        concat!("thread::", "sleep(")
    );
    assert_eq!(weak_tests(&[sample("src/a/b.rs", &text)]).len(), 2);
    assert!(weak_tests(&[sample("src/a/b.rs", concat!("tokio::time::", "sleep(1);\n"))]).is_empty());
}
