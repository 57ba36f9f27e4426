//! The project's chores: test, tidy, crash, bench.
fn main() {}
