//! The whole daemon after others have dealt with its tables: records gone, tables dropped, branches rolled back.
#![cfg(test)]

use iceberg::spec::{
    NestedField, Operation, Schema, Snapshot, SnapshotReference, SnapshotRetention, SortOrder, Summary,
    UnboundPartitionSpec,
};
use iceberg::{TableRequirement, TableUpdate};

use super::tests::{SHOP, World, column, config, each_once, files_by_number, pipeline_of, rate};
use super::*;
use crate::catalog::faulty::FaultyCatalog;
use crate::catalog::{CreateTable, Outcome, PreparedCommit};
use crate::commit::checkpoint::Chain;
use crate::commit::protocol::{Commit, Committer, Ending};
use crate::config::{ColumnConfig, OnChange, OnRollback, RejectLimit};
use crate::daemon::outage::{FailingCatalog, Outage};
use crate::env::virtual_time::on_virtual_time;
use crate::model::change::{Append, Change, Data, OperatorEdit, PipelineDelta};
use crate::model::checkpoint::{Checkpoint, Delta, Position, Positions, Record};
use crate::model::ids::{MAIN, PartitionId};
use crate::model::table::TableState;
use crate::storage::disk::MemoryDisk;

impl World {
    async fn state(&self, table: &str) -> TableState {
        self.catalog.load(&table.parse().expect("valid")).await.expect("there")
    }

    /// A commit of another engine.
    async fn update(&self, table: &str, updates: Vec<TableUpdate>) {
        let state = self.state(table).await;
        let commit = PreparedCommit {
            table: state.name.clone(),
            requirements: vec![TableRequirement::UuidMatch { uuid: state.metadata.uuid() }],
            updates,
            idempotency_key: self.env.uuid(),
        };
        let outcome = self.catalog.commit(&commit).await;
        assert!(matches!(outcome, Outcome::Committed(_)), "{outcome:?}");
    }

    /// Another engine leaves no record of ours: a snapshot of its own, all others expired, the properties removed. With
    /// `rewrites` no file of ours is live any more either.
    async fn forget(&self, table: &str, rewrites: bool) {
        let state = self.state(table).await;
        let head = state.head(MAIN).expect("a head").clone();
        let mut all: Vec<_> = state.metadata.snapshots().cloned().collect();
        all.sort_by_key(|snapshot| snapshot.sequence_number());
        let list = if rewrites { all[0].manifest_list() } else { head.manifest_list() };
        let (id, at) = (self.env.snapshot_id(), format!("{}/metadata/foreign.avro", state.metadata.location()));
        let bytes = self.storage.read(list).await.expect("there");
        self.storage.write(&at, bytes).await.expect("writable");
        let snapshot = Snapshot::builder()
            .with_snapshot_id(id)
            .with_parent_snapshot_id(Some(head.snapshot_id()))
            .with_sequence_number(state.metadata.next_sequence_number())
            .with_timestamp_ms(self.env.now_ms().max(state.metadata.last_updated_ms()))
            .with_manifest_list(at)
            .with_schema_id(state.metadata.current_schema_id())
            .with_summary(Summary { operation: Operation::Replace, additional_properties: Default::default() })
            .build();
        self.update(table, vec![TableUpdate::AddSnapshot { snapshot }, main_at(id)]).await;
        let snapshot_ids = all.iter().map(|snapshot| snapshot.snapshot_id()).collect();
        let keys = state.metadata.properties().keys().filter(|key| key.starts_with("frazil.checkpoint."));
        let removals = keys.cloned().collect();
        self.update(
            table,
            vec![TableUpdate::RemoveSnapshots { snapshot_ids }, TableUpdate::RemoveProperties { removals }],
        )
        .await;
    }

    /// Another engine removes the checkpoints from a table's properties.
    async fn reset(&self, table: &str) {
        let state = self.state(table).await;
        let keys = state.metadata.properties().keys().filter(|key| key.starts_with("frazil.checkpoint."));
        self.update(table, vec![TableUpdate::RemoveProperties { removals: keys.cloned().collect() }]).await;
    }

