//! All that is known of one resource: what each source says of it, put together.
//!
//! Each source has its own timeline, its [facet](crate::facet), so two sources that repeat
//! themselves change nothing of each other's. Their [order](Precedence) puts the facets together:
//!
//! ```text
//! nova            ├─ created ──────────────── deleted │
//! libvirt    ├─ created ───────── changed ──────────────────┤
//! together   ├─ ─ ┼─ life: nova's ────┼───────────────┤ dead
//!                   state: by attribute, of those that live
//! ```
//!
//! - *Life.* At an instant, that source decides which comes first among those that have said
//!   anything by then. So what ended by a source stays ended until it, or one before it, says
//!   otherwise; a deletion by a later one changes nothing.
//! - *State.* Each attribute is that of the first source, by the attribute's order, that states
//!   it, among those that say the resource lives; an empty text counts as not stated. The kind is
//!   that of the source that decides on the life.
//!
//! A resource of one source costs what its facet costs; another source's event costs what lies
//! after it.

use std::collections::HashSet;
use std::sync::Arc;

use crate::event::{Change, LifecycleEvent};
use crate::facet::{Facet, Key, Known, birth, state_at};
use crate::history::{Applied, HistoryBounds};
use crate::merged::merge_from;
use crate::precedence::Precedence;
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
    /// By source, the first one first.
    facets: Vec<Facet>,
    /// The states of several facets together; of a single one they are its own.
    merged: Vec<Segment>,
}

impl Lifetime {
    /// The states in order of time; they do not overlap.
    pub fn segments(&self) -> &[Segment] {
        match self.facets.as_slice() {
            [one] => one.segments(),
            _ => &self.merged,
        }
    }

    /// The events of all sources in order of time.
    pub fn events(&self) -> impl ExactSizeIterator<Item = &Arc<LifecycleEvent>> {
        self.known().into_iter().map(|known| &known.event)
    }

    /// The first instant of which any source says anything.
    pub fn begin(&self) -> Option<Timestamp> {
        self.facets.iter().map(Facet::begin).min()
    }

    /// Whether a source says that it was created at an instant.
    pub fn is_created_at(&self, at: Timestamp) -> bool {
        let key = |known: &Known| (known.event.at, known.event.change);
        self.facets.iter().any(|facet| {
            let events = facet.events();
            let first = events.partition_point(|known| key(known) < (at, Change::Created));
            events.get(first).is_some_and(|known| key(known) == (at, Change::Created))
        })
    }

    /// Number of events.
    pub fn event_count(&self) -> usize {
        self.facets.iter().map(|facet| facet.events().len()).sum()
    }

    /// What each source says by itself, the first one first.
    pub fn facets(&self) -> impl ExactSizeIterator<Item = (&str, &[Segment])> {
        self.facets.iter().map(|facet| (facet.source(), facet.segments()))
    }

    /// The state in force at `at`, if the resource was alive then.
    pub fn at(&self, at: Timestamp) -> Option<&Segment> {
        state_at(self.segments(), at)
    }

    /// The newest state, alive or not.
    pub fn latest(&self) -> Option<&Segment> {
        self.segments().last()
    }

    /// First instant at which the resource is known to have been.
    pub fn start(&self) -> Option<Timestamp> {
        self.segments().first().map(|segment| segment.start)
    }

    /// Applies events in order of arrival, no more than the bounds allow; says of each what came of
    /// it.
    ///
    /// Deletions have room of their own, as much again: a resource that changed too often can
    /// still end.
    pub(crate) fn apply(
        &mut self,
        events: Vec<LifecycleEvent>,
        bounds: &HistoryBounds,
        precedence: &Precedence,
    ) -> Vec<Applied> {
        let most = bounds.changes_per_resource;
        let mut fresh: Vec<Known> = Vec::new();
        let mut keys: HashSet<Key> = HashSet::new();
        let mut others: HashSet<String> = HashSet::new();
        let mut applied = Vec::with_capacity(events.len());
        for event in events {
            let known = Known::of(event);
            let room = match known.event.change {
                Change::Deleted => most.saturating_mul(2),
                Change::Created | Change::Changed => most,
            };
            let facet = self.facets.iter().find(|facet| facet.source() == known.source());
            let is_other = facet.is_none() && !others.contains(known.source());
            let sources = self.facets.len() + others.len();
            let is_known = facet.is_some_and(|facet| facet.has(known.key()));
            applied.push(if is_known || keys.contains(&known.key()) {
                Applied::Duplicate
            } else if self.event_count() + fresh.len() >= room {
                Applied::TooManyChanges
            } else if is_other && sources >= bounds.sources_per_resource {
                Applied::TooManySources
            } else {
                if is_other {
                    others.insert(known.source().to_owned());
                }
                keys.insert(known.key());
                fresh.push(known);
                Applied::New
            });
        }
        self.take_in(fresh, precedence);
        applied
    }

