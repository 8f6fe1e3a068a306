use std::io::{self, Write};
use std::sync::Arc;
use std::time::Duration;

use tracing_subscriber::filter::LevelFilter;

use super::*;
use crate::config::load::from_text;
use crate::config::{Secret, SourceConfig};

/// The source that these settings make, beside those that none is without.
fn configured(settings: &str) -> KafkaConfig {
    let own = "[source.shop]\ntype = \"kafka\"\nbrokers = [\"127.0.0.1:1\"]\ngroup = \"g\"\ntopics = [\"orders\"]";
    let mut config = from_text("frazil.toml", format!("{own}\n{settings}\n"), &[]).expect("valid").config;
    match config.sources.remove("shop") {
        Some(SourceConfig::Kafka(kafka)) => *kafka,
        other => panic!("{other:?}"),
    }
}

/// What is logged.
#[derive(Clone, Default)]
struct Lines(Arc<Mutex<Vec<u8>>>);

impl Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().expect("whole").extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Lines {
    fn text(&self) -> String {
        String::from_utf8_lossy(&self.0.lock().expect("whole")).into_owned()
    }
}

/// What a client logs that is made of these settings: among it librdkafka's word on the properties that it was given.
fn logged(config: &KafkaConfig) -> String {
    let mut config = config.clone();
    config.properties.insert("debug".to_owned(), Secret::new("conf"));
    let lines = Lines::default();
    let writer = lines.clone();
    let logs = tracing_subscriber::fmt().with_max_level(LevelFilter::TRACE).with_ansi(false);
    tracing::subscriber::with_default(logs.with_writer(move || writer.clone()).finish(), || {
        let client = client(&config).expect("a client");
        let mut polls = 0;
        // This follows them.
        while !lines.text().contains("Default topic configuration:") {
            polls += 1;
            assert!(polls < 1_000, "{}", lines.text());
            client.poll(Duration::from_millis(10));
        }
    });
    lines.text()
}

/// The properties in it.
fn properties(logged: &str) -> BTreeMap<&str, &str> {
    let lines = logged.lines();
    lines.filter_map(|line| line.split_once("]:   ")?.1.split_once(" facility=")?.0.split_once(" = ")).collect()
}

#[test]
fn a_member_keeps_its_name_whoever_assigns_partitions_and_what_brokers_decide_is_left_to_them_where_they_do() {
    let (consumer, classic) = ("member = \"one\"\ngroup_protocol = \"consumer\"", "member = \"one\"");
    let [consumer, classic] = [consumer, classic].map(|settings| logged(&configured(settings)));
    let [consumer, classic] = [&consumer, &classic].map(|logged| properties(logged));
    assert_eq!(consumer.get("group.protocol").copied(), Some("consumer"));
    assert_eq!(consumer.get("group.instance.id").copied(), Some("one"));
    let theirs =
        ["partition.assignment.strategy", "session.timeout.ms", "heartbeat.interval.ms", "group.protocol.type"];
    for name in theirs {
        assert_eq!(consumer.get(name), None, "{name}");
    }
    assert_eq!(classic.get("group.protocol"), None);
    assert_eq!(classic.get("group.instance.id").copied(), Some("one"));
    assert_eq!(classic.get("partition.assignment.strategy").copied(), Some("cooperative-sticky"));
    // Whoever sets one of them all the same hears of it.
    for name in ["session.timeout.ms", "heartbeat.interval.ms"] {
        let set = format!("group_protocol = \"consumer\"\nproperties = {{ {name:?} = \"6000\" }}");
        let error = client(&configured(&set)).err().expect(name);
        assert_eq!(error.kind(), ErrorKind::Config);
        assert!(error.to_string().contains(&format!("`{name}` is not supported")), "{error}");
    }
}

