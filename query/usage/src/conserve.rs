//! Conservation: what a node had went to its children, to itself, or was idle (invariant 11).

use std::collections::BTreeMap;
use std::sync::Arc;

use nilometer_contract::{Meter, Timestamp};

use crate::quantity::Quantity;
use crate::row::{ParentUsage, UsageRow};

/// Where one meter of a resource that runs others went, over one clock hour.
///
/// ```text
/// ├─ child ─┼─ child ─┼─ overhead ─┼──── idle ────┤  = capacity + excess
/// ├────────────── used ────────────┤                 = measured + skew
/// ```
///
/// Both lines hold to the last digit and no part is negative. Nothing is clamped to get there.
/// Readings of a node and of its children are taken at different instants, so now and then the
/// children sum to more than the node measured of itself. Every child's usage then stands as it
/// was billed, the node's usage is what it must at least have been, and `skew` states by how much
/// the node's own reading fell short. `excess` does the same for usage beyond the stated
/// capacity. At most one of `overhead` and `skew` is above zero, and of `idle` and `excess`.
///
/// Levels nest by this alone: the usage of a VM on its hypervisor is one child there; the VM's
/// own breakdown says how much of it went to pods. Pods are not children of the hypervisor, so
/// each unit is counted once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Breakdown {
    /// Start of the hour.
    pub hour: Timestamp,
    /// The resource that runs others.
    pub node: Arc<str>,
    /// Meter.
    pub meter: Arc<Meter>,
    /// The size of the node over the part of the hour in which it lived; zero when not stated.
    pub capacity: Quantity,
    /// What the node's own meter said, children included.
    pub measured: Quantity,
    /// What each direct child used while it was one, by id.
    pub children: Vec<(Arc<str>, Quantity)>,
    /// What the node used beside its children.
    pub overhead: Quantity,
    /// What nobody used.
    pub idle: Quantity,
    /// By how much the children exceed what the node measured.
    pub skew: Quantity,
    /// By how much usage exceeds capacity.
    pub excess: Quantity,
    /// Microseconds of the hour in which the node's own meter was observed; `idle` and `skew` of
    /// an hour that was observed in part mean the less.
    pub observed_micros: i64,
}

/// A usage below zero, which no part of a node can be: the level of a gauge that is no capacity.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("usage of {resource} in the hour of {hour} is negative: {quantity}")]
pub struct NegativeUsage {
    /// Whose.
    pub resource: Arc<str>,
    /// When.
    pub hour: Timestamp,
    /// How much.
    pub quantity: Quantity,
}

#[derive(Default)]
struct Parts {
    capacity: Quantity,
    measured: Quantity,
    children: BTreeMap<Arc<str>, Quantity>,
    observed_micros: i64,
}

impl Breakdown {
    /// Everything the children used.
    pub fn children_used(&self) -> Quantity {
        self.children.iter().map(|&(_, quantity)| quantity).sum()
    }

    /// What was used: by the children and as overhead.
    pub fn used(&self) -> Quantity {
        self.children_used() + self.overhead
    }
}

/// Breaks nodes down by hour and meter, in order of hour, node and meter.
///
/// `capacity` are rows of [`capacity_usage`](crate::capacity_usage), `measured` the nodes' own
/// rows, `children` rows by parent; rows of children without a parent are left out. Order and
/// grouping of the rows change nothing. Children of one node must not contain each other: give
/// pods or the slices that they run in, not both.
pub fn conserve(
    capacity: &[UsageRow],
    measured: &[UsageRow],
    children: &[ParentUsage],
) -> Result<Vec<Breakdown>, NegativeUsage> {
    let mut nodes: BTreeMap<(Timestamp, Arc<str>, Arc<Meter>), Parts> = BTreeMap::new();
    for row in capacity {
        let parts = nodes.entry(key(row.start, &row.resource, &row.meter)).or_default();
        parts.capacity += row.quantity;
    }
    for row in measured {
        let parts = nodes.entry(key(row.start, &row.resource, &row.meter)).or_default();
        parts.measured += row.quantity;
        parts.observed_micros += row.observed_micros;
    }
    for row in children.iter().filter(|row| !row.parent.is_empty()) {
        let parts = nodes.entry(key(row.start, &row.parent, &row.meter)).or_default();
        *parts.children.entry(Arc::clone(&row.resource)).or_default() += row.quantity;
    }
    nodes.into_iter().map(|((hour, node, meter), parts)| parts.balance(hour, node, meter)).collect()
}

fn key(start: Timestamp, node: &Arc<str>, meter: &Arc<Meter>) -> (Timestamp, Arc<str>, Arc<Meter>) {
    (start.hour(), Arc::clone(node), Arc::clone(meter))
}

impl Parts {
    fn balance(
        self,
        hour: Timestamp,
        node: Arc<str>,
        meter: Arc<Meter>,
    ) -> Result<Breakdown, NegativeUsage> {
        let own = [(&node, &self.capacity), (&node, &self.measured)];
        if let Some((resource, &quantity)) =
            own.into_iter().chain(&self.children).find(|&(_, &quantity)| quantity < Quantity::ZERO)
        {
            return Err(NegativeUsage { resource: Arc::clone(resource), hour, quantity });
        }
        let children: Quantity = self.children.values().copied().sum();
        let used = self.measured.max(children);
        let total = self.capacity.max(used);
        let breakdown = Breakdown {
            hour,
            node,
            meter,
            capacity: self.capacity,
            measured: self.measured,
            children: self.children.into_iter().collect(),
            overhead: used - children,
            idle: total - used,
            skew: used - self.measured,
            excess: total - self.capacity,
            observed_micros: self.observed_micros,
        };
        let parts = breakdown.used() + breakdown.idle;
        assert!(parts == breakdown.capacity + breakdown.excess, "invariant 11: parts sum to node");
        Ok(breakdown)
    }
}
