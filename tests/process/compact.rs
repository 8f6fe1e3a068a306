//! `frazil compact` on what the daemon wrote: the same rows in fewer files, and the pipeline goes on where it was.

use serde_json::Value;

use crate::daemon::World;

const TABLE: &str = "shop.orders";

/// Small epochs, so that each leaves a file.
const SMALL: &str = r#"
[pipeline.orders]
source = "in"
table = "lake.shop.orders"
create = { columns = ["id long not null", "name string", "tags list<string>"], format_version = VERSION }
commit = { freshness = "100ms", rows_max = 100 }
"#;

fn settings(format_version: u8) -> String {
    SMALL.replace("VERSION", &format_version.to_string())
}

fn numbered(numbers: std::ops::Range<i64>) -> String {
    numbers.map(|id| format!("{{\"id\":{id},\"name\":\"n{}\",\"tags\":[\"a\",null]}}\n", id % 7)).collect()
}

fn files(world: &World) -> usize {
    world.json(&["table", "files", TABLE])["files"].as_array().expect("files").len()
}

fn table(answer: &Value) -> &Value {
    answer["tables"].as_array().expect("tables").iter().find(|entry| entry["table"] == TABLE).expect("the table")
}

fn compacted_and_gone_on_with(format_version: u8) {
    let world = World::new(&settings(format_version));
    for at in 0..8 {
        world.put(&format!("{at}.ndjson"), numbered(at * 250..(at + 1) * 250));
        world.run_to_end(&[]).with(0, &["committed"]);
    }
    let before = files(&world);
    assert!(before >= 8, "{before} files");

    let shown = world.json(&["compact", "lake.shop.orders", "--dry-run"]);
    let group = &table(&shown)["groups"][0];
    assert_eq!((group["fate"].as_str(), group["files"].as_u64()), (Some("planned"), Some(before as u64)), "{shown}");
    assert_eq!(files(&world), before, "a dry run changes nothing");

    let done = world.json(&["compact", "lake.shop.orders"]);
    let group = &table(&done)["groups"][0];
    assert_eq!((group["fate"].as_str(), group["new-files"].as_u64()), (Some("done"), Some(1)), "{done}");
    assert_eq!(files(&world), 1);
    let file = world.json(&["table", "files", TABLE])["files"][0]["path"].to_string();
    assert!(file.contains("/frazil-orders-"), "the file still tells whose rows it has: {file}");
    assert_eq!(world.longs(TABLE, "id"), (0..2000).collect::<Vec<i64>>());

    let again = world.json(&["compact", "lake.shop.orders"]);
    assert_eq!(table(&again)["groups"].as_array().map(Vec::len), Some(0), "{again}");

    // The checkpoint came along: nothing is read twice, nothing is missed.
    world.put("more.ndjson", numbered(2000..2100));
    world.run_to_end(&[]).with(0, &["committed"]);
    assert_eq!(world.longs(TABLE, "id"), (0..2100).collect::<Vec<i64>>());
    let rewritten = world.json(&["compact", "lake.shop.orders", "--rewrite-all", "--target-file-size", "1KiB"]);
    assert_eq!(table(&rewritten)["groups"][0]["fate"], "done", "{rewritten}");
    assert_eq!(world.longs(TABLE, "id"), (0..2100).collect::<Vec<i64>>());
}

#[test]
fn many_small_files_become_one_and_the_pipeline_goes_on_v2() {
    compacted_and_gone_on_with(2);
}

#[test]
fn many_small_files_become_one_and_the_pipeline_goes_on_v3() {
    compacted_and_gone_on_with(3);
}

#[test]
fn compaction_beside_a_running_daemon_loses_and_doubles_no_row() {
    let world = World::new(&settings(2));
    world.put("first.ndjson", numbered(0..100));
    let mut daemon = world.start(&[]);
    daemon.until(&["committed"]);
    let mut rewritten = 0;
    for at in 1..=8 {
        world.put(&format!("{at}.ndjson"), numbered(at * 100..(at + 1) * 100));
        let answer = world.json(&["compact", "lake.shop.orders", "--rewrite-all"]);
        for group in table(&answer)["groups"].as_array().expect("groups") {
            assert!(["done", "lost", "open"].contains(&group["fate"].as_str().unwrap_or_default()), "{answer}");
            rewritten += usize::from(group["fate"] == "done");
        }
    }
    daemon.terminate().with(0, &[]);
    world.run_to_end(&[]);
    assert_eq!(world.longs(TABLE, "id"), (0..900).collect::<Vec<i64>>());
    assert!(rewritten > 0, "no rewrite got in");
}

#[test]
fn what_makes_no_sense_is_refused_before_anything_is_read() {
    let world = World::new(&settings(2));
    for (words, text) in [
        (["compact", "--max-memory", "1MiB"], "at least 64"),
        (["compact", "--target-file-size", "much"], "--target-file-size cannot be"),
        (["compact", "lake.no.such", "--dry-run"], "no table of lake matches"),
    ] {
        let output = world.command(&words).output().expect("run frazil");
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success() && said.contains(text), "{words:?}: {said}");
    }
}
