//! The shell around the pure core: state behind locks, a clock, prices, and records of answers.
//!
//! ```text
//! samples, events ──► state ──► snapshot (at most `refresh` old) ──► answer ──► decisions topic
//!                       ▲                                              │
//!                       └──────────────── reservations ◄───────────────┘
//! ```
//!
//! Answers are given one at a time, so two bursts that arrive together see each other. Locks are
//! taken in the order snapshot, state. An answer never waits for the log: its record goes through a
//! bounded queue, and what does not fit is counted.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::Instant;

use bytes::Bytes;
use nilometer_clock::SharedClock;
use nilometer_contract::{Scope, Timestamp};
use nilometer_log::{Log, LogError, TopicPartition};
use prometheus::Registry;
use tokio::sync::{mpsc, watch};

use crate::config::Config;
use crate::metrics::Metrics;
use crate::prices::NodePrices;
use nilometer_placement::place::{Decision, EligibleNodes, place};
use nilometer_placement::plan::{Plan, plan};
use nilometer_placement::policy::InvalidPolicy;
use nilometer_placement::record::{
    DecisionKind, DecisionRecord, Inputs, MAX_DECISION_BYTES, Position, Watermark,
};
use nilometer_placement::request::{self, InvalidRequest, Request};
use nilometer_placement::score::{Load, Score, evaluate};
use nilometer_placement::snapshot::{NodeState, Snapshot};
use nilometer_placement::state::{Bounds, ClusterState};

/// Most answers waiting to be recorded.
const MAX_UNWRITTEN: usize = 4_096;

/// Reads events and samples from the log and answers where workloads should run.
pub struct Scheduler {
    pub(crate) log: Arc<dyn Log>,
    pub(crate) config: Config,
    pub(crate) metrics: Metrics,
    pub(crate) state: RwLock<ClusterState>,
    pub(crate) positions: Mutex<BTreeMap<(String, u32), Progress>>,
    pub(crate) unwritten: Mutex<Option<mpsc::Receiver<(String, Bytes)>>>,
    snapshot: Mutex<Option<Snapshot>>,
    prices: NodePrices,
    clock: SharedClock,
    caught_up: watch::Sender<bool>,
    records: mpsc::Sender<(String, Bytes)>,
}

/// How far one partition is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Progress {
    /// Every offset below is folded in.
    pub(crate) next: u64,
    /// The end of the partition when reading began.
    pub(crate) end_at_start: u64,
}

impl Progress {
    /// Before the partition's ends are known.
    pub(crate) const UNKNOWN: Progress = Progress { next: 0, end_at_start: u64::MAX };
}

