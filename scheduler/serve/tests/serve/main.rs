//! The service over a real log: what goes in by topic comes out as answers and records, and the
//! HTTP surface with its golden answers.
//!
//! One binary. Time is given, never waited for.

#![allow(clippy::unwrap_used, reason = "tests")]

#[path = "../../../placement/tests/placement/cluster.rs"]
#[allow(dead_code, reason = "shared with the tests of the pure functions")]
mod cluster;
mod http;
mod service;
