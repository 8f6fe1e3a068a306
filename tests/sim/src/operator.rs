//! What an operator says to a table: `frazil checkpoint set` and `accept`, and a rollback with its two ways to go on.

use std::collections::BTreeMap;
use std::sync::Arc;

use frazil::commit::checkpoint::{Chain, edited, record_key};
use frazil::commit::protocol::{Commit, Committer, Ending};
use frazil::commit::standing::{carried, newest};
use frazil::env::Env;
use frazil::model::change::{Append, Change, Data, OnRollback, OperatorEdit, PipelineDelta};
use frazil::model::checkpoint::{Checkpoint, Delta, Record};
use frazil::model::ids::{MAIN, PipelineName, TableName};
use frazil::storage::{Storage, StorageOptions};
use tokio_util::sync::CancellationToken;

use crate::catalog::NetworkCatalog;
use crate::foreign::{self, Deed};
use crate::process::{Process, ProcessClock};
use crate::run;
use crate::scenario::Scenario;
use crate::store::NetworkStore;
use crate::world::{World, key};

/// What an operator's commits are told by.
pub const NAME: &str = "op";

/// How often an operator looks at a table that answers from the past.
const LOOKS: usize = 8;

/// What stands where an operator looks.
struct Seen {
    committer: Committer,
    state: frazil::model::table::TableState,
    text: Option<String>,
}

impl Seen {
    async fn of(world: &Arc<World>, table: &TableName, pipeline: &str) -> Option<Self> {
        let process = Process::new(NAME.to_owned(), u64::MAX);
        let clock = ProcessClock { process: Arc::clone(&process), clock: world.clock };
        let env = Env::simulated(Arc::new(clock), world.env.bits());
        let storage = Storage::new(StorageOptions { stores: vec![], requests_max: 4, retries: 3 }, env.clone());
        storage.mount("memory:///", Arc::new(NetworkStore::new(Arc::clone(world), Arc::clone(&process))));
        let catalog = Arc::new(NetworkCatalog::new(Arc::clone(world), process));
        let mut committer = Committer::new(env, catalog, storage, None, table.clone(), NAME.to_owned());
        let state = committer.load().await.ok()?;
        let key = record_key(&PipelineName::new(pipeline), &world.target);
        let text = state.property(&key).map(str::to_owned);
        Some(Self { committer, state, text })
    }

    fn record(&self) -> Option<Record> {
        Record::parse(self.text.as_deref()?).ok()
    }

    /// How far each table beside its anchor is, looked at until it is no answer from the past. `None` when that takes too long.
    async fn beside(world: &Arc<World>, anchor: &TableName, pipeline: &str) -> Option<BTreeMap<String, i64>> {
        let tables: Vec<TableName> =
            world.with_auditor(|a| a.tables.keys().filter(|t| *t != anchor).cloned().collect());
        let mut known = BTreeMap::new();
        for table in tables {
            let Some(least) = world.with_auditor(|a| a.record_now(&table, pipeline)).map(|truth| truth.known_seq())
            else {
                continue;
            };
            let mut found = None;
            for _ in 0..LOOKS {
                let Some(seen) = Self::of(world, &table, pipeline).await else { continue };
                let name = PipelineName::new(pipeline);
                let Ok(newest) = newest(seen.committer.storage(), &seen.state, &name, &world.target).await else {
                    continue;
                };
                found = newest.map(|record| (seen.state.metadata.uuid().to_string(), record.known_seq()));
                if found.as_ref().is_some_and(|(_, seq)| *seq >= least) {
                    break;
                }
            }
            known.extend([found.filter(|(_, seq)| *seq >= least)?]);
        }
        Some(known)
    }

