//! The usage of sampled meters (invariants 9, 10 and 12).
//!
//! One life of a resource at a time; nothing accrues outside it, and no pair of readings reaches
//! from one life into another.
//!
//! | kind | what a reading says | observed |
//! |---|---|---|
//! | counter | the increase since the reading before; after a fall, the new value. It spreads evenly over the time between the two | that time, at most the hold time from the earlier one |
//! | gauge | a level, from its instant to the next reading, at most for the hold time | the same |
//! | delta | an amount, at its instant | back to the reading before, at most the hold time |
//!
//! - *Epochs.* A fall between two epochs says nothing: that a counter began anew, its resource's
//!   next life says. A rise between two epochs of one instance counts.
//! - *Two observers.* Readings of another instance never make a pair with one's own; where two
//!   instances read the same resource at the same time, [`claims`](crate::claims) says whose
//!   pairs count. Of two levels the later reading holds.
//! - *Gaps.* What was read before a gap does not reach into it: a level holds up to the gap, and
//!   what a counter grew by counts as observed up to there.
//! - *Birth.* A counter of a resource whose creation was announced stood at zero then, if its
//!   first reading comes within the hold time: so a pod that lived between two polls counts in
//!   full. Otherwise metering starts with the first reading, since what the counter held before
//!   may be from before our time. A reading at the very instant of birth is taken as it is.
//! - *Death.* The first reading at or after the end, but within the hold time and before a
//!   rebirth, is the final one: a runtime tells its last figures when the work is over. A
//!   counter's increase up to it belongs to the time that was still lived, and spreads up to the
//!   end; a delta's amount counts in the last microsecond; a level counts for nothing. Later
//!   readings say nothing, and time after the last reading is unobserved.
//! - *Pauses.* What a counter grew by over a pause longer than the hold time counts in full,
//!   though nobody can say when in it; only the hold time counts as observed.

use std::collections::BTreeSet;
use std::sync::Arc;

use nilometer_contract::{EpochId, MeterKind, Timestamp};

use crate::claims;

use crate::fixed::{MICRO, NANO, PICO_PER_NANO, fixed};
use crate::points::{ClockId, Series, is_reading};
use crate::row::{ParentUsage, UsageRow};
use crate::tenure::{Life, OPEN, Span, Tenure, Window};
use crate::walk::{Piece, Walk};

/// The usage of one series by hour and project, appended to `out` in order of time.
///
/// Counts what lies in `window` and before `as_of`. The series must hold all samples inside and
/// the [`neighbours`](crate::neighbours) outside; panics when its instants do not increase.
pub fn series_usage(
    series: &Series<'_>,
    tenure: &Tenure,
    window: Window,
    as_of: Timestamp,
    out: &mut Vec<UsageRow>,
) {
    meter(series, &tenure.lives, &tenure.owners, window.until(as_of), |piece| {
        out.push(UsageRow {
            start: Timestamp(piece.start),
            end: Timestamp(piece.end),
            resource: Arc::clone(&tenure.resource),
            kind: piece.span.kind.clone(),
            meter: Arc::clone(series.meter),
            labels: series.labels.clone(),
            project: Arc::clone(&piece.span.key),
            quantity: piece.quantity,
            observed_micros: piece.observed_micros,
        });
    });
}

/// The usage of one series by hour and parent; otherwise like [`series_usage`], and over any time
/// in which neither changes the sums of both are equal.
pub fn series_usage_by_parent(
    series: &Series<'_>,
    tenure: &Tenure,
    window: Window,
    as_of: Timestamp,
    out: &mut Vec<ParentUsage>,
) {
    meter(series, &tenure.lives, &tenure.parents, window.until(as_of), |piece| {
        out.push(ParentUsage {
            start: Timestamp(piece.start),
            end: Timestamp(piece.end),
            parent: Arc::clone(&piece.span.key),
            resource: Arc::clone(&tenure.resource),
            kind: piece.span.kind.clone(),
            meter: Arc::clone(series.meter),
            quantity: piece.quantity,
            observed_micros: piece.observed_micros,
        });
    });
}

