//! `crash`: kills agent, log and ingester at random and compares the bill.

use std::path::Path;

use anyhow::{Context, bail};
use clap::Args;

use crate::ci::{self, Env};

/// What the crash test is told; it explains the options itself.
#[derive(Debug, Args)]
pub(crate) struct Options {
    /// Build without optimisation, as the tests are.
    #[arg(long)]
    debug: bool,
    /// Options of the crash test: --kills N, --faults all|none|…, --log embedded|kafka, --seed N.
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    rest: Vec<String>,
}

pub(crate) fn run(root: &Path, options: &Options) -> anyhow::Result<()> {
    let mut cargo = ci::cargo(root, &Env::default());
    cargo.args(["test", "--package", "nilometer", "--test", "crash"]);
    if !options.debug {
        cargo.arg("--release");
    }
    let status = cargo.arg("--").args(&options.rest).status().context("cannot start cargo")?;
    if !status.success() {
        bail!("the crash test failed");
    }
    Ok(())
}
