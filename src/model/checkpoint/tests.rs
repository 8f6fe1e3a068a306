use proptest::prelude::*;

use super::*;

fn partition(n: u8) -> PartitionId {
    PartitionId::new(n.to_string())
}

fn positions(map: &BTreeMap<u8, i64>) -> Positions {
    map.iter().map(|(p, offset)| (partition(*p), Position::Offset(*offset))).collect()
}

fn files(watermark: &str, open: Option<(&str, u64)>, late: &[&str]) -> Position {
    Position::Files(FilesPosition {
        watermark: watermark.into(),
        open: open.map(|(name, rows)| OpenFile { name: name.into(), rows, tag: String::new() }),
        late: late.iter().map(|&name| name.into()).collect(),
        ..FilesPosition::default()
    })
}

fn late_open(position: Position, name: &str, rows: u64) -> Position {
    let Position::Files(files) = position else { unreachable!("positions of files only") };
    let late_open = Some(OpenFile { name: name.into(), rows, tag: String::new() });
    Position::Files(FilesPosition { late_open, ..files })
}

proptest! {
    #[test]
    fn a_delta_stands_ahead_of_its_base_and_behind_its_result(
        base in prop::collection::btree_map(0_u8..6, 0_i64..100, 0..6),
        steps in prop::collection::btree_map(0_u8..6, 1_i64..50, 1..6),
    ) {
        let base = positions(&base);
        let mut delta = Delta::default();
        for (p, step) in steps {
            let from = base.get(&partition(p)).cloned();
            let start = match from { Some(Position::Offset(offset)) => offset, _ => -1 };
            delta.extend(partition(p), Range { from, to: Position::Offset(start + step) }).expect("first range");
        }
        prop_assert_eq!(delta.standing(&base), Standing::Ahead);
        let result = delta.apply(&base);
        prop_assert_eq!(delta.standing(&result), Standing::Behind);
        for (p, position) in &base {
            prop_assert!(result[p].covers(position));
        }
    }

    #[test]
    fn records_read_back_what_they_print(offsets in prop::collection::btree_map(0_u8..6, 0_i64..100, 0..6), snapshot: i64, seq: i64) {
        let record = Record {
            v: RECORD_VERSION,
            checkpoint: Checkpoint { positions: positions(&offsets), known: [("f".to_owned(), seq)].into(), ..Checkpoint::default() },
            origin: Origin { snapshot, seq, commit: "c".into() },
            sealed: vec![],
            above: offsets.keys().map(|p| (partition(*p), positions(&offsets).get(&partition(*p + 1)).cloned())).collect(),
            under: None,
        };
        prop_assert_eq!(Record::parse(&record.to_text()).expect("parses"), record);
    }
}

#[test]
fn a_delta_over_two_partitions_of_which_one_moved_is_fenced() {
    let delta = Delta { ranges: [0, 1].map(|p| (partition(p), Range { from: None, to: Position::Offset(9) })).into() };
    assert_eq!(delta.standing(&positions(&[(0, 9)].into())), Standing::Fenced);
    assert_eq!(delta.standing(&positions(&[(0, 4), (1, 4)].into())), Standing::Fenced);
}

#[test]
fn rows_that_do_not_follow_are_refused() {
    let mut delta = Delta::default();
    delta.extend(partition(0), Range { from: None, to: Position::Offset(5) }).expect("first");
    delta.extend(partition(0), Range { from: Some(Position::Offset(5)), to: Position::Offset(7) }).expect("follows");
    assert!(delta.extend(partition(0), Range { from: Some(Position::Offset(8)), to: Position::Offset(9) }).is_err());
}