    /// As `frazil checkpoint set` does it: the sealed epochs that are decided stay so, and an anchor knows the tables beside it.
    async fn set(mut self, world: &Arc<World>, pipeline: &str, positions: Checkpoint, drop_sealed: bool) -> bool {
        let name = PipelineName::new(pipeline);
        let own = record_key(&name, &world.target);
        let property = self.record();
        let storage = self.committer.storage();
        let Ok(ancestor) = carried(storage, &self.state, &name, &world.target).await else { return false };
        let Ok(chain) = Chain::of(&self.state, &world.target) else { return false };
        let (held, mut sealed) = edited(&chain, property.as_ref(), ancestor.as_ref(), &positions.positions);
        let followers = held.iter().flat_map(|r| r.checkpoint.followers.iter().cloned()).collect();
        let known = held.iter().flat_map(|r| r.checkpoint.known.clone()).collect();
        if drop_sealed {
            sealed.clear();
        }
        for location in held.iter().flat_map(|r| &r.sealed).filter(|location| !sealed.contains(location)) {
            let files = run::files_of(world, &key(location)).await;
            world.with_auditor(|a| a.forgotten.extend(files));
        }
        let mut witness = Checkpoint { tails: BTreeMap::new(), followers, known, ..positions };
        let name = self.state.name.clone();
        if world.with_auditor(|a| a.pipelines.iter().any(|p| p.name == pipeline && p.anchor == name)) {
            let Some(beside) = Self::beside(world, &name, pipeline).await else { return false };
            for (follower, seq) in beside {
                witness.knows(&follower, seq);
                witness.followers.insert(follower);
            }
        }
        let mut change = Change::new(world.env.snapshot_id());
        change.target.clone_from(&world.target);
        change.data = Some(Data::Append(Append {
            files: vec![],
            schema: Arc::clone(self.state.metadata.current_schema()),
            spec_id: self.state.metadata.default_partition_spec_id(),
        }));
        change.delta = Some(PipelineDelta {
            pipeline: PipelineName::new(pipeline),
            delta: Delta::default(),
            witness,
            on_rollback: OnRollback::Halt,
            follows: None,
            known_seq: 0,
            sealed,
            finished: vec![],
            operator: Some(OperatorEdit::of(&self.state, &own, &world.target)),
        });
        let mut commit = Commit::new(change);
        let ending = self.committer.run(&mut commit, &self.state, &CancellationToken::new()).await;
        let what = match &ending {
            Ok(Ending::Done { .. }) => "done",
            Ok(Ending::Fenced(_)) => "fenced",
            Ok(_) => "not done",
            Err(_) => "refused",
        };
        world.note(NAME, &format!("checkpoint of {pipeline} in {} set: {what}", self.state.name));
        world.cover(format!("operator × checkpoint set, {what}"));
        let done = matches!(ending, Ok(Ending::Done { .. }));
        if done {
            world.with_auditor(|a| a.accepted(&self.state.name, pipeline));
        }
        done
    }
}

/// A rollback of a table to which pipelines decide their epochs, and the word on how to go on.
pub async fn roll_back(world: &Arc<World>, table: &TableName, keep: bool) -> Option<()> {
    let pipelines: Vec<String> = world.with_auditor(|a| {
        let here = a.pipelines.iter().filter(|p| p.anchor == *table);
        here.map(|p| p.name.clone()).collect()
    });
    if pipelines.is_empty() {
        return None;
    }
    foreign::act(world, table, Deed::RollBack).await?;
    let word = if keep { "keep" } else { "rewind" };
    for pipeline in pipelines {
        world.note(NAME, &format!("{table} was rolled back: {word} for {pipeline}"));
        let Some(seen) = Seen::of(world, table, &pipeline).await else { continue };
        let Some(held) = seen.record() else { continue };
        let positions = if keep {
            world.with_auditor(|a| a.accept(table, &pipeline));
            held.checkpoint
        } else {
            // What a load shows may be older than the rollback.
            match world.with_auditor(|a| a.record_now(table, &pipeline)) {
                Some(record) => record.checkpoint,
                None => continue,
            }
        };
        if seen.set(world, &pipeline, positions, false).await {
            world.cover(format!("operator × rollback with {word}"));
        }
    }
    Some(())
}

/// `held`, with the larger position of each partition.
fn further(held: Checkpoint, record: Record) -> Checkpoint {
    let Checkpoint { mut positions, .. } = held;
    for (partition, at) in &record.checkpoint.positions {
        if !positions.get(partition).is_some_and(|held| held.covers(at)) {
            positions.insert(partition.clone(), at.clone());
        }
    }
    Checkpoint { positions, ..record.checkpoint }
}

