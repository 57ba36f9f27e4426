//! The agent as a whole: what it is made of, and its run from start to stop.

use std::collections::VecDeque;
use std::fs::{File, TryLockError};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use nilometer_clock::{Clock, EpochClock};
use nilometer_contract::{Causes, LifecycleEvent, Timestamp};
use nilometer_log::{Log, TopicConfig};
use nilometer_producer::{Producer, Topics};
use nilometer_source::{Observation, Source};
use prometheus::Registry;
use tokio::sync::{Mutex, mpsc};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::config::{AgentConfig, ConfigError};
use crate::dead_letters::DeadLetters;
use crate::entry::Entry;
use crate::epochs::Epochs;
use crate::file;
use crate::gaps::Gaps;
use crate::known::Known;
use crate::metrics::Metrics;
use crate::queue::{DAMAGED, Queue, Waiting};
use crate::shipper::{Intake, LogState, Shipper};
use crate::spool::{Found, Spool, SpoolError};
use crate::status::{SourceStatus, Status};
use crate::watch::Watch;

/// Observations that may wait between the sources and the shipper; past it sources wait.
const WAITING: usize = 64;
/// Share of the spool that is set aside for events.
const EVENTS_SHARE: u64 = 8;

/// A source to observe.
pub struct Watched {
    /// The source.
    pub source: Box<dyn Source>,
    /// What was found when it was looked for.
    pub found: String,
}

/// Observes sources and brings what they see to the log.
pub struct Agent {
    config: AgentConfig,
    sources: Vec<Box<dyn Source>>,
    late: mpsc::Receiver<Watched>,
    outlet: mpsc::Receiver<Observation>,
    log: Arc<dyn Log>,
    clock: Arc<EpochClock>,
    metrics: Metrics,
    status: Arc<Status>,
}

