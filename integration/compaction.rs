//! Tables that Spark deletes from, as position deletes or as deletion vectors, are compacted; engines that we did not write read
//! the same rows before and after, and on format version 3 the same row ids. A second table of the same input, and with the same
//! deletes, is compacted by Spark itself: it holds what ours holds. Tables that Spark wrote are compacted and expired, and hold
//! what can be computed here from the rows that it was given.

use std::fs;
use std::path::Path;
use std::time::Duration;

use serde_json::{Value, json};

use crate::components::{rows, scratch};
use crate::daemon::Daemon;
use crate::input::{Growing, VEGA, created};
use crate::process::{Listen, Process};
use crate::readers::{Columns, Engine, Found, all_engines_find, input};
use crate::remote::{lake, place};
use crate::table::{Table, compacted, expired, id, idle, spark_does};

const ROW_IDS: Columns<'static> = &[("_row_id", "long"), ("_last_updated_sequence_number", "long")];

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

/// The columns, and on format version 3 what a rewrite must not change either.
fn with_row_ids(format_version: u8) -> Vec<(&'static str, &'static str)> {
    let ids = if format_version >= 3 { ROW_IDS } else { &[] };
    [VEGA, ids].concat()
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
    let columns = with_row_ids(format_version);
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

/// Rows of one append.
const APPENDED: usize = 1500;

/// A table that only Spark writes to, one commit for each deed, and the rows that it must hold.
struct SparksOwn {
    table: Table,
    waiting: std::vec::IntoIter<Value>,
    rows: Vec<Value>,
}

impl SparksOwn {
    fn created(namespace: &str, format_version: u8) -> Self {
        let table = Table::of(namespace, "flights");
        let columns: Vec<String> =
            VEGA.iter().map(|(name, kind)| format!("{name} {}", kind.replace("long", "bigint"))).collect();
        let merge_on_read = ["delete", "update"].map(|deed| format!("'write.{deed}.mode'='merge-on-read'"));
        let how = format!(
            "({}) USING iceberg PARTITIONED BY (truncate(1, origin)) TBLPROPERTIES ('format-version'='{format_version}', {})",
            columns.join(", "),
            merge_on_read.join(", ")
        );
        spark_does(&table.place, "create", json!(how));
        let lines = fs::read_to_string(rows("vega_flights_20k.ndjson")).expect("read the rows");
        let waiting: Vec<Value> = lines.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
        Self { table, waiting: waiting.into_iter(), rows: Vec::new() }
    }

    fn appends(&mut self) {
        let rows: Vec<Value> = self.waiting.by_ref().take(APPENDED).collect();
        let mut request = self.table.place.clone();
        request["append"] = json!(rows);
        let answer = Engine::Spark.ask(request);
        assert_eq!(answer["rows"], json!(APPENDED), "Spark's append failed: {answer}");
        self.rows.extend(rows);
    }

    fn deletes(&mut self, condition: &str, holds: impl Fn(&Value) -> bool) {
        spark_does(&self.table.place, "delete", json!(condition));
        let before = self.rows.len();
        self.rows.retain(|row| !holds(row));
        assert!(self.rows.len() < before, "{condition} holds for no row");
    }

    /// Ten minutes more delay for each row that a condition holds for.
    fn delays(&mut self, condition: &str, holds: impl Fn(&Value) -> bool) {
        spark_does(&self.table.place, "update", json!(["delay = delay + 10", condition]));
        for row in self.rows.iter_mut().filter(|row| holds(row)) {
            row["delay"] = json!(delay(row) + 10);
        }
    }

    /// What it must hold now.
    fn wanted(&self, folder: &Path, when: &str) -> Found {
        let path = folder.join(format!("{when}.ndjson"));
        let lines: Vec<String> = self.rows.iter().map(Value::to_string).collect();
        fs::write(&path, lines.join("\n")).expect("write the rows");
        input(&[&path], VEGA)
    }
}

fn delay(row: &Value) -> i64 {
    row["delay"].as_i64().expect("each flight has a delay")
}

fn a_table_of_sparks_own_is_compacted_and_expired(format_version: u8) {
    let namespace = format!("sparks_v{format_version}_{}", std::process::id());
    let folder = &scratch(&namespace);
    let daemon = idle(folder);
    let mut spark = SparksOwn::created(&namespace, format_version);
    spark.appends();
    spark.appends();
    spark.deletes("delay > 60", |row| delay(row) > 60);
    let early = spark.table.keep(&daemon, "early");
    let wanted_early = spark.wanted(folder, "early");
    spark.appends();
    spark.delays("distance < 300", |row| row["distance"].as_i64() < Some(300));
    spark.deletes("origin LIKE 'A%' AND delay < 0", |row| {
        row["origin"].as_str().is_some_and(|origin| origin.starts_with('A')) && delay(row) < 0
    });
    spark.appends();
    let wanted = spark.wanted(folder, "head");
    let (place, at_early) = (spark.table.place.clone(), spark.table.at(early));
    all_engines_find(&wanted, &place, VEGA);
    all_engines_find(&wanted_early, &at_early, VEGA);
    let columns = with_row_ids(format_version);
    let ids = Engine::Spark.read(&place, &columns);

    let answer = compacted(&daemon, &spark.table.name);
    let groups = answer["groups"].as_array().expect("groups");
    assert!(groups.iter().all(|group| group["fate"] == "done"), "{answer}");
    let deleted: u64 = groups.iter().filter_map(|group| group["deleted-rows"].as_u64()).sum();
    assert!(deleted > 0, "no delete was applied: {answer}");
    let head = spark.table.head(&daemon);
    assert_eq!(head["summary"]["total-delete-files"], "0", "deletes that reach nothing went too: {head}");
    expired(&daemon, folder, &namespace, 1);
    let left: Vec<i64> = daemon.history(&spark.table.name).iter().map(id).collect();
    assert_eq!(left, [early, id(&head)], "what expiry kept");

    all_engines_find(&wanted, &place, VEGA);
    all_engines_find(&wanted_early, &at_early, VEGA);
    assert_eq!(Engine::Spark.read(&place, &columns), ids, "rows have other ids");
    // Its writer goes on with what we left.
    spark.appends();
    spark.deletes("delay > 50", |row| delay(row) > 50);
    assert_eq!(Engine::Spark.read(&place, VEGA), spark.wanted(folder, "later"), "Spark's later commits");
}

#[test]
fn a_table_that_spark_wrote_is_compacted_and_expired_v2() {
    a_table_of_sparks_own_is_compacted_and_expired(2);
}

#[test]
fn a_table_that_spark_wrote_is_compacted_and_expired_v3() {
    a_table_of_sparks_own_is_compacted_and_expired(3);
}

#[test]
fn files_that_spark_wrote_are_copied_by_pages_and_every_engine_reads_the_same() {
    let namespace = format!("spliced_{}", std::process::id());
    let folder = &scratch(&namespace);
    let daemon = idle(folder);
    let mut spark = SparksOwn::created(&namespace, 2);
    for _ in 0..4 {
        spark.appends();
    }
    let before = daemon.files(&spark.table.name);
    let answer = compacted(&daemon, &spark.table.name);
    let groups = answer["groups"].as_array().expect("groups");
    let copied = groups.iter().filter(|group| group["fate"] == "done" && group["rung"] == "splice").count();
    println!(
        "{copied} of {} groups were copied, {before} files became {}",
        groups.len(),
        daemon.files(&spark.table.name)
    );
    assert_eq!(copied, groups.len(), "{answer}");
    assert!(copied > 3 && daemon.files(&spark.table.name) < before, "{answer}");
    all_engines_find(&spark.wanted(folder, "spliced"), &spark.table.place, VEGA);
    // What Spark finds by a filter depends on bounds and indices that were brought together.
    spark.deletes("delay > 60", |row| delay(row) > 60);
    assert_eq!(Engine::Spark.read(&spark.table.place, VEGA), spark.wanted(folder, "later"), "after a delete by value");
}
