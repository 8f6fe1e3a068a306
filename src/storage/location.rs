//! Locations: the texts by which tables name objects, taken literally.
//!
//! Iceberg writers percent-encode partition values into names, so a `%2F` in a location is three characters of the
//! object's name. Nothing here decodes or encodes: what stands after the store's root *is* the key.

use object_store::path::Path;

use crate::error::{Error, ErrorKind, Result};

/// The kinds of stores that we speak to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Scheme {
    /// Files of this machine: an absolute path or `file:///`.
    Local,
    /// Objects within this process: `memory:///`.
    Memory,
    /// Amazon S3 and what speaks its protocol: `s3://`, `s3a://`, `s3n://`.
    S3,
    /// Google Cloud Storage: `gs://`.
    Gcs,
    /// Azure Blob Storage and Data Lake: `abfss://`, `abfs://`, `az://`, `wasbs://`, `wasb://`.
    Azure,
}

/// A parsed location.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Location {
    /// What answers.
    pub scheme: Scheme,
    /// Bucket, or `container@account.host`; empty for local files.
    pub bucket: String,
    /// The text before the key, as given: `s3a://bucket/`. `root + key` is the location again.
    pub root: String,
    /// The key within the store.
    pub path: Path,
}

impl Location {
    /// Parses a location of an object.
    ///
    /// # Errors
    /// `Config` when it is no absolute location or names no object; `Unsupported` for a scheme or key that no store of
    /// ours can hold.
    pub fn object(text: &str) -> Result<Self> {
        let location = Self::folder(text)?;
        if location.path.is_root() || text.ends_with('/') {
            return Err(bad(text, "names no object").with_hint("give the whole name, without a slash at its end"));
        }
        Ok(location)
    }

    /// Parses a location of a folder: the store's root and a slash at the end are allowed.
    ///
    /// # Errors
    /// As for [`Location::object`].
    pub fn folder(text: &str) -> Result<Self> {
        let (scheme, bucket, root, key) = split(text)?;
        if (key == "/" || key.contains("//") || key.starts_with('/')) && scheme != Scheme::Local {
            return Err(Error::new(
                ErrorKind::Unsupported,
                format!("location {text:?} has an empty folder name, which cannot be addressed"),
            )
            .with_hint("remove the doubled slash from the table's location or warehouse"));
        }
        // On a file system doubled slashes mean one.
        let key = if scheme == Scheme::Local {
            key.split('/').filter(|s| !s.is_empty()).collect::<Vec<_>>().join("/")
        } else {
            key.to_owned()
        };
        let path = Path::parse(&key).map_err(|_| {
            bad(text, "has a folder named . or .. or a control character").with_hint("write the location out in full")
        })?;
        Ok(Self { scheme, bucket, root, path })
    }

    /// The location of `path` in the same store, written as this one was.
    pub fn sibling(&self, path: &Path) -> String {
        format!("{}{path}", self.root)
    }

    /// The store's root as the builders of `object_store` read it.
    pub(super) fn url(&self) -> String {
        match self.scheme {
            Scheme::Local => "file:///".to_owned(),
            Scheme::Memory => format!("memory://{}/", self.bucket),
            Scheme::S3 => format!("s3://{}/", self.bucket),
            Scheme::Gcs => format!("gs://{}/", self.bucket),
            Scheme::Azure => format!("abfss://{}/", self.bucket.replacen(".blob.", ".dfs.", 1)),
        }
    }
}

/// `(scheme, bucket, root, key)` of a location.
fn split(text: &str) -> Result<(Scheme, String, String, &str)> {
    if let Some(key) = text.strip_prefix('/') {
        return Ok((Scheme::Local, String::new(), "/".to_owned(), key));
    }
    let Some((name, rest)) = text.split_once(':').filter(|(name, _)| {
        !name.is_empty() && name.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '+' | '-' | '.'))
    }) else {
        return Err(bad(text, "is no absolute location")
            .with_hint("write an absolute path, or a URL such as s3://bucket/folder/file"));
    };
    let scheme = match name.to_ascii_lowercase().as_str() {
        "file" => Scheme::Local,
        "memory" => Scheme::Memory,
        "s3" | "s3a" | "s3n" => Scheme::S3,
        "gs" => Scheme::Gcs,
        "abfss" | "abfs" | "az" | "wasbs" | "wasb" => Scheme::Azure,
        other => {
            return Err(Error::new(
                ErrorKind::Unsupported,
                format!("location {text:?} has the scheme {other:?}, which is not supported"),
            )
            .with_hint("use an absolute path or file, memory, s3, s3a, gs, abfss or az"));
        }
    };
    let Some(after) = rest.strip_prefix("//") else {
        // `file:/path` is what Hadoop writes.
        return match (scheme, rest.strip_prefix('/')) {
            (Scheme::Local | Scheme::Memory, Some(key)) => Ok((scheme, String::new(), format!("{name}:/"), key)),
            _ => Err(bad(text, "lacks the // after its scheme").with_hint("write scheme://bucket/folder/file")),
        };
    };
    let (bucket, key) = after.split_once('/').unwrap_or((after, ""));
    let root = format!("{name}://{bucket}/");
    match scheme {
        Scheme::Local if bucket.is_empty() || bucket == "localhost" => Ok((scheme, String::new(), root, key)),
        Scheme::Local => Err(bad(text, "names another machine").with_hint("write file:/// and an absolute path")),
        Scheme::Memory => Ok((scheme, bucket.to_owned(), root, key)),
        _ if bucket.is_empty() => Err(bad(text, "names no bucket").with_hint("write scheme://bucket/folder/file")),
        _ if bucket
            .chars()
            .any(|c| c.is_whitespace() || c.is_control() || matches!(c, '?' | '#' | ':' | '%' | '\\')) =>
        {
            Err(bad(text, "has a character in its bucket that no bucket has"))
        }
        _ => Ok((scheme, bucket.to_owned(), root, key)),
    }
}

