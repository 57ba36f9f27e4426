//! Tables in a real folder and on a real S3 server.

#![allow(clippy::unwrap_used)]

mod expiry;
mod flips;
mod leases;
mod log;
mod merge;
mod place;
mod quirk;
mod s3;
mod tables;
