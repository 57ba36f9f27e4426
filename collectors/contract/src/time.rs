//! Instants: microseconds since the Unix epoch, UTC.
//!
//! Microseconds because that is what Delta's `timestamp` holds; a runtime's nanoseconds are
//! truncated once, where they are read.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use chrono::{DateTime, SecondsFormat, Utc};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Microseconds in a second.
pub const MICROS_PER_SECOND: i64 = 1_000_000;
/// Microseconds in an hour.
pub const MICROS_PER_HOUR: i64 = 3_600 * MICROS_PER_SECOND;
/// Microseconds in a day of UTC.
pub const MICROS_PER_DAY: i64 = 24 * MICROS_PER_HOUR;

/// Whole microseconds of a duration; `i64::MAX` of one that is longer.
pub fn micros(of: Duration) -> i64 {
    i64::try_from(of.as_micros()).unwrap_or(i64::MAX)
}

/// An instant in microseconds since 1970-01-01T00:00:00Z. Written as RFC 3339 in UTC.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Timestamp(pub i64);

/// A text that is not an RFC 3339 instant.
#[derive(Debug, thiserror::Error)]
#[error("not an RFC 3339 instant: {0:?}; write it like 2026-11-23T03:00:00Z")]
pub struct InvalidTimestamp(pub String);

impl Timestamp {
    /// Earliest instant a sample or event may carry: 2000-01-01T00:00:00Z.
    pub const MIN: Timestamp = Timestamp(946_684_800 * MICROS_PER_SECOND);
    /// First instant past what a sample or event may carry: 2200-01-01T00:00:00Z.
    pub const MAX: Timestamp = Timestamp(7_258_118_400 * MICROS_PER_SECOND);

    /// From nanoseconds since the epoch, truncated to the microsecond.
    pub fn from_nanos(nanos: i64) -> Self {
        Timestamp(nanos.div_euclid(1_000))
    }

    /// From whole seconds since the epoch.
    pub fn from_seconds(seconds: i64) -> Self {
        Timestamp(seconds * MICROS_PER_SECOND)
    }

    /// Whether a sample or event may carry this instant.
    pub fn is_plausible(self) -> bool {
        (Self::MIN..Self::MAX).contains(&self)
    }

    /// Start of the hour that contains this instant.
    pub fn hour(self) -> Self {
        Timestamp(self.0.div_euclid(MICROS_PER_HOUR) * MICROS_PER_HOUR)
    }

    /// This instant moved by `micros`, saturating.
    pub fn plus_micros(self, micros: i64) -> Self {
        Timestamp(self.0.saturating_add(micros))
    }

    /// As a chrono instant; instants outside chrono's range become its epoch.
    pub fn to_datetime(self) -> DateTime<Utc> {
        DateTime::from_timestamp_micros(self.0).unwrap_or_default()
    }
}

impl From<DateTime<Utc>> for Timestamp {
    fn from(value: DateTime<Utc>) -> Self {
        Timestamp(value.timestamp_micros())
    }
}

impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.to_datetime().to_rfc3339_opts(SecondsFormat::AutoSi, true))
    }
}

impl FromStr for Timestamp {
    type Err = InvalidTimestamp;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        DateTime::parse_from_rfc3339(text)
            .map(|at| Timestamp(at.timestamp_micros()))
            .map_err(|_| InvalidTimestamp(text.to_owned()))
    }
}

impl Serialize for Timestamp {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Timestamp {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_round_trips_to_the_microsecond() {
        for micros in [0, 1, 946_684_800_000_001, 1_795_000_000_123_456] {
            let at = Timestamp(micros);
            assert_eq!(at.to_string().parse::<Timestamp>().unwrap(), at);
        }
    }

    #[test]
    fn hours_round_down_on_both_sides_of_the_epoch() {
        assert_eq!(Timestamp(MICROS_PER_HOUR + 1).hour(), Timestamp(MICROS_PER_HOUR));
        assert_eq!(Timestamp(-1).hour(), Timestamp(-MICROS_PER_HOUR));
    }
}
