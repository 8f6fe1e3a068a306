//! `frazil verify` on tables of a real topic, after transactions, after Spark's rewrite, and after what Spark breaks on purpose.

use std::path::Path;

use serde_json::{Value, json};

use crate::components::{scratch, value};
use crate::daemon::Daemon;
use crate::kafka::{Sender, create, has};
use crate::readers::Engine;
use crate::remote::lake;
use crate::table::{Table, spark_does};

/// Rows by a plain producer, and by one with transactions, some of which are given up.
const PLAIN: usize = 900;
const TRANSACTIONAL: usize = 1_500;

fn reader(folder: &Path, namespace: &str, topic: &str) -> Daemon {
    let config = format!(
        r#"
        instance = "one"
        state_dir = "{folder}/state"

        {lake}
        [source.rows]
        type = "kafka"
        brokers = ["{brokers}"]
        group = "{topic}"
        topics = ["{topic}"]

        [pipeline.rows]
        source = "rows"
        table = "lake.{namespace}.rows"
        commit = {{ freshness = "300ms" }}
        metadata = {{ kafka_topic = "origin", kafka_partition = "partition", kafka_offset = "number" }}

        [pipeline.rows.create]
        columns = ["n long"]
        format_version = 3
        properties = {{ "write.delete.mode" = "merge-on-read", "write.metadata.metrics.column.kafka_partition" = "full" }}
        "#,
        folder = folder.display(),
        lake = lake(),
        brokers = value("KAFKA_BROKERS"),
    );
    Daemon::configured(folder, &config)
}

fn verified(daemon: &Daemon, words: &[&str], code: i32) -> Value {
    let mut all = vec!["verify", "--pipeline", "rows", "--json"];
    all.extend(words);
    let output = daemon.command(&all).output().expect("run frazil");
    let (answer, said) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert_eq!(output.status.code(), Some(code), "{words:?}: {answer} {said}");
    serde_json::from_str(&answer).expect("--json prints JSON")
}

/// The sum of a number over all logs.
fn sum(answer: &Value, key: &str) -> u64 {
    answer["logs"].as_array().expect("logs").iter().map(|log| log[key].as_u64().expect("a number")).sum()
}

#[test]
fn a_topic_is_proven_to_be_in_its_table_once_and_what_is_broken_is_found() {
    let namespace = format!("verify{}", std::process::id());
    let (folder, topic) = (scratch(&namespace), format!("rows-of-{namespace}"));
    create(&topic, 3);
    let lines: Vec<String> = (0..PLAIN + TRANSACTIONAL).map(|n| format!(r#"{{"n":{n}}}"#)).collect();
    let lines: Vec<&str> = lines.iter().map(String::as_str).collect();
    let mut plain = Sender::new(&topic, 3, None);
    plain.send(&lines[..PLAIN]);
    plain.flush();
    Sender::new(&topic, 3, Some(&format!("tx-{topic}"))).transact(&lines[PLAIN..]);
    let daemon = reader(&folder, &namespace, &topic);
    let mut process = daemon.spawn(&[]);
    let table = Table::of(&namespace, "rows");
    has(&daemon, &table.name, lines.len() as u64, &mut [&mut process]);
    process.signal("TERM");

    // Aborted rows and the markers of transactions leave holes: of these the log alone can tell.
    let alone = verified(&daemon, &[], 5);
    assert!(sum(&alone, "missing") > 0 && sum(&alone, "surplus") == 0, "{alone}");
    let asked = verified(&daemon, &["--connect"], 0);
    assert_eq!((sum(&asked, "holes"), sum(&asked, "missing")), (sum(&alone, "missing"), 0), "{asked}");
    assert_eq!(sum(&asked, "rows"), lines.len() as u64);

    // Spark's rewrite changes nothing of it; nor does a deletion vector, which is told apart.
    spark_does(&table.place, "compact", json!(true));
    spark_does(&table.place, "delete", json!(format!("kafka_partition = '{topic}/0' AND kafka_offset = 7")));
    let deleted = verified(&daemon, &["--connect"], 0);
    assert_eq!((sum(&deleted, "deleted"), sum(&deleted, "rows")), (1, lines.len() as u64 - 1), "{deleted}");

    let mut request = table.place.clone();
    let row = |offset: i64| json!({"n": -1, "kafka_topic": topic, "kafka_partition": format!("{topic}/1"), "kafka_offset": offset});
    request["append"] = json!([row(20), row(21)]);
    assert_eq!(Engine::Spark.ask(request)["rows"], json!(2));
    let twice = verified(&daemon, &["--connect"], 5);
    let log = twice["logs"].as_array().expect("logs").iter().find(|log| log["log"] == format!("{topic}/1"));
    let log = log.expect("the log");
    assert_eq!((log["surplus"].as_u64(), sum(&twice, "surplus"), sum(&twice, "missing")), (Some(2), 2, 0), "{twice}");
    assert_eq!((log["duplicates"][0]["first"].as_u64(), log["duplicates"][0]["last"].as_u64()), (Some(20), Some(21)));
    assert_eq!(log["duplicates"][0]["files"].as_array().map(Vec::len), Some(2), "{log}");

    // Without the copies, and without rows whose files are gone for good.
    spark_does(&table.place, "delete", json!("n = -1"));
    verified(&daemon, &["--connect"], 0);
    spark_does(
        &table.place,
        "delete",
        json!(format!("kafka_partition = '{topic}/2' AND kafka_offset BETWEEN 30 AND 34")),
    );
    spark_does(&table.place, "compact", json!(true));
    let lost = verified(&daemon, &["--connect", "--partition", &format!("{topic}/2")], 5);
    let log = &lost["logs"][0];
    assert_eq!((log["missing"].as_u64(), log["asked"].as_bool()), (Some(5), Some(true)), "{lost}");
    assert_eq!(log["gaps"], json!([{"first": 30, "last": 34}]), "{lost}");
}
