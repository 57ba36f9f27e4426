//! How a plan is drawn up: on a working copy of the nodes, move by move.

use std::collections::{BTreeMap, HashSet};

use nilometer_contract::{MICROS_PER_SECOND, ResourceKind};
use rust_decimal::Decimal;

use super::{Move, MoveReason, Plan};
use crate::policy::Policy;
use crate::score::{Evaluation, Load, Score, evaluate};
use crate::snapshot::{Dimension, NodeState, Snapshot, WorkloadState, permille_up};

pub(super) fn draft_plan(snapshot: &Snapshot, policy: &Policy) -> Plan {
    let mut draft = Draft::new(snapshot, policy);
    draft.relieve();
    draft.empty();
    draft.plan.price_saved_per_hour =
        draft.plan.moves.iter().map(|step| step.price_saved_per_hour).sum();
    draft.plan
}

struct Draft<'a> {
    snapshot: &'a Snapshot,
    policy: &'a Policy,
    nodes: Vec<NodeState>,
    workloads: BTreeMap<usize, Vec<&'a WorkloadState>>,
    moved: HashSet<&'a str>,
    received: HashSet<usize>,
    /// Ids of the nodes that moves leave or go to.
    touched: HashSet<&'a str>,
    hosts: [Vec<usize>; 2],
    emptied: HashSet<usize>,
    plan: Plan,
}

impl<'a> Draft<'a> {
    fn new(snapshot: &'a Snapshot, policy: &'a Policy) -> Self {
        let mut workloads: BTreeMap<usize, Vec<&WorkloadState>> = BTreeMap::new();
        for workload in &snapshot.workloads {
            if let Some(index) = snapshot.find(&workload.node) {
                workloads.entry(index).or_default().push(workload);
            }
        }
        let plan = Plan { at: snapshot.at, ..Plan::default() };
        Draft {
            snapshot,
            policy,
            nodes: snapshot.nodes.clone(),
            workloads,
            moved: HashSet::new(),
            received: HashSet::new(),
            touched: HashSet::new(),
            hosts: [ResourceKind::VM, ResourceKind::POD].map(|kind| snapshot.hosts_for(kind)),
            emptied: HashSet::new(),
            plan,
        }
    }

    fn relieve(&mut self) {
        let high = percent(self.policy.high_percent);
        let hot = |index: &usize| {
            let node = &self.nodes[*index];
            [&node.cpu, &node.memory]
                .iter()
                .any(|of| of.measured && of.share(of.predicted()) > high)
        };
        let mut hot: Vec<usize> = (0..self.nodes.len()).filter(hot).collect();
        hot.sort_by(|&one, &other| by_share(&self.nodes[other], &self.nodes[one]));
        self.plan.hot = hot.iter().map(|&index| self.nodes[index].id.clone()).collect();
        let relief = percent(self.policy.relief_percent);
        // A node that was relieved has room again: go round until nothing moves any more.
        let mut is_done = false;
        while !is_done {
            is_done = true;
            for &index in &hot {
                while self.nodes[index].predicted_share() > relief && self.relieve_once(index) {
                    is_done = false;
                }
            }
        }
        for index in hot {
            if self.nodes[index].predicted_share() > high {
                let note = format!("{} stays hot: no move helps", self.nodes[index].id);
                self.plan.notes.push(note);
            }
        }
    }

    /// Moves the smallest workload that relieves the node, or else the largest that fits elsewhere.
    fn relieve_once(&mut self, index: usize) -> bool {
        let relief = percent(self.policy.relief_percent);
        let mut workloads = self.movable(index);
        workloads.sort_by(|one, other| {
            let rank = |workload: &WorkloadState| {
                let left = share_without(&self.nodes[index], workload);
                let relieved = self.nodes[index].predicted_share() - left;
                let is_enough = left <= relief;
                (!is_enough, if is_enough { relieved } else { -relieved })
            };
            let (one_rank, other_rank) = (rank(one), rank(other));
            (one_rank.0.cmp(&other_rank.0))
                .then(one_rank.1.total_cmp(&other_rank.1))
                .then_with(|| one.id.cmp(&other.id))
        });
        for workload in workloads {
            if share_without(&self.nodes[index], workload) >= self.nodes[index].predicted_share() {
                continue;
            }
            if let Some((to, _)) = self.destination(workload, |to| to != index, false) {
                self.add_move(workload, index, to, MoveReason::Relieve);
                return true;
            }
        }
        false
    }

