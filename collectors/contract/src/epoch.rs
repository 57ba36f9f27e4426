//! Epochs: the order of readings that no wall clock can break (invariant 8a).
//!
//! An epoch is one stretch of one source instance's clock. Inside it every instant is the wall
//! clock at the epoch's start plus the time that a steady clock has measured since, so instants
//! never step. When the wall clock and the epoch part, or the instance starts anew, the next
//! epoch begins:
//!
//! ```text
//! steady time   0 ──────────────── 200 │ 200 ───────────────▶
//! epoch 1       10:00:00 … 10:03:20    │                        sequence 1, start 10:00:00
//! epoch 2                              │ 10:01:40 … ─────────▶  sequence 2, start 10:01:40
//!                                      └ the wall clock was set back by 100 s
//! ```
//!
//! Epochs of one instance are in order by their sequence. Where a later one starts, every earlier
//! one ends: of epoch 1 only what lies before 10:01:40 is used, since the later clock is the one
//! that was put right.

use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::xxh3_64;

use crate::resource::MAX_TEXT_BYTES;
use crate::time::Timestamp;

/// Id of an epoch, as samples carry it in the tables: a digest, never negative; 0 is
/// [`Epoch::none`].
pub type EpochId = i64;

/// One stretch of one source instance's clock.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Epoch {
    /// The source instance whose epochs are in order: a name that no two instances share.
    pub instance: String,
    /// Counts the epochs of the instance, from 1.
    pub sequence: u64,
    /// First instant; no sample of the epoch lies before it.
    pub start: Timestamp,
}

impl Epoch {
    /// For samples whose instants are in order by themselves, such as imported ones.
    pub fn none() -> Self {
        Epoch::default()
    }

    /// Whether there is no order but that of the instants.
    pub fn is_none(&self) -> bool {
        self.instance.is_empty()
    }

    /// Digest of the epoch.
    pub fn id(&self) -> EpochId {
        if self.is_none() {
            return 0;
        }
        let text = self.to_string();
        ((xxh3_64(text.as_bytes()) >> 1) as i64).max(1)
    }

    /// Reads what `to_string` wrote.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let mut parts = text.splitn(3, '/');
        let sequence = parts.next()?.parse().ok()?;
        let start = Timestamp(parts.next()?.parse().ok()?);
        let instance = parts.next()?.to_owned();
        let fits = !instance.is_empty() && instance.len() <= MAX_TEXT_BYTES;
        fits.then_some(Epoch { instance, sequence, start })
    }
}

impl std::fmt::Display for Epoch {
    /// `<sequence>/<start in microseconds>/<instance>`.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}/{}", self.sequence, self.start.0, self.instance)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_round_trips_and_ids_differ() {
        let start = Timestamp::from_seconds(1_795_000_000);
        let one = Epoch { instance: "node-1/9f".to_owned(), sequence: 1, start };
        let two = Epoch { sequence: 2, ..one.clone() };
        assert_eq!(Epoch::parse(&one.to_string()), Some(one.clone()));
        assert_ne!(one.id(), two.id());
        assert_eq!(Epoch::none().id(), 0);
        assert_eq!(Epoch::parse("1/x/a"), None);
        assert_eq!(Epoch::parse("1/2/"), None);
    }
}
