//! What a user may write about a Kafka source.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

use regex::Regex;

use crate::config::Secret;
use crate::config::problem::Problems;
use crate::config::reading::Value;
use crate::config::reference::Kind::{
    Bytes, Choice, Flag, List, Path, Secret as SecretKind, Secrets, Text, Texts, Uri,
};
use crate::config::reference::Preset::{Empty, Is, Required, Unset};
use crate::config::reference::{Field, GIB, KIB, MIB, typed};
use crate::config::resolve::Resolved;
use crate::error::{Error, ErrorKind, Result};

/// A Kafka cluster's topics, read by a consumer group.
#[derive(Debug, Clone)]
pub struct KafkaConfig {
    /// `host:port` of some brokers.
    pub brokers: Vec<String>,
    /// The consumer group: processes of one group share the partitions.
    pub group: String,
    /// Topics by name.
    pub topics: Vec<String>,
    /// Topics by pattern: the whole name must match.
    pub topic_pattern: Option<String>,
    /// Where to begin in a log that the table has nothing of.
    pub start: KafkaStart,
    /// Positions to begin at, by `topic/partition`; before `start`.
    pub start_offsets: BTreeMap<String, i64>,
    /// What to do when the log no longer has the row after the table's last.
    pub on_gap: OnGap,
    /// What becomes of records without a value.
    pub tombstones: Tombstones,
    /// Whether rows of transactions that are open or were given up are read.
    pub read_uncommitted: bool,
    /// Partitions are assigned by the brokers (KIP-848), not by the members.
    pub broker_assigns: bool,
    /// A name of this member that outlives a restart, unique within the group.
    pub member: Option<String>,
    /// TLS; `None`: off.
    pub tls: Option<KafkaTls>,
    /// How to identify.
    pub sasl: Option<KafkaSasl>,
    /// A longer row is rejected.
    pub row_bytes_max: u64,
    /// Bytes that the client fetches ahead.
    pub fetch_bytes: u64,
    /// Further properties of librdkafka.
    pub properties: BTreeMap<String, Secret>,
}

/// Where to begin in a log that the table has nothing of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KafkaStart {
    /// At its beginning.
    Earliest,
    /// At its end.
    Latest,
    /// At the first row of this time or later, in milliseconds since 1970.
    Time(i64),
}

/// What to do when the log no longer has the row after the table's last.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnGap {
    /// Stop and ask.
    Halt,
    /// Say how many rows are missing, and go on with the first that is there.
    Skip,
}

/// What becomes of a record without a value, which deletes its key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tombstones {
    /// It is a reject.
    Reject,
    /// It is counted and passed over.
    Skip,
}

/// How TLS is spoken.
#[derive(Debug, Clone)]
pub struct KafkaTls {
    /// Certificates to trust; the system's when unset.
    pub ca: Option<PathBuf>,
    /// Our own certificate.
    pub certificate: Option<PathBuf>,
    /// Its key.
    pub key: Option<PathBuf>,
    /// What the key is locked with.
    pub key_password: Option<Secret>,
}

/// How to identify.
#[derive(Debug, Clone)]
pub enum KafkaSasl {
    /// By name and password: PLAIN or SCRAM.
    Password {
        /// `PLAIN`, `SCRAM-SHA-256`, `SCRAM-SHA-512`.
        mechanism: String,
        /// The name.
        username: String,
        /// The password.
        password: Secret,
    },
    /// By a token of an OAuth2 server: OAUTHBEARER.
    OAuth2 {
        /// The token endpoint.
        token_uri: String,
        /// The client's id.
        client_id: String,
        /// The client's secret.
        client_secret: Secret,
        /// The scope to ask for.
        scope: Option<String>,
        /// Further form fields.
        parameters: BTreeMap<String, String>,
        /// Certificates that its server is trusted by, beside the system's.
        ca: Option<PathBuf>,
    },
}

/// The field that a topic's whole name fills.
pub const TOPIC: &str = "topic";

impl KafkaConfig {
    /// Whether a topic's name fills this field of a table's name.
    pub fn fills(&self, field: &str) -> bool {
        let captured = |pattern: &Regex| pattern.capture_names().flatten().any(|name| name == field);
        field == TOPIC || self.pattern().ok().flatten().is_some_and(|pattern| captured(&pattern))
    }

