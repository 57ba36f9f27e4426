//! Which instants are taken in: a stray sample of another century changes nothing (invariant 8a).

use std::time::Duration;

use nilometer_contract::{Timestamp, micros};

use crate::config::IngestConfig;

/// How far clocks of different machines may be apart, beside [`IngestConfig::ahead_max`]. An
/// instant that is ahead of the ingester's clock by more is refused whatever the log's clock
/// says; smaller differences are the log's to judge.
const CLOCKS_APART: Duration = Duration::from_secs(86_400);

/// Bounds of instants, in microseconds.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Plausible {
    ahead_max: i64,
    behind_max: i64,
}

impl Plausible {
    pub(crate) fn of(config: &IngestConfig) -> Self {
        let kept = config.retention.get("samples").copied().unwrap_or(Duration::MAX);
        Plausible { ahead_max: micros(config.ahead_max), behind_max: micros(kept) }
    }

    /// The oldest instant that is taken.
    pub(crate) fn oldest(self, now: Timestamp) -> Timestamp {
        Timestamp(now.0.saturating_sub(self.behind_max)).max(Timestamp::MIN)
    }

    /// Says why an instant is refused, of a record that the log appended at `appended_at` by its
    /// clock; `now` is the ingester's clock.
    pub(crate) fn check(self, at: i64, appended_at: i64, now: i64) -> Result<(), String> {
        let refused = |why: String| Err(format!("the instant {} {why}", Timestamp(at)));
        if !Timestamp(at).is_plausible() {
            return refused("lies outside the years 2000 to 2199".to_owned());
        }
        self.check_ahead(at, appended_at, now)?;
        if at < appended_at.min(now).saturating_sub(self.behind_max) {
            return refused("is older than the retention of samples".to_owned());
        }
        Ok(())
    }

    /// The same of an instant that may be long ago, such as the start of a resource.
    pub(crate) fn check_ahead(self, at: i64, appended_at: i64, now: i64) -> Result<(), String> {
        let refused = |why: String| Err(format!("the instant {} {why}", Timestamp(at)));
        if at > appended_at.saturating_add(self.ahead_max) {
            let clock = Timestamp(appended_at);
            return refused(format!("is too far ahead of the log's clock, which said {clock}"));
        }
        let apart = self.ahead_max.saturating_add(micros(CLOCKS_APART));
        if at > now.saturating_add(apart) {
            let clock = Timestamp(now);
            return refused(format!("is too far ahead of the ingester's clock, {clock}"));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: i64 = 1_795_000_000_000_000;
    const SECOND: i64 = 1_000_000;
    const DAY: i64 = 86_400 * SECOND;

    #[test]
    fn instants_of_other_times_are_refused() {
        let plausible = Plausible::of(&IngestConfig::default());
        let check = |at: i64, appended: i64| plausible.check(at, appended, NOW).is_ok();
        assert!(check(NOW, NOW) && check(NOW + 599 * SECOND, NOW) && check(NOW - 399 * DAY, NOW));
        assert!(!check(NOW + 601 * SECOND, NOW), "ahead of the log's clock");
        assert!(!check(NOW - 401 * DAY, NOW), "older than the retention");
        // A machine whose clock says 2150 stamps its samples and its log alike.
        assert!(!check(NOW + 45_000 * DAY, NOW + 45_000 * DAY));
        // An ingester whose clock is somewhat off refuses nothing.
        assert!(plausible.check(NOW, NOW, NOW - DAY / 2).is_ok());
        // One that is far ahead does not take all samples for too old.
        assert!(plausible.check(NOW, NOW, NOW + 500 * DAY).is_ok());
    }
}
