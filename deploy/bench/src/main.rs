//! Benchmarks: what a core can do, measured on the machine at hand.
//!
//! Run by `cargo xtask bench`; never part of the tests.
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a bench talks")]

mod aged;
mod figures;
mod folder;
mod freshness;
mod idle;
mod ingest;
mod labels;
mod load;
mod ours;
mod peer;
mod process;
mod question;
mod remote_write;
mod spread;
mod year;

use clap::{Parser, Subcommand};

#[derive(Debug, Parser)]
struct Arguments {
    #[command(subcommand)]
    bench: Bench,
}

#[derive(Debug, Subcommand)]
enum Bench {
    /// From log to durable table, beside VictoriaMetrics: samples per CPU-second, bytes per
    /// sample, one query; and freshness.
    Ingest(ingest::Options),
    /// `up` on an idle machine: CPU, memory, files and bytes an hour.
    Idle(idle::Options),
    /// A label that gets a new value with every sample: what is refused, and the memory.
    Labels(labels::Options),
    /// A store after a year: a commit, a start, an idle reader, questions; and a million series.
    Year(year::Options),
    /// A part of it, which `year` starts.
    #[command(hide = true)]
    Aged(year::Job),
    /// Our side of a run, which `ingest` starts.
    #[command(hide = true)]
    Ours(ours::Job),
}

fn main() -> anyhow::Result<()> {
    let runtime = tokio::runtime::Runtime::new()?;
    match Arguments::parse().bench {
        Bench::Ingest(options) => runtime.block_on(ingest::run(options)),
        Bench::Idle(options) => runtime.block_on(idle::run(options)),
        Bench::Labels(options) => runtime.block_on(labels::run(options)),
        Bench::Year(options) => runtime.block_on(year::run(options)),
        Bench::Aged(job) => runtime.block_on(year::work(job)),
        Bench::Ours(job) => runtime.block_on(ours::work(job)),
    }
}
