//! What is really there: machines and VMs whose counters, levels and lives are functions of true
//! time, so that every reading can be judged.

use nilometer_contract::{Resource, ResourceKind};

use crate::world::World;

const SECOND: i64 = 1_000_000;
/// Nothing is born or dies within so long of the end, so that its end is observed.
const QUIET_SECONDS: u64 = 180;

/// A node or a VM.
#[derive(Clone, Debug)]
pub(crate) struct Thing {
    pub(crate) id: String,
    pub(crate) kind: ResourceKind,
    pub(crate) node: String,
    /// When it came into being, microseconds of true time; before zero for what was there.
    pub(crate) born: i64,
    pub(crate) died: Option<i64>,
    /// When its counters began at zero again.
    pub(crate) restarts: Vec<i64>,
    /// States in order: since when, virtual CPUs, project.
    pub(crate) states: Vec<State>,
    /// Nanoseconds of CPU time per microsecond.
    rate: i64,
    /// Bytes of memory in use.
    level: i64,
}

/// What a resource is, and pays for, from an instant on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct State {
    pub(crate) since: i64,
    pub(crate) vcpus: u64,
    pub(crate) project: String,
}

/// All nodes and VMs of a run that lasts so many seconds.
pub(crate) fn estate(world: &World, nodes: u64, seconds: u64) -> Vec<Thing> {
    let mut things = Vec::new();
    for n in 0..nodes {
        let node = format!("node-{n}");
        things.push(thing(world, &node, &node, ResourceKind::NODE, seconds));
        for vm in 0..2 + world.pick(&format!("vms of {node}"), 3) {
            let id = format!("vm-{n}-{vm}");
            things.push(thing(world, &id, &node, ResourceKind::VM, seconds));
        }
    }
    things
}

fn thing(world: &World, id: &str, node: &str, kind: ResourceKind, seconds: u64) -> Thing {
    let pick = |what: &str, below: u64| world.pick(&format!("{id} {what}"), below);
    // Odd microseconds: shares of an hour do not come out even.
    let within = |what: &str, from: i64| {
        let room = (seconds - QUIET_SECONDS) * 1_000_000;
        (from + pick(what, room) as i64).min(room as i64)
    };
    let is_vm = kind == ResourceKind::VM;
    let born = match is_vm && pick("is late", 3) == 0 {
        true => within("birth", 30 * SECOND),
        false => -(pick("age", 40_000) as i64 + 1_000) * SECOND - 7,
    };
    let died = (is_vm && pick("dies", 4) == 0)
        .then(|| within("death", born.max(0) + 90 * SECOND))
        .filter(|&died| died > born.max(0) + 60 * SECOND);
    let lived = |at: &i64| *at > born.max(0) + 20 * SECOND && died.is_none_or(|died| *at < died);
    let mut restarts: Vec<i64> = (0..pick("restarts", 3))
        .map(|n| within(&format!("restart {n}"), 0))
        .filter(lived)
        .collect();
    restarts.sort_unstable();
    let project = if is_vm { format!("project-{}", pick("project", 3)) } else { String::new() };
    let mut states = vec![State { since: born, vcpus: 1 + pick("vcpus", 4), project }];
    let changes = if is_vm { pick("changes", 3) } else { 0 };
    let mut at: Vec<i64> =
        (0..changes).map(|n| within(&format!("change {n}"), 0)).filter(lived).collect();
    at.sort_unstable();
    at.dedup();
    for since in at {
        let vcpus = 1 + pick(&format!("vcpus at {since}"), 4);
        let project = format!("project-{}", pick(&format!("project at {since}"), 3));
        states.push(State { since, vcpus, project });
    }
    let (rate, level) =
        (100 + pick("rate", 900) as i64, (1 << 20) * (1 + pick("level", 999) as i64));
    let (id, node) = (id.to_owned(), node.to_owned());
    Thing { id, kind, node, born, died, restarts, states, rate, level }
}

impl Thing {
    /// Whether it is there at an instant of true time.
    pub(crate) fn lives(&self, at: i64) -> bool {
        self.born <= at && self.died.is_none_or(|died| at < died)
    }

    /// CPU time since the counter's start, in nanoseconds.
    pub(crate) fn cpu_nanos(&self, at: i64) -> i64 {
        let start = self.restarts.iter().rev().find(|start| **start <= at);
        (at - start.copied().unwrap_or(self.born)) * self.rate
    }

    /// CPU time used in a span of true time, whatever a counter says, in nanoseconds.
    pub(crate) fn cpu_nanos_between(&self, from: i64, upto: i64) -> i128 {
        let upto = upto.min(self.died.unwrap_or(i64::MAX));
        i128::from((upto - from.max(self.born)).max(0)) * i128::from(self.rate)
    }

    /// Bytes of memory in use, always the same.
    pub(crate) fn memory_bytes(&self) -> i64 {
        self.level
    }

    /// The place in `states` of what is in force.
    pub(crate) fn state_at(&self, at: i64) -> usize {
        self.states.partition_point(|state| state.since <= at).max(1) - 1
    }

    /// What the runtime says it is.
    pub(crate) fn described(&self, state: &State) -> Resource {
        let mut resource = Resource::new(&self.id, self.kind.clone());
        resource.project = state.project.clone();
        resource.name = format!("{} itself", self.id);
        resource.node = self.node.clone();
        if self.kind == ResourceKind::VM {
            resource.parent = Some(self.node.clone());
            resource.attributes.insert("vcpus".to_owned(), state.vcpus.to_string());
        }
        resource
    }
}
