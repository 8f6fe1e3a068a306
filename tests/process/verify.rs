//! `frazil verify` on what the daemon wrote.

use std::fs;
use std::path::PathBuf;
use std::process::Output;

use serde_json::Value;

use crate::daemon::World;

/// Two logs of twenty thousand rows each, a file of each for every epoch: a table that verify can prove without reading.
const SHOP: &str = r#"
[source.shop]
type = "replay"
partitions = 2
rows = 20000
[pipeline.orders]
source = "shop"
table = "lake.shop.orders"
create = { partition = ["log"], format_version = VERSION }
metadata = { log = "partition", at = "number" }
commit = { freshness = "100ms", rows_max = 400 }
"#;

fn shop(format_version: u8) -> World {
    let world = World::new(&SHOP.replace("VERSION", &format_version.to_string()));
    world.start(&[]).ends().with(0, &["committed"]);
    world
}

fn verify(world: &World, words: &[&str]) -> (Option<i32>, Value, String) {
    let mut all = vec!["verify", "--json"];
    all.extend(words);
    let Output { status, stdout, stderr } = world.command(&all).output().expect("run frazil");
    let said = String::from_utf8_lossy(&stderr).into_owned();
    (status.code(), serde_json::from_slice(&stdout).unwrap_or_default(), said)
}

fn proven(world: &World, words: &[&str]) -> Value {
    let (code, answer, said) = verify(world, words);
    assert_eq!((code, answer["verdict"].as_str()), (Some(0), Some("proven")), "{answer:#} {said}");
    answer
}

fn each_row_is_proven_to_be_there_once(format_version: u8) {
    let world = shop(format_version);
    let answer = proven(&world, &["lake.shop.orders", "--read", "never"]);
    let logs = answer["logs"].as_array().expect("logs");
    for (log, name) in logs.iter().zip(["0", "1"]) {
        let shown = (&log["log"], &log["rows"], &log["first"], &log["last"], &log["checkpoint"]);
        let values = [shown.0.as_str().map(str::to_owned), Some(shown.1.to_string()), Some(shown.2.to_string())];
        assert_eq!(values, [Some(name.to_owned()), Some("20000".to_owned()), Some("0".to_owned())], "{log}");
        assert_eq!((shown.3.as_u64(), shown.4.as_u64()), (Some(19_999), Some(19_999)), "{log}");
    }
    assert_eq!(answer["looked-at"]["read"], 0, "{answer}");
    assert_eq!(proven(&world, &["--pipeline", "orders", "--read", "always"])["logs"], answer["logs"]);

    // After our own rewrite into one file for each log, which bounds alone do not settle, by what the table says alone.
    world.json(&["compact", "lake.shop.orders", "--rewrite-all"]);
    let rewritten = proven(&world, &["shop.orders"]);
    assert_eq!(rewritten["logs"], answer["logs"]);
    let text = world.command(&["verify", "shop.orders"]).output().expect("run frazil").stdout;
    let text = String::from_utf8_lossy(&text).into_owned();
    assert!(text.contains("proven: each row is there once; 2 data files: 0 by bounds, 2 read"), "{text}");
    let (code, unread, said) = verify(&world, &["shop.orders", "--read", "never"]);
    assert_eq!((code, unread["verdict"].as_str()), (Some(6), Some("not-proven")), "{unread} {said}");
}

#[test]
fn a_table_is_proven_to_hold_each_row_once_v2() {
    each_row_is_proven_to_be_there_once(2);
}

#[test]
fn a_table_is_proven_to_hold_each_row_once_v3() {
    each_row_is_proven_to_be_there_once(3);
}

