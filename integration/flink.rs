//! Tables that Flink upserts into are compacted and expired: engines that we did not write read the rows that its input
//! determines, at the head and at snapshots that were kept, and Flink goes on committing meanwhile.
//!
//! Rows are functions of a number `n`; what a table must hold is computed here, from the numbers alone.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::Duration;

use serde_json::{Value, json};

use crate::components::{scratch, value};
use crate::daemon::Daemon;
use crate::process::{Listen, Process};
use crate::readers::{Columns, Engine, Found, all_engines_find, engines_find, input};
use crate::table::{Table, compacted, expired, id, idle};

const COLUMNS: Columns<'static> = &[("p", "long"), ("id", "long"), ("n", "long"), ("s", "string")];
const WITH_ROW_IDS: Columns<'static> =
    &[("p", "long"), ("id", "long"), ("n", "long"), ("_row_id", "long"), ("_last_updated_sequence_number", "long")];
/// One job of Flink may be silent for so long.
const JOB_MAX: Duration = Duration::from_secs(240);

const IDS: u64 = 400;
/// Rows that are there before anything is changed, one for each key: else the first equality deletes reach nothing.
const SEED: u64 = 3 * IDS;
/// Rows of one round of changes; keys come again within it, so that it has position deletes or vectors too.
const ROUND: u64 = 1500;

/// Upserts of one job beside compaction; at `PER_SECOND` and a commit a second there are about ten commits.
const UPSERTS: u64 = 12_000;
const PER_SECOND: u64 = 1200;
/// Jobs until Flink and we have met often enough: a slow machine needs more than one.
const JOBS_MAX: u64 = 8;
const TURNS: usize = 3;
/// The tables of these, how many ids they have for each `p`, their partitions, and their format versions.
const LIVE: [(&str, u64, &str, u8); 2] = [("parted", 1000, "PARTITIONED BY (p)", 2), ("whole", 400, "", 3)];

/// A Flink in a process of its own, which runs statements.
struct Flink(Process);

impl Flink {
    fn started(log: &Path) -> Self {
        let catalog = [
            ("uri", value("APACHE_REST_URI")),
            ("io-impl", "org.apache.iceberg.aws.s3.S3FileIO"),
            ("s3.endpoint", value("S3_ENDPOINT")),
            ("s3.path-style-access", "true"),
            ("s3.access-key-id", value("S3_ACCESS_KEY_ID")),
            ("s3.secret-access-key", value("S3_SECRET_ACCESS_KEY")),
            ("client.region", value("S3_REGION")),
        ];
        let mut command = Command::new("java");
        command.args(["-Xmx1g", "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn"]);
        command.args(value("FLINK_OPENS").split(' ')).args(["-cp", value("FLINK_CLASSES"), "FlinkSql"]);
        command.args(catalog.iter().map(|(key, value)| format!("{key}={value}")));
        Self(Process::spawn(&mut command, Listen::Stdout, log))
    }

    /// One session for the tests that wait for its jobs; it ends with the input that this process gives it.
    fn shared() -> &'static Mutex<Self> {
        static SHARED: OnceLock<Mutex<Flink>> = OnceLock::new();
        SHARED.get_or_init(|| Mutex::new(Self::started(&Path::new(value("RUN_FOLDER")).join("flink.log"))))
    }

    fn tell(&mut self, statement: &str) {
        self.0.tell(statement);
    }

    /// Runs one statement to its end; the test ends where it fails.
    fn run(&mut self, statement: &str) {
        self.tell(statement);
        self.done(statement);
    }

    fn done(&mut self, statement: &str) {
        let line = self.0.line(JOB_MAX);
        assert_eq!(line.as_deref(), Some("done"), "Flink did not finish {statement}; {}", self.0.tail());
    }
}

/// Numbers as a table of Flink's.
fn numbers(name: &str, range: Range<u64>, options: &str) -> String {
    format!(
        "CREATE TEMPORARY TABLE {name} (n BIGINT) WITH ('connector'='datagen','number-of-rows'='{count}',\
         'fields.n.kind'='sequence','fields.n.start'='{first}','fields.n.end'='{last}'{options})",
        count = range.end - range.start,
        first = range.start,
        last = range.end - 1,
    )
}

/// A key of the tables that are changed: with NULL for nought, or without NULL.
fn key(n: u64, nulls: bool) -> (Option<u64>, Option<u64>) {
    let part = |value: u64| Some(value).filter(|value| !nulls || *value > 0);
    (part(n % 3), part(n * 7 % IDS))
}

