//! Chooses a node for each workload of a burst. Pure: equal input, equal decision.
//!
//! Workloads are placed one after the other, each counting at once against its node for those
//! that follow (invariant 18), so a burst spreads by itself. Every node is scored, none sampled.
//!
//! A decision lists the best nodes and some of those that did not fit. Since each node is scored
//! for itself, the same inputs reduced to the listed nodes give the same decision: that is what
//! a record keeps, and what [`replay`](crate::record::replay) runs.

use std::collections::BTreeSet;

use nilometer_contract::ResourceKind;
use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::Xxh3;

use crate::policy::Policy;
use crate::request::Request;
use crate::score::{Evaluation, Load, Misfit, Score, evaluate};
use crate::snapshot::{NodeState, Snapshot};

/// Most nodes listed over all workloads of a burst, of each sort; at least one per workload.
const MAX_LISTED: usize = 256;

/// A node that may be chosen.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EligibleNode<N = NodeState> {
    /// Its state; in memory by reference.
    pub node: N,
    /// VMs may be placed on it.
    pub for_vms: bool,
    /// Pods may be placed on it.
    pub for_pods: bool,
}

/// The nodes a decision may choose among, sorted by id.
#[derive(Clone, Debug)]
pub struct EligibleNodes<'a> {
    nodes: Vec<EligibleNode<&'a NodeState>>,
    price_reference_micros: u64,
}

/// What was chosen for each workload of a burst, in the order asked.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Decision {
    /// One per workload.
    pub placements: Vec<Placement>,
}

/// Where one workload goes, and why.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Placement {
    /// Name of the workload.
    pub workload: String,
    /// Its project.
    pub project: String,
    /// Id of the node chosen; `None` if its requests fit nowhere.
    pub node: Option<String>,
    /// Score of the node chosen, in thousandths of a point.
    pub score: Option<Score>,
    /// The best nodes, best first, then some that did not fit.
    pub candidates: Vec<Candidate>,
}

/// How one node would do.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Candidate {
    /// Id of the node.
    pub node: String,
    /// Whether the requests fit.
    pub fits: bool,
    /// Predicted peak of the next hour before, cores in thousandths.
    pub cpu_before_millis: u64,
    /// The same after.
    pub cpu_after_millis: u64,
    /// Predicted peak of the next hour before.
    pub memory_before_bytes: u64,
    /// The same after.
    pub memory_after_bytes: u64,
    /// Risk of overload before, in thousandths.
    pub risk_before_permille: u32,
    /// The same after.
    pub risk_after_permille: u32,
    /// Fitness, in thousandths of a point.
    pub score: Score,
    /// Why, for people.
    pub reasons: Vec<String>,
}

impl<'a> EligibleNodes<'a> {
    /// Every node of the snapshot that takes workloads of the kind, or exactly the named ones.
    pub fn new(snapshot: &'a Snapshot, named: Option<&[String]>) -> Self {
        let price_reference_micros = snapshot.price_reference_micros;
        let nodes = match named {
            Some(names) => {
                let indexes: BTreeSet<usize> =
                    names.iter().filter_map(|name| snapshot.find(name)).collect();
                let considered = |index| EligibleNode {
                    node: &snapshot.nodes[index],
                    for_vms: true,
                    for_pods: true,
                };
                indexes.into_iter().map(considered).collect()
            }
            None => {
                let vms = snapshot.hosts_for(ResourceKind::VM);
                let pods = snapshot.hosts_for(ResourceKind::POD);
                let considered = |index: usize| EligibleNode {
                    node: &snapshot.nodes[index],
                    for_vms: vms.binary_search(&index).is_ok(),
                    for_pods: pods.binary_search(&index).is_ok(),
                };
                let all = (0..snapshot.nodes.len()).map(considered);
                all.filter(|node| node.for_vms || node.for_pods).collect()
            }
        };
        EligibleNodes { nodes, price_reference_micros }
    }

    /// The nodes that a record kept.
    pub fn from_record(nodes: &'a [EligibleNode], price_reference_micros: u64) -> Self {
        let nodes = nodes.iter().map(|kept| EligibleNode {
            node: &kept.node,
            for_vms: kept.for_vms,
            for_pods: kept.for_pods,
        });
        EligibleNodes { nodes: nodes.collect(), price_reference_micros }
    }

    /// How many nodes there are.
    pub fn count(&self) -> usize {
        self.nodes.len()
    }

    /// The nodes that a decision lists, with their states as they were before it.
    pub fn listed(&self, decision: &Decision) -> Vec<EligibleNode> {
        let candidates = decision.placements.iter().flat_map(|placed| &placed.candidates);
        let ids: BTreeSet<&str> = candidates.map(|candidate| candidate.node.as_str()).collect();
        let kept = self.nodes.iter().filter(|kept| ids.contains(kept.node.id.as_str()));
        kept.map(|kept| EligibleNode {
            node: kept.node.clone(),
            for_vms: kept.for_vms,
            for_pods: kept.for_pods,
        })
        .collect()
    }
}