#[test]
fn a_window_may_be_of_some_logs_offsets_or_what_came_since() {
    let world = shop(2);
    let one = proven(&world, &["shop.orders", "--partition", "1", "--from", "100", "--to", "1=899"]);
    let logs = one["logs"].as_array().expect("logs");
    assert_eq!((logs.len(), logs[0]["rows"].as_u64(), logs[0]["first"].as_u64()), (1, Some(800), Some(100)), "{one}");
    let beyond = verify(&world, &["shop.orders", "--to", "20004"]);
    assert_eq!(beyond.0, Some(5), "{beyond:?}");
    assert_eq!(beyond.1["logs"][0]["gaps"][0], serde_json::json!({"first": 20000, "last": 20004}), "{}", beyond.1);

    let history = world.json(&["table", "history", "shop.orders"]);
    let snapshots = history["snapshots"].as_array().expect("snapshots");
    let middle = snapshots[snapshots.len() / 2]["snapshot-id"].to_string();
    let since = proven(&world, &["shop.orders", "--since", &middle]);
    let rows: u64 = since["logs"].as_array().expect("logs").iter().filter_map(|log| log["rows"].as_u64()).sum();
    assert!(rows > 0 && rows < 40_000, "{since}");
    let never = verify(&world, &["shop.orders", "--since", "1999-01-01T00:00:00Z"]);
    assert!(never.2.contains("no such snapshot"), "{never:?}");
}

/// A record of many partitions stands in the manifest list, where its summary only says so.
#[test]
fn a_table_of_many_partitions_is_proven_and_has_a_past() {
    let config = SHOP.replace("VERSION", "2").replace("partitions = 2", "partitions = 250").replace("20000", "8");
    let world =
        World::new(&config.replace("create = { partition = [\"log\"], ", "create = { ").replace("= 400", "= 9000"));
    world.start(&[]).ends().with(0, &["committed"]);
    let answer = proven(&world, &["shop.orders"]);
    assert_eq!(answer["logs"].as_array().map(Vec::len), Some(250), "{answer}");
    let history = world.json(&["table", "history", "shop.orders"]);
    let snapshots = history["snapshots"].as_array().expect("snapshots");
    for at in [snapshots.first(), snapshots.last()] {
        let id = at.expect("a snapshot")["snapshot-id"].to_string();
        let (code, since, said) = verify(&world, &["shop.orders", "--since", &id]);
        assert!(code == Some(0) || code == Some(6), "{since} {said}");
    }
}

#[test]
fn what_nothing_matches_is_never_proven() {
    let world = shop(2);
    let columns = ["--partition-column", "log", "--offset-column", "at"];
    for (words, code) in [
        (&["--partition", "7", "--from", "0", "--to", "999"][..], 5),
        (&["--partition", "7"][..], 6),
        (&["--from", "7=5"][..], 6),
        (&["--to", "7=5"][..], 6),
        (&["--pipeline", "order"][..], 6),
    ] {
        let words: Vec<&str> = ["shop.orders"].iter().chain(&columns).chain(words).copied().collect();
        let (said, answer, error) = verify(&world, &words);
        assert_eq!(said, Some(code), "{words:?}: {answer} {error}");
    }
    let (code, _, said) = verify(&world, &["shop.orders", "--branch", "mian"]);
    assert!(code == Some(4) || code == Some(1), "{code:?} {said}");
    assert!(said.contains("no branch \"mian\""), "{said}");
}

#[test]
fn a_window_that_does_not_fit_into_memory_is_refused() {
    let world = shop(2);
    let (code, answer, said) = verify(&world, &["shop.orders", "--to", "8000000000", "--max-memory", "64MiB"]);
    assert!(code == Some(1) && said.contains("--max-memory"), "{code:?} {answer} {said}");
}

#[test]
fn rows_that_the_anchor_has_itself_are_there() {
    let world = World::new(
        r#"
[pipeline.lines]
source = "in"
table = "lake.shop.t_{kind}"
anchor = "lake.shop.t_a"
create = { columns = ["id long", "kind string"] }
metadata = { file = "origin", line = "number" }
"#,
    );
    world.put("a.ndjson", "{\"id\":1,\"kind\":\"a\"}\n{\"id\":2,\"kind\":\"b\"}\n{\"id\":3,\"kind\":\"a\"}\n");
    world.run_to_end(&[]).with(0, &["committed"]);
    let answer = proven(&world, &["--pipeline", "lines"]);
    assert_eq!(answer["logs"][0]["rows"], 3, "{answer}");
}

