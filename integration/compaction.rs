//! Tables that Spark deletes from, as position deletes or as deletion vectors, are compacted; engines that we did not write read
//! the same rows before and after, and on format version 3 the same row ids. A second table of the same input, and with the same
//! deletes, is compacted by Spark itself: it holds what ours holds.

use std::fs;
use std::path::Path;
use std::time::Duration;

use serde_json::{Value, json};

use crate::components::{rows, scratch};
use crate::daemon::Daemon;
use crate::input::{Growing, VEGA, created};
use crate::process::{Listen, Process};
use crate::readers::{Engine, all_engines_find};
use crate::remote::{lake, place};

fn config(folder: &Path, namespace: &str, format_version: u8) -> String {
    let (lake, pipeline) = (lake(), pipeline("flights", namespace, format_version));
    let folder = folder.display();
    format!(
        r#"
        instance = "one"
        state_dir = "{folder}/state"
        {lake}
        [source.flights]
        type = "files"
        path = "{folder}/flights"
        {pipeline}
        "#
    )
}

/// A pipeline of that name into a table of that name.
fn pipeline(name: &str, namespace: &str, format_version: u8) -> String {
    let columns = created(VEGA);
    format!(
        r#"
        [pipeline.{name}]
        source = "flights"
        table = "lake.{namespace}.{name}"
        commit = {{ freshness = "200ms", rows_max = 2000 }}

        [pipeline.{name}.create]
        columns = [{columns}]
        partition = ["truncate(1, origin)"]
        format_version = {format_version}
        properties = {{ "write.delete.mode" = "merge-on-read" }}
        "#
    )
}

/// What `frazil compact` did with the table.
pub(crate) fn compacted(daemon: &Daemon, table: &str) -> Value {
    let output = daemon.command(&["compact", table, "--rewrite-all", "--json"]).output().expect("run frazil");
    assert!(output.status.success(), "compact {table}: {}", String::from_utf8_lossy(&output.stderr));
    let answer: Value = serde_json::from_slice(&output.stdout).expect("--json prints JSON");
    answer["tables"][0].clone()
}

fn spark_does(place: &Value, what: &str, how: Value) {
    let mut request = place.clone();
    request[what] = how;
    let answer = Engine::Spark.ask(request);
    assert_eq!(answer, json!({}), "Spark's {what}: {answer}");
}

fn the_same_rows_after_deletes_and_compaction(format_version: u8) {
    let namespace = format!("compacted_v{format_version}_{}", std::process::id());
    let folder = &scratch(&namespace);
    let both = config(folder, &namespace, format_version) + &pipeline("copy", &namespace, format_version);
    let daemon = Daemon::configured(folder, &both);
    let flights = rows("vega_flights_20k.ndjson");
    let mut growing = Growing::cut(&flights, &folder.join("flights"), 6);
    let (table, place) = (format!("lake.{namespace}.flights"), place(&namespace));
    let mut copy = place.clone();
    copy["table"] = json!(format!("{namespace}.copy"));
    let mut columns = VEGA.to_vec();
    if format_version >= 3 {
        columns.extend([("_row_id", "long"), ("_last_updated_sequence_number", "long")]);
    }
    for condition in ["delay > 60", "distance < 200 AND delay < 0", "destination = 'ATL' AND delay > 10"] {
        growing.appear(2);
        daemon.finish(&["flights"]);
        for place in [&place, &copy] {
            spark_does(place, "delete", json!(condition));
        }
    }
    let before = Engine::Spark.read(&place, &columns);
    let plain = Engine::Spark.read(&place, VEGA);
    let answer = compacted(&daemon, &table);
    let groups = answer["groups"].as_array().expect("groups");
    assert!(groups.iter().all(|group| group["fate"] == "done"), "{answer}");
    let deleted: u64 = groups.iter().filter_map(|group| group["deleted-rows"].as_u64()).sum();
    println!("{} groups, {deleted} rows were deleted", groups.len());
    assert!(deleted > 0, "no delete was applied: {answer}");
    let head = daemon.history(&table).last().expect("a head").clone();
    assert_eq!(head["summary"]["total-delete-files"], "0", "deletes that reach nothing went too: {head}");
    assert_eq!(Engine::Spark.read(&place, &columns), before, "Spark finds other rows, or other row ids");
    all_engines_find(&plain, &place, VEGA);
    spark_does(&copy, "compact", json!(true));
    assert_eq!(Engine::Spark.read(&copy, VEGA), plain, "what Spark rewrote itself holds other rows");
}