/// The way out of a halt that its hint names, where there is one that a program can take.
pub async fn way_out(world: &Arc<World>, scenario: &Scenario, pipeline: &str, why: &str) -> bool {
    let Some((_, anchor, _)) = scenario.pipelines().into_iter().find(|(name, _, _)| *name == pipeline) else {
        return false;
    };
    let known = scenario.tables();
    let mentioned = why.split(|c: char| !(c.is_ascii_alphanumeric() || matches!(c, '.' | '_')));
    let mentioned = mentioned.filter_map(|word| known.iter().find(|table| table.to_string() == word));
    let table = if why.contains("knows of none") || why.contains("the sealed epoch") {
        &anchor
    } else {
        mentioned.into_iter().next().unwrap_or(&anchor)
    };
    let Some(seen) = Seen::of(world, table, pipeline).await else { return false };
    let old = world.with_auditor(|a| a.dropped_record(table, pipeline));
    let begun_again = world.with_auditor(|a| a.record_now(table, pipeline)).is_some();
    let dropped = world.with_auditor(|a| a.is_dropped(table)) && !begun_again;
    let (what, checkpoint) = if dropped && seen.text.is_none() {
        if *table == anchor && !scenario.seals() && world.happens(50) {
            (
                "begins anew after a drop",
                Checkpoint { positions: BTreeMap::new(), ..old.map(|record| record.checkpoint).unwrap_or_default() },
            )
        } else {
            // A table beside the anchor goes on where the anchor is, past every epoch that is decided.
            let beside = *table != anchor;
            let now = world.with_auditor(|a| a.record_now(&anchor, pipeline)).filter(|_| beside);
            world.with_auditor(|a| {
                a.accept(table, pipeline);
                a.accept_gaps(pipeline, old.as_ref().filter(|_| !beside));
            });
            ("goes on after a drop", now.or(old).map(|record| record.checkpoint).unwrap_or_default())
        }
    } else if why.contains("knows of none") {
        let furthest = world.with_auditor(|a| {
            a.accept(table, pipeline);
            let furthest = a.furthest(table, pipeline);
            // Rejects of an epoch that was decided in a table dropped since were never there, and nobody writes them any more.
            a.accept_gaps(pipeline, furthest.as_ref());
            furthest
        });
        ("goes on where it was", furthest.map(|record| record.checkpoint).unwrap_or_default())
    } else if seen.state.head(&world.target).is_none() {
        world.with_auditor(|a| a.accept(table, pipeline));
        let old = seen.record().or_else(|| world.with_auditor(|a| a.headless_record(table, pipeline)));
        // A new branch begins with what main has, rows of the dropped one included.
        let begun = seen.state.head(MAIN).map(|main| main.snapshot_id());
        let begun = begun.and_then(|main| world.with_auditor(|a| a.record_at(table, main, pipeline)));
        if *table == anchor {
            // Whoever sets an anchor's positions looks at all of its tables: nobody else knows any more how far they were.
            for record in old.iter().chain(&begun) {
                world.with_auditor(|a| a.accept_gaps(pipeline, Some(record)));
            }
        }
        ("goes on without a branch", old.into_iter().chain(begun).fold(Checkpoint::default(), further))
    } else if why.contains("rolled back")
        && let Some(held) = seen.record()
    {
        world.with_auditor(|a| a.accept(table, pipeline));
        ("accepts", held.checkpoint)
    } else {
        // Whoever looks at the rows finds out.
        let Some(truth) = world.with_auditor(|a| a.record_now(table, pipeline)) else { return false };
        if why.contains("the sealed epoch") {
            world.with_auditor(|a| a.accept_gaps(pipeline, None)); // he forgets it
        }
        if *table != anchor {
            // What it has lost is not read again: the source is where the anchor is.
            world.with_auditor(|a| a.accept(table, pipeline));
        }
        ("has looked at the rows", truth.checkpoint)
    };
    world.note(NAME, &format!("{what}: {pipeline} in {table} at {:?}", checkpoint.positions));
    let done = seen.set(world, pipeline, checkpoint, why.contains("the sealed epoch")).await;
    if done {
        world.cover(format!("operator × {what}"));
    }
    done
}
