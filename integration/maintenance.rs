//! Maintenance in the daemon beside ingest, with the embedded catalog and with one that we did not write: after many commits,
//! rewrites and removals, engines that we did not write read every row once. So they do where several maintain a table that do
//! not know of each other.

use std::fs;
use std::path::Path;
use std::time::Duration;

use serde_json::{Value, json};

use crate::components::{rows, scratch};
use crate::daemon::Daemon;
use crate::input::{Growing, VEGA, created};
use crate::process::Process;
use crate::readers::{Found, all_engines_find, input};
use crate::remote;
use crate::table::{Table, age, id};

/// How long a job may be waited for, line by line.
const SILENCE_MAX: Duration = Duration::from_secs(120);
const PARTS: usize = 80;
/// Of these, how many appear in one run.
const SHARE: usize = PARTS / 4;

fn config(folder: &Path, namespace: &str, catalog: &str) -> String {
    let (folder, columns) = (folder.display(), created(VEGA));
    format!(
        r#"
        instance = "one"
        state_dir = "{folder}/state"
        {catalog}
        [source.flights]
        type = "files"
        path = "{folder}/flights"
        poll = "100ms"

        [pipeline.flights]
        source = "flights"
        table = "lake.{namespace}.flights"
        commit = {{ freshness = "100ms", rows_max = 250 }}

        [pipeline.flights.create]
        columns = [{columns}]
        partition = ["truncate(1, origin)"]
        properties = {{ "history.expire.max-snapshot-age-ms" = "1000" }}

        [policy."lake.{namespace}.*"]
        every = "1s"
        compact = {{ quiet = "1h", hot_files_max = 8 }}

        [maintenance]
        cpu = "100%"
        "#
    )
}

/// Reads the log until maintenance has said each of these.
fn said(process: &mut Process, wanted: &[&str]) {
    let mut open: Vec<&str> = wanted.to_vec();
    while !open.is_empty() {
        let Some(line) = process.line(SILENCE_MAX) else { panic!("{open:?} was not said; {}", process.tail()) };
        assert!(!line.contains("maintenance failed"), "{line}");
        open.retain(|words| !(line.contains("\"job\":") && line.contains(words)));
    }
}

/// What the last epochs left behind as manifests becomes one: whatever reads the table afterwards reads that.
fn gathered(daemon: &Daemon, table: &str) {
    let output = daemon.command(&["manifests", table, "--json"]).output().expect("run frazil");
    assert!(output.status.success(), "manifests {table}: {}", String::from_utf8_lossy(&output.stderr));
    let answer: Value = serde_json::from_slice(&output.stdout).expect("--json prints JSON");
    let count = |name: &str| answer["tables"][0][name].as_u64().expect("a number");
    println!("{} manifests became {}", count("manifests"), count("new-manifests"));
    assert!(count("manifests") > 1 && count("new-manifests") == 1, "{answer}");
    assert!(count("entries") >= count("manifests"), "{answer}");
}

/// Runs the daemon three times, killed in between, while the input grows. After the first run there is an end of input, and
/// `between` looks at what was read until then.
fn kept_small(folder: &Path, namespace: &str, catalog: &str, between: impl FnOnce(&Daemon)) -> Daemon {
    let daemon = Daemon::configured(folder, &config(folder, namespace, catalog));
    let mut growing = Growing::cut(&rows("vega_flights_20k.ndjson"), &folder.join("flights"), PARTS);
    let mut between = Some(between);
    for wanted in [&["became", "noted"][..], &["removed"], &["deleted"]] {
        if between.is_none() {
            age(&folder.join("state"), 1);
        }
        let mut process = daemon.spawn(&[]);
        growing.appear(SHARE);
        said(&mut process, wanted);
        assert!(process.runs_for(Duration::from_millis(200)), "the daemon ended by itself; {}", process.tail());
        process.kill9();
        if let Some(between) = between.take() {
            daemon.finish(&["flights"]);
            between(&daemon);
        }
    }
    growing.appear(growing.waiting());
    daemon.finish(&["flights"]);
    gathered(&daemon, &format!("lake.{namespace}.flights"));
    let history = daemon.history(&format!("lake.{namespace}.flights"));
    let head = history.last().expect("a head");
    let commits = head["sequence-number"].as_u64().expect("a number");
    let rewrites = history.iter().filter(|snapshot| snapshot["operation"] == "replace").count();
    println!("{commits} commits, {} snapshots are left, {rewrites} of them rewrites", history.len());
    assert!(commits >= 60, "{commits} commits");
    assert!((history.len() as u64) < commits, "old snapshots are gone");
    daemon
}

/// The rows that the daemon has read in its first run: slices appear in order.
fn first_share(folder: &Path) -> Found {
    let whole = fs::read_to_string(rows("vega_flights_20k.ndjson")).expect("read the rows");
    let lines: Vec<&str> = whole.lines().collect();
    let path = folder.join("first_share.ndjson");
    fs::write(&path, lines[..lines.len() / PARTS * SHARE].join("\n")).expect("write the rows");
    input(&[&path], VEGA)
}

#[test]
fn a_table_of_the_embedded_catalog_is_kept_small_beside_ingest() {
    let folder = &scratch("maintenance_embedded");
    let shown = folder.display();
    let catalog =
        format!("[catalog.lake]\ntype = \"embedded\"\npath = \"{shown}/lake.db\"\nwarehouse = \"{shown}/warehouse\"\n");
    let daemon = kept_small(folder, "kept", &catalog, |_| ());
    let place = json!({ "metadata": daemon.metadata("lake.kept.flights").display().to_string() });
    all_engines_find(&input(&[&rows("vega_flights_20k.ndjson")], VEGA), &place, VEGA);
}

