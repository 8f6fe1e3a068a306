//! Bad input: it is put aside with place, stage, reason and bytes, and everything around it goes in.

use std::fs;

use arrow::array::{AsArray, RecordBatch};
use arrow::datatypes::Int64Type;

use crate::daemon::{World, gzip};

const TABLE: &str = "shop.orders";

/// A pipeline with given columns whose schema does not change.
const FROZEN: &str = r#"
[pipeline.orders]
source = "in"
table = "lake.shop.orders"
create = { columns = ["id long not null", "qty int", "price decimal(9,2)", "name string", "at timestamptz", "tags list<string>"] }
schema = { on_change = "freeze" }
commit = { freshness = "100ms" }
"#;

/// A pipeline that finds its columns by itself.
const OPEN: &str = r#"
[pipeline.orders]
source = "in"
table = "lake.shop.orders"
commit = { freshness = "100ms" }
"#;

fn lines(lines: &[&[u8]]) -> Vec<u8> {
    lines.iter().flat_map(|line| [line, b"\n".as_slice()].concat()).collect()
}

fn numbered(numbers: std::ops::Range<i64>) -> Vec<u8> {
    numbers.flat_map(|id| format!("{{\"id\":{id}}}\n").into_bytes()).collect()
}

/// One bad row, and what its reject says.
struct Bad {
    row: Vec<u8>,
    stage: &'static str,
    reason: &'static str,
}

fn bad(row: impl Into<Vec<u8>>, stage: &'static str, reason: &'static str) -> Bad {
    Bad { row: row.into(), stage, reason }
}

#[test]
fn every_kind_of_bad_row_is_put_aside_and_the_rows_around_it_go_in() {
    let world = World::new(FROZEN);
    let deep = format!("{{\"id\":1,\"tags\":{}{}}}", "[".repeat(100_000), "]".repeat(100_000));
    let hidden = format!("{{\"id\":1,\"unknown\":{}{}}}", "{\"a\":".repeat(50_000), "}".repeat(49_000));
    let bads = [
        bad("{\"id\":1,", "decode", ""),
        bad("not json at all", "decode", ""),
        bad("[1,2]", "decode", ""),
        bad("{\"id\":1} {\"id\":2}", "decode", ""),
        bad("{\"id\":\"x\"}", "decode", "long"),
        bad("{\"id\":{\"a\":1}}", "decode", "long"),
        bad("{\"id\":null,\"name\":\"n\"}", "decode", ""),
        bad("{\"name\":\"n\"}", "decode", ""),
        bad("{\"id\":1,\"qty\":3000000000}", "decode", "int"),
        bad("{\"id\":99999999999999999999}", "decode", "long"),
        bad("{\"id\":1,\"price\":12345678.9}", "decode", "decimal"),
        bad("{\"id\":1,\"price\":1.005}", "decode", "decimal"),
        bad("{\"id\":1,\"at\":\"yesterday\"}", "decode", ""),
        bad(b"{\"id\":1,\"name\":\"\xff\xfe\"}".to_vec(), "decode", "UTF-8"),
        bad("{\"id\":1,\"id\":2}", "decode", "duplicate key"),
        bad(deep, "decode", "nest"),
        bad(hidden, "decode", ""),
    ];
    let mut text = Vec::new();
    for (number, bad) in bads.iter().enumerate() {
        text.extend(numbered(number as i64..number as i64 + 1));
        text.extend(&bad.row);
        text.push(b'\n');
    }
    text.extend(numbered(1000..1100));
    world.put("a.ndjson", &text);
    world.run_to_end(&[]).with(0, &["committed"]);

    let good: Vec<i64> = (0..bads.len() as i64).chain(1000..1100).collect();
    assert_eq!(world.longs(TABLE, "id"), good);
    let rejects = world.rejects(TABLE);
    assert_eq!(rejects.len(), bads.len(), "{rejects:?}");
    for (at, (reject, bad)) in rejects.iter().zip(&bads).enumerate() {
        let shown = String::from_utf8_lossy(&bad.row[..bad.row.len().min(60)]).into_owned();
        assert!(reject.origin.ends_with("incoming/a.ndjson"), "{}", reject.origin);
        assert!(reject.partition.ends_with("incoming"), "{}", reject.partition);
        assert_eq!(reject.number, 2 * at as i64 + 2, "{shown}");
        assert_eq!(reject.stage, bad.stage, "{shown}: {}", reject.reason);
        assert!(!reject.reason.is_empty() && reject.reason.contains(bad.reason), "{shown}: {}", reject.reason);
        let kept = bad.row.len().min(64 << 10);
        assert!(reject.raw == bad.row[..kept], "{shown}: {} bytes are kept", reject.raw.len());
    }
}

