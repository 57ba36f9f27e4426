//! Runs seeds of the simulation: a few as a test, thousands on demand.
#![allow(clippy::print_stdout, clippy::print_stderr, clippy::unwrap_used)]

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::ExitCode;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use clap::Parser;
use nilometer_simulation::{KINDS, Kind, NOT_YET, Options, Outcome, simulate};

/// Seeds that found a defect, which is mended, with how many of the [`KINDS`] there were then, and
/// what was wrong.
const FOUND: &[(u64, usize, &str)] = &[
    (1102, 21, "a follower noted as lost what the owner had stored"),
    (2055, 21, "the gap of a replaced log was stored before what was read of it"),
    (4035, 23, "what an append may have brought to the log was said to be lost"),
    (4134, 23, "a gap of an agent was sent again with more, and counted twice"),
];

/// Simulates the whole pipeline while everything fails, and judges what came of it.
#[derive(Debug, Parser)]
struct Arguments {
    /// How many seeds to run.
    #[arg(long, default_value_t = 6)]
    seeds: u64,
    /// The first seed.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Only faults of these kinds, by name; "none" is none.
    #[arg(long)]
    only: Vec<String>,
    /// Threads.
    #[arg(long, default_value_t = 2)]
    jobs: u64,
    /// Also run the first seed twice more, and compare the traces.
    #[arg(long)]
    twice: bool,
    /// Stop at the first seed that fails.
    #[arg(long)]
    stop: bool,
    /// Print what happened, line by line.
    #[arg(long)]
    trace: bool,
    /// What the product logs, as `RUST_LOG` has it.
    #[arg(long)]
    log: Option<String>,
    /// What test runners pass; ignored.
    #[arg(hide = true, num_args = 0.., allow_hyphen_values = true)]
    rest: Vec<String>,
}

fn main() -> anyhow::Result<ExitCode> {
    let mut arguments = Arguments::parse();
    // As a test it says that runs can be repeated, and that what was found stays mended.
    let is_test = std::env::args().len() == 1;
    arguments.twice |= is_test;
    if let Some(filter) = &arguments.log {
        let filter = tracing_subscriber::EnvFilter::new(filter);
        tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).init();
    }
    let kinds = match arguments.only.is_empty() {
        true => KINDS.to_vec(),
        false => named(&arguments.only)?,
    };
    let options = Options { kinds };
    let began = Instant::now();
    let next = AtomicU64::new(arguments.seed);
    let (samples, missing) = (AtomicU64::new(0), AtomicU64::new(0));
    let failed = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..arguments.jobs.clamp(1, arguments.seeds.max(1)) {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    let stopped = arguments.stop && !failed.lock().unwrap().is_empty();
                    if stopped || seed >= arguments.seed + arguments.seeds {
                        return;
                    }
                    let outcome = run(seed, &options);
                    samples.fetch_add(outcome.samples, Ordering::Relaxed);
                    missing.fetch_add(outcome.missing, Ordering::Relaxed);
                    tell(seed, &outcome, &arguments);
                    if outcome.failure.is_some() {
                        failed.lock().unwrap().push(seed);
                    }
                }
            });
        }
    });
    let mut failed = failed.into_inner()?;
    if arguments.twice && !is_repeatable(arguments.seed, &options) {
        failed.push(arguments.seed);
    }
    for &(seed, kinds, what) in FOUND.iter().filter(|_| is_test) {
        let outcome = run(seed, &Options { kinds: KINDS[..kinds].to_vec() });
        if let Some(failure) = outcome.failure {
            println!("seed {seed} with {kinds} kinds FAILED again, {what}: {failure}");
            failed.push(seed);
        }
    }
    let seconds = began.elapsed().as_secs_f64();
    println!(
        "seeds={} failed={} samples={} missing={} seconds={seconds:.1} per_hour={:.0}",
        arguments.seeds,
        failed.len(),
        samples.into_inner(),
        missing.into_inner(),
        arguments.seeds as f64 / seconds * 3_600.0
    );
    Ok(if failed.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn run(seed: u64, options: &Options) -> Outcome {
    let memory = std::path::Path::new("/dev/shm");
    let folder = match memory.is_dir() {
        true => tempfile::tempdir_in(memory).unwrap(),
        false => tempfile::tempdir().unwrap(),
    };
    let simulated = catch_unwind(AssertUnwindSafe(|| simulate(seed, options, folder.path())));
    let failed = |why: String| Outcome {
        samples: 0,
        missing: 0,
        faults: Vec::new(),
        trace: Vec::new(),
        failure: Some(why),
    };
    match simulated {
        Ok(Ok(outcome)) => outcome,
        Ok(Err(error)) => failed(format!("{error:#}")),
        Err(_) => failed("it panicked".to_owned()),
    }
}

/// The same seed gives the same trace; says so if not.
fn is_repeatable(seed: u64, options: &Options) -> bool {
    let (once, again) = (run(seed, options), run(seed, options));
    let differs = once.trace.iter().zip(&again.trace).find(|(once, again)| once != again);
    if let Some((once, again)) = differs {
        println!("seed {seed} is not repeatable:\n  {once}\n  {again}");
    }
    once.digest() == again.digest()
}

fn tell(seed: u64, outcome: &Outcome, arguments: &Arguments) {
    let only = match arguments.only.as_slice() {
        [] => String::new(),
        only => format!(" --only {}", only.join(",")),
    };
    if arguments.trace {
        outcome.trace.iter().for_each(|line| println!("{line}"));
        println!("seed {seed}: {} samples, digest {:016x}", outcome.samples, outcome.digest());
    }
    if let Some(failure) = &outcome.failure {
        let faults = outcome.faults.join("\n  ");
        println!("seed {seed} FAILED: {failure}\n  {faults}");
        println!("  again: cargo xtask simulate-faults --seeds 1 --seed {seed}{only}");
    }
}

fn named(names: &[String]) -> anyhow::Result<Vec<Kind>> {
    let mut kinds = Vec::new();
    for name in names.iter().flat_map(|names| names.split(',')).filter(|name| *name != "none") {
        let mut all = KINDS.iter().chain(NOT_YET.iter().map(|(kind, _)| kind));
        let kind = all.find(|kind| format!("{kind:?}").eq_ignore_ascii_case(name));
        let unknown = || anyhow::anyhow!("no kind {name}; there are {KINDS:?} and {NOT_YET:?}");
        kinds.push(*kind.ok_or_else(unknown)?);
    }
    Ok(kinds)
}
