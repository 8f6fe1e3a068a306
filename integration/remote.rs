//! The same on S3 with a REST catalog that we did not write, while Spark appends to the same table.

use std::fs;
use std::path::Path;

use serde_json::{Value, json};

use crate::components::{rows, scratch, value};
use crate::daemon::{Daemon, Moments};
use crate::input::{FLIGHTS, Growing, created};
use crate::readers::{Engine, all_engines_find, input};

const KILLS: usize = 10;
/// Rounds in which Spark appends while the daemon runs; it does so once more during the last run.
const BESIDE_SPARK: usize = 5;
const APPENDS: usize = BESIDE_SPARK + 1;
/// Rows of one append.
const APPENDED: usize = 100;

/// The catalog and the store, as a configuration has them.
pub(crate) fn lake() -> String {
    format!(
        r#"
        [catalog.lake]
        type = "rest"
        uri = "{uri}"

        [store."s3://{bucket}"]
        endpoint = "{endpoint}"
        access_key_id = "{key}"
        secret_access_key = "{secret}"
        region = "{region}"
        allow_http = "true"
        "#,
        uri = value("APACHE_REST_URI"),
        bucket = value("S3_BUCKET"),
        endpoint = value("S3_ENDPOINT"),
        key = value("S3_ACCESS_KEY_ID"),
        secret = value("S3_SECRET_ACCESS_KEY"),
        region = value("S3_REGION"),
    )
}

fn config(folder: &Path, namespace: &str, format_version: u8) -> String {
    let folder = folder.display();
    let columns = created(FLIGHTS);
    format!(
        r#"
        instance = "one"
        state_dir = "{folder}/state"

        {lake}
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
        lake = lake(),
    )
}

/// The table `flights` of a namespace, as engines are asked for it.
pub(crate) fn place(namespace: &str) -> Value {
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

/// A foreign snapshot with some of ours before and after it: else the two have not met.
fn the_writers_took_turns(daemon: &Daemon, table: &str) {
    let foreign = |snapshot: &Value| snapshot["summary"].get("spark.app.id").is_some();
    let turns: Vec<bool> = daemon.history(table).iter().map(foreign).collect();
    println!("{table}: {}", turns.iter().map(|foreign| if *foreign { 'S' } else { '.' }).collect::<String>());
    assert_eq!(turns.iter().filter(|foreign| **foreign).count(), APPENDS, "commits by Spark");
    assert!(turns.windows(2).any(|pair| pair == [true, false]), "no commit of ours after one of Spark's");
    assert!(turns.windows(2).any(|pair| pair == [false, true]), "no commit of Spark's after one of ours");
}

fn every_row_is_there_once_beside_spark(format_version: u8, seed: u64) {
    // A catalog may be kept for several runs, and a table that is there already is gone on with.
    let namespace = format!("nyc_v{format_version}_{}", std::process::id());
    let folder = &scratch(&namespace);
    let daemon = Daemon::configured(folder, &config(folder, &namespace, format_version));
    let flights = rows("nyc_flights.ndjson");
    let mut growing = Growing::cut(&flights, &folder.join("flights"), 60);
    let mut moments = Moments::seeded(seed);
    let table = format!("lake.{namespace}.flights");
    for round in 0..KILLS - BESIDE_SPARK {
        growing.appear(growing.waiting() / (KILLS - round));
        daemon.run_and_kill(round, &mut moments);
    }
    // Starts Spark's session as well, so that its appends come while the daemon runs.
    assert!(Engine::Spark.read(&place(&namespace), FLIGHTS).rows > 0, "no rows after {} rounds", KILLS - BESIDE_SPARK);
    for append in 0..BESIDE_SPARK {
        let share = growing.waiting() / (BESIDE_SPARK - append + 1);
        growing.appear(share / 2);
        std::thread::scope(|scope| {
            let spark = scope.spawn(|| spark_appends(&namespace, append));
            let more = || growing.appear(share / 2);
            daemon.run_beside_and_kill(|| !spark.is_finished(), more, &mut moments);
        });
    }
    growing.appear(growing.waiting());
    std::thread::scope(|scope| {
        scope.spawn(|| spark_appends(&namespace, BESIDE_SPARK));
        daemon.finish(&["flights"]);
    });
    the_writers_took_turns(&daemon, &table);
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
