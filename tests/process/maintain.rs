//! Maintenance from the command line, and by a daemon that does nothing else: what it says, what it does, how it ends.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::time::SystemTime;

use serde_json::Value;

use crate::daemon::World;

/// Three tables of one input: one that owes a rewrite, one that owes nothing, and one whose property is no setting.
const SHOP: &str = r#"
[pipeline.due]
source = "in"
table = "lake.shop.due"
create = { columns = ["id long not null", "day date"], partition = ["day"] }
commit = { freshness = "100ms", rows_max = 100 }

[pipeline.healthy]
source = "in"
table = "lake.shop.healthy"
create = { columns = ["id long not null"] }

[pipeline.bad]
source = "in"
table = "lake.shop.bad"
create = { columns = ["id long not null"], properties = { "frazil.policy.every" = "now and then" } }

[policy."lake.shop.*"]
compact = { hot_files_max = 8 }
"#;
const DUE: &str = "shop.due";

/// Many small files of one day in the first table, one file of the next.
fn shop() -> World {
    let world = World::new(SHOP);
    for at in 0..8 {
        let row = |id| format!("{{\"id\":{id},\"day\":\"2026-11-01\"}}\n");
        world.put(&format!("{at}.ndjson"), (at * 20..(at + 1) * 20).map(row).collect::<String>());
        run(&world, if at < 7 { "due" } else { "healthy" });
    }
    world.put("8.ndjson", "{\"id\":160,\"day\":\"2026-11-02\"}\n");
    world.run_to_end(&[]).with(0, &["committed"]);
    world
}

/// Reads what there is into one table only, so that the others get few files.
fn run(world: &World, only: &str) {
    let text = fs::read_to_string(world.path("frazil.toml")).expect("the configuration");
    let (head, _) = text.split_once("[pipeline.due]").expect("the first pipeline");
    let pipelines = SHOP.split("\n\n").filter(|part| !part.contains("[pipeline.") || part.contains(only));
    world.configure(&format!("{head}{}", pipelines.collect::<Vec<_>>().join("\n\n")));
    world.run_to_end(&[]).with(0, &["committed"]);
    world.configure(&text);
}

/// What `frazil` answers as JSON, and its exit code.
fn answer(world: &World, words: &[&str]) -> (Value, Option<i32>) {
    let output = world.command(words).arg("--json").output().expect("run frazil");
    let said = String::from_utf8_lossy(&output.stderr);
    let answer = serde_json::from_slice(&output.stdout).unwrap_or_else(|e| panic!("{words:?} --json: {e}; {said}"));
    (answer, output.status.code())
}

/// What `frazil` says to people.
fn said(world: &World, words: &[&str]) -> (String, Option<i32>) {
    let output = world.command(words).output().expect("run frazil");
    let text = [output.stdout, output.stderr].concat();
    (String::from_utf8_lossy(&text).into_owned(), output.status.code())
}

fn table<'a>(answer: &'a Value, name: &str) -> &'a Value {
    let tables = answer["tables"].as_array().expect("tables");
    tables.iter().find(|entry| entry["table"] == name).unwrap_or_else(|| panic!("{name} is not in {answer}"))
}

/// Everything below a folder, and when it was written: a folder when a file came or went.
fn written(folder: &Path, found: &mut BTreeMap<String, SystemTime>) {
    for entry in fs::read_dir(folder).expect("a folder") {
        let path = entry.expect("an entry").path();
        let at = fs::metadata(&path).and_then(|file| file.modified()).expect("a time");
        found.insert(path.display().to_string(), at);
        if path.is_dir() {
            written(&path, found);
        }
    }
}

