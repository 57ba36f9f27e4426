//! The one clock: the machine's wall clock, and the one of an epoch, which never steps.
//!
//! Whatever needs the time of day is passed a [`Clock`]: [`SystemClock`] is the only reader of the
//! system's, and binaries alone choose it.

use std::sync::{Arc, LazyLock, PoisonError, RwLock};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use nilometer_contract::{Epoch, Timestamp, micros};

/// Tells the time. Passed in, so that tests and simulations own it.
///
/// A function that returns an instant is a clock.
pub trait Clock: Send + Sync {
    /// The instant now.
    fn now(&self) -> Timestamp;

    /// Time since some instant in the past: never steps. It may stand still while the machine
    /// sleeps, which then shows as a wall clock that is ahead.
    fn steady(&self) -> Duration {
        static START: LazyLock<Instant> = LazyLock::new(Instant::now);
        START.elapsed()
    }

    /// The epoch of which [`now`](Self::now) is an instant; none of a wall clock, which may step.
    fn epoch(&self) -> Epoch {
        Epoch::none()
    }
}

/// The machine's own clock.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    fn now(&self) -> Timestamp {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Timestamp(micros(since))
    }
}

impl<F: Fn() -> Timestamp + Send + Sync> Clock for F {
    fn now(&self) -> Timestamp {
        self()
    }
}

/// A clock to share.
pub type SharedClock = Arc<dyn Clock>;

/// The clock of a source instance: within an epoch it goes by steady time alone.
///
/// Until the first epoch begins it is the wall clock under it.
pub struct EpochClock {
    wall: SharedClock,
    anchor: RwLock<Anchor>,
}

/// Where an epoch began, by both clocks.
#[derive(Clone, Default)]
struct Anchor {
    epoch: Epoch,
    steady: Duration,
}

impl EpochClock {
    /// Over a wall clock; no epoch yet.
    pub fn new(wall: SharedClock) -> Self {
        EpochClock { wall, anchor: RwLock::default() }
    }

    /// Begins an epoch at the wall clock's instant.
    pub fn begin(&self, instance: &str, sequence: u64) -> Epoch {
        let mut anchor = self.anchor.write().unwrap_or_else(PoisonError::into_inner);
        let (start, steady) = (self.wall.now(), self.wall.steady());
        let epoch = Epoch { instance: instance.to_owned(), sequence, start };
        *anchor = Anchor { epoch: epoch.clone(), steady };
        epoch
    }

    /// How far the wall clock is ahead of the epoch, in microseconds; 0 without an epoch.
    pub fn ahead_micros(&self) -> i64 {
        let wall = self.wall.now();
        wall.0.saturating_sub(self.now().0)
    }
}

impl Clock for EpochClock {
    fn now(&self) -> Timestamp {
        let anchor = self.anchor.read().unwrap_or_else(PoisonError::into_inner);
        if anchor.epoch.is_none() {
            return self.wall.now();
        }
        let since = self.wall.steady().saturating_sub(anchor.steady);
        anchor.epoch.start.plus_micros(micros(since))
    }

    fn steady(&self) -> Duration {
        self.wall.steady()
    }

    fn epoch(&self) -> Epoch {
        self.anchor.read().unwrap_or_else(PoisonError::into_inner).epoch.clone()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};

    use super::*;

    #[derive(Default)]
    struct Hand {
        wall: AtomicI64,
        steady: AtomicU64,
    }

    impl Clock for Hand {
        fn now(&self) -> Timestamp {
            Timestamp(self.wall.load(Ordering::Relaxed))
        }

        fn steady(&self) -> Duration {
            Duration::from_micros(self.steady.load(Ordering::Relaxed))
        }
    }

    #[test]
    fn within_an_epoch_no_step_shows() {
        let hand = Arc::new(Hand::default());
        hand.wall.store(1_000, Ordering::Relaxed);
        let clock = EpochClock::new(hand.clone());
        assert_eq!((clock.now(), clock.epoch()), (Timestamp(1_000), Epoch::none()));
        clock.begin("a", 1);
        hand.steady.store(50, Ordering::Relaxed);
        hand.wall.store(10, Ordering::Relaxed);
        assert_eq!(clock.now(), Timestamp(1_050));
        assert_eq!(clock.ahead_micros(), 10 - 1_050);
        let second = clock.begin("a", 2);
        assert_eq!((clock.now(), second.sequence), (Timestamp(10), 2));
        assert_eq!(clock.ahead_micros(), 0);
    }

    #[test]
    fn a_function_is_a_clock() {
        let clock: SharedClock = Arc::new(|| Timestamp(7));
        assert_eq!((clock.now(), clock.epoch()), (Timestamp(7), Epoch::none()));
    }

    #[test]
    fn steady_time_goes_on() {
        let first = SystemClock.steady();
        assert!(SystemClock.steady() >= first);
    }
}
