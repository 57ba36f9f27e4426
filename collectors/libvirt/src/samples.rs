//! One reading of a domain as samples.
//!
//! `cpu.wait.time` is the sum over the virtual CPUs there are, so taking one away lets it fall,
//! which counts as a reset.

use nilometer_contract::{BatchBuilder, Resource, Timestamp};

use crate::description::Description;
use crate::resources::{Children, disk_id, interface_id};
use crate::stats::{Balloon, DiskStats, DomainStats, InterfaceStats};

const NANOS_PER_SECOND: f64 = 1e9;
/// A guest that has not reported for longer says nothing of its memory now.
const MAX_REPORT_AGE_SECONDS: i64 = 300;
/// Meters of a VM that stand at zero when its process starts.
const VM_FROM_ZERO: [&str; 3] = ["cpu.time", "cpu.user.time", "cpu.system.time"];
/// Meters of a disk that stand at zero when the process of its VM starts.
const DISK_FROM_ZERO: [&str; 6] = [
    "disk.read.bytes",
    "disk.read.requests",
    "disk.read.time",
    "disk.write.bytes",
    "disk.write.requests",
    "disk.write.time",
];

/// Samples of the VM and of those of its devices that are among `children`.
pub(crate) fn push(
    batch: &mut BatchBuilder,
    vm: &Resource,
    children: &Children,
    description: &Description,
    stats: &DomainStats,
    at: Timestamp,
) {
    push_vm(batch, vm, stats, at);
    for disk in stats.disks.iter().flat_map(|disks| disks.values()) {
        if let Some(resource) = children.get(&disk_id(vm, disk)) {
            push_disk(batch, resource, disk, at);
        }
    }
    for interface in stats.interfaces.iter().flat_map(|interfaces| interfaces.values()) {
        let id = interface_id(vm, description, &interface.name);
        if let Some(resource) = children.get(&id) {
            push_interface(batch, resource, interface, at);
        }
    }
}

/// The counters of a process that starts at `start`: zero. With them, what a VM used before its
/// first reading is counted too. Only for a VM whose birth was seen, so that a VM found running
/// does not get its whole past billed at once.
pub(crate) fn push_zeros(
    batch: &mut BatchBuilder,
    vm: &Resource,
    children: &Children,
    start: Timestamp,
) {
    let disks =
        children.values().filter(|child| child.kind == nilometer_contract::ResourceKind::DISK);
    let of_vm = std::iter::once((vm, VM_FROM_ZERO.as_slice()));
    for (resource, meters) in of_vm.chain(disks.map(|disk| (disk, DISK_FROM_ZERO.as_slice()))) {
        let subject = batch.subject(resource);
        for meter in meters {
            batch.push_named(subject, meter, start, 0.0);
        }
    }
}

fn push_vm(batch: &mut BatchBuilder, vm: &Resource, stats: &DomainStats, at: Timestamp) {
    let subject = batch.subject(vm);
    let mut put = |meter, value: Option<f64>| {
        if let Some(value) = value {
            batch.push_named(subject, meter, at, value);
        }
    };
    put("cpu.time", stats.cpu_time.map(seconds));
    put("cpu.user.time", stats.cpu_user.map(seconds));
    put("cpu.system.time", stats.cpu_system.map(seconds));
    put("cpu.wait.time", stats.wait().map(seconds));
    put("memory.total", stats.balloon.current.map(bytes));
    put("memory.resident", stats.balloon.resident.map(bytes));
    if is_stale(&stats.balloon, at) {
        return;
    }
    let Balloon { available, unused, usable, swap_in, swap_out, .. } = stats.balloon;
    let usage = available.zip(unused).and_then(|(all, unused)| all.checked_sub(unused));
    put("memory.usage", usage.map(bytes));
    put("memory.available", usable.or(unused).map(bytes));
    put("memory.free", unused.map(bytes));
    put("swap.in.bytes", swap_in.map(bytes));
    put("swap.out.bytes", swap_out.map(bytes));
}

fn push_disk(batch: &mut BatchBuilder, resource: &Resource, disk: &DiskStats, at: Timestamp) {
    let subject = batch.subject(resource);
    let mut put = |meter, value: Option<f64>| {
        if let Some(value) = value {
            batch.push_named(subject, meter, at, value);
        }
    };
    put("disk.read.bytes", disk.read.bytes.map(bytes));
    put("disk.read.requests", disk.read.count.map(bytes));
    put("disk.read.time", disk.read.nanos.map(seconds));
    put("disk.write.bytes", disk.write.bytes.map(bytes));
    put("disk.write.requests", disk.write.count.map(bytes));
    put("disk.write.time", disk.write.nanos.map(seconds));
    put("disk.capacity", disk.capacity.map(bytes));
    // Physical is what the image takes on its storage; allocation only how far it was written.
    put("disk.usage", disk.physical.or(disk.allocation).map(bytes));
}

fn push_interface(
    batch: &mut BatchBuilder,
    resource: &Resource,
    interface: &InterfaceStats,
    at: Timestamp,
) {
    let subject = batch.subject(resource);
    let mut put = |meter, value: Option<u64>| {
        if let Some(value) = value {
            batch.push_named(subject, meter, at, value as f64);
        }
    };
    put("net.rx.bytes", interface.received.bytes);
    put("net.rx.packets", interface.received.packets);
    put("net.rx.errors", interface.received.errors);
    put("net.rx.drops", interface.received.drops);
    put("net.tx.bytes", interface.sent.bytes);
    put("net.tx.packets", interface.sent.packets);
    put("net.tx.errors", interface.sent.errors);
    put("net.tx.drops", interface.sent.drops);
}

fn is_stale(balloon: &Balloon, at: Timestamp) -> bool {
    let reported = balloon.reported.and_then(|seconds| i64::try_from(seconds).ok());
    let now = at.0 / nilometer_contract::MICROS_PER_SECOND;
    reported.is_some_and(|reported| now.saturating_sub(reported) > MAX_REPORT_AGE_SECONDS)
}

fn seconds(nanos: u64) -> f64 {
    nanos as f64 / NANOS_PER_SECOND
}

fn bytes(count: u64) -> f64 {
    count as f64
}