    /// The records on a table's branch, oldest first.
    async fn records(&self, table: &str) -> Vec<Record> {
        let chain = Chain::of(&self.state(table).await, MAIN).expect("no circle").snapshots;
        let text = |s: &iceberg::spec::SnapshotRef| {
            s.summary().additional_properties.get("frazil.checkpoint.p@main").expect("of ours").clone()
        };
        chain.iter().rev().map(|s| Record::parse(&text(s)).expect("a record")).collect()
    }

    /// Another engine sets the branch to a snapshot of its chain, counted from the oldest.
    async fn roll_back(&self, table: &str, to: usize) {
        let state = self.state(table).await;
        let chain = Chain::of(&state, MAIN).expect("no circle").snapshots;
        self.update(table, vec![main_at(chain[chain.len() - 1 - to].snapshot_id())]).await;
    }

    /// The snapshots of a table's branch.
    async fn length(&self, table: &str) -> usize {
        Chain::of(&self.state(table).await, MAIN).expect("no circle").snapshots.len()
    }

    /// The same world seen by a process that has lost its disk.
    fn without_disk(self) -> Self {
        Self { disk: Arc::new(MemoryDisk::new()), ..self }
    }

    /// `frazil checkpoint set`.
    async fn set(&self, table: &str, positions: &[(&str, i64)]) {
        let state = self.state(table).await;
        let mut change = Change::new(self.env.snapshot_id());
        change.data = Some(Data::Append(Append {
            files: vec![],
            schema: Arc::clone(state.metadata.current_schema()),
            spec_id: state.metadata.default_partition_spec_id(),
        }));
        let at = |(partition, offset): &(&str, i64)| (PartitionId::new(*partition), Position::Offset(*offset));
        change.delta = Some(PipelineDelta {
            pipeline: PipelineName::new("p"),
            delta: Delta::default(),
            witness: Checkpoint { positions: positions.iter().map(at).collect(), ..Checkpoint::default() },
            on_rollback: OnRollback::Halt,
            follows: None,
            known_seq: 0,
            sealed: vec![],
            finished: vec![],
            operator: Some(OperatorEdit::of(&state, "frazil.checkpoint.p@main", MAIN)),
        });
        let (env, catalog, storage) = (self.env.clone(), Arc::clone(&self.catalog), self.storage.clone());
        let mut committer = Committer::new(env, catalog, storage, None, state.name.clone(), "operator".into());
        let mut commit = Commit::new(change);
        let ending = committer.run(&mut commit, &state, &CancellationToken::new()).await.expect("committed");
        assert!(matches!(ending, Ending::Done { .. }), "{ending:?}");
    }
}

fn main_at(snapshot_id: i64) -> TableUpdate {
    let retention =
        SnapshotRetention::Branch { min_snapshots_to_keep: None, max_snapshot_age_ms: None, max_ref_age_ms: None };
    TableUpdate::SetSnapshotRef { ref_name: MAIN.to_owned(), reference: SnapshotReference::new(snapshot_id, retention) }
}

fn asks(error: &Error) {
    assert_eq!(error.kind(), ErrorKind::Corrupt, "{error}");
    assert!(error.hint().is_some_and(|hint| hint.contains("frazil checkpoint set")), "{error:?}");
}

#[test]
fn a_pipeline_that_left_nothing_but_files_asks_where_to_go_on() {
    on_virtual_time(async {
        let world = World::new(40);
        let mut config = config("shop.events", None, 400);
        world.run(&config, None).await;
        world.forget("shop.events", false).await;
        let world = world.without_disk();
        rate(&mut config, 500, 100);
        asks(&world.ending(&config).await.expect_err("halts"));
        world.set("shop.events", &[("0", 399), ("1", 399)]).await;
        world.run(&config, None).await;
        each_once(&world.positions(&["shop.events"]).await, 500);
    });
}

