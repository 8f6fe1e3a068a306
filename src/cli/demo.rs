//! `frazil demo`: a made-up web shop streamed into local tables.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::cli::flags::{Demo, Flags};
use crate::cli::live::Live;
use crate::cli::output::{self, Answer};
use crate::cli::process::{Handles, Process, exit_of, serve};
use crate::cli::{Exit, answer, wiring};
use crate::config::Config;
use crate::config::load::from_text;
use crate::env::Env;
use crate::error::{Context, Error, ErrorKind, Result};

/// How long the demo runs unless told otherwise.
const SECONDS: u64 = 20;
/// Parallel logs of the made-up shop.
const PARTITIONS: u64 = 4;
/// Between two pictures on a terminal.
const PICTURE: Duration = Duration::from_millis(150);
/// Between two lines where there is no terminal.
const LINE: Duration = Duration::from_secs(5);

/// How a file begins that the demo may write over.
const WRITTEN_BY: &str = "# Written by `frazil demo`.";
const CATALOG: &str = "local";
const NAMESPACE: &str = "demo";

pub(crate) fn demo(flags: &Flags, own: &Demo) -> Result<Exit> {
    let dir = std::path::absolute(&own.dir).context(ErrorKind::Config, || format!("folder {}", own.dir.display()))?;
    let text = configuration(&dir, own);
    let file = dir.join("frazil.toml");
    let config = from_text(&file.display().to_string(), text.clone(), &flags.global.set)?.config;
    if std::fs::read_to_string(&file).is_ok_and(|old| !old.starts_with(WRITTEN_BY)) {
        return Err(Error::new(ErrorKind::Config, format!("{} was not written by the demo", file.display()))
            .with_hint("choose another folder with --dir"));
    }
    std::fs::create_dir_all(&dir).and_then(|()| std::fs::write(&file, &text)).map_err(|error| {
        Error::new(ErrorKind::Unavailable, format!("folder {}", dir.display()))
            .with_source(error)
            .with_hint("choose a folder that you may write with --dir")
    })?;
    let config = Arc::new(config);
    let handles = Handles::new();
    let process = Process::start(config.limits.workers, 0)?;
    let seconds = own.seconds.or_else(|| own.rows.is_none().then_some(SECONDS));
    let started_ms = handles.env.now_ms();
    let work = async {
        let daemon = serve(Arc::clone(&config), handles.clone());
        watch(flags, &handles, seconds, daemon).await?;
        summary(&config, &handles, &own.dir, started_ms).await
    };
    let ended = process.until_second_signal(&handles.token, Box::pin(work));
    process.end();
    match ended? {
        None => Ok(Exit::Interrupted),
        Some(found) => {
            answer(flags, &found)?;
            Ok(exit_of(&handles.health))
        }
    }
}

