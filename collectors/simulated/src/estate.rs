//! The estate at an instant: what is part of what, and what it all has amounted to.
//!
//! ```text
//! node ─┬─ vm ─── disk, interface
//!       ├─ vm (Kubernetes node) ─── pod ─┬─ container
//!       │                                └─ interface
//!       └─ pod (on a bare node)
//! ```
//!
//! CPU time of a resource is what it burns itself plus what its children burnt while they were
//! part of it. A child that comes notes how far it had counted; when it leaves, what it counted
//! meanwhile is kept in the parent's `departed`. So sums hold exactly, in integers, at every
//! instant and over every move.

use nilometer_contract::Resource;

use crate::config::FleetConfig;
use crate::mix::{self, Random};
use crate::rhythm::{Rhythm, SLOT_MICROS, Series};

/// CPU time is counted in ticks of 2⁻⁹ s: exact in an `f64`, and a whole number of nanoseconds.
pub(crate) const TICKS_PER_SECOND: u64 = 1 << 9;
/// Ticks of one busy core in a slot.
pub(crate) const CORE_TICKS: u64 = TICKS_PER_SECOND * (SLOT_MICROS / 1_000_000);
const PAGE: u64 = 4_096;

/// Place of a resource in the estate; used again after its death.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Key(u32);

/// A counter of the resource's own, such as the bytes it reads.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Flow {
    series: Series,
    /// The series' amount at the flow's zero; negative when a faster series took over.
    zero: i64,
}

/// Memory of the resource's own: `floor` up to `floor + range`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Level {
    pub(crate) series: Series,
    pub(crate) floor: u64,
    pub(crate) range: u64,
}

/// The most that a resource can use, children included: ticks per slot and bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Claim {
    pub(crate) ticks: u64,
    pub(crate) bytes: u64,
}

/// A disk or network interface.
#[derive(Debug)]
pub(crate) struct Device {
    pub(crate) resource: Resource,
    /// Bytes read and written, or received and sent.
    pub(crate) flows: [Flow; 2],
    pub(crate) capacity_bytes: u64,
}

/// A node, VM, pod or container.
#[derive(Debug)]
pub(crate) struct Entity {
    pub(crate) resource: Resource,
    pub(crate) seed: u64,
    pub(crate) born: i64,
    pub(crate) own: Flow,
    pub(crate) level: Level,
    pub(crate) devices: Vec<Device>,
    pub(crate) host: Option<Key>,
    pub(crate) children: Vec<Key>,
    /// What it takes of its host.
    pub(crate) claim: Claim,
    /// What is left of it for more children.
    pub(crate) room: Claim,
    /// Total when its counters last restarted.
    pub(crate) restarted: u64,
    /// Total when it came to its host.
    pub(crate) arrived: u64,
    /// Ticks of children that have left.
    pub(crate) departed: u64,
}

/// Everything alive, and what the simulation needs to go on.
#[derive(Debug)]
pub(crate) struct Estate {
    pub(crate) config: FleetConfig,
    pub(crate) rhythm: Rhythm,
    pub(crate) random: Random,
    entities: Vec<Option<Entity>>,
    vacant: Vec<Key>,
    born: u64,
    pub(crate) nodes: Vec<Key>,
    pub(crate) hypervisors: Vec<Key>,
    pub(crate) bare: Vec<Key>,
    /// VMs that are Kubernetes nodes; they never die.
    pub(crate) clusters: Vec<Key>,
    /// Other VMs that last.
    pub(crate) vms: Vec<Key>,
    /// Pods that last.
    pub(crate) pods: Vec<Key>,
}

impl Flow {
    /// A flow that is zero at `at`.
    pub(crate) fn new(rhythm: &Rhythm, series: Series, at: i64) -> Self {
        Flow { series, zero: rhythm.amount(&series, at) as i64 }
    }

    /// What has flown until `at`.
    pub(crate) fn amount(&self, rhythm: &Rhythm, at: i64) -> u64 {
        (rhythm.amount(&self.series, at) as i64 - self.zero) as u64
    }

    /// Goes on from what it is with another peak.
    pub(crate) fn change(&mut self, rhythm: &Rhythm, peak: u64, at: i64) {
        let amount = self.amount(rhythm, at) as i64;
        self.series = self.series.with_peak(peak);
        self.zero = rhythm.amount(&self.series, at) as i64 - amount;
    }

    /// Restarts from zero.
    pub(crate) fn restart(&mut self, rhythm: &Rhythm, at: i64) {
        self.zero = rhythm.amount(&self.series, at) as i64;
    }
}

impl Level {
    fn bytes(&self, rhythm: &Rhythm, at: i64) -> u64 {
        let share = u128::from(rhythm.share(&self.series, at));
        let over = (u128::from(self.range) * share) >> 16;
        (self.floor + over as u64) & !(PAGE - 1)
    }
}

impl Claim {
    fn fits(self, room: Claim) -> bool {
        self.ticks <= room.ticks && self.bytes <= room.bytes
    }

    /// What is left of this after `claim`, which fits.
    pub(crate) fn less(self, claim: Claim) -> Claim {
        assert!(claim.fits(self), "claims never exceed their host's room");
        Claim { ticks: self.ticks - claim.ticks, bytes: self.bytes - claim.bytes }
    }

