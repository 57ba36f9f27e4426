//! A host: one machine of the estate with its clock, its links to log and store, and a switch
//! that freezes everything on it.

use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use nilometer_contract::Timestamp;
use nilometer_source::Clock;
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
    log: Mutex<Link>,
    store: Mutex<Link>,
}

/// A wall clock that may be stepped. Between two steps it runs as true time does.
pub(crate) struct SimulatedClock {
    world: Arc<World>,
    /// True time of each step, and what the clock is ahead of true time from there on.
    steps: Mutex<Vec<(i64, i64)>>,
}

impl Host {
    pub(crate) fn new(world: &Arc<World>, name: &str, slot: u64, ahead_micros: i64) -> Arc<Self> {
        let steps = Mutex::new(vec![(i64::MIN, ahead_micros)]);
        Arc::new(Host {
            name: name.to_owned(),
            world: world.clone(),
            clock: Arc::new(SimulatedClock { world: world.clone(), steps }),
            slot,
            frozen: watch::Sender::new(false),
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

    pub(crate) fn freeze(&self, frozen: bool) {
        self.frozen.send_replace(frozen);
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

    /// Whether it was ever stepped.
    pub(crate) fn was_stepped(&self) -> bool {
        self.steps().len() > 1
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
        Duration::from_micros(self.world.elapsed().unsigned_abs())
    }
}