#[test]
fn one_table_that_fails_shows_in_the_exit_code_and_the_others_are_done() {
    let world = shop();
    let (planned, code) = answer(&world, &["maintain", "lake.shop.*", "--dry-run"]);
    assert_eq!((code, table(&planned, DUE)["steps"][0]["end"].as_str()), (Some(4), Some("planned")), "{planned}");
    let files = |world: &World| world.json(&["table", "files", DUE])["files"].as_array().map(Vec::len);
    assert_eq!(files(&world), Some(9), "a dry run changes nothing");

    let (done, code) = answer(&world, &["maintain", "lake.shop.*"]);
    assert_eq!(code, Some(4), "{done}");
    let step = &table(&done, DUE)["steps"][0];
    assert_eq!((step["job"].as_str(), step["end"].as_str()), (Some("compact"), Some("done")), "{done}");
    assert_eq!((step["files"].as_u64(), step["new-files"].as_u64()), (Some(8), Some(1)), "{done}");
    assert_eq!(table(&done, "shop.healthy")["steps"].as_array().map(Vec::len), Some(0), "{done}");
    let bad = &table(&done, "shop.bad")["steps"][0];
    let words = bad["what"].as_str().expect("words");
    assert!(bad["end"] == "failed" && words.contains("shop.bad: property frazil.policy.every"), "{done}");
    assert!(bad["hint"].as_str().is_some_and(|hint| !hint.is_empty()), "{done}");
    let summary = &done["summary"];
    let counts = ["tables", "healthy", "failed", "files", "new-files"].map(|name| summary[name].as_u64());
    assert_eq!(counts, [3, 1, 1, 8, 1].map(Some), "{done}");
    assert_eq!(files(&world), Some(2));
    assert_eq!(world.longs(DUE, "id"), (0..=160).collect::<Vec<i64>>());

    let (mut before, mut after) = (BTreeMap::new(), BTreeMap::new());
    written(&world.path("warehouse"), &mut before);
    let (text, code) = said(&world, &["maintain", "lake.shop.*"]);
    written(&world.path("warehouse"), &mut after);
    assert_eq!(before, after, "a second run wrote something");
    assert_eq!(code, Some(4), "{text}");
    assert!(text.contains("3 tables, 2 with nothing due, 1 failed; 0 files"), "{text}");
    let (_, code) = answer(&world, &["maintain", "lake.shop.[dh]*"]);
    assert_eq!(code, Some(0), "without the bad one");
}

#[test]
fn health_shows_the_worst_first_and_says_what_it_could_not_look_at() {
    let world = shop();
    let shown = |by: &str| {
        let (shown, code) = answer(&world, &["health", "shop.*", "--sort", by]);
        let names: Vec<String> = shown["tables"]
            .as_array()
            .expect("tables")
            .iter()
            .filter_map(|entry| entry["table"].as_str().map(str::to_owned))
            .collect();
        (names, code, shown)
    };
    let (names, code, all) = shown("debt");
    assert_eq!((names[0].as_str(), code), (DUE, Some(0)), "{all}");
    let due = table(&all, DUE);
    let counts = ["files", "delete-files", "snapshots"].map(|name| due[name].as_u64());
    assert_eq!(counts, [9, 0, 9].map(Some), "{due}");
    assert_eq!((due["rewrite"]["files"].as_u64(), due["rewrite"]["new-files"].as_u64()), (Some(8), Some(1)), "{due}");
    assert!(due["debt"].as_u64() > Some(0) && due["named-by-policy"] == true, "{due}");
    assert_eq!(table(&all, "shop.healthy")["debt"], 0, "{all}");
    let note = table(&all, "shop.bad")["notes"][0].as_str().expect("a note");
    assert!(note.contains("frazil.policy.every"), "{note}");
    assert_eq!(shown("name").0, ["shop.bad", DUE, "shop.healthy"]);

    world.json(&["maintain", "lake.shop.*"]);
    assert_eq!(table(&shown("debt").2, DUE)["debt"], 0, "nothing is owed when it was done");
    let metadata =
        world.json(&["table", "show", "shop.healthy"])["metadata-location"].as_str().expect("one").to_owned();
    fs::remove_file(metadata.trim_start_matches("file://")).expect("removed");
    let (names, code, all) = shown("debt");
    assert_eq!((names[0].as_str(), names.len(), code), ("shop.healthy", 3, Some(4)), "{all}");
    assert!(table(&all, "shop.healthy")["error"].as_str().is_some_and(|error| error.contains("metadata")), "{all}");
}

