//! Real Kafka, containerd and libvirt for tests, on loopback, from packages; disks that are full
//! and clocks that jump.

pub mod clock;
pub mod containerd;
pub mod disk;
pub mod kafka;
pub mod libvirt;
mod skip;
