//! Use of cpu and memory per resource, folded from samples as they stream by.
//!
//! The usage of a resource depends on its own samples alone, and one resource lies in one partition,
//! in order; so the order in which partitions are read changes nothing.

use std::collections::HashMap;

use nilometer_contract::{
    MICROS_PER_HOUR, MICROS_PER_SECOND, ResourceKind, SampleBatch, Timestamp, catalogue,
};

use crate::histogram::{self, Shape, UsageHistogram};

/// A sample this much older than the last means that the source's clock was wrong: start again.
const REBASE_MICROS: i64 = MICROS_PER_HOUR;

/// One resource's usage of one meter: 232 bytes.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct MeterUsage {
    histogram: UsageHistogram,
    last_at: Timestamp,
    /// The counter as last read; unused for a gauge.
    counter: f64,
    /// Cores or bytes, as last seen; negative: not known yet.
    level: f64,
}

/// What is known of the usage of one meter at one instant.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct UsageEstimate {
    /// Last level.
    pub(crate) level: f64,
    /// Expected peak of the next hour, at least the level.
    pub(crate) peak: f64,
    /// Age of the newest sample.
    pub(crate) age_micros: i64,
    /// How long it has been followed.
    pub(crate) span_micros: i64,
}

/// What is kept of one resource.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct ResourceUsage {
    /// What it is.
    pub(crate) kind: ResourceKind,
    /// The node its newest sample named.
    pub(crate) node: String,
    /// Its project, by its newest sample.
    pub(crate) project: String,
    /// Instant of its first sample.
    pub(crate) first_at: Timestamp,
    /// Instant of its newest sample.
    pub(crate) last_at: Timestamp,
    cpu: Option<Box<MeterUsage>>,
    memory: Option<Box<MeterUsage>>,
}

/// The usage of all resources.
#[derive(Clone, Debug, Default)]
pub(crate) struct UsageByResource {
    by_id: HashMap<String, ResourceUsage>,
    newest: Option<Timestamp>,
    left_out: u64,
}

#[derive(Clone, Copy, PartialEq)]
enum TrackedMeter {
    Cpu,
    Memory,
    Other,
}

impl MeterUsage {
    fn counter(usage: &mut Option<Box<MeterUsage>>, at: Timestamp, value: f64, hold_micros: i64) {
        let Some(known) = MeterUsage::open(usage, at, value) else { return };
        let micros = at.0 - known.last_at.0;
        // A fall means that the source restarted from zero (invariant 10).
        let increase = if value < known.counter { value } else { value - known.counter };
        known.level = increase / (micros as f64 / MICROS_PER_SECOND as f64);
        known.observe(histogram::CPU, at, micros.min(hold_micros));
        known.counter = value;
    }

    fn gauge(usage: &mut Option<Box<MeterUsage>>, at: Timestamp, value: f64, hold_micros: i64) {
        if let Some(known) = MeterUsage::open(usage, at, value) {
            known.level = value;
            let micros = (at.0 - known.last_at.0).min(hold_micros);
            known.observe(histogram::MEMORY, at, micros);
        } else if let Some(first) = usage.as_mut().filter(|first| first.last_at == at) {
            first.level = value;
        }
    }

    /// The usage to extend; `None` if the sample starts it, or is a repeat or a straggler.
    fn open(
        usage: &mut Option<Box<MeterUsage>>,
        at: Timestamp,
        value: f64,
    ) -> Option<&mut MeterUsage> {
        let fresh = match usage {
            None => true,
            Some(known) => at.0 < known.last_at.0 - REBASE_MICROS,
        };
        if fresh {
            let histogram = UsageHistogram::new(at);
            *usage =
                Some(Box::new(MeterUsage { histogram, last_at: at, counter: value, level: -1.0 }));
            return None;
        }
        usage.as_deref_mut().filter(|known| at > known.last_at)
    }

    fn observe(&mut self, shape: Shape, at: Timestamp, micros: i64) {
        let seconds = micros as f64 / MICROS_PER_SECOND as f64;
        self.histogram.add(shape, at, seconds, self.level);
        self.last_at = at;
    }

    fn estimate(&self, shape: Shape, now: Timestamp) -> Option<UsageEstimate> {
        if self.level < 0.0 {
            return None;
        }
        let peak = self.histogram.next_hour_peak(shape, now).unwrap_or(self.level);
        Some(UsageEstimate {
            level: self.level,
            peak: peak.max(self.level),
            age_micros: (now.0 - self.last_at.0).max(0),
            span_micros: (self.last_at.0 - self.histogram.first().0).max(0),
        })
    }
}

impl ResourceUsage {
    /// What is known of its cores in use.
    pub(crate) fn cpu(&self, now: Timestamp) -> Option<UsageEstimate> {
        self.cpu.as_ref()?.estimate(histogram::CPU, now)
    }

