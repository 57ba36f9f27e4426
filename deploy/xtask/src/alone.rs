//! `alone`: crates are built by themselves, so that each names the features that it uses.
//!
//! Built together, a crate gets the features that any other asks of a dependency, and one that it
//! forgot to ask for is noticed by nobody until it is built without the others. What reaches
//! DataFusion, a database or librdkafka is left out: building that again for each would take longer
//! than all else together.

use std::path::Path;

use anyhow::{Result, bail};

use crate::ci::{self, Env};

/// Crates whose dependencies are quick to check.
const PACKAGES: [&str; 10] = [
    "nilometer-contract",
    "nilometer-source",
    "nilometer-host",
    "nilometer-cri",
    "nilometer-libvirt",
    "nilometer-simulated",
    "nilometer-surface",
    "nilometer-usage",
    "nilometer-rating",
    "nilometer-placement",
];

/// Of its own: other features would make the usual target folder be built again.
const FOLDER: &str = "target/alone";

pub(crate) fn run(root: &Path) -> Result<()> {
    let mut failed = Vec::new();
    for package in PACKAGES {
        let mut command = ci::cargo(root, &Env::default());
        for variable in ["RUSTC_WORKSPACE_WRAPPER", "CLIPPY_ARGS"] {
            command.env_remove(variable);
        }
        command.env("CARGO_TARGET_DIR", root.join(FOLDER));
        command.args(["check", "--quiet", "--lib", "--package", package]);
        if !command.status()?.success() {
            failed.push(package);
        }
    }
    if !failed.is_empty() {
        bail!(
            "by themselves these do not build, so they use features that others ask for: {}",
            failed.join(", ")
        );
    }
    println!("alone: {} crates build by themselves", PACKAGES.len());
    Ok(())
}
