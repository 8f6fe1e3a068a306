//! Rows whose schemas are in a registry, through the whole daemon: tables made and changed by what writers' schemas say.
#![cfg(test)]

use std::collections::VecDeque;
use std::sync::atomic::Ordering;

use arrow::array::{AsArray, RecordBatch};
use arrow::datatypes::Int64Type;
use async_trait::async_trait;
use bytes::Bytes;
use serde_json::{Value, json};

use super::tests::{World, config};
use super::*;
use crate::catalog::memory::MemoryCatalog;
use crate::config::RowFormat;
use crate::decode::registry::tests::{Shelf, serve};
use crate::model::batch::{RawBatch, RawRow};
use crate::model::checkpoint::{Checkpoint, Position, Range};
use crate::model::ids::{MAIN, PartitionId};
use crate::source::SourceEvent;
use crate::storage::disk::MemoryDisk;

/// Messages of one partition, in batches; its positions are offsets.
struct Messages {
    batches: Vec<Vec<Vec<u8>>>,
    left: VecDeque<(u64, Vec<Vec<u8>>)>,
}

#[async_trait]
impl Source for Messages {
    async fn open(&mut self, checkpoint: &Checkpoint) -> Result<()> {
        let partition = PartitionId::new("0");
        let after = match checkpoint.positions.get(&partition) {
            Some(Position::Offset(last)) => u64::try_from(*last).expect("positive") + 1,
            _ => 0,
        };
        let mut at = 0;
        self.left.clear();
        for batch in &self.batches {
            if at >= after {
                self.left.push_back((at, batch.clone()));
            }
            at += batch.len() as u64;
        }
        Ok(())
    }

    async fn next(&mut self) -> Result<SourceEvent> {
        let Some((first, rows)) = self.left.pop_front() else { return Ok(SourceEvent::End) };
        let (mut data, mut cut) = (Vec::new(), Vec::new());
        for (number, row) in (first..).zip(&rows) {
            let start = u32::try_from(data.len()).expect("small");
            data.extend_from_slice(row);
            let end = u32::try_from(data.len()).expect("small");
            cut.push(RawRow { start, end, number, ..RawRow::default() });
        }
        let last = first + rows.len() as u64 - 1;
        let offset = |at: u64| Position::Offset(at.cast_signed());
        Ok(SourceEvent::Batch(RawBatch {
            partition: PartitionId::new("0"),
            range: Range { from: first.checked_sub(1).map(offset), to: offset(last) },
            origin: "topic".into(),
            data: Bytes::from(data),
            rows: cut,
            rejects: Vec::new(),
            header: None,
            skipped: 0,
        }))
    }

    async fn release(&mut self, _: &Checkpoint) -> Result<()> {
        Ok(())
    }

    fn identity(&self) -> String {
        "messages".to_owned()
    }
}

/// A world on the system's clock, for a registry behind a socket.
fn world() -> World {
    let env = Env::system();
    let storage = Storage::new(StorageOptions::default(), env.clone());
    let catalog = Arc::new(MemoryCatalog::new(env.clone(), "memory:///wh"));
    World { env, storage, catalog, disk: Arc::new(MemoryDisk::new()) }
}

async fn settings() -> (Config, Arc<Shelf>) {
    let (url, shelf) = serve().await;
    let mut config = config("shop.rows", None, 1);
    let mut registry = crate::decode::registry::tests::config(&url);
    registry.connect_timeout = Duration::from_secs(5);
    registry.request_timeout = Duration::from_secs(5);
    config.registries.insert("sr".to_owned(), registry);
    let pipeline = config.pipelines.get_mut(&PipelineName::new("p")).expect("there");
    pipeline.decode.format = RowFormat::Avro;
    pipeline.decode.registry = Some("sr".to_owned());
    pipeline.create.partition.clear();
    pipeline.create.sort.clear();
    pipeline.metadata.clear();
    (config, shelf)
}

async fn run(world: &World, config: &Config, batches: Vec<Vec<Vec<u8>>>) {
    let mut daemon = world.daemon(config).await;
    daemon.pipelines[0].source = Box::new(Messages { batches, left: VecDeque::new() });
    let ended = daemon.run(CancellationToken::new()).await;
    assert!(ended.values().all(Result::is_ok), "{ended:?}");
}

