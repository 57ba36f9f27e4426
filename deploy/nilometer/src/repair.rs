//! `nilometer repair`: the tables read through, and what is damaged restored from the log.

use std::process::ExitCode;

use anyhow::Context;
use nilometer_ingest::repair;

use crate::config::Config;
use crate::screen::say;

/// Says how it goes on; fails if rows are lost that the log does not have any more.
pub(crate) async fn run(config: &Config) -> anyhow::Result<ExitCode> {
    let (log, storage) = (config.settings().open_log()?, config.open_storage()?);
    let done =
        repair(&storage, log, &config.ingest()?, |line| drop(say(&format!("{line}\n")))).await;
    let done = done.context("the tables cannot be repaired")?;
    say(&format!("{done}\n"))?;
    Ok(if done.lost == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