    /// The pattern of topics, which must match the whole name.
    ///
    /// # Errors
    /// `Config` when it is none.
    pub fn pattern(&self) -> Result<Option<Regex>> {
        let pattern = self.topic_pattern.as_deref().map(topic_pattern).transpose();
        pattern.map_err(|what| Error::new(ErrorKind::Config, format!("topic_pattern: {what}")))
    }
}

const TYPE: &str = "kafka";

/// The settings of a Kafka source.
pub(crate) const FIELDS: &[Field] = &[
    typed(TYPE, "source.*.brokers", List, Required, "`host:port` of some of the cluster's brokers"),
    typed(
        TYPE,
        "source.*.group",
        Text,
        Required,
        "Consumer group, of one pipeline alone; daemons that run it share the partitions. Where reading goes on is the table's to say, not the group's",
    ),
    typed(TYPE, "source.*.topics", List, Empty, "Topics by name; these or `topic_pattern`"),
    typed(
        TYPE,
        "source.*.topic_pattern",
        Text,
        Unset,
        "Topics by a regular expression that the whole name must match; new topics are found within half a minute. What `(?<name>…)` matches fills `{name}` in the pipeline's `table`, as `{topic}` does for every Kafka source",
    ),
    typed(
        TYPE,
        "source.*.start",
        Text,
        Is("earliest"),
        "Where a pipeline begins that was never here: `earliest`, `latest`, or a time such as `2026-01-31T00:00:00Z`. Partitions that appear later are read from their beginning",
    ),
    typed(
        TYPE,
        "source.*.start_offsets",
        Texts,
        Empty,
        "Offsets of the first row to read where a pipeline begins that was never here, such as `\"orders/0\" = 4711`; other partitions begin at `start`",
    ),
    typed(
        TYPE,
        "source.*.on_gap",
        Choice(&["halt", "skip"]),
        Is("halt"),
        "When retention removed rows that were never read: stop and ask, or count them and go on",
    ),
    typed(
        TYPE,
        "source.*.tombstones",
        Choice(&["auto", "reject", "skip"]),
        Is("auto"),
        "What becomes of a record without a value, which deletes its key: a reject, or counted and passed over. `auto`: passed over where the pipeline has `decode.envelope = \"debezium\"`, for the delete is a row there already; else a reject",
    ),
    typed(
        TYPE,
        "source.*.isolation",
        Choice(&["read_committed", "read_uncommitted"]),
        Is("read_committed"),
        "Whether rows of transactions that are open or were aborted are read",
    ),
    typed(
        TYPE,
        "source.*.group_protocol",
        Choice(&["classic", "consumer"]),
        Is("classic"),
        "`classic`: members share partitions out (cooperative-sticky). `consumer`: the brokers do (KIP-848, Kafka 4.0 or newer)",
    ),
    typed(
        TYPE,
        "source.*.member",
        Text,
        Unset,
        "Name of this member in the group (`group.instance.id`): unique and stable, so that a quick restart moves no partition. With \
         `group_protocol = \"consumer\"` a member that was killed waits until the brokers miss it (their \
         `group.consumer.session.timeout.ms`, 45 s)",
    ),
    typed(
        TYPE,
        "source.*.tls.enabled",
        Choice(&["auto", "on", "off"]),
        Is("auto"),
        "`auto`: on, unless every broker is this machine by its loopback address",
    ),
    typed(
        TYPE,
        "source.*.tls.ca",
        Path,
        Unset,
        "File of certificates to trust (PEM); the system's when unset. A token server is trusted by these as well",
    ),
    typed(TYPE, "source.*.tls.certificate", Path, Unset, "File of our certificate (PEM), for brokers that ask for one"),
    typed(TYPE, "source.*.tls.key", Path, Unset, "File of its key (PEM)"),
    typed(TYPE, "source.*.tls.key_password", SecretKind, Unset, "What the key is locked with"),
    typed(
        TYPE,
        "source.*.sasl.mechanism",
        Choice(&["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512", "OAUTHBEARER"]),
        Required,
        "How to identify at the brokers",
    ),
    typed(TYPE, "source.*.sasl.username", Text, Unset, "Name, for PLAIN and SCRAM"),
    typed(TYPE, "source.*.sasl.password", SecretKind, Unset, "Password, for PLAIN and SCRAM"),
    typed(TYPE, "source.*.sasl.token_uri", Uri, Unset, "Token endpoint, for OAUTHBEARER"),
    typed(TYPE, "source.*.sasl.client_id", Text, Unset, "Client id, for OAUTHBEARER"),
    typed(TYPE, "source.*.sasl.client_secret", SecretKind, Unset, "Client secret, for OAUTHBEARER"),
    typed(TYPE, "source.*.sasl.scope", Text, Unset, "Scope to ask for, for OAUTHBEARER"),
    typed(TYPE, "source.*.sasl.parameters", Texts, Empty, "Further form fields, such as `audience`, for OAUTHBEARER"),
    typed(TYPE, "source.*.row_bytes_max", Bytes(KIB, GIB), Is("16MiB"), "Longest row; a longer one is rejected"),
    typed(
        TYPE,
        "source.*.fetch_bytes",
        Bytes(MIB, 2 * GIB - KIB),
        Is("16MiB"),
        "Bytes that are fetched ahead; beside `limits.memory`. An answer of a broker is a fourth of it at most",
    ),
    typed(
        TYPE,
        "source.*.properties",
        Secrets,
        Empty,
        "Further properties of librdkafka, such as `client.rack`; not those that settings above or exactly-once decide",
    ),
    typed(
        TYPE,
        "source.*.allow_plaintext_password",
        Flag,
        Is("false"),
        "Lets a password travel without TLS to another machine",
    ),
];

