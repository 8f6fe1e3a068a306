//! The protocol against a catalog that loses answers, lies about its own success and applies requests minutes late.

use std::collections::BTreeMap;
use std::sync::Mutex;

use async_trait::async_trait;
use iceberg::spec::{
    DataContentType, DataFile, DataFileBuilder, DataFileFormat, FormatVersion, NestedField, PrimitiveType, Schema,
    SortOrder, Struct, Type, UnboundPartitionSpec,
};
use iceberg::{TableRequirement, TableUpdate};

use super::*;
use crate::catalog::memory::MemoryCatalog;
use crate::catalog::{Capabilities, CreateTable, PreparedCommit};
use crate::commit::manifests;
use crate::env::SystemClock;
use crate::model::change::{Append, OnRollback, PipelineDelta};
use crate::model::checkpoint::{Checkpoint, Delta, Position, Range};
use crate::model::ids::{MAIN, PartitionId, PipelineName};
use crate::storage::StorageOptions;

/// A clock on tokio's paused time.
struct PausedClock(tokio::time::Instant, i64);

#[async_trait]
impl crate::env::Clock for PausedClock {
    #[allow(clippy::disallowed_methods)] // virtual time
    fn now_ms(&self) -> i64 {
        self.1 + i64::try_from(self.0.elapsed().as_millis()).expect("small")
    }

    async fn sleep(&self, duration: Duration) {
        SystemClock.sleep(duration).await;
    }
}

#[allow(clippy::disallowed_methods)] // the base of virtual time must not be before what the metadata builder stamps
fn simulated(seed: u64) -> Env {
    let now = SystemClock;
    Env::simulated(Arc::new(PausedClock(tokio::time::Instant::now(), crate::env::Clock::now_ms(&now))), seed)
}

/// What a faulty catalog does with a commit.
#[derive(Debug, Clone, Copy)]
enum Fault {
    None,
    /// Done, and the answer is lost.
    LostYes,
    /// Not done, and no answer.
    LostNo,
    /// Refused without a reason.
    Refused,
    /// Done, then refused: a server that retried by itself.
    LyingNo,
    NotSent,
    Throttled,
    /// No answer now; applied when a later request comes.
    Late,
}

const FAULTS: [Fault; 8] = [
    Fault::None,
    Fault::LostYes,
    Fault::LostNo,
    Fault::Refused,
    Fault::LyingNo,
    Fault::NotSent,
    Fault::Throttled,
    Fault::Late,
];

#[derive(Debug)]
struct FaultyCatalog {
    inner: MemoryCatalog,
    env: Env,
    late: Mutex<Vec<PreparedCommit>>,
    /// In percent.
    rate: u64,
}

impl FaultyCatalog {
    fn draw(&self) -> Fault {
        if self.env.below(100) >= self.rate {
            return Fault::None;
        }
        FAULTS[usize::try_from(self.env.below(FAULTS.len() as u64)).expect("small")]
    }
}

fn lost() -> Error {
    Error::new(ErrorKind::Unavailable, "connection reset")
}

#[async_trait]
impl Catalog for FaultyCatalog {
    async fn load(&self, table: &TableName) -> Result<TableState> {
        if self.env.below(100) < self.rate / 4 {
            return Err(lost());
        }
        self.inner.load(table).await
    }

    async fn commit(&self, commit: &PreparedCommit) -> Outcome {
        let overdue = if self.env.below(3) == 0 { self.late.lock().expect("unpoisoned").pop() } else { None };
        if let Some(late) = overdue {
            let _ = self.inner.commit(&late).await;
        }
        self.env.sleep(Duration::from_millis(self.env.below(200))).await;
        match self.draw() {
            Fault::None => self.inner.commit(commit).await,
            Fault::LostYes => {
                let _ = self.inner.commit(commit).await;
                Outcome::Unknown(lost())
            }
            Fault::LostNo => Outcome::Unknown(lost()),
            Fault::Refused => Outcome::Refused(Error::new(ErrorKind::Conflict, "no")),
            Fault::LyingNo => {
                let _ = self.inner.commit(commit).await;
                Outcome::Refused(Error::new(ErrorKind::Conflict, "no, after all"))
            }
            Fault::NotSent => Outcome::NotSent(lost()),
            Fault::Throttled => Outcome::Throttled(Duration::from_secs(1)),
            Fault::Late => {
                self.late.lock().expect("unpoisoned").push(commit.clone());
                Outcome::Unknown(lost())
            }
        }
    }

    async fn create(&self, table: &CreateTable) -> Outcome {
        self.inner.create(table).await
    }

    async fn register(&self, table: &TableName, metadata_location: &str) -> Outcome {
        self.inner.register(table, metadata_location).await
    }

    async fn rename(&self, from: &TableName, to: &TableName) -> Result<()> {
        self.inner.rename(from, to).await
    }

    async fn drop_table(&self, table: &TableName) -> Result<()> {
        self.inner.drop_table(table).await
    }

    async fn namespaces(&self, parent: &[String]) -> Result<Vec<Vec<String>>> {
        self.inner.namespaces(parent).await
    }