/// Places a burst of workloads.
pub fn place(
    eligible: &EligibleNodes<'_>,
    requests: &[Request],
    policy: &Policy,
    seed: u64,
) -> Decision {
    let mut already = vec![Load::default(); eligible.nodes.len()];
    let each = (MAX_LISTED / requests.len().max(1)).clamp(1, policy.explained_nodes as usize);
    let mut placements = Vec::with_capacity(requests.len());
    for (turn, request) in requests.iter().enumerate() {
        let load = request.load(policy);
        let mut fitting = Ranking::new(each);
        let mut misfits = Ranking::new(each);
        for (index, considered) in eligible.nodes.iter().enumerate() {
            let fits_kind = match request.kind == ResourceKind::POD {
                true => considered.for_pods,
                false => considered.for_vms,
            };
            if !fits_kind {
                continue;
            }
            let median = eligible.price_reference_micros;
            let evaluation = evaluate(considered.node, already[index], load, policy, median);
            match evaluation.misfit {
                Some(_) => misfits.offer(0, index, evaluation),
                None => {
                    let drawn = tie_break(policy, seed, turn, &considered.node.id);
                    fitting.offer(evaluation.score.0.saturating_add(drawn), index, evaluation);
                }
            }
        }
        let chosen =
            fitting.ranked.first().map(|&(_, index, evaluation)| (index, evaluation.score));
        if let Some((index, _)) = chosen {
            already[index] = already[index].plus(load);
        }
        let listed = fitting.ranked.iter().chain(&misfits.ranked);
        placements.push(Placement {
            workload: request.name.clone(),
            project: request.project.clone(),
            node: chosen.map(|(index, _)| eligible.nodes[index].node.id.clone()),
            score: chosen.map(|(_, score)| score),
            candidates: listed
                .map(|(_, index, evaluation)| {
                    explain(eligible.nodes[*index].node, evaluation, policy)
                })
                .collect(),
        });
    }
    Decision { placements }
}

/// The best few seen so far; of equals the one offered first, which has the smaller id.
struct Ranking {
    most: usize,
    ranked: Vec<(u32, usize, Evaluation)>,
}

impl Ranking {
    fn new(most: usize) -> Self {
        Ranking { most, ranked: Vec::with_capacity(most + 1) }
    }

    fn offer(&mut self, score: u32, index: usize, evaluation: Evaluation) {
        let full = self.ranked.len() >= self.most;
        if full && self.ranked.last().is_some_and(|&(worst, _, _)| worst >= score) {
            return;
        }
        let at = self.ranked.partition_point(|&(known, _, _)| known >= score);
        self.ranked.insert(at, (score, index, evaluation));
        self.ranked.truncate(self.most);
    }
}

/// Points drawn for a node within the near-tie band; depends on nothing but its arguments, so
/// that leaving nodes out changes nothing for the rest.
fn tie_break(policy: &Policy, seed: u64, turn: usize, node: &str) -> u32 {
    if policy.near_tie_millipoints == 0 {
        return 0;
    }
    let mut state = Xxh3::with_seed(seed);
    state.update(&(turn as u64).to_le_bytes());
    state.update(node.as_bytes());
    (state.digest() % (u64::from(policy.near_tie_millipoints) + 1)) as u32
}

/// Spells out a evaluation.
pub fn explain(node: &NodeState, evaluation: &Evaluation, policy: &Policy) -> Candidate {
    let percent = |of: u64, capacity: u64| match capacity {
        0 => "unknown".to_owned(),
        capacity => format!("{} %", u128::from(of) * 100 / u128::from(capacity)),
    };
    let mut reasons = Vec::with_capacity(3);
    match evaluation.misfit {
        Some(Misfit::Cpu) => reasons.push(format!(
            "requested cpu does not fit: {} of {} thousandths of a core are allocated, at most {} %",
            node.cpu.allocated, node.cpu.capacity, policy.cpu_overcommit_percent
        )),
        Some(Misfit::Memory) => reasons.push(format!(
            "requested memory does not fit: {} of {} bytes are allocated, at most {} %",
            node.memory.allocated, node.memory.capacity, policy.memory_overcommit_percent
        )),
        None => {}
    }
    reasons.push(format!(
        "predicted peak with it: cpu {}, memory {}; risk of overload {} ‰",
        percent(evaluation.cpu.1, node.cpu.capacity),
        percent(evaluation.memory.1, node.memory.capacity),
        evaluation.risk_permille.1
    ));
    if node.cpu.capacity == 0 && node.memory.capacity == 0 {
        reasons.push("capacity unknown: neutral score".to_owned());
    }
    if node.stale {
        reasons.push("no recent samples: requests stand in for usage".to_owned());
    }
    Candidate {
        node: node.id.clone(),
        fits: evaluation.misfit.is_none(),
        cpu_before_millis: evaluation.cpu.0,
        cpu_after_millis: evaluation.cpu.1,
        memory_before_bytes: evaluation.memory.0,
        memory_after_bytes: evaluation.memory.1,
        risk_before_permille: evaluation.risk_permille.0,
        risk_after_permille: evaluation.risk_permille.1,
        score: evaluation.score,
        reasons,
    }
}
