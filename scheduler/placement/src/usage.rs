//! Use of cpu and memory per resource, folded from samples as they stream by.
//!
//! The usage of a resource depends on its own samples alone, and one resource lies in one partition,
//! in order; so the order in which partitions are read changes nothing.
//!
//! Of several sources that sample one meter of a resource, the first by precedence is followed. Its
//! samples speak for the meter's hold time; when it is silent for longer, the next one that reads
//! is followed until it is back. Samples of the others are never added.

use std::collections::HashMap;
use std::sync::Arc;

use nilometer_contract::{
    MICROS_PER_HOUR, MICROS_PER_SECOND, Precedence, ResourceKind, SampleBatch, Timestamp, catalogue,
};

use crate::histogram::{self, Shape, UsageHistogram};

/// A sample this much older than the last means that the source's clock was wrong: start again.
const REBASE_MICROS: i64 = MICROS_PER_HOUR;

/// Most sources that are told apart; samples of others are left out.
const MAX_SOURCES: usize = 1_024;

/// One resource's usage of one meter: 232 bytes.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct MeterUsage {
    histogram: UsageHistogram,
    last_at: Timestamp,
    /// The counter as last read; unused for a gauge.
    counter: f64,
    /// Cores or bytes, as last seen; negative: not known yet.
    level: f64,
    /// The source that is followed.
    source: SourceId,
}

/// A source, by its place among those that were met.
type SourceId = u16;

/// Sources in the order in which they were met.
#[derive(Clone, Debug)]
struct Sources {
    names: Vec<String>,
    precedence: Arc<Precedence>,
}

/// One sample of a meter.
#[derive(Clone, Copy)]
struct Reading {
    at: Timestamp,
    value: f64,
    source: SourceId,
    hold_micros: i64,
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
#[derive(Clone, Debug)]
pub(crate) struct UsageByResource {
    by_id: HashMap<String, ResourceUsage>,
    sources: Sources,
    newest: Option<Timestamp>,
    left_out: u64,
}

#[derive(Clone, Copy, PartialEq)]
enum TrackedMeter {
    Cpu,
    Memory,
    Other,
}

impl Sources {
    fn id(&mut self, name: &str) -> Option<SourceId> {
        let known = self.names.iter().position(|known| known == name);
        let place = known.or_else(|| {
            let place = self.names.len();
            (place < MAX_SOURCES).then(|| {
                self.names.push(name.to_owned());
                place
            })
        });
        SourceId::try_from(place?).ok()
    }

    /// Whether one of two sources of a meter comes before the other.
    fn precedes(&self, meter: &str, one: SourceId, other: SourceId) -> bool {
        let name = |id: SourceId| self.names.get(usize::from(id)).map_or("", String::as_str);
        self.precedence.compare_for_meter(meter, name(one), name(other)).is_lt()
    }
}

impl MeterUsage {
    fn counter(usage: &mut Option<Box<MeterUsage>>, sources: &Sources, reading: Reading) {
        let Some(known) = MeterUsage::open(usage, sources, "cpu.time", reading) else { return };
        let Reading { at, value, source, hold_micros } = reading;
        if known.source != source {
            // What another source counted says nothing of what this one did.
            (known.source, known.last_at, known.counter) = (source, at, value);
            return;
        }
        let micros = at.0 - known.last_at.0;
        // A fall means that the source restarted from zero (invariant 10).
        let increase = if value < known.counter { value } else { value - known.counter };
        known.level = increase / (micros as f64 / MICROS_PER_SECOND as f64);
        known.observe(histogram::CPU, at, micros.min(hold_micros));
        known.counter = value;
    }

    fn gauge(usage: &mut Option<Box<MeterUsage>>, sources: &Sources, reading: Reading) {
        let Reading { at, value, source, hold_micros } = reading;
        if let Some(known) = MeterUsage::open(usage, sources, "memory.usage", reading) {
            (known.source, known.level) = (source, value);
            let micros = (at.0 - known.last_at.0).min(hold_micros);
            known.observe(histogram::MEMORY, at, micros);
        } else if let Some(first) = usage.as_mut()
            && first.last_at == at
            && first.source == source
        {
            first.level = value;
        }
    }

    /// The usage to extend; `None` if the sample starts it, is a repeat or a straggler, or is of a
    /// source that is not followed.
    fn open<'u>(
        usage: &'u mut Option<Box<MeterUsage>>,
        sources: &Sources,
        meter: &str,
        Reading { at, value, source, hold_micros }: Reading,
    ) -> Option<&'u mut MeterUsage> {
        if let Some(known) = usage.as_deref_mut()
            && known.source != source
            && !sources.precedes(meter, source, known.source)
            && at.0 - known.last_at.0 <= hold_micros
        {
            return None;
        }
        let fresh = match usage {
            None => true,
            Some(known) => at.0 < known.last_at.0 - REBASE_MICROS,
        };
        if fresh {
            let histogram = UsageHistogram::new(at);
            let first = MeterUsage { histogram, last_at: at, counter: value, level: -1.0, source };
            *usage = Some(Box::new(first));
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

impl Default for UsageByResource {
    /// None, with sources in the order of the built-in catalogue.
    fn default() -> Self {
        UsageByResource::new(catalogue().precedence().clone())
    }
}

impl UsageByResource {
    /// None yet.
    pub(crate) fn new(precedence: Arc<Precedence>) -> Self {
        let sources = Sources { names: Vec::new(), precedence };
        UsageByResource { by_id: HashMap::new(), sources, newest: None, left_out: 0 }
    }

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
        let UsageByResource { by_id, sources, newest, left_out } = self;
        let Some(source) = sources.id(&batch.source) else {
            *left_out += batch.len() as u64;
            return;
        };
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
            *newest = (*newest).max(Some(at));
            let Some(usage) = entry(by_id, batch, (index, kind), most, at) else {
                *left_out += 1;
                continue;
            };
            let reading = |hold_micros| Reading { at, value, source, hold_micros };
            match meter {
                TrackedMeter::Cpu => {
                    MeterUsage::counter(&mut usage.cpu, sources, reading(holds.0));
                }
                TrackedMeter::Memory => {
                    MeterUsage::gauge(&mut usage.memory, sources, reading(holds.1));
                }
                TrackedMeter::Other => {}
            }
        }
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

/// The usage of a resource, as a sample names it; none if there is no room for it.
fn entry<'u>(
    by_id: &'u mut HashMap<String, ResourceUsage>,
    batch: &SampleBatch,
    (index, kind): (usize, &ResourceKind),
    most: usize,
    at: Timestamp,
) -> Option<&'u mut ResourceUsage> {
    let subjects = &batch.subjects;
    let id = subjects.id.value(index);
    if !by_id.contains_key(id) {
        if by_id.len() >= most {
            return None;
        }
        let (node, project) = (String::new(), String::new());
        let (first_at, last_at) = (at, Timestamp::MIN);
        let kind = kind.clone();
        let usage =
            ResourceUsage { kind, node, project, first_at, last_at, cpu: None, memory: None };
        by_id.insert(id.to_owned(), usage);
    }
    let usage = by_id.get_mut(id)?;
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
