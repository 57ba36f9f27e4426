//! One poll: lists everything, asks about what is new or changed, reads the statistics.

use std::collections::HashSet;
use std::sync::Arc;

use nilometer_contract::{Causes, LifecycleEvent};
use tokio::task::JoinSet;
use tracing::warn;

use crate::api::{self, ContainerState, PodSandboxState};
use crate::client::CallError;
use crate::ledger::Listed;
use crate::lookup::{Found, Lookup};

/// Questions about single pods and containers that are under way at a time.
const CONCURRENCY: usize = 16;

/// Running containers asked again per poll, in turn: a resize that no event told is found so.
const ASKED_AGAIN: usize = 16;

/// A question about one pod or container.
enum Question {
    Container(String),
    PodCgroup(String),
}

/// Takes in all pods and containers; what is new about them.
pub(crate) async fn reconcile(lookup: &Arc<Lookup>) -> Result<Vec<LifecycleEvent>, CallError> {
    let round = lookup.ledger().begin_round();
    let at = lookup.clock.now();
    let sandboxes = lookup.client.sandboxes().await?;
    let containers = lookup.client.containers().await?;

    let is_ready = |pod: &&api::PodSandbox| pod.state == PodSandboxState::Ready as i32;
    let listed = Listed {
        round,
        at,
        sandboxes: sandboxes.iter().map(|pod| pod.id.clone()).collect(),
        ready: sandboxes.iter().filter(is_ready).map(|pod| pod.id.clone()).collect(),
        dead: dead(lookup, &sandboxes, &containers),
        containers: containers.iter().map(|container| container.id.clone()).collect(),
    };
    let mut events = Vec::new();
    let mut questions = Vec::new();
    for pod in sandboxes.iter().filter(is_ready) {
        let new = lookup.enter_pod(pod);
        if !new.is_empty() {
            questions.push(Question::PodCgroup(pod.id.clone()));
        }
        events.extend(new);
    }
    questions.extend(unclear(lookup, &containers));
    events.extend(ask(lookup, questions).await);
    events.extend(lookup.ledger().end_round(&listed));
    let left_out = lookup.ledger().take_left_out();
    if left_out > 0 {
        warn!(left_out, "more pods or containers than are metered");
    }
    Ok(events)
}

/// Sandboxes we never heard of that are not ready and whose containers have all exited.
fn dead(
    lookup: &Lookup,
    sandboxes: &[api::PodSandbox],
    containers: &[api::Container],
) -> HashSet<String> {
    let exited = |container: &api::Container| container.state == ContainerState::Exited as i32;
    let living: HashSet<&str> = containers
        .iter()
        .filter(|container| !exited(container))
        .map(|container| container.pod_sandbox_id.as_str())
        .collect();
    let ledger = lookup.ledger();
    let mut dead: HashSet<String> =
        containers.iter().map(|container| container.pod_sandbox_id.clone()).collect();
    dead.retain(|id| !living.contains(id.as_str()) && ledger.pod(id).is_none());
    let ready = sandboxes.iter().filter(|pod| pod.state == PodSandboxState::Ready as i32);
    ready.for_each(|pod| {
        dead.remove(&pod.id);
    });
    dead
}

/// Containers whose listed state says more than the ledger knows, new ones up to its bound.
fn unclear(lookup: &Lookup, containers: &[api::Container]) -> Vec<Question> {
    let mut ledger = lookup.ledger();
    let mut room = ledger.room_for_containers();
    let mut questions = Vec::new();
    let mut settled = Vec::new();
    for container in containers {
        let running = container.state == ContainerState::Running as i32;
        let exited = container.state == ContainerState::Exited as i32;
        let ask = match ledger.container(&container.id) {
            None if container.state == ContainerState::Created as i32 => false,
            None if room == 0 => {
                ledger.leave_out();
                false
            }
            None => {
                room -= 1;
                true
            }
            Some(known) if known.ended.is_some() => false,
            Some(known) if running && known.started.is_some() => {
                settled.push(container.id.clone());
                false
            }
            Some(_) => exited || running,
        };
        if ask {
            questions.push(Question::Container(container.id.clone()));
        }
    }
    settled.sort_unstable();
    let turn = ledger.turn(ASKED_AGAIN).checked_rem(settled.len()).unwrap_or_default();
    settled.rotate_left(turn);
    questions.extend(settled.into_iter().take(ASKED_AGAIN).map(Question::Container));
    questions
}

/// Asks with bounded concurrency; what fails is asked again at the next poll.
async fn ask(lookup: &Arc<Lookup>, questions: Vec<Question>) -> Vec<LifecycleEvent> {
    let mut events = Vec::new();
    let mut asked: JoinSet<Result<Found, CallError>> = JoinSet::new();
    for question in questions {
        if asked.len() >= CONCURRENCY {
            take(asked.join_next().await, &mut events);
        }
        let lookup = Arc::clone(lookup);
        asked.spawn(async move {
            match question {
                Question::Container(id) => lookup.find_container(&id).await,
                Question::PodCgroup(id) => {
                    lookup.find_pod_cgroup(&id).await.map(|()| Found::default())
                }
            }
        });
    }
    while let Some(answer) = asked.join_next().await {
        take(Some(answer), &mut events);
    }
    events
}

fn take(
    answer: Option<Result<Result<Found, CallError>, tokio::task::JoinError>>,
    events: &mut Vec<LifecycleEvent>,
) {
    match answer {
        Some(Ok(Ok(found))) => events.extend(found.events),
        // Removed between the list and the question; the stream or the next list tells its end.
        Some(Ok(Err(error))) if error.is_not_found() => {}
        Some(Ok(Err(error))) => {
            warn!(error = %Causes(&error), "asking about a pod or container failed")
        }
        Some(Err(error)) => {
            warn!(error = %Causes(&error), "asking about a pod or container was cut short")
        }
        None => {}
    }
}
