use super::*;
use crate::error::Directive;

fn id() -> PartitionId {
    PartitionId::new("orders/0")
}

fn record(offset: i64, value: &str) -> Record<'_> {
    Record { offset, timestamp_ms: Some(offset * 10), value: Some(value.as_bytes()), ..Record::default() }
}

/// A log that was read after `given`, and what became of the records that came.
fn taken(given: Option<i64>, witness: Option<String>, records: &[(i64, &str)]) -> Result<Vec<(i64, u64)>> {
    let mut log = Log::new(id(), "orders".into(), Tombstones::Reject);
    log.open(given, witness);
    for (offset, value) in records {
        log.take(record(*offset, value), 1 << 20, 0)?;
    }
    let batch = log.batch().map(|(batch, _)| batch);
    let from = |batch: &RawBatch| if let Some(Position::Offset(at)) = batch.range.from { at } else { -1 };
    Ok(batch.iter().flat_map(|batch| batch.rows.iter().map(|row| (from(batch), row.number))).collect())
}

#[test]
fn a_log_that_is_closed_has_nothing_to_give_of_what_was_here() {
    let mut log = Log::new(id(), "orders".into(), Tombstones::Reject);
    log.open(Some(4), None);
    log.take(record(5, "f"), 1 << 20, 0).expect("a row");
    log.close();
    log.take(record(6, "g"), 1 << 20, 0).expect("passed over");
    assert!(log.is_empty() && log.batch().is_none(), "a batch would commit what was not read");
    log.open(Some(4), None);
    log.take(record(5, "f"), 1 << 20, 0).expect("a row");
    assert_eq!(log.batch().expect("a row").0.rows.len(), 1);
}

/// What the record looks like that a table has last.
fn witness(offset: i64, value: &str) -> Option<String> {
    let mut log = Log::new(id(), "orders".into(), Tombstones::Reject);
    log.open(None, None);
    log.take(record(offset, value), 1 << 20, 0).expect("a row");
    log.batch().map(|(_, tail)| tail)
}

#[test]
fn a_log_that_gives_rows_again_gives_none_twice_and_holes_are_no_rows() {
    let again = [(5, "f"), (6, "g"), (4, "e"), (6, "g"), (9, "k"), (5, "f")];
    assert_eq!(taken(Some(4), None, &again).expect("rows"), [(4, 5), (4, 6), (4, 9)]);
    assert_eq!(taken(None, None, &[(3, "d"), (3, "d")]).expect("rows"), [(-1, 3)]);
    assert!(taken(Some(4), None, &[(3, "d"), (4, "e")]).expect("no rows").is_empty());
}

#[test]
fn another_record_at_the_tables_last_place_is_another_log_even_if_older_ones_come_first() {
    let held = witness(4, "e");
    assert_eq!(taken(Some(4), held.clone(), &[(4, "e"), (5, "f")]).expect("the same log"), [(4, 5)]);
    for records in [&[(4, "x"), (5, "f")][..], &[(2, "c"), (3, "d"), (4, "x")]] {
        let error = taken(Some(4), held.clone(), records).expect_err("another log");
        assert!(error.to_string().contains("offset 4 is not the one that was committed"), "{error}");
        assert_eq!(error.directive(), Directive::Halt);
    }
    // Nothing stands there any more, as after compaction: it cannot be told.
    assert_eq!(taken(Some(4), held, &[(2, "c"), (7, "h")]).expect("perhaps the same"), [(4, 7)]);
}

#[test]
fn where_a_log_is_read_on_depends_on_what_it_still_has() {
    let at = |held: &Option<String>, low, high, on_gap| resume(&id(), 4, held.clone(), (low, high), on_gap);
    let (held, none) = (witness(4, "e"), None);
    let found = |first, witness: &Option<String>, removed| Resumed { first, witness: witness.clone(), removed };
    let cases = [
        (&held, 0, 9, found(4, &held, None)),
        (&held, 4, 5, found(4, &held, None)),
        (&held, 5, 5, found(5, &none, None)),
        (&none, 0, 9, found(5, &none, None)),
        (&held, 7, 9, found(7, &none, Some(5..7))),
    ];
    for (held, low, high, expected) in cases {
        assert_eq!(at(held, low, high, OnGap::Skip).expect("it goes on"), expected, "{low} to {high}");
    }
    let halts = [(0, 4, "it ends at 4, and the table has rows up to offset 4"), (6, 9, "offsets 5 to 5 were removed")];
    for (low, high, text) in halts {
        let error = at(&held, low, high, OnGap::Halt).expect_err("it halts");
        assert!(error.to_string().contains(text) && error.directive() == Directive::Halt, "{error}");
    }
}

