//! Services and slices, metered by their cgroups.
//!
//! A life starts when its directory was made, as far as the kernel tells: the earliest time on
//! the directory, and never before the last observation that did not see it. It ends at the
//! instant of the first observation that does not see it. A directory that was replaced between
//! two observations (another inode) is one life that ended just before the next one starts.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use nilometer_clock::SharedClock;
use nilometer_contract::{Change, LifecycleEvent, Resource, ResourceKind, Timestamp};
use nilometer_source::{Observation, SourceError};

use crate::HostConfig;
use crate::context::Context;

mod counters;
mod tree;

use tree::{Found, Hierarchy};

/// Name of the source.
pub(crate) const CGROUP: &str = "cgroup";

/// The services and slices that were there at the last observation.
pub(crate) struct Cgroups {
    context: Context,
    most: usize,
    groups: BTreeMap<String, Group>,
    seen_at: Option<Timestamp>,
    left_out: usize,
    versions: &'static str,
}

/// One cgroup while it lives.
pub(crate) struct Group {
    resource: Resource,
    /// Inode of its directory in each hierarchy, 0 where it has none.
    inodes: Vec<u64>,
    /// The hierarchy that tells its CPU time. Kept, since two would tell different counters.
    cpu: Option<usize>,
}

impl Cgroups {
    pub(crate) fn new(config: &HostConfig, clock: SharedClock) -> Self {
        Cgroups {
            context: Context::new(config, clock),
            most: config.max_cgroups,
            groups: BTreeMap::new(),
            seen_at: None,
            left_out: 0,
            versions: "",
        }
    }

    /// Observes every service and slice.
    pub(crate) fn observe(&mut self) -> Result<Observation, SourceError> {
        let root = self.context.sys.join("fs/cgroup");
        let hierarchies = tree::hierarchies(&root);
        if hierarchies.is_empty() {
            let what = format!("no cgroup hierarchy in {}", root.display());
            return Err(SourceError { what, cause: None });
        }
        self.versions = tree::versions(&hierarchies);
        let mut out = Observation::begin(CGROUP, self.context.clock.as_ref());
        let at = self.context.clock.now();
        let found = self.bounded(tree::walk(&hierarchies));
        self.tell(at, &hierarchies, found, &mut out.events);
        for (path, group) in &mut self.groups {
            let at = self.context.clock.now();
            let subject = out.samples.subject(&group.resource);
            let mut reading = counters::Reading {
                files: &mut self.context.files,
                at,
                subject,
                samples: &mut out.samples,
            };
            counters::sample(&hierarchies, path, &group.inodes, &mut group.cpu, &mut reading);
        }
        Ok(out)
    }

    /// For people: how many there are.
    pub(crate) fn describe(&self) -> String {
        let count = |kind| self.groups.values().filter(|g| g.resource.kind == kind).count();
        let (services, slices) = (count(ResourceKind::SERVICE), count(ResourceKind::SLICE));
        format!("{services} services and {slices} slices ({})", self.versions)
    }

    /// Those known stay; of the new ones, the first in order of path up to the bound.
    fn bounded(&mut self, found: BTreeMap<String, Found>) -> BTreeMap<String, Found> {
        let known = found.keys().filter(|path| self.groups.contains_key(*path)).count();
        let mut room = self.most.saturating_sub(known);
        let mut left_out = 0;
        let mut kept = BTreeMap::new();
        for (path, cgroup) in found {
            if !self.groups.contains_key(&path) {
                if room == 0 || self.resource(&path, &cgroup.kind, &kept).check().is_err() {
                    left_out += 1;
                    continue;
                }
                room -= 1;
            }
            kept.insert(path, cgroup);
        }
        if left_out > self.left_out {
            tracing::warn!(left_out, most = self.most, "cgroups are not metered");
        }
        self.left_out = left_out;
        kept
    }

    fn tell(
        &mut self,
        at: Timestamp,
        hierarchies: &[Hierarchy],
        found: BTreeMap<String, Found>,
        events: &mut Vec<LifecycleEvent>,
    ) {
        let event = |change, at, resource| LifecycleEvent {
            change,
            at,
            resource,
            source: CGROUP.to_owned(),
        };
        let gone: Vec<String> =
            self.groups.keys().filter(|path| !found.contains_key(*path)).rev().cloned().collect();
        for path in gone {
            if let Some(group) = self.groups.remove(&path) {
                events.push(event(Change::Deleted, at, group.resource));
            }
        }
        // One microsecond is left for the end of a life before the start of the next.
        let earliest = self.seen_at.map(|seen| seen.plus_micros(2));
        for (path, cgroup) in &found {
            let replaced = match self.groups.get_mut(path) {
                Some(group) if group.is(&cgroup.inodes) => {
                    group.inodes.clone_from(&cgroup.inodes);
                    continue;
                }
                other => other.is_some(),
            };
            let mut start = born(hierarchies, path, &cgroup.inodes).unwrap_or(at);
            start = start.max(earliest.unwrap_or(start)).min(at.max(earliest.unwrap_or(at)));
            if replaced && let Some(group) = self.groups.remove(path) {
                events.push(event(Change::Deleted, start.plus_micros(-1), group.resource));
            }
            let mut resource = self.resource(path, &cgroup.kind, &found);
            let id = cgroup.inodes.iter().find(|&&inode| inode != 0).copied().unwrap_or(0);
            resource.attributes.insert("cgroup_id".to_owned(), id.to_string());
            events.push(event(Change::Created, start, resource.clone()));
            let group = Group { resource, inodes: cgroup.inodes.clone(), cpu: None };
            self.groups.insert(path.clone(), group);
        }
        self.seen_at = Some(at);
    }

    fn resource(&self, path: &str, kind: &ResourceKind, all: &BTreeMap<String, Found>) -> Resource {
        let node = &self.context.node;
        let id = |path: &str| format!("{node}/cgroup/{path}");
        let mut resource = Resource::new(id(path), kind.clone());
        resource.name = path.rsplit('/').next().unwrap_or(path).to_owned();
        resource.node = node.clone();
        let outer = path.rsplit_once('/').map(|(outer, _)| outer);
        let outer = outer.filter(|outer| all.contains_key(*outer));
        resource.parent = Some(outer.map_or_else(|| node.clone(), id));
        resource
    }
}

impl Group {
    /// Whether these are the same directories; a hierarchy may gain or lose one meanwhile.
    fn is(&self, inodes: &[u64]) -> bool {
        let mut both = self.inodes.iter().zip(inodes).filter(|(a, b)| **a != 0 && **b != 0);
        both.all(|(a, b)| a == b)
    }
}

/// The earliest time on its directories. The kernel keeps no time of birth for a cgroup: these
/// are of its first lookup, which is by whoever made it, and of later changes.
fn born(hierarchies: &[Hierarchy], path: &str, inodes: &[u64]) -> Option<Timestamp> {
    let there = hierarchies.iter().zip(inodes).filter(|(_, inode)| **inode != 0);
    there.filter_map(|(hierarchy, _)| earliest(&hierarchy.path.join(path))).min()
}

fn earliest(directory: &Path) -> Option<Timestamp> {
    let told = fs::metadata(directory).ok()?;
    let times = [
        (told.atime(), told.atime_nsec()),
        (told.mtime(), told.mtime_nsec()),
        (told.ctime(), told.ctime_nsec()),
    ];
    let micros =
        times.map(|(seconds, nanos)| Timestamp::from_seconds(seconds).plus_micros(nanos / 1_000));
    micros.into_iter().filter(|at| at.is_plausible()).min()
}

#[cfg(test)]
mod tests;
