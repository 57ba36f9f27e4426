//! Takes in what sources see and brings it to the log; the one owner of all queues.
//!
//! Each turn of the loop waits for one of: an attempt that ended, the second of upkeep, room for
//! the next part of an observation, an observation, the time to try again. Every partition is sent,
//! acknowledged and tried again on its own. Partitions of events come before those of samples when
//! both could be sent, so that a resource is mostly known before it is sampled; nothing rests on it.
//!
//! Bounds: [`MAX_ATTEMPTS`] attempts at a time, of which those at failing partitions are at most
//! [`MAX_FAILING`]; one observation is taken in, part by part, while no other is accepted.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use futures::stream::FuturesUnordered;
use nilometer_clock::{Clock, EpochClock};
use nilometer_contract::Causes;
use nilometer_log::LogError;
use nilometer_producer::{Produced, Producer, Topic};
use nilometer_source::Observation;
use tokio::sync::{Mutex, mpsc};
use tokio::time::{Instant, MissedTickBehavior};

use crate::dead_letters::DeadLetters;
use crate::epochs::Epochs;
use crate::gaps::Gaps;
use crate::known::Known;
use crate::late::{Late, LateTopic};
use crate::metrics::Metrics;
use crate::queue::Queue;
use crate::retry::{LONGEST_BACKOFF, LONGEST_BACKOFF_ALONE, Outage, Retry};
use crate::send::{Attempt, Outcome, prepare, send};
use crate::status::Status;
use crate::watch::Event;

mod intake;
mod upkeep;

pub(crate) use intake::Intake;

const UPKEEP: Duration = Duration::from_secs(1);
/// Most attempts under way.
const MAX_ATTEMPTS: usize = 64;
/// Most of them at partitions of one topic that fail.
const MAX_FAILING: usize = 16;

/// The queues and what is known of the log.
pub(crate) struct Shipper {
    pub(crate) events: Queue,
    pub(crate) samples: Queue,
    pub(crate) gaps: Gaps,
    pub(crate) dead_letters: DeadLetters,
    pub(crate) known: Known,
    pub(crate) metrics: Metrics,
    pub(crate) status: Arc<Status>,
    pub(crate) producer: Arc<Producer>,
    pub(crate) interval: Duration,
    pub(crate) clock: Arc<EpochClock>,
    pub(crate) epochs: Arc<Mutex<Epochs>>,
    pub(crate) log: LogState,
    /// The observation that is being taken in.
    pub(crate) intake: Option<Intake>,
    /// Samples taken in, by second.
    pub(crate) rate: VecDeque<(Instant, u64)>,
    pub(crate) started: Instant,
}

/// The attempts, and what came of those before.
#[derive(Default)]
pub(crate) struct LogState {
    attempts: FuturesUnordered<Attempt>,
    /// As in [`Topic`].
    topics: [TopicState; 3],
    gaps_sending: bool,
    gaps_retry: Retry,
    /// The partitions at which the last turn stopped, as in [`Topic`].
    turn: [u32; 3],
    /// When records were appended last.
    worked_at: Option<Instant>,
    late: Late,
}

#[derive(Default)]
struct TopicState {
    /// Partitions of the topic, once they are known.
    partitions: Option<u32>,
    asking: bool,
    retry: Retry,
}

impl Shipper {
    /// Takes in and brings on until every sender of `seen` is gone; then, for at most `patience`,
    /// brings what is left, and keeps on disk what the log did not take.
    pub(crate) async fn run(
        mut self,
        mut seen: mpsc::Receiver<Event>,
        mut pushed: mpsc::Receiver<Observation>,
        patience: Duration,
    ) {
        let mut upkeep = tokio::time::interval(UPKEEP);
        upkeep.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut more_pushed = true;
        loop {
            self.launch();
            let takes = self.intake.is_none() && self.has_room();
            let feeds = self.intake.as_ref().is_some_and(|intake| self.has_room_for(intake));
            let retry_at = self.next_retry();
            tokio::select! {
                biased;
                Some(outcome) = self.log.attempts.next() => self.settle(outcome).await,
                _ = upkeep.tick() => self.keep_up().await,
                () = tokio::task::yield_now(), if feeds => self.feed().await,
                event = seen.recv(), if takes => match event {
                    Some(event) => self.take(event),
                    None => break,
                },
                observation = pushed.recv(), if takes && more_pushed => match observation {
                    Some(observation) => self.take_pushed(observation).await,
                    None => more_pushed = false,
                },
                () = tokio::time::sleep_until(retry_at.unwrap_or_else(Instant::now)),
                    if retry_at.is_some() => {}
            }
        }
        self.stop(pushed, patience).await;
    }

