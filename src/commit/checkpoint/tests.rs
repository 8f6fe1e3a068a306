use super::*;
use crate::commit::conflict::descends;
use crate::model::checkpoint::{Origin, Position};
use crate::model::ids::{MAIN, PartitionId};
use crate::model::table::tests::with_snapshots;

fn record(snapshot: i64, seq: i64, offset: i64) -> Record {
    Record {
        v: 1,
        checkpoint: Checkpoint {
            positions: [(PartitionId::new("0"), Position::Offset(offset))].into(),
            ..Checkpoint::default()
        },
        origin: Origin { snapshot, seq, commit: format!("c{snapshot}") },
        sealed: vec![],
        above: Default::default(),
        under: None,
    }
}

fn link(id: i64) -> ChainLink {
    ChainLink { id, seq: id, picked: false }
}

/// A complete chain of snapshots whose ids are their sequence numbers, newest first.
fn findings(property: Option<Record>, ancestor: Option<Record>, chain: &[i64]) -> Findings {
    Findings {
        property,
        ancestor,
        witness: false,
        chain: chain.iter().copied().map(link).collect(),
        missing: None,
        closed: false,
        live_entry: false,
        on_rollback: OnRollback::Halt,
    }
}

fn shown(decision: &Decision) -> String {
    match decision {
        Decision::New => "new".into(),
        Decision::Investigate => "investigate".into(),
        Decision::Halt(error) => format!("halt: {error}"),
        Decision::Take(taken) => match taken.checkpoint.positions.values().next() {
            Some(Position::Offset(offset)) => format!("take {offset}"),
            other => format!("{other:?}"),
        },
    }
}

/// One line per row of docs/protocol.md's table, in its order (row 1 is an error of reading).
#[test]
fn every_row_of_the_checkpoint_table_decides_as_written() {
    let p = |n| Some(record(n, n, n * 10));
    let with = |f: Findings, change: fn(&mut Findings)| {
        let mut f = f;
        change(&mut f);
        f
    };
    let cases: Vec<(&str, Findings, &str)> = vec![
        ("2 nothing but a witness", with(findings(None, None, &[1]), |f| f.witness = true), "halt: this pipeline has"),
        ("2 a witness, no head", with(findings(None, None, &[]), |f| f.witness = true), "halt: this pipeline has"),
        ("3 nothing", findings(None, None, &[3, 2, 1]), "new"),
        ("3 nothing, no head", findings(None, None, &[]), "new"),
        ("4 no head but P", findings(p(3), None, &[]), "halt: the branch has no snapshot"),
        ("5 same origin", findings(p(3), p(3), &[3, 2, 1]), "take 30"),
        ("5 same origin, maps differ", findings(Some(record(3, 3, 99)), p(3), &[3]), "halt: the table property and"),
        ("6 property absent", findings(None, p(3), &[4, 3]), "take 30"),
        ("6 property older", findings(p(2), p(3), &[3, 2, 1]), "take 30"),
        ("7 newer, in", findings(p(3), p(2), &[4, 3, 2, 1]), "take 30"),
        ("7 alone, in", findings(p(3), None, &[4, 3]), "take 30"),
        ("7 alone, the missing parent", with(findings(p(3), None, &[4]), |f| f.missing = Some(3)), "take 30"),
        (
            "8 a cherry-pick newer than A",
            with(findings(p(3), p(2), &[5, 2, 1]), |f| {
                f.chain[0].picked = true;
                f.on_rollback = OnRollback::Rewind;
            }),
            "halt: the branch holds a cherry-picked",
        ),
        (
            "8 does not match: the pick is older than A",
            with(findings(p(5), p(3), &[3, 2, 1]), |f| f.chain[1].picked = true),
            "halt: the branch was rolled back below",
        ),
        ("9 head below P", findings(p(3), p(2), &[2, 1]), "halt: the branch was rolled back below"),
        (
            "9 head below P, chain broken",
            with(findings(p(5), p(3), &[3]), |f| f.missing = Some(2)),
            "halt: the branch was rolled",
        ),
        (
            "9 chain reaches below P",
            with(findings(p(4), p(2), &[6, 3]), |f| f.missing = Some(2)),
            "halt: the branch was rolled",
        ),
        ("9 chain complete", findings(p(3), None, &[6, 5]), "halt: the branch was rolled back below"),
        ("9 rewind", with(findings(p(3), p(2), &[2, 1]), |f| f.on_rollback = OnRollback::Rewind), "take 20"),
        (
            "9 rewind without A",
            with(findings(p(3), None, &[2, 1]), |f| f.on_rollback = OnRollback::Rewind),
            "halt: the branch was rolled back to before",
        ),
        ("9 keep", with(findings(p(3), p(2), &[2, 1]), |f| f.on_rollback = OnRollback::Keep), "take 30"),
        (
            "9 keep without A, complete",
            with(findings(p(3), None, &[2, 1]), |f| f.on_rollback = OnRollback::Keep),
            "take 30",
        ),
        (
            "9 keep without A, broken",
            with(findings(p(3), None, &[2]), |f| {
                f.on_rollback = OnRollback::Keep;
                (f.missing, f.closed) = (Some(1), true);
            }),
            "halt: the branch was rolled back and its history",
        ),
        (
            "9 rewind without A, broken",
            with(findings(p(3), None, &[2]), |f| {
                f.on_rollback = OnRollback::Rewind;
                (f.missing, f.closed) = (Some(1), true);
            }),
            "halt: the branch was rolled back and its history",
        ),
        (
            "9 rewind without A, broken, to be closed",
            with(findings(p(3), None, &[2]), |f| {
                f.on_rollback = OnRollback::Rewind;
                f.missing = Some(1);
            }),
            "investigate",
        ),
        (
            "9 halt, broken",
            with(findings(p(3), None, &[2]), |f| f.missing = Some(1)),
            "halt: the branch was rolled back",
        ),
        ("10 broken above P", with(findings(p(3), None, &[6, 5]), |f| f.missing = Some(4)), "investigate"),
        (
            "10 closed, a live entry",
            with(findings(p(3), None, &[6, 5]), |f| {
                f.missing = Some(4);
                f.closed = true;
                f.live_entry = true;
            }),
            "take 30",
        ),
        (
            "10 closed, none",
            with(findings(p(3), None, &[6, 5]), |f| {
                f.missing = Some(4);
                f.closed = true;
            }),
            "halt: the checkpoint's snapshot is gone",
        ),
    ];
    for (case, findings, expected) in cases {
        let decision = shown(&findings.decide());
        assert!(decision.starts_with(expected), "row {case}: {decision}, expected {expected}");
    }
}

