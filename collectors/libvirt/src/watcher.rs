//! The task that owns the connection: takes events as they come, readings when asked, and
//! connects again when libvirt was away.
//!
//! Everything seen goes into one [`Observation`] in order. Between two requests it is offered to
//! the outlet; when that is full it stays and the next request takes it along, so nothing waits
//! on the agent. Past [`MAX_WAITING`] samples or events the oldest give way, which is logged.

use std::path::PathBuf;
use std::time::Duration;

use nilometer_clock::SharedClock;
use nilometer_contract::{BatchBuilder, Causes, Timestamp};
use nilometer_source::{Observation, Outlet, SourceError};
use tokio::sync::{mpsc, mpsc::error::TrySendError, oneshot};
use tokio::time::{Instant, sleep_until};

use crate::birth::Births;
use crate::connection::{CallError, Notice};
use crate::description::Description;
use crate::fleet::{Birth, Fleet, Reading, SOURCE, Verdict};
use crate::protocol::{self, DomainRef};
use crate::session::{Meaning, Session};
use crate::stats::{DomainStats, State};

/// Most samples or events that wait for the agent.
pub(crate) const MAX_WAITING: usize = 200_000;
const FIRST_PAUSE: Duration = Duration::from_millis(500);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

/// Where an observation that was asked for goes.
pub(crate) type Answer = oneshot::Sender<Result<Observation, SourceError>>;

/// How to reach libvirt.
#[derive(Clone)]
pub(crate) struct Address {
    pub(crate) sockets: Vec<PathBuf>,
    pub(crate) uri: String,
    pub(crate) patience: Duration,
}

/// Observes one libvirt.
pub(crate) struct Watcher {
    address: Address,
    clock: SharedClock,
    outlet: Outlet,
    births: Births,
    fleet: Fleet,
    seen: Observation,
    /// When the last full reading was asked for.
    last_full: Option<Timestamp>,
    session: Option<Session>,
    retry_at: Instant,
    pause: Duration,
    dropped: u64,
}

/// Lifecycle events of libvirt, with the detail where it matters.
mod lifecycle {
    pub(super) const STARTED: i32 = 2;
    pub(super) const SUSPENDED: i32 = 3;
    pub(super) const RESUMED: i32 = 4;
    pub(super) const STOPPED: i32 = 5;
    pub(super) const SHUTDOWN: i32 = 6;
    pub(super) const PMSUSPENDED: i32 = 7;
    pub(super) const CRASHED: i32 = 8;
    pub(super) const STARTED_MIGRATED: i32 = 1;
    pub(super) const STOPPED_MIGRATED: i32 = 3;
}

enum Event {
    Request(Option<Answer>),
    Notice(Option<Notice>),
    Retry,
}

impl Watcher {
    pub(crate) fn new(
        address: Address,
        node: String,
        state_dirs: Vec<PathBuf>,
        clock: SharedClock,
        outlet: Outlet,
        session: Session,
    ) -> Self {
        Watcher {
            address,
            clock,
            outlet,
            births: Births { state_dirs },
            fleet: Fleet::new(node),
            seen: Observation::new(SOURCE),
            last_full: None,
            session: Some(session),
            retry_at: Instant::now(),
            pause: FIRST_PAUSE,
            dropped: 0,
        }
    }

    /// Runs until the source is dropped.
    pub(crate) async fn run(mut self, mut requests: mpsc::Receiver<Answer>) {
        loop {
            let event = match &mut self.session {
                Some(session) => tokio::select! {
                    biased;
                    notice = session.notices.recv() => Event::Notice(notice),
                    request = requests.recv() => Event::Request(request),
                },
                None => tokio::select! {
                    request = requests.recv() => Event::Request(request),
                    () = sleep_until(self.retry_at) => Event::Retry,
                },
            };
            match event {
                Event::Request(None) => return,
                Event::Request(Some(answer)) => {
                    let observed = self.observe().await;
                    let _ = answer.send(observed);
                }
                Event::Notice(Some(notice)) => {
                    if let Err(error) = self.take_notice(notice).await {
                        self.lose_session(&error);
                    }
                    self.offer();
                }
                Event::Notice(None) => self.lose_session(&CallError::Closed),
                Event::Retry => {
                    self.reconnect().await;
                    self.offer();
                }
            }
        }
    }

    async fn observe(&mut self) -> Result<Observation, SourceError> {
        self.seen.resume(self.clock.as_ref());
        let result = match &self.session {
            Some(_) => self.read_all(false).await,
            None => return Err(self.unreachable(CallError::Closed)),
        };
        if let Err(error) = result {
            self.lose_session(&error);
            return Err(self.unreachable(error));
        }
        Ok(std::mem::replace(&mut self.seen, Observation::new(SOURCE)))
    }

