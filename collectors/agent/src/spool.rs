//! Records that wait on disk, oldest first, in segments.
//!
//! ```text
//! 0000000000000007.seg   0000000000000008.seg   0000000000000009.seg
//! │ sent   │ unsent       unsent                 unsent      │ ← pushed here
//! └ head ──┘
//! ```
//!
//! Pushing is one `write`, so what was pushed outlives the process, however it dies; `sync` makes
//! it outlive the machine, and is called every second and at every stop. Sending only moves the
//! head, which is not on disk: after a crash at most what lies in segments not yet trimmed is
//! sent again. A segment is removed by `trim` once all of it was sent. A torn or damaged record
//! ends its segment: what a dying machine half wrote is cut off and counted.

use std::collections::VecDeque;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::entry::Entry;

const MAX_SEGMENT_BYTES: u64 = 8 << 20;
const SEGMENTS: u64 = 16;

/// A file of the spool could not be used.
#[derive(Debug, thiserror::Error)]
#[error("cannot {what} {}", path.display())]
pub struct SpoolError {
    what: &'static str,
    path: PathBuf,
    #[source]
    cause: io::Error,
}

/// Records of one kind on disk.
pub(crate) struct Spool {
    dir: PathBuf,
    max_bytes: u64,
    segment_bytes: u64,
    segments: VecDeque<Segment>,
    /// How many segments at the front are sent and wait for `trim`.
    sent: usize,
    /// Bytes of the first unsent segment that are sent.
    head: u64,
    /// The last segment, while it is written to.
    tail: Option<Arc<File>>,
    next: u64,
    /// Files written to since the last sync.
    unsynced: Vec<Arc<File>>,
}

/// How far records were handed out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Mark {
    segment: u64,
    end: u64,
}

struct Segment {
    number: u64,
    bytes: u64,
}

/// What opening a spool found.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Left {
    /// Records that wait.
    pub(crate) records: u64,
    /// Bytes at the end of segments that were cut off.
    pub(crate) torn_bytes: u64,
}

impl Spool {
    /// Opens a folder; `each` is told every record that waits in it, oldest first.
    pub(crate) fn open(
        dir: &Path,
        max_bytes: u64,
        mut each: impl FnMut(Entry),
    ) -> Result<(Self, Left), SpoolError> {
        fs::create_dir_all(dir).map_err(failed("create", dir))?;
        let mut spool = Spool {
            dir: dir.to_owned(),
            max_bytes,
            segment_bytes: (max_bytes / SEGMENTS).clamp(1, MAX_SEGMENT_BYTES),
            segments: VecDeque::new(),
            sent: 0,
            head: 0,
            tail: None,
            next: 0,
            unsynced: Vec::new(),
        };
        let mut numbers: Vec<u64> = fs::read_dir(dir)
            .map_err(failed("list", dir))?
            .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
            .filter_map(|name| u64::from_str_radix(name.strip_suffix(".seg")?, 16).ok())
            .collect();
        numbers.sort_unstable();
        let mut left = Left::default();
        for number in numbers {
            let path = spool.path(number);
            let bytes = fs::read(&path).map_err(failed("read", &path))?;
            let mut at = 0;
            while let Some((entry, size)) = Entry::read(&bytes[at..]) {
                each(entry);
                left.records += 1;
                at += size;
            }
            left.torn_bytes += (bytes.len() - at) as u64;
            spool.segments.push_back(Segment { number, bytes: at as u64 });
            spool.next = number + 1;
        }
        Ok((spool, left))
    }

    /// Whether everything was sent.
    pub(crate) fn is_empty(&self) -> bool {
        self.bytes() == 0
    }

    /// Bytes that wait.
    pub(crate) fn bytes(&self) -> u64 {
        let unsent: u64 = self.segments.iter().skip(self.sent).map(|segment| segment.bytes).sum();
        unsent - self.head
    }

    /// Whether more than half of the room is taken.
    pub(crate) fn is_tight(&self) -> bool {
        self.bytes() > self.max_bytes / 2
    }

    /// Writes records behind the others. On an error none of them counts as written.
    pub(crate) fn push(&mut self, entries: &[Entry]) -> Result<(), SpoolError> {
        let mut bytes = Vec::with_capacity(entries.iter().map(Entry::size).sum());
        entries.iter().for_each(|entry| entry.write(&mut bytes));
        let full = self.segments.back().is_some_and(|last| last.bytes >= self.segment_bytes);
        if full || self.tail.is_none() || self.segments.len() == self.sent {
            self.start_segment()?;
        }
        let (Some(tail), Some(segment)) = (&self.tail, self.segments.back_mut()) else {
            return Ok(());
        };
        let written = tail.as_ref().write_all(&bytes);
        if let Err(cause) = written {
            // A part may have been written; a new segment is begun so that nothing follows it.
            let _ = tail.set_len(segment.bytes);
            self.tail = None;
            return Err(failed("write", &self.dir)(cause));
        }
        segment.bytes += bytes.len() as u64;
        if !self.unsynced.last().is_some_and(|last| Arc::ptr_eq(last, tail)) {
            self.unsynced.push(tail.clone());
        }
        Ok(())
    }

