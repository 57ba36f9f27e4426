//! Rounds of polling: what a listing shows, and what is no longer in it.

use std::collections::HashSet;

use nilometer_contract::{LifecycleEvent, Timestamp};

use super::{Change, Ledger, event};

/// Number of a poll. An entry made in the round of a listing, or later, may be missing from it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Round(u64);

/// What the runtime listed in one round.
#[derive(Debug)]
pub(crate) struct Listed {
    /// The round, begun before the runtime was asked.
    pub(crate) round: Round,
    /// When it was asked.
    pub(crate) at: Timestamp,
    /// Sandboxes listed.
    pub(crate) sandboxes: HashSet<String>,
    /// Those of them that are ready.
    pub(crate) ready: HashSet<String>,
    /// Those of them that were over before we ever heard of them.
    pub(crate) dead: HashSet<String>,
    /// Containers listed.
    pub(crate) containers: HashSet<String>,
}

impl Ledger {
    /// Begins a round; call it before asking the runtime for its lists.
    pub(crate) fn begin_round(&mut self) -> Round {
        self.round.0 += 1;
        self.round
    }

    /// Where this round's turn begins when each round takes `count` of a ring.
    pub(crate) fn turn(&self, count: usize) -> usize {
        usize::try_from(self.round.0).unwrap_or_default().wrapping_mul(count)
    }

    /// Ends what is gone from two listings in a row, and forgets what ended and is not listed.
    ///
    /// Call it after the containers' states were taken in. A sandbox that is not ready ends when
    /// it was last found ready or with the last of its containers, whichever is later; without
    /// either, when it was first found not ready.
    pub(crate) fn end_round(&mut self, listed: &Listed) -> Vec<LifecycleEvent> {
        let mut events = Vec::new();
        for (id, container) in &mut self.containers {
            let here = listed.containers.contains(id);
            let over = container.ended.is_some();
            let missing = !here && !over && container.presence.since < listed.round;
            let gone = container.presence.gone;
            container.presence.gone = missing.then_some(gone.unwrap_or(listed.at));
            if let (true, Some(at), Some(started)) = (missing, gone, container.started) {
                container.ended = Some(at.max(started));
                events.push(event(Change::Deleted, at.max(started), container.resource.clone()));
            } else if missing && gone.is_some() {
                container.ended = gone;
            }
        }
        events.extend(self.end_sandboxes(listed));
        self.containers.retain(|id, container| {
            listed.containers.contains(id)
                || container.ended.is_none()
                || container.presence.since >= listed.round
        });
        self.pods.retain(|id, pod| {
            listed.sandboxes.contains(id)
                || pod.ended.is_none()
                || pod.presence.since >= listed.round
        });
        events
    }

    fn end_sandboxes(&mut self, listed: &Listed) -> Vec<LifecycleEvent> {
        let mut due = Vec::new();
        for (id, pod) in &mut self.pods {
            let presence = &mut pod.presence;
            if listed.ready.contains(id) {
                presence.last_ready = Some(listed.at);
            }
            let over = pod.ended.is_some() || listed.ready.contains(id);
            let missing = !over && presence.since < listed.round;
            if missing && let Some(at) = presence.gone {
                due.push((id.clone(), presence.last_ready, at));
            } else if !over && listed.dead.contains(id) {
                // None of its containers ever ran: neither did it.
                due.push((id.clone(), None, pod.created));
            }
            presence.gone = missing.then_some(presence.gone.unwrap_or(listed.at));
        }
        let mut events = Vec::new();
        for (id, last_ready, at) in due {
            let at = last_ready.max(self.last_finish(&id)).unwrap_or(at);
            events.extend(self.pod_ended(&id, at));
        }
        events
    }
}
