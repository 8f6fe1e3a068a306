use super::*;

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
