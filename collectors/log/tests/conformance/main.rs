//! One suite for every implementation of the log, and what only one of them can be asked.

#![allow(clippy::unwrap_used, reason = "all of it is tests")]

mod crash;
mod damage;
mod embedded;
mod kafka;
mod reading;
mod suite;
