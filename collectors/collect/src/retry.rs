//! When to try again, and since when it fails.

use std::time::Duration;

use nilometer_contract::Timestamp;
use tokio::time::Instant;

const FIRST_BACKOFF: Duration = Duration::from_millis(250);
/// Longest wait between attempts while the log takes nothing.
pub(crate) const LONGEST_BACKOFF: Duration = Duration::from_secs(5);
/// Longest wait between attempts at what fails while the log takes other records.
pub(crate) const LONGEST_BACKOFF_ALONE: Duration = Duration::from_secs(30);
/// Longest reason that is kept, in characters.
const MAX_REASON: usize = 250;

/// The attempts at one partition or topic.
pub(crate) struct Retry {
    /// When the next attempt may start.
    pub(crate) at: Instant,
    backoff: Duration,
    outage: Option<Outage>,
}

/// A time in which attempts failed.
#[derive(Clone, Debug)]
pub(crate) struct Outage {
    pub(crate) began: Instant,
    pub(crate) since: Timestamp,
    /// The first error.
    pub(crate) why: String,
}

impl Default for Retry {
    fn default() -> Self {
        Retry { at: Instant::now(), backoff: FIRST_BACKOFF, outage: None }
    }
}

impl Retry {
    /// Whether the last attempt failed.
    pub(crate) fn fails(&self) -> bool {
        self.outage.is_some()
    }

    /// Why attempts fail, while they do.
    pub(crate) fn why(&self) -> Option<&str> {
        self.outage.as_ref().map(|outage| outage.why.as_str())
    }

    /// An attempt went well; returns the time in which they did not.
    pub(crate) fn worked(&mut self) -> Option<Outage> {
        self.backoff = FIRST_BACKOFF;
        self.outage.take()
    }

    /// An attempt failed; the next one waits, longer each time. Says whether it is the first.
    pub(crate) fn failed(&mut self, now: Timestamp, why: &str, longest: Duration) -> bool {
        let first = self.outage.is_none();
        self.outage.get_or_insert_with(|| Outage {
            began: Instant::now(),
            since: now,
            why: why.chars().take(MAX_REASON).collect(),
        });
        self.at = Instant::now() + self.backoff.min(longest);
        self.backoff = (self.backoff * 2).min(longest);
        first
    }

    /// The next attempt need not wait.
    pub(crate) fn soon(&mut self) {
        self.at = Instant::now();
        self.backoff = FIRST_BACKOFF;
    }
}
