//! Records that wait on disk, oldest first, in segments.
//!
//! ```text
//! 0000000000000007.seg   0000000000000008.seg   0000000000000009.seg
//! │ record │ record      │ record │ record      │ record │ ← pushed here
//! ```
//!
//! Pushing is one `write`, so what was pushed outlives the process, however it dies; syncing makes
//! it outlive the machine, and is done every second and at every stop, the folder included. Which
//! records were sent is the owner's to know: it trims segments of which it needs nothing more. After
//! a crash what lies in segments not yet trimmed is sent again.
//!
//! Damage costs the records that it touches: reading goes on at the next record that is whole, and
//! says what it passed over. What is damaged when a spool is opened is cut out of its file.

use std::collections::VecDeque;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::entry::{Entry, MAX_HEADER_BYTES, Position};
use crate::file;

mod scan;

pub(crate) use scan::Found;
use scan::{Span, scan, span_of};

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

/// Records of one topic on disk.
pub(crate) struct Spool {
    dir: PathBuf,
    max_bytes: u64,
    segment_bytes: u64,
    segments: VecDeque<Segment>,
    /// The last segment, while it is written to.
    tail: Option<Arc<File>>,
    next: u64,
    unsynced: Unsynced,
}

struct Segment {
    number: u64,
    bytes: u64,
}

/// What was written since the last sync.
#[derive(Default)]
pub(crate) struct Unsynced {
    files: Vec<Arc<File>>,
    /// The folder, when it has new names in it.
    folder: Option<PathBuf>,
}

/// A part of the spool.
#[derive(Debug, Default)]
pub(crate) struct Chunk {
    pub(crate) found: Vec<(Position, Found)>,
    /// The place past it; nothing when the spool ends with it.
    pub(crate) end: Option<Position>,
}

impl Spool {
    /// Opens a folder; `each` is given all that lies in it: the damage of a segment, which is cut
    /// out of it after that, then its records, oldest first.
    pub(crate) fn open(
        dir: &Path,
        max_bytes: u64,
        mut each: impl FnMut(Position, Found),
    ) -> Result<Self, SpoolError> {
        file::create_folder(dir).map_err(failed("create", dir))?;
        let mut spool = Spool {
            dir: dir.to_owned(),
            max_bytes,
            segment_bytes: (max_bytes / SEGMENTS).clamp(1, MAX_SEGMENT_BYTES),
            segments: VecDeque::new(),
            tail: None,
            next: 0,
            unsynced: Unsynced::default(),
        };
        let mut numbers: Vec<u64> = fs::read_dir(dir)
            .map_err(failed("list", dir))?
            .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
            .filter_map(|name| u64::from_str_radix(name.strip_suffix(".seg")?, 16).ok())
            .collect();
        numbers.sort_unstable();
        let mut before = None;
        for (n, &number) in numbers.iter().enumerate() {
            let after = numbers.get(n + 1).and_then(|&next| spool.first_span(next));
            let bytes = spool.open_segment(number, (&mut before, after), &mut each)?;
            spool.segments.push_back(Segment { number, bytes });
            spool.next = number + 1;
        }
        Ok(spool)
    }

