//! The topics that a process has open, each as it is on disk now.

use std::{
    collections::HashMap,
    io,
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::sync::watch;

use super::{
    appender::Appender,
    config::EmbeddedConfig,
    failed,
    files::Files,
    reader::{Fetched, Reader},
    tail::{Boot, Tails},
    topic::{self, Stamp},
    unavailable,
};
use crate::{Incarnation, LogError, Record, TopicConfig, TopicPartition};

/// Topics, by name.
pub(super) struct Topics {
    dir: PathBuf,
    boot: Boot,
    lock_timeout: Duration,
    pub(super) files: Arc<Files>,
    open: Mutex<HashMap<String, Arc<Topic>>>,
    /// As they were asked for, to make them again.
    ensured: Mutex<HashMap<String, TopicConfig>>,
}

/// One topic, as one `topic.json` tells of it.
pub(super) struct Topic {
    name: String,
    stamp: Stamp,
    pub(super) retention: Duration,
    pub(super) tails: Arc<Tails>,
    pub(super) partitions: Vec<Arc<Partition>>,
    /// The notes of all partitions, as they were when it was last looked for changes.
    pub(super) seen: Mutex<Vec<u8>>,
}

/// One partition of it.
pub(super) struct Partition {
    pub(super) at: TopicPartition,
    pub(super) incarnation: Incarnation,
    /// One append at a time.
    pub(super) appender: Arc<tokio::sync::Mutex<Appender>>,
    pub(super) reader: Reader,
    /// Told of every append, and when the topic is another one.
    pub(super) grew: watch::Sender<()>,
}

impl Topics {
    pub(super) fn new(config: &EmbeddedConfig, boot: Boot) -> Topics {
        Topics {
            dir: config.dir.clone(),
            boot,
            lock_timeout: config.lock_timeout(),
            files: Arc::default(),
            open: Mutex::default(),
            ensured: Mutex::default(),
        }
    }

    /// Makes a topic, or what is missing of it; returns how many partitions it has.
    pub(super) fn ensure(&self, topic: TopicConfig) -> Result<u32, LogError> {
        let partitions = self.make(&topic)?;
        locked(&self.ensured).insert(topic.name.clone(), topic);
        Ok(partitions)
    }

    fn make(&self, topic: &TopicConfig) -> Result<u32, LogError> {
        topic::ensure(&self.dir, topic, self.boot, self.lock_timeout)
            .map(|file| file.partitions)
            .map_err(|e| unavailable(format!("create topic {}", topic.name), e))
    }

    /// The topic, if it is open and still the one on disk.
    pub(super) fn current(&self, name: &str) -> Option<Arc<Topic>> {
        let topic = locked(&self.open).get(name).cloned();
        topic.filter(|topic| self.is_current(topic))
    }

    /// Whether the topic on disk is still the one that was opened; one look at a directory entry.
    pub(super) fn is_current(&self, topic: &Topic) -> bool {
        Stamp::of(&self.dir, &topic.name) == Some(topic.stamp)
    }

    /// All that are open.
    pub(super) fn all(&self) -> Vec<Arc<Topic>> {
        locked(&self.open).values().cloned().collect()
    }

    /// Opens a topic for appending: one that was asked for before is made again where it, or
    /// something of it, is gone.
    pub(super) fn open_or_make(&self, name: &str) -> Result<Arc<Topic>, LogError> {
        let ensured = locked(&self.ensured).get(name).cloned();
        if let Some(topic) = ensured {
            self.make(&topic)?;
        }
        self.open(name)
    }

    /// Opens a topic for reading.
    pub(super) fn open(&self, name: &str) -> Result<Arc<Topic>, LogError> {
        let missing = || match locked(&self.ensured).contains_key(name) {
            false => LogError::Invalid(format!("no topic {name:?}")),
            true => LogError::Unavailable { what: format!("topic {name} is gone"), cause: None },
        };
        // The stamp before the file: if it changes in between, the next call opens it again.
        let stamp = Some(name).filter(|name| topic::is_name(name));
        let stamp = stamp.and_then(|name| Stamp::of(&self.dir, name)).ok_or_else(missing)?;
        let opening = |e| unavailable(format!("open topic {name}"), e);
        let file = topic::read(&self.dir, name).map_err(opening)?.ok_or_else(missing)?;
        let tails = Tails::open(&self.dir.join(name), self.boot).map_err(opening)?;
        let tails = Arc::new(tails);
        let partitions = (0..file.partitions)
            .map(|partition| self.partition(name, partition, file.incarnation(partition), &tails))
            .collect();
        let topic = Arc::new(Topic {
            name: name.to_owned(),
            stamp,
            retention: file.retention(),
            tails,
            partitions,
            seen: Mutex::default(),
        });
        let before = locked(&self.open).insert(name.to_owned(), topic.clone());
        if let Some(before) = before {
            before.wake_all();
        }
        Ok(topic)
    }

    fn partition(
        &self,
        topic: &str,
        partition: u32,
        incarnation: Incarnation,
        tails: &Arc<Tails>,
    ) -> Arc<Partition> {
        let dir = topic::partition_dir(&self.dir, topic, partition);
        let (tails, files) = (tails.clone(), self.files.clone());
        let appender = Appender::new(dir.clone(), partition, tails.clone(), files.clone());
        Arc::new(Partition {
            at: TopicPartition { topic: topic.to_owned(), partition },
            incarnation,
            appender: Arc::new(tokio::sync::Mutex::new(appender)),
            reader: Reader::new(dir, partition, tails, files),
            grew: watch::Sender::new(()),
        })
    }
}

impl Topic {
    /// Lets everybody who waits look again.
    pub(super) fn wake_all(&self) {
        self.partitions.iter().for_each(|partition| partition.grew.send_replace(()));
    }

    /// Lets those look again whose partition changed since the call before.
    pub(super) fn wake_changed(&self) -> io::Result<()> {
        let mut seen = locked(&self.seen);
        for changed in self.tails.changed(&mut seen, self.partitions.len())? {
            self.partitions[changed].grew.send_replace(());
        }
        Ok(())
    }
}

impl Partition {
    pub(super) fn read(&self, offset: u64, max_bytes: usize) -> Result<Vec<Record>, LogError> {
        let (at, asked) = (self.at.clone(), offset);
        match self.reader.fetch(offset, max_bytes) {
            Ok(Fetched::Records(records)) => Ok(records),
            Ok(Fetched::Truncated { low }) => Err(LogError::Truncated { at, asked, low }),
            Ok(Fetched::BeyondEnd { high }) => Err(LogError::BeyondEnd { at, asked, high }),
            Err(e) => Err(failed("fetch from", &self.at, e)),
        }
    }
}

/// A panic of another thread leaves nothing half-done in what these locks protect.
fn locked<T>(of: &Mutex<T>) -> MutexGuard<'_, T> {
    of.lock().unwrap_or_else(PoisonError::into_inner)
}
