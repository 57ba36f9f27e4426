//! `simulate-faults`: runs seeds of the simulated pipeline.

use std::path::Path;
use std::process::Command;

use anyhow::{Context, bail};
use clap::Args;

/// What the simulation is told; it explains the options itself.
#[derive(Debug, Args)]
pub(crate) struct Options {
    /// Build with optimisation: slower to build, and several times the seeds an hour.
    #[arg(long)]
    release: bool,
    /// Options of the simulation: --seeds N, --seed S, --only KIND, --trace, --jobs N.
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    rest: Vec<String>,
}

pub(crate) fn run(root: &Path, options: &Options) -> anyhow::Result<()> {
    let mut cargo = Command::new(env!("CARGO"));
    // Of the workspace, so that what the tests have built is used.
    cargo.current_dir(root).args(["test", "--quiet", "--workspace", "--test", "simulation"]);
    if options.release {
        cargo.arg("--release");
    }
    let status = cargo.arg("--").args(&options.rest).status().context("cannot start cargo")?;
    if !status.success() {
        bail!("a seed failed");
    }
    Ok(())
}
