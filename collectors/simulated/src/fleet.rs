//! The fleet as its callers see it: step by step, forward in time.

use nilometer_contract::{Change, LifecycleEvent, MICROS_PER_SECOND, Resource, Subject, Timestamp};
use nilometer_source::Observation;

use crate::churn::Living;
use crate::config::{ConfigError, FleetConfig};
use crate::estate::Estate;
use crate::reading::{Blind, Reading, Witness};
use crate::source::SOURCE;

/// A simulated estate at an instant.
///
/// ```text
///        position          at
/// ── step ───┼──── events ───┼── step: samples of all that is alive
///            (position, at]
/// ```
///
/// The events between two instants, and the samples at one, do not depend on where the steps
/// before lay, with one exception: of a resource that died between two steps there is a last
/// reading only if there was a first. Nodes are also read when a VM moves from or to them.
#[derive(Debug)]
pub struct Fleet {
    living: Living,
}

/// How many of each there are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Population {
    /// Hypervisors and bare Kubernetes nodes.
    pub nodes: usize,
    /// VMs that last.
    pub vms: usize,
    /// Pods that last.
    pub pods: usize,
}

/// The steps of a fleet up to an instant; see [`Fleet::steps`].
#[derive(Debug)]
pub struct Steps<'a> {
    fleet: &'a mut Fleet,
    next: Timestamp,
    end: Timestamp,
    step_micros: i64,
}

/// Makes an observation of what it sees.
struct Observer(Observation);

impl Witness for Observer {
    fn change(&mut self, change: Change, at: i64, resource: &Resource) {
        self.0.events.push(event(change, at, resource));
    }

    fn read(&mut self, at: i64, resource: &Resource, readings: &[Reading]) {
        let samples = &mut self.0.samples;
        let subject = samples.subject(Subject::from(resource));
        for &(meter, amount) in readings {
            samples.push(subject, meter, Timestamp(at), amount.value());
        }
    }
}

/// A change as it is told.
pub(crate) fn event(change: Change, at: i64, resource: &Resource) -> LifecycleEvent {
    let (at, source) = (Timestamp(at), SOURCE.to_owned());
    LifecycleEvent { change, at, resource: resource.clone(), source }
}

impl Fleet {
    /// A fleet that is about to be founded: its first step tells of all that is there then.
    pub fn new(config: &FleetConfig) -> Result<Self, ConfigError> {
        config.check()?;
        Ok(Fleet { living: Living::new(Estate::new(config.clone())) })
    }

    /// What it was made of.
    pub fn config(&self) -> &FleetConfig {
        &self.living.estate.config
    }

    /// Instant of the newest step.
    pub fn position(&self) -> Option<Timestamp> {
        self.living.read_at.map(Timestamp)
    }

    /// How many of each are alive.
    pub fn population(&self) -> Population {
        let estate = &self.living.estate;
        Population {
            nodes: estate.nodes.len(),
            vms: estate.vms.len() + estate.clusters.len(),
            pods: estate.pods.len(),
        }
    }

    /// Goes on to `at` and observes: events since the last step in order of time, last readings
    /// of what died, and samples at `at`. `at` lies after the last step and not before the start.
    pub fn step(&mut self, at: Timestamp) -> Observation {
        let mut observer = Observer(Observation::new(SOURCE));
        self.witness(at, &mut observer);
        observer.0
    }

    /// Goes on to `at` as if it had been observed: the way to resume after the step at `at`.
    pub fn skip_to(&mut self, at: Timestamp) {
        self.check_forward(at);
        self.living.run(at.0, &mut Blind);
        self.living.read_at = Some(at.0);
    }

