//! The state of all nodes and workloads, folded from lifecycle events and samples.
//!
//! Folding has no clock and does no IO. The state is a function of the events as a set, of each
//! resource's samples in their order, and of the reservations: partitions and topics may interleave
//! in any way.
//!
//! What lies beyond a [bound](Bounds) is counted and left out, so it counts for nothing more than
//! its requests.

use std::collections::HashMap;
use std::sync::Arc;

use nilometer_contract::{
    Change, History, HistoryBounds, LifecycleEvent, Lifetime, MICROS_PER_SECOND, Precedence,
    Resource, ResourceKind, SampleBatch, Timestamp,
};

use crate::policy::Policy;
use crate::request::Request;
use crate::reservations::{Reservation, Reservations};
use crate::score::Load;
use crate::usage::{UsageByResource, is_followed};

/// Time after its end, or its last sample, for which a resource is kept.
const KEPT_MICROS: i64 = 7 * 86_400 * MICROS_PER_SECOND;
/// Clocks of runtimes and of the scheduler may differ by this much.
const SKEW_MICROS: i64 = 60 * MICROS_PER_SECOND;
/// A resource known from samples alone counts as ended when none came for this long.
const SILENCE_MICROS: i64 = 3_600 * MICROS_PER_SECOND;

/// How much is kept. What lies beyond is left out and counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bounds {
    /// Resources of which lifecycle events are kept.
    pub resources: usize,
    /// Lifecycle events of one resource; later changes are left out, not its deletion.
    pub events_each: usize,
    /// Resources of which samples are kept: 464 bytes and their names each.
    pub sampled: usize,
    /// Reservations; one more drops the oldest.
    pub reservations: usize,
}

/// The folded state.
#[derive(Clone, Debug, Default)]
pub struct ClusterState {
    pub(crate) history: History,
    pub(crate) usage: UsageByResource,
    reservations: Reservations,
    bounds: Bounds,
    left_out: u64,
}

/// How much a state holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sizes {
    /// Resources of which lifecycle events are kept.
    pub resources: usize,
    /// Resources of which samples are kept.
    pub sampled: usize,
    /// Reservations, expired ones too until they are forgotten.
    pub reservations: usize,
}

/// A node, VM or pod that is live.
#[derive(Clone, Debug)]
pub(crate) struct LiveResource<'a> {
    pub(crate) id: &'a str,
    pub(crate) kind: &'a ResourceKind,
    /// `None` for one known from samples alone.
    pub(crate) state: Option<&'a Resource>,
    pub(crate) name: &'a str,
    pub(crate) project: &'a str,
    /// Id of the machine it runs on; empty: unknown.
    pub(crate) host: &'a str,
    /// Since when it runs there.
    pub(crate) since: Timestamp,
    /// Where it ran before `since`.
    pub(crate) previous_host: Option<&'a str>,
}

impl Default for Bounds {
    fn default() -> Self {
        Bounds { resources: 200_000, events_each: 1_000, sampled: 200_000, reservations: 10_000 }
    }
}

impl ClusterState {
    /// A state that is empty and will hold no more than this.
    pub fn with_bounds(bounds: Bounds) -> Self {
        ClusterState { bounds, ..ClusterState::default() }
    }

    /// The same with sources in an order of the operator's.
    pub fn with_precedence(bounds: Bounds, precedence: &Arc<Precedence>) -> Self {
        ClusterState {
            history: History::new(HistoryBounds::default(), precedence.clone()),
            usage: UsageByResource::new(precedence.clone()),
            ..ClusterState::with_bounds(bounds)
        }
    }

    /// Folds a lifecycle event in. Repeats change nothing.
    pub fn apply(&mut self, event: LifecycleEvent) {
        if !is_followed(&event.resource.kind) {
            return;
        }
        let known = self.history.get(&event.resource.id).map(Lifetime::event_count);
        let full = match known {
            None => self.history.len() >= self.bounds.resources,
            Some(count) => count >= self.bounds.events_each && event.change == Change::Changed,
        };
        if full {
            self.left_out += 1;
        } else {
            self.history.apply(event);
        }
    }

    /// Folds a batch of samples in. Repeats and stragglers change nothing.
    pub fn fold(&mut self, batch: &SampleBatch) {
        self.usage.fold(batch, self.bounds.sampled);
    }

    /// Counts a decision against its node from now on (invariant 18).
    pub fn reserve(&mut self, request: &Request, node: &str, now: Timestamp, policy: &Policy) {
        let load = request.load(policy);
        let expires = now.plus_micros(i64::from(policy.in_flight_seconds) * MICROS_PER_SECOND);
        let node = node.to_owned();
        let request = request.clone();
        let reservation = Reservation { request, node, load, decided: now, expires };
        self.reservations.insert(reservation, self.bounds.reservations);
    }

    /// Removes the reservation of a workload that is decided anew; its node and load, if it still
    /// counted.
    pub fn release(&mut self, request: &Request, now: Timestamp) -> Option<(String, Load)> {
        let entry = self.reservations.remove(request).filter(|entry| now < entry.expires)?;
        Some((entry.node, entry.load))
    }

    /// Forgets what ended long ago and what no longer is in flight.
    pub fn forget(&mut self, now: Timestamp) {
        let horizon = now.plus_micros(-KEPT_MICROS);
        self.history.forget_before(horizon);
        self.usage.forget_before(horizon);
        let mut reservations = std::mem::take(&mut self.reservations);
        let observed = ObservedWorkloads::new(&self.live(now));
        reservations.retain(now, |entry| !observed.contains(entry));
        self.reservations = reservations;
    }

