//! SQL over all tables, memory tier included, and the usage that they imply.
//!
//! ```text
//!  files ∪ memory ──▶ providers: samples, resources, usage, … ──▶ Engine: limits ──▶ HTTP
//!                  └─▶ Meter: exact usage of a window
//! ```
//!
//! Read-only. Every query sees one view of all tables.

mod engine;
mod filter;
mod http;
mod label;
mod meter;
mod missing;
mod output;
mod plan;
mod points;
mod problem;
mod resources;
mod samples;
mod scan;
mod stored;
mod truncate;
mod usage;

pub use engine::{Engine, Limits, QueryError, Rows};
pub use filter::{bounds, equals};
pub use http::router;
pub use meter::{Meter, MeterError};
pub use missing::{MISSING_ROWS, say_missing};
pub use output::{Format, render};
pub use plan::Selection;
pub use problem::Problem;
pub use usage::{USAGE_SCHEMA, usage_batch};
