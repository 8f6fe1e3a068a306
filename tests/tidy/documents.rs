//! What the documents say must be there.

use std::collections::BTreeSet;
use std::path::Path;

use crate::none;
use crate::shape::function;
use crate::tree::{Text, rust, sample, text, texts};

/// The heading of ARCHITECTURE.md whose list items each name a test.
const NEVER: &str = "## What never happens";

/// The lines below a heading, up to the next of its level.
fn section<'a>(page: &'a str, heading: &str) -> Vec<&'a str> {
    let level = heading.split(' ').next().unwrap_or_default();
    let below = page.lines().skip_while(|line| *line != heading).skip(1);
    below.take_while(|line| !line.starts_with(&format!("{level} "))).collect()
}

/// The texts in backquotes.
fn quoted(line: &str) -> Vec<&str> {
    line.split('`').skip(1).step_by(2).collect()
}

fn unproven(page: &str, tests: &BTreeSet<String>) -> Vec<String> {
    let lines = section(page, NEVER);
    let mut problems = Vec::new();
    if !lines.iter().any(|line| line.starts_with("- ")) {
        problems.push(format!("ARCHITECTURE.md has no list below {NEVER:?}"));
    }
    for item in lines.join("\n").split("\n- ").skip(1) {
        let names: Vec<&str> =
            quoted(item).into_iter().filter(|word| word.contains('_') && !word.contains([':', '.', ' '])).collect();
        if names.is_empty() {
            problems.push(format!("names no test: {item}"));
        }
        problems.extend(
            names.iter().filter(|name| !tests.contains(**name)).map(|name| format!("there is no test {name}: {item}")),
        );
    }
    problems
}

/// The functions that follow a test attribute.
fn test_names(files: &[Text]) -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    for file in files {
        let mut marked = false;
        for line in file.text.lines().map(str::trim) {
            if line.starts_with("#[test]") || (line.starts_with("#[tokio::test")) {
                marked = true;
            } else if marked && let Some(name) = function(line) {
                names.insert(name.to_owned());
                marked = false;
            }
        }
        // Within `proptest!` the attribute stands before the function too, so the above finds it.
    }
    names
}

fn decision_records(files: &[Text]) -> Vec<String> {
    let mut problems = Vec::new();
    for (next, file) in (1..).zip(files.iter().filter(|file| file.path.ends_with(".md"))) {
        let name = file.path.rsplit('/').next().unwrap_or_default();
        if !name.starts_with(&format!("{next:04}-")) {
            problems.push(format!("{}: number {next:04} comes next", file.path));
        }
        if !file.text.starts_with(&format!("# {next}. ")) {
            problems.push(format!("{}: its title does not begin with `# {next}. `", file.path));
        }
        for heading in ["## Context", "## Decision", "## Consequences"] {
            if !file.text.contains(heading) {
                problems.push(format!("{}: has no `{heading}`", file.path));
            }
        }
    }
    problems
}

/// The runbook's anchors that src/error.rs names, and that have no entry.
fn missing_entries(errors: &str, runbook: &str) -> Vec<String> {
    let body = errors.split("fn runbook").nth(1).and_then(|rest| rest.split("\n    }\n").next()).unwrap_or_default();
    let anchors: Vec<&str> = body.split('"').skip(1).step_by(2).collect();
    if anchors.is_empty() {
        return vec!["src/error.rs: no anchors found in `fn runbook`".to_owned()];
    }
    let there = |anchor: &&&str| runbook.lines().any(|line| line == format!("## {anchor}"));
    anchors
        .iter()
        .filter(|anchor| !there(anchor))
        .map(|anchor| format!("docs/runbook.md: has no entry `## {anchor}`"))
        .collect()
}

