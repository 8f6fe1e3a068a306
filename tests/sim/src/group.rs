//! A log that members of a group share: partitions come and go, late, and for a while two members may hold the same one.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use frazil::config::ReplayConfig;
use frazil::env::Env;
use frazil::error::Result;
use frazil::model::checkpoint::Checkpoint;
use frazil::model::ids::PartitionId;
use frazil::source::replay::ReplaySource;
use frazil::source::{Source, SourceEvent};

use crate::world::World;

/// How long a member that says nothing keeps its partitions.
const SESSION: Duration = Duration::from_secs(45);
/// Whoever said something so short a time ago is there.
const THERE: Duration = Duration::from_secs(3);
/// How late a member may hear of what it lost and gained.
const LATE: Duration = Duration::from_secs(8);
/// How often a member that has nothing to read looks.
const LOOK: Duration = Duration::from_secs(1);
/// How many looks in a thousand find that the broker has moved a partition for no reason.
const MOVES: u64 = 15;

/// Who holds what.
#[derive(Debug, Default)]
pub struct Group {
    /// When each member was last heard of.
    members: BTreeMap<u64, Duration>,
    owners: BTreeMap<PartitionId, u64>,
    next: u64,
}

impl Group {
    /// A group of one log, of which nobody is a member.
    pub fn of(partitions: u32) -> Arc<Mutex<Self>> {
        let owners = (0..partitions).map(|number| (PartitionId::new(number.to_string()), 0)).collect();
        Arc::new(Mutex::new(Self { members: BTreeMap::new(), owners, next: 1 }))
    }

    fn held_by(&self, member: u64) -> BTreeSet<PartitionId> {
        self.owners.iter().filter(|(_, owner)| **owner == member).map(|(partition, _)| partition.clone()).collect()
    }

    /// Every partition has an owner who is there, and nobody has two more than another.
    fn balance(&mut self) {
        let count =
            |owners: &BTreeMap<PartitionId, u64>, member: u64| owners.values().filter(|o| **o == member).count();
        loop {
            let by_load = |member: &&u64| count(&self.owners, **member);
            let Some(least) = self.members.keys().min_by_key(by_load).copied() else { return };
            let most = self.members.keys().max_by_key(by_load).copied().unwrap_or(least);
            let orphan =
                self.owners.iter().find(|(_, owner)| !self.members.contains_key(owner)).map(|(p, _)| p.clone());
            let spare = count(&self.owners, most) > count(&self.owners, least) + 1;
            let moved = orphan.or_else(|| self.held_by(most).into_iter().next().filter(|_| spare));
            let Some(partition) = moved else { return };
            self.owners.insert(partition, least);
        }
    }
}

/// A member.
pub struct Member {
    world: Arc<World>,
    group: Arc<Mutex<Group>>,
    env: Env,
    rows: ReplaySource,
    id: Option<u64>,
    /// What it believes to hold, and from when on it knows better.
    holds: BTreeSet<PartitionId>,
    hears: Option<Duration>,
}

impl Member {
    /// One that has not joined.
    pub fn new(world: Arc<World>, group: Arc<Mutex<Group>>, config: &ReplayConfig, env: Env) -> Self {
        let rows = ReplaySource::new(config, env.clone());
        Self { world, group, env, rows, id: None, holds: BTreeSet::new(), hears: None }
    }

    fn group(&self) -> MutexGuard<'_, Group> {
        self.group.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Is heard of; whoever was not for long is put out. Says what it has lost or gained, once it hears of it.
    fn look(&mut self) -> Option<SourceEvent> {
        let now = self.world.clock.elapsed();
        let known = {
            let mut group = self.group();
            let id = match self.id.filter(|id| group.members.contains_key(id)) {
                Some(id) => id,
                None => {
                    group.next += 1;
                    group.next
                }
            };
            group.members.insert(id, now);
            group.members.retain(|_, heard| now.saturating_sub(*heard) < SESSION);
            if group.members.len() > 1 && self.world.env.below(1_000) < MOVES {
                let at = usize::try_from(self.world.env.below(group.owners.len() as u64)).unwrap_or(0);
                let member = *group.members.keys().next_back().unwrap_or(&id);
                if let Some(owner) = group.owners.values_mut().nth(at) {
                    *owner = member;
                }
            }
            group.balance();
            let known = group.held_by(id);
            drop(group);
            self.id = Some(id);
            known
        };
        if known == self.holds {
            self.hears = None;
            return None;
        }
        let late = self.world.time(LATE);
        if now < *self.hears.get_or_insert(now + late) {
            self.world.cover("group × hears of it late");
            return None;
        }
        let lost: Vec<PartitionId> = self.holds.difference(&known).cloned().collect();
        if !lost.is_empty() {
            self.holds.retain(|partition| !lost.contains(partition));
            self.world.cover("group × revoked");
            return Some(SourceEvent::Revoked(lost));
        }
        let gained: Vec<PartitionId> = known.difference(&self.holds).cloned().collect();
        (self.holds, self.hears) = (known, None);
        self.world.cover("group × assigned");
        Some(SourceEvent::Assigned(gained))
    }

    /// Whether it may end: when it holds everything, or when it leaves what it holds to a member that stays until it does. The one
    /// that was there first stays.
    fn may_end(&mut self) -> bool {
        let mut group = self.group();
        let first = group.members.keys().next().copied();
        let mine =
            group.owners.iter().all(|(partition, owner)| Some(*owner) == self.id && self.holds.contains(partition));
        let now = self.world.clock.elapsed();
        let there =
            first.and_then(|id| group.members.get(&id)).is_some_and(|heard| now.saturating_sub(*heard) <= THERE);
        let leaves = first != self.id && self.id.is_some() && there;
        if let Some(id) = self.id.filter(|_| leaves) {
            group.members.remove(&id);
            group.balance();
        }
        drop(group);
        if leaves {
            self.id = None;
        }
        mine || leaves
    }
}

#[async_trait]
impl Source for Member {
    async fn open(&mut self, checkpoint: &Checkpoint) -> Result<()> {
        self.rows.open(checkpoint).await
    }

    async fn next(&mut self) -> Result<SourceEvent> {
        loop {
            if let Some(event) = self.look() {
                return Ok(event);
            }
            let event = tokio::select! {
                biased;
                event = self.rows.next() => event?,
                () = self.env.sleep(LOOK) => continue,
            };
            match event {
                // Of what it does not hold it has no place to read from.
                SourceEvent::Batch(batch) if !self.holds.contains(&batch.partition) => {}
                SourceEvent::End if !self.may_end() => self.env.sleep(LOOK).await,
                event => return Ok(event),
            }
        }
    }

    async fn release(&mut self, checkpoint: &Checkpoint) -> Result<()> {
        self.rows.release(checkpoint).await
    }

    fn identity(&self) -> String {
        self.rows.identity()
    }
}

impl Drop for Member {
    /// Half of them say that they go; the others are missed.
    fn drop(&mut self) {
        if let Some(id) = self.id.filter(|_| self.world.env.below(2) == 0) {
            self.group().members.remove(&id);
        }
    }
}
