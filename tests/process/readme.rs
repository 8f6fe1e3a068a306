//! The README does what it says: its configuration in an empty folder, its commands in their order.

use std::fs;
use std::process::Command;

use serde_json::Value;

use crate::daemon::World;

/// The first block of this language in the README from where it says how to use it.
fn block(language: &str) -> String {
    block_of("## Use it", language)
}

/// The first block of this language in a section.
fn block_of(section: &str, language: &str) -> String {
    let text = include_str!("../../README.md");
    let after = text.split_once(section).map(|(_, after)| after).expect("the section");
    let (_, from) = after.split_once(&format!("```{language}\n")).expect("a block");
    from.split_once("```").map(|(block, _)| block.to_owned()).expect("its end")
}

#[test]
fn the_configuration_and_the_commands_of_the_readme_work_in_an_empty_folder() {
    let world = World::bare(&block("toml"));
    for line in block("bash").lines() {
        let words: Vec<&str> = line.split('#').next().unwrap_or_default().split_whitespace().collect();
        assert_eq!(
            (words[0], words[words.len() - 2], words[words.len() - 1]),
            ("frazil", "-c", "frazil.toml"),
            "{line}"
        );
        let words = &words[1..words.len() - 2];
        if words == ["run"] {
            fs::create_dir(world.path("incoming")).expect("a folder");
            let row =
                |id: i64| format!("{{\"customer_id\":{id},\"order_ts\":\"2026-01-0{}T10:00:00Z\"}}\n", 1 + id % 9);
            world.put("a.ndjson", (0..50).map(row).collect::<String>());
            let mut daemon = world.start(&["--set", "pipeline.orders.commit.freshness=100ms"]);
            daemon.until(&["committed", "\"rows\":50"]);
            daemon.terminate().with(0, &[]);
        } else {
            let output = world.command(words).output().expect("run frazil");
            let said = String::from_utf8_lossy(&output.stderr);
            assert!(output.status.success(), "{line}: {said}");
        }
    }
    let shown = world.json(&["table", "show", "lake.shop.orders"]);
    assert_eq!(shown["name"], "shop.orders", "{shown}");
    assert_eq!(world.count("shop.orders"), 50);
    for words in [["table", "list"].as_slice(), &["check"], &["check", "--connect"], &["config", "show"]] {
        world.json(words);
    }
    for verb in ["history", "files", "checkpoint"] {
        world.json(&["table", verb, "shop.orders"]);
    }
}

/// As somebody would paste it, into a shell in the folder of the configuration.
#[test]
fn what_the_readme_says_of_maintenance_works_as_it_is_written() {
    const SECTION: &str = "## Keep tables small";
    let world = World::bare(&(block("toml") + &block_of(SECTION, "toml")));
    fs::create_dir(world.path("incoming")).expect("a folder");
    for file in 0..8 {
        let row = "{\"customer_id\":7,\"order_ts\":\"2026-11-02T10:00:00Z\"}\n";
        world.put(&format!("{file}.ndjson"), row);
        world.start(&["--set", "source.orders.until_end=true"]).ends().with(0, &[]);
    }
    let script = format!("set -ex\nfrazil() {{ \"$FRAZIL\" \"$@\"; }}\n{}", block_of(SECTION, "bash"));
    let mut shell = Command::new("sh");
    shell.args(["-c", &script]).env("FRAZIL", env!("CARGO_BIN_EXE_frazil")).current_dir(world.path(""));
    let output = shell.output().expect("run sh");
    let (text, said) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{said}{text}");
    let lines = block_of(SECTION, "bash").lines().count();
    assert_eq!(said.lines().filter(|line| line.starts_with("+ frazil ")).count(), lines, "each command ran: {said}");
    // All but one only look.
    let files = world.json(&["table", "files", "shop.orders"]);
    assert_eq!(files["files"].as_array().map(Vec::len), Some(1), "{text}{files}");
    assert_eq!(world.count("shop.orders"), 8);
}

