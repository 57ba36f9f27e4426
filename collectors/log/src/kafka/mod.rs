//! The log in Apache Kafka.
//!
//! - An append goes to its partition through an idempotent producer and returns when all in-sync
//!   replicas have every record.
//! - A fetch goes on where the one before stopped; it seeks only when asked for another place,
//!   and then first asks the cluster where the partition begins and ends. Offsets never move by
//!   themselves: whatever Kafka would reset silently is an error here. It is made for one reader
//!   per partition and process: a second one waits for the first, and then seeks.
//! - No offset is committed to Kafka: the reader keeps its place with what it made of the records.
//! - Every call ends within [`KafkaConfig::timeout_ms`] or twice that; without the cluster it is
//!   [`LogError::Unavailable`], and works again when the cluster does.

mod config;
mod errors;
mod feed;
mod identity;
mod ids;
mod send;
mod topics;

use nilometer_contract::Causes;
use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError, atomic::Ordering::Relaxed},
    time::Duration,
};

use async_trait::async_trait;
use bytes::Bytes;
use rdkafka::{
    TopicPartitionList,
    admin::{AdminClient, AdminOptions},
    consumer::{BaseConsumer, Consumer},
    error::{KafkaError, RDKafkaErrorCode as Code},
    producer::{FutureProducer, Producer},
};
use tokio::{
    task::spawn_blocking,
    time::{Instant, timeout, timeout_at},
};

pub use self::config::{KafkaConfig, Sasl, Secret, Security, Tls};
use self::{
    errors::{Context, Noticed, make},
    feed::{Drained, Feed},
    identity::Identities,
    send::send,
};
use crate::{Incarnation, Log, LogError, Record, TopicConfig, TopicPartition, Watermarks};

/// How long a partition without a leader is left alone.
const AGAIN: Duration = Duration::from_millis(20);

/// Longest wait of one fetch, whatever is asked.
const WAIT_MAX: Duration = Duration::from_secs(3600);

/// The log in Apache Kafka. Cheap to clone; clones share the connections.
#[derive(Clone)]
pub struct KafkaLog {
    inner: Arc<Inner>,
}

struct Inner {
    config: KafkaConfig,
    noticed: Arc<Noticed>,
    producer: Mutex<FutureProducer<Context>>,
    asker: BaseConsumer<Context>,
    /// Made by the first fetch.
    consumer: Mutex<Option<Arc<BaseConsumer<Context>>>>,
    /// Made by the first topic or truncation.
    admin: Mutex<Option<Arc<AdminClient<Context>>>>,
    partitions: Mutex<HashMap<String, u32>>,
    /// As they were asked for, to make them again.
    ensured: Mutex<HashMap<String, TopicConfig>>,
    identities: Identities,
    feeds: Mutex<HashMap<TopicPartition, Arc<tokio::sync::Mutex<Feed>>>>,
}

impl KafkaLog {
    /// Makes the clients, which connect by themselves. The cluster need not be there yet.
    ///
    /// # Errors
    ///
    /// [`LogError::Invalid`] for settings that cannot work, such as a certificate that cannot be
    /// read.
    pub fn connect(config: KafkaConfig) -> Result<KafkaLog, LogError> {
        config.check()?;
        let noticed = Arc::new(Noticed::default());
        let producer = make(&config.producer(), &noticed)?;
        let asker = make(&config.asker(), &noticed)?;
        let inner = Inner {
            config,
            noticed,
            producer: Mutex::new(producer),
            asker,
            consumer: Mutex::default(),
            admin: Mutex::default(),
            partitions: Mutex::default(),
            ensured: Mutex::default(),
            identities: Identities::default(),
            feeds: Mutex::default(),
        };
        Ok(KafkaLog { inner: Arc::new(inner) })
    }
}

#[async_trait]
impl Log for KafkaLog {
    async fn ensure_topic(&self, topic: &TopicConfig) -> Result<u32, LogError> {
        let count = topics::ensure(&self.inner, topic).await?;
        locked(&self.inner.ensured).insert(topic.name.clone(), topic.clone());
        Ok(count)
    }

    async fn incarnation(&self, of: &TopicPartition) -> Result<Incarnation, LogError> {
        topics::check(&self.inner, of).await?;
        let recent = Instant::now().checked_sub(identity::RECENT);
        identity::of_topic(&self.inner, &of.topic, recent).await
    }

