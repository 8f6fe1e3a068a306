//! What a commit costs beside other writers and on a slow catalog: attempts, requests, bytes.

use std::sync::Arc;
use std::time::Duration;

use frazil::env::{Env, SystemClock};
use frazil::model::ids::MAIN;
use frazil_sim::foreign::Deed;
use frazil_sim::run::{self, Report};
use frazil_sim::scenario::{Scenario, Shape};
use frazil_sim::world::Rates;

/// One pipeline into one table, and nothing goes wrong.
fn calm() -> Scenario {
    let mut scenario = Scenario::draw(&Env::simulated(Arc::new(SystemClock), 1));
    scenario.shape = Shape::Single;
    (scenario.target, scenario.expires, scenario.upkeep) = (MAIN, None, None);
    (scenario.evolves, scenario.format, scenario.idles) = (false, 2, false);
    (scenario.instances, scenario.attempts) = (1, 0);
    (scenario.partitions, scenario.rows, scenario.rate) = (1, 300, Some(4));
    (scenario.rates, scenario.habits, scenario.deeds) = (Rates::default(), [].into(), 0);
    (scenario.freshness, scenario.partition_by) = (Duration::from_secs(1), vec![]);
    scenario
}

fn ends_well(report: &Report) {
    assert_eq!(report.violation, None, "{}", report.trace.join("\n"));
}

#[test]
fn no_attempt_uploads_data_or_reads_history_again() {
    run::seed(7);
    for writers in [0, 1, 2, 8] {
        let mut scenario = calm();
        (scenario.writers, scenario.habits, scenario.deeds) = (writers, [(Deed::Append, 1)].into(), 60);
        scenario.foreign_rest = Duration::from_secs(2);
        let report = run::scenario(3, scenario);
        ends_well(&report);
        let f = report.figures;
        println!("{writers} foreign writers: {f:?}");
        assert!(f.commits > 20, "{f:?}");
        // A file for each commit but the start record, however often it was tried.
        assert!(f.data_files <= f.commits, "{f:?}");
        // Whoever met others loads the table before its next first attempt, and an attempt that others were faster than is looked at:
        // no more than one load for each, on a head whose list was not seen before. Whoever is alone loads none. Beside these there
        // are the start and the rounds of proofs, which read no list for a list.
        let looks = if writers == 0 { f.attempts - f.commits } else { f.attempts };
        assert!(f.loads <= 6 + looks, "{f:?}");
        assert!(f.lists <= 2 + looks, "{f:?}");
        // Manifests are read to be merged, each once, whoever wrote it.
        assert_eq!(f.reads_again, 0, "{f:?}");
        assert!(f.manifests <= f.metadata_files + writers * 60, "{f:?}");
        // A manifest of what is added for each change, and for each attempt a list and at most one merge, all small.
        assert!(f.metadata_files <= f.commits + 2 * f.attempts, "{f:?}");
        assert!(f.metadata_bytes <= 20_000 * f.attempts, "{f:?}");
    }
}

#[test]
fn a_slow_catalog_that_throttles_gets_fewer_and_larger_commits_and_never_a_standstill() {
    run::seed(7);
    let quick = run::scenario(3, calm());
    ends_well(&quick);
    let mut scenario = calm();
    scenario.rates.slow = true;
    let slow = run::scenario(3, scenario);
    ends_well(&slow);
    let (quick, slow) = (quick.figures, slow.figures);
    println!("a quick catalog: {} commits; a slow one: {}, {} attempts", quick.commits, slow.commits, slow.attempts);
    assert!(slow.commits * 2 < quick.commits, "{quick:?} {slow:?}");
    assert!(slow.commits >= 3, "{slow:?}");
}
