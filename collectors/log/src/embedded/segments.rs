//! The segment files of a partition: `<base offset, 20 digits>.log`.
//!
//! A partition always has at least one; the base of the first is its low watermark. A segment
//! appears whole (written beside, synced, renamed) and disappears from the front only, so what is
//! there is always one contiguous run.

use std::{
    fs::{self, File},
    io::{self, Write},
    path::{Path, PathBuf},
};

use super::format::MAGIC;

/// How often a listing that found nothing is tried again: one segment may have taken the place
/// of another in the middle of it.
const ATTEMPTS: usize = 8;

/// Base offsets, ascending; never empty.
pub(super) fn list(dir: &Path) -> io::Result<Vec<u64>> {
    for _ in 0..ATTEMPTS {
        let mut bases = Vec::new();
        for entry in fs::read_dir(dir)? {
            let name = entry?.file_name();
            let digits = name.to_str().and_then(|name| name.strip_suffix(".log"));
            let base = digits.filter(|d| d.len() == 20).and_then(|d| d.parse::<u64>().ok());
            bases.extend(base);
        }
        if !bases.is_empty() {
            bases.sort_unstable();
            return Ok(bases);
        }
    }
    Err(io::Error::new(io::ErrorKind::NotFound, "the partition has no segment"))
}

/// Where the segment is.
pub(super) fn path(dir: &Path, base: u64) -> PathBuf {
    dir.join(format!("{base:020}.log"))
}

/// Whether there is a segment with this base.
pub(super) fn exists(dir: &Path, base: u64) -> io::Result<bool> {
    path(dir, base).try_exists()
}

/// Opens a segment for reading.
pub(super) fn open(dir: &Path, base: u64) -> io::Result<File> {
    check(dir, base, File::open(path(dir, base))?)
}

/// Opens a segment for reading and writing.
pub(super) fn open_to_write(dir: &Path, base: u64) -> io::Result<File> {
    check(dir, base, File::options().read(true).write(true).open(path(dir, base))?)
}

/// Each record has a checksum of its own, and which format it is stands in `topic.json`: a
/// damaged beginning costs nothing.
fn check(dir: &Path, base: u64, file: File) -> io::Result<File> {
    let magic = super::format::read_at(&file, 0, MAGIC.len())?;
    if !magic.starts_with(MAGIC) {
        tracing::error!(dir = %dir.display(), base, "the beginning of a segment is damaged");
    }
    Ok(file)
}

/// Creates an empty segment, durably; call with the lock held.
pub(super) fn create(dir: &Path, base: u64) -> io::Result<()> {
    let path = path(dir, base);
    if path.try_exists()? {
        return Err(io::Error::new(io::ErrorKind::AlreadyExists, "the segment is there already"));
    }
    let beside = dir.join("new.segment");
    let mut file =
        File::options().read(true).write(true).create(true).truncate(true).open(&beside)?;
    file.write_all(MAGIC)?;
    file.sync_all()?;
    fs::rename(&beside, &path)?;
    sync_dir(dir)
}

/// Deletes a segment; the caller syncs the directory. It is fine if it is gone.
pub(super) fn delete(dir: &Path, base: u64) -> io::Result<()> {
    match fs::remove_file(path(dir, base)) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

/// Makes what was created, renamed or deleted in a directory durable.
pub(super) fn sync_dir(dir: &Path) -> io::Result<()> {
    File::open(dir)?.sync_all()
}

/// Creates a directory and what is missing above it, each synced into its parent.
pub(super) fn create_dir(dir: &Path) -> io::Result<()> {
    if dir.try_exists()? {
        return Ok(());
    }
    let parent = dir.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    create_dir(parent)?;
    match fs::create_dir(dir) {
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {}
        other => other?,
    }
    sync_dir(parent)
}