    fn open_segment(
        &self,
        number: u64,
        (before, after): (&mut Option<Span>, Option<Span>),
        each: &mut impl FnMut(Position, Found),
    ) -> Result<u64, SpoolError> {
        let path = self.path(number);
        let bytes = fs::read(&path).map_err(failed("read", &path))?;
        let begin = Position { segment: number, offset: 0 };
        let (mut found, mut whole) = (Vec::new(), true);
        scan(&bytes, begin, true, &mut |at, mut what| {
            match &mut what {
                Found::Record(entry, _) => *before = Some((entry.start, entry.end)),
                Found::Damaged(entry, _) => {
                    *before = Some((entry.start, entry.end));
                    whole = false;
                }
                Found::Unknown(unknown) => {
                    unknown.before = unknown.before.or(*before);
                    let at_end = at.offset + unknown.bytes == bytes.len() as u64;
                    unknown.after = unknown.after.or(after.filter(|_| at_end));
                    whole = false;
                }
            }
            found.push((at, what));
        });
        let size = bytes.len();
        drop(bytes);
        if whole {
            found.into_iter().for_each(|(at, what)| each(at, what));
            return Ok(size as u64);
        }
        let (records, damage): (Vec<_>, Vec<_>) =
            found.into_iter().partition(|(_, what)| matches!(what, Found::Record(..)));
        damage.into_iter().for_each(|(at, what)| each(at, what));
        let mut repaired = Vec::with_capacity(size);
        for (mut at, what) in records {
            at.offset = repaired.len() as u64;
            if let Found::Record(entry, _) = &what {
                entry.write(at, &mut repaired);
            }
            each(at, what);
        }
        file::replace(&path, &repaired).map_err(failed("repair", &path))?;
        Ok(repaired.len() as u64)
    }

    /// Time of the first record of a segment.
    fn first_span(&self, number: u64) -> Option<Span> {
        let mut bytes = vec![0; MAX_HEADER_BYTES];
        let read = File::open(self.path(number)).and_then(|file| file.read_at(&mut bytes, 0));
        bytes.truncate(read.unwrap_or(0));
        span_of(&Entry::read(&bytes, Position { segment: number, offset: 0 }))
    }

    /// Bytes on disk.
    pub(crate) fn bytes(&self) -> u64 {
        self.segments.iter().map(|segment| segment.bytes).sum()
    }

    /// Bytes after which a new segment is begun.
    pub(crate) fn segment_bytes(&self) -> usize {
        usize::try_from(self.segment_bytes).unwrap_or(usize::MAX)
    }

    /// Whether there is more on disk than the bound.
    pub(crate) fn is_over(&self) -> bool {
        self.bytes() > self.max_bytes
    }

    /// Whether more than half of the room is taken.
    pub(crate) fn is_tight(&self) -> bool {
        self.bytes() > self.max_bytes / 2
    }

    /// Writes records behind the others; returns where they lie. On an error none of them counts
    /// as written.
    pub(crate) fn push(&mut self, entries: &[Entry]) -> Result<Vec<Position>, SpoolError> {
        let full = self.segments.back().is_none_or(|last| last.bytes >= self.segment_bytes);
        if full || self.tail.is_none() {
            self.start_segment()?;
        }
        let (Some(tail), Some(segment)) = (&self.tail, self.segments.back_mut()) else {
            return Ok(Vec::new());
        };
        let mut bytes = Vec::with_capacity(entries.iter().map(Entry::size).sum());
        let mut positions = Vec::with_capacity(entries.len());
        for entry in entries {
            let offset = segment.bytes + bytes.len() as u64;
            let position = Position { segment: segment.number, offset };
            entry.write(position, &mut bytes);
            positions.push(position);
        }
        let written = tail.as_ref().write_all(&bytes);
        if let Err(cause) = written {
            // A part may have been written; a new segment is begun so that nothing follows it.
            let _ = tail.set_len(segment.bytes);
            self.tail = None;
            return Err(failed("write", &self.dir)(cause));
        }
        segment.bytes += bytes.len() as u64;
        if !self.unsynced.files.last().is_some_and(|last| Arc::ptr_eq(last, tail)) {
            self.unsynced.files.push(tail.clone());
        }
        Ok(positions)
    }

    fn start_segment(&mut self) -> Result<(), SpoolError> {
        let path = self.path(self.next);
        let file = OpenOptions::new().append(true).create_new(true).open(&path);
        self.tail = Some(Arc::new(file.map_err(failed("create", &path))?));
        self.segments.push_back(Segment { number: self.next, bytes: 0 });
        self.unsynced.folder = Some(self.dir.clone());
        self.next += 1;
        Ok(())
    }

