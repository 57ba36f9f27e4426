//! How a plan is drawn up: on a working copy of the nodes, move by move.

use std::collections::{BTreeMap, HashSet};

use nilometer_contract::{MICROS_PER_SECOND, ResourceKind};
use rust_decimal::Decimal;

use super::{Move, MoveReason, Plan};
use crate::board::{Board, Dimension, NodeState, WorkloadState, permille_up};
use crate::policy::Policy;
use crate::score::{Load, Rating, Score, rate};

pub(super) fn draw_up(board: &Board, policy: &Policy) -> Plan {
    let mut draft = Draft::new(board, policy);
    draft.relieve();
    draft.empty();
    draft.plan.price_saved_per_hour =
        draft.plan.moves.iter().map(|step| step.price_saved_per_hour).sum();
    draft.plan
}

struct Draft<'a> {
    board: &'a Board,
    policy: &'a Policy,
    nodes: Vec<NodeState>,
    guests: BTreeMap<usize, Vec<&'a WorkloadState>>,
    moved: HashSet<&'a str>,
    received: HashSet<usize>,
    /// Ids of the nodes that moves leave or go to.
    touched: HashSet<&'a str>,
    hosts: [Vec<usize>; 2],
    emptied: HashSet<usize>,
    plan: Plan,
}

impl<'a> Draft<'a> {
    fn new(board: &'a Board, policy: &'a Policy) -> Self {
        let mut guests: BTreeMap<usize, Vec<&WorkloadState>> = BTreeMap::new();
        for workload in &board.workloads {
            if let Some(place) = board.find(&workload.node) {
                guests.entry(place).or_default().push(workload);
            }
        }
        let plan = Plan { at: board.at, ..Plan::default() };
        Draft {
            board,
            policy,
            nodes: board.nodes.clone(),
            guests,
            moved: HashSet::new(),
            received: HashSet::new(),
            touched: HashSet::new(),
            hosts: [ResourceKind::VM, ResourceKind::POD].map(|kind| board.hosts_for(kind)),
            emptied: HashSet::new(),
            plan,
        }
    }

    fn relieve(&mut self) {
        let high = percent(self.policy.high_percent);
        let hot = |place: &usize| {
            let node = &self.nodes[*place];
            [&node.cpu, &node.memory]
                .iter()
                .any(|of| of.measured && of.share(of.predicted()) > high)
        };
        let mut hot: Vec<usize> = (0..self.nodes.len()).filter(hot).collect();
        hot.sort_by(|&one, &other| by_share(&self.nodes[other], &self.nodes[one]));
        self.plan.hot = hot.iter().map(|&place| self.nodes[place].id.clone()).collect();
        let relief = percent(self.policy.relief_percent);
        // A node that was relieved has room again: go round until nothing moves any more.
        let mut is_done = false;
        while !is_done {
            is_done = true;
            for &place in &hot {
                while self.nodes[place].predicted_share() > relief && self.relieve_once(place) {
                    is_done = false;
                }
            }
        }
        for place in hot {
            if self.nodes[place].predicted_share() > high {
                let note = format!("{} stays hot: no move helps", self.nodes[place].id);
                self.plan.notes.push(note);
            }
        }
    }

    /// Moves the smallest workload that relieves the node, or else the largest that fits elsewhere.
    fn relieve_once(&mut self, place: usize) -> bool {
        let relief = percent(self.policy.relief_percent);
        let mut guests = self.movable(place);
        guests.sort_by(|one, other| {
            let rank = |guest: &WorkloadState| {
                let left = share_without(&self.nodes[place], guest);
                let relieved = self.nodes[place].predicted_share() - left;
                let is_enough = left <= relief;
                (!is_enough, if is_enough { relieved } else { -relieved })
            };
            let (one_rank, other_rank) = (rank(one), rank(other));
            (one_rank.0.cmp(&other_rank.0))
                .then(one_rank.1.total_cmp(&other_rank.1))
                .then_with(|| one.id.cmp(&other.id))
        });
        for guest in guests {
            if share_without(&self.nodes[place], guest) >= self.nodes[place].predicted_share() {
                continue;
            }
            if let Some((to, _)) = self.destination(guest, |to| to != place, false) {
                self.carry(guest, place, to, MoveReason::Relieve);
                return true;
            }
        }
        false
    }

