//! How much of what is billed was really observed (invariant 12).

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use nilometer_contract::{MICROS_PER_HOUR, Timestamp};
use nilometer_usage::UsageRow;
use num_bigint::BigUint;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::decimal::{fixed_point, trimmed};

/// Most gaps that an invoice lists; the rest is counted.
pub const MAX_GAPS: usize = 100;

/// A share from 0 to 1 in millionths, cut and not rounded: only what is whole reads 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Millionths(pub u32);

/// The observed share of a line's usage.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Coverage {
    /// Observed time over all time of all resources.
    pub weighted: Millionths,
    /// The worst clock hour of any resource.
    pub lowest: Millionths,
}

/// Microseconds observed, of how many.
#[derive(Clone, Copy, Default)]
struct Share {
    observed: i128,
    all: i128,
}

/// What was observed, by resource and clock hour, so that it does not matter how rows were cut.
#[derive(Default)]
pub(super) struct Observed(BTreeMap<(Arc<str>, Timestamp), Share>);

/// Gaps in words, bounded.
#[derive(Default)]
pub(super) struct Gaps {
    texts: Vec<String>,
    left_out: usize,
}

impl Share {
    fn plus(self, other: Share) -> Share {
        Share { observed: self.observed + other.observed, all: self.all + other.all }
    }

    fn millionths(self) -> Millionths {
        match self.all {
            0 => Millionths::WHOLE,
            all => Millionths(u32::try_from(self.observed * 1_000_000 / all).unwrap_or(0)),
        }
    }
}

impl Millionths {
    /// Everything.
    pub const WHOLE: Millionths = Millionths(1_000_000);
}

impl Observed {
    /// Adds one row.
    pub(super) fn add(&mut self, usage: &UsageRow) {
        let all = i128::from(usage.end.0) - i128::from(usage.start.0);
        let share = Share { observed: usage.observed_micros.into(), all };
        let hour = self.0.entry((usage.resource.clone(), usage.start.hour())).or_default();
        *hour = hour.plus(share);
    }

    pub(super) fn coverage(&self) -> Coverage {
        let all = self.0.values().fold(Share::default(), |sum, share| sum.plus(*share));
        let lowest = self.0.values().map(|share| share.millionths()).min();
        Coverage { weighted: all.millionths(), lowest: lowest.unwrap_or(Millionths::WHOLE) }
    }

    /// Notes runs of hours that were not observed in full.
    pub(super) fn note_gaps(&self, line: &str, meter: &str, gaps: &mut Gaps) {
        let mut open: Option<(&str, Timestamp, Timestamp, Share)> = None;
        let partial = self.0.iter().filter(|(_, share)| share.observed < share.all);
        for ((resource, hour), share) in partial {
            let end = hour.plus_micros(MICROS_PER_HOUR);
            open = match open {
                Some((of, start, upto, sum)) if of == &**resource && upto == *hour => {
                    Some((of, start, end, sum.plus(*share)))
                }
                before => {
                    before.into_iter().for_each(|gap| gaps.note(line, meter, gap));
                    Some((resource, *hour, end, *share))
                }
            };
        }
        open.into_iter().for_each(|gap| gaps.note(line, meter, gap));
    }
}

impl Gaps {
    fn note(&mut self, line: &str, meter: &str, gap: (&str, Timestamp, Timestamp, Share)) {
        let (resource, start, end, share) = gap;
        if self.texts.len() >= MAX_GAPS {
            self.left_out += 1;
            return;
        }
        let (observed, all) = (seconds(share.observed), seconds(share.all));
        self.texts.push(format!(
            "{line}: {meter} of {resource} from {start} to {end}: {observed} s of {all} s observed"
        ));
    }

    pub(super) fn into_texts(mut self) -> Vec<String> {
        if self.left_out > 0 {
            self.texts.push(format!("and {} more", self.left_out));
        }
        self.texts
    }
}

fn seconds(micros: i128) -> String {
    let text = fixed_point(false, &BigUint::from(micros.unsigned_abs()), 6);
    trimmed(&text).to_owned()
}

impl fmt::Display for Millionths {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(trimmed(&fixed_point(false, &BigUint::from(self.0), 6)))
    }
}

impl FromStr for Millionths {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
        let digits = format!("{whole}{fraction:0<6}");
        let share = digits.parse().ok().map(Millionths);
        let written = share.filter(|share| share.to_string() == text);
        written.ok_or_else(|| format!("not a share from 0 to 1: {text:?}"))
    }
}

impl Serialize for Millionths {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Millionths {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}
