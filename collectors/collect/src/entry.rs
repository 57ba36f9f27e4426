//! One record on its way to the log, and its form in the spool.
//!
//! ```text
//! mark │ header sum u32 │ payload sum u32 │ length u32 │ partition u32 │ samples u32 │ start i64 │
//!      end i64 │ length of source u8 │ source │ payload
//! ```
//!
//! Numbers are little-endian, sums are CRC-32, `length` is the payload's. The header sum covers all
//! between itself and the payload, and where the record lies: so a reader that lost its place finds
//! the next record by its mark and this sum, and never takes a copy inside a payload for a record.
//! A payload that is damaged under a whole header still says whose it was and of when.

use std::sync::Arc;

use bytes::Bytes;
use nilometer_contract::Timestamp;
use nilometer_producer::ProducerRecord;

/// Begins every record; no text in UTF-8 holds it.
const MARK: [u8; 4] = [0xC5, 0x00, 0xFE, 0x91];
/// Longest payload; what a log takes as one record is shorter.
const MAX_PAYLOAD_BYTES: usize = 2 << 20;
const MAX_SOURCE_BYTES: usize = u8::MAX as usize;
/// Bytes before what the header sum covers.
const PREFIX_BYTES: usize = 8;
/// Bytes before the source.
const FIXED_BYTES: usize = PREFIX_BYTES + 33;
/// Longest header.
pub(crate) const MAX_HEADER_BYTES: usize = FIXED_BYTES + MAX_SOURCE_BYTES;

/// A record with what a gap would say of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Entry {
    pub(crate) partition: u32,
    pub(crate) samples: u32,
    /// Instant of the earliest sample or event in it.
    pub(crate) start: Timestamp,
    /// First instant past the latest.
    pub(crate) end: Timestamp,
    /// The source that observed it.
    pub(crate) source: Arc<str>,
    pub(crate) payload: Bytes,
    /// Whether an append of it was tried of which it is not known how it ended; set where it is lost.
    pub(crate) tried: bool,
}

/// A place in the spool. Larger means later.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Position {
    pub(crate) segment: u64,
    pub(crate) offset: u64,
}

/// What the front of some bytes is.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Front {
    /// A record, and its size.
    Whole(Entry, usize),
    /// A record whose payload is damaged, without it, and its size.
    Damaged(Entry, usize),
    /// A record that goes on past the bytes, without its payload, and its size.
    Cut(Entry, usize),
    /// No record begins here.
    Nothing,
}

impl From<ProducerRecord> for Entry {
    fn from(record: ProducerRecord) -> Entry {
        let ProducerRecord { partition, samples, start, end, source, payload, .. } = record;
        Entry { partition, samples, start, end, source, payload, tried: false }
    }
}

impl Entry {
    /// Bytes it takes in memory or in the spool.
    pub(crate) fn size(&self) -> usize {
        FIXED_BYTES + self.source_bytes().len() + self.payload.len()
    }

    /// Its name of the source, as far as the header holds it.
    fn source_bytes(&self) -> &[u8] {
        let mut end = self.source.len().min(MAX_SOURCE_BYTES);
        while !self.source.is_char_boundary(end) {
            end -= 1;
        }
        &self.source.as_bytes()[..end]
    }

    /// Adds its form in the spool, where it lies at `position`.
    pub(crate) fn write(&self, position: Position, out: &mut Vec<u8>) {
        let at = out.len();
        let source = self.source_bytes();
        out.extend_from_slice(&MARK);
        out.extend_from_slice(&[0; 4]);
        out.extend_from_slice(&crc32fast::hash(&self.payload).to_le_bytes());
        out.extend_from_slice(&(self.payload.len() as u32).to_le_bytes());
        out.extend_from_slice(&self.partition.to_le_bytes());
        out.extend_from_slice(&self.samples.to_le_bytes());
        out.extend_from_slice(&self.start.0.to_le_bytes());
        out.extend_from_slice(&self.end.0.to_le_bytes());
        out.push(source.len() as u8);
        out.extend_from_slice(source);
        let sum = header_sum(position, &out[at + PREFIX_BYTES..]);
        out[at + 4..at + PREFIX_BYTES].copy_from_slice(&sum.to_le_bytes());
        out.extend_from_slice(&self.payload);
    }

