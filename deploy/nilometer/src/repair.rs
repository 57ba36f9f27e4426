//! `nilometer repair`: the tables read through, and what is damaged restored from the log.

use std::process::ExitCode;
use std::sync::Arc;

use anyhow::Context;
use nilometer_clock::{SharedClock, SystemClock};
use nilometer_ingest::repair;

use crate::config::Config;
use crate::screen::say;

/// Says how it goes on; fails if rows are lost that the log does not have any more.
pub(crate) async fn run(config: &Config) -> anyhow::Result<ExitCode> {
    let clock: SharedClock = Arc::new(SystemClock);
    let log = config.settings().open_log(clock.clone())?;
    let storage = config.open_storage(clock)?;
    let done =
        repair(&storage, log, &config.ingest()?, |line| drop(say(&format!("{line}\n")))).await;
    let done = done.context("the tables cannot be repaired")?;
    say(&format!("{done}\n"))?;
    Ok(if done.lost == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
