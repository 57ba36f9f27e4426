//! From the folded state to a [`Snapshot`]: what each node will bear at its peak in the next hour.
//!
//! ```text
//! settled = together × (Σ peaks of workloads long here + what no workload explains)
//! arrived = Σ peaks of workloads that came since, or requests where history is short or stale
//! together = the node's own peak ÷ Σ peaks of those it was measured with, ¼ to 1
//! predicted = settled × (1 + margin) + arrived + in flight        never below the present use
//! ```
//!
//! Peaks of workloads do not coincide; the node's own series tells by how much. Workloads that
//! left keep counting in the divisor while the node's history still holds them, so that leaving
//! does not look like coinciding.
//!
//! A node without believable samples has no settled part: each of its workloads counts by the
//! larger of its request and its last known peak (invariant 19).

use std::collections::HashMap;

use nilometer_contract::{MICROS_PER_SECOND, Resource, ResourceKind, Timestamp};
use rust_decimal::Decimal;
use rust_decimal::prelude::ToPrimitive;

use crate::policy::Policy;
use crate::request::{cpu_millis_of, memory_bytes_of};
use crate::snapshot::{Dimension, NodeState, Snapshot, WorkloadState, permille_up};
use crate::state::{ClusterState, LiveResource};
use crate::usage::UsageEstimate;

/// Attribute by which a workload refuses to be moved, when `false`.
pub const MOVABLE: &str = "nilometer.movable";
/// A node's history remembers a workload that left for about this long.
const DEPARTED_MICROS: i64 = 72 * 3_600 * MICROS_PER_SECOND;
const LEAST_TOGETHER_PERMILLE: u64 = 250;

/// The price of a resource per hour, as a decimal number, if it has one.
pub type Price<'a> = &'a dyn Fn(&Resource) -> Option<String>;

/// A peak of one workload.
#[derive(Clone, Copy, Default)]
struct Peak {
    /// As history or the request says.
    plain: u64,
    /// With the margin that it deserves where it stands alone.
    alone: u64,
    /// Present use, or the peak while that is unknown.
    level: u64,
}

/// Sums over the workloads of one node, for one dimension.
#[derive(Clone, Copy, Default)]
struct Sums {
    allocated: u64,
    settled: u64,
    departed: u64,
    arrived: u64,
    everything: u64,
    level: u64,
    in_flight: u64,
}

#[derive(Clone, Copy, Default)]
struct Both {
    cpu: Sums,
    memory: Sums,
}

struct Node<'a> {
    live: &'a LiveResource<'a>,
    cpu: Option<UsageEstimate>,
    memory: Option<UsageEstimate>,
    sums: Both,
    vms: u32,
    pods: u32,
}

impl ClusterState {
    /// Everything a decision at `now` may rest on.
    pub fn snapshot(&self, now: Timestamp, policy: &Policy, price: Price<'_>) -> Snapshot {
        let live = self.live(now);
        let (mut nodes, indexes) = self.nodes(&live, now);
        let mut workloads = Vec::new();
        for workload in live.iter().filter(|workload| *workload.kind != ResourceKind::NODE) {
            let Some(&index) = indexes.get(workload.host) else { continue };
            let settled = nodes[index].has_settled(workload, now, policy);
            let state = self.workload_state(workload, settled, now, policy, &mut nodes[index]);
            let left =
                workload.previous_host.filter(|_| workload.since.0 > now.0 - DEPARTED_MICROS);
            if let Some(&before) = left.and_then(|host| indexes.get(host)) {
                let sums = &mut nodes[before].sums;
                add(&mut sums.cpu.departed, state.cpu_peak);
                add(&mut sums.memory.departed, state.memory_peak);
            }
            workloads.push(state);
        }
        for entry in self.in_flight(&live, now) {
            let Some(&index) = indexes.get(entry.node.as_str()) else { continue };
            let sums = &mut nodes[index].sums;
            add(&mut sums.cpu.in_flight, entry.load.cpu_peak);
            add(&mut sums.cpu.allocated, entry.load.cpu_request);
            add(&mut sums.memory.in_flight, entry.load.memory_peak);
            add(&mut sums.memory.allocated, entry.load.memory_request);
        }
        let nodes: Vec<NodeState> = nodes.iter().map(|node| node.state(policy, price)).collect();
        let mut snapshot = Snapshot::new(now, nodes, workloads);
        snapshot.newest_sample = self.newest_sample();
        snapshot
    }

