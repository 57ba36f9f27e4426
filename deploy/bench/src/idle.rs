//! An idle machine: what `up` takes of it while it meters only the machine itself.

use std::collections::HashSet;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, ensure};
use clap::Args;
use tokio::process::{Child, Command};

use crate::folder::bytes_below;
use crate::process::Process;

/// How long a start takes until the process is at rest.
const START: Duration = Duration::from_secs(60);
/// Between two looks at the folder; a file that lives for less may not be counted.
const LOOK: Duration = Duration::from_secs(1);
const LOOKS_PER_MINUTE: u64 = 60;
const MIB: f64 = 1_048_576.0;

#[derive(Debug, Args)]
pub(crate) struct Options {
    /// How long it is watched, after a minute for its start.
    #[arg(long, default_value_t = 60)]
    minutes: u64,
    /// The program; without it the one that was built beside this bench.
    #[arg(long)]
    program: Option<PathBuf>,
}

/// What the process has used since its start.
struct Used {
    cpu_seconds: f64,
    written_bytes: u64,
    resident_bytes: u64,
    folder_bytes: u64,
}

pub(crate) async fn run(options: Options) -> anyhow::Result<()> {
    let program = match options.program {
        Some(program) => program,
        None => std::env::current_exe()?.with_file_name("nilometer"),
    };
    ensure!(
        program.exists(),
        "{} is missing: build it with `cargo build --release`, or say --program",
        program.display()
    );
    let folder = tempfile::tempdir()?;
    let mut child = Command::new(&program)
        .args(["up", "--http", "127.0.0.1:0", "--data"])
        .arg(folder.path())
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .with_context(|| format!("start {}", program.display()))?;
    let process = Process::of(child.id().context("the program ended at once")?);
    println!("up for {} minutes, after one for its start", options.minutes);
    tokio::time::sleep(START).await;
    watch(&process, &mut child, folder.path(), options.minutes).await
}

async fn watch(
    process: &Process,
    child: &mut Child,
    folder: &Path,
    minutes: u64,
) -> anyhow::Result<()> {
    let mut files = HashSet::new();
    add_files(folder, &mut files)?;
    let (before, known) = (used(process, folder)?, files.len());
    let mut last = used(process, folder)?;
    for minute in 1..=minutes {
        for _ in 0..LOOKS_PER_MINUTE {
            tokio::time::sleep(LOOK).await;
            add_files(folder, &mut files)?;
        }
        ensure!(child.try_wait()?.is_none(), "the program ended");
        last = used(process, folder)?;
        println!(
            "{minute:>3} min: {:.2} s of CPU, {:.1} MiB resident, {} new files, {:.2} MiB written",
            last.cpu_seconds - before.cpu_seconds,
            last.resident_bytes as f64 / MIB,
            files.len() - known,
            (last.written_bytes - before.written_bytes) as f64 / MIB,
        );
    }
    let hours = minutes as f64 / 60.0;
    let seconds = hours * 3_600.0;
    let core = (last.cpu_seconds - before.cpu_seconds) / seconds * 100.0;
    let grown = (last.resident_bytes as f64 - before.resident_bytes as f64) / MIB / hours;
    let kept = (last.folder_bytes as f64 - before.folder_bytes as f64) / MIB / hours;
    let written = (last.written_bytes - before.written_bytes) as f64 / MIB / hours;
    println!("CPU                  {core:.2} % of a core");
    println!(
        "memory               {:.1} MiB at the end, peak {:.1}; {grown:+.1} MiB an hour",
        last.resident_bytes as f64 / MIB,
        process.peak_bytes()? as f64 / MIB
    );
    println!("new files            {:.0} an hour", (files.len() - known) as f64 / hours);
    println!("kept in the folder   {kept:+.2} MiB an hour");
    println!("written to disk      {written:.2} MiB an hour, in whole pages");
    Ok(())
}

fn used(process: &Process, folder: &Path) -> anyhow::Result<Used> {
    Ok(Used {
        cpu_seconds: process.cpu_seconds()?,
        written_bytes: process.written_bytes()?,
        resident_bytes: process.resident_bytes()?,
        folder_bytes: bytes_below(folder)?,
    })
}

/// Adds the files below a folder, by name and inode.
fn add_files(folder: &Path, files: &mut HashSet<(PathBuf, u64)>) -> anyhow::Result<()> {
    // A folder that goes meanwhile has no files.
    let Ok(entries) = std::fs::read_dir(folder) else { return Ok(()) };
    for entry in entries.flatten() {
        match entry.metadata() {
            Ok(about) if about.is_dir() => add_files(&entry.path(), files)?,
            Ok(about) => drop(files.insert((entry.path(), about.ino()))),
            Err(_) => {}
        }
    }
    Ok(())
}
