//! `frazil compact`, killed at any moment, again and again: the table keeps its rows, and a later run deletes what was left.

use std::collections::BTreeSet;
use std::fs;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};
use std::process::Stdio;

use serde_json::{Value, json};

use crate::daemon::World;

const TABLE: &str = "shop.orders";
/// So many runs are killed, and more until one of them has left something.
const KILLED_MIN: u64 = 10;
const ROUNDS_MAX: u64 = 60;
/// Changes on the disk between two looks, after which a run is killed at the latest.
const CHANGES_MAX: u64 = 24;
const DEADLINE_MS: i64 = 600_001;

const SETTINGS: &str = r#"
[pipeline.orders]
source = "in"
table = "lake.shop.orders"
create = { columns = ["id long not null", "name string"], format_version = 3 }
commit = { freshness = "100ms", rows_max = 100 }
"#;

fn numbered(numbers: std::ops::Range<i64>) -> String {
    numbers.map(|id| format!("{{\"id\":{id},\"name\":\"n{}\"}}\n", id % 7)).collect()
}

/// Every file below a folder.
fn files(folder: &Path) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(folder) else { return Vec::new() };
    let paths = entries.filter_map(|entry| Some(entry.ok()?.path()));
    let mut all: Vec<PathBuf> = paths.flat_map(|path| if path.is_dir() { files(&path) } else { vec![path] }).collect();
    all.sort();
    all
}

/// What a folder looks like now.
fn look(folder: &Path) -> u64 {
    let mut hasher = DefaultHasher::new();
    for file in files(folder) {
        let size = fs::metadata(&file).map(|meta| meta.len()).unwrap_or_default();
        (file, size).hash(&mut hasher);
    }
    hasher.finish()
}

/// Files of rows, whole and in part, that no snapshot has.
fn orphans(world: &World) -> BTreeSet<PathBuf> {
    let held = world.files_of_all_snapshots(TABLE);
    let rows = files(&world.path("warehouse")).into_iter();
    let rows = rows.filter(|file| file.to_string_lossy().contains(".parquet"));
    rows.filter(|file| !held.iter().any(|held| file.ends_with(held.rsplit('/').next().unwrap_or_default()))).collect()
}

/// Runs `frazil compact` to its end: how many files of earlier runs it deleted, and how many wait.
fn compact(world: &World) -> (u64, u64) {
    let answer = world.json(&["compact", "lake.shop.orders", "--rewrite-all"]);
    let tables = answer["tables"].as_array().expect("tables");
    let own = &tables.iter().find(|entry| entry["table"] == TABLE).expect("the table")["leftovers"];
    let count = |key: &str| own[key].as_u64().expect("a number");
    (count("deleted"), count("waiting"))
}

/// As if what was proved had been proved ten minutes before.
fn age(world: &World) {
    let path = world.path("state/compact/proofs.json");
    let mut note: Value = serde_json::from_slice(&fs::read(&path).expect("a note")).expect("JSON");
    for open in note["open"].as_object_mut().expect("an object").values_mut() {
        if let Some(at) = open["proved_ms"].as_i64() {
            open["proved_ms"] = json!(at - DEADLINE_MS);
        }
    }
    fs::write(&path, note.to_string()).expect("write the note");
}

#[test]
fn a_rewrite_that_is_killed_at_any_moment_loses_no_row_and_what_it_left_is_deleted() {
    let world = World::new(SETTINGS);
    for at in 0..4 {
        world.put(&format!("{at}.ndjson"), numbered(at * 250..(at + 1) * 250));
        world.run_to_end(&[]).with(0, &["committed"]);
    }
    let wanted: Vec<i64> = (0..1000).collect();
    let (mut killed, mut chance) = (0, 0x9E37_79B9_7F4A_7C15_u64);
    for round in 0..ROUNDS_MAX {
        if killed >= KILLED_MIN && !orphans(&world).is_empty() {
            break;
        }
        chance = chance.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(round);
        let mut changes = (chance >> 33) % CHANGES_MAX;
        let words = ["compact", "lake.shop.orders", "--rewrite-all", "--target-file-size", "2KiB"];
        let mut run = world.command(&words).stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("run frazil");
        let mut seen = look(&world.path(""));
        while run.try_wait().expect("a child").is_none() {
            if changes == 0 {
                run.kill().expect("killed");
                run.wait().expect("it ended");
                killed += 1;
                break;
            }
            let now = look(&world.path(""));
            changes -= u64::from(now != seen);
            seen = now;
        }
        assert_eq!(world.longs(TABLE, "id"), wanted, "round {round}");
    }
    assert!(!orphans(&world).is_empty(), "{killed} were killed, and none left a file");

    let (mut deleted, _) = compact(&world);
    world.put("more.ndjson", numbered(1000..1100));
    world.run_to_end(&[]).with(0, &["committed"]);
    deleted += compact(&world).0;
    age(&world);
    let last = compact(&world);
    assert_eq!((deleted + last.0 > 0, last.1), (true, 0), "deleted, and none waits");
    assert_eq!(orphans(&world), BTreeSet::new());
    assert_eq!(world.longs(TABLE, "id"), (0..1100).collect::<Vec<i64>>());
}
