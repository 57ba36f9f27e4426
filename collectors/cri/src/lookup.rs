//! Asks the runtime about one pod or container and enters the answer into the ledger.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use nilometer_clock::SharedClock;
use nilometer_contract::{LifecycleEvent, Timestamp};

use crate::api;
use crate::cgroup::Cgroup;
use crate::client::{CallError, Client};
use crate::config::CriConfig;
use crate::describe::{Info, container, pod, same_sizes};
use crate::ledger::Ledger;

/// What the poll and the stream share. The lock is never held across a call.
pub(crate) struct Lookup {
    pub(crate) client: Client,
    pub(crate) config: CriConfig,
    pub(crate) clock: SharedClock,
    ledger: Mutex<Ledger>,
}

impl Lookup {
    /// Shares a client and an empty ledger.
    pub(crate) fn new(client: Client, config: CriConfig, clock: SharedClock) -> Arc<Self> {
        let ledger = Mutex::new(Ledger::new(config.max_pods, config.max_containers));
        Arc::new(Lookup { client, config, clock, ledger })
    }

    /// The ledger; no method of it panics half-way, so a poisoned lock is still consistent.
    pub(crate) fn ledger(&self) -> MutexGuard<'_, Ledger> {
        self.ledger.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Enters a sandbox that was listed or asked about.
    pub(crate) fn enter_pod(&self, sandbox: &api::PodSandbox) -> Vec<LifecycleEvent> {
        self.ledger().pod_seen(pod(&self.config.node, sandbox))
    }

    /// Enters a sandbox by its id and finds its cgroup. An ended one is entered too: a container
    /// of it needs its parent.
    pub(crate) async fn find_pod(&self, id: &str) -> Result<Vec<LifecycleEvent>, CallError> {
        let answer = self.client.sandbox(id).await?;
        let Some(status) = answer.status else { return Ok(Vec::new()) };
        let events = self.enter_pod(&api::PodSandbox::from(&status));
        self.attach_pod(id, &Info::read(&answer.info));
        Ok(events)
    }

    /// Finds the own cgroup of a pod by the process of its sandbox.
    fn attach_pod(&self, id: &str, info: &Info) {
        let cgroup = self.cgroup(info.pid, id);
        if let Some(pod) = self.ledger().pod_mut(id) {
            pod.cgroup = cgroup.and_then(|cgroup| cgroup.of_pod(&pod.resource.id));
        }
    }

    /// Finds the own cgroup of a listed pod, so that its CPU time can be told from its start.
    pub(crate) async fn find_pod_cgroup(&self, id: &str) -> Result<(), CallError> {
        let answer = self.client.sandbox(id).await?;
        self.attach_pod(id, &Info::read(&answer.info));
        Ok(())
    }

    /// Asks about a container and enters what was said, its pod first.
    pub(crate) async fn find_container(&self, id: &str) -> Result<Found, CallError> {
        let answer = self.client.container(id).await?;
        let Some(status) = answer.status else { return Ok(Found::default()) };
        let info = Info::read(&answer.info);
        let mut events = Vec::new();
        if !info.sandbox.is_empty() && self.ledger().pod(&info.sandbox).is_none() {
            match self.find_pod(&info.sandbox).await {
                Ok(found) => events = found,
                Err(error) if error.is_not_found() => {}
                Err(error) => return Err(error),
            }
        }
        events.extend(self.enter_container(&status, &info).await);
        Ok(Found { events, started: status.started_at > 0 })
    }

    async fn enter_container(
        &self,
        status: &api::ContainerStatus,
        info: &Info,
    ) -> Vec<LifecycleEvent> {
        let (facts, resized) = {
            let ledger = self.ledger();
            let pod = ledger.pod(&info.sandbox).map(|pod| &pod.resource);
            let facts = container(&self.config.node, status, info, pod);
            let known = ledger.container(&status.id).map(|known| &known.resource);
            let resized = !same_sizes(&facts.current, known.unwrap_or(&facts.resource));
            (facts, resized)
        };
        let resized_at = match resized {
            true => self.resized_at(&status.id).await,
            false => self.clock.now(),
        };
        let cgroup = self.cgroup(facts.pid, &status.id);
        let mut ledger = self.ledger();
        let events = ledger.container_seen(facts, resized_at);
        if let (Some(entry), Some(cgroup)) = (ledger.container_mut(&status.id), cgroup) {
            entry.cgroup = Some(cgroup);
        }
        events
    }

    /// When a container was last changed: containerd knows; elsewhere it is when we saw it.
    async fn resized_at(&self, id: &str) -> Timestamp {
        let known = self.client.containerd_container(id).await.ok().flatten();
        let updated = known.and_then(|container| container.updated_at);
        updated.and_then(|at| instant(&at)).unwrap_or_else(|| self.clock.now())
    }

    /// The cgroup of a process, if it is the one of container or sandbox `id`.
    pub(crate) fn cgroup(&self, pid: u32, id: &str) -> Option<Cgroup> {
        let config = &self.config;
        (pid > 0).then(|| Cgroup::of(&config.proc, &config.cgroups, pid, id)).flatten()
    }
}

/// What asking about a container gave.
#[derive(Debug, Default)]
pub(crate) struct Found {
    /// What was new.
    pub(crate) events: Vec<LifecycleEvent>,
    /// Whether the runtime says when it started.
    pub(crate) started: bool,
}

/// An instant of Protocol Buffers, truncated to the microsecond.
pub(crate) fn instant(at: &prost_types::Timestamp) -> Option<Timestamp> {
    let nanos = at.seconds.checked_mul(1_000_000_000)?.checked_add(at.nanos.into())?;
    Some(Timestamp::from_nanos(nanos)).filter(|at| at.is_plausible())
}
