//! The table properties that a commit honours.

use std::collections::HashMap;
use std::str::FromStr;
use std::time::Duration;

use crate::error::{Error, ErrorKind, Result};
use crate::model::table::TableState;

/// `commit.*` and `write.metadata.path` of a table (spec defaults of the reference implementation).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CommitProperties {
    /// `commit.retry.num-retries`: conflicts after which a commit is handed back.
    pub retries: u32,
    /// `commit.retry.min-wait-ms`.
    pub wait_min: Duration,
    /// `commit.retry.max-wait-ms`.
    pub wait_max: Duration,
    /// `commit.retry.total-timeout-ms`: time spent on conflicts after which a commit is handed back.
    pub deadline: Duration,
    /// `commit.manifest-merge.enabled`.
    pub merge: bool,
    /// `commit.manifest.min-count-to-merge`.
    pub merge_count_min: usize,
    /// `commit.manifest.target-size-bytes`.
    pub manifest_size: i64,
    /// `write.metadata.path`: the folder of manifests and lists.
    pub metadata_folder: String,
}

impl CommitProperties {
    /// The properties of a table.
    ///
    /// # Errors
    /// `Config` for a value that is none, naming table, property and value.
    pub fn of(state: &TableState) -> Result<Self> {
        let properties = state.metadata.properties();
        let read = Read { table: &state.name.to_string(), properties };
        let folder = properties.get("write.metadata.path").map_or_else(
            || format!("{}/metadata", state.metadata.location().trim_end_matches('/')),
            |path| path.trim_end_matches('/').to_owned(),
        );
        Ok(Self {
            retries: read.value("commit.retry.num-retries", 4)?,
            wait_min: Duration::from_millis(read.value("commit.retry.min-wait-ms", 100)?),
            wait_max: Duration::from_millis(read.value("commit.retry.max-wait-ms", 60_000)?),
            deadline: Duration::from_millis(read.value("commit.retry.total-timeout-ms", 1_800_000)?),
            merge: read.value("commit.manifest-merge.enabled", true)?,
            merge_count_min: read.value("commit.manifest.min-count-to-merge", 100)?,
            manifest_size: read.value("commit.manifest.target-size-bytes", 8 * 1024 * 1024)?,
            metadata_folder: folder,
        })
    }
}

struct Read<'a> {
    table: &'a str,
    properties: &'a HashMap<String, String>,
}

impl Read<'_> {
    fn value<T: FromStr>(&self, key: &str, default: T) -> Result<T> {
        let Some(text) = self.properties.get(key) else {
            return Ok(default);
        };
        text.trim().parse().map_err(|_| {
            Error::new(ErrorKind::Config, format!("table {}: property {key} cannot be {text:?}", self.table))
                .with_hint("set the table property to a valid value, or remove it")
        })
    }
}
