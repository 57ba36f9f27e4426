//! From the folded state to a [`Board`]: what each node will bear at its peak in the next hour.
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

use crate::board::{Board, Dimension, NodeState, WorkloadState, permille_up};
use crate::estate::{Alive, Estate};
use crate::policy::Policy;
use crate::request::{cpu_millis_of, memory_bytes_of};
use crate::series::Known;

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
    alive: &'a Alive<'a>,
    cpu: Option<Known>,
    memory: Option<Known>,
    sums: Both,
    vms: u32,
    pods: u32,
}

impl Estate {
    /// Everything a decision at `now` may rest on.
    pub fn board(&self, now: Timestamp, policy: &Policy, price: Price<'_>) -> Board {
        let alive = self.alive(now);
        let (mut nodes, places) = self.nodes(&alive, now);
        let mut workloads = Vec::new();
        for guest in alive.iter().filter(|guest| *guest.kind != ResourceKind::NODE) {
            let Some(&place) = places.get(guest.host) else { continue };
            let settled = nodes[place].has_settled(guest, now, policy);
            let state = self.workload(guest, settled, now, policy, &mut nodes[place]);
            let left = guest.came_from.filter(|_| guest.since.0 > now.0 - DEPARTED_MICROS);
            if let Some(&before) = left.and_then(|host| places.get(host)) {
                let sums = &mut nodes[before].sums;
                add(&mut sums.cpu.departed, state.cpu_peak);
                add(&mut sums.memory.departed, state.memory_peak);
            }
            workloads.push(state);
        }
        for entry in self.in_flight(&alive, now) {
            let Some(&place) = places.get(entry.node.as_str()) else { continue };
            let sums = &mut nodes[place].sums;
            add(&mut sums.cpu.in_flight, entry.load.cpu_peak);
            add(&mut sums.cpu.allocated, entry.load.cpu_request);
            add(&mut sums.memory.in_flight, entry.load.memory_peak);
            add(&mut sums.memory.allocated, entry.load.memory_request);
        }
        let nodes: Vec<NodeState> = nodes.iter().map(|node| node.state(policy, price)).collect();
        let mut board = Board::new(now, nodes, workloads);
        board.newest_sample = self.newest_sample();
        board
    }

