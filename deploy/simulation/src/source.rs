//! The source on a host: reads what is really there, by the host's clock, and notes what it read.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use async_trait::async_trait;
use nilometer_clock::{Clock, EpochClock};
use nilometer_contract::{Change, LifecycleEvent, Timestamp};
use nilometer_source::{Observation, Source, SourceError};

use crate::estate::Thing;
use crate::host::Host;

/// Name of the source on samples and events.
pub(crate) const SOURCE: &str = "simulated";

/// By how much readings of two epochs are apart within a millisecond.
const EPOCHS_APART_MICROS: i64 = 37;

/// One sample that a source gave.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Reading {
    pub(crate) host: String,
    /// Which run of the host's agent.
    pub(crate) life: u64,
    /// Which epoch of the host's clock.
    pub(crate) epoch: u64,
    pub(crate) resource: String,
    pub(crate) meter: &'static str,
    /// True time, microseconds.
    pub(crate) seen: i64,
    /// By the epoch of the host's clock.
    pub(crate) at: Timestamp,
    pub(crate) value: f64,
}

/// Everything that sources said, in order of true time.
#[derive(Default)]
pub(crate) struct Said {
    readings: Mutex<Vec<Reading>>,
    events: Mutex<Vec<LifecycleEvent>>,
}

impl Said {
    pub(crate) fn readings(&self) -> MutexGuard<'_, Vec<Reading>> {
        self.readings.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    pub(crate) fn events(&self) -> MutexGuard<'_, Vec<LifecycleEvent>> {
        self.events.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

/// Reads the things of one node.
pub(crate) struct EstateSource {
    host: Arc<Host>,
    /// Stamps samples.
    clock: Arc<EpochClock>,
    life: u64,
    things: Vec<Thing>,
    said: Arc<Said>,
    /// Place in the states of each thing that was announced.
    announced: BTreeMap<String, usize>,
}

impl EstateSource {
    pub(crate) fn new(
        host: &Arc<Host>,
        clock: &Arc<EpochClock>,
        life: u64,
        estate: &[Thing],
        said: &Arc<Said>,
    ) -> Self {
        let things = estate.iter().filter(|thing| thing.node == host.name).cloned().collect();
        let (host, clock, said) = (host.clone(), clock.clone(), said.clone());
        EstateSource { host, clock, life, things, said, announced: BTreeMap::new() }
    }

    fn changes(&mut self, now: i64) -> Vec<LifecycleEvent> {
        let mut events = Vec::new();
        let clock = self.host.clock.clone();
        for thing in &self.things {
            let mut say = |change, at: i64, state: usize| {
                let resource = thing.described(&thing.states[state]);
                let (at, source) = (clock.shown_at(at), SOURCE.to_owned());
                events.push(LifecycleEvent { change, at, resource, source });
            };
            let announced = self.announced.get(&thing.id).copied();
            let last = thing.state_at(thing.died.map_or(now, |died| now.min(died - 1)));
            match announced {
                None if thing.lives(now) => say(Change::Created, thing.born, last),
                None => continue,
                Some(known) => {
                    for state in known + 1..=last {
                        say(Change::Changed, thing.states[state].since, state);
                    }
                }
            }
            match thing.died.filter(|&died| died <= now) {
                Some(died) => {
                    say(Change::Deleted, died, last);
                    self.announced.remove(&thing.id);
                }
                None => drop(self.announced.insert(thing.id.clone(), last)),
            }
        }
        events
    }
}

#[async_trait]
impl Source for EstateSource {
    fn name(&self) -> &'static str {
        SOURCE
    }

    async fn observe(&mut self) -> Result<Observation, SourceError> {
        self.host.wait(4, Duration::ZERO).await;
        let world = self.host.world.clone();
        let mut seen = Observation::begin(SOURCE, self.clock.as_ref());
        // As nowhere, two clocks show the same microsecond by chance.
        let shift = seen.epoch.sequence as i64 * EPOCHS_APART_MICROS % 1_000;
        let (now, at) = (world.elapsed() + shift, self.clock.now().plus_micros(shift));
        seen.events = self.changes(now);
        self.said.events().extend(seen.events.iter().cloned());
        let mut readings = self.said.readings();
        for thing in self.things.iter().filter(|thing| thing.lives(now)) {
            let subject =
                seen.samples.subject(&thing.described(&thing.states[thing.state_at(now)]));
            let cpu = thing.cpu_nanos(now) as f64 / 1e9;
            let memory = thing.memory_bytes() as f64;
            for (meter, value) in [("cpu.time", cpu), ("memory.usage", memory)] {
                seen.samples.push_named(subject, meter, at, value);
                readings.push(Reading {
                    host: self.host.name.clone(),
                    life: self.life,
                    epoch: seen.epoch.sequence,
                    resource: thing.id.clone(),
                    meter,
                    seen: now,
                    at,
                    value,
                });
            }
        }
        world.note(format!("{} observes {}", self.host.name, seen.samples.len()));
        Ok(seen)
    }
}
