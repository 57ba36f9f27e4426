//! Which log it is: offsets of a replaced log begin anew and mean other records.

use std::{
    fmt,
    hash::{BuildHasher, RandomState},
    num::ParseIntError,
    str::FromStr,
};

/// Tells a log from the one that was there before it under the same name.
///
/// Drawn at random when the log is made, so that two differ, and kept as long as it exists: a
/// topic deleted and created again has another one. Zero where the log cannot tell.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Incarnation(u64);

impl Incarnation {
    /// Significant bits: a position may be kept with it in one signed word.
    pub const BITS: u32 = 48;

    const MASK: u64 = (1 << Self::BITS) - 1;

    /// From a number of at most [`BITS`](Self::BITS) bits; higher ones are left out.
    pub const fn new(bits: u64) -> Incarnation {
        Incarnation(bits & Self::MASK)
    }

    /// A new one.
    pub(crate) fn random() -> Incarnation {
        // Keyed by the system's randomness, anew for each.
        let drawn = RandomState::new().hash_one(std::process::id());
        Incarnation::new(mixed(drawn).max(1))
    }

    /// Of a log that is known by an id of 128 random bits; zero remains zero.
    pub(crate) fn of_uuid(high: u64, low: u64) -> Incarnation {
        Incarnation::new(mixed(high ^ low))
    }

    /// As a number below 2 to the [`BITS`](Self::BITS).
    pub const fn bits(self) -> u64 {
        self.0
    }
}

/// Spreads what 64 bits tell over the lower ones; zero remains zero.
const fn mixed(bits: u64) -> u64 {
    let bits = (bits ^ bits >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let bits = (bits ^ bits >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    bits ^ bits >> 31
}

impl fmt::Display for Incarnation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:012x}", self.0)
    }
}

impl FromStr for Incarnation {
    type Err = ParseIntError;

    fn from_str(text: &str) -> Result<Incarnation, ParseIntError> {
        u64::from_str_radix(text, 16).map(Incarnation::new)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_is_another_and_reads_as_written() {
        let many: std::collections::HashSet<_> =
            (0..1_000).map(|_| Incarnation::random()).collect();
        assert_eq!(many.len(), 1_000);
        for one in many {
            assert_eq!(one.to_string().parse(), Ok(one));
            assert_eq!(Incarnation::new(one.bits()), one);
        }
        assert_eq!(Incarnation::of_uuid(0, 0), Incarnation::default());
        assert_ne!(Incarnation::of_uuid(1, 0), Incarnation::of_uuid(1 << 48, 0));
    }
}