/// Properties of librdkafka that are not the user's to set, and why.
const OWN_PROPERTIES: &[(&str, &str)] = &[
    ("bootstrap.servers", "brokers"),
    ("metadata.broker.list", "brokers"),
    ("group.id", "group"),
    ("group.instance.id", "member"),
    ("group.protocol", "group_protocol"),
    ("isolation.level", "isolation"),
    ("security.protocol", "tls and sasl"),
    ("sasl.mechanism", "sasl.mechanism"),
    ("sasl.mechanisms", "sasl.mechanism"),
    ("sasl.username", "sasl.username"),
    ("sasl.password", "sasl.password"),
    ("ssl.ca.location", "tls.ca"),
    ("ssl.certificate.location", "tls.certificate"),
    ("ssl.key.location", "tls.key"),
    ("ssl.key.password", "tls.key_password"),
    ("queued.max.messages.kbytes", "fetch_bytes"),
    ("enable.auto.commit", ""),
    ("enable.auto.offset.store", ""),
    ("auto.offset.reset", ""),
    ("partition.assignment.strategy", ""),
    ("enable.partition.eof", ""),
];

/// The source that the settings make.
pub(crate) fn assemble(resolved: &Resolved, name: &str) -> KafkaConfig {
    let own = Own { resolved, name };
    let brokers = own.list("brokers");
    let tls = match own.text("tls.enabled").as_deref() {
        Some("on") => true,
        Some("off") => false,
        _ => !brokers.iter().all(|broker| is_loopback(broker)),
    };
    KafkaConfig {
        group: own.text("group").unwrap_or_default(),
        topics: own.list("topics"),
        topic_pattern: own.text("topic_pattern"),
        start: own.text("start").and_then(|text| start(&text)).unwrap_or(KafkaStart::Earliest),
        start_offsets: offsets(&own.texts("start_offsets")),
        on_gap: if own.text("on_gap").as_deref() == Some("skip") { OnGap::Skip } else { OnGap::Halt },
        read_uncommitted: own.text("isolation").as_deref() == Some("read_uncommitted"),
        tombstones: own.tombstones(),
        broker_assigns: own.text("group_protocol").as_deref() == Some("consumer"),
        member: own.text("member"),
        tls: tls.then(|| KafkaTls {
            ca: own.text("tls.ca").map(PathBuf::from),
            certificate: own.text("tls.certificate").map(PathBuf::from),
            key: own.text("tls.key").map(PathBuf::from),
            key_password: own.secret("tls.key_password"),
        }),
        sasl: sasl(own),
        row_bytes_max: own.number("row_bytes_max"),
        fetch_bytes: own.number("fetch_bytes"),
        properties: match own.value("properties") {
            Some(Value::Secrets(secrets)) => secrets.clone(),
            _ => BTreeMap::new(),
        },
        brokers,
    }
}