    fn start_segment(&mut self) -> Result<(), SpoolError> {
        let path = self.path(self.next);
        let file = OpenOptions::new().append(true).create_new(true).open(&path);
        self.tail = Some(Arc::new(file.map_err(failed("create", &path))?));
        self.segments.push_back(Segment { number: self.next, bytes: 0 });
        self.next += 1;
        Ok(())
    }

    /// Records from the front, at most so many and so many bytes but at least one if any waits,
    /// with the mark that says they were [`sent`](Self::sent).
    pub(crate) fn front(
        &mut self,
        most: usize,
        most_bytes: usize,
    ) -> Result<Option<(Vec<Entry>, Mark)>, SpoolError> {
        while let Some(first) = self.segments.get(self.sent) {
            let path = self.path(first.number);
            let unsent = usize::try_from(first.bytes - self.head).unwrap_or(usize::MAX);
            let file = File::open(&path).map_err(failed("open", &path))?;
            for length in [most_bytes.min(unsent), unsent] {
                let mut bytes = vec![0; length];
                file.read_exact_at(&mut bytes, self.head).map_err(failed("read", &path))?;
                let (mut entries, mut at) = (Vec::new(), 0);
                while entries.len() < most
                    && let Some((entry, size)) = Entry::read(&bytes[at..])
                {
                    entries.push(entry);
                    at += size;
                }
                if !entries.is_empty() {
                    let end = self.head + at as u64;
                    return Ok(Some((entries, Mark { segment: first.number, end })));
                }
            }
            if unsent > 0 {
                tracing::error!(unsent, path = %path.display(), "spool is damaged, records are lost");
            }
            self.next_segment();
        }
        Ok(None)
    }

    /// Everything up to the mark was sent. What was dropped meanwhile stays dropped.
    pub(crate) fn sent(&mut self, mark: Mark) {
        match self.segments.get(self.sent) {
            Some(first) if first.number == mark.segment => self.head = mark.end,
            _ => return,
        }
        if self.segments.get(self.sent).is_some_and(|first| first.bytes <= self.head) {
            self.next_segment();
        }
    }

    fn next_segment(&mut self) {
        self.head = 0;
        self.sent += 1;
        if self.sent == self.segments.len() {
            self.tail = None;
        }
    }

    /// Removes segments that were sent whole.
    pub(crate) fn trim(&mut self) -> Result<(), SpoolError> {
        while self.sent > 0 {
            self.remove(0)?;
            self.sent -= 1;
        }
        Ok(())
    }

    /// Removes the oldest unsent records while there are more bytes than the bound; returns them
    /// without their payloads.
    pub(crate) fn bound(&mut self) -> Result<Vec<Entry>, SpoolError> {
        let mut dropped = Vec::new();
        while self.bytes() > self.max_bytes {
            let Some(first) = self.segments.get(self.sent) else { break };
            let path = self.path(first.number);
            let bytes = fs::read(&path).map_err(failed("read", &path))?;
            let mut at = usize::try_from(self.head).unwrap_or(usize::MAX).min(bytes.len());
            while let Some((mut entry, size)) = Entry::read(&bytes[at..]) {
                entry.payload.clear();
                dropped.push(entry);
                at += size;
            }
            self.remove(self.sent)?;
            self.head = 0;
            if self.segments.len() == self.sent {
                self.tail = None;
            }
        }
        Ok(dropped)
    }

    fn remove(&mut self, place: usize) -> Result<(), SpoolError> {
        let Some(segment) = self.segments.get(place) else { return Ok(()) };
        let path = self.path(segment.number);
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(failed("remove", &path)(error));
            }
            _ => self.segments.remove(place),
        };
        Ok(())
    }

    /// The files to sync: those written to since the last call.
    pub(crate) fn take_unsynced(&mut self) -> Vec<Arc<File>> {
        std::mem::take(&mut self.unsynced)
    }

    fn path(&self, number: u64) -> PathBuf {
        self.dir.join(format!("{number:016x}.seg"))
    }
}

fn failed(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> SpoolError {
    move |cause| SpoolError { what, path: path.to_owned(), cause }
}

#[cfg(test)]
mod tests;
