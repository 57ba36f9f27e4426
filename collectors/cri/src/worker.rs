//! Turns what the stream said into observations and pushes them to the agent.
//!
//! Events are worked off in order, one at a time. What the runtime does not know yet is asked
//! again for a moment: it enters a container into its books shortly after the event.

use std::sync::Arc;
use std::time::Duration;

use nilometer_contract::{Causes, LifecycleEvent, Timestamp};
use nilometer_source::{Observation, Outlet};
use tokio::sync::mpsc;
use tokio::time::sleep;
use tracing::{debug, warn};

use crate::SOURCE;
use crate::api::{self, ContainerEventResponse, ContainerEventType};
use crate::describe::{Info, container};
use crate::lookup::Lookup;
use crate::poll::reconcile;
use crate::stats::final_cpu;
use crate::stream::{Event, Exit};

/// Pauses between questions about something that the runtime should know any moment now.
const PAUSES_MS: [u64; 7] = [5, 10, 20, 40, 80, 160, 320];

/// Works off the queue until the stream or the agent is gone.
pub(crate) async fn run(lookup: Arc<Lookup>, mut queue: mpsc::Receiver<Event>, outlet: Outlet) {
    while let Some(event) = queue.recv().await {
        let observation = work(&lookup, event).await;
        if !observation.is_empty() && outlet.send(observation).await.is_err() {
            return;
        }
    }
}

async fn work(lookup: &Arc<Lookup>, event: Event) -> Observation {
    let mut observation = Observation::begin(SOURCE, lookup.clock.as_ref());
    match event {
        Event::Created { id } => observation.events = created(lookup, &id).await,
        Event::Started { id, at } => observation.events = started(lookup, &id, at).await,
        Event::Updated { id } => {
            let known = lookup.ledger().container(&id).is_some();
            if known && let Ok(found) = lookup.find_container(&id).await {
                observation.events = found.events;
            }
        }
        Event::Exited(exit) => exited(lookup, exit, &mut observation).await,
        Event::Cri(event) => observation.events = cri(lookup, *event).await,
        Event::Resumed => match reconcile(lookup).await {
            Ok(events) => observation.events = events,
            Err(error) => {
                warn!(error = %Causes(&error), "listing after a break failed; the next poll will")
            }
        },
    }
    observation
}

/// Looks up a container as soon as it is made, since it may be gone soon after.
async fn created(lookup: &Lookup, id: &str) -> Vec<LifecycleEvent> {
    if is_sandbox(lookup, id).await {
        return Vec::new();
    }
    for pause in PAUSES_MS {
        match lookup.find_container(id).await {
            Ok(found) => return found.events,
            Err(error) if error.is_not_found() => sleep(Duration::from_millis(pause)).await,
            Err(error) => {
                warn!(error = %Causes(&error), id, "asking about a new container failed");
                return Vec::new();
            }
        }
    }
    Vec::new()
}

/// The runtime's own instant of the start, or that of the event when it is not told in time.
async fn started(lookup: &Lookup, id: &str, at: Timestamp) -> Vec<LifecycleEvent> {
    let mut events = Vec::new();
    let sandbox = is_sandbox(lookup, id).await;
    for pause in PAUSES_MS {
        let answer = if sandbox {
            lookup.find_pod(id).await.map(|found| (found, true))
        } else {
            lookup.find_container(id).await.map(|found| (found.events, found.started))
        };
        match answer {
            Ok((found, complete)) => {
                events.extend(found);
                if complete {
                    return events;
                }
            }
            Err(error) if error.is_not_found() => {}
            Err(error) => {
                warn!(error = %Causes(&error), id, "asking about a started container failed")
            }
        }
        sleep(Duration::from_millis(pause)).await;
    }
    events.extend(lookup.ledger().container_started(id, at));
    events
}

async fn exited(lookup: &Lookup, exit: Exit, observation: &mut Observation) {
    let id = exit.id.as_str();
    let is_pod = lookup.ledger().pod(id).is_some();
    if is_pod {
        let mut ledger = lookup.ledger();
        observation.events = ledger.pod_ended(id, exit.at);
        if let (Some(pod), Some(nanos)) = (ledger.pod_mut(id), exit.pod_cpu_nanos) {
            let mut decided = pod.origin;
            if pod.attempt > 0 {
                decided = crate::ledger::Origin::Settled;
            }
            let life = (pod.created, exit.at);
            final_cpu(&pod.resource, &mut decided, life, nanos, &mut observation.samples);
            pod.origin = decided;
        }
        return;
    }
    let started = lookup.ledger().container(id).is_some_and(|known| known.started.is_some());
    if !started {
        // The stream was resumed in the middle of its life, or the start is still unsaid.
        match lookup.find_container(id).await {
            Ok(found) => observation.events = found.events,
            Err(error) => debug!(error = %Causes(&error), id, "an exited container is not known"),
        }
    }
    let mut ledger = lookup.ledger();
    observation.events.extend(ledger.container_exited(id, exit.at, exit.code));
    let Some(known) = ledger.container_mut(id) else { return };
    if let (Some(started), Some(nanos)) = (known.started, exit.cpu_nanos) {
        let life = (started, exit.at);
        final_cpu(&known.resource, &mut known.origin, life, nanos, &mut observation.samples);
    }
}