/// A key that `hunter2` opens, and a certificate of it.
const LOCKED: &str = "\
-----BEGIN ENCRYPTED PRIVATE KEY-----
MIHsMFcGCSqGSIb3DQEFDTBKMCkGCSqGSIb3DQEFDDAcBAgy2X08tcpavQICCAAw
DAYIKoZIhvcNAgkFADAdBglghkgBZQMEASoEENDFm6rp0CzCbFRivHjeTewEgZBG
PEu1wCEpcBcKP18WjCEqtd5lN6DIaW2NnqOTUlplG+q9e2h5XYK4qBmXUGrNMyE5
W23PQkS5vqsE3LVzOrYbY0ylT7iU8qDqXjZvgELwDMUPtj6FFqYqWfYOaqXj795O
uXwkVb0Jfdv2JRZPEq2WmiVqVSQ+c7Ad2S4Dw4yS5MvOq/OqohStZ/fVfgfBNXE=
-----END ENCRYPTED PRIVATE KEY-----
";
const CERTIFICATE: &str = "\
-----BEGIN CERTIFICATE-----
MIIBejCCAR+gAwIBAgIUQ9STxwybrEB8xs7vQtpq5w0zKVowCgYIKoZIzj0EAwIw
ETEPMA0GA1UEAwwGZnJhemlsMCAXDTI2MTIwMTA1NDgwMVoYDzIxMjYxMTA3MDU0
ODAxWjARMQ8wDQYDVQQDDAZmcmF6aWwwWTATBgcqhkjOPQIBBggqhkjOPQMBBwNC
AAT4xfQPBEqlHeKHxv+jA2e7Gcy7CJWosnJPWcjSyE+j8HuT7JSc8c8zj2jvpD5m
gR34gKhGM/rpiaZ+lT+pd5lqo1MwUTAdBgNVHQ4EFgQUPp+rjcsEIEMAFZcimCuh
F2D4DhAwHwYDVR0jBBgwFoAUPp+rjcsEIEMAFZcimCuhF2D4DhAwDwYDVR0TAQH/
BAUwAwEB/zAKBggqhkjOPQQDAgNJADBGAiEAuUGm6ftM899dDo9rtg/hUh5LWf5z
NwMtqPdlwLoXxZYCIQDyMjBVKrakh+ASy8cBTmuwuYonW26cx+qAwLuFkPoH1A==
-----END CERTIFICATE-----
";

#[test]
fn a_locked_key_is_opened_by_the_password_for_it_which_no_log_and_no_error_shows() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = |name: &str, text: &str| {
        let path = folder.path().join(name);
        std::fs::write(&path, text).expect("writable");
        path
    };
    let (certificate, key) = (file("own.crt", CERTIFICATE), file("own.key", LOCKED));
    let with = |password: &str| {
        let files = format!("ca = {certificate:?}, certificate = {certificate:?}, key = {key:?}");
        configured(&format!("tls = {{ enabled = \"on\", {files}{password} }}"))
    };
    let opened = with(", key_password = \"hunter2\"");
    assert!(format!("{opened:?}").contains("key_password: Some(***)"), "{opened:?}");
    let logged = logged(&opened);
    assert_eq!(properties(&logged).get("ssl.key.password"), Some(&"[redacted]"));
    assert!(!logged.contains("hunter"));
    for wrong in ["", ", key_password = \"hunter3\""] {
        let error = client(&with(wrong)).err().expect("the key stays locked");
        assert_eq!(error.kind(), ErrorKind::Config);
        let said = format!("{error:?}");
        assert!(said.contains("ssl.key.location failed") && !said.contains("hunter"), "{said}");
    }
}