#[test]
fn file_positions_are_ordered_by_what_was_read() {
    let cases = [
        (files("b", None, &[]), files("a", None, &[]), true),
        (files("a", None, &[]), files("b", None, &[]), false),
        (files("b", None, &[]), files("a", Some(("b", 7)), &[]), true),
        (files("a", Some(("b", 7)), &[]), files("a", Some(("b", 5)), &[]), true),
        (files("a", Some(("b", 5)), &[]), files("a", Some(("b", 7)), &[]), false),
        (files("c", None, &[]), files("b", None, &["a0"]), false),
        (files("c", None, &["a0"]), files("b", None, &["a0"]), true),
        (files("c", None, &[]), Position::Offset(1), false),
        (files("c", None, &[]), late_open(files("c", None, &[]), "b", 1), false),
        (late_open(files("c", None, &[]), "b", 1), files("c", None, &[]), true),
        (late_open(files("c", None, &[]), "b", 1), late_open(files("c", None, &[]), "b", 2), false),
        (late_open(files("c", None, &[]), "b", 2), late_open(files("c", None, &[]), "b", 1), true),
        (files("c", None, &["b"]), late_open(files("c", None, &[]), "b", 1), true),
        (files("b", Some(("c", 7)), &[]), late_open(files("a", Some(("c", 7)), &[]), "b", 1), true),
        (files("a", Some(("c", 7)), &[]), late_open(files("a", Some(("c", 7)), &[]), "b", 1), false),
    ];
    for (a, b, covers) in cases {
        assert_eq!(a.covers(&b), covers, "{a:?} covers {b:?}");
    }
}

#[test]
fn a_record_of_a_newer_version_or_none_at_all_is_an_error() {
    for text in ["", "{}", r#"{"v":2,"map":{"positions":{}},"origin":{"snapshot":1,"seq":1,"commit":"c"}}"#] {
        assert_eq!(Record::parse(text).expect_err(text).kind(), ErrorKind::Corrupt);
    }
}

#[test]
fn a_table_that_follows_is_ahead_anywhere_before_the_delta() {
    let range = |from: i64, to: i64| Range { from: Some(Position::Offset(from)), to: Position::Offset(to) };
    let delta = Delta { ranges: [(partition(0), range(5, 9)), (partition(1), range(2, 3))].into() };
    let cases = [
        (vec![], Standing::Ahead),
        (vec![(0, 5), (1, 2)], Standing::Ahead),
        (vec![(0, 1)], Standing::Ahead),
        (vec![(0, 9), (1, 3)], Standing::Behind),
        (vec![(0, 12), (1, 8)], Standing::Behind),
        (vec![(0, 9), (1, 2)], Standing::Fenced),
        (vec![(0, 7), (1, 2)], Standing::Fenced),
    ];
    let none = Positions::new();
    for (held, expected) in cases {
        assert_eq!(delta.standing_following(&positions(&held.iter().copied().collect()), &none), expected, "{held:?}");
    }
}

#[test]
fn a_delta_above_what_a_table_holds_has_the_rest_of_each_partition_and_only_fits_there() {
    let range = |from: i64, to: i64| Range { from: Some(Position::Offset(from)), to: Position::Offset(to) };
    let at = |held: &[(u8, i64)]| positions(&held.iter().copied().collect());
    let delta = Delta { ranges: [(partition(0), range(5, 9)), (partition(1), range(2, 6))].into() };
    // What the table holds; the ranges that it lacks; the partitions where that is exact.
    let cases = [
        (vec![], vec![(0, range(5, 9)), (1, range(2, 6))], vec![]),
        (vec![(0, 3), (1, 2)], vec![(0, range(5, 9)), (1, range(2, 6))], vec![]),
        (vec![(0, 7)], vec![(0, range(7, 9)), (1, range(2, 6))], vec![0]),
        (vec![(0, 9), (1, 4)], vec![(1, range(4, 6))], vec![0, 1]),
        (vec![(0, 12), (1, 1)], vec![(1, range(2, 6))], vec![0]),
        (vec![(0, 9), (1, 9)], vec![], vec![0, 1]),
    ];
    for (held, expected, exact) in cases {
        let held = at(&held);
        let (lacks, floor) = delta.above(&held);
        let expected: BTreeMap<_, _> = expected.into_iter().map(|(p, range)| (partition(p), range)).collect();
        assert_eq!(lacks.ranges, expected, "{held:?}");
        assert_eq!(floor.keys().cloned().collect::<Vec<_>>(), exact.iter().copied().map(partition).collect::<Vec<_>>());
        if lacks.is_empty() {
            continue;
        }
        assert_eq!(lacks.standing_following(&held, &floor), Standing::Ahead, "{held:?}");
        assert_eq!(lacks.standing_following(&lacks.apply(&held), &floor), Standing::Behind, "{held:?}");
        for partition in floor.keys() {
            let mut lost = held.clone();
            lost.insert(partition.clone(), Position::Offset(3));
            assert_eq!(lacks.standing_following(&lost, &floor), Standing::Fenced, "it lost {partition} meanwhile");
        }
    }
}
