//! What the simulator promises of itself, and the seeds that once found something.
// Threads of the test itself, beside the simulation's.
#![allow(clippy::disallowed_methods)]

use std::process::Command;

use frazil_sim::run::{self, Report};

/// One-time initialisers of a process draw from the first seed's generator: it does not count.
fn seed(number: u64) -> Report {
    static WARM: std::sync::Once = std::sync::Once::new();
    WARM.call_once(|| drop(run::seed(7)));
    run::seed(number)
}

fn holds(number: u64) {
    let report = seed(number);
    let tail = report.trace.len().saturating_sub(40);
    assert_eq!(report.violation, None, "seed {number}\n{}\n{}", report.scenario, report.trace[tail..].join("\n"));
}

#[test]
fn the_same_seed_gives_the_same_trace_in_another_thread() {
    // Some seeds end early, where the protocol halts for good.
    let first = (1..20).map(seed).find(|report| report.figures.attempts >= 100).expect("a whole one");
    let number = first.seed;
    let beside: Vec<_> = (0..2).map(|_| std::thread::spawn(move || run::seed(number))).collect();
    for other in beside {
        let other = other.join().expect("a report");
        let differs = first.trace.iter().zip(&other.trace).find(|(a, b)| a != b);
        assert_eq!(differs, None);
        assert_eq!((first.hash, first.trace.len()), (other.hash, other.trace.len()));
    }
}

#[test]
fn the_same_seed_gives_the_same_trace_in_another_process() {
    let run = || {
        let simulate = Command::new(env!("CARGO_BIN_EXE_simulate")).args(["--replay", "5"]).output();
        let text = String::from_utf8(simulate.expect("it runs").stdout).expect("text");
        text.lines().find(|line| line.starts_with("seed 5: hash")).expect("a report").to_owned()
    };
    let (first, second) = (run(), run());
    assert_eq!(first, second);
    let here = seed(5);
    assert!(first.contains(&format!("hash {:016x}", here.hash)), "{first} is {:016x} here", here.hash);
}

#[test]
fn rejects_go_to_their_table_where_columns_are_fixed_and_metadata_columns_are_wanted() {
    holds(6);
}
