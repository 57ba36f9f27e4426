//! What every change must pass, in one go, with the heavy dependencies built once.
//!
//! `cargo clippy` only checks: it makes metadata and no code, so the tests after it would build
//! every dependency once more, which here takes longer than all else together. So the members
//! are compiled by clippy's driver (a complete compiler that also lints) as cargo's wrapper for
//! workspace members, with code, while dependencies are compiled as ever. The tests then run
//! what the lints have built.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::Result;

use crate::phases::{Phases, call, read};
use crate::{advisories, alone, deps, docs, test, tidy};

/// Environment of a cargo that builds; the same for each, or it builds everything again.
pub(crate) type Env = Vec<(&'static str, PathBuf)>;

pub(crate) fn run(root: &Path) -> Result<()> {
    let mut phases = Phases::default();
    let done = run_phases(root, &mut phases);
    phases.print();
    done
}

fn run_phases(root: &Path, phases: &mut Phases) -> Result<()> {
    let options = test::Options::default();
    phases.run("format", || {
        call(Command::new("cargo").args(["fmt", "--all", "--check"]).current_dir(root))
    })?;
    phases.run("dependencies", || deps::run(root))?;
    phases.run("advisories", || advisories::run(root))?;
    phases.run("tidy", || tidy::run(root))?;
    let env = linting()?;
    phases.run("lint and build", || {
        call(cargo(root, &env).args(["build", "--workspace", "--all-targets"]))
    })?;
    phases.run("documentation", || docs::run(root, &env))?;
    phases.run("crates alone", || alone::run(root))?;
    test::provide(phases)?;
    phases.run("test", || test::test(root, &options, &env))
}

/// Whether this runs unattended, where nothing may be skipped or resolved anew.
pub(crate) fn is_ci() -> bool {
    std::env::var("CI").is_ok_and(|value| value == "true")
}

/// A cargo that works on the tree.
pub(crate) fn cargo(root: &Path, env: &Env) -> Command {
    let mut command = Command::new("cargo");
    command.current_dir(root).envs(env.iter().map(|(name, value)| (name, value)));
    command.stdin(Stdio::null());
    // What `cargo run` says of this package: build scripts that look at it would run again, and
    // whatever needs them would be built anew, each time that cargo is called the other way.
    for (name, _) in std::env::vars_os() {
        let text = name.to_string_lossy();
        if ["CARGO_PKG_", "CARGO_MANIFEST_"].iter().any(|prefix| text.starts_with(prefix)) {
            command.env_remove(&name);
        }
    }
    command
}

/// Lets clippy's driver compile the members; every warning is an error.
fn linting() -> Result<Env> {
    let sysroot = read(Command::new("rustc").args(["--print", "sysroot"]))?;
    let sysroot = PathBuf::from(String::from_utf8(sysroot)?.trim());
    let installed = sysroot.join("bin/clippy-driver");
    let driver = if installed.exists() { installed } else { "clippy-driver".into() };
    // What `cargo clippy -- -D warnings` sets; the driver splits it at its separator.
    let arguments = "-Dwarnings__CLIPPY_HACKERY__".into();
    Ok(vec![("RUSTC_WORKSPACE_WRAPPER", driver), ("CLIPPY_ARGS", arguments)])
}
