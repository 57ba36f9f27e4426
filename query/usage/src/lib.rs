//! Exact usage by hour: a pure function of samples and lifecycles.
//!
//! Floats end at the sample: a reading becomes a fixed-point integer before anything is added,
//! so usage is exact and associative, and the same on any number of threads, in any order, after
//! any replay (invariants 9 to 12). No IO, no clock, no threads.
//!
//! ```text
//!  readings ──┐
//!             ├─► pairs, holds, amounts ──► cut at hours, owners, window ──► UsageRow
//!  lifetime ──┘        (sampled, allocated)          (walk)                 one per hour and owner
//! ```
//!
//! What lies in a window depends on the window and on nothing cut elsewhere: usage over `[a, c)`
//! is usage over `[a, b)` plus usage over `[b, c)`, for every `b`, to the last digit.
//!
//! Rows are stated for the whole life of the resource within the window, read or not: an hour
//! without a reading is a row of quantity 0 that was observed for 0 µs, never a missing row. So
//! ask for every series that a living resource has, not only for those with samples lately.
//!
//! A series is of one source. Where several sources sample one meter of a resource, rows of all of
//! them are computed and those of one stay, hour by hour, as [`SourceChoice`] says.

mod allocated;
mod claims;
mod conserve;
mod fixed;
mod merge;
mod points;
mod quantity;
mod row;
mod sampled;
mod sources;
mod table;
mod tenure;
mod walk;

pub use allocated::{allocation_usage, capacity_usage};
pub use conserve::{Breakdown, NegativeUsage, conserve};
pub use merge::merge;
pub use points::{
    ClockId, ConflictingSamples, Neighbours, Points, Reach, Sample, Series, is_reading, neighbours,
};
pub use quantity::{InvalidQuantity, Quantity};
pub use row::{ParentUsage, UsageRow};
pub use sampled::{series_usage, series_usage_by_parent};
pub use sources::{SourceChoice, SourceHour, whole_hours};
pub use table::{SOURCE_HOURS, USAGE};
pub use tenure::{Names, Tenure, Window};
