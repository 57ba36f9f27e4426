//! The simulated fleet of `up --demo`: its past is filled in through the log, then it goes live
//! under an agent of its own.
//!
//! What was filled in is noted in `demo.json` in the data folder, so a demo that is started again
//! goes on where it was; steps that are said twice are dropped by identity.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::{Context, bail};
use nilometer_clock::{EpochClock, SharedClock};
use nilometer_collect::{Agent, Watched};
use nilometer_contract::{Causes, MICROS_PER_SECOND, Timestamp};
use nilometer_log::{Log, LogError};
use nilometer_process::Noting;
use nilometer_producer::{Producer, Topics, Unappended};
use nilometer_simulated::{FleetConfig, SOURCE, SimulatedSource};
use nilometer_source::Observation;
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::cli::Up;
use crate::config::Config;

/// Resolution of the past.
const PAST_STEP_MICROS: i64 = 60 * MICROS_PER_SECOND;
/// Samples that make a group of steps worth sending: what they say of resources is said once.
const GROUP_SAMPLES: usize = 120_000;
/// Groups made ahead of the log.
const GROUPS_AHEAD: usize = 2;

/// What a data folder remembers of its demo.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Remembered {
    start: Timestamp,
    /// The last instant in the log.
    told: Timestamp,
    seed: u64,
    nodes: u32,
    workloads: u32,
    projects: u32,
}

/// How far the past is filled in, for people.
#[derive(Debug, Default)]
pub(crate) struct Progress {
    /// Steps to fill in.
    pub(crate) steps: AtomicU64,
    /// Steps in the log.
    pub(crate) done: AtomicU64,
    /// Samples in the log.
    pub(crate) samples: AtomicU64,
}

impl Progress {
    /// Whether the past is not all in the log yet.
    pub(crate) fn is_filling(&self) -> bool {
        self.done.load(Ordering::Relaxed) < self.steps.load(Ordering::Relaxed)
    }
}

/// One demo.
pub(crate) struct Demo {
    config: Config,
    log: Arc<dyn Log>,
    clock: SharedClock,
    memory: PathBuf,
    remembered: Remembered,
    progress: Arc<Progress>,
}

/// Steps on their way to the log.
struct Group {
    seen: Observation,
    steps: u64,
    upto: Timestamp,
}

impl Demo {
    /// A new demo, or the one that the data folder remembers.
    pub(crate) fn open(
        config: &Config,
        up: &Up,
        log: Arc<dyn Log>,
        clock: SharedClock,
    ) -> anyhow::Result<Self> {
        let memory = config.data.dir.join("demo.json");
        let remembered = match std::fs::read(&memory) {
            Ok(bytes) => {
                let known: Remembered = serde_json::from_slice(&bytes).with_context(|| {
                    let folder = config.data.dir.display();
                    format!(
                        "{} is damaged, and the demo of {folder} cannot go on: choose another \
                             folder with --data",
                        memory.display()
                    )
                })?;
                let same = (known.seed, known.nodes, known.workloads, known.projects)
                    == (up.seed, up.nodes, up.workloads, up.projects);
                if !same {
                    bail!(
                        "{} holds a demo with other options; choose another folder with --data",
                        config.data.dir.display()
                    );
                }
                known
            }
            Err(_) => {
                let history = i64::try_from(up.history.as_micros()).unwrap_or(i64::MAX / 4);
                let start = clock.now().0 - history;
                let start = Timestamp(start.div_euclid(PAST_STEP_MICROS) * PAST_STEP_MICROS);
                let (seed, nodes) = (up.seed, up.nodes);
                let (workloads, projects) = (up.workloads, up.projects);
                Remembered { start, told: start, seed, nodes, workloads, projects }
            }
        };
        let progress = Arc::default();
        Ok(Demo { config: config.clone(), log, clock, memory, remembered, progress })
    }

    /// When its fleet was founded.
    pub(crate) fn start(&self) -> Timestamp {
        self.remembered.start
    }

    /// How far it is.
    pub(crate) fn progress(&self) -> Arc<Progress> {
        self.progress.clone()
    }

    fn fleet(&self) -> FleetConfig {
        let Remembered { start, seed, nodes, workloads, projects, .. } = self.remembered;
        FleetConfig {
            seed,
            nodes,
            vms_and_pods: workloads,
            projects,
            start,
            ..FleetConfig::default()
        }
    }

