//! The sink's consumer as a source.

use crate::migrate::note::Fate;
use crate::migrate::translate::{Draft, text};

/// Properties of the consumer that librdkafka has by the same name, or by another.
const SAME: [(&str, &str); 13] = [
    ("client.rack", "client.rack"),
    ("session.timeout.ms", "session.timeout.ms"),
    ("heartbeat.interval.ms", "heartbeat.interval.ms"),
    ("max.poll.interval.ms", "max.poll.interval.ms"),
    ("fetch.min.bytes", "fetch.min.bytes"),
    ("fetch.max.bytes", "fetch.max.bytes"),
    ("fetch.max.wait.ms", "fetch.wait.max.ms"),
    ("max.partition.fetch.bytes", "max.partition.fetch.bytes"),
    ("reconnect.backoff.ms", "reconnect.backoff.ms"),
    ("reconnect.backoff.max.ms", "reconnect.backoff.max.ms"),
    ("receive.buffer.bytes", "socket.receive.buffer.bytes"),
    ("send.buffer.bytes", "socket.send.buffer.bytes"),
    ("ssl.endpoint.identification.algorithm", "ssl.endpoint.identification.algorithm"),
];
/// Those that have no part here.
const IDLE: [&str; 9] = [
    "max.poll.records",
    "partition.assignment.strategy",
    "enable.auto.commit",
    "auto.commit.interval.ms",
    "client.id",
    "metadata.max.age.ms",
    "request.timeout.ms",
    "default.api.timeout.ms",
    "key.deserializer",
];
const PREFIXES: [&str; 2] = ["consumer.override.", "iceberg.kafka."];

