//! The part of the logs that is looked at.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::RangeInclusive;

use crate::model::checkpoint::{Position, Positions};

/// Logs, and offsets of them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Window {
    /// These logs alone, by name or by what follows the last `/` of it; all when empty.
    pub only: Vec<String>,
    /// The first offset.
    pub from: Ends,
    /// The last one.
    pub to: Ends,
}

/// Where all logs begin or end, and single ones by name, which have the say.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Ends {
    /// All.
    pub all: Option<u64>,
    /// By name.
    pub own: BTreeMap<String, u64>,
}

impl Ends {
    /// Of this log.
    pub fn of(&self, log: &str) -> Option<u64> {
        self.own.get(log).copied().or(self.all)
    }

    /// Begins after these positions, where it does not begin somewhere already.
    pub fn after(&mut self, positions: &Positions) {
        for (log, position) in positions {
            if let Position::Offset(offset) = position
                && let Ok(next) = u64::try_from(offset.saturating_add(1))
            {
                self.own.entry(log.to_string()).or_insert(next);
            }
        }
    }
}

impl Window {
    /// Whether a log is looked at.
    pub fn has(&self, log: &str) -> bool {
        self.only.is_empty() || self.only.iter().any(|only| is_meant(only, log))
    }

    /// The logs that are named and are none of these: what is asked of them is not answered by silence.
    pub(super) fn unmatched(&self, logs: &BTreeSet<&String>) -> Vec<&String> {
        let ends = self.from.own.keys().chain(self.to.own.keys()).filter(|log| self.has(log) && !logs.contains(log));
        let ends: Vec<&String> = ends.collect();
        let any = |only: &&String| logs.iter().chain(&ends).any(|log| is_meant(only, log));
        let only: Vec<&String> = self.only.iter().filter(|only| !any(only)).collect();
        ends.into_iter().chain(only).collect()
    }

    /// The offsets of a log that are looked at; none of one that is not.
    pub(super) fn of(&self, log: &str) -> Option<RangeInclusive<u64>> {
        let (from, to) = (self.from.of(log).unwrap_or(0), self.to.of(log).unwrap_or(u64::MAX));
        (self.has(log) && from <= to).then_some(from..=to)
    }

    /// Offsets of which any log may have some in the window.
    pub(super) fn hull(&self) -> RangeInclusive<u64> {
        let from = self.from.all.map_or(0, |all| self.from.own.values().copied().fold(all, u64::min));
        let to = self.to.all.map_or(u64::MAX, |all| self.to.own.values().copied().fold(all, u64::max));
        from..=to
    }
}

/// Whether `only` is a log's name, or what follows the last `/` of it.
fn is_meant(only: &str, log: &str) -> bool {
    only == log || log.rsplit_once('/').is_some_and(|(_, last)| only == last)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_window_is_of_the_logs_and_offsets_that_it_names() {
        let mut window = Window { only: vec!["orders/1".to_owned(), "7".to_owned()], ..Window::default() };
        assert!(window.has("orders/1") && window.has("a/b/7") && window.has("7"));
        assert!(!window.has("orders/17") && !window.has("orders/0"));
        window.from = Ends { all: Some(10), own: BTreeMap::from([("orders/1".to_owned(), 3)]) };
        window.to.all = Some(20);
        assert_eq!(window.of("orders/1"), Some(3..=20));
        assert_eq!(window.of("x/7"), Some(10..=20));
        assert_eq!(window.of("orders/0"), None);
        assert_eq!(window.hull(), 3..=20);
        window.from.all = None;
        assert_eq!(window.hull(), 0..=20);
    }
}
