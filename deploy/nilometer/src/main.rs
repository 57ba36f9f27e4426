//! Meters, bills and schedules an OpenStack and Kubernetes estate.
fn main() {}
