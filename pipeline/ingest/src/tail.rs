//! What the log has beyond the tables, and the views of both together.
//!
//! Two keep a tail: the ingester, which stores it, and the follower, which waits until an
//! ingester elsewhere has.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::AtomicI64;

use nilometer_clock::SharedClock;
use nilometer_contract::{Causes, DEAD_LETTERS, EVENTS, GAPS, SAMPLES};
use nilometer_log::{Log, LogError, Mark, ReadPosition, Reader, TopicConfig, TopicPartition};
use nilometer_store::Finder;
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::warn;

use crate::config::IngestConfig;
use crate::fetch::{Cursor, Event};
use crate::load::{load, load_positions};
use crate::lookup::settle_suspects;
use crate::metrics::Metrics;
use crate::ownership::IngestError;
use crate::publish::Publisher;
use crate::sink::Sink;
use crate::state::State;
use crate::view::{Shared, Tables};

/// Topics with their number of partitions.
pub(crate) type Topics = Vec<(&'static str, u32)>;

const QUEUE: usize = 16;
/// Records of the small topics that are applied in one go.
const APPLIED_AT_ONCE: usize = 4_096;
/// Bytes of rows of the small tables in memory that trigger a commit; at four
/// times as many, fetching waits.
pub(crate) const COMMIT_BYTES: usize = 16 << 20;

/// The part of the log that is read and not stored, and who is told of it.
pub(crate) struct Tail {
    pub(crate) config: IngestConfig,
    pub(crate) log: Arc<dyn Log>,
    pub(crate) clock: SharedClock,
    pub(crate) state: State,
    pub(crate) publisher: Publisher,
    pub(crate) topics: Topics,
    /// What cursors are asked to read, see [`Cursor`].
    pub(crate) wanted: BTreeMap<(&'static str, u32), Arc<AtomicI64>>,
    finder: Finder,
    settle_at: Instant,
    /// When it was last looked at what is past retention.
    pub(crate) forgot_at: Option<Instant>,
}

/// Makes sure of the topics; returns those that are read.
pub(crate) async fn prepare(config: &IngestConfig, log: &dyn Log) -> Result<Topics, LogError> {
    let mut topics = Vec::new();
    let many = config.partitions;
    let fed = config.others.iter().filter_map(|table| Some((table.feed()?.topic, 1)));
    let own = [(SAMPLES, many), (EVENTS, many), (GAPS, 1), (DEAD_LETTERS, 1)];
    for (name, partitions) in own.into_iter().chain(fed) {
        let retention = config.log_retention;
        let topic = TopicConfig { name: name.to_owned(), partitions, retention };
        topics.push((name, log.ensure_topic(&topic).await?));
    }
    topics.retain(|(name, _)| *name != DEAD_LETTERS);
    Ok(topics)
}

impl Tail {
    /// Learns from the tables where to go on.
    pub(crate) async fn open(
        config: IngestConfig,
        (log, topics): (Arc<dyn Log>, Topics),
        sink: &mut Sink,
        clock: SharedClock,
        metrics: Metrics,
    ) -> Result<Self, IngestError> {
        let loaded = load(sink, &config, metrics, Shared::with(config.catalogue.clone())).await;
        let mut state = loaded.map_err(IngestError::Store)?;
        load_positions(&mut state, sink, (log.as_ref(), &topics), clock.now()).await?;
        let mut tail = Tail {
            state,
            config,
            log,
            clock,
            publisher: Publisher::new(),
            topics,
            wanted: BTreeMap::new(),
            finder: sink.samples.finder(),
            settle_at: Instant::now(),
            forgot_at: None,
        };
        tail.forget(&sink.samples);
        let samples = tail.topics.iter().find(|(topic, _)| *topic == SAMPLES);
        let mut gaps = tail.state.shared.gaps.write().unwrap_or_else(|e| e.into_inner());
        gaps.set_partitions(samples.map_or(0, |(_, partitions)| *partitions));
        drop(gaps);
        tail.publisher.list(sink);
        tail.publish();
        Ok(tail)
    }

    /// Begins anew from what the tables have now; readers keep their handles.
    pub(crate) async fn reopen(mut self, sink: &mut Sink) -> Result<Self, IngestError> {
        let (metrics, shared) = (self.state.metrics.clone(), self.state.shared.clone());
        let loaded = load(sink, &self.config, metrics, shared).await;
        self.state = loaded.map_err(IngestError::Store)?;
        let place = (self.log.as_ref(), self.topics.as_slice());
        load_positions(&mut self.state, sink, place, self.clock.now()).await?;
        self.finder = sink.samples.finder();
        self.forgot_at = None;
        self.forget(&sink.samples);
        self.publisher.list(sink);
        self.publish();
        Ok(self)
    }

    /// A handle for readers.
    pub(crate) fn tables(&self) -> Tables {
        let (view, clock) = (self.publisher.subscribe(), self.clock.clone());
        Tables { view, shared: self.state.shared.clone(), clock }
    }

    /// Starts to read all partitions, until cancelled or until nobody listens.
    pub(crate) fn fetch(&mut self, cancel: &CancellationToken) -> mpsc::Receiver<Event> {
        let (sender, events) = mpsc::channel(QUEUE);
        let partitions: u32 = self.topics.iter().map(|(_, partitions)| partitions).sum();
        self.state.metrics.starting.set(i64::from(partitions));
        self.state.metrics.unread.set(0);
        for &(topic, partitions) in &self.topics {
            for partition in 0..partitions {
                let stream = self.state.reads(topic, partition);
                let at = TopicPartition { topic: topic.to_owned(), partition };
                let from = ReadPosition {
                    log: stream.log,
                    next: self.state.next.get(&stream).copied().unwrap_or(0),
                    mark: self.state.marks.get(&stream).copied(),
                };
                let cursor = Cursor {
                    stream,
                    reader: Reader::new(self.log.clone(), at, from, self.config.fetch_bytes),
                    wanted: self.wanted.entry((topic, partition)).or_default().clone(),
                    retry_pause: self.config.retry_pause,
                    metrics: self.state.metrics.clone(),
                };
                tokio::spawn(cursor.follow(sender.clone(), cancel.clone()));
            }
        }
        events
    }

    /// Whether there is no more room before something is stored.
    pub(crate) fn is_full(&self) -> bool {
        self.state.rows() >= self.config.memory_rows || self.state.bytes() >= 4 * COMMIT_BYTES
    }

    pub(crate) async fn apply(&mut self, event: Event) {
        self.state.now = self.clock.now();
        match event {
            Event::Samples { stream, records } => {
                self.count(SAMPLES, records.len());
                for record in records {
                    let mark = record.mark;
                    self.state.apply_samples(stream, record);
                    self.state.marks.insert(stream, mark);
                    tokio::task::consume_budget().await;
                }
                self.settle().await;
            }
            Event::Records { stream, records } => {
                self.count(stream.topic, records.len());
                for some in records.chunks(APPLIED_AT_ONCE) {
                    match stream.topic {
                        EVENTS => self.state.apply_events(stream, some),
                        _ => some.iter().for_each(|it| self.state.apply_record(stream, it)),
                    }
                    tokio::task::yield_now().await;
                }
                self.state.marks.extend(records.last().map(|last| (stream, Mark::of(last))));
            }
            Event::CaughtUp => self.state.metrics.starting.dec(),
            Event::Truncated { stream, low } => {
                self.state.note_truncated(stream, low, self.clock.now());
            }
            Event::End { stream, end } => drop(self.state.ends.insert(stream, end)),
            Event::Begun { stream, next } => {
                self.state.note_begun(stream, next, self.clock.now());
            }
            Event::Failed(error) => {
                self.state.metrics.fetch_failures.inc();
                warn!(error = %Causes(&error), "fetch failed, trying again");
            }
        }
    }

    fn count(&self, topic: &str, records: usize) {
        self.state.metrics.records.with_label_values(&[topic]).inc_by(records as u64);
    }

    /// Suspects that cannot be settled now stay, and hold back the next cut; they are tried
    /// again after a pause.
    pub(crate) async fn settle(&mut self) {
        if self.state.suspects.is_empty() || Instant::now() < self.settle_at {
            return;
        }
        let files = self.publisher.sample_files();
        if let Err(error) = settle_suspects(&mut self.state, &files, &self.finder).await {
            self.settle_at = Instant::now() + self.config.retry_pause;
            warn!(error = %Causes(&error), "identities cannot be looked up");
        }
    }

    /// Settles all suspects, however long it takes.
    pub(crate) async fn settle_all(&mut self) {
        self.settle().await;
        while !self.state.suspects.is_empty() {
            tokio::time::sleep_until(self.settle_at).await;
            self.settle().await;
        }
    }

    /// Makes what was applied visible.
    pub(crate) fn publish(&mut self) {
        self.publisher.publish(&mut self.state, self.clock.now());
    }
}