/// The same for Flink, with the other columns, for the numbers of `source`.
fn columns(nulls: bool, source: &str) -> String {
    let part = |text: &str| if nulls { format!("NULLIF({text}, 0)") } else { text.to_owned() };
    let (p, id) = (part("MOD(n, 3)"), part(&format!("MOD(n * 7, {IDS})")));
    format!("{p}, {id}, n, CONCAT('v', CAST(n AS STRING)) FROM {source}")
}

/// What a table that is changed must hold after so many rounds: the last upsert of each key, unless a delete came after it.
fn changed(folder: &Path, rounds: u64, nulls: bool) -> Found {
    let mut rows = BTreeMap::new();
    for n in 0..SEED + rounds * ROUND {
        if n >= SEED && n % 11 == 10 {
            rows.remove(&key(n, nulls));
        } else {
            rows.insert(key(n, nulls), n);
        }
    }
    let lines = rows.iter().map(|((p, id), n)| json!({"p": p, "id": id, "n": n, "s": format!("v{n}")}));
    found(&folder.join(format!("changed_{rounds}_{nulls}.ndjson")), lines)
}

fn found(path: &Path, rows: impl Iterator<Item = Value>) -> Found {
    let lines: Vec<String> = rows.map(|row| row.to_string()).collect();
    fs::write(path, lines.join("\n")).expect("write the rows");
    input(&[path], COLUMNS)
}

/// The engines that read equality deletes: PyIceberg reads none, and DuckDB none with NULL.
fn readers(nulls: bool) -> Vec<Engine> {
    Engine::ALL
        .into_iter()
        .filter(|engine| *engine != Engine::PyIceberg && !(nulls && *engine == Engine::DuckDb))
        .collect()
}

/// Compacts; every group is done, deletes were applied and are gone. The rows stay, and their ids where they have any.
fn compacted_whole(daemon: &Daemon, table: &Table, wanted: &Found, nulls: bool, row_ids: bool) {
    let ids = || row_ids.then(|| Engine::Spark.read(&table.place, WITH_ROW_IDS));
    let before = ids();
    println!("{} before it is compacted", table.name);
    engines_find(&readers(nulls), wanted, &table.place, COLUMNS);
    let number = |snapshot: &Value, key: &str| snapshot["summary"][key].as_str().unwrap_or("0").to_owned();
    let head = table.head(daemon);
    for key in ["total-equality-deletes", "total-position-deletes"] {
        assert_ne!(number(&head, key), "0", "Flink left {key}: {head}");
    }
    let answer = compacted(daemon, &table.name);
    let groups = answer["groups"].as_array().expect("groups");
    assert!(groups.iter().all(|group| group["fate"] == "done"), "{answer}");
    let deleted: u64 = groups.iter().filter_map(|group| group["deleted-rows"].as_u64()).sum();
    println!("{}: {} groups, {deleted} rows were deleted", table.name, groups.len());
    let head = table.head(daemon);
    for (key, left) in [("total-delete-files", 0), ("total-equality-deletes", 0), ("total-records", wanted.rows)] {
        assert_eq!(number(&head, key), left.to_string(), "{key} of {head}");
    }
    assert!(deleted > 0, "no delete was applied: {answer}");
    assert_eq!(ids(), before, "rows of {} have other ids", table.name);
}

