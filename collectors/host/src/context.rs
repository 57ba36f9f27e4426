//! What every section of the source reads with: roots, clock, and one buffer for all files.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use nilometer_clock::SharedClock;

use crate::HostConfig;

/// Longest file read; `/proc/stat` of a machine with thousands of interrupts fits many times.
const MAX_FILE_BYTES: u64 = 4 << 20;
/// Stands in where the kernel does not tell a name.
const NAMELESS: &str = "localhost";

/// Roots, the node's id, the clock and the buffer.
pub(crate) struct Context {
    pub(crate) proc: PathBuf,
    pub(crate) sys: PathBuf,
    pub(crate) node: String,
    pub(crate) clock: SharedClock,
    pub(crate) files: Files,
}

/// Reads small files into one buffer that is used again.
#[derive(Default)]
pub(crate) struct Files {
    bytes: Vec<u8>,
}

impl Context {
    pub(crate) fn new(config: &HostConfig, clock: SharedClock) -> Self {
        Context {
            proc: config.proc.clone(),
            sys: config.sys.clone(),
            node: config.node.clone().unwrap_or_else(|| hostname(&config.proc)),
            clock,
            files: Files::default(),
        }
    }

    /// The text of a file below the root of procfs.
    pub(crate) fn read_proc(&mut self, name: &str) -> Option<&str> {
        self.files.read(&self.proc.join(name))
    }

    /// The text of a file below the root of sysfs.
    pub(crate) fn read_sys(&mut self, name: &str) -> Option<&str> {
        self.files.read(&self.sys.join(name))
    }
}

impl Files {
    /// The text of a file; nothing when it cannot be read, is not UTF-8 or is too long.
    pub(crate) fn read(&mut self, path: &Path) -> Option<&str> {
        self.bytes.clear();
        let mut file = File::open(path).ok()?.take(MAX_FILE_BYTES);
        file.read_to_end(&mut self.bytes).ok()?;
        if self.bytes.len() as u64 == MAX_FILE_BYTES {
            return None;
        }
        std::str::from_utf8(&self.bytes).ok()
    }

    /// The number that is all a file holds.
    pub(crate) fn number(&mut self, path: &Path) -> Option<u64> {
        self.read(path)?.trim().parse().ok()
    }
}

/// The hostname as the kernel tells it.
pub(crate) fn hostname(proc: &Path) -> String {
    let mut files = Files::default();
    match files.read(&proc.join("sys/kernel/hostname")).map(str::trim) {
        Some(name) if !name.is_empty() => name.to_owned(),
        _ => NAMELESS.to_owned(),
    }
}

/// The value after a key in lines of `key value`.
pub(crate) fn value_of(text: &str, key: &str) -> Option<u64> {
    text.lines().find_map(|line| {
        let (name, value) = line.split_once(' ')?;
        (name == key).then(|| value.trim().parse().ok()).flatten()
    })
}
