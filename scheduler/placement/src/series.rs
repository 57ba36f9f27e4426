//! Use of cpu and memory per resource, folded from samples as they stream by.
//!
//! A series depends on the samples of its own resource alone, and one resource lies in one
//! partition, in order; so the order in which partitions are read changes nothing.

use std::collections::HashMap;

use nilometer_contract::{
    MICROS_PER_HOUR, MICROS_PER_SECOND, ResourceKind, SampleBatch, Timestamp, catalogue,
};

use crate::sketch::{self, Shape, Sketch};

/// Most resources followed; the samples of one more are counted and left out, and its requests
/// stand in for it.
pub const MAX_SERIES: usize = 200_000;
/// A sample this much older than the last means that the source's clock was wrong: start again.
const REBASE_MICROS: i64 = MICROS_PER_HOUR;

/// One resource's use of one thing: 232 bytes.
#[derive(Clone, Debug, PartialEq)]
pub struct Track {
    sketch: Sketch,
    last_at: Timestamp,
    /// The counter as last read; unused for a gauge.
    counter: f64,
    /// Cores or bytes, as last seen; negative: not known yet.
    level: f64,
}

/// What is known of a track at one instant.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Known {
    /// Last level.
    pub level: f64,
    /// Expected peak of the next hour, at least the level.
    pub peak: f64,
    /// Age of the newest sample.
    pub age_micros: i64,
    /// How long it has been followed.
    pub span_micros: i64,
}

/// What is remembered of one resource.
#[derive(Clone, Debug, PartialEq)]
pub struct Series {
    /// What it is.
    pub kind: ResourceKind,
    /// The node its newest sample named.
    pub node: String,
    /// Its project, by its newest sample.
    pub project: String,
    /// Instant of its first sample.
    pub first_at: Timestamp,
    /// Instant of its newest sample.
    pub last_at: Timestamp,
    cpu: Option<Box<Track>>,
    memory: Option<Box<Track>>,
}

/// The series of all resources.
#[derive(Clone, Debug, Default)]
pub struct SeriesSet {
    by_id: HashMap<String, Series>,
    newest: Option<Timestamp>,
    left_out: u64,
}

#[derive(Clone, Copy, PartialEq)]
enum Role {
    Cpu,
    Memory,
    Other,
}

impl Track {
    fn counter(track: &mut Option<Box<Track>>, at: Timestamp, value: f64, hold_micros: i64) {
        let Some(known) = Track::open(track, at, value) else { return };
        let micros = at.0 - known.last_at.0;
        // A fall means that the source restarted from zero (invariant 10).
        let increase = if value < known.counter { value } else { value - known.counter };
        known.level = increase / (micros as f64 / MICROS_PER_SECOND as f64);
        known.observe(sketch::CPU, at, micros.min(hold_micros));
        known.counter = value;
    }

    fn gauge(track: &mut Option<Box<Track>>, at: Timestamp, value: f64, hold_micros: i64) {
        if let Some(known) = Track::open(track, at, value) {
            known.level = value;
            let micros = (at.0 - known.last_at.0).min(hold_micros);
            known.observe(sketch::MEMORY, at, micros);
        } else if let Some(first) = track.as_mut().filter(|track| track.last_at == at) {
            first.level = value;
        }
    }

    /// The track to extend; `None` if the sample starts it, or is a repeat or a straggler.
    fn open(track: &mut Option<Box<Track>>, at: Timestamp, value: f64) -> Option<&mut Track> {
        let fresh = match track {
            None => true,
            Some(known) => at.0 < known.last_at.0 - REBASE_MICROS,
        };
        if fresh {
            let sketch = Sketch::new(at);
            *track = Some(Box::new(Track { sketch, last_at: at, counter: value, level: -1.0 }));
            return None;
        }
        track.as_deref_mut().filter(|known| at > known.last_at)
    }

    fn observe(&mut self, shape: Shape, at: Timestamp, micros: i64) {
        let seconds = micros as f64 / MICROS_PER_SECOND as f64;
        self.sketch.add(shape, at, seconds, self.level);
        self.last_at = at;
    }

    fn known(&self, shape: Shape, now: Timestamp) -> Option<Known> {
        if self.level < 0.0 {
            return None;
        }
        let peak = self.sketch.next_hour_peak(shape, now).unwrap_or(self.level);
        Some(Known {
            level: self.level,
            peak: peak.max(self.level),
            age_micros: (now.0 - self.last_at.0).max(0),
            span_micros: (self.last_at.0 - self.sketch.first().0).max(0),
        })
    }
}