    fn unreachable(&self, error: CallError) -> SourceError {
        let sockets: Vec<_> = self.address.sockets.iter().map(|path| path.display()).collect();
        SourceError::new(format!("libvirt does not answer on any of {sockets:?}"), error)
    }

    /// Asks for the statistics of all domains at once. `after_absence`: events may have been
    /// lost, so nothing is left for them to explain.
    async fn read_all(&mut self, after_absence: bool) -> Result<(), CallError> {
        self.fleet.forget_ends();
        let asked = self.clock.now();
        let readings = self.read(&[]).await?;
        // What was told before the answer came happened before it.
        while let Some(notice) = self.session.as_mut().and_then(|s| s.notices.try_recv().ok()) {
            self.take_notice(notice).await?;
        }
        if after_absence {
            let births = &self.births;
            self.fleet.reconcile_all(&readings, |name| births.of(name), &mut self.seen);
        } else {
            self.fleet.reconcile(&readings, &mut self.seen);
        }
        for reading in &readings {
            self.take_reading(reading, None).await?;
        }
        self.last_full = Some(asked);
        self.report_dropped();
        Ok(())
    }

    async fn read(&mut self, domains: &[DomainRef]) -> Result<Vec<Reading>, CallError> {
        let Some(session) = &mut self.session else { return Err(CallError::Closed) };
        let asked = self.clock.now();
        let reply = session.stats(domains).await?;
        let answered = self.clock.now();
        let at = asked.plus_micros(answered.0.saturating_sub(asked.0) / 2);
        let records = protocol::decode_stats(&reply)?;
        let readings = records.into_iter().map(|record| Reading {
            stats: DomainStats::from_values(&record.values),
            domain: record.domain,
            asked,
            at,
        });
        Ok(readings.collect())
    }

    /// `started`: when the event that told of the start arrived.
    async fn take_reading(
        &mut self,
        reading: &Reading,
        started: Option<Timestamp>,
    ) -> Result<(), CallError> {
        match self.fleet.judge(reading) {
            Verdict::Skip => {}
            Verdict::Update => self.fleet.update(reading, &mut self.seen),
            Verdict::Describe => {
                if let Some(description) = self.describe(&reading.domain).await? {
                    self.fleet.describe(reading.domain.uuid, description);
                }
                self.fleet.update(reading, &mut self.seen);
            }
            Verdict::Admit => {
                // Without its description the owner is not known; it is left for the next time.
                if let Some(description) = self.describe(&reading.domain).await? {
                    let birth = self.birth(reading, started);
                    self.fleet.admit(reading, description, birth, &mut self.seen);
                }
            }
        }
        Ok(())
    }

    fn birth(&self, reading: &Reading, started: Option<Timestamp>) -> Birth {
        let start = self.births.of(&reading.domain.name);
        let is_new = |start: Timestamp| self.last_full.is_some_and(|full| start >= full);
        match (start, started) {
            (Some(start), Some(_)) => Birth::Seen(start),
            (None, Some(told)) => Birth::Seen(told),
            (Some(start), None) if is_new(start) => Birth::Seen(start),
            (start, None) => Birth::Found(start.unwrap_or(reading.at)),
        }
    }

    async fn describe(&self, domain: &DomainRef) -> Result<Option<Description>, CallError> {
        let Some(session) = &self.session else { return Err(CallError::Closed) };
        match session.describe(domain).await {
            Ok(None) => Ok(None),
            Ok(Some(xml)) => match Description::parse(&xml) {
                Ok(description) => Ok(Some(description)),
                Err(error) => {
                    tracing::warn!(domain = %domain.name, error = %Causes(&error), "description cannot be read");
                    Ok(Some(Description::default()))
                }
            },
            Err(error) if error.is_fatal() => Err(error),
            Err(error) => {
                tracing::warn!(domain = %domain.name, error = %Causes(&error), "description was refused");
                Ok(None)
            }
        }
    }

    async fn take_notice(&mut self, notice: Notice) -> Result<(), CallError> {
        self.seen.resume(self.clock.as_ref());
        let Some(session) = &self.session else { return Ok(()) };
        let (at, domain) = (notice.at, &notice.event.domain);
        tracing::debug!(domain = %domain.name, lifecycle = ?notice.event.lifecycle, "event");
        match session.meaning(&notice) {
            Meaning::Lifecycle(what, detail) => self.live(domain, what, detail, at).await,
            Meaning::Devices => self.read_one(domain, None).await,
            Meaning::Metadata => {
                if self.fleet.knows(domain)
                    && let Some(description) = self.describe(domain).await?
                {
                    self.fleet.describe(domain.uuid, description);
                }
                self.read_one(domain, None).await
            }
        }
    }

