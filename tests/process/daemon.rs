//! The real binary on a folder of its own: started, waited for by what it says, read back through the library.

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader};
use std::net::{SocketAddr, TcpListener};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, sync_channel};
use std::time::Duration;

use arrow::record_batch::RecordBatch;
use frazil::catalog::Catalog;
use frazil::catalog::embedded::EmbeddedCatalog;
use frazil::commit::protocol::{Commit, Committer, Ending};
use frazil::env::Env;
use frazil::model::change::Change;
use frazil::model::table::TableState;
use frazil::storage::{Storage, StorageOptions};
use iceberg::spec::{SnapshotReference, SnapshotRetention};
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use serde_json::Value;
use tempfile::TempDir;
use tokio_util::sync::CancellationToken;

/// How long the daemon may say nothing before a test gives up on it.
const SILENCE_MAX: Duration = Duration::from_secs(120);
/// Lines that wait to be read; the daemon waits when there are more.
const LINES_MAX: usize = 4096;

/// A folder with a configuration, an embedded catalog and input.
pub(crate) struct World {
    folder: TempDir,
}

/// A daemon at work; killed when dropped.
pub(crate) struct Running {
    child: Child,
    lines: Receiver<String>,
    said: Vec<String>,
}

/// How a daemon ended.
pub(crate) struct Ended {
    /// Its exit code; `None` when a signal ended it.
    pub(crate) code: Option<i32>,
    /// Everything it said on standard error.
    pub(crate) said: String,
}

/// One reject as its table has it.
#[derive(Debug)]
pub(crate) struct RejectRow {
    pub(crate) origin: String,
    pub(crate) number: i64,
    pub(crate) partition: String,
    pub(crate) stage: String,
    pub(crate) reason: String,
    pub(crate) raw: Vec<u8>,
}

impl World {
    /// An embedded catalog `lake`, a source `in` that follows `incoming`, and what `settings` adds.
    pub(crate) fn new(settings: &str) -> Self {
        let world = Self { folder: tempfile::tempdir().expect("a folder") };
        fs::create_dir(world.path("incoming")).expect("a folder");
        let folder = world.folder.path().display().to_string();
        let head = format!(
            r#"
instance = "one"
state_dir = "{folder}/state"
[limits]
workers = 2
[catalog.lake]
type = "embedded"
path = "{folder}/lake.db"
warehouse = "{folder}/warehouse"
[source.in]
type = "files"
path = "{folder}/incoming"
poll = "20ms"
"#
        );
        world.configure(&format!("{head}{}", settings.replace("FOLDER", &folder)));
        world
    }

    /// A folder with this configuration and nothing else.
    pub(crate) fn bare(text: &str) -> Self {
        let world = Self { folder: tempfile::tempdir().expect("a folder") };
        world.configure(text);
        world
    }

    /// Another configuration.
    pub(crate) fn configure(&self, text: &str) {
        fs::write(self.path("frazil.toml"), text).expect("write the configuration");
    }

    /// A path below the folder.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// A file of input, whole when it appears.
    pub(crate) fn put(&self, name: &str, bytes: impl AsRef<[u8]>) {
        let partial = self.path(&format!("incoming/{name}.tmp"));
        fs::write(&partial, bytes).expect("write input");
        fs::rename(partial, self.path(&format!("incoming/{name}"))).expect("rename input");
    }

