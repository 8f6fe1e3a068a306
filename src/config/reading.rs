//! One value: from what was written to what a field takes.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::Path;

use crate::config::document::{Node, Shape, suggest, tighten};
use crate::config::problem::Problems;
use crate::config::quantity::{self, BYTES_HINT, DURATION_HINT, show_bytes, show_millis};
use crate::config::reference::Kind;
use crate::config::resolve::Surroundings;
use crate::config::tls::READABLE;
use crate::config::window::{WINDOW_HINT, Window};
use crate::config::{ReadFile, Secret};

/// The shortest and the longest window that a share is taken over.
const WINDOW_MS: (u64, u64) = (1_000, 86_400_000);

/// A checked value.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Value {
    Text(String),
    Address(SocketAddr),
    Flag(bool),
    Count(u64),
    Bytes(u64),
    Millis(u64),
    /// With its window in milliseconds.
    Share(f64, Option<u64>),
    Secret(Secret),
    List(Vec<String>),
    Texts(BTreeMap<String, String>),
    Secrets(BTreeMap<String, Secret>),
    File(ReadFile),
}

/// Reads the value of one setting; what is wrong goes to the problems.
pub(crate) struct Reader<'a> {
    pub(crate) around: &'a Surroundings<'a>,
    pub(crate) problems: &'a mut Problems,
    pub(crate) path: &'a [&'a str],
}

