//! The counters of one cgroup, of either version, under the meters' names.

use std::path::{Path, PathBuf};

use nilometer_contract::{BatchBuilder, Timestamp};

use super::tree::Hierarchy;
use crate::context::{Files, value_of};
use crate::pressure;

const NANOS: f64 = 1e9;
const MICROS: f64 = 1e6;

/// Where the samples of one cgroup go.
pub(crate) struct Reading<'a> {
    pub(crate) files: &'a mut Files,
    pub(crate) at: Timestamp,
    pub(crate) subject: u32,
    pub(crate) samples: &'a mut BatchBuilder,
}

/// Samples a cgroup. Each meter is told by one hierarchy: a controller is bound to one, except
/// CPU time, which in a hybrid layout version 1 tells where the cgroup is there.
pub(crate) fn sample(
    hierarchies: &[Hierarchy],
    path: &str,
    inodes: &[u64],
    cpu: &mut Option<usize>,
    reading: &mut Reading<'_>,
) {
    let of = |place: usize| &hierarchies[place].controllers;
    let there: Vec<usize> = (0..hierarchies.len()).filter(|&n| inodes[n] != 0).collect();
    *cpu = cpu
        .filter(|place| there.contains(place))
        .or_else(|| there.iter().copied().find(|&n| of(n).cpuacct))
        .or_else(|| there.iter().copied().find(|&n| of(n).unified));
    for place in there {
        let directory = hierarchies[place].path.join(path);
        let controllers = of(place);
        let tells_cpu = *cpu == Some(place);
        if controllers.unified {
            reading.unified(&directory, tells_cpu);
            continue;
        }
        if tells_cpu {
            reading.cpuacct(&directory);
        }
        if controllers.cpu {
            reading.table(&directory.join("cpu.stat"), NANOS, &[("throttled_time", THROTTLED)]);
        }
        if controllers.memory {
            let (stat, usage) =
                (directory.join("memory.stat"), directory.join("memory.usage_in_bytes"));
            reading.memory(&stat, &MEMORY_V1, "total_inactive_file", &usage);
        }
        if controllers.blkio {
            reading.blkio(&directory);
        }
        if controllers.pids {
            reading.number(&directory.join("pids.current"), "processes", 1.0);
        }
    }
}

const THROTTLED: &str = "cpu.throttled.time";
const MEMORY_V1: [(&str, &str); 3] = [
    ("total_rss", "memory.resident"),
    ("total_cache", "memory.cache"),
    ("total_swap", "swap.usage"),
];
const MEMORY_V2: [(&str, &str); 2] = [("anon", "memory.resident"), ("file", "memory.cache")];
const DISK: [&str; 4] =
    ["disk.read.bytes", "disk.write.bytes", "disk.read.requests", "disk.write.requests"];