fn the_same_rows_after_compaction_and_expiry(format_version: u8) {
    let namespace = format!("flink_v{format_version}_{}", std::process::id());
    let folder = &scratch(&namespace);
    let daemon = idle(folder);
    let tables = [(Table::of(&namespace, "keyed"), false), (Table::of(&namespace, "nulls"), true)];
    let mut flink = Flink::shared().lock().unwrap_or_else(PoisonError::into_inner);
    flink.run(&format!("CREATE DATABASE ice.{namespace}"));
    let named = |table: &Table| table.name.replacen("lake.", "", 1);
    flink.run(&numbers("seed", 0..SEED, ""));
    for (table, nulls) in &tables {
        let (name, types) = (named(table), "p BIGINT, id BIGINT, n BIGINT, s STRING");
        flink.run(&format!(
            "CREATE TABLE ice.{name} ({types}) PARTITIONED BY (p) WITH ('format-version'='{format_version}')"
        ));
        flink.run(&format!("INSERT INTO ice.{name} SELECT {}", columns(*nulls, "seed")));
    }
    flink.run("DROP TEMPORARY TABLE seed");
    let mut round = |number: u64| {
        let first = SEED + number * ROUND;
        flink.run(&numbers("changes", first..first + ROUND, ""));
        for (table, nulls) in &tables {
            let (name, columns) = (named(table), columns(*nulls, "changes"));
            flink.run(&format!("CHANGE {name} BY p,id: SELECT MOD(n, 11) = 10, {columns}"));
        }
        flink.run("RUN");
        flink.run("DROP TEMPORARY TABLE changes");
    };
    let each = |act: &dyn Fn(&Table, bool) -> i64| {
        tables.iter().map(|(table, nulls)| act(table, *nulls)).collect::<Vec<i64>>()
    };
    let wanted = |rounds: u64, nulls: bool| changed(folder, rounds, nulls);
    let row_ids = format_version >= 3;
    round(0);
    let with_deletes = each(&|table, _| table.keep(&daemon, "with_deletes"));
    round(1);
    let whole = each(&|table, nulls| {
        compacted_whole(&daemon, table, &wanted(2, nulls), nulls, row_ids);
        table.keep(&daemon, "whole")
    });
    round(2);
    drop(flink);
    let heads = each(&|table, nulls| {
        compacted_whole(&daemon, table, &wanted(3, nulls), nulls, row_ids);
        id(&table.head(&daemon))
    });
    expired(&daemon, folder, &namespace, tables.len());
    for (at, (table, nulls)) in tables.iter().enumerate() {
        let left: Vec<i64> = daemon.history(&table.name).iter().map(id).collect();
        assert_eq!(left, [with_deletes[at], whole[at], heads[at]], "what expiry kept of {}", table.name);
        all_engines_find(&wanted(3, *nulls), &table.place, COLUMNS);
        all_engines_find(&wanted(2, *nulls), &table.at(whole[at]), COLUMNS);
        engines_find(&readers(*nulls), &wanted(1, *nulls), &table.at(with_deletes[at]), COLUMNS);
    }
}

#[test]
fn equality_deletes_of_flink_are_applied_and_kept_snapshots_stay_as_they_were_v2() {
    the_same_rows_after_compaction_and_expiry(2);
}

#[test]
fn equality_deletes_of_flink_are_applied_and_kept_snapshots_stay_as_they_were_v3() {
    the_same_rows_after_compaction_and_expiry(3);
}

/// The statements that make the tables that are upserted into while they are compacted.
fn live_tables(namespace: &str) -> Vec<String> {
    let table = |(table, _, partitioned, version): (&str, u64, &str, u8)| {
        format!(
            "CREATE TABLE ice.{namespace}.{table} (p BIGINT, id BIGINT, n BIGINT, s STRING, PRIMARY KEY (p, id) NOT ENFORCED) \
             {partitioned} WITH ('format-version'='{version}','write.upsert.enabled'='true','commit.retry.num-retries'='30')"
        )
    };
    [format!("CREATE DATABASE ice.{namespace}")].into_iter().chain(LIVE.map(table)).collect()
}

/// One job that upserts the numbers of `source` into all of them.
fn live_job(namespace: &str, source: &str) -> String {
    let insert = |(table, ids, ..): (&str, u64, &str, u8)| {
        format!(
            "INSERT INTO ice.{namespace}.{table} SELECT MOD(n, 3), MOD(n * 7, {ids}), n, CONCAT('v', CAST(n AS STRING)) FROM {source}; "
        )
    };
    format!("EXECUTE STATEMENT SET BEGIN {}END", LIVE.map(insert).concat())
}

/// The last upsert of each key.
fn last_upserts(folder: &Path, end: u64, ids: u64) -> Found {
    let last: BTreeMap<(u64, u64), u64> = (0..end).map(|n| ((n % 3, n * 7 % ids), n)).collect();
    let rows = last.iter().map(|((p, id), n)| json!({"p": p, "id": id, "n": n, "s": format!("v{n}")}));
    let path: PathBuf = folder.join(format!("last_{ids}.ndjson"));
    found(&path, rows)
}

/// Who committed what to a table: the snapshot, and the job where it was one of Flink's.
fn commits(daemon: &Daemon, table: &Table) -> Vec<(i64, Option<String>)> {
    let job = |snapshot: &Value| snapshot["summary"]["flink.job-id"].as_str().map(str::to_owned);
    daemon.history(&table.name).iter().map(|snapshot| (id(snapshot), job(snapshot))).collect()
}

