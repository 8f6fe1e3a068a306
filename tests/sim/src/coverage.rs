//! Everything that 2,000 seeds must meet, and what of it the gate's 400 meet already, in one place: an entry never met is a simulator that does not look there any more.

use std::collections::BTreeMap;

/// Seeds after which an entry that was never met is a failure.
pub const JUDGED_FROM: u64 = 2_000;
/// The same of what so few seeds meet: groups and topics, which no rare fault has a part in.
pub const EARLY_FROM: u64 = 400;
const EARLY: [&str; 2] = ["group × ", "topic × "];

/// What is expected, group by group: a prefix, and what follows it.
const EXPECTED: &[(&str, &[&str])] = &[
    (
        "catalog commit × ",
        &[
            "None",
            "AnswerLost",
            "RequestLost",
            "Refused",
            "OwnConflict",
            "Repeated",
            "Late",
            "Slow",
            "NotSent",
            "Throttled",
            "OddYes",
        ],
    ),
    (
        "catalog create × ",
        &["None", "AnswerLost", "RequestLost", "Refused", "OwnConflict", "Late", "NotSent", "Throttled"],
    ),
    ("catalog load × ", &["fails", "stale"]),
    ("store put × ", &["done, answer lost", "not done"]),
    ("store get × ", &["done, answer lost", "not done"]),
    ("store delete × ", &["done, answer lost", "not done"]),
    ("disk append × ", &["done, fails", "not done"]),
    ("disk sync × ", &["done, fails", "not done"]),
    // The state machine: what the last submission met, and what a look at the table then decided. `Late → Resubmit` cannot be:
    // a late request outlives its client's patience of 30 s, and a body of 30 s is prepared anew. `Lost` is maintenance's alone.
    (
        "look × ",
        &[
            "None → Prepare",
            "None → Fenced",
            "None → Rebuild",
            "None → Ours",
            "None → Done",
            "AnswerLost → Ours",
            "AnswerLost → Prepare",
            "AnswerLost → Fenced",
            "RequestLost → Resubmit",
            "RequestLost → Prepare",
            "RequestLost → Fenced",
            "Refused → Resubmit",
            "Refused → Prepare",
            "Refused → Fenced",
            "OwnConflict → Ours",
            "OwnConflict → Prepare",
            "OwnConflict → Fenced",
            "Late → Prepare",
            "Late → Ours",
            "Late → Fenced",
            "Late → Done",
            "OwnConflict → Done",
            "RequestLost → Done",
            "RequestLost → Rebuild",
            "OddYes → Prepare",
            "Slow → Done",
            "Slow → Prepare",
            "Slow → Fenced",
            "OddYes → Ours",
            "NotSent → Resubmit",
            "NotSent → Prepare",
            "Throttled → Resubmit",
            "Throttled → Prepare",
        ],
    ),
    (
        "checkpoint table × row ",
        &[
            "2 witness without record",
            "3 new",
            "4 no head",
            "5 same origin",
            "6 property absent",
            "7 property's snapshot is in",
            "8 cherry-picked",
            "9 halt",
            "9 rewind",
            "9 keep",
            "10 investigated",
            "10 live entry",
            "10 halt",
        ],
    ),
    // The conflict table: an append, and what others committed between its first submission and the one that landed.
    ("conflict table × Append × ", &["append", "row delta", "removal", "layout", "rollback"]),
    // The same of a replace; what voids it never lands: see `maintenance × lost`.
    ("conflict table × Replace × ", &["append", "row delta", "removal", "layout"]),
    // A removal of snapshots, and what came between the state that it was chosen on and its arrival.
    ("conflict table × RemoveSnapshots × ", &["append", "row delta", "removal", "layout", "rollback"]),
    ("replace × ", &["rows kept", "rows and their ids kept", "deletes carried over"]),
    // Rounds and verbs of processes of their own.
    (
        "maintenance × ",
        &[
            "compact done",
            "clean done",
            "clean waits",
            "manifests done",
            "expire done",
            "look waits",
            "round dies",
            "verb dies",
            "deletes remapped",
            "lost: by a look",
            "lost: rolled back",
            "rest",
        ],
    ),
    // A daemon's own jobs.
    ("jobs × ", &["compact done", "clean done", "clean waits", "manifests done", "expire done", "look waits"]),
    ("expirer × ", &["noted", "removed", "deleted", "crash"]),
    (
        "foreign ",
        &[
            "Append × done",
            "Compact × done",
            "Delete × done",
            "Overwrite × done",
            "Expire × done",
            "RollBack × done",
            "Reset × done",
            "AddColumn × done",
            "Tag × done",
            "Branch × done",
            "Property × done",
            "CleanDocuments × done",
            "CherryPick × done",
            "Spec × done",
            "DropColumn × done",
            "Recreate × done",
            "DropBranch × done",
            "DropTag × done",
            "DeletePositions × done",
            "DeletePositions × a vector instead of another",
            "DeleteKeys × done",
            "tags what is about to go × done",
            "adds the same columns at the same time × done",
            "adds another column at the same time × done",
        ],
    ),
    (
        "operator × ",
        &[
            "crash",
            "holds",
            "orderly end",
            "away for long",
            "rollback, then Keep",
            "rollback, then Rewind",
            "keep after all",
            "rollback with keep",
            "rollback with rewind",
            "checkpoint set, done",
            "checkpoint set, fenced",
            "accepts",
            "has looked at the rows",
            "goes on after a drop",
            "begins anew after a drop",
            "goes on without a branch",
            "pipeline given up",
            "passes over what is gone",
        ],
    ),
    // Instances that share a topic.
    (
        "group × ",
        &[
            "assigned",
            "revoked",
            "moves a partition while its owner commits",
            "hears of it late",
            "a partition goes and comes back",
            "a member never hears that it was without",
            "takes all and gives anew",
            "drops what it read before",
            "puts a member out",
            "finds itself put out",
            "three members",
            "two again after three",
            "one stays",
        ],
    ),
    // What topics go through.
    (
        "topic × ",
        &[
            "gives rows again",
            "a transaction outlasts all else",
            "rows go once they are in",
            "rows go unread",
            "what is gone is passed over",
            "what is asked for is no longer there",
            "loses rows that are in",
            "loses rows that are not in",
            "is known as another",
            "a record without a value is passed over",
        ],
    ),
    ("a table beside the anchor × ", &["idle for days"]),
    ("catalog × ", &["slow, throttled"]),
    ("rest × ", &["ledger empty"]),
];

