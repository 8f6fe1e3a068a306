//! What holds of the cadence whatever commits take and the catalog says.

use proptest::prelude::*;

use super::*;

const FRESHNESS: Duration = Duration::from_secs(10);

fn limits() -> CommitConfig {
    CommitConfig { freshness: FRESHNESS, rows_max: 1000, bytes_max: 5000, target_file_size: None }
}

fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

/// After commits that took so long.
fn after(took: &[u64]) -> Cadence {
    let mut cadence = Cadence::new(FRESHNESS);
    took.iter().for_each(|took| cadence.committed(ms(*took), Answers::default()));
    cadence
}

fn throttled(wait: u64) -> Answers {
    Answers { throttled: 1, wait: ms(wait), ..Answers::default() }
}

fn conflicts(conflicts: u32) -> Answers {
    Answers { conflicts, ..Answers::default() }
}

#[test]
fn an_epoch_is_sealed_by_whichever_limit_comes_first() {
    let epoch = |rows, bytes| OpenEpoch { rows, bytes, ..OpenEpoch::default() };
    let full = OpenEpoch { fill: Fill { full: 2, short: 0 }, ..epoch(1, 1) };
    let short = OpenEpoch { fill: Fill { full: 2, short: 1 }, ..epoch(1, 1) };
    let cadence = Cadence::new(FRESHNESS);
    let cases = [
        (epoch(0, 9999), true, 99_999, None),
        (epoch(1, 1), false, 9_999, None),
        (epoch(1, 1), false, 10_000, Some(SealReason::Time)),
        (epoch(1, 5000), false, 0, Some(SealReason::Bytes)),
        (epoch(1000, 1), false, 0, Some(SealReason::Rows)),
        (epoch(1, 1), true, 0, Some(SealReason::Memory)),
        (full, false, 49, None),
        (full, false, 50, Some(SealReason::Full)),
        (short, false, 9_999, None),
        (short, true, 0, Some(SealReason::Memory)),
    ];
    for (open, memory_low, now, expected) in cases {
        assert_eq!(cadence.seals(&open, &limits(), memory_low, now), expected, "{open:?} at {now}");
    }
}

#[test]
fn a_slow_catalog_stretches_the_interval_and_a_quick_one_gives_it_back() {
    assert_eq!(after(&[]).interval(), (FRESHNESS, Why::Freshness));
    assert_eq!(after(&[1_000]).interval(), (ms(9_000), Why::Freshness));
    assert_eq!(after(&[8_000]).interval(), (ms(16_000), Why::Latency));
    let mut cadence = after(&[8_000]);
    for _ in 0..40 {
        cadence.committed(ms(100), Answers::default());
    }
    let (interval, why) = cadence.interval();
    assert!(interval > ms(9_500) && why == Why::Freshness, "{cadence:?}");
}

#[test]
fn one_commit_in_an_outage_is_forgotten_after_a_few() {
    let mut cadence = after(&[300, 300, 300, 600_000]);
    assert!(cadence.interval().0 <= FRESHNESS, "{cadence:?}");
    for _ in 0..8 {
        cadence.committed(ms(300), Answers::default());
    }
    assert!(cadence.interval().0 >= ms(5_000), "{cadence:?}");
    // A catalog that is always so slow is believed.
    let cadence = after(&[60_000; 12]);
    assert!(cadence.interval().0 >= ms(110_000), "{cadence:?}");
}

#[test]
fn throttling_doubles_the_interval_and_calm_commits_give_it_back_in_steps() {
    let mut cadence = Cadence::new(FRESHNESS);
    let mut widths = Vec::new();
    for _ in 0..6 {
        cadence.committed(ms(10), throttled(1_000));
        assert_eq!(cadence.interval().1, Why::Throttled);
        widths.push(cadence.interval().0.as_secs());
    }
    assert_eq!(widths, [20, 40, 80, 160, 160, 160]);
    let mut calm = Vec::new();
    while cadence.interval().1 == Why::Throttled {
        cadence.committed(ms(10), Answers::default());
        calm.push(cadence.interval().0.as_millis());
    }
    assert!(calm.is_sorted_by(|a, b| a >= b) && (5..30).contains(&calm.len()), "{calm:?}");
    assert!(cadence.interval().0 >= ms(9_900), "{cadence:?}");
    // What it asks for is kept at once.
    cadence.committed(ms(10), throttled(90_000));
    assert_eq!(cadence.interval(), (ms(90_000), Why::Throttled));
    // Full files do not get round it.
    let full = OpenEpoch { rows: 1, fill: Fill { full: 1, short: 0 }, ..OpenEpoch::default() };
    assert_eq!(cadence.seals(&full, &limits(), false, 89_999), None);
}

