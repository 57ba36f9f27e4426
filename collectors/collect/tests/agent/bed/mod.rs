//! A log, a clock and sources that do as the test says, and an agent among them.
//!
//! Time is tokio's paused clock; instants are told in whole seconds since the bed was made.

mod fleet;
mod log;

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use nilometer_clock::{Clock, EpochClock};
use nilometer_collect::{Agent, AgentConfig, AgentError, Status, Watched};
use nilometer_contract::{Change, LifecycleEvent, Resource, ResourceKind, Timestamp};
use nilometer_source::Observation;
use prometheus::Registry;
use tempfile::TempDir;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

pub use fleet::Fleet;
pub use log::BedLog;

const ZERO: i64 = 1_800_000_000;
/// Beds are made this long after a multiple of every interval.
const FIRST_SECOND: i64 = 3;

/// Whole seconds since the bed's zero.
pub fn seconds(at: Timestamp) -> i64 {
    (at.0 - Timestamp::from_seconds(ZERO).0).div_euclid(1_000_000)
}

/// The wall clock: tokio's time, which the test may step.
pub struct BedClock {
    start: Instant,
    stepped: AtomicI64,
    stood_still: AtomicI64,
}

impl BedClock {
    pub fn jump(&self, seconds: i64) {
        self.stepped.fetch_add(seconds * 1_000_000, Ordering::Relaxed);
    }

    /// As if the process had been frozen for so long: time passes and no timer fires.
    pub fn stand_still(&self, seconds: i64) {
        self.jump(seconds);
        self.stood_still.fetch_add(seconds * 1_000_000, Ordering::Relaxed);
    }
}

impl Clock for BedClock {
    fn now(&self) -> Timestamp {
        let elapsed = self.start.elapsed().as_micros() as i64;
        Timestamp::from_seconds(ZERO + FIRST_SECOND)
            .plus_micros(elapsed + self.stepped.load(Ordering::Relaxed))
    }

    fn steady(&self) -> Duration {
        let still = self.stood_still.load(Ordering::Relaxed);
        self.start.elapsed() + Duration::from_micros(still.unsigned_abs())
    }
}

/// What outlives an agent.
pub struct Bed {
    pub log: Arc<BedLog>,
    pub clock: Arc<BedClock>,
    pub spool_max_bytes: u64,
    /// Where the agent keeps what it keeps.
    dir: PathBuf,
    _dir: TempDir,
}

/// An agent at work.
pub struct Run {
    pub status: Arc<Status>,
    registry: Registry,
    outlet: mpsc::Sender<Observation>,
    late: mpsc::Sender<Watched>,
    clock: Arc<BedClock>,
    epochs: Arc<EpochClock>,
    cancel: CancellationToken,
    task: Mutex<Option<JoinHandle<Result<(), AgentError>>>>,
}

impl Bed {
    pub fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let (stepped, stood_still) = (AtomicI64::new(0), AtomicI64::new(0));
        let clock = BedClock { start: Instant::now(), stepped, stood_still };
        Bed {
            log: Arc::new(BedLog::default()),
            clock: Arc::new(clock),
            spool_max_bytes: 1 << 24,
            dir: dir.path().join("agent"),
            _dir: dir,
        }
    }

    /// Lets the agent keep its files elsewhere, and leaves them there.
    pub fn keep_in(&mut self, dir: &Path) {
        self.dir = dir.to_owned();
    }

    pub fn start(&self, fleet: Fleet) -> Run {
        self.start_all(vec![fleet])
    }

    pub fn start_all(&self, fleets: Vec<Fleet>) -> Run {
        let mut config = AgentConfig::new("n", &self.dir);
        config.spool_max_bytes = self.spool_max_bytes;
        let sources = fleets.into_iter().map(|fleet| watched(fleet, &self.clock)).collect();
        let (outlet, pushed) = mpsc::channel(16);
        let registry = Registry::new();
        let (log, clock) = (self.log.clone(), Arc::new(EpochClock::new(self.clock.clone())));
        let epochs = clock.clone();
        let agent = Agent::new(config, sources, pushed, log, clock, &registry).unwrap();
        let (late, seen) = mpsc::channel(1);
        let agent = agent.with_late_sources(seen);
        let (status, cancel) = (agent.status(), CancellationToken::new());
        let task = tokio::spawn(agent.run(cancel.clone()));
        let (clock, task) = (self.clock.clone(), Mutex::new(Some(task)));
        Run { status, registry, outlet, late, clock, epochs, cancel, task }
    }

    /// Lets time pass with no agent there.
    pub async fn advance_to(&self, second: i64) {
        until(&self.clock, second).await;
    }

    /// What the agent keeps.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Bytes in the spool's files.
    pub fn spooled_bytes(&self) -> u64 {
        ["events", "samples"].iter().map(|lane| bytes_in(&self.dir.join(lane))).sum()
    }
}

