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

use arrow::array::{ArrayRef, Int64Array, RecordBatch, StringArray};
use nilometer_contract::{DEAD_LETTERS, DECISIONS, EVENTS, GAPS, SAMPLES};
use nilometer_log::{Log, LogError, TopicConfig};
use nilometer_source::SharedClock;
use nilometer_store::{CommitError, Finder, SERIES, Storage, StoreError};
use tokio::sync::{Mutex, mpsc};
use tokio::task::{JoinError, JoinSet};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::warn;

use crate::config::IngestConfig;
use crate::cut::Cut;
use crate::fetch::{Cursor, Event};
use crate::flush::{Overtaken, Sink, Tools, flush};
use crate::load::load;
use crate::lookup::settle_suspects;
use crate::metrics::Metrics;
use crate::publish::Publisher;
use crate::state::State;
use crate::view::Tables;

const QUEUE: usize = 16;
/// Hours that a view tells of: a quarter.
const MOST_TOUCHED: usize = 24 * 92;
/// Bytes of events, gaps, decisions and dead letters in memory that trigger a commit; at four
/// times as many, fetching waits.
const COMMIT_BYTES: usize = 16 << 20;

/// Why an ingester stopped.
#[derive(Debug, thiserror::Error)]
pub enum IngestError {
    /// The tables could not be opened or read.
    #[error("the tables cannot be used")]
    Store(#[source] StoreError),
    /// The log could not be prepared.
    #[error("the log cannot be used")]
    Log(#[source] LogError),
    /// A later ingester has the tables.
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
    finder: Finder,
    publisher: Publisher,
    topics: Vec<(&'static str, u32)>,
    committed_at: Instant,
    refreshed_at: Instant,
    settle_at: Instant,
}

impl Ingester {
    /// Opens the tables, takes them over from an ingester that may still be at work, makes sure
    /// of the topics, and learns where to go on.
    pub async fn open(
        config: IngestConfig,
        log: Arc<dyn Log>,
        storage: &Storage,
        clock: SharedClock,
        metrics: Metrics,
    ) -> Result<Self, IngestError> {
        let mut topics = Vec::new();
        let many = config.partitions;
        for (name, partitions) in
            [(SAMPLES, many), (EVENTS, many), (GAPS, 1), (DECISIONS, 1), (DEAD_LETTERS, 1)]
        {
            let retention = config.log_retention;
            let topic = TopicConfig { name: name.to_owned(), partitions, retention };
            topics.push((name, log.ensure_topic(&topic).await.map_err(IngestError::Log)?));
        }
        topics.retain(|(name, _)| *name != DEAD_LETTERS);
        let mut sink = Sink::open(storage).await.map_err(IngestError::Store)?;
        sink.claim().await.map_err(|error| match error {
            CommitError::Store(error) => IngestError::Store(error),
            overtaken => IngestError::Overtaken(Overtaken(overtaken)),
        })?;
        let loaded = load(&mut sink, &topics, &config, metrics).await;
        let now = Instant::now();
        let mut ingester = Ingester {
            config,
            log,
            clock,
            state: loaded.map_err(IngestError::Store)?,
            finder: sink.samples.finder(),
            sink: Arc::new(Mutex::new(sink)),
            publisher: Publisher::new(),
            topics,
            committed_at: now,
            refreshed_at: now,
            settle_at: now,
        };
        ingester.publisher.list(&ingester.sink).await;
        ingester.publish();
        Ok(ingester)
    }

    /// A handle for readers.
    pub fn tables(&self) -> Tables {
        Tables { view: self.publisher.subscribe(), shared: self.state.shared.clone() }
    }

    /// Ingests until cancelled, then commits what it has received. Dropping the future stops all
    /// its work at once, as a crash would.
    pub async fn run(mut self, cancel: CancellationToken) -> Result<(), IngestError> {
        let reading = cancel.child_token();
        let _until_dropped = reading.clone().drop_guard();
        let (sender, mut events) = mpsc::channel(QUEUE);
        self.start_fetching(sender, &reading);
        let mut flushing = JoinSet::new();
        let mut ticks = tokio::time::interval(self.config.publish_interval);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            let full = self.state.rows() >= self.config.memory_rows
                || self.state.bytes() >= 4 * COMMIT_BYTES;
            tokio::select! {
                Some(done) = flushing.join_next() => self.flushed(done).await?,
                event = events.recv(), if !full => match event {
                    Some(event) => self.apply(event).await,
                    None => break,
                },
                _ = ticks.tick() => {
                    self.settle().await;
                    self.publish();
                }
            }
            if flushing.is_empty()
                && let Some(cut) = self.due_cut()
            {
                flushing.spawn(self.flush(cut));
            }
        }
        while let Some(done) = flushing.join_next().await {
            self.flushed(done).await?;
        }
        self.drain().await
    }

    /// Commits what is left.
    async fn drain(mut self) -> Result<(), IngestError> {
        self.settle().await;
        while !self.state.suspects.is_empty() {
            tokio::time::sleep_until(self.settle_at).await;
            self.settle().await;
        }
        if let Some(cut) = self.cut() {
            let mut last = JoinSet::new();
            last.spawn(self.flush(cut));
            while let Some(done) = last.join_next().await {
                self.flushed(done).await?;
            }
        }
        self.publish();
        Ok(())
    }

    fn start_fetching(&self, sender: mpsc::Sender<Event>, cancel: &CancellationToken) {
        for &(topic, partitions) in &self.topics {
            for partition in 0..partitions {
                let cursor = Cursor {
                    topic,
                    partition,
                    next: self.state.next.get(&(topic, partition)).copied().unwrap_or(0),
                    fetch_bytes: self.config.fetch_bytes,
                    retry_pause: self.config.retry_pause,
                    metrics: self.state.metrics.clone(),
                };
                tokio::spawn(cursor.follow(self.log.clone(), sender.clone(), cancel.clone()));
            }
        }
    }

    async fn apply(&mut self, event: Event) {
        match event {
            Event::Samples { partition, records } => {
                self.count(SAMPLES, records.len());
                for record in records {
                    self.state.apply_samples(partition, record);
                }
                self.settle().await;
            }
            Event::Records { topic, partition, records } => {
                self.count(topic, records.len());
                for record in records {
                    self.state.apply_record(topic, partition, record);
                }
            }
            Event::Truncated { topic, partition, low } => {
                self.state.note_truncated(topic, partition, low, self.clock.now());
            }
            Event::Shrunk { topic, partition, high } => {
                self.state.note_shrunk(topic, partition, high, self.clock.now());
            }
            Event::Failed(error) => {
                self.state.metrics.fetch_failures.inc();
                warn!(error = &error as &dyn std::error::Error, "fetch failed, trying again");
            }
        }
    }

    fn count(&self, topic: &str, records: usize) {
        self.state.metrics.records.with_label_values(&[topic]).inc_by(records as u64);
    }

    /// Suspects that cannot be settled now stay, and hold back the next cut; they are tried
    /// again after a pause.
    async fn settle(&mut self) {
        if self.state.suspects.is_empty() || Instant::now() < self.settle_at {
            return;
        }
        let files = self.publisher.sample_files();
        if let Err(error) = settle_suspects(&mut self.state, &files, &self.finder).await {
            self.settle_at = Instant::now() + self.config.retry_pause;
            warn!(error = &error as &dyn std::error::Error, "identities cannot be looked up");
        }
    }

    /// What to flush now, if it is time: everything, or only a look at the tables.
    fn due_cut(&mut self) -> Option<Arc<Cut>> {
        let due = self.committed_at.elapsed() >= self.config.commit_interval
            || self.state.memory.uncut_rows() >= self.config.commit_rows
            || self.state.pending.bytes >= COMMIT_BYTES;
        if due && self.state.suspects.is_empty() {
            self.committed_at = Instant::now();
            if let Some(cut) = self.cut() {
                return Some(cut);
            }
        }
        self.due_refresh().then(|| {
            let mut spans = self.state.spans();
            spans.values_mut().for_each(|(from, next)| *next = from.unwrap_or(0));
            Arc::new(Cut { spans, refresh: true, ..Cut::default() })
        })
    }

    fn due_refresh(&mut self) -> bool {
        let due = self.refreshed_at.elapsed() >= self.config.refresh_interval;
        if due {
            self.refreshed_at = Instant::now();
        }
        due
    }

    fn cut(&mut self) -> Option<Arc<Cut>> {
        self.state.pending.spans = self.state.spans();
        if self.state.pending.is_empty() {
            return None;
        }
        let mut cut = std::mem::take(&mut self.state.pending);
        cut.samples = self.state.memory.cut();
        cut.series = self.new_series();
        cut.hours = self.state.memory.take_hours();
        cut.at = self.clock.now();
        cut.refresh = self.due_refresh();
        let cut = Arc::new(cut);
        self.state.flushing = Some(cut.clone());
        Some(cut)
    }

    fn flush(&self, cut: Arc<Cut>) -> impl Future<Output = Result<(), Overtaken>> + Send + 'static {
        let tools = Tools {
            log: self.log.clone(),
            metrics: self.state.metrics.clone(),
            retry_pause: self.config.retry_pause,
            keep_written: self.config.vacuum_after / 4,
        };
        flush(self.sink.clone(), cut, tools)
    }

    async fn flushed(
        &mut self,
        done: Result<Result<(), Overtaken>, JoinError>,
    ) -> Result<(), IngestError> {
        match done {
            Ok(result) => result.map_err(IngestError::Overtaken)?,
            Err(panic) => std::panic::resume_unwind(panic.into_panic()),
        }
        self.publisher.list(&self.sink).await;
        if let Some(cut) = self.state.flushing.take() {
            let version = self.publisher.sample_version();
            self.state.touched.extend(cut.hours.iter().map(|&hour| (hour, version)));
            while self.state.touched.len() > MOST_TOUCHED {
                self.state.touched.pop_first();
            }
            for (&key, &(from, next)) in &cut.spans {
                if from.unwrap_or(0) != next {
                    self.state.committed.insert(key, Some(next));
                }
            }
            self.state.memory.flushed();
        }
        self.state.dirty = true;
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

    fn publish(&mut self) {
        self.publisher.publish(&mut self.state, self.clock.now());
    }
}