/// Every expected entry with how often it was met.
pub fn table(met: &BTreeMap<String, u64>) -> Vec<(String, u64)> {
    let entries =
        EXPECTED.iter().flat_map(|(group, entries)| entries.iter().map(move |entry| format!("{group}{entry}")));
    entries.map(|entry| (met.get(&entry).copied().unwrap_or(0), entry)).map(|(times, entry)| (entry, times)).collect()
}

/// The entries that so many seeds should have met and have not.
pub fn missed(met: &BTreeMap<String, u64>, seeds: u64) -> Vec<String> {
    let early = |entry: &str| EARLY.iter().any(|group| entry.starts_with(group));
    let judged = |entry: &str| seeds >= JUDGED_FROM || (seeds >= EARLY_FROM && early(entry));
    let never = table(met).into_iter().filter(|(entry, times)| *times == 0 && judged(entry));
    never.map(|(entry, _)| entry).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_groups_and_topics_go_through_is_judged_by_the_gates_seeds_and_the_rest_by_more() {
        let none = BTreeMap::new();
        assert!(missed(&none, EARLY_FROM - 1).is_empty());
        let early = missed(&none, EARLY_FROM);
        assert!(early.contains(&"topic × rows go unread".to_owned()), "{early:?}");
        assert!(early.iter().all(|entry| EARLY.iter().any(|group| entry.starts_with(group))), "{early:?}");
        let all = table(&none).len();
        assert_eq!((missed(&none, JUDGED_FROM).len(), early.len() < all), (all, true));
        let met = BTreeMap::from([("group × assigned".to_owned(), 1)]);
        assert_eq!(missed(&met, JUDGED_FROM).len(), all - 1);
    }
}
