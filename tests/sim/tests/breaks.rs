//! The deliberate breaks apply to the code as it is: one that does not is a break that nobody tries any more.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

fn patches() -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("breaks");
    let entries = fs::read_dir(folder).expect("a folder of breaks").map(|entry| entry.expect("an entry").path());
    let mut patches: Vec<_> = entries.filter(|path| path.extension().is_some_and(|e| e == "patch")).collect();
    patches.sort();
    patches
}

#[test]
fn every_break_applies_to_the_code_as_it_is() {
    let top = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    for patch in patches() {
        let mut tried = Command::new("patch");
        tried.args(["--dry-run", "--fuzz", "0", "--strip", "1", "--force", "--directory"]).arg(&top);
        let tried = tried.arg("--input").arg(&patch).output().expect("patch runs");
        assert!(tried.status.success(), "{}: {}", patch.display(), String::from_utf8_lossy(&tried.stdout));
    }
}

#[test]
fn there_are_at_least_twelve_breaks() {
    let texts: Vec<_> = patches().iter().map(|path| fs::read_to_string(path).expect("text")).collect();
    let named = texts.iter().flat_map(|text| text.split("broken(\"").skip(1)).filter_map(|rest| rest.split('"').next());
    let names: BTreeSet<&str> = named.collect();
    assert!(names.len() >= 12, "{names:?}");
}
