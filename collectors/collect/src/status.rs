//! What the agent is doing, for people.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use nilometer_contract::Timestamp;

/// A handle on the agent's state; reading it costs a copy of a few lines of text.
#[derive(Debug, Default)]
pub struct Status {
    report: Mutex<StatusReport>,
}

/// The agent at one moment.
#[derive(Clone, Debug, Default)]
pub struct StatusReport {
    /// The sources, as they were given.
    pub sources: Vec<SourceStatus>,
    /// Samples taken in per second, over the last interval or ten seconds.
    pub samples_per_second: f64,
    /// Why the log does not take records; nothing while it does.
    pub log_error: Option<String>,
    /// Bytes of unsent records on disk.
    pub spool_bytes: u64,
    /// Records dropped since the start.
    pub dropped: u64,
}

/// One source at one moment.
#[derive(Clone, Debug, Default)]
pub struct SourceStatus {
    /// Its name.
    pub name: &'static str,
    /// What was found when it was looked for.
    pub found: String,
    /// Resources alive.
    pub alive: usize,
    /// When it observed last.
    pub observed_at: Option<Timestamp>,
    /// How long that took.
    pub observe_time: Option<Duration>,
    /// Why the last observation failed; nothing when it did not.
    pub error: Option<String>,
    /// Observations left out because it was still busy.
    pub skipped: u64,
}

impl Status {
    /// The state now.
    pub fn report(&self) -> StatusReport {
        self.lock().clone()
    }

    pub(crate) fn update(&self, change: impl FnOnce(&mut StatusReport)) {
        change(&mut self.lock());
    }

    pub(crate) fn update_source(&self, name: &str, change: impl FnOnce(&mut SourceStatus)) {
        if let Some(source) = self.lock().sources.iter_mut().find(|source| source.name == name) {
            change(source);
        }
    }

    fn lock(&self) -> MutexGuard<'_, StatusReport> {
        self.report.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