    /// Takes in events that are not known.
    fn take_in(&mut self, mut fresh: Vec<Known>, precedence: &Precedence) {
        let Some(mut from) = fresh.iter().map(|known| known.event.at).min() else { return };
        let before = self.facets.len();
        fresh.sort_unstable_by(|one, other| {
            one.source().cmp(other.source()).then_with(|| one.key().cmp(&other.key()))
        });
        while let Some(first) = fresh.first() {
            let next = fresh.partition_point(|known| known.source() <= first.source());
            let later = fresh.split_off(next);
            self.take_in_facet(std::mem::replace(&mut fresh, later), precedence);
        }
        if self.facets.len() > 1 {
            if before < 2 {
                from = Timestamp(i64::MIN);
            }
            merge_from(&mut self.merged, &self.facets, from, precedence);
        }
    }

    fn take_in_facet(&mut self, fresh: Vec<Known>, precedence: &Precedence) {
        let source = fresh[0].source();
        let place = |facet: &Facet| precedence.compare(facet.source(), source);
        match self.facets.binary_search_by(place) {
            Ok(place) => self.facets[place].merge(fresh),
            Err(place) => self.facets.insert(place, Facet::of(fresh)),
        }
    }

    /// Forgets what was over before `horizon`; whether anything is left. What is told of the time
    /// from `horizon` on stays the same, and so it does after more events of that time.
    ///
    /// What a source says of a resource that is over stays for as long as another says that it
    /// lives: else that one would decide.
    pub(crate) fn forget_before(&mut self, horizon: Timestamp, precedence: &Precedence) -> bool {
        if self.facets.iter().all(|facet| facet.is_over(horizon)) {
            return false;
        }
        if let [one] = self.facets.as_mut_slice() {
            if let Some(left) = one.trimmed(horizon, &[]) {
                *one = left;
            }
            return true;
        }
        let life = self.birth(horizon);
        let trimmed = self.facets.iter().map(|facet| {
            // The whole life may have begun with a source that said more than its last life.
            let first = facet.segments().first().map(|segment| segment.start);
            let first = first.filter(|first| life.is_some_and(|life| *first >= life));
            let births: Vec<Timestamp> = life.into_iter().chain(first).collect();
            facet.trimmed(horizon, &births)
        });
        let trimmed: Vec<Option<Facet>> = trimmed.collect();
        if trimmed.iter().all(Option::is_none) {
            return true;
        }
        let left = trimmed.into_iter().zip(&self.facets);
        let left = left.map(|(trimmed, whole)| trimmed.unwrap_or_else(|| whole.clone())).collect();
        let left = Lifetime::of(left, precedence);
        if left.since(horizon) == self.since(horizon) && left.birth(horizon) == life {
            *self = left;
        }
        true
    }

    /// Events, by their digests, that may be removed from where all of them are kept: what is
    /// told of the time from `horizon` on stays the same. Of an event that is not `removable`
    /// neither is any later one of this resource: a deletion never goes before what it ended.
    pub fn forgettable(
        &self,
        horizon: Timestamp,
        precedence: &Precedence,
        removable: impl Fn(u128) -> bool,
    ) -> HashSet<u128> {
        let mut left = self.clone();
        if !left.forget_before(horizon, precedence) {
            left.facets.clear();
        }
        let needed: HashSet<Key> = left.known().iter().map(|known| known.key()).collect();
        let old = self.known().into_iter().filter(|known| !needed.contains(&known.key()));
        let gone: HashSet<u128> =
            old.map(|known| known.digest).take_while(|digest| removable(*digest)).collect();
        let rest = self.facets.iter().filter_map(|facet| {
            let rest = facet.events().iter().filter(|known| !gone.contains(&known.digest));
            let rest: Vec<Known> = rest.cloned().collect();
            (!rest.is_empty()).then(|| Facet::of(rest))
        });
        let rest = Lifetime::of(rest.collect(), precedence);
        match rest.since(horizon) == self.since(horizon) {
            true => gone,
            false => HashSet::new(),
        }
    }

    /// Facets in order, put together.
    fn of(facets: Vec<Facet>, precedence: &Precedence) -> Self {
        let mut lifetime = Lifetime { facets, merged: Vec::new() };
        if lifetime.facets.len() > 1 {
            let from = Timestamp(i64::MIN);
            merge_from(&mut lifetime.merged, &lifetime.facets, from, precedence);
        }
        lifetime
    }

    fn known(&self) -> Vec<&Known> {
        let mut known: Vec<&Known> = self.facets.iter().flat_map(Facet::events).collect();
        if self.facets.len() > 1 {
            known.sort_by_key(|known| known.key());
        }
        known
    }

    /// When the life began that is in force at `horizon`, or was the last before it.
    fn birth(&self, horizon: Timestamp) -> Option<Timestamp> {
        let segments = self.segments();
        birth(&segments[..segments.partition_point(|segment| segment.start < horizon)])
    }

    /// The states from an instant on.
    fn since(&self, at: Timestamp) -> Vec<(Timestamp, Option<Timestamp>, &Resource)> {
        let left = self.segments().iter().filter(|segment| segment.end.is_none_or(|end| end > at));
        left.map(|segment| (segment.start.max(at), segment.end, segment.state.as_ref())).collect()
    }
}
