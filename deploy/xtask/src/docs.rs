//! `docs`: the documentation of every library, with warnings denied.
//!
//! `cargo doc` only checks what a crate depends on: it would compile all dependencies once more, as
//! metadata, beside what is built. `cargo test --doc` hands rustdoc what is built already; so this
//! chore stands in for rustdoc there, and documents where tests of the documentation would be run.
//! Binaries have no documentation but their help texts.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use anyhow::{Context, Result, bail};

use crate::ci::{self, Env};
use crate::phases::{call, read};

/// Names the rustdoc that this program stands in for.
const STANDS_IN: &str = "NILOMETER_RUSTDOC";
/// What tests of documentation are told, and documentation is not; each with a value or without.
const FOR_TESTS: [(&str, bool); 8] = [
    ("--test", false),
    ("--test-run-directory", true),
    ("--test-runtool", true),
    ("--test-runtool-arg", true),
    ("--test-args", true),
    ("--test-builder", true),
    ("--test-builder-wrapper", true),
    ("--no-run", false),
];

/// Documents all libraries of the tree with what `env` built.
pub(crate) fn run(root: &Path, env: &Env) -> Result<()> {
    let rustdoc = match read(Command::new("rustup").args(["which", "rustdoc"])) {
        Ok(path) => PathBuf::from(String::from_utf8(path)?.trim()),
        Err(_) => "rustdoc".into(),
    };
    let mut command = ci::cargo(root, env);
    command.args(["test", "--quiet", "--workspace", "--doc"]);
    command.env(STANDS_IN, rustdoc).env("RUSTDOC", this_program()?);
    call(&mut command)
}

/// This program, also where it was built anew since it started.
fn this_program() -> Result<PathBuf> {
    let path = std::env::current_exe().context("which program this is")?;
    let text = path.to_string_lossy();
    Ok(text.strip_suffix(" (deleted)").map_or(path.clone(), PathBuf::from))
}

/// What rustdoc would do, if cargo takes this program for it.
pub(crate) fn stand_in() -> Option<ExitCode> {
    let rustdoc = std::env::var_os(STANDS_IN)?;
    Some(match document(&rustdoc, std::env::args_os().skip(1)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    })
}

fn document(rustdoc: &OsString, given: impl Iterator<Item = OsString>) -> Result<()> {
    let (arguments, is_test) = without_tests(given);
    let mut command = Command::new(rustdoc);
    command.args(arguments);
    if is_test {
        let target = this_program()?;
        let target = target.parent().and_then(Path::parent).context("no target folder")?;
        command.args(["-D", "warnings", "--out-dir"]).arg(target.join("doc"));
    }
    let status = command.status().context("cannot start rustdoc")?;
    if !status.success() {
        bail!("rustdoc: {status}");
    }
    Ok(())
}

/// The arguments without those of tests, and whether these are tests.
fn without_tests(given: impl Iterator<Item = OsString>) -> (Vec<OsString>, bool) {
    let (mut kept, mut is_test, mut skip) = (Vec::new(), false, false);
    for argument in given {
        if std::mem::take(&mut skip) {
            continue;
        }
        let text = argument.to_string_lossy();
        let name = text.split('=').next().unwrap_or_default();
        match FOR_TESTS.iter().find(|(known, _)| *known == name) {
            Some((known, has_value)) => {
                is_test |= *known == "--test";
                skip = *has_value && !text.contains('=');
            }
            None => kept.push(argument),
        }
    }
    (kept, is_test)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kept(text: &str) -> (String, bool) {
        let (kept, is_test) = without_tests(text.split_whitespace().map(OsString::from));
        (kept.join(" ".as_ref()).to_string_lossy().into_owned(), is_test)
    }

    #[test]
    fn tests_become_documentation() {
        let given = "--edition=2024 --crate-name a --test src/lib.rs --test-run-directory /a \
                     --extern b=libb.rlib --test-args=x -L dependency=deps";
        let expected =
            "--edition=2024 --crate-name a src/lib.rs --extern b=libb.rlib -L dependency=deps";
        assert_eq!(kept(given), (expected.to_owned(), true));
        assert_eq!(kept("-vV"), ("-vV".to_owned(), false));
    }
}
