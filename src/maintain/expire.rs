//! Which snapshots go. Pure: a function of the table, the policy and the time.
//!
//! Kept are, on each branch, the newest `min-snapshots-to-keep` and those that are younger than `max-snapshot-age-ms`; what
//! a tag names; what no ref reaches, while it is young (a commit may be on its way to it); and, on each branch, the newest
//! snapshot that carries a checkpoint of ours, with those between where the property does not tell. Source: Iceberg spec, "Snapshot Retention Policy"; docs/protocol.md, "Expiry".

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use iceberg::spec::SnapshotRetention;

use crate::commit::checkpoint::{Chain, RECORD_PREFIX};
use crate::commit::records::{self, VERSION_KEY};
use crate::error::{Error, ErrorKind, Result};
use crate::model::change::Removal;
use crate::model::ids::MAIN;
use crate::model::table::TableState;

/// Five days, as the reference implementation has it.
const AGE_DEFAULT_MS: i64 = 432_000_000;

/// How much history a table keeps.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Policy {
    /// `history.expire.max-snapshot-age-ms`: younger snapshots stay.
    pub age_ms: i64,
    /// `history.expire.min-snapshots-to-keep`: so many of each branch stay, however old.
    pub count_min: usize,
    /// `history.expire.max-ref-age-ms`: tags and branches (but `main`) whose snapshot is older go; `None`: they stay.
    pub ref_age_ms: Option<i64>,
}

impl Default for Policy {
    fn default() -> Self {
        Self { age_ms: AGE_DEFAULT_MS, count_min: 1, ref_age_ms: None }
    }
}

/// What a caller asks for instead of the table's own properties.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Wish {
    /// Instead of `history.expire.max-snapshot-age-ms`, and of what branches say of their own.
    pub age: Option<Duration>,
    /// Instead of `history.expire.min-snapshots-to-keep`, and of what branches say of their own.
    pub count_min: Option<usize>,
}

impl Policy {
    /// The policy of a table, which is the `usual` one where the table says nothing.
    ///
    /// # Errors
    /// `Config` for a property that is no number, or none that can be.
    pub fn of(state: &TableState, usual: &Self, wish: Wish) -> Result<Self> {
        let number = |key: &str| -> Result<Option<i64>> {
            let Some(text) = state.property(key) else { return Ok(None) };
            let read = text.trim().parse().ok().filter(|value: &i64| *value >= 0);
            read.map(Some).ok_or_else(|| {
                Error::new(ErrorKind::Config, format!("table {}: property {key} cannot be {text:?}", state.name))
                    .with_hint("set the table property to a valid number, or remove it")
            })
        };
        let wished = wish.age.map(|age| i64::try_from(age.as_millis()).unwrap_or(i64::MAX));
        let count = number("history.expire.min-snapshots-to-keep")?.and_then(|count| usize::try_from(count).ok());
        Ok(Self {
            age_ms: wished.or(number("history.expire.max-snapshot-age-ms")?).unwrap_or(usual.age_ms),
            count_min: wish.count_min.or(count).unwrap_or(usual.count_min).max(1),
            ref_age_ms: number("history.expire.max-ref-age-ms")?.or(usual.ref_age_ms),
        })
    }
}

/// What goes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Choice {
    /// Snapshots.
    pub snapshots: BTreeSet<i64>,
    /// Refs that are too old.
    pub refs: BTreeSet<String>,
}

impl Choice {
    /// Those of `ripe` that go, as a change of `state`; `None` when there is none.
    pub fn removal(&self, state: &TableState, ripe: impl Fn(i64) -> bool) -> Option<Removal> {
        let snapshots: BTreeSet<i64> = self.snapshots.iter().copied().filter(|id| ripe(*id)).collect();
        let refs = state.refs.iter().map(|(name, at)| (name.clone(), at.snapshot_id)).collect();
        (!snapshots.is_empty()).then_some(Removal { snapshots, refs })
    }
}

/// Chooses what goes from `state` at `now_ms`. `wish` says which words of branches about themselves are passed over.
///
/// # Errors
/// As `Chain::of`.
pub fn choose(state: &TableState, policy: &Policy, wish: Wish, now_ms: i64) -> Result<Choice> {
    let age = |id: i64| {
        let snapshot = state.metadata.snapshot_by_id(id);
        snapshot.map_or(0, |snapshot| now_ms.saturating_sub(snapshot.timestamp_ms()))
    };
    let mut choice = Choice::default();
    let mut kept: BTreeSet<i64> = state.metadata.current_snapshot_id().into_iter().collect();
    let mut reached = BTreeSet::new();
    for (name, reference) in state.refs.iter() {
        let id = reference.snapshot_id;
        let (own_age, branch) = match &reference.retention {
            SnapshotRetention::Tag { max_ref_age_ms } => (*max_ref_age_ms, None),
            SnapshotRetention::Branch { min_snapshots_to_keep, max_snapshot_age_ms, max_ref_age_ms } => {
                let count = min_snapshots_to_keep.and_then(|count| usize::try_from(count).ok());
                let count = wish.count_min.or(count).unwrap_or(policy.count_min).max(1);
                let age_ms = if wish.age.is_some() { None } else { *max_snapshot_age_ms };
                (*max_ref_age_ms, Some((count, age_ms.unwrap_or(policy.age_ms))))
            }
        };
        if name != MAIN && own_age.or(policy.ref_age_ms).is_some_and(|most| age(id) > most) {
            choice.refs.insert(name.clone());
            continue;
        }
        kept.insert(id);
        reached.insert(id);
        if let Some((count, age_ms)) = branch {
            let chain = Chain::of(state, name)?;
            reached.extend(chain.snapshots.iter().map(|s| s.snapshot_id()));
            let keep = |(at, s): &(usize, &i64)| *at < count || age(**s) <= age_ms;
            let ids: Vec<i64> = chain.snapshots.iter().map(|s| s.snapshot_id()).collect();
            kept.extend(ids.iter().enumerate().take_while(keep).map(|(_, id)| *id));
            for (key, at) in carriers(&chain, name) {
                // Where the property does not tell, as after a rollback, the way there is what a pipeline finds its place by.
                let way = if tells(state, &chain, key) { at } else { 0 };
                kept.extend(ids.get(way..=at).into_iter().flatten());
            }
        }
    }
    let unreached = |id: i64| !reached.contains(&id) && age(id) <= policy.age_ms;
    let all = state.metadata.snapshots().map(|s| s.snapshot_id());
    choice.snapshots = all.filter(|id| !kept.contains(id) && !unreached(*id)).collect();
    Ok(choice)
}

/// Where the newest snapshots of a branch stand that carry its checkpoints, by key. Ours carry all that were known, so the walk ends
/// at the first.
fn carriers<'a>(chain: &'a Chain, branch: &str) -> BTreeMap<&'a str, usize> {
    let suffix = format!("@{branch}");
    let mut found: BTreeMap<&str, usize> = BTreeMap::new();
    for (at, snapshot) in chain.snapshots.iter().enumerate() {
        let summary = &snapshot.summary().additional_properties;
        for key in summary.keys().filter(|key| key.starts_with(RECORD_PREFIX) && key.ends_with(&suffix)) {
            found.entry(key).or_insert(at);
        }
        if summary.contains_key(VERSION_KEY) {
            break;
        }
    }
    found
}

/// Whether the table's property says where this pipeline stands: it is there, can be read, and was not rolled back.
fn tells(state: &TableState, chain: &Chain, key: &str) -> bool {
    matches!(records::in_property(state, key), Ok(Some(record)) if !chain.has_lost(&record))
}

#[cfg(test)]
mod tests;
