//! The shell around the pure core: state behind locks, a clock, prices, and records of answers.
//!
//! ```text
//! samples, events ──► estate ──► board (at most `refresh` old) ──► answer ──► decisions topic
//!                        ▲                                           │
//!                        └────────────── in flight ◄─────────────────┘
//! ```
//!
//! Answers are given one at a time, so two bursts that arrive together see each other. Locks are
//! taken in the order board, estate. An answer never waits for the log: its record goes through a
//! bounded queue, and what does not fit is counted.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::Instant;

use bytes::Bytes;
use nilometer_contract::{Resource, Timestamp};
use nilometer_log::{Log, LogError};
use prometheus::Registry;
use tokio::sync::mpsc;

use crate::config::Config;
use crate::metrics::Metrics;
use nilometer_placement::board::{Board, NodeState};
use nilometer_placement::estate::Estate;
use nilometer_placement::place::{Decision, Field, place};
use nilometer_placement::plan::{Plan, plan};
use nilometer_placement::policy::InvalidPolicy;
use nilometer_placement::record::{
    DecisionKind, DecisionRecord, Inputs, MAX_DECISION_BYTES, Position, Watermark,
};
use nilometer_placement::request::{self, InvalidRequest, Request};
use nilometer_placement::score::{Load, Score, rate};

/// Most answers waiting to be recorded.
const MAX_UNWRITTEN: usize = 4_096;

/// Price of a resource per hour, as a decimal number.
pub type PriceOf = Arc<dyn Fn(&Resource) -> Option<String> + Send + Sync>;
/// The instant now.
pub type Now = Arc<dyn Fn() -> Timestamp + Send + Sync>;

/// Consumes the estate's topics and answers where workloads should run.
pub struct Scheduler {
    pub(crate) log: Arc<dyn Log>,
    pub(crate) config: Config,
    pub(crate) metrics: Metrics,
    pub(crate) estate: RwLock<Estate>,
    pub(crate) positions: Mutex<BTreeMap<(String, u32), Progress>>,
    pub(crate) unwritten: Mutex<Option<mpsc::Receiver<(String, Bytes)>>>,
    board: Mutex<Option<Board>>,
    price: PriceOf,
    now: Now,
    records: mpsc::Sender<(String, Bytes)>,
}

