//! Runs seeds and tells what came of them.

// Runs beside virtual time, on the machine's own clock and threads.
#![allow(clippy::disallowed_methods)]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::sync_channel;
use std::time::{Duration, Instant};

use clap::Parser;
use frazil_sim::coverage;
use frazil_sim::run::{self, Report};
use frazil_sim::shrink;

/// Seeds that are run before the first that counts: one-time initialisers draw from the generator.
const WARM_UP: u64 = 7;
/// Lines of a story.
const STORY: usize = 60;
/// How often it is told how far it is.
const PROGRESS: Duration = Duration::from_secs(20);

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
    /// Leaves these steps of the replayed seed out.
    #[arg(long, value_delimiter = ',', requires = "replay")]
    without: Vec<u64>,
    /// Shows each seed.
    #[arg(long)]
    verbose: bool,
    /// Begins no further seed after so many minutes.
    #[arg(long)]
    minutes: Option<u64>,
    /// Goes on after a violation.
    #[arg(long)]
    keep_going: bool,
    /// Shortens the story of a violation for at most so many seconds.
    #[arg(long, default_value_t = 60)]
    shrink: u64,
    /// Shows each event as it happens, and the daemon's own log.
    #[arg(long)]
    log: bool,
}

fn main() -> ExitCode {
    let flags = Flags::parse();
    run::seed(WARM_UP);
    frazil_sim::world::LIVE.store(flags.log, Ordering::Relaxed);
    let jobs = flags.jobs.unwrap_or_else(|| std::thread::available_parallelism().map_or(1, usize::from));
    let (from, seeds) = flags.replay.map_or((flags.from, flags.seeds), |seed| (seed, 1));
    let without: BTreeSet<u64> = flags.without.iter().copied().collect();
    let began = Instant::now();
    let (sender, reports) = sync_channel(jobs);
    let next = Arc::new(AtomicU64::new(from));
    for _ in 0..jobs {
        let (sender, next, minutes, without) = (sender.clone(), Arc::clone(&next), flags.minutes, without.clone());
        std::thread::spawn(move || {
            loop {
                if minutes.is_some_and(|minutes| began.elapsed().as_secs() >= minutes * 60) {
                    return;
                }
                let seed = next.fetch_add(1, Ordering::Relaxed);
                if seed >= from + seeds || sender.send(run::seed_without(seed, without.clone())).is_err() {
                    return;
                }
            }
        });
    }
    drop(sender);
    let mut total = Total::default();
    let mut failed = Vec::new();
    let mut told = began;
    for report in reports {
        total.add(&report);
        if told.elapsed() >= PROGRESS {
            told = Instant::now();
            let rate = total.rate(began.elapsed().as_secs_f64());
            eprintln!("{} of {seeds} seeds, {rate:.2} a second, {} violations", total.seeds, failed.len());
        }
        if flags.verbose || flags.replay.is_some() {
            println!("{}", line(&report));
        }
        if let Some(file) = flags.trace.as_ref().filter(|_| flags.replay.is_some() || report.violation.is_some()) {
            fs::write(file, report.trace.join("\n") + "\n").unwrap_or_else(|e| println!("{file}: {e}"));
        }
        if report.violation.is_some() {
            failed.push(report.seed);
            tell(report, &without, Duration::from_secs(flags.shrink));
            if !flags.keep_going {
                break;
            }
        }
    }
    total.tell(began.elapsed().as_secs_f64(), jobs);
    if !failed.is_empty() {
        println!("simulation: VIOLATION in {} of {} seeds: {failed:?}", failed.len(), total.seeds);
        return ExitCode::FAILURE;
    }
    let missed = coverage::missed(&total.met, total.seeds);
    // Some of the gate's entries are met late among its seeds: others seeds than its own may need more of them.
    if !missed.is_empty() && (from == 1 || total.seeds >= coverage::JUDGED_FROM) {
        println!("simulation: never met in {} seeds: {}", total.seeds, missed.join(", "));
        return ExitCode::FAILURE;
    }
    println!("simulation: {} seeds from {from}, no violation", total.seeds);
    ExitCode::SUCCESS
}

fn line(report: &Report) -> String {
    format!(
        "seed {}: hash {:016x}, {} events, {} commits sent, {} s of virtual time{}",
        report.seed,
        report.hash,
        report.trace.len(),
        report.figures.attempts,
        report.elapsed.as_secs(),
        if report.violation.is_some() { ", VIOLATION" } else { "" }
    )
}

/// The shortest story that was found, and how to see it again.
fn tell(report: Report, without: &BTreeSet<u64>, time: Duration) {
    let (seed, violation) = (report.seed, report.violation.clone().unwrap_or_default());
    println!("\nseed {seed}: {violation}");
    println!("scenario: {}", report.scenario);
    println!("again: scripts/simulate --replay {seed} --trace trace.txt");
    let events = report.trace.len();
    let short = shrink::shrink(report, without.clone(), time);
    let left = short.report.steps.saturating_sub(short.without.len() as u64);
    println!(
        "the last of {} events (there were {events}; {} stories tried, {left} steps left):",
        short.report.trace.len(),
        short.tried
    );
    let told: Vec<_> = short.report.trace.iter().filter(|line| !line.contains(" deletes ")).collect();
    for line in told.iter().skip(told.len().saturating_sub(STORY)) {
        println!("  {}", line.chars().take(400).collect::<String>());
    }
    let without: Vec<String> = short.without.iter().map(u64::to_string).collect();
    println!("again, short: scripts/simulate --replay {seed} --trace trace.txt --without {}\n", without.join(","));
}

#[derive(Debug, Default)]
struct Total {
    seeds: u64,
    attempts: u64,
    met: BTreeMap<String, u64>,
}

impl Total {
    fn add(&mut self, report: &Report) {
        self.seeds += 1;
        self.attempts += report.figures.attempts;
        for (what, times) in &report.coverage {
            *self.met.entry(what.clone()).or_default() += times;
        }
    }

    fn tell(&self, seconds: f64, jobs: usize) {
        let expected = coverage::table(&self.met);
        println!("expected, and how often it was met:");
        for (what, times) in &expected {
            println!("  {times:>8}  {what}{}", if *times == 0 { "  NEVER" } else { "" });
        }
        println!("met beside it:");
        let expected: BTreeSet<&String> = expected.iter().map(|(what, _)| what).collect();
        for (what, times) in self.met.iter().filter(|(what, _)| !expected.contains(what)) {
            println!("  {times:>8}  {what}");
        }
        let rate = self.rate(seconds);
        println!(
            "{} seeds in {seconds:.1} s: {rate:.2} a second on {jobs} threads, {} commits sent a seed",
            self.seeds,
            self.attempts / self.seeds.max(1)
        );
    }

    /// Seeds a second.
    #[allow(clippy::cast_precision_loss)]
    fn rate(&self, seconds: f64) -> f64 {
        self.seeds as f64 / seconds.max(0.001)
    }
}
