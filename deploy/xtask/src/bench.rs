//! `bench`: what a core can do, in release.

use std::path::Path;

use anyhow::{Context, bail};
use clap::Args;

use crate::ci::{self, Env};

/// What the bench is told; it explains the options itself.
#[derive(Debug, Args)]
pub(crate) struct Options {
    /// Which bench, and its options: `ingest --samples N --runs N`, `year`, `idle`, `labels`.
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    rest: Vec<String>,
}

pub(crate) fn run(root: &Path, options: &Options) -> anyhow::Result<()> {
    let mut cargo = ci::cargo(root, &Env::default());
    cargo.args(["run", "--release", "--package", "nilometer-bench", "--"]);
    let status = cargo.args(&options.rest).status().context("cannot start cargo")?;
    if !status.success() {
        bail!("the bench failed");
    }
    Ok(())
}
