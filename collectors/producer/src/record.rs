//! Records on their way to the log.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use nilometer_contract::{EVENTS, EventError, GAPS, GapError, SAMPLES, Timestamp, WireError};
use nilometer_log::TopicConfig;

/// What a topic is for. In the order in which topics are appended to, so that a resource is mostly
/// known before it is sampled; nothing rests on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Topic {
    /// What is known to be missing.
    Gaps,
    /// Lifecycle events.
    Events,
    /// Batches of samples.
    Samples,
}

impl Topic {
    /// All of them, in order.
    pub const ALL: [Topic; 3] = [Topic::Gaps, Topic::Events, Topic::Samples];
}

/// The topics as they are created where they are missing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Topics {
    /// Of gaps.
    pub gaps: TopicConfig,
    /// Of lifecycle events.
    pub events: TopicConfig,
    /// Of samples.
    pub samples: TopicConfig,
}

impl Topics {
    /// With so many partitions for samples and events each.
    pub fn new(partitions: u32, retention: Duration) -> Topics {
        let topic = |name: &str, partitions| {
            let name = name.to_owned();
            TopicConfig { name, partitions, retention }
        };
        Topics {
            gaps: topic(GAPS, 1),
            events: topic(EVENTS, partitions),
            samples: topic(SAMPLES, partitions),
        }
    }

    /// The topic for something.
    pub fn of(&self, topic: Topic) -> &TopicConfig {
        match topic {
            Topic::Gaps => &self.gaps,
            Topic::Events => &self.events,
            Topic::Samples => &self.samples,
        }
    }
}

/// A record for the log, with what a gap would say of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProducerRecord {
    /// The topic.
    pub topic: Topic,
    /// The partition of the topic.
    pub partition: u32,
    /// How many samples it has.
    pub samples: u32,
    /// Instant of the earliest sample, event or missing instant in it.
    pub start: Timestamp,
    /// First instant past the latest.
    pub end: Timestamp,
    /// The source that observed it.
    pub source: Arc<str>,
    /// What the log is given.
    pub payload: Bytes,
}

/// Records, and what could not become one.
#[derive(Debug, Default)]
pub struct Produced {
    /// The records, those of a partition in order.
    pub records: Vec<ProducerRecord>,
    /// What breaks a bound of the contract.
    pub refused: Vec<Refused>,
}

impl Produced {
    /// The records, if nothing was refused.
    ///
    /// # Errors
    ///
    /// Why the first was refused that was.
    pub fn whole(self) -> Result<Vec<ProducerRecord>, Refusal> {
        match self.refused.into_iter().next() {
            None => Ok(self.records),
            Some(refused) => Err(refused.why),
        }
    }

    /// These after those.
    #[must_use]
    pub fn and(mut self, other: Produced) -> Produced {
        self.records.extend(other.records);
        self.refused.extend(other.refused);
        self
    }

    pub(crate) fn add(&mut self, record: ProducerRecord, encoded: Result<Vec<u8>, Refusal>) {
        match encoded {
            Ok(payload) => {
                self.records.push(ProducerRecord { payload: payload.into(), ..record });
            }
            Err(why) => self.refused.push(Refused { record, why }),
        }
    }
}

/// What became no record.
#[derive(Debug)]
pub struct Refused {
    /// What it would have been, without payload.
    pub record: ProducerRecord,
    /// Why not.
    pub why: Refusal,
}

/// Which bound of the contract was broken.
#[derive(Debug, thiserror::Error)]
pub enum Refusal {
    /// By a lifecycle event.
    #[error("an event of resource {resource:?} breaks a bound of the contract")]
    Event {
        /// The resource.
        resource: String,
        /// The bound.
        #[source]
        cause: EventError,
    },
    /// By samples, or by the resources and meters that they name.
    #[error("samples break a bound of the contract")]
    Samples(#[source] WireError),
    /// By a gap.
    #[error("a gap breaks a bound of the contract")]
    Gap(#[source] GapError),
}
