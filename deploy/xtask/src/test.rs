//! All tests of the workspace, after getting what they need; what was skipped is listed.
//!
//! Tests that need real services start them through the test bed, and tell on standard error,
//! past the harness's capture, what the machine could not do. In CI they fail instead.

use std::io::{self, Read, Write};
use std::path::Path;
use std::process::{Command, ExitStatus, Stdio};
use std::thread;

use anyhow::{Context, Result, anyhow, bail};

use crate::ci::{self, Env};
use crate::packages;
use crate::phases::{Phases, call, shown};

/// Lines of a failed suite that are repeated at the end.
const LINES: usize = 60;
/// How tests begin the line that says what they could not do.
const SKIPPED: &str = "SKIPPED: ";

#[derive(clap::Args, Default)]
pub(crate) struct Options {
    /// Only tests whose name contains this
    #[arg(long)]
    filter: Option<String>,
    /// Only this package; may be given more than once
    #[arg(short, long)]
    package: Vec<String>,
}

/// Provides, builds, tests; prints times and what was skipped.
pub(crate) fn run(root: &Path, options: &Options) -> Result<()> {
    let mut phases = Phases::default();
    let env = Env::default();
    let done = provide(&mut phases)
        .and_then(|()| {
            phases.run("build", || call(cargo_test(root, options, &env).arg("--no-run")))
        })
        .and_then(|()| phases.run("test", || test(root, options, &env)));
    phases.print();
    done
}

/// Gets what the tests need; what cannot be had is told, and the tests decide.
pub(crate) fn provide(phases: &mut Phases) -> Result<()> {
    phases.run("provide", || {
        for lacking in packages::provide() {
            eprintln!("not provided: {lacking}");
        }
        Ok(())
    })
}

/// Runs the tests once and sums up.
pub(crate) fn test(root: &Path, options: &Options, env: &Env) -> Result<()> {
    let mut command = cargo_test(root, options, env);
    if ci::is_ci() {
        command.env("NILOMETER_TESTBED", "required");
    }
    // One broken suite must not hide another.
    command.arg("--no-fail-fast");
    if let Some(filter) = &options.filter {
        command.args(["--", filter]);
    }
    let (status, said) = tee(&mut command)?;
    let summary = Summary::of(&said);
    println!();
    for line in failures(&said) {
        println!("{line}");
    }
    for reason in &summary.skipped {
        println!("{SKIPPED}{reason}");
    }
    println!(
        "tests: {} passed, {} failed, {} ignored; {} things skipped",
        summary.passed,
        summary.failed,
        summary.ignored,
        summary.skipped.len()
    );
    if !status.success() {
        bail!("{}: {status}", shown(&command));
    }
    Ok(())
}

fn cargo_test(root: &Path, options: &Options, env: &Env) -> Command {
    let mut command = ci::cargo(root, env);
    command.arg("test");
    if options.package.is_empty() {
        command.arg("--workspace");
    }
    for package in &options.package {
        command.args(["--package", package]);
    }
    command
}

/// Runs a command whose output goes where ours goes, and is returned.
fn tee(command: &mut Command) -> Result<(ExitStatus, String)> {
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| format!("cannot start {}", shown(command)))?;
    let out = child.stdout.take().context("no standard output")?;
    let err = child.stderr.take().context("no standard error")?;
    let (said, complained) = thread::scope(|scope| {
        let said = scope.spawn(|| copy(out, io::stdout()));
        let complained = copy(err, io::stderr());
        (said.join(), complained)
    });
    let said = said.map_err(|_| anyhow!("reading the standard output panicked"))??;
    Ok((child.wait()?, said + &complained?))
}

/// Passes everything on at once, and keeps it.
fn copy(mut from: impl Read, mut to: impl Write) -> io::Result<String> {
    let mut kept = Vec::new();
    let mut chunk = [0; 4096];
    loop {
        let count = from.read(&mut chunk)?;
        if count == 0 {
            return Ok(String::from_utf8_lossy(&kept).into_owned());
        }
        to.write_all(&chunk[..count])?;
        to.flush()?;
        kept.extend_from_slice(&chunk[..count]);
    }
}

