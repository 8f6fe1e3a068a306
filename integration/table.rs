//! Tables of the REST catalog, and what `frazil` and Spark do to them in one command.
//!
//! The steps of expiry are ten minutes apart. What stands between them is a note in `state_dir`; tests make it older, as if the
//! time had passed.

use std::fs;
use std::path::Path;

use serde_json::{Value, json};

use crate::daemon::Daemon;
use crate::readers::Engine;
use crate::remote::{lake, place};

/// A little more than a deadline between two steps of expiry, in milliseconds.
const DEADLINE_MS: i64 = 700_000;

/// A table, as daemon and engines are asked for it.
pub(crate) struct Table {
    pub(crate) name: String,
    pub(crate) place: Value,
}

impl Table {
    pub(crate) fn of(namespace: &str, table: &str) -> Self {
        let mut place = place(namespace);
        place["table"] = json!(format!("{namespace}.{table}"));
        Self { name: format!("lake.{namespace}.{table}"), place }
    }

    /// The same, as a snapshot has it.
    pub(crate) fn at(&self, snapshot: i64) -> Value {
        let mut place = self.place.clone();
        place["snapshot"] = json!(snapshot);
        place
    }

    pub(crate) fn head(&self, daemon: &Daemon) -> Value {
        daemon.history(&self.name).last().unwrap_or_else(|| panic!("{} has no snapshot", self.name)).clone()
    }

    /// Tags the head, so that expiry keeps it.
    pub(crate) fn keep(&self, daemon: &Daemon, tag: &str) -> i64 {
        let head = id(&self.head(daemon));
        spark_does(&self.place, "tag", json!([tag, head.to_string()]));
        head
    }
}

pub(crate) fn id(snapshot: &Value) -> i64 {
    snapshot["snapshot-id"].as_i64().expect("a snapshot has an id")
}

/// A daemon that has a catalog and nothing to do.
pub(crate) fn idle(folder: &Path) -> Daemon {
    let config = format!("instance = \"one\"\nstate_dir = \"{}/state\"\n{}", folder.display(), lake());
    Daemon::configured(folder, &config)
}

/// The three steps of expiry for the tables of a namespace; which snapshots are left is for the caller to see.
pub(crate) fn expired(daemon: &Daemon, folder: &Path, namespace: &str, tables: usize) {
    for (step, wanted) in ["noted", "removed", "deleted"].into_iter().enumerate() {
        if step > 0 {
            age(&folder.join("state/expiry"), tables);
        }
        let glob = format!("lake.{namespace}.*");
        let words = ["expire", &glob, "--older-than", "1ms", "--retain-last", "1", "--yes", "--json"];
        let output = daemon.command(&words).output().expect("run frazil");
        assert!(output.status.success(), "expire: {}", String::from_utf8_lossy(&output.stderr));
        let answer: Value = serde_json::from_slice(&output.stdout).expect("--json prints JSON");
        let of = answer["tables"].as_array().expect("tables");
        assert_eq!(of.len(), tables, "{answer}");
        let some = |found: &Value| {
            found.as_u64().map_or_else(|| found.as_array().is_some_and(|ids| !ids.is_empty()), |n| n > 0)
        };
        assert!(of.iter().all(|table| some(&table[wanted])), "nothing was {wanted}: {answer}");
    }
}

/// What `frazil compact` did with the table.
pub(crate) fn compacted(daemon: &Daemon, table: &str) -> Value {
    let output = daemon.command(&["compact", table, "--rewrite-all", "--json"]).output().expect("run frazil");
    assert!(output.status.success(), "compact {table}: {}", String::from_utf8_lossy(&output.stderr));
    let answer: Value = serde_json::from_slice(&output.stdout).expect("--json prints JSON");
    answer["tables"][0].clone()
}

/// What Spark does to the table at `place`, in one commit.
pub(crate) fn spark_does(place: &Value, what: &str, how: Value) {
    let mut request = place.clone();
    request[what] = how;
    let answer = Engine::Spark.ask(request);
    assert_eq!(answer, json!({}), "Spark's {what}: {answer}");
}

/// What is noted in `folder` about removals from so many tables, as if ten minutes more had passed.
pub(crate) fn age(folder: &Path, tables: usize) {
    let entries = fs::read_dir(folder).expect("a folder of notes").map(|entry| entry.expect("an entry").path());
    let notes = entries.filter(|path| path.file_name().is_some_and(|name| name.to_string_lossy().contains("expiry-")));
    let mut aged = 0;
    for path in notes {
        let mut note: Value = serde_json::from_slice(&fs::read(&path).expect("a note")).expect("JSON");
        let older = |value: &mut Value| {
            if let Some(at) = value.as_i64() {
                *value = json!(at - DEADLINE_MS);
            }
        };
        note["noted"].as_object_mut().expect("an object").values_mut().for_each(older);
        for batch in note["batches"].as_array_mut().expect("a list") {
            older(&mut batch["sent_ms"]);
            older(&mut batch["gone_ms"]);
        }
        fs::write(&path, note.to_string()).expect("write the note");
        aged += 1;
    }
    assert_eq!(aged, tables, "each table has a note");
}
