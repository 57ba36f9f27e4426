//! The ingester on a real log and real tables, in a temporary folder and on a real S3 server.

#![allow(clippy::unwrap_used)]

mod beginning;
mod bounds;
mod bucket;
mod crash;
mod damage;
mod facts;
mod faults;
mod follow;
mod forget;
mod lost;
mod owners;
mod place;
mod properties;
mod replaced;
mod samples;
mod turns;
mod upkeep;
