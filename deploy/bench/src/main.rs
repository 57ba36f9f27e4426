//! Benchmarks: what a core can do, measured on the machine at hand.
//!
//! Run by `cargo xtask bench`; never part of the tests.
#![allow(clippy::print_stdout, reason = "a bench talks")]

mod ingest;
mod load;
mod spread;

use clap::{Parser, Subcommand};

#[derive(Debug, Parser)]
struct Arguments {
    #[command(subcommand)]
    bench: Bench,
}

#[derive(Debug, Subcommand)]
enum Bench {
    /// From log to durable table: samples per CPU-second, bytes per sample, freshness, one query.
    Ingest(ingest::Options),
}

fn main() -> anyhow::Result<()> {
    let runtime = tokio::runtime::Runtime::new()?;
    match Arguments::parse().bench {
        Bench::Ingest(options) => runtime.block_on(ingest::run(options)),
    }
}
