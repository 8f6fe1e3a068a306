//! Runs seeds and tells what came of them.

use std::collections::BTreeMap;
use std::fs;
use std::process::ExitCode;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::sync_channel;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use clap::Parser;
use frazil_sim::run::{self, Report};

/// Seeds that are run before the first that counts: one-time initialisers draw from the generator.
const WARM_UP: u64 = 7;
/// Lines of a story.
const STORY: usize = 60;

/// Runs the real daemon on virtual time against every fault, seed by seed.
#[derive(Debug, Parser)]
struct Flags {
    /// Seeds to run.
    #[arg(long, default_value_t = 100)]
    seeds: u64,
    /// The first of them.
    #[arg(long, default_value_t = 1)]
    from: u64,
    /// Threads; by default as many as the machine has cores.
    #[arg(long)]
    jobs: Option<usize>,
    /// Writes the whole trace of the last seed, or of the one that failed, to this file.
    #[arg(long)]
    trace: Option<String>,
    /// Runs this seed alone.
    #[arg(long)]
    replay: Option<u64>,
    /// Shows each seed.
    #[arg(long)]
    verbose: bool,
    /// Begins no further seed after so many minutes.
    #[arg(long)]
    minutes: Option<u64>,
    /// Goes on after a violation.
    #[arg(long)]
    keep_going: bool,
    /// Shows each event as it happens, and the daemon's own log.
    #[arg(long)]
    log: bool,
}

fn main() -> ExitCode {
    let flags = Flags::parse();
    if flags.log {
        tracing_subscriber::fmt()
            .without_time()
            .with_max_level(tracing_subscriber::filter::LevelFilter::DEBUG)
            .with_writer(std::io::stderr)
            .init();
    }
    run::seed(WARM_UP);
    frazil_sim::world::LIVE.store(flags.log, Ordering::Relaxed);
    let (from, seeds) = flags.replay.map_or((flags.from, flags.seeds), |seed| (seed, 1));
    let jobs = flags.jobs.unwrap_or_else(|| std::thread::available_parallelism().map_or(1, usize::from));
    let began = Instant::now();
    let (sender, reports) = sync_channel(jobs);
    let next = Arc::new(AtomicU64::new(from));
    for _ in 0..jobs {
        let (sender, next, minutes) = (sender.clone(), Arc::clone(&next), flags.minutes);
        std::thread::spawn(move || {
            loop {
                if minutes.is_some_and(|minutes| began.elapsed().as_secs() >= minutes * 60) {
                    return;
                }
                let seed = next.fetch_add(1, Ordering::Relaxed);
                if seed >= from + seeds || sender.send(run::seed(seed)).is_err() {
                    return;
                }
            }
        });
    }
    drop(sender);
    let mut total = Total::default();
    let failed = Mutex::new(Vec::new());
    for report in reports {
        total.add(&report);
        if flags.verbose || flags.replay.is_some() {
            println!(
                "seed {}: hash {:016x}, {} events, {} commits, {} s of virtual time{}",
                report.seed,
                report.hash,
                report.trace.len(),
                report.attempts,
                report.elapsed.as_secs(),
                if report.violation.is_some() { ", VIOLATION" } else { "" }
            );
        }
        if flags.replay.is_some() || report.violation.is_some() {
            if let Some(file) = &flags.trace {
                fs::write(file, report.trace.join("\n") + "\n").unwrap_or_else(|e| println!("{file}: {e}"));
            }
        }
        if report.violation.is_some() {
            tell(&report);
            failed.lock().unwrap_or_else(PoisonError::into_inner).push(report.seed);
            if !flags.keep_going {
                break;
            }
        }
    }
    total.tell(began.elapsed().as_secs_f64(), jobs);
    let failed = failed.into_inner().unwrap_or_else(PoisonError::into_inner);
    if failed.is_empty() {
        println!("simulation: {} seeds from {from}, no violation", total.seeds);
        return ExitCode::SUCCESS;
    }
    println!("simulation: VIOLATION in {} of {} seeds: {failed:?}", failed.len(), total.seeds);
    ExitCode::FAILURE
}

/// The end of what happened, and how to see it again.
fn tell(report: &Report) {
    println!("\nseed {}: {}", report.seed, report.violation.as_deref().unwrap_or_default());
    println!("scenario: {}", report.scenario);
    println!("the last of {} events:", report.trace.len());
    for line in report.trace.iter().skip(report.trace.len().saturating_sub(STORY)) {
        println!("  {}", line.chars().take(400).collect::<String>());
    }
    println!("again: scripts/simulate --replay {} --trace trace.txt\n", report.seed);
}

#[derive(Debug, Default)]
struct Total {
    seeds: u64,
    attempts: u64,
    coverage: BTreeMap<String, u64>,
}

impl Total {
    fn add(&mut self, report: &Report) {
        self.seeds += 1;
        self.attempts += report.attempts;
        for (what, times) in &report.coverage {
            *self.coverage.entry(what.clone()).or_default() += times;
        }
    }

    fn tell(&self, seconds: f64, jobs: usize) {
        println!("met, and how often:");
        for (what, times) in &self.coverage {
            println!("  {times:>8}  {what}");
        }
        #[allow(clippy::cast_precision_loss)] // a rate
        let rate = self.seeds as f64 / seconds.max(0.001);
        println!(
            "{} seeds in {seconds:.1} s: {rate:.2} a second on {jobs} threads, {} commits a seed",
            self.seeds,
            self.attempts / self.seeds.max(1)
        );
    }
}
