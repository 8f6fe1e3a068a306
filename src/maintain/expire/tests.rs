use std::collections::HashMap;

use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;

const DAY: i64 = 86_400_000;
const NOW: i64 = 1_000 * DAY;

/// A table whose snapshots are `(id, parent, days old, keys of its summary)`.
fn table(
    snapshots: &[(i64, Option<i64>, i64, &[&str])],
    refs: &[(&str, Value)],
    properties: &[(&str, &str)],
) -> TableState {
    let snapshots: Vec<Value> = snapshots
        .iter()
        .enumerate()
        .map(|(seq, (id, parent, age, keys))| {
            let mut summary = json!({"operation": "append"});
            keys.iter().for_each(|key| summary[*key] = json!("1"));
            let mut snapshot = json!({
                "snapshot-id": id, "sequence-number": seq + 1, "timestamp-ms": NOW - age * DAY,
                "manifest-list": format!("memory:///t/{id}.avro"), "summary": summary, "schema-id": 0,
            });
            if let Some(parent) = parent {
                snapshot["parent-snapshot-id"] = json!(parent);
            }
            snapshot
        })
        .collect();
    let refs: serde_json::Map<String, Value> = refs.iter().map(|(name, at)| ((*name).to_owned(), at.clone())).collect();
    let current = refs.get("main").map_or(json!(-1), |main| main["snapshot-id"].clone());
    let document = json!({
        "format-version": 2, "table-uuid": "9c12d441-03fe-4693-9a96-a0705ddf69c1", "location": "memory:///t",
        "last-sequence-number": snapshots.len(), "last-updated-ms": NOW, "last-column-id": 1,
        "current-schema-id": 0, "schemas": [{"type": "struct", "schema-id": 0, "fields": [
            {"id": 1, "name": "n", "required": false, "type": "long"}]}],
        "default-spec-id": 0, "partition-specs": [{"spec-id": 0, "fields": []}], "last-partition-id": 999,
        "default-sort-order-id": 0, "sort-orders": [{"order-id": 0, "fields": []}],
        "properties": properties.iter().copied().collect::<HashMap<_, _>>(),
        "current-snapshot-id": current, "refs": refs, "snapshots": snapshots,
    });
    let name = "ns.t".parse().expect("a name");
    TableState::from_json(name, document.to_string().as_bytes(), None, HashMap::new()).expect("metadata")
}

fn branch(id: i64) -> Value {
    json!({"snapshot-id": id, "type": "branch"})
}

fn goes(state: &TableState, wish: Wish) -> (Vec<i64>, Vec<String>) {
    let policy = Policy::of(state, &Policy::default(), wish).expect("valid");
    let choice = choose(state, &policy, wish, NOW).expect("a line of parents");
    (choice.snapshots.into_iter().collect(), choice.refs.into_iter().collect())
}

fn days(days: u64) -> Wish {
    Wish { age: Some(Duration::from_secs(days * 86_400)), count_min: None }
}

/// Snapshots 1 to 6, the newest the head, each a day older than the next.
fn line() -> Vec<(i64, Option<i64>, i64, &'static [&'static str])> {
    (1..=6).map(|id| (id, (id > 1).then_some(id - 1), 6 - id, &[] as &[&str])).collect()
}

#[test]
fn age_and_count_decide_and_the_larger_history_wins() {
    let main = [("main", branch(6))];
    assert_eq!(goes(&table(&line(), &main, &[]), Wish::default()).0, Vec::<i64>::new());
    assert_eq!(goes(&table(&line(), &main, &[]), days(2)).0, [1, 2, 3]);
    assert_eq!(goes(&table(&line(), &main, &[]), Wish { count_min: Some(5), ..days(2) }).0, [1]);
    let short = [("history.expire.max-snapshot-age-ms", "86400000"), ("history.expire.min-snapshots-to-keep", "3")];
    assert_eq!(goes(&table(&line(), &main, &short), Wish::default()).0, [1, 2, 3]);
}

#[test]
fn a_branch_has_its_own_words_and_a_tag_keeps_its_snapshot() {
    let own = json!({"snapshot-id": 6, "type": "branch", "min-snapshots-to-keep": 2, "max-snapshot-age-ms": 1});
    let tag = json!({"snapshot-id": 2, "type": "tag"});
    let state = table(&line(), &[("main", own), ("kept", tag)], &[]);
    assert_eq!(goes(&state, Wish::default()).0, [1, 3, 4]);
    assert_eq!(goes(&state, Wish { count_min: Some(1), age: Some(Duration::ZERO) }).0, [1, 3, 4, 5]);
}

