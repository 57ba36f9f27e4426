//! A host: one machine of the estate with its clock, its links to log and store, and a switch
//! that freezes everything on it.

use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use nilometer_clock::Clock;
use nilometer_contract::Timestamp;
use tokio::sync::watch;

use crate::world::{START, World};

/// How a link behaves; the default is well.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Link {
    /// Nothing gets through.
    pub(crate) away: bool,
    /// Nothing can be written.
    pub(crate) full: bool,
    /// What each request takes on top.
    pub(crate) slow: Duration,
    /// Thousandths of requests that fail; half of them after they took effect.
    pub(crate) lossy: u64,
}

/// What becomes of one request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fate {
    Done,
    /// It never arrives.
    Lost,
    /// It is done, but the answer never arrives.
    AnswerLost,
}

/// One machine.
pub(crate) struct Host {
    pub(crate) name: String,
    pub(crate) world: Arc<World>,
    pub(crate) clock: Arc<SimulatedClock>,
    slot: u64,
    frozen: watch::Sender<bool>,
    still: Mutex<Still>,
    log: Mutex<Link>,
    store: Mutex<Link>,
}

/// When a host stood still, in true time.
#[derive(Default)]
struct Still {
    /// Since when it does, if it does.
    since: Option<i64>,
    before: Vec<(i64, i64)>,
}

/// A wall clock that may be stepped, and a steady one that stands still while its machine sleeps.
/// Else both run as true time does.
pub(crate) struct SimulatedClock {
    world: Arc<World>,
    /// True time of each step, and what the clock is ahead of true time from there on.
    steps: Mutex<Vec<(i64, i64)>>,
    sleep: Mutex<Sleep>,
}

/// In microseconds of true time.
#[derive(Clone, Copy, Default)]
struct Sleep {
    /// Since when it sleeps, if it does.
    since: Option<i64>,
    /// How long it slept before.
    total: i64,
}

impl Host {
    pub(crate) fn new(world: &Arc<World>, name: &str, slot: u64, ahead_micros: i64) -> Arc<Self> {
        let steps = Mutex::new(vec![(i64::MIN, ahead_micros)]);
        Arc::new(Host {
            name: name.to_owned(),
            world: world.clone(),
            clock: Arc::new(SimulatedClock {
                world: world.clone(),
                steps,
                sleep: Mutex::default(),
            }),
            slot,
            frozen: watch::Sender::new(false),
            still: Mutex::default(),
            log: Mutex::default(),
            store: Mutex::default(),
        })
    }

    /// Waits for the host's next instant of one kind (0 to 9), and as long as it is frozen.
    pub(crate) async fn wait(&self, kind: u64, delay: Duration) {
        self.world.slot(self.slot + kind, delay).await;
        let mut frozen = self.frozen.subscribe();
        while *frozen.borrow_and_update() {
            if frozen.changed().await.is_err() {
                break;
            }
        }
    }

    /// Stops all that runs on it, or lets it go on unless it sleeps.
    pub(crate) fn freeze(&self, frozen: bool) {
        let frozen = frozen || self.clock.sleep().since.is_some();
        self.frozen.send_replace(frozen);
        let mut still = self.still.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        let now = self.world.elapsed();
        if frozen {
            still.since.get_or_insert(now);
        } else if let Some(since) = still.since.take() {
            still.before.push((since, now));
        }
    }

    /// From when to when it stood still, in true time.
    pub(crate) fn stood_still(&self) -> Vec<(i64, i64)> {
        self.still.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).before.clone()
    }

    /// Puts it to sleep, or wakes it up.
    pub(crate) fn set_asleep(&self, asleep: bool) {
        self.clock.set_asleep(asleep);
        self.freeze(asleep);
    }

    pub(crate) fn is_frozen(&self) -> bool {
        *self.frozen.borrow()
    }

    /// The link to the log, to look at or to change.
    pub(crate) fn log(&self) -> MutexGuard<'_, Link> {
        self.log.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// The link to the store, to look at or to change.
    pub(crate) fn store(&self) -> MutexGuard<'_, Link> {
        self.store.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// Polls a process only while the host is not frozen.
    pub(crate) async fn run<T>(&self, process: impl Future<Output = T>) -> T {
        let mut process = std::pin::pin!(process);
        let mut frozen = self.frozen.subscribe();
        loop {
            if !*frozen.borrow_and_update() {
                tokio::select! {
                    biased;
                    _ = frozen.changed() => continue,
                    done = &mut process => return done,
                }
            }
            if frozen.changed().await.is_err() {
                return process.await;
            }
        }
    }
}

impl Link {
    /// What becomes of a request, as its name and the seed have it.
    pub(crate) fn fate(self, world: &World, request: &str) -> Fate {
        match self {
            Link { away: true, .. } => Fate::Lost,
            Link { lossy, .. } if world.happens(request, lossy / 2) => Fate::Lost,
            Link { lossy, .. } if world.happens(&format!("{request} answer"), lossy / 2) => {
                Fate::AnswerLost
            }
            _ => Fate::Done,
        }
    }
}

impl SimulatedClock {
    /// Steps it from now on.
    pub(crate) fn step(&self, micros: i64) {
        let now = self.world.elapsed();
        let mut steps = self.steps();
        let ahead = steps.last().map_or(0, |step| step.1);
        steps.push((now, ahead + micros));
    }

    /// What the clock showed, or shows, at a true instant.
    pub(crate) fn shown_at(&self, elapsed: i64) -> Timestamp {
        let steps = self.steps();
        let step = steps.iter().rev().find(|(since, _)| *since <= elapsed);
        START.plus_micros(elapsed + step.map_or(0, |step| step.1))
    }

    fn set_asleep(&self, asleep: bool) {
        let (now, mut sleep) = (self.world.elapsed(), self.sleep());
        let since = sleep.since.take();
        if asleep {
            sleep.since = since.or(Some(now));
        } else {
            sleep.total += since.map_or(0, |since| now - since);
        }
    }

    /// Whether it ever parted from steady time, by a step or in its sleep.
    pub(crate) fn was_stepped(&self) -> bool {
        self.was_set() || self.sleep().total > 0
    }

    /// Whether somebody set it.
    pub(crate) fn was_set(&self) -> bool {
        self.steps().len() > 1
    }

    fn sleep(&self) -> MutexGuard<'_, Sleep> {
        self.sleep.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    fn steps(&self) -> MutexGuard<'_, Vec<(i64, i64)>> {
        self.steps.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

impl Clock for SimulatedClock {
    fn now(&self) -> Timestamp {
        self.shown_at(self.world.elapsed())
    }

    fn steady(&self) -> Duration {
        let (now, sleep) = (self.world.elapsed(), *self.sleep());
        let awake = sleep.since.unwrap_or(now) - sleep.total;
        Duration::from_micros(awake.unsigned_abs())
    }
}