#[test]
fn a_token_server_that_is_away_is_no_refusal_of_the_brokers() {
    let callbacks = Callbacks::default();
    let refused = KafkaError::Global(RDKafkaErrorCode::Authentication);
    callbacks.troubled(Error::new(ErrorKind::Unavailable, "OAuth2 token: the server answered 503"));
    callbacks.error(refused.clone(), "Failed to acquire SASL OAUTHBEARER token: the server answered 503");
    let told = callbacks.trouble().expect("told");
    assert_eq!((told.kind(), told.to_string().contains("503")), (ErrorKind::Unavailable, true), "{told}");
    // Another error may have taken it along.
    callbacks.error(refused.clone(), "Failed to acquire SASL OAUTHBEARER token: the server answered 503");
    assert_eq!(callbacks.trouble().expect("told").kind(), ErrorKind::Unavailable);
    callbacks.error(refused, "SASL OAUTHBEARER authentication failed: invalid_token");
    assert_eq!(callbacks.trouble().expect("told").kind(), ErrorKind::Denied);
}

#[test]
fn trouble_is_over_once_brokers_answer_only_while_it_was_about_connections_alone() {
    let after = |held, code, now_ms| {
        Trouble::after(held, &KafkaError::Global(code), Error::new(ErrorKind::Unavailable, "down"), now_ms)
    };
    let down = after(None, RDKafkaErrorCode::AllBrokersDown, 5);
    assert_eq!((down.since_ms, down.connection), (5, true));
    let still = after(Some(down), RDKafkaErrorCode::BrokerTransportFailure, 7);
    assert_eq!((still.since_ms, still.connection), (5, true));
    let missing = after(Some(still), RDKafkaErrorCode::UnknownTopicOrPartition, 9);
    assert_eq!((missing.since_ms, missing.connection), (5, false));
    assert!(!after(Some(missing), RDKafkaErrorCode::BrokerTransportFailure, 11).connection);
}

#[test]
fn brokers_answer_once_the_coordinator_and_every_leader_that_is_read_from_has_a_connection() {
    let told = |group: &str, states: [&str; 2], fetch: [&str; 2]| {
        let text = serde_json::json!({
            "brokers": {
                "b1:9092/1": { "nodeid": 1, "state": states[0] },
                "b2:9092/2": { "nodeid": 2, "state": states[1] },
                "GroupCoordinator": { "nodeid": 2, "source": "logical", "state": "UP" },
                "b1:9092/bootstrap": { "nodeid": -1, "state": "UP" },
            },
            "cgrp": { "state": group },
            "topics": { "orders": { "partitions": {
                "0": { "leader": 1, "fetch_state": fetch[0], "hi_offset": 3, "ls_offset": 3 },
                "1": { "leader": 2, "fetch_state": fetch[1], "hi_offset": 3, "ls_offset": 3 },
                "-1": { "leader": -1, "fetch_state": "none", "hi_offset": -1001, "ls_offset": -1001 },
            } } },
        });
        serde_json::from_value::<Statistics>(text).expect("as librdkafka tells").answer()
    };
    let both = ["active", "active"];
    assert!(told("up", ["UP", "UP"], both));
    assert!(!told("up", ["UP", "TRY_CONNECT"], both) && !told("wait-broker-transport", ["UP", "UP"], both));
    assert!(told("up", ["UP", "DOWN"], ["active", "none"]) && !told("up", ["UP", "DOWN"], ["none", "offset-query"]));
    assert!(told("up", ["DOWN", "UP"], ["none", "none"]) && !told("up", ["DOWN", "INIT"], ["none", "none"]));
}

#[test]
fn rows_wait_from_the_last_one_read_to_the_end_that_this_client_may_read() {
    let callbacks = Callbacks::default();
    let (read, unread, unknown) = (("orders".to_owned(), 0), ("orders".to_owned(), 1), ("lines".to_owned(), 0));
    assert_eq!(callbacks.behind(&read, None), 0, "nothing is known yet");
    let told = serde_json::json!({ "topics": { "orders": { "partitions": {
        // The last rows are of a transaction that is open.
        "0": { "hi_offset": 30, "ls_offset": 25 },
        "1": { "hi_offset": 12, "ls_offset": -1001 },
        "-1": { "hi_offset": 7, "ls_offset": 7 },
    } }, "lines": { "partitions": { "0": { "hi_offset": -1001, "ls_offset": -1001 } } } } });
    callbacks.stats_raw(told.to_string().as_bytes());
    assert_eq!([Some(19), Some(24), Some(40)].map(|at| callbacks.behind(&read, at)), [5, 0, 0]);
    assert_eq!((callbacks.behind(&unread, None), callbacks.behind(&unknown, None)), (12, 0));
}

