//! The log's side of the network: topics in memory, and each host's view of them over its link.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use nilometer_log::{Incarnation, Log, LogError, Record, TopicConfig, TopicPartition, Watermarks};
use tokio::sync::{Notify, oneshot};
use tokio::time::Instant;

use crate::host::{Fate, Host};
use crate::world::World;

/// A broker that keeps what it acknowledged, unless a fault takes it away.
pub(crate) struct Broker {
    world: Arc<World>,
    topics: Mutex<BTreeMap<String, Vec<Partition>>>,
    removed: Mutex<Vec<Landed>>,
    hostile: Mutex<Vec<Refused>>,
    unheard: Mutex<BTreeMap<String, Vec<Landed>>>,
    appended: Notify,
}

/// Topic, partition, offset and row of what must be refused; all of a record where the row is
/// negative.
pub(crate) type Refused = (String, i64, i64, i64);

#[derive(Clone, Default)]
struct Partition {
    /// How often it was replaced.
    replaced: u64,
    low: u64,
    records: Vec<Record>,
}

/// One record that was appended, whoever knows of it.
#[derive(Clone)]
pub(crate) struct Landed {
    pub(crate) topic: String,
    pub(crate) partition: u32,
    pub(crate) record: Record,
}

impl Broker {
    pub(crate) fn new(world: &Arc<World>) -> Arc<Self> {
        let world = world.clone();
        Arc::new(Broker {
            world,
            topics: Mutex::default(),
            removed: Mutex::default(),
            hostile: Mutex::default(),
            unheard: Mutex::default(),
            appended: Notify::new(),
        })
    }

    fn topics(&self) -> MutexGuard<'_, BTreeMap<String, Vec<Partition>>> {
        self.topics.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// Appends as the broker does, whatever the client hears of it.
    pub(crate) fn append(&self, to: &TopicPartition, payloads: &[Bytes]) -> Result<u64, LogError> {
        let appended_at_micros = self.world.now().0;
        let mut topics = self.topics();
        let partition = partition(&mut topics, to)?;
        let first = partition.high();
        for (offset, payload) in (first..).zip(payloads) {
            let payload = payload.clone();
            partition.records.push(Record { offset, appended_at_micros, payload });
        }
        drop(topics);
        self.appended.notify_waiters();
        Ok(first)
    }

    /// Appends what must be refused: a row, or all of it where that is negative.
    pub(crate) fn append_hostile(&self, to: &TopicPartition, payload: Bytes, row: i64) {
        // Before the first process there are no topics.
        let Ok(offset) = self.append(to, &[payload]) else { return };
        let mut hostile = self.hostile.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        hostile.push((to.topic.clone(), i64::from(to.partition), offset as i64, row));
    }

