//! A violation's story made short: steps are left out while the same oracle still speaks.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use crate::run::{self, Report};

/// The shortest story that was found.
#[derive(Debug)]
pub struct Shrunk {
    /// What came of the seed without those steps.
    pub report: Report,
    /// The steps left out.
    pub without: BTreeSet<u64>,
    /// Stories tried.
    pub tried: u64,
}

/// Leaves out steps of a seed that failed, in ever smaller pieces, for as long as `time` lasts.
pub fn shrink(failed: Report, without: BTreeSet<u64>, time: Duration) -> Shrunk {
    let began = Instant::now();
    let oracle = oracle(&failed);
    let mut best = Shrunk { report: failed, without, tried: 0 };
    let steps: Vec<u64> = (1..=best.report.steps).filter(|step| !best.without.contains(step)).collect();
    let mut size = steps.len().max(1);
    loop {
        // The end of a story is often what came after the fault that mattered: it goes first.
        for piece in steps.rchunks(size) {
            let mut without = best.without.clone();
            without.extend(piece);
            if without.len() == best.without.len() {
                continue;
            }
            if began.elapsed() >= time {
                return best;
            }
            best.tried += 1;
            let report = run::seed_without(best.report.seed, without.clone());
            if self::oracle(&report) == oracle {
                (best.report, best.without) = (report, without);
            }
        }
        if size == 1 {
            return best;
        }
        size = size.div_ceil(2);
    }
}

/// Which oracle spoke: the violation without what differs from story to story.
fn oracle(report: &Report) -> Option<String> {
    let told = report.violation.as_deref()?;
    let told = told.split(|c: char| !c.is_ascii_alphanumeric() && c != '_').filter(|word| word.len() > 1);
    let words: Vec<&str> = told.filter(|word| !word.bytes().any(|b| b.is_ascii_digit())).collect();
    let generic = words.into_iter().filter(|word| !matches!(*word, "shop" | "events" | "foreign"));
    Some(generic.take(12).collect::<Vec<_>>().join(" "))
}
