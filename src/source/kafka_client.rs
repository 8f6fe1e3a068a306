//! The client of a Kafka cluster: how it is set up, what it calls back, and what its errors mean.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};

use rdkafka::ClientContext;
use rdkafka::client::OAuthToken;
use rdkafka::config::{ClientConfig, RDKafkaLogLevel};
use rdkafka::consumer::{BaseConsumer, Consumer, ConsumerContext};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::types::RDKafkaRespErr;
use rdkafka::{Offset, TopicPartitionList};
use serde::Deserialize;

use crate::config::kafka::{KafkaConfig, KafkaSasl};
use crate::error::{Error, ErrorKind, Result};
use crate::model::ids::PartitionId;
use crate::source::kafka_token::Tokens;
use crate::source::kafka_topics::Ids;

/// How often topics and their partitions are looked up, in milliseconds.
pub(super) const REFRESH_MS: i64 = 30_000;

/// How often the client says where partitions end.
const STATISTICS_MS: &str = "5000";

/// An answer of a broker is at most this part of what is fetched ahead, for it grows when it is decompressed,
const ANSWERS: u64 = 4;
/// but no less than this.
const ANSWER_MIN: u64 = 1 << 20;
/// How librdkafka's words begin where there is no token to show.
const NO_TOKEN: &str = "Failed to acquire SASL OAUTHBEARER token";
/// How long nothing is fetched once enough was: librdkafka's own second leaves the reader without rows.
const FULL_MS: &str = "20";

/// A topic and a partition of it.
pub(super) type Place = (String, i32);

/// A consumer with our callbacks.
pub(super) type Client = BaseConsumer<Callbacks>;

/// What a rebalance did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Ownership {
    Gained(Vec<Place>),
    Lost(Vec<Place>),
}

/// What the client could not mend so far.
#[derive(Debug)]
pub(super) struct Trouble {
    /// Since when.
    pub(super) since_ms: i64,
    /// What it says.
    pub(super) error: Error,
    /// Whether it is about connections alone: it is over once brokers answer.
    pub(super) connection: bool,
}

impl Trouble {
    /// What it has come to with another error, which means `own` to the pipeline.
    pub(super) fn after(held: Option<Self>, error: &KafkaError, own: Error, now_ms: i64) -> Self {
        use RDKafkaErrorCode::{AllBrokersDown, BrokerTransportFailure, OperationTimedOut, Resolve, SSL};
        let connections = [AllBrokersDown, BrokerTransportFailure, OperationTimedOut, Resolve, SSL];
        let connection = error.rdkafka_error_code().is_some_and(|code| connections.contains(&code));
        // A token that came late is no trouble any more once brokers took it.
        let connection = connection || own.to_string().contains(NO_TOKEN);
        let before = held.map_or((now_ms, true), |held| (held.since_ms, held.connection));
        Self { since_ms: before.0, error: own, connection: connection && before.1 }
    }
}

/// What the client calls back. Runs on the thread that polls.
#[derive(Default)]
pub(super) struct Callbacks {
    changes: Mutex<Vec<Ownership>>,
    trouble: Mutex<Option<Error>>,
    /// What a broker failed with last: says more than that all of them are down.
    cause: Mutex<Option<(KafkaError, String)>>,
    /// Where partitions end for this client: behind the last row that it may read.
    ends: Mutex<BTreeMap<Place, i64>>,
    /// Whether statistics said, since it was last asked, that all brokers answer that this client needs.
    answers: AtomicBool,
    /// Which topics stand behind the names, and whether any was made anew since it was last asked.
    ids: Mutex<Ids>,
    is_anew: AtomicBool,
    tokens: Option<Tokens>,
}

/// The part of librdkafka's statistics that is of use here.
#[derive(Deserialize)]
struct Statistics {
    #[serde(default)]
    brokers: BTreeMap<String, BrokerStatistics>,
    #[serde(default)]
    topics: BTreeMap<String, TopicStatistics>,
    #[serde(default)]
    cgrp: Option<GroupStatistics>,
}

#[derive(Deserialize)]
struct BrokerStatistics {
    #[serde(default)]
    nodeid: i32,
    /// `logical` for what is a role of another one, such as the group's coordinator.
    #[serde(default)]
    source: String,
    #[serde(default)]
    state: String,
}