    /// What must be refused.
    pub(crate) fn hostile(&self) -> Vec<Refused> {
        self.hostile.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).clone()
    }

    /// A host did not hear that its records were appended.
    fn note_unheard(&self, host: &str, to: &TopicPartition, first: u64, payloads: Vec<Bytes>) {
        let landed = (first..).zip(payloads).map(|(offset, payload)| Landed {
            topic: to.topic.clone(),
            partition: to.partition,
            record: Record { offset, appended_at_micros: 0, payload },
        });
        let mut unheard = self.unheard.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        unheard.entry(host.to_owned()).or_default().extend(landed);
    }

    /// Records that were appended without their host hearing of it.
    pub(crate) fn unheard(&self, host: &str) -> Vec<Landed> {
        let unheard = self.unheard.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        unheard.get(host).cloned().unwrap_or_default()
    }

    /// Everything in a topic that is still kept.
    pub(crate) fn kept(&self, topic: &str) -> Vec<Landed> {
        let topics = self.topics();
        let partitions = (0..).zip(topics.get(topic).into_iter().flatten());
        let records = partitions.flat_map(|(number, partition)| {
            partition.records.iter().map(move |record| (number, record))
        });
        records
            .map(|(partition, record)| Landed {
                topic: topic.to_owned(),
                partition,
                record: record.clone(),
            })
            .collect()
    }

    /// Drops the oldest records of every partition but for some, whether they were read or not.
    pub(crate) fn drop_oldest(&self, keep: usize) {
        self.remove(|partition| {
            let gone = partition.records.len().saturating_sub(keep);
            partition.low += gone as u64;
            partition.records.drain(..gone).collect()
        });
    }

    /// Replaces the log by an empty one with the same topics.
    pub(crate) fn replace(&self) {
        self.remove(|partition| {
            let replaced = partition.replaced + 1;
            std::mem::replace(partition, Partition { replaced, ..Partition::default() }).records
        });
    }

    fn remove(&self, remove: impl Fn(&mut Partition) -> Vec<Record>) {
        let mut removed = self.removed.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        for (topic, partitions) in self.topics().iter_mut() {
            for (number, partition) in (0..).zip(partitions) {
                let gone = remove(partition).into_iter();
                let landed = |record| Landed { topic: topic.clone(), partition: number, record };
                removed.extend(gone.map(landed));
            }
        }
    }

    /// Records that a fault took away.
    pub(crate) fn removed(&self) -> Vec<Landed> {
        self.removed.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).clone()
    }
}

impl Partition {
    fn incarnation(&self) -> Incarnation {
        Incarnation::new(self.replaced + 1)
    }

    fn high(&self) -> u64 {
        self.low + self.records.len() as u64
    }
}

fn partition<'t>(
    topics: &'t mut BTreeMap<String, Vec<Partition>>,
    at: &TopicPartition,
) -> Result<&'t mut Partition, LogError> {
    let partitions = topics.get_mut(&at.topic);
    partitions
        .and_then(|partitions| partitions.get_mut(at.partition as usize))
        .ok_or_else(|| LogError::Invalid(format!("no partition {at:?}")))
}

/// The log as one host sees it.
pub(crate) struct RemoteLog {
    broker: Arc<Broker>,
    host: Arc<Host>,
    requests: AtomicU64,
}

impl RemoteLog {
    pub(crate) fn new(broker: &Arc<Broker>, host: &Arc<Host>) -> Self {
        RemoteLog { broker: broker.clone(), host: host.clone(), requests: AtomicU64::new(0) }
    }

    /// Waits as the link has it; says what becomes of the request.
    async fn travel(&self, kind: u64, request: &str) -> Fate {
        let link = *self.host.log();
        self.host.wait(kind, link.slow).await;
        let number = self.requests.fetch_add(1, Ordering::Relaxed);
        link.fate(&self.host.world, &format!("{} {request} {number}", self.host.name))
    }
}

fn unavailable(what: &str) -> LogError {
    LogError::Unavailable { what: what.to_owned(), cause: None }
}

#[async_trait]
impl Log for RemoteLog {
    async fn ensure_topic(&self, topic: &TopicConfig) -> Result<u32, LogError> {
        if self.travel(1, "ensure").await != Fate::Done {
            return Err(unavailable("no answer"));
        }
        let mut topics = self.broker.topics();
        let partitions = topics
            .entry(topic.name.clone())
            .or_insert_with(|| vec![Partition::default(); topic.partitions as usize]);
        Ok(partitions.len() as u32)
    }

    async fn incarnation(&self, of: &TopicPartition) -> Result<Incarnation, LogError> {
        if self.travel(3, "incarnation").await != Fate::Done {
            return Err(unavailable("no answer"));
        }
        partition(&mut self.broker.topics(), of).map(|partition| partition.incarnation())
    }