/// Why an agent cannot run.
#[derive(Debug, thiserror::Error)]
pub enum AgentError {
    /// The configuration cannot be used.
    #[error("the agent is configured wrongly")]
    Config(#[source] ConfigError),
    /// The metrics are registered already.
    #[error("the agent's metrics cannot be registered")]
    Metrics(#[source] prometheus::Error),
    /// The spool cannot be used.
    #[error("the agent's spool cannot be used")]
    Spool(#[source] SpoolError),
    /// The spool's folder cannot be used.
    #[error("the agent's folder {} cannot be used", path.display())]
    Folder {
        /// Which.
        path: PathBuf,
        /// The cause.
        #[source]
        cause: io::Error,
    },
    /// Another agent runs on the same folder.
    #[error("another agent uses the folder {}", .0.display())]
    Busy(PathBuf),
}

/// What the agent keeps on disk.
struct Kept {
    events: Queue,
    samples: Queue,
    dead_letters: DeadLetters,
    gaps: Gaps,
    known: Known,
    /// Ends to record again.
    again: Vec<LifecycleEvent>,
    epochs: Epochs,
    /// Held while the agent runs; the kernel lets go of it when the process dies.
    _lock: File,
}

impl Agent {
    /// An agent that is ready to run. `outlet` is what sources push into, if any do; `clock` is
    /// the one that they stamp their samples by: the agent begins its epochs.
    ///
    /// Registers its metrics; fails if the registry has them already.
    pub fn new(
        config: AgentConfig,
        sources: Vec<Watched>,
        outlet: mpsc::Receiver<Observation>,
        log: Arc<dyn Log>,
        clock: Arc<EpochClock>,
        registry: &Registry,
    ) -> Result<Self, AgentError> {
        config.check().map_err(AgentError::Config)?;
        let metrics = Metrics::register(registry).map_err(AgentError::Metrics)?;
        let status = Arc::new(Status::default());
        let (sources, found): (Vec<Box<dyn Source>>, Vec<SourceStatus>) = sources
            .into_iter()
            .map(|Watched { source, found }| {
                let name = source.name();
                (source, SourceStatus { name, found, ..SourceStatus::default() })
            })
            .unzip();
        status.update(|report| report.sources = found);
        let (_, late) = mpsc::channel(1);
        Ok(Agent { config, sources, late, outlet, log, clock, metrics, status })
    }

    /// A handle to read the agent's state by while it runs.
    pub fn status(&self) -> Arc<Status> {
        self.status.clone()
    }

    /// Takes sources that turn up while it runs.
    #[must_use]
    pub fn with_late_sources(self, late: mpsc::Receiver<Watched>) -> Self {
        Agent { late, ..self }
    }

    /// Runs until cancelled; then observes once more, brings what it can to the log and keeps
    /// the rest in the spool, within the configured deadline.
    ///
    /// Fails only at the start, when its folder cannot be used. A log that is away is no failure.
    pub async fn run(self, cancel: CancellationToken) -> Result<(), AgentError> {
        let config = self.config.clone();
        let clock = self.clock.clone();
        let kept = match tokio::task::spawn_blocking(move || Kept::open(&config, clock)).await {
            Ok(kept) => kept?,
            Err(error) => {
                let (path, cause) = (self.config.spool_dir, io::Error::other(error));
                return Err(AgentError::Folder { path, cause });
            }
        };
        let config = self.config;
        let epochs = Arc::new(Mutex::new(kept.epochs));
        let (reported, seen) = mpsc::channel(WAITING);
        let watch = Watch {
            interval: config.interval,
            clock: self.clock.clone(),
            events: reported,
            metrics: self.metrics.clone(),
            status: self.status.clone(),
        };
        let topics = Topics {
            gaps: config.gaps.clone(),
            events: config.events.clone(),
            samples: config.samples.clone(),
        };
        let producer = Producer::new(self.log, topics).with_timeout(config.append_timeout);
        let shipper = Shipper {
            events: kept.events,
            samples: kept.samples,
            gaps: kept.gaps,
            dead_letters: kept.dead_letters,
            known: kept.known,
            metrics: self.metrics,
            status: self.status,
            producer: Arc::new(producer),
            log: LogState::default(),
            intake: Some(Intake::of_ends(kept.again)),
            interval: config.interval,
            clock: self.clock,
            epochs: epochs.clone(),
            rate: VecDeque::new(),
            started: Instant::now(),
        };
        let patience = config.stop_deadline / 2;
        tokio::join!(
            watch.run(self.sources, epochs, self.late, cancel, patience),
            shipper.run(seen, self.outlet, patience)
        );
        Ok(())
    }
}

impl Kept {
    fn open(config: &AgentConfig, clock: Arc<EpochClock>) -> Result<Self, AgentError> {
        let dir = &config.spool_dir;
        let lock = lock(dir)?;
        let folder = |path: PathBuf| move |cause| AgentError::Folder { path, cause };
        let now = clock.now();
        let epochs = Epochs::open(dir, &config.agent, clock).map_err(folder(dir.clone()))?;
        let letters = dir.join("dead_letters");
        let dead_letters = DeadLetters::open(&letters, config.dead_letters_max_bytes);
        let dead_letters = dead_letters.map_err(folder(letters))?;
        let (agent, node) = (&config.agent, &config.node);
        let mut gaps = Gaps::open(dir, agent, node, &config.samples.name, now);
        let mut known = Known::open(dir, &config.events.name, &mut gaps, now);
        let for_events = config.spool_max_bytes / EVENTS_SHARE;
        let replay = |entry: &Entry| match LifecycleEvent::decode(&entry.payload) {
            Ok(event) => known.replay(&event),
            Err(error) => tracing::error!(error = %Causes(&error), "cannot read a spooled event"),
        };
        let (events, damaged) =
            open_queue(config, &config.events, for_events, &mut gaps, now, replay)?;
        let again = if damaged { known.ends() } else { Vec::new() };
        known.start();
        let for_samples = config.spool_max_bytes - for_events;
        let (samples, _) =
            open_queue(config, &config.samples, for_samples, &mut gaps, now, |_| ())?;
        Ok(Kept { events, samples, dead_letters, gaps, known, again, epochs, _lock: lock })
    }
}

/// Opens a topic's queue with what an agent before left in its spool; `each` is given the records.
/// What is damaged becomes a gap; also returns whether anything is.
fn open_queue(
    config: &AgentConfig,
    topic: &TopicConfig,
    max_bytes: u64,
    gaps: &mut Gaps,
    now: Timestamp,
    mut each: impl FnMut(&Entry),
) -> Result<(Queue, bool), AgentError> {
    let is_events = topic.name == config.events.name;
    let dir = config.spool_dir.join(if is_events { "events" } else { "samples" });
    let (mut waiting, mut damaged) = (Waiting::default(), false);
    let opened = Spool::open(&dir, max_bytes, |position, found| match found {
        Found::Record(entry, size) => {
            each(&entry);
            waiting.add(position, &entry, size);
        }
        Found::Damaged(mut entry, _) => {
            damaged = true;
            // By the agent before, perhaps.
            entry.tried = true;
            tracing::error!(topic = topic.name, ?position, "a record in the spool is damaged");
            gaps.lost(&topic.name, std::slice::from_ref(&entry), DAMAGED);
        }
        Found::Unknown(unknown) => {
            damaged = true;
            let bytes = unknown.bytes;
            tracing::error!(topic = topic.name, ?position, bytes, "the spool is damaged");
            let (start, end) = unknown.span();
            let end = end.unwrap_or(now);
            let reason = format!("{bytes} bytes of the spool are damaged, with one record or more");
            let first = unknown.after.map(|(start, _)| start);
            let span = (start.or(first).unwrap_or(end).min(end), end);
            gaps.lost_somehow((&topic.name, None), span, (1, Vec::new()), &reason);
        }
    });
    let spool = opened.map_err(AgentError::Spool)?;
    let memory = config.memory_max_bytes;
    Ok((Queue::new(spool, waiting, is_events, memory), damaged))
}

fn lock(dir: &Path) -> Result<File, AgentError> {
    let failed = |cause| AgentError::Folder { path: dir.to_owned(), cause };
    file::create_folder(dir).map_err(failed)?;
    let file = File::create(dir.join("lock")).map_err(failed)?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(AgentError::Busy(dir.to_owned())),
        Err(TryLockError::Error(cause)) => Err(failed(cause)),
    }
}
