//! A consumer group: who holds which partition, who is told of it and when, and who is taken for dead.
//!
//! Partitions go where the group says at once; who had them and who has them now hear of it late, each in their own time. So for a
//! while two may believe that a partition is theirs, or nobody, and one that is held hears of nothing.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use frazil::model::ids::PartitionId;

use crate::process::Process;
use crate::topic;
use crate::world::World;

/// How long a member that says nothing keeps its partitions.
const SESSION: Duration = Duration::from_secs(45);
/// How late a member may hear of what it lost and gained.
const LATE: Duration = Duration::from_secs(8);
/// How many looks in a thousand find that the group has moved a partition for no reason.
const MOVES: u64 = 8;
/// The same while its owner's commit is under way.
const MOVES_MID_COMMIT: u64 = 60;

/// What a member hears.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// These are its own from now on.
    Gained(Vec<PartitionId>),
    /// These are no longer.
    Lost(Vec<PartitionId>),
}

/// One that has joined.
#[derive(Debug)]
struct Joined {
    process: Arc<Process>,
    /// Whether its source is there.
    source: Weak<()>,
    /// When it was last heard of.
    heard: Duration,
    /// What it has yet to hear, and when it does.
    news: VecDeque<(Duration, Change)>,
}

impl Joined {
    /// Whether it answers the group now.
    fn is_there(&self) -> bool {
        self.process.runs() && self.source.strong_count() > 0
    }
}

/// Who holds what.
#[derive(Debug, Default)]
pub struct Group {
    members: BTreeMap<u64, Joined>,
    owners: BTreeMap<PartitionId, u64>,
    next: u64,
    /// Whether a rebalance takes everything away from everybody.
    eager: bool,
    most: usize,
}

/// One that all members share.
pub type SharedGroup = Arc<Mutex<Group>>;