    /// `frazil` with these words and this configuration.
    pub(crate) fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_frazil"));
        command.args(words).arg("-c").arg(self.path("frazil.toml")).current_dir(self.folder.path());
        command
    }

    /// Starts `frazil run`.
    pub(crate) fn start(&self, words: &[&str]) -> Running {
        let mut all = vec!["run"];
        all.extend(words);
        Running::spawn(&mut self.command(&all))
    }

    /// Runs `frazil run` until everything there is has been read.
    pub(crate) fn run_to_end(&self, words: &[&str]) -> Ended {
        let mut all = vec!["--set", "source.in.until_end=true"];
        all.extend(words);
        self.start(&all).ends()
    }

    /// What a reading command answers as JSON.
    pub(crate) fn json(&self, words: &[&str]) -> Value {
        let output = self.command(words).arg("--json").output().expect("run frazil");
        let said = String::from_utf8_lossy(&output.stderr);
        serde_json::from_slice(&output.stdout).unwrap_or_else(|e| panic!("{words:?} --json: {e}; {said}"))
    }

    /// The rows of a table, from the files of its current snapshot; none when it is not there.
    pub(crate) fn rows(&self, table: &str) -> Vec<RecordBatch> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        runtime.block_on(async {
            let env = Env::system();
            let storage = Storage::new(StorageOptions::default(), env.clone());
            let Some(state) = self.state(&env, &storage, table).await else { return Vec::new() };
            rows_of(&state).await
        })
    }

    /// The data files of each snapshot of a table.
    pub(crate) fn files_of_all_snapshots(&self, table: &str) -> Vec<String> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        runtime.block_on(async {
            let env = Env::system();
            let storage = Storage::new(StorageOptions::default(), env.clone());
            let state = self.state(&env, &storage, table).await.expect("the table");
            let mut all = Vec::new();
            for snapshot in state.metadata.snapshots() {
                let io = storage.file_io();
                let files = frazil::cli::files::read(&state, snapshot.snapshot_id(), &io).await.expect("manifests");
                all.extend(files.into_iter().map(|file| file.path));
            }
            all
        })
    }

    async fn catalog(&self, env: &Env, storage: &Storage) -> EmbeddedCatalog {
        let (stores, warehouse) = (storage.clone(), self.path("warehouse"));
        let resolver = Arc::new(move |location: &str| stores.resolve(location));
        let (file, warehouse) = (self.path("lake.db"), warehouse.display().to_string());
        EmbeddedCatalog::open(env, &file, &warehouse, resolver).await.expect("the catalog opens")
    }

    /// A branch of a table where `main` is now, as another engine would make one.
    pub(crate) fn branch(&self, table: &str, name: &str) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        runtime.block_on(async {
            let env = Env::system();
            let storage = Storage::new(StorageOptions::default(), env.clone());
            let catalog = Arc::new(self.catalog(&env, &storage).await);
            let table = table.parse().expect("a table's name");
            let mut committer = Committer::new(env.clone(), catalog, storage, None, table, "another".into());
            let state = committer.load().await.expect("the table");
            let head = state.metadata.current_snapshot_id().expect("a head");
            let mut change = Change::new(env.snapshot_id());
            change.refs = BTreeMap::from([(
                name.to_owned(),
                Some(SnapshotReference::new(head, SnapshotRetention::branch(None, None, None))),
            )]);
            let ending = committer.run(&mut Commit::new(change), &state, &CancellationToken::new()).await;
            assert!(matches!(ending, Ok(Ending::Done { .. })), "{ending:?}");
        });
    }

    async fn state(&self, env: &Env, storage: &Storage, table: &str) -> Option<TableState> {
        let catalog = self.catalog(env, storage).await;
        let name = table.parse().expect("a table's name");
        match catalog.load(&name).await {
            Ok(state) => Some(state),
            Err(error) if error.kind() == frazil::error::ErrorKind::NotFound => None,
            Err(error) => panic!("{error:?}"),
        }
    }

    /// How many rows a table has.
    pub(crate) fn count(&self, table: &str) -> usize {
        self.rows(table).iter().map(RecordBatch::num_rows).sum()
    }

    /// The values of a `long` column, in order.
    pub(crate) fn longs(&self, table: &str, column: &str) -> Vec<i64> {
        use arrow::array::AsArray;
        let mut values: Vec<i64> = Vec::new();
        for batch in self.rows(table) {
            let held = batch.column_by_name(column).expect("the column").clone();
            values.extend(held.as_primitive::<arrow::datatypes::Int64Type>().values());
        }
        values.sort_unstable();
        values
    }

    /// The rejects of a table, by origin and number.
    pub(crate) fn rejects(&self, table: &str) -> Vec<RejectRow> {
        use arrow::array::AsArray;
        let mut all = Vec::new();
        for batch in self.rows(&format!("{table}__rejects")) {
            let column = |name: &str| batch.column_by_name(name).expect("the column").clone();
            let text = |name: &str, row: usize| column(name).as_string::<i32>().value(row).to_owned();
            for row in 0..batch.num_rows() {
                all.push(RejectRow {
                    origin: text("origin", row),
                    number: column("number").as_primitive::<arrow::datatypes::Int64Type>().value(row),
                    partition: text("partition", row),
                    stage: text("stage", row),
                    reason: text("reason", row),
                    raw: arrow::compute::cast(&column("raw"), &arrow::datatypes::DataType::Binary)
                        .expect("bytes")
                        .as_binary::<i32>()
                        .value(row)
                        .to_vec(),
                });
            }
        }
        all.sort_by(|a, b| (&a.origin, a.number).cmp(&(&b.origin, b.number)));
        all
    }
}

