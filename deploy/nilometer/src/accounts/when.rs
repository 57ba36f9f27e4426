//! Instants on the command line: now, a day, an instant, or after a time.

use std::str::FromStr;
use std::time::Duration;

use anyhow::bail;
use nilometer_contract::{Timestamp, micros};

/// An instant that may be now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum When {
    Now,
    At(Timestamp),
}

/// When something ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Expiry {
    Never,
    After(Duration),
    At(Timestamp),
}

impl When {
    pub(crate) fn instant(self, now: Timestamp) -> Timestamp {
        match self {
            When::Now => now,
            When::At(at) => at,
        }
    }
}

impl FromStr for When {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> anyhow::Result<Self> {
        match (text, instant(text)) {
            ("now", _) => Ok(When::Now),
            (_, Some(at)) => Ok(When::At(at)),
            _ => bail!(
                "write now, a day like 2026-11-01 (UTC), or an instant like 2026-11-01T06:00:00Z"
            ),
        }
    }
}

impl Expiry {
    pub(crate) fn instant(self, now: Timestamp) -> Option<Timestamp> {
        match self {
            Expiry::Never => None,
            Expiry::After(time) => Some(now.plus_micros(micros(time))),
            Expiry::At(at) => Some(at),
        }
    }
}

impl FromStr for Expiry {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> anyhow::Result<Self> {
        match (text, instant(text), humantime::parse_duration(text)) {
            ("never", _, _) => Ok(Expiry::Never),
            (_, Some(at), _) => Ok(Expiry::At(at)),
            (_, _, Ok(time)) => Ok(Expiry::After(time)),
            _ => {
                bail!("write a time like 90days, a day like 2027-11-01 (UTC), an instant, or never")
            }
        }
    }
}

/// An instant, or the first one of a day of UTC.
fn instant(text: &str) -> Option<Timestamp> {
    let of_day = || format!("{text}T00:00:00Z").parse().ok();
    text.parse().ok().or_else(of_day).filter(|at: &Timestamp| at.is_plausible())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn instants_are_days_instants_and_now() {
        let at = |text: &str| text.parse::<When>().ok().map(|when| when.instant(Timestamp(7)));
        assert_eq!(at("now"), Some(Timestamp(7)));
        assert_eq!(at("2026-11-01"), "2026-11-01T00:00:00Z".parse().ok());
        assert_eq!(at("2026-11-01T06:00:00+02:00"), "2026-11-01T04:00:00Z".parse().ok());
        for bad in ["", "soon", "2026-13-01", "1970-01-01", "90days"] {
            assert_eq!(at(bad), None, "{bad}");
        }
    }

    #[test]
    fn an_end_may_be_after_a_time_or_never() {
        let of = |text: &str| text.parse::<Expiry>().ok().map(|end| end.instant(Timestamp(7)));
        assert_eq!(of("never"), Some(None));
        assert_eq!(of("1s"), Some(Some(Timestamp(1_000_007))));
        assert_eq!(of("2026-11-01"), Some("2026-11-01T00:00:00Z".parse().ok()));
        assert_eq!(of("now"), None);
    }
}