#[test]
fn another_pipeline_on_a_table_with_files_of_ours_is_new() {
    on_virtual_time(async {
        let world = World::new(41);
        let mut config = config("shop.events", None, 50);
        world.run(&config, None).await;
        let settings = config.pipelines.values().next().expect("one").clone();
        config.pipelines = [(PipelineName::new("p2"), settings)].into();
        world.run(&config, None).await;
        let found = world.positions(&["shop.events"]).await;
        assert!(found.len() == 100 && found.values().all(|times| *times == 2), "each pipeline's rows are in once");
    });
}

#[test]
fn a_pipeline_that_left_no_trace_in_its_table_is_known_by_its_own_disk() {
    on_virtual_time(async {
        let world = World::new(42);
        let mut config = config("shop.events", None, 100);
        world.run(&config, None).await;
        world.forget("shop.events", true).await;
        rate(&mut config, 200, 100);
        asks(&world.ending(&config).await.expect_err("halts"));
        world.set("shop.events", &[("0", 99), ("1", 99)]).await;
        world.run(&config, None).await;
        assert_eq!(world.positions(&["shop.events"]).await.len(), 200, "the rows from 100 to 199 of two partitions");
    });
}

#[test]
fn a_pipeline_whose_table_was_dropped_renamed_or_replaced_asks_instead_of_beginning_again() {
    on_virtual_time(async {
        for how in ["dropped", "renamed", "replaced"] {
            let world = World::new(43);
            let config = config("shop.events", None, 100);
            world.run(&config, None).await;
            let table: TableName = "shop.events".parse().expect("valid");
            match how {
                "renamed" => world.catalog.rename(&table, &"shop.old".parse().expect("valid")).await.expect("renamed"),
                _ => world.catalog.drop_table(&table).await.expect("dropped"),
            }
            if how == "replaced" {
                // By another pipeline, that has a right to begin.
                let mut other = config.clone();
                let settings = other.pipelines.values().next().expect("one").clone();
                other.pipelines = [(PipelineName::new("p2"), settings)].into();
                world.run(&other, None).await;
            }
            let error = world.ending(&config).await.expect_err("halts");
            assert!(error.to_string().contains("shop.events"), "{how}: {error}");
            assert!(error.hint().is_some_and(|hint| hint.contains("new name")), "{how}: {error:?}");
            // Whoever means it may begin again.
            world.without_disk().run(&config, None).await;
        }
    });
}

#[test]
fn a_table_beside_the_anchor_that_lost_its_record_asks_as_well() {
    on_virtual_time(async {
        for (rewrites, disk) in [(false, true), (true, true), (true, false)] {
            let mut world = World::new(44);
            let mut config = config("shop.{event}", Some("shop.purchase"), 300);
            world.run(&config, None).await;
            world.forget("shop.page_view", rewrites).await;
            if !disk {
                world = world.without_disk();
            }
            rate(&mut config, 400, 100);
            let error = world.ending(&config).await.expect_err("halts");
            asks(&error);
            assert!(error.to_string().contains("shop.page_view"), "{error}");
            world.set("shop.page_view", &[("0", 299), ("1", 299)]).await;
            world.run(&config, None).await;
            if !rewrites {
                each_once(&world.positions(&SHOP).await, 400);
            }
            let _ = pipeline_of(&mut config);
        }
    });
}

/// A stream to four tables that has been read up to row 600 of two partitions, in many epochs.
async fn routed(seed: u64) -> (World, Config) {
    let world = World::new(seed);
    let mut config = config("shop.{event}", Some("shop.purchase"), 600);
    rate(&mut config, 600, 100);
    pipeline_of(&mut config).commit.freshness = Duration::from_millis(700);
    world.run(&config, None).await;
    // From here on epochs end elsewhere.
    pipeline_of(&mut config).commit.freshness = Duration::from_millis(1_900);
    rate(&mut config, 900, 130);
    (world, config)
}

