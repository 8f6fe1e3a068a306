//! Converters and transforms as a way to decode.

use std::collections::BTreeMap;

use crate::migrate::connector::list;
use crate::migrate::note::Fate;
use crate::migrate::translate::{Draft, bare, text};

const CONVERTER: &str = "value.converter";

/// What decodes the rows of every pipeline, and which columns say where they were.
#[derive(Debug, Clone, Default)]
pub(super) struct Rows {
    /// Lines of `[pipeline.NAME]`.
    pub(super) decode: Vec<String>,
    /// Metadata columns by name.
    pub(super) metadata: BTreeMap<String, &'static str>,
    /// Whether rows come from a registry.
    pub(super) registry: bool,
}

impl Draft<'_> {
    /// What the converters and transforms come to; writes `[registry.NAME]` where they need one.
    pub(super) fn rows(&mut self) -> Rows {
        let mut rows = Rows::default();
        let class = self.connector.or_worker(CONVERTER).unwrap_or_default();
        let envelope = self.transforms(&mut rows);
        let simple = class.rsplit('.').next().unwrap_or_default().to_owned();
        let format = match (class.as_str(), simple.as_str()) {
            ("io.confluent.connect.avro.AvroConverter", _) => Some(("avro", true)),
            ("io.confluent.connect.protobuf.ProtobufConverter", _) => Some(("protobuf", true)),
            ("io.confluent.connect.json.JsonSchemaConverter", _) => Some(("json", true)),
            (_, "JsonConverter") if class.starts_with("org.apache.kafka.") => Some(("json", false)),
            (_, "StringConverter") if envelope.is_some_and(|own| own == "map") => Some(("json", false)),
            (_, "StringConverter" | "ByteArrayConverter") => Some(("raw", false)),
            _ => None,
        };
        match format {
            None => {
                let hint = if class.is_empty() {
                    "the worker's default applies: name its file of properties with --worker"
                } else {
                    "it is not known here: set decode.format by hand"
                };
                self.connector.missing(CONVERTER, true, hint);
            }
            Some((format, registry)) => {
                let events = envelope == Some("debezium") && matches!(format, "json" | "avro");
                if envelope == Some("debezium") && !events {
                    let hint =
                        "change events are read in JSON and Avro only: let the source's converter write one of these";
                    self.connector.missing(CONVERTER, true, hint);
                } else {
                    self.connector.taken(CONVERTER, "decode.format");
                }
                let schemas = self.connector.or_worker("value.converter.schemas.enable");
                let enveloped = simple == "JsonConverter" && schemas.is_none_or(|text| text != "false");
                self.connector.taken("value.converter.schemas.enable", "decode.envelope");
                let registry = registry && self.registry();
                let mut parts = vec![format!("format = {}", text(format))];
                if registry {
                    parts.push("registry = \"schemas\"".to_owned());
                }
                if events {
                    parts.push("envelope = \"debezium\"".to_owned());
                } else if enveloped {
                    parts.push("envelope = \"connect\"".to_owned());
                }
                rows.registry = registry;
                rows.decode.push(format!("decode = {{ {} }}", parts.join(", ")));
            }
        }
        for prefix in ["key.converter", "header.converter"] {
            for (property, _, _) in self.connector.below(prefix) {
                self.connector.say(&property, Fate::Idle("the sink writes values alone"));
            }
        }
        for (property, _, _) in self.connector.below("value.converter.") {
            self.connector.missing(&property, false, "see [registry.NAME] and decode.*");
        }
        self.errors();
        rows
    }

    fn registry(&mut self) -> bool {
        let own = |name: &str| format!("value.converter.{name}");
        let Some(url) = self.connector.or_worker(&own("schema.registry.url")) else {
            self.connector.missing(&own("schema.registry.url"), true, "name the registry in [registry.schemas]");
            return false;
        };
        let (url, within) = bare(list(&url).first().map_or("", String::as_str));
        self.line(&format!("\n[registry.schemas]\nurl = {}", text(&url)));
        self.connector.taken(&own("schema.registry.url"), "registry.schemas.url");
        // Who asks stands in a property of its own, or else within the URL, where Confluent's converters look first.
        let apart = self.connector.or_worker(&own("basic.auth.user.info")).map(|user| ("basic.auth.user.info", user));
        if let Some((property, user)) = apart.or(within.map(|user| ("schema.registry.url", user))) {
            let name = user.split_once(':').map_or("", |(name, _)| name).to_owned();
            let secret = self.secret("REGISTRY_PASSWORD", &own(property));
            self.line(&format!("user = {}\npassword = {secret}", text(&name)));
            self.connector.taken(&own("basic.auth.user.info"), "registry.schemas.user and password");
        }
        self.connector.say(&own("basic.auth.credentials.source"), Fate::Idle("the user is in registry.schemas"));
        if self.connector.or_worker(&own("bearer.auth.token")).is_some() {
            let secret = self.secret("REGISTRY_TOKEN", &own("bearer.auth.token"));
            self.line(&format!("token = {secret}"));
            self.connector.taken(&own("bearer.auth.token"), "registry.schemas.token");
        }
        self.connector.say(&own("bearer.auth.credentials.source"), Fate::Idle("the token is in registry.schemas"));
        true
    }

    /// What the transforms do to rows, each by its class; answers the envelope that they open.
    fn transforms(&mut self, rows: &mut Rows) -> Option<&'static str> {
        let names = self.connector.peek("transforms").map(|text| list(&text)).unwrap_or_default();
        self.connector.say("transforms", Fate::Idle("one by one below"));
        let mut envelope = None;
        for name in names {
            let prefix = format!("transforms.{name}");
            let property = format!("{prefix}.type");
            let class = self.connector.peek(&property).unwrap_or_default();
            match class.rsplit('.').next().unwrap_or_default() {
                "InsertField$Value" => self.inserted(&prefix, rows),
                "KafkaMetadataTransform" => self.kafka_metadata(&prefix, rows),
                "JsonToMapTransform" if !self.connector.is_on(&format!("{prefix}.json.root")) => {
                    envelope = Some("map");
                    let hint = "decode.format = \"json\" does it, and makes structs of nested objects where the sink made maps of texts";
                    self.connector.missing(&property, true, hint);
                }
                "ExtractNewRecordState" | "DebeziumTransform" => {
                    envelope = Some("debezium");
                    let hint = "decode.envelope = \"debezium\" does it for JSON and Avro; its own columns are called otherwise, and deletes are rows too: \
                                see decode.debezium.columns";
                    self.connector.missing(&property, true, hint);
                }
                "RegexRouter" | "TimestampRouter" => {
                    self.connector.say(&property, Fate::Idle("the sink does not go by the topic's name"));
                }
                "DropHeaders" | "HeaderToValue" if !class.contains("HeaderToValue") => {
                    self.connector.say(&property, Fate::Idle("headers are no columns"));
                }
                _ => {
                    let hint = "no transform of rows is there: do it before the topic, or in a view of the table";
                    self.connector.missing(&property, true, hint);
                }
            }
            for (property, _, _) in self.connector.below(&format!("{prefix}.")) {
                self.connector.say(&property, Fate::Idle("belongs to its transform"));
            }
        }
        for (property, _, _) in self.connector.below("predicates") {
            self.connector.missing(&property, true, "no transform of rows is there, nor a condition of one");
        }
        envelope
    }

    fn inserted(&mut self, prefix: &str, rows: &mut Rows) {
        self.connector.taken(&format!("{prefix}.type"), "metadata");
        for (field, word) in [("topic.field", "origin"), ("offset.field", "number"), ("timestamp.field", "timestamp")] {
            let property = format!("{prefix}.{field}");
            if let Some(column) = self.connector.peek(&property) {
                rows.metadata.insert(column.trim_end_matches(['!', '?']).to_owned(), word);
                self.connector.taken(&property, "metadata");
            }
        }
        for field in ["partition.field", "static.field"] {
            let property = format!("{prefix}.{field}");
            if self.connector.peek(&property).is_some() {
                let hint = if field == "partition.field" {
                    "a metadata column has the partition as text: add one of another name, this one stays NULL"
                } else {
                    "there are no columns of one value: put it into a view, or into the table's properties"
                };
                self.connector.missing(&property, true, hint);
            }
        }
    }

    fn kafka_metadata(&mut self, prefix: &str, rows: &mut Rows) {
        let property = format!("{prefix}.type");
        let field =
            self.connector.peek(&format!("{prefix}.field_name")).unwrap_or_else(|| "_kafka_metadata".to_owned());
        if self.connector.is_on(&format!("{prefix}.nested")) {
            let hint = "metadata columns are not within a struct: add columns of their own, these stay NULL";
            self.connector.missing(&property, true, hint);
            return;
        }
        rows.metadata.insert(format!("{field}_topic"), "origin");
        rows.metadata.insert(format!("{field}_offset"), "number");
        let hint = "topic and offset are metadata columns; partition and timestamp are text and a timestamp here: add columns of other \
                    names, these stay NULL";
        self.connector.missing(&property, true, hint);
    }

    fn errors(&mut self) {
        let hint = "rejects go to <table>__rejects, with place and reason";
        for (property, rest, _) in self.connector.below("errors.") {
            if rest == "tolerance" || rest.starts_with("deadletterqueue") {
                self.connector.taken(&property, "rejects");
            } else {
                self.connector.say(&property, Fate::Idle(hint));
            }
        }
    }
}
