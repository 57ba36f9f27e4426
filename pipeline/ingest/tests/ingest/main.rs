//! The ingester on a real log and real tables in a temporary folder.

#![allow(clippy::unwrap_used)]

mod crash;
mod facts;
mod faults;
mod follow;
mod place;
mod properties;
mod samples;
mod upkeep;