#[test]
fn a_rewound_anchor_gives_each_table_beside_it_exactly_the_rows_that_it_lacks() {
    on_virtual_time(async {
        for seed in [50, 51, 52] {
            let (world, mut config) = routed(seed).await;
            pipeline_of(&mut config).on_rollback = OnRollback::Rewind;
            let length = world.length("shop.purchase").await;
            // To the start record, or to an epoch that has rows.
            world.roll_back("shop.purchase", if seed == 50 { 0 } else { length / 3 }).await;
            world.run(&config, Some(Duration::from_secs(3))).await;
            // A restart in the middle of what is read again, and another rollback.
            world.run(&config, Some(Duration::from_secs(2))).await;
            let length = world.length("shop.purchase").await;
            world.roll_back("shop.purchase", length / 2).await;
            world.run(&config, None).await;
            each_once(&world.positions(&SHOP).await, 900);
        }
    });
}

#[test]
fn a_rewound_table_does_not_put_the_same_rows_aside_twice() {
    on_virtual_time(async {
        let world = World::new(53);
        let mut config = config("shop.events", None, 600);
        let pipeline = pipeline_of(&mut config);
        pipeline.create.columns = vec![column("event_time", "timestamptz"), column("customer_id", "long")];
        pipeline.create.columns.push(ColumnConfig { required: true, ..column("coupon", "string") });
        pipeline.schema.on_change = OnChange::Freeze;
        pipeline.commit.freshness = Duration::from_millis(700);
        rate(&mut config, 600, 100);
        world.run(&config, None).await;
        let length = world.length("shop.events").await;
        world.roll_back("shop.events", length / 2).await;
        pipeline_of(&mut config).on_rollback = OnRollback::Rewind;
        pipeline_of(&mut config).commit.freshness = Duration::from_millis(1_900);
        rate(&mut config, 700, 130);
        world.run(&config, None).await;
        let mut found = world.positions(&["shop.events"]).await;
        for batch in world.read("shop.events__rejects").await {
            use arrow::array::AsArray;
            let partitions = batch.column_by_name("partition").expect("there").as_string::<i32>().clone();
            let numbers = batch.column_by_name("number").expect("there").clone();
            let numbers = numbers.as_primitive::<arrow::datatypes::Int64Type>().clone();
            for row in 0..batch.num_rows() {
                *found.entry((partitions.value(row).to_owned(), numbers.value(row))).or_default() += 1;
            }
        }
        each_once(&found, 700);
    });
}

#[test]
fn tables_that_are_rolled_back_together_are_read_again_together() {
    on_virtual_time(async {
        let (world, mut config) = routed(54).await;
        pipeline_of(&mut config).on_rollback = OnRollback::Rewind;
        for table in SHOP {
            world.roll_back(table, 0).await;
        }
        world.run(&config, None).await;
        each_once(&world.positions(&SHOP).await, 900);
        // The anchor to an epoch in the middle, another table further than that.
        for (table, back) in [("shop.purchase", 3), ("shop.page_view", 5)] {
            let length = world.length(table).await;
            world.roll_back(table, length - 1 - back).await;
        }
        let error = world.ending(&config).await.expect_err("rows between are lost");
        assert!(error.to_string().contains("shop.page_view"), "{error}");
    });
}

#[test]
fn a_table_beside_the_anchor_that_is_rolled_back_alone_loses_no_row_in_silence() {
    on_virtual_time(async {
        for policy in [OnRollback::Halt, OnRollback::Rewind] {
            let (world, mut config) = routed(55).await;
            pipeline_of(&mut config).on_rollback = policy;
            world.roll_back("shop.page_view", 2).await;
            let error = world.ending(&config).await.expect_err("halts");
            assert!(error.to_string().contains("shop.page_view") && error.hint().is_some(), "{policy:?}: {error:?}");
        }
        let (world, mut config) = routed(55).await;
        world.roll_back("shop.page_view", 2).await;
        pipeline_of(&mut config).on_rollback = OnRollback::Keep;
        world.run(&config, None).await;
        let found = world.positions(&SHOP).await;
        assert!(found.values().all(|times| *times == 1), "a row is doubled");
        assert!(
            found.len() < 1_800 && (600..900).all(|n| found.contains_key(&("0".to_owned(), n))),
            "only old rows went"
        );
    });
}

