//! All that the scheduler knows, folded from lifecycle events and samples.
//!
//! Folding has no clock and does no IO. The state is a function of the events as a set, of each
//! resource's samples in their order, and of the decisions put in the ledger: partitions and
//! topics may interleave in any way.
//!
//! Bounds: [`MAX_RESOURCES`] resources and [`MAX_SERIES`](crate::series::MAX_SERIES) series of
//! two tracks (464 bytes and their names) each; what lies beyond is counted and left out, so it
//! counts for nothing more than its requests.

use std::collections::{HashMap, HashSet};

use nilometer_contract::{
    Change, History, LifecycleEvent, Lifetime, MICROS_PER_SECOND, Resource, ResourceKind,
    SampleBatch, Timestamp,
};

use crate::ledger::{InFlight, Ledger};
use crate::policy::Policy;
use crate::request::Request;
use crate::score::Load;
use crate::series::{SeriesSet, is_followed};

/// Most resources of which lifecycle is followed.
pub const MAX_RESOURCES: usize = 200_000;
/// Most lifecycle events kept of one resource; later changes are left out, not its deletion.
const MAX_EVENTS_EACH: usize = 1_000;
/// Time after its end, or its last sample, for which a resource is remembered.
const REMEMBERED_MICROS: i64 = 7 * 86_400 * MICROS_PER_SECOND;
/// Clocks of runtimes and of the scheduler may differ by this much.
const SKEW_MICROS: i64 = 60 * MICROS_PER_SECOND;
/// A resource known from samples alone is taken as gone when none came for this long.
const SILENCE_MICROS: i64 = 3_600 * MICROS_PER_SECOND;

/// The folded state.
#[derive(Clone, Debug, Default)]
pub struct Estate {
    pub(crate) history: History,
    pub(crate) series: SeriesSet,
    ledger: Ledger,
    left_out: u64,
}

/// A node, VM or pod that is alive.
#[derive(Clone, Debug)]
pub(crate) struct Alive<'a> {
    pub(crate) id: &'a str,
    pub(crate) kind: &'a ResourceKind,
    /// `None` for one known from samples alone.
    pub(crate) state: Option<&'a Resource>,
    pub(crate) name: &'a str,
    pub(crate) project: &'a str,
    /// The machine it runs on; empty: unknown.
    pub(crate) host: &'a str,
    /// Since when it runs there.
    pub(crate) since: Timestamp,
    /// Where it ran before `since`.
    pub(crate) came_from: Option<&'a str>,
}

impl Estate {
    /// Folds a lifecycle event in. Repeats change nothing.
    pub fn apply(&mut self, event: LifecycleEvent) {
        if !is_followed(&event.resource.kind) {
            return;
        }
        let known = self.history.get(&event.resource.id).map(|lifetime| lifetime.events().len());
        let full = match known {
            None => self.history.len() >= MAX_RESOURCES,
            Some(count) => count >= MAX_EVENTS_EACH && event.change == Change::Changed,
        };
        if full {
            self.left_out += 1;
        } else {
            self.history.apply(event);
        }
    }

    /// Folds a batch of samples in. Repeats and stragglers change nothing.
    pub fn fold(&mut self, batch: &SampleBatch) {
        self.series.fold(batch);
    }

    /// Counts a decision against its node from now on (invariant 18).
    pub fn send(&mut self, request: &Request, node: &str, now: Timestamp, policy: &Policy) {
        let load = request.load(policy);
        let expires = now.plus_micros(i64::from(policy.in_flight_seconds) * MICROS_PER_SECOND);
        let node = node.to_owned();
        let request = request.clone();
        self.ledger.add(InFlight { request, node, load, decided: now, expires });
    }

    /// Takes back a decision about a workload that is decided anew; where it was sent, and as
    /// what, if it still counted.
    pub fn withdraw(&mut self, request: &Request, now: Timestamp) -> Option<(String, Load)> {
        let entry = self.ledger.withdraw(request).filter(|entry| now < entry.expires)?;
        Some((entry.node, entry.load))
    }

    /// Forgets what ended long ago and what no longer is in flight.
    pub fn forget(&mut self, now: Timestamp) {
        let horizon = now.plus_micros(-REMEMBERED_MICROS);
        self.history.forget_before(horizon);
        self.series.forget_before(horizon);
        let seen: HashSet<usize> = {
            let alive = self.alive(now);
            let covered = Covered::new(&alive);
            self.ledger.all().enumerate().filter(|(_, e)| covered.has(e)).map(|(n, _)| n).collect()
        };
        self.ledger.settle(now, |place| seen.contains(&place));
    }

