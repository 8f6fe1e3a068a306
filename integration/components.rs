//! What `scripts/components` has started, as it prints it.

use std::collections::BTreeMap;
use std::fs::OpenOptions;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

/// The environment variable that names the file with the output of `scripts/components env`.
const STATE: &str = "FRAZIL_COMPONENTS_STATE";

/// The file in the run's folder in which tests note what they leave out; `scripts/test` ends with it.
const LEFT_OUT: &str = "left-out";

/// The value of one line; the test ends with a sentence where there is none.
pub(crate) fn value(key: &str) -> &'static str {
    match known().get(key) {
        Some(value) => value,
        None => panic!(
            "{key} is not in {STATE}: integration tests need running components; use `scripts/test integration`, which starts them"
        ),
    }
}

/// Whether a component that may be left out is there. Where it is `none`, notes what is left out and why, for what a test
/// prints that passes is lost.
pub(crate) fn is_there(key: &str, what: &str) -> bool {
    let there = value(key) != "none";
    if !there {
        let file = OpenOptions::new().create(true).append(true).open(Path::new(value("RUN_FOLDER")).join(LEFT_OUT));
        file.and_then(|mut file| file.write_all(format!("{what}\n").as_bytes())).expect("note what is left out");
    }
    there
}

/// The folder with the real rows that `integration/data/fetch` brings.
pub(crate) fn rows(name: &str) -> PathBuf {
    let path = Path::new(value("DATA_FOLDER")).join(name);
    assert!(path.is_file(), "{} is missing: run integration/data/fetch", path.display());
    path
}

/// An empty folder for one test, below the run's: what it leaves is there to look at when it fails.
pub(crate) fn scratch(test: &str) -> PathBuf {
    let folder = Path::new(value("RUN_FOLDER")).join(test);
    if folder.exists() {
        std::fs::remove_dir_all(&folder).expect("empty the test's folder");
    }
    std::fs::create_dir_all(&folder).expect("make the test's folder");
    folder
}

/// A file of this checkout.
pub(crate) fn checkout(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

fn known() -> &'static BTreeMap<String, String> {
    static KNOWN: OnceLock<BTreeMap<String, String>> = OnceLock::new();
    KNOWN.get_or_init(|| {
        #[allow(clippy::disallowed_methods)]
        // a test binary has no configuration file: this one variable leads to everything
        let Ok(file) = std::env::var(STATE) else { return BTreeMap::new() };
        let text = std::fs::read_to_string(&file).unwrap_or_else(|e| panic!("{STATE} names {file}: {e}"));
        text.lines().filter_map(|line| line.split_once('=')).map(|(k, v)| (k.to_owned(), v.to_owned())).collect()
    })
}
