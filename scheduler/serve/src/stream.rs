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
use nilometer_log::{Incarnation, LogError, Record, TopicConfig, TopicPartition};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use crate::scheduler::{Progress, Scheduler, SchedulerError, lock};
use nilometer_placement::record::DECISIONS;

/// How long one fetch waits for records; new ones end it at once.
const WAIT: Duration = Duration::from_secs(5);
const RETRY: Duration = Duration::from_secs(1);
const LAG_EVERY: Duration = Duration::from_secs(5);
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
    let mut next: Option<(Incarnation, u64)> = None;
    let mut lag_known: Option<tokio::time::Instant> = None;
    loop {
        let step = step(&scheduler, &at, next, &mut lag_known);
        let outcome = tokio::select! {
            () = cancel.cancelled() => return Ok(()),
            outcome = step => outcome,
        };
        match outcome {
            Ok(read) => next = Some(read),
            Err(LogError::Truncated { asked, low, .. }) => {
                let missed = low.saturating_sub(asked);
                let topic = at.topic.as_str();
                scheduler.metrics.missed.with_label_values(&[topic]).inc_by(missed);
                tracing::warn!(topic, partition = at.partition, missed, "records gone unread");
                next = next.map(|(log, _)| (log, low));
                // Of what is gone nothing is waited for.
                scheduler.update_progress(&at, |progress| progress.next = progress.next.max(low));
            }
            Err(LogError::Replaced { asked, found, .. }) => {
                let (topic, partition) = (at.topic.as_str(), at.partition);
                tracing::warn!(topic, partition, %asked, %found, "log was replaced, reading anew");
                next = None;
            }
            Err(LogError::BeyondEnd { asked, high, .. }) => {
                let (topic, partition) = (at.topic.as_str(), at.partition);
                tracing::warn!(topic, partition, asked, high, "log lost its end, reading anew");
                next = None;
            }
            Err(error @ LogError::Unavailable { .. }) => {
                tracing::warn!(topic = at.topic, partition = at.partition, error = %Causes(&error), "log is away");
                tokio::select! {
                    () = cancel.cancelled() => return Ok(()),
                    () = sleep(RETRY) => {}
                }
            }
            Err(error @ (LogError::Invalid(_) | LogError::Refused(_))) => return Err(error),
        }
    }
}

/// Reads and folds once; the log and the offset in it to go on from.
async fn step(
    scheduler: &Scheduler,
    at: &TopicPartition,
    next: Option<(Incarnation, u64)>,
    lag_known: &mut Option<tokio::time::Instant>,
) -> Result<(Incarnation, u64), LogError> {
    let Some((log, next)) = next else {
        let log = scheduler.log.incarnation(at).await?;
        let start = start(scheduler, at, log).await?;
        scheduler.update_progress(at, |progress| *progress = start);
        return Ok((log, start.next));
    };
    let fetch_bytes = scheduler.config.fetch_bytes;
    let records = scheduler.log.fetch(at, log, next, fetch_bytes, WAIT).await?;
    let lag = scheduler.metrics.lag.with_label_values(&[&at.topic, &at.partition.to_string()]);
    let Some(last) = records.last() else {
        lag.set(0);
        return Ok((log, next));
    };
    let next = last.offset + 1;
    scheduler.fold(at, &records);
    scheduler.update_progress(at, |progress| progress.next = next);
    if lag_known.is_none_or(|known| known.elapsed() >= LAG_EVERY) {
        *lag_known = Some(tokio::time::Instant::now());
        let high = scheduler.log.watermarks(at).await?.high;
        lag.set(i64::try_from(high.saturating_sub(next)).unwrap_or(i64::MAX));
    }
    Ok((log, next))
}

/// Where to begin: at the first event kept; at the first sample appended within the look-back.
async fn start(
    scheduler: &Scheduler,
    at: &TopicPartition,
    log: Incarnation,
) -> Result<Progress, LogError> {
    let marks = scheduler.log.watermarks(at).await?;
    let hours = scheduler.config.look_back_hours;
    let (mut low, mut high) = (marks.low, marks.high);
    if at.topic == SAMPLES && hours > 0 {
        let horizon = scheduler.now().0 - i64::from(hours) * MICROS_PER_HOUR;
        while low < high {
            let middle = low + (high - low) / 2;
            let found = match scheduler.log.fetch(at, log, middle, 1, WAIT).await {
                // Nothing is left from there on: what follows it decides.
                Err(LogError::Truncated { low: after, .. }) if after < high => {
                    scheduler.log.fetch(at, log, after, 1, WAIT).await?
                }
                Err(LogError::Truncated { .. }) => Vec::new(),
                found => found?,
            };
            match found.first() {
                Some(record) if record.appended_at_micros < horizon => low = record.offset + 1,
                _ => high = middle,
            }
        }
    }
    Ok(Progress { next: low.min(marks.high), end_at_start: marks.high })
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
