//! The runtime's statistics as samples, stamped with the runtime's own instants.
//!
//! A value that the runtime did not measure is absent, not zero. `memory.usage` leaves out the
//! page cache that can be dropped, as the catalogue says, which is CRI's working set; CRI's
//! `usage_bytes`, cache included, stands in only where there is no working set.

use nilometer_contract::{BatchBuilder, LifecycleEvent, Resource, Subject, Timestamp, catalogue};

use crate::api::{
    ContainerStats, CpuUsage, MemoryUsage, NetworkInterfaceUsage, PodSandboxStats, UInt64Value,
};
use crate::ledger::{Ledger, Origin};

const NANOS_PER_SECOND: f64 = 1e9;
/// What a counter may be ahead of the wall clock when it is judged for its age.
const SLACK_NANOS: u128 = 1_000_000_000;

/// Samples of running containers the ledger knows; others are left out until it does.
pub(crate) fn containers(
    stats: &[ContainerStats],
    ledger: &mut Ledger,
    now: Timestamp,
    samples: &mut BatchBuilder,
) {
    for stats in stats {
        let id = stats.attributes.as_ref().map(|attributes| attributes.id.as_str());
        let Some(known) = id.and_then(|id| ledger.container_mut(id)) else { continue };
        let (Some(started), None) = (known.started, known.ended) else { continue };
        let subject = samples.subject(&known.resource);
        if let Some((at, nanos)) = cpu(stats.cpu.as_ref(), now) {
            origin(&mut known.origin, started, (at, nanos), subject, samples);
            samples.push_named(subject, "cpu.time", at, seconds(nanos));
        }
        memory(stats.memory.as_ref(), &known.resource, now, subject, samples);
        // Without an instant the snapshotter has not been asked yet, and its zeros mean nothing.
        if let Some(layer) = stats.writable_layer.filter(|layer| layer.timestamp > 0) {
            let at = Timestamp::from_nanos(layer.timestamp);
            push(samples, subject, "disk.usage", at, layer.used_bytes);
            push(samples, subject, "filesystem.inodes.usage", at, layer.inodes_used);
        }
        if let Some(swap) = stats.swap {
            let at = instant(swap.timestamp, now);
            push(samples, subject, "swap.usage", at, swap.swap_usage_bytes);
        }
    }
}

/// Samples of ready pods; the events are of interfaces seen for the first time.
pub(crate) fn pods(
    stats: &[PodSandboxStats],
    ledger: &mut Ledger,
    now: Timestamp,
    samples: &mut BatchBuilder,
) -> Vec<LifecycleEvent> {
    let mut events = Vec::new();
    for stats in stats {
        let id = stats.attributes.as_ref().map(|attributes| attributes.id.as_str());
        let (Some(id), Some(linux)) = (id, &stats.linux) else { continue };
        let Some(known) = ledger.pod_mut(id).filter(|pod| pod.ended.is_none()) else { continue };
        let subject = samples.subject(&known.resource);
        if let Some((at, nanos)) = cpu(linux.cpu.as_ref(), now) {
            // Only a cgroup of its own was new when the pod was, and only a first sandbox's.
            if known.cgroup.is_some() && known.attempt == 0 {
                origin(&mut known.origin, known.created, (at, nanos), subject, samples);
            }
            samples.push_named(subject, "cpu.time", at, seconds(nanos));
        }
        memory(linux.memory.as_ref(), &known.resource, now, subject, samples);
        if let Some(process) = linux.process {
            let at = instant(process.timestamp, now);
            push(samples, subject, "processes", at, process.process_count);
        }
        let Some(network) = &linux.network else { continue };
        let at = instant(network.timestamp, now);
        // Runtimes differ in whether the default interface is listed among the others too.
        let mut seen: Vec<&str> = Vec::new();
        for interface in network.default_interface.iter().chain(&network.interfaces) {
            if interface.name.is_empty() || seen.contains(&interface.name.as_str()) {
                continue;
            }
            seen.push(&interface.name);
            let Some((resource, new)) = ledger.interface_seen(id, &interface.name) else {
                continue;
            };
            events.extend(new);
            net(interface, &resource, at, samples);
        }
    }
    events
}

