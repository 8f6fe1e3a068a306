//! The embedded catalog's one file: which table's metadata lies where. Blocking; called through `Env::offload`.
//!
//! Views with the names of Iceberg's JDBC catalog stand beside our tables, so that clients of that layout can read.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rusqlite::{Connection, ErrorCode, OptionalExtension, Transaction, TransactionBehavior, params};

use super::memory::{no_namespace, no_table};
use crate::error::{Context, Error, ErrorKind, Result};
use crate::model::ids::TableName;

/// The version of the tables below; a file of a newer one is refused.
pub(super) const SCHEMA_VERSION: i64 = 1;

/// How long a call waits for another process that is writing.
const BUSY_TIMEOUT: Duration = Duration::from_secs(10);

const SCHEMA: &str = "
CREATE TABLE frazil_schema (version INTEGER NOT NULL);
CREATE TABLE namespaces (
    namespace TEXT NOT NULL PRIMARY KEY,  -- a JSON array of levels
    parent TEXT NOT NULL,                 -- the same, one level less
    properties TEXT NOT NULL              -- a JSON object of texts
);
CREATE INDEX namespaces_by_parent ON namespaces (parent);
CREATE TABLE tables (
    namespace TEXT NOT NULL,
    name TEXT NOT NULL,
    location TEXT NOT NULL,
    metadata_location TEXT NOT NULL,
    previous_metadata_location TEXT,
    PRIMARY KEY (namespace, name)
);
CREATE INDEX tables_by_location ON tables (location);
CREATE VIEW iceberg_tables AS SELECT 'frazil' AS catalog_name,
    (SELECT group_concat(value, '.') FROM json_each(namespace)) AS table_namespace, name AS table_name,
    metadata_location, previous_metadata_location, 'TABLE' AS iceberg_type FROM tables;
CREATE VIEW iceberg_namespace_properties AS SELECT 'frazil' AS catalog_name,
    (SELECT group_concat(value, '.') FROM json_each(namespace)) AS namespace,
    'exists' AS property_key, 'true' AS property_value FROM namespaces;
";

/// Where a table lies and where its newest metadata document is.
#[derive(Debug, Clone)]
pub(super) struct Pointer {
    pub(super) location: String,
    pub(super) metadata_location: String,
}

/// Why a change did not return cleanly.
#[derive(Debug)]
pub(super) enum Failure {
    /// It is not in the file.
    Definite(Error),
    /// It may be: the commit itself failed half-way.
    InDoubt(Error),
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self::Definite(error)
    }
}

/// An open catalog file.
#[derive(Debug)]
pub(super) struct Store {
    path: PathBuf,
    connection: Mutex<Connection>,
}

/// How often the file's mode is asked for while others open it too.
const MODE_ATTEMPTS: u32 = 64;

/// Puts the file in write-ahead mode. SQLite refuses that at once while another connection reads, and does not wait; it waits
/// for a transaction, and after that the other is done.
fn into_wal(connection: &mut Connection) -> rusqlite::Result<()> {
    let busy = |e: &rusqlite::Error| e.sqlite_error_code() == Some(ErrorCode::DatabaseBusy);
    for _ in 1..MODE_ATTEMPTS {
        match connection.pragma_update(None, "journal_mode", "WAL") {
            Err(e) if busy(&e) => connection.transaction_with_behavior(TransactionBehavior::Immediate)?.commit()?,
            answer => return answer,
        }
    }
    connection.pragma_update(None, "journal_mode", "WAL")
}

impl Store {
    pub(super) fn open(path: &Path) -> Result<Self> {
        if let Some(folder) = path.parent().filter(|f| !f.as_os_str().is_empty()) {
            std::fs::create_dir_all(folder).map_err(|e| {
                Error::new(ErrorKind::Denied, format!("create the folder of embedded catalog {}", path.display()))
                    .with_source(e)
                    .with_hint("let this user write there, or set another path for the catalog")
            })?;
        }
        let connection = Connection::open(path).map_err(|e| of_sqlite(path, "open", e))?;
        let store = Self { path: path.to_owned(), connection: Mutex::new(connection) };
        store.prepare()?;
        Ok(store)
    }

