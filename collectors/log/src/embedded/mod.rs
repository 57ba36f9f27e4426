//! The log on local disk, for one machine: any number of processes may use one directory.
//!
//! ```text
//! <dir>/<topic>/topic.json                        incarnation, partitions, retention
//! <dir>/<topic>/tails                             end of each partition for the readers
//! <dir>/<topic>/<partition>/                      the directory is the lock of the appenders
//! <dir>/<topic>/<partition>/<base offset>.log     records
//! ```
//!
//! - An append is durable, readable and acknowledged in this order, all of it or nothing, with
//!   one `fdatasync`; see [`Fsync`]. New files and directories are synced too.
//! - A reader in the same process is woken; one in another within 40 ms, by one thread that looks
//!   at one file for each topic, as long as anybody waits. A partition that nobody reads or
//!   appends to costs nothing but memory.
//! - Damage costs the records that it hit: a reader goes on after them, by
//!   [`LogError::Truncated`], and appends go on in a new segment.
//! - A full disk refuses the append, leaves what was there, and takes appends again once there
//!   is room.
//! - Segments go by [`truncate`](crate::Log::truncate), when a new one is begun and the topic's
//!   retention has passed for all their records, and at the bound of the whole log.
//! - At most 128 segment files are open between calls, and at most [`WORKERS`] calls work on files
//!   at once; others wait.

mod appender;
mod config;
mod files;
mod format;
mod reader;
mod segments;
mod space;
mod tail;
mod topic;
mod topics;
mod watcher;

use std::{
    io,
    sync::{Arc, mpsc},
    time::Duration,
};

use async_trait::async_trait;
use bytes::Bytes;
use nilometer_clock::SharedClock;
use nilometer_contract::Causes;
use tokio::{
    sync::Semaphore,
    task::spawn_blocking,
    time::{Instant, timeout_at},
};

pub use self::config::{EmbeddedConfig, Fsync};
use self::{
    appender::Appended,
    tail::Boot,
    topics::{Partition, Topic, Topics},
    watcher::Watcher,
};
use crate::{Incarnation, Log, LogError, Record, TopicConfig, TopicPartition, Watermarks};

/// Most threads that work on files at once.
const WORKERS: usize = 16;

/// Longest wait of one fetch, whatever is asked.
const WAIT_MAX: Duration = Duration::from_secs(3600);

/// The embedded log. Cheap to clone; clones share everything.
#[derive(Clone)]
pub struct EmbeddedLog {
    inner: Arc<Inner>,
}

struct Inner {
    config: EmbeddedConfig,
    boot: Boot,
    clock: SharedClock,
    topics: Arc<Topics>,
    watcher: Watcher,
    workers: Arc<Semaphore>,
    /// Dropped with the log, which ends the thread that syncs.
    _syncing: Option<mpsc::Sender<()>>,
}

