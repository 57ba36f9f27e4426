//! The data folder's lock: one process at a time observes with what lies there.
//!
//! Other roles share a folder: the embedded log has locks of its own, and tables are owned by a
//! lease. The kernel lets go of the lock when the process ends, however it does.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{Read, Write};
use std::path::Path;

use anyhow::{Context, bail};
use nilometer_contract::Timestamp;

/// A locked folder; free again when dropped.
#[derive(Debug)]
pub struct FolderLock {
    _file: File,
}

/// Locks a folder for the one that observes; where another has it, says who. `command` is what it
/// runs as, such as `nilometer collect`.
///
/// # Errors
///
/// If another process has it, or it cannot be locked.
pub fn lock(folder: &Path, command: &str, since: Timestamp) -> anyhow::Result<FolderLock> {
    let path = folder.join("collect.lock");
    let failed = || format!("cannot lock the data folder {}", folder.display());
    let mut options = OpenOptions::new();
    let opened = options.read(true).write(true).create(true).truncate(false).open(&path);
    let mut file = opened.with_context(failed)?;
    match file.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => bail!(
            "the data folder {} is in use by {}: stop that one first, or give this one a folder of \
             its own with --data",
            folder.display(),
            name(&mut file),
        ),
        Err(TryLockError::Error(error)) => return Err(error).with_context(failed),
    }
    file.set_len(0).with_context(failed)?;
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let (pid, host) = (std::process::id(), host.trim());
    let line = format!("`{command}`, process {pid} on {host}, since {since}\n");
    file.write_all(line.as_bytes()).with_context(failed)?;
    Ok(FolderLock { _file: file })
}

/// Who wrote the lock; it may just be writing.
fn name(file: &mut File) -> String {
    let mut text = String::new();
    let read = file.read_to_string(&mut text);
    // What another version left there is not the name of anyone.
    match (read, text.strip_suffix('\n')) {
        (Ok(_), Some(name)) if name.starts_with('`') => name.to_owned(),
        _ => "another process".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_in_use_is_refused_with_the_name_of_its_user() {
        let folder = tempfile::tempdir().unwrap();
        let since = Timestamp::from_seconds(1_793_577_600);
        let first = lock(folder.path(), "nilometer up", since).unwrap();
        for _ in 0..2 {
            let why = lock(folder.path(), "nilometer up", since).unwrap_err().to_string();
            let user = format!("`nilometer up`, process {} on ", std::process::id());
            assert!(why.contains(&user), "{why}");
            assert!(why.contains("since 2026-11-02T00:00:00"), "{why}");
            assert!(why.contains("--data"), "{why}");
        }
        drop(first);
        lock(folder.path(), "nilometer up", since).unwrap();
    }
}
