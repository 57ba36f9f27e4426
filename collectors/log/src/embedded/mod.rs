//! The log on local disk, for one machine: any number of processes may use one directory.
//!
//! ```text
//! <dir>/<topic>/topic.json                        partitions, retention
//! <dir>/<topic>/<partition>/tail                  lock of the appenders, end for the readers
//! <dir>/<topic>/<partition>/<base offset>.log     records
//! ```
//!
//! - An append is durable, readable and acknowledged in this order, all of it or nothing, with
//!   one `fdatasync`; see [`Fsync`]. New files and directories are synced too.
//! - A reader in the same process is woken; one in another looks every 40 ms.
//! - A full disk refuses the append, leaves what was there, and takes appends again once there
//!   is room.
//! - Segments go by [`truncate`](crate::Log::truncate), when a new one is begun and the topic's
//!   retention has passed for all their records, and at the bound of the whole log.

mod appender;
mod config;
mod format;
mod reader;
mod segments;
mod space;
mod tail;
mod topic;

use std::{
    collections::HashMap,
    io,
    sync::{Arc, Mutex, PoisonError, mpsc},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use async_trait::async_trait;
use bytes::Bytes;
use tokio::{sync::watch, task::spawn_blocking, time::Instant};

pub use self::config::{EmbeddedConfig, Fsync};
use self::{
    appender::{Appended, Appender},
    reader::{Fetched, Reader},
    tail::Boot,
};
use crate::{Log, LogError, Record, TopicConfig, TopicPartition, Watermarks};

/// How often a waiting reader looks for records of other processes.
const POLL: Duration = Duration::from_millis(40);

/// Longest wait of one fetch, whatever is asked.
const WAIT_MAX: Duration = Duration::from_secs(3600);

/// Tells microseconds since the epoch.
pub type Clock = Arc<dyn Fn() -> i64 + Send + Sync>;

/// The embedded log. Cheap to clone; clones share everything.
#[derive(Clone)]
pub struct EmbeddedLog {
    inner: Arc<Inner>,
}

struct Inner {
    config: EmbeddedConfig,
    boot: Boot,
    clock: Clock,
    topics: Mutex<HashMap<String, Arc<Topic>>>,
    /// Dropped with the log, which ends the thread that syncs.
    _syncing: Option<mpsc::Sender<()>>,
}

struct Topic {
    retention: Duration,
    partitions: Vec<Arc<Partition>>,
}

struct Partition {
    at: TopicPartition,
    /// One append at a time; opened by the first.
    appender: Arc<tokio::sync::Mutex<Option<Appender>>>,
    reader: Reader,
    /// The next offset, whenever this process appended.
    grew: watch::Sender<u64>,
}

impl EmbeddedLog {
    /// Opens the log, with the clock of the system. Nothing is repaired yet: that is done by the
    /// first append to a partition.
    ///
    /// # Errors
    ///
    /// [`LogError::Invalid`] for settings that cannot work, [`LogError::Unavailable`] if the
    /// directory cannot be made.
    pub fn open(config: EmbeddedConfig) -> Result<EmbeddedLog, LogError> {
        EmbeddedLog::open_with_clock(config, Arc::new(now_micros))
    }

    /// Opens the log with a clock of the caller's, for time stamps and retention.
    ///
    /// # Errors
    ///
    /// As [`EmbeddedLog::open`].
    pub fn open_with_clock(config: EmbeddedConfig, clock: Clock) -> Result<EmbeddedLog, LogError> {
        config.check()?;
        segments::create_dir(&config.dir)
            .map_err(|e| unavailable(format!("open {}", config.dir.display()), e))?;
        let (stop, stopped) = mpsc::channel();
        let every = match config.fsync {
            Fsync::Always => None,
            Fsync::Every(every) => Some(every),
        };
        let inner = Arc::new(Inner {
            config,
            boot: Boot::current(),
            clock,
            topics: Mutex::default(),
            _syncing: every.map(|_| stop),
        });
        if let Some(every) = every {
            let log = Arc::downgrade(&inner);
            std::thread::Builder::new()
                .name("log-sync".into())
                .spawn(move || {
                    while stopped.recv_timeout(every) == Err(mpsc::RecvTimeoutError::Timeout)
                        && let Some(log) = log.upgrade()
                    {
                        log.sync_all();
                    }
                })
                .map_err(|e| unavailable("start the thread that syncs".into(), e))?;
        }
        Ok(EmbeddedLog { inner })
    }

    async fn partition(
        &self,
        at: &TopicPartition,
    ) -> Result<(Arc<Topic>, Arc<Partition>), LogError> {
        let known = self.inner.known(&at.topic);
        let topic = match known {
            Some(topic) => topic,
            None => {
                let (inner, name) = (self.inner.clone(), at.topic.clone());
                blocking(move || inner.topic(&name)).await?
            }
        };
        match topic.partitions.get(at.partition as usize) {
            Some(partition) => Ok((topic.clone(), partition.clone())),
            None => {
                Err(LogError::Invalid(format!("no partition {} of {}", at.partition, at.topic)))
            }
        }
    }
}

#[async_trait]
impl Log for EmbeddedLog {
    async fn ensure_topic(&self, topic: &TopicConfig) -> Result<u32, LogError> {
        if !topic::is_name(&topic.name) {
            return Err(LogError::Invalid(format!("{:?} is not a topic's name", topic.name)));
        }
        if topic.partitions == 0 || topic.partitions > topic::PARTITIONS_MAX {
            let wrong = format!("{} partitions of {}", topic.partitions, topic.name);
            return Err(LogError::Invalid(wrong));
        }
        let (inner, topic) = (self.inner.clone(), topic.clone());
        blocking(move || {
            topic::ensure(&inner.config.dir, &topic, inner.boot, inner.config.lock_timeout())
                .map(|file| file.partitions)
                .map_err(|e| unavailable(format!("create topic {}", topic.name), e))
        })
        .await
    }

    async fn append(&self, to: &TopicPartition, payloads: Vec<Bytes>) -> Result<u64, LogError> {
        let longest = payloads.iter().map(Bytes::len).max().unwrap_or(0);
        if longest > self.inner.config.max_record_bytes {
            return Err(LogError::Refused(format!("a record of {longest} bytes is too long")));
        }
        let (topic, partition) = self.partition(to).await?;
        // Taken before the thread, so that waiting appends hold no threads.
        let mut appender = partition.appender.clone().lock_owned().await;
        let inner = self.inner.clone();
        blocking(move || {
            let mut go = || -> io::Result<Appended> {
                let appender = match &mut *appender {
                    Some(appender) => appender,
                    none => none.insert(Appender::open(inner.dir(&partition.at), inner.boot)?),
                };
                let at_micros = (inner.clock)();
                let appended = appender.append(&payloads, at_micros, &inner.config)?;
                if appended.rolled {
                    let kept = i64::try_from(topic.retention.as_micros()).unwrap_or(i64::MAX);
                    let before = at_micros.saturating_sub(kept);
                    if let Err(e) = appender.expire(before, &inner.config) {
                        tracing::warn!(at = ?partition.at, error = %e, "old segments not deleted");
                    }
                }
                Ok(appended)
            };
            let appended = go().map_err(|e| failed("append to", &partition.at, e))?;
            partition.grew.send_replace(appended.next);
            drop(appender);
            if appended.rolled {
                space::bound(&inner.config, inner.boot);
            }
            Ok(appended.first)
        })
        .await
    }

    async fn fetch(
        &self,
        from: &TopicPartition,
        offset: u64,
        max_bytes: usize,
        wait: Duration,
    ) -> Result<Vec<Record>, LogError> {
        let (_, partition) = self.partition(from).await?;
        let deadline = Instant::now() + wait.min(WAIT_MAX);
        let mut grew = partition.grew.subscribe();
        loop {
            let reading = partition.clone();
            let records = blocking(move || reading.read(offset, max_bytes)).await?;
            if !records.is_empty() {
                return Ok(records);
            }
            loop {
                let now = Instant::now();
                if now >= deadline {
                    return Ok(records);
                }
                let woken = tokio::time::timeout_at(deadline.min(now + POLL), grew.changed()).await;
                // A few bytes of a file that every append writes: they are in memory.
                if woken.is_ok() || partition.reader.may_hold(offset) {
                    break;
                }
            }
        }
    }

    async fn watermarks(&self, of: &TopicPartition) -> Result<Watermarks, LogError> {
        let (_, partition) = self.partition(of).await?;
        blocking(move || {
            let marks = partition.reader.watermarks();
            marks.map_err(|e| failed("read the watermarks of", &partition.at, e))
        })
        .await
    }

    async fn truncate(&self, of: &TopicPartition, below: u64) -> Result<(), LogError> {
        let (_, partition) = self.partition(of).await?;
        let mut appender = partition.appender.clone().lock_owned().await;
        let inner = self.inner.clone();
        blocking(move || {
            let mut go = || -> io::Result<()> {
                let appender = match &mut *appender {
                    Some(appender) => appender,
                    none => none.insert(Appender::open(inner.dir(&partition.at), inner.boot)?),
                };
                appender.truncate(below, &inner.config)
            };
            go().map_err(|e| failed("truncate", &partition.at, e))
        })
        .await
    }
}

impl Partition {
    fn read(&self, offset: u64, max_bytes: usize) -> Result<Vec<Record>, LogError> {
        let (at, asked) = (self.at.clone(), offset);
        match self.reader.fetch(offset, max_bytes) {
            Ok(Fetched::Records(records)) => Ok(records),
            Ok(Fetched::Truncated { low }) => Err(LogError::Truncated { at, asked, low }),
            Ok(Fetched::BeyondEnd { high }) => Err(LogError::BeyondEnd { at, asked, high }),
            Err(e) => Err(failed("fetch from", &self.at, e)),
        }
    }
}

impl Inner {
    fn known(&self, topic: &str) -> Option<Arc<Topic>> {
        self.topics.lock().unwrap_or_else(PoisonError::into_inner).get(topic).cloned()
    }

    fn dir(&self, at: &TopicPartition) -> std::path::PathBuf {
        topic::partition_dir(&self.config.dir, &at.topic, at.partition)
    }

    /// Opens a topic and its partitions for reading.
    fn topic(&self, name: &str) -> Result<Arc<Topic>, LogError> {
        let missing = || LogError::Invalid(format!("no topic {name:?}"));
        if !topic::is_name(name) {
            return Err(missing());
        }
        let opening = |e| unavailable(format!("open topic {name}"), e);
        let file = topic::read(&self.config.dir, name).map_err(opening)?.ok_or_else(missing)?;
        let mut partitions = Vec::new();
        for partition in 0..file.partitions {
            let at = TopicPartition { topic: name.to_owned(), partition };
            let reader = Reader::open(self.dir(&at), self.boot).map_err(opening)?;
            let (grew, _) = watch::channel(0);
            let appender = Arc::default();
            partitions.push(Arc::new(Partition { at, appender, reader, grew }));
        }
        let topic = Arc::new(Topic { retention: file.retention(), partitions });
        let mut topics = self.topics.lock().unwrap_or_else(PoisonError::into_inner);
        Ok(topics.entry(name.to_owned()).or_insert(topic).clone())
    }

    /// Called by the thread that syncs, never within a runtime.
    fn sync_all(&self) {
        let topics = self.topics.lock().unwrap_or_else(PoisonError::into_inner).clone();
        for partition in topics.values().flat_map(|topic| &topic.partitions) {
            let mut appender = partition.appender.blocking_lock();
            if let Some(Err(e)) = appender.as_mut().map(Appender::sync) {
                tracing::error!(at = ?partition.at, error = %e, "log not synced");
            }
        }
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        let topics = self.topics.get_mut().unwrap_or_else(PoisonError::into_inner);
        for partition in topics.values().flat_map(|topic| &topic.partitions) {
            if let Ok(mut appender) = partition.appender.try_lock()
                && let Some(Err(e)) = appender.as_mut().map(Appender::sync)
            {
                tracing::error!(at = ?partition.at, error = %e, "log not synced");
            }
        }
    }
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, LogError> + Send + 'static,
) -> Result<T, LogError> {
    match spawn_blocking(work).await {
        Ok(done) => done,
        Err(e) => Err(unavailable("work on the log was broken off".into(), e)),
    }
}

fn unavailable(what: String, cause: impl std::error::Error + Send + Sync + 'static) -> LogError {
    LogError::Unavailable { what, cause: Some(Box::new(cause)) }
}

fn failed(what: &str, at: &TopicPartition, cause: io::Error) -> LogError {
    unavailable(format!("{what} {}/{}", at.topic, at.partition), cause)
}

fn now_micros() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_micros()).unwrap_or(i64::MAX)
}
