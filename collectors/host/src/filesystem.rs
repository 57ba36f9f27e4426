//! Mounted filesystems of the node.
//!
//! Only types that live on a local disk are asked for their size: `statvfs` on a network
//! filesystem waits for its server, for ever if that is gone. Of several mounts of one device
//! (bind mounts, subvolumes) the shortest path stands for all.

use std::collections::BTreeMap;

use nilometer_contract::{Resource, ResourceKind};
use nilometer_source::Observation;

use crate::context::Context;
use crate::roster::Roster;

const LOCAL: [&str; 14] = [
    "ext2", "ext3", "ext4", "xfs", "btrfs", "zfs", "f2fs", "bcachefs", "jfs", "reiserfs", "vfat",
    "exfat", "ntfs3", "nilfs2",
];

/// A mount of a local device.
#[derive(Debug, PartialEq, Eq)]
struct Mount {
    point: String,
    kind: String,
    device: String,
}

/// Observes the filesystems.
pub(crate) fn observe(
    context: &mut Context,
    node: &Resource,
    roster: &mut Roster,
    out: &mut Observation,
) {
    let at = context.clock.now();
    let Some(text) = context.read_proc("self/mountinfo") else { return };
    let mounts = mounts(text);
    let found = mounts.iter().map(|mount| resource(node, mount)).collect();
    roster.update(at, found, &mut out.events);
    for mount in &mounts {
        let Some(filesystem) = roster.get(&id(node, mount)) else { continue };
        let Ok(space) = rustix::fs::statvfs(mount.point.as_str()) else { continue };
        let subject = out.samples.subject(filesystem);
        let bytes = |blocks: u64| blocks.saturating_mul(space.f_frsize) as f64;
        let levels = [
            ("filesystem.size", bytes(space.f_blocks)),
            ("filesystem.usage", bytes(space.f_blocks.saturating_sub(space.f_bfree))),
            ("filesystem.available", bytes(space.f_bavail)),
            ("filesystem.inodes", space.f_files as f64),
            ("filesystem.inodes.usage", space.f_files.saturating_sub(space.f_ffree) as f64),
        ];
        for (meter, value) in levels {
            out.samples.push_named(subject, meter, at, value);
        }
    }
}

fn id(node: &Resource, mount: &Mount) -> String {
    format!("{}/filesystem{}", node.id, mount.point)
}

fn resource(node: &Resource, mount: &Mount) -> Resource {
    let mut filesystem = Resource::new(id(node, mount), ResourceKind::FILESYSTEM);
    filesystem.name = mount.point.clone();
    filesystem.node = node.id.clone();
    filesystem.parent = Some(node.id.clone());
    filesystem.attributes.insert("type".to_owned(), mount.kind.clone());
    filesystem.attributes.insert("device".to_owned(), mount.device.clone());
    filesystem
}

/// One mount per local device, in order of mount point.
fn mounts(text: &str) -> Vec<Mount> {
    let mut by_device: BTreeMap<String, Mount> = BTreeMap::new();
    for mount in text.lines().filter_map(parse) {
        match by_device.get(&mount.device) {
            Some(known)
                if (known.point.len(), &known.point) <= (mount.point.len(), &mount.point) => {}
            _ => {
                by_device.insert(mount.device.clone(), mount);
            }
        }
    }
    let mut mounts: Vec<Mount> = by_device.into_values().collect();
    mounts.sort_by(|a, b| a.point.cmp(&b.point));
    mounts
}

fn parse(line: &str) -> Option<Mount> {
    let (before, after) = line.split_once(" - ")?;
    let point = before.split(' ').nth(4)?;
    let mut after = after.split(' ');
    let (kind, device) = (after.next()?, after.next()?);
    LOCAL.contains(&kind).then(|| Mount {
        point: unescape(point),
        kind: kind.to_owned(),
        device: unescape(device),
    })
}

/// Mount points write space, tab, newline and backslash as three octal digits.
fn unescape(text: &str) -> String {
    let mut plain = String::with_capacity(text.len());
    let mut rest = text;
    while let Some((before, after)) = rest.split_once('\\') {
        plain.push_str(before);
        let octal = after.get(..3).and_then(|digits| u8::from_str_radix(digits, 8).ok());
        match octal.filter(u8::is_ascii) {
            Some(byte) => {
                plain.push(char::from(byte));
                rest = &after[3..];
            }
            None => {
                plain.push('\\');
                rest = after;
            }
        }
    }
    plain.push_str(rest);
    plain
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn local_filesystems_are_found_once_and_network_ones_never() {
        let text = "27 1 254:0 / / rw,relatime - ext4 /dev/vda rw\n\
                    28 27 254:0 /var/a /mnt/bind rw - ext4 /dev/vda rw\n\
                    29 27 0:40 / /srv/nfs rw - nfs4 server:/export rw\n\
                    30 27 0:41 / /run rw shared:5 - tmpfs tmpfs rw\n\
                    31 27 254:16 / /data\\040one rw shared:1 - xfs /dev/vdb rw\n";
        let points: Vec<String> = mounts(text).into_iter().map(|mount| mount.point).collect();
        assert_eq!(points, ["/", "/data one"]);
    }

    #[test]
    fn broken_escapes_stay_as_they_are() {
        assert_eq!(unescape("a\\040b\\134c\\9z\\"), "a b\\c\\9z\\");
        assert_eq!(unescape("\\377é"), "\\377é");
    }
}
