//! A connector's properties, as its JSON has them, over those of the worker.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use crate::error::{Context, Error, ErrorKind, Result};
use crate::migrate::note::{Fate, Note};

/// Classes of the sink: Apache's, and the one that it came from.
const CLASSES: [&str; 2] =
    ["org.apache.iceberg.connect.IcebergSinkConnector", "io.tabular.iceberg.connect.IcebergSinkConnector"];

/// Properties, and what became of them so far.
#[derive(Debug, Clone, Default)]
pub struct Connector {
    /// Its name.
    pub name: String,
    properties: BTreeMap<String, String>,
    worker: BTreeMap<String, String>,
    seen: BTreeSet<String>,
    notes: Vec<Note>,
}

impl Connector {
    /// Reads `{"name", "config"}` or the bare properties. `worker` is the worker's file of properties, where it is known.
    ///
    /// # Errors
    /// `Input` when it is no such JSON, or of another connector.
    pub fn read(text: &str, worker: Option<&str>) -> Result<Self> {
        let value: Value = serde_json::from_str(text).context(ErrorKind::Input, || "the connector's JSON")?;
        let config = value.get("config").unwrap_or(&value);
        let map =
            config.as_object().ok_or_else(|| Error::new(ErrorKind::Input, "the connector's JSON is no object"))?;
        let plain = |value: &Value| match value {
            Value::String(text) => Some(text.clone()),
            Value::Number(_) | Value::Bool(_) => Some(value.to_string()),
            _ => None,
        };
        let mut properties: BTreeMap<String, String> =
            map.iter().filter_map(|(key, value)| Some((key.clone(), plain(value)?))).collect();
        let class = properties.get("connector.class").cloned().unwrap_or_default();
        let short = class == "IcebergSinkConnector" || class == "IcebergSink";
        if !CLASSES.contains(&class.as_str()) && !short {
            return Err(Error::new(ErrorKind::Input, format!("connector.class is {class:?}, not Iceberg's sink"))
                .with_hint(format!("give the JSON of a connector of class {}", CLASSES[0])));
        }
        let name = value.get("name").and_then(Value::as_str).map(str::to_owned);
        let name = name.or_else(|| properties.get("name").cloned());
        let name = name.ok_or_else(|| {
            Error::new(ErrorKind::Input, "the connector has no name")
                .with_hint("its consumer group is called after it: add \"name\" as the worker has it")
        })?;
        properties.remove("name");
        let worker = worker.map(properties_of).unwrap_or_default();
        Ok(Self { name, properties, worker, ..Self::default() })
    }

    /// The text of a property; the caller says what becomes of it.
    pub(super) fn peek(&self, property: &str) -> Option<String> {
        self.properties.get(property).cloned().filter(|text| !text.trim().is_empty())
    }

    /// The same, of the worker where the connector says nothing.
    pub(super) fn or_worker(&self, property: &str) -> Option<String> {
        self.peek(property).or_else(|| self.worker.get(property).cloned())
    }

    /// A property of the sink's consumer: the connector's own, else the worker's.
    pub(super) fn consumer(&self, property: &str) -> Option<(String, String)> {
        let own = format!("consumer.override.{property}");
        if let Some(text) = self.peek(&own) {
            return Some((own, text));
        }
        let outer = [format!("consumer.{property}"), property.to_owned()];
        let of_worker = outer.iter().find_map(|name| Some((name.clone(), self.worker.get(name)?.clone())));
        let control = format!("iceberg.kafka.{property}");
        of_worker.or_else(|| self.peek(&control).map(|text| (control, text)))
    }

    /// Whether a property says yes.
    pub(super) fn is_on(&self, property: &str) -> bool {
        self.peek(property).is_some_and(|text| text.trim().eq_ignore_ascii_case("true"))
    }

    /// The names that begin so, with what follows, of those of which nothing was said yet.
    pub(super) fn below(&self, prefix: &str) -> Vec<(String, String, String)> {
        let of = |(name, text): (&String, &String)| {
            let rest = name.strip_prefix(prefix)?;
            (!self.seen.contains(name)).then(|| (name.clone(), rest.to_owned(), text.clone()))
        };
        self.properties.iter().filter_map(of).collect()
    }

    /// Says what becomes of a property, once.
    pub(super) fn say(&mut self, property: &str, fate: Fate) {
        let is_here = self.properties.contains_key(property) || matches!(fate, Fate::Missing { .. });
        if is_here && self.seen.insert(property.to_owned()) {
            self.notes.push(Note { property: property.to_owned(), fate });
        }
    }

    pub(super) fn taken(&mut self, property: &str, setting: &str) {
        self.say(property, Fate::Taken(setting.to_owned()));
    }

    pub(super) fn missing(&mut self, property: &str, lossy: bool, hint: &str) {
        self.say(property, Fate::Missing { hint: hint.to_owned(), lossy });
    }

    /// All notes; of what nothing was said, that it is not known.
    pub(super) fn notes(&mut self) -> Vec<Note> {
        for (name, _, _) in self.below("") {
            let lossy = name.starts_with("iceberg.") || name.starts_with("transforms");
            self.missing(&name, lossy, "it is not known here: see what it does");
        }
        let mut notes = self.notes.clone();
        notes.sort_by(|a, b| a.property.cmp(&b.property));
        notes
    }

    /// The consumer group of the sink's tasks.
    pub fn group(&self) -> String {
        self.peek("iceberg.connect.group-id").unwrap_or_else(|| format!("connect-{}", self.name))
    }

    /// The topic of the sink's own events.
    pub fn control_topic(&self) -> String {
        self.peek("iceberg.control.topic").unwrap_or_else(|| "control-iceberg".to_owned())
    }

    /// The branch that it commits to.
    pub fn branch(&self, table: &str) -> Option<String> {
        let own = self.peek(&format!("iceberg.table.{table}.commit-branch"));
        own.or_else(|| self.peek("iceberg.tables.default-commit-branch"))
    }

    /// The tables that it names.
    pub fn tables(&self) -> Vec<String> {
        self.peek("iceberg.tables").map(|text| list(&text)).unwrap_or_default()
    }
}

/// Parts between commas, without blanks.
pub(super) fn list(text: &str) -> Vec<String> {
    text.split(',').map(|part| part.trim().to_owned()).filter(|part| !part.is_empty()).collect()
}

/// A Java file of properties, without escapes and continued lines.
fn properties_of(text: &str) -> BTreeMap<String, String> {
    let lines = text.lines().map(str::trim).filter(|line| !line.starts_with(['#', '!']));
    lines.filter_map(|line| line.split_once('=')).map(|(k, v)| (k.trim().to_owned(), v.trim().to_owned())).collect()
}