#[test]
fn position_deletes_of_spark_are_applied_and_the_rows_stay() {
    the_same_rows_after_deletes_and_compaction(2);
}

#[test]
fn deletion_vectors_of_spark_are_applied_and_rows_keep_their_ids() {
    the_same_rows_after_deletes_and_compaction(3);
}

/// Starts a compaction, and stops it as soon as it has begun to write.
fn begun(daemon: &Daemon, folder: &Path, table: &str) -> Process {
    let ledger = folder.join("state/compact/staged.ledger");
    let size = || fs::metadata(&ledger).map_or(0, |ledger| ledger.len());
    let before = size();
    let mut command = daemon.command(&["compact", table, "--rewrite-all"]);
    let mut compaction = Process::spawn(&mut command, Listen::Stderr, &folder.join("compact.log"));
    while size() <= before {
        assert!(compaction.runs_for(Duration::from_millis(1)), "it wrote nothing; {}", compaction.tail());
    }
    compaction.signal("STOP");
    compaction
}

/// Spark deletes from a table that is being rewritten, and from its twin, which is left alone.
fn deletes_of_spark_follow_their_rows(format_version: u8) {
    let namespace = format!("remapped_v{format_version}_{}", std::process::id());
    let folder = &scratch(&namespace);
    let both = config(folder, &namespace, format_version) + &pipeline("twin", &namespace, format_version);
    let daemon = Daemon::configured(folder, &both);
    let flights = rows("vega_flights_20k.ndjson");
    Growing::cut(&flights, &folder.join("flights"), 6).appear(6);
    daemon.finish(&["flights"]);
    let (table, place) = (format!("lake.{namespace}.flights"), place(&namespace));
    let mut twin = place.clone();
    twin["table"] = json!(format!("{namespace}.twin"));
    // An engine that has started: what is stopped meanwhile must not wait for that.
    let all = Engine::Spark.read(&twin, VEGA);
    assert_eq!(Engine::Spark.read(&place, VEGA), all);
    compacted(&daemon, &table);
    let mut remapped = 0;
    for condition in ["delay > 60", "distance < 200 AND delay < 0", "destination = 'ATL' AND delay > 10"] {
        let compaction = begun(&daemon, folder, &table);
        for table in [&place, &twin] {
            spark_does(table, "delete", json!(condition));
        }
        compaction.signal("CONT");
        let tail = compaction.tail();
        let status = compaction.ends(Duration::from_secs(300));
        assert!(status.success(), "the compaction ended with {status}; {tail}");
        let head = daemon.history(&table).last().expect("a head").clone();
        assert_eq!(head["operation"], "replace", "{head}");
        let carried = head["summary"]["added-position-deletes"].as_str().map_or(0, |rows| rows.parse().expect("rows"));
        println!("{carried} rows that Spark deleted by {condition} were carried over");
        remapped += carried;
        assert_eq!(Engine::Spark.read(&place, VEGA), Engine::Spark.read(&twin, VEGA), "after {condition}");
    }
    assert!(remapped > 0, "no delete arrived while files were rewritten");
    all_engines_find(&Engine::Spark.read(&twin, VEGA), &place, VEGA);
}

#[test]
fn position_deletes_that_spark_writes_meanwhile_follow_their_rows() {
    deletes_of_spark_follow_their_rows(2);
}

#[test]
fn deletion_vectors_that_spark_writes_meanwhile_follow_their_rows() {
    deletes_of_spark_follow_their_rows(3);
}