fn bad(text: &str, why: &str) -> Error {
    Error::new(ErrorKind::Config, format!("location {text:?} {why}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_form_of_a_location_is_taken_literally() {
        let table: &[(&str, Scheme, &str, &str)] = &[
            ("/data/t/f.parquet", Scheme::Local, "", "data/t/f.parquet"),
            ("/data//t/f.parquet", Scheme::Local, "", "data/t/f.parquet"),
            ("file:///data/t/a=x%2Fy/f", Scheme::Local, "", "data/t/a=x%2Fy/f"),
            ("file:/data/f", Scheme::Local, "", "data/f"),
            ("file://localhost/data/f", Scheme::Local, "", "data/f"),
            ("memory:///w/t/b= z/f.parquet", Scheme::Memory, "", "w/t/b= z/f.parquet"),
            ("memory:/w/f", Scheme::Memory, "", "w/f"),
            ("memory://w/f", Scheme::Memory, "w", "f"),
            ("s3://bucket/a=x%2Fy/b= z/f.parquet", Scheme::S3, "bucket", "a=x%2Fy/b= z/f.parquet"),
            ("s3a://bucket.name/k?x#y", Scheme::S3, "bucket.name", "k?x#y"),
            ("S3://bucket/k", Scheme::S3, "bucket", "k"),
            ("gs://bucket/ключ/ü", Scheme::Gcs, "bucket", "ключ/ü"),
            ("abfss://c@acct.dfs.core.windows.net/k", Scheme::Azure, "c@acct.dfs.core.windows.net", "k"),
            ("az://container/k+1&2", Scheme::Azure, "container", "k+1&2"),
        ];
        for (text, scheme, bucket, key) in table {
            let location = Location::object(text).expect(text);
            assert_eq!((&location.scheme, location.bucket.as_str(), location.path.as_ref()), (scheme, *bucket, *key));
            if !text.contains("data//t") {
                assert_eq!(location.sibling(&location.path), *text, "the text comes back");
            }
        }
    }

    #[test]
    fn a_bad_location_is_refused_with_its_reason() {
        let table: &[(&str, ErrorKind, &str)] = &[
            ("", ErrorKind::Config, r#"location "" is no absolute location"#),
            ("data/f", ErrorKind::Config, r#"location "data/f" is no absolute location"#),
            ("./f", ErrorKind::Config, r#"location "./f" is no absolute location"#),
            ("/a/../f", ErrorKind::Config, r#"location "/a/../f" has a folder named . or .. or a control character"#),
            ("/a/\u{1}", ErrorKind::Config, r#"location "/a/\u{1}" has a folder named . or .. or a control character"#),
            ("/a/", ErrorKind::Config, r#"location "/a/" names no object"#),
            ("s3://bucket", ErrorKind::Config, r#"location "s3://bucket" names no object"#),
            ("s3:///k", ErrorKind::Config, r#"location "s3:///k" names no bucket"#),
            ("s3:k", ErrorKind::Config, r#"location "s3:k" lacks the // after its scheme"#),
            (
                "s3://a b/k",
                ErrorKind::Config,
                r#"location "s3://a b/k" has a character in its bucket that no bucket has"#,
            ),
            ("file://host/k", ErrorKind::Config, r#"location "file://host/k" names another machine"#),
            (
                "hdfs://nn/k",
                ErrorKind::Unsupported,
                r#"location "hdfs://nn/k" has the scheme "hdfs", which is not supported"#,
            ),
            (
                "s3://b/w//t/f",
                ErrorKind::Unsupported,
                r#"location "s3://b/w//t/f" has an empty folder name, which cannot be addressed"#,
            ),
        ];
        for (text, kind, sentence) in table {
            let error = Location::object(text).expect_err(text);
            assert_eq!((error.kind(), error.to_string().as_str()), (*kind, *sentence));
        }
    }
}
