//! `simulate-faults`: runs seeds of the simulated pipeline.

use std::path::Path;

use anyhow::{Context, bail};
use clap::Args;

use crate::ci::{self, Env};
use crate::planted;

/// What the simulation is told; it explains the options itself.
#[derive(Debug, Args)]
pub(crate) struct Options {
    /// Build with optimisation: slower to build, and several times the seeds an hour.
    #[arg(long)]
    release: bool,
    /// Plant the known bugs whose names contain this, one at a time, and show that each is found
    #[arg(long, num_args = 0..=1, default_missing_value = "")]
    planted: Option<String>,
    /// Options of the simulation: --seeds N, --seed S, --only KIND, --trace, --jobs N.
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    rest: Vec<String>,
}

pub(crate) fn run(root: &Path, options: &Options) -> anyhow::Result<()> {
    if let Some(filter) = &options.planted {
        return planted::run(root, filter);
    }
    let mut cargo = ci::cargo(root, &Env::default());
    // Of the workspace, so that what the tests have built is used.
    cargo.args(["test", "--quiet", "--workspace", "--test", "simulation"]);
    if options.release {
        cargo.arg("--release");
    }
    let status = cargo.arg("--").args(&options.rest).status().context("cannot start cargo")?;
    if !status.success() {
        bail!("a seed failed");
    }
    Ok(())
}