/// How far one partition is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Progress {
    /// Every offset below is folded in.
    pub(crate) next: u64,
    /// The end of the partition when reading began.
    pub(crate) goal: u64,
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
        price: PriceOf,
        now: Now,
        registry: &Registry,
    ) -> Result<Arc<Self>, SchedulerError> {
        config.check().map_err(SchedulerError::Config)?;
        let (records, unwritten) = mpsc::channel(MAX_UNWRITTEN);
        Ok(Arc::new(Scheduler {
            log,
            config,
            metrics: Metrics::new(registry).map_err(SchedulerError::Metrics)?,
            estate: RwLock::default(),
            positions: Mutex::default(),
            unwritten: Mutex::new(Some(unwritten)),
            board: Mutex::default(),
            price,
            now,
            records,
        }))
    }

    /// Whether everything that lay in the log at the start has been read.
    pub fn is_caught_up(&self) -> bool {
        let positions = lock(&self.positions);
        !positions.is_empty() && positions.values().all(|at| at.next >= at.goal)
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
        let now = (self.now)();
        let policy = &self.config.policy;
        let mut guard = self.board(now);
        let board = guard.get_or_insert_default();
        self.withdraw(board, &requests, now);
        let field = Field::new(board, named);
        let decision = place(&field, &requests, policy, seed);
        let inputs = Inputs {
            requests,
            policy: policy.clone(),
            seed,
            nodes: field.listed(&decision),
            considered: field.len() as u64,
            state_digest: board.digest(),
            price_reference_micros: board.price_reference_micros,
            watermark: self.watermark(board),
        };
        let record = DecisionRecord::of_placement(now, inputs, &decision);
        for (request, placed) in record.inputs.requests.iter().zip(&decision.placements) {
            if let Some(node) = &placed.node {
                self.send(board, request, node, now);
            }
        }
        drop(guard);
        self.record(&record);
        self.metrics.answer_seconds.observe(started.elapsed().as_secs_f64());
        Ok((record, decision))
    }

    /// Draws up a dry-run plan and records it.
    pub fn plan(&self) -> (DecisionRecord, Plan) {
        let started = Instant::now();
        let now = (self.now)();
        let board = self.board(now).get_or_insert_default().clone();
        let plan = plan(&board, &self.config.policy);
        let watermark = self.watermark(&board);
        let record = DecisionRecord::of_plan(&board, &plan, &self.config.policy, watermark);
        self.record(&record);
        self.metrics.answer_seconds.observe(started.elapsed().as_secs_f64());
        (record, plan)
    }

    /// Up to `limit` nodes after the id `after`, with their scores as they stand.
    pub fn nodes(&self, after: Option<&str>, limit: usize) -> Vec<(NodeState, Score)> {
        let mut guard = self.board((self.now)());
        let board = guard.get_or_insert_default();
        let start = board
            .nodes
            .partition_point(|node| after.is_some_and(|after| node.id.as_str() <= after));
        let page = board.nodes[start..].iter().take(limit);
        let nothing = Load::default();
        let median = board.price_reference_micros;
        page.map(|node| {
            let rating = rate(node, nothing, nothing, &self.config.policy, median);
            (node.clone(), rating.score)
        })
        .collect()
    }

    /// The board for a decision at `now`; rebuilt when it is older than the configuration allows.
    pub(crate) fn board(&self, now: Timestamp) -> MutexGuard<'_, Option<Board>> {
        let mut guard = lock(&self.board);
        let refresh = i64::from(self.config.refresh_millis) * 1_000;
        let young = |board: &Board| (0..refresh).contains(&(now.0 - board.at.0));
        if !guard.as_ref().is_some_and(young) {
            let estate = self.estate.read().unwrap_or_else(PoisonError::into_inner);
            let board = estate.board(now, &self.config.policy, &*self.price);
            let (_, series, in_flight) = estate.sizes();
            self.metrics.series.set(series as i64);
            self.metrics.in_flight.set(in_flight as i64);
            self.metrics.left_out.set(i64::try_from(estate.left_out()).unwrap_or(i64::MAX));
            self.metrics.nodes.set(board.nodes.len() as i64);
            let stale = board.nodes.iter().filter(|node| node.stale).count();
            self.metrics.stale_nodes.set(stale as i64);
            *guard = Some(board);
        }
        guard
    }

    /// Counts a decision against its node, on the board and in the estate.
    pub(crate) fn send(&self, board: &mut Board, request: &Request, node: &str, now: Timestamp) {
        let policy = &self.config.policy;
        if let Some(place) = board.find(node) {
            board.send(place, request.load(policy));
        }
        let mut estate = self.estate.write().unwrap_or_else(PoisonError::into_inner);
        estate.send(request, node, now, policy);
    }

    /// Workloads decided anew do not count against themselves.
    pub(crate) fn withdraw(&self, board: &mut Board, requests: &[Request], now: Timestamp) {
        let mut estate = self.estate.write().unwrap_or_else(PoisonError::into_inner);
        for request in requests {
            let Some((node, load)) = estate.withdraw(request, now) else { continue };
            if let Some(place) = board.find(&node) {
                board.withdraw(place, load);
            }
        }
    }

    pub(crate) fn now(&self) -> Timestamp {
        (self.now)()
    }

    pub(crate) fn watermark(&self, board: &Board) -> Watermark {
        let positions = lock(&self.positions);
        let partitions = positions.iter().map(|((topic, partition), progress)| Position {
            topic: topic.clone(),
            partition: *partition,
            next: progress.next,
        });
        Watermark { newest_sample: board.newest_sample, partitions: partitions.collect() }
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
