//! Walks forward in time over the pieces that become rows, and adds usage to them.
//!
//! A piece is a clock hour ∩ a span of equal key ∩ the window. Usage is added in order of time;
//! what spreads over several pieces is cut by cumulative shares, so its parts sum to the whole.

use nilometer_contract::MICROS_PER_HOUR;

use crate::fixed::share;
use crate::quantity::{Quantity, fits};
use crate::tenure::Span;

/// What was added to one piece.
pub(crate) struct Piece<'a> {
    pub(crate) span: &'a Span,
    pub(crate) start: i64,
    pub(crate) end: i64,
    pub(crate) quantity: Quantity,
    pub(crate) observed_micros: i64,
    /// Whether anything was added, if only zero.
    pub(crate) is_reached: bool,
}

/// The walk. Every piece is emitted once, in order, whether or not anything was added to it.
pub(crate) struct Walk<'a, E> {
    spans: &'a [Span],
    window: (i64, i64),
    emit: E,
    /// The current piece; empty and at the window's end after the last one.
    start: i64,
    end: i64,
    quantity: i128,
    observed_micros: i64,
    is_reached: bool,
}

/// First instant of the next clock hour.
pub(crate) fn next_hour(at: i64) -> i64 {
    (at.div_euclid(MICROS_PER_HOUR) + 1) * MICROS_PER_HOUR
}

impl<'a, E: FnMut(Piece<'a>)> Walk<'a, E> {
    /// A walk over `spans`, which are in order and do not overlap, within `window`.
    pub(crate) fn new(spans: &'a [Span], window: (i64, i64), emit: E) -> Self {
        let first = spans.partition_point(|span| span.end <= window.0);
        let mut walk = Walk {
            spans: &spans[first..],
            window,
            emit,
            start: window.0,
            end: window.0,
            quantity: 0,
            observed_micros: 0,
            is_reached: false,
        };
        walk.open();
        walk
    }

    /// Adds `whole`, spread evenly over `[from, to)`, of which `[from, seen)` was observed.
    #[inline]
    pub(crate) fn spread(&mut self, from: i64, to: i64, seen: i64, whole: i128) {
        if self.start <= from && to <= self.end {
            self.quantity = fits(self.quantity.checked_add(whole));
            self.observed_micros += seen - from;
            self.is_reached = true;
        } else {
            self.cut((from, to), (from, to), seen, whole);
        }
    }

    /// Adds what lies within `part` of `whole`, spread evenly over all of `span`. Parts that make
    /// up the span add up to the whole, wherever they meet.
    pub(crate) fn spread_part(
        &mut self,
        span: (i64, i64),
        part: (i64, i64),
        seen: i64,
        whole: i128,
    ) {
        self.cut(span, part, seen, whole);
    }

    /// Adds `amount` at one instant.
    pub(crate) fn at(&mut self, instant: i64, amount: i128) {
        while instant >= self.end && self.is_open() {
            self.next();
        }
        if self.start <= instant && instant < self.end {
            self.quantity = fits(self.quantity.checked_add(amount));
            self.is_reached = true;
        }
    }

    /// Emits what is left.
    pub(crate) fn finish(mut self) {
        while self.is_open() {
            self.next();
        }
    }

    #[cold]
    fn cut(&mut self, (from, to): (i64, i64), part: (i64, i64), seen: i64, whole: i128) {
        while self.start < part.1 && self.is_open() {
            let (a, b) = (part.0.max(self.start), part.1.min(self.end));
            if a < b {
                let until = |at: i64| share(whole, at - from, to - from);
                self.quantity = fits(self.quantity.checked_add(until(b) - until(a)));
                self.observed_micros += (seen.min(b) - a).max(0);
                self.is_reached = true;
            }
            if part.1 <= self.end {
                return;
            }
            self.next();
        }
    }

    fn is_open(&self) -> bool {
        self.start < self.end
    }

    /// Emits the current piece and opens the next.
    fn next(&mut self) {
        (self.emit)(Piece {
            span: &self.spans[0],
            start: self.start,
            end: self.end,
            quantity: Quantity(self.quantity),
            observed_micros: self.observed_micros,
            is_reached: self.is_reached,
        });
        (self.quantity, self.observed_micros, self.is_reached) = (0, 0, false);
        self.open();
    }

    /// Opens the first piece at or after the end of the current one.
    fn open(&mut self) {
        while let Some(span) = self.spans.first() {
            let start = self.end.max(span.start);
            let end = span.end.min(self.window.1);
            if start < end {
                (self.start, self.end) = (start, end.min(next_hour(start)));
                return;
            }
            self.spans = &self.spans[1..];
        }
        self.start = self.end.max(self.window.1);
        self.end = self.start;
    }
}
