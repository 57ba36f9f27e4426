//! The agent as a whole: what it is made of, and its run from start to stop.

use std::collections::VecDeque;
use std::fs::{self, File, TryLockError};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use nilometer_contract::LifecycleEvent;
use nilometer_log::Log;
use nilometer_source::{EpochClock, Observation, Source};
use prometheus::Registry;
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::config::{AgentConfig, ConfigError};
use crate::epochs::Epochs;
use crate::flight::{Partitions, Route};
use crate::gaps::Gaps;
use crate::known::Known;
use crate::lane::Lane;
use crate::line::Line;
use crate::metrics::Metrics;
use crate::shipper::{Shipper, Topics};
use crate::spool::{Spool, SpoolError};
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
    events: Spool,
    samples: Spool,
    gaps: Gaps,
    known: Known,
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
        let memory = config.memory_max_bytes;
        let (told, seen) = mpsc::channel(WAITING);
        let watch = Watch {
            interval: config.interval,
            clock: self.clock.clone(),
            events: told,
            metrics: self.metrics.clone(),
            status: self.status.clone(),
        };
        let shipper = Shipper {
            events: Lane::new(kept.events, true, memory),
            samples: Lane::new(kept.samples, false, memory),
            gaps: kept.gaps,
            known: kept.known,
            metrics: self.metrics,
            status: self.status,
            names: Topics {
                samples: config.samples.name.clone(),
                events: config.events.name.clone(),
            },
            partitions: Partitions {
                samples: config.samples.partitions,
                events: config.events.partitions,
                gaps: config.gaps.partitions,
            },
            line: Line::new(Route::new(&config, self.log)),
            interval: config.interval,
            clock: self.clock,
            rate: VecDeque::new(),
            started: Instant::now(),
        };
        let patience = config.stop_deadline / 2;
        tokio::join!(
            watch.run(self.sources, kept.epochs, self.late, cancel, patience),
            shipper.run(seen, self.outlet, patience)
        );
        Ok(())
    }
}

impl Kept {
    fn open(config: &AgentConfig, clock: Arc<EpochClock>) -> Result<Self, AgentError> {
        let dir = &config.spool_dir;
        let lock = lock(dir)?;
        let epochs = Epochs::open(dir, &config.agent, clock)
            .map_err(|cause| AgentError::Folder { path: dir.clone(), cause })?;
        let mut known = Known::open(dir);
        let for_events = config.spool_max_bytes / EVENTS_SHARE;
        let opened = Spool::open(&dir.join("events"), for_events, |entry| {
            match LifecycleEvent::decode(&entry.payload) {
                Ok(event) => known.replay(&event),
                Err(error) => tracing::error!(%error, "cannot read a spooled event"),
            }
        });
        let (events, events_left) = opened.map_err(AgentError::Spool)?;
        known.start();
        let for_samples = config.spool_max_bytes - for_events;
        let (samples, samples_left) =
            Spool::open(&dir.join("samples"), for_samples, drop).map_err(AgentError::Spool)?;
        let torn_bytes = events_left.torn_bytes + samples_left.torn_bytes;
        let (events_found, samples_found) = (events_left.records, samples_left.records);
        if torn_bytes + events_found + samples_found > 0 {
            tracing::info!(events_found, samples_found, torn_bytes, "spool of an earlier run");
        }
        let gaps = Gaps::open(dir, &config.agent, &config.node);
        Ok(Kept { events, samples, gaps, known, epochs, _lock: lock })
    }
}

fn lock(dir: &Path) -> Result<File, AgentError> {
    let failed = |cause| AgentError::Folder { path: dir.to_owned(), cause };
    fs::create_dir_all(dir).map_err(failed)?;
    let file = File::create(dir.join("lock")).map_err(failed)?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(AgentError::Busy(dir.to_owned())),
        Err(TryLockError::Error(cause)) => Err(failed(cause)),
    }
}
