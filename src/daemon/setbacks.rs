//! The whole daemon after tables of one pipeline were set back apart from each other: an anchor, those beside it, decided epochs.
#![cfg(test)]

use std::collections::{BTreeMap, BTreeSet, HashMap};

use iceberg::TableUpdate;
use iceberg::spec::{NestedField, Schema, SortOrder, UnboundPartitionSpec};

use super::recovery::asks;
use super::tests::{SHOP, World, column, config, each_once, files_by_number, pipeline_of, rate};
use super::*;
use crate::catalog::faulty::FaultyCatalog;
use crate::catalog::{CreateTable, Outcome};
use crate::commit::checkpoint::Chain;
use crate::commit::standing::Standing;
use crate::config::{ColumnConfig, OnChange, OnRollback};
use crate::daemon::table::Asker;
use crate::env::virtual_time::on_virtual_time;
use crate::model::checkpoint::{Position, Positions, Record};
use crate::model::ids::{MAIN, PartitionId};
use crate::model::table::TableState;
use crate::storage::disk::MemoryDisk;

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

/// Its last part landed after its anchor's last commit, and its property is gone when the pipeline opens it: its snapshots tell
/// which record it has.
#[test]
fn a_table_without_its_property_is_known_by_its_snapshots_when_it_is_rolled_back_afterwards() {
    on_virtual_time(async {
        let (world, config) = routed(58).await;
        world.reset("shop.page_view").await;
        let daemon = world.daemon(&config).await;
        let set_back = async {
            world.env.sleep(Duration::from_secs(1)).await;
            let length = world.length("shop.page_view").await;
            world.roll_back("shop.page_view", length - 2).await;
        };
        let (mut ended, ()) = tokio::join!(daemon.run(CancellationToken::new()), set_back);
        let error = ended.remove(&PipelineName::new("p")).expect("ended").expect_err("halts");
        assert!(error.to_string().contains("shop.page_view"), "{error}");
        asks(&error);
    });
}

/// A table as it was before anybody had written to it.
fn before_all(state: &TableState) -> TableState {
    let mut document = serde_json::to_value(state.metadata.as_ref()).expect("JSON");
    let made = document.as_object_mut().expect("an object");
    made.insert("last-sequence-number".to_owned(), 0.into());
    made.insert("properties".to_owned(), serde_json::json!({}));
    for what in ["snapshots", "refs", "current-snapshot-id", "snapshot-log", "statistics", "partition-statistics"] {
        made.remove(what);
    }
    let text = document.to_string();
    TableState::from_json(state.name.clone(), text.as_bytes(), None, HashMap::new()).expect("valid")
}

/// A replica that lags shows a table beside the anchor as it was before the pipeline had written there.
#[test]
fn a_catalog_that_answers_from_before_a_table_had_its_record_is_asked_again() {
    on_virtual_time(async {
        let (world, config) = routed(59).await;
        let state = world.state("shop.page_view").await;
        let past = before_all(&state);
        let catalog = Arc::new(FaultyCatalog::new(Arc::clone(&world.catalog), world.env.clone(), 0));
        let (env, storage, disk) = (world.env.clone(), world.storage.clone(), world.disk.clone());
        let lagging = World { env, storage, disk, catalog: catalog.clone() };
        let daemon = lagging.daemon(&config).await;
        let handle = daemon.shared().table("lake", &state.name).expect("a table");
        for known in [BTreeMap::new(), [(state.metadata.uuid().to_string(), 1)].into()] {
            catalog.answers_once(past.clone());
            let witnesses = if known.is_empty() { [state.metadata.uuid()].into() } else { BTreeSet::new() };
            let (pipeline, target) = (PipelineName::new("p"), MAIN.to_owned());
            let asker = Asker { pipeline, target, on_rollback: OnRollback::Halt, witnesses, known };
            let (current, standing) = handle.standing(asker).await.expect("asked again");
            assert!(matches!(standing, Standing::At(_)), "{standing:?}");
            assert_eq!(current.metadata.last_sequence_number(), state.metadata.last_sequence_number());
        }
        drop((handle, daemon));
        catalog.answers_once(past);
        lagging.ending(&config).await.expect("goes on");
        each_once(&world.positions(&SHOP).await, 900);
    });
}

/// Each answer names a decided epoch that another instance has finished, and whose object is gone.
#[test]
fn a_catalog_that_answers_from_before_an_epoch_was_finished_halts_nobody() {
    on_virtual_time(async {
        let (world, mut config) = routed(66).await;
        let past = world.state("shop.purchase").await;
        let record = Record::parse(past.property("frazil.checkpoint.p@main").expect("there")).expect("valid");
        let sealed = record.sealed.first().expect("the last epoch is forgotten with the next").clone();
        world.run(&config, None).await;
        assert!(!world.objects().await.contains(&sealed), "its object is gone");
        let catalog = Arc::new(FaultyCatalog::new(Arc::clone(&world.catalog), world.env.clone(), 0));
        for _ in 0..3 {
            catalog.answers_once(past.clone());
        }
        let (env, storage) = (world.env.clone(), world.storage.clone());
        let other = World { env, storage, disk: Arc::new(MemoryDisk::new()), catalog };
        rate(&mut config, 1_000, 130);
        other.ending(&config).await.expect("goes on");
        each_once(&world.positions(&SHOP).await, 1_000);
    });
}

/// An instance that saw no record of the anchor reads everything anew, and says so of a table that was rolled back. Its own epochs
/// are fenced, and nobody reads those rows again.
#[test]
fn what_an_instance_promised_that_began_at_nothing_loses_no_row_in_silence() {
    on_virtual_time(async {
        let (world, mut config) = routed(64).await;
        pipeline_of(&mut config).on_rollback = OnRollback::Rewind;
        world.roll_back("shop.page_view", 0).await;
        let catalog = Arc::new(FaultyCatalog::new(Arc::clone(&world.catalog), world.env.clone(), 0));
        catalog.answers_once(before_all(&world.state("shop.purchase").await));
        let (env, storage) = (world.env.clone(), world.storage.clone());
        let rival = World { env, storage, disk: Arc::new(MemoryDisk::new()), catalog };
        let error = rival.ending(&config).await.expect_err("halts");
        assert!(error.to_string().contains("shop.page_view"), "{error}");
        asks(&error);
        world.roll_back("shop.purchase", 0).await;
        world.run(&config, None).await;
        each_once(&world.positions(&SHOP).await, 900);
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
