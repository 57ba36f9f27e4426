//! The ingester: one loop over everything that happens to it.
//!
//! ```text
//! log ─ fetch, decode (a task a partition) ─▶ loop: identity, memory ─▶ view
//!                                               └─ every 10 s: cut ─▶ flush task ─▶ tables
//! ```
//!
//! At the bound of memory the loop stops taking records until the flush is done; the channel
//! fills, fetching waits, and the log keeps what is to come.

use std::sync::Arc;
use std::time::Instant;

use arrow::array::{ArrayRef, Int64Array, RecordBatch, StringArray};
use nilometer_contract::{DECISIONS, EVENTS, GAPS, SAMPLES};
use nilometer_log::{Log, LogError, TopicConfig};
use nilometer_source::SharedClock;
use nilometer_store::{SERIES, Storage, StoreError};
use tokio::sync::{Mutex, mpsc, watch};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tracing::warn;

use crate::config::IngestConfig;
use crate::fetch::{Cursor, Event};
use crate::flush::{Cut, Overtaken, Sink, flush};
use crate::load::load;
use crate::lookup::settle_suspects;
use crate::metrics::Metrics;
use crate::rows::{TableRow, batch_of};
use crate::state::State;
use crate::view::{TableView, Tables, View};

const QUEUE: usize = 16;
/// Hours that a view tells of: a quarter.
const MOST_TOUCHED: usize = 24 * 92;

