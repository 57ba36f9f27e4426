//! What the scheduler can be told: where to read from, how often to look, and the policy.

use serde::{Deserialize, Serialize};

use nilometer_placement::policy::{InvalidPolicy, Policy};

/// Configuration of the scheduler.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Partitions of the samples' topic, if it has to be created.
    pub samples_partitions: u32,
    /// Partitions of the events' topic, if it has to be created.
    pub events_partitions: u32,
    /// Partitions of the decisions' topic, if it has to be created.
    pub decisions_partitions: u32,
    /// How long topics that have to be created keep records at least.
    pub retention_hours: u32,
    /// Samples are read from this long ago on; 0: from the first kept. Events always are.
    pub look_back_hours: u32,
    /// Most bytes read at once from a partition.
    pub fetch_bytes: usize,
    /// A decision rests on a state at most this old.
    pub refresh_millis: u32,
    /// Rules of placement and planning.
    pub policy: Policy,
}

impl Default for Config {
    fn default() -> Self {
        Config {
            samples_partitions: 4,
            events_partitions: 4,
            decisions_partitions: 1,
            retention_hours: 7 * 24,
            look_back_hours: 72,
            fetch_bytes: 4 << 20,
            refresh_millis: 1_000,
            policy: Policy::default(),
        }
    }
}

impl Config {
    /// Checks that the numbers make sense.
    pub fn check(&self) -> Result<(), InvalidPolicy> {
        let partitions =
            [self.samples_partitions, self.events_partitions, self.decisions_partitions];
        if !partitions.iter().all(|count| (1..=1_024).contains(count)) {
            return Err(InvalidPolicy("partitions are 1 to 1024"));
        }
        if !(1..=24 * 3_650).contains(&self.retention_hours) {
            return Err(InvalidPolicy("retention_hours is 1 hour to 10 years"));
        }
        if self.look_back_hours > 24 * 3_650 {
            return Err(InvalidPolicy("look_back_hours is at most 10 years"));
        }
        if !(1 << 20..=64 << 20).contains(&self.fetch_bytes) {
            return Err(InvalidPolicy("fetch_bytes is 1 to 64 MiB"));
        }
        if self.refresh_millis > 60_000 {
            return Err(InvalidPolicy("refresh_millis is at most 60000"));
        }
        self.policy.check()
    }
}