#[test]
fn keep_takes_the_larger_position_of_each_partition() {
    let mut p = record(3, 3, 10);
    let mut a = record(2, 2, 15);
    p.checkpoint.positions.insert(PartitionId::new("1"), Position::Offset(7));
    a.checkpoint.positions.insert(PartitionId::new("2"), Position::Offset(4));
    let mut findings = findings(Some(p), Some(a), &[2, 1]);
    findings.on_rollback = OnRollback::Keep;
    let Decision::Take(taken) = findings.decide() else { panic!("not taken") };
    let offsets: Vec<_> = taken.checkpoint.positions.values().cloned().collect();
    assert_eq!(offsets, [15, 7, 4].map(Position::Offset));
}

#[test]
fn every_halt_names_a_way_out() {
    let mut broken = findings(Some(record(3, 3, 1)), None, &[6]);
    (broken.missing, broken.closed) = (Some(5), true);
    for findings in [findings(Some(record(3, 3, 1)), None, &[]), findings(Some(record(3, 3, 1)), None, &[2]), broken] {
        let Decision::Halt(error) = findings.decide() else { panic!("no halt") };
        assert!(error.hint().is_some(), "{error}");
    }
}

#[test]
fn a_rewind_does_not_ask_for_sealed_epochs_that_were_finished_since() {
    let (mut newer, mut older) = (record(9, 9, 90), record(2, 2, 20));
    older.sealed = vec!["finished".into(), "open".into()];
    newer.sealed = vec!["open".into(), "rolled back".into()];
    let mut rolled_back = findings(Some(newer), Some(older), &[10, 2, 1]);
    rolled_back.on_rollback = OnRollback::Rewind;
    let Decision::Take(taken) = rolled_back.decide() else { panic!("{:?}", rolled_back.decide()) };
    assert_eq!(taken.sealed, ["open"]);
}

#[test]
fn a_rewind_forgets_no_table_that_was_fed() {
    let (mut newer, mut older) = (record(9, 9, 90), record(2, 2, 20));
    older.checkpoint.followers = ["a".to_owned()].into();
    newer.checkpoint.followers = ["a".to_owned(), "b".to_owned()].into();
    let mut rolled_back = findings(Some(newer), Some(older), &[10, 2, 1]);
    rolled_back.on_rollback = OnRollback::Rewind;
    let Decision::Take(taken) = rolled_back.decide() else { panic!("{:?}", rolled_back.decide()) };
    assert_eq!(taken.checkpoint.followers, ["a".to_owned(), "b".to_owned()].into());
}

