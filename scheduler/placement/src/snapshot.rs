//! All nodes and workloads at one instant, as numbers that scoring and planning read.
//!
//! A snapshot is what a decision rests on, so it is small, made of integers (cores in thousandths,
//! bytes, thousandths of a share) and can be written into the decision's record: read back, it
//! gives the same decision, to the last digit, on any machine (invariant 17).

use std::collections::HashMap;

use nilometer_contract::{ResourceKind, Timestamp};
use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::Xxh3;

use crate::score::Load;

/// One resource dimension of a node: cores in thousandths, or bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Dimension {
    /// What there is; 0: unknown.
    pub capacity: u64,
    /// Sum of the requests of what runs here.
    pub allocated: u64,
    /// The node's own history is long and fresh: the prediction rests on more than requests.
    pub measured: bool,
    /// Last measured use of the whole node.
    pub used: Option<u64>,
    /// Expected peak of the next hour of what has been here long enough to be in the node's own
    /// history, measured together.
    pub settled: u64,
    /// Expected peak of what came since, one by one.
    pub arrived: u64,
    /// Expected use of what was decided but not seen yet.
    pub in_flight: u64,
    /// Peak of the settled together, as thousandths of the sum of their own peaks.
    pub together_permille: u32,
    /// What is added for doubt; grows as data ages.
    pub margin_permille: u32,
}

/// A node as decisions see it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeState {
    /// Resource id.
    pub id: String,
    /// What people and Kubernetes call it.
    pub name: String,
    /// `node`, or `vm` for one that pods run on.
    pub kind: ResourceKind,
    /// It runs on another machine itself.
    pub guest: bool,
    /// Cores, in thousandths.
    pub cpu: Dimension,
    /// Memory, in bytes.
    pub memory: Dimension,
    /// Price of the node per hour, a decimal number in the price book's currency.
    pub price_per_hour: Option<String>,
    /// The same in millionths, for scores only.
    pub price_micros: Option<u64>,
    /// Age of the newest sample of the node; `None`: never sampled.
    pub age_seconds: Option<u64>,
    /// Its usage is unknown or too old to be believed: requests stand in.
    pub stale: bool,
    /// VMs that run here.
    pub vms: u32,
    /// Pods that run here.
    pub pods: u32,
}

/// A workload as the controller sees it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WorkloadState {
    /// Resource id.
    pub id: String,
    /// Name.
    pub name: String,
    /// Project.
    pub project: String,
    /// `vm` or `pod`.
    pub kind: ResourceKind,
    /// Id of the node it runs on.
    pub node: String,
    /// Requested cores in thousandths.
    pub cpu_request: u64,
    /// Requested memory.
    pub memory_request: u64,
    /// Expected peak of the next hour, cores in thousandths.
    pub cpu_peak: u64,
    /// Expected peak of the next hour, bytes.
    pub memory_peak: u64,
    /// What it would count for on another node: the peak with a margin, or the request.
    pub cpu_arriving: u64,
    /// The same of memory.
    pub memory_arriving: u64,
    /// Whether it is part of the node's own history of cpu.
    pub cpu_settled: bool,
    /// Whether it is part of the node's own history of memory.
    pub memory_settled: bool,
    /// Since when it runs there.
    pub since: Timestamp,
    /// Whether it may be moved.
    pub movable: bool,
}

/// All nodes at one instant, sorted by id.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Snapshot {
    /// When.
    pub at: Timestamp,
    /// The nodes, sorted by id.
    pub nodes: Vec<NodeState>,
    /// The workloads on them, sorted by id.
    pub workloads: Vec<WorkloadState>,
    /// Median price of a core and hour over all nodes, in millionths; 0: no prices.
    pub price_reference_micros: u64,
    /// Newest sample it rests on.
    pub newest_sample: Option<Timestamp>,
    by_name: HashMap<String, usize>,
    digest: u128,
}

impl Dimension {
    /// Highest use expected in the next hour: margin and what is in flight included.
    pub fn predicted(&self) -> u64 {
        permille_up(self.settled, 1_000 + u64::from(self.margin_permille))
            .saturating_add(self.arrived)
            .saturating_add(self.in_flight)
    }

    /// `amount` as a share of the capacity; 0 where that is unknown.
    pub fn share(&self, amount: u64) -> f64 {
        if self.capacity == 0 { 0.0 } else { amount as f64 / self.capacity as f64 }
    }

    fn digest(&self, into: &mut Xxh3) {
        let used = self.used.map_or(u64::MAX, |used| used);
        let factors = u64::from(self.together_permille) << 32 | u64::from(self.margin_permille);
        let numbers = [
            u64::from(self.measured),
            self.capacity,
            self.allocated,
            used,
            self.settled,
            self.arrived,
            self.in_flight,
            factors,
        ];
        numbers.iter().for_each(|number| into.update(&number.to_le_bytes()));
    }
}

impl NodeState {
    /// Larger of the two predicted shares of capacity.
    pub fn predicted_share(&self) -> f64 {
        self.cpu.share(self.cpu.predicted()).max(self.memory.share(self.memory.predicted()))
    }

    /// Whether anything runs here or is on its way.
    pub fn is_empty(&self) -> bool {
        self.vms == 0 && self.pods == 0 && self.cpu.in_flight == 0 && self.memory.in_flight == 0
    }
}