fn sasl(own: Own<'_>) -> Option<KafkaSasl> {
    let mechanism = own.text("sasl.mechanism")?;
    Some(if mechanism == "OAUTHBEARER" {
        KafkaSasl::OAuth2 {
            token_uri: own.text("sasl.token_uri")?,
            client_id: own.text("sasl.client_id")?,
            client_secret: own.secret("sasl.client_secret")?,
            scope: own.text("sasl.scope"),
            parameters: own.texts("sasl.parameters"),
            ca: own.text("tls.ca").map(PathBuf::from),
        }
    } else {
        let (username, password) = (own.text("sasl.username")?, own.secret("sasl.password")?);
        KafkaSasl::Password { mechanism, username, password }
    })
}

/// The settings of one source.
#[derive(Clone, Copy)]
struct Own<'a> {
    resolved: &'a Resolved,
    name: &'a str,
}

impl Own<'_> {
    fn value(&self, setting: &str) -> Option<&Value> {
        let path: Vec<&str> = ["source", self.name].into_iter().chain(setting.split('.')).collect();
        self.resolved.setting(&path).map(|setting| &setting.value)
    }

    fn text(&self, setting: &str) -> Option<String> {
        match self.value(setting) {
            Some(Value::Text(text)) => Some(text.clone()),
            _ => None,
        }
    }

    fn secret(&self, setting: &str) -> Option<Secret> {
        match self.value(setting) {
            Some(Value::Secret(secret)) => Some(secret.clone()),
            _ => None,
        }
    }

    fn list(&self, setting: &str) -> Vec<String> {
        match self.value(setting) {
            Some(Value::List(texts)) => texts.clone(),
            _ => Vec::new(),
        }
    }

    fn texts(&self, setting: &str) -> BTreeMap<String, String> {
        match self.value(setting) {
            Some(Value::Texts(texts)) => texts.clone(),
            _ => BTreeMap::new(),
        }
    }

    fn tombstones(&self) -> Tombstones {
        match self.text("tombstones").as_deref() {
            Some("reject") => Tombstones::Reject,
            Some("skip") => Tombstones::Skip,
            _ if self.is_read_as_debezium() => Tombstones::Skip,
            _ => Tombstones::Reject,
        }
    }

    /// Whether a pipeline that reads it takes its rows for Debezium's change events.
    fn is_read_as_debezium(&self) -> bool {
        let says = |path: &[&str], word: &str| {
            let value = self.resolved.setting(path).map(|setting| &setting.value);
            matches!(value, Some(Value::Text(text)) if text == word)
        };
        self.resolved.names("pipeline").iter().any(|name| {
            says(&["pipeline", name, "source"], self.name)
                && says(&["pipeline", name, "decode", "envelope"], "debezium")
        })
    }

    fn number(&self, setting: &str) -> u64 {
        match self.value(setting) {
            Some(Value::Bytes(number)) => *number,
            _ => 0,
        }
    }
}

fn topic_pattern(pattern: &str) -> Result<Regex, String> {
    Regex::new(&format!("^(?:{pattern})$")).map_err(|_| format!("{pattern:?} is no regular expression"))
}

fn start(text: &str) -> Option<KafkaStart> {
    match text {
        "earliest" => Some(KafkaStart::Earliest),
        "latest" => Some(KafkaStart::Latest),
        time => time.parse::<jiff::Timestamp>().ok().map(|time| KafkaStart::Time(time.as_millisecond())),
    }
}

fn offsets(texts: &BTreeMap<String, String>) -> BTreeMap<String, i64> {
    let offset = |(partition, text): (&String, &String)| Some((partition.clone(), text.parse().ok()?));
    texts.iter().filter_map(offset).collect()
}

/// Whether `host:port` is this machine by a loopback address.
fn is_loopback(broker: &str) -> bool {
    let host = broker.rsplit_once(':').map_or(broker, |(host, _)| host);
    let address = |text: &str| text.trim_matches(['[', ']']).parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback());
    host == "localhost" || address(host) || broker.parse::<SocketAddr>().is_ok_and(|at| at.ip().is_loopback())
}

