//! Disks of the node, from `/proc/diskstats`.
//!
//! Real devices only: a partition, a mapped or a striped device would count the same bytes again.

use nilometer_contract::{Resource, ResourceKind};
use nilometer_source::Observation;

use crate::context::Context;
use crate::roster::{Roster, of_boot};

/// Sectors are counted in these bytes, whatever the device's own size of sector.
const SECTOR_BYTES: u64 = 512;
const MILLIS: f64 = 1e3;
const FIELDS: usize = 10;

/// Devices that are no storage of their own.
const VIRTUAL: [&str; 7] = ["loop", "ram", "zram", "dm-", "md", "sr", "fd"];

/// A line of `/proc/diskstats`: name and counters from `reads completed` on.
struct Line {
    id: String,
    counters: [u64; FIELDS],
    bytes: Option<u64>,
}

/// Observes the disks.
pub(crate) fn observe(
    context: &mut Context,
    node: &Resource,
    roster: &mut Roster,
    out: &mut Observation,
) {
    let at = context.clock.now();
    // A list that cannot be read now says nothing about what is there.
    let Some(text) = context.read_proc("diskstats") else { return };
    let lines: Vec<(String, [u64; FIELDS])> = text.lines().filter_map(parse).collect();
    let mut disks = Vec::new();
    let mut found = Vec::new();
    for (name, counters) in lines {
        let device = format!("block/{}", name.replace('/', "!"));
        if !context.sys.join(&device).join("device").exists() {
            continue;
        }
        let sectors = context.read_sys(&format!("{device}/size"));
        let bytes = sectors.and_then(|n| n.trim().parse::<u64>().ok()?.checked_mul(SECTOR_BYTES));
        let mut disk = Resource::new(format!("{}/disk/{name}", node.id), ResourceKind::DISK);
        disk.name = name;
        disk.node = node.id.clone();
        disk.parent = Some(node.id.clone());
        of_boot(&mut disk, node);
        if let Some(bytes) = bytes {
            disk.attributes.insert("capacity_bytes".to_owned(), bytes.to_string());
        }
        if let Some(model) = context.read_sys(&format!("{device}/device/model")) {
            disk.attributes.insert("model".to_owned(), model.trim().to_owned());
        }
        disks.push(Line { id: disk.id.clone(), counters, bytes });
        found.push(disk);
    }
    roster.update(at, found, &mut out.events);
    for line in disks {
        let Some(disk) = roster.get(&line.id) else { continue };
        let subject = out.samples.subject(disk);
        let [reads, _, read_sectors, read_ms, writes, _, write_sectors, write_ms, _, busy_ms] =
            line.counters;
        let meters = [
            ("disk.read.requests", reads as f64),
            ("disk.read.bytes", (read_sectors * SECTOR_BYTES) as f64),
            ("disk.read.time", read_ms as f64 / MILLIS),
            ("disk.write.requests", writes as f64),
            ("disk.write.bytes", (write_sectors * SECTOR_BYTES) as f64),
            ("disk.write.time", write_ms as f64 / MILLIS),
            ("disk.io.time", busy_ms as f64 / MILLIS),
        ];
        for (meter, value) in meters {
            out.samples.push_named(subject, meter, at, value);
        }
        if let Some(bytes) = line.bytes {
            out.samples.push_named(subject, "disk.capacity", at, bytes as f64);
        }
    }
}

fn parse(line: &str) -> Option<(String, [u64; FIELDS])> {
    let mut words = line.split_ascii_whitespace().skip(2);
    let name = words.next()?;
    if VIRTUAL.iter().any(|prefix| name.starts_with(prefix)) {
        return None;
    }
    let mut counters = [0; FIELDS];
    for counter in &mut counters {
        *counter = words.next()?.parse().ok()?;
    }
    Some((name.to_owned(), counters))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_old_and_new_kernels_are_read() {
        let new = " 254 0 vda 117251 22011 6246106 100963 19011 78519 11423112 48630 1 20032 152008 20298 52";
        let (name, counters) = parse(new).unwrap();
        assert_eq!(name, "vda");
        assert_eq!(counters[2], 6_246_106);
        assert_eq!(counters[9], 20_032);
        assert!(parse("   7       0 loop0 0 0 0 0 0 0 0 0 0 0 0").is_none());
        assert!(parse("   8       0 sda 1 2").is_none());
    }
}
