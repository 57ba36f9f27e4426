//! What fleet to simulate.

use nilometer_contract::{MICROS_PER_HOUR, MICROS_PER_SECOND, Timestamp};
use serde::Deserialize;

/// 2026-11-02T00:00:00Z, a Monday.
const DEFAULT_START: Timestamp = Timestamp(1_793_577_600 * MICROS_PER_SECOND);
/// Below this an idle core's counter could not be told from its own rounding.
const MIN_STEP_MICROS: i64 = MICROS_PER_SECOND / 10;
const MAX_NODES: u32 = 10_000;
const MAX_VMS_AND_PODS: u32 = 200_000;
const MAX_PROJECTS: u32 = 10_000;
const MAX_CHURN_PER_HOUR: u32 = 1_000_000;
const MAX_FACTOR: u32 = 1_000_000;

/// A fleet, as a pure function: equal configurations give equal samples and events.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct FleetConfig {
    /// Chooses one fleet among all of this size; it is part of every node's id.
    pub seed: u64,
    /// Hypervisors and bare Kubernetes nodes.
    pub nodes: u32,
    /// Virtual machines and pods alive at a time, short-lived jobs not counted.
    pub vms_and_pods: u32,
    /// Projects that own them.
    pub projects: u32,
    /// Microseconds from one step of observations to the next.
    pub step_micros: i64,
    /// When the fleet comes into being; step `n` is at `start + n × step`.
    pub start: Timestamp,
    /// What changes while it runs.
    pub churn: ChurnConfig,
    /// Simulated seconds per second of the clock, live.
    pub factor: u32,
}

/// How often lifecycles change, per simulated hour and over the whole fleet.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ChurnConfig {
    /// A VM or pod dies and another is born within two minutes.
    pub replacements_per_hour: u32,
    /// VMs and pods that live from half a second to ten minutes; a quarter of them exactly 3 s,
    /// another exactly 61 s.
    pub jobs_per_hour: u32,
    /// A VM takes another flavor.
    pub resizes_per_hour: u32,
    /// A VM migrates, with the pods on it.
    pub moves_per_hour: u32,
    /// A VM changes its project.
    pub transfers_per_hour: u32,
    /// A guest reboots: its counters restart from zero.
    pub reboots_per_hour: u32,
}

/// A configuration that no fleet can have.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("simulated.{field} is {found}, not within {least} to {most}")]
pub struct ConfigError {
    /// Name of the field.
    pub field: &'static str,
    /// What it said.
    pub found: i64,
    /// Least value allowed.
    pub least: i64,
    /// Greatest value allowed.
    pub most: i64,
}

impl Default for FleetConfig {
    fn default() -> Self {
        FleetConfig {
            seed: 1,
            nodes: 50,
            vms_and_pods: 1_000,
            projects: 10,
            step_micros: 10 * MICROS_PER_SECOND,
            start: DEFAULT_START,
            churn: ChurnConfig::default(),
            factor: 1,
        }
    }
}

impl Default for ChurnConfig {
    fn default() -> Self {
        ChurnConfig {
            replacements_per_hour: 60,
            jobs_per_hour: 120,
            resizes_per_hour: 20,
            moves_per_hour: 20,
            transfers_per_hour: 6,
            reboots_per_hour: 20,
        }
    }
}

impl ChurnConfig {
    /// Nothing is born, dies or changes after the start.
    pub fn none() -> Self {
        ChurnConfig {
            replacements_per_hour: 0,
            jobs_per_hour: 0,
            resizes_per_hour: 0,
            moves_per_hour: 0,
            transfers_per_hour: 0,
            reboots_per_hour: 0,
        }
    }
}

impl FleetConfig {
    /// The instant of step `n`.
    pub fn step_at(&self, n: u64) -> Timestamp {
        let n = i64::try_from(n).unwrap_or(i64::MAX);
        self.start.plus_micros(n.saturating_mul(self.step_micros))
    }

    /// Number of steps at or before `at`, which is the number of the first step after it.
    pub fn steps_until(&self, at: Timestamp) -> u64 {
        let since = at.0.saturating_sub(self.start.0);
        u64::try_from(since).map_or(0, |since| since / self.step_micros.unsigned_abs() + 1)
    }

    /// Checks every bound.
    pub fn check(&self) -> Result<(), ConfigError> {
        let churn = &self.churn;
        let most = i64::from(MAX_CHURN_PER_HOUR);
        let latest = Timestamp::MAX.0 - 365 * 24 * MICROS_PER_HOUR;
        let fields = [
            ("nodes", self.nodes.into(), 1, MAX_NODES.into()),
            ("vms_and_pods", self.vms_and_pods.into(), 1, MAX_VMS_AND_PODS.into()),
            ("projects", self.projects.into(), 1, MAX_PROJECTS.into()),
            ("step_micros", self.step_micros, MIN_STEP_MICROS, 24 * MICROS_PER_HOUR),
            ("start", self.start.0, Timestamp::MIN.0, latest),
            ("factor", self.factor.into(), 1, MAX_FACTOR.into()),
            ("churn.replacements_per_hour", churn.replacements_per_hour.into(), 0, most),
            ("churn.jobs_per_hour", churn.jobs_per_hour.into(), 0, most),
            ("churn.resizes_per_hour", churn.resizes_per_hour.into(), 0, most),
            ("churn.moves_per_hour", churn.moves_per_hour.into(), 0, most),
            ("churn.transfers_per_hour", churn.transfers_per_hour.into(), 0, most),
            ("churn.reboots_per_hour", churn.reboots_per_hour.into(), 0, most),
        ];
        for (field, found, least, most) in fields {
            if !(least..=most).contains(&found) {
                return Err(ConfigError { field, found, least, most });
            }
        }
        Ok(())
    }
}