    fn empty(&mut self) {
        let low = percent(self.policy.low_percent);
        let cold = |place: &usize| {
            let node = &self.nodes[*place];
            let in_flight = node.cpu.in_flight > 0 || node.memory.in_flight > 0;
            let is_measured = node.cpu.measured && node.memory.measured;
            is_measured && !node.is_empty() && !in_flight && node.predicted_share() < low
        };
        let mut cold: Vec<usize> = (0..self.nodes.len()).filter(cold).collect();
        cold.sort_by(|&one, &other| by_share(&self.nodes[one], &self.nodes[other]));
        self.plan.cold = cold.iter().map(|&place| self.nodes[place].id.clone()).collect();
        for place in cold {
            self.empty_one(place);
        }
    }

    /// Empties a node whole, or leaves it as it is.
    fn empty_one(&mut self, place: usize) {
        let mut guests = self.movable(place);
        let room = (self.policy.max_moves as usize).saturating_sub(self.plan.moves.len());
        let all = self.guests.get(&place).map_or(0, Vec::len);
        let is_taken = self.received.contains(&place)
            || self.touched.contains(self.board.nodes[place].id.as_str());
        if is_taken || guests.len() < all || all > room || all == 0 {
            return;
        }
        guests.sort_by(|one, other| {
            (other.cpu_arriving, other.memory_arriving, &one.id).cmp(&(
                one.cpu_arriving,
                one.memory_arriving,
                &other.id,
            ))
        });
        let mut before = Vec::with_capacity(guests.len());
        let mut chosen = Vec::with_capacity(guests.len());
        for guest in guests {
            let Some((to, _)) = self.destination(guest, |to| to != place, true) else { break };
            before.push((to, self.nodes[to].clone()));
            add(&mut self.nodes[to], guest);
            chosen.push((guest, to));
        }
        while let Some((to, node)) = before.pop() {
            self.nodes[to] = node;
        }
        if chosen.len() < all {
            return;
        }
        for (guest, to) in chosen {
            self.carry(guest, place, to, MoveReason::Empty);
        }
        self.emptied.insert(place);
        self.plan.emptied.push(self.nodes[place].id.clone());
        let price = self.nodes[place].price_per_hour.as_deref().unwrap_or("0");
        if let Some(last) = self.plan.moves.last_mut() {
            last.price_saved_per_hour = price.parse().unwrap_or_default();
        }
    }

    /// The workloads of a node that may be moved now.
    fn movable(&self, place: usize) -> Vec<&'a WorkloadState> {
        let residence = i64::from(self.policy.residence_seconds) * MICROS_PER_SECOND;
        let own = self.nodes[place].id.as_str();
        let guests = self.guests.get(&place).into_iter().flatten().copied();
        let may_move = |guest: &&WorkloadState| {
            guest.movable
                && guest.since.0 <= self.board.at.0 - residence
                && !self.moved.contains(guest.id.as_str())
                && !self.moved.contains(own)
                && !self.touched.contains(guest.id.as_str())
        };
        guests.filter(may_move).collect()
    }

    /// The best node for a workload: first those that are not cold, for a cold one should rather
    /// be emptied; then those in use; by score, or the fullest for packing.
    fn destination(
        &self,
        guest: &WorkloadState,
        allowed: impl Fn(usize) -> bool,
        pack: bool,
    ) -> Option<(usize, Score)> {
        if self.plan.moves.len() >= self.policy.max_moves as usize {
            return None;
        }
        let relief = percent(self.policy.relief_percent);
        let low = percent(self.policy.low_percent);
        let mut best: Option<(u8, f64, usize, Score)> = None;
        for &place in &self.hosts[usize::from(guest.kind == ResourceKind::POD)] {
            let node = &self.nodes[place];
            let open = !allowed(place) || node.stale || self.emptied.contains(&place);
            if open || self.moved.contains(node.id.as_str()) || (pack && node.is_empty()) {
                continue;
            }
            let rating = self.rate(node, guest);
            let share = share_with(node, guest);
            let unknown = node.cpu.capacity == 0 || node.memory.capacity == 0;
            if rating.misfit.is_some() || unknown || share > relief {
                continue;
            }
            let value = if pack { share } else { f64::from(rating.score.0) };
            let class = u8::from(!node.is_empty()) + u8::from(node.predicted_share() >= low);
            let found = (class, value, place, rating.score);
            if best.is_none_or(|known| (found.0, found.1) > (known.0, known.1)) {
                best = Some(found);
            }
        }
        best.map(|(_, _, place, score)| (place, score))
    }

    fn rate(&self, node: &NodeState, guest: &WorkloadState) -> Rating {
        let reference = self.board.price_reference_micros;
        rate(node, Load::default(), load(guest), self.policy, reference)
    }

    fn carry(&mut self, guest: &'a WorkloadState, from: usize, to: usize, reason: MoveReason) {
        let rating = self.rate(&self.nodes[to], guest);
        let nothing = Load::default();
        let risk = |node: &NodeState| rate(node, nothing, nothing, self.policy, 0).risk_permille.1;
        let before = risk(&self.nodes[from]);
        remove(&mut self.nodes[from], guest);
        let after = risk(&self.nodes[from]);
        add(&mut self.nodes[to], guest);
        self.moved.insert(&guest.id);
        self.received.insert(to);
        self.touched.extend([from, to].map(|place| self.board.nodes[place].id.as_str()));
        if let Some(guests) = self.guests.get_mut(&from) {
            guests.retain(|known| known.id != guest.id);
        }
        self.plan.moves.push(Move {
            workload: guest.id.clone(),
            name: guest.name.clone(),
            project: guest.project.clone(),
            from: self.nodes[from].id.clone(),
            to: self.nodes[to].id.clone(),
            reason,
            score: rating.score,
            from_risk_permille: (before, after),
            to_risk_permille: rating.risk_permille,
            to_cpu_millis: rating.cpu.1,
            to_memory_bytes: rating.memory.1,
            price_saved_per_hour: Decimal::ZERO,
        });
    }
}

