//! The topics of the log and how records are spread over their partitions.

use xxhash_rust::xxh3::xxh3_64;

/// Topic of sample batches (Arrow IPC).
pub const SAMPLES: &str = "nilometer.samples";
/// Topic of lifecycle events (CloudEvents JSON).
pub const EVENTS: &str = "nilometer.events";

/// The partition in which everything about one resource lies, in order.
///
/// Depends on the resource alone, so a VM that moves between nodes stays in its partition.
pub fn partition_of(resource: &str, partitions: u32) -> u32 {
    assert!(partitions > 0, "a topic has at least one partition");
    (xxh3_64(resource.as_bytes()) % u64::from(partitions)) as u32
}

/// Topic of what agents had to drop (JSON).
pub const GAPS: &str = "nilometer.gaps";
/// Topic of copies of what could not be stored; the table of that name is the record.
pub const DEAD_LETTERS: &str = "nilometer.dead_letters";
