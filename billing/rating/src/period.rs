//! Billing periods: days of a time zone, made into instants on clock hours.

use std::fmt;
use std::str::FromStr;

use chrono::{Duration, NaiveDate, NaiveTime, TimeZone, Utc};
use chrono_tz::{TZ_VARIANTS, Tz};
use nilometer_contract::{MICROS_PER_HOUR, Timestamp};

use crate::suggest::nearest;

const MAX_HOURS: i64 = 10 * 366 * 24;

/// A billing period `[start, end)` and the time zone that its days are days of.
///
/// Invariant: both edges are on clock hours (UTC), so that no usage row lies across one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Period {
    start: Timestamp,
    end: Timestamp,
    zone: Tz,
}

/// Why texts are not a billing period.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidPeriod {
    /// Not a time zone.
    #[error("unknown time zone {name:?}{suggestion}; use an IANA name such as Europe/Berlin")]
    UnknownZone {
        /// What was written.
        name: String,
        /// The nearest name, when one is near.
        suggestion: String,
    },
    /// Not a day or instant.
    #[error(
        "{0:?} is not a day like 2026-11-01, a month like 2026-11, or an RFC 3339 instant like \
         2026-11-01T00:00:00Z"
    )]
    BadEdge(String),
    /// The edge would cut through a clock hour.
    #[error(
        "{text} in {zone} is {at}, inside a clock hour (UTC); usage is kept by clock hours, so a \
         bill starts and ends on full hours: give instants, such as {hour}"
    )]
    InsideHour {
        /// What was written.
        text: String,
        /// The time zone.
        zone: String,
        /// The instant meant.
        at: Timestamp,
        /// The full hour before it.
        hour: Timestamp,
    },
    /// The end is not after the start, or more than ten years after it.
    #[error("a period from {start} to {end} is empty or longer than ten years")]
    BadLength {
        /// First instant.
        start: Timestamp,
        /// First instant past the period.
        end: Timestamp,
    },
}

impl Period {
    /// Reads a period: `start` is in it, `end` is not.
    ///
    /// An edge is a day or month of the time zone (its first instant is meant, also where the
    /// clocks change at midnight), or an RFC 3339 instant, which knows its own offset.
    pub fn parse(start: &str, end: &str, zone: &str) -> Result<Self, InvalidPeriod> {
        let zone = Tz::from_str(zone).map_err(|_| {
            let names = TZ_VARIANTS.iter().map(|zone| zone.name());
            let suggestion = nearest(zone, names);
            InvalidPeriod::UnknownZone { name: zone.to_owned(), suggestion }
        })?;
        let (start, end) = (edge(start, zone)?, edge(end, zone)?);
        let hours = (end.0 - start.0) / MICROS_PER_HOUR;
        match (1..=MAX_HOURS).contains(&hours) {
            true => Ok(Period { start, end, zone }),
            false => Err(InvalidPeriod::BadLength { start, end }),
        }
    }

    /// First instant.
    pub fn start(&self) -> Timestamp {
        self.start
    }

    /// First instant past the period.
    pub fn end(&self) -> Timestamp {
        self.end
    }

    /// IANA name of the time zone.
    pub fn zone(&self) -> &'static str {
        self.zone.name()
    }

    /// Whether `[start, end)` lies in the period.
    pub fn contains(&self, start: Timestamp, end: Timestamp) -> bool {
        self.start <= start && end <= self.end
    }
}

impl fmt::Display for Period {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} to {} ({})", self.start, self.end, self.zone())
    }
}

fn edge(text: &str, zone: Tz) -> Result<Timestamp, InvalidPeriod> {
    let bad = || InvalidPeriod::BadEdge(text.to_owned());
    let at = match text.contains(['T', 't']) {
        true => text.parse::<Timestamp>().map_err(|_| bad())?,
        false => first_instant(day(text).ok_or_else(bad)?, zone).ok_or_else(bad)?,
    };
    if !at.is_plausible() {
        return Err(bad());
    }
    match at.0 % MICROS_PER_HOUR {
        0 => Ok(at),
        _ => {
            let (text, zone) = (text.to_owned(), zone.name().to_owned());
            Err(InvalidPeriod::InsideHour { text, zone, at, hour: at.hour() })
        }
    }
}

fn day(text: &str) -> Option<NaiveDate> {
    let first = format!("{text}-01");
    let text = if text.len() == "2026-11".len() { &first } else { text };
    NaiveDate::parse_from_str(text, "%Y-%m-%d").ok()
}

/// First instant of a day. Where the clocks jump over midnight it is later than midnight, where
/// they fall back over it it is the earlier of the two.
fn first_instant(day: NaiveDate, zone: Tz) -> Option<Timestamp> {
    let midnight = day.and_time(NaiveTime::MIN);
    (0..=96).find_map(|quarters| {
        let local = midnight.checked_add_signed(Duration::minutes(15 * quarters))?;
        let at = zone.from_local_datetime(&local).earliest()?;
        Some(Timestamp::from(at.with_timezone(&Utc)))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(start: &str, end: &str, zone: &str, expected: &str) {
        let period = Period::parse(start, end, zone);
        let text = period.map_or_else(|error| error.to_string(), |period| period.to_string());
        assert!(text.contains(expected), "{start} {end} {zone}: {text}");
    }

    #[test]
    fn days_are_days_of_the_zone() {
        let november = "2026-11-01T00:00:00Z to 2026-12-01T00:00:00Z (UTC)";
        check("2026-11-01", "2026-12-01", "UTC", november);
        check("2026-11", "2026-12", "UTC", november);
        check("2026-11-01T01:00:00+01:00", "2026-12-01T00:00:00Z", "UTC", november);
        let berlin = "2026-09-30T22:00:00Z to 2026-10-31T23:00:00Z (Europe/Berlin)";
        check("2026-10-01", "2026-11-01", "Europe/Berlin", berlin);
        // Midnight does not exist on the day the clocks go forward in Beirut…
        let beirut = "2026-03-28T22:00:00Z to 2026-03-29T21:00:00Z";
        check("2026-03-29", "2026-03-30", "Asia/Beirut", beirut);
        // …and is there twice on the day they go back in Havana.
        let havana = "2026-11-01T04:00:00Z to 2026-11-02T05:00:00Z";
        check("2026-11-01", "2026-11-02", "America/Havana", havana);
    }

    #[test]
    fn what_cannot_be_billed_is_explained() {
        let kolkata = "2026-10-31T18:30:00Z, inside a clock hour (UTC)";
        check("2026-11-01", "2026-12-01", "Asia/Kolkata", kolkata);
        check("2026-11-01", "2026-12-01", "Asia/Kolkata", "such as 2026-10-31T18:00:00Z");
        check("2026-11-01T00:30:00Z", "2026-12-01", "UTC", "inside a clock hour");
        check("2026-11-01", "2026-11-01", "UTC", "is empty");
        check("2026-12-01", "2026-11-01", "UTC", "is empty");
        check("2026-11-31", "2026-12-01", "UTC", "is not a day");
        check("tomorrow", "2026-12-01", "UTC", "is not a day");
        check("2026-11-01", "2026-12-01", "Europe/Berlim", "did you mean \"Europe/Berlin\"?");
    }
}