#[test]
fn positions_that_an_operator_sets_are_where_the_pipeline_goes_on() {
    let world = World::bare(&block("toml"));
    fs::create_dir(world.path("incoming")).expect("a folder");
    let rows =
        |from: i64| (from..from + 10).map(|id| format!("{{\"customer_id\":{id},\"order_ts\":\"2026-01-01\"}}\n"));
    world.put("a.ndjson", rows(0).collect::<String>());
    world.put("b.ndjson", rows(10).collect::<String>());
    let run = || world.start(&["--set", "source.orders.until_end=true"]).ends().with(0, &[]);
    run();
    let before = world.json(&["table", "checkpoint", "shop.orders"]);
    let (partition, position) = before["checkpoints"][0]["record"]["map"]["positions"]
        .as_object()
        .and_then(|positions| positions.iter().next())
        .expect("a position");
    assert_eq!(position["watermark"], "b.ndjson", "{before}");
    let positions = serde_json::json!({ partition: { "watermark": "a.ndjson" } }).to_string();
    let set = ["checkpoint", "set", "lake.shop.orders", "--pipeline", "orders", "--positions", &positions];
    let unasked = world.command(&set).output().expect("run frazil");
    assert_eq!(unasked.status.code(), Some(2), "nobody can be asked");
    let planned = world.json(&[&set[..], &["--dry-run"]].concat());
    assert!(planned["snapshot-id"].is_null(), "{planned}");
    assert_eq!(world.json(&["table", "checkpoint", "shop.orders"]), before);
    let done = world.json(&[&set[..], &["--yes"]].concat());
    assert!(done["snapshot-id"].is_i64(), "{done}");
    run();
    let twice: Vec<i64> = (0..20).chain(10..20).collect();
    let mut sorted = twice.clone();
    sorted.sort_unstable();
    assert_eq!(world.longs("shop.orders", "customer_id"), sorted);
    let accepted = world.json(&["checkpoint", "accept", "shop.orders", "--pipeline", "orders", "--yes"]);
    assert_eq!(accepted["before"], accepted["after"], "{accepted}");
    run();
    assert_eq!(world.count("shop.orders"), 30);
}

/// A table that becomes an anchor knows of no other. From then on one that is rolled back and reset is noticed.
#[test]
fn an_anchor_that_is_set_knows_how_far_the_tables_beside_it_are() {
    let pipeline = |anchor: &str| {
        format!(
            "[pipeline.p]\nsource = \"in\"\ntable = \"lake.shop.{{event}}\"\nanchor = \"lake.shop.{anchor}\"\n\
             create = {{ columns = [\"event string\", \"id long\"] }}\n"
        )
    };
    let world = World::new(&pipeline("view"));
    let row = |id: i64| format!("{{\"event\":\"{}\",\"id\":{id}}}\n", if id % 2 == 0 { "view" } else { "buy" });
    world.put("a.ndjson", (0..10).map(row).collect::<String>());
    world.run_to_end(&[]).with(0, &["committed"]);
    let uuid = world.json(&["table", "show", "shop.view"])["uuid"].as_str().expect("a uuid").to_owned();
    let positions = r#"{"in":{"watermark":"a.ndjson"}}"#;
    let set = ["checkpoint", "set", "lake.shop.buy", "--pipeline", "p", "--positions", positions, "--dry-run"];
    let seen = |anchor: &str| {
        let text = fs::read_to_string(world.path("frazil.toml")).expect("the configuration");
        let (head, _) = text.split_once("[pipeline.p]").expect("the pipeline");
        world.configure(&format!("{head}{}", pipeline(anchor)));
        world.json(&set)
    };
    let beside = seen("view");
    assert!(beside["beside"].is_null() && beside["after"]["known"].is_null(), "not its anchor: {beside}");
    let anchor = seen("buy");
    let known = anchor["after"]["known"].as_object().expect("what is known");
    assert_eq!(known.keys().collect::<Vec<_>>(), [&uuid], "{anchor}");
    assert!(
        known[&uuid].as_i64().is_some_and(|seq| seq > 0) && anchor["beside"]["shop.view"] == known[&uuid],
        "{anchor}"
    );
    assert_eq!(anchor["after"]["followers"][0].as_str(), Some(uuid.as_str()), "{anchor}");
}