impl Reader<'_> {
    pub(crate) fn read(&mut self, node: &Node, kind: Kind) -> Option<Value> {
        match kind {
            Kind::Text | Kind::Path => self.text(node).map(Value::Text),
            Kind::Character => self.character(node).map(Value::Text),
            Kind::File => self.file(node),
            Kind::Glob => self.glob(node),
            Kind::Uri => self.uri(node),
            Kind::Address => self.address(node),
            Kind::Flag => self.flag(node),
            Kind::Count(low, high) => self.count(node, low, high),
            Kind::Bytes(low, high) => {
                let value = self.quantity(node, "bytes", quantity::bytes, BYTES_HINT)?;
                self.bounded(node, value, low, high, show_bytes).map(Value::Bytes)
            }
            Kind::Duration(low, high) => {
                let value = self.quantity(node, "a duration", quantity::millis, DURATION_HINT)?;
                self.bounded(node, value, low, high, show_millis).map(Value::Millis)
            }
            Kind::Share => self.share(node),
            Kind::Secret => self.secret(node).map(Value::Secret),
            Kind::Choice(words) => self.choice(node, words).map(Value::Text),
            Kind::Texts => self.map(node, |reader, node| reader.plain(node)).map(Value::Texts),
            Kind::Choices(words) => self.map(node, |reader, node| reader.choice(node, words)).map(Value::Texts),
            Kind::Secrets => self.map(node, |reader, node| reader.option(node)).map(Value::Secrets),
            Kind::List => self.list(node),
            Kind::Window => self.window(node),
        }
    }

    fn wrong(&mut self, node: &Node, message: impl Into<String>, hint: impl Into<String>) {
        self.problems.add_with_hint(&node.place, self.path, message, hint);
    }

    fn text(&mut self, node: &Node) -> Option<String> {
        match &node.shape {
            Shape::Text(text) | Shape::Loose(text) if !text.trim().is_empty() => Some(text.clone()),
            Shape::Text(_) | Shape::Loose(_) => {
                self.wrong(node, "this is empty", "write a text, or remove the setting");
                None
            }
            other => {
                let message = format!("this is {}, but a text belongs here", other.noun());
                self.wrong(node, message, "put it in quotes");
                None
            }
        }
    }

    /// One character: a blank one is one too.
    fn character(&mut self, node: &Node) -> Option<String> {
        if let Shape::Text(text) | Shape::Loose(text) = &node.shape {
            let mut characters = text.chars();
            if let (Some(first), None) = (characters.next(), characters.next())
                && !matches!(first, '\n' | '\r')
            {
                return Some(text.clone());
            }
        }
        let hint = "write one in quotes, a tab as \"\\t\"; rows end where lines do";
        self.wrong(node, format!("{} is not one character within a line", node.shape.show()), hint);
        None
    }

    /// A text, number or flag as text: a value of a table property.
    fn plain(&mut self, node: &Node) -> Option<String> {
        match &node.shape {
            Shape::Text(text) | Shape::Loose(text) => Some(text.clone()),
            Shape::Integer(_) | Shape::Flag(_) | Shape::Float(_) => Some(node.shape.show()),
            other => {
                let message = format!("this is {}, but a text belongs here", other.noun());
                self.wrong(node, message, "put it in quotes");
                None
            }
        }
    }

    fn glob(&mut self, node: &Node) -> Option<Value> {
        let text = self.text(node)?;
        match globset::Glob::new(&text) {
            Ok(_) => Some(Value::Text(text)),
            Err(error) => {
                let message = format!("{text:?} is no glob: {}", error.kind());
                self.wrong(node, message, "`*` matches within a name, `**/` any folders, `{a,b}` one of several");
                None
            }
        }
    }

    fn file(&mut self, node: &Node) -> Option<Value> {
        let path = self.text(node)?;
        match (self.around.read_file)(Path::new(&path)) {
            Ok(bytes) => Some(Value::File(ReadFile { path: path.into(), bytes })),
            Err(error) => {
                self.wrong(node, format!("the file {path} cannot be read: {}", error.kind()), READABLE);
                None
            }
        }
    }

    fn window(&mut self, node: &Node) -> Option<Value> {
        let text = self.text(node)?;
        match Window::parse(&text) {
            Ok(_) => Some(Value::Text(text)),
            Err(message) => {
                self.wrong(node, message, WINDOW_HINT);
                None
            }
        }
    }

    fn uri(&mut self, node: &Node) -> Option<Value> {
        let text = self.text(node)?;
        match url::Url::parse(&text) {
            Ok(url) if !url.username().is_empty() || url.password().is_some() => {
                self.wrong(node, "credentials do not belong into a URI", "use the settings for them, such as token");
                None
            }
            Ok(url) if matches!(url.scheme(), "http" | "https") && url.has_host() => Some(Value::Text(text)),
            _ => {
                // Not shown: whoever writes credentials into a malformed URI must not find them in a log.
                self.wrong(node, "this is no http or https URI", "write it as \"https://host/path\"");
                None
            }
        }
    }

    fn address(&mut self, node: &Node) -> Option<Value> {
        let text = self.text(node)?;
        match text.parse() {
            Ok(address) => Some(Value::Address(address)),
            Err(_) => {
                let hint = "write an IP address and a port, such as \"127.0.0.1:9187\" or \"[::1]:9187\"";
                self.wrong(node, format!("{} is no address", node.shape.show()), hint);
                None
            }
        }
    }

    fn flag(&mut self, node: &Node) -> Option<Value> {
        match &node.shape {
            Shape::Flag(flag) => Some(Value::Flag(*flag)),
            Shape::Loose(text) if text == "true" => Some(Value::Flag(true)),
            Shape::Loose(text) if text == "false" => Some(Value::Flag(false)),
            other => {
                self.wrong(
                    node,
                    format!("{} is neither true nor false", other.show()),
                    "write true or false, without quotes",
                );
                None
            }
        }
    }

    fn count(&mut self, node: &Node, low: u64, high: u64) -> Option<Value> {
        let value = match &node.shape {
            Shape::Integer(value) => u64::try_from(*value).ok(),
            Shape::Loose(text) => text.trim().parse().ok(),
            _ => None,
        };
        match value {
            Some(value) => self.bounded(node, value, low, high, |value| value.to_string()).map(Value::Count),
            None => {
                let hint = format!("write a number from {low} to {high}, without quotes");
                self.wrong(node, format!("{} is no whole number", node.shape.show()), hint);
                None
            }
        }
    }

    fn quantity(&mut self, node: &Node, noun: &str, parse: fn(&str) -> Option<u64>, hint: &str) -> Option<u64> {
        let value = match &node.shape {
            Shape::Text(text) | Shape::Loose(text) => parse(text),
            _ => None,
        };
        if value.is_none() {
            let is = if noun.starts_with("a ") { "is not" } else { "are not" };
            self.wrong(node, format!("{} {is} {noun}", node.shape.show()), hint);
        }
        value
    }

    fn bounded(&mut self, node: &Node, value: u64, low: u64, high: u64, show: fn(u64) -> String) -> Option<u64> {
        if (low..=high).contains(&value) {
            return Some(value);
        }
        let side = if value < low { "too small" } else { "too large" };
        self.wrong(node, format!("{} is {side}", show(value)), format!("from {} to {}", show(low), show(high)));
        None
    }

    fn share(&mut self, node: &Node) -> Option<Value> {
        let value = match &node.shape {
            Shape::Text(text) | Shape::Loose(text) => quantity::share_in(text),
            #[allow(clippy::cast_precision_loss)] // only 0 and 1 pass
            Shape::Integer(value) => (0..=1).contains(value).then_some((*value as f64, None)),
            Shape::Float(value) => (0.0..=1.0).contains(value).then_some((*value, None)),
            _ => None,
        };
        let Some((share, window)) = value else {
            let hint = "write it as \"1%\", \"1% in 5m\" or 0.01, at most 100%";
            self.wrong(node, format!("{} is no share", node.shape.show()), hint);
            return None;
        };
        let Some(window) = window else {
            return Some(Value::Share(share, None));
        };
        let (low, high) = WINDOW_MS;
        self.bounded(node, window, low, high, show_millis).map(|window| Value::Share(share, Some(window)))
    }

    fn choice(&mut self, node: &Node, words: &[&str]) -> Option<String> {
        let text = self.text(node)?;
        if words.contains(&text.as_str()) {
            return Some(text);
        }
        let message = format!("{} is not one of {}", node.shape.show(), words.join(", "));
        self.wrong(node, message, suggest(&text, words));
        None
    }

    fn secret(&mut self, node: &Node) -> Option<Secret> {
        const HINT: &str = "write the text, { file = \"/path\" } or { env = \"NAME\" }";
        let tight = match &node.shape {
            Shape::Loose(text) if text.trim_start().starts_with('{') => tighten(text, &node.place),
            _ => None,
        };
        match &tight.as_ref().unwrap_or(node).shape {
            Shape::Text(text) | Shape::Loose(text) if !text.is_empty() => Some(Secret::new(text.clone())),
            Shape::Text(_) | Shape::Loose(_) => {
                self.wrong(node, "the secret is empty", HINT);
                None
            }
            Shape::Table(nodes) => {
                let mut entries = nodes.iter();
                match (entries.next(), entries.next()) {
                    (Some((way, at)), None) if way == "file" => self.secret_file(at),
                    (Some((way, at)), None) if way == "env" => self.secret_variable(at),
                    _ => {
                        self.wrong(node, "this does not say where the secret is", HINT);
                        None
                    }
                }
            }
            other => {
                let message = format!("this is {}, but a secret belongs here", other.noun());
                self.wrong(node, message, HINT);
                None
            }
        }
    }

    fn secret_file(&mut self, node: &Node) -> Option<Secret> {
        let path = self.text(node)?;
        let read = (self.around.read_file)(Path::new(&path));
        match read.and_then(|bytes| String::from_utf8(bytes).map_err(|_| std::io::ErrorKind::InvalidData.into())) {
            Ok(text) => {
                let text = text.trim_end_matches(['\r', '\n']);
                if text.is_empty() {
                    self.wrong(
                        node,
                        format!("the secret's file {path} is empty"),
                        "put the secret into it, as one line",
                    );
                    return None;
                }
                Some(Secret::new(text))
            }
            Err(error) => {
                let hint = "let the user that runs frazil read it, or name another file";
                self.wrong(node, format!("the secret's file {path} cannot be read: {}", error.kind()), hint);
                None
            }
        }
    }

    fn secret_variable(&mut self, node: &Node) -> Option<Secret> {
        let name = self.text(node)?;
        match self.around.variables.get(&name).filter(|text| !text.is_empty()) {
            Some(text) => Some(Secret::new(text.clone())),
            None => {
                self.wrong(
                    node,
                    format!("the secret's environment variable {name} is not set"),
                    "set it where frazil is started",
                );
                None
            }
        }
    }

    /// An option of a store: a secret, or a number or flag taken as text.
    fn option(&mut self, node: &Node) -> Option<Secret> {
        match &node.shape {
            Shape::Integer(_) | Shape::Flag(_) | Shape::Float(_) => Some(Secret::new(node.shape.show())),
            _ => self.secret(node),
        }
    }

    fn list(&mut self, node: &Node) -> Option<Value> {
        let tight = match &node.shape {
            Shape::Loose(text) => tighten(text, &node.place),
            _ => None,
        };
        let Shape::List(nodes) = &tight.as_ref().unwrap_or(node).shape else {
            let message = format!("this is {}, but a list of texts belongs here", node.shape.noun());
            self.wrong(node, message, "write [\"first\", \"second\"]");
            return None;
        };
        let texts: Vec<Option<String>> = nodes.iter().map(|node| self.text(node)).collect();
        texts.into_iter().collect::<Option<Vec<_>>>().map(Value::List)
    }

    fn map<T>(
        &mut self,
        node: &Node,
        mut read: impl FnMut(&mut Reader<'_>, &Node) -> Option<T>,
    ) -> Option<BTreeMap<String, T>> {
        let tight = match &node.shape {
            Shape::Loose(text) => tighten(text, &node.place),
            _ => None,
        };
        let Shape::Table(nodes) = &tight.as_ref().unwrap_or(node).shape else {
            let message = format!("this is {}, but a table belongs here", node.shape.noun());
            self.wrong(node, message, "write { name = \"value\", other = \"value\" }");
            return None;
        };
        let mut values = BTreeMap::new();
        let mut whole = true;
        for (name, node) in nodes {
            let path: Vec<&str> = self.path.iter().copied().chain([name.as_str()]).collect();
            let mut reader = Reader { around: self.around, problems: self.problems, path: &path };
            match read(&mut reader, node) {
                Some(value) => {
                    values.insert(name.clone(), value);
                }
                None => whole = false,
            }
        }
        whole.then_some(values)
    }
}