#[test]
fn a_rewrite_is_told_which_partitions_and_which_branch_and_says_why() {
    let world = shop();
    let (text, code) = said(&world, &["compact", "shop.due", "--explain", "--dry-run", "--parallel", "2"]);
    assert_eq!(code, Some(0), "{text}");
    assert!(text.contains("shop.due day=2026-11-01: 8 files of"), "why a group is rewritten: {text}");
    assert!(
        text.contains("shop.due day=2026-11-02: 1 file of") && text.contains("stay:"),
        "what is left alone: {text}"
    );
    let only = |condition: &str| {
        let (planned, code) =
            answer(&world, &["compact", "shop.due", "--rewrite-all", "--where", condition, "--dry-run"]);
        let groups = table(&planned, DUE)["groups"].as_array().cloned().unwrap_or_default();
        (groups.iter().filter_map(|group| group["partition"].as_str().map(str::to_owned)).collect::<Vec<_>>(), code)
    };
    assert_eq!(only("day >= 2026-11-02"), (vec!["day=2026-11-02".to_owned()], Some(0)));
    assert_eq!(only("day < 2026-11-02"), (vec!["day=2026-11-01".to_owned()], Some(0)));
    assert_eq!(only("day > 2026-11-02"), (Vec::new(), Some(0)));
    let (text, code) = said(&world, &["compact", "shop.due", "--where", "days > 2026-11-02"]);
    assert!(code != Some(0) && text.contains("days"), "{text}");
    let (text, code) = said(&world, &["compact", "shop.due", "--where", "day is fine"]);
    assert!(code == Some(2) && text.contains("--where"), "{text}");

    world.branch(DUE, "audit");
    let (missed, code) = answer(&world, &["compact", "shop.due", "--branch", "adit"]);
    assert_eq!((code, table(&missed, DUE)["hint"].as_str()), (Some(1), Some("there are audit, main")), "{missed}");
    let (text, _) = said(&world, &["compact", "shop.due", "--branch", "adit"]);
    assert!(text.contains("no branch \"adit\" (hint: there are audit, main)"), "{text}");
    let main = |world: &World| world.json(&["table", "files", DUE])["files"].as_array().map(Vec::len);
    let done = world.json(&["compact", "shop.due", "--branch", "audit", "--parallel", "2"]);
    assert_eq!(table(&done, DUE)["groups"][0]["fate"], "done", "{done}");
    assert_eq!(main(&world), Some(9), "the files of main are as they were");
    let done = world.json(&["compact", "shop.due", "--rewrite-all", "--parallel", "2"]);
    assert_eq!(table(&done, DUE)["groups"].as_array().map(Vec::len), Some(2), "{done}");
    assert_eq!(main(&world), Some(2));
    assert_eq!(world.longs(DUE, "id"), (0..=160).collect::<Vec<i64>>());
}

#[test]
fn a_daemon_that_only_maintains_rewrites_and_reads_no_source() {
    let world = shop();
    world.put("9.ndjson", "{\"id\":1000,\"day\":\"2026-11-01\"}\n");
    let mut daemon = world.start(&["--role", "maintain", "--set", "policy.\"lake.shop.*\".every=1s"]);
    daemon.until(&["\"job\":\"compact\"", "8 files", "became 1"]);
    // A table that fails holds up no other, and is told with its way out.
    daemon.until(&["maintenance failed", "shop.bad", "hint"]);
    daemon.terminate().with(0, &[]);
    assert_eq!(world.json(&["table", "files", DUE])["files"].as_array().map(Vec::len), Some(2));
    assert_eq!(world.longs(DUE, "id"), (0..=160).collect::<Vec<i64>>(), "a source was read");
    world.run_to_end(&["--role", "ingest"]).with(0, &["committed"]);
    assert_eq!(world.count(DUE), 162);
}
