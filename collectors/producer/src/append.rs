//! The producer, and its appends.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt;
use nilometer_contract::{BatchBuilder, Gap, LifecycleEvent, Timestamp, partition_of};
use nilometer_log::{Log, LogError, TopicPartition};
use nilometer_source::Observation;

use crate::record::{Produced, ProducerRecord, Refusal, Topic, Topics};
use crate::samples::of_samples;

/// How long one attempt at the log may take.
const TIMEOUT: Duration = Duration::from_secs(30);
/// Most partitions appended to at once.
const MAX_APPENDS: usize = 16;

/// Turns observations into records and appends them.
pub struct Producer {
    log: Arc<dyn Log>,
    topics: Topics,
    /// As configured until the log answered; as in [`Topic`].
    partitions: [AtomicU32; 3],
    timeout: Duration,
}

/// Records that may not be in the log.
#[derive(Debug, thiserror::Error)]
#[error("{} records could not be appended to the log", left.len())]
pub struct Unappended {
    /// The records that were not acknowledged, in order; to be appended again.
    pub left: Vec<ProducerRecord>,
    /// What failed; of several partitions, one.
    #[source]
    pub cause: LogError,
}

impl Producer {
    /// For topics that may be missing yet.
    pub fn new(log: Arc<dyn Log>, topics: Topics) -> Producer {
        let partitions = Topic::ALL.map(|topic| AtomicU32::new(topics.of(topic).partitions));
        Producer { log, topics, partitions, timeout: TIMEOUT }
    }

    /// For topics that are there now.
    ///
    /// # Errors
    ///
    /// As [`prepare`](Self::prepare).
    pub async fn open(log: Arc<dyn Log>, topics: Topics) -> Result<Producer, LogError> {
        let producer = Producer::new(log, topics);
        for topic in Topic::ALL {
            producer.prepare(topic).await?;
        }
        Ok(producer)
    }

    /// With another bound on the time of one attempt at the log; past it the log counts as
    /// unavailable.
    #[must_use]
    pub fn with_timeout(self, timeout: Duration) -> Producer {
        Producer { timeout, ..self }
    }

    /// The topics.
    pub fn topics(&self) -> &Topics {
        &self.topics
    }

    /// Makes sure that a topic is there; returns how many partitions it has.
    ///
    /// # Errors
    ///
    /// As [`Log::ensure_topic`]; [`LogError::Unavailable`] past the timeout.
    pub async fn prepare(&self, topic: Topic) -> Result<u32, LogError> {
        let config = self.topics.of(topic);
        let partitions = self.in_time(self.log.ensure_topic(config)).await?;
        if partitions == 0 {
            let what = format!("topic {} has no partitions; create it anew", config.name);
            return Err(LogError::Invalid(what));
        }
        if partitions != config.partitions {
            let (there, configured) = (partitions, config.partitions);
            tracing::warn!(config.name, there, configured, "the topic has other partitions");
        }
        self.partitions[topic as usize].store(partitions, Relaxed);
        Ok(partitions)
    }

    /// Records of an observation: its events, then its samples, in its epoch.
    pub fn produce(&self, observation: Observation) -> Produced {
        let Observation { epoch, samples, events } = observation;
        self.events(&events).and(self.samples(samples.in_epoch(epoch)))
    }

    /// Events as records, each in the partition of its resource.
    pub fn events(&self, events: &[LifecycleEvent]) -> Produced {
        let (mut produced, mut source) = (Produced::default(), Arc::from(""));
        for event in events {
            let start = event.at;
            let resource = &event.resource.id;
            let end = start.plus_micros(1);
            let record =
                self.record(Topic::Events, resource, (start, end), &event.source, &mut source);
            let encoded = event.encode();
            let refusal = |cause| Refusal::Event { resource: resource.clone(), cause };
            produced.add(record, encoded.map_err(refusal));
        }
        produced
    }

    /// Gaps as records, each in the partition of its node.
    pub fn gaps(&self, gaps: &[Gap]) -> Produced {
        let (mut produced, mut source) = (Produced::default(), Arc::from(""));
        for gap in gaps {
            let record =
                self.record(Topic::Gaps, &gap.node, (gap.start, gap.end), &gap.agent, &mut source);
            produced.add(record, gap.encode().map_err(Refusal::Gap));
        }
        produced
    }

    /// Samples as records, each in the partition of its resources. Takes a while for many.
    pub fn samples(&self, samples: BatchBuilder) -> Produced {
        of_samples(samples, self.partitions(Topic::Samples))
    }

    fn partitions(&self, topic: Topic) -> u32 {
        self.partitions[topic as usize].load(Relaxed)
    }

    /// A record without payload; names of sources in a row are shared.
    fn record(
        &self,
        topic: Topic,
        key: &str,
        (start, end): (Timestamp, Timestamp),
        by: &str,
        source: &mut Arc<str>,
    ) -> ProducerRecord {
        if **source != *by {
            *source = by.into();
        }
        let (partition, payload) = (partition_of(key, self.partitions(topic)), Bytes::new());
        ProducerRecord { topic, partition, samples: 0, start, end, source: source.clone(), payload }
    }

    /// Appends records; all of them are in the log, durable, when this returns well. Those of a
    /// partition stay in order, and no topic is begun before the one before it is done.
    ///
    /// # Errors
    ///
    /// The records that may not be in the log, which can be appended again.
    pub async fn append(&self, records: Vec<ProducerRecord>) -> Result<(), Unappended> {
        let mut topics: BTreeMap<Topic, BTreeMap<u32, Vec<ProducerRecord>>> = BTreeMap::new();
        for record in records {
            let partitions = topics.entry(record.topic).or_default();
            partitions.entry(record.partition).or_default().push(record);
        }
        let (mut left, mut failed) = (Vec::new(), None);
        for (topic, partitions) in topics {
            if failed.is_some() {
                left.extend(partitions.into_values().flatten());
                continue;
            }
            let appends = partitions.into_iter().map(|(partition, records)| async move {
                let payloads = records.iter().map(|record| record.payload.clone()).collect();
                (self.append_to(topic, partition, payloads).await, records)
            });
            let mut appends = futures::stream::iter(appends).buffer_unordered(MAX_APPENDS);
            while let Some((appended, records)) = appends.next().await {
                if let Err(cause) = appended {
                    left.extend(records);
                    failed = Some(cause);
                }
            }
        }
        failed.map_or(Ok(()), |cause| Err(Unappended { left, cause }))
    }

    /// Appends payloads to one partition, in one attempt.
    ///
    /// # Errors
    ///
    /// As [`Log::append`]; [`LogError::Unavailable`] past the timeout.
    pub async fn append_to(
        &self,
        topic: Topic,
        partition: u32,
        payloads: Vec<Bytes>,
    ) -> Result<(), LogError> {
        let to = TopicPartition { topic: self.topics.of(topic).name.clone(), partition };
        self.in_time(self.log.append(&to, payloads)).await.map(drop)
    }

    async fn in_time<T>(
        &self,
        work: impl Future<Output = Result<T, LogError>>,
    ) -> Result<T, LogError> {
        match tokio::time::timeout(self.timeout, work).await {
            Ok(result) => result,
            Err(elapsed) => Err(LogError::Unavailable {
                what: format!("no answer within {:?}", self.timeout),
                cause: Some(elapsed.into()),
            }),
        }
    }
}

#[cfg(test)]
mod tests;