    async fn stop(&mut self, mut pushed: mpsc::Receiver<Observation>, patience: Duration) {
        let deadline = Instant::now() + patience;
        self.retry_all_soon();
        while Instant::now() < deadline {
            self.launch();
            match &self.intake {
                Some(intake) if self.has_room_for(intake) => self.feed().await,
                None if self.has_room()
                    && let Ok(observation) = pushed.try_recv() =>
                {
                    self.take_pushed(observation).await;
                }
                _ => match tokio::time::timeout_at(deadline, self.log.attempts.next()).await {
                    Ok(Some(outcome)) => self.settle(outcome).await,
                    Ok(None) | Err(_) => break,
                },
            }
        }
        self.log.attempts.clear();
        self.gaps.failed();
        self.events.stop();
        self.samples.stop();
        loop {
            if self.intake.is_some() {
                self.feed().await;
            } else if let Ok(observation) = pushed.try_recv() {
                self.take_pushed(observation).await;
            } else {
                break;
            }
        }
        self.events.spill_all();
        self.samples.spill_all();
        self.keep_up().await;
        if !self.events.is_empty() || !self.samples.is_empty() {
            let bytes = self.events.spooled_bytes() + self.samples.spooled_bytes();
            tracing::warn!(bytes, "stopped with unsent records in the spool");
        }
    }

    fn has_room(&self) -> bool {
        self.samples.has_room() && self.events.has_room()
    }

    fn queue(&mut self, topic: Topic) -> Option<&mut Queue> {
        match topic {
            Topic::Gaps => None,
            Topic::Events => Some(&mut self.events),
            Topic::Samples => Some(&mut self.samples),
        }
    }

    /// Begins all attempts that are due.
    fn launch(&mut self) {
        let now = Instant::now();
        for topic in [Topic::Gaps, Topic::Events, Topic::Samples] {
            let state = &mut self.log.topics[topic as usize];
            if state.partitions.is_none() {
                if !state.asking && state.retry.at <= now {
                    state.asking = true;
                    self.log.attempts.push(prepare(&self.producer, topic));
                }
                continue;
            }
            match topic {
                Topic::Gaps => self.launch_gaps(now),
                Topic::Events | Topic::Samples => self.launch_queue(topic, now),
            }
        }
    }

    fn launch_gaps(&mut self, now: Instant) {
        if self.log.gaps_sending || self.log.gaps_retry.at > now || self.gaps.is_empty() {
            return;
        }
        let Produced { records, refused } = self.producer.gaps(self.gaps.front());
        for refused in refused {
            tracing::error!(error = %Causes(&refused.why), "a gap cannot be reported");
        }
        let Some(partition) = records.first().map(|record| record.partition) else {
            self.gaps.failed();
            self.log.gaps_retry.at = now + LONGEST_BACKOFF_ALONE;
            return;
        };
        self.log.gaps_sending = true;
        let payloads = records.into_iter().map(|record| record.payload).collect();
        self.log.attempts.push(send(&self.producer, Topic::Gaps, partition, payloads));
    }

    fn launch_queue(&mut self, topic: Topic, now: Instant) {
        let turn = self.log.turn[topic as usize];
        let Some(queue) = self.queue(topic) else { return };
        let mut ready = queue.ready(now);
        let mut failing = queue.failing().filter(|(_, partition)| partition.is_sending()).count();
        let from = ready.partition_point(|(number, _)| *number <= turn);
        ready.rotate_left(from);
        for (number, fails) in ready {
            if self.log.attempts.len() >= MAX_ATTEMPTS {
                break;
            }
            if fails && failing >= MAX_FAILING {
                continue;
            }
            let Some(queue) = self.queue(topic) else { return };
            match queue.begin(number) {
                Ok(payloads) if payloads.is_empty() => {}
                Ok(payloads) => {
                    failing += usize::from(fails);
                    self.log.turn[topic as usize] = number;
                    self.log.attempts.push(send(&self.producer, topic, number, payloads));
                }
                Err(error) => {
                    queue.disk_failed(&error);
                    self.fails(topic, Some(number), &error);
                }
            }
        }
        self.record_losses(topic);
    }

    /// When something that waits may be tried again; nothing when nothing waits for that.
    fn next_retry(&self) -> Option<Instant> {
        let topics = self.log.topics.iter();
        let topics = topics.filter(|state| state.partitions.is_none() && !state.asking);
        let topics = topics.map(|state| state.retry.at);
        let gaps = !self.gaps.is_empty() && !self.log.gaps_sending;
        let gaps = gaps.then_some(self.log.gaps_retry.at);
        let is_ready = |topic: Topic| self.log.topics[topic as usize].partitions.is_some();
        let events = is_ready(Topic::Events).then(|| self.events.next_retry()).flatten();
        let samples = is_ready(Topic::Samples).then(|| self.samples.next_retry()).flatten();
        let now = Instant::now();
        // What is due and not begun waits for other attempts to end.
        topics.chain(gaps).chain(events).chain(samples).filter(|at| *at > now).min()
    }

