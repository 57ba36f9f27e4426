//! The file `tails` of a topic: how far readers may read each partition.
//!
//! An appender publishes here the next offset once its records are as durable as the policy asks;
//! readers go no further. So nobody acts on a record that a power loss could still take back, and
//! an append that failed half-way can be cut again. The notes themselves are never synced: they
//! count only within the boot they were written in. After a reboot whatever is on disk is there
//! to stay, and a note tells only a lower bound of the next offset.
//!
//! One file for all partitions, so that one look at it tells which of them grew.

use std::{
    fs::{self, File},
    hash::{BuildHasher, RandomState},
    io,
    os::unix::fs::FileExt,
    path::Path,
    time::{Duration, Instant},
};

use rustix::fs::FlockOperation;

/// Name of the file in the directory of a topic.
const NAME: &str = "tails";

/// Bytes of a note: next offset, boot, checksum of both, nothing.
const LENGTH: usize = 32;

/// How often a note with a wrong checksum is read again: a writer may be in the middle of it.
const ATTEMPTS: usize = 8;

/// Longest pause between two tries for a lock.
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
            // Keyed by the system's randomness, another for each process.
            Err(_) => Boot(RandomState::new().hash_one(std::process::id())),
        }
    }
}

/// What is said of a partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Note {
    /// One past the last record published; a lower bound if `current` is false.
    pub(super) next: u64,
    /// Whether it was written since the machine started.
    pub(super) current: bool,
}

/// The file, open.
pub(super) struct Tails {
    file: File,
    boot: Boot,
}

impl Tails {
    /// Creates the file where it is missing, with room for all notes, so that a full disk cannot
    /// keep a later one from being written. The caller syncs the directory.
    pub(super) fn create(topic_dir: &Path, partitions: u32, boot: Boot) -> io::Result<Tails> {
        let file = fs::OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(topic_dir.join(NAME))?;
        let (there, length) = (file.metadata()?.len(), partitions as usize * LENGTH);
        if let Some(missing) = (length as u64).checked_sub(there).filter(|missing| *missing > 0) {
            file.write_all_at(&vec![0; missing as usize], there)?;
            file.sync_all()?;
        }
        Ok(Tails { file, boot })
    }

    /// Whether the file is there.
    pub(super) fn are_in(topic_dir: &Path) -> bool {
        topic_dir.join(NAME).is_file()
    }

    /// Opens the file, for reading alone where it may not be written.
    pub(super) fn open(topic_dir: &Path, boot: Boot) -> io::Result<Tails> {
        let path = topic_dir.join(NAME);
        let file = match File::options().read(true).write(true).open(&path) {
            Err(e) if e.kind() == io::ErrorKind::PermissionDenied => File::open(path)?,
            other => other?,
        };
        Ok(Tails { file, boot })
    }

    /// What is published of a partition. A note that cannot be understood counts as one of
    /// another boot.
    pub(super) fn read(&self, partition: u32) -> io::Result<Note> {
        for _ in 0..ATTEMPTS {
            let mut bytes = [0; LENGTH];
            match self.file.read_exact_at(&mut bytes, place(partition)) {
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
    pub(super) fn publish(&self, partition: u32, next: u64) -> io::Result<()> {
        let mut bytes = [0; LENGTH];
        bytes[..8].copy_from_slice(&next.to_le_bytes());
        bytes[8..16].copy_from_slice(&self.boot.0.to_le_bytes());
        let crc = u64::from(crc32fast::hash(&bytes[..16]));
        bytes[16..24].copy_from_slice(&crc.to_le_bytes());
        self.file.write_all_at(&bytes, place(partition))
    }

    /// Makes a note one that cannot be understood.
    pub(super) fn clear(&self, partition: u32) -> io::Result<()> {
        self.file.write_all_at(&[0; LENGTH], place(partition))?;
        self.file.sync_all()
    }

    /// Looks at all notes at once. Says which differ from what the look before saw.
    pub(super) fn changed(&self, seen: &mut Vec<u8>, partitions: usize) -> io::Result<Vec<usize>> {
        let mut now = vec![0; partitions * LENGTH];
        let mut read = 0;
        while read < now.len() {
            match self.file.read_at(&mut now[read..], read as u64)? {
                0 => break,
                more => read += more,
            }
        }
        seen.resize(now.len(), 0);
        let pairs = now.chunks(LENGTH).zip(seen.chunks(LENGTH)).enumerate();
        let changed = pairs.filter(|(_, (now, seen))| now != seen).map(|(i, _)| i).collect();
        *seen = now;
        Ok(changed)
    }
}

fn place(partition: u32) -> u64 {
    u64::from(partition) * LENGTH as u64
}

/// Takes the lock of those who write in a directory; it is let go when the guard is dropped or
/// the process ends in any way.
///
/// # Errors
///
/// `TimedOut` if another process holds it for longer than `patience`.
pub(super) fn lock(dir: &Path, patience: Duration) -> io::Result<Lock> {
    let held = File::open(dir)?;
    let started = Instant::now();
    let mut pause = Duration::from_micros(20);
    loop {
        match rustix::fs::flock(&held, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => return Ok(Lock { _held: held }),
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

/// The lock, held as long as the directory is open.
pub(super) struct Lock {
    _held: File,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_note_counts_within_its_boot_and_bounds_from_below_after_it() {
        let dir = tempfile::tempdir().unwrap();
        let tails = Tails::create(dir.path(), 3, Boot(1)).unwrap();
        assert_eq!(tails.read(1).unwrap(), Note { next: 0, current: false });
        tails.publish(1, 42).unwrap();
        assert_eq!(tails.read(1).unwrap(), Note { next: 42, current: true });
        assert_eq!(tails.read(0).unwrap(), Note { next: 0, current: false });
        let later = Tails::open(dir.path(), Boot(2)).unwrap();
        assert_eq!(later.read(1).unwrap(), Note { next: 42, current: false });
        fs::write(dir.path().join(NAME), [7; 2 * LENGTH]).unwrap();
        assert_eq!(tails.read(1).unwrap(), Note { next: 0, current: false });
        assert_eq!(tails.read(2).unwrap(), Note { next: 0, current: false }, "cut short");
    }

    #[test]
    fn one_look_tells_which_partitions_grew() {
        let dir = tempfile::tempdir().unwrap();
        let tails = Tails::create(dir.path(), 1_000, Boot(1)).unwrap();
        let mut seen = Vec::new();
        assert_eq!(tails.changed(&mut seen, 1_000).unwrap(), [0_usize; 0]);
        Tails::open(dir.path(), Boot(1)).unwrap().publish(7, 1).unwrap();
        tails.publish(999, 1).unwrap();
        assert_eq!(tails.changed(&mut seen, 1_000).unwrap(), [7, 999]);
        assert_eq!(tails.changed(&mut seen, 1_000).unwrap(), [0_usize; 0]);
    }

    #[test]
    fn the_lock_excludes_another_description_and_is_bounded() {
        let dir = tempfile::tempdir().unwrap();
        let held = lock(dir.path(), Duration::ZERO).unwrap();
        let refused = lock(dir.path(), Duration::from_millis(5)).err().unwrap();
        assert_eq!(refused.kind(), io::ErrorKind::TimedOut);
        drop(held);
        lock(dir.path(), Duration::ZERO).unwrap();
    }
}