/// A group that others hold, too.
pub fn lock(group: &SharedGroup) -> MutexGuard<'_, Group> {
    group.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Group {
    /// A group of one log, of which nobody is a member.
    pub fn of(partitions: usize, eager: bool) -> SharedGroup {
        let owners = (0..partitions).map(|number| (topic::id(number), 0)).collect();
        Arc::new(Mutex::new(Self { owners, eager, ..Self::default() }))
    }

    /// The source of a process joins. Its name among the members.
    pub fn join(&mut self, world: &World, process: &Arc<Process>, source: &Arc<()>) -> u64 {
        self.next += 1;
        let heard = world.clock.elapsed();
        let (process, source) = (Arc::clone(process), Arc::downgrade(source));
        self.members.insert(self.next, Joined { process, source, heard, news: VecDeque::new() });
        if self.most > 2 && self.members.len() == 2 {
            world.cover("group × two again after three");
        }
        self.most = self.most.max(self.members.len());
        if self.members.len() > 2 {
            world.cover("group × three members");
        }
        self.balance(world);
        self.next
    }

    /// A member goes, and says so.
    pub fn leave(&mut self, world: &World, member: u64) {
        if self.members.remove(&member).is_some() {
            if self.members.len() == 1 {
                world.cover("group × one stays");
            }
            self.balance(world);
        }
    }

    /// Whether the group still knows a member.
    pub fn knows(&self, member: u64) -> bool {
        self.members.contains_key(&member)
    }

    /// Time has passed: whoever was not heard of for long is put out, and partitions move for no reason.
    pub fn passes(&mut self, world: &World) {
        let now = world.clock.elapsed();
        for member in self.members.values_mut().filter(|member| member.is_there()) {
            member.heard = now;
        }
        let before = self.members.len();
        self.members.retain(|_, member| now.saturating_sub(member.heard) < SESSION);
        if self.members.len() < before {
            world.cover("group × puts a member out");
            self.balance(world);
        }
        if self.members.len() < 2 || world.is_calm() {
            return;
        }
        let committing = |owner: &u64| self.members.get(owner).is_some_and(|member| member.process.is_committing());
        let mut held: Vec<PartitionId> =
            self.owners.iter().filter(|(_, owner)| committing(owner)).map(|(partition, _)| partition.clone()).collect();
        let (mid_commit, chance) = if held.is_empty() { (false, MOVES) } else { (true, MOVES_MID_COMMIT) };
        if world.env.below(1_000) < chance && world.step() {
            if mid_commit {
                world.cover("group × moves a partition while its owner commits");
            } else {
                held = self.owners.keys().cloned().collect();
            }
            self.moves(world, &held);
        }
    }

    /// One of these partitions goes to another member for no reason; it may come back at once.
    fn moves(&mut self, world: &World, partitions: &[PartitionId]) {
        let draw = |count: usize| usize::try_from(world.env.below(count as u64)).unwrap_or(0);
        let Some(partition) = partitions.get(draw(partitions.len())).cloned() else { return };
        let from = self.owners.get(&partition).copied().unwrap_or(0);
        let others: Vec<u64> = self.members.keys().copied().filter(|member| *member != from).collect();
        let Some(to) = others.get(draw(others.len())).copied() else { return };
        let (lost, gained) = (Change::Lost(vec![partition.clone()]), Change::Gained(vec![partition.clone()]));
        match world.env.below(4) {
            0 | 1 => {
                self.owners.insert(partition, to);
                self.tell(world, from, lost);
                self.tell(world, to, gained);
            }
            told => {
                world.cover("group × a partition goes and comes back");
                self.tell(world, to, gained.clone());
                self.tell(world, to, lost.clone());
                if told == 2 {
                    self.tell(world, from, lost);
                    self.tell(world, from, gained);
                } else {
                    world.cover("group × a member never hears that it was without");
                }
            }
        }
    }

    fn tell(&mut self, world: &World, member: u64, change: Change) {
        let Some(member) = self.members.get_mut(&member) else { return };
        let at = world.clock.elapsed() + world.time(LATE);
        let at = member.news.back().map_or(at, |(before, _)| at.max(*before));
        member.news.push_back((at, change));
    }

    fn held_by(&self, member: u64) -> BTreeSet<PartitionId> {
        self.owners.iter().filter(|(_, owner)| **owner == member).map(|(partition, _)| partition.clone()).collect()
    }

    /// Every partition has an owner who is there, and nobody has two more than another.
    fn balance(&mut self, world: &World) {
        let before = self.owners.clone();
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
            let Some(partition) = moved else { break };
            self.owners.insert(partition, least);
        }
        if before == self.owners {
            return;
        }
        let had = |member| -> BTreeSet<&PartitionId> {
            before.iter().filter(|(_, owner)| **owner == member).map(|(partition, _)| partition).collect()
        };
        let members: Vec<u64> = self.members.keys().copied().collect();
        for member in members {
            let (had, has) = (had(member), self.held_by(member));
            let (lost, gained): (Vec<_>, Vec<_>) = if self.eager {
                world.cover("group × takes all and gives anew");
                (had.iter().map(|p| (*p).clone()).collect(), has.into_iter().collect())
            } else {
                let lost = had.iter().filter(|p| !has.contains(**p)).map(|p| (*p).clone()).collect();
                (lost, has.into_iter().filter(|p| !had.contains(p)).collect())
            };
            if !lost.is_empty() {
                self.tell(world, member, Change::Lost(lost));
            }
            if !gained.is_empty() {
                self.tell(world, member, Change::Gained(gained));
            }
        }
    }

    /// What a member hears next, once it is time.
    pub fn news(&mut self, world: &World, member: u64) -> Option<Change> {
        let member = self.members.get_mut(&member)?;
        let (at, _) = member.news.front()?;
        if *at > world.clock.elapsed() {
            world.cover("group × hears of it late");
            return None;
        }
        member.news.pop_front().map(|(_, change)| change)
    }

    /// Whether a member that has read all it holds may end: when it holds everything, or when it leaves what it holds to a member
    /// that stays until it does. The one that was there first stays.
    pub fn may_end(&mut self, world: &World, member: u64, holds: &BTreeSet<PartitionId>) -> bool {
        let Some(own) = self.members.get(&member) else { return false };
        let all = own.news.is_empty()
            && self.owners.iter().all(|(partition, owner)| *owner == member && holds.contains(partition));
        let first = self.members.iter().next();
        let there = first.is_some_and(|(id, first)| *id != member && first.is_there());
        if there && !all {
            self.leave(world, member);
        }
        all || there
    }
}