/// What the suites said, together.
#[derive(Debug, Default, PartialEq, Eq)]
struct Summary {
    passed: usize,
    failed: usize,
    ignored: usize,
    /// In order, each once.
    skipped: Vec<String>,
}

impl Summary {
    fn of(said: &str) -> Self {
        let mut summary = Summary::default();
        for line in said.lines() {
            if let Some(result) = line.strip_prefix("test result: ") {
                summary.passed += count(result, "passed");
                summary.failed += count(result, "failed");
                summary.ignored += count(result, "ignored");
            } else if let Some((_, reason)) = line.split_once(SKIPPED)
                && !summary.skipped.iter().any(|known| known == reason)
            {
                summary.skipped.push(reason.to_owned());
            }
        }
        summary
    }
}

/// What suites that failed said of it, each at most [`LINES`] lines: who reads the end of a long
/// output sees why. Those of the usual harness say it on standard output, the others on standard
/// error before cargo says that they failed.
fn failures(said: &str) -> Vec<&str> {
    let lines: Vec<&str> = said.lines().collect();
    let begins = |line: &&str| {
        let line = line.trim_start();
        line == "failures:" || line.starts_with("Running ") || line.starts_with("Doc-tests ")
    };
    let mut found = Vec::new();
    let mut rest = lines.as_slice();
    while let Some(first) = rest.iter().position(begins) {
        let next = rest[first + 1..].iter().position(begins).map_or(rest.len(), |n| first + 1 + n);
        let part = &rest[first..next];
        let end = match part[0] {
            "failures:" => part.iter().position(|line| line.starts_with("test result: ")),
            _ => part.iter().position(|line| line.starts_with("error: test failed")),
        };
        if let Some(end) = end.or((part[0] == "failures:").then_some(part.len())) {
            found.push(part[0].trim_start());
            found.extend(&part[1.max(end.saturating_sub(LINES))..end]);
        }
        rest = &rest[next..];
    }
    found
}

/// The number before a word: `ok. 3 passed; 0 failed; …`.
fn count(result: &str, word: &str) -> usize {
    let words: Vec<&str> = result.split_whitespace().collect();
    let pair = words.windows(2).find(|pair| pair[1].trim_end_matches(';') == word);
    pair.and_then(|pair| pair[0].parse().ok()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_failed_is_said_again() {
        let said = "running 2 tests\n\
                    test a ... FAILED\n\
                    test b ... ok\n\
                    failures:\n\
                    ---- a stdout ----\n\
                    panicked at a.rs\n\
                    failures:\n    a\n\
                    test result: FAILED. 1 passed; 1 failed\n\
                    \x20    Running tests/good.rs (target/good)\n\
                    noise\n\
                    \x20    Running tests/crash.rs (target/crash)\n\
                    lost=1\n\
                    error: test failed, to rerun pass `--test crash`\n";
        let found = ["failures:", "---- a stdout ----", "panicked at a.rs", "failures:", "    a"];
        let other = ["Running tests/crash.rs (target/crash)", "lost=1"];
        assert_eq!(failures(said), [&found[..], &other].concat());
    }

    #[test]
    fn suites_are_summed_and_skips_are_kept() {
        let said = "running 2 tests\n\
                    SKIPPED: Kafka: java is not installed\n\
                    test a ... ok\n\
                    test result: ok. 2 passed; 0 failed; 1 ignored; 0 measured; 4 filtered out\n\
                    SKIPPED: Kafka: java is not installed\n\
                    test result: FAILED. 1 passed; 3 failed; 0 ignored; 0 measured; 0 filtered out\n";
        assert_eq!(
            Summary::of(said),
            Summary {
                passed: 3,
                failed: 3,
                ignored: 1,
                skipped: vec!["Kafka: java is not installed".to_owned()],
            }
        );
    }
}