impl Snapshot {
    /// A snapshot of these nodes and workloads at an instant.
    pub fn new(at: Timestamp, mut nodes: Vec<NodeState>, workloads: Vec<WorkloadState>) -> Self {
        nodes.sort_by(|one, other| one.id.cmp(&other.id));
        let price_reference_micros = median_price(&nodes);
        let mut by_name = HashMap::with_capacity(nodes.len());
        for (index, node) in nodes.iter().enumerate() {
            by_name.entry(node.name.clone()).or_insert(index);
        }
        let digest = digest_of(&nodes, price_reference_micros);
        let newest_sample = None;
        Snapshot { at, nodes, workloads, price_reference_micros, newest_sample, by_name, digest }
    }

    /// Place of a node by id, or else by name (the first in order of id).
    pub fn find(&self, node: &str) -> Option<usize> {
        match self.nodes.binary_search_by(|state| state.id.as_str().cmp(node)) {
            Ok(index) => Some(index),
            Err(_) => self.by_name.get(node).copied(),
        }
    }

    /// Counts a decision against its node at once (invariant 18).
    pub fn reserve(&mut self, index: usize, load: Load) {
        self.extend_digest(true, index, load);
        let node = &mut self.nodes[index];
        let count = |of: &mut Dimension, request: u64, peak: u64| {
            of.allocated = of.allocated.saturating_add(request);
            of.in_flight = of.in_flight.saturating_add(peak);
        };
        count(&mut node.cpu, load.cpu_request, load.cpu_peak);
        count(&mut node.memory, load.memory_request, load.memory_peak);
    }

    /// Undoes what [`reserve`](Self::reserve) counted.
    pub fn release(&mut self, index: usize, load: Load) {
        self.extend_digest(false, index, load);
        let node = &mut self.nodes[index];
        let take = |of: &mut Dimension, request: u64, peak: u64| {
            of.allocated = of.allocated.saturating_sub(request.min(of.in_flight));
            of.in_flight = of.in_flight.saturating_sub(peak);
        };
        take(&mut node.cpu, load.cpu_request, load.cpu_peak);
        take(&mut node.memory, load.memory_request, load.memory_peak);
    }

    /// Nodes that a workload of this kind may run on: VMs on nodes; pods where pods run already,
    /// or on nodes while none runs anywhere.
    pub fn hosts_for(&self, kind: ResourceKind) -> Vec<usize> {
        let indexes = 0..self.nodes.len();
        let nodes = |&index: &usize| {
            let node = &self.nodes[index];
            node.kind == ResourceKind::NODE && (kind == ResourceKind::POD || !node.guest)
        };
        if kind == ResourceKind::POD {
            let with_pods: Vec<usize> =
                indexes.clone().filter(|&index| self.nodes[index].pods > 0).collect();
            if !with_pods.is_empty() {
                return with_pods;
            }
        }
        indexes.filter(nodes).collect()
    }

    /// Digest of every number a decision over these nodes could rest on, in hexadecimal: of the
    /// states as they were at first, then of each load reserved and released since, in order.
    pub fn digest(&self) -> String {
        format!("{:032x}", self.digest)
    }

    fn extend_digest(&mut self, is_reserved: bool, index: usize, load: Load) {
        let mut state = Xxh3::new();
        state.update(&self.digest.to_le_bytes());
        let sign = u64::from(is_reserved);
        let numbers = [load.cpu_request, load.memory_request, load.cpu_peak, load.memory_peak];
        for number in [sign, index as u64].iter().chain(&numbers) {
            state.update(&number.to_le_bytes());
        }
        self.digest = state.digest128();
    }
}

fn digest_of(nodes: &[NodeState], price_reference_micros: u64) -> u128 {
    let mut state = Xxh3::new();
    for node in nodes {
        state.update(&(node.id.len() as u64).to_le_bytes());
        state.update(node.id.as_bytes());
        node.cpu.digest(&mut state);
        node.memory.digest(&mut state);
        let price = node.price_micros.map_or(u64::MAX, |price| price);
        state.update(&price.to_le_bytes());
        state.update(&[u8::from(node.stale), u8::from(node.guest)]);
        state.update(&[node.vms.to_le_bytes(), node.pods.to_le_bytes()].concat());
    }
    state.update(&price_reference_micros.to_le_bytes());
    state.digest128()
}

/// `amount × permille / 1000`, rounded up, saturating.
pub(crate) fn permille_up(amount: u64, permille: u64) -> u64 {
    let product = u128::from(amount) * u128::from(permille);
    u64::try_from(product.div_ceil(1_000)).unwrap_or(u64::MAX)
}

fn median_price(nodes: &[NodeState]) -> u64 {
    let per_core = |node: &NodeState| {
        let micros = node.price_micros.filter(|_| node.cpu.capacity > 0)?;
        u64::try_from(u128::from(micros) * 1_000 / u128::from(node.cpu.capacity)).ok()
    };
    let mut prices: Vec<u64> = nodes.iter().filter_map(per_core).collect();
    prices.sort_unstable();
    prices.get(prices.len() / 2).copied().unwrap_or(0)
}
