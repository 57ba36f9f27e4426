//! `advisories`: no dependency has a known vulnerability or was withdrawn, as `deny.toml` says.
//!
//! It wants `cargo-deny` and a copy of the database of RustSec, which it fetches. A machine that has
//! neither says what was not checked, and goes on: nothing about the tree is wrong then.

use std::path::Path;
use std::process::Command;

use anyhow::{Result, bail};

use crate::phases::{call, read};

pub(crate) fn run(root: &Path) -> Result<()> {
    if let Err(reason) = ready(root) {
        println!("SKIPPED: advisories: {reason}");
        return Ok(());
    }
    call(deny(root).args(["--offline", "check", "advisories", "sources"]))
}

fn deny(root: &Path) -> Command {
    let mut command = Command::new("cargo");
    command.args(["deny", "--locked"]).current_dir(root);
    command
}

/// Gets the database; else says what is missing.
fn ready(root: &Path) -> Result<()> {
    if read(Command::new("cargo").args(["deny", "--version"]).current_dir(root)).is_err() {
        bail!("cargo-deny is not installed; run `cargo install cargo-deny --locked`");
    }
    if let Err(error) = read(deny(root).args(["fetch", "db"])) {
        // Many lines of a network that is not there.
        let text = format!("{error:#}");
        let last = text.lines().rfind(|line| !line.trim().is_empty()).unwrap_or_default();
        bail!("the database of RustSec cannot be fetched: {}", last.trim());
    }
    Ok(())
}
