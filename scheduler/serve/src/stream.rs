//! Reads events and samples from the log into the scheduler's state, and appends its decisions.
//!
//! Independent of the ingester: the scheduler keeps no position of its own, it reads again from
//! its look-back at every start. A record that cannot be decoded is counted and skipped (the
//! ingester keeps it as a dead letter); records gone before they were read are counted.

use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use nilometer_contract::{
    Causes, EVENTS, LifecycleEvent, MICROS_PER_HOUR, SAMPLES, decode, partition_of,
};
use nilometer_log::{
    LogError, ReadEvent, ReadPosition, Reader, Record, TopicConfig, TopicPartition, first_since,
};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use crate::scheduler::{Progress, Scheduler, SchedulerError, lock};
use nilometer_placement::record::DECISIONS;

const RETRY: Duration = Duration::from_secs(1);
const FORGET_EVERY: Duration = Duration::from_secs(60);
/// Time that decisions still queued get to be written after the scheduler is told to stop.
const DRAIN: Duration = Duration::from_secs(5);
/// Most records appended at once.
const BATCH: usize = 64;

impl Scheduler {
    /// Reads until cancelled; then writes what is queued and returns. Once only.
    pub async fn run(self: Arc<Self>, cancel: CancellationToken) -> Result<(), SchedulerError> {
        let unwritten = lock(&self.unwritten).take().ok_or(SchedulerError::Running)?;
        let config = &self.config;
        let topics = [
            (EVENTS, config.events_partitions),
            (SAMPLES, config.samples_partitions),
            (DECISIONS, config.decisions_partitions),
        ];
        let mut counts = [0; 3];
        for (count, (name, partitions)) in counts.iter_mut().zip(topics) {
            match self.topic(name, partitions, &cancel).await? {
                Some(found) => *count = found,
                None => return Ok(()),
            }
        }
        let partitions = |topic: &str, count| {
            let topic = topic.to_owned();
            (0..count).map(move |partition| TopicPartition { topic: topic.clone(), partition })
        };
        let read_from: Vec<TopicPartition> =
            partitions(EVENTS, counts[0]).chain(partitions(SAMPLES, counts[1])).collect();
        // All of them before any is read: what is not listed is not waited for.
        for at in &read_from {
            self.update_progress(at, |_| {});
        }
        let mut readers = JoinSet::new();
        for at in read_from {
            readers.spawn(read(self.clone(), at, cancel.clone()));
        }
        let writer = tokio::spawn(write(self.clone(), unwritten, counts[2], cancel.clone()));
        let mut outcome = Ok(());
        loop {
            tokio::select! {
                done = readers.join_next() => match done {
                    None => break,
                    Some(Ok(Ok(()))) => {}
                    Some(Ok(Err(error))) => {
                        outcome = Err(SchedulerError::Log(error));
                        cancel.cancel();
                    }
                    Some(Err(error)) => std::panic::resume_unwind(error.into_panic()),
                },
                () = sleep(FORGET_EVERY) => self.forget(),
            }
        }
        if let Err(error) = writer.await {
            std::panic::resume_unwind(error.into_panic());
        }
        outcome
    }

    /// Partitions of a topic, created where missing; `None` when cancelled first.
    async fn topic(
        &self,
        name: &str,
        partitions: u32,
        cancel: &CancellationToken,
    ) -> Result<Option<u32>, SchedulerError> {
        let retention = Duration::from_secs(u64::from(self.config.retention_hours) * 3_600);
        let topic = TopicConfig { name: name.to_owned(), partitions, retention };
        loop {
            match self.log.ensure_topic(&topic).await {
                Ok(found) => return Ok(Some(found)),
                Err(error @ LogError::Unavailable { .. }) => {
                    tracing::warn!(topic = name, error = %Causes(&error), "log is away, trying again");
                }
                Err(error) => return Err(SchedulerError::Log(error)),
            }
            tokio::select! {
                () = cancel.cancelled() => return Ok(None),
                () = sleep(RETRY) => {}
            }
        }
    }

    fn forget(&self) {
        let now = self.now();
        self.state.write().unwrap_or_else(PoisonError::into_inner).forget(now);
    }

    fn fold(&self, at: &TopicPartition, records: &[Record]) {
        let topic = at.topic.as_str();
        self.metrics.records.with_label_values(&[topic]).inc_by(records.len() as u64);
        for record in records {
            let decoded = if topic == SAMPLES {
                decode(&record.payload).map_err(|error| error.to_string()).map(|batch| {
                    self.state.write().unwrap_or_else(PoisonError::into_inner).fold(&batch);
                })
            } else {
                let event = LifecycleEvent::decode(&record.payload);
                event.map_err(|error| error.to_string()).map(|event| {
                    self.state.write().unwrap_or_else(PoisonError::into_inner).apply(event);
                })
            };
            if let Err(reason) = decoded {
                self.metrics.undecodable.with_label_values(&[topic]).inc();
                let (partition, offset) = (at.partition, record.offset);
                tracing::debug!(topic, partition, offset, reason, "record skipped");
            }
        }
    }
}

