//! Energy domains of the node (RAPL), from `/sys/class/powercap`.
//!
//! The kernel's counter wraps at a range of its own. What is emitted is the energy used since
//! this source started, unwrapped: it starts at zero, and so a restart of the agent reads as a
//! reset and not as energy. The energy used while no agent ran is not known.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;

use nilometer_contract::{Resource, ResourceKind};
use nilometer_source::Observation;

use crate::context::Context;
use crate::roster::{Roster, of_boot};

const MICROJOULES: f64 = 1e6;
/// The same counters by another way; one way is enough.
const REPEATED: &str = "intel-rapl-mmio";

/// Unwraps the counters of all domains.
#[derive(Default)]
pub(crate) struct Energy {
    pub(crate) roster: Roster,
    meters: BTreeMap<String, Unwrapped>,
}

/// A counter that starts again from zero past `range`.
#[derive(Clone, Copy, Debug)]
struct Unwrapped {
    last: u64,
    sum: u64,
}

impl Unwrapped {
    fn add(&mut self, raw: u64, range: u64) -> u64 {
        let used = match raw.checked_sub(self.last) {
            Some(used) => used,
            None => range.saturating_sub(self.last).saturating_add(raw),
        };
        self.last = raw;
        self.sum = self.sum.saturating_add(used);
        self.sum
    }
}

impl Energy {
    /// Observes the domains; needs root, since the counters can give secrets away.
    pub(crate) fn observe(
        &mut self,
        context: &mut Context,
        node: &Resource,
        out: &mut Observation,
    ) {
        let at = context.clock.now();
        let class = context.sys.join("class/powercap");
        let Ok(entries) = fs::read_dir(&class) else {
            self.roster.update(at, Vec::new(), &mut out.events);
            return;
        };
        let names: BTreeSet<String> = entries
            .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
            .filter(|name| name.contains(':') && !name.starts_with(REPEATED))
            .collect();
        let id = |name: &str| format!("{}/energy/{name}", node.id);
        let mut found = Vec::new();
        let mut read = Vec::new();
        for name in &names {
            let domain = class.join(name);
            let Some(raw) = context.files.number(&domain.join("energy_uj")) else { continue };
            let range = context.files.number(&domain.join("max_energy_range_uj"));
            let label = context.files.read(&domain.join("name")).unwrap_or(name).trim();
            let mut resource = Resource::new(id(name), ResourceKind::ENERGY_DOMAIN);
            resource.name = label.to_owned();
            resource.node = node.id.clone();
            of_boot(&mut resource, node);
            // `intel-rapl:0:1` is part of `intel-rapl:0`, whose energy includes it.
            let outer = name.rsplit_once(':').map(|(outer, _)| outer);
            let outer = outer.filter(|outer| names.contains(*outer));
            resource.parent = Some(outer.map_or_else(|| node.id.clone(), id));
            read.push((resource.id.clone(), raw, range.unwrap_or(0)));
            found.push(resource);
        }
        self.roster.update(at, found, &mut out.events);
        self.meters.retain(|id, _| self.roster.get(id).is_some());
        for (id, raw, range) in read {
            let Some(domain) = self.roster.get(&id) else { continue };
            let subject = out.samples.subject(domain);
            let meter = self.meters.entry(id).or_insert(Unwrapped { last: raw, sum: 0 });
            let joules = meter.add(raw, range) as f64 / MICROJOULES;
            out.samples.push_named(subject, "energy", at, joules);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wrap_is_no_fall() {
        let mut meter = Unwrapped { last: 90, sum: 0 };
        assert_eq!([90, 95, 5, 6].map(|raw| meter.add(raw, 100)), [0, 5, 15, 16]);
    }
}
