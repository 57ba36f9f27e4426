//! What is known to be missing, or to have come late: records that had to be dropped, times that
//! were not observed, a log or a disk that was away.

use serde::{Deserialize, Serialize};

use crate::event::MAX_SOURCE_BYTES;
use crate::resource::MAX_TEXT_BYTES;
use crate::time::Timestamp;

/// Longest encoded gap.
pub const MAX_GAP_BYTES: usize = 8 * 1024;
/// Most sources that a gap names; one that concerns more names none, which means any.
pub const MAX_GAP_SOURCES: usize = 16;

/// What a gap means for those who read the tables.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum GapKind {
    /// Records are gone.
    #[default]
    Lost,
    /// Nobody observed as planned.
    Unobserved,
    /// Everything is here; it came later than it should have.
    Late,
    /// Stored rows were dropped because they were older than they are kept.
    Expired,
    /// Stored rows cannot be read; some may come back.
    Damaged,
}

impl GapKind {
    /// As it is written.
    pub fn as_str(self) -> &'static str {
        match self {
            GapKind::Lost => "lost",
            GapKind::Unobserved => "unobserved",
            GapKind::Late => "late",
            GapKind::Expired => "expired",
            GapKind::Damaged => "damaged",
        }
    }

    fn is_default(&self) -> bool {
        *self == GapKind::default()
    }
}

/// A period of which something is known to be missing or late.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Gap {
    /// What it means.
    #[serde(default, skip_serializing_if = "GapKind::is_default")]
    pub kind: GapKind,
    /// Agent that reports it.
    pub agent: String,
    /// Node that it observes.
    pub node: String,
    /// Sources of which records may be missing or late; empty when any source may be concerned.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub sources: Vec<String>,
    /// Topic that misses records.
    pub topic: String,
    /// Partition that misses records; none when all may.
    #[serde(default)]
    pub partition: Option<u32>,
    /// First instant of which something is missing.
    pub start: Timestamp,
    /// First instant past it.
    pub end: Timestamp,
    /// Records dropped.
    #[serde(default)]
    pub records: u64,
    /// Samples in them, where known.
    #[serde(default)]
    pub samples: u64,
    /// Why, for people.
    pub reason: String,
}

/// Why bytes are not a gap.
#[derive(Debug, thiserror::Error)]
pub enum GapError {
    /// Longer than [`MAX_GAP_BYTES`].
    #[error("gap has {0} bytes, more than {MAX_GAP_BYTES}")]
    TooLong(usize),
    /// Not JSON of a gap's shape.
    #[error("not a gap in JSON: {0}")]
    Json(String),
    /// A text is too long, or the period is none.
    #[error("{0}")]
    Bound(&'static str),
}

impl Gap {
    /// As JSON; refuses what [`decode`](Self::decode) would.
    pub fn encode(&self) -> Result<Vec<u8>, GapError> {
        self.check()?;
        let bytes = serde_json::to_vec(self).map_err(|error| GapError::Json(error.to_string()))?;
        match bytes.len() {
            long if long > MAX_GAP_BYTES => Err(GapError::TooLong(long)),
            _ => Ok(bytes),
        }
    }

    /// From JSON; refuses what breaks a bound.
    pub fn decode(bytes: &[u8]) -> Result<Self, GapError> {
        if bytes.len() > MAX_GAP_BYTES {
            return Err(GapError::TooLong(bytes.len()));
        }
        let gap: Gap =
            serde_json::from_slice(bytes).map_err(|error| GapError::Json(error.to_string()))?;
        gap.check().map(|()| gap)
    }

    fn check(&self) -> Result<(), GapError> {
        let texts = [&self.agent, &self.node, &self.topic, &self.reason];
        if texts.iter().any(|text| text.len() > MAX_TEXT_BYTES) {
            return Err(GapError::Bound("a text of the gap is too long"));
        }
        if self.sources.len() > MAX_GAP_SOURCES
            || self.sources.iter().any(|source| source.len() > MAX_SOURCE_BYTES)
        {
            return Err(GapError::Bound("the gap names too many sources, or one too long"));
        }
        match self.start.is_plausible() && self.end.is_plausible() && self.start <= self.end {
            true => Ok(()),
            false => Err(GapError::Bound("the period of the gap is none")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const VERSION_1: &[u8] = include_bytes!("../fixtures/gap.v1.json");

    fn gap() -> Gap {
        Gap {
            kind: GapKind::Lost,
            agent: "node-1".to_owned(),
            node: "node-1".to_owned(),
            sources: vec!["libvirt".to_owned()],
            topic: crate::SAMPLES.to_owned(),
            partition: Some(3),
            start: Timestamp(1_795_000_000_123_456),
            end: Timestamp(1_795_000_060_000_000),
            records: 6,
            samples: 1_234,
            reason: "spool full".to_owned(),
        }
    }

    #[test]
    fn version_1_is_read_and_written_alike() {
        assert_eq!(Gap::decode(VERSION_1).unwrap(), gap());
        assert_eq!(gap().encode().unwrap(), VERSION_1);
    }

    #[test]
    fn bounds_are_kept_both_ways() {
        let backwards = Gap { end: Timestamp::from_seconds(1_000_000_000), ..gap() };
        assert!(matches!(backwards.encode(), Err(GapError::Bound(_))));
        let wordy = Gap { reason: "x".repeat(MAX_TEXT_BYTES + 1), ..gap() };
        assert!(matches!(wordy.encode(), Err(GapError::Bound(_))));
        let sources = vec!["s".to_owned(); MAX_GAP_SOURCES + 1];
        assert!(matches!(Gap { sources, ..gap() }.encode(), Err(GapError::Bound(_))));
        assert!(matches!(Gap::decode(&[b' '; MAX_GAP_BYTES + 1]), Err(GapError::TooLong(_))));
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(256) })]

        #[test]
        fn gaps_round_trip(late: bool, partition in proptest::option::of(any::<u32>()), long in 0..1_000_000_i64, records: u64, reason in "\\PC{1,40}") {
            let kind = if late { GapKind::Late } else { GapKind::Lost };
            let gap = Gap { kind, partition, end: gap().start.plus_micros(long), records, reason, ..gap() };
            prop_assert_eq!(Gap::decode(&gap.encode().unwrap()).unwrap(), gap);
        }

        #[test]
        fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..512)) {
            let _ = Gap::decode(&bytes);
        }
    }
}