    /// What lies from a place on, about so many bytes of it but at least one record, if there is any.
    pub(crate) fn read(&self, from: Position, want: usize) -> Result<Chunk, SpoolError> {
        let mut begin = from;
        for segment in self.segments.iter().skip_while(|segment| segment.number < from.segment) {
            if segment.number > begin.segment {
                begin = Position { segment: segment.number, offset: 0 };
            }
            if begin.offset < segment.bytes {
                return self.read_segment(segment, begin, want);
            }
        }
        Ok(Chunk::default())
    }

    fn read_segment(
        &self,
        segment: &Segment,
        begin: Position,
        want: usize,
    ) -> Result<Chunk, SpoolError> {
        let path = self.path(segment.number);
        let file = File::open(&path).map_err(failed("open", &path))?;
        let left = usize::try_from(segment.bytes - begin.offset).unwrap_or(usize::MAX);
        let mut length = want.max(MAX_HEADER_BYTES).min(left);
        loop {
            let mut bytes = vec![0; length];
            file.read_exact_at(&mut bytes, begin.offset).map_err(failed("read", &path))?;
            let mut found = Vec::new();
            let mut add = |at, what| found.push((at, what));
            let read = scan(&bytes, begin, length == left, &mut add);
            if read == 0 {
                // One record, or one damage, is longer than what was read.
                length = (length * 4).min(left);
                continue;
            }
            let end = begin.offset + read as u64;
            let is_last = self.segments.back().is_some_and(|last| last.number == segment.number);
            let end = match end < segment.bytes {
                true => Some(Position { offset: end, ..begin }),
                false if is_last => None,
                false => Some(Position { segment: segment.number + 1, offset: 0 }),
            };
            return Ok(Chunk { found, end });
        }
    }

    /// All that lies in the oldest segment.
    pub(crate) fn oldest(&self) -> Result<Vec<(Position, Found)>, SpoolError> {
        let mut found = Vec::new();
        if let Some(oldest) = self.segments.front() {
            let path = self.path(oldest.number);
            let bytes = fs::read(&path).map_err(failed("read", &path))?;
            let begin = Position { segment: oldest.number, offset: 0 };
            scan(&bytes, begin, true, &mut |at, what| found.push((at, what)));
        }
        Ok(found)
    }

    /// Number of the oldest segment, or of the next where there is none.
    pub(crate) fn first(&self) -> u64 {
        self.segments.front().map_or(self.next, |first| first.number)
    }

    /// Removes the oldest segment.
    pub(crate) fn remove_oldest(&mut self) -> Result<(), SpoolError> {
        let Some(oldest) = self.segments.front() else { return Ok(()) };
        let path = self.path(oldest.number);
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(failed("remove", &path)(error));
            }
            _ => self.segments.pop_front(),
        };
        if self.segments.is_empty() {
            self.tail = None;
        }
        Ok(())
    }

    /// Whether segments lie before a place, or any when none is given.
    pub(crate) fn has_before(&self, needed: Option<Position>) -> bool {
        let first = self.segments.front();
        first.is_some_and(|first| needed.is_none_or(|needed| first.number < needed.segment))
    }

    /// Removes the segments before a place, all of them when none is given.
    pub(crate) fn trim(&mut self, needed: Option<Position>) -> Result<(), SpoolError> {
        while self.has_before(needed) {
            self.remove_oldest()?;
        }
        Ok(())
    }

    /// What is to be synced.
    pub(crate) fn take_unsynced(&mut self) -> Unsynced {
        std::mem::take(&mut self.unsynced)
    }

    fn path(&self, number: u64) -> PathBuf {
        self.dir.join(format!("{number:016x}.seg"))
    }
}

impl Unsynced {
    /// Makes the files last, then their names.
    pub(crate) fn sync(self) -> io::Result<()> {
        for file in self.files {
            file.sync_data()?;
        }
        self.folder.map_or(Ok(()), |folder| file::sync_folder(&folder))
    }
}

fn failed(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> SpoolError {
    move |cause| SpoolError { what, path: path.to_owned(), cause }
}

#[cfg(test)]
mod tests;
