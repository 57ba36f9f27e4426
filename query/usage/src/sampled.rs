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

use std::sync::Arc;

use nilometer_contract::{MeterKind, Timestamp};

use crate::fixed::{MICRO, NANO, PICO_PER_NANO, fixed};
use crate::points::{Series, is_reading};
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
            kind: piece.span.kind,
            meter: series.id,
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
            kind: piece.span.kind,
            meter: series.id,
            quantity: piece.quantity,
            observed_micros: piece.observed_micros,
        });
    });
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
            MeterKind::Counter => counter(near, life, hold, &mut walk),
            MeterKind::Gauge => gauge(near, life, hold, &mut walk),
            MeterKind::Delta => delta(near, life, hold, &mut walk),
            MeterKind::Allocation { .. } => {}
        }
    }
    walk.finish();
}

fn counter<'a, E: FnMut(Piece<'a>)>(
    near: Near<'_>,
    life: &Life,
    hold: i64,
    walk: &mut Walk<'a, E>,
) {
    let mut before: Option<(i64, i128)> = None;
    near.each(NANO, |at, reading| {
        if reading < 0 {
            return;
        }
        let implied = life.born && at > life.birth && at - life.birth <= hold;
        if let Some((from, last)) = before.or(implied.then_some((life.birth, 0))) {
            let increase = if reading >= last { reading - last } else { reading };
            let to = at.min(life.death);
            walk.spread(from, to, to.min(from.saturating_add(hold)), increase * PICO_PER_NANO);
        }
        before = Some((at, reading));
    });
}

fn gauge<'a, E: FnMut(Piece<'a>)>(near: Near<'_>, life: &Life, hold: i64, walk: &mut Walk<'a, E>) {
    let mut held: Option<(i64, i128)> = None;
    let mut until = |held: Option<(i64, i128)>, next: i64| {
        if let Some((from, level)) = held {
            let to = next.min(from.saturating_add(hold)).min(life.death);
            walk.spread(from, to, to, level * i128::from(to - from));
        }
    };
    near.each(MICRO, |at, level| {
        until(held.take(), at);
        held = (at < life.death).then_some((at, level));
    });
    until(held, OPEN);
}

fn delta<'a, E: FnMut(Piece<'a>)>(near: Near<'_>, life: &Life, hold: i64, walk: &mut Walk<'a, E>) {
    let mut before = life.birth;
    near.each(NANO, |at, amount| {
        let to = at.min(life.death);
        let from = before.max(at.saturating_sub(hold));
        if from < to {
            walk.spread(from, to, to, 0);
        }
        walk.at(at.min(life.death - 1), amount * PICO_PER_NANO);
        before = at;
    });
}

/// The samples that can matter to a window: those inside and the nearest reading on either side.
#[derive(Clone, Copy)]
struct Near<'a> {
    at: &'a [i64],
    value: &'a [f64],
    kind: &'a MeterKind,
    /// No reading after the first one at or past this instant matters.
    stop: i64,
}

impl<'a> Near<'a> {
    fn new(series: &Series<'a>, window: (i64, i64)) -> Self {
        let (at, value) = series.plausible();
        let kind = &series.meter.kind;
        let inside = at.partition_point(|&at| at <= window.0);
        let nearest = value[..inside].iter().rposition(|&value| is_reading(kind, value));
        let first = nearest.unwrap_or(0);
        Near { at: &at[first..], value: &value[first..], kind, stop: window.1 }
    }

    /// Those within a life, and the final ones after it.
    fn of_life(&self, life: &Life, rebirth: i64, hold: i64) -> Self {
        let last = life.death.saturating_add(hold).saturating_add(1).min(rebirth);
        let from = self.at.partition_point(|&at| at < life.birth);
        let upto = self.at.partition_point(|&at| at < last);
        let stop = self.stop.min(life.death);
        Near { at: &self.at[from..upto], value: &self.value[from..upto], kind: self.kind, stop }
    }

    /// Each reading in order, fixed to integers at a scale, ending with the first at or past `stop`.
    #[inline]
    fn each(self, scale: u64, mut visit: impl FnMut(i64, i128)) {
        let mut last = i64::MIN;
        for (&at, &value) in self.at.iter().zip(self.value) {
            assert!(last < at, "the samples of a series are in order, each instant once");
            last = at;
            let Some(reading) = fixed(value, scale) else { continue };
            visit(at, reading);
            if at >= self.stop && is_reading(self.kind, value) {
                return;
            }
        }
    }
}