/// A deadline in the past, as far as the note of an expiry tells: what the real one waits for.
fn age_the_note(world: &World) {
    let folder = world.path("state/expiry");
    let note = fs::read_dir(&folder).expect("a folder").next().expect("a note").expect("readable").path();
    let mut json: Value = serde_json::from_slice(&fs::read(&note).expect("readable")).expect("JSON");
    let earlier = |ms: &mut Value| *ms = (ms.as_i64().expect("a time") - 700_000).into();
    json["noted"].as_object_mut().expect("candidates").values_mut().for_each(earlier);
    for batch in json["batches"].as_array_mut().expect("removals") {
        earlier(&mut batch["gone_ms"]);
    }
    fs::write(&note, json.to_string()).expect("writable");
}

#[test]
fn old_snapshots_go_in_three_steps_and_every_row_stays() {
    let world = World::bare(&format!("state_dir = \"state\"\n{}", block("toml")));
    fs::create_dir(world.path("incoming")).expect("a folder");
    for file in 0..4 {
        let rows = (0..10).map(|id| format!("{{\"customer_id\":{},\"order_ts\":\"2026-01-01\"}}\n", file * 10 + id));
        world.put(&format!("{file}.ndjson"), rows.collect::<String>());
        world.start(&["--set", "source.orders.until_end=true"]).ends().with(0, &[]);
    }
    let expire = ["expire", "lake.shop.*", "--older-than", "0s"];
    let unasked = world.command(&expire).output().expect("run frazil");
    assert_eq!(unasked.status.code(), Some(2), "nobody can be asked");
    let planned = world.json(&[&expire[..], &["--dry-run"]].concat());
    let planned = &planned["tables"][0];
    let lists = planned["manifest-lists"].as_array().expect("lists").clone();
    assert_eq!((lists.len(), planned["files"].as_array().map(Vec::len)), (4, Some(0)), "{planned}");
    let step = || world.json(&[&expire[..], &["--yes"]].concat())["tables"][0].clone();
    let noted = step();
    assert_eq!(
        (noted["noted"].as_array().map(Vec::len), &noted["removed"]),
        (Some(4), &Value::Array(vec![])),
        "{noted}"
    );
    age_the_note(&world);
    let removed = step();
    assert_eq!(
        (removed["removed"].as_array().map(Vec::len), &removed["deleted"]),
        (Some(4), &Value::from(0)),
        "{removed}"
    );
    assert!(lists.iter().all(|list| fs::exists(list.as_str().expect("a path")).expect("readable")));
    age_the_note(&world);
    let deleted = step();
    assert!(deleted["deleted"].as_u64() >= Some(4) && deleted["next"].is_null(), "{deleted}");
    assert!(lists.iter().all(|list| !fs::exists(list.as_str().expect("a path")).expect("readable")));
    assert_eq!(world.count("shop.orders"), 40);
    world.put("9.ndjson", "{\"customer_id\":40,\"order_ts\":\"2026-01-02\"}\n");
    world.start(&["--set", "source.orders.until_end=true"]).ends().with(0, &[]);
    assert_eq!(world.longs("shop.orders", "customer_id"), (0..41).collect::<Vec<_>>());
    let nothing = world.command(&["expire", "nowhere.*", "--yes"]).output().expect("run frazil");
    assert!(String::from_utf8_lossy(&nothing.stderr).contains("table list"), "{nothing:?}");
}
