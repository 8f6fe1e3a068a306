//! A connector as a configuration.

use crate::migrate::connector::{Connector, list};
use crate::migrate::decode::Rows;
use crate::migrate::note::{Fate, Note};

/// What the connector's JSON does not say.
#[derive(Debug, Clone, Default)]
pub struct Wish {
    /// The REST endpoint of the catalog, instead of the connector's.
    pub uri: Option<String>,
    /// The warehouse, instead of the connector's.
    pub warehouse: Option<String>,
    /// Brokers, instead of the worker's.
    pub brokers: Option<String>,
    /// The first offset to read of each `topic/partition`.
    pub offsets: Vec<(String, i64)>,
}

/// A configuration, and what it rests on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Translation {
    /// The configuration.
    pub toml: String,
    /// What became of each property.
    pub notes: Vec<Note>,
    /// Environment variables that must hold what a property had.
    pub secrets: Vec<(String, String)>,
}

/// A configuration that is being written.
pub(super) struct Draft<'a> {
    pub(super) connector: &'a mut Connector,
    out: String,
    secrets: Vec<(String, String)>,
}

/// The configuration that does what a connector does, as far as there is one.
pub fn translate(connector: &Connector, wish: &Wish) -> Translation {
    let mut connector = connector.clone();
    let mut draft = Draft { connector: &mut connector, out: String::new(), secrets: Vec::new() };
    let head = format!("# What Kafka Connect's connector {} did.", draft.connector.name.replace(char::is_control, " "));
    draft.line(&head);
    draft.catalog(wish.uri.as_deref(), wish.warehouse.as_deref());
    let rows = draft.rows();
    let pipelines = draft.pipelines();
    if pipelines.is_empty() {
        let name = plain(&draft.connector.name);
        draft.source(&name, wish.brokers.as_deref(), &wish.offsets);
    }
    for (name, table) in pipelines {
        draft.source(&name, wish.brokers.as_deref(), &wish.offsets);
        draft.pipeline(&name, &table, &rows);
    }
    draft.rest();
    let Draft { out, secrets, .. } = draft;
    Translation { toml: out, notes: connector.notes(), secrets }
}

/// A text as TOML has it.
pub(super) fn text(value: &str) -> String {
    toml_edit::Value::from(value).to_string()
}

