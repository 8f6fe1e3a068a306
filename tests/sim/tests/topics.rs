//! Members of a group that read a topic: what they must not wait for, and what they must not pass over.

use std::sync::Arc;
use std::time::Duration;

use frazil::env::{Env, SystemClock};
use frazil::model::ids::MAIN;
use frazil_sim::run::{self, Report};
use frazil_sim::scenario::{Scenario, Shape};
use frazil_sim::topic::{Loss, Plan};
use frazil_sim::world::Rates;

const QUIET: Plan =
    Plan { transactions: false, holds: false, retention: 0, skips: false, loss: None, eager: false, tombstones: false };

/// One pipeline that reads a topic into one table, and nothing goes wrong but with the topic.
fn reads(plan: Plan, instances: u64) -> Scenario {
    let mut scenario = Scenario::draw(&Env::simulated(Arc::new(SystemClock), 1));
    scenario.shape = Shape::Single;
    (scenario.target, scenario.expires, scenario.upkeep) = (MAIN, None, None);
    (scenario.evolves, scenario.format, scenario.idles) = (false, 2, false);
    (scenario.instances, scenario.attempts) = (instances, 0);
    (scenario.partitions, scenario.rows, scenario.rate) = (3, 150, Some(6));
    (scenario.rates, scenario.habits, scenario.deeds) = (Rates::default(), [].into(), 0);
    (scenario.freshness, scenario.partition_by) = (Duration::from_secs(1), vec![]);
    scenario.topic = Some(plan);
    scenario
}

fn met(report: &Report, what: &str) -> u64 {
    report.coverage.get(what).copied().unwrap_or(0)
}

fn ends_well(report: &Report) {
    let tail = report.trace.len().saturating_sub(40);
    assert_eq!(report.violation, None, "{}\n{}", report.scenario, report.trace[tail..].join("\n"));
}

/// The transaction ends only once every row of the other partitions is in the table: whoever waits for it waits for good.
#[test]
fn a_transaction_that_stays_open_holds_back_its_own_partition_alone() {
    run::seed(7);
    for seed in 0..3 {
        let report = run::scenario(seed, reads(Plan { transactions: true, holds: true, ..QUIET }, 1));
        ends_well(&report);
        assert_eq!(met(&report, "topic × a transaction outlasts all else"), 1, "seed {seed}");
    }
}

/// Which seeds meet what depends on chance: all of these together meet it.
#[test]
fn a_log_that_lost_its_end_is_known_as_another_if_what_it_lost_is_in_and_else_read_on() {
    run::seed(7);
    let (mut known, mut in_it, mut not_in) = (0, 0, 0);
    for loss in [Loss::Tail, Loss::Anew] {
        for seed in 0..8 {
            let mut scenario = reads(Plan { loss: Some(loss), ..QUIET }, 1 + seed % 2);
            (scenario.attempts, scenario.rows) = (100, 400);
            let report = run::scenario(seed, scenario);
            ends_well(&report);
            known += u64::from(met(&report, "topic × is known as another") > 0);
            in_it += u64::from(met(&report, "topic × loses rows that are in") > 0);
            not_in += met(&report, "topic × loses rows that are not in");
        }
    }
    assert!(known > 3 && known <= in_it && not_in > 0, "{known} known of {in_it}, and {not_in} that nobody had read");
}

#[test]
fn rows_that_retention_took_unread_halt_a_pipeline_until_its_operator_passes_over_them() {
    run::seed(7);
    let (mut passed, mut taken) = ([0, 0], 0);
    for seed in 0..16 {
        let skips = seed % 2 == 0;
        let mut scenario = reads(Plan { retention: 6, skips, ..QUIET }, 2);
        (scenario.attempts, scenario.rows) = (100, 400);
        let report = run::scenario(seed, scenario);
        ends_well(&report);
        let halts = met(&report, "operator × passes over what is gone");
        assert!(!skips || halts == 0, "seed {seed} halts, and has no reason to");
        passed[usize::from(skips)] += met(&report, "topic × what is gone is passed over");
        taken += met(&report, "topic × rows go unread");
    }
    assert!(passed.iter().all(|times| *times > 0) && taken > 4, "{passed:?} of {taken}");
}