#[derive(Deserialize)]
struct GroupStatistics {
    #[serde(default)]
    state: String,
}

#[derive(Deserialize)]
struct TopicStatistics {
    #[serde(default)]
    partitions: BTreeMap<String, PartitionStatistics>,
}

#[derive(Deserialize)]
struct PartitionStatistics {
    hi_offset: i64,
    ls_offset: i64,
    #[serde(default)]
    leader: i32,
    #[serde(default)]
    fetch_state: String,
}

impl Statistics {
    /// Whether the group's coordinator and the leaders of all partitions that are read have a connection; where none is read, any
    /// broker.
    fn answer(&self) -> bool {
        let mut up = self
            .brokers
            .values()
            .filter(|broker| !["logical", "internal"].contains(&broker.source.as_str()) && broker.state == "UP");
        let coordinated = self.cgrp.as_ref().is_none_or(|group| group.state == "up");
        let partitions = self.topics.values().flat_map(|topic| topic.partitions.values());
        let mut read = partitions.filter(|own| own.fetch_state != "none" && !own.fetch_state.is_empty()).peekable();
        let all = match read.peek() {
            Some(_) => read.all(|own| own.leader >= 0 && up.clone().any(|broker| broker.nodeid == own.leader)),
            None => up.any(|broker| broker.nodeid >= 0),
        };
        coordinated && all
    }
}