impl Draft<'_> {
    /// `[source.NAME]` for one pipeline, which has the group to itself. `offsets` are those of the first rows to read.
    pub(super) fn source(&mut self, name: &str, brokers: Option<&str>, offsets: &[(String, i64)]) {
        self.line(&format!("\n[source.{name}]\ntype = \"kafka\""));
        let found = self.consumer("bootstrap.servers", &format!("source.{name}.brokers"));
        let brokers = brokers.map(str::to_owned).or(found).unwrap_or_else(|| {
            let hint = "name the brokers with --brokers, or the worker's file of properties with --worker";
            self.connector.missing("bootstrap.servers", true, hint);
            "broker.invalid:9092".to_owned()
        });
        let brokers: Vec<String> = super::connector::list(&brokers).iter().map(|broker| text(broker)).collect();
        self.line(&format!("brokers = [{}]", brokers.join(", ")));
        self.line(&format!(
            "group = {} # not the connector's: its offsets stay as they are",
            text(&format!("frazil-{name}"))
        ));
        self.topics(name);
        let reset = self.consumer("auto.offset.reset", &format!("source.{name}.start"));
        if reset.as_deref() == Some("latest") {
            self.line("start = \"latest\"");
        }
        let isolation = self.consumer("isolation.level", &format!("source.{name}.isolation"));
        match isolation.as_deref() {
            Some("read_uncommitted") => self.line("isolation = \"read_uncommitted\""),
            Some(_) => {}
            None => self.line("# The connector read rows of aborted transactions as well; these stay out from now on."),
        }
        self.line("tombstones = \"skip\" # as the connector does: a record without a value is no row");
        self.security(name);
        self.properties();
        if !offsets.is_empty() {
            self.line("# Where the connector stopped: the first rows that are in none of its tables.");
            let offsets: Vec<String> =
                offsets.iter().map(|(log, offset)| format!("{} = {}", text(log), text(&offset.to_string()))).collect();
            self.line(&format!("start_offsets = {{ {} }}", offsets.join(", ")));
        }
    }

    fn topics(&mut self, name: &str) {
        if let Some(topics) = self.connector.peek("topics") {
            let topics: Vec<String> = super::connector::list(&topics).iter().map(|topic| text(topic)).collect();
            self.line(&format!("topics = [{}]", topics.join(", ")));
            self.connector.taken("topics", &format!("source.{name}.topics"));
        } else if let Some(pattern) = self.connector.peek("topics.regex") {
            self.line(&format!("topic_pattern = {}", text(&pattern)));
            if regex::Regex::new(&pattern).is_ok() {
                self.connector.taken("topics.regex", &format!("source.{name}.topic_pattern"));
            } else {
                self.connector.missing(
                    "topics.regex",
                    true,
                    "look-around and back references are not there: write it without",
                );
            }
        }
    }

    fn consumer(&mut self, property: &str, setting: &str) -> Option<String> {
        let (name, value) = self.connector.consumer(property)?;
        for prefix in PREFIXES {
            self.connector.taken(&format!("{prefix}{property}"), setting);
        }
        self.connector.taken(&name, setting);
        Some(value)
    }

    fn security(&mut self, name: &str) {
        let tls = format!("source.{name}.tls");
        let protocol = self.consumer("security.protocol", &tls).unwrap_or_else(|| "PLAINTEXT".to_owned());
        let protocol = protocol.to_uppercase();
        let is_tls = protocol.ends_with("SSL");
        self.line(&format!("tls.enabled = \"{}\"", if is_tls { "on" } else { "off" }));
        if is_tls {
            self.stores(&tls);
        }
        if !protocol.starts_with("SASL") {
            return;
        }
        let sasl = format!("source.{name}.sasl");
        let mechanism = self.consumer("sasl.mechanism", &sasl).unwrap_or_else(|| "GSSAPI".to_owned());
        let jaas = self.consumer("sasl.jaas.config", &sasl).unwrap_or_default();
        let part = |word: &str| {
            let rest = jaas.split_once(&format!("{word}=")).map(|(_, rest)| rest)?;
            let quote = rest.chars().next().filter(|c| ['"', '\''].contains(c));
            match quote {
                Some(quote) => rest[1..].split(quote).next().map(str::to_owned),
                None => rest.split([' ', ';']).next().map(str::to_owned),
            }
        };
        match mechanism.as_str() {
            "PLAIN" | "SCRAM-SHA-256" | "SCRAM-SHA-512" => {
                let user = part("username").unwrap_or_default();
                let secret = self.secret("KAFKA_PASSWORD", "sasl.jaas.config");
                self.line(&format!(
                    "sasl = {{ mechanism = {}, username = {}, password = {secret} }}",
                    text(&mechanism),
                    text(&user)
                ));
                if !is_tls {
                    self.line("allow_plaintext_password = true");
                }
            }
            "OAUTHBEARER" => {
                let property = "sasl.oauthbearer.token.endpoint.url";
                let found = self.connector.consumer(property).unwrap_or_default();
                let uri = self.url(&found.0, &found.1);
                self.consumer(property, &sasl);
                let id = part("clientId").unwrap_or_default();
                let secret = self.secret("KAFKA_CLIENT_SECRET", "sasl.jaas.config");
                let scope = part("scope").map(|scope| format!(", scope = {}", text(&scope))).unwrap_or_default();
                self.line(&format!(
                    "sasl = {{ mechanism = \"OAUTHBEARER\", token_uri = {}, client_id = {}, client_secret = {secret}{scope} }}",
                    uri,
                    text(&id)
                ));
            }
            other => {
                let hint = format!(
                    "{other} is not spoken here: name brokers and a user of PLAIN, SCRAM or OAUTHBEARER in a copy of the connector's JSON \
                     (consumer.override.sasl.mechanism, consumer.override.sasl.jaas.config; --brokers)"
                );
                self.connector.missing("sasl.mechanism", true, &hint);
            }
        }
    }

    fn stores(&mut self, tls: &str) {
        for (property, setting) in [("ssl.truststore.location", "ca"), ("ssl.keystore.location", "certificate")] {
            let Some(path) = self.consumer(property, tls) else { continue };
            let kind = self.consumer(&property.replace("location", "type"), tls).unwrap_or_else(|| "JKS".to_owned());
            if kind == "PEM" {
                self.line(&format!("tls.{setting} = {}", text(&path)));
                if setting == "certificate" {
                    self.line(&format!("tls.key = {}", text(&path)));
                    if let Some((locked, _)) = self.connector.consumer("ssl.key.password") {
                        let secret = self.secret("KAFKA_KEY_PASSWORD", &locked);
                        self.line(&format!("tls.key_password = {secret}"));
                        self.connector.taken(&locked, &format!("{tls}.key_password"));
                    }
                }
            } else {
                let hint = format!(
                    "{path} is {kind}: write its certificates as PEM, and name the file in a copy of the connector's JSON \
                     (consumer.override.{property}, consumer.override.{} = PEM): it becomes {tls}.{setting}",
                    property.replace("location", "type")
                );
                self.connector.missing(&format!("{property} (as {kind})"), false, &hint);
            }
        }
        for property in ["ssl.truststore.password", "ssl.keystore.password", "ssl.key.password", "ssl.protocol"] {
            for prefix in PREFIXES {
                self.connector.say(&format!("{prefix}{property}"), Fate::Idle("PEM files need none"));
            }
        }
    }

    fn properties(&mut self) {
        let mut lines = Vec::new();
        for (theirs, ours) in SAME {
            if let Some(value) = self.connector.given(&format!("consumer.override.{theirs}")) {
                let value = match value.trim() {
                    // A blank one means that the name is not looked at.
                    "" if theirs.ends_with("algorithm") => "none".to_owned(),
                    "" => continue,
                    _ => value,
                };
                lines.push(format!("{} = {}", text(ours), text(&value)));
                self.connector.taken(&format!("consumer.override.{theirs}"), "source properties");
            }
        }
        if !lines.is_empty() {
            self.line(&format!("properties = {{ {} }}", lines.join(", ")));
        }
        for (property, rest, _) in self.connector.below("consumer.override.") {
            if IDLE.contains(&rest.as_str()) {
                self.connector.say(&property, Fate::Idle("the consumer here sees to it"));
            } else {
                let lossy = rest == "interceptor.classes";
                self.connector.missing(&property, lossy, "see the source's `properties`, which librdkafka takes");
            }
        }
        for (property, _, _) in self.connector.below("iceberg.kafka.") {
            self.connector.say(&property, Fate::Idle("there is no control topic"));
        }
    }
}
