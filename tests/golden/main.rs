//! Golden tests: what people see, kept as files. `UPDATE_GOLDEN=1` writes the files anew; read the difference before
//! committing it.

#![allow(clippy::expect_used, clippy::panic)] // helpers of tests are not seen as tests

mod cli;
mod config;
mod connect;
mod metrics;

use std::path::{Path, PathBuf};

/// The top of the repository.
fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

/// Compares `actual` with the golden file at `path`, below the top of the repository.
fn assert_golden(path: impl AsRef<Path>, actual: &str) {
    let path = root().join(path);
    #[allow(clippy::disallowed_methods)] // a switch of the test runner, not a setting of the program
    let update = std::env::var_os("UPDATE_GOLDEN").is_some();
    if update {
        if let Some(folder) = path.parent() {
            std::fs::create_dir_all(folder).expect("the folder of golden files is writable");
        }
        std::fs::write(&path, actual).expect("the golden file is writable");
        return;
    }
    let expected = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(
        expected == actual,
        "{} differs; UPDATE_GOLDEN=1 writes it anew\n--- expected\n{expected}\n--- actual\n{actual}",
        path.display()
    );
}
