//! Names of tables, pipelines and source partitions.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use iceberg::{NamespaceIdent, TableIdent};
use serde::{Deserialize, Serialize};

use crate::error::{Error, ErrorKind, Result};

/// The ref that is meant where nothing else is said.
pub const MAIN: &str = "main";

/// A table within a catalog: one or more namespace levels and a name, none of them empty.
///
/// As text: the parts joined by dots. A part that holds a dot can be named in a catalog, not in that text.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TableName {
    namespace: Vec<String>,
    name: String,
}

impl TableName {
    /// A table name of its parts.
    ///
    /// # Errors
    /// `Config` when the namespace has no level or a part is empty.
    pub fn new(namespace: Vec<String>, name: impl Into<String>) -> Result<Self> {
        let name = name.into();
        if namespace.is_empty() || name.is_empty() || namespace.iter().any(String::is_empty) {
            let text = namespace.iter().chain([&name]).map(String::as_str).collect::<Vec<_>>().join(".");
            return Err(Error::new(ErrorKind::Config, format!("{text:?} is no table name"))
                .with_hint("write it as namespace.table, every part non-empty"));
        }
        Ok(Self { namespace, name })
    }

    /// The namespace's levels, outermost first.
    pub fn namespace(&self) -> &[String] {
        &self.namespace
    }

    /// The name without its namespace.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The table beside this one whose name has `suffix` appended.
    #[must_use]
    pub fn with_suffix(&self, suffix: &str) -> Self {
        Self { namespace: self.namespace.clone(), name: format!("{}{suffix}", self.name) }
    }
}

impl fmt::Display for TableName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for level in &self.namespace {
            write!(f, "{level}.")?;
        }
        f.write_str(&self.name)
    }
}

impl FromStr for TableName {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let mut parts: Vec<String> = text.split('.').map(str::to_owned).collect();
        let name = parts.pop().unwrap_or_default();
        Self::new(parts, name)
    }
}

impl TryFrom<&TableName> for TableIdent {
    type Error = Error;

    fn try_from(table: &TableName) -> Result<Self> {
        let namespace = NamespaceIdent::from_vec(table.namespace.clone())
            .map_err(|e| Error::new(ErrorKind::Config, format!("namespace of {table}")).with_source(e))?;
        Ok(Self::new(namespace, table.name.clone()))
    }
}

/// A pipeline's configured name: the owner of its checkpoints. Renaming a pipeline is an operation, not an edit.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct PipelineName(Arc<str>);

/// One independently ordered part of a source: a Kafka topic and partition, a followed folder, a replay shard.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct PartitionId(Arc<str>);

macro_rules! text_id {
    ($name:ident) => {
        impl $name {
            /// The id of this text.
            pub fn new(text: impl Into<Arc<str>>) -> Self {
                Self(text.into())
            }

            /// The id as text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    };
}

text_id!(PipelineName);
text_id!(PartitionId);

/// Characters of a pipeline's name that its files show.
const MARK_NAME_MAX: usize = 40;

impl PipelineName {
    /// How the names of this pipeline's data files begin, and those of no other pipeline: a witness of it in a table that has
    /// lost its records. As much of the name as an object's may hold, for people, and a hash of the whole. Stays the same for
    /// ever: files that are there have it.
    pub fn file_mark(&self) -> String {
        let plain = |c: char| if c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.') { c } else { '_' };
        let name: String = self.0.chars().take(MARK_NAME_MAX).map(plain).collect();
        // FNV-1a of 64 bits: a handful of names, and a collision only asks a person.
        let mix = |hash: u64, byte: u8| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
        let hash = self.0.bytes().fold(0xcbf2_9ce4_8422_2325, mix);
        format!("frazil-{name}-{hash:016x}")
    }

    /// Whether the file at `location` was written by this pipeline.
    pub fn has_written(&self, location: &str) -> bool {
        let name = location.rsplit('/').next().unwrap_or_default();
        name.strip_prefix(self.file_mark().as_str()).is_some_and(|rest| rest.starts_with('-'))
    }
}

/// The mark of the pipeline that wrote the file at `location`, where its name begins with one: who rewrites the file gives it on.
pub fn mark_in(location: &str) -> Option<&str> {
    let name = location.rsplit('/').next()?;
    let is_hash =
        |part: &str| part.len() == 16 && part.bytes().all(|b| b.is_ascii_hexdigit() && !b.is_ascii_uppercase());
    let mut end = name.len();
    // From the end: a pipeline's own name may look like a hash.
    for (at, _) in name.rmatch_indices('-') {
        if end < name.len() && is_hash(&name[at + 1..end]) {
            return Some(&name[..end]).filter(|mark| mark.starts_with("frazil-") && at > "frazil-".len() - 1);
        }
        end = at;
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pipelines_files_are_told_from_those_of_every_other_whatever_its_name() {
        let odd = ["a/b@main %?#\u{fc}", "a_b", "a/b", "a b", "", "..", "_", &"x".repeat(300), &"x".repeat(301)];
        for name in odd {
            let pipeline = PipelineName::new(name);
            let mark = pipeline.file_mark();
            assert!(mark.len() < 80 && mark.bytes().all(|b| b.is_ascii_graphic() && !b"/%?#*:".contains(&b)), "{mark}");
            let location = format!("s3://b/t/data/day=1/{mark}-0193-00001.parquet");
            for other in odd {
                assert_eq!(PipelineName::new(other).has_written(&location), other == name, "{other:?} {location}");
            }
        }
        assert_eq!(PipelineName::new("orders").file_mark(), "frazil-orders-00125d9250be8b4c");
        assert!(!PipelineName::new("orders").has_written("s3://b/00000-0193-00001.parquet"));
    }

    #[test]
    fn a_file_that_is_rewritten_keeps_the_mark_of_its_pipeline() {
        for pipeline in ["orders", "", "a-0123456789abcdef", "a/b", "-"].map(PipelineName::new) {
            let first = format!("s3://b/t/{}-0193e0a2-7b1c-7000-8000-0123456789ab-00001.parquet", pipeline.file_mark());
            let mark = mark_in(&first).expect("a mark").to_owned();
            assert_eq!(mark, pipeline.file_mark());
            let second = format!("s3://b/t/{mark}-compact-0193e0a2-7b1c-7000-8000-0123456789ab-00001.parquet");
            assert_eq!(mark_in(&second), Some(mark.as_str()));
            assert!(pipeline.has_written(&second));
        }
        for other in ["compact-0193e0a2-7b1c-7000-8000-0123456789ab-00001.parquet", "x-0123456789abcdef-1", "-", ""] {
            assert_eq!(mark_in(other), None, "{other:?}");
        }
    }

    #[test]
    fn a_table_name_reads_back_what_it_prints() {
        let name: TableName = "lake.raw.shop".parse().expect("valid");
        assert_eq!((name.namespace().len(), name.name(), name.to_string().as_str()), (2, "shop", "lake.raw.shop"));
    }

    #[test]
    fn a_table_name_without_namespace_or_with_an_empty_part_is_refused() {
        for bad in ["shop", "", ".", "a..b", "a.", ".b"] {
            assert!(bad.parse::<TableName>().is_err(), "{bad:?}");
        }
    }
}