    /// Steps on every `step_micros` after the last step, or from the start, up to `end`
    /// inclusive. The grid of the steps goes through the start.
    pub fn steps(&mut self, end: Timestamp, step_micros: i64) -> Steps<'_> {
        assert!(step_micros >= MICROS_PER_SECOND / 10, "a step is at least 0.1 s long");
        let start = self.config().start;
        let next = self.position().map_or(start, |at| {
            start.plus_micros(((at.0 - start.0) / step_micros + 1) * step_micros)
        });
        Steps { fleet: self, next, end, step_micros }
    }

    /// Goes on to `at`, with all that happens and all that is read told to a witness.
    pub(crate) fn witness<W: Witness>(&mut self, at: Timestamp, witness: &mut W) {
        self.check_forward(at);
        self.living.run(at.0, witness);
        self.living.estate.read_all(at.0, witness);
        self.living.read_at = Some(at.0);
    }

    fn check_forward(&self, at: Timestamp) {
        assert!(at >= self.config().start, "a fleet is not observed before its start");
        assert!(self.position().is_none_or(|last| at > last), "a fleet goes forward in time");
    }
}

impl Iterator for Steps<'_> {
    type Item = (Timestamp, Observation);

    fn next(&mut self) -> Option<Self::Item> {
        let at = self.next;
        if at > self.end {
            return None;
        }
        self.next = at.plus_micros(self.step_micros);
        Some((at, self.fleet.step(at)))
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        let left = (self.end.0 - self.next.0).div_euclid(self.step_micros) + 1;
        let left = usize::try_from(left).unwrap_or(0);
        (left, Some(left))
    }
}

impl ExactSizeIterator for Steps<'_> {}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::ChurnConfig;
    use crate::estate::{CORE_TICKS, Key};
    use crate::rhythm::SLOT_MICROS;

    fn lively(seed: u64) -> FleetConfig {
        let churn = ChurnConfig {
            replacements_per_hour: 300,
            jobs_per_hour: 300,
            resizes_per_hour: 200,
            moves_per_hour: 300,
            transfers_per_hour: 100,
            reboots_per_hour: 100,
        };
        FleetConfig { seed, nodes: 6, vms_and_pods: 100, churn, ..FleetConfig::default() }
    }

    fn totals(fleet: &Fleet, at: i64) -> Vec<(Key, u64, Vec<u64>)> {
        let estate = &fleet.living.estate;
        let of = |&key: &Key| {
            let node = estate.get(key);
            let parts = node.children.iter().map(|&child| estate.total(child, at));
            let parts = std::iter::once(node.own.amount(&estate.rhythm, at)).chain(parts);
            (key, estate.total(key, at), parts.collect())
        };
        estate.nodes.iter().chain(&estate.clusters).map(of).collect()
    }

    /// Between two happenings a host's total grows by exactly what it and its children burn, and
    /// by no more than its cores can; in a happening it does not change.
    #[test]
    fn every_tick_of_a_host_is_its_own_or_a_childs() {
        let config = lively(3);
        let mut fleet = Fleet::new(&config).unwrap();
        fleet.skip_to(config.start);
        let mut from = config.start.0;
        for _ in 0..1_500 {
            let before = totals(&fleet, from);
            let next = fleet.living.next_at();
            let after = totals(&fleet, next);
            for ((key, total, parts), (_, total_after, parts_after)) in before.iter().zip(&after) {
                let grown: u64 = parts_after.iter().zip(parts).map(|(b, a)| b - a).sum();
                assert_eq!(total_after - total, grown);
                let node = fleet.living.estate.get(*key);
                let cpus = node.resource.attributes.get("vcpus");
                let vcpus = node.resource.attributes.get("vcpus");
                let cores: u64 = cpus.or(vcpus).unwrap().parse().unwrap();
                let most = cores * CORE_TICKS * (next - from) as u64 / SLOT_MICROS;
                assert!(grown <= most + parts.len() as u64 + 1);
            }
            fleet.living.run(next, &mut Blind);
            let acted = totals(&fleet, next);
            for ((key, total, _), (_, total_acted, _)) in after.iter().zip(&acted) {
                assert_eq!(total, total_acted, "{}", fleet.living.estate.get(*key).resource.id);
            }
            from = next;
        }
    }
}