/// Why the scheduler cannot start or go on.
#[derive(Debug, thiserror::Error)]
pub enum SchedulerError {
    /// The configuration contradicts itself.
    #[error("scheduler configuration is refused")]
    Config(#[source] InvalidPolicy),
    /// A metric is registered twice.
    #[error("scheduler metrics cannot be registered")]
    Metrics(#[source] prometheus::Error),
    /// The log refuses for good.
    #[error("scheduler cannot read the log")]
    Log(#[source] LogError),
    /// A second `run` of the same scheduler.
    #[error("the scheduler runs already")]
    Running,
}

impl Scheduler {
    /// A scheduler that knows nothing yet; [`run`](Self::run) makes it read.
    pub fn new(
        log: Arc<dyn Log>,
        config: Config,
        prices: NodePrices,
        clock: SharedClock,
        registry: &Registry,
    ) -> Result<Arc<Self>, SchedulerError> {
        config.check().map_err(SchedulerError::Config)?;
        let (records, unwritten) = mpsc::channel(MAX_UNWRITTEN);
        Ok(Arc::new(Scheduler {
            log,
            config,
            metrics: Metrics::new(registry).map_err(SchedulerError::Metrics)?,
            state: RwLock::new(ClusterState::with_precedence(
                Bounds::default(),
                prices.precedence(),
            )),
            positions: Mutex::default(),
            unwritten: Mutex::new(Some(unwritten)),
            snapshot: Mutex::default(),
            prices,
            clock,
            caught_up: watch::Sender::new(false),
            records,
        }))
    }

    /// Whether everything that lay in the log at the start has been read.
    pub fn is_caught_up(&self) -> bool {
        *self.caught_up.borrow()
    }

    /// Waits until everything that lay in the log at the start has been read.
    pub async fn caught_up(&self) {
        let mut caught_up = self.caught_up.subscribe();
        // The sender lives as long as `self`, so that waiting cannot fail.
        let _ = caught_up.wait_for(|&done| done).await;
    }

    /// Changes how far a partition is read.
    pub(crate) fn update_progress(&self, at: &TopicPartition, change: impl FnOnce(&mut Progress)) {
        let mut positions = lock(&self.positions);
        let key = (at.topic.clone(), at.partition);
        change(positions.entry(key).or_insert(Progress::UNKNOWN));
        let done = positions.values().all(|at| at.next >= at.end_at_start);
        self.caught_up.send_if_modified(|known| std::mem::replace(known, done) != done);
    }

    /// Places a burst, counts it against its nodes at once, and records it.
    pub fn place(
        &self,
        requests: Vec<Request>,
        named: Option<&[String]>,
        seed: u64,
    ) -> Result<(DecisionRecord, Decision), InvalidRequest> {
        request::check(&requests)?;
        let started = Instant::now();
        let now = self.now();
        let policy = &self.config.policy;
        let mut guard = self.snapshot(now);
        let snapshot = guard.get_or_insert_default();
        self.release(snapshot, &requests, now);
        let eligible = EligibleNodes::new(snapshot, named);
        let decision = place(&eligible, &requests, policy, seed);
        let inputs = Inputs {
            requests,
            policy: policy.clone(),
            seed,
            nodes: eligible.listed(&decision),
            considered: eligible.count() as u64,
            state_digest: snapshot.digest(),
            price_reference_micros: snapshot.price_reference_micros,
            watermark: self.watermark(snapshot),
        };
        let record = DecisionRecord::of_placement(now, inputs, &decision);
        for (request, placed) in record.inputs.requests.iter().zip(&decision.placements) {
            if let Some(node) = &placed.node {
                self.reserve(snapshot, request, node, now);
            }
        }
        drop(guard);
        self.record(&record);
        self.metrics.answer_seconds.observe(started.elapsed().as_secs_f64());
        Ok((record, decision))
    }

    /// Draws up a dry-run plan and records it. A plan is of all nodes, so it is for who sees all.
    pub fn plan(&self, scope: &Scope) -> Option<(DecisionRecord, Plan)> {
        if !scope.is_system() {
            return None;
        }
        let started = Instant::now();
        let now = self.now();
        let snapshot = self.snapshot(now).get_or_insert_default().clone();
        let plan = plan(&snapshot, &self.config.policy);
        let watermark = self.watermark(&snapshot);
        let record = DecisionRecord::of_plan(&snapshot, &plan, &self.config.policy, watermark);
        self.record(&record);
        self.metrics.answer_seconds.observe(started.elapsed().as_secs_f64());
        Some((record, plan))
    }

    /// Up to `limit` nodes in order of their ids, from the one at place `offset` on, with their scores
    /// as they stand, and how many there are. Nodes are shared, so they are for who sees all.
    pub fn nodes(
        &self,
        scope: &Scope,
        offset: usize,
        limit: usize,
    ) -> (Vec<(NodeState, Score)>, usize) {
        if !scope.is_system() {
            return (Vec::new(), 0);
        }
        let mut guard = self.snapshot(self.now());
        let snapshot = guard.get_or_insert_default();
        let page = snapshot.nodes.iter().skip(offset).take(limit);
        let nothing = Load::default();
        let median = snapshot.price_reference_micros;
        let scored = page.map(|node| {
            let evaluation = evaluate(node, nothing, nothing, &self.config.policy, median);
            (node.clone(), evaluation.score)
        });
        (scored.collect(), snapshot.nodes.len())
    }

    /// The snapshot for a decision at `now`; rebuilt when it is older than the configuration allows.
    pub(crate) fn snapshot(&self, now: Timestamp) -> MutexGuard<'_, Option<Snapshot>> {
        let mut guard = lock(&self.snapshot);
        let refresh = i64::from(self.config.refresh_millis) * 1_000;
        let young = |snapshot: &Snapshot| (0..refresh).contains(&(now.0 - snapshot.at.0));
        if !guard.as_ref().is_some_and(young) {
            let state = self.state.read().unwrap_or_else(PoisonError::into_inner);
            let snapshot =
                state.snapshot(now, &self.config.policy, &|node| self.prices.per_hour(node, now));
            let sizes = state.sizes();
            self.metrics.series.set(sizes.sampled as i64);
            self.metrics.in_flight.set(sizes.reservations as i64);
            self.metrics.left_out.set(i64::try_from(state.left_out()).unwrap_or(i64::MAX));
            self.metrics.nodes.set(snapshot.nodes.len() as i64);
            let stale = snapshot.nodes.iter().filter(|node| node.stale).count();
            self.metrics.stale_nodes.set(stale as i64);
            *guard = Some(snapshot);
        }
        guard
    }

    /// Counts a decision against its node, on the snapshot and in the state.
    pub(crate) fn reserve(
        &self,
        snapshot: &mut Snapshot,
        request: &Request,
        node: &str,
        now: Timestamp,
    ) {
        let policy = &self.config.policy;
        if let Some(index) = snapshot.find(node) {
            snapshot.reserve(index, request.load(policy));
        }
        let mut state = self.state.write().unwrap_or_else(PoisonError::into_inner);
        state.reserve(request, node, now, policy);
    }

    /// Releases the reservations of workloads that are decided anew, so that none counts against
    /// itself.
    pub(crate) fn release(&self, snapshot: &mut Snapshot, requests: &[Request], now: Timestamp) {
        let mut state = self.state.write().unwrap_or_else(PoisonError::into_inner);
        for request in requests {
            let Some((node, load)) = state.release(request, now) else { continue };
            if let Some(index) = snapshot.find(&node) {
                snapshot.release(index, load);
            }
        }
    }

    pub(crate) fn now(&self) -> Timestamp {
        self.clock.now()
    }

    pub(crate) fn watermark(&self, snapshot: &Snapshot) -> Watermark {
        let positions = lock(&self.positions);
        let partitions = positions.iter().map(|((topic, partition), progress)| Position {
            topic: topic.clone(),
            partition: *partition,
            next: progress.next,
        });
        Watermark { newest_sample: snapshot.newest_sample, partitions: partitions.collect() }
    }

    /// Queues a record for the log; never waits.
    pub(crate) fn record(&self, record: &DecisionRecord) {
        let kind = match record.kind {
            DecisionKind::Placement => "placement",
            DecisionKind::Filter => "filter",
            DecisionKind::Prioritize => "prioritize",
            DecisionKind::Plan => "plan",
        };
        self.metrics.decisions.with_label_values(&[kind]).inc();
        let reason = match serde_json::to_vec(record) {
            Err(error) => error.to_string(),
            Ok(bytes) if bytes.len() > MAX_DECISION_BYTES => format!("{} bytes", bytes.len()),
            Ok(bytes) => match self.records.try_send((record.id.clone(), Bytes::from(bytes))) {
                Ok(()) => return,
                Err(error) => error.to_string(),
            },
        };
        self.metrics.unrecorded.inc();
        tracing::warn!(decision = record.id, reason, "decision not recorded");
    }
}

pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
