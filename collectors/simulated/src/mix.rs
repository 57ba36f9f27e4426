//! Hashing and chance: every number of the fleet comes from a seed and a place, by integers only,
//! so that it is the same on every machine and for ever.

const GOLDEN: u64 = 0x9e37_79b9_7f4a_7c15;

/// Scrambles 64 bits (the finalizer of splitmix64).
pub(crate) fn mix(bits: u64) -> u64 {
    let bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    bits ^ (bits >> 31)
}

/// The number at place `place` of the sequence that `seed` starts.
pub(crate) fn at(seed: u64, place: u64) -> u64 {
    mix(seed.wrapping_add(GOLDEN.wrapping_mul(place.wrapping_add(1))))
}

/// A sequence of numbers by chance.
#[derive(Clone, Debug)]
pub(crate) struct Random {
    seed: u64,
    drawn: u64,
}

impl Random {
    /// The sequence that `seed` starts.
    pub(crate) fn new(seed: u64) -> Self {
        Random { seed: mix(seed), drawn: 0 }
    }

    /// The next number.
    pub(crate) fn bits(&mut self) -> u64 {
        self.drawn += 1;
        at(self.seed, self.drawn)
    }

    /// A number below `most`; 0 when there is none.
    pub(crate) fn below(&mut self, most: u64) -> u64 {
        ((u128::from(self.bits()) * u128::from(most)) >> 64) as u64
    }

    /// One of the places of a list that is not empty.
    pub(crate) fn index(&mut self, len: usize) -> usize {
        self.below(len as u64) as usize
    }
}