    fn empty(&mut self) {
        let low = percent(self.policy.low_percent);
        let cold = |index: &usize| {
            let node = &self.nodes[*index];
            let in_flight = node.cpu.in_flight > 0 || node.memory.in_flight > 0;
            let is_measured = node.cpu.measured && node.memory.measured;
            is_measured && !node.is_empty() && !in_flight && node.predicted_share() < low
        };
        let mut cold: Vec<usize> = (0..self.nodes.len()).filter(cold).collect();
        cold.sort_by(|&one, &other| by_share(&self.nodes[one], &self.nodes[other]));
        self.plan.cold = cold.iter().map(|&index| self.nodes[index].id.clone()).collect();
        for index in cold {
            self.empty_one(index);
        }
    }

    /// Empties a node whole, or leaves it as it is.
    fn empty_one(&mut self, index: usize) {
        let mut workloads = self.movable(index);
        let room = (self.policy.max_moves as usize).saturating_sub(self.plan.moves.len());
        let all = self.workloads.get(&index).map_or(0, Vec::len);
        let is_taken = self.received.contains(&index)
            || self.touched.contains(self.snapshot.nodes[index].id.as_str());
        if is_taken || workloads.len() < all || all > room || all == 0 {
            return;
        }
        workloads.sort_by(|one, other| {
            (other.cpu_arriving, other.memory_arriving, &one.id).cmp(&(
                one.cpu_arriving,
                one.memory_arriving,
                &other.id,
            ))
        });
        let mut before = Vec::with_capacity(workloads.len());
        let mut chosen = Vec::with_capacity(workloads.len());
        for workload in workloads {
            let Some((to, _)) = self.destination(workload, |to| to != index, true) else { break };
            before.push((to, self.nodes[to].clone()));
            add(&mut self.nodes[to], workload);
            chosen.push((workload, to));
        }
        while let Some((to, node)) = before.pop() {
            self.nodes[to] = node;
        }
        if chosen.len() < all {
            return;
        }
        for (workload, to) in chosen {
            self.add_move(workload, index, to, MoveReason::Empty);
        }
        self.emptied.insert(index);
        self.plan.emptied.push(self.nodes[index].id.clone());
        let price = self.nodes[index].price_per_hour.as_deref().unwrap_or("0");
        if let Some(last) = self.plan.moves.last_mut() {
            last.price_saved_per_hour = price.parse().unwrap_or_default();
        }
    }

    /// The workloads of a node that may be moved now.
    fn movable(&self, index: usize) -> Vec<&'a WorkloadState> {
        let residence = i64::from(self.policy.residence_seconds) * MICROS_PER_SECOND;
        let own = self.nodes[index].id.as_str();
        let workloads = self.workloads.get(&index).into_iter().flatten().copied();
        let may_move = |workload: &&WorkloadState| {
            workload.movable
                && workload.since.0 <= self.snapshot.at.0 - residence
                && !self.moved.contains(workload.id.as_str())
                && !self.moved.contains(own)
                && !self.touched.contains(workload.id.as_str())
        };
        workloads.filter(may_move).collect()
    }

    /// The best node for a workload: first those that are not cold, for a cold one should rather
    /// be emptied; then those in use; by score, or the fullest for packing.
    fn destination(
        &self,
        workload: &WorkloadState,
        allowed: impl Fn(usize) -> bool,
        pack: bool,
    ) -> Option<(usize, Score)> {
        if self.plan.moves.len() >= self.policy.max_moves as usize {
            return None;
        }
        let relief = percent(self.policy.relief_percent);
        let low = percent(self.policy.low_percent);
        let mut best: Option<(u8, f64, usize, Score)> = None;
        for &index in &self.hosts[usize::from(workload.kind == ResourceKind::POD)] {
            let node = &self.nodes[index];
            let open = !allowed(index) || node.stale || self.emptied.contains(&index);
            if open || self.moved.contains(node.id.as_str()) || (pack && node.is_empty()) {
                continue;
            }
            let evaluation = self.evaluate(node, workload);
            let share = share_with(node, workload);
            let unknown = node.cpu.capacity == 0 || node.memory.capacity == 0;
            if evaluation.misfit.is_some() || unknown || share > relief {
                continue;
            }
            let value = if pack { share } else { f64::from(evaluation.score.0) };
            let class = u8::from(!node.is_empty()) + u8::from(node.predicted_share() >= low);
            let found = (class, value, index, evaluation.score);
            if best.is_none_or(|known| (found.0, found.1) > (known.0, known.1)) {
                best = Some(found);
            }
        }
        best.map(|(_, _, index, score)| (index, score))
    }

    fn evaluate(&self, node: &NodeState, workload: &WorkloadState) -> Evaluation {
        let reference = self.snapshot.price_reference_micros;
        evaluate(node, Load::default(), load(workload), self.policy, reference)
    }

    fn add_move(
        &mut self,
        workload: &'a WorkloadState,
        from: usize,
        to: usize,
        reason: MoveReason,
    ) {
        let evaluation = self.evaluate(&self.nodes[to], workload);
        let nothing = Load::default();
        let risk =
            |node: &NodeState| evaluate(node, nothing, nothing, self.policy, 0).risk_permille.1;
        let before = risk(&self.nodes[from]);
        remove(&mut self.nodes[from], workload);
        let after = risk(&self.nodes[from]);
        add(&mut self.nodes[to], workload);
        self.moved.insert(&workload.id);
        self.received.insert(to);
        self.touched.extend([from, to].map(|index| self.snapshot.nodes[index].id.as_str()));
        if let Some(workloads) = self.workloads.get_mut(&from) {
            workloads.retain(|known| known.id != workload.id);
        }
        self.plan.moves.push(Move {
            workload: workload.id.clone(),
            name: workload.name.clone(),
            project: workload.project.clone(),
            from: self.nodes[from].id.clone(),
            to: self.nodes[to].id.clone(),
            reason,
            score: evaluation.score,
            from_risk_permille: (before, after),
            to_risk_permille: evaluation.risk_permille,
            to_cpu_millis: evaluation.cpu.1,
            to_memory_bytes: evaluation.memory.1,
            price_saved_per_hour: Decimal::ZERO,
        });
    }
}

