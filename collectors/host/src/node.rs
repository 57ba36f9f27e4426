//! The node itself: CPU, load, memory, swap and pressure.
//!
//! ```text
//! /proc/stat   cpu  user nice system idle iowait irq softirq steal guest guest_nice   (ticks)
//!                   └────────── cpu.time leaves idle and iowait out ──┘ └ in user ┘
//! ```

use std::path::Path;

use nilometer_contract::{BatchBuilder, Change, Resource, ResourceKind, Timestamp};
use nilometer_source::{Observation, SourceError};

use crate::context::{Context, value_of};
use crate::pressure;
use crate::roster::event;

const STATES: usize = 10;
const KIB: u64 = 1_024;

/// Reads the node's own counters.
pub(crate) struct Node {
    ticks_per_second: f64,
    page_bytes: f64,
    machine_id: String,
    start: Option<Timestamp>,
    told: Option<Resource>,
    highest: [u64; STATES],
    pub(crate) has_pressure: bool,
}

/// What `/proc/stat` says.
#[derive(Debug, PartialEq, Eq)]
struct Stat {
    ticks: [u64; STATES],
    cpus: usize,
    boot_seconds: i64,
}

impl Node {
    pub(crate) fn new(machine_id: &Path, context: &mut Context) -> Self {
        let machine_id = context.files.read(machine_id).unwrap_or_default().trim().to_owned();
        Node {
            ticks_per_second: rustix::param::clock_ticks_per_second() as f64,
            page_bytes: rustix::param::page_size() as f64,
            machine_id,
            start: None,
            told: None,
            highest: [0; STATES],
            has_pressure: false,
        }
    }

    /// Observes the node; returns its resource. Without `/proc/stat` there is no node to speak of.
    pub(crate) fn observe(
        &mut self,
        context: &mut Context,
        out: &mut Observation,
    ) -> Result<Resource, SourceError> {
        let at = context.clock.now();
        let stat = context.read_proc("stat").and_then(Stat::parse).ok_or_else(|| SourceError {
            what: format!("no CPU counters in {}", context.proc.join("stat").display()),
            cause: None,
        })?;
        let memory_bytes = context.read_proc("meminfo").and_then(|text| meminfo(text, "MemTotal"));
        let node = self.resource(context, &stat, memory_bytes);
        self.tell(at, &stat, &node, out);
        let subject = out.samples.subject(&node);
        self.sample_cpu(&stat, at, subject, &mut out.samples);
        sample_load(context, subject, &mut out.samples);
        self.sample_memory(context, subject, &mut out.samples);
        let (at, proc) = (context.clock.now(), context.proc.join("pressure"));
        let path_of = |resource: &str| proc.join(resource).into_boxed_path();
        let files = &mut context.files;
        self.has_pressure = pressure::sample(files, path_of, at, subject, &mut out.samples) > 0;
        Ok(node)
    }

    /// Created once, at the boot; its instant is kept although stepping the clock moves `btime`.
    fn tell(&mut self, at: Timestamp, stat: &Stat, node: &Resource, out: &mut Observation) {
        let start = *self.start.get_or_insert(Timestamp::from_seconds(stat.boot_seconds));
        match &self.told {
            None => out.events.push(event(Change::Created, start, node.clone())),
            Some(before) if before != node => {
                out.events.push(event(Change::Changed, at, node.clone()));
            }
            Some(_) => return,
        }
        self.told = Some(node.clone());
    }

    fn resource(&self, context: &mut Context, stat: &Stat, memory: Option<u64>) -> Resource {
        let mut node = Resource::new(context.node.clone(), ResourceKind::NODE);
        node.name = context.node.clone();
        node.node = context.node.clone();
        let mut set = |key: &str, value: String| {
            if !value.is_empty() {
                node.attributes.insert(key.to_owned(), value);
            }
        };
        set("vcpus", stat.cpus.to_string());
        set("memory_bytes", memory.map(|bytes| bytes.to_string()).unwrap_or_default());
        set("machine_id", self.machine_id.clone());
        for (key, file) in
            [("kernel", "sys/kernel/osrelease"), ("boot_id", "sys/kernel/random/boot_id")]
        {
            set(key, context.read_proc(file).unwrap_or_default().trim().to_owned());
        }
        node
    }

