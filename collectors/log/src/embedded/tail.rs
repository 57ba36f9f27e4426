//! The file `tail` of a partition: the lock of its appenders, and how far readers may read.
//!
//! An appender publishes here the next offset once its records are as durable as the policy asks;
//! readers go no further. So nobody acts on a record that a power loss could still take back, and
//! an append that failed half-way can be cut again. The note itself is never synced: it counts
//! only within the boot it was written in. After a reboot whatever is on disk is there to stay,
//! and the file tells only a lower bound of the next offset.

use std::{
    fs::{self, File},
    io,
    os::unix::fs::FileExt,
    path::Path,
    time::{Duration, Instant},
};

use rustix::fs::FlockOperation;

/// Name of the file in the directory of a partition.
pub(super) const NAME: &str = "tail";

const LENGTH: usize = 32;

/// How often a note with a wrong checksum is read again: a writer may be in the middle of it.
const ATTEMPTS: usize = 8;

/// Longest pause between two tries for the lock.
const LOCK_PAUSE_MAX: Duration = Duration::from_millis(2);

/// Tells one boot of the machine from another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Boot(u64);

impl Boot {
    /// This boot. Where the system does not tell, every process counts as a boot of its own,
    /// which is slower and as safe.
    pub(super) fn current() -> Boot {
        match fs::read("/proc/sys/kernel/random/boot_id") {
            Ok(id) => {
                let high = u64::from(crc32fast::hash(&id));
                let low = u64::from(crc32fast::hash(&[&id[..], b"low"].concat()));
                Boot(high << 32 | low)
            }
            Err(_) => {
                let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
                Boot(now.map_or(0, |at| at.as_nanos() as u64) ^ u64::from(std::process::id()))
            }
        }
    }
}

/// What the file says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Note {
    /// One past the last record published; a lower bound if `current` is false.
    pub(super) next: u64,
    /// Whether it was written since the machine started.
    pub(super) current: bool,
}

/// The file, open.
pub(super) struct Tail {
    file: File,
    boot: Boot,
}

impl Tail {
    /// Creates the file where it is missing, with room for the note, so that a full disk cannot
    /// keep a later one from being written.
    pub(super) fn create(dir: &Path, boot: Boot) -> io::Result<Tail> {
        let path = dir.join(NAME);
        let file = fs::OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(path)?;
        if file.metadata()?.len() < LENGTH as u64 {
            file.write_all_at(&[0; LENGTH], 0)?;
            file.sync_all()?;
        }
        Ok(Tail { file, boot })
    }

    /// Opens the file for appending.
    pub(super) fn open(dir: &Path, boot: Boot) -> io::Result<Tail> {
        let file = fs::OpenOptions::new().read(true).write(true).open(dir.join(NAME))?;
        Ok(Tail { file, boot })
    }

    /// Opens the file for reading; needs no right to write.
    pub(super) fn open_to_read(dir: &Path, boot: Boot) -> io::Result<Tail> {
        Ok(Tail { file: File::open(dir.join(NAME))?, boot })
    }

    /// What is published. A note that cannot be understood counts as one of another boot.
    pub(super) fn read(&self) -> io::Result<Note> {
        for _ in 0..ATTEMPTS {
            let mut bytes = [0; LENGTH];
            match self.file.read_exact_at(&mut bytes, 0) {
                Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => break,
                other => other?,
            }
            if let Some(note) = self.understand(&bytes) {
                return Ok(note);
            }
        }
        Ok(Note { next: 0, current: false })
    }

    fn understand(&self, bytes: &[u8; LENGTH]) -> Option<Note> {
        let (words, _) = bytes.as_chunks::<8>();
        let word = |i: usize| u64::from_le_bytes(words[i]);
        let good = word(2) == u64::from(crc32fast::hash(&bytes[..16]));
        good.then(|| Note { next: word(0), current: word(1) == self.boot.0 })
    }

    /// Lets readers read all below `next`; call with the lock held.
    pub(super) fn publish(&self, next: u64) -> io::Result<()> {
        let mut bytes = [0; LENGTH];
        bytes[..8].copy_from_slice(&next.to_le_bytes());
        bytes[8..16].copy_from_slice(&self.boot.0.to_le_bytes());
        let crc = u64::from(crc32fast::hash(&bytes[..16]));
        bytes[16..24].copy_from_slice(&crc.to_le_bytes());
        self.file.write_all_at(&bytes, 0)
    }

    /// Takes the lock of the partition's appenders; it is let go when the guard is dropped or the
    /// process ends in any way.
    ///
    /// # Errors
    ///
    /// `TimedOut` if another process holds it for longer than `patience`.
    pub(super) fn lock(&self, patience: Duration) -> io::Result<Lock> {
        let held = self.file.try_clone()?;
        let started = Instant::now();
        let mut pause = Duration::from_micros(20);
        loop {
            match rustix::fs::flock(&held, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => return Ok(Lock { held }),
                Err(rustix::io::Errno::WOULDBLOCK) if started.elapsed() < patience => {
                    std::thread::sleep(pause);
                    pause = (pause * 2).min(LOCK_PAUSE_MAX);
                }
                Err(rustix::io::Errno::WOULDBLOCK) => {
                    let what = "another process holds the lock of the partition";
                    return Err(io::Error::new(io::ErrorKind::TimedOut, what));
                }
                Err(rustix::io::Errno::INTR) => {}
                Err(e) => return Err(e.into()),
            }
        }
    }
}

/// The lock, held.
pub(super) struct Lock {
    held: File,
}

impl Drop for Lock {
    fn drop(&mut self) {
        // Closing alone would not do: the lock belongs to the description shared with `Tail`.
        if let Err(e) = rustix::fs::flock(&self.held, FlockOperation::Unlock) {
            tracing::error!(error = %e, "lock of a log partition not released");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_note_counts_within_its_boot_and_bounds_from_below_after_it() {
        let dir = tempfile::tempdir().unwrap();
        let tail = Tail::create(dir.path(), Boot(1)).unwrap();
        assert_eq!(tail.read().unwrap(), Note { next: 0, current: false });
        tail.publish(42).unwrap();
        assert_eq!(tail.read().unwrap(), Note { next: 42, current: true });
        let later = Tail::open_to_read(dir.path(), Boot(2)).unwrap();
        assert_eq!(later.read().unwrap(), Note { next: 42, current: false });
        fs::write(dir.path().join(NAME), [7; LENGTH]).unwrap();
        assert_eq!(tail.read().unwrap(), Note { next: 0, current: false });
    }

    #[test]
    fn the_lock_excludes_another_description_and_is_bounded() {
        let dir = tempfile::tempdir().unwrap();
        let one = Tail::create(dir.path(), Boot(1)).unwrap();
        let two = Tail::open(dir.path(), Boot(1)).unwrap();
        let held = one.lock(Duration::ZERO).unwrap();
        let refused = two.lock(Duration::from_millis(5)).err().unwrap();
        assert_eq!(refused.kind(), io::ErrorKind::TimedOut);
        drop(held);
        two.lock(Duration::ZERO).unwrap();
    }
}
