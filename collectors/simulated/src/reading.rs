//! Reading the meters of the estate, as whole numbers of their smallest unit.
//!
//! A witness gets the readings and the lifecycle changes: one makes an observation of them,
//! another computes the usage that must come of them.

use std::sync::{Arc, OnceLock};

use nilometer_contract::{Change, Meter, Resource, ResourceKind, attribute, catalogue};

use crate::estate::{CORE_TICKS, Device, Entity, Estate, Key, TICKS_PER_SECOND};
use crate::rhythm::SLOT_MICROS;

/// What a meter shows, exactly.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Amount {
    /// CPU time in ticks of 2⁻⁹ s.
    Ticks(u64),
    /// Bytes, or a count.
    Whole(u64),
}

/// A meter and what it shows.
pub(crate) type Reading = (&'static Arc<Meter>, Amount);

/// Sees all that happens, in order of time.
pub(crate) trait Witness {
    /// A resource, or a device, came into being, changed or ceased to be.
    fn change(&mut self, change: Change, at: i64, resource: &Resource);
    /// Meters of one resource were read.
    fn read(&mut self, at: i64, resource: &Resource, readings: &[Reading]);
}

/// Sees nothing: for passing over a time that has been observed before.
#[derive(Debug)]
pub(crate) struct Blind;

impl Witness for Blind {
    fn change(&mut self, _: Change, _: i64, _: &Resource) {}
    fn read(&mut self, _: i64, _: &Resource, _: &[Reading]) {}
}

impl Amount {
    /// The amount in the meter's base unit; exact below 2⁵³ smallest units.
    pub(crate) fn value(self) -> f64 {
        match self {
            Amount::Ticks(ticks) => ticks as f64 / TICKS_PER_SECOND as f64,
            Amount::Whole(count) => count as f64,
        }
    }

    /// The amount in 10⁻¹² of the meter's base unit.
    pub(crate) fn pico(self) -> i128 {
        match self {
            Amount::Ticks(ticks) => {
                i128::from(ticks) * (1_000_000_000_000 / i128::from(TICKS_PER_SECOND))
            }
            Amount::Whole(count) => i128::from(count) * 1_000_000_000_000,
        }
    }
}

macro_rules! meters {
    ($($field:ident: $name:literal,)*) => {
        /// Places of the meters that the fleet has, in the catalogue.
        struct Meters { $($field: &'static Arc<Meter>,)* }

        impl Meters {
            fn get() -> &'static Self {
                static METERS: OnceLock<Meters> = OnceLock::new();
                METERS.get_or_init(|| Meters { $($field: find($name),)* })
            }
        }
    };
}

meters! {
    cpu: "cpu.time",
    cpu_user: "cpu.user.time",
    cpu_system: "cpu.system.time",
    cpu_idle: "cpu.idle.time",
    memory: "memory.usage",
    memory_total: "memory.total",
    memory_available: "memory.available",
    working_set: "memory.working_set",
    processes: "processes",
    disk_read: "disk.read.bytes",
    disk_read_requests: "disk.read.requests",
    disk_write: "disk.write.bytes",
    disk_write_requests: "disk.write.requests",
    disk_capacity: "disk.capacity",
    net_rx: "net.rx.bytes",
    net_rx_packets: "net.rx.packets",
    net_tx: "net.tx.bytes",
    net_tx_packets: "net.tx.packets",
}

fn find(name: &str) -> &'static Arc<Meter> {
    match catalogue().find(name) {
        Some(meter) => meter,
        None => panic!("meter {name} is in the catalogue"),
    }
}

/// What a resource uses at an instant, its children included.
#[derive(Clone, Copy, Debug, Default)]
struct Use {
    ticks: u64,
    bytes: u64,
}

impl Estate {
    /// Reads everything that is alive.
    pub(crate) fn read_all<W: Witness>(&self, at: i64, witness: &mut W) {
        for &node in &self.nodes {
            self.read(node, at, witness);
        }
    }

    /// Reads one resource with all its parts.
    pub(crate) fn read_one<W: Witness>(&self, key: Key, at: i64, witness: &mut W) {
        self.read(key, at, witness);
    }

    /// Reads a node without its parts.
    pub(crate) fn read_bare<W: Witness>(&self, node: Key, at: i64, witness: &mut W) {
        let all = self.read(node, at, &mut Blind);
        self.read_node(self.get(node), all, at, witness);
    }

    fn read<W: Witness>(&self, key: Key, at: i64, witness: &mut W) -> Use {
        let entity = self.get(key);
        let mut children = Use::default();
        for &child in &entity.children {
            let part = self.read(child, at, witness);
            children.ticks += part.ticks - self.get(child).arrived;
            children.bytes += part.bytes;
        }
        let all = Use {
            ticks: self.total_with(entity, children.ticks, at),
            bytes: self.own_bytes(entity, at) + children.bytes,
        };
        match entity.resource.kind.as_str() {
            "node" => self.read_node(entity, all, at, witness),
            "vm" => read_vm(entity, all, at, witness),
            "pod" => read_pod(entity, all, at, witness),
            _ => read_container(entity, all, at, witness),
        }
        for device in &entity.devices {
            self.read_device(device, &entity.resource.kind, at, witness);
        }
        all
    }

    fn read_node<W: Witness>(&self, node: &Entity, all: Use, at: i64, witness: &mut W) {
        let m = Meters::get();
        let size = |name| {
            let size = node.resource.attributes.get(name).and_then(|size| size.parse().ok());
            size.unwrap_or(0_u64)
        };
        let total = size(attribute::MEMORY_BYTES);
        let since = u128::from((at - node.born).unsigned_abs());
        let cores = u128::from(size(attribute::VCPUS)) * u128::from(CORE_TICKS) * since;
        let idle = (cores / u128::from(SLOT_MICROS)) as u64 - all.ticks;
        let system = all.ticks / 8;
        let readings = [
            (m.cpu, Amount::Ticks(all.ticks)),
            (m.cpu_user, Amount::Ticks(all.ticks - system)),
            (m.cpu_system, Amount::Ticks(system)),
            (m.cpu_idle, Amount::Ticks(idle)),
            (m.memory, Amount::Whole(all.bytes)),
            (m.memory_total, Amount::Whole(total)),
            (m.memory_available, Amount::Whole(total - all.bytes)),
            (m.processes, Amount::Whole(180 + 12 * node.children.len() as u64)),
        ];
        witness.read(at, &node.resource, &readings);
    }

    fn read_device<W: Witness>(
        &self,
        device: &Device,
        owner: &ResourceKind,
        at: i64,
        witness: &mut W,
    ) {
        let m = Meters::get();
        let [first, second] = device.flows.map(|flow| flow.amount(&self.rhythm, at));
        let whole = Amount::Whole;
        let node = *owner == ResourceKind::NODE;
        if device.resource.kind == ResourceKind::DISK {
            let readings = [
                (m.disk_read, whole(first)),
                (m.disk_read_requests, whole(first >> 14)),
                (m.disk_write, whole(second)),
                (m.disk_write_requests, whole(second >> 13)),
                (m.disk_capacity, whole(device.capacity_bytes)),
            ];
            witness.read(at, &device.resource, if node { &readings } else { &readings[..4] });
        } else {
            let readings = [
                (m.net_rx, whole(first)),
                (m.net_tx, whole(second)),
                (m.net_rx_packets, whole(first >> 10)),
                (m.net_tx_packets, whole(second >> 10)),
            ];
            witness.read(at, &device.resource, if node { &readings } else { &readings[..2] });
        }
    }
}

fn read_vm<W: Witness>(vm: &Entity, all: Use, at: i64, witness: &mut W) {
    let m = Meters::get();
    let ticks = all.ticks - vm.restarted;
    let system = ticks / 10;
    let readings = [
        (m.cpu, Amount::Ticks(ticks)),
        (m.cpu_user, Amount::Ticks(ticks - system)),
        (m.cpu_system, Amount::Ticks(system)),
        (m.memory, Amount::Whole(all.bytes)),
        (m.memory_total, Amount::Whole(vm.claim.bytes)),
    ];
    witness.read(at, &vm.resource, &readings);
}

fn read_pod<W: Witness>(pod: &Entity, all: Use, at: i64, witness: &mut W) {
    let m = Meters::get();
    let readings = [
        (m.cpu, Amount::Ticks(all.ticks)),
        (m.memory, Amount::Whole(all.bytes)),
        (m.working_set, Amount::Whole(all.bytes + all.bytes / 16)),
    ];
    witness.read(at, &pod.resource, &readings);
}

fn read_container<W: Witness>(container: &Entity, all: Use, at: i64, witness: &mut W) {
    let m = Meters::get();
    let readings = [
        (m.cpu, Amount::Ticks(all.ticks)),
        (m.working_set, Amount::Whole(all.bytes + all.bytes / 16)),
        (m.memory, Amount::Whole(all.bytes)),
    ];
    witness.read(at, &container.resource, &readings);
}