    /// Whether a resource is known to have ended.
    pub fn is_gone(&self, id: &str) -> bool {
        let last = self.history.get(id).and_then(Lifetime::latest);
        last.is_some_and(|segment| segment.end.is_some())
    }

    /// Newest instant of any sample folded.
    pub fn newest_sample(&self) -> Option<Timestamp> {
        self.usage.newest()
    }

    /// How much it holds.
    pub fn sizes(&self) -> Sizes {
        Sizes {
            resources: self.history.len(),
            sampled: self.usage.len(),
            reservations: self.reservations.len(),
        }
    }

    /// Events and samples left out at the bounds.
    pub fn left_out(&self) -> u64 {
        self.left_out + self.usage.left_out()
    }

    /// Reservations that count at `now`: those that `live` does not show yet.
    pub(crate) fn in_flight<'a>(
        &'a self,
        live: &[LiveResource<'a>],
        now: Timestamp,
    ) -> Vec<&'a Reservation> {
        if self.reservations.is_empty() {
            return Vec::new();
        }
        let observed = ObservedWorkloads::new(live);
        self.reservations.active(now).filter(|entry| !observed.contains(entry)).collect()
    }

    /// Every node, VM and pod live at `now`, sorted by id.
    pub(crate) fn live(&self, now: Timestamp) -> Vec<LiveResource<'_>> {
        let by_events =
            self.history.iter().filter_map(|(id, lifetime)| self.live_by_events(id, lifetime));
        let silent = now.plus_micros(-SILENCE_MICROS);
        let by_samples = self.usage.iter().filter_map(|(id, usage)| {
            let unknown = self.history.get(id).is_none() && usage.last_at >= silent;
            unknown.then_some(LiveResource {
                id,
                kind: &usage.kind,
                state: None,
                name: id,
                project: &usage.project,
                host: if usage.node == id { "" } else { &usage.node },
                since: usage.first_at,
                previous_host: None,
            })
        });
        let mut live: Vec<LiveResource<'_>> = by_events.chain(by_samples).collect();
        live.sort_unstable_by(|one, other| one.id.cmp(other.id));
        live
    }

    fn live_by_events<'a>(
        &'a self,
        id: &'a str,
        lifetime: &'a Lifetime,
    ) -> Option<LiveResource<'a>> {
        let segments = lifetime.segments();
        let last = segments.last().filter(|segment| segment.end.is_none())?;
        let host = self.host(&last.state);
        let mut since = last.start;
        let mut previous_host = None;
        for segment in segments.iter().rev().skip(1) {
            let before = self.host(&segment.state);
            if segment.end != Some(since) {
                break;
            }
            if before != host {
                previous_host = Some(before);
                break;
            }
            since = segment.start;
        }
        let (kind, state) = (&last.state.kind, Some(&*last.state));
        let (name, project) = (last.state.name.as_str(), last.state.project.as_str());
        Some(LiveResource { id, kind, state, name, project, host, since, previous_host })
    }

    /// The machine a resource runs on: its parent where that is a machine, else the node it names.
    fn host<'a>(&'a self, resource: &'a Resource) -> &'a str {
        let parent = resource.parent.as_deref().unwrap_or_default();
        let is_machine = |id: &str| {
            let by_events = self.history.get(id).and_then(Lifetime::latest);
            let kind = by_events.map(|segment| &segment.state.kind);
            let kind = kind.or_else(|| self.usage.get(id).map(|usage| &usage.kind));
            kind.is_some_and(|kind| [ResourceKind::NODE, ResourceKind::VM].contains(kind))
        };
        let own = resource.id.as_str();
        if !parent.is_empty() && (resource.node.is_empty() || is_machine(parent)) {
            parent
        } else if resource.node == own {
            ""
        } else {
            &resource.node
        }
    }
}

/// Finds the workload of a reservation among those that are live.
struct ObservedWorkloads<'a> {
    by_id: HashMap<&'a str, (&'a str, Timestamp)>,
    by_name: HashMap<(&'a str, &'a str), (&'a str, Timestamp)>,
}

impl<'a> ObservedWorkloads<'a> {
    fn new(live: &[LiveResource<'a>]) -> Self {
        let located = live.iter().filter(|workload| !workload.host.is_empty());
        let located: Vec<&LiveResource<'a>> =
            located.filter(|workload| *workload.kind != ResourceKind::NODE).collect();
        let location = |workload: &LiveResource<'a>| (workload.host, workload.since);
        ObservedWorkloads {
            by_id: located.iter().map(|workload| (workload.id, location(workload))).collect(),
            by_name: located
                .iter()
                .map(|workload| ((workload.project, workload.name), location(workload)))
                .collect(),
        }
    }

    /// Whether the workload is observed on the node it was assigned to, or on any since then.
    fn contains(&self, entry: &Reservation) -> bool {
        let request = &entry.request;
        let by_name = || self.by_name.get(&(request.project.as_str(), request.name.as_str()));
        let found = self.by_id.get(request.id.as_str()).or_else(by_name);
        found.is_some_and(|&(host, since)| {
            host == entry.node || since.0 >= entry.decided.0 - SKEW_MICROS
        })
    }
}
