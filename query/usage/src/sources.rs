//! Whose samples count, where several sources sample one meter of one resource.
//!
//! In each clock hour exactly one source counts, whatever its further labels: of those in order of
//! the meter's precedence the first that has a reading in the hour; where none has one, the first
//! whose readings around it reach into it; else simply the first. What the others sampled is kept
//! and adds to nothing.
//!
//! ```text
//! hour            10        11        12        13
//! libvirt  ● ● ● ●│● ● ─ ─ ─│─ ─ ─ ─ ─│─ ● ● ● ●│      first in order
//! other    ● ● ● ●│● ● ● ● ●│● ● ● ● ●│● ● ● ● ●│
//! counts   libvirt│ libvirt │  other  │ libvirt │
//! ```
//!
//! A choice rests on whole hours, so that usage of any window agrees with that of its hours: it is
//! made from all samples of the hours that the window touches, and their
//! [`neighbours`](crate::neighbours).

use std::collections::BTreeMap;

use nilometer_contract::{MICROS_PER_HOUR, Timestamp};

use crate::points::{Series, is_reading};
use crate::sampled::for_each_piece;
use crate::tenure::{Tenure, Window};

/// How much a source says of an hour.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Says {
    /// Nothing, while the resource lived.
    Nothing,
    /// What it read before and after reaches into it.
    Around,
    /// It has a reading in it.
    Reading,
}

/// The sources of one meter of one resource, and the one of them that counts in each hour. Sources
/// are numbered in order of precedence, from 0.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SourceChoice {
    best: BTreeMap<Timestamp, (Says, usize)>,
    readings: BTreeMap<(Timestamp, usize), u64>,
}

/// Readings of one source in one hour in which several sources sampled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SourceHour {
    /// Start of the hour.
    pub hour: Timestamp,
    /// Number of the source.
    pub source: usize,
    /// How many readings it has, of all further labels together.
    pub readings: u64,
    /// Whether they count.
    pub counts: bool,
}

/// The whole hours that a window touches.
pub fn whole_hours(window: Window) -> Window {
    let last = window.end.0.saturating_add(MICROS_PER_HOUR - 1);
    Window { start: window.start.hour(), end: Timestamp(last).hour() }
}

impl SourceChoice {
    /// Takes in one series of a source, over the hours that a window touches; the order of calls
    /// changes nothing.
    pub fn note(
        &mut self,
        source: usize,
        series: &Series<'_>,
        tenure: &Tenure,
        window: Window,
        as_of: Timestamp,
    ) {
        let whole = whole_hours(window);
        let (at, value, _) = series.plausible();
        let from = at.partition_point(|&at| at < whole.start.0);
        let upto = at.partition_point(|&at| at < whole.end.0);
        for (&at, &value) in at[from..upto].iter().zip(&value[from..upto]) {
            if is_reading(&series.meter.kind, value) {
                *self.readings.entry((Timestamp(at).hour(), source)).or_default() += 1;
            }
        }
        for_each_piece(series, tenure, whole, as_of, |piece| {
            let hour = Timestamp(piece.start).hour();
            let says = match self.readings.contains_key(&(hour, source)) {
                true => Says::Reading,
                false if piece.is_reached => Says::Around,
                false => Says::Nothing,
            };
            let best = self.best.entry(hour).or_insert((says, source));
            if says > best.0 || (says == best.0 && source < best.1) {
                *best = (says, source);
            }
        });
    }

    /// Whether a source counts in the hour of an instant.
    pub fn counts(&self, source: usize, at: Timestamp) -> bool {
        self.best.get(&at.hour()).is_some_and(|&(_, best)| best == source)
    }

    /// The hours in which more than one source has readings, with those of each of them.
    pub fn contested(&self) -> impl Iterator<Item = SourceHour> {
        let all = self.readings.iter();
        let contested = all.filter(|((hour, _), _)| {
            let mut sources = self.readings.range((*hour, 0)..=(*hour, usize::MAX));
            sources.nth(1).is_some()
        });
        contested.map(|(&(hour, source), &readings)| {
            let counts = self.counts(source, hour);
            SourceHour { hour, source, readings, counts }
        })
    }
}
