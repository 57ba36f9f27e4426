//! Single attempts at the log: a topic prepared, or records appended to one partition.

use std::pin::Pin;
use std::sync::Arc;

use bytes::Bytes;
use nilometer_log::LogError;
use nilometer_producer::{Producer, Topic};

/// What came of an attempt.
#[derive(Debug)]
pub(crate) enum Outcome {
    /// The topic has so many partitions.
    Ready(Topic, Result<u32, LogError>),
    /// Records of a partition were appended.
    Sent(Topic, u32, Result<(), LogError>),
}

/// An attempt under way.
pub(crate) type Attempt = Pin<Box<dyn Future<Output = Outcome> + Send>>;

/// Makes sure that a topic is there.
pub(crate) fn prepare(producer: &Arc<Producer>, topic: Topic) -> Attempt {
    let producer = producer.clone();
    Box::pin(async move { Outcome::Ready(topic, producer.prepare(topic).await) })
}

/// Appends records to a partition.
pub(crate) fn send(
    producer: &Arc<Producer>,
    topic: Topic,
    partition: u32,
    payloads: Vec<Bytes>,
) -> Attempt {
    let producer = producer.clone();
    Box::pin(async move {
        let appended = producer.append_to(topic, partition, payloads).await;
        Outcome::Sent(topic, partition, appended)
    })
}