/// The property is gone, and an older record is the newest that the table has: the anchor knows that there was another.
#[test]
fn a_table_beside_the_anchor_that_is_rolled_back_and_reset_loses_no_row_in_silence() {
    on_virtual_time(async {
        for (policy, running) in [(OnRollback::Halt, false), (OnRollback::Rewind, false), (OnRollback::Halt, true)] {
            let (world, mut config) = routed(57).await;
            pipeline_of(&mut config).on_rollback = policy;
            let daemon = world.daemon(&config).await;
            let set_back = async {
                world.env.sleep(Duration::from_secs(if running { 3 } else { 0 })).await;
                world.reset("shop.page_view").await;
                world.roll_back("shop.page_view", 2).await;
            };
            let error = if running {
                let run = daemon.run(CancellationToken::new());
                let (ended, ()) = tokio::join!(world.env.timeout(Duration::from_secs(60), run), set_back);
                ended.expect("it halts").remove(&PipelineName::new("p")).expect("ended").expect_err("halts")
            } else {
                set_back.await;
                world.ending(&config).await.expect_err("halts")
            };
            assert!(error.to_string().contains("shop.page_view"), "{policy:?}: {error}");
            asks(&error);
            // The anchor back as far, and read again.
            world.roll_back("shop.purchase", 0).await;
            pipeline_of(&mut config).on_rollback = OnRollback::Rewind;
            world.run(&config, None).await;
            each_once(&world.positions(&SHOP).await, 900);
        }
        let (world, mut config) = routed(57).await;
        world.reset("shop.page_view").await;
        world.run(&config, None).await;
        each_once(&world.positions(&SHOP).await, 900);
        world.reset("shop.page_view").await;
        world.roll_back("shop.page_view", 2).await;
        pipeline_of(&mut config).on_rollback = OnRollback::Keep;
        rate(&mut config, 1_000, 130);
        world.run(&config, None).await;
        let found = world.positions(&SHOP).await;
        assert!(found.values().all(|times| *times == 1), "a row is doubled");
        assert!((900..1_000).all(|n| found.contains_key(&("0".to_owned(), n))), "only old rows went");
    });
}

/// After the anchor's rewind epochs were cut anew: one of the old ones may end above where the anchor stands and begin below.
#[test]
fn a_lost_epoch_that_began_below_the_anchor_is_not_taken_for_one_that_is_read_again() {
    on_virtual_time(async {
        let mut straddling = 0;
        for seed in [63, 64, 65] {
            let (world, mut config) = routed(seed).await;
            pipeline_of(&mut config).on_rollback = OnRollback::Rewind;
            world.roll_back("shop.purchase", 0).await;
            world.run(&config, Some(Duration::from_secs(3))).await;
            world.roll_back("shop.purchase", 1).await;
            let anchor = world.records("shop.purchase").await.pop().expect("one").checkpoint.positions;
            let own = world.records("shop.page_view").await;
            let covered = |positions: &Positions| {
                positions.iter().all(|(p, at)| anchor.get(p).is_some_and(|held| held.covers(at)))
            };
            let last = own.iter().rposition(|record| covered(&record.checkpoint.positions)).expect("the start record");
            let begins_below = |record: &Record| {
                record.above.iter().any(|(p, from)| anchor.get(p).is_some_and(|at| from.as_ref() != Some(at)))
            };
            if anchor == own[last].checkpoint.positions || !begins_below(&own[last + 1]) {
                continue;
            }
            straddling += 1;
            world.roll_back("shop.page_view", last).await;
            let error = world.ending(&config).await.expect_err("its lost rows are not read again");
            assert!(error.to_string().contains("shop.page_view"), "{error}");
        }
        assert!(straddling > 0, "no seed shows it");
    });
}