    async fn append(&self, to: &TopicPartition, payloads: Vec<Bytes>) -> Result<u64, LogError> {
        let number = self.requests.fetch_add(1, Ordering::Relaxed);
        let (broker, host, to) = (self.broker.clone(), self.host.clone(), to.clone());
        let (answer, answered) = oneshot::channel();
        // A request under way arrives even when nobody waits for it any more.
        tokio::spawn(async move {
            let link = *host.log();
            host.wait(1, link.slow).await;
            let request = format!("{} append {} {} {number}", host.name, to.topic, to.partition);
            let fate = link.fate(&host.world, &request);
            let done = match fate {
                Fate::Lost => Err(unavailable("no answer")),
                _ => broker.append(&to, &payloads),
            };
            let at = done.as_ref().map_or(-1, |&offset| offset as i64);
            host.world.note(format!("{request} of {} at {at} {fate:?}", payloads.len()));
            host.wait(2, Duration::ZERO).await;
            let lost = fate == Fate::AnswerLost;
            let first = done.as_ref().ok().copied();
            let said = if lost { Err(unavailable("the answer is lost")) } else { done };
            let heard = answer.send(said).is_ok() && !lost;
            if let Some(first) = first.filter(|_| !heard) {
                broker.note_unheard(&host.name, &to, first, payloads);
            }
        });
        answered.await.unwrap_or_else(|_| Err(unavailable("stopped")))
    }

    async fn fetch(
        &self,
        from: &TopicPartition,
        of: Incarnation,
        offset: u64,
        max_bytes: usize,
        wait: Duration,
    ) -> Result<Vec<Record>, LogError> {
        let deadline = Instant::now() + wait;
        loop {
            let appended = self.broker.appended.notified();
            if self.host.log().away {
                self.host.wait(3, Duration::ZERO).await;
                return Err(unavailable("cannot be reached"));
            }
            let found = read(&mut self.broker.topics(), from, of, offset, max_bytes);
            match found {
                Ok(records) if records.is_empty() && Instant::now() < deadline => {}
                Ok(records) if records.is_empty() => return Ok(records),
                done => {
                    return match self.travel(3, &format!("fetch {}", from.topic)).await {
                        Fate::Done => done,
                        _ => Err(unavailable("no answer")),
                    };
                }
            }
            tokio::select! {
                biased;
                () = appended => {}
                () = tokio::time::sleep_until(deadline) => {}
            }
        }
    }

    async fn watermarks(&self, of: &TopicPartition) -> Result<Watermarks, LogError> {
        if self.travel(3, "watermarks").await != Fate::Done {
            return Err(unavailable("no answer"));
        }
        let mut topics = self.broker.topics();
        let partition = partition(&mut topics, of)?;
        Ok(Watermarks { low: partition.low, high: partition.high() })
    }

    async fn truncate(&self, of: &TopicPartition, below: u64) -> Result<(), LogError> {
        let mut topics = self.broker.topics();
        let partition = partition(&mut topics, of)?;
        let gone = below.clamp(partition.low, partition.high()) - partition.low;
        partition.records.drain(..gone as usize);
        partition.low += gone;
        Ok(())
    }
}

fn read(
    topics: &mut BTreeMap<String, Vec<Partition>>,
    from: &TopicPartition,
    asked: Incarnation,
    offset: u64,
    max_bytes: usize,
) -> Result<Vec<Record>, LogError> {
    let partition = partition(topics, from)?;
    let (low, high, at) = (partition.low, partition.high(), from.clone());
    let found = partition.incarnation();
    if asked != found {
        return Err(LogError::Replaced { at, asked, found });
    }
    if offset < low {
        return Err(LogError::Truncated { at, asked: offset, low });
    }
    if offset > high {
        return Err(LogError::BeyondEnd { at, asked: offset, high });
    }
    let mut bytes = 0;
    let fits = |record: &&Record| {
        let first = bytes == 0;
        bytes += record.payload.len();
        first || bytes <= max_bytes
    };
    Ok(partition.records[(offset - low) as usize..].iter().take_while(fits).cloned().collect())
}
