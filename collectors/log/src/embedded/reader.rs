//! The reading end of a partition. Takes no lock and writes nothing.
//!
//! Everything below the published end was written before it was published, so a reader never
//! meets a half-written record there: what is not whole is damaged, and reported as gone together
//! with the place to go on from. Nothing is returned whose checksum was not right.

use std::{
    fs::File,
    io,
    os::unix::fs::MetadataExt,
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use bytes::Bytes;

use super::{
    files::Files,
    format::{HEADER, MAGIC, Parsed, Walk, parse, read_at},
    segments,
    tail::{Note, Tails},
};
use crate::{Record, Watermarks};

/// Most bytes read at once, whatever the caller would take.
const BLOCK_MAX: usize = 4 << 20;

/// Places remembered, so that as many readers of a partition go on without a search.
const CURSORS_MAX: usize = 4;

/// How often a search is begun again because segments came or went during it.
const ATTEMPTS: usize = 8;

pub(super) struct Reader {
    dir: PathBuf,
    partition: u32,
    tails: Arc<Tails>,
    files: Arc<Files>,
    cursors: Mutex<Vec<Cursor>>,
    scan: Mutex<Option<Scan>>,
}

/// A segment and the place of the next record in it.
#[derive(Clone, Copy)]
struct Cursor {
    base: u64,
    place: Walk,
}

/// The end of the last segment, found by reading it: for when nobody has published since boot.
struct Scan {
    base: u64,
    size: u64,
    end: Walk,
}

/// What a fetch found.
pub(super) enum Fetched {
    /// Records; none if the offset is the next to be appended.
    Records(Vec<Record>),
    /// Gone; the first offset that may be there.
    Truncated { low: u64 },
    /// Not appended yet; the next to be.
    BeyondEnd { high: u64 },
}

enum Found {
    At(Cursor),
    Gone { low: u64 },
}

impl Reader {
    pub(super) fn new(
        dir: PathBuf,
        partition: u32,
        tails: Arc<Tails>,
        files: Arc<Files>,
    ) -> Reader {
        let (cursors, scan) = (Mutex::default(), Mutex::default());
        Reader { dir, partition, tails, files, cursors, scan }
    }

    pub(super) fn watermarks(&self) -> io::Result<Watermarks> {
        let high = self.high()?;
        let low = segments::list(&self.dir)?[0];
        Ok(Watermarks { low, high: high.max(low) })
    }

    /// Whether `offset` is the next to be appended: then there is nothing to read. A few bytes
    /// of a file that every append writes: they are in memory.
    pub(super) fn is_at_end(&self, offset: u64) -> bool {
        let note = self.tails.read(self.partition);
        note.is_ok_and(|note| note == Note { next: offset, current: true })
    }

    /// One past the last record that may be read.
    fn high(&self) -> io::Result<u64> {
        let note = self.tails.read(self.partition)?;
        if note.current {
            return Ok(note.next);
        }
        // Nobody appended since the machine started, so what is there was on disk.
        let mut kept = locked(&self.scan);
        for _ in 0..ATTEMPTS {
            match self.scan(kept.take()) {
                Ok(scan) => {
                    let next = scan.end.next;
                    *kept = Some(scan);
                    return Ok(next.max(note.next));
                }
                Err(e) if e.kind() == io::ErrorKind::NotFound => {}
                Err(e) => return Err(e),
            }
        }
        Err(changing())
    }

    pub(super) fn fetch(&self, offset: u64, max_bytes: usize) -> io::Result<Fetched> {
        let high = self.high()?;
        if offset >= high {
            let low = segments::list(&self.dir)?[0];
            let high = high.max(low);
            return Ok(match offset {
                _ if offset < low => Fetched::Truncated { low },
                _ if offset > high => Fetched::BeyondEnd { high },
                _ => Fetched::Records(Vec::new()),
            });
        }
        let mut cursor = self.remembered(offset);
        for _ in 0..ATTEMPTS {
            if let Some(mut at) = cursor.take() {
                let records = match self.files.to_read(&self.dir, at.base) {
                    Ok(file) => at.read(&file, high, max_bytes)?,
                    Err(e) if e.kind() == io::ErrorKind::NotFound => Vec::new(),
                    Err(e) => return Err(e),
                };
                if !records.is_empty() {
                    self.remember(at);
                    return Ok(Fetched::Records(records));
                }
            }
            match self.find(offset, high) {
                Ok(Found::At(found)) => cursor = Some(found),
                Ok(Found::Gone { low }) => return Ok(Fetched::Truncated { low }),
                Err(e) if e.kind() == io::ErrorKind::NotFound => {}
                Err(e) => return Err(e),
            }
        }
        Err(changing())
    }

    /// Goes on from the scan before, if it was of the same segment.
    fn scan(&self, before: Option<Scan>) -> io::Result<Scan> {
        let bases = segments::list(&self.dir)?;
        let base = bases[bases.len() - 1];
        let file = self.files.to_read(&self.dir, base)?;
        let mut scan = match before {
            Some(scan) if scan.base == base => scan,
            _ => Scan { base, size: MAGIC.len() as u64, end: Walk::start(base) },
        };
        let size = file.metadata()?.len();
        if size != scan.size {
            scan.end.advance(&file, u64::MAX)?;
            while let Some(later) = scan.end.resume(&file)? {
                scan.end = later;
                scan.end.advance(&file, u64::MAX)?;
            }
            scan.size = size;
        }
        Ok(scan)
    }

    fn remembered(&self, offset: u64) -> Option<Cursor> {
        let mut cursors = locked(&self.cursors);
        let i = cursors.iter().position(|cursor| cursor.place.next == offset)?;
        Some(cursors.remove(i))
    }

    /// The place longest not used gives way.
    fn remember(&self, cursor: Cursor) {
        let mut cursors = locked(&self.cursors);
        if cursors.len() == CURSORS_MAX {
            cursors.remove(0);
        }
        cursors.push(cursor);
    }

    /// The place of the record `offset`, which is below `high`.
    fn find(&self, offset: u64, high: u64) -> io::Result<Found> {
        let bases = segments::list(&self.dir)?;
        let after = bases.partition_point(|base| *base <= offset);
        let Some(base) = after.checked_sub(1).map(|i| bases[i]) else {
            return Ok(Found::Gone { low: bases[0] });
        };
        let file = self.files.to_read(&self.dir, base)?;
        let mut place = Walk::start(base);
        place.hop(&file, offset)?;
        if place.next == offset && place.at_whole_record(&file)? {
            return Ok(Found::At(Cursor { base, place }));
        }
        // Something on the way is damaged, and may have led the jumps astray.
        place = Walk::start(base);
        loop {
            place.advance(&file, offset)?;
            if place.next == offset && place.at_whole_record(&file)? {
                return Ok(Found::At(Cursor { base, place }));
            }
            match place.resume(&file)? {
                Some(later) if later.next <= offset => place = later,
                Some(later) => return Ok(Found::Gone { low: later.next }),
                None => return Ok(Found::Gone { low: *bases.get(after).unwrap_or(&high) }),
            }
        }
    }
}

impl Cursor {
    /// At least one record if there is any, then up to `max_bytes`, all below `high`. None at the
    /// end of the segment, where the next one is damaged, and when the segment was deleted.
    fn read(&mut self, file: &File, high: u64, max_bytes: usize) -> io::Result<Vec<Record>> {
        let stat = file.metadata()?;
        let left = stat.len().saturating_sub(self.place.at);
        if stat.nlink() == 0 || left < HEADER as u64 {
            return Ok(Vec::new());
        }
        let left = usize::try_from(left).unwrap_or(usize::MAX);
        let mut want = max_bytes.clamp(4096, BLOCK_MAX).min(left);
        loop {
            let block = Bytes::from(read_at(file, self.place.at, want)?);
            match parse(&block, 0, self.place.next) {
                Parsed::Short { need } if need <= left && block.len() >= want => want = need,
                _ => return Ok(self.take(&block, high, max_bytes)),
            }
        }
    }

    fn take(&mut self, block: &Bytes, high: u64, max_bytes: usize) -> Vec<Record> {
        let mut records = Vec::new();
        let (mut used, mut bytes) = (0, 0_usize);
        while self.place.next < high
            && let Parsed::Whole { at_micros, payload, end } = parse(block, used, self.place.next)
        {
            bytes = bytes.saturating_add(payload.len());
            if bytes > max_bytes && !records.is_empty() {
                break;
            }
            records.push(Record {
                offset: self.place.next,
                appended_at_micros: at_micros,
                payload: block.slice(payload),
            });
            self.place.next += 1;
            used = end;
        }
        self.place.at += used as u64;
        records
    }
}

fn changing() -> io::Error {
    io::Error::new(io::ErrorKind::WouldBlock, "segments come and go faster than they can be read")
}

/// A panic of another thread leaves nothing half-done in what these locks protect.
fn locked<T>(of: &Mutex<T>) -> MutexGuard<'_, T> {
    of.lock().unwrap_or_else(PoisonError::into_inner)
}
