//! How records lie in a segment file, and how whole ones are told from torn or damaged ones.
//!
//! ```text
//! segment │ magic (8) │ record │ record │ …
//! record  │ length u32 │ crc32 u32 │ offset u64 │ appended_at_micros i64 │ payload (length) │
//! ```
//!
//! Little-endian. The checksum covers everything of the record but itself. A stored format never
//! changes under its magic: a new layout gets a new one.

use std::{fs::File, io, ops::Range};

/// First bytes of every segment: name and version of the format.
pub(super) const MAGIC: &[u8; 8] = b"NILOLOG1";

/// Bytes before the payload of a record.
pub(super) const HEADER: usize = 24;

/// Longest payload that any version of the writer has been allowed; a length above it is damage.
pub(super) const PAYLOAD_MAX: usize = 64 << 20;

/// How much of a segment is read at once when it is checked or searched.
const BLOCK: usize = 1 << 20;

/// How much of a segment is read at once on the way to a record: most of it is skipped where
/// records are long.
const HOP: usize = 64 << 10;

/// Encodes one record at the end of `into`.
pub(super) fn put(into: &mut Vec<u8>, offset: u64, at_micros: i64, payload: &[u8]) {
    assert!(payload.len() <= PAYLOAD_MAX, "invariant: the length of a payload was checked");
    let start = into.len();
    into.extend_from_slice(&(payload.len() as u32).to_le_bytes());
    into.extend_from_slice(&[0; 4]);
    into.extend_from_slice(&offset.to_le_bytes());
    into.extend_from_slice(&at_micros.to_le_bytes());
    into.extend_from_slice(payload);
    let crc = checksum(&into[start..]);
    into[start + 4..start + 8].copy_from_slice(&crc.to_le_bytes());
}

/// What lies at some place of a block.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Parsed {
    /// A whole record: its payload, and where the next one begins.
    Whole { at_micros: i64, payload: Range<usize>, end: usize },
    /// The record, if it is one, needs this many bytes from its start; the block has fewer.
    Short { need: usize },
    /// Not the record expected here.
    Bad,
}

/// Reads the record with the offset `expected` at `at`.
pub(super) fn parse(block: &[u8], at: usize, expected: u64) -> Parsed {
    let rest = &block[at..];
    let Some(head) = rest.first_chunk::<HEADER>() else {
        return Parsed::Short { need: HEADER };
    };
    let length = u32_at(head, 0) as usize;
    if u64_at(head, 8) != expected || length > PAYLOAD_MAX {
        return Parsed::Bad;
    }
    let whole = HEADER + length;
    if rest.len() < whole {
        return Parsed::Short { need: whole };
    }
    if checksum(&rest[..whole]) != u32_at(head, 4) {
        return Parsed::Bad;
    }
    let at_micros = u64_at(head, 16) as i64;
    Parsed::Whole { at_micros, payload: at + HEADER..at + whole, end: at + whole }
}

/// Reads `want` bytes from `at`, or a few more; fewer only at the end of the file.
pub(super) fn read_at(file: &File, at: u64, want: usize) -> io::Result<Vec<u8>> {
    let mut block = Vec::with_capacity(want.max(1));
    while block.len() < want {
        let from = at + block.len() as u64;
        let got = rustix::io::retry_on_intr(|| {
            rustix::io::pread(file, rustix::buffer::spare_capacity(&mut block), from)
        })?;
        if got == 0 {
            break;
        }
    }
    Ok(block)
}

/// A place in a segment that lies between two records, moved on over whole ones.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Walk {
    /// Byte in the file.
    pub(super) at: u64,
    /// Offset of the record that begins there, or will.
    pub(super) next: u64,
}

impl Walk {
    /// The first record of a segment.
    pub(super) fn start(base: u64) -> Walk {
        Walk { at: MAGIC.len() as u64, next: base }
    }

    /// Moves on over whole records until `until`, the end of the file or one that is not whole.
    pub(super) fn advance(&mut self, file: &File, until: u64) -> io::Result<()> {
        let mut want = BLOCK;
        while self.next < until {
            let block = read_at(file, self.at, want)?;
            let mut used = 0;
            let need = loop {
                if self.next == until {
                    break None;
                }
                match parse(&block, used, self.next) {
                    Parsed::Whole { end, .. } => {
                        used = end;
                        self.next += 1;
                    }
                    Parsed::Short { need } => break Some(need),
                    Parsed::Bad => break None,
                }
            };
            self.at += used as u64;
            match need {
                // The file ends inside the record.
                Some(_) if block.len() < want => return Ok(()),
                Some(need) => want = need.max(BLOCK),
                None => return Ok(()),
            }
        }
        Ok(())
    }

