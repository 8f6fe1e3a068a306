//! Files on a local disk into tables of the embedded catalog, the daemon killed ten times on the way.

use std::path::Path;

use serde_json::json;

use crate::components::{rows, scratch};
use crate::daemon::{Daemon, Moments};
use crate::input::{FLIGHTS, Growing, VEGA, WEATHER, created};
use crate::readers::{all_engines_find, input};

const KILLS: usize = 10;

fn config(folder: &Path, format_version: u8) -> String {
    let folder = folder.display();
    let flights = created(FLIGHTS);
    let weather = created(WEATHER);
    format!(
        r#"
        instance = "one"
        state_dir = "{folder}/state"

        [catalog.lake]
        type = "embedded"
        path = "{folder}/lake.db"
        warehouse = "{folder}/warehouse"

        [source.flights]
        type = "files"
        path = "{folder}/flights"
        poll = "100ms"

        [pipeline.flights]
        source = "flights"
        table = "lake.nyc.flights"
        create = {{ columns = [{flights}], partition = ["month(time_hour)", "origin"], sort = ["carrier", "flight"], format_version = {format_version} }}
        commit = {{ freshness = "200ms", rows_max = 4000 }}

        [source.weather]
        type = "files"
        path = "{folder}/weather"
        poll = "100ms"

        [pipeline.weather]
        source = "weather"
        table = "lake.nyc.weather"
        create = {{ columns = [{weather}], partition = ["day(time_hour)", "bucket(4, origin)"], format_version = {format_version} }}
        commit = {{ freshness = "200ms", rows_max = 2000 }}

        [source.vega]
        type = "files"
        path = "{folder}/vega"
        poll = "100ms"

        [pipeline.vega]
        source = "vega"
        table = "lake.vega.flights"
        create = {{ partition = ["truncate(1, origin)"], format_version = {format_version} }}
        commit = {{ freshness = "200ms", rows_max = 1000 }}
        "#
    )
}

fn every_row_is_there_once(format_version: u8, seed: u64) {
    let folder = &scratch(&format!("local_v{format_version}"));
    let daemon = Daemon::configured(folder, &config(folder, format_version));
    let (flights, weather, vega) =
        (rows("nyc_flights.ndjson"), rows("nyc_weather.ndjson"), rows("vega_flights_20k.ndjson"));
    let mut growing = [
        Growing::cut(&flights, &folder.join("flights"), 60),
        Growing::cut(&weather, &folder.join("weather"), 30),
        Growing::cut(&vega, &folder.join("vega"), 30),
    ];
    let mut moments = Moments::seeded(seed);
    let mut before = 0;
    for round in 0..KILLS {
        for source in &mut growing {
            source.appear(source.waiting() / (KILLS - round));
        }
        daemon.run_and_kill(round, &mut moments);
        let now = daemon.rows("lake.nyc.flights");
        println!("round {round}: flights has {now} rows");
        assert!(now >= before, "a kill took rows away: {before}, then {now}");
        before = now;
    }
    growing.iter_mut().for_each(|source| source.appear(source.waiting()));
    daemon.finish(&["flights", "weather", "vega"]);
    for (table, file, columns) in [
        ("lake.nyc.flights", &flights, FLIGHTS),
        ("lake.nyc.weather", &weather, WEATHER),
        ("lake.vega.flights", &vega, VEGA),
    ] {
        let wanted = input(&[file], columns);
        assert_eq!(daemon.rows(table), wanted.rows, "{table}: the summary counts another number of rows");
        all_engines_find(&wanted, &json!({ "metadata": daemon.metadata(table) }), columns);
        let before = daemon.files(table);
        let output = daemon.command(&["compact", table, "--rewrite-all"]).output().expect("run frazil");
        println!("{}", String::from_utf8_lossy(&output.stdout));
        assert!(output.status.success(), "compact {table}: {}", String::from_utf8_lossy(&output.stderr));
        let after = daemon.files(table);
        assert!(after < before, "{table}: {before} files, then {after}");
        assert_eq!(
            daemon.rows(table),
            wanted.rows,
            "{table}: the summary counts another number of rows when compacted"
        );
        all_engines_find(&wanted, &json!({ "metadata": daemon.metadata(table) }), columns);
    }
}

#[test]
fn ten_kills_lose_and_double_no_row_on_local_disk_v2() {
    every_row_is_there_once(2, 0x0002_F1A2);
}

#[test]
fn ten_kills_lose_and_double_no_row_on_local_disk_v3() {
    every_row_is_there_once(3, 0x0003_F1A2);
}
