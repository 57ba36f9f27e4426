//! The service over a real log: what goes in by topic comes out as answers and records, and the
//! HTTP surface with its golden answers.
//!
//! One binary. Time is given, never waited for, but for the streaming shell, which is polled for
//! a condition up to a bound.

#![allow(clippy::unwrap_used, reason = "tests")]

#[path = "../../../placement/tests/placement/lab.rs"]
#[allow(dead_code, reason = "shared with the tests of the pure functions")]
mod lab;
mod shell;
mod surface;
