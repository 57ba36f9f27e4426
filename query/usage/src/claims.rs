//! Whose counter counts, where several source instances observe one resource at one time.
//!
//! Each instance tells increases over the times between its own readings. Over any time, only
//! those of one instance count: of the one that comes first in order among those that read before
//! and after, within the hold time.
//!
//! ```text
//! a  ●────●────●────●              │ counts whole
//! b        ●────●────●────●────●   │ counts from where a has no more pairs
//! ```
//!
//! So two agents on one node, or both ends of a migration, never bill one unit twice.

use crate::sampled::{Near, Sum, amounts};
use crate::tenure::Life;
use crate::walk::{Piece, Walk};

/// One addition.
#[derive(Clone, Copy)]
enum Part {
    /// What lies within `part` of `whole`, spread over `span`.
    Spread {
        span: (i64, i64),
        part: (i64, i64),
        seen: i64,
        whole: i128,
    },
    At {
        instant: i64,
        amount: i128,
    },
}

/// What one instance tells, and the times between its readings, as far as they are its own.
struct Told {
    hold: i64,
    parts: Vec<Part>,
    pairs: Vec<(i64, i64)>,
}

impl Part {
    fn start(&self) -> i64 {
        match *self {
            Part::Spread { part, .. } => part.0,
            Part::At { instant, .. } => instant,
        }
    }
}

impl Sum for Told {
    fn spread(&mut self, from: i64, to: i64, seen: i64, whole: i128) {
        let span = (from, to);
        self.parts.push(Part::Spread { span, part: span, seen, whole });
        // Nobody else read within a longer pause, or it would not be told.
        self.pairs.push((from, to.min(from.saturating_add(self.hold))));
    }

    fn at(&mut self, instant: i64, amount: i128) {
        self.parts.push(Part::At { instant, amount });
    }
}

/// Adds what counts of all instances, in order of time.
pub(crate) fn settle<'a, E: FnMut(Piece<'a>)>(
    near: Near<'_>,
    life: &Life,
    hold: i64,
    walk: &mut Walk<'a, E>,
) {
    let mut taken: Vec<(i64, i64)> = Vec::new();
    let mut counted: Vec<Part> = Vec::new();
    for instance in near.instances() {
        let mut told = Told { hold, parts: Vec::new(), pairs: Vec::new() };
        amounts(near, life, hold, Some(instance), &mut told);
        told.parts.iter().for_each(|part| add_free(*part, &taken, &mut counted));
        taken.extend(told.pairs);
        taken = joined(taken);
    }
    counted.sort_by_key(Part::start);
    for part in counted {
        match part {
            Part::Spread { span, part, seen, whole } => walk.spread_part(span, part, seen, whole),
            Part::At { instant, amount } => walk.at(instant, amount),
        }
    }
}

/// The parts outside what is taken.
fn add_free(part: Part, taken: &[(i64, i64)], out: &mut Vec<Part>) {
    match part {
        Part::At { instant, .. } => {
            let next = taken.partition_point(|&(_, end)| end <= instant);
            if taken.get(next).is_none_or(|&(start, _)| instant < start) {
                out.push(part);
            }
        }
        Part::Spread { span, seen, whole, .. } => {
            let (mut free, to) = span;
            let next = taken.partition_point(|&(_, end)| end <= free);
            for &(start, end) in taken[next..].iter().chain([&(to, to)]) {
                let part = (free, start.clamp(free, to));
                if part.0 < part.1 {
                    out.push(Part::Spread { span, part, seen, whole });
                }
                free = free.max(end);
                if free >= to {
                    return;
                }
            }
        }
    }
}

/// Periods in order, those that touch as one.
fn joined(mut periods: Vec<(i64, i64)>) -> Vec<(i64, i64)> {
    periods.retain(|&(start, end)| start < end);
    periods.sort_unstable();
    let mut joined: Vec<(i64, i64)> = Vec::with_capacity(periods.len());
    for (start, end) in periods {
        match joined.last_mut() {
            Some(last) if start <= last.1 => last.1 = last.1.max(end),
            _ => joined.push((start, end)),
        }
    }
    joined
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn periods_that_touch_are_one_and_empty_ones_none() {
        let periods = vec![(7, 9), (3, 4), (12, 12), (1, 2), (2, 3), (8, 8), (7, 8), (6, 5)];
        assert_eq!(joined(periods), [(1, 4), (7, 9)]);
    }
}