/// The pieces of a series by hour and project, in order of time.
pub(crate) fn for_each_piece<'a>(
    series: &Series<'_>,
    tenure: &'a Tenure,
    window: Window,
    as_of: Timestamp,
    visit: impl FnMut(Piece<'a>),
) {
    meter(series, &tenure.lives, &tenure.owners, window.until(as_of), visit);
}

fn meter<'a>(
    series: &Series<'_>,
    lives: &[Life],
    spans: &'a [Span],
    window: (i64, i64),
    emit: impl FnMut(Piece<'a>),
) {
    if matches!(series.meter.kind, MeterKind::Allocation { .. }) {
        return;
    }
    let near = Near::new(series, window);
    let hold = series.meter.hold_micros;
    let mut walk = Walk::new(spans, window, emit);
    for (n, life) in lives.iter().enumerate() {
        let rebirth = lives.get(n + 1).map_or(OPEN, |next| next.birth);
        // A life that ends before the window can only have pairs that end before it too.
        if life.death <= window.0 || life.birth >= window.1 {
            continue;
        }
        let near = near.of_life(life, rebirth, hold);
        match series.meter.kind {
            MeterKind::Gauge => gauge(near, life, hold, &mut walk),
            _ if near.has_one_observer() => amounts(near, life, hold, None, &mut walk),
            _ => claims::settle(near, life, hold, &mut walk),
        }
    }
    walk.finish();
}

/// Where usage is added.
pub(crate) trait Sum {
    /// Adds `whole`, spread evenly over `[from, to)`, of which `[from, seen)` was observed.
    fn spread(&mut self, from: i64, to: i64, seen: i64, whole: i128);

    /// Adds `amount` at one instant.
    fn at(&mut self, instant: i64, amount: i128);
}

impl<'a, E: FnMut(Piece<'a>)> Sum for Walk<'a, E> {
    #[inline]
    fn spread(&mut self, from: i64, to: i64, seen: i64, whole: i128) {
        Walk::spread(self, from, to, seen, whole);
    }

    fn at(&mut self, instant: i64, amount: i128) {
        Walk::at(self, instant, amount);
    }
}

/// What counters and deltas tell; of one instance alone where one is named.
pub(crate) fn amounts(
    near: Near<'_>,
    life: &Life,
    hold: i64,
    instance: Option<u64>,
    sum: &mut impl Sum,
) {
    match near.kind {
        MeterKind::Counter => counter(near, life, hold, instance, sum),
        MeterKind::Delta => delta(near, life, hold, instance, sum),
        MeterKind::Gauge | MeterKind::Allocation { .. } => {}
    }
}

/// The reading before, in the source's own order.
struct Before {
    place: usize,
    at: i64,
    reading: i128,
    epoch: Option<EpochId>,
}

fn counter(near: Near<'_>, life: &Life, hold: i64, instance: Option<u64>, sum: &mut impl Sum) {
    let mut before: Option<Before> = None;
    near.each(NANO, instance, |place, at, reading| {
        if reading < 0 {
            return;
        }
        let epoch = near.clock[place].epoch;
        let implied = life.born && at > life.birth && at - life.birth <= hold;
        let birth = Before { place: 0, at: life.birth, reading: 0, epoch: None };
        let last = before.take().or(implied.then_some(birth));
        // Over a longer pause in which others observed, theirs count.
        let last = last.filter(|last| at - last.at <= hold || near.is_next(last.place, place));
        if let Some(last) = last {
            let same_epoch = last.epoch.is_none_or(|last| last == epoch);
            let increase = match reading - last.reading {
                increase if increase >= 0 => increase,
                _ if same_epoch => reading,
                _ => 0,
            };
            let to = at.min(life.death);
            let seen = to.min(last.at.saturating_add(hold)).min(near.gap_after(last.at));
            sum.spread(last.at, to, seen, increase * PICO_PER_NANO);
        }
        before = Some(Before { place, at, reading, epoch: Some(epoch) });
    });
}