fn load(guest: &WorkloadState) -> Load {
    Load {
        cpu_request: guest.cpu_request,
        memory_request: guest.memory_request,
        cpu_peak: guest.cpu_arriving,
        memory_peak: guest.memory_arriving,
    }
}

fn percent(of: u32) -> f64 {
    f64::from(of) / 100.0
}

/// Order by predicted share, then the other way round by id.
fn by_share(one: &NodeState, other: &NodeState) -> std::cmp::Ordering {
    one.predicted_share().total_cmp(&other.predicted_share()).then_with(|| one.id.cmp(&other.id))
}

fn add(node: &mut NodeState, guest: &WorkloadState) {
    node.cpu = with(node.cpu, guest.cpu_request, guest.cpu_arriving);
    node.memory = with(node.memory, guest.memory_request, guest.memory_arriving);
    match guest.kind == ResourceKind::VM {
        true => node.vms += 1,
        false => node.pods += 1,
    }
}

fn remove(node: &mut NodeState, guest: &WorkloadState) {
    (node.cpu, node.memory) = without(node, guest);
    match guest.kind == ResourceKind::VM {
        true => node.vms = node.vms.saturating_sub(1),
        false => node.pods = node.pods.saturating_sub(1),
    }
}

fn share_with(node: &NodeState, guest: &WorkloadState) -> f64 {
    let cpu = with(node.cpu, guest.cpu_request, guest.cpu_arriving);
    let memory = with(node.memory, guest.memory_request, guest.memory_arriving);
    cpu.share(cpu.predicted()).max(memory.share(memory.predicted()))
}

fn share_without(node: &NodeState, guest: &WorkloadState) -> f64 {
    let (cpu, memory) = without(node, guest);
    cpu.share(cpu.predicted()).max(memory.share(memory.predicted()))
}

fn with(mut dimension: Dimension, request: u64, arriving: u64) -> Dimension {
    dimension.allocated = dimension.allocated.saturating_add(request);
    dimension.arrived = dimension.arrived.saturating_add(arriving);
    dimension
}

fn without(node: &NodeState, guest: &WorkloadState) -> (Dimension, Dimension) {
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
    let (cpu, memory) = (guest.cpu_request, guest.memory_request);
    (
        less(node.cpu, cpu, guest.cpu_peak, guest.cpu_arriving, guest.cpu_settled),
        less(node.memory, memory, guest.memory_peak, guest.memory_arriving, guest.memory_settled),
    )
}
