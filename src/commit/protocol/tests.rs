//! The protocol against a catalog that loses answers, lies about its own success and applies requests minutes late.

use iceberg::spec::{
    DataContentType, DataFile, DataFileBuilder, DataFileFormat, FormatVersion, NestedField, PrimitiveType, Schema,
    SortOrder, Struct, Type, UnboundPartitionSpec,
};
use iceberg::{TableRequirement, TableUpdate};
use std::collections::BTreeMap;

use super::*;
use crate::catalog::faulty::FaultyCatalog;
use crate::catalog::memory::MemoryCatalog;
use crate::catalog::{CreateTable, PreparedCommit};
use crate::commit::manifests;
use crate::env::virtual_time::{on_virtual_time, simulated};
use crate::model::change::{Append, OnRollback, PipelineDelta};
use crate::model::checkpoint::{Checkpoint, Delta, Position, Range};
use crate::model::ids::{MAIN, PartitionId, PipelineName};
use crate::storage::StorageOptions;

/// A world with one table and a catalog that fails in `rate` percent of the calls.
struct World {
    env: Env,
    /// As it is, and as the instances see it.
    truth: Arc<MemoryCatalog>,
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
        let truth = Arc::new(inner);
        let catalog = Arc::new(FaultyCatalog::new(truth.clone(), env.clone(), rate));
        Self { env, truth, catalog, storage, table }
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
        self.truth.load(&self.table).await.expect("there")
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
            let mut change = match standing {
                Standing::New => self.change(pipeline, instance, &base, None, -1),
                Standing::At(taken) => match taken.checkpoint.positions.get(&PartitionId::new("0")) {
                    Some(Position::Offset(at)) if *at >= end => return,
                    Some(Position::Offset(at)) => {
                        let to = (at + 1 + self.env.below(9).cast_signed()).min(end);
                        self.change(pipeline, instance, &base, Some(*at), to)
                    }
                    _ => self.change(pipeline, instance, &base, None, 3),
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
                let at = if start { continue 'restart } else { self.reached(&commit) };
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
            operator: None,
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
            let _ = self.truth.commit(&commit).await;
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

#[test]
fn no_row_is_lost_or_doubled_however_the_catalog_answers() {
    for seed in 0..20_u64 {
        let format = if seed.is_multiple_of(2) { FormatVersion::V2 } else { FormatVersion::V3 };
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

/// An operator's edit of pipeline `p`, as it replaces what `base` holds.
fn edit(world: &World, base: &TableState, at: i64) -> Change {
    let mut change = world.change("p", "operator", base, None, -1);
    let positions = [(PartitionId::new("0"), Position::Offset(at))].into();
    let delta = change.delta.as_mut().expect("a delta");
    delta.witness = Checkpoint { positions, source: "log".into(), ..Checkpoint::default() };
    let replaces = base.property("frazil.checkpoint.p@main").map(str::to_owned);
    delta.operator = Some(OperatorEdit { replaces });
    change
}

#[test]
fn an_operator_sets_positions_once_over_a_catalog_that_loses_answers() {
    for seed in 0..40 {
        on_virtual_time(async {
            let world = World::new(seed, 40, FormatVersion::V2).await;
            world.ingest("p", "one", 20).await;
            let base = world.truth().await;
            let (mut commit, mut committer) = (Commit::new(edit(&world, &base, 7)), world.committer("operator"));
            let done = loop {
                match committer.run(&mut commit, &base, &CancellationToken::new()).await.expect("never halts here") {
                    Ending::Done { state, .. } => break state,
                    Ending::Unresolved(_) | Ending::Failed(_) => world.env.sleep(Duration::from_secs(1)).await,
                    other => panic!("{other:?}"),
                }
            };
            let snapshots = |state: &TableState| state.metadata.snapshots().count();
            assert_eq!(snapshots(&world.truth().await), snapshots(&base) + 1, "one snapshot, seed {seed}");
            let pipeline = PipelineName::new("p");
            let question =
                Question { pipeline: &pipeline, target: MAIN, on_rollback: OnRollback::Halt, witness: false };
            let Standing::At(taken) = committer.standing(&done, question).await.expect("stands") else {
                panic!("it stands nowhere")
            };
            assert_eq!(taken.checkpoint.positions[&PartitionId::new("0")], Position::Offset(7));
            assert_eq!(taken.checkpoint.source, "log");
        });
    }
}

#[test]
fn an_operators_edit_is_fenced_when_the_pipeline_has_moved_meanwhile() {
    on_virtual_time(async {
        let world = World::new(1, 0, FormatVersion::V2).await;
        world.ingest("p", "one", 20).await;
        let seen = world.truth().await;
        world.ingest("p", "one", 30).await;
        let mut committer = world.committer("operator");
        let mut commit = Commit::new(edit(&world, &seen, 7));
        let now = world.truth().await;
        let ending = committer.run(&mut commit, &now, &CancellationToken::new()).await.expect("never halts here");
        assert!(matches!(ending, Ending::Fenced(_)), "{ending:?}");
        let mut late = Commit::new(edit(&world, &seen, 7));
        let ending = committer.run(&mut late, &seen, &CancellationToken::new()).await.expect("never halts here");
        assert!(matches!(ending, Ending::Fenced(_)), "{ending:?}");
        assert_eq!(world.truth().await.metadata.last_sequence_number(), now.metadata.last_sequence_number());
    });
}