fn load(workload: &WorkloadState) -> Load {
    Load {
        cpu_request: workload.cpu_request,
        memory_request: workload.memory_request,
        cpu_peak: workload.cpu_arriving,
        memory_peak: workload.memory_arriving,
    }
}

fn percent(of: u32) -> f64 {
    f64::from(of) / 100.0
}

/// Order by predicted share, then the other way round by id.
fn by_share(one: &NodeState, other: &NodeState) -> std::cmp::Ordering {
    one.predicted_share().total_cmp(&other.predicted_share()).then_with(|| one.id.cmp(&other.id))
}

fn add(node: &mut NodeState, workload: &WorkloadState) {
    node.cpu = with(node.cpu, workload.cpu_request, workload.cpu_arriving);
    node.memory = with(node.memory, workload.memory_request, workload.memory_arriving);
    match workload.kind == ResourceKind::VM {
        true => node.vms += 1,
        false => node.pods += 1,
    }
}

fn remove(node: &mut NodeState, workload: &WorkloadState) {
    (node.cpu, node.memory) = without(node, workload);
    match workload.kind == ResourceKind::VM {
        true => node.vms = node.vms.saturating_sub(1),
        false => node.pods = node.pods.saturating_sub(1),
    }
}

fn share_with(node: &NodeState, workload: &WorkloadState) -> f64 {
    let cpu = with(node.cpu, workload.cpu_request, workload.cpu_arriving);
    let memory = with(node.memory, workload.memory_request, workload.memory_arriving);
    cpu.share(cpu.predicted()).max(memory.share(memory.predicted()))
}

fn share_without(node: &NodeState, workload: &WorkloadState) -> f64 {
    let (cpu, memory) = without(node, workload);
    cpu.share(cpu.predicted()).max(memory.share(memory.predicted()))
}

fn with(mut dimension: Dimension, request: u64, arriving: u64) -> Dimension {
    dimension.allocated = dimension.allocated.saturating_add(request);
    dimension.arrived = dimension.arrived.saturating_add(arriving);
    dimension
}

fn without(node: &NodeState, workload: &WorkloadState) -> (Dimension, Dimension) {
    let less = |mut of: Dimension, request: u64, peak: u64, arriving: u64, settled: bool| {
        of.allocated = of.allocated.saturating_sub(request);
        if settled {
            let share = permille_up(peak, u64::from(of.together_permille));
            of.settled = of.settled.saturating_sub(share);
        } else {
            of.arrived = of.arrived.saturating_sub(arriving);
        }
        of
    };
    let (cpu, memory) = (workload.cpu_request, workload.memory_request);
    (
        less(node.cpu, cpu, workload.cpu_peak, workload.cpu_arriving, workload.cpu_settled),
        less(
            node.memory,
            memory,
            workload.memory_peak,
            workload.memory_arriving,
            workload.memory_settled,
        ),
    )
}