/// Checks across the settings of one source.
pub(crate) fn validate(resolved: &Resolved, name: &str, config: &KafkaConfig, problems: &mut Problems) {
    let own = Own { resolved, name };
    let mut problem = |setting: &str, message: String, hint: &str| {
        let path: Vec<&str> = ["source", name].into_iter().chain(setting.split('.')).collect();
        problems.add_with_hint(&resolved.place(&path), &path, message, hint);
    };
    for broker in &config.brokers {
        let port = broker.rsplit_once(':').and_then(|(host, port)| Some((host, port.parse::<u16>().ok()?)));
        if port.is_none_or(|(host, _)| host.is_empty() || host.contains("://")) {
            problem("brokers", format!("{broker:?} is no broker"), "write it as \"host:9092\"");
        }
    }
    match (config.topics.is_empty(), &config.topic_pattern) {
        (true, None) => problem("topics", "no topic is named".to_owned(), "set topics, or topic_pattern"),
        (false, Some(_)) => {
            problem("topic_pattern", "there are topics and a pattern".to_owned(), "keep one of them");
        }
        (true, Some(pattern)) => {
            if let Err(message) = topic_pattern(pattern) {
                problem("topic_pattern", message, "write it as in 'shop\\.(?<t>.+)'");
            }
        }
        (false, None) => {}
    }
    if let Some(text) = own.text("start").filter(|text| start(text).is_none()) {
        let hint = "write \"earliest\", \"latest\", or a time such as \"2026-01-31T00:00:00Z\"";
        problem("start", format!("{text:?} is no place to begin"), hint);
    }
    for (partition, text) in own.texts("start_offsets") {
        let known = partition.rsplit_once('/').is_some_and(|(_, number)| number.parse::<u32>().is_ok());
        if !known || !text.parse::<i64>().is_ok_and(|offset| offset >= 0) {
            let hint = "write \"topic/partition\" = offset, such as \"orders/0\" = 4711";
            problem("start_offsets", format!("{partition:?} = {text} is no offset of a partition"), hint);
        }
    }
    validate_access(own, config, &mut problem);
    for property in config.properties.keys() {
        if let Some((_, instead)) = OWN_PROPERTIES.iter().find(|(own, _)| own == property) {
            let hint = match *instead {
                "" => "remove it: that no row is lost or doubled rests on it".to_owned(),
                setting => format!("use {setting}"),
            };
            problem("properties", format!("{property} cannot be set here"), &hint);
        }
    }
}

fn validate_access(own: Own<'_>, config: &KafkaConfig, problem: &mut impl FnMut(&str, String, &str)) {
    let certificate = (own.text("tls.certificate").is_some(), own.text("tls.key").is_some());
    if certificate.0 != certificate.1 {
        let hint = "set both tls.certificate and tls.key, or none";
        problem("tls.certificate", "a certificate and its key belong together".to_owned(), hint);
    }
    let Some(mechanism) = own.text("sasl.mechanism") else { return };
    if config.sasl.is_none() {
        let wanted = match mechanism.as_str() {
            "OAUTHBEARER" => "sasl.token_uri, sasl.client_id and sasl.client_secret",
            _ => "sasl.username and sasl.password",
        };
        problem("sasl.mechanism", format!("{mechanism} needs {wanted}"), "set them");
    }
    let far = !config.brokers.iter().all(|broker| is_loopback(broker));
    let allowed = matches!(own.value("allow_plaintext_password"), Some(Value::Flag(true)));
    if config.tls.is_none() && far && !allowed {
        let hint = "turn tls.enabled on; in a network that is yours alone set allow_plaintext_password = true";
        problem("tls.enabled", "credentials would travel without TLS".to_owned(), hint);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_to_begin_is_a_word_or_a_time() {
        assert_eq!(start("earliest"), Some(KafkaStart::Earliest));
        assert_eq!(start("1970-01-01T00:00:01.5Z"), Some(KafkaStart::Time(1_500)));
        assert_eq!(start("yesterday"), None);
    }

    #[test]
    fn a_broker_is_this_machine_by_a_loopback_address_only() {
        let brokers = ["127.0.0.1:9092", "[::1]:9092", "localhost:1", "10.0.0.1:9092", "localhost.example:9092"];
        assert_eq!(brokers.map(is_loopback), [true, true, true, false, false]);
    }
}
