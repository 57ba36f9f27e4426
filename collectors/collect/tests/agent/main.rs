//! The agent as a whole, on a clock, a log and sources that do as the test says.

#![allow(clippy::unwrap_used, clippy::print_stderr, unreachable_pub)]

mod bed;
mod life;
mod partitions;
mod synced;
