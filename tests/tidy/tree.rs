//! The files of this checkout, and the parts of a source file.

use std::fs;
use std::path::Path;

/// A text file: its path from the top of the checkout, and its text.
pub(crate) struct Text {
    pub(crate) path: String,
    pub(crate) text: String,
}

/// A made-up file, for tests that a check bites.
pub(crate) fn sample(path: &str, text: &str) -> Text {
    Text { path: path.to_owned(), text: text.to_owned() }
}

/// All files below `folders` (or these files themselves) that are text.
pub(crate) fn texts(folders: &[&str]) -> Vec<Text> {
    let top = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut found = Vec::new();
    for folder in folders {
        walk(&top.join(folder), top, &mut found);
    }
    found.sort_by(|a, b| a.path.cmp(&b.path));
    found
}

/// All Rust files below `folders`.
pub(crate) fn rust(folders: &[&str]) -> Vec<Text> {
    texts(folders).into_iter().filter(|file| file.path.ends_with(".rs")).collect()
}

/// One file; a sentence where it is missing.
pub(crate) fn text(path: &str) -> String {
    fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(path)).unwrap_or_else(|e| panic!("{path}: {e}"))
}

fn walk(path: &Path, top: &Path, found: &mut Vec<Text>) {
    if path.is_dir() {
        let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        if ["target", "__pycache__", ".git", "corpus"].contains(&name.as_str()) {
            return;
        }
        for entry in fs::read_dir(path).expect("list a folder") {
            walk(&entry.expect("an entry").path(), top, found);
        }
    } else if let Ok(text) = fs::read_to_string(path) {
        let path = path.strip_prefix(top).expect("below the top").to_string_lossy().replace('\\', "/");
        found.push(Text { path, text });
    }
}

impl Text {
    /// Whether the whole file is tests.
    pub(crate) fn is_tests(&self) -> bool {
        let program = ["src/", "tests/sim/src/"].iter().any(|folder| self.path.starts_with(folder));
        self.path.ends_with("/tests.rs") || !program
    }

    /// The lines before the tests; none in a file of tests.
    pub(crate) fn production(&self) -> Vec<&str> {
        if self.is_tests() {
            return Vec::new();
        }
        self.text.lines().take_while(|line| !["#[cfg(test)]", "#![cfg(test)]"].contains(line)).collect()
    }

    /// The lines of tests, each with its number from 1.
    pub(crate) fn tests(&self) -> Vec<(usize, &str)> {
        let skip = self.production().len();
        self.text.lines().enumerate().skip(skip).map(|(at, line)| (at + 1, line)).collect()
    }
}

/// A line without the comment at its end; empty where all of it is comment. Slashes within a text count as comment only after
/// a blank, which is enough for the checks here.
pub(crate) fn code(line: &str) -> &str {
    if line.trim_start().starts_with("//") {
        return "";
    }
    line.find(" // ").map_or(line, |at| &line[..at])
}
