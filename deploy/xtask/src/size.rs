//! `size`: what the agent costs a node: bytes of the program, and memory while it collects.
//!
//! It is not part of the tests: it builds in another profile, and looks at minutes of work.

use std::fs;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use clap::Args;

use crate::ci::{self, Env};
use crate::phases::{call, read};

const AGENT: &str = "nilometer-agent";
/// Most bytes of the program, stripped.
const PROGRAM_BYTES_MAX: u64 = 25_000_000;
/// Most memory that it holds, in KiB.
const RESIDENT_KIB_MAX: u64 = 30 << 10;
const LOOK: Duration = Duration::from_secs(1);

/// What is measured.
#[derive(Debug, Args)]
pub(crate) struct Options {
    /// Profile that is built; `release` is quicker to build than what is given to others
    #[arg(long, default_value = "dist")]
    profile: String,
    /// Time that the agent collects, in seconds
    #[arg(long, default_value_t = 180)]
    seconds: u64,
}

pub(crate) fn run(root: &Path, options: &Options) -> Result<()> {
    let mut cargo = ci::cargo(root, &Env::default());
    call(cargo.args(["build", "--profile", &options.profile, "--package", AGENT]))?;
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or(root.join("target"), Into::into);
    let program = target.join(&options.profile).join(AGENT);
    let bytes = fs::metadata(&program).with_context(|| program.display().to_string())?.len();
    println!("{AGENT}: {:.1} MB, {} at most", bytes as f64 / 1e6, PROGRAM_BYTES_MAX / 1_000_000);
    let folder = target.join("size");
    let _ = fs::remove_dir_all(&folder);
    let (last, most) = collect(&program, &folder, Duration::from_secs(options.seconds))?;
    println!(
        "memory after {} s: {:.1} MiB, {:.1} at its highest, {} at most",
        options.seconds,
        last as f64 / 1024.0,
        most as f64 / 1024.0,
        RESIDENT_KIB_MAX >> 10
    );
    if bytes > PROGRAM_BYTES_MAX || most > RESIDENT_KIB_MAX {
        bail!("{AGENT} is too large");
    }
    Ok(())
}

/// Lets the program observe this machine, with all sources that are here; the memory that it holds
/// at the end, and at its highest, in KiB.
fn collect(program: &Path, folder: &Path, lasts: Duration) -> Result<(u64, u64)> {
    let mut command = Command::new(program);
    command.arg("--data").arg(folder).args(["--http", "127.0.0.1:0", "collect"]);
    let mut child = command.stdin(Stdio::null()).spawn().context("cannot start the agent")?;
    let measured = watch(&mut child, lasts);
    if measured.is_ok() {
        read(Command::new("kill").args(["-TERM", &child.id().to_string()]))?;
    } else {
        let _ = child.kill();
    }
    let status = child.wait()?;
    if measured.is_ok() && !status.success() {
        bail!("the agent ended with {status}");
    }
    measured
}

fn watch(child: &mut Child, lasts: Duration) -> Result<(u64, u64)> {
    let started = Instant::now();
    while started.elapsed() < lasts {
        if let Some(status) = child.try_wait()? {
            bail!("the agent ended of itself with {status}");
        }
        thread::sleep(LOOK);
    }
    let status = fs::read_to_string(format!("/proc/{}/status", child.id()))?;
    let kib = |name: &str| memory(&status, name).with_context(|| format!("no {name}"));
    Ok((kib("VmRSS")?, kib("VmHWM")?))
}

/// A line of `/proc/<pid>/status`, in KiB.
fn memory(status: &str, name: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
    line.trim().strip_suffix("kB")?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_read() {
        let status =
            "Name:\tnilometer-agent\nVmHWM:\t   20480 kB\nVmRSS:\t   18432 kB\nThreads:\t9\n";
        assert_eq!(memory(status, "VmRSS"), Some(18_432));
        assert_eq!(memory(status, "VmHWM"), Some(20_480));
        assert_eq!(memory(status, "VmSwap"), None);
        assert!(memory("VmRSS: 1 GB\n", "VmRSS").is_none());
    }
}