impl Series {
    /// What is known of its cores in use.
    pub fn cpu(&self, now: Timestamp) -> Option<Known> {
        self.cpu.as_ref()?.known(sketch::CPU, now)
    }

    /// What is known of its bytes in use.
    pub fn memory(&self, now: Timestamp) -> Option<Known> {
        self.memory.as_ref()?.known(sketch::MEMORY, now)
    }
}

impl SeriesSet {
    /// Folds a batch in. Repeats and stragglers change nothing.
    pub fn fold(&mut self, batch: &SampleBatch) {
        let catalogue = catalogue();
        let hold = |name| catalogue.find(name).map_or(0, |meter| meter.hold_micros);
        let holds = (hold("cpu.time"), hold("memory.usage"));
        let roles: Vec<Role> = batch.meters.name.iter().map(role).collect();
        if roles.iter().all(|role| *role == Role::Other) {
            return;
        }
        let kinds: Vec<Option<ResourceKind>> = batch.subjects.kind.iter().map(followed).collect();
        for row in 0..batch.len() {
            let role = roles.get(usize::from(batch.meter[row])).copied().unwrap_or(Role::Other);
            let place = batch.resource[row] as usize;
            let kind = kinds.get(place).and_then(Option::as_ref);
            let (at, value) = (Timestamp(batch.at[row]), batch.value[row]);
            let sound = at.is_plausible() && value.is_finite() && value >= 0.0;
            let (true, Some(kind), true) = (role != Role::Other, kind, sound) else { continue };
            let Some(series) = self.series(batch, place, kind, at) else { continue };
            match role {
                Role::Cpu => Track::counter(&mut series.cpu, at, value, holds.0),
                Role::Memory => Track::gauge(&mut series.memory, at, value, holds.1),
                Role::Other => {}
            }
        }
    }

    fn series(
        &mut self,
        batch: &SampleBatch,
        place: usize,
        kind: &ResourceKind,
        at: Timestamp,
    ) -> Option<&mut Series> {
        let subjects = &batch.subjects;
        let id = subjects.id.value(place);
        self.newest = self.newest.max(Some(at));
        if !self.by_id.contains_key(id) {
            if self.by_id.len() >= MAX_SERIES {
                self.left_out += 1;
                return None;
            }
            let (node, project) = (String::new(), String::new());
            let (first_at, last_at) = (at, Timestamp::MIN);
            let kind = kind.clone();
            let series = Series { kind, node, project, first_at, last_at, cpu: None, memory: None };
            self.by_id.insert(id.to_owned(), series);
        }
        let series = self.by_id.get_mut(id)?;
        if at > series.last_at || at.0 < series.last_at.0 - REBASE_MICROS {
            series.last_at = at;
            let (node, project) = (subjects.node.value(place), subjects.project.value(place));
            if series.node != node {
                node.clone_into(&mut series.node);
            }
            if series.project != project {
                project.clone_into(&mut series.project);
            }
        }
        Some(series)
    }

    /// The series of a resource.
    pub fn get(&self, id: &str) -> Option<&Series> {
        self.by_id.get(id)
    }

    /// All series, in no order.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Series)> {
        self.by_id.iter().map(|(id, series)| (id.as_str(), series))
    }

    /// Newest instant of any sample folded.
    pub fn newest(&self) -> Option<Timestamp> {
        self.newest
    }

    /// Samples left out at [`MAX_SERIES`].
    pub fn left_out(&self) -> u64 {
        self.left_out
    }

    /// Number of series.
    pub fn len(&self) -> usize {
        self.by_id.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.by_id.is_empty()
    }

    /// Forgets series without a sample since `horizon`.
    pub fn forget_before(&mut self, horizon: Timestamp) {
        self.by_id.retain(|_, series| series.last_at >= horizon);
    }
}

fn role(meter: Option<&str>) -> Role {
    match meter {
        Some("cpu.time") => Role::Cpu,
        Some("memory.usage") => Role::Memory,
        _ => Role::Other,
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
mod tests {
    use super::*;

    #[test]
    fn a_track_stays_small() {
        assert!(size_of::<Track>() <= 232, "{}", size_of::<Track>());
    }
}
