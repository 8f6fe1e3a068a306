//! Engines that we did not write, asked for the digest of a table; the scripts are in integration/readers/.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;
use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::Duration;

use serde_json::{Value, json};

use crate::components::{checkout, is_there, value};
use crate::process::{Listen, Process};

/// One answer may take this long: engines start slowly, and two cores are shared.
const ANSWER_MAX: Duration = Duration::from_secs(600);

/// Column names and their kinds, in Iceberg's words.
pub(crate) type Columns<'a> = &'a [(&'a str, &'a str)];

/// What a reader found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Found {
    pub(crate) rows: u64,
    digest: String,
    columns: BTreeMap<String, String>,
}

/// A reader that stays up for many questions.
struct Reader(Process);

/// The engines.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Engine {
    PyIceberg,
    DuckDb,
    Spark,
    Trino,
}

impl Engine {
    pub(crate) const ALL: [Self; 4] = [Self::PyIceberg, Self::DuckDb, Self::Spark, Self::Trino];

    /// Whether it can be asked for what is at `place`: Trino knows tables of the catalog only, and there may be no Trino.
    pub(crate) fn reads(self, place: &Value) -> bool {
        self != Self::Trino || (place.get("catalog").is_some() && is_there("TRINO_URI", "Trino (no JDK 25)"))
    }

    /// The digest of the table at `place` (`{"metadata": …}`, or `{"table", "catalog", "s3"}`).
    pub(crate) fn read(self, place: &Value, columns: Columns<'_>) -> Found {
        found(&self.ask(request(place, columns)), &format!("{self:?}"))
    }

    /// One request; Spark has one session for all tests, the others a process each time.
    pub(crate) fn ask(self, request: Value) -> Value {
        match self {
            Self::PyIceberg => Reader::started(value("PYICEBERG_PYTHON"), "pyiceberg_read.py").ask(&request),
            Self::DuckDb => Reader::started(value("DUCKDB_PYTHON"), "duckdb_read.py").ask(&request),
            Self::Trino => Reader::started("python3", "trino_read.py").ask(&request),
            Self::Spark => {
                static SPARK: OnceLock<Mutex<Reader>> = OnceLock::new();
                let start = || Mutex::new(Reader::started(value("SPARK_PYTHON"), "spark_read.py"));
                SPARK.get_or_init(start).lock().unwrap_or_else(PoisonError::into_inner).ask(&request)
            }
        }
    }
}

/// The digest of NDJSON files: what a table must hold.
pub(crate) fn input(paths: &[&Path], columns: Columns<'_>) -> Found {
    let place = json!({ "paths": paths.iter().map(|path| path.display().to_string()).collect::<Vec<_>>() });
    found(&Reader::started("python3", "input_digest.py").ask(&request(&place, columns)), "input")
}

/// Fails the test unless every engine finds exactly the rows of `wanted`; says which columns differ.
pub(crate) fn all_engines_find(wanted: &Found, place: &Value, columns: Columns<'_>) {
    engines_find(&Engine::ALL, wanted, place, columns);
}

/// The same of some engines.
pub(crate) fn engines_find(engines: &[Engine], wanted: &Found, place: &Value, columns: Columns<'_>) {
    for engine in engines.iter().filter(|engine| engine.reads(place)) {
        let got = engine.read(place, columns);
        let differ: Vec<&String> =
            wanted.columns.keys().filter(|name| wanted.columns[*name] != got.columns[*name]).collect();
        assert_eq!(got.rows, wanted.rows, "{engine:?} finds another number of rows at {place}");
        assert_eq!(&got, wanted, "{engine:?} finds other rows at {place}; columns that differ: {differ:?}");
        println!("{engine:?} finds exactly the {} rows that it should", got.rows);
    }
}

impl Reader {
    fn started(python: &str, script: &str) -> Self {
        let path = checkout("integration/readers").join(script);
        let log = Path::new(value("RUN_FOLDER")).join(format!("{script}.log"));
        let mut command = Command::new(python);
        command.arg("-B").arg(path).env("SPARK_JARS", value("SPARK_JARS")).env("TRINO_URI", value("TRINO_URI"));
        Self(Process::spawn(&mut command, Listen::Stdout, &log))
    }

    fn ask(&mut self, request: &Value) -> Value {
        self.0.tell(&request.to_string());
        let Some(line) = self.0.line(ANSWER_MAX) else { panic!("no answer to {request}; {}", self.0.tail()) };
        serde_json::from_str(&line).unwrap_or_else(|e| panic!("{line} is no answer: {e}"))
    }
}

fn request(place: &Value, columns: Columns<'_>) -> Value {
    let mut request = place.clone();
    request["columns"] = Value::Object(columns.iter().map(|(name, kind)| ((*name).to_owned(), json!(kind))).collect());
    request
}

fn found(answer: &Value, who: &str) -> Found {
    let Some(rows) = answer["rows"].as_u64() else { panic!("{who} cannot read: {answer}") };
    let columns = answer["columns"].as_object().expect("columns");
    Found {
        rows,
        digest: answer["digest"].as_str().expect("digest").to_owned(),
        columns: columns.iter().map(|(name, sum)| (name.clone(), sum.to_string())).collect(),
    }
}