#[test]
fn single_conflicts_change_nothing_and_many_stretch_the_interval_a_little() {
    let mut cadence = Cadence::new(FRESHNESS);
    for _ in 0..10 {
        cadence.committed(ms(10), conflicts(1));
        cadence.committed(ms(10), conflicts(0));
        assert_eq!(cadence.interval().1, Why::Freshness);
    }
    for _ in 0..20 {
        cadence.committed(ms(10), conflicts(1));
        assert_eq!(cadence.interval().1, Why::Freshness, "several daemons meet, and that is all");
    }
    for _ in 0..20 {
        cadence.committed(ms(10), conflicts(3));
    }
    assert_eq!(cadence.interval(), (FRESHNESS * 4, Why::Conflicts));
    let mut cadence = Cadence::new(FRESHNESS);
    cadence.committed(ms(10), conflicts(5));
    assert_eq!(cadence.interval(), (ms(15_000), Why::Conflicts));
}

#[test]
fn whoever_met_others_looks_first_until_nobody_else_is_there() {
    let mut cadence = Cadence::new(FRESHNESS);
    assert!(!cadence.looks_first());
    cadence.committed(ms(10), conflicts(1));
    assert!(cadence.looks_first());
    cadence.committed(ms(10), Answers { others: true, ..Answers::default() });
    assert!(cadence.looks_first());
    cadence.committed(ms(10), Answers::default());
    assert!(!cadence.looks_first());
}

#[test]
fn after_a_commit_that_met_another_more_is_left_to_chance() {
    let mut cadence = Cadence::new(FRESHNESS);
    let farthest = |cadence: &mut Cadence| {
        cadence.draw(u64::MAX);
        sealed_after(cadence)
    };
    assert_eq!(farthest(&mut cadence), FRESHNESS * 940 / 1_000);
    cadence.committed(Duration::ZERO, conflicts(1));
    assert_eq!(farthest(&mut cadence), FRESHNESS * 750 / 1_000);
    cadence.committed(Duration::ZERO, Answers::default());
    assert_eq!(farthest(&mut cadence), FRESHNESS * 940 / 1_000);
}

#[test]
fn members_that_begin_together_end_their_first_epochs_anywhere_within_the_interval() {
    let mut cadence = after(&[400]);
    let (interval, floor) = (cadence.interval().0, cadence.floor());
    let mut ends = |chance| {
        cadence.begin(chance);
        sealed_after(&cadence)
    };
    assert_eq!([0, 500, 1_000].map(&mut ends), [interval, interval / 2, floor]);
    // Where it is not for freshness that it stays open it stays so: no more than a quarter longer.
    cadence.committed(ms(400), Answers { throttled: 1, ..Answers::default() });
    let stretched = cadence.interval().0;
    cadence.begin(1_000);
    assert_eq!(sealed_after(&cadence), stretched * 5 / 4);
    cadence.committed(ms(400), Answers::default());
    cadence.draw(0);
    assert!(sealed_after(&cadence) >= cadence.interval().0);
}

#[test]
fn what_is_said_of_the_interval_is_what_ended_the_epoch() {
    let cadence = after(&[8_000]);
    assert_eq!(cadence.why(Some(SealReason::Time)), Why::Latency);
    assert_eq!(cadence.why(None), Why::Latency);
    assert_eq!(cadence.why(Some(SealReason::Full)), Why::Size);
    assert_eq!(cadence.why(Some(SealReason::Rows)), Why::Limit);
    let words: std::collections::BTreeSet<_> = Why::ALL.into_iter().map(Why::word).collect();
    assert_eq!(words.len(), Why::ALL.len());
}

fn answers() -> impl Strategy<Value = Answers> {
    prop_oneof![
        6 => Just(Answers::default()),
        1 => (0..100_000_u64).prop_map(throttled),
        2 => (1..6_u32).prop_map(conflicts),
    ]
}

/// When an epoch of a row is sealed whose files are never full.
fn sealed_after(cadence: &Cadence) -> Duration {
    let open = OpenEpoch { rows: 1, ..OpenEpoch::default() };
    cadence.due(&open, 0).expect("it has a row").0
}