    /// Moves on to the record `to`, or to where that is not possible, by lengths and offsets
    /// alone: fast, and blind to damage in payloads.
    pub(super) fn hop(&mut self, file: &File, to: u64) -> io::Result<()> {
        while self.next < to {
            let block = read_at(file, self.at, HOP)?;
            let mut at = 0;
            while self.next < to
                && let Some(head) = block.get(at..).and_then(|rest| rest.first_chunk::<HEADER>())
            {
                let length = u32_at(head, 0) as usize;
                if u64_at(head, 8) != self.next || length > PAYLOAD_MAX {
                    self.at += at as u64;
                    return Ok(());
                }
                at += HEADER + length;
                self.next += 1;
            }
            if at == 0 {
                return Ok(());
            }
            self.at += at as u64;
        }
        Ok(())
    }

    /// Whether the record at this place is whole and undamaged.
    pub(super) fn at_whole_record(&self, file: &File) -> io::Result<bool> {
        let mut moved = *self;
        moved.advance(file, self.next + 1)?;
        Ok(moved != *self)
    }

    /// The first whole record after this place whose offset is above `next`: where to go on after
    /// damage. None if the rest of the file holds none, as after a torn append.
    pub(super) fn resume(&self, file: &File) -> io::Result<Option<Walk>> {
        let size = file.metadata()?.len();
        let mut at = self.at;
        while at + HEADER as u64 <= size {
            let block = read_at(file, at, BLOCK)?;
            if block.len() < HEADER {
                break;
            }
            let last = block.len() - HEADER;
            for i in 0..=last {
                if let Some(found) = self.candidate(file, size, at + i as u64, &block[i..])? {
                    return Ok(Some(found));
                }
            }
            at += last as u64 + 1;
        }
        Ok(None)
    }

    fn candidate(&self, file: &File, size: u64, at: u64, bytes: &[u8]) -> io::Result<Option<Walk>> {
        let offset = u64_at(bytes, 8);
        let most = self.next + 1 + (size - self.at) / HEADER as u64;
        let whole = HEADER as u64 + u64::from(u32_at(bytes, 0));
        if offset <= self.next || offset > most || at + whole > size {
            return Ok(None);
        }
        let record = read_at(file, at, whole as usize)?;
        let found = matches!(parse(&record, 0, offset), Parsed::Whole { .. });
        Ok(found.then_some(Walk { at, next: offset }))
    }
}

/// When the first record of a segment was appended, if it has one.
pub(super) fn first_at_micros(file: &File, base: u64) -> io::Result<Option<i64>> {
    let head = read_at(file, MAGIC.len() as u64, HEADER)?;
    if head.len() < HEADER || u64_at(&head, 8) != base {
        return Ok(None);
    }
    Ok(Some(u64_at(&head, 16) as i64))
}

/// Of a record without its place for the checksum.
fn checksum(record: &[u8]) -> u32 {
    let mut crc = crc32fast::Hasher::new();
    crc.update(&record[..4]);
    crc.update(&record[8..]);
    crc.finalize()
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from(u32_at(bytes, at)) | u64::from(u32_at(bytes, at + 4)) << 32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_stored_form_never_changes() {
        let mut bytes = MAGIC.to_vec();
        put(&mut bytes, 7, 1_700_000_000_000_000, b"nile");
        let hex: String = bytes.iter().map(|b| format!("{b:02x}")).collect();
        let (magic, length, crc) = ("4e494c4f4c4f4731", "04000000", "2dabceb4");
        let (offset, at, payload) = ("0700000000000000", "00401e18240a0600", "6e696c65");
        assert_eq!(hex, [magic, length, crc, offset, at, payload].concat());
    }

    #[test]
    fn every_flipped_bit_and_every_cut_is_seen() {
        let mut bytes = Vec::new();
        put(&mut bytes, 3, 5, b"payload");
        assert!(matches!(parse(&bytes, 0, 3), Parsed::Whole { at_micros: 5, .. }));
        assert_eq!(parse(&bytes, 0, 4), Parsed::Bad);
        for cut in 0..bytes.len() {
            assert!(matches!(parse(&bytes[..cut], 0, 3), Parsed::Short { .. }), "{cut}");
        }
        for bit in 0..bytes.len() * 8 {
            let mut flipped = bytes.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert!(!matches!(parse(&flipped, 0, 3), Parsed::Whole { .. }), "{bit}");
        }
        assert!(matches!(parse(&[0; 64], 0, 0), Parsed::Bad), "zeroes are no record");
    }
}
