//! The same on S3 with a REST catalog that we did not write, while Spark appends to the same table.

use std::fs;
use std::path::Path;

use serde_json::{Value, json};

use crate::components::{rows, scratch, value};
use crate::daemon::{Daemon, Moments};
use crate::input::{FLIGHTS, Growing, created};
use crate::readers::{Engine, all_engines_find, input};

const KILLS: usize = 10;
/// Commits by Spark, one beside each of the later rounds, and rows in each.
const APPENDS: usize = 5;
const APPENDED: usize = 100;

fn config(folder: &Path, namespace: &str, format_version: u8) -> String {
    let folder = folder.display();
    let columns = created(FLIGHTS);
    format!(
        r#"
        instance = "one"
        state_dir = "{folder}/state"

        [catalog.lake]
        type = "rest"
        uri = "{uri}"

        [store."s3://{bucket}"]
        endpoint = "{endpoint}"
        access_key_id = "{key}"
        secret_access_key = "{secret}"
        region = "{region}"
        allow_http = "true"

        [source.flights]
        type = "files"
        path = "{folder}/flights"
        poll = "100ms"

        [pipeline.flights]
        source = "flights"
        table = "lake.{namespace}.flights"
        commit = {{ freshness = "500ms", rows_max = 8000 }}

        [pipeline.flights.create]
        columns = [{columns}]
        partition = ["month(time_hour)", "origin"]
        format_version = {format_version}
        # Spark's own patience: it competes with a commit of ours every half second.
        properties = {{ "commit.retry.num-retries" = "30", "commit.retry.max-wait-ms" = "2000" }}
        "#,
        uri = value("APACHE_REST_URI"),
        bucket = value("S3_BUCKET"),
        endpoint = value("S3_ENDPOINT"),
        key = value("S3_ACCESS_KEY_ID"),
        secret = value("S3_SECRET_ACCESS_KEY"),
        region = value("S3_REGION"),
    )
}

fn place(namespace: &str) -> Value {
    json!({
        "table": format!("{namespace}.flights"),
        "catalog": { "uri": value("APACHE_REST_URI") },
        "s3": {
            "endpoint": value("S3_ENDPOINT"),
            "access_key_id": value("S3_ACCESS_KEY_ID"),
            "secret_access_key": value("S3_SECRET_ACCESS_KEY"),
            "region": value("S3_REGION"),
        },
    })
}

/// Rows that no flight of the input equals.
fn foreign_rows(append: usize) -> Vec<Value> {
    let row = |number: usize| {
        json!({
            "year": 2014, "month": 1, "day": 1, "carrier": "SPARK", "flight": append * APPENDED + number,
            "origin": "ZZZ", "distance": 1, "dep_delay": -0.5, "time_hour": "2014-01-01T00:00:00Z",
        })
    };
    (0..APPENDED).map(row).collect()
}

fn spark_appends(namespace: &str, append: usize) {
    let mut request = place(namespace);
    request["append"] = Value::Array(foreign_rows(append));
    let answer = Engine::Spark.ask(request);
    assert_eq!(answer["rows"], json!(APPENDED), "Spark's append {append} failed: {answer}");
}

fn every_row_is_there_once_beside_spark(format_version: u8, seed: u64) {
    let namespace = format!("nyc_v{format_version}");
    let folder = &scratch(&namespace);
    let daemon = Daemon::configured(folder, &config(folder, &namespace, format_version));
    let flights = rows("nyc_flights.ndjson");
    let mut growing = Growing::cut(&flights, &folder.join("flights"), 60);
    let mut moments = Moments::seeded(seed);
    let table = format!("lake.{namespace}.flights");
    for round in 0..KILLS - APPENDS {
        growing.appear(growing.waiting() / (KILLS - round));
        daemon.run_and_kill(round, &mut moments);
    }
    assert!(daemon.table(&table).is_some(), "no table after {} rounds", KILLS - APPENDS);
    std::thread::scope(|scope| {
        let spark = scope.spawn(|| (0..APPENDS).for_each(|append| spark_appends(&namespace, append)));
        for round in KILLS - APPENDS..KILLS {
            growing.appear(growing.waiting() / (KILLS - round));
            daemon.run_and_kill(round, &mut moments);
        }
        growing.appear(growing.waiting());
        daemon.finish(&["flights"]);
        spark.join().expect("Spark's appends");
    });
    let foreign = folder.join("foreign.ndjson");
    let lines: Vec<String> = (0..APPENDS).flat_map(foreign_rows).map(|row| row.to_string()).collect();
    fs::write(&foreign, lines.join("\n")).expect("write the foreign rows");
    let wanted = input(&[&flights, &foreign], FLIGHTS);
    all_engines_find(&wanted, &place(&namespace), FLIGHTS);
}

#[test]
fn ten_kills_beside_a_foreign_writer_lose_and_double_no_row_on_s3_v2() {
    every_row_is_there_once_beside_spark(2, 0x0002_5001);
}

#[test]
fn ten_kills_beside_a_foreign_writer_lose_and_double_no_row_on_s3_v3() {
    every_row_is_there_once_beside_spark(3, 0x0003_5001);
}