    async fn append(&self, to: &TopicPartition, payloads: Vec<Bytes>) -> Result<u64, LogError> {
        let inner = &self.inner;
        let longest = payloads.iter().map(Bytes::len).max().unwrap_or(0);
        if longest > inner.config.max_record_bytes {
            return Err(LogError::Refused(format!("a record of {longest} bytes is too long")));
        }
        topics::check_or_make(inner, to).await?;
        if payloads.is_empty() {
            return Ok(self.watermarks(to).await?.high);
        }
        let producer = locked(&inner.producer).clone();
        let sent = timeout(inner.config.timeout() * 2, send(&producer, to, &payloads)).await;
        let failed = match sent {
            Ok(Ok(first)) => {
                inner.noticed.answer();
                return Ok(first);
            }
            Ok(Err(e)) => e,
            Err(_) => KafkaError::MessageProduction(Code::MessageTimedOut),
        };
        inner.replace_if_fatal(&producer)?;
        // Whatever it was: a topic that is gone shows as one that cannot be reached in time.
        locked(&inner.partitions).remove(&to.topic);
        Err(inner.noticed.failed(format!("append to {}/{}", to.topic, to.partition), failed))
    }

    async fn fetch(
        &self,
        from: &TopicPartition,
        of: Incarnation,
        offset: u64,
        max_bytes: usize,
        wait: Duration,
    ) -> Result<Vec<Record>, LogError> {
        topics::check(&self.inner, from).await?;
        let feed = locked(&self.inner.feeds).entry(from.clone()).or_default().clone();
        let mut feed = feed.lock_owned().await;
        if feed.set_incarnation(of) {
            identity::confirm(&self.inner, from, of, Instant::now()).await?;
        }
        let deadline = Instant::now() + wait.min(WAIT_MAX);
        let fetched = self.read(&mut feed, from, offset, max_bytes, deadline).await;
        // librdkafka reads on at the same offset when a topic is made anew. Incarnations never
        // come back: one that is asked for after the records came, and is the same, is theirs.
        let known = match &fetched {
            Ok(records) if records.is_empty() => {
                Instant::now().checked_sub(identity::IDLE).unwrap_or_else(Instant::now)
            }
            Ok(_) | Err(LogError::Truncated { .. } | LogError::BeyondEnd { .. }) => Instant::now(),
            Err(_) => return fetched,
        };
        if let Err(e) = identity::confirm(&self.inner, from, of, known).await {
            feed.forget();
            return Err(e);
        }
        fetched
    }

    async fn watermarks(&self, of: &TopicPartition) -> Result<Watermarks, LogError> {
        topics::check(&self.inner, of).await?;
        let (inner, of) = (self.inner.clone(), of.clone());
        blocking(move || inner.watermarks(&of)).await
    }

    async fn truncate(&self, of: &TopicPartition, below: u64) -> Result<(), LogError> {
        let marks = self.watermarks(of).await?;
        let below = below.min(marks.high);
        if below <= marks.low {
            return Ok(());
        }
        let mut partitions = TopicPartitionList::new();
        let place = rdkafka::Offset::Offset(below as i64);
        partitions
            .add_partition_offset(&of.topic, of.partition as i32, place)
            .map_err(|e| self.inner.failed("truncate", of, e))?;
        let admin = self.inner.admin()?;
        let deleted = admin.delete_records(&partitions, &self.inner.admin_options()).await;
        let of_partition =
            deleted.and_then(|list| list.elements().iter().try_for_each(|p| p.error()));
        of_partition.map_err(|e| self.inner.failed("truncate", of, e))?;
        // What was read ahead may lie below; a fetch that waits has read all of it.
        let feed = locked(&self.inner.feeds).get(of).cloned();
        if let Some(feed) = feed
            && let Ok(mut feed) = feed.try_lock()
        {
            feed.forget();
        }
        Ok(())
    }
}

impl KafkaLog {
    /// Reads what the consumer gets; whether it is of the right topic is not known yet.
    async fn read(
        &self,
        feed: &mut Feed,
        from: &TopicPartition,
        offset: u64,
        max_bytes: usize,
        deadline: Instant,
    ) -> Result<Vec<Record>, LogError> {
        let mut searched = false;
        loop {
            if feed.position() != Some(offset) {
                self.inner.place(feed, from, offset).await?;
            }
            self.inner.serve_events();
            match feed.drain(max_bytes, searched) {
                Drained::Records(records) => {
                    self.inner.noticed.answer();
                    return Ok(records);
                }
                Drained::Nothing if Instant::now() < deadline => {
                    let filled = feed.filled.clone();
                    // Whether woken or not, what is there is looked at again.
                    let _ = timeout_at(deadline, filled.notified()).await;
                }
                Drained::Nothing => return self.nothing(from).await,
                // Placed again, which tells whether it was truncated.
                Drained::Gap(found) if !searched => {
                    tracing::debug!(at = ?from, offset, found, "gap in a kafka partition");
                    searched = true;
                }
                Drained::Gap(_) => searched = true,
                Drained::Failed(e) => {
                    let code = e.rdkafka_error_code();
                    if code == Some(Code::LogTruncation) {
                        let (inner, of) = (self.inner.clone(), from.clone());
                        let high = blocking(move || inner.watermarks(&of)).await?.high;
                        return Err(LogError::BeyondEnd { at: from.clone(), asked: offset, high });
                    }
                    if code.is_some_and(errors::is_unknown) {
                        locked(&self.inner.partitions).remove(&from.topic);
                    }
                    if searched || !code.is_some_and(errors::is_misplaced) {
                        return Err(self.inner.failed("fetch from", from, e));
                    }
                    searched = true;
                }
            }
        }
    }