fn gauge(near: Near<'_>, life: &Life, hold: i64, sum: &mut impl Sum) {
    let mut held: Option<(i64, i128)> = None;
    let mut until = |held: Option<(i64, i128)>, next: i64| {
        if let Some((from, level)) = held {
            let to = next.min(from.saturating_add(hold)).min(life.death);
            let to = to.min(near.gap_after(from));
            sum.spread(from, to, to, level * i128::from(to - from));
        }
    };
    near.each(MICRO, None, |_, at, level| {
        until(held.take(), at);
        held = (at < life.death).then_some((at, level));
    });
    until(held, OPEN);
}

fn delta(near: Near<'_>, life: &Life, hold: i64, instance: Option<u64>, sum: &mut impl Sum) {
    let mut before = life.birth;
    near.each(NANO, instance, |_, at, amount| {
        let to = at.min(life.death);
        let from = before.max(at.saturating_sub(hold));
        if from < to {
            sum.spread(from, to, to.min(near.gap_after(from)), 0);
        }
        sum.at(at.min(life.death - 1), amount * PICO_PER_NANO);
        before = at;
    });
}

/// The samples that can matter to a window: those inside and the nearest reading on either side.
#[derive(Clone, Copy)]
pub(crate) struct Near<'a> {
    at: &'a [i64],
    value: &'a [f64],
    clock: &'a [ClockId],
    gaps: &'a [i64],
    kind: &'a MeterKind,
    /// No reading after the first one at or past this instant matters.
    stop: i64,
}

impl<'a> Near<'a> {
    fn new(series: &Series<'a>, window: (i64, i64)) -> Self {
        let (at, value, clock) = series.plausible();
        let (kind, gaps) = (&series.meter.kind, series.gaps);
        let inside = at.partition_point(|&at| at <= window.0);
        let nearest = value[..inside].iter().rposition(|&value| is_reading(kind, value));
        let mut first = nearest.unwrap_or(0);
        if clock.iter().any(|of| of.instance != clock[0].instance) {
            // Each observer's own reading before the window, as far as it can bear on it.
            let hold = series.meter.hold_micros;
            first = first.min(at.partition_point(|&at| at < window.0.saturating_sub(hold)));
        }
        let (at, value, clock) = (&at[first..], &value[first..], &clock[first..]);
        Near { at, value, clock, gaps, kind, stop: window.1 }
    }

    /// Those within a life, and the final ones after it.
    fn of_life(&self, life: &Life, rebirth: i64, hold: i64) -> Self {
        let last = life.death.saturating_add(hold).saturating_add(1).min(rebirth);
        let from = self.at.partition_point(|&at| at < life.birth);
        let upto = self.at.partition_point(|&at| at < last);
        Near {
            at: &self.at[from..upto],
            value: &self.value[from..upto],
            clock: &self.clock[from..upto],
            stop: self.stop.min(life.death),
            ..*self
        }
    }

    fn has_one_observer(&self) -> bool {
        self.clock.windows(2).all(|pair| pair[0].instance == pair[1].instance)
    }

    /// The instances in order, each once.
    pub(crate) fn instances(&self) -> BTreeSet<u64> {
        self.clock.iter().map(|clock| clock.instance).collect()
    }

    /// The first instant at or after a reading from which on something is missing.
    fn gap_after(&self, at: i64) -> i64 {
        let next = self.gaps.partition_point(|&start| start < at);
        self.gaps.get(next).copied().unwrap_or(OPEN)
    }

    /// Whether no reading lies between two places.
    fn is_next(&self, earlier: usize, later: usize) -> bool {
        let between = earlier + 1..later;
        !self.value[between].iter().any(|&value| is_reading(self.kind, value))
    }

    /// Each reading in order, with its place, fixed to integers at a scale, ending with the first
    /// at or past `stop`; those of one instance where one is named.
    #[inline]
    fn each(self, scale: u64, instance: Option<u64>, mut visit: impl FnMut(usize, i64, i128)) {
        let mut last = i64::MIN;
        for (place, (&at, &value)) in self.at.iter().zip(self.value).enumerate() {
            assert!(last < at, "the samples of a series are in order, each instant once");
            last = at;
            if instance.is_some_and(|instance| instance != self.clock[place].instance) {
                continue;
            }
            let Some(reading) = fixed(value, scale) else { continue };
            visit(place, at, reading);
            if at >= self.stop && is_reading(self.kind, value) {
                return;
            }
        }
    }
}
