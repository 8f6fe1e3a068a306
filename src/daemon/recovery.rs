//! The whole daemon after others have dealt with its tables: records gone, tables dropped, branches rolled back.
#![cfg(test)]

use iceberg::spec::{Operation, Snapshot, SnapshotReference, SnapshotRetention, Summary};
use iceberg::{TableRequirement, TableUpdate};

use super::tests::{SHOP, World, config, each_once, files_by_number, pipeline_of, rate};
use super::*;
use crate::catalog::{Outcome, PreparedCommit};
use crate::commit::checkpoint::Chain;
use crate::commit::protocol::{Commit, Committer, Ending};
use crate::config::{OnRollback, RejectLimit};
use crate::daemon::outage::{FailingCatalog, Outage};
use crate::env::virtual_time::on_virtual_time;
use crate::model::change::{Append, Change, Data, OperatorEdit, PipelineDelta};
use crate::model::checkpoint::{Checkpoint, Delta, Position, Record};
use crate::model::ids::{MAIN, PartitionId};
use crate::model::table::TableState;
use crate::storage::disk::MemoryDisk;

impl World {
    pub(super) async fn state(&self, table: &str) -> TableState {
        self.catalog.load(&table.parse().expect("valid")).await.expect("there")
    }

    /// A commit of another engine.
    pub(super) async fn update(&self, table: &str, updates: Vec<TableUpdate>) {
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
    pub(super) async fn forget(&self, table: &str, rewrites: bool) {
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
    pub(super) async fn reset(&self, table: &str) {
        let state = self.state(table).await;
        let keys = state.metadata.properties().keys().filter(|key| key.starts_with("frazil.checkpoint."));
        self.update(table, vec![TableUpdate::RemoveProperties { removals: keys.cloned().collect() }]).await;
    }

    /// The records on a table's branch, oldest first.
    pub(super) async fn records(&self, table: &str) -> Vec<Record> {
        let chain = Chain::of(&self.state(table).await, MAIN).expect("no circle").snapshots;
        let text = |s: &iceberg::spec::SnapshotRef| {
            s.summary().additional_properties.get("frazil.checkpoint.p@main").expect("of ours").clone()
        };
        chain.iter().rev().map(|s| Record::parse(&text(s)).expect("a record")).collect()
    }

    /// Another engine sets the branch to a snapshot of its chain, counted from the oldest.
    pub(super) async fn roll_back(&self, table: &str, to: usize) {
        let state = self.state(table).await;
        let chain = Chain::of(&state, MAIN).expect("no circle").snapshots;
        self.update(table, vec![main_at(chain[chain.len() - 1 - to].snapshot_id())]).await;
    }

    /// The snapshots of a table's branch.
    pub(super) async fn length(&self, table: &str) -> usize {
        Chain::of(&self.state(table).await, MAIN).expect("no circle").snapshots.len()
    }

    /// The same world seen by a process that has lost its disk.
    pub(super) fn without_disk(self) -> Self {
        Self { disk: Arc::new(MemoryDisk::new()), ..self }
    }

    /// `frazil checkpoint set`.
    pub(super) async fn set(&self, table: &str, positions: &[(&str, i64)]) {
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

pub(super) fn main_at(snapshot_id: i64) -> TableUpdate {
    let retention =
        SnapshotRetention::Branch { min_snapshots_to_keep: None, max_snapshot_age_ms: None, max_ref_age_ms: None };
    TableUpdate::SetSnapshotRef { ref_name: MAIN.to_owned(), reference: SnapshotReference::new(snapshot_id, retention) }
}

pub(super) fn asks(error: &Error) {
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