    /// Nodes, and VMs that pods run on; with where each lies. Sorted by id, as `live` is.
    fn nodes<'a>(
        &self,
        live: &'a [LiveResource<'a>],
        now: Timestamp,
    ) -> (Vec<Node<'a>>, HashMap<&'a str, usize>) {
        let pods = live.iter().filter(|live| *live.kind == ResourceKind::POD);
        let hosts: std::collections::HashSet<&str> = pods.map(|pod| pod.host).collect();
        let is_node = |live: &&LiveResource<'_>| {
            let is_host = *live.kind == ResourceKind::VM && hosts.contains(live.id);
            is_host || *live.kind == ResourceKind::NODE
        };
        let mut indexes = HashMap::new();
        let nodes = live.iter().filter(is_node).enumerate().map(|(index, live)| {
            indexes.insert(live.id, index);
            let usage = self.usage.get(live.id);
            let cpu = usage.and_then(|usage| usage.cpu(now));
            let memory = usage.and_then(|usage| usage.memory(now));
            Node { live, cpu, memory, sums: Both::default(), vms: 0, pods: 0 }
        });
        (nodes.collect(), indexes)
    }

    fn workload_state(
        &self,
        workload: &LiveResource<'_>,
        settled: (bool, bool),
        now: Timestamp,
        policy: &Policy,
        node: &mut Node<'_>,
    ) -> WorkloadState {
        let usage = self.usage.get(workload.id);
        let cpu_request = workload.state.map_or(0, cpu_millis_of);
        let memory_request = workload.state.map_or(0, memory_bytes_of);
        let estimate = usage.and_then(|usage| usage.cpu(now)).map(millis);
        let cpu = peak(estimate, cpu_request, policy.default_cpu_millis, policy);
        let estimate = usage.and_then(|usage| usage.memory(now));
        let memory = peak(estimate, memory_request, policy.default_memory_bytes, policy);
        node.sums.cpu.count(cpu, cpu_request, settled.0);
        node.sums.memory.count(memory, memory_request, settled.1);
        match *workload.kind == ResourceKind::VM {
            true => node.vms += 1,
            false => node.pods += 1,
        }
        let refuses = workload.state.and_then(|state| state.attributes.get(MOVABLE));
        WorkloadState {
            id: workload.id.to_owned(),
            name: workload.name.to_owned(),
            project: workload.project.to_owned(),
            kind: workload.kind.clone(),
            node: workload.host.to_owned(),
            cpu_request,
            memory_request,
            cpu_peak: cpu.plain,
            memory_peak: memory.plain,
            cpu_arriving: cpu.alone,
            memory_arriving: memory.alone,
            cpu_settled: settled.0,
            memory_settled: settled.1,
            since: workload.since,
            movable: refuses.is_none_or(|text| text != "false"),
        }
    }
}

impl Sums {
    fn count(&mut self, peak: Peak, request: u64, settled: bool) {
        add(&mut self.allocated, request);
        add(&mut self.level, peak.level);
        add(&mut self.everything, peak.alone);
        match settled {
            true => add(&mut self.settled, peak.plain),
            false => add(&mut self.arrived, peak.alone),
        }
    }

    fn dimension(
        &self,
        capacity: u64,
        estimate: Option<UsageEstimate>,
        policy: &Policy,
    ) -> Dimension {
        let level = estimate.map(|estimate| whole(estimate.level));
        let mut dimension = Dimension {
            capacity,
            allocated: self.allocated,
            measured: estimate.is_some_and(|k| is_settled(&k, policy) && !is_stale(&k, policy)),
            used: level,
            settled: 0,
            arrived: self.everything,
            in_flight: self.in_flight,
            together_permille: 1_000,
            margin_permille: estimate.map_or_else(
                || margin(i64::MAX, policy),
                |estimate| margin(estimate.age_micros, policy),
            ),
        };
        let Some(estimate) = estimate.filter(|estimate| !is_stale(estimate, policy)) else {
            return dimension;
        };
        let level = whole(estimate.level);
        let explained = self.settled.saturating_add(level.saturating_sub(self.level));
        let measured = explained.saturating_add(self.departed);
        if is_settled(&estimate, policy) && measured > 0 {
            let together = u128::from(whole(estimate.peak)) * 1_000 / u128::from(measured);
            let together = u64::try_from(together).unwrap_or(u64::MAX);
            dimension.together_permille = together.clamp(LEAST_TOGETHER_PERMILLE, 1_000) as u32;
        }
        let settled = permille_up(explained, u64::from(dimension.together_permille));
        dimension.settled = settled.max(level.saturating_sub(self.arrived));
        dimension.arrived = self.arrived;
        dimension
    }
}

