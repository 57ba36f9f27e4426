//! The samples of one series as usage reads them, and which of them a window needs.

use std::sync::Arc;

use nilometer_contract::{EpochId, Labels, Meter, MeterKind, Timestamp};

use crate::fixed::{NANO, fixed};

static NO_LABELS: Labels = Labels::none();

/// The samples of one meter of one resource by one source with the same further labels, in order of
/// time, each instant once.
///
/// It may reach beyond the window asked about; [`neighbours`] says how far it must. What
/// [`is_reading`] refuses, and instants that the contract refuses, count as not sampled.
#[derive(Clone, Copy, Debug)]
pub struct Series<'a> {
    /// The meter: its kind and its hold time decide.
    pub meter: &'a Arc<Meter>,
    /// Further labels, for the rows.
    pub labels: &'a Labels,
    /// Instants, microseconds since the epoch, strictly increasing.
    pub at: &'a [i64],
    /// Values in the meter's base unit, as many as instants.
    pub value: &'a [f64],
    /// By whose clock each was read, as many as instants.
    pub clock: &'a [ClockId],
    /// First instants of the gaps that concern the series, in order: nobody knows what was from
    /// there to the next reading.
    pub gaps: &'a [i64],
}

/// By which clock a sample was read.
///
/// Readings of one epoch follow each other in the source's own order. Between two epochs of an
/// instance the counter may have gone on or not, which its start says; readings of two instances
/// are of two observers, and nothing follows from one to the other.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ClockId {
    /// The source instance. Of two that observe one resource at one time, the lesser counts.
    pub instance: u64,
    /// Its epoch.
    pub epoch: EpochId,
}

/// One sample as it comes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Sample {
    /// Instant, microseconds since the epoch.
    pub at: i64,
    /// Value in the meter's base unit.
    pub value: f64,
    /// By whose clock it was read.
    pub clock: ClockId,
}

/// Samples of one series in order of time, each instant once, however they came.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Points {
    at: Vec<i64>,
    value: Vec<f64>,
    clock: Vec<ClockId>,
}

/// Two values under one identity; the store sends the second one to the dead letters, so they
/// do not get here by way of it.
#[derive(Clone, Copy, Debug, PartialEq, thiserror::Error)]
#[error("two values under one identity at {at}: {values:?}")]
pub struct ConflictingSamples {
    /// The instant they share.
    pub at: Timestamp,
    /// The values, the smaller one first.
    pub values: [f64; 2],
}

/// How far samples beyond an edge of the window can matter to what lies inside.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reach {
    /// Not at all.
    None,
    /// The reading nearest to the edge, if it is no farther than so many microseconds.
    Within(i64),
    /// The reading nearest to the edge, however far, if there is any.
    Nearest,
}

/// The samples outside a window `[start, end)` that its usage depends on, beside all inside.
///
/// The reading nearest to an edge is enough; more change nothing. A reading at `start` itself
/// makes those before it needless; one at `end` itself is the nearest after.
///
/// ```text
///            before │ start            end │ after
/// counter   nearest │ ● ─── ● ─── ● ─── ●──┼─►● nearest: pairs reach over both edges
/// gauge   ≤ hold ●──┼─►                    │    a level reaches forward for its hold
/// delta             │                   ◄──┼──● ≤ hold: an amount reaches back
/// ```
///
/// A resource that was never announced lives from its first to its last sample, so there both
/// sides need the nearest whatever the meter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Neighbours {
    /// Before the window's start.
    pub before: Reach,
    /// At or after the window's end.
    pub after: Reach,
}

/// Which samples outside a window are needed; `announced` when the resource has a lifetime.
pub fn neighbours(meter: &Meter, announced: bool) -> Neighbours {
    let hold = Reach::Within(meter.hold_micros);
    match meter.kind {
        MeterKind::Allocation { .. } => Neighbours { before: Reach::None, after: Reach::None },
        _ if !announced => Neighbours { before: Reach::Nearest, after: Reach::Nearest },
        MeterKind::Counter => Neighbours { before: Reach::Nearest, after: Reach::Nearest },
        MeterKind::Gauge => Neighbours { before: hold, after: Reach::None },
        MeterKind::Delta => Neighbours { before: Reach::None, after: hold },
    }
}

