//! What has been said of each pod and container, so that every fact is said once. Pure.
//!
//! ```text
//! container   known ── started_at ──► Created ── resized ──► Changed ── finished_at ──► Deleted
//! pod         Created(created_at) ────────────────────────────────────► Deleted
//! ```
//!
//! An entry leaves the ledger when it ended and the runtime no longer lists it. On repeat nothing
//! is said; after a restart of ours everything still listed is said again, with the same ids.

use std::collections::{BTreeMap, HashMap};

use nilometer_contract::{Change, LifecycleEvent, Resource, Timestamp};

use crate::SOURCE;
use crate::cgroup::Cgroup;
use crate::describe::{ContainerFacts, PodFacts, ended, interface, same_sizes};

mod rounds;

pub(crate) use rounds::{Listed, Round};

/// Most interfaces of one pod that are metered.
pub(crate) const MAX_INTERFACES: usize = 64;

/// One sandbox.
#[derive(Clone, Debug)]
pub(crate) struct Pod {
    pub(crate) resource: Resource,
    pub(crate) created: Timestamp,
    pub(crate) attempt: u32,
    pub(crate) ended: Option<Timestamp>,
    /// The pod's own cgroup; `None` when it has none or it is not known.
    pub(crate) cgroup: Option<Cgroup>,
    pub(crate) origin: Origin,
    interfaces: BTreeMap<String, Resource>,
    presence: Presence,
}

/// One container.
#[derive(Clone, Debug)]
pub(crate) struct Container {
    pub(crate) resource: Resource,
    pub(crate) sandbox: String,
    pub(crate) started: Option<Timestamp>,
    pub(crate) ended: Option<Timestamp>,
    pub(crate) cgroup: Option<Cgroup>,
    pub(crate) origin: Origin,
    presence: Presence,
}

/// Whether the zero at the start of the CPU counter was decided on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Origin {
    /// No CPU sample was taken yet.
    #[default]
    Open,
    /// It was written, or the counter is too old for it.
    Settled,
}

/// What the polls found of an entry.
#[derive(Clone, Copy, Debug)]
struct Presence {
    /// The round in which the entry was made: its listing may be older than the entry.
    since: Round,
    /// The poll that first found it gone; believed at the next, so that the stream can say it
    /// better in between.
    gone: Option<Timestamp>,
    /// The last poll that found a sandbox ready.
    last_ready: Option<Timestamp>,
}

/// All pods and containers known.
#[derive(Debug)]
pub(crate) struct Ledger {
    pods: HashMap<String, Pod>,
    containers: HashMap<String, Container>,
    round: Round,
    max_pods: usize,
    max_containers: usize,
    /// How many pods and containers were left out at the bounds since this was last taken.
    left_out: usize,
}

impl Ledger {
    /// Knows nothing yet.
    pub(crate) fn new(max_pods: usize, max_containers: usize) -> Self {
        Ledger {
            pods: HashMap::new(),
            containers: HashMap::new(),
            round: Round::default(),
            max_pods,
            max_containers,
            left_out: 0,
        }
    }

    /// The sandbox, if known.
    pub(crate) fn pod(&self, sandbox: &str) -> Option<&Pod> {
        self.pods.get(sandbox)
    }

    /// The sandbox, if known.
    pub(crate) fn pod_mut(&mut self, sandbox: &str) -> Option<&mut Pod> {
        self.pods.get_mut(sandbox)
    }

    /// The container, if known.
    pub(crate) fn container(&self, id: &str) -> Option<&Container> {
        self.containers.get(id)
    }

    /// The container, if known.
    pub(crate) fn container_mut(&mut self, id: &str) -> Option<&mut Container> {
        self.containers.get_mut(id)
    }

    /// Sandboxes that have not ended, in order of id.
    pub(crate) fn living_sandboxes(&self) -> Vec<String> {
        let living = self.pods.iter().filter(|(_, pod)| pod.ended.is_none());
        let mut ids: Vec<String> = living.map(|(id, _)| id.clone()).collect();
        ids.sort_unstable();
        ids
    }

    /// How many more containers can be known.
    pub(crate) fn room_for_containers(&self) -> usize {
        self.max_containers.saturating_sub(self.containers.len())
    }

    /// Counts something that a bound left out.
    pub(crate) fn leave_out(&mut self) {
        self.left_out += 1;
    }

    /// How many pods and containers the bounds left out since the last call.
    pub(crate) fn take_left_out(&mut self) -> usize {
        std::mem::take(&mut self.left_out)
    }

    /// A sandbox was seen.
    pub(crate) fn pod_seen(&mut self, facts: PodFacts) -> Vec<LifecycleEvent> {
        if self.pods.contains_key(&facts.sandbox) {
            return Vec::new();
        }
        if self.pods.len() >= self.max_pods {
            self.left_out += 1;
            return Vec::new();
        }
        let pod = Pod {
            resource: facts.resource.clone(),
            created: facts.created,
            attempt: facts.attempt,
            ended: None,
            cgroup: None,
            origin: Origin::Open,
            interfaces: BTreeMap::new(),
            presence: Presence { since: self.round, gone: None, last_ready: None },
        };
        self.pods.insert(facts.sandbox, pod);
        vec![event(Change::Created, facts.created, facts.resource)]
    }