    /// Nodes, and VMs that pods run on; with where each lies. Sorted by id, as `alive` is.
    fn nodes<'a>(
        &self,
        alive: &'a [Alive<'a>],
        now: Timestamp,
    ) -> (Vec<Node<'a>>, HashMap<&'a str, usize>) {
        let pods = alive.iter().filter(|alive| *alive.kind == ResourceKind::POD);
        let hosts: std::collections::HashSet<&str> = pods.map(|pod| pod.host).collect();
        let is_node = |alive: &&Alive<'_>| {
            let is_host = *alive.kind == ResourceKind::VM && hosts.contains(alive.id);
            is_host || *alive.kind == ResourceKind::NODE
        };
        let mut places = HashMap::new();
        let nodes = alive.iter().filter(is_node).enumerate().map(|(place, alive)| {
            places.insert(alive.id, place);
            let series = self.series.get(alive.id);
            let cpu = series.and_then(|series| series.cpu(now));
            let memory = series.and_then(|series| series.memory(now));
            Node { alive, cpu, memory, sums: Both::default(), vms: 0, pods: 0 }
        });
        (nodes.collect(), places)
    }

    fn workload(
        &self,
        guest: &Alive<'_>,
        settled: (bool, bool),
        now: Timestamp,
        policy: &Policy,
        node: &mut Node<'_>,
    ) -> WorkloadState {
        let series = self.series.get(guest.id);
        let cpu_request = guest.state.map_or(0, cpu_millis_of);
        let memory_request = guest.state.map_or(0, memory_bytes_of);
        let known = series.and_then(|series| series.cpu(now)).map(millis);
        let cpu = peak(known, cpu_request, policy.default_cpu_millis, policy);
        let known = series.and_then(|series| series.memory(now));
        let memory = peak(known, memory_request, policy.default_memory_bytes, policy);
        node.sums.cpu.count(cpu, cpu_request, settled.0);
        node.sums.memory.count(memory, memory_request, settled.1);
        match *guest.kind == ResourceKind::VM {
            true => node.vms += 1,
            false => node.pods += 1,
        }
        let refuses = guest.state.and_then(|state| state.attributes.get(MOVABLE));
        WorkloadState {
            id: guest.id.to_owned(),
            name: guest.name.to_owned(),
            project: guest.project.to_owned(),
            kind: guest.kind.clone(),
            node: guest.host.to_owned(),
            cpu_request,
            memory_request,
            cpu_peak: cpu.plain,
            memory_peak: memory.plain,
            cpu_arriving: cpu.alone,
            memory_arriving: memory.alone,
            cpu_settled: settled.0,
            memory_settled: settled.1,
            since: guest.since,
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

    fn dimension(&self, capacity: u64, known: Option<Known>, policy: &Policy) -> Dimension {
        let level = known.map(|known| whole(known.level));
        let mut dimension = Dimension {
            capacity,
            allocated: self.allocated,
            measured: known.is_some_and(|k| is_settled(&k, policy) && !is_stale(&k, policy)),
            used: level,
            settled: 0,
            arrived: self.everything,
            in_flight: self.in_flight,
            together_permille: 1_000,
            margin_permille: known
                .map_or_else(|| margin(i64::MAX, policy), |known| margin(known.age_micros, policy)),
        };
        let Some(known) = known.filter(|known| !is_stale(known, policy)) else { return dimension };
        let level = whole(known.level);
        let explained = self.settled.saturating_add(level.saturating_sub(self.level));
        let measured = explained.saturating_add(self.departed);
        if is_settled(&known, policy) && measured > 0 {
            let together = u128::from(whole(known.peak)) * 1_000 / u128::from(measured);
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
    fn has_settled(&self, guest: &Alive<'_>, now: Timestamp, policy: &Policy) -> (bool, bool) {
        let settle = i64::from(policy.settle_seconds) * MICROS_PER_SECOND;
        let resident = guest.since.0 <= now.0.saturating_sub(settle);
        let long = |known: &Option<Known>| {
            known.is_some_and(|known| is_settled(&known, policy) && !is_stale(&known, policy))
        };
        (resident && long(&self.cpu), resident && long(&self.memory))
    }

    fn state(&self, policy: &Policy, price: Price<'_>) -> NodeState {
        let bare = Resource::new(self.alive.id, self.alive.kind.clone());
        let resource = self.alive.state.unwrap_or(&bare);
        let price = price(resource);
        let micros = price.as_deref().and_then(price_micros);
        let sums = &self.sums;
        let cpu = sums.cpu.dimension(cpu_millis_of(resource), self.cpu.map(millis), policy);
        let memory = sums.memory.dimension(memory_bytes_of(resource), self.memory, policy);
        let ages = [&self.cpu, &self.memory].map(|known| known.map(|known| known.age_micros));
        let believed = |known: &Option<Known>| known.is_some_and(|k| !is_stale(&k, policy));
        let name = if self.alive.name.is_empty() { self.alive.id } else { self.alive.name };
        NodeState {
            id: self.alive.id.to_owned(),
            name: name.to_owned(),
            kind: self.alive.kind.clone(),
            guest: !self.alive.host.is_empty(),
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
fn peak(known: Option<Known>, request: u64, default: u64, policy: &Policy) -> Peak {
    match known {
        Some(known) if is_settled(&known, policy) && !is_stale(&known, policy) => {
            let factor = 1_000 + u64::from(margin(known.age_micros, policy));
            let plain = whole(known.peak);
            Peak { plain, alone: permille_up(plain, factor), level: whole(known.level) }
        }
        Some(known) => {
            let plain = whole(known.peak).max(request);
            let fresh = !is_stale(&known, policy);
            Peak { plain, alone: plain, level: if fresh { whole(known.level) } else { plain } }
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

fn is_stale(known: &Known, policy: &Policy) -> bool {
    known.age_micros > i64::from(policy.stale_seconds) * MICROS_PER_SECOND
}

fn is_settled(known: &Known, policy: &Policy) -> bool {
    known.span_micros >= i64::from(policy.settle_seconds) * MICROS_PER_SECOND
}

fn millis(known: Known) -> Known {
    Known { level: known.level * 1_000.0, peak: known.peak * 1_000.0, ..known }
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
