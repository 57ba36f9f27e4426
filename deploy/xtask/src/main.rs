//! The project's chores, as `cargo xtask <chore>`; one file per chore.
//!
//! Light on purpose: it is built before anything else, and builds in seconds.
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "talking is what it is for")]

mod advisories;
mod alone;
mod bench;
mod ci;
mod crash;
mod deps;
mod docs;
mod mutants;
mod packages;
mod phases;
mod planted;
mod simulate;
mod size;
mod test;
mod tidy;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(about = "The project's chores")]
struct Arguments {
    #[command(subcommand)]
    chore: Chore,
}

#[derive(Subcommand)]
enum Chore {
    /// Check the dependencies against the advisories of RustSec
    Advisories,
    /// Build crates by themselves, with the features that they ask for alone
    Alone,
    /// Measure what a core can do, in release
    Bench(bench::Options),
    /// Format, dependencies, tidiness, lints, tests: what every change must pass
    Ci,
    /// Kill agent, log and ingester at random and compare the bill
    Crash(crash::Options),
    /// Check the direction, versions and licences of dependencies
    Deps,
    /// Document every library, with warnings denied
    Docs,
    /// Change the pure crates in small ways and count what their tests notice
    Mutants(mutants::Options),
    /// Run seeds of the simulated pipeline while everything fails, and judge bills and samples
    SimulateFaults(simulate::Options),
    /// Measure the agent's program and its memory while it collects
    Size(size::Options),
    /// Run all tests, after getting what they need
    Test(test::Options),
    /// Check the style that compilers do not
    Tidy,
}

fn main() -> ExitCode {
    if let Some(done) = docs::stand_in() {
        return done;
    }
    let root = root();
    let done = match Arguments::parse().chore {
        Chore::Advisories => advisories::run(&root),
        Chore::Alone => alone::run(&root),
        Chore::Bench(options) => bench::run(&root, &options),
        Chore::Crash(options) => crash::run(&root, &options),
        Chore::Ci => ci::run(&root),
        Chore::Deps => deps::run(&root),
        Chore::Docs => docs::run(&root, &ci::Env::default()),
        Chore::Mutants(options) => mutants::run(&root, &options),
        Chore::SimulateFaults(options) => simulate::run(&root, &options),
        Chore::Size(options) => size::run(&root, &options),
        Chore::Test(options) => test::run(&root, &options),
        Chore::Tidy => tidy::run(&root),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// The root of the tree this was built from.
fn root() -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.ancestors().nth(2).unwrap_or(here).to_owned()
}
