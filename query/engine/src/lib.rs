//! SQL over all tables, memory tier included, and the usage that they imply.
//!
//! ```text
//!  files ∪ memory ──▶ providers: samples, resources, usage, … ──▶ Engine: limits ──▶ rows
//!                  └─▶ Meter: exact usage of a window
//! ```
//!
//! Read-only. Every query sees one view of all tables.

mod answer;
mod catalogue;
mod engine;
mod filter;
mod label;
mod meter;
mod missing;
mod once;
mod plan;
mod points;
mod resources;
mod rivals;
mod samples;
mod scan;
mod stored;
mod tenancy;
mod truncate;
mod usage;

pub use answer::Answer;
pub use engine::{Described, Engine, Limits, QueryError, Rows};
pub use filter::{bounds, equals};
pub use meter::{Meter, MeterError};
pub use plan::{Selection, UnknownKind};
pub use rivals::Pause;
pub use usage::{USAGE_SCHEMA, days, usage_batch, usage_columns};