/// The policy holds for a table beside the anchor also while the pipeline runs: an epoch that is decided waits for a person.
#[test]
fn a_table_beside_the_anchor_that_is_rolled_back_under_a_running_pipeline_halts_it() {
    on_virtual_time(async {
        let (world, mut config) = routed(56).await;
        rate(&mut config, 5_000, 130);
        let daemon = world.daemon(&config).await;
        let run = daemon.run(CancellationToken::new());
        let foreign = async {
            world.env.sleep(Duration::from_secs(10)).await;
            world.roll_back("shop.page_view", 2).await;
        };
        let (ended, ()) = tokio::join!(world.env.timeout(Duration::from_secs(60), run), foreign);
        let error = ended.expect("it halts").remove(&PipelineName::new("p")).expect("ended").expect_err("halts");
        assert!(error.to_string().contains("shop.page_view") && error.to_string().contains("rolled back"), "{error}");
    });
}

/// Its part of the epoch is of no use to the new table, and the epoch is decided: the way out that the hint names leads on.
#[test]
fn a_decided_epoch_passes_over_a_table_that_was_created_anew_once_its_positions_are_set() {
    on_virtual_time(async {
        let (world, mut config) = routed(60).await;
        rate(&mut config, 2_000, 130);
        let daemon = world.daemon(&config).await;
        let foreign = async {
            world.env.sleep(Duration::from_secs(4)).await;
            world.roll_back("shop.page_view", 2).await;
        };
        let run = daemon.run(CancellationToken::new());
        let (ended, ()) = tokio::join!(world.env.timeout(Duration::from_secs(60), run), foreign);
        assert!(ended.is_some_and(|mut ended| ended.remove(&PipelineName::new("p")).is_some_and(|end| end.is_err())));
        let old = world.state("shop.page_view").await;
        world.catalog.drop_table(&old.name).await.expect("dropped");
        let anew = CreateTable {
            name: old.name.clone(),
            location: None,
            schema: Schema::builder()
                .with_fields(old.metadata.current_schema().as_struct().fields().to_vec())
                .build()
                .expect("valid"),
            spec: UnboundPartitionSpec::default(),
            sort_order: SortOrder::unsorted_order(),
            format_version: old.metadata.format_version(),
            properties: Default::default(),
        };
        assert!(matches!(world.catalog.create(&anew).await, Outcome::Committed(_)));
        let error = world.ending(&config).await.expect_err("halts");
        assert!(error.to_string().contains("another one than when its part of an epoch was sealed"), "{error}");
        asks(&error);
        let anchor = world.state("shop.purchase").await;
        let record = Record::parse(anchor.property("frazil.checkpoint.p@main").expect("there")).expect("valid");
        let at = |partition: &str| match record.checkpoint.positions.get(&PartitionId::new(partition)) {
            Some(Position::Offset(at)) => *at,
            other => panic!("{other:?}"),
        };
        world.set("shop.page_view", &[("0", at("0")), ("1", at("1"))]).await;
        world.run(&config, None).await;
        let found = world.positions(&SHOP).await;
        assert!(found.values().all(|times| *times == 1), "a row is doubled");
        assert!((at("0") + 1..2_000).all(|n| found.contains_key(&("0".to_owned(), n))), "a row above is missing");
    });
}

/// The next process knows of no commit of that part, and its table stands where the part would begin.
#[test]
fn a_part_of_a_decided_epoch_that_was_in_and_expired_is_not_committed_without_its_files() {
    on_virtual_time(async {
        for rewinds in [true, false] {
            let world = World::new(61);
            let mut config = config("shop.{event}", Some("shop.purchase"), 50);
            world.run(&config, None).await;
            let in_part = world.files("shop.page_view").await;
            world.roll_back("shop.page_view", 0).await;
            let state = world.state("shop.page_view").await;
            let chain = Chain::of(&state, MAIN).expect("no circle");
            let all = state.metadata.snapshots().map(|s| s.snapshot_id());
            let snapshot_ids = all.filter(|id| !chain.contains(*id)).collect();
            world.update("shop.page_view", vec![TableUpdate::RemoveSnapshots { snapshot_ids }]).await;
            for (_, deleted) in world.storage.delete_all(in_part.clone()).await {
                deleted.expect("deleted");
            }
            world.set("shop.page_view", &[]).await;
            let error = world.ending(&config).await.expect_err("halts");
            let told = error.to_string();
            assert!(told.contains("shop.page_view") && in_part.iter().any(|file| told.contains(file)), "{error}");
            assert!(error.hint().is_some_and(|hint| hint.contains("set --drop-sealed")), "{error:?}");
            assert_eq!(world.files("shop.page_view").await, Vec::<String>::new());
            if rewinds {
                world.roll_back("shop.purchase", 0).await;
                pipeline_of(&mut config).on_rollback = OnRollback::Rewind;
            } else {
                world.set("shop.purchase", &[("0", 49), ("1", 49)]).await;
            }
            rate(&mut config, 100, 200);
            world.run(&config, None).await;
            let found = world.positions(&SHOP).await;
            if rewinds {
                each_once(&found, 100);
            } else {
                assert!(found.values().all(|times| *times == 1), "a row is doubled");
                assert!((50..100).all(|n| found.contains_key(&("0".to_owned(), n))), "a row above is missing");
            }
        }
    });
}

