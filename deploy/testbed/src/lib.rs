//! Real Kafka, containerd and libvirt for tests, on loopback, from packages.

pub mod containerd;
pub mod kafka;
pub mod libvirt;
