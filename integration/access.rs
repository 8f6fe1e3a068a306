//! Who may read a topic: each way to identify at a real broker, and what is said when it is not enough.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use axum::routing::post;
use axum::{Json, Router};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use frazil::env::Env;
use serde_json::json;

use crate::components::{scratch, value};
use crate::daemon::Daemon;
use crate::kafka::{PATIENCE, Sender, create, has, here, numbered};

/// A token server that gives whoever has the secret an unsigned token for an hour. Its address.
fn tokens() -> String {
    async fn grant(form: String) -> Result<Json<serde_json::Value>, axum::http::StatusCode> {
        if !form.split('&').any(|field| field == "client_secret=t0ken-secret") {
            return Err(axum::http::StatusCode::UNAUTHORIZED);
        }
        let now = Env::system().now_ms() / 1_000;
        let claims = json!({ "sub": "frazil", "iat": now, "exp": now + 3_600 }).to_string();
        let part = |text: &str| URL_SAFE_NO_PAD.encode(text);
        let token = format!("{}.{}.", part(r#"{"alg":"none"}"#), part(&claims));
        Ok(Json(json!({ "access_token": token, "token_type": "Bearer", "expires_in": 3_600 })))
    }
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    listener.set_nonblocking(true).expect("for the runtime");
    let at = listener.local_addr().expect("an address");
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        runtime.block_on(async move {
            let listener = tokio::net::TcpListener::from_std(listener).expect("a listener");
            axum::serve(listener, Router::new().route("/token", post(grant))).await.expect("serves");
        });
    });
    format!("http://{at}/token")
}

fn reader(folder: &Path, topic: &str, brokers: &str, access: &str) -> Daemon {
    let config = format!(
        r#"
        {here}
        [source.rows]
        type = "kafka"
        brokers = ["{brokers}"]
        group = "{topic}-{name}"
        topics = ["{topic}"]
        {access}

        [pipeline.rows]
        source = "rows"
        table = "lake.k.rows"
        commit = {{ freshness = "300ms" }}
        "#,
        here = here(folder),
        name = folder.file_name().expect("a name").to_string_lossy(),
    );
    Daemon::configured(folder, &config)
}

fn send(topic: &str, range: std::ops::Range<u32>) {
    let mut sender = Sender::new(topic, 2, None);
    sender.send(&numbered(range).iter().map(String::as_str).collect::<Vec<_>>());
    sender.flush();
}

#[test]
fn rows_come_by_each_way_to_identify_at_a_broker() {
    let topic = format!("access-{}", std::process::id());
    let folder = scratch(&topic);
    create(&topic, 2);
    send(&topic, 0..40);
    let (ca, password) = (value("KAFKA_CA"), value("KAFKA_PASSWORD"));
    let tls = format!("tls = {{ enabled = \"on\", ca = {ca:?} }}");
    let named = |mechanism: &str, user: &str| {
        format!("{tls}\nsasl = {{ mechanism = {mechanism:?}, username = {user:?}, password = {password:?} }}")
    };
    let bearer = |secret: &str| {
        let uri = tokens();
        format!(
            "{tls}\nsasl = {{ mechanism = \"OAUTHBEARER\", token_uri = {uri:?}, client_id = \"frazil\", client_secret = {secret:?} }}"
        )
    };
    let mutual = format!(
        "tls = {{ enabled = \"on\", ca = {ca:?}, certificate = {:?}, key = {:?} }}",
        value("KAFKA_CERTIFICATE"),
        value("KAFKA_KEY")
    );
    let ways = [
        // As Azure Event Hubs wants it.
        ("plain", value("KAFKA_TLS_BROKERS"), named("PLAIN", value("KAFKA_HUB_USER"))),
        ("scram", value("KAFKA_TLS_BROKERS"), named("SCRAM-SHA-256", value("KAFKA_256_USER"))),
        ("bearer", value("KAFKA_TLS_BROKERS"), bearer("t0ken-secret")),
        ("mutual", value("KAFKA_MUTUAL_BROKERS"), mutual),
    ];
    for (name, brokers, access) in ways {
        let own = folder.join(name);
        fs::create_dir(&own).expect("make a folder");
        let daemon = reader(&own, &topic, brokers, &access);
        let mut process = daemon.spawn(&[]);
        has(&daemon, "lake.k.rows", 40, &mut [&mut process]);
    }

    let refused = [
        ("other", value("KAFKA_TLS_BROKERS"), bearer("n0t-it"), "the server answered 401"),
        ("bare", value("KAFKA_MUTUAL_BROKERS"), tls.clone(), "TLS fails"),
    ];
    for (name, brokers, access, told) in refused {
        let own = folder.join(name);
        fs::create_dir(&own).expect("make a folder");
        let daemon = reader(&own, &topic, brokers, &access);
        let output = daemon.command(&["check", "--connect"]).output().expect("run frazil");
        let said = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert!(!output.status.success() && said.contains(told) && !said.contains("n0t-it"), "{name}: {said}");
    }
}

/// Lets only somebody else read a topic, or everybody again.
fn reserve(topic: &str, reserved: bool) {
    let script = r#"
import sys
from confluent_kafka.admin import *
topic, step = sys.argv[2:]
admin = AdminClient({"bootstrap.servers": sys.argv[1]})
name = (ResourceType.TOPIC, topic, ResourcePatternType.LITERAL)
who = ("User:somebody", "*", AclOperation.ALL, AclPermissionType.ALLOW)
if step == "reserve":
    asked = admin.create_acls([AclBinding(*name, *who)])
else:
    asked = admin.delete_acls([AclBindingFilter(*name, *who)])
for future in asked.values():
    future.result(30)
"#;
    let step = if reserved { "reserve" } else { "free" };
    let mut command = Command::new(value("KAFKA_PYTHON"));
    let output = command.args(["-c", script, value("KAFKA_BROKERS"), topic, step]).output().expect("run Python");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn a_topic_that_may_not_be_read_any_more_is_told_and_no_row_is_lost() {
    let topic = format!("denied-{}", std::process::id());
    let folder = scratch(&topic);
    create(&topic, 2);
    let access = format!(
        "tls = {{ enabled = \"on\", ca = {:?} }}\nsasl = {{ mechanism = \"SCRAM-SHA-512\", username = {:?}, password = {:?} }}",
        value("KAFKA_CA"),
        value("KAFKA_USER"),
        value("KAFKA_PASSWORD")
    );
    let daemon = reader(&folder, &topic, value("KAFKA_TLS_BROKERS"), &access);
    let mut process = daemon.spawn(&[]);
    send(&topic, 0..20);
    has(&daemon, "lake.k.rows", 20, &mut [&mut process]);

    reserve(&topic, true);
    send(&topic, 20..50);
    let status = process.ends(PATIENCE);
    let said = fs::read_to_string(folder.join("frazil.log")).expect("read the log");
    assert!(!status.success() && said.contains("a topic may not be read") && said.contains("grant READ"), "{said}");

    reserve(&topic, false);
    let mut process = daemon.spawn(&[]);
    has(&daemon, "lake.k.rows", 50, &mut [&mut process]);
    assert!(process.runs_for(Duration::from_secs(1)), "{}", process.tail());
}