/// The configuration, which the user can run and change afterwards.
fn configuration(dir: &Path, own: &Demo) -> String {
    let quote = |path: PathBuf| toml_edit::Value::from(path.to_string_lossy().into_owned()).to_string();
    // Rows are given per partition: one partition keeps a number exact that does not divide.
    let (partitions, rows) = match own.rows {
        Some(rows) if rows % PARTITIONS == 0 => (PARTITIONS, Some(rows / PARTITIONS)),
        Some(rows) => (1, Some(rows)),
        None => (PARTITIONS, None),
    };
    let setting = |name: &str, value: Option<u64>| value.map(|value| format!("{name} = {value}\n")).unwrap_or_default();
    format!(
        "\
{WRITTEN_BY} It runs without the live numbers too: frazil run -c frazil.toml
state_dir = {state}

[catalog.{CATALOG}]
type = \"embedded\"
path = {path}
warehouse = {warehouse}

[source.shop]
type = \"replay\"
partitions = {partitions}
{rate}{rows}
# One table per kind of event, partitioned by day. The columns are found in the rows.
[pipeline.demo]
source = \"shop\"
table = \"{CATALOG}.{NAMESPACE}.shop_{{event}}\"
anchor = \"{CATALOG}.{NAMESPACE}.shop_epochs\"
create = {{ partition = [\"day(event_time)\"], sort = [\"event_time\"] }}
commit = {{ freshness = \"2s\" }}
",
        state = quote(dir.join("state")),
        path = quote(dir.join("catalog.db")),
        warehouse = quote(dir.join("warehouse")),
        rate = setting("rate", own.rate),
        rows = setting("rows", rows),
    )
}

/// Runs the daemon and shows its numbers until it ends; after `seconds` it is asked to.
async fn watch(
    flags: &Flags,
    handles: &Handles,
    seconds: Option<u64>,
    daemon: impl Future<Output = Result<()>>,
) -> Result<()> {
    let env = &handles.env;
    let mut live = Live::new(handles.metrics.clone(), env.now_ms());
    let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr_with_hz(10));
    bar.set_style(ProgressStyle::with_template("{msg}").unwrap_or_else(|_| ProgressStyle::default_spinner()));
    let terminal = !bar.is_hidden();
    let quiet = flags.global.quiet;
    let deadline = async {
        match seconds {
            Some(seconds) => env.sleep(Duration::from_secs(seconds)).await,
            None => std::future::pending().await,
        }
    };
    tokio::pin!(daemon);
    tokio::pin!(deadline);
    let ended = loop {
        tokio::select! {
            biased;
            ended = &mut daemon => break ended,
            () = &mut deadline, if !handles.token.is_cancelled() => handles.token.cancel(),
            () = env.sleep(if terminal { PICTURE } else { LINE }) => {
                let lines = live.lines(env.now_ms());
                if quiet {
                    continue;
                }
                if terminal { bar.set_message(lines) } else { output::note(lines.lines().next().unwrap_or_default()) }
            }
        }
    };
    let lines = live.lines(env.now_ms());
    bar.finish_and_clear();
    if !quiet {
        output::note(lines.trim_end());
    }
    ended
}

/// What was made, and how to look at it.
async fn summary(config: &Config, handles: &Handles, dir: &Path, started_ms: i64) -> Result<Answer> {
    let env: &Env = &handles.env;
    let catalog = wiring::catalog(config, CATALOG, env).await?;
    let mut tables = Vec::new();
    for name in catalog.tables(&[NAMESPACE.to_owned()]).await? {
        let state = catalog.load(&name).await?;
        let rows = state.head(crate::model::ids::MAIN).and_then(|snapshot| {
            snapshot.summary().additional_properties.get("total-records").and_then(|text| text.parse::<u64>().ok())
        });
        tables.push((name.to_string(), state.metadata_location.unwrap_or_default(), rows.unwrap_or(0)));
    }
    let largest = tables.iter().max_by_key(|(_, _, rows)| *rows).cloned().unwrap_or_default();
    // As it was called: nothing says that it is in the search path.
    let program = std::env::args_os().next().map_or_else(|| "frazil".to_owned(), |name| shell(&name.to_string_lossy()));
    let commands =
        if tables.is_empty() { Vec::new() } else { commands(&program, &largest.0, &largest.1, dir).to_vec() };
    let json_tables: Vec<serde_json::Value> = tables
        .iter()
        .map(|(name, location, rows)| serde_json::json!({ "table": name, "metadata-location": location, "rows": rows }))
        .collect();
    let text = if tables.is_empty() {
        "\nnothing was committed: run it longer, with more --seconds\n".to_owned()
    } else {
        format!("\nLook at {} with\n\n  {}\n", largest.0, commands.join("\n  "))
    };
    let json = serde_json::json!({
        "tables": json_tables,
        "rows": handles.metrics.total("frazil_rows_committed_total", &[]),
        "milliseconds": env.now_ms() - started_ms,
        "commands": commands,
    });
    Ok(Answer { json, text })
}

/// One line each for DuckDB, PyIceberg and Frazil itself.
fn commands(program: &str, table: &str, metadata: &str, dir: &Path) -> [String; 3] {
    let path = metadata.strip_prefix("file://").unwrap_or(metadata);
    let sql = format!("INSTALL iceberg; LOAD iceberg; SELECT * FROM iceberg_scan('{path}') LIMIT 10");
    let python = format!(
        "from pyiceberg.table import StaticTable; print(StaticTable.from_metadata('{metadata}').scan(limit=10).to_arrow())"
    );
    [
        format!("duckdb -c {}", shell(&sql)),
        format!("python3 -c {}", shell(&python)),
        format!("{program} table show {table} -c {}", shell(&dir.join("frazil.toml").to_string_lossy())),
    ]
}

/// A text as one word of a POSIX shell.
fn shell(text: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "/._-".contains(c);
    if !text.is_empty() && text.chars().all(plain) {
        return text.to_owned();
    }
    if text.contains('\'') && !text.contains(['"', '$', '`', '\\', '!']) {
        return format!("\"{text}\"");
    }
    format!("'{}'", text.replace('\'', "'\\''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn flags(rows: Option<u64>, rate: Option<u64>) -> Demo {
        Demo { dir: PathBuf::from("demo"), rows, seconds: None, rate }
    }

    #[test]
    fn the_configuration_of_the_demo_is_valid_and_keeps_the_number_of_rows() {
        for (rows, rate) in [(None, None), (Some(1_000), Some(50)), (Some(1_001), None), (Some(1), None)] {
            let text = configuration(Path::new("/a \"b\"/demo"), &flags(rows, rate));
            let config = from_text("demo", text, &[]).unwrap_or_else(|problems| panic!("{problems}")).config;
            let Some(crate::config::SourceConfig::Replay(replay)) = config.sources.get("shop") else {
                panic!("no replay")
            };
            assert_eq!(replay.rows.map(|own| own * u64::from(replay.partitions)), rows);
            assert_eq!(replay.rate, rate);
        }
    }

    #[test]
    fn commands_survive_the_shell() {
        assert_eq!(shell("./frazil-demo/frazil.toml"), "./frazil-demo/frazil.toml");
        assert_eq!(shell("it's"), "\"it's\"");
        assert_eq!(shell("a 'b' $c"), "'a '\\''b'\\'' $c'");
        let all = commands("frazil", "demo.shop", "file:///w/m.json", Path::new("d"));
        assert!(all[0].contains("iceberg_scan('/w/m.json')") && all[1].contains("'file:///w/m.json'"), "{all:?}");
    }
}
