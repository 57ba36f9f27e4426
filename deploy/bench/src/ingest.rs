//! From log to durable table, beside a peer that takes in the same samples in the same run.
//!
//! Ours and the peer take turns, so that what else the machine does meets both.

use clap::Args;

use crate::figures::{COUNTED, Figures, table};
use crate::load::Load;
use crate::spread::Spread;
use crate::{freshness, ours, peer};

#[derive(Clone, Debug, Args)]
pub(crate) struct Options {
    /// Samples of one run.
    #[arg(long, default_value_t = 10_000_000)]
    samples: u64,
    /// VMs and pods of the fleet; each has about ten series.
    #[arg(long, default_value_t = 2_000)]
    workloads: u32,
    /// Runs.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..))]
    runs: u32,
    /// Seconds of live load for freshness; 0 leaves it out.
    #[arg(long, default_value_t = 20)]
    live_seconds: u32,
    /// Leave the peer out.
    #[arg(long)]
    no_peer: bool,
}

/// Runs the bench and prints its figures.
pub(crate) async fn run(options: Options) -> anyhow::Result<()> {
    let binary = if options.no_peer { None } else { peer::binary()? };
    println!("{COUNTED}");
    let (mut ours, mut peers): (Vec<Figures>, Vec<Figures>) = Default::default();
    for run in 1..=options.runs {
        let folder = tempfile::tempdir()?;
        let folder = folder.path();
        let load = Load::make(&folder.join("log"), options.workloads, options.samples).await?;
        let (figures, question) = ours::run(&load, &folder.join("tables")).await?;
        println!("run {run}, nilometer: {figures}");
        ours.push(figures);
        if let Some(binary) = &binary {
            let figures = peer::run(binary, &load, &question, &folder.join("peer")).await?;
            println!("run {run}, victoria-metrics {}: {figures}", peer::VERSION);
            peers.push(figures);
        }
    }
    if options.live_seconds > 0 {
        println!("{}", freshness::measure(options.live_seconds).await?);
    }
    print!("{}", table(&ours, &peers));
    let rates = Spread::of(ours.iter().map(Figures::samples_per_core_second));
    let sizes = Spread::of(ours.iter().map(Figures::bytes_per_sample));
    println!("ingest: {:.0} samples/s/core, {:.2} B/sample", rates.median(), sizes.median());
    Ok(())
}