    /// Whether a resource is known to have ended.
    pub fn is_gone(&self, id: &str) -> bool {
        let last = self.history.get(id).and_then(Lifetime::latest);
        last.is_some_and(|segment| segment.end.is_some())
    }

    /// Newest instant of any sample folded.
    pub fn newest_sample(&self) -> Option<Timestamp> {
        self.series.newest()
    }

    /// Number of resources known by their lifecycle, of series, and of decisions in flight.
    pub fn sizes(&self) -> (usize, usize, usize) {
        (self.history.len(), self.series.len(), self.ledger.len())
    }

    /// Events and samples left out at the bounds.
    pub fn left_out(&self) -> u64 {
        self.left_out + self.series.left_out()
    }

    /// Decisions in flight at `now` that `alive` does not show yet.
    pub(crate) fn in_flight<'a>(
        &'a self,
        alive: &[Alive<'a>],
        now: Timestamp,
    ) -> Vec<&'a InFlight> {
        if self.ledger.is_empty() {
            return Vec::new();
        }
        let covered = Covered::new(alive);
        self.ledger.alive(now).filter(|entry| !covered.has(entry)).collect()
    }

    /// Every node, VM and pod alive at `now`, sorted by id.
    pub(crate) fn alive(&self, now: Timestamp) -> Vec<Alive<'_>> {
        let by_life = self.history.iter().filter_map(|(id, lifetime)| self.living(id, lifetime));
        let silent = now.plus_micros(-SILENCE_MICROS);
        let by_samples = self.series.iter().filter_map(|(id, series)| {
            let unknown = self.history.get(id).is_none() && series.last_at >= silent;
            unknown.then_some(Alive {
                id,
                kind: &series.kind,
                state: None,
                name: id,
                project: &series.project,
                host: if series.node == id { "" } else { &series.node },
                since: series.first_at,
                came_from: None,
            })
        });
        let mut alive: Vec<Alive<'_>> = by_life.chain(by_samples).collect();
        alive.sort_unstable_by(|one, other| one.id.cmp(other.id));
        alive
    }

    fn living<'a>(&'a self, id: &'a str, lifetime: &'a Lifetime) -> Option<Alive<'a>> {
        let segments = lifetime.segments();
        let last = segments.last().filter(|segment| segment.end.is_none())?;
        let host = self.host(&last.state);
        let mut since = last.start;
        let mut came_from = None;
        for segment in segments.iter().rev().skip(1) {
            let before = self.host(&segment.state);
            if segment.end != Some(since) {
                break;
            }
            if before != host {
                came_from = Some(before);
                break;
            }
            since = segment.start;
        }
        let (kind, state) = (&last.state.kind, Some(&*last.state));
        let (name, project) = (last.state.name.as_str(), last.state.project.as_str());
        Some(Alive { id, kind, state, name, project, host, since, came_from })
    }

    /// The machine a resource runs on: its parent where that is a machine, else the node it names.
    fn host<'a>(&'a self, resource: &'a Resource) -> &'a str {
        let parent = resource.parent.as_deref().unwrap_or_default();
        let is_machine = |id: &str| {
            let by_life = self.history.get(id).and_then(Lifetime::latest);
            let kind = by_life.map(|segment| &segment.state.kind);
            let kind = kind.or_else(|| self.series.get(id).map(|series| &series.kind));
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

/// Finds the workload of a decision among those that are alive.
struct Covered<'a> {
    by_id: HashMap<&'a str, (&'a str, Timestamp)>,
    by_name: HashMap<(&'a str, &'a str), (&'a str, Timestamp)>,
}

impl<'a> Covered<'a> {
    fn new(alive: &[Alive<'a>]) -> Self {
        let placed = alive.iter().filter(|workload| !workload.host.is_empty());
        let placed: Vec<&Alive<'a>> =
            placed.filter(|workload| *workload.kind != ResourceKind::NODE).collect();
        let place = |workload: &Alive<'a>| (workload.host, workload.since);
        Covered {
            by_id: placed.iter().map(|workload| (workload.id, place(workload))).collect(),
            by_name: placed
                .iter()
                .map(|workload| ((workload.project, workload.name), place(workload)))
                .collect(),
        }
    }

    /// Whether the estate shows the workload where it was sent, or anywhere since it was sent.
    fn has(&self, entry: &InFlight) -> bool {
        let request = &entry.request;
        let by_name = || self.by_name.get(&(request.project.as_str(), request.name.as_str()));
        let found = self.by_id.get(request.id.as_str()).or_else(by_name);
        found.is_some_and(|&(host, since)| {
            host == entry.node || since.0 >= entry.decided.0 - SKEW_MICROS
        })
    }
}