impl Running {
    /// Starts a command and listens to its standard error.
    pub(crate) fn spawn(command: &mut Command) -> Self {
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        let mut child = command.spawn().expect("start frazil");
        let said = BufReader::new(child.stderr.take().expect("piped"));
        Self { child, lines: follow(said), said: Vec::new() }
    }

    /// Waits for a line with all of these texts.
    pub(crate) fn until(&mut self, texts: &[&str]) -> String {
        loop {
            match self.lines.recv_timeout(SILENCE_MAX) {
                Ok(line) => {
                    self.said.push(line.clone());
                    if texts.iter().all(|text| line.contains(text)) {
                        return line;
                    }
                }
                Err(error) => panic!("{texts:?} was not said: {error}; it said\n{}", self.said.join("\n")),
            }
        }
    }

    /// Its process id.
    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    /// Sends a signal by its name.
    pub(crate) fn signal(&self, name: &str) {
        let sent = Command::new("kill").arg(format!("-{name}")).arg(self.id().to_string()).status();
        assert!(sent.expect("kill runs").success());
    }

    /// SIGTERM, then its end.
    pub(crate) fn terminate(self) -> Ended {
        self.signal("TERM");
        self.ends()
    }

    /// Waits until it ends by itself.
    pub(crate) fn ends(mut self) -> Ended {
        while let Some(line) = self.next() {
            self.said.push(line);
        }
        let status = self.child.wait().expect("wait for frazil");
        Ended { code: status.code(), said: self.said.join("\n") }
    }

    fn next(&mut self) -> Option<String> {
        use std::sync::mpsc::RecvTimeoutError::{Disconnected, Timeout};
        match self.lines.recv_timeout(SILENCE_MAX) {
            Ok(line) => Some(line),
            Err(Disconnected) => None,
            Err(Timeout) => panic!("silent for {SILENCE_MAX:?} and not at its end; it said\n{}", self.said.join("\n")),
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // An error means that it has ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Ended {
    /// Asserts the exit code and that something was said.
    pub(crate) fn with(self, code: i32, texts: &[&str]) -> Self {
        assert_eq!(self.code, Some(code), "it said\n{}", self.said);
        for text in texts {
            assert!(self.said.contains(text), "{text:?} was not said; it said\n{}", self.said);
        }
        self
    }
}

#[allow(clippy::disallowed_methods)] // reading a pipe with a time limit takes a thread; nothing here is simulated
fn follow(said: impl BufRead + Send + 'static) -> Receiver<String> {
    let (sender, receiver) = sync_channel(LINES_MAX);
    std::thread::spawn(move || {
        for line in said.split(b'\n').map_while(Result::ok) {
            if sender.send(String::from_utf8_lossy(&line).into_owned()).is_err() {
                return;
            }
        }
    });
    receiver
}

/// The rows of a table, from the files of its current snapshot.
pub(crate) async fn rows_of(state: &TableState) -> Vec<RecordBatch> {
    let storage = Storage::new(StorageOptions::default(), Env::system());
    let Some(head) = state.metadata.current_snapshot() else { return Vec::new() };
    let io = storage.file_io();
    let files = frazil::cli::files::read(state, head.snapshot_id(), &io).await.expect("manifests");
    let mut rows = Vec::new();
    for file in files {
        let bytes = storage.read(&file.path).await.expect("a data file");
        let reader = ParquetRecordBatchReaderBuilder::try_new(bytes).expect("parquet").build().expect("parquet");
        rows.extend(reader.map(|batch| batch.expect("readable")));
    }
    rows
}

/// An address of this machine that nothing listens on now.
pub(crate) fn free_address() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    listener.local_addr().expect("an address")
}

/// A running command's answer to `GET path`: status and body. `None` when nobody listens.
pub(crate) fn get(address: SocketAddr, path: &str) -> Option<(u16, String)> {
    use std::io::{Read, Write};
    let mut stream = std::net::TcpStream::connect(address).ok()?;
    stream.set_read_timeout(Some(SILENCE_MAX)).expect("a time limit");
    write!(stream, "GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").ok()?;
    let mut text = String::new();
    stream.read_to_string(&mut text).ok()?;
    let status = text.split(' ').nth(1)?.parse().ok()?;
    let body = text.split_once("\r\n\r\n").map(|(_, body)| body.to_owned()).unwrap_or_default();
    Some((status, body))
}

/// A file as gzip.
pub(crate) fn gzip(bytes: &[u8]) -> Vec<u8> {
    use std::io::Write;
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
    encoder.write_all(bytes).expect("in memory");
    encoder.finish().expect("in memory")
}
