//! URLs of a REST catalog: every part of a path percent-encoded, levels of a namespace joined by the server's separator.

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};

use crate::error::{Error, ErrorKind, Result};
use crate::model::ids::TableName;

/// All but the unreserved characters of RFC 3986.
const RESERVED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'_').remove(b'.').remove(b'~');

/// The unit separator, encoded: what joins levels where the server says nothing.
const SEPARATOR_DEFAULT: &str = "%1F";

/// Builds the URLs of one catalog.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Paths {
    base: String,
    prefix: String,
    separator: String,
}

impl Paths {
    /// URLs below `base`, the URI before `/v1`.
    ///
    /// # Errors
    /// `Config` when `base` is no http or https URL, or holds a password.
    pub(super) fn new(base: &str) -> Result<Self> {
        let wrong = |what: &str, hint: &str| {
            Err(Error::new(ErrorKind::Config, format!("the catalog's uri {what}")).with_hint(hint.to_owned()))
        };
        match url::Url::parse(base) {
            Err(e) => wrong(&format!("{base:?} is no URL: {e}"), "write it as https://host/path"),
            Ok(url) if !matches!(url.scheme(), "http" | "https") => {
                wrong(&format!("has the scheme {}", url.scheme()), "use http or https")
            }
            Ok(url) if !url.username().is_empty() || url.password().is_some() => {
                wrong("holds a user or password", "use bearer or oauth2 instead")
            }
            Ok(_) => {
                let base = base.trim_end_matches('/').to_owned();
                Ok(Self { base, prefix: String::new(), separator: SEPARATOR_DEFAULT.to_owned() })
            }
        }
    }

    /// The same with what the server's configuration says; prefix and separator come encoded from it.
    ///
    /// # Errors
    /// `Config` when the server names a base URI that is wrong, or one without TLS where we came by TLS.
    pub(super) fn configured(self, uri: Option<&str>, prefix: Option<&str>, separator: Option<&str>) -> Result<Self> {
        let base = match uri {
            Some(uri) if self.base.starts_with("https:") && !uri.starts_with("https:") => {
                return Err(Error::new(ErrorKind::Config, format!("the catalog sends us from https to {uri}"))
                    .with_hint("correct the uri in the server's configuration"));
            }
            Some(uri) => Self::new(uri)?.base,
            None => self.base,
        };
        let prefix = prefix.map(|p| p.trim_matches('/')).filter(|p| !p.is_empty());
        Ok(Self {
            base,
            prefix: prefix.map_or_else(String::new, |p| format!("/{p}")),
            separator: separator.filter(|s| !s.is_empty()).unwrap_or(SEPARATOR_DEFAULT).to_owned(),
        })
    }

    /// The base, to name the catalog in messages.
    pub(super) fn base(&self) -> &str {
        &self.base
    }

    pub(super) fn config(&self, warehouse: Option<&str>) -> String {
        let query = warehouse.map_or_else(String::new, |w| format!("?warehouse={}", encode(w)));
        format!("{}/v1/config{query}", self.base)
    }

    pub(super) fn namespaces(&self) -> String {
        format!("{}/v1{}/namespaces", self.base, self.prefix)
    }

    /// One page of the namespaces below `parent`.
    pub(super) fn namespaces_page(&self, parent: &[String], page: &str) -> Result<String> {
        let below = match parent {
            [] => String::new(),
            _ => format!("&parent={}", self.levels(parent)?),
        };
        Ok(format!("{}?pageToken={}{below}", self.namespaces(), encode(page)))
    }

    pub(super) fn namespace(&self, namespace: &[String]) -> Result<String> {
        Ok(format!("{}/{}", self.namespaces(), self.levels(namespace)?))
    }

    pub(super) fn tables(&self, namespace: &[String]) -> Result<String> {
        Ok(format!("{}/tables", self.namespace(namespace)?))
    }

    /// One page of the tables of a namespace.
    pub(super) fn tables_page(&self, namespace: &[String], page: &str) -> Result<String> {
        Ok(format!("{}?pageToken={}", self.tables(namespace)?, encode(page)))
    }

    pub(super) fn table(&self, table: &TableName) -> Result<String> {
        Ok(format!("{}/{}", self.tables(table.namespace())?, segment(encode(table.name()))?))
    }

    pub(super) fn register(&self, namespace: &[String]) -> Result<String> {
        Ok(format!("{}/register", self.namespace(namespace)?))
    }

    pub(super) fn rename(&self) -> String {
        format!("{}/v1{}/tables/rename", self.base, self.prefix)
    }

    fn levels(&self, namespace: &[String]) -> Result<String> {
        let levels: Vec<_> = namespace.iter().map(|level| encode(level)).collect();
        segment(levels.join(&self.separator))
    }
}

fn encode(text: &str) -> String {
    utf8_percent_encode(text, RESERVED).to_string()
}

/// A path's part, if it is one: `.` and `..`, encoded or not, lead elsewhere.
fn segment(part: String) -> Result<String> {
    if matches!(part.as_str(), "" | "." | "..") {
        return Err(Error::new(ErrorKind::Input, format!("{part:?} cannot be a name in a REST catalog")));
    }
    Ok(part)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_part_of_a_path_is_encoded() {
        let paths = Paths::new("https://c.example/api/catalog/").expect("valid");
        let table = TableName::new(vec!["a.b".to_owned(), "c d/ü%".to_owned()], "t+1/x?y").expect("valid");
        assert_eq!(
            paths.table(&table).expect("valid"),
            "https://c.example/api/catalog/v1/namespaces/a.b%1Fc%20d%2F%C3%BC%25/tables/t%2B1%2Fx%3Fy"
        );
        assert_eq!(
            paths.config(Some("arn:aws:s3tables:eu:1:bucket/b")),
            "https://c.example/api/catalog/v1/config?warehouse=arn%3Aaws%3As3tables%3Aeu%3A1%3Abucket%2Fb"
        );
        let up = TableName::new(vec!["..".to_owned()], "t").expect("valid");
        assert_eq!(paths.table(&up).expect_err("leads up").kind(), ErrorKind::Input);
    }

    #[test]
    fn prefix_and_separator_come_from_the_server_as_they_are() {
        let paths = Paths::new("http://c:8181").expect("valid");
        let paths = paths.configured(None, Some("catalogs/main"), Some("%2E")).expect("valid");
        let namespace = ["a".to_owned(), "b".to_owned()];
        assert_eq!(paths.tables(&namespace).expect("valid"), "http://c:8181/v1/catalogs/main/namespaces/a%2Eb/tables");
        assert_eq!(
            paths.namespaces_page(&namespace, "p=1").expect("valid"),
            "http://c:8181/v1/catalogs/main/namespaces?pageToken=p%3D1&parent=a%2Eb"
        );
    }

    #[test]
    fn a_uri_with_a_password_another_scheme_or_a_step_down_from_tls_is_refused_without_showing_it() {
        for bad in ["https://me:geheim@c", "ftp://c", "c:8181/x y", "nothing"] {
            let error = Paths::new(bad).expect_err(bad);
            assert_eq!(error.kind(), ErrorKind::Config, "{bad}");
            assert!(!format!("{error:?}").contains("geheim"), "{error:?}");
        }
        let secure = Paths::new("https://c").expect("valid");
        assert!(secure.configured(Some("http://c"), None, None).is_err());
    }
}