/// Sets a table of the catalog back to its metadata of before, as if its last commit had not come yet.
fn set_back(world: &World, table: &str) {
    let catalog = rusqlite::Connection::open(world.path("lake.db")).expect("the catalog");
    let sql = "UPDATE tables SET metadata_location = previous_metadata_location WHERE name = ?1";
    assert_eq!(catalog.execute(sql, [table]).expect("set back"), 1);
}

/// An epoch of several tables is in its anchor first.
#[test]
fn an_epoch_that_is_decided_and_not_in_each_table_is_no_gap() {
    let world = World::new(
        r#"
[pipeline.lines]
source = "in"
table = "lake.shop.t_{kind}"
anchor = "lake.shop.t_a"
create = { columns = ["id long", "kind string"] }
metadata = { file = "origin", line = "number" }
"#,
    );
    world.put("a.ndjson", "{\"id\":1,\"kind\":\"a\"}\n{\"id\":2,\"kind\":\"b\"}\n{\"id\":3,\"kind\":\"a\"}\n");
    world.run_to_end(&[]).with(0, &["committed"]);
    proven(&world, &["--pipeline", "lines"]);
    set_back(&world, "t_b");
    let (code, answer, said) = verify(&world, &["--pipeline", "lines"]);
    assert_eq!((code, answer["verdict"].as_str()), (Some(6), Some("not-proven")), "{answer} {said}");
    let unsettled = &answer["unsettled"][0];
    assert_eq!((unsettled["file"].as_str(), unsettled["rows"].as_u64()), (Some("shop.t_b"), Some(1)), "{answer}");
    assert_eq!(answer["logs"][0]["missing"], 1, "{answer}");
    // The next start finishes it.
    world.run_to_end(&[]).with(0, &[]);
    assert_eq!(proven(&world, &["--pipeline", "lines"])["logs"][0]["rows"], 3);
}

/// What one of the tables of a stream lacks may be in the others.
#[test]
fn one_table_of_several_is_not_judged_by_what_it_lacks() {
    let world = World::new(
        r#"
[pipeline.lines]
source = "in"
table = "lake.shop.t_{kind}"
anchor = "lake.shop.anchor"
create = { columns = ["id long", "kind string"] }
metadata = { file = "origin", line = "number" }
"#,
    );
    world.put("a.ndjson", "{\"id\":1,\"kind\":\"a\"}\n{\"id\":2,\"kind\":\"b\"}\n{\"id\":3,\"kind\":\"a\"}\n");
    world.run_to_end(&[]).with(0, &["committed"]);
    proven(&world, &["--pipeline", "lines"]);
    let columns = ["--topic-column", "file", "--offset-column", "line"];
    for words in [&columns[..], &["--pipeline", "lines"][..]] {
        let words: Vec<&str> = ["shop.t_a"].iter().chain(words).copied().collect();
        let (code, answer, said) = verify(&world, &words);
        assert_eq!((code, answer["verdict"].as_str()), (Some(6), Some("not-proven")), "{answer} {said}");
        assert_eq!(answer["logs"][0]["missing"], 0, "{answer}");
    }
}

