use proptest::prelude::*;

use super::*;
use crate::source::testing::{Reading, env};

fn config() -> ReplayConfig {
    ReplayConfig { seed: 1, partitions: 1, rate: None, rows: None }
}

#[tokio::test]
async fn the_first_rows_of_a_seed_never_change() {
    let mut source = ReplaySource::new(&ReplayConfig { rows: Some(3), ..config() }, env());
    let mut reading = Reading::default();
    assert!(reading.drain(&mut source, 1).await);
    assert_eq!(reading.texts().join("\n"), include_str!("../../../tests/golden/replay-seed-1.ndjson").trim_end());
}

#[tokio::test]
async fn partitions_take_turns_and_end_each_at_its_last_row() {
    let mut source = ReplaySource::new(&ReplayConfig { partitions: 3, rows: Some(5_000), ..config() }, env());
    source.open(&Checkpoint::default()).await.expect("opens");
    let mut readings = [(); 3].map(|()| Reading::default());
    loop {
        match source.next().await.expect("an event") {
            SourceEvent::Batch(batch) => {
                readings[batch.partition.as_str().parse::<usize>().expect("a number")].take(batch);
            }
            SourceEvent::End => break,
            other => panic!("{other:?}"),
        }
    }
    for reading in &readings {
        assert_eq!(reading.at, Some(Position::Offset(4_999)));
        assert!(reading.rows.iter().map(|(_, number, _)| *number).eq(0..5_000));
        assert!(reading.batches > 2);
    }
    assert_ne!(readings[0].texts()[0], readings[1].texts()[0]);
}

#[tokio::test]
async fn a_rate_is_held_over_time_and_rows_trickle() {
    let env = env();
    let mut source =
        ReplaySource::new(&ReplayConfig { rate: Some(1_000), rows: Some(10_000), ..config() }, env.clone());
    let mut reading = Reading::default();
    assert!(reading.drain(&mut source, 1).await);
    assert_eq!(env.now_ms(), 10_000);
    assert_eq!(reading.batches, 200);
}

#[tokio::test]
async fn a_rate_below_one_row_per_batch_waits_for_whole_rows() {
    let env = env();
    let mut source = ReplaySource::new(&ReplayConfig { rate: Some(2), rows: Some(5), ..config() }, env.clone());
    let mut reading = Reading::default();
    assert!(reading.drain(&mut source, 1).await);
    assert_eq!((env.now_ms(), reading.batches), (2_500, 5));
}

#[tokio::test]
async fn a_pause_of_the_reader_is_not_caught_up_in_one_burst() {
    let env = env();
    let mut source = ReplaySource::new(&ReplayConfig { rate: Some(100), ..config() }, env.clone());
    let mut reading = Reading::default();
    reading.some(&mut source, 3).await;
    env.sleep(Duration::from_secs(3_600)).await;
    let before = reading.rows.len();
    reading.some(&mut source, 1).await;
    assert!(reading.rows.len() - before <= 100, "{} rows at once", reading.rows.len() - before);
}

#[tokio::test]
async fn a_checkpoint_of_another_seed_is_refused() {
    let mut source = ReplaySource::new(&config(), env());
    let checkpoint = Checkpoint { source: "replay:2".into(), ..Checkpoint::default() };
    assert_eq!(source.open(&checkpoint).await.expect_err("another log").kind(), ErrorKind::Corrupt);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]
    #[test]
    fn reopening_anywhere_gives_every_row_once_in_order(steps in prop::collection::vec(1_usize..4, 1..6)) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
        runtime.block_on(async {
            let config = ReplayConfig { rows: Some(9_000), ..config() };
            let mut whole = Reading::default();
            whole.drain(&mut ReplaySource::new(&config, env()), 1).await;
            let mut reading = Reading::default();
            for batches in steps {
                let mut source = ReplaySource::new(&config, env());
                source.open(&reading.checkpoint(&source, "0")).await.expect("opens");
                reading.some(&mut source, batches).await;
            }
            let mut source = ReplaySource::new(&config, env());
            source.open(&reading.checkpoint(&source, "0")).await.expect("opens");
            assert!(reading.drain(&mut source, 1).await);
            assert_eq!(reading.rows, whole.rows);
        });
    }
}