#[test]
fn a_table_of_a_rest_catalog_is_kept_small_beside_ingest_and_a_tag_reads_as_before() {
    let namespace = format!("kept_{}", std::process::id());
    let folder = &scratch("maintenance_rest");
    let table = Table::of(&namespace, "flights");
    let share = first_share(folder);
    let mut kept = None;
    let daemon = kept_small(folder, &namespace, &remote::lake(), |daemon| {
        all_engines_find(&share, &table.place, VEGA);
        kept = Some(table.keep(daemon, "share"));
    });
    let kept = kept.expect("a snapshot that is kept");
    let history = daemon.history(&table.name);
    let at = history.iter().position(|snapshot| id(snapshot) == kept).expect("the tag's snapshot is there");
    let commits = history[at]["sequence-number"].as_u64().expect("a number");
    assert!((at as u64) < commits - 1, "nothing older than the tag is gone: {history:?}");
    let rewritten = history[at + 1..].iter().any(|snapshot| snapshot["operation"] == "replace");
    assert!(rewritten, "nothing was rewritten after the tag: {history:?}");
    all_engines_find(&input(&[&rows("vega_flights_20k.ndjson")], VEGA), &table.place, VEGA);
    all_engines_find(&share, &table.at(kept), VEGA);
}

/// Rounds until work was wasted: in each, two rewrite the same files at once.
const ROUNDS_MAX: usize = 30;
/// Rounds at least, and how many slices appear in each.
const ROUNDS_MIN: usize = 3;
const IN_A_ROUND: usize = 6;

/// What one who maintains the table on its own answered: nothing of what others are doing stands in its `state_dir`.
fn alone(daemon: &Daemon, folder: &Path, name: &str, words: &[&str]) -> Vec<Value> {
    let state = format!("state_dir={}", folder.join(name).display());
    let output = daemon.command(words).args(["--json", "--set", &state]).output().expect("run frazil");
    let said = String::from_utf8_lossy(&output.stderr);
    let answer: Value = serde_json::from_slice(&output.stdout).unwrap_or_else(|e| panic!("{words:?}: {e}; {said}"));
    let parts = |part: &str| answer["tables"][0][part].as_array().cloned().unwrap_or_default();
    assert!(answer["tables"][0]["error"].is_null(), "{answer}");
    [parts("groups"), parts("steps")].concat()
}

/// Two that rewrite everything and one that does what is due, all at once; how many pieces of work were done, and how many were
/// in vain because another was faster.
fn maintained_at_once(daemon: &Daemon, folder: &Path, table: &str) -> (usize, usize) {
    let rewrite = ["compact", table, "--rewrite-all"];
    let parts = std::thread::scope(|scope| {
        let one = scope.spawn(|| alone(daemon, folder, "state-one", &rewrite));
        let two = scope.spawn(|| alone(daemon, folder, "state-two", &rewrite));
        let three = scope.spawn(|| alone(daemon, folder, "state-three", &["maintain", table]));
        [one, two, three].map(|one| one.join().expect("it answered")).concat()
    });
    let ended = |part: &&Value, word: &str| part["fate"] == word || part["end"] == word;
    let bad = |part: &Value| ["refused", "open", "failed"].iter().any(|word| ended(&part, word));
    assert!(!parts.iter().any(bad), "{parts:?}");
    let gave_up = |part: &Value| part["what"].as_str().is_some_and(|what| what.contains("given up"));
    let done = parts.iter().filter(|part| ended(part, "done")).count();
    let wasted = parts.iter().filter(|part| ended(part, "lost") || gave_up(part)).count();
    (done, wasted)
}

#[test]
fn several_who_maintain_one_table_at_once_waste_work_and_break_nothing() {
    let namespace = format!("shared_{}", std::process::id());
    let folder = &scratch("maintenance_shared");
    let table = Table::of(&namespace, "flights");
    let daemon = Daemon::configured(folder, &config(folder, &namespace, &remote::lake()));
    let mut growing = Growing::cut(&rows("vega_flights_20k.ndjson"), &folder.join("flights"), PARTS);
    let wanted = input(&[&rows("vega_flights_20k.ndjson")], VEGA);
    let mut ingest = daemon.spawn(&["role=ingest"]);
    growing.appear(IN_A_ROUND);
    while ingest.line(SILENCE_MAX).is_some_and(|line| !line.contains("committed")) {}
    let (mut rounds, mut done, mut wasted) = (0, 0, 0);
    while rounds < ROUNDS_MIN || (rounds < ROUNDS_MAX && (done == 0 || wasted == 0)) {
        growing.appear(IN_A_ROUND);
        let (more, vain) = maintained_at_once(&daemon, folder, &table.name);
        (rounds, done, wasted) = (rounds + 1, done + more, wasted + vain);
        let head = table.head(&daemon);
        let rows: u64 = head["summary"]["total-records"].as_str().and_then(|rows| rows.parse().ok()).expect("a count");
        assert!(rows <= wanted.rows, "{rows} rows after {rounds} rounds: {head}");
    }
    println!("{rounds} rounds: {done} pieces of work done, {wasted} in vain");
    assert!(done > 0 && wasted > 0, "{done} done, {wasted} in vain");
    assert!(ingest.runs_for(Duration::from_millis(10)), "the daemon ended by itself; {}", ingest.tail());
    ingest.kill9();
    growing.appear(growing.waiting());
    daemon.finish(&["flights"]);
    all_engines_find(&wanted, &table.place, VEGA);
}
