//! One partition as it streams in from Kafka: a queue, and the place of the next record in it.
//!
//! All partitions share one consumer and so its connections; each has a queue of its own. The
//! consumer is assigned by hand, belongs to a group in name only, and never commits.

use nilometer_contract::Causes;
use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use rdkafka::{
    Message, Offset, TopicPartitionList,
    consumer::{BaseConsumer, Consumer, base_consumer::PartitionQueue},
    error::{KafkaError, KafkaResult},
    message::BorrowedMessage,
};
use tokio::sync::Notify;

use super::errors::Context;
use crate::{Incarnation, Record, TopicPartition};

/// Most records returned at once, however small.
const RECORDS_MAX: usize = 100_000;

/// The stream of one partition.
#[derive(Default)]
pub(super) struct Feed {
    queue: Option<PartitionQueue<Context>>,
    /// One past the last record returned; None if where the queue stands is not known.
    next: Option<u64>,
    /// Taken from the queue, not returned yet.
    held: Option<Record>,
    /// What was asked for last.
    incarnation: Option<Incarnation>,
    /// Woken when the queue has something.
    pub(super) filled: Arc<Notify>,
}

/// What lies in the queue.
pub(super) enum Drained {
    Records(Vec<Record>),
    Nothing,
    /// The next record in the queue is not the one asked for but this later one.
    Gap(u64),
    Failed(KafkaError),
}

impl Feed {
    /// The offset at which the next fetch can go on without a search.
    pub(super) fn position(&self) -> Option<u64> {
        self.next
    }

    /// What is asked for now. Says whether that is another one: then it begins anew, and nothing
    /// that was read ahead is kept.
    pub(super) fn set_incarnation(&mut self, of: Incarnation) -> bool {
        let changed = self.incarnation.replace(of) != Some(of);
        if changed {
            self.forget();
        }
        changed
    }

    /// Makes the next fetch look where the partition begins and ends.
    pub(super) fn forget(&mut self) {
        self.held = None;
        self.next = None;
    }

    /// Goes to an offset; waits up to `timeout` for the consumer to follow.
    pub(super) fn go_to(
        &mut self,
        consumer: &Arc<BaseConsumer<Context>>,
        at: &TopicPartition,
        offset: u64,
        timeout: Duration,
    ) -> KafkaResult<()> {
        self.forget();
        let partition = at.partition as i32;
        let place = Offset::Offset(offset as i64);
        if self.queue.is_some() {
            match consumer.seek(&at.topic, partition, place, timeout) {
                Ok(()) => {
                    self.next = Some(offset);
                    return Ok(());
                }
                // Stopped by an error: begin anew.
                Err(e) => {
                    tracing::debug!(?at, error = %Causes(&e), "kafka partition is assigned again")
                }
            }
            self.queue = None;
            let mut partitions = TopicPartitionList::new();
            partitions.add_partition(&at.topic, partition);
            consumer.incremental_unassign(&partitions)?;
        }
        // Split off before it is assigned, so that nothing goes to the common queue.
        let Some(mut queue) = consumer.split_partition_queue(&at.topic, partition) else {
            return Err(KafkaError::Subscription(format!("no queue for {at:?}")));
        };
        let filled = self.filled.clone();
        queue.set_nonempty_callback(move || filled.notify_one());
        let mut partitions = TopicPartitionList::new();
        partitions.add_partition_offset(&at.topic, partition, place)?;
        consumer.incremental_assign(&partitions)?;
        self.queue = Some(queue);
        self.next = Some(offset);
        Ok(())
    }

    /// Takes what is there, without waiting. `accept_gap` when it was made sure that nothing
    /// lies between: then the offsets jump.
    pub(super) fn drain(&mut self, max_bytes: usize, accept_gap: bool) -> Drained {
        let Some(mut next) = self.next else { return Drained::Nothing };
        let mut records: Vec<Record> = Vec::new();
        let mut bytes = 0_usize;
        while records.len() < RECORDS_MAX {
            let record = match self.held.take().map(Ok).or_else(|| self.poll()) {
                None => break,
                Some(Ok(record)) => record,
                Some(Err(e)) => {
                    self.forget();
                    if records.is_empty() {
                        return Drained::Failed(e);
                    }
                    break;
                }
            };
            if record.offset < next {
                continue;
            }
            if record.offset > next && !records.is_empty() {
                self.held = Some(record);
                break;
            }
            if record.offset > next && !accept_gap {
                self.forget();
                return Drained::Gap(record.offset);
            }
            bytes = bytes.saturating_add(record.payload.len());
            if bytes > max_bytes && !records.is_empty() {
                self.held = Some(record);
                break;
            }
            next = record.offset + 1;
            self.next = Some(next);
            records.push(record);
        }
        if records.is_empty() { Drained::Nothing } else { Drained::Records(records) }
    }

    fn poll(&self) -> Option<KafkaResult<Record>> {
        let polled = self.queue.as_ref()?.poll(Duration::ZERO)?;
        Some(polled.map(|message| record(&message)))
    }
}

fn record(message: &BorrowedMessage<'_>) -> Record {
    Record {
        offset: message.offset() as u64,
        appended_at_micros: message.timestamp().to_millis().unwrap_or(0).saturating_mul(1000),
        payload: Bytes::copy_from_slice(message.payload().unwrap_or_default()),
    }
}
