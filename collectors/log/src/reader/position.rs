//! Which log an offset counts in, and by which record a position is known again.

use std::fmt;

use nilometer_contract::Timestamp;

use crate::{Incarnation, Record};

/// One log as it is read: an incarnation, and how often it was begun again because it had lost
/// records from its end. Zero is none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LogId(i64);

const ROUND_BITS: u32 = 63 - Incarnation::BITS;
const ROUND_MASK: i64 = (1 << ROUND_BITS) - 1;

impl LogId {
    /// An incarnation that is read for the first time.
    pub fn first_of(incarnation: Incarnation) -> LogId {
        LogId((incarnation.bits() as i64) << ROUND_BITS)
    }

    /// From a [`number`](Self::number).
    pub fn from_number(number: i64) -> LogId {
        LogId(number)
    }

    /// As it is kept in tables.
    pub fn number(self) -> i64 {
        self.0
    }

    /// The incarnation.
    pub fn incarnation(self) -> Incarnation {
        Incarnation::new((self.0 >> ROUND_BITS) as u64)
    }

    /// The same incarnation, begun again.
    pub fn next_round(self) -> LogId {
        LogId((self.0 & !ROUND_MASK) | ((self.0 + 1) & ROUND_MASK))
    }

    /// Whether it is the same incarnation in a later round.
    pub fn is_later_round_of(self, other: LogId) -> bool {
        self.incarnation() == other.incarnation() && self.0 > other.0
    }
}

impl fmt::Display for LogId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 & ROUND_MASK {
            0 => write!(f, "{}", self.incarnation()),
            round => write!(f, "{}.{round}", self.incarnation()),
        }
    }
}

/// When a record was appended, to the millisecond, and a check of its bytes: by it the record
/// before a position is known again, or is seen to be another one.
///
/// Negative where it is of an earlier record, the last that is known, as after a gap; zero where none
/// is known.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Mark(i64);

const CHECK_BITS: u32 = 21;

impl Mark {
    /// Of a record.
    pub fn of(record: &Record) -> Mark {
        let millis = record.appended_at_micros.div_euclid(1_000);
        let check = xxhash_rust::xxh3::xxh3_64(&record.payload) & ((1 << CHECK_BITS) - 1);
        Mark((millis << CHECK_BITS | check as i64) & i64::MAX)
    }

    /// From a [`number`](Self::number); none where it is not known.
    pub fn from_number(number: i64) -> Option<Mark> {
        Some(Mark(number)).filter(|mark| *mark != Mark::default())
    }

    /// As it is kept in tables.
    pub fn number(self) -> i64 {
        self.0
    }

    /// The same record, of which it is no longer said that it is the one before the position.
    pub fn passed(self) -> Mark {
        Mark(-self.0.abs())
    }

    /// Whether it is of the record before the position.
    pub fn is_before_position(self) -> bool {
        self.0 > 0
    }

    /// When the record was appended.
    pub fn appended_at(self) -> Timestamp {
        Timestamp((self.0.abs() >> CHECK_BITS) * 1_000)
    }
}

/// Where to read on in a partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReadPosition {
    /// The log that it counts in.
    pub log: LogId,
    /// The next offset.
    pub next: u64,
    /// Of the record before it, where that is known.
    pub mark: Option<Mark>,
}

impl ReadPosition {
    /// At an offset of a log of which nothing was read.
    pub fn at(log: Incarnation, next: u64) -> ReadPosition {
        ReadPosition { log: LogId::first_of(log), next, mark: None }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn logs_are_told_apart_by_incarnation_and_round() {
        let first = LogId::first_of(Incarnation::new(0xffff_0000_0001));
        let later = first.next_round();
        assert_eq!(
            (first.to_string(), later.to_string()),
            ("ffff00000001".into(), "ffff00000001.1".into())
        );
        assert!(first.number() > 0 && LogId::from_number(later.number()) == later);
        assert!(later.is_later_round_of(first) && !first.is_later_round_of(later));
        let other = LogId::first_of(Incarnation::new(0xffff_0000_0002));
        assert!(!other.is_later_round_of(first));
        let all_rounds = (0..=ROUND_MASK).fold(first, |log, _| log.next_round());
        assert_eq!(all_rounds, first, "a round too many is no other incarnation");
    }

    #[test]
    fn marks_tell_time_and_bytes() {
        let record = |at, payload: &'static [u8]| Record {
            offset: 7,
            appended_at_micros: at,
            payload: bytes::Bytes::from_static(payload),
        };
        let at = 1_795_000_000_123_456;
        let mark = Mark::of(&record(at, b"nile"));
        assert_eq!(mark.appended_at().0, 1_795_000_000_123_000);
        assert_eq!(Mark::from_number(mark.number()), Some(mark));
        assert_eq!(Mark::from_number(Mark::default().number()), None);
        let passed = Mark::from_number(mark.passed().number()).unwrap();
        assert_eq!((passed.passed(), passed.appended_at()), (passed, mark.appended_at()));
        assert!(mark.is_before_position() && !passed.is_before_position());
        assert_ne!(Mark::of(&record(at, b"nil")), mark);
        assert_ne!(Mark::of(&record(at + 1_000, b"nile")), mark);
    }
}