#[test]
fn rejects_are_counted_and_lines_that_nobody_can_tell_are_said() {
    let world = World::new(
        r#"
[pipeline.lines]
source = "in"
table = "lake.shop.lines"
create = { columns = ["id long not null"] }
metadata = { file = "origin", line = "number" }
"#,
    );
    world.put("a.ndjson", "{\"id\":1}\nno json\n{\"id\":3}\n{\"id\":4}\n");
    world.put("b.ndjson", "{\"id\":1}\n");
    world.run_to_end(&[]).with(0, &["committed"]);
    let answer = proven(&world, &["--pipeline", "lines"]);
    let logs = answer["logs"].as_array().expect("logs");
    assert_eq!((logs.len(), logs[0]["rows"].as_u64(), logs[0]["rejected"].as_u64()), (2, Some(3), Some(1)), "{answer}");
    assert_eq!(answer["rejects"], "shop.lines__rejects");

    // One file of both inputs: bounds cannot tell them apart.
    let (code, unread, _) = verify(&world, &["--pipeline", "lines", "--read", "never"]);
    assert_eq!((code, unread["verdict"].as_str()), (Some(6), Some("not-proven")), "{unread}");
    assert_eq!(unread["unsettled"][0]["rows"], 4, "{unread}");
    // Where nothing says of the rejects, the bad line is a gap.
    let (code, alone, said) = verify(&world, &["shop.lines", "--set", "pipeline.lines.rejects.to=count"]);
    assert_eq!((code, alone["logs"][0]["missing"].as_u64()), (Some(5), Some(1)), "{alone} {said}");
    let text = world.command(&["verify", "shop.lines", "--set", "pipeline.lines.rejects.to=count"]).output();
    let text = String::from_utf8_lossy(&text.expect("run frazil").stdout).into_owned();
    assert!(text.contains("a.ndjson: missing 1: 2\n") && text.contains("not so: rows are missing"), "{text}");
}

#[test]
fn rows_that_others_put_in_twice_are_found_with_their_files() {
    let world = shop(2);
    // A pipeline that reads the same stream again, into the same table.
    let config = fs::read_to_string(world.path("frazil.toml")).expect("the configuration");
    let again = config.replace("[pipeline.orders]", "[pipeline.again]").replace("rows = 20000", "rows = 50");
    let other: PathBuf = world.path("again.toml");
    fs::write(&other, again.replace("/state\"", "/state-again\"")).expect("write");
    let other = other.to_string_lossy().into_owned();
    let mut run = std::process::Command::new(env!("CARGO_BIN_EXE_frazil"));
    let ended = run.args(["run", "-c", &other]).current_dir(world.path("")).output().expect("run frazil");
    assert!(ended.status.success(), "{}", String::from_utf8_lossy(&ended.stderr));
    let (code, answer, said) = verify(&world, &["--pipeline", "orders", "--read", "always"]);
    assert_eq!((code, answer["verdict"].as_str()), (Some(5), Some("broken")), "{answer} {said}");
    let twice = &answer["logs"][0];
    assert_eq!((twice["surplus"].as_u64(), twice["missing"].as_u64()), (Some(50), Some(0)), "{twice}");
    let range = &twice["duplicates"][0];
    assert_eq!((range["first"].as_u64(), range["last"].as_u64()), (Some(0), Some(49)), "{twice}");
    let files = range["files"].as_array().expect("files");
    assert_eq!(files.len(), 2, "{twice}");
    let by = |pipeline: &str| files.iter().filter(|file| file.to_string().contains(pipeline)).count();
    assert_eq!((by("/frazil-orders-"), by("/frazil-again-")), (1, 1), "{twice}");
    assert_eq!(verify(&world, &["--pipeline", "orders"]).1["logs"], answer["logs"], "bounds show the same");
}

#[test]
fn what_is_not_known_is_asked_for_before_anything_is_read() {
    let world = shop(2);
    for (words, text) in [
        (&["verify"][..], "nothing is named"),
        (&["verify", "shop.orders", "--offset-column", "none"][..], "column \"none\": the table has no such column"),
        (&["verify", "shop.orders", "--offset-column", "log"][..], "another type"),
        (&["verify", "shop.orders", "--from", "x"][..], "--from \"x\""),
        (&["verify", "--pipeline", "none"][..], "there is no pipeline \"none\""),
        (&["verify", "shop.orders", "--connect"][..], "reads Kafka"),
        (&["verify", "shop.orders", "--set", "pipeline.orders.metadata={}"][..], "which column has the offset"),
        (&["verify", "shop.none", "--partition-column", "p", "--offset-column", "o"][..], "frazil table list"),
    ] {
        let output = world.command(words).output().expect("run frazil");
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success() && said.contains(text), "{words:?}: {said}");
    }
}