#[test]
fn what_tls_fails_for_is_told_with_its_own_way_out() {
    let alert = |text: &str| {
        format!("ssl://b1:9093/1: SSL handshake failed: error:0A000412:SSL routines::{text} (after 3ms in state UP)")
    };
    let transport = KafkaError::Global(RDKafkaErrorCode::BrokerTransportFailure);
    for (text, hint) in [
        ("tlsv13 alert certificate required", "want a certificate of ours"),
        ("ssl/tls alert bad certificate", "want a certificate of ours"),
        ("ssl/tls alert handshake failure", "want a certificate of ours"),
        ("ssl/tls alert certificate expired", "renew it"),
        ("ssl/tls alert certificate revoked", "get another one"),
        ("tlsv1 alert unknown ca", "do not trust tls.certificate"),
        ("ssl/tls alert certificate unknown", "do not trust tls.certificate"),
        ("tlsv1 alert protocol version", "other versions of TLS"),
        ("tlsv1 alert internal error", "check tls.ca"),
    ] {
        for error in [&transport, &KafkaError::Global(RDKafkaErrorCode::SSL)] {
            let told = meaning(error, &alert(text)).expect("an error");
            assert_eq!(told.kind(), ErrorKind::Unavailable);
            assert!(told.to_string().starts_with("Kafka: TLS fails: ssl://b1:9093/1"), "{told}");
            assert!(told.hint().is_some_and(|own| own.contains(hint)), "{text}: {:?}", told.hint());
        }
    }
    let verify = alert("certificate verify failed: broker certificate could not be verified");
    let told = meaning(&KafkaError::Global(RDKafkaErrorCode::SSL), &verify).expect("an error");
    assert!(told.hint().is_some_and(|hint| hint.contains("not signed by tls.ca")), "{:?}", told.hint());
}

#[test]
fn a_connection_that_ends_is_no_alert_and_one_to_the_wrong_port_says_so() {
    let transport = KafkaError::Global(RDKafkaErrorCode::BrokerTransportFailure);
    for (reason, hint) in [
        ("error:0A000126:SSL routines::unexpected eof while reading", None),
        ("Disconnected: verify that security.protocol is correctly configured", None),
        (
            "SSL handshake failed: Disconnected: connecting to a PLAINTEXT broker listener?",
            Some("tls.enabled = \"off\""),
        ),
        (
            "Disconnected: requesting ApiVersion: might be caused by incorrect security.protocol configuration (connecting to a SSL listener?)",
            Some("tls.enabled = \"on\""),
        ),
    ] {
        let told = meaning(&transport, reason).expect("an error");
        assert!(told.to_string().starts_with("Kafka: the brokers cannot be reached"), "{told}");
        assert_eq!(told.hint().map(|own| hint.is_some_and(|part| own.contains(part))), hint.map(|_| true), "{reason}");
    }
}

#[test]
fn a_name_that_brokers_still_hold_is_waited_for_and_one_that_another_process_took_is_not() {
    let of = |code| meaning(&KafkaError::MessageConsumptionFatal(code), "why").expect("a meaning");
    let held = of(RDKafkaErrorCode::UnreleasedInstanceId);
    assert_eq!(held.kind(), ErrorKind::Unavailable, "{held}");
    assert!(held.hint().is_some_and(|hint| hint.contains("session.timeout.ms") && hint.contains("its own `member`")));
    assert_eq!(of(RDKafkaErrorCode::FencedInstanceId).kind(), ErrorKind::Config);
}
