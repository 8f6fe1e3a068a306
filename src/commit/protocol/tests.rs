//! The protocol against a catalog that loses answers, lies about its own success and applies requests minutes late.

use iceberg::spec::{
    DataContentType, DataFile, DataFileBuilder, DataFileFormat, FormatVersion, NestedField, Operation, PrimitiveType,
    Schema, Snapshot, SnapshotRef, SnapshotReference, SnapshotRetention, SortOrder, Struct, Summary, Type,
    UnboundPartitionSpec,
};
use iceberg::{TableRequirement, TableUpdate};
use std::collections::{BTreeMap, HashMap};

use super::*;
use crate::catalog::faulty::{Fault, FaultyCatalog};
use crate::catalog::memory::MemoryCatalog;
use crate::catalog::{CreateTable, PreparedCommit};
use crate::commit::manifests;
use crate::commit::records::{self, VERSION_KEY};
use crate::env::virtual_time::{on_virtual_time, simulated};
use crate::model::change::{Append, Evolve, OnRollback, OperatorEdit, PipelineDelta};
use crate::model::checkpoint::{Checkpoint, Delta, Position, Range};
use crate::model::ids::{MAIN, PartitionId, PipelineName};
use crate::storage::{StorageOptions, counters};

/// A world with one table and a catalog that fails in `rate` percent of the calls.
struct World {
    env: Env,
    /// As it is, and as the instances see it.
    truth: Arc<MemoryCatalog>,
    catalog: Arc<FaultyCatalog>,
    storage: Storage,
    table: TableName,
    on_rollback: OnRollback,
    /// How far the clocks of other engines are ahead of ours.
    ahead_ms: i64,
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
        Self { env, truth, catalog, storage, table, on_rollback: OnRollback::Halt, ahead_ms: 0 }
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
                on_rollback: self.on_rollback,
                witness: Witness::Files,
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
                        Ending::Fenced(_) | Ending::Swept(_) => continue 'restart,
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
            on_rollback: self.on_rollback,
            follows: None,
            known_seq: 0,
            sealed: vec![],
            finished: vec![],
            operator: None,
        });
        change
    }

    /// Another engine: appends, expires all but the head and deletes the lists, tags, takes the checkpoint's property away
    /// while the head has the record, sets properties.
    async fn foreign(&self, rounds: u64) {
        for round in 0..rounds {
            self.env.sleep(Duration::from_millis(self.env.below(3_000))).await;
            let base = self.truth().await;
            let Some(head) = base.head(MAIN).cloned() else { continue };
            match self.env.below(6) {
                0 => self.expire_all_but_the_head().await,
                1 | 2 => drop(self.foreign_append(&base).await),
                3 => {
                    let retention = SnapshotRetention::Tag { max_ref_age_ms: None };
                    let reference = SnapshotReference::new(head.snapshot_id(), retention);
                    self.update(vec![TableUpdate::SetSnapshotRef { ref_name: "tag".to_owned(), reference }]).await;
                }
                4 if head.summary().additional_properties.contains_key(VERSION_KEY) => {
                    let removals = vec!["frazil.checkpoint.a@main".to_owned()];
                    self.update(vec![TableUpdate::RemoveProperties { removals }]).await;
                }
                _ => {
                    let updates = [("x".to_owned(), round.to_string())].into();
                    self.update(vec![TableUpdate::SetProperties { updates }]).await;
                }
            }
        }
    }

    /// A commit of another engine, behind our back.
    async fn update(&self, updates: Vec<TableUpdate>) {
        let base = self.truth().await;
        let commit = PreparedCommit {
            table: self.table.clone(),
            requirements: vec![TableRequirement::UuidMatch { uuid: base.metadata.uuid() }],
            updates,
            idempotency_key: self.env.uuid(),
        };
        let _ = self.truth.commit(&commit).await;
    }

    async fn expire_all_but_the_head(&self) {
        let base = self.truth().await;
        let named: Vec<i64> = base.refs.values().map(|r| r.snapshot_id).collect();
        let old: Vec<_> = base.metadata.snapshots().filter(|s| !named.contains(&s.snapshot_id())).cloned().collect();
        let snapshot_ids = old.iter().map(|s| s.snapshot_id()).collect();
        self.update(vec![TableUpdate::RemoveSnapshots { snapshot_ids }]).await;
        for snapshot in old {
            self.storage.delete(snapshot.manifest_list()).await.expect("deletable");
        }
    }

    /// The metadata documents that the table's log names, at the store, as a real catalog has them.
    async fn write_documents(&self) {
        for entry in self.truth().await.metadata.metadata_log() {
            let document = self.truth.document(&entry.metadata_file).expect("kept");
            self.storage.write(&entry.metadata_file, document).await.expect("writable");
        }
    }

    /// Sets main back to the head of `old`.
    async fn roll_back(&self, old: &TableState) {
        let reference = SnapshotReference::new(old.refs[MAIN].snapshot_id, old.refs[MAIN].retention.clone());
        self.update(vec![TableUpdate::SetSnapshotRef { ref_name: MAIN.to_owned(), reference }]).await;
    }

    /// Another engine's snapshot, without rows and without our records.
    async fn foreign_append(&self, base: &TableState) -> Option<i64> {
        self.foreign_snapshot(base, &[]).await
    }

    /// The same with words in its summary.
    async fn with_words(&self, key: &str, value: &str) {
        let base = self.truth().await;
        self.foreign_snapshot(&base, &[(key, value)]).await.expect("committed");
    }

    async fn foreign_snapshot(&self, base: &TableState, summary: &[(&str, &str)]) -> Option<i64> {
        let head = base.head(MAIN)?;
        let id = self.env.snapshot_id();
        let manifest_list = format!("{}/metadata/snap-{id}.avro", base.metadata.location());
        let bytes = self.storage.read(head.manifest_list()).await.ok()?;
        self.storage.write(&manifest_list, bytes).await.expect("writable");
        let mut additional_properties = totals(head);
        additional_properties.extend(summary.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())));
        let snapshot = Snapshot::builder()
            .with_snapshot_id(id)
            .with_parent_snapshot_id(Some(head.snapshot_id()))
            .with_sequence_number(base.metadata.next_sequence_number())
            .with_timestamp_ms(self.env.now_ms().max(base.metadata.last_updated_ms()).saturating_add(self.ahead_ms))
            .with_manifest_list(manifest_list)
            .with_schema_id(base.metadata.current_schema_id())
            .with_summary(Summary { operation: Operation::Append, additional_properties });
        let snapshot = match base.metadata.format_version() {
            FormatVersion::V3 => snapshot.with_row_range(base.metadata.next_row_id(), 0).build(),
            _ => snapshot.build(),
        };
        self.update(vec![TableUpdate::AddSnapshot { snapshot }, main_at(id)]).await;
        self.truth().await.head(MAIN).filter(|head| head.snapshot_id() == id).map(|head| head.snapshot_id())
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