    fn prepare(&self) -> Result<()> {
        let mut connection = self.lock();
        let fail = |e| of_sqlite(&self.path, "open", e);
        connection.busy_timeout(BUSY_TIMEOUT).map_err(fail)?;
        into_wal(&mut connection).map_err(fail)?;
        // A commit that was answered survives a power cut.
        connection.pragma_update(None, "synchronous", "FULL").map_err(fail)?;
        let tx = connection.transaction_with_behavior(TransactionBehavior::Immediate).map_err(fail)?;
        let has = |kind: &str, names: &str| {
            let sql = format!("SELECT count(*) FROM sqlite_schema WHERE type = '{kind}' AND name {names}");
            tx.query_row(&sql, [], |row| row.get::<_, i64>(0)).map_err(fail)
        };
        if has("table", "= 'frazil_schema'")? == 0 {
            if has("table", "NOT LIKE 'sqlite_%'")? > 0 {
                let path = self.path.display();
                return Err(Error::new(ErrorKind::Config, format!("{path} is another program's SQLite file"))
                    .with_hint("set another path for the embedded catalog"));
            }
            tx.execute_batch(SCHEMA).map_err(fail)?;
            tx.execute("INSERT INTO frazil_schema (version) VALUES (?1)", [SCHEMA_VERSION]).map_err(fail)?;
        }
        let version: i64 =
            tx.query_row("SELECT max(version) FROM frazil_schema", [], |row| row.get(0)).map_err(fail)?;
        if version > SCHEMA_VERSION {
            let path = self.path.display();
            return Err(Error::new(
                ErrorKind::Unsupported,
                format!("embedded catalog {path} has version {version}, this frazil knows {SCHEMA_VERSION}"),
            )
            .with_hint("run the newer frazil that wrote it"));
        }
        tx.commit().map_err(fail)
    }

    pub(super) fn pointer(&self, table: &TableName) -> Result<Option<Pointer>> {
        self.read(|tx| pointer(tx, table))?.map_err(|e| self.failed(e))
    }

    /// Whether a table has `location` as its folder.
    pub(super) fn is_taken(&self, location: &str) -> Result<bool> {
        let sql = "SELECT EXISTS (SELECT 1 FROM tables WHERE location = ?1)";
        self.read(|tx| tx.query_row(sql, [location], |row| row.get(0)))?.map_err(|e| self.failed(e))
    }

    /// Makes `new` the table's document if `old` still is; says whether it was.
    pub(super) fn swap(&self, table: &TableName, old: &str, new: &Pointer) -> Result<bool, Failure> {
        self.write(|tx| {
            let sql = "UPDATE tables SET metadata_location = ?1, previous_metadata_location = ?2, location = ?3
                       WHERE namespace = ?4 AND name = ?5 AND metadata_location = ?2";
            let values = params![new.metadata_location, old, new.location, key(table.namespace()), table.name()];
            Ok(tx.execute(sql, values).map_err(|e| self.failed(e))? == 1)
        })
    }

    /// Adds a table, with its namespace when `with_namespace`; `Conflict` when the name is taken.
    pub(super) fn insert(&self, table: &TableName, new: &Pointer, with_namespace: bool) -> Result<(), Failure> {
        self.write(|tx| {
            if with_namespace {
                add_namespaces(tx, table.namespace()).map_err(|e| self.failed(e))?;
            } else {
                self.demand_namespace(tx, table.namespace())?;
            }
            self.refuse_existing(tx, table)?;
            let sql = "INSERT INTO tables (namespace, name, location, metadata_location) VALUES (?1, ?2, ?3, ?4)";
            let values = params![key(table.namespace()), table.name(), new.location, new.metadata_location];
            tx.execute(sql, values).map_err(|e| self.failed(e)).map(drop)
        })
    }

    pub(super) fn rename(&self, from: &TableName, to: &TableName) -> Result<()> {
        settled(self.write(|tx| {
            if pointer(tx, from).map_err(|e| self.failed(e))?.is_none() {
                return Err(no_table(from));
            }
            self.demand_namespace(tx, to.namespace())?;
            self.refuse_existing(tx, to)?;
            let sql = "UPDATE tables SET namespace = ?1, name = ?2 WHERE namespace = ?3 AND name = ?4";
            let values = params![key(to.namespace()), to.name(), key(from.namespace()), from.name()];
            tx.execute(sql, values).map_err(|e| self.failed(e)).map(drop)
        }))
    }