    /// A sandbox ended. When a later sandbox of the same pod was there by then, the pod goes on.
    pub(crate) fn pod_ended(&mut self, sandbox: &str, at: Timestamp) -> Vec<LifecycleEvent> {
        let Some(pod) = self.pods.get_mut(sandbox).filter(|pod| pod.ended.is_none()) else {
            return Vec::new();
        };
        let at = at.max(pod.created);
        pod.ended = Some(at);
        let (id, created) = (pod.resource.id.clone(), pod.created);
        let mut gone: Vec<Resource> = pod.interfaces.values().cloned().collect();
        gone.push(pod.resource.clone());
        let goes_on = self
            .pods
            .values()
            .any(|other| other.resource.id == id && other.created > created && other.created <= at);
        if goes_on {
            return Vec::new();
        }
        gone.into_iter().map(|resource| event(Change::Deleted, at, resource)).collect()
    }

    /// An interface of a living pod was seen; its resource, and what is new about it.
    pub(crate) fn interface_seen(
        &mut self,
        sandbox: &str,
        name: &str,
    ) -> Option<(Resource, Option<LifecycleEvent>)> {
        let pod = self.pods.get_mut(sandbox).filter(|pod| pod.ended.is_none())?;
        if let Some(known) = pod.interfaces.get(name) {
            return Some((known.clone(), None));
        }
        if pod.interfaces.len() >= MAX_INTERFACES {
            self.left_out += 1;
            return None;
        }
        let resource = interface(&pod.resource, name);
        pod.interfaces.insert(name.to_owned(), resource.clone());
        let created = event(Change::Created, pod.created, resource.clone());
        Some((resource, Some(created)))
    }

    /// A container was seen in some state; `resized_at` is when it was last resized, if it was.
    pub(crate) fn container_seen(
        &mut self,
        facts: ContainerFacts,
        resized_at: Timestamp,
    ) -> Vec<LifecycleEvent> {
        let id = facts.resource.id.clone();
        if !self.containers.contains_key(&id) && self.containers.len() >= self.max_containers {
            self.left_out += 1;
            return Vec::new();
        }
        let presence = Presence { since: self.round, gone: None, last_ready: None };
        let entry = self.containers.entry(id).or_insert_with(|| Container {
            resource: facts.resource.clone(),
            sandbox: facts.sandbox.clone(),
            started: None,
            ended: None,
            cgroup: None,
            origin: Origin::Open,
            presence,
        });
        if entry.ended.is_some() {
            return Vec::new();
        }
        let mut events = Vec::new();
        if let (None, Some(started)) = (entry.started, facts.started) {
            entry.started = Some(started);
            entry.resource = facts.resource;
            events.push(event(Change::Created, started, entry.resource.clone()));
        }
        let Some(started) = entry.started else {
            // Finished without ever having started: nothing ran, nothing is said.
            entry.ended = facts.finished;
            return events;
        };
        if !same_sizes(&facts.current, &entry.resource) {
            entry.resource = facts.current;
            events.push(event(Change::Changed, resized_at.max(started), entry.resource.clone()));
        }
        if let Some(finished) = facts.finished {
            events.extend(entry.end(finished, facts.exit_code.into()));
        }
        events
    }

    /// A container started, by the stream's clock; for when the runtime no longer says when.
    pub(crate) fn container_started(&mut self, id: &str, at: Timestamp) -> Vec<LifecycleEvent> {
        match self.containers.get_mut(id) {
            Some(entry) if entry.started.is_none() && entry.ended.is_none() => {
                entry.started = Some(at);
                vec![event(Change::Created, at, entry.resource.clone())]
            }
            _ => Vec::new(),
        }
    }

    /// A container exited.
    pub(crate) fn container_exited(
        &mut self,
        id: &str,
        at: Timestamp,
        exit_code: i64,
    ) -> Vec<LifecycleEvent> {
        let entry = self.containers.get_mut(id);
        entry.and_then(|entry| entry.end(at, exit_code)).into_iter().collect()
    }

    /// When the last of a sandbox's containers finished.
    pub(crate) fn last_finish(&self, sandbox: &str) -> Option<Timestamp> {
        let of_pod = self.containers.values().filter(|container| container.sandbox == sandbox);
        of_pod.filter(|container| container.started.is_some()).filter_map(|c| c.ended).max()
    }
}

impl Container {
    fn end(&mut self, at: Timestamp, exit_code: i64) -> Option<LifecycleEvent> {
        let started = self.started.filter(|_| self.ended.is_none())?;
        let at = at.max(started);
        self.ended = Some(at);
        Some(event(Change::Deleted, at, ended(&self.resource, exit_code)))
    }
}

fn event(change: Change, at: Timestamp, resource: Resource) -> LifecycleEvent {
    LifecycleEvent { change, at, resource, source: SOURCE.to_owned() }
}

#[cfg(test)]
mod tests;
