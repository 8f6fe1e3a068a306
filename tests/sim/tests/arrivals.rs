//! Tables that another engine deletes from by place, again and again, are compacted all the while: no delete is lost, none hits
//! another row, and rewrites get in all the same.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use frazil::env::{Env, SystemClock};
use frazil::model::ids::MAIN;
use frazil_sim::foreign::Deed;
use frazil_sim::maintainer::Upkeep;
use frazil_sim::run;
use frazil_sim::scenario::{Scenario, Shape};

/// One table that is compacted by rounds and by hand, and an engine that deletes from it.
fn upserted(seed: u64, format: u8) -> Scenario {
    let mut scenario = Scenario::draw(&Env::simulated(Arc::new(SystemClock), seed));
    (scenario.shape, scenario.format, scenario.target) = (Shape::Single, format, MAIN);
    (scenario.expires, scenario.idles) = (None, false);
    scenario.habits = BTreeMap::from([(Deed::Append, 1), (Deed::DeletePositions, 8), (Deed::DeleteKeys, 1)]);
    (scenario.deeds, scenario.foreign_rest) = (80, Duration::from_secs(4));
    let rest = Duration::from_secs(10);
    scenario.upkeep = Some(Upkeep { jobs: false, rounds: true, verbs: true, policy: 0, rest });
    scenario
}

#[test]
fn deletes_that_arrive_while_files_are_rewritten_are_neither_lost_nor_doubled() {
    for format in [2, 3] {
        let mut met: BTreeMap<String, u64> = BTreeMap::new();
        for seed in 0..4 {
            let report = run::scenario(seed, upserted(seed, format));
            assert_eq!(report.violation, None, "format {format}, seed {seed}: {}", report.scenario);
            report.coverage.into_iter().for_each(|(what, times)| *met.entry(what).or_default() += times);
        }
        let of = |what: &str| met.get(what).copied().unwrap_or(0);
        let lost: u64 = met.iter().filter(|(what, _)| what.contains("lost: deletes")).map(|(_, times)| times).sum();
        let (done, remapped) = (of("maintenance × compact done"), of("maintenance × deletes remapped"));
        assert!(remapped > 0 && done > lost, "format {format}: {done} done, {remapped} remapped, {lost} lost");
        assert!(of("replace × deletes carried over") > 0, "format {format}: {met:?}");
    }
}