    /// Takes note of what came of an attempt.
    async fn settle(&mut self, outcome: Outcome) {
        match outcome {
            Outcome::Ready(topic, Ok(partitions)) => {
                let state = &mut self.log.topics[topic as usize];
                (state.asking, state.partitions) = (false, Some(partitions));
                if let Some(queue) = self.queue(topic) {
                    queue.set_count(partitions);
                }
                self.works(topic, None);
            }
            Outcome::Ready(topic, Err(error)) => {
                self.log.topics[topic as usize].asking = false;
                if let Some(queue) = self.queue(topic) {
                    queue.set_unreachable();
                }
                self.fails(topic, None, &error);
            }
            Outcome::Sent(Topic::Gaps, partition, result) => {
                self.log.gaps_sending = false;
                match result {
                    Ok(()) => {
                        self.gaps.acknowledged();
                        self.works(Topic::Gaps, Some(partition));
                    }
                    Err(error) => {
                        self.gaps.failed();
                        self.fails(Topic::Gaps, Some(partition), &error);
                    }
                }
            }
            Outcome::Sent(topic, partition, result) => self.settle_sent(topic, partition, result),
        }
        self.bound(Topic::Events).await;
        self.bound(Topic::Samples).await;
        self.report_log();
    }

    fn settle_sent(&mut self, topic: Topic, partition: u32, result: Result<(), LogError>) {
        match result {
            Ok(()) => self.acknowledge(topic, partition),
            Err(LogError::Refused(why)) => {
                let refused = self.queue(topic).and_then(|queue| queue.refused(partition));
                if let Some(entry) = refused {
                    self.set_aside(topic, &entry, &why);
                    self.acknowledge(topic, partition);
                }
            }
            Err(error) => {
                self.fails(topic, Some(partition), &error);
                if let Some(queue) = self.queue(topic) {
                    queue.failed(partition);
                }
            }
        }
    }

    fn acknowledge(&mut self, topic: Topic, partition: u32) {
        let Some(queue) = self.queue(topic) else { return };
        let records = queue.acknowledged(partition) as u64;
        // Events are trimmed after what they tell is written elsewhere.
        if topic == Topic::Samples && queue.can_trim() {
            queue.trim();
        }
        let name = &self.producer.topics().of(topic).name;
        self.metrics.batches.with_label_values(&[name]).inc_by(records);
        self.works(topic, Some(partition));
    }

    fn retry_of(&mut self, topic: Topic, partition: Option<u32>) -> &mut Retry {
        match (topic, partition) {
            (_, None) => &mut self.log.topics[topic as usize].retry,
            (Topic::Gaps, _) => &mut self.log.gaps_retry,
            (Topic::Events, Some(partition)) => &mut self.events.partition(partition).retry,
            (Topic::Samples, Some(partition)) => &mut self.samples.partition(partition).retry,
        }
    }

    /// An attempt went well. After an outage the others that fail are tried at once.
    fn works(&mut self, topic: Topic, partition: Option<u32>) {
        self.log.worked_at = Some(Instant::now());
        let Some(outage) = self.retry_of(topic, partition).worked() else { return };
        self.retry_all_soon();
        let Outage { began, since, why } = outage;
        // What waited for the log longer than for the next observation came late.
        if began.elapsed() > self.interval && topic != Topic::Gaps {
            let now = self.clock.now();
            let (start, end) = (since.min(now), since.max(now));
            self.log.late.add(LateTopic { topic, partition, start, end, why });
        }
    }

    fn retry_all_soon(&mut self) {
        let LogState { topics, gaps_retry, .. } = &mut self.log;
        let topics = topics.iter_mut().map(|state| &mut state.retry).chain([gaps_retry]);
        let queues = self.events.partitions().chain(self.samples.partitions());
        let all = topics.chain(queues.map(|partition| &mut partition.retry));
        all.filter(|retry| retry.fails()).for_each(Retry::soon);
    }

    /// An attempt failed.
    fn fails(
        &mut self,
        topic: Topic,
        partition: Option<u32>,
        error: &(dyn std::error::Error + 'static),
    ) {
        self.metrics.append_errors.inc();
        let (now, alone) = (self.clock.now(), self.failing() == 0);
        let worked = self.log.worked_at.is_some_and(|at| at.elapsed() < LONGEST_BACKOFF_ALONE);
        let longest = if worked { LONGEST_BACKOFF_ALONE } else { LONGEST_BACKOFF };
        let first = self.retry_of(topic, partition).failed(now, &error.to_string(), longest);
        let (topic, cause) = (&self.producer.topics().of(topic).name, error.source());
        if first && alone {
            tracing::warn!(
                error,
                cause,
                topic,
                partition,
                "the log fails, records go to the spool"
            );
        } else {
            tracing::debug!(error, cause, topic, partition, "the log fails");
        }
    }

    /// How many partitions and topics fail.
    fn failing(&self) -> usize {
        let topics = self.log.topics.iter().filter(|state| state.retry.fails()).count();
        let queues = self.events.failing().count() + self.samples.failing().count();
        topics + queues + usize::from(self.log.gaps_retry.fails())
    }
}