impl Draft<'_> {
    pub(super) fn line(&mut self, line: &str) {
        self.out.push_str(line);
        self.out.push('\n');
    }

    /// A reference to a secret that a property holds: its text is not copied.
    pub(super) fn secret(&mut self, name: &str, property: &str) -> String {
        let variable = format!("FRAZIL_{name}");
        if !self.secrets.iter().any(|(held, _)| *held == variable) {
            self.secrets.push((variable.clone(), property.to_owned()));
        }
        format!("{{ env = {} }}", text(&variable))
    }

    /// A URL as it is written: what names a user within it is left out, and said to be.
    pub(super) fn url(&mut self, property: &str, value: &str) -> String {
        let (url, user) = bare(value);
        if user.is_some() {
            self.connector.missing(
                property,
                false,
                "the user and password within it are left out: no setting takes them",
            );
        }
        text(&url)
    }

    /// Names of pipelines and their tables; none where rows go by what is in them.
    fn pipelines(&mut self) -> Vec<(String, String)> {
        let tables = self.connector.tables();
        let route = self.connector.peek("iceberg.tables.route-field");
        let hint = "a pipeline goes to a table, to one for each topic, or to one for each value of a field in a namespace of its own \
                    (table = \"lake.NAMESPACE.{FIELD}\" with an anchor): write it by hand";
        if self.connector.is_on("iceberg.tables.dynamic-enabled") {
            self.connector.missing("iceberg.tables.dynamic-enabled", true, hint);
            self.connector.missing("iceberg.tables.route-field", true, hint);
            self.line(
                "\n# Tables by a field's value, namespace included, have no counterpart: no pipeline is written.",
            );
            return Vec::new();
        }
        self.connector.say("iceberg.tables.dynamic-enabled", Fate::Idle("it is off"));
        if route.is_some() {
            self.connector.missing("iceberg.tables.route-field", true, hint);
            self.connector.missing("iceberg.tables", true, hint);
            for table in &tables {
                self.connector.missing(&format!("iceberg.table.{table}.route-regex"), true, hint);
            }
            self.line("\n# Rows that go to a table by a pattern have no counterpart: no pipeline is written.");
            return Vec::new();
        }
        self.connector.taken("iceberg.tables", "pipeline.NAME.table");
        let base = plain(&self.connector.name);
        let many = tables.len() > 1;
        let mut named: Vec<(String, String)> = Vec::new();
        for table in tables {
            let name = if many { format!("{base}-{}", plain(&table)) } else { base.clone() };
            // Tables whose names differ only in what a pipeline's may not have.
            let taken = |name: &String| named.iter().any(|(held, _)| held == name);
            let other =
                (2..).map(|number| format!("{name}-{number}")).find(|name| !taken(name)).filter(|_| taken(&name));
            named.push((other.unwrap_or(name), table));
        }
        named
    }

    fn pipeline(&mut self, name: &str, table: &str, rows: &Rows) {
        self.line(&format!("\n[pipeline.{name}]\nsource = {}\ntable = {}", text(name), text(&format!("lake.{table}"))));
        if let Some(branch) = self.connector.branch(table) {
            self.line(&format!("branch = {}", text(&branch)));
        }
        for property in
            [format!("iceberg.table.{table}.commit-branch"), "iceberg.tables.default-commit-branch".to_owned()]
        {
            self.connector.taken(&property, "pipeline.NAME.branch");
        }
        let interval =
            self.connector.peek("iceberg.control.commit.interval-ms").and_then(|text| text.trim().parse().ok());
        let interval: u64 = interval.unwrap_or(300_000);
        self.line(&format!(
            "commit = {{ freshness = \"{}ms\" }} # may be far shorter: nothing waits for others",
            interval.max(100)
        ));
        self.connector.taken("iceberg.control.commit.interval-ms", "pipeline.NAME.commit.freshness");
        let evolves = self.connector.is_on("iceberg.tables.evolve-schema-enabled");
        self.line(&format!("schema = {{ on_change = \"{}\" }}", if evolves { "evolve" } else { "freeze" }));
        self.connector.taken("iceberg.tables.evolve-schema-enabled", "pipeline.NAME.schema.on_change");
        rows.decode.iter().for_each(|line| self.line(line));
        self.create(table);
        if rows.metadata.is_empty() {
            self.line("# For `frazil verify`, once the table has these columns (strings, and a long):");
            self.line(
                "# metadata = { kafka_topic = \"origin\", kafka_partition = \"partition\", kafka_offset = \"number\" }",
            );
        } else {
            let columns: Vec<String> =
                rows.metadata.iter().map(|(name, word)| format!("{} = \"{word}\"", text(name))).collect();
            self.line(&format!("metadata = {{ {} }}", columns.join(", ")));
        }
    }

    /// How a table is made that is not there; one that is there is taken as it is.
    fn create(&mut self, table: &str) {
        let own = format!("iceberg.table.{table}.partition-by");
        let partition =
            self.connector.peek(&own).or_else(|| self.connector.peek("iceberg.tables.default-partition-by"));
        let mut parts = Vec::new();
        if let Some(partition) = partition {
            let fields: Vec<String> = fields(&partition).iter().map(|field| text(&transform(field))).collect();
            parts.push(format!("partition = [{}]", fields.join(", ")));
        }
        for property in [own, "iceberg.tables.default-partition-by".to_owned()] {
            self.connector.taken(&property, "pipeline.NAME.create.partition");
        }
        let mut properties = Vec::new();
        for (property, name, value) in self.connector.below("iceberg.tables.auto-create-props.") {
            if name == "format-version" {
                parts.push(format!("format_version = {}", if value.trim() == "3" { 3 } else { 2 }));
            } else {
                properties.push(format!("{} = {}", text(&name), text(&value)));
            }
            self.connector.taken(&property, "pipeline.NAME.create.properties");
        }
        if !properties.is_empty() {
            parts.push(format!("properties = {{ {} }}", properties.join(", ")));
        }
        if !parts.is_empty() {
            self.line(&format!("create = {{ {} }}", parts.join(", ")));
        }
    }

    /// Properties that no pipeline takes.
    fn rest(&mut self) {
        let idle = [
            ("connector.class", "this is the sink"),
            ("tasks.max", "start as many daemons of one configuration as are wanted"),
            ("iceberg.catalog", "the catalog is called lake"),
            ("iceberg.control.topic", "there is no control topic"),
            ("iceberg.control.group-id-prefix", "there is no control topic"),
            ("iceberg.control.commit.timeout-ms", "no commit waits for others"),
            ("iceberg.control.commit.threads", "tables commit beside one another"),
            ("iceberg.control.commit.max-consecutive-failures", "a commit is tried until it is decided"),
            ("iceberg.coordinator.transactional.prefix", "there is no coordinator"),
            ("iceberg.coordinator-executor-keep-alive-timeout-ms", "there is no coordinator"),
            ("iceberg.connect.group-id", "each source has a group of its own"),
            ("iceberg.tables.auto-create-enabled", "a table that is missing is created"),
            (
                "iceberg.tables.schema-force-optional",
                "columns inferred from plain JSON are optional; a schema says of its own which are",
            ),
        ];
        for (property, why) in idle {
            self.connector.say(property, Fate::Idle(why));
        }
        if self.connector.is_on("iceberg.tables.schema-case-insensitive") {
            let hint = "names of fields are those of columns, upper and lower case as well: mend the sender";
            self.connector.missing("iceberg.tables.schema-case-insensitive", true, hint);
        }
        self.connector.say("iceberg.tables.schema-case-insensitive", Fate::Idle("it is off"));
        for property in ["iceberg.tables.upsert-mode-enabled", "iceberg.tables.cdc-field"] {
            if self.connector.is_on(property)
                || (property.ends_with("field") && self.connector.peek(property).is_some())
            {
                self.connector.missing(property, true, "rows are appended: merge them in a view, or with an engine");
            }
            self.connector.say(property, Fate::Idle("it is off"));
        }
        for (property, rest, _) in self.connector.below("iceberg.table") {
            if rest.ends_with("id-columns") {
                let hint = "it names a key, and the sink appends all the same: give it to the engine that merges";
                self.connector.missing(&property, false, hint);
            } else if rest.starts_with("s.write-props.") {
                self.connector.missing(&property, false, "set it as a property of the table");
            }
        }
        for prefix in ["producer.override.", "admin.override.", "config.action.reload", "topic.creation."] {
            for (property, _, _) in self.connector.below(prefix) {
                self.connector.say(&property, Fate::Idle("the worker's own"));
            }
        }
        for (property, _, _) in self.connector.below("iceberg.hadoop") {
            self.connector.missing(&property, false, "stores are named in [store.\"URL\"]");
        }
    }
}