/// Commits of ours between two of one job of Flink's: it went on over them.
fn turns(commits: &[(i64, Option<String>)]) -> impl Iterator<Item = i64> {
    let turn =
        |three: &&[(i64, Option<String>)]| three[1].1.is_none() && three[0].1.is_some() && three[0].1 == three[2].1;
    commits.windows(3).filter(turn).map(|three| three[1].0)
}

/// A table that Flink upserts into while we maintain it.
struct Live {
    table: Table,
    ids: u64,
    /// Expiry takes from the history, so what was seen is kept.
    turns: BTreeSet<i64>,
    /// The job of Flink's that had committed last before snapshots were removed, and the head when they were.
    expired: Option<(String, i64)>,
    /// Whether that job has committed since.
    went_on: bool,
}

impl Live {
    /// Sees what has been committed; the job of Flink's that has committed last, if there are snapshots to remove under it and none
    /// have been yet.
    fn look(&mut self, daemon: &Daemon) -> Option<String> {
        let commits = commits(daemon, &self.table);
        let letters: String = commits.iter().map(|(_, job)| if job.is_some() { 'F' } else { '.' }).collect();
        println!("{}: {letters}", self.table.name);
        self.turns.extend(turns(&commits));
        if let Some((job, head)) = &self.expired {
            let later = commits.iter().skip_while(|(id, _)| id != head).skip(1);
            self.went_on |= later.filter_map(|(_, of)| of.as_ref()).any(|of| of == job);
        }
        let job = commits.iter().rev().find_map(|(_, job)| job.clone());
        job.filter(|job| commits.len() > 2 && self.expired.as_ref().is_none_or(|(before, _)| before != job))
    }

    /// Snapshots were removed while this job committed.
    fn has_expired(&mut self, daemon: &Daemon, job: String) {
        self.expired = Some((job, id(&self.table.head(daemon))));
    }

    fn is_proved(&self) -> bool {
        self.turns.len() >= TURNS && self.went_on
    }
}

#[test]
fn flink_goes_on_upserting_while_we_compact_and_expire_and_no_row_is_lost_or_comes_back() {
    let namespace = format!("flink_live_{}", std::process::id());
    let folder = &scratch(&namespace);
    let daemon = idle(folder);
    let mut flink = Flink::started(&folder.join("flink.log"));
    live_tables(&namespace).iter().for_each(|statement| flink.run(statement));
    let mut tables = LIVE.map(|(name, ids, ..)| {
        let table = Table::of(&namespace, name);
        Live { table, ids, turns: BTreeSet::new(), expired: None, went_on: false }
    });
    let mut jobs = 0;
    while jobs < JOBS_MAX && !tables.iter().all(Live::is_proved) {
        let source = format!("upserts_{jobs}");
        let rate = format!(",'rows-per-second'='{PER_SECOND}'");
        flink.run(&numbers(&source, jobs * UPSERTS..(jobs + 1) * UPSERTS, &rate));
        flink.tell(&live_job(&namespace, &source));
        jobs += 1;
        let ended = loop {
            let mut under = Vec::new();
            for live in &mut tables {
                compacted(&daemon, &live.table.name);
                under.extend(live.look(&daemon));
            }
            if under.len() == tables.len() && !tables.iter().all(|live| live.went_on) {
                expired(&daemon, folder, &namespace, tables.len());
                tables.iter_mut().zip(under).for_each(|(live, job)| live.has_expired(&daemon, job));
            }
            if let Some(line) = flink.0.line(Duration::from_millis(100)) {
                break line;
            }
        };
        assert_eq!(ended, "done", "{}", flink.0.tail());
        for live in &mut tables {
            live.look(&daemon);
        }
    }
    for Live { table, ids, turns, went_on, .. } in &tables {
        let wanted = last_upserts(folder, jobs * UPSERTS, *ids);
        assert!(turns.len() >= TURNS, "Flink and we have hardly met in {}", table.name);
        assert!(went_on, "no job of Flink's has committed to {} before and after expiry", table.name);
        engines_find(&readers(false), &wanted, &table.place, COLUMNS);
        compacted(&daemon, &table.name);
        all_engines_find(&wanted, &table.place, COLUMNS);
    }
}