#[test]
fn an_offset_that_was_removed_is_counted_once_however_often_its_log_is_opened() {
    let (mut gaps, other) = (Gaps::default(), PartitionId::new("orders/1"));
    let steps = [(5..9, 4), (5..9, 4), (5..12, 7), (2..4, 9), (3..6, 10), (20..21, 11), (0..30, 30)];
    for (removed, total) in steps {
        gaps.add(&id(), &removed);
        assert_eq!(gaps.total(), total, "{removed:?}");
    }
    gaps.add(&other, &(5..9));
    assert_eq!(gaps.total(), 34, "partitions are apart");
    assert_eq!(gaps.totals(), &BTreeMap::from([(id(), 30), (other, 4)]));
}

#[test]
fn what_the_last_record_of_a_range_looks_like_is_known_until_it_is_committed() {
    let mut tails = Tails::default();
    let mut log = Log::new(id(), "orders".into(), Tombstones::Reject);
    log.open(None, None);
    for offset in [3, 7] {
        log.take(record(offset, "row"), 1 << 20, 0).expect("a row");
        let (batch, tail) = log.batch().expect("a batch");
        tails.keep(&batch, tail);
    }
    let upto = |to| Delta { ranges: BTreeMap::from([(id(), Range { from: None, to: Position::Offset(to) })]) };
    let of = |tails: &Tails, to| tails.of(&upto(to)).remove(&id());
    assert_eq!((of(&tails, 3), of(&tails, 7)), (witness(3, "row"), witness(7, "row")));
    assert_eq!(of(&tails, 5), None, "no batch ends there");
    tails.release(&BTreeMap::from([(id(), Position::Offset(3))]));
    assert_eq!((of(&tails, 3), of(&tails, 7)), (None, witness(7, "row")));
    tails.clear();
    assert_eq!(of(&tails, 7), None);
}

#[test]
fn a_record_without_a_value_is_a_reject_or_passed_over_and_the_log_is_past_it_either_way() {
    let gone = |offset| Record { offset, key: Some(b"k"), ..Record::default() };
    for (tombstones, rejects, skipped) in [(Tombstones::Reject, 2, 0), (Tombstones::Skip, 0, 2)] {
        let mut log = Log::new(id(), "orders".into(), tombstones);
        log.open(Some(2), None);
        for taken in [record(3, "d"), gone(4), record(5, "f"), gone(7)] {
            log.take(taken, 1 << 20, 0).expect("the same log");
        }
        let (batch, tail) = log.batch().expect("a batch");
        assert_eq!((batch.rows.len(), batch.rejects.len(), batch.skipped), (2, rejects, skipped), "{tombstones:?}");
        assert_eq!(batch.range, Range { from: Some(Position::Offset(2)), to: Position::Offset(7) });
        assert!(log.batch().is_none(), "nothing is counted twice");
        // It is what the log is known by.
        let mut again = Log::new(id(), "orders".into(), tombstones);
        again.open(Some(7), Some(tail));
        again.take(gone(7), 1 << 20, 0).expect("the same log");
        again.take(gone(8), 1 << 20, 0).expect("the same log");
        let (batch, _) = again.batch().expect("a batch of what is passed over alone");
        assert_eq!((batch.rejects.len() as u64 + batch.skipped, batch.range.to), (1, Position::Offset(8)));
        // What is here goes with the partition.
        again.take(gone(9), 1 << 20, 0).expect("the same log");
        again.open(Some(8), None);
        again.take(record(9, "k"), 1 << 20, 0).expect("the same log");
        let (batch, _) = again.batch().expect("a batch");
        assert_eq!((batch.rows.len(), batch.rejects.len(), batch.skipped), (1, 0, 0));
    }
}
