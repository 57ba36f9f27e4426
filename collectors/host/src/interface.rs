//! Network interfaces of the node, from `/proc/net/dev`.
//!
//! Interfaces with a device behind them: bridges, tunnels and the ends of containers' cables
//! carry the same bytes again. Where none has a device (the node is itself a container), all
//! but the loopback are metered.

use nilometer_contract::{Resource, ResourceKind};
use nilometer_source::Observation;

use crate::context::Context;
use crate::roster::{Roster, of_boot};

const FIELDS: usize = 12;

/// Place of each meter among the words after the name.
const METERS: [(&str, usize); 8] = [
    ("net.rx.bytes", 0),
    ("net.rx.packets", 1),
    ("net.rx.errors", 2),
    ("net.rx.drops", 3),
    ("net.tx.bytes", 8),
    ("net.tx.packets", 9),
    ("net.tx.errors", 10),
    ("net.tx.drops", 11),
];

/// Observes the interfaces.
pub(crate) fn observe(
    context: &mut Context,
    node: &Resource,
    roster: &mut Roster,
    out: &mut Observation,
) {
    let at = context.clock.now();
    let Some(text) = context.read_proc("net/dev") else { return };
    let mut lines: Vec<(String, [u64; FIELDS])> = text.lines().filter_map(parse).collect();
    let class = context.sys.join("class/net");
    let has_device = |name: &str| class.join(name).join("device").exists();
    if lines.iter().any(|(name, _)| has_device(name)) {
        lines.retain(|(name, _)| has_device(name));
    }
    let mut found = Vec::with_capacity(lines.len());
    for (name, _) in &lines {
        let id = id(node, name);
        let mut interface = Resource::new(id, ResourceKind::INTERFACE);
        interface.name = name.clone();
        interface.node = node.id.clone();
        interface.parent = Some(node.id.clone());
        of_boot(&mut interface, node);
        if let Some(mac) = context.read_sys(&format!("class/net/{name}/address")) {
            interface.attributes.insert("mac".to_owned(), mac.trim().to_owned());
        }
        found.push(interface);
    }
    roster.update(at, found, &mut out.events);
    for (name, counters) in lines {
        let Some(interface) = roster.get(&id(node, &name)) else { continue };
        let subject = out.samples.subject(interface);
        for (meter, place) in METERS {
            out.samples.push_named(subject, meter, at, counters[place] as f64);
        }
    }
}

fn id(node: &Resource, name: &str) -> String {
    format!("{}/interface/{name}", node.id)
}

fn parse(line: &str) -> Option<(String, [u64; FIELDS])> {
    let (name, rest) = line.split_once(':')?;
    let name = name.trim();
    if name == "lo" {
        return None;
    }
    let mut words = rest.split_ascii_whitespace();
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
    fn a_name_may_touch_its_first_counter() {
        let (name, counters) =
            parse("  eth0:337665848 13478 1 2 0 0 0 0 1055306 8051 3 4 0 0 0 0").unwrap();
        assert_eq!(name, "eth0");
        assert_eq!(
            METERS.map(|(_, place)| counters[place]),
            [337_665_848, 13_478, 1, 2, 1_055_306, 8_051, 3, 4]
        );
        assert!(parse("    lo: 1 1 0 0 0 0 0 0 1 1 0 0 0 0 0 0").is_none());
        assert!(parse(" face |bytes    packets errs").is_none());
    }
}
