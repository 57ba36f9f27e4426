//! What one source says of one resource: its events, and the states that they add up to.
//!
//! Events lie sorted by instant, change and digest; the segments are folded from them in that
//! order. The fold needs no more than the segments so far, and an event ends or replaces only the
//! last of them, so the segments that begin before an instant tell all that the events before it
//! do:
//!
//! ```text
//! events    … before A │ A …          a new event at A
//! segments  … start < A│              kept, the last one open again
//!                      └──── folded again from the first event at A
//! ```
//!
//! An event at the end costs the same however many there are; one in the middle costs the events
//! after it; a batch is sorted and costs its earliest event once.

use std::sync::Arc;

use crate::event::{Change, LifecycleEvent};
use crate::lifetime::Segment;
use crate::time::Timestamp;

/// The events of one source; there is at least one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Facet {
    events: Vec<Known>,
    segments: Vec<Segment>,
}

/// Order of events: those that share instant and change are ordered by what they say.
pub(crate) type Key = (Timestamp, Change, u128);

/// An event with the digest of what it says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Known {
    pub(crate) digest: u128,
    pub(crate) event: Arc<LifecycleEvent>,
}

impl Known {
    pub(crate) fn of(event: LifecycleEvent) -> Self {
        Known { digest: event.digest(), event: Arc::new(event) }
    }

    pub(crate) fn key(&self) -> Key {
        (self.event.at, self.event.change, self.digest)
    }

    pub(crate) fn source(&self) -> &str {
        &self.event.source
    }
}

impl Facet {
    /// The facet that sorted events of one source add up to.
    pub(crate) fn of(events: Vec<Known>) -> Self {
        assert!(!events.is_empty(), "a facet has an event");
        let mut facet = Facet { events, segments: Vec::new() };
        facet.fold_from(0);
        facet
    }

    pub(crate) fn source(&self) -> &str {
        self.events[0].source()
    }

    pub(crate) fn events(&self) -> &[Known] {
        &self.events
    }

    /// The states in order of time; they do not overlap.
    pub(crate) fn segments(&self) -> &[Segment] {
        &self.segments
    }

    /// The instant from which on the source speaks of the resource.
    pub(crate) fn begin(&self) -> Timestamp {
        self.events[0].event.at
    }

    pub(crate) fn has(&self, key: Key) -> bool {
        self.events.last().is_some_and(|last| key <= last.key())
            && self.events.binary_search_by_key(&key, Known::key).is_ok()
    }

    /// Takes in sorted events that are not known, and folds from the first of them on.
    pub(crate) fn merge(&mut self, fresh: Vec<Known>) {
        let Some(first) = fresh.first() else { return };
        let from = first.key();
        let place = self.events.partition_point(|known| known.key() < from);
        if place == self.events.len() {
            self.events.extend(fresh);
            self.fold_from(place);
            return;
        }
        let tail = self.events.split_off(place);
        let (mut old, mut new) = (tail.into_iter().peekable(), fresh.into_iter().peekable());
        while let (Some(one), Some(other)) = (old.peek(), new.peek()) {
            let next = if one.key() < other.key() { old.next() } else { new.next() };
            self.events.extend(next);
        }
        self.events.extend(old);
        self.events.extend(new);
        unfold(&mut self.segments, from.0);
        self.fold_from(self.events.partition_point(|known| known.event.at < from.0));
    }

    fn fold_from(&mut self, place: usize) {
        for known in &self.events[place..] {
            fold(&mut self.segments, &known.event);
        }
    }

    /// Whether it says nothing of the time from `horizon` on.
    pub(crate) fn is_over(&self, horizon: Timestamp) -> bool {
        let over = |segment: &Segment| segment.end.is_some_and(|end| end < horizon);
        self.segments.last().is_none_or(over)
            && self.events.last().is_none_or(|last| last.event.at < horizon)
    }

    /// Itself without what was over before `horizon`, if there is any such: what it says of the time
    /// from `horizon` on stays the same, and so it does after more events of that time.
    ///
    /// The events that are left are those that began the life that was in force at `horizon`, and
    /// those from its state at `horizon` on; of a resource that came back since, or that is over,
    /// those of the last state before it. So when a resource came into being stays known for as long
    /// as it lives. Events at the instants of `births` are left too.
    pub(crate) fn trimmed(&self, horizon: Timestamp, births: &[Timestamp]) -> Option<Facet> {
        let segments = &self.segments;
        // A state that begins at the horizon may turn out to have ended there and then.
        let begun = segments.partition_point(|segment| segment.start < horizon);
        let first = begun.checked_sub(1)?;
        let (start, born) = (segments[first].start, birth(&segments[..=first]));
        let stays = |known: &&Known| {
            let at = known.event.at;
            at >= start || Some(at) == born || births.contains(&at)
        };
        if self.events.iter().all(|known| stays(&known)) {
            return None;
        }
        Some(Facet::of(self.events.iter().filter(stays).cloned().collect()))
    }
}

/// The state in force at an instant.
pub(crate) fn state_at(segments: &[Segment], at: Timestamp) -> Option<&Segment> {
    let begun = segments.partition_point(|segment| segment.start <= at);
    let segment = &segments[begun.checked_sub(1)?];
    segment.end.is_none_or(|end| at < end).then_some(segment)
}

/// When the life began that the last of some segments is of.
pub(crate) fn birth(segments: &[Segment]) -> Option<Timestamp> {
    let goes_on = |pair: &[Segment]| pair[0].end == Some(pair[1].start);
    let before = segments.windows(2).rev().take_while(|pair| goes_on(pair)).count();
    Some(segments[segments.len().checked_sub(1 + before)?].start)
}

/// Cuts segments back to what the events before an instant add up to.
pub(crate) fn unfold(segments: &mut Vec<Segment>, at: Timestamp) {
    segments.truncate(segments.partition_point(|segment| segment.start < at));
    if let Some(last) = segments.last_mut() {
        last.end = last.end.filter(|end| *end < at);
    }
}

/// What one more event makes of the segments; it is later than all before it.
fn fold(segments: &mut Vec<Segment>, event: &LifecycleEvent) {
    let last = segments.last_mut();
    let seen = last.is_some();
    let alive = last.filter(|segment| segment.end.is_none());
    match (event.change, alive) {
        (Change::Deleted, Some(segment)) => segment.end = Some(event.at),
        (Change::Deleted, None) => return,
        (Change::Changed, None) if seen => return,
        (_, Some(segment)) if *segment.state == event.resource => return,
        (_, alive) => {
            if let Some(segment) = alive {
                segment.end = Some(event.at);
            }
            let state = Arc::new(event.resource.clone());
            segments.push(Segment { start: event.at, end: None, state });
        }
    }
    segments.pop_if(|last| last.end == Some(last.start));
    // A state replaced at its own first instant was never in force.
    let replaced = segments
        .len()
        .checked_sub(2)
        .filter(|&previous| segments[previous].end == Some(segments[previous].start));
    if let Some(previous) = replaced {
        segments.remove(previous);
    }
}
