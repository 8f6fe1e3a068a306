//! A connector's properties, as its JSON has them, over those of the worker.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use crate::error::{Context, Error, ErrorKind, Result};
use crate::migrate::control::without_offsets;
use crate::migrate::note::{Fate, Note};

/// Classes of the sink: Apache's, and the one that it came from.
const CLASSES: [&str; 2] =
    ["org.apache.iceberg.connect.IcebergSinkConnector", "io.tabular.iceberg.connect.IcebergSinkConnector"];

/// A property that Tabular's class has alone.
const TABULARS_GROUP: &str = "iceberg.control.group-id";

/// Properties, and what became of them so far.
#[derive(Debug, Clone, Default)]
pub struct Connector {
    /// Its name.
    pub name: String,
    class: String,
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
        Ok(Self { name, class, properties, worker, ..Self::default() })
    }

    /// The text of a property; the caller says what becomes of it.
    pub(super) fn peek(&self, property: &str) -> Option<String> {
        self.properties.get(property).cloned().filter(|text| !text.trim().is_empty())
    }

    /// The same, of the worker where the connector says nothing.
    pub(super) fn or_worker(&self, property: &str) -> Option<String> {
        self.peek(property).or_else(|| self.worker.get(property).cloned())
    }

    /// The text of a property, be it blank.
    pub(super) fn given(&self, property: &str) -> Option<String> {
        self.properties.get(property).cloned()
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

    /// The group that the sink's events and snapshots name.
    pub fn group(&self) -> String {
        self.peek("iceberg.connect.group-id").unwrap_or_else(|| self.own_group())
    }

    /// The consumer group that its tasks are members of and commit to: it is the worker's to say, not the sink's.
    pub fn consumer_group(&self) -> String {
        self.peek("consumer.override.group.id").unwrap_or_else(|| self.own_group())
    }

    fn own_group(&self) -> String {
        format!("connect-{}", self.name)
    }

    /// The group that Tabular's sink keeps its offsets in.
    pub fn tabular_group(&self) -> String {
        self.peek(TABULARS_GROUP).unwrap_or_else(|| format!("cg-control-{}", self.name))
    }

    /// Whether it is told here where such a sink stopped.
    ///
    /// # Errors
    /// `Unsupported` for Tabular's class, which keeps its offsets elsewhere.
    pub fn tells_where_it_stopped(&self) -> Result<()> {
        if self.class.starts_with("io.tabular.") {
            return Err(self.is_tabular(&self.class));
        }
        if self.may_be_tabulars() && self.peek(TABULARS_GROUP).is_some() {
            return Err(self.is_tabular(&format!("{} with {TABULARS_GROUP}", self.class)));
        }
        Ok(())
    }

    /// Whether its class may be Tabular's: by a short name the worker finds whichever is installed.
    pub fn may_be_tabulars(&self) -> bool {
        !CLASSES.contains(&self.class.as_str())
    }

    /// Whether it is Tabular's by what is in [`Connector::tabular_group`], whose snapshots may have expired. `offsets` are those of its
    /// topics, and `own` those of the consumer group.
    ///
    /// # Errors
    /// `Unsupported` where only Tabular's class can have read rows.
    pub fn is_in_no_group_of_tabulars(&self, offsets: usize, own: usize) -> Result<()> {
        if own > 0 || offsets == 0 {
            return Ok(());
        }
        let what =
            format!("group {} has offsets of its topics, and {} has none", self.tabular_group(), self.consumer_group());
        Err(self.is_tabular(&what))
    }

    /// Whether a table without a commit of this sink has none because it is called otherwise. `sinks` are the control topics and groups
    /// that its snapshots name, as `TOPIC.GROUP`; `has_offsets` whether the consumer group has any.
    ///
    /// # Errors
    /// `Conflict` where others fed the table and this one has no offsets; `Unsupported` where Tabular's class did under its name.
    pub fn is_named(&self, table: &str, sinks: &BTreeSet<String>, has_offsets: bool) -> Result<()> {
        if sinks.contains(&format!("{}.{}", self.control_topic(), self.tabular_group())) {
            return Err(self.is_tabular(&format!("table {table} has commits of group {}", self.tabular_group())));
        }
        match sinks.first() {
            Some(other) if !has_offsets => {
                let what =
                    format!("table {table} has commits of a connector whose control topic and group are {other}");
                Err(without_offsets(&self.consumer_group(), "", &what))
            }
            _ => Ok(()),
        }
    }

    /// The refusal of Tabular's offsets. `what` shows that they are.
    fn is_tabular(&self, what: &str) -> Error {
        let hint = format!(
            "hold its topics still until the tables have all rows, and delete it; then write the configuration with --offline, and set \
             start_offsets to the offsets that group {} has of the topics",
            self.tabular_group()
        );
        Error::new(ErrorKind::Unsupported, format!("{what}: where Tabular's sink stopped is not read")).with_hint(hint)
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

#[cfg(test)]
mod tests {
    use super::*;

    fn connector(more: &str) -> Connector {
        let text = format!(r#"{{"name": "a", "connector.class": "IcebergSinkConnector"{more}}}"#);
        Connector::read(&text, None).expect("a connector")
    }

    #[test]
    fn the_group_of_the_tasks_is_the_workers_and_that_of_events_the_sinks() {
        let own = connector(r#", "iceberg.connect.group-id": "events", "consumer.override.group.id": "tasks""#);
        assert_eq!((own.group().as_str(), own.consumer_group().as_str()), ("events", "tasks"));
        let own = connector("");
        assert_eq!((own.group().as_str(), own.consumer_group().as_str()), ("connect-a", "connect-a"));
    }

    #[test]
    fn a_table_that_another_sink_fed_shows_a_wrong_name_where_the_group_has_nothing() {
        let own = connector("");
        let sinks = BTreeSet::from(["control-iceberg.connect-b".to_owned()]);
        own.is_named("d.t", &sinks, true).expect("beside another");
        own.is_named("d.t", &BTreeSet::new(), false).expect("a new table");
        let error = own.is_named("d.t", &sinks, false).expect_err("a wrong name");
        assert_eq!(error.kind(), ErrorKind::Conflict);
        assert!(error.to_string().contains("control-iceberg.connect-b"), "{error}");
    }

    #[test]
    fn where_tabulars_sink_stopped_is_not_told() {
        let text = r#"{"name": "a", "connector.class": "io.tabular.iceberg.connect.IcebergSinkConnector"}"#;
        let own = Connector::read(text, None).expect("a connector");
        let error = own.tells_where_it_stopped().expect_err("it keeps them elsewhere");
        assert!(
            error.hint().is_some_and(|hint| hint.contains("--offline") && hint.contains("cg-control-a")),
            "{error:?}"
        );
        connector("").tells_where_it_stopped().expect("Apache's, unless its tables say otherwise");
        let sinks = BTreeSet::from(["control-iceberg.cg-control-a".to_owned()]);
        let error = connector("").is_named("d.t", &sinks, true).expect_err("Tabular's by a short name");
        assert_eq!(error.kind(), ErrorKind::Unsupported);
    }

    #[test]
    fn tabulars_sink_is_known_by_a_short_name_when_its_snapshots_have_expired() {
        let own = connector(r#", "iceberg.control.group-id": "mine""#);
        let error = own.tells_where_it_stopped().expect_err("a property of Tabular's alone");
        assert!(error.hint().is_some_and(|hint| hint.contains("group mine")), "{error:?}");
        let own = connector("");
        assert!(own.may_be_tabulars());
        let error = own.is_in_no_group_of_tabulars(3, 0).expect_err("its group has read them");
        assert!(error.to_string().contains("cg-control-a") && error.to_string().contains("connect-a"), "{error}");
        assert_eq!(error.kind(), ErrorKind::Unsupported);
        own.is_in_no_group_of_tabulars(3, 2).expect("Apache's has read on since");
        own.is_in_no_group_of_tabulars(0, 0).expect("nobody has read anything");
        let text = format!(r#"{{"name": "a", "connector.class": "{}"}}"#, CLASSES[0]);
        assert!(!Connector::read(&text, None).expect("a connector").may_be_tabulars());
    }
}