impl Callbacks {
    /// What rebalances did since it was last asked.
    pub(super) fn changes(&self) -> Vec<Ownership> {
        std::mem::take(&mut *self.changes.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// The newest trouble with the cluster as a whole, once.
    pub(super) fn trouble(&self) -> Option<Error> {
        self.trouble.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// Whether all brokers answer that are needed, by what was heard of them since it was last asked.
    pub(super) fn answers(&self) -> bool {
        self.answers.swap(false, Ordering::Relaxed)
    }

    /// The topics that were made anew since it was last asked.
    pub(super) fn anew(&self) -> Vec<String> {
        // Asked for each row.
        if !self.is_anew.load(Ordering::Relaxed) {
            return Vec::new();
        }
        self.is_anew.store(false, Ordering::Relaxed);
        self.ids.lock().unwrap_or_else(PoisonError::into_inner).anew()
    }

    /// How many rows lie between `at`, the last one read, and the end of a partition.
    pub(super) fn behind(&self, place: &Place, at: Option<i64>) -> u64 {
        let ends = self.ends.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(end) = ends.get(place) else { return 0 };
        u64::try_from(end.saturating_sub(at.map_or(0, |at| at.saturating_add(1)))).unwrap_or(0)
    }

    fn note(&self, change: Ownership) {
        self.changes.lock().unwrap_or_else(PoisonError::into_inner).push(change);
    }

    fn troubled(&self, error: Error) {
        let mut trouble = self.trouble.lock().unwrap_or_else(PoisonError::into_inner);
        // A refusal says more than that, because of it, no broker answers.
        if trouble.as_ref().is_none_or(|held| held.kind() != ErrorKind::Denied) {
            *trouble = Some(error);
        }
    }
}

impl ClientContext for Callbacks {
    const ENABLE_REFRESH_OAUTH_TOKEN: bool = true;

    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        match level {
            RDKafkaLogLevel::Debug => {
                if self.ids.lock().unwrap_or_else(PoisonError::into_inner).hear(message) {
                    tracing::warn!("kafka: {message}");
                    self.is_anew.store(true, Ordering::Relaxed);
                }
                tracing::trace!(facility, "kafka: {message}");
            }
            RDKafkaLogLevel::Info | RDKafkaLogLevel::Notice => tracing::debug!(facility, "kafka: {message}"),
            // What matters of it comes as an error too.
            _ => tracing::info!(facility, "kafka: {message}"),
        }
    }

    fn error(&self, error: KafkaError, reason: &str) {
        tracing::debug!("kafka: {error}: {reason}");
        let mut cause = self.cause.lock().unwrap_or_else(PoisonError::into_inner);
        use RDKafkaErrorCode as Code;
        // Why there is no token was told when it was asked for: that may pass, where brokers that refuse us do not.
        if error.rdkafka_error_code() == Some(Code::Authentication) && reason.contains(NO_TOKEN) {
            let away = || Error::new(ErrorKind::Unavailable, format!("Kafka: {reason}"));
            self.trouble.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert_with(away);
            return;
        }
        let told = match (error.rdkafka_error_code(), &*cause) {
            (Some(Code::AllBrokersDown), Some((error, reason))) => meaning(error, reason),
            (code, _) => {
                if matches!(code, Some(Code::BrokerTransportFailure | Code::SSL | Code::Resolve)) {
                    *cause = Some((error.clone(), reason.to_owned()));
                }
                meaning(&error, reason)
            }
        };
        if let Some(meaning) = told {
            self.troubled(meaning);
        }
    }

    fn stats_raw(&self, statistics: &[u8]) {
        let Ok(told) = serde_json::from_slice::<Statistics>(statistics) else { return };
        self.answers.store(told.answer(), Ordering::Relaxed);
        let mut ends = self.ends.lock().unwrap_or_else(PoisonError::into_inner);
        for (topic, found) in told.topics {
            for (partition, at) in found.partitions {
                // Unknown offsets are negative, and so is the number of a partition that is none.
                let end = if at.ls_offset >= 0 { at.ls_offset } else { at.hi_offset };
                if let Some(number) = partition.parse().ok().filter(|number: &i32| *number >= 0 && end >= 0) {
                    ends.insert((topic.clone(), number), end);
                }
            }
        }
    }

    fn generate_oauth_token(&self, _: Option<&str>) -> Result<OAuthToken, Box<dyn std::error::Error>> {
        let tokens = self.tokens.as_ref().ok_or("no token server is configured")?;
        tokens.fetch().map_err(|error| {
            let text = error.to_string();
            self.troubled(error);
            text.into()
        })
    }
}

impl ConsumerContext for Callbacks {
    /// A partition is taken paused, until the pipeline says from where it is read; it is given away at once.
    fn rebalance(&self, client: &Client, code: RDKafkaRespErr, partitions: &mut TopicPartitionList) {
        let places = places(partitions);
        let answer = match code {
            RDKafkaRespErr::RD_KAFKA_RESP_ERR__ASSIGN_PARTITIONS => {
                // Not at an end or a beginning, which have to be looked up: librdkafka (2.12.1) looks up anew what was answered too
                // late, and goes there even if it was sent elsewhere meanwhile. Nothing is read at 0 either, for it is paused.
                let taken = partitions
                    .set_all_offsets(Offset::Offset(0))
                    .and_then(|()| client.incremental_assign(partitions))
                    .and_then(|()| client.pause(partitions));
                self.note(Ownership::Gained(places));
                taken
            }
            RDKafkaRespErr::RD_KAFKA_RESP_ERR__REVOKE_PARTITIONS => {
                self.note(Ownership::Lost(places));
                // A member that was put out of its group has nothing to give up step by step; what is not given up is waited for
                // without end when the client is closed.
                client.incremental_unassign(partitions).or_else(|_| client.unassign())
            }
            code => Err(KafkaError::Rebalance(code.into())),
        };
        if let Err(error) = answer {
            self.troubled(Error::new(ErrorKind::Unavailable, "Kafka: a rebalance failed").with_source(error));
        }
    }

    fn commit_callback(&self, result: Result<(), KafkaError>, _: &TopicPartitionList) {
        // Offsets of the group are for people and their tools: nothing rests on them.
        if let Err(error) = result {
            tracing::debug!("kafka: the group's offsets were not committed: {error}");
        }
    }
}

/// A partition as checkpoints name it.
pub(super) fn name((topic, partition): &Place) -> String {
    format!("{topic}/{partition}")
}

/// The partition that a checkpoint names.
pub(super) fn place(id: &PartitionId) -> Option<Place> {
    let (topic, partition) = id.as_str().rsplit_once('/')?;
    Some((topic.to_owned(), partition.parse().ok()?))
}

/// The partitions of a list.
pub(super) fn places(list: &TopicPartitionList) -> Vec<Place> {
    list.elements().iter().map(|element| (element.topic().to_owned(), element.partition())).collect()
}

/// What an error of the client means for the pipeline; `None` for what it mends by itself or is no error.
pub(super) fn meaning(error: &KafkaError, reason: &str) -> Option<Error> {
    use RDKafkaErrorCode as Code;
    let code = error.rdkafka_error_code()?;
    let of = |kind, what: &str| Some(Error::new(kind, format!("Kafka: {what}: {reason}")));
    let denied = |what, hint: &str| of(ErrorKind::Denied, what).map(|error| error.with_hint(hint));
    let unreachable = || of(ErrorKind::Unavailable, "the brokers cannot be reached or do not answer");
    let tls = || of(ErrorKind::Unavailable, "TLS fails").map(|error| error.with_hint(tls_hint(reason)));
    match code {
        Code::PartitionEOF | Code::NoError => None,
        Code::Authentication | Code::SaslAuthenticationFailed => {
            denied("the brokers refuse our credentials", "check sasl.mechanism and the credentials with it")
        }
        Code::TopicAuthorizationFailed => {
            denied("a topic may not be read", "grant READ and DESCRIBE on the topics to this user")
        }
        Code::GroupAuthorizationFailed => {
            denied("the group may not be joined", "grant READ on the consumer group to this user")
        }
        Code::ClusterAuthorizationFailed => denied("the cluster may not be used", "check this user's ACLs"),
        // An alert of theirs, such as that our certificate is missing, comes as the end of a connection.
        Code::SSL => tls(),
        Code::BrokerTransportFailure if is_alert(reason) => tls(),
        Code::BrokerTransportFailure if reason.contains("connecting to a PLAINTEXT broker listener") => unreachable()
            .map(|error| error.with_hint("tls.enabled = \"off\" if this port of the brokers is one without TLS")),
        Code::BrokerTransportFailure if reason.contains("connecting to a SSL listener") => unreachable()
            .map(|error| error.with_hint("tls.enabled = \"on\" if this port of the brokers is one with TLS")),
        Code::FencedInstanceId => of(ErrorKind::Config, "another process has the same member name")
            .map(|error| error.with_hint("give each process of the group its own `member`, or remove the setting")),
        // What was killed has its name until its session ends, if brokers assign partitions.
        Code::UnreleasedInstanceId => {
            of(ErrorKind::Unavailable, "the brokers still hold our member name for a process").map(|error| {
                error.with_hint(
                    "it is tried again until they miss a process that was killed (group.consumer.session.timeout.ms of the brokers, 45 s); \
                     if it lasts, another one runs under this name: give each process of the group its own `member`",
                )
            })
        }
        Code::UnsupportedVersion | Code::UnsupportedFeature => {
            of(ErrorKind::Config, "the brokers are too old for this")
                .map(|error| error.with_hint("set group_protocol = \"classic\", or use brokers of Kafka 4.0 or newer"))
        }
        Code::UnknownTopicOrPartition | Code::UnknownTopic | Code::UnknownPartition => {
            of(ErrorKind::Unavailable, "a topic is not there").map(|error| {
                error.with_hint("create it, or mend its name in `topics`; it is looked for again and again")
            })
        }
        Code::AutoOffsetReset | Code::OffsetOutOfRange => of(ErrorKind::Unavailable, "rows are no longer there"),
        _ => unreachable(),
    }
}

/// Whether the brokers broke off with an alert: OpenSSL calls these `ssl/tls alert …`, `tlsv1 alert …` and `tlsv13 alert …`.
fn is_alert(reason: &str) -> bool {
    reason.contains("SSL routines") && reason.contains(" alert ")
}

/// What to do about TLS that fails for this reason; docs/runbook.md has more of each.
fn tls_hint(reason: &str) -> &'static str {
    let hints = [
        (
            "certificate verify failed",
            "the brokers' certificate is not signed by tls.ca, has expired, or is of another host name than `brokers` and the brokers' own listeners say",
        ),
        ("alert certificate required", WANTED),
        ("alert bad certificate", WANTED),
        ("alert handshake failure", WANTED),
        ("alert certificate expired", "tls.certificate has expired: renew it, and start again"),
        ("alert certificate revoked", "tls.certificate was revoked: get another one, and start again"),
        ("alert unknown ca", UNTRUSTED),
        ("alert certificate unknown", UNTRUSTED),
        ("alert protocol version", "the brokers speak other versions of TLS than 1.2 and 1.3"),
    ];
    let known = hints.iter().find(|(text, _)| reason.contains(text)).map(|(_, hint)| *hint);
    known.unwrap_or("check tls.ca, the brokers' certificates and whether they ask for ours; tls.enabled = \"off\" for brokers without TLS")
}

const WANTED: &str = "the brokers want a certificate of ours, or another one: set tls.certificate and tls.key";
const UNTRUSTED: &str = "the brokers do not trust tls.certificate: it must be signed by an authority of theirs, and hold the chain up to it";

/// A client as configured; nothing is asked of the cluster yet. Call within a runtime: it fetches tokens there.
///
/// # Errors
/// `Config` for a property that librdkafka refuses.
pub(super) fn client(config: &KafkaConfig) -> Result<Client> {
    let mut own = ClientConfig::new();
    own.set("fetch.max.bytes", (config.fetch_bytes / ANSWERS).max(ANSWER_MIN).to_string())
        .set("fetch.queue.backoff.ms", FULL_MS);
    for (name, value) in &config.properties {
        own.set(name, value.expose());
    }
    let kbytes = (config.fetch_bytes / 1024).max(1).to_string();
    own.set("bootstrap.servers", config.brokers.join(","))
        .set("client.id", "frazil")
        .set("group.id", &config.group)
        .set("enable.auto.commit", "false")
        .set("enable.auto.offset.store", "false")
        // Where reading goes on is the table's to say: a position that is not there is an error.
        .set("auto.offset.reset", "error")
        .set("allow.auto.create.topics", "false")
        .set("check.crcs", "true")
        .set("queued.max.messages.kbytes", kbytes)
        .set("statistics.interval.ms", STATISTICS_MS)
        .set("debug", Ids::logged(config))
        .set_log_level(RDKafkaLogLevel::Debug)
        .set("topic.metadata.refresh.interval.ms", REFRESH_MS.to_string())
        .set("isolation.level", if config.read_uncommitted { "read_uncommitted" } else { "read_committed" });
    if config.broker_assigns {
        own.set("group.protocol", "consumer");
    } else {
        own.set("partition.assignment.strategy", "cooperative-sticky");
    }
    if let Some(member) = &config.member {
        own.set("group.instance.id", member);
    }
    secure(&mut own, config);
    let tokens = match &config.sasl {
        Some(sasl @ KafkaSasl::OAuth2 { .. }) => Some(Tokens::new(sasl)?),
        _ => None,
    };
    own.create_with_context(Callbacks { tokens, ..Callbacks::default() }).map_err(|error| match error {
        // Values may be secrets.
        KafkaError::ClientConfig(_, what, property, _) => {
            Error::new(ErrorKind::Config, format!("Kafka: property {property}: {what}"))
                .with_hint("mend it in the source's properties; docs: librdkafka CONFIGURATION.md")
        }
        error => Error::new(ErrorKind::Config, "Kafka: the client cannot be made").with_source(error),
    })
}

fn secure(own: &mut ClientConfig, config: &KafkaConfig) {
    let protocol = match (&config.tls, &config.sasl) {
        (None, None) => "plaintext",
        (Some(_), None) => "ssl",
        (None, Some(_)) => "sasl_plaintext",
        (Some(_), Some(_)) => "sasl_ssl",
    };
    own.set("security.protocol", protocol);
    if let Some(tls) = &config.tls {
        let text = |path: &std::path::Path| path.to_string_lossy().into_owned();
        own.set("ssl.ca.location", tls.ca.as_deref().map_or_else(|| "probe".to_owned(), text));
        if let (Some(certificate), Some(key)) = (&tls.certificate, &tls.key) {
            own.set("ssl.certificate.location", text(certificate)).set("ssl.key.location", text(key));
        }
        if let Some(password) = &tls.key_password {
            own.set("ssl.key.password", password.expose());
        }
    }
    match &config.sasl {
        None => {}
        Some(KafkaSasl::Password { mechanism, username, password }) => {
            own.set("sasl.mechanisms", mechanism)
                .set("sasl.username", username)
                .set("sasl.password", password.expose());
        }
        Some(KafkaSasl::OAuth2 { .. }) => {
            own.set("sasl.mechanisms", "OAUTHBEARER");
        }
    }
}

#[cfg(test)]
mod tests;