    /// Fills in the past, then runs live until cancelled.
    pub(crate) async fn run(
        mut self,
        registry: prometheus::Registry,
        cancel: CancellationToken,
    ) -> anyhow::Result<()> {
        let producer = self.producer().await?;
        while self.clock.now().0 - self.remembered.told.0 > PAST_STEP_MICROS {
            if cancel.is_cancelled() {
                return Ok(());
            }
            self.fill_in(&producer, &cancel).await?;
        }
        let fleet = self.fleet();
        let (pushed, outlet) = mpsc::channel(64);
        let next = fleet.steps_until(self.remembered.told);
        let source = SimulatedSource::resume(&fleet, self.clock.clone(), next)?.with_outlet(pushed);
        let (memory, mut remembered) = (self.memory.clone(), self.remembered.clone());
        let note = move |safe: Timestamp| {
            remembered.told = safe;
            remember(&memory, &remembered)
        };
        let found = format!("{} nodes, {} VMs and pods", fleet.nodes, fleet.vms_and_pods);
        let watched = Watched { source: Box::new(Noting::new(source, note)), found };
        let (clock, log) = (Arc::new(EpochClock::new(self.clock.clone())), self.log.clone());
        let agent = Agent::new(
            self.config.settings().agent("demo"),
            vec![watched],
            outlet,
            log,
            clock,
            &registry,
        )?;
        agent.run(cancel).await.context("the demo's agent failed")
    }

    async fn producer(&self) -> anyhow::Result<Arc<Producer>> {
        let topics = Topics::new(self.config.log.partitions, self.config.log.retention);
        let producer = Producer::open(self.log.clone(), topics).await;
        Ok(Arc::new(producer.context("the log is not ready")?))
    }

    async fn fill_in(
        &mut self,
        producer: &Arc<Producer>,
        cancel: &CancellationToken,
    ) -> anyhow::Result<()> {
        let fleet = self.fleet();
        let (from, end) = (self.remembered.told, self.clock.now());
        let steps = (end.0 - from.0).div_euclid(PAST_STEP_MICROS).max(0) as u64;
        self.progress.steps.fetch_add(steps, Ordering::Relaxed);
        let (sender, mut groups) = mpsc::channel(GROUPS_AHEAD);
        let clock = self.clock.clone();
        let making = tokio::task::spawn_blocking(move || make(&fleet, clock, from, end, &sender));
        while let Some(group) = groups.recv().await {
            if cancel.is_cancelled() {
                break;
            }
            let (steps, samples, upto) = (group.steps, group.seen.samples.len(), group.upto);
            Self::send(group, producer).await?;
            self.remembered.told = upto;
            remember(&self.memory, &self.remembered)?;
            self.progress.done.fetch_add(steps, Ordering::Relaxed);
            self.progress.samples.fetch_add(samples as u64, Ordering::Relaxed);
        }
        drop(groups);
        making.await.context("the fleet broke off")??;
        if !cancel.is_cancelled() {
            self.remembered.told = self.remembered.told.max(Timestamp(end.0 - PAST_STEP_MICROS));
        }
        Ok(())
    }

    /// Brings a group to the log, and waits while the log is away.
    async fn send(group: Group, producer: &Arc<Producer>) -> anyhow::Result<()> {
        let encoder = producer.clone();
        let produced = tokio::task::spawn_blocking(move || encoder.produce(group.seen));
        let produced = produced.await.context("encoding broke off")?;
        let mut left = produced.whole().context("the demo breaks a bound")?;
        while let Err(Unappended { left: again, cause }) = producer.append(left).await {
            if !matches!(cause, LogError::Unavailable { .. }) {
                return Err(cause).context("the log refused the demo");
            }
            tracing::warn!(error = %Causes(&cause), "the log is away, the demo waits");
            tokio::time::sleep(std::time::Duration::from_secs(1)).await;
            left = again;
        }
        Ok(())
    }
}

/// Makes the past in groups of steps; stops when nobody takes them.
fn make(
    fleet: &FleetConfig,
    clock: SharedClock,
    from: Timestamp,
    end: Timestamp,
    groups: &mpsc::Sender<Group>,
) -> anyhow::Result<()> {
    let mut source = match from > fleet.start {
        true => SimulatedSource::resume(fleet, clock, fleet.steps_until(from))?,
        false => SimulatedSource::new(fleet, clock)?,
    };
    let mut group = Group::default();
    for (at, observation) in source.backfill(end, PAST_STEP_MICROS) {
        let Observation { samples, events, .. } = observation;
        group.seen.samples.append(samples);
        group.seen.events.extend(events);
        group.steps += 1;
        group.upto = at;
        if group.seen.samples.len() >= GROUP_SAMPLES
            && groups.blocking_send(std::mem::take(&mut group)).is_err()
        {
            return Ok(());
        }
    }
    if group.steps > 0 {
        let _ = groups.blocking_send(group);
    }
    Ok(())
}

impl Default for Group {
    fn default() -> Self {
        Group { seen: Observation::new(SOURCE), steps: 0, upto: Timestamp::default() }
    }
}

fn remember(path: &Path, remembered: &Remembered) -> anyhow::Result<()> {
    let fresh = path.with_extension("json.new");
    let refused = || format!("cannot write {}", path.display());
    std::fs::write(&fresh, serde_json::to_vec(remembered)?).with_context(refused)?;
    std::fs::rename(&fresh, path).with_context(refused)
}