    fn sample_cpu(&mut self, stat: &Stat, at: Timestamp, subject: u32, out: &mut BatchBuilder) {
        // Idle and waiting time may go back by a few ticks; that is no reset of the counter.
        for (highest, ticks) in self.highest.iter_mut().zip(stat.ticks) {
            *highest = ticks.max(*highest);
        }
        let [user, nice, system, idle, iowait, irq, softirq, steal, guest, guest_nice] =
            self.highest;
        let states = [
            ("cpu.time", user + nice + system + irq + softirq + steal),
            ("cpu.user.time", user),
            ("cpu.nice.time", nice),
            ("cpu.system.time", system),
            ("cpu.idle.time", idle),
            ("cpu.iowait.time", iowait),
            ("cpu.irq.time", irq),
            ("cpu.softirq.time", softirq),
            ("cpu.steal.time", steal),
            ("cpu.guest.time", guest + guest_nice),
        ];
        for (meter, ticks) in states {
            out.push_named(subject, meter, at, ticks as f64 / self.ticks_per_second);
        }
    }

    fn sample_memory(&self, context: &mut Context, subject: u32, out: &mut BatchBuilder) {
        let at = context.clock.now();
        if let Some(text) = context.read_proc("meminfo") {
            let of = |key| meminfo(text, key);
            let less = |all: Option<u64>, part: Option<u64>| Some(all?.saturating_sub(part?));
            let levels = [
                ("memory.total", of("MemTotal")),
                ("memory.available", of("MemAvailable")),
                ("memory.free", of("MemFree")),
                ("memory.usage", less(of("MemTotal"), of("MemAvailable"))),
                ("memory.resident", of("AnonPages")),
                ("memory.cache", of("Cached").zip(of("Buffers")).map(|(c, b)| c + b)),
                ("swap.total", of("SwapTotal")),
                ("swap.usage", less(of("SwapTotal"), of("SwapFree"))),
            ];
            for (meter, bytes) in levels {
                if let Some(bytes) = bytes {
                    out.push_named(subject, meter, at, bytes as f64);
                }
            }
        }
        if let Some(text) = context.read_proc("vmstat") {
            for (meter, key) in [("swap.in.bytes", "pswpin"), ("swap.out.bytes", "pswpout")] {
                if let Some(pages) = value_of(text, key) {
                    out.push_named(subject, meter, at, pages as f64 * self.page_bytes);
                }
            }
        }
    }
}

fn sample_load(context: &mut Context, subject: u32, out: &mut BatchBuilder) {
    let at = context.clock.now();
    let Some(text) = context.read_proc("loadavg") else { return };
    let mut words = text.split_ascii_whitespace();
    for meter in ["load.1m", "load.5m", "load.15m"] {
        if let Some(load) = words.next().and_then(|word| word.parse().ok()) {
            out.push_named(subject, meter, at, load);
        }
    }
    let tasks = words.next().and_then(|word| word.split_once('/')?.1.parse().ok());
    if let Some(tasks) = tasks {
        out.push_named(subject, "processes", at, tasks);
    }
}

/// A line of `/proc/meminfo` in bytes.
fn meminfo(text: &str, key: &str) -> Option<u64> {
    text.lines().find_map(|line| {
        let rest = line.strip_prefix(key)?.strip_prefix(':')?;
        rest.split_ascii_whitespace().next()?.parse::<u64>().ok()?.checked_mul(KIB)
    })
}

impl Stat {
    fn parse(text: &str) -> Option<Self> {
        let mut stat = Stat { ticks: [0; STATES], cpus: 0, boot_seconds: 0 };
        let mut found = false;
        for line in text.lines() {
            if let Some(states) = line.strip_prefix("cpu ") {
                // Older kernels tell fewer states; what they do not tell is zero.
                for (place, word) in stat.ticks.iter_mut().zip(states.split_ascii_whitespace()) {
                    *place = word.parse().ok()?;
                }
                found = true;
            } else if line.starts_with("cpu") {
                stat.cpus += 1;
            } else if let Some(seconds) = line.strip_prefix("btime ") {
                stat.boot_seconds = seconds.trim().parse().ok()?;
            }
        }
        found.then_some(stat)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stat_is_read_whatever_else_it_holds() {
        let text = "cpu  10 1 5 100 2 0 3 4 6 0\ncpu0 5 1 2 50 1 0 1 2 3 0\ncpu1 5 0 3 50 1 0 2 2 3 0\n\
                    intr 5 0 0\nbtime 1795403343\nprocs_running 6\n";
        let stat = Stat::parse(text).unwrap();
        assert_eq!(stat.ticks, [10, 1, 5, 100, 2, 0, 3, 4, 6, 0]);
        assert_eq!((stat.cpus, stat.boot_seconds), (2, 1_795_403_343));
        assert_eq!(Stat::parse("intr 5\n"), None);
    }

    #[test]
    fn meminfo_is_in_bytes_and_keys_are_whole() {
        let text = "MemTotal:       24684096 kB\nCached:          10 kB\nSwapCached:  7 kB\n";
        assert_eq!(meminfo(text, "MemTotal"), Some(24_684_096 * KIB));
        assert_eq!(meminfo(text, "Cached"), Some(10 * KIB));
        assert_eq!(meminfo(text, "Mem"), None);
    }
}