/// Why an ingester stopped.
#[derive(Debug, thiserror::Error)]
pub enum IngestError {
    /// The tables could not be opened or read.
    #[error("the tables cannot be used")]
    Store(#[source] StoreError),
    /// The log could not be prepared.
    #[error("the log cannot be used")]
    Log(#[source] LogError),
    /// Somebody else stores the same partitions.
    #[error("ingestion stopped")]
    Overtaken(#[source] Overtaken),
}

/// Moves records from the log into the tables, each exactly once.
pub struct Ingester {
    config: IngestConfig,
    log: Arc<dyn Log>,
    clock: SharedClock,
    state: State,
    sink: Arc<Mutex<Sink>>,
    view: watch::Sender<Arc<View>>,
    tables: Vec<TableView>,
    topics: Vec<(&'static str, u32)>,
}

impl Ingester {
    /// Opens the tables, makes sure of the topics, and learns where to go on.
    pub async fn open(
        config: IngestConfig,
        log: Arc<dyn Log>,
        storage: &Storage,
        clock: SharedClock,
        metrics: Metrics,
    ) -> Result<Self, IngestError> {
        let mut topics = Vec::new();
        for (name, partitions) in
            [(SAMPLES, config.partitions), (EVENTS, config.partitions), (GAPS, 1), (DECISIONS, 1)]
        {
            let retention = config.log_retention;
            let topic = TopicConfig { name: name.to_owned(), partitions, retention };
            topics.push((name, log.ensure_topic(&topic).await.map_err(IngestError::Log)?));
        }
        let mut sink = Sink::open(storage).await.map_err(IngestError::Store)?;
        let window = i64::try_from(config.identity_window.as_micros()).unwrap_or(i64::MAX);
        let state = load(&mut sink, &topics, window, metrics).await.map_err(IngestError::Store)?;
        let (view, _) = watch::channel(Arc::new(View::default()));
        let mut ingester = Ingester {
            config,
            log,
            clock,
            state,
            tables: Vec::new(),
            sink: Arc::new(Mutex::new(sink)),
            view,
            topics,
        };
        ingester.list_tables().await;
        ingester.publish();
        Ok(ingester)
    }

    /// A handle for readers.
    pub fn tables(&self) -> Tables {
        Tables { view: self.view.subscribe(), shared: self.state.shared.clone() }
    }

    /// Ingests until cancelled, then commits what it has received.
    pub async fn run(mut self, cancel: CancellationToken) -> Result<(), IngestError> {
        let (sender, mut events) = mpsc::channel(QUEUE);
        self.start_fetching(&sender, &cancel);
        drop(sender);
        let mut flushing: Option<JoinHandle<Result<(), Overtaken>>> = None;
        let mut last_commit = Instant::now();
        let mut ticks = tokio::time::interval(self.config.publish_interval);
        loop {
            let full = self.state.memory.rows() >= self.config.memory_rows;
            tokio::select! {
                done = join(&mut flushing), if flushing.is_some() => {
                    flushing = None;
                    self.flushed(done).await?;
                }
                event = events.recv(), if !full => match event {
                    Some(event) => self.apply(event).await,
                    None => break,
                },
                _ = ticks.tick() => self.publish(),
            }
            let due = last_commit.elapsed() >= self.config.commit_interval
                || self.state.memory.uncut_rows() >= self.config.commit_rows;
            if due && flushing.is_none() && self.state.suspects.is_empty() {
                flushing = self.cut().map(|cut| self.spawn_flush(cut));
                last_commit = Instant::now();
            }
        }
        if let Some(running) = flushing {
            let done = running.await;
            self.flushed(done).await?;
        }
        self.settle().await;
        if let Some(cut) = self.cut() {
            let done = self.spawn_flush(cut).await;
            self.flushed(done).await?;
        }
        self.publish();
        Ok(())
    }

    fn start_fetching(&self, sender: &mpsc::Sender<Event>, cancel: &CancellationToken) {
        for &(topic, partitions) in &self.topics {
            for partition in 0..partitions {
                let next = self.state.next.get(&(topic, partition)).copied().unwrap_or(0);
                let cursor =
                    Cursor { topic, partition, next, fetch_bytes: self.config.fetch_bytes };
                tokio::spawn(cursor.follow(self.log.clone(), sender.clone(), cancel.clone()));
            }
        }
    }

    async fn apply(&mut self, event: Event) {
        match event {
            Event::Samples { partition, records } => {
                self.count(SAMPLES, partition, records.len());
                for record in records {
                    self.state.apply_samples(partition, record);
                }
                self.settle().await;
            }
            Event::Records { topic, partition, records } => {
                self.count(topic, partition, records.len());
                for record in records {
                    self.state.apply_record(topic, partition, record);
                }
            }
            Event::Truncated { topic, partition, low } => {
                self.state.note_truncated(topic, partition, low, self.clock.now());
            }
            Event::Failed(error) => {
                self.state.metrics.fetch_failures.inc();
                warn!(error = &error as &dyn std::error::Error, "fetch failed, trying again");
            }
        }
    }

    fn count(&self, topic: &str, _partition: u32, records: usize) {
        self.state.metrics.records.with_label_values(&[topic]).inc_by(records as u64);
    }

    /// Suspects that cannot be settled now stay, and hold back the next cut.
    async fn settle(&mut self) {
        if self.state.suspects.is_empty() {
            return;
        }
        if let Err(error) = settle_suspects(&mut self.state, &self.sink).await {
            warn!(error = &error as &dyn std::error::Error, "identities cannot be looked up");
        }
    }

    fn cut(&mut self) -> Option<Cut> {
        let spans = self.state.spans();
        if spans.is_empty() {
            return None;
        }
        let mut cut = std::mem::take(&mut self.state.pending);
        cut.spans = spans;
        cut.samples = self.state.memory.cut();
        cut.series = self.new_series();
        cut.hours = self.state.memory.take_hours();
        self.state.flushing = Some(cut.clone());
        Some(cut)
    }

    fn spawn_flush(&self, cut: Cut) -> JoinHandle<Result<(), Overtaken>> {
        tokio::spawn(flush(self.sink.clone(), cut, self.state.metrics.clone()))
    }

    async fn flushed(
        &mut self,
        done: Result<Result<(), Overtaken>, tokio::task::JoinError>,
    ) -> Result<(), IngestError> {
        match done {
            Ok(result) => result.map_err(IngestError::Overtaken)?,
            Err(panic) => std::panic::resume_unwind(panic.into_panic()),
        }
        self.list_tables().await;
        let version = self.tables.iter().find(|table| table.def.name == "samples");
        let version = version.map_or(0, |table| table.version);
        if let Some(cut) = self.state.flushing.take() {
            self.state.touched.extend(cut.hours.into_iter().map(|hour| (hour, version)));
            while self.state.touched.len() > MOST_TOUCHED {
                self.state.touched.pop_first();
            }
            for (key, (_, next)) in cut.spans {
                self.state.committed.insert(key, Some(next));
            }
        }
        self.state.memory.flushed();
        self.publish();
        Ok(())
    }

    fn new_series(&mut self) -> Option<RecordBatch> {
        let slots = std::mem::take(&mut self.state.new_series);
        if slots.is_empty() {
            return None;
        }
        let index = self.state.shared.index.read().unwrap_or_else(|e| e.into_inner());
        let ids = slots.iter().map(|&slot| index.id(slot));
        let mut columns: Vec<ArrayRef> = vec![Arc::new(Int64Array::from_iter_values(ids))];
        for column in 0..crate::index::COLUMNS {
            let texts = slots.iter().map(|&slot| index.label(slot, column));
            columns.push(Arc::new(StringArray::from_iter_values(texts)));
        }
        match RecordBatch::try_new(SERIES.schema(), columns) {
            Ok(batch) => Some(batch),
            Err(error) => panic!("labels fit the table of series: {error}"),
        }
    }

    async fn list_tables(&mut self) {
        let sink = self.sink.lock().await;
        let view = |table: &&nilometer_store::Table| TableView {
            def: table.def(),
            version: table.version(),
            files: table.files(),
            memory: Vec::new(),
        };
        self.tables = sink.tables().iter().map(view).collect();
    }

    /// Makes what was applied visible.
    fn publish(&mut self) {
        let (newest, touched) = (self.state.newest, self.state.touched.clone());
        let mut view = View { newest, touched, ..View::default() };
        for mut table in self.tables.clone() {
            table.memory = self.memory_of(table.def.name);
            view.tables.insert(table.def.name, table);
        }
        self.view.send_replace(Arc::new(view));
        let now = self.clock.now().0;
        for appended in self.state.arrivals.drain(..) {
            let seconds = (now - appended).max(0) as f64 / 1e6;
            self.state.metrics.freshness.observe(seconds);
        }
        self.state.metrics.memory_rows.set(self.state.memory.rows() as i64);
        self.state.metrics.newest.set(self.state.newest.0 / 1_000_000);
    }

    fn memory_of(&mut self, table: &str) -> Vec<RecordBatch> {
        let parts: Vec<&Cut> = self.state.flushing.iter().chain([&self.state.pending]).collect();
        fn batches<R: TableRow + Clone>(
            parts: [Option<&Vec<(crate::rows::Origin, R)>>; 2],
        ) -> Vec<RecordBatch> {
            parts
                .into_iter()
                .flatten()
                .filter(|rows| !rows.is_empty())
                .map(|rows| batch_of(rows))
                .collect()
        }
        match table {
            "samples" => self.state.memory.batches(),
            "events" => {
                batches([parts.first().map(|c| &c.events), parts.get(1).map(|c| &c.events)])
            }
            "gaps" => batches([parts.first().map(|c| &c.gaps), parts.get(1).map(|c| &c.gaps)]),
            "dead_letters" => batches([
                parts.first().map(|c| &c.dead_letters),
                parts.get(1).map(|c| &c.dead_letters),
            ]),
            "decisions" => {
                batches([parts.first().map(|c| &c.decisions), parts.get(1).map(|c| &c.decisions)])
            }
            _ => Vec::new(),
        }
    }
}

async fn join(
    task: &mut Option<JoinHandle<Result<(), Overtaken>>>,
) -> Result<Result<(), Overtaken>, tokio::task::JoinError> {
    match task {
        Some(task) => task.await,
        None => std::future::pending().await,
    }
}
