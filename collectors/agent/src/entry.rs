//! One record on its way to the log, and its form in the spool.
//!
//! ```text
//! length u32 │ crc32 u32 │ partition u32 │ samples u32 │ start i64 │ end i64 │ payload
//!            └ of all that follows; numbers little-endian; length counts what follows the crc
//! ```

use bytes::Bytes;
use nilometer_contract::Timestamp;

/// Longest payload; what a log takes as one record is shorter.
const MAX_PAYLOAD_BYTES: usize = 2 << 20;
/// Bytes before what is summed.
const PREFIX_BYTES: usize = 8;
const HEADER_BYTES: usize = 24;

/// A record with what a gap would say of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Entry {
    pub(crate) partition: u32,
    pub(crate) samples: u32,
    /// Instant of the earliest sample or event in it.
    pub(crate) start: Timestamp,
    /// First instant past the latest.
    pub(crate) end: Timestamp,
    pub(crate) payload: Bytes,
}

impl Entry {
    /// Bytes it takes in memory or in the spool.
    pub(crate) fn size(&self) -> usize {
        PREFIX_BYTES + HEADER_BYTES + self.payload.len()
    }

    /// Adds its form in the spool.
    pub(crate) fn write(&self, out: &mut Vec<u8>) {
        let at = out.len();
        let length = (HEADER_BYTES + self.payload.len()) as u32;
        out.extend_from_slice(&length.to_le_bytes());
        out.extend_from_slice(&[0; 4]);
        out.extend_from_slice(&self.partition.to_le_bytes());
        out.extend_from_slice(&self.samples.to_le_bytes());
        out.extend_from_slice(&self.start.0.to_le_bytes());
        out.extend_from_slice(&self.end.0.to_le_bytes());
        out.extend_from_slice(&self.payload);
        let sum = crc32fast::hash(&out[at + PREFIX_BYTES..]);
        out[at + 4..at + PREFIX_BYTES].copy_from_slice(&sum.to_le_bytes());
    }

    /// The entry at the front of `bytes` and its size; nothing when it is torn or damaged.
    pub(crate) fn read(bytes: &[u8]) -> Option<(Entry, usize)> {
        let length = u32::from_le_bytes(part(bytes, 0)?) as usize;
        let sum = u32::from_le_bytes(part(bytes, 4)?);
        if !(HEADER_BYTES..=HEADER_BYTES + MAX_PAYLOAD_BYTES).contains(&length) {
            return None;
        }
        let body = bytes.get(PREFIX_BYTES..PREFIX_BYTES + length)?;
        if crc32fast::hash(body) != sum {
            return None;
        }
        let entry = Entry {
            partition: u32::from_le_bytes(part(body, 0)?),
            samples: u32::from_le_bytes(part(body, 4)?),
            start: Timestamp(i64::from_le_bytes(part(body, 8)?)),
            end: Timestamp(i64::from_le_bytes(part(body, 16)?)),
            payload: Bytes::copy_from_slice(&body[HEADER_BYTES..]),
        };
        Some((entry, PREFIX_BYTES + length))
    }
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
            partition: u32, samples: u32, start: i64, end: i64,
            payload in proptest::collection::vec(any::<u8>(), 0..300),
            cut in any::<proptest::sample::Index>(), flip in any::<proptest::sample::Index>(),
        ) {
            let entry = Entry { partition, samples, start: Timestamp(start), end: Timestamp(end), payload: payload.into() };
            let mut bytes = Vec::new();
            entry.write(&mut bytes);
            prop_assert_eq!(bytes.len(), entry.size());
            prop_assert_eq!(Entry::read(&bytes), Some((entry.clone(), bytes.len())));
            prop_assert_eq!(Entry::read(&bytes[..cut.index(bytes.len())]), None);
            let place = flip.index(bytes.len());
            bytes[place] ^= 0x10;
            prop_assert_ne!(Entry::read(&bytes).map(|read| read.0), Some(entry));
        }
    }
}
