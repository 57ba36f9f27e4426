//! Real Kafka, S3, PostgreSQL, containerd and libvirt for tests, on loopback, from packages; disks
//! that are full and clocks that jump.

pub mod cache;
pub mod clock;
pub mod containerd;
pub mod disk;
pub mod kafka;
pub mod libvirt;
pub mod postgres;
pub mod s3;
mod skip;