    async fn live(
        &mut self,
        domain: &DomainRef,
        what: i32,
        detail: i32,
        at: Timestamp,
    ) -> Result<(), CallError> {
        let uuid = domain.uuid;
        let state = match (what, detail) {
            (lifecycle::STARTED, lifecycle::STARTED_MIGRATED) => {
                self.fleet.arriving(uuid);
                return Ok(());
            }
            (lifecycle::STARTED, _) if self.fleet.knows(domain) => return Ok(()),
            (lifecycle::STARTED, _) => return self.read_one(domain, Some(at)).await,
            (lifecycle::RESUMED, _) if self.fleet.arrived(uuid) => {
                return self.read_one(domain, Some(at)).await;
            }
            (lifecycle::STOPPED, lifecycle::STOPPED_MIGRATED) => {
                self.fleet.departed(uuid, at);
                return Ok(());
            }
            (lifecycle::STOPPED, _) => {
                self.fleet.ended(uuid, at, &mut self.seen);
                return Ok(());
            }
            (lifecycle::SHUTDOWN, _) => {
                // The process may still be there for a last reading.
                let last = self.fleet.domain(uuid).cloned();
                if let Some(domain) = last {
                    self.read_one(&domain, None).await?;
                }
                State::ShuttingDown
            }
            (lifecycle::SUSPENDED, _) => State::Paused,
            (lifecycle::RESUMED, _) => State::Running,
            (lifecycle::PMSUSPENDED, _) => State::Suspended,
            (lifecycle::CRASHED, _) => State::Crashed,
            _ => return Ok(()),
        };
        self.fleet.turned(uuid, state, at, &mut self.seen);
        Ok(())
    }

    /// Reads one domain, for what just happened to it. That it is gone already is no error.
    async fn read_one(
        &mut self,
        domain: &DomainRef,
        started: Option<Timestamp>,
    ) -> Result<(), CallError> {
        match self.read(std::slice::from_ref(domain)).await {
            Ok(readings) => {
                for reading in &readings {
                    self.take_reading(reading, started).await?;
                }
                Ok(())
            }
            Err(error) if error.is_fatal() => Err(error),
            Err(error) => {
                tracing::debug!(domain = %domain.name, error = %Causes(&error), "domain not read");
                Ok(())
            }
        }
    }

    fn lose_session(&mut self, error: &CallError) {
        // A refusal is an answer: the connection is good.
        if !error.is_fatal() {
            return;
        }
        tracing::warn!(error = %Causes(&error), "lost libvirt; connecting again");
        self.session = None;
        self.dropped = 0;
        self.retry_at = Instant::now() + self.pause;
    }

    async fn reconnect(&mut self) {
        let Address { sockets, uri, patience } = self.address.clone();
        match Session::open_any(&sockets, &uri, patience, &self.clock).await {
            Ok((path, session)) => {
                tracing::info!(socket = %path.display(), "connected to libvirt again");
                self.session = Some(session);
                match self.read_all(true).await {
                    Ok(()) => self.pause = FIRST_PAUSE,
                    Err(error) => {
                        self.pause = (self.pause * 2).min(LONGEST_PAUSE);
                        self.lose_session(&error);
                    }
                }
            }
            Err(_) => {
                self.pause = (self.pause * 2).min(LONGEST_PAUSE);
                self.retry_at = Instant::now() + self.pause;
            }
        }
    }

    /// Hands what was seen to the agent, if it has room.
    fn offer(&mut self) {
        if self.seen.is_empty() {
            return;
        }
        let seen = std::mem::replace(&mut self.seen, Observation::new(SOURCE));
        match self.outlet.try_send(seen) {
            Ok(()) => {}
            Err(TrySendError::Full(seen) | TrySendError::Closed(seen)) => self.keep(seen),
        }
    }

    fn keep(&mut self, mut seen: Observation) {
        if seen.samples.len() > MAX_WAITING {
            tracing::warn!(samples = seen.samples.len(), "agent takes nothing; samples dropped");
            seen.samples = BatchBuilder::new(SOURCE);
        }
        let surplus = seen.events.len().saturating_sub(MAX_WAITING);
        if surplus > 0 {
            tracing::warn!(events = surplus, "agent takes nothing; events dropped");
            seen.events.drain(..surplus);
        }
        self.seen = seen;
    }

    fn report_dropped(&mut self) {
        let dropped = self.session.as_ref().map_or(0, Session::dropped);
        if dropped > self.dropped {
            tracing::warn!(
                events = dropped - self.dropped,
                "too many events at once; some edges will be estimated"
            );
            self.dropped = dropped;
        }
    }
}