/// Whether a value can be metered: finite, below 2⁶³ in magnitude, and of a counter not negative.
/// Anything else is as if it had not been sampled: the gap shows in the coverage.
pub fn is_reading(kind: &MeterKind, value: f64) -> bool {
    match kind {
        MeterKind::Counter => fixed(value, NANO).is_some_and(|reading| reading >= 0),
        MeterKind::Gauge | MeterKind::Delta => fixed(value, NANO).is_some(),
        MeterKind::Allocation { .. } => false,
    }
}

impl Points {
    /// Sorts samples by instant and drops repeats.
    pub fn collect<S: Into<Sample>>(
        samples: impl IntoIterator<Item = S>,
    ) -> Result<Self, ConflictingSamples> {
        let mut samples: Vec<Sample> = samples.into_iter().map(Into::into).collect();
        samples.sort_by(|a, b| {
            a.at.cmp(&b.at).then(a.value.total_cmp(&b.value)).then(a.clock.cmp(&b.clock))
        });
        let mut points = Points::default();
        for Sample { at, value, clock } in samples {
            match (points.at.last(), points.value.last()) {
                (Some(&last), Some(&known)) if last == at => {
                    if known != value && known.to_bits() != value.to_bits() {
                        let at = Timestamp(at);
                        return Err(ConflictingSamples { at, values: [known, value] });
                    }
                }
                _ => {
                    points.at.push(at);
                    points.value.push(value);
                    points.clock.push(clock);
                }
            }
        }
        Ok(points)
    }

    /// These samples as a series of a meter, without further labels or gaps.
    pub fn series<'a>(&'a self, meter: &'a Arc<Meter>) -> Series<'a> {
        let (labels, gaps) = (&NO_LABELS, &[]);
        Series { meter, labels, at: &self.at, value: &self.value, clock: &self.clock, gaps }
    }
}

impl From<(i64, f64)> for Sample {
    /// Of no epoch: in order by its instant alone.
    fn from((at, value): (i64, f64)) -> Self {
        Sample { at, value, clock: ClockId::default() }
    }
}

impl<'a> Series<'a> {
    /// The part whose instants the contract allows.
    pub(crate) fn plausible(&self) -> (&'a [i64], &'a [f64], &'a [ClockId]) {
        let count = self.at.len();
        assert!(count == self.value.len(), "a series has a value for each instant");
        assert!(count == self.clock.len(), "a series has a clock for each instant");
        let from = self.at.partition_point(|&at| at < Timestamp::MIN.0);
        let upto = self.at.partition_point(|&at| at < Timestamp::MAX.0);
        (&self.at[from..upto], &self.value[from..upto], &self.clock[from..upto])
    }

    /// First and last instant with a reading.
    pub(crate) fn extent(&self) -> Option<(i64, i64)> {
        let (at, value, _) = self.plausible();
        let reading = |&i: &usize| is_reading(&self.meter.kind, value[i]);
        let first = (0..at.len()).find(reading)?;
        let last = (0..at.len()).rfind(reading)?;
        Some((at[first], at[last]))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn order_and_repeats_of_samples_do_not_matter() {
        let sorted = Points::collect([(1, 0.5), (2, -0.0), (9, f64::NAN)]).unwrap();
        let shuffled = [(9, f64::NAN), (2, 0.0), (1, 0.5), (2, -0.0), (9, f64::NAN), (1, 0.5)];
        assert_eq!(Points::collect(shuffled).unwrap().at, sorted.at);
    }

    #[test]
    fn only_instants_that_the_contract_allows_are_plausible() {
        let (first, past) = (Timestamp::MIN.0, Timestamp::MAX.0);
        let at = [first - 2, first - 1, first, first + 1, past - 1, past, past + 1];
        let points = Points::collect(at.map(|at| (at, 1.0))).unwrap();
        let meter = nilometer_contract::catalogue().find("cpu.time").unwrap();
        let series = points.series(meter);
        assert_eq!(series.plausible().0, [first, first + 1, past - 1]);
        assert_eq!(series.extent(), Some((first, past - 1)));
    }

    #[test]
    fn two_values_at_one_instant_are_told() {
        let conflict = Points::collect([(7, 2.0), (3, 1.0), (7, 1.5)]).unwrap_err();
        assert_eq!(conflict, ConflictingSamples { at: Timestamp(7), values: [1.5, 2.0] });
    }
}