    fn plus(self, claim: Claim) -> Claim {
        Claim { ticks: self.ticks + claim.ticks, bytes: self.bytes + claim.bytes }
    }
}

impl Estate {
    /// An estate with nothing in it.
    pub(crate) fn new(config: FleetConfig) -> Self {
        Estate {
            rhythm: Rhythm::new(config.start.0),
            random: Random::new(config.seed),
            config,
            entities: Vec::new(),
            vacant: Vec::new(),
            born: 0,
            nodes: Vec::new(),
            hypervisors: Vec::new(),
            bare: Vec::new(),
            clusters: Vec::new(),
            vms: Vec::new(),
            pods: Vec::new(),
        }
    }

    /// A seed that no other resource of any fleet has, save by chance.
    pub(crate) fn next_seed(&mut self) -> u64 {
        self.born += 1;
        mix::at(mix::mix(self.config.seed ^ 0x666c_6565_7400), self.born)
    }

    /// A resource that is alive.
    pub(crate) fn get(&self, key: Key) -> &Entity {
        let entity = self.entities.get(key.0 as usize).and_then(Option::as_ref);
        let Some(entity) = entity else { panic!("keys are of living resources") };
        entity
    }

    /// A resource that is alive.
    pub(crate) fn get_mut(&mut self, key: Key) -> &mut Entity {
        self.get_mut_with_rhythm(key).0
    }

    /// A resource that is alive, and the rhythm that its flows follow.
    pub(crate) fn get_mut_with_rhythm(&mut self, key: Key) -> (&mut Entity, &Rhythm) {
        let entity = self.entities.get_mut(key.0 as usize).and_then(Option::as_mut);
        let Some(entity) = entity else { panic!("keys are of living resources") };
        (entity, &self.rhythm)
    }

    /// Adds a resource, to its host if it has one.
    pub(crate) fn add(&mut self, entity: Entity) -> Key {
        let host = entity.host;
        let key = match self.vacant.pop() {
            Some(key) => {
                self.entities[key.0 as usize] = Some(entity);
                key
            }
            None => {
                self.entities.push(Some(entity));
                Key((self.entities.len() - 1) as u32)
            }
        };
        if let Some(host) = host {
            self.attach(key, host, 0);
        }
        key
    }

    /// Takes a resource without children out of the estate.
    pub(crate) fn remove(&mut self, key: Key, at: i64) -> Option<Entity> {
        assert!(self.get(key).children.is_empty(), "children die before their parent");
        self.detach(key, at);
        self.vacant.push(key);
        self.entities[key.0 as usize].take()
    }

    /// Makes a resource part of a host that has room for it.
    pub(crate) fn attach(&mut self, key: Key, host: Key, total: u64) {
        let entity = self.get_mut(key);
        entity.arrived = total;
        entity.host = Some(host);
        let claim = entity.claim;
        let host = self.get_mut(host);
        host.room = host.room.less(claim);
        host.children.push(key);
    }

    /// Takes a resource from its host, which keeps what it counted there.
    pub(crate) fn detach(&mut self, key: Key, at: i64) {
        let total = self.total(key, at);
        let entity = self.get_mut(key);
        let Some(host) = entity.host.take() else { return };
        let (claim, counted) = (entity.claim, total - entity.arrived);
        let host = self.get_mut(host);
        host.departed += counted;
        host.room = host.room.plus(claim);
        host.children.retain(|&child| child != key);
    }

    /// Ticks that a resource and its children have burnt until `at`.
    pub(crate) fn total(&self, key: Key, at: i64) -> u64 {
        let entity = self.get(key);
        let children = entity.children.iter();
        let children: u64 =
            children.map(|&child| self.total(child, at) - self.get(child).arrived).sum();
        self.total_with(entity, children, at)
    }

    /// As [`total`](Self::total), with the ticks of the present children known.
    pub(crate) fn total_with(&self, entity: &Entity, children: u64, at: i64) -> u64 {
        entity.own.amount(&self.rhythm, at) + entity.departed + children
    }

    /// Memory of the resource's own at `at`.
    pub(crate) fn own_bytes(&self, entity: &Entity, at: i64) -> u64 {
        entity.level.bytes(&self.rhythm, at)
    }

    /// A host with room: the busier ones are likelier, so that an estate has hot and cold nodes.
    pub(crate) fn host_for(&mut self, hosts: Hosts, claim: Claim) -> Option<Key> {
        let count = self.hosts(hosts).len();
        let first = self.random.index(count).min(self.random.index(count));
        let list = self.hosts(hosts);
        let (before, after) = list.split_at(first);
        after.iter().chain(before).copied().find(|&host| claim.fits(self.get(host).room))
    }

    /// The resources of a sort that can have children.
    pub(crate) fn hosts(&self, hosts: Hosts) -> &[Key] {
        match hosts {
            Hosts::Hypervisors => &self.hypervisors,
            Hosts::Bare => &self.bare,
            Hosts::Clusters => &self.clusters,
        }
    }
}

/// Sorts of hosts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Hosts {
    Hypervisors,
    Bare,
    Clusters,
}
