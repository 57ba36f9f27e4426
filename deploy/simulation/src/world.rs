//! What all parts of a run share: true time, chance, and the trace.
//!
//! True time is tokio's paused clock: it advances only when every task waits, and to the next
//! timer. Work on other threads holds it, so no work takes simulated time unless a part says so.
//!
//! Each host acts in a slot of its own: whatever it waits for ends at an instant whose
//! milliseconds within a tenth of a second are the slot's. So two hosts never act at the same
//! instant, and their order does not hang on which thread is faster.

use std::sync::{Arc, Mutex};
use std::thread::ThreadId;
use std::time::Duration;

use nilometer_contract::{Timestamp, micros};
use tokio::runtime::Handle;
use tokio::time::Instant;
use xxhash_rust::xxh3::xxh3_64_with_seed;

/// True instant at which a run starts: 2026-11-02T00:54:00Z, so that an hour ends, and is
/// settled, while faults strike.
pub(crate) const START: Timestamp = Timestamp(1_793_580_840_000_000);
/// Slots repeat after this; every period that the product waits for is a multiple of it.
const ROUND_MILLIS: u64 = 100;

/// Time, chance and trace of one run.
pub(crate) struct World {
    seed: u64,
    started: Instant,
    thread: ThreadId,
    handle: Handle,
    trace: Mutex<Vec<String>>,
}

impl World {
    /// A world that begins now; in the runtime that runs it.
    pub(crate) fn new(seed: u64) -> Arc<Self> {
        Arc::new(World {
            seed,
            started: Instant::now(),
            thread: std::thread::current().id(),
            handle: Handle::current(),
            trace: Mutex::default(),
        })
    }

    /// Microseconds of true time since the start.
    pub(crate) fn elapsed(&self) -> i64 {
        // Delta reads its log on threads with a runtime, and a clock, of their own.
        let _entered = (!self.is_simulated_thread()).then(|| self.handle.enter());
        micros(self.started.elapsed())
    }

    /// The true instant.
    pub(crate) fn now(&self) -> Timestamp {
        START.plus_micros(self.elapsed())
    }

    /// Whether what runs here may wait for simulated time.
    pub(crate) fn is_simulated_thread(&self) -> bool {
        std::thread::current().id() == self.thread
    }

    /// Waits until an instant, in seconds since the start.
    pub(crate) async fn until(&self, seconds: u64) {
        tokio::time::sleep_until(self.started + Duration::from_secs(seconds)).await;
    }

    /// Waits for at least `delay`, and until the next instant of a slot.
    pub(crate) async fn slot(&self, slot: u64, delay: Duration) {
        let least = (self.started.elapsed() + delay).as_millis() as u64 + 1;
        let ahead = (slot + ROUND_MILLIS - least % ROUND_MILLIS) % ROUND_MILLIS;
        tokio::time::sleep_until(self.started + Duration::from_millis(least + ahead)).await;
    }

    /// A number below `below` that the seed and `what` determine.
    pub(crate) fn pick(&self, what: &str, below: u64) -> u64 {
        xxh3_64_with_seed(what.as_bytes(), self.seed) % below.max(1)
    }

    /// Whether something of a likelihood in thousandths happens to `what`.
    pub(crate) fn happens(&self, what: &str, thousandths: u64) -> bool {
        thousandths > 0 && self.pick(what, 1_000) < thousandths
    }

    /// Notes what happened, with the time.
    pub(crate) fn note(&self, what: impl AsRef<str>) {
        let at = self.elapsed();
        let line = format!("{:>5}.{:03} {}", at / 1_000_000, at / 1_000 % 1_000, what.as_ref());
        self.lines().push(line);
    }

    /// Everything noted so far.
    pub(crate) fn trace(&self) -> Vec<String> {
        self.lines().clone()
    }

    fn lines(&self) -> std::sync::MutexGuard<'_, Vec<String>> {
        self.trace.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}
