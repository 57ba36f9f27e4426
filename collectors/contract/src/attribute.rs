//! The attributes of resources that have a meaning to the program; others are prices' to match.

/// Size in virtual CPUs or cores, a decimal number: allocated, or of a node its capacity.
pub const VCPUS: &str = "vcpus";
/// Memory in bytes, a decimal number: allocated, or of a node its capacity.
pub const MEMORY_BYTES: &str = "memory_bytes";
/// Disk space in bytes, a decimal number.
pub const DISK_BYTES: &str = "disk_bytes";
/// Name of the flavor or instance type.
pub const FLAVOR: &str = "flavor";
/// During which boot of its machine a resource is; its counters begin anew with another one.
pub const BOOT_ID: &str = "boot_id";