impl EmbeddedLog {
    /// Opens the log; the clock is for time stamps and retention. Nothing is repaired yet: that is
    /// done by the first append to a partition.
    ///
    /// # Errors
    ///
    /// [`LogError::Invalid`] for settings that cannot work, [`LogError::Unavailable`] if the
    /// directory cannot be made.
    pub fn open(config: EmbeddedConfig, clock: SharedClock) -> Result<EmbeddedLog, LogError> {
        config.check()?;
        segments::create_dir(&config.dir)
            .map_err(|e| unavailable(format!("open {}", config.dir.display()), e))?;
        let (stop, stopped) = mpsc::channel();
        let every = match config.fsync {
            Fsync::Always => None,
            Fsync::Every(every) => Some(every),
        };
        let boot = Boot::current();
        let topics = Arc::new(Topics::new(&config, boot));
        let inner = Arc::new(Inner {
            config,
            boot,
            clock,
            watcher: Watcher::new(&topics),
            topics,
            workers: Arc::new(Semaphore::new(WORKERS)),
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

    /// The partition as it is now.
    async fn partition(
        &self,
        at: &TopicPartition,
    ) -> Result<(Arc<Topic>, Arc<Partition>), LogError> {
        self.partition_or(at, Topics::open).await
    }

    async fn partition_or(
        &self,
        at: &TopicPartition,
        open: fn(&Topics, &str) -> Result<Arc<Topic>, LogError>,
    ) -> Result<(Arc<Topic>, Arc<Partition>), LogError> {
        let topic = match self.inner.topics.current(&at.topic) {
            Some(topic) => topic,
            None => {
                let (topics, name) = (self.inner.topics.clone(), at.topic.clone());
                self.blocking(move || open(&topics, &name)).await?
            }
        };
        match topic.partitions.get(at.partition as usize) {
            Some(partition) => Ok((topic.clone(), partition.clone())),
            None => {
                Err(LogError::Invalid(format!("no partition {} of {}", at.partition, at.topic)))
            }
        }
    }

    /// Work on files, by one of a bounded number of threads.
    async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> Result<T, LogError> + Send + 'static,
    ) -> Result<T, LogError> {
        let worker = self.inner.workers.clone().acquire_owned().await;
        let done = spawn_blocking(move || {
            let _worker = worker;
            work()
        });
        match done.await {
            Ok(done) => done,
            Err(e) => Err(unavailable("work on the log was broken off".into(), e)),
        }
    }

    /// Appends to a partition; `None` where it is gone.
    async fn append_to(
        &self,
        (topic, partition): (Arc<Topic>, Arc<Partition>),
        payloads: Vec<Bytes>,
    ) -> Result<Option<u64>, LogError> {
        // Taken before the thread, so that waiting appends hold no threads.
        let mut appender = partition.appender.clone().lock_owned().await;
        let inner = self.inner.clone();
        self.blocking(move || {
            let at_micros = inner.clock.now().0;
            let appended = match appender.append(&payloads, at_micros, &inner.config) {
                Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
                other => other.map_err(|e| failed("append to", &partition.at, e))?,
            };
            let Appended { first, rolled } = appended;
            partition.grew.send_replace(());
            if rolled {
                let kept = i64::try_from(topic.retention.as_micros()).unwrap_or(i64::MAX);
                let before = at_micros.saturating_sub(kept);
                if let Err(e) = appender.expire(before, &inner.config) {
                    tracing::warn!(at = ?partition.at, error = %Causes(&e), "old segments not deleted");
                }
                drop(appender);
                space::bound(&inner.config, &inner.topics.files, inner.boot);
            }
            Ok(Some(first))
        })
        .await
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
        let (topics, topic) = (self.inner.topics.clone(), topic.clone());
        self.blocking(move || topics.ensure(topic)).await
    }

    async fn incarnation(&self, of: &TopicPartition) -> Result<Incarnation, LogError> {
        Ok(self.partition(of).await?.1.incarnation)
    }

    async fn append(&self, to: &TopicPartition, payloads: Vec<Bytes>) -> Result<u64, LogError> {
        let longest = payloads.iter().map(Bytes::len).max().unwrap_or(0);
        if longest > self.inner.config.max_record_bytes {
            return Err(LogError::Refused(format!("a record of {longest} bytes is too long")));
        }
        let to_open = self.partition_or(to, Topics::open_or_make).await?;
        if let Some(first) = self.append_to(to_open, payloads.clone()).await? {
            return Ok(first);
        }
        // Something of it is gone: it is made again, if it was asked for before.
        let (topics, name) = (self.inner.topics.clone(), to.topic.clone());
        self.blocking(move || topics.open_or_make(&name)).await?;
        let made = self.partition(to).await?;
        let again = self.append_to(made, payloads).await?;
        again.ok_or_else(|| LogError::Unavailable { what: format!("{to:?} is gone"), cause: None })
    }

    async fn fetch(
        &self,
        from: &TopicPartition,
        of: Incarnation,
        offset: u64,
        max_bytes: usize,
        wait: Duration,
    ) -> Result<Vec<Record>, LogError> {
        let deadline = Instant::now() + wait.min(WAIT_MAX);
        loop {
            let (topic, partition) = self.partition(from).await?;
            if partition.incarnation != of {
                let (at, found) = (from.clone(), partition.incarnation);
                return Err(LogError::Replaced { at, asked: of, found });
            }
            let mut grew = partition.grew.subscribe();
            if !partition.reader.is_at_end(offset) {
                let reading = partition.clone();
                let read = self.blocking(move || reading.read(offset, max_bytes)).await;
                // What was read may be of a log that came in its place meanwhile.
                if !self.inner.topics.is_current(&topic) {
                    continue;
                }
                let records = read?;
                if !records.is_empty() {
                    return Ok(records);
                }
            }
            let _waiting = self.inner.watcher.wait();
            if timeout_at(deadline, grew.changed()).await.is_err() {
                return Ok(Vec::new());
            }
        }
    }

    async fn watermarks(&self, of: &TopicPartition) -> Result<Watermarks, LogError> {
        let (_, partition) = self.partition(of).await?;
        self.blocking(move || {
            let marks = partition.reader.watermarks();
            marks.map_err(|e| failed("read the watermarks of", &partition.at, e))
        })
        .await
    }

    async fn truncate(&self, of: &TopicPartition, below: u64) -> Result<(), LogError> {
        let (_, partition) = self.partition(of).await?;
        let mut appender = partition.appender.clone().lock_owned().await;
        let inner = self.inner.clone();
        self.blocking(move || {
            let truncated = appender.truncate(below, &inner.config);
            truncated.map_err(|e| failed("truncate", &partition.at, e))
        })
        .await
    }
}

impl Inner {
    /// Called by the thread that syncs, never within a runtime.
    fn sync_all(&self) {
        for partition in self.topics.all().iter().flat_map(|topic| &topic.partitions) {
            if let Err(e) = partition.appender.blocking_lock().sync() {
                tracing::error!(at = ?partition.at, error = %Causes(&e), "log not synced");
            }
        }
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        for partition in self.topics.all().iter().flat_map(|topic| &topic.partitions) {
            if let Ok(mut appender) = partition.appender.try_lock()
                && let Err(e) = appender.sync()
            {
                tracing::error!(at = ?partition.at, error = %Causes(&e), "log not synced");
            }
        }
    }
}

fn unavailable(what: String, cause: impl std::error::Error + Send + Sync + 'static) -> LogError {
    LogError::Unavailable { what, cause: Some(Box::new(cause)) }
}

fn failed(what: &str, at: &TopicPartition, cause: io::Error) -> LogError {
    unavailable(format!("{what} {}/{}", at.topic, at.partition), cause)
}
