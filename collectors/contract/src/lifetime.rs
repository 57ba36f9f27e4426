//! One resource's events and the states that they add up to.
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

use std::collections::HashSet;
use std::sync::Arc;

use crate::event::{Change, LifecycleEvent};
use crate::history::Applied;
use crate::resource::Resource;
use crate::time::Timestamp;

/// One state of a resource over `[start, end)`; `end` is open while it lasts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Segment {
    /// First instant of the state.
    pub start: Timestamp,
    /// First instant past the state.
    pub end: Option<Timestamp>,
    /// The state.
    pub state: Arc<Resource>,
}

/// All that is known of one resource.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Lifetime {
    events: Vec<Known>,
    segments: Vec<Segment>,
}

/// Order of events: those that share instant and change are ordered by what they say.
type Key = (Timestamp, Change, u128);

/// An event with the digest of what it says.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Known {
    digest: u128,
    event: Arc<LifecycleEvent>,
}

impl Known {
    fn key(&self) -> Key {
        (self.event.at, self.event.change, self.digest)
    }
}

impl Lifetime {
    /// The states in order of time; they do not overlap.
    pub fn segments(&self) -> &[Segment] {
        &self.segments
    }

    /// The events in order of time.
    pub fn events(&self) -> impl ExactSizeIterator<Item = &Arc<LifecycleEvent>> {
        self.events.iter().map(|known| &known.event)
    }

    /// The state in force at `at`, if the resource was alive then.
    pub fn at(&self, at: Timestamp) -> Option<&Segment> {
        let begun = self.segments.partition_point(|segment| segment.start <= at);
        let segment = &self.segments[begun.checked_sub(1)?];
        segment.end.is_none_or(|end| at < end).then_some(segment)
    }

    /// The newest state, alive or not.
    pub fn latest(&self) -> Option<&Segment> {
        self.segments.last()
    }

    /// First instant at which the resource is known to have been.
    pub fn start(&self) -> Option<Timestamp> {
        self.segments.first().map(|segment| segment.start)
    }

    /// Applies events in order of arrival, at most `most` of them all; says of each what came of
    /// it.
    ///
    /// Deletions have room of their own, as much again: a resource that changed too often can
    /// still end.
    pub(crate) fn apply(&mut self, events: Vec<LifecycleEvent>, most: usize) -> Vec<Applied> {
        let mut fresh: Vec<Known> = Vec::new();
        let mut keys: HashSet<Key> = HashSet::new();
        let mut applied = Vec::with_capacity(events.len());
        for event in events {
            let known = Known { digest: event.digest(), event: Arc::new(event) };
            let room = match known.event.change {
                Change::Deleted => most.saturating_mul(2),
                Change::Created | Change::Changed => most,
            };
            let count = self.events.len() + fresh.len();
            applied.push(match self.has(known.key()) || keys.contains(&known.key()) {
                true => Applied::Duplicate,
                false if count >= room => Applied::TooManyChanges,
                false => {
                    keys.insert(known.key());
                    fresh.push(known);
                    Applied::New
                }
            });
        }
        fresh.sort_unstable_by_key(Known::key);
        self.merge(fresh);
        applied
    }

    fn has(&self, key: Key) -> bool {
        self.events.last().is_some_and(|last| key <= last.key())
            && self.events.binary_search_by_key(&key, Known::key).is_ok()
    }

    /// Takes in sorted events that are not known, and folds from the first of them on.
    fn merge(&mut self, fresh: Vec<Known>) {
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
        self.unfold(from.0);
        self.fold_from(self.events.partition_point(|known| known.event.at < from.0));
    }

    /// Takes the segments back to what the events before an instant add up to.
    fn unfold(&mut self, at: Timestamp) {
        self.segments.truncate(self.segments.partition_point(|segment| segment.start < at));
        if let Some(last) = self.segments.last_mut() {
            last.end = last.end.filter(|end| *end < at);
        }
    }

    fn fold_from(&mut self, place: usize) {
        for known in &self.events[place..] {
            fold(&mut self.segments, &known.event);
        }
    }

    /// Forgets what was over before `horizon`; whether anything is left. What is told of the time
    /// from `horizon` on stays the same, and so it does after more events of that time.
    ///
    /// The events that are left are those that began the life that was in force at `horizon`, and
    /// those from its state at `horizon` on; of a resource that came back since, those of the last
    /// state before it. So when a resource came into being stays known for as long as it lives.
    pub(crate) fn forget_before(&mut self, horizon: Timestamp) -> bool {
        let over = |segment: &Segment| segment.end.is_some_and(|end| end < horizon);
        if self.segments.last().is_none_or(over) {
            return self.events.last().is_some_and(|last| last.event.at >= horizon);
        }
        // A state that begins at the horizon may turn out to have ended there and then.
        let begun = self.segments.partition_point(|segment| segment.start < horizon);
        let Some(first) = begun.checked_sub(1) else { return true };
        let goes_on = |pair: &[Segment]| pair[0].end == Some(pair[1].start);
        let before = self.segments[..=first].windows(2).rev().take_while(|pair| goes_on(pair));
        let born = self.segments[first - before.count()].start;
        let start = self.segments[first].start;
        let count = self.events.len();
        self.events.retain(|known| known.event.at >= start || known.event.at == born);
        if self.events.len() < count {
            self.segments.clear();
            self.fold_from(0);
        }
        true
    }

    /// Events, by their digests, that may be removed from where all of them are kept: what is
    /// told of the time from `horizon` on stays the same. Of an event that is not `removable`
    /// neither is any later one of this resource: a deletion never goes before what it ended.
    pub fn forgettable(
        &self,
        horizon: Timestamp,
        removable: impl Fn(u128) -> bool,
    ) -> HashSet<u128> {
        let mut left = self.clone();
        if !left.forget_before(horizon) {
            left.events.clear();
        }
        let needed: HashSet<Key> = left.events.iter().map(Known::key).collect();
        let old = self.events.iter().filter(|known| !needed.contains(&known.key()));
        let gone: HashSet<u128> =
            old.map(|known| known.digest).take_while(|digest| removable(*digest)).collect();
        let rest = self.events.iter().filter(|known| !gone.contains(&known.digest));
        let mut rest = Lifetime { events: rest.cloned().collect(), segments: Vec::new() };
        rest.fold_from(0);
        match rest.since(horizon) == self.since(horizon) {
            true => gone,
            false => HashSet::new(),
        }
    }

    /// The states from an instant on.
    fn since(&self, at: Timestamp) -> Vec<(Timestamp, Option<Timestamp>, &Resource)> {
        let left = self.segments.iter().filter(|segment| segment.end.is_none_or(|end| end > at));
        left.map(|segment| (segment.start.max(at), segment.end, segment.state.as_ref())).collect()
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
