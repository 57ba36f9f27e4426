//! What lifecycle events add up to: each resource's states over time.
//!
//! The history is a function of the *set* of events: their order of arrival and repeats change
//! nothing. Per resource the events lie sorted by instant, and the segments are folded from them:
//!
//! ```text
//!        created      changed            deleted
//! ─ dead ──┤  state A   ├───  state B  ────┤─ dead ─      segments [start, end)
//! ```
//!
//! A `created` or `changed` that repeats the state in force adds nothing. A `changed` of a
//! resource never seen before starts it: its true start is unknown. After `deleted` only a
//! `created` revives, so a straggling report cannot.

use std::collections::HashMap;
use std::sync::Arc;

use crate::event::{Change, LifecycleEvent};
use crate::resource::{Resource, ResourceKind};
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
    events: Vec<Arc<LifecycleEvent>>,
    segments: Vec<Segment>,
}

/// Whether an event said something new.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Applied {
    /// It was not known yet.
    New,
    /// The same event had been applied before.
    Duplicate,
}

/// The lifetimes of all resources.
#[derive(Clone, Debug, Default)]
pub struct History {
    resources: HashMap<String, Lifetime>,
}

impl Lifetime {
    /// The states in order of time; they do not overlap.
    pub fn segments(&self) -> &[Segment] {
        &self.segments
    }

    /// The events in order of time.
    pub fn events(&self) -> &[Arc<LifecycleEvent>] {
        &self.events
    }

    /// The state in force at `at`, if the resource was alive then.
    pub fn at(&self, at: Timestamp) -> Option<&Segment> {
        self.segments
            .iter()
            .rev()
            .find(|segment| segment.start <= at && segment.end.is_none_or(|end| at < end))
    }

    /// The newest state, alive or not.
    pub fn latest(&self) -> Option<&Segment> {
        self.segments.last()
    }

    /// First instant at which the resource is known to have been.
    pub fn start(&self) -> Option<Timestamp> {
        self.segments.first().map(|segment| segment.start)
    }

    fn apply(&mut self, event: Arc<LifecycleEvent>) -> Applied {
        let key = |event: &LifecycleEvent| (event.at, event.change);
        let from = self.events.partition_point(|known| key(known) < key(&event));
        let upto = self.events.partition_point(|known| key(known) <= key(&event));
        if self.events[from..upto].contains(&event) {
            return Applied::Duplicate;
        }
        // Events that share instant and change are ordered by what they say, not by arrival.
        let tie = event.id();
        let offset = self.events[from..upto].partition_point(|known| known.id() < tie);
        self.events.insert(from + offset, event);
        self.segments = fold(&self.events);
        Applied::New
    }
}

fn fold(events: &[Arc<LifecycleEvent>]) -> Vec<Segment> {
    let mut segments: Vec<Segment> = Vec::new();
    for event in events {
        let last = segments.last_mut();
        let seen = last.is_some();
        let alive = last.filter(|segment| segment.end.is_none());
        match (event.change, alive) {
            (Change::Deleted, Some(segment)) => segment.end = Some(event.at),
            (Change::Deleted, None) => continue,
            (Change::Changed, None) if seen => continue,
            (_, Some(segment)) if *segment.state == event.resource => continue,
            (_, alive) => {
                if let Some(segment) = alive {
                    segment.end = Some(event.at);
                }
                let state = Arc::new(event.resource.clone());
                segments.push(Segment { start: event.at, end: None, state });
            }
        }
        if segments.last().is_some_and(|segment| segment.end == Some(segment.start)) {
            segments.pop();
        }
        // A state replaced at its own first instant was never in force.
        let replaced = segments
            .len()
            .checked_sub(2)
            .filter(|&previous| segments[previous].end == Some(segments[previous].start));
        if let Some(previous) = replaced {
            segments.remove(previous);
        }
    }
    segments
}

impl History {
    /// Applies one event; says whether it was new.
    pub fn apply(&mut self, event: LifecycleEvent) -> Applied {
        match self.resources.get_mut(&event.resource.id) {
            Some(lifetime) => lifetime.apply(Arc::new(event)),
            None => {
                let lifetime = self.resources.entry(event.resource.id.clone()).or_default();
                lifetime.apply(Arc::new(event))
            }
        }
    }

    /// What is known of one resource.
    pub fn get(&self, id: &str) -> Option<&Lifetime> {
        self.resources.get(id)
    }

    /// All resources, in no order.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Lifetime)> {
        self.resources.iter().map(|(id, lifetime)| (id.as_str(), lifetime))
    }

    /// Resources of one kind that are alive at `at`, in no order.
    pub fn alive(&self, kind: ResourceKind, at: Timestamp) -> impl Iterator<Item = &Segment> {
        self.resources
            .values()
            .filter_map(move |lifetime| lifetime.at(at))
            .filter(move |segment| segment.state.kind == kind)
    }

    /// Number of resources known.
    pub fn len(&self) -> usize {
        self.resources.len()
    }

    /// Whether no resource is known.
    pub fn is_empty(&self) -> bool {
        self.resources.is_empty()
    }

    /// Forgets resources that ended before `horizon`; the bound on this structure is retention.
    pub fn forget_before(&mut self, horizon: Timestamp) {
        self.resources.retain(|_, lifetime| {
            lifetime.latest().is_none_or(|segment| segment.end.is_none_or(|end| end >= horizon))
        });
    }
}
