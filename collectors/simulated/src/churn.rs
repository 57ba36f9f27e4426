//! What happens to the estate, and when: births, deaths, resizes, moves, transfers, reboots.
//!
//! The agenda runs by itself, whenever the meters are read, so that the same things happen at
//! the same instants however the time is cut into steps. No two things happen at one instant.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use nilometer_contract::{Change, MICROS_PER_HOUR, MICROS_PER_SECOND, ResourceKind};

use crate::estate::{Estate, Hosts, Key};
use crate::mix;
use crate::reading::Witness;

/// Births this long after the death they make up for, at most.
const REBIRTH_MICROS: u64 = 120_000_000;
/// One VM of this many is a Kubernetes node.
const VMS_PER_CLUSTER: u32 = 6;
const JOB_MICROS: u64 = 600_000_000;

/// Something that happens.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Action {
    /// The fleet comes into being.
    Found,
    Birth(Sort),
    Death(Key),
    /// Something that comes again and again.
    Recurring(Recurring),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Recurring {
    Replacement,
    Job,
    Resize,
    Move,
    Transfer,
    Reboot,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Sort {
    Vm,
    Pod,
}

/// The estate with what is going to happen to it.
#[derive(Debug)]
pub(crate) struct Living {
    pub(crate) estate: Estate,
    agenda: BinaryHeap<Reverse<(i64, u64, Action)>>,
    planned: u64,
    last: i64,
    /// Instant of the newest reading of everything.
    pub(crate) read_at: Option<i64>,
}

impl Living {
    /// A fleet that is going to be founded.
    pub(crate) fn new(estate: Estate) -> Self {
        let start = estate.config.start.0;
        let agenda = BinaryHeap::new();
        let mut living = Living { estate, agenda, planned: 0, last: start - 1, read_at: None };
        living.plan(start, Action::Found);
        living
    }

    /// When the next thing happens.
    #[cfg(test)]
    pub(crate) fn next_at(&self) -> i64 {
        self.agenda.peek().map_or(i64::MAX, |Reverse((at, ..))| (*at).max(self.last + 1))
    }

    /// Lets everything happen up to `upto`, that instant included.
    pub(crate) fn run<W: Witness>(&mut self, upto: i64, witness: &mut W) {
        while let Some(&Reverse((planned, order, action))) = self.agenda.peek() {
            if planned > upto {
                return;
            }
            self.agenda.pop();
            let at = planned.max(self.last + 1);
            if at > planned {
                self.agenda.push(Reverse((at, order, action)));
                continue;
            }
            self.last = at;
            self.act(action, at, witness);
        }
    }

    fn plan(&mut self, at: i64, action: Action) {
        self.planned += 1;
        self.agenda.push(Reverse((at, self.planned, action)));
    }

    fn act<W: Witness>(&mut self, action: Action, at: i64, witness: &mut W) {
        match action {
            Action::Found => self.found(at, witness),
            Action::Birth(sort) => {
                if let Some(key) = self.bear(sort, at, witness) {
                    self.lasting(sort).push(key);
                }
            }
            Action::Death(key) => self.kill(key, at, witness),
            Action::Recurring(action) => {
                self.plan_next(action, at);
                match action {
                    Recurring::Replacement => self.replace(at, witness),
                    Recurring::Job => self.job(at, witness),
                    Recurring::Resize => self.resize(at, witness),
                    Recurring::Move => self.migrate(at, witness),
                    Recurring::Transfer => self.transfer(at, witness),
                    Recurring::Reboot => self.reboot(at),
                }
            }
        }
    }

    fn plan_next(&mut self, action: Recurring, at: i64) {
        let churn = &self.estate.config.churn;
        let per_hour = match action {
            Recurring::Replacement => churn.replacements_per_hour,
            Recurring::Job => churn.jobs_per_hour,
            Recurring::Resize => churn.resizes_per_hour,
            Recurring::Move => churn.moves_per_hour,
            Recurring::Transfer => churn.transfers_per_hour,
            Recurring::Reboot => churn.reboots_per_hour,
        };
        let Some(mean) = (MICROS_PER_HOUR as u64).checked_div(per_hour.into()) else { return };
        let after = 1 + self.estate.random.below(2 * mean) as i64;
        self.plan(at + after, Action::Recurring(action));
    }

    fn found<W: Witness>(&mut self, at: i64, witness: &mut W) {
        for n in 0..self.estate.config.nodes {
            let node = self.estate.add_node(n, at);
            self.tell(Change::Created, node, at, witness);
        }
        let all = self.estate.config.vms_and_pods;
        let vms = (all * 35 / 100).max(1);
        for n in 0..vms {
            if n.is_multiple_of(VMS_PER_CLUSTER) {
                if let Some(key) = self.estate.add_cluster(at) {
                    self.tell(Change::Created, key, at, witness);
                }
            } else if let Some(key) = self.bear(Sort::Vm, at, witness) {
                self.estate.vms.push(key);
            }
        }
        for _ in vms..all {
            if let Some(key) = self.bear(Sort::Pod, at, witness) {
                self.estate.pods.push(key);
            }
        }
        use Recurring::{Job, Move, Reboot, Replacement, Resize, Transfer};
        for action in [Replacement, Job, Resize, Move, Transfer, Reboot] {
            self.plan_next(action, at);
        }
    }

    fn bear<W: Witness>(&mut self, sort: Sort, at: i64, witness: &mut W) -> Option<Key> {
        let key = match sort {
            Sort::Vm => self.estate.add_vm(at),
            Sort::Pod => self.estate.add_pod(at),
        }?;
        self.tell(Change::Created, key, at, witness);
        Some(key)
    }

    fn lasting(&mut self, sort: Sort) -> &mut Vec<Key> {
        match sort {
            Sort::Vm => &mut self.estate.vms,
            Sort::Pod => &mut self.estate.pods,
        }
    }

    fn replace<W: Witness>(&mut self, at: i64, witness: &mut W) {
        let (vms, pods) = (self.estate.vms.len(), self.estate.pods.len());
        if vms + pods == 0 {
            return;
        }
        let n = self.estate.random.index(vms + pods);
        let (sort, n) = if n < vms { (Sort::Vm, n) } else { (Sort::Pod, n - vms) };
        let key = self.lasting(sort).swap_remove(n);
        self.kill(key, at, witness);
        let after = 1 + self.estate.random.below(REBIRTH_MICROS) as i64;
        self.plan(at + after, Action::Birth(sort));
    }

    fn job<W: Witness>(&mut self, at: i64, witness: &mut W) {
        let sort = if self.estate.random.below(5) == 0 { Sort::Vm } else { Sort::Pod };
        let life = match self.estate.random.below(4) {
            0 => 3 * MICROS_PER_SECOND,
            1 => 61 * MICROS_PER_SECOND,
            _ => MICROS_PER_SECOND / 2 + self.estate.random.below(JOB_MICROS) as i64,
        };
        if let Some(key) = self.bear(sort, at, witness) {
            self.plan(at + life, Action::Death(key));
        }
    }

    fn resize<W: Witness>(&mut self, at: i64, witness: &mut W) {
        let Some(key) = self.any_vm() else { return };
        if self.estate.resize(key, at) {
            let resource = &self.estate.get(key).resource;
            witness.change(Change::Changed, at, resource);
        }
    }

    /// Live migration: the counters go on, the pods come along. Both nodes are read at that
    /// instant, else the VM would count on one whose memory was read without it.
    fn migrate<W: Witness>(&mut self, at: i64, witness: &mut W) {
        let (vms, clusters) = (self.estate.vms.len(), self.estate.clusters.len());
        if vms + clusters == 0 {
            return;
        }
        let n = self.estate.random.index(vms + clusters);
        let estate = &self.estate;
        let Some(&key) = estate.vms.iter().chain(&estate.clusters).nth(n) else { return };
        let (claim, source) = (estate.get(key).claim, estate.get(key).host);
        let target = self.estate.host_for(Hosts::Hypervisors, claim);
        let Some(target) = target.filter(|&host| Some(host) != source) else {
            return;
        };
        let total = self.estate.total(key, at);
        self.estate.detach(key, at);
        self.estate.attach(key, target, total);
        let node = self.estate.get(target).resource.node.clone();
        self.estate.get_mut(key).resource.parent = Some(node.clone());
        self.set_node(key, &node);
        self.tell(Change::Changed, key, at, witness);
        for node in source.into_iter().chain([target]) {
            self.estate.read_bare(node, at, witness);
        }
    }

    fn set_node(&mut self, key: Key, node: &str) {
        let entity = self.estate.get_mut(key);
        node.clone_into(&mut entity.resource.node);
        for device in &mut entity.devices {
            node.clone_into(&mut device.resource.node);
        }
        for n in 0..self.estate.get(key).children.len() {
            let child = self.estate.get(key).children[n];
            self.set_node(child, node);
        }
    }

    fn transfer<W: Witness>(&mut self, at: i64, witness: &mut W) {
        let Some(key) = self.any_vm() else { return };
        let project = self.estate.any_project();
        let entity = self.estate.get_mut(key);
        if entity.resource.project == project {
            return;
        }
        for device in &mut entity.devices {
            project.clone_into(&mut device.resource.project);
        }
        entity.resource.project = project;
        self.tell(Change::Changed, key, at, witness);
    }

    fn reboot(&mut self, at: i64) {
        let Some(key) = self.any_vm() else { return };
        let total = self.estate.total(key, at);
        let (entity, rhythm) = self.estate.get_mut_with_rhythm(key);
        entity.restarted = total;
        for flow in entity.devices.iter_mut().flat_map(|device| &mut device.flows) {
            flow.restart(rhythm, at);
        }
    }

    fn any_vm(&mut self) -> Option<Key> {
        let count = self.estate.vms.len();
        let n = self.estate.random.index(count);
        self.estate.vms.get(n).copied()
    }

    /// Most leave a last reading behind; none does of which nothing had been read before.
    fn kill<W: Witness>(&mut self, key: Key, at: i64, witness: &mut W) {
        let entity = self.estate.get(key);
        let seen = self.read_at.is_some_and(|read_at| entity.born <= read_at);
        if seen && !mix::at(entity.seed, 20).is_multiple_of(8) {
            self.estate.read_one(key, at, witness);
        }
        self.bury(key, at, witness);
    }

    fn bury<W: Witness>(&mut self, key: Key, at: i64, witness: &mut W) {
        while let Some(&child) = self.estate.get(key).children.last() {
            self.bury(child, at, witness);
        }
        let Some(entity) = self.estate.remove(key, at) else { return };
        assert!(entity.resource.kind != ResourceKind::NODE, "nodes never die");
        for device in &entity.devices {
            witness.change(Change::Deleted, at, &device.resource);
        }
        witness.change(Change::Deleted, at, &entity.resource);
    }

    /// Tells of a resource, its devices and its children, outermost first.
    fn tell<W: Witness>(&self, change: Change, key: Key, at: i64, witness: &mut W) {
        let entity = self.estate.get(key);
        witness.change(change, at, &entity.resource);
        for device in &entity.devices {
            witness.change(change, at, &device.resource);
        }
        for &child in &entity.children {
            self.tell(change, child, at, witness);
        }
    }
}
