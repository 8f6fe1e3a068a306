//! Bad input goes to the rejects table, the rest goes on; bad configuration is refused with all its problems.

use std::fs::{self, File};
use std::io::Write;
use std::path::Path;

use serde_json::json;

use crate::components::scratch;
use crate::daemon::Daemon;
use crate::readers::{Columns, Engine};

const ORDERS: Columns<'static> = &[("id", "long"), ("amount", "int"), ("note", "string")];
const REJECTS: Columns<'static> =
    &[("origin", "string"), ("number", "long"), ("stage", "string"), ("reason", "string")];

fn config(folder: &Path) -> String {
    let folder = folder.display();
    format!(
        r#"
        instance = "one"
        state_dir = "{folder}/state"

        [catalog.lake]
        type = "embedded"
        path = "{folder}/lake.db"
        warehouse = "{folder}/warehouse"

        [source.orders]
        type = "files"
        path = "{folder}/orders"
        until_end = true

        [pipeline.orders]
        source = "orders"
        table = "lake.shop.orders"
        create = {{ columns = ["id long not null", "amount int", "note string"] }}
        schema = {{ on_change = "freeze" }}
        "#
    )
}

/// Good rows between bad ones; returns how many of each.
fn write_mixed(path: &Path) -> (u64, u64) {
    let deep = format!("{{\"id\":1,\"note\":{}1{}}}", "[".repeat(50_000), "]".repeat(50_000));
    let bad: Vec<Vec<u8>> = vec![
        b"{\"id\":1,".to_vec(),
        b"not json".to_vec(),
        b"[1,2]".to_vec(),
        b"{\"id\":\"one\",\"amount\":1}".to_vec(),
        b"{\"amount\":1}".to_vec(),
        b"{\"id\":null}".to_vec(),
        b"{\"id\":1,\"amount\":3000000000}".to_vec(),
        b"{\"id\":1e400}".to_vec(),
        b"{\"id\":99999999999999999999}".to_vec(),
        b"{\"id\":1,\"note\":\"\xff\xfe\"}".to_vec(),
        deep.into_bytes(),
    ];
    let mut out = File::create(path).expect("make the mixed file");
    let mut good = 0;
    for line in &bad {
        for _ in 0..100 {
            writeln!(out, "{{\"id\":{good},\"amount\":{},\"note\":\"gut ü\"}}", good % 7).expect("write");
            good += 1;
        }
        out.write_all(line).and_then(|()| out.write_all(b"\n")).expect("write");
    }
    // The last line of a file needs no line feed.
    write!(out, "{{\"id\":{good},\"amount\":1,\"note\":null}}").expect("write");
    (good + 1, bad.len() as u64)
}

fn rows(daemon: &Daemon, table: &str, columns: Columns<'_>) -> u64 {
    Engine::PyIceberg.read(&json!({ "metadata": daemon.metadata(table) }), columns).rows
}

#[test]
fn rows_in_are_rows_committed_plus_rejects() {
    let scratch = scratch("rejects");
    let orders = scratch.join("orders");
    fs::create_dir_all(&orders).expect("make the folder");
    let (good, bad) = write_mixed(&orders.join("a-mixed.ndjson"));
    File::create(orders.join("b-empty.ndjson")).expect("make an empty file");
    // One line of 100 MB, then a good one.
    let mut long = File::create(orders.join("c-long.ndjson")).expect("make the long file");
    long.write_all(&vec![b'x'; 100 << 20]).and_then(|()| long.write_all(b"\n{\"id\":-1}\n")).expect("write");
    let daemon = Daemon::configured(&scratch, &config(&scratch));
    daemon.finish(&["orders"]);
    assert_eq!(rows(&daemon, "lake.shop.orders", ORDERS), good + 1);
    assert_eq!(rows(&daemon, "lake.shop.orders__rejects", REJECTS), bad + 1);
}

#[test]
fn a_file_that_does_not_decompress_is_rejected_and_its_neighbours_are_read() {
    let scratch = scratch("not_decompressed");
    let orders = scratch.join("orders");
    fs::create_dir_all(&orders).expect("make the folder");
    let packed = |bytes: &[u8]| {
        let mut out = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
        out.write_all(bytes).and_then(|()| out.finish()).expect("gzip")
    };
    let row = |id: usize| format!("{{\"id\":{id},\"note\":\"{id}\"}}\n");
    let whole = packed((0..5_000).map(row).collect::<String>().as_bytes());
    fs::write(orders.join("a-good.ndjson.gz"), &whole).expect("write");
    fs::write(orders.join("b-no-gzip.ndjson.gz"), b"{\"id\":1}\n").expect("write");
    // 256 MiB of one line in about 256 KiB.
    fs::write(orders.join("c-bomb.ndjson.gz"), packed(&vec![b'x'; 256 << 20])).expect("write");
    fs::write(orders.join("d-good.ndjson"), row(5_000)).expect("write");
    let daemon = Daemon::configured(&scratch, &config(&scratch));
    daemon.finish(&["orders"]);
    assert_eq!(rows(&daemon, "lake.shop.orders", ORDERS), 5_001);
    assert!(rows(&daemon, "lake.shop.orders__rejects", REJECTS) >= 2, "each bad file leaves a reject");
}

#[test]
fn a_bad_configuration_ends_with_code_2_and_names_every_problem() {
    let scratch = scratch("bad_configuration");
    let config =
        config(&scratch).replace("type = \"files\"", "type = \"filez\"").replace("[source", "[sauce.x]\n[source");
    let daemon = Daemon::configured(&scratch, &config);
    let output = daemon.command(&["run"]).output().expect("run frazil");
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{said}");
    assert!(said.contains("filez") && said.contains("sauce"), "{said}");
}