proptest! {
    #[test]
    fn slower_commits_never_make_commits_more_frequent(
        took in prop::collection::vec((0..3_000_u64, 0..1_000_u64), 1..20),
        slow in prop::collection::vec((0..100_000_u64, 0..20_000_u64), 0..20),
        steady in (prop_oneof![0..5_000_u64, 0..100_000_u64], prop_oneof![0..5_000_u64, 0..100_000_u64]),
    ) {
        // Whatever came before: what the catalog gets as its rest, and the time from seal to seal.
        let took = [slow, took].concat();
        let quick = after(&took.iter().map(|(took, _)| *took).collect::<Vec<_>>());
        let slow = after(&took.iter().map(|(took, more)| took + more).collect::<Vec<_>>());
        prop_assert!(quick.floor() <= slow.floor(), "{:?} {:?}", quick, slow);
        let cycle = |cadence: &Cadence| cadence.interval().0 + cadence.commit.unwrap_or_default().1;
        prop_assert!(cycle(&quick) <= cycle(&slow), "{:?} {:?}", quick, slow);
        // One that takes the same each time.
        let (one, other) = (steady.0.min(steady.1), steady.0.max(steady.1));
        let cycle = |took: u64| after(&[took; 40]).interval().0 + ms(took);
        prop_assert!(cycle(one) <= cycle(other) + ms(1));
    }

    #[test]
    fn no_more_than_half_of_the_time_is_spent_in_commits(
        history in prop::collection::vec((0..100_000_u64, answers()), 1..40),
        chance in 0..400_u64,
    ) {
        let mut cadence = Cadence::new(FRESHNESS);
        for (took, answers) in &history {
            cadence.committed(ms(*took), *answers);
        }
        cadence.draw(chance);
        let (mean, slowest) = cadence.commit.expect("some");
        prop_assert!(mean <= slowest + ms(1));
        for fill in [Fill::default(), Fill { full: 3, short: 0 }, Fill { full: 3, short: 1 }] {
            let open = OpenEpoch { rows: 1, fill, ..OpenEpoch::default() };
            let (wait, _) = cadence.due(&open, 0).expect("it has a row");
            prop_assert!(wait >= slowest.max(mean * 2).max(INTERVAL_MIN), "{:?} {:?}", wait, cadence);
            prop_assert!(cadence.stretched.is_none_or(|(held, _)| wait >= held));
        }
    }

    #[test]
    fn an_epoch_is_open_for_longer_than_its_freshness_only_where_that_is_said(
        history in prop::collection::vec((0..100_000_u64, answers()), 0..40),
        chance in 0..400_u64,
    ) {
        let mut cadence = Cadence::new(FRESHNESS);
        for (took, answers) in &history {
            cadence.committed(ms(*took), *answers);
        }
        cadence.draw(chance);
        let (wait, (interval, why)) = (sealed_after(&cadence), cadence.interval());
        let most = if cadence.met { JITTER_MET } else { JITTER };
        match why {
            Why::Freshness => prop_assert!(wait <= FRESHNESS && wait * 1_001 >= interval * (1_000 - most)),
            Why::Latency => prop_assert!(wait <= cadence.floor() * (1_001 + most) / 1_000),
            Why::Throttled | Why::Conflicts => prop_assert!(wait <= FRESHNESS * 17 * (1_000 + most) / 1_000),
            _ => prop_assert!(false, "{:?}", why),
        }
        // Nothing lasts: calm and quick commits bring it back.
        for _ in 0..80 {
            cadence.committed(ms(10), Answers::default());
        }
        prop_assert_eq!(cadence.interval().1, Why::Freshness);
        prop_assert!(sealed_after(&cadence) <= FRESHNESS);
    }

    #[test]
    fn full_files_never_make_an_epoch_longer(
        history in prop::collection::vec((0..20_000_u64, answers()), 0..20),
        age in 0..200_000_i64,
    ) {
        let mut cadence = Cadence::new(FRESHNESS);
        for (took, answers) in &history {
            cadence.committed(ms(*took), *answers);
        }
        let open = |fill| OpenEpoch { rows: 1, fill, ..OpenEpoch::default() };
        let wait = |fill| cadence.due(&open(fill), age).expect("it has a row").0;
        let full = wait(Fill { full: 1, short: 0 });
        prop_assert!(full <= wait(Fill::default()));
        prop_assert_eq!(wait(Fill { full: 9, short: 1 }), wait(Fill::default()));
        // What is due is what is sealed.
        for fill in [Fill { full: 1, short: 0 }, Fill::default()] {
            let due = cadence.due(&open(fill), age).expect("it has a row");
            let sealed = cadence.seals(&open(fill), &limits(), false, age);
            prop_assert_eq!(sealed, due.0.is_zero().then_some(due.1));
        }
    }
}