/// Another instance may need them to encode them again, until the anchor has forgotten the epoch: then nobody does.
#[test]
fn what_of_a_part_was_encoded_again_is_deleted_once_its_epoch_is_forgotten() {
    on_virtual_time(async {
        for restarts in [false, true] {
            let world = World::new(62);
            let mut config = config("shop.{event}", Some("shop.purchase"), 50);
            let catalog = Arc::new(FaultyCatalog::new(Arc::clone(&world.catalog), world.env.clone(), 0));
            catalog.hang_at_a_decision();
            let (env, storage, disk) = (world.env.clone(), world.storage.clone(), world.disk.clone());
            let dying = World { env, storage, disk, catalog };
            let daemon = dying.daemon(&config).await;
            assert!(world.env.timeout(Duration::from_secs(60), daemon.run(CancellationToken::new())).await.is_none());
            world.disk.crash();
            let data = async || {
                let objects = world.objects().await;
                objects.into_iter().filter(|at| at.contains("page_view/data/")).collect::<Vec<_>>()
            };
            let originals = data().await;
            assert!(!originals.is_empty());
            // A column is renamed: under its id the files mean another one.
            let state = world.state("shop.page_view").await;
            let mut fields = state.metadata.current_schema().as_struct().fields().to_vec();
            let at = fields.iter().position(|field| field.name == "coupon").expect("there");
            fields[at] = Arc::new(NestedField { name: "voucher".to_owned(), ..fields[at].as_ref().clone() });
            let schema = Schema::builder().with_fields(fields).build().expect("valid");
            world
                .update(
                    "shop.page_view",
                    vec![TableUpdate::AddSchema { schema }, TableUpdate::SetCurrentSchema { schema_id: -1 }],
                )
                .await;
            rate(&mut config, 12_000, 1);
            pipeline_of(&mut config).commit.freshness = Duration::from_secs(300);
            if restarts {
                world.run(&config, Some(Duration::from_secs(20))).await;
                assert!(data().await.len() > originals.len(), "an epoch that is still named keeps what it may need");
            }
            world.run(&config, Some(Duration::from_secs(2_500))).await;
            let (there, live) = (data().await, world.files("shop.page_view").await);
            assert!(originals.iter().all(|at| !there.contains(at)), "what was encoded again is gone");
            assert_eq!(there.len(), live.len(), "{there:?}");
            assert!(world.positions(&SHOP).await.values().all(|times| *times == 1), "a row is doubled");
            let ledger = Ledger::open(world.disk.clone(), ENTRIES_MAX).await.expect("a ledger");
            assert!(ledger.open_entries().is_empty(), "{:?}", ledger.open_entries());
        }
    });
}