fn schema(fields: &[(&str, Value)]) -> Value {
    let fields: Vec<Value> = fields.iter().map(|(name, kind)| json!({ "name": name, "type": kind })).collect();
    json!({ "type": "record", "name": "Row", "fields": fields })
}

fn message(id: u32, datum: &[u8]) -> Vec<u8> {
    [&[0][..], &id.to_be_bytes(), datum].concat()
}

/// The table's columns: name, type, and whether NULL is refused.
async fn columns(world: &World) -> Vec<String> {
    let state = world.catalog.load(&"shop.rows".parse().expect("a name")).await.expect("there");
    let fields = state.metadata.current_schema().as_struct().fields().to_vec();
    let shown = |field: &iceberg::spec::NestedFieldRef| {
        format!("{}: {}{}", field.name, field.field_type, if field.required { " not null" } else { "" })
    };
    fields.iter().map(shown).collect()
}

async fn ids(world: &World) -> Vec<i64> {
    let mut ids = Vec::new();
    for batch in world.read("shop.rows").await {
        let column =
            arrow::compute::cast(batch.column_by_name("id").expect("there"), &arrow::datatypes::DataType::Int64);
        ids.extend(column.expect("casts").as_primitive::<Int64Type>().values());
    }
    ids.sort_unstable();
    ids
}

#[tokio::test]
async fn a_writers_new_schema_changes_the_table_in_the_commit_of_its_first_rows() {
    let (config, shelf) = settings().await;
    let world = world();
    shelf.schema(1, &schema(&[("id", json!("int")), ("name", json!("string"))]));
    // Wider, one field gone, and two new ones.
    shelf.schema(
        2,
        &schema(&[
            ("id", json!("long")),
            ("tags", json!({ "type": "array", "items": "string" })),
            ("at", json!(["null", { "type": "long", "logicalType": "timestamp-micros" }])),
        ]),
    );
    let old = |id: u8| message(1, &[id * 2, 2, b'a']);
    run(&world, &config, vec![vec![old(1), old(2)]]).await;
    assert_eq!(columns(&world).await, ["id: int not null", "name: string not null"]);
    let new = |id: u8| message(2, &[id * 2, 2, 2, b'x', 0, 0]);
    // Both in one batch, as when writers change one after the other, and bad rows between them.
    let bad = [message(2, &[6]), message(77, &[6]), b"{}".to_vec()];
    let second = [vec![old(3), new(4)], bad.to_vec(), vec![old(5), new(6)]].concat();
    run(&world, &config, vec![vec![old(1), old(2)], second]).await;
    assert_eq!(columns(&world).await, ["id: long not null", "name: string", "at: timestamptz", "tags: list"]);
    assert_eq!(ids(&world).await, [1, 2, 3, 4, 5, 6]);
    let state = world.catalog.load(&"shop.rows".parse().expect("a name")).await.expect("there");
    let head = state.head(MAIN).expect("a head");
    assert_eq!(head.schema_id(), Some(state.metadata.current_schema_id()));
    assert_eq!(world.read("shop.rows__rejects").await.iter().map(RecordBatch::num_rows).sum::<usize>(), 3);
}

#[tokio::test]
async fn a_registry_that_is_away_is_waited_for_and_rejects_nothing() {
    let (config, shelf) = settings().await;
    let world = world();
    shelf.schema(1, &schema(&[("id", json!("int"))]));
    // Longer than a question is repeated, and than an id is doubted.
    shelf.away.store(9, Ordering::Relaxed);
    run(&world, &config, vec![vec![message(1, &[2]), message(1, &[4])]]).await;
    assert_eq!(ids(&world).await, [1, 2]);
    let rejects = world.catalog.load(&"shop.rows__rejects".parse().expect("a name")).await;
    assert_eq!(rejects.expect_err("none were made").kind(), ErrorKind::NotFound);
    assert_eq!(shelf.away.load(Ordering::Relaxed), 0);
}
