//! Placement from the outside: forecasts, bursts, plans, replay, and the HTTP surface over a log.
//!
//! One binary. Time is given, never waited for, but for the streaming shell, which is polled for
//! a condition up to a bound.

#![allow(clippy::unwrap_used, reason = "tests")]

mod bursts;
mod forecasts;
mod lab;
mod plans;
mod shell;
mod surface;