    /// What is known of its bytes in use.
    pub(crate) fn memory(&self, now: Timestamp) -> Option<UsageEstimate> {
        self.memory.as_ref()?.estimate(histogram::MEMORY, now)
    }
}

impl UsageByResource {
    /// Folds a batch in. Repeats and stragglers change nothing. The samples of more than `most`
    /// resources are left out, and the requests of the others stand in for their usage.
    pub(crate) fn fold(&mut self, batch: &SampleBatch, most: usize) {
        let catalogue = catalogue();
        let hold = |name| catalogue.find(name).map_or(0, |meter| meter.hold_micros);
        let holds = (hold("cpu.time"), hold("memory.usage"));
        let meters: Vec<TrackedMeter> = batch.meters.name.iter().map(tracked).collect();
        if meters.iter().all(|meter| *meter == TrackedMeter::Other) {
            return;
        }
        let kinds: Vec<Option<ResourceKind>> = batch.subjects.kind.iter().map(followed).collect();
        for row in 0..batch.len() {
            let meter =
                meters.get(usize::from(batch.meter[row])).copied().unwrap_or(TrackedMeter::Other);
            let index = batch.resource[row] as usize;
            let kind = kinds.get(index).and_then(Option::as_ref);
            let (at, value) = (Timestamp(batch.at[row]), batch.value[row]);
            let sound = at.is_plausible() && value.is_finite() && value >= 0.0;
            let (true, Some(kind), true) = (meter != TrackedMeter::Other, kind, sound) else {
                continue;
            };
            let Some(usage) = self.entry(batch, index, kind, most, at) else { continue };
            match meter {
                TrackedMeter::Cpu => MeterUsage::counter(&mut usage.cpu, at, value, holds.0),
                TrackedMeter::Memory => MeterUsage::gauge(&mut usage.memory, at, value, holds.1),
                TrackedMeter::Other => {}
            }
        }
    }

    fn entry(
        &mut self,
        batch: &SampleBatch,
        index: usize,
        kind: &ResourceKind,
        most: usize,
        at: Timestamp,
    ) -> Option<&mut ResourceUsage> {
        let subjects = &batch.subjects;
        let id = subjects.id.value(index);
        self.newest = self.newest.max(Some(at));
        if !self.by_id.contains_key(id) {
            if self.by_id.len() >= most {
                self.left_out += 1;
                return None;
            }
            let (node, project) = (String::new(), String::new());
            let (first_at, last_at) = (at, Timestamp::MIN);
            let kind = kind.clone();
            let usage =
                ResourceUsage { kind, node, project, first_at, last_at, cpu: None, memory: None };
            self.by_id.insert(id.to_owned(), usage);
        }
        let usage = self.by_id.get_mut(id)?;
        if at > usage.last_at || at.0 < usage.last_at.0 - REBASE_MICROS {
            usage.last_at = at;
            let (node, project) = (subjects.node.value(index), subjects.project.value(index));
            if usage.node != node {
                node.clone_into(&mut usage.node);
            }
            if usage.project != project {
                project.clone_into(&mut usage.project);
            }
        }
        Some(usage)
    }

    /// The usage of a resource.
    pub(crate) fn get(&self, id: &str) -> Option<&ResourceUsage> {
        self.by_id.get(id)
    }

    /// All resources, in no order.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (&str, &ResourceUsage)> {
        self.by_id.iter().map(|(id, usage)| (id.as_str(), usage))
    }

    /// Newest instant of any sample folded.
    pub(crate) fn newest(&self) -> Option<Timestamp> {
        self.newest
    }

    /// Samples left out at the bound.
    pub(crate) fn left_out(&self) -> u64 {
        self.left_out
    }

    /// Number of resources.
    pub(crate) fn len(&self) -> usize {
        self.by_id.len()
    }

    /// Forgets resources without a sample since `horizon`.
    pub(crate) fn forget_before(&mut self, horizon: Timestamp) {
        self.by_id.retain(|_, usage| usage.last_at >= horizon);
    }
}

fn tracked(meter: Option<&str>) -> TrackedMeter {
    match meter {
        Some("cpu.time") => TrackedMeter::Cpu,
        Some("memory.usage") => TrackedMeter::Memory,
        _ => TrackedMeter::Other,
    }
}

/// Whether the scheduler goes by resources of a kind.
pub(crate) fn is_followed(kind: &ResourceKind) -> bool {
    [ResourceKind::NODE, ResourceKind::VM, ResourceKind::POD].contains(kind)
}

fn followed(kind: Option<&str>) -> Option<ResourceKind> {
    let kind: ResourceKind = kind?.parse().ok()?;
    is_followed(&kind).then_some(kind)
}

#[cfg(test)]
mod tests;
