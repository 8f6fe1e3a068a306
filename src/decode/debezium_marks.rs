//! Values that were not sent: a database logs a large value only when it changes, and Debezium puts a mark in its place.

use std::collections::BTreeSet;

use base64::Engine;
use md5::{Digest, Md5};
use memchr::memmem::Finder;
use serde_json::Value;
use uuid::{Builder, Uuid};

use crate::decode::append::BASE64;
use crate::decode::fault::Fault;
use crate::decode::scan::Scanner;

/// The mark, in each form that it takes in JSON.
#[derive(Debug)]
pub(crate) struct Marks {
    /// What is looked for first: most rows have none.
    signs: Vec<Finder<'static>>,
    /// Whole values that are the mark.
    values: BTreeSet<String>,
}

/// An image without its marks.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Blanked {
    /// Its text, with null in their places.
    pub(crate) text: String,
    /// Names of the fields that had one.
    pub(crate) names: Vec<String>,
}

impl Marks {
    /// The marks of a connector whose `unavailable.value.placeholder` is `text`.
    pub(crate) fn new(text: &str) -> Self {
        let string = Value::String(text.to_owned()).to_string();
        let bytes = Value::String(BASE64.encode(text)).to_string();
        let numbers: Vec<String> = text.bytes().map(|byte| byte.cast_signed().to_string()).collect();
        let numbers = format!("[{}]", numbers.join(","));
        let uuid = Value::String(uuid_of(text).to_string()).to_string();
        let signs = [&string, &bytes, &numbers, &uuid].map(|sign| Finder::new(sign.as_bytes()).into_owned());
        // A column of texts, bytes, a list of texts, of UUIDs or of numbers, a map of texts.
        let lists = [&string, &bytes, &uuid].map(|value| format!("[{value}]"));
        let mut values = BTreeSet::from(lists);
        values.extend([format!("{{{string}:{string}}}"), string, bytes, numbers]);
        Self { signs: signs.into(), values }
    }

    /// An image's text without the marks, where it has some among its own fields.
    ///
    /// # Errors
    /// A fault of the row when it is no object.
    pub(crate) fn blank(&self, image: &str) -> Result<Option<Blanked>, Fault> {
        if !self.signs.iter().any(|sign| sign.find(image.as_bytes()).is_some()) {
            return Ok(None);
        }
        let mut scanner = Scanner::new(image);
        scanner.peek()?;
        scanner.open()?;
        let (mut text, mut names) = (String::with_capacity(image.len()), Vec::new());
        while scanner.more(b'}', text.is_empty())? {
            let key = scanner.key()?;
            let mut value = scanner.skip()?;
            if self.values.contains(value) {
                names.push(key.unescape()?.into_owned());
                value = "null";
            }
            text.push(if text.is_empty() { '{' } else { ',' });
            text.extend(["\"", key.raw, "\":", value]);
        }
        text.push('}');
        Ok((!names.is_empty()).then_some(Blanked { text, names }))
    }
}

/// The UUID of a text as Java makes it (`nameUUIDFromBytes`): of version 3, and without a namespace.
pub(crate) fn uuid_of(text: &str) -> Uuid {
    Builder::from_md5_bytes(Md5::digest(text).into()).into_uuid()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mark_in_a_list_of_uuids_is_that_of_java() {
        let marks = Marks::new(crate::config::UNAVAILABLE);
        let image = r#"{"a":["b68a35a7-17ad-35b3-af2a-ae46edb4545a"],"b":"b68a35a7-17ad-35b3-af2a-ae46edb4545a"}"#;
        let blanked = marks.blank(image).expect("valid").expect("has one");
        assert_eq!(blanked.text, r#"{"a":null,"b":"b68a35a7-17ad-35b3-af2a-ae46edb4545a"}"#);
    }

    #[test]
    fn each_form_of_the_mark_is_blanked_and_nothing_else() {
        let marks = Marks::new("__ab");
        let image = r#"{"a":"__ab","b":"X19hYg==","c":["__ab"],"d":[95,95,97,98],"é\n":{"__ab":"__ab"},"f":"x __ab","g":["__ab",1],"h":{"i":"__ab"}}"#;
        let blanked = marks.blank(image).expect("valid").expect("has some");
        assert_eq!(blanked.names, ["a", "b", "c", "d", "é\n"]);
        let expected =
            r#"{"a":null,"b":null,"c":null,"d":null,"é\n":null,"f":"x __ab","g":["__ab",1],"h":{"i":"__ab"}}"#;
        assert_eq!(blanked.text, expected);
        assert_eq!(marks.blank(r#"{"f":"x __ab","h":{"i":"__ab"}}"#).expect("valid"), None);
        assert_eq!(marks.blank("{}").expect("valid"), None);
        assert!(marks.blank(r#"["__ab"]"#).is_err());
    }
}
