//! The fleet as a source: the same steps, by a clock.

use async_trait::async_trait;
use nilometer_clock::SharedClock;
use nilometer_contract::{LifecycleEvent, Timestamp};
use nilometer_source::{Discovery, Observation, Outlet, Source, SourceError};

use crate::config::{ConfigError, FleetConfig};
use crate::fleet::{Fleet, Steps};
use crate::recall::recall;

/// Name of the source on samples and events.
pub const SOURCE: &str = "simulated";

/// Observes a [`Fleet`] at the steps that the clock has reached, each once and in order.
///
/// The only state is which step comes next. After a crash, [`resume`](Self::resume) with any step
/// not after the first unsaved one: steps observed again carry the same values.
pub struct SimulatedSource {
    fleet: Fleet,
    clock: SharedClock,
    /// Instant of the clock at which simulated time is the fleet's start.
    epoch: Timestamp,
    outlet: Option<Outlet>,
    told: Told,
}

/// How far lifecycles have been told ahead of the steps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Told {
    /// Not at all: each step tells its own.
    WithSteps,
    /// The source has resumed and said nothing yet.
    NotYet,
    /// Up to this instant inclusive.
    Until(Timestamp),
}

impl SimulatedSource {
    /// A fleet from its first step. Simulated time equals the clock's at the fleet's start, and
    /// runs `factor` times as fast from there.
    pub fn new(config: &FleetConfig, clock: SharedClock) -> Result<Self, ConfigError> {
        let fleet = Fleet::new(config)?;
        Ok(SimulatedSource {
            fleet,
            clock,
            epoch: config.start,
            outlet: None,
            told: Told::WithSteps,
        })
    }

    /// As [`new`](Self::new), with step `next` as the first to be observed, for listeners who may
    /// have heard of any step that is due. The first observation tells all lifecycles up to the
    /// last of those, the steps up to there tell none.
    pub fn resume(
        config: &FleetConfig,
        clock: SharedClock,
        next: u64,
    ) -> Result<Self, ConfigError> {
        let mut source = Self::new(config, clock)?;
        if let Some(last) = next.checked_sub(1) {
            source.fleet.skip_to(config.step_at(last));
        }
        source.told = Told::NotYet;
        Ok(source)
    }

    /// Lets simulated time begin when the clock shows `epoch`, for a fleet that runs faster than
    /// the clock or whose start lies elsewhere.
    #[must_use]
    pub fn with_epoch(mut self, epoch: Timestamp) -> Self {
        self.epoch = epoch;
        self
    }

    /// Where to push steps when several are due at one observation. The receiver must not wait
    /// for that observation.
    #[must_use]
    pub fn with_outlet(mut self, outlet: Outlet) -> Self {
        self.outlet = Some(outlet);
        self
    }

    /// The fleet as it is.
    pub fn fleet(&self) -> &Fleet {
        &self.fleet
    }

    /// Number of the step, on the configuration's grid, that comes next.
    pub fn next_step(&self) -> u64 {
        let config = self.fleet.config();
        self.fleet.position().map_or(0, |at| config.steps_until(at))
    }

    /// Simulated time now.
    pub fn now(&self) -> Timestamp {
        let config = self.fleet.config();
        let since = self.clock.now().0.saturating_sub(self.epoch.0);
        config.start.plus_micros(since.saturating_mul(config.factor.into()))
    }

    /// Steps that are due and have not been observed.
    pub fn behind(&self) -> u64 {
        self.fleet.config().steps_until(self.now()).saturating_sub(self.next_step())
    }

    /// The steps from the last one up to `end` inclusive, `step_micros` apart, without regard to
    /// the clock; one by one, so that the caller can show how far it is. Observing goes on from
    /// there, on the configuration's own grid.
    pub fn backfill(&mut self, end: Timestamp, step_micros: i64) -> Steps<'_> {
        self.fleet.steps(end, step_micros)
    }

    fn step(&mut self) -> Observation {
        let next = self.fleet.config().step_at(self.next_step());
        let mut observation = self.fleet.step(next);
        if let Told::Until(told) = self.told {
            observation.events.retain(|event| event.at > told);
        }
        observation
    }

    /// Lifecycles to tell before the next step.
    fn recall(&mut self) -> Vec<LifecycleEvent> {
        if self.told != Told::NotYet {
            return Vec::new();
        }
        let config = self.fleet.config();
        let position = self.fleet.position();
        let due = config.steps_until(self.now()).checked_sub(1).map(|last| config.step_at(last));
        let Some(upto) = due.max(position) else { return Vec::new() };
        let events = recall(config, position, upto);
        self.told = Told::Until(upto);
        events
    }
}

#[async_trait]
impl Source for SimulatedSource {
    fn name(&self) -> &'static str {
        SOURCE
    }

    /// One step when one is due, nothing when none is. When more are due they go through the
    /// outlet, save the last; without an outlet the oldest is returned and the others wait for
    /// the next calls. The bound is time itself: a step is never skipped.
    async fn observe(&mut self) -> Result<Observation, SourceError> {
        let mut observation = Observation::new(SOURCE);
        observation.events = self.recall();
        if self.behind() == 0 {
            return Ok(observation);
        }
        if !observation.events.is_empty() {
            // What follows rests on it, so it goes with the first step.
            let step = self.step();
            observation.samples = step.samples;
            observation.events.extend(step.events);
            return Ok(observation);
        }
        if let Some(outlet) = self.outlet.clone() {
            while self.behind() > 1 {
                // A permit first: a step that nobody takes would be lost.
                let permit = outlet.reserve().await;
                let permit = permit.map_err(|cause| {
                    SourceError::new("nobody takes the simulated fleet's observations", cause)
                })?;
                permit.send(self.step());
            }
        }
        Ok(self.step())
    }
}

/// The fleet as found: there when it was asked for.
pub fn discover(config: Option<&FleetConfig>, clock: SharedClock) -> Discovery {
    let Some(config) = config else {
        return Discovery::Absent { reason: "no fleet was asked for".to_owned() };
    };
    match SimulatedSource::new(config, clock) {
        Ok(source) => Discovery::Found { what: describe(config), source: Box::new(source) },
        Err(error) => Discovery::Absent { reason: error.to_string() },
    }
}

fn describe(config: &FleetConfig) -> String {
    let FleetConfig { seed, nodes, vms_and_pods, projects, .. } = config;
    format!("{nodes} nodes, {vms_and_pods} VMs and pods, {projects} projects, seed {seed}")
}