impl Node<'_> {
    /// Whether the node's own history of cpu, and of memory, has long had the workload in it.
    fn has_settled(
        &self,
        workload: &LiveResource<'_>,
        now: Timestamp,
        policy: &Policy,
    ) -> (bool, bool) {
        let settle = i64::from(policy.settle_seconds) * MICROS_PER_SECOND;
        let resident = workload.since.0 <= now.0.saturating_sub(settle);
        let long = |estimate: &Option<UsageEstimate>| {
            estimate.is_some_and(|estimate| {
                is_settled(&estimate, policy) && !is_stale(&estimate, policy)
            })
        };
        (resident && long(&self.cpu), resident && long(&self.memory))
    }

    fn state(&self, policy: &Policy, price: Price<'_>) -> NodeState {
        let bare = Resource::new(self.live.id, self.live.kind.clone());
        let resource = self.live.state.unwrap_or(&bare);
        let price = price(resource);
        let micros = price.as_deref().and_then(price_micros);
        let sums = &self.sums;
        let cpu = sums.cpu.dimension(cpu_millis_of(resource), self.cpu.map(millis), policy);
        let memory = sums.memory.dimension(memory_bytes_of(resource), self.memory, policy);
        let ages =
            [&self.cpu, &self.memory].map(|estimate| estimate.map(|estimate| estimate.age_micros));
        let believed =
            |estimate: &Option<UsageEstimate>| estimate.is_some_and(|k| !is_stale(&k, policy));
        let name = if self.live.name.is_empty() { self.live.id } else { self.live.name };
        NodeState {
            id: self.live.id.to_owned(),
            name: name.to_owned(),
            kind: self.live.kind.clone(),
            guest: !self.live.host.is_empty(),
            cpu,
            memory,
            price_micros: micros,
            price_per_hour: price.filter(|_| micros.is_some()),
            age_seconds: ages.iter().flatten().max().map(|age| (age / MICROS_PER_SECOND) as u64),
            stale: !(believed(&self.cpu) && believed(&self.memory)),
            vms: self.vms,
            pods: self.pods,
        }
    }
}

/// History that is long and fresh speaks for itself; otherwise the request counts where it is
/// larger, and a default where there is neither.
fn peak(estimate: Option<UsageEstimate>, request: u64, default: u64, policy: &Policy) -> Peak {
    match estimate {
        Some(estimate) if is_settled(&estimate, policy) && !is_stale(&estimate, policy) => {
            let factor = 1_000 + u64::from(margin(estimate.age_micros, policy));
            let plain = whole(estimate.peak);
            Peak { plain, alone: permille_up(plain, factor), level: whole(estimate.level) }
        }
        Some(estimate) => {
            let plain = whole(estimate.peak).max(request);
            let fresh = !is_stale(&estimate, policy);
            Peak { plain, alone: plain, level: if fresh { whole(estimate.level) } else { plain } }
        }
        None => {
            let plain = if request == 0 { default } else { request };
            Peak { plain, alone: plain, level: plain }
        }
    }
}

/// The margin that data of this age deserves, in thousandths: widens from fresh to stale.
fn margin(age_micros: i64, policy: &Policy) -> u32 {
    let fresh = i64::from(policy.fresh_seconds) * MICROS_PER_SECOND;
    let stale = i64::from(policy.stale_seconds) * MICROS_PER_SECOND;
    let beyond = age_micros.clamp(fresh, stale) - fresh;
    let widened = i64::from(policy.stale_margin_percent) * 10 * beyond / (stale - fresh).max(1);
    policy.margin_percent * 10 + widened as u32
}

fn is_stale(estimate: &UsageEstimate, policy: &Policy) -> bool {
    estimate.age_micros > i64::from(policy.stale_seconds) * MICROS_PER_SECOND
}

fn is_settled(estimate: &UsageEstimate, policy: &Policy) -> bool {
    estimate.span_micros >= i64::from(policy.settle_seconds) * MICROS_PER_SECOND
}

fn millis(estimate: UsageEstimate) -> UsageEstimate {
    UsageEstimate { level: estimate.level * 1_000.0, peak: estimate.peak * 1_000.0, ..estimate }
}

fn whole(value: f64) -> u64 {
    value.ceil() as u64
}

fn add(sum: &mut u64, value: u64) {
    *sum = sum.saturating_add(value);
}

fn price_micros(text: &str) -> Option<u64> {
    let price: Decimal = text.parse().ok()?;
    price.checked_mul(Decimal::from(1_000_000))?.round().to_u64()
}