impl Run {
    /// Lets time pass until just after a second.
    pub async fn until(&self, second: i64) {
        until(&self.clock, second).await;
    }

    /// A source that was not there at the start.
    pub async fn turns_up(&self, fleet: Fleet) {
        assert!(self.late.send(watched(fleet, &self.clock)).await.is_ok());
    }

    /// As a source would say that a resource is gone.
    pub async fn push_end(&self, id: &str) {
        let mut said = Observation::new("fleet");
        said.events.push(LifecycleEvent {
            change: Change::Deleted,
            at: self.clock.now(),
            resource: Resource::new(id, ResourceKind::VM),
            source: "fleet".to_owned(),
        });
        self.outlet.send(said).await.unwrap();
    }

    /// As a source would say the readings of a counter, at whole seconds by the wall clock.
    pub async fn push_readings(&self, id: &str, readings: &[(i64, f64)]) {
        let mut said = Observation::begin("fleet", self.epochs.as_ref());
        let subject = said.samples.subject(&Resource::new(id, ResourceKind::VM));
        for &(second, value) in readings {
            let at = Timestamp::from_seconds(ZERO + second);
            said.samples.push_named(subject, "cpu.time", at, value);
        }
        self.outlet.send(said).await.unwrap();
    }

    /// Waits, without time passing, until the agent took in so many events.
    pub async fn until_taken(&self, events: f64) {
        while self.metric("nilometer_agent_events_total") < events {
            tokio::task::yield_now().await;
        }
    }

    /// Sum of a counter over its labels.
    pub fn metric(&self, name: &str) -> f64 {
        let families = self.registry.gather();
        let family = families.iter().find(|family| family.name() == name);
        family.map_or(0.0, |family| {
            family.get_metric().iter().map(|metric| metric.get_counter().get_value()).sum()
        })
    }

    /// Stops the agent as a signal would.
    pub async fn stop(&self) {
        self.cancel.cancel();
        self.ended().await.unwrap();
    }

    /// Ends the agent at this instant: nothing more of it runs.
    pub async fn kill(&self) {
        let task = self.task.lock().unwrap().take().unwrap();
        task.abort();
        assert!(task.await.unwrap_err().is_cancelled());
    }

    pub async fn ended(&self) -> Result<(), AgentError> {
        let task = self.task.lock().unwrap().take().unwrap();
        task.await.unwrap()
    }
}

fn watched(fleet: Fleet, clock: &Arc<BedClock>) -> Watched {
    Watched { source: Box::new(fleet.told_by(clock.clone())), found: "a fleet".to_owned() }
}

async fn until(clock: &BedClock, second: i64) {
    let target = Timestamp::from_seconds(ZERO + second).plus_micros(100_000);
    let left = target.0 - clock.now().0;
    tokio::time::sleep(Duration::from_micros(left.try_into().unwrap())).await;
}

fn bytes_in(dir: &Path) -> u64 {
    std::fs::read_dir(dir).unwrap().map(|file| file.unwrap().metadata().unwrap().len()).sum()
}