    async fn create_namespace(&self, namespace: &[String], properties: &BTreeMap<String, String>) -> Result<()> {
        self.inner.create_namespace(namespace, properties).await
    }

    async fn drop_namespace(&self, namespace: &[String]) -> Result<()> {
        self.inner.drop_namespace(namespace).await
    }

    async fn tables(&self, namespace: &[String]) -> Result<Vec<TableName>> {
        self.inner.tables(namespace).await
    }

    async fn capabilities(&self) -> Result<Capabilities> {
        self.inner.capabilities().await
    }
}

/// A world with one table and a catalog that fails in `rate` percent of the calls.
struct World {
    env: Env,
    catalog: Arc<FaultyCatalog>,
    storage: Storage,
    table: TableName,
}

impl World {
    async fn new(seed: u64, rate: u64, format_version: FormatVersion) -> Self {
        let env = simulated(seed);
        let storage = Storage::new(StorageOptions::default(), env.clone());
        let table: TableName = "ns.t".parse().expect("valid");
        let inner = MemoryCatalog::new(env.clone(), "memory:///wh");
        let schema = Schema::builder()
            .with_fields([Arc::new(NestedField::optional(1, "n", Type::Primitive(PrimitiveType::Long)))])
            .build()
            .expect("valid");
        let outcome = inner
            .create(&CreateTable {
                name: table.clone(),
                location: Some(format!("memory:///wh/{seed}-{}", env.uuid())),
                schema,
                spec: UnboundPartitionSpec::default(),
                sort_order: SortOrder::unsorted_order(),
                format_version,
                // Merging is exercised too.
                properties: [("commit.manifest.min-count-to-merge".to_owned(), "4".to_owned())].into(),
            })
            .await;
        assert!(matches!(outcome, Outcome::Committed(_)), "{outcome:?}");
        let catalog = Arc::new(FaultyCatalog { inner, env: env.clone(), late: Mutex::default(), rate });
        Self { env, catalog, storage, table }
    }

    fn committer(&self, instance: &str) -> Committer {
        Committer::new(
            self.env.clone(),
            self.catalog.clone(),
            self.storage.clone(),
            None,
            self.table.clone(),
            instance.to_owned(),
        )
    }

    async fn truth(&self) -> TableState {
        self.catalog.inner.load(&self.table).await.expect("there")
    }

    /// One instance of a pipeline: commits epochs of its log until `end`, from wherever the table says it stands.
    async fn ingest(&self, pipeline: &str, instance: &str, end: i64) {
        let mut committer = self.committer(instance);
        let cancel = CancellationToken::new();
        'restart: loop {
            let base = loop {
                match committer.load().await {
                    Ok(base) => break base,
                    Err(error) => assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}"),
                }
                self.env.sleep(Duration::from_millis(100)).await;
            };
            let question = Question {
                pipeline: &PipelineName::new(pipeline),
                target: MAIN,
                on_rollback: OnRollback::Halt,
                witness: false,
            };
            let standing = committer.standing(&base, question).await.expect("never halts here");
            let (mut at, mut change) = match standing {
                Standing::New => (None, self.change(pipeline, instance, &base, None, -1)),
                Standing::At(taken) => match taken.checkpoint.positions.get(&PartitionId::new("0")) {
                    Some(Position::Offset(at)) if *at >= end => return,
                    Some(Position::Offset(at)) => {
                        let to = (at + 1 + self.env.below(9).cast_signed()).min(end);
                        (Some(*at), self.change(pipeline, instance, &base, Some(*at), to))
                    }
                    _ => (None, self.change(pipeline, instance, &base, None, 3)),
                },
            };
            let mut base = base;
            loop {
                let mut commit = Commit::new(change);
                let state = loop {
                    match committer.run(&mut commit, &base, &cancel).await.expect("never halts here") {
                        Ending::Done { state, .. } => break state,
                        Ending::Fenced(_) => continue 'restart,
                        Ending::Unresolved(_) | Ending::Failed(_) => self.env.sleep(Duration::from_secs(1)).await,
                        other => panic!("{other:?}"),
                    }
                };
                let start = commit.change().delta.as_ref().is_some_and(|d| d.delta.is_empty());
                at = if start { continue 'restart } else { self.reached(&commit) };
                if at == Some(end) {
                    return;
                }
                let to = (at.unwrap_or(-1) + 1 + self.env.below(9).cast_signed()).min(end);
                base = *state;
                change = self.change(pipeline, instance, &base, at, to);
            }
        }
    }

    fn reached(&self, commit: &Commit) -> Option<i64> {
        let delta = commit.change().delta.as_ref()?;
        match delta.delta.ranges.values().next()?.to {
            Position::Offset(to) => Some(to),
            Position::Files(_) => None,
        }
    }

    /// The rows after `from` up to `to` as one file; a start record when `to` is below 0.
    fn change(&self, pipeline: &str, instance: &str, base: &TableState, from: Option<i64>, to: i64) -> Change {
        let mut change = Change::new(self.env.snapshot_id());
        let mut delta = Delta::default();
        let mut files = Vec::new();
        if to >= 0 {
            let range = Range { from: from.map(Position::Offset), to: Position::Offset(to) };
            delta.extend(PartitionId::new("0"), range).expect("first");
            let first = from.map_or(0, |at| at + 1);
            files.push(file(&format!("{pipeline}/{first}-{to}/{instance}-{}", self.env.uuid()), to - first + 1));
        }
        change.data = Some(Data::Append(Append {
            files,
            schema: base.metadata.current_schema().clone(),
            spec_id: base.metadata.default_partition_spec_id(),
        }));
        change.delta = Some(PipelineDelta {
            pipeline: PipelineName::new(pipeline),
            delta,
            witness: Checkpoint::default(),
            on_rollback: OnRollback::Halt,
            follows: false,
            sealed: vec![],
        });
        change
    }

    /// Another engine: appends, removes old snapshots, sets properties.
    async fn foreign(&self, rounds: u64) {
        for round in 0..rounds {
            self.env.sleep(Duration::from_millis(self.env.below(3_000))).await;
            let base = self.truth().await;
            let mut updates =
                vec![TableUpdate::SetProperties { updates: [("x".to_owned(), round.to_string())].into() }];
            if self.env.below(3) == 0 {
                let keep = base.head(MAIN).map(|s| s.snapshot_id());
                let old: Vec<i64> =
                    base.metadata.snapshots().map(|s| s.snapshot_id()).filter(|id| Some(*id) != keep).collect();
                updates = vec![TableUpdate::RemoveSnapshots { snapshot_ids: old }];
            }
            let commit = PreparedCommit {
                table: self.table.clone(),
                requirements: vec![TableRequirement::UuidMatch { uuid: base.metadata.uuid() }],
                updates,
                idempotency_key: self.env.uuid(),
            };
            let _ = self.catalog.inner.commit(&commit).await;
        }
    }

    /// Every live file of the head: (pipeline, first, last), sorted.
    async fn rows(&self) -> Vec<(String, i64, i64)> {
        let state = self.truth().await;
        let head = state.head(MAIN).expect("a head");
        let mut found = Vec::new();
        for manifest in
            manifests::list(&self.storage, head.manifest_list(), state.metadata.format_version()).await.expect("there")
        {
            for entry in manifests::live_entries(&self.storage, &manifest).await.expect("there") {
                let path = entry.file.file_path().trim_start_matches("memory:///data/").to_owned();
                let mut parts = path.split('/');
                let pipeline = parts.next().expect("named").to_owned();
                let (first, last) = parts.next().and_then(|range| range.split_once('-')).expect("a range");
                found.push((pipeline, first.parse().expect("a number"), last.parse().expect("a number")));
            }
        }
        found.sort();
        found
    }
}

