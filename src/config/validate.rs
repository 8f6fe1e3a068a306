//! What single values cannot show: names that must exist, settings that need or exclude each other.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};

use crate::config::document::suggest;
use crate::config::layout_text::{self, LayoutProblem};
use crate::config::problem::{Problems, key_text};
use crate::config::quantity::show_bytes;
use crate::config::reading::Value;
use crate::config::resolve::Resolved;
use crate::config::{Config, DebeziumConfig, Envelope, PipelineConfig, RowFormat, SourceConfig, kafka, stores};

/// The least memory that a rewrite gets by with, as `compact::merge` has it.
const REWRITE_MIN: u64 = 64 << 20;

/// Names of Iceberg's own metadata columns.
const RESERVED: [&str; 10] = [
    "_file",
    "_pos",
    "_deleted",
    "_spec_id",
    "_partition",
    "_change_type",
    "_change_ordinal",
    "_commit_snapshot_id",
    "_row_id",
    "_last_updated_sequence_number",
];

/// Checks across settings.
pub(crate) fn validate(config: &Config, resolved: &Resolved, problems: &mut Problems) {
    let mut check = Check { config, resolved, problems };
    check.instance();
    check.catalogs();
    check.registries();
    check.api();
    check.limits();
    check.maintenance();
    check.stdin();
    check.stores();
    check.groups();
    for (name, source) in &config.sources {
        if let SourceConfig::Kafka(source) = source {
            kafka::validate(resolved, name, source, check.problems);
        }
    }
    for (name, pipeline) in &config.pipelines {
        check.pipeline(name.as_str(), pipeline);
    }
}

struct Check<'a> {
    config: &'a Config,
    resolved: &'a Resolved,
    problems: &'a mut Problems,
}

