//! Real Kafka, S3, PostgreSQL, containerd and libvirt for tests, on loopback, from packages; disks
//! that are full and clocks that jump; a client that tries what a document allows and what not.

pub mod cache;
pub mod clock;
pub mod containerd;
pub mod disk;
pub mod fed;
pub mod kafka;
pub mod libvirt;
pub mod postgres;
pub mod s3;
pub mod schemathesis;
mod skip;