#[test]
fn refs_that_are_too_old_go_with_what_only_they_reach_and_main_stays() {
    let old = json!({"snapshot-id": 1, "type": "tag", "max-ref-age-ms": DAY});
    let state = table(&line(), &[("main", branch(6)), ("old", old)], &[("history.expire.max-ref-age-ms", "1")]);
    let (snapshots, refs) = goes(&state, days(0));
    assert_eq!((snapshots, refs), (vec![1, 2, 3, 4, 5], vec!["old".to_owned()]));
}

#[test]
fn what_no_ref_reaches_stays_while_it_is_young() {
    let mut snapshots = line();
    snapshots.push((7, Some(3), 1, &[]));
    snapshots.push((8, Some(3), 4, &[]));
    let state = table(&snapshots, &[("main", branch(6))], &[]);
    assert_eq!(goes(&state, days(2)).0, [1, 2, 3, 8]);
}

#[test]
fn the_newest_carrier_of_each_checkpoint_stays() {
    let (a, b) = ("frazil.checkpoint.a@main", "frazil.checkpoint.b@main");
    let snapshots: [(i64, Option<i64>, i64, &[&str]); 5] = [
        (1, None, 5, &[a, b, VERSION_KEY]),
        (2, Some(1), 4, &[a, b, VERSION_KEY]),
        (3, Some(2), 3, &[a]),
        (4, Some(3), 2, &["frazil.checkpoint.a@other"]),
        (5, Some(4), 1, &[]),
    ];
    let goes_with =
        |properties: &[(&str, &str)]| goes(&table(&snapshots, &[("main", branch(5))], properties), days(0)).0;
    let told = |snapshot: i64, seq: i64| {
        json!({"v": 1, "map": {"positions": {}}, "origin": {"snapshot": snapshot, "seq": seq, "commit": "c"}})
            .to_string()
    };
    let (at_3, at_2) = (told(3, 3), told(2, 2));
    assert_eq!(goes_with(&[(a, &at_3), (b, &at_2)]), [1, 4]);
    // What was rolled back, is missing or cannot be read: the way to the carrier is what is left to find the place by.
    let lost = told(9, 6);
    assert_eq!(goes_with(&[(a, &lost), (b, &at_2)]), [1]);
    assert_eq!(goes_with(&[(a, &at_3), (b, "?")]), [1]);
    assert_eq!(goes_with(&[(b, &at_2)]), [1]);
    assert_eq!(goes_with(&[]), [1]);
}

#[test]
fn a_property_that_is_no_number_is_refused() {
    for value in ["soon", "-1"] {
        let state = table(&line(), &[("main", branch(6))], &[("history.expire.max-snapshot-age-ms", value)]);
        let error = Policy::of(&state, &Policy::default(), Wish::default()).expect_err("no number");
        assert!(error.to_string().contains("history.expire.max-snapshot-age-ms") && error.hint().is_some(), "{error}");
    }
}

proptest! {
    #[test]
    fn what_a_ref_names_stays_and_choosing_again_finds_nothing(
        parents in prop::collection::vec((0_usize..20, 0_i64..20), 1..20),
        named in prop::collection::vec((0_usize..20, any::<bool>()), 1..5),
        age in 0_u64..20, count in 1_usize..6,
    ) {
        let all: Vec<_> = parents.iter().enumerate().map(|(at, (parent, age))| {
            (at as i64 + 1, (at > 0).then(|| (*parent % at) as i64 + 1), *age, &[] as &[&str])
        }).collect();
        let names: Vec<String> = (0..named.len()).map(|n| if n == 0 { "main".to_owned() } else { format!("r{n}") }).collect();
        let refs: Vec<(&str, Value)> = named.iter().zip(&names).map(|((at, tag), name)| {
            let kind = if *tag && name != "main" { "tag" } else { "branch" };
            (name.as_str(), json!({"snapshot-id": (*at % all.len()) as i64 + 1, "type": kind}))
        }).collect();
        let state = table(&all, &refs, &[]);
        let wish = Wish { age: days(age).age, count_min: Some(count) };
        let gone = goes(&state, wish).0;
        prop_assert!(state.refs.values().all(|at| !gone.contains(&at.snapshot_id)));
        let left: Vec<_> = all.iter().filter(|(id, ..)| !gone.contains(id)).copied().collect();
        let state = table(&left, &refs, &[]);
        prop_assert_eq!(goes(&state, wish).0, Vec::<i64>::new());
    }
}
