//! What a process has used, as the kernel counts it.

use std::fs;

use anyhow::Context;

/// Kernel ticks per second in `/proc`, fixed by its interface on all architectures we run on.
const TICKS_PER_SECOND: f64 = 100.0;

/// A running process, by its folder below `/proc`.
pub(crate) struct Process {
    folder: String,
}

impl Process {
    pub(crate) fn this() -> Self {
        Process { folder: "/proc/self".to_owned() }
    }

    pub(crate) fn of(id: u32) -> Self {
        Process { folder: format!("/proc/{id}") }
    }

    /// User and system CPU seconds, all threads.
    pub(crate) fn cpu_seconds(&self) -> anyhow::Result<f64> {
        let stat = fs::read_to_string(format!("{}/stat", self.folder))?;
        let after_name = stat.rsplit(')').next().unwrap_or_default();
        let mut ticks = after_name.split_whitespace().skip(11).map(str::parse::<f64>);
        match (ticks.next(), ticks.next()) {
            (Some(Ok(user)), Some(Ok(system))) => Ok((user + system) / TICKS_PER_SECOND),
            _ => anyhow::bail!("{}/stat has no CPU time", self.folder),
        }
    }

    /// Peak of the resident memory, bytes.
    pub(crate) fn peak_bytes(&self) -> anyhow::Result<u64> {
        self.memory("VmHWM:")
    }

    /// The resident memory now, bytes.
    pub(crate) fn resident_bytes(&self) -> anyhow::Result<u64> {
        self.memory("VmRSS:")
    }

    /// Bytes that went to disk, in whole pages.
    pub(crate) fn written_bytes(&self) -> anyhow::Result<u64> {
        let io = fs::read_to_string(format!("{}/io", self.folder))?;
        let written = io.lines().find_map(|line| line.strip_prefix("write_bytes: "));
        Ok(written.context("no write_bytes")?.parse()?)
    }

    fn memory(&self, name: &str) -> anyhow::Result<u64> {
        let status = fs::read_to_string(format!("{}/status", self.folder))?;
        let line = status.lines().find_map(|line| line.strip_prefix(name));
        let kilobytes = line.and_then(|line| line.trim().strip_suffix(" kB"));
        Ok(kilobytes.with_context(|| format!("no {name}"))?.parse::<u64>()? * 1_024)
    }
}
