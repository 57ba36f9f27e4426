//! Which resources of one kind are there, and the lifecycle events that follow from it.
//!
//! The kernel does not tell when a disk or an interface came to be, nor announces that it went.
//! So a resource starts at the instant it was first seen and ends at the instant of the first
//! observation that did not see it.

use std::collections::BTreeMap;

use nilometer_contract::attribute::BOOT_ID;
use nilometer_contract::{Change, LifecycleEvent, Resource, Timestamp};

use crate::MAX_DEVICES;

/// Name of the source on the node's own resources.
pub(crate) const HOST: &str = "host";

/// The resources of one kind that were there at the last observation.
#[derive(Default)]
pub(crate) struct Roster {
    alive: BTreeMap<String, Resource>,
    left_out: usize,
}

impl Roster {
    /// Takes in what is there now and tells what changed since the last time.
    pub(crate) fn update(
        &mut self,
        at: Timestamp,
        found: Vec<Resource>,
        events: &mut Vec<LifecycleEvent>,
    ) {
        let mut now: BTreeMap<String, Resource> = BTreeMap::new();
        let mut left_out = 0;
        for resource in found {
            if resource.check().is_err() || now.len() >= MAX_DEVICES {
                left_out += 1;
                continue;
            }
            now.insert(resource.id.clone(), resource);
        }
        if left_out > self.left_out {
            tracing::warn!(left_out, most = MAX_DEVICES, "devices are not metered");
        }
        self.left_out = left_out;
        for (id, resource) in self.alive.iter().rev() {
            if !now.contains_key(id) {
                events.push(event(Change::Deleted, at, resource.clone()));
            }
        }
        for (id, resource) in &now {
            match self.alive.get(id) {
                None => events.push(event(Change::Created, at, resource.clone())),
                Some(before) if before != resource => {
                    events.push(event(Change::Changed, at, resource.clone()));
                }
                Some(_) => {}
            }
        }
        self.alive = now;
    }

    /// The resource with this id, if it is metered.
    pub(crate) fn get(&self, id: &str) -> Option<&Resource> {
        self.alive.get(id)
    }

    /// How many are metered.
    pub(crate) fn len(&self) -> usize {
        self.alive.len()
    }
}

/// Says of a device during which boot of its node it is: its counters began with it.
pub(crate) fn of_boot(device: &mut Resource, node: &Resource) {
    if let Some(boot) = node.attributes.get(BOOT_ID) {
        device.attributes.insert(BOOT_ID.to_owned(), boot.clone());
    }
}

/// An event of the node's own resources.
pub(crate) fn event(change: Change, at: Timestamp, resource: Resource) -> LifecycleEvent {
    LifecycleEvent { change, at, resource, source: HOST.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use nilometer_contract::ResourceKind;

    fn step(roster: &mut Roster, at: i64, names: &[&str]) -> Vec<(Change, String)> {
        let disks = names.iter().map(|name| Resource::new(*name, ResourceKind::DISK)).collect();
        let mut events = Vec::new();
        roster.update(Timestamp::from_seconds(at), disks, &mut events);
        events.into_iter().map(|event| (event.change, event.resource.id)).collect()
    }

    #[test]
    fn devices_that_come_and_go_are_told_once() {
        let mut roster = Roster::default();
        let told = |change: Change, id: &str| (change, id.to_owned());
        assert_eq!(
            step(&mut roster, 1, &["vda", "vdb"]),
            [told(Change::Created, "vda"), told(Change::Created, "vdb")]
        );
        assert!(step(&mut roster, 2, &["vda", "vdb"]).is_empty());
        assert_eq!(
            step(&mut roster, 3, &["vda", "vdc"]),
            [told(Change::Deleted, "vdb"), told(Change::Created, "vdc")]
        );
    }

    #[test]
    fn devices_over_the_bound_are_left_out() {
        let mut roster = Roster::default();
        let names: Vec<String> = (0..MAX_DEVICES + 5).map(|n| format!("vd{n}")).collect();
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        assert_eq!(step(&mut roster, 1, &names).len(), MAX_DEVICES);
        assert_eq!(roster.left_out, 5);
    }
}
