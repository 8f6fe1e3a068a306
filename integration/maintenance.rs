//! Maintenance in the daemon beside ingest, with the embedded catalog and with one that we did not write: after many commits,
//! rewrites and removals, engines that we did not write read every row once.

use std::path::Path;
use std::time::Duration;

use serde_json::{Value, json};

use crate::components::{rows, scratch};
use crate::daemon::Daemon;
use crate::input::{Growing, VEGA, created};
use crate::process::Process;
use crate::readers::{all_engines_find, input};
use crate::remote;
use crate::table::age;

/// How long a job may be waited for, line by line.
const SILENCE_MAX: Duration = Duration::from_secs(120);
const PARTS: usize = 80;

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

/// Runs the daemon three times, killed in between, while the input grows.
fn kept_small(folder: &Path, namespace: &str, catalog: &str) -> Daemon {
    let daemon = Daemon::configured(folder, &config(folder, namespace, catalog));
    let mut growing = Growing::cut(&rows("vega_flights_20k.ndjson"), &folder.join("flights"), PARTS);
    for (run, wanted) in [&["became", "noted"][..], &["removed"], &["deleted"]].into_iter().enumerate() {
        if run > 0 {
            age(&folder.join("state"), 1);
        }
        let mut process = daemon.spawn(&[]);
        growing.appear(PARTS / 4);
        said(&mut process, wanted);
        assert!(process.runs_for(Duration::from_millis(200)), "the daemon ended by itself; {}", process.tail());
        process.kill9();
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

#[test]
fn a_table_of_the_embedded_catalog_is_kept_small_beside_ingest() {
    let folder = &scratch("maintenance_embedded");
    let shown = folder.display();
    let catalog =
        format!("[catalog.lake]\ntype = \"embedded\"\npath = \"{shown}/lake.db\"\nwarehouse = \"{shown}/warehouse\"\n");
    let daemon = kept_small(folder, "kept", &catalog);
    let place = json!({ "metadata": daemon.metadata("lake.kept.flights").display().to_string() });
    all_engines_find(&input(&[&rows("vega_flights_20k.ndjson")], VEGA), &place, VEGA);
}

#[test]
fn a_table_of_a_rest_catalog_is_kept_small_beside_ingest() {
    let namespace = format!("kept_{}", std::process::id());
    let folder = &scratch("maintenance_rest");
    kept_small(folder, &namespace, &remote::lake());
    all_engines_find(&input(&[&rows("vega_flights_20k.ndjson")], VEGA), &remote::place(&namespace), VEGA);
}
