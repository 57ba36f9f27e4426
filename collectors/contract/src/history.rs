//! What lifecycle events add up to: each resource's states over time.
//!
//! The history is a function of the *set* of events: their order of arrival and repeats change
//! nothing. Per resource and source the events lie sorted by instant, and the segments are folded
//! from them:
//!
//! ```text
//!        created      changed            deleted
//! ─ dead ──┤  state A   ├───  state B  ────┤─ dead ─      segments [start, end)
//! ```
//!
//! A `created` or `changed` that repeats the state in force adds nothing. A `changed` of a
//! resource never seen before starts it: its true start is unknown. After `deleted` only a
//! `created` revives, so a straggling report cannot. What several sources say is put together by
//! the order of sources, see [`Lifetime`].

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::Arc;

use crate::catalogue::catalogue;
use crate::event::LifecycleEvent;
use crate::kind::ResourceKind;
use crate::lifetime::{Lifetime, Segment};
use crate::precedence::Precedence;
use crate::time::Timestamp;

/// What came of an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Applied {
    /// It was not known yet.
    New,
    /// The same event had been applied before.
    Duplicate,
    /// Refused: there are as many resources as there may be, and this would be another.
    TooManyResources,
    /// Refused: the resource has as many events as it may.
    TooManyChanges,
    /// Refused: as many sources describe the resource as may, and this is another.
    TooManySources,
}

/// How much a history holds; what is beyond is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HistoryBounds {
    /// Most resources.
    pub resources: usize,
    /// Most events of one resource, of all sources together. Deletions may be twice as many, so
    /// that it can still end.
    pub changes_per_resource: usize,
    /// Most sources that describe one resource.
    pub sources_per_resource: usize,
}

/// The lifetimes of all resources.
#[derive(Clone, Debug)]
pub struct History {
    resources: HashMap<String, Lifetime>,
    precedence: Arc<Precedence>,
    bounds: HistoryBounds,
    forgotten_before: Timestamp,
}

impl Default for HistoryBounds {
    /// None.
    fn default() -> Self {
        let most = usize::MAX;
        HistoryBounds { resources: most, changes_per_resource: most, sources_per_resource: most }
    }
}

impl Default for History {
    /// An empty one without bounds, with sources in the order of the built-in catalogue.
    fn default() -> Self {
        History::new(HistoryBounds::default(), catalogue().precedence().clone())
    }
}

impl History {
    /// An empty history that holds no more than it is allowed, and puts sources in order.
    pub fn new(bounds: HistoryBounds, precedence: Arc<Precedence>) -> Self {
        let (resources, forgotten_before) = (HashMap::new(), Timestamp::default());
        History { resources, precedence, bounds, forgotten_before }
    }

    /// The order of sources.
    pub fn precedence(&self) -> &Arc<Precedence> {
        &self.precedence
    }

    /// Holds no more than this from here on; what is there already stays.
    pub fn bound(&mut self, bounds: HistoryBounds) {
        self.bounds = bounds;
    }

    /// Applies one event.
    pub fn apply(&mut self, event: LifecycleEvent) -> Applied {
        self.apply_to(&event.resource.id.clone(), vec![event])[0]
    }

    /// Applies events in order of arrival; says of each what came of it. Of n events of one
    /// resource it takes O(n log n), whatever their order.
    pub fn apply_all(&mut self, events: Vec<LifecycleEvent>) -> Vec<Applied> {
        let mut applied = vec![Applied::Duplicate; events.len()];
        let mut order: Vec<&str> = Vec::new();
        let mut places: HashMap<&str, Vec<usize>> = HashMap::new();
        for (place, event) in events.iter().enumerate() {
            let id = event.resource.id.as_str();
            match places.entry(id) {
                Entry::Occupied(mut known) => known.get_mut().push(place),
                Entry::Vacant(free) => {
                    order.push(id);
                    free.insert(vec![place]);
                }
            }
        }
        let groups: Vec<(String, Vec<usize>)> = order
            .into_iter()
            .map(|id| (id.to_owned(), places.remove(id).unwrap_or_default()))
            .collect();
        let mut events: Vec<Option<LifecycleEvent>> = events.into_iter().map(Some).collect();
        for (id, places) in groups {
            let theirs = places.iter().filter_map(|&place| events[place].take()).collect();
            for (place, came) in places.iter().zip(self.apply_to(&id, theirs)) {
                applied[*place] = came;
            }
        }
        applied
    }

    fn apply_to(&mut self, id: &str, events: Vec<LifecycleEvent>) -> Vec<Applied> {
        let (bounds, precedence) = (&self.bounds, &self.precedence);
        if let Some(lifetime) = self.resources.get_mut(id) {
            return lifetime.apply(events, bounds, precedence);
        }
        if self.resources.len() >= self.bounds.resources {
            return vec![Applied::TooManyResources; events.len()];
        }
        self.resources.entry(id.to_owned()).or_default().apply(events, bounds, precedence)
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
    pub fn alive(&self, kind: &ResourceKind, at: Timestamp) -> impl Iterator<Item = &Segment> {
        self.resources
            .values()
            .filter_map(move |lifetime| lifetime.at(at))
            .filter(move |segment| segment.state.kind == *kind)
    }

    /// Number of resources known.
    pub fn len(&self) -> usize {
        self.resources.len()
    }

    /// Whether no resource is known.
    pub fn is_empty(&self) -> bool {
        self.resources.is_empty()
    }

    /// Forgets what was over before `horizon`: resources that ended, and states of others that
    /// were replaced, but for the first of a life that goes on. What is told of the time from
    /// `horizon` on stays the same, also after more events of that time; only a `changed` of a
    /// resource that ended and was forgotten starts it.
    pub fn forget_before(&mut self, horizon: Timestamp) {
        let precedence = &self.precedence;
        self.resources.retain(|_, lifetime| lifetime.forget_before(horizon, precedence));
        self.forgotten_before = self.forgotten_before.max(horizon);
    }

    /// The instant before which not everything is known any more.
    pub fn forgotten_before(&self) -> Timestamp {
        self.forgotten_before
    }
}