/// The totals of a summary, as another engine carries them on.
fn totals(head: &SnapshotRef) -> HashMap<String, String> {
    let all = head.summary().additional_properties.iter();
    all.filter(|(key, _)| key.starts_with("total-")).map(|(key, value)| (key.clone(), value.clone())).collect()
}

fn main_at(id: i64) -> TableUpdate {
    let retention =
        SnapshotRetention::Branch { min_snapshots_to_keep: None, max_snapshot_age_ms: None, max_ref_age_ms: None };
    TableUpdate::SetSnapshotRef { ref_name: MAIN.to_owned(), reference: SnapshotReference::new(id, retention) }
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

/// A table that pipeline `a` has rows 0 to 5 in, and its state.
async fn begun(seed: u64) -> (World, TableState) {
    let world = World::new(seed, 0, FormatVersion::V2).await;
    world.ingest("a", "a1", 5).await;
    let state = world.truth().await;
    (world, state)
}

async fn run(world: &World, commit: &mut Commit, base: &TableState) -> Ending {
    world.committer("a1").run(commit, base, &CancellationToken::new()).await.expect("does not halt")
}

#[test]
fn a_body_that_waited_until_its_timestamp_was_old_is_prepared_anew() {
    on_virtual_time(async {
        let (world, base) = begun(1).await;
        let mut commit = Commit::new(world.change("a", "a1", &base, Some(5), 7));
        world.catalog.script([Fault::NotSent; 14]);
        let foreign = async {
            world.env.sleep(Duration::from_secs(100)).await;
            let updates = [("x".to_owned(), "y".to_owned())].into();
            world.update(vec![TableUpdate::SetProperties { updates }]).await;
        };
        // The catalog does not answer for a while: the commit comes back now and then, and is gone on with.
        let patient = async {
            loop {
                match run(&world, &mut commit, &base).await {
                    Ending::Failed(_) => {}
                    ending => return ending,
                }
            }
        };
        let (ending, ()) = tokio::join!(patient, foreign);
        assert!(matches!(ending, Ending::Done { ours: true, .. }), "{ending:?}");
    });
}

#[test]
fn a_body_refused_again_and_again_is_not_kept_alive_by_its_own_submissions() {
    on_virtual_time(async {
        let (world, base) = begun(1).await;
        let mut commit = Commit::new(world.change("a", "a1", &base, Some(5), 7));
        world.catalog.script([Fault::Refused; 5]);
        let first = run(&world, &mut commit, &base).await;
        let Ending::Failed(error) = &first else { panic!("{first:?}") };
        assert!(error.to_string().contains("the last refusal: no"), "{error}");
        let submitted = commit.last.as_ref().expect("submitted").at_ms;
        world.env.sleep(Duration::from_secs(20)).await;
        world.catalog.script([Fault::Refused; 2]);
        world.env.sleep(Duration::from_secs(11)).await;
        run(&world, &mut commit, &base).await;
        assert!(commit.last.as_ref().expect("submitted").at_ms > submitted, "the body is as old as it was prepared");
    });
}

fn columns(columns: &[(i32, &str)]) -> Arc<Schema> {
    let field =
        |(id, name): &(i32, &str)| Arc::new(NestedField::optional(*id, *name, Type::Primitive(PrimitiveType::Long)));
    Arc::new(Schema::builder().with_fields(columns.iter().map(field)).build().expect("valid"))
}

/// A change of `world`'s pipeline that adds a column as id 2.
fn adding(world: &World, base: &TableState, name: &str) -> Change {
    let mut change = world.change("a", "a1", base, Some(5), 7);
    let schema = columns(&[(1, "n"), (2, name)]);
    let metadata = &base.metadata;
    change.evolve = Some(Evolve {
        base_last_column_id: metadata.last_column_id(),
        base_schema_id: metadata.current_schema_id(),
        schema: schema.clone(),
    });
    if let Some(Data::Append(append)) = &mut change.data {
        append.schema = schema;
    }
    change
}

/// Another engine makes `schema` the current one.
async fn evolved(world: &World, schema: &Schema) {
    let schema = schema.clone();
    world.update(vec![TableUpdate::AddSchema { schema }, TableUpdate::SetCurrentSchema { schema_id: -1 }]).await;
}

/// What becomes of a change that adds `x` as id 2 when another engine made `theirs` the schema first: as known at its first
/// preparation, and as learnt by a refusal.
async fn meets(theirs: &Schema) -> [Ending; 2] {
    let (world, base) = begun(1).await;
    let change = adding(&world, &base, "x");
    evolved(&world, theirs).await;
    let late = run(&world, &mut Commit::new(change.clone()), &base).await;
    let fresh = run(&world, &mut Commit::new(change), &world.truth().await).await;
    [late, fresh]
}

#[test]
fn a_new_column_is_never_forgotten_because_somebody_else_changed_the_schema() {
    on_virtual_time(async {
        let described = {
            let n = NestedField::optional(1, "n", Type::Primitive(PrimitiveType::Long)).with_doc("a number");
            Schema::builder().with_fields([Arc::new(n)]).build().expect("valid")
        };
        for theirs in [described, columns(&[(1, "n"), (2, "y")]).as_ref().clone()] {
            for ending in meets(&theirs).await {
                assert!(matches!(ending, Ending::Rebuild(_)), "{theirs}: {ending:?}");
            }
        }
    });
}

#[test]
fn a_column_that_somebody_else_added_alike_is_shared() {
    on_virtual_time(async {
        let [late, fresh] = meets(&columns(&[(1, "n"), (2, "x")])).await;
        assert!(matches!(late, Ending::Done { ours: true, .. }), "{late:?}");
        assert!(matches!(fresh, Ending::Done { ours: false, .. }), "its rows are in by the first: {fresh:?}");
    });
}

#[test]
fn a_base_whose_files_were_expired_is_loaded_again() {
    on_virtual_time(async {
        let (world, base) = begun(1).await;
        world.foreign_append(&base).await.expect("committed");
        world.expire_all_but_the_head().await;
        let mut commit = Commit::new(world.change("a", "a1", &base, Some(5), 7));
        let ending = run(&world, &mut commit, &base).await;
        assert!(matches!(ending, Ending::Done { ours: true, .. }), "{ending:?}");
    });
}

#[test]
fn where_others_commit_the_first_attempt_is_made_on_the_head_and_meets_nobody() {
    on_virtual_time(async {
        for (looks, attempts) in [(false, 2), (true, 1)] {
            let (world, base) = begun(1).await;
            world.foreign_append(&base).await.expect("committed");
            let mut commit = Commit::new(world.change("a", "a1", &base, Some(5), 7)).looking_first(looks);
            let ending = run(&world, &mut commit, &base).await;
            assert!(matches!(ending, Ending::Done { ours: true, .. }), "{ending:?}");
            let answers = commit.answers();
            assert_eq!((commit.attempts(), answers.conflicts, answers.others), (attempts, attempts - 1, looks));
        }
        let (world, base) = begun(2).await;
        let mut alone = Commit::new(world.change("a", "a1", &base, Some(5), 7)).looking_first(true);
        assert!(matches!(run(&world, &mut alone, &base).await, Ending::Done { ours: true, .. }));
        assert!(!alone.answers().others);
    });
}

/// Looks that were only meant well must not add up to a halt while commits go in.
#[test]
fn a_commit_that_is_in_ends_a_run_of_answers_from_the_past() {
    on_virtual_time(async {
        let (world, base) = begun(3).await;
        let mut committer = world.committer("a");
        committer.stale = STALE_MAX - 1;
        let mut commit = Commit::new(world.change("a", "a1", &base, Some(5), 7));
        let ending = committer.run(&mut commit, &base, &CancellationToken::new()).await;
        assert!(matches!(ending, Ok(Ending::Done { ours: true, .. })), "{ending:?}");
        assert_eq!(committer.stale, 0);
    });
}

#[test]
fn what_another_instance_decided_stays_in_the_record_until_it_is_known_to_be_finished() {
    on_virtual_time(async {
        let (world, mut base) = begun(1).await;
        let key = "frazil.checkpoint.a@main";
        let steps: [(&[&str], &[&str], &[&str]); 3] =
            [(&["s1"], &[], &["s1"]), (&["s2"], &[], &["s1", "s2"]), (&[], &["s1", "s2"], &[])];
        for (at, (sealed, finished, expected)) in (5..).zip(steps) {
            let mut change = world.change("a", "a1", &base, Some(at), at + 1);
            let delta = change.delta.as_mut().expect("has one");
            delta.sealed = sealed.iter().map(|s| (*s).to_owned()).collect();
            delta.finished = finished.iter().map(|s| (*s).to_owned()).collect();
            run(&world, &mut Commit::new(change), &base).await;
            base = world.truth().await;
            let record = records::in_property(&base, key).expect("readable").expect("there");
            assert_eq!(record.sealed, expected);
        }
    });
}

/// Somebody saw the decision, finished the epoch, and deleted the object that lists it.
#[test]
fn a_decision_that_was_rolled_back_is_not_made_again() {
    on_virtual_time(async {
        for (sealed, fenced) in [(vec!["memory:///sealed".to_owned()], true), (vec![], false)] {
            let (world, base) = begun(1).await;
            let mut change = world.change("a", "a1", &base, Some(5), 7);
            change.delta.as_mut().expect("has one").sealed = sealed;
            let mut commit = Commit::new(change);
            world.catalog.script([Fault::LostYes]);
            let old = base.head(MAIN).expect("has rows").snapshot_id();
            let rollback = async {
                while world.truth().await.head(MAIN).is_some_and(|head| head.snapshot_id() == old) {
                    world.env.sleep(Duration::from_millis(1)).await;
                }
                let retention = base.refs[MAIN].retention.clone();
                let reference = SnapshotReference::new(old, retention);
                world.update(vec![TableUpdate::SetSnapshotRef { ref_name: MAIN.to_owned(), reference }]).await;
            };
            let committer = world.committer("a1");
            let stop = CancellationToken::new();
            commit.change.delta.as_mut().expect("has one").on_rollback = OnRollback::Rewind;
            let mut committer = committer;
            let (ending, ()) = tokio::join!(committer.run(&mut commit, &base, &stop), rollback);
            let ending = ending.expect("does not halt");
            assert_eq!(matches!(ending, Ending::Fenced(_)), fenced, "{ending:?}");
            assert_eq!(matches!(ending, Ending::Done { ours: true, .. }), !fenced, "{ending:?}");
        }
    });
}

/// Its property is removed, it expires, and only the parent of the head's names it: under its id it would be its own ancestor.
#[test]
fn a_snapshot_that_has_expired_since_it_landed_never_becomes_its_own_ancestor() {
    on_virtual_time(async {
        for undone in [false, true] {
            let (world, base) = begun(1).await;
            let mut commit = Commit::new(world.change("a", "a1", &base, Some(5), 7));
            let id = commit.change.snapshot_id;
            let Some(Data::Append(append)) = &commit.change.data else { panic!("no append") };
            for file in &append.files {
                world.storage.write(file.file_path(), "kept by somebody".into()).await.expect("writable");
            }
            world.catalog.script([Fault::LostYes]);
            let meanwhile = async {
                while world.truth().await.metadata.snapshot_by_id(id).is_none() {
                    world.env.sleep(Duration::from_millis(1)).await;
                }
                let child = world.foreign_append(&world.truth().await).await.expect("committed");
                let retention = base.refs[MAIN].retention.clone();
                let to = |id| SnapshotReference::new(id, retention.clone());
                let ref_name = if undone { MAIN } else { "other" }.to_owned();
                let old = base.refs[MAIN].snapshot_id;
                let tag = SnapshotReference::new(child, SnapshotRetention::Tag { max_ref_age_ms: None });
                world
                    .update(vec![
                        TableUpdate::SetSnapshotRef { ref_name: "tag".to_owned(), reference: tag },
                        TableUpdate::SetSnapshotRef { ref_name, reference: to(old) },
                        TableUpdate::RemoveSnapshots { snapshot_ids: vec![id] },
                        TableUpdate::RemoveProperties { removals: vec!["frazil.checkpoint.a@main".to_owned()] },
                    ])
                    .await;
            };
            let (mut committer, stop) = (world.committer("a1"), CancellationToken::new());
            let (ending, ()) = tokio::join!(committer.run(&mut commit, &base, &stop), meanwhile);
            let ending = ending.expect("does not halt");
            assert!(matches!(ending, Ending::Done { ours: true, .. }), "{ending:?}");
            let now = world.truth().await;
            assert_eq!(commit.change.snapshot_id != id, undone);
            for name in ["tag", MAIN] {
                Chain::of(&now, name).expect("no circle");
            }
        }
    });
}

#[test]
fn nothing_is_sent_of_files_that_were_staged_too_long_ago() {
    on_virtual_time(async {
        let (world, base) = begun(1).await;
        let mut commit = Commit::new(world.change("a", "a1", &base, Some(5), 7)).until(world.env.now_ms() - 1);
        let ending = run(&world, &mut commit, &base).await;
        assert!(matches!(ending, Ending::Failed(_)) && commit.attempts() == 0, "{ending:?}");
    });
}

/// Rows 0 to 30 and a rollback by another engine somewhere between; the ranges that are in at the end.
async fn rolled_back(seed: u64, on_rollback: OnRollback) -> (Vec<(String, i64, i64)>, i64) {
    let mut world = World::new(seed, 10, FormatVersion::V2).await;
    world.on_rollback = on_rollback;
    world.ingest("b", "b1", 5).await;
    let of_b = world.truth().await.metadata.snapshots().count();
    world.ingest("a", "a1", 15).await;
    world.ingest("b", "b1", 9).await;
    let state = world.truth().await;
    let ancestors = Chain::of(&state, MAIN).expect("no circle").snapshots;
    // The first rows of a, and those of b before.
    let to = &ancestors[ancestors.len() - of_b - 2];
    world.update(vec![main_at(to.snapshot_id())]).await;
    let kept = world.rows().await.iter().filter(|(pipeline, ..)| pipeline == "a").map(|row| row.2).max();
    world.ingest("a", "a1", 30).await;
    // The other pipeline learns of the rollback too, although there are newer snapshots by now.
    world.ingest("b", "b1", 12).await;
    let mut rows = world.rows().await;
    let b: Vec<_> = rows.iter().filter(|(pipeline, ..)| pipeline == "b").collect();
    let held: i64 = b.iter().map(|(_, first, last)| last - first + 1).sum();
    assert_eq!(held, if on_rollback == OnRollback::Rewind { 13 } else { 13 - 4 }, "seed {seed}: {b:?}");
    rows.retain(|(pipeline, ..)| pipeline == "a");
    (rows, kept.expect("the first epoch stays"))
}

#[test]
fn after_a_rollback_rows_are_read_again_or_stay_away_as_the_policy_says() {
    on_virtual_time(async {
        for seed in 0..6 {
            let (rows, _) = rolled_back(seed, OnRollback::Rewind).await;
            let mut next = 0;
            for (_, first, last) in rows {
                assert_eq!(first, next, "seed {seed}: lost or doubled");
                next = last + 1;
            }
            assert_eq!(next, 31, "seed {seed}");
            let (rows, kept) = rolled_back(seed, OnRollback::Keep).await;
            assert!(rows.iter().all(|(_, first, last)| *last <= kept || *first > 15), "seed {seed}: {rows:?}");
            assert!(rows.iter().any(|(_, _, last)| *last == 30), "seed {seed}: {rows:?}");
        }
    });
}

/// An operator's edit of pipeline `p`, as it replaces what `base` holds.
fn edit(world: &World, base: &TableState, at: i64) -> Change {
    let mut change = world.change("p", "operator", base, None, -1);
    let positions = [(PartitionId::new("0"), Position::Offset(at))].into();
    let delta = change.delta.as_mut().expect("a delta");
    delta.witness = Checkpoint { positions, source: "log".into(), ..Checkpoint::default() };
    delta.operator = Some(OperatorEdit::of(base, "frazil.checkpoint.p@main", MAIN));
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
                Question { pipeline: &pipeline, target: MAIN, on_rollback: OnRollback::Halt, witness: Witness::Files };
            let Standing::At(taken) = committer.standing(&done, question).await.expect("stands") else {
                panic!("it stands nowhere")
            };
            assert_eq!(taken.checkpoint.positions[&PartitionId::new("0")], Position::Offset(7));
            assert_eq!(taken.checkpoint.source, "log");
        });
    }
}

