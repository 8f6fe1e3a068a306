//! How the process ends and begins again.

use crate::daemon::{World, free_address, get};

const TABLE: &str = "shop.orders";

/// An epoch that stays open until something seals it.
const PATIENT: &str = r#"
[pipeline.orders]
source = "in"
table = "lake.shop.orders"
commit = { freshness = "1h" }
"#;

fn numbered(numbers: std::ops::Range<i64>) -> Vec<u8> {
    numbers.flat_map(|id| format!("{{\"id\":{id}}}\n").into_bytes()).collect()
}

#[test]
fn a_signal_seals_and_commits_the_open_epoch() {
    for signal in ["TERM", "INT"] {
        let world = World::new(PATIENT);
        world.put("a.ndjson", numbered(0..500));
        let mut daemon = world.start(&["--log-level", "frazil=debug"]);
        daemon.until(&["read", "\"rows\":500"]);
        assert_eq!(world.count(TABLE), 0);
        daemon.signal(signal);
        daemon.ends().with(0, &["stopping", "committed"]);
        assert_eq!(world.longs(TABLE, "id"), (0..500).collect::<Vec<_>>());
    }
}

#[test]
fn kills_at_any_moment_lose_and_double_nothing() {
    let world = World::new(&PATIENT.replace("1h", "100ms"));
    for round in 0..6_i64 {
        world.put(&format!("{round}.ndjson"), numbered(round * 1000..(round + 1) * 1000));
        let mut daemon = world.start(&[]);
        // Before it has begun, while it reads, and after a commit.
        if round % 3 > 0 {
            daemon.until(&[if round % 3 == 1 { "reads from its checkpoint" } else { "committed" }]);
        }
        drop(daemon);
    }
    world.run_to_end(&[]).with(0, &[]);
    assert_eq!(world.longs(TABLE, "id"), (0..6000).collect::<Vec<_>>());
}

#[test]
fn a_halted_pipeline_stops_no_other_and_shows_in_the_exit_code() {
    let world = World::new(
        r#"
[source.broken]
type = "files"
path = "FOLDER/broken"
[pipeline.strict]
source = "broken"
table = "lake.shop.strict"
commit = { freshness = "100ms" }
rejects = { to = "halt" }
[pipeline.orders]
source = "in"
table = "lake.shop.orders"
commit = { freshness = "100ms" }
[api]
listen = "ADDRESS"
"#,
    );
    let address = free_address();
    let text = std::fs::read_to_string(world.path("frazil.toml")).expect("there");
    world.configure(&text.replace("ADDRESS", &address.to_string()));
    std::fs::create_dir(world.path("broken")).expect("a folder");
    std::fs::write(world.path("broken/a.ndjson"), "{\"id\":1}\n{\n").expect("written");
    world.put("a.ndjson", numbered(0..10));
    let mut daemon = world.start(&[]);
    daemon.until(&["halted", "strict", "rejects.to"]);
    world.put("b.ndjson", numbered(10..20));
    daemon.until(&["committed", "\"pipeline\":\"orders\""]);
    let (status, body) = get(address, "/readyz").expect("it listens");
    assert_eq!(status, 503);
    assert!(body.contains("halted") && body.contains("a.ndjson row 2"), "{body}");
    let (_, metrics) = get(address, "/metrics").expect("it listens");
    assert!(metrics.contains("frazil_pipeline_state{pipeline=\"strict\",state=\"halted\"} 1.0"), "{metrics}");
    assert_eq!(get(address, "/livez").expect("it listens").0, 200);
    daemon.terminate().with(3, &[]);
    assert_eq!(world.longs(TABLE, "id"), (0..20).collect::<Vec<_>>());
}
