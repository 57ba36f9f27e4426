//! The simulated fleet of `up --demo`: its past is filled in through the log, then it goes live
//! under an agent of its own.
//!
//! What was filled in is noted in `demo.json` in the data folder, so a demo that is started again
//! goes on where it was; steps that are said twice are dropped by identity.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::{Context, bail};
use bytes::Bytes;
use nilometer_collect::{Agent, Watched};
use nilometer_contract::{
    BatchBuilder, EVENTS, LifecycleEvent, MICROS_PER_SECOND, SAMPLES, Timestamp, encode,
    partition_of,
};
use nilometer_log::{Log, LogError, TopicConfig, TopicPartition};
use nilometer_process::Noting;
use nilometer_simulated::{FleetConfig, SOURCE, SimulatedSource};
use nilometer_source::{EpochClock, Observation, SharedClock};
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
    events: Vec<LifecycleEvent>,
    samples: BatchBuilder,
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
        let partitions = self.ensure_topics().await?;
        while self.clock.now().0 - self.remembered.told.0 > PAST_STEP_MICROS {
            if cancel.is_cancelled() {
                return Ok(());
            }
            self.fill_in(partitions, &cancel).await?;
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

    async fn ensure_topics(&self) -> anyhow::Result<u32> {
        let mut partitions = 0;
        for name in [EVENTS, SAMPLES] {
            let topic = TopicConfig {
                name: name.to_owned(),
                partitions: self.config.log.partitions,
                retention: self.config.log.retention,
            };
            partitions = self.log.ensure_topic(&topic).await.context("the log is not ready")?;
        }
        Ok(partitions)
    }

    async fn fill_in(&mut self, partitions: u32, cancel: &CancellationToken) -> anyhow::Result<()> {
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
            let (steps, samples, upto) = (group.steps, group.samples.len(), group.upto);
            self.send(group, partitions).await?;
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

    async fn send(&self, group: Group, partitions: u32) -> anyhow::Result<()> {
        let mut events: Vec<Vec<Bytes>> = vec![Vec::new(); partitions as usize];
        for event in &group.events {
            let home = partition_of(&event.resource.id, partitions) as usize;
            events[home].push(event.encode()?.into());
        }
        for (partition, payloads) in (0..).zip(events) {
            self.append(EVENTS, partition, payloads).await?;
        }
        let parts = tokio::task::spawn_blocking(move || {
            let parts = group.samples.build_partitioned(partitions).into_iter();
            parts
                .map(|(partition, batch)| Ok((partition, encode(&batch)?)))
                .collect::<anyhow::Result<Vec<_>>>()
        });
        for (partition, records) in parts.await.context("encoding broke off")?? {
            let payloads = records.into_iter().map(Bytes::from).collect();
            self.append(SAMPLES, partition, payloads).await?;
        }
        Ok(())
    }

    /// Appends, and waits while the log is away.
    async fn append(
        &self,
        topic: &str,
        partition: u32,
        payloads: Vec<Bytes>,
    ) -> anyhow::Result<()> {
        if payloads.is_empty() {
            return Ok(());
        }
        let to = TopicPartition { topic: topic.to_owned(), partition };
        loop {
            match self.log.append(&to, payloads.clone()).await {
                Ok(_) => return Ok(()),
                Err(LogError::Unavailable { what, .. }) => {
                    tracing::warn!(what, "the log is away, the demo waits");
                    tokio::time::sleep(std::time::Duration::from_secs(1)).await;
                }
                Err(error) => return Err(error).context("the log refused the demo"),
            }
        }
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
    let mut source = SimulatedSource::new(fleet, clock)?;
    if from > fleet.start {
        source = SimulatedSource::resume(
            fleet,
            Arc::new(nilometer_source::SystemClock),
            fleet.steps_until(from),
        )?;
    }
    let mut group = Group::default();
    for (at, observation) in source.backfill(end, PAST_STEP_MICROS) {
        let Observation { samples, events, .. } = observation;
        group.samples.append(samples);
        group.events.extend(events);
        group.steps += 1;
        group.upto = at;
        if group.samples.len() >= GROUP_SAMPLES
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
        let samples = BatchBuilder::new(SOURCE);
        Group { events: Vec::new(), samples, steps: 0, upto: Timestamp::default() }
    }
}

fn remember(path: &Path, remembered: &Remembered) -> anyhow::Result<()> {
    let fresh = path.with_extension("json.new");
    let refused = || format!("cannot write {}", path.display());
    std::fs::write(&fresh, serde_json::to_vec(remembered)?).with_context(refused)?;
    std::fs::rename(&fresh, path).with_context(refused)
}