    pub(super) fn drop_table(&self, table: &TableName) -> Result<()> {
        settled(self.write(|tx| {
            let sql = "DELETE FROM tables WHERE namespace = ?1 AND name = ?2";
            match tx.execute(sql, params![key(table.namespace()), table.name()]).map_err(|e| self.failed(e))? {
                0 => Err(no_table(table)),
                _ => Ok(()),
            }
        }))
    }

    pub(super) fn namespaces(&self, parent: &[String]) -> Result<Vec<Vec<String>>> {
        let keys = self.read(|tx| {
            if !has_namespace(tx, parent)? {
                return Ok(None);
            }
            texts(tx, "SELECT namespace FROM namespaces WHERE parent = ?1", &key(parent)).map(Some)
        })?;
        let keys = keys.map_err(|e| self.failed(e))?.ok_or_else(|| no_namespace(parent))?;
        let parse = |key: &String| {
            serde_json::from_str(key)
                .context(ErrorKind::Corrupt, || format!("{}: namespace {key}", self.path.display()))
        };
        let mut namespaces = keys.iter().map(parse).collect::<Result<Vec<Vec<String>>>>()?;
        namespaces.sort();
        Ok(namespaces)
    }

    pub(super) fn create_namespace(&self, namespace: &[String], properties: &BTreeMap<String, String>) -> Result<()> {
        let properties = serde_json::to_string(properties).context(ErrorKind::Internal, || "namespace properties")?;
        settled(self.write(|tx| {
            if has_namespace(tx, namespace).map_err(|e| self.failed(e))? {
                let name = namespace.join(".");
                return Err(Error::new(ErrorKind::Conflict, format!("namespace {name} exists already")));
            }
            add_namespaces(tx, namespace).map_err(|e| self.failed(e))?;
            let sql = "UPDATE namespaces SET properties = ?1 WHERE namespace = ?2";
            tx.execute(sql, params![properties, key(namespace)]).map_err(|e| self.failed(e)).map(drop)
        }))
    }

    pub(super) fn drop_namespace(&self, namespace: &[String]) -> Result<()> {
        settled(self.write(|tx| {
            self.demand_namespace(tx, namespace)?;
            let sql = "SELECT EXISTS (SELECT 1 FROM tables WHERE namespace = ?1)
                       OR EXISTS (SELECT 1 FROM namespaces WHERE parent = ?1)";
            let held: bool = tx.query_row(sql, [key(namespace)], |row| row.get(0)).map_err(|e| self.failed(e))?;
            if held || namespace.is_empty() {
                let name = namespace.join(".");
                return Err(Error::new(ErrorKind::Conflict, format!("namespace {name} is not empty")));
            }
            let sql = "DELETE FROM namespaces WHERE namespace = ?1";
            tx.execute(sql, [key(namespace)]).map_err(|e| self.failed(e)).map(drop)
        }))
    }

    pub(super) fn tables(&self, namespace: &[String]) -> Result<Vec<TableName>> {
        let names = self.read(|tx| {
            if !has_namespace(tx, namespace)? {
                return Ok(None);
            }
            texts(tx, "SELECT name FROM tables WHERE namespace = ?1 ORDER BY name", &key(namespace)).map(Some)
        })?;
        let names = names.map_err(|e| self.failed(e))?.ok_or_else(|| no_namespace(namespace))?;
        names.into_iter().map(|name| TableName::new(namespace.to_vec(), name)).collect()
    }

