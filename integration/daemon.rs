//! The daemon as users run it, and what it says of its tables.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use serde_json::Value;

use crate::process::{Listen, Process};

/// How long the daemon may say nothing before a test gives up on it. Components share two cores with everything else.
const SILENCE_MAX: Duration = Duration::from_secs(300);

/// A configuration in a folder of its own, and the binary that runs it.
pub(crate) struct Daemon {
    folder: PathBuf,
    config: PathBuf,
}

/// Moments of a test: the same seed gives the same ones.
pub(crate) struct Moments(u64);

impl Daemon {
    /// Writes the configuration; nothing runs yet.
    pub(crate) fn configured(folder: &Path, config: &str) -> Self {
        let path = folder.join("frazil.toml");
        fs::write(&path, config).expect("write the configuration");
        Self { folder: folder.to_owned(), config: path }
    }

    /// Starts `frazil run`, with settings that override the file's.
    pub(crate) fn spawn(&self, set: &[&str]) -> Process {
        let mut command = self.command(&["run"]);
        for assignment in set {
            command.args(["--set", assignment]);
        }
        Process::spawn(&mut command, Listen::Stderr, &self.folder.join("frazil.log"))
    }

    /// Starts it, kills it with SIGKILL at a moment of chance; in every second round only after its first commit, so that
    /// kills meet commits as well as starts.
    pub(crate) fn run_and_kill(&self, round: usize, moments: &mut Moments) {
        let mut process = self.spawn(&[]);
        if round % 2 == 1 {
            let committed = |line: &String| line.contains("committed");
            let seen = std::iter::from_fn(|| process.line(Duration::from_secs(20))).any(|line| committed(&line));
            println!("round {round}: {}", if seen { "has committed" } else { "has not committed" });
        }
        let moment = moments.next(if round % 2 == 1 { 300 } else { 1500 });
        assert!(process.runs_for(moment), "round {round}: the daemon ended by itself; {}", process.tail());
        println!("round {round}: killed {moment:?} later");
        process.kill9();
    }

    /// Starts it, keeps it running while `busy`, lets `more` happen, and kills it at a moment of chance after that.
    pub(crate) fn run_beside_and_kill(&self, busy: impl Fn() -> bool, more: impl FnOnce(), moments: &mut Moments) {
        let mut process = self.spawn(&[]);
        while busy() {
            assert!(process.runs_for(Duration::from_millis(20)), "the daemon ended by itself; {}", process.tail());
        }
        more();
        let moment = moments.next(1500);
        assert!(process.runs_for(moment), "the daemon ended by itself; {}", process.tail());
        println!("killed {moment:?} after the other was done");
        process.kill9();
    }

    /// Runs to the end of the input of these sources; anything but exit code 0 fails the test.
    pub(crate) fn finish(&self, sources: &[&str]) {
        let set: Vec<String> = sources.iter().map(|name| format!("source.{name}.until_end=true")).collect();
        let process = self.spawn(&set.iter().map(String::as_str).collect::<Vec<_>>());
        let tail = process.tail();
        let status = process.ends(SILENCE_MAX);
        assert!(status.success(), "the last run ended with {status}; {tail}");
    }

    /// What `frazil table show --json` says, or `None` while there is no such table.
    pub(crate) fn table(&self, name: &str) -> Option<Value> {
        let output = self.command(&["table", "show", name, "--json"]).output().expect("run frazil");
        output.status.success().then(|| serde_json::from_slice(&output.stdout).expect("--json prints JSON"))
    }

    /// The metadata file that the catalog names now: a path.
    pub(crate) fn metadata(&self, name: &str) -> PathBuf {
        let shown = self.table(name).unwrap_or_else(|| panic!("there is no table {name}"));
        let location = shown["metadata-location"].as_str().expect("table show names metadata-location");
        PathBuf::from(location.strip_prefix("file://").unwrap_or(location))
    }

    /// What `frazil table history --json` says: the snapshots, oldest first.
    pub(crate) fn history(&self, name: &str) -> Vec<Value> {
        let output = self.command(&["table", "history", name, "--json"]).output().expect("run frazil");
        assert!(output.status.success(), "table history {name}: {}", String::from_utf8_lossy(&output.stderr));
        let history: Value = serde_json::from_slice(&output.stdout).expect("--json prints JSON");
        history["snapshots"].as_array().expect("snapshots").clone()
    }

    /// Rows of the current snapshot, by its own summary; 0 before the first.
    pub(crate) fn rows(&self, name: &str) -> u64 {
        let shown = self.table(name).unwrap_or_default();
        let total = shown["current-snapshot"]["summary"]["total-records"].as_str();
        total.map_or(0, |text| text.parse().expect("total-records is a number"))
    }

    /// How many files the current snapshot has.
    pub(crate) fn files(&self, name: &str) -> usize {
        let output = self.command(&["table", "files", name, "--json"]).output().expect("run frazil");
        assert!(output.status.success(), "table files {name}: {}", String::from_utf8_lossy(&output.stderr));
        let files: Value = serde_json::from_slice(&output.stdout).expect("--json prints JSON");
        files["files"].as_array().expect("files").len()
    }

    /// `frazil` with these words and this configuration.
    pub(crate) fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_frazil"));
        command.args(words).arg("-c").arg(&self.config).current_dir(&self.folder);
        command
    }
}

impl Moments {
    pub(crate) fn seeded(seed: u64) -> Self {
        println!("moments of seed {seed}");
        Self(seed)
    }

    /// Up to `limit` milliseconds (SplitMix64).
    pub(crate) fn next(&mut self, limit: u64) -> Duration {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        Duration::from_millis((z ^ (z >> 31)) % limit)
    }
}