/// Reads one partition until cancelled. Ends with an error only where trying again cannot help.
async fn read(
    scheduler: Arc<Scheduler>,
    at: TopicPartition,
    cancel: CancellationToken,
) -> Result<(), LogError> {
    let mut reader = None;
    let reading = async {
        loop {
            match step(&scheduler, &at, &mut reader).await {
                Ok(()) => {}
                Err(error @ (LogError::Invalid(_) | LogError::Refused(_))) => return Err(error),
                Err(error) => {
                    tracing::warn!(topic = at.topic, partition = at.partition, error = %Causes(&error), "log is away");
                    sleep(RETRY).await;
                }
            }
        }
    };
    cancel.run_until_cancelled(reading).await.unwrap_or(Ok(()))
}

/// Reads and folds once, from where the log begins to matter.
async fn step(
    scheduler: &Scheduler,
    at: &TopicPartition,
    reader: &mut Option<Reader>,
) -> Result<(), LogError> {
    let Some(reading) = reader else {
        *reader = Some(start(scheduler, at).await?);
        return Ok(());
    };
    let (topic, partition) = (at.topic.as_str(), at.partition);
    let lag = scheduler.metrics.lag.with_label_values(&[topic, &partition.to_string()]);
    let read = reading.next().await?;
    let next = reading.position().next;
    match read {
        ReadEvent::Records(records) => {
            scheduler.fold(at, &records);
            scheduler.update_progress(at, |progress| progress.next = next);
        }
        ReadEvent::Missing(gone) => {
            let missed = gone.end - gone.start;
            scheduler.metrics.missed.with_label_values(&[topic]).inc_by(missed);
            tracing::warn!(topic, partition, missed, "records gone unread");
            // Of what is gone nothing is waited for.
            scheduler.update_progress(at, |progress| progress.next = progress.next.max(next));
        }
        ReadEvent::Begun(why) => {
            tracing::warn!(topic, partition, error = %Causes(&why), "reading anew");
            *reader = None;
        }
        ReadEvent::End(high) => {
            lag.set(i64::try_from(high.saturating_sub(next)).unwrap_or(i64::MAX));
        }
        ReadEvent::Idle => lag.set(0),
    }
    Ok(())
}

/// Begins at the first event kept; at the first sample appended within the look-back.
async fn start(scheduler: &Scheduler, at: &TopicPartition) -> Result<Reader, LogError> {
    let of = scheduler.log.incarnation(at).await?;
    let marks = scheduler.log.watermarks(at).await?;
    let hours = scheduler.config.look_back_hours;
    let mut next = marks.low;
    if at.topic == SAMPLES && hours > 0 {
        let since = scheduler.now().plus_micros(-i64::from(hours) * MICROS_PER_HOUR);
        next = first_since(scheduler.log.as_ref(), at, of, marks, since).await?;
    }
    scheduler.update_progress(at, |progress| {
        *progress = Progress { next, end_at_start: marks.high };
    });
    let from = ReadPosition::at(of, next);
    Ok(Reader::new(scheduler.log.clone(), at.clone(), from, scheduler.config.fetch_bytes))
}

/// Appends decisions to the log, in order, until cancelled and the queue is empty.
///
/// A failed append is repeated: a record that was written nevertheless appears twice under the
/// same id. After cancellation the log gets [`DRAIN`] to come back; the rest is counted.
async fn write(
    scheduler: Arc<Scheduler>,
    mut queue: mpsc::Receiver<(String, Bytes)>,
    partitions: u32,
    cancel: CancellationToken,
) {
    let give_up = async {
        cancel.cancelled().await;
        sleep(DRAIN).await;
    };
    tokio::pin!(give_up);
    let mut batch = Vec::with_capacity(BATCH);
    loop {
        tokio::select! {
            biased;
            count = queue.recv_many(&mut batch, BATCH) => if count == 0 { return },
            () = cancel.cancelled() => return,
        }
        let count = batch.len() as u64;
        let done = tokio::select! {
            () = append(&scheduler, partitions, &mut batch) => true,
            () = &mut give_up => false,
        };
        if !done {
            scheduler.metrics.unrecorded.inc_by(count + queue.len() as u64);
            return;
        }
    }
}

/// Appends a batch; returns when it is written, or refused for good and counted.
async fn append(scheduler: &Scheduler, partitions: u32, batch: &mut Vec<(String, Bytes)>) {
    let mut parts: BTreeMap<u32, Vec<Bytes>> = BTreeMap::new();
    for (id, bytes) in batch.drain(..) {
        parts.entry(partition_of(&id, partitions)).or_default().push(bytes);
    }
    for (partition, records) in parts {
        let to = TopicPartition { topic: DECISIONS.to_owned(), partition };
        loop {
            match scheduler.log.append(&to, records.clone()).await {
                Ok(_) => break,
                Err(error @ LogError::Unavailable { .. }) => {
                    tracing::warn!(partition, error = %Causes(&error), "decisions wait for the log");
                    sleep(RETRY).await;
                }
                Err(error) => {
                    tracing::error!(partition, error = %Causes(&error), "decisions refused by the log");
                    scheduler.metrics.unrecorded.inc_by(records.len() as u64);
                    break;
                }
            }
        }
    }
}