#[test]
fn a_line_of_100_mb_is_put_aside_by_its_beginning() {
    let world = World::new(OPEN);
    let mut text = numbered(0..3);
    text.extend(b"{\"id\":3,\"name\":\"");
    text.resize(text.len() + 100_000_000, b'x');
    text.extend(b"\"}\n");
    text.extend(numbered(4..7));
    world.put("a.ndjson", &text);
    world.run_to_end(&[]).with(0, &[]);
    assert_eq!(world.longs(TABLE, "id"), [0, 1, 2, 4, 5, 6]);
    let rejects = world.rejects(TABLE);
    assert_eq!(rejects.len(), 1);
    assert_eq!((rejects[0].number, rejects[0].stage.as_str()), (4, "source"));
    assert!(rejects[0].reason.contains("row_bytes_max"), "{}", rejects[0].reason);
    assert!(rejects[0].raw.starts_with(b"{\"id\":3,\"name\":\"xxx"));
}

#[test]
fn empty_files_and_lines_are_nothing() {
    let world = World::new(OPEN);
    world.put("a.ndjson", "");
    world.put("b.ndjson", "\n\n{\"id\":1}\n\n   \n{\"id\":2}");
    world.put("c.ndjson", "\n");
    world.put("d.ndjson.gz", gzip(b""));
    world.put("e.ndjson.gz", "");
    world.run_to_end(&[]).with(0, &[]);
    assert_eq!(world.longs(TABLE, "id"), [1, 2]);
    let rejects = world.rejects(TABLE);
    assert!(rejects.iter().all(|reject| reject.origin.ends_with("e.ndjson.gz")), "{rejects:?}");
}

#[test]
fn a_file_that_shrinks_or_is_replaced_loses_its_rest_and_nothing_else() {
    let world = World::new(OPEN);
    world.put("a.ndjson", numbered(0..1000));
    let mut daemon = world.start(&[]);
    daemon.until(&["committed", "\"rows\":1000"]);
    fs::write(world.path("incoming/a.ndjson"), numbered(0..10)).expect("shrink it");
    daemon.until(&["committed", "\"rejects\":1"]);
    world.put("b.ndjson", numbered(1000..1500));
    daemon.until(&["committed", "\"rows\":500"]);
    world.put("b.ndjson", numbered(5000..6000));
    daemon.until(&["committed", "\"rejects\":1"]);
    world.put("c.ndjson", numbered(2000..2010));
    daemon.until(&["committed", "\"rows\":10"]);
    daemon.terminate().with(0, &[]);
    let expected: Vec<i64> = (0..1500).chain(2000..2010).collect();
    assert_eq!(world.longs(TABLE, "id"), expected);
    let rejects = world.rejects(TABLE);
    assert_eq!(rejects.len(), 2, "{rejects:?}");
    assert!(rejects[0].origin.ends_with("a.ndjson") && rejects[0].reason.contains("shrank"), "{rejects:?}");
    assert!(rejects[1].origin.ends_with("b.ndjson") && rejects[1].reason.contains("replaced"), "{rejects:?}");
}

#[test]
fn a_gzip_bomb_is_cut_off_and_the_next_file_is_read() {
    let world = World::new(OPEN);
    let mut bomb = numbered(0..5);
    bomb.resize(bomb.len() + (200 << 20), b' ');
    world.put("a.ndjson.gz", gzip(&bomb));
    world.put("b.ndjson.gz", gzip(&numbered(5..10)));
    let cut = &gzip(&numbered(10..2000))[..200];
    world.put("c.ndjson.gz", cut);
    world.put("d.ndjson", numbered(3000..3005));
    world.run_to_end(&["--set", "source.in.expansion_max=100"]).with(0, &[]);
    let ids = world.longs(TABLE, "id");
    assert!((0..10).chain(3000..3005).all(|id| ids.contains(&id)), "{ids:?}");
    let rejects = world.rejects(TABLE);
    assert_eq!(rejects.len(), 2, "{rejects:?}");
    assert!(rejects[0].origin.ends_with("a.ndjson.gz") && rejects[0].reason.contains("expansion_max"), "{rejects:?}");
    assert!(rejects[1].origin.ends_with("c.ndjson.gz"), "{rejects:?}");
}

