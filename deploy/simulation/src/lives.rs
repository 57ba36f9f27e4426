//! Lifetimes as they are told, against those that were.

use std::sync::Arc;

use anyhow::{Context, ensure};
use nilometer_contract::{History, Segment, Timestamp};

use crate::check::Found;
use crate::estate::Thing;
use crate::host::Host;
use crate::sites::Ground;

/// A host that meters, and what is known of its run.
pub(crate) struct Known {
    pub(crate) host: Arc<Host>,
    /// Its agent was killed, so it may have missed an end, or the instant of a change.
    pub(crate) killed: bool,
}

/// Every resource of which there is a reading has the life that it had, to the instant; the end of
/// one that nobody saw end is before the true one.
pub(crate) fn lives(
    history: &History,
    ground: &Ground,
    found: &Found,
    hosts: &[Known],
) -> anyhow::Result<()> {
    for thing in ground.estate.iter() {
        if found.unannounced.contains(&thing.id) {
            continue;
        }
        let first = found.stored.iter().find(|reading| reading.resource == thing.id);
        let Some(first_seen) = first.map(|reading| reading.seen) else { continue };
        let known = hosts.iter().find(|known| known.host.name == thing.node);
        let known = known.context("every thing has a host")?;
        if known.host.clock.was_stepped() {
            continue;
        }
        let shown = |at: i64| known.host.clock.shown_at(at);
        let lifetime =
            history.get(&thing.id).with_context(|| format!("{} is unknown", thing.id))?;
        let told: Vec<(Timestamp, Option<Timestamp>, String)> =
            lifetime.segments().iter().map(told).collect();
        let (Some(first), Some(last)) = (told.first(), told.last()) else {
            anyhow::bail!("{} has no life", thing.id);
        };
        let must = lived(thing, first_seen, shown);
        let right = match (known.killed, thing.died.map(shown)) {
            (false, _) => told == must,
            (true, None) => first.0 == must[0].0 && last.1.is_none() && last.2 == end_of(&must).2,
            (true, Some(died)) => {
                first.0 == must[0].0 && last.1.is_some_and(|end| first.0 < end && end <= died)
            }
        };
        ensure!(right, "{} must have lived {must:?}, is told as {told:?}", thing.id);
    }
    Ok(())
}

type State = (Timestamp, Option<Timestamp>, String);

fn end_of(states: &[State]) -> &State {
    &states[states.len() - 1]
}

fn told(segment: &Segment) -> State {
    let vcpus = segment.state.attributes.get("vcpus").map_or("", String::as_str);
    (segment.start, segment.end, format!("{vcpus} of {}", segment.state.project))
}

/// The states of a thing's life, from the one in force when it was first seen, which is told to
/// have been in force since birth.
fn lived(thing: &Thing, first_seen: i64, shown: impl Fn(i64) -> Timestamp) -> Vec<State> {
    let mut states: Vec<State> = Vec::new();
    let is_vm = thing.kind == nilometer_contract::ResourceKind::VM;
    for (n, state) in thing.states.iter().enumerate().skip(thing.state_at(first_seen)) {
        let next = thing.states.get(n + 1).map(|next| next.since);
        let vcpus = if is_vm { state.vcpus.to_string() } else { String::new() };
        let what = format!("{vcpus} of {}", state.project);
        let end = next.or(thing.died).map(&shown);
        match states.last_mut() {
            // A change that changes nothing.
            Some(last) if last.2 == what => last.1 = end,
            Some(_) => states.push((shown(state.since), end, what)),
            None => states.push((shown(thing.born), end, what)),
        }
    }
    states
}