#[test]
fn which_files_a_table_beside_a_rewound_anchor_has_cannot_be_told_and_is_asked_for() {
    on_virtual_time(async {
        let world = World::new(57);
        let mut config = files_by_number();
        if let Some(SourceConfig::Files(files)) = config.sources.get_mut("shop") {
            files.until_end = true;
        }
        for (name, rows) in [("1", "{\"t\":\"a\",\"v\":1}\n"), ("2", "{\"t\":\"a\",\"v\":1}\n{\"t\":\"b\",\"v\":1}\n")]
        {
            world.storage.write(&format!("memory:///in/{name}"), rows.into()).await.expect("writable");
            world.run(&config, None).await;
        }
        world.roll_back("shop.a", 1).await;
        pipeline_of(&mut config).on_rollback = OnRollback::Rewind;
        let error = world.ending(&config).await.expect_err("halts");
        assert!(error.to_string().contains("shop.b") && error.hint().is_some(), "{error:?}");
        // The way out that the hint names.
        world.roll_back("shop.b", 0).await;
        world.run(&config, None).await;
        for (table, rows) in [("shop.a", 2), ("shop.b", 1)] {
            let found: usize = world.read(table).await.iter().map(|batch| batch.num_rows()).sum();
            assert_eq!(found, rows, "{table}");
        }
    });
}

#[test]
fn a_pipeline_that_waits_for_the_catalog_lets_the_others_of_its_table_commit() {
    on_virtual_time(async {
        let mut world = World::new(58);
        let mut config = config("shop.events", None, 400);
        rate(&mut config, 400, 100);
        let settings = config.pipelines.values().next().expect("one").clone();
        config.pipelines.insert(PipelineName::new("q"), settings);
        let from = world.env.now_ms() + 1_500;
        world.catalog = Arc::new(FailingCatalog {
            inner: Arc::clone(&world.catalog),
            outage: Outage { env: world.env.clone(), down_ms: from..from + 600_000 },
            only: Some("frazil.checkpoint.p@main"),
        });
        let run = world.daemon(&config).await.run(CancellationToken::new());
        tokio::pin!(run);
        // 400 rows at 100 a second, and a few seconds to commit the last of them.
        tokio::select! {
            biased;
            ended = &mut run => panic!("ended while p waits: {ended:?}"),
            () = world.env.sleep(Duration::from_secs(10)) => {}
        }
        let state = world.state("shop.events").await;
        let q = state.property("frazil.checkpoint.q@main").expect("q has begun");
        assert!(q.contains(r#"{"0":399,"1":399}"#), "{q}");
        let ended = world.env.timeout(Duration::from_secs(900), run).await.expect("ends once the catalog is back");
        assert!(ended.values().all(Result::is_ok), "{ended:?}");
        let found = world.positions(&["shop.events"]).await;
        assert!(found.len() == 800 && found.values().all(|times| *times == 2), "each pipeline's rows are in once");
    });
}

/// One bad row in a small epoch is no reason to halt where a share over minutes is allowed; too many over minutes are.
#[test]
fn a_share_of_rejects_is_taken_over_a_window_of_epochs() {
    on_virtual_time(async {
        for (window, bad_rows, halts) in
            [(None, 1, true), (Some(300), 1, false), (Some(300), 9, true), (Some(5), 1, true)]
        {
            let world = World::new(59);
            let mut config = files_by_number();
            let pipeline = pipeline_of(&mut config);
            pipeline.commit.freshness = Duration::from_secs(2);
            pipeline.rejects.halt_above = RejectLimit { share: 0.05, window: window.map(Duration::from_secs) };
            let good = "{\"t\":\"a\",\"v\":1}\n".repeat(100);
            let bad = format!("{}{}", "{\"t\":\"a\",\"v\":2}\n", "nonsense\n".repeat(bad_rows));
            world.storage.write("memory:///in/1", good.into()).await.expect("writable");
            let run = world.daemon(&config).await.run(CancellationToken::new());
            let later = async {
                world.env.sleep(Duration::from_secs(30)).await;
                world.storage.write("memory:///in/2", bad.into()).await.expect("writable");
            };
            let (ended, ()) = tokio::join!(world.env.timeout(Duration::from_secs(90), run), later);
            assert_eq!(ended.is_some(), halts, "{window:?}, {bad_rows} bad rows");
            let Some(mut ended) = ended else { continue };
            let error = ended.remove(&PipelineName::new("p")).expect("ended").expect_err("halts");
            assert!(error.to_string().contains("were rejected"), "{error}");
        }
    });
}
