//! Phases with names: announced at the start, their times listed at the end.

use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

/// What has run so far, and how long it took.
#[derive(Default)]
pub(crate) struct Phases {
    done: Vec<(String, Duration, bool)>,
}

impl Phases {
    /// Runs `work` under a heading.
    pub(crate) fn run<T>(&mut self, name: &str, work: impl FnOnce() -> Result<T>) -> Result<T> {
        eprintln!("==> {name}");
        let started = Instant::now();
        let result = work();
        self.done.push((name.to_owned(), started.elapsed(), result.is_ok()));
        result
    }

    /// Prints how long each phase took.
    pub(crate) fn print(&self) {
        let width = self.done.iter().map(|(name, ..)| name.len()).max().unwrap_or_default();
        let total: Duration = self.done.iter().map(|(_, took, _)| took).sum();
        println!();
        for (name, took, ok) in &self.done {
            println!("{name:width$} {}{}", clock(*took), if *ok { "" } else { "  FAILED" });
        }
        println!("{:width$} {}", "total", clock(total));
    }
}

/// Minutes and seconds.
fn clock(took: Duration) -> String {
    let tenths = took.as_millis() / 100;
    format!("{:3}:{:02}.{}", tenths / 600, tenths / 10 % 60, tenths % 10)
}

/// Runs a command to its end, its output going where ours goes.
pub(crate) fn call(command: &mut Command) -> Result<()> {
    let name = shown(command);
    let status = command.status().with_context(|| format!("cannot start {name}"))?;
    if !status.success() {
        bail!("{name}: {status}");
    }
    Ok(())
}

/// Runs a command to its end and returns what it wrote to its standard output.
pub(crate) fn read(command: &mut Command) -> Result<Vec<u8>> {
    let name = shown(command);
    let output = command.output().with_context(|| format!("cannot start {name}"))?;
    if !output.status.success() {
        bail!("{name}: {}: {}", output.status, String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(output.stdout)
}

/// A command as one would type it.
pub(crate) fn shown(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    words.map(|word| word.to_string_lossy()).collect::<Vec<_>>().join(" ")
}
