//! Source: a deterministic fleet of known usage.
//!
//! Nodes, VMs, pods and containers that live, burn CPU time, move and die by a seed, observed
//! through the very same path as real ones. What the bill for them must come to is known to the
//! last digit, from the generator's own integers, so the fleet serves as the demo, as the load of
//! benches, and as the judge of the crash test.
//!
//! [`Fleet`] is pure: no clock, no IO; its samples at an instant and its events between two are
//! a function of the configuration alone. [`SimulatedSource`] runs one by a clock.

mod build;
mod churn;
mod config;
mod estate;
mod fleet;
mod known;
mod mix;
mod reading;
mod recall;
mod rhythm;
mod source;

pub use config::{ChurnConfig, ConfigError, FleetConfig};
pub use fleet::{Fleet, Population, Steps};
pub use known::{KnownUsage, known_usage, known_usage_at};
pub use source::{SOURCE, SimulatedSource, discover};