    fn read<T>(&self, work: impl FnOnce(&Transaction<'_>) -> rusqlite::Result<T>) -> Result<rusqlite::Result<T>> {
        let mut connection = self.lock();
        let tx = connection.transaction().map_err(|e| self.failed(e))?;
        Ok(work(&tx))
    }

    fn write<T>(&self, work: impl FnOnce(&Transaction<'_>) -> Result<T>) -> Result<T, Failure> {
        let mut connection = self.lock();
        let tx = connection.transaction_with_behavior(TransactionBehavior::Immediate).map_err(|e| self.failed(e))?;
        let done = work(&tx)?;
        match tx.commit() {
            Ok(()) => Ok(done),
            Err(e) if e.sqlite_error_code() == Some(ErrorCode::DatabaseBusy) => Err(self.failed(e).into()),
            Err(e) => Err(Failure::InDoubt(self.failed(e))),
        }
    }

    fn demand_namespace(&self, tx: &Transaction<'_>, namespace: &[String]) -> Result<()> {
        match has_namespace(tx, namespace) {
            Ok(true) => Ok(()),
            Ok(false) => Err(no_namespace(namespace)),
            Err(e) => Err(self.failed(e)),
        }
    }

    fn refuse_existing(&self, tx: &Transaction<'_>, table: &TableName) -> Result<()> {
        match pointer(tx, table) {
            Ok(None) => Ok(()),
            Ok(Some(_)) => Err(Error::new(ErrorKind::Conflict, format!("table {table} exists already"))),
            Err(e) => Err(self.failed(e)),
        }
    }

    fn failed(&self, error: rusqlite::Error) -> Error {
        of_sqlite(&self.path, "use", error)
    }

    fn lock(&self) -> MutexGuard<'_, Connection> {
        self.connection.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A change whose doubt its caller can only report.
fn settled<T>(answer: Result<T, Failure>) -> Result<T> {
    answer.map_err(|failure| match failure {
        Failure::Definite(e) | Failure::InDoubt(e) => e,
    })
}

fn key(namespace: &[String]) -> String {
    serde_json::Value::from(namespace).to_string()
}

fn pointer(tx: &Transaction<'_>, table: &TableName) -> rusqlite::Result<Option<Pointer>> {
    let sql = "SELECT location, metadata_location FROM tables WHERE namespace = ?1 AND name = ?2";
    tx.query_row(sql, params![key(table.namespace()), table.name()], |row| {
        Ok(Pointer { location: row.get(0)?, metadata_location: row.get(1)? })
    })
    .optional()
}

fn has_namespace(tx: &Transaction<'_>, namespace: &[String]) -> rusqlite::Result<bool> {
    if namespace.is_empty() {
        return Ok(true);
    }
    let sql = "SELECT EXISTS (SELECT 1 FROM namespaces WHERE namespace = ?1)";
    tx.query_row(sql, [key(namespace)], |row| row.get(0))
}

fn add_namespaces(tx: &Transaction<'_>, namespace: &[String]) -> rusqlite::Result<()> {
    for depth in 1..=namespace.len() {
        let sql = "INSERT OR IGNORE INTO namespaces (namespace, parent, properties) VALUES (?1, ?2, '{}')";
        tx.execute(sql, params![key(&namespace[..depth]), key(&namespace[..depth - 1])])?;
    }
    Ok(())
}

fn texts(tx: &Transaction<'_>, sql: &str, parameter: &str) -> rusqlite::Result<Vec<String>> {
    tx.prepare_cached(sql)?.query_map([parameter], |row| row.get(0))?.collect()
}

fn of_sqlite(path: &Path, verb: &str, error: rusqlite::Error) -> Error {
    let (kind, what, hint) = match error.sqlite_error_code() {
        Some(ErrorCode::NotADatabase | ErrorCode::DatabaseCorrupt) => (
            ErrorKind::Corrupt,
            "is damaged or no SQLite file",
            "restore it from a backup; data and metadata files in the warehouse are untouched",
        ),
        Some(ErrorCode::CannotOpen | ErrorCode::ReadOnly | ErrorCode::PermissionDenied) => (
            ErrorKind::Denied,
            "cannot be opened for writing",
            "let this user write to the file and its folder, or set another path for the catalog",
        ),
        Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => {
            (ErrorKind::Unavailable, "is being written by another process", "wait, or end the other process")
        }
        Some(ErrorCode::DiskFull) => {
            (ErrorKind::Unavailable, "has no room on its disk", "make room; the work goes on by itself")
        }
        _ => (ErrorKind::Unavailable, "does not answer", "see the cause; the disk may be failing"),
    };
    let path = path.display();
    Error::new(kind, format!("{verb} embedded catalog {path}: it {what}")).with_source(error).with_hint(hint)
}
