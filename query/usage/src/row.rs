//! The rows that usage is made of.

use std::sync::Arc;

use nilometer_contract::{Labels, Meter, ResourceKind, Timestamp};

use crate::quantity::Quantity;

/// The usage of one meter by one resource, for one project, over `[start, end)`, which lies
/// within one clock hour (UTC).
///
/// The period is the part of the hour, and of the window asked for, in which the resource lived
/// under this project without a break. There is one row per hour, resource, meter, further labels and such run.
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
    pub meter: Arc<Meter>,
    /// Further labels of the series; none of an allocation.
    pub labels: Labels,
    /// Project that owned the resource over the whole period.
    pub project: Arc<str>,
    /// How much.
    pub quantity: Quantity,
    /// Microseconds of the period that were observed; coverage is this over `end - start`.
    pub observed_micros: i64,
}

/// The usage of one meter by one resource while it was part of one parent: the same usage as in
/// [`UsageRow`], split where the parent changes instead of where the project does.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ParentUsage {
    /// First instant.
    pub start: Timestamp,
    /// First instant past the period.
    pub end: Timestamp,
    /// Id of the resource of which this one was part; empty when of none.
    pub parent: Arc<str>,
    /// Resource id.
    pub resource: Arc<str>,
    /// Resource kind.
    pub kind: ResourceKind,
    /// Meter.
    pub meter: Arc<Meter>,
    /// How much.
    pub quantity: Quantity,
    /// Microseconds of the period that were observed.
    pub observed_micros: i64,
}
