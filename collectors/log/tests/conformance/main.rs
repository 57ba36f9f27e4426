//! One suite for every implementation of the log, and what only one of them can be asked.

mod crash;
mod embedded;
mod kafka;
mod suite;
