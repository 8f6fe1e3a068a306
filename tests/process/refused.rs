//! What keeps a daemon from starting: one clear sentence with the way out, and an exit code.

use std::fs;
use std::net::TcpListener;

use crate::daemon::World;

const PIPELINE: &str = r#"
[pipeline.orders]
source = "in"
table = "lake.shop.orders"
"#;

#[test]
fn a_wrong_configuration_is_answered_with_all_its_problems() {
    let world = World::new(
        r#"
[pipeline.orders]
source = "inn"
table = "lake.orders.x.{"
comit = { freshness = "soon" }
[store."s3://lake"]
acess_key_id = "x"
"#,
    );
    for words in [["run"], ["check"]] {
        let output = world.command(&words).output().expect("run frazil");
        assert_eq!(output.status.code(), Some(2));
        let said = String::from_utf8_lossy(&output.stderr);
        for text in ["inn", "comit", "brace", "acess_key_id", "frazil.toml:"] {
            assert!(said.contains(text), "{words:?} does not name {text}: {said}");
        }
    }
    let answer = world.json(&["check"]);
    assert_eq!(answer["problems"].as_array().map(Vec::len), Some(4), "{answer}");
}

#[test]
fn a_second_daemon_on_one_embedded_catalog_is_refused() {
    let world = World::new(PIPELINE);
    world.put("a.ndjson", "{\"id\":1}\n");
    let mut first = world.start(&["--set", "pipeline.orders.commit.freshness=100ms"]);
    first.until(&["committed"]);
    let id = first.id().to_string();
    world.start(&[]).ends().with(1, &["lake.db", "hint: ", &id]);
    // Looking is always allowed.
    assert_eq!(world.json(&["table", "list"])["tables"].as_array().map(Vec::len), Some(1));
    first.terminate().with(0, &[]);
}

#[test]
fn a_file_that_is_no_catalog_is_left_alone() {
    let world = World::new(PIPELINE);
    fs::write(world.path("lake.db"), "this is a shopping list, not a database".repeat(100)).expect("written");
    let before = fs::read(world.path("lake.db")).expect("there");
    world.start(&[]).ends().with(1, &["lake.db", "hint: ", "runbook.md#corrupt"]);
    assert_eq!(fs::read(world.path("lake.db")).expect("there"), before);
}

#[test]
fn a_damaged_catalog_file_is_said_to_be_damaged() {
    let world = World::new(PIPELINE);
    world.put("a.ndjson", "{\"id\":1}\n");
    world.run_to_end(&[]).with(0, &[]);
    let mut bytes = fs::read(world.path("lake.db")).expect("there");
    let from = bytes.len().min(4096);
    bytes[100..from].fill(0xA5);
    fs::write(world.path("lake.db"), bytes).expect("written");
    let _ = fs::remove_file(world.path("lake.db-wal"));
    let ended = world.run_to_end(&[]);
    ended.with(1, &["lake.db", "hint: "]);
}

#[test]
fn a_warehouse_that_cannot_be_written_is_named() {
    let world = World::new(PIPELINE);
    world.put("a.ndjson", "{\"id\":1}\n");
    // A file where the folder should be: not even root can write below it.
    fs::write(world.path("warehouse"), "a file").expect("written");
    let ended = world.run_to_end(&[]);
    ended.with(3, &["warehouse"]);
}

#[test]
fn a_taken_port_is_named() {
    let world = World::new(PIPELINE);
    let taken = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = taken.local_addr().expect("an address").to_string();
    world.start(&["--set", &format!("api.listen={address}")]).ends().with(2, &[&address, "hint: "]);
}