    /// What the front of `bytes`, which lie at `position`, is.
    pub(crate) fn read(bytes: &[u8], position: Position) -> Front {
        let Some(header) = Header::read(bytes, position) else { return Front::Nothing };
        let Header { mut entry, payload_sum, payload_at, size } = header;
        match bytes.get(payload_at..size) {
            None => Front::Cut(entry, size),
            Some(payload) if crc32fast::hash(payload) == payload_sum => {
                entry.payload = Bytes::copy_from_slice(payload);
                Front::Whole(entry, size)
            }
            Some(_) => Front::Damaged(entry, size),
        }
    }

    /// How many bytes past the front of `bytes`, which lie at `position`, the next record begins.
    pub(crate) fn next(bytes: &[u8], position: Position) -> Option<usize> {
        let is_record = |at: &usize| {
            let offset = position.offset + *at as u64;
            Header::read(&bytes[*at..], Position { offset, ..position }).is_some()
        };
        (1..bytes.len()).filter(|&at| bytes[at] == MARK[0]).find(is_record)
    }
}

struct Header {
    /// Without payload.
    entry: Entry,
    payload_sum: u32,
    payload_at: usize,
    size: usize,
}

impl Header {
    fn read(bytes: &[u8], position: Position) -> Option<Header> {
        if !bytes.starts_with(&MARK) {
            return None;
        }
        let payload_at = FIXED_BYTES + usize::from(*bytes.get(FIXED_BYTES - 1)?);
        let summed = bytes.get(PREFIX_BYTES..payload_at)?;
        if header_sum(position, summed) != u32::from_le_bytes(part(bytes, 4)?) {
            return None;
        }
        let length = u32::from_le_bytes(part(bytes, 12)?) as usize;
        if length > MAX_PAYLOAD_BYTES {
            return None;
        }
        let entry = Entry {
            partition: u32::from_le_bytes(part(bytes, 16)?),
            samples: u32::from_le_bytes(part(bytes, 20)?),
            start: Timestamp(i64::from_le_bytes(part(bytes, 24)?)),
            end: Timestamp(i64::from_le_bytes(part(bytes, 32)?)),
            source: std::str::from_utf8(&bytes[FIXED_BYTES..payload_at]).ok()?.into(),
            payload: Bytes::new(),
            tried: false,
        };
        let payload_sum = u32::from_le_bytes(part(bytes, 8)?);
        Some(Header { entry, payload_sum, payload_at, size: payload_at + length })
    }
}

fn header_sum(position: Position, summed: &[u8]) -> u32 {
    let mut sum = crc32fast::Hasher::new();
    sum.update(&position.segment.to_le_bytes());
    sum.update(&position.offset.to_le_bytes());
    sum.update(summed);
    sum.finalize()
}

fn part<const N: usize>(bytes: &[u8], at: usize) -> Option<[u8; N]> {
    bytes.get(at..at + N)?.try_into().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(256) })]

        #[test]
        fn entries_round_trip_and_torn_ones_are_refused(
            partition: u32, samples: u32, start: i64, end: i64, source in "\\PC{0,100}",
            payload in proptest::collection::vec(any::<u8>(), 0..300), segment: u64, offset in 0..1_u64 << 40,
            cut in any::<proptest::sample::Index>(), flip in any::<proptest::sample::Index>(), bit in 0..8_u8,
        ) {
            let (start, end, source) = (Timestamp(start), Timestamp(end), Arc::from(source));
            let payload = payload.into();
            let entry = Entry { partition, samples, start, end, source, payload, tried: false };
            let at = Position { segment, offset };
            let mut bytes = Vec::new();
            entry.write(at, &mut bytes);
            prop_assert_eq!(bytes.len(), entry.size());
            let whole = Entry::read(&bytes, at);
            let elsewhere = Position { segment, offset: offset + 1 };
            prop_assert_eq!(Entry::read(&bytes, elsewhere), Front::Nothing);
            let torn = Entry::read(&bytes[..cut.index(bytes.len())], at);
            prop_assert!(matches!(torn, Front::Cut(..) | Front::Nothing));
            let place = flip.index(bytes.len());
            bytes[place] ^= 1 << bit;
            let flipped = Entry::read(&bytes, at);
            prop_assert!(matches!(flipped, Front::Damaged(..) | Front::Nothing));
            if let Front::Whole(found, size) = whole {
                prop_assert_eq!((&found.payload, size), (&entry.payload, bytes.len()));
                if entry.source.len() <= MAX_SOURCE_BYTES {
                    prop_assert_eq!(found, entry);
                }
            } else {
                prop_assert!(false, "{:?}", whole);
            }
        }
    }
}