/// Links to files of this checkout that are not there.
fn dead_links(files: &[Text], exists: &dyn Fn(&str) -> bool) -> Vec<String> {
    let mut problems = Vec::new();
    for file in files.iter().filter(|file| file.path.ends_with(".md")) {
        let folder = Path::new(&file.path).parent().unwrap_or(Path::new(""));
        for link in file.text.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
            let target = link.split('#').next().unwrap_or_default();
            if target.is_empty() || target.contains("://") {
                continue;
            }
            if !exists(&folder.join(target).to_string_lossy()) {
                problems.push(format!("{}: {target} is not there", file.path));
            }
        }
    }
    problems
}

#[test]
fn every_never_sentence_names_a_test_that_exists() {
    none(&unproven(&text("ARCHITECTURE.md"), &test_names(&rust(&["src", "tests", "integration"]))));
}

#[test]
fn a_never_sentence_without_a_test_is_found() {
    let file = sample(
        "src/a.rs",
        "#[test]\nfn rows_stay() {}\n#[tokio::test(start_paused = true)]\nasync fn rows_wait() {}\nfn no_test() {}\n",
    );
    let tests = test_names(&[file]);
    assert_eq!(tests.len(), 2);
    let page = |item: &str| format!("{NEVER}\n\n- {item}\n\n## Next\n\n- nothing\n");
    assert!(unproven(&page("A row is never lost: `rows_stay`,\n  `rows_wait`."), &tests).is_empty());
    assert_eq!(unproven(&page("A row is never lost: `rows_go`."), &tests).len(), 1);
    assert_eq!(unproven(&page("A row is never lost."), &tests).len(), 1);
    assert_eq!(unproven("# Empty\n", &tests).len(), 1);
}

#[test]
fn decision_records_are_numbered_and_whole() {
    none(&decision_records(&texts(&["docs/adr"])));
}

#[test]
fn a_gap_between_decision_records_is_found() {
    let whole = "# 1. A\n\n## Context\n\n## Decision\n\n## Consequences\n";
    assert!(decision_records(&[sample("docs/adr/0001-a.md", whole)]).is_empty());
    assert_eq!(decision_records(&[sample("docs/adr/0002-a.md", &whole.replace("1.", "2."))]).len(), 2);
    assert_eq!(decision_records(&[sample("docs/adr/0001-a.md", "# 1. A\n\n## Context\n\n## Decision\n")]).len(), 1);
}

#[test]
fn every_kind_of_error_has_its_entry_in_the_runbook() {
    none(&missing_entries(&text("src/error.rs"), &text("docs/runbook.md")));
}

#[test]
fn a_missing_entry_of_the_runbook_is_found() {
    let errors =
        "    fn runbook(self) {\n        Self::A => \"a\",\n        Self::B => \"b-c\",\n    }\n    x(\"d\")\n";
    assert_eq!(missing_entries(errors, "# Runbook\n\n## a\n"), ["docs/runbook.md: has no entry `## b-c`"]);
    assert_eq!(missing_entries("", "").len(), 1);
}

#[test]
fn the_changelog_is_open() {
    assert!(
        section(&text("CHANGELOG.md"), "## Unreleased").iter().any(|line| line.starts_with("- ")),
        "nothing under Unreleased"
    );
}

#[test]
fn links_between_documents_lead_somewhere() {
    let exists = |path: &str| Path::new(env!("CARGO_MANIFEST_DIR")).join(path).exists();
    let pages = texts(&["README.md", "ARCHITECTURE.md", "CONTRIBUTING.md", "CHANGELOG.md", "docs"]);
    none(&dead_links(&pages, &exists));
}

#[test]
fn a_dead_link_is_found() {
    let page = sample("docs/a.md", "[x](b.md#c) [y](https://example.org) [z](#here) [w](adr/0001-x.md)");
    assert_eq!(dead_links(&[page], &|path| path == "docs/b.md"), ["docs/a.md: adr/0001-x.md is not there"]);
}

#[test]
fn the_gate_runs_the_test_command_of_the_readme() {
    assert!(text("README.md").contains("scripts/test") && text("README.md").contains("scripts/demo"));
    assert!(text(".ci/run").lines().any(|line| line.contains("scripts/test") && !line.trim_start().starts_with('#')));
}