impl Reading<'_> {
    fn push(&mut self, meter: &str, value: f64) {
        self.samples.push_named(self.subject, meter, self.at, value);
    }

    fn number(&mut self, file: &Path, meter: &str, per_unit: f64) {
        if let Some(value) = self.files.number(file) {
            self.push(meter, value as f64 / per_unit);
        }
    }

    /// Samples keys of a file of `key value` lines.
    fn table(&mut self, file: &Path, per_unit: f64, keys: &[(&str, &str)]) {
        let Some(text) = self.files.read(file) else { return };
        for (key, meter) in keys {
            if let Some(value) = value_of(text, key) {
                self.samples.push_named(self.subject, meter, self.at, value as f64 / per_unit);
            }
        }
    }

    fn cpuacct(&mut self, directory: &Path) {
        self.number(&directory.join("cpuacct.usage"), "cpu.time", NANOS);
        self.number(&directory.join("cpuacct.usage_user"), "cpu.user.time", NANOS);
        self.number(&directory.join("cpuacct.usage_sys"), "cpu.system.time", NANOS);
    }

    /// Levels of `memory.stat`, and what is in use less the page cache that can be dropped.
    fn memory(&mut self, stat: &Path, levels: &[(&str, &str)], droppable: &str, usage: &Path) {
        let Some(text) = self.files.read(stat) else { return };
        let droppable = value_of(text, droppable);
        for (key, meter) in levels {
            if let Some(bytes) = value_of(text, key) {
                self.samples.push_named(self.subject, meter, self.at, bytes as f64);
            }
        }
        if let (Some(all), Some(droppable)) = (self.files.number(usage), droppable) {
            self.push("memory.usage", all.saturating_sub(droppable) as f64);
        }
    }

    /// Version 1 counts disks per device and operation; which file is filled depends on the
    /// scheduler, and the throttle layer sees every request of every scheduler.
    fn blkio(&mut self, directory: &Path) {
        for (file, meters) in [
            ("blkio.throttle.io_service_bytes_recursive", [DISK[0], DISK[1]]),
            ("blkio.throttle.io_serviced_recursive", [DISK[2], DISK[3]]),
        ] {
            let Some(text) = self.files.read(&directory.join(file)) else { continue };
            for (meter, sum) in meters.into_iter().zip(operations(text)) {
                self.samples.push_named(self.subject, meter, self.at, sum as f64);
            }
        }
    }

    fn unified(&mut self, directory: &Path, tells_cpu: bool) {
        if tells_cpu {
            let keys = [
                ("usage_usec", "cpu.time"),
                ("user_usec", "cpu.user.time"),
                ("system_usec", "cpu.system.time"),
                ("throttled_usec", THROTTLED),
            ];
            self.table(&directory.join("cpu.stat"), MICROS, &keys);
        }
        let (stat, usage) = (directory.join("memory.stat"), directory.join("memory.current"));
        self.memory(&stat, &MEMORY_V2, "inactive_file", &usage);
        self.number(&directory.join("memory.swap.current"), "swap.usage", 1.0);
        self.number(&directory.join("pids.current"), "processes", 1.0);
        if let Some(text) = self.files.read(&directory.join("io.stat")) {
            for (meter, sum) in DISK.into_iter().zip(io_stat(text)) {
                self.samples.push_named(self.subject, meter, self.at, sum as f64);
            }
        }
        let path_of = |resource: &str| -> Box<Path> {
            let file: PathBuf = directory.join(format!("{resource}.pressure"));
            file.into_boxed_path()
        };
        pressure::sample(self.files, path_of, self.at, self.subject, self.samples);
    }
}

/// Sums of `8:0 Read 4096` and `8:0 Write 4096` over all devices.
fn operations(text: &str) -> [u64; 2] {
    let mut sums = [0_u64; 2];
    for line in text.lines() {
        let mut words = line.split_ascii_whitespace().skip(1);
        let place = match words.next() {
            Some("Read") => 0,
            Some("Write") => 1,
            _ => continue,
        };
        let value = words.next().and_then(|word| word.parse().ok()).unwrap_or(0);
        sums[place] = sums[place].saturating_add(value);
    }
    sums
}

/// Sums over all devices of bytes read and written, and of requests that read and wrote.
fn io_stat(text: &str) -> [u64; 4] {
    let mut sums = [0_u64; 4];
    for word in text.split_ascii_whitespace() {
        let Some((key, value)) = word.split_once('=') else { continue };
        let Some(place) = ["rbytes", "wbytes", "rios", "wios"].iter().position(|k| *k == key)
        else {
            continue;
        };
        sums[place] = sums[place].saturating_add(value.parse().unwrap_or(0));
    }
    sums
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn disks_add_up_over_devices() {
        let v1 = "254:0 Read 100\n254:0 Write 10\n254:0 Sync 110\n8:0 Read 1\nTotal 111\n";
        assert_eq!(operations(v1), [101, 10]);
        let v2 = "254:0 rbytes=100 wbytes=10 rios=5 wios=2 dbytes=0 dios=0\n8:0 rbytes=1 wbytes=1 rios=1 wios=1\n";
        assert_eq!(io_stat(v2), [101, 11, 6, 3]);
    }
}