    /// The end of a fetch that found nothing: that is so only if the cluster is there.
    async fn nothing(&self, at: &TopicPartition) -> Result<Vec<Record>, LogError> {
        if self.inner.noticed.trouble.load(Relaxed) {
            self.watermarks(at).await?;
        }
        Ok(Vec::new())
    }
}

impl Inner {
    fn failed(&self, what: &str, at: &TopicPartition, error: KafkaError) -> LogError {
        self.noticed.failed(format!("{what} {}/{}", at.topic, at.partition), error)
    }

    /// An error that ends a producer for good leaves the next append a new one.
    fn replace_if_fatal(&self, used: &FutureProducer<Context>) -> Result<(), LogError> {
        let Some((code, reason)) = used.client().fatal_error() else { return Ok(()) };
        let mut current = locked(&self.producer);
        if current.client().native_ptr() == used.client().native_ptr() {
            tracing::warn!(%code, reason, "kafka producer replaced");
            *current = make(&self.config.producer(), &self.noticed)?;
        }
        Ok(())
    }

    fn consumer(&self) -> Result<Arc<BaseConsumer<Context>>, LogError> {
        let mut consumer = locked(&self.consumer);
        if let Some(consumer) = &*consumer {
            return Ok(consumer.clone());
        }
        let made = Arc::new(make(&self.config.consumer(), &self.noticed)?);
        Ok(consumer.insert(made).clone())
    }

    fn admin(&self) -> Result<Arc<AdminClient<Context>>, LogError> {
        let mut admin = locked(&self.admin);
        if let Some(admin) = &*admin {
            return Ok(admin.clone());
        }
        let made = Arc::new(make(&self.config.admin(), &self.noticed)?);
        Ok(admin.insert(made).clone())
    }

    fn admin_options(&self) -> AdminOptions {
        let timeout = Some(self.config.timeout());
        AdminOptions::new().request_timeout(timeout).operation_timeout(timeout)
    }

    /// Asks the cluster; blocks. While a partition has no leader, as just after it was made or a
    /// broker went away, it asks again.
    fn watermarks(&self, of: &TopicPartition) -> Result<Watermarks, LogError> {
        let deadline = Instant::now() + self.config.timeout();
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let asked = self.asker.fetch_watermarks(&of.topic, of.partition as i32, left);
            self.serve_events();
            match asked {
                Ok((low, high)) => {
                    self.noticed.answer();
                    return Ok(Watermarks { low: low.max(0) as u64, high: high.max(0) as u64 });
                }
                Err(e) if errors::is_leaderless(&e) && Instant::now() + AGAIN < deadline => {
                    std::thread::sleep(AGAIN);
                }
                Err(e) => return Err(self.failed("read the watermarks of", of, e)),
            }
        }
    }

    /// Makes the feed go on at an offset, if there can be records.
    async fn place(
        self: &Arc<Self>,
        feed: &mut Feed,
        at: &TopicPartition,
        offset: u64,
    ) -> Result<(), LogError> {
        let (inner, of) = (self.clone(), at.clone());
        let Watermarks { low, high } = blocking(move || inner.watermarks(&of)).await?;
        if offset < low {
            return Err(LogError::Truncated { at: at.clone(), asked: offset, low });
        }
        if offset > high {
            return Err(LogError::BeyondEnd { at: at.clone(), asked: offset, high });
        }
        let (inner, of) = (self.clone(), at.clone());
        let mut moving = std::mem::take(feed);
        let moved = blocking(move || {
            let consumer = inner.consumer()?;
            let done = moving.go_to(&consumer, &of, offset, inner.config.timeout());
            Ok((moving, done.map_err(|e| inner.failed("seek in", &of, e))))
        });
        let (moved, done) = moved.await?;
        *feed = moved;
        done
    }

    /// Lets the consumers tell about their connections; their records come by other queues.
    fn serve_events(&self) {
        let consumer = locked(&self.consumer).clone();
        for consumer in consumer.as_deref().into_iter().chain([&self.asker]) {
            while let Some(event) = consumer.poll(Duration::ZERO) {
                if let Err(e) = event {
                    tracing::debug!(error = %Causes(&e), "kafka consumer event");
                    self.noticed.event(&e);
                }
            }
        }
    }
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, LogError> + Send + 'static,
) -> Result<T, LogError> {
    match spawn_blocking(work).await {
        Ok(done) => done,
        Err(e) => {
            let what = "work on the log was broken off".into();
            Err(LogError::Unavailable { what, cause: Some(Box::new(e)) })
        }
    }
}

/// A panic of another thread leaves nothing half-done in what these locks protect.
fn locked<T>(of: &Mutex<T>) -> MutexGuard<'_, T> {
    of.lock().unwrap_or_else(PoisonError::into_inner)
}