/// The last reading of a CPU counter, at the last microsecond of `[start, end)`.
pub(crate) fn final_cpu(
    resource: &Resource,
    decided: &mut Origin,
    (start, end): (Timestamp, Timestamp),
    nanos: u64,
    samples: &mut BatchBuilder,
) {
    let at = end.plus_micros(-1);
    if at <= start {
        return;
    }
    let subject = samples.subject(Subject::from(resource));
    origin(decided, start, (at, nanos), subject, samples);
    samples.push_named(subject, "cpu.time", at, seconds(nanos));
}

/// Writes the zero with which a new cgroup's counter started, when this first reading is so early
/// that it speaks for all the time since, and no more than that time can hold.
fn origin(
    decided: &mut Origin,
    start: Timestamp,
    (at, nanos): (Timestamp, u64),
    subject: u32,
    samples: &mut BatchBuilder,
) {
    if std::mem::replace(decided, Origin::Settled) == Origin::Settled || at <= start {
        return;
    }
    let Some(meter) = catalogue().find("cpu.time") else { return };
    let age_micros = at.0.abs_diff(start.0);
    let young = age_micros <= meter.hold_micros.unsigned_abs();
    let cores = std::thread::available_parallelism().map_or(1, usize::from) as u128;
    let most = (u128::from(age_micros) * 1_000 + SLACK_NANOS) * cores;
    if young && u128::from(nanos) <= most {
        samples.push(subject, meter, start, 0.0);
    }
}

fn cpu(usage: Option<&CpuUsage>, now: Timestamp) -> Option<(Timestamp, u64)> {
    let usage = usage?;
    Some((instant(usage.timestamp, now), usage.usage_core_nano_seconds?.value))
}

fn memory(
    usage: Option<&MemoryUsage>,
    resource: &Resource,
    now: Timestamp,
    subject: u32,
    samples: &mut BatchBuilder,
) {
    let Some(usage) = usage else { return };
    let at = instant(usage.timestamp, now);
    let in_use = usage.working_set_bytes.or(usage.usage_bytes);
    push(samples, subject, "memory.usage", at, in_use);
    push(samples, subject, "memory.working_set", at, usage.working_set_bytes);
    push(samples, subject, "memory.resident", at, usage.rss_bytes);
    // Without a limit containerd says zero, which would read as exhausted.
    let limited = resource.attributes.contains_key("memory_bytes");
    let available = usage.available_bytes.filter(|bytes| bytes.value > 0 || limited);
    push(samples, subject, "memory.available", at, available);
}

fn net(usage: &NetworkInterfaceUsage, to: &Resource, at: Timestamp, samples: &mut BatchBuilder) {
    let subject = samples.subject(to);
    push(samples, subject, "net.rx.bytes", at, usage.rx_bytes);
    push(samples, subject, "net.rx.errors", at, usage.rx_errors);
    push(samples, subject, "net.tx.bytes", at, usage.tx_bytes);
    push(samples, subject, "net.tx.errors", at, usage.tx_errors);
}

fn push(
    samples: &mut BatchBuilder,
    subject: u32,
    meter: &str,
    at: Timestamp,
    value: Option<UInt64Value>,
) {
    if let Some(value) = value {
        samples.push_named(subject, meter, at, value.value as f64);
    }
}

fn seconds(nanos: u64) -> f64 {
    nanos as f64 / NANOS_PER_SECOND
}

/// The runtime's instant, or ours where it gives none.
fn instant(nanos: i64, now: Timestamp) -> Timestamp {
    Some(Timestamp::from_nanos(nanos)).filter(|at| at.is_plausible()).unwrap_or(now)
}

#[cfg(test)]
mod tests;
