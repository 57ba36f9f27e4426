//! Placement from the outside: forecasts, bursts, plans, replay. Time is given, never waited for.

#![allow(clippy::unwrap_used, reason = "tests")]

mod bounds;
mod bursts;
mod cluster;
mod forecasts;
mod generated;
mod golden;
mod plans;
mod scores;
mod snapshots;