impl Check<'_> {
    fn problem(&mut self, path: &[&str], message: impl Into<String>, hint: impl Into<String>) {
        let place = self.resolved.place(path);
        self.problems.add_with_hint(&place, path, message, hint);
    }

    fn is_set(&self, path: &[&str]) -> bool {
        self.resolved.setting(path).is_some()
    }

    fn instance(&mut self) {
        let name = &self.config.instance;
        let plain = |b: u8| b.is_ascii_alphanumeric() || b"_-.".contains(&b);
        if self.is_set(&["instance"]) && (name.len() > 64 || !name.bytes().all(plain)) {
            let hint = "it becomes part of file names: use up to 64 letters, digits, `_`, `-` and `.`";
            self.problem(&["instance"], format!("{name:?} is no instance name"), hint);
        }
    }

    fn catalogs(&mut self) {
        for name in self.config.catalogs.keys() {
            let own = |setting: &'static str| ["catalog", name.as_str(), setting];
            let oauth2 = self.resolved.sections.contains_key(own("oauth2").map(str::to_owned).as_slice());
            if oauth2 && self.is_set(&own("token")) {
                self.problem(&own("token"), "there is a token and oauth2", "keep one of them");
            }
        }
    }

    fn registries(&mut self) {
        for (name, config) in &self.config.registries {
            let own = |setting: &'static str| ["registry", name.as_str(), setting];
            let [user, password, token] = ["user", "password", "token"].map(|setting| self.is_set(&own(setting)));
            for pair in [["user", "password"], ["certificate", "key"]] {
                if let [(there, true), (missing, false)] | [(missing, false), (there, true)] =
                    pair.map(|setting| (setting, self.is_set(&own(setting))))
                {
                    let hint = format!("set {missing} too, or remove {there}");
                    self.problem(&own(there), format!("there is a {there} without a {missing}"), hint);
                }
            }
            for (setting, text, hint) in config.tls.problems() {
                self.problem(&own(setting), text, hint);
            }
            if token && (user || password) {
                self.problem(&own("token"), "there is a token and a user", "keep one of them");
            }
        }
    }

    /// What rows are, and where their schemas come from.
    fn decode(&mut self, name: &str, pipeline: &PipelineConfig) {
        let own = |setting: &'static str| ["pipeline", name, "decode", setting];
        if !self.is_set(&own("format")) {
            return; // It is a problem by itself.
        }
        let file = ["pipeline", name, "decode", "schema", "file"];
        if let Some(registry) = &pipeline.decode.registry
            && !self.config.registries.contains_key(registry)
        {
            let known: Vec<&str> = self.config.registries.keys().map(String::as_str).collect();
            let hint = match known.as_slice() {
                [] => format!("add [registry.{}]", key_text(registry)),
                known => suggest(registry, known),
            };
            self.problem(&own("registry"), format!("there is no registry {registry:?}"), hint);
        }
        self.envelope(name, pipeline);
        let (registry, schema) = (self.is_set(&own("registry")), self.is_set(&file));
        let format = pipeline.decode.format;
        if schema && !format.has_schema() {
            let hint = "set decode.format = \"avro\" or \"protobuf\", or remove this";
            self.problem(&file, "only Avro and Protobuf rows have a schema", hint);
        }
        let message = ["pipeline", name, "decode", "schema", "message"];
        if self.is_set(&message) && (format != RowFormat::Protobuf || registry) {
            let hint = "remove it, or set decode.format = \"protobuf\" and decode.schema.file";
            self.problem(&message, "only rows that a file has the Protobuf schema of are of one message", hint);
        }
        if registry && matches!(format, RowFormat::Raw | RowFormat::Csv) {
            let hint = "set decode.format to what the rows are, or remove this";
            self.problem(&own("registry"), format!("{} rows have no schema", format.noun()), hint);
        }
        self.csv(name, pipeline);
        // A file that cannot be read is a problem by itself.
        let section: Vec<String> = file[..4].iter().map(|part| (*part).to_owned()).collect();
        if format.has_schema() && registry && schema {
            let hint = "keep the registry where rows begin with the id of their schema, the schema where they do not";
            self.problem(&file, "there is a registry and a schema", hint);
        } else if format.has_schema() && !registry && !schema && !self.resolved.sections.contains_key(&section) {
            let hint = "set decode.registry where rows begin with the id of their schema, else decode.schema.file";
            let message = format!("{} rows cannot be read without their schema", format.noun());
            self.problem(&own("format"), message, hint);
        }
        if (registry || format != RowFormat::Json) && pipeline.decode.envelope == Envelope::None {
            self.without_fields(name, pipeline);
        }
        if format.has_schema() || (registry && format == RowFormat::Json) {
            self.whole_messages(name, pipeline);
        }
    }

    /// How lines of values are cut.
    fn csv(&mut self, name: &str, pipeline: &PipelineConfig) {
        let own = |setting: &'static str| ["pipeline", name, "decode", "csv", setting];
        if pipeline.decode.format != RowFormat::Csv {
            for setting in ["columns", "header", "delimiter", "quote", "null"] {
                if !self.is_set(&own(setting)) {
                    continue;
                }
                let message = format!("{} rows are no lines of values", pipeline.decode.format.noun());
                self.problem(&own(setting), message, "set decode.format = \"csv\", or remove this");
            }
            return;
        }
        let csv = &pipeline.decode.csv;
        if csv.header {
            self.csv_header(name, pipeline);
        } else if csv.columns.is_empty() {
            let hint = "set decode.csv.columns to the names of a line's values, in order, or decode.csv.header where files begin with them";
            self.problem(&["pipeline", name, "decode", "format"], "the values of CSV rows have no names", hint);
        }
        let mut seen = BTreeSet::new();
        if let Some(twice) = csv.columns.iter().find(|name| name.is_empty() || !seen.insert(name.to_lowercase())) {
            let hint = "engines do not tell names apart that differ in case only";
            self.problem(&own("columns"), format!("the name {twice:?} is empty, or occurs twice"), hint);
        }
        for column in &csv.columns {
            self.reserved_name(&own("columns"), column);
            let same = |metadata: &&String| metadata.to_lowercase() == column.to_lowercase();
            if let Some(same) = pipeline.metadata.keys().find(same) {
                let message = format!("the name {column:?} is that of the metadata column {same:?} too");
                self.problem(&own("columns"), message, "give one of them another name");
            }
        }
        if csv.delimiter == csv.quote {
            self.problem(&own("quote"), "delimiter and quote are the same", "choose another character for one of them");
        }
    }

    /// Names that stand above the rows: only files have something above their rows.
    fn csv_header(&mut self, name: &str, pipeline: &PipelineConfig) {
        let own = |setting: &'static str| ["pipeline", name, "decode", "csv", setting];
        if !pipeline.decode.csv.columns.is_empty() {
            let hint = "remove decode.csv.columns, or set skip_lines = 1 for the source instead of decode.csv.header";
            self.problem(&own("columns"), "the first line of each file names the values already", hint);
        }
        let kind = match self.config.sources.get(&pipeline.source) {
            Some(SourceConfig::Kafka(_)) => "kafka",
            Some(SourceConfig::Stdin) => "stdin",
            Some(SourceConfig::Replay(_)) => "replay",
            Some(SourceConfig::Files(_)) | None => return,
        };
        let message = format!("rows of a source of type {kind:?} have no line above them that names their values");
        self.problem(&own("header"), message, "set decode.csv.columns instead");
    }

    /// What rows are wrapped in, and the columns that come of it.
    fn envelope(&mut self, name: &str, pipeline: &PipelineConfig) {
        let decode = &pipeline.decode;
        let usual = DebeziumConfig::default();
        let told = [
            ("columns", decode.debezium.columns != usual.columns),
            ("unavailable", decode.debezium.unavailable != usual.unavailable),
        ];
        for (setting, _) in told.iter().filter(|(_, told)| *told && decode.envelope != Envelope::Debezium) {
            let hint = "set decode.envelope = \"debezium\", or remove this";
            self.problem(&["pipeline", name, "decode", "debezium", setting], "only change events have it", hint);
        }
        if decode.envelope == Envelope::None {
            return;
        }
        if let Some((message, hint)) = decode.envelope_problem() {
            self.problem(&["pipeline", name, "decode", "envelope"], message, hint);
            return;
        }
        self.routed_by_topic(name, pipeline, "fields within an envelope cannot choose the table");
        if decode.envelope != Envelope::Debezium {
            return;
        }
        for column in decode.debezium.columns.keys() {
            self.reserved_name(&["pipeline", name, "decode", "debezium", "columns", column], column);
        }
        let columns = &decode.debezium.columns;
        for (at, (column, what)) in columns.iter().enumerate() {
            if let Some((first, _)) = columns.iter().take(at).find(|(_, other)| *other == what) {
                let message = format!("the column {first:?} holds the same");
                let path = ["pipeline", name, "decode", "debezium", "columns", column];
                self.problem(&path, message, "leave one of them out");
            }
        }
        if let Some(both) = decode.debezium.columns.keys().find(|column| pipeline.metadata.contains_key(*column)) {
            let message = format!("the column {both:?} is one of decode.debezium.columns too");
            self.problem(&["pipeline", name, "metadata"], message, "give one of them another name");
        }
    }

    /// Routing reads fields of JSON rows only; a topic's name is there for all.
    fn without_fields(&mut self, name: &str, pipeline: &PipelineConfig) {
        let message = match pipeline.decode.format {
            RowFormat::Json => "fields of rows with the id of a schema cannot choose the table",
            _ => "only fields of JSON rows can choose the table",
        };
        self.routed_by_topic(name, pipeline, message);
    }

    fn routed_by_topic(&mut self, name: &str, pipeline: &PipelineConfig, message: &str) {
        let source = self.config.sources.get(&pipeline.source);
        let by_topic = |field: &&str| matches!(source, Some(SourceConfig::Kafka(kafka)) if kafka.fills(field));
        if template_fields(&pipeline.table).unwrap_or_default().iter().any(|field| !by_topic(field)) {
            let hint =
                "name one table, or choose it by what a Kafka topic's name fills: {topic}, or a name in topic_pattern";
            self.problem(&["pipeline", name, "table"], message, hint);
        }
    }

    /// Bytes that are no text do not come in lines.
    fn whole_messages(&mut self, name: &str, pipeline: &PipelineConfig) {
        let cut = match self.config.sources.get(&pipeline.source) {
            Some(SourceConfig::Files(_)) => "files",
            Some(SourceConfig::Stdin) => "stdin",
            Some(SourceConfig::Replay(_)) => "replay",
            _ => return,
        };
        let what = match pipeline.decode.format {
            RowFormat::Json => "rows with the id of a schema",
            RowFormat::Protobuf => "Protobuf messages",
            RowFormat::Avro | RowFormat::Csv | RowFormat::Raw => "Avro records",
        };
        let message = format!("rows of a source of type {cut:?} are lines, which {what} are not");
        self.problem(&["pipeline", name, "source"], message, "name a source whose rows are messages");
    }

    fn api(&mut self) {
        let Some(listen) = self.config.api.listen else { return };
        if listen.ip().is_loopback() {
            return;
        }
        if self.config.api.token.is_none() {
            let hint = "set api.token, or listen on 127.0.0.1";
            self.problem(&["api", "listen"], format!("{listen} can be reached from outside and needs a token"), hint);
        }
        let tls = self.resolved.setting(&["api", "behind_tls_proxy"]).map(|setting| &setting.value);
        if tls != Some(&Value::Flag(true)) {
            let hint = "listen on 127.0.0.1, or end TLS in front of it and set api.behind_tls_proxy = true";
            self.problem(&["api", "listen"], format!("{listen} can be reached from outside and needs TLS"), hint);
        }
    }

    fn limits(&mut self) {
        let limits = self.config.limits;
        for (name, source) in &self.config.sources {
            let SourceConfig::Files(files) = source else { continue };
            if files.row_bytes_max <= limits.memory / 4 || !self.is_set(&["limits", "memory"]) {
                continue;
            }
            let message = format!(
                "a row of {} does not fit well into limits.memory = {}",
                show_bytes(files.row_bytes_max),
                show_bytes(limits.memory)
            );
            let hint = "keep it at or below a quarter of limits.memory";
            self.problem(&["source", name, "row_bytes_max"], message, hint);
        }
    }

    fn maintenance(&mut self) {
        let path = ["maintenance", "cpu"];
        let share = self.resolved.setting(&path).map(|setting| &setting.value);
        if matches!(share, Some(Value::Share(_, Some(_)))) || matches!(share, Some(Value::Share(0.0, _))) {
            self.problem(&path, "this is a share above 0%, without a time", "write it as \"15%\"");
        }
        let (own, all) = (self.config.maintenance.memory, self.config.limits.memory);
        if !self.config.policies.is_empty() && own > all / 2 {
            let message = format!("{} is more than half of limits.memory = {}", show_bytes(own), show_bytes(all));
            let hint = "rewrites share limits.memory with ingest: raise it, or lower maintenance.memory";
            self.problem(&["maintenance", "memory"], message, hint);
        }
        let each = own / self.config.maintenance.parallel.max(1) as u64;
        if own > 0 && each < REWRITE_MIN {
            let message = format!("each rewrite would have {} only", show_bytes(each));
            let hint = format!("give each {} or more, or lower maintenance.parallel", show_bytes(REWRITE_MIN));
            self.problem(&["maintenance", "parallel"], message, hint);
        }
    }

    /// Members of a group share the partitions: two pipelines in one would each miss what the other has.
    fn groups(&mut self) {
        let mut seen: BTreeMap<(&[String], &str), &str> = BTreeMap::new();
        let mut twice = Vec::new();
        for (name, pipeline) in &self.config.pipelines {
            let Some(SourceConfig::Kafka(kafka)) = self.config.sources.get(&pipeline.source) else { continue };
            match seen.entry((&kafka.brokers, &kafka.group)) {
                Entry::Vacant(first) => drop(first.insert(name.as_str())),
                Entry::Occupied(first) => twice.push((name.as_str(), *first.get(), kafka.group.clone())),
            }
        }
        for (name, first, group) in twice {
            let message = format!(
                "the pipeline {first:?} is in the consumer group {group:?} too, and they would share its rows out"
            );
            self.problem(&["pipeline", name, "source"], message, "give it a source with a group of its own");
        }
    }

    fn stores(&mut self) {
        for store in &self.config.stores {
            let path = ["store", store.prefix.as_str()];
            for name in store.options.keys().filter(|name| !stores::knows(&store.prefix, name)) {
                self.problem(
                    &path,
                    format!("this store has no option {name:?}"),
                    "options are named as in object_store, such as region, endpoint, access_key_id",
                );
            }
        }
    }

    fn stdin(&mut self) {
        let readers: Vec<&str> = self
            .config
            .pipelines
            .iter()
            .filter(|(_, pipeline)| matches!(self.config.sources.get(&pipeline.source), Some(SourceConfig::Stdin)))
            .map(|(name, _)| name.as_str())
            .collect();
        let Some((first, others)) = readers.split_first() else { return };
        for other in others {
            self.problem(
                &["pipeline", other, "source"],
                format!("standard input is read by pipeline {first} already"),
                "it can be read once: use one pipeline, with a {field} in its table for several tables",
            );
        }
    }

    fn pipeline(&mut self, name: &str, pipeline: &PipelineConfig) {
        let source = ["pipeline", name, "source"];
        if self.is_set(&source) && !self.config.sources.contains_key(&pipeline.source) {
            let known: Vec<&str> = self.config.sources.keys().map(String::as_str).collect();
            let hint = match known.as_slice() {
                [] => format!("add [source.{}]", key_text(&pipeline.source)),
                known => suggest(&pipeline.source, known),
            };
            self.problem(&source, format!("there is no source {:?}", pipeline.source), hint);
        }
        let branch = &pipeline.branch;
        if branch.len() > 128 || branch.chars().any(|c| c.is_whitespace() || c.is_control()) {
            let path = ["pipeline", name, "branch"];
            self.problem(&path, format!("{branch:?} is no branch name"), "use up to 128 characters without spaces");
        }
        self.table(name, pipeline);
        self.decode(name, pipeline);
        self.layout(name, pipeline);
    }

    fn table(&mut self, name: &str, pipeline: &PipelineConfig) {
        const SHAPE: &str = "write it as \"catalog.namespace.table\"";
        let path = ["pipeline", name, "table"];
        if !self.is_set(&path) {
            return;
        }
        if pipeline.table.split('.').count() < 2 || pipeline.table.split('.').any(str::is_empty) {
            return self.problem(&path, "this does not name a catalog, a namespace and a table", SHAPE);
        }
        if !self.config.catalogs.contains_key(&pipeline.catalog) {
            let known: Vec<&str> = self.config.catalogs.keys().map(String::as_str).collect();
            let hint = match known.as_slice() {
                [] => format!("add [catalog.{}], or name another one: {SHAPE}", key_text(&pipeline.catalog)),
                known => format!("{}; {SHAPE}", suggest(&pipeline.catalog, known)),
            };
            self.problem(&path, format!("there is no catalog {:?}", pipeline.catalog), hint);
        }
        match template_fields(&pipeline.table) {
            Err(message) => {
                self.problem(&path, message, "write a field of the row in braces, as in \"lake.raw.shop_{event}\"")
            }
            Ok(fields) if fields.len() > 1 => {
                self.problem(&path, "more than one {field} chooses the table", "choose the table by one field");
            }
            Ok(fields) => self.anchor(name, pipeline, fields.first().copied()),
        }
    }

    fn anchor(&mut self, name: &str, pipeline: &PipelineConfig, field: Option<&str>) {
        let path = ["pipeline", name, "anchor"];
        let written = match self.resolved.setting(&path).map(|setting| &setting.value) {
            Some(Value::Text(text)) => Some(text.clone()),
            _ => None,
        };
        match (field, written) {
            (Some(field), None) => {
                let example =
                    format!("{}.{}", pipeline.catalog, pipeline.table.replace(&format!("{{{field}}}"), "epochs"));
                let hint = format!(
                    "name a table that decides epochs and that this pipeline alone writes, such as anchor = {example:?}"
                );
                self.problem(&path, format!("the table is chosen by {{{field}}}, so an anchor is required"), hint);
            }
            (None, Some(_)) => {
                self.problem(&path, "an anchor is for a table with a {field}", "remove it");
            }
            (Some(_), Some(anchor)) => {
                let parts: Vec<&str> = anchor.split('.').collect();
                if parts.len() < 3 || parts.iter().any(|part| part.is_empty()) || anchor.contains(['{', '}']) {
                    self.problem(
                        &path,
                        format!("{anchor:?} names no table"),
                        "write it as \"catalog.namespace.table\", without braces",
                    );
                } else if parts.first() != Some(&pipeline.catalog.as_str()) {
                    let hint = format!("begin it with {:?}", format!("{}.", pipeline.catalog));
                    self.problem(&path, "the anchor must be in the same catalog as the table", hint);
                }
            }
            (None, None) => {}
        }
    }

    fn metadata_names(&mut self, name: &str, pipeline: &PipelineConfig, given: &BTreeSet<String>) {
        for column in pipeline.metadata.keys() {
            let path = ["pipeline", name, "metadata", column];
            if given.contains(column) {
                let what = format!("the column {column:?} is in create.columns too");
                self.problem(&path, what, "give one of them another name");
            } else {
                self.reserved_name(&path, column);
            }
        }
    }

    fn reserved_name(&mut self, path: &[&str], column: &str) {
        if RESERVED.contains(&column) {
            let what = format!("Iceberg reserves the name {column:?}: Spark does not read a table with such a column");
            self.problem(path, what, format!("give it another name, such as source{column}"));
        }
    }

    fn layout(&mut self, name: &str, pipeline: &PipelineConfig) {
        let own = |setting: &'static str| ["pipeline", name, "create", setting];
        let columns = match self.resolved.setting(&own("columns")).map(|setting| &setting.value) {
            Some(Value::List(texts)) => texts.clone(),
            _ => Vec::new(),
        };
        let mut names: BTreeSet<String> = BTreeSet::new();
        for text in &columns {
            match layout_text::column(text) {
                Err(error) => self.layout_problem(&own("columns"), text, error),
                Ok(column) if !names.insert(column.name.clone()) => {
                    self.problem(
                        &own("columns"),
                        format!("the column {:?} is there twice", column.name),
                        "remove one of them",
                    );
                }
                Ok(_) => {}
            }
        }
        self.metadata_names(name, pipeline, &names);
        let known: Vec<String> = if columns.is_empty() {
            Vec::new()
        } else {
            names.into_iter().chain(pipeline.metadata.keys().cloned()).collect()
        };
        let mut seen = BTreeSet::new();
        for text in &pipeline.create.partition {
            match layout_text::partition(text) {
                Err(error) => self.layout_problem(&own("partition"), text, error),
                Ok(field) => {
                    if !seen.insert((format!("{:?}", field.transform), field.column.clone())) {
                        self.problem(&own("partition"), format!("{text:?} is there twice"), "remove one of them");
                    }
                    self.column(&own("partition"), &field.column, &known);
                }
            }
        }
        for text in &pipeline.create.sort {
            match layout_text::sort(text) {
                Err(error) => self.layout_problem(&own("sort"), text, error),
                Ok(field) => self.column(&own("sort"), &field.column, &known),
            }
        }
    }

    fn layout_problem(&mut self, path: &[&str], text: &str, error: LayoutProblem) {
        self.problem(path, format!("{text:?}: {}", error.message), error.hint);
    }

    /// A column of a layout must be among those to create, where these are given.
    fn column(&mut self, path: &[&str], column: &str, known: &[String]) {
        let top = column.split('.').next().unwrap_or_default();
        if !known.is_empty() && !known.iter().any(|name| name == top || name == column) {
            let known: Vec<&str> = known.iter().map(String::as_str).collect();
            self.problem(path, format!("there is no column {top:?} in create.columns"), suggest(top, &known));
        }
    }
}

/// The fields in braces of a table's name.
pub(crate) fn template_fields(table: &str) -> Result<Vec<&str>, String> {
    let mut fields = Vec::new();
    let mut rest = table;
    while let Some(at) = rest.find(['{', '}']) {
        let Some(inside) = rest[at..].strip_prefix('{') else {
            return Err("a brace is closed that was not opened".to_owned());
        };
        let Some((field, after)) = inside.split_once('}') else {
            return Err("a brace is not closed".to_owned());
        };
        if field.is_empty() || field.contains(['{', '.']) || field.contains(char::is_whitespace) {
            return Err(format!("{field:?} in braces is no top-level field"));
        }
        fields.push(field);
        rest = after;
    }
    Ok(fields)
}
