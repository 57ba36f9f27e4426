//! Open segment files, shared by all partitions of a log and bounded in number.

use std::{
    collections::VecDeque,
    fs::File,
    io,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use super::segments;

/// Most segment files kept open; beyond, the one used longest ago is closed. More are open only
/// while as many calls use them.
const OPEN_MAX: usize = 128;

/// The files, most recently used last.
#[derive(Default)]
pub(super) struct Files {
    open: Mutex<VecDeque<Open>>,
}

struct Open {
    dir: PathBuf,
    base: u64,
    writable: bool,
    file: Arc<File>,
}

impl Files {
    /// Opens a segment for reading, or has it open.
    pub(super) fn to_read(&self, dir: &Path, base: u64) -> io::Result<Arc<File>> {
        match self.known(dir, base, false) {
            Some(file) => Ok(file),
            None => Ok(self.keep(dir, base, false, segments::open(dir, base)?)),
        }
    }

    /// Opens a segment for reading and writing, or has it open.
    pub(super) fn to_write(&self, dir: &Path, base: u64) -> io::Result<Arc<File>> {
        match self.known(dir, base, true) {
            Some(file) => Ok(file),
            None => Ok(self.keep(dir, base, true, segments::open_to_write(dir, base)?)),
        }
    }

    fn known(&self, dir: &Path, base: u64, writable: bool) -> Option<Arc<File>> {
        let mut open = self.locked();
        let found = open
            .iter()
            .position(|one| one.base == base && one.dir == dir && (one.writable || !writable))?;
        let one = open.remove(found)?;
        let file = one.file.clone();
        // A segment that was deleted is let go, so that its space is free.
        if file.metadata().map_or(true, |stat| stat.nlink() == 0) {
            return None;
        }
        open.push_back(one);
        Some(file)
    }

    fn keep(&self, dir: &Path, base: u64, writable: bool, file: File) -> Arc<File> {
        let file = Arc::new(file);
        let mut open = self.locked();
        open.retain(|one| one.base != base || one.dir != dir);
        while open.len() >= OPEN_MAX {
            open.pop_front();
        }
        open.push_back(Open { dir: dir.to_owned(), base, writable, file: file.clone() });
        file
    }

    /// Lets go of files that were deleted, so that their space is free.
    pub(super) fn close_deleted(&self) {
        self.locked().retain(|one| one.file.metadata().is_ok_and(|stat| stat.nlink() > 0));
    }

    fn locked(&self) -> MutexGuard<'_, VecDeque<Open>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_shared_bounded_and_let_go_when_deleted() {
        let dir = tempfile::tempdir().unwrap();
        let files = Files::default();
        for base in 0..2 * OPEN_MAX as u64 {
            segments::create(dir.path(), base).unwrap();
            files.to_read(dir.path(), base).unwrap();
        }
        assert_eq!(files.locked().len(), OPEN_MAX);
        let last = 2 * OPEN_MAX as u64 - 1;
        let read = files.to_read(dir.path(), last).unwrap();
        let write = files.to_write(dir.path(), last).unwrap();
        assert!(!Arc::ptr_eq(&read, &write), "one to read is not one to write");
        assert!(Arc::ptr_eq(&write, &files.to_read(dir.path(), last).unwrap()));
        segments::delete(dir.path(), last).unwrap();
        files.close_deleted();
        assert_eq!(files.locked().len(), OPEN_MAX - 1);
        assert!(files.to_read(dir.path(), last).is_err());
    }
}
