//! The suite against a real Apache Kafka.

/// Tells visibly that a test could not run here; fails where the machine is meant to be able to.
pub(crate) fn skipped(why: &str) {
    use std::io::Write;
    let required = std::env::var("NILOMETER_TESTBED").is_ok_and(|v| v == "required");
    assert!(!required, "the test bed is required: {why}");
    // Past the test harness's capture.
    let _ = writeln!(std::io::stderr(), "SKIPPED: {why}");
}