/// Positions that were right for the head that he saw would skip what the rollback took.
#[test]
fn an_operators_edit_is_fenced_when_the_branch_was_rolled_back_meanwhile() {
    on_virtual_time(async {
        for rolled_back in [false, true] {
            let world = World::new(1, 0, FormatVersion::V2).await;
            world.ingest("p", "one", 20).await;
            let old = world.truth().await;
            world.foreign_append(&old).await.expect("committed");
            let seen = world.truth().await;
            if rolled_back {
                world.roll_back(&old).await;
            }
            world.foreign_append(&world.truth().await).await.expect("committed");
            let mut commit = Commit::new(edit(&world, &seen, 7));
            let stop = CancellationToken::new();
            let ending = world.committer("operator").run(&mut commit, &seen, &stop).await.expect("does not halt");
            assert_eq!(matches!(ending, Ending::Fenced(_)), rolled_back, "{ending:?}");
            assert_eq!(matches!(ending, Ending::Done { .. }), !rolled_back, "{ending:?}");
        }
    });
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

#[test]
fn a_record_is_found_below_the_snapshots_of_other_engines() {
    on_virtual_time(async {
        let (world, base) = begun(1).await;
        world.foreign_append(&base).await.expect("committed");
        world.foreign_append(&world.truth().await).await.expect("committed");
        let removals = vec!["frazil.checkpoint.a@main".to_owned()];
        world.update(vec![TableUpdate::RemoveProperties { removals }]).await;
        let question = Question {
            pipeline: &PipelineName::new("a"),
            target: MAIN,
            on_rollback: OnRollback::Halt,
            witness: Witness::Files,
        };
        let standing = world.committer("a1").standing(&world.truth().await, question).await.expect("readable");
        let Standing::At(taken) = standing else { panic!("{standing:?}") };
        assert_eq!(taken.checkpoint.positions[&PartitionId::new("0")], Position::Offset(5));
    });
}

#[test]
fn a_pipeline_finds_its_place_while_others_expire_what_it_reads() {
    on_virtual_time(async {
        let (world, base) = begun(1).await;
        // Three of theirs, and all but the head expired: the record's snapshot and the way to it are gone.
        world.foreign_append(&base).await.expect("committed");
        world.foreign_append(&world.truth().await).await.expect("committed");
        world.expire_all_but_the_head().await;
        let old = world.truth().await;
        world.foreign_append(&old).await.expect("committed");
        world.expire_all_but_the_head().await;
        world.catalog.answers_once(old);
        let pipeline = PipelineName::new("a");
        let question =
            Question { pipeline: &pipeline, target: MAIN, on_rollback: OnRollback::Halt, witness: Witness::Files };
        let mut committer = world.committer("a1");
        let loaded = committer.load().await.expect("answers");
        let (state, standing) = committer.locate(loaded, question).await.expect("found");
        assert_eq!(state.metadata_location, world.truth().await.metadata_location);
        let Standing::At(taken) = standing else { panic!("{standing:?}") };
        assert_eq!(taken.checkpoint.positions[&PartitionId::new("0")], Position::Offset(5));
        // A file that is gone for good is not a table that is missing: that would begin at zero.
        world.storage.delete(state.head(MAIN).expect("a head").manifest_list()).await.expect("deletable");
        let error = committer.locate(state, question).await.expect_err("nothing to read");
        assert!(error.kind() == ErrorKind::Corrupt && error.hint().is_some(), "{error:?}");
    });
}

/// Others roll back, append and expire all but the head: what the branch carries stands in older metadata alone.
#[test]
fn after_a_rollback_whose_way_has_expired_old_metadata_says_from_where_rows_are_read_again() {
    on_virtual_time(async {
        let pipeline = PipelineName::new("a");
        let question =
            Question { pipeline: &pipeline, target: MAIN, on_rollback: OnRollback::Rewind, witness: Witness::Files };
        for appended in 0..3 {
            for cut_before in [false, true] {
                let (world, old) = begun(1).await;
                let mut commit = Commit::new(world.change("a", "a1", &old, Some(5), 9));
                assert!(matches!(run(&world, &mut commit, &old).await, Ending::Done { ours: true, .. }));
                // The head above the rollback's end has expired before, or is the last to.
                world.roll_back(&old).await;
                for _ in 0..appended {
                    world.foreign_append(&world.truth().await).await.expect("committed");
                    if cut_before {
                        world.expire_all_but_the_head().await;
                    }
                }
                world.expire_all_but_the_head().await;
                let state = world.truth().await;
                let committer = world.committer("a1");
                if appended > 0 {
                    let error = committer.standing(&state, question).await.expect_err("no older metadata");
                    assert!(error.kind() == ErrorKind::Corrupt && error.hint().is_some(), "{error:?}");
                }
                world.write_documents().await;
                let standing = committer.standing(&state, question).await.expect("found");
                let Standing::At(taken) = standing else { panic!("{standing:?}") };
                assert!(taken.rewound, "{taken:?}");
                assert_eq!(taken.checkpoint.positions[&PartitionId::new("0")], Position::Offset(5), "{appended}");
            }
        }
        // The nearest record stood in a list that is gone: the one before it is older than what is there.
        let (world, old) = begun(1).await;
        let mut commit = Commit::new(world.change("a", "a1", &old, Some(5), 9));
        assert!(matches!(run(&world, &mut commit, &old).await, Ending::Done { ours: true, .. }));
        world.roll_back(&old).await;
        world.with_words("frazil.checkpoint.a@main", records::IN_LIST).await;
        world.foreign_append(&world.truth().await).await.expect("committed");
        world.expire_all_but_the_head().await;
        world.write_documents().await;
        let state = world.truth().await;
        let error = world.committer("a1").standing(&state, question).await.expect_err("nobody knows");
        assert!(error.to_string().contains("its history is cut short") && error.hint().is_some(), "{error:?}");
        // One of ours that knew of no record lies on the way to the nearest one, and an older one has expired.
        let (world, older) = begun(1).await;
        let mut commit = Commit::new(world.change("a", "a1", &older, Some(5), 7));
        let Ending::Done { state: nearest, .. } = run(&world, &mut commit, &older).await else { panic!("not done") };
        let mut commit = Commit::new(world.change("a", "a1", &nearest, Some(7), 9));
        assert!(matches!(run(&world, &mut commit, &nearest).await, Ending::Done { ours: true, .. }));
        world.roll_back(&nearest).await;
        world.with_words(VERSION_KEY, "1").await;
        let snapshot_ids = vec![older.head(MAIN).expect("a head").snapshot_id()];
        world.update(vec![TableUpdate::RemoveSnapshots { snapshot_ids }]).await;
        world.write_documents().await;
        let standing = world.committer("a1").standing(&world.truth().await, question).await.expect("found");
        let Standing::At(taken) = standing else { panic!("{standing:?}") };
        assert_eq!(taken.checkpoint.positions[&PartitionId::new("0")], Position::Offset(7));
    });
}

#[test]
fn the_way_back_to_a_checkpoint_is_read_once() {
    on_virtual_time(async {
        let (world, _) = begun(1).await;
        for _ in 0..3 {
            world.foreign_append(&world.truth().await).await.expect("committed");
        }
        world.expire_all_but_the_head().await;
        world.write_documents().await;
        let pipeline = PipelineName::new("a");
        let question =
            Question { pipeline: &pipeline, target: MAIN, on_rollback: OnRollback::Halt, witness: Witness::Files };
        let mut committer = world.committer("a1");
        let mut reads = Vec::new();
        for _ in 0..3 {
            let before = world.storage.counters().snapshot()[&counters::Operation::Get].ok;
            let loaded = committer.load().await.expect("answers");
            let (_, standing) = committer.locate(loaded, question).await.expect("found");
            let Standing::At(Taken { warning: None, .. }) = standing else { panic!("{standing:?}") };
            reads.push(world.storage.counters().snapshot()[&counters::Operation::Get].ok - before);
        }
        assert!(reads[1] < reads[0] && reads[1] == reads[2], "{reads:?}");
    });
}

#[test]
fn a_snapshot_is_never_older_than_the_table_whatever_our_clock_says() {
    on_virtual_time(async {
        let (mut world, base) = begun(1).await;
        world.ahead_ms = 3_600_000;
        world.foreign_append(&base).await.expect("committed");
        let base = world.truth().await;
        let mut commit = Commit::new(world.change("a", "a1", &base, Some(5), 7));
        let ending = run(&world, &mut commit, &base).await;
        let Ending::Done { state, ours: true } = ending else { panic!("{ending:?}") };
        assert!(state.head(MAIN).expect("a head").timestamp_ms() >= base.metadata.last_updated_ms());
    });
}

/// Records of `a` that nobody can read, in the property and on the nearest snapshot: the words of a newer program, or a place in
/// a list that has none.
#[test]
fn an_operator_replaces_a_record_that_cannot_be_read_and_nobody_else_is_stopped_by_it() {
    for broken in ["{\"v\":2}", records::IN_LIST] {
        on_virtual_time(async {
            let (world, _) = begun(1).await;
            world.ingest("p", "p1", 4).await;
            let key = "frazil.checkpoint.p@main";
            world.with_words(key, broken).await;
            let updates = [(key.to_owned(), "{}".to_owned())].into();
            world.update(vec![TableUpdate::SetProperties { updates }]).await;
            let held = world.truth().await;
            let question =
                |pipeline| Question { pipeline, target: MAIN, on_rollback: OnRollback::Halt, witness: Witness::Files };
            let p = PipelineName::new("p");
            let mut committer = world.committer("operator");
            let error = committer.standing(&held, question(&p)).await.expect_err("unreadable");
            assert_eq!(error.kind(), ErrorKind::Corrupt);
            if broken != records::IN_LIST {
                let mut commit = Commit::new(world.change("a", "a1", &held, Some(5), 7));
                let ending = run(&world, &mut commit, &held).await;
                assert!(matches!(ending, Ending::Done { ours: true, .. }), "{ending:?}");
            }
            let held = world.truth().await;
            let mut commit = Commit::new(edit(&world, &held, 3));
            let done = committer.run(&mut commit, &held, &CancellationToken::new()).await.expect("the way out");
            let Ending::Done { state, .. } = done else { panic!("{done:?}") };
            let Standing::At(taken) = committer.standing(&state, question(&p)).await.expect("readable") else {
                panic!("it stands nowhere")
            };
            assert_eq!(taken.checkpoint.positions[&PartitionId::new("0")], Position::Offset(3));
        });
    }
}

#[test]
fn the_lists_of_attempts_that_did_not_land_are_deleted_under_proof() {
    on_virtual_time(async {
        let (world, base) = begun(1).await;
        world.foreign_append(&base).await.expect("committed");
        let mut committer = world.committer("a1");
        let mut commit = Commit::new(world.change("a", "a1", &base, Some(5), 7));
        let done = committer.run(&mut commit, &base, &CancellationToken::new()).await.expect("never halts here");
        let Ending::Done { state, ours: true } = done else { panic!("{done:?}") };
        assert_eq!(commit.attempts(), 2, "the first one met the other engine's");
        let losers = committer.losers(&commit, &state, true).await.expect("asked").expect("one list too many");
        let landed = state.head(MAIN).expect("a head").manifest_list().to_owned();
        assert_eq!(losers.files.len(), 1);
        assert!(losers.files[0].contains("/snap-") && losers.files[0] != landed, "{losers:?}");
        assert_eq!(committer.prove(&state, &[&losers]).await.expect("asked"), [Proof::Never]);
        // As long as the refused body may land, or a snapshot names the list, nothing is deleted.
        assert_eq!(committer.prove(&base, &[&losers]).await.expect("asked"), [Proof::Open]);
        let named = Leftover { files: vec![landed], ..losers.clone() };
        assert_eq!(committer.prove(&state, &[&named]).await.expect("asked"), [Proof::In]);
        assert!(committer.remove(&losers).await.is_empty());
        assert_eq!(world.rows().await.last(), Some(&("a".to_owned(), 6, 7)));
        // One attempt leaves nothing.
        let mut commit = Commit::new(world.change("a", "a1", &state, Some(7), 9));
        let done = committer.run(&mut commit, &state, &CancellationToken::new()).await.expect("never halts here");
        let Ending::Done { state, ours: true } = done else { panic!("{done:?}") };
        assert_eq!(committer.losers(&commit, &state, true).await.expect("asked"), None);
    });
}
