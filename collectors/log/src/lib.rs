//! The log between agents and ingesters.
//!
//! One small interface with two implementations under one conformance suite: Apache Kafka, and an
//! embedded log on local disk for one machine. A record has an offset, one more than the record
//! before it in its partition; offsets are never reused within one [`Incarnation`] of the log.

mod embedded;
mod incarnation;
mod kafka;
mod reader;

pub use self::{
    embedded::{EmbeddedConfig, EmbeddedLog, Fsync},
    incarnation::Incarnation,
    kafka::{KafkaConfig, KafkaLog, Sasl, Secret, Security, Tls},
    reader::{LogId, Mark, ReadEvent, ReadPosition, Reader, first_since},
};

use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;

/// One partition of a topic.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TopicPartition {
    /// Topic.
    pub topic: String,
    /// Number of the partition, from 0.
    pub partition: u32,
}

/// A record as stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// Place in its partition.
    pub offset: u64,
    /// When it was appended, microseconds since the epoch, by the log's clock.
    pub appended_at_micros: i64,
    /// What was appended.
    pub payload: Bytes,
}

/// First offset still kept, and the offset that the next record will get.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Watermarks {
    /// First offset still kept.
    pub low: u64,
    /// One past the last record.
    pub high: u64,
}

/// A durable, ordered, partitioned log.
#[async_trait]
pub trait Log: Send + Sync {
    /// Creates the topic where it is missing; returns how many partitions it has.
    ///
    /// A topic that vanishes later is created again, as it was asked for here, by the next append
    /// to it; until then it is [`LogError::Unavailable`].
    async fn ensure_topic(&self, topic: &TopicConfig) -> Result<u32, LogError>;

    /// Which log the partition is now. The answer may be a second old; [`fetch`](Self::fetch) is
    /// exact.
    async fn incarnation(&self, of: &TopicPartition) -> Result<Incarnation, LogError>;

    /// Appends records in order; they are durable when this returns the offset of the first.
    ///
    /// On an error none, some or all may have been appended: the caller sends again, and what
    /// that doubles is dropped downstream by identity.
    async fn append(&self, to: &TopicPartition, payloads: Vec<Bytes>) -> Result<u64, LogError>;

    /// Reads on from an offset: at least one record if there is any, then up to `max_bytes`;
    /// waits up to `wait` for the first and returns nothing when none came.
    ///
    /// An offset below the low watermark is [`LogError::Truncated`], one above the high watermark
    /// [`LogError::BeyondEnd`]. A partition that is not `of` this incarnation is
    /// [`LogError::Replaced`], whatever its offsets: no record of another one is ever returned.
    async fn fetch(
        &self,
        from: &TopicPartition,
        of: Incarnation,
        offset: u64,
        max_bytes: usize,
        wait: Duration,
    ) -> Result<Vec<Record>, LogError>;

    /// What the partition holds.
    async fn watermarks(&self, of: &TopicPartition) -> Result<Watermarks, LogError>;

    /// Forgets records below an offset; a hint, which may keep some.
    async fn truncate(&self, of: &TopicPartition, below: u64) -> Result<(), LogError>;
}

/// What a topic should be like when it is created.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TopicConfig {
    /// Name.
    pub name: String,
    /// Number of partitions.
    pub partitions: u32,
    /// How long records are kept at least.
    pub retention: Duration,
}

/// Why the log did not do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// The records asked for are gone.
    #[error("offset {asked} of {at:?} is truncated, the first kept is {low}")]
    Truncated {
        /// Where.
        at: TopicPartition,
        /// The offset asked for.
        asked: u64,
        /// The first offset kept.
        low: u64,
    },
    /// The partition is another log than the one asked for: it was deleted and made anew.
    #[error("{at:?} is log {found}, not {asked}")]
    Replaced {
        /// Where.
        at: TopicPartition,
        /// The incarnation asked for.
        asked: Incarnation,
        /// The one that is there.
        found: Incarnation,
    },
    /// The log lost records from its end: the offset lies past it, or the records before the
    /// offset are not those that were there (Kafka: another leader's, KIP-320).
    #[error("offset {asked} of {at:?} does not follow what the log holds, which ends at {high}")]
    BeyondEnd {
        /// Where.
        at: TopicPartition,
        /// The offset asked for.
        asked: u64,
        /// One past the last record.
        high: u64,
    },
    /// The log cannot be reached or written now; trying again may help.
    #[error("log unavailable: {what}")]
    Unavailable {
        /// What failed.
        what: String,
        /// The cause.
        #[source]
        cause: Option<Box<dyn std::error::Error + Send + Sync>>,
    },
    /// The log takes no such record, now or later: it is too long, or the broker refuses it.
    /// Of several records appended at once any may be meant. Other records are taken.
    #[error("{0}")]
    Refused(String),
    /// What was asked cannot work as things are set up: no such partition, wrong credentials.
    #[error("{0}")]
    Invalid(String),
}