/// A URL without the user and the password within it, and these as they stand there.
pub(super) fn bare(url: &str) -> (String, Option<String>) {
    let (scheme, rest) = url.split_once("://").map_or(("", url), |(scheme, rest)| (&url[..scheme.len() + 3], rest));
    let host = rest.split(['/', '?', '#']).next().unwrap_or_default();
    // A password may have a slash of its own: what follows the colon is no port then.
    let is_port = |text: &str| text.chars().all(|c| c.is_ascii_digit()) || text.ends_with(']');
    let cut = host.rsplit_once(':').is_some_and(|(_, port)| !is_port(port));
    match host.rfind('@').or_else(|| rest.rfind('@').filter(|_| cut)) {
        Some(at) => (format!("{scheme}{}", &rest[at + 1..]), Some(rest[..at].to_owned())),
        None => (url.to_owned(), None),
    }
}

/// A name of what pipelines may be called.
fn plain(name: &str) -> String {
    let name: String =
        name.chars().map(|c| if c.is_ascii_alphanumeric() || c == '_' || c == '-' { c } else { '-' }).collect();
    if name.is_empty() { "rows".to_owned() } else { name }
}

/// Parts between commas that are in no parentheses.
fn fields(partition: &str) -> Vec<String> {
    let mut depth = 0;
    let mut parts = vec![String::new()];
    for c in partition.chars() {
        match c {
            '(' => depth += 1,
            ')' => depth -= 1,
            _ => {}
        }
        match parts.last_mut() {
            Some(last) if c != ',' || depth > 0 => last.push(c),
            _ => parts.push(String::new()),
        }
    }
    parts.iter().map(|part| part.trim().to_owned()).filter(|part| !part.is_empty()).collect()
}

/// `days(ts)` as `day(ts)`, `bucket(id, 16)` as `bucket(16, id)`.
fn transform(field: &str) -> String {
    let Some((name, rest)) = field.split_once('(') else { return field.to_owned() };
    let parts = list(rest.trim_end_matches(')'));
    match (name.trim(), parts.as_slice()) {
        (time, [column]) => format!("{}({column})", time.trim_end_matches('s')),
        (name, [column, number]) => format!("{name}({number}, {column})"),
        _ => field.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn partition_fields_are_written_our_way() {
        let all: Vec<String> =
            fields("days(ts), region,bucket(id, 16),truncate(name,4)").iter().map(|field| transform(field)).collect();
        assert_eq!(all, ["day(ts)", "region", "bucket(16, id)", "truncate(4, name)"]);
    }
    #[test]
    fn a_url_is_told_from_who_is_named_within_it() {
        for (url, bare_url, user) in [
            ("http://sr:8081/a", "http://sr:8081/a", None),
            ("https://me:se%40cret@sr:8081/a@b", "https://sr:8081/a@b", Some("me:se%40cret")),
            ("http://me:se/cret@sr", "http://sr", Some("me:se/cret")),
            ("http://me:se@cret@sr/", "http://sr/", Some("me:se@cret")),
            ("http://sr:8081/a@b", "http://sr:8081/a@b", None),
            ("http://[::1]:8081/a@b", "http://[::1]:8081/a@b", None),
            ("me:secret@sr:1", "sr:1", Some("me:secret")),
        ] {
            assert_eq!(bare(url), (bare_url.to_owned(), user.map(str::to_owned)), "{url}");
        }
    }

    #[test]
    fn pipelines_of_tables_with_like_names_have_names_of_their_own() {
        let json =
            r#"{"name": "a", "connector.class": "IcebergSinkConnector", "iceberg.tables": "d.b-c, d.b.c, d-b.c, d.e"}"#;
        let translated = translate(&Connector::read(json, None).expect("a connector"), &Wish::default());
        let names: Vec<&str> = translated.toml.lines().filter_map(|line| line.strip_prefix("[pipeline.")).collect();
        assert_eq!(names, ["a-d-b-c]", "a-d-b-c-2]", "a-d-b-c-3]", "a-d-e]"]);
    }
}