/// CRI's event: states come with it, except of what was deleted.
async fn cri(lookup: &Lookup, event: ContainerEventResponse) -> Vec<LifecycleEvent> {
    let id = event.container_id.as_str();
    let mut events = Vec::new();
    let kind = event.container_event_type;
    if let Some(status) = &event.pod_sandbox_status {
        let ready = status.state == api::PodSandboxState::Ready as i32;
        if ready {
            events.extend(lookup.enter_pod(&api::PodSandbox::from(status)));
        } else if status.id == id && kind == ContainerEventType::Stopped as i32 {
            let at = Timestamp::from_nanos(event.created_at);
            events.extend(lookup.ledger().pod_ended(id, at));
        }
    }
    let status = event.containers_statuses.iter().find(|status| status.id == id);
    // Asking gives more than the event brings, such as sizes; the event serves when it is gone.
    let (Some(status), true) = (status, kind != ContainerEventType::Deleted as i32) else {
        return events;
    };
    match lookup.find_container(id).await {
        Ok(found) => events.extend(found.events),
        Err(_) => {
            let sandbox = event.pod_sandbox_status.as_ref().map(|pod| pod.id.clone());
            let info = Info::of_sandbox(sandbox.unwrap_or_default());
            let mut ledger = lookup.ledger();
            let pod = ledger.pod(&info.sandbox).map(|pod| pod.resource.clone());
            let facts = container(&lookup.config.node, status, &info, pod.as_ref());
            events.extend(ledger.container_seen(facts, lookup.clock.now()));
        }
    }
    events
}

/// containerd labels what it runs for CRI; without the label it is taken for a container.
async fn is_sandbox(lookup: &Lookup, id: &str) -> bool {
    let known = lookup.client.containerd_container(id).await.ok().flatten();
    let kind = known.and_then(|known| known.labels.get("io.cri-containerd.kind").cloned());
    kind.is_some_and(|kind| kind == "sandbox")
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use nilometer_clock::SystemClock;

    use super::*;
    use crate::CriConfig;
    use crate::client::Client;

    const SECOND: i64 = 1_000_000_000;
    const START: i64 = 1_800_000_000 * SECOND;

    fn event(
        id: &str,
        kind: ContainerEventType,
        seconds: i64,
        sandbox: api::PodSandboxState,
        container: (i64, i64),
    ) -> Event {
        let pod = api::PodSandboxStatus {
            id: "s".to_owned(),
            state: sandbox as i32,
            created_at: START,
            ..api::PodSandboxStatus::default()
        };
        let status = api::ContainerStatus {
            id: "c".to_owned(),
            started_at: container.0,
            finished_at: container.1,
            ..api::ContainerStatus::default()
        };
        Event::Cri(Box::new(ContainerEventResponse {
            container_id: id.to_owned(),
            container_event_type: kind as i32,
            created_at: START + seconds * SECOND,
            pod_sandbox_status: Some(pod),
            containers_statuses: vec![status],
        }))
    }

    /// The runtime no longer answers for any of these: what the events bring must do.
    #[tokio::test]
    async fn cri_events_alone_tell_a_whole_life() {
        use ContainerEventType::{Created, Deleted, Started, Stopped};
        use api::PodSandboxState::{NotReady, Ready};
        let client = Client::new(Path::new("/nonexistent")).unwrap();
        let lookup = Lookup::new(client, CriConfig::default(), Arc::new(SystemClock));
        let (started, finished) = (START + 2 * SECOND, START + 5 * SECOND);
        let mut said = Vec::new();
        for event in [
            event("s", Started, 0, Ready, (0, 0)),
            event("c", Created, 1, Ready, (0, 0)),
            event("c", Started, 2, Ready, (started, 0)),
            event("c", Stopped, 5, Ready, (started, finished)),
            event("c", Deleted, 6, Ready, (started, finished)),
            event("s", Stopped, 7, NotReady, (started, finished)),
            event("s", Deleted, 8, NotReady, (started, finished)),
        ] {
            for event in work(&lookup, event).await.events {
                let seconds = (event.at.0 * 1_000 - START) / SECOND;
                said.push(format!("{} {} {seconds}", event.change.as_str(), event.resource.id));
            }
        }
        assert_eq!(said, ["created s 0", "created c 2", "deleted c 5", "deleted s 7"]);
    }
}
