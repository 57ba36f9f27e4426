//! A small cluster for tests.

use std::collections::BTreeMap;

use nilometer_contract::{
    BatchBuilder, Change, LifecycleEvent, MICROS_PER_SECOND, Resource, ResourceKind, SampleBatch,
    Subject, Timestamp,
};
use nilometer_placement::policy::Policy;
use nilometer_placement::request::Request;
use nilometer_placement::snapshot::Snapshot;
use nilometer_placement::state::ClusterState;

pub(crate) const GIB: u64 = 1 << 30;
pub(crate) const HOUR: i64 = 3_600;

/// Midnight of a Monday, and seconds after it.
pub(crate) fn at(seconds: i64) -> Timestamp {
    Timestamp::from_seconds(1_795_392_000 + seconds)
}

pub(crate) fn node(id: &str, cpus: u32, memory: u64) -> Resource {
    sized(Resource::new(id, ResourceKind::NODE), "vcpus", cpus, memory)
}

pub(crate) fn vm(id: &str, on: &str, vcpus: u32, memory: u64) -> Resource {
    let mut vm = sized(Resource::new(id, ResourceKind::VM), "vcpus", vcpus, memory);
    vm.node = on.to_owned();
    vm.name = format!("name-{id}");
    vm
}

fn sized(mut resource: Resource, cores: &str, count: u32, memory: u64) -> Resource {
    resource.attributes = BTreeMap::from([
        (cores.to_owned(), count.to_string()),
        ("memory_bytes".to_owned(), memory.to_string()),
    ]);
    resource
}

pub(crate) fn event(change: Change, at: Timestamp, resource: Resource) -> LifecycleEvent {
    LifecycleEvent { change, at, resource, source: "cluster".to_owned() }
}

pub(crate) fn request(name: &str, cpu_millis: u64, memory_bytes: u64) -> Request {
    Request {
        name: name.to_owned(),
        project: String::new(),
        id: String::new(),
        kind: ResourceKind::VM,
        cpu_millis,
        memory_bytes,
        attributes: BTreeMap::new(),
    }
}

/// Samples of resources whose use is constant, or a function of time.
pub(crate) struct Meters {
    resources: Vec<(Subject, f64, f64, f64)>,
    last: Option<Timestamp>,
}

impl Meters {
    pub(crate) fn new() -> Self {
        Meters { resources: Vec::new(), last: None }
    }

    /// Sets what a resource uses from now on.
    pub(crate) fn set(&mut self, resource: &Resource, cores: f64, bytes: u64) {
        let subject = Subject::from(resource);
        match self.resources.iter_mut().find(|known| known.0.id == subject.id) {
            Some(known) => (known.0, known.1, known.2) = (subject, cores, bytes as f64),
            None => self.resources.push((subject, cores, bytes as f64, 0.0)),
        }
    }

    /// Reads every meter at an instant.
    pub(crate) fn read(&mut self, at: Timestamp) -> SampleBatch {
        let mut batch = BatchBuilder::new("cluster");
        let seconds = self.last.map_or(0.0, |last| (at.0 - last.0) as f64 / 1e6);
        self.last = Some(at);
        for (subject, cores, bytes, counter) in &mut self.resources {
            *counter += *cores * seconds;
            let index = batch.subject(subject.clone());
            batch.push_named(index, "cpu.time", at, *counter);
            batch.push_named(index, "memory.usage", at, *bytes);
        }
        batch.build()
    }

    /// Reads every five minutes over `[start, end]` into a state.
    pub(crate) fn feed(&mut self, state: &mut ClusterState, start: Timestamp, end: Timestamp) {
        let mut now = start;
        while now <= end {
            state.fold(&self.read(now));
            now = now.plus_micros(300 * MICROS_PER_SECOND);
        }
    }
}

pub(crate) fn snapshot(state: &ClusterState, now: Timestamp) -> Snapshot {
    state.snapshot(now, &Policy::default(), &|_| None)
}