#[test]
fn rows_that_change_their_shape_change_the_table_or_are_put_aside() {
    let world = World::new(OPEN);
    let text = lines(&[
        b"{\"id\":1,\"n\":1}",
        b"{\"id\":2,\"n\":3000000000}",
        b"{\"id\":3,\"n\":\"text\"}",
        b"{\"id\":4,\"new\":{\"a\":[1,2]}}",
        b"{\"id\":5,\"new\":5}",
    ]);
    world.put("a.ndjson", &text);
    world.run_to_end(&[]).with(0, &[]);
    world.put("b.ndjson", lines(&[b"{\"id\":6,\"n\":1.5}", b"{\"id\":\"seven\"}", b"{\"id\":8,\"later\":true}"]));
    world.run_to_end(&[]).with(0, &[]);
    let rows = world.count(TABLE) + world.rejects(TABLE).len();
    assert_eq!(rows, 8, "{:?}", world.rejects(TABLE));
}

#[test]
fn more_rejects_than_allowed_halt_the_pipeline_and_lose_nothing() {
    let world = World::new(OPEN);
    world.put("a.ndjson", lines(&[b"{\"id\":1}", b"{", b"{\"id\":2}", b"{"]));
    let halted = world.run_to_end(&["--set", "pipeline.orders.rejects.halt_above=10%"]);
    halted.with(3, &["rejects.halt_above", "2 of 4 rows"]);
    assert_eq!((world.count(TABLE), world.rejects(TABLE).len()), (0, 0));
    world.run_to_end(&[]).with(0, &[]);
    assert_eq!((world.count(TABLE), world.rejects(TABLE).len()), (2, 2));
}

#[test]
fn files_of_values_name_them_in_their_first_line_each_in_its_own_order_also_where_reading_goes_on_within_one() {
    let world = World::new(
        r#"
[pipeline.orders]
source = "in"
table = "lake.shop.orders"
commit = { freshness = "100ms" }
decode = { format = "csv", csv = { header = true } }
"#,
    );
    let names = ["--set", "source.in.glob=*.csv*"];
    world.put("a.csv", "id,qty\r\n1,10\r\n2,20\r\n");
    let mut daemon = world.start(&names);
    daemon.until(&["committed", "\"rows\":2"]);
    daemon.terminate().with(0, &[]);
    // The rest of a file whose first line was dealt with by another process.
    fs::write(world.path("incoming/a.csv"), "id,qty\r\n1,10\r\n2,20\r\n3,30\r\n").expect("append");
    world.put("b.csv", "qty,id,name\n40,4,a\n50,5,b\n");
    world.put("c.csv", "id\n7\n");
    world.put("d.csv", "id,qty,ID\n7,70,8\n");
    world.put("e.csv.gz", gzip(b"name,qty,id\nd,60,6\n"));
    world.run_to_end(&names).with(0, &[]);
    assert_eq!(world.longs(TABLE, "id"), [1, 2, 3, 4, 5, 6, 7]);
    // NULL where the file does not name it.
    let held = |batch: &RecordBatch| {
        let column = batch.column_by_name("qty").expect("the column").as_primitive::<Int64Type>().clone();
        column.iter().flatten().collect::<Vec<_>>()
    };
    let mut quantities: Vec<i64> = world.rows(TABLE).iter().flat_map(held).collect();
    quantities.sort_unstable();
    assert_eq!(quantities, [10, 20, 30, 40, 50, 60]);
    assert_eq!(world.count(TABLE), 7);
    let rejects = world.rejects(TABLE);
    assert_eq!(rejects.len(), 1, "{rejects:?}");
    assert!(rejects[0].origin.ends_with("d.csv") && rejects[0].reason.contains("\"ID\" twice"), "{rejects:?}");
}
