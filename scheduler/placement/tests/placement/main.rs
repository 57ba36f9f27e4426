//! Placement from the outside: forecasts, bursts, plans, replay. Time is given, never waited for.

#![allow(clippy::unwrap_used, reason = "tests")]

mod bursts;
mod forecasts;
mod golden;
mod lab;
mod plans;
