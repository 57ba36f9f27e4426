//! Exact usage by hour: a pure function of samples and lifecycles.

use std::sync::Arc;

use nilometer_contract::{MeterId, ResourceKind, Timestamp};

/// An exact quantity in pico-units: 10⁻¹² of the meter's usage unit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Quantity(pub i128);

/// The usage of one meter by one resource, for one project, over `[start, end)`, which lies
/// within one clock hour (UTC).
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct UsageRow {
    /// First instant.
    pub start: Timestamp,
    /// First instant past the period.
    pub end: Timestamp,
    /// Resource id.
    pub resource: Arc<str>,
    /// Resource kind.
    pub kind: ResourceKind,
    /// Meter.
    pub meter: MeterId,
    /// Project that owned the resource over the whole period.
    pub project: Arc<str>,
    /// How much.
    pub quantity: Quantity,
    /// Microseconds of the period that were observed; coverage is this over `end - start`.
    pub observed_micros: i64,
}