fn file(name: &str, rows: i64) -> DataFile {
    DataFileBuilder::default()
        .content(DataContentType::Data)
        .file_path(format!("memory:///data/{name}.parquet"))
        .file_format(DataFileFormat::Parquet)
        .partition(Struct::empty())
        .partition_spec_id(0)
        .record_count(rows.cast_unsigned())
        .file_size_in_bytes(100)
        .build()
        .expect("complete")
}

/// Two instances of one pipeline, another pipeline and a foreign engine that expires everything but the head.
async fn storm(seed: u64, rate: u64, format: FormatVersion) {
    const END: i64 = 60;
    let world = World::new(seed, rate, format).await;
    tokio::join!(
        world.ingest("a", "a1", END),
        world.ingest("a", "a2", END),
        world.ingest("b", "b1", END),
        world.foreign(12)
    );
    let mut next = BTreeMap::new();
    for (pipeline, first, last) in world.rows().await {
        let expected = next.insert(pipeline.clone(), last + 1).unwrap_or(0);
        assert_eq!(first, expected, "seed {seed}: pipeline {pipeline} lost or doubled rows");
    }
    assert_eq!(next, BTreeMap::from([("a".to_owned(), END + 1), ("b".to_owned(), END + 1)]), "seed {seed}");
    let state = world.truth().await;
    let total = &state.head(MAIN).expect("a head").summary().additional_properties["total-records"];
    assert_eq!(total, &(2 * (END + 1)).to_string(), "seed {seed}: totals of the summary");
    if format == FormatVersion::V3 {
        assert!(state.metadata.next_row_id() >= 2 * (END + 1).cast_unsigned(), "seed {seed}: every row has an id");
    }
}

fn on_virtual_time(work: impl Future<Output = ()>) {
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().expect("a runtime");
    runtime.block_on(work);
}

#[test]
fn no_row_is_lost_or_doubled_however_the_catalog_answers() {
    for seed in 0..20 {
        let format = if seed % 2 == 0 { FormatVersion::V2 } else { FormatVersion::V3 };
        on_virtual_time(storm(seed, 10 + seed % 60, format));
    }
}

#[test]
fn without_faults_each_epoch_is_one_snapshot() {
    on_virtual_time(async {
        let world = World::new(1, 0, FormatVersion::V2).await;
        world.ingest("a", "a1", 20).await;
        let state = world.truth().await;
        let files = world.rows().await.len();
        assert_eq!(state.metadata.snapshots().count(), files + 1, "one snapshot each, and the start record's");
    });
}