/// The parts of epochs that the rollback took from the anchor stay in the tables beside it.
#[test]
fn a_rewind_still_knows_how_far_the_tables_beside_the_anchor_were() {
    let known = |seqs: &[(&str, i64)]| seqs.iter().map(|(table, seq)| ((*table).to_owned(), *seq)).collect();
    let (mut newer, mut older) = (record(9, 9, 90), record(2, 2, 20));
    older.checkpoint.known = known(&[("a", 4), ("b", 7)]);
    newer.checkpoint.known = known(&[("a", 6), ("b", 5), ("c", 3)]);
    let mut rolled_back = findings(Some(newer), Some(older), &[10, 2, 1]);
    rolled_back.on_rollback = OnRollback::Rewind;
    let Decision::Take(taken) = rolled_back.decide() else { panic!("{:?}", rolled_back.decide()) };
    assert_eq!(taken.checkpoint.known, known(&[("a", 6), ("b", 7), ("c", 3)]));
}

/// A record that promises that rows are read again holds under the anchor's record that it was made under, or once the anchor
/// has known of it.
#[test]
fn a_table_was_set_back_when_its_record_is_older_than_is_known_or_a_promise_of_another_record_of_the_anchor() {
    let state = with_snapshots(&[(1, 1, None), (5, 5, Some(1))], 5);
    let cases = [
        ("as known", 5, None, 5, Some(7), Some(false)),
        ("newer than is known", 6, None, 5, Some(7), Some(false)),
        ("older than is known", 4, None, 5, Some(7), Some(true)),
        ("older, in a state from before", 4, None, 9, Some(7), None),
        ("a promise under the anchor's record", 6, Some(7), 5, Some(7), Some(false)),
        ("a promise under another", 6, Some(8), 5, Some(7), Some(true)),
        ("a promise, and who prepares a part has not looked at the anchor", 6, Some(8), 5, None, Some(true)),
        ("a promise that the anchor knew of", 6, Some(8), 6, Some(7), Some(false)),
    ];
    for (case, seq, under, known, begun, expected) in cases {
        let told = Taken { under, ..taken(&record(seq, seq, 1), None) };
        assert_eq!(told.is_set_back(known, begun, &state), expected, "{case}");
        // What the property tells is not asked again.
        let told = Taken { rewound: true, ..told };
        assert_eq!(told.is_set_back(known, begun, &state), Some(false), "{case}, told by the property");
    }
}

/// Whoever sets an anchor's positions has looked at the table, and not at whether anybody keeps its promise.
#[test]
fn an_anchor_that_is_set_knows_a_record_and_no_promise() {
    let state = with_snapshots(&[(1, 1, None), (6, 6, Some(1))], 6);
    for (under, set_back) in [(None, false), (Some(0), true), (Some(8), true)] {
        let record = Record { under, ..record(6, 6, 1) };
        let told = Taken { under, ..taken(&record, None) };
        assert_eq!(told.is_set_back(record.known_seq(), Some(9), &state), Some(set_back), "{under:?}");
        assert_eq!(told.is_set_back(record.known_seq(), None, &state), Some(set_back), "{under:?}, for a part");
    }
}

#[test]
fn a_circle_of_parents_is_an_error_and_no_endless_walk() {
    let cases: [&[(i64, i64, Option<i64>)]; 3] =
        [&[(1, 1, Some(1))], &[(1, 1, Some(2)), (2, 2, Some(1))], &[(1, 1, Some(2)), (2, 2, Some(1)), (3, 3, Some(1))]];
    for snapshots in cases {
        let state = with_snapshots(snapshots, 3);
        let error = Chain::of(&state, MAIN).expect_err("a circle");
        assert!(error.kind() == ErrorKind::Corrupt && error.hint().is_some(), "{error:?}");
        assert!(error.to_string().contains("its own ancestors"), "{error}");
        assert!(descends(&state, MAIN, Some(77)).is_err());
    }
    let straight = with_snapshots(&[(2, 2, Some(1)), (3, 3, Some(2))], 3);
    let chain = Chain::of(&straight, MAIN).expect("straight");
    assert_eq!((chain.snapshots.len(), chain.missing, chain.is_complete()), (2, Some(1), false));
    for (base, expected) in [(Some(3), true), (Some(2), true), (Some(1), true), (Some(4), false), (None, true)] {
        assert_eq!(descends(&straight, MAIN, base).expect("straight"), expected, "{base:?}");
    }
}

/// Which of both records counts for an edit is what counts at a start.
#[test]
fn an_edit_goes_on_from_the_record_that_a_start_would_take() {
    let (older, newer, same) = (record(1, 1, 10), record(2, 2, 20), record(3, 2, 30));
    let chosen = |p: Option<&Record>, a: Option<&Record>| {
        edited(&Chain::default(), p, a, &Positions::new()).0.map(|record| record.origin.snapshot)
    };
    for (p, a, wanted) in [
        (None, None, None),
        (Some(&newer), None, Some(2)),
        (None, Some(&newer), Some(2)),
        (Some(&newer), Some(&older), Some(2)),
        (Some(&older), Some(&newer), Some(2)),
        (Some(&newer), Some(&newer), Some(2)),
        (Some(&same), Some(&newer), Some(2)),
    ] {
        assert_eq!(chosen(p, a), wanted);
    }
}
